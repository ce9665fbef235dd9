//! A layer's table: what it has, by path, without what is in its files.
//!
//! ```text
//! magic                                                       which layout of these bytes it is
//! digest of the diff ID                                       whose table it is
//! kind marks mode uid gid size mtime lengths path more        of each, in the order of paths
//! where each of these begins                                  numbers are little-endian
//! count  is it tangled
//! SHA-256 of all that
//! ```
//!
//! The table says what the layer makes of layers below, whichever they are: so it is kept by diff
//! ID. It can say so as long as no path in the layer leads through a link, no hard link leads out of
//! it, and no mark for what is below depends on its order: no tool that we know writes other layers
//! on purpose. One that is not so is *tangled*, its table is empty, and who wants to know what it
//! has must unpack it. So must who has a layer that is too large for a table.
//!
//! A directory may be *implied*: something is in it, and it has no entry. Then it looks as the one
//! below does, if there is one. The users and groups of an image are asked for in each build, so of
//! files that are called `passwd` or `group` the content is here as well.

mod build;

use std::cmp::Ordering;

use anyhow::{Context, Result, ensure};

use crate::digest::Digest;

pub(super) use self::build::Builder;

const MAGIC: &[u8; 16] = b"tare table, 1\n\0\0";
/// The most bytes of a table: half a million files.
pub const LIMIT: usize = 64 << 20;

const OPAQUE: u8 = 1;
const PASSED: u8 = 2;
const KEPT: u8 = 4;

/// What a layer has at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A directory.
    Directory,
    /// A directory that has no entry: it looks as the one below does.
    Implied,
    /// Nothing, but in it, if it is a directory below, something is removed.
    Mentioned,
    /// Nothing, whatever is below.
    Whiteout,
    /// A file.
    File,
    /// A symbolic link.
    Symlink,
    /// A character device.
    Character,
    /// A block device.
    Block,
    /// A FIFO.
    Fifo,
}

const KINDS: [(Kind, u8); 9] = [
    (Kind::Directory, b'd'),
    (Kind::Implied, b'i'),
    (Kind::Mentioned, b'm'),
    (Kind::Whiteout, b'w'),
    (Kind::File, b'f'),
    (Kind::Symlink, b'l'),
    (Kind::Character, b'c'),
    (Kind::Block, b'b'),
    (Kind::Fifo, b'p'),
];

/// What a layer has at a path, and what is known of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// What it is.
    pub kind: Kind,
    /// Nothing of what is below in this directory is seen.
    pub opaque: bool,
    /// The layer has gone through this directory before it had an entry: below it must be no link.
    pub passed: bool,
    /// Its permissions.
    pub mode: u32,
    /// The user it belongs to.
    pub uid: u32,
    /// The group it belongs to.
    pub gid: u32,
    /// How many bytes a file has; the major number of a device, and the minor one in the lower half.
    pub size: u64,
    /// When it was changed last, in seconds since 1970.
    pub mtime: i64,
    /// Its path, without a slash before or behind it.
    pub path: &'a [u8],
    /// Where a link leads, as it is written.
    pub link: &'a [u8],
    /// What is in a file, if that is kept.
    pub content: Option<&'a [u8]>,
}

/// The table of a layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    bytes: Vec<u8>,
    /// Where the places of records are in these.
    index: usize,
    count: usize,
    tangled: bool,
}

impl Table {
    /// Reads the table of the layer with this diff ID.
    pub fn parse(bytes: Vec<u8>, diff_id: &Digest) -> Result<Table> {
        let (body, sum) = bytes.split_last_chunk::<32>().context("cut off")?;
        ensure!(sha256(body) == *sum, "damaged");
        let rest = body.strip_prefix(MAGIC).context("another format")?;
        let rest = rest.strip_prefix(&sha256(diff_id.to_string().as_bytes()));
        let rest = rest.context("of another layer")?;
        let (rest, tangled) = rest.split_last_chunk().context("cut off")?;
        let (rest, count) = rest.split_last_chunk().context("cut off")?;
        let (tangled, count) = (u32::from_le_bytes(*tangled), u32::from_le_bytes(*count) as usize);
        let records = count.checked_mul(4).and_then(|len| rest.len().checked_sub(len));
        let index = MAGIC.len() + 32 + records.context("cut off")?;
        Ok(Table { bytes, index, count, tangled: tangled != 0 })
    }

    /// Returns the bytes of the table, as [`Table::parse`] reads them.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Returns whether the layer must be unpacked for it to be known what it has.
    pub fn is_tangled(&self) -> bool {
        self.tangled
    }

