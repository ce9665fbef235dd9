//! The graph of stages: what each one is based on, what it takes from others, and which ones a target needs.
//!
//! ```text
//! FROM name            --build-context of that name; else an earlier stage, as it is written; else scratch, else an image
//! COPY --from=name     the same, whatever its case; or a stage's number
//! RUN --mount=from=    the same, without numbers
//! ONBUILD              of an earlier stage: its triggers are instructions of this one
//! ```
//!
//! Of two stages with one name the later hides the earlier from what follows.
//! A stage that takes from a later one is an error if it is needed, and one that
//! takes from itself, over however many others, always is. Only the user names paths of this host: neither what an
//! image kept nor a Dockerfile that somebody else wrote does.

use std::collections::{BTreeMap, BTreeSet};

use common::cli::Operand;
use common::platform::Platform;
use common::reference::Reference;

use super::instruction::{Instruction, Operation};
use super::scope::{Globals, Told};
use super::words::Lexer;
use super::{Dockerfile, instructions};
use crate::error::{Error, Result, nearest};

/// What there is where nothing is.
pub const SCRATCH: &str = "scratch";

/// Returns how the name of a context is kept: `app` for `docker.io/library/app:latest`. What is no image's name is its own key.
pub fn key(name: &str) -> String {
    match name.parse::<Reference>() {
        Ok(name) => {
            let full = name.to_string();
            full.strip_suffix(":latest").unwrap_or(&full).to_owned()
        }
        Err(_) => name.to_owned(),
    }
}

/// The stages of a Dockerfile, and how they depend on each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Graph {
    /// In the file's order.
    pub stages: Vec<Node>,
    /// Which stage a name means after the last line.
    names: BTreeMap<String, usize>,
    /// The names of `--build-context`.
    contexts: BTreeSet<String>,
}

/// Where files come from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Base {
    /// Nothing.
    Scratch,
    /// A stage, by its place in the file.
    Stage(usize),
    /// What `--build-context` gives this name to.
    Context(String),
    /// An image, as it is written, variables replaced.
    Image(String),
}

/// A stage in the graph.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its name, in lower case.
    pub name: Option<String>,
    /// What FROM says.
    pub base: Base,
    /// The platform that FROM says.
    pub platform: Option<Platform>,
    /// The line of FROM.
    pub line: usize,
    /// The instructions that ONBUILD of the stage or image below says, before its own.
    pub triggers: Vec<Instruction>,
    /// What is wrong with them, which matters only if the stage is needed.
    trouble: Option<Error>,
    /// What COPY and RUN take from, in the order of the lines; the base is not among them.
    pub sources: Vec<Taken>,
}

/// What an instruction takes from another stage or an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taken {
    /// From where.
    pub from: Base,
    /// The instruction's line.
    pub line: usize,
    /// The instruction.
    pub instruction: String,
}

impl Graph {
    /// Reads how the stages depend on each other, and on what `--build-context` names.
    pub fn of(file: &Dockerfile, globals: &Globals, contexts: &BTreeSet<String>) -> Result<Graph> {
        let lexer = Lexer::new(file.escape);
        let (stages, names) = (Vec::new(), BTreeMap::new());
        let mut graph = Graph { stages, names, contexts: contexts.clone() };
        for stage in &file.stages {
            let line = stage.begin.first;
            let node = graph.begin(stage, globals, lexer);
            let node = node.map_err(|err| err.of("FROM").at(line))?;
            if let Some(name) = &node.name {
                graph.names.insert(name.clone(), graph.stages.len());
            }
            graph.stages.push(node);
        }
        for (index, stage) in file.stages.iter().enumerate() {
            graph.stages[index].sources = graph.all_taken(&stage.instructions, lexer)?;
        }
        graph.check_circles()?;
        // Triggers are looked at when their stage is needed, so they make no circle; see `order`.
        for index in 0..graph.stages.len() {
            let Base::Stage(below) = graph.stages[index].base else { continue };
            let line = graph.stages[index].line;
            let triggers = triggers(&file.stages[below].instructions, line);
            let taken = triggers.and_then(|triggers| {
                let taken = graph.all_taken(&triggers, lexer)?;
                Ok((triggers, taken))
            });
            let node = &mut graph.stages[index];
            match taken {
                Ok((triggers, taken)) => {
                    node.triggers = triggers;
                    node.sources.splice(0..0, taken);
                }
                Err(err) => node.trouble = Some(err.of("ONBUILD").at(line)),
            }
        }
        Ok(graph)
    }

