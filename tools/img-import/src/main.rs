//! Makes an image of a root file system's tar.
//!
//! The tar is the image's one layer, byte for byte, as it is packed: an image
//! imported twice is one image. Only what no reader of images unpacks (xz,
//! bzip2) is unpacked here.

mod change;

use std::fs::File;
use std::io::{self, IsTerminal, Read};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, anyhow, ensure};
use change::Change;
use clap::Parser;
use common::archive;
use common::cli::{self, Root};
use common::confine::{Allowed, confine};
use common::digest::Digest;
use common::error::{At, Hint, Usage};
use common::image;
use common::layer::{self, Packing};
use common::layout::{SealedBlob, Writing};
use common::platform::Platform;
use common::reference::Reference;
use jiff::Timestamp;
use oci_spec::image::{ImageManifestBuilder, MediaType};
use serde_json::{Map, Value, json};

/// Make an image of a root file system
#[derive(Parser)]
#[command(version)]
struct Args {
    #[command(flatten)]
    root: Root,

    /// Set the config by an instruction, as 'CMD ["sh"]'; may be given many times
    #[arg(short, long = "change", value_name = "INSTRUCTION")]
    changes: Vec<Change>,

    /// Say what this is in the image's history
    #[arg(short, long, value_name = "TEXT")]
    message: Option<String>,

    /// What the image is for, if not for this machine
    #[arg(long, value_name = "OS/ARCH")]
    platform: Option<Platform>,

    /// A tar of the root file system, plain or packed; - is stdin
    file: PathBuf,

    /// The image's name
    name: Reference,
}

fn main() -> ExitCode {
    cli::main(run)
}

fn run(args: Args) -> Result<()> {
    if args.name.digest().is_some() {
        return Err(Usage(format!("{}: a digest cannot be given to an image", args.name)).into());
    }
    let created = created()?;
    let store = args.root.open()?;
    let tar = open(&args.file)?;
    let marks = store.make_marks().ok();
    let write: Vec<&Path> = marks.as_deref().into_iter().chain([store.images.dir()]).collect();
    confine(&Allowed { write: &write, ..Allowed::default() })?;
    let writing = store.images.writing()?;
    let layer = copy(tar, &args.file, &writing)?;
    let (media_type, diff_id) = layer_of(&layer).at(&args.file)?;
    let (digest, size) = layer.publish()?;
    let layer = image::descriptor(media_type, &digest, size);

    let config = config(&args, &diff_id, created)?;
    let config =
        image::descriptor(MediaType::ImageConfig, &writing.put(&config)?, config.len() as u64);
    let manifest = ImageManifestBuilder::default()
        .schema_version(2u32)
        .media_type(MediaType::ImageManifest)
        .config(config)
        .layers([layer])
        .build()?;
    let manifest = serde_json::to_vec(&manifest)?;
    let digest = writing.put(&manifest)?;
    let desc = image::descriptor(MediaType::ImageManifest, &digest, manifest.len() as u64);
    writing.tag(&args.name, &desc, None)?;
    store.mark_used(&digest);
    cli::result(args.name.at(&digest))
}

fn open(path: &Path) -> Result<Box<dyn Read>> {
    if path.as_os_str() != "-" {
        let text = path.to_string_lossy();
        if text.starts_with("http://") || text.starts_with("https://") {
            let error = Usage(format!("{text}: URLs are not fetched"));
            return Err(error).hint(|| format!("curl -fL {text} | img-import - NAME"));
        }
        return Ok(Box::new(File::open(path).at(path)?));
    }
    let stdin = io::stdin();
    if stdin.is_terminal() {
        return Err(Usage("-: the tar comes on stdin, which is a terminal".into()).into());
    }
    Ok(Box::new(stdin))
}

/// Copies the tar into the store, packed as it is if an image's layer may be.
fn copy<'a>(mut tar: Box<dyn Read>, from: &Path, writing: &Writing<'a>) -> Result<SealedBlob<'a>> {
    let mut start = Vec::new();
    tar.by_ref().take(512).read_to_end(&mut start).at(from)?;
    if start.is_empty() {
        return Err(anyhow!("no tar: did the command before this one fail?")).at(from);
    }
    let packing = Packing::of(&start);
    let mut tar: Box<dyn Read> = Box::new(io::Cursor::new(start).chain(tar));
    if packing.layer_type().is_none() {
        tar = archive::unpacked(tar).at(from)?;
    }
    let mut blob = writing.new_blob()?;
    let mut buffer = vec![0; 256 << 10];
    loop {
        match tar.read(&mut buffer).at(from)? {
            0 => return Ok(blob.seal()),
            n => io::Write::write_all(&mut blob, &buffer[..n]).at(writing.layout().dir())?,
        }
    }
}

/// Returns how the layer is packed, and its diff ID, after a look at each of its entries.
fn layer_of(layer: &SealedBlob) -> Result<(MediaType, Digest)> {
    let mut start = Vec::new();
    layer.open()?.take(10).read_to_end(&mut start)?;
    let media_type = Packing::of(&start).layer_type().unwrap_or(MediaType::ImageLayer);
    let desc = image::descriptor(media_type.clone(), &layer.digest, layer.size);
    let scanned = layer::scan(layer.open()?, &desc)?;
    // A layer has its digest to say that it is whole, and this has nothing else.
    ensure!(scanned.marked, "truncated tar: it has no end");
    Ok((media_type, scanned.diff_id))
}

/// Returns the bytes of the config.
fn config(args: &Args, diff_id: &Digest, created: Timestamp) -> Result<Vec<u8>> {
    let mut container = Map::new();
    let path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    container.insert("Env".into(), json!([path]));
    args.changes.iter().for_each(|change| change.apply(&mut container));
    let platform = args.platform.clone().unwrap_or_else(Platform::host);
    let mut config = json!({
        "created": created.to_string(),
        "architecture": platform.architecture,
        "os": platform.os,
        "config": container,
        "rootfs": {"type": "layers", "diff_ids": [diff_id.to_string()]},
        "history": [{
            "created": created.to_string(),
            "created_by": "img-import",
            "comment": args.message.as_deref().unwrap_or("imported"),
        }],
    });
    if let Some(variant) = platform.variant {
        config["variant"] = Value::String(variant);
    }
    Ok(serde_json::to_vec(&config)?)
}

/// Returns the moment that the image says it was made at: never the clock's, or no two would be equal.
fn created() -> Result<Timestamp> {
    match std::env::var("SOURCE_DATE_EPOCH") {
        Ok(text) => {
            let seconds = text
                .parse()
                .with_context(|| format!("SOURCE_DATE_EPOCH is {text:?}, not a number"))?;
            Ok(Timestamp::from_second(seconds)?)
        }
        Err(_) => Ok(Timestamp::UNIX_EPOCH),
    }
}
