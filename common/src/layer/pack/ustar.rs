//! What the headers of a packed layer look like: POSIX ustar, and PAX records for what does not fit there.
//!
//! Equal entries have equal bytes: numeric owners without names, whole seconds, no other times, and
//! PAX records in the order of their keys.

use anyhow::{Result, ensure};

use super::{Entry, Kind};
use crate::layer::stream::BLOCK;

/// The most bytes of the records of an entry: what Go's archive/tar, and our own reader, take.
const RECORDS: usize = 1 << 20;

/// The lengths of the fields that a path is in.
const NAME: usize = 100;
const PREFIX: usize = 155;

/// Appends the blocks that stand before the data of `entry`.
pub(super) fn header(entry: &Entry, out: &mut Vec<u8>) -> Result<()> {
    let path = stored_path(entry);
    let link: &[u8] = match &entry.kind {
        Kind::Symlink(target) | Kind::Link(target) => target,
        _ => &[],
    };
    let place = split(&path);
    let size = match entry.kind {
        Kind::File { size } => size,
        _ => 0,
    };

    // In the order of their keys.
    let mut records = Vec::new();
    for (name, value) in &entry.xattrs {
        ensure!(!name.is_empty(), "an attribute without a name");
        record(&[b"SCHILY.xattr.", &escape(name)[..]].concat(), value, &mut records);
    }
    if !fits(entry.gid.into(), 7) {
        record(b"gid", entry.gid.to_string().as_bytes(), &mut records);
    }
    if link.len() > NAME || !link.is_ascii() {
        record(b"linkpath", link, &mut records);
    }
    if !fits(entry.mtime, 11) {
        record(b"mtime", entry.mtime.to_string().as_bytes(), &mut records);
    }
    if place.is_none() {
        record(b"path", &path, &mut records);
    }
    if !i64::try_from(size).is_ok_and(|size| fits(size, 11)) {
        record(b"size", size.to_string().as_bytes(), &mut records);
    }
    if !fits(entry.uid.into(), 7) {
        record(b"uid", entry.uid.to_string().as_bytes(), &mut records);
    }
    ensure!(records.len() <= RECORDS, "more than 1 MiB of names and attributes");
    if !records.is_empty() {
        let mut extension = Block::new(b'x');
        extension.text(0, b"PaxHeader");
        extension.number(124, 11, records.len() as i64);
        out.extend_from_slice(&extension.sealed());
        out.extend_from_slice(&records);
        out.resize(out.len().next_multiple_of(BLOCK), 0);
    }

    let mut block = Block::new(match entry.kind {
        Kind::File { .. } => b'0',
        Kind::Link(_) => b'1',
        Kind::Symlink(_) => b'2',
        Kind::Device { block: false, .. } => b'3',
        Kind::Device { block: true, .. } => b'4',
        Kind::Directory => b'5',
        Kind::Fifo => b'6',
    });
    match place {
        Some((prefix, name)) => {
            block.text(0, name);
            block.text(345, prefix);
        }
        // For readers that know no records. A slash at its end would make a file a directory for some.
        None => {
            let name = shortened(&path);
            block.text(0, name.strip_suffix(b"/").unwrap_or(name));
        }
    }
    block.number(100, 7, (entry.mode & 0o7777).into());
    block.number(108, 7, entry.uid.into());
    block.number(116, 7, entry.gid.into());
    block.number(124, 11, i64::try_from(size).unwrap_or(i64::MAX));
    block.number(136, 11, entry.mtime);
    block.text(157, shortened(link));
    if let Kind::Device { major, minor, .. } = entry.kind {
        // Linux has 12 and 20 bits.
        ensure!(major >> 12 == 0 && minor >> 20 == 0, "no device number: {major}:{minor}");
        block.number(329, 7, major.into());
        block.number(337, 7, minor.into());
    }
    out.extend_from_slice(&block.sealed());
    Ok(())
}

