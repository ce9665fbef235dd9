//! The user's terminal, while a container has it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use anyhow::{Error, Result};
use common::error::{Hint, Usage};
use rustix::fs::{Mode, OFlags, open};
use rustix::termios::{
    OptionalActions, Termios, isatty, tcgetattr, tcgetwinsize, tcsetattr, tcsetwinsize,
};

/// The user's terminal. It becomes what it was with the end of this value.
pub struct Terminal {
    fd: OwnedFd,
    /// Whether what is typed goes to the container.
    pub reads: bool,
    before: Option<Termios>,
}

impl Terminal {
    /// Opens the terminal: stdin, or with something else there the one that we were started from.
    pub fn open(reads: bool) -> Result<Terminal> {
        let stdin = rustix::stdio::stdin();
        let fd = match isatty(stdin) {
            true => rustix::io::fcntl_dupfd_cloexec(stdin, 3).ok(),
            false => {
                open("/dev/tty", OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty())
                    .ok()
            }
        };
        match fd {
            Some(fd) => Ok(Terminal { fd, reads, before: None }),
            None => Err(Error::new(Usage("-t: there is no terminal here".into())))
                .hint(|| "without -t the command reads and writes as in any pipeline".into()),
        }
    }

    /// Returns its rows and columns.
    pub fn size(&self) -> Option<(u16, u16)> {
        let size = tcgetwinsize(&self.fd).ok()?;
        Some((size.ws_row, size.ws_col))
    }

    /// Makes the container's terminal, whose other end is `master`, as large as this one.
    pub fn resize(&self, master: BorrowedFd) {
        if let Ok(size) = tcgetwinsize(&self.fd) {
            let _ = tcsetwinsize(master, size);
        }
    }

    /// Lets every key through as it is: the container's terminal is the one that knows what Ctrl-C means.
    pub fn make_raw(&mut self) -> Result<()> {
        let before = tcgetattr(&self.fd)?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(&self.fd, OptionalActions::Drain, &raw)?;
        self.before = Some(before);
        Ok(())
    }

    /// Makes the terminal what it was.
    pub fn restore(&mut self) {
        if let Some(before) = self.before.take() {
            let _ = tcsetattr(&self.fd, OptionalActions::Drain, &before);
        }
    }
}

impl AsFd for Terminal {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.restore();
    }
}
