//! A container: a directory.
//!
//! ```text
//! containers/
//!   <id>/            64 hexadecimal digits; locked while it runs
//!     config.json    the runtime spec
//!     status.json    what became of it
//!     upper/ work/   what it changed, and the kernel's own
//!     hosts hostname resolv.conf
//!   .names/<name>    a link to the id
//!   .rm/<id>         to be removed when it has ended
//! ```
//!
//! A container runs as long as somebody holds the lock on its directory: its
//! supervisor, never the container. So a process id that has become another's
//! misleads nobody, and the leftovers of a supervisor that was killed are
//! told from a container that runs.

use std::fs::{self, DirBuilder, File, TryLockError};
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context, Error, Result, anyhow};
use serde::{Deserialize, Serialize};

use crate::error::{At, Hint};
use crate::runtime::cgroup;

/// A container that this process supervises.
#[derive(Debug)]
pub struct Container {
    containers: PathBuf,
    dir: PathBuf,
    /// What status.json says.
    pub status: Status,
    _lock: File,
}

/// What became of a container: status.json.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Status {
    /// Its id.
    pub id: String,
    /// Its name, if it was given one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What it is made of: an image as it was named, or a directory.
    pub image: String,
    /// The digest of the image's manifest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_id: Option<String>,
    /// Its command.
    pub command: Vec<String>,
    /// It is removed when it ends.
    pub rm: bool,
    /// When it was made, started and ended, in RFC 3339.
    pub created: String,
    /// See `created`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub started: Option<String>,
    /// See `created`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub finished: Option<String>,
    /// The process id of its first process, while it runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<i32>,
    /// The exit status, once it has ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// The signal that ended it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
    /// The cgroup that was made for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cgroup: Option<PathBuf>,
    /// Where its output went.
    pub log: Log,
    /// What it does not have that it would have elsewhere, such as a default limit.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

/// Where a container's output goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Log {
    /// To whoever started it.
    #[default]
    Caller,
}

impl Container {
    /// Makes a container in the directory `containers`, with a new id. `rm` marks it to be removed when it has ended.
    pub fn create(containers: &Path, name: Option<&str>, rm: bool) -> Result<Container> {
        loop {
            let id = new_id()?;
            let dir = containers.join(&id);
            let status = Status {
                id,
                rm,
                name: name.map(str::to_owned),
                created: now(),
                ..Status::default()
            };
            match make(containers, &dir, &status) {
                Ok(Some(lock)) => {
                    return Ok(Container {
                        containers: containers.into(),
                        dir,
                        status,
                        _lock: lock,
                    });
                }
                Ok(None) => {}
                Err(_) if !containers.exists() => {
                    DirBuilder::new()
                        .mode(0o700)
                        .recursive(true)
                        .create(containers)
                        .at(containers)?;
                }
                Err(err) => {
                    let _ = remove(containers, &status.id, name);
                    return Err(err);
                }
            }
        }
    }

    /// Returns its directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Returns its id.
    pub fn id(&self) -> &str {
        &self.status.id
    }

    /// Writes a file of the container's, which it may read.
    pub fn write(&self, name: &str, bytes: &[u8]) -> Result<PathBuf> {
        let path = self.dir.join(name);
        fs::write(&path, bytes).at(&path)?;
        Ok(path)
    }

    /// Writes status.json.
    ///
    /// It is replaced, so that readers see all of the old one or all of the new one.
    pub fn save(&self) -> Result<()> {
        let new = self.dir.join(".status.json");
        let path = self.dir.join("status.json");
        let mut bytes = serde_json::to_vec(&self.status)?;
        bytes.push(b'\n');
        fs::write(&new, bytes).at(&new)?;
        fs::rename(&new, &path).at(&path)
    }

    /// Removes what there is of it, after something else has gone wrong.
    pub fn discard(&self) {
        let _ = remove(&self.containers, &self.status.id, self.status.name.as_deref());
    }

    /// Removes it, with all that it changed.
    pub fn remove(self) -> Result<()> {
        remove(&self.containers, &self.status.id, self.status.name.as_deref())
    }
}

/// Makes the directory of a container, and locks it; returns nothing if it was taken for a dead one's before that.
fn make(containers: &Path, dir: &Path, status: &Status) -> Result<Option<File>> {
    // First, so that there is nothing that nobody removes, whenever we are killed.
    if status.rm {
        mark(containers, &status.id)?;
    }
    DirBuilder::new().mode(0o700).create(dir).at(dir)?;
    let lock = File::open(dir).at(dir)?;
    lock.lock().at(dir)?;
    if !dir.exists() {
        return Ok(None);
    }
    if status.rm {
        mark(containers, &status.id)?; // without a directory, it may have been removed
    }
    if let Some(name) = &status.name {
        register(containers, &status.id, name)?;
    }
    Ok(Some(lock))
}

/// Marks a container to be removed when it has ended.
fn mark(containers: &Path, id: &str) -> Result<()> {
    let mark = containers.join(".rm").join(id);
    let make = || File::options().append(true).create(true).mode(0o600).open(&mark);
    match make() {
        Err(err) if err.kind() == ErrorKind::NotFound => {
            make_dir(&containers.join(".rm"))?;
            make().at(&mark)?;
        }
        made => drop(made.at(&mark)?),
    }
    Ok(())
}