/// Returns the path of an entry as it is written: a directory's ends in a slash.
fn stored_path(entry: &Entry) -> Vec<u8> {
    match (&entry.kind, &entry.path[..]) {
        (Kind::Directory, []) => b"./".to_vec(),
        (Kind::Directory, path) => [path, b"/"].concat(),
        (_, path) => path.to_vec(),
    }
}

/// Splits a path into prefix and name; nothing if it does not fit in the two fields, or is not ASCII.
fn split(path: &[u8]) -> Option<(&[u8], &[u8])> {
    if !path.is_ascii() {
        return None;
    }
    if path.len() <= NAME {
        return Some((&[], path));
    }
    // The longest prefix that leaves a name: the slash that ends a directory's path is a part of its name.
    let most = path.len().min(PREFIX + 1).min(path.len() - 1);
    let slash = path[..most].iter().rposition(|byte| *byte == b'/')?;
    let (prefix, name) = (&path[..slash], &path[slash + 1..]);
    (!prefix.is_empty() && !name.is_empty() && name.len() <= NAME).then_some((prefix, name))
}

/// Returns as much of `text` as there is room for in the field of a name, if it may stand there.
fn shortened(text: &[u8]) -> &[u8] {
    let text = &text[..text.len().min(NAME)];
    if text.is_ascii() { text } else { &[] }
}

/// Returns whether a number fits in so many octal digits.
fn fits(number: i64, digits: u32) -> bool {
    number >= 0 && number >> (3 * digits) == 0
}

/// Appends a record of a PAX header, which begins with its own length.
fn record(key: &[u8], value: &[u8], out: &mut Vec<u8>) {
    let rest = key.len() + value.len() + 3;
    let mut len = rest;
    while len != rest + decimals(len) {
        len = rest + decimals(len);
    }
    out.extend_from_slice(len.to_string().as_bytes());
    out.push(b' ');
    out.extend_from_slice(key);
    out.push(b'=');
    out.extend_from_slice(value);
    out.push(b'\n');
}

fn decimals(number: usize) -> usize {
    number.checked_ilog10().map_or(1, |log| log as usize + 1)
}

/// Writes the name of an attribute as GNU tar does: `=` would end the key.
///
/// A `%` is left alone where that reads back as it is: Go reads names without undoing this.
fn escape(name: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(name.len());
    for (at, byte) in name.iter().enumerate() {
        match byte {
            b'=' => out.extend_from_slice(b"%3D"),
            b'%' if matches!(name.get(at + 1..at + 3), Some(b"3D" | b"25")) => {
                out.extend_from_slice(b"%25");
            }
            byte => out.push(*byte),
        }
    }
    out
}

/// A header in the making.
struct Block([u8; BLOCK]);

impl Block {
    fn new(typeflag: u8) -> Block {
        let mut block = Block([0; BLOCK]);
        for at in [100, 108, 116, 329, 337] {
            block.number(at, 7, 0);
        }
        block.number(124, 11, 0);
        block.number(136, 11, 0);
        block.text(156, &[typeflag]);
        block.text(257, b"ustar\x0000");
        block
    }

    fn text(&mut self, at: usize, text: &[u8]) {
        self.0[at..at + text.len()].copy_from_slice(text);
    }

    /// Writes a number, or 0 where a record has it.
    fn number(&mut self, at: usize, digits: usize, number: i64) {
        let number = if fits(number, digits as u32) { number } else { 0 };
        for (n, byte) in self.0[at..at + digits].iter_mut().rev().enumerate() {
            *byte = b'0' + (number >> (3 * n) & 7) as u8;
        }
        self.0[at + digits] = 0;
    }

    /// Returns the block with its checksum.
    fn sealed(mut self) -> [u8; BLOCK] {
        self.text(148, b"        ");
        let sum: u32 = self.0.iter().map(|byte| u32::from(*byte)).sum();
        self.number(148, 6, sum.into());
        self.text(155, b" ");
        self.0
    }
}
