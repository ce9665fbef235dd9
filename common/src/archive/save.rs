//! Writing images as an archive.
//!
//! ```text
//! oci-layout  index.json  manifest.json     what it is, and what it holds
//! blobs/.../<index> <manifest> <config>     documents, each blob once
//! blobs/.../<layer>                         layers, the lowest first
//! blobs/.../<hex>                           what else an index names: nobody knows what it is
//! ```
//!
//! What comes first says what follows, so that a reader needs no second pass. The
//! headers say nothing of when, where or by whom it was made: an archive is the
//! same to the byte as long as its images are. Blobs are copied by the kernel.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::FileTypeExt;

use anyhow::{Context, Error, Result, anyhow, bail, ensure};
use oci_spec::image::{Descriptor, ImageManifest};
use rustix::fs::{copy_file_range, sendfile};
use rustix::io::Errno;
use rustix::pipe::fcntl_setpipe_size;
use serde_json::{Value, json};

use super::{CONTAINERD_NAME, LEFT_OUT};
use crate::digest::Digest;
use crate::error::{self, At};
use crate::image::{self, Document, INDEX_DEPTH, Kind, REF_NAME};
use crate::layer::pack;
use crate::layer::unable;
use crate::layout::{Layout, Missing};
use crate::platform::Platform;
use crate::reference::Reference;

/// What an archive is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// For everybody: an OCI layout that `docker load` reads, too.
    #[default]
    Both,
    /// As `docker save` wrote it before version 25: no OCI layout.
    Docker,
    /// An OCI layout and nothing else.
    Oci,
}

/// An image that is to be saved.
pub struct Image<'a> {
    /// Where its blobs are.
    pub layout: &'a Layout,
    /// Its manifest, or the index of its manifests.
    pub desc: Descriptor,
    /// Its name there.
    pub name: Option<Reference>,
}

/// What goes into an archive, in order.
pub struct Archive<'a> {
    members: Vec<Member<'a>>,
    /// What is here only in part, and so is not in the archive.
    pub warnings: Vec<String>,
}

enum Member<'a> {
    /// A document that is only in the archive, and its name there.
    Document(&'static str, Vec<u8>),
    /// A blob, and its name there.
    Blob(String, Blob<'a>),
}

#[derive(Clone, Copy)]
struct Blob<'a> {
    layout: &'a Layout,
    digest: Digest,
    size: u64,
}

/// The blobs that images lead to, each once.
#[derive(Default)]
struct Parts<'a> {
    /// Indexes and manifests.
    documents: Vec<Blob<'a>>,
    configs: Vec<Blob<'a>>,
    layers: Vec<Blob<'a>>,
    /// What indexes name that is no image. Other ways may lead to the same blobs as parts of images.
    others: BTreeMap<Digest, Blob<'a>>,
    seen: HashSet<Digest>,
    /// Manifests and indexes that are not here whole, and what they lack: there may be more
    /// ways to one than anyone could go.
    lacking: HashMap<Digest, Digest>,
    warnings: Vec<String>,
}

/// An image and all names that it is to have.
struct Entry<'a> {
    layout: &'a Layout,
    desc: Descriptor,
    names: Vec<Reference>,
}

