//! Uploads that are going on, and blobs that no manifest names yet.
//!
//! A blob lies in the layout's `.partial/` while it comes, and belongs to nobody
//! until a manifest that needs it has a name. For as long as there is either, this
//! process holds the layout's shared lock, so that nobody prunes what a push has
//! already brought; when there is neither, it holds none. An upload with which
//! nobody goes on, and a blob that no manifest claims, are forgotten after a while,
//! and removed if nobody else needs it.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use common::digest::{Digest, hex};
use common::layout::{Layout, NewBlob, Writing};

use crate::answer::{Code, Problem, refuse};
use crate::names;

/// The most blobs that wait for a manifest.
const WAITING: usize = 100_000;

/// How much is added under one lock.
const USES: usize = 1000;

/// The lock under which a push happens, for as long as anybody has it.
pub type Hold = Arc<Writing<'static>>;

/// All that is being pushed.
pub struct Uploads {
    layout: &'static Layout,
    /// How many there may be at a time.
    limit: usize,
    /// How long somebody may take until the next request.
    patience: Duration,
    lock: Mutex<Lock>,
    state: Mutex<State>,
}

/// The lock, if anybody has it, and how often it was asked for.
#[derive(Default)]
struct Lock {
    hold: Weak<Writing<'static>>,
    uses: usize,
}

#[derive(Default)]
struct State {
    uploads: HashMap<String, Arc<Upload>>,
    waiting: HashMap<String, Waiting>,
}

/// What a repository was sent, and no tag leads to yet.
struct Waiting {
    blobs: HashSet<Digest>,
    /// Manifests that came by digest, and have a name by digest until an index lists them.
    manifests: HashSet<Digest>,
    touched: Instant,
    /// As long as there are blobs: manifests have names.
    hold: Option<Hold>,
}

/// A blob that comes in one request or in several.
pub struct Upload {
    pub id: String,
    repository: String,
    user: Option<String>,
    /// Nothing when it has ended.
    pub blob: tokio::sync::Mutex<Option<NewBlob<'static>>>,
    received: AtomicU64,
    touched: Mutex<Instant>,
    pub hold: Hold,
}

