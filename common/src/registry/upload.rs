//! Blobs and manifests on their way to a registry.
//!
//! ```text
//! HEAD  /v2/REPOSITORY/blobs/DIGEST                          is it there?
//! POST  /v2/REPOSITORY/blobs/uploads/?mount=DIGEST&from=R    201: now it is, from R · 202: send it to Location
//! PUT   LOCATION?digest=DIGEST                               all of it, or nothing more
//! PATCH LOCATION                                             a part of it
//! GET   LOCATION                                             how much is there: Range
//! PUT   /v2/REPOSITORY/manifests/TAG|DIGEST                  a document, whole
//! ```
//!
//! A blob goes in one `PUT`, the way that takes the fewest round trips and that every registry
//! has, as it is containerd's and BuildKit's. When that breaks off, the registry is asked how much
//! it has and gets the rest by `PATCH`; one that cannot say (docker-registry forgets an upload that
//! broke off in the middle) gets all of it again. Parts of a bounded size are for what answers 413
//! to a whole blob: a proxy in front of the registry, mostly.
//!
//! Where an upload goes is the registry's word, so it is taken only for the registry's own scheme,
//! host and port. What the registry says it has got is believed as long as it can be: the digest
//! decides in the end.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use url::Url;

use crate::digest::Digest;
use crate::error::{Hint, find, sanitised};
use crate::registry::auth::Rights;
use crate::registry::failure::Failure;
use crate::registry::http::{self, Content, FEWEST, Method, Request, Response};
use crate::registry::{Registry, Tries, follow, may_pass, refusal, retry};

/// The largest part of a blob, once a server has said that all of it is too much.
const PART: u64 = 32 << 20;

/// The smallest part that is tried.
const SMALLEST: u64 = 64 << 10;

/// The longest `Location`.
const LOCATION_LIMIT: usize = 16 << 10;

/// How often a blob is begun, or a part of it sent, even if each time some of it arrives.
const REQUESTS: u32 = 100_000;

/// The slowest that a registry may be when it takes in what it was sent, in bytes a second: some
/// read it all again, from another machine.
const SLOWEST: u64 = 20 << 20;

/// A blob to be sent.
pub struct Source<'a> {
    /// Its digest.
    pub digest: Digest,
    /// How many bytes it has.
    pub size: u64,
    /// Its bytes.
    pub file: &'a File,
}

/// Watches a blob on its way.
pub trait Watch {
    /// So many bytes more were sent.
    fn sent(&self, bytes: u64);
    /// So many bytes that were sent have to be sent again.
    fn withdrawn(&self, bytes: u64);
    /// Returns whether the blob is still wanted.
    fn goes_on(&self) -> bool;
}

/// How a blob came to be in a repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Came {
    /// It was sent.
    Sent,
    /// The registry had it, in another repository.
    Mounted,
}

/// What a `Content-Type` of bytes is.
const BYTES: &str = "application/octet-stream";

impl Registry<'_> {
    /// Returns whether a repository has a blob, as far as it says so.
    pub fn has_blob(&self, path: &str, digest: &Digest, size: u64) -> Result<bool> {
        Tries::new(self.options).until(|| {
            let url = self.base()?.join(&format!("v2/{path}/blobs/{digest}"))?;
            let mut response = self.authorized(path, PUSH, &url, |authorization| {
                let request = Request { method: Method::Head, authorization, ..Request::default() };
                follow(&self.http, self.options.verify, &url, request)
            })?;
            match response.status() {
                200 => Ok(response.length().is_none_or(|length| length == size)),
                401 | 403 => Err(refusal(&mut response).into()),
                status if retry::may_pass(status) => Err(refusal(&mut response).into()),
                // What does not answer this question may take the blob all the same.
                _ => Ok(false),
            }
        })
    }

    /// Puts a blob into a repository: from another one of this registry if that has it, else by
    /// sending it.
    pub fn push_blob(
        &self,
        path: &str,
        blob: &Source,
        from: Option<&str>,
        watch: &dyn Watch,
    ) -> Result<Came> {
        let tries = Tries::new(self.options);
        let upload = Upload {
            registry: self,
            path,
            blob,
            watch,
            from,
            tries,
            location: None,
            at: 0,
            shown: 0,
            most: 0,
            doubtful: false,
            resumed: false,
            requests: 0,
        };
        upload.run().with_context(|| format!("blob {}", blob.digest))
    }

    /// Puts a manifest or an index into a repository, under a tag or under its digest.
    pub fn push_manifest(
        &self,
        path: &str,
        name: &str,
        media_type: &str,
        bytes: &[u8],
        digest: &Digest,
    ) -> Result<()> {
        Tries::new(self.options).until(|| {
            let url = self.base()?.join(&format!("v2/{path}/manifests/{name}"))?;
            let mut response = self.authorized(path, PUSH, &url, |authorization| {
                let request = http::Upload {
                    method: Method::Put,
                    authorization,
                    media_type,
                    range: None,
                    patience: Duration::ZERO,
                };
                let (mut reader, length) = (bytes, bytes.len() as u64);
                let content = Content { length, reader: &mut reader, sent: &|_| {} };
                Ok((self.http.upload(&url, &request, content)?, url.clone()))
            })?;
            match (response.status(), refusal(&mut response)) {
                (200 | 201 | 204, _) => same_digest(&response, digest),
                // docker-registry says so while somebody else is putting the same blob there.
                (400, refused) if refused.code == "DIGEST_INVALID" => {
                    Err(Failure::broken(refused.to_string()).into())
                }
                (_, refused) => Err(refused.into()),
            }
        })
    }
}

