//! What is legal and unwise in a Dockerfile: BuildKit's rules, by BuildKit's names.
//!
//! Here are those that text decides, with `.dockerignore` and what is told of
//! the base images. `InvalidBaseImagePlatform` is not: it takes the image. A
//! variable may come from the base image, so `UndefinedVar` says nothing of
//! stages on an image that nobody knows.
//!
//! `# check=skip=RuleA,RuleB;error=true` at the top of the file is for all of
//! it, `# check=skip=Rule` right above an instruction for that one, where
//! `error=` has no effect. `InvalidDefinitionDescription` is experimental: it
//! must be asked for with `experimental=`.

mod options;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Display};

use common::path::clean;
use common::platform::Platform;
use common::reference::Reference;

use crate::dockerfile::expand::{Expanded, expand};
use crate::dockerfile::instruction::{Command, Files, From, Instruction, Operation};
use crate::dockerfile::scope::{Globals, Scope, Told, Variables};
use crate::dockerfile::source::Source;
use crate::dockerfile::stages::{Base, Graph};
use crate::dockerfile::words::{Lexer, Values};
use crate::dockerfile::{Dockerfile, Stage, port};
use crate::error::{Result, nearest};
use crate::ignore::Ignore;
use options::Options;

/// What a rule says of a line.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Warning {
    /// The line, counted from one.
    pub line: usize,
    /// The rule.
    pub rule: &'static str,
    /// What is unwise.
    pub message: String,
}

impl Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.line, self.rule, self.message)
    }
}

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// In the order of the lines.
    pub warnings: Vec<Warning>,
    /// Whether the file says that warnings are errors.
    pub strict: bool,
}

/// The rule that must be asked for.
const EXPERIMENTAL: &str = "InvalidDefinitionDescription";

/// What is known besides the text.
pub struct Known<'a> {
    /// What a build is told.
    pub told: &'a Told,
    /// The context's ignore file.
    pub ignore: Option<&'a Ignore>,
    /// The `Env` and the `Shell` of an image, if it is known.
    pub image: &'a dyn Fn(&str) -> Option<Image>,
}

/// What of a base image decides what is unwise on it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Image {
    /// Its variables.
    pub env: Vec<String>,
    /// Whether it says which shell commands are for.
    pub has_shell: bool,
}

/// Looks at a Dockerfile: at all of its stages, or at those that the target needs if one is asked for.
pub fn check(file: &Dockerfile, known: &Known) -> Result<Found> {
    look(file, known, known.told.target.is_none())
}

/// Looks at what is going to be built: the stages that the target needs, the last one if none is asked for.
pub fn target(file: &Dockerfile, known: &Known) -> Result<Found> {
    look(file, known, false)
}

fn look(file: &Dockerfile, known: &Known, all: bool) -> Result<Found> {
    let options = Options::parse(file.directives.check.as_deref().unwrap_or_default())
        .map_err(|err| err.at(1))?;
    let globals = Globals::of(file, known.told)?;
    let strict = options.strict;
    let mut checker = Checker { file, known, globals, options, warnings: Vec::new() };
    checker.file();
    let graph = Graph::of(file, &checker.globals, &known.told.contexts)?;
    let stages = match all {
        false => graph.order(graph.target(known.told.target.as_deref())?)?,
        true => {
            for stage in 0..graph.stages.len() {
                graph.order(stage)?;
            }
            (0..graph.stages.len()).collect()
        }
    };
    checker.stages(&graph, &stages)?;
    let mut warnings = checker.warnings;
    warnings.sort();
    warnings.dedup();
    Ok(Found { warnings, strict })
}

struct Checker<'a> {
    file: &'a Dockerfile,
    known: &'a Known<'a>,
    globals: Globals,
    options: Options,
    warnings: Vec<Warning>,
}

/// Variables, and whatever else is asked for.
struct AnySet<'a>(&'a Variables);

impl Values for AnySet<'_> {
    fn get(&self, name: &str) -> Option<&str> {
        // A port, a mode, a user and a path.
        self.0.get(name).or(Some("1"))
    }
}

/// What a stage starts with, and ends with for those on top of it.
#[derive(Clone, Default)]
struct State {
    scope: Scope,
    /// Whether all variables are known.
    known: bool,
    has_shell: bool,
    has_workdir: bool,
}

