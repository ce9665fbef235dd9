//! Where a tool fails again and again, each time from the same state.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use sandbox::disk::Disk;
use sandbox::run::Run;
use sandbox::{Sandbox, leftovers};

use super::points::{self, Fault, Point};
use crate::faults::layout;

/// How many points a tool is tried at on an ordinary day.
const SAMPLE: usize = 60;
/// How many complaints are shown.
const SHOWN: usize = 30;
/// After how many seconds a tool may hang. One that could not wake its own threads, say, does.
const SLOW: u32 = 10;
/// After how many it does, whatever else the machine is doing.
const HANGS: u32 = 120;
/// The status of one that does: timeout(1).
const HUNG: i32 = 124;
/// How long a killed container's processes may take to end.
const PATIENCE: Duration = Duration::from_secs(30);

/// What is attacked, and what it promises.
pub struct Subject<'a> {
    pub tool: &'a str,
    pub args: &'a str,
    /// The name that is in the store when it has succeeded.
    pub name: Option<&'a str>,
    /// The tree that it makes.
    pub tree: Option<&'a str>,
    /// The files that it makes, each whole or not at all.
    pub files: &'a [&'a str],
    /// The statuses of an error.
    pub statuses: &'a [i32],
    /// A partial blob may stay behind.
    pub keeps_partial: bool,
    /// It becomes somebody else's program, which is not ours to fail.
    pub executes: bool,
    /// It removes images: what it did before it failed is not there to be done again.
    pub removes: bool,
}

impl<'a> Subject<'a> {
    /// Returns what holds for a tool that makes images.
    pub fn of_images(name: &'a str) -> Subject<'a> {
        Subject {
            tool: "",
            args: "",
            name: Some(name),
            tree: None,
            files: &[],
            statuses: &[1],
            keeps_partial: false,
            executes: false,
            removes: false,
        }
    }

    /// Returns what holds for a tool that runs containers.
    pub fn of_containers() -> Subject<'static> {
        Subject {
            tool: "",
            args: "",
            name: None,
            tree: None,
            files: &[],
            statuses: &[125, 126, 127],
            keeps_partial: false,
            executes: true,
            removes: false,
        }
    }

    /// Returns what holds for a tool that removes images.
    pub fn of_removal() -> Subject<'static> {
        Subject { name: None, removes: true, ..Subject::of_images("") }
    }
}

/// A sandbox whose store and working directory are in memory, and can be put back.
///
/// ```text
/// disk/tare disk/work      where the tool is at work
/// disk/start/{tare,work}   what is there before each run
/// ```
pub struct Stage {
    // Unmounted before the sandbox looks for mounts.
    disk: Disk,
    t: Sandbox,
}

/// What a run that goes well does.
struct Expected {
    stdout: Vec<u8>,
    names: layout::Names,
    tree: Option<String>,
    files: Vec<Option<Vec<u8>>>,
    mounts: BTreeSet<String>,
}

impl Stage {
    /// Makes a stage with what `fill` puts into the store.
    pub fn new(t: Sandbox, fill: impl FnOnce(&Sandbox)) -> Stage {
        fill(&t);
        let disk = Disk::tmpfs(&t.path("disk"), "mode=755");
        let at = disk.path().to_owned();
        t.set("DISK", &at);
        t.sh("mkdir -p $DISK/start/work && cp -a $TARE_ROOT $DISK/start/").is_silent();
        t.set("TARE_ROOT", at.join("tare"));
        let stage = Stage { disk, t };
        stage.reset();
        stage
    }

    /// Runs a script that makes what is there before each run.
    pub fn prepare(&self, script: &str) {
        self.reset();
        self.sh(script).is_silent();
        self.t.sh("cd $DISK && rm -rf start/* && { cp -a tare start/ 2>/dev/null || :; } && cp -a work start/").is_silent();
    }

    fn reset(&self) {
        self.t.sh("cd $DISK && rm -rf tare work && cp -a start/. .").is_silent();
    }

    fn sh(&self, script: &str) -> Run {
        self.t.sh(&format!("cd $DISK/work; {script}"))
    }

