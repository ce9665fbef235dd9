//! Push and content management: blobs, mounts, manifests, and what is deleted.

use std::fs;
use std::io::{BufReader, Write};

use sandbox::image::{Image, busybox, for_two_platforms, sha256};
use sandbox::{Sandbox, lacks};
use serde_json::{Value, json};

use super::server::{Answer, Server};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// A script that succeeds silently if every blob hashes to its name.
pub const VALID: &str = "cd $TARE_ROOT/images/blobs/sha256 && sha256sum * | awk '$1 != $2'";

/// Pushes the blobs of an image, and returns its manifest.
pub fn push_blobs(server: &Server, repository: &str, image: &Image) -> Value {
    let manifest = image.manifest();
    let descs = [&manifest["config"]].into_iter().chain(manifest["layers"].as_array().unwrap());
    for desc in descs {
        let digest = desc["digest"].as_str().unwrap();
        server.push_blob(repository, &fs::read(image.blob(digest)).unwrap());
    }
    manifest
}

/// Returns a descriptor of some bytes.
fn desc(media_type: &str, bytes: &[u8]) -> Value {
    json!({ "mediaType": media_type, "digest": format!("sha256:{}", sha256(bytes)), "size": bytes.len() })
}

fn begin(server: &Server, repository: &str) -> String {
    let answer = server.send("POST", &format!("/v2/{repository}/blobs/uploads/"), &[], b"");
    assert_eq!(answer.status, 202);
    assert!(answer.header("docker-upload-uuid").is_some());
    assert_eq!(answer.header("range"), Some("0-0"));
    answer.location()
}

#[test]
fn a_blob_comes_in_every_way_that_there_is() {
    let t = Sandbox::new();
    let server = Server::start(&t, "--writable");
    let bytes: Vec<u8> = (0..1_000_000u32).flat_map(u32::to_le_bytes).collect();
    let digest = format!("sha256:{}", sha256(&bytes));
    let there = |repository: &str| {
        let path = format!("/v2/{repository}/blobs/{digest}");
        assert_eq!(server.get(&path).body, bytes, "{repository}");
        assert_eq!(server.head(&path).header("content-length"), Some("4000000"));
    };
    let created = |answer: Answer, repository: &str| {
        assert_eq!(answer.says(), "201");
        assert_eq!(answer.location(), format!("/v2/{repository}/blobs/{digest}"));
        assert_eq!(answer.header("docker-content-digest"), Some(digest.as_str()));
        there(repository);
    };

    let answer = server.send("POST", &format!("/v2/a/blobs/uploads/?digest={digest}"), &[], &bytes);
    created(answer, "a");
    let location = begin(&server, "b");
    created(server.send("PUT", &format!("{location}?digest={digest}"), &[], &bytes), "b");

    // In chunks, the last with the end.
    let location = begin(&server, "c");
    for (start, end) in [(0, 1), (1, 1_000_000), (1_000_000, 3_000_000)] {
        let range = format!("Content-Range: {start}-{}", end - 1);
        let answer = server.send("PATCH", &location, &[&range], &bytes[start..end]);
        assert_eq!((answer.status, answer.location()), (202, location.clone()));
        assert_eq!(answer.header("range"), Some(format!("0-{}", end - 1).as_str()));
        let status = server.get(&location);
        assert_eq!((status.status, status.location()), (204, location.clone()));
        assert_eq!(status.header("range"), Some(format!("0-{}", end - 1).as_str()));
    }
    let put = format!("{location}?digest={digest}");
    created(
        server.send("PUT", &put, &["Content-Range: 3000000-3999999"], &bytes[3_000_000..]),
        "c",
    );
    assert_eq!(
        server.send("PUT", &put, &[], b"").says(),
        "404 BLOB_UPLOAD_UNKNOWN",
        "it has ended"
    );

    // In a stream of which nobody knows the length, as docker and podman send it.
    let location = begin(&server, "d");
    let mut chunked = Vec::new();
    for piece in bytes.chunks(70_000) {
        chunked.extend(format!("{:x}\r\n", piece.len()).into_bytes());
        chunked.extend(piece);
        chunked.extend(b"\r\n");
    }
    chunked.extend(b"0\r\n\r\n");
    let mut stream = server.connect();
    let head = format!(
        "PATCH {location} HTTP/1.1\r\nHost: test\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
    );
    stream.write_all(&[head.as_bytes(), &chunked].concat()).unwrap();
    assert_eq!(Answer::read(stream).status, 202);
    created(server.send("PUT", &format!("{location}?digest={digest}"), &[], b""), "d");

    // By another algorithm, and nothing at all.
    let out = t.feed(&bytes, "sha512sum | cut -d' ' -f1").text();
    let sha512 = format!("sha512:{}", out.trim());
    let location =
        server.send("POST", "/v2/e/blobs/uploads/?digest-algorithm=sha512", &[], b"").location();
    assert_eq!(
        server.send("PUT", &format!("{location}?digest={sha512}"), &[], &bytes).says(),
        "201"
    );
    assert_eq!(server.get(&format!("/v2/e/blobs/{sha512}")).body, bytes);
    let empty = server.push_blob("e", b"");
    assert_eq!(server.head(&format!("/v2/e/blobs/{empty}")).header("content-length"), Some("0"));
    t.sh("cd $TARE_ROOT/images/blobs/sha512 && sha512sum * | awk '$1 != $2'").is_silent();
    t.sh(VALID).is_silent();
}

