//! Authentication: what is shown to a registry, and who is asked for it.
//!
//! Nothing is shown until the registry asks (401). It names a way: Basic, or
//! Bearer with the URL of a token service, the *realm*. The realm is a
//! stranger's word, so credentials go there only if it is the registry's own host
//! or a public name over https; an address, least of all one of this machine or
//! its link, is refused. A token is kept for the one scope it was given for.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use serde::Deserialize;
use url::{Host, Url, form_urlencoded};

use crate::credentials::Credentials;
use crate::error::{Hint, sanitised};
use crate::registry::challenge::Challenge;
use crate::registry::http::{self, Request, Response};
use crate::registry::{Options, follow, refusal};

/// The largest answer of a token service that is read: containers/image has the same.
const TOKEN_LIMIT: u64 = 1 << 20;

/// How long a token is good for if its service does not say: distribution, token authentication.
const TOKEN_LIFE: Duration = Duration::from_secs(60);

/// What is known about authentication at one registry.
#[derive(Default)]
pub struct Auth(Mutex<State>);

#[derive(Default)]
struct State {
    way: Option<Way>,
    /// By repository: an entry may be for a part of a registry.
    credentials: HashMap<String, Option<Credentials>>,
    /// By scope.
    tokens: HashMap<String, Token>,
}

#[derive(Clone)]
enum Way {
    Basic,
    Bearer { realm: Url, service: Option<String> },
}

struct Token {
    text: String,
    until: Instant,
}

impl Auth {
    /// Returns whether the registry has asked for credentials.
    pub fn was_asked(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).way.is_some()
    }

    /// Returns the `Authorization` header for a repository, if the registry is known to want one.
    pub fn header(&self, at: &At) -> Result<Option<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).header(at)
    }

    /// Returns a new `Authorization` header after `used` got a 401.
    pub fn renew(&self, at: &At, used: Option<&str>, challenges: &[Challenge]) -> Result<String> {
        // The lock is held while the token service is asked, so that it is asked once.
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if used.is_some() || state.way.is_some() {
            // Perhaps another thread was here before.
            let known = state.header(at)?;
            if let Some(known) = known.filter(|known| Some(known.as_str()) != used) {
                return Ok(known);
            }
        }
        state.tokens.remove(&at.scope());
        state.way = Some(at.way(challenges)?);
        match state.header(at)? {
            Some(header) if Some(header.as_str()) != used => Ok(header),
            Some(_) => at.refuse("its credentials are refused".into()),
            None => at.refuse("authentication required".into()),
        }
    }
}

impl State {
    fn header(&mut self, at: &At) -> Result<Option<String>> {
        let Some(way) = self.way.clone() else { return Ok(None) };
        if let Some(token) = self.tokens.get(&at.scope())
            && token.until > Instant::now()
        {
            return Ok(Some(format!("Bearer {}", token.text)));
        }
        let credentials = match self.credentials.get(at.path) {
            Some(known) => known.clone(),
            None => {
                let found = at.credentials()?;
                self.credentials.insert(at.path.into(), found.clone());
                found
            }
        };
        match (way, credentials) {
            (_, Some(Credentials::Registry(token))) => {
                Ok(Some(format!("Bearer {}", checked(token)?)))
            }
            (Way::Basic, credentials) => Ok(credentials.and_then(|it| it.basic())),
            (Way::Bearer { realm, service }, credentials) => {
                let token = at.token(&realm, service.as_deref(), credentials.as_ref())?;
                let header = format!("Bearer {}", token.text);
                self.tokens.insert(at.scope(), token);
                Ok(Some(header))
            }
        }
    }
}

/// What is to be done at a registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rights<'a> {
    /// Nothing but to say who one is.
    Enter,
    /// Take from a repository.
    Pull,
    /// Put into a repository what may come from another one.
    Push {
        /// The other one.
        from: Option<&'a str>,
    },
}

/// Where a request goes.
pub struct At<'a> {
    /// How requests are sent.
    pub http: &'a http::Http,
    /// What the user wants.
    pub options: &'a Options,
    /// The registry, as references name it.
    pub domain: &'a str,
    /// The registry's URL.
    pub base: &'a Url,
    /// The repository.
    pub path: &'a str,
    /// What is to be done there.
    pub rights: Rights<'a>,
}

