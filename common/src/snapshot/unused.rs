//! Unpacked layers that nobody needs, and their removal.
//!
//! A layer is in use while somebody holds the shared lock on it. Under the exclusive one it
//! first loses its name: whoever wanted it then unpacks it anew, in a directory of its own.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::Result;
use rustix::io::Errno;

use super::{Namespace, without_boot};
use crate::error::{self, At};
use crate::tree;

/// An unpacked layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unpacked {
    /// The name of its directory, but for the start of the machine that it may be of.
    pub key: String,
    path: PathBuf,
}

impl Unpacked {
    /// Returns the layers in the directory `layers` that this process could remove.
    ///
    /// What was unpacked under another mapping has owners that are nobody here.
    pub fn list(layers: &Path) -> Result<Vec<Unpacked>> {
        let entries = match fs::read_dir(layers) {
            Err(err) if err.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.at(layers)?,
        };
        let namespace = Namespace::current()?;
        let mut found = Vec::new();
        for entry in entries {
            let Ok(key) = entry.at(layers)?.file_name().into_string() else { continue };
            if !key.starts_with('.') && namespace.suits(&key) {
                let path = layers.join(&key);
                found.push(Unpacked { key: without_boot(&key).0.to_owned(), path });
            }
        }
        found.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(found)
    }

    /// Returns the digits of the chain ID.
    pub fn chain(&self) -> &str {
        self.key.split('.').next().unwrap_or(&self.key)
    }

    /// Returns the bytes that it takes on the disk; nothing if somebody has removed it, or is removing it.
    pub fn usage(&self) -> Result<Option<u64>> {
        match tree::usage(&self.path) {
            Err(err) if error::find(&err) == Some(&Errno::NOENT) => Ok(None),
            bytes => bytes.map(Some),
        }
    }

    /// Returns whether nobody uses it at this moment.
    pub fn is_free(&self) -> bool {
        File::open(&self.path).is_ok_and(|dir| dir.try_lock().is_ok())
    }

    /// Removes the layer, and returns how many bytes that freed; nothing if somebody uses it or has removed it.
    pub fn remove(&self) -> Result<Option<u64>> {
        let Ok(lock) = File::open(&self.path) else { return Ok(None) };
        if lock.try_lock().is_err() || !tree::is_at(&lock, &self.path)? {
            return Ok(None);
        }
        let bytes = tree::usage(&self.path)?;
        // If we die, it looks like what is left of one that was on its way in, and is collected.
        let gone = self.path.with_file_name(format!(".{}.{}.tmp", self.key, std::process::id()));
        fs::rename(&self.path, &gone).at(&self.path)?;
        // Whoever waits for it need not wait for its end.
        drop(lock);
        // A file that could not be removed at first may be in the second pass.
        tree::remove(&gone).or_else(|_| tree::remove(&gone))?;
        Ok(Some(bytes))
    }
}

/// Removes what processes left that were killed while they made or removed layers.
pub fn collect(layers: &Path) -> Result<()> {
    match layers.try_exists().at(layers)? {
        true => super::collect(layers),
        false => Ok(()),
    }
}

/// Returns the directories of layers that no stack of `chains` and no container needs.
pub fn without(
    unpacked: Vec<Unpacked>,
    chains: &HashSet<String>,
    keys: &HashSet<String>,
) -> Vec<Unpacked> {
    let needed = |layer: &Unpacked| chains.contains(layer.chain()) || keys.contains(&layer.key);
    unpacked.into_iter().filter(|layer| !needed(layer)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_several_who_remove_a_layer_one_does_and_the_others_find_it_gone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("layer");
        fs::create_dir_all(path.join("diff/d")).unwrap();
        fs::write(path.join("diff/d/file"), vec![7; 10_000]).unwrap();
        let layer = Unpacked { key: "layer".into(), path };
        assert!(layer.usage().unwrap().is_some());
        let removed: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| layer.remove().unwrap())).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(removed.iter().flatten().count(), 1);
        assert_eq!((layer.usage().unwrap(), layer.remove().unwrap()), (None, None));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
