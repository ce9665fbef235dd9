//! A suite: who runs, on what, and what is asked of the result.
//!
//! ```text
//! suite spawn, a docker-like bundle      the heading
//! base unshare                           whose time is 1.00; the first contender's, unless said
//!
//! contender crun                         begins a contender; the lines below are about it
//! version crun --version                 what it is: the first line of the output
//! needs crun                             programs without which it is absent
//! repeat 10                              runs in a sample; 1, unless said
//! before rm -rf out                      before each sample, not timed
//! run crun run -b bundle one             words, executed as they are
//! sh igzip -dc a | tar x                 or a line for sh, if it has to be one
//! after test -e out/etc                  after each sample, not timed: did it do the work?
//! daemon /sys/fs/cgroup/dockerd          a control group that worked for it
//!
//! goal ctr-spawn wall 0.4 x crun         at most 0.4 of crun's time
//! goal ctr-spawn memory 3.8 MiB          the largest process, at most
//! goal img-ls wall 50 ms                 at most that, where no peer does the like
//! ```
//!
//! `#` begins a comment line. A contender's name is the rest of its line.

use anyhow::{Context, Result, bail, ensure};

/// What is measured together.
#[derive(Debug, Default, PartialEq)]
pub struct Suite {
    pub title: String,
    pub base: String,
    pub contenders: Vec<Contender>,
    pub goals: Vec<Goal>,
}

/// One way to do the work.
#[derive(Debug, Default, PartialEq)]
pub struct Contender {
    pub name: String,
    pub version: Option<String>,
    pub needs: Vec<String>,
    pub repeat: u32,
    pub before: Option<String>,
    pub command: Vec<String>,
    pub after: Option<String>,
    pub daemon: Option<String>,
}

/// What is asked of a contender.
#[derive(Debug, PartialEq)]
pub struct Goal {
    pub contender: String,
    pub figure: Figure,
    pub limit: Limit,
}

/// What of a sample a goal is about.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Figure {
    Wall,
    Cpu,
    Memory,
}

/// How much it may be.
#[derive(Debug, PartialEq)]
pub enum Limit {
    /// So many times what another contender took.
    Times(f64, String),
    /// So many MiB.
    MiB(f64),
    /// So many milliseconds.
    Milliseconds(f64),
}

impl Suite {
    pub fn parse(text: &str) -> Result<Suite> {
        let mut suite = Suite::default();
        for (at, line) in text.lines().enumerate() {
            suite.line(line.trim()).with_context(|| format!("line {}: {line}", at + 1))?;
        }
        ensure!(!suite.title.is_empty(), "no line says what the suite is called");
        let Some(first) = suite.contenders.first() else { bail!("nobody contends") };
        if suite.base.is_empty() {
            suite.base = first.name.clone();
        }
        suite.check()?;
        Ok(suite)
    }

    fn line(&mut self, line: &str) -> Result<()> {
        if line.is_empty() || line.starts_with('#') {
            return Ok(());
        }
        let (key, rest) = line.split_once(' ').context("nothing follows the keyword")?;
        let rest = rest.trim();
        match key {
            "suite" => self.title = rest.into(),
            "base" => self.base = rest.into(),
            "goal" => self.goals.push(Goal::parse(rest)?),
            "contender" => {
                let name = rest.to_owned();
                self.contenders.push(Contender { name, repeat: 1, ..Contender::default() });
            }
            _ => {
                let contender = self.contenders.last_mut().context("whose is it?")?;
                contender.line(key, rest)?;
            }
        }
        Ok(())
    }

    /// Checks that every name is one contender's, and that every contender has a command.
    fn check(&self) -> Result<()> {
        let known = |name: &str| self.contenders.iter().filter(|c| c.name == name).count();
        for contender in &self.contenders {
            ensure!(!contender.command.is_empty(), "{}: no command", contender.name);
            ensure!(known(&contender.name) == 1, "{}: twice", contender.name);
        }
        let peers = self.goals.iter().filter_map(|goal| match &goal.limit {
            Limit::Times(_, peer) => Some(peer),
            Limit::MiB(_) | Limit::Milliseconds(_) => None,
        });
        let ours = self.goals.iter().map(|goal| &goal.contender);
        for name in ours.chain(peers).chain([&self.base]) {
            ensure!(known(name) == 1, "{name}: no such contender");
        }
        Ok(())
    }
}

