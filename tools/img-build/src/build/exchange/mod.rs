//! Results of steps that others have: `--cache-from` and `--cache-to`.
//!
//! ```text
//! place      where they are, as buildx writes it         artifact   how they are written down
//! import     a step's result from there, if it has one   export     this build's results to there
//! ```
//!
//! What is there says of a key which layer it gave, and nothing says whether that
//! is so: whoever can write there decides what steps give. So nobody is asked but
//! who is named, and only for a step that is not here and is not to be done anew.
//! A layer is used when it is a layer, and the one that is promised: from then on
//! it is a result like those of this host. The config is never taken from there.

mod artifact;
pub mod export;
pub mod import;
pub mod place;

use common::digest::Digest;

use super::cache::Layer;

/// A step that was done, or whose result was there.
#[derive(Clone, Debug, PartialEq)]
pub struct Done {
    /// Its key.
    pub key: Digest,
    /// What it gave.
    pub layer: Layer,
}