#[test]
fn what_is_wrong_with_an_upload_is_said() {
    let t = Sandbox::new();
    let server = Server::start(&t, "--writable");
    let digest = format!("sha256:{}", sha256(b"hello"));
    let other = format!("sha256:{}", sha256(b"other"));
    let location = begin(&server, "app");
    type Row<'a> = (&'a str, String, &'a [&'a str], &'a [u8], &'a str);
    let rows: Vec<Row> = vec![
        ("PATCH", location.clone(), &["Content-Range: 1-5"], b"hello", "416 BLOB_UPLOAD_INVALID"),
        (
            "PATCH",
            location.clone(),
            &["Content-Range: bytes 0-4/5"],
            b"hello",
            "400 BLOB_UPLOAD_INVALID",
        ),
        ("PATCH", location.clone(), &["Content-Range: 4-0"], b"hello", "400 BLOB_UPLOAD_INVALID"),
        ("PATCH", location.clone(), &["Content-Range: 0-9"], b"hello", "400 SIZE_INVALID"),
        ("PATCH", location.clone(), &["Content-Range: 0-4"], b"hello", "202"),
        ("PATCH", location.clone(), &["Content-Range: 0-4"], b"hello", "416 BLOB_UPLOAD_INVALID"),
        ("PUT", location.clone(), &[], b"", "400 DIGEST_INVALID"),
        ("PUT", format!("{location}?digest=sha256:00"), &[], b"", "400 DIGEST_INVALID"),
        ("PUT", format!("{location}?digest=md5:00"), &[], b"", "400 DIGEST_INVALID"),
        (
            "PUT",
            format!("{location}?digest={digest}"),
            &["Content-Range: 9-9"],
            b"!",
            "416 BLOB_UPLOAD_INVALID",
        ),
        ("PATCH", "/v2/app/blobs/uploads/nosuch".into(), &[], b"hello", "404 BLOB_UPLOAD_UNKNOWN"),
        (
            "PUT",
            format!("/v2/app/blobs/uploads/nosuch?digest={digest}"),
            &[],
            b"",
            "404 BLOB_UPLOAD_UNKNOWN",
        ),
        ("GET", "/v2/app/blobs/uploads/nosuch".into(), &[], b"", "404 BLOB_UPLOAD_UNKNOWN"),
        ("DELETE", "/v2/app/blobs/uploads/nosuch".into(), &[], b"", "404 BLOB_UPLOAD_UNKNOWN"),
        ("PATCH", location.replace("/app/", "/other/"), &[], b"hello", "404 BLOB_UPLOAD_UNKNOWN"),
        ("POST", "/v2/App/blobs/uploads/".into(), &[], b"", "400 NAME_INVALID"),
        ("POST", "/v2/app/blobs/uploads/?digest=x".into(), &[], b"hello", "400 DIGEST_INVALID"),
        (
            "POST",
            "/v2/app/blobs/uploads/?digest-algorithm=md5".into(),
            &[],
            b"",
            "400 DIGEST_INVALID",
        ),
        (
            "POST",
            format!("/v2/app/blobs/uploads/?digest={other}"),
            &[],
            b"hello",
            "400 DIGEST_INVALID",
        ),
        // All the way, and the digest is another one: nothing of it stays.
        ("PUT", format!("{location}?digest={other}"), &[], b"", "400 DIGEST_INVALID"),
        ("PUT", format!("{location}?digest={digest}"), &[], b"", "404 BLOB_UPLOAD_UNKNOWN"),
    ];
    for (method, path, headers, body, says) in rows {
        let answer = server.send(method, &path, headers, body);
        assert_eq!(answer.says(), says, "{method} {path} {headers:?}");
        if answer.status == 416 {
            assert_eq!(answer.location(), location);
            assert!(answer.header("range").is_some());
        }
    }
    let location = begin(&server, "app");
    assert_eq!(server.says(&format!("DELETE {location}")), "204");
    assert_eq!(server.says(&format!("GET {location}")), "404 BLOB_UPLOAD_UNKNOWN");
    assert_eq!(server.stop(), "");
    t.sh("find $TARE_ROOT/images/blobs $TARE_ROOT/images/.partial -type f 2>/dev/null; true")
        .prints("");
}

