//! Those who mean no good, or know no better.

use std::fs::File;
use std::io::{BufReader, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::Duration;

use sandbox::Sandbox;
use sandbox::image::{busybox, sha256};
use serde_json::json;

use super::server::{Answer, Server};

/// Reads until the other side has closed; an error is an end as well.
fn drained(mut stream: impl Read) -> usize {
    let (mut buffer, mut count) = (vec![0; 64 << 10], 0);
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return count,
            Ok(n) => count += n,
            Err(err) if err.kind() == ErrorKind::WouldBlock => panic!("the connection stays open"),
            Err(_) => return count,
        }
    }
}

/// Puts a blob of so many zeros into the store, as a layer of `big:1`. Nobody checks what it hashes to.
fn big(t: &Sandbox, size: u64) -> String {
    let digest = format!("sha256:{}", "b".repeat(64));
    let images = t.path("tare/images");
    File::create(images.join("blobs").join(digest.replace(':', "/")))
        .unwrap()
        .set_len(size)
        .unwrap();
    let mut manifest = busybox().manifest();
    manifest["layers"] = json!([{ "mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": digest, "size": size }]);
    let bytes = manifest.to_string();
    let hex = sha256(bytes.as_bytes());
    std::fs::write(images.join("blobs/sha256").join(&hex), &bytes).unwrap();
    let path = images.join("index.json");
    let mut index = sandbox::image::read_json(&path);
    index["manifests"].as_array_mut().unwrap().push(json!({
        "mediaType": manifest["mediaType"], "digest": format!("sha256:{hex}"), "size": bytes.len(),
        "annotations": { "org.opencontainers.image.ref.name": "docker.io/library/big:1" },
    }));
    std::fs::write(path, index.to_string()).unwrap();
    digest
}

#[test]
fn who_speaks_too_slowly_is_hung_up_on() {
    let t = Sandbox::with_image("app:1");
    let server = Server::start(&t, "--writable --stall 500ms");
    let half = |text: &str| {
        let mut stream = server.connect();
        stream.write_all(text.as_bytes()).unwrap();
        stream
    };
    // Nothing at all, half a header, half a body.
    drained(half(""));
    drained(half("GET /v2/ HTTP/1.1\r\nHost: x\r\n"));
    let answer = Answer::read_head(&mut BufReader::new(half(
        "PUT /v2/app/manifests/1 HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n01234",
    )));
    assert_eq!(answer.status, 408);
    let location = server.send("POST", "/v2/app/blobs/uploads/", &[], b"").location();
    drained(half(&format!(
        "PATCH {location} HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n01234"
    )));
    assert_eq!(server.get(&location).header("range"), Some("0-4"), "what came is kept");

    // A byte now and then: a header has one patience for all of it.
    let mut stream = server.connect();
    stream.set_nodelay(true).unwrap();
    let sent = (0..1000).take_while(|_| {
        thread::sleep(Duration::from_millis(20));
        stream.write_all(b"x").is_ok()
    });
    assert!(sent.count() < 1000, "it listens for ever");
}

#[test]
fn who_does_not_take_what_was_asked_for_is_hung_up_on() {
    let t = Sandbox::with_image("app:1");
    let size = 1 << 30;
    let digest = big(&t, size);
    let server = Server::start(&t, "--stall 500ms");
    let mut streams: Vec<TcpStream> = (0..50).map(|_| server.connect()).collect();
    for stream in &mut streams {
        stream
            .write_all(format!("GET /v2/big/blobs/{digest} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes())
            .unwrap();
    }
    // Its end of each connection goes, and the descriptors of the blob with it.
    let open = || {
        let fds = std::fs::read_dir(format!("/proc/{}/fd", server.pid())).unwrap().flatten();
        fds.filter(|fd| {
            std::fs::read_link(fd.path()).is_ok_and(|it| it.to_string_lossy().contains("bbbbb"))
        })
        .count()
    };
    // Each has had the beginning of an answer: before that, nothing is open either.
    assert!(streams.iter().all(|stream| stream.peek(&mut [0]).is_ok_and(|n| n > 0)));
    for _ in 0..3000 {
        if open() == 0 {
            break;
        }
        thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(open(), 0, "the blob is still open");
    for stream in streams {
        assert!((drained(stream) as u64) < size);
    }
    assert!(server.peak() < 64 << 20, "{} bytes of memory", server.peak());
}

#[test]
fn memory_does_not_grow_with_blobs() {
    let t = Sandbox::with_image("app:1");
    let digest = big(&t, 1 << 30);
    let server = Server::start(&t, "--writable");
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut stream = server.connect();
                let request = format!(
                    "GET /v2/big/blobs/{digest} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
                );
                stream.write_all(request.as_bytes()).unwrap();
                assert!(drained(stream) > 1 << 30);
            });
        }
    });
    let location = server.send("POST", "/v2/app/blobs/uploads/", &[], b"").location();
    let mut stream = server.connect();
    let size = 256 << 20;
    stream.write_all(format!("PATCH {location} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {size}\r\n\r\n").as_bytes()).unwrap();
    let piece = vec![0; 1 << 20];
    (0..256).for_each(|_| stream.write_all(&piece).unwrap());
    assert_eq!(Answer::read(stream).status, 202);
    assert!(server.peak() < 32 << 20, "{} bytes of memory", server.peak());
    assert_eq!(server.says(&format!("DELETE {location}")), "204");
}

