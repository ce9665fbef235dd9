//! Runs one OCI runtime spec.

pub mod capability;
