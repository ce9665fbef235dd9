//! Copies an image to a registry.
//!
//! Blobs first, then manifests, and the name last: whoever pulls the name gets all
//! of the image. What the registry has already is not sent.

mod compress;
mod image;
mod near;
mod push;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Error, Result, ensure};
use clap::Parser;
use common::cli::progress::{Progress, Style, Words};
use common::cli::registry::Access;
use common::cli::{self, Found, Operand, Root};
use common::confine::{Allowed, confine};
use common::error::{At, Hint, Usage};
use common::platform::Platform;
use common::reference::Reference;
use common::registry::Registry;
use common::tree;

use compress::{Compression, Packed};
use image::Image;
use near::Near;
use push::Push;

/// Copy an image to a registry
#[derive(Parser)]
#[command(version)]
struct Args {
    #[command(flatten)]
    root: Root,

    /// Push the image for this platform alone, where there are several
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    platform: Option<Platform>,

    /// Compress the layers so, whatever they are; the image gets another digest
    #[arg(long, value_name = "HOW", value_enum)]
    compression: Option<Compression>,

    /// Write the digest of what was pushed to a file
    #[arg(long, value_name = "FILE", alias = "digestfile")]
    digest_file: Option<PathBuf>,

    /// Say nothing but the result and errors
    #[arg(short, long)]
    quiet: bool,

    #[command(flatten)]
    access: Access,

    /// How to show progress on stderr; auto is a bar on a terminal, plain lines elsewhere
    #[arg(long, value_name = "STYLE", value_enum, default_value_t = Style::Auto)]
    progress: Style,

    /// The image
    image: Operand,

    /// Where to push it, as HOST/REPOSITORY:TAG; what its name says by default
    #[arg(value_name = "DEST")]
    dest: Option<Reference>,
}

fn main() -> ExitCode {
    cli::main(run)
}

fn run(args: Args) -> Result<()> {
    let store = args.root.open()?;
    let cache = store.cache();
    std::fs::create_dir_all(&cache).at(&cache)?;
    let style = if args.quiet { Style::None } else { args.progress };
    let progress = Arc::new(Progress::new(style, Words { doing: "pushing", done: "pushed" }));
    // The thread that waits for signals comes before any other.
    cli::on_interrupt(|| ())?;
    let options = args.access.options(&progress)?;

    let mut write = vec![cache.as_path()];
    if let Some(dir) = args.digest_file.as_deref().map(above) {
        std::fs::metadata(dir).at(dir)?; // or it would be missed when all is done
        write.push(dir);
    }
    confine(&Allowed { write: &write, connect: true, ..Allowed::default() })?;

    let found = args.image.find(&store)?;
    found.mark_used(&store);
    let dest = match (&args.dest, &found.name) {
        (Some(dest), _) => dest.clone(),
        (None, Some(name)) => name.with_tag(name.tag().unwrap_or("latest"))?,
        (None, None) => {
            let err = Error::new(Usage(format!("{}: it has no name: push it where?", args.image)));
            return Err(err).hint(|| format!("img-push {} HOST/REPOSITORY:TAG", args.image));
        }
    };
    let packed;
    let image = {
        let mut image = select(&found, args.platform.as_ref(), &dest)
            .with_context(|| args.image.to_string())?;
        if let Some(compression) = args.compression {
            packed = Packed::new(&cache)?;
            image = packed.compress(&image, compression).with_context(|| args.image.to_string())?;
        }
        image
    };
    let digest = image.digest()?;
    if let Some(wanted) = dest.digest() {
        ensure!(*wanted == digest, "{dest}: the image is {digest}");
    }

    let registry = Registry::new(dest.domain(), &options);
    let near = Near::new([&store.images, &found.layout], &dest);
    Push { registry: &registry, dest: &dest, near: &near, progress: &progress }
        .push(&image)
        .with_context(|| dest.to_string())?;
    if let Some(path) = &args.digest_file {
        tree::replace(path, format!("{digest}\n").as_bytes(), 0o666)?;
    }
    cli::result(dest.at(&digest))
}

/// Returns what is to be pushed of what was found, all of which is here.
fn select(found: &Found, platform: Option<&Platform>, dest: &Reference) -> Result<Image> {
    let desc = match platform {
        Some(_) => found.resolve(platform)?.desc,
        None => found.desc.clone(),
    };
    let name = found.name.as_ref().unwrap_or(dest);
    Image::read(&found.layout, &desc).hint(|| {
        format!("img-pull --all-platforms {name}, or --platform OS/ARCH for one that is here")
    })
}

/// Returns the directory that a file is in.
fn above(path: &Path) -> &Path {
    match path.parent() {
        Some(above) if above.as_os_str().is_empty() => Path::new("."),
        Some(above) => above,
        None => path,
    }
}
