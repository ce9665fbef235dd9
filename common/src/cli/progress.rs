//! Progress of blobs on their way, on stderr.
//!
//! On a terminal one line that is drawn again; elsewhere a line for each thing
//! that is done, or a JSON object; or nothing.

use std::io::{IsTerminal, Write};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use clap::ValueEnum;
use serde_json::{Value, json};

use crate::cli;
use crate::digest::Digest;
use crate::reference::Reference;

/// How often the line is drawn, and a JSON object written for one blob.
const PERIOD: Duration = Duration::from_millis(100);

/// How progress is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Style {
    /// A bar on a terminal, plain lines elsewhere
    Auto,
    /// Lines of text
    Plain,
    /// Lines of JSON
    Json,
    /// Nothing
    None,
}

enum Shown {
    Bar,
    Plain,
    Json,
    None,
}

/// What happens to blobs, and what has happened to one then.
#[derive(Clone, Copy, Debug)]
pub struct Words {
    /// `fetching`
    pub doing: &'static str,
    /// `fetched`
    pub done: &'static str,
}

/// Shows progress.
pub struct Progress {
    shown: Shown,
    words: Words,
    state: Mutex<State>,
}

struct State {
    image: String,
    /// Bytes of all blobs, of those on their way, and here.
    total: u64,
    here: u64,
    blobs: usize,
    done: usize,
    drawn: Instant,
    /// The line is on the screen.
    visible: bool,
}

impl Progress {
    /// Shows progress in this style, in these words.
    pub fn new(style: Style, words: Words) -> Progress {
        let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
        let shown = match style {
            Style::Auto if std::io::stderr().is_terminal() && !dumb => Shown::Bar,
            Style::Auto | Style::Plain => Shown::Plain,
            Style::Json => Shown::Json,
            Style::None => Shown::None,
        };
        let state = State {
            image: String::new(),
            total: 0,
            here: 0,
            blobs: 0,
            done: 0,
            drawn: Instant::now(),
            visible: false,
        };
        Progress { shown, words, state: Mutex::new(state) }
    }

    /// Begins with an image, of whose blobs this are the sizes.
    pub fn begin(&self, image: &Reference, sizes: impl ExactSizeIterator<Item = u64>) {
        let mut state = self.lock();
        state.image = image.to_string();
        state.blobs = sizes.len();
        state.total = sizes.fold(0, u64::saturating_add);
        (state.here, state.done) = (0, 0);
        let (blobs, total) = (state.blobs, state.total);
        match self.shown {
            Shown::Plain => {
                let plural = if blobs == 1 { "" } else { "s" };
                cli::warn(format!("{image}: {blobs} blob{plural}, {}", size(total)));
            }
            Shown::Json => state.json(json!({"status": "begin", "blobs": blobs, "size": total})),
            _ => {}
        }
    }

    /// A blob is there already.
    pub fn exists(&self, digest: &Digest, length: u64) {
        self.blob(digest, length, length, "exists");
    }

    /// Some bytes of a blob are there.
    pub fn advance(&self, digest: &Digest, by: u64, offset: u64, length: u64) {
        if matches!(self.shown, Shown::None | Shown::Plain) {
            return;
        }
        let mut state = self.lock();
        state.here += by;
        if state.drawn.elapsed() < PERIOD {
            return;
        }
        state.drawn = Instant::now();
        match self.shown {
            Shown::Bar => state.draw(),
            _ => {
                let digest = digest.to_string();
                state.json(
                    json!({"status": self.words.doing, "blob": digest, "offset": offset, "size": length}),
                );
            }
        }
    }

    /// A blob is there now, and its bytes have been told of.
    pub fn finished(&self, digest: &Digest, length: u64) {
        self.blob(digest, length, 0, self.words.done);
    }

    /// A blob is there now, in another way than byte by byte.
    pub fn became(&self, digest: &Digest, length: u64, status: &str) {
        self.blob(digest, length, length, status);
    }

    /// So many bytes have to come again.
    pub fn withdraw(&self, length: u64) {
        let mut state = self.lock();
        state.here = state.here.saturating_sub(length);
    }

    fn blob(&self, digest: &Digest, length: u64, by: u64, status: &str) {
        let mut state = self.lock();
        state.done += 1;
        state.here += by;
        match self.shown {
            Shown::Bar => state.draw(),
            Shown::Plain => {
                cli::warn(format!("{}: {} {}, {status}", state.image, digest.short(), size(length)))
            }
            Shown::Json => {
                state.json(json!({"status": status, "blob": digest.to_string(), "size": length}));
            }
            Shown::None => {}
        }
    }

    /// An image is there, whole and named.
    pub fn done(&self, image: &Reference, digest: &Digest) {
        self.clear();
        let mut state = self.lock();
        if let Shown::Json = self.shown {
            state.image = image.to_string();
            state.json(json!({"status": "done", "digest": digest.to_string()}));
        }
    }

    /// Says something that is no error.
    pub fn notice(&self, text: &str) {
        self.clear();
        let state = self.lock();
        match self.shown {
            Shown::Bar | Shown::Plain => cli::warn(text),
            Shown::Json => state.json(json!({"status": "notice", "text": text})),
            Shown::None => {}
        }
    }

    /// Takes the line off the screen.
    pub fn clear(&self) {
        let mut state = self.lock();
        if state.visible {
            state.visible = false;
            // With stderr gone there is nobody to show anything to.
            let _ = std::io::stderr().write_all(b"\r\x1b[K");
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn draw(&mut self) {
        self.visible = true;
        let size_of = rustix::termios::tcgetwinsize(rustix::stdio::stderr());
        let columns = size_of.map(|it| usize::from(it.ws_col)).ok().filter(|it| *it > 0);
        let columns = columns.unwrap_or(80).max(20) - 1; // the last one would begin a new line
        let figures = format!(
            " {}/{} blobs, {} of {}",
            self.done,
            self.blobs,
            size(self.here),
            size(self.total)
        );
        let image: String = self.image.chars().take(columns / 3).collect();
        let width = columns.saturating_sub(image.len() + figures.len() + 3);
        let filled = match self.total {
            0 => width,
            total => (self.here.min(total) as u128 * width as u128 / u128::from(total)) as usize,
        };
        let bar = format!("{}{}", "#".repeat(filled), ".".repeat(width - filled));
        let line: String = format!("{image} [{bar}]{figures}").chars().take(columns).collect();
        let _ = std::io::stderr().write_all(format!("\r{line}\x1b[K").as_bytes());
    }

    fn json(&self, mut event: Value) {
        if !self.image.is_empty() {
            event["image"] = self.image.clone().into();
        }
        let _ = std::io::stderr().write_all(format!("{event}\n").as_bytes());
    }
}

/// Returns a size as Docker prints it: in powers of 1000.
fn size(bytes: u64) -> String {
    let mut value = bytes as f64;
    for unit in ["B", "kB", "MB", "GB"] {
        if value < 999.5 {
            let digits = if unit == "B" || value >= 99.5 { 0 } else { 1 };
            return format!("{value:.digits$} {unit}");
        }
        value /= 1000.0;
    }
    format!("{value:.1} TB")
}

#[cfg(test)]
mod tests {
    use super::size;

    #[test]
    fn sizes_are_short() {
        for (bytes, text) in [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.0 kB"),
            (3_450_000, "3.5 MB"),
            (247_000_000, "247 MB"),
            (999_999_999, "1.0 GB"),
            (5_000_000_000_000, "5.0 TB"),
        ] {
            assert_eq!(size(bytes), text);
        }
    }
}
