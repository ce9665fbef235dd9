//! Disks that are full: of bytes, and of files.
//!
//! The room grows from none at all to enough, in steps that are smaller than what the
//! tool writes at any time, so that it runs out of it everywhere.

use std::collections::BTreeSet;
use std::io::Write;

use sandbox::disk::Disk;
use sandbox::image::{Image, PACK, busybox};
use sandbox::{Sandbox, lacks};
use serde_json::json;

use super::layout;

/// How many steps there are at least on the way to enough.
const STEPS: u64 = 24;
/// A page, which is what a tmpfs gives out.
const PAGE: u64 = 4096;

/// What a disk is short of.
#[derive(Clone, Copy, PartialEq)]
enum Short {
    Bytes,
    Files,
}

/// A tool that fills a disk.
struct Filler<'a> {
    command: &'a str,
    status: i32,
    /// What it leaves in the working directory when it has succeeded.
    result: &'a str,
}

impl Filler<'_> {
    /// Runs the tool with ever more room, until it has enough; returns how often it had not.
    fn fill(&self, t: &Sandbox, short: Short) -> usize {
        let disk = Disk::tmpfs(&t.path("disk"), "mode=755");
        t.set("DISK", disk.path());
        let store = format!("{}/tare", disk.path().display());
        let run =
            |script: &str| t.sh(&format!("export TARE_ROOT={store}; cd $DISK/work; {script}"));
        let used = || -> u64 {
            let column = if short == Short::Bytes { "used" } else { "iused" };
            let text = run(&format!("df -B{PAGE} --output={column} $DISK | tail -1")).text();
            text.trim().parse().unwrap()
        };
        let limit = |room: u64| {
            disk.remount(&match short {
                Short::Bytes => format!("size={}", room * PAGE),
                Short::Files => format!("nr_inodes={room}"),
            });
        };
        t.sh("cp -a $TARE_ROOT $DISK/ && cp -a . $DISK/work").is_silent();
        let before = used();
        let earlier = layout::sound(&disk.path().join("tare/images")).unwrap();

        // How much it takes is found out by trying.
        run(self.command).exits(0);
        let needed = used() - before;
        let clean = format!("rm -rf $TARE_ROOT {}; cp -a $DISK/../tare $TARE_ROOT", self.result);
        run(&clean).is_silent();

        let (mut room, mut failed) = (0, 0);
        let step = (needed / STEPS).max(1);
        loop {
            limit(before + room);
            let done = run(self.command);
            let sound = layout::sound(&disk.path().join("tare/images"));
            let names = sound.unwrap_or_else(|why| panic!("{} with {room}: {why}", self.command));
            let lost: BTreeSet<_> =
                earlier.keys().filter(|name| !names.contains_key(*name)).collect();
            assert!(lost.is_empty(), "{} with {room}: lost {lost:?}", self.command);
            if done.code == 0 {
                break;
            }
            failed += 1;
            done.exits(self.status).says("No space left on device");
            let left = run(&format!("ls -d {} 2>/dev/null; ls -A $TMPDIR; :", self.result)).text();
            assert!(left.is_empty(), "{} with {room}: left {left}", self.command);
            room += step;
            assert!(room <= 4 * needed + 256, "{}: {room} is not enough", self.command);
        }
        // As if nothing had happened; and again, where it did not fit.
        run(&clean).is_silent();
        limit(before + room / 2);
        run(self.command).exits(self.status).says("No space left on device");
        limit(before + 4 * needed + 256);
        run(self.command).exits(0);
        layout::sound(&disk.path().join("tare/images")).unwrap();
        let stale = layout::stale(&disk.path().join("tare/images"));
        assert!(stale.is_empty(), "{}: left {stale:?}", self.command);
        failed + 1
    }

    fn fill_both(&self, t: &Sandbox) {
        let failed = [Short::Bytes, Short::Files].map(|short| self.fill(t, short));
        let text = format!(
            "faults: {}: a disk full of bytes {} times, of files {} times\n",
            self.command, failed[0], failed[1]
        );
        let _ = std::io::stderr().write_all(text.as_bytes());
        assert!(failed[0] > 3 && failed[1] > 1, "{text}");
    }
}

fn cannot() -> bool {
    lacks(&["root", "mount"])
}

