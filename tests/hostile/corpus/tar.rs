//! A tar writer that can lie: every field of a header may be anything.

/// The unit of a tar.
pub const BLOCK: usize = 512;

/// The time that entries have unless told otherwise.
pub const TIME: i64 = 1000;

/// A header in the making: ustar, mode 0644 (0755 for directories), owner 0:0, time [`TIME`].
#[derive(Clone)]
pub struct Head {
    block: [u8; BLOCK],
    /// What the checksum is off by.
    off: i64,
    signed: bool,
}

/// Begins the header of an entry of this type.
pub fn head(kind: u8, name: impl AsRef<[u8]>) -> Head {
    let name = name.as_ref();
    assert!(name.len() <= 100, "a name for an extension: {}", String::from_utf8_lossy(name));
    let mut head = Head { block: [0; BLOCK], off: 0, signed: false };
    head.block[156] = kind;
    let head = head.put(0, name).put(257, b"ustar\x0000");
    head.mode(if kind == b'5' { 0o755 } else { 0o644 }).uid(0).gid(0).size(0).time(TIME)
}

impl Head {
    /// Overwrites the bytes at `at`.
    pub fn put(mut self, at: usize, bytes: &[u8]) -> Head {
        self.block[at..at + bytes.len()].copy_from_slice(bytes);
        self
    }

    pub fn mode(self, mode: u32) -> Head {
        self.put(100, format!("{mode:07o}\0").as_bytes())
    }

    pub fn uid(self, uid: u32) -> Head {
        self.put(108, format!("{uid:07o}\0").as_bytes())
    }

    pub fn gid(self, gid: u32) -> Head {
        self.put(116, format!("{gid:07o}\0").as_bytes())
    }

    pub fn size(self, size: u64) -> Head {
        self.put(124, format!("{size:011o}\0").as_bytes())
    }

    pub fn time(self, time: i64) -> Head {
        self.put(136, format!("{time:011o}\0").as_bytes())
    }

    pub fn link(self, target: impl AsRef<[u8]>) -> Head {
        self.put(157, target.as_ref())
    }

    pub fn device(self, major: u32, minor: u32) -> Head {
        let (major, minor) = (format!("{major:07o}\0"), format!("{minor:07o}\0"));
        self.put(329, &major.as_bytes()[..8]).put(337, &minor.as_bytes()[..8])
    }

    /// Makes it the header of Unix V7, which has no magic.
    pub fn v7(self) -> Head {
        self.put(257, &[0; 8])
    }

    /// Makes it GNU's old header.
    pub fn gnu(self) -> Head {
        self.put(257, b"ustar  \0")
    }

    /// Makes the checksum wrong by `off`.
    pub fn checksum_off(mut self, off: i64) -> Head {
        self.off = off;
        self
    }

    /// Adds the bytes up as signed ones, as some old tars did.
    pub fn signed(mut self) -> Head {
        self.signed = true;
        self
    }

    /// Returns the block, with its checksum.
    pub fn bytes(mut self) -> [u8; BLOCK] {
        self.block[148..156].fill(b' ');
        let add = |byte: &u8| if self.signed { i64::from(*byte as i8) } else { i64::from(*byte) };
        let sum: i64 = self.block.iter().map(add).sum::<i64>() + self.off;
        self.block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        self.block
    }
}

/// Returns a number as GNU writes it where its octal digits do not fit: two's complement.
pub fn base256<const N: usize>(number: i128) -> [u8; N] {
    let bytes = number.to_be_bytes();
    let mut field: [u8; N] = bytes[16 - N..].try_into().unwrap();
    field[0] |= 0x80;
    field
}

/// A tar in the making.
#[derive(Clone, Default)]
pub struct Tar(pub Vec<u8>);

/// Begins a tar.
pub fn tar() -> Tar {
    Tar::default()
}

impl Tar {
    /// Adds a header and data, which is padded. The size is the header's affair.
    pub fn with(mut self, head: Head, data: impl AsRef<[u8]>) -> Tar {
        self.0.extend_from_slice(&head.bytes());
        self.0.extend_from_slice(data.as_ref());
        self.0.resize(self.0.len().next_multiple_of(BLOCK), 0);
        self
    }

