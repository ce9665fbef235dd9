//! Words of an instruction: quotes, escapes and variables, as BuildKit's builder reads them.
//!
//! ```text
//! $name ${name}                      the value, or nothing
//! ${name:-word} ${name-word}         word if name is unset (with a colon: or empty)
//! ${name:+word} ${name+word}         word if it is set
//! ${name:?word} ${name?word}         an error that says word if it is unset
//! ${name#pat} ${name##pat}           the value without the shortest, longest start that matches
//! ${name%pat} ${name%%pat}           the same of its end
//! ${name/pat/word} ${name//pat/word} the first, every match replaced
//! 'text'                             as it is
//! "text"                             variables replaced; the escape is one before " $ and itself
//! \c                                 c
//! ```
//!
//! The escape is what the directive `escape` says. It is much of POSIX's shell
//! (2.6), and not all of it: an unset variable is empty, a `$` that nothing can
//! follow is a `$`, and there are no commands and no arithmetic.
//!
//! Two things differ from BuildKit. A `$` in the word of `${name//pat/word}` is
//! a `$`, where BuildKit takes it for a group of a regular expression. And text
//! before `${name:-word}` is kept when a result is split into words, where
//! BuildKit loses it.

use std::collections::BTreeSet;

use super::pattern::Pattern;
use crate::error::{Error, Result};

/// The longest text that variables may make of a word: doubling a variable forty times fits in forty lines.
pub const LONGEST: usize = 4 << 20;

/// How deep `${a:-${b:-...}}` may go.
const DEEPEST: usize = 64;

/// Where values come from.
pub trait Values {
    /// Returns the value of a variable that is set.
    fn get(&self, name: &str) -> Option<&str>;
}

/// Nothing is set.
impl Values for () {
    fn get(&self, _: &str) -> Option<&str> {
        None
    }
}

/// How words are read.
#[derive(Clone, Copy, Debug)]
pub struct Lexer {
    escape: char,
    keep_quotes: bool,
    keep_escapes: bool,
    keep_unset: bool,
    plain_quotes: bool,
}

/// What was made of a text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Expanded {
    /// The text, quotes, escapes and variables replaced.
    pub text: String,
    /// The same split at the blanks that were not quoted.
    pub words: Vec<String>,
    /// The variables that were asked for and are set.
    pub found: BTreeSet<String>,
    /// Those that are not.
    pub missing: BTreeSet<String>,
}

impl Lexer {
    /// Returns a lexer with this escape character.
    pub fn new(escape: char) -> Lexer {
        let (keep_quotes, keep_escapes, keep_unset, plain_quotes) = (false, false, false, false);
        Lexer { escape, keep_quotes, keep_escapes, keep_unset, plain_quotes }
    }

    /// Returns one that leaves quotes where they are.
    pub fn keep_quotes(self) -> Lexer {
        Lexer { keep_quotes: true, ..self }
    }

    /// Returns one that leaves escapes where they are.
    pub fn keep_escapes(self) -> Lexer {
        Lexer { keep_escapes: true, ..self }
    }

    /// Returns one that leaves variables that are not set where they are.
    pub fn keep_unset(self) -> Lexer {
        Lexer { keep_unset: true, ..self }
    }

    /// Returns one that takes quotes for characters like others, as in a here-document.
    pub fn plain_quotes(self) -> Lexer {
        Lexer { plain_quotes: true, ..self }
    }

    /// Replaces quotes, escapes and variables in `text`.
    pub fn expand(&self, text: &str, values: &dyn Values) -> Result<Expanded> {
        let mut run = Run {
            lexer: self,
            rest: text,
            values,
            keep_escapes: self.keep_escapes,
            depth: 0,
            found: BTreeSet::new(),
            missing: BTreeSet::new(),
        };
        let (text, words) = run.until(None, self.keep_escapes)?;
        Ok(Expanded { text, words, found: run.found, missing: run.missing })
    }
}

struct Run<'a> {
    lexer: &'a Lexer,
    rest: &'a str,
    values: &'a dyn Values,
    keep_escapes: bool,
    depth: usize,
    found: BTreeSet<String>,
    missing: BTreeSet<String>,
}

/// Words while they are put together. Two quotes with nothing between them are no word.
#[derive(Default)]
struct Words {
    words: Vec<String>,
    word: String,
}

impl Words {
    fn end(&mut self) {
        if !self.word.is_empty() {
            self.words.push(std::mem::take(&mut self.word));
        }
    }

    fn split(&mut self, text: &str) {
        for c in text.chars() {
            if c.is_whitespace() { self.end() } else { self.word.push(c) }
        }
    }
}

impl<'a> Run<'a> {
    fn peek(&self) -> Option<char> {
        self.rest.chars().next()
    }

