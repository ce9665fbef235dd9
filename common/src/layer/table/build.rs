//! The table of a layer, from its entries.
//!
//! What is done here is what is done to a directory that the layer is applied to, as far as the
//! layer decides it. Where what is below decides more than a table can say, it is tangled.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::{Bound, RangeBounds};

use anyhow::Result;

use super::{Kind, Record, Table, Writer};
use crate::digest::Digest;
use crate::layer::entry::{Entries, Entry, Kind as Tar};
use crate::layer::extract::{Place, place, target};
use crate::layer::pack;
use crate::layer::whiteout::Name;

/// The most bytes of a file that is kept, and of all of them.
const KEEP: u64 = 64 << 10;
const KEEP_ALL: usize = 1 << 20;

/// What a record takes in memory besides its path.
const OVERHEAD: usize = 128;
/// What all of them may take.
const MEMORY: usize = 40 << 20;

/// The most bytes of a name: the filesystem would say more.
const NAME_MAX: usize = 255;

/// Makes the table of a layer.
pub(in crate::layer) struct Builder {
    /// By paths whose slashes are zeros, which is the order of a table.
    nodes: BTreeMap<Box<[u8]>, Node>,
    /// Those that are implied.
    implied: BTreeSet<Box<[u8]>>,
    /// The directory that the last entry was in. It is there.
    parent: Vec<u8>,
    /// What the nodes take.
    memory: usize,
    /// The bytes of files that are kept.
    kept: usize,
    tangled: bool,
}

#[derive(Clone)]
struct Node {
    kind: Kind,
    opaque: bool,
    passed: bool,
    mode: u16,
    uid: u32,
    gid: u32,
    size: u64,
    mtime: i64,
    /// Where a link leads, or what is in a file.
    more: Option<Box<[u8]>>,
}

impl Node {
    fn new(kind: Kind, mtime: i64) -> Node {
        let (opaque, passed) = (false, false);
        Node { kind, opaque, passed, mode: 0o755, uid: 0, gid: 0, size: 0, mtime, more: None }
    }

    fn is_directory(&self) -> bool {
        matches!(self.kind, Kind::Directory | Kind::Implied)
    }
}

fn key(path: &[u8]) -> Box<[u8]> {
    path.iter().map(|c| if *c == b'/' { 0 } else { *c }).collect()
}

/// Returns where the directory's key ends that something is in.
fn above(key: &[u8]) -> &[u8] {
    &key[..key.iter().rposition(|c| *c == 0).unwrap_or(0)]
}

/// Returns the keys of what is in a directory.
fn inside(key: &[u8]) -> impl RangeBounds<Box<[u8]>> {
    match key {
        [] => (Bound::Excluded([].into()), Bound::Unbounded),
        key => {
            let with = |end: u8| Box::from([key, &[end]].concat());
            (Bound::Included(with(0)), Bound::Excluded(with(1)))
        }
    }
}

/// Returns whether the content of a file of this path and size is kept.
fn is_kept(path: &[u8], size: u64) -> bool {
    let name = path.rsplit(|c| *c == b'/').next().unwrap_or_default();
    matches!(name, b"passwd" | b"group") && size <= KEEP
}

impl Builder {
    pub(in crate::layer) fn new() -> Builder {
        let root = (Box::default(), Node::new(Kind::Implied, 0));
        Builder {
            nodes: BTreeMap::from([root]),
            implied: BTreeSet::new(),
            parent: Vec::new(),
            memory: 0,
            kept: 0,
            tangled: false,
        }
    }

