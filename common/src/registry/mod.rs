//! The distribution API: what a registry has, fetched and never taken on trust.
//!
//! ```text
//! GET /v2/REPOSITORY/manifests/TAG|DIGEST     a document, whole
//! GET /v2/REPOSITORY/blobs/DIGEST             a blob, from any offset
//! GET /v2/REPOSITORY/tags/list                names, page by page
//! POST, PATCH, PUT                            the other way: upload
//! ```
//!
//! Everything that comes back is a stranger's: lengths are bounded, redirects
//! are followed by rules, and credentials stay with the scheme, host and port they
//! were meant for. What passes by itself (a reset, a 503, a 429) is tried again, a
//! blob from where it broke off. A silence has a time limit, a long transfer none.

pub mod auth;
pub mod blob;
pub mod challenge;
pub mod failure;
pub mod http;
mod parallel;
pub mod retry;
pub mod tls;
pub mod upload;

#[cfg(test)]
mod fake;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::error::Error as StdError;
use std::fmt::{self, Display};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::atomic::AtomicU64;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Error, Result, anyhow, bail, ensure};
use jiff::Timestamp;
use oci_spec::image::{Descriptor, MediaType};
use serde::Deserialize;
use url::{Host, Url};

use crate::credentials::{Credentials, Files};
use crate::digest::Digest;
use crate::error::{Hint, find, line, sanitised};
use crate::image::{self, DOCKER_INDEX, DOCKER_MANIFEST, DOCUMENT_LIMIT};
use crate::reference::DOCKER_HUB;
use auth::{At, Auth, Rights};
use blob::Blob;
use failure::{Failure, Kind};
use http::{Http, Request, Response};

pub use parallel::{Others, parallel};

/// What is wrong with an answer in HTML.
const WEB_PAGE: &str = "it answers with a web page: is there a login page in between?";

/// The most redirects that lead to one answer.
const HOPS: usize = 10;

/// The most bytes of an answer that says what went wrong.
const ERROR_LIMIT: u64 = 1 << 20;

/// The most pages of a list of tags, and the most tags.
const PAGES: usize = 200;
const TAGS: usize = 100_000;

/// Takes a line for the user, from any thread.
pub type Notice = Box<dyn Fn(&str) + Send + Sync>;

/// What the user wants of all registries.
pub struct Options {
    /// Whether a certificate must be trusted, and plain HTTP is for this machine only.
    pub verify: bool,
    /// Credentials, in place of what is stored.
    pub credentials: Option<Credentials>,
    /// Where credentials are stored.
    pub files: Files,
    /// Where certificates are stored: `certs.d` directories.
    pub certs: Vec<PathBuf>,
    /// How often a request is tried again.
    pub retries: u32,
    /// The longest silence.
    pub stall: Duration,
    /// The pause before the first retry, about; it doubles.
    pub backoff: Duration,
    /// Is told why and when something is tried again.
    pub notice: Option<Notice>,
}

impl Options {
    /// Returns what holds if the user says nothing.
    pub fn of_user() -> Options {
        Options {
            verify: true,
            credentials: None,
            files: Files::of_user(None),
            certs: tls::directories(),
            retries: 4,
            stall: Duration::from_secs(30),
            backoff: Duration::from_millis(400),
            notice: None,
        }
    }
}

/// A registry. Nothing is sent, built or read until the first question.
pub struct Registry<'a> {
    domain: String,
    options: &'a Options,
    http: Http,
    auth: Auth,
    base: Mutex<Option<Url>>,
    /// The most bytes of a blob that it takes at a time.
    part: AtomicU64,
}

