//! The Dockerfile language: text to instructions and stages.
//!
//! ```text
//! lines        lines, continued and commented         words     quotes and variables
//! heredoc      here-documents                         pattern   ${v#pattern}
//! split        an instruction's keyword, flags, arguments
//! instruction  what each instruction says             flags mount duration chmod port source
//! parse        a line, as the instruction that it is
//! stages       the graph of stages                    scope     variables, line by line
//! expand       an instruction with its variables replaced, and what is wrong only then
//! ```
//!
//! What is accepted, and what is refused, is what BuildKit's dockerfile/1
//! frontend accepts and refuses; where it has a limit or a quirk, the module
//! that has it says so. Nothing here reads a file, a clock or a variable of the
//! environment: the same text is the same instructions.
//!
//! The parser is our own. Of what there is, parse-dockerfile is good at the
//! syntax, and it is the smaller half: words, flags, mounts, stages and lines
//! would be ours all the same, and where the syntax is decided (what is a
//! here-document, what is JSON) they would have to agree with it to the letter.
//! Memory is bounded by the file, [`LONGEST`], and by [`words::LONGEST`] where
//! variables are replaced.

pub mod chmod;
pub mod duration;
pub mod expand;
pub mod flags;
pub mod heredoc;
pub mod instruction;
pub mod lines;
pub mod mount;
mod parse;
mod pattern;
pub mod port;
pub mod scope;
pub mod source;
pub mod split;
pub mod stages;
pub mod words;

use crate::error::{Error, Result};
use instruction::{From, Instruction, Operation};
use lines::{Directives, Lines};

/// The most bytes that a Dockerfile may have.
pub const LONGEST: usize = 4 << 20;

/// A Dockerfile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dockerfile {
    /// What the comments at its top say.
    pub directives: Directives,
    /// The character that escapes others, and continues lines.
    pub escape: char,
    /// The ARG instructions before the first FROM.
    pub arguments: Vec<Instruction>,
    /// The stages, of which there is one at least.
    pub stages: Vec<Stage>,
    /// The last lines of instructions with an empty line in them.
    pub gaps: Vec<usize>,
}

/// A stage: FROM, and what follows up to the next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stage {
    /// What it is based on.
    pub from: From,
    /// The FROM instruction.
    pub begin: Instruction,
    /// What follows.
    pub instructions: Vec<Instruction>,
}

impl Dockerfile {
    /// Reads a Dockerfile.
    pub fn parse(bytes: &[u8]) -> Result<Dockerfile> {
        let (instructions, escape, gaps) = instructions(bytes)?;
        let mut arguments = Vec::new();
        let mut stages: Vec<Stage> = Vec::new();
        for instruction in instructions {
            match (&instruction.operation, stages.last_mut()) {
                (Operation::From(from), _) => stages.push(Stage {
                    from: from.clone(),
                    begin: instruction,
                    instructions: Vec::new(),
                }),
                (_, Some(stage)) => stage.instructions.push(instruction),
                (Operation::Arg(_), None) => arguments.push(instruction),
                (_, None) => {
                    return Err(Error::new("only ARG may stand before the first FROM")
                        .hint("FROM image")
                        .of(&instruction.keyword)
                        .at(instruction.first));
                }
            }
        }
        if stages.is_empty() {
            return Err(Error::new("there is no FROM").hint("FROM image"));
        }
        let directives = lines::directives(bytes);
        Ok(Dockerfile { directives, escape, arguments, stages, gaps })
    }

    /// Returns all instructions, in the file's order.
    pub fn instructions(&self) -> impl Iterator<Item = &Instruction> {
        let stages = self.stages.iter();
        self.arguments.iter().chain(
            stages.flat_map(|stage| std::iter::once(&stage.begin).chain(&stage.instructions)),
        )
    }
}

/// Reads the instructions of a text, whatever their order: also those that ONBUILD kept.
pub fn instructions(bytes: &[u8]) -> Result<(Vec<Instruction>, char, Vec<usize>)> {
    if bytes.len() > LONGEST {
        return Err(Error::new(format!("longer than {} MiB", LONGEST >> 20)));
    }
    let mut lines = Lines::new(bytes);
    let mut instructions = Vec::new();
    let mut gaps = Vec::new();
    while let Some(line) = lines.instruction()? {
        let first = line.first;
        if line.gap {
            gaps.push(line.last);
        }
        let read = Instruction::begins(&line.text, lines.escape).and_then(|mut heredocs| {
            for heredoc in &mut heredocs {
                lines.heredoc(heredoc)?;
            }
            Instruction::parse(line, heredocs, lines.number(), lines.escape)
        });
        instructions.push(read.map_err(|err| err.at(first))?);
    }
    match instructions.is_empty() {
        true => Err(Error::new("there is no instruction in it").hint("FROM image")),
        false => Ok((instructions, lines.escape, gaps)),
    }
}

#[cfg(test)]
mod tests;
