//! `.dockerignore`: what of the context nobody sees.
//!
//! ```text
//! # a comment            in the first column only
//! *.o                    in the context's root alone
//! **/*.o                 anywhere
//! docs                   the directory and all that is in it
//! !docs/README.md        but this one: the last pattern that matches decides
//! /a/./b                 is a/b
//! ```
//!
//! The rules are those of moby's patternmatcher, with what is odd about them.
//! `**` at the very start matches the end of any name (`**x` is also `ax`), but
//! only if nothing else in the pattern is special. A walk asks a directory first
//! and remembers which patterns matched it; one that would re-include it, and is
//! not asked because nothing excludes it yet, is not asked for its files either.
//!
//! Two things differ. An escaped letter is that letter, where moby has a regular
//! expression's class. In brackets `*` and `?` are characters, as filepath.Match
//! has it, where moby makes nonsense of them.

use std::rc::Rc;

use common::path::clean;

use crate::error::{Error, Result};
use crate::glob::{Class, Glob};

/// The most bytes that an ignore file may have.
pub const LONGEST: usize = 4 << 20;
/// The most patterns that it may have: a walk asks all of them, and remembers of each whether it matched.
const MOST: usize = 10_000;

/// An ignore file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ignore(Vec<Pattern>);

/// A line of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    /// The pattern without `!`, as it is matched.
    pub text: String,
    /// Whether what matches is seen after all.
    pub includes: bool,
    matcher: Matcher,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Matcher {
    Exactly,
    /// The text up to `**`.
    Prefix(String),
    /// The text behind `**`.
    Suffix(String),
    Tokens(Vec<Token>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    Is(char),
    /// A character, but no slash.
    Any,
    /// Any text without a slash.
    Star,
    /// Nothing, or any text that ends in a slash.
    Directories,
    /// Any text.
    Rest,
    Class(Class),
}

/// Which patterns matched a directory: all that is in it may share it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Walk(Rc<[bool]>);

impl Ignore {
    /// Reads an ignore file.
    pub fn parse(bytes: &[u8]) -> Result<Ignore> {
        if bytes.len() > LONGEST {
            return Err(Error::new(format!("longer than {} MiB", LONGEST >> 20)));
        }
        let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
        let mut patterns = Vec::new();
        for (number, line) in bytes.split(|c| *c == b'\n').enumerate() {
            let number = number + 1;
            if line.starts_with(b"#") {
                continue;
            }
            let line = std::str::from_utf8(line);
            let line = line.map_err(|_| Error::new("not UTF-8").at(number))?.trim();
            if line.is_empty() {
                continue;
            }
            if patterns.len() == MOST {
                return Err(Error::new(format!("more than {MOST} patterns")).at(number));
            }
            patterns.push(Pattern::parse(line).map_err(|err| err.at(number))?);
        }
        Ok(Ignore(patterns))
    }

    /// Reads patterns that are an instruction's: `--exclude`.
    ///
    /// Unlike a line of a file, a pattern that begins with a slash matches nothing.
    pub fn of<'a>(patterns: impl IntoIterator<Item = &'a str>) -> Result<Ignore> {
        let patterns = patterns.into_iter().map(str::trim).filter(|pattern| !pattern.is_empty());
        let patterns = patterns.filter(|pattern| !pattern.trim_start_matches('!').starts_with('/'));
        patterns.map(Pattern::parse).collect::<Result<_>>().map(Ignore)
    }

    /// Returns whether a pattern that takes what is excluded back, or one that excludes, may match what is in `dir`.
    pub fn reaches(&self, dir: &str, includes: bool) -> bool {
        self.0.iter().any(|pattern| pattern.includes == includes && pattern.reaches(dir))
    }

    /// Returns the patterns.
    pub fn patterns(&self) -> &[Pattern] {
        &self.0
    }

    /// Returns whether `path` matches, or a directory that it is in; what a walk finds may differ.
    pub fn matches(&self, path: &str) -> bool {
        let mut matched = false;
        for pattern in &self.0 {
            if pattern.includes == matched && (ancestors(path).any(|path| pattern.matches(path))) {
                matched = !pattern.includes;
            }
        }
        matched
    }

    /// Returns whether a walk leaves `path` out, and what to say when it asks for what is in it.
    ///
    /// `above` is what was returned for the directory that it is in.
    pub fn excludes(&self, path: &str, above: &Walk) -> (bool, Walk) {
        let mut here = vec![false; self.0.len()];
        let mut matched = false;
        for (index, pattern) in self.0.iter().enumerate() {
            let mut matches = above.0.get(index).copied().unwrap_or_default();
            if !matches {
                if pattern.includes != matched {
                    continue;
                }
                matches = pattern.matches(path);
            }
            here[index] = matches;
            if matches {
                matched = !pattern.includes;
            }
        }
        (matched, Walk(here.into()))
    }
}

