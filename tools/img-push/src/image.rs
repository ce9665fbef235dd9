//! What an image consists of, in the order in which a registry takes it.

use std::collections::BTreeMap;
use std::fs::File;

use anyhow::{Context, Result, bail, ensure};
use common::digest::Digest;
use common::image::{self, Document, INDEX_DEPTH};
use common::layout::{Layout, Missing};
use oci_spec::image::Descriptor;

/// The most documents that one index leads to, and their bytes.
const DOCUMENTS: usize = 1000;
const DOCUMENT_BYTES: u64 = 64 << 20;

/// A manifest or an index.
pub struct Doc {
    /// Its digest.
    pub digest: Digest,
    /// Its media type.
    pub media_type: String,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

/// An image, all of which is here.
pub struct Image {
    /// Manifests and indexes; each comes after all that it names.
    pub documents: Vec<Doc>,
    /// The sizes of configs and layers.
    pub blobs: BTreeMap<Digest, u64>,
    /// Where they are; the first that has one is asked.
    pub layouts: Vec<Layout>,
}

impl Image {
    /// Reads what `desc` leads to.
    pub fn read(layout: &Layout, desc: &Descriptor) -> Result<Image> {
        let mut image =
            Image { documents: Vec::new(), blobs: BTreeMap::new(), layouts: vec![layout.clone()] };
        image.add(layout, desc, INDEX_DEPTH, &mut 0)?;
        Ok(image)
    }

    /// Returns the digest of the whole.
    pub fn digest(&self) -> Result<Digest> {
        Ok(self.documents.last().context("an image without a manifest")?.digest)
    }

    /// Opens a blob.
    pub fn open(&self, digest: &Digest, size: u64) -> Result<File> {
        for layout in &self.layouts {
            if layout.has(digest, size)? {
                return layout.open_blob(&image::descriptor("".into(), digest, size));
            }
        }
        Err(Missing(*digest).into())
    }

    fn add(
        &mut self,
        layout: &Layout,
        desc: &Descriptor,
        depth: usize,
        bytes_seen: &mut u64,
    ) -> Result<()> {
        let digest = image::digest(desc)?;
        if self.documents.iter().any(|document| document.digest == digest) {
            return Ok(());
        }
        let bytes = layout.read(desc)?;
        *bytes_seen += bytes.len() as u64;
        ensure!(*bytes_seen <= DOCUMENT_BYTES, "more than {DOCUMENT_BYTES} bytes of manifests");
        ensure!(self.documents.len() < DOCUMENTS, "an index of more than {DOCUMENTS} manifests");
        let media_type = image::media_type(desc);
        let document =
            image::parse(&bytes, &media_type).with_context(|| format!("manifest {digest}"))?;
        match document {
            Document::Manifest(manifest) => {
                for blob in manifest.layers().iter().chain([manifest.config()]) {
                    self.add_blob(layout, blob)?;
                }
            }
            Document::Index(_) if depth == 0 => bail!("indexes nest deeper than {INDEX_DEPTH}"),
            Document::Index(index) => {
                for member in index.manifests() {
                    image::ensure_known(member)?;
                    self.add(layout, member, depth - 1, bytes_seen)?;
                }
            }
        }
        self.documents.push(Doc { digest, media_type, bytes });
        Ok(())
    }

    fn add_blob(&mut self, layout: &Layout, blob: &Descriptor) -> Result<()> {
        let (digest, size) = (image::digest(blob)?, blob.size());
        let urls = blob.urls().as_ref().is_some_and(|urls| !urls.is_empty());
        if urls && image::may_be_elsewhere(blob) {
            return Ok(());
        }
        if let Some(other) = self.blobs.insert(digest, size) {
            ensure!(other == size, "blob {digest}: has two sizes in one image");
            return Ok(());
        }
        layout.open_blob(blob).map(drop)
    }
}
