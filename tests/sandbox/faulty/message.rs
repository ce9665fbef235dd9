//! What a client asks, and what it gets: a reply can be wrong in every part.

use std::time::Duration;

/// A request that came.
#[derive(Clone, Debug, Default)]
pub struct Asked {
    /// `GET`, `POST`, `CONNECT`, ...
    pub method: String,
    /// What stands after the method: a path with its query, to a proxy a URL.
    pub target: String,
    /// Their names are in lower case.
    pub headers: Vec<(String, String)>,
    pub body: String,
    /// The body's bytes, as many as the server took.
    pub bytes: Vec<u8>,
    /// They are all there are.
    pub whole: bool,
    /// How often this was asked of this server, with this time: 1, 2, ...
    pub nth: usize,
}

impl Asked {
    /// Returns a header; its name is in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// Returns the path, without a query; also of what a proxy is asked.
    pub fn path(&self) -> &str {
        let path = self.target.split('?').next().unwrap_or_default();
        match path.strip_prefix("http://").and_then(|rest| rest.find('/').map(|at| &rest[at..])) {
            Some(path) => path,
            None => path,
        }
    }

    /// Returns the tag or digest of the manifest that is asked for.
    pub fn manifest(&self) -> Option<&str> {
        self.path().split_once("/manifests/").map(|(_, name)| name)
    }

    /// Returns the digest of the blob that is asked for.
    pub fn blob(&self) -> Option<&str> {
        self.path().split_once("/blobs/").map(|(_, digest)| digest)
    }

    /// Returns the upload that is asked about; the empty one is to be begun.
    pub fn upload(&self) -> Option<&str> {
        self.path().split_once("/blobs/uploads/").map(|(_, upload)| upload)
    }

    /// Returns whether this brings bytes of a blob.
    pub fn carries(&self) -> bool {
        self.upload().is_some() && self.header("content-length").is_some_and(|it| it != "0")
    }

    /// Returns the first byte that is asked for, if not all are.
    pub fn from(&self) -> Option<usize> {
        self.header("range")?.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok()
    }

    /// Returns whether `secret` is anywhere in what came.
    pub fn holds(&self, secret: &str) -> bool {
        self.target.contains(secret)
            || self.body.contains(secret)
            || self.headers.iter().any(|(_, value)| value.contains(secret))
    }
}

/// What the head of a reply says about the body's length.
#[derive(Clone, Debug)]
pub enum Length {
    /// The truth.
    Right,
    /// This.
    Said(String),
    /// Nothing: the body ends with the connection.
    Untold,
    /// It comes in chunks.
    Chunked,
}

/// What happens after the body, or what there was of it.
#[derive(Clone, Debug)]
pub enum Then {
    /// The next request may come.
    Next,
    /// The connection ends.
    Close,
    /// The connection is reset: the client loses what it has not read.
    Reset,
    /// Nothing more comes, and the connection stays.
    Hold,
    /// This comes, again and again, until the client has enough.
    Flood(Vec<u8>),
    /// The connection goes on to this address: what a proxy does.
    Tunnel(String),
}

/// What to answer.
#[derive(Clone, Debug)]
pub struct Reply {
    pub line: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    pub length: Length,
    /// The body is cut off here.
    pub cut: Option<usize>,
    pub then: Then,
    /// The wait before the head.
    pub wait: Duration,
    /// So many bytes of the body at a time, and a pause after each.
    pub pace: Option<(usize, Duration)>,
    /// Sent in place of everything above but the wait.
    pub raw: Option<Vec<u8>>,
}

impl Reply {
    /// Returns a reply of this status.
    pub fn new(status: u16, body: impl Into<Vec<u8>>) -> Reply {
        Reply {
            line: format!("HTTP/1.1 {status} Whatever"),
            headers: Vec::new(),
            body: body.into(),
            length: Length::Right,
            cut: None,
            then: Then::Next,
            wait: Duration::ZERO,
            pace: None,
            raw: None,
        }
    }

    /// Returns bytes that are sent as they are, followed by the end of the connection.
    pub fn raw(bytes: impl Into<Vec<u8>>) -> Reply {
        Reply { raw: Some(bytes.into()), then: Then::Close, ..Reply::new(0, "") }
    }

    /// Returns a 401 with this challenge.
    pub fn challenge(challenge: impl Into<String>) -> Reply {
        Reply::new(401, "").header("www-authenticate", challenge)
    }

    /// Returns a redirect.
    pub fn to(location: impl Into<String>) -> Reply {
        Reply::new(307, "").header("location", location)
    }

    /// Returns some bytes, or the part of them that was asked for.
    pub fn bytes(asked: &Asked, bytes: &[u8]) -> Reply {
        match asked.from() {
            Some(from) if from < bytes.len() => {
                let range = format!("bytes {from}-{}/{}", bytes.len() - 1, bytes.len());
                Reply::new(206, &bytes[from..]).header("content-range", range)
            }
            Some(_) => Reply::new(416, ""),
            None => Reply::new(200, bytes),
        }
    }

    /// Adds a header.
    pub fn header(mut self, name: &str, value: impl Into<String>) -> Reply {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// Says nothing of a header.
    pub fn without(mut self, name: &str) -> Reply {
        self.headers.retain(|(key, _)| key != name);
        self
    }

    /// Lies about the length, or says nothing of it.
    pub fn length(self, length: Length) -> Reply {
        Reply { length, ..self }
    }

    /// Sends only so much of the body.
    pub fn cut(self, at: usize, then: Then) -> Reply {
        Reply { cut: Some(at), then, ..self }
    }

    /// Does this after the body.
    pub fn then(self, then: Then) -> Reply {
        Reply { then, ..self }
    }

    /// Waits before the head.
    pub fn after(self, wait: Duration) -> Reply {
        Reply { wait, ..self }
    }

    /// Sends so many bytes of the body at a time, and rests after each.
    pub fn pace(self, piece: usize, rest: Duration) -> Reply {
        Reply { pace: Some((piece, rest)), ..self }
    }

    /// Returns the head as it is sent.
    pub(super) fn head(&self) -> Vec<u8> {
        let mut head = format!("{}\r\n", self.line);
        match &self.length {
            Length::Right => head += &format!("content-length: {}\r\n", self.body.len()),
            Length::Said(text) => head += &format!("content-length: {text}\r\n"),
            Length::Untold => head += "connection: close\r\n",
            Length::Chunked => head += "transfer-encoding: chunked\r\n",
        }
        for (name, value) in &self.headers {
            head += &format!("{name}: {value}\r\n");
        }
        head += "\r\n";
        head.into()
    }
}
