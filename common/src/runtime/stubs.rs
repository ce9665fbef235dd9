//! Mount points that a container's root did not have.
//!
//! Something can only be mounted on what is there, so a runtime makes empty
//! files and directories in the root directory, and they stay. Of a root that
//! becomes a layer they have to go again, and the directories that they are
//! in must look as if nothing had been.
//!
//! Whatever the container does to the paths meanwhile, nothing is looked up by a path again:
//! each stub is removed at the directory that it was made in (CVE-2024-23652), if it is
//! still the same and still empty.

use std::ffi::{OsStr, OsString};
use std::path::Path;

use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat, Timestamps, fstat, openat, openat2,
    unlinkat, utimensat,
};
use rustix::io::{Errno, Result};

use super::beneath::{self, Shape};
use crate::tree::times;

/// The mount points that were made in one root, in order.
#[derive(Debug, Default)]
pub struct Stubs(Vec<Stub>);

#[derive(Debug)]
struct Stub {
    dir: OwnedFd,
    name: OsString,
    /// Itself, so that no other file gets its number.
    file: OwnedFd,
}

impl Stubs {
    /// Sees that something can be mounted at `path` beneath `root`.
    pub fn make(&mut self, root: impl AsFd, path: &Path, shape: Shape) -> Result<()> {
        let path = path.strip_prefix("/").unwrap_or(path);
        let mut make_one = |dir: &OwnedFd, name: &OsStr, shape| self.make_one(dir, name, shape);
        beneath::open_or_make_by(root.as_fd(), path, shape, &mut make_one).map(drop)
    }

    fn make_one(&mut self, dir: &OwnedFd, name: &OsStr, shape: Shape) -> Result<()> {
        let before = fstat(dir)?;
        beneath::make_one(dir, name, shape)?;
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = openat(dir, name, flags, Mode::empty())?;
        let dir = openat(dir, ".", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
        set_times(&dir, &before)?;
        self.0.push(Stub { dir, name: name.into(), file });
        Ok(())
    }

    /// Removes those that nobody has put anything in, once the container has ended.
    ///
    /// # Errors
    /// If one is still there that should not be. The others are removed all the same.
    pub fn remove(self) -> Result<()> {
        let mut removed = Ok(());
        for stub in self.0.into_iter().rev() {
            match stub.remove() {
                // The container has made something of it.
                Err(Errno::NOENT | Errno::NOTEMPTY | Errno::EXIST) => {}
                result => removed = removed.and(result),
            }
        }
        removed
    }
}

impl Stub {
    fn remove(&self) -> Result<()> {
        let id = |stat: &Stat| (stat.st_dev, stat.st_ino);
        let before = fstat(&self.dir)?;
        let own = fstat(&self.file)?;
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let found = openat2(&self.dir, &*self.name, flags, Mode::empty(), ResolveFlags::NO_XDEV);
        // The container's mount may be there still: whoever has its namespace open, to read its mountinfo
        // say, keeps it. Beneath a mount nothing can have taken a stub's place.
        if !matches!(found, Err(Errno::XDEV)) && id(&fstat(found?)?) != id(&own) {
            return Ok(());
        }
        match FileType::from_raw_mode(own.st_mode) {
            // One with something in it stays.
            FileType::Directory => unlinkat(&self.dir, &self.name, AtFlags::REMOVEDIR)?,
            _ if own.st_size == 0 && own.st_nlink == 1 => {
                unlinkat(&self.dir, &self.name, AtFlags::empty())?;
            }
            _ => return Ok(()),
        }
        set_times(&self.dir, &before)
    }
}

/// Gives the directory `dir` the times that it had.
fn set_times(dir: &OwnedFd, stat: &Stat) -> Result<()> {
    let times: Timestamps = times(stat);
    utimensat(dir, ".", &times, AtFlags::empty())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt, symlink};
    use std::path::PathBuf;
    use std::time::SystemTime;

    use super::*;

    /// Returns a tree whose directories are old, and its root.
    fn scratch() -> (tempfile::TempDir, fs::File) {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("etc/there")).unwrap();
        symlink("../run/service/conf", dir.path().join("etc/conf")).unwrap();
        let old = |path: &str| {
            let file = fs::File::open(dir.path().join(path)).unwrap();
            file.set_modified(SystemTime::UNIX_EPOCH).unwrap();
        };
        ["etc/there", "etc", "."].into_iter().for_each(old);
        let root = fs::File::open(dir.path()).unwrap();
        (dir, root)
    }

    fn make(root: &fs::File) -> Stubs {
        let mut stubs = Stubs::default();
        for (path, shape) in [
            ("/etc/there", Shape::Directory),
            ("/etc/hosts", Shape::File),
            ("/etc/conf", Shape::File),
            ("/a/b/c", Shape::Directory),
            ("/a/b/f", Shape::File),
        ] {
            stubs.make(root, Path::new(path), shape).unwrap();
        }
        stubs
    }

    fn look(dir: &Path) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut todo = vec![dir.to_owned()];
        while let Some(path) = todo.pop() {
            for entry in fs::read_dir(&path).unwrap() {
                let path = entry.unwrap().path();
                found.push(path.strip_prefix(dir).unwrap().to_owned());
                if path.is_dir() && !path.is_symlink() {
                    todo.push(path);
                }
            }
        }
        found.sort();
        found
    }

    #[test]
    fn nothing_shows_that_they_were_there() {
        let (dir, root) = scratch();
        let before = look(dir.path());
        let stubs = make(&root);
        assert!(dir.path().join("run/service/conf").is_file());
        assert!(dir.path().join("a/b/c").is_dir());
        stubs.remove().unwrap();
        assert_eq!(look(dir.path()), before);
        for path in ["etc", "."] {
            assert_eq!(dir.path().join(path).metadata().unwrap().mtime(), 0, "{path}");
        }
    }

    #[test]
    fn what_the_container_made_of_them_stays() {
        let (dir, root) = scratch();
        let stubs = make(&root);
        fs::write(dir.path().join("etc/hosts"), "mine").unwrap();
        fs::write(dir.path().join("a/b/c/file"), "").unwrap();
        fs::remove_file(dir.path().join("a/b/f")).unwrap();
        fs::write(dir.path().join("a/b/f"), "").unwrap();
        let changed = fs::metadata(dir.path().join("a/b")).unwrap().modified().unwrap();
        stubs.remove().unwrap();
        for path in ["etc/hosts", "a/b/c/file", "a/b/f"] {
            assert!(dir.path().join(path).is_file(), "{path}");
        }
        assert_eq!(fs::metadata(dir.path().join("a/b")).unwrap().modified().unwrap(), changed);
        assert!(!dir.path().join("run").exists());
    }

    #[test]
    fn no_link_leads_the_removal_elsewhere() {
        let (dir, root) = scratch();
        let bait = tempfile::tempdir().unwrap();
        fs::write(bait.path().join("hosts"), "").unwrap();
        let stubs = make(&root);
        fs::rename(dir.path().join("etc"), dir.path().join("moved")).unwrap();
        symlink(bait.path(), dir.path().join("etc")).unwrap();
        stubs.remove().unwrap();
        assert!(bait.path().join("hosts").exists());
        assert!(!dir.path().join("moved/hosts").exists());
    }
}
