//! What a container has written, as the entries of a layer.
//!
//! ```text
//! upper directory of an overlay  --changes-->     entries  -->  Packer
//! two whole trees                --difference-->
//! ```
//!
//! The upper directory is made to be what the layer unpacks to: what cannot be in a layer is left out
//! and removed there, and times are made whole seconds that are not later than the build's epoch. So
//! it can be taken as the unpacked layer, without reading the layer again.
//!
//! Names are looked up one at a time in open directories and never followed. However deep a tree is,
//! it needs a few descriptors and no long path. Nobody may be changing it.
//!
//! Both ways lead to the same layer, as BuildKit has it: what overlay took into the upper directory and nobody
//! changed is left out, and of a directory that hides the one below all that is gone is said by name. What remains
//! is overlay's way with a file of several names: it changes one of them, where in a copy all of them change.
//!
//! Overlay's marks: Documentation/filesystems/overlayfs.rst. Whiteouts: image-spec, layer.md.

mod node;

use std::collections::HashMap;
use std::ffi::CString;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use anyhow::{Result, anyhow, ensure};
use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat, Timespec, Timestamps, fstat, futimens, openat,
    readlinkat, statat, unlinkat, utimensat,
};
use rustix::io::Errno;

use self::node::{Marks, Metadata, Reader};

pub use self::node::{is_record, recorded_owner};
use super::dirs::shown;
use super::header::lossy;
use super::pack::{Entry, Kind, Packer};
use super::whiteout::Name;
use crate::error::{At, Hint};
use crate::tree::{Node, join};

/// The most warnings of a layer.
const WARNINGS: usize = 16;

const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Packs what is in the upper directory of an overlay that is not mounted any more; returns warnings.
///
/// `below` is what the other layers make together, `userxattr` says whose the marks of overlay are.
/// Times later than `epoch` become `epoch`, and all become whole seconds, on disk as well. A directory
/// in which nothing is left, and of which nothing but its time has changed, is left out, on disk as well.
///
/// # Errors
/// If there is something that no layer can hold: a name that begins with `.wh.`, say.
pub fn changes(
    upper: &Path,
    below: Option<BorrowedFd>,
    userxattr: bool,
    epoch: i64,
    packer: &mut Packer,
) -> Result<Vec<String>> {
    let open = |fd: BorrowedFd| openat(fd, ".", DIRECTORY, Mode::empty());
    let below = below.map(open).transpose().at(upper)?;
    let reader = Reader::new(Some(userxattr));
    Walk::new(upper, below, reader, epoch, packer)?.run()
}

/// Packs what is in the tree `after` and not, or not so, in the tree `before`; returns warnings.
///
/// Times are as with [`changes`], in `after` too unless that is read-only. Files are compared by what they hold, unless their times
/// or sizes tell them apart.
pub fn difference(
    before: &Path,
    after: &Path,
    epoch: i64,
    packer: &mut Packer,
) -> Result<Vec<String>> {
    let below = openat(CWD, before, DIRECTORY, Mode::empty()).at(before)?;
    Walk::new(after, Some(below), Reader::new(None), epoch, packer)?.run()
}

/// A walk through a tree, directories before what is in them, names in the order of a layer.
struct Walk<'a, 'p> {
    reader: Reader,
    epoch: i64,
    packer: &'a mut Packer<'p>,
    here: OwnedFd,
    /// What is at the same place in the tree below, or the nearest directory above that is there too.
    below: Option<OwnedFd>,
    /// Where we are, with the name that is being looked at.
    path: Vec<u8>,
    levels: Vec<Level>,
    /// The first of the levels whose entries are not in the layer.
    pending: usize,
    links: HashMap<(u64, u64), Linked>,
    warnings: Vec<String>,
}

/// A directory that we are in.
struct Level {
    id: (u64, u64),
    /// What is left to look at, last first: names in the layer.
    names: Vec<Vec<u8>>,
    /// Its entry, until that is in the layer.
    entry: Option<Entry>,
    /// The time that it gets in the end.
    time: Timespec,
    /// The tree below has this directory too, and `Walk::below` is it.
    stands: bool,
    /// This one has all that is seen of it: nothing shows through from below.
    whole: bool,
    /// How long the path of the directory above is.
    above: usize,
}

