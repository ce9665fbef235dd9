//! Reading: manifests, blobs, and lists of what there is.
//!
//! Everything here is answered from index.json and the blobs as they are now;
//! nothing is locked, and nothing written.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::Result;
use common::digest::Digest;
use common::error;
use common::image;
use common::layout::{Layout, Missing};
use hyper::StatusCode;
use hyper::header::{
    ACCEPT_RANGES, CONTENT_RANGE, CONTENT_TYPE, ETAG, HeaderMap, HeaderName, IF_RANGE, LINK, RANGE,
};
use serde_json::{Value, json};

use crate::answer::{Answer, Code, Content, Problem, error_as, refuse};
use crate::names::{Current, Names};
use crate::range::{self, Part};
use crate::reach::{Head, Reach, View};
use crate::route::{self, Query};

/// The header that says what digest the answer's bytes have.
pub const CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");
const FILTERS_APPLIED: HeaderName = HeaderName::from_static("oci-filters-applied");

/// The most tags or repositories in one answer.
const PAGE: usize = 10_000;
/// The most bytes of descriptors in one list of referrers, but for the last of them.
const REFERRERS_PAGE: usize = 1 << 20;

/// A layout that is read.
pub struct Shelf {
    pub layout: &'static Layout,
    names: Current,
    reach: Reach,
}

/// A repository that is there, at some time.
pub struct Repository {
    own: Arc<View>,
    loose: Arc<View>,
}

impl Repository {
    /// Returns the manifest or index with this digest.
    pub fn manifest(&self, digest: &Digest) -> Option<&Head> {
        self.own.manifest(digest).or_else(|| self.loose.manifest(digest))
    }

    /// Returns whether an index of the repository lists this manifest.
    pub fn is_member(&self, digest: &Digest) -> bool {
        self.own.is_member(digest) || self.loose.is_member(digest)
    }

    /// Returns whether a manifest of the repository needs this blob.
    pub fn has(&self, digest: &Digest) -> bool {
        self.own.has(digest) || self.loose.has(digest)
    }
}

impl Shelf {
    pub fn new(layout: &'static Layout) -> Shelf {
        Shelf { layout, names: Current::new(layout), reach: Reach::new(layout) }
    }

    /// Returns what the layout offers now.
    pub fn names(&self) -> Result<Arc<Names>> {
        self.names.get()
    }

    /// Returns a repository, if there is one of this name.
    pub fn repository(&self, name: &str) -> Result<Option<Repository>> {
        let names = self.names()?;
        if names.repository(name).is_none() {
            return Ok(None);
        }
        let (own, loose) = (self.reach.view(&names, Some(name)), self.reach.view(&names, None));
        Ok(Some(Repository { own, loose }))
    }

    /// Answers with a manifest, by tag or digest.
    pub fn manifest(
        &self,
        name: &str,
        reference: &str,
        headers: &HeaderMap,
    ) -> Result<Answer, Problem> {
        let names = self.names()?;
        if names.repository(name).is_none() {
            return refuse(Code::NameUnknown, format!("{name}: no such repository"));
        }
        let unknown =
            || refuse(Code::ManifestUnknown, format!("{name}:{reference}: no such manifest"));
        let head = match reference.parse::<Digest>() {
            Ok(digest) => {
                let repository = self.repository(name)?;
                repository.and_then(|repository| repository.manifest(&digest).cloned())
            }
            Err(_) if reference.contains(':') => {
                return refuse(Code::DigestInvalid, format!("{reference}: not a digest"));
            }
            Err(_) => match names.tagged(name, reference) {
                Some(image) => {
                    let desc = image.descriptor()?;
                    let digest = image::digest(&desc)?;
                    Some(Head { digest, size: desc.size(), media_type: image::media_type(&desc) })
                }
                None => None,
            },
        };
        let Some(head) = head else { return unknown() };
        if !accepted(headers, &head.media_type) {
            let message = format!(
                "{name}:{reference}: it is {}, which Accept does not list",
                head.media_type
            );
            return refuse(Code::ManifestUnknown, message);
        }
        let desc = image::descriptor(head.media_type.as_str().into(), &head.digest, head.size);
        let bytes = match self.layout.read(&desc) {
            Err(err) if error::find::<Missing>(&err).is_some() => return unknown(),
            bytes => bytes?,
        };
        Ok(Answer::bytes(&head.media_type, bytes)
            .with(CONTENT_DIGEST, head.digest.to_string())
            .with(ETAG, format!("\"{}\"", head.digest)))
    }

