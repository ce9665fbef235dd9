//! The end: at the first signal what runs is finished, at the second nothing is.

use anyhow::Result;
use common::sys;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, raise, sigprocmask};
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
        let mut signals = SigSet::empty();
        // What is ignored, as by nohup, is to be ignored still.
        let fatal = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP].into_iter();
        fatal.filter(|signal| !sys::is_ignored(*signal)).for_each(|signal| signals.add(signal));
        sigprocmask(SigmaskHow::SIG_BLOCK, Some(&signals), None)?;
        Ok(Signals(signals))
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
        if let Ok(signal) = self.last.try_recv() {
            // Its action is the default one, so it ends the process as soon as it is let through.
            raise(signal)?;
            sigprocmask(SigmaskHow::SIG_UNBLOCK, Some(&self.signals), None)?;
        }
        Ok(())
    }
}
