//! How a layer is compressed: in chunks that know nothing of each other, so that all cores can work
//! and the bytes are the same whatever their number.
//!
//! ```text
//! gzip   one member; each chunk's blocks end in a sync flush, as pigz(1) has them     RFC 1951, 1952
//! zstd   a frame for each chunk                                                       RFC 8878
//! none   the tar itself
//! ```
//!
//! A chunk that hardly compresses is stored: a few samples of it, compressed first, tell. So what is
//! compressed already goes at the speed of hashing.
//!
//! The bytes are a function of the tar and of the versions of zlib-rs and zstd alone. Both have code
//! for some processors, which finds the same matches as the code for all: zlib-rs compares and slides
//! with it, and its hash of four bytes is a multiplication everywhere.

use std::fmt;
use std::str::FromStr;

use anyhow::{Context, Error, Result, bail, ensure};
use flate2::{Compress, FlushCompress};
use oci_spec::image::MediaType;

/// The level of gzip unless another is asked for: on two cores the only one that keeps up with a disk.
///
/// Of 336 MB of /usr/share and libraries it makes 183 MB, where level 2 makes 162 at 60 % of the
/// speed, level 6 156 at 40 %, and gzip(1) -1 165.
const GZIP_LEVEL: i32 = 1;
/// The level of zstd unless another is asked for: zstd(1)'s own.
const ZSTD_LEVEL: i32 = 3;

/// How many bytes of the tar make a chunk. Larger ones win nothing with gzip, whose window is 32 KiB.
const GZIP_CHUNK: usize = 256 << 10;
const ZSTD_CHUNK: usize = 1 << 20;

/// The samples of a chunk: one byte of 64, in pieces of this many.
const SAMPLE: usize = 1 << 10;
const SAMPLES: usize = 64;
/// A chunk is stored if its samples shrink by less than one byte in so many.
const WORTH: usize = 32;

/// The most bytes of a stored block of deflate, and of zstd.
const DEFLATE_STORED: usize = 65535;
const ZSTD_RAW: usize = 128 << 10;

/// How a layer is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Compression {
    format: Format,
    level: i32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Format {
    Gzip,
    Zstd,
    None,
}

impl Default for Compression {
    /// Returns what every reader of images has: gzip.
    fn default() -> Self {
        Compression { format: Format::Gzip, level: GZIP_LEVEL }
    }
}

impl FromStr for Compression {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let (format, level) = match text.split_once(':') {
            Some((format, level)) => (format, Some(level)),
            None => (text, None),
        };
        let (format, default, levels) = match format {
            "gzip" => (Format::Gzip, GZIP_LEVEL, 1..=9),
            "zstd" => (Format::Zstd, ZSTD_LEVEL, 1..=22),
            "none" if level.is_none() => (Format::None, 0, 0..=0),
            "none" => bail!("{text:?}: what is not compressed has no level"),
            _ => bail!("{text:?}: not a compression (gzip, zstd or none, perhaps with a :LEVEL)"),
        };
        let level = match level {
            None => default,
            Some(level) => {
                let level = level.parse().ok().filter(|level| levels.contains(level));
                let (least, most) = (levels.start(), levels.end());
                level.with_context(|| format!("{text:?}: the level is not {least} to {most}"))?
            }
        };
        Ok(Compression { format, level })
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.format {
            Format::Gzip => write!(f, "gzip:{}", self.level),
            Format::Zstd => write!(f, "zstd:{}", self.level),
            Format::None => f.write_str("none"),
        }
    }
}

impl Compression {
    /// Returns the media type of a layer that is compressed so.
    pub fn media_type(&self) -> MediaType {
        match self.format {
            Format::Gzip => MediaType::ImageLayerGzip,
            Format::Zstd => MediaType::ImageLayerZstd,
            Format::None => MediaType::ImageLayer,
        }
    }

    /// Returns whether the blob is the tar.
    pub(super) fn is_none(&self) -> bool {
        self.format == Format::None
    }

    /// Returns how many bytes of the tar make a chunk.
    pub(super) fn chunk(&self) -> usize {
        match self.format {
            Format::Gzip | Format::None => GZIP_CHUNK,
            Format::Zstd => ZSTD_CHUNK,
        }
    }

