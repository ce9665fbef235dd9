//! Where results of steps are, as buildx writes it.
//!
//! ```text
//! DIR[:TAG]                        type=local,src=DIR[,tag=TAG]     a layout; dest= to write it
//! HOST/REPOSITORY[:TAG]            type=registry,ref=...            a registry
//! ```
//!
//! `DIR` begins with `/`, `./` or `../` where no key says what it is.

use std::fmt::{self, Display};
use std::path::Path;
use std::str::FromStr;

use anyhow::{Context, Error, Result, anyhow, bail, ensure};
use common::cli::{Dir, csv, is_path};
use common::error::Hint;
use common::reference::Reference;

use crate::error::nearest;
use crate::output::boolean;

/// What a cache is called in a layout if nobody says so.
const NAME: &str = "cache";

/// Where results of steps are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// In a layout, under a name.
    Layout(Dir, Reference),
    /// In a registry.
    Registry(Reference),
}

/// What `--cache-from` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Import(pub Place);

/// What `--cache-to` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Export {
    /// Where results go.
    pub place: Place,
    /// Those of all stages that were built, and not only of the one that the image is.
    pub all_stages: bool,
    /// That it cannot be written is no failure.
    pub ignore_error: bool,
}

/// The keys of an option, and whether it is `--cache-to`.
struct Fields {
    pairs: Vec<(String, String)>,
    to: bool,
}

impl Place {
    /// Returns the directory that it is, if it is one.
    pub fn dir(&self) -> Option<&Dir> {
        match self {
            Place::Layout(dir, _) => Some(dir),
            Place::Registry(_) => None,
        }
    }

    fn layout(dir: Dir, tag: Option<&str>) -> Result<Place> {
        let name: Reference = tag.unwrap_or(NAME).parse()?;
        ensure!(
            name.digest().is_none(),
            "{name}: a cache is known by its name, and not by a digest"
        );
        Ok(Place::Layout(dir, name))
    }

    fn registry(text: &str, to: bool) -> Result<Place> {
        let name: Reference = text.parse()?;
        ensure!(!to || name.digest().is_none(), "{name}: a digest cannot be written to");
        Ok(Place::Registry(name))
    }

    /// Reads a place that is no list of keys.
    fn plain(text: &str, to: bool) -> Result<Place> {
        if !is_path(text) {
            return Place::registry(text, to);
        }
        let (dir, tag) = match text.split_once(':') {
            Some((dir, tag)) => (dir, Some(tag)),
            None => (text, None),
        };
        Place::layout(dir.parse()?, tag)
    }
}

impl Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Layout(dir, name) => write!(f, "{dir}:{name}"),
            Place::Registry(name) => name.fmt(f),
        }
    }
}

impl FromStr for Import {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let mut fields = match Fields::parse(text, false)? {
            Some(fields) => fields,
            None => return Place::plain(text, false).map(Import),
        };
        let place = fields.place()?;
        fields.end()?;
        Ok(Import(place))
    }
}

impl FromStr for Export {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let mut fields = match Fields::parse(text, true)? {
            Some(fields) => fields,
            None => {
                let place = Place::plain(text, true)?;
                return Ok(Export { place, all_stages: false, ignore_error: false });
            }
        };
        let place = fields.place()?;
        let all_stages = match fields.take("mode").as_deref() {
            None | Some("min") => false,
            Some("max") => true,
            Some(other) => bail!("mode={other}: neither min nor max"),
        };
        let ignore_error = fields.boolean("ignore-error")?.unwrap_or(false);
        // What BuildKit does by default is what is done.
        for (key, done) in
            [("oci-mediatypes", true), ("image-manifest", false), ("force-compression", false)]
        {
            let said = fields.boolean(key)?;
            ensure!(said.is_none_or(|said| said == done), "{key}={} is not done here", !done);
        }
        for key in ["compression", "compression-level"] {
            if fields.take(key).is_some() {
                let refused: Result<()> =
                    Err(anyhow!("{key}: layers stay as their steps made them"));
                refused.hint(|| "--compression says how that is".into())?;
            }
        }
        fields.end()?;
        Ok(Export { place, all_stages, ignore_error })
    }
}

impl Fields {
    /// Splits `key=value,...`; returns nothing if the text is a place as it stands.
    fn parse(text: &str, to: bool) -> Result<Option<Fields>> {
        if is_path(text) {
            return Ok(None);
        }
        let fields = csv(text)?;
        if fields.iter().all(|field| !field.contains('=')) {
            ensure!(fields.len() == 1, "{text}: one place at a time");
            return Ok(None);
        }
        let mut pairs: Vec<(String, String)> = Vec::new();
        for field in &fields {
            let pair = field.split_once('=').with_context(|| format!("{field}: no ="));
            let (key, value) = pair.hint(|| "type=registry,ref=HOST/REPOSITORY:TAG".into())?;
            let key = key.trim().to_ascii_lowercase();
            ensure!(!pairs.iter().any(|(other, _)| *other == key), "two values of {key}");
            pairs.push((key, value.to_owned()));
        }
        Ok(Some(Fields { pairs, to }))
    }

