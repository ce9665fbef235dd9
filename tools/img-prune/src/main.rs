//! Removes images that nobody uses.
//!
//! Images without a name, unless told otherwise; then the blobs and the unpacked layers that
//! no image and no container needs. Each option says what stays, so an image goes only if
//! all of them let it.

mod choose;
mod filter;
mod plan;

use std::collections::HashSet;
use std::io::{BufRead, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Error, Result, bail};
use clap::Parser;
use common::cli::{self, Dir, Root};
use common::confine::{Allowed, confine};
use common::container::Users;
use common::digest::Digest;
use common::error::Usage;
use common::layout::{Image, Layout};
use common::reference::Reference;
use common::snapshot::{self, Unpacked};
use common::{human, userns};

use choose::Rules;
use filter::Filter;
use plan::{Plan, Prune};

/// How long those are waited for who are adding images.
const PATIENCE: Duration = Duration::from_secs(2);

/// Remove images that nobody uses
#[derive(Parser)]
#[command(version)]
struct Args {
    #[command(flatten)]
    root: Root,

    /// Images with names, too, and what can no longer be gone on with of interrupted downloads
    #[arg(short, long)]
    all: bool,

    /// Do not ask, which is only done on a terminal
    #[arg(short, long)]
    force: bool,

    /// Only images that match: label=KEY[=VALUE], label!=KEY[=VALUE], until=TIME
    #[arg(long = "filter", value_name = "FILTER")]
    filters: Vec<Filter>,

    /// Keep the newest N names, and prune other images with names, too
    #[arg(long, value_name = "N")]
    keep: Option<usize>,

    /// With --keep, the newest N of each repository
    #[arg(long, requires = "keep")]
    per_repo: bool,

    /// Only images that were not used for so long, with names or without
    #[arg(long, value_name = "TIME", value_parser = cli::duration)]
    unused_for: Option<Duration>,

    /// Only until the store takes no more bytes than this, the least recently used images first
    #[arg(long, value_name = "SIZE", value_parser = cli::size)]
    max_size: Option<u64>,

    /// Print what would be removed, and remove nothing
    #[arg(long)]
    dry_run: bool,

    /// Prune a layout directory, and not the store
    #[arg(long, value_name = "DIR", conflicts_with = "dir")]
    layout: Option<Dir>,

    /// Do not say how much space that gave
    #[arg(short, long)]
    quiet: bool,
}

fn main() -> ExitCode {
    cli::main(run)
}

fn run(args: Args) -> Result<()> {
    if args.filters.iter().filter(|filter| matches!(filter, Filter::Until(_))).count() > 1 {
        return Err(Usage("--filter: more than one until".into()).into());
    }
    let rules = Rules {
        named: args.all
            || args.keep.is_some()
            || args.unused_for.is_some()
            || args.max_size.is_some(),
        keep: args.keep,
        per_repository: args.per_repo,
        unused_since: args
            .unused_for
            .map(|age| SystemTime::now().checked_sub(age).unwrap_or(SystemTime::UNIX_EPOCH)),
        max_size: args.max_size,
    };
    if !args.force && !args.dry_run && std::io::stdin().is_terminal() && !confirmed(&rules)? {
        bail!("cancelled: nothing was removed");
    }
    let (all, dry_run, filters) = (args.all, args.dry_run, &args.filters[..]);
    if let Some(dir) = &args.layout {
        let layout = &Layout::open(dir.path())?;
        confine(&Allowed { write: &[dir.path()], ..Allowed::default() })?;
        let (users, unpacked) = (Users::default(), Vec::new());
        let prune = Prune { layout, store: None, users, unpacked, filters, rules, all, dry_run };
        return remove(&args, &prune);
    }
    let store = args.root.open()?;
    let unpacked = unpacked(&store.layers(), dry_run)?;
    // A directory of the store may be a link to another disk.
    let dirs = [store.images.dir().to_owned(), store.layers(), store.cache()];
    let dirs = dirs.iter().map(PathBuf::as_path).filter(|dir| dir.is_dir());
    let write: Vec<&Path> = dirs.chain([store.root()]).collect();
    confine(&Allowed { write: &write, ..Allowed::default() })?;
    let users = Users::read(&store.containers());
    let layout = &store.images;
    let prune =
        Prune { layout, store: Some(&store), users, unpacked, filters, rules, all, dry_run };
    remove(&args, &prune)?;
    if !dry_run {
        let index = layout.index()?;
        let kept = index.images().iter().filter_map(|image| image.digest().split_once(':'));
        let kept: HashSet<&str> = kept.map(|(_, hex)| hex).collect();
        store.forget_uses(|hex| kept.contains(hex));
    }
    Ok(())
}

