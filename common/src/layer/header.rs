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
        // Linux has 12 and 20 bits. What is cut off could leave 0:0, which is a whiteout to overlay.
        let part = |at, bits: u32| {
            let n = number(self.field(at, 8)).context("bad device number")?;
            let fits = u32::try_from(n).ok().filter(|n| n >> bits == 0);
            fits.with_context(|| format!("bad device number: {n}"))
        };
        Ok((part(329, 12)?, part(337, 20)?))
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

/// Returns whether a block begins a member of a tar: its checksum is right.
pub fn is_header(block: &[u8; BLOCK]) -> bool {
    matches!(Header::new(*block), Ok(Some(_)))
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
    let wrong = key.is_empty() || key.contains(&0) || (is_text && value.contains(&0));
    (!wrong).then_some((key, value, rest))
}

/// Shows bytes from a tar in a message.
pub(super) fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn numbers_are_octal_or_base_256() {
        let good: &[(&[u8], i64)] = &[
            (b"0000644\0", 0o644),
            (b" 644 \0\0\0", 0o644),
            (b"\0\0\0\0\0\0\0\0", 0),
            (b"77777777", 0o77777777),
            (b"7 \0garbag", 7),
            (b"\x80\0\0\0\0\0\x01\0", 256),
            (b"\xff\xff\xff\xff\xff\xff\xff\xfe", -2),
            (b"\x80\0\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff", i64::MAX),
            (b"\xff\xff\xff\xff\xff\x80\0\0\0\0\0\0\0", i64::MIN),
        ];
        for (field, value) in good {
            assert_eq!(number(field).unwrap(), *value, "{field:?}");
        }
        let bad: &[&[u8]] = &[
            b"0000648\0",
            b"-000001\0",
            b"0x1\0\0\0\0\0",
            b"1 2\0\0\0\0\0",
            b"\x80\0\0\0\x01\0\0\0\0\0\0\0\0",
            b"\xff\xff\xfe\xff\xff\xff\xff\xff\xff\xff\xff\xff",
            b"\xbf\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
        ];
        for field in bad {
            assert!(number(field).is_err(), "{field:?}");
        }
    }

    #[test]
    fn times_have_fractions_and_signs() {
        let good = [
            ("0", (0, 0)),
            ("1350244992.023960108", (1350244992, 23960108)),
            ("1.5", (1, 500_000_000)),
            ("1.", (1, 0)),
            ("1.0000000009", (1, 0)),
            ("-1.5", (-2, 500_000_000)),
            ("-7", (-7, 0)),
            ("9223372036854775807", (i64::MAX, 0)),
        ];
        for (text, (sec, nsec)) in good {
            let time = time(text.as_bytes()).unwrap();
            assert_eq!((time.tv_sec, time.tv_nsec), (sec, nsec), "{text}");
        }
        for bad in ["", "-", ".5", "1.5x", "1e3", "--1", "+1", " 1", "9223372036854775808", "1.-5"]
        {
            assert!(time(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn owners_that_chown_would_misread_are_refused() {
        for (id, good) in [(0, true), (4294967294, true), (4294967295, false), (1 << 32, false)] {
            assert_eq!(owner(id).is_ok(), good, "{id}");
        }
        assert!(owner(-1).is_err() && owner(i64::MIN).is_err());
    }

    #[test]
    fn pax_records_are_as_long_as_they_say() {
        let all = |data: &'static [u8]| records(data).collect::<Result<Vec<_>>>().ok();
        let good = all(b"9 a=b=\nc\n6 k=v\n5 e=\n").unwrap();
        assert_eq!(good, [(&b"a"[..], &b"b=\nc"[..]), (b"k", b"v"), (b"e", b"")]);
        let binary = all(b"22 SCHILY.xattr.x=\0\xff\n\n").unwrap();
        assert_eq!(binary, [(&b"SCHILY.xattr.x"[..], &b"\0\xff\n"[..])]);
        let bads: &[&[u8]] = &[
            b"6 k=v",
            b"7 k=v\n",
            b"5 k=v\n",
            b"06k=v\n",
            b"5 kv\n",
            b"4 =\n",
            b" k=v\n",
            b"-6 k=v\n",
            b"0 k=v\n",
            b"1 \n",
            b"99999999999999999999 k=v\n",
            b"8 path=\0\n",
            b"\0",
        ];
        for bad in bads {
            assert!(records(bad).any(|record| record.is_err()), "{bad:?}");
        }
    }

    #[test]
    fn a_name_has_its_prefix_where_the_dialect_has_one() {
        let header = |magic: &[u8], prefix: &[u8], end: &[u8]| {
            let mut block = [0; BLOCK];
            block[0] = b'n';
            block[257..257 + magic.len()].copy_from_slice(magic);
            block[345..345 + prefix.len()].copy_from_slice(prefix);
            block[512 - end.len()..].copy_from_slice(end);
            Header { block }.name()
        };
        assert_eq!(header(b"ustar\x0000", b"p", b""), b"p/n");
        assert_eq!(header(b"ustar\x0000", b"", b""), b"n");
        assert_eq!(header(b"ustar\0  ", b"p", b""), b"p/n");
        assert_eq!(header(b"ustar  \0", b"00000000001", b""), b"n");
        assert_eq!(header(b"ustar  \0", b"some/long/path", b""), b"some/long/path/n");
        assert_eq!(header(b"", b"p", b""), b"n");
        let long = [b'p'; 150];
        assert_eq!(header(b"ustar\x0000", &long, b"tar\0").len(), 131 + 2);
    }

    #[test]
    fn a_device_has_a_number_that_linux_has() {
        let device = |major: &[u8; 8], minor: &[u8; 8]| {
            let mut block = [0; BLOCK];
            block[257..265].copy_from_slice(b"ustar\x0000");
            block[329..337].copy_from_slice(major);
            block[337..345].copy_from_slice(minor);
            Header { block }.device().ok()
        };
        assert_eq!(device(b"0007777\0", b"3777777\0"), Some((0xfff, 0xfffff)));
        // These are 0:0 to mknod(2), or another device's.
        assert_eq!(device(b"0010000\0", b"0000000\0"), None);
        assert_eq!(device(b"0000000\0", b"4000000\0"), None);
        assert_eq!(device(b"\x80\0\0\x01\0\0\0\0", b"0000000\0"), None);
    }

    #[test]
    fn a_checksum_may_add_signed_bytes() {
        let mut block = [0; BLOCK];
        block[0] = 0xff;
        for (sum, good) in [(255 + 256, true), (256 - 1, true), (256, false)] {
            block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
            assert_eq!(Header::new(block).is_ok(), good, "{sum}");
        }
        assert!(Header::new([0; BLOCK]).unwrap().is_none());
    }

    proptest! {
        #[test]
        fn no_header_makes_it_panic(bytes in proptest::collection::vec(any::<u8>(), BLOCK)) {
            let header = Header { block: bytes.clone().try_into().unwrap() };
            let _ = (header.name(), header.mode(), header.uid(), header.gid(), header.size());
            let _ = (header.mtime(), header.device(), header.gnu_sparse().is_ok());
            let _ = more_regions(&header.block, &mut Vec::new());
            records(&bytes).for_each(drop);
            let _ = time(&bytes[..20]);
        }

        #[test]
        fn octal_numbers_are_what_they_were(value in 0i64..0o777777777777, before in 0usize..4, end in 0usize..3) {
            let digits = format!("{}{value:o}{}", &["", " ", "0", "\0"][before], &["\0", " ", " \0"][end]);
            prop_assert_eq!(number(digits.as_bytes()).unwrap(), value);
        }

        #[test]
        fn binary_numbers_are_what_they_were(value in any::<i64>(), len in 9usize..13) {
            let mut field = vec![if value < 0 { 0xff } else { 0 }; len];
            field[len - 8..].copy_from_slice(&value.to_be_bytes());
            field[0] |= 0x80;
            prop_assert_eq!(number(&field).unwrap(), value);
        }

        /// In eight bytes the first bit is taken, so the value has one less.
        #[test]
        fn binary_numbers_of_eight_bytes_are_what_they_were(value in -(1i64 << 62)..1i64 << 62) {
            let mut field = value.to_be_bytes();
            field[0] |= 0x80;
            prop_assert_eq!(number(&field).unwrap(), value);
        }

        #[test]
        fn times_are_what_they_were(sec in -(1i64 << 40)..1i64 << 40, nsec in 0i64..1_000_000_000) {
            let text = match (sec, nsec) {
                (_, 0) => sec.to_string(),
                (0.., _) => format!("{sec}.{nsec:09}"),
                // The fraction counts away from zero.
                _ => format!("-{}.{:09}", -(sec + 1), 1_000_000_000 - nsec),
            };
            let time = time(text.as_bytes()).unwrap();
            prop_assert_eq!((time.tv_sec, time.tv_nsec), (sec, nsec), "{}", text);
        }

        #[test]
        fn pax_records_are_what_they_were(
            pairs in proptest::collection::vec(("[a-zA-Z.]{1,12}", "[^\0]{0,120}"), 0..8),
        ) {
            let mut data = Vec::new();
            for (key, value) in &pairs {
                let rest = format!(" {key}={value}\n");
                let fits = |len: &usize| len.to_string().len() + rest.len() == *len;
                let len = (rest.len()..).find(fits).unwrap();
                data.extend_from_slice(format!("{len}{rest}").as_bytes());
            }
            let read: Vec<_> = records(&data).map(Result::unwrap).collect();
            let wrote: Vec<_> = pairs.iter().map(|(k, v)| (k.as_bytes(), v.as_bytes())).collect();
            prop_assert_eq!(read, wrote);
            // One byte less is an error, and no shorter list.
            if let Some((_, short)) = data.split_last() {
                prop_assert!(records(short).any(|record| record.is_err()));
            }
        }

        #[test]
        fn a_name_is_what_it_was(prefix in "[a-z/.]{1,155}", name in "[a-z/.]{1,100}") {
            let mut block = [0; BLOCK];
            block[..name.len()].copy_from_slice(name.as_bytes());
            block[257..265].copy_from_slice(b"ustar\x0000");
            block[345..345 + prefix.len()].copy_from_slice(prefix.as_bytes());
            prop_assert_eq!(Header { block }.name(), format!("{prefix}/{name}").into_bytes());
        }

        #[test]
        fn no_record_makes_it_panic(text in "[0-9]{0,3} ?[a-zA-Z.=\n]{0,20}") {
            records(text.as_bytes()).for_each(drop);
            let _ = time(text.as_bytes());
        }
    }
}
