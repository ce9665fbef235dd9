//! A file system of a test's own: a small one, or one that loses power. It takes root.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

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
        run(Command::new("mount").args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(at));
        Disk { at: at.into(), file: None }
    }

    /// Mounts an ext4 of so many MiB, in a file beside `at`, at `at`, which is made.
    pub fn ext4(at: &Path, mebibytes: u64) -> Disk {
        fs::create_dir_all(at).unwrap();
        let file = at.with_extension("ext4");
        File::create(&file).unwrap().set_len(mebibytes << 20).unwrap();
        run(Command::new("mkfs.ext4").args(["-q", "-E", "lazy_itable_init=1"]).arg(&file));
        let disk = Disk { at: at.into(), file: Some(file) };
        disk.mount();
        disk
    }

    /// Returns where it is mounted.
    pub fn path(&self) -> &Path {
        &self.at
    }

    /// Gives a tmpfs other options.
    pub fn remount(&self, options: &str) {
        run(Command::new("mount").args(["-o", &format!("remount,{options}")]).arg(&self.at));
    }

    /// Takes the power away: what is not on the disk now, its journal included, never will be.
    pub fn cut_power(&self) {
        // EXT4_IOC_SHUTDOWN, EXT4_GOING_FLAGS_NOLOGFLUSH. Perl is a part of every Debian.
        let script = r#"my $flag = pack("I", 2); open(D, "<", $ARGV[0]) && ioctl(D, 0x8004587D, $flag) or die "$!""#;
        run(Command::new("perl").args(["-e", script]).arg(&self.at));
    }

    /// Starts it again after a power cut: the kernel replays the journal.
    pub fn restart(&self) {
        self.unmount();
        self.mount();
    }

    fn mount(&self) {
        let file = self.file.as_ref().expect("a tmpfs is not mounted again");
        run(Command::new("mount").args(["-o", "loop"]).arg(file).arg(&self.at));
    }

    fn unmount(&self) {
        let gone = |command: &mut Command, gone: fn(&Output) -> bool| {
            for _ in 0..500 {
                if gone(&command.output().unwrap()) {
                    return;
                }
                std::thread::sleep(Duration::from_millis(20));
            }
            panic!("{command:?}: still in use");
        };
        // Whoever was killed may not be gone yet.
        gone(Command::new("umount").arg(&self.at), |out| out.status.success());
        // Nor a container of another test, which had a copy of this mount for a moment: as long as
        // there is one, to mount it again is to see the one that has no power.
        let file = self.file.as_ref().expect("a tmpfs is not mounted again");
        gone(Command::new("losetup").arg("-j").arg(file), |out| out.stdout.is_empty());
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

#[track_caller]
fn run(command: &mut Command) {
    let out = command.output().unwrap_or_else(|err| panic!("{command:?}: {err}"));
    assert!(out.status.success(), "{command:?}: {}", String::from_utf8_lossy(&out.stderr));
}
