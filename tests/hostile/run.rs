//! Where a case is run: a small filesystem in memory with the bait, the case, the store and the target.
//!
//! ```text
//! box/bait/   what must not change          box/tool/         a busybox for what looks around in a container
//! box/case/   the input, and the target     box/tare run tmp  the store and what is temporary
//! ```
//!
//! It is one filesystem, so that a hard link could lead from one to another, and
//! a small one, so that a bomb has no room.

use std::cell::RefCell;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};
use sandbox::Sandbox;
use sandbox::corpus::{Case, Input, Outcome};
use sandbox::disk::Disk;
use sandbox::image::read_json;

use super::bait::Bait;
use super::look::{Owners, list};

/// How much room there is.
const ROOM: &str = "size=120m,mode=755";

/// How long a tool may take for a case, on a machine that does other things as well.
const DEADLINE: Duration = Duration::from_secs(240);

/// The most bytes that an error may have.
const LONG: usize = 8 << 10;

/// Who runs the tools.
#[derive(Clone, Copy, PartialEq)]
pub enum Who {
    Root,
    User,
}

/// A place to run cases in.
pub struct Bench {
    who: Who,
    /// What is mounted; in the sandbox, so it goes first.
    _disk: Disk,
    dir: PathBuf,
    bait: Bait,
    owners: Owners,
    owner: (u32, u32),
    /// How many of busybox's kilobytes are one: some versions count pages.
    scale: u64,
    /// The name of the case that is run, for when it hangs.
    now: RefCell<String>,
    t: Sandbox,
}

/// What a tool did.
struct Did {
    code: i32,
    stdout: String,
    stderr: String,
    /// In KiB.
    memory: u64,
}

impl Bench {
    pub fn new(who: Who) -> Bench {
        let t = Sandbox::new().with_limit(DEADLINE);
        let t = if who == Who::User { t.as_user() } else { t };
        let dir = t.path("work/box");
        let disk = Disk::tmpfs(&dir, ROOM);
        let meta = fs::metadata(t.path("work")).unwrap();
        let owner = (meta.uid(), meta.gid());
        let owners = match who {
            Who::Root => Owners::Same,
            Who::User => Owners::Of { uid: owner.0, gid: owner.1, first: subordinate(owner.0) },
        };
        chown(&dir, Some(owner.0), Some(owner.1)).unwrap();
        for name in ["tool", "run", "tmp"] {
            fs::create_dir(dir.join(name)).unwrap();
            chown(dir.join(name), Some(owner.0), Some(owner.1)).unwrap();
        }
        t.sh("cp $(command -v busybox) box/tool/busybox").is_silent();
        let bait = Bait::lay(&dir.join("bait"), owner);
        // A program that takes 32 MiB and little else.
        let measured = t.sh("busybox time -o box/tmp/rss -f %M dd if=/dev/zero of=/dev/null bs=32M count=1 2>&1; tail -1 box/tmp/rss; rm box/tmp/rss").text();
        let measured: u64 = measured.lines().last().unwrap().parse().unwrap();
        let scale = (measured + (8 << 10)) / (33 << 10);
        assert!(scale == 1 || scale == 4, "busybox time says {measured}");
        t.set("TARE_ROOT", dir.join("tare"));
        t.set("TARE_RUN", dir.join("run"));
        t.set("TMPDIR", dir.join("tmp"));
        Bench { who, _disk: disk, dir, bait, owners, owner, scale, now: RefCell::default(), t }
    }

    /// Runs every `of`th of the cases, from the one with this number on. All are run, and then all that is wrong is told.
    pub fn all(&self, cases: impl Fn(&str) -> Vec<Case>, from: usize, of: usize) {
        let bait = self.dir.join("bait");
        let cases = cases(bait.to_str().unwrap().trim_start_matches('/'));
        let only = std::env::var("TARE_CASE").ok();
        let mut wrong = Vec::new();
        let mut runs = 0;
        for case in cases.iter().skip(from).step_by(of) {
            if only.as_ref().is_some_and(|only| !case.name.contains(only)) {
                continue;
            }
            let start = Instant::now();
            *self.now.borrow_mut() = case.name.clone();
            let (done, found) = self.case(case);
            runs += done;
            let name = format!("{:?}: {}", case.row, case.name);
            wrong.extend(
                found
                    .into_iter()
                    .map(|what| format!("{name}\n    {}", what.replace('\n', "\n    "))),
            );
            if only.is_some() || start.elapsed() > Duration::from_secs(2) {
                eprintln!("{} ms: {name}", start.elapsed().as_millis());
            }
        }
        eprintln!("{runs} runs");
        assert!(wrong.is_empty(), "{} are wrong:\n{}", wrong.len(), wrong.join("\n"));
    }

