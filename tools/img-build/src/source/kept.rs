//! What was fetched, for builds to come: a server is asked only whether it still has the same.
//!
//! ```text
//! cache/web/<sha256 of the URL>         what the server said of it
//! cache/web/<sha256 of the URL>.file    the file
//! ```
//!
//! No URL is written here, since a query may be as good as a password. A file is believed only if it has
//! its digest, so nothing here has to be whole, or written by one at a time; and a server decides about
//! its own URLs alone. What cannot be kept is fetched again.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use common::digest::{Digest, Hashed};
use common::registry::http::{Response, Unless};
use common::tree;
use jiff::Timestamp;
use rustix::fs::{AtFlags, CWD, Mode, OFlags, linkat, openat};
use serde::{Deserialize, Serialize};
use url::Url;

use super::address::Address;
use super::http::{empty, seconds};

/// The longest validator that is kept.
const LONGEST: u64 = 1024;
/// How old a file must be, in seconds, for its time to tell it from the next: RFC 9110, section 8.8.2.2.
const SETTLED: i64 = 60;

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

/// Opens a file that may be anything by now: nothing is followed, or waited for.
fn open_plain(path: &Path) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    Ok(openat(CWD, path, flags, Mode::empty())?.into())
}

impl Kept {
    /// Returns where the file of `address` is kept, below the cache directory.
    pub(super) fn of(address: &Address, cache: &Path) -> Kept {
        Kept { dir: cache.join("web"), key: Digest::of(address.url().as_str().as_bytes()).hex() }
    }

    /// Returns what is known of it.
    pub(super) fn record(&self) -> Option<Record> {
        let file = open_plain(&self.dir.join(&self.key)).ok()?;
        serde_json::from_reader(file.take(4 * LONGEST)).ok()
    }

    /// Copies it to `to`; returns its digest, its size and its time. If it is not what `record` says, nothing is copied.
    pub(super) fn copy(&self, record: &Record, to: &mut File) -> Result<Option<Copied>> {
        let copied = self.copy_whole(record, to);
        if copied.is_err() {
            self.forget();
            empty(to)?;
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

    /// Keeps the file at `path`, which nobody changes any more. If that is not possible, nothing is kept.
    pub(super) fn keep(&self, path: &Path, record: Record, digest: &Digest, size: u64) {
        let record = Record { digest: digest.to_string(), size, ..record };
        let kept = (|| -> Result<()> {
            tree::make_dirs(&self.dir)?;
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
