//! Twenty processes on one store: they pull, import, tag, remove and prune, and nobody loses anything.
//!
//! What is kept is unique to who keeps it, so a blob that was lost does not come back by
//! accident; what is removed shares its layers with what is kept.

use std::collections::BTreeSet;
use std::io::Write;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use sandbox::image::{Image, PACK, busybox, full_name};
use sandbox::{Sandbox, lacks};
use serde_json::json;

use crate::faults::layout;

/// How many there are.
const CROWD: usize = 20;

/// When each of them goes home.
enum Until {
    Rounds(usize),
    Seconds(u64),
}

/// Returns what number `n` does in a round: a script that tells what it keeps with `keep NAME`.
fn work(n: usize) -> String {
    match n % 10 {
        // All of these are one image in many repositories.
        0 => "img-pull -q $REGISTRY/app:$((1 + i % 3)) && keep $REGISTRY/app:$((1 + i % 3))".into(),
        1 | 2 => format!(
            "img-pull -q $REGISTRY/r{n}:$((1 + i % 3)) && img-rm $REGISTRY/r{n}:$((1 + i % 3))"
        ),
        3 => format!(
            "echo {n} $i >u{n}/x && tar -C u{n} -c . | img-import - kept{n}:$i && keep kept{n}:$i"
        ),
        4 => format!(
            "echo {n} $i >u{n}/x && tar -C u{n} -c . | img-import - gone{n}:$i && img-rm gone{n}:$i"
        ),
        // As a stream, from one store of somebody's into ours and out of ours again.
        5 if n >= 10 => format!(
            "img-save -o f{n} old && img-load -q -i f{n} && img-save old | img-load -q --root other{n} && keep old"
        ),
        5 => format!("img-tag old tag{n}:$i && keep tag{n}:$i"),
        6 => format!("img-tag old gone{n}:$i && img-rm gone{n}:$i"),
        // The image that had the name is left without one.
        7 => format!("echo {n} $i >u{n}/x && tar -C u{n} -c . | img-import - moves{n}:latest"),
        // By ID, and with all its names.
        8 => format!(
            "echo {n} $i >u{n}/x && id=$(tar -C u{n} -c . | img-import - gone{n}:$i) &&
             img-tag gone{n}:$i also{n}:$i && img-rm -f ${{id#*@}}"
        ),
        // The others begin no new round until it has begun: they would never leave it a moment.
        _ => "touch pause; img-prune & sleep 0.2; rm -f pause; wait $!".into(),
    }
}

fn crowd(until: Until, limit: Duration) {
    if lacks(&["docker-registry"]) {
        return;
    }
    let layer = |n: usize| format!("mkdir d; seq {n}0000 >d/large; echo {n} >d/{n}; {PACK}");
    let t = Sandbox::with_image("old").with_registry().with_limit(limit);
    for n in 1..=3 {
        let image = Image::new(&[&layer(9), &layer(n)], &json!({ "Cmd": ["sh"] }));
        let repositories = (0..CROWD).map(|n| format!("r{n}")).chain(["app".into()]);
        repositories.for_each(|name| t.registry().add(&image, &name, &n.to_string()));
    }
    t.sh(&format!("mkdir $(seq -f u%g 0 {CROWD})")).is_silent();
    let done = match until {
        Until::Rounds(rounds) => format!("test $i -ge {rounds}"),
        Until::Seconds(seconds) => {
            format!("test $(date +%s) -ge $(($(cat began) + {seconds}))")
        }
    };
    let one = |n: usize| {
        format!(
            "( keep() {{ echo $1 >>names.{n}; }}; i=0
            until {done}; do i=$((i + 1)); while test -e pause; do sleep 0.01; done
                {{ {work}; }} >>out.{n} 2>>said.{n} || echo \"$? at $i\" >>failed.{n}
            done; echo $i >>rounds ) & ",
            work = work(n)
        )
    };
    let script = (0..CROWD).map(one).collect::<String>() + "wait; cat failed.* 2>/dev/null; :";
    let script = format!("date +%s >began; {script}");
    let images = t.path("tare/images");
    let (over, reads) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Relaxed) {
                let names = layout::names(&images).unwrap_or_else(|why| {
                    over.store(true, Relaxed);
                    panic!("a reader saw: {why}")
                });
                assert!(names.contains_key("docker.io/library/old:latest"));
                reads.fetch_add(1, Relaxed);
                thread::sleep(Duration::from_millis(2));
            }
        });
        let run = t.sh(&script);
        over.store(true, Relaxed);
        run.prints("");
    });
    let said =
        t.sh("cat said.* | grep -v -e 'total reclaimed space' -e 'blobs stay for the next'; :");
    said.is_silent();

    let names = layout::sound(&images).unwrap();
    let kept: BTreeSet<String> = t.sh("cat names.*").text().lines().map(full).collect();
    let moved = (0..CROWD).filter(|n| n % 10 == 7).map(|n| full(&format!("moves{n}")));
    let expected: BTreeSet<String> = kept.into_iter().chain(moved).chain([full("old")]).collect();
    assert_eq!(names.keys().cloned().collect::<BTreeSet<_>>(), expected);
    assert_eq!(names[&full("old")], busybox().digest);

    t.sh("img-prune >out 2>>said.last").is_silent();
    assert_eq!(layout::sound(&images).unwrap(), names);
    assert_eq!(layout::unneeded(&images), Vec::<String>::new());
    assert!(layout::stale(&images).is_empty(), "{:?}", layout::stale(&images));
    // What is there can be run and unpacked, to the last byte.
    t.sh("ctr-spawn --rm old true && cat names.* | sort -u | tail -1 | xargs -I{} img-unpack --rootfs {} o")
        .prints("./o\n");

    let rounds: usize =
        t.sh("cat rounds").text().lines().map(|line| line.parse::<usize>().unwrap()).sum();
    let freed = t.sh("cat said.* | grep 'total reclaimed' | grep -vc ': 0B'; :").text();
    let text = format!(
        "crowd: {CROWD} at once: {rounds} rounds, {} names kept, {} prunes that freed something, {} reads\n",
        expected.len(),
        freed.trim(),
        reads.into_inner()
    );
    let _ = std::io::stderr().write_all(text.as_bytes());
    // At the latest the last of them frees what the images were that lost their names.
    assert!(freed.trim().parse::<usize>().unwrap() > 0, "{text}");
}

fn full(name: &str) -> String {
    full_name(name)
}

#[test]
fn twenty_at_once_lose_nothing_and_keep_nothing() {
    crowd(Until::Rounds(4), Duration::from_secs(300));
}

mod soak {
    use super::*;

    #[test]
    fn twenty_at_once_lose_nothing_and_keep_nothing_in_a_minute() {
        crowd(Until::Seconds(60), Duration::from_secs(300));
    }
}