    fn next(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.rest = &self.rest[c.len_utf8()..];
        Some(c)
    }

    /// Reads up to `stop`, which is taken, or to the end of the text.
    fn until(&mut self, stop: Option<char>, keep_escapes: bool) -> Result<(String, Vec<String>)> {
        let before = std::mem::replace(&mut self.keep_escapes, keep_escapes);
        let read = self.until_here(stop);
        self.keep_escapes = before;
        read
    }

    fn until_here(&mut self, stop: Option<char>) -> Result<(String, Vec<String>)> {
        let mut text = String::new();
        let mut words = Words::default();
        while let Some(c) = self.peek() {
            if Some(c) == stop {
                self.next();
                words.end();
                return Ok((text, words.words));
            }
            match c {
                '$' => {
                    let value = self.variable()?;
                    words.split(&value);
                    text.push_str(&value);
                }
                '<' => {
                    let mark = self.mark();
                    words.word.push_str(mark);
                    text.push_str(mark);
                }
                '\'' if !self.lexer.plain_quotes => {
                    let quoted = self.single()?;
                    words.word.push_str(quoted);
                    text.push_str(quoted);
                }
                '"' if !self.lexer.plain_quotes => {
                    let quoted = self.double()?;
                    words.word.push_str(&quoted);
                    text.push_str(&quoted);
                }
                c if c == self.lexer.escape => {
                    self.next();
                    if self.keep_escapes {
                        words.word.push(c);
                        text.push(c);
                    }
                    // At the end it escapes nothing.
                    if let Some(c) = self.next() {
                        words.word.push(c);
                        text.push(c);
                    }
                }
                c => {
                    self.next();
                    if c.is_whitespace() {
                        words.end()
                    } else {
                        words.word.push(c)
                    }
                    text.push(c);
                }
            }
            if text.len() > LONGEST {
                return Err(too_long());
            }
        }
        if let Some(stop) = stop {
            return Err(Error::new(format!("${{...}} has no {stop}")));
        }
        words.end();
        Ok((text, words.words))
    }

