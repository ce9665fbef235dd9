//! When an image was used last: the time of a file.
//!
//! ```text
//! $TARE_ROOT/cache/used/<hex>    empty; its mtime is the last use of the image with this ID
//! ```
//!
//! Whoever runs, unpacks, sends or builds on an image marks it, and so does whoever has just
//! pulled, loaded, imported, built or tagged it: its manifest may have been here for long. That
//! is one stat(2) for an image that was used within the hour, so that a container starts no
//! later for it, and times are no better than that. An image without a mark was used when it
//! came: the manifest's mtime.
//! The marks are a cache; nothing that goes wrong with them is an error.

use std::fs::{self, File, FileTimes};
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use anyhow::Result;

use crate::digest::Digest;
use crate::error::At;
use crate::store::Store;

/// For how long a mark is new enough.
const FRESH: Duration = Duration::from_secs(3600);

impl Store {
    /// Notes that the image with this ID is used now.
    pub fn mark_used(&self, id: &Digest) {
        let path = self.marks().join(id.hex());
        let now = SystemTime::now();
        if let Ok(metadata) = fs::metadata(&path)
            && let Ok(at) = metadata.modified()
            && now.duration_since(at).is_ok_and(|since| since < FRESH)
        {
            return;
        }
        let open = || File::options().append(true).create(true).open(&path);
        let mark = open().or_else(|_| {
            fs::create_dir_all(self.marks())?;
            open()
        });
        let _ = mark.and_then(|file| file.set_times(FileTimes::new().set_modified(now)));
    }

    /// Returns when the image with this ID was used last, or came.
    pub fn last_used(&self, id: &Digest) -> Option<SystemTime> {
        let modified = |path: PathBuf| fs::metadata(path).ok()?.modified().ok();
        modified(self.marks().join(id.hex())).or_else(|| self.images.arrived(id))
    }

    /// Removes the marks of all images but those that `keep` says yes to.
    pub fn forget_uses(&self, keep: impl Fn(&str) -> bool) {
        for mark in fs::read_dir(self.marks()).into_iter().flatten().flatten() {
            if !mark.file_name().to_str().is_some_and(&keep) {
                let _ = fs::remove_file(mark.path());
            }
        }
    }

    /// Returns the directory of the marks, and makes it, for somebody who will be confined.
    pub fn make_marks(&self) -> Result<PathBuf> {
        let marks = self.marks();
        fs::create_dir_all(&marks).at(&marks)?;
        Ok(marks)
    }

    fn marks(&self) -> PathBuf {
        self.cache().join("used")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_renewed_when_it_is_old_and_an_image_without_one_was_used_when_it_came() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(Some(&dir.path().join("tare"))).unwrap();
        let id = store.images.writing().unwrap().put(b"{}").unwrap();
        assert_eq!(store.last_used(&id), store.images.arrived(&id));
        assert_eq!(store.last_used(&Digest::of(b"none")), None);

        let day = Duration::from_secs(86400);
        let set = |at: SystemTime| {
            let file = File::options().append(true).open(store.marks().join(id.hex())).unwrap();
            file.set_times(FileTimes::new().set_modified(at)).unwrap();
        };
        let now = SystemTime::now();
        let recently = now - Duration::from_secs(600);
        for (was, renewed) in [(now - day, true), (now + day, true), (recently, false)] {
            store.mark_used(&id);
            set(was);
            store.mark_used(&id);
            let at = store.last_used(&id).unwrap();
            assert_eq!(at != was, renewed);
            assert!(at <= SystemTime::now());
        }
        store.forget_uses(|hex| hex == id.hex());
        assert_eq!(store.last_used(&id), Some(recently));
        store.forget_uses(|_| false);
        assert_eq!(store.last_used(&id), store.images.arrived(&id));
    }
}
