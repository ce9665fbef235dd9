//! Where a result that is a file goes: standard output, or a file that is replaced whole.

use std::fs::{File, OpenOptions, Permissions};
use std::io::IsTerminal;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, linkat, openat};
use rustix::io::Errno;

use super::{temporary, tool};
use crate::error::{At, Hint, Usage};
use crate::tree;

/// Where a result goes.
#[derive(Debug)]
pub enum Output {
    /// To what is open already, and what errors call it.
    Stream(File, String),
    /// To a file that is made, or replaced.
    File {
        /// The file, behind all links.
        path: PathBuf,
        /// The directory that it is in.
        dir: PathBuf,
    },
}

impl Output {
    /// Looks at what is there now, which must be a directory at least. A file is not touched yet; without a path, or with `-`, it is stdout.
    ///
    /// `option` says how to name a file, to who has forgotten it.
    pub fn new(path: Option<&Path>, option: &str) -> Result<Output> {
        let Some(path) = path.filter(|path| path.as_os_str() != "-") else {
            return stdout(option);
        };
        match path.metadata() {
            Ok(found) if found.is_dir() => bail!("{}: a directory", path.display()),
            // A device or a FIFO is written to: to replace it is not what anybody means.
            Ok(found) if !found.is_file() => {
                let file = OpenOptions::new().write(true).open(path).at(path)?;
                return Ok(Output::Stream(file, path.display().to_string()));
            }
            _ => {}
        }
        let path = tree::behind_links(path)?;
        let dir = tree::above(&path).to_owned();
        ensure!(dir.metadata().at(&dir)?.is_dir(), "{}: not a directory", dir.display());
        Ok(Output::File { path, dir })
    }

    /// Returns the directory in which a file is going to be made.
    pub fn dir(&self) -> Option<&Path> {
        match self {
            Output::Stream(..) => None,
            Output::File { dir, .. } => Some(dir),
        }
    }

    /// Lets `write` write it, to a file that errors call by the name it is given. A file has its name
    /// when all of it is on the disk.
    pub fn write(self, write: impl FnOnce(File, &str) -> Result<()>) -> Result<()> {
        let (path, dir) = match self {
            Output::Stream(file, place) => return write(file, &place),
            Output::File { path, dir } => (path, dir),
        };
        let mut builder = tempfile::Builder::new();
        let prefix = format!(".{}-", tool());
        builder.prefix(&prefix).permissions(Permissions::from_mode(0o666)); // less the umask
        let place = path.display().to_string();
        // Of a file without a name nothing is left when we are killed; not every filesystem has them.
        let flags = OFlags::RDWR | OFlags::TMPFILE | OFlags::CLOEXEC;
        if let Ok(file) = openat(CWD, &dir, flags, Mode::from_raw_mode(0o666)).map(File::from) {
            write(file.try_clone().at(&path)?, &place)?;
            file.sync_all().at(&path)?;
            let by_fd = format!("/proc/self/fd/{}", file.as_raw_fd());
            let name = |to: &Path| linkat(CWD, &by_fd, CWD, to, AtFlags::SYMLINK_FOLLOW);
            match name(&path) {
                Err(Errno::EXIST) => {
                    let make = || builder.make_in(&dir, |new| Ok(name(new)?));
                    temporary(make).at(&dir)?.persist(&path).at(&path)?;
                }
                named => named.at(&path)?,
            }
        } else {
            let new = temporary(|| builder.tempfile_in(&dir)).at(&dir)?;
            write(new.reopen().at(&path)?, &place)?;
            new.as_file().sync_all().at(&path)?;
            new.persist(&path).at(&path)?;
        }
        tree::sync_above(&path)
    }
}

fn stdout(option: &str) -> Result<Output> {
    let stdout = std::io::stdout();
    if stdout.is_terminal() {
        let error = Usage("the archive goes to stdout, which is a terminal".into());
        return Err(error).hint(|| format!("{} {option}, or a pipe", tool()));
    }
    let file = stdout.as_fd().try_clone_to_owned().context("stdout")?;
    Ok(Output::Stream(file.into(), "stdout".into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_a_directory_to_be_in() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("file"), "").unwrap();
        for (name, cause) in
            [("none", "No such file or directory (os error 2)"), ("file", "not a directory")]
        {
            let place = dir.path().join(name);
            let err = Output::new(Some(&place.join("out")), "").unwrap_err();
            assert_eq!(crate::error::line(&err), format!("{}: {cause}", place.display()));
        }
    }
}
