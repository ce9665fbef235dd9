//! Whiteouts: names that remove what lower layers have. Image-spec, layer.md, Whiteouts.
//!
//! They stand for lower layers only, wherever in the tar they are, so what
//! this layer has made must be told from what was there. Of what it has made
//! in directories that are its own nothing needs to be known but their topmost
//! name. Names are kept as keyed 64-bit hashes: some 20 bytes for an entry, and
//! no way to make two of them meet.

use std::collections::HashSet;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::mem::MaybeUninit;

use anyhow::{Result, bail};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, RawDir, openat, statat};

use super::dirs::{Dir, Dirs, Missing};

/// What a name says about lower layers.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Name<'a> {
    /// Nothing: it is a name.
    Plain,
    /// They have nothing of this name.
    Removed(&'a [u8]),
    /// They have nothing in this directory.
    Opaque,
    /// AUFS kept its books in the image.
    Leftover,
}

impl Name<'_> {
    /// Reads the last component of a path.
    pub(super) fn parse(name: &[u8]) -> Result<Name<'_>> {
        Ok(match name.strip_prefix(b".wh.") {
            None => Name::Plain,
            Some(b".wh..opq") => Name::Opaque,
            Some(rest) if rest.starts_with(b".wh.") => Name::Leftover,
            Some(b"" | b"." | b"..") => bail!("a whiteout of nothing"),
            Some(rest) => Name::Removed(rest),
        })
    }
}

/// What the layer has made so far.
pub(super) struct Made {
    /// There were no lower layers.
    pub(super) all: bool,
    seed: RandomState,
    /// What it made in directories that were there, and the directories that these are in.
    names: HashSet<u64>,
    /// Those that are directories which were not there.
    directories: HashSet<u64>,
}

impl Made {
    pub(super) fn new(all: bool) -> Made {
        let (names, directories) = (HashSet::new(), HashSet::new());
        Made { all, seed: RandomState::new(), names, directories }
    }

    /// Notes that the layer has made, or has an entry for, what `dir` has under `path`.
    pub(super) fn name(&mut self, dir: &Dir, path: &[u8]) {
        if dir.fresh {
            return;
        }
        self.names.insert(self.key(path));
        if !dir.touched.replace(true) {
            self.names.extend(keys(&self.seed, &dir.path));
        }
    }

    /// Notes a directory that was not there.
    pub(super) fn directory(&mut self, dir: &Dir, path: &[u8]) {
        if !dir.fresh {
            self.name(dir, path);
            self.directories.insert(self.key(path));
        }
    }

    /// Returns whether the layer has made this directory, or one that it is in.
    pub(super) fn within(&self, path: &[u8]) -> bool {
        self.all || keys(&self.seed, path).any(|key| self.directories.contains(&key))
    }

    fn has(&self, path: &[u8]) -> bool {
        self.all || self.names.contains(&self.key(path))
    }

    fn key(&self, path: &[u8]) -> u64 {
        keys(&self.seed, path).last().unwrap_or_default()
    }
}

/// Returns the hash of each leading part of `path`, its own last, in one pass: paths may be long and deep.
fn keys(seed: &RandomState, path: &[u8]) -> impl Iterator<Item = u64> {
    let mut hasher = seed.build_hasher();
    path.split(|byte| *byte == b'/').map(move |name| {
        hasher.write(name);
        hasher.write(b"/");
        hasher.finish()
    })
}

/// Removes what lower layers have under `name` in `dir`.
pub(super) fn remove(dirs: &mut Dirs, dir: &Dir, name: &[u8]) -> Result<()> {
    if dir.fresh {
        return Ok(());
    }
    let path = dir.member(name);
    if !dirs.made.has(&path) {
        dirs.remove(dir, name)?;
        return Ok(());
    }
    if is_directory(dir, name) { clear(dirs, path) } else { Ok(()) }
}

/// Whether there is a directory of this name, and no link to one.
fn is_directory(dir: &Dir, name: &[u8]) -> bool {
    let stat = statat(&dir.fd, name, AtFlags::SYMLINK_NOFOLLOW);
    stat.is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Directory)
}

/// Removes what lower layers have in the directory at `path`, if there is one.
pub(super) fn clear(dirs: &mut Dirs, path: Vec<u8>) -> Result<()> {
    let mut todo = vec![path];
    while let Some(path) = todo.pop() {
        let Some(dir) = dirs.find(&path, Missing::Absent)? else { continue };
        if dir.fresh {
            continue;
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let again = openat(&dir.fd, ".", flags, Mode::empty())?; // with a position of its own
        let mut buffer = [MaybeUninit::uninit(); 8 << 10];
        let mut entries = RawDir::new(&again, &mut buffer);
        while let Some(entry) = entries.next() {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if matches!(name, b"." | b"..") {
                continue;
            }
            let path = dir.member(name);
            if !dirs.made.has(&path) {
                dirs.remove(&dir, name)?;
            } else if is_directory(&dir, name) {
                todo.push(path); // there may be something of theirs in it
            }
        }
    }
    Ok(())
}
