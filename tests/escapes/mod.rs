//! What breaks out of containers, tried: each known way, with bait on the host.
//!
//! ```text
//! streams, programs, trees, configs     what a container is given, and what an image is
//! kernel                                what the kernel says from inside: Docker's defaults, one by one
//! races                                 names that change while they are looked up; the long runs are in soak
//! ends                                  supervisors killed, bombs, orphans, terminals
//! ```
//!
//! What is tried from inside is tried by `probe.c`, since no shell makes system calls by
//! their number. These ways out go through tools that are not there yet, and their tests
//! come with them: ptrace and descriptors of a joining process, and drift between run and
//! exec (CVE-2016-9962, CVE-2020-14298: ctr-exec); links on the way of a copy
//! (CVE-2018-15664: ctr-cp); networks and published ports (CVE-2020-13401, CVE-2021-20199);
//! state restored from an archive (CVE-2026-53489); memory limits, by which a process that
//! was killed for want of memory is told apart; logs (CVE-2022-23471).

mod configs;
mod ends;
mod kernel;
mod programs;
mod races;
mod soak;
mod streams;
mod trees;

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

use sandbox::image::sha256;
use sandbox::{Sandbox, target_dir};

/// Returns a sandbox with a busybox image called `app`, and the probe at `$PWD/probe`.
fn sandbox() -> Sandbox {
    with_probe(Sandbox::with_image("app"))
}

/// Both kinds of users, where there are both.
fn of_either_user(test: impl Fn(&Sandbox)) {
    test(&sandbox());
    test(&with_probe(Sandbox::with_image("app").as_user()));
}

fn with_probe(t: Sandbox) -> Sandbox {
    let copy = t.path("work/probe");
    fs::copy(probe(), &copy).unwrap();
    fs::set_permissions(copy, Permissions::from_mode(0o755)).unwrap();
    t.set("PROBE", t.path("work/probe"));
    t
}

/// Mounts the probe in a container.
const PROBE: &str = "-v $PROBE:/probe:ro";

/// Returns the probe, which is compiled once.
fn probe() -> PathBuf {
    static PROBE: OnceLock<PathBuf> = OnceLock::new();
    let make = || {
        let source = include_str!("probe.c");
        let program = target_dir().join("../tmp/probe").join(sha256(source.as_bytes()));
        if !program.exists() {
            let dir = program.parent().unwrap();
            fs::create_dir_all(dir).unwrap();
            let new = tempfile::tempdir_in(dir).unwrap();
            fs::write(new.path().join("probe.c"), source).unwrap();
            let words = ["-static", "-O1", "-Wall", "-Wextra", "-Werror", "-o", "probe", "probe.c"];
            let made = Command::new("cc").args(words).current_dir(new.path()).output().unwrap();
            assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
            fs::rename(new.path().join("probe"), &program).unwrap();
        }
        program
    };
    PROBE.get_or_init(make).clone()
}

/// Puts a bundle of the image `app` into `$PWD/b`, whose config a jq program changes.
fn bundle(t: &Sandbox, jq: &str) {
    t.sh(&format!(
        "rm -rf b; img-unpack app ./b >/dev/null && jq '{jq}' b/config.json >c && mv c b/config.json"
    ))
    .is_silent();
}

/// Puts bait into `$PWD/bait`, and returns a script that says `bitten` if anybody took it.
fn bait(t: &Sandbox) -> &'static str {
    t.sh("mkdir bait; echo host >bait/file; mkfifo bait/fifo; mkdir bait/dir").is_silent();
    r#"[ "$(cat bait/file; ls -A bait; ls -A bait/dir; stat -c %a bait/file bait/dir; grep -c $PWD/bait /proc/self/mountinfo)" = "host
dir
fifo
file
644
755
0" ] || { echo bitten; ls -lAR bait; }
"#
}