impl Contender {
    fn line(&mut self, key: &str, rest: &str) -> Result<()> {
        let words = || rest.split_whitespace().map(str::to_owned);
        match key {
            "version" => self.version = Some(rest.into()),
            "needs" => self.needs.extend(words()),
            "repeat" => self.repeat = rest.parse()?,
            "before" => self.before = Some(rest.into()),
            "after" => self.after = Some(rest.into()),
            "daemon" => self.daemon = Some(rest.into()),
            "run" => {
                self.command = words().collect();
                self.needs.extend(self.command.first().cloned());
            }
            "sh" => self.command = vec!["/bin/sh".into(), "-c".into(), rest.into()],
            _ => bail!("no such keyword"),
        }
        ensure!(self.repeat > 0, "a sample has at least one run");
        Ok(())
    }
}

impl Goal {
    fn parse(text: &str) -> Result<Goal> {
        // The names may hold spaces; the figure's name stands between them.
        for (word, figure) in
            [(" wall ", Figure::Wall), (" cpu ", Figure::Cpu), (" memory ", Figure::Memory)]
        {
            let Some((contender, limit)) = text.split_once(word) else { continue };
            let (number, limit) = limit.trim().split_once(' ').context("how much of what?")?;
            let number = number.parse()?;
            let limit = match limit.split_once(' ') {
                Some(("x", peer)) => Limit::Times(number, peer.trim().into()),
                None if limit == "MiB" && figure == Figure::Memory => Limit::MiB(number),
                None if limit == "ms" && figure != Figure::Memory => Limit::Milliseconds(number),
                _ => bail!("neither a ratio, 'x' and a peer, nor MiB of memory, nor ms"),
            };
            return Ok(Goal { contender: contender.trim().into(), figure, limit });
        }
        bail!("a goal is about wall, cpu or memory")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_suite_is_read_line_by_line() {
        let text = "# a comment\nsuite one two\nbase b b\ncontender a\nrun x -y  z\nrepeat 3\n\
                    before rm -rf o\n\ncontender b b\nneeds tar\nsh a | b\n\
                    goal a wall 0.4 x b b\ngoal a memory 3.8 MiB\ngoal a wall 50 ms\n";
        let suite = Suite::parse(text).unwrap();
        assert_eq!(suite.title, "one two");
        assert_eq!(suite.base, "b b");
        let [a, b] = &suite.contenders[..] else { panic!("{suite:?}") };
        assert_eq!((&a.command[..], a.repeat), (&["x", "-y", "z"].map(String::from)[..], 3));
        assert_eq!(a.needs, ["x"]);
        assert_eq!(b.command, ["/bin/sh", "-c", "a | b"]);
        assert_eq!(b.needs, ["tar"]);
        assert_eq!(suite.goals[0].limit, Limit::Times(0.4, "b b".into()));
        assert_eq!(suite.goals[1].limit, Limit::MiB(3.8));
        assert_eq!(suite.goals[2].limit, Limit::Milliseconds(50.0));
    }

    #[test]
    fn what_is_wrong_with_a_suite_is_said() {
        let head = "suite s\ncontender a\nrun a\n";
        for (text, error) in [
            ("", "no line says"),
            ("suite s\n", "nobody contends"),
            ("suite s\ncontender a\n", "a: no command"),
            ("suite s\nrun a\n", "whose is it?"),
            (&format!("{head}contender a\nrun a\n"), "a: twice"),
            (&format!("{head}rub a\n"), "no such keyword"),
            (&format!("{head}repeat 0\n"), "at least one run"),
            (&format!("{head}goal a wall 0.4 x b\n"), "b: no such contender"),
            (&format!("{head}goal b memory 1 MiB\n"), "b: no such contender"),
            (&format!("{head}goal a wall 3 MiB\n"), "neither a ratio"),
            (&format!("{head}goal a memory 3 ms\n"), "neither a ratio"),
            (&format!("{head}goal a beauty 3 x a\n"), "wall, cpu or memory"),
            (&format!("{head}base c\n"), "c: no such contender"),
        ] {
            let said = format!("{:#}", Suite::parse(text).unwrap_err());
            assert!(said.contains(error), "{text}: {said}");
        }
    }
}
