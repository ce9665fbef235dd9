//! ctr-spawn of an image that is not here, which runs img-pull.

use sandbox::faulty::content::missing;
use sandbox::faulty::fault::{Fault, fault, run_all};
use sandbox::faulty::message::{Reply, Then};
use sandbox::lacks;

fn spawn(story: &str) -> Fault {
    fault(story).spawns()
}

pub fn faults() -> Vec<Fault> {
    vec![
        spawn("run: nothing is wrong").pulls(),
        spawn("run: the registry is busy, once")
            .registry(|asked, scene| match asked.nth {
                1 => Reply::new(503, ""),
                _ => scene.well(asked),
            })
            .pulls(),
        spawn("run: a blob breaks off, once")
            .registry(|asked, scene| match scene.is_layer(asked) && asked.nth == 1 {
                true => scene.well(asked).cut(400_000, Then::Reset),
                false => scene.well(asked),
            })
            .pulls(),
        spawn("run: the manifest is not there")
            .registry(|asked, scene| match asked.manifest() {
                Some(_) => missing(),
                None => scene.well(asked),
            })
            .fails("img-pull cannot get it"),
        spawn("run: a layer has other bytes")
            .registry(|asked, scene| {
                let mut reply = scene.well(asked);
                if scene.is_layer(asked) {
                    reply.body[700_000] ^= 1;
                }
                reply
            })
            .fails("corrupt: it hashes to"),
        spawn("run: a portal answers")
            .registry(|_, _| Reply::new(200, "<html>").header("content-type", "text/html"))
            .fails("web page"),
        spawn("run: a password is wanted, and none is stored")
            .registry(|_, _| Reply::challenge("Basic realm=r"))
            .anonymous()
            .fails("authentication required"),
        spawn("run: the registry says no with words for a terminal")
            .registry(|_, _| {
                Reply::new(
                    403,
                    r#"{"errors":[{"code":"\u001b[2J","message":"\u202e\r\nctr-spawn: x"}]}"#,
                )
            })
            .fails("access denied"),
        spawn("run: nobody listens")
            .name("127.0.0.1:1/app:1")
            .for_good()
            .fails("img-pull cannot get it"),
    ]
}

#[test]
fn a_run_gets_its_image_or_does_not_begin() {
    if lacks(&["root"]) {
        return;
    }
    run_all(faults());
}
