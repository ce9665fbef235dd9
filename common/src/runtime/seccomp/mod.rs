//! Seccomp: a spec's rules as a program that the kernel runs at every system call.
//!
//! ```text
//! LinuxSeccomp   rules by name               [default_profile], or any config.json
//!   decisions    one a call                  rules in order
//!   ranges       neighbours that agree       about forty for Docker's profile
//!   program      a balanced tree of ranges   classic BPF
//! ```
//!
//! The kernel tries a new filter on every number there is, so a filter's size
//! is start-up time: a tree of ranges loads in a quarter of what a list takes.
//!
//! Rules mean what runc and libseccomp make of them. Two things are stricter.
//! A call through another architecture than the listed ones kills the process,
//! and x32, which is x86-64 by other numbers, never gets past (ENOSYS). A call
//! that is newer than the profile, or than our table, fails with ENOSYS if the
//! profile denies by default, so that a libc falls back to the older one.

pub mod syscalls;

mod profile;
mod program;

use anyhow::{Context, Result, bail, ensure};
use oci_spec::runtime::{
    Arch as OciArch, Capabilities, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg,
    LinuxSeccompFilterFlag,
};

use crate::sys::Instruction;
use program::{Choice, Leaf, Section};
use syscalls::{Arch, CALLS};

/// The bit in a number by which x86-64 tells x32's calls: asm/unistd.h.
const X32: u32 = 0x4000_0000;

/// The most instructions that the kernel takes: BPF_MAXINSNS.
const LIMIT: usize = 4096;

// What a filter returns: linux/seccomp.h.
const KILL_PROCESS: u32 = 0x8000_0000;
const KILL_THREAD: u32 = 0;
const TRAP: u32 = 0x0003_0000;
const ERRNO: u32 = 0x0005_0000;
const TRACE: u32 = 0x7ff0_0000;
const LOG: u32 = 0x7ffc_0000;
const ALLOW: u32 = 0x7fff_0000;
const ENOSYS: u32 = ERRNO | 38;

/// A compiled filter, as seccomp(2) takes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    /// What to run.
    pub program: Vec<Instruction>,
    /// SECCOMP_FILTER_FLAG_*.
    pub flags: u32,
}

/// Returns Docker's default profile for a container with `capabilities`, or nothing on an architecture that is not here.
pub fn default_profile(capabilities: &Capabilities) -> Option<LinuxSeccomp> {
    Some(profile::profile(capabilities, Arch::native()?))
}

/// Compiles the rules of a spec for this machine.
pub fn filter(seccomp: &LinuxSeccomp) -> Result<Filter> {
    let native = Arch::native().context("seccomp: not known on this architecture")?;
    let program = compile(seccomp, native).context("seccomp")?;
    Ok(Filter { program, flags: flags(seccomp).context("seccomp")? })
}

fn flags(seccomp: &LinuxSeccomp) -> Result<u32> {
    let flags = seccomp.flags().iter().flatten().map(|flag| match flag {
        // The process that execs has one thread, but a spec may ask.
        LinuxSeccompFilterFlag::SeccompFilterFlagTsync => Ok(1),
        LinuxSeccompFilterFlag::SeccompFilterFlagLog => Ok(2),
        LinuxSeccompFilterFlag::SeccompFilterFlagSpecAllow => Ok(4),
        LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv => {
            bail!("SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV needs an agent, which is not supported")
        }
    });
    flags.sum()
}

fn compile(seccomp: &LinuxSeccomp, native: Arch) -> Result<Vec<Instruction>> {
    ensure!(seccomp.listener_path().is_none(), "a listener is not supported");
    let default = action(seccomp.default_action(), seccomp.default_errno_ret())?;
    let rules = Rules::read(seccomp, default)?;
    let arches = architectures(seccomp, native);
    let sections: Vec<Section> = arches
        .into_iter()
        .map(|arch| Section { audit: arch.audit(), ranges: rules.ranges(arch) })
        .collect();
    let program = program::assemble(&sections, KILL_PROCESS);
    ensure!(program.len() <= LIMIT, "the rules need more than {LIMIT} instructions");
    Ok(program)
}

/// Returns those of the spec's architectures that programs on this machine can have. Its own is always one of them.
fn architectures(seccomp: &LinuxSeccomp, native: Arch) -> Vec<Arch> {
    let mut arches = vec![native];
    let listed = seccomp.architectures().iter().flatten();
    let known = listed.filter_map(|arch| match arch {
        OciArch::ScmpArchX86_64 => Some(Arch::X86_64),
        OciArch::ScmpArchX86 => Some(Arch::I386),
        OciArch::ScmpArchAarch64 => Some(Arch::Aarch64),
        OciArch::ScmpArchArm => Some(Arch::Arm),
        _ => None,
    });
    let compat = native.compat();
    for arch in known {
        if Some(arch) == compat && !arches.contains(&arch) {
            arches.push(arch);
        }
    }
    arches
}

/// What the rules say about each of the known calls, in the order of [`CALLS`].
struct Rules<'a> {
    decisions: Vec<Decision<'a>>,
    default: u32,
}

/// What the rules say about one call.
#[derive(Clone, Debug)]
enum Decision<'a> {
    /// Nothing; no rule even names it.
    Unnamed,
    /// Only what the default says.
    Default,
    /// This action, always.
    Always(u32),
    /// The action of the first whose conditions all hold, else the default.
    If(Vec<Choice<'a>>),
}

