//! Docker's own archives: `docker save` before 25, and all who write as it did.
//!
//! ```text
//! manifest.json  <config>.json  <layer>/layer.tar         since 1.10
//! repositories   <id>/json      <id>/layer.tar            before: each layer is an image, and names its parent
//! ```
//!
//! Those are Docker's own names. What others call a config or a layer, only manifest.json knows.
//!
//! Their layers are not packed, as a rule, and their manifests are not the
//! registry's: the image gets one here, of the layers as they are.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use oci_spec::image::{Descriptor, ImageManifestBuilder, MediaType};
use serde_json::{Map, Value, json};

use super::load::{Contents, Loaded, plain};
use crate::digest::Digest;
use crate::image::{self, Fields, LAYERS};
use crate::layer::Packing;
use crate::layout::{Missing, Writing};

/// How many symlinks lead from a layer's name to the layer.
const LINKS: usize = 8;

/// An entry of Docker's manifest.json.
#[derive(serde::Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerImage {
    config: String,
    repo_tags: Option<Vec<String>>,
    // Go writes null for an empty list.
    layers: Option<Vec<String>>,
}

/// Returns whether this is the ID of an image before 1.10, or of a layer.
pub(super) fn is_id(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

impl Contents {
    /// Returns the images of a manifest.json.
    pub(super) fn docker(&self, manifest: &[u8], into: &Writing) -> Result<Vec<Loaded>> {
        let images: Vec<DockerImage> =
            serde_json::from_slice(manifest).context("not a Docker archive's manifest")?;
        let mut loaded = Vec::new();
        for docker in images {
            let config = self
                .document(&docker.config, into)
                .with_context(|| format!("{:?}", docker.config))?;
            let names = docker.layers.unwrap_or_default();
            let few = names.len() <= LAYERS;
            ensure!(few, "more than the {LAYERS} layers that an image may have");
            let diff_ids = image::diff_ids(&image::parse_config(&config).context(docker.config)?)?;
            ensure!(
                diff_ids.len() == names.len(),
                "{} layers, but {} diff IDs",
                names.len(),
                diff_ids.len()
            );
            let mut layers = Vec::new();
            for (name, diff_id) in names.iter().zip(diff_ids) {
                let desc = self.packed(name, into).with_context(|| format!("{name:?}"))?;
                let (digest, is_plain) =
                    (image::digest(&desc)?, *desc.media_type() == MediaType::ImageLayer);
                // What is packed is held to its diff ID when it is unpacked.
                ensure!(
                    !is_plain || digest == diff_id,
                    "{name:?}: corrupt: it hashes to {digest}, not {diff_id}"
                );
                layers.push(desc);
            }
            let desc = assemble(&config, layers, into)?;
            loaded.push(Loaded { desc, names: docker.repo_tags.unwrap_or_default() });
        }
        Ok(loaded)
    }

    /// Returns the descriptor of a layer, whose first bytes say how it is packed.
    fn packed(&self, name: &str, into: &Writing) -> Result<Descriptor> {
        let (digest, size) = self.layer(name, into)?;
        let desc = image::descriptor(MediaType::ImageLayer, &digest, size);
        let mut start = Vec::new();
        into.layout().open_blob(&desc)?.take(10).read_to_end(&mut start)?;
        let media_type = Packing::of(&start).layer_type().unwrap_or(MediaType::ImageLayer);
        Ok(image::descriptor(media_type, &digest, size))
    }

    /// Returns the name of the member that is meant, in its plain form, through links.
    fn meant(&self, name: &str) -> Result<String> {
        let mut name = plain(Path::new(name)).context("a path that leaves the archive")?;
        for _ in 0..LINKS {
            let Some(target) = self.links.get(&name) else { break };
            name.clone_from(target);
        }
        Ok(name)
    }

    /// Returns the layer of this name.
    fn layer(&self, name: &str, into: &Writing) -> Result<(Digest, u64)> {
        let name = self.meant(name)?;
        if let Some(Some(found)) = self.layers.get(&name) {
            return Ok(*found);
        }
        let blob = name.strip_prefix("blobs/").unwrap_or(&name).replacen('/', ":", 1);
        let Ok(digest) = blob.parse::<Digest>() else { bail!("not in the archive") };
        let size = into.layout().size(&digest).ok_or(Missing(digest))?;
        Ok((digest, size))
    }

    /// Returns the document of this name, which may be called as a layer is.
    fn document(&self, name: &str, into: &Writing) -> Result<Vec<u8>> {
        if let Some(document) = self.documents.get(&self.meant(name)?) {
            return Ok(document.clone());
        }
        let (digest, size) = self.layer(name, into)?;
        into.layout().read(&image::descriptor(MediaType::ImageConfig, &digest, size))
    }

    /// Returns whether this is what Docker wrote before there was a manifest.json.
    pub(super) fn is_legacy(&self) -> bool {
        self.documents.contains_key("repositories")
    }

    /// Returns the images that `repositories` names.
    pub(super) fn legacy(&self, into: &Writing) -> Result<Vec<Loaded>> {
        let repositories: Fields<BTreeMap<String, String>> =
            serde_json::from_slice(&self.documents["repositories"]).context("repositories")?;
        let mut names: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for (repository, tags) in repositories.0 {
            for (tag, id) in tags {
                names.entry(id).or_default().insert(format!("{repository}:{tag}"));
            }
        }
        let image = |(id, names): (String, BTreeSet<String>)| {
            let desc = self.legacy_image(&id, into).with_context(|| format!("{id:?}"))?;
            Ok(Loaded { desc, names: names.into_iter().collect() })
        };
        names.into_iter().map(image).collect()
    }

    /// Makes an image of the chain of layers that ends with `id`, with the config that Docker makes of it.
    fn legacy_image(&self, id: &str, into: &Writing) -> Result<Descriptor> {
        let mut chain: Vec<(String, Map<String, Value>)> = Vec::new();
        let mut seen = HashSet::new();
        let mut next = Some(id.to_owned());
        while let Some(id) = next {
            ensure!(seen.insert(id.clone()), "{id:?}: a layer that is its own parent");
            let bytes = self.documents.get(&format!("{id}/json"));
            let bytes = bytes.with_context(|| format!("{id:?}: not in the archive"))?;
            let Fields(fields): Fields<Value> =
                serde_json::from_slice(bytes).with_context(|| format!("{id:?}"))?;
            next = fields.get("parent").and_then(Value::as_str).map(str::to_owned);
            next = next.filter(|parent| !parent.is_empty());
            chain.push((id, fields.into_iter().collect()));
            let few = chain.len() <= LAYERS;
            ensure!(few, "more than the {LAYERS} layers that an image may have");
        }
        let Some((_, mut config)) = chain.first().cloned() else { bail!("no layers") };
        let (mut layers, mut diff_ids, mut history) = (Vec::new(), Vec::new(), Vec::new());
        for (id, layer) in chain.iter().rev() {
            let name = format!("{id}/layer.tar");
            let desc = self.packed(&name, into).with_context(|| format!("{name:?}"))?;
            ensure!(*desc.media_type() == MediaType::ImageLayer, "{name:?}: it is packed");
            diff_ids.push(desc.digest().to_string());
            layers.push(desc);
            let command = layer.get("container_config").and_then(|config| config["Cmd"].as_array());
            let command = command.into_iter().flatten().filter_map(Value::as_str);
            let mut entry = json!({ "created_by": command.collect::<Vec<_>>().join(" ") });
            for field in ["created", "author", "comment"] {
                if let Some(value) = layer.get(field).filter(|value| value.is_string()) {
                    entry[field] = value.clone();
                }
            }
            history.push(entry);
        }
        for own in ["id", "parent", "Size", "layer_id", "parent_id", "throwaway"] {
            config.remove(own);
        }
        config.insert("rootfs".into(), json!({ "type": "layers", "diff_ids": diff_ids }));
        config.insert("history".into(), Value::Array(history));
        let config = serde_json::to_vec(&config)?;
        image::parse_config(&config)?;
        assemble(&config, layers, into)
    }
}

/// Makes an image of a config and its layers.
fn assemble(config: &[u8], layers: Vec<Descriptor>, into: &Writing) -> Result<Descriptor> {
    let digest = into.put(config)?;
    let config = image::descriptor(MediaType::ImageConfig, &digest, config.len() as u64);
    let manifest = ImageManifestBuilder::default()
        .schema_version(2u32)
        .media_type(MediaType::ImageManifest)
        .config(config)
        .layers(layers)
        .build()?;
    let bytes = serde_json::to_vec(&manifest)?;
    Ok(image::descriptor(MediaType::ImageManifest, &into.put(&bytes)?, bytes.len() as u64))
}