/// What a push needs.
const PUSH: Rights = Rights::Push { from: None };

/// A blob on its way.
struct Upload<'a> {
    registry: &'a Registry<'a>,
    path: &'a str,
    blob: &'a Source<'a>,
    watch: &'a dyn Watch,
    /// The repository that may have it.
    from: Option<&'a str>,
    tries: Tries<'a>,
    /// Where the next part goes, once the upload has begun.
    location: Option<Url>,
    /// How many bytes the registry has.
    at: u64,
    /// How many bytes the watch has been told of.
    shown: u64,
    /// The most bytes that the registry ever had.
    most: u64,
    /// Something went wrong: it is not known how many bytes the registry has.
    doubtful: bool,
    /// It was gone on with where the registry said it broke off.
    resumed: bool,
    requests: u32,
}

impl Upload<'_> {
    fn run(mut self) -> Result<Came> {
        loop {
            match self.step() {
                Ok(Some(came)) => {
                    if came == Came::Sent {
                        self.has(self.blob.size);
                    }
                    return Ok(came);
                }
                Ok(None) => {}
                Err(err) => {
                    self.doubtful = true;
                    // What is in the way of one step is in no other's: there is no use in asking.
                    if let Err(err) = self.tries.wait(err) {
                        self.cancel(&err);
                        return Err(err);
                    }
                }
            }
        }
    }

    /// Sends a request; returns how the blob came if that was the last one.
    fn step(&mut self) -> Result<Option<Came>> {
        self.requests += 1;
        ensure!(self.requests <= REQUESTS, "{REQUESTS} requests, and it is not there yet");
        match self.location.clone() {
            None => self.begin(),
            Some(location) if self.doubtful => self.ask(&location),
            Some(location) => self.send(&location),
        }
    }

    /// Begins an upload, or takes the blob from where it is.
    fn begin(&mut self) -> Result<Option<Came>> {
        self.doubtful = false;
        let mut url = self.registry.base()?.join(&format!("v2/{}/blobs/uploads/", self.path))?;
        if let Some(from) = self.from {
            let mut query = url.query_pairs_mut();
            query.append_pair("mount", &self.blob.digest.to_string()).append_pair("from", from);
        }
        let rights = Rights::Push { from: self.from };
        let mut response = match self.asked(Method::Post, &url, rights) {
            Err(err) if self.from.is_some() && !may_pass(&err) => return self.without_mount(),
            response => response?,
        };
        match response.status() {
            201 if self.from.is_some() => {
                same_digest(&response, &self.blob.digest)?;
                Ok(Some(Came::Mounted))
            }
            202 => {
                let Some(location) = response.header("location") else {
                    bail!("the registry begins an upload, and does not say where (no Location)");
                };
                self.location = Some(place(&url, location)?);
                self.from = None;
                self.restart();
                Ok(None)
            }
            status if self.from.is_some() && !retry::may_pass(status) => self.without_mount(),
            _ => Err(refusal(&mut response).into()),
        }
    }

    /// Does what was to be a mount as an upload.
    fn without_mount(&mut self) -> Result<Option<Came>> {
        self.from = None;
        Ok(None)
    }

    /// Sends all that is missing, a part of it, or the end.
    fn send(&mut self, location: &Url) -> Result<Option<Came>> {
        let left = self.blob.size - self.at;
        let part = self.registry.part.load(Relaxed);
        if left == 0 || self.at == 0 && left <= part {
            return self.put(location, left);
        }
        let n = left.min(part);
        let range = Some((self.at, self.at + n - 1));
        let mut response = self.carry(Method::Patch, location, range, n)?;
        match response.status() {
            200 | 201 | 202 | 204 => {}
            413 => return self.smaller(&mut response, n),
            404 | 410 => return self.lost(&mut response),
            // It has another number of bytes than we think.
            416 => return Err(Failure::broken(refusal(&mut response).to_string()).into()),
            _ => return Err(refusal(&mut response).into()),
        }
        if let Some(next) = response.header("location") {
            self.location = Some(place(location, next)?);
        }
        let sent = self.at + n;
        match response.header("range").map(bytes_there) {
            // Some registries say it only when they are asked.
            None => self.has(sent),
            Some(Some(there)) if there > self.at && there <= sent => {
                if there < sent {
                    // It will take no more of the next one.
                    self.registry.part.fetch_min(SMALLEST.max(there - self.at), Relaxed);
                }
                self.has(there);
            }
            Some(there) => {
                let there = there.map_or("nobody knows what".into(), |n| format!("{n} bytes"));
                self.location = None;
                let text = format!("the registry has {there} of the {sent} bytes that were sent");
                return Err(Failure::broken(text).into());
            }
        }
        Ok(None)
    }

    /// Sends what is left, if something is, and ends the upload.
    fn put(&mut self, location: &Url, left: u64) -> Result<Option<Came>> {
        let mut url = location.clone();
        url.query_pairs_mut().append_pair("digest", &self.blob.digest.to_string());
        let mut response = self.carry(Method::Put, &url, None, left)?;
        match response.status() {
            201 | 204 => {
                same_digest(&response, &self.blob.digest)?;
                Ok(Some(Came::Sent))
            }
            413 if left > 0 => self.smaller(&mut response, left),
            404 | 410 => self.lost(&mut response),
            416 => Err(Failure::broken(refusal(&mut response).to_string()).into()),
            400 => {
                self.verify()?;
                let refused = refusal(&mut response);
                if !self.resumed {
                    return Err(refused.into());
                }
                // What it said it had was something else.
                self.location = None;
                self.resumed = false;
                Err(Failure::broken(refused.to_string()).into())
            }
            _ => Err(refusal(&mut response).into()),
        }
    }

    /// Goes on in smaller parts.
    fn smaller(&mut self, response: &mut Response, tried: u64) -> Result<Option<Came>> {
        let part = PART.min(tried / 2);
        if part < SMALLEST {
            let refused = refusal(response);
            return Err(refused)
                .hint(|| format!("it, or a proxy before it, takes no {tried} bytes at a time"));
        }
        // Other blobs would fare no better.
        self.registry.part.fetch_min(part, Relaxed);
        self.doubtful = true;
        Ok(None)
    }

    /// Begins anew when the registry knows nothing of the upload, unless that is because it has the blob.
    fn lost(&mut self, response: &mut Response) -> Result<Option<Came>> {
        let refused = refusal(response);
        if self.registry.has_blob(self.path, &self.blob.digest, self.blob.size)? {
            return Ok(Some(Came::Sent));
        }
        self.location = None;
        Err(Failure::broken(refused.to_string()).into())
    }

    /// Asks how much is there.
    fn ask(&mut self, location: &Url) -> Result<Option<Came>> {
        let mut response = self.asked(Method::Get, location, PUSH)?;
        match response.status() {
            200 | 202 | 204 => {
                if let Some(next) = response.header("location") {
                    self.location = Some(place(location, next)?);
                }
                self.doubtful = false;
                match response.header("range").and_then(bytes_there) {
                    // `0-0` may be one byte or none: docker-registry says it of both.
                    Some(there @ 2..) if there <= self.blob.size => {
                        self.resumed = true;
                        self.has(there);
                    }
                    _ => self.location = None,
                }
                Ok(None)
            }
            status if retry::may_pass(status) => Err(refusal(&mut response).into()),
            401 | 403 => Err(refusal(&mut response).into()),
            // It ended: because all had arrived, or for no good.
            _ => {
                self.doubtful = false;
                self.location = None;
                let (digest, size) = (&self.blob.digest, self.blob.size);
                let there = self.registry.has_blob(self.path, digest, size)?;
                Ok(there.then_some(Came::Sent))
            }
        }
    }

    /// Lets the registry forget what it has of the blob, if it seems to listen.
    fn cancel(&self, why: &anyhow::Error) {
        if let Some(location) = &self.location
            && find::<Failure>(why).is_none()
            && self.watch.goes_on()
        {
            // It would forget it in a week or so by itself.
            let _ = self.asked(Method::Delete, location, PUSH);
        }
    }

    /// Nothing is there.
    fn restart(&mut self) {
        self.resumed = false;
        self.has(0);
    }

    /// So much is there.
    fn has(&mut self, bytes: u64) {
        // It got further: what broke off is another matter than what never comes.
        if bytes >= self.most + FEWEST {
            self.most = bytes;
            self.tries.failed = 0;
        }
        match bytes.checked_sub(self.shown) {
            Some(more) => self.watch.sent(more),
            None => self.watch.withdrawn(self.shown - bytes),
        }
        (self.at, self.shown) = (bytes, bytes);
    }

    /// Sends a request without a body.
    fn asked(&self, method: Method, url: &Url, rights: Rights) -> Result<Response> {
        self.registry.authorized(self.path, rights, url, |authorization| {
            let request = Request { method, authorization, ..Request::default() };
            Ok((self.registry.http.send(url, &request)?, url.clone()))
        })
    }

    /// Sends `n` bytes of the blob, from where the registry is.
    fn carry(
        &mut self,
        method: Method,
        url: &Url,
        range: Option<(u64, u64)>,
        n: u64,
    ) -> Result<Response> {
        let Upload { registry, blob, watch, at, .. } = *self;
        let shown = std::cell::Cell::new(self.shown);
        let done = registry.authorized(self.path, PUSH, url, |authorization| {
            // For the second time, if the first only asked for credentials.
            watch.withdrawn(shown.get() - at);
            shown.set(at);
            let patience = registry.options.stall + Duration::from_secs(blob.size / SLOWEST);
            let request =
                http::Upload { method, authorization, media_type: BYTES, range, patience };
            let sent = |bytes| {
                shown.set(shown.get() + bytes);
                watch.sent(bytes);
            };
            let reader = &mut Part { file: blob.file, at, watch };
            let content = Content { length: n, reader, sent: &sent };
            Ok((registry.http.upload(url, &request, content)?, url.clone()))
        });
        self.shown = shown.get();
        done
    }

    /// Makes sure that what was sent is the blob.
    fn verify(&self) -> Result<()> {
        let mut hasher = self.blob.digest.hasher();
        let mut reader = Part { file: self.blob.file, at: 0, watch: self.watch };
        let mut buffer = vec![0; 128 << 10];
        loop {
            match reader.read(&mut buffer)? {
                0 => break,
                n => hasher.update(&buffer[..n]),
            }
        }
        let found = hasher.finish();
        ensure!(found == self.blob.digest, "corrupt: it hashes to {found}");
        Ok(())
    }
}