#[test]
fn a_crowd_that_says_nothing_keeps_nobody_out() {
    let t = Sandbox::with_image("app:1");
    let server = Server::start(&t, "--stall 1h");
    // As many as this test may have open, and far more than the server serves.
    let mut crowd = Vec::new();
    for i in 0..2000 {
        let Ok(mut stream) = TcpStream::connect(&server.address) else { break };
        // Some of them begin to ask.
        if i % 3 == 0 {
            let _ = stream.write_all(b"GET /v2/ HTTP/1.1\r\n");
        }
        crowd.push(stream);
    }
    assert!(crowd.len() > 600, "{}", crowd.len());
    for _ in 0..10 {
        assert_eq!(server.says("GET /v2/app/manifests/1"), "200");
    }
    assert!(server.peak() < 64 << 20, "{} bytes of memory", server.peak());
}

#[test]
fn those_who_speak_slowly_do_not_keep_manifests_out() {
    let t = Sandbox::with_image("app:1");
    let server = Server::start(&t, "--writable --stall 1h");
    let slow: Vec<TcpStream> = (0..50)
        .map(|i| {
            let mut stream = server.connect();
            let head = format!("PUT /v2/x{i}/manifests/t HTTP/1.1\r\nHost: x\r\n");
            stream.write_all(format!("{head}Content-Length: 100000\r\n\r\n{{").as_bytes()).unwrap();
            stream
        })
        .collect();
    t.sh(&format!("img-push -q --stall 30s app:1 {}/app:2 | wc -l", server.address)).prints("1\n");
    drop(slow);
}

#[test]
fn few_file_descriptors_are_enough() {
    let t = Sandbox::with_image("app:1");
    let server = Server::started_by(
        t.command("ulimit -n 100; exec img-serve --listen 127.0.0.1:0 --writable --stall 1h"),
    );
    let crowd: Vec<TcpStream> =
        (0..200).filter_map(|_| TcpStream::connect(&server.address).ok()).collect();
    assert_eq!(server.says("GET /v2/app/manifests/1"), "200");
    let uploads: Vec<String> =
        (0..30).map(|_| server.says("POST /v2/app/blobs/uploads/")).collect();
    let refused = uploads.iter().filter(|says| *says == "429 TOOMANYREQUESTS").count();
    let begun = uploads.iter().filter(|says| *says == "202").count();
    assert!(refused > 0 && begun > 0 && refused + begun == 30, "{uploads:?}");
    drop(crowd);
    assert_eq!(server.says("GET /v2/app/manifests/1"), "200");
}

