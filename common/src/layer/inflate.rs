//! From a blob's bytes to a tar's: plain, gzip or zstd, verified on the way.
//!
//! The magic bytes decide, as in containerd and Docker: a media type that
//! promises gzip over a bare tar is a layer that runs everywhere else. What
//! was meant is settled by the diff ID.

use std::fmt::{self, Display};
use std::io::{ErrorKind, Read};

use anyhow::{Result, anyhow, bail, ensure};
use flate2::{Decompress, FlushDecompress, Status};
use zstd::zstd_safe::{DCtx, DParameter, InBuffer, OutBuffer};

use super::packing::Packing;
use super::stream::{Buffer, Source};
use crate::digest::{Digest, Hasher};

/// The largest window of a zstd frame, as a power of two: 128 MiB, what `zstd --long` writes.
const ZSTD_WINDOW: u32 = 27;

/// A layer's bytes are not those that its digest is of, but of this one.
#[derive(Debug)]
pub(super) struct Corrupt(Digest);

impl Display for Corrupt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "corrupt: it hashes to {}", self.0)
    }
}

impl std::error::Error for Corrupt {}

/// A blob that hashes itself as it is read, and is an error at its end if it is not what its descriptor says.
pub(super) struct Blob<R> {
    reader: R,
    hasher: Option<Hasher>,
    digest: Digest,
    size: u64,
    seen: u64,
}

impl<R: Read> Blob<R> {
    /// Reads `reader`, which must have this digest and size.
    pub(super) fn new(reader: R, digest: Digest, size: u64) -> Self {
        Blob { reader, hasher: Some(digest.hasher()), digest, size, seen: 0 }
    }

    /// Returns the size that it must have.
    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// Reads some bytes; none only at the verified end.
    fn read(&mut self, buf: &mut [u8]) -> Result<usize> {
        let Some(hasher) = &mut self.hasher else { return Ok(0) };
        loop {
            let n = match self.reader.read(buf) {
                Ok(n) => n,
                Err(err) if err.kind() == ErrorKind::Interrupted => continue,
                Err(err) => return Err(err.into()),
            };
            hasher.update(&buf[..n]);
            self.seen += n as u64;
            let size = self.size;
            ensure!(self.seen <= size, "corrupt: longer than the {size} bytes of its descriptor");
            if n == 0 {
                self.verify()?;
            }
            return Ok(n);
        }
    }

    fn verify(&mut self) -> Result<()> {
        let (seen, size) = (self.seen, self.size);
        ensure!(seen == size, "corrupt: {seen} bytes, where its descriptor says {size}");
        if let Some(hasher) = self.hasher.take() {
            let found = hasher.finish();
            ensure!(found == self.digest, Corrupt(found));
        }
        Ok(())
    }
}

impl<R: Read> Source for Blob<R> {
    fn next(&mut self, mut used: Buffer) -> Result<Buffer> {
        used.len = 0;
        while used.len < used.bytes.len() {
            match self.read(&mut used.bytes[used.len..])? {
                0 => break,
                n => used.len += n,
            }
        }
        Ok(used)
    }
}

/// Reads a blob and gives the tar that is in it.
pub(super) struct Inflater<S> {
    blob: S,
    input: Buffer,
    start: usize,
    format: Format,
    given: u64,
    limit: u64,
}

enum Format {
    /// The first bytes are yet to be seen.
    Unknown,
    Plain,
    Gzip(Box<Gzip>),
    Zstd {
        context: DCtx<'static>,
        inside: bool,
    },
    End,
}

/// RFC 1952. Header and trailer are read here, since flate2 cannot reset a
/// gzip decoder, and a layer may have a member for each of its files (eStargz).
struct Gzip {
    inflate: Decompress,
    crc: crc32fast::Hasher,
    stage: Stage,
}

#[derive(Clone, Copy, PartialEq)]
enum Stage {
    Header,
    Body,
    /// Behind a member: the next one, or zeros up to the end.
    Between,
}

