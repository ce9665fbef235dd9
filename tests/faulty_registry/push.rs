//! img-push: uploads that begin, break off and end as they should not.

use std::time::Duration;

use sandbox::faulty::content::missing;
use sandbox::faulty::fault::{BASIC, Fault, Scene, fault, run_all};
use sandbox::faulty::message::{Asked, Reply, Then};

fn push(story: &str) -> Fault {
    fault(format!("push: {story}")).pushes()
}

/// Returns the row of a registry that answers so what `is` picks, the first `times` times, and is well else.
fn answers(
    story: &str,
    times: usize,
    is: impl Fn(&Asked) -> bool + Send + Sync + 'static,
    reply: impl Fn() -> Reply + Send + Sync + 'static,
) -> Fault {
    push(story).registry(move |asked, scene| match is(asked) && scene.count("it") <= times {
        true => reply(),
        false => scene.well(asked),
    })
}

const EVER: usize = usize::MAX;

fn begins_upload(asked: &Asked) -> bool {
    asked.method == "POST" && asked.upload().is_some()
}

fn ends_upload(asked: &Asked) -> bool {
    asked.method == "PUT" && asked.upload().is_some()
}

fn names(asked: &Asked) -> bool {
    asked.method == "PUT" && asked.manifest().is_some()
}

fn mounts(asked: &Asked) -> bool {
    begins_upload(asked) && asked.target.contains("mount=")
}

fn private(asked: &Asked, scene: &Scene) -> Reply {
    match asked.header("authorization") == Some(&format!("Basic {BASIC}")) {
        true => scene.well(asked),
        false => Reply::challenge("Basic realm=r"),
    }
}

/// Demands that some request was made, and some never.
fn asked_for(fault: Fault, what: &'static str) -> Fault {
    fault.sees(move |logs, _| {
        let line = |asked: &Asked| format!("{} {}", asked.method, asked.target);
        match logs[0].iter().any(|asked| line(asked).contains(what)) {
            true => Ok(()),
            false => Err(format!("nobody asked for {what}")),
        }
    })
}

