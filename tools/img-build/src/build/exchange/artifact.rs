//! Results of steps as an OCI artifact, which registries, layouts and other tools carry as they carry images.
//!
//! ```text
//! index ──> head     config: {"steps": [{"key", "diffId", "manifest"}, ...]}, no layers
//!       ──> a manifest for each layer, without a config
//! ```
//!
//! A step is asked for by its manifest, so that its layer comes only when it is
//! wanted. The index is what keeps all of them, and what has the name. Its members
//! claim to be for platforms that nobody has: who pulls it for an image is told
//! that it is none, and gets no layers. Of what steps depend on only the key is
//! there: variables of stages that are in no image are nobody's business.
//!
//! Image-spec, manifest.md, Guidelines for Artifact Usage.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use common::digest::Digest;
use common::image;
use common::layout::{Layout, Writing};
use common::platform::Platform;
use oci_spec::image::{Descriptor, MediaType};
use serde_json::{Value, json};

use super::Done;

/// What the documents say they are.
const TYPE: &str = "application/vnd.tare.build-cache.v1+json";
/// What the head's config is.
const STEPS: &str = "application/vnd.tare.build-cache.steps.v1+json";
/// The config of who has none, and what is in it.
const EMPTY: (&str, &[u8]) = ("application/vnd.oci.empty.v1+json", b"{}");

/// The most steps: img-push takes an index of a thousand documents.
const MOST: usize = 900;

/// Where a step's layer is, and what it unpacks to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    /// The manifest whose only layer it is.
    pub manifest: Digest,
    /// Its diff ID.
    pub diff_id: Digest,
}

/// Returns the platform that the head claims to be for.
pub fn platform() -> Platform {
    Platform::new("tare", "build-cache", None)
}

/// Writes the artifact to a layout that has the layers; returns what is to get the name.
pub fn write(writing: &Writing, steps: &[Done]) -> Result<Descriptor> {
    // As BuildKit's attestations have it.
    let nobody = Platform::new("unknown", "unknown", None);
    let empty = image::descriptor(EMPTY.0.into(), &writing.put(EMPTY.1)?, EMPTY.1.len() as u64);
    let mut members = BTreeMap::new();
    let mut listed = Vec::with_capacity(steps.len());
    for Done { key, layer: (layer, diff_id) } in steps {
        let manifest = put(writing, MediaType::ImageManifest, |document| {
            document["config"] = json!(empty);
            document["layers"] = json!([layer]);
        })?;
        listed.push(json!({
            "key": key.to_string(),
            "diffId": diff_id.to_string(),
            "manifest": manifest.digest().to_string(),
        }));
        members.insert(manifest.digest().to_string(), member(&manifest, &nobody));
    }
    ensure!(members.len() <= MOST, "more than the {MOST} layers that a cache may have");
    let config = serde_json::to_vec(&json!({ "steps": listed }))?;
    let limit = image::DOCUMENT_LIMIT;
    ensure!(config.len() as u64 <= limit, "more than the {limit} bytes that a config may have");
    let config = image::descriptor(STEPS.into(), &writing.put(&config)?, config.len() as u64);
    let head = put(writing, MediaType::ImageManifest, |document| {
        document["config"] = json!(config);
        document["layers"] = json!([empty]);
    })?;
    put(writing, MediaType::ImageIndex, |document| {
        let members = std::iter::once(member(&head, &platform())).chain(members.into_values());
        document["manifests"] = members.collect();
    })
}

/// Reads which steps the artifact has; of its layers nothing needs to be here.
pub fn read(layout: &Layout, desc: &Descriptor) -> Result<BTreeMap<Digest, Known>> {
    let (_, head, _) = layout.manifest(desc, &platform())?;
    let is_ours = image::media_type(head.config()) == STEPS;
    ensure!(is_ours, "not a build cache, but {}", image::media_type(head.config()));
    let config = layout.read(head.config())?;
    steps(&config).with_context(|| format!("blob {}", head.config().digest()))
}

