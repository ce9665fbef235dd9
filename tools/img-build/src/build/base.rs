//! The images that stages begin with, and that COPY takes from: here, or pulled by img-pull.
//!
//! An image is looked for once a build, so a name means one image in all of it,
//! whoever else tags or pulls meanwhile. One from a layout or an archive is
//! brought into the store, since the result needs its layers there.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};
use common::cli::{self, Operand};
use common::digest::Digest;
use common::error::{self, Hint};
use common::image;
use common::layout::{Absent, Resolved, Writing, index_of};
use common::platform::Platform;
use common::reference::Reference;
use common::store::Store;
use oci_spec::image::{Descriptor, MediaType};
use rustix::io::Errno;

use super::cache::Layer;
use super::log::Style;

/// An image that is here.
#[derive(Debug)]
pub struct Image {
    /// What it is called, if it has a name.
    pub name: Option<Reference>,
    /// The digest of its manifest.
    pub digest: Digest,
    /// The bytes of its config.
    pub config: Vec<u8>,
    /// When it was made, as it says.
    pub created: Option<String>,
    /// Its layers, bottom first.
    pub layers: Vec<Layer>,
}

/// Where images come from.
pub struct Images<'a> {
    store: &'a Store,
    writing: &'a Writing<'a>,
    /// Pulls them though they are here.
    pull: bool,
    /// How much is said of that.
    style: Style,
    found: Mutex<BTreeMap<(String, String), Arc<Image>>>,
}

impl<'a> Images<'a> {
    /// Takes them from the store, or else from registries.
    pub fn new(store: &'a Store, writing: &'a Writing<'a>, pull: bool, style: Style) -> Images<'a> {
        Images { store, writing, pull, style, found: Mutex::default() }
    }

    /// Returns the image of this name for a platform.
    pub fn named(&self, name: &Reference, platform: &Platform) -> Result<Arc<Image>> {
        self.once(&name.full(), platform, || {
            let pulled = || self.pull(name, platform);
            let desc = match (self.pull, self.store.images.find(name)) {
                (false, Ok(desc)) => desc,
                (false, Err(err)) if error::find::<Absent>(&err).is_none() => return Err(err),
                _ => pulled()?.find(self.store)?.desc,
            };
            let fits = |image: &Resolved| platform.rank(&image.platform()).is_some();
            let image = match self.store.images.resolve(&desc, platform) {
                Ok(image) if fits(&image) => image,
                // What cannot be read now is not for a registry to say.
                Err(err)
                    if err.chain().any(|link| link.is::<Errno>() || link.is::<io::Error>()) =>
                {
                    return Err(err).with_context(|| name.to_string());
                }
                // An index of which that platform is not here, or another platform's image.
                other => match self.sibling(&desc, platform) {
                    Some(image) => image,
                    None => match (pulled().and_then(|operand| operand.find(self.store)), other) {
                        (Ok(found), _) => self.store.images.resolve(&found.desc, platform)?,
                        // A registry has one for that platform, and could not be asked.
                        (Err(err), Ok(other)) if index_of(&desc).is_some() => {
                            let there = other.platform();
                            let way = || format!("FROM --platform={there} {name} if that is meant");
                            return Err(err).hint(way);
                        }
                        // It is what there is: it runs if binfmt_misc can run it.
                        (Err(err), other) => other.map_err(|_| err)?,
                    },
                },
            };
            self.image(Some(name.clone()), &image)
        })
    }

    /// Returns the image that an operand names: of a layout, an archive, the store.
    pub fn operand(&self, operand: &Operand, platform: &Platform) -> Result<Arc<Image>> {
        if let Operand::Name(name) | Operand::Id(_, Some(name)) = operand {
            return self.named(name, platform);
        }
        self.once(&operand.to_string(), platform, || {
            let found = operand.find_in_store(self.store)?;
            let image = found.layout.resolve(&found.desc, platform)?;
            if found.layout.dir() != self.store.images.dir() {
                self.writing.bring(&found.layout, &image)?;
            }
            self.image(found.name, &image)
        })
    }

    /// Returns the image for a platform in the index that an image was chosen from, if all of it is here.
    fn sibling(&self, desc: &Descriptor, platform: &Platform) -> Option<Resolved> {
        let (images, index) = (&self.store.images, index_of(desc)?);
        let size = images.size(&index)?;
        let bytes = images.read(&image::descriptor(MediaType::ImageIndex, &index, size)).ok()?;
        let media_type = image::media_type_of(&bytes).ok()?.as_str().into();
        let image = images.resolve(&image::descriptor(media_type, &index, size), platform).ok()?;
        let here = |layer: &Descriptor| {
            image::digest(layer).and_then(|it| images.has(&it, layer.size())).unwrap_or(false)
        };
        let fits = platform.rank(&image.platform()).is_some();
        (fits && image.manifest.layers().iter().all(here)).then_some(image)
    }

    fn pull(&self, name: &Reference, platform: &Platform) -> Result<Operand> {
        let options = [self.style.option().to_owned(), format!("--platform={platform}")];
        cli::pull(name, &options, self.store)
    }

    fn once(
        &self,
        name: &str,
        platform: &Platform,
        find: impl FnOnce() -> Result<Image>,
    ) -> Result<Arc<Image>> {
        // Whoever wants an image meanwhile waits: it may well be the same one.
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (name.to_owned(), platform.to_string());
        if let Some(image) = found.get(&key) {
            return Ok(image.clone());
        }
        let image = Arc::new(find()?);
        found.insert(key, image.clone());
        Ok(image)
    }

    fn image(&self, name: Option<Reference>, image: &Resolved) -> Result<Image> {
        let digest = image::digest(&image.desc)?;
        let subject = || name.as_ref().map_or_else(|| digest.to_string(), Reference::to_string);
        let layers = image::layers(&image.manifest, &image.config).with_context(subject)?;
        let layers = layers.into_iter().map(|(desc, diff_id)| (desc.clone(), diff_id)).collect();
        let config = self.store.images.read(image.manifest.config()).with_context(subject)?;
        self.store.mark_used(&digest);
        Ok(Image {
            digest,
            config,
            created: image.config.created().as_ref().map(|created| created.to_string()),
            layers,
            name,
        })
    }
}
