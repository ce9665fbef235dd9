//! Whether git still does something: over git:// and ssh:// it waits for ever for a server that says nothing.
//!
//! git does something if it reads or writes, or if it or one of its helpers computes or waits for a disk. What ssh
//! reads to keep a connection is nothing.

use std::fs;
use std::time::{Duration, Instant};

use rustix::process::Pid;

/// The processes of a group, and since when they do nothing.
pub(super) struct Watch {
    group: Pid,
    patience: Duration,
    done: Option<u64>,
    since: Instant,
}

impl Watch {
    /// Watches a group, which may do nothing for so long.
    pub(super) fn of(group: Pid, patience: Duration) -> Watch {
        Watch { group, patience, done: None, since: Instant::now() }
    }

    /// Returns how often to ask.
    pub(super) fn pace(&self) -> Duration {
        self.patience / 6
    }

    /// Returns whether it has done nothing for too long.
    pub(super) fn is_over(&mut self) -> bool {
        let done = done(self.group);
        if done.is_none() || done != self.done {
            self.done = done;
            self.since = Instant::now();
        }
        self.since.elapsed() >= self.patience
    }
}

/// Returns what grows with what a group does; nothing, if it is at it right now, or if nobody can tell.
fn done(group: Pid) -> Option<u64> {
    let mut all = None;
    for entry in fs::read_dir("/proc").ok()?.flatten() {
        // One that is no process, or that has ended.
        let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else { continue };
        let Some(process) = Process::parse(&stat).filter(|it| it.group == group) else { continue };
        if process.is_busy {
            return None;
        }
        let mut done = process.ticks;
        if process.is_git {
            done += transferred(&fs::read_to_string(entry.path().join("io")).ok()?)?;
        }
        *all.get_or_insert(0) += done;
    }
    all
}

/// What is known of a process: proc_pid_stat(5).
struct Process {
    group: Pid,
    is_git: bool,
    /// It runs, or waits for a disk.
    is_busy: bool,
    /// What it and its children have computed.
    ticks: u64,
}

impl Process {
    fn parse(stat: &str) -> Option<Process> {
        // A name may have anything in it.
        let (start, rest) = stat.rsplit_once(") ")?;
        let name = start.split_once('(')?.1;
        let fields: Vec<&str> = rest.split(' ').collect();
        let ticks: Result<Vec<u64>, _> = fields.get(11..15)?.iter().map(|it| it.parse()).collect();
        Some(Process {
            group: Pid::from_raw(fields[2].parse().ok()?)?,
            is_git: name.starts_with("git"),
            is_busy: matches!(fields[0], "R" | "D"),
            ticks: ticks.ok()?.iter().sum(),
        })
    }
}

/// Returns how many bytes a process has read and written: proc_pid_io(5).
fn transferred(io: &str) -> Option<u64> {
    let count = |name: &str| {
        io.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<u64>().ok())
    };
    Some(count("rchar:")? + count("wchar:")?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_process_does_is_in_its_files() {
        let stat = "7 (git ) R 9 x) S 1 6 6 0 -1 4194560 1 2 3 4 10 20 300 4000 20 0 1 0 5 6 7";
        let process = Process::parse(stat).unwrap();
        assert_eq!((process.group.as_raw_nonzero().get(), process.ticks), (6, 4330));
        assert!(process.is_git && !process.is_busy);
        assert!(!Process::parse(&stat.replace("git", "ssh")).unwrap().is_git);
        assert!(Process::parse(&stat.replace(") S", ") D")).unwrap().is_busy);
        for bad in ["", "7 (git) S 1 6", "7 git S", &stat.replace(" 20 300", " x 300")] {
            assert!(Process::parse(bad).is_none(), "{bad}");
        }
        assert_eq!(transferred("rchar: 2\nwchar: 40\nsyscr: 1\n"), Some(42));
        assert_eq!(transferred("rchar: 2\n"), None);
    }

    #[test]
    fn what_is_not_there_does_not_wait() {
        let mut watch = Watch::of(Pid::from_raw(i32::MAX).unwrap(), Duration::ZERO);
        assert!(watch.is_over(), "no patience");
        watch.patience = Duration::from_millis(50);
        std::thread::sleep(Duration::from_millis(60));
        assert!(!watch.is_over(), "nobody can tell");
    }
}
