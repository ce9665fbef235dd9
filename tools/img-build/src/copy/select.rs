//! Which files an instruction copies, and the digest that stands for them.
//!
//! The digest is of all that decides the result and is not in the image that is
//! copied to: names, kinds, permissions, contents, attributes and links of the
//! files, and what the instruction says. It is not of times. Owners count where
//! they are kept, and names of files that nobody copies never do.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use common::digest::{Digest, Hasher};
use common::error::At;
use common::path::clean;
use common::tree::join;
use rustix::fs::FileType;

use super::SourceOf;
use super::contents::{Content, RACY, Wanted, digests};
use super::walk::{Filter, Found, Node, Reader, shown};
use crate::dockerfile::chmod::Chmod;
use crate::dockerfile::instruction::{Files, Operation};
use crate::error::{Error, nearest};
use crate::glob::Glob;
use crate::ignore::Ignore;
use crate::source::Tree;

/// The files of COPY or ADD.
pub struct Selection<'a> {
    pub(super) sources: Vec<Source<'a>>,
    pub(super) files: Files,
    pub(super) chmod: Option<Chmod>,
    /// Where what is known of files is kept.
    pub(super) known: Option<PathBuf>,
    digest: Digest,
    unmatched: Vec<String>,
    /// The directories whose listing has decided something.
    listed: Vec<(&'a Tree, Vec<u8>)>,
}

/// A source of files.
pub(super) enum Source<'a> {
    /// In a tree.
    Chosen(Vec<Chosen<'a>>),
    /// In a tree that nobody changes.
    Later(Box<dyn Fn() -> Result<Request<'a>> + 'a>),
    Content {
        name: String,
        text: String,
    },
    Fetched {
        file: File,
        name: String,
        mode: u32,
        mtime: i64,
        unpack: bool,
    },
}

/// A pattern in a tree.
pub(super) struct Request<'a> {
    tree: &'a Tree,
    pattern: String,
    asked: Asked,
}

/// What an instruction says of its sources.
#[derive(Clone, Default)]
struct Asked {
    /// What looks like a pattern is a name.
    literal: bool,
    keep_owner: bool,
    parents: bool,
    exclude: Vec<String>,
    unpack: bool,
}

impl Asked {
    fn of<'a>(&self, tree: &'a Tree, pattern: String) -> Request<'a> {
        Request { tree, pattern, asked: self.clone() }
    }
}

/// What a name, or one of the names that match a pattern, stands for.
pub(super) struct Chosen<'a> {
    pub(super) tree: &'a Tree,
    pub(super) keep_owner: bool,
    /// What it is called in a directory that it is copied to.
    pub(super) name: Vec<u8>,
    /// Where it is in the tree, without links.
    pub(super) root: Vec<u8>,
    /// It and what is in it, a directory before that.
    pub(super) nodes: Vec<Node>,
    /// Whether an archive is unpacked.
    pub(super) unpack: bool,
}

impl Chosen<'_> {
    pub(super) fn path(&self, node: &Node) -> Vec<u8> {
        if node.path.is_empty() { self.root.clone() } else { join(&self.root, &node.path) }
    }
}

