//! Statuses: the registry says no, not now, or something that nobody asked for.

use sandbox::faulty::content::missing;
use sandbox::faulty::fault::{Fault, fault, run_all};
use sandbox::faulty::message::Reply;

/// Returns the row of a blob that is answered so the first `times` times.
fn blob_says(times: usize, reply: fn() -> Reply) -> Fault {
    let story = format!("a blob is answered {} {times} times", reply().line);
    fault(story).registry(move |asked, scene| match scene.is_layer(asked) && asked.nth <= times {
        true => reply(),
        false => scene.well(asked),
    })
}

/// Returns the row of a manifest that is always answered so.
fn manifest_says(story: &str, reply: impl Fn() -> Reply + Send + Sync + 'static) -> Fault {
    fault(story).registry(move |asked, scene| match asked.manifest() {
        Some(_) => reply(),
        None => scene.well(asked),
    })
}

pub fn faults() -> Vec<Fault> {
    let mut faults = vec![
        fault("nothing is wrong").pulls().asked(0, 4..=4),
        manifest_says("the manifest is not there", missing).fails("manifest not found in"),
        manifest_says("the repository is not there", || {
            Reply::new(404, r#"{"errors":[{"code":"NAME_UNKNOWN","message":"x"}]}"#)
        })
        .fails("no repository"),
        manifest_says("404 with a page of HTML", || Reply::new(404, "<html>\x1b[31mno"))
            .fails("manifest not found in"),
        manifest_says("access is denied", || {
            Reply::new(403, r#"{"errors":[{"code":"DENIED","message":"go\r\nimg-pull: \u001b[31m\u202eaway"}]}"#)
        })
        .fails("access denied: DENIED: go")
        .asked(0, 1..=1),
        manifest_says("an error is a deep nest of brackets", || Reply::new(400, "[".repeat(1 << 19)))
            .fails("the registry answered 400"),
        manifest_says("an error has another form than it should", || {
            Reply::new(400, r#"{"errors":{"code":1,"message":["a"]}}"#)
        })
        .fails("the registry answered 400"),
        manifest_says("an error says very much", || {
            Reply::new(403, format!(r#"{{"errors":[{{"code":"{0}","message":"{0}"}}]}}"#, "x".repeat(400_000)))
        })
        .fails("access denied"),
        blob_says(99, missing).fails("not found"),
        blob_says(99, || Reply::new(403, "")).fails("access denied"),
        blob_says(99, || Reply::new(416, "")).fails("416"),
        blob_says(99, || Reply::new(400, "")).fails("400"),
        blob_says(99, || Reply::new(501, "")).fails("501"),
        blob_says(1, || Reply::new(204, "").length(sandbox::faulty::message::Length::Untold)).fails("204"),
        blob_says(99, || Reply::new(205, "")).fails("205"),
        blob_says(99, || Reply::new(304, "")).fails("304"),
        blob_says(99, || Reply::new(300, "x")).fails("300"),
        blob_says(99, || Reply::new(999, "x")).fails("999"),
        manifest_says("a manifest is answered 204", || Reply::new(204, "")).fails("204"),
        manifest_says("a manifest is answered 206, though all of it was asked for", || {
            Reply::new(206, "{}").header("content-range", "bytes 0-1/2")
        })
        .fails("206"),
        fault("a blob is answered 206 from its start, though nobody asked for a part").registry(|asked, scene| {
            let reply = scene.well(asked);
            match scene.is_layer(asked) {
                true => {
                    let size = reply.body.len();
                    Reply::new(206, reply.body).header("content-range", format!("bytes 0-{}/{size}", size - 1))
                }
                false => reply,
            }
        }).fails("206"),
        manifest_says("too many requests, for ever", || Reply::new(429, "")).fails("too many requests").asked(0, 5..=5),
        manifest_says("too many requests, come again in a day", || {
            Reply::new(429, "").header("retry-after", "86400")
        })
        .fails("asked to wait 86400 s")
        .asked(0, 1..=1),
        manifest_says("too many requests, come again in another century", || {
            Reply::new(429, "").header("retry-after", "Fri, 31 Dec 2117 23:59:59 GMT")
        })
        .fails("asked to wait")
        .asked(0, 1..=1),
        manifest_says("come again in more seconds than there are", || {
            Reply::new(503, "").header("retry-after", "9".repeat(60))
        })
        .fails("asked to wait")
        .asked(0, 1..=1),
        fault("too many requests, come again in a second")
            .registry(|asked, scene| match asked.manifest().is_some() && asked.nth == 1 {
                true => Reply::new(429, "").header("retry-after", "1"),
                false => scene.well(asked),
            })
            .pulls()
            .not_before(1.0),
        fault("too many requests, come again at a time that is over")
            .registry(|asked, scene| match asked.manifest().is_some() && asked.nth == 1 {
                true => Reply::new(429, "").header("retry-after", "Sun, 06 Nov 1994 08:49:37 GMT"),
                false => scene.well(asked),
            })
            .pulls(),
    ];
    for odd in ["-1", "soon", "1.5", "", "0x10", "1, 2", "Fri, 31 Dec 9999 23:59:59 GMT"] {
        faults.push(
            fault(format!("too many requests, and Retry-After is {odd:?}"))
                .registry(move |asked, scene| match asked.manifest().is_some() && asked.nth == 1 {
                    true => Reply::new(429, "").header("retry-after", odd),
                    false => scene.well(asked),
                })
                .pulls(),
        );
    }
    for (status, times) in [(500, 1), (502, 2), (503, 3), (504, 4), (408, 1), (429, 4)] {
        faults.push(
            fault(format!("every thing is answered {status} {times} times"))
                .registry(move |asked, scene| match asked.nth <= times {
                    true => Reply::new(status, "busy"),
                    false => scene.well(asked),
                })
                .pulls(),
        );
    }
    for status in [500, 502, 503, 504] {
        faults.push(
            fault(format!("{status}, for ever"))
                .registry(move |_, _| {
                    Reply::new(status, r#"{"errors":[{"code":"OH","message":"no"}]}"#)
                })
                .fails(format!("the registry answered {status}: OH: no"))
                .asked(0, 5..=5),
        );
    }
    faults.push(
        fault("503, for ever, and it is not to be tried again")
            .registry(|_, _| Reply::new(503, ""))
            .options("--retry 0")
            .fails("503")
            .asked(0, 1..=1),
    );
    faults.push(
        fault("503 with words that are not for a terminal, and the user wants to know")
            .registry(|_, _| {
                Reply::new(
                    503,
                    r#"{"errors":[{"code":"\u001b[2J","message":"\u202e\u0007img-pull: done"}]}"#,
                )
            })
            .loud()
            .fails("503"),
    );
    faults
}

#[test]
fn a_registry_that_says_no_is_believed_and_one_that_is_busy_is_waited_for() {
    run_all(faults());
}
