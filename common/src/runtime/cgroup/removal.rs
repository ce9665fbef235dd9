//! The end of cgroups: what is in them is killed, and they are removed, from the bottom.
//!
//! A privileged container can make cgroups of its own: a hundred below each other, with names so
//! long that no path leads to the last. So a tree of them is walked with one descriptor, whose
//! names are never put together. A process that the kernel cannot end keeps its cgroup: all of it
//! has one deadline, and what is there then stays for the next tool to remove.

use std::ffi::CString;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, openat, unlinkat};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// How long a killed process takes to leave its cgroup, at the most, on a busy machine.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);
/// What each of many has, so that one that stays does not keep the others.
pub(super) const LEAST: Duration = Duration::from_millis(20);
/// Between two looks at it.
const PAUSE: Duration = Duration::from_millis(2);

/// Kills what is in the cgroup `dir` and in those below it, if anything still is, and removes them until `deadline`.
pub(super) fn remove(dir: &Path, unified: bool, deadline: Instant) {
    loop {
        match fs::remove_dir(dir) {
            // A directory that is no cgroup says the second: in tests.
            Err(err)
                if matches!(err.kind(), ErrorKind::ResourceBusy | ErrorKind::DirectoryNotEmpty) => {
            }
            _ => return,
        }
        let Ok(top) = open_dir(CWD, dir) else { return };
        if unified {
            // The kernel does so to all below as well.
            let _ = fs::write(dir.join("cgroup.kill"), "1");
        }
        clear(top, unified, deadline);
        match fs::remove_dir(dir) {
            Err(_) if Instant::now() < deadline => std::thread::sleep(PAUSE),
            _ => return,
        }
    }
}

/// Removes what is below the cgroup `top` and has nobody in it any more.
fn clear(top: OwnedFd, unified: bool, deadline: Instant) {
    let enter = |dir: &OwnedFd| {
        if !unified {
            kill_members(dir);
        }
        children(dir)
    };
    let mut here = top;
    let mut left = enter(&here);
    // The name of each directory from the top to here, and what is left to do beside it.
    let mut way: Vec<(CString, Vec<CString>)> = Vec::new();
    while Instant::now() < deadline {
        if let Some(name) = left.pop() {
            if unlinkat(&here, &name, AtFlags::REMOVEDIR).is_ok() {
                continue;
            }
            let Ok(child) = open_dir(&here, &name) else { continue };
            way.push((name, std::mem::replace(&mut left, enter(&child))));
            here = child;
        } else if let Some((name, beside)) = way.pop() {
            // A cgroup is never moved to another one.
            let Ok(above) = open_dir(&here, "..") else { return };
            let _ = unlinkat(&above, &name, AtFlags::REMOVEDIR);
            (here, left) = (above, beside);
        } else {
            return;
        }
    }
}

fn open_dir(
    at: impl std::os::fd::AsFd,
    path: impl rustix::path::Arg,
) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(at, path, flags, Mode::empty())
}

/// Returns the names of the cgroups in `dir`.
fn children(dir: &OwnedFd) -> Vec<CString> {
    let entries = Dir::read_from(dir).into_iter().flatten().flatten();
    let dirs = entries.filter(|entry| entry.file_type() == FileType::Directory);
    let names = dirs.map(|entry| entry.file_name().to_owned());
    names.filter(|name| !matches!(name.to_bytes(), b"." | b"..")).collect()
}

/// Kills the processes of a cgroup of version 1, but not of those below it.
fn kill_members(dir: &OwnedFd) {
    let members = || -> io::Result<String> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut text = String::new();
        File::from(openat(dir, "cgroup.procs", flags, Mode::empty())?).read_to_string(&mut text)?;
        Ok(text)
    };
    for line in members().unwrap_or_default().lines() {
        let pid = line.parse().ok().and_then(Pid::from_raw);
        let Some(Ok(pidfd)) = pid.map(|pid| pidfd_open(pid, PidfdFlags::empty())) else { continue };
        // The id may be another's by now; the descriptor cannot become another's any more.
        if members().is_ok_and(|text| text.lines().any(|other| other == line)) {
            let _ = pidfd_send_signal(&pidfd, Signal::KILL);
        }
    }
}

#[cfg(test)]
mod tests {
    use rustix::fs::mkdirat;

    use super::*;

    /// Makes directories below each other; returns the last.
    fn nest(dir: &Path, depth: usize, name: &str) -> OwnedFd {
        let mut here = open_dir(CWD, dir).unwrap();
        for _ in 0..depth {
            mkdirat(&here, name, Mode::from(0o755)).unwrap();
            here = open_dir(&here, name).unwrap();
        }
        here
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_millis(200)
    }

    #[test]
    fn a_tree_of_any_depth_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let top = dir.path().join("top");
        for (depth, name) in [(0, ""), (1, "a"), (3000, "a"), (40, &*"x".repeat(250))] {
            fs::create_dir(&top).unwrap();
            nest(&top, depth, name);
            fs::create_dir_all(top.join("b/c")).unwrap();
            fs::create_dir_all(top.join("b/d")).unwrap();
            remove(&top, false, Instant::now() + PATIENCE);
            assert!(!top.exists(), "{depth} {name}");
        }
    }

    #[test]
    fn what_is_in_use_stays_and_takes_no_longer_however_deep_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let top = dir.path().join("top");
        fs::create_dir_all(top.join("free")).unwrap();
        let last = nest(&top, 50, &"x".repeat(250));
        // A file cannot be removed as a directory, and stands for a process that cannot be ended.
        openat(&last, "used", OFlags::CREATE | OFlags::CLOEXEC, Mode::from(0o600)).unwrap();
        let began = Instant::now();
        remove(&top, false, soon());
        assert!(began.elapsed() < PATIENCE, "{:?}", began.elapsed());
        assert!(top.exists() && !top.join("free").exists());
        unlinkat(&last, "used", AtFlags::empty()).unwrap();
        remove(&top, false, Instant::now() + PATIENCE);
        assert!(!top.exists());
    }

    #[test]
    fn what_is_not_there_is_not_waited_for() {
        let began = Instant::now();
        remove(Path::new("/nonexistent/x"), true, began + PATIENCE);
        remove(Path::new("/proc/self/nothing"), false, began + PATIENCE);
        assert!(began.elapsed() < PATIENCE / 2);
    }
}
