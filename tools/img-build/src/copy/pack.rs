//! Files as the entries of a layer.
//!
//! First every source is given its place, in the order of the instruction, so
//! that a later one takes the place of an earlier one; then what has a place is
//! packed in the order of a layer, and read for that.

use std::collections::HashMap;
use std::fs::File;
use std::os::fd::OwnedFd;

use anyhow::{Context, Result};
use common::error::At;
use common::files::Files;
use common::layer::pack::{Entry, Kind, Packed, Packer};
use common::path::clean;
use common::tree::join;
use rustix::fs::{FileType, major, minor};

use super::archive::{self, Spool};
use super::contents::{Xattrs, open_as, xattrs};
use super::owner::owner;
use super::place::{Image, Looks, Made, There, What, above};
use super::select::{Chosen, Selection, Source};
use super::walk::{Status, changed, shown, status};
use crate::dockerfile::chmod::Chmod;
use crate::error::Error;

/// What takes the entries of a layer, in order.
pub(super) trait Sink {
    /// Takes an entry without content.
    fn add(&mut self, entry: &Entry) -> Result<()>;
    /// Takes a file.
    fn file(&mut self, entry: &Entry, file: &File) -> Result<()>;
    /// Takes a file whose content is here.
    fn bytes(&mut self, entry: &Entry, bytes: &[u8]) -> Result<()>;
    /// Takes a file whose content is a part of another.
    fn part(&mut self, entry: &Entry, file: &File, from: u64) -> Result<()>;
}

/// What an instruction copies to, and how.
pub(super) struct Target<'a> {
    pub(super) base: Option<&'a Files>,
    pub(super) workdir: &'a str,
    pub(super) epoch: i64,
    pub(super) keep_mtime: bool,
    /// Takes what the user should know.
    pub(super) warn: &'a dyn Fn(&str),
}

/// Where content and attributes come from.
#[derive(Clone, Debug)]
pub(super) enum Data {
    /// A node of one of those that were chosen.
    Node { chosen: usize, node: usize },
    /// A here-document.
    Text(usize),
    /// A fetched file.
    Fetched(usize),
    /// What an archive has.
    Spooled { archive: usize, at: u64, size: u64, xattrs: Xattrs },
}

impl Sink for Packer<'_> {
    fn add(&mut self, entry: &Entry) -> Result<()> {
        Packer::add(self, entry)
    }

    fn file(&mut self, entry: &Entry, file: &File) -> Result<()> {
        Packer::file(self, entry, file)
    }

    fn bytes(&mut self, entry: &Entry, bytes: &[u8]) -> Result<()> {
        Packer::bytes(self, entry, bytes)
    }

    fn part(&mut self, entry: &Entry, file: &File, from: u64) -> Result<()> {
        Packer::part(self, entry, file, from)
    }
}

impl Selection<'_> {
    /// Packs the files, as they go into the image whose files are `base`; their time is `epoch`, if it is not kept.
    /// `warn` is told of owners whom the image does not know.
    ///
    /// # Errors
    /// If a file has changed since its digest was computed, among others.
    pub fn pack(
        &self,
        base: Option<&Files>,
        workdir: &str,
        epoch: i64,
        keep_mtime: bool,
        warn: &dyn Fn(&str),
        mut packer: Packer,
    ) -> Result<Packed> {
        self.hand_on(&Target { base, workdir, epoch, keep_mtime, warn }, &mut packer)?;
        packer.finish()
    }

    /// Gives everything its place, and hands it on.
    pub(super) fn hand_on(&self, target: &Target, sink: &mut dyn Sink) -> Result<()> {
        let image = Image::new(target.base.filter(|_| self.needs_base()));
        let destination = Destination::new(target.workdir, &self.files.destination);
        let owner = |text: &str| {
            let option = format!("--chown={text}");
            let warn = |what: &str| (target.warn)(&format!("{option}: {what}"));
            owner(text, target.base, &warn).context(option.clone())
        };
        let owner = self.files.chown.as_deref().map(owner).transpose()?;
        let mut copy = Copy {
            selection: self,
            target,
            image,
            destination,
            owner,
            named: false,
            chosen: Vec::new(),
            spools: Vec::new(),
        };
        // Nothing of these was read yet.
        let mut later = Vec::new();
        for source in &self.sources {
            if let Source::Later(request) = source {
                later.push(request()?.choose()?.0);
            }
        }
        let mut later = later.iter();
        for (number, source) in self.sources.iter().enumerate() {
            match source {
                Source::Chosen(chosen) => copy.all(chosen)?,
                Source::Later(_) => {
                    copy.all(later.next().map(Vec::as_slice).unwrap_or_default())?
                }
                Source::Content { name, .. } => {
                    let looks = copy.looks(0o644, None, target.epoch);
                    let data = Data::Text(number);
                    copy.one(name.as_bytes(), What::File(data, None), looks)?;
                }
                Source::Fetched { file, name, mode, mtime, unpack } => {
                    if *unpack && archive::is_archive(file)? {
                        copy.unpack(file).with_context(|| name.clone())?;
                        continue;
                    }
                    let looks = copy.looks(*mode, None, *mtime);
                    copy.one(name.as_bytes(), What::File(Data::Fetched(number), None), looks)?;
                }
            }
        }
        copy.pack(sink)
    }
}

