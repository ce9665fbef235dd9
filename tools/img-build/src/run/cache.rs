//! `RUN --mount=type=cache`: directories that outlive builds and never get into an image.
//!
//! ```text
//! $TARE_ROOT/cache/mounts/
//!   <key>/              a cache: the digest of its id and of what else tells it from others
//!     <n>/              one of it, locked by who uses it; with sharing=private there may be several
//!       data/           what is in it; it is there when all is in it that it began with
//! ```
//!
//! An id is never a part of a path. The lock on `<n>` is shared or exclusive, as the mounts are;
//! it is held until the step has ended. Steps with several caches take them in the order
//! of their keys, so no two wait for each other.

use std::fs::{self, DirBuilder, File, Permissions};
use std::io::ErrorKind;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use common::digest::Digest;
use common::error::At;
use common::path::clean;
use common::store::Store;
use common::tree;
use common::userns::{self, Mapping};

use super::mounts::by_descriptor;
use crate::dockerfile::mount::{Mount, Sharing};

/// The most private caches of one id.
const MOST: u32 = 1000;

/// A cache that a step wants.
pub(super) struct Wanted {
    key: String,
    sharing: Sharing,
    mode: u32,
    owner: (u32, u32),
    /// What it begins with.
    pub initial: Option<OwnedFd>,
    /// What of that is hidden, if it becomes root's: of a context, and of nothing else.
    pub hidden: Vec<PathBuf>,
    /// Whether that becomes root's.
    pub foreign: bool,
}

impl Wanted {
    /// Returns the cache of a mount at `target`, whose first content comes from the tree of this name.
    /// With a `prefix` it is another than without.
    pub(super) fn new(
        mount: &Mount,
        target: &str,
        prefix: &str,
        from: Option<String>,
    ) -> Result<Wanted> {
        let id = mount.id.as_deref().unwrap_or(target);
        let id = match prefix {
            "" => id.to_owned(),
            prefix => clean(&format!("{prefix}/{id}")),
        };
        let mapping = match userns::is_entered()? {
            true => Some(Mapping::current()?.to_string()),
            false => None,
        };
        let told = serde_json::json!({
            "id": id, "from": from, "source": mount.source, "mode": mount.mode,
            "uid": mount.uid, "gid": mount.gid, "mapping": mapping,
        });
        Ok(Wanted {
            key: Digest::of(told.to_string().as_bytes()).hex(),
            sharing: mount.sharing.unwrap_or(Sharing::Shared),
            mode: mount.mode.unwrap_or(0o755) & 0o7777,
            owner: (mount.uid.unwrap_or(0), mount.gid.unwrap_or(0)),
            initial: None,
            hidden: Vec::new(),
            foreign: false,
        })
    }
}

/// A cache that is ours as long as this value is.
#[derive(Clone, Debug)]
pub(super) struct Cache {
    dir: PathBuf,
    _lock: Arc<File>,
}

impl Cache {
    /// Returns its directory.
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }
}

/// Takes the caches, each as soon as it can be had.
pub(super) fn take(store: &Store, wanted: Vec<Wanted>) -> Result<Vec<Cache>> {
    let top = store.cache().join("mounts");
    let mut order: Vec<usize> = (0..wanted.len()).collect();
    order.sort_by_key(|at| &wanted[*at].key);
    let mut taken: Vec<Option<Cache>> = vec![None; wanted.len()];
    let mut last: Option<(usize, Cache)> = None;
    for at in order {
        // The same one twice is one, and locked once.
        let cache = match &last {
            Some((other, cache)) if wanted[*other].key == wanted[at].key => cache.clone(),
            _ => take_one(&top, &wanted[at])?,
        };
        last = Some((at, cache.clone()));
        taken[at] = Some(cache);
    }
    Ok(taken.into_iter().flatten().collect())
}

fn take_one(top: &Path, wanted: &Wanted) -> Result<Cache> {
    let cache = top.join(&wanted.key);
    let count = if wanted.sharing == Sharing::Private { MOST } else { 1 };
    for n in 0..count {
        let dir = cache.join(n.to_string());
        let Some(lock) = lock(&dir, wanted)? else { continue };
        return Ok(Cache { dir: dir.join("data"), _lock: Arc::new(lock) });
    }
    bail!("{}: all {MOST} of it are in use", cache.display())
}

/// Locks the directory `dir`, which then has its data; returns nothing if another has it, who is not waited for.
fn lock(dir: &Path, wanted: &Wanted) -> Result<Option<File>> {
    loop {
        DirBuilder::new().recursive(true).mode(0o700).create(dir).at(dir)?;
        let lock = match File::open(dir) {
            Err(err) if err.kind() == ErrorKind::NotFound => continue,
            lock => lock.at(dir)?,
        };
        let data = dir.join("data");
        match wanted.sharing {
            Sharing::Private if lock.try_lock().is_err() => return Ok(None),
            Sharing::Private => {}
            Sharing::Locked => lock.lock().at(dir)?,
            Sharing::Shared => lock.lock_shared().at(dir)?,
        }
        // A cache may be deleted at any time.
        if !tree::is_at(&lock, dir)? {
            continue;
        }
        if data.try_exists().at(&data)? {
            return Ok(Some(lock));
        }
        // Alone, for as long as it is filled; then everybody looks again.
        lock.lock().at(dir)?;
        if tree::is_at(&lock, dir)? && !data.try_exists().at(&data)? {
            fill(dir, wanted)?;
        }
        if wanted.sharing != Sharing::Shared && tree::is_at(&lock, dir)? {
            return Ok(Some(lock));
        }
    }
}

