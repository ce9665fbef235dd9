//! Where the result goes: made beside its place and renamed, or made in the directory that is there already.

use std::fs::{self, File, Metadata, Permissions, TryLockError};
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Result, anyhow, bail, ensure};
use common::cli;
use common::confine::{Allowed, confine};
use common::error::{At, Hint};
use common::tree;
use rustix::fs::{CWD, RenameFlags};
use rustix::io::Errno;

/// What a tree is called that is not whole yet. Its maker holds a lock on it; one without is removed by the next of us.
const BESIDE: &str = ".img-unpack-";

/// A result on its way, which is removed again unless it is published.
pub struct Place {
    dir: PathBuf,
    /// Where it is made, open since before anything was written: syncfs(2) may have told
    /// somebody else of an error by the time that we ask. It is locked, as long as we are at work.
    made: File,
    /// What is to be at `dir` in the end.
    result: PathBuf,
    remains: Arc<Mutex<Remains>>,
}

/// What is to be removed if there is no result.
///
/// Its lock is held by whoever publishes or removes, so that an interrupt splits neither.
enum Remains {
    Nothing,
    /// A directory of ours, beside the place.
    Beside(PathBuf),
    /// What is in a directory of the user's that we hold the lock of, and which had this owner and mode.
    Within(PathBuf, Metadata),
}

impl Place {
    /// Takes the place `dir`: for a bundle, which is private, or for a bare tree.
    pub fn take(dir: &Path, bare: bool) -> Result<Place> {
        let remains = Arc::new(Mutex::new(Remains::Nothing));
        let interrupted = remains.clone();
        cli::on_interrupt(move || {
            let mut remains = lock(&interrupted);
            let _ = remains.remove(); // of this signal we die, not of an error
            std::mem::forget(remains); // and nothing is published any more
        })?;

        let is_there = match fs::metadata(dir) {
            Ok(metadata) if !metadata.is_dir() => bail!("{}: not a directory", dir.display()),
            Ok(_) => true,
            Err(err) if err.kind() == ErrorKind::NotFound => false,
            Err(err) => return Err(err).at(dir),
        };
        let (result, made) = match is_there {
            true => {
                let made = File::open(dir).at(dir)?;
                // Two of us would each find it empty, and the one that fails would empty it. A file
                // system without locks has none to hold.
                if let Err(TryLockError::WouldBlock) = made.try_lock() {
                    bail!("{}: another img-unpack is unpacking there", dir.display());
                }
                if fs::read_dir(dir).at(dir)?.next().is_some() {
                    return Err(anyhow!("{}: not empty", dir.display())).hint(|| {
                        "it takes a directory that is empty, or that does not exist yet".into()
                    });
                }
                *lock(&remains) = Remains::Within(dir.into(), made.metadata().at(dir)?);
                (dir.into(), made)
            }
            false => {
                ensure!(dir.file_name().is_some(), "{}: cannot be made", dir.display());
                let parent = tree::above(dir);
                fs::metadata(parent).at(parent)?;
                collect(parent);
                let mut held = lock(&remains);
                let (made, file) = make_beside(parent).at(dir)?;
                *held = Remains::Beside(made.clone());
                (if bare { made.join("rootfs") } else { made }, file)
            }
        };
        let place = Place { dir: dir.into(), made, result, remains };
        if bare && !place.result.try_exists().at(dir)? {
            fs::create_dir(&place.result).at(dir)?;
        }
        Ok(place)
    }

    /// Gives up writing anywhere but here and beneath `cache`.
    pub fn confine(&self, cache: &Path) -> Result<()> {
        let remains = lock(&self.remains);
        let (write, beside) = match &*remains {
            Remains::Beside(made) => (made.as_path(), made.parent()),
            _ => (self.result.as_path(), None),
        };
        let place: Vec<&Path> = beside.into_iter().collect();
        confine(&Allowed { write: &[cache, write], place: &place, connect: false })
    }

    /// Returns the directory to put things into.
    pub fn path(&self) -> &Path {
        &self.result
    }

    /// Puts the result in its place, once it is on the disk.
    pub fn publish(self) -> Result<()> {
        rustix::fs::syncfs(&self.made).at(&self.dir)?;
        let mut remains = lock(&self.remains);
        if let Remains::Beside(made) = &*remains {
            // Who took the place meanwhile keeps it.
            match rustix::fs::renameat_with(
                CWD,
                &self.result,
                CWD,
                &self.dir,
                RenameFlags::NOREPLACE,
            ) {
                Err(Errno::INVAL | Errno::NOSYS) => {
                    fs::rename(&self.result, &self.dir).at(&self.dir)?
                }
                renamed => renamed.at(&self.dir)?,
            }
            if *made != self.result {
                let _ = fs::remove_dir(made); // it is empty, and the result is there
            }
        }
        *remains = Remains::Nothing;
        let dir = fs::canonicalize(&self.dir).at(&self.dir)?;
        let parent = dir.parent().unwrap_or(&dir);
        File::open(parent).at(parent)?.sync_all().at(parent)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // There is an error to report already, and the result is not there: no second one.
        let _ = lock(&self.remains).remove();
    }
}

impl Remains {
    fn remove(&mut self) -> Result<()> {
        match std::mem::replace(self, Remains::Nothing) {
            Remains::Nothing => Ok(()),
            Remains::Beside(dir) => tree::remove(&dir),
            Remains::Within(dir, metadata) => {
                tree::empty(&dir).at(&dir)?;
                std::os::unix::fs::chown(&dir, Some(metadata.uid()), Some(metadata.gid()))
                    .at(&dir)?;
                fs::set_permissions(&dir, metadata.permissions()).at(&dir)
            }
        }
    }
}

/// Makes a directory of ours in `parent`, and locks it.
fn make_beside(parent: &Path) -> std::io::Result<(PathBuf, File)> {
    // Nobody else gets at a bundle: there may be programs in it that are setuid root.
    let mode = Permissions::from_mode(0o700);
    loop {
        let made =
            tempfile::Builder::new().prefix(BESIDE).permissions(mode.clone()).tempdir_in(parent)?;
        // Until it is locked it looks like a dead one's, and may be gone at any moment.
        let file = match File::open(made.path()) {
            Err(err) if err.kind() == ErrorKind::NotFound => continue,
            file => file?,
        };
        // Without a lock, on a file system that has none, it is nobody's to remove.
        let _ = file.try_lock();
        if made.path().try_exists()? {
            return Ok((made.keep(), file));
        }
    }
}

/// Removes what those of us have left in `parent` who were killed.
fn collect(parent: &Path) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        if !entry.file_name().as_encoded_bytes().starts_with(BESIDE.as_bytes()) {
            continue;
        }
        let path = entry.path();
        let ours = fs::symlink_metadata(&path)
            .is_ok_and(|it| it.is_dir() && it.uid() == rustix::process::geteuid().as_raw());
        if ours && File::open(&path).is_ok_and(|dir| dir.try_lock().is_ok()) {
            let _ = tree::remove(&path); // what belongs to another mapping is for one of us there
        }
    }
}

fn lock(remains: &Mutex<Remains>) -> MutexGuard<'_, Remains> {
    // Nobody panics while holding it.
    remains.lock().unwrap_or_else(PoisonError::into_inner)
}
