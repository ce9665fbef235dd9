//! Trees of files: copied with all that a file system keeps of them, and removed.
//!
//! A copy has the types, modes, owners, times, extended attributes, hard links
//! and holes of its source; where both sides can share blocks (FICLONE), nothing is read.
//! Names are looked up one at a time below open directories and never followed.

use std::collections::{HashMap, HashSet};
use std::ffi::{CStr, CString, OsStr};
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use rustix::buffer::spare_capacity;
use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Gid, Mode, OFlags, ResolveFlags, SeekFrom, Stat, Timespec,
    Timestamps, Uid, XattrFlags,
};
use rustix::io::Errno;
use rustix::path::Arg;

use crate::error::At;

/// The most bytes of an extended attribute, and of the list of their names: xattr(7).
const XATTR_MOST: usize = 64 << 10;

/// How many links are followed, as the kernel has it.
const LINKS: usize = 40;

/// Whom a file belongs to.
type Owner = (Uid, Gid);

const ROOT: Owner = (Uid::ROOT, Gid::ROOT);

const OPEN_DIR: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Copies what is in the directory `from`, and what is known of the directory itself, to the empty directory `to`.
///
/// What somebody changes in `from` meanwhile is copied as it was, as it is, or an error.
pub fn copy(from: &Path, to: &Path) -> Result<()> {
    copy_all(from, to, None, &[])
}

/// Copies as [`copy`] does, but what is copied is root's, whose ever it was, and these paths below `from` are left out.
pub fn copy_as_root(from: &Path, to: &Path, without: &[PathBuf]) -> Result<()> {
    copy_all(from, to, Some(ROOT), without)
}

fn copy_all(from: &Path, to: &Path, owner: Option<Owner>, without: &[PathBuf]) -> Result<()> {
    let open = |path: &Path| -> Result<OwnedFd> {
        let flags = OPEN_DIR.difference(OFlags::NOFOLLOW);
        rustix::fs::openat(CWD, path, flags, Mode::empty()).at(path)
    };
    let (from_fd, to_fd) = (open(from)?, open(to)?);
    let mut copy = Copy {
        from: &from_fd,
        to: &to_fd,
        owner,
        without: without.iter().map(PathBuf::as_path).collect(),
        links: HashMap::new(),
        reflink: true,
    };

    // The times of a directory change as its entries are made, so they are set when all are there.
    let mut todo = vec![PathBuf::new()];
    let mut done = Vec::new();
    while let Some(path) = todo.pop() {
        todo.extend(copy.directory(&path).at(from.join(&path))?);
        done.push(path);
    }
    for path in done.iter().rev() {
        let (from_dir, to_dir) = copy.open(path).at(to.join(path))?;
        let times = times(&rustix::fs::fstat(&from_dir)?);
        rustix::fs::futimens(&to_dir, &times).at(to.join(path))?;
    }
    Ok(())
}

/// Gives `to` the owner, the mode, the attributes and the times of `from`.
pub fn copy_metadata(from: BorrowedFd, to: BorrowedFd) -> Result<()> {
    copy_metadata_as(from, to, None)
}

/// Gives `to` to root, and the mode, the attributes and the times of `from`.
pub fn copy_metadata_as_root(from: BorrowedFd, to: BorrowedFd) -> Result<()> {
    copy_metadata_as(from, to, Some(ROOT))
}

fn copy_metadata_as(from: BorrowedFd, to: BorrowedFd, owner: Option<Owner>) -> Result<()> {
    let stat = rustix::fs::fstat(from)?;
    let (uid, gid) = owner.unwrap_or_else(|| owner_of(&stat));
    rustix::fs::fchown(to, Some(uid), Some(gid))?;
    copy_xattrs(&Node::Open(from), &Node::Open(to))?;
    rustix::fs::fchmod(to, Mode::from_raw_mode(stat.st_mode))?;
    Ok(rustix::fs::futimens(to, &times(&stat))?)
}

