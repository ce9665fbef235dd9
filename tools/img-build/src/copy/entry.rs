//! Entries of a layer.

use std::collections::BTreeMap;

/// An entry of a layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Where it is, without slashes at either end.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: Kind,
    /// Its permissions.
    pub mode: u32,
    /// Its owner.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// When it was modified.
    pub mtime: i64,
    /// Its extended attributes.
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// What an entry is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A file.
    File {
        /// How many bytes it has.
        size: u64,
    },
    /// A directory.
    Directory,
    /// A symbolic link, and what is in it.
    Symlink(Vec<u8>),
    /// Another name of the file at this path.
    Link(Vec<u8>),
    /// A device.
    Device {
        /// Whether it is a block device.
        block: bool,
        /// The major number.
        major: u32,
        /// The minor number.
        minor: u32,
    },
    /// A named pipe.
    Fifo,
}
