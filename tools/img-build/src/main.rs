//! Builds an image from a Dockerfile.
//!
//! What is here reads a Dockerfile and says what is in it, or what is unwise in
//! it. Nothing is built yet, so an option that would say how is an error.

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;
use common::cli;
use common::error::{Hint, Usage, find, visible};
use common::store::Store;
use common::{sys, tree};
use img_build::check::{self, Known};
use img_build::dockerfile::Dockerfile;
use img_build::dockerfile::scope::Told;
use img_build::json;
use img_build::source::{Elsewhere, context};

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

    /// Where files are copied from: a directory, a repository, a URL, or - for a tar or a Dockerfile on stdin
    context: OsString,
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
    if !args.parse && !args.check {
        let err = Usage("it cannot build yet".into());
        return Err(anyhow::Error::new(err)).hint(|| "--parse or --check".into());
    }
    let scratch = || {
        let dir = Store::open(None)?.cache();
        tree::make_dirs(&dir)?;
        Ok(dir)
    };
    let elsewhere = Elsewhere::new(&scratch, &|_| Ok(None));
    if args.check {
        return unwise(args, &elsewhere).or_else(|err| {
            cli::report(&err);
            Ok(TROUBLE)
        });
    }
    let file = args.file.as_deref();
    let (bytes, name) = context::dockerfile(&args.context, file, &elsewhere)?;
    let parsed = Dockerfile::parse(&bytes).map_err(|err| err.in_file(&name))?;
    cli::result(json::document(&parsed))?;
    Ok(0)
}

/// Says what is unwise in a Dockerfile.
fn unwise(args: &Args, elsewhere: &Elsewhere) -> Result<u8> {
    let context = context::open(&args.context, args.file.as_deref(), false, elsewhere)?;
    let name = &context.name;
    let file = Dockerfile::parse(&context.dockerfile).map_err(|err| err.in_file(name))?;
    let told = Told::nothing();
    // What is on a base image is seen when it is there.
    let known = Known { told: &told, ignore: context.tree.ignore.as_ref(), image: &|_| None };
    let found = check::check(&file, &known).map_err(|err| err.in_file(name))?;
    let mut err = io::stderr().lock();
    for warning in &found.warnings {
        writeln!(err, "{}", visible(&format!("{name}:{warning}"))).context("stderr")?;
    }
    Ok(if found.warnings.is_empty() { 0 } else { FAILED })
}
