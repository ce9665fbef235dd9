//! The client against a registry that does everything wrong, one thing at a time.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

use anyhow::Result;

use super::fake::{Asked, Reply, Server, options};
use super::*;
use crate::error::hint_of;

const MANIFEST: &str = r#"{"schemaVersion":2,"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","size":0},"layers":[]}"#;
const TYPE: &str = "application/vnd.oci.image.manifest.v1+json";

fn manifest() -> Reply {
    Reply::new(200, MANIFEST).header("content-type", TYPE)
}

fn pull(server: &Server) -> Result<(Descriptor, Vec<u8>)> {
    Registry::new(&server.domain, &options()).manifest("app", "1")
}

fn error(result: Result<impl Sized>) -> String {
    line(&result.err().expect("an error"))
}

fn blob_of(server: &Server, content: &[u8], offset: u64) -> Result<Vec<u8>> {
    let options = options();
    let registry = Registry::new(&server.domain, &options);
    let mut blob = registry.blob("app", &Digest::of(content), content.len() as u64, offset);
    let mut bytes = Vec::new();
    let mut buf = [0; 1000];
    loop {
        match blob.next(&mut buf)? {
            0 => return Ok(bytes),
            n => bytes.extend_from_slice(&buf[..n]),
        }
    }
}

fn content() -> Vec<u8> {
    (0..100_000u32).flat_map(u32::to_le_bytes).collect()
}

/// Answers with a part of `content` if one is asked for.
fn ranged(asked: &Asked, content: &[u8]) -> Reply {
    match asked.header("range").and_then(|it| it.strip_prefix("bytes=")?.strip_suffix('-')) {
        Some(from) => {
            let from: usize = from.parse().unwrap();
            let range = format!("bytes {from}-{}/{}", content.len() - 1, content.len());
            Reply::new(206, &content[from..]).header("content-range", range)
        }
        None => Reply::new(200, content),
    }
}

// --- documents

#[test]
fn a_manifest_comes_with_the_digest_of_its_bytes() {
    let server =
        Server::start(|_| manifest().header("docker-content-digest", "sha256:0000000000000000"));
    let (desc, bytes) = pull(&server).unwrap();
    assert_eq!(bytes, MANIFEST.as_bytes());
    assert_eq!(desc.digest().to_string(), Digest::of(MANIFEST.as_bytes()).to_string());
    assert_eq!(desc.media_type().to_string(), TYPE);
    let asked = &server.log()[0];
    assert_eq!(asked.path, "/v2/app/manifests/1");
    assert_eq!(asked.header("accept-encoding"), Some("identity"));
    assert_eq!(asked.header("authorization"), None);
}

#[test]
fn a_manifest_asked_for_by_digest_must_have_it() {
    let server = Server::start(|_| manifest());
    let options = options();
    let registry = Registry::new(&server.domain, &options);
    registry.manifest_at("app", &Digest::of(MANIFEST.as_bytes())).unwrap();
    let text = error(registry.manifest_at("app", &Digest::of(b"other")));
    assert!(text.contains("sent other bytes"), "{text}");
}

#[test]
fn a_document_without_a_media_type_says_itself_what_it_is() {
    let server = Server::start(|_| Reply::new(200, MANIFEST));
    assert_eq!(pull(&server).unwrap().0.media_type().to_string(), TYPE);
    let server = Server::start(|_| Reply::new(200, "<html>").header("content-type", "text/html"));
    assert!(error(pull(&server)).contains("web page"));
    let server = Server::start(|_| manifest().header("content-encoding", "gzip"));
    assert!(error(pull(&server)).contains("encoded"));
}

#[test]
fn what_is_not_there_is_told_apart() {
    let body = r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"unknown\u001b[31m"}]}"#;
    let server = Server::start(move |_| Reply::new(404, body));
    let err = pull(&server).unwrap_err();
    assert!(find::<NotFound>(&err).is_some_and(|it| !it.unknown));
    assert_eq!(line(&err), format!("manifest not found in {}/app", server.domain));
    assert_eq!(server.log().len(), 1);
}