    /// Puts the triggers that the base image of a stage kept before the stage's own instructions.
    pub fn adopt(&mut self, stage: usize, triggers: &[String], escape: char) -> Result<()> {
        let line = self.stages[stage].line;
        let of_image = || -> Result<(Vec<Instruction>, Vec<Taken>)> {
            let triggers = triggers.iter().map(|text| trigger(text, line));
            let triggers: Vec<Instruction> = triggers.collect::<Result<_>>()?;
            let taken = self.all_taken(&triggers, Lexer::new(escape))?;
            taken.iter().try_for_each(|taken| refuse_path(&taken.from))?;
            Ok((triggers, taken))
        };
        let (triggers, taken) = of_image().map_err(|err| err.of("ONBUILD").at(line))?;
        let node = &mut self.stages[stage];
        node.triggers.splice(0..0, triggers);
        node.sources.splice(0..0, taken);
        Ok(())
    }

    fn all_taken(&self, instructions: &[Instruction], lexer: Lexer) -> Result<Vec<Taken>> {
        let taken = instructions.iter().map(|instruction| self.taken(instruction, lexer));
        Ok(taken.collect::<Result<Vec<_>>>()?.concat())
    }

    fn begin(&self, stage: &super::Stage, globals: &Globals, lexer: Lexer) -> Result<Node> {
        let from = &stage.from;
        let image = lexer.expand(&from.image, &globals.variables)?;
        if image.text.is_empty() {
            let err = Error::new(format!("{}: nothing is left of the image's name", from.image));
            return Err(match image.missing.first() {
                Some(name) => err.hint(format!("ARG {name}=... before FROM")),
                None => err.hint("FROM image"),
            });
        }
        let platform = from.platform.as_deref().map(|text| {
            let expanded = lexer.expand(text, &globals.variables)?;
            if expanded.text.is_empty() {
                return Err(Error::new(format!("--platform={text}: nothing is left of it")));
            }
            expanded.text.parse::<Platform>().map_err(|err| Error::new(format!("--platform={err}")))
        });
        let base = match (self.context(&image.text), self.names.get(&image.text)) {
            (Some(context), _) => context,
            (None, Some(stage)) => Base::Stage(*stage),
            _ => elsewhere(&image.text).map_err(|err| self.misspelt(err, &image.text))?,
        };
        Ok(Node {
            name: from.name.clone(),
            base,
            platform: platform.transpose()?,
            line: stage.begin.first,
            triggers: Vec::new(),
            trouble: None,
            sources: Vec::new(),
        })
    }

    /// Returns what an instruction takes from elsewhere.
    pub fn taken(&self, instruction: &Instruction, lexer: Lexer) -> Result<Vec<Taken>> {
        let line = instruction.first;
        let from: Result<Vec<Base>> = match &instruction.operation {
            Operation::Copy(copy) => {
                copy.from.iter().map(|from| self.copied(from, lexer)).collect()
            }
            Operation::Run(run) => {
                let from = run.mounts.iter().filter_map(|mount| mount.from.as_deref());
                from.map(|from| self.named(from)).collect()
            }
            _ => Ok(vec![]),
        };
        let from = from.map_err(|err| err.of(&instruction.keyword).at(line))?;
        let instruction = instruction.keyword.to_uppercase();
        let taken = |from| Taken { from, line, instruction: instruction.clone() };
        Ok(from.into_iter().map(taken).collect())
    }

