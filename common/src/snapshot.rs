//! Snapshots: the layers of images, unpacked, and mounted as one tree.
//!
//! ```text
//! $TARE_ROOT/layers/
//!   <key>/            an unpacked layer; it gets this name when all of it is on the disk
//!     diff/           what it adds to the layers below, in overlay's own form
//!     layer.json      what the key stands for; for people
//!   <key>.flat/       all layers up to this one, where the filesystem cannot hold overlay's marks
//!   <key>~<boot>/     a layer that nobody has synced: it is whole until the machine's next start
//!   .<key>.tmp/       a layer on its way in, locked by who makes it
//! ```
//!
//! A key is the digits of the layer's chain ID. A layer that was unpacked in a user
//! namespace has other owners on disk and other marks: the namespace's mapping is
//! then a part of the key, so that no layer is ever used under another mapping.
//!
//! A layer that a build has made is taken over as it is ([`Snapshot::adopt`]). It is but a copy of
//! a blob, and to sync it would cost more than to make it: so its name says during which start
//! of the machine it is whole. What a power cut has left of it belongs to a start that is over.
//!
//! Layers are shared by all images and containers, never change, and may be
//! deleted by whoever gets an exclusive lock on one: users hold a shared lock.
//! Of several processes that need a layer one unpacks it and the others wait.

mod lower;
mod unused;

use std::any::Any;
use std::borrow::Borrow;
use std::fs::{self, DirBuilder, File, TryLockError};
use std::io::ErrorKind;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use anyhow::{Context, Result};
use oci_spec::image::Descriptor;
use rustix::fs::{AtFlags, CWD, Mode, OFlags, XattrFlags, openat};
use rustix::mount::{MountAttrFlags, OpenTreeFlags, open_tree};

use crate::digest::Digest;
use crate::error::At;
use crate::image;
use crate::layer::{Options, Owners, Tree};
use crate::layout::Layout;
use crate::overlay::{self, Overlay, Upper};
use crate::userns::{self, Mapping};
use crate::{sys, tree};

pub use lower::Lower;
pub use unused::{Unpacked, collect as collect_layers, without};

/// The layers of an image, which stay as long as this value does.
pub struct Snapshot {
    /// The directory of layers.
    dir: PathBuf,
    /// Top first.
    layers: Vec<Arc<Layer>>,
    /// The chain ID of the top one, if the image has a layer.
    chain_id: Option<Digest>,
    namespace: Namespace,
    /// Whether the layers' directory can hold an upper layer as well.
    stacked: bool,
    /// What could not be unpacked as the image says; nothing, if all of it was here already.
    pub warnings: Vec<String>,
}

/// An unpacked layer.
struct Layer {
    diff: PathBuf,
    /// What keeps it: the shared lock, or whoever it is borrowed from.
    _keep: Box<dyn Any + Send + Sync>,
}

impl Layer {
    /// Returns the name of its directory, but for the start of the machine that it may be of.
    fn key(&self) -> Option<&str> {
        let name = self.diff.parent()?.file_name()?.to_str()?;
        Some(without_boot(name).0)
    }
}

/// What a container's root is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Root {
    /// An overlay, to be mounted where the container is started.
    Overlay(Overlay),
    /// A directory with a copy of everything.
    Dir(PathBuf),
}

impl Root {
    /// Mounts it, nowhere yet; with `devices`, those in it can be opened.
    pub fn mount(&self, devices: bool) -> Result<OwnedFd> {
        match self {
            Root::Overlay(overlay) if devices => overlay.mount(MountAttrFlags::empty()),
            Root::Overlay(overlay) => overlay.mount(MountAttrFlags::MOUNT_ATTR_NODEV),
            Root::Dir(dir) => {
                let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
                openat(CWD, dir, flags, Mode::empty()).at(dir)
            }
        }
    }
}

impl Snapshot {
    /// Returns the layers of an image, bottom first each with its diff ID, as
    /// [`image::layers`] has them; those that are not in the directory `layers` are unpacked there.
    ///
    /// The process must be root, or root of its user namespace. Of no layers it is an empty tree.
    pub fn prepare<D: Borrow<Descriptor>>(
        layers: &Path,
        layout: &Layout,
        blobs: &[(D, Digest)],
    ) -> Result<Snapshot> {
        let store = Layers { dir: layers, namespace: Namespace::current()? };
        let stack = stack(blobs);
        if let Some(snapshot) = store.find(&stack)? {
            return Ok(snapshot);
        }
        match DirBuilder::new().recursive(true).mode(0o700).create(layers) {
            Err(err) if err.kind() != ErrorKind::AlreadyExists => return Err(err).at(layers),
            _ => collect(layers)?,
        }
        loop {
            let warnings = store.unpack(&stack, layout)?;
            // Between its name and our lock, somebody may have deleted it again.
            if let Some(snapshot) = store.find(&stack)? {
                return Ok(Snapshot { warnings, ..snapshot });
            }
        }
    }

    /// Returns the directories of the layers, top first.
    pub fn lower(&self) -> Vec<PathBuf> {
        self.layers.iter().map(|layer| layer.diff.clone()).collect()
    }

