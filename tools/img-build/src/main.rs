//! Builds an image from a Dockerfile.
//!
//! What is here reads a Dockerfile and says what is in it, or what is unwise in
//! it. Nothing is built yet, so an option that would say how is an error.

use std::fs::{self, File};
use std::io::{self, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;
use common::cli;
use common::error::{At, Hint, Usage, find, visible};
use common::sys;
use img_build::check::{self, Known};
use img_build::dockerfile::scope::Told;
use img_build::dockerfile::{Dockerfile, LONGEST};
use img_build::ignore::{self, Ignore};
use img_build::json;

/// The status of an error, and of what is unwise.
const FAILED: u8 = 1;
/// The status of a command line that is wrong, and of what cannot be checked: contract 3.
const TROUBLE: u8 = 2;

/// Build an image from a Dockerfile
#[derive(Parser)]
#[command(version)]
struct Args {
    /// Print the Dockerfile as JSON, and build nothing
    #[arg(long, conflicts_with = "check")]
    parse: bool,

    /// Say what is unwise in the Dockerfile, and build nothing
    #[arg(long)]
    check: bool,

    /// The Dockerfile, if not CONTEXT/Dockerfile; - is stdin
    #[arg(short, long, value_name = "FILE")]
    file: Option<PathBuf>,

    /// The directory that files are copied from
    context: PathBuf,
}

fn main() -> ExitCode {
    sys::reset_sigpipe();
    let done = cli::parse::<Args>().and_then(|args| match args {
        Some(args) => run(&args),
        None => Ok(0),
    });
    match done {
        Ok(status) => ExitCode::from(status),
        Err(err) => {
            cli::report(&err);
            ExitCode::from(if find::<Usage>(&err).is_some() { TROUBLE } else { FAILED })
        }
    }
}

fn run(args: &Args) -> Result<u8> {
    let path = match &args.file {
        Some(file) => file.clone(),
        None if args.context == Path::new(".") => "Dockerfile".into(),
        None => args.context.join("Dockerfile"),
    };
    if !args.parse && !args.check {
        let err = Usage("it cannot build yet".into());
        return Err(anyhow::Error::new(err)).hint(|| "--parse or --check".into());
    }
    if args.check {
        return unwise(args, &path).or_else(|err| {
            cli::report(&err);
            Ok(TROUBLE)
        });
    }
    cli::result(json::document(&parse(&path)?))?;
    Ok(0)
}

fn parse(path: &Path) -> Result<Dockerfile> {
    Dockerfile::parse(&read(path)?).map_err(|err| err.in_file(&name(path)))
}

/// Returns what a Dockerfile is called in messages.
fn name(path: &Path) -> String {
    match path.to_str() {
        Some("-") => "stdin".into(),
        _ => path.display().to_string(),
    }
}

/// Says what is unwise in a Dockerfile.
fn unwise(args: &Args, path: &Path) -> Result<u8> {
    let name = name(path);
    let file = parse(path)?;
    let ignore = ignore_file(args, path)?;
    let told = Told::nothing();
    // What is on a base image is seen when it is there.
    let known = Known { told: &told, ignore: ignore.as_ref(), image: &|_| None };
    let found = check::check(&file, &known).map_err(|err| err.in_file(&name))?;
    let mut err = io::stderr().lock();
    for warning in &found.warnings {
        writeln!(err, "{}", visible(&format!("{name}:{warning}"))).context("stderr")?;
    }
    Ok(if found.warnings.is_empty() { 0 } else { FAILED })
}

/// Reads a Dockerfile, which need not be a file: a pipe of m4(1) will do.
fn read(path: &Path) -> Result<Vec<u8>> {
    if path == Path::new("-") {
        let stdin = io::stdin();
        if stdin.is_terminal() {
            let err = Usage("a Dockerfile is not read from a terminal".into());
            return Err(anyhow::Error::new(err)).hint(|| "-f FILE".into());
        }
        return limited(stdin.lock(), LONGEST).context("stdin");
    }
    let file = File::open(path).at(path);
    limited(file.hint(|| "-f FILE, if it has another name".into())?, LONGEST).at(path)
}

/// Reads no more than shows that it is too long.
fn limited(from: impl Read, limit: usize) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    from.take(limit as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Reads the ignore file: the Dockerfile's own, else the context's.
fn ignore_file(args: &Args, dockerfile: &Path) -> Result<Option<Ignore>> {
    let mut own = dockerfile.as_os_str().to_owned();
    own.push(".dockerignore");
    for path in [PathBuf::from(own), args.context.join(".dockerignore")] {
        let bytes = match File::open(&path) {
            Ok(file) => limited(file, ignore::LONGEST).at(&path)?,
            Err(err) if err.kind() == io::ErrorKind::NotFound => continue,
            Err(err) => return Err(err).at(&path),
        };
        let name = path.display().to_string();
        return Ignore::parse(&bytes).map(Some).map_err(|err| err.in_file(&name));
    }
    // A context that is not there is an error even if nothing was to be read from it.
    fs::metadata(&args.context).at(&args.context)?;
    Ok(None)
}
