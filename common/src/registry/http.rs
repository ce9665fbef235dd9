//! HTTP: the only module that names reqwest.
//!
//! A client is built when the first request needs one, and none is built for
//! what needs no network. Redirects are the caller's: nothing is followed here,
//! and so nothing is sent to where the caller did not say.
//!
//! A body that may be large goes another way than the rest ([`Http::upload`]): reqwest's blocking
//! client bounds the time that a body takes, where we bound a silence; and it forgets what the
//! server answers before all of a body was sent, which is how a server says no.

use std::collections::HashMap;
use std::io::{self, Cursor, ErrorKind, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use bytes::Bytes;
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{LookupIpStrategy, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use http_body::{Body, Frame, SizeHint};
use reqwest::blocking::{Client, Response as Live};
use reqwest::dns::{Name, Resolve, Resolving};
use reqwest::{Client as Sender, header, redirect};
use tokio::runtime::{Builder, Handle};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use url::{Host, Url};

use crate::registry::failure::{Failure, Kind, Unresolved};
use crate::registry::tls::{self, HostFiles};
use crate::sys::without_sigpipe;

/// Sends requests.
pub struct Http {
    verify: bool,
    stall: Duration,
    certs: Vec<PathBuf>,
    /// For what has no body to speak of.
    clients: Mutex<HashMap<Key, Client>>,
    /// For uploads.
    senders: Mutex<HashMap<Key, Sender>>,
    uploads: Mutex<Option<Loop>>,
}

/// The thread on which uploads are sent. It ends with this.
struct Loop {
    handle: Handle,
    _end: oneshot::Sender<()>,
}

/// What tells clients apart.
#[derive(PartialEq, Eq, Hash)]
struct Key {
    proxied: bool,
    tls: Tls,
}

/// How a client meets TLS.
#[derive(PartialEq, Eq, Hash)]
enum Tls {
    /// For http URLs: no authorities are read.
    Never,
    /// With the machine's authorities.
    Public,
    /// With files of this host's own.
    Host(String),
}

/// What is to be done with what a URL names. `PUT` and `PATCH` are for [`Http::upload`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Method {
    /// Say what it is.
    #[default]
    Get,
    /// Say whether it is there.
    Head,
    /// Make something of it.
    Post,
    /// Remove it.
    Delete,
    /// Put something there.
    Put,
    /// Add to it.
    Patch,
}

impl Method {
    fn name(self) -> reqwest::Method {
        match self {
            Method::Get => reqwest::Method::GET,
            Method::Head => reqwest::Method::HEAD,
            Method::Post => reqwest::Method::POST,
            Method::Delete => reqwest::Method::DELETE,
            Method::Put => reqwest::Method::PUT,
            Method::Patch => reqwest::Method::PATCH,
        }
    }
}

/// When a response is to be 304, and nothing else: RFC 9110, section 13.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unless<'a> {
    /// It has this entity tag: `If-None-Match`.
    Match(&'a str),
    /// It was not changed since this date: `If-Modified-Since`.
    Since(&'a str),
}

/// A request.
#[derive(Default)]
pub struct Request<'a> {
    /// What is to be done.
    pub method: Method,
    /// The `Accept` header.
    pub accept: &'a str,
    /// The `Authorization` header.
    pub authorization: Option<&'a str>,
    /// The first byte that is wanted, if not all are.
    pub from: Option<u64>,
    /// When nothing is wanted.
    pub unless: Option<Unless<'a>>,
    /// A form, which makes it a POST.
    pub form: Option<String>,
}

impl Http {
    /// Returns a sender that gives up on a silence of `stall`.
    pub fn new(verify: bool, stall: Duration, certs: Vec<PathBuf>) -> Http {
        Http {
            verify,
            stall,
            certs,
            clients: Mutex::default(),
            senders: Mutex::default(),
            uploads: Mutex::default(),
        }
    }

    /// Sends a request and returns the response, whatever its status is. It follows no redirect.
    pub fn send(&self, url: &Url, request: &Request) -> Result<Response> {
        let client = self.client(url, &self.clients, |builder| {
            let builder = reqwest::blocking::ClientBuilder::from(builder);
            // Of connecting, of the response's head, of each read: not of the whole.
            without_sigpipe(|| builder.timeout(self.stall).build())
        })?;
        let mut builder = match &request.form {
            Some(form) => client
                .post(url.as_str())
                .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
                .body(form.clone()),
            // Without a length Google's registries answer 411: distribution-spec, pushing blobs.
            None if request.method == Method::Post => {
                client.post(url.as_str()).header(header::CONTENT_LENGTH, 0)
            }
            None => client.request(request.method.name(), url.as_str()),
        };
        // What a proxy on the way unpacks has another digest.
        builder = builder.header(header::ACCEPT_ENCODING, "identity");
        if !request.accept.is_empty() {
            builder = builder.header(header::ACCEPT, request.accept);
        }
        if let Some(from) = request.from {
            builder = builder.header(header::RANGE, format!("bytes={from}-"));
        }
        builder = match request.unless {
            Some(Unless::Match(etag)) => builder.header(header::IF_NONE_MATCH, etag),
            Some(Unless::Since(date)) => builder.header(header::IF_MODIFIED_SINCE, date),
            None => builder,
        };
        if let Some(text) = request.authorization {
            builder = builder.header(header::AUTHORIZATION, secret(text)?);
        }
        match builder.send() {
            Ok(live) => Ok(Response::new(Inner::Live(Box::new(live)), self.stall)),
            Err(err) => Failure::of(&err, err.is_timeout(), url, self.stall).into_error(url),
        }
    }

    /// Sends a request with a body that is read as it is sent, and returns the response, whatever its status is.
    ///
    /// The response may come before all was sent. Its body is cut short where it is long or slow.
    pub fn upload(&self, url: &Url, request: &Upload, content: Content) -> Result<Response> {
        let client = self.client(url, &self.senders, |builder| builder.build())?;
        let pace = Arc::new(Mutex::new(Pace {
            last: Instant::now(),
            all: content.length == 0,
            stall: self.stall,
            patience: self.stall.max(request.patience),
        }));
        let (feed, pieces) = mpsc::channel(PIECES);
        let body = Pieces { pieces, left: content.length, pace: pace.clone() };
        let mut builder = client
            .request(request.method.name(), url.as_str())
            .header(header::CONTENT_TYPE, request.media_type)
            .header(header::CONTENT_LENGTH, content.length);
        if let Some((first, last)) = request.range {
            // Without a unit: distribution-spec, pushing a blob in chunks.
            builder = builder.header(header::CONTENT_RANGE, format!("{first}-{last}"));
        }
        if let Some(text) = request.authorization {
            builder = builder.header(header::AUTHORIZATION, secret(text)?);
        }
        let message = builder.body(reqwest::Body::wrap(body)).build()?;
        let (answer, answered) = std::sync::mpsc::channel();
        let stall = self.stall;
        let uploads = self.uploads()?;
        let over = Arc::new(AtomicBool::new(false));
        let is_over = over.clone();
        uploads.spawn(async move {
            let answered = exchange(&client, message, &pace, stall).await;
            over.store(true, Relaxed);
            // Who asked waits for it.
            let _ = answer.send(answered);
        });
        let local = content.feed(&uploads, &feed, &is_over);
        drop(feed);
        let answer = answered.recv();
        local?;
        match answer {
            Ok(Ok(whole)) => Ok(Response::new(Inner::Whole(Box::new(whole)), self.stall)),
            Ok(Err(Trouble::Silence(limit))) => Failure::silence(url, limit).into_error(url),
            Ok(Err(Trouble::Client(err))) => {
                Failure::of(&err, err.is_timeout(), url, self.stall).into_error(url)
            }
            Err(_) => bail!("{}: the thread of the uploads has ended", place(url)),
        }
    }

    /// Returns the thread on which uploads are sent.
    fn uploads(&self) -> Result<Handle> {
        let mut uploads = self.uploads.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(running) = &*uploads {
            return Ok(running.handle.clone());
        }
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (end, ended) = oneshot::channel::<()>();
        let run = move || drop(runtime.block_on(ended));
        without_sigpipe(|| thread::Builder::new().name("uploads".into()).spawn(run))?;
        *uploads = Some(Loop { handle: handle.clone(), _end: end });
        Ok(handle)
    }

    /// Returns the client for a URL, which `build` makes if `known` has none yet.
    fn client<C: Clone>(
        &self,
        url: &Url,
        known: &Mutex<HashMap<Key, C>>,
        build: impl FnOnce(reqwest::ClientBuilder) -> reqwest::Result<C>,
    ) -> Result<C> {
        // As Go's clients do: what is on this machine is never reached through a proxy.
        let proxied = !is_loopback(url);
        let mut files = HostFiles::default();
        let tls = if url.scheme() == "https" {
            let host = place(url);
            files = HostFiles::read(&self.certs, &spellings(url))?;
            if files.is_empty() { Tls::Public } else { Tls::Host(host) }
        } else {
            Tls::Never
        };
        let key = Key { proxied, tls };
        let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = known.get(&key) {
            return Ok(client.clone());
        }
        let config = match key.tls {
            Tls::Never => tls::none()?,
            _ => tls::config(files, self.verify)?,
        };
        let mut builder = Sender::builder()
            .user_agent(concat!("tare/", env!("CARGO_PKG_VERSION")))
            .redirect(redirect::Policy::none())
            .referer(false)
            .connect_timeout(self.stall)
            .dns_resolver(Arc::new(Resolver::default()))
            .tls_backend_preconfigured(config);
        if !proxied {
            builder = builder.no_proxy();
        }
        let client = build(builder)?;
        known.insert(key, client.clone());
        Ok(client)
    }
}

fn secret(text: &str) -> Result<header::HeaderValue> {
    let mut value = header::HeaderValue::from_str(text)?;
    value.set_sensitive(true);
    Ok(value)
}

/// The piece of a body that is read and sent.
const PIECE: usize = 64 << 10;

/// How many pieces wait to be sent.
const PIECES: usize = 4;

/// How long a piece waits until somebody looks whether it is still wanted.
const GLANCE: Duration = Duration::from_millis(100);

/// A request whose body is a [`Content`].
pub struct Upload<'a> {
    /// `PUT` or `PATCH`.
    pub method: Method,
    /// The `Authorization` header.
    pub authorization: Option<&'a str>,
    /// The `Content-Type` header.
    pub media_type: &'a str,
    /// The first and last byte of a part of a blob.
    pub range: Option<(u64, u64)>,
    /// The longest silence once all is sent, if that is more than other silences may be.
    pub patience: Duration,
}

