//! Pushes that are cut, abandoned, raced, killed or have no room; and the lock that keeps a prune away.

use std::fs;
use std::io::Write;
use std::net::Shutdown;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use sandbox::disk::Disk;
use sandbox::image::{busybox, sha256};
use sandbox::{Sandbox, lacks};
use serde_json::json;

use super::pushing::{VALID, push_blobs};
use super::server::Server;

/// Says whether somebody could prune now: whether nobody holds the lock that keeps blobs.
const LOCK: &str = "flock -n -x $TARE_ROOT/images/oci-layout true && echo free || echo held";

/// Tries until it is so. Only what never becomes so takes long.
#[track_caller]
fn until(what: &str, so: impl Fn() -> bool) {
    let start = Instant::now();
    while !so() {
        assert!(start.elapsed() < Duration::from_secs(60), "{what}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// Begins an upload, sends a part of what is announced, and cuts the connection.
fn cut(server: &Server, announced: usize, bytes: &[u8]) -> String {
    let location = server.send("POST", "/v2/app/blobs/uploads/", &[], b"").location();
    let mut stream = server.connect();
    let head =
        format!("PATCH {location} HTTP/1.1\r\nHost: x\r\nContent-Length: {announced}\r\n\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(bytes).unwrap();
    // What was sent is here before the line is cut.
    until("nothing arrives", || partial(server) == bytes.len() as u64 || bytes.len() < 300_000);
    stream.shutdown(Shutdown::Both).unwrap();
    location
}

/// Returns how much lies in partial blobs.
fn partial(server: &Server) -> u64 {
    let fds = fs::read_dir(format!("/proc/{}/fd", server.pid())).unwrap().flatten();
    let open = fds.filter(|fd| {
        fs::read_link(fd.path()).is_ok_and(|path| path.to_string_lossy().contains("/.partial/new-"))
    });
    open.filter_map(|fd| Some(fs::metadata(fd.path()).ok()?.len())).sum()
}

#[test]
fn a_cut_upload_is_gone_on_with() {
    let t = Sandbox::new();
    let server = Server::start(&t, "--writable");
    let bytes: Vec<u8> = (0..500_000u32).flat_map(u32::to_le_bytes).collect();
    let location = cut(&server, bytes.len(), &bytes[..100_000]);
    let offset = || {
        let status = server.get(&location);
        assert_eq!(status.status, 204);
        let range = status.header("range").unwrap().to_owned();
        range.strip_prefix("0-").unwrap().parse::<usize>().unwrap() + 1
    };
    until("what came is not kept", || offset() == 100_000);
    let at = offset();
    let digest = format!("sha256:{}", sha256(&bytes));
    let range = format!("Content-Range: {at}-{}", bytes.len() - 1);
    let answer =
        server.send("PUT", &format!("{location}?digest={digest}"), &[&range], &bytes[at..]);
    assert_eq!(answer.says(), "201");
    assert_eq!(server.get(&format!("/v2/app/blobs/{digest}")).body, bytes);
}

#[test]
fn a_prune_waits_for_a_push_and_not_for_one_that_was_given_up() {
    let t = Sandbox::with_image("old:1");
    let server = Server::start(&t, "--writable --upload-timeout 1s");
    t.sh(LOCK).prints("free\n");
    let manifest = push_blobs(&server, "app", busybox());
    t.sh(LOCK).prints("held\n");
    assert_eq!(server.push_manifest("app", "1", &manifest).says(), "201");
    t.sh(LOCK).prints("free\n");

    // A manifest by digest has a name, and needs no lock.
    assert_eq!(server.push_manifest("app", &busybox().digest, &manifest).says(), "201");
    t.sh(LOCK).prints("free\n");

    let lone = server.push_blob("app", b"nobody names it");
    assert_eq!(server.says(&format!("HEAD /v2/app/blobs/{lone}")), "200");
    let location = server.send("POST", "/v2/app/blobs/uploads/", &[], b"").location();
    until("an upload is never forgotten", || server.get(&location).status == 404);
    until("a blob is never forgotten", || {
        server.says(&format!("GET /v2/app/blobs/{lone}")) == "404 BLOB_UNKNOWN"
    });
    t.sh(LOCK).prints("free\n");
    assert_eq!(partial(&server), 0);
    t.sh("ls -A $TARE_ROOT/images").prints("blobs\nindex.json\noci-layout\n");
    let file = t.path("tare/images/blobs").join(lone.replace(':', "/"));
    until("its file stays", || !file.exists());
    assert_eq!(server.says("GET /v2/app/manifests/1"), "200");
}

#[test]
fn what_is_pushed_while_others_prune_is_whole() {
    let t = Sandbox::new();
    let server = Server::start(&t, "--writable");
    let mut prune = t
        .command("while test ! -e enough; do img-prune -a -f -q >/dev/null || exit; done")
        .spawn()
        .unwrap();
    for i in 0..20 {
        let image = busybox().with_config(&json!({ "Cmd": [i.to_string()] }));
        // What it brought is there until it has a name, and then only as long as it has one.
        let manifest = push_blobs(&server, "app", &image);
        assert_eq!(server.push_manifest("app", &format!("t{i}"), &manifest).says(), "201");
        let gone = server.get(&format!("/v2/app/manifests/t{i}")).says();
        assert!(["200", "404 NAME_UNKNOWN"].contains(&gone.as_str()), "{gone}");
    }
    t.write("enough", "");
    assert!(prune.wait().unwrap().success());
    t.sh("img-prune -a -f -q >/dev/null; ls $TARE_ROOT/images/blobs/sha256 | wc -l").prints("0\n");
}

#[test]
fn an_upload_that_still_comes_is_not_given_up() {
    let t = Sandbox::new();
    let server = Server::start(&t, "--writable --upload-timeout 300ms");
    let location = server.send("POST", "/v2/app/blobs/uploads/", &[], b"").location();
    let mut stream = server.connect();
    let head = format!(
        "PUT {location}?digest=sha256:{} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 20\r\n\r\n",
        sha256(&[b'x'; 20])
    );
    stream.write_all(head.as_bytes()).unwrap();
    for _ in 0..20 {
        stream.write_all(b"x").unwrap();
        thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(super::server::Answer::read(stream).says(), "201");
}

#[test]
fn two_pushes_of_one_tag_leave_one_of_them() {
    let t = Sandbox::new();
    let server = Server::start(&t, "--writable");
    let images: Vec<_> =
        (0..8).map(|i| busybox().with_config(&json!({ "Cmd": [i.to_string()] }))).collect();
    thread::scope(|scope| {
        for image in &images {
            let server = &server;
            scope.spawn(move || {
                for _ in 0..5 {
                    let manifest = push_blobs(server, "app", image);
                    assert_eq!(server.push_manifest("app", "1", &manifest).says(), "201");
                    assert_eq!(server.get("/v2/app/manifests/1").status, 200);
                }
            });
        }
    });
    let found =
        server.get("/v2/app/manifests/1").header("docker-content-digest").unwrap().to_owned();
    assert!(images.iter().any(|image| image.digest == found));
    t.sh("img-ls -q").prints(&format!("app:1@{found}\n"));
    t.sh("img-ls -a -q | wc -l").prints("8\n");
    t.sh(VALID).is_silent();
    t.sh(LOCK).prints("free\n");
}

#[test]
fn a_server_that_is_killed_leaves_a_layout_that_is_whole() {
    let t = Sandbox::new();
    let server = Server::start(&t, "--writable");
    let manifest = push_blobs(&server, "app", busybox());
    assert_eq!(server.push_manifest("app", "1", &manifest).says(), "201");
    let location = server.send("POST", "/v2/app/blobs/uploads/", &[], b"").location();
    let mut stream = server.connect();
    let head = format!("PATCH {location} HTTP/1.1\r\nHost: x\r\nContent-Length: 9000000\r\n\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(&vec![7; 4_000_000]).unwrap();
    until("nothing is written", || partial(&server) > 1_000_000);
    server.signal(Signal::SIGKILL);
    assert_eq!(server.ended().0, 137);
    t.sh(VALID).is_silent();
    t.sh("img-ls -q").prints(&format!("app:1@{}\n", busybox().digest));
    t.sh(LOCK).prints("free\n");
    // The next writer clears up.
    let server = Server::start(&t, "--writable");
    assert_eq!(server.push_manifest("app", "2", &manifest).says(), "201");
    t.sh("ls -A $TARE_ROOT/images").prints("blobs\nindex.json\noci-layout\n");
}

#[test]
fn a_full_disk_ends_an_upload_and_nothing_else() {
    if lacks(&["root"]) {
        return;
    }
    let t = Sandbox::new();
    let disk = Disk::tmpfs(&t.path("tare/images"), "size=4m");
    let server = Server::start(&t, "--writable");
    let manifest = push_blobs(&server, "app", busybox());
    assert_eq!(server.push_manifest("app", "1", &manifest).says(), "201");
    let big = vec![7; 8 << 20];
    let digest = format!("sha256:{}", sha256(&big));
    let location = server.send("POST", "/v2/app/blobs/uploads/", &[], b"").location();
    let table =
        [("POST", format!("/v2/app/blobs/uploads/?digest={digest}")), ("PATCH", location.clone())];
    for (method, path) in table {
        assert_eq!(server.send(method, &path, &[], &big).says(), "507 UNKNOWN", "{method}");
    }
    assert_eq!(server.says(&format!("GET {location}")), "404 BLOB_UPLOAD_UNKNOWN");
    assert_eq!(partial(&server), 0, "what was written is gone");
    assert_eq!(server.says("GET /v2/app/manifests/1"), "200");

    // Nor has a manifest a name that finds no room.
    t.sh("cat /dev/zero >$TARE_ROOT/images/filler 2>/dev/null; true").is_silent();
    let other = busybox().with_config(&json!({ "Cmd": ["other"] })).manifest();
    let mut other = other.clone();
    other["config"] = manifest["config"].clone();
    other["annotations"] = json!({ "a": "b".repeat(10_000) });
    assert_eq!(server.push_manifest("app", "2", &other).says(), "507 UNKNOWN");
    t.sh("rm $TARE_ROOT/images/filler; img-ls -q").prints(&format!("app:1@{}\n", busybox().digest));
    assert_eq!(server.push_manifest("app", "2", &other).says(), "201");
    let said = server.stop();
    assert!(said.contains("No space left on device"), "{said}");
    t.sh(VALID).is_silent();
    drop(disk);
}
