//! An image in memory, and how a registry that is well answers for it.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use serde_json::{Value, json};

use super::message::{Asked, Reply};
use crate::image::{Image, PACK, busybox_layer, sha256};

pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// An image: its manifest's digest, and all of its blobs by digest.
pub struct Content {
    pub digest: String,
    pub blobs: BTreeMap<String, Vec<u8>>,
}

impl Content {
    /// Returns the image that the tests pull: busybox, and 150 kB of numbers in a second layer.
    pub fn of_tests() -> Arc<Content> {
        static CONTENT: OnceLock<Arc<Content>> = OnceLock::new();
        let made = || {
            let numbers = format!("seq 60000 >numbers; {PACK}");
            let image = Image::new(&[&busybox_layer(), &numbers], &json!({ "Cmd": ["sh"] }));
            Arc::new(Content::of(&image))
        };
        CONTENT.get_or_init(made).clone()
    }

    /// Reads an image.
    pub fn of(image: &Image) -> Content {
        let blobs = image.blobs().into_iter();
        let blobs = blobs.map(|(hex, path)| (format!("sha256:{hex}"), fs::read(path).unwrap()));
        Content { digest: image.digest.clone(), blobs: blobs.collect() }
    }

    /// Writes it into an image layout, under these names.
    pub fn write_to(&self, dir: &Path, names: &[String]) {
        fs::create_dir_all(dir.join("blobs/sha256")).unwrap();
        for (digest, bytes) in &self.blobs {
            fs::write(dir.join("blobs").join(digest.replace(':', "/")), bytes).unwrap();
        }
        let entry = |name: &String| {
            json!({
                "mediaType": MANIFEST, "digest": self.digest, "size": self.manifest().len(),
                "annotations": { "org.opencontainers.image.ref.name": name },
            })
        };
        let entries: Vec<Value> = names.iter().map(entry).collect();
        let index = json!({ "schemaVersion": 2, "manifests": entries });
        fs::write(dir.join("index.json"), index.to_string()).unwrap();
        fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    }

    /// Returns the bytes of the manifest.
    pub fn manifest(&self) -> &[u8] {
        &self.blobs[&self.digest]
    }

    /// Returns the manifest.
    pub fn parsed(&self) -> Value {
        serde_json::from_slice(self.manifest()).unwrap()
    }

    /// Returns the digest of the first layer, which is the largest blob.
    pub fn layer(&self) -> String {
        self.parsed()["layers"][0]["digest"].as_str().unwrap().to_owned()
    }

    /// Returns the digest of the config.
    pub fn config(&self) -> String {
        self.parsed()["config"]["digest"].as_str().unwrap().to_owned()
    }

    /// Returns the bytes of a blob.
    pub fn blob(&self, digest: &str) -> &[u8] {
        &self.blobs[digest]
    }

    /// Answers as a registry should that has this image under every name and tag, and asks nobody who he is.
    pub fn answer(&self, asked: &Asked) -> Reply {
        if let Some(name) = asked.manifest() {
            let digest = if name.starts_with("sha256:") { name } else { &self.digest };
            return match self.blobs.get(digest) {
                Some(bytes) => document(bytes).header("docker-content-digest", digest),
                None => missing(),
            };
        }
        if let Some(digest) = asked.blob() {
            return match self.blobs.get(digest) {
                Some(bytes) => Reply::bytes(asked, bytes)
                    .header("content-type", "application/octet-stream")
                    .header("etag", format!("\"{digest}\"")),
                None => missing(),
            };
        }
        match asked.path() {
            "/v2/" => Reply::new(200, "{}"),
            path if path.ends_with("/tags/list") => Reply::new(200, r#"{"tags":["1"]}"#),
            _ => missing(),
        }
    }
}

/// Returns a manifest or an index, as its own media type says.
pub fn document(bytes: &[u8]) -> Reply {
    let said: Option<Value> = serde_json::from_slice(bytes).ok();
    let media_type = said.as_ref().and_then(|it| it["mediaType"].as_str()).unwrap_or(MANIFEST);
    Reply::new(200, bytes).header("content-type", media_type)
}

/// Returns what a registry says of something that it has not.
pub fn missing() -> Reply {
    Reply::new(404, r#"{"errors":[{"code":"NOT_THERE","message":"nobody knows it"}]}"#)
}

/// Returns the digest of some bytes.
pub fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", sha256(bytes))
}