    /// Runs a case by every tool that reads such a thing; returns how many runs it took, and what was wrong.
    fn case(&self, case: &Case) -> (usize, Vec<String>) {
        let expected = match (&case.user, self.who) {
            (Some(outcome), Who::User) => outcome,
            _ => &case.root,
        };
        let mut wrong = Vec::new();
        let mut runs = 0;
        let mut check = |tool: &str, found: Vec<String>| {
            runs += 1;
            let who = if self.who == Who::Root { "root" } else { "a user" };
            wrong.extend(found.into_iter().map(|what| format!("{tool} of {who}: {what}")));
        };

        self.clear();
        let operand = self.write(&case.input);
        let (tree, found) = self.unpack(&operand, expected, case.memory);
        check("img-unpack", found);

        self.clear();
        let operand = self.write(&case.input);
        let run = case.run.as_ref().map(|part| Outcome::Refused(part.clone()));
        let expected_run = run.as_ref().unwrap_or(expected);
        check("ctr-spawn", self.spawn(&operand, expected_run, tree.as_deref(), case.memory));

        match &case.input {
            Input::Layers(layers) if layers.len() == 1 => {
                self.clear();
                fs::write(self.dir.join("case/layer"), &layers[0].blob).unwrap();
                check("img-import", self.import(case, expected));
            }
            Input::Archive(_) => {
                self.clear();
                self.write(&case.input);
                let (_, found) = self.unpack("- <image", expected, case.memory);
                check("img-unpack of a pipe", found);
                for how in ["img-load -i image", "sh -c 'cat image | img-load'"] {
                    self.clear();
                    self.write(&case.input);
                    check(how, self.load(how, case, expected));
                }
            }
            _ => {}
        }
        (runs, wrong)
    }

    /// Makes room: no case, no store.
    fn clear(&self) {
        for name in ["case", "tare"] {
            let path = self.dir.join(name);
            if fs::remove_dir_all(&path).is_err() && path.exists() {
                // Deeper than std dares to go.
                let done = std::process::Command::new("rm").arg("-rf").arg(&path).status();
                assert!(done.unwrap().success());
            }
        }
        fs::create_dir(self.dir.join("case")).unwrap();
        chown(self.dir.join("case"), Some(self.owner.0), Some(self.owner.1)).unwrap();
    }

    /// Writes the input, and returns the operand that leads to it.
    fn write(&self, input: &Input) -> String {
        let image = self.dir.join("case/image");
        match input {
            Input::Layers(layers) => {
                sandbox::corpus::image::make(layers.clone()).layout().write(&image);
                "./image".into()
            }
            Input::Layout(layout, rest) => {
                layout.write(&image);
                format!("'./image{rest}'")
            }
            Input::Archive(bytes) => {
                fs::write(&image, bytes).unwrap();
                "./image".into()
            }
        }
    }

    /// Runs a script in the case's directory, its last command under a clock.
    fn run(&self, command: &str) -> Did {
        let rss = self.dir.join("tmp/rss");
        let name = self.now.borrow();
        let run = self
            .t
            .sh(&format!("# {name}\ncd box/case; exec busybox time -o ../tmp/rss -f %M {command}"));
        let measured = fs::read_to_string(&rss).unwrap_or_default();
        let _ = fs::remove_file(rss);
        let memory = measured.lines().last().and_then(|line| line.parse::<u64>().ok());
        Did {
            code: run.code,
            stdout: String::from_utf8_lossy(&run.stdout).into(),
            stderr: String::from_utf8_lossy(&run.stderr).into(),
            memory: memory.map_or(u64::MAX, |kilobytes| kilobytes / self.scale),
        }
    }

    /// Returns what is wrong with a run, whatever it was to do.
    fn sound(&self, did: &Did, failure: i32, memory: u64) -> Vec<String> {
        let mut wrong = Vec::new();
        if did.code != 0 && did.code != failure {
            wrong.push(format!("status {}: {}", did.code, did.stderr));
        }
        let drives = |c: char| {
            (c.is_control() && c != '\n')
                || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
        };
        if did.stderr.contains(drives) || did.stdout.contains(drives) {
            wrong.push(format!("a terminal would obey: {:?}", did.stderr));
        }
        if did.stderr.len() > LONG {
            wrong.push(format!("an error of {} bytes", did.stderr.len()));
        }
        if did.stderr.contains("panicked") {
            wrong.push(format!("a panic: {}", did.stderr));
        }
        if did.memory > memory << 10 {
            wrong.push(format!("it took {} KiB of memory", did.memory));
        }
        if let Some(changed) = self.bait.changed() {
            wrong.push(format!("THE BAIT HAS CHANGED:\n{changed}"));
        }
        wrong.extend(self.leftovers());
        wrong
    }

