//! Makes the files of a layer beneath the root of a tree.
//!
//! A name is only ever looked up in an open directory, and the last component
//! of a path never through a link: what is there is removed first, and what is
//! made must be new (O_EXCL). Owner, mode, attributes and times are set through
//! the new file's descriptor or by calls that follow no link, in that order,
//! since chown(2) takes set-user-ID and capabilities away.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::rc::Rc;

use anyhow::{Context, Result, bail, ensure};
use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, Timestamps, Uid, chmod, chownat, fchmod, fchown,
    flistxattr, fremovexattr, fsetxattr, fstat, ftruncate, futimens, linkat, makedev, mkdirat,
    mknodat, openat, removexattr, setxattr, statat, symlinkat, utimensat,
};
use rustix::io::{Errno, pwrite};

use super::dirs::{Dir, Dirs, Missing, PATH_MAX, by_fd};
use super::entry::{Entries, Entry, Kind, Xattr};
use super::header::lossy;
use super::whiteout::{self, Name};
use super::{Limits, Owners};

/// The most different warnings of a layer.
const WARNINGS: usize = 16;

/// Where rootless tools keep the owner that a file should have: rootlesscontainers.
pub(super) const ROOTLESS: &[u8] = b"user.rootlesscontainers";

/// Makes the files of one layer.
pub(super) struct Extract {
    dirs: Dirs,
    owners: Owners,
    limits: Limits,
    /// Who we are, so whose a new file is.
    us: (u32, u32),
    umask: u32,
    privileged: bool,
    /// Names of whiteouts are such.
    layer: bool,
    /// A new file has the group of its directory, not ours: the mount options say so.
    group_of_directory: Cell<Option<bool>>,
    entries: Cell<u64>,
    warnings: RefCell<BTreeMap<String, (String, u64)>>,
}

/// Checks what can be said of an entry without a tree.
pub(super) fn check(entry: &Entry, layer: bool) -> Result<()> {
    match place(&entry.name, layer)? {
        None => return Ok(()),
        Some(Place::Root) => {
            ensure!(entry.kind == Kind::Directory, "the root of a tree is a directory");
        }
        Some(Place::In { name, .. }) => {
            if parse(name, layer)? != Name::Plain {
                return Ok(()); // of a whiteout the name counts, and nothing else
            }
        }
    }
    match entry.kind {
        Kind::HardLink => target(&entry.link, layer).map(drop),
        // As the upper directory of an overlay has them. In a layer it would make a file vanish
        // for those who mount it and appear as a device for those who unpack it.
        Kind::Character if entry.device == (0, 0) => {
            bail!("a character device 0:0, which is no whiteout in a layer")
        }
        _ => Ok(()),
    }
}

/// Splits the path of a hard link's target.
pub(super) fn target(link: &[u8], layer: bool) -> Result<(Vec<u8>, &[u8])> {
    match place(link, layer).with_context(|| format!("hard link to {:?}", lossy(link)))? {
        Some(Place::In { dir, name }) => Ok((dir, name)),
        _ => bail!("hard link to {:?}", lossy(link)),
    }
}

/// Reads the last component of a path. Only in a layer does it mean more than it says.
fn parse(name: &[u8], layer: bool) -> Result<Name<'_>> {
    if layer { Name::parse(name) } else { Ok(Name::Plain) }
}

/// A path that was split into the directory and what is in it, or is the root.
pub(super) enum Place<'a> {
    Root,
    In { dir: Vec<u8>, name: &'a [u8] },
}

impl Extract {
    pub(super) fn new(
        dirs: Dirs,
        owners: Owners,
        limits: Limits,
        privileged: bool,
        umask: u32,
        layer: bool,
    ) -> Extract {
        let us = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        Extract {
            dirs,
            owners,
            limits,
            us,
            umask,
            privileged,
            layer,
            group_of_directory: Cell::new(None),
            entries: Cell::new(0),
            warnings: RefCell::default(),
        }
    }

