//! A script that has run: what it wrote and how it ended, byte for byte.

use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::leftovers;

/// What a script wrote, and its exit status as a shell would report it.
pub struct Run {
    script: String,
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    pub code: i32,
    pub took: Duration,
}

/// Runs `command` to its end, and to the end of everything that holds its output.
pub(crate) fn run(
    mut command: Command,
    script: &str,
    input: Option<Vec<u8>>,
    limit: Duration,
    marker: &Path,
) -> Run {
    let start = Instant::now();
    let stdin = if input.is_some() { Stdio::piped() } else { Stdio::null() };
    command.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();

    let pipe = child.stdin.take();
    thread::spawn(move || {
        if let (Some(mut pipe), Some(input)) = (pipe, input) {
            let _ = pipe.write_all(&input); // a script need not read it all
        }
    });
    let stdout = read(child.stdout.take().unwrap());
    let stderr = read(child.stderr.take().unwrap());

    let left = || limit.saturating_sub(start.elapsed());
    let status = wait(&mut child, limit);
    // Both pipes end when the last process that holds them does: a forgotten one shows here.
    let ended = (stdout.recv_timeout(left()), stderr.recv_timeout(left()));
    let took = start.elapsed();
    match (status, ended) {
        (Some(status), (Ok(stdout), Ok(stderr))) => {
            let code = status.code().or(status.signal().map(|signal| 128 + signal)).unwrap();
            Run { script: script.into(), stdout, stderr, code, took }
        }
        (status, _) => {
            let running = leftovers::processes(marker).join("\n");
            let _ = killpg(Pid::from_raw(child.id() as i32), Signal::SIGKILL);
            leftovers::kill(marker);
            let _ = child.wait();
            let what = match status {
                None => "still runs",
                Some(_) => "ended, but something holds its output",
            };
            panic!("after {} s the script {what}:\n{script}\n{running}", limit.as_secs());
        }
    }
}

/// Waits for `child`, but no longer than `limit`.
fn wait(child: &mut Child, limit: Duration) -> Option<std::process::ExitStatus> {
    let start = Instant::now();
    let mut pause = Duration::from_micros(100);
    loop {
        match child.try_wait().unwrap() {
            Some(status) => return Some(status),
            None if start.elapsed() > limit => return None,
            None => thread::sleep(pause),
        }
        pause = (pause * 2).min(Duration::from_millis(10));
    }
}

/// Reads a pipe to its end on another thread.
fn read(mut pipe: impl Read + Send + 'static) -> Receiver<Vec<u8>> {
    let (sender, receiver) = channel();
    thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = pipe.read_to_end(&mut bytes);
        let _ = sender.send(bytes);
    });
    receiver
}

impl Run {
    /// Demands success, this standard output, and an empty standard error.
    #[track_caller]
    pub fn prints(self, stdout: &str) {
        self.outputs(stdout, "", 0);
    }

    /// Demands success and silence.
    #[track_caller]
    pub fn is_silent(self) {
        self.outputs("", "", 0);
    }

    /// Demands status 1, this standard error, and an empty standard output.
    #[track_caller]
    pub fn fails(self, stderr: &str) {
        self.outputs("", stderr, 1);
    }

    /// Demands exactly this.
    #[track_caller]
    pub fn outputs(self, stdout: &str, stderr: &str, code: i32) {
        let same = self.stdout == stdout.as_bytes()
            && self.stderr == stderr.as_bytes()
            && self.code == code;
        assert!(same, "{}", self.differs(&shown(stdout, stderr, code)));
    }

    /// Demands this status, and returns the run to look at what it wrote.
    #[track_caller]
    pub fn exits(self, code: i32) -> Run {
        assert!(self.code == code, "{}", self.differs(&format!("status {code}\n")));
        self
    }

    /// Demands that it exits 0, and returns its standard output, whatever it said on standard error.
    #[track_caller]
    pub fn text(self) -> String {
        String::from_utf8(self.exits(0).stdout).unwrap()
    }

    /// Demands that standard output ends with `end`.
    #[track_caller]
    pub fn ends_with(self, end: &str) {
        let found = self.stdout.ends_with(end.as_bytes());
        assert!(found, "{}", self.differs(&format!("on stdout, at its end: {end}\n")));
    }

    /// Demands that standard error holds `part`.
    #[track_caller]
    pub fn says(self, part: &str) -> Run {
        let found = String::from_utf8_lossy(&self.stderr).contains(part);
        assert!(found, "{}", self.differs(&format!("on stderr: {part}\n")));
        self
    }

    fn differs(&self, expected: &str) -> String {
        let stdout = String::from_utf8_lossy(&self.stdout);
        let stderr = String::from_utf8_lossy(&self.stderr);
        let actual = shown(&stdout, &stderr, self.code);
        format!("$ {}\n--- expected\n{expected}--- actual\n{actual}", self.script)
    }
}

/// Shows an outcome as a terminal would, with the ends of lines visible where they are odd.
fn shown(stdout: &str, stderr: &str, code: i32) -> String {
    let mut text = String::new();
    for (stream, bytes) in [("stdout", stdout), ("stderr", stderr)] {
        for line in bytes.split_inclusive('\n') {
            let end = if line.ends_with('\n') { "" } else { "(no newline)\n" };
            text += &format!("{stream}: {line}{end}");
        }
    }
    format!("{text}status {code}\n")
}
