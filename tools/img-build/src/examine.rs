//! What is in a Dockerfile, and what is unwise in it. Nothing is built.

use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::{Context, Result};
use common::cli;
use common::error::visible;
use common::platform::Platform;
use common::store::Store;
use common::tree;
use img_build::check::{self, Image, Known};
use img_build::dockerfile::Dockerfile;
use img_build::json;
use img_build::source::{Elsewhere, context};
use serde_json::Value;

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
    let told = options.told();
    // No image is pulled for this.
    let store = Store::open(options.root.dir()).ok();
    let image = |name: &str| image(store.as_ref()?, name, &told.platform);
    let known = Known { told: &told, ignore: context.tree.ignore.as_ref(), image: &image };
    let found = check::check(&file, &known).map_err(|err| err.in_file(name))?;
    let mut err = io::stderr().lock();
    for warning in &found.warnings {
        writeln!(err, "{}", visible(&format!("{name}:{warning}"))).context("stderr")?;
    }
    Ok(if found.warnings.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Returns what decides what is unwise on an image, if it is here.
fn image(store: &Store, name: &str, platform: &Platform) -> Option<Image> {
    let desc = store.images.find(&name.parse().ok()?).ok()?;
    let image = store.images.resolve(&desc, platform).ok()?;
    let config = store.images.read(image.manifest.config()).ok()?;
    let config: Value = serde_json::from_slice(&config).ok()?;
    let list = |name: &str| config.pointer(name).and_then(Value::as_array);
    let env = list("/config/Env").into_iter().flatten();
    let env = env.filter_map(|pair| pair.as_str().map(str::to_owned)).collect();
    let has_shell = list("/config/Shell").is_some_and(|shell| !shell.is_empty());
    Some(Image { env, has_shell })
}

fn with_elsewhere<T>(options: &Options, get: impl FnOnce(&Elsewhere) -> Result<T>) -> Result<T> {
    let scratch = || {
        let dir = Store::open(options.root.dir())?.cache();
        tree::make_dirs(&dir)?;
        Ok(dir)
    };
    get(&Elsewhere::new(&scratch, &|_| Ok(None)))
}