    fn store(&self) -> PathBuf {
        self.disk.path().join("tare")
    }

    /// Tries the tool at its points.
    pub fn sweep(&self, subject: &Subject) {
        let Subject { tool, args, .. } = subject;
        let command = format!("{tool} {args}");
        let all = self.traced(subject, HANGS, &format!("-e trace={}", points::calls()));
        let stdout = all.exits(0).stdout;
        let expected = Expected {
            stdout,
            names: layout::names(&self.store().join("images")).unwrap(),
            tree: self.tree(subject),
            files: self.files(subject),
            mounts: self.mounts(),
        };
        let trace = self.trace();
        let sample = match std::env::var("TARE_FAULTS").as_deref() {
            Ok("all") => None,
            Ok(number) => Some(number.parse().expect("TARE_FAULTS is a number, or all")),
            Err(_) => Some(SAMPLE),
        };
        let points = points::points(&points::count(&trace), sample);

        let start = Instant::now();
        let mut complaints = Vec::new();
        let (mut met, mut succeeded) = (0, 0);
        for point in &points {
            let Some((run, hit)) = self.meet(subject, point) else { continue };
            met += 1;
            succeeded += usize::from(run.code == 0);
            let mut wrong = self.judge(subject, point, hit, &run, &expected);
            if run.code != 0 {
                wrong.extend(self.judge_second(subject, point, hit, &command, &expected));
            }
            wrong.extend(judge_cgroup(&self.trace(), point, hit, subject));
            if !wrong.is_empty() {
                let stderr = String::from_utf8_lossy(&run.stderr).into_owned();
                complaints.push(format!(
                    "{point}: status {}, {stderr:?}\n    {}",
                    run.code,
                    wrong.join("\n    ")
                ));
            }
        }
        if subject.executes {
            // Where the last one could not remove what is above all cgroups, this one does.
            self.reset();
            self.sh(&command).exits(0);
        }
        let text = format!(
            "faults: {command}: {met} points of {} calls in {:.0} s: {} failed, {succeeded} succeeded all the same, {} wrong\n",
            points.iter().map(|point| &point.call).collect::<BTreeSet<_>>().len(),
            start.elapsed().as_secs_f64(),
            met - succeeded,
            complaints.len()
        );
        // Around the capture of the test harness.
        let _ = std::io::stderr().write_all(text.as_bytes());
        assert!(
            met * 10 >= points.len() * 8,
            "{text}only {met} of {} points were met",
            points.len()
        );
        let shown = complaints.len().min(SHOWN);
        assert!(complaints.is_empty(), "{text}{}", complaints[..shown].join("\n"));
    }

    /// Runs the tool under strace, from the state that it always starts from.
    fn traced(&self, subject: &Subject, limit: u32, options: &str) -> Run {
        self.reset();
        let Subject { tool, args, executes, .. } = subject;
        let detach = if *executes { "-b execve" } else { "" };
        let strace = format!("timeout {limit} strace -f {detach} -qq -y -o ../trace");
        self.sh(&format!("{strace} {options} {tool} {args}"))
    }

    /// Runs the tool so that it meets `point`. It may not: threads do not always share the work in the same way.
    fn meet(&self, subject: &Subject, point: &Point) -> Option<(Run, Hit)> {
        // Of a container's start mkdir(2) tells which cgroup is its own.
        let options = format!("-e trace={},mkdir -e inject={point}", point.call);
        for limit in [SLOW, HANGS, HANGS] {
            let run = self.traced(subject, limit, &options);
            match Hit::of(&self.trace()) {
                Some(Hit::Apt) if run.code == HUNG && limit == SLOW => {
                    judge_cgroup(&self.trace(), point, Hit::Apt, subject);
                }
                Some(hit) => return Some((run, hit)),
                None => {}
            }
        }
        None
    }

