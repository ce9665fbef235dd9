//! What a test leaves behind on the machine: it should be nothing.
//!
//! Tests run in parallel, so what is there afterwards cannot simply be compared
//! with what was there before. Each kind of thing is told apart in its own way:
//!
//! ```text
//! mounts        the sandbox's path is in the line: as a mount point, a source or an overlay layer
//! processes     the path is in the environment, a working directory, an open file, or a mount of a
//!               mount namespace that is not ours (a container's, whose environment is its own)
//! files         in TMPDIR; .tmp* in the store, or what was not fetched whole
//! cgroups       new, named for tare or just below, and nothing in them for as long as we look: nobody's
//! links         new, and there for as long as we look
//! ```
//!
//! What ends just now is given a moment. The last two rows cannot say whose they
//! are: one of the tests that run at the same time left them, and one fails.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill as send};
use nix::unistd::Pid;

use crate::disk;

/// The variable that marks the processes of a sandbox with its path.
pub const MARKER: &str = "TARE_TEST";

/// How long a thing may take to go away after the test.
const PATIENCE: Duration = Duration::from_secs(5);

/// What was there before the test.
pub struct Before {
    cgroups: BTreeSet<PathBuf>,
    links: BTreeSet<PathBuf>,
}

impl Before {
    /// Looks around.
    pub fn now() -> Before {
        Before { cgroups: cgroups(), links: links() }
    }
}

/// Returns a line for each thing that the sandbox at `root` left behind.
pub fn find(root: &Path, before: &Before) -> Vec<String> {
    let start = Instant::now();
    let look = || {
        let mut left = mounts(root);
        left.extend(processes(root));
        left.extend(files(root));
        let new = |now: BTreeSet<PathBuf>, before: &BTreeSet<PathBuf>| {
            let lines = now.difference(before).map(|path| path.display().to_string());
            lines.collect::<Vec<_>>()
        };
        left.extend(
            new(empty_cgroups(), &before.cgroups).iter().map(|dir| format!("cgroup {dir}")),
        );
        left.extend(new(links(), &before.links).iter().map(|link| format!("link {link}")));
        left
    };
    let mut left = look();
    while !left.is_empty() && start.elapsed() < PATIENCE {
        std::thread::sleep(Duration::from_millis(20));
        let before = left;
        left = look();
        // Only what was there every time: other tests' containers come and go. A process may
        // have executed something else meanwhile, and is the same by its first two words.
        let name = |line: &str| line.splitn(3, ' ').take(2).collect::<Vec<_>>().join(" ");
        let names: BTreeSet<String> = before.iter().map(|line| name(line)).collect();
        left.retain(|line| names.contains(&name(line)));
    }
    left
}

/// Ends what runs in the sandbox, takes its mounts away, and empties it as far as it can.
pub fn remove(root: &Path) {
    kill(root);
    while let Some(point) = mount_points(root).pop() {
        if umount2(&point, MntFlags::MNT_DETACH).is_err() {
            break;
        }
    }
    if fs::remove_dir_all(root).is_err() && !nix::unistd::geteuid().is_root() {
        // Files of subordinate ids: only their user namespace may remove them.
        let _ = std::process::Command::new("unshare")
            .args(["--map-root-user", "--map-auto", "rm", "-rf", "--"])
            .arg(root)
            .output();
    }
}

/// Kills the processes of the sandbox.
pub fn kill(root: &Path) {
    for pid in pids(root) {
        let _ = send(Pid::from_raw(pid), Signal::SIGKILL);
    }
}

/// Returns a line for each process of the sandbox.
pub fn processes(root: &Path) -> Vec<String> {
    let line = |pid: &i32| {
        let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let words: Vec<_> = command.split(|&b| b == 0).map(String::from_utf8_lossy).collect();
        format!("process {pid} {}", words.join(" ").trim_end())
    };
    pids(root).iter().map(line).collect()
}

fn pids(root: &Path) -> Vec<i32> {
    let own = fs::read_link("/proc/self/ns/mnt").ok();
    let numbers = fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()));
    let others = numbers.filter(|&pid| pid != std::process::id() as i32);
    others.filter(|&pid| belongs(pid, root, own.as_deref())).collect()
}

