//! Layouts: right in every part, unless the case changes one.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use serde_json::{Value, json};

use super::pack;
use super::tar::{Tar, tar};
use crate::image::{architecture, sha256};

pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// A layer: its blob, and the digest of the tar in it.
#[derive(Clone)]
pub struct Layer {
    pub blob: Vec<u8>,
    pub diff_id: String,
    pub media_type: String,
}

impl Layer {
    /// Returns a layer that is packed: `blob` holds `tar`.
    pub fn packed(blob: Vec<u8>, tar: &[u8]) -> Layer {
        let media_type = match &blob[..] {
            [0x1f, 0x8b, ..] => format!("{LAYER}+gzip"),
            [0x28, 0xb5, ..] | [0x50..=0x5f, 0x2a, ..] => format!("{LAYER}+zstd"),
            _ => LAYER.into(),
        };
        Layer { blob, diff_id: digest(tar), media_type }
    }
}

impl From<Tar> for Layer {
    fn from(tar: Tar) -> Layer {
        let bytes = tar.end();
        Layer::packed(bytes.clone(), &bytes)
    }
}

/// Returns the layer that is in images whose layers do not matter: `hello`, which says hi.
pub fn hello() -> Layer {
    tar().file("hello", "hi").into()
}

/// What [`hello`] becomes.
pub const HELLO: &str = "hello=hi";

/// Returns the SHA-256 digest of `bytes`, as sha256sum computes it; once, if they are few.
pub fn digest(bytes: &[u8]) -> String {
    thread_local! {
        static KNOWN: RefCell<HashMap<Vec<u8>, String>> = RefCell::default();
    }
    let compute = || format!("sha256:{}", sha256(bytes));
    if bytes.len() > 16 << 10 {
        return compute();
    }
    KNOWN.with_borrow_mut(|known| known.entry(bytes.to_vec()).or_insert_with(compute).clone())
}

/// A file of a layout.
#[derive(Clone)]
pub enum Node {
    File(Vec<u8>),
    Symlink(String),
    Fifo,
    Dir,
    /// So many zeros, which take no space.
    Sparse(u64),
}

/// A layout in the making: its files, by path.
#[derive(Clone, Default)]
pub struct Layout(pub BTreeMap<String, Node>);

impl Layout {
    /// Adds or replaces a file.
    pub fn with(mut self, path: &str, node: Node) -> Layout {
        self.0.insert(path.into(), node);
        self
    }

    /// Adds or replaces a file that has this text.
    pub fn text(self, path: &str, text: impl AsRef<[u8]>) -> Layout {
        self.with(path, Node::File(text.as_ref().to_vec()))
    }

    /// Takes a file away.
    pub fn without(mut self, path: &str) -> Layout {
        assert!(self.0.remove(path).is_some(), "{path}");
        self
    }

    /// Adds a blob and returns its descriptor.
    pub fn put(&mut self, media_type: &str, bytes: &[u8]) -> Value {
        let digest = digest(bytes);
        self.0.insert(blob(&digest), Node::File(bytes.to_vec()));
        json!({ "mediaType": media_type, "digest": digest, "size": bytes.len() })
    }

    /// Names what `desc` describes, alone.
    pub fn name(self, desc: &Value) -> Layout {
        self.names(&[("app", desc.clone())])
    }

    /// Names these.
    pub fn names(self, all: &[(&str, Value)]) -> Layout {
        let manifests: Vec<Value> = all
            .iter()
            .map(|(name, desc)| {
                let mut desc = desc.clone();
                desc["annotations"] = json!({ "org.opencontainers.image.ref.name": name });
                desc
            })
            .collect();
        self.text("index.json", index(&manifests).to_string())
    }

    /// Writes the files below `dir`, which is made.
    pub fn write(&self, dir: &Path) {
        std::fs::create_dir_all(dir).unwrap();
        for (path, node) in &self.0 {
            let path = dir.join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            match node {
                Node::File(bytes) => std::fs::write(&path, bytes).unwrap(),
                Node::Symlink(target) => std::os::unix::fs::symlink(target, &path).unwrap(),
                Node::Dir => std::fs::create_dir_all(&path).unwrap(),
                Node::Fifo => {
                    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::from_bits_retain(0o644))
                        .unwrap()
                }
                Node::Sparse(size) => std::fs::File::create(&path).unwrap().set_len(*size).unwrap(),
            }
        }
    }

    /// Returns the layout as a tar, in the order of the paths.
    pub fn archive(&self) -> Tar {
        self.0.iter().fold(tar(), |tar, (path, node)| match node {
            Node::File(bytes) => tar.file(path, bytes),
            Node::Symlink(target) => tar.symlink(path, target),
            Node::Dir => tar.dir(path),
            Node::Fifo => tar.fifo(path),
            Node::Sparse(_) => unreachable!("no archive has one"),
        })
    }
}

/// Returns the path of a blob in a layout.
pub fn blob(digest: &str) -> String {
    format!("blobs/{}", digest.replacen(':', "/", 1))
}

/// Returns an index of these descriptors.
pub fn index(manifests: &[Value]) -> Value {
    json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": manifests })
}

/// An image in the making. What is written of each document is the document, unless changed.
pub struct Make {
    layers: Vec<Layer>,
    config: Change,
    manifest: Change,
}

/// Turns a document that is right into the bytes that are written.
type Change = Box<dyn Fn(Value) -> Vec<u8>>;

/// Begins an image of these layers, the lowest first.
pub fn make(layers: impl Into<Vec<Layer>>) -> Make {
    let as_it_is = || -> Change { Box::new(|document| document.to_string().into_bytes()) };
    Make { layers: layers.into(), config: as_it_is(), manifest: as_it_is() }
}

impl Make {
    /// Changes what is written of the config.
    pub fn config(mut self, change: impl Fn(Value) -> Vec<u8> + 'static) -> Make {
        self.config = Box::new(change);
        self
    }

    /// Changes what is written of the manifest.
    pub fn manifest(mut self, change: impl Fn(Value) -> Vec<u8> + 'static) -> Make {
        self.manifest = Box::new(change);
        self
    }

    /// Adds the image to a layout, and returns its manifest's descriptor.
    pub fn put(&self, layout: &mut Layout) -> Value {
        let layers: Vec<Value> =
            self.layers.iter().map(|layer| layout.put(&layer.media_type, &layer.blob)).collect();
        let config = json!({
            "created": "1970-01-01T00:00:00Z",
            "architecture": architecture(),
            "os": "linux",
            "config": { "Env": ["PATH=/bin"] },
            "rootfs": {
                "type": "layers",
                "diff_ids": self.layers.iter().map(|layer| &layer.diff_id).collect::<Vec<_>>(),
            },
        });
        let config = layout.put(CONFIG, &(self.config)(config));
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers,
        });
        layout.put(MANIFEST, &(self.manifest)(manifest))
    }

    /// Returns a layout of the image alone.
    pub fn layout(&self) -> Layout {
        let mut layout = empty();
        let desc = self.put(&mut layout);
        layout.name(&desc)
    }
}

/// Returns a layout without images, and without an index.json.
pub fn empty() -> Layout {
    Layout::default().text("oci-layout", r#"{"imageLayoutVersion":"1.0.0"}"#)
}

/// Returns the layout of an image of [`hello`].
pub fn whole() -> Layout {
    make([hello()]).layout()
}

/// Returns a layer of a tar that is packed with gzip.
pub fn gzipped(tar: Tar) -> Layer {
    let bytes = tar.end();
    Layer::packed(pack::gzip(&bytes), &bytes)
}
