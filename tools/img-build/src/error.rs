//! What is wrong with a Dockerfile: where, in which instruction, and what to write instead.

use std::fmt::{self, Display};

use common::error::Hint;

/// The result of reading a Dockerfile, or a part of it.
pub type Result<T> = std::result::Result<T, Error>;

/// An error in a Dockerfile.
///
/// The small parsers know what is wrong; the line and the instruction are added
/// where they are known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// The line, counted from one; none before it is known.
    pub line: Option<usize>,
    /// The instruction, in capitals, if it is about one.
    pub instruction: Option<String>,
    /// What is wrong.
    pub message: String,
    /// What to write instead, where we know it.
    pub hint: Option<String>,
}

impl Error {
    /// Returns an error that is somewhere.
    pub fn new(message: impl Into<String>) -> Error {
        Error { line: None, instruction: None, message: message.into(), hint: None }
    }

    /// Adds what to write instead, unless somebody below knew it.
    pub fn hint(mut self, hint: impl Into<String>) -> Error {
        self.hint.get_or_insert_with(|| hint.into());
        self
    }

    /// Adds the line, unless it is known.
    pub fn at(mut self, line: usize) -> Error {
        self.line.get_or_insert(line);
        self
    }

    /// Adds the instruction, unless it is known.
    pub fn of(mut self, instruction: &str) -> Error {
        self.instruction.get_or_insert_with(|| instruction.to_uppercase());
        self
    }

    /// Returns the error as one of the file `name`: `Dockerfile:7: COPY: ...`.
    pub fn in_file(self, name: &str) -> anyhow::Error {
        let text = match self.line {
            Some(line) => format!("{name}:{line}: {}", self.without_line()),
            None => format!("{name}: {}", self.without_line()),
        };
        let err: anyhow::Result<()> = Err(anyhow::Error::msg(text));
        let err = match self.hint {
            Some(hint) => err.hint(|| hint),
            None => err,
        };
        // It has been one all the time.
        err.unwrap_err()
    }

    fn without_line(&self) -> String {
        match &self.instruction {
            Some(instruction) => format!("{instruction}: {}", self.message),
            None => self.message.clone(),
        }
    }
}

impl Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(line) = self.line {
            write!(f, "{line}: ")?;
        }
        f.write_str(&self.without_line())
    }
}

impl std::error::Error for Error {}

/// Returns that of `options` which `text` is likely to have been meant for: two slips of a key away at most.
pub fn nearest<'a>(text: &str, options: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // No option is that long.
    if text.len() > 64 {
        return None;
    }
    // Of two that are as near, the one that begins alike.
    let begins = |option: &str| text.chars().next() != option.chars().next();
    let near = options.into_iter().map(|option| (slips(text, option), begins(option), option));
    near.filter(|(slips, ..)| *slips < 3).min().map(|(.., option)| option)
}

/// Returns how many characters are to be put in, left out, changed, or swapped with the next to make one text the other.
fn slips(one: &str, other: &str) -> usize {
    let (one, other): (Vec<char>, Vec<char>) = (one.chars().collect(), other.chars().collect());
    let mut rows = vec![(0..=other.len()).collect::<Vec<usize>>()];
    for (i, c) in one.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, d) in other.iter().enumerate() {
            let changed = rows[i][j] + usize::from(c != d);
            let mut least = changed.min(rows[i][j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && *c == other[j - 1] && one[i - 1] == *d {
                least = least.min(rows[i - 1][j - 1] + 1);
            }
            row.push(least);
        }
        rows.push(row);
    }
    rows[one.len()][other.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_says_where_it_is() {
        let err = Error::new("unknown flag --form").hint("--from").of("copy").at(7);
        assert_eq!(err.to_string(), "7: COPY: unknown flag --form");
        // Who is nearest knows best.
        let err = err.at(1).of("RUN").hint("--other").in_file("Dockerfile");
        assert_eq!(common::error::line(&err), "Dockerfile:7: COPY: unknown flag --form");
        assert_eq!(common::error::hint_of(&err), Some("--from"));
        assert_eq!(
            common::error::line(&Error::new("it is empty").in_file("x/D")),
            "x/D: it is empty"
        );
    }

    #[test]
    fn slips_of_a_key_are_counted() {
        let table = [
            ("", "", 0),
            ("", "abc", 3),
            ("abc", "", 3),
            ("copy", "copy", 0),
            ("cpoy", "copy", 1),
            ("chwon", "chown", 1),
            ("chwon", "chmod", 2),
            ("form", "from", 1),
            ("run", "rum", 1),
            ("kitten", "sitting", 3),
            ("flaw", "lawn", 2),
        ];
        for (one, other, expected) in table {
            assert_eq!(slips(one, other), expected, "{one} {other}");
            assert_eq!(slips(other, one), expected, "{other} {one}");
        }
    }

    #[test]
    fn what_is_too_far_away_is_not_meant() {
        let options = ["from", "chown", "chmod"];
        assert_eq!(nearest("form", options), Some("from"));
        assert_eq!(nearest("RNU", ["ENV", "RUN", "ARG"]), Some("RUN"));
        assert_eq!(nearest("chmodd", options), Some("chmod"));
        assert_eq!(nearest("platform", options), None);
        assert_eq!(nearest(&"x".repeat(100), options), None);
    }
}