/// A body that is read as it is sent.
pub struct Content<'a> {
    /// How many bytes it has.
    pub length: u64,
    /// Where they come from.
    pub reader: &'a mut dyn Read,
    /// Is told of bytes that are on their way.
    pub sent: &'a dyn Fn(u64),
}

impl Content<'_> {
    /// Hands over piece by piece, until all is sent or nobody wants more.
    ///
    /// The client keeps a body that it cannot get rid of even when the request is given up, so
    /// that alone is no sign that somebody wants more.
    fn feed(
        self,
        uploads: &Handle,
        feed: &mpsc::Sender<Option<Vec<u8>>>,
        is_over: &AtomicBool,
    ) -> Result<()> {
        let mut left = self.length;
        while left > 0 {
            let mut piece = vec![0; left.min(PIECE as u64) as usize];
            if let Err(err) = self.reader.read_exact(&mut piece) {
                // The request is to fail: its end would look like the end of the body.
                let _ = feed.try_send(None);
                return Err(err.into());
            }
            let n = piece.len() as u64;
            let room = loop {
                match uploads.block_on(async { timeout(GLANCE, feed.reserve()).await }) {
                    Ok(room) => break room,
                    Err(_) if is_over.load(Relaxed) => return Ok(()),
                    Err(_) => {}
                }
            };
            let Ok(room) = room else { break };
            room.send(Some(piece));
            (self.sent)(n);
            left -= n;
        }
        Ok(())
    }
}

