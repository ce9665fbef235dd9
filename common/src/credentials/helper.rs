//! Credential helpers: programs that keep passwords, `docker-credential-NAME`.
//!
//! ```text
//! get     stdin: the registry                            stdout: {"Username": ..., "Secret": ...}
//! store   stdin: {"ServerURL", "Username", "Secret"}
//! erase   stdin: the registry
//! list                                                   stdout: {"registry": "user", ...}
//! ```
//!
//! A secret goes through a pipe, never into an argument. What a helper says is shown
//! only if it cannot be an answer that holds a secret. docker-credential-helpers, README.md.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::process::{Command, Stdio};
use std::thread;

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use serde_json::json;

use super::{Credentials, LIMIT};
use crate::error::sanitised;
use crate::sys::without_sigpipe;

/// What a helper says of a registry that it knows nothing of: the protocol's one message with a
/// meaning. docker-credential-helpers, credentials/error.go.
const NOTHING: &str = "credentials not found in native keychain";

/// The user that stands for an identity token.
const TOKEN: &str = "<token>";

/// Returns what a helper knows of a registry.
pub(super) fn get(helper: &str, key: &str) -> Result<Option<Credentials>> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Answer {
        username: String,
        secret: String,
    }
    let Some(answer) = run(helper, "get", key)? else { return Ok(None) };
    let Ok(Answer { username, secret }) = serde_json::from_slice(&answer) else {
        bail!("{}: its answer has no Username and Secret", program(helper));
    };
    if username == TOKEN {
        return Ok(Some(Credentials::Identity(secret)));
    }
    Ok(Some(Credentials::Password { user: username, password: secret }))
}

/// Gives a helper a password to keep.
pub(super) fn store(helper: &str, key: &str, user: &str, password: &str) -> Result<()> {
    let entry = json!({ "ServerURL": key, "Username": user, "Secret": password });
    run(helper, "store", &entry.to_string()).map(drop)
}

/// Lets a helper forget a registry; returns whether it knew it.
pub(super) fn erase(helper: &str, key: &str) -> Result<bool> {
    // Some helpers erase what they never had without a word.
    if get(helper, key).is_ok_and(|known| known.is_none()) {
        return Ok(false);
    }
    Ok(run(helper, "erase", key)?.is_some())
}

/// Returns the registries that a helper knows.
pub(super) fn list(helper: &str) -> Result<Vec<String>> {
    let answer = run(helper, "list", "")?.unwrap_or_default();
    if answer.trim_ascii().is_empty() {
        return Ok(Vec::new());
    }
    match serde_json::from_slice::<Option<BTreeMap<String, String>>>(&answer) {
        Ok(known) => Ok(known.unwrap_or_default().into_keys().collect()),
        Err(_) => bail!("{}: its answer is no list", program(helper)),
    }
}

fn program(helper: &str) -> String {
    format!("docker-credential-{helper}")
}

/// Runs a helper; returns what it answers, or nothing if it knows nothing of it.
fn run(helper: &str, verb: &str, input: &str) -> Result<Option<Vec<u8>>> {
    let ok = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    ensure!(!helper.is_empty() && helper.bytes().all(ok), "{helper:?}: not a helper's name");
    let name = program(helper);
    let path = which::which(&name).ok().with_context(|| format!("{name}: not found on PATH"))?;
    let mut child = Command::new(path)
        .arg(verb)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| name.clone())?;
    if let Some(mut stdin) = child.stdin.take() {
        let input = input.to_owned();
        // A helper that does not read its question has an exit status that says more.
        without_sigpipe(|| thread::spawn(move || stdin.write_all(input.as_bytes())));
    }
    let mut answer = Vec::new();
    if let Some(stdout) = child.stdout.take() {
        stdout.take(LIMIT).read_to_end(&mut answer).with_context(|| name.clone())?;
    }
    let status = child.wait().with_context(|| name.clone())?;
    if status.success() {
        return Ok(Some(answer));
    }
    let text = String::from_utf8_lossy(&answer);
    let text = text.trim();
    if text == NOTHING {
        return Ok(None);
    }
    // What should have been an answer may hold what nobody is to read.
    let line = text.lines().next().filter(|line| !line.starts_with('{')).unwrap_or_default();
    match sanitised(line, 200) {
        line if line.is_empty() => bail!("{name}: {status}"),
        line => bail!("{name}: {status}: {line}"),
    }
}
