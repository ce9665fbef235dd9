//! Runs a process in an image, a bundle or a rootfs.
//!
//! It is the container's parent and supervisor: what the process writes goes
//! to our stdout and stderr, which are its own, and its exit status is ours.

mod apply;
mod env;
mod mount;
mod options;
mod pull;
mod run;
mod supervise;
mod terminal;

use std::process::ExitCode;

use clap::Parser;
use common::runtime::{self, CannotRun};
use common::{cli, error, sys};

use options::Options;

/// The exit status of whatever goes wrong before the command runs.
const FAILED: u8 = 125;

/// Run a process in an image, a bundle or a rootfs.
#[derive(Parser)]
#[command(version, disable_help_flag = true)]
struct Args {
    #[command(flatten)]
    options: Options,
}

fn main() -> ExitCode {
    if let Some(status) = runtime::init() {
        return ExitCode::from(status);
    }
    sys::reset_sigpipe();
    let done = cli::parse::<Args>().and_then(|args| match args {
        Some(args) => run::run(&args.options),
        None => Ok(0),
    });
    match done {
        Ok(status) => ExitCode::from(status),
        Err(err) => {
            cli::report(&err);
            ExitCode::from(error::find::<CannotRun>(&err).map_or(FAILED, CannotRun::status))
        }
    }
}
