//! img-unpack: an image as a bundle.

use sandbox::image::{Image, PACK, busybox, busybox_layer};
use sandbox::{Sandbox, lacks};
use serde_json::json;

#[test]
fn a_bundle_is_a_tree_and_how_to_run_it() {
    let t = Sandbox::with_image("app:v1");
    t.sh("img-unpack app:v1 out").prints("./out\n");
    t.sh("ls -A out; ls -A out/rootfs | tr '\\n' ' '")
        .prints("config.json\nrootfs\nbin etc home root tmp var ");
    t.sh("jq -r '.root.path, .process.args[], .process.cwd' out/config.json")
        .prints("rootfs\nsh\n/\n");
    t.sh("stat -c '%a %U' out out/rootfs/root out/rootfs/tmp | tr '\\n' ' '")
        .prints(&format!("700 {u} 700 {u} 1777 {u} ", u = user()));
    t.sh("stat -c %h out/rootfs/bin/sh | grep -qv '^1$'; cmp out/rootfs/bin/ls $(command -v busybox)").is_silent();
}

/// Returns the name of the user who runs the tests.
fn user() -> String {
    nix::unistd::User::from_uid(nix::unistd::geteuid()).unwrap().unwrap().name
}

#[test]
fn a_bare_tree_is_just_that() {
    let t = Sandbox::with_image("app:v1");
    t.sh("img-unpack --rootfs app:v1 ./tree").prints("./tree\n");
    t.sh("ls -A tree | tr '\\n' ' '").prints("bin etc home root tmp var ");
}

#[test]
fn the_pipeline_is_read() {
    let t = Sandbox::with_image("app:v1");
    t.sh("img-ls -q | img-unpack - \"$PWD/out put\"")
        .prints(&format!("{}/out put\n", t.path("work").display()));
    t.sh("false | img-unpack - x")
        .fails("img-unpack: no image on stdin: did the command before this one fail?\n");
    t.sh("ls").prints("out put\n");
}

#[test]
fn a_directory_with_something_in_it_is_refused() {
    let t = Sandbox::with_image("app:v1");
    t.sh("mkdir out; echo mine >out/file; img-unpack app:v1 out").fails(
        "img-unpack: out: not empty\n\
         hint: it takes a directory that is empty, or that does not exist yet\n",
    );
    t.sh("cat out/file; rm out/file; img-unpack app:v1 out").prints("mine\n./out\n");
    t.sh("img-unpack app:v1 a:b").exits(2);
}

#[test]
fn what_fails_leaves_nothing_behind() {
    let t = Sandbox::new();
    let layer = format!("echo second >second; {PACK}");
    let image = Image::new(&[&busybox_layer(), &layer], &json!({}));
    t.store(&image, "app:v1");
    let last = image.manifest()["layers"][1]["digest"].as_str().unwrap().replace(':', "/");
    t.sh(&format!("cd $TARE_ROOT/images/blobs; chmod u+w {last}; printf X | dd of={last} bs=1 seek=30 conv=notrunc 2>/dev/null")).is_silent();
    let run = t.sh("img-unpack app:v1 out").exits(1).says("app:v1");
    assert!(run.stdout.is_empty());
    t.sh("ls -A").prints("");
    t.sh("mkdir out; img-unpack app:v1 out 2>/dev/null; ls -A out").prints("");
}

#[test]
fn an_upper_layer_removes_and_replaces() {
    let t = Sandbox::new();
    let lower = format!("mkdir a b c; echo 1 >a/1; echo 2 >a/2; echo 3 >b/3; echo 4 >c/4; {PACK}");
    let upper = format!(
        "mkdir a b; : >a/.wh.1; : >b/.wh..wh..opq; echo 5 >b/5; : >.wh.c; ln -s a d; {PACK}"
    );
    t.store(&Image::new(&[&lower, &upper], &json!({})), "app:v1");
    t.sh("img-unpack --rootfs app:v1 out").prints("./out\n");
    t.sh("cd out; find . | sort | tr '\\n' ' '").prints(". ./a ./a/2 ./b ./b/5 ./d ");
}

#[test]
fn a_user_with_subordinate_ids_keeps_owners_apart() {
    if lacks(&["root", "newuidmap"]) {
        return;
    }
    let owned = "mkdir d; echo x >d/root; echo y >d/app; chown 1000:50 d/app
        tar --sort=name --mtime=@0 --numeric-owner -c .";
    let t = Sandbox::new().as_user();
    t.store(&Image::new(&[&busybox_layer(), owned], &json!({})), "app:v1");
    t.sh("img-unpack app:v1 out").prints("./out\n");
    t.sh("stat -c '%U' out/rootfs/d/root").prints("tare-test\n");
    let first = "$(awk -F: '$1 == \"tare-test\" { print $2; exit }' /etc/subuid)";
    t.sh(&format!("test $(stat -c %u out/rootfs/d/app) = $(({first} + 999))")).is_silent();
    t.sh("unshare --map-root-user --map-auto rm -r out").is_silent();
}

#[test]
fn the_fixture_is_unpacked_as_tar_does() {
    let t = Sandbox::with_image("app:v1");
    let layer = busybox().manifest()["layers"][0]["digest"].as_str().unwrap().replace(':', "/");
    t.sh("img-unpack --rootfs app:v1 ours").prints("./ours\n");
    t.sh(&format!("mkdir tars; tar -C tars -xpzf $TARE_ROOT/images/blobs/{layer}")).is_silent();
    let list = "find . -printf '%P %y %m %U:%G %n %T@ %l\\n' | sort";
    t.sh(&format!("(cd ours; {list}) >1; (cd tars; {list}) >2; diff 1 2; diff -r ours tars"))
        .is_silent();
}
