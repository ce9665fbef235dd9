//! Stays with a running container: its signals, its terminal, its time, its end.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use anyhow::Result;
use common::runtime::{Ended, Running};
use common::{cli, sys};
use nix::sys::signal::Signal;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;

use crate::terminal::Terminal;

/// How long a container has to end after SIGTERM, as docker stop gives it.
const GRACE: Duration = Duration::from_secs(10);
/// How long its last output waits for a reader when somebody wants it to end.
const PATIENCE: Duration = Duration::from_secs(1);
/// How often it is looked whether somebody has opened the container's terminal again.
const AGAIN: Duration = Duration::from_millis(50);
/// The exit status of a container that had no more time.
const TIMED_OUT: u8 = 124;
/// A pipe that can be written to takes this much at once: pipe(7), PIPE_BUF.
const CHUNK: usize = 4096;

/// How a container ended, as our exit status and as status.json say it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    /// The exit status.
    pub status: u8,
    /// The signal.
    pub signal: Option<i32>,
}

/// What is prepared before the container starts, so that no signal is lost.
pub struct Supervision {
    signals: OwnedFd,
    timeout: Option<Duration>,
}

impl Supervision {
    /// Takes our signals in hand. What our caller has us ignore, as nohup does, stays ignored.
    pub fn new(timeout: Option<Duration>) -> Result<Supervision> {
        let ours =
            Signal::iterator().filter(|signal| !is_our_own(*signal) && !sys::is_ignored(*signal));
        // One that is blocked comes in as an error of the write.
        let ours = ours.map(|signal| signal as i32).chain([Signal::SIGPIPE as i32]);
        let real_time = 34..=64;
        Ok(Supervision { signals: sys::signal_fd(ours.chain(real_time))?, timeout })
    }

    /// Stays until the container has ended. `first` says that its process is number 1 of a namespace.
    pub fn supervise(
        self,
        running: Running,
        terminal: Option<Terminal>,
        first: bool,
    ) -> Result<End> {
        let mut container = Supervised {
            relay: Relay::new(&running, terminal)?,
            running,
            first,
            deadline: self.timeout.map(|timeout| Instant::now() + timeout),
            timed_out: false,
            killed_for: None,
            ignored: false,
            told: false,
        };
        container.stay(&self.signals)
    }
}

/// Returns whether a signal is for us alone: one that says something about ourselves, or that cannot be blocked.
fn is_our_own(signal: Signal) -> bool {
    use Signal::*;
    matches!(
        signal,
        SIGCHLD
            | SIGPIPE
            | SIGURG
            | SIGKILL
            | SIGSTOP
            | SIGTTIN
            | SIGTTOU
            | SIGSEGV
            | SIGBUS
            | SIGFPE
            | SIGILL
            | SIGTRAP
            | SIGSYS
    )
}

struct Supervised {
    running: Running,
    relay: Relay,
    first: bool,
    deadline: Option<Instant>,
    timed_out: bool,
    /// The signal that the container was to die of when we killed it.
    killed_for: Option<i32>,
    /// It was told once already that it ignores an interrupt.
    ignored: bool,
    /// Somebody wants it to end.
    told: bool,
}

impl Supervised {
    fn stay(&mut self, signals: &OwnedFd) -> Result<End> {
        loop {
            let mut fds = vec![
                PollFd::new(&self.running.pidfd, PollFlags::IN),
                PollFd::new(signals, PollFlags::IN),
            ];
            let sources = self.relay.interests(&mut fds);
            let ready = match poll(&mut fds, self.left().as_ref()) {
                Err(Errno::INTR) => continue,
                result => result?,
            };
            let happened: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
            self.relay.look_again();
            if ready == 0 {
                if self.deadline.is_some_and(|deadline| deadline <= Instant::now()) {
                    self.expire();
                }
                continue;
            }
            if happened[1] {
                self.take_signals(signals)?;
            }
            if happened[0] {
                break;
            }
            for (source, _) in sources.iter().zip(&happened[2..]).filter(|(_, happened)| **happened)
            {
                self.relay.work(*source);
            }
        }
        let ended = self.running.wait()?;
        self.relay.finish(signals, self.told);
        Ok(self.end(ended))
    }

