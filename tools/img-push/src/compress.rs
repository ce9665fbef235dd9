//! The same image with its layers packed in another way.
//!
//! What a layer unpacks to stays the same, and so do its diff ID and the image's config; the
//! layers' digests, and with them the manifest's and the index's, become others. Equal layers
//! give equal bytes: one compressor, one level, no time and no name in the header.

use std::collections::{BTreeMap, HashMap};
use std::io::{BufWriter, Read, Write};
use std::path::Path;
use std::sync::Mutex;

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;
use common::archive::unpacked;
use common::cli;
use common::digest::{Digest, Hashed};
use common::error::At;
use common::image::{self as oci, DOCKER_INDEX, DOCKER_MANIFEST, Kind};
use common::layer::Packing;
use common::layout::{Layout, Writing};
use common::registry::parallel;
use flate2::GzBuilder;
use oci_spec::image::MediaType;
use serde_json::Value;
use tempfile::TempDir;

use crate::image::{Doc, Image};

/// How layers are packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Compression {
    /// By gzip, level 6
    Gzip,
    /// By zstd, level 3
    Zstd,
}

/// The most bytes that a layer may unpack to: what unpacking allows.
const LIMIT: u64 = 1 << 40;

/// Annotations of a layer that tell where in its bytes something is.
const PLACES: [&str; 2] = ["containerd.io/snapshot/stargz", "io.github.containers.zstd-chunked"];

/// Where packed layers are until they are pushed.
pub struct Packed {
    layout: Layout,
    _dir: TempDir,
}

/// A layer that was packed anew, or need not be.
#[derive(Clone)]
struct Layer {
    digest: Digest,
    size: u64,
    diff_id: Digest,
}

impl Packed {
    /// Makes a place for packed layers, which goes with this.
    pub fn new(cache: &Path) -> Result<Packed> {
        let make = || tempfile::Builder::new().prefix("push-").tempdir_in(cache);
        let dir = cli::temporary(make).at(cache)?;
        let layout = Layout::create(dir.path().join("images"))?;
        Ok(Packed { layout, _dir: dir })
    }

    /// Returns the image with its layers packed so.
    pub fn compress(&self, image: &Image, how: Compression) -> Result<Image> {
        let wanted = layers(image)?;
        let blobs = wanted.into_iter().filter(|digest| image.blobs.contains_key(digest));
        let blobs = blobs.map(|digest| (image.blobs[&digest], digest)).collect();
        let packed: Mutex<HashMap<Digest, Layer>> = Mutex::default();
        let writing = self.layout.writing()?;
        parallel(blobs, |digest, others| {
            if others.failed() {
                return Ok(());
            }
            let layer = repack(image, &digest, image.blobs[&digest], how, &writing)
                .with_context(|| format!("layer {digest}"))?;
            if let Ok(mut packed) = packed.lock() {
                packed.insert(digest, layer);
            }
            Ok(())
        })?;
        let packed = packed.into_inner().unwrap_or_default();

        let mut out = Image {
            documents: Vec::new(),
            blobs: BTreeMap::new(),
            layouts: [std::slice::from_ref(&self.layout), &image.layouts[..]].concat(),
        };
        // An index comes after its members, whose new names are known then.
        let mut renamed: HashMap<String, (Digest, usize, String)> = HashMap::new();
        for document in &image.documents {
            let mut value: Value = serde_json::from_slice(&document.bytes)?;
            let is_index = Kind::of(&document.media_type) == Some(Kind::Index);
            let changed = match is_index {
                true => rename_members(&mut value, &renamed)?,
                false => {
                    let diff_ids = diff_ids(image, &value)?;
                    rename_layers(&mut value, &packed, how, diff_ids.as_deref())?
                }
            };
            let mut new = Doc {
                digest: document.digest,
                media_type: document.media_type.clone(),
                bytes: document.bytes.clone(),
            };
            if changed {
                if let Some(own) = value.get("mediaType").and_then(Value::as_str) {
                    new.media_type = own.into();
                }
                new.bytes = serde_json::to_vec(&value)?;
                new.digest = Digest::of(&new.bytes);
            }
            if !is_index {
                for desc in descs(&value, "layers").chain(value.get("config")) {
                    let (digest, size) = named(desc)?;
                    if packed.values().any(|layer| layer.digest == digest)
                        || image.blobs.contains_key(&digest)
                    {
                        out.blobs.insert(digest, size);
                    }
                }
            }
            let old = document.digest.to_string();
            renamed.insert(old, (new.digest, new.bytes.len(), new.media_type.clone()));
            out.documents.push(new);
        }
        Ok(out)
    }
}

