//! Many writers of one layout, and somebody who prunes it as contract 4 says.
//!
//! The pruner takes the lock of `oci-layout` for itself, so that nobody is on the way from
//! a first blob to a name, reads the index again, and removes the blobs that nothing in it
//! leads to. Another forgets names. Readers look on all the while, without any lock.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Write;
use std::panic::{self, AssertUnwindSafe};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use sandbox::image::{Image, PACK, busybox, read_json};
use sandbox::{Sandbox, lacks};
use serde_json::{Value, json};

use super::layout;

/// How many processes write at once.
const WRITERS: usize = 12;
/// How many times each of them must have written, how many blobs must have been pruned, and how
/// often a reader must have looked, before the test ends.
const ENOUGH: (usize, usize, usize) = (2, 10, 10);

/// Removes the blobs that no image needs, if nobody is adding any; returns how many.
///
/// As long as the file `pause` is there nobody begins anew: without that, twelve
/// writers would never leave it a moment.
fn prune(dir: &Path, pause: &Path) -> usize {
    fs::write(pause, "").unwrap();
    let lock = File::open(dir.join("oci-layout")).unwrap();
    let start = Instant::now();
    while lock.try_lock().is_err() {
        if start.elapsed() > Duration::from_secs(30) {
            fs::remove_file(pause).unwrap();
            return 0; // contract 4: then it leaves them alone
        }
        thread::sleep(Duration::from_millis(1));
    }
    // They come while it is at work.
    fs::remove_file(pause).unwrap();
    let mut needed = BTreeSet::new();
    let mut todo: Vec<Value> =
        read_json(&dir.join("index.json"))["manifests"].as_array().unwrap().clone();
    while let Some(desc) = todo.pop() {
        let digest = desc["digest"].as_str().unwrap().to_owned();
        let hex = digest.strip_prefix("sha256:").unwrap().to_owned();
        let kind = desc["mediaType"].as_str().unwrap_or_default();
        if needed.insert(hex.clone()) && (kind.contains("manifest") || kind.contains("index")) {
            let document = read_json(&dir.join("blobs/sha256").join(hex));
            todo.extend(document["layers"].as_array().into_iter().flatten().cloned());
            todo.extend(document["manifests"].as_array().into_iter().flatten().cloned());
            todo.extend(document.get("config").cloned());
        }
    }
    let mut removed = 0;
    for blob in fs::read_dir(dir.join("blobs/sha256")).unwrap().flatten() {
        if !needed.contains(blob.file_name().to_str().unwrap()) {
            fs::remove_file(blob.path()).unwrap();
            removed += 1;
        }
    }
    removed
}

/// Takes the images whose names hold `part` out of the index.
fn forget(dir: &Path, part: &str) {
    let lock = File::open(dir).unwrap();
    lock.lock().unwrap();
    let mut index = read_json(&dir.join("index.json"));
    index["manifests"].as_array_mut().unwrap().retain(|desc| {
        let name = desc["annotations"]["org.opencontainers.image.ref.name"].as_str();
        name.is_some_and(|name| !name.contains(part))
    });
    let new = dir.join(".forget");
    fs::write(&new, index.to_string()).unwrap();
    fs::rename(new, dir.join("index.json")).unwrap();
}

