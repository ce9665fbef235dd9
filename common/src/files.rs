//! What an image has under which path, without unpacking it: its layers seen as one, as overlay shows them.
//!
//! ```text
//! table   of a layer's blob: kept in cache/tables/<digits of the diff ID>
//! tree    a layer that is unpacked, in overlay's own form
//! ```
//!
//! A layer is looked into where that is cheapest. Nothing is mounted, and nobody need be root.
//! A directory is merged of the layers that have it, once: what is in it is then asked of these
//! alone. Links are not followed; a path that leads through one leads to nothing.

use std::any::Any;
use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::fs::{self, File};
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Result, ensure};
use oci_spec::image::Descriptor;
use rustix::buffer::spare_capacity;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, fgetxattr, openat, readlinkat, statat};
use rustix::io::Errno;

use crate::digest::Digest;
use crate::error::At;
use crate::layer::table::{self, Kind, Table};
use crate::layer::{self, recorded_owner};
use crate::layout::Layout;
use crate::tree;

/// How many directories of layers are known at once: those of trees are open.
const OPEN: usize = 256;

/// The most bytes of a name: the kernel's.
const NAME_MAX: usize = 255;

const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// The files of an image.
#[derive(Default)]
pub struct Files {
    /// Bottom first.
    layers: Vec<Layer>,
    /// The layers that have a directory, top first, as far as they are seen in it; by its path.
    merged: RefCell<HashMap<Vec<u8>, Rc<[Part]>>>,
}

enum Layer {
    Table(Arc<Table>),
    Tree {
        root: OwnedFd,
        /// What marks a directory as opaque, if there are marks.
        opaque: Option<&'static str>,
        _keep: Box<dyn Any>,
    },
}

/// A layer that has a directory.
struct Part {
    layer: usize,
    /// The directory, if the layer is a tree.
    dir: Option<OwnedFd>,
}

/// What is at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// What it is.
    pub kind: FileType,
    /// Its permissions.
    pub mode: u32,
    /// The user it belongs to.
    pub uid: u32,
    /// The group it belongs to.
    pub gid: u32,
    /// How many bytes a file has.
    pub size: u64,
    /// Where a symbolic link leads, as it is written.
    pub link: Vec<u8>,
}

/// The content of a file is in its layer's blob only, which must be unpacked.
#[derive(Debug)]
pub struct Unkept;

impl fmt::Display for Unkept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("its layer is not unpacked")
    }
}

impl std::error::Error for Unkept {}

/// What one layer says of a path.
enum Said {
    Nothing,
    Removed,
    /// A directory, of which another layer says how it looks.
    Implied(Found),
    There(Found),
}

impl Files {
    /// Returns the files of an image without layers.
    pub fn new() -> Files {
        Files::default()
    }

    /// Puts a layer on top by its table; returns whether that says what the layer has.
    ///
    /// If not, the layer leads through links of those below, or is tangled in itself: all of them must be unpacked.
    pub fn push_table(&mut self, table: Arc<Table>) -> Result<bool> {
        if table.is_tangled() {
            return Ok(false);
        }
        if !self.layers.is_empty() {
            for record in table.records().filter(|record| record.passed) {
                let fits = match self.look(record.path)?.map(|below| below.kind) {
                    None | Some(FileType::Directory) => true,
                    Some(FileType::Symlink) => false,
                    // Something was to be removed in it, and is not there.
                    Some(_) => record.kind == Kind::Mentioned,
                };
                if !fits {
                    return Ok(false);
                }
            }
        }
        self.push(Layer::Table(table));
        Ok(true)
    }

    /// Puts a layer on top that is unpacked at `root`, and stays so as long as `keep` does.
    ///
    /// `userxattr` says whose the marks of overlay are; a tree of all layers has none.
    pub fn push_tree(&mut self, root: OwnedFd, userxattr: Option<bool>, keep: impl Any) {
        let name = |user| if user { "user.overlay.opaque" } else { "trusted.overlay.opaque" };
        self.push(Layer::Tree { root, opaque: userxattr.map(name), _keep: Box::new(keep) });
    }

