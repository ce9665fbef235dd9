//! Patterns of `${name#pattern}` and its like: `*` is any text, `?` any character, but for a newline.
//!
//! Among the matches the one is chosen that a regular expression would choose,
//! `.*` or `.*?` for each `*`. It is found in one pass, whatever the pattern
//! (a Pike machine): a Dockerfile of strangers is not to take hours.

use crate::error::{Error, Result};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token {
    Is(char),
    Any,
    Star,
}

/// A pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern(Vec<Token>);

impl Pattern {
    /// Reads a pattern. `\` takes away the meaning of `*`, `?` and `\`; before `/` and `}` it has done so already.
    pub fn parse(text: &str) -> Result<Pattern> {
        let mut tokens = Vec::new();
        let mut chars = text.chars();
        while let Some(c) = chars.next() {
            tokens.push(match c {
                '*' if tokens.last() == Some(&Token::Star) => continue,
                '*' => Token::Star,
                '?' => Token::Any,
                '\\' => match chars.next() {
                    Some(c @ ('*' | '?' | '\\' | '}' | '/')) => Token::Is(c),
                    Some(c) => {
                        return Err(Error::new(format!("{text}: \\{c} in a pattern is no escape"))
                            .hint("\\* \\? or \\\\"));
                    }
                    None => return Err(Error::new(format!("{text}: a pattern ends in \\"))),
                },
                c => Token::Is(c),
            });
        }
        Ok(Pattern(tokens))
    }

    /// Returns `text` without its shortest or longest start that matches.
    pub fn without_start<'a>(&self, text: &'a str, longest: bool) -> &'a str {
        let end = self.run(&mut text.char_indices(), true, longest).map_or(0, |(_, end)| end);
        &text[end.min(text.len())..]
    }

    /// Returns `text` without its shortest or longest end that matches.
    pub fn without_end<'a>(&self, text: &'a str, longest: bool) -> &'a str {
        let reversed = Pattern(self.0.iter().rev().copied().collect());
        // A character is where it ends, seen from behind.
        let mut chars =
            text.char_indices().rev().map(|(at, c)| (text.len() - at - c.len_utf8(), c));
        let end = reversed.run(&mut chars, true, longest).map_or(0, |(_, end)| end);
        &text[..text.len() - end.min(text.len())]
    }

    /// Replaces the first match or all; returns nothing if that is longer than `limit`.
    pub fn replace(&self, text: &str, word: &str, all: bool, limit: usize) -> Option<String> {
        let mut out = String::new();
        let (mut copied, mut from) = (0, 0);
        while from <= text.len() {
            let found = self.run(&mut text[from..].char_indices(), false, true);
            let Some((start, end)) = found else { break };
            let (start, end) =
                (from + start.min(text.len() - from), from + end.min(text.len() - from));
            out.push_str(&text[copied..start]);
            // Nothing, right after a match, is no match.
            if end > copied || start == 0 {
                out.push_str(word);
            }
            copied = end;
            if out.len() > limit {
                return None;
            }
            if !all {
                break;
            }
            let width = text[from..].chars().next().map_or(1, char::len_utf8);
            from = end.max(from + width);
        }
        out.push_str(&text[copied..]);
        (out.len() <= limit).then_some(out)
    }

    /// Returns where a match begins and ends; `usize::MAX` is the end of the text.
    ///
    /// Each thread is a place in the pattern, in the order of preference: what a
    /// backtracking search would try first comes first.
    fn run(
        &self,
        chars: &mut dyn Iterator<Item = (usize, char)>,
        anchored: bool,
        longest: bool,
    ) -> Option<(usize, usize)> {
        let mut threads = Threads::new(self.0.len());
        let mut next = Threads::new(self.0.len());
        let mut found = None;
        let mut first = true;
        loop {
            let here = chars.next();
            let at = here.map_or(usize::MAX, |(at, _)| at);
            if found.is_none() && (first || !anchored) {
                self.add(&mut threads, 0, at, longest);
            }
            first = false;
            for &(place, start) in &threads.list {
                let Some(token) = self.0.get(place) else {
                    found = Some((start, at));
                    break; // all others are worse
                };
                let Some((_, c)) = here else { continue };
                match token {
                    Token::Is(wanted) if *wanted == c => {
                        self.add(&mut next, place + 1, start, longest);
                    }
                    Token::Any if c != '\n' => self.add(&mut next, place + 1, start, longest),
                    Token::Star if c != '\n' => self.add(&mut next, place, start, longest),
                    _ => {}
                }
            }
            if here.is_none() || (next.list.is_empty() && (anchored || found.is_some())) {
                return found;
            }
            std::mem::swap(&mut threads, &mut next);
            next.clear();
        }
    }

    fn add(&self, threads: &mut Threads, place: usize, start: usize, longest: bool) {
        match self.0.get(place) {
            // No two stars follow each other.
            Some(Token::Star) if longest => {
                threads.push(place, start);
                threads.push(place + 1, start);
            }
            Some(Token::Star) => {
                threads.push(place + 1, start);
                threads.push(place, start);
            }
            _ => threads.push(place, start),
        }
    }
}

