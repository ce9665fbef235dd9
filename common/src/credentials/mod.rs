//! Who the user is to a registry: what docker and podman keep about it.
//!
//! ```json
//! { "auths": { "https://index.docker.io/v1/": { "auth": "base64 of user:password" },
//!              "quay.io/team": { "auth": "..." } },
//!   "credHelpers": { "gcr.io": "gcloud" },
//!   "credsStore": "secretservice" }
//! ```
//!
//! One entry answers for one registry, or for a part of its repositories. A
//! helper is a program, `docker-credential-NAME`, that is asked on its stdin. Nothing
//! here needs a network.

mod helper;
mod store;
use std::collections::BTreeMap;
use std::env;
use std::fmt;
use std::fs::File;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::mpsc::{self, Sender};

use anyhow::{Context, Error, Result, bail, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Deserializer};

use crate::error::At;
use crate::reference::DOCKER_HUB;
use crate::tree;

pub use store::Scope;

/// The largest file, and the longest answer of a helper, that is read.
const LIMIT: u64 = 1 << 20;

/// What docker calls its registry in its own files.
const HUB_KEY: &str = "https://index.docker.io/v1/";

/// A way to prove who one is. It never prints itself.
#[derive(Clone, PartialEq, Eq)]
pub enum Credentials {
    /// A user and a password, or a token in its place.
    Password { user: String, password: String },
    /// A token that buys others: OAuth 2's refresh token.
    Identity(String),
    /// A token that is shown to the registry as it is.
    Registry(String),
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials")
    }
}

impl FromStr for Credentials {
    type Err = Error;

    /// Reads `USER:PASSWORD`.
    fn from_str(text: &str) -> Result<Self> {
        let (user, password) = text.split_once(':').context("no password")?;
        let ok = |text: &str| !text.contains(char::is_control);
        ensure!(!user.is_empty(), "no user");
        ensure!(ok(user) && ok(password), "a control character in a user or password");
        Ok(Credentials::Password { user: user.into(), password: password.into() })
    }
}

impl Credentials {
    /// Returns the value of an `Authorization` header, where a password can be one: RFC 7617.
    pub fn basic(&self) -> Option<String> {
        match self {
            Credentials::Password { user, password } => {
                Some(format!("Basic {}", STANDARD.encode(format!("{user}:{password}"))))
            }
            _ => None,
        }
    }
}

/// The files that may hold credentials; the first that has some for a registry decides.
#[derive(Clone, Debug)]
pub struct Files {
    paths: Vec<PathBuf>,
    /// The first one must exist.
    required: bool,
    helpers: Helpers,
}

/// Who runs the helpers: whoever has the question, or a thread that waits for questions.
#[derive(Clone, Debug, Default)]
struct Helpers(Option<Sender<Question>>);

/// A question for a helper.
struct Question {
    helper: String,
    key: String,
    answer: Sender<Result<Option<Credentials>>>,
}

impl Files {
    /// Returns the files of this user: `authfile`, else `REGISTRY_AUTH_FILE`, else podman's and docker's.
    pub fn of_user(authfile: Option<PathBuf>) -> Files {
        let var =
            |name: &str| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        if let Some(path) = authfile {
            return Files { paths: vec![path], required: true, ..Files::none() };
        }
        if let Some(path) = var("REGISTRY_AUTH_FILE") {
            return Files { paths: vec![path], ..Files::none() };
        }
        let home = var("HOME");
        let run = var("XDG_RUNTIME_DIR").unwrap_or_else(|| {
            PathBuf::from("/run/containers").join(nix::unistd::getuid().to_string())
        });
        let mut paths = vec![run.join("containers/auth.json")];
        if var("XDG_RUNTIME_DIR").is_none() {
            paths = vec![run.join("auth.json")];
        }
        let config = var("XDG_CONFIG_HOME").or(home.as_ref().map(|home| home.join(".config")));
        paths.extend(config.map(|dir| dir.join("containers/auth.json")));
        let docker = var("DOCKER_CONFIG").or(home.map(|home| home.join(".docker")));
        paths.extend(docker.map(|dir| dir.join("config.json")));
        Files { paths, ..Files::none() }
    }