    fn push(&mut self, layer: Layer) {
        self.layers.push(layer);
        self.merged.get_mut().clear();
    }

    /// Returns what is at a path, which has no slashes at its ends, without following anything.
    pub fn look(&self, path: &[u8]) -> Result<Option<Found>> {
        let mut implied = None;
        for part in self.around(path)?.iter() {
            match self.ask(part, path)? {
                Said::Nothing => {}
                Said::Removed => break,
                Said::Implied(found) => drop(implied.get_or_insert(found)),
                Said::There(found) => {
                    let is_dir = found.kind == FileType::Directory;
                    return Ok(implied.filter(|_| !is_dir).or(Some(found)));
                }
            }
        }
        Ok(implied)
    }

    /// Returns what is in the file at a path.
    ///
    /// # Errors
    /// [`Unkept`], if its layer is not unpacked, and others, if it is no regular file, or has more
    /// than `limit` bytes.
    pub fn read(&self, path: &[u8], limit: u64) -> Result<Vec<u8>> {
        self.file(path, |part, found| {
            ensure!(found.size <= limit, "larger than {limit} bytes");
            if let Some(content) = self.kept(part, path) {
                return Ok(content.into());
            }
            let mut bytes = Vec::new();
            open(part, path)?.take(limit).read_to_end(&mut bytes)?;
            Ok(bytes)
        })
    }

    /// Opens the file at a path where it is on the disk.
    ///
    /// # Errors
    /// [`Unkept`], if its layer is not unpacked, and others, if it is no regular file.
    pub fn open(&self, path: &[u8]) -> Result<File> {
        self.file(path, |part, _| open(part, path))
    }

    /// Uses the layer that has the file at a path.
    fn file<T>(&self, path: &[u8], then: impl FnOnce(&Part, &Found) -> Result<T>) -> Result<T> {
        for part in self.around(path)?.iter() {
            match self.ask(part, path)? {
                Said::Nothing | Said::Implied(_) => {}
                Said::Removed => break,
                Said::There(found) => {
                    ensure!(found.kind == FileType::RegularFile, "not a regular file");
                    return then(part, &found);
                }
            }
        }
        Err(Errno::NOENT.into())
    }

    fn kept(&self, part: &Part, path: &[u8]) -> Option<&[u8]> {
        match &self.layers[part.layer] {
            Layer::Table(table) => table.get(path)?.content,
            Layer::Tree { .. } => None,
        }
    }

    /// Returns the layers that may have something to say of a path.
    fn around(&self, path: &[u8]) -> Result<Rc<[Part]>> {
        if name(path).len() > NAME_MAX {
            return Err(Errno::NAMETOOLONG.into());
        }
        self.directory(above(path))
    }

    /// Returns the layers that have a directory; none, if there is no directory at the path.
    fn directory(&self, path: &[u8]) -> Result<Rc<[Part]>> {
        let mut end = path.len();
        let mut ends = Vec::new();
        // The nearest directory that is known.
        let mut parts = loop {
            if let Some(parts) = self.merged.borrow().get(&path[..end]) {
                break parts.clone();
            }
            if end == 0 {
                break self.know(b"", self.top()?);
            }
            ends.push(end);
            end = above(&path[..end]).len();
        };
        for end in ends.into_iter().rev() {
            parts = self.know(&path[..end], self.merge(&parts, &path[..end])?);
        }
        Ok(parts)
    }

    /// Keeps what a directory is merged of.
    fn know(&self, path: &[u8], parts: Rc<[Part]>) -> Rc<[Part]> {
        let mut merged = self.merged.borrow_mut();
        if merged.values().map(|parts| parts.len() + 1).sum::<usize>() >= OPEN {
            merged.clear();
        }
        merged.insert(path.into(), parts.clone());
        parts
    }

