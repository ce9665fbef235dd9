//! Blobs that break off, that are too short or too long, or are something else.

use sandbox::faulty::fault::{Fault, Scene, fault, run_all};
use sandbox::faulty::message::{Asked, Length, Reply, Then};

/// Returns the row of a layer that is answered by `change` of what it should be.
fn layer(
    story: &str,
    change: impl Fn(&Asked, &Scene, Reply) -> Reply + Send + Sync + 'static,
) -> Fault {
    fault(story).registry(move |asked, scene| match scene.is_layer(asked) {
        true => change(asked, scene, scene.well(asked)),
        false => scene.well(asked),
    })
}

/// Returns what breaks off after `at` bytes, the first time only.
fn once(at: usize, then: Then) -> impl Fn(&Asked, &Scene, Reply) -> Reply {
    move |asked, _, reply| if asked.nth == 1 { reply.cut(at, then.clone()) } else { reply }
}

pub fn faults() -> Vec<Fault> {
    let mut faults = Vec::new();
    for (how, then) in [("is reset", Then::Reset), ("ends", Then::Close)] {
        let row = |story: &str| format!("the connection {how} {story}");
        faults.extend([
            layer(&row("in the middle of a blob, once"), once(300_000, then.clone()))
                .pulls()
                .asked(0, 5..=5),
            layer(&row("before the first byte of a blob, once"), once(0, then.clone())).pulls(),
            layer(&row("before the last byte of a blob, once"), {
                let then = then.clone();
                move |asked, _, reply| {
                    let at = reply.body.len() - 1;
                    if asked.nth == 1 { reply.cut(at, then.clone()) } else { reply }
                }
            })
            .pulls(),
            layer(&row("at the same place of a blob, always"), {
                let then = then.clone();
                move |asked, _, reply| {
                    reply.cut(300_000usize.saturating_sub(asked.from().unwrap_or(0)), then.clone())
                }
            })
            .fails("blob sha256:")
            .asked(0, 4..=10),
            layer(&row("a little further in a blob each time"), {
                let then = then.clone();
                move |_, _, reply| match reply.body.len() {
                    0..=100_000 => reply,
                    _ => reply.cut(100_000, then.clone()),
                }
            })
            .pulls()
            .asked(0, 10..=20),
            layer(&row("before anything of a blob, always"), {
                let then = then.clone();
                move |_, _, _| Reply { then: then.clone(), ..Reply::raw("") }
            })
            .fails("127.0.0.1:")
            .asked(0, 5..=10),
            layer(&row("in a blob, and the rest is refused"), {
                let then = then.clone();
                move |asked, _, reply| match asked.nth {
                    1 => reply.cut(300_000, then.clone()),
                    _ => Reply::new(403, ""),
                }
            })
            .fails("access denied"),
            layer(&row("in a blob, and the rest is not there any more"), {
                let then = then.clone();
                move |asked, _, reply| match asked.nth {
                    1 => reply.cut(300_000, then.clone()),
                    _ => Reply::new(404, ""),
                }
            })
            .fails("not found"),
            fault(row("in the middle of the manifest, once"))
                .registry({
                    let then = then.clone();
                    move |asked, scene| match asked.manifest().is_some() && asked.nth == 1 {
                        true => scene.well(asked).cut(100, then.clone()),
                        false => scene.well(asked),
                    }
                })
                .pulls(),
            fault(row("in the middle of the manifest, always"))
                .registry({
                    let then = then.clone();
                    move |asked, scene| match asked.manifest() {
                        Some(_) => scene.well(asked).cut(100, then.clone()),
                        None => scene.well(asked),
                    }
                })
                .fails("127.0.0.1:")
                .asked(0, 5..=5),
            fault(row("in the head of an answer, always"))
                .registry({
                    let then = then.clone();
                    move |_, _| Reply {
                        then: then.clone(),
                        ..Reply::raw("HTTP/1.1 200 OK\r\nContent-Le")
                    }
                })
                .fails("127.0.0.1:")
                .asked(0, 5..=5),
        ]);
    }
    faults.extend([
        layer("a blob comes a byte further each time, for ever", |_, _, reply| {
            reply.cut(1, Then::Close)
        })
        .fails("end of file")
        .asked(0, 7..=9),
        layer("a blob comes twenty thousand bytes further each time", |_, _, reply| {
            let some = reply.body.len().min(20_000);
            reply.cut(some, Then::Close)
        })
        .pulls()
        .asked(0, 50..=70),
        layer(
            "the rest of a blob is what the server likes: it begins anew",
            |asked, scene, reply| match asked.from() {
                None => reply.cut(300_000, Then::Close),
                Some(_) => Reply::new(200, scene.content.blob(&scene.content.layer())),
            },
        )
        .pulls(),
        layer("the rest of a blob is out of range, says the server", |asked, _, reply| {
            match (asked.from(), asked.nth) {
                (None, 1) => reply.cut(300_000, Then::Close),
                (None, _) => reply,
                (Some(_), _) => Reply::new(416, "").header("content-range", "bytes */0"),
            }
        })
        .pulls(),
        layer("the rest of a blob is another part, and says so", |asked, scene, reply| {
            match (asked.from(), asked.nth) {
                (None, 1) => reply.cut(300_000, Then::Close),
                (None, _) => reply,
                (Some(from), _) => {
                    let bytes = scene.content.blob(&scene.content.layer());
                    let range = format!("bytes {}-{}/{}", from + 1, bytes.len() - 1, bytes.len());
                    Reply::new(206, &bytes[from + 1..]).header("content-range", range)
                }
            }
        })
        .pulls(),
        layer(
            "the rest of a blob is another part, and says that it is the right one",
            |asked, scene, reply| match (asked.from(), asked.nth) {
                (None, 1) => reply.cut(300_000, Then::Close),
                (None, _) => reply,
                (Some(from), _) => {
                    let bytes = scene.content.blob(&scene.content.layer());
                    let range = format!("bytes {from}-{}/{}", bytes.len() - 1, bytes.len());
                    Reply::new(206, &bytes[..bytes.len() - from]).header("content-range", range)
                }
            },
        )
        .fails("corrupt: it hashes to"),
        layer("the rest of a blob does not say which part it is", |asked, _, reply| {
            match asked.nth {
                1 => reply.cut(300_000, Then::Close),
                _ => reply.without("content-range"),
            }
        })
        .pulls(),
        layer("the rest of a blob says a range that is none", |asked, _, reply| match asked.nth {
            1 => reply.cut(300_000, Then::Close),
            _ => reply
                .without("content-range")
                .header("content-range", "bytes 99999999999999999999-1/*"),
        })
        .pulls(),
        layer("the rest of a blob is of a blob of another size", |asked, _, reply| {
            match asked.from() {
                None if asked.nth == 1 => reply.cut(300_000, Then::Close),
                None => reply,
                Some(from) => {
                    let end = from + reply.body.len() - 1;
                    reply
                        .without("content-range")
                        .header("content-range", format!("bytes {from}-{end}/{}", end + 2))
                }
            }
        })
        .pulls(),
        layer("a blob is longer than its head says it is", |_, _, mut reply| {
            let length = reply.body.len();
            reply.body.extend([7; 1000]);
            reply.length(Length::Said(length.to_string())).then(Then::Close)
        })
        .pulls(),
        layer("a blob is shorter than its head says it is", |_, scene, _| {
            let bytes = scene.content.blob(&scene.content.layer());
            Reply::new(200, &bytes[..1000])
                .length(Length::Said(bytes.len().to_string()))
                .then(Then::Close)
        })
        .fails("blob sha256:"),
        layer("a blob's head says nothing of its length", |_, _, reply| {
            reply.length(Length::Untold).then(Then::Close)
        })
        .pulls(),
        layer("a blob comes in chunks", |_, _, reply| reply.length(Length::Chunked)).pulls(),
        layer("a blob comes in chunks of three bytes", |_, _, reply| {
            reply.length(Length::Chunked).pace(3000, std::time::Duration::ZERO)
        })
        .pulls(),
        layer("a blob comes in chunks, and the last one is missing", |asked, _, reply| match asked
            .nth
        {
            1 => {
                let all = reply.body.len();
                reply.length(Length::Chunked).cut(all, Then::Close)
            }
            _ => reply,
        })
        .pulls(),
        layer("a chunk is longer than it says", |_, _, _| {
            Reply::raw("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nabc\r\n0\r\n\r\n")
        })
        .fails("127.0.0.1:"),
        layer("a chunk's length is no number", |_, _, _| {
            Reply::raw(
                "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\nabc\r\n0\r\n\r\n",
            )
        })
        .fails("127.0.0.1:"),
        layer("a chunk's length is more than there can be", |_, _, _| {
            Reply::raw(
                "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nffffffffffffffffff\r\nabc",
            )
        })
        .fails("127.0.0.1:"),
        layer("a chunk's length goes on and on", |_, _, _| {
            let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1;";
            Reply { then: Then::Flood(vec![b'x'; 64 << 10]), ..Reply::raw(head) }
        })
        .fails("127.0.0.1:"),
        layer("the lines after the last chunk go on and on", |_, scene, _| {
            let bytes = scene.content.blob(&scene.content.layer());
            let mut raw = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n".to_vec();
            raw.extend(format!("{:x}\r\n", bytes.len()).bytes());
            raw.extend(bytes);
            raw.extend(b"\r\n0\r\n");
            Reply { then: Then::Flood(b"x-more: and more\r\n".repeat(4000)), ..Reply::raw(raw) }
        })
        .ends(),
        layer("two lengths contradict each other", |_, _, reply| {
            reply.header("content-length", "5")
        })
        .fails("127.0.0.1:"),
        layer("a length is negative", |_, _, reply| reply.length(Length::Said("-5".into())))
            .fails("127.0.0.1:"),
        layer("a length is no number", |_, _, reply| reply.length(Length::Said("many".into())))
            .fails("127.0.0.1:"),
        layer("a length is more than there can be", |_, _, reply| {
            reply.length(Length::Said("99999999999999999999999".into()))
        })
        .fails("127.0.0.1:"),
        layer("a length is a great many bytes", |_, _, reply| {
            reply.length(Length::Said(u64::MAX.to_string()))
        })
        .ends(),
        layer("a blob has both a length and chunks", |_, _, reply| {
            reply.length(Length::Chunked).header("content-length", "5")
        })
        .ends(),
        layer("a blob has other bytes of the same number", |_, _, mut reply| {
            reply.body[500_000] ^= 1;
            reply
        })
        .fails("corrupt: it hashes to sha256:"),
        layer("a blob has other bytes in its last part, once", |asked, _, mut reply| {
            if asked.nth == 1 {
                *reply.body.last_mut().unwrap() ^= 1;
            }
            reply
        })
        .fails("corrupt"),
        layer("a blob is one byte short", |_, _, mut reply| {
            reply.body.pop();
            reply
        })
        .fails("the descriptor says"),
        layer("a blob is one byte long", |_, _, mut reply| {
            reply.body.push(0);
            reply
        })
        .fails("the descriptor says"),
        layer("a blob is one byte short, and its length untold", |_, _, mut reply| {
            reply.body.pop();
            reply.length(Length::Untold).then(Then::Close)
        })
        .fails("blob sha256:"),
        layer("a blob is one byte long, and its length untold", |_, _, mut reply| {
            reply.body.push(0);
            reply.length(Length::Untold).then(Then::Close)
        })
        .fails("longer than the"),
        layer("a blob has no bytes", |_, _, _| Reply::new(200, "")).fails("the descriptor says"),
        layer("a blob never ends", |_, _, reply| {
            reply.length(Length::Untold).then(Then::Flood(vec![0; 64 << 10]))
        })
        .fails("longer than the"),
        layer("a blob is a page of HTML", |_, _, _| {
            Reply::new(200, "<html>log in").header("content-type", "text/html")
        })
        .fails("the registry has 12 bytes"),
        layer("a blob is another blob", |_, scene, _| {
            Reply::new(200, scene.content.blob(&scene.content.config()))
        })
        .fails("the descriptor says"),
        layer("a blob was packed on the way", |_, _, reply| {
            let mut packed = b"\x1f\x8b\x08\0\0\0\0\0\0\x03".to_vec();
            packed.extend(&reply.body);
            Reply::new(200, packed).header("content-encoding", "gzip")
        })
        .fails("came encoded as \"gzip\""),
        layer("a blob's head says that it is packed, and it is not", |_, _, reply| {
            reply.header("content-encoding", "gzip")
        })
        .pulls(),
        layer("a blob is said to have another digest", |_, _, reply| {
            reply.header("docker-content-digest", format!("sha256:{}", "0".repeat(64)))
        })
        .pulls(),
        fault("the config has other bytes")
            .registry(|asked, scene| {
                let mut reply = scene.well(asked);
                if asked.blob() == Some(&scene.content.config()) {
                    reply.body[20] ^= 1;
                }
                reply
            })
            .fails("corrupt"),
        fault("the config never ends")
            .registry(|asked, scene| match asked.blob() {
                Some(digest) if digest == scene.content.config() => {
                    scene.well(asked).length(Length::Untold).then(Then::Flood(vec![b' '; 64 << 10]))
                }
                _ => scene.well(asked),
            })
            .fails("longer than the"),
    ]);
    faults
}

#[test]
fn a_blob_is_what_its_digest_says_or_it_is_not_there() {
    run_all(faults());
}
