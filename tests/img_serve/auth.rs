//! Users and TLS.

use std::io::Write;

use sandbox::image::{busybox, sha256};
use sandbox::{Sandbox, lacks};

use super::pushing::push_blobs;
use super::server::Server;

/// `user:secret` and `other:other`, as htpasswd -B writes them.
const USERS: &str = "user:$2b$04$eYUI9A8RLjd7U6PHSImtzO6RfPqh7yF5ouXbigT3wtQj5AfQds7AS\n";

/// `Authorization` of user:secret.
const USER: &str = "Authorization: Basic dXNlcjpzZWNyZXQ=";

#[test]
fn a_stranger_learns_nothing() {
    let t = Sandbox::with_image("app:1");
    t.write("users", USERS);
    let server = Server::start(&t, "--writable --htpasswd users");
    let first = server.get("/v2/");
    assert_eq!(first.says(), "401 UNAUTHORIZED");
    assert_eq!(
        first.header("www-authenticate"),
        Some("Basic realm=\"img-serve\", charset=\"UTF-8\"")
    );
    for request in [
        "GET /v2/app/manifests/1",
        "GET /v2/nosuch/manifests/1",
        "GET /v2/BAD/manifests/1",
        "GET /v2/_catalog",
        "GET /nowhere",
        "BREW /v2/",
        "POST /v2/app/blobs/uploads/",
        "DELETE /v2/app/manifests/1",
    ] {
        let (method, path) = request.split_once(' ').unwrap();
        for headers in [
            &[][..],
            &["Authorization: Basic dXNlcjp3cm9uZw=="],
            &["Authorization: Basic bm9ib2R5OnNlY3JldA=="],
            &["Authorization: Basic %%%"],
            &["Authorization: Bearer secret"],
        ] {
            let answer = server.send(method, path, headers, b"");
            assert_eq!((answer.status, &answer.body), (401, &first.body), "{request} {headers:?}");
        }
    }
    assert_eq!(server.send("GET", "/v2/app/manifests/1", &[USER], b"").says(), "200");
    t.sh(&format!("img-pull -q --layout out {}/app:1", server.address)).exits(1);
    t.sh(&format!(
        "img-pull -q --layout out --creds user:secret {}/app:1 >/dev/null",
        server.address
    ))
    .is_silent();
    assert_eq!(server.stop(), "");
}

#[test]
fn who_hangs_up_leaves_no_check_behind_that_nobody_counts() {
    let t = Sandbox::with_image("app:1");
    // Of cost 12: a quarter of a second each.
    t.write("users", "user:$2b$12$eYUI9A8RLjd7U6PHSImtzO6RfPqh7yF5ouXbigT3wtQj5AfQds7AS\n");
    let server = Server::start(&t, "--htpasswd users");
    for _ in 0..60 {
        let mut stream = server.connect();
        let wrong = "GET /v2/ HTTP/1.1\r\nHost: x\r\nAuthorization: Basic dXNlcjp3cm9uZw==\r\n\r\n";
        stream.write_all(wrong.as_bytes()).unwrap();
        // Long enough to be read.
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let threads = std::fs::read_dir(format!("/proc/{}/task", server.pid())).unwrap().count();
    assert!(threads < 16, "{threads} threads");
}

#[test]
fn the_file_of_users_is_read_again_when_it_changes() {
    let t = Sandbox::with_image("app:1");
    t.write("users", USERS);
    let server = Server::start(&t, "--htpasswd users");
    let ask = || server.send("GET", "/v2/app/manifests/1", &[USER], b"").says();
    assert_eq!(ask(), "200");
    t.write("users", "# nobody\n");
    assert_eq!(ask(), "401 UNAUTHORIZED");
    t.write("users", format!("{USERS}# again\n"));
    assert_eq!(ask(), "200");
    // What is wrong lets nobody in, and the server's owner knows why.
    t.write("users", "user:plain\n");
    assert_eq!(ask(), "500 UNKNOWN");
    let said = server.stop();
    assert!(said.contains("users: line 1: not a bcrypt hash") && !said.contains("plain"), "{said}");
    t.sh("img-serve --htpasswd users")
        .fails("img-serve: users: line 1: not a bcrypt hash, as htpasswd -B makes them\n");
    t.sh("img-serve --htpasswd none").exits(1).says("img-serve: none: No such file or directory");
}

#[test]
fn an_upload_belongs_to_its_user() {
    let t = Sandbox::new();
    let hash = USERS.trim_end().strip_prefix("user").unwrap();
    t.write("users", format!("user{hash}\nother{hash}\n"));
    let server = Server::start(&t, "--writable --htpasswd users");
    let other = "Authorization: Basic b3RoZXI6c2VjcmV0";
    let location = server.send("POST", "/v2/app/blobs/uploads/", &[USER], b"").location();
    let digest = sha256(b"hello");
    let put = format!("{location}?digest=sha256:{digest}");
    for (method, path) in
        [("GET", &location), ("PATCH", &location), ("PUT", &put), ("DELETE", &location)]
    {
        let answer = server.send(method, path, &[other], b"");
        assert_eq!(answer.says(), "404 BLOB_UPLOAD_UNKNOWN", "{method}");
    }
    assert_eq!(server.send("PUT", &put, &[USER], b"hello").says(), "201");
}

#[test]
fn a_request_is_said_and_no_secret_with_it() {
    let t = Sandbox::with_image("app:1");
    t.write("users", USERS);
    let server = Server::start(&t, "-v --writable --htpasswd users");
    server.send("GET", "/v2/app/manifests/1?token=hidden", &[USER], b"");
    let location = server.send("POST", "/v2/app/blobs/uploads/", &[USER], b"").location();
    assert_eq!(server.send("DELETE", &location, &[USER], b"").status, 204);
    server.get("/v2/%1b[31m/tags/list");
    let said = server.stop();
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines.len(), 4, "{said}");
    assert!(
        lines[0].starts_with("img-serve: 127.0.0.1:")
            && lines[0].contains(" GET /v2/app/manifests/1 200 "),
        "{said}"
    );
    for secret in ["hidden", "dXNlcjpzZWNyZXQ", "secret", &location, "\x1b"] {
        assert!(!said.contains(secret), "{secret:?}: {said}");
    }
}

