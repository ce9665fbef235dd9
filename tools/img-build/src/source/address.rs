//! The address of a file on the web.

use anyhow::{Result, anyhow, bail, ensure};
use common::credentials::Credentials;
use url::Url;

/// Where a file is, and who we are there. What is shown of it tells no secrets.
#[derive(Clone, PartialEq, Eq)]
pub struct Address {
    /// Without a user, and without a fragment.
    url: Url,
    /// An `Authorization` header.
    authorization: Option<String>,
}

impl Address {
    /// Reads `http://` and `https://`.
    pub fn parse(text: &str) -> Result<Address> {
        // What is wrong with it may be where a password is.
        let mut url = Url::parse(text).map_err(|err| anyhow!("not a URL: {err}"))?;
        ensure!(matches!(url.scheme(), "http" | "https"), "neither http:// nor https://");
        let authorization = match (url.username(), url.password()) {
            ("", None) => None,
            (user, password) => {
                let pair = format!("{}:{}", decoded(user)?, decoded(password.unwrap_or(""))?);
                let credentials: Credentials =
                    pair.parse().map_err(|_| anyhow!("not a user and a password"))?;
                credentials.basic()
            }
        };
        // Of http and https there is always a host, which has a user and a password.
        let cleared = url.set_username("").and_then(|()| url.set_password(None));
        cleared.map_err(|()| anyhow!("not the URL of a host"))?;
        url.set_fragment(None);
        Ok(Address { url, authorization })
    }

    /// Returns what is asked for.
    pub fn url(&self) -> &Url {
        &self.url
    }

    /// Returns what is said to the server of who we are.
    pub fn authorization(&self) -> Option<&str> {
        self.authorization.as_deref()
    }

    /// Returns the host, and the port if it is a special one.
    pub fn host(&self) -> String {
        common::registry::http::place(&self.url)
    }

    /// Returns the file's name, the last component of the path, as BuildKit has it.
    pub fn file_name(&self) -> Result<String> {
        let path = decoded(self.url.path())?;
        let name = path.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
        match name {
            "" | "." | ".." => Ok("__unnamed__".into()),
            name if name.contains('\0') => bail!("a name with NUL in it"),
            name => Ok(name.into()),
        }
    }
}

impl std::fmt::Display for Address {
    /// A query may be a signature, which is as good as a password.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut url = self.url.clone();
        url.set_query(None);
        f.write_str(url.as_str())
    }
}

impl std::fmt::Debug for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Address({self})")
    }
}

/// Returns a source of ADD without the user and the password in it, as Docker shows it in history.
pub fn redacted(source: &str) -> String {
    let Some((scheme, rest)) = source.split_once("://") else { return source.into() };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let Some((who, _)) = rest[..end].rsplit_once('@') else { return source.into() };
    let masked = if who.contains(':') { "xxxxx:xxxxx" } else { "xxxxx" };
    format!("{scheme}://{masked}{}", &rest[who.len()..])
}

/// Returns a text without its `%20`s.
pub(super) fn decoded(text: &str) -> Result<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        let pair = after.get(..2).filter(|_| *first == b'%');
        let pair = pair.and_then(|pair| std::str::from_utf8(pair).ok());
        let pair = pair.filter(|pair| pair.bytes().all(|c| c.is_ascii_hexdigit()));
        match pair.and_then(|pair| u8::from_str_radix(pair, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8(bytes).map_err(|_| anyhow!("not UTF-8"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_name_is_the_last_component() {
        let table = [
            ("http://h/a", "a"),
            ("http://h/a/b.tar.gz?x=y/z#f", "b.tar.gz"),
            ("http://h/a/", "a"),
            ("http://h/a//", "a"),
            ("http://h", "__unnamed__"),
            ("http://h/", "__unnamed__"),
            ("http://h?a", "__unnamed__"),
            ("http://h/a%20b", "a b"),
            ("http://h/a%2fb", "b"),
            ("http://h/a%2f..", "__unnamed__"),
            ("http://h/..", "__unnamed__"),
            ("http://h/%zz", "%zz"),
            ("http://h/%e4", ""),
            ("http://h/%00", ""),
        ];
        for (text, expected) in table {
            let name = Address::parse(text).unwrap().file_name();
            assert_eq!(name.unwrap_or_default(), expected, "{text}");
        }
    }

    #[test]
    fn nobody_is_told_who_we_are_there() {
        let address = Address::parse("https://me:hunt%65r2@h:444/a?sig=hunter2#hunter2").unwrap();
        assert_eq!(address.authorization(), Some("Basic bWU6aHVudGVyMg=="));
        assert_eq!(address.url().as_str(), "https://h:444/a?sig=hunter2");
        assert_eq!(address.host(), "h:444");
        assert_eq!(format!("{address} {address:?}"), "https://h:444/a Address(https://h:444/a)");
        let token = Address::parse("https://token@h/a").unwrap();
        assert_eq!(token.authorization(), Some("Basic dG9rZW46"));
    }

    #[test]
    fn history_does_not_tell_either() {
        let table = [
            ("a@b", "a@b"),
            ("http://h/a@b", "http://h/a@b"),
            ("http://me:hunter2@h/a@b", "http://xxxxx:xxxxx@h/a@b"),
            ("https://token@h", "https://xxxxx@h"),
            ("https://a:b@c@h?d#e", "https://xxxxx:xxxxx@h?d#e"),
            ("ssh://git@h/a", "ssh://xxxxx@h/a"),
            ("git@h:a", "git@h:a"),
        ];
        for (text, expected) in table {
            assert_eq!(redacted(text), expected);
        }
    }

    #[test]
    fn only_the_web_is_read() {
        for bad in ["", "a", "file:///etc/passwd", "ftp://h/a", "http://", "http://h:x/"] {
            let err = Address::parse(bad).unwrap_err();
            assert!(!err.to_string().contains("passwd"), "{err}");
        }
        assert!(Address::parse("https://me:hunter2@[h/").unwrap_err().to_string().len() < 60);
    }

    proptest! {
        #[test]
        fn no_address_is_a_path(text in "https?://[a-z]{1,3}/[a-z/.%0-9]{0,20}") {
            let Ok(address) = Address::parse(&text) else { return Ok(()) };
            let Ok(name) = address.file_name() else { return Ok(()) };
            prop_assert!(!name.is_empty() && name != "." && name != ".." && !name.contains(['/', '\0']));
        }
    }
}
