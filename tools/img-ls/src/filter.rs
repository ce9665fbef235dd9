//! `--filter`: which images are listed. Different keys must all match, of one key any may but for labels.

use std::str::FromStr;

use anyhow::{Context, Error, Result, bail};
use common::cli::{Operand, moment};
use common::reference::Reference;
use common::store::Store;
use jiff::Timestamp;

use crate::Image;

/// One `--filter KEY=VALUE`.
#[derive(Clone, Debug)]
pub enum Filter {
    /// Without a name.
    Dangling(bool),
    /// With this label, and this value if one is given.
    Label(String, Option<String>),
    /// Whose name matches a pattern.
    Reference(String),
    /// Created before another image, or after it.
    Before(Operand),
    Since(Operand),
    /// Created before a moment.
    Until(Timestamp),
}

impl FromStr for Filter {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let (key, value) =
            text.split_once('=').with_context(|| format!("{text:?}: not KEY=VALUE"))?;
        Ok(match key {
            "dangling" => match value {
                "true" | "1" => Filter::Dangling(true),
                "false" | "0" => Filter::Dangling(false),
                _ => bail!("dangling is true or false, not {value:?}"),
            },
            "label" => match value.split_once('=') {
                Some((label, value)) => Filter::Label(label.into(), Some(value.into())),
                None => Filter::Label(value.into(), None),
            },
            "reference" => Filter::Reference(value.into()),
            "before" => Filter::Before(value.parse()?),
            "since" => Filter::Since(value.parse()?),
            "until" => Filter::Until(moment(value)?),
            _ => bail!("{key:?}: not one of before, dangling, label, reference, since, until"),
        })
    }
}

/// The filters of a command line, the images that they name looked up.
pub struct Filters(Vec<(&'static str, Test)>);

enum Test {
    Dangling(bool),
    Label(String, Option<String>),
    Reference(String),
    Before(Timestamp),
    After(Timestamp),
}

impl Filters {
    /// Looks up what the filters name.
    pub fn new(filters: &[Filter], store: &Store) -> Result<Filters> {
        let created = |operand: &Operand| -> Result<Timestamp> {
            let found = operand.find(store)?;
            let image = Image::read(&found.layout, None, &found.desc);
            image.created.with_context(|| format!("{operand}: does not say when it was created"))
        };
        let test = |filter: &Filter| -> Result<(&'static str, Test)> {
            Ok(match filter {
                Filter::Dangling(wanted) => ("dangling", Test::Dangling(*wanted)),
                Filter::Label(label, value) => ("label", Test::Label(label.clone(), value.clone())),
                Filter::Reference(pattern) => ("reference", Test::Reference(pattern.clone())),
                Filter::Before(image) => ("before", Test::Before(created(image)?)),
                Filter::Since(image) => ("since", Test::After(created(image)?)),
                Filter::Until(moment) => ("until", Test::Before(*moment)),
            })
        };
        Ok(Filters(filters.iter().map(test).collect::<Result<_>>()?))
    }

    /// Returns whether unnamed images are asked for by name, so to speak.
    pub fn wants_unnamed(&self) -> bool {
        self.0.iter().any(|(_, test)| matches!(test, Test::Dangling(true)))
    }

    /// Returns whether labels decide.
    pub fn want_labels(&self) -> bool {
        self.0.iter().any(|(key, _)| *key == "label")
    }

    /// Returns whether an image is listed. A label must match for each `label=`, as for Docker.
    pub fn accept(&self, image: &Image) -> bool {
        self.0.iter().all(|(key, test)| match *key {
            "label" => test.accepts(image),
            _ => self.0.iter().any(|(other, test)| other == key && test.accepts(image)),
        })
    }
}

impl Test {
    fn accepts(&self, image: &Image) -> bool {
        match self {
            Test::Dangling(wanted) => image.name.is_none() == *wanted,
            Test::Label(label, value) => match (image.labels.get(label), value) {
                (Some(found), Some(value)) => found == value,
                (found, _) => found.is_some(),
            },
            Test::Reference(pattern) => is_meant(pattern, image),
            Test::Before(moment) => image.created.is_some_and(|created| created < *moment),
            Test::After(moment) => image.created.is_some_and(|created| created > *moment),
        }
    }
}

/// Returns whether a pattern matches an image's name, or is pinned to its digest: `NAME@DIGEST`.
pub fn is_meant(pattern: &str, image: &Image) -> bool {
    let pinned = pattern.parse::<Reference>().ok();
    match pinned.as_ref().and_then(Reference::digest) {
        // As for every operand, the digest decides.
        Some(digest) => image.digest == digest.to_string(),
        None => image.name.as_ref().is_some_and(|name| matches(pattern, name)),
    }
}

/// Returns whether a pattern matches a name, with its tag or without, as Docker prints it or whole.
fn matches(pattern: &str, name: &Reference) -> bool {
    let names = [name.to_string(), name.familiar(), name.full(), name.repository()];
    names.iter().any(|name| glob(pattern.as_bytes(), name.as_bytes()))
}

/// A piece of a pattern.
enum Piece<'a> {
    Star,
    Any,
    One(u8),
    /// What stands between the brackets.
    Class(&'a [u8]),
}

impl Piece<'_> {
    fn takes(&self, b: u8) -> bool {
        match self {
            Piece::Star => false,
            Piece::Any => b != b'/',
            Piece::One(c) => *c == b,
            Piece::Class(inside) => within(inside, b),
        }
    }
}

/// Go's path.Match: `*` and `?` stop at a slash, `[a-z]` and `[^a-z]` are one character.
fn glob(pattern: &[u8], name: &[u8]) -> bool {
    let Some(pieces) = pieces(pattern) else { return false };
    let (mut at, mut from) = (0, 0);
    // The last star, and what it has taken so far ends here. An earlier one is
    // never tried again, or some patterns would take longer than anyone lives.
    let mut star = None;
    while from < name.len() {
        match pieces.get(at) {
            Some(Piece::Star) => {
                at += 1;
                star = Some((at, from));
            }
            Some(piece) if piece.takes(name[from]) => (at, from) = (at + 1, from + 1),
            _ => match star {
                Some((after, end)) if name[end] != b'/' => {
                    star = Some((after, end + 1));
                    (at, from) = (after, end + 1);
                }
                _ => return false,
            },
        }
    }
    pieces[at..].iter().all(|piece| matches!(piece, Piece::Star))
}

/// Takes a pattern apart; nothing if a bracket is not closed or nothing follows a backslash.
fn pieces(mut pattern: &[u8]) -> Option<Vec<Piece<'_>>> {
    let mut pieces = Vec::new();
    while let [first, rest @ ..] = pattern {
        let (piece, rest) = match first {
            b'*' => (Piece::Star, rest),
            b'?' => (Piece::Any, rest),
            b'\\' => (Piece::One(*rest.first()?), &rest[1..]),
            b'[' => {
                let end = rest.iter().position(|b| *b == b']')?;
                (Piece::Class(&rest[..end]), &rest[end + 1..])
            }
            c => (Piece::One(*c), rest),
        };
        pieces.push(piece);
        pattern = rest;
    }
    Some(pieces)
}

