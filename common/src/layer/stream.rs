//! The bytes of a tar on their way from the blob to the thread that unpacks.
//!
//! ```text
//! read, hash the blob  --- full -->  inflate  --- full -->  hash the tar, parse, create files
//!                      <-- empty --           <-- empty --
//! ```
//!
//! The buffers are few and go round, so memory does not grow with the layer,
//! and a large file is written straight from them.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, Scope};

use anyhow::{Context, Result, bail, ensure};

use super::inflate::{Blob, Inflater};
use crate::digest::{Digest, Hasher};

/// The unit of a tar.
pub const BLOCK: usize = 512;

/// A buffer's size. A multiple of [`BLOCK`], so that no header straddles two.
const BUFFER: usize = 256 << 10;

/// How many buffers go round between two threads.
const RING: usize = 6;

/// A layer with less than this is done sooner than another thread starts.
const SMALL: u64 = 64 << 10;

/// Some bytes: all that fit, unless they are the last.
pub(super) struct Buffer {
    pub(super) bytes: Box<[u8]>,
    pub(super) len: usize,
}

impl Buffer {
    pub(super) fn new(size: usize) -> Buffer {
        Buffer { bytes: vec![0; size].into(), len: 0 }
    }

    /// Returns what stands where a buffer was taken from.
    pub(super) fn empty() -> Buffer {
        Buffer { bytes: [].into(), len: 0 }
    }
}

/// Where buffers come from. An empty one ends the bytes.
pub(super) trait Source {
    /// Takes a used buffer, or one without room in its place, and gives the next one.
    fn next(&mut self, used: Buffer) -> Result<Buffer>;

    /// Has the kernel put up to `count` of the next bytes at `at` in `to`, whole blocks; returns how many, none if it cannot.
    fn transfer(&mut self, _to: &File, _at: u64, _count: u64) -> Result<u64> {
        Ok(0)
    }

    /// Passes over up to `count` of the next bytes, whole blocks; returns how many, none if they must be read.
    fn pass(&mut self, _count: u64) -> Result<u64> {
        Ok(0)
    }
}

impl<S: Source> Source for Inflater<S> {
    fn next(&mut self, mut used: Buffer) -> Result<Buffer> {
        used.len = self.fill(&mut used.bytes)?;
        Ok(used)
    }
}

/// A tar as it comes, which nobody packed.
pub(super) struct Reader<R>(pub(super) R);

impl<R: Read> Source for Reader<R> {
    /// Gives what is there, in whole blocks: who writes to a pipe may be waiting for an answer.
    fn next(&mut self, mut used: Buffer) -> Result<Buffer> {
        used.len = 0;
        while used.len == 0 || !used.len.is_multiple_of(BLOCK) {
            match self.0.read(&mut used.bytes[used.len..]) {
                Ok(0) => break,
                Ok(n) => used.len += n,
                Err(err) if err.kind() == ErrorKind::Interrupted => {}
                Err(err) => return Err(err.into()),
            }
        }
        Ok(used)
    }
}

struct Ring {
    full: Receiver<Result<Buffer>>,
    empty: SyncSender<Buffer>,
    ended: bool,
}

impl Source for Ring {
    fn next(&mut self, used: Buffer) -> Result<Buffer> {
        if self.ended {
            return Ok(Buffer { len: 0, ..used });
        }
        // The other side is gone only when all is read or it failed, and `full` tells which.
        let _ = self.empty.send(used);
        let Ok(next) = self.full.recv() else { bail!("the thread that was to read on has died") };
        self.ended = !matches!(&next, Ok(buffer) if buffer.len > 0);
        next
    }
}

/// Lets `source` work ahead, in a thread of its own.
fn ahead<'scope>(
    scope: &'scope Scope<'scope, '_>,
    name: &str,
    mut source: impl Source + Send + 'scope,
) -> Result<Ring> {
    let (to_full, full) = sync_channel(RING);
    let (empty, from_empty) = sync_channel::<Buffer>(RING);
    thread::Builder::new().name(name.into()).spawn_scoped(scope, move || {
        let mut new = RING - 1; // one is with whoever takes them
        loop {
            let buffer = match from_empty.try_recv() {
                Ok(buffer) => buffer,
                Err(_) if new > 0 => {
                    new -= 1;
                    Buffer::new(BUFFER)
                }
                Err(_) => match from_empty.recv() {
                    Ok(buffer) => buffer,
                    Err(_) => return, // nobody takes them any more
                },
            };
            let next = source.next(buffer);
            let last = !matches!(&next, Ok(buffer) if buffer.len > 0);
            if to_full.send(next).is_err() || last {
                return;
            }
        }
    })?;
    Ok(Ring { full, empty, ended: false })
}