impl<'a> Selection<'a> {
    /// Finds the files of an instruction whose variables are replaced: its sources, then its here-documents.
    ///
    /// What is known of the contents of files is kept in the directory `known`, which is made if it is not there.
    pub fn of(
        operation: &Operation,
        sources: Vec<SourceOf<'a>>,
        known: Option<&Path>,
    ) -> Result<Selection<'a>> {
        let (files, parents, unpack) = match operation {
            Operation::Copy(copy) => (&copy.files, copy.parents, Some(false)),
            Operation::Add(add) => (&add.files, false, add.unpack),
            _ => anyhow::bail!("neither COPY nor ADD"),
        };
        let chmod = files.chmod.as_deref().map(Chmod::parse).transpose()?;
        let mut hasher = Fields(Hasher::sha256());
        hasher.instruction(files, parents, unpack);
        let mut selection = Selection {
            sources: Vec::new(),
            files: files.clone(),
            chmod,
            known: known.map(Path::to_owned),
            digest: Digest::of(b""),
            unmatched: Vec::new(),
            listed: Vec::new(),
        };
        let (exclude, whole) = (files.exclude.clone(), unpack.unwrap_or(true));
        let asked = Asked { parents, exclude, unpack: whole, ..Asked::default() };
        for source in sources {
            let source = match source {
                SourceOf::Path { tree, pattern } => {
                    selection.choose(asked.of(tree, pattern), &mut hasher)?
                }
                SourceOf::Named { tree, path } => {
                    let exact = Asked { literal: true, parents, ..Asked::default() };
                    selection.choose(exact.of(tree, path), &mut hasher)?
                }
                SourceOf::Kept { tree, pattern, keep_owner, identity } => {
                    hasher.text("tree");
                    hasher.text(&identity.to_string());
                    hasher.text(&pattern);
                    hasher.number(keep_owner.into());
                    let asked = Asked { keep_owner, ..asked.clone() };
                    Source::Later(Box::new(move || Ok(asked.of(tree()?, pattern.clone()))))
                }
                SourceOf::Content { name, text } => {
                    hasher.text("content");
                    hasher.text(&name);
                    hasher.text(&text);
                    Source::Content { name, text }
                }
                SourceOf::Fetched { file, name, mode, mtime } => {
                    hasher.text("fetched");
                    hasher.text(&name);
                    hasher.number(mode.into());
                    hasher.bytes(digest_of(&file).with_context(|| name.clone())?.hex().as_bytes());
                    let unpack = unpack.unwrap_or(false);
                    Source::Fetched { file, name, mode, mtime, unpack }
                }
            };
            selection.sources.push(source);
        }
        selection.digest = hasher.0.finish();
        Ok(selection)
    }

    /// Finds what is asked for in a tree that others may change.
    fn choose(&mut self, request: Request<'a>, hasher: &mut Fields) -> Result<Source<'a>> {
        let (chosen, listed) = request.choose()?;
        if chosen.is_empty() {
            self.unmatched.push(request.pattern);
        }
        hasher.text("files");
        for chosen in &chosen {
            hasher.chosen(chosen, self.known.as_deref())?;
        }
        self.listed.extend(listed.into_iter().map(|dir| (request.tree, dir)));
        Ok(Source::Chosen(chosen))
    }

    /// Returns the digest of all that decides the result, but for the image that is copied to.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// Returns whether all files that are in trees are root's there.
    pub fn is_roots(&self) -> bool {
        let chosen = self.sources.iter().flat_map(|source| match source {
            Source::Chosen(chosen) => &chosen[..],
            _ => &[],
        });
        let mut nodes = chosen.flat_map(|chosen| &chosen.nodes);
        nodes.all(|node| (node.status.uid, node.status.gid) == (0, 0))
    }

    /// Returns whether the layer depends on the image that is copied to.
    pub fn needs_base(&self) -> bool {
        // As in BuildKit, permissions take the independence away.
        !self.files.link || self.chmod.is_some()
    }

    /// Returns the patterns that nothing matches; BuildKit copies nothing then, and so do we.
    pub fn unmatched(&self) -> &[String] {
        &self.unmatched
    }

    /// Returns the files of this host that the result depends on, and the directories whose listing has decided something.
    ///
    /// Of a link that is copied nothing is said: whoever changes it changes its directory.
    pub fn files(&self) -> impl Iterator<Item = PathBuf> {
        let chosen = self.sources.iter().flat_map(|source| match source {
            Source::Chosen(chosen) => &chosen[..],
            _ => &[],
        });
        let files = chosen.flat_map(|chosen| {
            let files = chosen.nodes.iter();
            let files = files.filter(|node| node.status.kind == FileType::RegularFile);
            files.map(|node| (chosen.tree, chosen.path(node)))
        });
        let all = self.listed.iter().cloned().chain(files);
        all.filter_map(|(tree, path)| match (&tree.path, &path[..]) {
            (None, _) => None,
            (Some(dir), b"") => Some(dir.clone()),
            (Some(dir), path) if dir == Path::new(".") => Some(shown(path).into()),
            (Some(dir), path) => Some(dir.join(shown(path))),
        })
    }
}

