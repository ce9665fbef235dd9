//! What img-build is made of, for its tests and for fuzzing: a program is linked from it, and no other tool.
//!
//! ```text
//! build       stages and steps, by their keys: what goes into the image
//! copy  run   what COPY, ADD and RUN do       source   where files come from
//! dockerfile  the language: text to instructions and stages
//! check       what is legal and unwise
//! ignore      .dockerignore           glob   patterns of COPY's sources
//! json        a Dockerfile as JSON    error  where, what, and what instead
//! output      what is made of the result besides an image
//! ```

pub mod build;
pub mod check;
pub mod copy;
pub mod dockerfile;
pub mod error;
pub mod glob;
pub mod ignore;
pub mod json;
pub mod output;
pub mod run;
pub mod source;
