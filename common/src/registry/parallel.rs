//! Several blobs at a time, the largest first.

use std::cmp::Reverse;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;

use anyhow::{Error, Result};

/// How many blobs are on their way at once. Docker has 3, containers/image 6.
const WORKERS: usize = 4;

/// Tells how it goes with the others.
pub struct Others(AtomicBool);

impl Others {
    /// Returns whether one failed, so that there is no use in going on.
    pub fn failed(&self) -> bool {
        self.0.load(Relaxed)
    }
}

/// Does `work` with each blob, given with its size; returns the first error.
pub fn parallel<T: Send>(
    mut blobs: Vec<(u64, T)>,
    work: impl Fn(T, &Others) -> Result<()> + Sync,
) -> Result<()> {
    // The largest first, so that no worker begins it when the others are done.
    blobs.sort_by_key(|(size, _)| Reverse(*size));
    let workers = blobs.len().min(WORKERS);
    let queue = Mutex::new(blobs.into_iter());
    let first: Mutex<Option<Error>> = Mutex::default();
    let others = Others(AtomicBool::new(false));
    let worker = || {
        while !others.failed() {
            let next = queue.lock().ok().and_then(|mut queue| queue.next());
            let Some((_, blob)) = next else { break };
            if let Err(err) = work(blob, &others)
                && let Ok(mut first) = first.lock()
            {
                first.get_or_insert(err);
                // Once it is known why: who gives up for it has an error of his own.
                others.0.store(true, Relaxed);
            }
        }
    };
    thread::scope(|scope| {
        for _ in 1..workers {
            // Where there can be no more threads, those that there are do it.
            if thread::Builder::new().spawn_scoped(scope, worker).is_err() {
                break;
            }
        }
        worker();
    });
    match first.into_inner() {
        Ok(Some(err)) => Err(err),
        _ => Ok(()),
    }
}
