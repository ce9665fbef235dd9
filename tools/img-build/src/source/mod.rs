//! Where files come from: the context, a stage, an image, a URL, a repository. All of them are trees of files.
//!
//! ```text
//! context   the directory, the tar or the repository that the build is given
//! http      what ADD fetches                 git   repositories, by git(1)
//! ```

use std::any::Any;
use std::os::fd::OwnedFd;

use crate::ignore::Ignore;

/// A tree of files that COPY, ADD and mounts take from. Nothing that is asked of it leads out of it.
pub struct Tree {
    /// Its top directory.
    pub root: OwnedFd,
    /// What it is called in messages: `context`, a stage's name, an image's.
    pub name: String,
    /// What is not in it, though it is there.
    pub ignore: Option<Ignore>,
    /// Whether its files may be changed by others while we read them, so that what is known of
    /// one is known by its times only; else it is ours, and nobody changes it.
    pub foreign: bool,
    /// What stays as long as the tree does: a temporary directory, a snapshot.
    pub keep: Box<dyn Any + Send + Sync>,
}
