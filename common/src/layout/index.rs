//! `index.json`: which manifests a layout keeps, and under which names.
//!
//! The entries are kept as they were written, so that rewriting somebody's
//! index keeps the fields that nobody here knows. Only what is asked for is
//! parsed: a store may have ten thousand names.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashSet};
use std::fmt;

use anyhow::{Context, Result, bail, ensure};
use oci_spec::image::Descriptor;
use serde::de::{Deserialize, DeserializeSeed, Deserializer, Error, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::CHOSEN_FROM;
use crate::digest::Digest;
use crate::image::{Kind, REF_NAME};
use crate::reference::Reference;

/// The images that a layout keeps.
pub struct Index {
    /// All fields but `manifests`.
    fields: BTreeMap<String, Box<RawValue>>,
    images: Vec<Image>,
}

/// One entry of an index: a manifest, or an index of several, that a layout keeps.
#[derive(Clone)]
pub struct Image {
    /// The descriptor, as it is written.
    pub(super) raw: Box<RawValue>,
    digest: String,
    name: Option<String>,
}

/// An index.json, read in one go: of ten thousand entries each is copied once.
struct Parsed {
    /// All fields but `manifests`.
    fields: BTreeMap<String, Box<RawValue>>,
    images: Option<Vec<Image>>,
}

impl<'de> Deserialize<'de> for Parsed {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields;
        impl<'de> Visitor<'de> for Fields {
            type Value = Parsed;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Parsed, A::Error> {
                let (mut parsed, mut seen) =
                    (Parsed { fields: BTreeMap::new(), images: None }, HashSet::new());
                while let Some(name) = map.next_key::<String>()? {
                    // As image::Fields has it.
                    if !seen.insert(name.to_lowercase()) {
                        return Err(A::Error::custom(format!("duplicate field {name:?}")));
                    }
                    if name == "manifests" {
                        // umoci and containers/image write null for an empty list.
                        let images: Option<Vec<Image>> = map.next_value()?;
                        parsed.images = Some(images.unwrap_or_default());
                    } else {
                        parsed.fields.insert(name, map.next_value()?);
                    }
                }
                Ok(parsed)
            }
        }
        deserializer.deserialize_map(Fields)
    }
}

impl<'de> Deserialize<'de> for Image {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = Box::<RawValue>::deserialize(deserializer)?;
        Image::parse(raw)
            .map_err(|err| D::Error::custom(format!("an entry is no descriptor: {err}")))
    }
}

/// The name among the annotations of a descriptor. The others are texts as well, and not kept.
struct Name(Option<String>);

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        /// Whether a text is this one; without one, it is any.
        struct Is(Option<&'static str>);
        impl<'de> DeserializeSeed<'de> for Is {
            type Value = bool;

            fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
                deserializer.deserialize_str(self)
            }
        }
        impl Visitor<'_> for Is {
            type Value = bool;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a string")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<bool, E> {
                Ok(self.0.is_none_or(|wanted| wanted == text))
            }
        }
        struct Annotations;
        impl<'de> Visitor<'de> for Annotations {
            type Value = Name;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("annotations")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Name, A::Error> {
                let mut name = None;
                while let Some(is_name) = map.next_key_seed(Is(Some(REF_NAME)))? {
                    match is_name {
                        true => name = Some(map.next_value()?),
                        false => {
                            map.next_value_seed(Is(None))?;
                        }
                    }
                }
                Ok(Name(name))
            }
        }
        deserializer.deserialize_map(Annotations)
    }
}

impl Index {
    /// Reads an index.json.
    pub fn parse(bytes: &[u8]) -> Result<Index> {
        let Parsed { fields, images } = serde_json::from_slice(bytes).context("not an index")?;
        match fields.get("schemaVersion").map(|version| version.get()) {
            Some("2") => {}
            _ => bail!("not an index: schemaVersion is not 2"),
        }
        let images = images.context("not an index: it has no manifests")?;
        // As in any other document that could be read as another kind: image::parse.
        let is_manifest = fields.contains_key("layers") || fields.contains_key("config");
        ensure!(!is_manifest, "both a manifest and an index");
        if let Some(media_type) = fields.get("mediaType") {
            let media_type: Option<String> = serde_json::from_str(media_type.get())?;
            let is_index = media_type
                .as_deref()
                .is_none_or(|it| it.is_empty() || Kind::of(it) == Some(Kind::Index));
            ensure!(is_index, "not an index: its media type is {media_type:?}");
        }
        Ok(Index { fields, images })
    }

