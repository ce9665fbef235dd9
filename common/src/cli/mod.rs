//! What all mains share: operands, result lines, errors and exit status.
//!
//! Below this floor nothing prints or exits, and nothing reads arguments but
//! [`crate::runtime::init`], which a program of ours has started. Results go to
//! stdout, all else to stderr; an error is one line and perhaps a hint.

mod csv;
mod dir;
mod duration;
mod interrupt;
pub mod list;
mod moment;
mod operand;
mod operands;
mod output;
pub mod password;
pub mod progress;
mod pull;
#[cfg(feature = "registry")]
pub mod registry;
mod size;

use std::error::Error as StdError;
use std::fmt::{self, Display};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Termination};

use anyhow::{Context, Error, Result};
use clap::Parser;
use clap::error::ErrorKind;

use crate::error::{self, Hint, Usage, visible};
use crate::store::Store;
use crate::sys;

pub use csv::{boolean, csv};
pub use dir::{Dir, is_path};
pub use duration::duration;
pub use interrupt::{die_of, hold_signals, on_interrupt, temporary};
pub use moment::moment;
pub use operand::{Entry, Found, NoSuchImage, Operand};
pub use operands::Operands;
pub use output::Output;
pub use pull::{program, pull};
pub use size::size;

/// The status of an error.
const FAILED: u8 = 1;
/// The status of a command line that is wrong.
const USAGE: u8 = 2;

/// Some operand failed, and has been reported: all that is left is the status.
#[derive(Debug)]
pub struct Reported;

impl Display for Reported {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("failed")
    }
}

impl StdError for Reported {}

/// Where images and containers are kept.
#[derive(clap::Args, Clone, Debug)]
pub struct Root {
    /// Where images and containers are kept, instead of $TARE_ROOT
    #[arg(long = "root", value_name = "DIR")]
    dir: Option<PathBuf>,
}

impl Root {
    /// Returns the directory that was given.
    pub fn dir(&self) -> Option<&Path> {
        self.dir.as_deref()
    }

    /// Opens the store.
    pub fn open(&self) -> Result<Store> {
        Store::open(self.dir.as_deref())
    }
}

/// Runs a tool: its arguments are parsed, what goes wrong is reported, and the status is contract 3's.
///
/// One that succeeds with several statuses returns an [`ExitCode`], all others nothing.
pub fn main<A: Parser, T: Termination>(run: impl FnOnce(A) -> Result<T>) -> ExitCode {
    sys::reset_sigpipe();
    let done = parse().and_then(|args| match args {
        Some(args) => run(args).map(Termination::report),
        None => Ok(ExitCode::SUCCESS),
    });
    // What failed because a signal's cleanup took it away is not what this process dies of.
    interrupt::wait_for_signal();
    match done {
        Ok(status) => status,
        Err(err) => {
            if error::find::<Reported>(&err).is_none() {
                report(&err);
            }
            match error::find::<Usage>(&err) {
                Some(_) => ExitCode::from(USAGE),
                None => ExitCode::from(FAILED),
            }
        }
    }
}

/// Parses the command line; returns nothing when it asked for help or the version, which is printed.
pub fn parse<A: Parser>() -> Result<Option<A>> {
    let err = match A::try_parse() {
        Ok(args) => return Ok(Some(args)),
        Err(err) => err,
    };
    let text = err.render().to_string();
    match err.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            print(text.as_bytes())?;
            Ok(None)
        }
        _ => {
            // The first paragraph says what is wrong; the rest is the usage, which --help has.
            let what = text.split("\n\n").next().unwrap_or(&text);
            let what: Vec<&str> = what.trim_start_matches("error: ").split_whitespace().collect();
            let usage = Error::new(Usage(what.join(" ")));
            Err(usage).hint(|| format!("{} --help", tool()))
        }
    }
}

/// Prints a result line, the only kind of text on stdout.
pub fn result(line: impl Display) -> Result<()> {
    print(format!("{line}\n").as_bytes())
}

/// Writes to stdout, to the end: a full disk is an error.
pub fn print(bytes: &[u8]) -> Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(bytes).and_then(|()| out.flush()).context("stdout")
}

/// Prints an error, and the hint if it has one, to stderr.
pub fn report(err: &Error) {
    let mut text = format!("{}: {}\n", tool(), error::line(err));
    if let Some(hint) = error::hint_of(err) {
        text.push_str(&format!("hint: {}\n", visible(hint)));
    }
    // With stderr gone there is nobody to tell.
    let _ = std::io::stderr().write_all(text.as_bytes());
}

/// Says something that is no error to stderr.
pub fn warn(text: impl Display) {
    let text = format!("{}: {}\n", tool(), visible(&text.to_string()));
    let _ = std::io::stderr().write_all(text.as_bytes());
}

/// Returns the name that this program was called by.
pub fn tool() -> String {
    let name = std::env::args_os().next().unwrap_or_default();
    Path::new(&name).file_name().unwrap_or_default().to_string_lossy().into_owned()
}
