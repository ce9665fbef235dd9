//! A walk through the result's tree: directories before what is in them, names in byte order.
//!
//! It is the tree of a stranger's image, and nobody changes it. However deep it
//! is, one directory is open at a time, and no path is looked up.

use std::collections::BTreeMap;
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use anyhow::{Context, Result, ensure};
use common::layer::is_record;
use common::tree::by_fd;
use rustix::buffer::spare_capacity;
use rustix::fs::{
    AtFlags, Dir, FileType, Mode, OFlags, Stat, fstat, lgetxattr, llistxattr, openat, statat,
};
use rustix::io::Errno;

/// The most bytes of an extended attribute, and of the list of their names: xattr(7).
const XATTR_MOST: usize = 64 << 10;

pub(super) const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Something in the tree.
pub(super) struct Found<'a> {
    /// The directory that it is in.
    pub dir: BorrowedFd<'a>,
    /// Its name there.
    pub name: &'a CStr,
    /// Its path in the tree, without a slash in front.
    pub path: &'a [u8],
    pub stat: Stat,
    pub kind: FileType,
}

/// Who is told what is found.
pub(super) trait Visit {
    /// Takes what was found.
    fn found(&mut self, found: &Found) -> Result<()>;

    /// Has seen all that is in a directory that was found.
    fn left(&mut self, path: &[u8], stat: &Stat) -> Result<()>;
}

/// A directory that is being walked through.
struct Level {
    stat: Stat,
    /// Names that are still to come, last first.
    names: Vec<CString>,
}

/// Walks through a tree.
pub(super) fn walk(root: BorrowedFd, visit: &mut dyn Visit) -> Result<()> {
    let mut here = openat(root, c".", DIRECTORY, Mode::empty())?;
    let mut path = Vec::new();
    let mut levels = vec![level(&here)?];
    while let Some(last) = levels.last_mut() {
        let Some(name) = last.names.pop() else {
            let Some(Level { stat, .. }) = levels.pop() else { break };
            let Some(above) = levels.last() else { break };
            visit.left(&path, &stat).with_context(|| shown(&path))?;
            here = openat(&here, c"..", DIRECTORY, Mode::empty())?;
            ensure!(same(&fstat(&here)?, &above.stat), "{}: it was moved", shown(&path));
            let end = path.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
            path.truncate(end);
            continue;
        };
        let len = path.len();
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(name.to_bytes());
        let inner = one(&here, &name, &path, visit).with_context(|| shown(&path))?;
        match inner {
            Some(inner) => {
                levels.push(level(&inner).with_context(|| shown(&path))?);
                here = inner;
            }
            None => path.truncate(len),
        }
    }
    Ok(())
}

/// Shows what is under a name; returns it if it is a directory.
fn one(here: &OwnedFd, name: &CStr, path: &[u8], visit: &mut dyn Visit) -> Result<Option<OwnedFd>> {
    let stat = statat(here, name, AtFlags::SYMLINK_NOFOLLOW)?;
    let kind = FileType::from_raw_mode(stat.st_mode);
    visit.found(&Found { dir: here.as_fd(), name, path, stat, kind })?;
    match kind {
        FileType::Directory => Ok(Some(openat(here, name, DIRECTORY, Mode::empty())?)),
        _ => Ok(None),
    }
}

fn level(dir: &OwnedFd) -> Result<Level> {
    let mut names = Vec::new();
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            names.push(entry.file_name().to_owned());
        }
    }
    names.sort_unstable_by(|one, other| other.cmp(one));
    Ok(Level { stat: fstat(dir)?, names })
}

/// Returns whether these are one file.
pub(super) fn same(one: &Stat, other: &Stat) -> bool {
    (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino)
}

/// Returns a path as messages have it.
pub(super) fn shown(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}

/// Returns the attributes that an image may have.
pub(super) fn xattrs(found: &Found) -> Result<BTreeMap<Vec<u8>, Vec<u8>>> {
    let path = by_fd(found.dir, found.name);
    let mut names = Vec::with_capacity(XATTR_MOST);
    match llistxattr(&*path, spare_capacity(&mut names)) {
        Ok(_) => {}
        Err(Errno::NOTSUP) => return Ok(BTreeMap::new()),
        Err(err) => return Err(err).context("cannot list its attributes"),
    }
    let mut xattrs = BTreeMap::new();
    for name in names.split_inclusive(|byte| *byte == 0) {
        let Ok(name) = CStr::from_bytes_with_nul(name) else { continue };
        // These are the host's and its overlays'.
        let bytes = name.to_bytes();
        let ours = [&b"trusted.overlay."[..], b"user.overlay."];
        let ours = ours.iter().any(|ours| bytes.starts_with(ours)) || is_record(bytes)?;
        if ours || bytes == b"security.selinux" {
            continue;
        }
        let mut value = Vec::with_capacity(XATTR_MOST);
        lgetxattr(&*path, name, spare_capacity(&mut value))
            .with_context(|| format!("cannot read its attribute {}", name.to_string_lossy()))?;
        xattrs.insert(bytes.to_vec(), value);
    }
    Ok(xattrs)
}
