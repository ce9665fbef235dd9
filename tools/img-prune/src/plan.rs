//! What a prune removes: found first, then done, or only told.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::{Duration, SystemTime};

use anyhow::Result;
use common::container::Users;
use common::digest::Digest;
use common::image::{self, Document, Kind};
use common::layout::{Image, Index, Layout, Removing, Unneeded};
use common::platform::Platform;
use common::reference::Reference;
use common::snapshot::{self, Unpacked};
use common::store::Store;
use jiff::Timestamp;
use oci_spec::image::ImageConfiguration;

use crate::choose::{Candidate, Rules, choose};
use crate::filter::Filter;

/// How long what a dead writer left can be gone on with.
const PARTIAL_AGE: Duration = Duration::from_secs(24 * 3600);

/// Where is pruned, and by which rules.
pub struct Prune<'a> {
    pub layout: &'a Layout,
    /// The store that the layout is of, if it is.
    pub store: Option<&'a Store>,
    pub users: Users,
    pub unpacked: Vec<Unpacked>,
    pub filters: &'a [Filter],
    pub rules: Rules,
    pub all: bool,
    pub dry_run: bool,
}

/// What goes.
pub struct Plan {
    pub images: Vec<Image>,
    pub blobs: Vec<Unneeded>,
    pub layers: Vec<Unpacked>,
}

/// What is known of an image.
#[derive(Clone, Default)]
struct Known {
    created: Option<Timestamp>,
    labels: BTreeMap<String, String>,
    /// It could be read.
    readable: bool,
    /// The chain IDs of its layers, on all platforms.
    chains: Vec<String>,
}

