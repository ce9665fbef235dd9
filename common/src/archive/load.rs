//! Reading an archive into a layout.
//!
//! Every blob is verified, and nothing is named here: the caller names images that are whole.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path};
use std::thread;

use anyhow::{Context, Result, anyhow, bail, ensure};
use oci_spec::image::Descriptor;

use super::inflow::{Incoming, Inflow};
use super::{CONTAINERD_NAME, LEFT_OUT, blobs, docker, unpacked};
use crate::digest::Digest;
use crate::error::{self, Hint};
use crate::image::{self, Document, INDEX_DEPTH, Kind, REF_NAME};
use crate::layer::{self, Member, Packing, Tar, Type};
use crate::layout::{Index, Layout, Missing, Writing, chosen_from};
use crate::platform::Platform;

/// The most bytes of documents outside `blobs/`, and of names, that are kept while an archive is read.
const DOCUMENTS: u64 = 16 << 20;
/// What is wrong with a member where another one has its name: some readers take the first and some the last.
const TWICE: &str = "it is there twice";
/// How many missing blobs an error names.
const SHOWN: usize = 10;

/// An image that came in an archive.
#[derive(Debug)]
pub struct Loaded {
    /// Its manifest, or the index of its manifests.
    pub desc: Descriptor,
    /// Its names, as they are written in the archive.
    pub names: Vec<String>,
}

/// Reads an archive, plain or packed, into a layout.
///
/// # Errors
/// If anything is cut short, missing or has another digest than it claims.
pub fn load(mut archive: impl Read, into: &Writing) -> Result<Vec<Loaded>> {
    let tar = unpacked(archive.by_ref())?;
    let loaded = receive(into, |visit| layer::members(tar, visit))?;
    drain(archive);
    Ok(loaded)
}

/// Does as [`load`] with what is in a file, from where it is read next, or comes through a pipe.
///
/// Where it is not packed, the kernel copies the blobs.
pub fn load_file(archive: File, into: &Writing) -> Result<Vec<Loaded>> {
    let mut archive = Tar::new(archive)?;
    let start = archive.start()?;
    ensure!(!start.is_empty(), "no archive: did the command before this one fail?");
    if Packing::of(&start) != Packing::None {
        return load(archive, into);
    }
    let loaded = receive(into, |visit| layer::members_of(&mut archive, visit))?;
    drain(archive);
    Ok(loaded)
}

/// Reads what is behind the end of an archive: it has no meaning, but who sends it is not to die of SIGPIPE.
fn drain(mut archive: impl Read) {
    // All that matters is there, and is verified.
    let _ = io::copy(&mut archive, &mut io::sink());
}

/// Takes in the members that `read` calls its argument with.
fn receive(
    into: &Writing,
    read: impl FnOnce(&mut dyn FnMut(Member) -> Result<()>) -> Result<bool>,
) -> Result<Vec<Loaded>> {
    let mut contents = Contents::default();
    let (read, arrived) = thread::scope(|scope| {
        let mut inflow = Inflow::new(scope);
        let read = read(&mut |mut member| contents.member(&mut member, into, &mut inflow));
        (read, inflow.finish())
    });
    // What is wrong with a blob comes before what is wrong with what follows it.
    for (name, found) in arrived? {
        let before = contents.layers.get(&name).copied().flatten();
        ensure!(before.is_none_or(|before| before == found), "{name:?}: {TWICE}");
        contents.layers.insert(name, Some(found));
    }
    contents.marked = read?;
    let loaded = contents.images(into)?;
    ensure!(!loaded.is_empty(), "an archive without images");
    contents.strays(&loaded, into)?;
    Ok(loaded)
}

/// What an archive holds beside its blobs.
#[derive(Default)]
pub(super) struct Contents {
    /// Small files, whole.
    pub(super) documents: HashMap<String, Vec<u8>>,
    /// How many bytes they have together.
    size: u64,
    /// What lies outside `blobs/` and may be a layer or a config, as it is once all are hashed.
    pub(super) layers: HashMap<String, Option<(Digest, u64)>>,
    /// Links, and where they lead.
    pub(super) links: BTreeMap<String, String>,
    /// The archive had a mark at its end: it was not cut off between two members.
    marked: bool,
}

