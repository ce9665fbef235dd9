//! A container's terminal: opened in its own devpts, its other end handed to the supervisor.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::path::Path;

use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{OFlags, fstatfs};
use rustix::io::{Errno, Result};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

use super::beneath;

/// The magic number of a devpts: statfs(2).
const DEVPTS_SUPER_MAGIC: i64 = 0x1cd1;

/// Opens a terminal in the devpts beneath `root`; returns both of its ends.
///
/// The container's end comes from the other one, not from a path in /dev/pts, which
/// the image may have made something else of (CVE-2025-52565).
pub(super) fn open(root: impl AsFd, size: Option<(u16, u16)>) -> Result<(OwnedFd, OwnedFd)> {
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let master = beneath::open_as(root, Path::new("dev/pts/ptmx"), flags)?;
    if fstatfs(&master)?.f_type as i64 != DEVPTS_SUPER_MAGIC {
        return Err(Errno::NOTTY);
    }
    unlockpt(&master)?;
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let slave = ioctl_tiocgptpeer(&master, flags)?;
    if let Some((rows, columns)) = size {
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&master, size)?;
    }
    Ok((master, slave))
}

/// Sends `fd` over `socket`.
pub(super) fn send(socket: impl AsFd, fd: impl AsFd) -> Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds = [fd.as_fd()];
    // The space is for just this message.
    assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
    sendmsg(socket, &[IoSlice::new(b"t")], &mut control, SendFlags::NOSIGNAL).map(drop)
}

/// Receives what [`send`] sent.
pub(super) fn receive(socket: impl AsFd) -> Result<OwnedFd> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    recvmsg(
        socket,
        &mut [IoSliceMut::new(&mut byte)],
        &mut control,
        RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT,
    )?;
    control
        .drain()
        .find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
            _ => None,
        })
        .ok_or(Errno::NOMSG)
}
