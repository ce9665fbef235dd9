//! COPY and ADD: which files, where to, whose, as a layer.
//!
//! ```text
//! Selection::of   sources ──> files and their contents' digest: the step's key    select walk
//! place           files ──> entries of a layer, where the image has its links     place
//! pack            entries ──> the layer
//! ```