#[test]
fn a_body_that_is_not_as_long_as_its_range_is_refused_and_what_came_stays() {
    let t = Sandbox::new();
    let server = Server::start(&t, "--writable");
    let location = begin(&server, "app");
    let chunked = |body: &str| {
        let mut stream = server.connect();
        let text = format!(
            "PATCH {location} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Range: 0-4\r\n\
             Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n",
            body.len()
        );
        stream.write_all(text.as_bytes()).unwrap();
        Answer::read(stream).says()
    };
    assert_eq!(chunked("too long"), "400 SIZE_INVALID");
    assert_eq!(server.get(&location).header("range"), Some("0-0"));
    assert_eq!(chunked("hel"), "400 SIZE_INVALID");
    assert_eq!(server.get(&location).header("range"), Some("0-2"));
    let digest = format!("sha256:{}", sha256(b"hello"));
    assert_eq!(
        server
            .send("PUT", &format!("{location}?digest={digest}"), &["Content-Range: 3-4"], b"lo")
            .says(),
        "201"
    );
}

#[test]
fn a_blob_is_mounted_from_another_repository() {
    let t = Sandbox::with_image("app:1");
    let server = Server::start(&t, "--writable");
    let layer = busybox().manifest()["layers"][0]["digest"].as_str().unwrap().to_owned();
    let pushed = server.push_blob("first", b"pushed, and in no manifest yet");
    let none = format!("sha256:{}", "0".repeat(64));
    let mount = |repository: &str, query: &str| {
        let answer =
            server.send("POST", &format!("/v2/{repository}/blobs/uploads/?{query}"), &[], b"");
        if answer.status == 202 {
            assert_eq!(server.says(&format!("DELETE {}", answer.location())), "204");
        }
        answer.status
    };
    assert_eq!(server.says(&format!("GET /v2/new/blobs/{layer}")), "404 NAME_UNKNOWN");
    let table = [
        ("new", format!("mount={layer}&from=app"), 201),
        ("newer", format!("mount={layer}&from=library/app"), 201),
        ("newest", format!("mount={layer}"), 201),
        ("new", format!("mount={pushed}&from=first"), 201),
        ("new", format!("mount={layer}&from=first"), 202),
        ("new", format!("mount={layer}&from=nosuch"), 202),
        ("new", format!("mount={layer}&from=../etc"), 202),
        ("new", format!("mount={none}&from=app"), 202),
        ("new", "mount=../../etc/passwd&from=app".into(), 202),
    ];
    for (repository, query, status) in table {
        assert_eq!(mount(repository, &query), status, "{query}");
    }
    for repository in ["new", "newer", "newest"] {
        assert_eq!(
            server.says(&format!("HEAD /v2/{repository}/blobs/{layer}")),
            "200",
            "{repository}"
        );
    }
}

