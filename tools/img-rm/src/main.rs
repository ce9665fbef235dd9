//! Removes images.
//!
//! A name goes first; with its last name goes the image, and what no other image needs of
//! it. What was unpacked of it stays until img-prune.

mod remove;

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Error, Result};
use clap::Parser;
use common::cli::{self, NoSuchImage, Operand, Operands, Reported, Root};
use common::confine::{Allowed, confine};
use common::container::Users;
use common::error::{self, Hint};
use common::facts::Facts;
use common::layout::Layout;
use common::store::Store;
use remove::Removal;

/// Remove images
#[derive(Parser)]
#[command(version)]
struct Args {
    #[command(flatten)]
    root: Root,

    /// Remove an image with all its names, and one that a stopped container uses; what is not there is no failure
    #[arg(short, long)]
    force: bool,

    #[command(flatten)]
    operands: Operands,
}

/// An operand, as it was written and as it reads.
type Given = (String, Operand);

fn main() -> ExitCode {
    cli::main(run)
}

fn run(args: Args) -> Result<()> {
    let store = args.root.open()?;
    let mut failed = false;
    let mut fail = |err: &Error| {
        cli::report(err);
        failed = true;
    };
    // All of one layout are removed as one change of its index.
    let mut parts: Vec<(Option<PathBuf>, Vec<Given>)> = Vec::new();
    for (text, operand) in args.operands.read()? {
        let operand = match operand {
            Ok(operand) => operand,
            Err(err) => {
                fail(&err);
                continue;
            }
        };
        let layout = operand.layout().map(PathBuf::from);
        // What is echoed is what was meant.
        let text = if text == "-" { operand.to_string() } else { text };
        match parts.iter_mut().find(|(other, _)| *other == layout) {
            Some((_, operands)) => operands.push((text, operand)),
            None => parts.push((layout, vec![(text, operand)])),
        }
    }
    // A directory of the store may be a link to another disk.
    let (images, cache) = (store.images.dir(), store.cache());
    let dirs = parts.iter().filter_map(|(dir, _)| dir.as_deref()).chain([images, &cache]);
    let write: Vec<&Path> = dirs.filter(|dir| dir.is_dir()).chain([store.root()]).collect();
    confine(&Allowed { write: &write, ..Allowed::default() })?;
    for (dir, operands) in parts {
        let removed = match dir {
            None => {
                let (facts, users) = (Facts::of(&store), Users::read(&store.containers()));
                let (layout, force) = (&store.images, args.force);
                let mut removal = Removal { layout, facts: Some(facts), users, force };
                removal.remove(&operands).hint_if(|err| room(err, &store))
            }
            Some(dir) => Layout::open(dir).and_then(|layout| {
                let (layout, force) = (&layout, args.force);
                Removal { layout, facts: None, users: Users::default(), force }.remove(&operands)
            }),
        };
        let outcomes = match removed {
            Ok(outcomes) => outcomes,
            Err(err) => {
                fail(&err);
                continue;
            }
        };
        for ((text, _), outcome) in operands.iter().zip(outcomes) {
            match outcome {
                Ok(()) => cli::result(text)?,
                Err(err) if args.force && error::find::<NoSuchImage>(&err).is_some() => {
                    cli::report(&err)
                }
                Err(err) => fail(&err),
            }
        }
    }
    if failed { Err(Reported.into()) } else { Ok(()) }
}

/// Says how there is room on a full disk for a new index.json, without which nothing is removed.
fn room(err: &Error, store: &Store) -> Option<String> {
    let kind = error::find::<io::Error>(err)?.kind();
    let cache = store.cache();
    let is_full = matches!(kind, ErrorKind::StorageFull | ErrorKind::QuotaExceeded);
    let has_some = || fs::read_dir(&cache).is_ok_and(|mut entries| entries.next().is_some());
    (is_full && has_some()).then(|| format!("rm -r {} makes room; it is a cache", cache.display()))
}
