//! What a request asks for: its path and query, read strictly.
//!
//! ```text
//! /v2/                                   is this a registry?
//! /v2/_catalog                           which repositories are there?
//! /v2/NAME/tags/list
//! /v2/NAME/manifests/TAG-or-DIGEST
//! /v2/NAME/blobs/DIGEST
//! /v2/NAME/blobs/uploads/                an upload begins
//! /v2/NAME/blobs/uploads/ID              an upload goes on
//! /v2/NAME/referrers/DIGEST
//! ```
//!
//! A name is checked by the specification's grammar, in which no component is
//! empty or begins with a dot, so none of them leads anywhere in a file system.
//! Distribution-spec, section Endpoints.

/// The longest name of a repository, in bytes: what common::reference takes.
const NAME_LIMIT: usize = 255;
/// The longest tag, in bytes.
const TAG_LIMIT: usize = 128;

/// What a path leads to. Tags, digests and upload IDs are checked by whoever looks for them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    Root,
    Catalog,
    Tags { name: String },
    Manifest { name: String, reference: String },
    Blob { name: String, digest: String },
    Uploads { name: String },
    Upload { name: String, id: String },
    Referrers { name: String, digest: String },
}

/// Why a path leads nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wrong {
    /// No endpoint looks like this.
    Path,
    /// It would be one, with another repository's name.
    Name,
}

impl Route {
    /// Reads the path of a request.
    pub fn parse(path: &str) -> Result<Route, Wrong> {
        let path = decoded(path).ok_or(Wrong::Path)?;
        let rest = match path.strip_prefix("/v2") {
            Some("" | "/") => return Ok(Route::Root),
            Some("/_catalog") => return Ok(Route::Catalog),
            Some(rest) => rest.strip_prefix('/').ok_or(Wrong::Path)?,
            None => return Err(Wrong::Path),
        };
        // From its end: a repository may be called `blobs/uploads`.
        let (front, last) = rest.rsplit_once('/').ok_or(Wrong::Path)?;
        let (front, kind) = front.rsplit_once('/').ok_or(Wrong::Path)?;
        let last = last.to_owned();
        let route = match (kind, last.as_str()) {
            ("tags", "list") => Route::Tags { name: name(front)? },
            ("manifests", _) => Route::Manifest { name: name(front)?, reference: last },
            ("referrers", _) => Route::Referrers { name: name(front)?, digest: last },
            ("blobs", "uploads") => Route::Uploads { name: name(front)? },
            ("blobs", _) => Route::Blob { name: name(front)?, digest: last },
            ("uploads", _) => {
                let (front, kind) = front.rsplit_once('/').ok_or(Wrong::Path)?;
                match (kind, last.is_empty()) {
                    ("blobs", true) => Route::Uploads { name: name(front)? },
                    ("blobs", false) => Route::Upload { name: name(front)?, id: last },
                    _ => return Err(Wrong::Path),
                }
            }
            _ => return Err(Wrong::Path),
        };
        Ok(route)
    }
}

fn name(text: &str) -> Result<String, Wrong> {
    if is_name(text) { Ok(text.into()) } else { Err(Wrong::Name) }
}

