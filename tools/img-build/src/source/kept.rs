//! What was fetched, for builds to come: a server is asked only whether it still has the same.
//!
//! ```text
//! cache/web/<sha256 of the URL>         what the server said of it
//! cache/web/<sha256 of the URL>.file    the file
//! ```
//!
//! No URL is written here, since it may be as good as a password. What has a query is not kept at all: that is
//! often a signature, and new each time. A file is believed only if it has its digest, so nothing here has to be
//! whole, or written by one at a time; and a server decides about its own URLs alone. What cannot be kept, or
//! was not used for long, is fetched again.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Result, ensure};
use common::digest::{Digest, Hashed};
use common::registry::http::{Response, Unless};
use common::tree;
use jiff::Timestamp;
use rustix::fs::{
    AtFlags, CWD, Mode, OFlags, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT, linkat, openat,
    utimensat,
};
use serde::{Deserialize, Serialize};
use url::Url;

use super::address::Address;
use super::http::{empty, seconds};

/// The longest validator that is kept.
const LONGEST: u64 = 1024;
/// How old a file must be, in seconds, for its time to tell it from the next: RFC 9110, section 8.8.2.2.
const SETTLED: i64 = 60;

/// How long what nobody uses is kept.
const UNUSED: Duration = Duration::from_secs(30 * 24 * 3600);

/// Where the file of a URL is kept.
pub(super) struct Kept {
    dir: PathBuf,
    key: String,
}

/// A file's digest, size and time.
type Copied = (Digest, u64, i64);

/// What a server said of a file.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Record {
    digest: String,
    size: u64,
    /// When it was changed, in seconds since 1970; 0 if the server does not say.
    mtime: i64,
    /// What tells it from others that the same place has had or will have.
    validator: Validator,
    /// The digest of the place that it came from in the end.
    place: String,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Validator {
    /// A strong entity tag.
    Etag(String),
    /// A date of the server's.
    Modified(String),
}

impl Record {
    /// Returns what is kept of a response for which `url` was asked last, if it says how to ask for it again.
    pub(super) fn of(response: &Response, url: &Url, mtime: i64) -> Option<Record> {
        let control = response.header("cache-control").unwrap_or_default().to_lowercase();
        if control.contains("no-store") {
            return None;
        }
        let etag = response.header("etag").filter(|etag| etag.starts_with('"'));
        let date = response.header("date").and_then(seconds);
        let date = date.unwrap_or_else(|| Timestamp::now().as_second());
        let modified = response.header("last-modified");
        let modified = modified.filter(|_| mtime > 0 && date - mtime >= SETTLED);
        let validator = match (etag, modified) {
            (Some(etag), _) => Validator::Etag(etag.into()),
            (None, Some(modified)) => Validator::Modified(modified.into()),
            (None, None) => return None,
        };
        let record = Record { digest: String::new(), size: 0, mtime, validator, place: place(url) };
        record.unless().map(drop)?;
        Some(record)
    }

    /// Returns the digest of the file.
    pub(super) fn digest(&self) -> Option<Digest> {
        self.digest.parse().ok()
    }

    /// Returns the condition under which the file is wanted again.
    pub(super) fn unless(&self) -> Option<Unless<'_>> {
        let (Validator::Etag(text) | Validator::Modified(text)) = &self.validator;
        // Somebody else may have written it here.
        let plain = text.bytes().all(|c| matches!(c, b' '..=b'~'));
        (plain && text.len() as u64 <= LONGEST).then_some(match &self.validator {
            Validator::Etag(etag) => Unless::Match(etag),
            Validator::Modified(date) => Unless::Since(date),
        })
    }

    /// Tells whether a server that was asked at `url` may say that the file is still the same.
    ///
    /// A redirect may lead elsewhere today, where a tag means another file.
    pub(super) fn is_from(&self, url: &Url) -> bool {
        self.place == place(url)
    }
}

/// Returns what stands for a place. A query is often a signature, and new each time.
fn place(url: &Url) -> String {
    let mut url = url.clone();
    url.set_query(None);
    Digest::of(url.as_str().as_bytes()).hex()
}

