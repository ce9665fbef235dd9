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

use std::collections::BTreeMap;
use std::fmt::{self, Display};
use std::fs::File;
use std::io::{IsTerminal, Read};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context, Error, Result, anyhow, bail, ensure};
use oci_spec::image::Descriptor;
use tempfile::TempDir;

use super::{Dir, is_path, temporary};
use crate::archive;
use crate::digest::Digest;
use crate::error::{self, At, Hint, Usage};
use crate::image;
use crate::layout::{Image, Index, Layout, Missing, Resolved, Writing, wrong_platform};
use crate::platform::Platform;
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
    /// Keeps the blobs of an archive where they can be read.
    _unpacked: Option<TempDir>,
}

/// There is no such image, as far as a layout's index says.
#[derive(Debug)]
pub struct NoSuchImage(String);

impl Display for NoSuchImage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: no such image", self.0)
    }
}

impl std::error::Error for NoSuchImage {}

/// What an operand means among the entries of a layout, to somebody who changes them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// The one with this name, as it is written there.
    Name(String),
    /// All with this digest.
    Image(String),
}

impl Found {
    /// Notes that the image is used now, if it is one of the store's.
    pub fn mark_used(&self, store: &Store) {
        if let (None, Ok(id)) = (&self.dir, image::digest(&self.desc)) {
            store.mark_used(&id);
        }
    }

    /// Returns the image for `platform`, or for this machine.
    pub fn resolve(&self, platform: Option<&Platform>) -> Result<Resolved> {
        let wanted = platform.cloned().unwrap_or_else(Platform::host);
        let image = self.layout.resolve(&self.desc, &wanted)?;
        let offered = image.platform();
        // A single image is what it is, unless the user asked for something else.
        if platform.is_some() && image.index.is_none() && wanted.rank(&offered).is_none() {
            return Err(wrong_platform(&[offered], &wanted));
        }
        Ok(image)
    }
}

impl Operand {
    /// Returns the operand for an archive in a file of any name.
    pub fn of_file(path: &std::path::Path) -> Operand {
        Operand::Archive(Place { path: path.into(), name: None, digest: None })
    }

    /// Returns the operand that is meant by `-`, and any other as it is.
    pub fn meant(self) -> Result<Operand> {
        match self {
            Operand::Stdin => match stdin()? {
                Opened::Elsewhere(operand) => Ok(operand),
                Opened::Archive(..) => bail!("stdin: an archive, and no name of an image"),
            },
            operand => Ok(operand),
        }
    }

    /// Returns the directory of the layout that is meant, if it is not the store.
    pub fn layout(&self) -> Option<&Path> {
        match self {
            Operand::Path(place) | Operand::Layout(place) => Some(&place.path),
            _ => None,
        }
    }

