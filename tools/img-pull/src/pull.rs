//! One image: from its name to all of its blobs, and then to its name here.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, bail, ensure};
use common::cli::progress::Progress;
use common::digest::Digest;
use common::error::{Hint, find};
use common::image::{self, Document, INDEX_DEPTH};
use common::layout::{Layout, Writing, chosen_from, index_of, wrong_platform};
use common::platform::Platform;
use common::reference::Reference;
use common::registry::{NotFound, Registry};
use common::store::Store;
use oci_spec::image::Descriptor;

use crate::{blobs, near};

/// The most documents that one index leads to, and their bytes: they are held until all is here.
const DOCUMENTS: usize = 1000;
const DOCUMENT_BYTES: u64 = 64 << 20;

/// How images are pulled.
pub struct Pull<'a> {
    /// Where they go.
    pub layout: &'a Layout,
    /// The store that it is the layout of, if it is.
    pub store: Option<&'a Store>,
    /// Where progress is shown.
    pub progress: &'a Progress,
    /// This machine's platform.
    pub host: Platform,
    /// The platform that was asked for.
    pub platform: Option<Platform>,
    /// All platforms were asked for.
    pub all_platforms: bool,
}

/// What an image consists of.
#[derive(Default)]
struct Parts {
    /// Indexes and manifests.
    documents: Vec<(Digest, Vec<u8>)>,
    bytes: u64,
    /// Configs and layers, with their sizes.
    blobs: BTreeMap<Digest, blobs::Wanted>,
    seen: BTreeSet<Digest>,
}

