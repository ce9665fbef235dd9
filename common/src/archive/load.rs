//! Reading an archive into a layout.
//!
//! Every blob is verified, and nothing is named here: the caller names images that are whole.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::OsStr;
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path};

use anyhow::{Context, Result, bail, ensure};
use oci_spec::image::{Descriptor, ImageManifestBuilder, MediaType};

use super::{CONTAINERD_NAME, Packing, unpacked};
use crate::digest::Digest;
use crate::image::{self, Document, INDEX_DEPTH, REF_NAME};
use crate::layer::{self, Member, Type};
use crate::layout::{Index, Layout, Missing, Writing};

/// The most bytes of documents outside `blobs/`, and of names, that are kept while an archive is read.
const DOCUMENTS: u64 = 16 << 20;
/// How many symlinks lead from a layer's name to the layer.
const LINKS: usize = 8;

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
pub fn load(archive: impl Read, into: &Writing) -> Result<Vec<Loaded>> {
    let mut contents = Contents::default();
    layer::members(unpacked(archive)?, |mut member| {
        let path = Path::new(OsStr::from_bytes(&member.name)).to_owned();
        let Some(name) = plain(&path) else { bail!("{path:?}: a path that leaves the archive") };
        match member.kind {
            Type::File => {
                contents.take(&name, &mut member, into).with_context(|| format!("{name:?}"))
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
                contents.keep(&name, target.len() as u64)?;
                contents.links.insert(name, target);
                Ok(())
            }
            Type::Directory => Ok(()),
            Type::Special => bail!("{name:?}: neither a file, a directory nor a link"),
        }
    })?;
    let loaded = contents.images(into)?;
    ensure!(!loaded.is_empty(), "an archive without images");
    Ok(loaded)
}

/// What an archive holds beside its blobs.
#[derive(Default)]
struct Contents {
    /// Small files, whole.
    documents: HashMap<String, Vec<u8>>,
    /// How many bytes they have together.
    size: u64,
    /// Layers that lie outside `blobs/`.
    layers: HashMap<String, (Digest, u64)>,
    /// Links, and where they lead.
    links: BTreeMap<String, String>,
}

/// An entry of Docker's manifest.json.
#[derive(serde::Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerImage {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

impl Contents {
    /// Takes a file in.
    fn take(&mut self, name: &str, file: &mut Member, into: &Writing) -> Result<()> {
        if let Some(blob) = name.strip_prefix("blobs/") {
            let digest: Digest = blob.replacen('/', ":", 1).parse()?;
            if let Some(mut writer) = into.blob(&digest, file.size)? {
                writer.restart()?;
                if let Err(err) = copy(file, &mut writer) {
                    writer.discard(); // an archive cannot be asked for the rest
                    return Err(err);
                }
                writer.finish()?;
            }
            return Ok(());
        }
        if name.ends_with(".tar") || name.ends_with(".tar.gz") {
            self.keep(name, 0)?;
            let mut blob = into.new_blob()?;
            copy(file, &mut blob)?;
            self.layers.insert(name.into(), blob.finish()?);
            return Ok(());
        }
        // Docker's <id>/json and <id>/VERSION, and what nobody knows, are not needed.
        if name == "oci-layout" || (name.ends_with(".json") && !name.contains('/')) {
            self.keep(name, file.size)?;
            let mut bytes = Vec::new();
            copy(file, &mut bytes)?;
            self.documents.insert(name.into(), bytes);
        }
        Ok(())
    }

    /// Makes sure that the archive has one member of this name, and that there is room for `size` more bytes.
    ///
    /// Of two, some readers take the first and some the last.
    fn keep(&mut self, name: &str, size: u64) -> Result<()> {
        let there = self.documents.contains_key(name)
            || self.layers.contains_key(name)
            || self.links.contains_key(name);
        ensure!(!there, "{name:?}: it is there twice");
        // What a map takes for an entry is some 100 bytes.
        self.size = self.size.saturating_add(size).saturating_add(name.len() as u64 + 100);
        let most = DOCUMENTS >> 20;
        ensure!(self.size <= DOCUMENTS, "more than {most} MiB of documents and links");
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
        bail!("neither an OCI nor a Docker archive: it has no index.json and no manifest.json")
    }

