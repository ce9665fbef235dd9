//! Connections on which something else than HTTP/1.1 is spoken, or it is spoken badly.

use sandbox::faulty::content::document;
use sandbox::faulty::fault::{Fault, fault, run_all};
use sandbox::faulty::message::{Length, Reply, Then};
use sandbox::faulty::server::Welcome;

/// Returns the row of a registry that answers everything with these bytes and hangs up.
fn says(bytes: impl Into<Vec<u8>>) -> Fault {
    let bytes = bytes.into();
    let shown: String = String::from_utf8_lossy(&bytes).chars().take(60).collect();
    fault(format!("every answer is {shown:?}"))
        .registry(move |_, _| Reply::raw(bytes.clone()))
        .fails("127.0.0.1:")
}

/// Returns the row of a registry whose answers have this first line.
fn begins(line: &'static str) -> Fault {
    fault(format!("every answer begins with {line:?}")).registry(move |asked, scene| Reply {
        line: line.into(),
        ..scene.well(asked).length(Length::Untold).then(Then::Close)
    })
}

/// Returns the row of a registry whose head is followed by this, again and again.
fn floods(story: &str, head: &'static str, with: Vec<u8>) -> Fault {
    fault(story)
        .registry(move |_, _| Reply { then: Then::Flood(with.clone()), ..Reply::raw(head) })
        .fails("127.0.0.1:")
}

pub fn faults() -> Vec<Fault> {
    let head = "HTTP/1.1 200 OK\r\n";
    let mut faults = vec![
        fault("nobody listens").name("127.0.0.1:1/app:1").fails("127.0.0.1:1: ").for_good(),
        fault("every connection is closed at once").meets(|_| Welcome::Close).fails("127.0.0.1:"),
        fault("every connection is reset at once").meets(|_| Welcome::Reset).fails("127.0.0.1:"),
        fault("three connections are reset at once, and the next is not")
            .meets(|nth| if nth <= 4 { Welcome::Reset } else { Welcome::Serve })
            .pulls(),
        fault("another protocol speaks first").meets(|_| Welcome::Say(b"SSH-2.0-OpenSSH_9.2\r\n".to_vec())).fails("127.0.0.1:"),
        fault("a mail server speaks first").meets(|_| Welcome::Say(b"220 mail ESMTP \x1b[31m\r\n".to_vec())).fails("127.0.0.1:"),
        fault("noise comes first").meets(|_| Welcome::Say((0..=255).cycle().take(100_000).collect())).fails("127.0.0.1:"),
        fault("an alert of TLS comes first").meets(|_| Welcome::Say(vec![21, 3, 3, 0, 2, 2, 40])).fails("127.0.0.1:"),
        fault("an answer comes before the question")
            .meets(|_| Welcome::Say(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}".to_vec()))
            .fails("127.0.0.1:"),
        says(""),
        says("\0"),
        says("\r\n\r\n"),
        says("<html>no head</html>"),
        says("HTTP/1.1"),
        says("HTTP/1.1 \r\n\r\n"),
        says("HTTP/1.1 OK\r\n\r\n"),
        says("HTTP/1.1 20 OK\r\n\r\n"),
        says("HTTP/1.1 2000 OK\r\n\r\n"),
        says("HTTP/1.1 -200 OK\r\n\r\n"),
        says("HTTP/3.0 200 OK\r\n\r\n"),
        says("HTTP/2 200 OK\r\n\r\n"),
        says("ICY 200 OK\r\n\r\n"),
        says(b"\0\0\x12\x04\0\0\0\0\0\0\x03\0\0\0d\0\x04\0\0\xff\xff\0\x06\0\x04\0\0".to_vec()),
        says("HTTP/1.1 200 OK\r\nno colon\r\n\r\n"),
        says("HTTP/1.1 200 OK\r\n: no name\r\n\r\n"),
        says("HTTP/1.1 200 OK\r\nna me: x\r\n\r\n"),
        says("HTTP/1.1 200 OK\r\nx: a\0b\r\n\r\n"),
        says("HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\nabc"),
        says("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n"),
        says("HTTP/1.1 101 Switching Protocols\r\nupgrade: h2c\r\nconnection: upgrade\r\n\r\n"),
        begins("HTTP/1.0 200 OK").pulls(),
        begins("HTTP/1.1 200").pulls(),
        begins("HTTP/1.1 200 ").pulls(),
        begins("HTTP/1.1 200 \u{1b}[31mGreat").ends(),
        fault("\"100 Continue\" comes first, though nobody waits for it").registry(|asked, scene| Reply {
            line: "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK".into(),
            ..scene.well(asked)
        })
        .pulls(),
        fault("\"103 Early Hints\" comes first, five times").registry(|asked, scene| Reply {
            line: format!("{}HTTP/1.1 200 OK", "HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n".repeat(5)),
            ..scene.well(asked)
        })
        .pulls(),
        fault("every answer ends the connection, and does not say so").registry(|asked, scene| scene.well(asked).then(Then::Close)).pulls(),
        fault("every answer says that the connection ends, and it does not")
            .registry(|asked, scene| scene.well(asked).header("connection", "close"))
            .pulls(),
        fault("an answer to nothing follows the manifest").registry(|asked, scene| match asked.manifest() {
            Some(_) => {
                let reply = scene.well(asked);
                let mut raw = format!(
                    "HTTP/1.1 200 OK\r\ncontent-type: application/vnd.oci.image.manifest.v1+json\r\ncontent-length: {}\r\n\r\n",
                    reply.body.len()
                )
                .into_bytes();
                raw.extend(&reply.body);
                raw.extend(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nwrong");
                Reply::raw(raw)
            }
            None => scene.well(asked),
        })
        .pulls(),
        fault("the name of a header is in odd letters").registry(|asked, scene| match asked.manifest() {
            Some(_) => document(scene.content.manifest()).without("content-type").header("CoNtEnT-TyPe", "application/vnd.oci.image.manifest.v1+json"),
            None => scene.well(asked),
        })
        .pulls(),
        floods("a head never ends", head, b"x-more: and more\r\n".repeat(4000)),
        floods("a line of a head never ends", "HTTP/1.1 200 OK\r\nx: ", vec![b'x'; 64 << 10]),
        floods("the name of a header never ends", head, vec![b'x'; 64 << 10]),
        floods("the first line never ends", "HTTP/1.1 200 ", vec![b'x'; 64 << 10]),
        floods("blank lines never end", "", b"\r\n".repeat(32 << 10)),
        fault("a head of 8 MiB in one line")
            .registry(|asked, scene| scene.well(asked).header("x", "y".repeat(8 << 20)))
            .fails("127.0.0.1:"),
        fault("a head of 8 MiB in many lines")
            .registry(|asked, scene| (0..8192).fold(scene.well(asked), |reply, n| reply.header(&format!("x-{n}"), "y".repeat(1000))))
            .fails("127.0.0.1:"),
        fault("a head of a hundred lines")
            .registry(|asked, scene| (0..95).fold(scene.well(asked), |reply, n| reply.header(&format!("x-{n}"), "y")))
            .ends(),
    ];
    for n in [2, 3] {
        faults.push(
            fault(format!("only each {n}th answer comes"))
                .registry(move |asked, scene| match scene.count("answer") % n {
                    0 => scene.well(asked),
                    _ => Reply::raw(""),
                })
                .ends(),
        );
    }
    faults
}

#[test]
fn what_is_no_http_is_an_error_and_no_more() {
    run_all(faults());
}
