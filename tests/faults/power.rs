//! A disk that loses its power: what a tool said is there is there.
//!
//! The disk is an ext4 in a file. It is shut down at once, its journal unwritten, and
//! mounted again, as it is after a power cut: what was not synced is gone.

use std::io::Write;
use std::time::{Duration, Instant};

use sandbox::disk::Disk;
use sandbox::image::{Image, PACK, busybox};
use sandbox::{Sandbox, lacks};
use serde_json::json;

use super::layout;

/// How long the power is cut again and again, at other moments.
const TIME: Duration = Duration::from_secs(8);

fn cannot() -> bool {
    lacks(&["root", "mount", "losetup", "mkfs.ext4", "perl"])
}

/// Files of all sizes, in two layers, the second of which hides some.
fn image() -> Image {
    let first = format!(
        "mkdir -p a/b; seq 50000 >a/large; for i in $(seq 60); do echo $i >a/b/$i; done; {PACK}"
    );
    let second =
        format!("mkdir -p a/b c; touch a/b/.wh.7; ln -s /a c/link; seq 9000 >c/medium; {PACK}");
    Image::new(&[&first, &second], &json!({ "Cmd": ["sh"] }))
}

/// Makes a disk, with TARE_ROOT and the working directory `$DISK/work` on it.
fn disk(t: &Sandbox) -> Disk {
    let disk = Disk::ext4(&t.path("disk"), 64);
    t.set("DISK", disk.path());
    t.set("TARE_ROOT", disk.path().join("tare"));
    t.sh("mkdir $DISK/work").is_silent();
    disk
}

/// Puts an image into the store on the disk, and onto the disk.
fn store(t: &Sandbox, image: &Image, name: &str) {
    t.store(image, name);
    t.sh("mkdir -p $TARE_ROOT && cp -a $DISK/../tare/. $TARE_ROOT/ && sync -f $DISK").is_silent();
}

#[test]
fn what_was_pulled_and_named_is_there() {
    if cannot() || lacks(&["docker-registry"]) {
        return;
    }
    let t = Sandbox::new().with_registry();
    t.registry().add(&image(), "app", "1");
    let disk = disk(&t);
    let name = format!("{}/app:1", t.registry().address());
    // The first makes the store, the others find blobs that are there already.
    for (command, expected) in [
        (format!("img-pull -q {name}"), name.clone()),
        (format!("img-tag {name} again"), "docker.io/library/again:latest".into()),
        (
            "mkdir t; seq 30000 >t/x; tar -C t -c . | img-import - new".into(),
            "docker.io/library/new:latest".into(),
        ),
        (format!("img-pull -q --layout ./mine {name}"), name.clone()),
        (
            "printf 'FROM again\\nCOPY x /x\\nADD x /y\\n' >t/Dockerfile; img-build -q -t built t"
                .into(),
            "docker.io/library/built:latest".into(),
        ),
    ] {
        let said = t.sh(&format!("cd $DISK/work; {command}")).text();
        disk.cut_power();
        disk.restart();
        let mine = command.contains("--layout");
        let dir = disk.path().join(if mine { "work/mine" } else { "tare/images" });
        let names = layout::sound(&dir).unwrap_or_else(|why| panic!("{command}: {why}"));
        let digest = said.trim().rsplit_once('@').unwrap().1;
        assert_eq!(names.get(&expected).map(String::as_str), Some(digest), "{command}: {names:?}");
    }
}