impl<'a> Registry<'a> {
    /// Returns the registry that references name `domain`.
    pub fn new(domain: &str, options: &'a Options) -> Registry<'a> {
        Registry {
            domain: domain.into(),
            options,
            http: Http::new(options.verify, options.stall, options.certs.clone()),
            auth: Auth::default(),
            base: Mutex::default(),
            part: AtomicU64::new(u64::MAX),
        }
    }

    /// Returns the manifest or index that `tag` names now, and its descriptor.
    pub fn manifest(&self, path: &str, tag: &str) -> Result<(Descriptor, Vec<u8>)> {
        self.document(path, tag, None)
    }

    /// Returns the manifest or index of this digest, which its bytes have.
    pub fn manifest_at(&self, path: &str, digest: &Digest) -> Result<(Descriptor, Vec<u8>)> {
        self.document(path, &digest.to_string(), Some(digest))
    }

    fn document(
        &self,
        path: &str,
        name: &str,
        digest: Option<&Digest>,
    ) -> Result<(Descriptor, Vec<u8>)> {
        let accept = format!(
            "{}, {}, {DOCKER_INDEX}, {DOCKER_MANIFEST}",
            MediaType::ImageIndex,
            MediaType::ImageManifest
        );
        let fetched = Tries::new(self.options).until(|| {
            let url = self.base()?.join(&format!("v2/{path}/manifests/{name}"))?;
            let mut response = self.get(path, &url, &accept, None)?;
            ensure!(response.status() == 200, refusal(&mut response));
            // What a proxy calls it is no matter; what it did to it is.
            encoded(&response)?;
            let media_type = response.header("content-type").unwrap_or_default().to_owned();
            let bytes = response.read_up_to(DOCUMENT_LIMIT)?;
            let size = bytes.len() as u64;
            ensure!(size <= DOCUMENT_LIMIT, "the manifest is larger than {DOCUMENT_LIMIT} bytes");
            Ok((media_type, bytes))
        });
        let (media_type, bytes) = match fetched {
            Ok(fetched) => fetched,
            Err(err) => match find::<Refused>(&err) {
                Some(Refused { status: 404, code, .. }) => {
                    let repository = format!("{}/{path}", self.domain);
                    return Err(NotFound { repository, unknown: code == "NAME_UNKNOWN" }.into());
                }
                _ => return Err(err),
            },
        };
        let found = match digest {
            Some(digest) => {
                let mut hasher = digest.hasher();
                hasher.update(&bytes);
                let found = hasher.finish();
                ensure!(
                    found == *digest,
                    "the registry sent other bytes for {digest}: they hash to {found}"
                );
                found
            }
            None => Digest::of(&bytes),
        };
        let media_type = media_type_of(&media_type, &bytes)?;
        Ok((
            Descriptor::new(MediaType::from(media_type.as_str()), bytes.len() as u64, &found),
            bytes,
        ))
    }

    /// Returns the blob of a descriptor, from `offset` on.
    pub fn blob<'b>(&'b self, path: &'b str, digest: &Digest, size: u64, offset: u64) -> Blob<'b> {
        Blob::new(self, path, digest, size, offset)
    }

    /// Returns the names of a repository's images, as the registry orders them, or the first `enough` and some more.
    ///
    /// What fails is tried again `retries` times.
    pub fn tags(&self, path: &str, enough: usize, retries: u32) -> Result<Vec<String>> {
        #[derive(Deserialize)]
        struct Page {
            tags: Option<Vec<String>>,
        }
        let mut url = self.base()?.join(&format!("v2/{path}/tags/list?n=1000"))?;
        let mut seen = BTreeSet::new();
        let mut tags = Vec::new();
        for _ in 0..PAGES {
            let mut tries = Tries { retries, ..Tries::new(self.options) };
            let (link, bytes) = tries.until(|| {
                let mut response = self.get(path, &url, "application/json", None)?;
                ensure!(response.status() == 200, refusal(&mut response));
                Ok((
                    response.header("link").map(str::to_owned),
                    response.read_up_to(DOCUMENT_LIMIT)?,
                ))
            })?;
            ensure!(bytes.len() as u64 <= DOCUMENT_LIMIT, "the list of tags is too long");
            let Ok(page) = serde_json::from_slice::<Page>(&bytes) else {
                bail!("{}: its answer is no list of tags", self.domain);
            };
            for tag in page.tags.unwrap_or_default() {
                if is_tag(&tag) && seen.insert(tag.clone()) {
                    tags.push(tag);
                }
            }
            ensure!(tags.len() <= TAGS, "more than {TAGS} tags");
            match link.as_deref().and_then(next_page) {
                Some(next) if tags.len() < enough => {
                    let next = url.join(next).context("the list of tags")?;
                    ensure!(
                        http::same_origin(&url, &next),
                        "the list of tags continues on another host"
                    );
                    url = next;
                }
                _ => return Ok(tags),
            }
        }
        bail!("the list of tags has more than {PAGES} pages");
    }

    /// Returns the registry's URL, which the first call finds out.
    fn base(&self) -> Result<Url> {
        let mut base = self.base.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(base) = &*base {
            return Ok(base.clone());
        }
        let host = match self.domain.as_str() {
            DOCKER_HUB => "registry-1.docker.io",
            domain => domain,
        };
        let parse = |scheme| {
            Url::parse(&format!("{scheme}://{host}/"))
                .with_context(|| format!("{host:?}: no registry"))
        };
        let (https, plain) = (parse("https")?, parse("http")?);
        let found = if http::is_loopback(&https) {
            let patience = self.options.stall.min(Duration::from_secs(2));
            let spoken = tls::spoken_at(&http::loopback_addresses(&https), patience);
            if spoken.unwrap_or(false) { https } else { plain }
        } else if self.options.verify {
            https
        } else {
            match self.http.send(&https.join("v2/")?, &Request::default()) {
                Ok(_) => https,
                Err(err) => match find::<Failure>(&err).map(|failure| failure.kind) {
                    Some(Kind::NotTls | Kind::Refused | Kind::Broken) => plain,
                    _ => return Err(err),
                },
            }
        };
        *base = Some(found.clone());
        Ok(found)
    }

    /// Shows the registry who the user is; returns whether it asked.
    pub fn enter(&self) -> Result<bool> {
        Tries::new(self.options).until(|| {
            let url = self.base()?.join("v2/")?;
            let mut response = self.authorized("", Rights::Enter, &url, |authorization| {
                let request = Request { authorization, ..Request::default() };
                follow(&self.http, self.options.verify, &url, request)
            })?;
            let page = response.header("content-type").unwrap_or_default();
            ensure!(!page.starts_with("text/html"), WEB_PAGE);
            match response.status() {
                200 => Ok(self.auth.was_asked()),
                404 => bail!("{}: it is no registry", self.domain),
                _ => Err(refusal(&mut response).into()),
            }
        })
    }

    /// Asks for something to pull.
    fn get(&self, path: &str, url: &Url, accept: &str, from: Option<u64>) -> Result<Response> {
        self.authorized(path, Rights::Pull, url, |authorization| {
            let request = Request { accept, authorization, from, ..Request::default() };
            follow(&self.http, self.options.verify, url, request)
        })
    }

    /// Sends a request, authenticates if it must, and returns the last response.
    ///
    /// `send` is given an `Authorization` header, and returns what came and from where.
    fn authorized(
        &self,
        path: &str,
        rights: Rights,
        url: &Url,
        mut send: impl FnMut(Option<&str>) -> Result<(Response, Url)>,
    ) -> Result<Response> {
        let base = self.base()?;
        let (http, options, domain) = (&self.http, self.options, &self.domain);
        let at = At { http, options, domain, base: &base, path, rights };
        let used = self.auth.header(&at).context(self.domain.clone())?;
        let (response, last) = send(used.as_deref())?;
        if response.status() != 401 {
            return Ok(response);
        }
        if !http::same_origin(&last, url) {
            bail!(
                "{}: it sends to {}, which wants credentials: they are not for it",
                self.domain,
                http::place(&last)
            );
        }
        let challenges: Vec<_> = response
            .headers("www-authenticate")
            .iter()
            .flat_map(|it| challenge::parse(it))
            .collect();
        let renewed =
            self.auth.renew(&at, used.as_deref(), &challenges).context(self.domain.clone())?;
        let (mut response, last) = send(Some(&renewed))?;
        let ours = http::same_origin(&last, url);
        if ours && response.status() == 401 && renewed.starts_with("Basic ") {
            return at.refuse(format!("{}: its credentials are refused", self.domain));
        }
        if ours && matches!(response.status(), 401 | 403) {
            let refused = Err(refusal(&mut response));
            let login = auth::login(&self.domain);
            return match rights {
                Rights::Enter => refused.context(self.domain.clone()),
                // Docker Hub says the same of what is private and of what does not exist.
                Rights::Pull => refused.hint(|| format!("no such repository, or {login}")),
                Rights::Push { .. } => {
                    refused.hint(|| format!("no right to push there, or {login}"))
                }
            };
        }
        Ok(response)
    }
}

/// Sends a request and follows where it is sent, by rules. Secrets stay with the first origin.
///
/// With `verify`, nobody is led from HTTPS to plain HTTP.
pub fn follow(
    http: &Http,
    verify: bool,
    url: &Url,
    mut request: Request,
) -> Result<(Response, Url)> {
    let mut url = url.clone();
    for _ in 0..=HOPS {
        let response = http.send(&url, &request)?;
        let location = match response.status() {
            301 | 302 | 303 | 307 | 308 if request.form.is_none() => response.header("location"),
            _ => return Ok((response, url)),
        };
        let Some(location) = location else {
            bail!("{}: a redirect to nowhere", http::place(&url));
        };
        let next = hop(&url, location, verify)?;
        if !http::same_origin(&url, &next) {
            request.authorization = None;
        }
        url = next;
    }
    bail!("{}: more than {HOPS} redirects", http::place(&url));
}

/// Returns where a redirect leads, unless nobody may be led there.
fn hop(from: &Url, location: &str, verify: bool) -> Result<Url> {
    let refuse = |why: &str| {
        let shown = sanitised(location, 100);
        Err(anyhow!("{}: a redirect to {shown:?}, {why}", http::place(from)))
    };
    let Ok(mut next) = from.join(location) else { return refuse("which is no URL") };
    if !matches!(next.scheme(), "http" | "https") || next.host().is_none() {
        return refuse("which is no web address");
    }
    if from.scheme() == "https" && next.scheme() == "http" && verify {
        return refuse("which is plain HTTP").hint(|| "--tls-verify=false if that is meant".into());
    }
    // A registry elsewhere has no business with what only this machine or its link can reach.
    let local = |address: IpAddr| match address.to_canonical() {
        IpAddr::V4(it) => it.is_loopback() || it.is_link_local() || it.is_unspecified(),
        IpAddr::V6(it) => it.is_loopback() || it.is_unicast_link_local() || it.is_unspecified(),
    };
    let is_local = match next.host() {
        Some(Host::Domain(name)) => {
            let name = name.trim_end_matches('.');
            name == "localhost" || name.ends_with(".localhost")
        }
        Some(Host::Ipv4(it)) => local(it.into()),
        Some(Host::Ipv6(it)) => local(it.into()),
        None => false,
    };
    if is_local && from.host() != next.host() && !http::is_loopback(from) {
        return refuse("which is for this machine alone");
    }
    // reqwest would make a password of it.
    let _ = next.set_username("");
    let _ = next.set_password(None);
    Ok(next)
}

/// Counts the tries of one thing.
struct Tries<'a> {
    options: &'a Options,
    retries: u32,
    failed: u32,
}

