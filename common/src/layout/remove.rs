//! Removing from a layout: the name first, then the blobs that nothing needs any more.
//!
//! ```text
//! index.json    loses an entry; that is on the disk before anything else happens
//! blobs/        loses what no entry leads to: indexes, then manifests, then the rest
//! .partial/     loses what its writers left long ago
//! ```
//!
//! A blob goes only while nobody is on the way from a first blob to a name, which is to say
//! under the exclusive lock of `oci-layout`; where that cannot be had, names go and blobs
//! stay for the next one to remove. What an entry leads to is what any document below it
//! names, whether we know the kind of document or not. A document that is there and cannot
//! be read might name anything, so then nothing is removed. One that is not there names
//! nothing, as in an index of which one platform was pulled; but an entry of index.json
//! without its document is a layout that somebody damaged, and is left alone as well.
//!
//! Documents go before what they name, so that whatever is interrupted, no manifest is left
//! that has lost a layer and could still be named.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::{self, File, TryLockError};
use std::io::Read;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result};
use oci_spec::image::{Descriptor, ImageManifest};
use rustix::fs::{AtFlags, CWD, FileType, Stat, statat, unlinkat};
use rustix::io::Errno;
use serde_json::Value;

use super::partial::{PARTIAL, Partial};
use super::write::{lock_dir, replace};
use super::{Image, Index, Layout, Missing, blob_path};
use crate::digest::Digest;
use crate::error::{self, At, Hint};
use crate::image::{self, DOCUMENT_LIMIT, Document, Kind};

/// How long a lock is tried again before that.
const PAUSE: Duration = Duration::from_millis(2);

/// The right to remove names, and blobs too if nobody is adding any.
///
/// Of several at once one removes blobs and the others wait for it.
pub struct Removing<'a> {
    layout: &'a Layout,
    /// The exclusive lock of `oci-layout`, if it could be had.
    alone: Option<File>,
    /// Orders those who remove: without it, two of them would each take the other for a writer.
    _turn: Option<File>,
}

/// A blob, or a part of one, that nothing needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unneeded {
    /// The path from the layout's directory.
    path: String,
    /// How many bytes its removal frees.
    pub bytes: u64,
    /// What is removed first: indexes, manifests, all else.
    rank: u8,
}

impl Layout {
    /// Takes the right to remove, and waits no longer than `patience` for those who are adding blobs.
    pub fn removing(&self, patience: Duration) -> Result<Removing<'_>> {
        let blobs = self.dir.join("blobs");
        let turn = self.open_dir("blobs")?.ok_or(Errno::NOENT).at(&blobs)?;
        turn.lock().at(&blobs)?;
        let path = self.dir.join("oci-layout");
        let lock = File::open(&path).at(&path)?;
        let start = Instant::now();
        let alone = loop {
            match lock.try_lock() {
                Ok(()) => break Some(lock),
                Err(TryLockError::WouldBlock) if start.elapsed() < patience => {
                    std::thread::sleep(PAUSE);
                }
                Err(TryLockError::WouldBlock) => break None,
                Err(TryLockError::Error(err)) => return Err(err).at(path),
            }
        };
        Ok(Removing { layout: self, alone, _turn: Some(turn) })
    }

    /// Returns what a removal would find, for somebody who only wants to know: no lock is taken.
    pub fn looking(&self) -> Removing<'_> {
        Removing { layout: self, alone: None, _turn: None }
    }
}

