//! An image as the user names it: DESIGN's contract 1.
//!
//! ```text
//! NAME[:TAG][@DIGEST]      in the store
//! sha256:HEX  HEX          the image ID, or an unambiguous prefix of 6 digits or more
//! DIR[:TAG][@DIGEST]       an OCI layout; begins with / ./ or ../
//! FILE                     an archive; the same
//! oci:DIR[:TAG]  oci-archive:FILE[:TAG]  docker-archive:FILE[:REF]
//! -                        the image on stdin: its reference line, or its archive
//! ```

use std::fmt::{self, Display};
use std::io::{IsTerminal, Read};
use std::path::PathBuf;
use std::str::FromStr;

use anyhow::{Context, Error, Result, anyhow, bail, ensure};
use oci_spec::image::Descriptor;

use super::Dir;
use crate::digest::Digest;
use crate::error::{Hint, Usage};
use crate::layout::{Index, Layout};
use crate::reference::{Reference, check_typography};
use crate::store::Store;

/// The fewest digits of an image ID that are read as one.
const PREFIX: usize = 6;
/// The longest line on stdin that is read as a reference.
const LINE_LIMIT: usize = 4096;

/// An image as the user names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operand {
    /// A name in the store.
    Name(Reference),
    /// Digits of an image ID, which may be a name as well: a name that is there wins.
    Id(String, Option<Reference>),
    /// A directory with a layout, or an archive: what it is shows when it is opened.
    Path(Place),
    /// A directory with a layout, as skopeo spells it.
    Layout(Place),
    /// A file with an OCI or a Docker archive, as skopeo spells it.
    Archive(Place),
    /// The image on stdin.
    Stdin,
}

/// An image in a directory or a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    path: PathBuf,
    name: Option<String>,
    digest: Option<Digest>,
}

/// An image that an operand led to.
#[derive(Debug)]
pub struct Found {
    /// Where its blobs are.
    pub layout: Layout,
    /// Its manifest, or the index of its manifests.
    pub desc: Descriptor,
    /// What it is called, where it has a name.
    pub name: Option<Reference>,
    /// The directory that the user named, where it is not the store.
    pub dir: Option<Dir>,
}

impl Operand {
    /// Returns the image.
    pub fn find(&self, store: &Store) -> Result<Found> {
        let in_store =
            |desc, name| Ok(Found { layout: store.images.clone(), desc, name, dir: None });
        match self {
            Operand::Name(name) => in_store(store.images.find(name)?, Some(name.clone())),
            Operand::Id(digits, name) => {
                let index = store.images.index()?;
                if let Some(name) = name
                    && let Some(desc) = index.find(&name.full())?
                {
                    return in_store(desc, Some(name.clone()));
                }
                in_store(by_prefix(&store.images, &index, digits)?, None)
            }
            Operand::Path(place) if place.path.is_file() => archive(place),
            Operand::Path(place) | Operand::Layout(place) => place.find(),
            Operand::Archive(place) => archive(place),
            Operand::Stdin => stdin_line()?.find(store),
        }
    }

    /// Returns the operand that a line on stdin holds, where this one is `-`; else itself.
    pub fn read(self) -> Result<Operand> {
        match self {
            Operand::Stdin => stdin_line(),
            operand => Ok(operand),
        }
    }
}

impl Place {
    /// Splits `DIR[:TAG][@DIGEST]`: the directory ends at its first `:` or `@`.
    fn parse(text: &str) -> Result<Place> {
        let (path, rest) = match text.find([':', '@']) {
            Some(at) => text.split_at(at),
            None => (text, ""),
        };
        ensure!(!path.is_empty(), "{text:?}: the path is empty");
        let (name, digest) = match rest.rsplit_once('@') {
            Some((name, digest)) => (name, Some(digest.parse()?)),
            None => (rest, None),
        };
        let name = name.strip_prefix(':').map(str::to_owned);
        ensure!(name.as_deref() != Some(""), "{text:?}: the name after the colon is empty");
        Ok(Place { path: path.into(), name, digest })
    }

    fn find(&self) -> Result<Found> {
        let layout = Layout::open(&self.path)?;
        let path = self.path.display();
        let index = layout.index()?;
        let desc = match (&self.digest, &self.name) {
            (Some(digest), _) => layout.find_digest(digest).with_context(|| path.to_string())?,
            (None, Some(name)) => index
                .find(name)?
                .ok_or_else(|| anyhow!("{path}:{name}: no such image"))
                .hint(|| offer(&index))?,
            (None, None) => match index.images() {
                [only] => only.descriptor()?,
                [] => bail!("{path}: a layout without images"),
                _ => return Err(anyhow!("{path}: which image?")).hint(|| offer(&index)),
            },
        };
        let name = match &self.name {
            Some(name) => name.parse().ok(),
            None => index.images().iter().find_map(|image| {
                match image.digest() == desc.digest().to_string() {
                    true => image.name()?.parse().ok(),
                    false => None,
                }
            }),
        };
        Ok(Found { layout, desc, name, dir: Some(Dir::new(&self.path)?) })
    }
}

