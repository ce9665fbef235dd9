//! An instruction's line, as the type that it is: its flags, its arguments, and how many of them there may be.

use super::duration;
use super::flags::{Flags, Takes};
use super::heredoc::{Heredoc, with_heredocs};
use super::instruction::{
    Add, Arg, Command, Content, Copy, Files, From, Healthcheck, Instruction, KEYWORDS, Network,
    Operation, Run, Security,
};
use super::lines::Logical;
use super::mount::{Device, MountOption};
use super::split::{self, Json, Split};
use crate::error::{Error, Result, nearest};

impl Instruction {
    /// Returns the here-documents that a line begins, which follow it in the file.
    pub fn begins(text: &str, escape: char) -> Result<Vec<Heredoc>> {
        let mut split = Split::line(text, escape);
        let keyword = split.keyword;
        if keyword.eq_ignore_ascii_case("onbuild") {
            split = Split::line(split.rest, escape);
        }
        let list = matches!(split.keyword.to_lowercase().as_str(), "add" | "copy" | "run");
        if !list || !text.contains("<<") {
            return Ok(Vec::new());
        }
        match split::json(split.rest).map_err(|err| err.of(keyword))? {
            Json::Array(_) => Ok(Vec::new()),
            Json::Text(_) => Heredoc::all(text).map_err(|err| err.of(keyword)),
        }
    }

    /// Reads an instruction.
    pub fn parse(line: Logical, heredocs: Vec<Heredoc>, last: usize, escape: char) -> Result<Self> {
        let split = Split::line(&line.text, escape);
        let operation = operation(&split, &line.text, &heredocs, escape);
        let operation = operation.map_err(|err| match split.keyword {
            "" => err,
            keyword => err.of(keyword),
        })?;
        Ok(Instruction {
            first: line.first,
            last,
            keyword: split.keyword.to_owned(),
            flags: split.flags,
            source: line.text.trim().to_owned(),
            comments: line.comments,
            heredocs,
            operation,
        })
    }
}

