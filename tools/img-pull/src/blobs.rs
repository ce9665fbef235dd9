//! The blobs of an image, several at a time.
//!
//! A worker reads a blob from the registry, hashes it and writes it, a piece at
//! a time, so memory does not grow with the image. What stays behind when a
//! worker fails or dies is gone on with by the next pull.

use std::collections::BTreeMap;
use std::io::Write;

use anyhow::{Context, Result, anyhow};
use common::cli::progress::Progress;
use common::digest::Digest;
use common::error::Hint;
use common::layout::{BlobWriter, Writing};
use common::registry::{Others, Registry, blob, parallel};

/// The piece that is read, hashed and written: it stays in the processor's cache.
const PIECE: usize = 128 << 10;

/// What is known of a blob beside its digest.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// How many bytes it has.
    pub size: u64,
    /// Its descriptor says that others have it.
    pub foreign: bool,
    /// It is a config.
    pub config: bool,
}

/// Fetches the blobs that are not here.
pub fn fetch(
    writing: &Writing,
    registry: &Registry,
    path: &str,
    blobs: BTreeMap<Digest, Wanted>,
    progress: &Progress,
) -> Result<()> {
    let blobs = blobs.into_iter().map(|(digest, wanted)| (wanted.size, (digest, wanted)));
    parallel(blobs.collect(), |(digest, wanted), others| {
        let work = Work { writing, registry, path, progress, others };
        work.fetch(&digest, &wanted, &mut vec![0; PIECE])
    })
}

struct Work<'a> {
    writing: &'a Writing<'a>,
    registry: &'a Registry<'a>,
    path: &'a str,
    progress: &'a Progress,
    others: &'a Others,
}

impl Work<'_> {
    fn fetch(&self, digest: &Digest, wanted: &Wanted, buffer: &mut [u8]) -> Result<()> {
        loop {
            let Some(mut out) = self.writing.blob(digest, wanted.size)? else {
                self.progress.exists(digest, wanted.size);
                return Ok(());
            };
            let kept = out.offset();
            self.progress.advance(digest, kept, kept, wanted.size);
            match self.copy(digest, wanted, &mut out, buffer) {
                Ok(true) => {}
                given_up => {
                    if out.offset() == 0 {
                        out.discard(); // there is nothing to go on with
                    }
                    return given_up.map(drop);
                }
            }
            match out.finish() {
                Ok(()) => {
                    self.progress.finished(digest, wanted.size);
                    return Ok(());
                }
                // What an earlier run left may have been what was wrong; finish() removed it.
                Err(_) if kept > 0 => self.progress.withdraw(wanted.size),
                Err(err) => return Err(err),
            }
        }
    }
    /// Copies what is left of a blob; returns whether that is all, and not given up for another worker's error.
    fn copy(
        &self,
        digest: &Digest,
        wanted: &Wanted,
        out: &mut BlobWriter,
        buffer: &mut [u8],
    ) -> Result<bool> {
        let mut blob = self.registry.blob(self.path, digest, wanted.size, out.offset());
        loop {
            let n = match blob.next(buffer) {
                Ok(0) => return Ok(true),
                Ok(n) => n,
                Err(err) if wanted.foreign && blob::is_missing(&err) => {
                    return Err(anyhow!("blob {digest}: not in the registry"))
                        .hint(|| "it is a foreign layer, and its URLs are not followed".into());
                }
                Err(err) => return Err(err),
            };
            if self.others.failed() {
                return Ok(false);
            }
            out.write_all(&buffer[..n]).with_context(|| format!("blob {digest}"))?;
            self.progress.advance(digest, n as u64, out.offset(), wanted.size);
        }
    }
}
