//! Runs one OCI runtime spec.
//!
//! ```text
//! Spec + Root ──plan──> Plan, a list of operations ──start──> Running
//! ```
//!
//! [`plan`] is plain data from plain data: it can be printed, compared and
//! tested without privilege. [`start`] makes the namespaces in one clone, and the
//! child does the operations in one loop. It is the container's first process
//! from the start, so whoever called [`start`] is its parent and sees its exact status.

mod beneath;
pub mod capability;
pub mod cgroup;
mod child;
mod init;
mod last;
mod mount;
mod network;
mod op;
mod plan;
mod process;
pub mod seccomp;
mod stubs;
mod terminal;

pub use beneath::Shape;
pub use init::init;
pub use mount::CgroupView;
pub use network::Ahead;
pub use op::{Bind, Filesystem, Kind, Limit, Node, Op, Part};
pub use plan::{Mappings, Plan, Surrounding, plan};
pub use process::{CannotRun, Ended, Io, Running, start};
pub use stubs::Stubs;
