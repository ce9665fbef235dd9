//! Paths of a container, resolved beneath its root directory.
//!
//! The tree belongs to whoever made the image, and may change while we look:
//! so every path is opened from the root's descriptor by openat2(2), and what
//! is made or mounted is made or mounted at a descriptor (CVE-2021-30465).

use std::path::Path;

use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, mkdirat, mknodat, openat, openat2};
use rustix::io::{Errno, Result};

/// What is at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// A directory.
    Directory,
    /// Anything else.
    File,
}

/// Opens `path` beneath `root` as a place: for mounts, not for reading.
///
/// `/proc`, `/sys` and `/dev` are what the container trusts the kernel by, so
/// no image's symbolic link takes part in finding them (CVE-2019-19921, CVE-2026-41579).
pub(super) fn open(root: impl AsFd, path: &Path) -> Result<OwnedFd> {
    open_as(root, path, OFlags::PATH)
}

/// Opens `path` beneath `root` with these flags.
pub(super) fn open_as(root: impl AsFd, path: &Path, flags: OFlags) -> Result<OwnedFd> {
    let kernels = ["proc", "sys", "dev"].iter().any(|name| path.starts_with(name));
    let links = if kernels { ResolveFlags::NO_SYMLINKS } else { ResolveFlags::empty() };
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | links;
    let path = if path == Path::new("") { Path::new(".") } else { path };
    let mut tries = 0;
    loop {
        match openat2(root.as_fd(), path, flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
            // Something was renamed while the kernel looked for `..`: openat2(2).
            Err(Errno::AGAIN) if tries < 64 => tries += 1,
            result => return result,
        }
    }
}

/// Opens `path`, and makes it and the directories above it if they are missing.
pub(super) fn open_or_make(root: BorrowedFd, path: &Path, shape: Shape) -> Result<OwnedFd> {
    match open(root, path) {
        Err(Errno::NOENT) => {}
        result => return result,
    }
    // Down from the deepest directory that is there; from then on all is ours, and no links are followed.
    let mut missing = Vec::new();
    let mut there = path;
    let mut dir = loop {
        let (Some(parent), Some(name)) = (there.parent(), there.file_name()) else {
            return Err(Errno::NOENT);
        };
        missing.push(name);
        there = parent;
        match open(root, there) {
            Err(Errno::NOENT) => {}
            result => break result?,
        }
    };
    while let Some(name) = missing.pop() {
        let directory = !missing.is_empty() || shape == Shape::Directory;
        let made = match directory {
            true => mkdirat(&dir, name, Mode::from(0o755)),
            false => mknodat(&dir, name, FileType::RegularFile, Mode::from(0o644), 0),
        };
        match made {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno),
        }
        let kind = if directory { OFlags::DIRECTORY } else { OFlags::empty() };
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC | kind;
        dir = openat(&dir, name, flags, Mode::empty())?;
    }
    if shape == Shape::File {
        let made = rustix::fs::fstat(&dir)?;
        // O_PATH with O_NOFOLLOW opens a link that came first as itself.
        if FileType::from_raw_mode(made.st_mode) == FileType::Symlink {
            return Err(Errno::LOOP);
        }
    }
    Ok(dir)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    fn tree() -> (tempfile::TempDir, OwnedFd) {
        let dir = tempfile::tempdir().unwrap();
        let root = fs::File::open(dir.path()).unwrap();
        (dir, root.into())
    }

    #[test]
    fn what_is_missing_is_made_beneath_the_root() {
        let (dir, root) = tree();
        open_or_make(root.as_fd(), Path::new("a/b/c"), Shape::Directory).unwrap();
        open_or_make(root.as_fd(), Path::new("a/b/f"), Shape::File).unwrap();
        assert!(dir.path().join("a/b/c").is_dir());
        assert!(dir.path().join("a/b/f").is_file());
    }

    #[test]
    fn links_lead_nowhere_but_into_the_root() {
        let (dir, root) = tree();
        let bait = tempfile::tempdir().unwrap();
        symlink(bait.path(), dir.path().join("out")).unwrap();
        symlink("../../../../../../../../tmp", dir.path().join("up")).unwrap();
        symlink("/real", dir.path().join("in")).unwrap();
        fs::create_dir(dir.path().join("real")).unwrap();

        open_or_make(root.as_fd(), Path::new("in/x"), Shape::Directory).unwrap();
        assert!(dir.path().join("real/x").is_dir());
        for path in ["out/x", "up/x"] {
            let made = open_or_make(root.as_fd(), Path::new(path), Shape::Directory);
            assert_eq!(made.unwrap_err(), Errno::NOTDIR, "{path}");
        }
        assert_eq!(fs::read_dir(bait.path()).unwrap().count(), 0);
    }

    #[test]
    fn the_kernels_directories_are_no_links() {
        let (dir, root) = tree();
        fs::create_dir(dir.path().join("real")).unwrap();
        for name in ["proc", "sys", "dev"] {
            symlink("real", dir.path().join(name)).unwrap();
            assert_eq!(open(&root, Path::new(name)).unwrap_err(), Errno::LOOP);
            let shm = Path::new(name).join("shm");
            let made = open_or_make(root.as_fd(), &shm, Shape::Directory);
            assert_eq!(made.unwrap_err(), Errno::LOOP);
        }
        assert_eq!(fs::read_dir(dir.path().join("real")).unwrap().count(), 0);
    }
}