    /// Takes an entry of a tar, which was checked.
    pub(in crate::layer) fn entry(&mut self, entry: &Entry, data: &mut Entries) -> Result<()> {
        self.tangled |= entry.name.contains(&0) || entry.link.contains(&0);
        if self.tangled {
            return Ok(());
        }
        let (dir, name) = match place(&entry.name, true)? {
            None => return Ok(()),
            Some(Place::Root) => {
                self.put(Box::default(), node(entry));
                return Ok(());
            }
            Some(Place::In { dir, name }) => (dir, name),
        };
        let mtime = entry.mtime.tv_sec;
        let whole = |name: &[u8]| match &dir[..] {
            b"" => key(name),
            dir => key(&[dir, b"/", name].concat()),
        };
        match Name::parse(name)? {
            Name::Leftover => return Ok(()),
            Name::Removed(name) => {
                self.whiteout(whole(name), mtime);
                return Ok(());
            }
            Name::Opaque => {
                self.opaque(key(&dir), mtime);
                return Ok(());
            }
            Name::Plain => {}
        }
        let place = whole(name);
        let mut new = node(entry);
        match entry.kind {
            Tar::HardLink => {
                let (dir, name) = target(&entry.link, true)?;
                let dir = if dir.is_empty() { dir } else { [&dir[..], b"/"].concat() };
                self.link(key(&[&dir, name].concat()), place, mtime);
                return Ok(());
            }
            Tar::File if entry.sparse.is_none() && is_kept(name, entry.size) => {
                let mut content = Vec::new();
                loop {
                    match data.data()? {
                        [] => break,
                        piece => content.extend_from_slice(piece),
                    }
                }
                new.more = self.keep(&content);
            }
            _ => {}
        }
        self.put(place, new);
        Ok(())
    }

    /// Takes an entry that is packed, and what is in it, if [`Builder::wants`] that.
    pub(in crate::layer) fn packed(&mut self, entry: &pack::Entry, content: Option<&[u8]>) {
        if self.tangled {
            return;
        }
        let place = key(&entry.path);
        let start = place.iter().rposition(|c| *c == 0).map_or(0, |at| at + 1);
        match Name::parse(&entry.path[start..]) {
            Ok(Name::Removed(name)) => {
                return self.whiteout([&place[..start], name].concat().into(), entry.mtime);
            }
            Ok(Name::Opaque) => return self.opaque(above(&place).into(), entry.mtime),
            Ok(Name::Plain) => {}
            Ok(Name::Leftover) | Err(_) => return self.tangled = true,
        }
        let (kind, size) = match &entry.kind {
            pack::Kind::Link(target) => return self.link(key(target), place, entry.mtime),
            pack::Kind::File { size } => (Kind::File, *size),
            pack::Kind::Directory => (Kind::Directory, 0),
            pack::Kind::Symlink(_) => (Kind::Symlink, 0),
            pack::Kind::Device { block: true, major, minor } => {
                (Kind::Block, device(*major, *minor))
            }
            pack::Kind::Device { major, minor, .. } => (Kind::Character, device(*major, *minor)),
            pack::Kind::Fifo => (Kind::Fifo, 0),
        };
        let more = match (&entry.kind, content) {
            (pack::Kind::Symlink(link), _) => Some(link.as_slice().into()),
            (_, Some(content)) => self.keep(content),
            _ => None,
        };
        let mode = if kind == Kind::Symlink { 0o777 } else { (entry.mode & 0o7777) as u16 };
        let (uid, gid) = (entry.uid, entry.gid);
        let new = Node { mode, uid, gid, size, more, ..Node::new(kind, entry.mtime) };
        self.put(place, new);
    }

    /// Returns whether the content of a file is to be kept.
    pub(in crate::layer) fn wants(entry: &pack::Entry) -> bool {
        matches!(entry.kind, pack::Kind::File { size } if is_kept(&entry.path, size))
    }