/// The first name of a file with several.
struct Linked {
    path: Vec<u8>,
    /// It is in the layer, and not only below.
    packed: bool,
    /// How many names are still to come.
    left: usize,
}

impl<'a, 'p> Walk<'a, 'p> {
    fn new(
        root: &Path,
        below: Option<OwnedFd>,
        reader: Reader,
        epoch: i64,
        packer: &'a mut Packer<'p>,
    ) -> Result<Walk<'a, 'p>> {
        let flags = DIRECTORY.difference(OFlags::NOFOLLOW);
        let here = openat(CWD, root, flags, Mode::empty()).at(root)?;
        Ok(Walk {
            reader,
            epoch,
            packer,
            here,
            below,
            path: Vec::new(),
            levels: Vec::new(),
            pending: 0,
            links: HashMap::new(),
            warnings: Vec::new(),
        })
    }

    fn run(mut self) -> Result<Vec<String>> {
        self.root()?;
        while let Some(level) = self.levels.last_mut() {
            let Some(name) = level.names.pop() else {
                self.leave()?;
                continue;
            };
            let above = self.path.len();
            if above > 0 {
                self.path.push(b'/');
            }
            self.path.extend_from_slice(&name);
            let entered = match Name::parse(&name) {
                Ok(Name::Plain) => self.visit(&name, above)?,
                _ => self.removed(&name[WHITEOUT.len()..]).map(|()| false)?,
            };
            if !entered {
                self.path.truncate(above);
            }
        }
        Ok(self.warnings)
    }

    /// Begins with the root, which is in the layer only if more than its time has changed.
    fn root(&mut self) -> Result<()> {
        let stat = fstat(&self.here).at(shown(&self.path))?;
        let (metadata, marks) = self.read(&stat, &Node::Open(self.here.as_fd()))?;
        let below = match &self.below {
            Some(below) => {
                let stat = fstat(below).at(shown(&self.path))?;
                Some(self.read(&stat, &Node::Open(below.as_fd()))?.0)
            }
            None => None,
        };
        let (changed, time) = match &below {
            Some(below) => (!metadata.is_like(below), below.mtime),
            None => (!metadata.is_plain_root(), self.clamped(metadata.mtime)),
        };
        let entry = changed.then(|| self.entry(Kind::Directory, metadata));
        let time = entry.as_ref().map_or(time, time_of);
        let (stands, whole) = (below.is_some(), !self.reader.is_upper());
        let names = self.names(&self.here, &marks, self.below.as_ref().filter(|_| whole))?;
        let id = (stat.st_dev, stat.st_ino);
        self.levels.push(Level { id, names, entry, time, stands, whole, above: 0 });
        self.flush()
    }

    /// Looks at a name; returns whether it is a directory, in which we are now.
    fn visit(&mut self, name: &[u8], above: usize) -> Result<bool> {
        let (stat, metadata, file) = self.look(name).at(shown(&self.path))?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind == FileType::Directory {
            return self.enter(name, &stat, above).map(|()| true);
        }
        if kind == FileType::Socket {
            let warning = format!("{}: a socket, which no layer can hold", lossy(&self.path));
            if self.reader.is_upper() {
                unlinkat(&self.here, name, AtFlags::empty()).at(shown(&self.path))?;
            }
            if self.warnings.len() < WARNINGS {
                self.warnings.push(warning);
            }
            return Ok(false);
        }
        // Of an upper directory it is not known which names below were one file with this one.
        let whole = self.levels.last().is_some_and(|level| level.whole);
        let same = (whole || stat.st_nlink == 1)
            && self.is_same(name, &stat, &metadata, file.as_ref()).at(shown(&self.path))?;
        let mut first = None;
        if stat.st_nlink > 1 {
            let id = (stat.st_dev, stat.st_ino);
            match self.links.get_mut(&id) {
                Some(linked) => {
                    linked.left -= 1;
                    let skip = same && !linked.packed;
                    first = Some(linked.path.clone());
                    if linked.left == 0 {
                        self.links.remove(&id);
                    }
                    if skip {
                        return Ok(false);
                    }
                }
                None => {
                    let (path, left) = (self.path.clone(), stat.st_nlink as usize - 1);
                    self.links.insert(id, Linked { path, packed: !same, left });
                }
            }
        }
        if same && first.is_none() {
            if !whole {
                unlinkat(&self.here, name, AtFlags::empty()).at(shown(&self.path))?;
            }
            return Ok(false);
        }
        let mtime = metadata.mtime;
        match first {
            Some(first) => {
                let entry = self.entry(Kind::Link(first), metadata.without_xattrs());
                self.emit(&entry, None)?;
            }
            None => {
                let kind = self.kind(name, &stat)?;
                let entry = self.entry(kind, metadata);
                self.emit(&entry, file.as_ref())?;
            }
        }
        let time = self.clamped(mtime);
        if time != mtime {
            let set = utimensat(&self.here, name, &both(time), AtFlags::SYMLINK_NOFOLLOW);
            self.if_writable(set).at(shown(&self.path))?;
        }
        Ok(false)
    }