impl<'a> Archive<'a> {
    /// Looks at all that the images lead to. What is in `have` is left out, since the reader has it.
    ///
    /// # Errors
    /// [`Missing`] if a blob is not here. Of an index, the images that are not here do not matter, unless none is.
    pub fn new(
        images: &[Image<'a>],
        format: Format,
        have: &BTreeSet<Digest>,
    ) -> Result<Archive<'a>> {
        let mut entries: Vec<Entry> = Vec::new();
        let mut parts = Parts::default();
        for image in images {
            let subject = || {
                image.name.as_ref().map_or(image.desc.digest().to_string(), Reference::to_string)
            };
            let name = image.name.iter().filter(|name| name.tag().is_some()).cloned();
            match entries.iter_mut().find(|entry| entry.desc.digest() == image.desc.digest()) {
                Some(entry) => entry.names.extend(name),
                None => {
                    let (layout, desc) = (image.layout, image.desc.clone());
                    parts.add(layout, &desc, have, 0).with_context(subject)?;
                    entries.push(Entry { layout, desc, names: name.collect() });
                }
            }
        }
        for entry in &mut entries {
            let mut names = HashSet::new();
            entry.names.retain(|name| names.insert(name.full()));
        }
        let docker = match format {
            Format::Oci => Vec::new(),
            _ => docker(&entries, &parts, format)?,
        };
        let mut left_out = BTreeSet::new();
        let mut members = Vec::new();
        let others = parts.others();
        let blobs = [&parts.documents, &parts.configs, &parts.layers, &others];
        for blob in blobs.into_iter().flatten().filter(|blob| have.contains(&blob.digest)) {
            left_out.insert(blob.digest);
        }
        if format != Format::Docker {
            let marker = br#"{"imageLayoutVersion":"1.0.0"}"#;
            members.push(Member::Document("oci-layout", marker.into()));
            members.push(Member::Document("index.json", index(&entries, &left_out)?));
        }
        if !docker.is_empty() {
            let manifest = serde_json::to_vec(&docker)?;
            members.push(Member::Document("manifest.json", manifest));
        }
        for (kind, blobs) in blobs.into_iter().enumerate() {
            for blob in blobs.iter().filter(|blob| !left_out.contains(&blob.digest)) {
                let name = match (format, kind) {
                    (Format::Docker, 0 | 3) => continue,
                    (Format::Docker, 1) => format!("{}.json", blob.digest.hex()),
                    (Format::Docker, _) => format!("{}.tar", blob.digest.hex()),
                    _ => path(&blob.digest),
                };
                members.push(Member::Blob(name, *blob));
            }
        }
        Ok(Archive { members, warnings: parts.warnings })
    }

    /// Writes the archive to a file or a pipe, which errors call `place`; with `verify`, hashes each blob on its way.
    ///
    /// # Errors
    /// If a blob is not what it should be. Then the archive has no end.
    pub fn write(&self, to: File, place: &str, verify: bool) -> Result<()> {
        let mut out = Output::new(to, place);
        for member in &self.members {
            match member {
                Member::Document(name, bytes) => out.file(name, bytes)?,
                Member::Blob(name, blob) => {
                    let (size, digest) = (blob.size, &blob.digest);
                    let mut file = blob.open()?;
                    out.bytes(&header(name, size)?)?;
                    let copied = match verify {
                        true => out.verified(&mut file, size, digest),
                        false => out.copy(&mut file, size, digest),
                    };
                    copied?;
                    out.bytes(pack::padding(size))?;
                }
            }
        }
        out.bytes(&[0; 1024])?;
        out.flush()
    }
}

/// Returns the blobs of an image that are here: itself, and what it leads to.
pub fn blobs(layout: &Layout, desc: &Descriptor) -> Result<Vec<Digest>> {
    let mut parts = Parts::default();
    parts.add(layout, desc, &BTreeSet::new(), 0)?;
    let others = parts.others();
    let blobs = [parts.documents, parts.configs, parts.layers, others].into_iter().flatten();
    Ok(blobs.map(|blob| blob.digest).collect())
}

impl<'a> Parts<'a> {
    /// Adds `desc`, and what it leads to; nothing, if that is not here.
    fn add(
        &mut self,
        layout: &'a Layout,
        desc: &Descriptor,
        have: &BTreeSet<Digest>,
        depth: usize,
    ) -> Result<()> {
        let digest = image::digest(desc)?;
        if self.seen.contains(&digest) {
            return Ok(());
        }
        if let Some(missing) = self.lacking.get(&digest) {
            bail!(Missing(*missing));
        }
        let added = self.add_document(layout, desc, have, depth);
        if let Some(Missing(missing)) = added.as_ref().err().and_then(error::find) {
            self.lacking.insert(digest, *missing);
        }
        added
    }

