//! What is known of a file, as far as a layer can hold it, and the marks that overlay leaves on it.

use std::collections::BTreeMap;
use std::ffi::{CStr, CString};
use std::fs::File;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::OnceLock;

use anyhow::{Context, Result, bail, ensure};
use rustix::fs::{AtFlags, FileType, Stat, Timespec, statat};
use rustix::io::Errno;

use crate::error::At;
use crate::layer::extract::ROOTLESS;
use crate::tree::Node;
use crate::userns::Mapping;

/// What an entry says of a file, but for its kind.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Metadata {
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) mtime: Timespec,
    pub(super) xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl Default for Metadata {
    fn default() -> Self {
        let mtime = Timespec { tv_sec: 0, tv_nsec: 0 };
        Metadata { mode: 0, uid: 0, gid: 0, mtime, xattrs: BTreeMap::new() }
    }
}

impl Metadata {
    /// Says whether nothing but the time is different.
    pub(super) fn is_like(&self, other: &Metadata) -> bool {
        let owners = (self.mode, self.uid, self.gid) == (other.mode, other.uid, other.gid);
        owners && self.xattrs == other.xattrs
    }

    /// Says whether it is a root that no layer says anything of.
    pub(super) fn is_plain_root(&self) -> bool {
        (self.mode, self.uid, self.gid) == (0o755, 0, 0) && self.xattrs.is_empty()
    }

    pub(super) fn without_xattrs(self) -> Metadata {
        Metadata { xattrs: BTreeMap::new(), ..self }
    }
}

/// What overlay says of a directory.
#[derive(Default)]
pub(super) struct Marks {
    /// What is below does not show through.
    pub(super) opaque: bool,
    /// Files in it may be whiteouts, by an attribute.
    whiteouts: bool,
}

/// Reads what is known of files.
pub(super) struct Reader {
    /// What the marks of overlay are called, where there are any.
    marks: Option<&'static [u8]>,
}

impl Reader {
    /// Reads an upper directory, whose marks are `user.*` or not; or a tree without any.
    pub(super) fn new(userxattr: Option<bool>) -> Reader {
        let prefix = |user| if user { &b"user.overlay."[..] } else { b"trusted.overlay." };
        Reader { marks: userxattr.map(prefix) }
    }

    /// Returns whether this is an upper directory, which becomes an unpacked layer.
    pub(super) fn is_upper(&self) -> bool {
        self.marks.is_some()
    }

    /// Returns what is known of a file.
    pub(super) fn read(&self, stat: &Stat, node: &Node) -> Result<(Metadata, Marks)> {
        let mut metadata = Metadata {
            mode: stat.st_mode & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
            mtime: Timespec { tv_sec: stat.st_mtime as _, tv_nsec: stat.st_mtime_nsec as _ },
            xattrs: BTreeMap::new(),
        };
        let mut marks = Marks::default();
        for name in node.list()?.split_inclusive(|byte| *byte == 0) {
            let Ok(name) = CStr::from_bytes_with_nul(name) else { continue };
            let get = || node.get(name).at(name.to_string_lossy().as_ref());
            let bytes = name.to_bytes();
            match self.marks.and_then(|prefix| bytes.strip_prefix(prefix)) {
                Some(b"opaque") => match &get()?[..] {
                    b"x" => marks.whiteouts = true,
                    value => marks.opaque = value == b"y",
                },
                // We mount overlays that make neither, and a layer with them is not whole.
                Some(b"redirect" | b"metacopy") => {
                    bail!("the file is elsewhere: {}", name.to_string_lossy())
                }
                Some(_) => {}
                None if is_record(bytes)? => {
                    (metadata.uid, metadata.gid) = recorded(&get()?).context(RECORD)?;
                }
                None if is_kept(bytes) => {
                    metadata.xattrs.insert(bytes.to_vec(), get()?);
                }
                None => {}
            }
        }
        Ok((metadata, marks))
    }