    /// Makes all entries; returns their number and the warnings.
    pub(super) fn run(mut self, entries: &mut Entries) -> Result<(u64, Vec<String>)> {
        while let Some(entry) = entries.next()? {
            self.count()?;
            self.entry(&entry, entries).with_context(|| lossy(&entry.name))?;
        }
        self.dirs.finish()?;
        let warnings = self.warnings.into_inner().into_iter();
        let warnings = warnings.map(|(what, (first, count))| match count {
            1 => format!("{first}: {what}"),
            _ => format!("{first}: {what} (and {} more)", count - 1),
        });
        Ok((self.entries.get(), warnings.collect()))
    }

    fn count(&self) -> Result<()> {
        self.entries.set(self.entries.get() + 1);
        let limit = self.limits.entries;
        ensure!(self.entries.get() <= limit, "more than the {limit} entries that a layer may have");
        Ok(())
    }

    /// Notes what the filesystem cannot do, once for all files it is so for.
    fn warn(&self, name: &[u8], what: String) {
        let mut warnings = self.warnings.borrow_mut();
        if warnings.len() < WARNINGS || warnings.contains_key(&what) {
            warnings.entry(what).or_insert_with(|| (lossy(name), 0)).1 += 1;
        }
    }

    fn entry(&mut self, entry: &Entry, data: &mut Entries) -> Result<()> {
        check(entry, self.layer)?;
        let (dir, name) = match place(&entry.name, self.layer)? {
            None => return Ok(()),
            Some(Place::Root) => {
                let root = self.dirs.root().clone();
                return self.dress_directory(&root, entry, false);
            }
            Some(Place::In { dir, name }) => (dir, name),
        };
        let removed = match parse(name, self.layer)? {
            Name::Leftover => return Ok(()),
            Name::Plain => None,
            whiteout => Some(whiteout),
        };
        if let Some(whiteout) = removed {
            let Some(dir) = self.dirs.find(&dir, Missing::Absent)? else { return Ok(()) };
            return match whiteout {
                Name::Removed(name) => whiteout::remove(&mut self.dirs, &dir, name),
                _ => whiteout::clear(&mut self.dirs, dir.path.clone()),
            };
        }

        // Before the parent, which must not leave until it is changed.
        let target = match entry.kind {
            Kind::HardLink => Some(self.target(&entry.link)?),
            _ => None,
        };
        let parent = self.parent(&dir, entry)?;
        let path = parent.member(name);
        parent.change();
        match (entry.kind, target) {
            (Kind::Directory, _) => self.directory(&parent, name, &path, entry)?,
            (Kind::File, _) => self.file(&parent, name, entry, data)?,
            (Kind::Symlink, _) => {
                self.replacing(&parent, name, |_| symlinkat(&entry.link[..], &parent.fd, name))?;
                self.dress_special(&parent, name, entry)?;
            }
            (Kind::HardLink, Some((from, link))) => self.link(&from, &link, &parent, name)?,
            (Kind::HardLink, None) => {}
            (Kind::Character | Kind::Block | Kind::Fifo, _) => {
                self.node(&parent, name, entry, data)?;
            }
        }
        self.dirs.made.name(&parent, &path);
        Ok(())
    }

    /// Returns the directory at `path`, made if it is not there.
    fn parent(&mut self, path: &[u8], entry: &Entry) -> Result<Rc<Dir>> {
        let (owners, entries, limit) = (self.owners, &self.entries, self.limits.entries);
        let dress = |dir: &Dir| {
            entries.set(entries.get() + 1);
            ensure!(entries.get() <= limit, "more than the {limit} entries that a layer may have");
            // It may have its parent's group, and its lists.
            if owners == Owners::Set {
                fchown(&dir.fd, Some(Uid::ROOT), Some(Gid::ROOT))
                    .context("cannot set its owner")?;
            }
            if dir.default_acl.replace(false) {
                for name in ["system.posix_acl_access", "system.posix_acl_default"] {
                    match fremovexattr(&dir.fd, name) {
                        Ok(()) | Err(Errno::NODATA) => {}
                        Err(err) => {
                            return Err(err).context("cannot remove the list that it inherited");
                        }
                    }
                }
            }
            // A layer of a pipeline should be the same each time: no time of ours.
            dir.set_times(entry.mtime);
            dir.set_mode(0o755, true)
        };
        let dir = self.dirs.find(path, Missing::Make(&dress))?;
        dir.context("not found")
    }

