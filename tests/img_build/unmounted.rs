//! COPY, ADD and WORKDIR on an image of which nothing is unpacked, and on one that is: the same layers.

use std::fs;

use sandbox::image::{Image, PATH, busybox_layer};
use sandbox::{Sandbox, lacks};
use serde_json::json;

/// Packs what is in the directory, as a tool does that makes layers.
const PACK: &str = "tar --sort=name --mtime=@0 --numeric-owner -c .";

/// The calls that mounts and namespaces take, all refused.
const REFUSED: &str = "strace -f -qq -o /dev/null -e signal=none -e inject=unshare,mount,fsopen,fsmount,open_tree,move_mount,mount_setattr,pivot_root:error=EPERM";

/// An image whose second layer hides, replaces and adds, and a Dockerfile that copies to all of that.
fn layered() -> Sandbox {
    let lower = "mkdir -p usr/lib gone/d old/d opt real; ln -s usr/lib lib; ln -s /real opt/link; ln -s ../nowhere opt/dangling; : >file; chmod 711 usr/lib; chown 3:4 usr/lib";
    let upper = "mkdir -p usr/lib old; : >.wh.gone; : >old/.wh..wh..opq; chmod 711 usr/lib; chown 3:4 usr/lib; ln -s old new";
    let layers = [busybox_layer(), format!("{lower}; {PACK}"), format!("{upper}; {PACK}")];
    let layers: Vec<&str> = layers.iter().map(String::as_str).collect();
    let t = Sandbox::new();
    t.store(&Image::new(&layers, &json!({ "Env": [PATH], "Cmd": ["sh"] })), "base");
    t.sh("mkdir -p ctx/d/e run; echo f >ctx/f; echo e >ctx/d/e/f; tar -C ctx -cf ctx/a.tar f d")
        .is_silent();
    t.write(
        "ctx/Dockerfile",
        "FROM base\nWORKDIR /lib/w\nCOPY f .\nCOPY d /gone/d\nCOPY --chown=app:staff f /old/d/\nCOPY f /new/\n\
         COPY f /opt/link/\nCOPY f /opt/dangling\nCOPY f /file\nADD a.tar /new/t/\nUSER app\nWORKDIR rel\nCOPY . /all\n",
    );
    t
}

#[test]
fn nothing_is_unpacked_or_mounted_to_copy() {
    if lacks(&["root", "strace"]) {
        return;
    }
    let t = layered();
    let line = t.sh(&format!("{REFUSED} img-build -q -t app ctx")).text();
    t.sh("ls $TARE_ROOT/layers").exits(2);
    t.sh("img-unpack --rootfs app o >/dev/null; cd o; cat usr/lib/w/f gone/d/e/f old/d/f old/f real/f nowhere file old/t/d/e/f usr/lib/w/rel/../../w/f; stat -c '%a %u:%g' usr/lib old/d old/d/f usr/lib/w/rel")
        .prints("f\ne\nf\nf\nf\nf\nf\ne\nf\n711 3:4\n755 1000:50\n644 1000:50\n755 1000:1000\n");

    // Of layers that are there the same is made, by who may mount and by who may not.
    t.write("run/Dockerfile", "FROM base\nRUN true\n");
    t.sh("img-build -q run >out; ls $TARE_ROOT/layers | wc -l").prints("4\n");
    t.sh("img-build -q --no-cache ctx")
        .prints(&format!("{}\n", line.trim_end().split('@').next_back().unwrap()));
    t.sh("rm -r $TARE_ROOT/cache/tables; img-build -q --no-cache ctx | tail -c 65")
        .prints(&line[line.len() - 65..]);
    t.sh("ls $TARE_ROOT/layers | wc -l").prints("4\n");
    // Only a part of them is there.
    t.sh("cd $TARE_ROOT/layers; rm -r $(ls | head -2)").is_silent();
    t.sh(&format!("{REFUSED} img-build -q --no-cache ctx | tail -c 65"))
        .prints(&line[line.len() - 65..]);
}

