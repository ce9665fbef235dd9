//! Many operands: on the command line, or from stdin with `--stdin`.

use std::io::{IsTerminal, Read};

use anyhow::{Context, Error, Result, ensure};

use super::Operand;
use crate::error::Usage;

/// The most bytes that are read from stdin: half a million pinned names.
const LIMIT: u64 = 64 << 20;

/// What a tool is to do one after the other.
#[derive(clap::Args, Clone, Debug)]
pub struct Operands {
    /// Read operands from stdin, one a line; none at all is a success
    #[arg(long)]
    stdin: bool,

    /// With --stdin, operands end in NUL and not in a newline
    #[arg(short = '0', long = "null", requires = "stdin")]
    null: bool,

    /// The images
    #[arg(value_name = "IMAGE", value_parser = checked, required_unless_present = "stdin")]
    given: Vec<String>,
}

impl Operands {
    /// Returns the operands, each as it was written and as it reads: those of the command line, then those of stdin.
    ///
    /// A `-` among them is the operand on stdin.
    pub fn read(self) -> Result<Vec<(String, Result<Operand>)>> {
        let meant =
            |(text, operand): (String, Result<Operand>)| (text, operand.and_then(Operand::meant));
        Ok(self.images()?.into_iter().map(meant).collect())
    }

    /// Returns the same for who reads images only: a `-` may be an archive as well.
    pub fn images(self) -> Result<Vec<(String, Result<Operand>)>> {
        let mut operands = self.given;
        if self.stdin {
            operands.extend(from_stdin(if self.null { '\0' } else { '\n' })?);
        }
        let parse = |text: String| {
            let operand = text.parse();
            (text, operand)
        };
        Ok(operands.into_iter().map(parse).collect())
    }
}

/// Returns an operand that reads as one.
fn checked(text: &str) -> Result<String> {
    text.parse::<Operand>()?;
    Ok(text.into())
}

fn from_stdin(end: char) -> Result<Vec<String>> {
    let stdin = std::io::stdin().lock();
    if stdin.is_terminal() {
        return Err(Error::new(Usage("--stdin: stdin is a terminal".into())));
    }
    let mut text = String::new();
    stdin.take(LIMIT + 1).read_to_string(&mut text).context("stdin")?;
    ensure!(text.len() as u64 <= LIMIT, "stdin: more than {LIMIT} bytes of operands");
    Ok(split(&text, end).collect())
}

/// Returns the pieces that `end` ends; a last one without it counts, an empty one does not.
fn split(text: &str, end: char) -> impl Iterator<Item = String> {
    text.split(end).filter(|piece| !piece.is_empty()).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operand_is_what_its_end_ends() {
        let list = |text: &str, end| split(text, end).collect::<Vec<_>>();
        assert_eq!(list("a\nb c\n\nd", '\n'), ["a", "b c", "d"]);
        assert_eq!(list("a\nb\0c\0", '\0'), ["a\nb", "c"]);
        assert!(list("", '\n').is_empty());
    }
}
