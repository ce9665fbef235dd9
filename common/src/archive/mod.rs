//! Archives of images, as one stream: OCI layout tars, and what `docker save` has written over the years.
//!
//! ```text
//! oci-layout  index.json  blobs/sha256/<hex>      OCI; Docker since 25 adds manifest.json
//! manifest.json  <hex>.json  <hex>/layer.tar      Docker before; equal layers may be symlinks
//! ```
//!
//! An archive is read once, from a pipe if need be, and each layer goes
//! straight into the layout that it is loaded into. What we write ourselves has
//! its documents first, so that whoever reads it knows at each blob what it is for.

mod docker;
mod inflow;
mod load;
mod save;

use std::io::{self, Read};

use anyhow::Result;
use liblzma::stream::{CONCATENATED, Stream};

use crate::layer::Packing;

pub use load::{Loaded, load, load_file};
pub use save::{Archive, Format, Image, blobs};

/// Where Docker and containerd write the full name of an image, beside the ref.name that is only a tag.
const CONTAINERD_NAME: &str = "io.containerd.image.name";
/// The annotation of an archive's index that lists the blobs which it leaves out, since the reader has them.
const LEFT_OUT: &str = "tare.left-out";
/// The most memory that unpacking xz may take: 128 MiB of dictionary, as large as zstd's window may be.
const XZ_MEMORY: u64 = 144 << 20;

/// Returns whether a file that begins with these bytes may be an archive: a reference line never does.
pub fn is_archive(start: &[u8]) -> bool {
    Packing::of(start) != Packing::None || start.get(257..262) == Some(b"ustar")
}

/// Returns the bytes of a stream that may be packed with gzip, zstd, xz or bzip2.
pub fn unpacked<'a>(mut stream: impl Read + 'a) -> Result<Box<dyn Read + 'a>> {
    let mut start = Vec::new();
    stream.by_ref().take(512).read_to_end(&mut start)?;
    let packing = Packing::of(&start);
    let stream = io::BufReader::with_capacity(128 << 10, io::Cursor::new(start).chain(stream));
    Ok(match packing {
        Packing::None => Box::new(stream),
        Packing::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(stream)),
        Packing::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(stream)?;
            decoder.window_log_max(27)?; // 128 MiB: more is a bomb
            Box::new(decoder)
        }
        Packing::Xz => {
            let decoder = Stream::new_auto_decoder(XZ_MEMORY, CONCATENATED)?;
            Box::new(liblzma::bufread::XzDecoder::new_stream(stream, decoder))
        }
        Packing::Bzip2 => Box::new(bzip2::bufread::MultiBzDecoder::new(stream)),
    })
}
