//! What this program is inside a container: a small init, or what calls exec for the command.
//!
//! It gets there as a read-only mount of our own file, which nobody can write to
//! (CVE-2019-5736), with the container's environment and as
//!
//! ```text
//! tare-init REPORT PATH ARG...    forks, reaps, passes signals on
//! tare-exec REPORT PATH ARG...    becomes the command
//! ```

use std::ffi::{CString, OsString};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use nix::sys::signal::SigSet;
use nix::unistd::{execve, getpid, setpgid, tcsetpgrp};
use rustix::process::{DumpableBehavior, Pid, WaitOptions, set_dumpable_behavior, wait};

use crate::sys;

/// The name of the role that stays.
pub(super) const INIT: &std::ffi::CStr = c"tare-init";
/// The name of the role that does not.
pub(super) const EXEC: &std::ffi::CStr = c"tare-exec";

/// Plays the role that the name of this program says; returns its exit status, or nothing if it says none.
///
/// To be called first of all by a program that starts containers.
pub fn init() -> Option<u8> {
    let mut args = std::env::args_os();
    let name = args.next()?;
    let stays = match name.as_bytes() {
        name if name == INIT.to_bytes() => true,
        name if name == EXEC.to_bytes() => false,
        _ => return None,
    };
    Some(play(stays, args).unwrap_or(125))
}

fn play(stays: bool, mut args: impl Iterator<Item = OsString>) -> Option<u8> {
    let report = args.next()?.to_str()?.parse().ok()?;
    let report = sys::inherited_fd(report).ok()?;
    let mut strings = args.map(|arg| CString::new(arg.into_vec()).ok());
    let path = strings.next()??;
    let args: Vec<CString> = strings.collect::<Option<_>>()?;
    if !stays {
        return Some(become_command(&path, &args, &report));
    }

    // Before there is anybody to whom /proc/1/exe could be of use; with exec the command is dumpable again.
    let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    // All signals wait until they are asked for, so none ends process 1 and none is lost.
    SigSet::all().thread_set_mask().ok()?;
    match sys::fork().ok()? {
        None => {
            let own = getpid();
            let _ = setpgid(own, own);
            // The shell that it may be reads from the terminal, if there is one.
            let _ = tcsetpgrp(rustix::stdio::stdin(), own);
            sys::reset_signals();
            sys::exit(become_command(&path, &args, &report).into())
        }
        Some(child) => {
            drop(report);
            Some(reap(Pid::from_raw(child.as_raw())?))
        }
    }
}

/// Becomes the command; returns only if that failed.
fn become_command(path: &CString, args: &[CString], report: &OwnedFd) -> u8 {
    let env: Vec<CString> = std::env::vars_os()
        .filter_map(|(key, value)| {
            CString::new([key.as_bytes(), b"=", value.as_bytes()].concat()).ok()
        })
        .collect();
    // It cannot succeed and return.
    let errno = execve(path, args, &env).unwrap_err();
    let _ = rustix::io::write(report.as_fd(), &(-i64::from(errno as i32)).to_le_bytes());
    127
}

/// Collects whoever ends, and passes signals on to `child`; returns the exit status of `child` when it has ended.
///
/// Real-time signals as well, which nix has no names for; and by no call that the container's filter may not know.
fn reap(child: Pid) -> u8 {
    loop {
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            if pid == child {
                let killed = status.terminating_signal().map(|signal| 128 + signal);
                return killed.or(status.exit_status()).unwrap_or(128) as u8;
            }
        }
        match sys::wait_for_signal() {
            Ok(libc::SIGCHLD) | Err(_) => {}
            Ok(signal) => drop(sys::kill(child, signal)),
        }
    }
}
