//! Storing credentials, and forgetting them, where docker and podman do.
//!
//! A file keeps all that it holds beside the one entry, in its order. It is replaced whole, readable
//! by its owner alone, under a lock on its directory: of two who store something, neither
//! loses what the other has stored.

use std::fmt::{self, Display};
use std::fs::{DirBuilder, File};
use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::str::FromStr;

use anyhow::{Context, Error, Result, anyhow, bail, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};
use serde_json::value::{RawValue, to_raw_value};

use super::{Config, Credentials, Files, LIMIT, helper, is_for, is_run, key_of};
use crate::error::{At, Hint};
use crate::reference::{DOCKER_HUB, Reference};
use crate::tree;

/// What credentials are for: a registry, or a part of its repositories.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scope {
    domain: String,
    path: Option<String>,
}

impl Scope {
    /// Returns the registry, as references name it.
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// Returns what an entry for it is called.
    fn key(&self) -> String {
        match (&self.path, self.domain.as_str()) {
            (Some(path), domain) => format!("{domain}/{path}"),
            (None, domain) => key_of(domain).into(),
        }
    }

    /// Returns whether an entry of this name is for it, and for nothing else.
    fn is(&self, key: &str) -> bool {
        match &self.path {
            Some(_) => key == self.key(),
            None => is_for(key, &self.domain),
        }
    }
}

impl Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.path {
            Some(path) => write!(f, "{}/{path}", self.domain),
            None => f.write_str(&self.domain),
        }
    }
}

impl FromStr for Scope {
    type Err = Error;

    /// Reads `HOST`, `HOST:PORT`, either with a `/REPOSITORY`, or a URL as docker takes it.
    fn from_str(text: &str) -> Result<Self> {
        let plain = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
        let is_url = plain.is_some();
        let plain = plain.unwrap_or(text);
        let (host, path) = plain.split_once('/').unwrap_or((plain, ""));
        let domain = match host {
            "index.docker.io" | "registry-1.docker.io" => DOCKER_HUB,
            host => host,
        };
        // What stands behind a URL's host is the version of an interface.
        let path = path.trim_end_matches('/');
        let path = Some(path).filter(|path| !path.is_empty() && !is_url);
        let whole: Reference = format!("{domain}/{}", path.unwrap_or("x")).parse()?;
        let read_back = whole.domain() == domain && whole.tag() == Some("latest");
        if !read_back || path.is_some_and(|path| path.contains([':', '@'])) {
            return Err(anyhow!("{text:?}: not a registry's name"))
                .hint(|| "a name without a dot needs a port: HOST:PORT".into());
        }
        Ok(Scope { domain: domain.into(), path: path.map(str::to_owned) })
    }
}

impl Files {
    /// Stores a user and a password, where there are some already, or else in the last of the files.
    ///
    /// A helper keeps them, if the file says so.
    pub fn store(&self, scope: &Scope, user: &str, password: &str) -> Result<()> {
        let mut has_some = None;
        for path in &self.paths {
            if let Some(config) = config(path)? {
                let key = config.auths.iter().any(|(key, entry)| scope.is(key) && entry.is_some());
                if key || config.cred_helpers.keys().any(|key| scope.is(key)) {
                    has_some = Some(path);
                    break;
                }
            }
        }
        let path = has_some.or(self.paths.last());
        let path = path.context("nowhere to store credentials: HOME is not set")?;
        let helped = match config(path)?.and_then(|config| config.helper(scope)) {
            Some((program, key)) => {
                ensure!(
                    scope.path.is_none(),
                    "{}: docker-credential-{program} keeps whole registries only",
                    path.display()
                );
                helper::store(&program, &key, user, password)?;
                true
            }
            None => false,
        };
        edit(path, |auths| {
            let known = auths.keys().find(|key| scope.is(key)).map(str::to_owned);
            let key = known.unwrap_or_else(|| scope.key());
            let entry = match helped {
                // Docker notes down of whom a helper knows something.
                true => serde_json::json!({}),
                false => {
                    let auth = STANDARD.encode(format!("{user}:{password}"));
                    serde_json::json!({ "auth": auth })
                }
            };
            auths.0.retain(|(other, _)| *other == key || !scope.is(other));
            auths.set(&key, to_raw_value(&entry)?);
            Ok(true)
        })
        .map(drop)
    }