    fn add_document(
        &mut self,
        layout: &'a Layout,
        desc: &Descriptor,
        have: &BTreeSet<Digest>,
        depth: usize,
    ) -> Result<()> {
        ensure!(depth < INDEX_DEPTH, "indexes nest deeper than {INDEX_DEPTH}");
        let subject = || format!("blob {}", desc.digest());
        match image::parse(&layout.read(desc)?, &image::media_type(desc)).with_context(subject)? {
            Document::Manifest(manifest) => {
                for part in [manifest.config()].into_iter().chain(manifest.layers()) {
                    let digest = image::digest(part)?;
                    let is_there = have.contains(&digest) || layout.has(&digest, part.size())?;
                    ensure!(is_there, Missing(digest));
                }
                self.push(layout, desc, |parts| &mut parts.documents)?;
                self.push(layout, manifest.config(), |parts| &mut parts.configs)?;
                for layer in manifest.layers() {
                    self.push(layout, layer, |parts| &mut parts.layers)?;
                }
            }
            Document::Index(index) => {
                let (mut missing, mut count, mut others) = (None, 0, Vec::new());
                for member in index.manifests() {
                    // What is no image is no error: image-index.md, mediaType.
                    if Kind::of(&image::media_type(member)).is_none() {
                        let (digest, size) = (image::digest(member)?, member.size());
                        match have.contains(&digest) || layout.has(&digest, size)? {
                            true => others.push((digest, Blob { layout, digest, size })),
                            false => drop(missing.get_or_insert(Missing(digest).into())),
                        }
                        continue;
                    }
                    match self.add(layout, member, have, depth + 1) {
                        Ok(()) => count += 1,
                        Err(err) if error::find::<Missing>(&err).is_some() => {
                            if layout.size(&image::digest(member)?).is_some() {
                                let why = error::line(&err);
                                self.warnings.push(format!("{}: left out: {why}", member.digest()));
                            }
                            missing.get_or_insert(err);
                        }
                        Err(err) => return Err(err),
                    }
                }
                match missing {
                    Some(missing) if count == 0 => return Err(missing),
                    _ => {
                        self.push(layout, desc, |parts| &mut parts.documents)?;
                        self.others.extend(others);
                    }
                }
            }
        }
        Ok(())
    }

    /// Returns what belongs to no image.
    fn others(&self) -> Vec<Blob<'a>> {
        self.others.values().filter(|blob| !self.seen.contains(&blob.digest)).copied().collect()
    }

    fn push(
        &mut self,
        layout: &'a Layout,
        desc: &Descriptor,
        to: impl FnOnce(&mut Self) -> &mut Vec<Blob<'a>>,
    ) -> Result<()> {
        let (digest, size) = (image::digest(desc)?, desc.size());
        if self.seen.insert(digest) {
            to(self).push(Blob { layout, digest, size });
        }
        Ok(())
    }
}

impl Blob<'_> {
    fn open(&self) -> Result<File> {
        let desc = image::descriptor("application/octet-stream".into(), &self.digest, self.size);
        self.layout.open_blob(&desc)
    }
}

/// Returns where a blob is in an archive, as in any layout.
fn path(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm(), digest.hex())
}

/// Returns the index.json: an entry for each name.
fn index(entries: &[Entry], left_out: &BTreeSet<Digest>) -> Result<Vec<u8>> {
    let mut manifests: Vec<Value> = Vec::new();
    for entry in entries {
        let desc = json!({
            "mediaType": entry.desc.media_type(),
            "digest": entry.desc.digest(),
            "size": entry.desc.size(),
        });
        if entry.names.is_empty() {
            manifests.push(desc.clone());
        }
        for name in &entry.names {
            let mut desc = desc.clone();
            desc["annotations"] = json!({ REF_NAME: name.full(), CONTAINERD_NAME: name.full() });
            manifests.push(desc);
        }
    }
    let mut index = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": manifests,
    });
    if !left_out.is_empty() {
        let list: Vec<String> = left_out.iter().map(Digest::to_string).collect();
        index["annotations"] = json!({ LEFT_OUT: list.join(",") });
    }
    Ok(serde_json::to_vec(&index)?)
}