#[test]
fn what_is_pushed_has_a_name_and_is_pulled_again() {
    let t = Sandbox::new();
    let server = Server::start(&t, "--writable");
    let digest = &busybox().digest;
    for (repository, tag, name) in [
        ("app", "1", "app:1"),
        ("library/app", "2", "app:2"),
        ("team/app", "1", "team/app:1"),
        ("ghcr.io/team/app", "3", "ghcr.io/team/app:3"),
    ] {
        let manifest = push_blobs(&server, repository, busybox());
        let answer = server.push_manifest(repository, tag, &manifest);
        assert_eq!(answer.says(), "201", "{repository}");
        assert_eq!(answer.location(), format!("/v2/{repository}/manifests/{digest}"));
        assert_eq!(answer.header("docker-content-digest"), Some(digest.as_str()));
        assert_eq!(
            server.get(&format!("/v2/{repository}/manifests/{tag}")).body,
            manifest.to_string().into_bytes()
        );
        t.sh(&format!("img-ls -q | grep -c '^{name}@{digest}$'")).prints("1\n");
        t.sh(&format!("img-pull -q --layout out {}/{repository}:{tag} >/dev/null", server.address))
            .is_silent();
    }
    t.sh("img-ls -q | wc -l; ls -A $TARE_ROOT/images").prints("4\nblobs\nindex.json\noci-layout\n");
    t.sh(VALID).is_silent();
}

