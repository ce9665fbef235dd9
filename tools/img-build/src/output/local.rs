//! The result's files, in a directory: `type=local`.
//!
//! As Docker's client does it: what is in the directory stays, unless the result
//! has something of the same name; files are ours, with the modes and the times
//! that they have in the image. Each file is replaced whole. Links in the
//! directory are replaced, and never followed. When it fails or is interrupted,
//! directories that were there have the modes that they had.

use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result, bail, ensure};
use common::cli;
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
    let here = Arc::new(root.try_clone()?);
    let above = Vec::new();
    let new = CString::new(format!(".img-build-{}", std::process::id()))?;
    let begun = Begun::default();
    let ours = begun.clone();
    let name = new.clone();
    cli::on_interrupt(move || {
        let mut begun = ours.lock();
        begun.undo(&name);
        // Nothing more is begun until the signal has ended us.
        std::mem::forget(begun);
    })?;
    let links = HashMap::new();
    let (sockets, attributes, shares) = (0, Vec::new(), true);
    let mut local =
        Local { root, below, here, above, new, begun, links, sockets, attributes, shares };
    let walked = walk(tree, &mut local);
    local.begun.lock().undo(&local.new);
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

/// What was begun, and must be undone if it is not finished. A signal waits for whoever holds it.
#[derive(Clone, Default)]
struct Begun(Arc<Mutex<Undo>>);

#[derive(Default)]
struct Undo {
    /// The directory in which there may be a file that has not got its name yet.
    here: Option<Arc<OwnedFd>>,
    /// Directories that were there and closed to us, and their modes.
    opened: Vec<(OwnedFd, Mode)>,
}

impl Begun {
    fn lock(&self) -> MutexGuard<'_, Undo> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Undo {
    /// Removes the file that is called `new`, and closes what was closed.
    fn undo(&mut self, new: &CStr) {
        if let Some(here) = self.here.take() {
            let _ = unlinkat(here, new, AtFlags::empty());
        }
        for (dir, mode) in self.opened.drain(..) {
            let _ = fchmod(dir, mode);
        }
    }
}

/// A directory on the way.
struct Above {
    stat: Stat,
    /// What is in it, and is being filled, was closed to us.
    opened: bool,
}

struct Local<'a> {
    root: OwnedFd,
    below: &'a Files,
    /// The directory that is being filled.
    here: Arc<OwnedFd>,
    /// Those that it is in.
    above: Vec<Above>,
    /// What a new file is called until it has its name.
    new: CString,
    begun: Begun,
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
        let Above { stat: expected, opened } = self.above.pop().context("no directory above")?;
        let mut begun = self.begun.lock();
        fchmod(&self.here, mode(stat)).context("cannot set its mode")?;
        if opened {
            begun.opened.pop();
        }
        drop(begun);
        futimens(&self.here, &times(stat))?;
        let above = openat(&self.here, c"..", DIRECTORY, Mode::empty())?;
        ensure!(same(&fstat(&above)?, &expected), "{}: it was moved", shown(path));
        self.here = Arc::new(above);
        Ok(())
    }
}

impl Local<'_> {
    fn directory(&mut self, found: &Found) -> Result<()> {
        // Until all is in it, nobody else looks into one that is new.
        let new = Mode::RWXU;
        let mut was = None;
        match mkdirat(&self.here, found.name, new) {
            Err(Errno::EXIST) => {
                let stat = statat(&self.here, found.name, AtFlags::SYMLINK_NOFOLLOW)?;
                if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                    was = Some(mode(&stat));
                } else {
                    unlinkat(&self.here, found.name, AtFlags::empty())
                        .context("cannot replace it")?;
                    mkdirat(&self.here, found.name, new).context("cannot create")?;
                }
            }
            made => made.context("cannot create")?,
        }
        let open = || openat(&self.here, found.name, DIRECTORY, Mode::empty());
        let closed = was.filter(|was| !was.contains(Mode::RWXU));
        let inner = match closed {
            None => open().context("cannot open")?,
            Some(was) => {
                let set = |mode| chmodat(&self.here, found.name, mode, AtFlags::empty());
                let mut begun = self.begun.lock();
                set(was | Mode::RWXU).context("cannot set its mode")?;
                let inner =
                    open().context("cannot open").and_then(|dir| Ok((dir.try_clone()?, dir)));
                let (again, inner) = inner.inspect_err(|_| {
                    let _ = set(was);
                })?;
                begun.opened.push((again, was));
                inner
            }
        };
        self.attributes(found, inner.as_fd())?;
        self.above.push(Above { stat: fstat(&self.here)?, opened: closed.is_some() });
        self.here = Arc::new(inner);
        Ok(())
    }

    /// Makes anything but a directory, under another name at first.
    fn file(&mut self, found: &Found) -> Result<()> {
        let stat = &found.stat;
        let several = stat.st_nlink > 1;
        let ours = self.begun.clone();
        let mut begun = ours.lock();
        begun.here = Some(Arc::clone(&self.here));
        let _ = unlinkat(&self.here, &*self.new, AtFlags::empty());
        let linked = match self.links.get(&(stat.st_dev, stat.st_ino)) {
            Some(first) if several => {
                linkat(&self.root, first, &self.here, &*self.new, AtFlags::empty())
                    .with_context(|| format!("cannot link it to {}", first.display()))?;
                true
            }
            _ => false,
        };
        if found.kind != FileType::RegularFile && !linked {
            self.make(found)?;
        } else if !linked {
            let to = self.create()?;
            // A signal need not wait for its content.
            drop(begun);
            self.content(found, to)?;
            begun = ours.lock();
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
        begun.here = None;
        if several && !linked {
            use std::os::unix::ffi::OsStrExt;
            let path = std::ffi::OsStr::from_bytes(found.path).into();
            self.links.insert((stat.st_dev, stat.st_ino), path);
        }
        Ok(())
    }

    /// Makes what has no content.
    fn make(&self, found: &Found) -> Result<()> {
        let (new, stat) = (&self.new, &found.stat);
        match found.kind {
            FileType::Symlink => {
                let target = readlinkat(found.dir, found.name, Vec::new())?;
                symlinkat(&target, &self.here, &**new).context("cannot create")?;
            }
            FileType::Fifo | FileType::CharacterDevice | FileType::BlockDevice => {
                match mknodat(&self.here, &**new, found.kind, mode(stat), stat.st_rdev) {
                    Err(Errno::PERM) => bail!("a device, which only root can make"),
                    made => made.context("cannot create")?,
                }
                chmodat(&self.here, &**new, mode(stat), AtFlags::empty())?;
            }
            _ => bail!("a file of no known type"),
        }
        Ok(utimensat(&self.here, &**new, &times(stat), AtFlags::SYMLINK_NOFOLLOW)?)
    }

    fn create(&self) -> Result<File> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let to = openat(&self.here, &*self.new, flags, Mode::RUSR | Mode::WUSR);
        Ok(File::from(to.context("cannot create")?))
    }

    fn content(&mut self, found: &Found, to: File) -> Result<()> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let from = File::from(openat(found.dir, found.name, flags, Mode::empty())?);
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
