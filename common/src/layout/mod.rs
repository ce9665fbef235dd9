//! The OCI image layout: a directory of blobs, and an index that names some.
//!
//! ```text
//! oci-layout           marks the directory as a layout; never replaced, so it can be locked
//! index.json           descriptors of the manifests that are kept, most with a name
//! blobs/sha256/<hex>   manifests, configs and layers, named by digest
//! .partial/            blobs on their way in; never a link
//! ```
//!
//! Blobs never change and the index is replaced by rename, so a reader needs
//! no lock. Two locks order the writers. Whoever is going to add a reference
//! holds a shared lock on `oci-layout` from its first blob to its name, so that
//! nobody prunes a blob before it is named; whoever changes `index.json` holds
//! an exclusive lock on the directory, or two of them, each reading the old
//! index, would lose a name. Image-spec, image-layout.md.

mod bring;
mod index;
mod partial;
mod remove;
mod write;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

use anyhow::{Context, Error, Result, anyhow, bail, ensure};
use oci_spec::image::{Descriptor, ImageConfiguration, ImageManifest};
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat};
use rustix::io::Errno;

use crate::digest::{Digest, Hashed};
use crate::error::{self, At, Hint};
use crate::image::{self, DOCUMENT_LIMIT, Document};
use crate::platform::Platform;
use crate::reference::Reference;
use crate::tree;

pub use index::{Image, Index};
pub use remove::{Removing, Unneeded};
pub use write::{BlobWriter, NewBlob, SealedBlob, Unfinished, Writing, chosen_from, index_of};

/// The annotation on a manifest's descriptor that says which index it was chosen from.
///
/// The index is a blob of the layout, so that a later pull by its digest finds
/// it; it has no name, as its other manifests are not here.
pub const CHOSEN_FROM: &str = "tare.index.digest";

/// The largest index.json that is read, in bytes: some 200,000 names.
const INDEX_LIMIT: u64 = 64 << 20;

/// What is wrong with a file that is not in the layout.
const LEAVES: &str = "a symlink that leaves the layout";

/// An image layout on disk.
#[derive(Clone, Debug)]
pub struct Layout {
    dir: PathBuf,
}

/// An image of one platform: its documents, read and checked.
#[derive(Debug)]
pub struct Resolved {
    /// The manifest's descriptor.
    pub desc: Descriptor,
    /// The manifest.
    pub manifest: ImageManifest,
    /// The config.
    pub config: ImageConfiguration,
    /// The index that the manifest was chosen from, if it was.
    pub index: Option<Digest>,
}

/// A blob that a layout does not have: it can be pulled.
#[derive(Debug, Clone, Copy)]
pub struct Missing(pub Digest);

impl std::fmt::Display for Missing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "blob {}: not in the layout", self.0)
    }
}

impl std::error::Error for Missing {}

/// A name that a layout does not have: it can be pulled.
#[derive(Debug)]
pub struct Absent(pub Reference);

impl std::fmt::Display for Absent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: no such image", self.0)
    }
}

impl std::error::Error for Absent {}

impl Resolved {
    /// Returns how many bytes the image takes: its manifest, its config and its layers, as they are packed.
    pub fn size(&self) -> u64 {
        let layers = self.manifest.layers().iter();
        // A layer that is there twice is one blob. What descriptors say may be any number.
        let blobs: BTreeMap<_, _> = layers
            .chain([self.manifest.config(), &self.desc])
            .map(|desc| (desc.digest().to_string(), desc.size()))
            .collect();
        blobs.into_values().fold(0, u64::saturating_add)
    }

    /// Returns the platform that the config says the image is for.
    pub fn platform(&self) -> Platform {
        let (os, architecture) = (self.config.os(), self.config.architecture());
        let variant = self.config.variant().as_deref();
        Platform::new(&os.to_string(), &architecture.to_string(), variant)
    }
}

