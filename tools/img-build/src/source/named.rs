//! What `--build-context NAME=...` calls by a name: a directory, an image, a repository, a tar on the web.

use std::path::PathBuf;
use std::str::FromStr;

use anyhow::{Context, Error, Result, anyhow, ensure};
use common::cli::Operand;
use common::error::Hint;
use common::reference::Reference;

use super::repository::Repository;
use super::{Elsewhere, Tree, context};

/// A name, and what it stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    /// The name, as [`Named::key`] has it: it is written like an image's.
    pub name: String,
    /// What it stands for.
    pub place: Place,
}

/// Where a named context is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A directory of this host.
    Directory(PathBuf),
    /// An image: `docker-image://`.
    Image(Reference),
    /// An image in a layout: `oci-layout://DIR[:TAG][@DIGEST]`.
    Layout(Operand),
    /// A commit of a repository.
    Git(Repository),
    /// A tar, or a single file, that is fetched.
    Url(String),
}

impl Named {
    /// Returns how a name is kept: `app` for `docker.io/library/app:latest`. What is no image's name is its own key.
    pub fn key(name: &str) -> String {
        match name.parse::<Reference>() {
            Ok(name) => {
                let full = name.to_string();
                full.strip_suffix(":latest").unwrap_or(&full).to_owned()
            }
            Err(_) => name.to_owned(),
        }
    }
}

impl Named {
    /// Returns where the ignore file of a directory is, if it may have one.
    pub fn ignore_file(&self) -> Option<PathBuf> {
        match &self.place {
            Place::Directory(dir) => Some(dir.join(".dockerignore")),
            _ => None,
        }
    }
}

impl FromStr for Named {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let pair = text.split_once('=').with_context(|| format!("{text:?}: no ="));
        let (name, value) = pair.hint(|| "NAME=DIR, or NAME=docker-image://IMAGE".to_string())?;
        let name: Reference = name.parse()?;
        ensure!(!value.is_empty(), "{name}: it stands for nothing");
        let place = value.parse().with_context(|| name.to_string())?;
        Ok(Named { name: Named::key(&name.to_string()), place })
    }
}

impl FromStr for Place {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        if let Some(image) = text.strip_prefix("docker-image://") {
            return image.parse().map(Place::Image);
        }
        if let Some(layout) = text.strip_prefix("oci-layout://") {
            return format!("oci:{layout}").parse().map(Place::Layout);
        }
        if PathBuf::from(text).is_dir() {
            return Ok(Place::Directory(text.into()));
        }
        if let Some(repository) = Repository::parse(text)? {
            return Ok(Place::Git(repository));
        }
        if text.starts_with("http://") || text.starts_with("https://") {
            return Ok(Place::Url(text.into()));
        }
        // It need not be there yet.
        match text.split_once("://") {
            Some((scheme, _)) if !text.starts_with('/') => Err(anyhow!("unknown {scheme}://"))
                .hint(|| {
                    "docker-image://, oci-layout://, https://, a repository or a directory".into()
                }),
            _ => Ok(Place::Directory(text.into())),
        }
    }
}

impl Place {
    /// Opens what is a tree of files; an image is none yet.
    pub fn open(&self, name: &str, elsewhere: &Elsewhere) -> Result<Option<Tree>> {
        match self {
            Place::Image(_) | Place::Layout(_) => Ok(None),
            Place::Directory(path) => context::directory(path, name).map(Some),
            Place::Git(repository) => {
                let checkout = super::git::checkout(repository, false, None, elsewhere)?;
                Ok(Some(Tree { name: name.into(), ..checkout.tree }))
            }
            Place::Url(url) => {
                let (tree, _) = context::fetched(url, name, elsewhere)?;
                Ok(Some(tree))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_stands_for_a_tree_or_an_image() {
        let named = |text: &str| text.parse::<Named>().unwrap();
        assert_eq!(named("src=/nope").place, Place::Directory("/nope".into()));
        assert_eq!(named("src=a=b").place, Place::Directory("a=b".into()));
        assert_eq!(named("src=nope:x").place, Place::Directory("nope:x".into()));
        let image = Place::Image("alpine:3".parse().unwrap());
        assert_eq!(named("alpine=docker-image://alpine:3").place, image);
        let Place::Layout(layout) = named("a=oci-layout:///x/y:v1").place else { panic!() };
        assert_eq!(layout.to_string(), "/x/y:v1");
        assert!(matches!(named("a=https://h/b.git#v1").place, Place::Git(_)));
        assert!(matches!(named("a=git@h:b").place, Place::Git(_)));
        assert_eq!(named("a=https://h/b.tar").place, Place::Url("https://h/b.tar".into()));
        for bad in ["", "a", "=b", "a=", "A=b", "a=docker-image://", "a=s3://x", "a=oci-layout://"]
        {
            assert!(bad.parse::<Named>().is_err(), "{bad}");
        }
    }

    #[test]
    fn names_that_are_one_image_are_one_name() {
        let table = [
            ("alpine", "alpine"),
            ("alpine:latest", "alpine"),
            ("docker.io/library/alpine", "alpine"),
            ("alpine:3", "alpine:3"),
            ("h:5000/a", "h:5000/a"),
            ("BASE", "BASE"),
        ];
        for (name, key) in table {
            assert_eq!(Named::key(name), key);
        }
    }
}
