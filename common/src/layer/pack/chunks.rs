//! The bytes of a tar on their way from whoever packs to the blob.
//!
//! ```text
//! fill a chunk, hash the tar  -->  compress, on all cores  -->  in order: hash the blob, write
//!                             <--        used chunks       <--
//! ```
//!
//! The chunks are few and go round, so memory does not grow with the layer. A layer of less than a
//! chunk is done before a thread would have started.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::num::NonZeroU64;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use anyhow::{Context, Result, anyhow, bail};
use rustix::fs::Advice;

use super::compression::{Compression, Compressor};
use crate::digest::{Digest, Hasher};
use crate::layer::stream::Buffer;
use crate::layout::NewBlob;

/// The most bytes of the tar that are on their way; what they become takes as much again.
const FLYING: usize = 5 << 20;

/// How many bytes are written before the disk is to begin with them, so that less is left when they are synced.
const BATCH: u64 = 8 << 20;

/// Takes the bytes of a tar, and makes a blob of them.
pub(super) struct Chunks<'a> {
    blob: NewBlob<'a>,
    compression: Compression,
    chunk: Buffer,
    tar: Hasher,
    crc: crc32fast::Hasher,
    size: u64,
    way: Way,
    /// How many cores there are to work with.
    pub(super) cores: usize,
}

/// How chunks get to the blob.
enum Way {
    /// Nothing was written yet.
    Unknown(Output),
    /// Here and now.
    Here(Output, Option<Compressor>),
    /// By threads.
    Threads(Threads),
    /// Not any more: it has failed.
    Lost,
}

impl<'a> Chunks<'a> {
    pub(super) fn new(blob: NewBlob<'a>, compression: Compression) -> Result<Chunks<'a>> {
        // A blob that is the tar has its digest.
        let hasher = (!compression.is_none()).then(Hasher::sha256);
        let mut output = Output { file: BufWriter::new(blob.file()?), hasher, size: 0, begun: 0 };
        output.put(compression.start())?;
        Ok(Chunks {
            blob,
            compression,
            chunk: Buffer::new(compression.chunk()),
            tar: Hasher::sha256(),
            crc: crc32fast::Hasher::new(),
            size: 0,
            way: Way::Unknown(output),
            cores: thread::available_parallelism().map_or(1, usize::from),
        })
    }

    /// Adds bytes.
    pub(super) fn put(&mut self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            let room = self.room()?;
            let n = room.len().min(bytes.len());
            room[..n].copy_from_slice(&bytes[..n]);
            self.filled(n);
            bytes = &bytes[n..];
        }
        Ok(())
    }

    /// Adds zeros.
    pub(super) fn pad(&mut self, mut count: usize) -> Result<()> {
        while count > 0 {
            let room = self.room()?;
            let n = room.len().min(count);
            room[..n].fill(0);
            self.filled(n);
            count -= n;
        }
        Ok(())
    }

    /// Returns where the next bytes go; there is room for at least one.
    pub(super) fn room(&mut self) -> Result<&mut [u8]> {
        if self.chunk.len == self.chunk.bytes.len() {
            self.flush(false)?;
        }
        Ok(&mut self.chunk.bytes[self.chunk.len..])
    }

    /// Says that so many bytes of the room are filled.
    pub(super) fn filled(&mut self, count: usize) {
        self.chunk.len += count;
        self.size += count as u64;
    }

    /// Returns the digest and size of the blob, which has its name now, and of the tar.
    pub(super) fn finish(mut self) -> Result<((Digest, u64), (Digest, u64))> {
        self.flush(true)?;
        let mut output = match std::mem::replace(&mut self.way, Way::Lost) {
            Way::Unknown(output) | Way::Here(output, _) => output,
            Way::Threads(threads) => threads.finish()?,
            Way::Lost => bail!("the layer could not be written"),
        };
        output.put(&self.compression.end(self.crc.finalize(), self.size))?;
        output.file.flush().context("cannot write the layer")?;
        let diff_id = self.tar.finish();
        let digest = output.hasher.map_or(diff_id, Hasher::finish);
        let blob = self.blob.seal_as(digest, output.size).publish()?;
        Ok((blob, (diff_id, self.size)))
    }

    /// Hands the chunk on.
    fn flush(&mut self, last: bool) -> Result<()> {
        let bytes = &self.chunk.bytes[..self.chunk.len];
        if bytes.is_empty() {
            return Ok(());
        }
        self.tar.update(bytes);
        self.crc.update(bytes);
        self.way = match std::mem::replace(&mut self.way, Way::Lost) {
            Way::Unknown(output) if last || self.cores == 1 => {
                Way::Here(output, self.compressor()?)
            }
            Way::Unknown(output) => {
                Way::Threads(Threads::start(self.compression, self.cores, output)?)
            }
            way => way,
        };
        match &mut self.way {
            Way::Here(output, compressor) => {
                let mut out = Vec::new();
                if let Some(compressor) = compressor {
                    compressor.compress(bytes, &mut out)?;
                }
                output.chunk(self.compression, bytes, &out)?;
            }
            Way::Threads(threads) => {
                let chunk = std::mem::replace(&mut self.chunk, Buffer::empty());
                match threads.pass(chunk) {
                    Ok(next) => self.chunk = next,
                    Err(lost) => {
                        let Way::Threads(threads) = std::mem::replace(&mut self.way, Way::Lost)
                        else {
                            return Err(lost);
                        };
                        // It has ended too early, and says why.
                        return Err(threads.finish().err().unwrap_or(lost));
                    }
                }
            }
            Way::Unknown(_) | Way::Lost => bail!("the layer could not be written"),
        }
        self.chunk.len = 0;
        Ok(())
    }

