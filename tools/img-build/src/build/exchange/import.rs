//! A step's result from a cache that `--cache-from` names.
//!
//! A cache is opened when the first step is not here, and then once: of one in a
//! registry img-pull brings what it has, and later each layer that is wanted. That
//! a cache cannot be read is said, and what it would have had is made.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use anyhow::{Context, Result, anyhow, ensure};
use common::digest::Digest;
use common::layout::{Layout, Writing};
use common::reference::Reference;
use common::{cli, error, layer, sys};
use tempfile::TempDir;

use super::artifact::{self, Known};
use super::place::{Import, Place};
use crate::build::cache::Layer;
use crate::build::log::{Step, Style};
use crate::source::Elsewhere;

/// How much is read of what img-pull has to say.
const SAID: u64 = 16 << 10;

/// The caches that may be asked.
pub struct Imports<'a> {
    caches: Vec<Cache<'a>>,
    elsewhere: &'a Elsewhere<'a>,
    style: Style,
}

/// A cache, once somebody has asked for it.
struct Cache<'a> {
    place: &'a Place,
    opened: OnceLock<Option<Opened>>,
}

/// What a cache has.
struct Opened {
    layout: Layout,
    steps: BTreeMap<Digest, Known>,
    /// Where layers come from that the layout does not have, and what keeps the layout.
    remote: Option<(Reference, TempDir, OwnedFd)>,
}

impl<'a> Imports<'a> {
    /// Asks these, one after the other. What comes from registries lies `elsewhere` in the meantime.
    pub fn new(imports: &'a [Import], elsewhere: &'a Elsewhere<'a>, style: Style) -> Imports<'a> {
        let cache = |import: &'a Import| Cache { place: &import.0, opened: OnceLock::new() };
        Imports { caches: imports.iter().map(cache).collect(), elsewhere, style }
    }

    /// Returns the layer that a step with this key gave, brought here and verified, and who had it.
    pub fn find(&self, key: &Digest, here: &Writing, log: &Step) -> Option<(Layer, &'a Place)> {
        for Cache { place, opened } in &self.caches {
            let said = |err: anyhow::Error| {
                log.warn(&format!("--cache-from {place}: {}", error::line(&err)));
            };
            let opened = opened.get_or_init(|| self.open(place).map_err(said).ok());
            let Some(opened) = opened else { continue };
            let Some(known) = opened.steps.get(key) else { continue };
            match opened.bring(known, here, self.style) {
                Ok(layer) => return Some((layer, place)),
                Err(err) => said(err.context("a result that is not used")),
            }
        }
        None
    }

    fn open(&self, place: &Place) -> Result<Opened> {
        let name = match place {
            Place::Layout(dir, name) => {
                let layout = Layout::open(dir.path())?;
                let desc = layout.index()?.find(&name.to_string())?;
                let steps = artifact::read(&layout, &desc.context("there is none of this name")?)?;
                return Ok(Opened { layout, steps, remote: None });
            }
            Place::Registry(name) => name,
        };
        let (dir, lock) = self.elsewhere.directory()?;
        // Not in the directory itself, which is locked as long as it lasts.
        let layout = Layout::create(dir.path().join("layout"))?;
        // An image is for other platforms, and so it is known for one before its layers come.
        let platform = format!("--platform={}", artifact::platform());
        let mut child = pull(&layout, name)
            .args(["--quiet", &platform])
            .stderr(Stdio::piped())
            .spawn()
            .context("img-pull")?;
        let mut said = String::new();
        if let Some(stderr) = child.stderr.take() {
            // What cannot be read is missed by nobody but by who reads the warning.
            let _ = stderr.take(SAID).read_to_string(&mut said);
        }
        if !child.wait().context("img-pull")?.success() {
            let line = said.lines().find(|line| !line.starts_with("hint: ")).unwrap_or_default();
            let line = line.strip_prefix("img-pull: ").unwrap_or(line);
            let why = line.strip_prefix(&format!("{name}: ")).unwrap_or(line);
            return Err(anyhow!("{why}"));
        }
        let index = layout.index()?;
        let [image] = index.images() else { anyhow::bail!("img-pull has named nothing") };
        let steps = artifact::read(&layout, &image.descriptor()?)?;
        Ok(Opened { layout, steps, remote: Some((name.clone(), dir, lock)) })
    }
}

impl Opened {
    /// Brings the layer of a step, if it is one, and unpacks to what it is said to.
    fn bring(&self, known: &Known, here: &Writing, style: Style) -> Result<Layer> {
        if let Some((name, ..)) = &self.remote {
            let name: Reference = format!("{}@{}", name.repository(), known.manifest).parse()?;
            let status =
                pull(&self.layout, &name).arg(style.option()).status().context("img-pull")?;
            ensure!(status.success(), "img-pull cannot get {}", known.manifest);
        }
        let desc = artifact::layer(&self.layout, known)?;
        // Nobody may unpack it for a long time, and the image would be wrong until then.
        let file: File = self.layout.open_blob(&desc)?;
        let found = layer::scan(file, &desc).context("not a layer")?.diff_id;
        ensure!(found == known.diff_id, "its layer unpacks to {found}, not {}", known.diff_id);
        here.bring_blob(&self.layout, &desc)?;
        Ok((desc, known.diff_id))
    }
}

/// Returns img-pull as it brings something into a layout.
fn pull(layout: &Layout, name: &Reference) -> Command {
    let mut pull = Command::new(cli::program("img-pull"));
    pull.arg("--layout").arg(layout.dir()).arg(name.to_string());
    pull.stdin(Stdio::null()).stdout(Stdio::null());
    sys::end_with_us(&mut pull);
    pull
}