/// Returns whether `text` is a repository's name.
pub fn is_name(text: &str) -> bool {
    text.len() <= NAME_LIMIT && text.split('/').all(is_component)
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`
fn is_component(text: &str) -> bool {
    let alnum = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = text.as_bytes();
    let ends = bytes.first().is_some_and(alnum) && bytes.last().is_some_and(alnum);
    let mut separators = bytes.split(alnum).filter(|separator| !separator.is_empty());
    ends && separators.all(|separator| match separator {
        b"." | b"_" | b"__" => true,
        hyphens => hyphens.iter().all(|b| *b == b'-'),
    })
}

/// Returns whether `text` is a tag: `[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}`.
pub fn is_tag(text: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let bytes = text.as_bytes();
    bytes.len() <= TAG_LIMIT
        && bytes.first().is_some_and(|b| word(*b))
        && bytes.iter().all(|b| word(*b) || matches!(b, b'.' | b'-'))
}

/// The parameters behind the question mark.
#[derive(Default)]
pub struct Query(Vec<(String, String)>);

impl Query {
    /// Reads a query; a parameter that cannot be read is none.
    pub fn parse(text: &str) -> Query {
        let pair = |pair: &str| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            Some((decoded(key)?, decoded(value)?))
        };
        Query(text.split('&').filter_map(pair).collect())
    }

    /// Returns the first parameter of this name.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// Returns `text` without percent escapes. A plus sign is one, as in `+json`: RFC 3986 knows no other reading.
fn decoded(text: &str) -> Option<String> {
    let digit = |b: Option<u8>| (b? as char).to_digit(16);
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(b) = bytes.next() {
        out.push(match b {
            b'%' => (digit(bytes.next())? << 4 | digit(bytes.next())?) as u8,
            b => b,
        });
    }
    String::from_utf8(out).ok()
}

/// Returns `text` with everything escaped that means something in a query.
pub fn encoded(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~/:".contains(&b);
    let one = |b: u8| if plain(b) { (b as char).to_string() } else { format!("%{b:02X}") };
    text.bytes().map(one).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parsed(path: &str) -> String {
        match Route::parse(path) {
            Ok(route) => format!("{route:?}").replace('"', ""),
            Err(wrong) => format!("{wrong:?}"),
        }
    }

    #[test]
    fn paths_are_read_from_their_end() {
        let table = [
            ("/v2", "Root"),
            ("/v2/", "Root"),
            ("/v2/_catalog", "Catalog"),
            ("/v2/app/tags/list", "Tags { name: app }"),
            ("/v2/a/b/c/tags/list", "Tags { name: a/b/c }"),
            ("/v2/app/manifests/1", "Manifest { name: app, reference: 1 }"),
            ("/v2/app/manifests/sha256%3Aff", "Manifest { name: app, reference: sha256:ff }"),
            ("/v2/manifests/manifests/1", "Manifest { name: manifests, reference: 1 }"),
            ("/v2/app/blobs/sha256:0", "Blob { name: app, digest: sha256:0 }"),
            ("/v2/app/blobs/uploads", "Uploads { name: app }"),
            ("/v2/app/blobs/uploads/", "Uploads { name: app }"),
            ("/v2/app/blobs/uploads/7", "Upload { name: app, id: 7 }"),
            ("/v2/blobs/uploads/blobs/uploads/", "Uploads { name: blobs/uploads }"),
            ("/v2/app/referrers/sha256:0", "Referrers { name: app, digest: sha256:0 }"),
        ];
        for (path, route) in table {
            assert_eq!(parsed(path), route, "{path}");
        }
    }

    #[test]
    fn what_is_no_endpoint_is_none() {
        for path in ["", "/", "/v1/", "/v2x", "/v2/app", "/v2/app/tags", "/v2/app/tags/x", "/v2/%"]
        {
            assert_eq!(parsed(path), "Path", "{path}");
        }
        for path in [
            "/v2/App/tags/list",
            "/v2/../tags/list",
            "/v2/a/../b/manifests/1",
            "/v2//manifests/1",
            "/v2/a//b/manifests/1",
            "/v2/a%2F..%2Fb/manifests/1",
            "/v2/.hidden/manifests/1",
            "/v2/a%00/manifests/1",
            "/v2/a___b/manifests/1",
            "/v2/a-/manifests/1",
            "/v2/l%C3%B6we/manifests/1",
        ] {
            assert_eq!(parsed(path), "Name", "{path}");
        }
        assert_eq!(parsed(&format!("/v2/{}/tags/list", "a".repeat(256))), "Name");
    }

    #[test]
    fn a_query_is_read_as_it_was_meant() {
        let query = Query::parse("mount=sha256%3Aff&from=a/b&from=c&n&artifactType=x/y+json&%=1");
        assert_eq!(query.get("mount"), Some("sha256:ff"));
        assert_eq!(query.get("from"), Some("a/b"));
        assert_eq!(query.get("n"), Some(""));
        assert_eq!(query.get("artifactType"), Some("x/y+json"));
        assert_eq!(query.get("last"), None);
    }

    proptest! {
        #[test]
        fn no_path_leads_out(path in "/v2/([a-z./%0-9]|%2[eEfF]){0,24}/(tags/list|manifests/[a-z.%/]{0,9}|blobs/.{0,9})") {
            if let Ok(Route::Tags { name } | Route::Manifest { name, .. } | Route::Blob { name, .. }) = Route::parse(&path) {
                prop_assert!(name.split('/').all(|part| !part.is_empty() && !part.starts_with('.')));
            }
        }

        #[test]
        fn no_text_panics(text in "\\PC*") {
            let _ = Route::parse(&text);
            let _ = Query::parse(&text);
        }

        #[test]
        fn what_is_encoded_is_decoded(text in "\\PC*") {
            prop_assert_eq!(decoded(&encoded(&text)), Some(text));
        }
    }
}
