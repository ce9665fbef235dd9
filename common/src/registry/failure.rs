//! What goes wrong on the way to a server, in words for the user and in kinds for those who decide.

use std::error::Error as StdError;
use std::fmt::{self, Display};
use std::io::{self, ErrorKind};
use std::time::Duration;

use anyhow::{Error, Result};
use rustls::AlertDescription as Alert;
use url::Url;

use crate::error::Hint;
use crate::registry::http::{is_loopback, place};

/// A request that got no response, or a response that broke off.
#[derive(Debug)]
pub struct Failure {
    /// What went wrong.
    pub kind: Kind,
    pub(super) text: String,
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

    /// Returns the failure that an error of the client or of its resolver is.
    pub(super) fn of(
        err: &(dyn StdError + 'static),
        timed_out: bool,
        url: &Url,
        stall: Duration,
    ) -> Failure {
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
        match timed_out {
            true => Failure::silence(url, stall),
            false => Failure { kind, text: format!("{}: {text}", place(url)) },
        }
    }

    /// Returns the failure of a server that was silent for so long.
    pub(super) fn silence(url: &Url, stall: Duration) -> Failure {
        let text = format!("{}: nothing came for {} s", place(url), stall.as_secs_f32());
        Failure { kind: Kind::Stalled, text }
    }

    /// Returns it as an error, with a hint where there is one.
    pub(super) fn into_error<T>(self, url: &Url) -> Result<T> {
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
            Kind::Refused | Kind::Unknown if !is_loopback(url) => match proxy(url.scheme()) {
                Some(var) => {
                    result.hint(|| format!("{var} is set: it may be the proxy that is not there"))
                }
                None => result,
            },
            _ => result,
        }
    }
}

/// Returns the variable that names a proxy for URLs of a scheme, if one is set.
fn proxy(scheme: &str) -> Option<&'static str> {
    let vars = match scheme {
        "https" => ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"],
        _ => ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"],
    };
    vars.into_iter().find(|var| std::env::var_os(var).is_some_and(|value| !value.is_empty()))
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

/// A host without an address.
#[derive(Debug)]
pub(super) struct Unresolved {
    /// Another try will do no better.
    pub(super) lasting: bool,
    pub(super) text: String,
}

impl Display for Unresolved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl StdError for Unresolved {}