impl<S: Source> Inflater<S> {
    /// Reads `blob` by way of `input`, and gives at most `limit` bytes.
    pub(super) fn new(blob: S, input: Buffer, limit: u64) -> Self {
        Inflater { blob, input, start: 0, format: Format::Unknown, given: 0, limit }
    }

    /// Fills `out` with the tar's next bytes, completely unless the tar ends there.
    pub(super) fn fill(&mut self, out: &mut [u8]) -> Result<usize> {
        let filled = match self.inflate(out) {
            Ok(filled) => filled,
            Err(err) => return Err(self.blame(err)),
        };
        self.given += filled as u64;
        let limit = self.limit;
        ensure!(self.given <= limit, "larger than the {limit} bytes that a layer may unpack to");
        Ok(filled)
    }

    /// Returns why the blob cannot be inflated: what `err` says, unless it is not the right blob at all.
    fn blame(&mut self, err: anyhow::Error) -> anyhow::Error {
        loop {
            match self.blob.next(std::mem::replace(&mut self.input, Buffer::empty())) {
                Ok(next) if next.len == 0 => return err,
                Ok(next) => self.input = next,
                Err(corrupt) => return corrupt,
            }
        }
    }

    fn inflate(&mut self, out: &mut [u8]) -> Result<usize> {
        let mut filled = 0;
        while filled < out.len() {
            let rest = &mut out[filled..];
            let n = match &mut self.format {
                Format::Unknown => {
                    self.format = self.detect()?;
                    continue;
                }
                Format::Plain => self.plain(rest)?,
                Format::Gzip(_) => self.gzip(rest)?,
                Format::Zstd { .. } => self.zstd(rest)?,
                Format::End => break,
            };
            filled += n;
        }
        Ok(filled)
    }

    /// Makes sure that there is input; false at the end of the blob.
    fn more(&mut self) -> Result<bool> {
        if self.start == self.input.len {
            self.start = 0;
            self.input = self.blob.next(std::mem::replace(&mut self.input, Buffer::empty()))?;
        }
        Ok(self.start < self.input.len)
    }

    /// Takes the next byte, which must be there.
    fn byte(&mut self) -> Result<u8> {
        ensure!(self.more()?, "truncated: it ends within a gzip header");
        self.start += 1;
        Ok(self.input.bytes[self.start - 1])
    }

    fn detect(&mut self) -> Result<Format> {
        self.more()?;
        let start = &self.input.bytes[..self.input.len];
        match Packing::of(start) {
            Packing::None if start.is_empty() => Ok(Format::End),
            Packing::None => Ok(Format::Plain),
            Packing::Gzip => Ok(Format::Gzip(Box::new(Gzip {
                inflate: Decompress::new(false),
                crc: crc32fast::Hasher::new(),
                stage: Stage::Header,
            }))),
            Packing::Zstd => {
                let mut context =
                    DCtx::try_create().ok_or_else(|| anyhow!("out of memory for zstd"))?;
                context.set_parameter(DParameter::WindowLogMax(ZSTD_WINDOW)).map_err(zstd_error)?;
                Ok(Format::Zstd { context, inside: false })
            }
            Packing::Bzip2 => bail!("packed with bzip2, which no layer is"),
            Packing::Xz => bail!("packed with xz, which no layer is"),
        }
    }

    fn plain(&mut self, out: &mut [u8]) -> Result<usize> {
        if !self.more()? {
            self.format = Format::End;
            return Ok(0);
        }
        let n = out.len().min(self.input.len - self.start);
        out[..n].copy_from_slice(&self.input.bytes[self.start..self.start + n]);
        self.start += n;
        Ok(n)
    }

    fn gzip(&mut self, out: &mut [u8]) -> Result<usize> {
        let Format::Gzip(gzip) = &self.format else { return Ok(0) };
        match gzip.stage {
            Stage::Header => {
                self.gzip_header()?;
                let Format::Gzip(gzip) = &mut self.format else { return Ok(0) };
                gzip.inflate.reset(false);
                gzip.crc.reset();
                gzip.stage = Stage::Body;
                Ok(0)
            }
            Stage::Body => self.gzip_body(out),
            Stage::Between => self.gzip_between(),
        }
    }

