//! What is said on standard error: failures of ours, and with -v each request.
//!
//! A thread of its own does it, so that nobody who asks waits for whoever reads
//! this. What comes faster than it is read is lost.

use std::net::SocketAddr;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::Error;
use common::{cli, error};
use hyper::{Method, StatusCode};

/// How many lines wait.
const LINES: usize = 1024;
/// How long the end waits for whoever reads them.
const PATIENCE: Duration = Duration::from_secs(1);

pub struct Log {
    lines: Option<SyncSender<String>>,
    /// Says that all has been said.
    done: Mutex<Receiver<()>>,
    verbose: bool,
}

impl Log {
    pub fn start(verbose: bool) -> std::io::Result<Log> {
        let (lines, waiting) = sync_channel::<String>(LINES);
        let (end, done) = sync_channel(1);
        let say = move || {
            waiting.iter().for_each(cli::warn);
            let _ = end.send(());
        };
        std::thread::Builder::new().name("log".into()).stack_size(128 << 10).spawn(say)?;
        Ok(Log { lines: Some(lines), done: Mutex::new(done), verbose })
    }

    fn say(&self, line: String) {
        if let Some(lines) = &self.lines {
            let _ = lines.try_send(line);
        }
    }

    /// Says who asked for what, and what came of it.
    pub fn access(
        &self,
        peer: SocketAddr,
        method: &Method,
        path: &str,
        status: StatusCode,
        len: u64,
    ) {
        if self.verbose {
            self.say(format!("{peer} {method} {} {} {len}", shown(path), status.as_u16()));
        }
    }

    /// Says what went wrong on our side.
    pub fn failure(&self, method: &Method, path: &str, err: &Error) {
        self.say(format!("{method} {}: {}", shown(path), error::line(err)));
    }
}

impl Drop for Log {
    /// Waits until the last line is said, unless nobody reads it.
    fn drop(&mut self) {
        self.lines = None;
        let done = self.done.get_mut().unwrap_or_else(PoisonError::into_inner);
        let _ = done.recv_timeout(PATIENCE);
    }
}

/// Returns a path without the ID of an upload, which is a secret of whoever began it.
fn shown(path: &str) -> &str {
    match path.rfind("/blobs/uploads/") {
        Some(at) => &path[..at + "/blobs/uploads/".len()],
        None => path,
    }
}
