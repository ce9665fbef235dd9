//! What a request is answered with: a status, headers and a body; or why not.
//!
//! An error is JSON with one of the codes of the specification, which has no
//! others: distribution-spec, section Error Codes. What went wrong on our side
//! is `UNKNOWN`, as Docker's registry has it, and its cause is told to whoever
//! runs this program, not to whoever asked.

use std::fs::File;
use std::io::ErrorKind;

use anyhow::Error;
use bytes::Bytes;
use common::error::visible;
use hyper::header::{
    ALLOW, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER,
};
use hyper::{Method, StatusCode};
use serde_json::json;

/// An answer without its transport.
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub content: Content,
}

/// What follows the headers.
pub enum Content {
    Bytes(Bytes),
    /// So many bytes of a file, from this one on.
    File {
        file: File,
        start: u64,
        len: u64,
    },
}

impl Content {
    pub fn len(&self) -> u64 {
        match self {
            Content::Bytes(bytes) => bytes.len() as u64,
            Content::File { len, .. } => *len,
        }
    }
}

impl Answer {
    /// Returns an answer without a body.
    pub fn empty(status: StatusCode) -> Answer {
        Answer { status, headers: HeaderMap::new(), content: Content::Bytes(Bytes::new()) }
    }

    /// Returns an answer with this body.
    pub fn bytes(media_type: &str, bytes: impl Into<Bytes>) -> Answer {
        let mut answer = Answer::empty(StatusCode::OK).with(CONTENT_TYPE, media_type);
        answer.content = Content::Bytes(bytes.into());
        answer
    }

    /// Adds a header. A value that no header can hold is left out.
    pub fn with(mut self, name: HeaderName, value: impl AsRef<[u8]>) -> Answer {
        if let Ok(value) = HeaderValue::from_bytes(value.as_ref()) {
            self.headers.insert(name, value);
        }
        self
    }

    /// Returns what a HEAD is answered with: the same without the body, whose length is still told.
    pub fn without_body(mut self) -> Answer {
        let len = HeaderValue::from(self.content.len());
        self.headers.entry(CONTENT_LENGTH).or_insert(len);
        self.content = Content::Bytes(Bytes::new());
        self
    }
}

/// Why a request is not done.
pub enum Problem {
    /// The client's fault, or its wish that we do not grant.
    Refused(Box<Answer>),
    /// Ours.
    Ours(Error),
}

/// The codes of the specification.
#[derive(Clone, Copy, Debug)]
pub enum Code {
    BlobUnknown,
    BlobUploadInvalid,
    BlobUploadUnknown,
    DigestInvalid,
    ManifestBlobUnknown,
    ManifestInvalid,
    ManifestUnknown,
    NameInvalid,
    NameUnknown,
    SizeInvalid,
    Unauthorized,
    Unsupported,
    TooManyRequests,
    /// Not one of them: where the fault is ours.
    Unknown,
}

impl Code {
    fn name(self) -> &'static str {
        match self {
            Code::BlobUnknown => "BLOB_UNKNOWN",
            Code::BlobUploadInvalid => "BLOB_UPLOAD_INVALID",
            Code::BlobUploadUnknown => "BLOB_UPLOAD_UNKNOWN",
            Code::DigestInvalid => "DIGEST_INVALID",
            Code::ManifestBlobUnknown => "MANIFEST_BLOB_UNKNOWN",
            Code::ManifestInvalid => "MANIFEST_INVALID",
            Code::ManifestUnknown => "MANIFEST_UNKNOWN",
            Code::NameInvalid => "NAME_INVALID",
            Code::NameUnknown => "NAME_UNKNOWN",
            Code::SizeInvalid => "SIZE_INVALID",
            Code::Unauthorized => "UNAUTHORIZED",
            Code::Unsupported => "UNSUPPORTED",
            Code::TooManyRequests => "TOOMANYREQUESTS",
            Code::Unknown => "UNKNOWN",
        }
    }

    /// Returns the status that goes with the code, unless the specification has another at some place.
    fn status(self) -> StatusCode {
        match self {
            Code::BlobUnknown
            | Code::BlobUploadUnknown
            | Code::ManifestBlobUnknown
            | Code::ManifestUnknown
            | Code::NameUnknown => StatusCode::NOT_FOUND,
            Code::BlobUploadInvalid
            | Code::DigestInvalid
            | Code::ManifestInvalid
            | Code::NameInvalid
            | Code::SizeInvalid => StatusCode::BAD_REQUEST,
            Code::Unauthorized => StatusCode::UNAUTHORIZED,
            Code::Unsupported => StatusCode::METHOD_NOT_ALLOWED,
            Code::TooManyRequests => StatusCode::TOO_MANY_REQUESTS,
            Code::Unknown => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

/// Returns an error answer with the status of its code.
pub fn error(code: Code, message: impl AsRef<str>) -> Answer {
    error_as(code.status(), code, message)
}

/// Returns an error answer with a status of its own.
pub fn error_as(status: StatusCode, code: Code, message: impl AsRef<str>) -> Answer {
    let error = json!({ "code": code.name(), "message": visible(message.as_ref()) });
    let mut answer =
        Answer::bytes("application/json", json!({ "errors": [error] }).to_string() + "\n");
    answer.status = status;
    match code {
        Code::TooManyRequests => answer.with(RETRY_AFTER, "1"),
        _ => answer,
    }
}

/// Refuses, with the status of the code.
pub fn refuse<T>(code: Code, message: impl AsRef<str>) -> Result<T, Problem> {
    Err(Problem::from(error(code, message)))
}

/// Refuses what is done at this place by other methods alone.
pub fn not_allowed(allowed: &[Method], message: &str) -> Answer {
    let allowed: Vec<&str> = allowed.iter().map(Method::as_str).collect();
    error(Code::Unsupported, message).with(ALLOW, allowed.join(", "))
}

impl From<Answer> for Problem {
    fn from(answer: Answer) -> Problem {
        Problem::Refused(Box::new(answer))
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Problem {
        Problem::Ours(error)
    }
}

impl From<std::io::Error> for Problem {
    fn from(error: std::io::Error) -> Problem {
        Problem::Ours(error.into())
    }
}

/// Returns what the client hears of an error of ours.
pub fn ours(error: &Error) -> Answer {
    let io = error.chain().find_map(|link| link.downcast_ref::<std::io::Error>());
    match io.map(std::io::Error::kind) {
        Some(ErrorKind::StorageFull | ErrorKind::QuotaExceeded) => {
            error_as(StatusCode::INSUFFICIENT_STORAGE, Code::Unknown, "the disk is full")
        }
        _ => self::error(Code::Unknown, "the registry failed"),
    }
}
