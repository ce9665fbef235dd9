//! What is fuzzed, as functions of bytes. Each panics if what it tries does not hold.
//!
//! ```text
//! cargo +nightly fuzz run <name>     fuzz_targets/<name>.rs     looks for inputs that make one panic
//! cargo test -p targets              tests/kept.rs              runs those that were kept
//! ```
//!
//! Parsers that are a tool's own are compiled in here as modules.

mod archive;
mod blob;
mod dockerfile;
mod documents;
#[allow(dead_code)] // what only unpacking uses
mod headers;
mod input;
mod layer;
mod layout;
mod seccomp;
mod text;

#[path = "../../../common/src/registry/challenge.rs"]
mod challenge;
#[allow(dead_code)] // what only the tool uses
#[path = "../../../tools/img-import/src/change.rs"]
mod change;
#[allow(dead_code)]
#[path = "../../../tools/ctr-spawn/src/env.rs"]
mod env;
#[allow(dead_code)]
#[path = "../../../tools/ctr-spawn/src/mount.rs"]
mod mount;
#[allow(dead_code)]
#[path = "../../../tools/ctr-spawn/src/options.rs"]
mod options;

// The modules above look for these in their own crate.
use common::digest;

pub use archive::archive;
pub use blob::blob;
pub use dockerfile::dockerfile;
pub use documents::{documents, runtime_spec as spec};
pub use headers::headers;
pub use layer::layer;
pub use layout::layout;
pub use seccomp::seccomp;
pub use text::text;

/// A target's name, and what it is.
pub type Target = (&'static str, fn(&[u8]));

/// All targets.
pub const TARGETS: &[Target] = &[
    ("archive", archive),
    ("blob", blob),
    ("dockerfile", dockerfile),
    ("documents", documents),
    ("headers", headers),
    ("layer", layer),
    ("layout", layout),
    ("seccomp", seccomp),
    ("spec", spec),
    ("text", text),
];
