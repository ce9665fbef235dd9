//! Registries that say nothing, or hardly anything, and never hang up.

use std::time::Duration;

use sandbox::faulty::fault::{Fault, fault, run_all};
use sandbox::faulty::message::{Length, Reply, Then};
use sandbox::faulty::server::Welcome;

const LONG: Duration = Duration::from_secs(40);

/// The programs of this table give up after half a second of silence, and try once more.
const SOON: &str = "--stall 500ms --retry 1";

pub fn faults() -> Vec<Fault> {
    let faults = vec![
        fault("nothing is said before the head of a manifest")
            .registry(|asked, scene| scene.well(asked).after(LONG))
            .fails("nothing came for 0.5 s"),
        fault("nothing is said before the head of a manifest, once")
            .registry(|asked, scene| match asked.nth {
                1 => scene.well(asked).after(LONG),
                _ => scene.well(asked),
            })
            .pulls(),
        fault("nothing is said in the head")
            .registry(|_, _| Reply {
                then: Then::Hold,
                ..Reply::raw("HTTP/1.1 200 OK\r\ncontent-le")
            })
            .fails("nothing came for 0.5 s"),
        fault("nothing is said after the head of a manifest")
            .registry(|asked, scene| scene.well(asked).cut(0, Then::Hold))
            .fails("nothing came for 0.5 s"),
        fault("nothing is said in the middle of a manifest")
            .registry(|asked, scene| scene.well(asked).cut(100, Then::Hold))
            .fails("nothing came for 0.5 s"),
        fault("nothing is said in the middle of a blob")
            .registry(|asked, scene| match scene.is_layer(asked) {
                true => match asked.from() {
                    None => scene.well(asked).cut(300_000, Then::Hold),
                    Some(_) => scene.well(asked).cut(0, Then::Hold),
                },
                false => scene.well(asked),
            })
            .fails("nothing came for 0.5 s"),
        fault("nothing is said in the middle of a blob, once")
            .registry(|asked, scene| match scene.is_layer(asked) && asked.nth == 1 {
                true => scene.well(asked).cut(300_000, Then::Hold),
                false => scene.well(asked),
            })
            .pulls(),
        fault("a blob is all there, and its end is not said")
            .registry(|asked, scene| match asked.blob() {
                Some(_) => {
                    let reply = scene.well(asked);
                    let all = reply.body.len();
                    reply.length(Length::Chunked).cut(all, Then::Hold)
                }
                None => scene.well(asked),
            })
            .pulls(),
        fault("nothing is said in the answer that says no")
            .registry(|_, _| Reply::new(403, "long").cut(1, Then::Hold))
            .fails("access denied"),
        fault("nothing is said in the answer that says not now")
            .registry(|_, _| Reply::new(503, "long").cut(1, Then::Hold))
            .fails("503"),
        fault("nothing is said by the token service")
            .registry(|asked, scene| match asked.path() {
                "/token" => scene.well(asked).after(LONG),
                _ => Reply::challenge("Bearer realm=\"/token\""),
            })
            .fails("nothing came for 0.5 s"),
        fault("nothing is said in the middle of a token")
            .registry(|asked, _| match asked.path() {
                "/token" => Reply::new(200, "{\"token\": \"hunter2.a").cut(15, Then::Hold),
                _ => Reply::challenge("Bearer realm=\"/token\""),
            })
            .fails("nothing came for 0.5 s"),
        fault("connections are taken, and nothing is said")
            .meets(|_| Welcome::Hold)
            .fails("nothing came for 0.5 s"),
        fault("an unknown tag, and nothing is said about which there are")
            .registry(|asked, scene| match asked.manifest() {
                Some(_) => Reply::new(404, ""),
                None => scene.well(asked).after(LONG),
            })
            .fails("manifest not found")
            .asked(0, 2..=2),
        fault("\"100 Continue\" is said for ever")
            .registry(|_, _| Reply {
                then: Then::Flood(b"HTTP/1.1 100 Continue\r\n\r\n".repeat(10)),
                ..Reply::raw("")
            })
            .may_flood()
            .fails("127.0.0.1:"),
        fault("a manifest comes byte by byte, and does not get done")
            .registry(|asked, scene| scene.well(asked).pace(1, Duration::from_millis(200)))
            .fails("bytes came in"),
        fault("a blob comes byte by byte, and does not get done")
            .registry(|asked, scene| match scene.is_layer(asked) {
                true => scene.well(asked).pace(1, Duration::from_millis(200)),
                false => scene.well(asked),
            })
            .fails("bytes came in"),
        fault("a head comes byte by byte")
            .registry(|_, _| {
                let line = "x: y\r\n".repeat(1000);
                Reply::new(200, line)
                    .length(Length::Said("1\r\nx: y".into()))
                    .pace(1, Duration::from_millis(200))
            })
            .ends(),
        fault("a token comes byte by byte, and does not get done")
            .registry(|asked, _| match asked.path() {
                "/token" => Reply::new(200, " ".repeat(9000)).pace(1, Duration::from_millis(200)),
                _ => Reply::challenge("Bearer realm=\"/token\""),
            })
            .fails("bytes came in"),
        fault("an answer that says no comes byte by byte")
            .registry(|_, _| Reply::new(403, " ".repeat(9000)).pace(1, Duration::from_millis(200)))
            .fails("access denied"),
        fault("a blob comes slowly, and gets done")
            .registry(|asked, scene| match scene.is_layer(asked) {
                true => scene.well(asked).pace(60_000, Duration::from_millis(200)),
                false => scene.well(asked),
            })
            .pulls()
            .not_before(3.0),
        fault("the end of a small blob comes byte by byte")
            .registry(|asked, scene| match asked.blob() == Some(&scene.content.config()) {
                true => scene.well(asked).pace(100, Duration::from_millis(300)),
                false => scene.well(asked),
            })
            .ends(),
    ];
    faults.into_iter().map(|fault| fault.options(SOON)).collect()
}

#[test]
fn a_silence_ends() {
    run_all(faults());
}
