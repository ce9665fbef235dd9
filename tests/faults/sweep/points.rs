//! Where a tool can be made to fail: a system call, which of them, and how.

use std::collections::BTreeMap;
use std::fmt::{self, Display};

/// One run of a tool that does not go well.
#[derive(Clone, Debug)]
pub struct Point {
    /// The system call.
    pub call: String,
    /// Which of them, from 1, of any one thread.
    pub number: usize,
    /// What happens there.
    pub fault: Fault,
}

/// What happens at a system call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The process is killed, and the call is not made.
    Kill,
    /// The call fails.
    Once(&'static str),
    /// It fails, and so do all that follow.
    Always(&'static str),
}

impl Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Point { call, number, .. } = self;
        match self.fault {
            Fault::Kill => write!(f, "{call}:signal=KILL:when={number}"),
            Fault::Once(error) => write!(f, "{call}:error={error}:when={number}"),
            Fault::Always(error) => write!(f, "{call}:error={error}:when={number}+"),
        }
    }
}

/// The calls that change something, or that tell what there is to change, and the errors that they can have.
const CALLS: &[(&str, &[&str])] = &[
    ("openat openat2 open", &["EMFILE", "ENOSPC", "EROFS", "EIO", "ENOMEM"]),
    (
        "write pwrite64 writev copy_file_range sendfile splice",
        &["ENOSPC", "EIO", "EDQUOT", "EINTR"],
    ),
    ("rename renameat renameat2", &["ENOSPC", "EIO", "EROFS"]),
    ("link linkat symlink symlinkat mkdir mkdirat mknod mknodat", &["ENOSPC", "EROFS", "EDQUOT"]),
    ("chown fchown fchownat lchown chmod fchmod fchmodat utimensat", &["EIO", "EROFS"]),
    ("setxattr lsetxattr fsetxattr removexattr fremovexattr", &["ENOSPC", "EIO"]),
    ("fsync fdatasync syncfs", &["EIO", "ENOSPC", "EDQUOT"]),
    ("flock", &["ENOLCK", "EINTR"]),
    ("fcntl", &["EMFILE"]),
    ("ftruncate fallocate", &["EIO", "ENOSPC"]),
    ("unlink unlinkat rmdir", &["EIO", "EROFS"]),
    (
        "mount fsopen fsconfig fsmount move_mount mount_setattr open_tree umount2",
        &["ENOMEM", "ENOSPC"],
    ),
    ("clone clone3 fork vfork", &["EAGAIN", "ENOMEM"]),
    ("pivot_root chdir fchdir setns unshare sethostname", &["ENOMEM", "EPERM"]),
    (
        "setuid setgid setgroups setresuid setresgid capset prlimit64 prctl seccomp",
        &["EPERM", "ENOMEM"],
    ),
    ("execve execveat", &["ENOMEM", "EIO", "ENOENT", "EACCES", "ENOEXEC"]),
    ("memfd_create pipe2 socketpair signalfd4 epoll_create1 eventfd2", &["EMFILE", "ENOMEM"]),
    ("dup dup2 dup3 setsid", &["EINTR"]),
    // What strace lets fail stays open, which no kernel does.
    ("close close_range", &[]),
    ("read pread64 getdents64 statx newfstatat fstat readlink readlinkat", &["EIO", "EINTR"]),
    ("wait4 waitid poll ppoll pidfd_send_signal", &["EINTR"]),
];

/// Errors that come once: what tries again for ever is right to do so.
const PASSING: &[&str] = &["EINTR", "EAGAIN"];

/// Returns the calls to be listed, as strace takes them.
pub fn calls() -> String {
    let names = CALLS.iter().flat_map(|(names, _)| names.split(' '));
    names.map(|name| format!("?{name}")).collect::<Vec<_>>().join(",")
}

/// Returns how often each call is made by the thread that makes it most, of what strace wrote.
pub fn count(trace: &str) -> BTreeMap<String, usize> {
    let mut of_threads: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    for line in trace.lines() {
        // `1234  rename("a", "b") = 0`; the rest of a call that was interrupted begins with `<...`.
        let Some((thread, call)) = line.split_once(' ') else { continue };
        let Some((name, _)) = call.trim_start().split_once('(') else { continue };
        if name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
            *of_threads.entry((thread, name)).or_default() += 1;
        }
    }
    let mut most = BTreeMap::new();
    for ((_, name), count) in of_threads {
        let known: &mut usize = most.entry(name.to_owned()).or_default();
        *known = count.max(*known);
    }
    most
}

/// Returns the points of a tool that makes these calls: all there are, or about so many.
pub fn points(counts: &BTreeMap<String, usize>, sample: Option<usize>) -> Vec<Point> {
    // Of a thousand calls from one loop the first, the last and some between stand for all.
    let occurrences = if sample.is_some_and(|most| most < 100) { 5 } else { 24 };
    let mut points = Vec::new();
    for (names, errors) in CALLS {
        for call in names.split(' ') {
            let Some(&count) = counts.get(call) else { continue };
            for number in spread(count, occurrences) {
                let mut point = |fault| points.push(Point { call: call.into(), number, fault });
                point(Fault::Kill);
                for error in *errors {
                    point(Fault::Once(error));
                    if !PASSING.contains(error) {
                        point(Fault::Always(error));
                    }
                }
            }
        }
    }
    match sample {
        None => points,
        Some(most) => spread(points.len(), most).map(|n| points[n - 1].clone()).collect(),
    }
}

/// Returns at most `most` of the numbers from 1 to `count`: the first, the last and some between.
fn spread(count: usize, most: usize) -> impl Iterator<Item = usize> {
    let few = count.min(most);
    (0..few).map(move |i| if few == 1 { 1 } else { 1 + i * (count - 1) / (few - 1) })
}

#[test]
fn numbers_are_spread_from_first_to_last() {
    for (count, most, numbers) in
        [(0, 3, vec![]), (1, 3, vec![1]), (3, 3, vec![1, 2, 3]), (100, 3, vec![1, 50, 100])]
    {
        assert_eq!(spread(count, most).collect::<Vec<_>>(), numbers);
    }
}

#[test]
fn calls_are_counted_by_thread() {
    let trace = "7  rename(\"a\", \"b\") = 0\n8  rename(\"a\" <unfinished ...>\n\
        8  <... rename resumed>) = 0\n8  rename(\"(\", \"\") = 0\n8  +++ exited with 0 +++\n";
    assert_eq!(count(trace), BTreeMap::from([("rename".to_owned(), 2)]));
}