#[test]
fn what_was_unpacked_is_there() {
    if cannot() {
        return;
    }
    let t = Sandbox::new();
    let disk = disk(&t);
    store(&t, &image(), "app");
    for command in
        ["img-unpack app out", "img-unpack --rootfs app tree", "mkdir empty; img-unpack app empty"]
    {
        t.sh(&format!(
            "cd $DISK/work; {command} >$TMPDIR/said; cd $TMPDIR; img-unpack app good >/dev/null"
        ))
        .is_silent();
        disk.cut_power();
        disk.restart();
        t.sh(r"look() { find $1 -mindepth 1 -printf '%P %y %m %U:%G %l' \( -type f -printf ' %s' -o -true \) -printf '\n' | sort; }
            cd $DISK/work; said=$(cat $TMPDIR/said); if test -d $said/rootfs; then said=$said/rootfs; fi
            look $said >$TMPDIR/a
            cd $TMPDIR/good/rootfs; look . >$TMPDIR/b
            cmp $TMPDIR/a $TMPDIR/b && diff -r --no-dereference $DISK/work/$said .; rm -r $TMPDIR/*")
            .is_silent();
    }
}

/// Cuts the power while `command` runs, at ever other moments, and looks at what is there.
fn cut_while(t: &Sandbox, disk: &Disk, command: &str, judge: &dyn Fn(&str)) {
    let took = {
        let start = Instant::now();
        t.sh(&format!("cd $DISK/work; {command}")).exits(0);
        start.elapsed()
    };
    t.sh("sync -f $DISK").is_silent();
    let start = Instant::now();
    let mut cuts: u32 = 0;
    // Moments between the start and the end, none of them twice.
    let golden = 0.618_033_988_75;
    while start.elapsed() < TIME || cuts < 5 {
        cuts += 1;
        let moment = took.mul_f64((f64::from(cuts) * golden).fract() * 1.1);
        let mut running =
            t.command(&format!("cd $DISK/work; {{ {command}\n}} >$TMPDIR/said 2>/dev/null"));
        let mut running = running.spawn().unwrap();
        std::thread::sleep(moment);
        disk.cut_power();
        let _ = running.wait(); // everything fails from now on, so it ends
        disk.restart();
        let said = std::fs::read_to_string(t.path("tmp/said")).unwrap_or_default();
        judge(&said);
        // It repairs what there is to repair.
        t.sh(&format!("cd $DISK/work; {command}")).exits(0);
        judge("");
    }
    t.sh("rm -f $TMPDIR/said").is_silent();
    let text = format!("faults: {command}: {cuts} power cuts\n");
    let _ = std::io::stderr().write_all(text.as_bytes());
}

#[test]
fn a_cut_while_images_come_and_go_loses_none_that_was_there() {
    if cannot() || lacks(&["docker-registry"]) {
        return;
    }
    let t = Sandbox::new().with_registry();
    t.registry().add(&image(), "app", "1");
    let disk = disk(&t);
    store(&t, busybox(), "old");
    t.sh("cd $DISK/work; mkdir t; seq 40000 >t/x; tar -C t -cf x.tar .; sync -f .").is_silent();
    // Each time another image: what was there already would not be written.
    let command = "cat /proc/sys/kernel/random/uuid >t/id; tar -C t -cf x.tar . && img-import x.tar new && img-tag new tagged
        rm -rf mine; img-pull -q --layout ./mine $REGISTRY/app:1";
    cut_while(&t, &disk, command, &|said| {
        let names = layout::sound(&disk.path().join("tare/images")).unwrap();
        assert!(names.contains_key("docker.io/library/old:latest"), "{names:?}");
        for line in said.lines() {
            let (name, digest) = line.split_once('@').unwrap();
            if name.starts_with("./mine") {
                let mine = layout::sound(&disk.path().join("work/mine")).unwrap();
                assert!(mine.values().any(|it| it == digest), "{line}: {mine:?}");
            } else {
                let full = format!("docker.io/library/{name}");
                assert_eq!(names.get(&full).map(String::as_str), Some(digest), "{said}");
            }
        }
    });
}

#[test]
fn a_cut_while_a_container_starts_leaves_layers_that_are_whole() {
    if cannot() {
        return;
    }
    let t = Sandbox::new();
    let disk = disk(&t);
    store(&t, busybox(), "old");
    let command = "rm -rf gone; mv $TARE_ROOT/layers gone; rm -rf gone; ctr-spawn --rm old sh -c 'cd /bin && md5sum busybox ls sh | md5sum'";
    t.sh("mkdir -p $TARE_ROOT/layers").is_silent();
    let good = t.sh(&format!("cd $DISK/work; {command}")).text();
    cut_while(&t, &disk, command, &|_| {
        // With what layers there are now.
        t.sh("cd $DISK/work; ctr-spawn --rm old sh -c 'cd /bin && md5sum busybox ls sh | md5sum'")
            .prints(&good);
    });
}

/// Else the tests above could not fail.
#[test]
fn what_is_not_synced_is_lost() {
    if cannot() || lacks(&["strace"]) {
        return;
    }
    let t = Sandbox::new();
    let disk = disk(&t);
    store(&t, busybox(), "old");
    t.sh("cd $DISK/work; strace -f -qq -o /dev/null -e trace=fsync -e inject=fsync:retval=0 img-tag old new >/dev/null
        strace -f -qq -o /dev/null -e trace=fsync,syncfs -e inject=fsync,syncfs:retval=0 img-unpack old out")
        .prints("./out\n");
    disk.cut_power();
    disk.restart();
    let names = layout::names(&disk.path().join("tare/images")).unwrap();
    assert!(!names.contains_key("docker.io/library/new:latest"), "{names:?}");
    t.sh("test -e $DISK/work/out").exits(1);
}
