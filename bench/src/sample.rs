//! One sample: a command run a few times in a row, its time, its CPU and its largest process.
//!
//! The kernel counts a process's peak memory from its birth, as a copy of its
//! parent, so what is started by a fat parent looks fat. Hence each sample is
//! taken by a process of its own, which is this program again, small, and has
//! had no other children.

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::errno::Errno;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::signal::{Signal, killpg};
use nix::sys::time::TimeValLike;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, alarm};
use serde_json::{Value, json};

/// The first argument of the process that takes a sample.
pub const MARK: &str = "--sample";

/// What a run took: of several, the mean, and the peak of all.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample {
    /// Seconds on the clock.
    pub wall: f64,
    /// Seconds of CPU, in the kernel and out of it, of the command and what it waited for.
    pub cpu: f64,
    /// Bytes of the largest process.
    pub memory: f64,
}

impl Sample {
    pub fn json(&self) -> Value {
        json!({"wall_s": self.wall, "cpu_s": self.cpu, "peak_bytes": self.memory})
    }
}

/// Takes a sample in a small process. A command that takes longer than `limit` is killed.
pub fn take(command: &[String], repeat: u32, limit: Duration) -> Result<Sample> {
    // What the command leaves running would keep a pipe open.
    let mut said = tempfile::tempfile()?;
    let mut sampler = Command::new("/proc/self/exe");
    sampler.arg(MARK).args([repeat.to_string(), limit.as_secs().to_string()]).args(command);
    sampler.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(said.try_clone()?);
    let child = sampler.process_group(0).spawn()?;
    let group = Pid::from_raw(child.id() as i32);
    let out = child.wait_with_output()?;
    if out.status.signal() == Some(Signal::SIGALRM as i32) {
        let _ = killpg(group, Signal::SIGKILL);
        bail!("still ran after {} s", limit.as_secs());
    }
    ensure!(out.status.success(), "{}", last_lines(&mut said)?);
    let text = String::from_utf8(out.stdout)?;
    let figures = text.split_whitespace().map(str::parse).collect::<Result<Vec<f64>, _>>()?;
    let [wall, cpu, memory] = figures[..] else { bail!("no sample: {text}") };
    Ok(Sample { wall, cpu, memory })
}

/// Runs the command that [`take`] named, and prints what it took.
pub fn sampler(args: &[String]) -> Result<()> {
    let [repeat, limit, program, words @ ..] = args else { bail!("no command") };
    let repeat: u32 = repeat.parse()?;
    // Whoever is left by its parent is waited for by us, and counted.
    nix::sys::prctl::set_child_subreaper(true)?;
    alarm::set(limit.parse()?);
    let mut command = Command::new(program);
    command.args(words).stdin(Stdio::null()).stdout(Stdio::null());
    let start = Instant::now();
    for _ in 0..repeat {
        let status = command.status().context(program.clone())?;
        ensure!(status.success(), "{program}: {status}");
    }
    let wall = start.elapsed();
    reap()?;
    let used = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    let cpu = used.user_time().num_microseconds() + used.system_time().num_microseconds();
    let times = f64::from(repeat);
    let line = format!(
        "{} {} {}\n",
        wall.as_secs_f64() / times,
        cpu as f64 / 1e6 / times,
        used.max_rss() * 1024
    );
    std::io::stdout().write_all(line.as_bytes())?;
    Ok(())
}

/// Waits for those that have ended, but not for those that still run.
fn reap() -> Result<()> {
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => return Ok(()),
            Ok(_) => (),
            Err(err) => return Err(err.into()),
        }
    }
}

/// Runs a line that prepares a sample, or looks at what came of it.
pub fn shell(line: &str) -> Result<()> {
    let mut said = tempfile::tempfile()?;
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", line]).stdin(Stdio::null()).stdout(Stdio::null());
    let status = shell.stderr(said.try_clone()?).status()?;
    ensure!(status.success(), "{line}: {status}: {}", last_lines(&mut said)?);
    Ok(())
}

/// Returns the last lines of what a command said: of a sampler, that of the command and its own.
fn last_lines(file: &mut File) -> Result<String> {
    let mut bytes = Vec::new();
    file.rewind()?;
    file.read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().filter(|line| !line.is_empty()).collect();
    Ok(lines[lines.len().saturating_sub(2)..].join("; "))
}