/// Returns the entries of manifest.json. Of an index, Docker gets the image for this machine.
fn docker(entries: &[Entry], parts: &Parts, format: Format) -> Result<Vec<Value>> {
    let mut images = Vec::new();
    for entry in entries {
        let Some(manifest) = image_of(entry, parts)? else {
            ensure!(
                format != Format::Docker,
                "{}: not an image that Docker knows",
                entry.desc.digest()
            );
            continue;
        };
        let member = |desc: &Descriptor, extension: &str| -> Result<String> {
            let digest = image::digest(desc)?;
            Ok(match format {
                Format::Docker => format!("{}.{extension}", digest.hex()),
                _ => path(&digest),
            })
        };
        let layers: Result<Vec<String>> =
            manifest.layers().iter().map(|layer| member(layer, "tar")).collect();
        // Whole: podman takes a short name for one of its own.
        let names: Vec<String> = entry.names.iter().map(Reference::full).collect();
        images.push(json!({
            "Config": member(manifest.config(), "json")?,
            "RepoTags": if names.is_empty() { Value::Null } else { json!(names) },
            "Layers": layers?,
        }));
    }
    Ok(images)
}

/// Returns the manifest that Docker is to load, unless there is none that it could.
fn image_of(entry: &Entry, parts: &Parts) -> Result<Option<ImageManifest>> {
    let mut desc = entry.desc.clone();
    for _ in 0..INDEX_DEPTH {
        match image::parse(&entry.layout.read(&desc)?, &image::media_type(&desc))? {
            Document::Manifest(manifest) => {
                let is_image = image::is_config(&image::media_type(manifest.config()));
                return Ok(is_image.then_some(*manifest));
            }
            Document::Index(mut index) => {
                let saved = |desc: &&Descriptor| {
                    Kind::of(&image::media_type(desc)).is_some()
                        && image::digest(desc).is_ok_and(|digest| parts.seen.contains(&digest))
                };
                let here = index.manifests().iter().filter(saved).cloned().collect();
                index.set_manifests(here);
                let best = image::select(&index, &Platform::host());
                let Some(best) = best.or(index.manifests().first()) else { return Ok(None) };
                desc = best.clone();
            }
        }
    }
    bail!("indexes nest deeper than {INDEX_DEPTH}")
}

/// How the kernel copies from one file to another.
#[derive(Clone, Copy, PartialEq)]
enum How {
    /// Between files of one kind of filesystem: copy_file_range(2), which may not copy at all but share.
    Range,
    /// To whatever it is: sendfile(2).
    Send,
    /// Not at all.
    Not,
}

/// How much is copied before signals are looked at.
const PIECE: u64 = 16 << 20;
/// How much is read at once where the kernel does not copy, and how much of what is small waits to be written.
const BUFFER: usize = 128 << 10;
/// What a pipe can hold for everybody: /proc/sys/fs/pipe-max-size, unless that was changed.
const PIPE: usize = 1 << 20;

/// Where an archive goes.
struct Output<'a> {
    file: File,
    /// What errors call it.
    place: &'a str,
    how: How,
    waiting: Vec<u8>,
}

/// Returns the header of a file that belongs to nobody and was never changed.
fn header(name: &str, size: u64) -> Result<Vec<u8>> {
    let (path, kind) = (name.into(), pack::Kind::File { size });
    let entry =
        pack::Entry { path, kind, mode: 0o644, uid: 0, gid: 0, mtime: 0, xattrs: BTreeMap::new() };
    let mut bytes = Vec::new();
    pack::header(&entry, &mut bytes)?;
    Ok(bytes)
}