    /// Returns the table of all that was taken.
    pub(in crate::layer) fn finish(self, diff_id: &Digest) -> Table {
        let Builder { mut nodes, mut tangled, .. } = self;
        let mut writer = Writer::new(diff_id);
        let mut path = Vec::new();
        // They go as they are written, so that there are never two of them.
        while let Some((key, node)) = nodes.pop_first().filter(|_| !tangled) {
            path.clear();
            path.extend(key.iter().map(|c| if *c == 0 { b'/' } else { *c }));
            let more = node.more.as_deref();
            let is_link = node.kind == Kind::Symlink;
            tangled = !writer.add(&Record {
                kind: node.kind,
                opaque: node.opaque,
                passed: node.passed,
                mode: node.mode.into(),
                uid: node.uid,
                gid: node.gid,
                size: node.size,
                mtime: node.mtime,
                path: &path,
                link: more.filter(|_| is_link).unwrap_or_default(),
                content: more.filter(|_| !is_link),
            });
        }
        match tangled {
            true => Writer::new(diff_id).finish(true),
            false => writer.finish(false),
        }
    }

    /// Returns what is kept of a file's content.
    fn keep(&mut self, content: &[u8]) -> Option<Box<[u8]>> {
        self.kept += content.len();
        (self.kept <= KEEP_ALL).then(|| content.into())
    }

    /// Puts something into its directory, in the place of what the layer has had there.
    fn put(&mut self, place: Box<[u8]>, mut new: Node) {
        if !place.is_empty() && !self.parent(above(&place), new.mtime, true) {
            return;
        }
        if let Some(old) = self.nodes.get(&place) {
            if new.kind != Kind::Directory {
                self.clear(&place);
            } else if old.is_directory() || old.kind == Kind::Mentioned {
                (new.opaque, new.passed) = (old.opaque, old.passed);
            } else {
                // It took the place of what is below before.
                new.opaque = true;
            }
        }
        self.set(place, new);
    }

    /// Gives what is at `from` another name.
    fn link(&mut self, from: Box<[u8]>, place: Box<[u8]>, mtime: i64) {
        let linked = self.nodes.get(&from).filter(|node| {
            !node.is_directory() && !matches!(node.kind, Kind::Mentioned | Kind::Whiteout)
        });
        // What is below, or behind a link, or about to be removed.
        let Some(linked) = linked.cloned().filter(|_| !is_in(&from, &place)) else {
            return self.tangled = true;
        };
        if from != place && self.parent(above(&place), mtime, true) {
            self.clear(&place);
            self.set(place, linked);
        }
    }

    /// Removes what is below.
    fn whiteout(&mut self, place: Box<[u8]>, mtime: i64) {
        if !self.parent(above(&place), mtime, false) {
            return;
        }
        match self.nodes.get(&place).map(|node| node.kind) {
            None => self.set(place, Node::new(Kind::Whiteout, mtime)),
            Some(Kind::Mentioned) => {
                self.clear(&place);
                self.set(place, Node::new(Kind::Whiteout, mtime));
            }
            Some(Kind::Directory | Kind::Implied) => self.hide(&place),
            // It is hidden already.
            Some(_) => {}
        }
    }

    /// Removes what is below in a directory.
    fn opaque(&mut self, dir: Box<[u8]>, mtime: i64) {
        if self.parent(&dir, mtime, false) {
            self.hide(&dir);
        }
    }

    /// Hides what is below in a directory that is here.
    fn hide(&mut self, dir: &[u8]) {
        let Some(node) = self.nodes.get_mut(dir) else { return };
        if !std::mem::replace(&mut node.opaque, true) {
            // They look as what was below when they were implied, and now that is gone.
            self.tangled |= self.implied.range(inside(dir)).next().is_some();
        }
    }

