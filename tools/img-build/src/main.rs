//! Builds an image from a Dockerfile.
//!
//! ```text
//! options   the command line
//! examine   --parse and --check: what is in a Dockerfile, and what is unwise in it
//! produce   from options to an image, and to where it goes
//! ```

mod examine;
mod options;
mod produce;

use std::process::ExitCode;

use common::cli;
use common::error::{Usage, find};
use common::sys;

use crate::options::Options;

/// The status of an error, and of what is unwise.
const FAILED: u8 = 1;
/// The status of a command line that is wrong, and of what cannot be checked: contract 3.
const TROUBLE: u8 = 2;

fn main() -> ExitCode {
    sys::reset_sigpipe();
    let done = cli::parse::<Options>().and_then(|options| match options {
        Some(options) if options.parse => examine::parse(&options).map(|()| 0),
        Some(options) if options.check => examine::check(&options).or_else(|err| {
            cli::report(&err);
            Ok(TROUBLE)
        }),
        Some(options) => produce::produce(&options).map(|()| 0),
        None => Ok(0),
    });
    match done {
        Ok(status) => ExitCode::from(status),
        Err(err) => {
            cli::wait_for_signal();
            cli::report(&err);
            ExitCode::from(if find::<Usage>(&err).is_some() { TROUBLE } else { FAILED })
        }
    }
}
