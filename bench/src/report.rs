//! What came of a race: a table, the goals, and every sample as JSON.

use std::fmt::Write;

use serde_json::{Value, json};

use crate::sample::Sample;
use crate::stats::{median, ratio, spread};
use crate::suite::{Contender, Figure, Goal, Limit, Suite};

const MIB: f64 = 1024.0 * 1024.0;

/// A contender, and how it fared.
pub struct Lane {
    pub contender: Contender,
    pub version: String,
    pub state: State,
    pub samples: Vec<Sample>,
    /// CPU seconds of its daemon in each sample.
    pub daemon: Vec<f64>,
}

/// Whether there is anything to report of a contender.
#[derive(Clone, Debug, PartialEq)]
pub enum State {
    Ran,
    Absent(String),
    Failed(String),
}

/// What became of a goal.
#[derive(Debug, PartialEq)]
pub enum Verdict {
    Met(f64),
    NotMet(f64),
    /// Nobody knows, for the reason given.
    Unknown(String),
}

impl Lane {
    fn values(&self, figure: Figure) -> Vec<f64> {
        let value = |sample: &Sample| match figure {
            Figure::Wall => sample.wall,
            Figure::Cpu => sample.cpu,
            Figure::Memory => sample.memory,
        };
        self.samples.iter().map(value).collect()
    }

    fn typical(&self, figure: Figure) -> Option<f64> {
        median(&self.values(figure))
    }
}

/// The lanes of a suite, which goals and ratios look up by name.
pub struct Race<'a> {
    pub suite: &'a Suite,
    pub lanes: &'a [Lane],
}

