//! What a result depends on, for make(1): `--depfile`, as `gcc -MMD -MP` writes it.
//!
//! ```text
//! app.ref: \
//!  Dockerfile \
//!  src \
//!  src/a\ b.py
//!
//! Dockerfile:
//! src:
//! src/a\ b.py:
//! ```
//!
//! A directory is among them if its listing has decided something: what comes into
//! it, or goes, is newer than the target by it. The rules without a recipe let make
//! go on when a prerequisite is gone, and build; another makefile may have a recipe for
//! what it generates. What the build itself writes is none, wherever it lies.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use anyhow::{Result, anyhow};
use common::error::{At, Hint};
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, UTIME_NOW, utimensat};

/// The files of this host that a build has read, and the directories.
#[derive(Default)]
pub struct Prerequisites(Mutex<BTreeSet<PathBuf>>);

impl Prerequisites {
    /// Adds some.
    pub fn add(&self, files: impl IntoIterator<Item = PathBuf>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend(files);
    }

    /// Returns the rules that say what the files `targets` depend on. `outputs` are what the build
    /// writes, all that is in them included.
    pub fn rules(self, targets: &[&Path], outputs: &[&Path]) -> Result<Vec<u8>> {
        let mut outputs = Outputs::of(outputs);
        let mut files = self.0.into_inner().unwrap_or_else(PoisonError::into_inner);
        files.retain(|file| !outputs.has(file));
        let mut text = Vec::new();
        for target in targets {
            text.extend(word(target, Side::Target)?);
            text.push(b' ');
        }
        text.pop();
        text.push(b':');
        for file in &files {
            text.extend(b" \\\n ");
            text.extend(word(file, Side::Prerequisite)?);
        }
        text.push(b'\n');
        for file in &files {
            text.push(b'\n');
            text.extend(word(file, Side::Target)?);
            text.push(b':');
        }
        if !files.is_empty() {
            text.push(b'\n');
        }
        Ok(text)
    }
}

/// Makes a target newer than all that was written before it, the entries of its directory among them.
pub fn touch(target: &Path) -> Result<()> {
    let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
    let times = Timestamps { last_access: now, last_modification: now };
    utimensat(CWD, target, &times, AtFlags::empty()).at(target)
}

/// Where a name is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Target,
    Prerequisite,
}

/// Returns a name as a makefile has it. GNU make 4 reads it; what it could not is an error.
fn word(path: &Path, side: Side) -> Result<Vec<u8>> {
    let name = path.as_os_str().as_bytes();
    // Of the end of a word no backslash takes the meaning, and `a(b)` is a member of an archive.
    let ends_badly = match name.last() {
        None | Some(b' ' | b'\t' | b'\\') => true,
        Some(b')') => name.contains(&b'('),
        Some(_) => false,
    };
    if ends_badly || name.contains(&b'\n') || is_special(path) {
        return Err(anyhow!("{}: a name that no makefile can hold", path.display()))
            .hint(|| "another name, or a line in .dockerignore".into());
    }
    let mut word = Vec::with_capacity(name.len());
    if name.starts_with(b"~") {
        word.extend(b"./");
    }
    let mut backslashes = 0;
    for &c in name {
        let special: &[u8] = match c {
            b'$' => b"$$",
            // What separates a rule's parts is found before functions are called.
            b'=' => b"$(if x,=)",
            b'&' => b"$(if x,&)",
            b';' => b"$(if x,\\;)",
            b'\t' => b"$(if x,\\\t)",
            b' ' => b"\\ ",
            b'#' => b"\\#",
            b':' => b"\\:",
            b'*' => b"\\*",
            b'?' => b"\\?",
            b'[' => b"\\[",
            // A pattern is on the left of a rule, what is for order only on its right.
            b'%' if side == Side::Target => b"\\%",
            b'|' if side == Side::Prerequisite => b"\\|",
            _ => &[],
        };
        match special {
            [] => word.push(c),
            special => {
                // A backslash before a backslash means itself where the last one means something.
                if special.contains(&b'\\') {
                    word.extend(std::iter::repeat_n(b'\\', backslashes));
                }
                word.extend(special);
            }
        }
        backslashes = if c == b'\\' { backslashes + 1 } else { 0 };
    }
    Ok(word)
}