/// Where an instruction copies to.
struct Destination {
    /// The path, without slashes at either end.
    path: Vec<u8>,
    /// It is written as a directory's is.
    is_dir: bool,
}

impl Destination {
    fn new(workdir: &str, text: &str) -> Destination {
        let is_dir = matches!(text, "" | ".") || text.ends_with('/') || text.ends_with("/.");
        let path = match text.starts_with('/') {
            true => clean(text),
            false => clean(&format!("/{workdir}/{text}")),
        };
        Destination { path: path.trim_matches('/').into(), is_dir }
    }
}

/// An instruction at work.
struct Copy<'a, 's> {
    selection: &'a Selection<'s>,
    target: &'a Target<'a>,
    image: Image<'a, Data>,
    destination: Destination,
    owner: Option<(u32, u32)>,
    /// A file is already at the destination itself.
    named: bool,
    chosen: Vec<&'a Chosen<'a>>,
    spools: Vec<Spool>,
}

impl<'a> Copy<'a, '_> {
    /// Returns how something looks in the image that has this mode, owner and time where it is.
    fn looks(&self, mode: u32, owner: Option<(u32, u32)>, mtime: i64) -> Looks {
        let (uid, gid) = self.owner.or(owner).unwrap_or_default();
        let mtime = if self.target.keep_mtime { mtime } else { self.target.epoch };
        Looks { mode, uid, gid, mtime }
    }

    /// Returns how a directory looks that is made because something is copied into it.
    fn parent(&self) -> Looks {
        let mode = match self.selection.chmod {
            Some(Chmod::Is(mode)) => mode & 0o777,
            _ => 0o755,
        };
        Looks { mtime: self.target.epoch, ..self.looks(mode, None, 0) }
    }

    /// Makes the directory that the destination is, or is in, and returns where the destination is.
    fn prepare(&mut self) -> Result<Vec<u8>> {
        let path = &self.destination.path;
        let dir = if self.destination.is_dir { path } else { above(path) };
        let dir = self.image.resolve(dir)?;
        self.image.make_dirs(&dir, self.parent())?;
        self.image.resolve(path)
    }

    fn all(&mut self, chosen: &'a [Chosen<'a>]) -> Result<()> {
        for chosen in chosen {
            self.chosen.push(chosen);
            // There is one at least.
            let Some(top) = chosen.nodes.first() else { continue };
            if top.status.kind == FileType::Directory {
                self.contents(chosen)?;
                continue;
            }
            if chosen.unpack && top.status.kind == FileType::RegularFile {
                let mut dir = None;
                let file = open_as(chosen.tree, &mut dir, &chosen.root, &top.status);
                let file = File::from(file.at(shown(&chosen.root)).at(&chosen.tree.name)?);
                if archive::is_archive(&file)? {
                    self.unpack(&file)
                        .with_context(|| shown(&chosen.root).display().to_string())?;
                    if !status(&file)?.is_as(&top.status) {
                        return Err(changed()).at(shown(&chosen.root));
                    }
                    continue;
                }
            }
            let what = self.what(chosen, 0);
            let looks = self.looks_of(chosen, &top.status);
            self.one(&chosen.name, what, looks)?;
        }
        Ok(())
    }

    /// Copies what is no directory.
    fn one(&mut self, name: &[u8], what: What<Data>, looks: Looks) -> Result<()> {
        let mut path = self.prepare()?;
        if let There::Directory { .. } = self.image.look(&path)? {
            path = join(&path, name);
        } else if std::mem::replace(&mut self.named, true) {
            let text = &self.selection.files.destination;
            let err = Error::new(format!(
                "{text}: several files are copied there, and it is no directory"
            ));
            return Err(err.hint(format!("{text}/")).into());
        }
        self.image.make_dirs(above(&path), self.parent())?;
        let looks = self.chmod(looks, &what);
        self.image.file(&path, what, looks)
    }

    /// Copies what is in a directory.
    fn contents(&mut self, chosen: &'a Chosen<'a>) -> Result<()> {
        let number = self.chosen.len() - 1;
        let top = self.prepare()?;
        match self.image.look(&top)? {
            There::Nothing => self.image.make_dirs(&top, self.parent())?,
            There::Directory { .. } => {}
            _ => {
                let text = &self.selection.files.destination;
                let err =
                    Error::new(format!("{text}: a directory is copied there, and it is a file"));
                return Err(err.into());
            }
        }
        for (place, node) in chosen.nodes.iter().enumerate().skip(1) {
            let path = join(&top, &node.path);
            let looks = self.looks_of(chosen, &node.status);
            if node.status.kind != FileType::Directory {
                let what = self.what(chosen, place);
                let looks = self.chmod(looks, &what);
                self.image.file(&path, what, looks)?;
                continue;
            }
            let data = Some(Data::Node { chosen: number, node: place });
            let looks = match (node.implied, self.image.look(&path)?) {
                // Only its mode is changed, and not to what --chmod says.
                (true, There::Directory { uid, gid, .. }) => Looks { uid, gid, ..looks },
                _ => self.chmod(looks, &What::Directory(None)),
            };
            self.image.directory(&path, data, looks)?;
        }
        Ok(())
    }

    fn looks_of(&self, chosen: &Chosen, status: &Status) -> Looks {
        let owner = chosen.keep_owner.then_some((status.uid, status.gid));
        self.looks(status.mode, owner, status.mtime.0)
    }

    fn chmod(&self, looks: Looks, what: &What<Data>) -> Looks {
        let is_dir = matches!(what, What::Directory(_));
        match (&self.selection.chmod, what) {
            (None, _) | (_, What::Symlink(_)) => looks,
            (Some(chmod), _) => Looks { mode: chmod.apply(looks.mode, is_dir), ..looks },
        }
    }

    /// Returns what a node of the last that was chosen becomes.
    fn what(&self, chosen: &Chosen, place: usize) -> What<Data> {
        let number = self.chosen.len() - 1;
        let node = &chosen.nodes[place];
        let status = &node.status;
        match status.kind {
            FileType::Symlink => What::Symlink(node.link.as_deref().unwrap_or_default().into()),
            FileType::CharacterDevice | FileType::BlockDevice => What::Device {
                block: status.kind == FileType::BlockDevice,
                major: major(status.device),
                minor: minor(status.device),
            },
            FileType::Fifo => What::Fifo,
            _ => {
                // Of names in one source it is known that they are one file.
                let group = (status.links > 1).then_some((number, status.dev, status.ino));
                What::File(Data::Node { chosen: number, node: place }, group)
            }
        }
    }

    /// Unpacks an archive to the destination, a directory that is made if it is not there.
    fn unpack(&mut self, file: &File) -> Result<()> {
        let top = self.image.resolve(&self.destination.path)?;
        let parent = Looks { mode: 0o755, ..self.parent() };
        self.image.make_dirs(&top, parent)?;
        let number = self.spools.len();
        let unpack = archive::Unpack {
            image: &mut self.image,
            top: &top,
            number,
            owner: self.owner,
            parent,
            room: self.selection.known.as_deref(),
            latest: if self.target.keep_mtime { i64::MAX } else { self.target.epoch },
        };
        let spool = unpack.run(file)?;
        self.spools.push(spool);
        Ok(())
    }

    /// Hands on what has a place.
    fn pack(self, sink: &mut dyn Sink) -> Result<()> {
        let Copy { selection, image, chosen, spools, .. } = self;
        let mut pack =
            Pack { selection, chosen, spools, dir: None, dir_of: 0, first: HashMap::new() };
        for (path, made) in image.into_made() {
            pack.entry(path, made, sink)?;
        }
        Ok(())
    }
}