impl Contents {
    /// Takes a member in.
    fn member<'s, 'a: 's>(
        &mut self,
        member: &mut Member,
        into: &Writing<'a>,
        inflow: &mut Inflow<'s, '_, 'a>,
    ) -> Result<()> {
        let path = Path::new(OsStr::from_bytes(&member.name)).to_owned();
        let Some(name) = plain(&path) else { bail!("{path:?}: a path that leaves the archive") };
        match member.kind {
            Type::File => {
                self.file(&name, member, into, inflow).with_context(|| format!("{name:?}"))
            }
            Type::Symlink | Type::HardLink => {
                let link = Path::new(OsStr::from_bytes(&member.link));
                let from = match member.kind {
                    Type::Symlink => path.parent().unwrap_or(Path::new("")).join(link),
                    _ => link.to_owned(),
                };
                let target = plain(&from)
                    .with_context(|| format!("{name:?}: a link that leaves the archive"))?;
                ensure!(!name.starts_with("blobs"), "{name:?}: a link where a blob should be");
                let is_file = self.documents.contains_key(&name) || self.layers.contains_key(&name);
                let same = self.links.get(&name).is_none_or(|other| *other == target);
                ensure!(same && !is_file, "{name:?}: {TWICE}");
                self.keep(&name, target.len() as u64)?;
                self.links.insert(name, target);
                Ok(())
            }
            Type::Directory => Ok(()),
            Type::Special => bail!("{name:?}: neither a file, a directory nor a link"),
        }
    }

    /// Takes a file in.
    fn file<'s, 'a: 's>(
        &mut self,
        name: &str,
        file: &mut Member,
        into: &Writing<'a>,
        inflow: &mut Inflow<'s, '_, 'a>,
    ) -> Result<()> {
        // Bazel's archives have layers in blobs/ whose names are not quite digests.
        let is_tar = name.ends_with(".tar") || name.ends_with(".tar.gz");
        if let Some(blob) = name.strip_prefix("blobs/").filter(|_| !is_tar) {
            let digest: Digest = blob.replacen('/', ":", 1).parse()?;
            if let Some(writer) = into.whole_blob(&digest, file.size)? {
                inflow.take(Incoming::Blob(writer), file)?;
            }
            return Ok(());
        }
        ensure!(!self.links.contains_key(name), TWICE);
        if is_document(name) {
            self.keep(name, file.size)?;
            let mut bytes = Vec::new();
            copy(file, &mut bytes)?;
            if let Some(before) = self.documents.get(name) {
                ensure!(*before == bytes, TWICE);
                return Ok(());
            }
            if name == "index.json" {
                check_base(&bytes, into.layout())?;
            }
            self.documents.insert(name.into(), bytes);
            return Ok(());
        }
        // Nothing leads to Docker's <id>/VERSION, nor from an index.json to what is not in blobs/.
        if name.ends_with("/VERSION") || self.documents.contains_key("index.json") {
            return Ok(());
        }
        // Of all else only manifest.json says what it is, which may come last.
        self.keep(name, 0)?;
        self.layers.insert(name.into(), None);
        inflow.take(Incoming::Layer(name.into(), into.new_blob()?), file)
    }

    /// Makes sure that there is room for a member of this name, and `size` bytes of it.
    fn keep(&mut self, name: &str, size: u64) -> Result<()> {
        // What a map takes for an entry is some 100 bytes.
        self.size = self.size.saturating_add(size).saturating_add(name.len() as u64 + 100);
        let most = DOCUMENTS >> 20;
        ensure!(self.size <= DOCUMENTS, "more than {most} MiB of documents and links");
        Ok(())
    }

    /// Says which blobs came in and belong to no image.
    fn strays(&self, loaded: &[Loaded], into: &Writing) -> Result<()> {
        let mut strays: HashSet<Digest> =
            self.layers.values().flatten().map(|(digest, _)| *digest).collect();
        if !strays.is_empty() {
            for image in loaded {
                let needed = blobs(into.layout(), &image.desc)?;
                strays.retain(|digest| !needed.contains(digest));
            }
        }
        into.strays(&strays);
        Ok(())
    }

    /// Returns the images, each of them whole.
    fn images(&self, into: &Writing) -> Result<Vec<Loaded>> {
        if let Some(index) = self.documents.get("index.json") {
            return self.oci(index, into).context("index.json");
        }
        if let Some(manifest) = self.documents.get("manifest.json") {
            return self.docker(manifest, into).context("manifest.json");
        }
        if self.is_legacy() {
            return self.legacy(into);
        }
        bail!("neither an OCI nor a Docker archive: it has no index.json and no manifest.json")
    }

    fn oci(&self, index: &[u8], into: &Writing) -> Result<Vec<Loaded>> {
        let index = Index::parse(index)?;
        let mut loaded: Vec<Loaded> = Vec::new();
        let mut seen = HashSet::new();
        for entry in index.images() {
            let desc = entry.descriptor()?;
            // A layout may keep what is no image: image-layout.md, index.json.
            if Kind::of(&image::media_type(&desc)).is_none() {
                continue;
            }
            let desc = match check_whole(into.layout(), &desc, 0, &mut seen) {
                // Docker writes an index whole, and only the platforms that it has.
                Err(err) if self.marked && error::find::<Missing>(&err).is_some() => {
                    seen.clear();
                    best_of(into.layout(), &desc)?.ok_or(err)?
                }
                checked => checked.map(|()| desc)?,
            };
            let annotations = desc.annotations().clone().unwrap_or_default();
            let name = full_name(&annotations);
            match loaded.iter_mut().find(|image| image.desc.digest() == desc.digest()) {
                Some(image) => image.names.extend(name),
                None => {
                    loaded.push(Loaded { desc: bare(&desc), names: name.into_iter().collect() })
                }
            }
        }
        Ok(loaded)
    }
}

