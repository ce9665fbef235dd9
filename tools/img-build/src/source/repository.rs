//! How a Git repository is written: `https://host/repo.git#ref:dir`.
//!
//! ```text
//! git://host/repo  ssh://user@host/repo  user@host:repo        by their looks
//! http://host/repo.git  https://host/repo.git                  by the end of the path
//! ...#ref:dir      ...?ref= tag= branch= commit= subdir= keep-git-dir= submodules=
//! ```
//!
//! As BuildKit reads it. What git(1) is told never begins with a `-`, and no
//! password is in it.

use anyhow::{Context, Result, anyhow, ensure};
use common::cli;
use common::credentials::Credentials;
use common::error::Hint;
use url::Url;

use super::address::decoded;
use crate::dockerfile::source::Source;

/// A repository, and what of it is meant.
#[derive(Clone, PartialEq, Eq)]
pub struct Repository {
    /// Its address, as git(1) takes it, with nothing in it that nobody may see.
    pub remote: String,
    /// An `Authorization` header.
    pub authorization: Option<String>,
    /// A branch, a tag, a commit, or a name below `refs/`; none is what is there by default.
    pub reference: Option<String>,
    /// The directory in it; it does not lead upwards.
    pub dir: Option<String>,
    /// How the commit's ID begins.
    pub commit: Option<String>,
    /// Whether its .git directory is kept.
    pub keep_git_dir: Option<bool>,
    /// Whether the repositories in it come along.
    pub submodules: bool,
}

impl Repository {
    /// Reads a repository; nothing, if it does not look like one.
    pub fn parse(text: &str) -> Result<Option<Repository>> {
        match Source::of(text) {
            Source::Git => Repository::read(text).map(Some),
            _ => Ok(None),
        }
    }

    fn read(text: &str) -> Result<Repository> {
        ensure!(!text.contains(char::is_control), "a control character in a repository's address");
        if !text.contains("://") {
            let (remote, fragment) = text.split_once('#').unwrap_or((text, ""));
            let host = remote.split_once('@').map_or("", |(_, rest)| rest);
            ensure!(!remote.starts_with('-') && !host.starts_with('-'), "{remote:?}: an option");
            return Repository::at(remote.into(), None).fragment(fragment);
        }
        let mut url = Url::parse(text).map_err(|err| anyhow!("not a URL: {err}"))?;
        let fragment = decoded(url.fragment().unwrap_or_default())?;
        let query: Vec<(String, String)> = url.query_pairs().into_owned().collect();
        let host = url.host_str().unwrap_or_default();
        ensure!(!host.is_empty(), "a repository without a host");
        ensure!(!host.starts_with('-'), "{host:?}: an option");
        let user = decoded(url.username())?;
        ensure!(!user.starts_with('-'), "{user:?}: an option");
        let mut authorization = None;
        if matches!(url.scheme(), "http" | "https") {
            if let Some(password) = url.password().or((!user.is_empty()).then_some("")) {
                let pair: Result<Credentials> = format!("{user}:{}", decoded(password)?).parse();
                authorization = pair.map_err(|_| anyhow!("not a user and a password"))?.basic();
            }
            let _ = url.set_username("");
        }
        let _ = url.set_password(None);
        url.set_fragment(None);
        url.set_query(None);
        Repository::at(url.into(), authorization).fragment(&fragment)?.query(&query)
    }

    fn at(remote: String, authorization: Option<String>) -> Repository {
        Repository {
            remote,
            authorization,
            reference: None,
            dir: None,
            commit: None,
            keep_git_dir: None,
            submodules: true,
        }
    }

    /// Reads `ref:dir`.
    fn fragment(mut self, text: &str) -> Result<Repository> {
        let (reference, dir) = text.split_once(':').unwrap_or((text, ""));
        if !reference.is_empty() {
            self.reference = Some(named(reference)?);
        }
        self.dir = inner(dir)?;
        Ok(self)
    }

