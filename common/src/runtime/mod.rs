//! Runs one OCI runtime spec.
//!
//! ```text
//! Spec + Rootfs ──plan──> Plan, a list of operations ──start──> Running
//! ```
//!
//! [`plan`] is plain data from plain data: it can be printed, compared and
//! tested without privilege. [`start`] makes the namespaces in one clone, and the
//! child does the operations in one loop. It is the container's first process
//! from the start, so whoever called [`start`] is its parent and sees its exact status.

mod beneath;
pub mod capability;
mod child;
mod last;
mod mount;
mod op;
mod overlay;
mod plan;
mod process;
pub mod seccomp;
mod terminal;

use std::path::PathBuf;

pub use mount::CgroupView;
pub use op::{Bind, Filesystem, Kind, Limit, Node, Op, Part};
pub use plan::{Mappings, Plan, Surrounding, plan};
pub use process::{CannotRun, Ended, Io, Running, start};

/// What a container's root directory is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rootfs {
    /// A directory, and what is mounted in it.
    Dir(PathBuf),
    /// Unpacked layers below a directory that takes the changes.
    Overlay {
        /// The layers, the topmost first.
        lowers: Vec<PathBuf>,
        /// What changes.
        upper: PathBuf,
        /// A directory of the kernel's, on the same filesystem.
        work: PathBuf,
        /// The changes need not survive a crash.
        volatile: bool,
        /// Whiteouts and opaque marks are user.overlay.* attributes, as a user namespace must have them.
        userxattr: bool,
    },
}