    /// Returns what is known of a name, and the file, if it is one with content.
    fn look(&self, name: &[u8]) -> Result<(Stat, Metadata, Option<File>)> {
        let stat = statat(&self.here, name, AtFlags::SYMLINK_NOFOLLOW)?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        if matches!(kind, FileType::Directory | FileType::Socket) {
            return Ok((stat, Metadata::default(), None)); // to be read elsewhere, or never
        }
        let file = match kind == FileType::RegularFile && stat.st_size > 0 {
            true => Some(open_file(&self.here, name)?),
            false => None,
        };
        let node = match &file {
            Some(file) => Node::Open(file.as_fd()),
            None => Node::named(&self.here, &CString::new(name)?),
        };
        let (metadata, _) = self.reader.read(&stat, &node)?;
        drop(node);
        Ok((stat, metadata, file))
    }

    /// Returns what a name that is no directory is.
    fn kind(&self, name: &[u8], stat: &Stat) -> Result<Kind> {
        Ok(match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => Kind::File { size: stat.st_size as u64 },
            FileType::Symlink => {
                let target = readlinkat(&self.here, name, Vec::new()).at(shown(&self.path))?;
                Kind::Symlink(target.into_bytes())
            }
            FileType::Fifo => Kind::Fifo,
            kind => {
                let (major, minor) =
                    (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
                Kind::Device { block: kind == FileType::BlockDevice, major, minor }
            }
        })
    }

    /// Says whether the tree below has the very same under this name.
    fn is_same(
        &self,
        name: &[u8],
        stat: &Stat,
        metadata: &Metadata,
        file: Option<&File>,
    ) -> Result<bool> {
        let Some(below) = self.visible() else { return Ok(false) };
        let other = match statat(below, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(other) => other,
            Err(Errno::NOENT) => return Ok(false),
            Err(err) => return Err(err.into()),
        };
        let key = |stat: &Stat| (stat.st_mode, stat.st_uid, stat.st_gid, stat.st_size);
        let device = |stat: &Stat| match FileType::from_raw_mode(stat.st_mode) {
            FileType::CharacterDevice | FileType::BlockDevice => stat.st_rdev,
            _ => 0,
        };
        // One that has got another name is in the layer with it, as overlay has it.
        if key(stat) != key(&other)
            || device(stat) != device(&other)
            || stat.st_nlink > other.st_nlink
        {
            return Ok(false);
        }
        let node = Node::named(below, &CString::new(name)?);
        let (known, _) = self.reader.read(&other, &node)?;
        if *metadata != known {
            return Ok(false);
        }
        match file {
            Some(file) => node::same_content(file, &open_file(below, name)?),
            None if FileType::from_raw_mode(stat.st_mode) == FileType::Symlink => {
                Ok(readlinkat(&self.here, name, Vec::new())?
                    == readlinkat(below, name, Vec::new())?)
            }
            None => Ok(true),
        }
    }