    /// Returns the names of the layers, top first: a container that is kept needs them again.
    pub fn keys(&self) -> Vec<String> {
        self.layers.iter().filter_map(|layer| layer.key()).map(str::to_owned).collect()
    }

    /// Returns the root of a container whose own files are in `dir`, and what the user should know of it.
    ///
    /// What the container writes goes to `dir`/upper. Where that cannot be, it goes
    /// to memory; where nothing can be mounted, the tree is copied to `dir`/rootfs.
    pub fn root(&self, dir: &Path) -> Result<(Root, Option<String>)> {
        let overlay = |upper| Overlay {
            lower: self.lower(),
            upper,
            userxattr: self.namespace.inner,
            volatile: false,
        };
        let on_disk = overlay(Upper::Dirs { upper: dir.join("upper"), work: dir.join("work") });
        let beside_layers = || -> Result<bool> {
            let layers = &self.layers[0].diff;
            Ok(fs::metadata(layers).at(layers)?.dev() == fs::metadata(dir).at(dir)?.dev())
        };
        let can_stack = match self.stacked && beside_layers()? {
            true => Ok(()),
            false => self.namespace.can_stack(dir),
        };
        let Err(no_upper) = can_stack else {
            return Ok((Root::Overlay(on_disk), None));
        };
        if self.namespace.can_stack_on_tmpfs(dir)? {
            let note = format!(
                "{}: its filesystem cannot hold what a container writes, so that goes to memory and is lost at the end; a --root on ext4, xfs, btrfs or tmpfs keeps it",
                tree::above(dir).display()
            );
            let at = dir.join("upper");
            fs::create_dir(&at).at(&at)?;
            return Ok((Root::Overlay(overlay(Upper::Tmpfs(at))), Some(note)));
        }
        let rootfs = dir.join("rootfs");
        self.copy(&rootfs)?;
        let note =
            format!("no overlay can be mounted here ({no_upper:#}), so the image was copied: slow");
        Ok((Root::Dir(rootfs), Some(note)))
    }

    /// Returns the merged tree, read-only and mounted nowhere.
    pub fn tree(&self) -> Result<OwnedFd> {
        let read_only = MountAttrFlags::MOUNT_ATTR_RDONLY | MountAttrFlags::MOUNT_ATTR_NODEV;
        if let [only] = &self.layers[..] {
            let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
            let tree = open_tree(rustix::fs::CWD, &only.diff, flags).at(&only.diff)?;
            sys::mount_setattr(tree.as_fd(), false, read_only.bits(), 0, 0).at(&only.diff)?;
            return Ok(tree);
        }
        let userxattr = self.namespace.inner;
        let overlay =
            Overlay { lower: self.lower(), upper: Upper::None, userxattr, volatile: false };
        overlay.mount(read_only)
    }

    /// Makes the directory `upper` the unpacked layer on top of these; returns them and it.
    ///
    /// It must be the upper directory of an overlay of these layers that nobody uses any more, and
    /// hold no more than the layer with this diff ID does. It is moved, so that it costs the same
    /// however much it holds. Returns nothing, and leaves it where it is, if it cannot be
    /// moved there: it is on another filesystem, or layers are no overlays here.
    pub fn adopt(&self, upper: &Path, diff_id: &Digest) -> Result<Option<Snapshot>> {
        if !self.stacked || self.layers.len() + 1 >= overlay::MOST_LAYERS {
            return Ok(None);
        }
        let chain_id = self.chain_with(diff_id);
        let store = Layers { dir: &self.dir, namespace: self.namespace.clone() };
        let key = self.namespace.key(&chain_id);
        let claim = loop {
            if let Some(layer) = store.open(&key)? {
                return Ok(Some(self.with(layer, chain_id))); // somebody else has it already
            }
            if let Some(claim) = Claim::take(&self.dir, &key)? {
                break claim;
            }
        };
        match fs::rename(upper, claim.diff()) {
            Err(err) if err.kind() == ErrorKind::CrossesDevices => return Ok(None),
            renamed => renamed.at(upper)?,
        }
        store.record(&claim, &chain_id, Some(diff_id))?;
        let layer = claim.publish_unsynced()?;
        Ok(layer.map(|layer| self.with(layer, chain_id)))
    }

    /// Returns these layers with the directory `upper` on top, which stays where it is as long as `keep` does.
    ///
    /// For what [`Snapshot::adopt`] cannot take. Nobody but this process ever knows of the layer.
    pub fn borrow(
        &self,
        upper: PathBuf,
        keep: impl Any + Send + Sync,
        diff_id: &Digest,
    ) -> Option<Snapshot> {
        let fits = self.layers.len() + 1 < overlay::MOST_LAYERS;
        let layer = Layer { diff: upper, _keep: Box::new(keep) };
        let below = fits.then(|| self.with(layer, self.chain_with(diff_id)))?;
        Some(Snapshot { stacked: false, ..below })
    }

    fn chain_with(&self, diff_id: &Digest) -> Digest {
        match &self.chain_id {
            None => *diff_id,
            Some(below) => image::chain_id(below, diff_id),
        }
    }

