//! The programs, tested from outside, in a shell, as a user has them: one module each.

mod harness;
mod house;
mod img_tag;
mod man;
