//! Entries, and every way there is to write them into a tar.

use crate::input::Input;

/// An entry, as it is meant.
#[derive(Clone, Debug, Default)]
pub struct Entry {
    /// The type in the header.
    pub kind: u8,
    pub name: Vec<u8>,
    pub link: Vec<u8>,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// Seconds and nanoseconds.
    pub mtime: (i64, u32),
    pub device: (u32, u32),
    pub data: Vec<u8>,
    /// How many bytes before and behind the data are holes.
    pub holes: (usize, usize),
    pub xattrs: Vec<(&'static str, Vec<u8>)>,
}

/// Names that mean something to somebody, or lead somewhere.
const NAMES: [&[u8]; 20] = [
    b"a",
    b"b",
    b"c",
    b"d",
    b"a",
    b"b",
    b"..",
    b".",
    b"",
    b".wh.a",
    b".wh.b",
    b".wh.c",
    b".wh..wh..opq",
    b".wh..wh.x",
    b".wh.",
    b".wh...",
    b"canary",
    b"file",
    b"\xff\n",
    b".wh.d",
];

impl Entry {
    /// Takes an entry from the input. `outside` is where the root is.
    pub fn choose(input: &mut Input, outside: &str) -> Entry {
        let kind = *input.pick(b"05021060522137\x004Z");
        let shape = input.byte();
        let mut entry = Entry { kind, name: path(input), mode: 0o755, ..Entry::default() };
        if kind == b'5' && shape & 1 != 0 {
            entry.name.push(b'/');
        }
        if matches!(kind, b'1' | b'2') {
            entry.link = match shape >> 5 {
                7 => format!("{outside}/canary").into_bytes(),
                6 => format!("{outside}/canary/file").into_bytes(),
                _ => path(input),
            };
        }
        if shape & 2 != 0 {
            entry.mode = *input.pick(&[0o644, 0, 0o7777, 0o2755, 0o1777, 0o4511, 0o070]);
            entry.uid = *input.pick(&[0, 0, 1000, u32::MAX - 1]);
            entry.gid = *input.pick(&[0, 0, 1000, u32::MAX - 1]);
        }
        if shape & 4 != 0 {
            let times = [(0, 0), (1_700_000_000, 0), (7, 999_999_999), (-1, 0), (-2, 500_000_000)];
            entry.mtime = *input.pick(&times);
        }
        if matches!(kind, b'3' | b'4') {
            entry.device = *input.pick(&[(1, 3), (0, 0), (8, 0), (4095, 1_048_575)]);
        }
        if matches!(kind, b'0' | b'7' | 0) && shape & 8 != 0 {
            entry.data = vec![b'x'; *input.pick(&[1, 511, 512, 513, 3000])];
            if shape & 16 != 0 {
                entry.holes = (*input.pick(&[0, 1, 512, 5000]), *input.pick(&[0, 1, 700]));
            }
        } else if shape & 16 != 0 {
            let name = *input.pick(&["user.a", "user.b", "user.overlay.opaque"]);
            entry.xattrs.push((name, input.pick(&[&b""[..], b"v", b"=\n\0\xff"]).to_vec()));
        }
        entry
    }

    /// The file that is meant, holes and all.
    pub fn content(&self) -> Vec<u8> {
        let (before, behind) = self.holes;
        [vec![0; before], self.data.clone(), vec![0; behind]].concat()
    }
}

fn path(input: &mut Input) -> Vec<u8> {
    let shape = input.byte();
    let count = usize::from(shape % 4) + 1;
    let parts: Vec<&[u8]> = (0..count).map(|_| *input.pick(&NAMES)).collect();
    let path = parts.join(&b'/');
    match shape >> 4 {
        15 => [b"/", &path[..]].concat(),
        14 => [b"./", &path[..]].concat(),
        13 => [b"/../", &path[..]].concat(),
        _ => path,
    }
}

/// Writes the entries, each in a dialect that the input chooses.
pub fn encode(entries: &[Entry], input: &mut Input) -> Vec<u8> {
    let mut tar = Vec::new();
    for entry in entries {
        write(entry, input.byte(), &mut tar);
    }
    tar.resize(tar.len() + 1024, 0);
    tar
}

/// One header's fields.
struct Head<'a> {
    kind: u8,
    name: &'a [u8],
    prefix: &'a [u8],
    link: &'a [u8],
    size: u64,
    mtime: i64,
    entry: &'a Entry,
    magic: &'a [u8; 8],
    binary: bool,
}