    fn oci(&self, index: &[u8], into: &Writing) -> Result<Vec<Loaded>> {
        let index = Index::parse(index)?;
        let mut loaded: Vec<Loaded> = Vec::new();
        let mut seen = HashSet::new();
        for entry in index.images() {
            let desc = entry.descriptor()?;
            check_whole(into.layout(), &desc, 0, &mut seen)?;
            let annotations = desc.annotations().clone().unwrap_or_default();
            let name =
                annotations.get(CONTAINERD_NAME).or_else(|| annotations.get(REF_NAME)).cloned();
            match loaded.iter_mut().find(|image| image.desc.digest() == desc.digest()) {
                Some(image) => image.names.extend(name),
                None => {
                    loaded.push(Loaded { desc: bare(&desc), names: name.into_iter().collect() })
                }
            }
        }
        Ok(loaded)
    }

    fn docker(&self, manifest: &[u8], into: &Writing) -> Result<Vec<Loaded>> {
        let images: Vec<DockerImage> =
            serde_json::from_slice(manifest).context("not a Docker archive's manifest")?;
        let mut loaded = Vec::new();
        for docker in images {
            let config = match self.documents.get(&docker.config) {
                Some(config) => config.clone(),
                None => self
                    .blob(&docker.config, into)
                    .with_context(|| format!("{:?}", docker.config))?,
            };
            let diff_ids = image::diff_ids(&image::parse_config(&config).context(docker.config)?)?;
            ensure!(
                diff_ids.len() == docker.layers.len(),
                "{} layers, but {} diff IDs",
                docker.layers.len(),
                diff_ids.len()
            );
            let mut layers = Vec::new();
            for (name, diff_id) in docker.layers.iter().zip(diff_ids) {
                let (digest, size) = self.layer(name, into).with_context(|| format!("{name:?}"))?;
                let desc = image::descriptor(MediaType::ImageLayer, &digest, size);
                let mut start = Vec::new();
                into.layout().open_blob(&desc)?.take(10).read_to_end(&mut start)?;
                let media_type = Packing::of(&start).layer_type().unwrap_or(MediaType::ImageLayer);
                let is_plain = media_type == MediaType::ImageLayer;
                // What is packed is held to its diff ID when it is unpacked.
                ensure!(
                    !is_plain || digest == diff_id,
                    "{name:?}: corrupt: it hashes to {digest}, not {diff_id}"
                );
                layers.push(image::descriptor(media_type, &digest, size));
            }
            let digest = into.put(&config)?;
            let config = image::descriptor(MediaType::ImageConfig, &digest, config.len() as u64);
            let manifest = ImageManifestBuilder::default()
                .schema_version(2u32)
                .media_type(MediaType::ImageManifest)
                .config(config)
                .layers(layers)
                .build()?;
            let bytes = serde_json::to_vec(&manifest)?;
            let desc =
                image::descriptor(MediaType::ImageManifest, &into.put(&bytes)?, bytes.len() as u64);
            loaded.push(Loaded { desc, names: docker.repo_tags.unwrap_or_default() });
        }
        Ok(loaded)
    }

    /// Returns the layer of this name, through links.
    fn layer(&self, name: &str, into: &Writing) -> Result<(Digest, u64)> {
        let mut name = name;
        for _ in 0..LINKS {
            if let Some(found) = self.layers.get(name) {
                return Ok(*found);
            }
            match self.links.get(name) {
                Some(target) => name = target,
                None => break,
            }
        }
        let digest: Digest =
            name.strip_prefix("blobs/").unwrap_or(name).replacen('/', ":", 1).parse()?;
        let size = into.layout().size(&digest).ok_or(Missing(digest))?;
        Ok((digest, size))
    }

    /// Reads a document that lies in `blobs/`.
    fn blob(&self, name: &str, into: &Writing) -> Result<Vec<u8>> {
        let (digest, size) = self.layer(name, into)?;
        into.layout().read(&image::descriptor(MediaType::ImageConfig, &digest, size))
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
        ensure!(layout.has(&digest, desc.size()), Missing(digest));
        Ok(())
    };
    if !seen.insert(image::digest(desc)?) {
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
fn plain(path: &Path) -> Option<String> {
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
fn copy(member: &mut Member, to: &mut impl Write) -> Result<()> {
    loop {
        match member.data()? {
            [] => return Ok(()),
            piece => to.write_all(piece)?,
        }
    }
}

#[cfg(test)]
mod tests;