    fn with(&self, top: Layer, chain_id: Digest) -> Snapshot {
        let mut layers = Vec::with_capacity(self.layers.len() + 1);
        layers.push(Arc::new(top));
        layers.extend(self.layers.iter().cloned());
        Snapshot {
            dir: self.dir.clone(),
            layers,
            chain_id: Some(chain_id),
            namespace: self.namespace.clone(),
            stacked: self.stacked,
            warnings: Vec::new(),
        }
    }

    /// Copies the tree to `to`, which must not exist.
    fn copy(&self, to: &Path) -> Result<()> {
        // Only a flat tree can be copied without a mount, and without mounts there are no others.
        let [only] = &self.layers[..] else {
            return Err(anyhow::anyhow!("an overlay is needed, and cannot be mounted"));
        };
        fs::create_dir(to).at(to)?;
        tree::copy(&only.diff, to)
    }
}

/// A layer of an image, and what it stands on.
struct Step {
    chain_id: Digest,
    /// The blob and its diff ID; an image without layers has one step, and no blob.
    blob: Option<(Descriptor, Digest)>,
}

/// Returns the layers of an image, bottom first.
fn stack<D: Borrow<Descriptor>>(blobs: &[(D, Digest)]) -> Vec<Step> {
    if blobs.is_empty() {
        return vec![Step { chain_id: Digest::of(b""), blob: None }];
    }
    let diff_ids: Vec<Digest> = blobs.iter().map(|(_, diff_id)| *diff_id).collect();
    let steps = image::chain_ids(&diff_ids).into_iter().zip(blobs);
    let step = |(chain_id, (desc, diff_id)): (Digest, &(D, Digest))| Step {
        chain_id,
        blob: Some((desc.borrow().clone(), *diff_id)),
    };
    steps.map(step).collect()
}

/// The directory of layers, as this process may use it.
struct Layers<'a> {
    dir: &'a Path,
    namespace: Namespace,
}

