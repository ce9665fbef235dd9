//! An instruction's line, split: keyword, flags, and arguments in one of five forms.
//!
//! ```text
//! CMD ENTRYPOINT RUN SHELL           a JSON array of strings, or the text as it is
//! ADD COPY VOLUME                    a JSON array of strings, or words between blanks
//! FROM EXPOSE                        words between blanks
//! ENV LABEL                          name=value, quotes kept; or one name and all that follows
//! ARG                                words, quotes kept
//! MAINTAINER STOPSIGNAL USER WORKDIR the text as it is
//! ```
//!
//! An array that is JSON but for a comma is text, and goes to the shell: so does
//! Docker with it, to the grief of many. An array of other things than strings
//! is an error. Nothing is unquoted here: [`super::words`] does that, when the
//! variables are known.

use serde_json::value::RawValue;

use crate::error::{Error, Result};

/// What blanks are between words; others are letters.
const BLANKS: [char; 5] = ['\t', '\x0b', '\x0c', '\r', ' '];

/// The blanks that flags end at: a here-document kept by ONBUILD has newlines in it.
const SPACES: [char; 6] = ['\t', '\n', '\x0b', '\x0c', '\r', ' '];

/// An instruction's line.
#[derive(Debug, PartialEq, Eq)]
pub struct Split<'a> {
    /// The instruction, as it is written.
    pub keyword: &'a str,
    /// The flags before the arguments, unquoted.
    pub flags: Vec<String>,
    /// All that follows.
    pub rest: &'a str,
}

impl<'a> Split<'a> {
    /// Splits a line.
    pub fn line(line: &'a str, escape: char) -> Split<'a> {
        let line = line.trim();
        let end = line.find(BLANKS).unwrap_or(line.len());
        let (keyword, rest) = line.split_at(end);
        let (flags, rest) = flags(rest.trim_start_matches(BLANKS), escape);
        Split { keyword, flags, rest: rest.trim() }
    }
}

/// Takes the flags from the start of `line`: words that begin with `--`, up to one that is only that.
///
/// BuildKit goes through them byte by byte, and so no letter beyond ASCII comes out
/// as it was; here it does.
fn flags(line: &str, escape: char) -> (Vec<String>, &str) {
    let mut flags = Vec::new();
    let mut rest = line;
    loop {
        rest = rest.trim_start_matches(SPACES);
        if !rest.starts_with("--") {
            return (flags, rest);
        }
        let mut word = String::new();
        let mut quote = None;
        let mut chars = rest.char_indices();
        let mut end = rest.len();
        while let Some((at, c)) = chars.next() {
            if quote == Some(c) {
                quote = None;
            } else if c == escape {
                word.extend(chars.next().map(|(_, c)| c));
            } else if quote.is_none() && SPACES.contains(&c) {
                end = at;
                break;
            } else if quote.is_none() && matches!(c, '\'' | '"') {
                quote = Some(c);
            } else {
                word.push(c);
            }
        }
        rest = &rest[end..];
        if word == "--" {
            return (flags, rest);
        }
        flags.push(word);
    }
}

/// Returns the words between blanks.
pub fn words(rest: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut rest = rest;
    while !rest.is_empty() {
        let end = rest.find(BLANKS).unwrap_or(rest.len());
        words.push(rest[..end].to_owned());
        rest = rest[end..].trim_start_matches(BLANKS);
    }
    words
}

/// Returns the words between blanks that are not quoted. Quotes and escapes stay.
pub fn quoted_words(rest: &str, escape: char) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut quote = None;
    let mut chars = rest.chars();
    while let Some(c) = chars.next() {
        match quote {
            None if c.is_whitespace() => {
                if !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
                continue;
            }
            None if matches!(c, '\'' | '"') => quote = Some(c),
            Some(open) if c == open => quote = None,
            _ => {}
        }
        // Within single quotes it escapes nothing; at the end it is dropped.
        if c == escape && quote != Some('\'') {
            let Some(escaped) = chars.next() else { break };
            word.push(c);
            word.push(escaped);
        } else {
            word.push(c);
        }
    }
    if !word.is_empty() {
        words.push(word);
    }
    words
}

