//! HTTP: the only module that names reqwest.
//!
//! A client is built when the first request needs one, and none is built for
//! what needs no network. Redirects are the caller's: nothing is followed here,
//! and so nothing is sent to where the caller did not say.

use std::collections::HashMap;
use std::error::Error as StdError;
use std::fmt::{self, Display};
use std::io::{self, ErrorKind, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Error, Result};
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{LookupIpStrategy, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use reqwest::blocking::{Client, Response as Inner};
use reqwest::dns::{Name, Resolve, Resolving};
use reqwest::{header, redirect};
use rustls::AlertDescription as Alert;
use url::{Host, Url};

use crate::error::Hint;
use crate::registry::tls::{self, HostFiles};
use crate::registry::without_sigpipe;

/// Sends requests.
pub struct Http {
    verify: bool,
    stall: Duration,
    certs: Vec<PathBuf>,
    clients: Mutex<HashMap<Key, Client>>,
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

/// A request.
#[derive(Default)]
pub struct Request<'a> {
    /// The `Accept` header.
    pub accept: &'a str,
    /// The `Authorization` header.
    pub authorization: Option<&'a str>,
    /// The first byte that is wanted, if not all are.
    pub from: Option<u64>,
    /// A form, which makes it a POST.
    pub form: Option<String>,
}

impl Http {
    /// Returns a sender that gives up on a silence of `stall`.
    pub fn new(verify: bool, stall: Duration, certs: Vec<PathBuf>) -> Http {
        Http { verify, stall, certs, clients: Mutex::default() }
    }

    /// Sends a request and returns the response, whatever its status is. It follows no redirect.
    pub fn send(&self, url: &Url, request: &Request) -> Result<Response> {
        let client = self.client(url)?;
        let mut builder = match &request.form {
            Some(form) => client
                .post(url.as_str())
                .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
                .body(form.clone()),
            None => client.get(url.as_str()),
        };
        // What a proxy on the way unpacks has another digest.
        builder = builder.header(header::ACCEPT_ENCODING, "identity");
        if !request.accept.is_empty() {
            builder = builder.header(header::ACCEPT, request.accept);
        }
        if let Some(from) = request.from {
            builder = builder.header(header::RANGE, format!("bytes={from}-"));
        }
        if let Some(text) = request.authorization {
            let mut value = header::HeaderValue::from_str(text)?;
            value.set_sensitive(true);
            builder = builder.header(header::AUTHORIZATION, value);
        }
        match builder.send() {
            Ok(inner) => Ok(Response { inner, stall: self.stall, waited: Duration::ZERO, came: 0 }),
            Err(err) => Failure::of(&err, url, self.stall).into_error(url),
        }
    }

    fn client(&self, url: &Url) -> Result<Client> {
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
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = clients.get(&key) {
            return Ok(client.clone());
        }
        let config = match key.tls {
            Tls::Never => tls::none()?,
            _ => tls::config(files, self.verify)?,
        };
        let mut builder = Client::builder()
            .user_agent(concat!("tare/", env!("CARGO_PKG_VERSION")))
            .redirect(redirect::Policy::none())
            .referer(false)
            .timeout(self.stall) // of connecting, of the response's head, of each read: not of the whole
            .connect_timeout(self.stall)
            .dns_resolver(Arc::new(Resolver::default()))
            .tls_backend_preconfigured(config);
        if !proxied {
            builder = builder.no_proxy();
        }
        let client = without_sigpipe(|| builder.build())?;
        clients.insert(key, client.clone());
        Ok(client)
    }
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

/// A response: its head has been read, its body not.
pub struct Response {
    inner: Inner,
    stall: Duration,
    /// How long we have waited for the bytes that came since they were last enough.
    waited: Duration,
    came: u64,
}

impl Response {
    /// Returns the status code.
    pub fn status(&self) -> u16 {
        self.inner.status().as_u16()
    }

    /// Returns a header, if it is there once at least and is text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.inner.headers().get(name)?.to_str().ok()
    }

    /// Returns all headers of this name.
    pub fn headers(&self, name: &str) -> Vec<String> {
        let values = self.inner.headers().get_all(name).iter();
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
            match self.inner.read(buf) {
                Ok(n) => return self.weighed(n, start.elapsed()),
                Err(err) if err.kind() == ErrorKind::Interrupted => {}
                Err(err) => {
                    let url = self.inner.url().clone();
                    let cause = err.get_ref().and_then(|err| err.downcast_ref::<reqwest::Error>());
                    let failure = match cause {
                        Some(err) => Failure::of(err, &url, self.stall),
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
            let url = self.inner.url();
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

/// A request that got no response, or a response that broke off.
#[derive(Debug)]
pub struct Failure {
    /// What went wrong.
    pub kind: Kind,
    text: String,
}

/// What a failure is, for those who decide by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Nothing listens there.
    Refused,
    /// The host has no address.
    Unknown,
    /// The other side does not speak TLS.
    NotTls,
    /// The other side's certificate is not trusted.
    Certificate,
    /// Our certificate is not trusted, or there is none.
    Stranger,
    /// Nothing came for too long.
    Stalled,
    /// The connection broke, or what came is no HTTP.
    Broken,
}

impl Failure {
    /// Returns whether another try may do better.
    pub fn may_pass(&self) -> bool {
        matches!(self.kind, Kind::Refused | Kind::Stalled | Kind::Broken)
    }

    /// Returns the failure of a response that ended too soon.
    pub fn broken(text: String) -> Failure {
        Failure { kind: Kind::Broken, text }
    }

    fn of(err: &reqwest::Error, url: &Url, stall: Duration) -> Failure {
        let mut kind = Kind::Broken;
        let mut text = String::new();
        let mut link: Option<&(dyn StdError + 'static)> = Some(err);
        while let Some(err) = link {
            text = err.to_string();
            if let Some(err) = err.downcast_ref::<rustls::Error>() {
                (kind, text) = of_tls(err);
                break;
            }
            if let Some(err) = err.downcast_ref::<Unresolved>() {
                kind = if err.lasting { Kind::Unknown } else { Kind::Broken };
            }
            link = match err.downcast_ref::<io::Error>() {
                Some(err) if err.kind() == ErrorKind::ConnectionRefused => {
                    kind = Kind::Refused;
                    None
                }
                // What an io::Error wraps is not its source: that is the source of what it wraps.
                Some(err) => err.get_ref().map(|err| err as _),
                None => err.source(),
            };
        }
        if err.is_timeout() {
            kind = Kind::Stalled;
            text = format!("nothing came for {} s", stall.as_secs_f32());
        }
        Failure { kind, text: format!("{}: {text}", place(url)) }
    }

    fn into_error<T>(self, url: &Url) -> Result<T> {
        let kind = self.kind;
        let result = Err(Error::new(self));
        let place = place(url);
        match kind {
            Kind::NotTls => result
                .hint(|| format!("--tls-verify=false if {place} is meant to speak plain HTTP")),
            Kind::Certificate => result.hint(|| {
                format!(
                    "the certificate of its authority goes to /etc/docker/certs.d/{place}/ca.crt"
                )
            }),
            Kind::Stranger => result.hint(|| {
                format!("ours goes to /etc/docker/certs.d/{place}/client.cert, and client.key")
            }),
            _ => result,
        }
    }
}

fn of_tls(err: &rustls::Error) -> (Kind, String) {
    match err {
        rustls::Error::InvalidMessage(_) => {
            (Kind::NotTls, "it speaks no TLS: plain HTTP, perhaps".into())
        }
        rustls::Error::InvalidCertificate(why) => {
            (Kind::Certificate, format!("its certificate is not trusted: {why}"))
        }
        rustls::Error::AlertReceived(
            Alert::BadCertificate
            | Alert::CertificateRequired
            | Alert::CertificateUnknown
            | Alert::UnknownCA
            | Alert::AccessDenied,
        ) => (Kind::Stranger, "it wants a client certificate that it trusts".into()),
        err => (Kind::Broken, err.to_string()),
    }
}

impl Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl StdError for Failure {}

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

/// A host without an address.
#[derive(Debug)]
struct Unresolved {
    lasting: bool,
    text: String,
}

impl Display for Unresolved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl StdError for Unresolved {}