impl<'a> Request<'a> {
    /// Returns what is copied, and which directories were listed to know it.
    pub(super) fn choose(&self) -> Result<(Vec<Chosen<'a>>, Vec<Vec<u8>>)> {
        let mut reader = Reader::new(self.tree);
        let (source, only) = match (self.asked.parents, self.pattern.split_once("/./")) {
            (false, _) => (self.pattern.as_str(), None),
            (true, Some((source, pattern))) => (source, Some(pattern)),
            (true, None) => ("/", Some(self.pattern.as_str())),
        };
        let only = only.map(inside);
        let mut filter = Filter::default();
        // Nothing, or a dot, is all.
        if let Some(pattern) = only.as_deref().filter(|pattern| !pattern.is_empty()) {
            filter.only = Some(Ignore::of([pattern])?);
        }
        if !self.asked.exclude.is_empty() {
            filter.except = Some(Ignore::of(self.asked.exclude.iter().map(String::as_str))?);
        }
        let source = inside(source);
        let (plain, pattern) = match self.asked.literal {
            true => (source, None),
            false => split(&source),
        };
        let mut chosen = Vec::new();
        let matching = match &pattern {
            None => vec![plain.clone().into_bytes()],
            Some(pattern) => self.matching(&mut reader, &plain, pattern)?,
        };
        for path in matching {
            let place = match reader.find(&path).at(&self.tree.name)? {
                Found::At(place) => place,
                Found::Nothing { ignored } => {
                    return Err(self.missing(&mut reader, &path, ignored));
                }
            };
            let name: Vec<u8> = path.rsplit(|c| *c == b'/').next().unwrap_or_default().into();
            let root = place.path.clone();
            let nodes = reader.walk(place, &filter).at(&self.tree.name)?;
            if pattern.is_none() {
                self.check(&mut reader, &path, only.as_deref(), &nodes)?;
            }
            let Asked { keep_owner, unpack, .. } = self.asked;
            let tree = self.tree;
            if !nodes.is_empty() {
                chosen.push(Chosen { tree, keep_owner, name, root, nodes, unpack });
            }
        }
        Ok((chosen, reader.listed))
    }

    /// Checks that what is named is there.
    fn check(
        &self,
        reader: &mut Reader,
        path: &[u8],
        only: Option<&str>,
        nodes: &[Node],
    ) -> Result<()> {
        if nodes.is_empty() {
            let err = match reader.find(path)? {
                Found::At(place) if place.status.kind == FileType::Socket => {
                    anyhow::Error::new(Error::new(format!(
                        "{}: a socket, which means nothing elsewhere",
                        self.pattern
                    )))
                }
                // All that is in it is ignored.
                _ => self.missing(reader, path, Some(path.into())),
            };
            return Err(err);
        }
        let Some(only) = only.filter(|only| !only.is_empty() && !is_pattern(only)) else {
            return Ok(());
        };
        // The directory that it is looked for in is always there.
        if nodes.len() > 1 || !self.asked.exclude.is_empty() {
            return Ok(());
        }
        let path = join(path, only.as_bytes());
        Err(match reader.find(&path)? {
            Found::Nothing { ignored } => self.missing(reader, &path, ignored),
            Found::At(place) => {
                let err = Error::new(format!("{}: --parents follows no links", self.pattern));
                anyhow::Error::new(err.hint(String::from_utf8_lossy(&place.path).into_owned()))
            }
        })
    }

    /// Returns what matches a pattern in a directory.
    fn matching(&self, reader: &mut Reader, dir: &str, pattern: &str) -> Result<Vec<Vec<u8>>> {
        let glob = Glob::parse(pattern)?;
        // Only a class takes slashes.
        let depth = match pattern.contains('[') {
            true => usize::MAX,
            false => pattern.split('/').count(),
        };
        match reader.find(dir.as_bytes()).at(&self.tree.name)? {
            Found::At(place) => reader.matching(&place, &glob, depth).at(&self.tree.name),
            Found::Nothing { ignored } => Err(self.missing(reader, dir.as_bytes(), ignored)),
        }
    }

    /// Returns the error that says that a source is not there.
    fn missing(&self, reader: &mut Reader, path: &[u8], ignored: Option<Vec<u8>>) -> anyhow::Error {
        let tree = &self.tree.name;
        let written = &self.pattern;
        let err = match ignored {
            Some(ignored) => {
                Error::new(format!("{written}: left out of the {tree} by its ignore file"))
                    .hint(format!("!{} in .dockerignore", shown(&ignored).display()))
            }
            None => {
                let err = Error::new(format!("{written}: not in the {tree}"));
                match self.near(reader, path) {
                    Some(near) => err.hint(format!("{near}?")),
                    None => err,
                }
            }
        };
        anyhow::Error::new(err)
    }

    /// Returns the path that is most like one that is not there, and differs in its last name only.
    fn near(&self, reader: &mut Reader, path: &[u8]) -> Option<String> {
        let path = String::from_utf8(path.into()).ok()?;
        let (above, name) = path.rsplit_once('/').unwrap_or(("", &path));
        let Ok(Found::At(dir)) = reader.find(above.as_bytes()) else { return None };
        let list = reader.list(&dir.path).ok()?;
        let list: Vec<Cow<str>> =
            list.iter().map(|(name, _)| String::from_utf8_lossy(name)).collect();
        // A link that leads nowhere is not meant.
        let others = list.iter().map(|name| &**name).filter(|other| *other != name);
        let near = nearest(name, others)?;
        Some(if above.is_empty() { near.to_owned() } else { format!("{above}/{near}") })
    }
}

