//! The result's files, in a directory: `type=local`.
//!
//! As Docker's client does it: what is in the directory stays, unless the result
//! has something of the same name; files are ours, with the modes and the times
//! that they have in the image. Each file is replaced whole. Links in the
//! directory are replaced, and never followed.

use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use common::error::At;
use common::files::Files;
use common::tree;
use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, Stat, Timespec, Timestamps, XattrFlags, chmodat, fchmod,
    fsetxattr, fstat, futimens, linkat, mkdirat, mknodat, openat, readlinkat, renameat, statat,
    symlinkat, unlinkat, utimensat,
};
use rustix::io::Errno;

use super::walk::{DIRECTORY, Found, Visit, same, shown, walk, xattrs};

/// Puts the tree's files into a directory, which is made if it is not there; returns what is not as in the tree.
///
/// `below` has the same files, each where it is on the disk: there its blocks can be shared.
pub fn write(tree: BorrowedFd, below: &Files, dest: &Path) -> Result<Vec<String>> {
    tree::make_dirs(dest)?;
    let flags = DIRECTORY.difference(OFlags::NOFOLLOW);
    let root = openat(CWD, dest, flags, Mode::empty()).at(dest)?;
    let here = root.try_clone()?;
    let above = Vec::new();
    let new = CString::new(format!(".img-build-{}", std::process::id()))?;
    let links = HashMap::new();
    let (sockets, attributes, shares) = (0, Vec::new(), true);
    let mut local = Local { root, below, here, above, new, links, sockets, attributes, shares };
    let walked = walk(tree, &mut local);
    // What was begun when it failed.
    let _ = unlinkat(&local.here, &*local.new, AtFlags::empty());
    walked.at(dest)?;
    // All at once: to wait for each file takes much longer.
    rustix::fs::syncfs(&local.root).at(dest)?;
    let mut warnings = Vec::new();
    if local.sockets > 0 {
        warnings.push(format!("{}: {} sockets are left out", dest.display(), local.sockets));
    }
    for (name, first, count) in local.attributes {
        let more = if count > 1 { format!(" (and {} more)", count - 1) } else { String::new() };
        let place = dest.join(first);
        warnings.push(format!("{}: it lacks its attribute {name}{more}", place.display()));
    }
    Ok(warnings)
}

struct Local<'a> {
    root: OwnedFd,
    below: &'a Files,
    /// The directory that is being filled.
    here: OwnedFd,
    /// Those that it is in.
    above: Vec<Stat>,
    /// What a new file is called until it has its name.
    new: CString,
    /// The first names of files with several.
    links: HashMap<(u64, u64), PathBuf>,
    sockets: u64,
    /// Attributes that could not be set: the first file, and how many.
    attributes: Vec<(String, String, u64)>,
    /// Whether blocks can be shared, as far as we know.
    shares: bool,
}

impl Visit for Local<'_> {
    fn found(&mut self, found: &Found) -> Result<()> {
        match found.kind {
            FileType::Directory => self.directory(found),
            FileType::Socket => {
                self.sockets += 1;
                Ok(())
            }
            _ => self.file(found),
        }
    }

    fn left(&mut self, path: &[u8], stat: &Stat) -> Result<()> {
        fchmod(&self.here, mode(stat)).context("cannot set its mode")?;
        futimens(&self.here, &times(stat))?;
        let above = openat(&self.here, c"..", DIRECTORY, Mode::empty())?;
        let expected = self.above.pop().context("no directory above")?;
        ensure!(same(&fstat(&above)?, &expected), "{}: it was moved", shown(path));
        self.here = above;
        Ok(())
    }
}