impl Prune<'_> {
    /// Takes out of `index` what goes, and finds what nothing needs then.
    pub fn plan(&self, index: &mut Index, removing: &Removing) -> Result<Plan> {
        let known = self.known(index);
        let chosen = self.choose(index, &known)?;
        let mut at = 0;
        let images = index.retain(|_| {
            at += 1;
            !chosen.contains(&(at - 1))
        });
        // While others are adding images all blobs stay, so those that nothing needs need not be found.
        let mut blobs = match removing.is_alone() || self.dry_run {
            true => removing.unneeded(index)?,
            false => Vec::new(),
        };
        blobs.extend(removing.abandoned(if self.all { Duration::ZERO } else { PARTIAL_AGE }));
        let kept = index.images().iter().filter_map(|image| known.get(image.digest()));
        let chains: HashSet<String> = kept.flat_map(|known| known.chains.iter().cloned()).collect();
        let layers = snapshot::without(self.unpacked.clone(), &chains, &self.users.layers);
        let layers = layers.into_iter().filter(Unpacked::is_free).collect();
        Ok(Plan { images, blobs, layers })
    }

    /// Reads the images, each once, however many names it has.
    fn known(&self, index: &Index) -> HashMap<String, Known> {
        let mut known = HashMap::new();
        for image in index.images() {
            if !known.contains_key(image.digest()) {
                known.insert(image.digest().to_owned(), self.read(image).unwrap_or_default());
            }
        }
        known
    }

    fn read(&self, image: &Image) -> Result<Known> {
        let desc = image.descriptor()?;
        let mut known = Known::default();
        if let Ok(image) = self.layout.resolve(&desc, &Platform::host()) {
            let config = image.config;
            known.readable = true;
            known.chains = chains(&config);
            known.created = config.created().as_ref().and_then(|created| created.parse().ok());
            let labels = config.config().as_ref().and_then(|config| config.labels().clone());
            known.labels.extend(labels.unwrap_or_default());
        }
        // Of an index, what was unpacked for another platform is needed as well.
        if !self.unpacked.is_empty() && Kind::of(&image::media_type(&desc)) == Some(Kind::Index) {
            for manifest in self.layout.manifests(&desc)? {
                let config = self.layout.read(manifest.config());
                let config = config.and_then(|bytes| image::parse_config(&bytes));
                known.chains.extend(config.map(|config| chains(&config)).unwrap_or_default());
            }
        }
        Ok(known)
    }

    /// Returns which entries go.
    fn choose(&self, index: &Index, known: &HashMap<String, Known>) -> Result<HashSet<usize>> {
        let mut sizes = BTreeMap::new();
        if self.rules.max_size.is_some() {
            for (digest, bytes) in self.layout.blobs()? {
                sizes.insert(digest.to_string(), bytes);
            }
            for layer in &self.unpacked {
                sizes.extend(layer.usage()?.map(|bytes| (layer.key.clone(), bytes)));
            }
        }
        let mut entries = Vec::with_capacity(index.images().len());
        for image in index.images() {
            let known = known.get(image.digest()).cloned().unwrap_or_default();
            entries.push(self.candidate(image, known)?);
        }
        let mut chosen = choose(&entries, &self.rules, &sizes);
        self.spare_referrers(index, &mut chosen);
        Ok(chosen)
    }

    fn candidate(&self, image: &Image, known: Known) -> Result<Candidate> {
        let accepts = |filter: &Filter| filter.accepts(known.created, &known.labels);
        // Of what cannot be read it is not known whether a filter would spare it.
        let matches = self.filters.is_empty() || known.readable && self.filters.iter().all(accepts);
        let mut parts = Vec::new();
        if self.rules.max_size.is_some() {
            parts.extend(self.layout.reach(image)?.iter().map(Digest::to_string));
            let chains: HashSet<&String> = known.chains.iter().collect();
            let layers = self.unpacked.iter();
            let own = layers.filter(|layer| chains.contains(&layer.chain().to_owned()));
            parts.extend(own.map(|layer| layer.key.clone()));
            parts.sort();
            parts.dedup();
        }
        let repository = |name: &str| match name.parse::<Reference>() {
            Ok(name) => name.repository(),
            Err(_) => name.to_owned(),
        };
        Ok(Candidate {
            repository: image.name().map(repository),
            may_go: matches && self.users.find(self.layout, image).is_none(),
            created: known.created,
            used: self.used(image),
            parts,
        })
    }

    /// Returns when an image was used last, or came.
    fn used(&self, image: &Image) -> Option<SystemTime> {
        let digest = image.digest().parse().ok()?;
        match self.store {
            Some(store) => store.last_used(&digest),
            None => self.layout.arrived(&digest),
        }
    }

    /// Keeps what has no name and says something of an image that stays: a signature, say. Distribution-spec, Referrers.
    fn spare_referrers(&self, index: &Index, chosen: &mut HashSet<usize>) {
        let images = index.images();
        let subject = |image: &Image| -> Option<String> {
            let desc = image.descriptor().ok()?;
            let bytes = self.layout.read(&desc).ok()?;
            let Ok(Document::Manifest(manifest)) = image::parse(&bytes, &image::media_type(&desc))
            else {
                return None;
            };
            Some(manifest.subject().as_ref()?.digest().to_string())
        };
        let unnamed = chosen.iter().filter(|at| images[**at].name().is_none());
        let referrers: Vec<(usize, String)> =
            unnamed.filter_map(|at| Some((*at, subject(&images[*at])?))).collect();
        if referrers.is_empty() {
            return;
        }
        let mut stays: HashSet<String> = HashSet::new();
        let keep = |at: usize, stays: &mut HashSet<String>| {
            let reach = self.layout.reach(&images[at]).unwrap_or_default();
            stays.extend(reach.iter().map(Digest::to_string));
            stays.insert(images[at].digest().to_owned());
        };
        (0..images.len()).filter(|at| !chosen.contains(at)).for_each(|at| keep(at, &mut stays));
        // A referrer may have referrers.
        while let Some((at, _)) =
            referrers.iter().find(|(at, subject)| chosen.contains(at) && stays.contains(subject))
        {
            chosen.remove(at);
            keep(*at, &mut stays);
        }
    }
}

/// Returns the chain IDs of an image's layers, in digits: the keys of what is unpacked of it.
fn chains(config: &ImageConfiguration) -> Vec<String> {
    let Ok(diff_ids) = image::diff_ids(config) else { return Vec::new() };
    let chains = match diff_ids.is_empty() {
        true => vec![Digest::of(b"")],
        false => image::chain_ids(&diff_ids),
    };
    chains.iter().map(Digest::hex).collect()
}