    fn named(&self, name: &str) -> Result<Base> {
        match (self.context(name), self.names.get(&name.to_lowercase())) {
            (Some(context), _) => Ok(context),
            (None, Some(stage)) => Ok(Base::Stage(*stage)),
            _ => elsewhere(name).map_err(|err| self.misspelt(err, name)),
        }
    }

    /// Returns the context that a name means.
    fn context(&self, name: &str) -> Option<Base> {
        self.contexts.get(&key(name)).cloned().map(Base::Context)
    }

    /// Adds the stage that is likely to be meant by what is no image's name.
    fn misspelt(&self, err: Error, name: &str) -> Error {
        let names = self.names.keys().map(String::as_str);
        match nearest(&name.to_lowercase(), names) {
            Some(meant) => err.hint(meant),
            None => err,
        }
    }

    fn copied(&self, from: &str, lexer: Lexer) -> Result<Base> {
        let plain = lexer.expand(from, &())?;
        if plain.text != from {
            return Err(Error::new(format!("--from={from}: no variables here"))
                .hint(format!("a stage of its own: FROM {from} AS name")));
        }
        let digits = from.strip_prefix(['+', '-']).unwrap_or(from);
        if digits.is_empty() || !digits.bytes().all(|c| c.is_ascii_digit()) {
            return self.named(from);
        }
        let last = self.stages.len().saturating_sub(1);
        match from.parse::<usize>() {
            Ok(index) if index <= last => Ok(Base::Stage(index)),
            _ => Err(Error::new(format!("--from={from}: there is no such stage"))
                .hint(format!("0 to {last}, or better a name"))),
        }
    }

    /// Returns the stage that is meant, the last by default.
    pub fn target(&self, name: Option<&str>) -> Result<usize> {
        let Some(name) = name else { return Ok(self.stages.len() - 1) };
        self.names.get(&name.to_lowercase()).copied().ok_or_else(|| {
            let err = Error::new(format!("{name}: there is no such stage"));
            let names: Vec<&str> = self.names.keys().map(String::as_str).collect();
            match nearest(name, names.iter().copied()) {
                Some(meant) => err.hint(meant),
                None if names.is_empty() => err.hint("FROM image AS name"),
                None => err.hint(format!("one of {}", names.join(", "))),
            }
        })
    }

    /// Returns what a stage depends on: its base, and what it takes from.
    pub fn needs(&self, stage: usize) -> impl Iterator<Item = &Base> {
        let node = &self.stages[stage];
        std::iter::once(&node.base).chain(node.sources.iter().map(|taken| &taken.from))
    }

    /// Returns the stages that a target needs, itself too, in an order in which they can be built.
    pub fn order(&self, target: usize) -> Result<Vec<usize>> {
        let mut needed = BTreeSet::new();
        let mut left = vec![target];
        while let Some(stage) = left.pop() {
            if needed.insert(stage) {
                left.extend(self.needs(stage).filter_map(Base::stage));
            }
        }
        for stage in &needed {
            if let Some(err) = &self.stages[*stage].trouble {
                return Err(err.clone());
            }
            let later = |taken: &&Taken| taken.from.stage().is_some_and(|from| from >= *stage);
            if let Some(taken) = self.stages[*stage].sources.iter().find(later) {
                let name = taken.from.stage().map(|from| self.name(from)).unwrap_or_default();
                return Err(Error::new(format!("stage {name} does not come before this one"))
                    .hint("move it up")
                    .of(&taken.instruction)
                    .at(taken.line));
            }
        }
        Ok(needed.into_iter().collect())
    }

    /// Returns what a stage is called: its name, or its number.
    pub fn name(&self, stage: usize) -> String {
        self.stages[stage].name.clone().unwrap_or_else(|| stage.to_string())
    }

