//! What is asked for on the terminal: a password that was left out, a user's name.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::AsFd;

use anyhow::{Context, Error, Result};
use nix::sys::signal::{Signal, raise};
use nix::sys::termios::{LocalFlags, SetArg, tcgetattr, tcsetattr};

use crate::credentials::Credentials;
use crate::error::{Hint, Usage};

/// The longest password.
const LIMIT: usize = 4096;

/// Reads `USER:PASSWORD`, or `USER` and asks for the rest.
pub fn credentials(text: &str) -> Result<Credentials> {
    let bad = |err: Error| Error::new(Usage(format!("--creds: {err}")));
    if text.contains(':') {
        return text.parse().map_err(bad);
    }
    let Some(mut tty) = Terminal::open() else {
        let err = Error::new(Usage("--creds: no password, and no terminal to ask for it".into()));
        return Err(err).hint(|| format!("--creds {text}:PASSWORD, or --authfile FILE"));
    };
    let password = tty.secret(&format!("Password for {text}: "))?;
    format!("{text}:{password}").parse().map_err(bad)
}

/// The terminal that this process belongs to, whatever stdin and stdout are.
pub struct Terminal(File);

impl Terminal {
    /// Opens the terminal, if there is one.
    pub fn open() -> Option<Terminal> {
        OpenOptions::new().read(true).write(true).open("/dev/tty").ok().map(Terminal)
    }

    /// Asks, and returns the line that is typed.
    pub fn line(&mut self, question: &str) -> Result<String> {
        self.ask(question, LocalFlags::empty()).context("/dev/tty")
    }

    /// Asks without showing what is typed. The keys that interrupt are read as
    /// characters meanwhile, so that the terminal is put back before they act.
    pub fn secret(&mut self, question: &str) -> Result<String> {
        self.ask(question, LocalFlags::ECHO | LocalFlags::ICANON | LocalFlags::ISIG)
            .context("/dev/tty")
    }

    fn ask(&mut self, question: &str, without: LocalFlags) -> Result<String> {
        let Terminal(tty) = self;
        write!(tty, "{question}")?;
        let before = tcgetattr(tty.as_fd())?;
        let mut silent = before.clone();
        silent.local_flags.remove(without);
        tcsetattr(tty.as_fd(), SetArg::TCSAFLUSH, &silent)?;
        let typed = line(tty);
        tcsetattr(tty.as_fd(), SetArg::TCSAFLUSH, &before)?;
        if without.contains(LocalFlags::ECHO) {
            writeln!(tty)?; // the one that was typed was not shown
        }
        match typed? {
            Some(typed) => Ok(String::from_utf8(typed)?),
            None => {
                raise(Signal::SIGINT)?;
                Ok(String::new())
            }
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