    /// Returns the directory and the name of a hard link's target.
    fn target(&mut self, link: &[u8]) -> Result<(Rc<Dir>, Vec<u8>)> {
        let (dir, name) = target(link, self.layer)?;
        let dir = self.dirs.find(&dir, Missing::Absent)?;
        let dir = dir.with_context(|| format!("hard link to {:?}: not found", lossy(link)))?;
        Ok((dir, name.into()))
    }

    /// Makes something with `make`, once more if there was something of that name, which it replaces.
    fn replacing<T>(
        &mut self,
        parent: &Dir,
        name: &[u8],
        make: impl Fn(&Self) -> Result<T, Errno>,
    ) -> Result<T> {
        match make(self) {
            Err(Errno::EXIST) => {
                self.dirs.remove(parent, name).context("cannot replace it")?;
                make(self).context("cannot create")
            }
            result => result.context("cannot create"),
        }
    }

    fn directory(&mut self, parent: &Dir, name: &[u8], path: &[u8], entry: &Entry) -> Result<()> {
        let is_directory = |parent: &Dir| {
            let stat = statat(&parent.fd, name, AtFlags::SYMLINK_NOFOLLOW)?;
            Ok::<_, Errno>(FileType::from_raw_mode(stat.st_mode) == FileType::Directory)
        };
        let mode = Mode::from_raw_mode(0o700);
        let made = match mkdirat(&parent.fd, name, mode) {
            Err(Errno::EXIST) if is_directory(parent)? => false,
            Err(Errno::EXIST) => {
                self.replacing(parent, name, |_| mkdirat(&parent.fd, name, mode))?;
                true
            }
            result => result.map(|()| true).context("cannot create")?,
        };
        if made {
            self.dirs.made.directory(parent, path);
        }
        let dir = self.dirs.find(path, Missing::Absent)?.context("it has vanished")?;
        ensure!(dir.path == path, "it was replaced by a link");
        self.dress_directory(&dir, entry, made && !parent.default_acl.get())
    }