fn write(entry: &Entry, dialect: u8, tar: &mut Vec<u8>) {
    let gnu = dialect & 1 != 0;
    let magic = if gnu { b"ustar  \0" } else { b"ustar\x0000" };
    let binary = dialect & 2 != 0;
    let plain = Entry::default();
    let extension = |kind: u8, data: &[u8], tar: &mut Vec<u8>| {
        let size = data.len() as u64;
        let (name, prefix, link) = (&b"extension"[..], &b""[..], &b""[..]);
        let head =
            Head { kind, name, prefix, link, size, mtime: 0, entry: &plain, magic, binary: false };
        push(head, data, tar);
    };

    let sparse = entry.holes != (0, 0);
    let (mut name, mut prefix) = (&entry.name[..], &b""[..]);
    let mut records: Vec<(String, Vec<u8>)> = Vec::new();
    let mut record = |key: &str, value: &[u8]| records.push((key.into(), value.to_vec()));
    // The name: in the header, behind a prefix, in a PAX record or in a GNU header of its own.
    let long = match (dialect >> 2) % 4 {
        _ if name.len() > 100 && sparse => Long::Pax,
        1 if !name.is_empty() => Long::Pax,
        2 if !sparse => Long::Gnu,
        3 if !gnu && split(name).is_some() => {
            let at = split(name).unwrap_or_default();
            (prefix, name) = (&entry.name[..at], &entry.name[at + 1..]);
            Long::No
        }
        _ if name.len() > 100 => Long::Gnu,
        _ => Long::No,
    };
    match long {
        Long::Pax => record("path", &entry.name),
        Long::Gnu => extension(b'L', &[&entry.name[..], b"\0"].concat(), tar),
        Long::No => {}
    }
    if matches!(long, Long::Pax | Long::Gnu) {
        name = b"not/this/name";
    }
    let mut link = &entry.link[..];
    if link.len() > 100 || (dialect & 0x10 != 0 && !link.is_empty()) {
        match dialect & 0x20 {
            0 => record("linkpath", &entry.link),
            _ => extension(b'K', &entry.link, tar),
        }
        link = b"not-this-link";
    }
    let (mut mtime, nanoseconds) = entry.mtime;
    if nanoseconds != 0 || (mtime < 0 && !binary) || dialect & 0x40 != 0 {
        record("mtime", seconds(entry.mtime).as_bytes());
        mtime = 77;
    }
    for (name, value) in &entry.xattrs {
        record(&format!("SCHILY.xattr.{name}"), value);
    }
    let mut data = entry.data.clone();
    let mut size = data.len() as u64;
    if sparse {
        let region = format!("{},{}", entry.holes.0, data.len());
        let full = entry.content().len().to_string();
        record("GNU.sparse.name", &entry.name);
        if dialect & 0x80 == 0 {
            record("GNU.sparse.map", region.as_bytes());
            record("GNU.sparse.size", full.as_bytes());
        } else {
            record("GNU.sparse.major", b"1");
            record("GNU.sparse.minor", b"0");
            record("GNU.sparse.realsize", full.as_bytes());
            let mut map = format!("1\n{}\n", region.replace(',', "\n")).into_bytes();
            map.resize(512, 0);
            data = [map, data].concat();
            size = data.len() as u64;
        }
    } else if dialect & 0x80 != 0 && size > 0 {
        record("size", size.to_string().as_bytes());
        size = 1;
    }
    if !records.is_empty() {
        extension(b'x', &pax(&records), tar);
    }
    push(
        Head { kind: entry.kind, name, prefix, link, size, mtime, entry, magic, binary },
        &data,
        tar,
    );
}

/// Returns the slash before which a prefix ends, if both parts have room in a header.
fn split(name: &[u8]) -> Option<usize> {
    let at = name.iter().position(|byte| *byte == b'/')?;
    ((1..=155).contains(&at) && name.len() - at - 1 <= 100).then_some(at)
}

enum Long {
    No,
    Pax,
    Gnu,
}

fn seconds((seconds, nanoseconds): (i64, u32)) -> String {
    match (seconds < 0, nanoseconds) {
        (false, 0) => seconds.to_string(),
        (false, n) => format!("{seconds}.{n:09}"),
        (true, 0) => seconds.to_string(),
        (true, n) => format!("-{}.{:09}", -(seconds + 1), 1_000_000_000 - n),
    }
}

fn pax(records: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut data = Vec::new();
    for (key, value) in records {
        let rest = key.len() + value.len() + 3;
        let mut len = rest + 1;
        while len != rest + len.to_string().len() {
            len = rest + len.to_string().len();
        }
        data.extend_from_slice(format!("{len} {key}=").as_bytes());
        data.extend_from_slice(value);
        data.push(b'\n');
    }
    data
}

fn push(head: Head, data: &[u8], tar: &mut Vec<u8>) {
    let mut block = [0; 512];
    let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
    let number = |value: i64, len: usize| match head.binary {
        true => {
            let mut bytes = vec![if value < 0 { 0xff } else { 0 }; len];
            bytes[len - 8..].copy_from_slice(&value.to_be_bytes());
            bytes[0] |= 0x80;
            bytes
        }
        false => format!("{value:0>width$o}", width = len - 1).into_bytes(),
    };
    let Entry { mode, uid, gid, device, .. } = *head.entry;
    put(0, &head.name[..head.name.len().min(100)]);
    put(100, &number(mode.into(), 8));
    put(108, &wide(uid, &number));
    put(116, &wide(gid, &number));
    put(124, &number(head.size as i64, 12));
    put(136, &number(head.mtime, 12));
    put(148, b"        ");
    put(156, &[head.kind]);
    put(157, &head.link[..head.link.len().min(100)]);
    put(257, head.magic);
    put(329, &number(device.0.into(), 8));
    put(337, &number(device.1.into(), 8));
    if head.magic == b"ustar\x0000" {
        put(345, head.prefix);
    }
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    tar.extend_from_slice(&block);
    tar.extend_from_slice(data);
    tar.resize(tar.len().next_multiple_of(512), 0);
}

/// An owner's number, which may have more than seven octal digits.
fn wide(id: u32, number: &impl Fn(i64, usize) -> Vec<u8>) -> Vec<u8> {
    if id < 0o10000000 {
        return number(id.into(), 8);
    }
    let mut bytes = vec![0x80, 0, 0, 0];
    bytes.extend_from_slice(&id.to_be_bytes());
    bytes
}
