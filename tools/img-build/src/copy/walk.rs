//! Reads a tree of files without leaving it, and without what is ignored in it.
//!
//! The kernel is given paths without links and told to follow none (openat2(2),
//! RESOLVE_BENEATH and RESOLVE_NO_SYMLINKS); links are followed here, as text, so
//! that what is ignored is known by its real name. A directory that is ignored is
//! there all the same if something in it is not.

use std::collections::VecDeque;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use anyhow::{Context, Result, bail};
use common::error::At;
use common::layer::recorded_owner;
use common::tree::{join, open_at};
use rustix::fs::{
    AtFlags, FileType, OFlags, RawDir, ResolveFlags, Stat, fstat, readlinkat, statat,
};
use rustix::io::Errno;

use crate::glob::Glob;
use crate::ignore::{Ignore, Walk};
use crate::source::Tree;

/// The most links that lead to a file, as in the kernel.
pub(super) const HOPS: usize = 40;

/// A file as it was when it was looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Status {
    pub(super) kind: FileType,
    /// The permissions.
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) size: u64,
    pub(super) mtime: (i64, i64),
    pub(super) ctime: (i64, i64),
    pub(super) dev: u64,
    pub(super) ino: u64,
    pub(super) links: u64,
    pub(super) device: u64,
}

impl Status {
    pub(super) fn of(stat: &Stat) -> Status {
        // The types differ from one architecture to the next.
        #[allow(clippy::unnecessary_cast)]
        Status {
            kind: FileType::from_raw_mode(stat.st_mode),
            mode: stat.st_mode as u32 & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
            size: stat.st_size as u64,
            mtime: (stat.st_mtime as i64, stat.st_mtime_nsec as i64),
            ctime: (stat.st_ctime as i64, stat.st_ctime_nsec as i64),
            dev: stat.st_dev as u64,
            ino: stat.st_ino as u64,
            links: stat.st_nlink as u64,
            device: stat.st_rdev as u64,
        }
    }

    /// Returns whether it is the same file, and nobody has written to it.
    pub(super) fn is_as(&self, before: &Status) -> bool {
        // Reading a file changes neither.
        let now = (self.kind, self.dev, self.ino, self.size, self.mtime, self.ctime);
        now == (before.kind, before.dev, before.ino, before.size, before.mtime, before.ctime)
    }
}

/// A place in a tree, by a path without links.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) path: Vec<u8>,
    pub(super) status: Status,
    /// It is ignored, and there only if something in it is not.
    hidden: bool,
    /// What was said of the directory that it is in, which all that are in it share.
    above: Walk,
}

/// What is at a path.
pub(super) enum Found {
    At(Place),
    /// Nothing. If that is so because it is ignored, this is what is.
    Nothing {
        ignored: Option<Vec<u8>>,
    },
}

/// Something that is copied.
#[derive(Debug)]
pub(super) struct Node {
    /// Where it is, seen from the source; empty for the source itself.
    pub(super) path: Box<[u8]>,
    pub(super) status: Status,
    /// What is in a link.
    pub(super) link: Option<Box<[u8]>>,
    /// It is not asked for, but something in it is.
    pub(super) implied: bool,
}

/// What of a source is copied: by names in it.
#[derive(Default)]
pub(super) struct Filter {
    /// What matches is copied; all if there is none.
    pub(super) only: Option<Ignore>,
    /// What matches is not.
    pub(super) except: Option<Ignore>,
}

/// Reads a tree.
pub(super) struct Reader<'a> {
    tree: &'a Tree,
    /// The directories whose listing has decided something.
    pub(super) listed: Vec<Vec<u8>>,
}

/// Opens what is at a path, without links, beneath `root`; the empty path is the root.
pub(super) fn open(root: BorrowedFd, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let path: &[u8] = if path.is_empty() { b"." } else { path };
    open_at(root, path, flags, resolve)
}