/// Returns the layers that are tars.
fn layers(image: &Image) -> Result<Vec<Digest>> {
    let mut found = Vec::new();
    for document in &image.documents {
        let value: Value = serde_json::from_slice(&document.bytes)?;
        for desc in descs(&value, "layers").filter(|desc| is_layer(desc)) {
            let (digest, _) = named(desc)?;
            if !found.contains(&digest) {
                found.push(digest);
            }
        }
    }
    Ok(found)
}

fn descs<'a>(document: &'a Value, key: &str) -> impl Iterator<Item = &'a Value> {
    document.get(key).and_then(Value::as_array).into_iter().flatten()
}

fn is_layer(desc: &Value) -> bool {
    let media_type = desc["mediaType"].as_str().unwrap_or_default();
    oci::is_layer(&MediaType::from(media_type))
}

/// Returns the digest and size of a descriptor.
fn named(desc: &Value) -> Result<(Digest, u64)> {
    let digest = desc["digest"].as_str().context("a descriptor without a digest")?.parse()?;
    Ok((digest, desc["size"].as_u64().context("a descriptor without a size")?))
}

/// Returns the diff IDs of a manifest's config, if that is an image's.
fn diff_ids(image: &Image, manifest: &Value) -> Result<Option<Vec<Digest>>> {
    let Some(config) = manifest.get("config") else { return Ok(None) };
    let (digest, size) = named(config)?;
    if !image.blobs.contains_key(&digest) || size > oci::DOCUMENT_LIMIT {
        return Ok(None);
    }
    let mut bytes = Vec::new();
    image.open(&digest, size)?.take(size).read_to_end(&mut bytes)?;
    let config = oci::parse_config(&bytes).ok();
    config.map(|config| oci::diff_ids(&config)).transpose()
}

/// Packs a layer, unless it is packed so; what it was is verified, and what it unpacks to is hashed.
fn repack(
    image: &Image,
    digest: &Digest,
    size: u64,
    how: Compression,
    writing: &Writing,
) -> Result<Layer> {
    let mut start = Vec::new();
    image.open(digest, size)?.take(10).read_to_end(&mut start)?;
    let same = match how {
        Compression::Gzip => Packing::of(&start) == Packing::Gzip,
        Compression::Zstd => Packing::of(&start) == Packing::Zstd,
    };
    let mut blob = Hashed::new(image.open(digest, size)?, digest.hasher());
    let mut tar = Hashed::new(unpacked(&mut blob)?, digest.hasher());
    let layer = if same {
        copy(&mut tar, &mut std::io::sink())?;
        (*digest, size)
    } else {
        let mut out = BufWriter::with_capacity(128 << 10, writing.new_blob()?);
        match how {
            Compression::Gzip => {
                let level = flate2::Compression::new(6);
                let mut gzip = GzBuilder::new().mtime(0).write(out, level);
                copy(&mut tar, &mut gzip)?;
                out = gzip.finish()?;
            }
            Compression::Zstd => {
                let mut zstd = zstd::stream::write::Encoder::new(out, 3)?;
                copy(&mut tar, &mut zstd)?;
                out = zstd.finish()?;
            }
        }
        out.into_inner().map_err(|err| err.into_error())?.finish()?
    };
    let (rest, diff_id, _) = tar.finish();
    drop(rest);
    // Behind the end of what is packed there may be more, which is part of the blob.
    copy(&mut blob, &mut std::io::sink())?;
    let (_, found, seen) = blob.finish();
    ensure!(seen == size && found == *digest, "corrupt: it hashes to {found}");
    Ok(Layer { digest: layer.0, size: layer.1, diff_id })
}

fn copy(from: &mut impl Read, to: &mut impl Write) -> Result<()> {
    let copied = std::io::copy(&mut from.take(LIMIT + 1), to)?;
    ensure!(copied <= LIMIT, "larger than the {LIMIT} bytes that a layer may unpack to");
    Ok(())
}

