//! What is in a Dockerfile, and what is unwise in it. Nothing is built.

use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::{Context, Result};
use common::cli;
use common::error::visible;
use common::store::Store;
use common::tree;
use img_build::check::{self, Known};
use img_build::dockerfile::Dockerfile;
use img_build::json;
use img_build::source::{Elsewhere, context};

use crate::options::Options;

/// Prints a Dockerfile as JSON.
pub fn parse(options: &Options) -> Result<()> {
    let file = options.file.as_deref();
    let (bytes, name) = with_elsewhere(options, |elsewhere| {
        context::dockerfile(&options.context, file, elsewhere)
    })?;
    let parsed = Dockerfile::parse(&bytes).map_err(|err| err.in_file(&name))?;
    cli::result(json::document(&parsed))
}

/// Says what is unwise in a Dockerfile; returns the exit status.
pub fn check(options: &Options) -> Result<ExitCode> {
    let file = options.file.as_deref();
    let context = with_elsewhere(options, |elsewhere| {
        context::open(&options.context, file, false, elsewhere)
    })?;
    let name = &context.name;
    let file = Dockerfile::parse(&context.dockerfile).map_err(|err| err.in_file(name))?;
    let told = options.told()?;
    // What is on a base image is seen when it is there.
    let known = Known { told: &told, ignore: context.tree.ignore.as_ref(), image: &|_| None };
    let found = check::check(&file, &known).map_err(|err| err.in_file(name))?;
    let mut err = io::stderr().lock();
    for warning in &found.warnings {
        writeln!(err, "{}", visible(&format!("{name}:{warning}"))).context("stderr")?;
    }
    Ok(if found.warnings.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn with_elsewhere<T>(options: &Options, get: impl FnOnce(&Elsewhere) -> Result<T>) -> Result<T> {
    let scratch = || {
        let dir = Store::open(options.root.dir())?.cache();
        tree::make_dirs(&dir)?;
        Ok(dir)
    };
    get(&Elsewhere::new(&scratch, &|_| Ok(None)))
}