    /// Returns what the layer has at a path.
    pub fn get(&self, path: &[u8]) -> Option<Record<'_>> {
        let (mut low, mut high) = (0, self.count);
        while low < high {
            let middle = low.midpoint(high);
            let record = self.record(middle)?;
            match compare(record.path, path) {
                Ordering::Less => low = middle + 1,
                Ordering::Greater => high = middle,
                Ordering::Equal => return Some(record),
            }
        }
        None
    }

    /// Returns all that the layer has, a directory before what is in it.
    pub fn records(&self) -> impl Iterator<Item = Record<'_>> {
        (0..self.count).map_while(|number| self.record(number))
    }

    fn record(&self, number: usize) -> Option<Record<'_>> {
        let at = *self.bytes.get(self.index + 4 * number..)?.first_chunk()?;
        let rest = self.bytes.get(u32::from_le_bytes(at) as usize..)?;
        let (kind, rest) = rest.split_first()?;
        let (kind, _) = KINDS.iter().find(|(_, byte)| byte == kind)?;
        let (marks, rest) = rest.split_first()?;
        let (mode, rest) = rest.split_first_chunk()?;
        let (uid, rest) = rest.split_first_chunk()?;
        let (gid, rest) = rest.split_first_chunk()?;
        let (size, rest) = rest.split_first_chunk()?;
        let (mtime, rest) = rest.split_first_chunk()?;
        let (len, rest) = rest.split_first_chunk()?;
        let (more, rest) = rest.split_first_chunk()?;
        let (path, rest) = rest.split_at_checked(u16::from_le_bytes(*len).into())?;
        let more = rest.get(..u32::from_le_bytes(*more) as usize)?;
        Some(Record {
            kind: *kind,
            opaque: marks & OPAQUE != 0,
            passed: marks & PASSED != 0,
            mode: u16::from_le_bytes(*mode).into(),
            uid: u32::from_le_bytes(*uid),
            gid: u32::from_le_bytes(*gid),
            size: u64::from_le_bytes(*size),
            mtime: i64::from_le_bytes(*mtime),
            path,
            link: if *kind == Kind::Symlink { more } else { &[] },
            content: (marks & KEPT != 0).then_some(more),
        })
    }
}

/// Writes a table: records in the order of their paths.
struct Writer {
    bytes: Vec<u8>,
    index: Vec<u8>,
}

impl Writer {
    fn new(diff_id: &Digest) -> Writer {
        let bytes = [MAGIC, &sha256(diff_id.to_string().as_bytes())[..]].concat();
        Writer { bytes, index: Vec::new() }
    }

    /// Adds a record; returns whether there is room for it.
    fn add(&mut self, record: &Record) -> bool {
        self.index.extend((self.bytes.len() as u32).to_le_bytes());
        write(record, &mut self.bytes);
        self.bytes.len() + self.index.len() < LIMIT - 64
    }

    fn finish(self, tangled: bool) -> Table {
        let Writer { mut bytes, index } = self;
        let (at, count) = (bytes.len(), index.len() / 4);
        bytes.extend(index);
        bytes.extend((count as u32).to_le_bytes());
        bytes.extend(u32::from(tangled).to_le_bytes());
        bytes.extend(sha256(&bytes));
        Table { bytes, index: at, count, tangled }
    }
}

fn write(record: &Record, out: &mut Vec<u8>) {
    let kind = KINDS.iter().find(|(kind, _)| *kind == record.kind).map_or(0, |(_, byte)| *byte);
    let mark = |is, mark| if is { mark } else { 0 };
    let kept = mark(record.content.is_some(), KEPT);
    let more = record.content.unwrap_or(record.link);
    out.push(kind);
    out.push(mark(record.opaque, OPAQUE) | mark(record.passed, PASSED) | kept);
    out.extend((record.mode as u16).to_le_bytes());
    out.extend(record.uid.to_le_bytes());
    out.extend(record.gid.to_le_bytes());
    out.extend(record.size.to_le_bytes());
    out.extend(record.mtime.to_le_bytes());
    out.extend((record.path.len() as u16).to_le_bytes());
    out.extend((more.len() as u32).to_le_bytes());
    out.extend(record.path);
    out.extend(more);
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    match Digest::of(bytes) {
        Digest::Sha256(sum) => sum,
        Digest::Sha512(_) => [0; 32], // it is none of these
    }
}

/// Compares paths by their components, so that all that is in a directory follows it.
fn compare(one: &[u8], other: &[u8]) -> Ordering {
    let same = one.iter().zip(other).take_while(|(a, b)| a == b).count();
    let at = |path: &[u8]| path.get(same).map(|c| if *c == b'/' { 0 } else { *c });
    at(one).cmp(&at(other))
}

#[cfg(test)]
pub(crate) mod tests;
