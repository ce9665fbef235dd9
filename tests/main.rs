//! The programs, tested from outside, in a shell, as a user has them: one module each.

mod bench;
mod completions;
mod confine;
mod ctr_spawn;
mod ctr_spawn_options;
mod escapes;
mod exit_status;
mod faults;
mod harness;
mod hostile;
mod house;
mod img_build;
mod img_import;
mod img_ls;
mod img_pull;
mod img_tag;
mod img_unpack;
mod man;
mod peers;
mod pipelines;
mod registry_faults;
mod stdout;
mod vm;