fn owner_of(stat: &Stat) -> Owner {
    (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid))
}

/// Makes the directory `dir` and those above it that are missing, so that they are there after a power cut.
pub fn make_dirs(dir: &Path) -> Result<()> {
    let mut missing = Vec::new();
    for dir in dir.ancestors().take_while(|dir| !dir.as_os_str().is_empty()) {
        match std::fs::metadata(dir) {
            Ok(meta) if meta.is_dir() => break,
            // What is no directory is said to be in the way when one is made.
            Ok(_) => missing.push(dir),
            Err(err) if err.kind() == ErrorKind::NotFound => missing.push(dir),
            Err(err) => return Err(err).at(dir),
        }
    }
    for dir in missing.iter().rev() {
        match std::fs::create_dir(dir) {
            // Somebody else was faster.
            Err(err) if err.kind() == ErrorKind::AlreadyExists && dir.is_dir() => {}
            made => made.at(dir)?,
        }
        sync_above(dir)?;
    }
    Ok(())
}

/// Returns what a path leads to: a link stays, and the file that it names is made or replaced.
pub fn behind_links(path: &Path) -> Result<PathBuf> {
    let mut path = path.to_owned();
    for _ in 0..LINKS {
        match path.read_link() {
            Ok(target) => path = path.parent().unwrap_or(Path::new("")).join(target),
            Err(_) => return Ok(path), // no link, or not there
        }
    }
    bail!("{}: too many links", path.display())
}

/// Puts a file in place, whole, where there may be another; the last of several who do is right.
///
/// Its mode is `mode`, as far as the umask lets it be. Where root replaces a user's file, it stays the user's.
pub fn replace(path: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    let Some(name) = path.file_name() else { bail!("{}: no name of a file", path.display()) };
    let mut new = OsStr::new(".").to_owned();
    new.push(name);
    // One name for all, so that nothing is left of those who died.
    new.push(".new");
    let new = path.with_file_name(new);
    let write = || {
        let _ = std::fs::remove_file(&new);
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&new)?;
        if let Ok(old) = std::fs::symlink_metadata(path) {
            // Nobody else may give files away, nor need to.
            let _ = std::os::unix::fs::fchown(&file, Some(old.uid()), Some(old.gid()));
        }
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&new, path)
    };
    write().inspect_err(|_| drop(std::fs::remove_file(&new))).at(path)?;
    sync_above(path)
}

/// Puts a file in place, whole, that nobody misses: after a power cut it may be gone, or torn.
pub fn put_unsynced(path: &Path, bytes: &[u8]) -> Result<()> {
    let dir = above(path);
    let new = tempfile::Builder::new().prefix(".new-").tempfile_in(dir).at(dir)?;
    std::fs::write(new.path(), bytes).at(path)?;
    new.persist(path).at(path)?;
    Ok(())
}

