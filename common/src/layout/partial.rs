//! `.partial/`, where blobs lie until they are whole.
//!
//! It may have come with a layout that a stranger made. So it is a directory and no link, and of
//! what is in it only a regular file is a blob's: no link is followed, no fifo is waited for, and
//! what is removed is removed from the directory that was looked into.

use std::ffi::CStr;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::Result;
use rustix::fs::{AtFlags, CWD, Dir, Mode, OFlags, openat, unlinkat};

use crate::error::At;

/// Its name.
pub(super) const PARTIAL: &str = ".partial";

/// The directory, open.
pub(super) struct Partial(pub(super) OwnedFd);

impl Partial {
    /// Opens that of the layout in `layout`; returns nothing if there is none that is a directory.
    pub(super) fn open(layout: &Path) -> Option<Partial> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        openat(CWD, layout.join(PARTIAL), flags, Mode::empty()).ok().map(Partial)
    }

    /// Calls `each` with the names that are in it.
    pub(super) fn names(&self, mut each: impl FnMut(&CStr)) {
        for entry in Dir::read_from(&self.0).into_iter().flatten().flatten() {
            if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
                each(entry.file_name());
            }
        }
    }

    /// Opens a file that is in it; returns nothing for all that is not a regular one.
    pub(super) fn file(&self, name: &CStr) -> Option<File> {
        let how = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | how;
        let file = File::from(openat(&self.0, name, flags, Mode::empty()).ok()?);
        file.metadata().is_ok_and(|metadata| metadata.is_file()).then_some(file)
    }

    /// Removes a file that is in it.
    pub(super) fn remove(&self, name: &CStr) -> rustix::io::Result<()> {
        unlinkat(&self.0, name, AtFlags::empty())
    }
}

/// Makes the directory `dir`, unless it is there.
pub(super) fn make(dir: &Path) -> Result<()> {
    match fs::create_dir(dir) {
        Err(err) if err.kind() == ErrorKind::AlreadyExists => match dir.symlink_metadata() {
            Ok(metadata) if !metadata.is_dir() => {
                Err(io::Error::from(ErrorKind::NotADirectory)).at(dir)
            }
            // Somebody may have removed it again: then so does who wants to put something there.
            _ => Ok(()),
        },
        made => made.at(dir),
    }
}

/// Opens, or makes, a blob's file in the directory. To write, too, a fifo is not waited for.
pub(super) fn open(path: &Path) -> io::Result<File> {
    let flags = (OFlags::NOFOLLOW | OFlags::NOCTTY).bits() as i32;
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .mode(0o644)
        .custom_flags(flags)
        .open(path)?;
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::Error::other("not a regular file")),
    }
}