/// Makes the data of a cache, whole or not at all.
fn fill(dir: &Path, wanted: &Wanted) -> Result<()> {
    let new = dir.join("new");
    tree::remove(&new)?;
    fs::create_dir(&new).at(&new)?;
    if let Some(initial) = &wanted.initial {
        let initial = &by_descriptor(initial);
        match wanted.foreign {
            true => tree::copy_as_root(initial, &new, &wanted.hidden)?,
            false => tree::copy(initial, &new)?,
        }
    } else {
        let (uid, gid) = wanted.owner;
        let given = chown(&new, Some(uid), Some(gid));
        given.with_context(|| format!("cannot give a cache to {uid}:{gid}"))?;
        fs::set_permissions(&new, Permissions::from_mode(wanted.mode)).at(&new)?;
    }
    fs::rename(&new, dir.join("data")).at(dir)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;
    use std::time::Duration;

    use super::*;

    fn wanted(id: &str, sharing: Sharing) -> Wanted {
        let key = Digest::of(id.as_bytes()).hex();
        Wanted {
            key,
            sharing,
            mode: 0o700,
            owner: own(),
            initial: None,
            hidden: Vec::new(),
            foreign: false,
        }
    }

    fn own() -> (u32, u32) {
        let meta = fs::metadata("/proc/self").unwrap();
        (meta.uid(), meta.gid())
    }

    fn scratch() -> (tempfile::TempDir, Store) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(Some(&dir.path().join("root"))).unwrap();
        (dir, store)
    }

    fn one(store: &Store, id: &str, sharing: Sharing) -> Cache {
        take(store, vec![wanted(id, sharing)]).unwrap().remove(0)
    }

    #[test]
    fn a_cache_is_the_same_next_time() {
        let (_dir, store) = scratch();
        let cache = one(&store, "../../x", Sharing::Shared);
        fs::write(cache.dir().join("f"), "").unwrap();
        assert_eq!(fs::metadata(cache.dir()).unwrap().mode() & 0o7777, 0o700);
        drop(cache);
        for sharing in [Sharing::Shared, Sharing::Locked, Sharing::Private] {
            assert!(one(&store, "../../x", sharing).dir().join("f").exists(), "{sharing:?}");
        }
        let other = one(&store, "y", Sharing::Shared);
        assert!(!other.dir().join("f").exists());
        assert!(other.dir().starts_with(store.cache()));
    }

    #[test]
    fn sharing_says_who_has_it_at_the_same_time() {
        let (_dir, store) = scratch();
        let first = one(&store, "s", Sharing::Shared);
        assert_eq!(one(&store, "s", Sharing::Shared).dir(), first.dir());

        let first = one(&store, "p", Sharing::Private);
        let second = one(&store, "p", Sharing::Private);
        assert_ne!(second.dir(), first.dir());
        drop(first);
        assert_ne!(one(&store, "p", Sharing::Private).dir(), second.dir());

        let first = one(&store, "l", Sharing::Locked);
        std::thread::scope(|scope| {
            let second = scope.spawn(|| one(&store, "l", Sharing::Locked).dir().to_owned());
            std::thread::sleep(Duration::from_millis(50));
            assert!(!second.is_finished());
            let dir = first.dir().to_owned();
            drop(first);
            assert_eq!(second.join().unwrap(), dir);
        });
    }

    #[test]
    fn one_that_a_step_has_twice_is_one() {
        let (_dir, store) = scratch();
        let all = ["a", "b", "a"].map(|id| wanted(id, Sharing::Locked));
        let taken = take(&store, all.into()).unwrap();
        assert_eq!(taken[0].dir(), taken[2].dir());
        assert_ne!(taken[0].dir(), taken[1].dir());
    }

    #[test]
    fn many_at_once_make_one() {
        let (_dir, store) = scratch();
        std::thread::scope(|scope| {
            let takers: Vec<_> = (0..8)
                .map(|n| {
                    let store = &store;
                    scope.spawn(move || {
                        let cache = one(store, "m", Sharing::Shared);
                        fs::write(cache.dir().join(n.to_string()), "").unwrap();
                    })
                })
                .collect();
            takers.into_iter().for_each(|taker| taker.join().unwrap());
        });
        let count = fs::read_dir(one(&store, "m", Sharing::Shared).dir()).unwrap().count();
        assert_eq!(count, 8);
    }
}
