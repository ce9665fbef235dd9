//! Runs programs against each other and says who was faster.
//!
//! Every contender takes its turn in every round, so that what else the
//! machine does falls on all of them.

mod report;
mod sample;
mod stats;
mod suite;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Parser;
use report::{Lane, Race, State};
use serde_json::json;
use suite::{Contender, Suite};

/// Run programs against each other and say who was faster
#[derive(Parser)]
#[command(version)]
struct Args {
    /// Rounds that count, after one that does not
    #[arg(short, default_value_t = 5)]
    n: u32,

    /// Seconds that a sample may take
    #[arg(long, default_value_t = 300)]
    limit: u64,

    /// Write NAME.md, NAME.goals and NAME.json
    #[arg(long, value_name = "NAME")]
    out: PathBuf,

    /// What is raced: src/suite.rs says how it is written
    suite: PathBuf,
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let done = match &words[..] {
        [mark, words @ ..] if mark == sample::MARK => sample::sampler(words),
        _ => run(&Args::parse()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(err) => {
            eprintln!("race: {err:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<()> {
    let at = || args.suite.display().to_string();
    let mut suite =
        Suite::parse(&fs::read_to_string(&args.suite).with_context(at)?).with_context(at)?;
    let mut lanes: Vec<Lane> =
        std::mem::take(&mut suite.contenders).into_iter().map(lane).collect();
    let mut loads = Vec::new();
    for round in 0..=args.n {
        loads.push(load()?);
        // Forth and back: nobody always runs while the kernel clears up behind the same one.
        let mut order: Vec<usize> = (0..lanes.len()).collect();
        if round % 2 == 1 {
            order.reverse();
        }
        for at in order {
            turn(&mut lanes[at], round > 0, Duration::from_secs(args.limit));
        }
        eprintln!("{}: round {round} of {}", suite.title, args.n);
    }
    let race = Race { suite: &suite, lanes: &lanes };
    let mut json = race.json();
    json["rounds"] = json!(args.n);
    json["load"] = json!(loads);
    fs::write(args.out.with_extension("md"), race.table())?;
    fs::write(args.out.with_extension("goals"), race.goals())?;
    fs::write(args.out.with_extension("json"), format!("{json:#}\n"))?;
    Ok(())
}

/// Returns the lane of a contender, who may be absent.
fn lane(contender: Contender) -> Lane {
    let missing = contender.needs.iter().find(|program| which::which(program).is_err());
    let state = missing.map_or(State::Ran, |program| State::Absent(program.clone()));
    let version = match (&state, &contender.version) {
        (State::Ran, Some(line)) => version(line).unwrap_or_default(),
        _ => String::new(),
    };
    Lane { contender, version, state, samples: Vec::new(), daemon: Vec::new() }
}

/// Returns the first line that a contender says of itself.
fn version(line: &str) -> Option<String> {
    let out = Command::new("/bin/sh").args(["-c", line]).output().ok()?;
    let text = String::from_utf8(out.stdout).ok()?;
    text.lines().next().map(str::to_owned)
}

/// Takes one sample of a contender, unless it is absent or has failed before.
fn turn(lane: &mut Lane, counts: bool, limit: Duration) {
    if lane.state != State::Ran {
        return;
    }
    match attempt(&lane.contender, limit) {
        Ok((sample, daemon)) if counts => {
            lane.samples.push(sample);
            lane.daemon.extend(daemon);
        }
        Ok(_) => (),
        Err(err) => lane.state = State::Failed(format!("{err:#}")),
    }
}

fn attempt(contender: &Contender, limit: Duration) -> Result<(sample::Sample, Option<f64>)> {
    if let Some(line) = &contender.before {
        sample::shell(line)?;
    }
    let daemon = || contender.daemon.as_deref().map(daemon_cpu).transpose();
    let before = daemon()?;
    let sample = sample::take(&contender.command, contender.repeat, limit)?;
    let used =
        daemon()?.zip(before).map(|(after, before)| (after - before) / f64::from(contender.repeat));
    if let Some(line) = &contender.after {
        sample::shell(line)?;
    }
    Ok((sample, used))
}

/// Returns the CPU seconds that a control group has used so far.
fn daemon_cpu(cgroup: &str) -> Result<f64> {
    let path = Path::new(cgroup).join("cpu.stat");
    let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let used = text.lines().find_map(|line| line.strip_prefix("usage_usec "));
    Ok(used.context("a control group without usage_usec")?.parse::<f64>()? / 1e6)
}

/// Returns how many wanted a CPU in the last minute.
fn load() -> Result<f64> {
    let text = fs::read_to_string("/proc/loadavg")?;
    Ok(text.split(' ').next().unwrap_or_default().parse()?)
}
