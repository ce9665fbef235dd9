//! Where things are on this host: `$TARE_ROOT`.
//!
//! ```text
//! $TARE_ROOT          /var/lib/tare for root, else ${XDG_DATA_HOME:-~/.local/share}/tare
//!   images/           an OCI image layout, nothing private in it
//!   layers/           unpacked layers, keyed by chain ID; may be deleted and come back
//!   containers/ID/    one directory a container
//!   cache/            may be deleted
//! ```
//!
//! The root is private (0700): what lies below it may be setuid, and belong to
//! anybody (CVE-2021-41091).

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use anyhow::{Result, anyhow};
use nix::unistd::geteuid;

use crate::error::{At, Hint};
use crate::layout::Layout;
use crate::tree;

/// The store of one user on this host.
#[derive(Debug)]
pub struct Store {
    root: PathBuf,
    /// The images.
    pub images: Layout,
}

impl Store {
    /// Opens the store in `root`, or where the environment says, and makes it if there is none yet.
    pub fn open(root: Option<&Path>) -> Result<Store> {
        let root = match root {
            Some(root) => std::path::absolute(root).at(root)?,
            None => default_root()?,
        };
        let marker = root.join("images/oci-layout");
        if !marker.try_exists().at(&marker)? {
            make_private(&root)?;
        }
        let images = Layout::create(root.join("images"))?;
        Ok(Store { root, images })
    }

    /// Returns the directory that all the others are in.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Returns the directory of unpacked layers.
    pub fn layers(&self) -> PathBuf {
        self.root.join("layers")
    }

    /// Returns the directory of containers.
    pub fn containers(&self) -> PathBuf {
        self.root.join("containers")
    }

    /// Returns the directory of what may be deleted at any time.
    pub fn cache(&self) -> PathBuf {
        self.root.join("cache")
    }
}

fn default_root() -> Result<PathBuf> {
    if let Some(root) = std::env::var_os("TARE_ROOT").filter(|root| !root.is_empty()) {
        return std::path::absolute(&root).at(root);
    }
    if geteuid().is_root() {
        return Ok("/var/lib/tare".into());
    }
    let data = absolute("XDG_DATA_HOME").or_else(|| Some(absolute("HOME")?.join(".local/share")));
    let data = data
        .ok_or_else(|| anyhow!("nowhere to keep images: neither HOME nor XDG_DATA_HOME is set"));
    Ok(data.hint(|| "--root DIR, or TARE_ROOT=DIR in the environment".into())?.join("tare"))
}

/// Returns the path in the environment variable `name`. The XDG specification ignores relative ones.
fn absolute(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute())
}

fn make_private(dir: &Path) -> Result<()> {
    if let Some(parent) = dir.parent() {
        tree::make_dirs(parent)?;
    }
    match DirBuilder::new().mode(0o700).create(dir) {
        Err(err) if err.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        Err(err) => Err(err).at(dir),
        Ok(()) => tree::sync_above(dir),
    }
}
