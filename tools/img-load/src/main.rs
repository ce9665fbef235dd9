//! Reads images from an archive.
//!
//! Whoever made it: it is read once, as it comes, and each blob goes straight
//! into the store. Names are given when all is there and verified.

use std::fs::File;
use std::io::IsTerminal;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;
use common::archive::{self, Loaded};
use common::cli::{self, Root};
use common::confine::{Allowed, confine};
use common::error::{At, Hint, Usage};
use common::image;
use common::layout::Writing;
use common::reference::Reference;
use common::store::Store;

/// Read images from an archive
#[derive(Parser)]
#[command(version)]
struct Args {
    #[command(flatten)]
    root: Root,

    /// Read this file instead of standard input
    #[arg(short, long, value_name = "FILE")]
    input: Option<PathBuf>,

    /// Do not say which names in the archive are none
    #[arg(short, long)]
    quiet: bool,
}

fn main() -> ExitCode {
    cli::main(run)
}

fn run(args: Args) -> Result<()> {
    let input = args.input.as_deref().filter(|path| path.as_os_str() != "-");
    let store = args.root.open()?;
    let archive = open(input)?;
    let marks = store.make_marks().ok();
    let write: Vec<&Path> = marks.as_deref().into_iter().chain([store.images.dir()]).collect();
    confine(&Allowed { write: &write, ..Allowed::default() })?;
    let writing = store.images.writing()?;
    let unfinished = writing.unfinished();
    cli::on_interrupt(move || unfinished.remove())?;
    let loaded = match archive::load_file(archive, &writing) {
        Ok(loaded) => loaded,
        Err(err) => {
            // What went wrong first is what is said.
            let _ = writing.abandon();
            return Err(err).at(input.unwrap_or(Path::new("stdin")));
        }
    };
    loaded.iter().try_for_each(|image| name(image, &writing, &store, args.quiet))?;
    // What came along and is no part of an image. What stays is for img-prune to find.
    let _ = writing.abandon();
    Ok(())
}

fn open(input: Option<&Path>) -> Result<File> {
    if let Some(path) = input {
        return File::open(path).at(path);
    }
    let stdin = std::io::stdin();
    if stdin.is_terminal() {
        let error = Usage("the archive comes on stdin, which is a terminal".into());
        return Err(error).hint(|| "img-load -i FILE, or img-save ... | img-load".into());
    }
    Ok(stdin.as_fd().try_clone_to_owned().context("stdin")?.into())
}

/// Gives an image the names that it has in the archive.
fn name(image: &Loaded, writing: &Writing, store: &Store, quiet: bool) -> Result<()> {
    let digest = image::digest(&image.desc)?;
    let mut names: Vec<Reference> = Vec::new();
    for text in &image.names {
        match text.parse::<Reference>() {
            Ok(name) if name.digest().is_none() => {
                if !names.iter().any(|other| other.full() == name.full()) {
                    names.push(name);
                }
            }
            _ if quiet => {}
            _ => cli::warn(format!("{text:?}: not a name; {digest} does not get it")),
        }
    }
    if names.is_empty() {
        writing.keep(&image.desc)?;
        store.mark_used(&digest);
        return cli::result(digest);
    }
    for name in &names {
        writing.tag(name, &image.desc, None)?;
        store.mark_used(&digest);
        cli::result(name.at(&digest))?;
    }
    Ok(())
}