#[test]
fn a_manifest_is_refused_unless_all_of_it_is_right_and_here() {
    let t = Sandbox::new();
    let server = Server::start(&t, "--writable");
    let manifest = push_blobs(&server, "app", busybox());
    let with = |change: &dyn Fn(&mut Value)| {
        let mut manifest = manifest.clone();
        change(&mut manifest);
        manifest.to_string().into_bytes()
    };
    let bytes = manifest.to_string().into_bytes();
    let none = format!("sha256:{}", "0".repeat(64));
    let index = |members: Value| {
        json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": members })
            .to_string()
            .into_bytes()
    };
    let table: Vec<(&str, &str, Vec<u8>, &str)> = vec![
        (".tag", MANIFEST, bytes.clone(), "400 MANIFEST_INVALID"),
        ("-tag", MANIFEST, bytes.clone(), "400 MANIFEST_INVALID"),
        ("sha256:00", MANIFEST, bytes.clone(), "400 DIGEST_INVALID"),
        (&none, MANIFEST, bytes.clone(), "400 DIGEST_INVALID"),
        ("1", INDEX, bytes.clone(), "400 MANIFEST_INVALID"),
        ("1", "application/json", bytes.clone(), "400 MANIFEST_INVALID"),
        ("1", "text/html", b"<html>".to_vec(), "400 MANIFEST_INVALID"),
        ("1", MANIFEST, b"{}".to_vec(), "400 MANIFEST_INVALID"),
        ("1", MANIFEST, b"".to_vec(), "400 MANIFEST_INVALID"),
        ("1", MANIFEST, with(&|it| it["schemaVersion"] = json!(1)), "400 MANIFEST_INVALID"),
        ("1", MANIFEST, with(&|it| it["manifests"] = json!([])), "400 MANIFEST_INVALID"),
        (
            "1",
            MANIFEST,
            with(&|it| it["config"]["digest"] = json!("sha256:../../x")),
            "400 MANIFEST_INVALID",
        ),
        ("1", MANIFEST, with(&|it| it["config"]["size"] = json!(1)), "400 MANIFEST_INVALID"),
        (
            "1",
            MANIFEST,
            with(&|it| it["config"]["digest"] = json!(none)),
            "404 MANIFEST_BLOB_UNKNOWN",
        ),
        (
            "1",
            MANIFEST,
            with(&|it| it["layers"][0]["digest"] = json!(none)),
            "404 MANIFEST_BLOB_UNKNOWN",
        ),
        (
            "1",
            INDEX,
            index(json!([{ "mediaType": MANIFEST, "digest": none, "size": 1 }])),
            "404 MANIFEST_BLOB_UNKNOWN",
        ),
        ("1", INDEX, index(json!([manifest["layers"][0]])), "201"),
    ];
    for (reference, media_type, body, says) in table {
        let header = format!("Content-Type: {media_type}");
        let path = format!("/v2/app/manifests/{reference}");
        let answer = server.send("PUT", &path, &[&header], &body);
        assert_eq!(
            answer.says(),
            says,
            "{reference} {media_type} {}",
            String::from_utf8_lossy(&body)
        );
        if says != "201" {
            t.sh("img-ls -q").prints("");
        }
    }
    // A member whose own blobs are not here makes the index not whole.
    let mut broken = manifest.clone();
    broken["layers"][0]["digest"] = json!(none);
    let broken = broken.to_string().into_bytes();
    server.push_blob("app", &broken);
    let body = index(json!([desc(MANIFEST, &broken)]));
    let answer =
        server.send("PUT", "/v2/app/manifests/2", &[&format!("Content-Type: {INDEX}")], &body);
    assert_eq!(answer.says(), "404 MANIFEST_BLOB_UNKNOWN");
    // What is said of its type beside the type does not matter, nor what nobody knows.
    let whole = with(&|it| it["unknown"] = json!({ "a": [1] }));
    let header = format!("Content-Type: {MANIFEST}; charset=utf-8");
    assert_eq!(server.send("PUT", "/v2/app/manifests/3", &[&header], &whole).says(), "201");
    assert_eq!(server.send("PUT", "/v2/app/manifests/4", &[], &whole).says(), "201");
    assert_eq!(server.get("/v2/app/manifests/4").body, whole);
}

#[test]
fn what_a_manifest_refers_to_need_not_be_here() {
    let t = Sandbox::new();
    let server = Server::start(&t, "--writable");
    let mut manifest = push_blobs(&server, "app", busybox());
    let subject = format!("sha256:{}", "5".repeat(64));
    manifest["subject"] = json!({ "mediaType": MANIFEST, "digest": subject, "size": 7 });
    manifest["artifactType"] = json!("a/thing");
    let digest = format!("sha256:{}", sha256(manifest.to_string().as_bytes()));
    let answer = server.push_manifest("app", &digest, &manifest);
    assert_eq!((answer.status, answer.header("oci-subject")), (201, Some(subject.as_str())));
    let list = server.get(&format!("/v2/app/referrers/{subject}")).json();
    assert_eq!(list["manifests"][0]["digest"], json!(digest));
    assert_eq!(list["manifests"][0]["artifactType"], "a/thing");
    // It has a name of its own, so that nobody prunes it.
    t.sh("img-ls -q").prints(&format!("app@{digest}\n"));
    assert_eq!(server.get("/v2/app/tags/list").json()["tags"], json!([]));
    let other = server.get(&format!("/v2/other/referrers/{subject}")).json();
    assert_eq!(other["manifests"], json!([]));
}