/// Checks that all that `desc` leads to is in the layout.
///
/// What is in `seen` was looked at already: there may be more ways through
/// indexes than anyone could go.
fn check_whole(
    layout: &Layout,
    desc: &Descriptor,
    depth: usize,
    seen: &mut HashSet<Digest>,
) -> Result<()> {
    ensure!(depth < INDEX_DEPTH, "indexes nest deeper than {INDEX_DEPTH}");
    let here = |desc: &Descriptor| -> Result<()> {
        let digest = image::digest(desc)?;
        ensure!(layout.has(&digest, desc.size())?, Missing(digest));
        Ok(())
    };
    // What an index has beside images is no error: image-index.md, mediaType.
    if Kind::of(&image::media_type(desc)).is_none() || !seen.insert(image::digest(desc)?) {
        return here(desc);
    }
    let subject = || format!("blob {}", desc.digest());
    match image::parse(&layout.read(desc)?, &image::media_type(desc)).with_context(subject)? {
        Document::Index(index) => {
            let mut members = index.manifests().iter();
            members.try_for_each(|desc| check_whole(layout, desc, depth + 1, seen))
        }
        Document::Manifest(manifest) => {
            here(manifest.config())?;
            manifest.layers().iter().try_for_each(here)
        }
    }
}

/// Returns the name that an entry of index.json has, as whole as it is written.
///
/// Where the ref.name is another one, somebody has renamed the image who knows nothing of containerd.
fn full_name(annotations: &HashMap<String, String>) -> Option<String> {
    let (full, name) = (annotations.get(CONTAINERD_NAME), annotations.get(REF_NAME));
    let is_tag_of = |full: &String, tag: &String| {
        full.strip_suffix(&**tag).is_some_and(|rest| rest.is_empty() || rest.ends_with(':'))
    };
    match (full, name) {
        (Some(full), Some(name)) if !is_tag_of(full, name) => Some(name.clone()),
        (full, name) => full.or(name).cloned(),
    }
}

