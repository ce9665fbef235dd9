//! Beside others: what we write they read, what they write we read, and both agree on what is in it.

mod build;
mod inspect;
mod push;
mod save;
mod serve;
mod tidy;
mod tutorials;

use std::process::{Command, Stdio};

use sandbox::image::{Image, PATH, busybox, busybox_layer, python};
use sandbox::{Sandbox, lacks};
use serde_json::json;

/// What these tests need.
const PEERS: &[&str] =
    &["root", "skopeo", "umoci", "podman", "buildah", "crun", "runc", "mmdebstrap"];

/// Has podman and buildah keep their things in the sandbox, and ask nothing of the machine.
const CONTAINERS: &str = r#"
    export CONTAINERS_STORAGE_CONF=$PWD/storage.conf CONTAINERS_CONF=$PWD/containers.conf
    printf '[storage]\ndriver = "vfs"\nrunroot = "%s"\ngraphroot = "%s"\n' $TMPDIR/c/run $TMPDIR/c/graph >storage.conf
    printf '[engine]\ncgroup_manager = "cgroupfs"\nevents_logger = "none"\n' >containers.conf
    trap 'rm -rf $TMPDIR/c' EXIT
"#;

/// Runs a bundle as other runtimes do. crun refuses a version 2 hierarchy beside those of version 1.
const RUNTIMES: &str = r#"
    crun_bundle() {
        unshare --mount sh -c 'umount /sys/fs/cgroup/unified 2>/dev/null
            exec crun --root "$TMPDIR/crun" --cgroup-manager=disabled run -b "$1" "tare-peer-$$"' sh "$1"
        code=$?; rm -rf "$TMPDIR/crun"; return $code
    }
    runc_bundle() {
        runc --root "$TMPDIR/runc" run -b "$1" "tare-peer-$$"
        code=$?; rm -rf "$TMPDIR/runc"; return $code
    }
"#;

#[test]
fn skopeo_inspects_the_store() {
    if lacks(PEERS) {
        return;
    }
    let t = Sandbox::new();
    t.store(python(), "py:1");
    t.sh("img-tag py:1 host:5000/team/py:2 >tag").is_silent();
    t.sh(
        "skopeo inspect -f '{{.Digest}} {{len .Layers}}' oci:$TARE_ROOT/images:host:5000/team/py:2",
    )
    .prints(&format!("{} 3\n", python().digest));
    t.sh(
        "skopeo inspect --config -f '{{.Config.Cmd}}' oci:$TARE_ROOT/images:docker.io/library/py:1",
    )
    .prints("[python3]\n");
}

#[test]
fn podman_and_buildah_pull_from_the_store() {
    if lacks(PEERS) {
        return;
    }
    let t = Sandbox::with_image("app:v1");
    t.sh(&format!(
        "{CONTAINERS}
         cd $TARE_ROOT/.. && # podman makes a name of the path, which may hold no capitals
         id=$(podman pull -q oci:tare/images:docker.io/library/app:v1) &&
         podman inspect -f '{{{{.Digest}}}}' $id && podman inspect -f '{{{{.Config.Cmd}}}}' $id"
    ))
    .prints(&format!("{}\n[sh]\n", busybox().digest));
    t.sh(&format!(
        "{CONTAINERS}
         cd $TARE_ROOT/.. &&
         c=$(buildah from -q oci:tare/images:docker.io/library/app:v1) &&
         cat $(buildah mount $c)/etc/passwd | wc -l; buildah umount $c >/dev/null; buildah rm $c >/dev/null"
    ))
    .prints("2\n");
}