/// A name, its value, and whether `=` is between them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pair {
    /// The name, before its variables are replaced.
    pub name: String,
    /// The value, the same.
    pub value: String,
    /// Whether a blank is between them: the old form, which takes all that follows for the value.
    pub legacy: bool,
}

/// Returns the pairs of ENV and LABEL.
pub fn pairs(rest: &str, escape: char) -> Result<Vec<Pair>> {
    let words = quoted_words(rest, escape);
    let Some(first) = words.first() else {
        return Err(Error::new("a name and a value are missing").hint("NAME=value"));
    };
    let pairs = if first.contains('=') {
        let pair = |word: &String| match word.split_once('=') {
            Some((name, value)) => {
                Ok(Pair { name: name.into(), value: value.into(), legacy: false })
            }
            None => Err(Error::new(format!("{word}: no = in it"))
                .hint("NAME=value, with quotes around a value that holds blanks")),
        };
        words.iter().map(pair).collect::<Result<Vec<Pair>>>()?
    } else {
        let Some((name, value)) = rest.split_once(BLANKS) else {
            return Err(
                Error::new(format!("{rest}: the value is missing")).hint(format!("{rest}=value"))
            );
        };
        let value = value.trim_start_matches(BLANKS);
        vec![Pair { name: name.into(), value: value.into(), legacy: true }]
    };
    match pairs.iter().all(|pair| !pair.name.is_empty()) {
        true => Ok(pairs),
        false => Err(Error::new("a name is missing before =").hint("NAME=value")),
    }
}

/// Arguments that may be a JSON array.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Json<'a> {
    /// An array of strings.
    Array(Vec<String>),
    /// Anything else.
    Text(&'a str),
}

/// Reads an array of strings, if `rest` is one.
pub fn json(rest: &str) -> Result<Json<'_>> {
    if !rest.starts_with('[') {
        return Ok(Json::Text(rest));
    }
    // Not Vec<String>: an array of other things is another error than a syntax error.
    let Ok(values) = serde_json::from_str::<Vec<&RawValue>>(rest) else {
        return Ok(Json::Text(rest));
    };
    let string = |value: &&RawValue| match value.get().starts_with('"') {
        true => Ok(unescaped(value.get())),
        false => Err(Error::new(format!("{value}: not a string in an array of strings"))
            .hint("[\"program\", \"argument\"], or no brackets for a shell")),
    };
    values.iter().map(string).collect::<Result<Vec<String>>>().map(Json::Array)
}

/// Returns what a JSON string says. Half a surrogate pair is U+FFFD, as Go has it.
fn unescaped(json: &str) -> String {
    if let Ok(text) = serde_json::from_str(json) {
        return text;
    }
    let mut units: Vec<u16> = Vec::new();
    let mut rest = json.trim_matches('"');
    while let Some(c) = rest.chars().next() {
        let escape = rest.strip_prefix("\\u").and_then(|hex| hex.get(..4));
        let unit = escape.and_then(|hex| u16::from_str_radix(hex, 16).ok());
        let length = match (unit, c) {
            (Some(unit), _) => {
                units.push(unit);
                6
            }
            // All others are what they are alone.
            (None, '\\') => {
                let two = rest.get(..2).unwrap_or(rest);
                let text: String = serde_json::from_str(&format!("\"{two}\"")).unwrap_or_default();
                units.extend(text.encode_utf16());
                two.len()
            }
            (None, c) => {
                units.extend(c.encode_utf16(&mut [0; 2]).iter());
                c.len_utf8()
            }
        };
        rest = &rest[length..];
    }
    String::from_utf16_lossy(&units)
}