#[test]
fn a_registrys_words_are_one_short_line() {
    let message = "no\r\nimg-pull: done\u{1b}[31m".repeat(100);
    let body = serde_json::json!({"errors": [{"code": "DENIED", "message": message}]}).to_string();
    let server = Server::start(move |_| Reply::new(403, body.clone()));
    let text = error(pull(&server));
    assert!(text.starts_with("access denied: DENIED: no  img-pull: done"), "{text}");
    assert!(text.len() < 300 && !text.contains(char::is_control), "{text}");
}

#[test]
fn endless_answers_end() {
    let flood = || Reply::new(200, vec![b' '; 64 << 10]).header("content-type", TYPE).endless();
    let server = Server::start(move |_| flood());
    assert!(error(pull(&server)).contains("larger than"));
    let server = Server::start(move |_| Reply { status: 403, ..flood() });
    assert_eq!(error(pull(&server)), "access denied");
    let server = Server::start(move |asked| match asked.path.as_str() {
        path if path.starts_with("/token") => flood(),
        _ => bearer(asked, "/token", "never"),
    });
    assert!(error(pull(&server)).contains("longer than"));
    let many = "x-y: 0123456789\r\n".repeat(500_000);
    let server = Server::start(move |_| manifest().header("x", format!("y\r\n{many}z: 1")));
    pull(&server).unwrap_err();
}

// --- retries

#[test]
fn what_passes_is_tried_again_and_what_does_not_is_not() {
    for (status, tries) in [(503, 4), (500, 4), (429, 4), (400, 1), (403, 1), (501, 1)] {
        let server = Server::start(move |_| Reply::new(status, ""));
        error(pull(&server));
        assert_eq!(server.log().len(), tries, "{status}");
    }
    for fault in [Reply::new(502, ""), manifest().cut(7), manifest().cut(0)] {
        let count = AtomicUsize::new(0);
        let server = Server::start(move |_| match count.fetch_add(1, SeqCst) {
            0 | 1 => fault.clone(),
            _ => manifest(),
        });
        pull(&server).unwrap();
    }
}

#[test]
fn retry_after_is_honoured_up_to_a_limit() {
    let count = AtomicUsize::new(0);
    let server = Server::start(move |_| match count.fetch_add(1, SeqCst) {
        0 => Reply::new(429, "").header("retry-after", "1"),
        _ => manifest(),
    });
    let start = Instant::now();
    pull(&server).unwrap();
    assert!(start.elapsed() >= Duration::from_secs(1));
    for header in ["86400", "Fri, 31 Dec 2999 23:59:59 GMT"] {
        let server = Server::start(move |_| Reply::new(429, "").header("retry-after", header));
        let text = error(pull(&server));
        assert!(text.starts_with("asked to wait"), "{text}");
        assert_eq!(server.log().len(), 1);
    }
}

#[test]
fn a_silence_ends_and_a_slow_answer_does_not() {
    let options = Options { stall: Duration::from_secs(1), retries: 1, ..options() };
    let start = Instant::now();
    let server = Server::start(|_| manifest().silent_before(Duration::from_secs(60)));
    let text = error(Registry::new(&server.domain, &options).manifest("app", "1"));
    assert!(text.contains("nothing came for 1 s"), "{text}");
    assert!(start.elapsed() < Duration::from_secs(30));

    let body = content();
    let server = Server::start(move |_| {
        Reply::new(200, body.clone()).silent_within(Duration::from_millis(600))
    });
    let registry = Registry::new(&server.domain, &options);
    let mut bytes = Vec::new();
    let (digest, size) = (Digest::of(&content()), content().len() as u64);
    registry.blob("app", &digest, size, 0).read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes, content());
    assert_eq!(server.log().len(), 1);
}

// --- blobs