/// The pieces of a body, as the client asks for them.
struct Pieces {
    /// Nothing, if the rest cannot be read.
    pieces: mpsc::Receiver<Option<Vec<u8>>>,
    left: u64,
    pace: Arc<Mutex<Pace>>,
}

impl Body for Pieces {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let piece = match self.pieces.poll_recv(context) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(piece) => piece,
        };
        let mut pace = self.pace.lock().unwrap_or_else(PoisonError::into_inner);
        pace.last = Instant::now();
        let left = match &piece {
            Some(Some(bytes)) => self.left.saturating_sub(bytes.len() as u64),
            _ => self.left,
        };
        pace.all = left == 0;
        drop(pace);
        self.left = left;
        Poll::Ready(match piece {
            Some(Some(bytes)) => Some(Ok(Frame::data(bytes.into()))),
            Some(None) => Some(Err(io::Error::other("cut short"))),
            None => None,
        })
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

/// When something was sent last, and how long nothing may happen from then on.
struct Pace {
    last: Instant,
    all: bool,
    stall: Duration,
    patience: Duration,
}

impl Pace {
    fn limit(&self) -> Duration {
        if self.all { self.patience } else { self.stall }
    }
}

/// Why there is no response to an upload.
enum Trouble {
    Silence(Duration),
    Client(reqwest::Error),
}

