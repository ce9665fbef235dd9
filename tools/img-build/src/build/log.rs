//! What a build says while it goes on: to stderr, a line at a time.
//!
//! ```text
//! [web 2/5] RUN apt-get update            begins
//! [web 2/5] | Get:1 http://deb...         what it writes
//! [web 2/5] done in 2.1 s
//! [web 3/5] COPY . /app (cached)
//! ```
//!
//! Of a step that fails, the last of what it wrote is told even where all else is silent.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::thread::{self, JoinHandle};
use std::time::Instant;

use anyhow::{Context, Result};
use common::error::visible;
use serde_json::{Value, json};

/// The longest line of a step that is told as one.
const LONGEST: u64 = 64 << 10;
/// How many of the last lines are told of a step that fails, when nothing was told before.
const LAST: usize = 50;

/// How much is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// Lines for people.
    Plain,
    /// Lines of JSON.
    Json,
    /// Nothing, unless a step fails.
    None,
}

impl Style {
    /// Returns the option that makes img-pull and img-push say as much.
    pub fn option(self) -> &'static str {
        match self {
            Style::Plain => "--progress=auto",
            Style::Json => "--progress=json",
            Style::None => "--progress=none",
        }
    }
}

/// Where a step is: its stage, if that is one of several, its number there, and of how many.
#[derive(Clone, Debug)]
pub struct Place {
    /// The stage's name.
    pub stage: Option<String>,
    /// Counted from one.
    pub step: usize,
    /// How many there are.
    pub of: usize,
}

impl Place {
    fn label(&self) -> String {
        match &self.stage {
            Some(stage) => format!("[{stage} {}/{}]", self.step, self.of),
            None => format!("[{}/{}]", self.step, self.of),
        }
    }
}

/// What is said of one step.
pub struct Step {
    style: Style,
    place: Place,
    begun: Instant,
}

impl Step {
    /// Begins a step.
    pub fn new(style: Style, place: Place) -> Step {
        Step { style, place, begun: Instant::now() }
    }

    /// Says what it is, when it is going to be done.
    pub fn begins(&self, text: &str) {
        self.say("begin", text, || visible(text));
    }

    /// Says what it is, when its result was there.
    pub fn cached(&self, text: &str) {
        self.say("cached", text, || format!("{} (cached)", visible(text)));
    }

    /// Says that it is done.
    pub fn done(&self) {
        let seconds = self.begun.elapsed().as_secs_f32();
        self.say("done", &format!("{seconds:.1}"), || format!("done in {seconds:.1} s"));
    }

    /// Says why it is done, or why not.
    pub fn explain(&self, text: &str) {
        self.say("explain", text, || visible(text));
    }

    /// Says what the user should know.
    pub fn warn(&self, text: &str) {
        self.say("warning", text, || format!("warning: {}", visible(text)));
    }

    fn say(&self, event: &str, text: &str, plain: impl FnOnce() -> String) {
        match self.style {
            Style::None => {}
            Style::Plain => write(format!("{} {}\n", self.place.label(), plain()).as_bytes()),
            Style::Json => write(self.json(event, text).as_bytes()),
        }
    }

    fn json(&self, event: &str, text: &str) -> String {
        let Place { stage, step, of } = &self.place;
        let stage: Value = stage.clone().into();
        let event = json!({ "event": event, "stage": stage, "step": step, "of": of, "text": text });
        format!("{event}\n")
    }

    /// Takes what a process writes; returns where it writes to.
    pub fn output(&self) -> Result<(OwnedFd, Output)> {
        let (read, write) = io::pipe().context("pipe")?;
        let (style, place) = (self.style, self.place.clone());
        let begun = self.begun;
        let reader = thread::Builder::new().name("output".into()).stack_size(256 << 10);
        let reader = reader
            .spawn(move || Step { style, place, begun }.read(File::from(OwnedFd::from(read))))?;
        Ok((write.into(), Output(reader)))
    }

    fn read(&self, from: File) -> VecDeque<Vec<u8>> {
        let label = self.place.label();
        let mut from = BufReader::new(from);
        let mut last = VecDeque::new();
        loop {
            let mut line = Vec::new();
            match from.by_ref().take(LONGEST).read_until(b'\n', &mut line) {
                Ok(0) | Err(_) => return last,
                Ok(_) => {}
            }
            if line.last() == Some(&b'\n') {
                line.pop();
            }
            match self.style {
                Style::Plain => write(&[label.as_bytes(), b" | ", &line, b"\n"].concat()),
                Style::Json => {
                    write(self.json("output", &String::from_utf8_lossy(&line)).as_bytes())
                }
                Style::None => {
                    if last.len() == LAST {
                        last.pop_front();
                    }
                    last.push_back(line);
                }
            }
        }
    }
}

/// What a process writes.
pub struct Output(JoinHandle<VecDeque<Vec<u8>>>);

impl Output {
    /// Waits until nobody writes any more; of a step that failed, tells what was not told.
    pub fn finish(self, failed: bool) {
        let last = self.0.join().unwrap_or_default();
        if failed {
            last.iter().for_each(|line| write(&[line.as_slice(), b"\n"].concat()));
        }
    }
}

/// Writes a line at once, so that none is split by another step's. With stderr gone there is nobody to tell.
fn write(line: &[u8]) {
    let _ = io::stderr().lock().write_all(line);
}
