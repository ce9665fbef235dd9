//! The password that `--creds` left out, asked for on the terminal.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::AsFd;

use anyhow::{Context, Error, Result};
use common::error::{Hint, Usage};
use common::registry::credentials::Credentials;
use nix::sys::signal::{Signal, raise};
use nix::sys::termios::{LocalFlags, SetArg, tcgetattr, tcsetattr};

/// The longest password.
const LIMIT: usize = 4096;

/// Reads `USER:PASSWORD`, or `USER` and asks for the rest.
pub fn credentials(text: &str) -> Result<Credentials> {
    let bad = |err: Error| Error::new(Usage(format!("--creds: {err}")));
    if text.contains(':') {
        return text.parse().map_err(bad);
    }
    let tty = OpenOptions::new().read(true).write(true).open("/dev/tty");
    let Ok(mut tty) = tty else {
        let err = Error::new(Usage("--creds: no password, and no terminal to ask for it".into()));
        return Err(err).hint(|| format!("--creds {text}:PASSWORD, or --authfile FILE"));
    };
    let password = ask(&mut tty, text).context("/dev/tty")?;
    format!("{text}:{password}").parse().map_err(bad)
}

/// Asks without showing what is typed. The keys that interrupt are read as
/// characters meanwhile, so that the terminal is put back before they act.
fn ask(tty: &mut File, user: &str) -> Result<String> {
    write!(tty, "Password for {user}: ")?;
    let before = tcgetattr(tty.as_fd())?;
    let mut silent = before.clone();
    silent.local_flags.remove(LocalFlags::ECHO | LocalFlags::ICANON | LocalFlags::ISIG);
    tcsetattr(tty.as_fd(), SetArg::TCSAFLUSH, &silent)?;
    let typed = line(tty);
    tcsetattr(tty.as_fd(), SetArg::TCSAFLUSH, &before)?;
    writeln!(tty)?;
    match typed? {
        Some(typed) => Ok(String::from_utf8(typed)?),
        None => {
            raise(Signal::SIGINT)?;
            Ok(String::new())
        }
    }
}

/// Reads a line; returns nothing if it is given up.
fn line(tty: &mut File) -> Result<Option<Vec<u8>>> {
    let mut typed = Vec::new();
    let mut key = [0];
    while typed.len() < LIMIT {
        match (tty.read(&mut key)?, key[0]) {
            (0, _) | (_, b'\r' | b'\n' | 4) => break,
            (_, 3 | 28) => return Ok(None),
            (_, 8 | 127) => drop(typed.pop()),
            (_, 21) => typed.clear(),
            (_, byte) => typed.push(byte),
        }
    }
    Ok(Some(typed))
}