    /// Runs helpers from a thread that starts now, and stays as free as this one is now.
    ///
    /// A helper is the user's own program: it writes where it must, whatever we give up.
    pub fn with_free_helpers(self) -> Result<Files> {
        let (sender, questions) = mpsc::channel::<Question>();
        std::thread::Builder::new().name("helpers".into()).spawn(move || {
            for Question { helper, key, answer } in questions {
                // Who asked waits for it.
                let _ = answer.send(helper::get(&helper, &key));
            }
        })?;
        Ok(Files { helpers: Helpers(Some(sender)), ..self })
    }

    /// Returns a list without a file.
    pub fn none() -> Files {
        Files { paths: Vec::new(), required: false, helpers: Helpers::default() }
    }

    /// Returns the first file that is there, and not for us to read.
    pub fn closed(&self) -> Option<&Path> {
        let denied = |path: &Path| {
            File::open(path).is_err_and(|err| err.kind() == ErrorKind::PermissionDenied)
        };
        self.paths.iter().map(PathBuf::as_path).find(|path| !is_run(path) && denied(path))
    }

    /// Returns what there is for a repository of the registry `domain`.
    pub fn find(&self, domain: &str, path: &str) -> Result<Option<Credentials>> {
        for file in &self.paths {
            let text = match tree::read(file, LIMIT) {
                Ok(text) => text,
                Err(err) if err.kind() == ErrorKind::NotFound && !self.required => continue,
                // Another user's, whose HOME this is, or podman's below /run.
                Err(err) if err.kind() == ErrorKind::PermissionDenied && !self.required => continue,
                Err(err) => return Err(err).at(file),
            };
            let found =
                Config::parse(&text).at(file)?.find(domain, path, &self.helpers).at(file)?;
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }
}

/// Returns whether a file is podman's below /run, which is closed to others than its owner: it may
/// be root's, or of the user whose XDG_RUNTIME_DIR we have.
fn is_run(path: &Path) -> bool {
    path.starts_with("/run")
}

// To Go, which reads these files elsewhere, null is what is not there.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Config {
    #[serde(deserialize_with = "map")]
    auths: BTreeMap<String, Entry>,
    #[serde(deserialize_with = "map")]
    cred_helpers: BTreeMap<String, String>,
    #[serde(deserialize_with = "or_default")]
    creds_store: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Entry {
    #[serde(deserialize_with = "or_default")]
    auth: String,
    #[serde(deserialize_with = "or_default")]
    username: String,
    #[serde(deserialize_with = "or_default")]
    password: String,
    #[serde(deserialize_with = "or_default")]
    identitytoken: String,
    #[serde(deserialize_with = "or_default")]
    registrytoken: String,
}

fn or_default<'de, T, D>(deserializer: D) -> Result<T, D::Error>
where
    T: Default + Deserialize<'de>,
    D: Deserializer<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

fn map<'de, T, D>(deserializer: D) -> Result<BTreeMap<String, T>, D::Error>
where
    T: Default + Deserialize<'de>,
    D: Deserializer<'de>,
{
    let map: BTreeMap<String, Option<T>> = or_default(deserializer)?;
    Ok(map.into_iter().map(|(key, value)| (key, value.unwrap_or_default())).collect())
}

impl Config {
    fn parse(text: &[u8]) -> Result<Config> {
        // An empty file is what podman logout may leave.
        if text.trim_ascii().is_empty() {
            return Ok(Config::default());
        }
        // serde's message may quote a value, and that may be a secret.
        serde_json::from_slice(text)
            .map_err(|err| anyhow::anyhow!("not a file of credentials (line {})", err.line()))
    }

