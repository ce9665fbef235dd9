//! What layers make, as a table in memory: image-spec, layer.md, without a filesystem.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::tar::Entry;

/// How many links one path may lead through.
const HOPS: usize = 40;

type Id = usize;
type Name = Vec<u8>;
type Refused = &'static str;

/// A tree that layers were applied to. The root is the first node.
pub struct Model {
    nodes: Vec<Node>,
    /// The names that the layer at hand has made or has an entry for, or something beneath them.
    touched: HashSet<(Id, Name)>,
}

#[derive(Clone)]
struct Node {
    body: Body,
    mode: u32,
    owner: (u32, u32),
    /// Unknown of the root, which was there before.
    mtime: Option<(i64, u32)>,
    xattrs: BTreeMap<&'static str, Vec<u8>>,
    parent: Id,
}

#[derive(Clone)]
enum Body {
    Directory(BTreeMap<Name, Id>),
    File(Vec<u8>),
    Symlink(Name),
    Special(u8, (u32, u32)),
}

/// What a name says of the layers below.
enum Meaning<'a> {
    Plain,
    Removed(&'a [u8]),
    Opaque,
    Leftover,
}

fn meaning(name: &[u8]) -> Result<Meaning<'_>, Refused> {
    match name.strip_prefix(b".wh.") {
        None => Ok(Meaning::Plain),
        Some(b".wh..opq") => Ok(Meaning::Opaque),
        Some(rest) if rest.starts_with(b".wh.") => Ok(Meaning::Leftover),
        Some(b"" | b"." | b"..") => Err("a whiteout of nothing"),
        Some(rest) => Ok(Meaning::Removed(rest)),
    }
}

/// Splits a path into its directory and its last name: neither for the root, nothing for what AUFS left.
type Place<'a> = Option<Option<(Vec<&'a [u8]>, &'a [u8])>>;

fn place(path: &[u8]) -> Result<Place<'_>, Refused> {
    let mut names: Vec<&[u8]> = Vec::new();
    for name in path.split(|byte| *byte == b'/').filter(|name| !matches!(*name, b"" | b".")) {
        if name == b".." {
            return Err("it leads upwards");
        }
        // What is behind a whiteout is in no directory.
        if let Some(last) = names.last() {
            match meaning(last)? {
                Meaning::Plain => {}
                Meaning::Leftover => return Ok(None),
                _ => return Err("it leads through a whiteout"),
            }
        }
        names.push(name);
    }
    let last = names.pop();
    Ok(Some(last.map(|last| (names, last))))
}

impl Default for Model {
    fn default() -> Model {
        let root = Node {
            body: Body::Directory(BTreeMap::new()),
            mode: 0o755,
            owner: (0, 0),
            mtime: None,
            xattrs: BTreeMap::new(),
            parent: 0,
        };
        Model { nodes: vec![root], touched: HashSet::new() }
    }
}

impl Model {
    pub fn apply(&mut self, entries: &[Entry]) -> Result<(), Refused> {
        self.touched.clear();
        entries.iter().try_for_each(|entry| self.entry(entry))
    }

