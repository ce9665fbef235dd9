//! The entries of a tar: headers joined with the extensions that precede them.

use std::fs::File;
use std::os::unix::fs::FileExt;

use anyhow::{Context, Result, bail, ensure};
use rustix::fs::Timespec;

use super::header::{
    Header, Region, decimal, lossy, more_regions, owner, push_region, records, text, time,
};
use super::stream::{BLOCK, Stream};

/// The most bytes of a PAX header, or of a sparse map, as Go has it.
const EXTENSION: u64 = 1 << 20;

/// The most bytes of a GNU long name; what the kernel takes is less.
const LONG_NAME: u64 = 64 << 10;

/// The most extended attributes of an entry; the kernel lists 64 KiB of their names.
const XATTRS: usize = 4096;

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    File,
    HardLink,
    Symlink,
    Directory,
    Character,
    Block,
    Fifo,
}

/// An entry of a tar, all dialects alike.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) kind: Kind,
    /// As it is written: not to be trusted.
    pub(super) name: Vec<u8>,
    /// Where a link leads, as it is written.
    pub(super) link: Vec<u8>,
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) mtime: Timespec,
    pub(super) device: (u32, u32),
    /// The size of the file, holes included.
    pub(super) size: u64,
    /// Where the data goes, if the file has holes.
    pub(super) sparse: Option<Vec<Region>>,
    pub(super) xattrs: Vec<Xattr>,
}

/// An extended attribute: its name and its value.
pub(super) type Xattr = (Vec<u8>, Vec<u8>);

/// What came before a header and belongs to it.
#[derive(Default)]
struct Extensions {
    pax: Option<Pax>,
    long_name: Option<Vec<u8>>,
    long_link: Option<Vec<u8>>,
}

impl Extensions {
    fn is_empty(&self) -> bool {
        self.pax.is_none() && self.long_name.is_none() && self.long_link.is_none()
    }
}

/// The records of a PAX header that mean something here.
#[derive(Default)]
struct Pax {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    uid: Option<u32>,
    gid: Option<u32>,
    size: Option<u64>,
    mtime: Option<Timespec>,
    xattrs: Vec<Xattr>,
    sparse: PaxSparse,
}

/// GNU's sparse formats 0.0, 0.1 and 1.0. GNU tar manual, Storing Sparse Files.
#[derive(Default)]
struct PaxSparse {
    major: Option<Vec<u8>>,
    minor: Option<Vec<u8>>,
    name: Option<Vec<u8>>,
    size: Option<u64>,
    /// In format 0.0: the offset whose length is the next record.
    offset: Option<i64>,
    map: Option<Vec<Region>>,
}

/// Reads the entries of a tar, one after the other.
pub(super) struct Entries<'a> {
    stream: Stream<'a>,
    /// Bytes of the current entry's data that were not yet read.
    rest: u64,
    /// What fills its last block.
    padding: u64,
    /// A block of zeros has ended the tar.
    marked: bool,
}

impl<'a> Entries<'a> {
    pub(super) fn new(stream: Stream<'a>) -> Self {
        Entries { stream, rest: 0, padding: 0, marked: false }
    }