    /// Returns how long to wait at most.
    fn left(&self) -> Option<Timespec> {
        let left = self.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let again = self.relay.is_closed.then_some(AGAIN);
        let left = left.into_iter().chain(again).min()?;
        // Seconds of a time that the command line took.
        Some(Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() })
    }

    /// The time is over: first a request, and then no more.
    fn expire(&mut self) {
        if self.timed_out {
            self.running.kill();
            self.deadline = None;
        } else {
            self.timed_out = true;
            self.deadline = Some(Instant::now() + GRACE);
            self.deliver(Signal::SIGTERM as i32);
        }
    }

    fn take_signals(&mut self, signals: &OwnedFd) -> Result<()> {
        while let Some(signal) = next_signal(signals)? {
            self.handle(signal);
        }
        Ok(())
    }

    fn handle(&mut self, signal: i32) {
        match Signal::try_from(signal) {
            Ok(Signal::SIGPIPE) => {}
            Ok(Signal::SIGWINCH) if self.relay.has_terminal() => self.relay.resize(),
            Ok(Signal::SIGTSTP) => self.stop(),
            Ok(Signal::SIGINT) if self.first => self.interrupt(),
            _ => self.deliver(signal),
        }
    }

    /// Stops the container and ourselves, until somebody continues us.
    fn stop(&mut self) {
        let pid = self.running.pid;
        // Its process leads a group, which is everybody if it is no shell with job control.
        let _ = rustix::process::kill_process_group(pid, rustix::process::Signal::STOP);
        self.relay.pause();
        let _ = nix::sys::signal::raise(Signal::SIGSTOP);
        self.relay.resume();
        let _ = rustix::process::kill_process_group(pid, rustix::process::Signal::CONT);
    }

    /// Passes Ctrl-C on. The second one ends a process 1 that does not care.
    fn interrupt(&mut self) {
        let disposition = Disposition::of(&self.running, Signal::SIGINT as i32);
        match disposition {
            Disposition::Ignored if self.ignored => {
                cli::warn("process 1 of the container ignores SIGINT: killed");
                self.kill_for(Signal::SIGINT as i32);
            }
            Disposition::Ignored => {
                self.ignored = true;
                cli::warn("process 1 of the container ignores SIGINT; a second one kills it");
            }
            _ => self.deliver(Signal::SIGINT as i32),
        }
    }

    /// Sends a signal, with the effect that it has on any process.
    ///
    /// The kernel lets none through to process 1 of a namespace that it has no handler for, not even from
    /// outside, but for SIGKILL; so `timeout 2 ctr-spawn IMAGE sleep 60` would never end.
    fn deliver(&mut self, signal: i32) {
        use Signal::*;
        self.told |= matches!(Signal::try_from(signal), Ok(SIGTERM | SIGINT | SIGHUP | SIGQUIT));
        if self.first
            && is_deadly(signal)
            && Disposition::of(&self.running, signal) == Disposition::Default
        {
            return self.kill_for(signal);
        }
        self.running.signal(signal);
    }

    fn kill_for(&mut self, signal: i32) {
        self.killed_for.get_or_insert(signal);
        self.running.kill();
    }

    fn end(&self, ended: Ended) -> End {
        let (status, signal) = match ended {
            Ended::Exited(status) => (status as u8, None),
            Ended::Killed(by) => {
                let signal = match self.killed_for {
                    Some(signal) if by == Signal::SIGKILL as i32 => signal,
                    _ => by,
                };
                (128u8.wrapping_add(signal as u8), Some(signal))
            }
        };
        End { status: if self.timed_out { TIMED_OUT } else { status }, signal }
    }
}