    /// Sees that the directory `dir` is here: because something is made in it, or only removed. Returns whether it is.
    fn parent(&mut self, dir: &[u8], mtime: i64, made: bool) -> bool {
        if self.tangled || self.parent == dir && !dir.is_empty() {
            return !self.tangled;
        }
        // The directories that are missing, and those that are but mentioned, the innermost first.
        let mut todo = Vec::new();
        let mut at = dir;
        loop {
            match self.nodes.get(at).map(|node| node.kind) {
                Some(Kind::Directory | Kind::Implied) => break,
                Some(Kind::Mentioned) if !made => break,
                // Of what is removed there is nothing more to be removed.
                Some(Kind::Whiteout) if !made => return false,
                None | Some(Kind::Mentioned | Kind::Whiteout) => todo.push(at),
                Some(_) => {
                    self.tangled = true;
                    return false;
                }
            }
            if at.is_empty() {
                break; // the root is always there
            }
            at = above(at);
        }
        // Nothing of what is below is seen in the directory that the next one is in.
        let mut hidden = self.nodes.get(at).is_some_and(|node| node.opaque);
        for dir in todo.into_iter().rev() {
            let new = match self.nodes.get(dir) {
                Some(old) if old.kind == Kind::Whiteout => {
                    Node { opaque: true, ..Node::new(Kind::Directory, mtime) }
                }
                Some(old) => Node { kind: Kind::Implied, ..old.clone() },
                None if !made => Node { passed: true, ..Node::new(Kind::Mentioned, mtime) },
                None if hidden => Node::new(Kind::Directory, mtime),
                None => Node { passed: true, ..Node::new(Kind::Implied, mtime) },
            };
            hidden |= new.opaque;
            self.set(dir.into(), new);
        }
        if made && !self.tangled {
            self.parent = dir.into();
        }
        !self.tangled
    }

    fn set(&mut self, place: Box<[u8]>, new: Node) {
        match new.kind {
            Kind::Implied => drop(self.implied.insert(place.clone())),
            _ => drop(self.implied.remove(&place)),
        }
        if new.kind != Kind::Directory && self.parent == *place {
            self.parent.clear();
        }
        self.memory += OVERHEAD + place.len() + new.more.as_ref().map_or(0, |more| more.len());
        let name = place.len() - place.iter().rposition(|c| *c == 0).map_or(0, |at| at + 1);
        self.tangled |= self.memory > MEMORY || name > NAME_MAX;
        self.nodes.insert(place, new);
    }

    /// Forgets what is at a place, and in it.
    fn clear(&mut self, place: &[u8]) {
        let gone = self.nodes.extract_if(inside(place), |_, _| true).map(|(_, node)| node);
        // If it led through a link, it is elsewhere, and stays.
        let passed = gone.filter(|node| node.passed).count();
        let passed = passed + usize::from(self.nodes.remove(place).is_some_and(|old| old.passed));
        self.tangled |= passed > 0;
        self.implied.extract_if(inside(place), |_| true).for_each(drop);
        self.implied.remove(place);
        self.parent.clear();
    }
}

/// Returns whether something is in what is at `dir`.
fn is_in(place: &[u8], dir: &[u8]) -> bool {
    place.strip_prefix(dir).is_some_and(|rest| rest.first() == Some(&0))
}

fn device(major: u32, minor: u32) -> u64 {
    u64::from(major) << 32 | u64::from(minor)
}

/// Returns what an entry says of itself.
fn node(entry: &Entry) -> Node {
    let (kind, size) = match entry.kind {
        Tar::Directory => (Kind::Directory, 0),
        Tar::File | Tar::HardLink => (Kind::File, entry.size),
        Tar::Symlink => (Kind::Symlink, 0),
        Tar::Character => (Kind::Character, device(entry.device.0, entry.device.1)),
        Tar::Block => (Kind::Block, device(entry.device.0, entry.device.1)),
        Tar::Fifo => (Kind::Fifo, 0),
    };
    let mode = if kind == Kind::Symlink { 0o777 } else { (entry.mode & 0o7777) as u16 };
    let more = (kind == Kind::Symlink).then(|| entry.link.as_slice().into());
    let (uid, gid, mtime) = (entry.uid, entry.gid, entry.mtime.tv_sec);
    Node { mode, uid, gid, size, more, ..Node::new(kind, mtime) }
}