    fn find(&self, domain: &str, path: &str, helpers: &Helpers) -> Result<Option<Credentials>> {
        let own = self.own_helper(domain);
        if let Some((key, helper)) = own.filter(|(_, helper)| !helper.is_empty()) {
            return helpers.ask(helper, key);
        }
        // The entry for the longest part of the repository's name is the one that is meant, and of
        // two for the registry the one that is called as docker calls it.
        let entries = self.auths.iter().filter_map(|(key, entry)| {
            let rank = (matched(key, domain, path)?, key == key_of(domain));
            entry.credentials().with_context(|| format!("{key:?}")).transpose().map(|it| (rank, it))
        });
        if let Some((_, found)) = entries.max_by_key(|(rank, _)| *rank) {
            return found.map(Some);
        }
        if self.creds_store.is_empty() || own.is_some() {
            return Ok(None);
        }
        helpers.ask(&self.creds_store, key_of(domain))
    }

    /// Returns what a registry's entry for a helper of its own is called, and the helper; an empty one
    /// says that the registry has none.
    fn own_helper(&self, domain: &str) -> Option<(&str, &str)> {
        let mut helpers = self.cred_helpers.iter();
        let (key, helper) = helpers.find(|(key, _)| is_for(key, domain))?;
        Some((key, helper))
    }
}

/// Returns what docker calls a registry in its files.
fn key_of(domain: &str) -> &str {
    if domain == DOCKER_HUB { HUB_KEY } else { domain }
}

/// Returns how much of `domain/path` the key of an entry covers, if it does.
fn matched(key: &str, domain: &str, path: &str) -> Option<usize> {
    if is_for(key, domain) {
        return Some(0);
    }
    let rest = key.strip_prefix(domain)?.strip_prefix('/')?;
    let below = path.strip_prefix(rest)?;
    (below.is_empty() || below.starts_with('/')).then_some(rest.len())
}

/// Returns whether a key, which may be a URL, means the whole registry.
fn is_for(key: &str, domain: &str) -> bool {
    let plain = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://"));
    let host = match plain {
        Some(plain) => plain.split('/').next().unwrap_or_default(),
        None => match key.strip_suffix('/').unwrap_or(key) {
            key if key.contains('/') => return false,
            key => key,
        },
    };
    let hub = |host: &str| matches!(host, DOCKER_HUB | "index.docker.io" | "registry-1.docker.io");
    host == domain || hub(host) && hub(domain)
}

impl Entry {
    fn credentials(&self) -> Result<Option<Credentials>> {
        if !self.identitytoken.is_empty() {
            return Ok(Some(Credentials::Identity(self.identitytoken.clone())));
        }
        if !self.registrytoken.is_empty() {
            return Ok(Some(Credentials::Registry(self.registrytoken.clone())));
        }
        if !self.auth.is_empty() {
            let Ok(bytes) = STANDARD.decode(self.auth.trim()) else { bail!("auth is not base64") };
            let Ok(text) = String::from_utf8(bytes) else { bail!("auth is not text") };
            // Docker pads what it writes with zeros.
            return text.trim_end_matches('\0').parse().map(Some);
        }
        if !self.username.is_empty() {
            return format!("{}:{}", self.username, self.password).parse().map(Some);
        }
        Ok(None)
    }
}

impl Helpers {
    fn ask(&self, helper: &str, key: &str) -> Result<Option<Credentials>> {
        let Some(thread) = &self.0 else { return helper::get(helper, key) };
        let (answer, answered) = mpsc::channel();
        let question = Question { helper: helper.into(), key: key.into(), answer };
        let asked = thread.send(question).ok().and_then(|()| answered.recv().ok());
        asked.context("the thread of the credential helpers has ended")?
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(json: &str, domain: &str, path: &str) -> Option<Credentials> {
        Config::parse(json.as_bytes()).unwrap().find(domain, path, &Helpers::default()).unwrap()
    }

    fn password(user: &str, password: &str) -> Option<Credentials> {
        Some(Credentials::Password { user: user.into(), password: password.into() })
    }

    #[test]
    fn an_entry_is_found_by_any_spelling_of_its_registry() {
        // dTpw is u:p.
        for key in ["docker.io", "index.docker.io", HUB_KEY, "https://registry-1.docker.io/v2/"] {
            let json = format!(r#"{{"auths": {{"{key}": {{"auth": "dTpw"}}}}}}"#);
            assert_eq!(find(&json, "docker.io", "library/app"), password("u", "p"), "{key}");
            assert_eq!(find(&json, "quay.io", "library/app"), None, "{key}");
        }
        let json = r#"{"auths": {"http://r:5000/v1/": {"username": "u", "password": "a:b"}}}"#;
        assert_eq!(find(json, "r:5000", "app"), password("u", "a:b"));
        assert_eq!(find(json, "r", "app"), None);
    }

    #[test]
    fn the_longest_part_of_a_repository_decides() {
        let json = r#"{"auths": {"r.io": {"auth": "YTph"}, "r.io/team": {"auth": "Yjpi"},
            "r.io/team/app": {"auth": "Yzpj"}, "r.io/te": {"auth": "ZDpk"}}}"#;
        assert_eq!(find(json, "r.io", "other/app"), password("a", "a"));
        assert_eq!(find(json, "r.io", "team/other"), password("b", "b"));
        assert_eq!(find(json, "r.io", "team/app"), password("c", "c"));
        assert_eq!(find(json, "r.io", "team/app2"), password("b", "b"));
        let one = r#"{"auths": {"r.io/team": {"auth": "Yjpi"}}}"#;
        assert_eq!(find(one, "r.io", "app"), None);
    }

