//! Paths of a container, resolved beneath its root directory.
//!
//! The tree belongs to whoever made the image, and may change while we look:
//! so every path is opened from the root's descriptor by openat2(2), and what
//! is made or mounted is made or mounted at a descriptor (CVE-2021-30465).

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{
    FileType, Mode, OFlags, ResolveFlags, fstat, mkdirat, mknodat, openat, readlinkat,
};
use rustix::io::{Errno, Result};

use crate::tree;

/// What is at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
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
    let links = if is_kernels(path) { ResolveFlags::NO_SYMLINKS } else { ResolveFlags::empty() };
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | links;
    let path = if path == Path::new("") { Path::new(".") } else { path };
    tree::open_at(root, path, flags, resolve)
}

/// Tells whether `path` is in one of the kernel's own directories.
fn is_kernels(path: &Path) -> bool {
    ["proc", "sys", "dev"].iter().any(|name| path.starts_with(name))
}

/// The most links to nowhere that are followed: path_resolution(7).
const MOST_LINKS: usize = 40;

/// Opens `path`, and makes it and the directories above it if they are missing.
///
/// A link to what is missing is followed, and that is made: in many images
/// /etc/resolv.conf leads to a file of some service that does not run.
pub(super) fn open_or_make(root: BorrowedFd, path: &Path, shape: Shape) -> Result<OwnedFd> {
    open_or_make_by(root, path, shape, &mut make_one)
}

/// Makes a name in a directory.
pub(super) type MakeOne<'a> = &'a mut dyn FnMut(&OwnedFd, &OsStr, Shape) -> Result<()>;

/// Makes an empty directory or file.
pub(super) fn make_one(dir: &OwnedFd, name: &OsStr, shape: Shape) -> Result<()> {
    match shape {
        Shape::Directory => mkdirat(dir, name, Mode::from(0o755)),
        Shape::File => mknodat(dir, name, FileType::RegularFile, Mode::from(0o644), 0),
    }
}

/// Does the same, and leaves it to `make_one` to make what is missing.
pub(super) fn open_or_make_by(
    root: BorrowedFd,
    path: &Path,
    shape: Shape,
    make_one: MakeOne,
) -> Result<OwnedFd> {
    let mut path = path.to_path_buf();
    for _ in 0..MOST_LINKS {
        match make(root, &path, shape, make_one)? {
            Made::There(fd) => return Ok(fd),
            Made::Link(further) => path = further,
        }
    }
    Err(Errno::LOOP)
}

/// How far [`make`] came.
enum Made {
    /// All the way.
    There(OwnedFd),
    /// To a link, which leads to this path.
    Link(PathBuf),
}

fn make(root: BorrowedFd, path: &Path, shape: Shape, make_one: MakeOne) -> Result<Made> {
    match open(root, path) {
        Err(Errno::NOENT) => {}
        result => return result.map(Made::There),
    }
    // Down from the deepest directory that is there; from then on we look at each name ourselves.
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
    let mut there = there.to_path_buf();
    while let Some(name) = missing.pop() {
        let directory = !missing.is_empty() || shape == Shape::Directory;
        let shape = if directory { Shape::Directory } else { Shape::File };
        match make_one(&dir, name, shape) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno),
        }
        // O_PATH with O_NOFOLLOW opens a link that came first as itself.
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let next = openat(&dir, name, flags, Mode::empty())?;
        match FileType::from_raw_mode(fstat(&next)?.st_mode) {
            FileType::Symlink if is_kernels(path) => return Err(Errno::LOOP),
            FileType::Symlink => {
                let text = readlinkat(&next, c"", Vec::new())?;
                // An absolute one begins at the root, as everything here does.
                let mut further = there.join(OsStr::from_bytes(text.as_bytes()));
                further.extend(missing.iter().rev());
                return Ok(Made::Link(further.components().skip_while(is_root).collect()));
            }
            FileType::Directory => {}
            _ if directory => return Err(Errno::NOTDIR),
            _ => {}
        }
        there.push(name);
        dir = next;
    }
    Ok(Made::There(dir))
}

fn is_root(component: &Component) -> bool {
    *component == Component::RootDir
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
            open_or_make(root.as_fd(), Path::new(path), Shape::Directory).unwrap();
        }
        assert_eq!(fs::read_dir(bait.path()).unwrap().count(), 0);
        assert!(dir.path().join("tmp/x").is_dir());
        let again = dir.path().join(bait.path().strip_prefix("/").unwrap());
        assert!(again.join("x").is_dir());
    }

    #[test]
    fn what_a_link_to_nowhere_means_is_made() {
        let (dir, root) = tree();
        fs::create_dir(dir.path().join("etc")).unwrap();
        symlink("../run/service/file", dir.path().join("etc/conf")).unwrap();
        symlink("/var/run", dir.path().join("run")).unwrap();
        open_or_make(root.as_fd(), Path::new("etc/conf"), Shape::File).unwrap();
        assert!(dir.path().join("var/run/service/file").is_file());

        symlink("b", dir.path().join("a")).unwrap();
        symlink("a", dir.path().join("b")).unwrap();
        symlink("../../x/../y", dir.path().join("odd")).unwrap();
        symlink("/proc/nothing", dir.path().join("kernels")).unwrap();
        symlink("/etc/conf/x", dir.path().join("through-a-file")).unwrap();
        symlink("real", dir.path().join("proc")).unwrap();
        for (path, errno) in [
            ("a", Errno::LOOP),
            ("a/x", Errno::LOOP),
            ("odd", Errno::NOENT),
            ("kernels", Errno::LOOP),
            ("through-a-file", Errno::NOTDIR),
        ] {
            let made = open_or_make(root.as_fd(), Path::new(path), Shape::File);
            assert_eq!(made.unwrap_err(), errno, "{path}");
        }
        assert!(!dir.path().join("real").exists());
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