    /// Returns the next entry; nothing behind the last.
    pub(super) fn next(&mut self) -> Result<Option<Entry>> {
        let mut extensions = Extensions::default();
        loop {
            self.stream.skip(self.rest)?;
            self.stream.skip(self.padding)?;
            (self.rest, self.padding) = (0, 0);
            let header = match self.stream.block()? {
                Some(block) => {
                    let header = Header::new(block)?;
                    self.marked = header.is_none();
                    header
                }
                None => None,
            };
            let Some(header) = header else {
                ensure!(extensions.is_empty(), "truncated tar: a header without its entry");
                // A second block of zeros ends a tar. If the file ends first, it is as good to Go and to GNU tar.
                if let Some(block) = self.stream.block()? {
                    ensure!(Header::new(block)?.is_none(), "a block of zeros between entries");
                }
                return Ok(None);
            };
            match header.typeflag() {
                b'x' => {
                    ensure!(extensions.pax.is_none(), "two PAX headers for one entry");
                    let data = self.extension(&header, EXTENSION)?;
                    extensions.pax = Some(pax(&data)?);
                }
                b'g' => {
                    ensure!(extensions.is_empty(), "a global PAX header between parts of an entry");
                    global(&self.extension(&header, EXTENSION)?)?;
                }
                b'L' => {
                    ensure!(extensions.long_name.is_none(), "two long names for one entry");
                    let data = self.extension(&header, LONG_NAME)?;
                    extensions.long_name = Some(text(&data).into());
                }
                b'K' => {
                    ensure!(extensions.long_link.is_none(), "two long links for one entry");
                    let data = self.extension(&header, LONG_NAME)?;
                    extensions.long_link = Some(text(&data).into());
                }
                _ => {
                    let name = lossy(&header.name());
                    return self.entry(&header, extensions).context(name).map(Some);
                }
            }
        }
    }

    /// Returns some of the entry's data, nothing at its end.
    pub(super) fn data(&mut self) -> Result<&[u8]> {
        if self.rest == 0 {
            return Ok(&[]);
        }
        let piece = self.stream.bytes(self.rest)?;
        self.rest -= piece.len() as u64;
        Ok(piece)
    }

    /// Puts some of the entry's data at `at` in `to`; returns how much, none at its end.
    pub(super) fn transfer(&mut self, to: &File, at: u64) -> Result<u64> {
        let moved = self.stream.transfer(to, at, self.rest)?;
        self.rest -= moved;
        if moved > 0 {
            return Ok(moved);
        }
        let piece = self.data()?;
        to.write_all_at(piece, at)?;
        Ok(piece.len() as u64)
    }

    /// Returns whether the tar, now read, had a mark at its end.
    pub(super) fn is_marked(&self) -> bool {
        self.marked
    }