/// Tells whether process `pid` has to do with the sandbox at `root`. One that is gone has not.
fn belongs(pid: i32, root: &Path, own: Option<&Path>) -> bool {
    let proc = PathBuf::from(format!("/proc/{pid}"));
    let environ = fs::read(proc.join("environ")).unwrap_or_default();
    let mark = [MARKER.as_bytes(), b"="].concat();
    // Another sandbox's may have a copy of all mounts, and so of one that lies in this one.
    if let Some(sandbox) = environ.split(|&b| b == 0).find_map(|text| text.strip_prefix(&mark[..]))
    {
        return sandbox == root.as_os_str().as_bytes();
    }
    // One of ours between fork and exec has all that is open here, whichever sandbox that is of.
    let exe = fs::read_link(proc.join("exe"));
    if exe.is_ok_and(|exe| fs::read_link("/proc/self/exe").is_ok_and(|own| own == exe)) {
        return false;
    }
    let leads_in = |link: &Path| fs::read_link(link).is_ok_and(|target| target.starts_with(root));
    if ["cwd", "root", "exe"].iter().any(|name| leads_in(&proc.join(name))) {
        return true;
    }
    let fds = fs::read_dir(proc.join("fd")).into_iter().flatten().flatten();
    if fds.into_iter().any(|entry| leads_in(&entry.path())) {
        return true;
    }
    let namespace = fs::read_link(proc.join("ns/mnt")).ok();
    namespace.is_some()
        && namespace.as_deref() != own
        && lines(&fs::read(proc.join("mountinfo")).unwrap_or_default())
            .any(|line| contains(line, root) && !disk::was_at(&mount_point(line)))
}

/// Returns a line for each mount of this mount namespace that has to do with the sandbox.
fn mounts(root: &Path) -> Vec<String> {
    let table = fs::read("/proc/self/mountinfo").unwrap();
    let ours = lines(&table).filter(|line| contains(line, root));
    ours.map(|line| format!("mount {}", String::from_utf8_lossy(line))).collect()
}

/// Returns the mount points of this mount namespace that lie in the sandbox, topmost last.
fn mount_points(root: &Path) -> Vec<PathBuf> {
    let table = fs::read("/proc/self/mountinfo").unwrap();
    lines(&table).map(mount_point).filter(|point| point.starts_with(root)).collect()
}

fn lines(table: &[u8]) -> impl Iterator<Item = &[u8]> {
    table.split(|&b| b == b'\n').filter(|line| !line.is_empty())
}

/// Returns the mount point in a line of a mountinfo: proc_pid_mountinfo(5).
fn mount_point(line: &[u8]) -> PathBuf {
    OsStr::from_bytes(line.split(|&b| b == b' ').nth(4).unwrap_or_default()).into()
}

fn contains(text: &[u8], root: &Path) -> bool {
    let root = root.as_os_str().as_bytes();
    text.windows(root.len()).any(|window| window == root)
}

/// Returns a line for each temporary file of the sandbox.
///
/// A partial blob is kept on purpose when a pull is cut: its test pulls again, or removes it.
fn files(root: &Path) -> Vec<String> {
    let mut left = Vec::new();
    walk(&root.join("tmp"), &mut |path| left.push(path.to_owned()));
    for store in ["tare", "work"] {
        walk(&root.join(store), &mut |path| {
            let temporary =
                path.file_name().is_some_and(|name| name.as_bytes().starts_with(b".tmp"));
            if temporary || path.parent().is_some_and(|dir| dir.ends_with(".partial")) {
                left.push(path.to_owned());
            }
        });
    }
    left.iter().map(|path| format!("file {}", path.display())).collect()
}

/// Returns the cgroups of every hierarchy that are named for tare, and those right below them.
fn cgroups() -> BTreeSet<PathBuf> {
    let named = |path: &Path| {
        path.file_name().is_some_and(|name| contains(name.as_bytes(), Path::new("tare")))
    };
    let mut found = BTreeSet::new();
    walk(Path::new("/sys/fs/cgroup"), &mut |path| {
        if (named(path) || path.parent().is_some_and(named)) && path.is_dir() {
            found.insert(path.to_owned());
        }
    });
    found
}

/// Returns those of them in which there is nothing: neither a process nor another.
pub fn empty_cgroups() -> BTreeSet<PathBuf> {
    let mut cgroups = cgroups();
    cgroups.retain(|dir| {
        let processes = fs::read(dir.join("cgroup.procs"));
        let mut inside = fs::read_dir(dir).into_iter().flatten().flatten();
        // What cannot be read is gone.
        processes.is_ok_and(|processes| processes.is_empty())
            && !inside.any(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
            && dir.exists()
    });
    cgroups
}

fn links() -> BTreeSet<PathBuf> {
    let links = fs::read_dir("/sys/class/net").into_iter().flatten().flatten();
    links.map(|link| link.path()).collect()
}

/// Calls `visit` for everything below `dir`, without following symlinks.
fn walk(dir: &Path, visit: &mut dyn FnMut(&Path)) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        visit(&entry.path());
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            walk(&entry.path(), visit);
        }
    }
}