/// Opens what is at a path as itself, be it a link.
pub(super) fn look(root: BorrowedFd, path: &[u8]) -> Result<Option<(OwnedFd, Status)>, Errno> {
    match open(root, path, OFlags::PATH | OFlags::NOFOLLOW) {
        Ok(fd) => {
            let status = Status::of(&fstat(&fd)?);
            Ok(Some((fd, status)))
        }
        // A link on the way: it was none when we last looked.
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// Returns a path in a tree as messages show it.
pub(super) fn shown(path: &[u8]) -> &Path {
    use std::os::unix::ffi::OsStrExt;
    Path::new(std::ffi::OsStr::from_bytes(if path.is_empty() { b"/" } else { path }))
}

/// Splits a path into its names, those that mean something.
pub(super) fn names(path: &[u8]) -> impl DoubleEndedIterator<Item = &[u8]> {
    path.split(|c| *c == b'/').filter(|name| !name.is_empty() && *name != b".")
}

impl<'a> Reader<'a> {
    pub(super) fn new(tree: &'a Tree) -> Reader<'a> {
        Reader { tree, listed: Vec::new() }
    }

    /// Returns what to say when something is asked for that is in a directory.
    fn inside(&self, dir: &Place) -> Walk {
        match dir.path.is_empty() {
            true => Walk::default(),
            false => self.ignores(&dir.path, &dir.above).1,
        }
    }

    /// Asks whether something is ignored, given what was said of the directory that it is in.
    fn ignores(&self, path: &[u8], above: &Walk) -> (bool, Walk) {
        match &self.tree.ignore {
            Some(ignore) => ignore.excludes(&String::from_utf8_lossy(path), above),
            None => (false, Walk::default()),
        }
    }

    /// Returns whether something in an ignored directory may not be ignored.
    fn may_show(&self, path: &[u8]) -> bool {
        let ignore = self.tree.ignore.as_ref();
        ignore.is_some_and(|ignore| ignore.reaches(&String::from_utf8_lossy(path), true))
    }

    /// Returns what a path leads to: `..` stops at the root, and links lead where they would lead if it were `/`.
    pub(super) fn find(&mut self, path: &[u8]) -> Result<Found> {
        let root = self.tree.root.as_fd();
        let status = Status::of(&fstat(root)?);
        let top = Place { path: Vec::new(), status, hidden: false, above: Walk::default() };
        let mut way = vec![top];
        let mut todo: VecDeque<Vec<u8>> = names(path).map(Into::into).collect();
        let mut hops = 0;
        while let Some(name) = todo.pop_front() {
            if name == b".." {
                if way.len() > 1 {
                    way.pop();
                }
                continue;
            }
            // The root stays.
            let Some(here) = way.last() else { bail!("no root") };
            let path = join(&here.path, &name);
            let above = self.inside(here);
            let (hidden, _) = self.ignores(&path, &above);
            let Some((fd, status)) = look(root, &path).at(shown(&path))? else {
                return Ok(Found::Nothing { ignored: None });
            };
            let shows = status.kind == FileType::Directory && self.may_show(&path);
            if hidden && !shows {
                return Ok(Found::Nothing { ignored: Some(path) });
            }
            let status = self.with_owner(&path, status)?;
            match status.kind {
                FileType::Symlink => {
                    hops += 1;
                    if hops > HOPS {
                        return Err(Errno::LOOP).at(shown(&path));
                    }
                    // Where it leads is decided by who may change it, and so the directory.
                    self.listed.push(here.path.clone());
                    let target = readlinkat(&fd, c"", Vec::new()).at(shown(&path))?.into_bytes();
                    if target.starts_with(b"/") {
                        way.truncate(1);
                    }
                    names(&target).rev().for_each(|name| todo.push_front(name.into()));
                }
                FileType::Directory => way.push(Place { path, status, hidden, above }),
                _ if todo.is_empty() => way.push(Place { path, status, hidden, above }),
                _ => return Ok(Found::Nothing { ignored: None }),
            }
        }
        match way.pop() {
            Some(place) => Ok(Found::At(place)),
            None => bail!("no root"),
        }
    }

    /// Returns what is in a directory, ignored or not, in the order of names.
    pub(super) fn list(&mut self, path: &[u8]) -> Result<Vec<(Box<[u8]>, Status)>> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let dir = open(self.tree.root.as_fd(), path, flags).at(shown(path))?;
        self.listed.push(path.into());
        let mut buffer = [MaybeUninit::uninit(); 32 << 10];
        let mut entries = RawDir::new(&dir, &mut buffer);
        let mut list = Vec::new();
        while let Some(entry) = entries.next() {
            let entry = entry.at(shown(path))?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            match statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => {
                    let name = name.to_bytes();
                    let status = self.with_owner(&join(path, name), Status::of(&stat))?;
                    list.push((name.into(), status));
                }
                // It was there a moment ago.
                Err(Errno::NOENT) => {}
                Err(errno) => return Err(errno).at(shown(&join(path, name.to_bytes()))),
            }
        }
        list.sort_unstable_by(|(one, _): &(Box<[u8]>, Status), (other, _)| one.cmp(other));
        Ok(list)
    }

    /// Returns a status with the owner that something has in its image, as far as that is known here.
    fn with_owner(&self, path: &[u8], status: Status) -> Result<Status> {
        if self.tree.foreign || !matches!(status.kind, FileType::RegularFile | FileType::Directory)
        {
            return Ok(status);
        }
        let owner = recorded_owner(self.tree.root.as_fd(), path).at(shown(path))?;
        let (uid, gid) = owner.unwrap_or((status.uid, status.gid));
        Ok(Status { uid, gid, ..status })
    }

    /// Returns what in a directory is seen, as places.
    fn places(&mut self, dir: &Place) -> Result<Vec<Place>> {
        let list = self.list(&dir.path)?;
        let mut places = Vec::with_capacity(list.len());
        let inside = self.inside(dir);
        for (name, status) in list {
            let path = join(&dir.path, &name);
            let (hidden, _) = self.ignores(&path, &inside);
            let shows = || status.kind == FileType::Directory && self.may_show(&path);
            if !hidden || shows() {
                places.push(Place { path, status, hidden, above: inside.clone() });
            }
        }
        Ok(places)
    }

    /// Returns what in a directory matches a pattern, up to `depth` names deep. What is in a directory that matches is not asked for.
    pub(super) fn matching(
        &mut self,
        dir: &Place,
        glob: &Glob,
        depth: usize,
    ) -> Result<Vec<Vec<u8>>> {
        let above = if dir.path.is_empty() { 0 } else { dir.path.len() + 1 };
        let mut found = Vec::new();
        let mut todo = vec![(dir.clone(), depth)];
        while let Some((place, depth)) = todo.pop() {
            if place.path.len() > above && glob.matches(&place.path[above..]) {
                if !place.hidden || self.shows(&place)? {
                    found.push(place.path);
                }
            } else if place.status.kind == FileType::Directory && depth > 0 {
                let places = self.places(&place)?.into_iter().rev();
                todo.extend(places.map(|place| (place, depth - 1)));
            }
        }
        Ok(found)
    }

    /// Returns whether something in an ignored directory is not ignored.
    fn shows(&mut self, dir: &Place) -> Result<bool> {
        let mut todo = vec![dir.clone()];
        while let Some(dir) = todo.pop() {
            for place in self.places(&dir)? {
                match place.hidden {
                    false => return Ok(true),
                    true => todo.push(place),
                }
            }
        }
        Ok(false)
    }

    /// Returns a place and what is in it, as far as it is to be copied: a directory before what is in it, in the order of names.
    ///
    /// Nothing is returned of a directory that is ignored with all that is in it.
    pub(super) fn walk(&mut self, top: Place, filter: &Filter) -> Result<Vec<Node>> {
        let root = self.tree.root.as_fd();
        let above = if top.path.is_empty() { 0 } else { top.path.len() + 1 };
        let mut walked: Vec<Walked> = Vec::new();
        let mut nodes = Vec::new();
        let first =
            Step { place: top, parent: None, only: Walk::default(), except: Walk::default() };
        let mut todo = vec![first];
        while let Some(Step { place, parent, only, except }) = todo.pop() {
            let name = place.path.get(above..).unwrap_or_default();
            let asked = filter.ask(name, &only, &except);
            let is_dir = place.status.kind == FileType::Directory;
            if !is_dir && (place.hidden || !asked.wanted) {
                continue;
            }
            let link = match place.status.kind {
                FileType::Socket => continue, // means nothing without who listens
                FileType::Symlink => match look(root, &place.path).at(shown(&place.path))? {
                    Some((fd, now)) if now.kind == FileType::Symlink => {
                        let link = readlinkat(fd, c"", Vec::new()).at(shown(&place.path))?;
                        Some(link.into_bytes().into_boxed_slice())
                    }
                    _ => return Err(changed()).at(shown(&place.path)),
                },
                _ => None,
            };
            let number = nodes.len();
            let (path, status) = (name.into(), place.status);
            nodes.push(Node { path, status, link, implied: !asked.wanted });
            walked.push(Walked { parent, exists: !place.hidden, wanted: asked.wanted });
            if is_dir && asked.deeper {
                let children = self.places(&place)?.into_iter().rev();
                todo.extend(children.map(|place| Step {
                    place,
                    parent: Some(number),
                    only: asked.only.clone(),
                    except: asked.except.clone(),
                }));
            }
        }
        // What is below has been seen before what it is in.
        for number in (0..walked.len()).rev() {
            let Walked { parent, exists, wanted } = walked[number];
            if let (Some(parent), true) = (parent, exists) {
                walked[parent].exists = true;
                walked[parent].wanted |= wanted;
            }
        }
        let mut walked = walked.iter();
        nodes.retain(|_| walked.next().is_some_and(|walked| walked.exists && walked.wanted));
        Ok(nodes)
    }
}

/// Says that a tree does not keep still.
pub(super) fn changed() -> anyhow::Error {
    anyhow::Error::msg("changed while it was copied")
}

/// A place that is to be walked.
struct Step {
    place: Place,
    parent: Option<usize>,
    only: Walk,
    except: Walk,
}

/// What is known of a node.
#[derive(Clone, Copy)]
struct Walked {
    parent: Option<usize>,
    /// It is not ignored, or something in it is not.
    exists: bool,
    /// It is asked for, or something in it is.
    wanted: bool,
}

/// What a filter says.
struct Asked {
    wanted: bool,
    /// Something in it may be wanted.
    deeper: bool,
    only: Walk,
    except: Walk,
}

impl Filter {
    fn ask(&self, path: &[u8], only: &Walk, except: &Walk) -> Asked {
        let all = Asked { wanted: true, deeper: true, only: only.clone(), except: except.clone() };
        if path.is_empty() || (self.only.is_none() && self.except.is_none()) {
            return all; // the source itself
        }
        let path = String::from_utf8_lossy(path);
        let mut asked = all;
        if let Some(patterns) = &self.only {
            let (matches, walk) = patterns.excludes(&path, only);
            (asked.wanted, asked.only) = (matches, walk);
            asked.deeper = matches || patterns.reaches(&path, false);
        }
        if let Some(patterns) = &self.except {
            let (matches, walk) = patterns.excludes(&path, except);
            asked.except = walk;
            asked.wanted &= !matches;
            asked.deeper &= !matches || patterns.reaches(&path, true);
        }
        asked
    }
}

/// Reads the permissions and so on of an open file.
pub(super) fn status(fd: impl AsFd) -> Result<Status> {
    fstat(fd).map(|stat| Status::of(&stat)).context("cannot look at it")
}
