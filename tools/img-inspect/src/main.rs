//! Shows what is known of images: Docker's JSON, or the documents as they are.
//!
//! The documents of `--raw`, `--manifest` and `--config` are copied to the byte, so
//! that they hash to their digests. All else is made of them, and names no file.

mod about;

use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;
use common::cli::{self, Found, Operand, Operands, Reported, Root};
use common::confine::{Allowed, confine};
use common::platform::Platform;
use common::store::Store;
use common::template::Template;
use serde_json::Value;

use about::About;

/// Show what is known of images
#[derive(Parser)]
#[command(version)]
struct Args {
    #[command(flatten)]
    root: Root,

    #[command(flatten)]
    document: Document,

    /// `json`, an array on one line, or a Go template
    #[arg(short, long, value_name = "FORMAT")]
    format: Option<String>,

    /// Of an image for several platforms, the one for this, not for this machine
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    platform: Option<Platform>,

    #[command(flatten)]
    images: Operands,
}

/// Which document is shown, if not Docker's.
#[derive(clap::Args)]
#[group(multiple = false)]
struct Document {
    /// Show the manifest, or the index of several manifests, as it is
    #[arg(long)]
    raw: bool,

    /// Show the manifest as it is; of an index, the one for the platform
    #[arg(long)]
    manifest: bool,

    /// Show the config as it is
    #[arg(long)]
    config: bool,
}

/// How an image is shown.
enum Style {
    /// The document's own bytes.
    Bytes,
    /// The elements of an array, indented as Docker does.
    Pretty,
    /// The elements of an array, on one line.
    Line,
    Template(Template),
}

fn main() -> ExitCode {
    cli::main(run)
}

fn run(args: Args) -> Result<()> {
    let store = args.root.open()?;
    let document = &args.document;
    let is_document = document.raw || document.manifest || document.config;
    let style = match args.format.as_deref() {
        None if is_document => Style::Bytes,
        None => Style::Pretty,
        Some("json") => Style::Line,
        Some(format) => {
            let template = Template::parse(format).context("--format")?;
            // A document is JSON; all else has Docker's types.
            Style::Template(if is_document { template } else { template.typed() })
        }
    };
    confine(&Allowed { write: &[store.root()], ..Allowed::default() })?;

    let mut shown = 0;
    let mut failed = false;
    for (_, image) in args.images.clone().images()? {
        match image.and_then(|image| show(&args, &store, &image, &style)) {
            Ok(text) => {
                cli::print(separator(&style, shown))?;
                cli::print(&text)?;
                shown += 1;
            }
            Err(err) => {
                cli::report(&err);
                failed = true;
            }
        }
    }
    // Without one of them, Docker prints an empty array.
    let end = match (&style, shown) {
        (Style::Pretty | Style::Line, 0) => "[]\n",
        (Style::Pretty, _) => "\n]\n",
        (Style::Line, _) => "]\n",
        _ => "",
    };
    cli::print(end.as_bytes())?;
    match failed {
        true => Err(Reported.into()),
        false => Ok(()),
    }
}

/// Returns what stands before an element that `shown` others precede.
fn separator(style: &Style, shown: usize) -> &'static [u8] {
    match (style, shown) {
        (Style::Pretty, 0) => b"[\n",
        (Style::Pretty, _) => b",\n",
        (Style::Line, 0) => b"[",
        (Style::Line, _) => b",",
        _ => b"",
    }
}

fn show(args: &Args, store: &Store, operand: &Operand, style: &Style) -> Result<Vec<u8>> {
    let found = operand.find(store)?;
    let shown = || match document(args, &found)? {
        Some(bytes) => render(style, Shown::Document(bytes)),
        None => {
            let about = About::read(&found, args.platform.as_ref())?;
            render(style, Shown::About(Box::new(about)))
        }
    };
    shown().with_context(|| operand.to_string())
}

/// What is shown of an image.
enum Shown {
    /// A document's bytes.
    Document(Vec<u8>),
    /// What Docker says.
    About(Box<About>),
}

fn render(style: &Style, shown: Shown) -> Result<Vec<u8>> {
    let parse = |bytes: Vec<u8>| serde_json::from_slice::<Value>(&bytes);
    Ok(match (style, shown) {
        (Style::Template(template), shown) => {
            let value = match shown {
                Shown::Document(bytes) => parse(bytes)?,
                Shown::About(about) => about.to_value()?,
            };
            let mut text = template.render(&value).context("--format")?;
            text.push('\n');
            text.into_bytes()
        }
        (Style::Line, Shown::Document(bytes)) => serde_json::to_vec(&parse(bytes)?)?,
        (Style::Line, Shown::About(about)) => serde_json::to_vec(&about)?,
        (_, Shown::Document(bytes)) => bytes,
        (_, Shown::About(about)) => pretty(&about)?,
    })
}

/// Reads the document that was asked for by name.
fn document(args: &Args, found: &Found) -> Result<Option<Vec<u8>>> {
    let platform = args.platform.as_ref();
    let manifest = || match platform {
        // Only its config says what a single image is for.
        Some(_) => Ok(found.resolve(platform)?.desc),
        None => Ok::<_, anyhow::Error>(found.layout.manifest(&found.desc, &Platform::host())?.0),
    };
    let desc = match &args.document {
        Document { raw: true, .. } if platform.is_none() => found.desc.clone(),
        Document { raw: true, .. } | Document { manifest: true, .. } => manifest()?,
        Document { config: true, .. } => found.resolve(platform)?.manifest.config().clone(),
        _ => return Ok(None),
    };
    found.layout.read(&desc).map(Some)
}

/// Returns an element of the array, on lines of its own.
fn pretty(about: &About) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let format = serde_json::ser::PrettyFormatter::with_indent(b"    ");
    let mut serializer = serde_json::Serializer::with_formatter(&mut bytes, format);
    serde::Serialize::serialize(about, &mut serializer)?;
    // In JSON a line's end is never part of a text.
    let lines = String::from_utf8(bytes)?;
    let lines: Vec<String> = lines.lines().map(|line| format!("    {line}")).collect();
    Ok(lines.join("\n").into_bytes())
}
