//! The documents of an image: index, manifest and config, read strictly.
//!
//! The types are oci-spec's. What is added here is the media types of both
//! worlds, OCI and Docker schema 2, and the checks that keep a hostile document
//! from meaning two things: a manifest that is an index as well
//! (CVE-2021-41190), another schema version, a media type that contradicts the
//! document. Nothing is ever serialized again: a blob's bytes are its name.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::marker::PhantomData;

use anyhow::{Context, Result, bail, ensure};
use oci_spec::image::{Descriptor, ImageConfiguration, ImageIndex, ImageManifest, MediaType};

use serde::de::{
    Deserialize, DeserializeOwned, Deserializer, Error, IgnoredAny, MapAccess, Visitor,
};
use serde_json::value::RawValue;

use crate::digest::Digest;
use crate::platform::Platform;

/// How deep indexes may nest: the specification sets no limit, and nobody nests two.
pub const INDEX_DEPTH: usize = 8;

/// The most bytes that a manifest, an index or a config may have, as containers/image has it.
pub const DOCUMENT_LIMIT: u64 = 4 << 20;

/// The most layers that an image may have: overlayfs stacks 500 directories, and Docker makes no more than 127 layers.
pub const LAYERS: usize = 1000;

/// Docker's names for what the OCI has other names for.
pub const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
/// Docker schema 2, manifest.
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
/// The annotation that names an image in a layout: image-spec, annotations.md.
pub const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// What a descriptor's media type says it leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Several manifests, a platform each.
    Index,
    /// One image.
    Manifest,
}

/// A manifest or an index, as its bytes say.
#[derive(Debug)]
pub enum Document {
    /// Several manifests, a platform each.
    Index(Box<ImageIndex>),
    /// One image.
    Manifest(Box<ImageManifest>),
}

impl Kind {
    /// Returns what `media_type` leads to, or nothing if that is no image.
    pub fn of(media_type: &str) -> Option<Kind> {
        match media_type {
            DOCKER_INDEX | "application/vnd.oci.image.index.v1+json" => Some(Kind::Index),
            DOCKER_MANIFEST | "application/vnd.oci.image.manifest.v1+json" => Some(Kind::Manifest),
            _ => None,
        }
    }
}

/// The fields of a JSON object, no two of which have one name but for the case of its letters.
///
/// Go's encoding/json, which Docker, containerd and skopeo read with, takes
/// `Layers` for `layers`, and of two the last. An image that is another one to
/// them has no place here.
pub struct Fields<V>(pub BTreeMap<String, V>);

impl<'de, V: Deserialize<'de>> Deserialize<'de> for Fields<V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Seen<V>(PhantomData<V>);
        impl<'de, V: Deserialize<'de>> Visitor<'de> for Seen<V> {
            type Value = Fields<V>;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields<V>, A::Error> {
                let (mut fields, mut seen) = (BTreeMap::new(), HashSet::new());
                while let Some(name) = map.next_key::<String>()? {
                    if !seen.insert(name.to_lowercase()) {
                        return Err(A::Error::custom(format!("duplicate field {name:?}")));
                    }
                    fields.insert(name, map.next_value()?);
                }
                Ok(Fields(fields))
            }
        }
        deserializer.deserialize_map(Seen(PhantomData))
    }
}