#[test]
fn a_user_without_namespaces_copies_and_is_told_what_he_cannot() {
    if lacks(&["strace"]) {
        return;
    }
    let t = layered();
    let wanted = t.sh("img-build -q ctx").text();
    t.sh("img-save base >base.tar").is_silent();
    let u = Sandbox::new().as_user();
    u.sh("mkdir -p ctx/d/e run").is_silent();
    for file in ["f", "d/e/f", "a.tar", "Dockerfile"] {
        u.write(&format!("ctx/{file}"), fs::read(t.path("work/ctx").join(file)).unwrap());
    }
    u.write("base.tar", fs::read(t.path("work/base.tar")).unwrap());
    u.sh("img-load -q -i base.tar").text();
    u.sh(&format!("{REFUSED} img-build -q ctx")).prints(&wanted);
    u.write("run/Dockerfile", "FROM base\nRUN true\n");
    u.sh(&format!("{REFUSED} img-build -q run"))
        .says(
            "img-build: run/Dockerfile:2: RUN: cannot create a user namespace: Operation not permitted",
        )
        .exits(1);
    u.sh(&format!("{REFUSED} img-build -q -o tree ctx"))
        .says("cannot create a user namespace: Operation not permitted")
        .exits(1);
}

#[test]
fn a_build_that_is_cached_unpacks_nothing() {
    let t = layered();
    t.write(
        "ctx/Dockerfile",
        "FROM base AS one\nRUN echo 1 >/1\nFROM base\nWORKDIR /w\nCOPY --from=one /1 .\nCOPY --from=base /file /g\nRUN --mount=from=one,target=/m cat /m/1\n",
    );
    let first = t.sh("img-build -q ctx").text();
    t.sh("rm -r $TARE_ROOT/layers").is_silent();
    t.sh("img-build -q ctx").prints(&first);
    t.sh("ls $TARE_ROOT/layers").exits(2);
    // What is done anew unpacks what it needs: the base's three, each step's, and the stage's that is mounted.
    t.sh("sed -i s,/g,/h, ctx/Dockerfile; img-build -q ctx >out; ls $TARE_ROOT/layers | wc -l")
        .prints("8\n");
}

#[test]
fn a_table_is_believed_only_if_it_is_whole() {
    let t = layered();
    let first = t.sh("img-build -q ctx").text();
    let each = |change: &str| {
        t.sh(&format!("cd $TARE_ROOT/cache/tables; for f in *; do {change}; done; cd; true"))
            .is_silent();
        t.sh("cd ../work; img-build -q --no-cache ctx").prints(&first);
    };
    each("head -c 100 $f >../x; mv ../x $f");
    each(": >$f");
    each("rm $f; mkdir $f");
    each("rmdir $f 2>/dev/null || rm $f; ln -s /dev/zero $f");
    each("rm $f; mkfifo $f");
    t.sh("cd $TARE_ROOT/cache/tables; rm *").is_silent();
    t.sh("img-build -q --no-cache ctx").prints(&first);
    // Another layer's under its name.
    t.sh("cd $TARE_ROOT/cache/tables; set -- *; for f; do cp $1 $f 2>/dev/null; done; :")
        .is_silent();
    t.sh("img-build -q --no-cache ctx").prints(&first);
    t.sh("rm -r $TARE_ROOT/cache/tables; : >$TARE_ROOT/cache/tables; img-build -q --no-cache ctx")
        .prints(&first);
}

#[test]
fn a_layer_that_leads_through_links_is_unpacked() {
    // As some tools make them: the second layer has no directories, and means those that links lead to.
    let lower = format!("mkdir -p usr/lib; ln -s usr/lib lib; {PACK}");
    let upper =
        "mkdir lib; echo x >lib/x; tar --mtime=@0 --owner=0 --group=0 --no-recursion -c lib/x";
    let layers = [&busybox_layer()[..], &lower, upper];
    let t = Sandbox::new();
    t.store(&Image::new(&layers, &json!({ "Env": [PATH] })), "base");
    t.write("Dockerfile", "FROM base\nCOPY --parents . /\nCOPY Dockerfile /lib/x/y\n");
    t.sh("img-build -q .").says("Dockerfile:3: COPY: /usr/lib/x: not a directory").exits(1);
    t.write("Dockerfile", "FROM base\nCOPY Dockerfile /lib/\n");
    t.sh("img-build -q -t app . >out; ctr-spawn --rm app ls -l /lib /usr/lib | grep -c Dockerfile")
        .prints("1\n");
}
