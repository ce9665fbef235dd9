//! Permissions of `--chmod`: `0755`, or changes as chmod(1) takes them, `u=rwX,go=rX`.

use crate::error::{Error, Result};

/// Permissions, or how they change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Chmod {
    /// These.
    Is(u32),
    /// One after the other.
    Changes(Vec<Change>),
}

/// A change of permissions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Adds bits.
    Add(u32),
    /// Takes bits away.
    Remove(u32),
    /// Adds bits if it is a directory, or somebody could execute it at first.
    AddIfExecutable(u32),
    /// Takes what one class may for others: `g=u`.
    From {
        /// How far to the left of others' bits those are that are taken.
        class: u32,
        /// The classes that are changed, as bits of 0o777.
        who: u32,
        /// Whether bits are added.
        add: bool,
        /// Whether bits are taken away: all, if they are added as well.
        remove: bool,
    },
}

const SET_ID: u32 = 0o6000;
const STICKY: u32 = 0o1000;
/// What `=` without a class sets anew.
const ALL: u32 = 0o6777;

impl Chmod {
    /// Reads permissions.
    pub fn parse(text: &str) -> Result<Chmod> {
        let wrong = || {
            Error::new(format!("--chmod={text}: no permissions"))
                .hint("--chmod=0755 or u=rwX,go=rX")
        };
        if text.starts_with(|c: char| c.is_ascii_digit()) {
            let mode = u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o7777);
            return mode.map(Chmod::Is).ok_or_else(wrong);
        }
        let mut changes = Vec::new();
        for clause in text.split(',') {
            let who = clause.trim_start_matches(['a', 'u', 'g', 'o']);
            let mut classes = 0;
            for class in clause[..clause.len() - who.len()].chars() {
                classes |= match class {
                    'u' => 0o4700,
                    'g' => 0o2070,
                    'o' => 0o0007,
                    _ => ALL,
                };
            }
            let mut rest = who;
            if rest.is_empty() {
                return Err(wrong());
            }
            while let Some(operator) = rest.chars().next() {
                if !matches!(operator, '+' | '-' | '=') {
                    return Err(wrong());
                }
                let end = rest[1..].find(['+', '-', '=']).map_or(rest.len(), |at| at + 1);
                let letters = &rest[1..end];
                if !letters.chars().all(|c| "rwxXstugo".contains(c)) {
                    return Err(wrong());
                }
                one(operator, &mut classes, letters, &mut changes);
                rest = &rest[end..];
            }
        }
        Ok(Chmod::Changes(changes))
    }

    /// Returns what permissions become.
    pub fn apply(&self, mode: u32, is_dir: bool) -> u32 {
        let changes = match self {
            Chmod::Is(mode) => return *mode,
            Chmod::Changes(changes) => changes,
        };
        let executable = is_dir || mode & 0o111 != 0;
        changes.iter().fold(mode, |mode, change| match *change {
            Change::Add(bits) => mode | bits,
            Change::Remove(bits) => mode & !bits,
            Change::AddIfExecutable(bits) => mode | if executable { bits } else { 0 },
            Change::From { class, who, add, remove } => {
                let bits = (((mode >> class) & 7) * 0o111) & who;
                let kept = match (add, remove) {
                    (true, true) => mode & !who,
                    (_, true) => mode & !bits,
                    _ => mode,
                };
                if add { kept | bits } else { kept }
            }
        })
    }
}