    fn compressor(&self) -> Result<Option<Compressor>> {
        (!self.compression.is_none()).then(|| self.compression.compressor()).transpose()
    }
}

/// A chunk, and what becomes of it; nothing, if it is to be stored.
struct Piece {
    tar: Buffer,
    out: Vec<u8>,
}

type Done = Result<Piece>;

/// What compresses and writes beside us. There are none of its threads when it is gone.
struct Threads {
    /// Chunks to compress, and where to put each then. Nothing, once all have been.
    jobs: Option<SyncSender<(Piece, SyncSender<Done>)>>,
    /// Where each chunk will be, in their order.
    order: Option<SyncSender<Receiver<Done>>>,
    used: Receiver<Piece>,
    /// How many chunks may still be made.
    left: usize,
    size: usize,
    workers: Vec<JoinHandle<()>>,
    writer: Option<JoinHandle<Result<Output>>>,
    compress: bool,
}

impl Threads {
    fn start(compression: Compression, cores: usize, output: Output) -> Result<Threads> {
        let size = compression.chunk();
        let flying = FLYING / size;
        let (to_writer, order) = sync_channel(flying);
        let (to_us, used) = sync_channel(flying);
        let (jobs, for_workers) = sync_channel(flying);
        let writer = thread::Builder::new()
            .name("write".into())
            .spawn(move || write(output, compression, &order, &to_us))?;
        let mut threads = Threads {
            jobs: Some(jobs),
            order: Some(to_writer),
            used,
            left: flying - 1, // one is with whoever fills it
            size,
            workers: Vec::new(),
            writer: Some(writer),
            compress: !compression.is_none(),
        };
        if threads.compress {
            let for_workers = Arc::new(Mutex::new(for_workers));
            for _ in 0..cores.min(flying - 1) {
                let (jobs, compressor) = (for_workers.clone(), compression.compressor()?);
                let work = move || work(&jobs, compressor);
                threads.workers.push(thread::Builder::new().name("compress".into()).spawn(work)?);
            }
        }
        Ok(threads)
    }

    /// Takes a full chunk, and gives one to fill.
    fn pass(&mut self, chunk: Buffer) -> Result<Buffer> {
        let gone = || anyhow!("the thread that was to write has died");
        let next = match self.used.try_recv() {
            Ok(piece) => piece,
            Err(_) if self.left > 0 => {
                self.left -= 1;
                Piece { tar: Buffer::new(self.size), out: Vec::new() }
            }
            Err(_) => self.used.recv().map_err(|_| gone())?,
        };
        let piece = Piece { tar: chunk, out: next.out };
        let (done, place) = sync_channel(1);
        let order = self.order.as_ref().with_context(gone)?;
        order.send(place).map_err(|_| gone())?;
        match (&self.jobs, self.compress) {
            (Some(jobs), true) => jobs.send((piece, done)).map_err(|_| gone())?,
            _ => done.send(Ok(piece)).map_err(|_| gone())?,
        }
        Ok(next.tar)
    }

    /// Waits until all is written.
    fn finish(mut self) -> Result<Output> {
        self.end().context("nobody writes").flatten()
    }

    fn end(&mut self) -> Option<Result<Output>> {
        drop(self.jobs.take());
        drop(self.order.take());
        let died = |_| anyhow!("a thread that compresses has died");
        let result = self.writer.take().map(|writer| writer.join().map_err(died).flatten());
        for worker in self.workers.drain(..) {
            let _ = worker.join(); // the writer knows
        }
        result
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        // Whoever forks next must be alone.
        let _ = self.end();
    }
}

/// Compresses chunks until there are no more.
fn work(jobs: &Mutex<Receiver<(Piece, SyncSender<Done>)>>, mut compressor: Compressor) {
    loop {
        let job = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok((mut piece, done)) = job else { return };
        let compressed = compressor.compress(&piece.tar.bytes[..piece.tar.len], &mut piece.out);
        // Nobody waits for it if the writer has failed.
        let _ = done.send(compressed.map(|()| piece));
    }
}

/// Writes chunks in their order.
fn write(
    mut output: Output,
    compression: Compression,
    order: &Receiver<Receiver<Done>>,
    used: &SyncSender<Piece>,
) -> Result<Output> {
    while let Ok(place) = order.recv() {
        let mut piece = place.recv().context("a thread that compresses has died")??;
        output.chunk(compression, &piece.tar.bytes[..piece.tar.len], &piece.out)?;
        piece.tar.len = 0;
        let _ = used.send(piece); // it may be that no more are wanted
    }
    Ok(output)
}

/// The file of the blob.
struct Output {
    file: BufWriter<File>,
    /// Nothing, if somebody else hashes the same bytes.
    hasher: Option<Hasher>,
    size: u64,
    /// How much of it the disk was told to begin with.
    begun: u64,
}

impl Output {
    /// Writes a chunk of the tar, and what became of it; nothing, if it is to be stored.
    fn chunk(&mut self, compression: Compression, tar: &[u8], out: &[u8]) -> Result<()> {
        match out.is_empty() {
            true => compression.store(tar, |piece| self.put(piece)),
            false => self.put(out),
        }
    }

    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        if let Some(hasher) = &mut self.hasher {
            hasher.update(bytes);
        }
        self.size += bytes.len() as u64;
        self.file.write_all(bytes).context("cannot write the layer")?;
        if self.size - self.begun >= BATCH {
            // Of what is not yet on the disk nothing is forgotten, but writing begins.
            let len = NonZeroU64::new(self.size - self.begun);
            let _ = rustix::fs::fadvise(self.file.get_ref(), self.begun, len, Advice::DontNeed);
            self.begun = self.size;
        }
        Ok(())
    }
}
