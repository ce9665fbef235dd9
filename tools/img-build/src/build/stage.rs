//! A stage: from what it is based on, instruction by instruction, to its layers and its config.

use std::sync::Arc;

use anyhow::{Result, ensure};
use common::digest::Digest;
use common::error;
use common::image::LAYERS;

use super::config::{Config, epoch_of};
use super::history::created_by;
use super::log::{Place, Step};
use super::step::{Asked, Work};
use super::{Build, Built};
use crate::dockerfile::expand::{Expanded, expand};
use crate::dockerfile::instruction::{Instruction, Operation};
use crate::dockerfile::scope::{Scope, Variables};
use crate::dockerfile::stages::{Base, trigger};
use crate::dockerfile::words::Lexer;
use crate::error::Error;

/// Builds a stage, and waits for those that it needs when it needs them.
pub fn build(build: &Build, index: usize) -> Result<Built> {
    let file = build.request.file;
    let stage = &file.stages[index];
    let node = &build.graph.stages[index];
    let (state, files) = begin(build, index)?;
    let instructions: Vec<Instruction> =
        files.iter().chain(&node.triggers).chain(&stage.instructions).cloned().collect();

    let several = build.graph.stages.len() > 1;
    let place = Place {
        stage: several.then(|| build.graph.name(index)),
        step: 1,
        of: 1 + instructions.iter().filter(|one| is_step(&one.operation)).count(),
    };
    Step::new(build.request.steps.style, place.clone()).begins(&stage.begin.source);
    let mut stage = Stage {
        build,
        index,
        place,
        work: Work::new(build, state),
        escape: file.escape,
        unpacks: false,
    };
    for (n, instruction) in instructions.iter().enumerate() {
        ensure!(!build.has_failed(), "another stage has failed");
        stage.unpacks = build.request.squash
            || build.unpacked.contains(&index)
            || instructions[n + 1..].iter().any(|later| is_run(&later.operation));
        stage.take(n, instruction).map_err(|err| stage.located(err, instruction))?;
    }
    Ok(stage.work.state)
}

/// Returns whether an instruction makes a layer, as a rule.
fn is_step(operation: &Operation) -> bool {
    use Operation::*;
    matches!(operation, Add(_) | Copy(_) | Run(_) | Workdir(_))
}

/// Returns whether an instruction needs all layers below it unpacked.
pub fn is_run(operation: &Operation) -> bool {
    matches!(operation, Operation::Run(_))
}

/// Returns what a stage begins with: an image, or nothing and an instruction that copies files.
fn begin(build: &Build, index: usize) -> Result<(Built, Option<Instruction>)> {
    let node = &build.graph.stages[index];
    let told = &build.request.told;
    let nothing = || {
        let config = Config::empty(&told.platform);
        let scope = Scope::on(Variables::of(config.env()));
        let epoch = build.request.epoch.unwrap_or(0);
        Built { layers: Vec::new(), config, scope, epoch, base: None, steps: Vec::new() }
    };
    let image = match &node.base {
        Base::Scratch => return Ok((nothing(), None)),
        Base::Stage(below) => {
            let mut built = (*build.wait(*below)?).clone();
            // What ENV said counts again, whatever an ARG has said behind it.
            for (name, value) in Variables::of(built.config.env()).iter() {
                built.scope.variables.set(name, value);
            }
            built.config.begin_stage();
            built.config.take_triggers(); // the graph has them
            return Ok((built, None));
        }
        Base::Image(name) | Base::Context(name) => match build.base(index)? {
            Some(image) => image,
            // Files are what they would be if they were copied: root's, with their modes.
            None => {
                let files = trigger(&format!("COPY --from={name} . /"), node.line);
                let files = files.map_err(|err| err.of("FROM").in_file(build.request.name))?;
                let files = Instruction { keyword: "FROM".into(), ..files };
                return Ok((nothing(), Some(files)));
            }
        },
    };
    let mut config = build.base_config(index, &image)?;
    config.take_triggers(); // the graph has them
    let scope = Scope::on(Variables::of(config.env()));
    let epoch = image.created.as_deref().and_then(epoch_of);
    let epoch = build.request.epoch.or(epoch).unwrap_or(0);
    let layers = image.layers.clone();
    let base = Some(Arc::clone(&image));
    Ok((Built { layers, config, scope, epoch, base, steps: Vec::new() }, None))
}

/// A stage on its way.
struct Stage<'a> {
    build: &'a Build<'a>,
    index: usize,
    place: Place,
    work: Work<'a>,
    escape: char,
    /// A step that is still to come needs the layers unpacked.
    unpacks: bool,
}

impl Stage<'_> {
    /// Takes an instruction, the `n`th of the stage.
    fn take(&mut self, n: usize, instruction: &Instruction) -> Result<()> {
        let expanded = expand(instruction, &self.work.state.scope.variables, self.escape);
        let Expanded { operation, mounts, .. } = expanded?;
        let instruction = &Instruction { operation, ..instruction.clone() };
        let operation = &instruction.operation;
        let state = &mut self.work.state;
        let (told, lexer) = (&self.build.request.told, Lexer::new(self.escape));
        state.scope.take(instruction, &self.build.globals, told, lexer)?;
        let has_layer = match operation {
            Operation::Workdir(dir) => state.config.absolute(dir) != "/",
            operation => is_step(operation),
        };
        let created_by = match operation {
            Operation::Workdir(_) => {
                let mut config = state.config.clone();
                config.apply(operation)?;
                created_by(instruction, &config, &state.scope)
            }
            _ => created_by(instruction, &state.config, &state.scope),
        };
        if has_layer {
            self.place.step += 1;
            ensure!(
                state.layers.len() < LAYERS,
                "more than the {LAYERS} layers that an image may have"
            );
            let (name, steps) = (self.build.graph.name(self.index), self.build.request.steps);
            let place = format!("{}\n{name}\n{n}", self.build.request.place);
            let text = match operation {
                // As the history has it: without passwords, however the URLs are written.
                Operation::Add(_) if instruction.source.contains("://") => {
                    created_by.as_deref().unwrap_or_default().trim_end_matches(" # buildkit").into()
                }
                _ => instruction.source.clone(),
            };
            self.work.step(&Asked {
                instruction,
                mounts: &mounts,
                place: Digest::of(place.as_bytes()),
                text: &text,
                created_by: created_by.clone().unwrap_or_default(),
                anew: steps.no_cache_filter.contains(&name),
                unpacks: self.unpacks,
                log: &Step::new(steps.style, self.place.clone()),
            })?;
        }
        let state = &mut self.work.state;
        state.config.apply(operation)?;
        match created_by {
            Some(created_by) => state.config.record(created_by, has_layer, state.epoch),
            None => Ok(()),
        }
    }

    /// Returns an error with the file, the line and the instruction.
    fn located(&self, err: anyhow::Error, instruction: &Instruction) -> anyhow::Error {
        let name = self.build.request.name;
        match err.downcast::<Error>() {
            Ok(err) => err.of(&instruction.keyword).at(instruction.first).in_file(name),
            Err(err) => {
                let hint = error::hint_of(&err).map(str::to_owned);
                let keyword = instruction.keyword.to_uppercase();
                let located = Error::new(error::line(&err)).of(&keyword).at(instruction.first);
                match hint {
                    Some(hint) => located.hint(hint),
                    None => located,
                }
                .in_file(name)
            }
        }
    }
}