impl Race<'_> {
    fn lane(&self, name: &str) -> &Lane {
        let mut lanes = self.lanes.iter();
        lanes.find(|lane| lane.contender.name == name).expect("the suite was checked")
    }

    /// Says whether a goal was reached. Nobody wins against somebody who was not there.
    pub fn verdict(&self, goal: &Goal) -> Verdict {
        let ours = self.lane(&goal.contender);
        let theirs = match &goal.limit {
            Limit::Times(_, peer) => self.lane(peer),
            Limit::MiB(_) | Limit::Milliseconds(_) => ours,
        };
        for lane in [ours, theirs] {
            let name = &lane.contender.name;
            match &lane.state {
                State::Absent(_) => return Verdict::Unknown(format!("{name} is absent")),
                State::Failed(_) => return Verdict::Unknown(format!("{name} failed")),
                State::Ran => (),
            }
        }
        let (reached, limit) = match goal.limit {
            Limit::Times(limit, _) => {
                (ratio(&ours.values(goal.figure), &theirs.values(goal.figure)), limit)
            }
            Limit::MiB(limit) => (ours.typical(goal.figure).map(|bytes| bytes / MIB), limit),
            Limit::Milliseconds(limit) => (ours.typical(goal.figure).map(|s| s * 1e3), limit),
        };
        match reached {
            None => Verdict::Unknown("no samples".into()),
            Some(reached) if reached <= limit => Verdict::Met(reached),
            Some(reached) => Verdict::NotMet(reached),
        }
    }

    /// Returns the table of contenders, in the order of the suite.
    pub fn table(&self) -> String {
        let base = self.lane(&self.suite.base);
        let daemons = self.lanes.iter().any(|lane| lane.contender.daemon.is_some());
        let mut out = format!("### {}\n\n", self.suite.title);
        let columns = "| contender | n | wall median (min .. max) | ratio | cpu | peak MiB |";
        let (extra, rule) = if daemons { (" daemon cpu |", "---:|") } else { ("", "") };
        let _ = writeln!(out, "{columns}{extra}\n|---|---:|---:|---:|---:|---:|{rule}");
        for lane in self.lanes {
            let name = &lane.contender.name;
            let walls = lane.values(Figure::Wall);
            let row = match (&lane.state, median(&walls), spread(&walls)) {
                (State::Absent(what), ..) => format!("| {name} | | absent: no {what} | | | |"),
                (State::Failed(why), ..) => {
                    let why = why.replace('|', "\\|").replace('\n', " ");
                    format!("| {name} | | failed: {why} | | | |")
                }
                (State::Ran, Some(middle), Some((least, greatest))) => format!(
                    "| {name} | {} | {} ({} .. {}) | {} | {} | {:.1} |",
                    walls.len(),
                    seconds(middle),
                    seconds(least),
                    seconds(greatest),
                    ratio(&walls, &base.values(Figure::Wall))
                        .map_or_else(String::new, |ratio| format!("{ratio:.2}")),
                    seconds(lane.typical(Figure::Cpu).unwrap_or(0.0)),
                    lane.typical(Figure::Memory).unwrap_or(0.0) / MIB,
                ),
                (State::Ran, ..) => format!("| {name} | 0 | | | | |"),
            };
            let daemon = match median(&lane.daemon) {
                _ if !daemons => String::new(),
                Some(cpu) => format!(" {} |", seconds(cpu)),
                None => " |".into(),
            };
            let _ = writeln!(out, "{row}{daemon}");
        }
        out
    }

    /// Returns a row a goal: what, how much of it, how much is allowed, and whether that was met.
    pub fn goals(&self) -> String {
        let mut out = String::new();
        for goal in &self.suite.goals {
            let ours = self.lane(&goal.contender);
            let mut have = ours
                .typical(goal.figure)
                .map_or_else(String::new, |value| show(goal.figure, value));
            let (limit, unit) = match &goal.limit {
                Limit::Times(limit, peer) => {
                    let peers = self.lane(peer).typical(goal.figure);
                    let peers =
                        peers.map_or_else(String::new, |v| format!(" of {}", show(goal.figure, v)));
                    (format!("{limit} x {peer}{peers}"), "x")
                }
                Limit::MiB(limit) => (format!("{limit} MiB"), " MiB"),
                Limit::Milliseconds(limit) => (format!("{limit} ms"), " ms"),
            };
            let verdict = match self.verdict(goal) {
                Verdict::Met(reached) => {
                    if unit == "x" {
                        let _ = write!(have, ", {reached:.2}x");
                    }
                    "met".to_owned()
                }
                Verdict::NotMet(reached) => {
                    if unit == "x" {
                        let _ = write!(have, ", {reached:.2}x");
                    }
                    "**not met**".to_owned()
                }
                Verdict::Unknown(why) => format!("unknown: {why}"),
            };
            let figure = goal.figure.name();
            let _ = writeln!(
                out,
                "| {}: {} | {figure} | {have} | {limit} | {verdict} |",
                self.suite.title, goal.contender
            );
        }
        out
    }

    pub fn json(&self) -> Value {
        let lanes = self.lanes.iter().map(|lane| {
            json!({
                "name": lane.contender.name,
                "version": lane.version,
                "command": lane.contender.command,
                "repeat": lane.contender.repeat,
                "absent": if let State::Absent(what) = &lane.state { Some(what) } else { None },
                "failed": if let State::Failed(why) = &lane.state { Some(why) } else { None },
                "median": {
                    "wall_s": lane.typical(Figure::Wall),
                    "cpu_s": lane.typical(Figure::Cpu),
                    "peak_bytes": lane.typical(Figure::Memory),
                },
                "samples": lane.samples.iter().map(Sample::json).collect::<Vec<_>>(),
                "daemon_cpu_s": lane.daemon,
            })
        });
        let goals = self.suite.goals.iter().map(|goal| {
            let (limit, peer) = match &goal.limit {
                Limit::Times(limit, peer) => (limit, Some(peer)),
                Limit::MiB(limit) | Limit::Milliseconds(limit) => (limit, None),
            };
            let (reached, verdict) = match self.verdict(goal) {
                Verdict::Met(reached) => (Some(reached), "met".to_owned()),
                Verdict::NotMet(reached) => (Some(reached), "not met".to_owned()),
                Verdict::Unknown(why) => (None, why),
            };
            json!({
                "contender": goal.contender,
                "figure": goal.figure.name(),
                "at_most": limit,
                "times": peer,
                "reached": reached,
                "verdict": verdict,
            })
        });
        json!({
            "suite": self.suite.title,
            "base": self.suite.base,
            "contenders": lanes.collect::<Vec<_>>(),
            "goals": goals.collect::<Vec<_>>(),
        })
    }
}