/// Reads a file, but no more than `most` bytes of it.
pub fn read(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(most).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Appends a name to a path in a tree, whose root is the empty path.
pub fn join(path: &[u8], name: &[u8]) -> Vec<u8> {
    if path.is_empty() { name.into() } else { [path, b"/", name].concat() }
}

/// Returns a path at which a name in an open directory can be looked up by a call that takes no directory.
pub fn by_fd(dir: impl AsFd, name: &CStr) -> CString {
    let mut path = format!("/proc/self/fd/{}/", dir.as_fd().as_raw_fd()).into_bytes();
    path.extend_from_slice(name.to_bytes());
    // Neither a number nor the name, a C string, has a NUL in it.
    CString::new(path).unwrap()
}

/// Opens what openat2(2) finds at `path`, and looks again where a rename somewhere has disturbed a `..`.
pub fn open_at(
    dir: impl AsFd,
    path: impl Arg + std::marker::Copy,
    flags: OFlags,
    resolve: ResolveFlags,
) -> Result<OwnedFd, Errno> {
    let mut tries = 0;
    loop {
        match rustix::fs::openat2(&dir, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
            Err(Errno::AGAIN) if tries < 64 => tries += 1,
            opened => return opened,
        }
    }
}

/// Says whether `file` is still what `path` names.
pub fn is_at(file: &File, path: &Path) -> Result<bool> {
    let id = |meta: std::fs::Metadata| (meta.dev(), meta.ino());
    match std::fs::symlink_metadata(path) {
        Ok(meta) => Ok(id(meta) == id(file.metadata().at(path)?)),
        Err(err) if err.kind() == ErrorKind::NotFound => Ok(false),
        Err(err) => Err(err).at(path),
    }
}

/// Returns the directory that `path` is in; a root is in itself.
pub fn above(path: &Path) -> &Path {
    match path.parent() {
        Some(above) if above.as_os_str().is_empty() => Path::new("."),
        Some(above) => above,
        None => path,
    }
}

/// Sees that the name of `path` is on the disk: the directory that it is in has it.
pub fn sync_above(path: &Path) -> Result<()> {
    let above = above(path);
    match sync_dir(above) {
        // One that we may write to, and not read.
        Err(err) if err.kind() == ErrorKind::PermissionDenied => Ok(()),
        synced => synced.at(above),
    }
}

/// Sees that the names in the directory `dir` are on the disk.
pub fn sync_dir(dir: &Path) -> io::Result<()> {
    let flags = OPEN_DIR.difference(OFlags::NOFOLLOW);
    let dir = rustix::fs::openat(CWD, dir, flags, Mode::empty())?;
    Ok(rustix::fs::fsync(dir)?)
}

/// Removes `dir` and all that is in it. What others remove or add meanwhile is no error.
///
/// However deep the tree is, it needs but two descriptors and no long path: a layer may
/// nest directories deeper than a process may open files.
pub fn remove(dir: &Path) -> Result<()> {
    match empty(dir) {
        Ok(()) => {}
        Err(Errno::NOENT) => return Ok(()),
        Err(Errno::NOTDIR | Errno::LOOP) => return std::fs::remove_file(dir).at(dir),
        Err(err) => return Err(err).at(dir),
    }
    match std::fs::remove_dir(dir) {
        Err(err) if err.kind() == ErrorKind::DirectoryNotEmpty => remove(dir),
        Err(err) if err.kind() == ErrorKind::NotFound => Ok(()),
        removed => removed.at(dir),
    }
}

/// Returns how many bytes `dir` and all that is in it take on the disk. A file with several names counts once.
///
/// However deep the tree is, it needs but two descriptors and no long path. Nobody may be changing it.
pub fn usage(dir: &Path) -> Result<u64> {
    let mut links = HashSet::new();
    let mut bytes = 0;
    let mut here = rustix::fs::openat(CWD, dir, OPEN_DIR, Mode::empty()).at(dir)?;
    let mut count = |stat: &Stat| {
        let several = stat.st_nlink > 1 && !FileType::from_raw_mode(stat.st_mode).is_dir();
        if !several || links.insert((stat.st_dev, stat.st_ino)) {
            bytes += stat.st_blocks as u64 * 512;
        }
    };
    let mut look = |here: &OwnedFd| -> rustix::io::Result<Vec<CString>> {
        count(&rustix::fs::fstat(here)?);
        let mut inner = Vec::new();
        for entry in Dir::read_from(here)? {
            let entry = entry?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            let stat = rustix::fs::statat(here, name, AtFlags::SYMLINK_NOFOLLOW)?;
            match FileType::from_raw_mode(stat.st_mode) {
                FileType::Directory => inner.push(name.to_owned()),
                _ => count(&stat),
            }
        }
        Ok(inner)
    };
    // The directories in each of those above that are still to be looked into.
    let mut above = Vec::new();
    let mut inner = look(&here).at(dir)?;
    loop {
        let (name, child) = match inner.pop() {
            Some(name) => (name, true),
            None => match above.pop() {
                Some(rest) => {
                    inner = rest;
                    (c"..".to_owned(), false)
                }
                None => return Ok(bytes),
            },
        };
        here = rustix::fs::openat(&here, &name, OPEN_DIR, Mode::empty()).at(dir)?;
        if child {
            above.push(std::mem::replace(&mut inner, look(&here).at(dir)?));
        }
    }
}

/// Removes all that is in `dir`.
pub fn empty(dir: &Path) -> rustix::io::Result<()> {
    /// A directory above the one that is being emptied.
    struct Above {
        id: (u64, u64),
        /// The directories in it that are still to be removed; the last one is being emptied.
        inner: Vec<CString>,
    }
    let id = |fd: &OwnedFd| rustix::fs::fstat(fd).map(|stat| (stat.st_dev, stat.st_ino));
    let mut here = rustix::fs::openat(CWD, dir, OPEN_DIR, Mode::empty())?;
    let mut inner = unlink_files(&here)?;
    let mut above: Vec<Above> = Vec::new();
    loop {
        if let Some(name) = inner.last() {
            match rustix::fs::openat(&here, name, OPEN_DIR, Mode::empty()) {
                Ok(child) => {
                    above.push(Above { id: id(&here)?, inner });
                    inner = unlink_files(&child)?;
                    here = child;
                }
                Err(Errno::NOENT) => drop(inner.pop()),
                Err(err) => return Err(err),
            }
            continue;
        }
        let Some(parent) = above.pop() else { return Ok(()) };
        here = rustix::fs::openat(&here, c"..", OPEN_DIR, Mode::empty())?;
        if id(&here)? != parent.id {
            return Err(Errno::STALE); // somebody moved it, and `..` may be anywhere
        }
        inner = parent.inner;
        let Some(name) = inner.last() else { continue };
        match rustix::fs::unlinkat(&here, name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => drop(inner.pop()),
            Err(Errno::NOTEMPTY) => {} // somebody is still adding to it
            Err(err) => return Err(err),
        }
    }
}

/// Removes all but the directories in `dir`; returns their names.
fn unlink_files(dir: &OwnedFd) -> rustix::io::Result<Vec<CString>> {
    let mut directories = Vec::new();
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        if entry.file_type() == FileType::Directory {
            directories.push(name.to_owned());
            continue;
        }
        match rustix::fs::unlinkat(dir, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(Errno::ISDIR) => directories.push(name.to_owned()),
            Err(err) => return Err(err),
        }
    }
    Ok(directories)
}