/// Runs `consume` on the tar in `blob`, which may have `limit` bytes; on three threads if that pays.
pub(super) fn run<R: Read + Send, T>(
    blob: Blob<R>,
    limit: u64,
    consume: impl FnOnce(Stream) -> Result<T>,
) -> Result<T> {
    let size = blob.size();
    if size < SMALL || thread::available_parallelism().map_or(1, usize::from) == 1 {
        let input = Buffer::new(size.clamp(16, BUFFER as u64) as usize);
        return consume(Stream::new(&mut Inflater::new(blob, input, limit)));
    }
    thread::scope(|scope| {
        let blob = ahead(scope, "read", blob)?;
        let mut tar = ahead(scope, "inflate", Inflater::new(blob, Buffer::new(BUFFER), limit))?;
        // Once this one is gone, the others find nobody who waits for them, and end.
        consume(Stream::new(&mut tar))
    })
}

/// A tar's bytes in order, hashed.
pub(super) struct Stream<'a> {
    source: &'a mut dyn Source,
    buffer: Buffer,
    pos: usize,
    /// Nothing, if nobody is going to ask for the digest.
    hasher: Option<Hasher>,
    count: u64,
    ended: bool,
}

impl<'a> Stream<'a> {
    fn new(source: &'a mut dyn Source) -> Self {
        Stream::of(source, Some(Hasher::sha256()))
    }

    fn of(source: &'a mut dyn Source, hasher: Option<Hasher>) -> Self {
        Stream { source, buffer: Buffer::new(BUFFER), pos: 0, hasher, count: 0, ended: false }
    }

    /// Reads a tar whose digest does not matter.
    pub(super) fn unhashed(source: &'a mut dyn Source) -> Self {
        Stream::of(source, None)
    }

    /// Uses the algorithm of `diff_id`, which is to be compared with.
    pub(super) fn hash_like(&mut self, diff_id: &Digest) {
        self.hasher = Some(diff_id.hasher());
    }

    /// Makes sure that there are bytes; false at the end.
    fn more(&mut self) -> Result<bool> {
        if self.pos == self.buffer.len && !self.ended {
            let used = std::mem::replace(&mut self.buffer, Buffer::empty());
            self.buffer = self.source.next(used)?;
            self.pos = 0;
            self.count += self.buffer.len as u64;
            if let Some(hasher) = &mut self.hasher {
                hasher.update(&self.buffer.bytes[..self.buffer.len]);
            }
            self.ended = self.buffer.len == 0;
        }
        Ok(self.pos < self.buffer.len)
    }

    /// Returns the next block, or nothing at the end.
    pub(super) fn block(&mut self) -> Result<Option<[u8; BLOCK]>> {
        if !self.more()? {
            return Ok(None);
        }
        // Every position is a multiple of BLOCK, and so is the length of every buffer but the last.
        let rest = &self.buffer.bytes[self.pos..self.buffer.len];
        let Some(block) = rest.first_chunk() else { bail!("truncated tar") };
        self.pos += BLOCK;
        Ok(Some(*block))
    }

    /// Returns up to `max` of the next bytes, at least one, which must be there.
    pub(super) fn bytes(&mut self, max: u64) -> Result<&[u8]> {
        ensure!(self.more()?, "truncated tar");
        let n = (self.buffer.len - self.pos).min(usize::try_from(max).unwrap_or(usize::MAX));
        self.pos += n;
        Ok(&self.buffer.bytes[self.pos - n..self.pos])
    }

    /// Passes over `count` bytes, which must be there.
    pub(super) fn skip(&mut self, mut count: u64) -> Result<()> {
        while count > 0 {
            if self.is_drained() {
                count -= self.source.pass(count - count % BLOCK as u64)?;
            }
            if count > 0 {
                count -= self.bytes(count)?.len() as u64;
            }
        }
        Ok(())
    }

    /// Has the kernel put up to `count` of the next bytes at `at` in `to`; returns how many, none if it cannot.
    pub(super) fn transfer(&mut self, to: &File, at: u64, count: u64) -> Result<u64> {
        match (self.is_drained(), count - count % BLOCK as u64) {
            (false, _) | (_, 0) => Ok(0),
            (true, whole) => self.source.transfer(to, at, whole),
        }
    }

    /// Returns whether what comes next is with the source, and nobody need see it.
    fn is_drained(&self) -> bool {
        self.pos == self.buffer.len && !self.ended && self.hasher.is_none()
    }

    /// Reads what is left, and returns the digest and number of all bytes.
    pub(super) fn finish(mut self) -> Result<(Digest, u64)> {
        while self.more()? {
            self.pos = self.buffer.len;
        }
        let hasher = self.hasher.context("a tar that was not hashed")?;
        Ok((hasher.finish(), self.count))
    }
}