/// Returns the next signal that came for us, if one did.
fn next_signal(signals: &OwnedFd) -> rustix::io::Result<Option<i32>> {
    let mut info = [0; 128];
    loop {
        match rustix::io::read(signals, &mut info) {
            Ok(length) if length == info.len() => {
                // struct signalfd_siginfo begins with the number.
                let number = u32::from_ne_bytes([info[0], info[1], info[2], info[3]]);
                return Ok(Some(number as i32));
            }
            Ok(_) | Err(Errno::AGAIN) => return Ok(None),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}

/// Takes the signals that have come; returns whether one of them ends a process that has no handler for it.
fn has_deadly(signals: &OwnedFd) -> bool {
    let mut found = false;
    while let Ok(Some(signal)) = next_signal(signals) {
        found |= is_deadly(signal) && signal != Signal::SIGPIPE as i32;
    }
    found
}

/// Tells whether `signal` ends a process that has no handler for it.
fn is_deadly(signal: i32) -> bool {
    use Signal::*;
    !matches!(Signal::try_from(signal), Ok(SIGCONT | SIGWINCH | SIGTSTP | SIGURG | SIGCHLD))
}

/// What a process does about a signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Disposition {
    /// It has a handler, or waits for it.
    Handled,
    /// It was told to ignore it.
    Ignored,
    /// Nothing.
    Default,
}

impl Disposition {
    fn of(running: &Running, signal: i32) -> Disposition {
        let proc = format!("/proc/{}", running.pid.as_raw_nonzero());
        let found = match std::fs::read_to_string(format!("{proc}/status")) {
            Ok(status) => Disposition::read(&status, signal),
            Err(_) => Disposition::Handled,
        };
        // While it waits for signals, as tini and our own init do, those do not show as blocked.
        let call = std::fs::read_to_string(format!("{proc}/syscall")).unwrap_or_default();
        match call.split(' ').next().and_then(|number| number.parse().ok()) {
            Some(nix::libc::SYS_rt_sigtimedwait) if found == Disposition::Default => {
                Disposition::Handled
            }
            _ => found,
        }
    }

    /// Reads the masks of proc_pid_status(5).
    fn read(status: &str, signal: i32) -> Disposition {
        let has = |field: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(field));
            let mask = line.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
            mask.unwrap_or(0) & 1 << (signal - 1) != 0
        };
        match (has("SigCgt:") || has("SigBlk:"), has("SigIgn:")) {
            (true, _) => Disposition::Handled,
            (_, true) => Disposition::Ignored,
            _ => Disposition::Default,
        }
    }
}

/// What a relay waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    /// The container prints.
    Printed,
    /// Our stdout takes what was printed.
    Stdout,
    /// The user types.
    Typed,
    /// The container takes what was typed.
    Taken,
}

/// Copies between the user's terminal and the container's.
struct Relay {
    /// Both terminals, while there is something to copy.
    ends: Option<(OwnedFd, Terminal)>,
    /// Nobody has the container's open, which somebody may open again.
    is_closed: bool,
    /// What was typed and not yet taken.
    typed: Vec<u8>,
    /// What was printed and not yet taken.
    printed: Vec<u8>,
}

impl Relay {
    fn new(running: &Running, terminal: Option<Terminal>) -> Result<Relay> {
        let mut relay =
            Relay { ends: None, is_closed: false, typed: Vec::new(), printed: Vec::new() };
        if let (Some(master), Some(mut terminal)) = (&running.terminal, terminal) {
            let master = rustix::io::fcntl_dupfd_cloexec(master, 3)?;
            let flags = fcntl_getfl(&master)?;
            fcntl_setfl(&master, flags | OFlags::NONBLOCK)?;
            if terminal.reads {
                terminal.make_raw()?;
            }
            relay.ends = Some((master, terminal));
        }
        Ok(relay)
    }

    fn has_terminal(&self) -> bool {
        self.ends.is_some()
    }

