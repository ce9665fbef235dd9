//! A layer's blob, packed: what we inflate is what flate2 and zstd inflate.

use std::io::{self, Read};

use common::digest::Digest;
use common::image;
use common::layer;
use oci_spec::image::MediaType;

use crate::input::Input;

/// The first byte says how the rest was packed, if it is to be well packed at all.
pub fn blob(data: &[u8]) {
    let mut input = Input::new(data);
    let flags = input.byte();
    let blob = match flags % 4 {
        0 | 1 => input.rest().to_vec(),
        2 => gzip(&mut input),
        _ => zstd(&mut input),
    };
    // A descriptor that is right, or one off.
    let size = blob.len() as u64 + u64::from(flags & 0x80 != 0);
    let desc = image::descriptor(MediaType::ImageLayer, &Digest::of(&blob), size);
    let scanned = layer::scan(&blob[..], &desc);
    let Ok(applied) = scanned else { return };
    assert_eq!(size, blob.len() as u64);
    let mut plain = Vec::new();
    let unpacked = match &blob[..] {
        [0x1f, 0x8b, ..] => flate2::read::MultiGzDecoder::new(&blob[..]).read_to_end(&mut plain),
        [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => {
            zstd::Decoder::new(&blob[..]).and_then(|mut decoder| decoder.read_to_end(&mut plain))
        }
        _ => {
            plain = blob.clone();
            Ok(blob.len())
        }
    };
    // Zeros behind the data are an error to flate2, after all of it was read.
    let padded = blob.last() == Some(&0);
    assert!(unpacked.is_ok() || padded, "{unpacked:?}");
    assert_eq!((applied.diff_id, applied.size), (Digest::of(&plain), plain.len() as u64));
}

/// Members with every field that a header can have, and what may lie between them.
fn gzip(input: &mut Input) -> Vec<u8> {
    let mut blob = Vec::new();
    while !input.is_empty() {
        let shape = input.byte();
        let mut member = flate2::GzBuilder::new();
        if shape & 1 != 0 {
            member = member.extra(input.bytes());
        }
        if shape & 2 != 0 {
            let name: Vec<u8> = input.bytes().iter().copied().filter(|byte| *byte != 0).collect();
            member = member.filename(name);
        }
        if shape & 4 != 0 {
            member = member.comment("a comment");
        }
        let mut encoder = member.read(io::Cursor::new(piece(input)), flate2::Compression::new(1));
        // Of bytes in memory nothing fails.
        encoder.read_to_end(&mut blob).unwrap();
        match shape >> 4 {
            0 => blob.extend_from_slice(input.bytes()),
            1 => blob.resize(blob.len() + usize::from(input.byte()), 0),
            2 => blob.truncate(blob.len().saturating_sub(usize::from(input.byte() % 16))),
            _ => {}
        }
    }
    blob
}

/// Frames, skippable ones between them.
fn zstd(input: &mut Input) -> Vec<u8> {
    let mut blob = Vec::new();
    while !input.is_empty() {
        let shape = input.byte();
        if shape & 1 != 0 {
            let skipped = input.bytes();
            blob.extend_from_slice(&[0x50 | shape >> 4, 0x2a, 0x4d, 0x18]);
            blob.extend_from_slice(&(skipped.len() as u32).to_le_bytes());
            blob.extend_from_slice(skipped);
        }
        // Of bytes in memory nothing fails.
        blob.extend_from_slice(&zstd::encode_all(&piece(input)[..], 1).unwrap());
        if shape & 0x0e == 0x0e {
            blob.truncate(blob.len().saturating_sub(usize::from(input.byte() % 16)));
        }
    }
    blob
}

/// A piece of a tar: zeros for the most part.
fn piece(input: &mut Input) -> Vec<u8> {
    let mut piece = input.bytes().to_vec();
    let blocks = usize::from(input.byte());
    piece.resize(piece.len() + blocks * 256, 0);
    piece
}
