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
    /// Its permissions.
    pub mode: u32,
    /// The user it belongs to.
    pub uid: u32,
    /// The group it belongs to.
    pub gid: u32,
    /// When it was changed last, in seconds since 1970.
    pub mtime: i64,
    /// The major and minor number of a device, and whether it is a block device.
    pub device: Option<(u32, u32, bool)>,
    /// Its extended attributes, names and values.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Where its data goes, offsets and lengths, if it is a file with holes: then `size` is that of the file.
    pub map: Option<Vec<(u64, u64)>>,
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
    walk(&mut Reader(tar), whole(visit))
}

/// Does as [`members`], and takes files with holes: `map` says where the data goes.
pub fn sparse_members(tar: impl Read, visit: impl FnMut(Member) -> Result<()>) -> Result<bool> {
    walk(&mut Reader(tar), visit)
}

/// Does as [`members`], and lets the kernel copy.
pub fn members_of(tar: &mut Tar, visit: impl FnMut(Member) -> Result<()>) -> Result<bool> {
    walk(tar, whole(visit))
}

/// Refuses files with holes.
fn whole(mut visit: impl FnMut(Member) -> Result<()>) -> impl FnMut(Member) -> Result<()> {
    move |member| {
        ensure!(member.map.is_none(), "{:?}: a sparse file", lossy(&member.name));
        visit(member)
    }
}

fn walk(source: &mut dyn Source, mut visit: impl FnMut(Member) -> Result<()>) -> Result<bool> {
    let mut entries = Entries::new(Stream::unhashed(source));
    while let Some(entry) = entries.next()? {
        let kind = match entry.kind {
            Kind::File => Type::File,
            Kind::Directory => Type::Directory,
            Kind::Symlink => Type::Symlink,
            Kind::HardLink => Type::HardLink,
            Kind::Character | Kind::Block | Kind::Fifo => Type::Special,
        };
        let device = match entry.kind {
            Kind::Character | Kind::Block => {
                let (major, minor) = entry.device;
                Some((major, minor, entry.kind == Kind::Block))
            }
            _ => None,
        };
        let map = entry.sparse.map(|map| map.iter().map(|part| (part.offset, part.len)).collect());
        visit(Member {
            kind,
            name: entry.name,
            link: entry.link,
            size: entry.size,
            mode: entry.mode,
            uid: entry.uid,
            gid: entry.gid,
            mtime: entry.mtime.tv_sec,
            device,
            xattrs: entry.xattrs,
            map,
            entries: &mut entries,
        })?;
    }
    Ok(entries.is_marked())
}
