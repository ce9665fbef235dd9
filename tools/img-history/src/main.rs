//! Shows how an image was made: the steps in its config, the last one first.
//!
//! SIZE is what the layer of a step takes in the store, as it is packed. How much
//! it is unpacked, Docker knows from its snapshots; no document of an image says.

use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use clap::{ArgAction, Parser};
use common::cli::list::{List, Row};
use common::cli::{self, Operand, Root};
use common::confine::{Allowed, confine};
use common::layout::Resolved;
use common::platform::Platform;
use common::{human, image};
use jiff::Timestamp;
use jiff::tz::{Offset, TimeZone};
use oci_spec::image::{Descriptor, History, HistoryBuilder};

/// How wide CREATED BY is at most, unless it is to be shown whole.
const CREATED_BY: usize = 45;
/// The ID of a step whose result is no image.
const MISSING: &str = "<missing>";

/// Show how an image was made
#[derive(Parser)]
#[command(version)]
struct Args {
    #[command(flatten)]
    root: Root,

    /// `table`, `table TEMPLATE`, `json` or a Go template
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,

    /// Print sizes and times for people, not for programs
    #[arg(
        short = 'H', long, value_name = "BOOL", action = ArgAction::Set, num_args = 0..=1, require_equals = true,
        default_value_t = true, default_missing_value = "true"
    )]
    human: bool,

    /// Do not shorten IDs and commands
    #[arg(long)]
    no_trunc: bool,

    /// Print IDs only
    #[arg(short, long)]
    quiet: bool,

    /// Of an image for several platforms, the one for this, not for this machine
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    platform: Option<Platform>,

    /// The image
    image: Operand,
}

fn main() -> ExitCode {
    cli::main(run)
}

fn run(args: Args) -> Result<()> {
    let store = args.root.open()?;
    confine(&Allowed { write: &[store.root()], ..Allowed::default() })?;
    let found = args.image.find(&store)?;
    let subject = || args.image.to_string();
    let image = found.resolve(args.platform.as_ref()).with_context(subject)?;
    let id = image::digest(if args.platform.is_some() { &image.desc } else { &found.desc })?;
    let id = if args.no_trunc { id.to_string() } else { id.short() };

    let steps = steps(&image).with_context(subject)?;
    let ids = std::iter::once(id.as_str()).chain(std::iter::repeat(MISSING));
    if args.quiet {
        let lines: String = ids.take(steps.len()).map(|id| format!("{id}\n")).collect();
        return cli::print(lines.as_bytes());
    }
    let list = List {
        columns: &[
            ("ID", "IMAGE"),
            ("CreatedSince", "CREATED"),
            ("CreatedAt", "CREATED AT"),
            ("CreatedBy", "CREATED BY"),
            ("Size", "SIZE"),
            ("Comment", "COMMENT"),
        ],
        table: match args.human {
            true => "{{.ID}}\t{{.CreatedSince}}\t{{.CreatedBy}}\t{{.Size}}\t{{.Comment}}".into(),
            false => "{{.ID}}\t{{.CreatedAt}}\t{{.CreatedBy}}\t{{.Size}}\t{{.Comment}}".into(),
        },
        config_key: None,
    };
    let format = list.format(args.format.as_deref())?;
    // To find it, all zones that there are may be looked at.
    let zone = match format.shows("CreatedAt") {
        true => TimeZone::system(),
        false => TimeZone::UTC,
    };
    let rows = steps.iter().zip(ids);
    let rows = rows.map(|((step, layer), id)| row(&args, &zone, id, step, *layer));
    cli::print(format.render(rows)?.as_bytes())
}

/// Returns the steps, the last one first, each with its layer if it made one.
///
/// A layer that no step speaks of is a step of which nothing is known.
fn steps(image: &Resolved) -> Result<Vec<(History, Option<&Descriptor>)>> {
    let layers = image.manifest.layers();
    let mut left = layers.iter();
    let mut steps = Vec::new();
    for step in image.config.history().iter().flatten() {
        let layer = match step.empty_layer() {
            Some(true) => None,
            _ => {
                let layer = left.next();
                ensure!(
                    layer.is_some(),
                    "corrupt: its history speaks of more layers than the {} that there are",
                    layers.len()
                );
                layer
            }
        };
        steps.push((step.clone(), layer));
    }
    for layer in left {
        steps.push((HistoryBuilder::default().build()?, Some(layer)));
    }
    steps.reverse();
    Ok(steps)
}

fn row(args: &Args, zone: &TimeZone, id: &str, step: &History, layer: Option<&Descriptor>) -> Row {
    let created: Option<Timestamp> = step.created().as_ref().and_then(|time| time.parse().ok());
    let since = created
        .filter(|created| *created > Timestamp::UNIX_EPOCH)
        .map(|created| human::age(Timestamp::now().duration_since(created).as_secs()));
    let command = step.created_by().as_deref().unwrap_or_default().replace('\t', " ");
    let bytes = layer.map_or(0, Descriptor::size);
    let fields = [
        ("ID", id.to_owned()),
        ("CreatedSince", since.unwrap_or_else(|| "N/A".into())),
        ("CreatedAt", created.map_or_else(|| "N/A".into(), |created| local(created, zone))),
        (
            "CreatedBy",
            match args.no_trunc {
                true => command,
                false => human::cut(&command, CREATED_BY),
            },
        ),
        ("Size", if args.human { human::size(bytes) } else { bytes.to_string() }),
        ("Comment", step.comment().clone().unwrap_or_default()),
    ];
    fields.into_iter().map(|(field, value)| (field.to_owned(), value.into())).collect()
}

/// Returns a moment as clocks show it there, in the words of Go's RFC3339.
fn local(moment: Timestamp, zone: &TimeZone) -> String {
    let offset = zone.to_offset(moment);
    match offset == Offset::UTC {
        true => format!("{moment:.0}"),
        false => format!("{:.0}", moment.display_with_offset(offset)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_local() {
        let moment: Timestamp = "2004-07-01T23:30:00.5Z".parse().unwrap();
        let zone = |text: &str| TimeZone::posix(text).unwrap();
        for (zone, expected) in [
            (TimeZone::UTC, "2004-07-01T23:30:00Z"),
            (zone("EST5EDT,M4.1.0,M10.5.0"), "2004-07-01T19:30:00-04:00"),
            (zone("IST-5:30"), "2004-07-02T05:00:00+05:30"),
        ] {
            assert_eq!(local(moment, &zone), expected);
        }
    }
}