/// Reads a file from some place on, for as long as somebody wants it.
struct Part<'a> {
    file: &'a File,
    at: u64,
    watch: &'a dyn Watch,
}

impl Read for Part<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if !self.watch.goes_on() {
            return Err(io::Error::other("given up"));
        }
        let n = self.file.read_at(buf, self.at)?;
        self.at += n as u64;
        Ok(n)
    }
}

/// Returns where an upload goes on, unless that is not where the registry is.
fn place(from: &Url, location: &str) -> Result<Url> {
    let refuse = |why: &str| {
        let shown = sanitised(location.split('?').next().unwrap_or_default(), 100);
        bail!("{}: it sends an upload to {shown:?}, {why}", http::place(from))
    };
    if location.len() > LOCATION_LIMIT {
        return refuse("which is too long");
    }
    let Ok(mut url) = from.join(location) else { return refuse("which is no URL") };
    if !http::same_origin(from, &url) {
        return refuse("which is another place than the registry's");
    }
    // reqwest would make a password of it.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    url.set_fragment(None);
    Ok(url)
}

/// Fails if a response says that something has another digest.
fn same_digest(response: &Response, digest: &Digest) -> Result<()> {
    match response.header("docker-content-digest") {
        Some(other) if other != digest.to_string() => {
            bail!("the registry calls it {:?}, which is not {digest}", sanitised(other, 150))
        }
        _ => Ok(()),
    }
}

/// Reads how many bytes are there, from the first on: `0-99`.
fn bytes_there(range: &str) -> Option<u64> {
    let range = range.trim();
    let (first, last) = range.strip_prefix("bytes=").unwrap_or(range).split_once('-')?;
    match (first, last.parse::<u64>().ok()?) {
        // Nothing is there, or one byte.
        ("0", 0) => Some(0),
        ("0", last) => last.checked_add(1),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
