//! What img-build is made of, for its tests and for fuzzing: a program is linked from it, and no other tool.
//!
//! ```text
//! dockerfile  the language: text to instructions and stages
//! check       what is legal and unwise
//! ignore      .dockerignore           glob   patterns of COPY's sources
//! json        a Dockerfile as JSON    error  where, what, and what instead
//! ```

pub mod check;
pub mod dockerfile;
pub mod error;
pub mod glob;
pub mod ignore;
pub mod json;
mod path;
