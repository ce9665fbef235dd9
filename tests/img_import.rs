//! img-import: an image of a root file system.

use sandbox::Sandbox;
use sandbox::image::{PACK, busybox_layer};

/// Returns a sandbox with a root file system in `rootfs.tar`.
fn with_rootfs() -> Sandbox {
    let t = Sandbox::new();
    let layer = busybox_layer();
    t.sh(&format!("mkdir rootfs; cd rootfs; {layer} >../rootfs.tar")).is_silent();
    t
}

#[test]
fn a_tar_is_the_layer_byte_for_byte() {
    let t = with_rootfs();
    t.sh("gzip -n <rootfs.tar >rootfs.tgz; zstd -q rootfs.tar -o rootfs.tzst").is_silent();
    for (file, kind) in [("rootfs.tar", "tar"), ("rootfs.tgz", "tar+gzip"), ("rootfs.tzst", "tar+zstd")] {
        t.sh(&format!("img-import {file} base | sed s/@.*//")).prints("base:latest\n");
        t.sh("cd $TARE_ROOT/images; m=$(jq -r '.manifests[-1].digest' index.json | tr : /)
              l=$(jq -r '.layers[].digest' blobs/$m | tr : /); jq -r '.layers[].mediaType' blobs/$m
              cmp blobs/$l ../../work/rootfs.t*$(echo $l >/dev/null)".replace("rootfs.t*$(echo $l >/dev/null)", file).as_str())
            .prints(&format!("application/vnd.oci.image.layer.v1.{kind}\n"));
        t.sh("cd $TARE_ROOT/images; m=$(jq -r '.manifests[-1].digest' index.json | tr : /)
              c=$(jq -r .config.digest blobs/$m | tr : /); jq -r .rootfs.diff_ids[0] blobs/$c
              sha256sum <../../work/rootfs.tar | sed 's/^/sha256:/; s/ .*//'")
            .prints(&diff_id_twice(&t));
    }
}

/// Returns the diff ID of `rootfs.tar`, on two lines.
fn diff_id_twice(t: &Sandbox) -> String {
    t.sh("for i in 1 2; do sha256sum <rootfs.tar | sed 's/^/sha256:/; s/ .*//'; done").text()
}

#[test]
fn what_no_layer_may_be_packed_with_is_unpacked() {
    let t = with_rootfs();
    t.sh("img-import rootfs.tar a >a; xz -k0 rootfs.tar; bzip2 -k1 rootfs.tar").is_silent();
    for file in ["rootfs.tar.xz", "rootfs.tar.bz2"] {
        t.sh(&format!("img-import {file} a | cmp - a")).is_silent();
    }
}

#[test]
fn the_same_tar_makes_the_same_image() {
    let t = with_rootfs();
    t.sh("img-import rootfs.tar a | sed s/.*@// >1; sleep 1; img-import - a <rootfs.tar | sed s/.*@// | cmp - 1").is_silent();
    t.sh("jq '.manifests | length' $TARE_ROOT/images/index.json").prints("1\n");
    t.sh("SOURCE_DATE_EPOCH=1000000000 img-import rootfs.tar dated >x; img-ls --format '{{.CreatedAt}}' dated")
        .prints("2001-09-09 01:46:40 +0000 UTC\n");
}

#[test]
fn changes_are_the_dockerfiles() {
    let t = with_rootfs();
    let script = "img-import -m why -c 'CMD [\"sh\", \"-c\"]' -c 'ENV A=1 B=\"2 3\"' -c 'USER app' \
        --change 'WORKDIR /home/app' -c 'LABEL a=b' -c 'EXPOSE 80' --platform linux/s390x rootfs.tar base >name
        cd $TARE_ROOT/images; m=$(jq -r '.manifests[-1].digest' index.json | tr : /)
        c=$(jq -r .config.digest blobs/$m | tr : /)
        jq -c '.config.Cmd, .config.Env[1:], .config.User, .config.WorkingDir, .config.Labels, .config.ExposedPorts, .architecture, .history[0].comment' blobs/$c";
    t.sh(script).prints(
        "[\"sh\",\"-c\"]\n[\"A=1\",\"B=2 3\"]\n\"app\"\n\"/home/app\"\n{\"a\":\"b\"}\n{\"80/tcp\":{}}\n\"s390x\"\n\"why\"\n",
    );
    let run = t.sh("img-import -c 'RUN true' rootfs.tar base").exits(2);
    assert!(run.stdout.is_empty());
}

#[test]
fn what_is_no_tar_is_no_image() {
    let t = with_rootfs();
    t.sh("head -c 5000 /dev/urandom >noise; head -c 100000 rootfs.tar >cut; : >empty; tar -cf none -T /dev/null").is_silent();
    for file in ["noise", "cut", "empty", "none", "absent", "."] {
        let run = t.sh(&format!("img-import {file} base")).exits(1).says(&format!("img-import: {file}: "));
        assert!(run.stdout.is_empty());
    }
    t.sh("img-ls -q; find $TARE_ROOT/images/blobs -type f").prints("");
    let _ = PACK;
}
