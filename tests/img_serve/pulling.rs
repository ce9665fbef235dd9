//! Pull and content discovery: manifests, blobs, lists, referrers.

use std::fs;
use std::io::{BufReader, Read, Write};

use sandbox::Sandbox;
use sandbox::image::{busybox, for_two_platforms, sha256};
use serde_json::{Value, json};

use super::server::{Answer, Server};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

fn layer() -> String {
    busybox().manifest()["layers"][0]["digest"].as_str().unwrap().to_owned()
}

#[test]
fn every_endpoint_answers_as_the_specification_says() {
    let t = Sandbox::with_image("app:1");
    let server = Server::start(&t, "");
    let (manifest, blob) = (&busybox().digest, layer());
    let none = format!("sha256:{}", "0".repeat(64));
    let long = "a".repeat(300);
    let table = [
        ("GET /v2/", "200"),
        ("HEAD /v2/", "200"),
        ("GET /v2", "200"),
        ("GET /v2/_catalog", "200"),
        ("GET /v2/app/tags/list", "200"),
        ("GET /v2/nosuch/tags/list", "404 NAME_UNKNOWN"),
        ("GET /v2/app/tags/list?n=x", "400 UNSUPPORTED"),
        ("GET /v2/app/manifests/1", "200"),
        ("HEAD /v2/app/manifests/1", "200"),
        (&format!("GET /v2/app/manifests/{manifest}"), "200"),
        (&format!("HEAD /v2/app/manifests/{manifest}"), "200"),
        (&format!("GET /v2/app/manifests/{}", manifest.replace(':', "%3a")), "200"),
        (&format!("GET /v2/nosuch/manifests/{manifest}"), "404 NAME_UNKNOWN"),
        (&format!("GET /v2/app/manifests/{none}"), "404 MANIFEST_UNKNOWN"),
        (&format!("GET /v2/app/manifests/{blob}"), "404 MANIFEST_UNKNOWN"),
        ("GET /v2/app/manifests/2", "404 MANIFEST_UNKNOWN"),
        ("HEAD /v2/app/manifests/2", "404"),
        ("GET /v2/app/manifests/.INVALID_MANIFEST_NAME", "404 MANIFEST_UNKNOWN"),
        (&format!("GET /v2/app/manifests/{long}"), "404 MANIFEST_UNKNOWN"),
        ("GET /v2/app/manifests/sha256:00", "400 DIGEST_INVALID"),
        (&format!("GET /v2/app/blobs/{blob}"), "200"),
        (&format!("HEAD /v2/app/blobs/{blob}"), "200"),
        (&format!("GET /v2/app/blobs/{manifest}"), "200"),
        (&format!("GET /v2/nosuch/blobs/{blob}"), "404 NAME_UNKNOWN"),
        (&format!("GET /v2/app/blobs/{none}"), "404 BLOB_UNKNOWN"),
        (&format!("HEAD /v2/app/blobs/{none}"), "404"),
        ("GET /v2/app/blobs/sha256:../../../etc/passwd", "404 UNSUPPORTED"),
        ("GET /v2/app/blobs/sha256:..%2f..%2f..%2fetc%2fpasswd", "404 UNSUPPORTED"),
        ("GET /v2/app/blobs/md5:00", "400 DIGEST_INVALID"),
        (&format!("GET /v2/app/blobs/{}", blob.to_uppercase()), "400 DIGEST_INVALID"),
        (&format!("GET /v2/app/referrers/{manifest}"), "200"),
        (&format!("GET /v2/nosuch/referrers/{none}"), "200"),
        ("GET /v2/app/referrers/1", "400 DIGEST_INVALID"),
        ("GET /v2/App/manifests/1", "400 NAME_INVALID"),
        ("GET /v2/a/../b/manifests/1", "400 NAME_INVALID"),
        (&format!("GET /v2/{long}/manifests/1"), "400 NAME_INVALID"),
        ("GET /v1/search", "404 UNSUPPORTED"),
        ("GET /", "404 UNSUPPORTED"),
        // What would change something.
        ("POST /v2/app/blobs/uploads/", "405 UNSUPPORTED"),
        ("POST /v2/app/blobs/uploads/?mount=x&from=y", "405 UNSUPPORTED"),
        ("PATCH /v2/app/blobs/uploads/1", "405 UNSUPPORTED"),
        ("PUT /v2/app/blobs/uploads/1", "405 UNSUPPORTED"),
        ("DELETE /v2/app/blobs/uploads/1", "405 UNSUPPORTED"),
        ("GET /v2/app/blobs/uploads/1", "405 UNSUPPORTED"),
        ("PUT /v2/app/manifests/2", "405 UNSUPPORTED"),
        ("DELETE /v2/app/manifests/1", "405 UNSUPPORTED"),
        (&format!("DELETE /v2/app/manifests/{manifest}"), "405 UNSUPPORTED"),
        (&format!("DELETE /v2/app/blobs/{blob}"), "405 UNSUPPORTED"),
        ("POST /v2/", "405 UNSUPPORTED"),
        ("OPTIONS /v2/", "405 UNSUPPORTED"),
        ("TRACE /v2/app/manifests/1", "405 UNSUPPORTED"),
    ];
    for (request, says) in table {
        assert_eq!(server.says(request), says, "{request}");
    }
    let refused = server.send("DELETE", "/v2/app/manifests/1", &[], b"");
    assert_eq!(refused.header("allow"), Some("GET, HEAD"));
    assert_eq!(refused.json()["errors"][0]["message"], "this registry is read-only");
    assert_eq!(server.get("/v2/").header("docker-distribution-api-version"), Some("registry/2.0"));
    assert_eq!(server.stop(), "");
}

