//! Copies an image to a registry.
//!
//! Blobs first, then manifests, and the name last: whoever pulls the name gets all
//! of the image. What the registry has already is not sent.

mod compress;
mod image;
mod near;
mod push;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Error, Result, anyhow, ensure};
use clap::Parser;
use common::cli::progress::{Progress, Style, Words};
use common::cli::registry::Access;
use common::cli::{self, Found, Operand, Output, Root};
use common::confine::{Allowed, confine};
use common::digest::Digest;
use common::error::{At, Hint, Usage, find};
use common::layout::Missing;
use common::platform::Platform;
use common::reference::Reference;
use common::registry::{Options, Registry};
use common::store::Store;

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

    /// Push all images of the repository that are here
    #[arg(short = 'a', long, conflicts_with_all = ["dest", "digest_file"])]
    all_tags: bool,

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

    let digest_file = args.digest_file.as_deref();
    let digest_file = digest_file.map(|path| Output::new(Some(path), "--digest-file FILE"));
    let mut digest_file = digest_file.transpose()?;
    let mut write = vec![cache.as_path()];
    write.extend(digest_file.as_ref().and_then(Output::dir));
    confine(&Allowed { write: &write, connect: true, ..Allowed::default() })?;

    let operands = match args.all_tags {
        true => tags(&store, &args.image)?,
        false => vec![args.image.clone()],
    };
    let mut registry = None;
    let mut failed = false;
    for operand in &operands {
        let pushed = push(&args, operand, &store, &mut registry, &options, &progress);
        match pushed.inspect_err(|_| progress.clear()) {
            Ok((dest, digest)) => {
                if let Some(file) = digest_file.take() {
                    file.write(|mut file, place| writeln!(file, "{digest}").at(place))?;
                }
                cli::result(dest.at(&digest))?;
            }
            Err(err) if args.all_tags => {
                cli::report(&err);
                failed = true;
            }
            Err(err) => return Err(err),
        }
    }
    if failed { Err(cli::Reported.into()) } else { Ok(()) }
}

/// Pushes one image; returns its name there and its digest.
fn push<'a>(
    args: &Args,
    operand: &Operand,
    store: &Store,
    registry: &mut Option<Registry<'a>>,
    options: &'a Options,
    progress: &Progress,
) -> Result<(Reference, Digest)> {
    let found = operand.find(store)?;
    found.mark_used(store);
    let dest = match (&args.dest, &found.name) {
        (Some(dest), _) => dest.clone(),
        // To push one as `latest` is not what a digest asks for.
        (None, Some(name)) if name.tag().is_none() && name.digest().is_some() => name.clone(),
        (None, Some(name)) => name.with_tag(name.tag().unwrap_or("latest"))?,
        (None, None) => {
            let err = Error::new(Usage(format!("{operand}: it has no name: push it where?")));
            return Err(err).hint(|| format!("img-push {operand} HOST/REPOSITORY:TAG"));
        }
    };
    let mut image =
        select(&found, args.platform.as_ref(), &dest).with_context(|| operand.to_string())?;
    let packed;
    if let Some(compression) = args.compression {
        packed = Packed::new(&store.cache())?;
        image = packed.compress(&image, compression).with_context(|| operand.to_string())?;
    }
    let digest = image.digest()?;
    if let Some(wanted) = dest.digest() {
        ensure!(*wanted == digest, "{dest}: the image is {digest}");
    }

    // All tags are of one repository.
    let registry = registry.get_or_insert_with(|| Registry::new(dest.domain(), options));
    let near = Near::new([&store.images, &found.layout], &dest);
    Push { registry, dest: &dest, near: &near, progress }
        .push(&image)
        .with_context(|| dest.to_string())?;
    Ok((dest, digest))
}

/// Returns the images that have a tag of a repository here.
fn tags(store: &Store, repository: &Operand) -> Result<Vec<Operand>> {
    let name = match repository {
        Operand::Name(name) | Operand::Id(_, Some(name)) => name,
        _ => {
            return Err(Usage(format!("{repository}: --all-tags takes a name in the store")).into());
        }
    };
    if name.repository().parse::<Reference>()? != *name {
        let text = format!("{name}: with --all-tags, a name without tag and digest");
        return Err(Usage(text).into());
    }
    let index = store.images.index()?;
    let names = index.names().filter_map(|name| name.parse::<Reference>().ok());
    let same =
        |other: &Reference| other.repository() == name.repository() && other.digest().is_none();
    let found: Vec<Operand> = names.filter(same).map(Operand::Name).collect();
    match found.is_empty() {
        true => Err(anyhow!("{}: no image has this name", name.familiar()))
            .hint(|| "img-ls for what is here".into()),
        false => Ok(found),
    }
}

/// Returns what is to be pushed of what was found, all of which is here.
fn select(found: &Found, platform: Option<&Platform>, dest: &Reference) -> Result<Image> {
    let desc = match platform {
        Some(_) => found.resolve(platform)?.desc,
        None => found.desc.clone(),
    };
    let name = found.name.as_ref().unwrap_or(dest);
    match Image::read(&found.layout, &desc) {
        Err(err) if find::<Missing>(&err).is_some() => Err(err).hint(|| {
            format!("img-pull --all-platforms {name}, or --platform OS/ARCH for one that is here")
        }),
        read => read,
    }
}