/// Reads a manifest or an index.
///
/// `media_type` is what the descriptor or the registry called it; the document must agree.
pub fn parse(bytes: &[u8], media_type: &str) -> Result<Document> {
    /// The fields that tell the documents apart.
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Head<'a> {
        schema_version: Option<u32>,
        media_type: Option<String>,
        #[serde(borrow)]
        manifests: Option<&'a RawValue>,
        #[serde(borrow)]
        layers: Option<&'a RawValue>,
        #[serde(borrow)]
        config: Option<&'a RawValue>,
    }
    ensure!(bytes.len() as u64 <= DOCUMENT_LIMIT, "larger than {DOCUMENT_LIMIT} bytes");
    let head: Head = serde_json::from_slice(bytes).context("not a manifest")?;
    serde_json::from_slice::<Fields<IgnoredAny>>(bytes).context("not a manifest")?;
    match head.schema_version {
        Some(2) => {}
        Some(1) => bail!("a Docker schema 1 manifest, which is not supported"),
        _ => bail!("not a manifest: schemaVersion is not 2"),
    }
    // Go writes an empty text for what it was not told.
    if let Some(own) = head.media_type.filter(|own| !own.is_empty()) {
        ensure!(own == media_type, "its media type is {own:?}, its descriptor says {media_type:?}");
    }
    let is_index = head.manifests.is_some();
    let is_manifest = head.layers.is_some() || head.config.is_some();
    ensure!(!(is_index && is_manifest), "both a manifest and an index");
    match Kind::of(media_type) {
        Some(Kind::Index) if is_index => {
            Ok(Document::Index(Box::new(serde_json::from_slice(bytes).context("not an index")?)))
        }
        Some(Kind::Manifest) if is_manifest => {
            let manifest: ImageManifest = read(bytes, &["layers"]).context("not a manifest")?;
            let few = manifest.layers().len() <= LAYERS;
            ensure!(few, "more than the {LAYERS} layers that an image may have");
            Ok(Document::Manifest(Box::new(manifest)))
        }
        Some(Kind::Index) => bail!("not an index: it has no manifests"),
        Some(Kind::Manifest) => bail!("not a manifest: it has no config and no layers"),
        None => bail!("not an image: its media type is {media_type:?}"),
    }
}

/// Reads an image's config.
pub fn parse_config(bytes: &[u8]) -> Result<ImageConfiguration> {
    serde_json::from_slice::<Fields<IgnoredAny>>(bytes).context("not an image config")?;
    read(bytes, &["rootfs", "diff_ids"]).context("not an image config")
}

/// Reads a document whose list at this path may be null: Go writes that for an empty one.
fn read<T: DeserializeOwned>(bytes: &[u8], list: &[&str]) -> serde_json::Result<T> {
    serde_json::from_slice(bytes).or_else(|err| match without_null(bytes, list) {
        Ok(bytes) => serde_json::from_slice(&bytes).map_err(|_| err),
        Err(_) => Err(err),
    })
}

/// Returns an object with an empty list in place of a null at this path.
fn without_null(object: &[u8], path: &[&str]) -> serde_json::Result<Vec<u8>> {
    let Fields(mut fields): Fields<Box<RawValue>> = serde_json::from_slice(object)?;
    if let [name, below @ ..] = path
        && let Some(value) = fields.get_mut(*name)
    {
        let bytes = match (value.get(), below) {
            ("null", []) => b"[]".to_vec(),
            (other, []) => other.into(),
            (object, below) => without_null(object.as_bytes(), below)?,
        };
        *value = serde_json::from_slice(&bytes)?;
    }
    serde_json::to_vec(&fields)
}

/// Returns the descriptor of a blob.
pub fn descriptor(media_type: MediaType, digest: &Digest, size: u64) -> Descriptor {
    Descriptor::new(media_type, size, oci_spec::image::Digest::from(digest))
}

/// Returns the digest that `desc` holds, checked.
pub fn digest(desc: &Descriptor) -> Result<Digest> {
    desc.digest().try_into()
}

/// Returns the diff IDs of `config`, bottom layer first, checked.
pub fn diff_ids(config: &ImageConfiguration) -> Result<Vec<Digest>> {
    config.rootfs().diff_ids().iter().map(|diff_id| diff_id.parse()).collect()
}

/// Returns the layers of an image and their diff IDs, bottom first.
pub fn layers<'a>(
    manifest: &'a ImageManifest,
    config: &ImageConfiguration,
) -> Result<Vec<(&'a Descriptor, Digest)>> {
    let (layers, diff_ids) = (manifest.layers(), diff_ids(config)?);
    ensure!(
        layers.len() == diff_ids.len(),
        "corrupt: its manifest has {} layers, its config {}",
        layers.len(),
        diff_ids.len()
    );
    Ok(layers.iter().zip(diff_ids).collect())
}

/// Returns the chain IDs of a stack of layers: one for each prefix of `diff_ids`. Image-spec, config.md, Layer ChainID.
pub fn chain_ids(diff_ids: &[Digest]) -> Vec<Digest> {
    let mut chain: Vec<Digest> = Vec::with_capacity(diff_ids.len());
    for diff_id in diff_ids {
        let id = match chain.last() {
            None => *diff_id,
            Some(below) => chain_id(below, diff_id),
        };
        chain.push(id);
    }
    chain
}

/// Returns the chain ID of a layer on top of the stack whose chain ID is `below`.
pub fn chain_id(below: &Digest, diff_id: &Digest) -> Digest {
    Digest::of(format!("{below} {diff_id}").as_bytes())
}

