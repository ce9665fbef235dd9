//! Gives a tree to other owners, as a mapping of ids says.

use std::collections::HashSet;
use std::ffi::{CStr, OsStr};
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use anyhow::{Context, Result};
use common::error::At;
use common::userns::{Mapping, Range};
use rustix::fs::{AtFlags, Dir, FileType, Gid, Mode, OFlags, Uid, XattrFlags};
use rustix::io::Errno;

const OPEN: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// The largest value of `security.capability`, which chown(2) removes: struct vfs_ns_cap_data.
const CAPABILITY: usize = 24;

/// Gives each file below `root` to whom `mapping` has for its owner.
///
/// The tree must be complete, and nobody may be changing it.
pub fn shift(root: &File, mapping: &Mapping) -> Result<()> {
    let mut seen = HashSet::new(); // files with several names, which are to be shifted once
    let mut todo = vec![PathBuf::from(".")];
    while let Some(path) = todo.pop() {
        let dir = rustix::fs::openat(root, &path, OPEN, Mode::empty()).at(&path)?;
        for entry in Dir::read_from(&dir).at(&path)? {
            let entry = entry.at(&path)?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            let below = path.join(OsStr::from_bytes(name.to_bytes()));
            let stat = rustix::fs::statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW).at(&below)?;
            let kind = FileType::from_raw_mode(stat.st_mode);
            if kind != FileType::Directory
                && stat.st_nlink > 1
                && !seen.insert((stat.st_dev, stat.st_ino))
            {
                continue;
            }
            give(&dir, name, kind, &stat, mapping).at(&below)?;
            if kind == FileType::Directory {
                todo.push(below);
            }
        }
    }
    let stat = rustix::fs::fstat(root)?;
    give(root, c".", FileType::Directory, &stat, mapping)
}

fn give(
    dir: impl std::os::fd::AsFd,
    name: &CStr,
    kind: FileType,
    stat: &rustix::fs::Stat,
    mapping: &Mapping,
) -> Result<()> {
    let uid = outside(&mapping.uids, stat.st_uid)
        .with_context(|| format!("user {} is not in the mapping", stat.st_uid))?;
    let gid = outside(&mapping.gids, stat.st_gid)
        .with_context(|| format!("group {} is not in the mapping", stat.st_gid))?;
    let mut capability = Vec::with_capacity(CAPABILITY);
    let file = match kind {
        FileType::RegularFile => {
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            let file = rustix::fs::openat(&dir, name, flags, Mode::empty())?;
            match rustix::fs::fgetxattr(
                &file,
                "security.capability",
                rustix::buffer::spare_capacity(&mut capability),
            ) {
                Ok(_) | Err(Errno::NODATA | Errno::OPNOTSUPP) => Some(file),
                Err(err) => return Err(err.into()),
            }
        }
        _ => None,
    };
    let owner = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
    rustix::fs::chownat(&dir, name, owner.0, owner.1, AtFlags::SYMLINK_NOFOLLOW)?;
    if let Some(file) = file {
        // Both of these go when a file changes hands.
        if stat.st_mode & 0o6000 != 0 {
            rustix::fs::fchmod(&file, Mode::from_raw_mode(stat.st_mode))?;
        }
        if !capability.is_empty() {
            rustix::fs::fsetxattr(&file, "security.capability", &capability, XattrFlags::empty())?;
        }
    }
    Ok(())
}

/// Returns what an id inside is outside.
fn outside(ranges: &[Range], id: u32) -> Option<u32> {
    ranges.iter().find_map(|range| {
        Some(range.host + id.checked_sub(range.container).filter(|n| *n < range.size)?)
    })
}
