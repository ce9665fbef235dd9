//! Gives an image another name.
//!
//! Only the index changes: both names then mean the same manifest, and no blob
//! is read or copied. The image of a layout directory gets its name there.

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use common::cli::{self, Found, Operand, Root};
use common::digest::Digest;
use common::error::Usage;
use common::image;
use common::reference::Reference;

/// Give an image another name
#[derive(Parser)]
#[command(version)]
struct Args {
    #[command(flatten)]
    root: Root,

    /// Only if NAME means this digest until now: of two writers, one wins
    #[arg(long = "if", value_name = "DIGEST")]
    only_if: Option<Digest>,

    /// The image
    image: Operand,

    /// The name to give it; if another image has the name, it loses it
    name: Reference,
}

fn main() -> ExitCode {
    cli::main(run)
}

fn run(args: Args) -> Result<()> {
    if args.name.digest().is_some() {
        return Err(Usage(format!("{}: a digest cannot be given to an image", args.name)).into());
    }
    let store = args.root.open()?;
    let mut found = args.image.find_in_store(&store)?;
    choose(&mut found)?;
    found.layout.writing()?.tag(&args.name, &found.desc, args.only_if.as_ref())?;
    found.mark_used(&store);
    let digest = image::digest(&found.desc)?;
    cli::result(match found.dir {
        Some(dir) => dir.at(Some(&args.name), &digest),
        None => args.name.at(&digest),
    })
}

/// Of an index that is kept for its digest alone, takes the image that was chosen from it.
///
/// Its other images are not here, and a name of all of them would be of no use.
fn choose(found: &mut Found) -> Result<()> {
    let digest = image::digest(&found.desc)?;
    let index = found.layout.index()?;
    if index.find_digest(&digest)?.is_none()
        && let Some(image) = index.images().iter().find(|it| it.chosen_from() == Some(digest))
    {
        found.desc = image.descriptor()?;
    }
    Ok(())
}