impl Removing<'_> {
    /// Returns whether blobs can be removed now, since nobody is adding any.
    pub fn is_alone(&self) -> bool {
        self.alone.is_some()
    }

    /// Changes index.json, as one step that a crash or another writer cannot split.
    ///
    /// `change` gets the index as it is under the lock, and says whether it changed it.
    pub fn update<T>(&self, change: impl FnOnce(&mut Index) -> Result<(T, bool)>) -> Result<T> {
        let dir = &self.layout.dir;
        let lock = lock_dir(dir)?;
        let mut index = self.layout.index()?;
        let (result, changed) = change(&mut index)?;
        if changed {
            replace(dir, "index.json", &index.to_json()?)?;
            lock.sync_all().at(dir)?;
        }
        Ok(result)
    }

    /// Returns the blobs that no image of `index` needs.
    ///
    /// # Errors
    /// If it is not certain what an image needs.
    pub fn unneeded(&self, index: &Index) -> Result<Vec<Unneeded>> {
        let blobs = self.layout.blobs()?;
        let mut reach = Reach::new(self.layout, blobs);
        index.images().iter().try_for_each(|image| reach.image(image))?;
        Ok(self.ranked(reach.blobs))
    }

    /// Returns those of the blobs `candidates` that no image of `index` needs.
    ///
    /// `known` returns those of some blobs that an image may need, or nothing if it does not
    /// know: then the image's documents are read.
    pub fn unneeded_of(
        &self,
        index: &Index,
        candidates: impl IntoIterator<Item = Digest>,
        mut known: impl FnMut(&Image, &BTreeMap<Digest, u64>) -> Option<Vec<Digest>>,
    ) -> Result<Vec<Unneeded>> {
        let size = |digest: Digest| Some((digest, self.layout.file_size(&digest)?));
        let blobs: BTreeMap<Digest, u64> = candidates.into_iter().filter_map(size).collect();
        let mut reach = Reach::new(self.layout, blobs);
        for image in index.images() {
            if reach.blobs.is_empty() {
                break; // all of them are needed
            }
            match known(image, &reach.blobs) {
                Some(needed) => {
                    needed
                        .into_iter()
                        .chain(image.chosen_from())
                        .for_each(|blob| reach.reached(blob));
                }
                None => reach.image(image)?,
            }
        }
        Ok(self.ranked(reach.blobs))
    }

    /// Returns the partial blobs that no living writer holds and that none has written to for so long.
    pub fn abandoned(&self, age: Duration) -> Vec<Unneeded> {
        let mut found = Vec::new();
        let Some(partial) = Partial::open(&self.layout.dir) else { return found };
        partial.names(|name| {
            let (Some(file), Ok(name)) = (partial.file(name), name.to_str()) else { return };
            let Ok(metadata) = file.metadata() else { return };
            // A time to come says nothing.
            let written = metadata.modified().ok();
            let old = written.is_some_and(|at| {
                age.is_zero() || SystemTime::now().duration_since(at).is_ok_and(|since| since > age)
            });
            if old && file.try_lock().is_ok() {
                let path = format!("{PARTIAL}/{name}");
                found.push(Unneeded { path, bytes: metadata.len(), rank: 2 });
            }
        });
        found
    }

    /// Removes blobs, the documents first; returns how many bytes that freed.
    ///
    /// Nothing is removed unless [`Removing::is_alone`].
    pub fn remove(&self, mut unneeded: Vec<Unneeded>) -> Result<u64> {
        if !self.is_alone() {
            return Ok(0);
        }
        unneeded.sort_by_key(|blob| blob.rank);
        let mut dirs = Dirs { layout: self.layout, open: HashMap::new() };
        let (mut freed, mut failed) = (0, None);
        for blob in unneeded {
            // A document that stays may still be named, and so must what it names.
            if failed.as_ref().is_some_and(|(rank, _)| *rank < blob.rank) {
                break;
            }
            match dirs.unlink(&blob.path) {
                Ok(()) => freed += blob.bytes,
                Err(err) => drop(failed.get_or_insert((blob.rank, Err(err)))),
            }
        }
        let _ = fs::remove_dir(self.layout.dir.join(PARTIAL)); // if it is empty now
        failed.map_or(Ok(freed), |(_, failed)| failed)
    }

    fn ranked(&self, blobs: BTreeMap<Digest, u64>) -> Vec<Unneeded> {
        let blob = |(digest, bytes): (Digest, u64)| Unneeded {
            path: blob_path(&digest),
            bytes,
            rank: self.layout.rank(&digest),
        };
        blobs.into_iter().map(blob).collect()
    }
}

/// The directories that files are removed from, each opened once: none is a link that leaves the layout.
struct Dirs<'a> {
    layout: &'a Layout,
    open: HashMap<String, Option<OwnedFd>>,
}

impl Dirs<'_> {
    /// Removes the file at this path from the layout's directory. It is a success that there is none.
    fn unlink(&mut self, path: &str) -> Result<()> {
        let (parent, name) = path.rsplit_once('/').unwrap_or((".", path));
        if !self.open.contains_key(parent) {
            let dir = match parent {
                PARTIAL => Partial::open(&self.layout.dir).map(|partial| partial.0),
                _ => self.layout.open_dir(parent)?.map(OwnedFd::from),
            };
            self.open.insert(parent.to_owned(), dir);
        }
        let removed = match self.open.get(parent).and_then(Option::as_ref) {
            Some(dir) => unlinkat(dir, name, AtFlags::empty()),
            None => Ok(()),
        };
        match removed {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(err) => Err(err).at(self.layout.dir.join(path)),
        }
    }
}