impl Layers<'_> {
    /// Returns the snapshot, if all layers of it are here.
    fn find(&self, stack: &[Step]) -> Result<Option<Snapshot>> {
        let top = stack.last().filter(|step| step.blob.is_some());
        let snapshot = |layers: Vec<Layer>, stacked| Snapshot {
            dir: self.dir.into(),
            layers: layers.into_iter().map(Arc::new).collect(),
            chain_id: top.map(|step| step.chain_id),
            namespace: self.namespace.clone(),
            stacked,
            warnings: Vec::new(),
        };
        let mut layers = Vec::with_capacity(stack.len());
        for step in stack.iter().rev() {
            layers.extend(self.open(&self.namespace.key(&step.chain_id))?);
        }
        if layers.len() == stack.len() {
            return Ok(Some(snapshot(layers, true)));
        }
        let flat = self.open(&self.flat_key(stack))?;
        Ok(flat.map(|layer| snapshot(vec![layer], false)))
    }

    /// Returns a layer that is whole, locked against removal.
    fn open(&self, key: &str) -> Result<Option<Layer>> {
        for name in names(key) {
            let path = self.dir.join(name);
            loop {
                let lock = match File::open(&path) {
                    Ok(dir) => dir,
                    Err(err) if err.kind() == ErrorKind::NotFound => break,
                    Err(err) => return Err(err).at(path),
                };
                lock.lock_shared().at(&path)?;
                if tree::is_at(&lock, &path)? {
                    return Ok(Some(Layer { diff: path.join("diff"), _keep: Box::new(lock) }));
                }
            }
        }
        Ok(None)
    }

    /// Unpacks the layers that are not here, and gives them their names when all of them are on the disk.
    fn unpack(&self, stack: &[Step], layout: &Layout) -> Result<Vec<String>> {
        // Every process takes layers from the bottom up, so no two wait for each other.
        let mut found = Vec::new();
        let mut warnings = Vec::new();
        let mut claims: Vec<Claim> = Vec::new();
        let mut below: Vec<PathBuf> = Vec::new();
        for step in stack {
            let key = self.namespace.key(&step.chain_id);
            let claim = loop {
                if let Some(layer) = self.open(&key)? {
                    below.insert(0, layer.diff.clone());
                    found.push(layer);
                    break None;
                }
                if let Some(claim) = Claim::take(self.dir, &key)? {
                    break Some(claim);
                }
            };
            let Some(claim) = claim else { continue };
            let stackable = !claims.is_empty()
                || stack.len() < overlay::MOST_LAYERS
                    && self.namespace.can_stack(&claim.tmp).is_ok();
            if !stackable {
                drop(claim);
                return self.unpack_flat(stack, layout);
            }
            warnings.extend(self.fill(&claim, &below, step, layout)?);
            below.insert(0, claim.diff());
            claims.push(claim);
        }
        self.publish(claims)?;
        Ok(warnings)
    }

    /// Unpacks all layers into one tree.
    fn unpack_flat(&self, stack: &[Step], layout: &Layout) -> Result<Vec<String>> {
        let key = self.flat_key(stack);
        let claim = loop {
            if self.open(&key)?.is_some() {
                return Ok(Vec::new());
            }
            if let Some(claim) = Claim::take(self.dir, &key)? {
                break claim;
            }
        };
        let mut warnings = Vec::new();
        for step in stack {
            warnings.extend(self.fill(&claim, &[], step, layout)?);
        }
        self.publish(vec![claim])?;
        Ok(warnings)
    }

    /// Unpacks one layer on top of the layers `below`, top first.
    ///
    /// Through an overlay of them the kernel resolves names against the merged tree, and
    /// leaves in the upper directory what overlay wants to find in a layer.
    fn fill(
        &self,
        claim: &Claim,
        below: &[PathBuf],
        step: &Step,
        layout: &Layout,
    ) -> Result<Vec<String>> {
        let diff = claim.diff();
        let warnings = if below.is_empty() {
            match fs::create_dir(&diff) {
                Err(err) if err.kind() != ErrorKind::AlreadyExists => return Err(err).at(&diff),
                Ok(()) => {
                    fs::set_permissions(&diff, fs::Permissions::from_mode(0o755)).at(&diff)?
                }
                Err(_) => {}
            }
            self.apply(File::open(&diff).at(&diff)?, step, layout)?
        } else {
            let work = claim.tmp.join("work");
            let overlay = Overlay {
                lower: below.to_vec(),
                upper: Upper::Dirs { upper: diff, work: work.clone() },
                userxattr: self.namespace.inner,
                volatile: true, // all of it is synced at once, at the end
            };
            let flags = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
            let warnings = self.apply(overlay.mount(flags)?, step, layout)?;
            tree::remove(&work)?;
            warnings
        };
        self.record(claim, &step.chain_id, step.blob.as_ref().map(|(_, diff_id)| diff_id))?;
        Ok(warnings)
    }

    /// Writes down what the layer is.
    fn record(&self, claim: &Claim, chain_id: &Digest, diff_id: Option<&Digest>) -> Result<()> {
        let record = serde_json::json!({
            "chainID": chain_id.to_string(),
            "diffID": diff_id.map(Digest::to_string),
            "mapping": self.namespace.mapping.to_string(),
        });
        let path = claim.tmp.join("layer.json");
        fs::write(&path, format!("{record:#}\n")).at(&path)
    }

    /// Applies a layer's blob; returns what could not be as the layer says.
    fn apply(&self, root: impl AsFd, step: &Step, layout: &Layout) -> Result<Vec<String>> {
        let Some((desc, diff_id)) = &step.blob else { return Ok(Vec::new()) };
        // Without other ids in the namespace nothing can be given to them.
        let owners = if self.namespace.mapping.is_single() { Owners::Record } else { Owners::Set };
        let mut tree = Tree::open(root, Options { owners, ..Options::default() })?;
        Ok(tree.apply_from(layout, desc, diff_id)?.warnings)
    }

    /// Gives finished layers their names, once their files are on the disk.
    fn publish(&self, claims: Vec<Claim>) -> Result<()> {
        // Open since before anything was written, so that no error has been told to somebody else alone.
        if let Some(claim) = claims.first() {
            rustix::fs::syncfs(&claim.lock).at(self.dir)?;
        }
        for claim in claims {
            claim.publish()?;
        }
        tree::sync_dir(self.dir).at(self.dir)
    }

    fn flat_key(&self, stack: &[Step]) -> String {
        // A stack has a step even when the image has no layer.
        format!("{}.flat", self.namespace.key(&stack[stack.len() - 1].chain_id))
    }
}

/// The right to make a layer: an exclusive lock on its temporary directory, which goes with it unless it is published.
struct Claim {
    path: PathBuf,
    tmp: PathBuf,
    published: bool,
    lock: File,
}

impl Claim {
    /// Waits until nobody else makes the layer; returns nothing if it has been made.
    fn take(layers: &Path, key: &str) -> Result<Option<Claim>> {
        let tmp = layers.join(format!(".{key}.tmp"));
        match DirBuilder::new().mode(0o700).create(&tmp) {
            Err(err) if err.kind() != ErrorKind::AlreadyExists => return Err(err).at(&tmp),
            _ => {}
        }
        let lock = match File::open(&tmp) {
            Ok(dir) => dir,
            Err(err) if err.kind() == ErrorKind::NotFound => return Ok(None),
            Err(err) => return Err(err).at(&tmp),
        };
        loop {
            let locked = match lock.try_lock() {
                // Whoever has made it goes on with a shared lock, perhaps until we are done with ours.
                Err(TryLockError::WouldBlock) => lock.lock_shared().map(|()| false),
                Err(TryLockError::Error(err)) => Err(err),
                Ok(()) => Ok(true),
            };
            if locked.is_err() {
                let _ = fs::remove_dir(&tmp); // if there is nothing in it
            }
            let locked = locked.at(&tmp)?;
            // While we waited it was published, or given up and removed.
            if !tree::is_at(&lock, &tmp)? {
                return Ok(None);
            }
            if locked {
                break;
            }
        }
        let claim = Claim { path: layers.join(key), tmp, published: false, lock };
        for layer in names(key).map(|name| layers.join(name)) {
            if layer.try_exists().at(&layer)? {
                return Ok(None); // it was published before we made a new directory for it
            }
        }
        tree::empty(&claim.tmp).at(&claim.tmp)?; // whoever had the lock before was killed
        Ok(Some(claim))
    }