/// Puts packed layers in their places; returns whether any is another one.
fn rename_layers(
    manifest: &mut Value,
    packed: &HashMap<Digest, Layer>,
    how: Compression,
    diff_ids: Option<&[Digest]>,
) -> Result<bool> {
    let own = manifest.get("mediaType").and_then(Value::as_str).map(str::to_owned);
    // Docker has no name for a layer that is packed with zstd, so its manifest becomes OCI's.
    let to_oci = how == Compression::Zstd && own.as_deref() == Some(DOCKER_MANIFEST);
    let is_docker = own.as_deref() == Some(DOCKER_MANIFEST) && !to_oci;
    let Some(layers) = manifest.get_mut("layers").and_then(Value::as_array_mut) else {
        return Ok(false);
    };
    let mut changed = false;
    for (n, desc) in layers.iter_mut().enumerate() {
        if !is_layer(desc) {
            continue;
        }
        let (digest, _) = named(desc)?;
        let Some(layer) = packed.get(&digest) else { continue };
        if let Some(expected) = diff_ids.and_then(|ids| ids.get(n))
            && expected.algorithm() == layer.diff_id.algorithm()
            && *expected != layer.diff_id
        {
            bail!("layer {digest}: corrupt: its diff ID is {}, not {expected}", layer.diff_id);
        }
        if layer.digest == digest {
            continue;
        }
        changed = true;
        let Value::Object(fields) = desc else { continue };
        let old = fields.get("mediaType").and_then(Value::as_str).unwrap_or_default();
        let media_type = match (how, is_docker) {
            (Compression::Gzip, true) => "application/vnd.docker.image.rootfs.diff.tar.gzip",
            (Compression::Gzip, false) if old.contains(".nondistributable.") => {
                "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"
            }
            (Compression::Zstd, _) if old.contains(".nondistributable.") => {
                "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd"
            }
            (Compression::Gzip, false) => "application/vnd.oci.image.layer.v1.tar+gzip",
            (Compression::Zstd, _) => "application/vnd.oci.image.layer.v1.tar+zstd",
        };
        fields.insert("mediaType".into(), media_type.into());
        fields.insert("digest".into(), layer.digest.to_string().into());
        fields.insert("size".into(), layer.size.into());
        fields.remove("data");
        if let Some(Value::Object(annotations)) = fields.get_mut("annotations") {
            annotations.retain(|key, _| !PLACES.iter().any(|place| key.starts_with(place)));
        }
    }
    if changed && to_oci {
        manifest["mediaType"] = MediaType::ImageManifest.to_string().into();
        manifest["config"]["mediaType"] = MediaType::ImageConfig.to_string().into();
        for desc in manifest["layers"].as_array_mut().into_iter().flatten() {
            if desc["mediaType"] == "application/vnd.docker.image.rootfs.diff.tar.zstd" {
                desc["mediaType"] = MediaType::ImageLayerZstd.to_string().into();
            }
        }
    }
    Ok(changed)
}

/// Puts the new names of members in their places; returns whether any is another one.
fn rename_members(
    index: &mut Value,
    renamed: &HashMap<String, (Digest, usize, String)>,
) -> Result<bool> {
    let Some(members) = index.get_mut("manifests").and_then(Value::as_array_mut) else {
        return Ok(false);
    };
    let (mut changed, mut to_oci) = (false, false);
    for desc in members {
        let Value::Object(fields) = desc else { continue };
        // An attestation says which member it is about.
        if let Some(Value::Object(annotations)) = fields.get_mut("annotations") {
            for value in annotations.values_mut() {
                if let Some((new, ..)) = value.as_str().and_then(|old| renamed.get(old))
                    && *value != new.to_string()
                {
                    *value = new.to_string().into();
                    changed = true;
                }
            }
        }
        let old = fields.get("digest").and_then(Value::as_str).unwrap_or_default().to_owned();
        let Some((new, size, media_type)) = renamed.get(&old) else { continue };
        if old != new.to_string() {
            changed = true;
            to_oci |= Kind::of(media_type) == Some(Kind::Manifest) && media_type != DOCKER_MANIFEST;
            fields.insert("digest".into(), new.to_string().into());
            fields.insert("size".into(), (*size).into());
            fields.insert("mediaType".into(), media_type.clone().into());
            fields.remove("data");
        }
    }
    if to_oci && index.get("mediaType").and_then(Value::as_str) == Some(DOCKER_INDEX) {
        index["mediaType"] = MediaType::ImageIndex.to_string().into();
    }
    Ok(changed)
}