    /// Forgets what is stored, wherever it is; returns whether there was something.
    pub fn forget(&self, scope: &Scope) -> Result<bool> {
        let mut known = false;
        for path in &self.paths {
            let Some(config) = config(path)? else { continue };
            if scope.path.is_none()
                && let Some((program, key)) = config.helper(scope)
            {
                known |= helper::erase(&program, &key)?;
            }
            if config.auths.keys().any(|key| scope.is(key)) {
                known |= config.auths.iter().any(|(key, entry)| scope.is(key) && entry.is_some());
                edit(path, |auths| Ok(auths.remove(|key| scope.is(key))))?;
            }
        }
        Ok(known)
    }

    /// Forgets everything; returns whether there was something.
    pub fn forget_all(&self) -> Result<bool> {
        let mut known = false;
        for path in &self.paths {
            let Some(config) = config(path)? else { continue };
            for (key, program) in &config.cred_helpers {
                known |= helper::erase(program, key)?;
            }
            if !config.creds_store.is_empty() {
                for key in helper::list(&config.creds_store)? {
                    known |= helper::erase(&config.creds_store, &key)?;
                }
            }
            if !config.auths.is_empty() {
                known |= config.auths.values().any(|entry| entry.is_some());
                edit(path, |auths| Ok(auths.remove(|_| true)))?;
            }
        }
        Ok(known)
    }
}

impl Config {
    /// Returns the helper that keeps what is for a registry, and its name for that.
    fn helper(&self, scope: &Scope) -> Option<(String, String)> {
        match self.own_helper(&scope.domain) {
            Some((_, "")) => None,
            Some((key, program)) => Some((program.into(), key.into())),
            None if self.creds_store.is_empty() => None,
            None => {
                let whole = Scope { path: None, ..scope.clone() };
                Some((self.creds_store.clone(), whole.key()))
            }
        }
    }
}

impl super::Entry {
    /// Returns whether it holds something, right or wrong.
    fn is_some(&self) -> bool {
        !matches!(self.credentials(), Ok(None))
    }
}

impl Credentials {
    /// Returns a user and a password, if they can be shown to a registry and stored.
    pub fn of(user: &str, password: &str) -> Result<Credentials> {
        ensure!(!user.contains(':'), "a user's name has no colon");
        ensure!(!password.is_empty(), "the password is empty");
        format!("{user}:{password}").parse()
    }
}

/// Reads a file, if it is there.
fn config(path: &Path) -> Result<Option<Config>> {
    match tree::read(path, LIMIT) {
        Ok(text) => Config::parse(&text).at(path).map(Some),
        Err(err) if err.kind() == ErrorKind::NotFound => Ok(None),
        Err(err) if err.kind() == ErrorKind::PermissionDenied && is_run(path) => Ok(None),
        Err(err) => Err(err).at(path),
    }
}

/// Changes the entries of a file, which is made if need be; `change` returns whether it did something.
fn edit(path: &Path, change: impl FnOnce(&mut Object) -> Result<bool>) -> Result<()> {
    // The lock is for the file, not for a link to it.
    let path = tree::behind_links(path)?;
    if path.metadata().is_ok_and(|found| !found.is_file()) {
        bail!("{}: not a regular file", path.display());
    }
    let dir = tree::above(&path);
    if !dir.try_exists().at(dir)? {
        DirBuilder::new().recursive(true).mode(0o700).create(dir).at(dir)?;
    }
    let lock = File::open(dir).at(dir)?;
    lock.lock().at(dir)?;
    let text = match tree::read(&path, LIMIT) {
        Err(err) if err.kind() == ErrorKind::NotFound => Vec::new(),
        text => text.at(&path)?,
    };
    ensure!((text.len() as u64) < LIMIT, "{}: larger than {LIMIT} bytes", path.display());
    Config::parse(&text).at(&path)?;
    let mut file = Object::parse(&text).at(&path)?;
    let mut auths = match file.get("auths") {
        Some(auths) => Object::parse(auths.get().as_bytes()).at(&path)?,
        None => Object::default(),
    };
    if change(&mut auths)? {
        file.set("auths", RawValue::from_string(auths.print(1))?);
        tree::replace(&path, (file.print(0) + "\n").as_bytes(), 0o600)?;
    }
    Ok(())
}