impl Checker<'_> {
    fn warn(&mut self, rule: &'static str, line: usize, message: String) {
        if self.options.counts(rule) {
            self.warnings.push(Warning { line, rule, message });
        }
    }

    /// Warns of an instruction, unless a comment above it says that it shall not.
    fn warn_of(&mut self, rule: &'static str, of: &Instruction, message: String) {
        if self.options.with(&of.comments).counts(rule) {
            self.warnings.push(Warning { line: of.first, rule, message });
        }
    }

    /// What needs no variables.
    fn file(&mut self) {
        for gap in &self.file.gaps {
            self.warn("NoEmptyContinuation", *gap, "an empty line in an instruction".into());
        }
        self.casing();
        let mut names = BTreeSet::new();
        let file = self.file;
        for instruction in file.instructions() {
            match &instruction.operation {
                Operation::From(from) => self.from(from, instruction),
                Operation::Maintainer(_) => {
                    let message = "LABEL org.opencontainers.image.authors=... instead";
                    self.warn_of("MaintainerDeprecated", instruction, message.into());
                }
                Operation::Arg(arguments) => {
                    let names = arguments.iter().map(|argument| argument.name.as_str()).collect();
                    self.description("ARG", names, instruction);
                }
                _ => {}
            }
        }
        for stage in &file.stages {
            let Some(name) = &stage.from.name else { continue };
            let line = stage.begin.first;
            if matches!(name.as_str(), "context" | "scratch") {
                let message = format!("{name} means something else in COPY --from");
                self.warn("ReservedStageName", line, message);
            }
            if !names.insert(name) {
                self.warn("DuplicateStageName", line, format!("a second stage {name}"));
            }
        }
        // Whether images have names if nothing is told.
        let told = Told { arguments: BTreeMap::new(), ..self.known.told.clone() };
        let Ok(globals) = Globals::of(file, &told) else { return };
        for stage in &file.stages {
            let image = Lexer::new(file.escape).expand(&stage.from.image, &globals.variables);
            let Ok(image) = image else { return };
            if image.text.parse::<Reference>().is_err() {
                let message = format!("{}: no image's name without --build-arg", stage.from.image);
                self.warn("InvalidDefaultArgInFrom", stage.begin.first, message);
            }
        }
    }

    /// One case for all keywords: that of most of them.
    fn casing(&mut self) {
        let stages = self.file.stages.iter();
        let all: Vec<&Instruction> = stages
            .flat_map(|stage| std::iter::once(&stage.begin).chain(&stage.instructions))
            .collect();
        let lower = |keyword: &str| keyword == keyword.to_lowercase();
        let upper = |keyword: &str| keyword == keyword.to_uppercase();
        let lowers = all.iter().filter(|one| lower(&one.keyword)).count();
        let uppers = all.iter().filter(|one| upper(&one.keyword)).count();
        let (right, case): (&dyn Fn(&str) -> bool, _) = match lowers > uppers {
            true => (&lower, "lower"),
            false => (&upper, "upper"),
        };
        for one in all {
            if !right(&one.keyword) {
                let message = format!("{}: most instructions are in {case} case", one.keyword);
                self.warn("ConsistentInstructionCasing", one.first, message);
            }
        }
    }

    fn from(&mut self, from: &From, instruction: &Instruction) {
        let Some((name, written)) = from.name.as_ref().zip(from.name_as_written.as_ref()) else {
            return;
        };
        if written != name {
            let message = format!("{written}: a stage's name is {name}, whatever its case");
            self.warn_of("StageNameCasing", instruction, message);
        }
        let keyword = &instruction.keyword;
        let wanted = match keyword {
            lower if *lower == lower.to_lowercase() => Some("as"),
            upper if *upper == upper.to_uppercase() => Some("AS"),
            _ => None,
        };
        if let (Some(wanted), Some(given)) = (wanted, &from.as_keyword)
            && wanted != given
        {
            let message = format!("{given} beside {keyword}: {wanted}");
            self.warn_of("FromAsCasing", instruction, message);
        }
        self.description("FROM", vec![name], instruction);
    }

    /// A comment right above says what something is, and begins with its name.
    fn description(&mut self, what: &str, names: Vec<&str>, instruction: &Instruction) {
        let Some(comment) = instruction.comments.last() else { return };
        if !names.contains(&comment.split(' ').next().unwrap_or_default()) {
            let name = match names[..] {
                [name] => name,
                _ => "NAME",
            };
            let message = format!("# {name} and what it is, or an empty comment above {what}");
            self.warn_of(EXPERIMENTAL, instruction, message);
        }
    }

    /// What takes variables: stage by stage, line by line.
    fn stages(&mut self, graph: &Graph, wanted: &[usize]) -> Result<()> {
        let file = self.file;
        for stage in &file.stages {
            self.stage_words(stage)?;
        }
        let mut states: BTreeMap<usize, State> = BTreeMap::new();
        for index in wanted {
            let node = &graph.stages[*index];
            let mut state = match &node.base {
                // It is needed, and comes first.
                Base::Stage(below) => states.get(below).cloned().unwrap_or_default(),
                Base::Scratch => State {
                    scope: Scope::on(Variables::default()),
                    known: true,
                    ..State::default()
                },
                base => {
                    let image = match base {
                        Base::Image(name) => (self.known.image)(name),
                        _ => None,
                    };
                    let known = image.is_some();
                    let image = image.unwrap_or_default();
                    let variables = Variables::of(image.env.iter().map(String::as_str));
                    let scope = Scope::on(variables);
                    State { scope, known, has_shell: image.has_shell, has_workdir: false }
                }
            };
            let mut once = Once::default();
            let own = &file.stages[*index].instructions;
            for instruction in node.triggers.iter().chain(own) {
                self.instruction(instruction, &mut state, &mut once)?;
            }
            states.insert(*index, state);
        }
        Ok(())
    }

    /// The variables of FROM.
    fn stage_words(&mut self, stage: &Stage) -> Result<()> {
        let lexer = Lexer::new(self.file.escape);
        let names = |globals: &Globals| -> Vec<String> {
            let variables = globals.variables.iter().map(|(name, _)| name.to_owned());
            variables.chain(globals.declared.iter().cloned()).collect()
        };
        let mut missing = Vec::new();
        missing.extend(lexer.expand(&stage.from.image, &self.globals.variables)?.missing);
        if let Some(text) = &stage.from.platform {
            let platform = lexer.expand(text, &self.globals.variables)?;
            let alone = platform.found.len() == 1 && platform.missing.is_empty();
            if alone
                && platform.found.contains("TARGETPLATFORM")
                && self.globals.variables.get("TARGETPLATFORM") == Some(&platform.text)
            {
                let message = format!("--platform={text} is the default");
                self.warn_of("RedundantTargetPlatform", &stage.begin, message);
            }
            if platform.found.is_empty()
                && platform.missing.is_empty()
                && let Ok(parsed) = platform.text.parse::<Platform>()
            {
                let name = stage.from.name.as_deref().unwrap_or_default();
                if !name.contains(&parsed.os) && !name.contains(&parsed.architecture) {
                    let message = format!("--platform={text} whatever is built for");
                    self.warn_of("FromPlatformFlagConstDisallowed", &stage.begin, message);
                }
            }
            missing.extend(platform.missing);
        }
        let known = names(&self.globals);
        for name in missing.iter().filter(|name| !known.contains(name)) {
            let message = match nearest(name, known.iter().map(String::as_str)) {
                Some(meant) => format!("{name}: no ARG before FROM; {meant} is known"),
                None => format!("{name}: no ARG before FROM"),
            };
            self.warn_of("UndefinedArgInFrom", &stage.begin, message);
        }
        Ok(())
    }

    fn instruction(
        &mut self,
        instruction: &Instruction,
        state: &mut State,
        once: &mut Once,
    ) -> Result<()> {
        let escape = self.file.escape;
        let Some(Expanded { operation, mut missing, .. }) = self.expanded(instruction, state)?
        else {
            return Ok(());
        };
        let done = Instruction { operation, ..instruction.clone() };
        let before = state.scope.clone();
        missing.retain(|name| !before.is_argument(name));
        match state.scope.take(&done, &self.globals, self.known.told, Lexer::new(escape)) {
            Ok(names) => missing.extend(names),
            Err(_) if !state.known => return Ok(()), // as below
            Err(err) => return Err(err.of(&done.keyword).at(done.first)),
        }
        if state.known {
            self.undefined(&missing, &before, instruction);
        }
        match &done.operation {
            Operation::Env(pairs) | Operation::Label(pairs) => {
                let keyword = done.keyword.to_uppercase();
                if pairs.iter().any(|pair| pair.legacy) {
                    let message = format!("{keyword} name=value, with =");
                    self.warn_of("LegacyKeyValueFormat", instruction, message);
                }
                if keyword == "ENV" {
                    pairs.iter().for_each(|pair| self.secret(&pair.name, instruction));
                }
            }
            Operation::Arg(arguments) => {
                arguments.iter().for_each(|argument| self.secret(&argument.name, instruction));
            }
            Operation::Workdir(dir) => {
                let first = !std::mem::replace(&mut state.has_workdir, true);
                if state.known || missing.is_empty() {
                    self.workdir(dir, first, instruction);
                }
            }
            Operation::Shell(_) => state.has_shell = true,
            Operation::Cmd(command) | Operation::Entrypoint(command) => {
                if matches!(command, Command::Shell(_)) && !state.has_shell {
                    let message = "without JSON a shell gets the signals".into();
                    self.warn_of("JSONArgsRecommended", instruction, message);
                }
                self.again(instruction, once);
            }
            Operation::Healthcheck(_) => self.again(instruction, once),
            Operation::Expose(_) => self.ports(instruction, &before)?,
            Operation::Copy(copy) if copy.from.is_none() => {
                self.ignored(&copy.files, instruction);
            }
            Operation::Add(add) => self.ignored(&add.files, instruction),
            _ => {}
        }
        Ok(())
    }

    /// Returns an instruction with its variables replaced.
    ///
    /// Nothing, if that fails only for want of one which an image that nobody knows may have.
    fn expanded(&self, instruction: &Instruction, state: &State) -> Result<Option<Expanded>> {
        let (variables, escape) = (&state.scope.variables, self.file.escape);
        match expand(instruction, variables, escape) {
            Err(err) if !state.known => match expand(instruction, &AnySet(variables), escape) {
                Err(again) if again == err => Err(err),
                _ => Ok(None),
            },
            done => done.map(Some),
        }
    }

    /// Of several directories the first one decides where the others are.
    fn workdir(&mut self, dir: &str, first: bool, instruction: &Instruction) {
        if first && !dir.starts_with('/') {
            let message = format!("{dir}: where that is, the base image decides");
            self.warn_of("WorkdirRelativePath", instruction, message);
        }
    }

    fn undefined(&mut self, missing: &BTreeSet<String>, scope: &Scope, of: &Instruction) {
        let known: Vec<&str> = scope.variables.iter().map(|(name, _)| name).collect();
        for name in missing {
            let message = match nearest(name, known.iter().copied()) {
                Some(meant) => format!("${name} is not set; ${meant} is"),
                None => format!("${name} is not set"),
            };
            self.warn_of("UndefinedVar", of, message);
        }
    }

    fn secret(&mut self, name: &str, instruction: &Instruction) {
        if is_secret(name) {
            let keyword = instruction.keyword.to_uppercase();
            let message = format!("{keyword} {name} stays in the image: RUN --mount=type=secret");
            self.warn_of("SecretsUsedInArgOrEnv", instruction, message);
        }
    }

    /// Of several the last one counts: it is the earlier one that does nothing.
    fn again(&mut self, instruction: &Instruction, once: &mut Once) {
        const RULE: &str = "MultipleInstructionsDisallowed";
        let keyword = instruction.keyword.to_uppercase();
        let earlier = once.insert(keyword.clone(), instruction.first);
        let counts = self.options.with(&instruction.comments).counts(RULE);
        if let (Some(line), true) = (earlier, counts) {
            let message = format!("{keyword} has no effect: there is another one below");
            self.warnings.push(Warning { line, rule: RULE, message });
        }
    }

    fn ports(&mut self, instruction: &Instruction, scope: &Scope) -> Result<()> {
        let Operation::Expose(ports) = &instruction.operation else { return Ok(()) };
        for text in ports {
            for text in Lexer::new(self.file.escape).expand(text, &scope.variables)?.words {
                let odd = port::odd(&text);
                if odd.casing {
                    let message = format!("{text}: the protocol in lower case");
                    self.warn_of("ExposeProtoCasing", instruction, message);
                }
                if odd.mapping {
                    let message = format!("{text}: only the port, which run -p maps");
                    self.warn_of("ExposeInvalidFormat", instruction, message);
                }
            }
        }
        Ok(())
    }

    fn ignored(&mut self, files: &Files, instruction: &Instruction) {
        let Some(ignore) = self.known.ignore else { return };
        // What is re-included cannot be told from the patterns alone.
        if ignore.patterns().iter().any(|pattern| pattern.includes) {
            return;
        }
        let everything = ignore
            .patterns()
            .iter()
            .any(|pattern| matches!(pattern.text.as_str(), "*" | "**" | "**/*"));
        let paths = files.sources.iter().filter(|source| Source::of(source) == Source::Path);
        for path in paths.map(|source| clean(source)) {
            let root = matches!(path.as_str(), "." | "/");
            if (!root || everything) && ignore.matches(&path) {
                let message = format!("{path} is in .dockerignore");
                self.warn_of("CopyIgnoredFile", instruction, message);
            }
        }
    }
}

/// Where the instructions are of which only the last one counts.
type Once = BTreeMap<String, usize>;

/// Returns whether a variable of this name is likely to be a secret: one of these is a word of it.
fn is_secret(name: &str) -> bool {
    const SECRET: [&str; 10] = [
        "apikey",
        "auth",
        "credential",
        "credentials",
        "key",
        "password",
        "pword",
        "passwd",
        "secret",
        "token",
    ];
    const FINE: [&str; 3] = ["public", "file", "version"];
    let name = name.to_lowercase();
    let any = |words: &[&str]| name.split('_').any(|word| words.contains(&word));
    any(&SECRET) && !any(&FINE)
}

#[cfg(test)]
mod tests;
