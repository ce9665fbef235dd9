//! From an image in the store to what `-o` asks for.

use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use common::cli;
use common::error::{Hint, Usage};
use common::files::Files;
use common::image;
use common::layout::{Layout, Writing};
use common::platform::Platform;
use common::reference::Reference;
use common::snapshot::Snapshot;
use common::store::Store;
use common::sys;
use oci_spec::image::Descriptor;

use super::{Kind, Output, archive, local, tar};
use crate::build::log::Style;
use crate::run::check_root;

/// What was built.
pub struct Made<'a> {
    /// Where its layers are unpacked.
    pub store: &'a Store,
    /// Where it is.
    pub layout: &'a Layout,
    /// The image, or the index of several.
    pub desc: &'a Descriptor,
    /// The images, each for its platform.
    pub images: &'a [(Descriptor, Platform)],
    /// What `-t` calls it.
    pub names: &'a [Reference],
    /// How much is said of a push.
    pub style: Style,
}

/// An output that can be written to, as far as one can see before there is anything to write.
pub struct Sink {
    output: Output,
    file: Option<cli::Output>,
}

/// Looks at where outputs go. Nothing is touched yet.
pub fn look(outputs: &[Output]) -> Result<Vec<Sink>> {
    let on_stdout = |output: &&Output| match &output.kind {
        Kind::Tar { dest, .. } | Kind::Archive { dest, .. } => dest.is_none(),
        _ => false,
    };
    let streams = outputs.iter().filter(on_stdout).count();
    let lines = usize::from(outputs.iter().any(|output| output.names_image()));
    ensure!(streams + lines * streams.min(1) <= 1, Usage("-o: two results go to stdout".into()));
    let look = |output: &Output| {
        let file = match &output.kind {
            Kind::Tar { dest, .. } | Kind::Archive { dest, .. } => {
                Some(cli::Output::new(dest.as_deref(), "-o type=...,dest=FILE")?)
            }
            _ => None,
        };
        Ok(Sink { output: output.clone(), file })
    };
    outputs.iter().map(look).collect()
}

impl Output {
    /// Returns whether the image gets its names, and is what the result line is about.
    pub fn names_image(&self) -> bool {
        matches!(self.kind, Kind::Image { .. })
    }
}

impl Sink {
    /// Writes it. An image has its names already.
    pub fn write(self, made: &Made) -> Result<()> {
        let several = made.images.len() > 1;
        let names = made.names.iter().chain(&self.output.names).cloned().collect::<Vec<_>>();
        match (&self.output.kind, self.file) {
            (Kind::Local { dest, platform_split }, _) => {
                for (name, snapshot) in snapshots(made, platform_split.unwrap_or(several))? {
                    let mut below = Files::new();
                    snapshot.layers().try_for_each(|layer| layer.put_on(&mut below))?;
                    warn(&local::write(snapshot.tree()?.as_fd(), &below, &dest.join(name))?);
                }
                Ok(())
            }
            (Kind::Tar { platform_split, .. }, Some(file)) => {
                let snapshots = snapshots(made, platform_split.unwrap_or(several))?.into_iter();
                // The mount keeps its layers.
                let trees = snapshots.map(|(name, snapshot)| Ok((name, snapshot.tree()?)));
                warn(&tar::write(&trees.collect::<Result<Vec<_>>>()?, file)?);
                Ok(())
            }
            (Kind::Archive { docker, .. }, Some(file)) => {
                archive(made.layout, made.desc, &names, *docker, file)
            }
            (Kind::Layout { dir }, _) => bring(made, dir, |layout| name(layout, made.desc, &names)),
            (Kind::Image { push: true }, _) => push(made, &names),
            _ => Ok(()),
        }
    }
}

fn warn(warnings: &[String]) {
    warnings.iter().for_each(cli::warn);
}

/// Puts the image into a layout, and lets `name` name it there.
pub fn bring(made: &Made, dir: &Path, name: impl FnOnce(&Writing) -> Result<()>) -> Result<()> {
    let layout = Layout::create(dir)?;
    let writing = layout.writing()?;
    let unfinished = writing.unfinished();
    cli::on_interrupt(move || unfinished.remove())?;
    for (desc, platform) in made.images {
        writing.bring(made.layout, &made.layout.resolve(desc, platform)?)?;
    }
    if made.images.len() > 1 {
        writing.put_as(&image::digest(made.desc)?, &made.layout.read(made.desc)?)?;
    }
    name(&writing)
}

/// Gives an image its names; without one it is kept by its digest.
pub fn name(writing: &Writing, desc: &Descriptor, names: &[Reference]) -> Result<()> {
    if names.is_empty() {
        return writing.keep(desc);
    }
    names.iter().try_for_each(|name| writing.tag(name, desc, None))
}

/// Returns the layers of the images, unpacked; apart, each with the name of its platform.
fn snapshots(made: &Made, apart: bool) -> Result<Vec<(String, Snapshot)>> {
    if made.images.len() > 1 && !apart {
        let err: Result<()> = Err(Usage("platform-split=false: there are several".into()).into());
        err.hint(|| "one --platform".into())?;
    }
    let one = |(desc, platform): &(Descriptor, Platform)| {
        let found = made.layout.resolve(desc, platform)?;
        let layers = image::layers(&found.manifest, &found.config)?;
        check_root()?;
        let snapshot = Snapshot::prepare(&made.store.layers(), made.layout, &layers)?;
        warn(&snapshot.warnings);
        let name = if apart { platform.to_string().replace('/', "_") } else { String::new() };
        Ok((name, snapshot))
    };
    made.images.iter().map(one).collect()
}

/// Runs img-push for each name.
fn push(made: &Made, names: &[Reference]) -> Result<()> {
    ensure!(!names.is_empty(), Usage("push=true: the image has no name".into()));
    for name in names {
        let args = [made.style.option(), "--", &name.to_string()];
        ensure!(img_push(&args, made.store)?, "{name}: img-push cannot push it");
    }
    Ok(())
}

/// Runs img-push on the store, which does not outlive this thread; returns whether it has pushed.
pub fn img_push(args: &[&str], store: &Store) -> Result<bool> {
    let mut push = Command::new(cli::program("img-push"));
    push.args(args).env("TARE_ROOT", store.root());
    // The line that it prints is about a registry, and ours about the store.
    push.stdin(Stdio::null()).stdout(Stdio::null());
    sys::end_with_us(&mut push);
    Ok(push.status().context("img-push")?.success())
}
