//! What is made of the result besides an image in the store: `-o`.
//!
//! ```text
//! type=local,dest=DIR                   its files                    -o DIR
//! type=tar,dest=FILE|-                  its files, as a tar          -o -
//! type=oci|docker,dest=FILE|-           the image, as an archive
//! type=oci|docker,tar=false,dest=DIR    the image, in a layout
//! type=image,name=A,push=true           the image in the store, and in a registry: type=registry
//! type=cacheonly                        nothing
//! ```
//!
//! Spelt as BuildKit spells it. A key that is not known here is an error, and so is
//! a value that asks for what is not done. A file appears when all of it is there.

pub mod deliver;
pub mod depfile;
pub mod local;
pub mod report;
pub mod tar;
mod walk;

use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context, Error, Result, anyhow, bail, ensure};
use common::archive::{self, Archive, Format};
use common::cli::{self, csv};
use common::error::Hint;
use common::layer::pack::Compression;
use common::layout::Layout;
use common::reference::Reference;
use oci_spec::image::Descriptor;

use crate::error::nearest;

/// What `-o` says.
#[derive(Clone, Debug, PartialEq)]
pub struct Output {
    /// What is made, and where it goes.
    pub kind: Kind,
    /// Names that the image gets, beside those of `-t`.
    pub names: Vec<Reference>,
    /// How layers are packed, if it says so.
    pub compression: Option<Compression>,
    /// What the manifest gets.
    pub annotations: Vec<(String, String)>,
}

/// What is made of the result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Its files, in a directory.
    Local {
        /// The directory.
        dest: PathBuf,
        /// Whether each platform has a directory of its own, if it says so.
        platform_split: Option<bool>,
    },
    /// Its files, as a tar.
    Tar {
        /// The file; none is stdout.
        dest: Option<PathBuf>,
        /// Whether each platform has a directory of its own, if it says so.
        platform_split: Option<bool>,
    },
    /// The image, as an archive.
    Archive {
        /// Whether it is for Docker, or a layout.
        docker: bool,
        /// The file; none is stdout.
        dest: Option<PathBuf>,
    },
    /// The image, in a layout.
    Layout {
        /// The directory of the layout.
        dir: PathBuf,
    },
    /// The image, in the store.
    Image {
        /// Whether it goes to the registry of its name as well.
        push: bool,
    },
    /// Nothing.
    Nothing,
}

/// The types, as BuildKit calls them.
const TYPES: [&str; 7] = ["local", "tar", "oci", "docker", "image", "registry", "cacheonly"];

/// The keys of one type.
fn keys(kind: &str) -> Vec<&'static str> {
    const IMAGE: [&str; 6] = [
        "name",
        "compression",
        "compression-level",
        "force-compression",
        "oci-mediatypes",
        "rewrite-timestamp",
    ];
    let own: &[&str] = match kind {
        "local" | "tar" => return vec!["dest", "platform-split"],
        "oci" | "docker" => &["dest", "tar"],
        "image" | "registry" => &["push"],
        _ => return Vec::new(),
    };
    [own, &IMAGE].concat()
}

impl FromStr for Output {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let fields = csv(text)?;
        if let [only] = &fields[..]
            && only == text
            && !text.starts_with("type=")
        {
            let kind = match text {
                "-" => Kind::Tar { dest: None, platform_split: None },
                dest => Kind::Local { dest: dest.into(), platform_split: None },
            };
            return Ok(Output::new(kind));
        }
        let mut pairs = Vec::new();
        for field in &fields {
            let pair = field.split_once('=').with_context(|| format!("{field}: no ="));
            let (key, value) = pair.hint(|| "type=local,dest=DIR".to_string())?;
            pairs.push((key.trim().to_ascii_lowercase(), value.to_owned()));
        }
        let mut kind = None;
        pairs.retain(|(key, value)| match key.as_str() {
            "type" => {
                kind = Some(value.clone());
                false
            }
            _ => true,
        });
        let kind = kind.context("no type").hint(|| format!("type= {}", TYPES.join(", ")))?;
        if !TYPES.contains(&kind.as_str()) {
            let unknown: Result<()> = Err(anyhow!("unknown type {kind}"));
            unknown.hint(|| TYPES.join(", "))?;
        }
        Fields { kind: &kind, pairs: &pairs }.output()
    }
}

/// The fields of an option, and what type they are for.
struct Fields<'a> {
    kind: &'a str,
    pairs: &'a [(String, String)],
}

