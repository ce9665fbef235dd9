//! Blobs on their way from an archive into a layout.
//!
//! ```text
//! read the archive, copy a blob to its file  --- how far --->  read the file back, hash, sync, name
//! ```
//!
//! Whoever reads the archive does not wait for SHA-256 and the disk: others come after, a
//! blob each, and what they read back is still in memory. What gets a name is so what was
//! hashed, however it came there. A blob is verified before it gets its name.

use std::fs::File;
use std::io::{self, Write};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, Scope, ScopedJoinHandle};

use anyhow::{Context, Error, Result, bail};

use super::load::copy;
use crate::digest::Digest;
use crate::layer::Member;
use crate::layout::{BlobWriter, NewBlob};

/// A blob with less is hashed sooner than another thread wakes up.
const SMALL: u64 = 128 << 10;
/// How much is read back at once.
const BUFFER: usize = 256 << 10;
/// More threads than these are not faster than what they read from.
const THREADS: usize = 4;
/// How many blobs may wait to be hashed; each is an open file.
const WAITING: usize = 8;

/// A blob on its way in.
pub(super) enum Incoming<'a> {
    /// Of this digest.
    Blob(BlobWriter<'a>),
    /// Of a digest that will be known at its end, and of this name in the archive: a layer, most of them.
    Layer(String, NewBlob<'a>),
}

/// A blob that has arrived and that only its name in the archive leads to.
pub(super) type Arrived = (String, (Digest, u64));

impl Incoming<'_> {
    fn file(&self) -> Result<File> {
        match self {
            Incoming::Blob(blob) => blob.file(),
            Incoming::Layer(_, blob) => blob.file(),
        }
    }

    fn follow(&mut self, end: u64, buffer: &mut [u8]) -> Result<()> {
        match self {
            Incoming::Blob(blob) => blob.follow(end, buffer),
            Incoming::Layer(_, blob) => blob.follow(end, buffer),
        }
    }

    /// Gives it its name, if it is what it should be.
    fn finish(self) -> Result<Option<Arrived>> {
        match self {
            Incoming::Blob(blob) => blob.finish().map(|()| None),
            Incoming::Layer(name, blob) => {
                let found = blob.finish().with_context(|| format!("{name:?}"))?;
                Ok(Some((name, found)))
            }
        }
    }

    /// Leaves nothing of it: an archive cannot be asked for the rest.
    fn discard(self) {
        match self {
            Incoming::Blob(blob) => blob.discard(),
            Incoming::Layer(..) => {}
        }
    }
}

impl Write for Incoming<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Incoming::Blob(blob) => blob.write(bytes),
            Incoming::Layer(_, blob) => blob.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Takes blobs in, as they come.
pub(super) struct Inflow<'scope, 'env, 'a> {
    scope: &'scope Scope<'scope, 'env>,
    /// Nothing until there is a blob that is worth a thread.
    queue: Option<SyncSender<Job<'a>>>,
    threads: Vec<ScopedJoinHandle<'scope, ()>>,
    outcomes: Arc<Outcomes>,
    count: usize,
}

/// What came of blobs, by their place in the archive. Of those that are well and have a name there is nothing to
/// say: an archive may hold any number.
#[derive(Default)]
struct Outcomes(Mutex<Vec<(usize, Result<Option<Arrived>>)>>);

impl Outcomes {
    fn note(&self, number: usize, outcome: Result<Option<Arrived>>) {
        if !matches!(outcome, Ok(None)) {
            lock(&self.0).push((number, outcome));
        }
    }
}

/// A blob that is to be hashed as it grows.
struct Job<'a> {
    number: usize,
    blob: Incoming<'a>,
    growth: Arc<Growth>,
}

