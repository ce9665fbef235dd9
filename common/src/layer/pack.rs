//! Packs a layer: entries, in order, become a tar, and the tar a blob of a layout.
//!
//! ```text
//! entries --> tar --hash--> chunks --> compressed --hash--> blob
//!         (ustar)      (chunks)   (compression)
//! ```
//!
//! Equal entries give equal bytes, on every machine: their order is fixed, headers have nothing that
//! the entries do not say, and chunks are as large whatever the number of cores.
//!
//! Image-spec, layer.md; POSIX.1 pax, ustar and pax interchange formats.

mod chunks;
mod compression;
mod ustar;

use std::collections::BTreeMap;
use std::fs::File;

use anyhow::{Context, Result, bail, ensure};
use oci_spec::image::Descriptor;
use rustix::fs::Advice;
use rustix::io::Errno;

use self::chunks::Chunks;
use super::dirs::PATH_MAX;
use super::header::lossy;
use super::stream::BLOCK;
use super::table::{Builder, Table};
use crate::digest::Digest;
use crate::image;
use crate::layout::Writing;

pub use self::compression::Compression;

/// A file of this size is read ahead of us.
const LARGE: u64 = 1 << 20;

/// What a layer has under a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its path beneath the root, without a slash before or behind it; nothing, for the root.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: Kind,
    /// Its permissions; other bits do not count.
    pub mode: u32,
    /// The user it belongs to.
    pub uid: u32,
    /// The group it belongs to.
    pub gid: u32,
    /// When it was changed last, in seconds since 1970.
    pub mtime: i64,
    /// Its extended attributes.
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// What an entry is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A file with so many bytes.
    File {
        /// How many.
        size: u64,
    },
    /// A directory.
    Directory,
    /// A symbolic link, and where it leads.
    Symlink(Vec<u8>),
    /// Another name of what has this path.
    Link(Vec<u8>),
    /// A device.
    Device {
        /// Whether it is a block device, and no character device.
        block: bool,
        /// The major number.
        major: u32,
        /// The minor number.
        minor: u32,
    },
    /// A FIFO.
    Fifo,
}

/// A layer that was packed.
#[derive(Clone, Debug)]
pub struct Packed {
    /// The blob.
    pub desc: Descriptor,
    /// The digest of the tar.
    pub diff_id: Digest,
    /// The bytes of the tar.
    pub size: u64,
    /// Its table, if it was asked for.
    pub table: Option<Table>,
}

/// Packs a layer. Dropped before it has finished, it leaves nothing.
pub struct Packer<'a> {
    chunks: Chunks<'a>,
    compression: Compression,
    header: Vec<u8>,
    /// The path of the last entry, and whether it is a directory.
    last: Option<(Vec<u8>, bool)>,
    table: Option<Builder>,
}

