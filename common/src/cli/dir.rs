//! A directory that a result line may name.

use std::fmt::{self, Display};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Error, Result, anyhow};

use crate::digest::Digest;
use crate::error::Hint;
use crate::reference::Reference;

/// A directory whose name the next tool can read back: it begins with `/`, `./` or `../` when printed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dir(PathBuf);

impl Dir {
    /// Takes a path without what would end it in an operand.
    pub fn new(path: &Path) -> Result<Dir> {
        let text = path.to_str().ok_or_else(|| anyhow!("{}: not UTF-8", path.display()))?;
        if text.is_empty() {
            return Err(anyhow!("the directory's name is empty"));
        }
        match text.chars().find(|c| matches!(c, ':' | '@' | '\n')) {
            Some(c) => Err(anyhow!(
                "{text:?}: a directory's name with {c:?} cannot be told from an image's"
            ))
            .hint(|| "a symlink without it, or cd there and use .".into()),
            None => Ok(Dir(path.into())),
        }
    }

    /// Returns the path, as it was given.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Returns what a result line says of an image in this layout.
    pub fn at(&self, name: Option<&Reference>, digest: &Digest) -> String {
        match name {
            Some(name) => format!("{self}:{}", name.at(digest)),
            None => format!("{self}@{digest}"),
        }
    }
}

/// Returns whether an operand is a path, and not a name: contract 1.
pub fn is_path(text: &str) -> bool {
    matches!(text, "." | "..") || ["/", "./", "../"].iter().any(|start| text.starts_with(start))
}

impl FromStr for Dir {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Dir::new(Path::new(text))
    }
}

impl Display for Dir {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.0.to_string_lossy();
        match text.as_ref() {
            // With a digest behind it, `..` alone would be the name of an image.
            dots @ ("." | "..") => write!(f, "{dots}/."),
            text if is_path(text) => f.write_str(text),
            text => write!(f, "./{text}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_printed_directory_reads_as_one() {
        let table = [
            ("out", "./out"),
            ("./out", "./out"),
            ("../o", "../o"),
            ("/o", "/o"),
            (".", "./."),
            ("..", "../."),
            ("...", "./..."),
            ("a b", "./a b"),
        ];
        for (given, printed) in table {
            assert_eq!(given.parse::<Dir>().unwrap().to_string(), printed);
        }
        for bad in ["", "a:b", "a@b", "a\nb"] {
            assert!(bad.parse::<Dir>().is_err(), "{bad:?}");
        }
    }
}