    /// Reads `?ref=...`.
    fn query(mut self, pairs: &[(String, String)]) -> Result<Repository> {
        let mut seen: Vec<&str> = Vec::new();
        for (key, value) in pairs {
            ensure!(!value.is_empty(), "?{key}= has no value");
            ensure!(!seen.contains(&key.as_str()), "?{key}= has two values");
            seen.push(key);
            let boolean = || {
                let said = cli::boolean(value);
                said.with_context(|| format!("?{key}={value}: neither true nor false"))
            };
            let below = |dir: &str| match value.strip_prefix(dir) {
                Some(_) => value.clone(),
                None => format!("{dir}{value}"),
            };
            match key.as_str() {
                "ref" => self.refer(value)?,
                "tag" => self.refer(&below("refs/tags/"))?,
                "branch" => self.refer(&below("refs/heads/"))?,
                "subdir" => {
                    let dir = inner(value)?;
                    let same = self.dir.is_none() || self.dir == dir;
                    ensure!(same, "?subdir={value} is not the directory behind the #");
                    self.dir = dir;
                }
                "commit" | "checksum" => {
                    let known = self.commit.replace(commit(value)?);
                    ensure!(known.is_none(), "?commit= and ?checksum= are the same");
                }
                "keep-git-dir" => self.keep_git_dir = Some(boolean()?),
                "submodules" => self.submodules = boolean()?,
                _ => {
                    let unknown: Result<()> = Err(anyhow!("unknown ?{key}="));
                    unknown.hint(|| {
                        "ref, tag, branch, commit, subdir, keep-git-dir or submodules".into()
                    })?;
                }
            }
        }
        Ok(self)
    }

    fn refer(&mut self, text: &str) -> Result<()> {
        let reference = Some(named(text)?);
        let same = self.reference.is_none() || self.reference == reference;
        ensure!(same, "{text} is not the only ref that is named");
        self.reference = reference;
        Ok(())
    }
}

impl std::fmt::Display for Repository {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.remote)?;
        match (&self.reference, &self.dir) {
            (None, None) => Ok(()),
            (reference, None) => write!(f, "#{}", reference.as_deref().unwrap_or_default()),
            (reference, Some(dir)) => {
                write!(f, "#{}:{dir}", reference.as_deref().unwrap_or_default())
            }
        }
    }
}

impl std::fmt::Debug for Repository {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Repository({self})")
    }
}

/// Checks the name of a ref: git-check-ref-format(1).
fn named(text: &str) -> Result<String> {
    let odd = |c: char| c.is_control() || " ~^:?*[\\".contains(c);
    let bad = text.starts_with(['-', '/', '.'])
        || text.ends_with(['/', '.'])
        || text.contains(odd)
        || text == "@"
        || ["..", "//", "@{", "/."].iter().any(|part| text.contains(part))
        || text.split('/').any(|part| part.ends_with(".lock"));
    ensure!(!bad && text.len() <= 1024, "{text:?}: not the name of a ref");
    Ok(text.into())
}

/// Checks a directory in a repository; none is all of it.
fn inner(text: &str) -> Result<Option<String>> {
    let parts: Vec<&str> = text.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
    ensure!(!parts.contains(&".."), "{text:?}: it leads out of the repository");
    ensure!(!text.contains('\0'), "{text:?}: not the name of a directory");
    Ok((!parts.is_empty()).then(|| parts.join("/")))
}

