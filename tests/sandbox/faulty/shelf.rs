//! What a registry that is well does with what is pushed: it keeps it, if it is right.
//!
//! Uploads are strict, as the specification has them: a part must begin where the last one ended,
//! a digest must be the one of the bytes, and a manifest may only name what is there.

use std::collections::BTreeMap;
use std::sync::Mutex;

use serde_json::Value;

use super::content::{digest, missing};
use super::message::{Asked, Reply, Then};

/// What was pushed.
#[derive(Default)]
pub struct Shelf(Mutex<State>);

#[derive(Default)]
struct State {
    begun: usize,
    uploads: BTreeMap<String, Vec<u8>>,
    blobs: BTreeMap<String, Vec<u8>>,
    manifests: BTreeMap<String, Vec<u8>>,
}

impl Shelf {
    /// Answers a request of a push; nothing if it is none.
    pub fn answer(&self, asked: &Asked) -> Option<Reply> {
        let mut state = self.0.lock().unwrap();
        let query = asked.target.split_once('?').map_or("", |(_, query)| query);
        match (asked.method.as_str(), asked.upload(), asked.manifest()) {
            // As Google's registries answer, and as the specification wants it.
            ("POST", Some(""), _) if asked.header("content-length").is_none() => {
                Some(Reply::new(411, ""))
            }
            ("POST", Some(""), _) => {
                state.begun += 1;
                let id = state.begun.to_string();
                state.uploads.insert(id.clone(), Vec::new());
                Some(state.progress(202, asked, &id))
            }
            (method, Some(id), _) => Some(state.upload(method, asked, id, query)),
            ("PUT", _, Some(name)) => Some(state.put_manifest(asked, name)),
            ("HEAD", _, None) if asked.blob().is_some() => {
                Some(match state.blobs.get(asked.blob().unwrap_or_default()) {
                    Some(bytes) => {
                        let length = bytes.len().to_string();
                        Reply::raw(format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n"))
                            .then(Then::Next)
                    }
                    None => Reply::new(404, ""),
                })
            }
            _ => None,
        }
    }

    /// Adds bytes to an upload that broke off.
    pub fn keep(&self, id: &str, bytes: &[u8]) {
        let mut state = self.0.lock().unwrap();
        state.uploads.entry(id.into()).or_default().extend_from_slice(bytes);
    }

    /// Forgets an upload.
    pub fn forget(&self, id: &str) {
        self.0.lock().unwrap().uploads.remove(id);
    }

    /// Returns the digest of the manifest that a tag names.
    pub fn tag(&self, tag: &str) -> Option<String> {
        self.0.lock().unwrap().manifests.get(tag).map(|bytes| digest(bytes))
    }

    /// Returns the blobs and manifests by digest.
    pub fn kept(&self) -> BTreeMap<String, Vec<u8>> {
        let state = self.0.lock().unwrap();
        let manifests = state.manifests.values().map(|bytes| (digest(bytes), bytes.clone()));
        state.blobs.clone().into_iter().chain(manifests).collect()
    }
}

impl State {
    /// Says how far an upload is.
    fn progress(&self, status: u16, asked: &Asked, id: &str) -> Reply {
        let path = asked.path();
        let base = &path[..path.find("/uploads/").unwrap() + "/uploads/".len()];
        let last = self.uploads[id].len().saturating_sub(1);
        Reply::new(status, "")
            .header("location", format!("{base}{id}?state=x"))
            .header("range", format!("0-{last}"))
    }

    fn upload(&mut self, method: &str, asked: &Asked, id: &str, query: &str) -> Reply {
        let Some(there) = self.uploads.get_mut(id) else { return missing() };
        match method {
            "GET" => return self.progress(204, asked, id),
            "DELETE" => {
                self.uploads.remove(id);
                return Reply::new(204, "");
            }
            "PATCH" | "PUT" => {}
            _ => return Reply::new(405, ""),
        }
        let first = asked.header("content-range").and_then(|it| it.split('-').next());
        let fits = first.is_none_or(|first| first.parse() == Ok(there.len()));
        if !fits {
            return Reply::new(416, "");
        }
        there.extend_from_slice(&asked.bytes);
        if !asked.whole {
            return Reply::new(400, ""); // it broke off, and nobody hears this
        }
        if method == "PATCH" {
            return self.progress(202, asked, id);
        }
        let bytes = self.uploads.remove(id).unwrap();
        let found = digest(&bytes);
        if !query.split('&').any(|it| it == format!("digest={}", found.replace(':', "%3A"))) {
            return Reply::new(400, r#"{"errors":[{"code":"DIGEST_INVALID","message":"no"}]}"#);
        }
        self.blobs.insert(found.clone(), bytes);
        Reply::new(201, "").header("docker-content-digest", found)
    }

    fn put_manifest(&mut self, asked: &Asked, name: &str) -> Reply {
        let Ok(manifest) = serde_json::from_slice::<Value>(&asked.bytes) else {
            return Reply::new(400, r#"{"errors":[{"code":"MANIFEST_INVALID"}]}"#);
        };
        let layers = manifest["layers"].as_array().into_iter().flatten();
        let blobs = layers.chain([&manifest["config"]]).filter_map(|desc| desc["digest"].as_str());
        let members = manifest["manifests"].as_array().into_iter().flatten();
        let mut members = members.filter_map(|desc| desc["digest"].as_str());
        let there = blobs.into_iter().all(|blob| self.blobs.contains_key(blob))
            && members.all(|member| self.manifests.contains_key(member));
        if !there {
            return Reply::new(400, r#"{"errors":[{"code":"MANIFEST_BLOB_UNKNOWN"}]}"#);
        }
        let found = digest(&asked.bytes);
        self.manifests.insert(name.into(), asked.bytes.clone());
        Reply::new(201, "").header("docker-content-digest", found)
    }
}