impl Tries<'_> {
    fn new(options: &Options) -> Tries<'_> {
        Tries { options, retries: options.retries, failed: 0 }
    }

    /// Does it until it succeeds or fails for good.
    fn until<T>(&mut self, mut it: impl FnMut() -> Result<T>) -> Result<T> {
        loop {
            match it() {
                Ok(done) => return Ok(done),
                Err(err) => self.wait(err)?,
            }
        }
    }

    /// Waits before another try, or returns the error if that would not help.
    fn wait(&mut self, err: Error) -> Result<()> {
        if !may_pass(&err) || self.failed >= self.retries {
            return Err(err);
        }
        let refused = find::<Refused>(&err);
        let mut pause = retry::pause(self.options.backoff, self.failed);
        if let Some(after) = refused.and_then(|refused| refused.after) {
            if after > retry::PATIENCE {
                return Err(err.context(format!("asked to wait {} s", after.as_secs())));
            }
            pause = pause.max(after);
        }
        if let Some(notice) = &self.options.notice {
            notice(&format!("{}: trying again in {:.1} s", line(&err), pause.as_secs_f32()));
        }
        self.failed += 1;
        thread::sleep(pause);
        Ok(())
    }
}

/// Returns whether another try may do better.
fn may_pass(err: &Error) -> bool {
    match (find::<Failure>(err), find::<Refused>(err)) {
        (Some(failure), _) => failure.may_pass(),
        (_, Some(refused)) => retry::may_pass(refused.status),
        _ => false,
    }
}