/// Returns a path in a tree: what leads out of it is clipped.
fn inside(path: &str) -> String {
    clean(&format!("/{path}"))[1..].to_owned()
}

/// Splits a path before the first name that is a pattern.
fn split(path: &str) -> (String, Option<String>) {
    let all: Vec<&str> = path.split('/').collect();
    match all.iter().position(|name| is_pattern(name)) {
        Some(at) => (all[..at].join("/"), Some(all[at..].join("/"))),
        None => (path.to_owned(), None),
    }
}

/// Returns whether a name is a pattern; a backslash takes a character's meaning.
fn is_pattern(name: &str) -> bool {
    let mut chars = name.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => drop(chars.next()),
            '*' | '?' | '[' => return true,
            _ => {}
        }
    }
    false
}

/// Returns the digest of a file of ours.
fn digest_of(file: &File) -> Result<Digest> {
    let mut hasher = Hasher::sha256();
    let mut buffer = vec![0; 256 << 10];
    let mut at = 0;
    loop {
        match file.read_at(&mut buffer, at)? {
            0 => return Ok(hasher.finish()),
            n => {
                hasher.update(&buffer[..n]);
                at += n as u64;
            }
        }
    }
}

/// A hasher of fields, each with its length, so that no two lists of fields are the same bytes.
struct Fields(Hasher);

impl Fields {
    fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        self.0.update(bytes);
    }

    fn text(&mut self, text: &str) {
        self.bytes(text.as_bytes());
    }

    fn number(&mut self, number: u64) {
        self.0.update(&number.to_be_bytes());
    }

    fn list(&mut self, list: &[String]) {
        self.number(list.len() as u64);
        list.iter().for_each(|text| self.text(text));
    }

    fn instruction(&mut self, files: &Files, parents: bool, unpack: Option<bool>) {
        let Files { sources: _, contents: _, destination, chown, chmod, link, exclude } = files;
        self.text(destination);
        for option in [chown, chmod] {
            self.list(option.as_ref().map(std::slice::from_ref).unwrap_or_default());
        }
        self.list(exclude);
        self.number(u64::from(*link) | u64::from(parents) << 1);
        self.number(unpack.map_or(2, u64::from));
    }

    fn chosen(&mut self, chosen: &Chosen, known: Option<&Path>) -> Result<()> {
        let is_file = |node: &&Node| match node.status.kind {
            FileType::RegularFile => true,
            // Attributes of its directories are kept, and so are of their contents.
            FileType::Directory => !chosen.tree.foreign,
            _ => false,
        };
        let wanted: Vec<Wanted> = (chosen.nodes.iter().filter(is_file))
            .map(|node| Wanted { root: &chosen.root, path: &node.path, status: &node.status })
            .collect();
        let mut contents =
            digests(chosen.tree, &wanted, known, RACY).at(&chosen.tree.name)?.into_iter();
        self.bytes(&chosen.name);
        self.number(chosen.nodes.len() as u64);
        let mut links = HashMap::new();
        for (number, node) in chosen.nodes.iter().enumerate() {
            let content = is_file(&node).then(|| contents.next()).flatten();
            // Which of two names of a file is the file, and which the link, depends on nothing else.
            let first = match node.status.links {
                0 | 1 => number,
                _ => *links.entry((node.status.dev, node.status.ino)).or_insert(number),
            };
            self.node(node, content, number - first);
        }
        Ok(())
    }

    /// Hashes what is copied of a file; `back` says how far before it another name of it is, if that is so.
    fn node(&mut self, node: &Node, content: Option<Content>, back: usize) {
        let status = &node.status;
        self.bytes(&node.path);
        self.number(status.kind.as_raw_mode().into());
        self.number(status.mode.into());
        self.number(u64::from(node.implied));
        match status.kind {
            FileType::CharacterDevice | FileType::BlockDevice => self.number(status.device),
            _ => {}
        }
        self.bytes(content.as_ref().map(|content| &content[..]).unwrap_or_default());
        self.bytes(node.link.as_deref().unwrap_or_default());
        // A directory has several links, and one name.
        self.number(if status.kind == FileType::Directory { 0 } else { back as u64 });
    }
}
