//! One image on its way to a registry.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use anyhow::Result;
use common::cli::progress::Progress;
use common::digest::Digest;
use common::reference::Reference;
use common::registry::upload::{Came, Source, Watch};
use common::registry::{Others, Registry, parallel};

use crate::image::Image;
use crate::near::Near;

/// How an image is pushed.
pub struct Push<'a> {
    /// The registry.
    pub registry: &'a Registry<'a>,
    /// The name there.
    pub dest: &'a Reference,
    /// Which other repositories may have a blob.
    pub near: &'a Near<'a>,
    /// Where progress is shown.
    pub progress: &'a Progress,
}

impl Push<'_> {
    /// Pushes the blobs, then the documents; the last one of these gets the name.
    pub fn push(&self, image: &Image) -> Result<()> {
        self.progress.begin(self.dest, image.blobs.values().copied());
        let blobs = image.blobs.iter().map(|(digest, size)| (*size, (digest, *size))).collect();
        parallel(blobs, |(digest, size), others| self.blob(image, digest, size, others))?;
        let path = self.dest.path();
        let last = image.documents.len().saturating_sub(1);
        for (n, document) in image.documents.iter().enumerate() {
            let digest = document.digest.to_string();
            let name = match self.dest.tag() {
                Some(tag) if n == last => tag,
                _ => digest.as_str(),
            };
            let (media_type, bytes) = (&document.media_type, &document.bytes);
            self.registry.push_manifest(path, name, media_type, bytes, &document.digest)?;
        }
        self.progress.done(self.dest, &image.digest()?);
        Ok(())
    }

    fn blob(&self, image: &Image, digest: &Digest, size: u64, others: &Others) -> Result<()> {
        let path = self.dest.path();
        let file = image.open(digest, size)?;
        if self.registry.has_blob(path, digest, size)? {
            self.progress.exists(digest, size);
            return Ok(());
        }
        let source = Source { digest: *digest, size, file: &file };
        let watch =
            Watched { progress: self.progress, digest, size, others, sent: AtomicU64::new(0) };
        match self.registry.push_blob(path, &source, self.near.repository(digest), &watch)? {
            Came::Sent => self.progress.finished(digest, size),
            Came::Mounted => self.progress.became(digest, size, "mounted"),
        }
        Ok(())
    }
}

/// Shows how far a blob is.
struct Watched<'a> {
    progress: &'a Progress,
    digest: &'a Digest,
    size: u64,
    others: &'a Others,
    sent: AtomicU64,
}

impl Watch for Watched<'_> {
    fn sent(&self, bytes: u64) {
        let sent = self.sent.fetch_add(bytes, Relaxed) + bytes;
        self.progress.advance(self.digest, bytes, sent, self.size);
    }

    fn withdrawn(&self, bytes: u64) {
        self.sent.fetch_sub(bytes, Relaxed);
        self.progress.withdraw(bytes);
    }

    fn goes_on(&self) -> bool {
        !self.others.failed()
    }
}
