//! Archives that ADD unpacks: tars, plain or packed, whatever they are called.
//!
//! ```text
//! archive --inflate--> members --> places in the image
//!                         └──────> their contents, in a file without a name, until they are packed in order
//! ```
//!
//! Names are resolved as if the directory that is unpacked to were the root, as
//! moby does it. What would lead out of it is an error. A member takes the place of
//! what is there, whatever it is, but for a directory that is merged with one.

use std::fs::{self, File};
use std::io::{BufWriter, Read, Seek, SeekFrom, Write};
use std::os::fd::AsFd;
use std::path::Path;

use anyhow::{Context, Result, bail};
use common::archive::unpacked;
use common::error::At;
use common::layer::{BLOCK, Member, Type, is_header, sparse_members};
use common::tree::join;

use super::contents::Xattrs;
use super::pack::Data;
use super::place::{Image, Looks, What, above, fits};
use super::walk::names;

/// The most members of an archive, as of a layer.
const MEMBERS: u64 = 4 << 20;
/// The most bytes that an archive may unpack to, as a layer.
const SIZE: u64 = 1 << 40;

/// The contents of an archive's files, one behind the other.
pub(super) struct Spool {
    pub(super) file: File,
}

/// An archive that is unpacked.
pub(super) struct Unpack<'a, 'i> {
    pub(super) image: &'a mut Image<'i, Data>,
    /// The directory that it is unpacked to.
    pub(super) top: &'a [u8],
    /// Which of the archives it is.
    pub(super) number: usize,
    /// Whose everything is, if not as the archive says.
    pub(super) owner: Option<(u32, u32)>,
    /// What directories look like that the archive has only names in.
    pub(super) parent: Looks,
    /// What is later than that is as if of then.
    pub(super) latest: i64,
    /// Where there is room for its contents, if not in the system's directory for what is temporary.
    pub(super) room: Option<&'a Path>,
}

/// Returns whether a file is a tar, perhaps packed, that has a member.
pub(super) fn is_archive(file: &File) -> Result<bool> {
    let mut start = Vec::new();
    // What begins as if it were packed and is not so is a file like others.
    let read = unpacked(from_start(file)?).and_then(|mut bytes| {
        bytes.by_ref().take(BLOCK as u64).read_to_end(&mut start).context("cannot read")
    });
    Ok(read.is_ok() && start.first_chunk().is_some_and(is_header))
}

/// Returns the bytes of a file, wherever it is read by others.
fn from_start(file: &File) -> Result<impl Read> {
    let mut file = File::from(rustix::io::dup(file.as_fd())?);
    file.seek(SeekFrom::Start(0))?;
    Ok(file)
}

impl Unpack<'_, '_> {
    /// Gives all members their places.
    pub(super) fn run(mut self, file: &File) -> Result<Spool> {
        let room = match self.room {
            Some(dir) => {
                fs::create_dir_all(dir).at(dir)?;
                tempfile::tempfile_in(dir).at(dir)?
            }
            None => tempfile::tempfile()?,
        };
        let mut spool = BufWriter::with_capacity(256 << 10, room);
        let (mut at, mut count, mut whole) = (0, 0, 0u64);
        sparse_members(unpacked(from_start(file)?)?, |mut member| {
            count += 1;
            whole = whole.saturating_add(member.size);
            if count > MEMBERS || whole > SIZE {
                bail!("more than an archive may unpack to");
            }
            let name = String::from_utf8_lossy(&member.name).into_owned();
            let start = at;
            if member.kind == Type::File {
                at = spool_data(&mut member, &mut spool, start).with_context(|| name.clone())?;
            }
            self.member(&member, start).context(name)
        })?;
        let file = spool.into_inner().map_err(|err| err.into_error())?;
        Ok(Spool { file })
    }

