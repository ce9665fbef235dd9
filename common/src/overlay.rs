//! Overlay mounts, made with the new mount API and attached to nothing.
//!
//! [`Overlay`] is a plain value; [`Overlay::mount`] returns a descriptor of the
//! mount. Through it files can be read and written as through any directory, and
//! whoever wants the mount to have a place gives it one with move_mount(2). It
//! goes with its last user.
//!
//! Directories are named to the kernel by descriptor (`/proc/self/fd/N`), so no
//! character in a path means something to the option parser, and none of them is
//! too long for fsconfig(2), which takes 255 bytes.

use std::fs;
use std::io::ErrorKind;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use anyhow::{Context, Error, Result};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, UnmountFlags, fsconfig_create,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount,
};

use crate::error::At;
use crate::tree::copy_metadata;

/// The most lower layers that the kernel stacks: OVL_MAX_STACK in fs/overlayfs.
pub const MOST_LAYERS: usize = 500;

/// Directories seen as one, and where changes to them go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Overlay {
    /// The layers that are only read, top first.
    pub lower: Vec<PathBuf>,
    /// The layer that takes what is written.
    pub upper: Upper,
    /// Whether the marks of overlay are `user.overlay.*`, as they must be in a user namespace, and not `trusted.overlay.*`.
    pub userxattr: bool,
    /// Whether what is written may be lost with the machine's power: nothing of it is ever synced.
    pub volatile: bool,
}

/// The upper layer of an overlay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Upper {
    /// Nothing can be written. There must be two lower layers or more.
    None,
    /// Two directories of one filesystem: the layer, and one for the kernel's use. They are made if need be.
    Dirs {
        /// The layer.
        upper: PathBuf,
        /// The kernel's.
        work: PathBuf,
    },
    /// Memory: a tmpfs is mounted on this directory first, so the mount namespace should be a private one.
    Tmpfs(PathBuf),
}

impl Overlay {
    /// Mounts it.
    ///
    /// The root of an overlay is the upper layer's root, so if that is new it gets the owner,
    /// the mode and the attributes of the one below.
    pub fn mount(&self, attributes: MountAttrFlags) -> Result<OwnedFd> {
        self.mount_all(attributes).inspect_err(|_| {
            // A directory that something is mounted on cannot be removed, as whoever made it will now.
            if let Upper::Tmpfs(at) = &self.upper {
                let _ = rustix::mount::unmount(at, UnmountFlags::DETACH);
            }
        })
    }

    fn mount_all(&self, attributes: MountAttrFlags) -> Result<OwnedFd> {
        let lower: Vec<OwnedFd> =
            self.lower.iter().map(|path| open(path)).collect::<Result<_>>()?;
        let upper = match &self.upper {
            Upper::None => None,
            Upper::Dirs { upper, work } => {
                self.make_upper(upper, work)?;
                Some((open(upper)?, open(work)?))
            }
            Upper::Tmpfs(at) => {
                let tmpfs = tmpfs().context("cannot mount a tmpfs")?;
                let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
                move_mount(&tmpfs, "", CWD, at, flags).context("cannot mount a tmpfs").at(at)?;
                let (upper, work) = (at.join("upper"), at.join("work"));
                self.make_upper(&upper, &work)?;
                Some((open(&upper)?, open(&work)?))
            }
        };
        let made = match self.make(&lower, &upper, false) {
            // A kernel before 6.7 has no lowerdir+.
            Err(err) if is_invalid(&err) => self.make(&lower, &upper, true).or(Err(err)),
            made => made,
        };
        let flags = FsMountFlags::FSMOUNT_CLOEXEC;
        made.and_then(|fs| Ok(fsmount(fs, flags, attributes)?)).context("cannot mount an overlay")
    }

    /// Makes the directories of the upper layer that are not there yet.
    fn make_upper(&self, upper: &Path, work: &Path) -> Result<()> {
        if make_dir(upper)? {
            let top = self.lower.first().context("an overlay of no layers")?;
            let (from, to) = (fs::File::open(top).at(top)?, fs::File::open(upper).at(upper)?);
            copy_metadata(from.as_fd(), to.as_fd()).at(upper)?;
        }
        make_dir(work)?;
        Ok(())
    }

    /// Makes the filesystem, which is not mounted yet.
    fn make(
        &self,
        lower: &[OwnedFd],
        upper: &Option<(OwnedFd, OwnedFd)>,
        in_one: bool,
    ) -> Result<OwnedFd> {
        let fs = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
        let made = self.configure(fs.as_fd(), upper).and_then(|()| match in_one {
            true => create_in_one(fs.as_fd(), lower),
            false => create(fs.as_fd(), lower),
        });
        made.map_err(|err| explain(&fs, err))?;
        Ok(fs)
    }