impl<'scope, 'env, 'a: 'scope> Inflow<'scope, 'env, 'a> {
    pub(super) fn new(scope: &'scope Scope<'scope, 'env>) -> Self {
        Inflow { scope, queue: None, threads: Vec::new(), outcomes: Arc::default(), count: 0 }
    }

    /// Takes the data of a member for a blob. Of what comes of it nothing may be known before [`Inflow::finish`].
    pub(super) fn take(&mut self, mut blob: Incoming<'a>, member: &mut Member) -> Result<()> {
        let number = self.count;
        self.count += 1;
        if member.size < SMALL {
            let outcome = match copy(member, &mut blob) {
                Ok(()) => blob.finish()?,
                Err(err) => {
                    blob.discard();
                    return Err(err);
                }
            };
            self.outcomes.note(number, Ok(outcome));
            return Ok(());
        }
        if lock(&self.outcomes.0).iter().any(|(_, outcome)| outcome.is_err()) {
            blob.discard();
            bail!("a blob before this one is bad"); // which `finish` says
        }
        let file = match blob.file() {
            Ok(file) => file,
            Err(err) => {
                blob.discard();
                return Err(err);
            }
        };
        let growth = Arc::new(Growth::default());
        self.send(Job { number, blob, growth: growth.clone() })?;
        let mut at = 0;
        let copied = loop {
            match member.transfer(&file, at) {
                Ok(0) => break Ok(()),
                Ok(n) => at += n,
                Err(err) => break Err(err),
            }
            growth.reached(at);
        };
        // First, since a lock lasts as long as the last descriptor.
        drop(file);
        growth.ended(copied.is_ok());
        copied
    }

    /// Waits for all, and returns the layers, or what is wrong with the first that is wrong.
    pub(super) fn finish(mut self) -> Result<Vec<Arrived>> {
        self.queue = None;
        for thread in self.threads {
            if thread.join().is_err() {
                bail!("a thread that was to hash blobs has died");
            }
        }
        let mut outcomes = std::mem::take(&mut *lock(&self.outcomes.0));
        outcomes.sort_by_key(|(number, _)| *number);
        outcomes.into_iter().filter_map(|(_, outcome)| outcome.transpose()).collect()
    }

    fn send(&mut self, job: Job<'a>) -> Result<()> {
        let queue = match &self.queue {
            Some(queue) => queue,
            None => {
                let (queue, jobs) = sync_channel(WAITING);
                let jobs = Arc::new(Mutex::new(jobs));
                let threads = thread::available_parallelism().map_or(1, usize::from).min(THREADS);
                for _ in 0..threads {
                    let (jobs, outcomes) = (jobs.clone(), self.outcomes.clone());
                    let hash = thread::Builder::new().name("hash".into()).stack_size(256 << 10);
                    self.threads
                        .push(hash.spawn_scoped(self.scope, move || work(&jobs, &outcomes))?);
                }
                self.queue.insert(queue)
            }
        };
        queue.send(job).map_err(|_| Error::msg("the threads that were to hash blobs have died"))
    }
}

/// Hashes blobs until there are no more.
fn work(jobs: &Mutex<Receiver<Job>>, outcomes: &Outcomes) {
    let mut buffer = vec![0; BUFFER];
    loop {
        let next = lock(jobs).recv();
        let Ok(Job { number, blob, growth }) = next else { return };
        let outcome = hash(blob, &growth, &mut buffer);
        outcomes.note(number, outcome);
    }
}

/// Hashes a blob as it grows, and gives it its name; one that never was whole is said by whoever read it.
fn hash(mut blob: Incoming, growth: &Growth, buffer: &mut [u8]) -> Result<Option<Arrived>> {
    let mut seen = 0;
    loop {
        let (end, state) = growth.beyond(seen);
        if state == State::Failed {
            blob.discard();
            return Ok(None);
        }
        if let Err(err) = blob.follow(end, buffer) {
            blob.discard();
            return Err(err);
        }
        seen = end;
        if state == State::Whole {
            return blob.finish();
        }
    }
}

/// How much of a blob is in its file.
#[derive(Default)]
struct Growth {
    reached: Mutex<(u64, State)>,
    changed: Condvar,
}

#[derive(Clone, Copy, Default, PartialEq)]
enum State {
    #[default]
    Growing,
    Whole,
    /// The archive ended, or could not be read.
    Failed,
}

impl Growth {
    fn reached(&self, end: u64) {
        lock(&self.reached).0 = end;
        self.changed.notify_one();
    }

    fn ended(&self, well: bool) {
        lock(&self.reached).1 = if well { State::Whole } else { State::Failed };
        self.changed.notify_one();
    }

    /// Waits for more than `seen`, or the end.
    fn beyond(&self, seen: u64) -> (u64, State) {
        let reached = lock(&self.reached);
        let idle = |(end, state): &mut (u64, State)| *end == seen && *state == State::Growing;
        *self.changed.wait_while(reached, idle).unwrap_or_else(PoisonError::into_inner)
    }
}

fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