    /// Returns the directory or the file that is meant, if it is not the store.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Operand::Archive(place) => Some(&place.path),
            operand => operand.layout(),
        }
    }

    /// Returns which entries of `index` are meant.
    ///
    /// A name with a digest is that name, as long as it means that image; without a tag it is the latest, or
    /// the image if it has another tag of that repository.
    pub fn entry(&self, index: &Index) -> Result<Entry> {
        let absent = || NoSuchImage(self.to_string());
        let here = || "img-ls for what is here".to_owned();
        match self {
            Operand::Name(name) => {
                let found = match (named(index, &name.full(), name.digest())?, name.digest()) {
                    (None, Some(digest)) if !name.has_tag() => pinned(index, name, digest),
                    (found, _) => found,
                };
                found.ok_or_else(absent).hint(here)
            }
            Operand::Id(digits, name) => {
                let name = name.as_ref().map(Reference::full);
                if let Some(entry) = name.and_then(|name| named(index, &name, None).transpose()) {
                    return entry;
                }
                match format!("sha256:{digits}").parse::<Digest>() {
                    Ok(digest) => of_digest(index, &digest),
                    Err(_) => match begins_with(index, digits)? {
                        Some(image) => Ok(Entry::Image(image.digest().into())),
                        None => Err(absent()).hint(here),
                    },
                }
            }
            Operand::Path(place) | Operand::Layout(place) => match (&place.name, &place.digest) {
                (Some(name), digest) => named(index, name, digest.as_ref())?
                    .ok_or_else(absent)
                    .hint_if(|_| offer(index)),
                (None, Some(digest)) => of_digest(index, digest),
                (None, None) => match index.images() {
                    [only] => Ok(match only.name() {
                        Some(name) => Entry::Name(name.into()),
                        None => Entry::Image(only.digest().into()),
                    }),
                    [] => bail!("{self}: a layout without images"),
                    _ => Err(anyhow!("{self}: which image?")).hint_if(|_| offer(index)),
                },
            },
            Operand::Archive(_) => bail!("{self}: an archive, which is not changed"),
            Operand::Stdin => bail!("{self}: not an image"),
        }
    }

    /// Returns the image. An archive is unpacked for as long as the result lives.
    pub fn find(&self, store: &Store) -> Result<Found> {
        match self.open()? {
            Opened::Archive(archive, place) => {
                let cache = store.cache();
                std::fs::create_dir_all(&cache).at(&cache)?;
                let make = || tempfile::Builder::new().prefix("archive-").tempdir_in(&cache);
                let unpacked = temporary(make).at(&cache)?;
                let layout = Layout::create(unpacked.path().join("images"))?;
                let (desc, name) = load(archive, &place, &layout.writing()?)?;
                Ok(Found { layout, desc, name, dir: None, _unpacked: Some(unpacked) })
            }
            Opened::Elsewhere(operand) => operand.look_up(store),
        }
    }

    /// Returns the image; an archive is loaded into the store first, without a name.
    pub fn find_in_store(&self, store: &Store) -> Result<Found> {
        match self.open()? {
            Opened::Archive(archive, place) => {
                let writing = store.images.writing()?;
                let (desc, name) = load(archive, &place, &writing)?;
                writing.keep(&desc)?;
                Ok(Found { layout: store.images.clone(), desc, name, dir: None, _unpacked: None })
            }
            Opened::Elsewhere(operand) => operand.look_up(store),
        }
    }

    /// Opens what is an archive, and reads the line on stdin if that is meant.
    fn open(&self) -> Result<Opened> {
        let file = |place: &Place| -> Result<Opened> {
            let file = File::open(&place.path).at(&place.path)?;
            Ok(Opened::Archive(Box::new(file), place.clone()))
        };
        match self {
            Operand::Stdin => match stdin()? {
                Opened::Elsewhere(operand) => operand.open(),
                archive => Ok(archive),
            },
            Operand::Archive(place) => file(place),
            Operand::Path(place) if place.path.is_file() => file(place),
            operand => Ok(Opened::Elsewhere(operand.clone())),
        }
    }

    /// Returns the image of an operand that is no archive.
    fn look_up(&self, store: &Store) -> Result<Found> {
        let in_store = |desc, name| {
            let layout = store.images.clone();
            Ok(Found { layout, desc, name, dir: None, _unpacked: None })
        };
        match self {
            Operand::Name(name) => in_store(store.images.find(name)?, Some(name.clone())),
            Operand::Id(digits, name) => {
                let index = store.images.index()?;
                if let Some(name) = name
                    && let Some(desc) = index.find(&name.full())?
                {
                    return in_store(desc, Some(name.clone()));
                }
                match (by_prefix(&store.images, &index, digits)?, name) {
                    (Some(desc), _) => in_store(desc, None),
                    (None, Some(name)) => in_store(store.images.find(name)?, None),
                    (None, None) => Err(anyhow!("{digits}: no such image"))
                        .hint(|| "img-ls for what is here".into()),
                }
            }
            Operand::Path(place) | Operand::Layout(place) => place.find(),
            // `open` has seen to these.
            Operand::Archive(_) | Operand::Stdin => bail!("{self}: not an image"),
        }
    }
}

/// What an operand is, once it is looked at.
enum Opened {
    /// An archive, and which of its images.
    Archive(Box<dyn Read>, Place),
    /// A name, an ID or a layout.
    Elsewhere(Operand),
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
                .hint_if(|_| offer(&index))?,
            (None, None) => match index.images() {
                [only] => only.descriptor().with_context(|| path.to_string())?,
                [] => bail!("{path}: a layout without images"),
                _ => return Err(anyhow!("{path}: which image?")).hint_if(|_| offer(&index)),
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
        Ok(Found { layout, desc, name, dir: Some(Dir::new(&self.path)?), _unpacked: None })
    }
}

