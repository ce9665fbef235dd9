//! Writing: blobs in one piece or several, then the manifest that names them; and deleting.
//!
//! What is pushed to a repository gets the name that Docker reads in it:
//! `app:1` becomes `docker.io/library/app:1`, `ghcr.io/team/app:1` stays that. A
//! manifest that is pushed by digest has the name `REPOSITORY@DIGEST` until an
//! index of the same repository lists it.

use std::collections::HashSet;
use std::time::Duration;

use anyhow::Result;
use common::digest::Digest;
use common::error;
use common::image::{self, DOCUMENT_LIMIT, Document, INDEX_DEPTH, Kind};
use common::layout::{Image, NewBlob};
use hyper::header::{HeaderName, LOCATION, RANGE};
use hyper::{Method, StatusCode};
use oci_spec::image::Descriptor;

use crate::answer::{Answer, Code, Problem, error_as, not_allowed, refuse};
use crate::names;
use crate::pull::{CONTENT_DIGEST, Shelf, unknown_blob};
use crate::route;
use crate::uploads::{Hold, Upload, Uploads};

const UPLOAD_ID: HeaderName = HeaderName::from_static("docker-upload-uuid");
const SUBJECT: HeaderName = HeaderName::from_static("oci-subject");

/// The most documents below one index.
const DOCUMENTS: usize = 1000;

/// Answers where an upload stands.
pub fn progress(status: StatusCode, name: &str, upload: &Upload) -> Answer {
    // Of nothing there is no last byte; Docker's registry says 0 there too.
    let last = upload.received().saturating_sub(1);
    Answer::empty(status)
        .with(LOCATION, format!("/v2/{name}/blobs/uploads/{}", upload.id))
        .with(RANGE, format!("0-{last}"))
        .with(UPLOAD_ID, &upload.id)
}

/// Refuses a chunk that does not begin where the last one ended.
pub fn out_of_order<T>(name: &str, upload: &Upload) -> Result<T, Problem> {
    let message = format!("out of order: {} bytes are here", upload.received());
    let refused = error_as(StatusCode::RANGE_NOT_SATISFIABLE, Code::BlobUploadInvalid, message);
    let mut answer = progress(StatusCode::RANGE_NOT_SATISFIABLE, name, upload);
    answer.headers.extend(refused.headers);
    answer.content = refused.content;
    Err(Problem::from(answer))
}

/// Reads the digest that an upload shall have.
pub fn wanted_digest(text: Option<&str>) -> Result<Digest, Problem> {
    match text.map(str::parse::<Digest>) {
        Some(Ok(digest)) => Ok(digest),
        Some(Err(err)) => refuse(Code::DigestInvalid, err.to_string()),
        None => refuse(Code::DigestInvalid, "the query has no digest"),
    }
}

/// Answers that a blob is here.
pub fn created(name: &str, digest: &Digest) -> Answer {
    Answer::empty(StatusCode::CREATED)
        .with(LOCATION, format!("/v2/{name}/blobs/{digest}"))
        .with(CONTENT_DIGEST, digest.to_string())
}

/// Takes a blob that another repository has, or any if it is not said which; returns nothing if it has not.
pub fn mount(
    shelf: &Shelf,
    uploads: &Uploads,
    name: &str,
    digest: &str,
    from: Option<&str>,
) -> Result<Option<Answer>, Problem> {
    let Ok(digest) = digest.parse::<Digest>() else { return Ok(None) };
    // First the lock, then a look: from now on nobody prunes it.
    let hold = uploads.hold()?;
    if shelf.layout.size(&digest).is_none() {
        return Ok(None);
    }
    let found = match from {
        Some(from) => {
            let repository = shelf.repository(from)?;
            uploads.is_expected(from, &digest) || repository.is_some_and(|it| it.has(&digest))
        }
        None => true,
    };
    if !found {
        return Ok(None);
    }
    uploads.expect(name, digest, &hold)?;
    Ok(Some(created(name, &digest)))
}

/// Gives an upload that is all here its digest for a name.
pub fn finish(
    uploads: &Uploads,
    name: &str,
    upload: &Upload,
    blob: NewBlob<'static>,
    digest: &Digest,
) -> Result<Answer, Problem> {
    uploads.end(upload);
    uploads.expect(name, *digest, &upload.hold)?;
    let published = blob.seal().publish_as(digest);
    if !matches!(published, Ok(true)) {
        uploads.forget(name, [digest].into_iter());
    }
    match published? {
        true => Ok(created(name, digest)),
        false => refuse(Code::DigestInvalid, format!("{digest}: the bytes have another digest")),
    }
}