    /// Reads `<`, or `<<` with the blanks behind it: what begins a here-document may not be split there.
    fn mark(&mut self) -> &'a str {
        let start = self.rest;
        let Some(rest) = start.strip_prefix("<<") else {
            self.next();
            return "<";
        };
        self.rest = rest.trim_start_matches(['\t', '\r', ' ']);
        &start[..start.len() - self.rest.len()]
    }

    fn single(&mut self) -> Result<&'a str> {
        let start = self.rest;
        let end = start[1..].find('\'').ok_or_else(|| Error::new("a quote ' is not closed"))? + 1;
        self.rest = &start[end + 1..];
        Ok(if self.lexer.keep_quotes { &start[..=end] } else { &start[1..end] })
    }

    fn double(&mut self) -> Result<String> {
        let mut text = String::new();
        let quote = if self.lexer.keep_quotes { "\"" } else { "" };
        self.next();
        text.push_str(quote);
        loop {
            match self.peek() {
                None => return Err(Error::new("a quote \" is not closed")),
                Some('"') => {
                    self.next();
                    text.push_str(quote);
                    return Ok(text);
                }
                Some('$') => text.push_str(&self.variable()?),
                Some(c) if c == self.lexer.escape => {
                    self.next();
                    if self.keep_escapes {
                        text.push(c);
                    }
                    match self.peek() {
                        None => {}
                        Some(escaped) if escaped == '"' || escaped == '$' || escaped == c => {
                            self.next();
                            text.push(escaped);
                        }
                        Some(_) => text.push(c),
                    }
                }
                Some(c) => {
                    self.next();
                    text.push(c);
                }
            }
            if text.len() > LONGEST {
                return Err(too_long());
            }
        }
    }

    /// Reads a variable, and returns what stands for it.
    fn variable(&mut self) -> Result<String> {
        self.depth += 1;
        if self.depth > DEEPEST {
            return Err(Error::new(format!("${{...}} in each other, more than {DEEPEST} deep")));
        }
        let value = self.variable_here();
        self.depth -= 1;
        value
    }

    fn variable_here(&mut self) -> Result<String> {
        self.next();
        if self.peek() != Some('{') {
            let name = self.name();
            return Ok(match self.value(name) {
                _ if name.is_empty() => "$".into(),
                None if self.lexer.keep_unset => format!("${name}"),
                value => value.unwrap_or_default().into(),
            });
        }
        self.next();
        let open = || Error::new("${ has no }").hint("\\$ for a $ that begins no variable");
        match self.peek() {
            None => return Err(open()),
            Some(c @ ('{' | '}' | ':')) => {
                return Err(Error::new(format!("${{{c}: the name of a variable is missing"))
                    .hint("${name}"));
            }
            _ => {}
        }
        let name = self.name();
        let first = self.next().ok_or_else(open)?;
        let (colon, operator) = match first {
            ':' => (":", self.next().ok_or_else(open)?),
            c => ("", c),
        };
        match operator {
            '}' if colon.is_empty() => Ok(match self.value(name) {
                None if self.lexer.keep_unset => format!("${{{name}}}"),
                value => value.unwrap_or_default().into(),
            }),
            '/' if colon.is_empty() => self.replaced(name),
            '#' | '%' if colon.is_empty() => self.trimmed(name, operator),
            '#' | '%' => Err(unsupported(name, colon, operator)),
            // A colon makes a modifier of anything, and its word is read before it is looked at.
            _ if !colon.is_empty() || matches!(operator, '-' | '+' | '?') => {
                let word = self.word()?;
                let set = self.value(name);
                if set.is_none() && self.lexer.keep_unset {
                    return Ok(format!("${{{name}{colon}{operator}{word}}}"));
                }
                let value = set.filter(|value| colon.is_empty() || !value.is_empty());
                match (operator, value) {
                    ('-', None) => Ok(word),
                    ('-' | '?', Some(value)) => Ok(value.into()),
                    ('+', None) => Ok(String::new()),
                    ('+', Some(_)) => Ok(word),
                    ('?', None) => Err(Error::new(match (word.as_str(), set) {
                        ("", None) => format!("{name} is not set"),
                        ("", Some(_)) => format!("{name} is empty"),
                        (word, _) => format!("{name}: {word}"),
                    })),
                    _ => Err(unsupported(name, colon, operator)),
                }
            }
            _ => Err(unsupported(name, colon, operator)),
        }
    }

    /// Reads the word of a modifier.
    fn word(&mut self) -> Result<String> {
        self.until(Some('}'), false).map(|(text, _)| text)
    }

    fn trimmed(&mut self, name: &str, operator: char) -> Result<String> {
        let (text, _) = self.until(Some('}'), true)?;
        let Some(value) = self.value(name) else {
            return Ok(match self.lexer.keep_unset {
                true => format!("${{{name}{operator}{text}}}"),
                false => self.check(text.strip_prefix(operator).unwrap_or(&text))?,
            });
        };
        let longest = text.starts_with(operator);
        let pattern = Pattern::parse(text.strip_prefix(operator).unwrap_or(&text))?;
        Ok(match operator {
            '#' => pattern.without_start(value, longest).into(),
            _ => pattern.without_end(value, longest).into(),
        })
    }

    /// Of nothing there is nothing to trim, but a pattern that is none is an error.
    fn check(&self, pattern: &str) -> Result<String> {
        Pattern::parse(pattern).map(|_| String::new())
    }

    fn replaced(&mut self, name: &str) -> Result<String> {
        let all = self.peek() == Some('/');
        if all {
            self.next();
        }
        let (pattern, _) = self.until(Some('/'), true)?;
        let (word, _) = self.until(Some('}'), true)?;
        let value = match self.value(name) {
            None if self.lexer.keep_unset => return Ok(format!("${{{name}/{pattern}/{word}}}")),
            value => value.unwrap_or_default(),
        };
        let replaced = Pattern::parse(&pattern)?.replace(value, &word, all, LONGEST);
        replaced.ok_or_else(too_long)
    }

    /// Reads a name: letters, digits and `_`; digits alone; or one of the shell's special characters.
    fn name(&mut self) -> &'a str {
        let start = self.rest;
        let end = match start.chars().next() {
            Some('@' | '*' | '#' | '?' | '-' | '$' | '!') => 1,
            Some('0'..='9') => start.find(|c: char| !c.is_ascii_digit()).unwrap_or(start.len()),
            _ => {
                let part = |c: char| c.is_alphabetic() || c.is_ascii_digit() || c == '_';
                start.find(|c| !part(c)).unwrap_or(start.len())
            }
        };
        self.rest = &start[end..];
        &start[..end]
    }

    fn value(&mut self, name: &str) -> Option<&'a str> {
        let value = self.values.get(name);
        let names = if value.is_some() { &mut self.found } else { &mut self.missing };
        if !name.is_empty() && !names.contains(name) {
            names.insert(name.into());
        }
        value
    }
}

fn too_long() -> Error {
    Error::new(format!("variables make it longer than {} MiB", LONGEST >> 20))
}

fn unsupported(name: &str, colon: &str, operator: char) -> Error {
    Error::new(format!("${{{name}{colon}{operator}: there is no such modifier"))
        .hint("${v:-word} ${v:+word} ${v:?word} ${v#pattern} ${v%pattern} ${v/pattern/word}")
}

#[cfg(test)]
mod tests;
