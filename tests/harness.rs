//! The sandbox itself: a harness that sees nothing would let everything pass.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use sandbox::{Sandbox, lacks, leftovers};

/// Returns what the sandbox's end complains about after `script`, or nothing.
fn complaint(t: Sandbox, script: &str) -> Option<String> {
    t.sh(script).is_silent();
    let panic = catch_unwind(AssertUnwindSafe(|| drop(t))).err()?;
    Some(*panic.downcast::<String>().unwrap())
}

#[test]
fn a_clean_test_ends_without_complaint() {
    assert_eq!(complaint(Sandbox::new(), "echo kept >file; mkdir $TARE_ROOT/images"), None);
}

#[test]
fn a_process_left_behind_is_seen() {
    let left = complaint(Sandbox::new(), "setsid sleep 1000 >/dev/null 2>&1 &").unwrap();
    assert!(left.contains("sleep 1000"), "{left}");
}

#[test]
fn a_process_without_our_environment_is_seen_by_its_mounts() {
    if lacks(&["root", "unshare"]) {
        return;
    }
    let script = "mkdir m; unshare --mount sh -c 'mount -t tmpfs none m
        cd /; exec env -i setsid sleep 1001 >/dev/null 2>&1 </dev/null' &
        while ! grep -q work/m /proc/$!/mountinfo; do :; done";
    let left = complaint(Sandbox::new(), script).unwrap();
    assert!(left.contains("sleep 1001"), "{left}");
}

#[test]
fn a_mount_left_behind_is_seen_and_removed() {
    if lacks(&["root", "mount"]) {
        return;
    }
    let t = Sandbox::new();
    let dir = t.path("");
    let left = complaint(t, "mkdir m; mount -t tmpfs none m; mount -t tmpfs none m").unwrap();
    assert!(left.contains("/work/m "), "{left}");
    assert!(!dir.exists());
}

#[test]
fn a_temporary_file_left_behind_is_seen() {
    let left = complaint(
        Sandbox::new(),
        "mkdir -p $TARE_ROOT/images; >$TARE_ROOT/images/.tmp1; >$TMPDIR/x",
    );
    let left = left.unwrap();
    assert!(left.contains("images/.tmp1") && left.contains("tmp/x"), "{left}");
}

#[test]
fn an_empty_cgroup_is_nobodys_and_one_in_use_is_not() {
    let hierarchies = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup/pids", "/sys/fs/cgroup"];
    let found = hierarchies.iter().find(|dir| Path::new(dir).join("cgroup.procs").exists());
    let Some(hierarchy) = found.filter(|_| !lacks(&["root"])) else { return };
    let dir = Path::new(hierarchy).join(format!("harness-tare-{}", std::process::id()));
    // A machine that is itself a container may have its cgroups read-only.
    let Ok(()) = std::fs::create_dir(&dir) else { return };
    let empty = leftovers::empty_cgroups();
    let mut inside = Command::new("sleep").arg("100").spawn().unwrap();
    std::fs::write(dir.join("cgroup.procs"), inside.id().to_string()).unwrap();
    let used = leftovers::empty_cgroups();
    inside.kill().unwrap();
    inside.wait().unwrap();
    std::fs::remove_dir(&dir).unwrap();
    assert!(empty.contains(&dir) && !used.contains(&dir));
}

#[test]
fn a_script_that_hangs_is_ended_and_named() {
    let t = Sandbox::new().with_limit(Duration::from_millis(300));
    let hung = catch_unwind(AssertUnwindSafe(|| t.sh("sleep 1002; :").exits(0).code)).unwrap_err();
    let hung = hung.downcast::<String>().unwrap();
    assert!(hung.contains("still runs") && hung.contains("sleep 1002"), "{hung}");
}

#[test]
fn output_that_is_held_open_is_a_hang() {
    let t = Sandbox::new().with_limit(Duration::from_millis(300));
    let held = catch_unwind(AssertUnwindSafe(|| t.sh("sleep 1003 &").exits(0).code)).unwrap_err();
    let held = held.downcast::<String>().unwrap();
    assert!(held.contains("holds its output") && held.contains("sleep 1003"), "{held}");
}

#[test]
fn what_a_script_wrote_is_compared_whole() {
    let t = Sandbox::new();
    t.sh("echo out; echo err >&2; exit 3").outputs("out\n", "err\n", 3);
    t.feed("in", "cat").prints("in");
    t.sh("cat").prints("");
    t.sh("kill -TERM $$").outputs("", "", 143);
    for script in ["printf out", "echo out; echo >&2", "echo out; false", "echo out; echo"] {
        let run = t.sh(script);
        assert!(catch_unwind(AssertUnwindSafe(|| run.prints("out\n"))).is_err(), "{script}");
    }
}

#[test]
fn a_script_knows_nothing_of_the_machine() {
    let names = "HOME LC_ALL PATH PWD TARE_ROOT TARE_RUN TARE_TEST TMPDIR TZ USER XDG_RUNTIME_DIR";
    let t = Sandbox::new();
    t.sh("env | sed 's/=.*//' | LC_ALL=C sort | tr '\\n' ' '").prints(&format!("{names} "));
}

#[test]
fn a_user_owns_a_sandbox() {
    if lacks(&["root"]) {
        return;
    }
    let t = Sandbox::with_image("app:v1").as_user();
    let images = "$TARE_ROOT/images";
    t.sh(&format!("id -un; stat -c %U {images} {images}/index.json; touch x"))
        .prints("tare-test\ntare-test\ntare-test\n");
    t.sh("grep -q tare-test /etc/subuid && type img-tag >/dev/null").is_silent();
}

#[test]
fn the_image_is_what_other_tools_say() {
    if lacks(&["jq"]) {
        return;
    }
    let t = Sandbox::with_image("app:v1");
    t.store(sandbox::image::busybox(), "host:5000/b/app");
    t.sh("cd $TARE_ROOT/images/blobs/sha256 && sha256sum * | awk '$1 != $2'").is_silent();
    t.sh("jq -r '.manifests[].annotations[]' $TARE_ROOT/images/index.json")
        .prints("docker.io/library/app:v1\nhost:5000/b/app:latest\n");
}

#[test]
fn the_registry_serves_what_is_added() {
    if lacks(&["docker-registry", "busybox"]) {
        return;
    }
    let t = Sandbox::new().with_registry();
    let image = sandbox::image::busybox();
    t.registry().add(image, "library/app", "v1");
    t.sh("busybox wget -qO- --header 'Accept: application/vnd.oci.image.manifest.v1+json' \
            http://$REGISTRY/v2/library/app/manifests/v1 | sha256sum")
        .prints(&format!("{}  -\n", image.digest.strip_prefix("sha256:").unwrap()));
    assert_eq!(t.registry().requests().len(), 1);
}