    /// Returns what comes before the chunks.
    pub(super) fn start(&self) -> &'static [u8] {
        match self.format {
            // No flags, no time, no extra flags, an unknown operating system.
            Format::Gzip => &[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255],
            Format::Zstd | Format::None => &[],
        }
    }

    /// Returns what comes behind the chunks of a tar with this checksum and size.
    pub(super) fn end(&self, crc: u32, size: u64) -> Vec<u8> {
        match self.format {
            Format::Gzip => {
                let mut end = vec![3, 0]; // the last block, which is empty
                end.extend_from_slice(&crc.to_le_bytes());
                end.extend_from_slice(&(size as u32).to_le_bytes());
                end
            }
            Format::Zstd | Format::None => Vec::new(),
        }
    }

    /// Gives, piece by piece, a chunk that is stored.
    pub(super) fn store(
        &self,
        chunk: &[u8],
        mut put: impl FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        match self.format {
            Format::Gzip => chunk.chunks(DEFLATE_STORED).try_for_each(|piece| {
                // No last block, no compression; what precedes it ends with a byte.
                let ([a, b], [c, d]) =
                    ((piece.len() as u16).to_le_bytes(), (!piece.len() as u16).to_le_bytes());
                put(&[0, a, b, c, d])?;
                put(piece)
            }),
            Format::Zstd => {
                // One segment, whose size is told in four bytes; no checksum.
                let [a, b, c, d] = (chunk.len() as u32).to_le_bytes();
                put(&[0x28, 0xb5, 0x2f, 0xfd, 0xa0, a, b, c, d])?;
                let last = chunk.len().div_ceil(ZSTD_RAW) - 1;
                chunk.chunks(ZSTD_RAW).enumerate().try_for_each(|(n, piece)| {
                    let head = (piece.len() as u32) << 3 | u32::from(n == last);
                    put(&head.to_le_bytes()[..3])?;
                    put(piece)
                })
            }
            Format::None => put(chunk),
        }
    }

    /// Returns what compresses chunks.
    pub(super) fn compressor(&self) -> Result<Compressor> {
        let engine = match self.format {
            Format::Gzip => {
                let level = flate2::Compression::new(self.level as u32);
                Engine::Gzip(Compress::new(level, false))
            }
            Format::Zstd => Engine::Zstd(zstd::bulk::Compressor::new(self.level)?),
            Format::None => bail!("nothing is to be compressed"),
        };
        Ok(Compressor { engine, sample: Vec::new(), room: self.room() })
    }

    /// Returns how many bytes a chunk may become, and then some: no compressor ever lacks room, or what it
    /// writes might depend on when.
    pub(super) fn room(&self) -> usize {
        self.chunk() + self.chunk() / 4 + 4096
    }
}

/// Compresses chunks, one after the other, as if each were the first.
pub(super) struct Compressor {
    engine: Engine,
    sample: Vec<u8>,
    room: usize,
}

enum Engine {
    Gzip(Compress),
    Zstd(zstd::bulk::Compressor<'static>),
}

impl Compressor {
    /// Replaces what is in `out` by `chunk`, compressed; by nothing, if it is to be stored.
    pub(super) fn compress(&mut self, chunk: &[u8], out: &mut Vec<u8>) -> Result<()> {
        out.clear();
        out.reserve_exact(self.room);
        if self.is_worth_it(chunk, out)? {
            self.engine.squeeze(chunk, out)?;
        }
        // What could not be known of the whole chunk from its samples.
        if out.len() > self.engine.stored(chunk.len()) {
            out.clear();
        }
        Ok(())
    }

    /// Returns whether samples of a chunk shrink. `out` is for trying.
    fn is_worth_it(&mut self, chunk: &[u8], out: &mut Vec<u8>) -> Result<bool> {
        if chunk.len() <= SAMPLES * SAMPLE {
            return Ok(true); // it is done as soon
        }
        self.sample.clear();
        for piece in chunk.chunks(SAMPLES * SAMPLE) {
            self.sample.extend_from_slice(&piece[..piece.len().min(SAMPLE)]);
        }
        self.engine.squeeze(&self.sample, out)?;
        let worth = out.len() < self.sample.len() - self.sample.len() / WORTH;
        out.clear();
        Ok(worth)
    }
}

impl Engine {
    fn squeeze(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<()> {
        match self {
            Engine::Gzip(deflate) => {
                deflate.reset();
                deflate.compress_vec(bytes, out, FlushCompress::Sync)?;
                let whole = deflate.total_in() == bytes.len() as u64 && out.len() < out.capacity();
                ensure!(whole, "deflate did not take a whole chunk");
            }
            Engine::Zstd(zstd) => {
                zstd.compress_to_buffer(bytes, out)?;
            }
        }
        Ok(())
    }

    /// Returns how long so many bytes are when they are stored.
    fn stored(&self, len: usize) -> usize {
        match self {
            Engine::Gzip(_) => len + 5 * len.div_ceil(DEFLATE_STORED),
            Engine::Zstd(_) => len + 9 + 3 * len.div_ceil(ZSTD_RAW),
        }
    }
}
