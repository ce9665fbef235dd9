//! What is known of images and cannot change: a cache, so that a store of ten thousand images is listed at once.
//!
//! ```text
//! $TARE_ROOT/cache/images
//!   magic                              which layout of this file it is
//!   ID time nanoseconds size count     of an image; numbers are little-endian
//!     prefix ...                       the first 8 bytes of each digest that it leads to
//!   SHA-256 of all that
//! ```
//!
//! An image's ID is the digest of its manifest, which names the config and the layers; so what
//! follows from these is as true in a year. An index is not among them, since what it leads to
//! depends on what is here, nor is a manifest that refers to another.
//!
//! Prefixes are enough to say that a blob is needed. Two that are alike keep one blob too many,
//! and img-prune, which asks nobody but the documents themselves, finds it.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use jiff::Timestamp;

use crate::digest::Digest;
use crate::error::At;
use crate::layout::{Image, Layout};
use crate::platform::Platform;
use crate::store::Store;

const MAGIC: &[u8; 16] = b"tare images, 1\n\0";
/// The most bytes that are read: half a million images.
const LIMIT: u64 = 64 << 20;
/// For how long somebody may be writing it.
const STALE: Duration = Duration::from_secs(10);
/// Where there is no time.
const NO_TIME: u32 = i32::MIN as u32;
/// A digest's bytes, a time, nanoseconds, a size, a count.
const HEAD: usize = 32 + 8 + 4 + 8 + 2;

/// What is known of the images of a store.
pub struct Facts {
    path: PathBuf,
    /// The records, one after the other.
    bytes: Vec<u8>,
    /// Where the record of an image begins.
    at: HashMap<[u8; 32], usize>,
    /// There are records that the file does not have.
    new: bool,
}

/// What is known of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fact<'a> {
    /// When it was created, if it says so.
    pub created: Option<Timestamp>,
    /// How many bytes it takes, as it is packed.
    pub size: u64,
    prefixes: &'a [u8],
}

impl Fact<'_> {
    /// Returns whether the image may need a blob; if not, it certainly does not.
    pub fn may_need(&self, blob: &Digest) -> bool {
        let prefix = prefix(blob);
        self.prefixes.as_chunks().0.contains(&prefix)
    }
}

impl Facts {
    /// Reads what is known of the images of `store`. If that cannot be read, nothing is.
    pub fn of(store: &Store) -> Facts {
        let path = store.cache().join("images");
        let bytes = match fs::metadata(&path) {
            Ok(metadata) if metadata.len() <= LIMIT => fs::read(&path).unwrap_or_default(),
            _ => Vec::new(),
        };
        Facts::parse(&bytes, path.clone()).unwrap_or_else(|_| Facts {
            path,
            bytes: Vec::new(),
            at: HashMap::new(),
            new: false,
        })
    }

    fn parse(bytes: &[u8], path: PathBuf) -> Result<Facts> {
        let (body, sum) = bytes.split_last_chunk::<32>().context("cut off")?;
        ensure!(Digest::of(body) == Digest::Sha256(*sum), "damaged");
        let records = body.strip_prefix(MAGIC).context("another format")?;
        let mut at = HashMap::with_capacity(records.len() / 128);
        let mut start = 0;
        while start < records.len() {
            let (id, record) = record(records, start).context("cut off")?;
            at.insert(id, start);
            start += HEAD + record.prefixes.len();
        }
        Ok(Facts { path, bytes: records.into(), at, new: false })
    }