/// A JSON object whose values are kept as they are written, in their order.
#[derive(Default)]
struct Object(Vec<(String, Box<RawValue>)>);

impl Object {
    fn parse(text: &[u8]) -> Result<Object> {
        if text.trim_ascii().is_empty() || text.trim_ascii() == b"null" {
            return Ok(Object::default());
        }
        // serde's message may quote a value, and that may be a secret.
        serde_json::from_slice(text)
            .map_err(|err| anyhow!("not a file of credentials (line {})", err.line()))
    }

    fn keys(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(key, _)| key.as_str())
    }

    fn get(&self, key: &str) -> Option<&RawValue> {
        self.0.iter().find(|(other, _)| other == key).map(|(_, value)| &**value)
    }

    fn set(&mut self, key: &str, value: Box<RawValue>) {
        match self.0.iter_mut().find(|(other, _)| other == key) {
            Some((_, old)) => *old = value,
            None => self.0.push((key.into(), value)),
        }
    }

    /// Removes entries; returns whether there were any.
    fn remove(&mut self, is: impl Fn(&str) -> bool) -> bool {
        let before = self.0.len();
        self.0.retain(|(key, _)| !is(key));
        self.0.len() != before
    }

    /// Returns it as docker writes it, with tabs, at this depth.
    fn print(&self, depth: usize) -> String {
        if self.0.is_empty() {
            return "{}".into();
        }
        let lines: Vec<String> = self
            .0
            .iter()
            .map(|(key, value)| {
                let key = serde_json::Value::String(key.clone());
                format!("{}{key}: {value}", "\t".repeat(depth + 1))
            })
            .collect();
        format!("{{\n{}\n{}}}", lines.join(",\n"), "\t".repeat(depth))
    }
}

impl<'de> Deserialize<'de> for Object {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Ordered;
        impl<'de> Visitor<'de> for Ordered {
            type Value = Object;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Object, A::Error> {
                let mut object = Object::default();
                while let Some((key, value)) = map.next_entry::<String, Box<RawValue>>()? {
                    if object.get(&key).is_some() {
                        return Err(A::Error::custom("a field is there twice"));
                    }
                    object.0.push((key, value));
                }
                Ok(object)
            }
        }
        deserializer.deserialize_map(Ordered)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_registry_is_named_as_docker_and_podman_name_it() {
        let scope = |text: &str| text.parse::<Scope>().map(|scope| scope.to_string()).ok();
        for (text, expected) in [
            ("docker.io", "docker.io"),
            ("https://index.docker.io/v1/", "docker.io"),
            ("registry-1.docker.io", "docker.io"),
            ("r.io", "r.io"),
            ("r.io/", "r.io"),
            ("http://r.io:5000/v2/", "r.io:5000"),
            ("localhost", "localhost"),
            ("[::1]:5000", "[::1]:5000"),
            ("quay.io/team", "quay.io/team"),
            ("docker.io/library/app", "docker.io/library/app"),
        ] {
            assert_eq!(scope(text).as_deref(), Some(expected), "{text}");
        }
        for bad in ["", "/", "host", "-", "a b", "r.io/A", "r.io/app:1", "u:p@r.io", "r.io//x"] {
            assert_eq!(scope(bad), None, "{bad:?}");
        }
    }

    fn files(dir: &Path) -> Files {
        Files { paths: vec![dir.join("a"), dir.join("deep/b")], ..Files::none() }
    }

