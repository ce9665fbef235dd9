//! `-c 'CMD ["sh"]'`: instructions that set an image's config, in the Dockerfile's words.
//!
//! Only those that docker import takes, and without variables: the shell has those.

use std::str::FromStr;

use anyhow::{Context, Error, Result, bail, ensure};
use common::path::clean;
use serde_json::{Map, Value, json};

/// One change of a config.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    Cmd(Vec<String>),
    Entrypoint(Vec<String>),
    Env(Vec<(String, String)>),
    Expose(Vec<String>),
    Label(Vec<(String, String)>),
    OnBuild(String),
    StopSignal(String),
    User(String),
    Volume(Vec<String>),
    Workdir(String),
}

impl Change {
    /// Makes the change in the `config` of an image config.
    pub fn apply(&self, config: &mut Map<String, Value>) {
        let mut set = |key: &str, value: Value| drop(config.insert(key.into(), value));
        match self {
            Change::Cmd(args) => set("Cmd", json!(args)),
            Change::Entrypoint(args) => set("Entrypoint", json!(args)),
            Change::StopSignal(signal) => set("StopSignal", json!(signal)),
            Change::User(user) => set("User", json!(user)),
            Change::Workdir(dir) => {
                let old = config.get("WorkingDir").and_then(Value::as_str).unwrap_or("/");
                let dir = std::path::Path::new(old).join(dir).display().to_string();
                config.insert("WorkingDir".into(), clean(&dir).into());
            }
            Change::OnBuild(trigger) => list(config, "OnBuild").push(json!(trigger)),
            Change::Env(pairs) => {
                let env = list(config, "Env");
                for (key, value) in pairs {
                    let start = format!("{key}=");
                    env.retain(|old| !old.as_str().is_some_and(|old| old.starts_with(&start)));
                    env.push(json!(start + value));
                }
            }
            Change::Expose(ports) => ports.iter().for_each(|port| {
                map(config, "ExposedPorts").insert(port.clone(), json!({}));
            }),
            Change::Volume(paths) => paths.iter().for_each(|path| {
                map(config, "Volumes").insert(path.clone(), json!({}));
            }),
            Change::Label(pairs) => pairs.iter().for_each(|(key, value)| {
                map(config, "Labels").insert(key.clone(), json!(value));
            }),
        }
    }
}

fn list<'a>(config: &'a mut Map<String, Value>, key: &str) -> &'a mut Vec<Value> {
    let value = config.entry(key).or_insert_with(|| json!([]));
    // Only `apply` writes the config, and it writes lists.
    value.as_array_mut().unwrap()
}

fn map<'a>(config: &'a mut Map<String, Value>, key: &str) -> &'a mut Map<String, Value> {
    let value = config.entry(key).or_insert_with(|| json!({}));
    // Only `apply` writes the config, and it writes maps.
    value.as_object_mut().unwrap()
}

impl FromStr for Change {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let text = text.trim();
        let (word, rest) = text.split_once(|c: char| c.is_ascii_whitespace()).unwrap_or((text, ""));
        let (word, rest) = (word.to_ascii_uppercase(), rest.trim());
        ensure!(
            !rest.is_empty() || matches!(word.as_str(), "CMD" | "ENTRYPOINT"),
            "{word} needs an argument"
        );
        let one = || {
            let words = words(rest)?;
            ensure!(words.len() == 1, "{word} takes one argument");
            Ok(words.into_iter().next().unwrap_or_default())
        };
        Ok(match word.as_str() {
            "CMD" => Change::Cmd(command(rest)?),
            "ENTRYPOINT" => Change::Entrypoint(command(rest)?),
            "ENV" => Change::Env(pairs(rest).context("ENV")?),
            "LABEL" => Change::Label(pairs(rest).context("LABEL")?),
            "EXPOSE" => Change::Expose(
                words(rest)?.iter().map(|port| expose(port)).collect::<Result<Vec<_>>>()?.concat(),
            ),
            "ONBUILD" => Change::OnBuild(rest.into()),
            "STOPSIGNAL" => Change::StopSignal(one()?),
            "USER" => Change::User(one()?),
            "VOLUME" if rest.starts_with('[') => Change::Volume(array(rest).context("VOLUME")?),
            "VOLUME" => Change::Volume(words(rest)?),
            "WORKDIR" => Change::Workdir(one()?),
            _ => bail!(
                "{word:?}: not one of CMD, ENTRYPOINT, ENV, EXPOSE, LABEL, ONBUILD, STOPSIGNAL, USER, VOLUME, WORKDIR"
            ),
        })
    }
}