#[test]
fn the_members_of_an_index_have_no_names_once_it_is_here() {
    let t = Sandbox::new();
    let server = Server::start(&t, "--writable");
    let manifest = push_blobs(&server, "app", busybox());
    let bytes = manifest.to_string().into_bytes();
    assert_eq!(server.push_manifest("app", &busybox().digest, &manifest).says(), "201");
    t.sh("img-ls -q").prints(&format!("app@{}\n", busybox().digest));
    let mut member = desc(MANIFEST, &bytes);
    member["platform"] = json!({ "os": "linux", "architecture": sandbox::image::architecture() });
    let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [member] });
    assert_eq!(server.push_manifest("app", "1", &index).says(), "201");
    let digest = format!("sha256:{}", sha256(index.to_string().as_bytes()));
    t.sh("img-ls -a -q").prints(&format!("app:1@{digest}\n"));
    assert_eq!(server.says(&format!("GET /v2/app/manifests/{}", busybox().digest)), "200");
    assert_eq!(
        server.says(&format!("DELETE /v2/app/manifests/{}", busybox().digest)),
        "405 UNSUPPORTED"
    );
}

#[test]
fn what_is_deleted_is_gone() {
    let t = Sandbox::new();
    let server = Server::start(&t, "--writable");
    let manifest = push_blobs(&server, "app", busybox());
    for tag in ["1", "2", "3"] {
        assert_eq!(server.push_manifest("app", tag, &manifest).says(), "201");
    }
    push_blobs(&server, "other", busybox());
    assert_eq!(server.push_manifest("other", "1", &manifest).says(), "201");
    let (digest, layer) = (&busybox().digest, manifest["layers"][0]["digest"].as_str().unwrap());
    let none = format!("sha256:{}", "0".repeat(64));
    let lone = server.push_blob("app", b"alone");
    let table = [
        ("DELETE /v2/app/manifests/1".to_owned(), "202"),
        ("GET /v2/app/manifests/1".into(), "404 MANIFEST_UNKNOWN"),
        ("DELETE /v2/app/manifests/1".into(), "404 MANIFEST_UNKNOWN"),
        ("GET /v2/app/manifests/2".into(), "200"),
        (format!("GET /v2/app/manifests/{digest}"), "200"),
        (format!("DELETE /v2/app/blobs/{layer}"), "405 UNSUPPORTED"),
        (format!("DELETE /v2/app/blobs/{lone}"), "202"),
        (format!("GET /v2/app/blobs/{lone}"), "404 BLOB_UNKNOWN"),
        (format!("DELETE /v2/app/blobs/{lone}"), "404 BLOB_UNKNOWN"),
        (format!("DELETE /v2/app/blobs/{none}"), "404 BLOB_UNKNOWN"),
        ("DELETE /v2/app/blobs/x:y".into(), "400 DIGEST_INVALID"),
        (format!("DELETE /v2/app/manifests/{none}"), "404 MANIFEST_UNKNOWN"),
        ("DELETE /v2/app/manifests/sha256:x".into(), "400 DIGEST_INVALID"),
        (format!("DELETE /v2/nosuch/manifests/{digest}"), "404 NAME_UNKNOWN"),
        (format!("DELETE /v2/nosuch/blobs/{layer}"), "404 NAME_UNKNOWN"),
        ("DELETE /v2/nosuch/manifests/1".into(), "404 NAME_UNKNOWN"),
        // All tags of one repository, and none of another.
        (format!("DELETE /v2/app/manifests/{digest}"), "202"),
        ("GET /v2/app/manifests/2".into(), "404 NAME_UNKNOWN"),
        (format!("GET /v2/app/manifests/{digest}"), "404 NAME_UNKNOWN"),
        ("GET /v2/other/manifests/1".into(), "200"),
        (format!("GET /v2/other/manifests/{digest}"), "200"),
        (format!("GET /v2/other/blobs/{layer}"), "200"),
    ];
    for (request, says) in &table {
        assert_eq!(server.says(request), *says, "{request}");
    }
    t.sh("img-ls -a -q").prints(&format!("other:1@{digest}\n"));
    t.sh("test ! -e $TARE_ROOT/images/blobs/sha256/$(printf alone | sha256sum | cut -d' ' -f1)")
        .is_silent();
    assert_eq!(server.says(&format!("DELETE /v2/other/manifests/{digest}")), "202");
    t.sh("img-ls -a -q").prints("");
}