fn archive(place: &Place) -> Result<Found> {
    bail!("{}: archives are not read yet", place.path.display())
}

/// Returns the image whose ID begins with `digits`.
fn by_prefix(layout: &Layout, index: &Index, digits: &str) -> Result<Descriptor> {
    if let Ok(digest) = format!("sha256:{digits}").parse::<Digest>() {
        return layout.find_digest(&digest);
    }
    let prefix = format!("sha256:{digits}");
    let mut found: Vec<_> =
        index.images().iter().filter(|image| image.digest().starts_with(&prefix)).collect();
    found.dedup_by_key(|image| image.digest().to_owned());
    found.sort_by_key(|image| image.digest().to_owned());
    found.dedup_by_key(|image| image.digest().to_owned());
    match found[..] {
        [only] => only.descriptor(),
        [] => Err(anyhow!("{digits}: no such image")).hint(|| "img-ls for what is here".into()),
        _ => {
            let ids: Vec<&str> = found.iter().map(|image| image.digest()).collect();
            Err(anyhow!("{digits}: ambiguous")).hint(|| format!("it begins {}", ids.join(" and ")))
        }
    }
}

/// Lists the images of a layout, for a hint.
fn offer(index: &Index) -> String {
    let names: Vec<&str> = index.names().take(10).collect();
    match names.is_empty() {
        true => "none has a name; DIR@DIGEST takes one".into(),
        false => format!("it holds {}", names.join(", ")),
    }
}

/// Reads the line on stdin that names an image.
///
/// Byte by byte, as the shell's `read` does: what follows the newline is the container's.
fn stdin_line() -> Result<Operand> {
    let mut stdin = std::fs::File::from(
        rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3).context("stdin")?,
    );
    if stdin.is_terminal() {
        let error = Error::new(Usage("-: the image comes on stdin, which is a terminal".into()));
        return Err(error).hint(|| "img-pull alpine | ... -".into());
    }
    let mut line = Vec::new();
    let mut byte = [0];
    loop {
        match stdin.read(&mut byte).context("stdin")? {
            0 => bail!("no image on stdin: did the command before this one fail?"),
            _ if byte[0] == b'\n' => break,
            _ if line.len() == LINE_LIMIT => bail!("stdin: no reference line, and no archive"),
            _ => line.push(byte[0]),
        }
    }
    let line =
        String::from_utf8(line).map_err(|_| anyhow!("stdin: no reference line, and no archive"))?;
    match line.parse().with_context(|| "stdin".to_owned())? {
        Operand::Stdin => bail!("stdin: -: not an image"),
        operand => Ok(operand),
    }
}

impl FromStr for Operand {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let hex = |text: &str| text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        let is_path = matches!(text, "." | "..")
            || ["/", "./", "../"].iter().any(|start| text.starts_with(start));
        if text == "-" {
            return Ok(Operand::Stdin);
        }
        if is_path {
            return Place::parse(text).map(Operand::Path);
        }
        check_typography(text)?;
        if let Some(rest) = text.strip_prefix("oci:") {
            return Place::parse(rest).map(Operand::Layout);
        }
        if let Some(rest) =
            text.strip_prefix("oci-archive:").or_else(|| text.strip_prefix("docker-archive:"))
        {
            return Place::parse(rest).map(Operand::Archive);
        }
        if let Some(digits) = text.strip_prefix("sha256:") {
            ensure!(
                hex(digits) && (PREFIX..=64).contains(&digits.len()),
                "{text:?}: not an image ID (sha256: and {PREFIX} to 64 hexadecimal digits)"
            );
            return Ok(Operand::Id(digits.into(), None));
        }
        if hex(text) && (PREFIX..=64).contains(&text.len()) {
            return Ok(Operand::Id(text.into(), text.parse().ok()));
        }
        text.parse().map(Operand::Name)
    }
}

impl Display for Operand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Operand::Name(name) => Display::fmt(name, f),
            Operand::Id(digits, _) => f.write_str(digits),
            Operand::Path(place) | Operand::Layout(place) | Operand::Archive(place) => {
                Display::fmt(place, f)
            }
            Operand::Stdin => f.write_str("-"),
        }
    }
}

impl Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.path.display())?;
        if let Some(name) = &self.name {
            write!(f, ":{name}")?;
        }
        match &self.digest {
            Some(digest) => write!(f, "@{digest}"),
            None => Ok(()),
        }
    }
}
