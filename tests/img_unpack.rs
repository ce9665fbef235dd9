//! img-unpack: an image as a bundle.

use sandbox::image::{Image, PACK, busybox, busybox_layer};
use sandbox::{Sandbox, lacks};
use serde_json::json;

/// Prints all that is to be compared of the tree `$1`: but for the times of its root, which belong to who made it.
const LOOK: &str = r#"
    look() { (
        cd "$1"
        find . -printf '%P %y %m %U:%G %l' \( -type d -o -printf ' %s %n' \) \
            \( -path . -printf '\n' -o -printf ' %T@\n' \) | sort
        find . \( -type b -o -type c \) -exec stat -c '%n %t:%T' {} + | sort
        getfattr -Rhd -m "${xattrs:--}" . | sort
        find . -type f -exec sha256sum {} + | sort
    ) }
"#;

/// Layers that use and hide what is below them, with one of each thing that a tar can hold. They need root.
fn intricate() -> Image {
    let pack = "tar --sort=name --numeric-owner --format=pax --xattrs --xattrs-include=* -c .";
    let second = format!(
        r"mkdir -p etc/new opt usr/share/deep/er var/lib/gone
        echo hello >etc/motd; setfattr -n user.key -v value etc/motd; ln -s /etc opt/etc
        echo a >usr/share/a; ln usr/share/a usr/share/deep/b; chown 100:200 usr/share/a; chmod 4755 usr/share/a
        cp /bin/true opt/capable; setcap cap_net_raw+ep opt/capable
        mkfifo opt/fifo; mknod opt/null c 1 3; mknod opt/disk b 7 99
        truncate -s 1M opt/sparse; ln -s nowhere opt/dangling; chown -h 5:6 opt/dangling
        touch -d '2001-02-03 04:05:06.789' etc/new; chmod 1777 var/lib/gone; chown 1000:1000 var/lib
        echo x >var/lib/gone/x; touch var/.wh.none; {pack}"
    );
    let third = format!(
        r"mkdir -p etc opt usr/share/deep var/lib bin
        touch var/lib/.wh.gone bin/.wh.sh usr/share/deep/.wh..wh..opq; echo only >usr/share/deep/only
        echo file >opt/disk; mkdir opt/dangling; echo in >opt/dangling/in; ln -s deep usr/share/link
        rm -rf home; echo 'a file' >home; chmod 711 etc; {pack}"
    );
    // Its one entry goes through the links of two layers.
    let fourth = "mkdir -p opt/etc usr/share/link; echo through >opt/etc/through; echo link >usr/share/link/through
        tar --numeric-owner --owner=7 --group=8 -c opt/etc/through usr/share/link/through";
    Image::new(&[&busybox_layer(), &second, &third, fourth], &json!({ "Cmd": ["sh"] }))
}

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
fn a_user_unpacks_an_archive() {
    if lacks(&["root", "newuidmap", "bzip2"]) {
        return;
    }
    let t = Sandbox::with_image("app:v1").as_user();
    t.sh("tar -C $TARE_ROOT/images -cf app.tar . && bzip2 -k app.tar").is_silent();
    t.sh("img-unpack ./app.tar a; img-unpack - b <app.tar; img-unpack - c <app.tar.bz2")
        .prints("./a\n./b\n./c\n");
    t.sh("diff -r a b; diff -r a c; unshare --map-root-user --map-auto rm -r a b c").is_silent();
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

#[test]
fn a_bare_tree_has_the_mode_that_the_image_says() {
    let t = Sandbox::with_image("app");
    t.sh("img-unpack --rootfs app tree && stat -c %a tree && ls -A . tree | head -3")
        .prints("./tree\n755\n.:\ntree\n\n");
}

#[test]
fn an_empty_directory_is_used_as_it_is() {
    let t = Sandbox::with_image("app");
    t.sh("mkdir -m 750 a b; i=$(stat -c %i a); img-unpack app a; img-unpack --rootfs app ./b
          [ $i = $(stat -c %i a) ] && stat -c %a a && ls a && cat b/etc/passwd | wc -l")
        .prints("./a\n./b\n750\nconfig.json\nrootfs\n2\n");
}

#[test]
fn of_two_into_one_empty_directory_the_second_leaves_it_to_the_first() {
    let t = Sandbox::with_image("app");
    for (option, listed) in [("", "config.json\nrootfs\n"), ("--rootfs", "bin\netc\n")] {
        // The cache is made when the place is taken, before the image's name is read.
        t.sh(&format!(
            "rm -rf out in $TARE_ROOT/cache; mkdir out; mkfifo in
             img-unpack {option} - out <in & exec 3>in
             until [ -d $TARE_ROOT/cache ]; do sleep 0.01; done
             img-unpack {option} app out 3>&-; echo $?
             echo app >&3; exec 3>&-; wait; ls out | head -n 2"
        ))
        .outputs(
            &format!("1\n./out\n{listed}"),
            "img-unpack: out: another img-unpack is unpacking there\n",
            0,
        );
    }
}

#[test]
fn what_is_there_is_not_touched() {
    let t = Sandbox::with_image("app");
    let hint = "hint: it takes a directory that is empty, or that does not exist yet\n";
    t.sh("mkdir d; touch d/file; img-unpack app d")
        .fails(&format!("img-unpack: d: not empty\n{hint}"));
    t.sh("touch file; img-unpack app file").fails("img-unpack: file: not a directory\n");
    t.sh("ln -s /nowhere link; img-unpack app link")
        .fails("img-unpack: link: File exists (os error 17)\n");
    t.sh("img-unpack app no/such")
        .fails("img-unpack: no: No such file or directory (os error 2)\n");
    t.sh("ls -A . d").prints(".:\nd\nfile\nlink\n\nd:\nfile\n");
}

#[test]
fn a_name_that_no_operand_can_hold_is_refused() {
    let t = Sandbox::with_image("app");
    for name in ["a:b", "a@b", "$(printf 'a\\nb')"] {
        t.sh(&format!("img-unpack app \"{name}\"")).says("hint: ").exits(2);
    }
    t.sh("ls -A").is_silent();
}

#[test]
fn a_layer_that_is_corrupt_leaves_nothing() {
    let t = Sandbox::with_image("app");
    t.sh("cd $TARE_ROOT/images/blobs/sha256; for f in *; do [ $(stat -c %s $f) -lt 100000 ] || blob=$f; done
          printf x | dd of=$blob bs=1 seek=50000 conv=notrunc status=none")
        .is_silent();
    t.sh("mkdir -m 711 empty; img-unpack app new").says("layer sha256:").exits(1);
    t.sh("img-unpack app empty").exits(1);
    t.sh("img-unpack --rootfs app empty").exits(1);
    t.sh("ls -A . empty; stat -c %a empty").prints(".:\nempty\n\nempty:\n711\n");
}

#[test]
fn a_layer_that_is_corrupt_can_be_had_anew() {
    let t = Sandbox::with_image("app");
    let layer = busybox().manifest()["layers"][0]["digest"].as_str().unwrap().to_owned();
    let path = t.path("tare/images/blobs").join(layer.replace(':', "/"));
    // Its last byte: all of the tar is there, and gzip's checksum is wrong.
    t.sh(&format!(
        "img-save -o app.tar app; blob={path}; chmod u+w $blob
         printf x | dd of=$blob bs=1 seek=$(($(stat -c %s $blob) - 1)) conv=notrunc status=none",
        path = path.display()
    ))
    .is_silent();
    let hint = format!("hint: rm {}, and pull or load the image again\n", path.display());
    t.sh("img-unpack app new").exits(1).says("corrupt: it hashes to sha256:").says(&hint);
    t.sh("ctr-spawn --rm app true").exits(125).says(&hint);
    t.sh(&format!("rm -f {}; img-load -i app.tar >line; img-unpack app new", path.display()))
        .prints("./new\n");
}

#[test]
fn an_interrupt_leaves_nothing() {
    let t = Sandbox::new();
    let zeros = format!("head -c 400M /dev/zero >zeros; {PACK}");
    t.store(&Image::new(&[&zeros], &json!({})), "zeros");
    for (signal, status) in [("INT", 130), ("TERM", 143)] {
        for place in ["new", "empty"] {
            // A shell starts what is in the background with SIGINT ignored; env puts that right.
            t.sh(&format!(
                "rm -rf empty; mkdir empty
                 env --default-signal=INT img-unpack zeros {place} & pid=$!
                 until [ -n \"$(ls -A | grep ^.img-unpack)\" ] || [ -n \"$(ls -A empty)\" ]; do sleep 0.01; done
                 kill -{signal} $pid; wait $pid 2>/dev/null; echo $?; ls -A . empty"
            ))
            .prints(&format!("{status}\n.:\nempty\n\nempty:\n"));
        }
    }
}

#[test]
fn the_platform_is_chosen_and_a_wrong_one_lists_those_there_are() {
    let t = Sandbox::new();
    let other = Image::new(&[&format!("echo other >other; {PACK}")], &json!({}));
    let host = sandbox::image::architecture();
    let index = Image::index(&[
        (&other, json!({ "os": "linux", "architecture": "riscv64" })),
        (busybox(), json!({ "os": "linux", "architecture": host })),
    ]);
    t.store(&index, "both");
    t.sh("img-unpack --rootfs both host && ls host/bin/sh").prints("./host\nhost/bin/sh\n");
    t.sh("img-unpack --rootfs --platform riscv64 both other && ls other")
        .prints("./other\nother\n");
    let run = t.sh("img-unpack --platform linux/s390x both none").exits(1);
    run.says("linux/riscv64").says(host);
}

#[test]
fn root_gives_the_files_to_whom_a_mapping_says() {
    if lacks(&["root", "getcap"]) {
        return;
    }
    let t = Sandbox::new();
    t.store(&intricate(), "app");
    t.sh("img-unpack --rootfs --uid-map 0:100000:65536 --gid-map 0:200000:65536 app tree
          cd tree; stat -c '%n %u:%g %a' . bin/busybox usr/share/a etc/through; stat -c %u:%g opt/dangling/in; getcap opt/capable")
        .prints(
            "./tree\n. 100000:200000 755\nbin/busybox 100000:200000 755\nusr/share/a 100100:200200 4755\n\
             etc/through 100007:200008 644\n100000:200000\nopt/capable cap_net_raw=ep\n",
        );
    t.sh("img-unpack --uid-map 0:100000:65536 --gid-map 0:200000:65536 app bundle >name
          jq -c '.linux.uidMappings, .linux.gidMappings' bundle/config.json")
        .prints(
            "[{\"containerID\":0,\"hostID\":100000,\"size\":65536}]\n\
             [{\"containerID\":0,\"hostID\":200000,\"size\":65536}]\n",
        );
    t.sh("img-unpack --uid-map 0:100000:50 app few; ls").says("user 100 is not in the mapping");
}

#[test]
fn a_user_without_subordinate_ids_keeps_the_owners_in_an_attribute() {
    if lacks(&["root", "getfattr"]) {
        return;
    }
    let t = Sandbox::new().as_user();
    let layer = format!("echo x >file; {PACK} --owner=1000 --group=50");
    t.store(&Image::new(&[&busybox_layer(), &layer], &json!({})), "app");
    let script = "img-unpack app bundle && stat -c %U bundle/rootfs/file &&
        getfattr --only-values -n user.rootlesscontainers bundle/rootfs/file | od -An -tx1
        jq -c '.linux.uidMappings | map(.size)' bundle/config.json; rm -rf bundle";
    let result = "./bundle\ntare-test\n 08 e8 07 10 32\n[1]\n";
    t.sh(&script.replace(" app ", " --uid-map 0:$(id -u) --gid-map 0:$(id -g) app "))
        .prints(result);
    t.sh("img-unpack --uid-map 0:5 app bundle").exits(2).says("is not in the mapping");
}

/// These belong to the tier of the peers.
mod peers {
    use sandbox::image::python;
    use sandbox::{Sandbox, lacks};

    use super::{LOOK, intricate};

    #[test]
    fn the_tree_is_the_one_that_umoci_makes() {
        if lacks(&["root", "umoci", "getfattr", "setcap", "mmdebstrap"]) {
            return;
        }
        for image in [&intricate(), python()] {
            let t = Sandbox::new();
            image.copy_to(&t.path("work/layout"), "x");
            t.sh(&format!(
            "{LOOK} umoci raw unpack --image layout:x theirs >/dev/null 2>&1 && img-unpack --rootfs ./layout:x ours >&2
             look theirs >theirs.look; look ours >ours.look; diff theirs.look ours.look"
        ))
        .outputs("", "./ours\n", 0);
        }
    }

    #[test]
    fn the_tree_is_the_one_that_umoci_makes_in_a_user_namespace() {
        if lacks(&["root", "umoci", "getfattr", "setcap", "newuidmap", "mmdebstrap"]) {
            return;
        }
        for image in [&intricate(), python()] {
            let t = Sandbox::new();
            image.copy_to(&t.path("work/layout"), "x");
            let t = t.as_user();
            let inside = "unshare --user --map-auto --map-root-user sh -ec";
            t.sh(&format!(
            "img-unpack -q --rootfs ./layout:x ours >&2
             {inside} '{LOOK}
                umoci raw unpack --image layout:x theirs >/dev/null 2>&1
                look theirs >theirs.look; look ours >ours.look; diff theirs.look ours.look; rm -rf ours theirs'",
            LOOK = LOOK.replace('\'', "'\\''")
        ))
        .outputs("", "./ours\n", 0);
            // And as a user who is nobody else. Our namespace can give capabilities to files, and
            // attributes to a file that its owner may not write.
            t.sh(&format!(
                "{LOOK} xattrs=^user
             umoci raw unpack --rootless --image layout:x theirs >/dev/null 2>&1
             img-unpack -q --rootfs --uid-map 0:$(id -u) --gid-map 0:$(id -g) ./layout:x ours >&2
             chmod -R u+rX ours theirs
             for tree in ours theirs; do
                 [ -e $tree/app/zero ] || continue
                 touch -r $tree/app time; rm -f $tree/app/zero; touch -r time $tree/app
             done
             look theirs >theirs.look; look ours >ours.look; diff theirs.look ours.look"
            ))
            .outputs("", "./ours\n", 0);
        }
    }
}
