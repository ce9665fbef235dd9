//! Who may ask: the users of an htpasswd file, by HTTP's Basic scheme (RFC 7617).
//!
//! The file is what `htpasswd -B` writes, and Docker's registry reads: a user, a
//! colon and a bcrypt hash a line. It is read again when it changes. To check a
//! password is slow on purpose, so few are checked at a time, and one that was
//! right is known again by a digest that is salted anew in each process. Somebody
//! who is no user costs as much time as somebody with a wrong password.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, anyhow, bail, ensure};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use common::error::At;
use hyper::header::{AUTHORIZATION, HeaderMap, WWW_AUTHENTICATE};
use sha2::{Digest, Sha256};
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;

use crate::answer::{Answer, Code, Problem, error};

/// The largest file that is read.
const FILE_LIMIT: u64 = 4 << 20;
/// The most costly hash that is checked: about 4 s of a processor.
const COST: u32 = 16;
/// How many passwords are checked at a time.
const CHECKS: usize = 2;
/// How many may wait for that.
const WAITING: usize = 64;
/// How many right passwords are known again.
const KNOWN: usize = 1024;

/// An htpasswd file.
pub struct Htpasswd {
    path: PathBuf,
    salt: [u8; 16],
    read: Mutex<Option<(Stamp, Arc<Users>)>>,
    known: Mutex<HashSet<[u8; 32]>>,
    checks: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
}

/// The users, and their hashes.
type Users = HashMap<String, String>;
type Stamp = (u64, u64, u64, i64, i64, i64, i64);

impl Htpasswd {
    /// Reads a file.
    pub fn open(path: &Path) -> Result<Htpasswd> {
        let mut salt = [0; 16];
        rustix::rand::getrandom(&mut salt, rustix::rand::GetRandomFlags::empty())?;
        let htpasswd = Htpasswd {
            path: path.into(),
            salt,
            read: Mutex::default(),
            known: Mutex::default(),
            checks: Arc::new(Semaphore::new(CHECKS)),
            waiting: Arc::new(Semaphore::new(WAITING)),
        };
        htpasswd.users()?;
        Ok(htpasswd)
    }

    /// Returns the users of the file as it is now.
    fn users(&self) -> Result<Arc<Users>> {
        let path = &self.path;
        let metadata = fs::metadata(path).at(path)?;
        let stamp = (
            metadata.dev(),
            metadata.ino(),
            metadata.len(),
            metadata.mtime(),
            metadata.mtime_nsec(),
            metadata.ctime(),
            metadata.ctime_nsec(),
        );
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((seen, users)) = &*read
            && *seen == stamp
        {
            return Ok(users.clone());
        }
        let mut text = String::new();
        let file = fs::File::open(path).at(path)?;
        file.take(FILE_LIMIT).read_to_string(&mut text).at(path)?;
        let users = Arc::new(parse(&text).at(path)?);
        *read = Some((stamp, users.clone()));
        Ok(users)
    }

    /// Returns the user who sends these headers.
    pub async fn check(self: &Arc<Self>, headers: &HeaderMap) -> Result<String, Problem> {
        let header = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        let Some((user, password)) = header.and_then(credentials) else {
            return Err(Problem::from(challenge()));
        };
        let this = self.clone();
        let (users, user) = spawn_blocking(move || this.users().map(|users| (users, user)))
            .await
            .map_err(|err| anyhow!(err))??;
        let real = users.get(&user);
        // For somebody who is no user, any hash will do: it is to cost the same.
        let Some(hash) = real.or_else(|| users.values().next()).cloned() else {
            return Err(Problem::from(challenge()));
        };
        let key = self.key(&hash, &user, &password);
        let known = |known: &Mutex<HashSet<[u8; 32]>>| {
            known.lock().unwrap_or_else(PoisonError::into_inner).contains(&key)
        };
        if real.is_some() && known(&self.known) {
            return Ok(user);
        }
        let Ok(place) = self.waiting.clone().try_acquire_owned() else {
            let message = "too many passwords at a time";
            return Err(Problem::from(error(Code::TooManyRequests, message)));
        };
        let turn = self.checks.clone().acquire_owned().await.map_err(|err| anyhow!(err))?;
        let checked = spawn_blocking(move || {
            // Whoever hangs up ends the wait, and not the check.
            let _held = (place, turn);
            bcrypt::verify(password, &hash).unwrap_or(false)
        });
        let right = checked.await.map_err(|err| anyhow!(err))?;
        if real.is_none() || !right {
            return Err(Problem::from(challenge()));
        }
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= KNOWN {
            known.clear();
        }
        known.insert(key);
        Ok(user)
    }