/// Loads an archive into a layout and returns the one image of it that is meant.
fn load(
    archive: Box<dyn Read>,
    place: &Place,
    into: &Writing,
) -> Result<(Descriptor, Option<Reference>)> {
    let loaded = archive::load(archive, into).with_context(|| place.path.display().to_string())?;
    let names = || loaded.iter().flat_map(|image| &image.names);
    let offer = || match names().next() {
        Some(_) => format!("it holds {}", names().cloned().collect::<Vec<_>>().join(", ")),
        None => "none has a name; FILE@DIGEST takes one".into(),
    };
    let wanted = |image: &&archive::Loaded| match (&place.digest, &place.name) {
        (Some(digest), _) => image.desc.digest().to_string() == digest.to_string(),
        (None, Some(name)) => image.names.iter().any(|other| same_name(other, name)),
        (None, None) => true,
    };
    let found: Vec<&archive::Loaded> = loaded.iter().filter(wanted).collect();
    match found[..] {
        [image] => {
            let name =
                place.name.as_ref().or(image.names.first()).and_then(|name| name.parse().ok());
            Ok((image.desc.clone(), name))
        }
        [] => Err(anyhow!("{place}: no such image")).hint(offer),
        _ => Err(anyhow!("{place}: which image?")).hint(offer),
    }
}

/// Returns the entry with this name, if it has the digest that is asked for.
fn named(index: &Index, name: &str, digest: Option<&Digest>) -> Result<Option<Entry>> {
    let Some(image) = index.entry(name) else { return Ok(None) };
    match digest.map(Digest::to_string) {
        Some(digest) if digest != image.digest() => {
            bail!("{name}: is {}, not {digest}", image.digest())
        }
        _ => Ok(image.name().map(|name| Entry::Name(name.into()))),
    }
}

/// Returns what a repository's name and a digest mean where no entry is named so.
fn pinned(index: &Index, name: &Reference, digest: &Digest) -> Option<Entry> {
    let images: Vec<&Image> = with_digest(index, digest).collect();
    let latest = index.entry(&format!("{}:latest", name.repository()));
    if let Some(latest) = latest
        && images.iter().any(|image| image.digest() == latest.digest())
    {
        return latest.name().map(|name| Entry::Name(name.into()));
    }
    let is_of = |image: &&Image| {
        let other = image.name().and_then(|other| other.parse::<Reference>().ok());
        other.is_some_and(|other| other.repository() == name.repository())
    };
    images.into_iter().find(is_of).map(|image| Entry::Image(image.digest().into()))
}

/// Returns the entries with this digest, and then those that were chosen from the index with this digest.
fn with_digest<'a>(index: &'a Index, digest: &'a Digest) -> impl Iterator<Item = &'a Image> {
    let text = digest.to_string();
    let images = index.images().iter();
    let chosen = images.clone().filter(|image| image.chosen_from().as_ref() == Some(digest));
    images.filter(move |image| image.digest() == text).chain(chosen)
}

/// Returns the image with this digest, or the one that was chosen from the index with this digest.
fn of_digest(index: &Index, digest: &Digest) -> Result<Entry> {
    match with_digest(index, digest).next() {
        Some(image) => Ok(Entry::Image(image.digest().into())),
        None => Err(NoSuchImage(digest.to_string())).hint(|| "img-ls for what is here".into()),
    }
}

/// Returns whether two names are one, as they stand or as Docker reads them.
fn same_name(a: &str, b: &str) -> bool {
    let full = |name: &str| name.parse::<Reference>().map(|name| name.full()).ok();
    a == b || (full(a).is_some() && full(a) == full(b))
}

/// Returns the image whose ID begins with `digits`, if there is one.
fn by_prefix(layout: &Layout, index: &Index, digits: &str) -> Result<Option<Descriptor>> {
    let prefix = format!("sha256:{digits}");
    if let Ok(digest) = prefix.parse::<Digest>() {
        return match layout.find_digest(&digest) {
            Err(err) if error::find::<Missing>(&err).is_some() => Ok(None),
            found => found.map(Some),
        };
    }
    begins_with(index, digits)?.map(Image::descriptor).transpose()
}

