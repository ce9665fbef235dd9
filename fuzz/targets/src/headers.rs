//! A tar as bytes, read by our reader and by the tar crate: what both take must mean the same to both.
//!
//! The reader is private to `common`, and stays so: its files are modules of
//! this one, too.

#[path = "../../../common/src/layer/entry.rs"]
mod entry;
#[path = "../../../common/src/layer/header.rs"]
mod header;
#[path = "../../../common/src/layer/inflate.rs"]
mod inflate;
#[path = "../../../common/src/layer/packing.rs"]
mod packing;
#[path = "../../../common/src/layer/stream.rs"]
mod stream;

use std::io::Read;

use common::digest::Digest;
use common::layer::Limits;
use tar::EntryType;

use entry::{Entries, Entry, Kind};

const BLOCK: usize = 512;

/// The first byte says whether the checksums are put right, without which few inputs get far.
pub fn headers(data: &[u8]) {
    let Some((flags, bytes)) = data.split_first() else { return };
    let mut bytes = bytes.to_vec();
    if flags & 1 == 0 {
        put_checksums_right(&mut bytes);
    }
    // What looks packed would be unpacked first: another target's.
    if matches!(bytes[..], [0x1f, 0x8b, ..] | [0x28, 0xb5, ..] | [0x50..=0x5f, 0x2a, ..]) {
        return;
    }
    if let Ok(ours) = read(&bytes) {
        compare(&ours, &bytes);
    }
}

/// Goes from header to header as their sizes say.
fn put_checksums_right(bytes: &mut [u8]) {
    let mut at = 0;
    while let Some(block) = bytes.get_mut(at..at + BLOCK) {
        if block.iter().all(|byte| *byte == 0) {
            return;
        }
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        let digits = String::from_utf8_lossy(&block[124..136]).into_owned();
        let digits = digits.trim_matches(['\0', ' ']);
        let size = usize::from_str_radix(digits, 8).unwrap_or_default();
        let Some(next) = size.checked_next_multiple_of(BLOCK) else { return };
        let Some(next) = next.checked_add(at + BLOCK) else { return };
        at = next;
    }
}

/// Reads all entries, each with its data.
fn read(bytes: &[u8]) -> anyhow::Result<Vec<(Entry, Vec<u8>)>> {
    let size = bytes.len() as u64;
    let blob = inflate::Blob::new(bytes, Digest::of(bytes), size);
    stream::run(blob, Limits::default().size, |stream| {
        let mut tar = Entries::new(stream);
        let mut entries = Vec::new();
        while let Some(entry) = tar.next()? {
            check(&entry);
            let mut data = Vec::new();
            loop {
                match tar.data()? {
                    [] => break,
                    piece => data.extend_from_slice(piece),
                }
            }
            entries.push((entry, data));
        }
        let (digest, count) = tar.into_stream().finish()?;
        assert_eq!((digest, count), (Digest::of(bytes), size));
        Ok(entries)
    })
}

/// What holds of every entry, whatever the bytes.
fn check(entry: &Entry) {
    assert!(entry.mode <= 0o7777 && entry.uid != u32::MAX && entry.gid != u32::MAX);
    assert!((0..1_000_000_000).contains(&entry.mtime.tv_nsec));
    assert!(!entry.name.contains(&0) && !entry.link.contains(&0));
    let mut end = 0;
    for region in entry.sparse.iter().flatten() {
        assert!(region.offset >= end);
        end = region.offset + region.len;
    }
    assert!(end <= entry.size);
}

/// Compares what we have read with what the tar crate reads, as far as it follows the same rules.
fn compare(ours: &[(Entry, Vec<u8>)], bytes: &[u8]) {
    let mut archive = tar::Archive::new(bytes);
    let Ok(entries) = archive.entries() else { return };
    let mut ours = ours.iter();
    for theirs in entries {
        let Ok(mut theirs) = theirs else { return };
        let header = theirs.header().clone();
        if header.entry_type() == EntryType::XGlobalHeader {
            continue;
        }
        if !follows_the_same_rules(&mut theirs) {
            return;
        }
        let (entry, data) = ours.next().expect("an entry that we do not see");
        let expected = match header.entry_type() {
            EntryType::Directory => Kind::Directory,
            EntryType::Link => Kind::HardLink,
            EntryType::Symlink => Kind::Symlink,
            EntryType::Char => Kind::Character,
            EntryType::Block => Kind::Block,
            EntryType::Fifo => Kind::Fifo,
            // In an old tar the name tells a directory.
            _ if theirs.path_bytes().ends_with(b"/") => Kind::Directory,
            _ => Kind::File,
        };
        assert_eq!(entry.kind, expected);
        assert_eq!(entry.name, header::text(&theirs.path_bytes()));
        if matches!(entry.kind, Kind::Symlink | Kind::HardLink) {
            let link = theirs.link_name_bytes().unwrap_or_default();
            assert_eq!(entry.link, header::text(&link));
        }
        let id = |id: u32| u64::from(id);
        assert!(header.uid().map_or(true, |uid| uid == id(entry.uid)), "{header:?} {entry:?}");
        assert!(header.gid().map_or(true, |gid| gid == id(entry.gid)), "{header:?} {entry:?}");
        assert!(header.mode().map_or(true, |mode| mode & 0o7777 == entry.mode));
        if entry.sparse.is_none() {
            let mut read = Vec::new();
            if theirs.read_to_end(&mut read).is_err() {
                return;
            }
            assert_eq!(*data, read);
        }
    }
    assert!(ours.next().is_none(), "an entry that the tar crate does not see");
}

/// Returns whether the tar crate means to read this entry as GNU tar and Go do, which we follow.
fn follows_the_same_rules<R: Read>(theirs: &mut tar::Entry<R>) -> bool {
    let header = theirs.header().clone();
    let block = header.as_bytes();
    // Numbers that begin with NULs, or with a bit that makes them binary, it reads otherwise.
    let fields = [(100, 8), (108, 8), (116, 8), (124, 12)];
    let odd = fields.iter().any(|(at, len)| {
        let field = &block[*at..at + len];
        field[0] & 0x80 != 0 || (field[0] == 0 && field.iter().any(|byte| *byte != 0))
    });
    // Prefixes of star and of old Gos, and extensions without a magic, it does not know.
    let magic = &block[257..265];
    let star = &block[508..512] == b"tar\0";
    let foreign = magic.starts_with(b"ustar") && (magic != b"ustar\x0000" || star);
    let unknown = matches!(header.entry_type().as_byte(), b'x' | b'L' | b'K' | b'S');
    let mut keys = Vec::new();
    match theirs.pax_extensions() {
        Err(_) => return false,
        Ok(None) => {}
        Ok(Some(records)) => {
            for record in records {
                let Ok(record) = record else { return false };
                if record.value_bytes().is_empty() || record.key_bytes().starts_with(b"GNU.sparse")
                {
                    return false;
                }
                keys.push(record.key_bytes().to_vec());
            }
        }
    }
    // Of two records with one key the last counts, for it the first.
    keys.sort();
    let all = keys.len();
    keys.dedup();
    !odd && !foreign && !unknown && keys.len() == all
}