#[test]
fn a_layout_is_made_for_what_is_pushed() {
    let t = Sandbox::new();
    t.sh("img-serve --listen 127.0.0.1:0 ./new")
        .exits(1)
        .says("img-serve: not an image layout: ./new/oci-layout: ");
    let server = Server::start(&t, "--writable ./new");
    let manifest = push_blobs(&server, "app", busybox());
    assert_eq!(server.push_manifest("app", "1", &manifest).says(), "201");
    t.sh("img-tag ./new:app:1 app").prints(&format!("./new:app:latest@{}\n", busybox().digest));
    if lacks(&["jq"]) {
        return;
    }
    t.sh("jq -r '.manifests[].annotations[\"org.opencontainers.image.ref.name\"]' new/index.json")
        .prints("docker.io/library/app:1\ndocker.io/library/app:latest\n");
}

#[test]
fn who_asks_before_sending_is_answered_before() {
    let t = Sandbox::new();
    t.write("users", "# nobody\n");
    let put = |server: &Server, body: &[u8]| {
        let mut stream = server.connect();
        let head = format!(
            "POST /v2/app/blobs/uploads/?digest=sha256:{} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\
             Content-Length: 5\r\nExpect: 100-continue\r\n\r\n",
            sha256(b"hello")
        );
        stream.write_all(head.as_bytes()).unwrap();
        let mut stream = BufReader::new(stream);
        let first = Answer::read_head(&mut stream).status;
        if first != 100 {
            return (first, None);
        }
        stream.get_mut().write_all(body).unwrap();
        (first, Some(Answer::read_head(&mut stream).status))
    };
    assert_eq!(put(&Server::start(&t, "--writable"), b"hello"), (100, Some(201)));
    assert_eq!(put(&Server::start(&t, ""), b"hello"), (405, None));
    assert_eq!(put(&Server::start(&t, "--writable --htpasswd users"), b"hello"), (401, None));
}

#[test]
fn our_own_tools_push_to_it_and_pull_from_it() {
    if lacks(&["jq", "flock"]) {
        return;
    }
    let t = Sandbox::with_image("app:1");
    let (index, _) = for_two_platforms();
    t.store(&index, "multi:1");
    t.write("users", "user:$2b$04$eYUI9A8RLjd7U6PHSImtzO6RfPqh7yF5ouXbigT3wtQj5AfQds7AS\n");
    let server = Server::start(&t, "--writable --htpasswd users ./new");
    t.set("SERVED", &server.address);
    t.sh("img-push -q app:1 $SERVED/app:1").exits(1);
    t.sh("echo secret | img-login -u user --password-stdin $SERVED >/dev/null 2>&1").is_silent();
    for (image, digest) in [("app:1", &busybox().digest), ("multi:1", &index.digest)] {
        let result = format!("{}/team/{image}@{digest}\n", server.address);
        // The second time all is there.
        for _ in 0..2 {
            t.sh(&format!("img-push -q {image} $SERVED/team/{image}")).prints(&result);
        }
        t.sh(&format!("img-pull -q --all-platforms --root back $SERVED/team/{image}"))
            .prints(&result);
    }
    t.sh("img-ls -q --root back | wc -l; jq '.manifests | length' new/index.json").prints("2\n2\n");
    t.sh("flock -n -x new/oci-layout true && ls -A new").prints("blobs\nindex.json\noci-layout\n");
}
