//! img-serve: a layout as a registry, asked in plain HTTP.
//!
//! What must be answered to what is in tables: a request, a status, and the code of the error.
//! Distribution-spec 1.1, by its four workflows: pull, push, content discovery, content management.

mod attacks;
mod auth;
mod ends;
mod names;
mod pulling;
mod pushing;
pub mod server;
mod sessions;
