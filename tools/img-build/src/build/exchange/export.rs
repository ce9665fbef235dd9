//! The results of a build, for others: `--cache-to`.
//!
//! They replace what was there as one change of a name, once the image is done: a
//! build that fails or is killed leaves the cache as it was.

use std::collections::BTreeSet;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use common::layout::{Layout, Writing};
use common::store::Store;
use common::{cli, image, sys};

use super::place::Place;
use super::{Done, artifact};

/// Writes the results of steps to a place; their layers are in the store.
pub fn write(place: &Place, steps: &[Done], store: &Store, writing: &Writing) -> Result<()> {
    let mut seen = BTreeSet::new();
    let steps: Vec<Done> = steps.iter().filter(|step| seen.insert(step.key)).cloned().collect();
    match place {
        Place::Layout(dir, name) => {
            let layout = Layout::create(dir.path())?;
            let there = layout.writing()?;
            let unfinished = there.unfinished();
            cli::on_interrupt(move || unfinished.remove())?;
            for Done { layer: (desc, _), .. } in &steps {
                there.bring_blob(&store.images, desc)?;
            }
            there.tag(name, &artifact::write(&there, &steps)?, None)
        }
        Place::Registry(name) => {
            // Beside its layers, where it costs nothing; img-prune knows nobody who needs it.
            let digest = image::digest(&artifact::write(writing, &steps)?)?;
            let mut push = Command::new(cli::program("img-push"));
            push.args(["--quiet", "--", &digest.to_string(), &name.to_string()]);
            push.env("TARE_ROOT", store.root()).stdin(Stdio::null()).stdout(Stdio::null());
            sys::end_with_us(&mut push);
            let status = push.status().context("img-push")?;
            ensure!(status.success(), "img-push cannot push it");
            Ok(())
        }
    }
}
