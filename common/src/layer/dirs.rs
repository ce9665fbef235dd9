//! The directories of a tree, each opened beneath its root and kept open for a while.
//!
//! A path from a tar is resolved as it would be after chroot(2): `..` stops at
//! the root, and links lead where they would lead in there. Links are followed
//! here, as text; the kernel is then given a path without any and told to
//! follow none (openat2(2), RESOLVE_BENEATH and RESOLVE_NO_SYMLINKS), so a
//! link that appears in between is an error and no way out.
//!
//! A directory that is not open has its final mode and times; one that is gets
//! them when it leaves. So the times of a directory survive what is put into it
//! later, by this layer or the next, and nothing has to be remembered for long.

use std::cell::Cell;
use std::collections::HashMap;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use anyhow::{Context, Result, bail, ensure};
use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, RawDir, ResolveFlags, Stat, Timespec, Timestamps, chmod,
    fchmod, fgetxattr_query, fstat, futimens, mkdirat, openat, openat2, readlinkat, unlinkat,
};
use rustix::io::Errno;

use super::header::lossy;
use super::whiteout::Made;
use crate::error::At;
use crate::tree::join;

/// How many directories are open at once.
const OPEN: usize = 64;

/// How many ways through links are remembered.
const LINKS: usize = 512;

/// Where Linux ends a path.
pub const PATH_MAX: usize = 4096;

/// How many links one path may lead through, as in the kernel.
const HOPS: usize = 40;

/// How many components a path may have, those of the links included.
const STEPS: usize = 4096;

/// RESOLVE_NO_SYMLINKS does not say ELOOP of the last component if O_NOFOLLOW is there as well.
const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);
const BENEATH: ResolveFlags = ResolveFlags::BENEATH
    .union(ResolveFlags::NO_SYMLINKS)
    .union(ResolveFlags::NO_MAGICLINKS)
    .union(ResolveFlags::NO_XDEV);

/// An open directory.
pub(super) struct Dir {
    pub(super) fd: OwnedFd,
    /// Where it is beneath the root, without links; empty for the root.
    pub(super) path: Vec<u8>,
    /// The group, and whether new members get it.
    pub(super) setgid: Cell<bool>,
    /// New members get an access control list from it.
    pub(super) default_acl: Cell<bool>,
    /// This layer made it, or something above it.
    pub(super) fresh: bool,
    /// This layer made something in it.
    pub(super) touched: Cell<bool>,
    /// What the times and the mode are to be when it leaves, if they are not so already.
    times: Cell<(Timespec, Timespec)>,
    changed: Cell<bool>,
    mode: Cell<Option<u32>>,
}

impl Dir {
    /// Says that the directory is about to change, so that its times will have to be set again.
    pub(super) fn change(&self) {
        self.changed.set(true);
    }

    /// Gives the directory these times in the end.
    pub(super) fn set_times(&self, time: Timespec) {
        self.times.set((time, time));
        self.changed.set(true);
    }

    /// Gives the directory this mode, now or, where we would lock ourselves out, in the end.
    pub(super) fn set_mode(&self, mode: u32, privileged: bool) -> Result<()> {
        self.setgid.set(mode & 0o2000 != 0);
        let usable = privileged || mode & 0o700 == 0o700;
        self.mode.set((!usable).then_some(mode));
        fchmod(&self.fd, Mode::from_raw_mode(mode | if usable { 0 } else { 0o700 }))
            .context("cannot set its mode")
    }

    /// Returns the path of a member.
    pub(super) fn member(&self, name: &[u8]) -> Vec<u8> {
        join(&self.path, name)
    }

    fn leave(&self) -> Result<()> {
        if let Some(mode) = self.mode.take() {
            fchmod(&self.fd, Mode::from_raw_mode(mode)).at(shown(&self.path))?;
        }
        if self.changed.take() {
            let (last_access, last_modification) = self.times.get();
            futimens(&self.fd, &Timestamps { last_access, last_modification })
                .at(shown(&self.path))?;
        }
        Ok(())
    }
}

/// What to do where a directory is missing.
#[derive(Clone, Copy)]
pub(super) enum Missing<'a> {
    /// Give up.
    Absent,
    /// Make it, and let this give it its owner, mode and times.
    Make(&'a dyn Fn(&Dir) -> Result<()>),
}

struct Slot {
    dir: Rc<Dir>,
    used: u64,
}

/// The directories of a tree.
pub(super) struct Dirs {
    root: Rc<Dir>,
    /// Whether modes do not keep us out of directories.
    privileged: bool,
    /// By their path without links.
    open: HashMap<Vec<u8>, Slot>,
    clock: u64,
    /// Paths that lead through links, and the directories that they lead to.
    links: HashMap<Vec<u8>, Vec<u8>>,
    /// What this layer has made.
    pub(super) made: Made,
}

