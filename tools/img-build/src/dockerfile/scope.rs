//! Variables: what is set in a line, and where it came from.
//!
//! ```text
//! before FROM   the platforms, and what ARG there says    used by FROM alone
//! in a stage    the base's ENV, and what ARG and ENV in it have said up to here
//! ARG name      --build-arg, else its default, else what ARG before FROM said, else nothing
//! ```
//!
//! ENV and ARG set the same variables, and the later one wins; a default is
//! replaced in its own line, with what was known before it. What ARG sets ends
//! with the stages that are built on this one, and never gets into the image.

use std::collections::{BTreeMap, BTreeSet};

use common::platform::Platform;

use super::Dockerfile;
use super::instruction::{Arg, Instruction, Operation};
use super::split::Pair;
use super::words::{Lexer, Values};
use crate::error::Result;

/// The PATH of an image that has none.
pub const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Variables, in the order in which they were set first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Variables(Vec<(String, String)>);

impl Variables {
    /// Returns the variables of an image's `Env`.
    pub fn of<'a>(env: impl IntoIterator<Item = &'a str>) -> Variables {
        let mut variables = Variables::default();
        for variable in env {
            let (name, value) = variable.split_once('=').unwrap_or((variable, ""));
            variables.set(name, value);
        }
        variables
    }

    /// Sets a variable.
    pub fn set(&mut self, name: &str, value: &str) {
        match self.0.iter_mut().find(|(known, _)| known == name) {
            Some((_, old)) => *old = value.into(),
            None => self.0.push((name.into(), value.into())),
        }
    }

    /// Returns all of them.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }
}

impl Values for Variables {
    fn get(&self, name: &str) -> Option<&str> {
        self.iter().find(|(known, _)| *known == name).map(|(_, value)| value)
    }
}

/// What a build is told from outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// `--build-arg`.
    pub arguments: BTreeMap<String, String>,
    /// The platform that builds.
    pub builder: Platform,
    /// The platform that is built for.
    pub platform: Platform,
    /// The stage that is asked for.
    pub target: Option<String>,
    /// The names of `--build-context`, which hide stages and images.
    pub contexts: BTreeSet<String>,
}

impl Told {
    /// Returns what a build is told by default: nothing.
    pub fn nothing() -> Told {
        let (builder, platform) = (Platform::host(), Platform::host());
        Told {
            arguments: BTreeMap::new(),
            builder,
            platform,
            target: None,
            contexts: BTreeSet::new(),
        }
    }
}

/// What is set before the first FROM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Globals {
    /// The variables.
    pub variables: Variables,
    /// The names that ARG there said, with a value or without.
    pub declared: BTreeSet<String>,
}