    /// Goes into a directory.
    fn enter(&mut self, name: &[u8], stat: &Stat, above: usize) -> Result<()> {
        let open = |dir: &OwnedFd| openat(dir, name, DIRECTORY, Mode::empty());
        let here = open(&self.here).at(shown(&self.path))?;
        let below = match self.visible().map(open).transpose() {
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => None,
            below => below.at(shown(&self.path))?,
        };
        let (metadata, marks) = self.read(stat, &Node::Open(here.as_fd()))?;
        let changed = match &below {
            None => true,
            Some(below) => {
                let stat = fstat(below).at(shown(&self.path))?;
                let (known, _) = self.read(&stat, &Node::Open(below.as_fd()))?;
                // What happens in a directory changes its time as well, to one later than the epoch.
                let time = metadata.mtime.tv_sec;
                let given = time != known.mtime.tv_sec && time <= self.epoch;
                !metadata.is_like(&known) || given
            }
        };
        let whole = marks.opaque || self.levels.last().is_some_and(|level| level.whole);
        let names = self.names(&here, &marks, below.as_ref().filter(|_| whole))?;
        let entry = self.entry(Kind::Directory, metadata);
        let (id, time) = ((stat.st_dev, stat.st_ino), time_of(&entry));
        let stands = below.is_some();
        self.levels.push(Level { id, names, entry: Some(entry), time, stands, whole, above });
        self.here = here;
        if let Some(below) = below {
            self.below = Some(below);
        }
        if changed { self.flush() } else { Ok(()) }
    }

    /// Goes back to the directory above, unless this is the root.
    fn leave(&mut self) -> Result<()> {
        let Some(mut level) = self.levels.pop() else { return Ok(()) };
        self.pending = self.pending.min(self.levels.len());
        // One that hides what is below stays, be it the same.
        let stays = self.reader.is_upper() && level.whole;
        if let (true, Some(_), Some(below)) = (stays, &level.entry, &self.below) {
            let stat = fstat(below).at(shown(&self.path))?;
            level.time = Timespec { tv_sec: stat.st_mtime as _, tv_nsec: stat.st_mtime_nsec as _ };
        }
        let top = self.levels.is_empty();
        if stays || level.entry.is_none() && (self.reader.is_upper() || !top) {
            let set = futimens(&self.here, &both(level.time));
            self.if_writable(set).at(shown(&self.path))?;
        }
        let Some(parent) = self.levels.last() else { return Ok(()) };
        let up = |dir: &OwnedFd| openat(dir, "..", DIRECTORY, Mode::empty());
        self.here = up(&self.here).at(shown(&self.path))?;
        let stat = fstat(&self.here).at(shown(&self.path))?;
        // Where `..` leads, if somebody has moved the directory, is not for us to know.
        ensure!((stat.st_dev, stat.st_ino) == parent.id, "{}: was moved", lossy(&self.path));
        if level.stands {
            self.below = self.below.as_ref().map(up).transpose().at(shown(&self.path))?;
        }
        if level.entry.is_some() && self.reader.is_upper() && !stays {
            let skip = if level.above == 0 { 0 } else { level.above + 1 };
            unlinkat(&self.here, &self.path[skip..], AtFlags::REMOVEDIR).at(shown(&self.path))?;
        }
        self.path.truncate(level.above);
        Ok(())
    }

    /// Looks at a name that is no more, if the tree below has it.
    fn removed(&mut self, name: &[u8]) -> Result<()> {
        let stat = self.visible().map(|below| statat(below, name, AtFlags::SYMLINK_NOFOLLOW));
        match stat.transpose() {
            Ok(Some(_)) => return self.whiteout(),
            Ok(None) | Err(Errno::NOENT) => {}
            Err(err) => return Err(err).at(shown(&self.path)),
        }
        if self.reader.is_upper() {
            unlinkat(&self.here, name, AtFlags::empty()).at(shown(&self.path))?;
        }
        Ok(())
    }

    /// Returns what the tree below has where we are.
    fn visible(&self) -> Option<&OwnedFd> {
        let stands = self.levels.last().is_some_and(|level| level.stands);
        self.below.as_ref().filter(|_| stands)
    }