impl At<'_> {
    /// Returns the scopes that a token is asked for, separated by blanks.
    fn scope(&self) -> String {
        // Ours, not the challenge's: a registry cannot make us ask for more than we want to do.
        let path = self.path;
        match self.rights {
            Rights::Enter => String::new(),
            Rights::Pull => format!("repository:{path}:pull"),
            Rights::Push { from: None } => format!("repository:{path}:pull,push"),
            Rights::Push { from: Some(from) } => {
                format!("repository:{path}:pull,push repository:{from}:pull")
            }
        }
    }

    /// Returns an error about credentials, and says how to give others.
    pub fn refuse<T>(&self, what: String) -> Result<T> {
        let refused = Err(anyhow!(what));
        match self.rights {
            Rights::Enter => refused, // they were just given
            _ => refused.hint(|| match self.options.files.closed() {
                Some(file) => format!("{}: we may not read it; or --creds USER", file.display()),
                None => login(self.domain),
            }),
        }
    }

    fn credentials(&self) -> Result<Option<Credentials>> {
        match &self.options.credentials {
            Some(given) => Ok(Some(given.clone())),
            None => self.options.files.find(self.domain, self.path),
        }
    }

    /// Picks the way to authenticate.
    fn way(&self, challenges: &[Challenge]) -> Result<Way> {
        if let Some(bearer) = challenges.iter().find(|challenge| challenge.scheme == "bearer") {
            let realm = bearer.get("realm").context("its Bearer challenge names no realm")?;
            let realm = self.base.join(realm).map_err(|_| anyhow!("{realm:?}: no URL"))?;
            may_ask(self.base, &realm)?;
            return Ok(Way::Bearer { realm, service: bearer.get("service").map(str::to_owned) });
        }
        match challenges.iter().any(|challenge| challenge.scheme == "basic") {
            true => Ok(Way::Basic),
            false if challenges.is_empty() => {
                bail!("it wants authentication but does not say how (401)")
            }
            false => bail!(
                "it wants authentication of a kind that is not supported: {:?}",
                challenges[0].scheme
            ),
        }
    }

    /// Asks the token service.
    fn token(
        &self,
        realm: &Url,
        service: Option<&str>,
        who: Option<&Credentials>,
    ) -> Result<Token> {
        let scope = self.scope();
        let mut fields = form_urlencoded::Serializer::new(String::new());
        if let Some(service) = service {
            fields.append_pair("service", service);
        }
        let mut response = match who {
            // The OAuth 2 endpoint: distribution, oauth.md. A redirect would carry the token away.
            Some(Credentials::Identity(token)) => {
                fields.append_pair("scope", &scope);
                fields.append_pair("grant_type", "refresh_token");
                fields.append_pair("client_id", "tare");
                fields.append_pair("refresh_token", token);
                let form = Some(fields.finish());
                self.http.send(realm, &Request { form, ..Request::default() })?
            }
            who => {
                for scope in scope.split_whitespace() {
                    fields.append_pair("scope", scope);
                }
                let mut url = realm.clone();
                url.query_pairs_mut()
                    .extend_pairs(form_urlencoded::parse(fields.finish().as_bytes()));
                let basic = who.and_then(Credentials::basic);
                let authorization = basic.as_deref();
                let request = Request { authorization, ..Request::default() };
                follow(self.http, self.options.verify, &url, request)?.0
            }
        };
        let place = http::place(realm);
        match response.status() {
            200..=299 => {
                read_token(&mut response).with_context(|| format!("the token service {place}"))
            }
            // Not a refusal of the registry: nobody shall take a token service's 404 for a missing image.
            401 | 403 if who.is_some() => {
                self.refuse(format!("the token service {place} does not accept the credentials"))
            }
            401 | 403 => self.refuse("authentication required".into()),
            status if super::retry::may_pass(status) => Err(refusal(&mut response).into()),
            status => bail!("the token service {place} answered {status}"),
        }
    }
}

/// Says how to give credentials.
pub fn login(domain: &str) -> String {
    format!("img-login {domain}, or --creds USER")
}

