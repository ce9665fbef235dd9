//! Under which repositories and tags the images of a layout are offered.
//!
//! ```text
//! name in the layout              offered as
//! docker.io/library/app:1         app:1  library/app:1  docker.io/library/app:1
//! docker.io/team/app:1            team/app:1  docker.io/team/app:1
//! ghcr.io/team/app:2              team/app:2  ghcr.io/team/app:2
//! localhost:5000/team/app:3       team/app:3
//! N                               N:latest, as Docker reads it
//! ```
//!
//! Of two images with one repository and tag, the one wins that the name means
//! to Docker: docker.io's. Otherwise it is the one whose registry comes first in
//! the alphabet. The other one still has the spelling with its registry. What
//! is pushed gets the name that Docker reads, so it is what is pulled again.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, Metadata};
use std::os::unix::fs::MetadataExt;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;
use common::error::At;
use common::layout::{Image, Index, Layout};
use common::reference::{DOCKER_HUB, Reference};

use crate::route;

/// What a layout offers, as its index.json was at some time.
pub struct Names {
    index: Index,
    repositories: BTreeMap<String, Repository>,
    listed: BTreeSet<String>,
    loose: Vec<usize>,
}

/// The images of a repository: where in the index they stand.
#[derive(Default)]
pub struct Repository {
    pub tags: BTreeMap<String, usize>,
    /// Those that are named by digest alone.
    pub digests: Vec<usize>,
}

impl Names {
    /// Sorts the images of an index into repositories.
    pub fn of(index: Index) -> Names {
        let mut named: Vec<(Reference, usize)> = Vec::new();
        let mut loose = Vec::new();
        for (at, image) in index.images().iter().enumerate() {
            let name = image.name().and_then(|name| name.parse::<Reference>().ok());
            match name {
                Some(name) if route::is_name(name.path()) => named.push((name, at)),
                _ => loose.push(at),
            }
        }
        // Of several entries with one name the first wins, as it does for every reader of the index.
        named.sort_by(|(a, _), (b, _)| a.domain().cmp(b.domain()));
        let mut repositories: BTreeMap<String, Repository> = BTreeMap::new();
        for meant in [true, false] {
            for (name, at) in &named {
                for spelling in spellings(name) {
                    if means(&spelling, name) == meant {
                        repositories.entry(spelling).or_default().add(name, *at);
                    }
                }
            }
        }
        let won = |name: &Reference, at: usize, spelling: &String| match name.tag() {
            Some(tag) => repositories.get(spelling).is_some_and(|it| it.tags.get(tag) == Some(&at)),
            None => true,
        };
        let shortest = |(name, at): &(Reference, usize)| {
            spellings(name).into_iter().find(|spelling| won(name, *at, spelling))
        };
        let listed = named.iter().filter_map(shortest).collect();
        Names { index, repositories, listed, loose }
    }

    /// Returns the repositories, each in its shortest spelling, in order.
    pub fn listed(&self) -> &BTreeSet<String> {
        &self.listed
    }

    /// Returns the repository of this name, in any spelling.
    pub fn repository(&self, name: &str) -> Option<&Repository> {
        let found = self.repositories.get(name);
        // `docker.io/app`, say.
        found.or_else(|| self.repositories.get(&meant(name, "").ok()?.repository()))
    }

    /// Returns the image that a tag means.
    pub fn tagged(&self, name: &str, tag: &str) -> Option<&Image> {
        Some(self.image(*self.repository(name)?.tags.get(tag)?))
    }

    /// Returns the images of no repository: without a name, or with one that is no repository's.
    pub fn loose(&self) -> impl Iterator<Item = &Image> {
        self.loose.iter().map(|at| self.image(*at))
    }

    /// Returns the images of a repository, once for each name.
    pub fn images(&self, repository: &Repository) -> impl Iterator<Item = &Image> {
        let places = repository.tags.values().chain(&repository.digests);
        places.copied().collect::<Vec<_>>().into_iter().map(|at| self.image(at))
    }

    fn image(&self, at: usize) -> &Image {
        &self.index.images()[at]
    }
}

impl Repository {
    fn add(&mut self, name: &Reference, at: usize) {
        match name.tag() {
            Some(tag) => drop(self.tags.entry(tag.into()).or_insert(at)),
            None => self.digests.push(at),
        }
    }
}

/// Returns the name that Docker reads in a repository and what follows it: `:TAG` or `@DIGEST`.
///
/// Where it would read none, as in one that begins like a registry but is none, it is Docker Hub's.
pub fn meant(repository: &str, rest: &str) -> Result<Reference> {
    format!("{repository}{rest}")
        .parse()
        .or_else(|_| format!("{DOCKER_HUB}/{repository}{rest}").parse())
}

/// Returns whether `spelling` means the repository of `name`.
fn means(spelling: &str, name: &Reference) -> bool {
    meant(spelling, "").is_ok_and(|read| read.repository() == name.repository())
}

/// Returns the repositories under which an image of this name is offered, the shortest first.
fn spellings(name: &Reference) -> Vec<String> {
    let mut spellings = Vec::new();
    if let (DOCKER_HUB, Some(short)) = (name.domain(), name.path().strip_prefix("library/"))
        && !short.contains('/')
    {
        spellings.push(short.to_owned());
    }
    spellings.push(name.path().to_owned());
    // A port or a capital is not of the grammar: such a registry has no spelling of its own.
    spellings.extend(Some(name.repository()).filter(|whole| route::is_name(whole)));
    spellings
}

/// The names of a layout, read again when its index has changed.
pub struct Current {
    layout: &'static Layout,
    read: Mutex<Option<Read>>,
}