    /// Returns an index without images.
    pub fn empty() -> Index {
        let text = br#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}"#;
        // The text above is an index.
        Index::parse(text).unwrap()
    }

    /// Returns the bytes of the index.json.
    pub fn to_json(&self) -> Result<Vec<u8>> {
        let size: usize = self.images.iter().map(|image| image.raw.get().len() + 1).sum();
        let mut out = Vec::with_capacity(size + 256);
        let manifests = (&"manifests".to_owned(), None);
        let fields = self.fields.iter().map(|(key, value)| (key, Some(value)));
        let fields: BTreeMap<&String, Option<&Box<RawValue>>> = fields.chain([manifests]).collect();
        for (n, (key, value)) in fields.into_iter().enumerate() {
            out.push(if n == 0 { b'{' } else { b',' });
            serde_json::to_writer(&mut out, key)?;
            out.push(b':');
            match value {
                Some(value) => out.extend(value.get().as_bytes()),
                None => {
                    out.push(b'[');
                    for (n, image) in self.images.iter().enumerate() {
                        if n > 0 {
                            out.push(b',');
                        }
                        out.extend(image.raw.get().as_bytes());
                    }
                    out.push(b']');
                }
            }
        }
        out.push(b'}');
        Ok(out)
    }

    /// Returns the images, as they stand in the file.
    pub fn images(&self) -> &[Image] {
        &self.images
    }

    /// Returns an annotation of the index itself, not of an image.
    pub fn annotation(&self, key: &str) -> Option<String> {
        let annotations = self.fields.get("annotations")?.get();
        let mut annotations: BTreeMap<String, String> = serde_json::from_str(annotations).ok()?;
        annotations.remove(key)
    }

    /// Returns the names that there are.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.images.iter().filter_map(Image::name)
    }

    /// Returns the descriptor that `name` names.
    ///
    /// `name` is compared as it stands first; then as Docker would read both,
    /// since skopeo writes `app` where we write `docker.io/library/app:latest`.
    pub fn find(&self, name: &str) -> Result<Option<Descriptor>> {
        self.position(name).map(|at| self.images[at].descriptor()).transpose()
    }

    /// Returns the descriptor of the image with this digest.
    pub fn find_digest(&self, digest: &Digest) -> Result<Option<Descriptor>> {
        let text = digest.to_string();
        let found = self.images.iter().find(|image| image.digest == text);
        found.map(Image::descriptor).transpose()
    }

    /// Makes `name` mean `target`, and nothing else. Returns whether that changes anything.
    ///
    /// The image that had the name keeps an entry without one, so that it can
    /// still be listed, used by digest, and pruned.
    pub fn name(&mut self, name: &str, target: &Descriptor) -> Result<bool> {
        let chosen_from =
            |desc: &Descriptor| Some(desc.annotations().as_ref()?.get(CHOSEN_FROM)?.clone());
        if let Some(at) = self.position(name) {
            let old = &self.images[at];
            let same =
                old.digest == target.digest().to_string() && old.name.as_deref() == Some(name);
            let once = self.images.iter().filter(|image| image.name() == Some(name)).count() == 1;
            // The same manifest may have come from a newer index, which is to be kept now.
            if same
                && once
                && [None, chosen_from(&old.descriptor()?)].contains(&chosen_from(target))
            {
                return Ok(false);
            }
            self.unname(name)?;
        }
        // The entry without a name has done its duty.
        let digest = target.digest().to_string();
        self.images.retain(|image| image.digest != digest || image.name.is_some());
        let mut desc = target.clone();
        let mut annotations = desc.annotations().clone().unwrap_or_default();
        annotations.insert(REF_NAME.into(), name.into());
        desc.set_annotations(Some(annotations));
        self.images.push(Image::of(&desc)?);
        Ok(true)
    }

    /// Returns the entry that `name` names, as [`Index::find`] compares names.
    pub fn entry(&self, name: &str) -> Option<&Image> {
        self.position(name).map(|at| &self.images[at])
    }

    /// Takes `name` away from the image that has it; returns whether there was one.
    ///
    /// One that loses its last name keeps an entry without one. Whoever made the layout
    /// may have given a name to several, of which only the first was ever found.
    pub fn unname(&mut self, name: &str) -> Result<bool> {
        let mut found = false;
        while let Some(at) = self.position(name) {
            self.unname_at(at)?;
            found = true;
        }
        Ok(found)
    }

    /// Removes the entry with this name, as it is written there; returns it, if there is one.
    ///
    /// Another image to which somebody gave the same name was never found by it: it loses the name, and stays.
    pub fn remove(&mut self, name: &str) -> Result<Option<Image>> {
        let named = |image: &Image| image.name() == Some(name);
        let Some(at) = self.images.iter().position(named) else { return Ok(None) };
        let removed = self.images.remove(at);
        self.images.retain(|image| !(named(image) && image.digest == removed.digest));
        while let Some(at) = self.images.iter().position(named) {
            self.unname_at(at)?;
        }
        Ok(Some(removed))
    }

    /// Removes all entries but those that `keep` says yes to; returns the removed.
    pub fn retain(&mut self, mut keep: impl FnMut(&Image) -> bool) -> Vec<Image> {
        self.images.extract_if(.., |image| !keep(image)).collect()
    }

    /// Takes the name of an entry away, or the entry if the image has another.
    fn unname_at(&mut self, at: usize) -> Result<()> {
        let image = &self.images[at];
        match self.images.iter().filter(|other| other.digest == image.digest).count() {
            1 => self.images[at].unname(),
            _ => {
                self.images.remove(at);
                Ok(())
            }
        }
    }

    /// Keeps `target` without a name, if it has none already. Returns whether that changes anything.
    pub fn keep(&mut self, target: &Descriptor) -> Result<bool> {
        let digest = target.digest().to_string();
        if self.images.iter().any(|image| image.digest == digest) {
            return Ok(false);
        }
        self.images.push(Image::of(target)?);
        Ok(true)
    }

    fn position(&self, name: &str) -> Option<usize> {
        let literal = self.images.iter().position(|image| image.name() == Some(name));
        literal.or_else(|| {
            let full = name.parse::<Reference>().ok()?.full();
            let same = |image: &Image| {
                let other = image.name()?;
                if !may_be(other, &full) {
                    return None;
                }
                Some(other.parse::<Reference>().ok()?.full() == full)
            };
            self.images.iter().position(|image| same(image).unwrap_or(false))
        })
    }
}