impl Dirs {
    pub(super) fn new(root: OwnedFd, privileged: bool, made: Made) -> Result<Self> {
        let root = Rc::new(adopt(root, Vec::new(), privileged, None, made.all)?);
        let (open, links) = (HashMap::new(), HashMap::new());
        Ok(Dirs { root, privileged, open, clock: 0, links, made })
    }

    pub(super) fn root(&self) -> &Rc<Dir> {
        &self.root
    }

    /// Opens the directory that `path` leads to. Its components are neither empty nor `.` nor `..`.
    pub(super) fn find(&mut self, path: &[u8], missing: Missing) -> Result<Option<Rc<Dir>>> {
        if let Some(dir) = self.kept(path) {
            return Ok(Some(dir));
        }
        let target = match self.links.get(path) {
            Some(target) => target.clone(),
            None => match self.open(path) {
                Ok(fd) => return self.keep(fd, path, None).map(Some),
                // For a link at the end of the path it is ENOTDIR, since a directory is wanted.
                Err(Errno::LOOP | Errno::NOTDIR) => {
                    let target = self.follow(path)?;
                    let found = self.walk(&target, missing)?;
                    if self.links.len() >= LINKS {
                        self.links.clear();
                    }
                    // Where there is nothing yet, another link may come to be.
                    if found.is_some() {
                        self.links.insert(path.into(), target);
                    }
                    return Ok(found);
                }
                // No link led there, or it would be LOOP.
                Err(Errno::NOENT) if matches!(missing, Missing::Absent) => {
                    return Ok(None);
                }
                Err(_) => path.into(),
            },
        };
        self.walk(&target, missing)
    }

    fn kept(&mut self, path: &[u8]) -> Option<Rc<Dir>> {
        if path.is_empty() {
            return Some(self.root.clone());
        }
        let slot = self.open.get_mut(path)?;
        self.clock += 1;
        slot.used = self.clock;
        Some(slot.dir.clone())
    }

    fn open(&self, path: &[u8]) -> Result<OwnedFd, Errno> {
        openat2(&self.root.fd, path, DIRECTORY, Mode::empty(), BENEATH)
    }

