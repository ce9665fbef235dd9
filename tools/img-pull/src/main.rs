//! Fetches images from a registry.
//!
//! What is here already is not fetched again, and what was fetched in part is
//! gone on with. An image gets its name when all of it is here; a digest that is
//! here needs no network at all.

mod blobs;
mod near;
mod pull;

use std::collections::HashMap;
use std::io::{self, BufRead, Read};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use clap::Parser;
use common::cli::progress::{Progress, Style, Words};
use common::cli::registry::Access;
use common::cli::{self, Dir, Root};
use common::confine::{Allowed, confine};
use common::error::{Usage, find};
use common::layout::Layout;
use common::platform::Platform;
use common::reference::Reference;
use common::registry::{Options, Registry};

use pull::Pull;

/// The longest line of a list on stdin.
const LINE_LIMIT: u64 = 4096;

/// Fetch images from a registry
#[derive(Parser)]
#[command(version)]
struct Args {
    #[command(flatten)]
    root: Root,

    /// Put the images into a layout directory, which is made if need be, and not into the store
    #[arg(long, value_name = "DIR", value_parser = directory)]
    layout: Option<Dir>,

    /// The platform to fetch the image for, where there are several; this machine's by default
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    platform: Option<Platform>,

    /// Fetch the images for all platforms, and name them together
    #[arg(long, conflicts_with = "platform")]
    all_platforms: bool,

    /// Fetch all tags of the repository
    #[arg(short = 'a', long)]
    all_tags: bool,

    /// Say nothing but results and errors
    #[arg(short, long)]
    quiet: bool,

    #[command(flatten)]
    access: Access,

    /// How to show progress on stderr; auto is a bar on a terminal, plain lines elsewhere
    #[arg(long, value_name = "STYLE", value_enum, default_value_t = Style::Auto)]
    progress: Style,

    /// Read names from stdin too, one a line
    #[arg(long)]
    stdin: bool,

    /// With --stdin, names end in NUL
    #[arg(short = '0', requires = "stdin")]
    nul: bool,

    /// The images: NAME, NAME:TAG, NAME@DIGEST
    #[arg(value_name = "REF", required_unless_present = "stdin")]
    names: Vec<Reference>,
}

fn directory(text: &str) -> Result<Dir> {
    Dir::new(text.as_ref())
}

fn main() -> ExitCode {
    cli::main(run)
}

fn run(args: Args) -> Result<()> {
    let (layout, store) = match &args.layout {
        Some(dir) => (Layout::create(dir.path())?, None),
        None => {
            let store = args.root.open()?;
            (store.images.clone(), Some(store))
        }
    };
    let style = if args.quiet { Style::None } else { args.progress };
    let words = Words { doing: "fetching", done: "fetched" };
    let progress = Arc::new(Progress::new(style, words));
    let options = args.access.options(&progress)?;
    let pull = Pull {
        layout: &layout,
        progress: &progress,
        host: Platform::host(),
        platform: args.platform.clone(),
        all_platforms: args.all_platforms,
        store: store.as_ref(),
    };

    let marks = store.as_ref().and_then(|store| store.make_marks().ok());
    let write: Vec<&Path> = marks.iter().map(PathBuf::as_path).chain([layout.dir()]).collect();
    confine(&Allowed { write: &write, connect: true, ..Allowed::default() })?;

    let mut registries = HashMap::new();
    let mut failed = false;
    let given = args.names.iter().cloned().map(Ok);
    let listed = args.stdin.then(|| stdin(args.nul)).into_iter().flatten();
    for name in given.chain(listed) {
        let done = name.and_then(|name| one(&args, &pull, &options, &mut registries, &name));
        if let Err(err) = done {
            progress.clear();
            if find::<Usage>(&err).is_some() {
                return Err(err);
            }
            cli::report(&err);
            failed = true;
        }
    }
    if failed { Err(cli::Reported.into()) } else { Ok(()) }
}

/// Pulls one image, or all tags of one repository.
fn one<'a>(
    args: &Args,
    pull: &Pull,
    options: &'a Options,
    registries: &mut HashMap<String, Registry<'a>>,
    name: &Reference,
) -> Result<()> {
    let domain = name.domain();
    if let (Some(_), Some(other)) =
        (&args.access.creds, registries.keys().find(|key| *key != domain))
    {
        let text = format!("{name}: --creds are for {other}, where the first image comes from");
        return Err(Usage(text).into());
    }
    let registry =
        registries.entry(domain.to_owned()).or_insert_with(|| Registry::new(domain, options));
    let names = match args.all_tags {
        true => all_tags(registry, name, options.retries)?,
        false => vec![name.clone()],
    };
    let mut failed = false;
    for name in names {
        match pull.pull(registry, &name) {
            Ok((name, digest)) => cli::result(match &args.layout {
                Some(dir) => dir.at(Some(&name), &digest),
                None => name.at(&digest),
            })?,
            Err(err) if args.all_tags => {
                pull.progress.clear();
                cli::report(&err);
                failed = true;
            }
            Err(err) => return Err(err),
        }
    }
    if failed { bail!("{}: not all tags", name.familiar()) } else { Ok(()) }
}

fn all_tags(registry: &Registry, name: &Reference, retries: u32) -> Result<Vec<Reference>> {
    if name.repository().parse::<Reference>()? != *name {
        return Err(Usage(format!("{name}: with --all-tags, a name without tag and digest")).into());
    }
    let tags = registry.tags(name.path(), usize::MAX, retries).with_context(|| name.familiar())?;
    tags.iter().map(|tag| name.with_tag(tag)).collect()
}

/// Returns the names on stdin, each as soon as it is there.
fn stdin(nul: bool) -> impl Iterator<Item = Result<Reference>> {
    let end = if nul { b'\0' } else { b'\n' };
    let mut stdin = io::stdin().lock();
    let mut over = false;
    std::iter::from_fn(move || {
        while !over {
            let mut line = Vec::new();
            match stdin.by_ref().take(LINE_LIMIT).read_until(end, &mut line) {
                Ok(0) => return None,
                Ok(_) => {}
                Err(err) => {
                    over = true;
                    return Some(Err(err).context("stdin"));
                }
            }
            let ended = line.pop_if(|last| *last == end).is_some();
            if !ended && line.len() as u64 == LINE_LIMIT {
                over = true;
                return Some(Err(anyhow::anyhow!("stdin: a line of more than {LINE_LIMIT} bytes")));
            }
            let line = String::from_utf8_lossy(&line);
            if !line.trim().is_empty() {
                return Some(line.trim().parse());
            }
        }
        None
    })
}
