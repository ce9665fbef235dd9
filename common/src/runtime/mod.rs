//! Runs one OCI runtime spec.

pub mod capability;
pub mod seccomp;