impl Figure {
    fn name(self) -> &'static str {
        match self {
            Figure::Wall => "wall",
            Figure::Cpu => "cpu",
            Figure::Memory => "memory",
        }
    }
}

fn show(figure: Figure, value: f64) -> String {
    match figure {
        Figure::Wall | Figure::Cpu => seconds(value),
        Figure::Memory => format!("{:.1} MiB", value / MIB),
    }
}

/// Returns a time with three digits that mean something.
pub fn seconds(seconds: f64) -> String {
    let (value, unit) = if seconds < 1.0 { (seconds * 1e3, "ms") } else { (seconds, "s") };
    let digits = match value {
        v if v < 9.995 => 2,
        v if v < 99.95 => 1,
        _ => 0,
    };
    format!("{value:.digits$} {unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const SUITE: &str = "suite s\ncontender ours\nrun ours\ncontender peer\nrun peer\n\
                         goal ours wall 0.5 x peer\ngoal ours memory 4 MiB\n";

    fn lanes(suite: &str, walls: [&[f64]; 2], state: State) -> (Suite, Vec<Lane>) {
        let mut suite = Suite::parse(suite).unwrap();
        let mut states = [State::Ran, state].into_iter();
        let lanes = std::mem::take(&mut suite.contenders).into_iter().zip(walls);
        let lanes = lanes.map(|(contender, walls)| Lane {
            contender,
            version: String::new(),
            state: states.next().unwrap(),
            samples: walls
                .iter()
                .map(|&wall| Sample { wall, cpu: wall, memory: 3.0 * MIB })
                .collect(),
            daemon: Vec::new(),
        });
        let lanes = lanes.collect();
        (suite, lanes)
    }

    #[test]
    fn a_goal_is_met_up_to_its_limit_and_no_further() {
        for (ours, met) in [(0.9, true), (1.0, true), (1.1, false)] {
            let (suite, lanes) = lanes(SUITE, [&[ours], &[2.0]], State::Ran);
            let race = Race { suite: &suite, lanes: &lanes };
            let verdict = race.verdict(&suite.goals[0]);
            let expected = if met { Verdict::Met(ours / 2.0) } else { Verdict::NotMet(ours / 2.0) };
            assert_eq!(verdict, expected);
            assert_eq!(race.goals().contains("**not met**"), !met);
            assert_eq!(race.verdict(&suite.goals[1]), Verdict::Met(3.0));
        }
    }

    #[test]
    fn nobody_wins_against_somebody_who_is_absent_or_failed() {
        let absent = State::Absent("peer".into());
        for state in [absent, State::Failed("it crashed".into())] {
            let (suite, lanes) = lanes(SUITE, [&[1.0], &[]], state);
            let race = Race { suite: &suite, lanes: &lanes };
            let verdict = race.verdict(&suite.goals[0]);
            assert!(matches!(verdict, Verdict::Unknown(_)), "{verdict:?}");
            let row = race.goals().lines().next().unwrap().to_owned();
            assert!(
                row.ends_with("| unknown: peer is absent |")
                    || row.ends_with("| unknown: peer failed |")
            );
        }
    }

    #[test]
    fn a_table_has_a_row_a_contender() {
        let (suite, lanes) = lanes(SUITE, [&[0.0021, 0.003], &[]], State::Absent("peer".into()));
        let table = Race { suite: &suite, lanes: &lanes }.table();
        assert_eq!(
            table,
            "### s\n\n\
             | contender | n | wall median (min .. max) | ratio | cpu | peak MiB |\n\
             |---|---:|---:|---:|---:|---:|\n\
             | ours | 2 | 2.55 ms (2.10 ms .. 3.00 ms) | 1.00 | 2.55 ms | 3.0 |\n\
             | peer | | absent: no peer | | | |\n"
        );
    }

    #[test]
    fn times_have_three_digits() {
        for (value, text) in [
            (0.000_43, "0.43 ms"),
            (0.002_126, "2.13 ms"),
            (0.028_46, "28.5 ms"),
            (0.1124, "112 ms"),
            (1.604, "1.60 s"),
            (10.72, "10.7 s"),
        ] {
            assert_eq!(seconds(value), text);
        }
    }
}