    /// Answers with a blob, or a part of it, for a repository that has it.
    pub fn blob(&self, digest: &Digest, headers: &HeaderMap) -> Result<Answer, Problem> {
        let (file, size) = match self.layout.open_digest(digest) {
            Err(err) if error::find::<Missing>(&err).is_some() => return unknown_blob(digest),
            opened => opened?,
        };
        let etag = format!("\"{digest}\"");
        let text = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
        // A part of another version is of no use; a blob has one version alone.
        let same = headers.get(IF_RANGE).is_none() || text(IF_RANGE) == Some(&etag);
        let part = match text(RANGE) {
            Some(range) if same => range::part(range, size),
            _ => Part::Whole,
        };
        let mut answer = Answer::empty(StatusCode::OK)
            .with(CONTENT_TYPE, "application/octet-stream")
            .with(CONTENT_DIGEST, digest.to_string())
            .with(ACCEPT_RANGES, "bytes")
            .with(ETAG, etag);
        answer.content = match part {
            Part::Whole => Content::File { file, start: 0, len: size },
            Part::Bytes { start, len } => {
                answer.status = StatusCode::PARTIAL_CONTENT;
                answer =
                    answer.with(CONTENT_RANGE, format!("bytes {start}-{}/{size}", start + len - 1));
                Content::File { file, start, len }
            }
            Part::Beyond => {
                let status = StatusCode::RANGE_NOT_SATISFIABLE;
                let answer =
                    error_as(status, Code::SizeInvalid, format!("{digest}: it has {size} bytes"));
                return Err(Problem::from(answer.with(CONTENT_RANGE, format!("bytes */{size}"))));
            }
        };
        Ok(answer)
    }

    /// Answers with the repositories that there are.
    pub fn catalog(&self, query: &Query) -> Result<Answer, Problem> {
        let names = self.names()?;
        let (page, link) = page(names.listed().iter(), query, "/v2/_catalog")?;
        Ok(list(json!({ "repositories": page }), link))
    }

    /// Answers with the tags of a repository.
    pub fn tags(&self, name: &str, query: &Query) -> Result<Answer, Problem> {
        let names = self.names()?;
        let Some(repository) = names.repository(name) else {
            return refuse(Code::NameUnknown, format!("{name}: no such repository"));
        };
        let (page, link) = page(repository.tags.keys(), query, &format!("/v2/{name}/tags/list"))?;
        Ok(list(json!({ "name": name, "tags": page }), link))
    }

    /// Answers with the manifests whose subject has this digest. Never with 404, which would say that
    /// there are no such lists here.
    pub fn referrers(&self, name: &str, digest: &str, query: &Query) -> Result<Answer, Problem> {
        let Ok(subject) = digest.parse::<Digest>() else {
            return refuse(Code::DigestInvalid, format!("{digest}: not a digest"));
        };
        let wanted = query.get("artifactType");
        let last = query.get("last").unwrap_or_default();
        let mut found: BTreeMap<String, Head> = BTreeMap::new();
        if let Some(repository) = self.repository(name)? {
            for view in [&repository.own, &repository.loose] {
                let heads =
                    view.referrers(&subject).map(|head| (head.digest.to_string(), head.clone()));
                found.extend(heads.filter(|(digest, _)| digest.as_str() > last));
            }
        }
        let (mut manifests, mut bytes, mut link) = (Vec::new(), 0, None);
        let mut previous = String::new();
        for (digest, head) in found {
            let Some(desc) = self.referrer(&head, wanted) else { continue };
            let more = desc.to_string().len();
            if bytes > 0 && bytes + more > REFERRERS_PAGE {
                let filter = wanted.map(|it| format!("&artifactType={}", route::encoded(it)));
                let filter = filter.unwrap_or_default();
                link = Some(format!("/v2/{name}/referrers/{subject}?last={previous}{filter}"));
                break;
            }
            bytes += more;
            manifests.push(desc);
            previous = digest;
        }
        let media_type = "application/vnd.oci.image.index.v1+json";
        let index = json!({ "schemaVersion": 2, "mediaType": media_type, "manifests": manifests });
        let mut answer = linked(Answer::bytes(media_type, index.to_string()), link);
        if wanted.is_some() {
            answer = answer.with(FILTERS_APPLIED, "artifactType");
        }
        Ok(answer)
    }

    /// Returns the descriptor of a referrer, if it is of the type that is wanted.
    fn referrer(&self, head: &Head, wanted: Option<&str>) -> Option<Value> {
        let desc = image::descriptor(head.media_type.as_str().into(), &head.digest, head.size);
        let document: Value = serde_json::from_slice(&self.layout.read(&desc).ok()?).ok()?;
        let text =
            |value: &Value| value.as_str().filter(|text| !text.is_empty()).map(str::to_owned);
        let artifact_type =
            text(&document["artifactType"]).or_else(|| text(&document["config"]["mediaType"]));
        if wanted.is_some() && wanted != artifact_type.as_deref() {
            return None;
        }
        let mut desc = json!({
            "mediaType": head.media_type, "digest": head.digest.to_string(), "size": head.size,
        });
        if let Some(artifact_type) = artifact_type {
            desc["artifactType"] = artifact_type.into();
        }
        if document["annotations"].is_object() {
            desc["annotations"] = document["annotations"].clone();
        }
        Some(desc)
    }
}

