//! The instructions, a type each.
//!
//! What is here is what the text says: variables are not replaced yet, since
//! their values come from the base image and the command line.
//! [`super::expand`] replaces them, and looks at what can be wrong only then.

use serde::Serialize;

use super::duration::Nanoseconds;
use super::heredoc::{Heredoc, with_heredocs};
use super::mount::{Device, MountOption};
use super::split::Pair;

/// An instruction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instruction {
    /// The first line, counted from one.
    pub first: usize,
    /// The last, which may be the end of a here-document.
    pub last: usize,
    /// The keyword as it is written.
    pub keyword: String,
    /// The flags as they are written, unquoted.
    pub flags: Vec<String>,
    /// The whole text, its lines put together.
    pub source: String,
    /// The comments right above it.
    pub comments: Vec<String>,
    /// The here-documents that it holds.
    pub heredocs: Vec<Heredoc>,
    /// What it does.
    pub operation: Operation,
}

/// What an instruction does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Copies files, archives and what is at URLs.
    Add(Add),
    /// Takes arguments of the build.
    Arg(Vec<Arg>),
    /// Sets the default command.
    Cmd(Command),
    /// Copies files.
    Copy(Copy),
    /// Sets what is run.
    Entrypoint(Command),
    /// Sets variables.
    Env(Vec<Pair>),
    /// Says which ports are listened on.
    Expose(Vec<String>),
    /// Begins a stage.
    From(From),
    /// Sets how to ask whether all is well.
    Healthcheck(Healthcheck),
    /// Sets labels.
    Label(Vec<Pair>),
    /// Sets the author.
    Maintainer(String),
    /// Keeps an instruction for builds on top of this image.
    Onbuild(String),
    /// Runs a command.
    Run(Run),
    /// Sets the shell of the shell form.
    Shell(Vec<String>),
    /// Sets the signal that ends the container.
    Stopsignal(String),
    /// Sets who runs commands.
    User(String),
    /// Says which directories are volumes.
    Volume(Vec<String>),
    /// Sets the working directory.
    Workdir(String),
}

/// A command: text for the shell, or a program and its arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Text for the shell that SHELL says, `/bin/sh -c` by default.
    Shell(String),
    /// A program and its arguments.
    Exec(Vec<String>),
}

/// Where files come from, and where they go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Files {
    /// Paths, patterns and URLs.
    pub sources: Vec<String>,
    /// Files whose content is in the Dockerfile.
    pub contents: Vec<Content>,
    /// A file; a directory if it ends in `/`.
    pub destination: String,
    /// Who gets them: `user[:group]`.
    pub chown: Option<String>,
    /// Their permissions, octal or as chmod(1) takes them.
    pub chmod: Option<String>,
    /// Whether the layer does not depend on those below it.
    pub link: bool,
    /// Patterns of what is left out.
    pub exclude: Vec<String>,
}

/// A file whose content is in the Dockerfile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Content {
    /// Its name.
    pub name: String,
    /// What is in it.
    pub text: String,
    /// Whether variables in it are replaced.
    pub expand: bool,
}

/// ADD.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Add {
    /// From where to where.
    pub files: Files,
    /// What the source's digest must be.
    pub checksum: Option<String>,
    /// Whether the .git directory of a repository is kept.
    pub keep_git_dir: Option<bool>,
    /// Whether archives are unpacked.
    pub unpack: Option<bool>,
}

/// COPY.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Copy {
    /// From where to where.
    pub files: Files,
    /// The stage or image that the sources are in; none is the context.
    pub from: Option<String>,
    /// Whether the sources' directories are made at the destination.
    pub parents: bool,
}

/// An argument of the build.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arg {
    /// Its name.
    pub name: String,
    /// Its value where none is given.
    pub default: Option<String>,
}

/// FROM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct From {
    /// An image, `scratch`, or an earlier stage.
    pub image: String,
    /// The platform of the image.
    pub platform: Option<String>,
    /// The stage's name, in lower case.
    pub name: Option<String>,
    /// The name as it is written.
    pub name_as_written: Option<String>,
    /// `AS`, as it is written.
    pub as_keyword: Option<String>,
}

/// HEALTHCHECK.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Healthcheck {
    /// Nothing is asked, whatever the base image says.
    None,
    /// A command is run.
    Run {
        /// The command.
        command: Command,
        /// How often; zero is the default.
        interval: Nanoseconds,
        /// How long it may take.
        timeout: Nanoseconds,
        /// How long failures do not count.
        start_period: Nanoseconds,
        /// How often in that time.
        start_interval: Nanoseconds,
        /// How many failures count.
        retries: i32,
    },
}

/// RUN.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// What is run.
    pub command: Command,
    /// What is mounted for it.
    pub mounts: Vec<MountOption>,
    /// What it sees of the network.
    pub network: Network,
    /// What it may do.
    pub security: Security,
    /// The devices it gets.
    pub devices: Vec<Device>,
}

/// What a step sees of the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Network {
    /// What the build says.
    Default,
    /// Nothing.
    None,
    /// The host's.
    Host,
}

/// What a step may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Security {
    /// What a container may.
    Sandbox,
    /// Everything.
    Insecure,
}

/// What a RUN step starts, when here-documents are taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Start {
    /// A program and its arguments.
    Exec(Vec<String>),
    /// Text for the shell.
    Shell(String),
    /// A script that names its interpreter: a file of this name and content.
    Script {
        /// The file's name.
        name: String,
        /// What is in it.
        text: String,
    },
}

/// The keywords.
pub const KEYWORDS: [&str; 18] = [
    "ADD",
    "ARG",
    "CMD",
    "COPY",
    "ENTRYPOINT",
    "ENV",
    "EXPOSE",
    "FROM",
    "HEALTHCHECK",
    "LABEL",
    "MAINTAINER",
    "ONBUILD",
    "RUN",
    "SHELL",
    "STOPSIGNAL",
    "USER",
    "VOLUME",
    "WORKDIR",
];

impl Instruction {
    /// Returns what a RUN step starts.
    pub fn start(&self, run: &Run) -> Start {
        let text = match &run.command {
            Command::Exec(args) => return Start::Exec(args.clone()),
            Command::Shell(text) => text,
        };
        let Some(first) = self.heredocs.first() else { return Start::Shell(text.clone()) };
        // Nothing but a here-document is the script itself, also for shells that know none.
        if let Ok(Some(_)) = Heredoc::begin(text) {
            let text = first.text();
            return match text.starts_with("#!") {
                true => Start::Script { name: first.name.clone(), text },
                false => Start::Shell(text),
            };
        }
        Start::Shell(with_heredocs(text, &self.heredocs))
    }
}