    /// Returns what should not be there any more, or never.
    fn leftovers(&self) -> Vec<String> {
        let names = |dir: &Path| -> Vec<String> {
            let entries = fs::read_dir(dir).into_iter().flatten().flatten();
            let mut names: Vec<String> =
                entries.map(|entry| entry.file_name().to_string_lossy().into()).collect();
            names.sort();
            names
        };
        let mut left = Vec::new();
        let mut only = |dir: &str, right: &dyn Fn(&str) -> bool| {
            for name in names(&self.dir.join(dir)) {
                if !right(&name) {
                    left.push(format!("left behind: {dir}/{name}"));
                }
            }
        };
        only(".", &|name| ["bait", "case", "tool", "tare", "run", "tmp"].contains(&name));
        only("case", &|name| ["image", "layer", "out", "again"].contains(&name));
        only("tmp", &|_| false);
        only("tool", &|name| name == "busybox");
        only("tare", &|name| ["images", "layers", "containers", "cache"].contains(&name));
        only("tare/images", &|name| ["blobs", "index.json", "oci-layout"].contains(&name));
        only("tare/containers", &|name| name == ".rm");
        only("tare/containers/.rm", &|_| false);
        only("tare/layers", &|name| !name.starts_with('.'));
        // When images were used, and what is known of them.
        only("tare/cache", &|name| ["used", "images"].contains(&name));
        left
    }

    /// Unpacks `operand`; returns the tree if there is one.
    fn unpack(
        &self,
        operand: &str,
        expected: &Outcome,
        memory: u64,
    ) -> (Option<Vec<String>>, Vec<String>) {
        let did = self.run(&format!("img-unpack --rootfs {}", place(operand, "./out")));
        let mut wrong = self.sound(&did, 1, memory);
        let out = self.dir.join("case/out");
        if did.code != 0 {
            if out.exists() || !did.stdout.is_empty() {
                wrong.push(format!("it failed, but there is a result: {:?}", did.stdout));
            }
            wrong.extend(refused(expected, &did, "img-unpack"));
            return (None, wrong);
        }
        if did.stdout != "./out\n" {
            wrong.push(format!("it printed {:?}", did.stdout));
        }
        let tree = list(&out, self.owners);
        wrong.extend(accepted(expected, &tree));
        (Some(tree), wrong)
    }

    /// Imports the tar, and unpacks the image that it became.
    fn import(&self, case: &Case, unpacked: &Outcome) -> Vec<String> {
        let expected = case.import.as_ref().unwrap_or(unpacked);
        let did = self.run("img-import layer app");
        let mut wrong = self.sound(&did, 1, case.memory);
        let names = read_json(&self.dir.join("tare/images/index.json"));
        let names = names["manifests"].as_array().unwrap().len();
        if did.code != 0 {
            if names != 0
                || self.dir.join("tare/images/blobs/sha256").read_dir().unwrap().next().is_some()
            {
                wrong.push("it failed, but something is in the store".into());
            }
            if case.in_tree && case.import.is_none() {
                wrong.push(format!("it looks at no tree, but says {}", did.stderr));
            }
            wrong.extend(refused(expected, &did, "img-import"));
            return wrong;
        }
        if names != 1 || !did.stdout.starts_with("app:latest@sha256:") {
            wrong.push(format!("it printed {:?}, and there are {names} names", did.stdout));
        }
        if matches!(expected, Outcome::Refused(_)) && !case.in_tree && case.user.is_none() {
            wrong.push("it was imported".into());
        }
        let (_, found) = self.unpack("app", expected, case.memory);
        wrong.extend(found.into_iter().map(|what| format!("then img-unpack: {what}")));
        wrong
    }

