//! How it starts and how it ends: tare(7), contract 3.

use std::io::{BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use nix::sys::signal::Signal;
use sandbox::Sandbox;
use sandbox::image::{Image, PACK, busybox, busybox_layer, sha256};
use serde_json::json;

use super::pushing::VALID;
use super::server::{Answer, Server};

/// Returns an image with a layer that no socket holds, and the layer's digest.
fn large() -> (Image, String) {
    let layer = format!("# served\nhead -c 16M /dev/urandom >large; {PACK}");
    let image = Image::new(&[&busybox_layer(), &layer], &json!({ "Cmd": ["sh"] }));
    let digest = image.manifest()["layers"][1]["digest"].as_str().unwrap().to_owned();
    (image, digest)
}

#[test]
fn the_address_is_the_only_line_and_standard_output_is_closed_behind_it() {
    let t = Sandbox::with_image("app:1");
    t.sh("address=$(img-serve --listen 127.0.0.1:0 & echo $! >pid); img-pull -q --layout out $address/app:1 >name
          kill $(cat pid); cat name | wc -l; echo $address | grep -c '^127.0.0.1:[0-9]*$'")
        .prints("1\n1\n");
    let six = Server::started_by(t.command("exec img-serve --listen '[::1]:0'"));
    assert!(six.address.starts_with("[::1]:"), "{}", six.address);
    assert_eq!(six.says("GET /v2/app/manifests/1"), "200");
}

#[test]
fn what_cannot_be_served_is_an_error() {
    let t = Sandbox::new();
    let server = Server::start(&t, "");
    t.sh(&format!("img-serve --listen {}", server.address)).fails(&format!(
        "img-serve: cannot listen on {}: Address already in use (os error 98)\n",
        server.address
    ));
    t.sh("img-serve ./none").exits(1).says("img-serve: not an image layout: ./none/oci-layout: ");
    t.sh("mkdir empty; img-serve empty").exits(1).says("not an image layout");
    for listen in ["5000", ":5000", "localhost", "127.0.0.1:x", "127.0.0.1:99999", "''"] {
        t.sh(&format!("img-serve --listen {listen}")).exits(2);
    }
    t.sh("img-serve --stall x").exits(2);
    t.sh("img-serve a b").exits(2);
    t.sh("img-serve --listen 127.0.0.1:0 >/dev/full")
        .fails("img-serve: stdout: No space left on device (os error 28)\n");
    t.sh("echo '{}' >$TARE_ROOT/images/index.json; img-serve")
        .exits(1)
        .says("index.json: not an index");
}

#[test]
fn who_can_be_reached_by_others_is_told_so() {
    let t = Sandbox::new();
    t.write("users", "# none\n");
    let run = |options: &str| {
        let script = format!(
            "rm -f address; img-serve --listen 0.0.0.0:0 {options} >address & until test -s address; do sleep 0.05; done
             kill $!; wait $! 2>/dev/null || true"
        );
        String::from_utf8(t.sh(&script).exits(0).stderr).unwrap()
    };
    assert!(run("").contains("whoever reaches it needs no password (--htpasswd)"));
    assert!(
        run("--htpasswd users").contains("passwords come in the clear (--tls-cert, --tls-key)")
    );
}

#[test]
fn at_the_first_signal_what_runs_is_finished_and_nothing_begun() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let t = Sandbox::new();
        let (image, digest) = large();
        t.store(&image, "app:1");
        let server = Server::start(&t, "--writable");
        let idle = server.connect();
        let mut used = BufReader::new(server.connect());
        used.get_mut().write_all(b"GET /v2/ HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        assert_eq!(Answer::read_head(&mut used).status, 200);
        // A download, and an upload, of which half has passed.
        let mut down = server.connect();
        let request = format!("GET /v2/app/blobs/{digest} HTTP/1.1\r\nHost: x\r\n\r\n");
        down.write_all(request.as_bytes()).unwrap();
        let mut down = BufReader::new(down);
        let head = Answer::read_head(&mut down);
        let size: usize = head.header("content-length").unwrap().parse().unwrap();
        let mut bytes = vec![0; 1 << 20];
        down.read_exact(&mut bytes).unwrap();
        let mut up = server.connect();
        let put = format!(
            "POST /v2/app/blobs/uploads/?digest=sha256:{} HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n01234",
            sha256(b"0123456789")
        );
        up.write_all(put.as_bytes()).unwrap();
        // It is being answered: its file is there.
        t.sh("until ls $TARE_ROOT/images/.partial/new-* >/dev/null 2>&1; do sleep 0.05; done")
            .is_silent();

        server.signal(signal);
        let mut refused = false;
        for _ in 0..500 {
            refused = refused || TcpStream::connect(&server.address).is_err();
            std::thread::sleep(Duration::from_millis(if refused { 0 } else { 10 }));
        }
        assert!(refused, "it still accepts connections");
        up.write_all(b"56789").unwrap();
        assert_eq!(Answer::read_head(&mut BufReader::new(up)).status, 201);
        down.read_to_end(&mut bytes).unwrap();
        assert_eq!(format!("sha256:{}", sha256(&bytes)), digest, "{} of {size}", bytes.len());
        let (status, said) = server.ended();
        assert_eq!((status, said.as_str()), (128 + signal as i32, ""));
        drop((idle, used));
        t.sh(VALID).is_silent();
        t.sh("ls -A $TARE_ROOT/images").prints("blobs\nindex.json\noci-layout\n");
    }
}

#[test]
fn at_the_second_signal_it_ends() {
    let t = Sandbox::new();
    let (image, digest) = large();
    t.store(&image, "app:1");
    let server = Server::start(&t, "--writable --stall 1h");
    // Nobody reads this, and nobody ends that.
    let mut down = server.connect();
    down.write_all(format!("GET /v2/app/blobs/{digest} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes())
        .unwrap();
    let mut up = server.connect();
    up.write_all(format!("POST /v2/app/blobs/uploads/?digest={digest} HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n01234").as_bytes())
        .unwrap();
    t.sh("until ls $TARE_ROOT/images/.partial/new-* >/dev/null 2>&1; do sleep 0.05; done")
        .is_silent();
    server.signal(Signal::SIGTERM);
    while TcpStream::connect(&server.address).is_ok() {
        std::thread::sleep(Duration::from_millis(10));
    }
    server.signal(Signal::SIGINT);
    assert_eq!(server.ended(), (143, String::new()));
    t.sh("ls -A $TARE_ROOT/images").prints("blobs\nindex.json\noci-layout\n");
}

#[test]
fn it_can_write_nowhere_but_in_a_layout_that_is_writable() {
    let t = Sandbox::with_image("app:1");
    for options in ["", "--writable"] {
        let server = Server::start(&t, options);
        let pid = server.pid();
        t.sh(&format!("grep -h NoNewPrivs /proc/{pid}/task/*/status | sort -u"))
            .prints("NoNewPrivs:\t1\n");
        let manifest = busybox().manifest();
        assert_eq!(
            server.push_manifest("app", "2", &manifest).status,
            if options.is_empty() { 405 } else { 201 }
        );
    }
}
