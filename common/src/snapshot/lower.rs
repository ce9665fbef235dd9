//! Layers that happen to be unpacked, one by one.

use std::borrow::Borrow;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Result, ensure};
use oci_spec::image::Descriptor;
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::thread::{CapabilitySet, capabilities};

use super::{Layer, Layers, Namespace, Snapshot, stack};
use crate::digest::Digest;
use crate::error::At;
use crate::files::Files;

/// An unpacked layer, which stays as long as this value does.
pub struct Lower {
    layer: Arc<Layer>,
    /// Whose the marks of overlay are; in a tree of all layers there are none.
    userxattr: Option<bool>,
}

impl Lower {
    /// Returns, for each of the layers of an image, bottom first, whether it is unpacked in the directory `layers`.
    ///
    /// As this process has unpacked it or would unpack it: elsewhere files have other owners. With a
    /// single id they all have one, so then none counts, and none does to who sees no marks of overlay.
    pub fn of<D: Borrow<Descriptor>>(
        layers: &Path,
        blobs: &[(D, Digest)],
    ) -> Result<Vec<Option<Lower>>> {
        let namespace = Namespace::current()?;
        let single = namespace.mapping.is_single();
        if single || !sees_marks(namespace.inner)? || blobs.is_empty() {
            return Ok(blobs.iter().map(|_| None).collect());
        }
        let userxattr = Some(namespace.inner);
        let store = Layers { dir: layers, namespace };
        let lower = |layer| Lower { layer: Arc::new(layer), userxattr };
        let open = |chain_id: &Digest| store.open(&store.namespace.key(chain_id));
        stack(blobs).iter().map(|step| Ok(open(&step.chain_id)?.map(lower))).collect()
    }

    /// Puts the layer on top of those that are in `files`.
    pub fn put_on(self, files: &mut Files) -> Result<()> {
        let sees = self.userxattr.is_none_or(|user| sees_marks(user).unwrap_or(false));
        ensure!(sees, "{}: only root of the host sees all of it", self.layer.diff.display());
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = openat(CWD, &self.layer.diff, flags, Mode::empty()).at(&self.layer.diff)?;
        files.push_tree(root, self.userxattr, self.layer);
        Ok(())
    }
}

/// Returns whether this process can read overlay's marks: to who may not, `trusted.*` are not there.
fn sees_marks(userxattr: bool) -> Result<bool> {
    let held = || capabilities(None).map(|sets| sets.effective);
    Ok(userxattr || held()?.contains(CapabilitySet::SYS_ADMIN))
}

impl Snapshot {
    /// Returns its layers one by one, bottom first.
    pub fn layers(&self) -> impl Iterator<Item = Lower> {
        self.layers.iter().rev().map(|layer| {
            // What was written on top of a flat tree is overlay's all the same.
            let is_flat = layer.key().is_some_and(|key| key.ends_with(".flat"));
            let userxattr = (!is_flat).then_some(self.namespace.inner);
            Lower { layer: layer.clone(), userxattr }
        })
    }
}