/// Reads a command: a JSON array, else a line for the shell.
fn command(text: &str) -> Result<Vec<String>> {
    match text.starts_with('[') {
        // As in a Dockerfile, what is no array after all is a shell's line: [ -f x ] && y.
        true => Ok(array(text).unwrap_or_else(|_| shell(text))),
        false if text.is_empty() => Ok(Vec::new()),
        false => Ok(shell(text)),
    }
}

fn shell(line: &str) -> Vec<String> {
    vec!["/bin/sh".into(), "-c".into(), line.into()]
}

fn array(text: &str) -> Result<Vec<String>> {
    serde_json::from_str(text).context("not a JSON array of strings")
}

/// Reads `KEY=VALUE ...`, or the older `KEY VALUE`.
fn pairs(text: &str) -> Result<Vec<(String, String)>> {
    let first = text.split_ascii_whitespace().next().unwrap_or_default();
    if !first.contains('=') {
        let (key, value) =
            text.split_once(|c: char| c.is_ascii_whitespace()).context("KEY=VALUE is needed")?;
        return Ok(vec![(key.into(), value.trim().into())]);
    }
    let pair = |word: String| match word.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => bail!("{word:?}: not KEY=VALUE"),
    };
    words(text)?.into_iter().map(pair).collect()
}

/// Splits at blanks that are neither quoted nor escaped, and takes quotes and escapes away.
fn words(text: &str) -> Result<Vec<String>> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            c if c.is_ascii_whitespace() => words.extend(word.take()),
            '\'' => {
                let word = word.get_or_insert_default();
                loop {
                    match chars.next().context("a quote without its end")? {
                        '\'' => break,
                        c => word.push(c),
                    }
                }
            }
            '"' => {
                let word = word.get_or_insert_default();
                loop {
                    match chars.next().context("a quote without its end")? {
                        '"' => break,
                        '\\' => match chars.next().context("a quote without its end")? {
                            c @ ('"' | '\\' | '$') => word.push(c),
                            c => word.extend(['\\', c]),
                        },
                        c => word.push(c),
                    }
                }
            }
            '\\' => word.get_or_insert_default().extend(chars.next()),
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    Ok(words)
}