    /// Returns the layers that are seen in the root.
    fn top(&self) -> Result<Rc<[Part]>> {
        let mut parts = Vec::with_capacity(self.layers.len());
        for (number, layer) in self.layers.iter().enumerate().rev() {
            let (dir, opaque) = match layer {
                Layer::Table(table) => (None, table.get(b"").is_some_and(|root| root.opaque)),
                Layer::Tree { root, opaque, .. } => {
                    let dir = openat(root, c".", DIRECTORY, Mode::empty())?;
                    let opaque = is_opaque(&dir, *opaque)?;
                    (Some(dir), opaque)
                }
            };
            parts.push(Part { layer: number, dir });
            if opaque {
                break;
            }
        }
        Ok(parts.into())
    }

    /// Returns which of the layers that have the directory around it have the one at `path`.
    fn merge(&self, around: &[Part], path: &[u8]) -> Result<Rc<[Part]>> {
        let (mut parts, mut there, mut hidden) = (Vec::new(), false, false);
        for part in around {
            let dir = match (&self.layers[part.layer], &part.dir) {
                (Layer::Table(table), _) => {
                    let Some(record) = table.get(path) else { continue };
                    match record.kind {
                        Kind::Directory | Kind::Implied => there = true,
                        Kind::Mentioned => {}
                        _ => break,
                    }
                    Some((None, record.opaque))
                }
                (Layer::Tree { opaque, .. }, Some(dir)) => {
                    match openat(dir, name(path), DIRECTORY, Mode::empty()) {
                        Ok(dir) => {
                            there = true;
                            let opaque = is_opaque(&dir, *opaque)?;
                            Some((Some(dir), opaque))
                        }
                        Err(Errno::NOENT) => continue,
                        Err(Errno::NOTDIR | Errno::LOOP) => break,
                        Err(err) => return Err(err.into()),
                    }
                }
                _ => None,
            };
            let Some((dir, opaque)) = dir else { continue };
            if !hidden {
                parts.push(Part { layer: part.layer, dir });
                hidden = opaque;
            }
            // Only mentioned, it is for those below to say whether there is one.
            if hidden && there {
                break;
            }
        }
        Ok(if there { parts.into() } else { Rc::new([]) })
    }

    /// Returns what a layer that has the directory says of what is at `path` in it.
    fn ask(&self, part: &Part, path: &[u8]) -> Result<Said> {
        match (&self.layers[part.layer], &part.dir) {
            (Layer::Table(table), _) => Ok(table.get(path).map_or(Said::Nothing, |r| said(&r))),
            (Layer::Tree { opaque, .. }, Some(dir)) => {
                let name = name(path);
                let name = if name.is_empty() { b"." } else { name };
                let stat = match statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
                    Err(Errno::NOENT) => return Ok(Said::Nothing),
                    stat => stat?,
                };
                let kind = FileType::from_raw_mode(stat.st_mode);
                if opaque.is_some() && kind == FileType::CharacterDevice && stat.st_rdev == 0 {
                    return Ok(Said::Removed);
                }
                let link = match kind {
                    FileType::Symlink => readlinkat(dir, name, Vec::new())?.into_bytes(),
                    _ => Vec::new(),
                };
                // Where there is but one id, the owner is written down.
                let owner = match kind {
                    FileType::Directory => recorded_owner(dir.as_fd(), name)?,
                    _ => None,
                };
                let (uid, gid) = owner.unwrap_or((stat.st_uid, stat.st_gid));
                Ok(Said::There(Found {
                    kind,
                    mode: stat.st_mode & 0o7777,
                    uid,
                    gid,
                    size: if kind == FileType::RegularFile { stat.st_size as u64 } else { 0 },
                    link,
                }))
            }
            _ => Ok(Said::Nothing),
        }
    }
}

/// Opens a file of an unpacked layer.
fn open(part: &Part, path: &[u8]) -> Result<File> {
    let dir = part.dir.as_ref().ok_or(Unkept)?;
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    Ok(openat(dir, name(path), flags, Mode::empty())?.into())
}