    /// Looks for a stage that takes from itself, over others or not.
    fn check_circles(&self) -> Result<()> {
        let mut done = vec![false; self.stages.len()];
        for start in 0..self.stages.len() {
            // Where we are, how we got there, and which of its sources comes next.
            let mut way = vec![(start, 0)];
            let mut on_way = BTreeSet::from([start]);
            while let Some((stage, next)) = way.last_mut() {
                let stage = *stage;
                let Some(taken) = self.stages[stage].sources.get(*next) else {
                    done[stage] = true;
                    on_way.remove(&stage);
                    way.pop();
                    continue;
                };
                *next += 1;
                let Some(from) = taken.from.stage().filter(|from| !done[*from]) else { continue };
                if !on_way.insert(from) {
                    let err = match from == stage {
                        true => Error::new("a stage cannot take from itself"),
                        false => Error::new(format!(
                            "stages {} and {} need each other",
                            self.name(from),
                            self.name(stage)
                        )),
                    };
                    return Err(err.of(&taken.instruction).at(taken.line));
                }
                way.push((from, 0));
            }
        }
        Ok(())
    }
}

impl Base {
    /// Returns the stage, if it is one.
    pub fn stage(&self) -> Option<usize> {
        match self {
            Base::Stage(stage) => Some(*stage),
            _ => None,
        }
    }
}

fn elsewhere(name: &str) -> Result<Base> {
    if name == SCRATCH {
        return Ok(Base::Scratch);
    }
    match name.parse::<Reference>() {
        Ok(_) => Ok(Base::Image(name.to_owned())),
        // A layout or an archive: docker knows neither, and takes no such name for another thing.
        Err(_) if is_path(name) => Ok(Base::Image(name.to_owned())),
        Err(err) => Err(Error::new(common::error::line(&err))),
    }
}

/// Refuses a Dockerfile that somebody else wrote if it names paths of this host, needed or not: what an image
/// kept may need any stage.
pub fn refuse_paths(file: &Dockerfile, told: &Told) -> Result<()> {
    let graph = Graph::of(file, &Globals::of(file, told)?, &told.contexts)?;
    for node in &graph.stages {
        refuse_path(&node.base).map_err(|err| err.of("FROM").at(node.line))?;
        for taken in &node.sources {
            let refused = refuse_path(&taken.from);
            refused.map_err(|err| err.of(&taken.instruction).at(taken.line))?;
        }
    }
    Ok(())
}

/// Refuses a path of this host, which a stranger would take from.
fn refuse_path(base: &Base) -> Result<()> {
    match base {
        Base::Image(name) if is_path(name) => {
            let err = Error::new(format!("{name}: only the user names paths of this host"));
            Err(err.hint("--build-context NAME=PLACE"))
        }
        _ => Ok(()),
    }
}

/// Returns whether this operand is a path, as contract 1 tells them: tare(7).
fn is_path(name: &str) -> bool {
    let operand = name.parse();
    matches!(operand, Ok(Operand::Path(_) | Operand::Layout(_) | Operand::Archive(_)))
}

/// Returns what ONBUILD in `below` says, as instructions of a stage that begins in line `line`.
pub fn triggers<'a>(
    below: impl IntoIterator<Item = &'a Instruction>,
    line: usize,
) -> Result<Vec<Instruction>> {
    let kept = below.into_iter().filter_map(|instruction| match &instruction.operation {
        Operation::Onbuild(trigger) => Some(trigger.as_str()),
        _ => None,
    });
    kept.map(|trigger| self::trigger(trigger, line)).collect()
}

/// Reads a trigger of an image or a stage. It is read with `\` for its escape, whatever it was written with.
pub fn trigger(text: &str, line: usize) -> Result<Instruction> {
    let wrong = |what: &str| Error::new(format!("{text}: {what}")).at(line);
    // What is wrong in it is wrong here, in the line of the stage that uses it.
    let read = instructions(text.as_bytes()).map_err(|err| Error { line: Some(line), ..err });
    let (mut instructions, _, _) = read?;
    match (instructions.pop(), instructions.is_empty()) {
        (Some(Instruction { operation: Operation::From(_), .. }), true) => {
            Err(wrong("FROM is no trigger"))
        }
        (Some(instruction), true) => Ok(Instruction { first: line, last: line, ..instruction }),
        _ => Err(wrong("not one instruction")),
    }
}

#[cfg(test)]
mod tests;
