//! The results of a build, for others: `--cache-to`.
//!
//! They replace what was there as one change of a name, once the image is done: a
//! build that fails or is killed leaves the cache as it was.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};
use common::layout::{Layout, Writing};
use common::store::Store;
use common::{cli, image};

use super::place::Place;
use super::{Done, artifact};
use crate::output::deliver::img_push;

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
            let args = ["--quiet", "--", &digest.to_string(), &name.to_string()];
            ensure!(img_push(&args, store)?, "img-push cannot push it");
            Ok(())
        }
    }
}