impl Fields<'_> {
    fn output(&self) -> Result<Output> {
        let is_image = !matches!(self.kind, "local" | "tar" | "cacheonly");
        let mut annotations = Vec::new();
        let known = keys(self.kind);
        for (key, value) in self.pairs {
            if let Some(name) = key.strip_prefix("annotation.").filter(|_| is_image) {
                ensure!(!name.is_empty(), "an annotation without a name");
                annotations.push((name.to_owned(), value.clone()));
            } else if !known.contains(&key.as_str()) {
                let unknown: Result<()> = Err(anyhow!("type={} has no key {key}", self.kind));
                unknown.hint(|| match nearest(key, known.iter().copied()) {
                    Some(near) => near.into(),
                    None if known.is_empty() => "it has none".into(),
                    None => known.join(", "),
                })?;
            }
        }
        for (at, (key, _)) in self.pairs.iter().enumerate() {
            ensure!(!self.pairs[..at].iter().any(|(other, _)| other == key), "two values of {key}");
        }
        let refused = |key: &str, value: bool| match self.boolean(key)? {
            Some(said) if said == value => bail!("{key}={value} is not done here"),
            _ => Ok(()),
        };
        refused("force-compression", true)?;
        refused("oci-mediatypes", false)?;
        refused("rewrite-timestamp", false)?;
        let names = self.get("name").map_or(Ok(Vec::new()), |names| {
            names.split(',').map(|name| name.trim().parse::<Reference>()).collect()
        })?;
        Ok(Output { names, compression: self.compression()?, annotations, ..self.kind()? })
    }

    fn kind(&self) -> Result<Output> {
        let dest = self.get("dest").filter(|dest| !dest.is_empty());
        let file = || dest.filter(|dest| *dest != "-").map(PathBuf::from);
        let dir = || {
            let dir = dest.filter(|dest| *dest != "-").map(PathBuf::from);
            dir.with_context(|| format!("type={} needs a directory", self.kind))
                .hint(|| format!("type={},dest=DIR", self.kind))
        };
        let platform_split = self.boolean("platform-split")?;
        let is_file = self.boolean("tar")?.unwrap_or(true);
        Ok(Output::new(match self.kind {
            "local" => Kind::Local { dest: dir()?, platform_split },
            "tar" => Kind::Tar { dest: file(), platform_split },
            "oci" | "docker" if !is_file => Kind::Layout { dir: dir()? },
            // Docker takes it then, and Docker is us.
            "docker" if dest.is_none() => Kind::Image { push: false },
            kind @ ("oci" | "docker") => Kind::Archive { docker: kind == "docker", dest: file() },
            "image" => Kind::Image { push: self.boolean("push")?.unwrap_or(false) },
            "registry" => Kind::Image { push: self.boolean("push")?.unwrap_or(true) },
            _ => Kind::Nothing,
        }))
    }

    fn get(&self, key: &str) -> Option<&str> {
        self.pairs.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
    }

    fn boolean(&self, key: &str) -> Result<Option<bool>> {
        self.get(key).map(|value| boolean(key, value)).transpose()
    }

    fn compression(&self) -> Result<Option<Compression>> {
        let level = self.get("compression-level");
        let format = match self.get("compression") {
            Some("uncompressed") => "none",
            Some(format) => format,
            None if level.is_some() => "gzip",
            None => return Ok(None),
        };
        match level {
            Some(level) => format!("{format}:{level}").parse().map(Some),
            None => format.parse().map(Some),
        }
    }
}

/// Reads the value of a key that is true or false.
pub(crate) fn boolean(key: &str, value: &str) -> Result<bool> {
    cli::boolean(value).with_context(|| format!("{key}={value}: neither true nor false"))
}

impl Output {
    /// Returns the file that it is, if it is one.
    pub fn file(&self) -> Option<&Path> {
        match &self.kind {
            Kind::Tar { dest, .. } | Kind::Archive { dest, .. } => dest.as_deref(),
            _ => None,
        }
    }

    /// Returns the file or the directory that is written to.
    pub fn place(&self) -> Option<&Path> {
        match &self.kind {
            Kind::Local { dest: dir, .. } | Kind::Layout { dir } => Some(dir),
            _ => self.file(),
        }
    }

    fn new(kind: Kind) -> Output {
        Output { kind, names: Vec::new(), compression: None, annotations: Vec::new() }
    }
}

/// Writes an image as an archive, under these names.
pub fn archive(
    layout: &Layout,
    desc: &Descriptor,
    names: &[Reference],
    docker: bool,
    output: cli::Output,
) -> Result<()> {
    let image = |name: Option<Reference>| archive::Image { layout, desc: desc.clone(), name };
    let images: Vec<archive::Image> = match names {
        [] => vec![image(None)],
        names => names.iter().map(|name| image(Some(name.clone()))).collect(),
    };
    // Docker reads both, and so the one that has its layers packed and named by their digests.
    let format = if docker { Format::Both } else { Format::Oci };
    let archive = Archive::new(&images, format, &std::collections::BTreeSet::new())?;
    archive.warnings.iter().for_each(cli::warn);
    output.write(|file, place| archive.write(file, place, false))
}

#[cfg(test)]
mod tests;
