//! Ranges of numbers as classic BPF: linux/seccomp.h, linux/bpf_common.h.
//!
//! BPF only jumps forward, so a program is written from its end to its
//! beginning: where a jump leads is known when the jump is written. Equal
//! returns and equal blocks are shared, since the kernel takes time for every
//! instruction when it loads a filter.

use std::collections::HashMap;

use oci_spec::runtime::{LinuxSeccompArg, LinuxSeccompOperator};

use crate::sys::Instruction;

/// What one architecture's calls come to.
pub struct Section<'a> {
    /// The architecture, as the kernel names it.
    pub audit: u32,
    /// The first number of each range, ascending from 0, and what is done in it.
    pub ranges: Vec<(u32, Leaf<'a>)>,
}

/// What is done about a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leaf<'a> {
    /// This is returned.
    Return(u32),
    /// The return value of the first choice whose conditions all hold, else the last value.
    If(&'a [Choice<'a>], u32),
}

/// Conditions on arguments, and what to return if all of them hold.
pub type Choice<'a> = (&'a [LinuxSeccompArg], u32);

const LOAD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
const AND: u16 = 0x54; // BPF_ALU | BPF_AND | BPF_K
const JUMP: u16 = 0x05; // BPF_JMP | BPF_JA
const JUMP_EQ: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
const JUMP_GT: u16 = 0x25; // BPF_JMP | BPF_JGT | BPF_K
const JUMP_GE: u16 = 0x35; // BPF_JMP | BPF_JGE | BPF_K
const RETURN: u16 = 0x06; // BPF_RET | BPF_K

// Offsets in struct seccomp_data.
const NUMBER: u32 = 0;
const ARCH: u32 = 4;
const ARGS: u32 = 16;

/// Returns a program for `sections`, which returns `foreign` for any other architecture.
pub fn assemble(sections: &[Section], foreign: u32) -> Vec<Instruction> {
    let mut writer = Writer::default();
    let mut next = Target::Return(foreign);
    for section in sections.iter().rev() {
        let found = writer.tree(&section.ranges);
        let own = writer.load(NUMBER, found);
        next = writer.branch(JUMP_EQ, section.audit, own, next);
    }
    writer.load(ARCH, next);
    writer.code.reverse();
    writer.code
}

/// Where a jump leads.
#[derive(Clone, Copy)]
enum Target {
    /// To an instruction, counted from the end of the program.
    At(usize),
    /// To a return of this value.
    Return(u32),
}

/// A program that grows towards its beginning.
#[derive(Default)]
struct Writer<'a> {
    code: Vec<Instruction>,
    /// The nearest return of each value.
    returns: HashMap<u32, usize>,
    blocks: Vec<(Leaf<'a>, Target)>,
}

