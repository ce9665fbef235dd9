//! Another process that swaps directories for links while an image is unpacked.

use std::fs;
use std::os::unix::fs::symlink;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use sandbox::corpus::Input;
use sandbox::corpus::tar::tar;
use sandbox::lacks;

use super::NEEDS;
use super::run::{Bench, Who};

/// Unpacks again and again into a directory of which somebody swaps a part for a link to the bait.
fn swapped(who: Who, how_long: Duration) {
    let bench = Bench::new(who);
    let bait = bench.dir().join("bait");
    // Everything that is done to a path: made, written, dressed, linked, replaced, removed.
    let layer = |mark: &str| {
        (0..40).fold(tar(), |tar, i| {
            tar.file("d/dir/secret", mark)
                .dir("d/dir")
                .file("d/secret", mark)
                .file(format!("d/dir/deep/{i}"), mark)
                .xattr("user.bait", "changed")
                .dir("d/dir/deep")
                .hard("d/linked", "d/secret")
                .symlink("d/link", "dir/kept")
                .file("d/dir/.wh.kept", "")
                .fifo("d/fifo")
                .file("d/.wh..wh..opq", "")
        })
    };
    let image = Input::Layers(vec![layer("1").into(), layer("2").into()]);
    bench.prepare(&image);

    let out = bench.dir().join("case/out");
    let done = AtomicBool::new(false);
    let swaps = AtomicU64::new(0);
    let (mut runs, mut caught) = (0u64, 0u64);
    thread::scope(|scope| {
        scope.spawn(|| {
            let (dir, link) = (out.join("d"), out.join("swap"));
            while !done.load(Relaxed) {
                // Not before something is there: the target has to be empty at first.
                let laid = link.is_symlink() || dir.is_symlink();
                if !dir.exists() || (!laid && symlink(&bait, &link).is_err()) {
                    thread::yield_now();
                    continue;
                }
                if renameat_with(CWD, &dir, CWD, &link, RenameFlags::EXCHANGE).is_ok() {
                    swaps.fetch_add(1, Relaxed);
                }
            }
        });
        let start = Instant::now();
        let mut wrong = None;
        while start.elapsed() < how_long && wrong.is_none() {
            let run = bench
                .sandbox()
                .sh("cd box/case; mkdir -m 777 out; img-unpack -q --rootfs ./image ./out; code=$?
                 rm -rf out; exit $code");
            runs += 1;
            let said = String::from_utf8_lossy(&run.stderr).into_owned();
            caught += u64::from(run.code == 1 && said.contains("layer sha256:"));
            if !matches!(run.code, 0 | 1) || said.contains("panicked") {
                wrong = Some(format!("status {}: {said}", run.code));
            }
            wrong = wrong.or(bench.bait_changed());
        }
        done.store(true, Relaxed);
        assert!(wrong.is_none(), "after {runs} runs: {}", wrong.unwrap());
    });
    let _ = fs::remove_dir_all(out);
    let swaps = swaps.into_inner();
    eprintln!("{runs} runs, {swaps} swaps, {caught} runs ended with an error of theirs");
    assert!(swaps > 10 * runs, "there was no race: {swaps} swaps in {runs} runs");
}

#[test]
fn a_directory_that_becomes_a_link_leads_nowhere() {
    if !lacks(NEEDS) {
        swapped(Who::Root, Duration::from_secs(3));
    }
}

#[test]
fn a_users_directory_that_becomes_a_link_leads_nowhere() {
    if !lacks(NEEDS) {
        swapped(Who::User, Duration::from_secs(3));
    }
}

mod soak {
    use super::*;

    #[test]
    fn a_directory_that_becomes_a_link_leads_nowhere_for_a_minute() {
        if !lacks(NEEDS) {
            swapped(Who::Root, Duration::from_secs(60));
        }
    }

    #[test]
    fn a_users_directory_that_becomes_a_link_leads_nowhere_for_a_minute() {
        if !lacks(NEEDS) {
            swapped(Who::User, Duration::from_secs(60));
        }
    }
}
