//! A step: a layer on top of those that are there, by its key, or made.

mod copied;
mod ran;

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use common::cli;
use common::digest::Digest;
use common::error;
use common::files::{Files, Unkept};
use common::layer::changes::difference;
use common::layer::pack::{Packed, Packer};
use common::snapshot::{Lower, Snapshot};

use super::cache::{Layer, chain_id};
use super::exchange::Done;
use super::key::Inputs;
use super::log::Step;
use super::{Build, Built, Named};
use crate::dockerfile::instruction::{Instruction, Operation};
use crate::dockerfile::mount::Mount;
use crate::dockerfile::stages::Base;
use crate::run;
use crate::source::Tree;

/// A stage's image so far, and what it takes to put another layer on it.
pub struct Work<'a> {
    build: &'a Build<'a>,
    /// What there is.
    pub state: Built,
    /// Its layers, unpacked, once somebody has asked for them.
    snapshot: Option<Snapshot>,
    /// The same with the layer that is being made, if that is unpacked as well.
    next: Option<Snapshot>,
}

/// A step of a Dockerfile.
pub struct Asked<'a> {
    /// The instruction, its variables replaced.
    pub instruction: &'a Instruction,
    /// The mounts of RUN, the same.
    pub mounts: &'a [Mount],
    /// Where it is: of a step in the same place it is said what differs.
    pub place: Digest,
    /// What it says, as it is written, and as the history will have it.
    pub text: &'a str,
    /// See `text`.
    pub created_by: String,
    /// It is done anew, whatever there is.
    pub anew: bool,
    /// The layers are going to be unpacked, if not for this step: for one that runs something, say.
    pub unpacks: bool,
    /// What is said meanwhile.
    pub log: &'a Step,
}

impl<'a> Work<'a> {
    /// Goes on from this.
    pub fn new(build: &'a Build<'a>, state: Built) -> Work<'a> {
        Work { build, state, snapshot: None, next: None }
    }

    /// Does a step: puts its layer on top.
    pub fn step(&mut self, asked: &Asked) -> Result<()> {
        let layer = match &asked.instruction.operation {
            Operation::Run(run) => self.run(asked, run)?,
            Operation::Workdir(_) => self.workdir(asked)?,
            operation => self.copy(asked, operation)?,
        };
        self.state.layers.push(layer);
        self.snapshot = self.next.take();
        Ok(())
    }

    /// Returns the inputs that all steps have.
    fn inputs(&self, kind: &str, on_base: bool) -> Inputs {
        let mut inputs = Inputs::of(kind);
        if on_base {
            let base = self.state.chain_id();
            inputs.add("base", base.map_or("scratch".into(), |id| id.to_string()));
        }
        inputs.add("epoch", self.state.epoch);
        inputs.add("compression", self.build.request.steps.compression.to_string());
        inputs
    }

    /// Returns the layer of a step with these inputs: it is there, or it is made.
    fn layer(
        &mut self,
        asked: &Asked,
        inputs: &Inputs,
        make: impl FnOnce(&mut Self) -> Result<Packed>,
    ) -> Result<Layer> {
        let Build { request, cache, imports, writing, .. } = self.build;
        let inputs = &{
            // Last, since what it says is what most of the others say.
            let mut inputs = inputs.clone();
            inputs.add("instruction", asked.created_by.as_str());
            inputs
        };
        let anew = asked.anew || request.steps.no_cache;
        let key = inputs.key();
        let here = || Some((cache.find(&key, writing.layout())?, None));
        let elsewhere = || {
            let (layer, place) = imports.find(&key, writing, asked.log)?;
            Some((layer, Some(place)))
        };
        let found = if anew { None } else { here().or_else(elsewhere) };
        let before = cache.last(&asked.place, inputs);
        let layer = match found {
            Some((layer, from)) => {
                asked.log.cached(asked.text);
                if let Some(place) = from {
                    cache.keep(inputs, &layer)?;
                    if request.steps.explain {
                        asked.log.explain(&format!("hit: from {place}"));
                    }
                }
                layer
            }
            None => {
                asked.log.begins(asked.text);
                if request.steps.explain {
                    asked.log.explain(&match before.map(|before| inputs.differs(&before)) {
                        _ if anew => "miss: it was to be done anew".into(),
                        None => "miss: it is done for the first time".to_owned(),
                        Some(None) => "miss: its result is not here any more".into(),
                        Some(Some(difference)) => format!("miss: {difference}"),
                    });
                }
                let Packed { desc, diff_id, table, .. } = make(self)?;
                if let Some(table) = table {
                    self.build.tables.keep(&diff_id, table);
                }
                let layer = (desc, diff_id);
                cache.keep(inputs, &layer)?;
                asked.log.done();
                layer
            }
        };
        self.state.steps.push(Done { key, layer: layer.clone() });
        Ok(layer)
    }

    fn packer(&self) -> Result<Packer<'a>> {
        Packer::new(self.build.writing, self.build.request.steps.compression)
    }

    /// Returns the layers so far, unpacked.
    fn snapshot(&mut self) -> Result<&Snapshot> {
        if self.snapshot.is_none() {
            self.snapshot = Some(unpacked(self.build, &self.state.layers)?);
        }
        self.snapshot.as_ref().context("no snapshot")
    }

    /// Makes a layer of what is asked of the files so far, unpacked or not.
    fn on_base(
        &mut self,
        asked: &Asked,
        make: impl Fn(&Self, &Files) -> Result<Packed>,
    ) -> Result<Packed> {
        if let Some(files) = self.files(asked)? {
            match make(self, &files) {
                Err(err) if error::find::<Unkept>(&err).is_some() => {}
                made => return made,
            }
        }
        let mut files = Files::new();
        files.push_tree(self.snapshot()?.tree()?, None, ());
        make(self, &files)
    }

    /// Returns the files so far, without a mount; nothing, if they must be mounted to be known.
    ///
    /// Layers are unpacked if they must be for a later step. Of those that are not, tables are made.
    fn files(&mut self, asked: &Asked) -> Result<Option<Files>> {
        let Build { store, writing, tables, .. } = self.build;
        let layers = &self.state.layers;
        let mut files = Files::new();
        let mut there = match &self.snapshot {
            Some(_) => Vec::new(),
            None => Lower::of(&store.layers(), layers)?,
        };
        let mut all = there.iter().zip(layers);
        let known = |(there, layer): (&Option<Lower>, &Layer)| {
            there.is_some() || tables.get(&layer.1).is_some()
        };
        if self.snapshot.is_some() || asked.unpacks && !all.all(known) {
            there.clear();
            self.snapshot()?.layers().try_for_each(|layer| layer.put_on(&mut files))?;
            return Ok(Some(files));
        }
        for (there, (desc, diff_id)) in there.into_iter().zip(layers) {
            match there {
                Some(layer) => layer.put_on(&mut files)?,
                None if files.push_table(tables.of(writing.layout(), desc, diff_id)?)? => {}
                None => return Ok(None),
            }
        }
        Ok(Some(files))
    }

    /// Makes the working directory.
    fn workdir(&mut self, asked: &Asked) -> Result<Layer> {
        let Operation::Workdir(dir) = &asked.instruction.operation else { bail!("not WORKDIR") };
        let (dir, user) = (&*self.state.config.absolute(dir), self.state.config.user());
        let mut inputs = self.inputs("WORKDIR", true);
        inputs.add("directory", dir);
        inputs.add("user", user);
        let (dir, user) = (dir.to_owned(), user.to_owned());
        self.layer(asked, &inputs, |work| {
            work.on_base(asked, |work, base| {
                let packer = work.packer()?.tabulate();
                crate::copy::make_directory(base, &dir, &user, work.state.epoch, packer)
            })
        })
    }

    /// Returns what an instruction takes files from: a stage, an image, a named context.
    fn taken(&self, from: &Base) -> Result<Taken<'a>> {
        let build = self.build;
        let layers = match from {
            Base::Scratch => Vec::new(),
            Base::Stage(stage) => build.wait(*stage)?.layers.clone(),
            Base::Image(name) => {
                build.image(&name.parse()?, &build.request.told.platform)?.layers.clone()
            }
            Base::Context(name) => match build.request.contexts.get(name) {
                Some(Named::Tree(tree)) => return Ok(Taken::Files(tree)),
                Some(Named::Image(operand)) => {
                    build.image(operand, &build.request.told.platform)?.layers.clone()
                }
                None => bail!("{name}: there is no such context"),
            },
        };
        let name = match from {
            Base::Stage(stage) => format!("stage {}", build.graph.name(*stage)),
            Base::Image(name) | Base::Context(name) => name.clone(),
            Base::Scratch => "scratch".into(),
        };
        Ok(Taken::Layers { name, layers })
    }
}

