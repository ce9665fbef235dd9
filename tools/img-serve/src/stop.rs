//! The end: at the first signal what runs is finished, at the second nothing is.

use anyhow::Result;
use common::cli;
use nix::sys::signal::{SigSet, Signal};
use tokio::sync::watch;

/// What is asked of the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stop {
    /// To go on.
    No,
    /// To end what runs, and begin nothing.
    Soon,
    /// To end.
    Now,
}

/// The signals that end this process, kept back until somebody waits for them.
pub struct Signals(SigSet);

impl Signals {
    /// Keeps them back. To be called before any other thread is started: these inherit the mask.
    pub fn hold() -> Result<Signals> {
        cli::hold_signals().map(Signals)
    }

    /// Starts to wait for them.
    pub fn watch(self) -> Result<(watch::Receiver<Stop>, Ending)> {
        let (sender, receiver) = watch::channel(Stop::No);
        let (first, last) = std::sync::mpsc::channel();
        let signals = self.0;
        let wait = move || {
            for stop in [Stop::Soon, Stop::Now] {
                let Ok(signal) = signals.wait() else { return };
                let _ = first.send(signal);
                sender.send_replace(stop);
            }
        };
        std::thread::Builder::new().name("signals".into()).stack_size(128 << 10).spawn(wait)?;
        Ok((receiver, Ending { signals, last }))
    }
}

/// How this process ends.
pub struct Ending {
    signals: SigSet,
    last: std::sync::mpsc::Receiver<Signal>,
}

impl Ending {
    /// Dies of the signal that came first, if one did.
    pub fn die(self) -> Result<()> {
        match self.last.try_recv() {
            Ok(signal) => cli::die_of(signal, &self.signals),
            Err(_) => Ok(()),
        }
    }
}