/// Removes what nobody has used for long. A file's last change, which nobody can set, tells when that was.
fn drop_unused(dir: &Path, now: SystemTime) {
    let before = now.checked_sub(UNUSED).and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    let Some(before) = before else { return };
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let changed = entry.metadata().map(|metadata| metadata.ctime());
        if changed.is_ok_and(|changed| changed.unsigned_abs() < before.as_secs()) {
            // If it cannot be removed, somebody else may be able to.
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// Opens a file that may be anything by now: nothing is followed, or waited for.
fn open_plain(path: &Path) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    Ok(openat(CWD, path, flags, Mode::empty())?.into())
}

impl Kept {
    /// Returns where the file of `address` is kept, below the cache directory; nothing, if it never is.
    pub(super) fn of(address: &Address, cache: &Path) -> Option<Kept> {
        let url = address.url();
        let key = Digest::of(url.as_str().as_bytes()).hex();
        url.query().is_none().then(|| Kept { dir: cache.join("web"), key })
    }

    /// Returns what is known of it.
    pub(super) fn record(&self) -> Option<Record> {
        let file = open_plain(&self.dir.join(&self.key)).ok()?;
        serde_json::from_reader(file.take(4 * LONGEST)).ok()
    }

    /// Copies it to `to`; returns its digest, its size and its time. If it is not what `record` says, nothing is copied.
    pub(super) fn copy(&self, record: &Record, to: &mut File) -> Result<Option<Copied>> {
        let copied = self.copy_whole(record, to);
        match copied {
            Ok(_) => self.mark(),
            Err(_) => {
                self.forget();
                empty(to)?;
            }
        }
        Ok(copied.ok())
    }

    fn copy_whole(&self, record: &Record, to: &mut File) -> Result<Copied> {
        let digest: Digest = record.digest.parse()?;
        let from = open_plain(&self.file())?.take(record.size);
        let mut from = Hashed::new(from, digest.hasher());
        let size = io::copy(&mut from, to)?;
        let (_, found, _) = from.finish();
        ensure!(found == digest, "it is another file");
        Ok((digest, size, record.mtime))
    }

    /// Says that it is used. What is somebody else's cannot be marked, and will be fetched again one day.
    fn mark(&self) {
        let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
        let same = Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT };
        let times = Timestamps { last_access: now, last_modification: same };
        for path in [self.dir.join(&self.key), self.file()] {
            let _ = utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW);
        }
    }

    /// Keeps the file at `path`, which nobody changes any more. If that is not possible, nothing is kept.
    ///
    /// What nobody has used for long goes.
    pub(super) fn keep(&self, path: &Path, record: Record, digest: &Digest, size: u64) {
        let record = Record { digest: digest.to_string(), size, ..record };
        let kept = (|| -> Result<()> {
            tree::make_dirs(&self.dir)?;
            drop_unused(&self.dir, SystemTime::now());
            self.forget();
            linkat(CWD, path, CWD, self.file(), AtFlags::empty())?;
            fs::write(self.dir.join(&self.key), serde_json::to_vec(&record)?)?;
            Ok(())
        })();
        if kept.is_err() {
            self.forget();
        }
    }

    fn forget(&self) {
        let _ = fs::remove_file(self.dir.join(&self.key));
        let _ = fs::remove_file(self.file());
    }

    fn file(&self) -> PathBuf {
        self.dir.join(format!("{}.file", self.key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_uses_goes() {
        let dir = tempfile::tempdir().unwrap();
        let kept = Kept::of(&Address::parse("http://h/a").unwrap(), dir.path()).unwrap();
        fs::create_dir(&kept.dir).unwrap();
        let [record, file] = [kept.dir.join(&kept.key), kept.file()];
        for path in [&record, &file] {
            // Whatever the server says.
            File::create(path).unwrap().set_modified(UNIX_EPOCH).unwrap();
        }
        let then = SystemTime::now() + UNUSED - Duration::from_secs(60);
        drop_unused(&kept.dir, then);
        assert!(record.exists() && file.exists());
        std::thread::sleep(Duration::from_millis(1100));
        let first = file.metadata().unwrap();
        kept.mark();
        assert!(file.metadata().unwrap().ctime() > first.ctime());
        assert!(record.metadata().unwrap().ctime() > first.ctime());
        assert_eq!(file.metadata().unwrap().mtime(), 0);
        drop_unused(&kept.dir, then + Duration::from_secs(120));
        assert_eq!(fs::read_dir(&kept.dir).unwrap().count(), 0);
    }

    #[test]
    fn what_has_a_query_is_not_kept() {
        let kept = |url: &str| Kept::of(&Address::parse(url).unwrap(), Path::new("/")).is_some();
        assert!(kept("https://h/a") && kept("https://h/a#b"));
        assert!(!kept("https://h/a?") && !kept("https://h/a?X-Amz-Signature=b"));
    }
}