/// The arguments that steps have without ARG, that are in no key and in no history.
pub const PROXIES: [&str; 5] = ["HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "NO_PROXY", "ALL_PROXY"];

/// What an argument about a platform is called, behind BUILD and TARGET.
const PLATFORM: [&str; 5] = ["PLATFORM", "OS", "OSVERSION", "ARCH", "VARIANT"];

/// Returns whether a `--build-arg` means something without ARG, to us or to BuildKit.
pub fn is_predefined(argument: &str) -> bool {
    let of_platform =
        |prefix: &str| argument.strip_prefix(prefix).is_some_and(|rest| PLATFORM.contains(&rest));
    PROXIES.contains(&argument.to_uppercase().as_str())
        || argument.starts_with("BUILDKIT_")
        || matches!(argument, "SOURCE_DATE_EPOCH" | "TARGETSTAGE")
        || of_platform("BUILD")
        || of_platform("TARGET")
}

impl Globals {
    /// Reads the ARG instructions before the first FROM.
    pub fn of(file: &Dockerfile, told: &Told) -> Result<Globals> {
        let mut variables = Variables::default();
        let last = file.stages.last().and_then(|stage| stage.from.name.as_deref());
        let target = told.target.as_deref().or(last).unwrap_or("default");
        for (prefix, platform) in [("BUILD", &told.builder), ("TARGET", &told.platform)] {
            let values = [
                platform.to_string(),
                platform.os.clone(),
                String::new(),
                platform.architecture.clone(),
                platform.variant.clone().unwrap_or_default(),
            ];
            for (name, value) in PLATFORM.iter().zip(&values) {
                variables.set(&format!("{prefix}{name}"), value);
            }
        }
        variables.set("TARGETSTAGE", target);
        let given = variables.clone();
        for (name, _) in given.iter() {
            if let Some(value) = told.arguments.get(name) {
                variables.set(name, value);
            }
        }
        let mut globals = Globals { variables, declared: BTreeSet::new() };
        for instruction in &file.arguments {
            let Operation::Arg(arguments) = &instruction.operation else { continue };
            for argument in arguments {
                globals
                    .argument(argument, told, Lexer::new(file.escape))
                    .map_err(|err| err.of(&instruction.keyword).at(instruction.first))?;
            }
        }
        Ok(globals)
    }

    fn argument(&mut self, argument: &Arg, told: &Told, lexer: Lexer) -> Result<()> {
        let value = match (told.arguments.get(&argument.name), &argument.default) {
            (Some(value), _) => Some(value.clone()),
            (None, Some(default)) => Some(lexer.expand(default, &self.variables)?.text),
            (None, None) => None,
        };
        if let Some(value) = value {
            self.variables.set(&argument.name, &value);
        }
        self.declared.insert(argument.name.clone());
        Ok(())
    }
}

/// What is set in a line of a stage.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scope {
    /// The variables.
    pub variables: Variables,
    /// The arguments, in the order of their ARG instructions, with a value or without.
    pub arguments: Vec<(String, Option<String>)>,
}

impl Scope {
    /// Returns the scope of a stage on an image that has these variables.
    pub fn on(mut variables: Variables) -> Scope {
        if variables.get("PATH").is_none() {
            variables.set("PATH", PATH);
        }
        Scope { variables, arguments: Vec::new() }
    }

    /// Takes an argument; returns the variables of its default that nobody said.
    pub fn argument(
        &mut self,
        argument: &Arg,
        globals: &Globals,
        told: &Told,
        lexer: Lexer,
    ) -> Result<BTreeSet<String>> {
        let mut missing = BTreeSet::new();
        let value = match (told.arguments.get(&argument.name), &argument.default) {
            (Some(value), _) => Some(value.clone()),
            (None, Some(default)) => {
                let expanded = lexer.expand(default, &self.variables)?;
                missing = expanded.missing;
                missing.retain(|name| !self.is_argument(name));
                Some(expanded.text)
            }
            (None, None) => globals.variables.get(&argument.name).map(str::to_owned),
        };
        if let Some(value) = &value {
            self.variables.set(&argument.name, value);
        }
        self.arguments.push((argument.name.clone(), value));
        Ok(missing)
    }

    /// Takes the pairs of ENV, their variables replaced.
    pub fn env(&mut self, pairs: &[Pair]) {
        pairs.iter().for_each(|pair| self.variables.set(&pair.name, &pair.value));
    }

    /// Returns whether a name was said by ARG, with a value or without.
    pub fn is_argument(&self, name: &str) -> bool {
        self.arguments.iter().any(|(known, _)| known == name)
    }

    /// Takes an instruction, its variables replaced by [`super::expand`]; nothing but ARG and ENV changes anything.
    pub fn take(
        &mut self,
        instruction: &Instruction,
        globals: &Globals,
        told: &Told,
        lexer: Lexer,
    ) -> Result<BTreeSet<String>> {
        let mut missing = BTreeSet::new();
        match &instruction.operation {
            Operation::Env(pairs) => self.env(pairs),
            Operation::Arg(arguments) => {
                for argument in arguments {
                    missing.extend(self.argument(argument, globals, told, lexer)?);
                }
            }
            _ => {}
        }
        Ok(missing)
    }
}