impl Layout {
    /// Opens the layout in `dir`. Nothing is written, nor locked.
    pub fn open(dir: impl Into<PathBuf>) -> Result<Layout> {
        #[derive(serde::Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Marker {
            image_layout_version: String,
        }
        let layout = Layout { dir: dir.into() };
        let path = layout.dir.join("oci-layout");
        let bytes =
            layout.read_file("oci-layout", 4096).at(&path).context("not an image layout")?;
        let marker: Marker =
            serde_json::from_slice(&bytes).at(&path).context("not an image layout")?;
        ensure!(
            marker.image_layout_version == "1.0.0",
            "{}: an image layout of version {:?}, which is not supported",
            layout.dir.display(),
            marker.image_layout_version
        );
        Ok(layout)
    }

    /// Opens the layout in `dir`, and makes it if there is nothing yet.
    pub fn create(dir: impl Into<PathBuf>) -> Result<Layout> {
        let dir = dir.into();
        match dir.join("oci-layout").symlink_metadata() {
            Ok(_) => Layout::open(dir),
            Err(err) if err.kind() == ErrorKind::NotFound => write::create(dir),
            Err(err) => Err(err).at(dir),
        }
    }

    /// Returns the directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Returns where a blob is, or would be.
    pub fn path(&self, digest: &Digest) -> PathBuf {
        self.dir.join(blob_path(digest))
    }

    /// Returns the images in index.json.
    pub fn index(&self) -> Result<Index> {
        let path = self.dir.join("index.json");
        let bytes = self.read_file("index.json", INDEX_LIMIT).at(&path)?;
        Index::parse(&bytes).at(&path)
    }

    /// Returns the descriptor that `name` names, or that its digest leads to.
    ///
    /// # Errors
    /// [`Absent`] if there is none.
    pub fn find(&self, name: &Reference) -> Result<Descriptor> {
        let index = self.index()?;
        let found = match name.digest() {
            Some(digest) => match self.find_digest(digest) {
                Err(err) if error::find::<Missing>(&err).is_some() => None,
                found => Some(found.with_context(|| name.to_string())?),
            },
            None => index.find(&name.full())?,
        };
        found.ok_or_else(|| Absent(name.clone())).hint(|| no_such_image(&index, name))
    }

    /// Returns a descriptor of the manifest or index with this digest, whether it has a name or not.
    pub fn find_digest(&self, digest: &Digest) -> Result<Descriptor> {
        if let Some(desc) = self.index()?.find_digest(digest)? {
            return Ok(desc);
        }
        // A member of an index, or the index that a pulled manifest was chosen from.
        let bytes = self.read_document(digest).with_context(|| digest.to_string())?;
        let media_type = image::media_type_of(&bytes).with_context(|| digest.to_string())?;
        Ok(image::descriptor(media_type.as_str().into(), digest, bytes.len() as u64))
    }

    /// Returns whether the blob is here, whole: a blob gets its name only when it is.
    ///
    /// # Errors
    /// If nobody can tell: there are too many open files, say.
    pub fn has(&self, digest: &Digest, size: u64) -> Result<bool> {
        let path = blob_path(digest);
        let metadata = match self.open_within(&path)? {
            Ok(file) => file.metadata().at(self.dir.join(path))?,
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::XDEV) => return Ok(false),
            Err(err) => return Err(err).at(self.dir.join(path)),
        };
        Ok(metadata.is_file() && metadata.len() == size)
    }

    /// Returns how many bytes the blob has, if it is here.
    pub fn size(&self, digest: &Digest) -> Option<u64> {
        self.open_digest(digest).ok().map(|(_, size)| size)
    }

    /// Opens a blob whose size is the descriptor's. Its bytes are not verified.
    ///
    /// # Errors
    /// [`Missing`] if it is not here.
    pub fn open_blob(&self, desc: &Descriptor) -> Result<File> {
        let digest = image::digest(desc)?;
        let (file, size) = self.open_digest(&digest)?;
        ensure!(
            size == desc.size(),
            "blob {digest}: corrupt: it has {size} bytes, its descriptor says {}",
            desc.size()
        );
        Ok(file)
    }

    /// Reads a manifest, index or config, verified.
    pub fn read(&self, desc: &Descriptor) -> Result<Vec<u8>> {
        let digest = image::digest(desc)?;
        ensure!(
            desc.size() <= DOCUMENT_LIMIT,
            "blob {digest}: a document of more than {DOCUMENT_LIMIT} bytes"
        );
        let bytes = self.read_document(&digest)?;
        let size = bytes.len() as u64;
        ensure!(
            size == desc.size(),
            "blob {digest}: corrupt: it has {size} bytes, its descriptor says {}",
            desc.size()
        );
        Ok(bytes)
    }

    /// Returns the image of `desc` that runs best on `platform`, through any nested indexes.
    ///
    /// An image that is for another platform, not chosen from an index, is returned as it is:
    /// what cannot run says so when it is run.
    pub fn resolve(&self, desc: &Descriptor, platform: &Platform) -> Result<Resolved> {
        let (desc, manifest, index) = self.manifest(desc, platform)?;
        let config = self.read(manifest.config())?;
        let subject = || format!("blob {}", manifest.config().digest());
        let config = image::parse_config(&config).with_context(subject)?;
        Ok(Resolved { desc, manifest, config, index })
    }

    /// Returns the manifest of [`Layout::resolve`], with its descriptor and the index that it was chosen from.
    ///
    /// Its config is not looked at: what is no image has a manifest all the same.
    pub fn manifest(
        &self,
        desc: &Descriptor,
        platform: &Platform,
    ) -> Result<(Descriptor, ImageManifest, Option<Digest>)> {
        let mut desc = desc.clone();
        let mut chosen_from = None;
        for _ in 0..image::INDEX_DEPTH {
            let bytes = self.read(&desc)?;
            let subject = || format!("blob {}", desc.digest());
            match image::parse(&bytes, &image::media_type(&desc)).with_context(subject)? {
                Document::Manifest(manifest) => return Ok((desc, *manifest, chosen_from)),
                Document::Index(index) => {
                    chosen_from.get_or_insert(image::digest(&desc)?);
                    desc = match image::select(&index, platform) {
                        Some(chosen) => chosen.clone(),
                        None => return Err(wrong_platform(&image::platforms(&index), platform)),
                    };
                }
            }
        }
        bail!("indexes nest deeper than {}", image::INDEX_DEPTH)
    }

    /// Takes the lock that keeps blobs from being pruned until they are named.
    pub fn writing(&self) -> Result<Writing<'_>> {
        Writing::new(self)
    }

    /// Reads a document by digest alone, verified.
    fn read_document(&self, digest: &Digest) -> Result<Vec<u8>> {
        let (file, size) = self.open_digest(digest)?;
        ensure!(
            size <= DOCUMENT_LIMIT,
            "blob {digest}: a document of more than {DOCUMENT_LIMIT} bytes"
        );
        let mut bytes = Vec::with_capacity(size as usize);
        let mut through = Hashed::new(file.take(DOCUMENT_LIMIT), digest.hasher());
        through.read_to_end(&mut bytes).with_context(|| format!("blob {digest}"))?;
        let (_, found, _) = through.finish();
        ensure!(found == *digest, "blob {digest}: corrupt: it hashes to {found}");
        Ok(bytes)
    }

    /// Opens a blob by digest alone, and returns its size, too. Anything but a regular file is refused.
    ///
    /// # Errors
    /// [`Missing`] if it is not here.
    pub fn open_digest(&self, digest: &Digest) -> Result<(File, u64)> {
        let path = blob_path(digest);
        let file = match self.open_within(&path)? {
            Ok(file) => file,
            Err(Errno::NOENT) => return Err(Error::new(Missing(*digest))),
            Err(Errno::XDEV) => bail!("blob {digest}: {LEAVES}"),
            Err(err) => return Err(err).at(self.dir.join(path)),
        };
        let metadata = file.metadata().at(self.dir.join(&path))?;
        ensure!(metadata.is_file(), "blob {digest}: not a regular file");
        Ok((file, metadata.len()))
    }

    /// Reads a regular file of at most `limit` bytes.
    fn read_file(&self, path: &str, limit: u64) -> Result<Vec<u8>> {
        let file = match self.open_within(path)? {
            Err(Errno::XDEV) => bail!(LEAVES),
            file => file?,
        };
        let metadata = file.metadata()?;
        ensure!(metadata.is_file(), "not a regular file");
        ensure!(metadata.len() <= limit, "larger than {limit} bytes");
        let mut bytes = Vec::with_capacity(metadata.len() as usize + 1);
        file.take(limit).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    /// Opens a directory of blobs, through symlinks that stay inside the layout; nothing if there is none.
    fn open_dir(&self, path: &str) -> Result<Option<File>> {
        let dir = match self.open_within(path)? {
            Ok(dir) => dir,
            Err(Errno::NOENT) => return Ok(None),
            Err(Errno::XDEV) => return Err(anyhow!(LEAVES)).at(self.dir.join(path)),
            Err(err) => return Err(err).at(self.dir.join(path)),
        };
        let is_dir = dir.metadata().at(self.dir.join(path))?.is_dir();
        ensure!(is_dir, "{}: not a directory", self.dir.join(path).display());
        Ok(Some(dir))
    }

    /// Opens what is at `path`, through symlinks that stay inside the layout. A fifo is not waited for.
    fn open_within(&self, path: &str) -> Result<Result<File, Errno>> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = openat(CWD, &self.dir, flags, Mode::empty()).at(&self.dir)?;
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        Ok(tree::open_at(&dir, path, flags, resolve).map(File::from))
    }
}

/// Returns the error for an index that has no image for `wanted`, listing those there are.
pub fn wrong_platform(offered: &[Platform], wanted: &Platform) -> Error {
    let offered: Vec<String> = offered.iter().map(Platform::to_string).collect();
    let error = anyhow!("no image for {wanted}");
    let hint = match offered.is_empty() {
        true => "the index names no image for any platform".into(),
        false => format!("--platform takes {}", offered.join(", ")),
    };
    Err::<(), _>(error).hint(|| hint).unwrap_err()
}

/// Returns where a blob is, from the layout's directory.
fn blob_path(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm(), digest.hex())
}

/// Says what to do about a name that is not here: the nearest ones that are, or a pull.
fn no_such_image(index: &Index, name: &Reference) -> String {
    let near = index.names().find(|other| {
        other.parse::<Reference>().is_ok_and(|other| other.repository() == name.repository())
    });
    match near.and_then(|near| near.parse::<Reference>().ok()) {
        Some(near) => format!("{near} is here; img-pull {name}, or img-ls for what is here"),
        None => format!("img-pull {name}, or img-ls for what is here"),
    }
}

#[cfg(test)]
mod tests;
