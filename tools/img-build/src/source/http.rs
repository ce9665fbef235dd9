//! What ADD fetches: a file from the web.
//!
//! It goes to a temporary file as it comes, so its size does not matter. Its
//! digest is the key of the step; the server is asked in each build, since nobody else
//! knows what is there now, but what has not changed does not come again. One of a known
//! checksum is not even asked for, and of what comes over plain HTTP nothing else is kept.
//! Redirects are followed, but only to the web, and with credentials only within one
//! scheme, host and port.

use std::fmt::{self, Display};
use std::fs::File;
use std::io::Write;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Error, Result, anyhow, ensure};
use common::digest::{Digest, Hasher};
use common::error::{Hint, find, hint_of, line};
use common::registry::failure::{Failure, Kind};
use common::registry::http::{Request, Response, is_loopback};
use common::registry::{follow, retry};
use jiff::Timestamp;
use jiff::fmt::rfc2822::DateTimeParser;
use rustix::fs::{Mode, OFlags, Timespec, Timestamps, fchmod, ftruncate, futimens, openat, seek};
use url::Url;

use super::address::Address;
use super::kept::{Kept, Record};
use super::{Elsewhere, Tree};

/// A file that was fetched.
pub struct Fetched {
    /// A tree that holds it, and nothing else. Its mode is 0600, its time what the server says.
    pub tree: Tree,
    /// Its name there, which is no pattern, whatever is in it.
    pub name: String,
    /// Its digest: sha256, or as the checksum has it, this time or the last.
    pub digest: Digest,
    /// How many bytes it has.
    pub size: u64,
    /// When it was changed, in seconds since 1970; 0 if the server does not say.
    pub mtime: i64,
}

impl Fetched {
    /// Opens the file.
    pub fn open(&self) -> Result<File> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let opened = openat(&self.tree.root, &self.name, flags, Mode::empty());
        Ok(opened.with_context(|| self.tree.name.clone())?.into())
    }
}

/// Fetches a file, whose digest must be `checksum`. It is called as the URL's last component.
pub fn get(url: &str, checksum: Option<&Digest>, elsewhere: &Elsewhere) -> Result<Fetched> {
    let address = Address::parse(url)?;
    let name = address.file_name().with_context(|| address.to_string())?;
    get_as(&address, &name, checksum, elsewhere)
}

/// Fetches a file, and calls it `name`.
pub(super) fn get_as(
    address: &Address,
    name: &str,
    checksum: Option<&Digest>,
    elsewhere: &Elsewhere,
) -> Result<Fetched> {
    fetch(address, name, checksum, elsewhere).with_context(|| address.to_string())
}

fn fetch(
    address: &Address,
    name: &str,
    checksum: Option<&Digest>,
    elsewhere: &Elsewhere,
) -> Result<Fetched> {
    let kept = Kept::of(address, &(elsewhere.scratch)()?);
    let record = kept.as_ref().and_then(Kept::record);
    let mut known = record.filter(|record| match (checksum, record.digest()) {
        (Some(expected), digest) => digest == Some(*expected),
        (None, digest) => digest.is_some(),
    });
    let authorization = authorization(address, elsewhere)?;
    let (dir, root) = elsewhere.directory()?;
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mode = Mode::RUSR | Mode::WUSR;
    let mut file = File::from(openat(&root, name, flags, mode).context("cannot keep it")?);
    let copy = |record: Option<Record>, file: &mut File| match (&kept, record) {
        (Some(kept), Some(record)) => kept.copy(&record, file),
        _ => Ok(None),
    };
    let mut got = match checksum {
        Some(_) => copy(known.take(), &mut file)?,
        None => None,
    };
    let mut failed = 0;
    let (digest, size, mtime) = loop {
        if let Some(got) = got {
            break got;
        }
        let hasher = checksum.map_or_else(Hasher::sha256, Digest::hasher);
        let asked = authorization.as_deref();
        let err = match once(address, asked, elsewhere, known.as_ref(), hasher, &mut file) {
            Ok(Answer::New { digest, size, mtime, sure, record }) => {
                let right = checksum.map_or(sure, |expected| *expected == digest);
                if let (Some(kept), Some(record)) = (&kept, record.filter(|_| right)) {
                    kept.keep(&dir.path().join(name), record, &digest, size);
                }
                break (digest, size, mtime);
            }
            Ok(Answer::Same) => {
                // Of what is not what it was, all is fetched.
                got = copy(known.take(), &mut file)?;
                continue;
            }
            Err(err) => err,
        };
        let Some(pause) = pause(&err, failed, elsewhere) else { return plain(err) };
        common::cli::warn(format_args!(
            "{address}: {}: trying again in {:.1} s",
            line(&err),
            pause.as_secs_f32()
        ));
        failed += 1;
        thread::sleep(pause);
        empty(&file)?;
    };
    if let Some(expected) = checksum {
        ensure!(digest == *expected, "its digest is {digest}, and not {expected}");
    }
    fchmod(&file, mode)?; // whatever the umask is
    let time = Timespec { tv_sec: mtime, tv_nsec: 0 };
    futimens(&file, &Timestamps { last_access: time, last_modification: time })?;
    let tree = Tree::ours(root, &address.to_string(), dir);
    Ok(Fetched { tree, name: name.into(), digest, size, mtime })
}

/// Makes a file one that nothing was written to.
pub(super) fn empty(file: &File) -> Result<()> {
    ftruncate(file, 0)?;
    seek(file, rustix::fs::SeekFrom::Start(0))?;
    Ok(())
}