/// Returns a path, and the directories that it is in, from the top.
fn ancestors(path: &str) -> impl Iterator<Item = &str> {
    let slashes = path.match_indices('/').map(|(at, _)| &path[..at]);
    slashes.filter(|path| !path.is_empty()).chain(std::iter::once(path))
}

impl Pattern {
    fn parse(line: &str) -> Result<Pattern> {
        let (sign, text) = match line.strip_prefix('!') {
            Some(text) => ("!", text.trim()),
            None => ("", line),
        };
        let cleaned = if text.is_empty() { String::new() } else { clean(text) };
        let text = match cleaned.strip_prefix('/') {
            Some(text) if !text.is_empty() => text,
            _ => &cleaned,
        };
        // What is left is looked at once more, so that /!a is !a.
        let text = clean(format!("{sign}{text}").trim());
        let (includes, text) = match text.strip_prefix('!') {
            Some(text) => (true, text),
            None => (false, text.as_str()),
        };
        if text.is_empty() {
            let err = Error::new("! without a pattern");
            return Err(err.hint("!path, or \\! for a name that begins so"));
        }
        // What is no pattern for filepath.Match is none here, though more has a meaning here.
        Glob::parse(text)?;
        Ok(Pattern { text: text.to_owned(), includes, matcher: Matcher::parse(text)? })
    }

    /// Returns whether `path` itself matches.
    pub fn matches(&self, path: &str) -> bool {
        match &self.matcher {
            Matcher::Exactly => path == self.text,
            Matcher::Prefix(prefix) => path.starts_with(prefix.as_str()),
            Matcher::Suffix(suffix) => {
                path.ends_with(suffix.as_str()) || suffix.strip_prefix('/') == Some(path)
            }
            Matcher::Tokens(tokens) => run(tokens, path),
        }
    }
}

impl Pattern {
    /// Returns whether it may match what is in the directory `dir`: its text says so up to what is special in it.
    fn reaches(&self, dir: &str) -> bool {
        let special = self.text.find(['*', '?', '[', ']', '\\']);
        let plain = &self.text[..special.unwrap_or(self.text.len())];
        if plain.len() <= dir.len() {
            return special.is_some() && dir.starts_with(plain);
        }
        dir.is_empty() || plain.strip_prefix(dir).is_some_and(|rest| rest.starts_with('/'))
    }
}

impl Matcher {
    fn parse(text: &str) -> Result<Matcher> {
        let mut tokens = Vec::new();
        let mut special = false; // needs more than a comparison
        let mut leads = false; // ** at the start, and nothing special yet
        let mut rest = text;
        while let Some(c) = rest.chars().next() {
            let start = rest.len() == text.len();
            rest = &rest[c.len_utf8()..];
            if let (Some(more), '*') = (rest.strip_prefix('*'), c) {
                rest = more.strip_prefix('/').unwrap_or(more);
                match (rest.is_empty(), start) {
                    (_, true) => leads = true,
                    (true, false) if !special && !leads => {
                        return Ok(Matcher::Prefix(text[..text.len() - 2].to_owned()));
                    }
                    (..) => (special, leads) = (true, false),
                }
                tokens.push(if rest.is_empty() { Token::Rest } else { Token::Directories });
                continue;
            }
            let token = match c {
                '*' => Token::Star,
                '?' => Token::Any,
                '[' => {
                    // The syntax was checked.
                    let Some((class, more)) = Class::parse(rest) else { break };
                    if class.is_backward() {
                        let err = Error::new(format!("{text}: a range that ends before it begins"));
                        return Err(err.hint("[a-z]"));
                    }
                    rest = more;
                    Token::Class(class)
                }
                ']' => {
                    (special, leads) = (true, false);
                    Token::Is(c)
                }
                '\\' => {
                    (special, leads) = (true, false);
                    let Some(c) = rest.chars().next() else { break };
                    rest = &rest[c.len_utf8()..];
                    Token::Is(c)
                }
                c => Token::Is(c),
            };
            if !matches!(token, Token::Is(_)) {
                (special, leads) = (true, false);
            }
            tokens.push(token);
        }
        Ok(match (leads, special) {
            (true, _) => Matcher::Suffix(text[2..].to_owned()),
            (false, false) => Matcher::Exactly,
            (false, true) => Matcher::Tokens(tokens),
        })
    }
}