impl<'a> Writer<'a> {
    /// Writes a search in `ranges` for the loaded number, by halving them.
    fn tree(&mut self, ranges: &[(u32, Leaf<'a>)]) -> Target {
        match ranges {
            [] => Target::Return(0), // cannot happen: ranges begin with 0
            [(_, leaf)] => self.leaf(*leaf),
            ranges => {
                let (below, above) = ranges.split_at(ranges.len() / 2);
                let start = above[0].0;
                let above = self.tree(above);
                let below = self.tree(below);
                self.branch(JUMP_GE, start, above, below)
            }
        }
    }

    fn leaf(&mut self, leaf: Leaf<'a>) -> Target {
        let (choices, otherwise) = match leaf {
            Leaf::Return(value) => return Target::Return(value),
            Leaf::If(choices, otherwise) => (choices, otherwise),
        };
        if let Some((_, block)) = self.blocks.iter().find(|(other, _)| *other == leaf) {
            return *block;
        }
        let mut block = Target::Return(otherwise);
        for (args, value) in choices.iter().rev() {
            let fails = block;
            block = Target::Return(*value);
            for arg in args.iter().rev() {
                block = self.condition(arg, block, fails);
            }
        }
        self.blocks.push((leaf, block));
        block
    }

    /// Writes a comparison of a 64-bit argument, which BPF can only load by halves.
    fn condition(&mut self, arg: &LinuxSeccompArg, holds: Target, fails: Target) -> Target {
        use LinuxSeccompOperator::*;
        let (value, rest) = (arg.value(), arg.value_two().unwrap_or_default());
        let offset = ARGS + 8 * arg.index() as u32;
        let (low, high) = if cfg!(target_endian = "little") { (0, 4) } else { (4, 0) };
        let (low, high) = (offset + low, offset + high);

        // What is decided by the low half if the high halves are equal, and else by the high one.
        let (compare, less, yes, no) = match arg.op() {
            ScmpCmpMaskedEq => {
                let lower = self.masked(low, value as u32, rest as u32, holds, fails);
                return self.masked(high, (value >> 32) as u32, (rest >> 32) as u32, lower, fails);
            }
            ScmpCmpEq | ScmpCmpNe => {
                let (equal, unequal) =
                    if arg.op() == ScmpCmpEq { (holds, fails) } else { (fails, holds) };
                let lower = self.branch(JUMP_EQ, value as u32, equal, unequal);
                let lower = self.load(low, lower);
                let upper = self.branch(JUMP_EQ, (value >> 32) as u32, lower, unequal);
                return self.load(high, upper);
            }
            ScmpCmpGt => (JUMP_GT, fails, holds, fails),
            ScmpCmpGe => (JUMP_GE, fails, holds, fails),
            ScmpCmpLe => (JUMP_GT, holds, fails, holds),
            ScmpCmpLt => (JUMP_GE, holds, fails, holds),
        };
        let lower = self.branch(compare, value as u32, yes, no);
        let lower = self.load(low, lower);
        let upper = self.branch(JUMP_EQ, (value >> 32) as u32, lower, less);
        let upper = self.branch(JUMP_GT, (value >> 32) as u32, yes, upper);
        self.load(high, upper)
    }

    /// Writes a comparison of the half at `offset`, masked, with `rest`.
    fn masked(
        &mut self,
        offset: u32,
        mask: u32,
        rest: u32,
        holds: Target,
        fails: Target,
    ) -> Target {
        if (mask, rest) == (0, 0) {
            return holds; // for any half
        }
        let mut test = self.branch(JUMP_EQ, rest, holds, fails);
        if mask != u32::MAX {
            test = self.before(AND, mask, test);
        }
        self.before(LOAD, offset, test)
    }

    fn load(&mut self, offset: u32, next: Target) -> Target {
        self.before(LOAD, offset, next)
    }

    /// Writes an instruction that goes on to `next`.
    fn before(&mut self, code: u16, k: u32, next: Target) -> Target {
        match next {
            Target::At(at) if at + 1 == self.code.len() => {}
            Target::At(at) => self.code.push(plain(JUMP, (self.code.len() - at - 1) as u32)),
            Target::Return(value) => self.code.push(plain(RETURN, value)),
        }
        self.push(plain(code, k))
    }

    /// Writes a comparison of what is loaded with `k`.
    fn branch(&mut self, code: u16, k: u32, yes: Target, no: Target) -> Target {
        let (yes, no) = (self.near(yes), self.near(no));
        let skip = |at: usize| (self.code.len() - at - 1) as u8; // `near` made sure that it fits
        let (jt, jf) = (skip(yes), skip(no));
        self.push(Instruction { code, jt, jf, k })
    }

    /// Returns a place that a branch can reach, two instructions on at most, and that leads to `target`.
    fn near(&mut self, target: Target) -> usize {
        // A branch skips up to 255 instructions. One more may come in between, for its other target.
        let reach = self.code.len().saturating_sub(254);
        match target {
            Target::At(at) if at >= reach => at,
            Target::At(at) => {
                self.code.push(plain(JUMP, (self.code.len() - at - 1) as u32));
                self.code.len() - 1
            }
            Target::Return(value) => match self.returns.get(&value) {
                Some(at) if *at >= reach => *at,
                _ => {
                    self.code.push(plain(RETURN, value));
                    self.returns.insert(value, self.code.len() - 1);
                    self.code.len() - 1
                }
            },
        }
    }

    fn push(&mut self, instruction: Instruction) -> Target {
        self.code.push(instruction);
        Target::At(self.code.len() - 1)
    }
}

fn plain(code: u16, k: u32) -> Instruction {
    Instruction { code, jt: 0, jf: 0, k }
}