/// Gives a container its name.
fn register(containers: &Path, id: &str, name: &str) -> Result<()> {
    make_dir(&containers.join(".names"))?;
    let _lock = lock_names(containers)?;
    let link = containers.join(".names").join(name);
    if let Ok(other) = fs::read_link(&link) {
        if containers.join(&other).exists() {
            let short: String = other.display().to_string().chars().take(12).collect();
            let taken = anyhow!("{name}: the container {short} has this name");
            return Err(taken)
                .hint(|| format!("another name, or rm -r {}", containers.join(&other).display()));
        }
        fs::remove_file(&link).at(&link)?; // its container is gone
    }
    symlink(id, &link).at(&link)
}

/// Removes what supervisors that were killed have left of containers that were to be removed.
pub fn collect(containers: &Path) {
    let Ok(marks) = fs::read_dir(containers.join(".rm")) else { return };
    for mark in marks.flatten() {
        let id = mark.file_name();
        let Some(id) = id.to_str() else { continue };
        // Held until it is removed: it may be another's that is just being made.
        let lock = File::open(containers.join(id));
        let alive = lock.as_ref().is_ok_and(|lock| lock.try_lock().is_err());
        if !alive {
            let status = fs::read(containers.join(id).join("status.json"));
            let status =
                status.ok().and_then(|bytes| serde_json::from_slice::<Status>(&bytes).ok());
            if let Some(cgroup) = status.and_then(|status| status.cgroup) {
                cgroup::remove_abandoned(&cgroup);
            }
            // What cannot be removed now, the next one removes.
            let _ = remove(containers, id, None);
        }
    }
}

/// Returns whether the container `id` runs, or nothing if there is none.
pub fn is_alive(containers: &Path, id: &str) -> Option<bool> {
    let dir = File::open(containers.join(id)).ok()?;
    Some(matches!(dir.try_lock_shared(), Err(TryLockError::WouldBlock)))
}

fn remove(containers: &Path, id: &str, name: Option<&str>) -> Result<()> {
    let dir = containers.join(id);
    let removed = match fs::remove_dir_all(&dir) {
        Err(err) if err.kind() == ErrorKind::NotFound => Ok(()),
        removed => removed.at(&dir),
    };
    if let Some(name) = name
        && let Ok(_lock) = lock_names(containers)
    {
        let link = containers.join(".names").join(name);
        if fs::read_link(&link).is_ok_and(|other| other == Path::new(id)) {
            let _ = fs::remove_file(link);
        }
    }
    // Last, so that whatever is left can still be found.
    if removed.is_ok() {
        let _ = fs::remove_file(containers.join(".rm").join(id));
    }
    removed
}

/// Takes the lock under which names are given and taken away.
fn lock_names(containers: &Path) -> Result<File> {
    let names = containers.join(".names");
    let lock = File::open(&names).at(&names)?;
    lock.lock().at(&names)?;
    Ok(lock)
}

fn make_dir(dir: &Path) -> Result<()> {
    match DirBuilder::new().mode(0o700).create(dir) {
        Err(err) if err.kind() == ErrorKind::AlreadyExists => Ok(()),
        made => made.at(dir),
    }
}

/// Returns 64 random hexadecimal digits.
fn new_id() -> Result<String> {
    let mut bytes = [0; 32];
    let flags = rustix::rand::GetRandomFlags::empty();
    let length = rustix::rand::getrandom(&mut bytes, flags).map_err(Error::new);
    anyhow::ensure!(length.context("no random numbers")? == bytes.len(), "no random numbers");
    let digit = |nibble: u8| char::from_digit(nibble.into(), 16).unwrap_or('0');
    Ok(bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect())
}

/// Returns the time, as status.json has it.
pub fn now() -> String {
    jiff::Timestamp::now().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_is_alive_as_long_as_it_is_held() {
        let dir = tempfile::tempdir().unwrap();
        let container = Container::create(dir.path(), None, false).unwrap();
        let id = container.id().to_owned();
        assert_eq!(id.len(), 64);
        assert_eq!(is_alive(dir.path(), &id), Some(true));
        drop(container);
        assert_eq!(is_alive(dir.path(), &id), Some(false));
        assert_eq!(is_alive(dir.path(), "none"), None);
    }

    #[test]
    fn a_name_is_one_containers_until_that_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let first = Container::create(dir.path(), Some("web"), false).unwrap();
        let err = Container::create(dir.path(), Some("web"), true).unwrap_err();
        assert!(crate::error::line(&err).starts_with("web: the container "), "{err:#}");
        assert_eq!(fs::read_dir(dir.path().join(".rm")).unwrap().count(), 0);
        first.remove().unwrap();
        Container::create(dir.path(), Some("web"), false).unwrap();
    }

    #[test]
    fn what_a_killed_supervisor_left_is_collected_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let kept = Container::create(dir.path(), None, false).unwrap().dir().to_owned();
        let left = Container::create(dir.path(), None, true).unwrap().dir().to_owned();
        fs::create_dir_all(left.join("upper/a")).unwrap();
        let running = Container::create(dir.path(), None, true).unwrap();
        collect(dir.path());
        assert!(kept.exists() && running.dir().exists());
        assert!(!left.exists());
        assert_eq!(fs::read_dir(dir.path().join(".rm")).unwrap().count(), 1);
    }

    #[test]
    fn a_status_is_read_as_it_was_written() {
        let dir = tempfile::tempdir().unwrap();
        let mut container = Container::create(dir.path(), None, false).unwrap();
        container.status.notes.push("no pids limit".into());
        container.status.exit_code = Some(3);
        container.save().unwrap();
        let bytes = fs::read(container.dir().join("status.json")).unwrap();
        assert_eq!(serde_json::from_slice::<Status>(&bytes).unwrap(), container.status);
    }
}
