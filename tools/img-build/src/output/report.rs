//! Files that say what was built: `--iidfile`, `--iidfile-if-changed` and `--metadata-file`.
//!
//! They are written when the image is there, whole, and but for the second new in
//! mtime: make(1) takes them for the image.

use std::fs;
use std::path::Path;

use anyhow::Result;
use common::cli::Output;
use common::digest::Digest;
use common::error::At;
use common::reference::Reference;
use oci_spec::image::Descriptor;
use serde_json::{Value, json};

/// Writes the result line, as `-` reads it.
pub fn iidfile(path: &Path, line: &str) -> Result<()> {
    put(path, format!("{line}\n").as_bytes())
}

/// Writes a file, unless it holds just that: then it keeps its time. Returns whether it was written.
pub fn put_if_changed(path: &Path, bytes: &[u8]) -> Result<bool> {
    // Of a device or a FIFO nothing is read: there may be no end to it.
    let may_be = |found: fs::Metadata| found.is_file() && found.len() == bytes.len() as u64;
    let same = fs::metadata(path).is_ok_and(may_be) && fs::read(path).is_ok_and(|old| old == bytes);
    if !same {
        put(path, bytes)?;
    }
    Ok(!same)
}

/// Writes what buildx writes of an image: its digests, its descriptor and its names.
pub fn metadata(
    path: &Path,
    desc: &Descriptor,
    config: Option<&Digest>,
    names: &[Reference],
) -> Result<()> {
    put(path, format!("{:#}\n", document(desc, config, names)).as_bytes())
}

fn document(desc: &Descriptor, config: Option<&Digest>, names: &[Reference]) -> Value {
    let mut document = json!({
        "containerimage.descriptor": desc,
        "containerimage.digest": desc.digest().to_string(),
    });
    // An index has no config.
    if let Some(config) = config {
        document["containerimage.config.digest"] = json!(config.to_string());
    }
    if !names.is_empty() {
        let names: Vec<String> = names.iter().map(Reference::full).collect();
        document["image.name"] = json!(names.join(","));
    }
    document
}

fn put(path: &Path, bytes: &[u8]) -> Result<()> {
    use std::io::Write;
    Output::new(Some(path), "--iidfile FILE")?
        .write(|mut file, place| file.write_all(bytes).at(place))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use common::image;
    use oci_spec::image::MediaType;

    use super::*;

    #[test]
    fn a_line_is_replaced_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("iid");
        iidfile(&path, "app:latest@sha256:00").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "app:latest@sha256:00\n");
        let inode = |path: &Path| fs::metadata(path).unwrap().ino();
        let first = inode(&path);
        let kept = fs::File::open(&path).unwrap(); // so that its number is not used again
        assert!(!put_if_changed(&path, b"app:latest@sha256:00\n").unwrap());
        assert_eq!(inode(&path), first);
        assert!(put_if_changed(&path, b"app:latest@sha256:01\n").unwrap());
        assert_ne!(inode(&path), first);
        assert!(put_if_changed(&dir.path().join("new"), b"x").unwrap());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
        drop(kept);
        assert!(iidfile(&dir.path().join("none/iid"), "x").is_err());
    }

    #[test]
    fn metadata_are_those_of_buildx() {
        let digest = Digest::of(b"");
        let desc = image::descriptor(MediaType::ImageManifest, &digest, 7);
        let names = ["app".parse().unwrap(), "h:5/b:1".parse().unwrap()];
        let document = document(&desc, Some(&digest), &names);
        assert_eq!(document["containerimage.digest"], digest.to_string());
        assert_eq!(document["containerimage.config.digest"], digest.to_string());
        assert_eq!(document["containerimage.descriptor"]["size"], 7);
        assert_eq!(document["image.name"], "docker.io/library/app:latest,h:5/b:1");
    }
}
