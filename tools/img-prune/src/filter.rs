//! `--filter`: which images may go. All of them must match, as for Docker's image store.

use std::collections::BTreeMap;
use std::str::FromStr;

use anyhow::{Context, Error, Result, bail, ensure};
use common::cli::moment;
use jiff::Timestamp;

/// One `--filter KEY=VALUE`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Filter {
    /// Created before a moment.
    Until(Timestamp),
    /// With this label, and this value if one is given.
    Label(String, Option<String>),
    /// Without it.
    NoLabel(String, Option<String>),
}

impl FromStr for Filter {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let (key, value) =
            text.split_once('=').with_context(|| format!("{text:?}: not KEY=VALUE"))?;
        let label = || {
            let (label, value) = match value.split_once('=') {
                Some((label, value)) => (label, Some(value.to_owned())),
                None => (value, None),
            };
            ensure!(!label.is_empty(), "{text:?}: the label is empty");
            Ok((label.to_owned(), value))
        };
        Ok(match key {
            "until" => Filter::Until(moment(value)?),
            "label" => label().map(|(label, value)| Filter::Label(label, value))?,
            "label!" => label().map(|(label, value)| Filter::NoLabel(label, value))?,
            _ => bail!("{key:?}: not one of label, label!, until"),
        })
    }
}

impl Filter {
    /// Returns whether an image may go, of which this is known.
    pub fn accepts(&self, created: Option<Timestamp>, labels: &BTreeMap<String, String>) -> bool {
        let has = |label: &str, value: &Option<String>| match (labels.get(label), value) {
            (Some(found), Some(value)) => found == value,
            (found, _) => found.is_some(),
        };
        match self {
            // One that does not say when it was created is no older than any moment.
            Filter::Until(moment) => created.is_some_and(|created| created < *moment),
            Filter::Label(label, value) => has(label, value),
            Filter::NoLabel(label, value) => !has(label, value),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_matches_may_go() {
        let labels = BTreeMap::from([("a".to_owned(), "1".to_owned())]);
        let created = "2020-01-01T00:00:00Z".parse().ok();
        let table = [
            ("label=a", true),
            ("label=a=1", true),
            ("label=a=2", false),
            ("label=b", false),
            ("label!=a", false),
            ("label!=a=1", false),
            ("label!=a=2", true),
            ("label!=b", true),
            ("until=2020-01-02", true),
            ("until=2019-12-30", false),
            ("until=24h", true),
            ("until=2020-01-01T00:00:00Z", false),
        ];
        for (text, wanted) in table {
            assert_eq!(text.parse::<Filter>().unwrap().accepts(created, &labels), wanted, "{text}");
        }
        assert!(!"until=1s".parse::<Filter>().unwrap().accepts(None, &labels));
        for bad in ["", "label", "label=", "label!==x", "until=never", "until=", "dangling=true"] {
            assert!(bad.parse::<Filter>().is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_text_breaks_a_filter(text in "(label|label!|until|\\PC{0,4})=?\\PC{0,20}") {
            let _ = text.parse::<Filter>();
        }
    }
}
