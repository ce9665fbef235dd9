//! What belongs to a repository: the manifests that its names lead to, their blobs, and their referrers.
//!
//! A manifest belongs to a repository if one of its names means it, if an index
//! that belongs to it lists it, or if it is the index that the image was chosen
//! from. An image without a name, which is what a tag that moved on leaves
//! behind, can still be had by digest, under every repository.
//!
//! Documents never change, so what one says is read once. A hostile layout can
//! name more blobs than memory holds; what is counted here ends at [`LIMIT`], and
//! beyond it every blob of the layout belongs to the repository.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use common::digest::Digest;
use common::image::{self, Document, Kind};
use common::layout::{CHOSEN_FROM, Image, Layout};
use oci_spec::image::Descriptor;

use crate::names::Names;

/// The most blobs that are kept in mind, for a repository and for all documents together.
const LIMIT: usize = 1 << 20;
/// The most repositories of which that is kept in mind.
const VIEWS: usize = 64;

/// A manifest or an index that belongs to a repository.
#[derive(Clone, Debug)]
pub struct Head {
    pub digest: Digest,
    pub size: u64,
    pub media_type: String,
}

impl Head {
    fn of(desc: &Descriptor) -> Option<Head> {
        let digest = image::digest(desc).ok()?;
        Some(Head { digest, size: desc.size(), media_type: image::media_type(desc) })
    }
}

/// What a document says, as far as it matters here.
#[derive(Default)]
struct Facts {
    members: Vec<Head>,
    blobs: Vec<Key>,
    subject: Option<Digest>,
}

/// The first half of a digest, which is enough to find it again: what is served is looked up by all of it.
type Key = u128;

fn key(digest: &Digest) -> Key {
    u128::from_str_radix(&digest.hex()[..32], 16).unwrap_or_default()
}

/// What belongs to some images.
#[derive(Default)]
pub struct View {
    manifests: HashMap<Digest, Head>,
    members: HashSet<Digest>,
    blobs: HashSet<Key>,
    referrers: HashMap<Digest, Vec<Digest>>,
    followed: HashSet<Digest>,
    all: bool,
}

impl View {
    /// Returns the manifest or index with this digest.
    pub fn manifest(&self, digest: &Digest) -> Option<&Head> {
        self.manifests.get(digest)
    }

    /// Returns whether an index lists this manifest.
    pub fn is_member(&self, digest: &Digest) -> bool {
        self.members.contains(digest)
    }

    /// Returns whether a manifest needs this blob, or the blob is one.
    pub fn has(&self, digest: &Digest) -> bool {
        self.all || self.blobs.contains(&key(digest)) || self.manifests.contains_key(digest)
    }

    /// Returns the manifests whose subject this is.
    pub fn referrers(&self, subject: &Digest) -> impl Iterator<Item = &Head> {
        let found = self.referrers.get(subject).into_iter().flatten();
        found.filter_map(|digest| self.manifests.get(digest))
    }
}

/// Finds out what belongs to what, and keeps it in mind.
pub struct Reach {
    layout: &'static Layout,
    facts: Mutex<Known>,
    views: Mutex<Views>,
}

#[derive(Default)]
struct Known {
    facts: HashMap<Digest, Arc<Facts>>,
    weight: usize,
}

#[derive(Default)]
struct Views {
    /// What they are views of.
    names: Option<Arc<Names>>,
    views: HashMap<Option<String>, Arc<View>>,
}

impl Reach {
    pub fn new(layout: &'static Layout) -> Reach {
        Reach { layout, facts: Mutex::default(), views: Mutex::default() }
    }

