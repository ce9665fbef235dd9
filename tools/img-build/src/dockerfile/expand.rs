//! An instruction with its variables replaced, and what can be wrong only then.
//!
//! ```text
//! ADD COPY      sources, destination, chown, chmod, checksum; here-documents that are not quoted
//! ENV LABEL     names and values, each with what was set before the instruction
//! EXPOSE        each port; one that becomes several is several
//! RUN           the values of --mount, and nothing else: the rest is the shell's
//! STOPSIGNAL USER VOLUME WORKDIR
//! ```
//!
//! ARG is [`super::scope`]'s, since its value need not be its default.

use std::collections::BTreeSet;

use common::digest::Digest;

use super::chmod::Chmod;
use super::instruction::{Content, Files, Instruction, Operation};
use super::mount::Mount;
use super::port;
use super::source::Source;
use super::split::Pair;
use super::words::{Lexer, Values};
use crate::error::{Error, Result};

/// An instruction, its variables replaced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expanded {
    /// What it does.
    pub operation: Operation,
    /// The mounts of RUN.
    pub mounts: Vec<Mount>,
    /// The variables that are not set.
    pub missing: BTreeSet<String>,
}

/// Replaces variables in an instruction; `escape` is the Dockerfile's.
pub fn expand(instruction: &Instruction, values: &dyn Values, escape: char) -> Result<Expanded> {
    let mut run = Run { lexer: Lexer::new(escape), values, missing: BTreeSet::new() };
    let mut mounts = Vec::new();
    let operation = run.operation(instruction, &mut mounts);
    let operation = operation.map_err(|err| err.of(&instruction.keyword).at(instruction.first))?;
    Ok(Expanded { operation, mounts, missing: run.missing })
}

struct Run<'a> {
    lexer: Lexer,
    values: &'a dyn Values,
    missing: BTreeSet<String>,
}

impl Run<'_> {
    fn word(&mut self, text: &str) -> Result<String> {
        self.by(self.lexer, text)
    }

    fn by(&mut self, lexer: Lexer, text: &str) -> Result<String> {
        let expanded = lexer.expand(text, self.values)?;
        self.missing.extend(expanded.missing);
        Ok(expanded.text)
    }

    fn words(&mut self, list: &[String]) -> Result<Vec<String>> {
        list.iter().map(|text| self.word(text)).collect()
    }

    fn option(&mut self, text: &Option<String>) -> Result<Option<String>> {
        let text = text.as_ref().map(|text| self.word(text)).transpose()?;
        Ok(text.filter(|text| !text.is_empty()))
    }

    fn pairs(&mut self, pairs: &[Pair]) -> Result<Vec<Pair>> {
        let pair = |pair: &Pair| {
            let (name, value) = (self.word(&pair.name)?, self.word(&pair.value)?);
            Ok(Pair { name, value, legacy: pair.legacy })
        };
        pairs.iter().map(pair).collect()
    }

    fn operation(
        &mut self,
        instruction: &Instruction,
        mounts: &mut Vec<Mount>,
    ) -> Result<Operation> {
        Ok(match &instruction.operation {
            Operation::Add(add) => {
                let mut add = add.clone();
                add.files = self.files(&add.files)?;
                add.checksum = self.option(&add.checksum)?;
                check_checksum(&add.files, add.checksum.as_deref())?;
                Operation::Add(add)
            }
            Operation::Copy(copy) => {
                let mut copy = copy.clone();
                copy.files = self.files(&copy.files)?;
                for source in &copy.files.sources {
                    if Source::of(source) != Source::Path {
                        let err = Error::new(format!("{source}: it copies files, no URLs"));
                        return Err(err.hint(format!("ADD {source}")));
                    }
                }
                Operation::Copy(copy)
            }
            Operation::Env(pairs) => Operation::Env(self.pairs(pairs)?),
            Operation::Label(pairs) => Operation::Label(self.pairs(pairs)?),
            Operation::Expose(ports) => {
                // Each once: there are no more than there are ports.
                let mut seen = BTreeSet::new();
                let mut exposed = Vec::new();
                for text in ports {
                    // What is missing here BuildKit does not warn of.
                    for text in self.lexer.expand(text, self.values)?.words {
                        let ports = port::exposed(&text)?.into_iter();
                        exposed.extend(ports.filter(|port| seen.insert(port.clone())));
                    }
                }
                Operation::Expose(exposed)
            }
            Operation::Run(run) => {
                for mount in &run.mounts {
                    mounts.push(mount.read(&mut |text| self.word(text))?);
                }
                Operation::Run(run.clone())
            }
            Operation::Stopsignal(signal) => {
                let signal = self.word(signal)?;
                check_signal(&signal)?;
                Operation::Stopsignal(signal)
            }
            Operation::User(user) => Operation::User(self.word(user)?),
            Operation::Volume(volumes) => {
                let volumes = self.words(volumes)?;
                if volumes.iter().any(String::is_empty) {
                    return Err(Error::new("a volume's path is empty").hint("VOLUME /data"));
                }
                Operation::Volume(volumes)
            }
            Operation::Workdir(dir) => Operation::Workdir(self.word(dir)?),
            operation => operation.clone(),
        })
    }

    fn files(&mut self, files: &Files) -> Result<Files> {
        let chown = self.option(&files.chown)?;
        let chmod = self.option(&files.chmod)?;
        chmod.as_deref().map(Chmod::parse).transpose()?;
        let sources = self.words(&files.sources)?;
        let destination = self.word(&files.destination)?;
        let contents = files.contents.iter().map(|content| {
            let text = match content.expand {
                // Escapes in here-documents are backslashes, always.
                true => self.by(Lexer::new('\\').plain_quotes(), &content.text)?,
                false => content.text.clone(),
            };
            Ok(Content { text, ..content.clone() })
        });
        let contents = contents.collect::<Result<_>>()?;
        let (link, exclude) = (files.link, files.exclude.clone());
        Ok(Files { sources, contents, destination, chown, chmod, link, exclude })
    }
}