/// Checks the beginning of a commit's ID.
pub fn commit(text: &str) -> Result<String> {
    let hex = !text.is_empty() && text.len() <= 64 && text.bytes().all(|c| c.is_ascii_hexdigit());
    ensure!(hex, "{text:?}: not the beginning of a commit's ID");
    Ok(text.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(text: &str) -> Result<Repository> {
        Repository::parse(text).map(|found| found.expect(text))
    }

    #[test]
    fn a_repository_is_an_address_a_ref_and_a_directory() {
        let table = [
            ("https://h/a.git", "https://h/a.git", None, None),
            ("https://h/a.git#main", "https://h/a.git", Some("main"), None),
            ("https://h/a.git#v1:b/c", "https://h/a.git", Some("v1"), Some("b/c")),
            ("https://h/a.git#:/b/./c/", "https://h/a.git", None, Some("b/c")),
            ("https://h/a.git#:", "https://h/a.git", None, None),
            ("https://h:8/a.git?ref=v1&subdir=b", "https://h:8/a.git", Some("v1"), Some("b")),
            ("https://h/a.git?tag=v1", "https://h/a.git", Some("refs/tags/v1"), None),
            ("https://h/a.git?branch=refs/heads/x", "https://h/a.git", Some("refs/heads/x"), None),
            ("git://h/a#x/y", "git://h/a", Some("x/y"), None),
            ("ssh://git@h:22/a", "ssh://git@h:22/a", None, None),
            ("ssh://git:secret@h/a", "ssh://git@h/a", None, None),
            ("git@h:a/b.git#v1:c", "git@h:a/b.git", Some("v1"), Some("c")),
        ];
        for (text, remote, reference, dir) in table {
            let found = parse(text).unwrap();
            assert_eq!(found.remote, remote, "{text}");
            assert_eq!(found.reference.as_deref(), reference, "{text}");
            assert_eq!(found.dir.as_deref(), dir, "{text}");
            assert!(found.submodules && found.keep_git_dir.is_none());
        }
        let found = parse("https://h/a.git?keep-git-dir=1&submodules=false&commit=C0FFEE").unwrap();
        assert_eq!((found.keep_git_dir, found.submodules), (Some(true), false));
        assert_eq!(found.commit.as_deref(), Some("c0ffee"));
        assert_eq!(Repository::parse("https://h/a.tar").unwrap(), None);
        assert_eq!(Repository::parse("./a.git").unwrap(), None);
    }

    #[test]
    fn nobody_is_told_who_we_are_there() {
        let found = parse("https://me:hunter2@h/a.git#v1").unwrap();
        assert_eq!(found.authorization.as_deref(), Some("Basic bWU6aHVudGVyMg=="));
        assert_eq!(found.remote, "https://h/a.git");
        assert_eq!(
            format!("{found} {found:?}"),
            "https://h/a.git#v1 Repository(https://h/a.git#v1)"
        );
        let found = parse("https://token@h/a.git").unwrap();
        assert_eq!(found.authorization.as_deref(), Some("Basic dG9rZW46"));
    }

    #[test]
    fn what_git_would_take_for_more_than_a_name_is_refused() {
        let bads = [
            "https://h/a.git#--upload-pack=x",
            "https://h/a.git#-x",
            "https://h/a.git?ref=-x",
            "https://h/a.git?ref=a:b",
            "https://h/a.git#a..b",
            "https://h/a.git#a%00b",
            "https://h/a.git#a%20b",
            "https://h/a.git#a@{1}",
            "https://h/a.git#:../b",
            "https://h/a.git#:b/../../c",
            "https://h/a.git?subdir=%2e%2e",
            "https://h/a.git#:a?subdir=b",
            "https://h/a.git?subdir=b#:a",
            "https://h/a.git?ref=x#y",
            "https://h/a.git?ref=",
            "https://h/a.git?nope=1",
            "https://h/a.git?commit=main",
            "https://h/a.git?submodules=perhaps",
            "ssh://-oProxyCommand=x/a",
            "ssh://-oProxyCommand=x@h/a",
            "-x@h:a",
            "git@-h:a",
            "git://h/a\n",
        ];
        for bad in bads {
            let found = Repository::parse(bad);
            // What follows the first # is all of the fragment.
            let odd = bad == "https://h/a.git#:a?subdir=b";
            assert_eq!(found.is_ok(), odd, "{bad}: {found:?}");
        }
    }

    proptest! {
        #[test]
        fn nothing_that_git_is_told_is_an_option(
            text in "(https?://|ssh://|git://)?[a-z:@-]{0,8}(/|:)[a-z./-]{0,8}(\\.git)?[#?]?[a-z.:/=&%0-9-]{0,16}"
        ) {
            let Ok(Some(found)) = Repository::parse(&text) else { return Ok(()) };
            prop_assert!(!found.remote.starts_with('-'));
            prop_assert!(!found.reference.is_some_and(|text| text.starts_with('-')));
            let dir = found.dir.unwrap_or_default();
            prop_assert!(!dir.starts_with('/') && dir.split('/').all(|part| part != ".."));
        }
    }
}