#[test]
fn it_speaks_tls() {
    if lacks(&["openssl"]) {
        return;
    }
    let t = Sandbox::with_image("app:1");
    t.write("users", USERS);
    t.sh("openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost \
            -addext subjectAltName=IP:127.0.0.1 -addext basicConstraints=critical,CA:FALSE -keyout key.pem -out cert.pem 2>/dev/null")
        .is_silent();
    let server =
        Server::start(&t, "--writable --tls-cert cert.pem --tls-key key.pem --htpasswd users");
    t.set("SERVED", &server.address);
    t.sh("img-pull -q --layout out --retry 0 --creds user:secret $SERVED/app:1").exits(1);
    t.sh("mkdir -p $HOME/.config/containers/certs.d/$SERVED && cp cert.pem $HOME/.config/containers/certs.d/$SERVED/ca.crt &&
          img-pull -q --layout out --creds user:secret $SERVED/app:1")
        .prints(&format!("./out:{}/app:1@{}\n", server.address, busybox().digest));
    // Whoever does not speak it gets nothing of ours.
    let mut stream = server.connect();
    std::io::Write::write_all(&mut stream, b"GET /v2/ HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let mut bytes = Vec::new();
    let _ = std::io::Read::read_to_end(&mut stream, &mut bytes);
    assert!(!String::from_utf8_lossy(&bytes).contains("HTTP"), "{bytes:?}");
    drop(server);
    let impatient = Server::start(&t, "--tls-cert cert.pem --tls-key key.pem --stall 300ms");
    let mut silent = impatient.connect();
    assert_eq!(
        std::io::Read::read(&mut silent, &mut [0]).unwrap_or(0),
        0,
        "it waits for a greeting"
    );

    t.sh("img-serve --tls-cert key.pem --tls-key key.pem")
        .fails("img-serve: key.pem: no certificate in it\n");
    t.sh("img-serve --tls-cert cert.pem --tls-key cert.pem")
        .exits(1)
        .says("img-serve: cert.pem: not a private key: ");
    t.sh("openssl genpkey -algorithm ed25519 -out other.pem; img-serve --tls-cert cert.pem --tls-key other.pem")
        .exits(1)
        .says("img-serve: other.pem: the key does not go with the certificate");
    t.sh("img-serve --tls-cert cert.pem").exits(2);
}

#[test]
fn a_push_needs_a_user() {
    let t = Sandbox::new();
    t.write("users", USERS);
    let open = Server::start(&t, "--writable");
    let manifest = push_blobs(&open, "app", busybox());
    drop(open);
    let server = Server::start(&t, "--writable --htpasswd users");
    assert_eq!(server.push_manifest("app", "1", &manifest).says(), "401 UNAUTHORIZED");
    t.sh("img-ls -q").prints("");
}