/// Takes a manifest in, and gives it a name.
pub fn put_manifest(
    shelf: &Shelf,
    uploads: &Uploads,
    name: &str,
    reference: &str,
    media_type: Option<&str>,
    bytes: &[u8],
) -> Result<Answer, Problem> {
    let digest = match reference.parse::<Digest>() {
        Ok(digest) => {
            let mut hasher = digest.hasher();
            hasher.update(bytes);
            if hasher.finish() != digest {
                return refuse(
                    Code::DigestInvalid,
                    format!("{digest}: the bytes have another digest"),
                );
            }
            digest
        }
        Err(err) if reference.contains(':') => return refuse(Code::DigestInvalid, err.to_string()),
        Err(_) if !route::is_tag(reference) => {
            return refuse(Code::ManifestInvalid, format!("{reference}: not a tag"));
        }
        Err(_) => Digest::of(bytes),
    };
    let by_digest = reference.contains(':');
    let rest = format!("{}{reference}", if by_digest { "@" } else { ":" });
    let Ok(full) = names::meant(name, &rest) else {
        return refuse(Code::NameInvalid, format!("{name}{rest}: not a name for an image"));
    };
    let invalid = |err: anyhow::Error| refuse(Code::ManifestInvalid, error::line(&err));
    let media_type = match media_type {
        Some(media_type) => media_type.to_owned(),
        None => match image::media_type_of(bytes) {
            Ok(media_type) => media_type,
            Err(err) => return invalid(err),
        },
    };
    let document = match image::parse(bytes, &media_type) {
        Ok(document) => document,
        Err(err) => return invalid(err),
    };
    let hold = uploads.hold()?;
    let mut checked = Checked { shelf, seen: HashSet::new() };
    checked.document(&document, 0)?;
    hold.put_as(&digest, bytes)?;
    let desc = image::descriptor(media_type.as_str().into(), &digest, bytes.len() as u64);
    if by_digest {
        uploads.expect_index(name, digest);
    }
    hold.tag(&full, &desc, None)?;

    let (needed, subject) = match &document {
        Document::Manifest(manifest) => {
            let descs = std::iter::once(manifest.config()).chain(manifest.layers());
            (digests(descs), manifest.subject().clone())
        }
        Document::Index(index) => {
            let members = digests(index.manifests().iter());
            let needless = uploads.claim(name, members.iter());
            drop_names(shelf, name, &needless)?;
            (members, index.subject().clone())
        }
    };
    uploads.forget(name, needed.iter());
    let mut answer = Answer::empty(StatusCode::CREATED)
        .with(LOCATION, format!("/v2/{name}/manifests/{digest}"))
        .with(CONTENT_DIGEST, digest.to_string());
    if let Some(subject) = subject {
        answer = answer.with(SUBJECT, subject.digest().to_string());
    }
    drop::<Hold>(hold);
    Ok(answer)
}

fn digests<'a>(descs: impl Iterator<Item = &'a Descriptor>) -> Vec<Digest> {
    descs.filter_map(|desc| image::digest(desc).ok()).collect()
}

/// Takes the names by digest from manifests that an index lists now.
fn drop_names(shelf: &Shelf, name: &str, digests: &[Digest]) -> Result<()> {
    if digests.is_empty() {
        return Ok(());
    }
    let texts: HashSet<String> = digests.iter().map(Digest::to_string).collect();
    shelf.layout.removing(Duration::ZERO)?.update(|index| {
        for digest in &texts {
            index.unname(&names::meant(name, &format!("@{digest}"))?.full())?;
        }
        index.retain(|image| image.name().is_some() || !texts.contains(image.digest()));
        Ok(((), true))
    })
}

/// Sees that what a document names is here, and what that names.
struct Checked<'a> {
    shelf: &'a Shelf,
    seen: HashSet<Digest>,
}

impl Checked<'_> {
    fn document(&mut self, document: &Document, depth: usize) -> Result<(), Problem> {
        match document {
            Document::Manifest(manifest) => {
                self.desc(manifest.config())?;
                let layers = manifest.layers().iter().filter(|desc| !image::may_be_elsewhere(desc));
                layers.into_iter().try_for_each(|desc| self.desc(desc).map(drop))
            }
            Document::Index(index) => {
                for desc in index.manifests() {
                    let media_type = image::media_type(desc);
                    let digest = self.desc(desc)?;
                    if Kind::of(&media_type).is_none() || !self.seen.insert(digest) {
                        continue;
                    }
                    if depth == INDEX_DEPTH || self.seen.len() > DOCUMENTS {
                        return refuse(Code::ManifestInvalid, "too many documents below it");
                    }
                    let parsed =
                        self.shelf.layout.read(desc).and_then(|it| image::parse(&it, &media_type));
                    match parsed {
                        Ok(document) => self.document(&document, depth + 1)?,
                        Err(err) => {
                            return refuse(
                                Code::ManifestInvalid,
                                format!("{digest}: {}", error::line(&err)),
                            );
                        }
                    }
                }
                Ok(())
            }
        }
    }

    /// Sees that what a descriptor means is here.
    fn desc(&self, desc: &Descriptor) -> Result<Digest, Problem> {
        let Ok(digest) = image::digest(desc) else {
            return refuse(Code::ManifestInvalid, format!("{}: not a digest", desc.digest()));
        };
        match self.shelf.layout.size(&digest) {
            Some(size) if size == desc.size() => Ok(digest),
            Some(size) => {
                let message =
                    format!("{digest}: it has {size} bytes, its descriptor says {}", desc.size());
                refuse(Code::ManifestInvalid, message)
            }
            None => refuse(Code::ManifestBlobUnknown, format!("{digest}: not here")),
        }
    }
}

