//! The members of a tar that is no layer, an archive of images, read as strictly as a layer is.

use std::fs::File;
use std::io::Read;

use anyhow::{Result, ensure};

use super::entry::{Entries, Kind};
use super::header::lossy;
use super::source::Tar;
use super::stream::{Reader, Source, Stream};

/// What a member is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    /// A file, whose data can be read.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// Another name of another member.
    HardLink,
    /// A device or a FIFO.
    Special,
}

/// A member of a tar.
pub struct Member<'a, 'b> {
    /// What it is.
    pub kind: Type,
    /// Its name, as it is written: not to be trusted.
    pub name: Vec<u8>,
    /// Where it leads, if it is a link, as it is written.
    pub link: Vec<u8>,
    /// How many bytes of data it has.
    pub size: u64,
    entries: &'a mut Entries<'b>,
}

impl Member<'_, '_> {
    /// Returns some of its data; nothing at the end, which is never too early.
    pub fn data(&mut self) -> Result<&[u8]> {
        self.entries.data()
    }

    /// Puts some of its data at `at` in `to`, without a copy here if that can be; returns how much, none at the end.
    pub fn transfer(&mut self, to: &File, at: u64) -> Result<u64> {
        self.entries.transfer(to, at)
    }
}

/// Calls `visit` for each member of a tar. What it leaves of the data is passed over.
///
/// Returns whether there was a mark at the end of the tar. Without one it may have been cut off between two members.
pub fn members(tar: impl Read, visit: impl FnMut(Member) -> Result<()>) -> Result<bool> {
    walk(&mut Reader(tar), visit)
}

/// Does as [`members`], and lets the kernel copy.
pub fn members_of(mut tar: Tar, visit: impl FnMut(Member) -> Result<()>) -> Result<bool> {
    walk(&mut tar, visit)
}

fn walk(source: &mut dyn Source, mut visit: impl FnMut(Member) -> Result<()>) -> Result<bool> {
    let mut entries = Entries::new(Stream::unhashed(source));
    while let Some(entry) = entries.next()? {
        ensure!(entry.sparse.is_none(), "{:?}: a sparse file", lossy(&entry.name));
        let kind = match entry.kind {
            Kind::File => Type::File,
            Kind::Directory => Type::Directory,
            Kind::Symlink => Type::Symlink,
            Kind::HardLink => Type::HardLink,
            Kind::Character | Kind::Block | Kind::Fifo => Type::Special,
        };
        let (name, link, size) = (entry.name, entry.link, entry.size);
        visit(Member { kind, name, link, size, entries: &mut entries })?;
    }
    Ok(entries.is_marked())
}