impl Layout {
    /// Returns all blobs, with the bytes that each takes. What is not named by a digest that we know is nobody's.
    pub fn blobs(&self) -> Result<BTreeMap<Digest, u64>> {
        let mut blobs = BTreeMap::new();
        for algorithm in ["sha256", "sha512"] {
            let path = format!("blobs/{algorithm}");
            let Some(dir) = self.open_dir(&path)? else { continue };
            for entry in rustix::fs::Dir::read_from(&dir).at(self.dir.join(&path))? {
                let entry = entry.at(self.dir.join(&path))?;
                let name = entry.file_name();
                let digest = format!("{algorithm}:{}", name.to_string_lossy());
                if let Ok(digest) = digest.parse::<Digest>()
                    && let Ok(stat) = statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW)
                    && let Some(size) = size_of(&stat)
                {
                    blobs.insert(digest, size);
                }
            }
        }
        Ok(blobs)
    }

    /// Returns when a blob came.
    pub fn arrived(&self, digest: &Digest) -> Option<SystemTime> {
        fs::metadata(self.dir.join(blob_path(digest))).ok()?.modified().ok()
    }

    /// Returns the bytes that the removal of a blob's file frees, if it is there.
    fn file_size(&self, digest: &Digest) -> Option<u64> {
        let path = self.dir.join(blob_path(digest));
        size_of(&statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW).ok()?)
    }

    /// Returns the blobs that `image` leads to, as far as they are here: itself, what its documents name, and the
    /// index that it was chosen from.
    pub fn reach(&self, image: &Image) -> Result<Vec<Digest>> {
        let mut reach = Reach::new(self, BTreeMap::new());
        reach.collected = Some(Vec::new());
        reach.image(image)?;
        Ok(reach.collected.unwrap_or_default())
    }

    /// Returns what an image's manifest leads to, itself among them, if that can never be more.
    ///
    /// It may be for an index, of which other members may come, and for a manifest that refers to another.
    pub fn leads_to(&self, image: &Image) -> Result<Option<Vec<Digest>>> {
        if image.descriptor().map(|desc| Kind::of(&image::media_type(&desc)))?
            != Some(Kind::Manifest)
        {
            return Ok(None);
        }
        let mut reach = Reach::new(self, BTreeMap::new());
        reach.collected = Some(Vec::new());
        reach.image(image)?;
        let chosen_from = image.chosen_from();
        let mut found = reach.collected.unwrap_or_default();
        found.retain(|digest| chosen_from.as_ref() != Some(digest));
        found.sort();
        found.dedup();
        Ok((reach.seen.len() == 1).then_some(found))
    }

    /// Returns the manifests that `desc` leads to, as far as they are here: its own, or those of an index.
    pub fn manifests(&self, desc: &Descriptor) -> Result<Vec<ImageManifest>> {
        let (mut found, mut seen, mut todo) = (Vec::new(), HashSet::new(), vec![desc.clone()]);
        while let Some(desc) = todo.pop() {
            let media_type = image::media_type(&desc);
            if Kind::of(&media_type).is_none() || !seen.insert(image::digest(&desc)?) {
                continue;
            }
            let bytes = match self.read(&desc) {
                Err(err) if error::find::<Missing>(&err).is_some() => continue,
                bytes => bytes?,
            };
            match image::parse(&bytes, &media_type)? {
                Document::Manifest(manifest) => found.push(*manifest),
                Document::Index(index) => todo.extend(index.manifests().iter().cloned()),
            }
        }
        Ok(found)
    }

    /// Returns when a blob is removed, among others: indexes, manifests, all else.
    fn rank(&self, digest: &Digest) -> u8 {
        let Ok((mut file, size)) = self.open_digest(digest) else { return 2 };
        let mut first = [0];
        if size > DOCUMENT_LIMIT || file.read(&mut first).is_err() || first != *b"{" {
            return 2;
        }
        let document = self.read_document(digest).ok();
        let media_type = document.and_then(|bytes| image::media_type_of(&bytes).ok());
        match media_type.as_deref().and_then(Kind::of) {
            Some(Kind::Index) => 0,
            Some(Kind::Manifest) => 1,
            None => 2,
        }
    }
}