fn check_checksum(files: &Files, checksum: Option<&str>) -> Result<()> {
    if checksum.is_none() {
        return Ok(());
    }
    let (Some(checksum), [source]) = (checksum, &files.sources[..]) else {
        return Err(Error::new("--checksum is of one source").hint("an ADD for each source"));
    };
    match Source::of(source) {
        Source::Path => Err(Error::new(format!("--checksum: {source} is no URL"))
            .hint("--checksum with http://, https:// or a Git repository")),
        Source::Http if checksum.parse::<Digest>().is_err() => {
            Err(Error::new(format!("--checksum={checksum}: no digest"))
                .hint("--checksum=sha256: and 64 digits"))
        }
        _ => Ok(()),
    }
}

/// The names of Linux's signals, as moby/sys/signal knows them.
const SIGNALS: [&str; 35] = [
    "ABRT", "ALRM", "BUS", "CHLD", "CLD", "CONT", "FPE", "HUP", "ILL", "INT", "IO", "IOT", "KILL",
    "PIPE", "POLL", "PROF", "PWR", "QUIT", "SEGV", "STKFLT", "STOP", "SYS", "TERM", "TRAP", "TSTP",
    "TTIN", "TTOU", "URG", "USR1", "USR2", "VTALRM", "WINCH", "XCPU", "XFSZ", "RTMIN",
];

fn check_signal(signal: &str) -> Result<()> {
    let name = signal.to_uppercase();
    let name = name.strip_prefix("SIG").unwrap_or(&name);
    // RTMIN+1 to RTMIN+15, RTMAX-14 to RTMAX-1.
    let real_time = |start: &str, most: u32| {
        let number = name.strip_prefix(start).filter(|number| !number.starts_with(['0', '+']));
        number
            .and_then(|number| number.parse::<u32>().ok())
            .is_some_and(|n| (1..=most).contains(&n))
    };
    let known = match signal.parse::<i64>() {
        Ok(number) => number != 0,
        Err(_) => {
            SIGNALS.contains(&name)
                || name == "RTMAX"
                || real_time("RTMIN+", 15)
                || real_time("RTMAX-", 14)
        }
    };
    match known {
        true => Ok(()),
        false => Err(Error::new(format!("{signal}: there is no such signal")).hint("SIGTERM")),
    }
}

#[cfg(test)]
mod tests;