/// A registry's no.
#[derive(Debug)]
pub struct Refused {
    /// The HTTP status.
    pub status: u16,
    /// The registry's word for it, as distribution-spec lists them: `DENIED`.
    pub code: String,
    message: String,
    after: Option<Duration>,
}

impl Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.status {
            401 | 403 => f.write_str("access denied")?,
            404 => f.write_str("not found")?,
            429 => f.write_str("too many requests")?,
            status => write!(f, "the registry answered {status}")?,
        }
        match (self.code.as_str(), self.message.as_str()) {
            ("", "") => Ok(()),
            ("", message) => write!(f, ": {message}"),
            (code, "") => write!(f, ": {code}"),
            (code, message) => write!(f, ": {code}: {message}"),
        }
    }
}

impl StdError for Refused {}

/// Reads what a registry says about its no.
fn refusal(response: &mut Response) -> Refused {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Body {
        errors: Vec<Item>,
    }
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Item {
        code: String,
        message: String,
    }
    let after = response.header("retry-after").and_then(|it| retry::after(it, Timestamp::now()));
    // What cannot be read is not worth more words: the status says enough.
    let body = response.read_up_to(ERROR_LIMIT).unwrap_or_default();
    let body: Body = serde_json::from_slice(&body).unwrap_or_default();
    let Item { code, message } = body.errors.into_iter().next().unwrap_or_default();
    Refused {
        status: response.status(),
        code: sanitised(&code, 40),
        message: sanitised(&message, 200),
        after,
    }
}

