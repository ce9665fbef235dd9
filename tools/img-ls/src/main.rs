//! Lists images.
//!
//! SIZE is what the image takes in the store: its blobs, as they are packed.

mod filter;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use common::cli::list::{Format, List, Row};
use common::cli::{self, Root};
use common::digest::Digest;
use common::facts::Facts;
use common::human;
use common::layout::Layout;
use common::platform::Platform;
use common::reference::Reference;
use common::store::Store;
use filter::{Filter, Filters};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use oci_spec::image::Descriptor;

/// List images
#[derive(Parser)]
#[command(version)]
struct Args {
    #[command(flatten)]
    root: Root,

    /// List unnamed images, too
    #[arg(short, long)]
    all: bool,

    /// Print a pinned name or an ID a line, for programs
    #[arg(short, long)]
    quiet: bool,

    /// List the blobs that the images are made of, a digest a line, instead
    #[arg(long, conflicts_with_all = ["quiet", "no_trunc", "digests", "format"])]
    blobs: bool,

    /// Print IDs whole
    #[arg(long)]
    no_trunc: bool,

    /// Show digests
    #[arg(long)]
    digests: bool,

    /// `table`, `table TEMPLATE`, `json` or a Go template
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,

    /// before=IMAGE, dangling=BOOL, label=KEY[=VALUE], reference=PATTERN, since=IMAGE or until=TIME
    #[arg(short, long = "filter", value_name = "FILTER")]
    filters: Vec<Filter>,

    /// Only names that match this one: NAME, NAME:TAG, or a pattern; or the image of NAME@DIGEST
    #[arg(value_name = "NAME")]
    pattern: Option<String>,
}

/// An image, as a list shows it.
#[derive(Clone)]
pub struct Image {
    name: Option<Reference>,
    digest: String,
    created: Option<Timestamp>,
    labels: BTreeMap<String, String>,
    size: u64,
}

fn main() -> ExitCode {
    cli::main(run)
}

fn run(args: Args) -> Result<()> {
    let store = args.root.open()?;
    let filters = Filters::new(&args.filters, &store)?;
    let mut images = images(&store, filters.want_labels())?;
    images.retain(|image| {
        (image.name.is_some() || args.all || args.blobs || filters.wants_unnamed())
            && filters.accept(image)
            && args.pattern.as_deref().is_none_or(|pattern| filter::is_meant(pattern, image))
    });
    if args.blobs {
        return blobs(&store.images, &images);
    }
    // The newest first, as Docker lists them.
    images.sort_by(|a, b| b.created.cmp(&a.created).then_with(|| a.name.cmp(&b.name)));
    if args.quiet {
        let lines: Vec<String> = images.iter().map(|image| image.pinned() + "\n").collect();
        return cli::print(lines.concat().as_bytes());
    }
    let list = List {
        columns: &[
            ("Repository", "REPOSITORY"),
            ("Tag", "TAG"),
            ("Digest", "DIGEST"),
            ("ID", "IMAGE ID"),
            ("CreatedSince", "CREATED"),
            ("CreatedAt", "CREATED AT"),
            ("Size", "SIZE"),
        ],
        table: match args.digests {
            true => "{{.Repository}}\t{{.Tag}}\t{{.Digest}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}"
                .into(),
            false => "{{.Repository}}\t{{.Tag}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}".into(),
        },
        config_key: Some("imagesFormat"),
    };
    let format = list.format(args.format.as_deref())?;
    let now = Timestamp::now();
    let rows = images.iter().map(|image| image.row(args.no_trunc, now, &format));
    cli::print(format.render(rows)?.as_bytes())
}

