//! Variables for the container: `-e K[=V]` and `--env-file`.
//!
//! A bare `K` takes its value from our own environment. If it has none there,
//! the option takes the image's away, and the line of a file says nothing: as
//! Docker has it. A file is lines, and nothing in it is special but a `#` at the
//! beginning of one: no quotes, no escapes, no expansion.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::str::FromStr;

use anyhow::{Context, Error, Result, bail, ensure};
use common::error::At;

/// The most bytes of a line: a longer one is something else than a variable.
const LINE_LIMIT: usize = 64 << 10;
/// The most bytes of a file.
const FILE_LIMIT: u64 = 16 << 20;

/// One variable, as the user gives it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Variable {
    /// `K=V`, both in one.
    Set(String),
    /// `K`, whose value is that of our own.
    Inherit(String),
}

impl FromStr for Variable {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        ensure!(!text.contains('\0'), "a variable cannot hold a NUL");
        let (name, set) = match text.split_once('=') {
            Some((name, _)) => (name, true),
            None => (text, false),
        };
        ensure!(!name.is_empty(), "a variable needs a name");
        Ok(if set { Variable::Set(text.into()) } else { Variable::Inherit(text.into()) })
    }
}

impl Variable {
    /// Returns `K=V`, or the bare `K` of one that `lookup` does not know.
    pub fn resolve(&self, lookup: impl Fn(&str) -> Result<Option<String>>) -> Result<String> {
        Ok(match self {
            Variable::Set(variable) => variable.clone(),
            Variable::Inherit(name) => match lookup(name)? {
                Some(value) => format!("{name}={value}"),
                None => name.clone(),
            },
        })
    }
}

/// Returns the value of a variable of our own environment.
pub fn own(name: &str) -> Result<Option<String>> {
    match std::env::var(name) {
        Ok(value) => Ok(Some(value)),
        Err(std::env::VarError::NotPresent) => Ok(None),
        Err(std::env::VarError::NotUnicode(_)) => bail!("{name}: its value is not UTF-8"),
    }
}

/// Reads a file of variables.
pub fn read(path: &Path) -> Result<Vec<Variable>> {
    let mut bytes = Vec::new();
    // It may be a pipe, as from `<(...)`, so its size is not known before.
    File::open(path).at(path)?.take(FILE_LIMIT + 1).read_to_end(&mut bytes).at(path)?;
    parse(&bytes).at(path)
}

/// Parses the contents of a file of variables.
pub fn parse(bytes: &[u8]) -> Result<Vec<Variable>> {
    ensure!(bytes.len() as u64 <= FILE_LIMIT, "larger than {FILE_LIMIT} bytes");
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let mut variables = Vec::new();
    for (line, number) in bytes.split(|c| *c == b'\n').zip(1..) {
        let variable = parse_line(line.strip_suffix(b"\r").unwrap_or(line));
        variables.extend(variable.with_context(|| format!("line {number}"))?);
    }
    Ok(variables)
}

fn parse_line(line: &[u8]) -> Result<Option<Variable>> {
    ensure!(line.len() < LINE_LIMIT, "longer than {LINE_LIMIT} bytes");
    let line = str::from_utf8(line).context("not UTF-8")?.trim_start();
    if line.is_empty() || line.starts_with('#') {
        return Ok(None);
    }
    let name = line.split('=').next().unwrap_or_default();
    ensure!(!name.contains([' ', '\t']), "the name {name:?} contains a blank");
    line.parse().map(Some)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn set(text: &str) -> Variable {
        Variable::Set(text.into())
    }

    fn inherit(text: &str) -> Variable {
        Variable::Inherit(text.into())
    }

    #[test]
    fn an_option_is_a_name_with_or_without_a_value() {
        let table = [
            ("A=b", set("A=b")),
            ("A=", set("A=")),
            ("A=b=c", set("A=b=c")),
            ("A= b ", set("A= b ")),
            ("A b=c", set("A b=c")),
            ("A", inherit("A")),
            ("Ä=ö\n", set("Ä=ö\n")),
        ];
        for (text, expected) in table {
            assert_eq!(text.parse::<Variable>().unwrap(), expected, "{text:?}");
        }
        for bad in ["", "=", "=a", "A=\0", "\0"] {
            assert!(bad.parse::<Variable>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_name_alone_takes_our_own_value_if_there_is_one() {
        let lookup = |name: &str| Ok((name == "HERE").then(|| "x y".to_string()));
        assert_eq!(inherit("HERE").resolve(lookup).unwrap(), "HERE=x y");
        assert_eq!(inherit("GONE").resolve(lookup).unwrap(), "GONE");
        assert_eq!(set("HERE=1").resolve(lookup).unwrap(), "HERE=1");
        assert!(own("PATH").unwrap().is_some());
    }

    #[test]
    fn a_file_is_read_as_docker_reads_it() {
        let table: &[(&[u8], &[Variable])] = &[
            (b"", &[]),
            (b"A=b", &[set("A=b")]),
            (b"A=b\nB\n", &[set("A=b"), inherit("B")]),
            (b"\xef\xbb\xbfA=b\n", &[set("A=b")]),
            (b"# A=b\n  # c\n\n \t \nA=#b # c\n", &[set("A=#b # c")]),
            (b"  \tA=b  \n", &[set("A=b  ")]),
            (b"A=\"b c\"\\n$X\n", &[set("A=\"b c\"\\n$X")]),
            (b"A=b\r\nB=c\r\n", &[set("A=b"), set("B=c")]),
            (b"export=1\n", &[set("export=1")]),
            ("Ä=ö".as_bytes(), &[set("Ä=ö")]),
        ];
        for (file, expected) in table {
            assert_eq!(parse(file).unwrap(), *expected, "{}", file.escape_ascii());
        }
    }

    #[test]
    fn a_bad_line_is_named() {
        let long = [b"A=", "x".repeat(LINE_LIMIT).as_bytes()].concat();
        let table: &[(&[u8], &str)] = &[
            (b"A=b\nexport C=d\n", "line 2: the name \"export C\" contains a blank"),
            (b"A B\n", "line 1: the name \"A B\" contains a blank"),
            (b"=x\n", "line 1: a variable needs a name"),
            (&long, "line 1: longer than 65536 bytes"),
            (b"A=\0\n", "line 1: a variable cannot hold a NUL"),
        ];
        for (file, expected) in table {
            let err = parse(file).unwrap_err();
            assert_eq!(common::error::line(&err), *expected);
        }
        assert!(parse(b"A=\xff\n").is_err());
    }

    proptest! {
        #[test]
        fn any_file_is_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(variables) = parse(&bytes) {
                for variable in variables {
                    let (Variable::Set(text) | Variable::Inherit(text)) = variable;
                    prop_assert!(!text.is_empty() && !text.starts_with('=') && !text.contains(['\0', '\n']));
                }
            }
        }

        #[test]
        fn what_is_written_plainly_is_read_back(
            vars in prop::collection::vec(("[A-Za-z_][A-Za-z0-9_]{0,8}", "[^\\x00\\r\\n]{0,20}"), 0..8),
        ) {
            let lines: Vec<String> = vars.iter().map(|(k, v)| format!("{k}={v}")).collect();
            let expected: Vec<Variable> = lines.iter().map(|line| set(line)).collect();
            prop_assert_eq!(parse(lines.join("\n").as_bytes()).unwrap(), expected);
        }
    }
}