    /// Returns what belongs to a repository, or, without one, to the images that have no name.
    pub fn view(&self, names: &Arc<Names>, repository: Option<&str>) -> Arc<View> {
        let wanted = repository.map(str::to_owned);
        {
            let mut views = self.views.lock().unwrap_or_else(PoisonError::into_inner);
            if !views.names.as_ref().is_some_and(|old| Arc::ptr_eq(old, names)) {
                *views = Views { names: Some(names.clone()), views: HashMap::new() };
            }
            if let Some(view) = views.views.get(&wanted) {
                return view.clone();
            }
        }
        let mut view = View::default();
        match repository {
            Some(name) => {
                let images = names.repository(name).map(|found| names.images(found));
                images.into_iter().flatten().for_each(|image| self.add(&mut view, image));
            }
            None => names.loose().for_each(|image| self.add(&mut view, image)),
        }
        let view = Arc::new(view);
        let mut views = self.views.lock().unwrap_or_else(PoisonError::into_inner);
        if views.names.as_ref().is_some_and(|old| Arc::ptr_eq(old, names)) {
            if views.views.len() >= VIEWS {
                views.views.clear();
            }
            views.views.insert(wanted, view.clone());
        }
        view
    }

    fn add(&self, view: &mut View, image: &Image) {
        // An entry that is none leads nowhere.
        let Ok(desc) = image.descriptor() else { return };
        let mut todo: Vec<(Head, usize)> =
            Head::of(&desc).map(|head| (head, 0)).into_iter().collect();
        let annotations = desc.annotations().as_ref();
        let index = annotations.and_then(|all| all.get(CHOSEN_FROM)?.parse::<Digest>().ok());
        if let Some(digest) = index
            && let Ok(desc) = self.layout.find_digest(&digest)
            && let Some(head) = Head::of(&desc)
        {
            // Its other members are not here, so it is not followed.
            view.manifests.insert(digest, head);
        }
        while let Some((head, depth)) = todo.pop() {
            let digest = head.digest;
            if depth > image::INDEX_DEPTH || !view.followed.insert(digest) {
                continue;
            }
            view.manifests.insert(digest, head.clone());
            let facts = self.facts(&head);
            if let Some(subject) = facts.subject {
                view.referrers.entry(subject).or_default().push(digest);
            }
            if view.blobs.len() + view.manifests.len() + facts.blobs.len() + facts.members.len()
                > LIMIT
            {
                view.all = true;
                return;
            }
            view.blobs.extend(&facts.blobs);
            view.members.extend(facts.members.iter().map(|member| member.digest));
            todo.extend(facts.members.iter().map(|member| (member.clone(), depth + 1)));
        }
    }

    /// Returns what a document says. One that is not here, or cannot be read, says nothing.
    fn facts(&self, head: &Head) -> Arc<Facts> {
        let known = |known: &Known| known.facts.get(&head.digest).cloned();
        if let Some(facts) = known(&self.facts.lock().unwrap_or_else(PoisonError::into_inner)) {
            return facts;
        }
        // What is not here today may be tomorrow.
        let Some(facts) = self.read(head).map(Arc::new) else { return Arc::default() };
        let mut known = self.facts.lock().unwrap_or_else(PoisonError::into_inner);
        let weight = 1 + facts.blobs.len() + facts.members.len();
        if known.weight + weight > LIMIT {
            *known = Known::default();
        }
        known.weight += weight;
        known.facts.insert(head.digest, facts.clone());
        facts
    }

    fn read(&self, head: &Head) -> Option<Facts> {
        Kind::of(&head.media_type)?;
        let desc = image::descriptor(head.media_type.as_str().into(), &head.digest, head.size);
        let bytes = self.layout.read(&desc).ok()?;
        Some(match image::parse(&bytes, &head.media_type).ok()? {
            Document::Index(index) => Facts {
                members: index.manifests().iter().filter_map(Head::of).collect(),
                blobs: Vec::new(),
                subject: index.subject().as_ref().and_then(|desc| image::digest(desc).ok()),
            },
            Document::Manifest(manifest) => {
                let blobs = std::iter::once(manifest.config()).chain(manifest.layers());
                Facts {
                    members: Vec::new(),
                    blobs: blobs.filter_map(|desc| Some(key(&image::digest(desc).ok()?))).collect(),
                    subject: manifest.subject().as_ref().and_then(|desc| image::digest(desc).ok()),
                }
            }
        })
    }
}