impl<'a> Rules<'a> {
    /// Goes through the rules in order, as runc gives them to libseccomp.
    fn read(seccomp: &'a LinuxSeccomp, default: u32) -> Result<Rules<'a>> {
        let mut decisions = vec![Decision::Unnamed; CALLS.len()];
        let mut near = 0;
        for rule in seccomp.syscalls().iter().flatten() {
            let action = action(rule.action(), rule.errno_ret())?;
            let args = rule.args().as_deref().unwrap_or_default();
            for arg in args {
                ensure!(arg.index() < 6, "there is no argument {}", arg.index());
            }
            for name in rule.names() {
                // A name that is not here may be another architecture's, or newer than the table.
                let Some(place) = syscalls::find(name, near) else { continue };
                near = place + 1;
                // A rule that says what the default says is left out, as runc and crun do.
                match &mut decisions[place] {
                    decision @ Decision::Unnamed if action == default => {
                        *decision = Decision::Default;
                    }
                    decision if action != default => decision.add(args, action),
                    _ => {}
                }
            }
        }
        Ok(Rules { decisions, default })
    }

    /// Joins neighbouring numbers that are decided alike. Each range goes up to the start of the next.
    fn ranges(&self, arch: Arch) -> Vec<(u32, Leaf<'_>)> {
        let permissive = matches!(self.default & 0xffff_0000, ALLOW | LOG | TRACE);
        let unknown = Leaf::Return(if permissive { self.default } else { ENOSYS });

        let places = syscalls::by_number(arch).iter().map(|place| usize::from(*place));
        let numbers: Vec<(u32, &Decision)> = places
            .filter_map(|place| Some((CALLS[place].number(arch)?, &self.decisions[place])))
            .collect();
        // What is beyond the last that a rule names, whoever wrote the rules did not know.
        let named =
            numbers.iter().rposition(|(_, decision)| !matches!(decision, Decision::Unnamed));
        let known = named.map_or(numbers.len(), |last| last + 1);

        let mut ranges: Vec<(u32, Leaf)> = Vec::with_capacity(128);
        let mut add = |start: u32, leaf| match ranges.last() {
            Some((_, last)) if *last == leaf => {}
            _ => ranges.push((start, leaf)),
        };
        let mut next = 0;
        for (number, decision) in &numbers[..known] {
            if *number > next {
                add(next, unknown);
            }
            let leaf = match decision {
                Decision::Unnamed | Decision::Default => Leaf::Return(self.default),
                Decision::Always(action) => Leaf::Return(*action),
                Decision::If(choices) => Leaf::If(choices, self.default),
            };
            add(*number, leaf);
            next = number + 1;
        }
        add(next, unknown);
        if arch == Arch::X86_64 {
            add(X32, Leaf::Return(ENOSYS));
        }
        ranges
    }
}

impl<'a> Decision<'a> {
    /// Takes one rule in.
    fn add(&mut self, args: &'a [LinuxSeccompArg], action: u32) {
        match self {
            // The first rule without conditions stays.
            Decision::Always(_) => {}
            // It is wider than any that has some.
            _ if args.is_empty() => *self = Decision::Always(action),
            Decision::If(choices) => choose(choices, args, action),
            Decision::Unnamed | Decision::Default => {
                let mut choices = Vec::new();
                choose(&mut choices, args, action);
                *self = Decision::If(choices);
            }
        }
    }
}

fn choose<'a>(choices: &mut Vec<Choice<'a>>, args: &'a [LinuxSeccompArg], action: u32) {
    let seen = |at: usize| args[..at].iter().any(|other| other.index() == args[at].index());
    if (0..args.len()).any(seen) {
        // Two conditions on one argument are two rules: libseccomp knows no other way.
        choices.extend(args.chunks(1).map(|arg| (arg, action)));
    } else {
        choices.push((args, action));
    }
}

/// Returns what a filter returns for `action`.
fn action(action: LinuxSeccompAction, errno: Option<u32>) -> Result<u32> {
    const EPERM: u32 = 1;
    const MAX_ERRNO: u32 = 4095;
    Ok(match action {
        LinuxSeccompAction::ScmpActKill | LinuxSeccompAction::ScmpActKillThread => KILL_THREAD,
        LinuxSeccompAction::ScmpActKillProcess => KILL_PROCESS,
        LinuxSeccompAction::ScmpActTrap => TRAP,
        LinuxSeccompAction::ScmpActErrno => {
            let errno = errno.unwrap_or(EPERM);
            ensure!(errno <= MAX_ERRNO, "{errno} is not an error number");
            ERRNO | errno
        }
        LinuxSeccompAction::ScmpActTrace => {
            let message = errno.unwrap_or(EPERM);
            ensure!(message <= 0xffff, "{message} does not fit in a trace message");
            TRACE | message
        }
        LinuxSeccompAction::ScmpActLog => LOG,
        LinuxSeccompAction::ScmpActAllow => ALLOW,
        LinuxSeccompAction::ScmpActNotify => {
            bail!("SCMP_ACT_NOTIFY needs an agent, which is not supported")
        }
    })
}

#[cfg(test)]
mod tests;