struct Read {
    /// As long as it is open, no other file has its number.
    file: File,
    seen: Stamp,
    names: Arc<Names>,
}

/// What tells two versions of a file apart.
type Stamp = (u64, u64, u64, (i64, i64), (i64, i64));

impl Current {
    pub fn new(layout: &'static Layout) -> Current {
        Current { layout, read: Mutex::default() }
    }

    /// Returns the names as they are now.
    pub fn get(&self) -> Result<Arc<Names>> {
        let path = self.layout.dir().join("index.json");
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let now = stamp(&std::fs::metadata(&path).at(&path)?);
            if let Some(read) = &*read
                && read.seen == now
                && stamp(&read.file.metadata().at(&path)?) == now
            {
                return Ok(read.names.clone());
            }
            let file = File::open(&path).at(&path)?;
            let seen = stamp(&file.metadata().at(&path)?);
            let names = Arc::new(Names::of(self.layout.index()?));
            // If it was replaced in between, the next round sees that.
            *read = Some(Read { file, seen, names });
        }
    }
}

fn stamp(metadata: &Metadata) -> Stamp {
    let (mtime, ctime) =
        ((metadata.mtime(), metadata.mtime_nsec()), (metadata.ctime(), metadata.ctime_nsec()));
    (metadata.dev(), metadata.ino(), metadata.len(), mtime, ctime)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    /// Returns what a layout with these names offers; the image of a name is told by its number.
    fn names(names: &[&str]) -> Names {
        let image = |(at, name): (usize, &&str)| {
            json!({
                "mediaType": "application/vnd.oci.image.manifest.v1+json", "size": at,
                "digest": format!("sha256:{at:064x}"),
                "annotations": { "org.opencontainers.image.ref.name": name },
            })
        };
        let manifests: Vec<_> = names.iter().enumerate().map(image).collect();
        let index = json!({ "schemaVersion": 2, "manifests": manifests }).to_string();
        Names::of(Index::parse(index.as_bytes()).unwrap())
    }

    fn number(names: &Names, repository: &str, tag: &str) -> Option<u64> {
        Some(names.tagged(repository, tag)?.descriptor().unwrap().size())
    }

    #[test]
    fn an_image_is_offered_under_its_spellings() {
        let names = names(&[
            "docker.io/library/app:1",
            "docker.io/team/app:1",
            "ghcr.io/team/app:2",
            "localhost:5000/team/app:3",
            "v1",
        ]);
        let table = [
            ("app", "1", Some(0)),
            ("library/app", "1", Some(0)),
            ("docker.io/library/app", "1", Some(0)),
            ("docker.io/app", "1", Some(0)),
            ("team/app", "1", Some(1)),
            ("team/app", "2", Some(2)),
            ("ghcr.io/team/app", "2", Some(2)),
            ("ghcr.io/team/app", "1", None),
            ("team/app", "3", Some(3)),
            ("v1", "latest", Some(4)),
        ];
        for (repository, tag, found) in table {
            assert_eq!(number(&names, repository, tag), found, "{repository}:{tag}");
        }
        let listed: Vec<&str> = names.listed().iter().map(String::as_str).collect();
        assert_eq!(listed, ["app", "team/app", "v1"]);
    }

    #[test]
    fn of_two_the_one_that_docker_means_wins() {
        let names = names(&[
            "quay.io/team/app:1",
            "ghcr.io/team/app:1",
            "docker.io/team/app:1",
            "quay.io/app:1",
            "docker.io/library/app:1",
            "quay.io/team/tool:1",
            "ghcr.io/team/tool:1",
            "localhost:5000/team/tool:1",
            "docker.io/ghcr.io/team/app:1",
        ]);
        let table = [
            ("team/app", 2),
            ("ghcr.io/team/app", 1),
            ("quay.io/team/app", 0),
            ("app", 4),
            ("quay.io/app", 3),
            ("team/tool", 6),
            ("quay.io/team/tool", 5),
        ];
        for (repository, found) in table {
            assert_eq!(number(&names, repository, "1"), Some(found), "{repository}");
        }
        let listed: Vec<&str> = names.listed().iter().map(String::as_str).collect();
        let expected = [
            "app",
            "docker.io/ghcr.io/team/app",
            "ghcr.io/team/app",
            "quay.io/app",
            "quay.io/team/app",
            "quay.io/team/tool",
            "team/app",
            "team/tool",
        ];
        assert_eq!(listed, expected);
    }

    #[test]
    fn a_name_by_digest_is_a_repository_without_a_tag() {
        let digest = format!("sha256:{:064x}", 7);
        let names = names(&[&format!("docker.io/library/app@{digest}"), "Not A Name"]);
        let app = names.repository("app").unwrap();
        assert!(app.tags.is_empty());
        assert_eq!((names.images(app).count(), names.loose().count()), (1, 1));
        assert!(names.listed().contains("app") && names.repository("Not A Name").is_none());
    }

    proptest! {
        /// Whatever is pushed is pulled again by the name that it was pushed by.
        #[test]
        fn a_repository_that_is_pushed_to_is_there(
            name in "((index.docker.io|docker.io|localhost|library)/)?[a-z0-9]{1,5}((\\.|_|__|-{1,3})[a-z0-9]{1,4}){0,2}(/[a-z0-9]{1,5}){0,3}",
        ) {
            prop_assume!(route::is_name(&name));
            let full = meant(&name, ":tag").unwrap().full();
            let names = names(&["other.io/x:tag", &full, "another.io/x:tag"]);
            prop_assert_eq!(number(&names, &name, "tag"), Some(1), "{}", full);
        }
    }
}