impl Local<'_> {
    fn directory(&mut self, found: &Found) -> Result<()> {
        let mode = Mode::RWXU;
        match mkdirat(&self.here, found.name, mode) {
            Err(Errno::EXIST) => {
                let stat = statat(&self.here, found.name, AtFlags::SYMLINK_NOFOLLOW)?;
                if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
                    unlinkat(&self.here, found.name, AtFlags::empty())
                        .context("cannot replace it")?;
                    mkdirat(&self.here, found.name, mode).context("cannot create")?;
                }
            }
            made => made.context("cannot create")?,
        }
        let inner = match openat(&self.here, found.name, DIRECTORY, Mode::empty()) {
            // One that was there, and that we have closed to ourselves.
            Err(Errno::ACCESS) => {
                chmodat(&self.here, found.name, mode, AtFlags::empty())?;
                openat(&self.here, found.name, DIRECTORY, Mode::empty())
            }
            opened => opened,
        };
        let inner = inner.context("cannot open")?;
        // Until all is in it.
        fchmod(&inner, mode).context("cannot set its mode")?;
        self.attributes(found, inner.as_fd())?;
        self.above.push(fstat(&self.here)?);
        self.here = inner;
        Ok(())
    }

    /// Makes anything but a directory, under another name at first.
    fn file(&mut self, found: &Found) -> Result<()> {
        let stat = &found.stat;
        let several = stat.st_nlink > 1;
        let _ = unlinkat(&self.here, &*self.new, AtFlags::empty());
        let linked = match self.links.get(&(stat.st_dev, stat.st_ino)) {
            Some(first) if several => {
                linkat(&self.root, first, &self.here, &*self.new, AtFlags::empty())
                    .with_context(|| format!("cannot link it to {}", first.display()))?;
                true
            }
            _ => false,
        };
        if !linked {
            self.make(found)?;
        }
        match renameat(&self.here, &*self.new, &self.here, found.name) {
            Err(Errno::ISDIR) => {
                self.clear(found.name)?;
                renameat(&self.here, &*self.new, &self.here, found.name)
            }
            renamed => renamed,
        }
        .context("cannot create")?;
        // Of two names of one file, rename(2) leaves both.
        let _ = if linked { unlinkat(&self.here, &*self.new, AtFlags::empty()) } else { Ok(()) };
        if several && !linked {
            use std::os::unix::ffi::OsStrExt;
            let path = std::ffi::OsStr::from_bytes(found.path).into();
            self.links.insert((stat.st_dev, stat.st_ino), path);
        }
        Ok(())
    }

    fn make(&mut self, found: &Found) -> Result<()> {
        let (new, stat) = (self.new.clone(), &found.stat);
        match found.kind {
            FileType::RegularFile => return self.content(found),
            FileType::Symlink => {
                let target = readlinkat(found.dir, found.name, Vec::new())?;
                symlinkat(&target, &self.here, &*new).context("cannot create")?;
            }
            FileType::Fifo | FileType::CharacterDevice | FileType::BlockDevice => {
                match mknodat(&self.here, &*new, found.kind, mode(stat), stat.st_rdev) {
                    Err(Errno::PERM) => bail!("a device, which only root can make"),
                    made => made.context("cannot create")?,
                }
                chmodat(&self.here, &*new, mode(stat), AtFlags::empty())?;
            }
            _ => bail!("a file of no known type"),
        }
        Ok(utimensat(&self.here, &*new, &times(stat), AtFlags::SYMLINK_NOFOLLOW)?)
    }

    fn content(&mut self, found: &Found) -> Result<()> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let from = File::from(openat(found.dir, found.name, flags, Mode::empty())?);
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let to = openat(&self.here, &*self.new, flags, Mode::RUSR | Mode::WUSR);
        let to = File::from(to.context("cannot create")?);
        if !self.share(found, &to) {
            tree::copy_data(&from, &to, found.stat.st_size as u64).context("cannot write")?;
        }
        self.attributes(found, to.as_fd())?;
        fchmod(&to, mode(&found.stat)).context("cannot set its mode")?;
        Ok(futimens(&to, &times(&found.stat))?)
    }

    /// Lets a new file have the blocks of the one that was found; returns whether it has them.
    fn share(&mut self, found: &Found, to: &File) -> bool {
        // The kernel shares none across an overlay.
        let share = |below: File| rustix::fs::ioctl_ficlone(to, &below).is_ok();
        self.shares = self.shares && self.below.open(found.path).is_ok_and(share);
        self.shares
    }

    /// Removes a directory that is in the way.
    fn clear(&self, name: &CStr) -> Result<()> {
        let dir =
            openat(&self.here, name, DIRECTORY, Mode::empty()).context("cannot replace it")?;
        let path = format!("/proc/self/fd/{}/.", dir.as_raw_fd());
        tree::empty(Path::new(&path)).context("cannot replace it")?;
        unlinkat(&self.here, name, AtFlags::REMOVEDIR).context("cannot replace it")
    }

    fn attributes(&mut self, found: &Found, to: BorrowedFd) -> Result<()> {
        for (name, value) in xattrs(found)? {
            match fsetxattr(to, &name[..], &value, XattrFlags::empty()) {
                Ok(()) => {}
                Err(Errno::NOTSUP | Errno::PERM | Errno::ACCESS) => {
                    let name = shown(&name);
                    match self.attributes.iter_mut().find(|(known, ..)| *known == name) {
                        Some((.., count)) => *count += 1,
                        None => self.attributes.push((name, shown(found.path), 1)),
                    }
                }
                Err(err) => {
                    let what = || format!("cannot set its attribute {}", shown(&name));
                    return Err(err).with_context(what);
                }
            }
        }
        Ok(())
    }
}

fn mode(stat: &Stat) -> Mode {
    Mode::from_raw_mode(stat.st_mode & 0o7777)
}

fn times(stat: &Stat) -> Timestamps {
    let time = Timespec { tv_sec: stat.st_mtime, tv_nsec: stat.st_mtime_nsec as _ };
    Timestamps { last_access: time, last_modification: time }
}
