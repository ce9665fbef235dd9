//! Gzip and zstd as no program writes them: every part may be wrong.

use std::io::Write;
use std::process::{Command, Stdio};

/// How a gzip member is to be.
#[derive(Default)]
pub struct Member {
    pub flags: u8,
    /// What stands between the fixed header and the data.
    pub extra: Vec<u8>,
    pub crc_off: u32,
    pub size_off: u32,
}

/// Returns `data` as a gzip member, not made any smaller. RFC 1951, 3.2.4; RFC 1952.
pub fn gzip(data: &[u8]) -> Vec<u8> {
    member(data, &Member::default())
}

/// Returns `data` as a gzip member of this kind.
pub fn member(data: &[u8], kind: &Member) -> Vec<u8> {
    let mut out = vec![0x1f, 0x8b, 8, kind.flags, 0, 0, 0, 0, 0, 0xff];
    out.extend_from_slice(&kind.extra);
    let mut chunks = data.chunks(0xffff).peekable();
    if data.is_empty() {
        out.extend_from_slice(&[1, 0, 0, 0xff, 0xff]);
    }
    while let Some(chunk) = chunks.next() {
        let len = chunk.len() as u16;
        out.push(chunks.peek().is_none().into());
        out.extend_from_slice(&len.to_le_bytes());
        out.extend_from_slice(&(!len).to_le_bytes());
        out.extend_from_slice(chunk);
    }
    out.extend_from_slice(&crc32(data).wrapping_add(kind.crc_off).to_le_bytes());
    out.extend_from_slice(&(data.len() as u32).wrapping_add(kind.size_off).to_le_bytes());
    out
}

fn crc32(data: &[u8]) -> u32 {
    let mut crc = !0u32;
    for byte in data {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = crc >> 1 ^ 0xedb8_8320 & (crc & 1).wrapping_neg();
        }
    }
    !crc
}

/// Returns `data` as a zstd frame that asks for a window of `10 + log` bits. RFC 8878, 3.1.1.
pub fn zstd(data: &[u8], log: u8) -> Vec<u8> {
    let mut out = vec![0x28, 0xb5, 0x2f, 0xfd, 0, log << 3];
    let mut chunks = data.chunks(1000).peekable();
    while let Some(chunk) = chunks.next() {
        out.extend_from_slice(&block(chunks.peek().is_none(), 0, chunk.len()));
        out.extend_from_slice(chunk);
    }
    out
}

/// Returns a zstd frame of `data` and then `blocks` times 128 KiB of zeros, four bytes each.
pub fn zstd_bomb(data: &[u8], blocks: usize) -> Vec<u8> {
    let mut out = vec![0x28, 0xb5, 0x2f, 0xfd, 0, 7 << 3]; // a window of 128 KiB
    for chunk in data.chunks(1000) {
        out.extend_from_slice(&block(false, 0, chunk.len()));
        out.extend_from_slice(chunk);
    }
    for i in 1..=blocks {
        out.extend_from_slice(&block(i == blocks, 1, 128 << 10));
        out.push(0);
    }
    out
}

fn block(last: bool, kind: u32, len: usize) -> [u8; 3] {
    let header = u32::from(last) | kind << 1 | (len as u32) << 3;
    header.to_le_bytes()[..3].try_into().unwrap()
}

/// Returns a gzip member of `data`, and behind it members with `mebibytes` of zeros.
pub fn gzip_bomb(data: &[u8], mebibytes: usize) -> Vec<u8> {
    let zeros = through(&["gzip", "-n9"], &vec![0; 1 << 20]);
    let mut out = gzip(data);
    (0..mebibytes).for_each(|_| out.extend_from_slice(&zeros));
    out
}

/// Sends `data` through a program.
pub fn through(command: &[&str], data: &[u8]) -> Vec<u8> {
    let mut child = Command::new(command[0])
        .args(&command[1..])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap_or_else(|err| panic!("{}: {err}", command[0]));
    let mut stdin = child.stdin.take().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(move || stdin.write_all(data).unwrap());
        let out = child.wait_with_output().unwrap();
        assert!(out.status.success(), "{command:?}");
        out.stdout
    })
}
