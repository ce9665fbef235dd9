//! Names of images: `registry/repository:tag@digest`.
//!
//! The grammar is distribution/reference's, and short names mean what they
//! mean to Docker: `app` is `docker.io/library/app:latest`. A [`Reference`]
//! keeps what was given and what was implied apart, so that it prints short and
//! is stored whole.

use std::fmt::{self, Display};
use std::str::FromStr;

use anyhow::{Error, Result, bail};

use crate::digest::Digest;

/// The registry of a name without one.
pub const DOCKER_HUB: &str = "docker.io";

/// What means something else where an image is named: before a colon, these are no repositories.
const TAKEN: [&str; 4] = ["docker-archive", "oci", "oci-archive", "sha256"];

/// The longest repository path, in bytes: distribution/reference, RepositoryNameTotalLengthMax.
const PATH_LIMIT: usize = 255;

/// An image's name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Reference {
    domain: String,
    path: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

impl Reference {
    /// Returns the registry: `docker.io`, `localhost:5000`, `[::1]:5000`.
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// Returns the repository within its registry: `library/app`.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Returns the tag; `latest` is implied where there is neither a tag nor a digest.
    pub fn tag(&self) -> Option<&str> {
        match (&self.tag, &self.digest) {
            (Some(tag), _) => Some(tag),
            (None, None) => Some("latest"),
            (None, Some(_)) => None,
        }
    }

    /// Returns whether a tag was given, and not implied.
    pub fn has_tag(&self) -> bool {
        self.tag.is_some()
    }

    /// Returns the digest, which decides where there is one.
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// Returns the registry and repository, whole: `docker.io/library/app`.
    pub fn repository(&self) -> String {
        format!("{}/{}", self.domain, self.path)
    }

    /// Returns the registry and repository as short as Docker prints them, if that reads back: `app`.
    pub fn familiar(&self) -> String {
        match (self.domain.as_str(), self.path.strip_prefix("library/")) {
            (DOCKER_HUB, Some(name)) if !name.contains('/') && !TAKEN.contains(&name) => {
                name.into()
            }
            // What a path begins with may look like a registry.
            (DOCKER_HUB, _) if split_domain(&self.path) == (DOCKER_HUB, &*self.path) => {
                self.path.clone()
            }
            _ => self.repository(),
        }
    }

    /// Returns the name that a layout has for the image: `docker.io/library/app:latest`.
    ///
    /// A digest is part of it only where there is no tag.
    pub fn full(&self) -> String {
        self.tagged(self.repository())
    }

    /// Returns what a result line says: the name, pinned to `digest`.
    pub fn at(&self, digest: &Digest) -> String {
        match &self.tag() {
            Some(tag) => format!("{}:{tag}@{digest}", self.familiar()),
            None => format!("{}@{digest}", self.familiar()),
        }
    }

    /// Returns the same repository under another tag.
    pub fn with_tag(&self, tag: &str) -> Result<Reference> {
        check_tag(tag, tag)?;
        Ok(Reference { tag: Some(tag.into()), digest: None, ..self.clone() })
    }

    fn tagged(&self, repository: String) -> String {
        match (self.tag(), &self.digest) {
            (Some(tag), _) => format!("{repository}:{tag}"),
            (None, Some(digest)) => format!("{repository}@{digest}"),
            (None, None) => repository,
        }
    }
}

/// As the user would write it: short where Docker has it short, the tag always said.
impl Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.tagged(self.familiar()))?;
        match (&self.tag, &self.digest) {
            (Some(_), Some(digest)) => write!(f, "@{digest}"),
            _ => Ok(()),
        }
    }
}

impl FromStr for Reference {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        check_typography(text)?;
        if text.is_empty() {
            bail!("an image's name is empty");
        }
        let (name, digest) = match text.split_once('@') {
            Some((name, digest)) => (name, Some(digest.parse::<Digest>()?)),
            None => (text, None),
        };
        // A colon after the last slash begins the tag; before it, a port.
        let (name, tag) = match name.rsplit_once(':') {
            Some((name, tag)) if !tag.contains(['/', ']']) => (name, Some(tag)),
            _ => (name, None),
        };
        if name.len() == 64 && name.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            bail!(
                "{text:?}: 64 hexadecimal digits are a digest, not a name: did you mean sha256:{name}?"
            );
        }
        let (domain, path) = split_domain(name);
        check_domain(domain, text)?;
        let path = match (domain, path.contains('/')) {
            (DOCKER_HUB, false) => format!("library/{path}"),
            _ => path.to_owned(),
        };
        check_path(&path, text)?;
        if let Some(tag) = tag {
            check_tag(tag, text)?;
        }
        Ok(Reference { domain: domain.into(), path, tag: tag.map(str::to_owned), digest })
    }
}