    /// Returns the names in a directory as the layer has them, last first; with one below what is gone of that.
    fn names(&self, dir: &OwnedFd, marks: &Marks, below: Option<&OwnedFd>) -> Result<Vec<Vec<u8>>> {
        let mut names = Vec::new();
        for entry in Dir::read_from(dir).at(shown(&self.path))? {
            let entry = entry.at(shown(&self.path))?;
            let name = entry.file_name().to_bytes();
            if matches!(name, b"." | b"..") {
                continue;
            }
            let is_whiteout = self.reader.is_whiteout(dir, name, entry.file_type(), marks);
            if is_whiteout.at(shown(&join(&self.path, name)))? {
                names.push([WHITEOUT, name].concat());
                continue;
            }
            if name.starts_with(WHITEOUT) {
                let name = lossy(&join(&self.path, name));
                let refused = Err(anyhow!("{name}: no layer can hold a file of this name"));
                return refused.hint(|| "there, .wh. stands for what was removed".into());
            }
            names.push(name.to_vec());
        }
        names.sort_unstable_by(|a, b| b.cmp(a));
        if let Some(below) = below {
            let mut gone = Vec::new();
            for entry in Dir::read_from(below).at(shown(&self.path))? {
                let entry = entry.at(shown(&self.path))?;
                let name = entry.file_name().to_bytes();
                let here = names.binary_search_by(|other| name.cmp(&other[..])).is_ok();
                if !here && !matches!(name, b"." | b"..") {
                    gone.push([WHITEOUT, name].concat());
                }
            }
            names.append(&mut gone);
            names.sort_unstable_by(|a, b| b.cmp(a));
            names.dedup(); // overlay may have said so as well
        }
        Ok(names)
    }

    fn read(&self, stat: &Stat, node: &Node) -> Result<(Metadata, Marks)> {
        self.reader.read(stat, node).at(shown(&self.path))
    }

    /// Lets a tree that is only compared be one that nobody can write to.
    fn if_writable(&self, set: rustix::io::Result<()>) -> rustix::io::Result<()> {
        match set {
            Err(Errno::ROFS) if !self.reader.is_upper() => Ok(()),
            set => set,
        }
    }

    /// Returns the time that a file gets.
    fn clamped(&self, time: Timespec) -> Timespec {
        Timespec { tv_sec: time.tv_sec.min(self.epoch), tv_nsec: 0 }
    }

    /// Returns an entry for where we are.
    fn entry(&self, kind: Kind, metadata: Metadata) -> Entry {
        let mtime = self.clamped(metadata.mtime).tv_sec;
        let Metadata { mode, uid, gid, xattrs, .. } = metadata;
        Entry { path: self.path.clone(), kind, mode, uid, gid, mtime, xattrs }
    }

    /// Puts the whiteout at this path into the layer.
    fn whiteout(&mut self) -> Result<()> {
        let entry = Entry {
            path: self.path.clone(),
            kind: Kind::File { size: 0 },
            mode: 0o600,
            uid: 0,
            gid: 0,
            mtime: self.epoch,
            xattrs: Default::default(),
        };
        self.emit(&entry, None)
    }

    /// Puts an entry into the layer, and before it those of the directories that it is in.
    fn emit(&mut self, entry: &Entry, content: Option<&File>) -> Result<()> {
        self.flush()?;
        match content {
            Some(file) => self.packer.file(entry, file),
            None => self.packer.add(entry),
        }
    }

    fn flush(&mut self) -> Result<()> {
        for level in &mut self.levels[self.pending..] {
            if let Some(entry) = level.entry.take() {
                self.packer.add(&entry)?;
            }
        }
        self.pending = self.levels.len();
        Ok(())
    }
}

/// What the name of a whiteout begins with.
const WHITEOUT: &[u8] = b".wh.";

fn open_file(dir: &OwnedFd, name: &[u8]) -> Result<File> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    // A time of access is no change, but a write all the same.
    let file = match openat(dir, name, flags | OFlags::NOATIME, Mode::empty()) {
        Err(Errno::PERM) => openat(dir, name, flags, Mode::empty()),
        file => file,
    };
    Ok(File::from(file?))
}

fn time_of(entry: &Entry) -> Timespec {
    Timespec { tv_sec: entry.mtime, tv_nsec: 0 }
}

fn both(time: Timespec) -> Timestamps {
    Timestamps { last_access: time, last_modification: time }
}

#[cfg(test)]
mod tests;
