//! What the blocks of a tar say: ustar, old GNU and old Unix headers, and PAX records.
//!
//! Where GNU tar and Go's archive/tar (which Docker, containerd and umoci use)
//! read the same bytes as different entries, we refuse them: else somebody
//! could have scanned another tree than we unpack.

use anyhow::{Context, Result, anyhow, bail, ensure};
use rustix::fs::Timespec;

use super::stream::BLOCK;

/// A header block whose checksum is right.
pub(super) struct Header {
    block: [u8; BLOCK],
}

/// The dialects, by their magic.
#[derive(Clone, Copy, PartialEq)]
enum Dialect {
    Unix,
    Ustar,
    Star,
    Gnu,
}

impl Header {
    /// Checks `block`; nothing if it is all zero, which ends a tar.
    pub(super) fn new(block: [u8; BLOCK]) -> Result<Option<Header>> {
        if block.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        let header = Header { block };
        let stored = number(header.field(148, 8)).context("not a tar header: bad checksum")?;
        // Some old tars added up signed bytes.
        let (mut unsigned, mut signed) = (0, 0);
        for (i, byte) in block.iter().enumerate() {
            let byte = if (148..156).contains(&i) { b' ' } else { *byte };
            unsigned += i64::from(byte);
            signed += i64::from(byte as i8);
        }
        ensure!(stored == unsigned || stored == signed, "not a tar header: bad checksum");
        Ok(Some(header))
    }

    fn field(&self, at: usize, len: usize) -> &[u8] {
        &self.block[at..at + len]
    }

    fn dialect(&self) -> Dialect {
        match self.field(257, 8) {
            [b'u', b's', b't', b'a', b'r', 0, ..] if self.field(508, 4) == b"tar\0" => {
                Dialect::Star
            }
            [b'u', b's', b't', b'a', b'r', 0, ..] => Dialect::Ustar,
            b"ustar  \0" => Dialect::Gnu,
            _ => Dialect::Unix,
        }
    }

    pub(super) fn typeflag(&self) -> u8 {
        self.block[156]
    }

    pub(super) fn name(&self) -> Vec<u8> {
        let name = text(self.field(0, 100));
        let prefix = match self.dialect() {
            Dialect::Ustar => text(self.field(345, 155)),
            Dialect::Star => text(self.field(345, 131)),
            // Go before 1.8 wrote a prefix here as well, over GNU's two times.
            Dialect::Gnu if self.misused() => text(self.field(345, 155)),
            Dialect::Gnu | Dialect::Unix => &[],
        };
        if prefix.is_empty() { name.into() } else { [prefix, b"/", name].concat() }
    }

    /// Whether what should be GNU's access and change time is part of a path.
    fn misused(&self) -> bool {
        let times = [self.field(345, 12), self.field(357, 12)];
        let bad = times.iter().any(|field| field[0] != 0 && number(field).is_err());
        bad && text(self.field(345, 155)).is_ascii()
    }

    pub(super) fn link(&self) -> &[u8] {
        text(self.field(157, 100))
    }

    pub(super) fn mode(&self) -> Result<u32> {
        let mode = number(self.field(100, 8)).context("bad mode")?;
        ensure!(mode >= 0, "bad mode: negative");
        Ok((mode & 0o7777) as u32) // the type's bits may be there as well
    }

    pub(super) fn uid(&self) -> Result<u32> {
        number(self.field(108, 8)).and_then(owner).context("bad user ID")
    }

    pub(super) fn gid(&self) -> Result<u32> {
        number(self.field(116, 8)).and_then(owner).context("bad group ID")
    }

    pub(super) fn size(&self) -> Result<u64> {
        let size = number(self.field(124, 12)).context("bad size")?;
        u64::try_from(size).map_err(|_| anyhow!("bad size: negative"))
    }

    pub(super) fn mtime(&self) -> Result<Timespec> {
        let tv_sec = number(self.field(136, 12)).context("bad time")?;
        Ok(Timespec { tv_sec, tv_nsec: 0 })
    }

    /// Returns the major and minor number of a device.
    pub(super) fn device(&self) -> Result<(u32, u32)> {
        if self.dialect() == Dialect::Unix {
            return Ok((0, 0));
        }
        let part = |at| {
            let n = number(self.field(at, 8)).context("bad device number")?;
            u32::try_from(n).map_err(|_| anyhow!("bad device number: {n}"))
        };
        Ok((part(329)?, part(337)?))
    }

    /// Returns the first part of an old GNU sparse map, whether blocks of more follow, and the file's full size.
    pub(super) fn gnu_sparse(&self) -> Result<(Vec<Region>, bool, u64)> {
        ensure!(self.dialect() == Dialect::Gnu, "a sparse file, but not in GNU's format");
        let mut map = Vec::new();
        let whole = regions(self.field(386, 4 * 24), &mut map)?;
        let size = number(self.field(483, 12)).context("bad sparse size")?;
        let size = u64::try_from(size).map_err(|_| anyhow!("bad sparse size: negative"))?;
        Ok((map, !whole && self.block[482] != 0, size))
    }
}

/// A piece of a sparse file that has data.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Region {
    pub(super) offset: u64,
    pub(super) len: u64,
}

/// The most regions that a sparse file may have.
const REGIONS: usize = 1 << 16;

