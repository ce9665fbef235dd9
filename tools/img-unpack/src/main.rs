//! Unpacks an image as a runtime bundle.
//!
//! An ordinary user unpacks as root of a user namespace, so that files get the
//! owners that the image says as far as the user has ids to give. The tree is
//! made beside its place, and put there when it is whole and on the disk. Before
//! the first byte of the image is read, we give up writing anywhere else.

mod ids;
mod place;
mod shift;

use std::fs::{self, File};
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;
use common::bundle;
use common::cli::{self, Dir, Operand, Root};
use common::error::At;
use common::image;
use common::layer::{Options, Tree};
use common::layout::{Layout, Resolved};
use common::platform::Platform;
use common::userns::Range;

use ids::Ids;
use place::Place;

/// Unpack an image as a runtime bundle
#[derive(Parser)]
#[command(version)]
struct Args {
    #[command(flatten)]
    root: Root,

    /// Make DIR the bare root file system
    #[arg(long)]
    rootfs: bool,

    /// Unpack the image for another platform than this machine's
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    platform: Option<Platform>,

    /// Give the files of the image's user CONTAINER to the host's user HOST, and so on for SIZE users
    #[arg(long, value_name = "CONTAINER:HOST[:SIZE]")]
    uid_map: Vec<Range>,

    /// The same for groups
    #[arg(long, value_name = "CONTAINER:HOST[:SIZE]")]
    gid_map: Vec<Range>,

    /// Say nothing but the result
    #[arg(short, long)]
    quiet: bool,

    /// The image
    image: Operand,

    /// Where to unpack it: an empty directory, or one that does not exist yet
    #[arg(value_name = "DIR")]
    target: Dir,
}

fn main() -> ExitCode {
    cli::main(run)
}

fn run(args: Args) -> Result<()> {
    let store = args.root.open()?;
    let operand = args.image.to_string();
    let warn = |text: &str| {
        if !args.quiet {
            cli::warn(format!("{operand}: {text}"));
        }
    };
    // Before anything starts a thread, as what waits for an interrupt does: user_namespaces(7).
    let ids = Ids::take(args.uid_map, args.gid_map, &warn)?;
    let place = Place::take(args.target.path(), args.rootfs)?;
    let cache = store.cache();
    fs::create_dir_all(&cache).at(&cache)?;
    place.confine(&cache)?;

    let found = args.image.find(&store)?;
    found.mark_used(&store);
    let image = found.resolve(args.platform.as_ref()).with_context(|| operand.clone())?;
    let rootfs = match args.rootfs {
        true => place.path().to_owned(),
        false => place.path().join("rootfs"),
    };
    if !args.rootfs {
        fs::create_dir(&rootfs).at(&rootfs)?;
    }
    unpack(&found.layout, &image, &rootfs, &ids, &warn).with_context(|| operand.clone())?;
    if !args.rootfs {
        write_config(&image, &rootfs, &ids, &place.path().join("config.json"))
            .with_context(|| operand.clone())?;
    }
    place.publish()?;
    cli::result(args.target)
}

/// Applies all layers to `rootfs`, which is empty.
fn unpack(
    layout: &Layout,
    image: &Resolved,
    rootfs: &Path,
    ids: &Ids,
    warn: &dyn Fn(&str),
) -> Result<()> {
    let dir = File::open(rootfs).at(rootfs)?;
    let options = Options { owners: ids.owners, ..Options::default() };
    let mut tree = Tree::open(&dir, options)?;
    for (desc, diff_id) in image::layers(&image.manifest, &image.config)? {
        let applied = tree.apply_from(layout, desc, &diff_id)?;
        applied.warnings.iter().for_each(|text| warn(text));
    }
    match &ids.shift {
        Some(mapping) => shift::shift(&dir, mapping),
        None => Ok(()),
    }
}

/// Writes the bundle's config.json, which runs the image as Docker would.
fn write_config(image: &Resolved, rootfs: &Path, ids: &Ids, path: &Path) -> Result<()> {
    let options = bundle::Options {
        mappings: ids.mapping.as_ref().map(Into::into),
        unprivileged: ids.unprivileged,
        masked: bundle::thermal_throttle(),
        ..bundle::Options::default()
    };
    let spec = bundle::spec(&image.config, File::open(rootfs).at(rootfs)?, &options)?;
    fs::write(path, bundle::to_json(&spec)?).at(path)
}
