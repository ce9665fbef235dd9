//! From a request to its answer: who asks, what for, and whether it may be had.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::anyhow;
use common::digest::Digest;
use common::layout::Layout;
use hyper::body::Incoming;
use hyper::header::{
    CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue,
};
use hyper::{Method, Request, Response, StatusCode};
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;

use crate::answer::{self, Answer, Code, Problem, not_allowed, refuse};
use crate::auth::Htpasswd;
use crate::body::Body;
use crate::crowd::Busy;
use crate::log::Log;
use crate::pull::{Shelf, unknown_blob};
use crate::push;
use crate::range;
use crate::receive;
use crate::route::{Query, Route, Wrong};
use crate::uploads::{Upload, Uploads};

const API_VERSION: HeaderName = HeaderName::from_static("docker-distribution-api-version");
const NOSNIFF: HeaderName = HeaderName::from_static("x-content-type-options");

/// What somebody hears who would write where nobody may.
const READ_ONLY: &str = "this registry is read-only";

/// How many large manifests are in memory at a time on their way in.
const MANIFESTS: usize = 8;

/// A layout, and the rules under which it is served.
pub struct Site {
    shelf: Shelf,
    /// Where it may be written to.
    uploads: Option<Uploads>,
    auth: Option<Arc<Htpasswd>>,
    stall: Duration,
    manifests: Semaphore,
    log: Log,
}

/// A request without its body.
struct Asked {
    method: Method,
    route: Route,
    query: Query,
    headers: HeaderMap,
    user: Option<String>,
}

impl Site {
    pub fn new(
        layout: &'static Layout,
        uploads: Option<Uploads>,
        auth: Option<Arc<Htpasswd>>,
        stall: Duration,
        log: Log,
    ) -> Arc<Site> {
        let (shelf, manifests) = (Shelf::new(layout), Semaphore::new(MANIFESTS));
        Arc::new(Site { shelf, uploads, auth, stall, manifests, log })
    }

    pub fn stall(&self) -> Duration {
        self.stall
    }

    /// Returns the uploads, where there may be any.
    pub fn uploads(&self) -> Option<&Uploads> {
        self.uploads.as_ref()
    }

    /// Forgets and removes what nobody went on with for too long.
    pub fn expire(self: &Arc<Site>, now: Instant) {
        let forgotten = self.uploads.as_ref().map(|uploads| uploads.expire(now));
        let Some(forgotten) = forgotten.filter(|forgotten| !forgotten.is_empty()) else { return };
        let site = self.clone();
        spawn_blocking(move || {
            if let Err(err) = push::remove(&site.shelf, forgotten) {
                site.log.failure(&Method::DELETE, "forgotten blobs", &err);
            }
        });
    }

    fn writable(&self) -> Result<&Uploads, Problem> {
        match &self.uploads {
            Some(uploads) => Ok(uploads),
            None => refuse(Code::Unsupported, READ_ONLY),
        }
    }

    /// Answers a request.
    pub async fn handle(
        self: Arc<Site>,
        request: Request<Incoming>,
        peer: SocketAddr,
        busy: Busy,
    ) -> Response<Body> {
        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
        let answer = match self.clone().answer(request).await {
            Ok(answer) => answer,
            Err(Problem::Refused(answer)) => *answer,
            Err(Problem::Ours(err)) => {
                self.log.failure(&method, &path, &err);
                answer::ours(&err)
            }
        };
        self.log.access(peer, &method, &path, answer.status, answer.content.len());
        let answer = if method == Method::HEAD { answer.without_body() } else { answer };
        let mut response = Response::new(Body::new(answer.content, busy));
        *response.status_mut() = answer.status;
        *response.headers_mut() = answer.headers;
        response.headers_mut().insert(API_VERSION, HeaderValue::from_static("registry/2.0"));
        response.headers_mut().insert(NOSNIFF, HeaderValue::from_static("nosniff"));
        response
    }

    async fn answer(self: Arc<Site>, request: Request<Incoming>) -> Result<Answer, Problem> {
        let (head, body) = request.into_parts();
        // Before anything else is looked at: a stranger learns nothing.
        let user = match &self.auth {
            Some(auth) => Some(auth.check(&head.headers).await?),
            None => None,
        };
        let route = match Route::parse(head.uri.path()) {
            Ok(route) => route,
            Err(Wrong::Name) => return refuse(Code::NameInvalid, "not a repository's name"),
            Err(Wrong::Path) => {
                let (status, code) = (StatusCode::NOT_FOUND, Code::Unsupported);
                return Err(Problem::from(answer::error_as(status, code, "no such endpoint")));
            }
        };
        let query = Query::parse(head.uri.query().unwrap_or_default());
        let asked = Asked { method: head.method, route, query, headers: head.headers, user };
        self.check_method(&asked)?;
        // A task of its own: a client that goes away does not take half an upload with it.
        let answering = tokio::spawn(self.dispatch(asked, body));
        answering.await.map_err(|err| Problem::Ours(anyhow!(err)))?
    }

