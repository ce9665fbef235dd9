//! What `--build-context NAME=...` calls by a name: a directory, an image, a repository, a tar on the web.
//!
//! Images in layouts and archives are spelled as BuildKit does it, or as operands are.

use std::path::PathBuf;
use std::str::FromStr;

use anyhow::{Context, Error, Result, anyhow, ensure};
use common::cli::Operand;
use common::error::Hint;
use common::reference::Reference;

use super::repository::Repository;
use super::{Elsewhere, Tree, context};
use crate::dockerfile::stages;

/// A name, and what it stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedContext {
    /// The name, as [`stages::key`] has it: it is written like an image's.
    pub name: String,
    /// What it stands for.
    pub location: Location,
}

/// Where a named context is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Location {
    /// A directory of this host.
    Directory(PathBuf),
    /// An image: `docker-image://`, `oci-layout://DIR[:TAG][@DIGEST]`, `oci-archive:FILE`.
    Image(Operand),
    /// A commit of a repository.
    Git(Repository),
    /// A tar, or a single file, that is fetched.
    Url(String),
}

impl NamedContext {
    /// Returns where the ignore file of a directory is, if it may have one.
    pub fn ignore_file(&self) -> Option<PathBuf> {
        match &self.location {
            Location::Directory(dir) => Some(dir.join(".dockerignore")),
            _ => None,
        }
    }
}

impl FromStr for NamedContext {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let pair = text.split_once('=').with_context(|| format!("{text:?}: no ="));
        let (name, value) = pair.hint(|| "NAME=DIR, or NAME=docker-image://IMAGE".to_string())?;
        let name: Reference = name.parse()?;
        ensure!(!value.is_empty(), "{name}: it stands for nothing");
        let location = value.parse().with_context(|| name.to_string())?;
        Ok(NamedContext { name: stages::key(&name.to_string()), location })
    }
}

impl FromStr for Location {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        if let Some(image) = text.strip_prefix("docker-image://") {
            return image.parse().map(Operand::Name).map(Location::Image);
        }
        if let Some(layout) = text.strip_prefix("oci-layout://") {
            return format!("oci:{layout}").parse().map(Location::Image);
        }
        if ["oci:", "oci-archive:", "docker-archive:"].iter().any(|start| text.starts_with(start)) {
            return text.parse().map(Location::Image);
        }
        if PathBuf::from(text).is_dir() {
            return Ok(Location::Directory(text.into()));
        }
        if let Some(repository) = Repository::parse(text)? {
            return Ok(Location::Git(repository));
        }
        if text.starts_with("http://") || text.starts_with("https://") {
            return Ok(Location::Url(text.into()));
        }
        // It need not be there yet.
        match text.split_once("://") {
            Some((scheme, _)) if !text.starts_with('/') => Err(anyhow!("unknown {scheme}://"))
                .hint(|| {
                    "docker-image://, oci-layout://, https://, a repository or a directory".into()
                }),
            _ => Ok(Location::Directory(text.into())),
        }
    }
}

impl Location {
    /// Opens what is a tree of files; an image is none yet.
    pub fn open(&self, name: &str, elsewhere: &Elsewhere) -> Result<Option<Tree>> {
        match self {
            Location::Image(_) => Ok(None),
            Location::Directory(path) => {
                let tree = context::directory(path, name).map(Some);
                if !path.is_file() {
                    return tree;
                }
                tree.hint(|| format!("{name}=oci-archive:{}, if it is an image", path.display()))
            }
            Location::Git(repository) => {
                let checkout = super::git::context(repository, false, elsewhere)?;
                Ok(Some(Tree { name: name.into(), ..checkout.tree }))
            }
            Location::Url(url) => {
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
        let named = |text: &str| text.parse::<NamedContext>().unwrap();
        assert_eq!(named("src=/nope").location, Location::Directory("/nope".into()));
        assert_eq!(named("src=a=b").location, Location::Directory("a=b".into()));
        assert_eq!(named("src=nope:x").location, Location::Directory("nope:x".into()));
        let image = Location::Image(Operand::Name("alpine:3".parse().unwrap()));
        assert_eq!(named("alpine=docker-image://alpine:3").location, image);
        for (text, expected) in [
            ("oci-layout:///x/y:v1", "oci:/x/y:v1"),
            ("oci:y:v1", "oci:y:v1"),
            ("oci-archive:y.tar:v1", "oci-archive:y.tar:v1"),
            ("docker-archive:y.tar", "docker-archive:y.tar"),
        ] {
            let image = Location::Image(expected.parse().unwrap());
            assert_eq!(named(&format!("a={text}")).location, image);
        }
        assert!(matches!(named("a=https://h/b.git#v1").location, Location::Git(_)));
        assert!(matches!(named("a=git@h:b").location, Location::Git(_)));
        assert_eq!(named("a=https://h/b.tar").location, Location::Url("https://h/b.tar".into()));
        for bad in ["", "a", "=b", "a=", "A=b", "a=docker-image://", "a=s3://x", "a=oci-layout://"]
        {
            assert!(bad.parse::<NamedContext>().is_err(), "{bad}");
        }
    }
}