/// Fails if a body was packed on its way to us: its bytes are not the ones that have the digest.
fn encoded(response: &Response) -> Result<()> {
    match response.header("content-encoding") {
        Some(coding) if !coding.eq_ignore_ascii_case("identity") => {
            bail!("it came encoded as {:?}, which was not asked for", sanitised(coding, 40))
        }
        _ => Ok(()),
    }
}

/// A manifest that the registry does not have.
#[derive(Debug)]
pub struct NotFound {
    repository: String,
    /// The registry does not have the repository either.
    pub unknown: bool,
}

impl Display for NotFound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.unknown {
            true => write!(f, "no repository {}", self.repository),
            false => write!(f, "manifest not found in {}", self.repository),
        }
    }
}

impl StdError for NotFound {}

/// Returns the media type of a document: what the header says, or the document itself if the header says nothing.
fn media_type_of(header: &str, bytes: &[u8]) -> Result<String> {
    let said = header.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    match said.as_str() {
        "" | "application/json" | "application/octet-stream" | "text/plain" => {
            image::media_type_of(bytes)
        }
        "text/html" => bail!(WEB_PAGE),
        _ => Ok(said),
    }
}

/// Returns whether this may be a tag: distribution-spec, pulling manifests.
fn is_tag(tag: &str) -> bool {
    let ok = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
    (1..=128).contains(&tag.len()) && tag.bytes().all(ok) && !tag.starts_with(['.', '-'])
}

/// Returns the next page of a `Link` header: RFC 8288.
fn next_page(header: &str) -> Option<&str> {
    let (target, params) = header.strip_prefix('<')?.split_once('>')?;
    let params = params.to_ascii_lowercase().replace(['"', ' '], "");
    params.split([';', ',']).any(|param| param == "rel=next").then_some(target)
}