    /// Loads the archive, and unpacks the image that it holds.
    fn load(&self, how: &str, case: &Case, unpacked: &Outcome) -> Vec<String> {
        let did = self.run(how);
        let mut wrong = self.sound(&did, 1, case.memory);
        let blobs = self.dir.join("tare/images/blobs/sha256").read_dir().unwrap().count();
        let index = read_json(&self.dir.join("tare/images/index.json"));
        let images = index["manifests"].as_array().unwrap().len();
        if did.code != 0 {
            if images + blobs != 0 {
                wrong.push(format!("it failed, but {images} images and {blobs} blobs are there"));
            }
            wrong.extend(refused(unpacked, &did, "img-load"));
            return wrong;
        }
        let lines: Vec<&str> = did.stdout.lines().collect();
        if images != lines.len() || images == 0 {
            wrong.push(format!("it printed {:?}, and there are {images} images", did.stdout));
        }
        match unpacked {
            // It takes several, and looks into no layer.
            Outcome::Refused(part) if part == "which image?" => wrong,
            Outcome::Refused(part) if part != "its diff ID is" => {
                wrong.push(format!("it was loaded, and should say {part:?}"));
                wrong
            }
            _ => {
                let digest = lines.first().and_then(|line| line.split('@').next_back());
                let (_, found) = self.unpack(digest.unwrap_or_default(), unpacked, case.memory);
                wrong.extend(found.into_iter().map(|what| format!("then img-unpack: {what}")));
                wrong
            }
        }
    }

    /// Runs the image, and compares the tree that the container sees with the one that img-unpack made.
    fn spawn(
        &self,
        operand: &str,
        expected: &Outcome,
        unpacked: Option<&[String]>,
        memory: u64,
    ) -> Vec<String> {
        let (did, tree) = self.container(operand);
        let mut wrong = self.sound(&did, 125, memory);
        match tree {
            None => {
                wrong.extend(refused(expected, &did, "ctr-spawn"));
                let layers = fs::read_dir(self.dir.join("tare/layers")).into_iter().flatten();
                if unpacked.is_none() && layers.count() > 0 {
                    wrong.push("it failed, but a layer is there".into());
                }
            }
            Some(tree) => {
                if did.code != 0 {
                    wrong.push(format!("status {}: {}", did.code, did.stderr));
                }
                let here = seen(unpacked.unwrap_or_default());
                let there = seen(&tree);
                if unpacked.is_none() {
                    wrong.push("it ran, and could not be unpacked".into());
                } else if here != there {
                    wrong.push(format!(
                        "the container sees another tree:\n{}",
                        differences(&here, &there)
                    ));
                }
                if let Outcome::Refused(part) = expected {
                    wrong.push(format!("it ran, and should say {part:?}"));
                }
            }
        }
        wrong
    }

    /// Runs a container that waits, and looks at its root from outside.
    fn container(&self, operand: &str) -> (Did, Option<Vec<String>>) {
        let (operand, input) = match operand.split_once(" <") {
            Some((operand, input)) => (operand, format!("<{input}")),
            None => (operand, String::new()),
        };
        let script = format!(
            "cd box/case; exec busybox time -o ../tmp/rss -f %M ctr-spawn --rm -i --network none \
             -v $PWD/../tool:/.tool:ro {operand} /.tool/busybox sh -c 'echo up; read line' {input}"
        );
        let mut command = self.t.command(&script);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut stdin = child.stdin.take();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut stderr = child.stderr.take().unwrap();
        let (sender, up) = channel();
        let reader = thread::spawn(move || {
            let mut line = String::new();
            let _ = stdout.read_line(&mut line);
            let _ = sender.send(line.clone());
            let _ = stdout.read_to_string(&mut line);
            line
        });
        let errors = thread::spawn(move || {
            let mut text = Vec::new();
            let _ = stderr.read_to_end(&mut text);
            String::from_utf8_lossy(&text).into_owned()
        });
        let Ok(line) = up.recv_timeout(DEADLINE) else {
            let _ = child.kill();
            panic!("after {} s {} still runs: {script}", DEADLINE.as_secs(), self.now.borrow());
        };
        let tree = (line == "up\n").then(|| {
            let init = descendants(child.id()).into_iter().find(|pid| {
                fs::read(format!("/proc/{pid}/cmdline"))
                    .is_ok_and(|line| line.starts_with(b"/.tool/busybox"))
            });
            let init = init.expect("the container's process");
            list(Path::new(&format!("/proc/{init}/root")), self.owners)
        });
        if let Some(stdin) = &mut stdin {
            let _ = stdin.write_all(b"\n");
        }
        drop(stdin);
        let status = child.wait().unwrap();
        let rss = self.dir.join("tmp/rss");
        let measured = fs::read_to_string(&rss).unwrap_or_default();
        let _ = fs::remove_file(rss);
        let memory = measured.lines().last().and_then(|line| line.parse::<u64>().ok());
        let did = Did {
            code: status.code().unwrap_or(128),
            stdout: reader.join().unwrap(),
            stderr: errors.join().unwrap(),
            memory: memory.map_or(u64::MAX, |kilobytes| kilobytes / self.scale),
        };
        (did, tree)
    }

