//! The results of steps, by their keys: plain files, which may be deleted at any time.
//!
//! ```text
//! $TARE_ROOT/cache/build/
//!   <key>           {"inputs": [...], "layer": {descriptor}, "diffId": "sha256:..."}
//!   last/<place>    the key that a step of this Dockerfile had last, for --explain
//! ```
//!
//! A file is written whole and renamed, so of many builds that write one, each
//! writes the same or a result as good. Of a file that is torn or foreign nothing
//! is believed, and a layer that is not in the store any more is no result.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;
use common::digest::Digest;
use common::error::At;
use common::image;
use common::layout::Layout;
use common::tree;
use oci_spec::image::Descriptor;
use serde_json::{Value, json};

use super::key::Inputs;

/// The most bytes of a file that is read: the arguments and variables of a step fit.
const LIMIT: u64 = 16 << 20;

/// A layer: its blob, and its diff ID.
pub type Layer = (Descriptor, Digest);

/// Returns the chain ID of layers, if there are any.
pub fn chain_id(layers: &[Layer]) -> Option<Digest> {
    let diff_ids: Vec<Digest> = layers.iter().map(|(_, diff_id)| *diff_id).collect();
    image::chain_ids(&diff_ids).pop()
}

/// The results of steps.
pub struct Cache {
    dir: PathBuf,
}

impl Cache {
    /// Opens the results in `dir`, and makes the directory.
    pub fn open(dir: PathBuf) -> Result<Cache> {
        let last = dir.join("last");
        fs::create_dir_all(&last).at(&last)?;
        Ok(Cache { dir })
    }

    /// Returns the layer that a step with this key made, if the layout has it still.
    pub fn find(&self, key: &Digest, layout: &Layout) -> Option<Layer> {
        let record = self.read(key)?;
        let desc: Descriptor = serde_json::from_value(record.get("layer")?.clone()).ok()?;
        let diff_id = record.get("diffId")?.as_str()?.parse().ok()?;
        // The file may be anybody's: a key that is not its inputs' is not believed.
        let inputs = Inputs::from_json(record.get("inputs")?)?;
        let found = inputs.key() == *key
            && image::is_layer(desc.media_type())
            && layout.has(&image::digest(&desc).ok()?, desc.size()).ok()?;
        found.then_some((desc, diff_id))
    }

    /// Keeps the layer that a step made.
    pub fn keep(&self, inputs: &Inputs, layer: &Layer) -> Result<()> {
        let record = json!({
            "inputs": inputs.to_json(), "layer": layer.0, "diffId": layer.1.to_string()
        });
        tree::put_unsynced(&self.dir.join(inputs.key().hex()), record.to_string().as_bytes())
    }

    /// Returns the inputs that the step in this place had last, and notes the ones that it has now.
    ///
    /// What cannot be written is missed by nobody but by who asks for explanations.
    pub fn last(&self, place: &Digest, now: &Inputs) -> Option<Inputs> {
        let path = self.dir.join("last").join(place.hex());
        let before = limited(&path).and_then(|bytes| serde_json::from_slice(&bytes).ok());
        let _ = tree::put_unsynced(&path, now.to_json().to_string().as_bytes());
        Inputs::from_json(&before?)
    }

    fn read(&self, key: &Digest) -> Option<Value> {
        serde_json::from_slice(&limited(&self.dir.join(key.hex()))?).ok()
    }
}

fn limited(path: &Path) -> Option<Vec<u8>> {
    let metadata = fs::symlink_metadata(path).ok()?;
    let sane = metadata.is_file() && metadata.len() <= LIMIT;
    sane.then(|| fs::read(path).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_is_found_as_long_as_its_layer_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::create(dir.path().join("images")).unwrap();
        let cache = Cache::open(dir.path().join("cache")).unwrap();
        let digest = layout.writing().unwrap().put(b"layer").unwrap();
        let media_type = oci_spec::image::MediaType::ImageLayer;
        let layer = (image::descriptor(media_type, &digest, 5), Digest::of(b"diff"));
        let mut inputs = Inputs::of("RUN");
        inputs.add("args", "true");
        assert_eq!(cache.find(&inputs.key(), &layout), None);
        cache.keep(&inputs, &layer).unwrap();
        assert_eq!(cache.find(&inputs.key(), &layout), Some(layer.clone()));

        // Another's file under its name is not believed, nor is a torn one.
        let (own, mut other) = (inputs.key(), Inputs::of("COPY"));
        other.add("args", "true");
        fs::copy(
            dir.path().join("cache").join(own.hex()),
            dir.path().join("cache").join(other.key().hex()),
        )
        .unwrap();
        assert_eq!(cache.find(&other.key(), &layout), None);
        let bytes = fs::read(dir.path().join("cache").join(own.hex())).unwrap();
        fs::write(dir.path().join("cache").join(own.hex()), &bytes[..bytes.len() / 2]).unwrap();
        assert_eq!(cache.find(&own, &layout), None);

        cache.keep(&inputs, &layer).unwrap();
        fs::remove_file(dir.path().join("images/blobs/sha256").join(digest.hex())).unwrap();
        assert_eq!(cache.find(&own, &layout), None);
    }

    #[test]
    fn a_place_remembers_what_was_there() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path().join("cache")).unwrap();
        let place = Digest::of(b"Dockerfile 3");
        let mut first = Inputs::of("RUN");
        first.add("args", "a");
        assert_eq!(cache.last(&place, &first), None);
        let mut second = Inputs::of("RUN");
        second.add("args", "b");
        let before = cache.last(&place, &second).unwrap();
        assert_eq!(second.differs(&before).unwrap().to_string(), "args was a, is b");
    }
}
