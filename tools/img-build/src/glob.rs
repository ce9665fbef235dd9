//! Patterns of COPY's and ADD's sources, as Go's filepath.Match has them.
//!
//! ```text
//! *          any text without a slash
//! ?          any character but a slash
//! [a-c] [^x] a character of these, not of these; a slash is one like others
//! \c         c
//! ```
//!
//! A star takes as little as lets the text up to the next star match, and is
//! never asked again: a pattern with a class that takes slashes can tell.
//! Names are bytes, and may be of any encoding.

use crate::error::{Error, Result};

/// A pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Glob(Vec<Piece>);

/// What is between two stars.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Piece {
    star: bool,
    tokens: Vec<Token>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    Byte(u8),
    Any,
    Class(Class),
}

/// A set of characters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Class {
    except: bool,
    ranges: Vec<(char, char)>,
}

impl Class {
    /// Reads a class from behind its bracket; returns what follows it too.
    pub fn parse(text: &str) -> Option<(Class, &str)> {
        let (except, mut rest) = match text.strip_prefix('^') {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let mut ranges = Vec::new();
        loop {
            if let (Some(rest), false) = (rest.strip_prefix(']'), ranges.is_empty()) {
                return Some((Class { except, ranges }, rest));
            }
            let (low, more) = member(rest)?;
            let (high, more) = match more.strip_prefix('-') {
                Some(more) => member(more)?,
                None => (low, more),
            };
            ranges.push((low, high));
            rest = more;
        }
    }

    /// Returns whether `c` is in it.
    pub fn has(&self, c: char) -> bool {
        self.ranges.iter().any(|(low, high)| (*low..=*high).contains(&c)) != self.except
    }

    /// Returns whether a range ends before it begins.
    pub fn is_backward(&self) -> bool {
        self.ranges.iter().any(|(low, high)| low > high)
    }
}

/// Reads a member of a class; something must follow it.
fn member(text: &str) -> Option<(char, &str)> {
    let text = match text.strip_prefix('\\') {
        Some(escaped) => escaped,
        None if text.starts_with(['-', ']']) => return None,
        None => text,
    };
    let c = text.chars().next()?;
    let rest = &text[c.len_utf8()..];
    (!rest.is_empty()).then_some((c, rest))
}

impl Glob {
    /// Reads a pattern.
    pub fn parse(text: &str) -> Result<Glob> {
        let bad = || {
            Error::new(format!("{text}: not a pattern"))
                .hint("\\[ for a bracket that begins no set, \\\\ for a backslash at the end")
        };
        let mut pieces = vec![Piece::default()];
        let mut rest = text;
        while let Some(c) = rest.chars().next() {
            rest = &rest[c.len_utf8()..];
            let (c, escaped) = match c {
                '\\' => (rest.chars().next().ok_or_else(bad)?, true),
                c => (c, false),
            };
            // There is one at least.
            let Some(piece) = pieces.last_mut() else { return Err(bad()) };
            match c {
                c if escaped => {
                    rest = &rest[c.len_utf8()..];
                    piece.literal(c);
                }
                '*' if piece.tokens.is_empty() => piece.star = true,
                '*' => pieces.push(Piece { star: true, tokens: Vec::new() }),
                '?' => piece.tokens.push(Token::Any),
                '[' => {
                    let (class, more) = Class::parse(rest).ok_or_else(bad)?;
                    piece.tokens.push(Token::Class(class));
                    rest = more;
                }
                c => piece.literal(c),
            }
        }
        Ok(Glob(pieces))
    }

    /// Returns whether `name` matches.
    pub fn matches(&self, name: &[u8]) -> bool {
        let mut name = name;
        let mut pieces = self.0.iter().peekable();
        while let Some(piece) = pieces.next() {
            let last = pieces.peek().is_none();
            if piece.star && piece.tokens.is_empty() {
                return !name.contains(&b'/');
            }
            let fits = |left: &[u8]| left.is_empty() || !last;
            let mut found = piece.start(name).filter(|left| fits(left));
            if piece.star && found.is_none() {
                let reach = name.iter().position(|c| *c == b'/').unwrap_or(name.len());
                found = (0..reach)
                    .filter_map(|at| piece.start(&name[at + 1..]))
                    .find(|left| fits(left));
            }
            match found {
                Some(left) => name = left,
                None => return false,
            }
        }
        name.is_empty()
    }
}

impl Piece {
    fn literal(&mut self, c: char) {
        self.tokens.extend(c.encode_utf8(&mut [0; 4]).bytes().map(Token::Byte));
    }

    /// Returns what is left of `name` behind what matches at its start.
    fn start<'a>(&self, name: &'a [u8]) -> Option<&'a [u8]> {
        let mut name = name;
        for token in &self.tokens {
            let (c, width) = character(name)?;
            name = match token {
                Token::Byte(byte) => name.strip_prefix(&[*byte][..])?,
                Token::Any if c != '/' => &name[width..],
                Token::Class(class) if class.has(c) => &name[width..],
                _ => return None,
            };
        }
        Some(name)
    }
}