    /// Opens a directory by a path without links, component by component.
    fn walk(&mut self, path: &[u8], missing: Missing) -> Result<Option<Rc<Dir>>> {
        if let Some(dir) = self.kept(path) {
            return Ok(Some(dir));
        }
        if let Ok(fd) = self.open(path) {
            return self.keep(fd, path, None).map(Some);
        }
        let ends = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(i, _)| i);
        let ends: Vec<usize> = ends.chain([path.len()]).collect();
        // How many components are there already, by bisection: going through all of a deep path,
        // for each of many entries, would take hours.
        let (mut there, mut missing_from) = (0, ends.len());
        let mut dir = self.root.clone();
        while missing_from - there > 1 {
            let middle = there.midpoint(missing_from);
            let path = &path[..ends[middle - 1]];
            dir = match self.kept(path) {
                Some(next) => next,
                None => match self.open(path) {
                    Ok(fd) => self.keep(fd, path, None)?,
                    Err(_) => {
                        missing_from = middle;
                        continue;
                    }
                },
            };
            there = middle;
        }
        for end in &ends[there..] {
            let path = &path[..*end];
            if let Some(next) = self.kept(path) {
                dir = next;
                continue;
            }
            let name = &path[path.iter().rposition(|byte| *byte == b'/').map_or(0, |i| i + 1)..];
            dir = match self.enter(&dir.fd, name) {
                Ok((fd, mode)) => self.keep(fd, path, mode)?,
                Err(Errno::NOENT) => match missing {
                    Missing::Absent => return Ok(None),
                    Missing::Make(dress) => {
                        dir.change();
                        mkdirat(&dir.fd, name, Mode::from_raw_mode(0o700)).at(shown(path))?;
                        self.made.directory(&dir, path);
                        let (fd, _) = self.enter(&dir.fd, name).at(shown(path))?;
                        let dir = self.keep(fd, path, None)?;
                        dress(&dir).at(shown(path))?;
                        dir
                    }
                },
                Err(Errno::NOTDIR | Errno::LOOP) if matches!(missing, Missing::Absent) => {
                    return Ok(None);
                }
                Err(err) => return Err(err).at(shown(path)),
            };
        }
        Ok(Some(dir))
    }

    /// Opens a member of a directory, which is one too. If its mode had to be changed for that, returns that as well.
    fn enter(&self, dir: &OwnedFd, name: &[u8]) -> Result<(OwnedFd, Option<u32>), Errno> {
        match openat2(dir, name, DIRECTORY, Mode::empty(), BENEATH) {
            Err(Errno::ACCESS) if !self.privileged => {
                let mode = unlock(dir.as_fd(), name)?;
                Ok((openat2(dir, name, DIRECTORY, Mode::empty(), BENEATH)?, Some(mode)))
            }
            result => Ok((result?, None)),
        }
    }

    /// Keeps a directory open, and closes the one that was not used for the longest time.
    fn keep(&mut self, fd: OwnedFd, path: &[u8], mode: Option<u32>) -> Result<Rc<Dir>> {
        if self.open.len() >= OPEN {
            let oldest = self.open.iter().min_by_key(|(_, slot)| slot.used);
            if let Some(path) = oldest.map(|(path, _)| path.clone())
                && let Some(slot) = self.open.remove(&path)
            {
                slot.dir.leave()?;
            }
        }
        let fresh = self.made.within(path);
        let dir = Rc::new(adopt(fd, path.into(), self.privileged, mode, fresh)?);
        self.clock += 1;
        self.open.insert(path.into(), Slot { dir: dir.clone(), used: self.clock });
        Ok(dir)
    }

    /// Returns where `path` leads to, all links followed. What does not exist is taken by name.
    fn follow(&mut self, path: &[u8]) -> Result<Vec<u8>> {
        let mut done = Vec::new();
        // The directory that `done` is, if there is one. It is entered name by name: to go through
        // all of a deep path for each of its names, for each of many entries, would take hours.
        let mut at = Some(self.root.clone());
        let mut todo: Vec<Vec<u8>> = reversed(path);
        let (mut hops, mut steps) = (0, 0);
        while let Some(name) = todo.pop() {
            steps += 1;
            ensure!(steps <= STEPS, "{}: leads too far", lossy(path));
            match &name[..] {
                b"" | b"." => continue,
                b".." => {
                    done.truncate(done.iter().rposition(|byte| *byte == b'/').unwrap_or(0));
                    at = self.walk(&done, Missing::Absent)?;
                    continue;
                }
                _ => {}
            }
            let link = at.as_ref().and_then(|dir| readlinkat(&dir.fd, &name[..], Vec::new()).ok());
            let Some(link) = link else {
                if !done.is_empty() {
                    done.push(b'/');
                }
                done.extend_from_slice(&name);
                ensure!(done.len() < PATH_MAX, "{}: leads too deep", lossy(path));
                if let Some(dir) = at {
                    at = self.step(&dir, &name, &done)?;
                }
                continue;
            };
            hops += 1;
            ensure!(hops <= HOPS, "{}: too many levels of symbolic links", lossy(path));
            let link = link.to_bytes();
            if link.starts_with(b"/") {
                done.clear();
                at = Some(self.root.clone());
            }
            todo.extend(reversed(link));
        }
        Ok(done)
    }

    /// Opens what `dir` has under `name`, which is at `path`; nothing, if it is no directory.
    fn step(&mut self, dir: &Dir, name: &[u8], path: &[u8]) -> Result<Option<Rc<Dir>>> {
        if let Some(next) = self.kept(path) {
            return Ok(Some(next));
        }
        match self.enter(&dir.fd, name) {
            Ok((fd, mode)) => self.keep(fd, path, mode).map(Some),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
            Err(err) => Err(err).at(shown(path)),
        }
    }

    /// Removes what `parent` has under `name`, with all that is in it; false if there is nothing.
    pub(super) fn remove(&mut self, parent: &Dir, name: &[u8]) -> Result<bool> {
        self.links.clear(); // some may have led through it
        parent.change();
        match unlinkat(&parent.fd, name, AtFlags::empty()) {
            Ok(()) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(Errno::ISDIR) => {
                self.forget(&parent.member(name));
                empty(parent.fd.as_fd(), name, self.privileged)?;
                unlinkat(&parent.fd, name, AtFlags::REMOVEDIR)?;
                Ok(true)
            }
            Err(err) => Err(err.into()),
        }
    }

    /// Forgets a directory that is going to be removed, and those in it.
    fn forget(&mut self, path: &[u8]) {
        self.open.retain(|other, _| {
            let below = other.strip_prefix(path);
            !below.is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
        });
    }

    /// Lets every directory leave.
    pub(super) fn finish(self) -> Result<()> {
        for slot in self.open.values() {
            slot.dir.leave()?;
        }
        self.root.leave()
    }
}