#[test]
fn a_manifest_comes_with_its_type_its_digest_and_its_length() {
    let t = Sandbox::with_image("app:1");
    let server = Server::start(&t, "");
    let bytes = fs::read(busybox().blob(&busybox().digest)).unwrap();
    for reference in ["1", &busybox().digest] {
        let path = format!("/v2/app/manifests/{reference}");
        for answer in [server.get(&path), server.head(&path)] {
            assert_eq!(answer.header("content-type"), Some(MANIFEST));
            assert_eq!(answer.header("docker-content-digest"), Some(busybox().digest.as_str()));
            assert_eq!(answer.header("content-length"), Some(bytes.len().to_string().as_str()));
        }
        assert_eq!(server.get(&path).body, bytes);
        assert!(server.head(&path).body.is_empty());
    }
}

#[test]
fn only_what_the_client_accepts_is_sent() {
    let t = Sandbox::with_image("app:1");
    let server = Server::start(&t, "");
    let table = [
        ("*/*", "200"),
        (MANIFEST, "200"),
        ("application/vnd.docker.distribution.manifest.v2+json", "404 MANIFEST_UNKNOWN"),
        ("application/vnd.docker.distribution.manifest.v2+json, application/*;q=0.1", "200"),
    ];
    for (accept, says) in table {
        let header = format!("Accept: {accept}");
        let answer = server.send("GET", "/v2/app/manifests/1", &[&header], b"");
        assert_eq!(answer.says(), says, "{accept}");
    }
}