    fn diff(&self) -> PathBuf {
        self.tmp.join("diff")
    }

    fn publish(mut self) -> Result<()> {
        fs::rename(&self.tmp, &self.path).at(&self.path)?;
        self.published = true;
        Ok(())
    }

    /// Gives the layer the name that it has until the machine's next start; returns it, unless somebody was as quick as to remove it.
    fn publish_unsynced(mut self) -> Result<Option<Layer>> {
        let path = match (boot(), self.path.file_name().and_then(|name| name.to_str())) {
            (Some(boot), Some(key)) => self.path.with_file_name(format!("{key}~{boot}")),
            _ => {
                rustix::fs::syncfs(&self.lock).at(&self.path)?;
                self.path.clone()
            }
        };
        fs::rename(&self.tmp, &path).at(&path)?;
        self.published = true;
        // Not in one step: for a moment nobody has it.
        let lock = self.lock.try_clone()?;
        lock.lock_shared().at(&path)?;
        let there = tree::is_at(&lock, &path)?;
        Ok(there.then(|| Layer { diff: path.join("diff"), _keep: Box::new(lock) }))
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if !self.published {
            // What cannot be removed now is collected later.
            let _ = tree::remove(&self.tmp);
        }
    }
}

/// Removes what processes that were killed have left.
fn collect(layers: &Path) -> Result<()> {
    for entry in fs::read_dir(layers).at(layers)? {
        let name = entry.at(layers)?.file_name();
        let Some(name) = name.to_str() else { continue };
        // One that nobody synced, of a start of the machine that is over, may have lost anything.
        let over = boot().is_some() && without_boot(name).1.is_some_and(|of| Some(of) != boot());
        if name.starts_with('.') && name.ends_with(".tmp") || over {
            let path = layers.join(name);
            let Ok(dir) = File::open(&path) else { continue };
            if dir.try_lock().is_ok() && tree::is_at(&dir, &path)? {
                // What belongs to another mapping is for a process there to remove.
                let _ = tree::remove(&path);
            }
        }
    }
    Ok(())
}

/// Returns the names that the layer of a key may have.
fn names(key: &str) -> impl Iterator<Item = String> {
    let unsynced = boot().map(|boot| format!("{key}~{boot}"));
    std::iter::once(key.to_owned()).chain(unsynced)
}

/// Returns what stands for this start of the machine, in twelve digits.
fn boot() -> Option<&'static str> {
    static BOOT: OnceLock<Option<String>> = OnceLock::new();
    let read = || {
        let id = fs::read("/proc/sys/kernel/random/boot_id").ok()?;
        Some(Digest::of(id.trim_ascii()).short())
    };
    BOOT.get_or_init(read).as_deref()
}

/// Returns the key of a layer's name, and the start of the machine that it is of.
fn without_boot(name: &str) -> (&str, Option<&str>) {
    name.split_once('~').map_or((name, None), |(key, boot)| (key, Some(boot)))
}

/// The user namespace of this process.
#[derive(Clone)]
struct Namespace {
    mapping: Mapping,
    /// Whether it is below the initial one, where `trusted.*` attributes cannot be set.
    inner: bool,
}

impl Namespace {
    fn current() -> Result<Namespace> {
        Ok(Namespace { mapping: Mapping::current()?, inner: userns::is_entered()? })
    }

    /// Returns the name of a layer's directory.
    fn key(&self, chain_id: &Digest) -> String {
        match self.inner {
            false => chain_id.hex(),
            true => format!("{}.{}", chain_id.hex(), self.suffix()),
        }
    }

    /// Returns whether a directory of this name holds a layer whose owners are somebody here.
    fn suits(&self, key: &str) -> bool {
        let key = without_boot(key).0;
        let key = key.strip_suffix(".flat").unwrap_or(key);
        match (self.inner, key.split_once('.')) {
            (false, _) => true,
            (true, Some((_, mapping))) => mapping == self.suffix(),
            (true, None) => false,
        }
    }

    /// Returns the part of a layer's name that stands for the mapping.
    fn suffix(&self) -> String {
        Digest::of(self.mapping.to_string().as_bytes()).short()
    }

    /// Returns why the filesystem of `dir` cannot hold an upper layer, or nothing if it can.
    fn can_stack(&self, dir: &Path) -> Result<()> {
        let probe = dir.join(".probe");
        let tried = self.try_stack(&probe);
        tree::remove(&probe)?;
        tried
    }

    fn try_stack(&self, probe: &Path) -> Result<()> {
        fs::create_dir_all(probe.join("lower/dir")).at(probe)?;
        let overlay = Overlay {
            lower: vec![probe.join("lower")],
            upper: Upper::Dirs { upper: probe.join("upper"), work: probe.join("work") },
            userxattr: self.inner,
            volatile: true,
        };
        let root = overlay.mount(MountAttrFlags::empty())?;
        // Mounting needs nothing of the upper filesystem yet; a whiteout and an opaque mark do.
        rustix::fs::unlinkat(&root, "dir", AtFlags::REMOVEDIR).context("no whiteouts")?;
        rustix::fs::mkdirat(&root, "dir", Mode::RWXU).context("no extended attributes")?;
        Ok(())
    }