pub fn begins() -> Vec<Fault> {
    let begun = |location: &str| {
        let location = location.to_owned();
        move || Reply::new(202, "").header("location", location.clone())
    };
    let elsewhere = "which is another place than the registry's";
    vec![
        push("nothing is wrong").arrives(),
        push("a password is wanted").registry(private).arrives(),
        push("a password is wanted, and none is stored")
            .registry(private)
            .anonymous()
            .fails("authentication required"),
        push("the registry is not there").name("127.0.0.1:1/app:1").for_good().fails("127.0.0.1:1"),
        push("the registry says no")
            .registry(|asked, scene| match asked.method == "POST" {
                true => Reply::new(403, r#"{"errors":[{"code":"DENIED","message":"read only"}]}"#),
                false => scene.well(asked),
            })
            .fails("access denied: DENIED: read only"),
        push("the registry says no with words for a terminal")
            .registry(|_, _| {
                Reply::new(
                    403,
                    r#"{"errors":[{"code":"\u001b[2J","message":"\u202e\r\nimg-push: x"}]}"#,
                )
            })
            .fails("access denied"),
        push("a portal answers")
            .registry(|_, _| Reply::new(200, "<html>").header("content-type", "text/html"))
            .fails("127.0.0.1:"),
        answers(
            "nobody says whether a blob is there",
            EVER,
            |asked| asked.method == "HEAD",
            || Reply::new(405, ""),
        )
        .arrives(),
        answers(
            "what is there has another length",
            EVER,
            |asked| asked.method == "HEAD",
            || Reply::raw("HTTP/1.1 200 OK\r\ncontent-length: 7\r\n\r\n").then(Then::Next),
        )
        .arrives(),
        answers("an upload begins without a location", EVER, begins_upload, || Reply::new(202, ""))
            .fails("does not say where (no Location)"),
        answers("an upload begins nowhere", EVER, begins_upload, begun("http://["))
            .fails("which is no URL"),
        answers("an upload begins in a file", EVER, begins_upload, begun("file:///etc/passwd"))
            .fails(elsewhere),
        answers(
            "an upload begins at the end of a long location",
            EVER,
            begins_upload,
            begun(&format!("/{}", "x".repeat(20_000))),
        )
        .fails("which is too long"),
        answers("an upload begins with the status of its end", EVER, begins_upload, || {
            Reply::new(201, "")
        })
        .fails("the registry answered 201"),
        answers("an upload is busy, once", 1, begins_upload, || Reply::new(503, "")).arrives(),
        answers("an upload is busy, always", EVER, begins_upload, || Reply::new(503, ""))
            .fails("503"),
        answers("there are too many uploads, for a second", 1, begins_upload, || {
            Reply::new(429, "").header("retry-after", "1")
        })
        .arrives()
        .not_before(0.9),
        answers("there are too many uploads, for a day", EVER, begins_upload, || {
            Reply::new(429, "").header("retry-after", "86400")
        })
        .fails("asked to wait 86400 s"),
        answers("an upload begins with an endless answer", EVER, begins_upload, || {
            Reply::new(202, "").then(Then::Flood(b"x".repeat(1 << 16)))
        })
        .fails("127.0.0.1:")
        .may_flood(),
        asked_for(push("another repository has the blobs").called("{0}/base:1"), "from=base")
            .registry(|asked, scene| match mounts(asked) {
                true => {
                    let digest = scene.content.blobs.keys();
                    let digest = digest
                        .into_iter()
                        .find(|it| asked.target.contains(&it.replace(':', "%3A")));
                    let bytes = scene.content.blob(digest.unwrap()).to_vec();
                    let id = format!("mount{}", scene.count("mount"));
                    scene.shelf.keep(&id, &bytes);
                    let put = Asked {
                        method: "PUT".into(),
                        target: format!(
                            "/v2/app/blobs/uploads/{id}?digest={}",
                            digest.unwrap().replace(':', "%3A")
                        ),
                        whole: true,
                        ..Asked::default()
                    };
                    scene.well(&put)
                }
                false => scene.well(asked),
            })
            .sees(|logs, _| match logs[0].iter().any(|asked| asked.carries()) {
                true => Err("what was there was sent".into()),
                false => Ok(()),
            })
            .arrives(),
        asked_for(push("another repository has not the blobs").called("{0}/base:1"), "from=base")
            .arrives(),
        push("a name of another registry is no reason to take blobs from there")
            .called("example.org/base:1")
            .sees(|logs, _| match logs[0].iter().any(mounts) {
                true => Err("it was asked".into()),
                false => Ok(()),
            })
            .arrives(),
        answers("another repository is private", EVER, mounts, || {
            Reply::new(401, "").header("www-authenticate", "Basic realm=r")
        })
        .called("{0}/base:1")
        .arrives(),
        answers("another repository is not there", EVER, mounts, missing)
            .called("{0}/base:1")
            .arrives(),
        answers("a blob is taken from elsewhere that is not there", EVER, mounts, || {
            Reply::new(201, "")
        })
        .called("{0}/base:1")
        .fails("MANIFEST_BLOB_UNKNOWN"),
        answers("a blob is taken from elsewhere that is another one", EVER, mounts, || {
            Reply::new(201, "").header("docker-content-digest", "sha256:0")
        })
        .called("{0}/base:1")
        .fails("the registry calls it \"sha256:0\""),
    ]
}

/// Takes so much of the first layer, keeps it if told so, and hangs up.
fn cut(story: &str, times: usize, keeps: bool) -> Fault {
    push(story)
        .takes(move |asked, scene| {
            (scene.carries_layer(asked) && scene.count("cut") <= times).then_some(300_000)
        })
        .registry(move |asked, scene| match asked.whole {
            true => scene.well(asked),
            false => {
                let id = asked.upload().unwrap();
                match keeps {
                    true => scene.shelf.keep(id, &asked.bytes),
                    false => scene.shelf.forget(id),
                }
                Reply::raw("").then(Then::Reset)
            }
        })
}

/// Returns how often the layer was sent from its first byte.
fn from_the_start(logs: &[Vec<Asked>], scene: &Scene) -> usize {
    let all = scene.content.blob(&scene.content.layer()).len().to_string();
    logs[0].iter().filter(|asked| asked.header("content-length") == Some(&all)).count()
}

pub fn breaks() -> Vec<Fault> {
    let once = |logs: &[Vec<Asked>], scene: &Scene| match from_the_start(logs, scene) {
        1 => Ok(()),
        n => Err(format!("the layer was sent {n} times")),
    };
    vec![
        cut("a blob breaks off, and the registry knows where", 1, true).arrives().sees(once),
        cut("a blob breaks off three times, each time further on", 3, true)
            .options("--retry 1")
            .arrives()
            .sees(once),
        cut("a blob breaks off, and the registry has forgotten it", 1, false).arrives(),
        cut("a blob breaks off and is forgotten, always", EVER, false).fails("127.0.0.1:"),
        cut("a blob breaks off, and the registry says too much is there", 1, false)
            .registry(|asked, scene| match (asked.method.as_str(), asked.upload()) {
                _ if !asked.whole => Reply::raw("").then(Then::Reset),
                ("GET", Some(_)) => Reply::new(204, "").header("range", "0-99999999"),
                _ => scene.well(asked),
            })
            .arrives(),
        cut("a blob breaks off, and the registry says nothing of what is there", 1, false)
            .registry(|asked, scene| match (asked.method.as_str(), asked.upload()) {
                _ if !asked.whole => Reply::raw("").then(Then::Reset),
                ("GET", Some(_)) => Reply::new(204, ""),
                _ => scene.well(asked),
            })
            .arrives(),
        answers("the end of an upload is lost", 1, ends_upload, || {
            Reply::raw("").then(Then::Reset)
        })
        .arrives(),
        answers("the registry is busy in the middle of an upload, once", 1, ends_upload, || {
            Reply::new(500, "")
        })
        .arrives(),
        answers(
            "the registry is busy in the middle of an upload, always",
            EVER,
            ends_upload,
            || Reply::new(502, ""),
        )
        .fails("502"),
        answers("too many bytes for now", 1, ends_upload, || {
            Reply::new(429, "").header("retry-after", "1")
        })
        .arrives()
        .not_before(0.9),
        push("all of a blob is too much")
            .registry(|asked, scene| match asked.bytes.len() > 400_000 {
                true => Reply::new(413, "too large"),
                false => scene.well(asked),
            })
            .arrives(),
        push("all of a blob is too much, and nobody reads it")
            .takes(|asked, scene| scene.carries_layer(asked).then_some(0))
            .registry(|asked, scene| match asked.whole {
                true => scene.well(asked),
                false => Reply::new(413, "too large").then(Then::Close),
            })
            .arrives(),
        push("any part is too much")
            .registry(|asked, scene| match asked.carries() {
                true => Reply::new(413, ""),
                false => scene.well(asked),
            })
            .fails("the registry answered 413"),
        push("a part arrives in part")
            .registry(|asked, scene| match (asked.method.as_str(), asked.bytes.len() > 400_000) {
                ("PUT", true) => Reply::new(413, ""),
                ("PATCH", _) if scene.count("part") == 1 => {
                    let half = Asked { bytes: asked.bytes[..100_000].to_vec(), ..asked.clone() };
                    scene.well(&half)
                }
                _ => scene.well(asked),
            })
            .arrives(),
        push("no part arrives, and the registry says so")
            .registry(|asked, scene| match (asked.method.as_str(), asked.bytes.len() > 400_000) {
                ("PUT", true) => Reply::new(413, ""),
                ("PATCH", _) => {
                    let none = Asked { bytes: Vec::new(), ..asked.clone() };
                    scene.well(&none)
                }
                _ => scene.well(asked),
            })
            .fails("the registry has 0 bytes of the"),
        push("the registry says that more arrived than was sent")
            .registry(|asked, scene| match (asked.method.as_str(), asked.bytes.len() > 400_000) {
                ("PUT", true) => Reply::new(413, ""),
                ("PATCH", _) => scene.well(asked).without("range").header("range", "0-99999999"),
                _ => scene.well(asked),
            })
            .fails("the registry has 100000000 bytes of the"),
        push("a part has no range")
            .registry(|asked, scene| match (asked.method.as_str(), asked.bytes.len() > 400_000) {
                ("PUT", true) => Reply::new(413, ""),
                ("PATCH", _) => scene.well(asked).without("range").without("location"),
                _ => scene.well(asked),
            })
            .arrives(),
        push("a part does not fit, always")
            .registry(|asked, scene| match (asked.method.as_str(), asked.bytes.len() > 400_000) {
                ("PUT", true) => Reply::new(413, ""),
                ("PATCH", _) => Reply::new(416, ""),
                _ => scene.well(asked),
            })
            .fails("416"),
        answers("nothing is said at the end of a blob", EVER, ends_upload, || {
            Reply::new(201, "").after(Duration::from_secs(40))
        })
        .options("--stall 500ms --retry 1")
        .fails("nothing came for"),
        answers("nothing is said at the end of a blob, once", 1, ends_upload, || {
            Reply::new(201, "").after(Duration::from_secs(40))
        })
        .options("--stall 500ms --retry 1")
        .arrives(),
        answers("nothing is said at the beginning of an upload", EVER, begins_upload, || {
            Reply::new(202, "").after(Duration::from_secs(40))
        })
        .options("--stall 500ms --retry 1")
        .fails("nothing came for"),
        push("connections are reset")
            .meets(|nth| match nth {
                1..=3 => sandbox::faulty::server::Welcome::Reset,
                _ => sandbox::faulty::server::Welcome::Serve,
            })
            .arrives(),
    ]
}

pub fn ends() -> Vec<Fault> {
    vec![
        answers("a blob gets another digest", EVER, ends_upload, || {
            Reply::new(201, "").header("docker-content-digest", "sha256:0")
        })
        .fails("the registry calls it \"sha256:0\""),
        answers("a blob's digest is refused", EVER, ends_upload, || {
            Reply::new(400, r#"{"errors":[{"code":"DIGEST_INVALID","message":"no"}]}"#)
        })
        .fails("the registry answered 400: DIGEST_INVALID: no"),
        answers("a blob is taken, and the answer never ends", EVER, ends_upload, || {
            Reply::new(400, "").then(Then::Flood(b"x".repeat(1 << 16)))
        })
        .fails("the registry answered 400"),
        answers("a blob is taken that was not read", EVER, ends_upload, || Reply::new(201, ""))
            .fails("MANIFEST_BLOB_UNKNOWN"),
        answers("a manifest gets another digest", EVER, names, || {
            Reply::new(201, "").header("docker-content-digest", "sha256:0")
        })
        .fails("the registry calls it \"sha256:0\""),
        answers("a manifest is refused", EVER, names, || {
            Reply::new(400, r#"{"errors":[{"code":"MANIFEST_INVALID","message":"old"}]}"#)
        })
        .fails("the registry answered 400: MANIFEST_INVALID: old"),
        answers("a manifest is taken, perhaps", EVER, names, || Reply::new(202, ""))
            .fails("the registry answered 202"),
        answers("a manifest meets a busy registry, once", 1, names, || Reply::new(503, ""))
            .arrives(),
        answers("a manifest's answer is lost, once", 1, names, || Reply::raw("").then(Then::Reset))
            .arrives(),
        answers("a manifest's answer never ends", EVER, names, || {
            Reply::new(500, "").then(Then::Flood(b"x".repeat(1 << 16)))
        })
        .fails("500"),
        push("a layer is corrupt here")
            .prepare(|t, scene| {
                let layer = scene.content.layer();
                let path = t.path("tare/images/blobs").join(layer.replace(':', "/"));
                let mut bytes = std::fs::read(&path).unwrap();
                bytes[500_000] ^= 1;
                std::fs::write(path, bytes).unwrap();
            })
            .for_good()
            .fails("corrupt: it hashes to"),
        push("a layer is not here")
            .prepare(|t, scene| {
                let layer = scene.content.layer();
                std::fs::remove_file(t.path("tare/images/blobs").join(layer.replace(':', "/")))
                    .unwrap();
            })
            .for_good()
            .asked(0, 0..=0)
            .fails("not in the layout"),
    ]
}

/// Wants a token, and another one after so many requests.
fn tokens(story: &str, good_for: usize) -> Fault {
    push(story).registry(move |asked, scene| {
        if asked.path() == "/token" {
            let nth = scene.count("token");
            return Reply::new(200, format!(r#"{{"token":"hunter2.{nth}"}}"#));
        }
        let shown = asked.header("authorization").and_then(|it| it.strip_prefix("Bearer hunter2."));
        let good = shown.is_some_and(|nth| scene.count(&format!("with {nth}")) <= good_for);
        match good {
            true => scene.well(asked),
            false => Reply::challenge("Bearer realm=\"/token\""),
        }
    })
}

pub fn secrets() -> Vec<Fault> {
    let elsewhere = "which is another place than the registry's";
    vec![
        push("an upload begins on another port")
            .registry(|asked, scene| match begins_upload(asked) {
                true => {
                    let location = format!("http://{}/v2/app/blobs/uploads/1", scene.at(1));
                    private(asked, scene)
                        .header("location", "x")
                        .without("location")
                        .header("location", location)
                }
                false => private(asked, scene),
            })
            .bait("127.0.0.1:0")
            .fails(elsewhere),
        push("the next part goes to another port")
            .registry(|asked, scene| match (asked.method.as_str(), asked.bytes.len() > 400_000) {
                ("PUT", true) => Reply::new(413, ""),
                ("PATCH", _) => scene
                    .well(asked)
                    .without("location")
                    .header("location", format!("//{}/x", scene.at(1))),
                _ => private(asked, scene),
            })
            .bait("127.0.0.1:0")
            .fails(elsewhere),
        push("an upload goes on at another port")
            .takes(|asked, scene| {
                (scene.carries_layer(asked) && scene.count("cut") <= 1).then_some(300_000)
            })
            .registry(|asked, scene| match (asked.method.as_str(), asked.upload()) {
                _ if !asked.whole => Reply::raw("").then(Then::Reset),
                ("GET", Some(_)) => Reply::new(204, "")
                    .header("range", "0-299999")
                    .header("location", format!("http://{}/x", scene.at(1))),
                _ => private(asked, scene),
            })
            .bait("127.0.0.1:0")
            .fails(elsewhere),
        push("a redirect leads the beginning of an upload elsewhere")
            .registry(|asked, scene| match begins_upload(asked) {
                true => Reply::to(format!("http://{}/", scene.at(1))),
                false => private(asked, scene),
            })
            .bait("127.0.0.1:0")
            .fails("the registry answered 307"),
        push("a redirect leads a blob elsewhere")
            .registry(|asked, scene| match ends_upload(asked) {
                true => Reply::to(format!("http://{}/", scene.at(1))),
                false => private(asked, scene),
            })
            .bait("127.0.0.1:0")
            .fails("the registry answered 307"),
        push("a redirect leads the manifest elsewhere")
            .registry(|asked, scene| match names(asked) {
                true => Reply::to(format!("http://{}/", scene.at(1))),
                false => private(asked, scene),
            })
            .bait("127.0.0.1:0")
            .fails("the registry answered 307"),
        push("a redirect leads the question for a blob elsewhere, without the password")
            .registry(|asked, scene| match asked.method == "HEAD" {
                true => Reply::to(format!("http://{}/", scene.at(1))),
                false => private(asked, scene),
            })
            .host("127.0.0.1:0", |_, _| missing())
            .arrives(),
        push("a location has a password in it")
            .registry(|asked, scene| match begins_upload(asked) {
                true => {
                    let reply = private(asked, scene);
                    let there = reply.headers.iter().find(|(name, _)| name == "location");
                    match there.map(|(_, location)| location.clone()) {
                        Some(path) => reply
                            .without("location")
                            .header("location", format!("http://a:b@{}{path}", scene.at(0))),
                        None => reply,
                    }
                }
                false => private(asked, scene),
            })
            .arrives(),
        push("a token service is elsewhere")
            .registry(|_, scene| {
                Reply::challenge(format!(
                    "Bearer realm=\"http://{}/token\"",
                    scene.at(1).replace("127.0.0.1", "127.0.0.2")
                ))
            })
            .bait("127.0.0.1:0")
            .fails("it sends to a token service at"),
        tokens("a token is good for all of it", EVER).arrives(),
        tokens("a token is good for six requests", 6).arrives(),
        tokens("a token is good for nothing", 0).fails("access denied"),
        push("a token expires in the middle of a blob")
            .takes(|asked, scene| {
                (scene.carries_layer(asked) && scene.count("cut") <= 1).then_some(200_000)
            })
            .registry(|asked, scene| {
                if asked.path() == "/token" {
                    let nth = scene.count("token");
                    return Reply::new(200, format!(r#"{{"token":"hunter2.{nth}"}}"#));
                }
                match (asked.whole, asked.header("authorization")) {
                    (false, _) => Reply::challenge("Bearer realm=\"/token\"").then(Then::Close),
                    (_, Some(_)) => scene.well(asked),
                    _ => Reply::challenge("Bearer realm=\"/token\""),
                }
            })
            .arrives()
            .sees(|logs, _| {
                let tokens = logs[0].iter().filter(|asked| asked.path() == "/token").count();
                if tokens == 2 { Ok(()) } else { Err(format!("{tokens} tokens")) }
            }),
    ]
}

#[test]
fn an_upload_begins_where_the_registry_is_or_not_at_all() {
    run_all(begins());
}

#[test]
fn an_upload_that_breaks_off_is_gone_on_with() {
    run_all(breaks());
}

#[test]
fn the_registry_has_what_it_says_or_it_is_an_error() {
    run_all(ends());
}

#[test]
fn a_push_shows_its_secrets_to_the_registry_alone() {
    run_all(secrets());
}