    /// Returns what a right password is known by, until the hash changes or this process ends.
    fn key(&self, hash: &str, user: &str, password: &[u8]) -> [u8; 32] {
        let mut hasher = Sha256::new();
        hasher.update(self.salt);
        for part in [hash.as_bytes(), user.as_bytes(), password] {
            hasher.update((part.len() as u64).to_le_bytes());
            hasher.update(part);
        }
        hasher.finalize().into()
    }
}

/// Asks for a name and a password.
fn challenge() -> Answer {
    error(Code::Unauthorized, "authentication required")
        .with(WWW_AUTHENTICATE, "Basic realm=\"img-serve\", charset=\"UTF-8\"")
}

/// Reads an `Authorization` header: a name, which has no colon, and a password.
fn credentials(header: &str) -> Option<(String, Vec<u8>)> {
    let (scheme, rest) = header.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let bytes = BASE64_STANDARD.decode(rest.trim()).ok()?;
    let colon = bytes.iter().position(|b| *b == b':')?;
    let (user, password) = bytes.split_at(colon);
    Some((String::from_utf8(user.into()).ok()?, password[1..].into()))
}

/// Reads an htpasswd file. No error shows a hash.
fn parse(text: &str) -> Result<Users> {
    let mut users = Users::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (user, hash) = entry(line).with_context(|| format!("line {}", number + 1))?;
        users.insert(user.into(), hash.into());
    }
    Ok(users)
}

/// Reads a line: `user:$2y$COST$` and 53 digits of bcrypt's own.
fn entry(line: &str) -> Result<(&str, &str)> {
    let (user, hash) = line.split_once(':').context("not USER:HASH")?;
    ensure!(!user.is_empty(), "the user's name is empty");
    let rest = ["$2a$", "$2b$", "$2y$"].iter().find_map(|start| hash.strip_prefix(start));
    let Some((cost, digits)) = rest.and_then(|rest| rest.split_once('$')) else {
        bail!("not a bcrypt hash, as htpasswd -B makes them");
    };
    let digit = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'/');
    ensure!(digits.len() == 53 && digits.bytes().all(digit), "not a whole bcrypt hash");
    match cost.parse::<u32>() {
        Ok(4..=COST) if cost.len() == 2 && !cost.starts_with('+') => Ok((user, hash)),
        _ => bail!("a bcrypt hash whose cost is not from 4 to {COST}"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The password is `secret`.
    const HASH: &str = "$2b$04$eYUI9A8RLjd7U6PHSImtzO6RfPqh7yF5ouXbigT3wtQj5AfQds7AS";

    #[test]
    fn a_file_is_read_as_htpasswd_writes_it() {
        let text =
            format!("# who may\n\nuser:{HASH}\n  other:{} \r\n", HASH.replace("$2b$", "$2y$"));
        let users = parse(&text).unwrap();
        assert_eq!(users.len(), 2);
        assert!(users.values().all(|hash| bcrypt::verify("secret", hash).unwrap()));
        assert!(!bcrypt::verify("Secret", &users["user"]).unwrap());
        for (line, what) in [
            ("user", "not USER:HASH"),
            (":x", "the user's name is empty"),
            ("user:plain", "not a bcrypt hash"),
            ("user:{SHA}x", "not a bcrypt hash"),
            ("user:$apr1$x$y", "not a bcrypt hash"),
            ("user:$2b$04$short", "not a whole bcrypt hash"),
        ] {
            let err = common::error::line(&parse(&format!("#\n{line}")).unwrap_err());
            assert!(err.starts_with("line 2: ") && err.contains(what), "{line}: {err}");
        }
        for cost in ["03", "17", "31", "4", "+4"] {
            assert!(parse(&format!("u:{}", HASH.replace("$04$", &format!("${cost}$")))).is_err());
        }
    }

    #[test]
    fn a_header_has_a_name_and_a_password() {
        let basic = |text: &str| format!("Basic {}", BASE64_STANDARD.encode(text));
        let some = |user: &str, password: &str| Some((user.into(), password.as_bytes().to_vec()));
        assert_eq!(credentials(&basic("user:secret")), some("user", "secret"));
        assert_eq!(credentials(&basic("user:a:b")), some("user", "a:b"));
        assert_eq!(credentials(&basic("user:").replace("Basic", "bASIC")), some("user", ""));
        for bad in ["", "Basic", "Basic !", "Bearer dXNlcjpzZWNyZXQ=", &basic("user")] {
            assert_eq!(credentials(bad), None, "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "\\PC*") {
            let _ = parse(&text);
            let _ = credentials(&text);
        }

        /// What is taken for a hash is one to bcrypt: no user is let in, or kept out, by a parser's mood.
        #[test]
        fn every_line_that_is_taken_can_be_checked(line in "[a-z:]{0,4}:\\$2[aby]\\$0[0-9]\\$[./A-Za-z0-9]{52,54}") {
            if let Ok((_, hash)) = entry(&line) {
                prop_assert!(hash.parse::<bcrypt::HashParts>().is_ok());
            }
        }
    }
}