/// Reads a block that continues an old GNU sparse map; true if another follows.
pub(super) fn more_regions(block: &[u8; BLOCK], map: &mut Vec<Region>) -> Result<bool> {
    let whole = regions(&block[..21 * 24], map)?;
    Ok(!whole && block[504] != 0)
}

/// Reads pairs of twelve-byte numbers; true at the empty one that ends the map.
fn regions(fields: &[u8], map: &mut Vec<Region>) -> Result<bool> {
    for pair in fields.chunks_exact(24) {
        if pair[0] == 0 {
            return Ok(true);
        }
        let offset = number(&pair[..12]).context("bad sparse map")?;
        push_region(map, offset, number(&pair[12..]).context("bad sparse map")?)?;
    }
    Ok(false)
}

/// Adds a region, which must lie behind those that are there.
pub(super) fn push_region(map: &mut Vec<Region>, offset: i64, len: i64) -> Result<()> {
    let end = map.last().map_or(0, |last| last.offset + last.len);
    let right = offset >= 0 && len >= 0 && offset as u64 >= end;
    ensure!(right && offset.checked_add(len).is_some(), "bad sparse map");
    ensure!(map.len() < REGIONS, "bad sparse map: more than {REGIONS} pieces");
    map.push(Region { offset: offset as u64, len: len as u64 });
    Ok(())
}

/// Returns the text in a field: what is before the first NUL.
pub(super) fn text(field: &[u8]) -> &[u8] {
    field.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// Reads a number: octal digits, or GNU's base-256 if the first bit is set.
fn number(field: &[u8]) -> Result<i64> {
    if field[0] & 0x80 != 0 {
        // Two's complement, big-endian, without the first bit.
        let negative = field[0] & 0x40 != 0;
        let mut value: i64 = if negative { -1 } else { 0 };
        for (i, byte) in field.iter().enumerate() {
            let byte = match i {
                0 if negative => byte | 0x80,
                0 => byte & 0x7f,
                _ => *byte,
            };
            ensure!((value << 8) >> 8 == value, "number too large");
            value = value << 8 | i64::from(byte);
        }
        return Ok(value);
    }
    let odd = |byte: &u8| *byte == b' ' || *byte == 0;
    let start = field.iter().position(|byte| !odd(byte)).unwrap_or(field.len());
    let digits = text(&field[start..]).trim_ascii_end();
    let mut value: i64 = 0;
    for digit in digits {
        ensure!((b'0'..=b'7').contains(digit), "not a number: {:?}", lossy(digits));
        // Twelve digits at most fit.
        value = value << 3 | i64::from(digit - b'0');
    }
    Ok(value)
}

/// Checks a user or group ID. -1 means "leave it" to chown(2), and what does not fit would wrap to root.
pub(super) fn owner(id: i64) -> Result<u32> {
    match u32::try_from(id) {
        Ok(id) if id < u32::MAX => Ok(id),
        _ => bail!("{id} is out of range"),
    }
}

/// Reads a decimal number, as PAX records have them.
pub(super) fn decimal(digits: &[u8]) -> Result<i64> {
    let right = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    let value = right.then(|| std::str::from_utf8(digits).ok()?.parse().ok()).flatten();
    value.with_context(|| format!("not a number: {:?}", lossy(digits)))
}

/// Reads a PAX time: seconds since the epoch, perhaps negative, with a fraction of any length.
pub(super) fn time(text: &[u8]) -> Result<Timespec> {
    let (negative, digits) = match text.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let mut parts = digits.splitn(2, |byte| *byte == b'.');
    let mut tv_sec = decimal(parts.next().unwrap_or_default())?;
    let mut tv_nsec = 0;
    let fraction = parts.next().unwrap_or_default();
    ensure!(fraction.iter().all(u8::is_ascii_digit), "not a time: {:?}", lossy(text));
    for i in 0..9 {
        tv_nsec = tv_nsec * 10 + fraction.get(i).map_or(0, |digit| i64::from(digit - b'0'));
    }
    if negative {
        tv_sec = -tv_sec;
        if tv_nsec > 0 {
            (tv_sec, tv_nsec) = (tv_sec - 1, 1_000_000_000 - tv_nsec);
        }
    }
    Ok(Timespec { tv_sec, tv_nsec })
}

/// Splits a PAX header into its records, `LENGTH KEY=VALUE\n` each.
pub(super) fn records(mut data: &[u8]) -> impl Iterator<Item = Result<(&[u8], &[u8])>> {
    std::iter::from_fn(move || {
        if data.is_empty() {
            return None;
        }
        let Some((key, value, rest)) = record(data) else {
            data = &[];
            return Some(Err(anyhow!("bad PAX record")));
        };
        data = rest;
        Some(Ok((key, value)))
    })
}

fn record(data: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let digits = data.iter().take(20).position(|byte| *byte == b' ')?;
    let len = usize::try_from(decimal(&data[..digits]).ok()?).ok()?;
    let (record, rest) = data.split_at_checked(len)?;
    let record = record.get(digits + 1..)?.strip_suffix(b"\n")?;
    let equals = record.iter().position(|byte| *byte == b'=')?;
    let (key, value) = (&record[..equals], &record[equals + 1..]);
    // A NUL would end a name early for some readers.
    let is_text = !key.starts_with(b"SCHILY.xattr.") && !key.starts_with(b"LIBARCHIVE.");
    let right = !key.is_empty() && !key.contains(&0) && !(is_text && value.contains(&0));
    right.then_some((key, value, rest))
}

/// Shows bytes from a tar in a message.
pub(super) fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