impl<'a> Packer<'a> {
    /// Begins a layer in the layout that is written to.
    pub fn new(writing: &'a Writing<'a>, compression: Compression) -> Result<Packer<'a>> {
        let chunks = Chunks::new(writing.new_blob()?, compression)?;
        Ok(Packer { chunks, compression, header: Vec::new(), last: None, table: None })
    }

    /// Makes the layer's table as well, from the start.
    pub fn tabulate(self) -> Packer<'a> {
        Packer { table: Some(Builder::new()), ..self }
    }

    /// Adds an entry without content.
    ///
    /// Entries come in the order of their paths' components, byte by byte, and each path once: so a
    /// directory comes before what is in it.
    pub fn add(&mut self, entry: &Entry) -> Result<()> {
        if let Kind::File { size: 1.. } = entry.kind {
            bail!("{}: no content", lossy(&entry.path));
        }
        self.head(entry)?;
        self.note(entry, Some(&[]));
        Ok(())
    }

    /// Adds a file with the content of `file`, from its start.
    ///
    /// # Errors
    /// If it has another size than the entry says: somebody is writing to it.
    pub fn file(&mut self, entry: &Entry, file: &File) -> Result<()> {
        let Kind::File { size } = entry.kind else { bail!("{}: not a file", lossy(&entry.path)) };
        self.head(entry)?;
        if size >= LARGE {
            let _ = rustix::fs::fadvise(file, 0, None, Advice::Sequential); // it is faster
        }
        let kept = self.content(entry, size, file, 0, true).with_context(|| lossy(&entry.path))?;
        self.note(entry, kept.as_deref());
        Ok(())
    }

    /// Adds a file with a part of `file` for its content, from `from` on.
    pub fn part(&mut self, entry: &Entry, file: &File, from: u64) -> Result<()> {
        let Kind::File { size } = entry.kind else { bail!("{}: not a file", lossy(&entry.path)) };
        self.head(entry)?;
        let kept =
            self.content(entry, size, file, from, false).with_context(|| lossy(&entry.path))?;
        self.note(entry, kept.as_deref());
        Ok(())
    }

    /// Adds a file with this content.
    pub fn bytes(&mut self, entry: &Entry, bytes: &[u8]) -> Result<()> {
        let fits = entry.kind == Kind::File { size: bytes.len() as u64 };
        ensure!(fits, "{}: not a file of {} bytes", lossy(&entry.path), bytes.len());
        self.head(entry)?;
        self.chunks.put(bytes)?;
        self.note(entry, Some(bytes));
        self.chunks.pad(padding(bytes.len() as u64).len())
    }

    /// Ends the layer. Its blob is in the layout, on the disk, and nothing leads to it yet.
    pub fn finish(mut self) -> Result<Packed> {
        self.chunks.pad(2 * BLOCK)?;
        let ((digest, len), (diff_id, size)) = self.chunks.finish()?;
        let desc = image::descriptor(self.compression.media_type(), &digest, len);
        let table = self.table.map(|table| table.finish(&diff_id));
        Ok(Packed { desc, diff_id, size, table })
    }

    /// Puts an entry into the table, with what is in it, if that is known.
    fn note(&mut self, entry: &Entry, content: Option<&[u8]>) {
        if let Some(table) = &mut self.table {
            table.packed(entry, content.filter(|_| Builder::wants(entry)));
        }
    }

    fn head(&mut self, entry: &Entry) -> Result<()> {
        self.write_head(entry).with_context(|| lossy(&entry.path))
    }

    fn write_head(&mut self, entry: &Entry) -> Result<()> {
        check(entry)?;
        if let Some((last, is_directory)) = &self.last {
            ensure!(order(last).lt(order(&entry.path)), "not in order: after {}", lossy(last));
            let inside = entry.path.strip_prefix(&last[..]).is_some_and(|rest| rest[0] == b'/');
            ensure!(*is_directory || !inside, "in a file: {}", lossy(last));
        }
        self.header.clear();
        ustar::header(entry, &mut self.header)?;
        self.chunks.put(&self.header)?;
        let last = self.last.get_or_insert_default();
        last.0.clone_from(&entry.path);
        last.1 = entry.kind == Kind::Directory;
        Ok(())
    }

    /// Adds what is in a file; returns that, if the table wants it.
    fn content(
        &mut self,
        entry: &Entry,
        size: u64,
        file: &File,
        from: u64,
        to_end: bool,
    ) -> Result<Option<Vec<u8>>> {
        let mut kept = (self.table.is_some() && Builder::wants(entry)).then(Vec::new);
        let mut at = 0;
        while at < size || to_end {
            let room = self.chunks.room()?;
            // One byte more than there should be tells a file that has grown.
            let more = size - at + u64::from(to_end);
            let most = room.len().min(usize::try_from(more).unwrap_or(usize::MAX));
            let n = match rustix::io::pread(file, &mut room[..most], from + at) {
                Ok(n) => n,
                Err(Errno::INTR) => continue,
                Err(err) => return Err(err).context("cannot read"),
            };
            ensure!(at + n as u64 <= size, "has grown while it was read");
            if let Some(kept) = &mut kept {
                kept.extend_from_slice(&room[..n]);
            }
            self.chunks.filled(n);
            at += n as u64;
            if at == size && n < most {
                break;
            }
            ensure!(n > 0, "has shrunk while it was read");
        }
        self.chunks.pad(padding(size).len())?;
        Ok(kept)
    }
}

/// Appends the header of an entry to `out`, for a tar that is no layer. Content and zeros up to a block follow.
pub fn header(entry: &Entry, out: &mut Vec<u8>) -> Result<()> {
    check(entry)?;
    ustar::header(entry, out)
}

/// Returns the zeros that follow the data of a file of this size.
pub fn padding(size: u64) -> &'static [u8] {
    &[0; BLOCK][..(size.wrapping_neg() % BLOCK as u64) as usize]
}

/// Returns what paths are ordered by: their components.
fn order(path: &[u8]) -> impl Iterator<Item = u8> {
    path.iter().map(|byte| if *byte == b'/' { 0 } else { *byte })
}

/// Checks that an entry can be in a tar, and be the same for who unpacks it.
fn check(entry: &Entry) -> Result<()> {
    let len = entry.path.len();
    ensure!(len < PATH_MAX, "its path has {len} bytes, more than a layer can hold");
    let is_root = entry.path.is_empty() && entry.kind == Kind::Directory;
    ensure!(is_root || is_path(&entry.path), "not a path of an entry");
    match &entry.kind {
        Kind::Link(target) => ensure!(is_path(target), "a hard link to {}", lossy(target)),
        Kind::Symlink(target) => {
            let fits = !target.is_empty() && target.len() < PATH_MAX && !target.contains(&0);
            ensure!(fits, "a symbolic link to {}", lossy(target));
        }
        // It would be a whiteout to overlay, and so vanish.
        Kind::Device { block: false, major: 0, minor: 0 } => bail!("a character device 0:0"),
        _ => {}
    }
    ensure!(entry.uid != u32::MAX && entry.gid != u32::MAX, "an owner that nobody can be");
    Ok(())
}

/// Returns whether this is a path beneath the root, of components that are names.
fn is_path(path: &[u8]) -> bool {
    let name = |name: &[u8]| !matches!(name, b"" | b"." | b"..");
    path.len() < PATH_MAX && !path.contains(&0) && path.split(|byte| *byte == b'/').all(name)
}

#[cfg(test)]
mod tests;