impl Pull<'_> {
    /// Pulls an image, and returns its name here and the digest of what it names.
    pub fn pull(&self, registry: &Registry, name: &Reference) -> Result<(Reference, Digest)> {
        self.pull_named(registry, name).with_context(|| name.to_string())
    }

    fn pull_named(&self, registry: &Registry, name: &Reference) -> Result<(Reference, Digest)> {
        let writing = self.layout.writing()?;
        let target = match name.digest().and_then(|digest| self.here(digest)) {
            Some(target) => target,
            None => self.fetch(&writing, registry, name)?,
        };
        let digest = image::digest(&target)?;
        // A name without a tag is the digest's; the one of a manifest, even if an index led to it.
        let name = match name.tag() {
            Some(_) => name.clone(),
            None => format!("{}@{digest}", name.repository()).parse()?,
        };
        writing.tag(&name, &target, None)?;
        if let Some(store) = self.store {
            store.mark_used(&digest);
        }
        self.progress.done(&name, &digest);
        Ok((name, digest))
    }

    fn wanted(&self) -> &Platform {
        self.platform.as_ref().unwrap_or(&self.host)
    }

    /// Returns what this digest leads to, if all of it is here.
    fn here(&self, digest: &Digest) -> Option<Descriptor> {
        let desc = self.layout.find_digest(digest).ok()?;
        self.complete(&desc, INDEX_DEPTH, &mut BTreeSet::new())
    }

    /// `seen` holds what was begun with: an index may lead to one thing many times.
    fn complete(
        &self,
        desc: &Descriptor,
        depth: usize,
        seen: &mut BTreeSet<Digest>,
    ) -> Option<Descriptor> {
        if !seen.insert(image::digest(desc).ok()?) {
            return Some(plain(desc));
        }
        let bytes = self.layout.read(desc).ok()?;
        match image::parse(&bytes, &image::media_type(desc)).ok()? {
            Document::Manifest(manifest) => {
                let mut blobs = manifest.layers().iter().chain([manifest.config()]);
                let here = |blob: &Descriptor| {
                    let digest = image::digest(blob);
                    digest.and_then(|digest| self.layout.has(&digest, blob.size())).unwrap_or(false)
                };
                (blobs.all(here) && self.suits(desc).is_ok()).then(|| plain(desc))
            }
            Document::Index(_) if depth == 0 => None,
            Document::Index(index) if self.all_platforms => {
                let all =
                    index.manifests().iter().all(|it| self.complete(it, depth - 1, seen).is_some());
                all.then(|| plain(desc))
            }
            Document::Index(index) => {
                let chosen = image::select(&index, self.wanted())?;
                let target = self.complete(chosen, depth - 1, seen)?;
                Some(chosen_from(target, &image::digest(desc).ok()?))
            }
        }
    }

    fn fetch(
        &self,
        writing: &Writing,
        registry: &Registry,
        name: &Reference,
    ) -> Result<Descriptor> {
        let path = name.path();
        let found = match name.digest() {
            Some(digest) => registry.manifest_at(path, digest),
            None => registry.manifest(path, name.tag().unwrap_or("latest")),
        };
        let (desc, bytes) = match (found, name.tag()) {
            (Ok(found), _) => found,
            (Err(err), Some(tag)) if name.digest().is_none() => {
                let there = find::<NotFound>(&err).is_some_and(|it| !it.unknown);
                return match there.then(|| near::tags(registry, path, tag)).flatten() {
                    Some(near) => Err(err).hint(|| near),
                    None => Err(err),
                };
            }
            (Err(err), _) => return Err(err),
        };
        let mut parts = Parts::default();
        let target = self.collect(registry, path, &desc, bytes, &mut parts, INDEX_DEPTH)?;
        self.progress.begin(name, parts.blobs.values().map(|blob| blob.size));
        // Chosen by its platform, it is for the right one. Else its config says what it is for.
        let chosen = target.digest() != desc.digest() && target.platform().is_some();
        let chosen = chosen || self.all_platforms;
        if self.platform.is_some() && !chosen {
            let (configs, layers) = parts.blobs.into_iter().partition(|(_, blob)| blob.config);
            blobs::fetch(writing, registry, path, configs, self.progress)?;
            parts.blobs = layers;
        }
        parts.put(writing)?;
        if !chosen {
            self.suits(&target)?;
        }
        blobs::fetch(writing, registry, path, parts.blobs, self.progress)?;
        if let Some(found) = self.built_for(&target).filter(|_| !chosen)
            && self.wanted().rank(&found).is_none()
        {
            self.progress
                .notice(&format!("{name}: is for {found}, and this machine is {}", self.host));
        }
        Ok(target)
    }

    /// Adds what a document leads to, and returns the descriptor of what is wanted of it.
    fn collect(
        &self,
        registry: &Registry,
        path: &str,
        desc: &Descriptor,
        bytes: Vec<u8>,
        parts: &mut Parts,
        depth: usize,
    ) -> Result<Descriptor> {
        let digest = image::digest(desc)?;
        let document = image::parse(&bytes, &image::media_type(desc))
            .with_context(|| format!("manifest {digest}"))?;
        parts.bytes += bytes.len() as u64;
        parts.documents.push((digest, bytes));
        parts.seen.insert(digest);
        ensure!(parts.bytes <= DOCUMENT_BYTES, "more than {DOCUMENT_BYTES} bytes of manifests");
        ensure!(parts.documents.len() <= DOCUMENTS, "an index of more than {DOCUMENTS} manifests");
        let index = match document {
            Document::Manifest(manifest) => {
                parts.add(manifest.config(), true)?;
                for layer in manifest.layers() {
                    parts.add(layer, false)?;
                }
                return Ok(plain(desc));
            }
            Document::Index(_) if depth == 0 => bail!("indexes nest deeper than {INDEX_DEPTH}"),
            Document::Index(index) => index,
        };
        if self.all_platforms {
            for member in index.manifests() {
                image::ensure_known(member)?;
                if !parts.seen.contains(&image::digest(member)?) {
                    let bytes = self.member(registry, path, member)?;
                    self.collect(registry, path, member, bytes, parts, depth - 1)?;
                }
            }
            return Ok(plain(desc));
        }
        let Some(chosen) = image::select(&index, self.wanted()) else {
            return Err(wrong_platform(&image::platforms(&index), self.wanted()));
        };
        let bytes = self.member(registry, path, chosen)?;
        let target = self.collect(registry, path, chosen, bytes, parts, depth - 1)?;
        Ok(chosen_from(target, &digest))
    }

    /// Returns the bytes of a member of an index.
    fn member(&self, registry: &Registry, path: &str, desc: &Descriptor) -> Result<Vec<u8>> {
        if let Ok(bytes) = self.layout.read(desc) {
            return Ok(bytes);
        }
        let (found, bytes) = registry.manifest_at(path, &image::digest(desc)?)?;
        ensure!(
            found.size() == desc.size(),
            "manifest {}: has {} bytes, its index says {}",
            desc.digest(),
            found.size(),
            desc.size()
        );
        Ok(bytes)
    }

    /// Fails if the image is not for the platform that was asked for.
    fn suits(&self, desc: &Descriptor) -> Result<()> {
        match (&self.platform, self.built_for(desc)) {
            (Some(wanted), Some(found)) if wanted.rank(&found).is_none() => {
                Err(wrong_platform(&[found], wanted))
            }
            _ => Ok(()),
        }
    }

    /// Returns the platform that the config of a manifest names, if it is an image's and here.
    fn built_for(&self, desc: &Descriptor) -> Option<Platform> {
        let bytes = self.layout.read(desc).ok()?;
        let Ok(Document::Manifest(manifest)) = image::parse(&bytes, &image::media_type(desc))
        else {
            return None;
        };
        let config = image::parse_config(&self.layout.read(manifest.config()).ok()?).ok()?;
        let (os, architecture) = (config.os().to_string(), config.architecture().to_string());
        let variant = config.variant().as_deref();
        (!os.is_empty()).then(|| Platform::new(&os, &architecture, variant))
    }
}

impl Parts {
    fn add(&mut self, desc: &Descriptor, config: bool) -> Result<()> {
        let wanted = blobs::Wanted {
            size: desc.size(),
            foreign: desc.urls().as_ref().is_some_and(|urls| !urls.is_empty()),
            config,
        };
        let digest = image::digest(desc)?;
        if let Some(other) = self.blobs.insert(digest, wanted) {
            ensure!(other.size == desc.size(), "blob {digest}: has two sizes in one image");
        }
        Ok(())
    }

    /// Writes the documents.
    fn put(&self, writing: &Writing) -> Result<()> {
        self.documents.iter().try_for_each(|(digest, bytes)| writing.put_as(digest, bytes))
    }
}

/// Returns a descriptor without what others wrote beside it.
fn plain(desc: &Descriptor) -> Descriptor {
    let mut plain = Descriptor::new(desc.media_type().clone(), desc.size(), desc.digest().clone());
    plain.set_platform(desc.platform().clone());
    match index_of(desc) {
        Some(index) => chosen_from(plain, &index),
        None => plain,
    }
}