    #[test]
    fn what_is_stored_is_found_and_can_be_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let files = files(dir.path());
        for (key, domain, path) in [
            ("r.io", "r.io", "x"),
            ("r.io/team", "r.io", "team/x"),
            ("docker.io", "docker.io", "x"),
        ] {
            let scope: Scope = key.parse().unwrap();
            assert_eq!(files.find(domain, path).unwrap().is_some(), key == "r.io/team");
            files.store(&scope, "u", key).unwrap();
            assert!(files.find(domain, path).unwrap() == Some(Credentials::of("u", key).unwrap()));
        }
        // The last file is the one that is made, and nobody else may read it.
        assert!(!dir.path().join("a").exists());
        let mode = |name: &str| {
            std::fs::metadata(dir.path().join(name)).unwrap().permissions().mode() & 0o777
        };
        assert_eq!((mode("deep"), mode("deep/b")), (0o700, 0o600));
        assert!(files.forget(&"r.io".parse().unwrap()).unwrap());
        assert!(!files.forget(&"r.io".parse().unwrap()).unwrap());
        assert!(files.find("r.io", "team/x").unwrap().is_some());
        assert!(files.forget_all().unwrap());
        assert!(!files.forget_all().unwrap());
        assert!(files.find("r.io", "team/x").unwrap().is_none());
    }

    #[test]
    fn an_entry_stays_where_it_is_and_the_rest_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let text = "{\n\t\"z\": {\"b\": 1,  \"a\": [2]},\n\t\"auths\": {\n\t\t\"s.io\": {\"x\": 1},\n\t\t\"https://r.io/v1/\": {\"auth\": \"eDp5\"}\n\t},\n\t\"a\": \"\\u00e4\"\n}\n";
        std::fs::write(dir.path().join("a"), text).unwrap();
        let files = files(dir.path());
        files.store(&"r.io".parse().unwrap(), "u", "p").unwrap();
        let expected = text.replace("{\"auth\": \"eDp5\"}", "{\"auth\":\"dTpw\"}");
        assert_eq!(std::fs::read_to_string(dir.path().join("a")).unwrap(), expected);
        files.forget(&"r.io".parse().unwrap()).unwrap();
        let expected = text.replace(",\n\t\t\"https://r.io/v1/\": {\"auth\": \"eDp5\"}", "");
        assert_eq!(std::fs::read_to_string(dir.path().join("a")).unwrap(), expected);
    }

    #[test]
    fn a_file_that_is_not_understood_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        for bad in
            ["[", "[]", "{\"auths\": 1}", "{\"auths\": {}, \"auths\": {}}", "{\"a\":1,\"a\":2}"]
        {
            std::fs::write(dir.path().join("a"), bad).unwrap();
            let files = Files { paths: vec![dir.path().join("a")], ..Files::none() };
            let err = files.store(&"r.io".parse().unwrap(), "u", "hunter2").unwrap_err();
            assert!(!crate::error::line(&err).contains("hunter2"));
            assert_eq!(std::fs::read_to_string(dir.path().join("a")).unwrap(), bad);
        }
    }

    #[test]
    fn a_link_to_a_file_stays_a_link() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("dots")).unwrap();
        std::fs::write(dir.path().join("dots/b"), "{}").unwrap();
        std::os::unix::fs::symlink("dots/b", dir.path().join("a")).unwrap();
        let files = Files { paths: vec![dir.path().join("a")], ..Files::none() };
        files.store(&"r.io".parse().unwrap(), "u", "p").unwrap();
        assert!(dir.path().join("a").is_symlink());
        assert!(std::fs::read_to_string(dir.path().join("dots/b")).unwrap().contains("dTpw"));
    }

    #[test]
    fn a_link_to_what_is_not_there_yet_stays_one() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("dots")).unwrap();
        std::os::unix::fs::symlink("dots/b", dir.path().join("a")).unwrap();
        let files = Files { paths: vec![dir.path().join("a")], ..Files::none() };
        files.store(&"r.io".parse().unwrap(), "u", "p").unwrap();
        assert!(dir.path().join("a").is_symlink());
        assert!(dir.path().join("dots/b").is_file());
    }

    #[test]
    fn what_is_no_file_is_not_replaced_by_one() {
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/dev/null", dir.path().join("a")).unwrap();
        let files = Files { paths: vec![dir.path().join("a")], ..Files::none() };
        let err = files.store(&"r.io".parse().unwrap(), "u", "p").unwrap_err();
        assert_eq!(crate::error::line(&err), "/dev/null: not a regular file");
    }

    #[test]
    fn many_at_once_lose_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let files = files(dir.path());
        std::thread::scope(|scope| {
            for n in 0..16 {
                let files = &files;
                scope.spawn(move || files.store(&format!("r{n}.io").parse().unwrap(), "u", "p"));
            }
        });
        for n in 0..16 {
            assert!(files.find(&format!("r{n}.io"), "x").unwrap().is_some(), "{n}");
        }
    }

    #[test]
    fn what_cannot_be_a_user_or_a_password_is_refused() {
        for (user, password) in [("", "p"), ("a:b", "p"), ("u", ""), ("u", "a\nb"), ("u\r", "p")] {
            assert!(Credentials::of(user, password).is_err(), "{user:?} {password:?}");
        }
    }
}