    /// Gives a directory what its entry says. Unless it is bare, it may have other attributes so far.
    fn dress_directory(&self, dir: &Dir, entry: &Entry, bare: bool) -> Result<()> {
        if self.owners == Owners::Set {
            let stat = fstat(&dir.fd)?;
            if (stat.st_uid, stat.st_gid) != (entry.uid, entry.gid) {
                self.chown(&dir.fd, entry)?;
            }
        }
        dir.set_mode(entry.mode, self.privileged)?;
        let xattrs = self.xattrs(entry);
        let names = if bare { Vec::new() } else { listed(&dir.fd)? };
        for name in names.split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
            if !ours(name) && !xattrs.iter().any(|(other, _)| other == name) {
                match fremovexattr(&dir.fd, name) {
                    Ok(()) | Err(Errno::NODATA) => {}
                    Err(err @ (Errno::NOTSUP | Errno::PERM | Errno::ACCESS)) => {
                        self.warn(&entry.name, refused("remove", name, err));
                    }
                    Err(err) => {
                        let what = format!("cannot remove its attribute {}", lossy(name));
                        return Err(err).context(what);
                    }
                }
            }
        }
        for (name, value) in &xattrs {
            self.set(&entry.name, name, |flags| fsetxattr(&dir.fd, &name[..], value, flags))?;
        }
        let default = |(name, _): &Xattr| name == b"system.posix_acl_default";
        dir.default_acl.set(xattrs.iter().any(default));
        dir.set_times(entry.mtime);
        Ok(())
    }

    fn file(&mut self, parent: &Dir, name: &[u8], entry: &Entry, data: &mut Entries) -> Result<()> {
        let file = self.create(parent, name, entry.mode)?;
        match &entry.sparse {
            None => {
                let mut at = 0;
                loop {
                    match data.data()? {
                        [] => break,
                        piece => at += write(&file, piece, at)?,
                    }
                }
            }
            Some(map) => {
                ftruncate(&file, entry.size).context("cannot set its size")?;
                let mut regions = map.iter().copied().filter(|region| region.len > 0);
                let mut region = regions.next();
                loop {
                    let mut piece = data.data()?;
                    if piece.is_empty() {
                        break;
                    }
                    while let (Some(into), false) = (&mut region, piece.is_empty()) {
                        let n = piece.len().min(usize::try_from(into.len).unwrap_or(usize::MAX));
                        write(&file, &piece[..n], into.offset)?;
                        into.offset += n as u64;
                        into.len -= n as u64;
                        piece = &piece[n..];
                        if into.len == 0 {
                            region = regions.next();
                        }
                    }
                }
            }
        }
        self.dress_file(parent, &file, entry)?;
        // Some filesystems, NFS for one, have kept an error for the end.
        nix::unistd::close(file).context("cannot write")
    }

    fn create(&mut self, parent: &Dir, name: &[u8], mode: u32) -> Result<OwnedFd> {
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        // An attribute can only be set on what we may write to.
        let mode = Mode::from_raw_mode(if self.privileged { mode & 0o777 } else { 0o600 });
        self.replacing(parent, name, |_| openat(&parent.fd, name, flags, mode))
    }

    /// Gives a new file what its entry says.
    fn dress_file(&self, parent: &Dir, file: &OwnedFd, entry: &Entry) -> Result<()> {
        if self.owners == Owners::Set {
            if self.group_of_directory.get().is_none() && !parent.setgid.get() {
                self.group_of_directory.set(Some(fstat(file)?.st_gid != self.us.1));
            }
            let sure = self.group_of_directory.get() == Some(false) && !parent.setgid.get();
            if !sure || (entry.uid, entry.gid) != self.us {
                self.chown(file, entry)?;
            }
        }
        let inherited = parent.default_acl.get();
        if inherited {
            match fremovexattr(file, "system.posix_acl_access") {
                Ok(()) | Err(Errno::NODATA | Errno::NOTSUP) => {}
                Err(err) => return Err(err).context("cannot remove the list that it inherited"),
            }
        }
        let chmod = || fchmod(file, Mode::from_raw_mode(entry.mode)).context("cannot set its mode");
        if self.privileged
            && (inherited || entry.mode & 0o7000 != 0 || entry.mode & self.umask != 0)
        {
            chmod()?;
        }
        if !entry.xattrs.is_empty() || self.owners == Owners::Record {
            for (name, value) in &self.xattrs(entry) {
                self.set(&entry.name, name, |flags| fsetxattr(file, &name[..], value, flags))?;
            }
        }
        if !self.privileged {
            chmod()?;
        }
        futimens(file, &timestamps(entry)).context("cannot set its times")
    }

    fn chown(&self, file: &OwnedFd, entry: &Entry) -> Result<()> {
        let (uid, gid) = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
        fchown(file, Some(uid), Some(gid))
            .with_context(|| format!("cannot set its owner {}:{}", entry.uid, entry.gid))
    }

    fn link(&mut self, from: &Dir, link: &[u8], parent: &Dir, name: &[u8]) -> Result<()> {
        let make = || linkat(&from.fd, link, &parent.fd, name, AtFlags::empty());
        let what = || format!("hard link to {:?}", lossy(&from.member(link)));
        match make() {
            Err(Errno::EXIST) => {
                let new = statat(&from.fd, link, AtFlags::SYMLINK_NOFOLLOW).with_context(what)?;
                let old = statat(&parent.fd, name, AtFlags::SYMLINK_NOFOLLOW)?;
                if (new.st_dev, new.st_ino) == (old.st_dev, old.st_ino) {
                    return Ok(()); // it is that already; removing it might remove the last name
                }
                self.dirs.remove(parent, name).context("cannot replace it")?;
                make().with_context(what)
            }
            result => result.with_context(what),
        }
    }

    /// Makes a device or a FIFO.
    fn node(&mut self, parent: &Dir, name: &[u8], entry: &Entry, data: &mut Entries) -> Result<()> {
        if self.owners == Owners::Ours && entry.kind != Kind::Fifo {
            bail!("a device");
        }
        let (kind, number) = match entry.kind {
            Kind::Character => (FileType::CharacterDevice, entry.device),
            Kind::Block => (FileType::BlockDevice, entry.device),
            _ => (FileType::Fifo, (0, 0)),
        };
        if kind == FileType::Fifo || self.owners == Owners::Set {
            let mode = Mode::from_raw_mode(entry.mode & 0o777);
            let device = makedev(number.0, number.1);
            let made =
                self.replacing(parent, name, |_| mknodat(&parent.fd, name, kind, mode, device));
            match made {
                Ok(()) => return self.dress_special(parent, name, entry),
                // So it is in a user namespace.
                Err(err) if err.downcast_ref::<Errno>() == Some(&Errno::PERM) => {}
                Err(err) => return Err(err),
            }
        }
        self.warn(&entry.name, "an empty file in place of a device".into());
        self.file(parent, name, entry, data)
    }

    /// Gives a new link, device or FIFO, none of which may be opened, what its entry says.
    fn dress_special(&self, parent: &Dir, name: &[u8], entry: &Entry) -> Result<()> {
        let fd = (&parent.fd, AtFlags::SYMLINK_NOFOLLOW);
        let sure = self.group_of_directory.get() == Some(false) && !parent.setgid.get();
        if self.owners == Owners::Set && (!sure || (entry.uid, entry.gid) != self.us) {
            let (uid, gid) = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
            chownat(fd.0, name, Some(uid), Some(gid), fd.1)
                .with_context(|| format!("cannot set its owner {}:{}", entry.uid, entry.gid))?;
        }
        let inherited = parent.default_acl.get() && entry.kind != Kind::Symlink;
        let odd_mode = entry.mode & (0o7000 | self.umask) != 0 && entry.kind != Kind::Symlink;
        let xattrs = self.xattrs(entry);
        if inherited || odd_mode || !xattrs.is_empty() {
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let node = openat(&parent.fd, name, flags, Mode::empty())?;
            let path: PathBuf = by_fd(&node);
            if inherited {
                match removexattr(&path, "system.posix_acl_access") {
                    Ok(()) | Err(Errno::NODATA | Errno::NOTSUP) => {}
                    Err(err) => {
                        return Err(err).context("cannot remove the list that it inherited");
                    }
                }
            }
            if inherited || odd_mode {
                chmod(&path, Mode::from_raw_mode(entry.mode)).context("cannot set its mode")?;
            }
            for (name, value) in &xattrs {
                self.set(&entry.name, name, |flags| setxattr(&path, &name[..], value, flags))?;
            }
        }
        utimensat(fd.0, name, &timestamps(entry), fd.1).context("cannot set its times")
    }

    /// Returns the attributes to set. Capabilities are last: what else is set might take them away.
    fn xattrs(&self, entry: &Entry) -> Vec<Xattr> {
        let record = self.owners == Owners::Record;
        let drop = |name: &[u8]| ours(name) || (record && name == ROOTLESS);
        let keep = |(name, _): &&Xattr| !drop(name);
        let mut xattrs: Vec<Xattr> = entry.xattrs.iter().filter(keep).cloned().collect();
        xattrs.sort_by_key(|(name, _)| name == b"security.capability");
        if record && (entry.uid, entry.gid) != (0, 0) {
            xattrs.insert(0, (ROOTLESS.into(), rootless(entry.uid, entry.gid)));
        }
        xattrs
    }

    /// Sets an attribute, or notes that the filesystem or our lack of rights forbids it.
    fn set(
        &self,
        path: &[u8],
        name: &[u8],
        set: impl Fn(rustix::fs::XattrFlags) -> Result<(), Errno>,
    ) -> Result<()> {
        match set(rustix::fs::XattrFlags::empty()) {
            Ok(()) => Ok(()),
            Err(Errno::NOTSUP | Errno::PERM) if name == ROOTLESS => {
                self.warn(path, "its owner is root here: no other can be kept".into());
                Ok(())
            }
            Err(err @ (Errno::NOTSUP | Errno::PERM | Errno::ACCESS)) => {
                self.warn(path, refused("set", name, err));
                Ok(())
            }
            Err(err) => {
                Err(err).with_context(|| format!("cannot set its attribute {}", lossy(name)))
            }
        }
    }
}