#[test]
fn a_blob_is_taken_up_where_it_broke_off() {
    let bytes = content();
    let body = bytes.clone();
    let server = Server::start(move |asked| {
        let reply = ranged(asked, &body);
        match reply.body.len() {
            n if n > 100_000 => reply.cut(100_000),
            _ => reply,
        }
    });
    assert_eq!(blob_of(&server, &bytes, 0).unwrap(), bytes);
    let ranges: Vec<String> =
        server.log().iter().map(|it| it.header("range").unwrap_or("-").to_owned()).collect();
    assert_eq!(ranges, ["-", "bytes=100000-", "bytes=200000-", "bytes=300000-"]);
    assert_eq!(blob_of(&server, &bytes, 399_999).unwrap(), bytes[399_999..]);
    assert!(blob_of(&server, &bytes, 400_000).unwrap().is_empty());
}

#[test]
fn a_server_without_ranges_is_read_from_the_start() {
    type Answer = fn(&Asked, &[u8]) -> Reply;
    let answers: [Answer; 4] = [
        |_, body| Reply::new(200, body),
        |_, _| Reply::new(416, ""),
        |_, body| Reply::new(206, body),
        |_, body| {
            Reply::new(206, body).header("content-range", format!("bytes 0-9/{}", body.len()))
        },
    ];
    let bytes = content();
    for answer in answers {
        let body = bytes.clone();
        let server = Server::start(move |asked| match asked.header("range") {
            Some(_) => answer(asked, &body),
            None => Reply::new(200, body.clone()),
        });
        assert_eq!(blob_of(&server, &bytes, 1234).unwrap(), bytes[1234..]);
    }
}

#[test]
fn a_blob_that_never_gets_further_is_given_up() {
    let bytes = content();
    let body = bytes.clone();
    let server = Server::start(move |asked| ranged(asked, &body).cut(0));
    let text = error(blob_of(&server, &bytes, 0));
    assert_eq!(server.log().len(), 4, "{text}");
}

#[test]
fn no_more_than_the_declared_size_is_read() {
    let bytes = content();
    for change in [1isize, -1, 1000] {
        let mut body = bytes.clone();
        body.resize(body.len().strict_add_signed(change), 0);
        let server = Server::start(move |_| Reply::new(200, body.clone()));
        let text = error(blob_of(&server, &bytes, 0));
        assert!(text.contains("the registry has"), "{text}");
        assert_eq!(server.log().len(), 1);
    }
    let mut body = bytes.clone();
    body.push(0);
    let server = Server::start(move |_| Reply::new(200, body.clone()).chunked());
    assert!(error(blob_of(&server, &bytes, 0)).contains("longer than"));
    let server = Server::start(|_| Reply::new(200, vec![0; 4096]).endless());
    assert!(error(blob_of(&server, &bytes, 0)).contains("longer than"));
    let body = bytes[..1000].to_vec();
    let server = Server::start(move |_| Reply::new(200, body.clone()).chunked());
    assert!(error(blob_of(&server, &bytes, 0)).contains("ends early"));
}

#[test]
fn a_missing_blob_is_told_apart() {
    let server = Server::start(|_| Reply::new(404, ""));
    let err = blob_of(&server, b"x", 0).unwrap_err();
    assert!(blob::is_missing(&err));
}

// --- authentication

fn bearer(asked: &Asked, realm: &str, token: &str) -> Reply {
    match asked.header("authorization") {
        Some(text) if text == format!("Bearer {token}") => manifest(),
        _ => Reply::new(401, "").header(
            "www-authenticate",
            format!("Bearer realm=\"{realm}\",service=\"s\",scope=\"repository:victim:pull,push\""),
        ),
    }
}