/// Returns an entry of the one image whose ID begins with `digits`, if there is one.
fn begins_with<'a>(index: &'a Index, digits: &str) -> Result<Option<&'a Image>> {
    let prefix = format!("sha256:{digits}");
    let begins = |image: &&Image| image.digest().starts_with(&prefix);
    let found: BTreeMap<&str, &Image> =
        index.images().iter().filter(begins).map(|image| (image.digest(), image)).collect();
    match found.len() {
        0 | 1 => Ok(found.into_values().next()),
        _ => {
            let ids: Vec<&str> = found.into_keys().collect();
            Err(anyhow!("{digits}: ambiguous")).hint(|| format!("it begins {}", ids.join(" and ")))
        }
    }
}

/// Lists the images of a layout, for a hint; returns nothing if there are none.
fn offer(index: &Index) -> Option<String> {
    let names: Vec<&str> = index.names().take(10).collect();
    match (index.images(), names.is_empty()) {
        ([], _) => None,
        (_, true) => Some("none has a name; DIR@DIGEST takes one".into()),
        (_, false) => Some(format!("it holds {}", names.join(", "))),
    }
}

/// Reads the image on stdin: the line that names it, or its archive.
///
/// Byte by byte, as the shell's `read` does: what follows the newline is the
/// container's. No archive begins with a line of text.
fn stdin() -> Result<Opened> {
    // Without Rust's buffer, which would take more than the line.
    let mut stdin =
        File::from(rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3).context("stdin")?);
    if stdin.is_terminal() {
        let error = Error::new(Usage("-: the image comes on stdin, which is a terminal".into()));
        return Err(error).hint(|| "img-pull alpine | ... -".into());
    }
    let mut line = Vec::new();
    let mut byte = [0];
    loop {
        if stdin.read(&mut byte).context("stdin")? == 0 {
            bail!("no image on stdin: did the command before this one fail?");
        }
        match byte[0] {
            // What bzip2 has packed begins like a line of text.
            b'\n' if !archive::is_archive(&line) => break,
            b if b.is_ascii_control() || !b.is_ascii() || line.len() == LINE_LIMIT => {
                line.push(b);
                stdin
                    .by_ref()
                    .take(512u64.saturating_sub(line.len() as u64))
                    .read_to_end(&mut line)?;
                ensure!(archive::is_archive(&line), "stdin: neither a reference nor an archive");
                let place = Place { path: "stdin".into(), name: None, digest: None };
                return Ok(Opened::Archive(
                    Box::new(std::io::Cursor::new(line).chain(stdin)),
                    place,
                ));
            }
            b => line.push(b),
        }
    }
    let line = String::from_utf8_lossy(&line);
    match line.parse().context("stdin")? {
        Operand::Stdin => bail!("stdin: -: not an image"),
        operand => Ok(Opened::Elsewhere(operand)),
    }
}