fn refused(verb: &str, name: &[u8], err: Errno) -> String {
    let name = lossy(&name[..name.len().min(64)]);
    format!("cannot {verb} the attribute {name}: {}", std::io::Error::from(err))
}

fn timestamps(entry: &Entry) -> Timestamps {
    Timestamps { last_access: entry.mtime, last_modification: entry.mtime }
}

/// Writes all of `bytes`, and returns their number.
fn write(file: &OwnedFd, bytes: &[u8], at: u64) -> Result<u64> {
    let mut done = 0;
    while done < bytes.len() {
        match pwrite(file, &bytes[done..], at + done as u64) {
            Ok(0) => bail!("cannot write: no progress"),
            Ok(n) => done += n,
            Err(Errno::INTR) => {}
            Err(err) => return Err(err).context("cannot write"),
        }
    }
    Ok(done as u64)
}

/// Lists the attributes of a directory.
fn listed(fd: &OwnedFd) -> Result<Vec<u8>> {
    let mut names = Vec::with_capacity(256);
    loop {
        match flistxattr(fd.as_fd(), rustix::buffer::spare_capacity(&mut names)) {
            Ok(_) => return Ok(names),
            Err(Errno::NOTSUP) => return Ok(Vec::new()),
            Err(Errno::RANGE) if names.capacity() < 1 << 20 => names.reserve(names.capacity() * 4),
            Err(err) => return Err(err).context("cannot list its attributes"),
        }
    }
}