    /// Adds bytes as they are.
    pub fn raw(mut self, bytes: impl AsRef<[u8]>) -> Tar {
        self.0.extend_from_slice(bytes.as_ref());
        self
    }

    pub fn file(self, name: impl AsRef<[u8]>, data: impl AsRef<[u8]>) -> Tar {
        let size = data.as_ref().len() as u64;
        self.with(head(b'0', name).size(size), data)
    }

    pub fn dir(self, name: impl AsRef<[u8]>) -> Tar {
        self.with(head(b'5', name), "")
    }

    pub fn symlink(self, name: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Tar {
        self.with(head(b'2', name).link(target), "")
    }

    pub fn hard(self, name: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Tar {
        self.with(head(b'1', name).link(target), "")
    }

    pub fn fifo(self, name: impl AsRef<[u8]>) -> Tar {
        self.with(head(b'6', name), "")
    }

    pub fn character(self, name: impl AsRef<[u8]>, major: u32, minor: u32) -> Tar {
        self.with(head(b'3', name).device(major, minor), "")
    }

    /// Adds a header with data that extends the next: `x`, `g`, `L` or `K`.
    pub fn extension(self, kind: u8, data: impl AsRef<[u8]>) -> Tar {
        let size = data.as_ref().len() as u64;
        self.with(head(kind, "././@Extension").size(size), data)
    }

    pub fn pax(self, records: &[(&str, &[u8])]) -> Tar {
        self.extension(b'x', pax(records))
    }

    pub fn global(self, records: &[(&str, &[u8])]) -> Tar {
        self.extension(b'g', pax(records))
    }

    /// Adds GNU's long name of the next entry.
    pub fn long_name(self, name: impl AsRef<[u8]>) -> Tar {
        self.extension(b'L', [name.as_ref(), b"\0"].concat())
    }

    /// Adds GNU's long target of the next entry.
    pub fn long_link(self, target: impl AsRef<[u8]>) -> Tar {
        self.extension(b'K', [target.as_ref(), b"\0"].concat())
    }

    /// Adds an extended attribute for the next entry.
    pub fn xattr(self, name: &str, value: impl AsRef<[u8]>) -> Tar {
        self.pax(&[(&format!("SCHILY.xattr.{name}"), value.as_ref())])
    }

    /// Adds the two blocks that end a tar.
    pub fn end(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 2 * BLOCK, 0);
        self.0
    }
}

/// Returns PAX records.
pub fn pax(records: &[(&str, &[u8])]) -> Vec<u8> {
    let mut data = Vec::new();
    for (key, value) in records {
        let rest = [format!(" {key}=").as_bytes(), value, b"\n"].concat();
        let mut len = rest.len() + 1;
        while len.to_string().len() + rest.len() != len {
            len += 1;
        }
        data.extend_from_slice(len.to_string().as_bytes());
        data.extend_from_slice(&rest);
    }
    data
}

/// Returns GNU's old header of a sparse file, with up to four pieces.
pub fn gnu_sparse(name: &str, real_size: u64, map: &[(u64, u64)], more: bool) -> Head {
    let stored: u64 = map.iter().map(|(_, len)| *len).fold(0, u64::wrapping_add);
    let mut head = head(b'S', name).gnu().size(stored & 0o7777_7777_7777 >> 3);
    for (i, (offset, len)) in map.iter().enumerate() {
        head = head.put(386 + 24 * i, &region(*offset, *len));
    }
    head.put(482, &[more.into()]).put(483, &number(real_size))
}

/// Returns a block that goes on with such a map.
pub fn gnu_sparse_more(map: &[(u64, u64)], more: bool) -> Vec<u8> {
    let mut block: Vec<u8> = map.iter().flat_map(|(offset, len)| region(*offset, *len)).collect();
    block.resize(BLOCK, 0);
    block[504] = more.into();
    block
}

fn region(offset: u64, len: u64) -> Vec<u8> {
    [number(offset), number(len)].concat()
}

fn number(value: u64) -> [u8; 12] {
    match value >> 33 {
        0 => format!("{value:011o}\0").into_bytes().try_into().unwrap(),
        _ => base256(value.into()),
    }
}