/// Reads what a directory is like when it is opened. Its mode is `mode`, if it was changed to open it.
fn adopt(
    fd: OwnedFd,
    path: Vec<u8>,
    privileged: bool,
    mode: Option<u32>,
    fresh: bool,
) -> Result<Dir> {
    let stat = fstat(&fd).at(shown(&path))?;
    let mode = mode.unwrap_or(stat.st_mode & 0o7777);
    let default_acl = fgetxattr_query(&fd, "system.posix_acl_default").is_ok_and(|len| len > 0);
    let dir = Dir {
        fd,
        path,
        setgid: Cell::new(mode & 0o2000 != 0),
        default_acl: Cell::new(default_acl),
        fresh,
        touched: Cell::new(false),
        times: Cell::new(times(&stat)),
        changed: Cell::new(false),
        mode: Cell::new(None),
    };
    if !privileged && mode & 0o700 != 0o700 {
        dir.set_mode(mode, privileged).at(shown(&dir.path))?;
    }
    Ok(dir)
}

/// Returns the access and the modification time.
pub(super) fn times(stat: &Stat) -> (Timespec, Timespec) {
    let atime = Timespec { tv_sec: stat.st_atime as _, tv_nsec: stat.st_atime_nsec as _ };
    let mtime = Timespec { tv_sec: stat.st_mtime as _, tv_nsec: stat.st_mtime_nsec as _ };
    (atime, mtime)
}

/// Removes all that is in a directory.
///
/// One directory is open at a time, however deep it goes. The way back up is
/// `..`, and must lead to where we came from.
fn empty(parent: BorrowedFd, name: &[u8], privileged: bool) -> Result<()> {
    let enter = |dir: BorrowedFd, name: &[u8]| -> Result<OwnedFd> {
        if !privileged {
            unlock(dir, name)?;
        }
        Ok(openat(dir, name, DIRECTORY | OFlags::NOFOLLOW, Mode::empty())?)
    };
    let mut above: Vec<(u64, u64, Vec<u8>)> = Vec::new();
    let mut dir = enter(parent, name)?;
    loop {
        if let Some(name) = sweep(&dir)? {
            let stat = fstat(&dir)?;
            let next = enter(dir.as_fd(), &name)?;
            above.push((stat.st_dev, stat.st_ino, name));
            dir = next;
            continue;
        }
        let Some((dev, ino, name)) = above.pop() else { return Ok(()) };
        let up = openat(&dir, "..", DIRECTORY, Mode::empty())?;
        let stat = fstat(&up)?;
        ensure!((stat.st_dev, stat.st_ino) == (dev, ino), "moved while it was removed");
        unlinkat(&up, &name[..], AtFlags::REMOVEDIR)?;
        dir = up;
    }
}

/// Removes the files and the empty directories of a directory, up to the first that is not empty.
fn sweep(dir: &OwnedFd) -> Result<Option<Vec<u8>>> {
    let again = openat(dir, ".", DIRECTORY, Mode::empty())?; // with a position of its own
    let mut buffer = [MaybeUninit::uninit(); 8 << 10];
    let mut entries = RawDir::new(&again, &mut buffer);
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        if entry.file_type() != FileType::Directory {
            match unlinkat(dir, name, AtFlags::empty()) {
                Err(Errno::ISDIR) => {} // some filesystems do not tell the type
                result => {
                    result?;
                    continue;
                }
            }
        }
        match unlinkat(dir, name, AtFlags::REMOVEDIR) {
            Ok(()) => {}
            Err(Errno::NOTEMPTY | Errno::EXIST | Errno::ACCESS) => {
                return Ok(Some(name.to_bytes().into()));
            }
            Err(err) => bail!(err),
        }
    }
    Ok(None)
}

/// Gives us, who own it, all rights to a directory, and returns the mode that it had.
fn unlock(dir: BorrowedFd, name: &[u8]) -> Result<u32, Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let fd = openat2(dir, name, flags, Mode::empty(), BENEATH)?;
    let mode = fstat(&fd)?.st_mode & 0o7777;
    if mode & 0o700 != 0o700 {
        chmod(by_fd(&fd), Mode::from_raw_mode(mode | 0o700))?;
    }
    Ok(mode)
}

/// Returns a path to what `fd` refers to, for calls that do not take such a descriptor.
pub(super) fn by_fd(fd: &OwnedFd) -> PathBuf {
    format!("/proc/self/fd/{}", fd.as_raw_fd()).into()
}

fn reversed(path: &[u8]) -> Vec<Vec<u8>> {
    path.split(|byte| *byte == b'/').rev().map(Into::into).collect()
}

/// Shows a path beneath the root.
pub(super) fn shown(path: &[u8]) -> &Path {
    use std::os::unix::ffi::OsStrExt;
    Path::new(std::ffi::OsStr::from_bytes(if path.is_empty() { b"." } else { path }))
}
