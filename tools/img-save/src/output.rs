//! Where an archive goes: standard output, or a file that is replaced whole.

use std::fs::{File, OpenOptions, Permissions};
use std::io::IsTerminal;
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use common::archive::Archive;
use common::cli;
use common::error::{At, Hint, Usage};
use common::tree;

/// How many links are followed, as the kernel has it.
const LINKS: usize = 40;

/// Where an archive goes.
pub enum Output {
    /// To what is open already, and what errors call it.
    Stream(File, String),
    /// To a file that is made, or replaced.
    File { path: PathBuf, dir: PathBuf },
}

impl Output {
    /// Looks at what is there now. A file is not touched yet.
    pub fn new(path: Option<&Path>) -> Result<Output> {
        let Some(path) = path.filter(|path| path.as_os_str() != "-") else {
            return stdout();
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
        let path = behind_links(path)?;
        let dir = tree::above(&path).to_owned();
        Ok(Output::File { path, dir })
    }

    /// Returns the directory in which a file is going to be made.
    pub fn dir(&self) -> Option<&Path> {
        match self {
            Output::Stream(..) => None,
            Output::File { dir, .. } => Some(dir),
        }
    }

    /// Writes the archive. A file has its name when all of it is on the disk.
    pub fn write(self, archive: &Archive, verify: bool) -> Result<()> {
        let (path, dir) = match self {
            Output::Stream(file, place) => return archive.write(file, &place, verify),
            Output::File { path, dir } => (path, dir),
        };
        let make = || {
            tempfile::Builder::new()
                .prefix(".img-save-")
                .permissions(Permissions::from_mode(0o666)) // less the umask
                .tempfile_in(&dir)
        };
        let new = cli::temporary(make).at(&dir)?;
        archive.write(new.reopen().at(&path)?, &path.display().to_string(), verify)?;
        new.as_file().sync_all().at(&path)?;
        new.persist(&path).at(&path)?;
        tree::sync_above(&path)
    }
}

/// Returns what a path leads to: a link stays, and the file that it names is made or replaced.
fn behind_links(path: &Path) -> Result<PathBuf> {
    let mut path = path.to_owned();
    for _ in 0..LINKS {
        match path.read_link() {
            Ok(target) => path = path.parent().unwrap_or(Path::new("")).join(target),
            Err(_) => return Ok(path), // no link, or not there
        }
    }
    bail!("{}: too many links", path.display())
}

fn stdout() -> Result<Output> {
    let stdout = std::io::stdout();
    if stdout.is_terminal() {
        let error = Usage("the archive goes to stdout, which is a terminal".into());
        return Err(error).hint(|| "img-save -o FILE, or a pipe".into());
    }
    let file = stdout.as_fd().try_clone_to_owned().context("stdout")?;
    Ok(Output::Stream(file.into(), "stdout".into()))
}