    fn configure(
        &self,
        fs: BorrowedFd,
        upper: &Option<(OwnedFd, OwnedFd)>,
    ) -> rustix::io::Result<()> {
        fsconfig_set_string(fs, "source", "overlay")?;
        fsconfig_set_string(fs, "index", "off")?;
        if self.userxattr {
            fsconfig_set_flag(fs, "userxattr")?; // which turns the next two off by itself
        } else {
            // A layer must hold whole files under their own names. It goes on other layers than
            // those that it was made on, and into archives; and a mark in one could name anything.
            fsconfig_set_string(fs, "redirect_dir", "nofollow")?;
            fsconfig_set_string(fs, "metacopy", "off")?;
        }
        if let Some((upper, work)) = upper {
            fsconfig_set_string(fs, "upperdir", by_descriptor(upper))?;
            fsconfig_set_string(fs, "workdir", by_descriptor(work))?;
            if self.volatile {
                fsconfig_set_flag(fs, "volatile")?;
            }
        }
        Ok(())
    }
}

/// Names each lower layer in an option of its own.
fn create(fs: BorrowedFd, lower: &[OwnedFd]) -> rustix::io::Result<()> {
    for layer in lower {
        fsconfig_set_string(fs, "lowerdir+", by_descriptor(layer))?;
    }
    fsconfig_create(fs)
}

/// Names all lower layers in one option.
///
/// In 255 bytes there is room for 63 of them, if they are called as they are in
/// /proc/self/fd: by three digits.
fn create_in_one(fs: BorrowedFd, lower: &[OwnedFd]) -> rustix::io::Result<()> {
    let names: Vec<String> = lower.iter().map(|fd| fd.as_raw_fd().to_string()).collect();
    let here = rustix::fs::openat(CWD, ".", OPEN, Mode::empty())?;
    rustix::process::chdir("/proc/self/fd")?;
    let created =
        fsconfig_set_string(fs, "lowerdir", names.join(":")).and_then(|()| fsconfig_create(fs));
    rustix::process::fchdir(here)?;
    created
}

fn is_invalid(err: &Error) -> bool {
    err.chain().any(|link| link.downcast_ref::<Errno>() == Some(&Errno::INVAL))
}

/// Returns a tmpfs that is attached to nothing.
pub fn tmpfs() -> rustix::io::Result<OwnedFd> {
    let fs = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(&fs, "source", "tmpfs")?;
    fsconfig_set_string(&fs, "mode", "0700")?;
    fsconfig_create(&fs)?;
    fsmount(&fs, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())
}

const OPEN: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

fn open(path: &Path) -> Result<OwnedFd> {
    rustix::fs::openat(CWD, path, OPEN, Mode::empty()).at(path)
}

/// Makes a directory; returns whether it is new.
fn make_dir(path: &Path) -> Result<bool> {
    match fs::create_dir(path) {
        Ok(()) => Ok(true),
        Err(err) if err.kind() == ErrorKind::AlreadyExists => Ok(false),
        Err(err) => Err(err).at(path),
    }
}

fn by_descriptor(fd: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

/// Adds what the kernel says of the error: a line for each message, which begins with its gravity, `e `.
fn explain(fs: &OwnedFd, err: Errno) -> Error {
    let mut message = [0; 512];
    let said = match rustix::io::read(fs, &mut message) {
        Ok(n) => String::from_utf8_lossy(&message[n.min(2)..n]).trim().to_owned(),
        Err(_) => String::new(),
    };
    match said.is_empty() {
        true => err.into(),
        false => Error::new(err).context(said.trim_start_matches("overlay: ").to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use nix::sched::{CloneFlags, unshare};
    use rustix::mount::{MountPropagationFlags, mount_change};

    use super::*;

    #[test]
    fn a_mount_that_fails_leaves_a_directory_that_can_be_removed() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let in_a_namespace = || {
            unshare(CloneFlags::CLONE_NEWNS).unwrap();
            let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
            mount_change("/", private).unwrap();
            let dir = tempfile::tempdir().unwrap();
            let (lower, upper) = (dir.path().join("lower"), dir.path().join("upper"));
            fs::create_dir(&lower).unwrap();
            fs::create_dir(&upper).unwrap();
            let overlay = Overlay {
                lower: vec![lower; MOST_LAYERS + 1],
                upper: Upper::Tmpfs(upper.clone()),
                userxattr: false,
                volatile: false,
            };
            let err = overlay.mount(MountAttrFlags::empty()).unwrap_err();
            fs::remove_dir(&upper).unwrap();
            format!("{err:#}")
        };
        // A thread may have mounts of its own.
        let said = std::thread::spawn(in_a_namespace).join().unwrap();
        assert!(said.starts_with("cannot mount an overlay"), "{said}");
    }
}
