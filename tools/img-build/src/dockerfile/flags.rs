//! Flags of an instruction: `--name`, `--name=value`.

use crate::error::{Error, Result, nearest};

/// What a flag takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Takes {
    /// Nothing, `true` or `false`.
    Bool,
    /// A value.
    Value,
    /// A value, each time that it is given.
    Values,
}

/// Flags that were given, each one that its instruction has.
pub struct Flags<'a>(Vec<(&'static str, &'a str)>);

impl<'a> Flags<'a> {
    /// Reads what was given; `known` is what the instruction has.
    pub fn parse(given: &'a [String], known: &[(&'static str, Takes)]) -> Result<Flags<'a>> {
        let mut flags = Flags(Vec::new());
        for flag in given {
            // The splitter takes nothing else for a flag.
            let text = flag.strip_prefix("--").unwrap_or(flag);
            let (name, value) = match text.split_once('=') {
                Some((name, value)) => (name, Some(value)),
                None => (text, None),
            };
            let Some((name, takes)) = known.iter().find(|(known, _)| *known == name) else {
                return Err(unknown(name, known));
            };
            let value = match (takes, value) {
                (Takes::Bool, None) => "true",
                (Takes::Bool, Some(value)) => match value.to_lowercase().as_str() {
                    "true" => "true",
                    "false" => "false",
                    "" => return Err(missing(name)),
                    _ => {
                        return Err(Error::new(format!(
                            "--{name}={value}: neither true nor false"
                        ))
                        .hint(format!("--{name} or --{name}=false")));
                    }
                },
                (_, Some(value)) => value,
                (_, None) => return Err(missing(name)),
            };
            if *takes != Takes::Values && flags.has(name) {
                return Err(Error::new(format!("--{name} is given twice")));
            }
            flags.0.push((name, value));
        }
        Ok(flags)
    }

    fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(given, _)| *given == name)
    }

    /// Returns all values of a flag.
    pub fn all(&self, name: &str) -> Vec<String> {
        let values = self.0.iter().filter(|(given, _)| *given == name);
        values.map(|(_, value)| (*value).to_owned()).collect()
    }

    /// Returns the value of a flag; empty is as good as none.
    pub fn value(&self, name: &str) -> Option<String> {
        self.all(name).pop().filter(|value| !value.is_empty())
    }

    /// Returns whether a flag is there, and is not `false`.
    pub fn is_set(&self, name: &str) -> bool {
        self.bool(name) == Some(true)
    }

    /// Returns what a flag says, if it is there.
    pub fn bool(&self, name: &str) -> Option<bool> {
        self.all(name).pop().map(|value| value == "true")
    }
}

fn missing(name: &str) -> Error {
    Error::new(format!("--{name} without a value")).hint(format!("--{name}=value"))
}

fn unknown(name: &str, known: &[(&'static str, Takes)]) -> Error {
    let err = Error::new(format!("there is no flag --{name}"));
    let names: Vec<&str> = known.iter().map(|(name, _)| *name).collect();
    match nearest(name, names.iter().copied()) {
        Some(meant) => err.hint(format!("--{meant}")),
        None if names.is_empty() => err.hint("-- before an argument that begins so"),
        None => err.hint(format!("it has --{}", names.join(", --"))),
    }
}
