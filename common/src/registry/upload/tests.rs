//! Uploads to a registry that does everything wrong, one thing at a time.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::thread;

use super::*;
use crate::error::line;
use crate::registry::Options;
use crate::registry::fake::{Asked, Reply, Server, options};

/// What a registry that is well has taken in.
#[derive(Default)]
struct Shelf {
    uploads: Mutex<HashMap<String, String>>,
    blobs: Mutex<HashMap<String, String>>,
}

impl Shelf {
    fn answer(&self, asked: &Asked) -> Reply {
        let (path, query) = asked.path.split_once('?').unwrap_or((&asked.path, ""));
        let Some((_, name)) = path.split_once("/blobs/") else { return Reply::new(404, "") };
        let (mut uploads, mut blobs) = (self.uploads.lock().unwrap(), self.blobs.lock().unwrap());
        let begun = |uploads: &HashMap<String, String>, id: &str| {
            let range = format!("0-{}", uploads[id].len().saturating_sub(1));
            Reply::new(202, "")
                .header("location", format!("/v2/app/blobs/uploads/{id}?state=a%2Fb"))
                .header("range", range)
        };
        match (asked.method.as_str(), name.strip_prefix("uploads/")) {
            ("HEAD", None) if blobs.contains_key(name) => Reply::new(200, blobs[name].clone()),
            ("POST", Some("")) => {
                let id = uploads.len().to_string();
                uploads.insert(id.clone(), String::new());
                begun(&uploads, &id)
            }
            ("GET", Some(id)) if uploads.contains_key(id) => {
                Reply { status: 204, ..begun(&uploads, id) }
            }
            ("PATCH", Some(id)) if uploads.contains_key(id) => {
                let first = asked.header("content-range").and_then(|it| it.split('-').next());
                if first.is_some_and(|first| first.parse() != Ok(uploads[id].len())) {
                    return Reply::new(416, "");
                }
                uploads.get_mut(id).unwrap().push_str(&asked.body);
                begun(&uploads, id)
            }
            ("PUT", Some(id)) if uploads.contains_key(id) => {
                let bytes = uploads.remove(id).unwrap() + &asked.body;
                let digest = Digest::of(bytes.as_bytes()).to_string();
                if !query.ends_with(&format!("&digest={}", digest.replace(':', "%3A"))) {
                    return Reply::new(400, r#"{"errors":[{"code":"DIGEST_INVALID"}]}"#);
                }
                blobs.insert(digest.clone(), bytes);
                Reply::new(201, "").header("docker-content-digest", digest)
            }
            _ => Reply::new(404, r#"{"errors":[{"code":"BLOB_UPLOAD_UNKNOWN"}]}"#),
        }
    }
}

/// Starts a registry that answers so; it is well where the answer is nothing.
fn server(answer: impl Fn(&Asked, &Shelf) -> Option<Reply> + Send + Sync + 'static) -> Server {
    let shelf = Shelf::default();
    Server::start(move |asked| answer(asked, &shelf).unwrap_or_else(|| shelf.answer(asked)))
}

/// Counts the bytes of a blob that are there.
#[derive(Default)]
struct Count(AtomicU64);

impl Watch for Count {
    fn sent(&self, bytes: u64) {
        self.0.fetch_add(bytes, SeqCst);
    }
    fn withdrawn(&self, bytes: u64) {
        self.0.fetch_sub(bytes, SeqCst);
    }
    fn goes_on(&self) -> bool {
        true
    }
}

fn content() -> String {
    (0..200_000).map(|n| format!("{n}\n")).collect()
}

fn push_from(server: &Server, from: Option<&str>) -> Result<Came> {
    let content = content();
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(content.as_bytes()).unwrap();
    let (digest, size) = (Digest::of(content.as_bytes()), content.len() as u64);
    let (options, count) = (options(), Count::default());
    let registry = Registry::new(&server.domain, &options);
    let source = Source { digest, size, file: &file };
    let came = registry.push_blob("app", &source, from, &count)?;
    if came == Came::Sent {
        assert_eq!(count.0.load(SeqCst), size, "what was told of is the blob");
        assert!(registry.has_blob("app", &digest, size).unwrap());
    }
    Ok(came)
}

fn push(server: &Server) -> Result<Came> {
    push_from(server, None)
}

fn error(server: &Server) -> String {
    line(&push(server).unwrap_err())
}

/// Returns what was asked, without a digest and the query.
fn methods(server: &Server) -> Vec<String> {
    server.log().into_iter().map(|asked| asked.method).collect()
}

#[test]
fn a_blob_is_sent_in_one_request() {
    let server = server(|_, _| None);
    assert_eq!(push(&server).unwrap(), Came::Sent);
    assert_eq!(methods(&server), ["POST", "PUT", "HEAD"]);
    let put = &server.log()[1];
    assert_eq!(put.body, content());
    assert_eq!(put.header("content-length"), Some(content().len().to_string().as_str()));
    assert_eq!(put.header("content-type"), Some("application/octet-stream"));
    assert!(put.path.contains("?state=a%2Fb&digest=sha256%3A"), "{}", put.path);
}

#[test]
fn what_another_repository_has_is_taken_from_there() {
    let mounts = server(|asked, _| {
        (asked.method == "POST").then(|| {
            assert!(asked.path.contains("?mount=sha256%3A"), "{}", asked.path);
            assert!(asked.path.ends_with("&from=team%2Fbase"), "{}", asked.path);
            Reply::new(201, "")
        })
    });
    assert_eq!(push_from(&mounts, Some("team/base")).unwrap(), Came::Mounted);
    assert_eq!(methods(&mounts), ["POST"]);
    // It has it not, says no, or calls it something else.
    let sends = server(|_, _| None);
    assert_eq!(push_from(&sends, Some("base")).unwrap(), Came::Sent);
    assert_eq!(methods(&sends), ["POST", "PUT", "HEAD"]);
    for status in [400, 403, 404, 405] {
        let refuses =
            server(move |asked, _| asked.path.contains("mount=").then(|| Reply::new(status, "")));
        assert_eq!(push_from(&refuses, Some("base")).unwrap(), Came::Sent);
        assert_eq!(methods(&refuses), ["POST", "POST", "PUT", "HEAD"]);
    }
    let lies =
        server(|_, _| Some(Reply::new(201, "").header("docker-content-digest", "sha256:00")));
    let err = line(&push_from(&lies, Some("base")).unwrap_err());
    assert!(err.contains("the registry calls it \"sha256:00\""), "{err}");
}

#[test]
fn an_upload_goes_nowhere_but_to_the_registry() {
    for location in [
        "http://127.0.0.1:1/v2/app/blobs/uploads/1",
        "https://{}/v2/app/blobs/uploads/1",
        "http://localhost/v2/app/blobs/uploads/1",
        "//example.org/upload",
        "file:///etc/passwd",
        "http://[",
    ] {
        let elsewhere = server(move |asked, _| {
            let location = location.replace("{}", asked.header("host").unwrap());
            (asked.method == "POST").then(|| Reply::new(202, "").header("location", location))
        });
        let err = error(&elsewhere);
        assert!(err.contains("it sends an upload to"), "{location}: {err}");
        assert_eq!(methods(&elsewhere), ["POST"], "{location}");
    }
    let nowhere = server(|asked, _| (asked.method == "POST").then(|| Reply::new(202, "")));
    assert!(error(&nowhere).contains("does not say where (no Location)"));
    // The next part as well.
    let later = server(|asked, _| match asked.method.as_str() {
        "PUT" if !asked.body.is_empty() => Some(Reply::new(413, "")),
        "PATCH" => Some(Reply::new(202, "").header("location", "http://127.0.0.1:1/")),
        _ => None,
    });
    assert!(error(&later).contains("which is another place than the registry's"));
}

#[test]
fn a_server_that_takes_no_large_bodies_gets_parts() {
    let server =
        server(|asked, _| (asked.body.len() > 500_000).then(|| Reply::new(413, "too large")));
    assert_eq!(push(&server).unwrap(), Came::Sent);
    let parts = server.log().into_iter().filter(|asked| asked.method == "PATCH");
    let ranges: Vec<String> =
        parts.map(|asked| asked.header("content-range").unwrap().to_owned()).collect();
    assert!(ranges.len() >= 3 && ranges.iter().any(|range| range.starts_with("0-")), "{ranges:?}");
    let last = server.log().into_iter().rfind(|asked| asked.method == "PUT").unwrap();
    assert_eq!(last.body, "");
    let refuses = self::server(|asked, _| (!asked.body.is_empty()).then(|| Reply::new(413, "")));
    assert!(error(&refuses).contains("413"));
}

#[test]
fn an_upload_goes_on_where_the_registry_says_it_broke_off() {
    let times = AtomicUsize::new(0);
    let busy = server(move |asked, shelf| {
        let first = asked.method == "PUT" && times.fetch_add(1, SeqCst) == 0;
        first.then(|| {
            let half = &asked.body[..asked.body.len() / 2];
            shelf.uploads.lock().unwrap().insert("0".into(), half.into());
            Reply::new(503, "")
        })
    });
    assert_eq!(push(&busy).unwrap(), Came::Sent);
    assert_eq!(methods(&busy), ["POST", "PUT", "GET", "PATCH", "PUT", "HEAD"]);
    let rest = &busy.log()[3];
    assert_eq!(rest.body, content()[content().len() / 2..]);
}

#[test]
fn an_upload_that_the_registry_forgot_begins_anew() {
    let times = AtomicUsize::new(0);
    let forgets = server(move |asked, shelf| {
        let first = asked.method == "PUT" && times.fetch_add(1, SeqCst) == 0;
        first.then(|| {
            shelf.uploads.lock().unwrap().remove("0");
            shelf.uploads.lock().unwrap().insert("other".into(), String::new());
            Reply::new(500, "")
        })
    });
    assert_eq!(push(&forgets).unwrap(), Came::Sent);
    assert_eq!(methods(&forgets), ["POST", "PUT", "GET", "HEAD", "POST", "PUT", "HEAD"]);
    // It may have forgotten the upload because it has the blob.
    let times = AtomicUsize::new(0);
    let done = server(move |asked, shelf| {
        let first = asked.method == "PUT" && times.fetch_add(1, SeqCst) == 0;
        first.then(|| {
            assert_eq!(shelf.answer(asked).status, 201);
            Reply::new(502, "")
        })
    });
    assert_eq!(push(&done).unwrap(), Came::Sent);
    assert_eq!(methods(&done), ["POST", "PUT", "GET", "HEAD", "HEAD"]);
}

#[test]
fn what_the_registry_says_it_has_is_believed_as_long_as_it_can_be() {
    for range in ["0-9999999999", "5-10", "10-5", "bytes 1-2", "", "0-18446744073709551615"] {
        let times = AtomicUsize::new(0);
        let lies = server(move |asked, _| match asked.method.as_str() {
            "PUT" if times.fetch_add(1, SeqCst) == 0 => Some(Reply::new(503, "")),
            "GET" => Some(Reply::new(204, "").header("range", range)),
            _ => None,
        });
        assert_eq!(push(&lies).unwrap(), Came::Sent, "{range}");
    }
    // It says that it has what it has not: the digest tells, and it gets all of it.
    let times = AtomicUsize::new(0);
    let forgetful = server(move |asked, _| match asked.method.as_str() {
        "PUT" if times.fetch_add(1, SeqCst) == 0 => Some(Reply::new(503, "")),
        "GET" => Some(Reply::new(204, "").header("range", "0-99")),
        "PATCH" => Some(Reply::new(202, "").header("range", "0-1288889")),
        _ => None,
    });
    assert_eq!(push(&forgetful).unwrap(), Came::Sent);
    let never = server(|asked, _| match asked.method.as_str() {
        "PUT" if !asked.body.is_empty() => Some(Reply::new(413, "")),
        "PATCH" => Some(Reply::new(202, "").header("range", "0-0")),
        _ => None,
    });
    assert!(error(&never).contains("the registry has 0 bytes of the"));
}

#[test]
fn a_digest_that_is_refused_is_an_error() {
    let refuses = server(|asked, _| {
        (asked.method == "PUT")
            .then(|| Reply::new(400, r#"{"errors":[{"code":"DIGEST_INVALID"}]}"#))
    });
    assert!(error(&refuses).ends_with("the registry answered 400: DIGEST_INVALID"));
    // What it has begun, it is told to forget.
    assert_eq!(methods(&refuses), ["POST", "PUT", "DELETE"]);
    let other = server(|asked, _| {
        (asked.method == "PUT")
            .then(|| Reply::new(201, "").header("docker-content-digest", "sha256:00"))
    });
    assert!(error(&other).contains("the registry calls it \"sha256:00\", which is not sha256:"));
}

#[test]
fn a_manifest_is_confirmed() {
    let confirms = |reply: fn() -> Reply| {
        let server = Server::start(move |_| reply());
        let options = options();
        let registry = Registry::new(&server.domain, &options);
        let digest = Digest::of(b"{}");
        let done = registry.push_manifest("app", "1", "a/b", b"{}", &digest);
        (done.map_err(|err| line(&err)), server.log())
    };
    let (done, log) = confirms(|| Reply::new(201, ""));
    assert_eq!(done, Ok(()));
    assert_eq!((log[0].method.as_str(), log[0].path.as_str()), ("PUT", "/v2/app/manifests/1"));
    assert_eq!((log[0].header("content-type"), log[0].body.as_str()), (Some("a/b"), "{}"));
    let (done, _) = confirms(|| Reply::new(201, "").header("docker-content-digest", "sha256:00"));
    assert!(done.unwrap_err().contains("the registry calls it"));
    let (done, _) = confirms(|| Reply::new(202, ""));
    assert_eq!(done, Err("the registry answered 202".into()));
    let (done, log) = confirms(|| Reply::new(503, ""));
    assert!(done.is_err() && log.len() == 4);
}

#[test]
fn a_token_is_for_what_is_pushed_and_where_it_is_taken_from() {
    let server = server(|asked, _| {
        if asked.path.starts_with("/token") {
            return Some(Reply::new(200, r#"{"token": "t"}"#));
        }
        match asked.header("authorization") {
            Some("Bearer t") => None,
            _ => Some(Reply::new(401, "").header("www-authenticate", "Bearer realm=\"/token\"")),
        }
    });
    assert_eq!(push_from(&server, Some("base")).unwrap(), Came::Sent);
    let tokens: Vec<String> =
        server.paths().into_iter().filter(|it| it.starts_with("/token")).collect();
    assert_eq!(
        tokens,
        [
            "/token?scope=repository%3Aapp%3Apull%2Cpush&scope=repository%3Abase%3Apull Basic",
            "/token?scope=repository%3Aapp%3Apull%2Cpush Basic",
        ]
    );
}

/// A registry that begins an upload, and reads nothing of it.
fn deaf() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let domain = listener.local_addr().unwrap().to_string();
    thread::spawn(move || {
        for stream in listener.incoming() {
            thread::spawn(move || {
                let mut reader = BufReader::new(stream?);
                let mut head = String::new();
                while !head.ends_with("\r\n\r\n") && reader.read_line(&mut head)? > 0 {}
                if head.starts_with("POST") {
                    let begun = b"HTTP/1.1 202 X\r\nlocation: /x\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
                    return reader.get_mut().write_all(begun);
                }
                thread::sleep(Duration::from_secs(3600));
                Ok(())
            });
        }
    });
    domain
}

#[test]
fn a_registry_that_does_not_listen_is_given_up() {
    let file = tempfile::tempfile().unwrap();
    // More than the kernel takes for it.
    let size = 64 << 20;
    file.set_len(size).unwrap();
    let options = Options { retries: 0, stall: Duration::from_millis(300), ..options() };
    let (domain, count) = (deaf(), Count::default());
    let registry = Registry::new(&domain, &options);
    let source = Source { digest: Digest::of(b""), size, file: &file };
    let err = line(&registry.push_blob("app", &source, None, &count).unwrap_err());
    assert!(err.ends_with(&format!("{domain}: nothing came for 0.3 s")), "{err}");
    // It would end by itself when the registry does, after the limit of a test.
    assert!(count.0.load(SeqCst) < size);
}