/// Refuses for want of a blob.
pub fn unknown_blob<T>(digest: &Digest) -> Result<T, Problem> {
    refuse(Code::BlobUnknown, format!("{digest}: no such blob"))
}

/// Returns a page of a sorted list, and where the next one is.
fn page<'a>(
    all: impl Iterator<Item = &'a String>,
    query: &Query,
    path: &str,
) -> Result<(Vec<&'a str>, Option<String>), Problem> {
    let wanted = match query.get("n").map(str::parse::<usize>) {
        None => PAGE,
        Some(Ok(n)) => n.min(PAGE),
        Some(Err(_)) => {
            let message = "n is not a number";
            return Err(Problem::from(error_as(
                StatusCode::BAD_REQUEST,
                Code::Unsupported,
                message,
            )));
        }
    };
    let last = query.get("last").unwrap_or_default();
    let mut rest = all.map(String::as_str).filter(|name| *name > last);
    let page: Vec<&str> = rest.by_ref().take(wanted).collect();
    let link = match (page.last(), rest.next()) {
        (Some(last), Some(_)) => Some(format!("{path}?n={wanted}&last={}", route::encoded(last))),
        _ => None,
    };
    Ok((page, link))
}

fn list(json: Value, link: Option<String>) -> Answer {
    linked(Answer::bytes("application/json", json.to_string() + "\n"), link)
}

/// Says where the next page is: RFC 8288.
fn linked(answer: Answer, link: Option<String>) -> Answer {
    match link {
        Some(link) => answer.with(LINK, format!("<{link}>; rel=\"next\"")),
        None => answer,
    }
}

/// Returns whether a client that sends these headers takes this media type. One that says nothing takes all.
fn accepted(headers: &HeaderMap, media_type: &str) -> bool {
    let mut accept = headers.get_all(hyper::header::ACCEPT).iter().peekable();
    if accept.peek().is_none() {
        return true;
    }
    let taken = |range: &str| {
        let mut parts = range.split(';').map(str::trim);
        let name = parts.next().unwrap_or_default();
        let refused = parts.any(|parameter| {
            let zero = parameter.strip_prefix("q=").map(|q| q.parse::<f32>());
            matches!(zero, Some(Ok(q)) if q == 0.0)
        });
        let matches = match name.strip_suffix("/*") {
            Some("*") => true,
            Some(kind) => media_type.split('/').next() == Some(kind),
            None => name.eq_ignore_ascii_case(media_type),
        };
        matches && !refused
    };
    accept.filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(',')).any(taken)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_accept_header_is_read() {
        let media_type = "application/vnd.oci.image.manifest.v1+json";
        let table = [
            ("*/*", true),
            ("application/*", true),
            ("text/*", false),
            ("text/html, application/vnd.oci.image.manifest.v1+json;q=0.5", true),
            ("application/vnd.oci.image.manifest.v1+json;q=0", false),
            ("Application/Vnd.OCI.image.manifest.v1+json", true),
            ("application/vnd.docker.distribution.manifest.v2+json", false),
            ("application/json", false),
            ("", false),
        ];
        for (accept, taken) in table {
            let mut headers = HeaderMap::new();
            assert!(accepted(&headers, media_type));
            headers.append(hyper::header::ACCEPT, accept.parse().unwrap());
            assert_eq!(accepted(&headers, media_type), taken, "{accept:?}");
        }
        let mut headers = HeaderMap::new();
        headers.append(hyper::header::ACCEPT, "text/html".parse().unwrap());
        headers.append(hyper::header::ACCEPT, media_type.parse().unwrap());
        assert!(accepted(&headers, media_type), "one of two headers");
    }

    #[test]
    fn a_list_comes_in_pages() {
        let all: Vec<String> = ["a", "b", "c"].map(String::from).to_vec();
        let page = |query: &str| match super::page(all.iter(), &Query::parse(query), "/p") {
            Ok((page, link)) => format!("{} {}", page.join(","), link.unwrap_or_default()),
            Err(_) => "refused".into(),
        };
        let table = [
            ("", "a,b,c "),
            ("n=2", "a,b /p?n=2&last=b"),
            ("n=2&last=b", "c "),
            ("n=3", "a,b,c "),
            ("n=0", " "),
            ("last=a", "b,c "),
            ("last=z", " "),
            ("last=aa&n=1", "b /p?n=1&last=b"),
            ("n=99999999", "a,b,c "),
            ("n=-1", "refused"),
            ("n=x", "refused"),
            ("n=", "refused"),
        ];
        for (query, found) in table {
            assert_eq!(page(query), found, "{query:?}");
        }
    }
}