    /// Returns what is known of an image, if that is something.
    pub fn get(&self, image: &Image) -> Option<Fact<'_>> {
        let id = id(image)?;
        record(&self.bytes, *self.at.get(&id)?).map(|(_, fact)| fact)
    }

    /// Returns what is known of an image, and learns it first if it is of a kind that is known for ever.
    pub fn learn(&mut self, layout: &Layout, image: &Image) -> Option<Fact<'_>> {
        let id = id(image)?;
        let start = match self.at.get(&id) {
            Some(start) => *start,
            None => self.read(id, layout, image)?,
        };
        record(&self.bytes, start).map(|(_, fact)| fact)
    }

    /// Adds a record of an image; returns where it begins.
    fn read(&mut self, id: [u8; 32], layout: &Layout, image: &Image) -> Option<usize> {
        let leads_to = layout.leads_to(image).ok()??;
        // Not everything that is kept is an image.
        let resolved = layout.resolve(&image.descriptor().ok()?, &Platform::host()).ok()?;
        let count = u16::try_from(leads_to.len()).ok()?;
        let start = self.bytes.len();
        let created: Option<Timestamp> =
            resolved.config.created().as_ref().and_then(|created| created.parse().ok());
        self.at.insert(id, start);
        self.bytes.extend(id);
        self.bytes.extend(created.map_or(0, |at| at.as_second()).to_le_bytes());
        let nanoseconds = created.map_or(NO_TIME, |at| at.subsec_nanosecond() as u32);
        self.bytes.extend(nanoseconds.to_le_bytes());
        self.bytes.extend(resolved.size().to_le_bytes());
        self.bytes.extend(count.to_le_bytes());
        leads_to.iter().for_each(|blob| self.bytes.extend(prefix(blob)));
        self.new = true;
        Some(start)
    }

    /// Writes what was learned, and forgets the images that are not in `images`.
    ///
    /// If that cannot be, it is learned again.
    pub fn save(&self, images: &[Image]) {
        if self.new {
            let _ = self.write(images);
        }
    }

    fn write(&self, images: &[Image]) -> Result<()> {
        let mut bytes = MAGIC.to_vec();
        let mut records = BTreeMap::new();
        for image in images {
            let Some(start) = id(image).and_then(|id| self.at.get(&id)) else { continue };
            records.entry(*start).or_insert(());
        }
        for start in records.into_keys() {
            let (_, fact) = record(&self.bytes, start).context("cut off")?;
            bytes.extend(&self.bytes[start..start + HEAD + fact.prefixes.len()]);
        }
        let Digest::Sha256(sum) = Digest::of(&bytes) else { return Ok(()) };
        bytes.extend(sum);
        let dir = self.path.parent().unwrap_or(&self.path);
        fs::create_dir_all(dir).at(dir)?;
        // One name for all: what a dead one left is in nobody's way for long.
        let path = dir.join(".images.new");
        let age = fs::metadata(&path).and_then(|metadata| metadata.modified());
        if age.is_ok_and(|at| at.elapsed().is_ok_and(|age| age < STALE)) {
            return Ok(()); // somebody else is writing it
        }
        let _ = fs::remove_file(&path);
        let mut new = File::options().write(true).create_new(true).open(&path).at(&path)?;
        let write = new.write_all(&bytes).and_then(|()| fs::rename(&path, &self.path));
        write.inspect_err(|_| drop(fs::remove_file(&path))).at(&path)
    }
}

/// Returns the record that begins at `start`: the image's ID, and what is known of it.
fn record(bytes: &[u8], start: usize) -> Option<([u8; 32], Fact<'_>)> {
    let (id, rest) = bytes.get(start..)?.split_first_chunk::<32>()?;
    let (seconds, rest) = rest.split_first_chunk()?;
    let (nanoseconds, rest) = rest.split_first_chunk()?;
    let (size, rest) = rest.split_first_chunk()?;
    let (count, rest) = rest.split_first_chunk()?;
    let prefixes = rest.get(..8 * usize::from(u16::from_le_bytes(*count)))?;
    let nanoseconds = u32::from_le_bytes(*nanoseconds);
    let created = match nanoseconds {
        NO_TIME => None,
        // Before 1970 both count backwards.
        nanoseconds => Timestamp::new(i64::from_le_bytes(*seconds), nanoseconds as i32).ok(),
    };
    Some((*id, Fact { created, size: u64::from_le_bytes(*size), prefixes }))
}

/// Returns the bytes of an image's ID.
fn id(image: &Image) -> Option<[u8; 32]> {
    match image.digest().parse() {
        Ok(Digest::Sha256(bytes)) => Some(bytes),
        _ => None,
    }
}

fn prefix(digest: &Digest) -> [u8; 8] {
    let bytes: &[u8] = match digest {
        Digest::Sha256(bytes) => bytes,
        Digest::Sha512(bytes) => bytes,
    };
    let mut prefix = [0; 8];
    prefix.copy_from_slice(&bytes[..8]);
    prefix
}

#[cfg(test)]
mod tests {
    use oci_spec::image::Descriptor;
    use serde_json::json;

