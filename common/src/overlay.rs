//! Overlay mounts, made with the new mount API and attached to nothing.
//!
//! [`Overlay::mount`] returns a descriptor of the mount. Through it files can be
//! read and written as through any directory, and whoever wants the mount to
//! have a place gives it one with move_mount(2). It goes with its last user.
//!
//! Directories are named to the kernel by descriptor (`/proc/self/fd/N`), so no
//! character in a path means something to the option parser, none of them is
//! too long for fsconfig(2), which takes 255 bytes, and what is mounted is what was opened.

use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_flag,
    fsconfig_set_string, fsmount, fsopen,
};

/// The most lower layers that the kernel stacks: OVL_MAX_STACK in fs/overlayfs.
pub const MOST_LAYERS: usize = 500;

/// An overlay: directories seen as one, and where changes to it go.
pub struct Overlay<'fd> {
    /// The layers that are only read, top first.
    pub lower: Vec<BorrowedFd<'fd>>,
    /// The layer that takes what is written, and an empty directory beside it for the kernel's use.
    pub upper: Option<(BorrowedFd<'fd>, BorrowedFd<'fd>)>,
    /// Whether the marks of overlay are `user.overlay.*`, as they must be in a user namespace, and not `trusted.overlay.*`.
    pub userxattr: bool,
    /// Whether the upper layer may be lost with the machine's power: nothing written to it is ever synced.
    pub volatile: bool,
}

impl Overlay<'_> {
    /// Mounts it.
    pub fn mount(&self, attributes: MountAttrFlags) -> io::Result<OwnedFd> {
        let fs = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
        let configured = self.configure(fs.as_fd());
        configured.map_err(|err| explain(&fs, err))?;
        Ok(fsmount(&fs, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?)
    }

    fn configure(&self, fs: BorrowedFd) -> io::Result<()> {
        fsconfig_set_string(fs, "source", "overlay")?;
        fsconfig_set_string(fs, "index", "off")?;
        if self.userxattr {
            fsconfig_set_flag(fs, "userxattr")?; // which turns the next two off by itself
        } else {
            // A layer must hold whole files under their own names. It goes under other layers than
            // those that it was made on, and into archives; and a mark in one could name anything.
            fsconfig_set_string(fs, "redirect_dir", "nofollow")?;
            fsconfig_set_string(fs, "metacopy", "off")?;
        }
        if let Some((upper, work)) = self.upper {
            fsconfig_set_string(fs, "upperdir", path(upper))?;
            fsconfig_set_string(fs, "workdir", path(work))?;
            if self.volatile {
                fsconfig_set_flag(fs, "volatile")?;
            }
        }
        match self.lower.split_first() {
            None => Err(ErrorKind::InvalidInput.into()),
            Some((top, rest)) => match fsconfig_set_string(fs, "lowerdir+", path(*top)) {
                Ok(()) => {
                    for lower in rest {
                        fsconfig_set_string(fs, "lowerdir+", path(*lower))?;
                    }
                    Ok(fsconfig_create(fs)?)
                }
                Err(Errno::INVAL) => self.create_as_before_6_5(fs),
                Err(err) => Err(err.into()),
            },
        }
    }

    /// Names all lower layers in one option, where the kernel has no option for each.
    ///
    /// In 255 bytes there is room for 63 of them, if they are called as they are in
    /// /proc/self/fd: by three digits. It resolves them when it creates the superblock.
    fn create_as_before_6_5(&self, fs: BorrowedFd) -> io::Result<()> {
        let names: Vec<String> = self.lower.iter().map(|fd| fd.as_raw_fd().to_string()).collect();
        fsconfig_set_string(fs, "lowerdir", names.join(":"))?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let here = rustix::fs::openat(CWD, ".", flags, Mode::empty())?;
        rustix::process::chdir("/proc/self/fd")?;
        let created = fsconfig_create(fs);
        rustix::process::fchdir(here)?;
        Ok(created?)
    }
}

/// Returns a path that leads to what `fd` is.
fn path(fd: BorrowedFd) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

/// Adds what the kernel says about the error: a line for each message, which begins with its gravity, `e `.
fn explain(fs: &OwnedFd, err: io::Error) -> io::Error {
    let mut message = [0; 512];
    match rustix::io::read(fs, &mut message) {
        Ok(n) if n > 2 => {
            let said = String::from_utf8_lossy(&message[2..n]);
            let said = said.trim().trim_start_matches("overlay: ");
            io::Error::new(err.kind(), format!("{said}: {err}"))
        }
        _ => err,
    }
}
