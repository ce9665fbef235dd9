//! Where files come from: the context, a stage, an image, a URL, a repository. All of them are trees of files.
//!
//! ```text
//! context   the directory, the tar or the repository that the build is given
//! http      what ADD fetches                 git   repositories, by git(1)
//! named     what --build-context calls by a name         kept  what was fetched before
//! repository  address   how a repository and a URL are written
//! ```
//!
//! What comes from elsewhere lies in a temporary directory, which goes with its
//! [`Tree`] and, at a signal, with us.

pub mod address;
pub mod context;
pub mod git;
pub mod http;
mod kept;
pub mod named;
pub mod repository;

use std::any::Any;
use std::collections::BTreeSet;
use std::fs;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, SystemTime};

use anyhow::Result;
use common::error::At;
use common::registry::Options;
use common::registry::http::Http;
use common::{cli, tree};
use rustix::fs::{CWD, FlockOperation, Mode, OFlags, ResolveFlags, flock, openat, openat2};
use tempfile::TempDir;

use crate::ignore::Ignore;

/// A tree of files that COPY, ADD and mounts take from. Nothing that is asked of it leads out of it.
pub struct Tree {
    /// Its top directory.
    pub root: OwnedFd,
    /// What it is called in messages: `context`, a stage's name, an image's.
    pub name: String,
    /// Where it is, if it is a directory of this host.
    pub path: Option<PathBuf>,
    /// What is not in it, though it is there.
    pub ignore: Option<Ignore>,
    /// Whether its files may be changed by others while we read them, so that what is known of
    /// one is known by its times only; else it is ours, and nobody changes it.
    pub foreign: bool,
    /// What stays as long as the tree does: a temporary directory, a snapshot.
    pub keep: Box<dyn Any + Send + Sync>,
}

impl Tree {
    /// Opens a directory of this host.
    pub fn directory(path: &Path, name: &str) -> Result<Tree> {
        let root = openat(CWD, path, DIRECTORY, Mode::empty()).at(path)?;
        Ok(Tree {
            root,
            name: name.into(),
            path: Some(path.into()),
            ignore: None,
            foreign: true,
            keep: Box::new(()),
        })
    }

    /// Takes a directory that we have made, or one in it. If it is one in it, the lock is among what is kept.
    fn ours(root: OwnedFd, name: &str, keep: impl Any + Send + Sync) -> Tree {
        let (path, ignore, keep) = (None, None, Box::new(keep));
        Tree { root, name: name.into(), path, ignore, foreign: false, keep }
    }
}

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// How what is elsewhere comes here.
pub struct Elsewhere<'a> {
    scratch: &'a (dyn Fn() -> Result<PathBuf> + Sync),
    secret: &'a (dyn Fn(&str) -> Result<Option<Vec<u8>>> + Sync),
    http: Http,
    retries: u32,
    backoff: Duration,
    /// The longest silence.
    stall: Duration,
    /// The hosts of the repositories that the user named: what tells git who we are, and names no host, is for these.
    hosts: Mutex<BTreeSet<String>>,
}

impl<'a> Elsewhere<'a> {
    /// `scratch` returns a directory for what is temporary, and makes it if it is not there. `secret`
    /// returns a secret of the build: a server's token is among them, by a name that BuildKit has for it.
    pub fn new(
        scratch: &'a (dyn Fn() -> Result<PathBuf> + Sync),
        secret: &'a (dyn Fn(&str) -> Result<Option<Vec<u8>>> + Sync),
    ) -> Elsewhere<'a> {
        let Options { verify, stall, certs, retries, backoff, .. } = Options::of_user();
        let (http, hosts) = (Http::new(verify, stall, certs), Mutex::default());
        Elsewhere { scratch, secret, http, retries, backoff, stall, hosts }
    }

    /// Makes a directory for what comes. It is locked as long as its descriptor is open.
    pub(crate) fn directory(&self) -> Result<(TempDir, OwnedFd)> {
        let above = (self.scratch)()?;
        sweep(&above);
        let make = || tempfile::Builder::new().prefix(PREFIX).tempdir_in(&above);
        let dir = cli::temporary(make).at(&above)?;
        let root = openat(CWD, dir.path(), DIRECTORY, Mode::empty()).at(dir.path())?;
        flock(&root, FlockOperation::LockShared).at(dir.path())?;
        Ok((dir, root))
    }

    /// Returns the first of these secrets that there is, as text.
    fn secret(&self, names: &[&str]) -> Result<Option<String>> {
        for name in names {
            if let Some(bytes) = (self.secret)(name)? {
                let text = String::from_utf8(bytes).ok().filter(|text| !text.contains('\0'));
                let Some(text) = text else { anyhow::bail!("secret {name}: not text") };
                return Ok(Some(text.trim().into()));
            }
        }
        Ok(None)
    }
}

/// What a temporary directory is called.
const PREFIX: &str = "source-";

/// How long nobody touches a directory that nobody holds: it may just have been made.
const UNTOUCHED: Duration = Duration::from_secs(3600);

/// What an unpacked archive is called: see [`cli::Operand::find`]. Nobody locks it, or works on it for so long.
const ARCHIVE: (&str, Duration) = ("archive-", Duration::from_secs(30 * 24 * 3600));

/// Removes the directories of those who were killed.
fn sweep(above: &Path) {
    for entry in fs::read_dir(above).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let kinds = [(PREFIX, UNTOUCHED), ARCHIVE];
        let kind =
            kinds.iter().find(|(prefix, _)| name.as_encoded_bytes().starts_with(prefix.as_bytes()));
        let Some((_, limit)) = kind else { continue };
        let old = || {
            let modified = entry.metadata().ok()?.modified().ok()?;
            SystemTime::now().duration_since(modified).ok().filter(|since| since > limit)
        };
        if old().is_some()
            && let Ok(dir) = openat(CWD, entry.path(), DIRECTORY | OFlags::NOFOLLOW, Mode::empty())
            && flock(&dir, FlockOperation::NonBlockingLockExclusive).is_ok()
        {
            // If it cannot be removed, somebody else may be able to.
            let _ = tree::remove(&entry.path());
        }
    }
}

/// Opens what is in a directory and not beyond it, links or no links; a FIFO is not waited for.
fn open_beneath(dir: BorrowedFd, path: &str, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let flags = flags | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    loop {
        match openat2(dir.as_fd(), path, flags, Mode::empty(), resolve) {
            // Somebody renamed something meanwhile: openat2(2).
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
            opened => return opened,
        }
    }
}
