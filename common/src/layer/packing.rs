//! How a file is packed, by its magic bytes.

use oci_spec::image::MediaType;

/// How a file is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packing {
    /// Not at all.
    None,
    /// RFC 1952.
    Gzip,
    /// RFC 8878.
    Zstd,
    /// By xz(1).
    Xz,
    /// By bzip2(1).
    Bzip2,
}

impl Packing {
    /// Tells how a file is packed by how it begins: 10 bytes are enough.
    pub fn of(start: &[u8]) -> Packing {
        match start {
            [0x1f, 0x8b, ..] => Packing::Gzip,
            // A frame, or one to be skipped: pzstd(1) begins with that.
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Packing::Zstd,
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Packing::Xz,
            [b'B', b'Z', b'h', b'1'..=b'9', b'1', b'A', b'Y', ..] => Packing::Bzip2,
            _ => Packing::None,
        }
    }

    /// Returns the media type of a layer that is packed so, if layers may be.
    pub fn layer_type(self) -> Option<MediaType> {
        match self {
            Packing::None => Some(MediaType::ImageLayer),
            Packing::Gzip => Some(MediaType::ImageLayerGzip),
            Packing::Zstd => Some(MediaType::ImageLayerZstd),
            Packing::Xz | Packing::Bzip2 => None,
        }
    }
}