    /// Refuses what is not done with such a thing, or not here.
    fn check_method(&self, asked: &Asked) -> Result<(), Problem> {
        let read = [Method::GET, Method::HEAD];
        let mut allowed: Vec<Method> = match &asked.route {
            Route::Uploads { .. } | Route::Upload { .. } => Vec::new(),
            _ => read.to_vec(),
        };
        if self.uploads.is_some() {
            allowed.extend_from_slice(match &asked.route {
                Route::Manifest { .. } => &[Method::PUT, Method::DELETE],
                Route::Blob { .. } => &[Method::DELETE],
                Route::Uploads { .. } => &[Method::POST],
                Route::Upload { .. } => &[Method::GET, Method::PATCH, Method::PUT, Method::DELETE],
                _ => &[],
            });
        }
        if allowed.contains(&asked.method) {
            return Ok(());
        }
        let message = match (&self.uploads, read.contains(&asked.method)) {
            (None, false) => READ_ONLY,
            _ => "not done here",
        };
        Err(Problem::from(not_allowed(&allowed, message)))
    }

    async fn dispatch(self: Arc<Site>, asked: Asked, body: Incoming) -> Result<Answer, Problem> {
        match (&asked.route, &asked.method) {
            (Route::Manifest { .. }, &Method::PUT) => self.put_manifest(asked, body).await,
            (Route::Uploads { .. }, _) => self.begin(asked, body).await,
            (Route::Upload { .. }, _) => self.go_on(asked, body).await,
            _ => blocking(move || self.look(asked)).await,
        }
    }

    /// Answers what needs no body.
    fn look(&self, asked: Asked) -> Result<Answer, Problem> {
        let shelf = &self.shelf;
        let delete = asked.method == Method::DELETE;
        match (asked.route, &self.uploads) {
            (Route::Root, _) => Ok(Answer::bytes("application/json", "{}")),
            (Route::Catalog, _) => shelf.catalog(&asked.query),
            (Route::Tags { name }, _) => shelf.tags(&name, &asked.query),
            (Route::Referrers { name, digest }, _) => shelf.referrers(&name, &digest, &asked.query),
            (Route::Manifest { name, reference }, Some(uploads)) if delete => {
                push::delete_manifest(shelf, uploads, &name, &reference)
            }
            (Route::Manifest { name, reference }, _) => {
                shelf.manifest(&name, &reference, &asked.headers)
            }
            (Route::Blob { name, digest }, Some(uploads)) if delete => {
                push::delete_blob(shelf, uploads, &name, &digest)
            }
            (Route::Blob { name, digest }, uploads) => {
                let Ok(digest) = digest.parse::<Digest>() else {
                    return refuse(Code::DigestInvalid, format!("{digest}: not a digest"));
                };
                let expected = |uploads: &Uploads| uploads.is_expected(&name, &digest);
                let expected = uploads.as_ref().is_some_and(expected);
                match shelf.repository(&name)? {
                    _ if expected => shelf.blob(&digest, &asked.headers),
                    Some(found) if found.has(&digest) => shelf.blob(&digest, &asked.headers),
                    Some(_) => unknown_blob(&digest),
                    None => refuse(Code::NameUnknown, format!("{name}: no such repository")),
                }
            }
            // These need a body.
            (Route::Uploads { .. } | Route::Upload { .. }, _) => {
                refuse(Code::Unsupported, "not done here")
            }
        }
    }

    async fn put_manifest(
        self: Arc<Site>,
        asked: Asked,
        body: Incoming,
    ) -> Result<Answer, Problem> {
        let Route::Manifest { name, reference } = asked.route else {
            return refuse(Code::Unsupported, "not done here");
        };
        let too_large = || Err(Problem::from(push::too_large()));
        if length(&asked.headers).is_some_and(|length| length >= push::manifest_limit() as u64) {
            return too_large();
        }
        let limit = push::manifest_limit() - 1;
        let read = receive::document(body, limit, self.stall, &self.manifests).await?;
        let Some((bytes, _room)) = read else { return too_large() };
        let media_type = text(&asked.headers, CONTENT_TYPE)
            .map(|media_type| media_type.split(';').next().unwrap_or_default().trim().to_owned());
        let site = self.clone();
        blocking(move || {
            let uploads = site.writable()?;
            let media_type = media_type.as_deref();
            push::put_manifest(&site.shelf, uploads, &name, &reference, media_type, &bytes)
        })
        .await
    }

