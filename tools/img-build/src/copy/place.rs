//! Where files go: the image that is copied to, and what this step makes of it so far.
//!
//! A path is resolved as chroot(2) to the image would resolve it, links that
//! lead nowhere included: what they lead to is made. Nothing is written here.
//! What the step has made hides what the image has, and at the end what was made
//! is the layer.

use std::collections::{BTreeMap, VecDeque};

use anyhow::Result;
use common::error::At;
use common::files::{Files, Found};
use common::layer::PATH_MAX;
use common::tree::join;
use rustix::fs::FileType;
use rustix::io::Errno;

use super::walk::{HOPS, names, shown};
use crate::error::Error;

/// What the layer has at a path.
#[derive(Clone, Debug)]
pub(super) struct Made<D> {
    pub(super) what: What<D>,
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) mtime: i64,
    /// Nothing that the image has beneath it is seen.
    fresh: bool,
    /// The image has a directory here, which something else had taken the place of.
    pub(super) opaque: bool,
}

/// What something is.
#[derive(Clone, Debug)]
pub(super) enum What<D> {
    /// A directory, with the attributes of this one, if of any.
    Directory(Option<D>),
    /// A file, and which other names are the same file.
    File(D, Option<Group>),
    Symlink(Vec<u8>),
    Device {
        block: bool,
        major: u32,
        minor: u32,
    },
    Fifo,
}

/// What is the same for all names of one file: the source, and two numbers that tell its files apart.
pub(super) type Group = (usize, u64, u64);

/// What is at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum There {
    Nothing,
    Directory { mode: u32, uid: u32, gid: u32 },
    Symlink(Vec<u8>),
    Other,
}

/// Permissions and owner of something that is made.
#[derive(Clone, Copy, Debug)]
pub(super) struct Looks {
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) mtime: i64,
}

/// The image that is copied to. Its paths have no slashes at either end.
pub(super) struct Image<'a, D> {
    base: Option<&'a Files>,
    /// By paths whose slashes are zeros, so that they are in the order of a layer.
    made: BTreeMap<Vec<u8>, Made<D>>,
    /// How many files were given another name.
    linked: u64,
}

fn key(path: &[u8]) -> Vec<u8> {
    path.iter().map(|c| if *c == b'/' { 0 } else { *c }).collect()
}

/// Returns the directory that something is in; the root is in itself.
pub(super) fn above(path: &[u8]) -> &[u8] {
    &path[..path.iter().rposition(|c| *c == b'/').unwrap_or(0)]
}