/// Splits a name into registry and path, as Docker tells a registry from a user's name.
fn split_domain(name: &str) -> (&str, &str) {
    match name.split_once('/') {
        Some(("index.docker.io", path)) => (DOCKER_HUB, path),
        Some((domain, path))
            if domain.contains(['.', ':', '['])
                || domain == "localhost"
                || domain.bytes().any(|b| b.is_ascii_uppercase()) =>
        {
            (domain, path)
        }
        _ => (DOCKER_HUB, name),
    }
}

fn check_domain(domain: &str, text: &str) -> Result<()> {
    let label = |label: &str| {
        let inner = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
        !label.is_empty()
            && label.bytes().all(inner)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let (host, port) = match domain.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((address, "")) => (address, None),
            Some((address, port)) => (address, Some(port.strip_prefix(':').unwrap_or("-"))),
            None => (domain, None),
        },
        None => match domain.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (domain, None),
        },
    };
    let host_ok = match domain.starts_with('[') {
        true => host.parse::<std::net::Ipv6Addr>().is_ok(),
        false => host.split('.').all(label),
    };
    let port_ok = port.is_none_or(|port| {
        port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok_and(|port| port != 0)
    });
    if !host_ok || !port_ok {
        bail!("{text:?}: {domain:?} is not a registry's name (host, host:port or [address]:port)");
    }
    Ok(())
}

fn check_path(path: &str, text: &str) -> Result<()> {
    if path.len() > PATH_LIMIT {
        bail!(
            "{:?}...: a repository's name has at most {PATH_LIMIT} bytes, this one {}",
            cut(text),
            path.len()
        );
    }
    for component in path.split('/') {
        check_component(component, text)?;
    }
    Ok(())
}

/// `path-component := alpha-numeric [separator alpha-numeric]*`, where the
/// separator is a dot, one or two underscores, or any number of hyphens.
fn check_component(component: &str, text: &str) -> Result<()> {
    let alnum = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    if component.is_empty() {
        bail!("{text:?}: a component of the repository's name is empty");
    }
    if component.contains(|c: char| c.is_ascii_uppercase()) {
        bail!(
            "{text:?}: a repository's name is lower case: did you mean {:?}?",
            text.to_lowercase()
        );
    }
    if let Some(bad) = component.chars().find(|c| !alnum(*c) && !matches!(c, '.' | '_' | '-')) {
        bail!("{text:?}: a repository's name has no {bad:?}");
    }
    let separators = component.split(alnum).filter(|separator| !separator.is_empty());
    let separators_ok =
        separators.clone().all(|s| matches!(s, "." | "_" | "__") || s.bytes().all(|b| b == b'-'));
    if !separators_ok || !component.starts_with(alnum) || !component.ends_with(alnum) {
        bail!(
            "{text:?}: {component:?} is not a repository's name: one . or _, or hyphens, between letters or digits"
        );
    }
    Ok(())
}

fn check_tag(tag: &str, text: &str) -> Result<()> {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let inner = |b: u8| word(b) || matches!(b, b'.' | b'-');
    match tag.as_bytes() {
        [first, rest @ ..]
            if word(*first) && rest.len() < 128 && rest.iter().copied().all(inner) =>
        {
            Ok(())
        }
        _ => bail!(
            "{text:?}: {:?} is not a tag (up to 128 letters, digits, _ . -, not first . or -)",
            cut(tag)
        ),
    }
}

/// Names the typographic hyphens and quotes that word processors put into commands.
///
/// "invalid reference" about a name that looks right helps nobody.
pub fn check_typography(text: &str) -> Result<()> {
    let plain = |c: char| match c {
        '\u{ad}' | '\u{2010}'..='\u{2015}' | '\u{2212}' | '\u{fe58}' | '\u{fe63}' | '\u{ff0d}' => {
            Some("-")
        }
        '\u{2018}'..='\u{201b}' | '\u{2032}' => Some(""),
        '\u{201c}'..='\u{201f}' | '\u{2033}' | '\u{ab}' | '\u{bb}' => Some(""),
        '\u{a0}' | '\u{200b}'..='\u{200d}' | '\u{2060}' | '\u{feff}' => Some(""),
        _ => None,
    };
    let Some(odd) = text.chars().find(|c| plain(*c).is_some()) else { return Ok(()) };
    let mut meant = String::new();
    for c in text.chars() {
        match plain(c) {
            Some(plain) => meant.push_str(plain),
            None => meant.push(c),
        }
    }
    bail!("U+{:04X} in \"{text}\": did you mean {meant}?", odd as u32)
}