/// Lets writers, readers and pruners loose on one layout for so long, or longer on a machine that is slow.
fn crowd(time: Duration) {
    if lacks(&["docker-registry"]) {
        return;
    }
    let layer = |n: usize| format!("mkdir d; seq {n}0000 >d/large; echo {n} >d/{n}; {PACK}");
    let t = Sandbox::with_image("old").with_registry().with_limit(time + Duration::from_secs(300));
    let common = layer(9);
    for n in 1..=4 {
        let image = Image::new(&[&common, &layer(n)], &json!({ "Cmd": ["sh"] }));
        t.registry().add(&image, "app", &n.to_string());
    }
    t.sh("for i in 1 2 3; do mkdir t$i; seq 4000$i >t$i/x; tar -C t$i -cf $i.tar .; done; mkdir $(seq -f u%g 0 11)")
        .is_silent();
    let (images, pause, end) = (t.path("tare/images"), t.path("work/pause"), t.path("work/over"));
    let (over, reads, pruned) = (AtomicBool::new(false), AtomicUsize::new(0), AtomicUsize::new(0));
    let (least, blobs, looks) = ENOUGH;

    // A name that begins with `gone` is somebody's to forget; the others are to be there in the end.
    let writer = |n: usize| {
        let work = match n % 4 {
            0 => "img-pull -q $REGISTRY/app:$((1 + i % 4)) && k=$REGISTRY/app:$((1 + i % 4))"
                .to_owned(),
            1 => format!("img-import $((1 + i % 3)).tar kept{n}:$i && k=kept{n}:$i"),
            2 => format!("img-tag old tag{n}:$i && k=tag{n}:$i"),
            _ => format!("echo $i >u{n}/x && tar -C u{n} -c . | img-import - gone{n}:$i && k="),
        };
        format!(
            "i=0; until test -e over && test $i -ge {least}; do i=$((i + 1))
                while test -e pause; do sleep 0.01; done
                {{ {work}; }} >/dev/null 2>>errors.{n} || echo \"$? at $i\" >>errors.{n}
                test -z \"$k\" || echo $k >>names.{n}; done; echo $i >>rounds"
        )
    };
    let script = (0..WRITERS).map(|n| format!("( {} ) & ", writer(n))).collect::<String>() + "wait";
    thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Relaxed) {
                pruned.fetch_add(prune(&images, &pause), Relaxed);
                thread::sleep(Duration::from_millis(100));
            }
        });
        scope.spawn(|| {
            while !over.load(Relaxed) {
                forget(&images, "/gone");
                thread::sleep(Duration::from_millis(20));
            }
        });
        scope.spawn(|| {
            while !over.load(Relaxed) {
                let names = layout::names(&images).unwrap_or_else(|why| {
                    over.store(true, Relaxed);
                    panic!("a reader saw: {why}")
                });
                assert!(names.contains_key("docker.io/library/old:latest"));
                reads.fetch_add(1, Relaxed);
                thread::sleep(Duration::from_millis(1));
            }
        });
        scope.spawn(|| {
            let start = Instant::now();
            while !over.load(Relaxed)
                && (start.elapsed() < time
                    || pruned.load(Relaxed) < blobs
                    || reads.load(Relaxed) < looks)
            {
                thread::sleep(Duration::from_millis(10));
            }
            fs::write(&end, "").unwrap();
        });
        let done = panic::catch_unwind(AssertUnwindSafe(|| t.sh(&script)));
        over.store(true, Relaxed); // or the others would never end
        done.unwrap_or_else(|why| panic::resume_unwind(why)).exits(0);
    });
    t.sh("cat errors.*").is_silent();
    pruned.fetch_add(prune(&images, &pause), Relaxed);

    let names = layout::sound(&images).unwrap();
    let list = t.sh("cat names.* | sort -u").text();
    for name in list.lines() {
        let full =
            if name.contains('/') { name.to_owned() } else { format!("docker.io/library/{name}") };
        assert!(names.contains_key(&full), "{name} is lost: {names:?}");
    }
    assert_eq!(names["docker.io/library/old:latest"], busybox().digest);
    assert!(layout::stale(&images).is_empty(), "{:?}", layout::stale(&images));
    let rounds: usize =
        t.sh("cat rounds").text().lines().map(|line| line.parse::<usize>().unwrap()).sum();
    let (pruned, reads) = (pruned.into_inner(), reads.into_inner());
    let text = format!(
        "faults: {WRITERS} writers for {} s: {rounds} images, {} names kept, {pruned} blobs pruned, {reads} reads\n",
        time.as_secs(),
        list.lines().count()
    );
    let _ = std::io::stderr().write_all(text.as_bytes());
    assert!(rounds >= WRITERS * least && reads >= looks && pruned >= blobs, "{text}");
}

#[test]
fn writers_readers_and_a_prune_lose_nothing() {
    crowd(Duration::from_secs(3));
}

mod soak {
    #[test]
    fn writers_readers_and_a_prune_lose_nothing_in_a_minute() {
        super::crowd(std::time::Duration::from_secs(60));
    }
}