/// Hands entries on.
struct Pack<'a, 's> {
    selection: &'a Selection<'s>,
    chosen: Vec<&'a Chosen<'a>>,
    spools: Vec<Spool>,
    /// The directory that the last file was in, and of which of the chosen.
    dir: Option<(Vec<u8>, OwnedFd)>,
    dir_of: usize,
    /// The first name of each file that has several.
    first: HashMap<super::place::Group, Vec<u8>>,
}

impl Pack<'_, '_> {
    fn entry(&mut self, path: Vec<u8>, made: Made<Data>, sink: &mut dyn Sink) -> Result<()> {
        let Made { what, mode, uid, gid, mtime, opaque, .. } = made;
        let (kind, data) = match what {
            What::Directory(data) => (Kind::Directory, data),
            What::Symlink(link) => (Kind::Symlink(link), None),
            What::Device { block, major, minor } => (Kind::Device { block, major, minor }, None),
            What::Fifo => (Kind::Fifo, None),
            What::File(data, group) => {
                let first = group.and_then(|group| self.first.get(&group));
                match (first, group) {
                    (Some(first), _) => (Kind::Link(first.clone()), None),
                    (None, group) => {
                        if let Some(group) = group {
                            self.first.insert(group, path.clone());
                        }
                        (Kind::File { size: 0 }, Some(data))
                    }
                }
            }
        };
        // Of a link nobody looks at its own permissions.
        let mode = if matches!(kind, Kind::Symlink(_)) { 0o777 } else { mode };
        let mut entry = Entry { path, kind, mode, uid, gid, mtime, xattrs: Xattrs::new() };
        match data {
            None => sink.add(&entry)?,
            Some(data) => self.with(&mut entry, data, sink)?,
        }
        if opaque && entry.kind == Kind::Directory {
            let path = join(&entry.path, b".wh..wh..opq");
            let kind = Kind::File { size: 0 };
            sink.add(&Entry { path, kind, mode: 0o644, xattrs: Xattrs::new(), ..entry })?;
        }
        Ok(())
    }