/// Returns whether a name may mean something to make wherever it stands: `.IGNORE`, and what later ones have.
///
/// Make takes `./` away before it looks.
fn is_special(path: &Path) -> bool {
    let mut names = path.components().filter(|name| *name != Component::CurDir);
    let (Some(Component::Normal(name)), None) = (names.next(), names.next()) else { return false };
    let letters = name.as_bytes().strip_prefix(b".").unwrap_or_default();
    !letters.is_empty() && letters.iter().all(|c| c.is_ascii_uppercase() || *c == b'_')
}

/// What the build writes.
struct Outputs {
    files: BTreeSet<(u64, u64)>,
    known: HashMap<PathBuf, bool>,
}

impl Outputs {
    /// What is not there yet cannot have been read.
    fn of(paths: &[&Path]) -> Outputs {
        let files = paths.iter().filter_map(|path| id(path)).collect();
        Outputs { files, known: HashMap::new() }
    }

    /// Returns whether this is an output, or in one.
    fn has(&mut self, path: &Path) -> bool {
        if self.files.is_empty() {
            return false;
        }
        let is_output = id(path).is_some_and(|id| self.files.contains(&id));
        is_output || path.parent().is_some_and(|above| self.has_dir(above))
    }

    fn has_dir(&mut self, dir: &Path) -> bool {
        if let Some(known) = self.known.get(dir) {
            return *known;
        }
        let has = self.has(dir);
        self.known.insert(dir.into(), has);
        has
    }
}

/// Returns what tells a file from others.
fn id(path: &Path) -> Option<(u64, u64)> {
    fs::metadata(path).map(|metadata| (metadata.dev(), metadata.ino())).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(files: &[&str]) -> Result<String> {
        let prerequisites = Prerequisites::default();
        prerequisites.add(files.iter().map(PathBuf::from));
        let rules = prerequisites.rules(&[Path::new("out")], &[])?;
        Ok(String::from_utf8(rules).unwrap())
    }

    #[test]
    fn rules_are_as_gcc_writes_them() {
        let table: [(&[&str], &str); 4] = [
            (&[], "out:\n"),
            (&["b", "a"], "out: \\\n a \\\n b\n\na:\nb:\n"),
            (&["a b\\ c$#"], "out: \\\n a\\ b\\\\\\ c$$\\#\n\na\\ b\\\\\\ c$$\\#:\n"),
            (&["%|"], "out: \\\n %\\|\n\n\\%|:\n"),
        ];
        for (files, expected) in table {
            assert_eq!(text(files).unwrap(), expected);
        }
        for bad in ["a\nb", "a ", "a\t", "a\\", "a(b)", "", ".IGNORE", "././/.DELETE_ON_ERROR"] {
            assert!(text(&[bad]).is_err(), "{bad:?}");
        }
        for good in ["a/.IGNORE", "/.IGNORE", ".ignore", ".DS_Store", ".", "..", "IGNORE", ".A1"] {
            assert!(text(&[good]).is_ok(), "{good:?}");
        }
    }

    #[test]
    fn what_is_written_is_not_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        fs::create_dir(path("out")).unwrap();
        ["a", "b", "out/c"].iter().for_each(|name| fs::write(path(name), name).unwrap());
        let prerequisites = Prerequisites::default();
        prerequisites.add(["a", "b", "out", "out/c"].map(path));
        let (b, out) = (path("out/../b"), path("out"));
        let rules = prerequisites.rules(&[&b], &[&b, &out, &path("none")]).unwrap();
        let rules = String::from_utf8(rules).unwrap().replace(dir.path().to_str().unwrap(), "D");
        assert_eq!(rules, "D/out/../b: \\\n D/a\n\nD/a:\n");
    }
}