/// Returns whether a `[...]` has `b`.
fn within(inside: &[u8], b: u8) -> bool {
    let (negated, mut inside) = match inside {
        [b'^', rest @ ..] => (true, rest),
        _ => (false, inside),
    };
    let mut found = false;
    while let [low, rest @ ..] = inside {
        inside = match rest {
            [b'-', high, rest @ ..] => {
                found |= (*low..=*high).contains(&b);
                rest
            }
            _ => {
                found |= *low == b;
                rest
            }
        };
    }
    found != negated
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn patterns_match_as_go_matches_paths() {
        let table = [
            ("app", "app:v1", true),
            ("app:*", "app:v1", true),
            ("ap?", "app:v1", true),
            ("*", "app:v1", true),
            ("*", "user/app:v1", false),
            ("*/app", "user/app:v1", true),
            ("[a-c]pp", "app", true),
            ("[^a]pp", "app", false),
            ("docker.io/library/app", "app:v1", true),
            ("app:v2", "app:v1", false),
            ("**p", "app", true),
            ("[", "app", false),
            ("[^a-c]*", "dapp", true),
            ("\\app", "app", true),
            ("app\\", "app", false),
            ("*a*b", "a/ab", false),
            ("*/*b", "a/ab", true),
            ("h.io/*/[a-b]*:v?", "h.io/x/bc:v1", true),
            ("", "app", false),
        ];
        for (pattern, name, wanted) in table {
            assert_eq!(matches(pattern, &name.parse().unwrap()), wanted, "{pattern} {name}");
        }
    }

    #[test]
    fn no_pattern_takes_for_ever() {
        let name = format!("user/{}:v1", "a".repeat(240)).parse().unwrap();
        assert!(!matches(&format!("user/{}*b", "*a".repeat(60)), &name));
        assert!(matches(&format!("user/{}*1", "*a".repeat(60)), &name));
    }

    proptest! {
        /// Every star as long as it can be, shorter, and so on: right, and too slow for long names.
        #[test]
        fn a_pattern_matches_what_trying_everything_matches(pattern in "[ab*?/]{0,8}", name in "[ab/]{0,8}") {
            fn every_way(pattern: &[u8], name: &[u8]) -> bool {
                match (pattern, name) {
                    ([b'*', rest @ ..], _) => {
                        let end = name.iter().position(|b| *b == b'/').unwrap_or(name.len());
                        (0..=end).any(|at| every_way(rest, &name[at..]))
                    }
                    ([b'?', pattern @ ..], [b, name @ ..]) if *b != b'/' => every_way(pattern, name),
                    ([c, pattern @ ..], [b, name @ ..]) => c == b && every_way(pattern, name),
                    (pattern, name) => pattern.is_empty() && name.is_empty(),
                }
            }
            let (pattern, name) = (pattern.as_bytes(), name.as_bytes());
            prop_assert_eq!(glob(pattern, name), every_way(pattern, name));
        }

        #[test]
        fn no_text_breaks_a_filter(key in "(dangling|label|reference|before|since|until|\\PC{0,4})=?", value in "\\PC{0,20}|[0-9.hms-]{0,20}") {
            let text = format!("{key}{value}");
            if let Ok(Filter::Reference(pattern)) = text.parse() {
                matches(&pattern, &"user/app:v1".parse().unwrap());
            }
        }
    }

    #[test]
    fn unknown_filters_are_refused() {
        for bad in ["", "label", "dangling=perhaps", "until=never", "color=red", "before=A//B"] {
            assert!(bad.parse::<Filter>().is_err(), "{bad}");
        }
    }
}
