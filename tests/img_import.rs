//! img-import: an image of a root file system.

use sandbox::Sandbox;
use sandbox::image::busybox_layer;

/// Goes to the store and sets the files of the newest image's manifest and config.
const NEWEST: &str = "cd $TARE_ROOT/images
    manifest=blobs/$(jq -r '.manifests[-1].digest' index.json | tr : /)
    config=blobs/$(jq -r .config.digest $manifest | tr : /)";

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
    t.sh("gzip -n <rootfs.tar >rootfs.tgz; zstd -q rootfs.tar -o rootfs.tzst
          { printf 'P\\052M\\030\\004\\0\\0\\0\\0\\0\\0\\0'; cat rootfs.tzst; } >rootfs.pzst")
        .is_silent();
    for (file, kind) in [
        ("rootfs.tar", "tar"),
        ("rootfs.tgz", "tar+gzip"),
        ("rootfs.tzst", "tar+zstd"),
        // As pzstd begins: with a frame to be skipped.
        ("rootfs.pzst", "tar+zstd"),
    ] {
        t.sh(&format!("img-import {file} base | sed s/@.*//")).prints("base:latest\n");
        t.sh(&format!(
            "{NEWEST}; jq -r '.layers[].mediaType' $manifest
             cmp blobs/$(jq -r '.layers[].digest' $manifest | tr : /) ../../work/{file}"
        ))
        .prints(&format!("application/vnd.oci.image.layer.v1.{kind}\n"));
        t.sh(&format!(
            "{NEWEST}; echo \"$(jq -r .rootfs.diff_ids[0] $config | sed s/sha256://)  -\" >sum
             sha256sum -c --quiet sum <../../work/rootfs.tar; rm sum"
        ))
        .is_silent();
    }
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
    t.sh("img-import -m why -c 'CMD [\"sh\", \"-c\"]' -c 'ENV A=1 B=\"2 3\"' -c 'USER app' \
          --change 'WORKDIR /home/app' -c 'LABEL a=b' -c 'EXPOSE 80' --platform linux/s390x \
          rootfs.tar base | sed s/@.*//")
        .prints("base:latest\n");
    t.sh(&format!(
        "{NEWEST}; jq -c '.config.Cmd, .config.Env[1:], .architecture, .history[0].comment' $config
         jq -r '.config | .User, .WorkingDir, .Labels.a, (.ExposedPorts | keys[])' $config"
    ))
    .prints(
        "[\"sh\",\"-c\"]\n[\"A=1\",\"B=2 3\"]\n\"s390x\"\n\"why\"\n\
         app\n/home/app\nb\n80/tcp\n",
    );
    let run = t.sh("img-import -c 'RUN true' rootfs.tar base").exits(2);
    assert!(run.stdout.is_empty());
}

#[test]
fn what_is_no_tar_is_no_image() {
    let t = with_rootfs();
    t.sh("head -c 5000 /dev/urandom >noise; head -c 100000 rootfs.tar >cut; : >empty").is_silent();
    for file in ["noise", "cut", "empty", "absent", "."] {
        let run = t
            .sh(&format!("img-import {file} base"))
            .exits(1)
            .says(&format!("img-import: {file}: "));
        assert!(run.stdout.is_empty());
    }
    t.sh("img-ls -q; find $TARE_ROOT/images/blobs -type f").prints("");
}

#[test]
fn a_tar_that_was_cut_off_is_no_image() {
    let t = Sandbox::new();
    // Whoever ends between two entries leaves a tar that no end says is whole.
    t.sh("mkdir d; for i in $(seq 20); do ln -s x d/$i; done; tar -cf links.tar d").is_silent();
    for pack in ["cat", "gzip", "zstd -q", "xz -0"] {
        t.sh(&format!("head -c 5120 links.tar | {pack} | img-import - some"))
            .fails("img-import: -: truncated tar: it has no end\n");
    }
    t.sh("false | img-import - some")
        .fails("img-import: -: no tar: did the command before this one fail?\n");
    t.sh("img-ls -q; find $TARE_ROOT/images/blobs -type f").prints("");
}

#[test]
fn a_layer_may_be_empty() {
    let t = Sandbox::new();
    t.sh("tar -c -T /dev/null | img-import - empty | sed s/@.*//").prints("empty:latest\n");
    t.sh(&format!("{NEWEST}; jq -r .layers[].size $manifest")).prints("10240\n");
    t.sh("img-unpack --rootfs empty tree && ls -A tree").ends_with("tree\n");
}
