//! What the tools share, in floors. A module imports only from floors below its own.
//!
//! ```text
//! cli                        operands, result lines, progress, exit status: what all mains share
//! container  registry        a container's directory · the distribution API
//! runtime                    runs one OCI runtime spec
//! store  snapshot            where things are on this host · unpacked layers and their overlay
//! layout  archive  layer     OCI layout · layout <-> tar stream · layer tar <-> directory
//! image digest reference platform    plain values: parse, print, compare; no I/O
//! error  sys                 what an error is about and the way out · the only file with unsafe
//! ```

pub mod bundle;
pub mod cli;
pub mod digest;
pub mod error;
pub mod image;
pub mod layout;
pub mod passwd;
pub mod platform;
pub mod reference;
pub mod runtime;
pub mod store;
pub mod sys;
pub mod userns;