/// Returns the unpacked layers of a store. A user's belong to others of his user namespace, and are only to be seen from there.
fn unpacked(layers: &Path, dry_run: bool) -> Result<Vec<Unpacked>> {
    if std::fs::read_dir(layers).into_iter().flatten().next().is_none() {
        return Ok(Vec::new());
    }
    if let Err(err) = userns::ensure_root() {
        cli::warn(format!("unpacked layers stay: {}", common::error::line(&err)));
        return Ok(Vec::new());
    }
    if !dry_run {
        snapshot::collect_layers(layers)?;
    }
    Unpacked::list(layers)
}

/// Removes what is to go, and tells it, or only tells it.
fn remove(args: &Args, prune: &Prune) -> Result<()> {
    let (removing, Plan { images, blobs, layers }) = if args.dry_run {
        let removing = prune.layout.looking();
        let plan = prune.plan(&mut prune.layout.index()?, &removing)?;
        (removing, plan)
    } else {
        let removing = prune.layout.removing(PATIENCE)?;
        let plan = removing.update(|index| {
            let plan = prune.plan(index, &removing)?;
            let changed = !plan.images.is_empty();
            Ok((plan, changed))
        })?;
        (removing, plan)
    };
    let mut lines: Vec<String> =
        images.iter().map(|image| line(args.layout.as_ref(), image)).collect();
    lines.dedup(); // one may be there without a name more than once
    let lines: String = lines.iter().map(|line| format!("{line}\n")).collect();
    cli::print(lines.as_bytes())?;

    let mut bytes: u64 = blobs.iter().map(|blob| blob.bytes).sum();
    if !args.dry_run {
        bytes = removing.remove(blobs)?;
        if !removing.is_alone() {
            cli::warn("blobs stay for the next img-prune, as somebody is adding images");
        }
    }
    drop(removing);
    for layer in layers {
        // Another img-prune may be faster.
        let freed = if args.dry_run { layer.usage()? } else { layer.remove()? };
        bytes += freed.unwrap_or(0);
    }
    if !args.quiet {
        cli::warn(format!("total reclaimed space: {}", human::size(bytes)));
    }
    Ok(())
}

/// Returns what is said of an image that goes: what img-ls -q says of one that is there.
fn line(dir: Option<&Dir>, image: &Image) -> String {
    let Ok(digest) = image.digest().parse::<Digest>() else { return image.digest().to_owned() };
    // One that does not read back as a name is no way to name it.
    let name = image.name().and_then(|name| Some((name, name.parse::<Reference>().ok()?)));
    match (dir, name) {
        (Some(dir), Some((name, _))) => format!("{dir}:{name}@{digest}"),
        (Some(dir), None) => dir.at(None, &digest),
        (None, Some((_, name))) => name.at(&digest),
        (None, None) => digest.to_string(),
    }
}

/// Asks on the terminal, as Docker does.
fn confirmed(rules: &Rules) -> Result<bool> {
    let what = match (rules.named, rules.keep, rules.unused_since, rules.max_size) {
        (false, ..) => "all dangling images",
        (true, None, None, None) => "all images without at least one container associated to them",
        _ => "images that no container uses, as the options say",
    };
    let text =
        format!("WARNING! This will remove {what}.\nAre you sure you want to continue? [y/N] ");
    let mut stderr = std::io::stderr();
    stderr.write_all(text.as_bytes()).map_err(Error::from).context("stderr")?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer).context("stdin")?;
    Ok(matches!(answer.trim(), "y" | "Y"))
}