/// Returns whether tokens match a whole path: all ways are gone at once, so it takes no longer than both are long.
fn run(tokens: &[Token], path: &str) -> bool {
    // Where in the tokens we may be, and in which `Directories` we may be in the middle of a name.
    let mut at = vec![false; tokens.len() + 1];
    let mut within = vec![false; tokens.len()];
    at[0] = true;
    skip(tokens, &mut at);
    for c in path.chars() {
        let mut next = vec![false; tokens.len() + 1];
        let mut inside = vec![false; tokens.len()];
        for (place, token) in tokens.iter().enumerate() {
            if *token == Token::Directories && (at[place] || within[place]) && c != '\n' {
                inside[place] = true;
                next[place + 1] |= c == '/';
            }
            if !at[place] {
                continue;
            }
            match token {
                Token::Is(wanted) => next[place + 1] |= *wanted == c,
                Token::Any => next[place + 1] |= c != '/',
                Token::Class(class) => next[place + 1] |= class.has(c),
                Token::Star => next[place] |= c != '/',
                Token::Rest => next[place] |= c != '\n',
                Token::Directories => {}
            }
        }
        skip(tokens, &mut next);
        (at, within) = (next, inside);
    }
    at[tokens.len()]
}

/// Goes on over what may match nothing.
fn skip(tokens: &[Token], at: &mut [bool]) {
    for (place, token) in tokens.iter().enumerate() {
        if at[place] && matches!(token, Token::Star | Token::Rest | Token::Directories) {
            at[place + 1] = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Walks to a path as a build does, from the top.
    fn walk(ignore: &Ignore, path: &str) -> bool {
        let mut above = Walk::default();
        let mut excluded = false;
        for dir in ancestors(path) {
            (excluded, above) = ignore.excludes(dir, &above);
        }
        excluded
    }

    #[test]
    fn what_matches_is_left_out() {
        let table = [
            ("", "a", false),
            ("a", "a", true),
            ("a", "b/a", false),
            ("a", "a/b/c", true),
            ("a", "ab", false),
            ("/a", "a", true),
            ("./a/../b", "b", true),
            ("a/", "a/b", true),
            ("a//b", "a/b", true),
            ("  a  ", "a", true),
            ("a\r", "a", true),
            ("\u{feff}a", "a", true),
            ("# a", "# a", false),
            (" # a", "# a", true),
            ("\\#a", "#a", true),
            ("..", "a", false),
            (".", "a", false),
            ("*", "a", true),
            ("*", "a/b", true),
            ("*.o", "x.o", true),
            ("*.o", "d/x.o", false),
            ("*/x.o", "d/x.o", true),
            ("d*", "dir/x", true),
            ("?", "a", true),
            ("?", "é", true),
            ("a?c", "a/c", false),
            ("[ab]", "b", true),
            ("[^ab]", "b", false),
            ("[a-c]x", "bx", true),
            ("a.b", "axb", false),
            ("a+b", "a+b", true),
            ("a(b)|c$", "a(b)|c$", true),
            ("\\*", "*", true),
            ("\\*", "a", false),
            // **
            ("**", "a/b", true),
            ("**/x", "x", true),
            ("**/x", "a/b/x", true),
            ("**/x", "a/b/xx", false),
            ("**/x", "ax", false),
            ("**x", "ax", true),
            ("**x", "a/x", true),
            ("**/*.o", "x.o", true),
            ("**/*.o", "a/b/x.o", true),
            ("**/*.o", "a/b/x.c", false),
            ("a/**", "a/b", true),
            ("a/**", "a/b/c", true),
            ("a/**", "a", false),
            ("a**", "abc", true),
            ("a**", "a/b", true),
            ("a/**/b", "a/b", true),
            ("a/**/b", "a/x/y/b", true),
            ("a/**/b", "a/x/y/c", false),
            ("a**b", "axb", false),
            ("a**b", "ax/b", true),
            ("**/a/**", "x/a/y", true),
            ("**/a/**", "a", false),
            ("*/**", "a/b", true),
            // the last that matches decides
            ("*\n!a", "a", false),
            ("*\n!a", "b", true),
            ("!a\n*", "a", true),
            ("a\n!a/b", "a/b", false),
            ("a\n!a/b", "a/c", true),
            ("a\n!a/b\na/b/c", "a/b/c", true),
            ("*\n!**/*.md", "a/b.md", false),
            ("*.md\n!README*.md\nREADME-secret.md", "README-secret.md", true),
            ("*.md\n!README*.md\nREADME-secret.md", "README.md", false),
            ("a\n! /b/../a ", "a", false),
            ("/!a\n", "a", false),
        ];
        for (text, path, expected) in table {
            let ignore = Ignore::parse(text.as_bytes()).unwrap();
            assert_eq!(ignore.matches(path), expected, "{text:?} {path}");
            assert_eq!(walk(&ignore, path), expected, "{text:?} {path}, walked to");
        }
    }

    #[test]
    fn a_walk_asks_a_directory_first() {
        // What would bring `a` back is not asked while nothing leaves it out.
        let ignore = Ignore::parse(b"a/x\n!a").unwrap();
        assert!(!ignore.matches("a/x"));
        assert!(walk(&ignore, "a/x"));
    }

    #[test]
    fn what_is_no_pattern_is_an_error_with_its_line() {
        let table = [
            ("a\n!", "2: ! without a pattern"),
            ("!  ", "1: ! without a pattern"),
            ("!/", "1: ! without a pattern"),
            ("#\n\n[", "3: [: not a pattern"),
            ("a\\", "1: a\\: not a pattern"),
            ("[b-a]", "1: [b-a]: a range that ends before it begins"),
        ];
        for (text, expected) in table {
            assert_eq!(Ignore::parse(text.as_bytes()).unwrap_err().to_string(), expected);
        }
        assert_eq!(Ignore::parse(b"a\n\xff").unwrap_err().to_string(), "2: not UTF-8");
        assert!(Ignore::parse(&vec![b'\n'; LONGEST + 1]).is_err());
    }

    #[test]
    fn a_long_name_takes_no_longer_than_it_is() {
        // A search that goes back takes 2^20 steps, and more.
        let pattern = format!("{}b", "a*".repeat(20) + &"**/a".repeat(20));
        let ignore = Ignore::parse(pattern.as_bytes()).unwrap();
        assert!(!ignore.matches(&"a".repeat(4000)));
    }

    #[test]
    fn a_directory_is_asked_only_if_something_in_it_may_match() {
        let table = [
            ("a/b", "", true),
            ("a/b", "a", true),
            ("a/b", "a/b", false),
            ("a/b", "a/c", false),
            ("a/b", "b", false),
            ("ab/c", "a", false),
            ("*.c", "", true),
            ("*.c", "a", true), // more than can be: it does not count names
            ("a/*/c", "a/b", true),
            ("a/*/c", "b", false),
            ("a*", "ab", true),
            ("a/**", "a", true),
            ("**/c", "a/b", true),
        ];
        for (pattern, dir, expected) in table {
            let ignore = Ignore::of([pattern]).unwrap();
            assert_eq!(ignore.reaches(dir, false), expected, "{pattern} {dir}");
            assert!(!ignore.reaches(dir, true), "{pattern} {dir}");
        }
        assert!(Ignore::of([" !a/b ", ""]).unwrap().reaches("a", true));
        assert!(Ignore::of(["["]).is_err());
        assert_eq!(Ignore::of(["/a", "!/b"]).unwrap(), Ignore::default());
    }

    #[test]
    fn patterns_are_no_more_than_anybody_writes() {
        let parse = |lines: usize| Ignore::parse("a\n".repeat(lines).as_bytes());
        assert_eq!(parse(MOST).unwrap().patterns().len(), MOST);
        let err = parse(MOST + 1).unwrap_err();
        assert_eq!((err.message.as_str(), err.line), ("more than 10000 patterns", Some(10001)));
    }

    proptest! {
        #[test]
        fn what_matches_is_reached(pattern in "[ab*?\\\\][ab*?/\\\\]{0,5}", path in "[ab]{1,2}(/[ab]{1,2}){0,3}") {
            if let Ok(ignore) = Ignore::of([pattern.as_str()]) {
                let pattern = &ignore.patterns()[0];
                if pattern.matches(&path) {
                    let above: Vec<&str> = ancestors(&path).filter(|dir| *dir != path).collect();
                    for dir in [&[""], &above[..]].concat() {
                        prop_assert!(pattern.reaches(dir), "{}", dir);
                    }
                }
            }
        }

        #[test]
        fn without_exceptions_both_ways_are_one(
            lines in prop::collection::vec("[ab*/]{1,6}", 0..4),
            path in "[ab]{1,2}(/[ab]{1,2}){0,3}",
        ) {
            let ignore = Ignore::parse(lines.join("\n").as_bytes()).unwrap();
            prop_assert_eq!(ignore.matches(&path), walk(&ignore, &path));
        }

        #[test]
        fn what_is_in_a_directory_that_is_left_out_is_too(
            lines in prop::collection::vec("[ab*/?]{1,6}", 1..4),
            dir in "[ab]{1,2}(/[ab]{1,2}){0,2}",
        ) {
            let ignore = Ignore::parse(lines.join("\n").as_bytes()).unwrap();
            let inner = ignore.matches(&format!("{dir}/x"));
            prop_assert!(inner || !ignore.matches(&dir));
        }

        #[test]
        fn no_text_breaks_the_parser(text in "[]\\[ab!#*?^\\\\/. \n-]{0,24}", path in "[ab/*]{1,12}") {
            if let Ok(ignore) = Ignore::parse(text.as_bytes()) {
                let _ = (ignore.matches(&path), walk(&ignore, &path));
            }
        }
    }
}