    /// Says what is wrong with a run that met `point`.
    fn judge(
        &self,
        subject: &Subject,
        point: &Point,
        hit: Hit,
        run: &Run,
        expected: &Expected,
    ) -> Vec<String> {
        let mut wrong = Vec::new();
        let before = self.disk.path().join("start/tare/images");
        let now = self.store().join("images");
        let earlier =
            if before.exists() { layout::names(&before).unwrap() } else { Default::default() };
        match layout::sound(&now) {
            Err(_) if earlier.is_empty() && run.code != 0 => {}
            Err(why) => wrong.push(format!("the layout: {why}")),
            Ok(names) => {
                let kept = |name| !subject.removes || expected.names.contains_key(name);
                let gone = earlier
                    .iter()
                    .find(|(name, digest)| kept(*name) && names.get(*name) != Some(digest));
                wrong.extend(gone.map(|(name, _)| format!("{name} is gone")));
                if run.code == 0 && names != expected.names {
                    wrong.push(format!("success, but the names are {names:?}"));
                }
            }
        }
        if run.code == 0 || !run.stdout.is_empty() && !subject.executes {
            wrong.extend(self.judge_result(subject, run, expected));
        }
        let torn = self.files(subject).into_iter().zip(&expected.files);
        if torn.into_iter().any(|(file, whole)| file.is_some() && file != *whole) {
            wrong.push("a file that is not whole has got its name".into());
        }
        let syncs = ["fsync", "fdatasync", "syncfs"].contains(&point.call.as_str());
        if run.code == 0 && syncs {
            wrong.push("success, though what was written may not be on the disk".into());
        }
        if run.code != 0 && hit == Hit::Apt {
            wrong.extend(odd_end(subject, point, run));
            if !hinders_removal(point, hit, subject) {
                wrong.extend(self.temporaries(subject));
            }
        }
        wrong.extend(self.leaks(expected));
        wrong
    }

    /// Says what is wrong with the run after one that failed.
    fn judge_second(
        &self,
        subject: &Subject,
        point: &Point,
        hit: Hit,
        command: &str,
        expected: &Expected,
    ) -> Vec<String> {
        if subject.tree.is_some_and(|tree| self.disk.path().join("work").join(tree).exists()) {
            // It was all there already.
            return match self.tree(subject) == expected.tree {
                true => Vec::new(),
                false => vec!["a tree that is not whole has got its name".into()],
            };
        }
        let run = self.sh(command);
        let mut wrong = Vec::new();
        if run.code != 0 {
            let stderr = String::from_utf8_lossy(&run.stderr);
            wrong.push(format!("the second run: status {}, {stderr:?}", run.code));
        }
        match layout::sound(&self.store().join("images")) {
            Ok(names) if names == expected.names => {}
            sound => wrong.push(format!("after the second run the layout is {sound:?}")),
        }
        if !subject.removes || !run.stdout.is_empty() {
            wrong.extend(self.judge_result(subject, &run, expected));
        }
        if subject.removes {
            self.sh("img-prune -q >../pruned").is_silent();
            let left = layout::unneeded(&self.store().join("images"));
            wrong.extend(left.iter().map(|blob| format!("a prune left {blob}")));
        }
        let whole = Subject { keeps_partial: false, ..*subject };
        let mut left = self.temporaries(&whole);
        if point.fault != Fault::Kill && hinders_removal(point, hit, subject) {
            // Where all layers are there, the next one that unpacks some collects.
            left.retain(|what| !what.contains("layers/."));
        }
        wrong.extend(left.iter().map(|line| format!("after the second run: {line}")));
        wrong.extend(self.leaks(expected));
        wrong
    }

    /// Says what is wrong with a result.
    fn judge_result(&self, subject: &Subject, run: &Run, expected: &Expected) -> Vec<String> {
        let mut wrong = Vec::new();
        // Of several removals some may be done.
        let some = subject.removes && run.code != 0 && expected.stdout.starts_with(&run.stdout);
        if run.stdout != expected.stdout && !some {
            wrong.push(format!("it printed {:?}", String::from_utf8_lossy(&run.stdout)));
        }
        let names = layout::sound(&self.store().join("images"));
        if let Some(name) = subject.name
            && !names.as_ref().is_ok_and(|names| names.get(name) == expected.names.get(name))
        {
            wrong.push(format!("it printed its result, but {names:?}"));
        }
        if self.tree(subject) != expected.tree {
            wrong.push("it printed its result, but the tree is another".into());
        }
        if self.files(subject) != expected.files {
            wrong.push("it printed its result, but the files are others".into());
        }
        wrong
    }

