//! Writes images to an archive.
//!
//! The archive is at once an OCI image layout and what `docker load` reads. It
//! is the same to the byte as long as the images are. The kernel copies the
//! blobs; they are not read here, unless they are to be verified.

mod have;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, ValueEnum};
use common::archive::{self, Archive};
use common::cli::{self, Operand, Output, Root};
use common::confine::{Allowed, confine};
use common::error::Usage;

/// Write images to an archive
#[derive(Parser)]
#[command(version)]
struct Args {
    #[command(flatten)]
    root: Root,

    /// Write this file instead of standard output; it appears when all of it is there
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,

    /// Write this format alone, and not one that is both
    #[arg(long, value_enum, value_name = "FORMAT")]
    format: Option<Format>,

    /// Leave out the blobs that the reader has: a file that lists them, - for stdin, or an image
    #[arg(long, value_name = "LIST|IMAGE")]
    have: Vec<String>,

    /// Read each blob, and fail if it is not what its digest says
    #[arg(long)]
    verify: bool,

    /// The images
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<Operand>,
}

/// What an archive is for.
#[derive(Clone, Copy, ValueEnum)]
enum Format {
    /// As docker save wrote it before version 25
    Docker,
    /// An OCI image layout
    Oci,
}

fn main() -> ExitCode {
    cli::main(run)
}

fn run(args: Args) -> Result<()> {
    let format = format(&args)?;
    if args.have.iter().any(|have| have == "-") && args.images.contains(&Operand::Stdin) {
        return Err(Usage("-: stdin is a list or an image, and not both".into()).into());
    }
    let store = args.root.open()?;
    let output = Output::new(args.output.as_deref(), "-o FILE")?;
    let write: Vec<&Path> = [store.root()].into_iter().chain(output.dir()).collect();
    confine(&Allowed { write: &write, ..Allowed::default() })?;

    let mut have = BTreeSet::new();
    for arg in &args.have {
        have::read(arg, &store, &mut have)?;
    }
    let found: Vec<_> =
        args.images.iter().map(|image| image.find(&store)).collect::<Result<_>>()?;
    found.iter().for_each(|found| found.mark_used(&store));
    let images: Vec<_> = found
        .iter()
        .map(|found| archive::Image {
            layout: &found.layout,
            desc: found.desc.clone(),
            name: found.name.clone(),
        })
        .collect();
    let archive = Archive::new(&images, format, &have)?;
    archive.warnings.iter().for_each(cli::warn);
    output.write(|file, place| archive.write(file, place, args.verify))
}

/// Returns the format, which must be one that can lack blobs if some are to be left out.
fn format(args: &Args) -> Result<archive::Format> {
    match (args.format, args.have.is_empty()) {
        (Some(Format::Docker), false) => {
            Err(Usage("--have: an archive in Docker's format has all its layers".into()).into())
        }
        (Some(Format::Docker), true) => Ok(archive::Format::Docker),
        (Some(Format::Oci), _) | (None, false) => Ok(archive::Format::Oci),
        (None, true) => Ok(archive::Format::Both),
    }
}