    /// Begins an upload, which may be all of it already.
    async fn begin(self: Arc<Site>, asked: Asked, body: Incoming) -> Result<Answer, Problem> {
        let Route::Uploads { name } = asked.route else {
            return refuse(Code::Unsupported, "not done here");
        };
        if let Some(mount) = asked.query.get("mount").map(str::to_owned) {
            let from = asked.query.get("from").map(str::to_owned);
            let (site, name) = (self.clone(), name.clone());
            let mounted = blocking(move || {
                let uploads = site.writable()?;
                push::mount(&site.shelf, uploads, &name, &mount, from.as_deref())
            });
            if let Some(answer) = mounted.await? {
                return Ok(answer);
            }
        }
        let digest = match asked.query.get("digest") {
            Some(text) => Some(push::wanted_digest(Some(text))?),
            None => None,
        };
        if let Some(algorithm) = asked.query.get("digest-algorithm")
            && !["sha256", "sha512"].contains(&algorithm)
        {
            return refuse(
                Code::DigestInvalid,
                format!("{algorithm}: not an algorithm that is known here"),
            );
        }
        let (site, repository, user) = (self.clone(), name.clone(), asked.user.clone());
        let upload = blocking(move || site.writable()?.begin(&repository, user.as_deref())).await?;
        let Some(digest) = digest else {
            return Ok(push::progress(StatusCode::ACCEPTED, &name, &upload));
        };
        let done = self.clone().put(&name, &upload, digest, &asked.headers, body).await;
        if done.is_err() {
            // Nobody knows its ID.
            self.writable()?.end(&upload);
        }
        done
    }

    /// Goes on with an upload, ends it, or says where it stands.
    async fn go_on(self: Arc<Site>, asked: Asked, body: Incoming) -> Result<Answer, Problem> {
        let Route::Upload { name, id } = &asked.route else {
            return refuse(Code::Unsupported, "not done here");
        };
        let upload = self.writable()?.find(name, id, asked.user.as_deref())?;
        match asked.method {
            Method::PATCH => {
                let mut slot = upload.blob.lock().await;
                let expected = self.in_order(name, &upload, &asked.headers)?;
                let received = receive::chunk(&upload, &mut slot, body, expected, self.stall).await;
                self.end_if_broken(&upload, &received)?;
                received?;
                Ok(push::progress(StatusCode::ACCEPTED, name, &upload))
            }
            Method::PUT => {
                let digest = push::wanted_digest(asked.query.get("digest"))?;
                self.clone().put(name, &upload, digest, &asked.headers, body).await
            }
            Method::DELETE => {
                self.writable()?.end(&upload);
                // Whoever is writing to it finds it gone at the end.
                if let Ok(mut slot) = upload.blob.try_lock() {
                    slot.take();
                }
                Ok(Answer::empty(StatusCode::NO_CONTENT))
            }
            _ => {
                // What is on its way from a connection that was cut counts, if it comes soon.
                let soon = tokio::time::timeout(Duration::from_secs(1), upload.blob.lock());
                drop(soon.await);
                Ok(push::progress(StatusCode::NO_CONTENT, name, &upload))
            }
        }
    }

    /// Takes the last part of an upload, and ends it.
    async fn put(
        self: Arc<Site>,
        name: &str,
        upload: &Arc<Upload>,
        digest: Digest,
        headers: &HeaderMap,
        body: Incoming,
    ) -> Result<Answer, Problem> {
        let mut slot = upload.blob.lock().await;
        let expected = self.in_order(name, upload, headers)?;
        let received = receive::chunk(upload, &mut slot, body, expected, self.stall).await;
        self.end_if_broken(upload, &received)?;
        received?;
        let Some(blob) = slot.take() else {
            return refuse(Code::BlobUploadUnknown, "no such upload");
        };
        let (site, name, upload) = (self.clone(), name.to_owned(), upload.clone());
        blocking(move || push::finish(site.writable()?, &name, &upload, blob, &digest)).await
    }

    /// Sees that a chunk begins where the last one ended; returns its length, if that is said.
    fn in_order(
        &self,
        name: &str,
        upload: &Upload,
        headers: &HeaderMap,
    ) -> Result<Option<u64>, Problem> {
        let Some(header) = headers.get(CONTENT_RANGE) else { return Ok(None) };
        let Some((start, len)) = header.to_str().ok().and_then(range::chunk) else {
            return refuse(Code::BlobUploadInvalid, "Content-Range is not FIRST-LAST");
        };
        if start != upload.received() {
            return push::out_of_order(name, upload);
        }
        if length(headers).is_some_and(|length| length != len) {
            return refuse(Code::SizeInvalid, "Content-Length is not that of Content-Range");
        }
        Ok(Some(len))
    }

    /// Ends an upload whose file is gone, after an error of ours.
    fn end_if_broken(
        &self,
        upload: &Upload,
        received: &Result<(), Problem>,
    ) -> Result<(), Problem> {
        if matches!(received, Err(Problem::Ours(_))) {
            self.writable()?.end(upload);
        }
        Ok(())
    }
}

/// Does what may wait for a disk or a lock on a thread that may wait.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Problem> + Send + 'static,
) -> Result<T, Problem> {
    spawn_blocking(work).await.map_err(|err| Problem::Ours(anyhow!(err)))?
}

fn text(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok()
}

fn length(headers: &HeaderMap) -> Option<u64> {
    text(headers, CONTENT_LENGTH)?.parse().ok()
}