    /// Returns the stream, of which some is not yet read.
    pub(super) fn into_stream(self) -> Stream<'a> {
        self.stream
    }

    fn expect(&mut self, size: u64) {
        self.rest = size;
        self.padding = size.wrapping_neg() % BLOCK as u64;
    }

    /// Reads the data of a header that extends the next one.
    fn extension(&mut self, header: &Header, limit: u64) -> Result<Vec<u8>> {
        // This size is its own: what a PAX header says is about the entry.
        let size = header.size()?;
        ensure!(size <= limit, "a name or PAX header of {size} bytes, more than {limit}");
        self.expect(size);
        let mut data = Vec::new();
        loop {
            match self.data()? {
                [] => return Ok(data),
                piece => data.extend_from_slice(piece),
            }
        }
    }

    /// Joins `header` with what came before it.
    fn entry(&mut self, header: &Header, extensions: Extensions) -> Result<Entry> {
        let Extensions { pax, long_name, long_link } = extensions;
        let pax = pax.unwrap_or_default();
        // Go takes the GNU name, GNU tar the PAX one.
        let twice = (long_name.is_some() && (pax.path.is_some() || pax.sparse.name.is_some()))
            || (long_link.is_some() && pax.link.is_some());
        ensure!(!twice, "a GNU long name and a PAX path for one entry");

        let stored = match pax.size {
            Some(size) => size,
            None => header.size()?,
        };
        let gnu_sparse = header.typeflag() == b'S';
        let name = pax.path.or(long_name).unwrap_or_else(|| header.name());
        let mut entry = Entry {
            kind: kind(header.typeflag(), &name)?,
            name,
            link: pax.link.or(long_link).unwrap_or_else(|| header.link().into()),
            mode: header.mode()?,
            uid: pax.uid.map_or_else(|| header.uid(), Ok)?,
            gid: pax.gid.map_or_else(|| header.gid(), Ok)?,
            mtime: pax.mtime.map_or_else(|| header.mtime(), Ok)?,
            device: (0, 0),
            size: stored,
            sparse: None,
            xattrs: pax.xattrs,
        };
        match entry.kind {
            Kind::File => self.expect(stored),
            // Go reads no data here; GNU tar sometimes does.
            _ => ensure!(stored == 0, "data in an entry that is no file"),
        }
        if matches!(entry.kind, Kind::Character | Kind::Block) {
            entry.device = header.device()?;
        }
        if entry.kind == Kind::File {
            if gnu_sparse {
                let (mut map, mut more, size) = header.gnu_sparse()?;
                while more {
                    // The map's blocks lie before the data and do not count as such.
                    let block = self.stream.block()?.context("truncated tar")?;
                    more = more_regions(&block, &mut map)?;
                }
                entry.size = size;
                entry.sparse = Some(map);
            } else {
                self.pax_sparse(pax.sparse, &mut entry)?;
            }
            // A name that ends in a slash is a directory to GNU tar.
            ensure!(!entry.name.ends_with(b"/"), "a file whose name ends in a slash");
        }
        if let Some(map) = &entry.sparse {
            let data: u64 = map.iter().map(|region| region.len).sum();
            let end = map.last().map_or(0, |last| last.offset + last.len);
            ensure!(data == self.rest && end <= entry.size, "bad sparse map: not of this file");
        }
        Ok(entry)
    }

    fn pax_sparse(&mut self, sparse: PaxSparse, entry: &mut Entry) -> Result<()> {
        let version = (sparse.major.as_deref(), sparse.minor.as_deref());
        let map = match version {
            (Some(b"1"), Some(b"0")) => self.sparse_map()?,
            (Some(b"0"), Some(b"0" | b"1")) => sparse.map.unwrap_or_default(),
            (None, None) if sparse.map.is_some() => sparse.map.unwrap_or_default(),
            (None, None) => {
                ensure!(sparse.name.is_none() && sparse.size.is_none(), "a sparse file, no map");
                return Ok(());
            }
            _ => bail!("an unknown format of sparse file"),
        };
        ensure!(sparse.offset.is_none(), "bad sparse map");
        entry.size = sparse.size.context("a sparse file without its size")?;
        if let Some(name) = sparse.name {
            entry.name = name;
        }
        entry.sparse = Some(map);
        Ok(())
    }

    /// Reads the map of sparse format 1.0, which begins the data: decimal lines, padded to a block.
    fn sparse_map(&mut self) -> Result<Vec<Region>> {
        let mut block = [0; BLOCK];
        let mut pos = BLOCK;
        let mut blocks = 0;
        let mut number = |entries: &mut Self| -> Result<i64> {
            let mut digits = Vec::new();
            loop {
                if pos == BLOCK {
                    ensure!(entries.rest >= BLOCK as u64, "bad sparse map: it is cut off");
                    ensure!(blocks < EXTENSION / BLOCK as u64 * 4, "bad sparse map: too long");
                    block = entries.stream.block()?.context("truncated tar")?;
                    entries.rest -= BLOCK as u64;
                    blocks += 1;
                    pos = 0;
                }
                pos += 1;
                match block[pos - 1] {
                    b'\n' => return decimal(&digits).context("bad sparse map"),
                    digit if digits.len() < 20 => digits.push(digit),
                    _ => bail!("bad sparse map"),
                }
            }
        };
        let mut map = Vec::new();
        for _ in 0..number(self)? {
            let (offset, len) = (number(self)?, number(self)?);
            push_region(&mut map, offset, len)?;
        }
        Ok(map)
    }
}

fn kind(typeflag: u8, name: &[u8]) -> Result<Kind> {
    Ok(match typeflag {
        // Before there was a type for directories, a slash told them.
        0 if name.ends_with(b"/") => Kind::Directory,
        0 | b'0' | b'7' | b'S' => Kind::File,
        b'1' => Kind::HardLink,
        b'2' => Kind::Symlink,
        b'3' => Kind::Character,
        b'4' => Kind::Block,
        b'5' => Kind::Directory,
        b'6' => Kind::Fifo,
        other => bail!("an entry of unknown type {:?}", char::from(other)),
    })
}

