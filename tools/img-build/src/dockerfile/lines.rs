//! Lines of a Dockerfile, and the instructions that they are put together to.
//!
//! ```text
//! # escape=`              directives: at the very top, each once
//! # a comment             also between the lines of an instruction, where it leaves nothing behind
//! RUN one `               a line that ends in the escape, and blanks, goes on in the next
//!     two                 whose blanks at the start are kept
//! ```
//!
//! Rules that are easily missed, each as BuildKit has it: two escapes at the end
//! of a line do not continue it. Empty lines between the lines of an instruction
//! are dropped. A comment belongs to the instruction below it, unless an empty
//! comment (`#`) is between them. Line breaks are LF or CRLF; a byte order mark
//! is dropped; no line is longer than [`LONGEST_LINE`].

use super::heredoc::Heredoc;
use crate::error::{Error, Result};

/// The longest line: what Go's bufio.Scanner takes.
pub const LONGEST_LINE: usize = (64 << 10) - 1;

/// What the comments at the top of a file say about it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Directives {
    /// The image of another frontend, which would have to be fetched.
    pub syntax: Option<String>,
    /// What to check: `skip=A,B;error=true`.
    pub check: Option<String>,
}

/// An instruction, its lines put together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Logical {
    /// The text, without continuations and comments.
    pub text: String,
    /// Its first line, counted from one.
    pub first: usize,
    /// Its last, without here-documents.
    pub last: usize,
    /// The comments right above it, without `#`.
    pub comments: Vec<String>,
    /// Whether there was an empty line in it.
    pub gap: bool,
}

/// The lines of a file.
pub struct Lines<'a> {
    rest: &'a [u8],
    number: usize,
    /// The character that escapes others, and continues lines.
    pub escape: char,
    /// The names of the directives that were there, while there may be more.
    directives: Option<Vec<String>>,
    comments: Vec<String>,
}

impl<'a> Lines<'a> {
    /// Returns the lines of `bytes`.
    pub fn new(bytes: &'a [u8]) -> Lines<'a> {
        Lines {
            rest: bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes),
            number: 0,
            escape: '\\',
            directives: Some(Vec::new()),
            comments: Vec::new(),
        }
    }

    /// Returns the number of the line that was read last.
    pub fn number(&self) -> usize {
        self.number
    }

    /// Returns the next line, with its newline.
    fn line(&mut self) -> Result<Option<&'a [u8]>> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        self.number += 1;
        let end = self.rest.iter().position(|c| *c == b'\n');
        if end.unwrap_or(self.rest.len()) > LONGEST_LINE {
            return Err(Error::new(format!("the line is longer than {LONGEST_LINE} bytes"))
                .hint("break it with the escape at its end, or COPY a file")
                .at(self.number));
        }
        let (line, rest) = self.rest.split_at(end.map_or(self.rest.len(), |end| end + 1));
        self.rest = rest;
        Ok(Some(line))
    }

    fn text(&self, line: &'a [u8]) -> Result<&'a str> {
        std::str::from_utf8(line).map_err(|_| {
            let err = Error::new("not UTF-8").at(self.number);
            match line {
                [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => err.hint("iconv -f UTF-16 -t UTF-8"),
                _ => err,
            }
        })
    }

    /// Returns the next instruction.
    pub fn instruction(&mut self) -> Result<Option<Logical>> {
        while let Some(line) = self.line()? {
            let line = chomped(line);
            if let Some(comment) = comment(line) {
                if !self.directive(&comment)? {
                    match remark(line) {
                        remark if remark.is_empty() => self.comments.clear(),
                        remark => self.comments.push(remark),
                    }
                }
                continue;
            }
            self.directives = None;
            let line = self.text(line)?.trim_start();
            if !line.is_empty() {
                return self.rest_of(line).map(Some);
            }
        }
        Ok(None)
    }

    /// Reads what follows the first line of an instruction.
    fn rest_of(&mut self, line: &str) -> Result<Logical> {
        let first = self.number;
        let mut gap = false;
        let (line, mut more) = self.continued(line);
        let mut text = line.to_owned();
        while more {
            let Some(line) = self.line()? else { break };
            let line = chomped(line);
            if comment(line).is_some() {
                continue;
            }
            let line = self.text(line)?;
            if line.trim().is_empty() {
                gap = true;
                continue;
            }
            let (line, goes_on) = self.continued(line);
            text.push_str(line);
            more = goes_on;
        }
        let comments = std::mem::take(&mut self.comments);
        Ok(Logical { text, first, last: self.number, comments, gap })
    }

    /// Takes the escape from the end of a line that goes on.
    fn continued<'b>(&self, line: &'b str) -> (&'b str, bool) {
        match line.trim_end_matches([' ', '\t']).strip_suffix(self.escape) {
            Some(start) if !start.ends_with(self.escape) => (start, true),
            _ => (line, false),
        }
    }

    /// Takes a comment for a directive, if it may be one. `text` is what is behind `#`.
    fn directive(&mut self, text: &str) -> Result<bool> {
        let Some(seen) = &mut self.directives else { return Ok(false) };
        let Some((name, value)) = directive(text) else {
            self.directives = None;
            return Ok(false);
        };
        let at = self.number;
        if seen.contains(&name) {
            return Err(Error::new(format!("a second directive {name}"))
                .hint(format!("one line `# {name}=`, at the top"))
                .at(at));
        }
        if name == "escape" {
            self.escape = match value {
                "\\" => '\\',
                "`" => '`',
                _ => {
                    return Err(Error::new(format!("escape={value}: it can be \\ or `"))
                        .hint("# escape=`")
                        .at(at));
                }
            };
        }
        seen.push(name);
        Ok(true)
    }

    /// Reads the lines of a here-document up to the one that ends it.
    pub fn heredoc(&mut self, heredoc: &mut Heredoc) -> Result<()> {
        let mut content = Vec::new();
        while let Some(line) = self.line()? {
            if heredoc.ends_at(chomped(line)) {
                heredoc.content = String::from_utf8(content).map_err(|_| {
                    Error::new(format!("the here-document {} is not UTF-8", heredoc.name))
                        .hint("COPY a file")
                })?;
                return Ok(());
            }
            content.extend_from_slice(line);
        }
        Err(Error::new(format!("no line {} ends the here-document", heredoc.name)))
    }
}