    /// Returns the sandbox, whose scripts start beside the box.
    pub fn sandbox(&self) -> &Sandbox {
        &self.t
    }

    /// Returns the directory that all of this is in.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Returns what has changed of the bait.
    pub fn bait_changed(&self) -> Option<String> {
        self.bait.changed()
    }

    /// Makes room for another image, and writes it.
    pub fn prepare(&self, input: &Input) -> String {
        self.clear();
        self.write(input)
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        let _ = fs::set_permissions(&self.dir, fs::Permissions::from_mode(0o755));
        // Not as the disk itself would, whoever is still in there.
        let mut done = umount2(&self.dir, MntFlags::empty());
        let start = Instant::now();
        // What a test beside this one is just starting has our files until it is executed.
        while done == Err(Errno::EBUSY) && start.elapsed() < Duration::from_secs(10) {
            thread::sleep(Duration::from_millis(10));
            done = umount2(&self.dir, MntFlags::empty());
        }
        if !thread::panicking() {
            done.expect("nothing is busy in the box");
        }
    }
}

/// Puts `target` behind an operand, and before where its standard input comes from.
fn place(operand: &str, target: &str) -> String {
    match operand.split_once(" <") {
        Some((operand, input)) => format!("{operand} {target} <{input}"),
        None => format!("{operand} {target}"),
    }
}

/// Returns what is wrong about an error.
fn refused(expected: &Outcome, did: &Did, tool: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    match expected {
        Outcome::Refused(part) if !did.stderr.contains(part.as_str()) => {
            wrong.push(format!("it should say {part:?}: {}", did.stderr));
        }
        Outcome::Refused(_) => {}
        _ => wrong.push(format!("refused: {}", did.stderr)),
    }
    if !did.stderr.lines().all(|line| line.starts_with(tool) || line.starts_with("hint: ")) {
        wrong.push(format!("no error of ours: {}", did.stderr));
    }
    wrong
}

/// Returns what is wrong about a tree.
fn accepted(expected: &Outcome, tree: &[String]) -> Vec<String> {
    match expected {
        Outcome::Refused(part) => vec![format!("it should say {part:?}, and made\n{}", few(tree))],
        Outcome::Like(check) => check(tree).err().into_iter().collect(),
        Outcome::Tree(lines) => {
            let mut lines = lines.clone();
            lines.sort();
            match lines == tree {
                true => Vec::new(),
                false => vec![format!("another tree:\n{}", differences(&lines, tree))],
            }
        }
    }
}

/// Shows what one list has and the other has not.
pub fn differences(before: &[String], after: &[String]) -> String {
    let gone = before.iter().filter(|line| !after.contains(line)).map(|line| format!("- {line}"));
    let new = after.iter().filter(|line| !before.contains(line)).map(|line| format!("+ {line}"));
    few(&gone.chain(new).collect::<Vec<_>>())
}

fn few(lines: &[String]) -> String {
    let shown: Vec<String> =
        lines.iter().take(30).map(|line| line.chars().take(300).collect()).collect();
    shown.join("\n")
}

/// Leaves out of a tree what a container has of its own: what is mounted, and where.
fn seen(tree: &[String]) -> Vec<String> {
    let own = |line: &&String| {
        let path = line.split(['=', '>', '(', '|', ':']).next().unwrap_or_default();
        let first = path.split('/').next().unwrap_or_default();
        ["proc", "sys", "dev", ".tool", "."].contains(&first) || path == "etc/"
    };
    tree.iter().filter(|line| !own(line)).cloned().collect()
}

/// Returns the processes that `pid` started, and that these started.
fn descendants(pid: u32) -> Vec<u32> {
    let mut all = vec![pid];
    let mut at = 0;
    while at < all.len() {
        let tasks = fs::read_dir(format!("/proc/{}/task", all[at])).into_iter().flatten().flatten();
        for task in tasks {
            let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
            all.extend(children.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
        }
        at += 1;
    }
    all
}

/// Returns the first subordinate id of a user.
fn subordinate(uid: u32) -> u32 {
    let user = nix::unistd::User::from_uid(uid.into()).unwrap().unwrap();
    let text = fs::read_to_string("/etc/subuid").unwrap();
    let lines = text.lines().map(|line| line.split(':').collect::<Vec<_>>());
    let mut first = lines.filter(|line| line[0] == user.name).map(|line| line[1].parse().unwrap());
    first.next().expect("useradd gave the user subordinate ids")
}