#[test]
fn a_part_of_a_blob_is_sent_when_it_is_asked_for() {
    let t = Sandbox::with_image("app:1");
    let server = Server::start(&t, "");
    let bytes = fs::read(busybox().blob(&layer())).unwrap();
    let (path, size) = (format!("/v2/app/blobs/{}", layer()), bytes.len());
    let whole = server.get(&path);
    assert_eq!(whole.body, bytes);
    assert_eq!(whole.header("accept-ranges"), Some("bytes"));
    assert_eq!(whole.header("docker-content-digest"), Some(layer().as_str()));
    let etag = whole.header("etag").unwrap().to_owned();

    let ask = |headers: &[&str]| server.send("GET", &path, headers, b"");
    for (range, start, end) in [
        ("bytes=0-0".to_owned(), 0, 1),
        ("bytes=100-199".into(), 100, 200),
        ("bytes=100000-".into(), 100_000, size),
        ("bytes=-10".into(), size - 10, size),
        (format!("bytes={}-{}", size - 1, u64::MAX), size - 1, size),
        (format!("bytes=-{}", size + 1), 0, size),
    ] {
        let answer = ask(&[&format!("Range: {range}")]);
        assert_eq!(answer.status, 206, "{range}");
        assert_eq!(answer.body, bytes[start..end], "{range}");
        let said = format!("bytes {start}-{}/{size}", end - 1);
        assert_eq!(answer.header("content-range"), Some(said.as_str()));
    }
    for range in [format!("bytes={size}-"), "bytes=99999999999999999999-".into(), "bytes=-0".into()]
    {
        let answer = ask(&[&format!("Range: {range}")]);
        assert_eq!(answer.says(), "416 SIZE_INVALID", "{range}");
        assert_eq!(answer.header("content-range"), Some(format!("bytes */{size}").as_str()));
    }
    // What is none, or several at a time, is ignored: RFC 9110, section 14.2.
    for range in ["bytes=5-4", "bytes=0-1,3-4", "lines=1-2", "bytes=a-", "0-1"] {
        assert_eq!(ask(&[&format!("Range: {range}")]).status, 200, "{range}");
    }
    let of = |etag: &str| ask(&["Range: bytes=5-", &format!("If-Range: {etag}")]).status;
    assert_eq!((of(&etag), of("\"another\"")), (206, 200));
    let head = server.send("HEAD", &path, &["Range: bytes=5-9"], b"");
    assert_eq!((head.status, head.header("content-length")), (206, Some("5")));
}

/// Returns a manifest of no layers that refers to `subject`.
fn referrer(t: &Sandbox, subject: &Value, artifact_type: &str, annotation: &str) -> Value {
    let blobs = t.path("tare/images/blobs/sha256");
    let put = |bytes: &[u8], media_type: &str| {
        let hex = sha256(bytes);
        fs::write(blobs.join(&hex), bytes).unwrap();
        json!({ "mediaType": media_type, "digest": format!("sha256:{hex}"), "size": bytes.len() })
    };
    let config = put(b"{}", artifact_type);
    let manifest = json!({
        "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [],
        "subject": subject, "annotations": { "note": annotation },
    });
    put(manifest.to_string().as_bytes(), MANIFEST)
}

/// Adds entries to the store's index.json, as they are.
fn keep(t: &Sandbox, descs: &[Value]) {
    let path = t.path("tare/images/index.json");
    let mut index = sandbox::image::read_json(&path);
    index["manifests"].as_array_mut().unwrap().extend(descs.iter().cloned());
    fs::write(path, index.to_string()).unwrap();
}

#[test]
fn referrers_are_listed_and_filtered() {
    let t = Sandbox::with_image("app:1");
    let subject = json!({
        "mediaType": MANIFEST, "digest": busybox().digest, "size": busybox().manifest().to_string().len(),
    });
    let notes = ["a/sbom+json", "a/signature", "a/signature"];
    let descs: Vec<Value> = notes
        .iter()
        .enumerate()
        .map(|(i, it)| referrer(&t, &subject, it, &i.to_string()))
        .collect();
    keep(&t, &descs); // without names, as oras keeps them
    let server = Server::start(&t, "");
    let list = |query: &str| {
        let answer = server.get(&format!("/v2/app/referrers/{}{query}", busybox().digest));
        assert_eq!(answer.header("content-type"), Some(INDEX));
        let filtered = answer.header("oci-filters-applied").map(str::to_owned);
        let index = answer.json();
        assert_eq!((&index["schemaVersion"], &index["mediaType"]), (&json!(2), &json!(INDEX)));
        (index["manifests"].as_array().unwrap().clone(), filtered)
    };
    let (all, filtered) = list("");
    assert_eq!((all.len(), filtered), (3, None));
    for (desc, artifact_type) in descs.iter().zip(notes) {
        let found = all.iter().find(|it| it["digest"] == desc["digest"]).unwrap();
        assert_eq!((&found["size"], &found["mediaType"]), (&desc["size"], &desc["mediaType"]));
        assert_eq!(found["artifactType"], artifact_type);
        assert!(found["annotations"]["note"].is_string());
    }
    let applied = Some("artifactType".to_owned());
    for (query, count) in
        [("a/signature", 2), ("a/sbom%2Bjson", 1), ("a/sbom+json", 1), ("a", 0), ("", 0)]
    {
        let (found, filtered) = list(&format!("?artifactType={query}"));
        assert_eq!((found.len(), &filtered), (count, &applied), "{query}");
    }
    let none = server.get(&format!("/v2/app/referrers/sha256:{}", "0".repeat(64)));
    assert_eq!(none.json()["manifests"], json!([]));
}