/// Sends a request, and gives up on a silence.
async fn exchange(
    client: &Sender,
    request: reqwest::Request,
    pace: &Mutex<Pace>,
    stall: Duration,
) -> Result<Whole, Trouble> {
    let mut response = pin!(client.execute(request));
    let mut response = loop {
        let (waited, limit) = {
            let pace = pace.lock().unwrap_or_else(PoisonError::into_inner);
            (pace.last.elapsed(), pace.limit())
        };
        if waited >= limit {
            return Err(Trouble::Silence(limit));
        }
        if let Ok(done) = timeout(limit - waited, &mut response).await {
            break done.map_err(Trouble::Client)?;
        }
    };
    let mut body = Vec::new();
    let rest = async {
        while body.len() < ANSWER_LIMIT
            && let Ok(Some(piece)) = response.chunk().await
        {
            body.extend_from_slice(&piece);
        }
    };
    // The head says it all; what more there is to say is not worth an error.
    let _ = timeout(stall, rest).await;
    let (status, url) = (response.status().as_u16(), response.url().clone());
    let headers = std::mem::take(response.headers_mut());
    Ok(Whole { status, headers, url, body: Cursor::new(body) })
}

/// Returns a URL's host and port, as certs.d names a directory.
pub fn place(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    match url.port() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    }
}

fn spellings(url: &Url) -> Vec<String> {
    let mut names = vec![place(url)];
    if let (Some(host), None) = (url.host_str(), url.port()) {
        names.push(format!("{host}:443"));
    }
    // Docker Hub is known by its short name.
    if url.host_str() == Some("registry-1.docker.io") {
        names.push("docker.io".into());
    }
    names
}

/// Returns whether `url` is on this machine.
pub fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

/// Returns the addresses of a URL on this machine.
pub fn loopback_addresses(url: &Url) -> Vec<SocketAddr> {
    let port = url.port_or_known_default().unwrap_or_default();
    let hosts: Vec<IpAddr> = match url.host() {
        Some(Host::Ipv4(address)) => vec![address.into()],
        Some(Host::Ipv6(address)) => vec![address.into()],
        _ => vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()],
    };
    hosts.into_iter().map(|host| SocketAddr::new(host, port)).collect()
}

/// Returns whether both are the same scheme, host and port, so that one's secrets may go to the other.
pub fn same_origin(a: &Url, b: &Url) -> bool {
    a.scheme() == b.scheme()
        && a.host() == b.host()
        && a.port_or_known_default() == b.port_or_known_default()
}

/// The fewest bytes that must come while we wait for as long as a silence may be.
///
/// A byte now and then is no silence, and would hold us for years.
pub const FEWEST: u64 = 1 << 10;

/// The most of an answer to an upload that is read, or a bit more.
const ANSWER_LIMIT: usize = 64 << 10;

/// A response: its head has been read, its body not.
pub struct Response {
    inner: Inner,
    stall: Duration,
    /// How long we have waited for the bytes that came since they were last enough.
    waited: Duration,
    came: u64,
}

enum Inner {
    /// The body is to be read from the server.
    Live(Box<Live>),
    /// The body was read.
    Whole(Box<Whole>),
}

struct Whole {
    status: u16,
    headers: header::HeaderMap,
    url: Url,
    body: Cursor<Vec<u8>>,
}

impl Response {
    fn new(inner: Inner, stall: Duration) -> Response {
        Response { inner, stall, waited: Duration::ZERO, came: 0 }
    }

    /// Returns the status code.
    pub fn status(&self) -> u16 {
        match &self.inner {
            Inner::Live(live) => live.status().as_u16(),
            Inner::Whole(whole) => whole.status,
        }
    }

    fn head(&self) -> &header::HeaderMap {
        match &self.inner {
            Inner::Live(live) => live.headers(),
            Inner::Whole(whole) => &whole.headers,
        }
    }

    /// Returns where it came from.
    pub fn url(&self) -> &Url {
        match &self.inner {
            Inner::Live(live) => live.url(),
            Inner::Whole(whole) => &whole.url,
        }
    }