/// Reads `80`, `80/udp` or `8000-8002` as the ports that they are.
fn expose(text: &str) -> Result<Vec<String>> {
    let (ports, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let protocol = protocol.to_ascii_lowercase();
    ensure!(
        matches!(protocol.as_str(), "tcp" | "udp" | "sctp"),
        "EXPOSE {text}: the protocol is tcp, udp or sctp"
    );
    let port =
        |port: &str| port.parse::<u16>().with_context(|| format!("EXPOSE {text}: not a port"));
    let (first, last) = match ports.split_once('-') {
        Some((first, last)) => (port(first)?, port(last)?),
        None => (port(ports)?, port(ports)?),
    };
    ensure!(first <= last, "EXPOSE {text}: not a range");
    Ok((first..=last).map(|port| format!("{port}/{protocol}")).collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn config(changes: &[&str]) -> Value {
        let mut config = Map::new();
        for change in changes {
            change.parse::<Change>().unwrap().apply(&mut config);
        }
        Value::Object(config)
    }

    #[test]
    fn changes_are_made_as_docker_makes_them() {
        let table: &[(&[&str], Value)] = &[
            (&[r#"CMD ["sh", "-c", "x y"]"#], json!({"Cmd": ["sh", "-c", "x y"]})),
            (&["cmd echo $HOME"], json!({"Cmd": ["/bin/sh", "-c", "echo $HOME"]})),
            (&["CMD [ -f x ] && y"], json!({"Cmd": ["/bin/sh", "-c", "[ -f x ] && y"]})),
            (&["ENTRYPOINT []"], json!({"Entrypoint": []})),
            (&["ENV A=1 B=\"2 3\" C=4\\ 5", "ENV A=6"], json!({"Env": ["B=2 3", "C=4 5", "A=6"]})),
            (&["ENV A one two"], json!({"Env": ["A=one two"]})),
            (&["LABEL a=b 'c d'=e"], json!({"Labels": {"a": "b", "c d": "e"}})),
            (
                &["EXPOSE 80 53/udp 8000-8001"],
                json!({"ExposedPorts": {"80/tcp": {}, "53/udp": {}, "8000/tcp": {}, "8001/tcp": {}}}),
            ),
            (
                &["VOLUME /a /b", r#"VOLUME ["/c d"]"#],
                json!({"Volumes": {"/a": {}, "/b": {}, "/c d": {}}}),
            ),
            (&["WORKDIR /a", "WORKDIR b"], json!({"WorkingDir": "/a/b"})),
            (&["WORKDIR /a/../b//c/", "WORKDIR ../.."], json!({"WorkingDir": "/"})),
            (&["WORKDIR ./a/../b/"], json!({"WorkingDir": "/b"})),
            (
                &["USER 1000:1000", "STOPSIGNAL SIGINT"],
                json!({"User": "1000:1000", "StopSignal": "SIGINT"}),
            ),
            (&["ONBUILD RUN x", "ONBUILD RUN y"], json!({"OnBuild": ["RUN x", "RUN y"]})),
        ];
        for (changes, wanted) in table {
            assert_eq!(&config(changes), wanted, "{changes:?}");
        }
    }

    #[test]
    fn what_is_no_change_is_refused() {
        let bads = [
            "",
            "RUN x",
            "FROM a",
            "ENV",
            "ENV A",
            "ENV =b",
            "EXPOSE x",
            "EXPOSE 9-8",
            "EXPOSE 80/icmp",
            "USER a b",
            "LABEL a='b",
            "WORKDIR",
        ];
        for bad in bads {
            assert!(bad.parse::<Change>().is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_text_breaks_the_parser(word in "(CMD|ENTRYPOINT|ENV|EXPOSE|LABEL|ONBUILD|STOPSIGNAL|USER|VOLUME|WORKDIR)", rest in "[ -~]{0,24}|\\PC{0,24}") {
            let mut config = Map::new();
            if let Ok(change) = format!("{word} {rest}").parse::<Change>() {
                change.apply(&mut config);
                prop_assert!(!config.is_empty() || matches!(word.as_str(), "EXPOSE" | "VOLUME" | "ENV" | "LABEL"));
            }
        }

        /// Whatever a value holds, quoted as a shell would it comes back.
        #[test]
        fn what_is_quoted_comes_back(pairs in prop::collection::vec(("[a-zA-Z][a-zA-Z0-9]{0,6}", "[^\0]{0,12}"), 1..4)) {
            let single: Vec<String> = pairs
                .iter()
                .map(|(key, value)| format!("{key}='{}'", value.replace('\'', "'\"'\"'")))
                .collect();
            let double: Vec<String> = pairs
                .iter()
                .map(|(key, value)| {
                    let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('$', "\\$");
                    format!("{key}=\"{value}\"")
                })
                .collect();
            for text in [single, double] {
                prop_assert_eq!(super::pairs(&text.join(" ")).unwrap(), pairs.clone());
            }
        }

        #[test]
        fn an_array_is_read_as_json(args in prop::collection::vec("\\PC{0,8}", 0..4)) {
            let text = format!("CMD {}", serde_json::to_string(&args).unwrap());
            prop_assert_eq!(text.parse::<Change>().unwrap(), Change::Cmd(args));
        }
    }
}