    /// Returns the digest of all that tar sees of the tree that the tool makes.
    fn tree(&self, subject: &Subject) -> Option<String> {
        let tree = subject.tree?;
        let pack = "tar --sort=name --numeric-owner --format=pax --xattrs --xattrs-include=* \
            --pax-option=delete=atime,delete=ctime";
        // The times of what is made for the tree, and not of the image, are the clock's.
        let script = format!(
            "touch -d @0 {tree} {tree}/rootfs {tree}/config.json; {pack} -c {tree} | sha256sum"
        );
        Some(self.sh(&script).text())
    }

    /// Returns what is in the files that the tool makes.
    fn files(&self, subject: &Subject) -> Vec<Option<Vec<u8>>> {
        let work = self.disk.path().join("work");
        subject.files.iter().map(|name| fs::read(work.join(name)).ok()).collect()
    }

    /// Returns what is temporary and should not be there any more.
    fn temporaries(&self, subject: &Subject) -> Vec<String> {
        let mut left = layout::stale(&self.store().join("images"));
        if subject.keeps_partial {
            left.retain(|file| !file.contains("sha256-") && file != ".partial");
        }
        let list = |script: &str| -> Vec<String> {
            let text = self.t.sh(script).text();
            text.lines().map(str::to_owned).collect()
        };
        left.extend(list("ls -A $TMPDIR"));
        let script = "cd $DISK/tare; find layers -maxdepth 1 -name '.*' 2>/dev/null
            find containers -mindepth 1 ! -path containers/.rm ! -path containers/.names ! -path containers/.run ! -path containers/.build ! -path containers/.build/.rm 2>/dev/null; :";
        left.extend(list(script));
        let known = ["..", ".", "x.tar", "tree"];
        let ours = |name: &str| {
            known.contains(&name) || subject.tree == Some(name) || subject.files.contains(&name)
        };
        left.extend(list("ls -a $DISK/work").into_iter().filter(|name| !ours(name)));
        left.iter().map(|what| format!("left behind: {what}")).collect()
    }