fn operation(split: &Split, line: &str, heredocs: &[Heredoc], escape: char) -> Result<Operation> {
    use Takes::{Bool, Value, Values};
    let rest = split.rest;
    let none = || Flags::parse(&split.flags, &[]).map(drop);
    Ok(match split.keyword.to_lowercase().as_str() {
        "add" => {
            let flags = Flags::parse(
                &split.flags,
                &[
                    ("chown", Value),
                    ("chmod", Value),
                    ("link", Bool),
                    ("keep-git-dir", Bool),
                    ("checksum", Value),
                    ("unpack", Bool),
                    ("exclude", Values),
                ],
            )?;
            Operation::Add(Add {
                files: files(rest, &flags, heredocs)?,
                checksum: flags.value("checksum"),
                keep_git_dir: flags.bool("keep-git-dir"),
                unpack: flags.bool("unpack"),
            })
        }
        "arg" => Operation::Arg(arguments(&split::quoted_words(rest, escape))?),
        "cmd" => {
            none()?;
            Operation::Cmd(command(rest)?)
        }
        "copy" => {
            let flags = Flags::parse(
                &split.flags,
                &[
                    ("chown", Value),
                    ("from", Value),
                    ("chmod", Value),
                    ("link", Bool),
                    ("exclude", Values),
                    ("parents", Bool),
                ],
            )?;
            Operation::Copy(Copy {
                files: files(rest, &flags, heredocs)?,
                from: flags.value("from"),
                parents: flags.is_set("parents"),
            })
        }
        "entrypoint" => {
            none()?;
            Operation::Entrypoint(command(rest)?)
        }
        "env" => {
            none()?;
            Operation::Env(split::pairs(rest, escape)?)
        }
        "expose" => {
            none()?;
            let mut ports = some(split::words(rest), "8080/tcp")?;
            ports.sort();
            Operation::Expose(ports)
        }
        "from" => Operation::From(from(split)?),
        "healthcheck" => Operation::Healthcheck(healthcheck(split)?),
        "label" => {
            none()?;
            Operation::Label(split::pairs(rest, escape)?)
        }
        "maintainer" => {
            none()?;
            Operation::Maintainer(one(rest, "LABEL org.opencontainers.image.authors=NAME")?)
        }
        "onbuild" => {
            none()?;
            Operation::Onbuild(trigger(rest, line, heredocs, escape)?)
        }
        "run" => {
            let known =
                [("mount", Values), ("network", Value), ("security", Value), ("device", Values)];
            run(rest, &Flags::parse(&split.flags, &known)?)?
        }
        "shell" => {
            none()?;
            match command(rest)? {
                Command::Exec(args) => Operation::Shell(some(args, r#"["/bin/sh", "-c"]"#)?),
                Command::Shell(_) => {
                    let err = Error::new("it takes its arguments as JSON");
                    return Err(err.hint(r#"SHELL ["/bin/bash", "-c"]"#));
                }
            }
        }
        // BuildKit looks at no flag of this one, nor of ARG.
        "stopsignal" => Operation::Stopsignal(one(rest, "SIGTERM")?),
        "user" => {
            none()?;
            Operation::User(one(rest, "USER name, or USER uid:gid")?)
        }
        "volume" => {
            none()?;
            Operation::Volume(volumes(rest)?)
        }
        "workdir" => {
            none()?;
            Operation::Workdir(one(rest, "WORKDIR /path")?)
        }
        _ => return Err(unknown(split.keyword)),
    })
}

fn unknown(keyword: &str) -> Error {
    let err = match keyword {
        "" => Error::new("an instruction is missing"),
        _ => Error::new("there is no such instruction"),
    };
    let upper = keyword.to_uppercase();
    match nearest(&upper, KEYWORDS) {
        Some(meant) => err.hint(meant),
        None => err.hint("if it belongs to the line above, end that one with the escape, \\"),
    }
}

/// Returns what must be there.
fn some(list: Vec<String>, example: &str) -> Result<Vec<String>> {
    match list.is_empty() {
        true => Err(Error::new("it needs an argument").hint(example)),
        false => Ok(list),
    }
}

fn one(rest: &str, example: &str) -> Result<String> {
    some(if rest.is_empty() { vec![] } else { vec![rest.to_owned()] }, example)
        .map(|mut list| list.swap_remove(0))
}

fn command(rest: &str) -> Result<Command> {
    Ok(match split::json(rest)? {
        Json::Array(args) => Command::Exec(args),
        Json::Text(text) => Command::Shell(text.to_owned()),
    })
}

/// Returns the words of a JSON array, or those between blanks.
fn list(rest: &str) -> Result<Vec<String>> {
    Ok(match split::json(rest)? {
        Json::Array(list) => list,
        Json::Text(text) => split::words(text),
    })
}

fn arguments(words: &[String]) -> Result<Vec<Arg>> {
    if words.is_empty() {
        return Err(Error::new("it needs a name").hint("ARG NAME=default"));
    }
    let argument = |word: &String| match word.split_once('=') {
        Some(("", _)) => Err(Error::new("a name is missing before =").hint("ARG NAME=default")),
        Some((name, value)) => Ok(Arg { name: name.into(), default: Some(value.into()) }),
        None => Ok(Arg { name: word.clone(), default: None }),
    };
    words.iter().map(argument).collect()
}

fn files(rest: &str, flags: &Flags, heredocs: &[Heredoc]) -> Result<Files> {
    let mut sources = list(rest)?;
    let destination = sources.pop().filter(|_| !sources.is_empty()).ok_or_else(|| {
        let what = if rest.is_empty() { "a source and a destination" } else { "a destination" };
        Error::new(format!("{what} is missing")).hint("COPY source... destination")
    })?;
    if let Ok(Some(_)) = Heredoc::begin(&destination) {
        let err = Error::new("a here-document is a source, and no destination");
        return Err(err.hint(format!("COPY {destination} /file")));
    }
    let mut paths = Vec::new();
    let mut contents = Vec::new();
    for source in sources {
        let Ok(Some(begun)) = Heredoc::begin(&source) else {
            paths.push(source);
            continue;
        };
        // Of two with one name the last is the file.
        let read = heredocs.iter().rev().find(|heredoc| heredoc.name == begun.name);
        let text = read.map(|read| Heredoc { chomp: begun.chomp, ..read.clone() }.text());
        let text = text.unwrap_or_default();
        contents.push(Content { name: begun.name, text, expand: begun.expand });
    }
    Ok(Files {
        sources: paths,
        contents,
        destination,
        chown: flags.value("chown"),
        chmod: flags.value("chmod"),
        link: flags.is_set("link"),
        exclude: flags.all("exclude"),
    })
}

fn from(split: &Split) -> Result<From> {
    let words = split::words(split.rest);
    let (image, stage) = match &words[..] {
        [image] => (image, None),
        [image, keyword, name] if keyword.eq_ignore_ascii_case("as") => {
            (image, Some((keyword, name)))
        }
        [] => return Err(Error::new("it needs an image").hint("FROM image AS name")),
        [_, keyword, _] => {
            let err = Error::new(format!("{keyword}: only AS may follow the image"));
            return Err(err.hint("FROM image AS name"));
        }
        _ => {
            return Err(
                Error::new("it takes an image, and AS with a name").hint("FROM image AS name")
            );
        }
    };
    let flags = Flags::parse(&split.flags, &[("platform", Takes::Value)])?;
    let name = stage.map(|(_, name)| name.to_lowercase());
    if let Some(name) = &name {
        let part = |c: char| matches!(c, 'a'..='z' | '0'..='9' | '-' | '_' | '.');
        if !name.starts_with(|c: char| c.is_ascii_lowercase()) || !name.chars().all(part) {
            return Err(Error::new(format!("{name}: not a stage's name"))
                .hint("a letter, then letters, digits, - _ and ."));
        }
    }
    Ok(From {
        image: image.clone(),
        platform: flags.value("platform"),
        name,
        name_as_written: stage.map(|(_, name)| name.clone()),
        as_keyword: stage.map(|(keyword, _)| keyword.clone()),
    })
}

fn healthcheck(split: &Split) -> Result<Healthcheck> {
    let rest = split.rest;
    let end = rest.find(char::is_whitespace).unwrap_or(rest.len());
    let (kind, rest) = (&rest[..end], rest[end..].trim_start());
    match kind.to_uppercase().as_str() {
        "" => Err(Error::new("it needs CMD or NONE").hint("HEALTHCHECK CMD command")),
        "NONE" if rest.is_empty() => Ok(Healthcheck::None),
        "NONE" => Err(Error::new("nothing follows NONE").hint("HEALTHCHECK NONE")),
        "CMD" => {
            let names = ["interval", "timeout", "start-period", "start-interval", "retries"];
            let flags = Flags::parse(&split.flags, &names.map(|name| (name, Takes::Value)))?;
            let time = |name: &str| duration::flag(name, flags.value(name).as_deref());
            let command = command(rest)?;
            if matches!(&command, Command::Shell(text) if text.is_empty())
                || matches!(&command, Command::Exec(args) if args.is_empty())
            {
                return Err(Error::new("CMD without a command").hint("HEALTHCHECK CMD command"));
            }
            let retries = match flags.value("retries") {
                None => 0,
                Some(text) => text.parse().ok().filter(|number| *number >= 0).ok_or_else(|| {
                    Error::new(format!("--retries={text}: not a number")).hint("--retries=3")
                })?,
            };
            Ok(Healthcheck::Run {
                command,
                interval: time("interval")?,
                timeout: time("timeout")?,
                start_period: time("start-period")?,
                start_interval: time("start-interval")?,
                retries,
            })
        }
        _ => {
            Err(Error::new(format!("{kind}: neither CMD nor NONE")).hint("HEALTHCHECK CMD command"))
        }
    }
}

/// Reads what ONBUILD keeps: the text of an instruction. Whether it is one is seen when it is used.
fn trigger(rest: &str, line: &str, heredocs: &[Heredoc], escape: char) -> Result<String> {
    let inner = Split::line(rest, escape);
    match inner.keyword.to_uppercase().as_str() {
        "" => return Err(Error::new("it needs an instruction").hint("ONBUILD COPY . /src")),
        keyword @ ("ONBUILD" | "FROM" | "MAINTAINER") => {
            let err = Error::new(format!("{keyword} cannot be kept for later"));
            return Err(err.hint("any other instruction"));
        }
        // These are taken apart before anybody knows what they are.
        "ENV" | "LABEL" if !inner.rest.is_empty() => {
            // An empty name is seen later.
            match split::pairs(inner.rest, escape) {
                Err(err) if !err.message.starts_with("a name") => return Err(err),
                _ => {}
            }
        }
        "ADD" | "COPY" | "CMD" | "ENTRYPOINT" | "RUN" | "SHELL" | "VOLUME" => {
            split::json(inner.rest)?;
        }
        "HEALTHCHECK" => {
            let end = inner.rest.find(char::is_whitespace).unwrap_or(inner.rest.len());
            split::json(inner.rest[end..].trim_start())?;
        }
        _ => {}
    }
    let line = line.trim_start();
    let text = match line.get(.."onbuild".len()) {
        Some(keyword) if keyword.eq_ignore_ascii_case("onbuild") => &line[keyword.len()..],
        // A keyword of other letters that are the same in lower case: there is one, K of Kelvin, and not here.
        _ => line,
    };
    let text = text.trim_start_matches(['\t', '\n', '\x0c', '\r', ' ']);
    Ok(with_heredocs(text, heredocs))
}

fn run(rest: &str, flags: &Flags) -> Result<Operation> {
    // An empty value is one here, and a wrong one.
    let choice = |name: &str, choices: &[&str]| -> Result<usize> {
        let Some(given) = flags.all(name).pop() else { return Ok(0) };
        choices.iter().position(|choice| *choice == given).ok_or_else(|| {
            Error::new(format!("--{name}={given}: there is no such {name}"))
                .hint(format!("--{name}={}", choices.join("|")))
        })
    };
    let network = choice("network", &["default", "none", "host"])?;
    let security = choice("security", &["sandbox", "insecure"])?;
    let mounts = flags.all("mount").into_iter().map(MountOption::new);
    let devices = flags.all("device");
    Ok(Operation::Run(Run {
        command: command(rest)?,
        mounts: mounts.collect::<Result<_>>()?,
        network: [Network::Default, Network::None, Network::Host][network],
        security: [Security::Sandbox, Security::Insecure][security],
        devices: devices.iter().map(|text| Device::parse(text)).collect::<Result<_>>()?,
    }))
}

fn volumes(rest: &str) -> Result<Vec<String>> {
    let volumes = some(list(rest)?, "VOLUME /data")?;
    let volumes = volumes.iter().map(|volume| volume.trim().to_owned());
    let volumes: Vec<String> = volumes.collect();
    match volumes.iter().any(String::is_empty) {
        true => Err(Error::new("a volume's path is empty").hint("VOLUME /data")),
        false => Ok(volumes),
    }
}