/// Prints the blobs of images, as far as they are here.
fn blobs(layout: &Layout, images: &[Image]) -> Result<()> {
    let wanted: HashSet<&str> = images.iter().map(|image| &*image.digest).collect();
    let mut blobs = BTreeSet::new();
    let index = layout.index()?;
    for entry in index.images().iter().filter(|entry| wanted.contains(entry.digest())) {
        blobs.extend(layout.reach(entry)?);
    }
    let is_here = |digest: &&Digest| layout.size(digest).is_some();
    let lines: Vec<String> = blobs.iter().filter(is_here).map(|blob| format!("{blob}\n")).collect();
    cli::print(lines.concat().as_bytes())
}

/// Returns the images of a store, reading each once, however many names it has.
fn images(store: &Store, labels: bool) -> Result<Vec<Image>> {
    let index = store.images.index()?;
    let mut facts = Facts::of(store);
    let mut read: HashMap<&str, Image> = HashMap::new();
    let mut images = Vec::with_capacity(index.images().len());
    for entry in index.images() {
        let name = entry.name().and_then(|name| name.parse().ok());
        // What is known already has no labels.
        if !labels && let Some(fact) = facts.learn(&store.images, entry) {
            let (digest, labels) = (entry.digest().to_owned(), BTreeMap::new());
            images.push(Image { name, digest, created: fact.created, labels, size: fact.size });
            continue;
        }
        let image = match read.get(entry.digest()) {
            Some(image) => image,
            None => {
                let image = Image::read(&store.images, None, &entry.descriptor()?);
                read.entry(entry.digest()).or_insert(image)
            }
        };
        images.push(Image { name, ..image.clone() });
    }
    facts.save(index.images());
    Ok(images)
}

impl Image {
    /// Reads what the list shows. What cannot be read is not shown: a list of what is here must not fail for one image.
    fn read(layout: &Layout, name: Option<Reference>, desc: &Descriptor) -> Image {
        let digest = desc.digest().to_string();
        let mut image =
            Image { name, digest, created: None, labels: BTreeMap::new(), size: desc.size() };
        match layout.resolve(desc, &Platform::host()) {
            Ok(resolved) => {
                image.size = resolved.size();
                let config = resolved.config;
                image.created = config.created().as_ref().and_then(|created| created.parse().ok());
                let labels = config.config().as_ref().and_then(|config| config.labels().clone());
                image.labels.extend(labels.unwrap_or_default());
            }
            Err(err) => cli::report(&err.context(image.digest.clone())),
        }
        image
    }

    /// Returns the name with its digest, or the digest alone.
    fn pinned(&self) -> String {
        match (&self.name, self.digest.parse()) {
            (Some(name), Ok(digest)) => name.at(&digest),
            _ => self.digest.clone(),
        }
    }

    /// Returns what is shown of it.
    fn row(&self, no_trunc: bool, now: Timestamp, format: &Format) -> Row {
        let none = || "<none>".to_owned();
        let unknown = || "N/A".to_owned();
        let mut row = Row::new();
        // Of ten thousand images, what nobody sees takes time all the same.
        let mut put = |field: &str, value: &dyn Fn() -> String| {
            if format.shows(field) {
                row.insert(field.to_owned(), value().into());
            }
        };
        let name = self.name.as_ref();
        put("Repository", &|| name.map_or_else(none, Reference::familiar));
        put("Tag", &|| name.and_then(Reference::tag).map_or_else(none, str::to_owned));
        put("Digest", &|| self.digest.clone());
        put("ID", &|| match (no_trunc, self.digest.parse::<Digest>()) {
            (false, Ok(digest)) => digest.short(),
            _ => self.digest.clone(),
        });
        put("CreatedSince", &|| {
            let age = |created| human::age(now.duration_since(created).as_secs());
            self.created.map_or_else(unknown, age)
        });
        put("CreatedAt", &|| {
            let at = |created: Timestamp| {
                let created = created.to_zoned(TimeZone::system());
                created.strftime("%Y-%m-%d %H:%M:%S %z %Z").to_string()
            };
            self.created.map_or_else(unknown, at)
        });
        put("Size", &|| human::size(self.size));
        row
    }
}