/// Reads the records of a PAX header.
fn pax(data: &[u8]) -> Result<Pax> {
    let mut pax = Pax::default();
    for record in records(data) {
        let (key, value) = record?;
        pax_record(&mut pax, key, value).with_context(|| format!("PAX record {:?}", lossy(key)))?;
    }
    Ok(pax)
}

fn pax_record(pax: &mut Pax, key: &[u8], value: &[u8]) -> Result<()> {
    if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
        let name = unescape(name);
        ensure!(!name.is_empty(), "an attribute without a name");
        ensure!(pax.xattrs.len() < XATTRS, "more than {XATTRS} attributes");
        pax.xattrs.retain(|(other, _)| *other != name);
        pax.xattrs.push((name, value.into()));
        return Ok(());
    }
    if let Some(key) = key.strip_prefix(b"GNU.sparse.") {
        return sparse_record(&mut pax.sparse, key, value);
    }
    if value.is_empty() {
        return Ok(()); // the header's own field counts
    }
    let size = || Ok::<_, anyhow::Error>(decimal(value)? as u64);
    match key {
        b"path" => pax.path = Some(value.into()),
        b"linkpath" => pax.link = Some(value.into()),
        b"uid" => pax.uid = Some(decimal(value).and_then(owner)?),
        b"gid" => pax.gid = Some(decimal(value).and_then(owner)?),
        b"size" => pax.size = Some(size()?),
        b"mtime" => pax.mtime = Some(time(value)?),
        _ => {}
    }
    Ok(())
}

fn sparse_record(sparse: &mut PaxSparse, key: &[u8], value: &[u8]) -> Result<()> {
    match key {
        b"major" => sparse.major = Some(value.into()),
        b"minor" => sparse.minor = Some(value.into()),
        b"name" => sparse.name = Some(value.into()),
        b"size" | b"realsize" => sparse.size = Some(decimal(value)? as u64),
        b"offset" => {
            ensure!(sparse.offset.is_none(), "two offsets");
            sparse.offset = Some(decimal(value)?);
        }
        b"numbytes" => {
            let offset = sparse.offset.take().context("no offset")?;
            push_region(sparse.map.get_or_insert_default(), offset, decimal(value)?)?;
        }
        b"map" => {
            ensure!(sparse.map.is_none(), "two maps");
            let map = sparse.map.insert(Vec::new());
            let mut numbers = value.split(|byte| *byte == b',').filter(|_| !value.is_empty());
            while let Some(offset) = numbers.next() {
                let len = numbers.next().context("an offset without a length")?;
                push_region(map, decimal(offset)?, decimal(len)?)?;
            }
        }
        b"numblocks" => {}
        _ => bail!("unknown"),
    }
    Ok(())
}

/// Undoes what GNU tar does to the name of an attribute, in which `=` would end the key.
fn unescape(name: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(name.len());
    let mut rest = name;
    while let Some((first, after)) = rest.split_first() {
        let (byte, after) = match rest {
            [b'%', b'3', b'D', after @ ..] => (&b'=', after),
            [b'%', b'2', b'5', after @ ..] => (&b'%', after),
            _ => (first, after),
        };
        plain.push(*byte);
        rest = after;
    }
    plain
}

/// Looks at a global PAX header, which Docker, containerd and podman pass over. `git archive` writes a comment there.
fn global(data: &[u8]) -> Result<()> {
    for record in records(data) {
        let (key, _) = record?;
        let renames = matches!(key, b"path" | b"linkpath" | b"size");
        let harmless = !renames && !key.starts_with(b"GNU.sparse.");
        ensure!(harmless, "{:?} in a global PAX header", lossy(key));
    }
    Ok(())
}