/// Returns the character that `bytes` begin with, and its length. What is none is U+FFFD, one byte long.
fn character(bytes: &[u8]) -> Option<(char, usize)> {
    let start = &bytes[..bytes.len().min(4)];
    let valid = match std::str::from_utf8(start) {
        Ok(text) => text,
        // Checked up to there.
        Err(err) => std::str::from_utf8(&start[..err.valid_up_to()]).unwrap_or_default(),
    };
    match valid.chars().next() {
        Some(c) => Some((c, c.len_utf8())),
        None if bytes.is_empty() => None,
        None => Some((char::REPLACEMENT_CHARACTER, 1)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn matches(pattern: &str, name: &str) -> bool {
        Glob::parse(pattern).unwrap().matches(name.as_bytes())
    }

    #[test]
    fn patterns_match_whole_names() {
        let table = [
            ("", "", true),
            ("", "a", false),
            ("a", "a", true),
            ("a", "b", false),
            ("a", "ab", false),
            ("*", "", true),
            ("*", "abc", true),
            ("*", "a/b", false),
            ("*.o", "a.o", true),
            ("*.o", ".o", true),
            ("*.o", "d/a.o", false),
            ("a*", "a", true),
            ("a*b", "acb", true),
            ("a*b", "a/b", false),
            ("a*b*c", "axbxc", true),
            ("a*b*c", "axcxb", false),
            ("*/*", "a/b", true),
            ("*/*", "a/b/c", false),
            ("**", "ab", true),
            ("**/a", "x/a", true),
            ("**/a", "x/y/a", false),
            ("?", "a", true),
            ("?", "é", true),
            ("?", "/", false),
            ("?", "", false),
            ("??", "a", false),
            ("[ab]", "a", true),
            ("[ab]", "c", false),
            ("[a-c]x", "bx", true),
            ("[^a-c]x", "bx", false),
            ("[^a]", "b", true),
            // A set takes a slash, unlike ? and *.
            ("a[^x]b", "a/b", true),
            ("[\\]]", "]", true),
            ("[\\-]", "-", true),
            ("[c-a]", "b", false),
            ("[é-ü]", "ö", true),
            ("\\*", "*", true),
            ("\\*", "a", false),
            ("a\\b", "ab", true),
            ("]", "]", true),
            ("a]", "a]", true),
            ("*[^x]*b", "a/b", false),
        ];
        for (pattern, name, expected) in table {
            assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
        }
    }

    #[test]
    fn what_is_no_pattern_is_an_error() {
        for bad in [
            "[", "[]", "[]a]", "[a", "[^", "[^]", "[a-", "[a-]", "[-a]", "[a-c-e]", "\\", "a\\",
            "[\\", "*[", "a[\\]",
        ] {
            assert!(Glob::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn names_may_be_of_any_encoding() {
        let glob = |pattern: &str, name: &[u8]| Glob::parse(pattern).unwrap().matches(name);
        assert!(glob("a*", b"a\xff\xfe"));
        assert!(glob("a??", b"a\xff\xfe"));
        assert!(!glob("a?", b"a\xff\xfe"));
        assert!(glob("[^a]", b"\xff"));
    }

    /// Tries everything: of patterns without sets, nothing else is found.
    fn model(pattern: &[char], name: &[char]) -> bool {
        match pattern.split_first() {
            None => name.is_empty(),
            Some(('*', rest)) => {
                let reach = name.iter().take_while(|c| **c != '/').count();
                (0..=reach).any(|at| model(rest, &name[at..]))
            }
            Some((c, rest)) => match name.split_first() {
                Some((d, name)) => (c == d || (*c == '?' && *d != '/')) && model(rest, name),
                None => false,
            },
        }
    }

    proptest! {
        #[test]
        fn a_search_that_goes_back_finds_the_same(pattern in "[ab/*?]{0,7}", name in "[ab/]{0,9}") {
            let chars = |text: &str| text.chars().collect::<Vec<char>>();
            prop_assert_eq!(matches(&pattern, &name), model(&chars(&pattern), &chars(&name)));
        }

        #[test]
        fn a_name_that_is_escaped_matches_itself_alone(name in "\\PC{1,12}", other in "\\PC{1,12}") {
            let escaped: String = name.chars().map(|c| format!("\\{c}")).collect();
            prop_assert!(matches(&escaped, &name));
            prop_assert_eq!(matches(&escaped, &other), name == other);
        }

        #[test]
        fn no_text_breaks_the_parser(pattern in "[]\\[a^*?\\\\é-]{0,12}", name in any::<Vec<u8>>()) {
            if let Ok(glob) = Glob::parse(&pattern) {
                let _ = glob.matches(&name);
            }
        }
    }
}
