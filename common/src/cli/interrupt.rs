//! What a signal ends is cleaned up first, and then dies of that signal.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::Result;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, raise, sigprocmask};

use crate::sys;

/// What is to be done before a signal ends this process.
static CLEANUPS: Mutex<Vec<Box<dyn FnOnce() + Send>>> = Mutex::new(Vec::new());

fn cleanups() -> MutexGuard<'static, Vec<Box<dyn FnOnce() + Send>>> {
    CLEANUPS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs `cleanup` when SIGINT, SIGTERM or SIGHUP comes, and then dies of that signal.
///
/// To be called before any other thread is started, since these inherit the mask that leaves the signals to one.
pub fn on_interrupt(cleanup: impl FnOnce() + Send + 'static) -> Result<()> {
    wait_for_signals()?;
    cleanups().push(Box::new(cleanup));
    Ok(())
}

/// Makes a file or directory that a signal removes, from the moment on that it is there.
pub fn temporary<T: AsRef<Path>>(make: impl FnOnce() -> io::Result<T>) -> Result<T> {
    wait_for_signals()?;
    let mut cleanups = cleanups(); // a signal waits until we know what we made
    let made = make()?;
    let path = made.as_ref().to_owned();
    cleanups.push(Box::new(move || {
        let remove = if path.is_dir() { fs::remove_dir_all } else { fs::remove_file };
        // Others of our threads may put things into it still, until it is gone.
        while remove(&path).is_err_and(|err| err.kind() == ErrorKind::DirectoryNotEmpty) {}
    }));
    Ok(made)
}

/// Leaves the signals that end a process to a thread, which cleans up first.
fn wait_for_signals() -> Result<()> {
    static WAITING: Mutex<bool> = Mutex::new(false);
    let mut waiting = WAITING.lock().unwrap_or_else(PoisonError::into_inner);
    if *waiting {
        return Ok(());
    }
    let signals = hold_signals()?;
    std::thread::Builder::new().name("signals".into()).stack_size(128 << 10).spawn(move || {
        let Ok(signal) = signals.wait() else { return };
        let mut cleanups = cleanups();
        cleanups.drain(..).rev().for_each(|cleanup| cleanup());
        let _ = die_of(signal, &signals);
    })?;
    *waiting = true;
    Ok(())
}

/// Keeps back the signals that end a process, and returns them, for somebody to wait for.
///
/// To be called before any other thread is started: these inherit the mask.
pub fn hold_signals() -> Result<SigSet> {
    let mut signals = SigSet::empty();
    // What is ignored, as by nohup, is to be ignored still.
    let fatal = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP].into_iter();
    fatal.filter(|signal| !sys::is_ignored(*signal)).for_each(|signal| signals.add(signal));
    sigprocmask(SigmaskHow::SIG_BLOCK, Some(&signals), None)?;
    Ok(signals)
}

/// Ends this process by a signal, one of those `held`.
pub fn die_of(signal: Signal, held: &SigSet) -> Result<()> {
    // Its action is the default one, so it ends the process as soon as it is let through.
    raise(signal)?;
    Ok(sigprocmask(SigmaskHow::SIG_UNBLOCK, Some(held), None)?)
}

/// Does not return while a signal is cleaned up after: the process is about to die of it.
pub fn wait_for_signal() {
    drop(cleanups());
}
