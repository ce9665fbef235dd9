//! A file system of a test's own: a small one, or one that loses power. It takes root.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::time::Duration;

/// Where disks are or were mounted.
static MOUNTED: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// A file system that is mounted until it is dropped.
pub struct Disk {
    at: PathBuf,
    /// The file that it is in, if it is in one.
    file: Option<PathBuf>,
}

impl Disk {
    /// Mounts a tmpfs with these options at `at`, which is made.
    pub fn tmpfs(at: &Path, options: &str) -> Disk {
        fs::create_dir_all(at).unwrap();
        MOUNTED.lock().unwrap().push(at.into());
        run(Command::new("mount").args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(at));
        Disk { at: at.into(), file: None }
    }

    /// Mounts an ext4 of so many MiB, in a file beside `at`, at `at`, which is made.
    pub fn ext4(at: &Path, mebibytes: u64) -> Disk {
        Disk::in_file(at, "ext4", mebibytes, &["-q", "-E", "lazy_itable_init=1"])
    }

    /// Mounts a btrfs, whose files can share blocks, in the same way.
    pub fn btrfs(at: &Path, mebibytes: u64) -> Disk {
        Disk::in_file(at, "btrfs", mebibytes, &["-q"])
    }

    fn in_file(at: &Path, kind: &str, mebibytes: u64, options: &[&str]) -> Disk {
        fs::create_dir_all(at).unwrap();
        let file = at.with_extension(kind);
        File::create(&file).unwrap().set_len(mebibytes << 20).unwrap();
        let path = std::env::var("PATH").unwrap_or_default();
        let mut mkfs = Command::new(format!("mkfs.{kind}"));
        run(mkfs.env("PATH", format!("{path}:/usr/sbin:/sbin")).args(options).arg(&file));
        let disk = Disk { at: at.into(), file: Some(file) };
        MOUNTED.lock().unwrap().push(at.into());
        disk.mount();
        disk
    }

    /// Returns where it is mounted.
    pub fn path(&self) -> &Path {
        &self.at
    }

    /// Gives a tmpfs other options.
    pub fn remount(&self, options: &str) {
        let mut remount = Command::new("mount");
        remount.args(["-o", &format!("remount,{options}")]).arg(&self.at);
        for _ in 0..1000 {
            if remount.output().unwrap().status.success() {
                return;
            }
            // What was removed just now counts for another moment.
            std::thread::sleep(Duration::from_millis(20));
        }
        run(&mut remount);
    }

    /// Takes the power away: what is not on the disk now, its journal included, never will be.
    pub fn cut_power(&self) {
        // EXT4_IOC_SHUTDOWN, EXT4_GOING_FLAGS_NOLOGFLUSH. Perl is a part of every Debian.
        let script = r#"my $flag = pack("I", 2); open(D, "<", $ARGV[0]) && ioctl(D, 0x8004587D, $flag) or die "$!""#;
        run(Command::new("perl").args(["-e", script]).arg(&self.at));
    }

    /// Starts it again after a power cut: the kernel replays the journal.
    ///
    /// As long as anybody has it mounted, it stays the one without power: somebody who was killed and is
    /// not gone yet, or whoever made a mount namespace meanwhile. So it begins anew with a copy of what it holds.
    pub fn restart(&self) {
        let file = self.file.as_ref().expect("a tmpfs has no file");
        let copy = file.with_extension("copy");
        run(Command::new("umount").arg("--lazy").arg(&self.at));
        run(Command::new("cp").arg("--sparse=always").args([file, &copy]));
        fs::rename(&copy, file).unwrap();
        self.mount();
    }

    fn mount(&self) {
        let file = self.file.as_ref().expect("a tmpfs has no file");
        run(Command::new("mount").args(["-o", "loop"]).arg(file).arg(&self.at));
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let lazily = ["--lazy", "--"];
        let _ = Command::new("umount").args(lazily).arg(&self.at).output();
        if let Some(file) = &self.file {
            let _ = fs::remove_file(file);
        }
    }
}

/// Tells whether a disk was ever mounted at `path`.
///
/// Whoever on this machine makes a mount namespace has a copy of it, which is no sign of a sandbox's own.
pub(crate) fn was_at(path: &Path) -> bool {
    MOUNTED.lock().unwrap().iter().any(|at| at == path)
}

#[track_caller]
fn run(command: &mut Command) {
    let out = command.output().unwrap_or_else(|err| panic!("{command:?}: {err}"));
    assert!(out.status.success(), "{command:?}: {}", String::from_utf8_lossy(&out.stderr));
}