    use super::*;

    const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

    /// Puts an image of one layer, created then, with these fields in its manifest; returns its descriptor.
    fn image(store: &Store, created: &str, more: &serde_json::Value) -> Descriptor {
        let writing = store.images.writing().unwrap();
        let put = |media_type: &str, bytes: &str| {
            let digest = writing.put(bytes.as_bytes()).unwrap().to_string();
            json!({ "mediaType": media_type, "digest": digest, "size": bytes.len() })
        };
        let layer = put("application/vnd.oci.image.layer.v1.tar", created);
        let config = json!({ "created": created, "os": "linux", "architecture": "amd64", "rootfs": { "type": "layers", "diff_ids": [layer["digest"]] } });
        let config = put("application/vnd.oci.image.config.v1+json", &config.to_string());
        let mut manifest = json!({ "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [layer] });
        manifest.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let desc: Descriptor =
            serde_json::from_value(put(MANIFEST, &manifest.to_string())).unwrap();
        writing.keep(&desc).unwrap();
        desc
    }

    #[test]
    fn what_was_learned_is_known_the_next_time() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(Some(&dir.path().join("tare"))).unwrap();
        let times = ["2020-01-02T03:04:05.678Z", "1960-01-01T00:00:00.5Z", "not a time"];
        times.iter().for_each(|time| drop(image(&store, time, &json!({}))));
        let index = store.images.index().unwrap();
        let mut facts = Facts::of(&store);
        for image in index.images() {
            assert!(facts.get(image).is_none());
            facts.learn(&store.images, image);
        }
        facts.save(index.images());
        // Now from the file, without a document.
        fs::remove_dir_all(store.images.dir().join("blobs/sha256")).unwrap();
        let facts = Facts::of(&store);
        assert!(!facts.new);
        for (image, time) in index.images().iter().zip(times) {
            let fact = facts.get(image).unwrap();
            assert_eq!(fact.created, time.parse().ok());
            assert!(fact.size > 500);
            assert!(fact.may_need(&image.digest().parse().unwrap()));
            assert!(fact.may_need(&Digest::of(time.as_bytes())));
            assert!(!fact.may_need(&Digest::of(b"another")));
        }
        // Of those that are not there any more nothing is kept.
        let mut facts = Facts::of(&store);
        facts.new = true;
        facts.save(&index.images()[..1]);
        let facts = Facts::of(&store);
        assert!(facts.get(&index.images()[0]).is_some() && facts.get(&index.images()[1]).is_none());
    }

    #[test]
    fn what_may_change_is_never_known() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(Some(&dir.path().join("tare"))).unwrap();
        let subject = json!({ "mediaType": MANIFEST, "digest": Digest::of(b"subject").to_string(), "size": 7 });
        let desc = image(&store, "2020-01-02T03:04:05Z", &json!({ "subject": subject }));
        let index = json!({ "schemaVersion": 2, "manifests": [desc] }).to_string();
        let writing = store.images.writing().unwrap();
        let digest = writing.put(index.as_bytes()).unwrap();
        let media_type = "application/vnd.oci.image.index.v1+json";
        let desc = crate::image::descriptor(media_type.into(), &digest, index.len() as u64);
        writing.keep(&desc).unwrap();
        let index = store.images.index().unwrap();
        let mut facts = Facts::of(&store);
        assert_eq!(index.images().len(), 2);
        for image in index.images() {
            facts.learn(&store.images, image);
            assert!(facts.get(image).is_none());
        }
    }

    #[test]
    fn a_damaged_file_is_no_file() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(Some(&dir.path().join("tare"))).unwrap();
        image(&store, "2020-01-02T03:04:05Z", &json!({}));
        let index = store.images.index().unwrap();
        let only = &index.images()[0];
        let mut facts = Facts::of(&store);
        facts.learn(&store.images, only);
        facts.save(index.images());
        let path = store.cache().join("images");
        let good = fs::read(&path).unwrap();
        assert!(Facts::of(&store).get(only).is_some());
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            fs::write(&path, &bad).unwrap();
            assert!(Facts::of(&store).get(only).is_none(), "{at}");
            fs::write(&path, &good[..at]).unwrap();
            assert!(Facts::of(&store).get(only).is_none(), "{at}");
        }
    }
}