/// What an instruction takes files from.
enum Taken<'a> {
    /// Files that anybody may change.
    Files(&'a Tree),
    /// The layers of a stage or an image, which nobody does.
    Layers {
        /// What it is called.
        name: String,
        /// The layers.
        layers: Vec<Layer>,
    },
}

/// Returns what stands for layers in a key.
fn identity(layers: &[Layer]) -> Digest {
    chain_id(layers).unwrap_or_else(|| Digest::of(b""))
}

/// Returns layers as a tree of files.
fn tree_of(build: &Build, name: &str, layers: &[Layer]) -> Result<Tree> {
    let snapshot = unpacked(build, layers)?;
    let root = snapshot.tree()?;
    let keep = Box::new(snapshot);
    Ok(Tree { root, name: name.into(), path: None, ignore: None, foreign: false, keep })
}

fn unpacked(build: &Build, layers: &[Layer]) -> Result<Snapshot> {
    run::check_root()?;
    let snapshot = Snapshot::prepare(&build.store.layers(), build.writing.layout(), layers)?;
    snapshot.warnings.iter().for_each(cli::warn);
    Ok(snapshot)
}

/// Makes one layer of all that are above the base's.
pub fn squash(build: &Build, built: &mut Built) -> Result<()> {
    let kept = built.base.as_ref().map_or(0, |base| base.layers.len());
    if built.layers.len() <= kept + 1 {
        return Ok(());
    }
    let before = tree_of(build, "base", &built.layers[..kept])?;
    let after = tree_of(build, "image", &built.layers)?;
    let path = |tree: &Tree| {
        use std::os::fd::AsRawFd;
        PathBuf::from(format!("/proc/self/fd/{}/.", tree.root.as_raw_fd()))
    };
    let mut packer = Packer::new(build.writing, build.request.steps.compression)?;
    difference(&path(&before), &path(&after), built.epoch, &mut packer)?;
    let Packed { desc, diff_id, .. } = packer.finish()?;
    built.layers.truncate(kept);
    built.layers.push((desc, diff_id));
    built.config.squash(kept, "squashed".into(), built.epoch)
}
