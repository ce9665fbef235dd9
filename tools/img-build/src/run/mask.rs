//! What of a directory `.dockerignore` hides, as a layer of whiteouts on top of it.
//!
//! A context is not copied to be mounted, as BuildKit does it. An overlay hides
//! what would not have been copied, and then the mount shows the same.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use anyhow::{Result, anyhow};
use common::error::At;
use common::tree;
use rustix::fs::{
    CWD, Dir, FileType, Mode, OFlags, ResolveFlags, fstat, makedev, mknodat, openat2,
};
use rustix::io::Errno;

use super::mounts::by_descriptor;
use crate::ignore::{Ignore, Walk};

/// Returns where in the tree of `root` something is that was opened in it, its links followed.
pub(super) fn place_in(root: &OwnedFd, source: &OwnedFd) -> Result<PathBuf> {
    let path = |fd: &OwnedFd| {
        let link = format!("/proc/self/fd/{}", fd.as_raw_fd());
        fs::read_link(&link).at(&link)
    };
    let (root, source) = (path(root)?, path(source)?);
    let inside = source.strip_prefix(&root).map(Path::to_owned);
    inside.map_err(|_| anyhow!("{}: it is being moved", source.display()))
}

/// A directory on the way.
struct Found {
    path: PathBuf,
    /// What was said of it, until what is in it was asked for.
    walk: Walk,
    above: usize,
    /// Something in it is seen, or it is itself.
    seen: bool,
    /// What is not seen in it, but for directories.
    hidden: Vec<PathBuf>,
}

/// Returns what is hidden below `source`, which is at `place` in its tree; nothing if it is hidden itself.
pub(super) fn hidden(
    source: &OwnedFd,
    place: &Path,
    ignore: &Ignore,
) -> Result<Option<Vec<PathBuf>>> {
    let (mut excluded, mut walk) = (false, Walk::default());
    let mut above = PathBuf::new();
    for part in place {
        above.push(part);
        (excluded, walk) = ignore.excludes(&text(&above), &walk);
    }
    if FileType::from_raw_mode(fstat(source)?.st_mode) != FileType::Directory {
        return Ok((!excluded).then(Vec::new));
    }
    // If nothing is included again, what is hidden is so with all that is in it.
    let again = ignore.patterns().iter().any(|pattern| pattern.includes);
    if excluded && !again {
        return Ok(None);
    }
    let top = Found { path: PathBuf::new(), walk, above: 0, seen: !excluded, hidden: Vec::new() };
    let mut all = vec![top];
    let mut at = 0;
    while at < all.len() {
        let inside = std::mem::take(&mut all[at].walk);
        let Some(dir) = open(source, &all[at].path)? else {
            at += 1; // it is gone
            continue;
        };
        for entry in Dir::read_from(&dir)? {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if matches!(name, b"." | b"..") {
                continue;
            }
            let path = all[at].path.join(OsStr::from_bytes(name));
            let (excluded, walk) = ignore.excludes(&text(&place.join(&path)), &inside);
            let directory = entry.file_type() == FileType::Directory;
            match (directory, excluded) {
                (true, _) if !excluded || again => {
                    let hidden = Vec::new();
                    all.push(Found { path, walk, above: at, seen: !excluded, hidden });
                }
                (_, true) => all[at].hidden.push(path),
                (_, false) => all[at].seen = true,
            }
        }
        at += 1;
    }
    // A directory is seen if anything in it is. Those above come before those in them.
    for at in (1..all.len()).rev() {
        let above = all[at].above;
        if all[at].seen {
            all[above].seen = true;
        } else {
            let path = std::mem::take(&mut all[at].path);
            all[at].hidden.clear();
            all[above].hidden.push(path);
        }
    }
    let seen = all[0].seen;
    Ok(seen.then(|| all.into_iter().flat_map(|found| found.hidden).collect()))
}

/// Makes the layer: a directory `mask` that hides these paths of `source`.
pub(super) fn make(mask: &Path, source: &OwnedFd, hidden: &[PathBuf]) -> Result<()> {
    let mut made = vec![PathBuf::new()];
    fs::create_dir(mask).at(mask)?;
    for path in hidden {
        let dir = path.parent().unwrap_or(Path::new(""));
        if made.last().is_none_or(|last| last != dir) {
            fs::create_dir_all(mask.join(dir)).at(mask)?;
            made.push(dir.into());
        }
        let (kind, none) = (FileType::CharacterDevice, makedev(0, 0));
        mknodat(CWD, mask.join(path), kind, Mode::empty(), none).at(mask)?;
    }
    // Of a directory that both have, overlay shows what the upper one is.
    let mut all: Vec<&Path> = made.iter().flat_map(|path| path.ancestors()).collect();
    all.sort();
    all.dedup();
    for path in all.into_iter().rev() {
        let Some(from) = open(source, path)? else { continue };
        let to = File::open(mask.join(path)).at(mask)?;
        tree::copy_metadata(from.as_fd(), to.as_fd()).at(mask)?;
    }
    Ok(())
}

/// Opens a directory below `source`, unless it is none any more.
fn open(source: &OwnedFd, path: &Path) -> Result<Option<OwnedFd>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    let name = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    match openat2(source, name, flags, Mode::empty(), resolve) {
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
        opened => opened.map(Some).at(by_descriptor(source).join(path)),
    }
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(ignored: &str, place: &str) -> Option<Vec<String>> {
        let dir = tempfile::tempdir().unwrap();
        for path in ["a/x/f", "a/y/g", "b/f", "b/deep/er/g", "top", "c/only"] {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        let ignore = Ignore::parse(ignored.as_bytes()).unwrap();
        let root = OwnedFd::from(File::open(dir.path()).unwrap());
        let source = OwnedFd::from(File::open(dir.path().join(place)).unwrap());
        let place = place_in(&root, &source).unwrap();
        let hidden = hidden(&source, &place, &ignore).unwrap()?;
        let mut hidden: Vec<String> = hidden.iter().map(|path| text(path)).collect();
        hidden.sort();
        Some(hidden)
    }

    #[test]
    fn what_is_ignored_is_hidden_as_far_up_as_can_be() {
        let table: &[(&str, &str, Option<&[&str]>)] = &[
            ("", "", Some(&[])),
            ("a", "", Some(&["a"])),
            ("top", "", Some(&["top"])),
            ("**/f", "", Some(&["a/x/f", "b/f"])),
            ("**/f", "b", Some(&["f"])),
            ("*\n!b/f", "", Some(&["a", "b/deep", "c", "top"])),
            ("a\n!a/x", "", Some(&["a/y"])),
            ("a\n!a/x", "a", Some(&["y"])),
            ("a", "a", None),
            ("a\n!top", "a", None),
            ("top", "top", None),
            ("a", "top", Some(&[])),
        ];
        for (ignored, place, expected) in table {
            let expected = expected.map(|list| list.iter().map(|path| path.to_string()).collect());
            assert_eq!(look(ignored, place), expected, "{ignored:?} {place}");
        }
    }
}