    fn gzip_header(&mut self) -> Result<()> {
        let mut head = [0; 10];
        for byte in &mut head {
            *byte = self.byte()?;
        }
        let [0x1f, 0x8b, method, flags, ..] = head else { bail!("corrupt gzip header") };
        ensure!(method == 8 && flags & 0xe0 == 0, "corrupt gzip header");
        if flags & 4 != 0 {
            let len = u16::from_le_bytes([self.byte()?, self.byte()?]);
            for _ in 0..len {
                self.byte()?;
            }
        }
        for text in [8, 16] {
            // The file's name, and a comment: each up to a NUL.
            while flags & text != 0 && self.byte()? != 0 {}
        }
        if flags & 2 != 0 {
            self.byte()?;
            self.byte()?;
        }
        Ok(())
    }

    fn gzip_body(&mut self, out: &mut [u8]) -> Result<usize> {
        ensure!(self.more()?, "truncated: it ends within a gzip member");
        let Format::Gzip(gzip) = &mut self.format else { return Ok(0) };
        let (read, written) = (gzip.inflate.total_in(), gzip.inflate.total_out());
        let input = &self.input.bytes[self.start..self.input.len];
        let status = gzip
            .inflate
            .decompress(input, out, FlushDecompress::None)
            .map_err(|err| anyhow!("corrupt gzip data: {err}"))?;
        self.start += (gzip.inflate.total_in() - read) as usize;
        let n = (gzip.inflate.total_out() - written) as usize;
        gzip.crc.update(&out[..n]);
        if status == Status::StreamEnd {
            let (crc, len) = (gzip.crc.clone().finalize(), gzip.inflate.total_out() as u32);
            gzip.stage = Stage::Between;
            let mut tail = [0; 8];
            for byte in &mut tail {
                *byte = self.byte()?;
            }
            let right = tail[..4] == crc.to_le_bytes() && tail[4..] == len.to_le_bytes();
            ensure!(right, "corrupt gzip data: wrong checksum");
        }
        Ok(n)
    }

    fn gzip_between(&mut self) -> Result<usize> {
        if !self.more()? {
            self.format = Format::End;
            return Ok(0);
        }
        if self.input.bytes[self.start] != 0 {
            let Format::Gzip(gzip) = &mut self.format else { return Ok(0) };
            gzip.stage = Stage::Header;
            return Ok(0);
        }
        // Tapes and some tools pad with zeros: gzip(1).
        while self.more()? {
            let rest = &self.input.bytes[self.start..self.input.len];
            ensure!(rest.iter().all(|byte| *byte == 0), "corrupt: garbage behind the gzip data");
            self.start = self.input.len;
        }
        self.format = Format::End;
        Ok(0)
    }

    fn zstd(&mut self, out: &mut [u8]) -> Result<usize> {
        let more = self.more()?;
        let Format::Zstd { context, inside } = &mut self.format else { return Ok(0) };
        if !more && !*inside {
            self.format = Format::End;
            return Ok(0);
        }
        let mut input = InBuffer::around(&self.input.bytes[self.start..self.input.len]);
        let mut output = OutBuffer::around(out);
        let hint = context.decompress_stream(&mut output, &mut input).map_err(zstd_error)?;
        *inside = hint != 0;
        self.start += input.pos();
        let n = output.pos();
        ensure!(more || n > 0, "truncated: it ends within a zstd frame");
        Ok(n)
    }
}

fn zstd_error(code: usize) -> anyhow::Error {
    match zstd::zstd_safe::get_error_name(code) {
        text if text.contains("too much memory") => {
            anyhow!("its zstd window is larger than 128 MiB")
        }
        text => anyhow!("corrupt zstd data: {}", text.to_lowercase()),
    }
}