/// Refuses a token service that must not see credentials, or be asked at all: a
/// registry could use us to reach what it cannot.
fn may_ask(registry: &Url, realm: &Url) -> Result<()> {
    let refuse = |why: &str| {
        let host = sanitised(realm.host_str().unwrap_or("nowhere"), 100);
        Err(anyhow!("it sends to a token service at {host}, {why}"))
    };
    if !realm.username().is_empty() || realm.password().is_some() {
        return refuse("with a password in the URL");
    }
    let own_host = registry.host() == realm.host();
    match realm.scheme() {
        "https" => {}
        "http" if own_host && registry.scheme() == "http" => {}
        "http" => return refuse("over plain HTTP"),
        _ => return refuse("which is no web address"),
    }
    match realm.host() {
        _ if own_host => Ok(()),
        Some(Host::Domain(name)) => {
            let name = name.trim_end_matches('.');
            let public =
                name.contains('.') && !name.ends_with(".localhost") && !name.ends_with(".local");
            if public { Ok(()) } else { refuse("which is no public name") }
        }
        Some(_) => refuse("which is an address, not a name"),
        None => refuse("which is no host"),
    }
}

fn read_token(response: &mut Response) -> Result<Token> {
    #[derive(Deserialize)]
    struct Answer {
        token: Option<String>,
        access_token: Option<String>,
        expires_in: Option<u64>,
    }
    let body = response.read_up_to(TOKEN_LIMIT)?;
    ensure!(body.len() as u64 <= TOKEN_LIMIT, "its answer is longer than {TOKEN_LIMIT} bytes");
    // serde's message could quote the token.
    let Ok(answer) = serde_json::from_slice::<Answer>(&body) else {
        bail!("its answer holds no token");
    };
    let text =
        [answer.token, answer.access_token].into_iter().flatten().find(|text| !text.is_empty());
    let text = checked(text.context("its answer holds no token")?)?;
    let life = answer.expires_in.map(Duration::from_secs).unwrap_or(TOKEN_LIFE);
    // A clock in another house may be ahead, and the request takes its time.
    let life = life.clamp(TOKEN_LIFE, Duration::from_secs(24 * 3600)) - Duration::from_secs(10);
    Ok(Token { text, until: Instant::now() + life })
}

/// Refuses a token that would break out of its header.
fn checked(token: String) -> Result<String> {
    ensure!(token.bytes().all(|b| b.is_ascii_graphic()), "a token with control characters in it");
    Ok(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_service_is_the_registry_or_a_public_name() {
        let allowed = |registry: &str, realm: &str| {
            may_ask(&registry.parse().unwrap(), &realm.parse().unwrap()).is_ok()
        };
        for (registry, realm) in [
            ("https://registry-1.docker.io", "https://auth.docker.io/token"),
            ("https://r.example:5000", "https://r.example/token"),
            ("http://127.0.0.1:5000", "http://127.0.0.1:5001/token"),
            ("http://127.0.0.1:5000", "https://auth.example.org/token"),
            ("http://10.0.0.1:5000", "http://10.0.0.1/token"),
            ("https://10.0.0.1", "https://10.0.0.1:8443/token"),
        ] {
            assert!(allowed(registry, realm), "{registry} {realm}");
        }
        for (registry, realm) in [
            ("https://r.example", "http://r.example/token"),
            ("https://r.example", "http://auth.example/token"),
            ("https://r.example", "https://127.0.0.1/token"),
            ("https://r.example", "https://localhost/token"),
            ("https://r.example", "https://a.localhost/token"),
            ("https://r.example", "https://169.254.169.254/latest"),
            ("https://r.example", "https://[fe80::1]/token"),
            ("https://r.example", "https://2130706433/token"),
            ("https://r.example", "https://intranet/token"),
            ("https://r.example", "https://u:p@auth.example/token"),
            ("https://r.example", "file:///etc/passwd"),
            ("http://127.0.0.1:5000", "http://127.0.0.2:5000/token"),
            ("http://127.0.0.1:5000", "http://auth.example/token"),
        ] {
            assert!(!allowed(registry, realm), "{registry} {realm}");
        }
    }
}