    /// Hands on what has content or attributes.
    fn with(&mut self, entry: &mut Entry, data: Data, sink: &mut dyn Sink) -> Result<()> {
        let is_dir = entry.kind == Kind::Directory;
        match data {
            Data::Node { chosen: number, node } => {
                let chosen = self.chosen[number];
                let node = &chosen.nodes[node];
                if is_dir && chosen.tree.foreign {
                    return sink.add(entry);
                }
                if std::mem::replace(&mut self.dir_of, number) != number {
                    self.dir = None;
                }
                let path = chosen.path(node);
                let mut hand_on = || -> Result<()> {
                    let file = open_as(chosen.tree, &mut self.dir, &path, &node.status)?;
                    entry.xattrs = xattrs(&file, chosen.tree.foreign)?;
                    if is_dir {
                        return sink.add(entry);
                    }
                    entry.kind = Kind::File { size: node.status.size };
                    let file = File::from(file);
                    sink.file(entry, &file)?;
                    match status(&file)?.is_as(&node.status) {
                        true => Ok(()),
                        false => Err(changed()),
                    }
                };
                hand_on().at(shown(&path)).at(&chosen.tree.name)
            }
            Data::Text(number) => {
                let Source::Content { text, .. } = &self.selection.sources[number] else {
                    return Ok(());
                };
                entry.kind = Kind::File { size: text.len() as u64 };
                sink.bytes(entry, text.as_bytes())
            }
            Data::Fetched(number) => {
                let Source::Fetched { file, .. } = &self.selection.sources[number] else {
                    return Ok(());
                };
                entry.kind = Kind::File { size: file.metadata()?.len() };
                sink.file(entry, file)
            }
            Data::Spooled { archive, at, size, xattrs } => {
                entry.xattrs = xattrs;
                if is_dir {
                    return sink.add(entry);
                }
                entry.kind = Kind::File { size };
                sink.part(entry, &self.spools[archive].file, at)
            }
        }
    }
}