    fn entry(&mut self, entry: &Entry) -> Result<(), Refused> {
        let slash = entry.name.ends_with(b"/");
        let kind = match entry.kind {
            0 if slash => b'5',
            0 | b'7' => b'0',
            kind => kind,
        };
        match kind {
            b'0'..=b'6' => {}
            _ => return Err("an unknown type"),
        }
        if kind == b'0' && slash {
            return Err("a file whose name ends in a slash");
        }
        if kind != b'0' && !entry.data.is_empty() {
            return Err("data in what is no file");
        }
        let (dir, name) = match place(&entry.name)? {
            None => return Ok(()),
            Some(None) if kind == b'5' => {
                self.dress(0, entry);
                return Ok(());
            }
            Some(None) => return Err("a root that is no directory"),
            Some(Some(place)) => place,
        };
        match meaning(name)? {
            Meaning::Plain => {}
            Meaning::Leftover => return Ok(()),
            Meaning::Removed(name) => {
                if let Some(dir) = self.find(&dir, None)? {
                    self.whiteout(dir, name);
                }
                return Ok(());
            }
            Meaning::Opaque => {
                if let Some(dir) = self.find(&dir, None)? {
                    self.clear(dir);
                }
                return Ok(());
            }
        }
        let target = match kind {
            b'1' => {
                let Some(Some((dir, name))) = place(&entry.link)? else {
                    return Err("a hard link to a directory");
                };
                let dir = self.find(&dir, None)?.ok_or("a hard link into nowhere")?;
                Some((dir, name))
            }
            _ => None,
        };
        let parent = self.find(&dir, Some(entry.mtime))?.ok_or("no directory")?;
        match (kind, target) {
            (b'5', _) => {
                let id = match self.child(parent, name) {
                    Some(id) if self.is_directory(id) => id,
                    _ => self.make(parent, name, Body::Directory(BTreeMap::new())),
                };
                self.dress(id, entry);
            }
            (b'1', Some((from, link))) => self.link(from, link, parent, name)?,
            _ => {
                let body = match kind {
                    b'0' => Body::File(entry.content()),
                    b'2' if entry.link.is_empty() => return Err("a link to nothing"),
                    b'2' => Body::Symlink(entry.link.clone()),
                    b'3' if entry.device == (0, 0) => return Err("overlay's whiteout"),
                    b'6' => Body::Special(kind, (0, 0)),
                    _ => Body::Special(kind, entry.device),
                };
                let id = self.make(parent, name, body);
                self.dress(id, entry);
            }
        }
        self.touch(parent, name);
        Ok(())
    }

    /// Leads a path to a directory as a process in the tree would go; with a time, makes what is missing.
    fn find(&mut self, path: &[&[u8]], make: Option<(i64, u32)>) -> Result<Option<Id>, Refused> {
        let mut done: Vec<Name> = Vec::new();
        let mut todo: Vec<Name> = path.iter().rev().map(|name| name.to_vec()).collect();
        let mut hops = 0;
        while let Some(name) = todo.pop() {
            match &name[..] {
                b"" | b"." => continue,
                b".." => {
                    done.pop();
                    continue;
                }
                _ => {}
            }
            let link = self.walk(&done).and_then(|dir| self.child(dir, &name));
            if let Some(Body::Symlink(target)) = link.map(|id| &self.nodes[id].body) {
                hops += 1;
                if hops > HOPS {
                    return Err("too many links");
                }
                if target.starts_with(b"/") {
                    done.clear();
                }
                todo.extend(target.split(|byte| *byte == b'/').rev().map(<[u8]>::to_vec));
            } else {
                done.push(name);
            }
        }
        let Some(mtime) = make else { return Ok(self.walk(&done)) };
        let mut dir = 0;
        for name in &done {
            dir = match self.child(dir, name) {
                Some(id) if self.is_directory(id) => id,
                Some(_) => return Err("a directory that is none"),
                None => {
                    let id = self.make(dir, name, Body::Directory(BTreeMap::new()));
                    self.nodes[id].mtime = Some(mtime);
                    id
                }
            };
        }
        Ok(Some(dir))
    }

    /// Goes down by names alone.
    fn walk(&self, path: &[Name]) -> Option<Id> {
        path.iter()
            .try_fold(0, |dir, name| self.child(dir, name).filter(|id| self.is_directory(*id)))
    }

    fn child(&self, dir: Id, name: &[u8]) -> Option<Id> {
        match &self.nodes[dir].body {
            Body::Directory(children) => children.get(name).copied(),
            _ => None,
        }
    }

    fn is_directory(&self, id: Id) -> bool {
        matches!(self.nodes[id].body, Body::Directory(_))
    }

    fn children(&mut self, dir: Id) -> &mut BTreeMap<Name, Id> {
        match &mut self.nodes[dir].body {
            Body::Directory(children) => children,
            _ => panic!("not a directory"),
        }
    }

    /// Makes something new, in place of what has the name.
    fn make(&mut self, parent: Id, name: &[u8], body: Body) -> Id {
        self.remove(parent, name);
        let id = self.nodes.len();
        let (mode, xattrs) = (0o755, BTreeMap::new());
        self.nodes.push(Node { body, mode, owner: (0, 0), mtime: None, xattrs, parent });
        self.children(parent).insert(name.to_vec(), id);
        self.touch(parent, name);
        id
    }