    /// Says whether a container could write to a tmpfs. `dir` is for trying.
    fn can_stack_on_tmpfs(&self, dir: &Path) -> Result<bool> {
        let name = if self.inner { "user.overlay.opaque" } else { "trusted.overlay.opaque" };
        let marks = || -> rustix::io::Result<()> {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let dir = rustix::fs::openat(overlay::tmpfs()?, ".", flags, Mode::empty())?;
            rustix::fs::fsetxattr(dir, name, b"y", XattrFlags::empty())
        };
        let probe = dir.join(".probe");
        let lower = vec![probe.join("a"), probe.join("b")];
        for layer in &lower {
            fs::create_dir_all(layer).at(layer)?;
        }
        let overlay = Overlay { lower, upper: Upper::None, userxattr: self.inner, volatile: false };
        let mounted = overlay.mount(MountAttrFlags::empty()).is_ok();
        tree::remove(&probe)?;
        Ok(mounted && marks().is_ok())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use rustix::fs::Access;

    use super::*;
    use crate::layout::Resolved;
    use crate::platform::Platform;

    /// A store with an image of these layers: each is a list of names and contents.
    struct Scratch {
        dir: tempfile::TempDir,
        layout: Layout,
        image: Resolved,
    }

    type Files<'a> = &'a [(&'a str, &'a str)];

    fn scratch(layers: &[Files]) -> Scratch {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::create(dir.path().join("images")).unwrap();
        let writing = layout.writing().unwrap();
        let mut diff_ids = Vec::new();
        let mut descs = Vec::new();
        for files in layers {
            let mut tar = tar::Builder::new(Vec::new());
            for (name, content) in *files {
                let mut header = tar::Header::new_ustar();
                header.set_mode(0o644);
                header.set_size(content.len() as u64);
                tar.append_data(&mut header, name, content.as_bytes()).unwrap();
            }
            let tar = tar.into_inner().unwrap();
            let digest = writing.put(&tar).unwrap().to_string();
            descs.push(serde_json::json!({
                "mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": digest, "size": tar.len()
            }));
            diff_ids.push(digest);
        }
        let config = serde_json::json!({
            "os": "linux", "architecture": "amd64", "rootfs": { "type": "layers", "diff_ids": diff_ids }
        });
        let config = config.to_string();
        let media_type = "application/vnd.oci.image.manifest.v1+json";
        let manifest = serde_json::json!({
            "schemaVersion": 2, "mediaType": media_type, "layers": descs, "config": {
                "mediaType": "application/vnd.oci.image.config.v1+json",
                "digest": writing.put(config.as_bytes()).unwrap().to_string(), "size": config.len()
            }
        });
        let manifest = manifest.to_string();
        let desc = serde_json::json!({
            "mediaType": media_type, "digest": writing.put(manifest.as_bytes()).unwrap().to_string(), "size": manifest.len()
        });
        let desc: Descriptor = serde_json::from_value(desc).unwrap();
        drop(writing);
        let image = layout.resolve(&desc, &Platform::host()).unwrap();
        Scratch { dir, layout, image }
    }

    impl Scratch {
        fn layers(&self) -> PathBuf {
            self.dir.path().join("layers")
        }

        fn prepare(&self) -> Result<Snapshot> {
            self.prepare_in(&self.layers())
        }

        fn prepare_in(&self, layers: &Path) -> Result<Snapshot> {
            let blobs = image::layers(&self.image.manifest, &self.image.config)?;
            Snapshot::prepare(layers, &self.layout, &blobs)
        }

        fn names(&self) -> Vec<String> {
            let entries = fs::read_dir(self.layers()).unwrap();
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
        }
    }

    /// Says whether this process can mount an overlay on /tmp, as root can.
    fn can_mount() -> bool {
        let dir = tempfile::tempdir().unwrap();
        let can = Namespace::current().unwrap().can_stack(dir.path());
        if let Err(err) = &can {
            eprintln!("not tested here: {err:#}");
        }
        can.is_ok()
    }

    const IMAGE: [Files; 3] = [
        &[("etc/base", "base"), ("etc/gone", ""), ("dir/hidden", "")],
        &[("etc/.wh.gone", ""), ("dir/.wh..wh..opq", ""), ("dir/shown", "")],
        &[("etc/top", "top"), ("dir/shown", "again")],
    ];

    #[test]
    fn layers_are_unpacked_once_and_mounted_as_one_tree() {
        if !can_mount() {
            return;
        }
        let t = scratch(&IMAGE);
        let snapshot = t.prepare().unwrap();
        assert_eq!(t.names().len(), 3);
        let place = t.dir.path().join("container");
        fs::create_dir(&place).unwrap();
        let (Root::Overlay(overlay), None) = snapshot.root(&place).unwrap() else { panic!() };
        let root = overlay.mount(MountAttrFlags::empty()).unwrap();
        let read = |name: &str| {
            let file = rustix::fs::openat(&root, name, OFlags::RDONLY, Mode::empty()).ok()?;
            let mut text = String::new();
            File::from(file).read_to_string(&mut text).ok()?;
            Some(text)
        };
        assert_eq!(read("etc/base").as_deref(), Some("base"));
        assert_eq!(read("dir/shown").as_deref(), Some("again"));
        assert_eq!(
            [read("etc/gone"), read("dir/hidden"), read("etc/.wh.gone")],
            [None, None, None]
        );

        // What is there is not read again: the blobs may be gone.
        fs::remove_dir_all(t.dir.path().join("images/blobs")).unwrap();
        assert_eq!(t.prepare().unwrap().lower(), snapshot.lower());
    }

    #[test]
    fn images_share_the_layers_below() {
        if !can_mount() {
            return;
        }
        let (t, other) = (scratch(&IMAGE), scratch(&IMAGE[..2]));
        let lower = t.prepare().unwrap().lower();
        fs::remove_dir_all(other.dir.path().join("images/blobs")).unwrap();
        let snapshot = other.prepare_in(&t.layers()).unwrap();
        assert_eq!(snapshot.lower(), lower[1..]);
    }

    #[test]
    fn a_layer_that_is_deleted_comes_back() {
        if !can_mount() {
            return;
        }
        let t = scratch(&IMAGE);
        let lower = t.prepare().unwrap().lower();
        tree::remove(lower[1].parent().unwrap()).unwrap();
        assert_eq!(t.prepare().unwrap().lower(), lower);
    }

    /// Makes an upper directory on top of `snapshot`, as a step of a build does.
    fn upper(t: &Scratch, snapshot: &Snapshot, name: &str) -> PathBuf {
        let place = t.dir.path().join(format!("step-{name}"));
        fs::create_dir(&place).unwrap();
        let (Root::Overlay(overlay), None) = snapshot.root(&place).unwrap() else { panic!() };
        let root = overlay.mount(MountAttrFlags::empty()).unwrap();
        rustix::fs::mkdirat(&root, name, Mode::RWXU).unwrap();
        place.join("upper")
    }

    #[test]
    fn what_a_step_wrote_is_a_layer() {
        if !can_mount() {
            return;
        }
        let t = scratch(&IMAGE);
        let base = t.prepare().unwrap();
        let (one, two) = (Digest::of(b"1"), Digest::of(b"2"));
        let first = base.adopt(&upper(&t, &base, "a"), &one).unwrap().unwrap();
        let second = first.adopt(&upper(&t, &first, "b"), &two).unwrap().unwrap();
        let tree = second.tree().unwrap();
        for name in ["a", "b", "etc/top", "dir/shown"] {
            assert!(rustix::fs::accessat(&tree, name, Access::EXISTS, AtFlags::empty()).is_ok());
        }
        let made = rustix::fs::mkdirat(&tree, "c", Mode::RWXU);
        assert_eq!(made, Err(rustix::io::Errno::ROFS));
        let none = base.tree().unwrap();
        assert!(rustix::fs::accessat(&none, "a", Access::EXISTS, AtFlags::empty()).is_err());

        // It is found by the layers' names, though there is no blob of it.
        let blob = t.image.manifest.layers()[0].clone();
        let layers = image::layers(&t.image.manifest, &t.image.config).unwrap();
        let mut blobs: Vec<_> = layers.into_iter().map(|(desc, id)| (desc.clone(), id)).collect();
        blobs.extend([(blob.clone(), one), (blob, two)]);
        let found = Snapshot::prepare(&t.layers(), &t.layout, &blobs).unwrap();
        assert_eq!(found.keys(), second.keys());
        // Of two who make the same one, the second finds it there.
        let again = upper(&t, &base, "a2");
        let same = base.adopt(&again, &one).unwrap().unwrap();
        assert_eq!(same.lower(), first.lower());
        assert!(again.exists());
    }

    #[test]
    fn a_layer_that_nobody_synced_is_of_this_start_of_the_machine() {
        if !can_mount() || boot().is_none() {
            return;
        }
        let t = scratch(&IMAGE);
        let base = t.prepare().unwrap();
        let made = base.adopt(&upper(&t, &base, "a"), &Digest::of(b"1")).unwrap().unwrap();
        let key = made.keys().remove(0);
        let name = format!("{key}~{}", boot().unwrap());
        assert!(made.lower()[0].ends_with(format!("{name}/diff")));
        let listed = Unpacked::list(&t.layers()).unwrap();
        assert!(listed.iter().any(|layer| layer.key == key && !layer.is_free()));
        drop(made);
        // The machine has been started again since.
        let old = t.layers().join(format!("{key}~0123456789ab"));
        fs::rename(t.layers().join(&name), &old).unwrap();
        let store = Layers { dir: &t.layers(), namespace: Namespace::current().unwrap() };
        assert!(store.open(&key).unwrap().is_none());
        collect(&t.layers()).unwrap();
        assert!(!old.exists());
    }

    #[test]
    fn a_step_on_nothing_is_the_first_layer() {
        if !can_mount() {
            return;
        }
        let t = scratch(&[]);
        let none = t.prepare().unwrap();
        assert_eq!(fs::read_dir(&none.lower()[0]).unwrap().count(), 0);
        none.tree().unwrap();
        let id = Digest::of(b"1");
        let first = none.adopt(&upper(&t, &none, "a"), &id).unwrap().unwrap();
        assert_eq!(first.keys()[0].split('.').next().unwrap(), id.hex());
    }

    #[test]
    fn what_cannot_be_moved_is_borrowed_or_left() {
        if !can_mount() {
            return;
        }
        let t = scratch(&IMAGE);
        let base = t.prepare().unwrap();
        let dir = upper(&t, &base, "a");
        let flat = Snapshot { stacked: false, ..t.prepare().unwrap() };
        assert!(flat.adopt(&dir, &Digest::of(b"1")).unwrap().is_none());
        let held = Arc::new(());
        let borrowed = base.borrow(dir.clone(), held.clone(), &Digest::of(b"1")).unwrap();
        let tree = borrowed.tree().unwrap();
        assert!(rustix::fs::accessat(&tree, "a", Access::EXISTS, AtFlags::empty()).is_ok());
        assert_eq!(Arc::strong_count(&held), 2);
        drop(borrowed);
        assert_eq!(Arc::strong_count(&held), 1);
    }

    #[test]
    fn many_at_once_unpack_once() {
        if !can_mount() {
            return;
        }
        let t = scratch(&IMAGE);
        std::thread::scope(|scope| {
            let runs: Vec<_> =
                (0..8).map(|_| scope.spawn(|| t.prepare().unwrap().lower())).collect();
            let lowers: Vec<_> = runs.into_iter().map(|run| run.join().unwrap()).collect();
            assert!(lowers.iter().all(|lower| *lower == lowers[0]));
        });
        assert_eq!(t.names().len(), 3);
    }

    #[test]
    fn what_a_killed_process_left_is_collected_and_what_a_live_one_makes_is_not() {
        if !can_mount() {
            return;
        }
        let t = scratch(&IMAGE);
        for name in ["live", "dead"] {
            fs::create_dir_all(t.layers().join(format!(".{name}.tmp/diff/x"))).unwrap();
        }
        let live = File::open(t.layers().join(".live.tmp")).unwrap();
        live.lock().unwrap();
        t.prepare().unwrap();
        assert!(t.layers().join(".live.tmp/diff/x").exists());
        assert!(!t.layers().join(".dead.tmp").exists());
    }

    #[test]
    fn who_waits_for_a_layer_does_not_wait_for_those_who_use_it() {
        let t = scratch(&IMAGE);
        let layers = t.layers();
        fs::create_dir(&layers).unwrap();
        let claim = Claim::take(&layers, "key").unwrap().unwrap();
        let (sender, receiver) = std::sync::mpsc::channel();
        let waiting = std::thread::spawn(move || {
            let _ = sender.send(Claim::take(&layers, "key").unwrap().is_none());
        });
        std::thread::sleep(std::time::Duration::from_millis(200)); // it waits by now, most likely
        let used = claim.publish_unsynced().unwrap();
        let limit = std::time::Duration::from_secs(10);
        let made = receiver.recv_timeout(limit);
        drop(used);
        waiting.join().unwrap();
        assert!(made.unwrap());
    }

    #[test]
    fn a_corrupt_layer_is_an_error_and_leaves_nothing() {
        let t = scratch(&IMAGE);
        let blob = t.image.manifest.layers()[2].digest().digest().to_owned();
        let path = t.dir.path().join("images/blobs/sha256").join(blob);
        let mut bytes = fs::read(&path).unwrap();
        bytes[600] ^= 1;
        fs::write(&path, bytes).unwrap();
        assert!(t.prepare().is_err());
        assert_eq!(t.names(), Vec::<String>::new());
    }

    #[test]
    fn layers_and_diff_ids_must_be_as_many() {
        let mut t = scratch(&IMAGE);
        t.image.manifest.set_layers(t.image.manifest.layers()[1..].to_vec());
        let err = t.prepare().err().unwrap();
        assert_eq!(format!("{err:#}"), "corrupt: its manifest has 2 layers, its config 3");
    }

    #[test]
    fn an_image_without_layers_is_an_empty_tree() {
        let t = scratch(&[]);
        let lower = t.prepare().unwrap().lower();
        assert_eq!(lower.len(), 1);
        assert_eq!(fs::read_dir(&lower[0]).unwrap().count(), 0);
    }

    #[test]
    fn the_mapping_is_a_part_of_the_key() {
        let id = Digest::of(b"layer");
        let namespace = |inner, range: &str| Namespace {
            inner,
            mapping: Mapping {
                uids: vec![range.parse().unwrap()],
                gids: vec![range.parse().unwrap()],
            },
        };
        let keys = [
            namespace(false, "0:0:4294967295").key(&id),
            namespace(true, "0:0:4294967295").key(&id),
            namespace(true, "0:1000").key(&id),
            namespace(true, "0:1001").key(&id),
        ];
        assert_eq!(keys[0], id.hex());
        assert!((1..4).all(
            |i| keys[i].starts_with(&format!("{}.", id.hex())) && !keys[..i].contains(&keys[i])
        ));
    }
}