impl FromStr for Operand {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let hex = |text: &str| text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if text == "-" {
            return Ok(Operand::Stdin);
        }
        if is_path(text) {
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn place(path: &str, name: Option<&str>) -> Place {
        Place { path: path.into(), name: name.map(str::to_owned), digest: None }
    }

    #[test]
    fn every_form_is_told_from_the_others() {
        let hex = "0123456789abcdef".repeat(4);
        let table = [
            ("-", Operand::Stdin),
            ("app", Operand::Name("app".parse().unwrap())),
            ("localhost:5000/app:v1", Operand::Name("localhost:5000/app:v1".parse().unwrap())),
            ("sha256:012345", Operand::Id("012345".into(), None)),
            ("cafe00", Operand::Id("cafe00".into(), "cafe00".parse().ok())),
            ("cafe0", Operand::Name("cafe0".parse().unwrap())),
            (&hex, Operand::Id(hex.clone(), None)),
            ("./out", Operand::Path(place("./out", None))),
            ("./out:app:v1", Operand::Path(place("./out", Some("app:v1")))),
            ("../out:v1", Operand::Path(place("../out", Some("v1")))),
            ("/o u t", Operand::Path(place("/o u t", None))),
            (".", Operand::Path(place(".", None))),
            ("oci:out:v1", Operand::Layout(place("out", Some("v1")))),
            ("oci-archive:a.tar", Operand::Archive(place("a.tar", None))),
            ("docker-archive:a.tar:app:v1", Operand::Archive(place("a.tar", Some("app:v1")))),
        ];
        for (text, operand) in table {
            assert_eq!(text.parse::<Operand>().unwrap(), operand, "{text}");
        }
        let digest = format!("sha256:{hex}");
        let pinned: Operand = format!("./out:v1@{digest}").parse().unwrap();
        assert_eq!(pinned.to_string(), format!("./out:v1@{digest}"));
    }

    #[test]
    fn a_name_with_a_digest_is_an_entry_of_that_name() {
        let digest = |text: &str| Digest::of(text.as_bytes());
        let entry = |name: &str, image: &str, from: &str| {
            format!(
                r#"{{"mediaType":"x","digest":"{}","size":1,"annotations":{{"{}":"{name}","{}":"{}"}}}}"#,
                digest(image),
                image::REF_NAME,
                crate::layout::CHOSEN_FROM,
                digest(from)
            )
        };
        let entries = [
            entry("docker.io/library/app:latest", "one", "many"),
            entry("docker.io/library/app:v1", "two", ""),
            entry("docker.io/library/b:v1", "two", ""),
            entry(&format!("docker.io/library/c@{}", digest("three")), "three", "more"),
        ];
        let text = format!(r#"{{"schemaVersion":2,"manifests":[{}]}}"#, entries.join(","));
        let index = Index::parse(text.as_bytes()).unwrap();
        let name = |name: &str| Some(Entry::Name(format!("docker.io/library/{name}")));
        let image = |text: &str| Some(Entry::Image(digest(text).to_string()));
        for (given, image_of, wanted) in [
            ("app", "one", name("app:latest")),
            ("app", "many", name("app:latest")),
            ("app:latest", "one", name("app:latest")),
            ("app", "two", image("two")),
            ("b", "two", image("two")),
            ("c", "three", name(&format!("c@{}", digest("three")))),
            ("c", "more", image("three")),
            ("b", "one", None),
            ("wrong/name", "one", None),
            ("app:v2", "one", None),
            ("app", "none", None),
        ] {
            let operand: Operand = format!("{given}@{}", digest(image_of)).parse().unwrap();
            match operand.entry(&index) {
                Ok(found) => assert_eq!(Some(found), wanted, "{operand}"),
                Err(err) => {
                    assert!(error::find::<NoSuchImage>(&err).is_some(), "{operand}: {err:#}");
                    assert_eq!(wanted, None, "{operand}");
                }
            }
        }
    }

    #[test]
    fn what_is_no_operand_is_refused() {
        for bad in [
            "",
            "App",
            "sha256:0123",
            "sha256:XYZ123",
            "./out:",
            "./out@",
            "oci:",
            "oci-archive::x",
            "a b",
        ] {
            assert!(bad.parse::<Operand>().is_err(), "{bad:?}");
        }
        let err = "my\u{2011}image".parse::<Operand>().unwrap_err().to_string();
        assert_eq!(err, "U+2011 in \"my\u{2011}image\": did you mean my-image?");
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "\\PC*") {
            let _ = text.parse::<Operand>();
        }

        /// What a producer prints is what the next tool reads: DESIGN's second sentence.
        #[test]
        fn a_printed_name_is_read_as_that_name(
            name in "(oci|oci-archive|docker-archive|sha256|sha512|[a-f0-9]{6,8}|[a-z]{1,4}(/[a-z]{1,3})?)(:[a-f0-9]{1,8})?",
        ) {
            let name: Reference = name.parse().unwrap();
            let digest = Digest::of(b"");
            for line in [name.to_string(), name.full(), name.at(&digest)] {
                let Operand::Name(read) = line.parse().unwrap() else { panic!("{line}") };
                prop_assert_eq!(read.full(), name.full());
            }
        }

        #[test]
        fn a_printed_directory_is_read_as_that_directory(dir in "[.]{0,3}/?[^:@\\x00\\n]{0,6}") {
            let Ok(dir) = dir.parse::<Dir>() else { return Ok(()) };
            let line = dir.at(None, &Digest::of(b""));
            let Operand::Path(place) = line.parse().unwrap() else { panic!("{line}") };
            // `./` in front makes no difference.
            let plain = |path: &std::path::Path| PathBuf::from("/here").join(path).components().as_path().to_owned();
            prop_assert_eq!(plain(&place.path), plain(dir.path()));
            prop_assert_eq!(place.digest, Some(Digest::of(b"")));
        }
    }
}