impl<'a, D> Image<'a, D> {
    /// Takes the files of an image; without one there is nothing.
    pub(super) fn new(base: Option<&'a Files>) -> Image<'a, D> {
        Image { base, made: BTreeMap::new(), linked: 0 }
    }

    /// Returns what is at a path, without following anything.
    pub(super) fn look(&self, path: &[u8]) -> Result<There> {
        if path.is_empty() {
            return Ok(There::Directory { mode: 0o755, uid: 0, gid: 0 });
        }
        let key = key(path);
        if let Some(made) = self.made.get(&key) {
            return Ok(match &made.what {
                What::Directory(_) => {
                    There::Directory { mode: made.mode, uid: made.uid, gid: made.gid }
                }
                What::Symlink(link) => There::Symlink(link.clone()),
                _ => There::Other,
            });
        }
        let mut ends = (0..key.len()).rev().filter(|at| key[*at] == 0);
        let nearest = ends.find_map(|end| self.made.get(&key[..end]));
        let hidden = nearest.is_some_and(|made| made.fresh);
        let Some(base) = self.base.filter(|_| !hidden) else { return Ok(There::Nothing) };
        let Some(Found { kind, mode, uid, gid, link, .. }) = base.look(path).at(shown(path))?
        else {
            return Ok(There::Nothing);
        };
        Ok(match kind {
            FileType::Directory => There::Directory { mode, uid, gid },
            FileType::Symlink => There::Symlink(link),
            _ => There::Other,
        })
    }

    /// Returns what was made at a path.
    pub(super) fn made(&self, path: &[u8]) -> Option<&Made<D>> {
        self.made.get(&key(path))
    }

    /// Returns where a path leads, with no link on the way; what is not there may be on it.
    pub(super) fn resolve(&self, path: &[u8]) -> Result<Vec<u8>> {
        self.follow(b"", path)
    }

    /// Resolves a path as if `top`, which has no links on the way, were the root.
    ///
    /// # Errors
    /// `ELOOP` after too many links, and `ENAMETOOLONG` of what the kernel would not take as a path, among others.
    pub(super) fn follow(&self, top: &[u8], path: &[u8]) -> Result<Vec<u8>> {
        let mut here = top.to_vec();
        let mut todo: VecDeque<Vec<u8>> = names(path).map(Into::into).collect();
        let mut hops = 0;
        // The length of a path where nothing is: then nothing is beneath it, and nobody is asked again.
        let mut nothing = usize::MAX;
        while let Some(name) = todo.pop_front() {
            if name == b".." {
                here.truncate(above(&here).len().max(top.len()));
                continue;
            }
            let dir = here.len();
            here = join(&here, &name);
            fits(&here)?;
            if dir >= nothing {
                continue;
            }
            nothing = usize::MAX;
            match self.look(&here)? {
                There::Directory { .. } => {}
                There::Symlink(target) => {
                    hops += 1;
                    if hops > HOPS {
                        return Err(Errno::LOOP).at(shown(&here));
                    }
                    fits(&target)?;
                    here.truncate(if target.starts_with(b"/") { top.len() } else { dir });
                    names(&target).rev().for_each(|name| todo.push_front(name.into()));
                }
                There::Nothing | There::Other => nothing = here.len(),
            }
        }
        Ok(here)
    }

    /// Makes a directory that has no links on the way, and those that it is in.
    pub(super) fn make_dirs(&mut self, path: &[u8], looks: Looks) -> Result<()> {
        if let There::Directory { .. } = self.look(path)? {
            return Ok(());
        }
        // From the top: of what is in one that was just made, the image is not asked.
        let slashes = path.iter().enumerate().filter(|(_, c)| **c == b'/').map(|(at, _)| at);
        for end in slashes.chain([path.len()]) {
            match self.look(&path[..end])? {
                There::Directory { .. } => {}
                There::Nothing => self.put(&path[..end], What::Directory(None), looks)?,
                _ => return Err(in_the_way(&path[..end], "not a directory")),
            }
        }
        Ok(())
    }

    /// Makes a directory, or changes the one that is there.
    pub(super) fn directory(&mut self, path: &[u8], like: Option<D>, looks: Looks) -> Result<()> {
        match self.look(path)? {
            There::Nothing => self.put(path, What::Directory(like), looks),
            There::Directory { .. } => {
                let fresh = self.made(path).is_some_and(|made| made.fresh);
                let opaque = self.made(path).is_some_and(|made| made.opaque);
                let Looks { mode, uid, gid, mtime } = looks;
                let what = What::Directory(like);
                let made = Made { what, mode, uid, gid, mtime, fresh, opaque };
                self.made.insert(key(path), made);
                Ok(())
            }
            _ => Err(in_the_way(path, "a directory is copied there, and it is none")),
        }
    }

    /// Makes what is no directory, in the place of what is none.
    pub(super) fn file(&mut self, path: &[u8], what: What<D>, looks: Looks) -> Result<()> {
        match self.look(path)? {
            There::Directory { .. } => {
                Err(in_the_way(path, "a file is copied there, and it is a directory"))
            }
            _ => self.put(path, what, looks),
        }
    }

    /// Makes anything in the place of anything, but for a directory that takes the place of one.
    pub(super) fn replace(&mut self, path: &[u8], what: What<D>, looks: Looks) -> Result<()> {
        let there = self.look(path)?;
        let is_dir = matches!(there, There::Directory { .. });
        match what {
            What::Directory(like) if is_dir => self.directory(path, like, looks),
            what => self.put(path, what, looks),
        }
    }

    /// Gives a file that was made another name; `source` is where it is from.
    pub(super) fn link(&mut self, target: &[u8], path: &[u8], source: usize) -> Result<()>
    where
        D: Clone,
    {
        let place = key(target);
        self.linked += 1;
        let next = self.linked;
        let Some(made) = self.made.get_mut(&place) else {
            return Err(in_the_way(target, "it is not in the archive"));
        };
        match &mut made.what {
            What::Directory(_) => return Err(in_the_way(target, "it is a directory")),
            What::File(_, group) => drop(group.get_or_insert((source, u64::MAX, next))),
            _ => {}
        }
        let Made { what, mode, uid, gid, mtime, .. } = made.clone();
        self.put(path, what, Looks { mode, uid, gid, mtime })
    }

    fn put(&mut self, path: &[u8], what: What<D>, looks: Looks) -> Result<()> {
        if path.is_empty() {
            return Err(in_the_way(path, "it is a directory"));
        }
        fits(path)?;
        if path.contains(&0) {
            return Err(in_the_way(path, "no name has a zero in it"));
        }
        let name = &path[above(path).len()..];
        if name.strip_prefix(b"/").unwrap_or(name).starts_with(b".wh.") {
            let err = Error::new(format!(
                "{}: a name that begins with .wh. means that a file is deleted",
                shown(path).display()
            ));
            return Err(err.hint("another name, or an archive of it").into());
        }
        let key = key(path);
        // Whether the image has a directory here: as long as it is seen, or as was noted when it no longer was.
        let had = match self.made.get(&key) {
            Some(Made { what: What::Directory(_), fresh: false, .. }) => true,
            Some(made) => made.opaque,
            None => matches!(self.look(path)?, There::Directory { .. }),
        };
        if self.made.get(&key).is_some_and(|made| matches!(made.what, What::Directory(_))) {
            let start = [&key[..], &[0]].concat();
            let end = [&key[..], &[1]].concat();
            let inside: Vec<Vec<u8>> =
                self.made.range(start..end).map(|(key, _)| key.clone()).collect();
            for key in inside {
                self.made.remove(&key);
            }
        }
        let Looks { mode, uid, gid, mtime } = looks;
        self.made.insert(key, Made { what, mode, uid, gid, mtime, fresh: true, opaque: had });
        Ok(())
    }

    /// Returns what was made, in the order of a layer.
    pub(super) fn into_made(self) -> impl Iterator<Item = (Vec<u8>, Made<D>)> {
        let path = |mut key: Vec<u8>| {
            key.iter_mut().filter(|c| **c == 0).for_each(|c| *c = b'/');
            key
        };
        self.made.into_iter().map(move |(key, made)| (path(key), made))
    }
}

/// Checks that the kernel would take a path.
pub(super) fn fits(path: &[u8]) -> Result<()> {
    if path.len() < PATH_MAX { Ok(()) } else { Err(Errno::NAMETOOLONG).at(shown(path)) }
}

/// Says that something cannot be made, since something else is there.
fn in_the_way(path: &[u8], what: &str) -> anyhow::Error {
    let path = if path.is_empty() { "".into() } else { String::from_utf8_lossy(path) };
    Error::new(format!("/{path}: {what}")).into()
}