impl Output<'_> {
    fn new(file: File, place: &str) -> Output<'_> {
        let kind = file.metadata().map(|metadata| metadata.file_type());
        if kind.as_ref().is_ok_and(FileTypeExt::is_fifo) {
            // It is faster; one that stays small will do.
            let _ = fcntl_setpipe_size(&file, PIPE);
        }
        let how = if kind.is_ok_and(|kind| kind.is_file()) { How::Range } else { How::Send };
        Output { file, place, how, waiting: Vec::with_capacity(BUFFER) }
    }

    /// Writes a file that is in memory.
    fn file(&mut self, name: &str, bytes: &[u8]) -> Result<()> {
        let size = bytes.len() as u64;
        self.bytes(&header(name, size)?)?;
        self.bytes(bytes)?;
        self.bytes(pack::padding(size))
    }

    fn bytes(&mut self, bytes: &[u8]) -> Result<()> {
        if self.waiting.len() + bytes.len() > BUFFER {
            self.flush()?;
        }
        match bytes.len() > BUFFER {
            true => self.file.write_all(bytes).at(self.place),
            false => {
                self.waiting.extend_from_slice(bytes);
                Ok(())
            }
        }
    }

    fn flush(&mut self) -> Result<()> {
        self.file.write_all(&self.waiting).at(self.place)?;
        self.waiting.clear();
        Ok(())
    }

    /// Copies the first `size` bytes of a blob.
    fn copy(&mut self, from: &mut File, size: u64, digest: &Digest) -> Result<()> {
        if size < BUFFER as u64 {
            return self.through(from, size, digest, |_| {});
        }
        self.flush()?;
        let mut left = size;
        while left > 0 {
            let count = left.min(PIECE) as usize;
            let copied = match self.how {
                How::Range => copy_file_range(&*from, None, &self.file, None, count),
                How::Send => sendfile(&self.file, &*from, None, count),
                How::Not => return self.through(from, left, digest, |_| {}),
            };
            match copied {
                Ok(0) => return Err(short(digest, left)),
                Ok(n) => left -= n as u64,
                Err(Errno::INTR) => {}
                Err(err) if unable(err) => {
                    self.how = if self.how == How::Range { How::Send } else { How::Not };
                }
                Err(err) => return Err(err).at(self.place),
            }
        }
        Ok(())
    }

    /// Copies a blob, and sees that it is what its digest says.
    fn verified(&mut self, from: &mut File, size: u64, digest: &Digest) -> Result<()> {
        let mut hasher = digest.hasher();
        self.through(from, size, digest, |bytes| hasher.update(bytes))?;
        let found = hasher.finish();
        ensure!(found == *digest, "blob {digest}: corrupt: it hashes to {found}");
        Ok(())
    }

    /// Copies the next `left` bytes by way of memory.
    fn through(
        &mut self,
        from: &mut File,
        mut left: u64,
        digest: &Digest,
        mut look: impl FnMut(&[u8]),
    ) -> Result<()> {
        let mut buffer = vec![0; BUFFER.min(left as usize)];
        while left > 0 {
            let most = buffer.len().min(left as usize);
            match from.read(&mut buffer[..most]) {
                Ok(0) => return Err(short(digest, left)),
                Ok(n) => {
                    look(&buffer[..n]);
                    self.bytes(&buffer[..n])?;
                    left -= n as u64;
                }
                Err(err) if err.kind() == ErrorKind::Interrupted => {}
                Err(err) => return Err(err).with_context(|| format!("blob {digest}")),
            }
        }
        Ok(())
    }
}

/// Returns the error for a blob that is shorter than it was a moment ago.
fn short(digest: &Digest, lacking: u64) -> Error {
    anyhow!("blob {digest}: corrupt: it ends {lacking} bytes too early")
}
