//! Repositories of the same registry that may have a blob, by what the names here say.
//!
//! An image that is called `HOST/base` here was pulled from there or pushed to there, most
//! likely, so that the registry can take its layers from that repository. If it cannot, the
//! blob is sent.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::OnceLock;

use common::digest::Digest;
use common::image::{self, Document};
use common::layout::Layout;
use common::reference::Reference;
use oci_spec::image::Descriptor;

/// The most images that are looked at.
const IMAGES: usize = 1000;

/// Knows which repositories may have a blob.
pub struct Near<'a> {
    layouts: [&'a Layout; 2],
    dest: &'a Reference,
    known: OnceLock<BTreeMap<Digest, String>>,
}

impl<'a> Near<'a> {
    /// Looks for what may be taken from other repositories of the registry of `dest`.
    pub fn new(layouts: [&'a Layout; 2], dest: &'a Reference) -> Near<'a> {
        Near { layouts, dest, known: OnceLock::new() }
    }

    /// Returns a repository that may have the blob.
    pub fn repository(&self, digest: &Digest) -> Option<&str> {
        // Read when the first blob is not there: most pushes need it not at all.
        self.known.get_or_init(|| self.look()).get(digest).map(String::as_str)
    }

    fn look(&self) -> BTreeMap<Digest, String> {
        let mut known = BTreeMap::new();
        let mut seen = BTreeSet::new();
        let same = self.layouts[0].dir() == self.layouts[1].dir();
        for layout in &self.layouts[usize::from(same)..] {
            let Ok(index) = layout.index() else { continue };
            for image in index.images() {
                let name = image.name().and_then(|name| name.parse::<Reference>().ok());
                let Some(name) = name.filter(|name| {
                    name.domain() == self.dest.domain() && name.path() != self.dest.path()
                }) else {
                    continue;
                };
                if let Ok(desc) = image.descriptor() {
                    add(layout, &desc, name.path(), &mut known, &mut seen);
                }
            }
        }
        known
    }
}

/// Adds the blobs of an image. What cannot be read has none to tell of.
fn add(
    layout: &Layout,
    desc: &Descriptor,
    path: &str,
    known: &mut BTreeMap<Digest, String>,
    seen: &mut BTreeSet<Digest>,
) {
    let new = image::digest(desc).is_ok_and(|digest| seen.insert(digest));
    if !new || seen.len() > IMAGES {
        return;
    }
    let Ok(bytes) = layout.read(desc) else { return };
    match image::parse(&bytes, &image::media_type(desc)) {
        Ok(Document::Manifest(manifest)) => {
            for blob in manifest.layers().iter().chain([manifest.config()]) {
                if let Ok(digest) = image::digest(blob) {
                    known.entry(digest).or_insert_with(|| path.to_owned());
                }
            }
        }
        Ok(Document::Index(index)) => {
            index.manifests().iter().for_each(|desc| add(layout, desc, path, known, seen));
        }
        Err(_) => {}
    }
}