/// Returns whether `name` may be short for `full`, by its end: most of many need not be parsed.
fn may_be(name: &str, full: &str) -> bool {
    fn end(name: &str) -> &str {
        name.rsplit('/').next().unwrap_or(name)
    }
    // A tag may be implied, and a digest may follow one.
    let (name, full) = (end(name), end(full));
    let tagged = name.split('@').next().unwrap_or(name);
    name == full || tagged == full || full.strip_suffix(":latest") == Some(tagged)
}

impl Image {
    fn parse(raw: Box<RawValue>) -> serde_json::Result<Image> {
        /// The two fields that are searched.
        #[derive(serde::Deserialize)]
        struct Head<'a> {
            #[serde(borrow)]
            digest: Cow<'a, str>,
            annotations: Option<Name>,
        }
        let head: Head = serde_json::from_str(raw.get())?;
        let (digest, name) = (head.digest.into_owned(), head.annotations.and_then(|name| name.0));
        Ok(Image { digest, name: name.filter(|name| !name.is_empty()), raw })
    }

    fn of(desc: &Descriptor) -> Result<Image> {
        Ok(Image::parse(serde_json::value::to_raw_value(desc)?)?)
    }

    /// Returns the name, as it is written.
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// Returns the digest, as it is written: not checked yet.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// Returns the index that the image was chosen from, if that is known.
    pub fn chosen_from(&self) -> Option<Digest> {
        // Most entries do not have it, and there may be many.
        if !self.raw.get().contains(CHOSEN_FROM) {
            return None;
        }
        super::index_of(&self.descriptor().ok()?)
    }

    /// Returns the whole descriptor, checked.
    pub fn descriptor(&self) -> Result<Descriptor> {
        let desc: Descriptor = serde_json::from_str(self.raw.get()).context("not a descriptor")?;
        crate::image::digest(&desc)?;
        Ok(desc)
    }

    /// Takes the name away, and leaves all else as it was.
    fn unname(&mut self) -> Result<()> {
        let mut fields: BTreeMap<String, Box<RawValue>> = serde_json::from_str(self.raw.get())?;
        if let Some(annotations) = fields.remove("annotations") {
            let mut annotations: BTreeMap<String, Box<RawValue>> =
                serde_json::from_str(annotations.get())?;
            annotations.remove(REF_NAME);
            if !annotations.is_empty() {
                fields.insert("annotations".into(), serde_json::value::to_raw_value(&annotations)?);
            }
        }
        self.raw = serde_json::value::to_raw_value(&fields)?;
        self.name = None;
        Ok(())
    }
}