struct Copy<'a> {
    from: &'a OwnedFd,
    to: &'a OwnedFd,
    /// Whose all becomes, if not whose it was.
    owner: Option<Owner>,
    without: HashSet<&'a Path>,
    /// Where the first name of a file with several went.
    links: HashMap<(u64, u64), PathBuf>,
    /// Whether blocks can be shared, as far as we know.
    reflink: bool,
}

impl Copy<'_> {
    /// Copies a directory's entries and all but its times; returns the directories in it, which are still empty.
    fn directory(&mut self, path: &Path) -> Result<Vec<PathBuf>> {
        let (from, to) = self.open(path)?;
        let mut inner = Vec::new();
        for entry in Dir::read_from(&from)? {
            let entry = entry?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            let path = path.join(OsStr::from_bytes(name.to_bytes()));
            if self.without.contains(path.as_path()) {
                continue;
            }
            if self
                .entry(&from, &to, name, &path)
                .at(Path::new(path.file_name().unwrap_or_default()))?
            {
                inner.push(path);
            }
        }
        copy_metadata_as(from.as_fd(), to.as_fd(), self.owner)?;
        Ok(inner)
    }

    /// Copies one entry; returns whether it is a directory, of which only the name is there then.
    fn entry(&mut self, from: &OwnedFd, to: &OwnedFd, name: &CStr, path: &Path) -> Result<bool> {
        let stat = rustix::fs::statat(from, name, AtFlags::SYMLINK_NOFOLLOW)?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind == FileType::Directory {
            rustix::fs::mkdirat(to, name, Mode::RWXU)?;
            return Ok(true);
        }
        if stat.st_nlink > 1 {
            if let Some(first) = self.links.get(&(stat.st_dev, stat.st_ino)) {
                rustix::fs::linkat(self.to, first, to, name, AtFlags::empty())?;
                return Ok(false);
            }
            self.links.insert((stat.st_dev, stat.st_ino), path.into());
        }
        if kind == FileType::RegularFile {
            self.file(from, to, name, &stat)?;
            return Ok(false);
        }
        match kind {
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(from, name, Vec::new())?;
                rustix::fs::symlinkat(&target, to, name)?;
            }
            FileType::Fifo
            | FileType::Socket
            | FileType::CharacterDevice
            | FileType::BlockDevice => {
                rustix::fs::mknodat(to, name, kind, Mode::RUSR, stat.st_rdev)?;
            }
            _ => bail!("a file of no known type"),
        }
        let (uid, gid) = self.owner.unwrap_or_else(|| owner_of(&stat));
        rustix::fs::chownat(to, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
        copy_xattrs(&Node::named(from, name), &Node::named(to, name))?;
        if kind != FileType::Symlink {
            rustix::fs::chmodat(to, name, Mode::from_raw_mode(stat.st_mode), AtFlags::empty())?;
        }
        rustix::fs::utimensat(to, name, &times(&stat), AtFlags::SYMLINK_NOFOLLOW)?;
        Ok(false)
    }

    fn file(&mut self, from: &OwnedFd, to: &OwnedFd, name: &CStr, stat: &Stat) -> Result<()> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let from = File::from(rustix::fs::openat(from, name, flags, Mode::empty())?);
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let to = File::from(rustix::fs::openat(to, name, flags, Mode::RUSR | Mode::WUSR)?);
        if self.reflink {
            self.reflink = rustix::fs::ioctl_ficlone(&to, &from).is_ok();
        }
        if !self.reflink {
            copy_data(&from, &to, stat.st_size as u64)?;
        }
        copy_metadata_as(from.as_fd(), to.as_fd(), self.owner)
    }

    fn open(&self, path: &Path) -> Result<(OwnedFd, OwnedFd)> {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        // A directory may have become a link to anywhere.
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        let open = |root: &OwnedFd| loop {
            match rustix::fs::openat2(root, path, OPEN_DIR, Mode::empty(), resolve) {
                // Something was renamed meanwhile: openat2(2).
                Err(Errno::AGAIN) => {}
                opened => return opened,
            }
        };
        Ok((open(self.from)?, open(self.to)?))
    }
}

