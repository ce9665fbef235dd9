//! What a comment `# check=` says: which rules count, and whether warnings are errors.

use std::collections::BTreeSet;

use common::cli;

use super::EXPERIMENTAL;
use crate::dockerfile::lines;
use crate::error::{Error, Result};

/// Which rules count.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    skip_all: bool,
    skip: BTreeSet<String>,
    try_all: bool,
    tried: BTreeSet<String>,
    /// Whether warnings are errors.
    pub strict: bool,
}

impl Options {
    /// Reads `skip=RuleA,RuleB;error=true`.
    pub fn parse(text: &str) -> Result<Options> {
        let mut options = Options::default();
        let text = text.trim();
        if text.is_empty() {
            return Ok(options);
        }
        let wrong = |part: &str| {
            Error::new(format!("# check={part}: not an option of checks"))
                .hint("# check=skip=RuleA,RuleB;error=true")
        };
        for part in text.splitn(3, ';') {
            let (key, value) = part.split_once('=').ok_or_else(|| wrong(part))?;
            let value = value.trim();
            let rules = || value.split(',').map(|rule| rule.trim().to_owned()).collect();
            match (key.trim(), value) {
                ("skip", "all") => options.skip_all = true,
                ("skip", _) => options.skip = rules(),
                ("experimental", "all") => options.try_all = true,
                ("experimental", _) => options.tried = rules(),
                ("error", value) => {
                    options.strict = cli::boolean(value).ok_or_else(|| wrong(part))?;
                }
                _ => return Err(wrong(part)),
            }
        }
        Ok(options)
    }

    /// Returns whether a rule counts.
    pub fn counts(&self, rule: &str) -> bool {
        match rule {
            EXPERIMENTAL => self.try_all || self.tried.contains(rule),
            rule => !self.skip_all && !self.skip.contains(rule),
        }
    }

    /// Returns the options of an instruction, which has comments right above it.
    pub fn with(&self, comments: &[String]) -> Options {
        let check =
            comments.iter().find_map(|comment| match lines::directive(comment.trim_start()) {
                Some((name, value)) if name == "check" => value.split(' ').next(),
                _ => None,
            });
        let mut options = self.clone();
        if let Some(Ok(more)) = check.map(Options::parse) {
            options.skip_all |= more.skip_all;
            options.try_all |= more.try_all;
            options.skip.extend(more.skip);
            options.tried.extend(more.tried);
        }
        options
    }
}