/// The places in a pattern that are tried at once, each once.
struct Threads {
    list: Vec<(usize, usize)>,
    there: Vec<bool>,
}

impl Threads {
    fn new(places: usize) -> Threads {
        Threads { list: Vec::new(), there: vec![false; places + 1] }
    }

    fn push(&mut self, place: usize, start: usize) {
        if !std::mem::replace(&mut self.there[place], true) {
            self.list.push((place, start));
        }
    }

    fn clear(&mut self) {
        for (place, _) in self.list.drain(..) {
            self.there[place] = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Returns all ends that a match at the start may have, by trying everything.
    fn ends(tokens: &[Token], text: &str) -> Vec<usize> {
        let Some((token, rest)) = tokens.split_first() else { return vec![0] };
        let mut found = Vec::new();
        let mut go = |at: usize| found.extend(ends(rest, &text[at..]).iter().map(|end| at + end));
        match token {
            Token::Is(c) if text.starts_with(*c) => go(c.len_utf8()),
            Token::Any => {
                if let Some(c) = text.chars().next().filter(|c| *c != '\n') {
                    go(c.len_utf8());
                }
            }
            Token::Star => {
                let line = text.split('\n').next().unwrap_or_default();
                line.char_indices().for_each(|(at, _)| go(at));
                go(line.len());
            }
            Token::Is(_) => {}
        }
        found
    }

    proptest! {
        #[test]
        fn the_shortest_and_the_longest_are_found(pattern in "[ab*?]{0,6}", text in "[abc]{0,10}") {
            let pattern = Pattern::parse(&pattern).unwrap();
            let ends = ends(&pattern.0, &text);
            let (short, long) = (ends.iter().min(), ends.iter().max());
            prop_assert_eq!(pattern.without_start(&text, false), &text[*short.unwrap_or(&0)..]);
            prop_assert_eq!(pattern.without_start(&text, true), &text[*long.unwrap_or(&0)..]);
        }

        #[test]
        fn a_pattern_without_stars_replaces_as_text_does(
            pattern in "[ab]{1,3}",
            text in "[abcé]{0,12}",
            word in "[xy]{0,3}",
        ) {
            let parsed = Pattern::parse(&pattern).unwrap();
            prop_assert_eq!(parsed.replace(&text, &word, true, 1000).unwrap(), text.replace(&pattern, &word));
            prop_assert_eq!(parsed.replace(&text, &word, false, 1000).unwrap(), text.replacen(&pattern, &word, 1));
        }
    }

    #[test]
    fn a_long_text_takes_no_longer_than_it_is() {
        // A search that goes back takes 2^30 steps, and more.
        let pattern = Pattern::parse(&("*a".repeat(30) + "b")).unwrap();
        let text = "a".repeat(4000);
        assert_eq!(pattern.without_start(&text, true), text);
        assert_eq!(pattern.replace(&text, "x", true, 1 << 20).as_deref(), Some(text.as_str()));
    }
}
