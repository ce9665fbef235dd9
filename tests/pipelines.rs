//! Whole jobs: what one program prints is what the next one reads.

use sandbox::image::{Image, PACK, busybox, busybox_layer};
use sandbox::{Sandbox, lacks};
use serde_json::json;

/// Returns an image of three layers, the last of which runs: `answer` adds what the two others say.
fn layered() -> Image {
    let second = format!("mkdir etc; echo 40 >etc/one; echo 7 >etc/two; {PACK}");
    let third = format!(
        "mkdir bin etc; echo 2 >etc/two
        printf '#!/bin/sh\\necho $(($(cat /etc/one) + $(cat /etc/two)))\\n' >bin/answer
        chmod 755 bin/answer; {PACK}"
    );
    Image::new(&[&busybox_layer(), &second, &third], &json!({ "Cmd": ["answer"] }))
}

/// Runs `test` in a sandbox of root's and in one of an ordinary user; started by the latter, twice as the latter.
fn of_either_user(make: impl Fn() -> Sandbox, test: impl Fn(Sandbox)) {
    test(make());
    test(make().as_user());
}

/// Returns a sandbox with a registry that holds `layered` as `app:1`.
fn with_registry() -> Sandbox {
    let t = Sandbox::new().with_registry();
    t.registry().add(&layered(), "app", "1");
    t
}

#[test]
fn what_is_pulled_runs() {
    if lacks(&["docker-registry"]) {
        return;
    }
    of_either_user(with_registry, |t| {
        t.sh("img-pull -q $REGISTRY/app:1 | ctr-spawn --rm -").prints("42\n");
        t.sh("img-pull -q $REGISTRY/app:1 | ctr-spawn --rm - cat /etc/two").prints("2\n");
        t.sh("{ img-pull -q $REGISTRY/app:1; seq 1000; } | ctr-spawn --rm -i - wc -l")
            .prints("1000\n");
        t.sh("img-pull -q $REGISTRY/none:1 2>/dev/null | ctr-spawn --rm - true").outputs(
            "",
            "ctr-spawn: no image on stdin: did the command before this one fail?\n",
            125,
        );
    });
}

#[test]
fn an_image_that_is_not_here_is_pulled_once() {
    if lacks(&["docker-registry"]) {
        return;
    }
    of_either_user(with_registry, |t| {
        let requests = || t.registry().requests().len();
        t.sh("ctr-spawn --rm --pull never $REGISTRY/app:1").exits(125);
        assert_eq!(requests(), 0);
        assert_eq!(t.sh("ctr-spawn --rm $REGISTRY/app:1").text(), "42\n");
        let first = requests();
        assert!(first > 0);
        t.sh("ctr-spawn --rm $REGISTRY/app:1").prints("42\n");
        t.sh("ctr-spawn --rm --pull never $REGISTRY/app:1").prints("42\n");
        assert_eq!(requests(), first);

        t.registry().add(busybox(), "app", "1");
        t.sh("ctr-spawn --rm $REGISTRY/app:1").prints("42\n");
        let run = t.sh("ctr-spawn --rm --pull always $REGISTRY/app:1 echo new");
        assert_eq!(run.text(), "new\n");
        t.sh("ctr-spawn --rm $REGISTRY/app:1 answer").exits(127);
    });
}

#[test]
fn a_root_file_system_becomes_an_image_that_runs() {
    let with_rootfs = || {
        let t = Sandbox::new();
        t.sh(&format!("mkdir tree; cd tree; {} >../rootfs.tar", busybox_layer())).is_silent();
        t.sh("gzip -kn rootfs.tar").is_silent();
        t
    };
    of_either_user(with_rootfs, |t| {
        t.sh("tar -C tree -c . | img-import -c 'CMD [\"echo\", \"hello\"]' - base | ctr-spawn --rm -")
            .prints("hello\n");
        t.sh("img-import rootfs.tar.gz base | ctr-spawn --rm - stat -c '%u %a' /root /tmp")
            .prints("0 700\n0 1777\n");
    });
}

#[test]
fn a_bundle_is_what_the_image_was() {
    of_either_user(
        || {
            let t = Sandbox::new();
            t.store(&layered(), "app");
            t
        },
        |t| {
            t.sh("dir=$(img-unpack app bundle) && ctr-spawn --bundle $dir").prints("42\n");
            t.sh("echo 3 >bundle/rootfs/etc/two; ctr-spawn --bundle bundle").prints("43\n");
            t.sh("ctr-spawn --rm app; ctr-spawn --rootfs bundle/rootfs answer").prints("42\n43\n");
            // Some of it may belong to subordinate ids.
            t.sh("rm -rf bundle || unshare --map-root-user --map-auto rm -rf bundle").is_silent();
        },
    );
}

#[test]
fn nothing_copies_what_goes_through_a_container() {
    of_either_user(
        || Sandbox::with_image("app"),
        |t| {
            t.sh("head -c 100M /dev/zero | ctr-spawn --rm -i --network none app cat | wc -c")
                .prints("104857600\n");
            // The pipes are the caller's own.
            t.sh("echo | { readlink /proc/self/fd/0; ctr-spawn --rm -i app readlink /proc/self/fd/0; } | uniq | wc -l")
                .prints("1\n");
            t.sh("for fd in 1 2; do readlink /proc/self/fd/$fd; ctr-spawn --rm app readlink /proc/self/fd/$fd; done 2>&1 | uniq | wc -l")
                .prints("1\n");
            // A file is written where the caller's descriptor stands.
            t.sh("{ echo one; ctr-spawn --rm app echo two; echo three; } >out; cat out")
                .prints("one\ntwo\nthree\n");
            t.sh("printf 'one\\ntwo\\nthree\\n' >in; { read x; ctr-spawn --rm -i app head -n 1; cat; } <in")
                .prints("two\nthree\n");
        },
    );
}

#[test]
fn a_loop_sees_every_line() {
    of_either_user(
        || Sandbox::with_image("app"),
        |t| {
            t.sh("seq 10 >list; while read x; do ctr-spawn --rm app echo $x; done <list")
                .prints("1\n2\n3\n4\n5\n6\n7\n8\n9\n10\n");
        },
    );
}

#[test]
fn make_runs_steps_beside_each_other() {
    if lacks(&["make"]) {
        return;
    }
    let t = Sandbox::new();
    t.sh(&format!("mkdir tree; cd tree; {} >../rootfs.tar", busybox_layer())).is_silent();
    t.write(
        "Makefile",
        "all: $(foreach n,1 2 3 4 5 6,$(n).out)\n\
         \tcat $(sort $^)\n\
         %.ref: rootfs.tar\n\
         \timg-import $< app:$* >$@\n\
         %.out: %.ref\n\
         \tctr-spawn --rm - echo $* <$< >$@\n",
    );
    t.sh("make -s -j4").prints("1\n2\n3\n4\n5\n6\n");
}