/// Reads what follows an operator, up to the next. `t` makes the sticky bit one of the class's.
fn one(operator: char, classes: &mut u32, letters: &str, changes: &mut Vec<Change>) {
    *classes &= !STICKY;
    let set = |classes: u32, bits: u32, changes: &mut Vec<Change>| {
        let bits = if classes == 0 { bits } else { bits & classes };
        match operator {
            '-' => changes.push(Change::Remove(bits)),
            '+' => changes.push(Change::Add(bits)),
            _ => {
                changes.push(Change::Remove(if classes == 0 { ALL } else { classes }));
                changes.push(Change::Add(bits));
            }
        }
    };
    let executable = |classes: u32, bits: u32, changes: &mut Vec<Change>| {
        let bits = if classes == 0 { bits } else { bits & classes };
        changes.push(Change::AddIfExecutable(bits));
    };
    let (mut bits, mut execute) = (0, 0);
    let mut copied = false;
    for letter in letters.chars() {
        // Of others there is no set-id and no sticky bit.
        let special = *classes == 0 || *classes & !0o007 != 0;
        match letter {
            'r' => bits |= 0o444,
            'w' => bits |= 0o222,
            'x' => bits |= 0o111,
            'X' if operator == '-' => bits |= 0o111,
            'X' => execute = 0o111,
            's' if special => bits |= SET_ID,
            't' if special => {
                *classes |= STICKY;
                bits |= STICKY;
            }
            'u' | 'g' | 'o' => {
                if bits != 0 {
                    set(*classes, bits, changes);
                    bits = 0;
                }
                if execute != 0 {
                    executable(*classes, execute, changes);
                    execute = 0;
                }
                copied = true;
                let class = match letter {
                    'u' => 6,
                    'g' => 3,
                    _ => 0,
                };
                let mut who = 0;
                for (read, bits) in [(0o400, 0o700), (0o040, 0o070), (0o004, 0o007)] {
                    who |= if *classes == 0 || *classes & read != 0 { bits } else { 0 };
                }
                let (add, remove) = (operator != '-', operator != '+');
                changes.push(Change::From { class, who, add, remove });
            }
            _ => {}
        }
    }
    if bits != 0 || (operator == '=' && !copied) {
        set(*classes, bits, changes);
    }
    if execute != 0 {
        executable(*classes, execute, changes);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn permissions_become_what_chmod_makes_of_them() {
        // Of a file; where a directory differs it is the second.
        let table = [
            ("0", 0o644, 0, 0),
            ("755", 0o644, 0o755, 0o755),
            ("0755", 0o600, 0o755, 0o755),
            ("7777", 0, 0o7777, 0o7777),
            ("+x", 0o644, 0o755, 0o755),
            ("a+x", 0o644, 0o755, 0o755),
            ("u+x", 0o644, 0o744, 0o744),
            ("go-r", 0o644, 0o600, 0o600),
            ("=r", 0o777, 0o444, 0o444),
            ("u=rwX,go=rX", 0o600, 0o644, 0o755),
            ("u=rwX,go=rX", 0o700, 0o755, 0o755),
            ("+X", 0o644, 0o644, 0o755),
            ("+X", 0o744, 0o755, 0o755),
            ("-X", 0o755, 0o644, 0o644),
            ("g=u", 0o640, 0o660, 0o660),
            ("o+g", 0o640, 0o644, 0o644),
            ("go-u", 0o755, 0o700, 0o700),
            ("u=", 0o4755, 0o055, 0o055),
            ("u=rx,u+w", 0o000, 0o700, 0o700),
            ("u+r-w", 0o200, 0o400, 0o400),
            ("u+s", 0o755, 0o4755, 0o4755),
            ("+s", 0o755, 0o6755, 0o6755),
            ("o+s", 0o755, 0o755, 0o755),
            ("+t", 0o777, 0o1777, 0o1777),
            ("o+t", 0o777, 0o777, 0o777),
            ("a-s", 0o6755, 0o755, 0o755),
        ];
        for (text, before, file, dir) in table {
            let chmod = Chmod::parse(text).unwrap();
            assert_eq!(chmod.apply(before, false), file, "{text} {before:o}");
            assert_eq!(chmod.apply(before, true), dir, "{text} {before:o}");
        }
        for bad in [
            "", "8", "10000", "0o755", "x", "u", "ux", "u+x,", ",u+x", "u+z", "u~x", "+x ",
            "755,+x",
        ] {
            assert!(Chmod::parse(bad).is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_said_twice_is_said_once(text in "[ugoa]{0,2}[+=-][rwxst]{0,4}", mode in 0u32..0o10000) {
            let chmod = Chmod::parse(&text).unwrap();
            let once = chmod.apply(mode, false);
            prop_assert_eq!(chmod.apply(once, false), once);
            prop_assert!(once <= 0o7777);
        }

        #[test]
        fn no_text_breaks_the_parser(text in "[ugoa+=rwxXst,-]{0,16}|\\PC{0,12}") {
            if let Ok(chmod) = Chmod::parse(&text) {
                prop_assert!(chmod.apply(0o644, false) <= 0o7777);
            }
        }
    }
}
