//! What `docker inspect` says of an image.
//!
//! Fields, their order and their zero values are those of Docker with the containerd
//! image store. What only a daemon's database has is not invented: there is no
//! GraphDriver, no parent, and nobody knows when a name was given.

use anyhow::Result;
use common::cli::Found;
use common::digest::Digest;
use common::image;
use common::platform::Platform;
use common::reference::Reference;
use oci_spec::image::Descriptor;
use serde::Serialize;
use serde_json::{Map, Value, json};

/// When Docker last gave a name to an image that has never had one: Go's zero time.
const NEVER: &str = "0001-01-01T00:00:00Z";

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct About {
    id: String,
    repo_tags: Vec<String>,
    repo_digests: Vec<String>,
    parent: &'static str,
    comment: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    created: Option<String>,
    docker_version: String,
    author: String,
    architecture: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    variant: Option<String>,
    os: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    os_version: Option<String>,
    size: u64,
    #[serde(rename = "RootFS")]
    root_fs: RootFs,
    metadata: Metadata,
    descriptor: Descriptor,
    config: Map<String, Value>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct RootFs {
    r#type: String,
    layers: Vec<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Metadata {
    last_tag_time: &'static str,
}

/// What Docker's type for configs knows, and oci-spec's does not.
#[derive(serde::Deserialize)]
struct Docker {
    config: Option<Map<String, Value>>,
    docker_version: Option<String>,
}

impl About {
    /// Reads the image of the platform, or of this machine's.
    pub fn read(found: &Found, platform: Option<&Platform>) -> Result<About> {
        let image = found.resolve(platform)?;
        let (repo_tags, repo_digests) = names(found)?;
        let bytes = found.layout.read(image.manifest.config())?;
        let docker: Docker = serde_json::from_slice(&bytes)?;
        let size = image.size();
        // Asked for a platform, Docker speaks of its manifest, and else of what the name means.
        let descriptor = match platform {
            Some(_) => image.desc,
            None => found.desc.clone(),
        };
        let config = &image.config;
        let last = config.history().iter().flatten().last();
        Ok(About {
            id: descriptor.digest().to_string(),
            repo_tags,
            repo_digests,
            parent: "",
            comment: last.and_then(|last| last.comment().clone()).unwrap_or_default(),
            created: config.created().clone(),
            docker_version: docker.docker_version.unwrap_or_default(),
            author: config.author().clone().unwrap_or_default(),
            architecture: config.architecture().to_string(),
            variant: config.variant().clone(),
            os: config.os().to_string(),
            os_version: config.os_version().clone(),
            size,
            root_fs: RootFs {
                r#type: config.rootfs().typ().clone(),
                layers: config.rootfs().diff_ids().clone(),
            },
            metadata: Metadata { last_tag_time: NEVER },
            descriptor,
            config: with_zeros(docker.config.unwrap_or_default(), &ALWAYS),
        })
    }

    /// Returns what a template sees: the fields that JSON leaves out are there, and empty.
    pub fn to_value(&self) -> Result<Value> {
        let mut value = serde_json::to_value(self)?;
        if let Value::Object(fields) = &mut value {
            for field in ["Created", "OsVersion", "Variant"] {
                fields.entry(field).or_insert_with(|| "".into());
            }
            if let Some(Value::Object(config)) = fields.get_mut("Config") {
                *config = with_zeros(std::mem::take(config), &SOMETIMES);
            }
        }
        Ok(value)
    }
}

/// What Docker prints of every config.
const ALWAYS: [&str; 8] =
    ["Cmd", "Entrypoint", "Env", "Labels", "OnBuild", "User", "Volumes", "WorkingDir"];
/// What a template may ask of every config.
const SOMETIMES: [&str; 4] = ["ExposedPorts", "Healthcheck", "Shell", "StopSignal"];

/// Adds what a config does not say.
fn with_zeros(mut config: Map<String, Value>, fields: &[&str]) -> Map<String, Value> {
    for field in fields {
        let zero = match *field {
            "StopSignal" | "User" | "WorkingDir" => json!(""),
            _ => Value::Null,
        };
        config.entry(*field).or_insert(zero);
    }
    config
}

/// Returns what the image is called where it lies, with tags and with digests.
fn names(found: &Found) -> Result<(Vec<String>, Vec<String>)> {
    let digest = image::digest(&found.desc)?;
    let index = found.layout.index()?;
    let text = digest.to_string();
    let images = index.images().iter().filter(|image| image.digest() == text);
    let mut tags: Vec<String> = images.filter_map(|image| image.name()).map(shorten).collect();
    let mut digests: Vec<String> =
        tags.iter().filter_map(|tag| Some(pinned(&tag.parse().ok()?, &digest))).collect();
    if let Some(name) = &found.name {
        // The names in an archive are in no index.
        if tags.is_empty() && name.digest().is_none() {
            tags.push(name.to_string());
        }
        digests.push(pinned(name, &digest));
    }
    tags.sort();
    digests.sort();
    digests.dedup();
    Ok((tags, digests))
}

/// Returns a name as Docker prints it; what no tool of Docker's wrote stays as it is.
fn shorten(name: &str) -> String {
    match name.parse::<Reference>() {
        Ok(parsed) if parsed.full() == name => parsed.to_string(),
        _ => name.into(),
    }
}

fn pinned(name: &Reference, digest: &Digest) -> String {
    format!("{}@{digest}", name.familiar())
}
