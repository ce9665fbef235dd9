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

use crate::options::Options;

/// The status of what cannot be checked: contract 3.
const TROUBLE: u8 = 2;

fn main() -> ExitCode {
    cli::main(|options: Options| match options {
        options if options.parse => examine::parse(&options).map(|()| ExitCode::SUCCESS),
        options if options.check => examine::check(&options).or_else(|err| {
            cli::report(&err);
            Ok(TROUBLE.into())
        }),
        options => produce::produce(&options).map(|()| ExitCode::SUCCESS),
    })
}