    /// Says whether overlay has put this in an upper directory in place of something that was removed.
    pub(super) fn is_whiteout(
        &self,
        dir: &OwnedFd,
        name: &[u8],
        kind: FileType,
        marks: &Marks,
    ) -> Result<bool> {
        let Some(prefix) = self.marks else { return Ok(false) };
        let maybe = match kind {
            FileType::CharacterDevice | FileType::Unknown => true,
            FileType::RegularFile => marks.whiteouts,
            _ => false,
        };
        if !maybe {
            return Ok(false);
        }
        let stat = statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::CharacterDevice => Ok(stat.st_rdev == 0),
            FileType::RegularFile if marks.whiteouts && stat.st_size == 0 => {
                let mark = CString::new([prefix, b"whiteout"].concat())?;
                match Node::named(dir, &CString::new(name)?).get(&mark) {
                    Ok(_) => Ok(true),
                    Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(false),
                    Err(err) => Err(err.into()),
                }
            }
            _ => Ok(false),
        }
    }
}

/// Says whether layers are unpacked here with owners recorded, since there are no others.
fn records() -> Result<bool> {
    // Nobody changes the namespace of a process that unpacks layers.
    static RECORDS: OnceLock<bool> = OnceLock::new();
    if let Some(records) = RECORDS.get() {
        return Ok(*records);
    }
    let records = Mapping::current()?.is_single();
    Ok(*RECORDS.get_or_init(|| records))
}

/// Says whether an attribute of an unpacked layer is such a record, and no attribute of the image's.
pub fn is_record(name: &[u8]) -> Result<bool> {
    Ok(name == ROOTLESS && records()?)
}

/// Returns the owner that was recorded of a file or a directory when its layer was unpacked here, if one was.
///
/// `path` leads there from `dir`, without links on the way.
pub fn recorded_owner(dir: BorrowedFd, path: &[u8]) -> Result<Option<(u32, u32)>> {
    if !records()? {
        return Ok(None);
    }
    let (path, name) = (CString::new(path)?, CString::new(ROOTLESS)?);
    match Node::named(dir, &path).get(&name) {
        Ok(value) => recorded(&value).context(RECORD).map(Some),
        Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(None),
        Err(err) => Err(err.into()),
    }
}

/// Says whether an attribute belongs to the image: what else there is belongs to this host.
///
/// Lists of access, capabilities, and what users may set. The rest are labels of security modules,
/// marks of overlay, and what only root of the host can see.
fn is_kept(name: &[u8]) -> bool {
    let kept: [&[u8]; 3] =
        [b"security.capability", b"system.posix_acl_access", b"system.posix_acl_default"];
    kept.contains(&name) || (name.starts_with(b"user.") && !name.starts_with(b"user.overlay."))
}

const RECORD: &str = "user.rootlesscontainers is no record of an owner";

/// Reads an owner as rootlesscontainers has it: a protobuf of two numbers, -1 for 0.
fn recorded(mut value: &[u8]) -> Result<(u32, u32)> {
    let mut owner = [0; 2];
    while let Some((tag, rest)) = value.split_first() {
        let which = match tag {
            0x08 => 0,
            0x10 => 1,
            _ => bail!("an unknown field"),
        };
        let (mut id, mut len) = (0u64, 0);
        loop {
            let byte = *rest.get(len).context("it is cut off")?;
            ensure!(len < 5, "a number that is too large");
            id |= u64::from(byte & 0x7f) << (7 * len);
            len += 1;
            if byte & 0x80 == 0 {
                break;
            }
        }
        owner[which] = match u32::try_from(id)? {
            u32::MAX => 0,
            id => id,
        };
        value = &rest[len..];
    }
    Ok((owner[0], owner[1]))
}

/// Says whether two files hold the same.
pub(super) fn same_content(a: &File, b: &File) -> Result<bool> {
    let (mut one, mut other) = (vec![0; 128 << 10], vec![0; 128 << 10]);
    let mut at = 0;
    loop {
        let (n, m) = (fill(a, &mut one, at)?, fill(b, &mut other, at)?);
        if one[..n] != other[..m] {
            return Ok(false);
        }
        if n < one.len() {
            return Ok(true);
        }
        at += n as u64;
    }
}

fn fill(file: &File, buffer: &mut [u8], at: u64) -> Result<usize> {
    let mut len = 0;
    while len < buffer.len() {
        match file.read_at(&mut buffer[len..], at + len as u64) {
            Ok(0) => break,
            Ok(n) => len += n,
            Err(err) if err.kind() == std::io::ErrorKind::Interrupted => {}
            Err(err) => return Err(err.into()),
        }
    }
    Ok(len)
}