/// Returns the platform that `desc` claims, if it does.
pub fn platform(desc: &Descriptor) -> Option<Platform> {
    let platform = desc.platform().as_ref()?;
    Some(Platform::new(
        &platform.os().to_string(),
        &platform.architecture().to_string(),
        platform.variant().as_deref(),
    ))
}

/// Returns the platforms that `index` has images for.
pub fn platforms(index: &ImageIndex) -> Vec<Platform> {
    let images = index.manifests().iter().filter(|desc| Kind::of(&media_type(desc)).is_some());
    // BuildKit's attestations claim to be for unknown/unknown.
    images.filter_map(platform).filter(|platform| platform.os != "unknown").collect()
}

/// Returns whether a member of an index says that it is an artifact, and no image: image-spec, descriptor.md.
fn is_artifact(desc: &Descriptor) -> bool {
    // Registries give the type of an image's config in their lists of referrers.
    desc.artifact_type().as_ref().is_some_and(|it| !is_config(it.as_ref()))
}

/// Fails if a member of an index is neither a manifest nor an index.
pub fn ensure_known(desc: &Descriptor) -> Result<()> {
    let media_type = media_type(desc);
    ensure!(Kind::of(&media_type).is_some(), "{}: {media_type:?} is unknown", desc.digest());
    Ok(())
}

/// Returns whether a layer is not to be handed on, so that it may be nowhere but at its URLs:
/// image-spec, layer.md, Non-Distributable Layers.
pub fn may_be_elsewhere(desc: &Descriptor) -> bool {
    let media_type = media_type(desc);
    media_type.contains(".nondistributable.") || media_type.contains(".foreign.")
}

/// Returns the media type of a manifest or index of which only the digest is known.
pub fn media_type_of(bytes: &[u8]) -> Result<String> {
    /// What a document says of itself.
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Head<'a> {
        media_type: Option<String>,
        #[serde(borrow)]
        manifests: Option<&'a RawValue>,
    }
    let head: Head = serde_json::from_slice(bytes).context("not a manifest")?;
    let media_type = match (head.media_type, head.manifests) {
        (Some(media_type), _) if !media_type.is_empty() => media_type,
        (_, Some(_)) => MediaType::ImageIndex.to_string(),
        (_, None) => MediaType::ImageManifest.to_string(),
    };
    parse(bytes, &media_type)?;
    Ok(media_type)
}

/// Returns the manifest of `index` that runs best on `wanted`. Attestations and other non-images do not count.
pub fn select<'a>(index: &'a ImageIndex, wanted: &Platform) -> Option<&'a Descriptor> {
    let offered = index.manifests().iter().filter(|desc| Kind::of(&media_type(desc)).is_some());
    let ranked = offered.filter_map(|desc| match platform(desc) {
        Some(platform) => wanted.rank(&platform).map(|rank| (rank, desc)),
        // An entry without a platform is only a match when nothing else is.
        None => (!is_artifact(desc)).then_some((u32::MAX, desc)),
    });
    ranked.min_by_key(|(rank, _)| *rank).map(|(_, desc)| desc)
}

/// Returns the media type of `desc` as it is written in JSON.
pub fn media_type(desc: &Descriptor) -> String {
    desc.media_type().to_string()
}

/// Returns whether this is the media type of an image's config.
pub fn is_config(media_type: &str) -> bool {
    matches!(
        media_type,
        "application/vnd.oci.image.config.v1+json"
            | "application/vnd.docker.container.image.v1+json"
    )
}

/// Returns whether this is the media type of a layer: how it is packed, its first bytes say.
pub fn is_layer(media_type: &MediaType) -> bool {
    matches!(
        media_type.to_string().as_str(),
        "application/vnd.oci.image.layer.v1.tar"
            | "application/vnd.oci.image.layer.v1.tar+gzip"
            | "application/vnd.oci.image.layer.v1.tar+zstd"
            | "application/vnd.oci.image.layer.nondistributable.v1.tar"
            | "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"
            | "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd"
            | "application/vnd.docker.image.rootfs.diff.tar"
            | "application/vnd.docker.image.rootfs.diff.tar.gzip"
            | "application/vnd.docker.image.rootfs.diff.tar.zstd"
            | "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
    )
}

#[cfg(test)]
mod tests;