#[test]
fn what_others_wrote_runs() {
    if lacks(PEERS) {
        return;
    }
    let made = || {
        let t = Sandbox::with_image("app:v1");
        t.sh(&format!("mkdir tree; cd tree; {} >../rootfs.tar", busybox_layer())).is_silent();
        t.sh("from=oci:$TARE_ROOT/images:docker.io/library/app:v1
              skopeo copy -q $from oci:skopeo:app
              skopeo copy -q --dest-oci-accept-uncompressed-layers --dest-decompress $from oci:plain:app
              skopeo copy -q --dest-compress-format zstd $from oci:zstd:app
              skopeo copy -q --format v2s2 $from dir:v2s2
              skopeo copy -q $from docker-archive:docker.tar:app:v1
              skopeo copy -q $from oci-archive:oci.tar:app:v1
              rm -rf v2s2")
            .is_silent();
        t.sh("umoci init --layout umoci && umoci new --image umoci:app && umoci unpack --image umoci:app bundle &&
              tar -C bundle/rootfs -xf rootfs.tar && umoci repack --image umoci:app bundle &&
              umoci config --image umoci:app --config.cmd id --config.env PATH=/bin --config.user app && rm -rf bundle")
            .text();
        t.sh(&format!(
            "{CONTAINERS}
             c=$(buildah from -q scratch) && buildah add -q $c rootfs.tar / >/dev/null &&
             buildah config --cmd 'echo buildah' --env PATH=/bin $c &&
             buildah commit -q $c oci:buildah:app >/dev/null && buildah commit -q --format docker $c oci:docker:app >/dev/null;
             buildah rm $c >/dev/null"
        ))
        .text();
        t
    };
    for t in [made(), made().as_user()] {
        for layout in ["skopeo", "plain", "zstd", "umoci", "buildah", "docker"] {
            t.sh(&format!("ctr-spawn --rm ./{layout}:app echo {layout}"))
                .prints(&format!("{layout}\n"));
        }
        t.sh("ctr-spawn --rm oci:umoci; ctr-spawn --rm ./buildah")
            .prints("uid=1000(app) gid=1000(app) groups=50(staff),1000(app)\nbuildah\n");
        for archive in ["./docker.tar", "oci-archive:oci.tar", "docker-archive:docker.tar"] {
            t.sh(&format!("ctr-spawn --rm {archive} echo archive")).prints("archive\n");
        }
        t.sh("cat oci.tar | ctr-spawn --rm - echo piped").prints("piped\n");
    }
}

#[test]
fn a_program_of_debian_runs_from_a_registry() {
    if lacks(PEERS) || lacks(&["docker-registry"]) {
        return;
    }
    let made = || {
        let t = Sandbox::new().with_registry();
        python().copy_to(&t.path("work/layout"), "py");
        t.sh("skopeo copy -q --dest-tls-verify=false oci:layout:py docker://$REGISTRY/py:1; rm -r layout")
            .is_silent();
        t
    };
    for t in [made(), made().as_user()] {
        // What it cannot have as it is, an ordinary user is told when it is unpacked.
        let run = t.sh("img-pull -q $REGISTRY/py:1 | ctr-spawn --rm - python3 -c 'print(6*7)'");
        assert_eq!(run.text(), "42\n");
        t.sh("ctr-spawn --rm $REGISTRY/py:1 python3 /app/symlink.py").prints("42\n");
        t.sh("echo 'print(sum(range(10)))' | ctr-spawn --rm -i $REGISTRY/py:1").prints("45\n");
        t.sh("ctr-spawn --rm $REGISTRY/py:1 sh -c '
                cat /etc/motd/file /mnt/*; readlink /home; stat -c \"%a %u\" /app/private /app/setuid; getcap /app/capable
                test -e /usr/share/doc || test -e /usr/share/locale || echo gone'")
            .prints("inside\nopaque\n/var\n700 1000\n4755 0\n/app/capable cap_net_raw=ep\ngone\n");
    }
}

/// Returns an image of busybox that runs `script`.
fn running(script: &str) -> Image {
    let config = json!({ "Env": [PATH], "Cmd": ["sh", "-c", script], "WorkingDir": "/tmp" });
    Image::new(&[&busybox_layer()], &config)
}

#[test]
fn crun_and_runc_start_our_bundle() {
    if lacks(PEERS) {
        return;
    }
    let t = Sandbox::new();
    t.store(&running("id -u; pwd; cat /proc/1/comm; exit 7"), "app:v1");
    t.sh("img-unpack app:v1 bundle").prints("./bundle\n");
    for runtime in ["crun", "runc"] {
        t.sh(&format!("{RUNTIMES} {runtime}_bundle bundle")).outputs("0\n/tmp\nsh\n", "", 7);
    }
    t.sh("ctr-spawn --bundle bundle").outputs("0\n/tmp\nsh\n", "", 7);
}

#[test]
fn crun_and_runc_run_a_program_of_debian() {
    if lacks(PEERS) {
        return;
    }
    let t = Sandbox::new();
    t.store(python(), "py:1");
    t.sh("img-unpack py:1 bundle").prints("./bundle\n");
    // The image's command reads a program from standard input.
    for runtime in ["crun", "runc"] {
        t.feed("print(6*7); exit(7)", &format!("{RUNTIMES} {runtime}_bundle bundle"))
            .outputs("42\n", "", 7);
    }
    t.feed("print(6*7); exit(7)", "ctr-spawn -i --bundle bundle").outputs("42\n", "", 7);
}

#[test]
fn crun_starts_an_ordinary_users_bundle() {
    if lacks(PEERS) {
        return;
    }
    let t = Sandbox::new().as_user();
    t.store(&running("id -u; exit 7"), "app:v1");
    t.sh("img-unpack app:v1 bundle").prints("./bundle\n");
    // Only root can hide a mount from somebody who is not.
    let inside = t.command("");
    let mut command = Command::new("unshare");
    command
        .args([
            "--mount",
            "sh",
            "-c",
            "umount /sys/fs/cgroup/unified 2>/dev/null; exec setpriv \
            --reuid tare-test --regid tare-test --clear-groups timeout 60 crun --root $TMPDIR/crun \
            --cgroup-manager=disabled run -b bundle tare-peer",
        ])
        .current_dir(t.path("work"))
        .env_clear()
        .envs(inside.get_envs().filter_map(|(name, value)| Some((name, value?))))
        .stdin(Stdio::null());
    let out = command.output().unwrap();
    let said = String::from_utf8_lossy(&out.stderr);
    assert_eq!((&*out.stdout, &*said, out.status.code()), (&b"0\n"[..], "", Some(7)));
    t.sh("rm -rf $TMPDIR/crun; unshare --map-root-user --map-auto rm -r bundle").is_silent();
}

#[test]
fn a_bundle_that_umoci_made_runs() {
    if lacks(PEERS) {
        return;
    }
    let t = Sandbox::new();
    running("id -u; pwd; echo $PATH; exit 7").copy_to(&t.path("work/layout"), "app");
    t.sh("umoci unpack --image layout:app bundle").text();
    t.sh("ctr-spawn --bundle bundle").outputs(
        &format!("0\n/tmp\n{}\n", PATH.strip_prefix("PATH=").unwrap()),
        "",
        7,
    );
}