/// Copies the data of a file, and leaves holes where it has them.
pub fn copy_data(from: &File, to: &File, size: u64) -> Result<()> {
    to.set_len(size)?;
    let mut at = 0;
    while at < size {
        let start = match rustix::fs::seek(from, SeekFrom::Data(at)) {
            Ok(start) => start,
            Err(Errno::NXIO) => break, // a hole to the end
            Err(Errno::INVAL) => at,   // a file system that does not tell holes
            Err(err) => return Err(err.into()),
        };
        let end = rustix::fs::seek(from, SeekFrom::Hole(start)).unwrap_or(size).min(size);
        copy_range(from, to, start, end)?;
        at = end.max(start + 1);
    }
    Ok(())
}

fn copy_range(from: &File, to: &File, mut start: u64, end: u64) -> io::Result<()> {
    let mut buf = Vec::new();
    while start < end {
        let want = (end - start).min(1 << 30) as usize;
        let (mut source, mut target) = (start, start);
        if buf.is_empty() {
            match rustix::fs::copy_file_range(from, Some(&mut source), to, Some(&mut target), want)
            {
                Ok(n) if n > 0 => {
                    start += n as u64;
                    continue;
                }
                // Not between these two file systems, or not on this kernel.
                Ok(_)
                | Err(Errno::XDEV | Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP | Errno::PERM) =>
                {
                    buf.resize(256 << 10, 0);
                }
                Err(err) => return Err(err.into()),
            }
        }
        let want = want.min(buf.len());
        match from.read_at(&mut buf[..want], start)? {
            0 => return Err(ErrorKind::UnexpectedEof.into()),
            n => {
                to.write_all_at(&buf[..n], start)?;
                start += n as u64;
            }
        }
    }
    Ok(())
}