fn said(record: &table::Record) -> Said {
    let kind = match record.kind {
        Kind::Mentioned => return Said::Nothing,
        Kind::Whiteout => return Said::Removed,
        Kind::Directory | Kind::Implied => FileType::Directory,
        Kind::File => FileType::RegularFile,
        Kind::Symlink => FileType::Symlink,
        Kind::Character => FileType::CharacterDevice,
        Kind::Block => FileType::BlockDevice,
        Kind::Fifo => FileType::Fifo,
    };
    let found = Found {
        kind,
        mode: record.mode,
        uid: record.uid,
        gid: record.gid,
        size: if record.kind == Kind::File { record.size } else { 0 },
        link: record.link.into(),
    };
    if record.kind == Kind::Implied { Said::Implied(found) } else { Said::There(found) }
}

fn is_opaque(dir: &OwnedFd, mark: Option<&str>) -> Result<bool> {
    let Some(mark) = mark else { return Ok(false) };
    let mut value = Vec::with_capacity(4);
    match fgetxattr(dir.as_fd(), mark, spare_capacity(&mut value)) {
        Ok(_) => Ok(value == b"y"),
        Err(Errno::NODATA | Errno::NOTSUP) => Ok(false),
        Err(err) => Err(err.into()),
    }
}

/// Returns the directory that something is in; the root is in itself.
fn above(path: &[u8]) -> &[u8] {
    &path[..path.iter().rposition(|c| *c == b'/').unwrap_or(0)]
}

/// Returns the last name of a path.
fn name(path: &[u8]) -> &[u8] {
    &path[path.iter().rposition(|c| *c == b'/').map_or(0, |at| at + 1)..]
}

/// The tables of layers, kept in a directory. They may be deleted at any time.
pub struct Tables {
    dir: PathBuf,
    known: Mutex<BTreeMap<Digest, Arc<Table>>>,
}

impl Tables {
    /// Keeps them in `dir`, which is made when there is something to keep.
    pub fn new(dir: PathBuf) -> Tables {
        Tables { dir, known: Mutex::default() }
    }

    /// Returns the table of a layer, if it was made before.
    pub fn get(&self, diff_id: &Digest) -> Option<Arc<Table>> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        self.find(&mut known, diff_id)
    }

    /// Returns the table of a layer, which is made if need be: the layer is read for that.
    pub fn of(&self, layout: &Layout, desc: &Descriptor, diff_id: &Digest) -> Result<Arc<Table>> {
        // Whoever wants one meanwhile waits: it may well be the same.
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(table) = self.find(&mut known, diff_id) {
            return Ok(table);
        }
        let table = Arc::new(layer::tabulate(layout.open_blob(desc)?, desc, diff_id)?);
        known.insert(*diff_id, table.clone());
        drop(known);
        self.write(diff_id, &table);
        Ok(table)
    }

    /// Keeps the table of a layer.
    pub fn keep(&self, diff_id: &Digest, table: Table) {
        let table = Arc::new(table);
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.insert(*diff_id, table.clone());
        drop(known);
        self.write(diff_id, &table);
    }

    fn find(
        &self,
        known: &mut BTreeMap<Digest, Arc<Table>>,
        diff_id: &Digest,
    ) -> Option<Arc<Table>> {
        if let Some(table) = known.get(diff_id) {
            return Some(table.clone());
        }
        let path = self.path(diff_id);
        let metadata = fs::symlink_metadata(&path).ok()?;
        let sane = metadata.is_file() && metadata.len() <= table::LIMIT as u64;
        let bytes = sane.then(|| fs::read(&path).ok())??;
        let table = Arc::new(Table::parse(bytes, diff_id).ok()?);
        known.insert(*diff_id, table.clone());
        Some(table)
    }

    /// Writes a table whole. What cannot be written is made again: nobody misses it.
    fn write(&self, diff_id: &Digest, table: &Table) {
        let path = self.path(diff_id);
        let write = || -> Result<()> {
            fs::create_dir_all(&self.dir).at(&self.dir)?;
            tree::put_unsynced(&path, table.bytes())
        };
        let _ = write();
    }

    fn path(&self, diff_id: &Digest) -> PathBuf {
        self.dir.join(diff_id.hex())
    }
}

#[cfg(test)]
mod tests;
