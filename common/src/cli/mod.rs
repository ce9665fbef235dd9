//! What all mains share: operands, result lines, errors and exit status.
//!
//! Below this floor nothing reads arguments, prints or exits. Results go to
//! stdout, all else to stderr; an error is one line and perhaps a hint.

mod csv;
mod dir;
mod duration;
pub mod list;
mod operand;
mod size;

use std::error::Error as StdError;
use std::fmt::{self, Display};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Error, Result};
use clap::Parser;
use clap::error::ErrorKind;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, raise, sigprocmask};

use crate::error::{self, Hint, Usage, visible};
use crate::store::Store;
use crate::sys;

pub use csv::csv;
pub use dir::Dir;
pub use duration::duration;
pub use operand::{Found, Operand};
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
    /// Opens the store.
    pub fn open(&self) -> Result<Store> {
        Store::open(self.dir.as_deref())
    }
}

/// Runs a tool: its arguments are parsed, what goes wrong is reported, and the status is contract 3's.
pub fn main<A: Parser>(run: impl FnOnce(A) -> Result<()>) -> ExitCode {
    sys::reset_sigpipe();
    let done = parse().and_then(|args| match args {
        Some(args) => run(args),
        None => Ok(()),
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
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

/// What is to be done before a signal ends this process.
static CLEANUPS: Mutex<Vec<Box<dyn FnOnce() + Send>>> = Mutex::new(Vec::new());

/// Runs `cleanup` when SIGINT, SIGTERM or SIGHUP comes, and then dies of that signal.
///
/// To be called before any other thread is started, since these inherit the mask that leaves the signals to one.
pub fn on_interrupt(cleanup: impl FnOnce() + Send + 'static) -> Result<()> {
    let mut cleanups = CLEANUPS.lock().unwrap_or_else(PoisonError::into_inner);
    cleanups.push(Box::new(cleanup));
    if cleanups.len() > 1 {
        return Ok(()); // the thread is there
    }
    let mut signals = SigSet::empty();
    // What is ignored, as by nohup, is to be ignored still.
    let fatal = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP].into_iter();
    fatal.filter(|signal| !sys::is_ignored(*signal)).for_each(|signal| signals.add(signal));
    sigprocmask(SigmaskHow::SIG_BLOCK, Some(&signals), None)?;
    std::thread::Builder::new().name("signals".into()).stack_size(128 << 10).spawn(move || {
        let Ok(signal) = signals.wait() else { return };
        let mut cleanups = CLEANUPS.lock().unwrap_or_else(PoisonError::into_inner);
        cleanups.drain(..).rev().for_each(|cleanup| cleanup());
        // Its action is the default one, so it ends the process as soon as it is let through.
        let _ =
            raise(signal).and_then(|()| sigprocmask(SigmaskHow::SIG_UNBLOCK, Some(&signals), None));
    })?;
    Ok(())
}
