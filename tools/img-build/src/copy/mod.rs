//! COPY and ADD: which files, where to, whose, as a layer.
//!
//! ```text
//! Selection::of   sources ──> files, and their contents' digest: the step's key    walk select contents
//! place           files ──> paths in the image, where it has its links             place owner
//! pack            paths ──> the entries of a layer, in order                       pack archive
//! ```
//!
//! The rules are BuildKit's. A source that is named is followed if it is a link,
//! inside its tree; a link in a directory that is copied stays one. What is in a
//! directory is copied, not the directory, and the destination is made with mode
//! 0755 if it is not there. A directory may be merged with one that is there, and
//! gets the mode and the owner of its source; a file takes the place of anything
//! but a directory.
//!
//! Trees are a stranger's, and may change while they are read. Every name is
//! opened beneath the tree's root and no link is followed by the kernel, so that
//! nothing outside is ever read; what is packed is what was hashed, or an error.

mod archive;
mod contents;
mod directory;
mod owner;
mod pack;
mod place;
mod select;
mod walk;

use std::fs::File;

use anyhow::Result;
use common::digest::Digest;

use crate::source::Tree;

pub use self::directory::make_directory;
pub use self::select::Selection;

/// Where a source of COPY or ADD is.
pub enum SourceOf<'a> {
    /// Files in a tree that others may change.
    Path {
        /// The tree.
        tree: &'a Tree,
        /// The source as the instruction has it: a path or a pattern; `/` is all.
        pattern: String,
    },
    /// A file or a directory in a tree that others may change: what is mounted.
    Named {
        /// The tree.
        tree: &'a Tree,
        /// Its path, of which no character is a pattern's; `/` is all.
        path: String,
    },
    /// Files in a tree that nobody changes. It is not asked for before something of it is packed.
    Kept {
        /// Returns the tree.
        tree: Box<dyn Fn() -> Result<&'a Tree> + 'a>,
        /// As above.
        pattern: String,
        /// Whether files keep their owners: those of a stage or an image do, those of a context are root's.
        keep_owner: bool,
        /// What stands for all that is in the tree.
        identity: Digest,
    },
    /// What is in the Dockerfile.
    Content {
        /// The file's name.
        name: String,
        /// What is in it.
        text: String,
    },
    /// A file that was fetched.
    Fetched {
        /// The file, which nobody changes.
        file: File,
        /// Its name, if the destination is a directory.
        name: String,
        /// Its permissions: 0600 of what HTTP has.
        mode: u32,
        /// When it was modified, if its server said so.
        mtime: i64,
    },
}

#[cfg(test)]
mod tests;