impl Upload {
    /// Returns how many bytes are here.
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Acquire)
    }

    /// Notes that more is here.
    pub fn add(&self, bytes: u64) {
        self.received.fetch_add(bytes, Ordering::AcqRel);
        *self.touched.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    fn touched(&self) -> Instant {
        *self.touched.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns one spelling for all that mean the same place to push to.
fn place(repository: &str) -> String {
    names::meant(repository, "").map_or_else(|_| repository.into(), |name| name.repository())
}

impl Uploads {
    pub fn new(layout: &'static Layout, limit: usize, patience: Duration) -> Uploads {
        Uploads { layout, limit, patience, lock: Mutex::default(), state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the layout's lock, or shares it with what is going on already. It waits for a prune.
    pub fn hold(&self) -> Result<Hold> {
        let mut lock = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        lock.uses += 1;
        if let Some(hold) = lock.hold.upgrade()
            && lock.uses < USES
        {
            return Ok(hold);
        }
        // Now and then a new one beside the old: each keeps a list of what was added under it.
        let hold = Arc::new(self.layout.writing()?);
        *lock = Lock { hold: Arc::downgrade(&hold), uses: 0 };
        Ok(hold)
    }

    /// Begins an upload that nobody can go on with but by its ID, and nobody else but its user.
    pub fn begin(&self, repository: &str, user: Option<&str>) -> Result<Arc<Upload>, Problem> {
        if self.state().uploads.len() >= self.limit {
            return refuse(Code::TooManyRequests, "too many uploads at a time");
        }
        let hold = self.hold()?;
        let upload = Arc::new(Upload {
            id: random_id()?,
            repository: place(repository),
            user: user.map(str::to_owned),
            blob: tokio::sync::Mutex::new(Some(hold.new_blob()?)),
            received: AtomicU64::new(0),
            touched: Mutex::new(Instant::now()),
            hold,
        });
        self.state().uploads.insert(upload.id.clone(), upload.clone());
        Ok(upload)
    }

    /// Returns the upload with this ID, if it belongs to this repository and user.
    pub fn find(
        &self,
        repository: &str,
        id: &str,
        user: Option<&str>,
    ) -> Result<Arc<Upload>, Problem> {
        let found = self.state().uploads.get(id).cloned();
        match found {
            Some(found)
                if found.repository == place(repository) && found.user.as_deref() == user =>
            {
                Ok(found)
            }
            _ => refuse(Code::BlobUploadUnknown, "no such upload"),
        }
    }

    /// Forgets an upload; its file goes with the last who has it.
    pub fn end(&self, upload: &Upload) {
        self.state().uploads.remove(&upload.id);
    }

    /// Notes that a blob is here for a manifest that will come.
    pub fn expect(&self, repository: &str, digest: Digest, hold: &Hold) -> Result<(), Problem> {
        let mut state = self.state();
        let count: usize = state.waiting.values().map(|it| it.blobs.len()).sum();
        if count >= WAITING {
            return refuse(Code::TooManyRequests, "too many blobs that no manifest names");
        }
        let waiting = state.waiting(repository);
        waiting.blobs.insert(digest);
        waiting.hold.get_or_insert_with(|| hold.clone());
        Ok(())
    }

    /// Notes that a manifest has a name by digest alone, which an index may make needless.
    pub fn expect_index(&self, repository: &str, digest: Digest) {
        let mut state = self.state();
        if state.waiting.values().map(|it| it.manifests.len()).sum::<usize>() < WAITING {
            state.waiting(repository).manifests.insert(digest);
        }
    }

    /// Returns whether this blob waits for a manifest.
    pub fn is_expected(&self, repository: &str, digest: &Digest) -> bool {
        let state = self.state();
        state.waiting.get(&place(repository)).is_some_and(|it| it.blobs.contains(digest))
    }

    /// Forgets blobs that a manifest names now, or that somebody deleted; returns whether any waited.
    pub fn forget<'a>(&self, repository: &str, digests: impl Iterator<Item = &'a Digest>) -> bool {
        let place = place(repository);
        let mut state = self.state();
        let Some(waiting) = state.waiting.get_mut(&place) else { return false };
        let before = waiting.blobs.len();
        for digest in digests {
            waiting.blobs.remove(digest);
        }
        let changed = waiting.blobs.len() < before;
        state.tidy(&place);
        changed
    }

    /// Returns which of these manifests have a name by digest that an index makes needless, and forgets them.
    pub fn claim<'a>(
        &self,
        repository: &str,
        members: impl Iterator<Item = &'a Digest>,
    ) -> Vec<Digest> {
        let place = place(repository);
        let mut state = self.state();
        let Some(waiting) = state.waiting.get_mut(&place) else { return Vec::new() };
        let claimed = members.filter(|digest| waiting.manifests.remove(digest)).copied().collect();
        state.tidy(&place);
        claimed
    }

    /// Forgets what nobody went on with for too long; returns the blobs that no manifest came for.
    pub fn expire(&self, now: Instant) -> Vec<Digest> {
        let old = |touched: Instant| now.saturating_duration_since(touched) > self.patience;
        let mut state = self.state();
        // What is being written to is not abandoned, however slowly it comes.
        state.uploads.retain(|_, upload| !old(upload.touched()) || upload.blob.try_lock().is_err());
        let active: HashSet<String> =
            state.uploads.values().map(|upload| upload.repository.clone()).collect();
        let gone = state.waiting.extract_if(|place, it| old(it.touched) && !active.contains(place));
        gone.flat_map(|(_, it)| it.blobs).collect()
    }

    /// Returns how often to look for what is abandoned.
    pub fn pause(&self) -> Duration {
        (self.patience / 4).clamp(Duration::from_millis(50), Duration::from_secs(60))
    }
}

impl State {
    fn waiting(&mut self, repository: &str) -> &mut Waiting {
        let waiting = self.waiting.entry(place(repository)).or_insert_with(|| Waiting {
            blobs: HashSet::new(),
            manifests: HashSet::new(),
            touched: Instant::now(),
            hold: None,
        });
        waiting.touched = Instant::now();
        waiting
    }

    /// Gives the lock back where nothing waits any more.
    fn tidy(&mut self, place: &str) {
        let Some(waiting) = self.waiting.get_mut(place) else { return };
        if waiting.blobs.is_empty() {
            waiting.hold = None;
            if waiting.manifests.is_empty() {
                self.waiting.remove(place);
            }
        }
    }
}

/// Returns 128 bits that nobody guesses.
fn random_id() -> Result<String> {
    let mut bytes = [0u8; 16];
    let n = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
    if n < bytes.len() {
        return Err(anyhow!("the kernel has no random numbers"));
    }
    Ok(hex(&bytes))
}