fn steps(config: &[u8]) -> Result<BTreeMap<Digest, Known>> {
    let config: Value = serde_json::from_slice(config).context("not a list of steps")?;
    let list = config.get("steps").and_then(Value::as_array).context("not a list of steps")?;
    let digest =
        |step: &Value, name: &str| -> Option<Digest> { step.get(name)?.as_str()?.parse().ok() };
    let one = |step: &Value| {
        let known = Known { manifest: digest(step, "manifest")?, diff_id: digest(step, "diffId")? };
        Some((digest(step, "key")?, known))
    };
    // Whoever writes more into it, or less, has another version of it.
    list.iter().map(one).collect::<Option<_>>().context("not a list of steps")
}

/// Returns the layer of a step whose manifest is here. The layer need not be.
pub fn layer(layout: &Layout, known: &Known) -> Result<Descriptor> {
    let desc = layout.find_digest(&known.manifest)?;
    let (_, manifest, _) = layout.manifest(&desc, &platform())?;
    let [layer] = &manifest.layers()[..] else {
        anyhow::bail!("manifest {}: not of one layer", known.manifest)
    };
    let media_type = layer.media_type();
    let ours = [MediaType::ImageLayer, MediaType::ImageLayerGzip, MediaType::ImageLayerZstd];
    ensure!(
        ours.contains(media_type),
        "{media_type}: not the media type of a layer that a build makes"
    );
    // Whatever else is said of it would be said in the image.
    Ok(image::descriptor(media_type.clone(), &image::digest(layer)?, layer.size()))
}

/// Writes a manifest or an index.
fn put(writing: &Writing, kind: MediaType, fill: impl FnOnce(&mut Value)) -> Result<Descriptor> {
    let mut document =
        json!({ "schemaVersion": 2, "mediaType": kind.to_string(), "artifactType": TYPE });
    fill(&mut document);
    document.sort_all_objects();
    let bytes = serde_json::to_vec(&document)?;
    Ok(image::descriptor(kind, &writing.put(&bytes)?, bytes.len() as u64))
}

fn member(desc: &Descriptor, platform: &Platform) -> Value {
    let mut member = json!(desc);
    member["artifactType"] = TYPE.into();
    member["platform"] = json!({ "os": platform.os, "architecture": platform.architecture });
    member
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::create(dir.path()).unwrap();
        let writing = layout.writing().unwrap();
        let done = |key: &[u8], layer: &[u8]| {
            let digest = writing.put(layer).unwrap();
            let desc = image::descriptor(MediaType::ImageLayer, &digest, layer.len() as u64);
            Done { key: Digest::of(key), layer: (desc, Digest::of(layer)) }
        };
        let steps = [done(b"a", b"1"), done(b"b", b"2"), done(b"c", b"1")];
        let desc = write(&writing, &steps).unwrap();
        assert_eq!(write(&writing, &steps).unwrap(), desc);
        let known = read(&layout, &desc).unwrap();
        assert_eq!(known.len(), 3);
        for step in &steps {
            let known = &known[&step.key];
            assert_eq!((layer(&layout, known).unwrap(), known.diff_id), step.layer);
        }
        // Nobody takes it for an image.
        assert!(layout.resolve(&desc, &Platform::host()).is_err());
        let none = write(&writing, &[]).unwrap();
        assert!(read(&layout, &none).unwrap().is_empty());
    }

    #[test]
    fn what_is_no_list_of_steps_is_none() {
        let digest = Digest::of(b"");
        let good =
            format!(r#"{{"key": "{digest}", "diffId": "{digest}", "manifest": "{digest}"}}"#);
        assert_eq!(steps(format!(r#"{{"steps": [{good}]}}"#).as_bytes()).unwrap().len(), 1);
        assert!(steps(br#"{"steps": []}"#).unwrap().is_empty());
        let half = format!(r#"{{"steps": [{good}, {{"key": "{digest}"}}]}}"#);
        for bad in
            ["", "{}", "[]", r#"{"steps": {}}"#, r#"{"steps": [7]}"#, &half, &"[".repeat(1 << 20)]
        {
            assert!(steps(bad.as_bytes()).is_err(), "{bad:.40}");
        }
    }
}