/// What has extended attributes: an open file, or a name that cannot be opened without effect or at all.
pub(crate) enum Node<'fd> {
    Open(BorrowedFd<'fd>),
    Named(CString),
}

impl Node<'_> {
    pub(crate) fn named(dir: impl AsFd, name: &CStr) -> Node<'static> {
        Node::Named(by_fd(dir, name))
    }

    /// Returns the names of its attributes, a NUL behind each; none where there cannot be any.
    pub(crate) fn list(&self) -> rustix::io::Result<Vec<u8>> {
        let listed = grow(|names| match self {
            Node::Open(fd) => rustix::fs::flistxattr(fd, spare_capacity(names)),
            Node::Named(path) => rustix::fs::llistxattr(path, spare_capacity(names)),
        });
        match listed {
            Err(Errno::OPNOTSUPP) => Ok(Vec::new()),
            listed => listed,
        }
    }

    pub(crate) fn get(&self, name: &CStr) -> rustix::io::Result<Vec<u8>> {
        grow(|value| match self {
            Node::Open(fd) => rustix::fs::fgetxattr(fd, name, spare_capacity(value)),
            Node::Named(path) => rustix::fs::lgetxattr(path, name, spare_capacity(value)),
        })
    }

    fn set(&self, name: &CStr, value: &[u8]) -> rustix::io::Result<()> {
        match self {
            Node::Open(fd) => rustix::fs::fsetxattr(fd, name, value, XattrFlags::empty()),
            Node::Named(path) => rustix::fs::lsetxattr(path, name, value, XattrFlags::empty()),
        }
    }
}

/// Calls `read` with little room first: the kernel clears as much memory as there is room.
fn grow(
    mut read: impl FnMut(&mut Vec<u8>) -> rustix::io::Result<usize>,
) -> rustix::io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(256);
    match read(&mut bytes) {
        Err(Errno::RANGE) => {}
        result => return result.map(|_| bytes),
    }
    bytes.reserve(XATTR_MOST);
    read(&mut bytes).map(|_| bytes)
}

fn copy_xattrs(from: &Node, to: &Node) -> Result<()> {
    let names = from.list()?;
    for name in names.split_inclusive(|&b| b == 0) {
        let Ok(name) = CStr::from_bytes_with_nul(name) else { continue };
        match to.set(name, &from.get(name)?) {
            // A security module's label is its own business on the other side.
            Err(Errno::OPNOTSUPP | Errno::PERM | Errno::INVAL) if is_label(name) => {}
            set => set.at(name.to_string_lossy().as_ref())?,
        }
    }
    Ok(())
}

fn is_label(name: &CStr) -> bool {
    name.to_bytes().starts_with(b"security.") && name != c"security.capability"
}