    /// Returns what is left running or mounted.
    fn leaks(&self, expected: &Expected) -> Vec<String> {
        let start = Instant::now();
        loop {
            let mut left: Vec<String> =
                self.mounts().difference(&expected.mounts).cloned().collect();
            left.extend(leftovers::processes(&self.t.path("disk/tare")));
            if left.is_empty() || start.elapsed() > PATIENCE {
                return left.iter().map(|what| format!("left behind: {what}")).collect();
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn trace(&self) -> String {
        fs::read_to_string(self.disk.path().join("trace")).unwrap()
    }

    /// Returns the mounts that have to do with us.
    fn mounts(&self) -> BTreeSet<String> {
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let root = self.t.path("").display().to_string();
        table.lines().filter(|line| line.contains(&root)).map(str::to_owned).collect()
    }
}

/// Whether a fault came to pass.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Hit {
    /// It did.
    Apt,
    /// It did, to something that has no such errors: a pipe, say. What is on the disk is judged, and no more.
    Odd,
}

impl Hit {
    /// Finds it in what strace wrote.
    fn of(trace: &str) -> Option<Hit> {
        let lines: Vec<&str> = trace.lines().collect();
        let mut found = None;
        for (n, line) in lines.iter().enumerate() {
            if !line.contains("(INJECTED)") && !line.contains("killed by SIGKILL") {
                continue;
            }
            // What another thread's call came between is in two lines; the first says what it is about.
            let thread = |line: &str| line.split(' ').next().map(str::to_owned);
            let begun = || lines[..n].iter().rfind(|other| thread(other) == thread(line));
            let line = if line.contains("<... ") { begun().unwrap_or(line) } else { line };
            // Of the commands of fcntl(2) those that only ask, and those of a flag, do not fail.
            let odd =
                ["<anon_inode:", "<pipe:", "<socket:", "<TCP:", "<UNIX", ", F_GETF", ", F_SETF"];
            if odd.iter().any(|kind| line.contains(kind)) {
                return Some(Hit::Odd);
            }
            found = Some(Hit::Apt);
        }
        found
    }
}

/// Says what is wrong with the cgroup that a container had, of whose start this is the trace, and removes it.
fn judge_cgroup(trace: &str, point: &Point, hit: Hit, subject: &Subject) -> Vec<String> {
    let made = trace.lines().filter_map(|line| line.split_once("mkdir(\"/sys/fs/cgroup/"));
    let dirs = made
        .filter_map(|(_, rest)| Some(Path::new("/sys/fs/cgroup").join(rest.split_once('"')?.0)));
    let left: Vec<PathBuf> = dirs.filter(|dir| !dir.ends_with("tare") && dir.exists()).collect();
    let excused = point.fault != Fault::Kill && hinders_removal(point, hit, subject);
    left.iter().for_each(|dir| drop(fs::remove_dir(dir)));
    let left = left.iter().filter(|_| !excused);
    left.map(|dir| format!("left behind: {}", dir.display())).collect()
}

/// Returns whether nothing can be removed any more, nor found that should be.
fn hinders_removal(point: &Point, hit: Hit, subject: &Subject) -> bool {
    let needed = [
        "unlink",
        "unlinkat",
        "rmdir",
        "openat",
        "openat2",
        "fstat",
        "statx",
        "newfstatat",
        "getdents64",
    ];
    // A container that cannot be removed is marked for the next one of us to remove.
    let for_good = subject.executes || matches!(point.fault, Fault::Always(_));
    let hindered = hit == Hit::Odd || needed.contains(&point.call.as_str());
    point.fault == Fault::Kill || for_good && hindered
}

/// Says what is wrong with the status of a run that failed, and with what it said.
fn odd_end(subject: &Subject, point: &Point, run: &Run) -> Option<String> {
    let documented = subject.statuses.contains(&run.code);
    match point.fault {
        // If only a part of it was killed, it says so.
        Fault::Kill => (run.code != 137 && !documented).then(|| "an odd status".into()),
        _ if !documented => Some("an odd status".into()),
        // Nor can it write what went wrong.
        Fault::Always(_) if point.call == "write" => None,
        Fault::Once(error) | Fault::Always(error) => told(subject, error, &run.stderr),
    }
}

/// Says what is wrong with what a tool said when a call failed with `error`.
fn told(subject: &Subject, error: &str, stderr: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(stderr);
    let Some(last) = text.lines().rfind(|line| !line.starts_with("hint: ")) else {
        return Some("it says nothing".into());
    };
    let prefix = format!("{}: ", subject.tool);
    if let Some(odd) =
        text.lines().find(|line| !line.starts_with(&prefix) && !line.starts_with("hint: "))
    {
        return Some(format!("an odd line: {odd:?}"));
    }
    let errno = match error {
        "EMFILE" => "Too many open files",
        "ENOSPC" => "No space left on device",
        "EROFS" => "Read-only file system",
        "EIO" => "Input/output error",
        "ENOMEM" => "Cannot allocate memory",
        "EDQUOT" => "Disk quota exceeded",
        "EINTR" => "Interrupted system call",
        "ENOLCK" => "No locks available",
        "EAGAIN" => "Resource temporarily unavailable",
        "EPERM" => "Operation not permitted",
        "ENOENT" => "No such file or directory",
        "EACCES" => "Permission denied",
        "ENOEXEC" => "Exec format error",
        _ => unreachable!("{error}"),
    };
    // The C library says of a thread that there is no memory for it.
    let thread = error == "ENOMEM" && last.contains("Resource temporarily unavailable");
    // And rustix, that a kernel that fails once to say that it has a call has none.
    let probe = error == "EIO" && last.contains("Function not implemented");
    (!thread && !probe && !last.contains(errno)).then(|| format!("it does not say {errno:?}"))
}