/// Returns the best image for this machine of an index of which not all are here, if any is.
fn best_of(layout: &Layout, desc: &Descriptor) -> Result<Option<Descriptor>> {
    let Document::Index(mut index) = image::parse(&layout.read(desc)?, &image::media_type(desc))?
    else {
        return Ok(None);
    };
    let mut known = HashMap::new();
    let mut is_here = |member: &Descriptor| {
        let whole = || check_whole(layout, member, INDEX_DEPTH - 1, &mut HashSet::new()).is_ok();
        let is_manifest = Kind::of(&image::media_type(member)) == Some(Kind::Manifest);
        is_manifest && *known.entry(member.digest().to_string()).or_insert_with(whole)
    };
    let here = index.manifests().iter().filter(|member| is_here(member)).cloned().collect();
    index.set_manifests(here);
    let best = image::select(&index, &Platform::host()).or(index.manifests().first());
    let Some(best) = best else { return Ok(None) };
    let annotations = desc.annotations().clone();
    let mut best = chosen_from(best.clone(), &image::digest(desc)?);
    let mut all = best.annotations().clone().unwrap_or_default();
    all.extend(annotations.unwrap_or_default());
    best.set_annotations(Some(all));
    Ok(Some(best))
}

/// Checks that what an archive leaves out is here, before anything else of it is read.
fn check_base(index: &[u8], layout: &Layout) -> Result<()> {
    let Some(left_out) = Index::parse(index)?.annotation(LEFT_OUT) else { return Ok(()) };
    let mut missing = Vec::new();
    for digest in left_out.split(',').filter(|digest| !digest.is_empty()) {
        let digest: Digest = digest.parse().context(LEFT_OUT)?;
        if layout.size(&digest).is_none() {
            missing.push(digest.to_string());
        }
    }
    let (count, shown) = (missing.len(), missing.len().min(SHOWN));
    let mut list = missing[..shown].join(", ");
    if count > shown {
        list += &format!(" and {} more", count - shown);
    }
    match count {
        0 => Ok(()),
        _ => Err(anyhow!("blobs that it leaves out are not here: {list}"))
            .hint(|| "load the image first that it is based on, or img-save without --have".into()),
    }
}

/// Returns whether a member is a document by its name.
fn is_document(name: &str) -> bool {
    match name.split_once('/') {
        None => {
            // crane and kaniko call a config by its digest.
            matches!(name, "oci-layout" | "repositories")
                || name.ends_with(".json")
                || name.parse::<Digest>().is_ok()
        }
        Some((id, "json")) => docker::is_id(id),
        Some(_) => false,
    }
}

/// Returns a descriptor without the names that it had in its archive.
fn bare(desc: &Descriptor) -> Descriptor {
    let mut desc = desc.clone();
    let mut annotations = desc.annotations().clone().unwrap_or_default();
    annotations.remove(CONTAINERD_NAME);
    annotations.remove(REF_NAME);
    desc.set_annotations(Some(annotations).filter(|annotations| !annotations.is_empty()));
    desc
}

/// Returns a path in its one plain form, or nothing if it leads out of the archive.
pub(super) fn plain(path: &Path) -> Option<String> {
    let mut parts: Vec<&str> = Vec::new();
    for component in path.components() {
        match component {
            Component::Normal(part) => parts.push(part.to_str()?),
            Component::CurDir => {}
            Component::ParentDir => {
                parts.pop()?;
            }
            Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    Some(parts.join("/"))
}

/// Writes out all data of a member.
pub(super) fn copy(member: &mut Member, to: &mut impl Write) -> Result<()> {
    loop {
        match member.data()? {
            [] => return Ok(()),
            piece => to.write_all(piece)?,
        }
    }
}

#[cfg(test)]
mod tests;