/// Whether an attribute belongs to the host or to its overlays: an image neither sets nor removes it.
fn ours(name: &[u8]) -> bool {
    let prefixes: [&[u8]; 2] = [b"trusted.overlay.", b"user.overlay."];
    name == b"security.selinux" || prefixes.iter().any(|prefix| name.starts_with(prefix))
}

/// Returns the owner as rootlesscontainers has it: a protobuf of two numbers, -1 for 0.
fn rootless(uid: u32, gid: u32) -> Vec<u8> {
    let mut value = Vec::with_capacity(12);
    for (tag, id) in [(0x08, uid), (0x10, gid)] {
        value.push(tag);
        let mut id = if id == 0 { u32::MAX } else { id };
        while id >= 0x80 {
            value.push(id as u8 | 0x80);
            id >>= 7;
        }
        value.push(id as u8);
    }
    value
}

/// Splits a path from a tar. Nothing, if it is one of AUFS's.
pub(super) fn place(path: &[u8], layer: bool) -> Result<Option<Place<'_>>> {
    ensure!(path.len() < PATH_MAX, "its name has {} bytes", path.len());
    let mut dir: Vec<u8> = Vec::with_capacity(path.len());
    let mut last: &[u8] = &[];
    for name in path.split(|byte| *byte == b'/') {
        match name {
            b"" | b"." => continue,
            b".." => bail!("its name leads upwards"),
            _ => {}
        }
        if !last.is_empty() {
            match parse(last, layer)? {
                Name::Plain => {}
                Name::Leftover => return Ok(None),
                _ => bail!("its name leads through a whiteout"),
            }
            if !dir.is_empty() {
                dir.push(b'/');
            }
            dir.extend_from_slice(last);
        }
        last = name;
    }
    Ok(Some(if last.is_empty() { Place::Root } else { Place::In { dir, name: last } }))
}