/// An image of several layers with files of all sizes.
fn image() -> Image {
    let layer = |n: u32| {
        format!(
            "mkdir d{n}; seq {n}0000 >d{n}/large; for i in $(seq {n}0); do echo $i >d{n}/$i; done; {PACK}"
        )
    };
    Image::new(&[&layer(1), &layer(2), &layer(3)], &json!({ "Cmd": ["sh"] }))
}

#[test]
fn img_pull() {
    if cannot() || lacks(&["docker-registry"]) {
        return;
    }
    let t = Sandbox::new().with_registry();
    t.store(busybox(), "old");
    t.registry().add(&image(), "app", "1");
    let command = "img-pull -q --retry 0 $REGISTRY/app:1";
    Filler { command, status: 1, result: "none" }.fill_both(&t);
}

#[test]
fn img_import() {
    if cannot() {
        return;
    }
    let t = Sandbox::with_image("old");
    t.sh("mkdir tree; seq 90000 >tree/large; tar -C tree -cf x.tar .").is_silent();
    Filler { command: "img-import x.tar new", status: 1, result: "none" }.fill_both(&t);
}

#[test]
fn img_tag() {
    if cannot() {
        return;
    }
    let t = Sandbox::with_image("old");
    // A name is a few bytes: the disk runs out of pages for many.
    let command =
        "for i in $(seq 200); do img-tag old name-of-the-image:$i >/dev/null || exit 1; done";
    let filler = Filler { command, status: 1, result: "none" };
    let failed = filler.fill(&t, Short::Bytes);
    assert!(failed > 3, "{failed}");
}

#[test]
fn img_unpack() {
    if cannot() {
        return;
    }
    let t = Sandbox::new();
    t.store(&image(), "old");
    Filler { command: "img-unpack old out", status: 1, result: "out .img-unpack-*" }.fill_both(&t);
}

#[test]
fn ctr_spawn() {
    if cannot() {
        return;
    }
    let t = Sandbox::with_image("old");
    let result = "$TARE_ROOT/layers/.*.tmp $TARE_ROOT/containers/[0-9a-f]*";
    Filler { command: "ctr-spawn --rm old true", status: 125, result }.fill_both(&t);
}

#[test]
fn img_save() {
    if cannot() {
        return;
    }
    let t = Sandbox::new();
    t.store(&image(), "old");
    Filler { command: "img-save -o image.tar old", status: 1, result: "image.tar" }.fill_both(&t);
}

#[test]
fn img_load() {
    if cannot() {
        return;
    }
    let t = Sandbox::new();
    t.store(&image(), "new");
    t.store(busybox(), "old");
    t.sh("img-save -o x.tar new && img-rm -f new >out; rm out").is_silent();
    Filler { command: "img-load -q -i x.tar", status: 1, result: "none" }.fill_both(&t);
}

#[test]
fn img_build() {
    if cannot() {
        return;
    }
    let t = Sandbox::with_image("old");
    t.sh("mkdir c; seq 60000 >c/large; tar -C /etc -cf c/x.tar hosts hostname").is_silent();
    t.write(
        "c/Dockerfile",
        "FROM old AS one\nRUN seq 50000 >/a; for i in $(seq 50); do echo $i >/$i; done\nCOPY large /b\n\
         FROM old\nADD x.tar /x\nCOPY --from=one /a /b /c/\n",
    );
    let result = "id $TARE_ROOT/layers/.*.tmp $TARE_ROOT/containers/.build/[0-9a-f]*";
    Filler { command: "img-build -q -t new --iidfile id c", status: 1, result }.fill_both(&t);
}

#[test]
fn img_rm_says_how_to_make_room() {
    if cannot() {
        return;
    }
    let t = Sandbox::with_image("old");
    let disk = Disk::tmpfs(&t.path("disk"), "mode=755,size=32m");
    t.set("DISK", disk.path());
    t.sh("cp -a $TARE_ROOT $DISK/tare").is_silent();
    let run = |script: &str| t.sh(&format!("export TARE_ROOT=$DISK/tare; {script}"));
    run("img-ls -q >names; cat /dev/zero >$DISK/fill 2>said; img-rm old")
        .exits(1)
        .says("No space left on device")
        .says(&format!("hint: rm -r {}/tare/cache makes room", disk.path().display()));
    run("rm -r $TARE_ROOT/cache; img-rm old").prints("old\n");
}