#[test]
fn a_password_is_shown_when_asked_for_and_once() {
    let server = Server::start(|asked| match asked.header("authorization") {
        Some("Basic dXNlcjpodW50ZXIy") => manifest(),
        _ => Reply::new(401, "").header("www-authenticate", "Basic realm=r"),
    });
    let options = options();
    let registry = Registry::new(&server.domain, &options);
    registry.manifest("app", "1").unwrap();
    registry.manifest("app", "2").unwrap();
    assert_eq!(
        server.paths(),
        ["/v2/app/manifests/1", "/v2/app/manifests/1 Basic", "/v2/app/manifests/2 Basic"]
    );

    let server = Server::start(|_| Reply::new(401, "").header("www-authenticate", "Basic realm=r"));
    let err = pull(&server).unwrap_err();
    assert!(line(&err).ends_with("its credentials are refused"), "{}", line(&err));
    assert_eq!(server.log().len(), 2);
}

#[test]
fn without_credentials_the_error_says_how_to_give_some() {
    let server = Server::start(|_| Reply::new(401, "").header("www-authenticate", "Basic realm=r"));
    let options = Options { credentials: None, ..options() };
    let err = Registry::new(&server.domain, &options).manifest("app", "1").unwrap_err();
    assert_eq!(line(&err), format!("{}: authentication required", server.domain));
    assert!(hint_of(&err).is_some_and(|hint| hint.contains("--creds")));
    for challenge in ["Negotiate", "", "Bearer service=x"] {
        let server =
            Server::start(move |_| Reply::new(401, "").header("www-authenticate", challenge));
        error(Registry::new(&server.domain, &options).manifest("app", "1"));
        assert_eq!(server.log().len(), 1);
    }
}