#[test]
fn when_all_are_busy_the_next_one_is_told_so() {
    let t = Sandbox::with_image("app:1");
    let digest = big(&t, 1 << 30);
    let server = Server::started_by(
        t.command("ulimit -n 94; exec img-serve --listen 127.0.0.1:0 --stall 1h"),
    );
    let mut busy: Vec<BufReader<TcpStream>> = Vec::new();
    for _ in 0..10 {
        let mut stream = server.connect();
        stream
            .write_all(format!("GET /v2/big/blobs/{digest} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes())
            .unwrap();
        let mut stream = BufReader::new(stream);
        assert_eq!(Answer::read_head(&mut stream).status, 200);
        busy.push(stream);
    }
    let answer = Answer::read(server.connect());
    assert_eq!(
        (answer.says().as_str(), answer.header("retry-after")),
        ("429 TOOMANYREQUESTS", Some("1"))
    );
    drop(busy);
}

#[test]
fn what_is_no_request_is_refused() {
    let t = Sandbox::with_image("app:1");
    let server = Server::start(&t, "--writable");
    let long = "x".repeat(100_000);
    let many: String = (0..200).map(|i| format!("X-{i}: y\r\n")).collect();
    let table = [
        ("\r\n\r\n\r\nnonsense\r\n\r\n".to_owned(), vec![400]),
        ("GET\r\n\r\n".into(), vec![400]),
        ("GET /v2/ HTTP/9.9\r\n\r\n".into(), vec![400]),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".into(), vec![]), // it hangs up
        (format!("GET /v2/{long} HTTP/1.1\r\nHost: x\r\n\r\n"), vec![414, 431]),
        (format!("GET /v2/ HTTP/1.1\r\nHost: x\r\nX: {long}\r\n\r\n"), vec![431]),
        (format!("GET /v2/ HTTP/1.1\r\nHost: x\r\n{many}\r\n"), vec![431]),
        (
            "GET /v2/ HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n".into(),
            vec![400],
        ),
        (
            "PUT /v2/app/manifests/1 HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: nonsense\r\n\r\n"
                .into(),
            vec![400],
        ),
        ("\u{16}\u{3}\u{1}\u{2}\u{0}".into(), vec![400]),
    ];
    for (request, statuses) in table {
        let mut stream = server.connect();
        stream.write_all(request.as_bytes()).unwrap();
        let mut bytes = Vec::new();
        let _ = stream.read_to_end(&mut bytes);
        let text = String::from_utf8_lossy(&bytes);
        let status = text.split(' ').nth(1).and_then(|status| status.parse::<u16>().ok());
        let shown = &request[..request.len().min(60)];
        let fine = status.map_or(statuses.is_empty(), |status| statuses.contains(&status));
        assert!(fine, "{shown:?}: {text}");
    }
    assert_eq!(server.says("GET /v2/app/manifests/1"), "200");
}

#[test]
fn a_manifest_of_a_hundred_megabytes_is_refused() {
    let t = Sandbox::with_image("app:1");
    let server = Server::start(&t, "--writable");
    let announced = server.send("PUT", "/v2/app/manifests/2", &[], &vec![b' '; 100 << 20]);
    assert_eq!(announced.says(), "413 SIZE_INVALID");
    // One whose length nobody said.
    let mut stream = server.connect();
    stream.write_all(b"PUT /v2/app/manifests/2 HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n").unwrap();
    let piece = format!("100000\r\n{}\r\n", " ".repeat(1 << 20));
    for _ in 0..100 {
        stream.write_all(piece.as_bytes()).unwrap();
    }
    stream.write_all(b"0\r\n\r\n").unwrap();
    assert_eq!(Answer::read(stream).says(), "413 SIZE_INVALID");
    assert!(server.peak() < 64 << 20, "{} bytes of memory", server.peak());
    t.sh("img-ls -q | wc -l").prints("1\n");
}

#[test]
fn no_path_leads_out_of_the_layout() {
    let t = Sandbox::with_image("app:1");
    t.write("secret", "secret");
    std::fs::write(t.path("tare/images/secret"), "secret").unwrap();
    let server = Server::start(&t, "--writable");
    let hex = "0".repeat(64);
    for path in [
        "/../../../etc/passwd",
        "/v2/../../etc/passwd",
        "/v2/app/blobs/../../../secret",
        "/v2/app/blobs/sha256:../../secret",
        "/v2/app/blobs/sha256%3a..%2f..%2fsecret",
        "/v2/app/manifests/../secret",
        "/v2/app/manifests/..%2f..%2findex.json",
        "/v2/app/blobs/uploads/../../secret",
        "/v2/app/blobs/uploads/..%2f..%2fsecret",
        "/v2/%2e%2e/manifests/1",
        "/v2/app%00/manifests/1",
        "/v2/app/manifests/1%00",
        &format!("/v2/app/blobs/sha256:{hex}%00"),
        &format!("/v2/app/blobs/sha256:{hex}/../../../secret"),
    ] {
        for method in ["GET", "PUT", "PATCH", "DELETE"] {
            let answer = server.send(method, path, &[], b"");
            let code = answer.status;
            assert!((400..500).contains(&code), "{method} {path}: {code}");
            assert!(!String::from_utf8_lossy(&answer.body).contains("root:"), "{method} {path}");
        }
    }
    t.sh("cat secret $TARE_ROOT/images/secret").prints("secretsecret");
}