    fn take(&mut self, key: &str) -> Option<String> {
        let at = self.pairs.iter().position(|(name, _)| name == key)?;
        Some(self.pairs.remove(at).1)
    }

    fn boolean(&mut self, key: &str) -> Result<Option<bool>> {
        self.take(key).map(|value| boolean(key, &value)).transpose()
    }

    fn place(&mut self) -> Result<Place> {
        let needs = |kind: &str, key: &str| format!("type={kind} needs {key}=");
        match self.take("type").context("no type")?.as_str() {
            "local" => {
                let key = if self.to { "dest" } else { "src" };
                let dir = self.take(key).with_context(|| needs("local", key))?;
                Place::layout(Dir::new(Path::new(&dir))?, self.take("tag").as_deref())
            }
            "registry" => {
                let name = self.take("ref").with_context(|| needs("registry", "ref"))?;
                Place::registry(&name, self.to)
            }
            other @ ("inline" | "gha" | "s3" | "azblob") => {
                Err(anyhow!("type={other} is not done here"))
                    .hint(|| "type=registry,ref=HOST/REPOSITORY:TAG, or a directory".into())
            }
            other => Err(anyhow!("unknown type {other}")).hint(|| "local, registry".into()),
        }
    }

    /// Fails if there is a key that nobody has asked for.
    fn end(&self) -> Result<()> {
        let Some((key, _)) = self.pairs.first() else { return Ok(()) };
        let known: &[&str] = match self.to {
            true => &["dest", "tag", "ref", "mode", "ignore-error"],
            false => &["src", "tag", "ref"],
        };
        let unknown: Result<()> = Err(anyhow!("there is no key {key} here"));
        unknown.hint(|| match nearest(key, known.iter().copied()) {
            Some(near) if near != key => near.into(),
            _ => known.join(", "),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_place_is_written_as_buildx_writes_it() {
        let table = [
            ("./c", "./c:cache:latest"),
            ("./a b:main", "./a b:main:latest"),
            ("/c:app:v1", "/c:app:v1"),
            ("./a=b,c", "./a=b,c:cache:latest"),
            ("type=local,src=c", "./c:cache:latest"),
            ("type=local,\"src=a,b\",tag=x", "./a,b:x:latest"),
            ("h:5000/a/cache", "h:5000/a/cache:latest"),
            ("type=registry,ref=h/a:x", "h/a:x"),
            ("ref=h/a:x,type=registry", "h/a:x"),
        ];
        for (text, expected) in table {
            assert_eq!(text.parse::<Import>().unwrap().0.to_string(), expected, "{text}");
        }
    }

    #[test]
    fn what_is_not_done_is_refused_by_name() {
        let table = [
            ("type=gha", "type=gha is not done here"),
            ("type=inline", "type=inline is not done here"),
            ("type=s3,bucket=b", "type=s3 is not done here"),
            ("type=x", "unknown type x"),
            ("ref=a", "no type"),
            ("type=local,dest=d,src=e", "there is no key src here"),
            ("type=local", "type=local needs dest="),
            ("type=registry,ref=a,mode=most", "mode=most: neither min nor max"),
            (
                "type=registry,ref=a,compression=zstd",
                "compression: layers stay as their steps made them",
            ),
            ("type=registry,ref=a,oci-mediatypes=false", "oci-mediatypes=false is not done here"),
            ("type=registry,ref=a,ref=b", "two values of ref"),
            ("a,b", "a,b: one place at a time"),
            ("type=registry,ref", "ref: no ="),
        ];
        for (text, expected) in table {
            let err = text.parse::<Export>().unwrap_err();
            assert_eq!(common::error::line(&err), expected, "{text}");
        }
        for bad in
            ["", "./c:", "./c:X", "type=local,dest=a:b", "A", "./c@sha256:0", "type=local,dest="]
        {
            assert!(bad.parse::<Export>().is_err(), "{bad:?}");
        }
        let digest = format!("h/a@{}", common::digest::Digest::of(b""));
        assert!(digest.parse::<Export>().is_err() && digest.parse::<Import>().is_ok());
    }

    #[test]
    fn what_is_written_is_the_result_or_all() {
        let max: Export = "type=local,dest=c,mode=max,ignore-error=true".parse().unwrap();
        assert!(max.all_stages && max.ignore_error);
        let min: Export =
            "type=registry,ref=a,oci-mediatypes=true,image-manifest=false".parse().unwrap();
        assert!(!min.all_stages && !min.ignore_error);
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "(type=local,|type=registry,)?[a-z=,:./\"@]{0,30}|\\PC*") {
            let _ = text.parse::<Import>();
            let _ = text.parse::<Export>();
        }
    }
}