/// Cuts a text that may be huge, for a message.
fn cut(text: &str) -> &str {
    text.get(..64).unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn short_names_mean_what_they_mean_to_docker() {
        let table = [
            ("app", "docker.io/library/app:latest", "app:latest"),
            ("app:v1", "docker.io/library/app:v1", "app:v1"),
            ("user/app", "docker.io/user/app:latest", "user/app:latest"),
            ("docker.io/app", "docker.io/library/app:latest", "app:latest"),
            ("index.docker.io/library/app", "docker.io/library/app:latest", "app:latest"),
            ("docker.io/library/a/b", "docker.io/library/a/b:latest", "library/a/b:latest"),
            ("docker.io/a.b/c", "docker.io/a.b/c:latest", "docker.io/a.b/c:latest"),
            (
                "docker.io/localhost/c",
                "docker.io/localhost/c:latest",
                "docker.io/localhost/c:latest",
            ),
            (
                "docker.io/docker.io/c",
                "docker.io/docker.io/c:latest",
                "docker.io/docker.io/c:latest",
            ),
            ("localhost/app", "localhost/app:latest", "localhost/app:latest"),
            ("localhost:5000/app:v1", "localhost:5000/app:v1", "localhost:5000/app:v1"),
            ("127.0.0.1:5000/a/b", "127.0.0.1:5000/a/b:latest", "127.0.0.1:5000/a/b:latest"),
            ("[::1]:5000/app", "[::1]:5000/app:latest", "[::1]:5000/app:latest"),
            ("[2001:db8::1]/app:v1", "[2001:db8::1]/app:v1", "[2001:db8::1]/app:v1"),
            ("Host/app", "Host/app:latest", "Host/app:latest"),
            ("ghcr.io/a/b__c/d-e.f", "ghcr.io/a/b__c/d-e.f:latest", "ghcr.io/a/b__c/d-e.f:latest"),
            ("app:5000", "docker.io/library/app:5000", "app:5000"),
            // Short, they would be a layout, an archive or an ID.
            ("oci", "docker.io/library/oci:latest", "library/oci:latest"),
            ("oci-archive", "docker.io/library/oci-archive:latest", "library/oci-archive:latest"),
            ("docker-archive:a", "docker.io/library/docker-archive:a", "library/docker-archive:a"),
            ("sha256:cafe00", "docker.io/library/sha256:cafe00", "library/sha256:cafe00"),
        ];
        for (text, full, short) in table {
            let name: Reference = text.parse().unwrap();
            assert_eq!((name.full(), name.to_string()), (full.into(), short.into()), "{text}");
        }
    }

    #[test]
    fn a_digest_stands_where_no_tag_was_given() {
        let digest = Digest::of(b"");
        let name: Reference = format!("app@{digest}").parse().unwrap();
        assert_eq!((name.tag(), name.full()), (None, format!("docker.io/library/app@{digest}")));
        assert_eq!(
            (name.to_string(), name.at(&digest)),
            (format!("app@{digest}"), format!("app@{digest}"))
        );
        let name: Reference = format!("app:v1@{digest}").parse().unwrap();
        assert_eq!((name.tag(), name.full()), (Some("v1"), "docker.io/library/app:v1".into()));
        assert_eq!(
            (name.to_string(), name.at(&digest)),
            (format!("app:v1@{digest}"), format!("app:v1@{digest}"))
        );
    }

    #[test]
    fn what_is_no_reference_is_refused() {
        let hex = "a".repeat(64);
        let long_path = format!("a/{}", "b".repeat(254));
        let long_tag = format!("app:{}", "t".repeat(129));
        let bads = [
            "",
            "App",
            "a//b",
            "../app",
            "app:",
            "app:.x",
            "app:a b",
            "a:b:c",
            "/app",
            "app/",
            "-app",
            "app-",
            "a___b",
            "a..b",
            "a._b",
            "app@",
            "app@sha256:00",
            "app@v1",
            "host:0/app",
            "host:99999/app",
            "host:x/app",
            "[::1/app",
            "[zz]/app",
            "-host.io/app",
            "host..io/app",
            "app\n",
            "app\0",
            "löwe",
            &hex,
            &long_path,
            &long_tag,
        ];
        for bad in bads {
            assert!(bad.parse::<Reference>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn the_limits_are_the_grammars() {
        assert!(format!("h.io/{}", "b".repeat(255)).parse::<Reference>().is_ok());
        assert!(format!("app:{}", "t".repeat(128)).parse::<Reference>().is_ok());
    }

    #[test]
    fn typography_is_named() {
        let err = "my\u{2011}dl\u{2011}image".parse::<Reference>().unwrap_err().to_string();
        assert_eq!(err, "U+2011 in \"my\u{2011}dl\u{2011}image\": did you mean my-dl-image?");
        let err = "\u{201c}app\u{201d}".parse::<Reference>().unwrap_err().to_string();
        assert_eq!(err, "U+201C in \"\u{201c}app\u{201d}\": did you mean app?");
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "\\PC*") {
            let _ = text.parse::<Reference>();
        }

        /// What distribution/reference's grammar makes is taken, and is what it was made of.
        #[test]
        fn every_name_of_the_grammar_is_read(
            domain in prop::option::of(domain()),
            path in prop::collection::vec(component(), 1..4),
            tag in prop::option::of("[A-Za-z0-9_][A-Za-z0-9_.-]{0,20}"),
            digest in prop::option::of("[0-9a-f]{64}"),
        ) {
            // Without a registry, a first component with a dot would be one.
            prop_assume!(domain.is_some() || path.len() == 1 || !path[0].contains('.'));
            let path = path.join("/");
            let name = domain.as_ref().map_or(path.clone(), |domain| format!("{domain}/{path}"));
            let tag_part = tag.as_ref().map_or(String::new(), |tag| format!(":{tag}"));
            let digest_part = digest.as_ref().map_or(String::new(), |hex| format!("@sha256:{hex}"));
            let text = format!("{name}{tag_part}{digest_part}");
            let name: Reference = text.parse().unwrap();
            match &domain {
                Some(domain) => {
                    prop_assert_eq!(name.domain(), domain);
                    prop_assert_eq!(name.path(), &path);
                }
                None => prop_assert!(name.path().ends_with(&path)),
            }
            prop_assert_eq!(name.digest().map(Digest::hex), digest);
            match (&tag, name.digest()) {
                (Some(tag), _) => prop_assert_eq!(name.tag(), Some(tag.as_str())),
                (None, Some(_)) => prop_assert_eq!(name.tag(), None),
                (None, None) => prop_assert_eq!(name.tag(), Some("latest")),
            }
            let again: Reference = name.to_string().parse().unwrap();
            prop_assert_eq!((again.full(), again.digest()), (name.full(), name.digest()));
            prop_assert_eq!(name.full().parse::<Reference>().unwrap().full(), name.full());
        }

        /// One wrong character, anywhere, never makes another name of the same letters.
        #[test]
        fn what_is_not_of_the_grammar_is_not_read(at in 0usize..40, odd in "[^a-zA-Z0-9._:/@\\[\\]-]") {
            let name = "registry.example.com:5000/some/name:v1.0";
            let text = format!("{}{odd}{}", &name[..at], &name[at..]);
            prop_assert!(text.parse::<Reference>().is_err(), "{:?}", text);
        }
    }

    /// `path-component` of distribution/reference.
    fn component() -> impl Strategy<Value = String> {
        "[a-z0-9]{1,6}((\\.|_|__|-{1,3})[a-z0-9]{1,4}){0,3}"
    }

    /// `domain`, of those that Docker tells from a user's name.
    fn domain() -> impl Strategy<Value = String> {
        prop_oneof![
            "[a-zA-Z0-9]([a-zA-Z0-9-]{0,5}[a-zA-Z0-9])?(\\.[a-z0-9]([a-z0-9-]{0,5}[a-z0-9])?){1,3}(:[1-9][0-9]{0,3})?",
            "localhost(:[1-9][0-9]{0,3})?",
            any::<std::net::Ipv6Addr>().prop_map(|address| format!("[{address}]")),
            any::<std::net::Ipv4Addr>().prop_map(|address| format!("{address}:443")),
        ]
        .prop_filter("Docker Hub's own names are one", |domain| domain != "index.docker.io")
    }
}