#[test]
fn a_long_list_of_referrers_comes_in_parts() {
    let t = Sandbox::with_image("app:1");
    let subject = json!({ "mediaType": MANIFEST, "digest": busybox().digest, "size": 1 });
    let long = "x".repeat(300_000);
    let descs: Vec<Value> =
        (0..10).map(|i| referrer(&t, &subject, "a/note", &format!("{i}{long}"))).collect();
    keep(&t, &descs);
    let server = Server::start(&t, "");
    let mut path = format!("/v2/app/referrers/{}?artifactType=a%2Fnote", busybox().digest);
    let (mut found, mut parts) = (Vec::new(), 0);
    loop {
        let answer = server.get(&path);
        assert!(answer.body.len() < 2 << 20, "{}", answer.body.len());
        let manifests = answer.json()["manifests"].as_array().unwrap().clone();
        found.extend(manifests.iter().map(|desc| desc["digest"].as_str().unwrap().to_owned()));
        parts += 1;
        match answer.header("link") {
            Some(link) => path = link[1..link.find('>').unwrap()].to_owned(),
            None => break,
        }
    }
    let mut expected: Vec<_> =
        descs.iter().map(|desc| desc["digest"].as_str().unwrap().to_owned()).collect();
    expected.sort();
    assert_eq!(found, expected);
    assert!(parts > 2, "{parts}");
}

#[test]
fn an_image_of_several_platforms_is_served_with_all_of_them() {
    let t = Sandbox::new();
    let (index, other) = for_two_platforms();
    t.store(&index, "multi:1");
    let server = Server::start(&t, "");
    let answer = server.get("/v2/multi/manifests/1");
    assert_eq!(answer.header("content-type"), Some(INDEX));
    for digest in index.documents() {
        assert_eq!(server.says(&format!("GET /v2/multi/manifests/{digest}")), "200", "{digest}");
    }
    t.set("SERVED", &server.address);
    t.sh("img-pull -q --layout all --all-platforms $SERVED/multi:1")
        .prints(&format!("./all:{}/multi:1@{}\n", server.address, index.digest));
    // What was pulled for one platform is served again, by the index's digest as well.
    t.sh("img-pull -q --root one $SERVED/multi:1 >name").is_silent();
    let again = Server::start(&t, "--root one");
    for digest in [&busybox().digest, &index.digest] {
        assert_eq!(again.says(&format!("GET /v2/multi/manifests/{digest}")), "200", "{digest}");
    }
    assert_eq!(
        again.says(&format!("GET /v2/multi/manifests/{}", other.digest)),
        "404 MANIFEST_UNKNOWN"
    );
}

#[test]
fn an_ordinary_user_serves() {
    let t = Sandbox::with_image("app:1").as_user();
    let server = Server::start(&t, "");
    t.sh(&format!("img-pull -q --layout out {}/app:1 >/dev/null", server.address)).is_silent();
}

#[test]
fn a_connection_serves_one_request_after_the_other() {
    let t = Sandbox::with_image("app:1");
    let server = Server::start(&t, "");
    let mut stream = server.connect();
    // All of them before the first answer, as a pipelining client sends them.
    let requests = [
        "HEAD /v2/app/manifests/1",
        "GET /v2/nosuch/tags/list",
        "GET /v2/",
        "GET /v2/app/manifests/1",
    ];
    for request in requests {
        stream.write_all(format!("{request} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).unwrap();
    }
    let mut stream = BufReader::new(stream);
    for (request, status) in requests.into_iter().zip([200, 404, 200, 200]) {
        let answer = Answer::read_head(&mut stream);
        assert_eq!(answer.status, status, "{request}");
        let length: usize = answer.header("content-length").unwrap().parse().unwrap();
        if !request.starts_with("HEAD") {
            let mut body = vec![0; length];
            stream.read_exact(&mut body).unwrap();
            assert!(serde_json::from_slice::<Value>(&body).is_ok());
        }
    }
}