    fn link(&mut self, from: Id, link: &[u8], to: Id, name: &[u8]) -> Result<(), Refused> {
        let source = self.child(from, link).ok_or("a hard link to nothing")?;
        if self.child(to, name) == Some(source) {
            return Ok(());
        }
        self.remove(to, name);
        // It may have been in what was removed.
        let source = self.child(from, link).ok_or("a hard link to what it replaces")?;
        if self.is_directory(source) {
            return Err("a hard link to a directory");
        }
        self.children(to).insert(name.to_vec(), source);
        Ok(())
    }

    fn dress(&mut self, id: Id, entry: &Entry) {
        let node = &mut self.nodes[id];
        (node.mode, node.owner) = (entry.mode, (entry.uid, entry.gid));
        node.mtime = Some(entry.mtime);
        // Those of overlay are the host's; and links and devices have none: xattr(7).
        let takes = matches!(node.body, Body::Directory(_) | Body::File(_));
        let set = |name: &str| takes && !name.starts_with("user.overlay.");
        node.xattrs = entry.xattrs.iter().filter(|(name, _)| set(name)).cloned().collect();
    }

    /// Notes a name, and those that lead to it.
    fn touch(&mut self, mut dir: Id, name: &[u8]) {
        self.touched.insert((dir, name.to_vec()));
        while dir != 0 {
            let above = self.nodes[dir].parent;
            let own = self.children(above).iter().find(|(_, id)| **id == dir);
            let Some(own) = own.map(|(name, _)| name.clone()) else { return };
            self.touched.insert((above, own));
            dir = above;
        }
    }

    fn remove(&mut self, dir: Id, name: &[u8]) {
        let Some(id) = self.children(dir).remove(name) else { return };
        self.touched.remove(&(dir, name.to_vec()));
        if self.is_directory(id) {
            let names: Vec<Name> = self.children(id).keys().cloned().collect();
            names.iter().for_each(|name| self.remove(id, name));
        }
    }

    /// Removes what lower layers have under a name.
    fn whiteout(&mut self, dir: Id, name: &[u8]) {
        let Some(id) = self.child(dir, name) else { return };
        if !self.touched.contains(&(dir, name.to_vec())) {
            self.remove(dir, name);
        } else if self.is_directory(id) {
            self.clear(id);
        }
    }

    /// Removes what lower layers have in a directory.
    fn clear(&mut self, dir: Id) {
        let names: Vec<Name> = self.children(dir).keys().cloned().collect();
        names.iter().for_each(|name| self.whiteout(dir, name));
    }

    /// Returns the tree as [`super::scratch::Scratch::table`] has it.
    pub fn table(&self, with_xattrs: bool) -> Vec<String> {
        let mut names: HashMap<Id, String> = HashMap::new();
        let mut table = Vec::new();
        let mut todo = vec![(String::new(), 0)];
        while let Some((path, id)) = todo.pop() {
            let node = &self.nodes[id];
            let mut children = Vec::new();
            let what = match &node.body {
                Body::Directory(inner) => {
                    children.extend(
                        inner
                            .iter()
                            .map(|(name, id)| (format!("{path}/{}", name.escape_ascii()), *id)),
                    );
                    "directory".into()
                }
                Body::File(content) => super::scratch::file(content),
                Body::Symlink(target) => format!("-> {}", target.escape_ascii()),
                Body::Special(kind, device) => format!("{} {device:?}", char::from(*kind)),
            };
            let mode = match node.body {
                Body::Symlink(_) => 0o777,
                _ => node.mode,
            };
            let xattrs = if with_xattrs { node.xattrs.clone() } else { BTreeMap::new() };
            let first = names.entry(id).or_insert_with(|| path.clone());
            let mtime = node.mtime.filter(|_| id != 0);
            table.push(format!(
                "{path} {mode:o} {:?} {mtime:?} {xattrs:?} {what} as {first}",
                node.owner
            ));
            // Popped in order.
            children.reverse();
            todo.extend(children);
        }
        table
    }
}