    #[test]
    fn of_two_entries_for_a_registry_docker_s_own_decides() {
        let json = r#"{"auths": {"https://r.io/v1/": {"auth": "YTph"}, "r.io": {"auth": "Yjpi"}}}"#;
        assert_eq!(find(json, "r.io", "app"), password("b", "b"));
        let json = r#"{"auths": {"a.io": {"auth": "YTph"}, "http://a.io": {"auth": "Yjpi"}}}"#;
        assert_eq!(find(json, "a.io", "app"), password("a", "a"));
    }

    #[test]
    fn null_is_what_is_not_there() {
        let json = r#"{"auths": {"other": {"auth": null}, "none": null, "r.io": {"auth": "dTpw",
            "identitytoken": null}}, "credHelpers": null, "credsStore": null}"#;
        assert_eq!(find(json, "r.io", "app"), password("u", "p"));
        assert_eq!(find(json, "none", "app"), None);
        assert_eq!(find(r#"{"auths": null}"#, "r.io", "app"), None);
    }

    #[test]
    fn an_empty_helper_is_none() {
        let json = r#"{"auths": {"r.io": {"auth": "dTpw"}}, "credHelpers": {"r.io": "", "s.io": ""},
            "credsStore": "that-is-not-asked"}"#;
        assert_eq!(find(json, "r.io", "app"), password("u", "p"));
        assert_eq!(find(json, "s.io", "app"), None);
    }

    #[test]
    fn tokens_are_told_from_passwords() {
        let json = r#"{"auths": {"r.io": {"auth": "dTo=", "identitytoken": "t"}, "s.io": {}}}"#;
        assert_eq!(find(json, "r.io", "app"), Some(Credentials::Identity("t".into())));
        assert_eq!(find(json, "s.io", "app"), None);
        assert_eq!(find("", "s.io", "app"), None);
    }

    #[test]
    fn bad_files_are_errors_that_quote_no_secret() {
        for bad in [
            "{\"auths\": \"hunter2\"}",
            "[",
            "{\"auths\": {\"r.io\": {\"auth\": \"hunter2!\"}}}",
            "{\"auths\": {\"r.io\": {\"auth\": \"aHVudGVyMg==\"}}}",
            "{\"auths\": {\"r.io\": {\"username\": \"u\", \"password\": \"hunter2\\r\\n\"}}}",
            "{\"credHelpers\": {\"r.io\": \"../../bin/sh\"}}",
        ] {
            let result = Config::parse(bad.as_bytes())
                .and_then(|file| file.find("r.io", "app", &Helpers::default()));
            let text = crate::error::line(&result.unwrap_err());
            assert!(!text.contains("hunter2"), "{text}");
        }
        let secret: Credentials = "u:hunter2".parse().unwrap();
        assert_eq!(format!("{secret:?}"), "Credentials");
    }
}
