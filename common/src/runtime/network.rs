//! A network namespace that is made ahead, while its container is still being planned.
//!
//! The kernel takes longer to make one than to make all the other namespaces,
//! and a process can enter it as well as be born in it: so it is made on another
//! core, by a thread that does nothing else, and owned by the user namespace of this moment.

use std::os::fd::OwnedFd;
use std::thread::JoinHandle;

use nix::sched::{CloneFlags, unshare};
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::Errno;

use crate::sys;

/// A network namespace on its way.
#[derive(Debug)]
pub struct Ahead(JoinHandle<Result<OwnedFd, Errno>>);

impl Ahead {
    /// Begins to make one, or does without.
    pub fn begin() -> Option<Ahead> {
        let thread = std::thread::Builder::new().name("network".into()).stack_size(64 << 10);
        thread.spawn(make).ok().map(Ahead)
    }

    /// Returns it, its loopback interface up; or nothing, and then whoever wants one learns why by trying.
    pub(super) fn finish(self) -> Option<OwnedFd> {
        self.0.join().ok()?.ok()
    }
}

fn make() -> Result<OwnedFd, Errno> {
    unshare(CloneFlags::CLONE_NEWNET).map_err(|errno| Errno::from_raw_os_error(errno as i32))?;
    sys::loopback_up()?;
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    openat(CWD, c"/proc/thread-self/ns/net", flags, Mode::empty())
}