/// Returns the bytes that the removal of a file frees; of a symlink that is its own few.
fn size_of(stat: &Stat) -> Option<u64> {
    let kind = FileType::from_raw_mode(stat.st_mode);
    (kind.is_file() || kind.is_symlink()).then_some(stat.st_size as u64)
}

/// What is left of some blobs when those that images lead to are taken away.
struct Reach<'a> {
    layout: &'a Layout,
    blobs: BTreeMap<Digest, u64>,
    /// Documents that were looked into.
    seen: HashSet<Digest>,
    /// All that was reached, where somebody wants to know.
    collected: Option<Vec<Digest>>,
}

/// A document that is to be looked into.
struct Named {
    digest: Digest,
    /// What its descriptor says it is.
    kind: Option<Kind>,
    /// By an entry of index.json, and so it must be there.
    by_entry: bool,
}

impl Named {
    /// Returns nothing for an algorithm that we do not know: such blobs are not removed.
    fn of(desc: &Value, by_entry: bool) -> Option<Named> {
        let digest = desc["digest"].as_str()?.parse().ok()?;
        Some(Named { digest, kind: desc["mediaType"].as_str().and_then(Kind::of), by_entry })
    }
}

impl<'a> Reach<'a> {
    fn new(layout: &'a Layout, blobs: BTreeMap<Digest, u64>) -> Reach<'a> {
        Reach { layout, blobs, seen: HashSet::new(), collected: None }
    }

    /// Takes away what an entry of index.json leads to.
    fn image(&mut self, image: &Image) -> Result<()> {
        let what = image.name().unwrap_or(image.digest());
        self.follow(image).with_context(|| what.to_owned()).hint(|| {
            format!("no blob is removed while it is not known what this image needs; pull it again, or img-rm {what}")
        })
    }

    fn follow(&mut self, image: &Image) -> Result<()> {
        let desc: Value = serde_json::from_str(image.raw.get())?;
        // Kept for its digest alone: what else it names was not pulled.
        image.chosen_from().into_iter().for_each(|index| self.reached(index));
        let mut todo: Vec<Named> = Named::of(&desc, true).into_iter().collect();
        while let Some(named) = todo.pop() {
            self.reached(named.digest);
            if !self.seen.insert(named.digest) {
                continue;
            }
            let Some(document) = self.read(&named)? else { continue };
            match named.kind {
                Some(kind) => self.descriptors(&document, kind, &mut todo),
                None => self.digests(&document),
            }
        }
        Ok(())
    }

    fn reached(&mut self, digest: Digest) {
        self.blobs.remove(&digest);
        if let Some(collected) = &mut self.collected {
            collected.push(digest);
        }
    }

    /// Returns a document, or nothing if what is there names nothing.
    fn read(&self, named: &Named) -> Result<Option<Value>> {
        let digest = &named.digest;
        if named.kind.is_none() && self.layout.size(digest).is_some_and(|n| n > DOCUMENT_LIMIT) {
            return Ok(None); // data
        }
        let bytes = match self.layout.read_document(digest) {
            Ok(bytes) => bytes,
            Err(err) if error::find::<Missing>(&err).is_some() && !named.by_entry => {
                return Ok(None);
            }
            Err(err) => return Err(err),
        };
        match serde_json::from_slice(&bytes) {
            Ok(document) => Ok(Some(document)),
            Err(_) if named.kind.is_none() => Ok(None),
            Err(err) => Err(err).with_context(|| format!("blob {digest}")),
        }
    }

    /// Takes away what the descriptors in a manifest or an index name, wherever they stand in it.
    fn descriptors(&mut self, document: &Value, kind: Kind, todo: &mut Vec<Named>) {
        let mut values = vec![document];
        while let Some(value) = values.pop() {
            match value {
                Value::Array(more) => values.extend(more),
                Value::Object(fields) => {
                    values.extend(fields.values());
                    let Some(named) = Named::of(value, false) else { continue };
                    // A member of an index may be a document of a kind that we do not know; a layer is none.
                    match named.kind.is_some() || kind == Kind::Index {
                        true => todo.push(named),
                        false => self.reached(named.digest),
                    }
                }
                _ => {}
            }
        }
    }

    /// Takes away all that is named by digest in a document of a kind that we do not know.
    fn digests(&mut self, document: &Value) {
        let mut values = vec![document];
        while let Some(value) = values.pop() {
            match value {
                Value::Array(more) => values.extend(more),
                Value::Object(fields) => values.extend(fields.values()),
                Value::String(text) => {
                    text.parse().into_iter().for_each(|digest| self.reached(digest));
                }
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests;