/// What a server says.
enum Answer {
    /// The file is what is known.
    Same,
    /// This is the file; `sure` if it is the server that says so.
    New { digest: Digest, size: u64, mtime: i64, sure: bool, record: Option<Record> },
}

/// Asks once, for anything but what is known.
fn once(
    address: &Address,
    authorization: Option<&str>,
    elsewhere: &Elsewhere,
    known: Option<&Record>,
    mut hasher: Hasher,
    file: &mut File,
) -> Result<Answer> {
    let request = |unless| Request { accept: "*/*", authorization, unless, ..Request::default() };
    // From HTTPS to plain HTTP, too, as BuildKit does it: a checksum is what to trust.
    let ask = |unless| follow(&elsewhere.http, false, address.url(), request(unless));
    let known = known.filter(|_| is_sure(address.url()));
    let unless = known.and_then(Record::unless);
    let (mut response, mut url) = ask(unless)?;
    if let (Some(_), Some(known), 304) = (unless, known, response.status()) {
        if known.is_from(&url) && is_sure(&url) {
            return Ok(Answer::Same);
        }
        (response, url) = ask(None)?;
    }
    ensure!(response.status() == 200, Answered::of(&response));
    let mtime = response.header("last-modified").and_then(seconds).unwrap_or(0);
    let mut buffer = vec![0; 64 << 10];
    let mut size = 0;
    loop {
        match response.read(&mut buffer)? {
            0 => {
                let digest = hasher.finish();
                let record = Record::of(&response, &url, mtime);
                let sure = is_sure(address.url()) && is_sure(&url);
                return Ok(Answer::New { digest, size, mtime, sure, record });
            }
            n => {
                hasher.update(&buffer[..n]);
                file.write_all(&buffer[..n]).context("cannot keep it")?;
                size += n as u64;
            }
        }
    }
}

/// Returns whether it is the server that answers, and nobody on the way to it: what that one says once would be
/// what the server still has, as often as it is asked.
///
/// Where a file is kept from is where the last redirect led, so it matters little what was in between.
fn is_sure(url: &Url) -> bool {
    url.scheme() == "https" || is_loopback(url)
}

/// Returns what a server is told of who we are: what the URL says, or else a secret by a name of BuildKit's.
fn authorization(address: &Address, elsewhere: &Elsewhere) -> Result<Option<String>> {
    if let Some(text) = address.authorization() {
        return Ok(Some(text.into()));
    }
    let host = address.host();
    if let Some(header) = elsewhere.secret(&[&format!("HTTP_AUTH_HEADER_{host}")])? {
        return Ok(Some(header));
    }
    let token = elsewhere.secret(&[&format!("HTTP_AUTH_TOKEN_{host}")])?;
    Ok(token.map(|token| format!("Bearer {token}")))
}

/// Reads a date of HTTP: RFC 9110, section 5.6.7.
pub(super) fn seconds(date: &str) -> Option<i64> {
    let parsed = DateTimeParser::new().relaxed_weekday(true).parse_timestamp(date.trim());
    parsed.ok().map(Timestamp::as_second).filter(|seconds| *seconds >= 0)
}

/// A server's no.
#[derive(Debug)]
struct Answered {
    status: u16,
    after: Option<Duration>,
}

impl Answered {
    fn of(response: &Response) -> Answered {
        let after = response.header("retry-after");
        let after = after.and_then(|after| retry::after(after, Timestamp::now()));
        Answered { status: response.status(), after }
    }
}

impl Display for Answered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.status {
            401 | 403 => f.write_str("access denied"),
            404 | 410 => f.write_str("not found"),
            429 => f.write_str("too many requests"),
            status => write!(f, "the server answered {status}"),
        }
    }
}

impl std::error::Error for Answered {}

/// Returns how long to wait before another try, if one may help.
fn pause(err: &Error, failed: u32, elsewhere: &Elsewhere) -> Option<Duration> {
    let answered = find::<Answered>(err);
    let may_pass = match (answered, find::<Failure>(err)) {
        (Some(answered), _) => retry::may_pass(answered.status),
        (_, Some(failure)) => failure.may_pass(),
        _ => false,
    };
    if !may_pass || failed >= elsewhere.retries {
        return None;
    }
    let pause = retry::pause(elsewhere.backoff, failed);
    match answered.and_then(|answered| answered.after) {
        Some(after) if after > retry::PATIENCE => None,
        Some(after) => Some(pause.max(after)),
        None => Some(pause),
    }
}

/// Returns the error with advice that is for us.
fn plain<T>(err: Error) -> Result<T> {
    match find::<Failure>(&err).map(|failure| failure.kind) {
        Some(Kind::NotTls) => {
            let told: Result<T> = Err(anyhow!(line(&err)));
            told.hint(|| "http:// if it is meant to speak plain HTTP".into())
        }
        _ if hint_of(&err).is_some() => Err(err),
        _ => match find::<Answered>(&err) {
            Some(Answered { status: 401 | 403, .. }) => {
                Err(err).hint(|| "--secret id=HTTP_AUTH_TOKEN_HOST,env=TOKEN".into())
            }
            _ => Err(err),
        },
    }
}

/// Reads `--checksum` of what HTTP has.
pub fn checksum(text: &str) -> Result<Digest> {
    let digest = text.parse::<Digest>().map_err(|_| anyhow!("{text:?}: not a digest"));
    digest.hint(|| "--checksum=sha256: and 64 hexadecimal digits".into())
}

#[cfg(test)]
mod tests;