/// Returns what the directives of a file say, but for `escape`, which its lines do.
///
/// They are looked for as BuildKit looks: a line `#!` may be above them, and none is indented.
pub fn directives(bytes: &[u8]) -> Directives {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let mut lines = bytes.split(|c| *c == b'\n').peekable();
    lines.next_if(|line| line.starts_with(b"#!"));
    let mut found = Directives::default();
    for line in lines {
        let text = line.strip_prefix(b"#").map(|text| String::from_utf8_lossy(chomped(text)));
        let Some((name, value)) = text.as_deref().and_then(|text| directive(text.trim_start()))
        else {
            break;
        };
        let slot = match name.as_str() {
            "syntax" => &mut found.syntax,
            "check" => &mut found.check,
            _ => continue,
        };
        if slot.is_some() {
            break;
        }
        *slot = Some(value.split(' ').next().unwrap_or_default().to_owned());
    }
    found
}

/// Reads `name = value`, if that is a directive.
pub fn directive(text: &str) -> Option<(String, &str)> {
    const BLANK: [char; 5] = ['\t', '\n', '\x0c', '\r', ' '];
    let (name, value) = text.split_once('=')?;
    let name = name.trim_end_matches(BLANK).to_ascii_lowercase();
    let value = match value.trim_matches(BLANK) {
        // A value is at least one character, and be it a blank.
        "" => &value[value.char_indices().next_back()?.0..],
        value => value,
    };
    matches!(name.as_str(), "syntax" | "escape" | "check").then_some((name, value))
}

fn chomped(line: &[u8]) -> &[u8] {
    let end = line.iter().rposition(|c| !matches!(c, b'\r' | b'\n')).map_or(0, |at| at + 1);
    &line[..end]
}

/// Returns what is behind the `#` of a comment, and the blanks there.
fn comment(line: &[u8]) -> Option<String> {
    // Comments alone may hold bytes of any encoding.
    let text = String::from_utf8_lossy(line);
    Some(text.trim_start().strip_prefix('#')?.trim_start().to_owned())
}

/// Returns a comment as a remark on the instruction below it: of one that is indented, with its `#`.
fn remark(line: &[u8]) -> String {
    let text = String::from_utf8_lossy(line);
    let mut chars = text.chars();
    chars.next();
    chars.as_str().trim().to_owned()
}