/// Returns when a file was last read and written.
pub fn times(stat: &Stat) -> Timestamps {
    let time = |tv_sec: i64, tv_nsec: u64| Timespec { tv_sec, tv_nsec: tv_nsec as _ };
    Timestamps {
        last_access: time(stat.st_atime as _, stat.st_atime_nsec as _),
        last_modification: time(stat.st_mtime as _, stat.st_mtime_nsec as _),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
    use std::process::Command;
    use std::{fs, path};

    use super::*;

    /// Returns what find and getfattr say of a tree.
    fn look(dir: &path::Path) -> String {
        let script = "find . -printf '%P %y %m %U %G %s %T@ %n %l\\n' | sort; \
            getfattr -Rdhm- . | sort; find . -type f -exec sha256sum {} + | sort; find . -type b -o -type c | xargs -r stat -c '%n %t %T'";
        let output = Command::new("sh").args(["-c", script]).current_dir(dir).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    #[test]
    fn a_copy_may_be_roots_and_lack_what_is_left_out() {
        if !nix::unistd::geteuid().is_root() {
            return eprintln!("not tested here: it takes root");
        }
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let dir = from.path();
        fs::create_dir_all(dir.join("a/b")).unwrap();
        fs::create_dir_all(dir.join("gone/b")).unwrap();
        for path in ["a/gone", "a/b/kept", "gone/b/f", "b"] {
            fs::write(dir.join(path), path).unwrap();
        }
        symlink("b", dir.join("link")).unwrap();
        for path in ["", "a", "a/b", "a/b/kept", "b", "link"] {
            std::os::unix::fs::lchown(dir.join(path), Some(1000), Some(1001)).unwrap();
        }
        fs::set_permissions(dir.join("a/b/kept"), fs::Permissions::from_mode(0o4750)).unwrap();
        copy_as_root(dir, to.path(), &["gone".into(), "a/gone".into()]).unwrap();
        let mut find = Command::new("find");
        find.current_dir(to.path()).args(["!", "-name", ".", "-printf", "%P %m %U:%G\\n"]);
        let found = String::from_utf8(find.output().unwrap().stdout).unwrap();
        let mut found: Vec<&str> = found.lines().collect();
        found.sort();
        let expected =
            ["a 755 0:0", "a/b 755 0:0", "a/b/kept 4750 0:0", "b 644 0:0", "link 777 0:0"];
        assert_eq!(found, expected);
    }

    #[test]
    fn a_copy_is_what_the_source_is() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let dir = from.path();
        fs::create_dir_all(dir.join("a/b/c")).unwrap();
        fs::write(dir.join("a/file"), "x".repeat(100_000)).unwrap();
        fs::hard_link(dir.join("a/file"), dir.join("a/b/link")).unwrap();
        fs::write(dir.join("a/odd \n\u{e9}"), "").unwrap();
        symlink("/nowhere", dir.join("a/b/symlink")).unwrap();
        symlink("file", dir.join("a/to-file")).unwrap();
        fs::set_permissions(dir.join("a/file"), fs::Permissions::from_mode(0o4751)).unwrap();
        rustix::fs::mknodat(CWD, dir.join("fifo"), FileType::Fifo, Mode::RUSR, 0).unwrap();
        let sparse = File::create(dir.join("sparse")).unwrap();
        sparse.set_len(64 << 20).unwrap();
        sparse.write_all_at(b"data", 32 << 20).unwrap();
        let flags = XattrFlags::empty();
        rustix::fs::setxattr(dir.join("a"), "user.mark", b"value", flags).unwrap();
        if nix::unistd::geteuid().is_root() {
            nix::unistd::chown(&dir.join("a/file"), Some(3.into()), Some(4.into())).unwrap();
            fs::set_permissions(dir.join("a/file"), fs::Permissions::from_mode(0o4751)).unwrap();
            std::os::unix::fs::lchown(dir.join("a/to-file"), Some(5), Some(6)).unwrap();
            let kind = FileType::CharacterDevice;
            rustix::fs::mknodat(CWD, dir.join("null"), kind, Mode::RUSR, rustix::fs::makedev(1, 3))
                .unwrap();
        }
        fs::set_permissions(dir.join("a/b"), fs::Permissions::from_mode(0o1555)).unwrap();
        let old = Timespec { tv_sec: 1_000_000_000, tv_nsec: 123_456_789 };
        let old = Timestamps { last_access: old, last_modification: old };
        for path in ["a/b/symlink", "a/b", "sparse", "a", ""] {
            rustix::fs::utimensat(CWD, dir.join(path), &old, AtFlags::SYMLINK_NOFOLLOW).unwrap();
        }

        copy(dir, to.path()).unwrap();
        assert_eq!(look(to.path()), look(dir));
        let blocks = |dir: &path::Path| fs::metadata(dir.join("sparse")).unwrap().blocks();
        assert_eq!(blocks(to.path()), blocks(dir));
    }

    #[test]
    fn directories_are_made_by_many_at_once() {
        let top = tempfile::tempdir().unwrap();
        let dir = top.path().join("a/b/c");
        let make = || (0..100).try_for_each(|n| make_dirs(&dir.join(format!("d/{n}/e"))));
        std::thread::scope(|scope| {
            let makers: Vec<_> = (0..8).map(|_| scope.spawn(make)).collect();
            makers.into_iter().for_each(|maker| maker.join().unwrap().unwrap());
        });
        assert_eq!(fs::read_dir(dir.join("d")).unwrap().count(), 100);
        make_dirs(&dir).unwrap();
    }

    #[test]
    fn what_is_in_the_way_of_a_directory_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let (file, dangling) = (dir.path().join("file"), dir.path().join("dangling"));
        fs::write(&file, "").unwrap();
        symlink("nowhere", &dangling).unwrap();
        let long = dir.path().join("x".repeat(256));
        for (path, about, why) in [
            (file.clone(), &file, "File exists"),
            (dangling.clone(), &dangling, "File exists"),
            (file.join("a"), &file.join("a"), "Not a directory"),
            (long.join("a"), &long.join("a"), "File name too long"),
        ] {
            let said = crate::error::line(&make_dirs(&path).unwrap_err());
            assert!(said.starts_with(&format!("{}: {why}", about.display())), "{said}");
        }
    }

    #[test]
    fn a_tree_deeper_than_a_process_may_open_files_is_removed() {
        let scratch = tempfile::tempdir().unwrap();
        let top = scratch.path().join("top");
        fs::create_dir(&top).unwrap();
        let mut dir = rustix::fs::openat(CWD, &top, OPEN_DIR, Mode::empty()).unwrap();
        for _ in 0..1200 {
            for name in [c"d", c"sibling"] {
                rustix::fs::mkdirat(&dir, name, Mode::RWXU).unwrap();
            }
            rustix::fs::symlinkat(c"/", &dir, c"link").unwrap();
            dir = rustix::fs::openat(&dir, c"d", OPEN_DIR, Mode::empty()).unwrap();
        }
        drop(dir);
        assert!(usage(&top).is_ok());
        remove(&top).unwrap();
        assert!(!top.exists());
        remove(&top).unwrap();
    }

    #[test]
    fn what_a_tree_takes_is_what_du_says() {
        let scratch = tempfile::tempdir().unwrap();
        let top = scratch.path().join("top");
        for n in 0..20 {
            let dir = top.join(format!("a{n}/b/c"));
            fs::create_dir_all(&dir).unwrap();
            fs::write(dir.join("file"), "x".repeat(n * 3000)).unwrap();
            fs::hard_link(dir.join("file"), top.join(format!("a{n}/link"))).unwrap();
            symlink("/etc", dir.join("symlink")).unwrap();
        }
        let du = Command::new("du").args(["-s", "-B1"]).arg(&top).output().unwrap();
        let du = String::from_utf8(du.stdout).unwrap();
        assert_eq!(usage(&top).unwrap().to_string(), du.split('\t').next().unwrap());
    }

    #[test]
    fn a_symlink_is_removed_and_not_followed() {
        let scratch = tempfile::tempdir().unwrap();
        let (bait, link) = (scratch.path().join("bait"), scratch.path().join("link"));
        fs::create_dir(&bait).unwrap();
        fs::write(bait.join("file"), "").unwrap();
        symlink(&bait, &link).unwrap();
        remove(&link).unwrap();
        assert!(bait.join("file").exists() && !link.exists());
    }
}