#[test]
fn a_token_is_fetched_for_our_scope_and_used_again() {
    let server = Server::start(|asked| match asked.path.split('?').next() {
        Some("/token") => Reply::new(200, r#"{"token":"t1","expires_in":300}"#),
        _ => bearer(asked, "/token?x=y", "t1"),
    });
    let options = options();
    let registry = Registry::new(&server.domain, &options);
    registry.manifest("app", "1").unwrap();
    registry.manifest("app", "2").unwrap();
    registry.manifest("b/c", "2").unwrap();
    assert_eq!(
        server.paths(),
        [
            "/v2/app/manifests/1",
            "/token?x=y&service=s&scope=repository%3Aapp%3Apull Basic",
            "/v2/app/manifests/1 Bearer",
            "/v2/app/manifests/2 Bearer",
            "/token?x=y&service=s&scope=repository%3Ab%2Fc%3Apull Basic",
            "/v2/b/c/manifests/2 Bearer",
        ]
    );
}

#[test]
fn a_token_that_expires_is_replaced_once() {
    let count = Arc::new(AtomicUsize::new(0));
    let shared = count.clone();
    let server = Server::start(move |asked| match asked.path.split('?').next() {
        Some("/token") => {
            let n = shared.fetch_add(1, SeqCst);
            Reply::new(200, format!(r#"{{"access_token":"t{n}"}}"#))
        }
        Some("/v2/app/manifests/1") => bearer(asked, "/token", "t0"),
        Some("/v2/app/manifests/2") => bearer(asked, "/token", "t1"),
        _ => bearer(asked, "/token", "never"),
    });
    let options = options();
    let registry = Registry::new(&server.domain, &options);
    registry.manifest("app", "1").unwrap();
    registry.manifest("app", "2").unwrap();
    assert_eq!(count.load(SeqCst), 2);
    let text = error(registry.manifest("app", "3"));
    assert_eq!(text, "access denied");
    assert_eq!(count.load(SeqCst), 3);
}

#[test]
fn an_identity_token_is_sent_in_a_form() {
    let server = Server::start(|asked| match asked.path.as_str() {
        "/token" if asked.method == "POST" => Reply::new(200, r#"{"access_token":"t"}"#),
        _ => bearer(asked, "/token", "t"),
    });
    let credentials = Some(Credentials::Identity("secret/+".into()));
    let options = Options { credentials, ..options() };
    Registry::new(&server.domain, &options).manifest("app", "1").unwrap();
    let form = &server.log()[1].body;
    assert!(form.contains("grant_type=refresh_token"), "{form}");
    assert!(form.contains("refresh_token=secret%2F%2B"), "{form}");
}

#[test]
fn a_bad_token_service_is_an_error_that_shows_no_secret() {
    let crlf = r#"{"token":"secret\r\nhost: evil"}"#;
    for answer in [
        Reply::new(200, crlf),
        Reply::new(200, "<html>secret"),
        Reply::new(200, r#"{"token":""}"#),
        Reply::new(200, r#"{"token":["secret"]}"#),
        Reply::new(401, ""),
        Reply::new(404, ""),
        Reply::new(503, ""),
        Reply::new(307, "").header("location", "/token"),
    ] {
        let server = Server::start(move |asked| match asked.path.split('?').next() {
            Some("/token") => answer.clone(),
            _ => bearer(asked, "/token", "t"),
        });
        let err = pull(&server).unwrap_err();
        let text = line(&err);
        assert!(find::<NotFound>(&err).is_none(), "{text}");
        assert!(!text.contains("secret") && !text.contains("hunter2"), "{text}");
        assert!(server.paths().iter().all(|path| !path.ends_with("Bearer")));
    }
}

#[test]
fn credentials_do_not_go_to_a_realm_elsewhere() {
    let elsewhere = Server::start(|_| Reply::new(200, r#"{"token":"t"}"#));
    // The same machine by another name is another host.
    let realm = format!("http://{}/token", elsewhere.domain.replace("127.0.0.1", "localhost"));
    let server = Server::start(move |asked| bearer(asked, &realm, "t"));
    let text = error(pull(&server));
    assert!(text.contains("token service at localhost, over plain HTTP"), "{text}");
    assert_eq!(elsewhere.log().len(), 0);
}

// --- redirects

#[test]
fn credentials_do_not_follow_a_redirect_to_another_port() {
    let elsewhere = Server::start(|_| manifest());
    let target = format!("http://{}/storage", elsewhere.domain);
    let server = Server::start(move |asked| match asked.header("authorization") {
        Some(_) => Reply::new(307, "").header("location", target.clone()),
        None => Reply::new(401, "").header("www-authenticate", "Basic realm=r"),
    });
    pull(&server).unwrap();
    assert_eq!(elsewhere.paths(), ["/storage"]);

    let elsewhere =
        Server::start(|_| Reply::new(401, "").header("www-authenticate", "Basic realm=r"));
    let target = format!("http://{}/storage", elsewhere.domain);
    let server = Server::start(move |_| Reply::new(307, "").header("location", target.clone()));
    let text = error(pull(&server));
    assert!(text.contains("they are not for it"), "{text}");
    assert_eq!(elsewhere.paths(), ["/storage"]);
}

#[test]
fn redirects_are_followed_by_rules() {
    let server = Server::start(|asked| match asked.path.as_str() {
        "/v2/app/manifests/1" => Reply::new(302, "").header("location", "../../../a?b=c"),
        "/a?b=c" => Reply::new(308, "").header("location", "/d"),
        _ => manifest(),
    });
    pull(&server).unwrap();
    let server = Server::start(|_| Reply::new(301, "").header("location", "/again"));
    assert!(error(pull(&server)).contains("more than 10 redirects"));
    assert_eq!(server.log().len(), 11);
    let server = Server::start(|_| Reply::new(301, ""));
    assert!(error(pull(&server)).contains("to nowhere"));
    let server = Server::start(|_| Reply::new(307, "").header("location", "http://127.0.0.1:1/"));
    assert!(error(pull(&server)).contains("refused"), "a closed port");
}

#[test]
fn a_redirect_that_nobody_asked_for_is_refused() {
    let next = |from: &str, to: &str, verify| {
        hop(&from.parse().unwrap(), to, verify).ok().map(|url| url.to_string())
    };
    for (from, to) in [
        ("https://r.example/x", "http://r.example/y"),
        ("https://r.example/x", "file:///etc/passwd"),
        ("https://r.example/x", "ftp://r.example/"),
        ("https://r.example/x", "https://127.0.0.1/"),
        ("https://r.example/x", "https://localhost/"),
        ("https://r.example/x", "https://localhost./"),
        ("https://r.example/x", "https://registry.localhost:5000/"),
        ("https://r.example/x", "https://[::ffff:127.0.0.1]/"),
        ("https://r.example/x", "https://[::ffff:169.254.169.254]/"),
        ("https://r.example/x", "https://169.254.169.254/latest"),
        ("https://r.example/x", "https://[::1]/"),
        ("https://r.example/x", "https://0/"),
        ("https://r.example/x", "https://"),
        ("https://127.0.0.1/x", "http://127.0.0.1/y"),
    ] {
        assert_eq!(next(from, to, true), None, "{from} {to}");
    }
    let ok = |to: &str| next("https://r.example/x", to, true);
    assert_eq!(ok("//cdn.example/y").as_deref(), Some("https://cdn.example/y"));
    assert_eq!(ok("https://u:p@cdn.example/y").as_deref(), Some("https://cdn.example/y"));
    assert_eq!(ok("https://10.0.0.1/y").as_deref(), Some("https://10.0.0.1/y"));
    let asked = next("https://r.example/x", "http://cdn.example/y", false);
    assert_eq!(asked.as_deref(), Some("http://cdn.example/y"));
}

// --- tags

#[test]
fn tags_are_read_page_by_page() {
    let server = Server::start(|asked| match asked.path.as_str() {
        "/v2/app/tags/list?n=1000" => Reply::new(200, r#"{"tags":["a","b","../c","b"]}"#)
            .header("link", "</v2/app/tags/list?last=b>; rel=\"next\""),
        _ => Reply::new(200, r#"{"tags":["d"]}"#),
    });
    let options = options();
    let tags = |server: &Server| Registry::new(&server.domain, &options).tags("app", usize::MAX, 3);
    assert_eq!(tags(&server).unwrap(), ["a", "b", "d"]);
    let server = Server::start(|_| Reply::new(200, r#"{"tags":null}"#));
    assert!(tags(&server).unwrap().is_empty());

    let again = |link: &'static str| {
        Server::start(move |_| Reply::new(200, r#"{"tags":["a"]}"#).header("link", link))
    };
    let server = again("</v2/app/tags/list?n=1000>; rel=next");
    assert!(error(tags(&server)).contains("pages"));
    let server = again("<http://127.0.0.1:1/v2/app/tags/list>; rel=next");
    assert!(error(tags(&server)).contains("another host"));
    assert_eq!(server.log().len(), 1);
}

// --- TLS

#[test]
fn a_server_without_tls_is_named_as_such() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let domain = listener.local_addr().unwrap().to_string();
    thread::spawn(move || {
        let (mut stream, _) = listener.accept()?;
        stream.read_exact(&mut [0; 100])?;
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")?;
        stream.read_to_end(&mut Vec::new())
    });
    let http = Http::new(false, Duration::from_secs(2), Vec::new());
    let url: Url = format!("https://{domain}/v2/").parse().unwrap();
    let err = http.send(&url, &Request::default()).map(|_| ()).unwrap_err();
    assert!(find::<Failure>(&err).is_some_and(|it| it.kind == Kind::NotTls), "{}", line(&err));
    assert!(hint_of(&err).is_some_and(|hint| hint.contains("--tls-verify=false")));
}

#[test]
fn a_blob_reads_as_any_reader_does() {
    let server = Server::start(|_| Reply::new(200, "abc"));
    let options = options();
    let registry = Registry::new(&server.domain, &options);
    let mut text = String::new();
    registry.blob("app", &Digest::of(b"abc"), 3, 0).read_to_string(&mut text).unwrap();
    assert_eq!(text, "abc");
}