/// Deletes a tag, or a manifest with all the tags that the repository has for it.
pub fn delete_manifest(
    shelf: &Shelf,
    uploads: &Uploads,
    name: &str,
    reference: &str,
) -> Result<Answer, Problem> {
    let names = shelf.names()?;
    let Some(repository) = names.repository(name) else {
        return refuse(Code::NameUnknown, format!("{name}: no such repository"));
    };
    let unknown = || refuse(Code::ManifestUnknown, format!("{name}:{reference}: no such manifest"));
    let accepted = || Ok(Answer::empty(StatusCode::ACCEPTED));
    let removing = || shelf.layout.removing(Duration::ZERO);
    let Ok(digest) = reference.parse::<Digest>() else {
        if reference.contains(':') {
            return refuse(Code::DigestInvalid, format!("{reference}: not a digest"));
        }
        let Some(full) = names.tagged(name, reference).and_then(Image::name) else {
            return unknown();
        };
        let gone = removing()?.update(|index| index.unname(full).map(|gone| (gone, gone)))?;
        return if gone { accepted() } else { unknown() };
    };

    let text = digest.to_string();
    let is_it = |image: &&Image| image.digest() == text;
    let named: Vec<&str> = names.images(repository).filter(is_it).filter_map(Image::name).collect();
    let nameless = names.loose().any(|image| is_it(&image));
    let found = shelf.repository(name)?;
    if found.as_ref().is_some_and(|found| found.is_member(&digest)) {
        return Err(Problem::from(in_use(&digest, &[Method::PUT], "an index lists it")));
    }
    if named.is_empty() && !nameless {
        return unknown();
    }
    let mine = |other: &str| named.contains(&other);
    removing()?.update(|index| {
        let gone = index
            .retain(|image| image.digest() != text || image.name().is_some_and(|name| !mine(name)));
        Ok(((), !gone.is_empty()))
    })?;
    uploads.claim(name, [digest].iter());
    accepted()
}

/// Refuses to delete what something else needs. What can be done with it instead is read it, or `more`.
fn in_use(digest: &Digest, more: &[Method], why: &str) -> Answer {
    let allowed = [&[Method::GET, Method::HEAD], more].concat();
    not_allowed(&allowed, &format!("{digest}: {why}"))
}

/// Deletes a blob that no manifest needs.
pub fn delete_blob(
    shelf: &Shelf,
    uploads: &Uploads,
    name: &str,
    digest: &str,
) -> Result<Answer, Problem> {
    let Ok(digest) = digest.parse::<Digest>() else {
        return refuse(Code::DigestInvalid, format!("{digest}: not a digest"));
    };
    let found = shelf.repository(name)?;
    if found.as_ref().is_some_and(|found| found.has(&digest)) {
        return Err(Problem::from(in_use(&digest, &[], "a manifest needs it")));
    }
    let waited = uploads.forget(name, [digest].iter());
    if found.is_none() && !waited {
        return refuse(Code::NameUnknown, format!("{name}: no such repository"));
    }
    match remove(shelf, vec![digest])? || waited {
        true => Ok(Answer::empty(StatusCode::ACCEPTED)),
        false => unknown_blob(&digest),
    }
}

/// Removes those of some blobs that no image needs; returns whether there are any.
///
/// While anybody pushes they stay, and are for a prune.
pub fn remove(shelf: &Shelf, blobs: Vec<Digest>) -> Result<bool> {
    let removing = shelf.layout.removing(Duration::ZERO)?;
    let index = shelf.layout.index()?;
    let unneeded = removing.unneeded_of(&index, blobs, |_, _| None)?;
    let any = !unneeded.is_empty();
    removing.remove(unneeded)?;
    Ok(any)
}

/// Returns what is read of a manifest's body before it is known to be too large.
pub fn manifest_limit() -> usize {
    DOCUMENT_LIMIT as usize + 1
}

/// Refuses a manifest that is too large.
pub fn too_large() -> Answer {
    let message = format!("a manifest has at most {DOCUMENT_LIMIT} bytes");
    error_as(StatusCode::PAYLOAD_TOO_LARGE, Code::SizeInvalid, message)
}