    fn member(&mut self, member: &Member, at: u64) -> Result<()> {
        let Some(path) = self.path(&member.name)? else { return Ok(()) };
        self.image.make_dirs(above(&path), self.parent)?;
        let (uid, gid) = self.owner.unwrap_or((member.uid, member.gid));
        let (mode, mtime) = (member.mode & 0o7777, member.mtime.min(self.latest));
        let looks = Looks { mode, uid, gid, mtime };
        let data =
            Data::Spooled { archive: self.number, at, size: member.size, xattrs: xattrs(member) };
        let what = match member.kind {
            Type::Directory => What::Directory(Some(data)),
            Type::File => What::File(data, None),
            Type::Symlink => {
                fits(&member.link)?;
                What::Symlink(member.link.clone())
            }
            Type::HardLink => return self.link(member, &path),
            Type::Special => match member.device {
                Some((major, minor, block)) => What::Device { block, major, minor },
                None => What::Fifo,
            },
        };
        self.image.replace(&path, what, looks)
    }

    /// Returns where a member goes, links in the image and of the archive followed; nothing for the top itself.
    fn path(&self, name: &[u8]) -> Result<Option<Vec<u8>>> {
        fits(name)?;
        // Names are cleaned as text first: `a/../b` is b, whatever a is.
        let cleaned = cleaned(name);
        if cleaned.first().is_some_and(|name| name == b"..") {
            bail!("leads out of where it is unpacked to");
        }
        let Some((last, dirs)) = cleaned.split_last() else { return Ok(None) };
        let dir = self.image.follow(self.top, &dirs.join(&b'/'))?;
        Ok(Some(join(&dir, last)))
    }

    /// Makes another name of a file of this archive.
    fn link(&mut self, member: &Member, path: &[u8]) -> Result<()> {
        let to = || format!("hard link to {}", String::from_utf8_lossy(&member.link));
        let Some(target) = self.path(&member.link).with_context(to)? else { bail!(to()) };
        if target == path {
            return Ok(());
        }
        self.image.link(&target, path, self.number).with_context(to)
    }
}

/// Puts a member's data behind what is there, its holes as holes; returns where it ends.
fn spool_data(member: &mut Member, spool: &mut BufWriter<File>, start: u64) -> Result<u64> {
    let whole = vec![(0, member.size)];
    let map = member.map.take().unwrap_or(whole);
    let mut map = map.into_iter();
    let mut part = (0, 0);
    let mut at = start;
    loop {
        let mut data = member.data()?;
        if data.is_empty() {
            break;
        }
        while !data.is_empty() {
            while part.1 == 0 {
                part = map.next().context("more data than its map has")?;
            }
            let place = start + part.0;
            if place != at {
                spool.seek(SeekFrom::Start(place))?;
            }
            let n = data.len().min(usize::try_from(part.1).unwrap_or(usize::MAX));
            spool.write_all(&data[..n])?;
            data = &data[n..];
            part = (part.0 + n as u64, part.1 - n as u64);
            at = place + n as u64;
        }
    }
    let end = start + member.size;
    if at != end {
        spool.seek(SeekFrom::Start(end))?;
        // A hole at the end is there as well.
        spool.get_ref().set_len(end)?;
    }
    Ok(end)
}

/// Returns the attributes that a layer may have.
fn xattrs(member: &Member) -> Xattrs {
    let fits = |(name, _): &&(Vec<u8>, Vec<u8>)| {
        let own = name.starts_with(b"user.") && !name.starts_with(b"user.overlay.");
        name == b"security.capability" || own
    };
    member.xattrs.iter().filter(fits).cloned().collect()
}

/// Returns the names of a path, cleaned as Go's path.Clean does: of a rooted one `..` stops at the root.
fn cleaned(name: &[u8]) -> Vec<Vec<u8>> {
    let rooted = name.starts_with(b"/");
    let mut cleaned: Vec<Vec<u8>> = Vec::new();
    for name in names(name) {
        let up = cleaned.last().is_some_and(|last| last != b"..");
        match name {
            b".." if up => drop(cleaned.pop()),
            b".." if rooted => {}
            name => cleaned.push(name.into()),
        }
    }
    cleaned
}