    /// Returns a header, if it is there once at least and is text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head().get(name)?.to_str().ok()
    }

    /// Returns all headers of this name.
    pub fn headers(&self, name: &str) -> Vec<String> {
        let values = self.head().get_all(name).iter();
        values.filter_map(|value| value.to_str().ok().map(str::to_owned)).collect()
    }

    /// Returns the length of the body as the head has it.
    pub fn length(&self) -> Option<u64> {
        self.header("content-length")?.parse().ok()
    }

    /// Reads some of the body; 0 bytes are its end.
    pub fn read(&mut self, buf: &mut [u8]) -> Result<usize> {
        loop {
            let start = Instant::now();
            let read = match &mut self.inner {
                Inner::Live(live) => live.read(buf),
                Inner::Whole(whole) => whole.body.read(buf),
            };
            match read {
                Ok(n) => return self.weighed(n, start.elapsed()),
                Err(err) if err.kind() == ErrorKind::Interrupted => {}
                Err(err) => {
                    let url = self.url().clone();
                    let cause = err.get_ref().and_then(|err| err.downcast_ref::<reqwest::Error>());
                    let failure = match cause {
                        Some(err) => Failure::of(err, err.is_timeout(), &url, self.stall),
                        None => Failure { kind: Kind::Broken, text: err.to_string() },
                    };
                    return failure.into_error(&url);
                }
            }
        }
    }

    /// Returns `n`, the bytes that came after a wait, unless they come too slowly.
    fn weighed(&mut self, n: usize, wait: Duration) -> Result<usize> {
        self.came += n as u64;
        self.waited += wait;
        if n == 0 || self.waited < self.stall {
            return Ok(n);
        }
        if self.came < FEWEST {
            let url = self.url();
            let (came, waited) = (self.came, self.waited.as_secs_f32());
            let text = format!("{}: only {came} bytes came in {waited:.1} s", place(url));
            return Failure { kind: Kind::Stalled, text }.into_error(url);
        }
        (self.came, self.waited) = (0, Duration::ZERO);
        Ok(n)
    }

    /// Reads the body if it has at most `limit` bytes, else `limit` + 1 bytes of it.
    pub fn read_up_to(&mut self, limit: u64) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let mut buf = vec![0; 16 << 10];
        while bytes.len() as u64 <= limit {
            let room = (limit + 1 - bytes.len() as u64).min(buf.len() as u64) as usize;
            match self.read(&mut buf[..room])? {
                0 => break,
                n => bytes.extend_from_slice(&buf[..n]),
            }
        }
        Ok(bytes)
    }
}

/// Looks up addresses, in /etc/hosts and by DNS.
///
/// A static glibc cannot call getaddrinfo: it loads the NSS libraries of
/// whatever glibc the machine has. Nor is reqwest's own use of hickory for us: it
/// asks Google's servers on a machine without /etc/resolv.conf.
#[derive(Clone, Default)]
struct Resolver(Arc<OnceLock<TokioResolver>>);

impl Resolver {
    fn get(&self) -> Result<&TokioResolver, Unresolved> {
        if let Some(resolver) = self.0.get() {
            return Ok(resolver);
        }
        let mut builder = TokioResolver::builder_tokio().unwrap_or_else(|_| {
            TokioResolver::builder_with_config(
                ResolverConfig::default(),
                TokioRuntimeProvider::default(),
            )
        });
        builder.options_mut().ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
        let resolver =
            builder.build().map_err(|err| Unresolved { lasting: true, text: err.to_string() })?;
        Ok(self.0.get_or_init(|| resolver))
    }
}

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        let resolver = self.clone();
        Box::pin(async move {
            let addresses: Vec<SocketAddr> = match name.as_str() {
                "localhost" => {
                    let hosts: [IpAddr; 2] =
                        [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
                    hosts.map(|host| SocketAddr::new(host, 0)).into()
                }
                name => match resolver.get()?.lookup_ip(name).await {
                    Ok(found) => found.iter().map(|host| SocketAddr::new(host, 0)).collect(),
                    Err(err) if err.is_no_records_found() => {
                        return Err(
                            Unresolved { lasting: true, text: "no such host".into() }.into()
                        );
                    }
                    Err(err) => {
                        let text = format!("cannot look up its address: {err}");
                        return Err(Unresolved { lasting: false, text }.into());
                    }
                },
            };
            Ok(Box::new(addresses.into_iter()) as reqwest::dns::Addrs)
        })
    }
}