    /// Adds what to wait for; nothing is there that nobody waits for, since the kernel reports a hangup always.
    fn interests<'a>(&'a self, fds: &mut Vec<PollFd<'a>>) -> Vec<Source> {
        let mut sources = Vec::new();
        let Some((master, terminal)) = &self.ends else { return sources };
        if self.is_closed {
            return sources; // there is a hangup all the time
        }
        let mut wait = |source, fd: BorrowedFd<'a>, event| {
            fds.push(PollFd::from_borrowed_fd(fd, event));
            sources.push(source);
        };
        match self.printed.is_empty() {
            true => wait(Source::Printed, master.as_fd(), PollFlags::IN),
            false => wait(Source::Stdout, rustix::stdio::stdout(), PollFlags::OUT),
        }
        match self.typed.is_empty() {
            true if terminal.reads => wait(Source::Typed, terminal.as_fd(), PollFlags::IN),
            true => {}
            false => wait(Source::Taken, master.as_fd(), PollFlags::OUT),
        }
        sources
    }

    /// Copies what `source` is ready for.
    fn work(&mut self, source: Source) {
        let Some((master, terminal)) = &mut self.ends else { return };
        let mut buffer = [0; CHUNK];
        match source {
            Source::Printed => match rustix::io::read(&*master, &mut buffer) {
                Ok(length) if length > 0 => self.printed.extend_from_slice(&buffer[..length]),
                Err(Errno::AGAIN | Errno::INTR) => {}
                // Nobody has it open any more. Meanwhile our own terminal is the user's, for Ctrl-C as well.
                _ => {
                    self.is_closed = true;
                    terminal.restore();
                }
            },
            Source::Typed => match rustix::io::read(&*terminal, &mut buffer) {
                Ok(length) if length > 0 => self.typed.extend_from_slice(&buffer[..length]),
                Err(Errno::AGAIN | Errno::INTR) => {}
                // The user's terminal is gone.
                _ => terminal.reads = false,
            },
            Source::Taken => match rustix::io::write(&*master, &self.typed) {
                Ok(length) => drop(self.typed.drain(..length)),
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(_) => self.typed.clear(),
            },
            Source::Stdout => match rustix::io::write(rustix::stdio::stdout(), &self.printed) {
                Ok(length) => drop(self.printed.drain(..length)),
                Err(Errno::AGAIN | Errno::INTR) => {}
                // Nobody reads it: what the container prints is thrown away, as a terminal does.
                Err(_) => self.printed.clear(),
            },
        }
    }

    /// Goes on copying if somebody has opened the container's terminal again, or has done so and left something.
    fn look_again(&mut self) {
        let Some((master, _)) = self.ends.as_ref().filter(|_| self.is_closed) else { return };
        let mut fds = [PollFd::new(master, PollFlags::IN)];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        let found = poll(&mut fds, Some(&now)).map(|_| fds[0].revents());
        if found.is_ok_and(|found| found != PollFlags::HUP) {
            self.is_closed = false;
            self.resume();
        }
    }

    fn resize(&self) {
        if let Some((master, terminal)) = &self.ends {
            terminal.resize(master.as_fd());
        }
    }

    fn pause(&mut self) {
        if let Some((_, terminal)) = &mut self.ends {
            terminal.restore();
        }
    }

    fn resume(&mut self) {
        if let Some((master, terminal)) = &mut self.ends {
            if terminal.reads && !self.is_closed {
                let _ = terminal.make_raw();
            }
            terminal.resize(master.as_fd());
        }
    }

    /// Copies what is left of the container's output, and gives the user's terminal back.
    ///
    /// Nobody may ever read it, so a signal that would end us ends this; and if it has come
    /// already, so does [`PATIENCE`].
    fn finish(&mut self, signals: &OwnedFd, hurried: bool) {
        let Some((master, _terminal)) = self.ends.take() else { return };
        let mut buffer = [0; CHUNK];
        let mut printed = std::mem::take(&mut self.printed);
        loop {
            while !printed.is_empty() {
                let stdout = rustix::stdio::stdout();
                let mut fds = [
                    PollFd::from_borrowed_fd(stdout, PollFlags::OUT),
                    PollFd::new(signals, PollFlags::IN),
                ];
                let patience = Timespec { tv_sec: PATIENCE.as_secs() as i64, tv_nsec: 0 };
                if poll(&mut fds, hurried.then_some(&patience)) == Ok(0) {
                    return;
                }
                if !fds[1].revents().is_empty() && has_deadly(signals) {
                    return;
                }
                if fds[0].revents().is_empty() {
                    continue;
                }
                match rustix::io::write(stdout, &printed) {
                    Ok(length) => drop(printed.drain(..length)),
                    Err(Errno::INTR | Errno::AGAIN) => {}
                    Err(_) => return,
                }
            }
            match rustix::io::read(&master, &mut buffer) {
                Ok(length) if length > 0 => printed.extend_from_slice(&buffer[..length]),
                Err(Errno::INTR) => {}
                _ => return,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_process_does_about_a_signal_is_in_its_status() {
        let status = "Name:\tx\nSigBlk:\t0000000000000000\nSigIgn:\t0000000000000001\nSigCgt:\t0000000000000002\n";
        assert_eq!(Disposition::read(status, 1), Disposition::Ignored);
        assert_eq!(Disposition::read(status, 2), Disposition::Handled);
        assert_eq!(Disposition::read(status, 15), Disposition::Default);
    }
}
