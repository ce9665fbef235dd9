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
//!   .run/<id>        to be seen to have ended, and to be removed only if it never started
//!   .build/          the same once more, for the steps of builds: no containers to anybody
//! ```
//!
//! A container runs as long as somebody holds the lock on its directory: its
//! supervisor, never the container. So a process id that has become another's
//! misleads nobody, and the leftovers of a supervisor that was killed are
//! told from a container that runs.
//!
//! The kernel kills a container with its supervisor (PR_SET_PDEATHSIG), but forgets
//! to when the container's process has become another user, as by su or a
//! set-user-ID program, or asked for it. Then the next tool does: [`end_orphans`].

mod users;

use std::fs::{self, DirBuilder, File, Permissions, TryLockError};
use std::io::{ErrorKind, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context, Error, Result, anyhow};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};

use crate::digest;
use crate::error::{At, Hint};
use crate::runtime::{Running, cgroup};
use crate::tree;
use crate::userns::{self, Mapping};

pub use users::{Use, Users};

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
    /// The unpacked layers that its root is mounted of, top first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub layers: Vec<String>,
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
    /// The inode of a pidfd of that process, which is no other's until the next boot; only pidfs has such (Linux 6.9).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid_inode: Option<u64>,
    /// The exit status, once it has ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// The signal that ended it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
    /// The cgroups that were made for it: of version 1 one for each controller.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cgroups: Vec<PathBuf>,
    /// Where its output went.
    pub log: Log,
    /// What it does not have that it would have elsewhere, such as a default limit.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

/// The directory of those that are to be removed when they have ended.
const REMOVE: &str = ".rm";
/// The directory of those that are not.
const RUN: &str = ".run";
/// The directory of those that are steps of builds.
const BUILD: &str = ".build";

/// Returns where steps of builds are, which are containers that nobody is to see.
pub fn steps(containers: &Path) -> PathBuf {
    containers.join(BUILD)
}

/// Where a container's output goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Log {
    /// To whoever started it.
    #[default]
    Caller,
}

impl Status {
    /// Notes the process that is the container's from now on.
    pub fn started(&mut self, running: &Running) {
        self.pid = Some(running.pid.as_raw_nonzero().get());
        self.pid_inode = pid_inode(&running.pidfd);
        self.started = Some(now());
    }
}

impl Container {
    /// Makes a container in the directory `containers`, with a new id. `rm` marks it to be removed when it has ended.
    pub fn create(containers: &Path, name: Option<&str>, rm: bool) -> Result<Container> {
        let mut first = true;
        loop {
            let id = new_id()?;
            let dir = containers.join(&id);
            // First, so that nothing is there that nobody removes, whenever we are killed.
            let made = match rm {
                true => mark(containers, REMOVE, &id).and_then(|()| make(&dir)),
                false => make(&dir),
            };
            let lock = match made {
                Ok(Some(lock)) => lock,
                Ok(None) => continue,
                // Another may be making it at this moment.
                Err(err) if first && is_missing(&err) => {
                    first = false;
                    DirBuilder::new()
                        .mode(0o700)
                        .recursive(true)
                        .create(containers)
                        .at(containers)?;
                    continue;
                }
                Err(err) => {
                    let _ = remove(containers, &id, None);
                    return Err(err);
                }
            };
            let name = name.map(str::to_owned);
            let status = Status { id, rm, name, created: now(), ..Status::default() };
            let container = Container { containers: containers.into(), dir, status, _lock: lock };
            return match container.register() {
                Ok(()) => Ok(container),
                Err(err) => {
                    container.discard();
                    Err(err)
                }
            };
        }
    }

    fn register(&self) -> Result<()> {
        let Status { id, rm, name, .. } = &self.status;
        // Without a directory, it may have been taken for what is left of a dead one.
        mark(&self.containers, if *rm { REMOVE } else { RUN }, id)?;
        let Some(name) = name else { return Ok(()) };
        make_dir(&self.containers.join(".names"))?;
        let _lock = lock_names(&self.containers)?;
        let link = self.containers.join(".names").join(name);
        if let Ok(other) = fs::read_link(&link) {
            let other_dir = self.containers.join(&other);
            if other_dir.try_exists().at(&other_dir)? {
                let other = other.to_string_lossy();
                let short: String = other.chars().take(12).collect();
                let taken = anyhow!("{name}: the container {short} has this name");
                return Err(taken).hint(|| match is_alive(&self.containers, &other) {
                    Some(false) => format!("another name, or {}", removal(&other_dir)),
                    _ => "another name: that container runs".into(),
                });
            }
            fs::remove_file(&link).at(&link)?; // its container is gone
        }
        symlink(id, &link).at(&link)
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
        let mut file = File::create(&path).at(&path)?;
        // Whatever our umask is, since any user in there may have to. The directory keeps others out.
        file.set_permissions(Permissions::from_mode(0o644)).at(&path)?;
        file.write_all(bytes).at(&path)?;
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

    /// Keeps it, now that it has ended.
    pub fn keep(self) -> Result<()> {
        self.save()?;
        let mark = self.containers.join(RUN).join(&self.status.id);
        fs::remove_file(&mark).at(&mark)
    }
}

/// Makes the directory of a container, and locks it; returns nothing if somebody removed it before that.
fn make(dir: &Path) -> Result<Option<File>> {
    DirBuilder::new().mode(0o700).create(dir).at(dir)?;
    let lock = match File::open(dir) {
        Err(err) if err.kind() == ErrorKind::NotFound => return Ok(None),
        lock => lock.at(dir)?,
    };
    lock.lock().at(dir)?;
    Ok(dir.try_exists().at(dir)?.then_some(lock))
}

/// Tells whether something failed because a file or directory is not there.
fn is_missing(err: &Error) -> bool {
    err.downcast_ref::<std::io::Error>().is_some_and(|err| err.kind() == ErrorKind::NotFound)
}

/// Marks a container as one of this kind.
fn mark(containers: &Path, kind: &str, id: &str) -> Result<()> {
    let mark = containers.join(kind).join(id);
    let make = || File::options().append(true).create(true).mode(0o600).open(&mark);
    let made = match make() {
        Err(err) if err.kind() == ErrorKind::NotFound => {
            make_dir(&containers.join(kind))?;
            make()
        }
        made => made,
    };
    made.at(&mark).map(drop)
}

/// Ends the containers whose supervisors were killed, if they have not ended with them.
///
/// To be called before this process enters a user namespace: from another one nobody
/// can be killed. Returns the ids of those that are to be removed, for [`collect`];
/// one that may still run is not among them.
pub fn end_orphans(containers: &Path) -> Vec<String> {
    let mut dead = end_orphans_in(containers);
    let steps = end_orphans_in(&steps(containers)).into_iter();
    dead.extend(steps.map(|id| format!("{BUILD}/{id}")));
    dead
}

fn end_orphans_in(containers: &Path) -> Vec<String> {
    let mut dead = Vec::new();
    for kind in [REMOVE, RUN] {
        let marks = fs::read_dir(containers.join(kind)).into_iter().flatten().flatten();
        let ids = marks.filter_map(|mark| mark.file_name().into_string().ok());
        for id in ids {
            // Held until it is ended: one that is just being made waits, and so has nothing to be ended.
            let dir = File::open(containers.join(&id));
            if dir.as_ref().is_ok_and(|dir| dir.try_lock().is_err()) {
                continue;
            }
            let status = fs::read(containers.join(&id).join("status.json"));
            let status =
                status.ok().and_then(|bytes| serde_json::from_slice::<Status>(&bytes).ok());
            match &status {
                // Not removed below a process that may run: the next tool tries again.
                Some(status) if !end(status) => continue,
                Some(_) => {}
                // It was killed before it wrote where its cgroup is.
                None if dir.is_ok() => cgroup::remove_unknown(&id),
                None => {}
            }
            // One that never said how it is holds nothing but its name.
            if kind == REMOVE || (status.is_none() && dir.is_ok()) {
                dead.push(id);
            } else {
                let _ = fs::remove_file(containers.join(kind).join(id));
            }
        }
    }
    dead
}

/// Kills what still runs of a container without a supervisor; returns whether it is certain that its first process has ended.
///
/// Without pidfs, only what is in its cgroup can be killed. Then it may be another's process that has its id now,
/// and the container is taken for one that runs until that has ended as well.
fn end(status: &Status) -> bool {
    let pid = status.pid.filter(|_| is_of_this_boot(status)).and_then(Pid::from_raw);
    let process = pid.and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
    let inodes = status.pid_inode.zip(process.as_ref().and_then(pid_inode));
    let process = process.filter(|_| inodes.is_none_or(|(its, found)| its == found));
    if let Some(pidfd) = &process
        && inodes.is_some()
    {
        let _ = pidfd_send_signal(pidfd, Signal::KILL);
    }
    status.cgroups.iter().for_each(|cgroup| cgroup::remove_abandoned(cgroup));
    process.is_none_or(|pidfd| {
        // Until then its directory cannot be removed. Whom we have not killed we do not wait for.
        let patience = Timespec { tv_sec: inodes.is_some().into(), tv_nsec: 0 };
        let mut fds = [PollFd::new(&pidfd, PollFlags::IN)];
        poll(&mut fds, Some(&patience)).is_ok_and(|ended| ended > 0)
    })
}

/// Tells whether a container was started since the machine was, so that its process id may mean something.
fn is_of_this_boot(status: &Status) -> bool {
    let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
    let boot = stat.lines().find_map(|line| line.strip_prefix("btime ")?.parse::<i64>().ok());
    let started = status.started.as_ref().and_then(|text| text.parse::<jiff::Timestamp>().ok());
    boot.zip(started).is_some_and(|(boot, started)| started.as_second() >= boot)
}

/// Returns the inode of a process's pidfd, if that tells it from every other process.
pub fn pid_inode(pidfd: impl AsFd) -> Option<u64> {
    const PID_FS_MAGIC: i64 = 0x5049_4446;
    let unique = rustix::fs::fstatfs(&pidfd).ok()?.f_type == PID_FS_MAGIC;
    unique.then_some(rustix::fs::fstat(&pidfd).ok()?.st_ino)
}

/// Removes these containers of killed supervisors. What cannot be removed now, the next tool removes.
pub fn collect(containers: &Path, dead: &[String]) {
    for id in dead {
        let (containers, id) = match id.strip_prefix(BUILD).and_then(|id| id.strip_prefix('/')) {
            Some(step) => (&steps(containers), step),
            None => (&containers.to_owned(), id.as_str()),
        };
        match File::open(containers.join(id)) {
            // Held until it is gone: it may have been one that was just being made, and runs by now.
            Ok(dir) if dir.try_lock().is_ok() => drop(remove(containers, id, None)),
            Err(err) if err.kind() == ErrorKind::NotFound => {
                let _ = fs::remove_file(containers.join(REMOVE).join(id));
                // Or it cannot be seen.
                if containers.join(id).try_exists().unwrap_or(true) {
                    let _ = mark(containers, REMOVE, id);
                }
            }
            _ => {}
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
    let removed = tree::remove(&dir);
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
        for kind in [REMOVE, RUN] {
            let _ = fs::remove_file(containers.join(kind).join(id));
        }
    }
    removed
}

/// Returns the command that removes a container's directory, in which files may be of all the users that it had.
fn removal(dir: &Path) -> String {
    let namespace = match (userns::was(), Mapping::current()) {
        (None, _) => "",
        // Alone, too, since the kernel makes an overlay's work directory one that only root reads.
        (_, Ok(mapping)) if mapping.is_single() => "unshare --map-root-user ",
        _ => "unshare --map-root-user --map-auto ",
    };
    format!("{namespace}rm -r {}", dir.display())
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
    Ok(digest::hex(&bytes))
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
    fn what_runs_is_not_to_be_removed_for_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let first = Container::create(dir.path(), Some("web"), false).unwrap();
        let hint = || {
            let err = Container::create(dir.path(), Some("web"), false).unwrap_err();
            crate::error::hint_of(&err).unwrap().to_owned()
        };
        assert_eq!(hint(), "another name: that container runs");
        let path = first.dir().to_owned();
        drop(first);
        assert_eq!(hint(), format!("another name, or rm -r {}", path.display()));
    }

    #[test]
    fn what_a_killed_supervisor_left_is_collected_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let kept = Container::create(dir.path(), None, false).unwrap();
        kept.save().unwrap();
        let stays = kept.dir().to_owned();
        drop(kept);
        let early = Container::create(dir.path(), Some("early"), false).unwrap().dir().to_owned();
        let left = Container::create(dir.path(), None, true).unwrap().dir().to_owned();
        fs::create_dir_all(left.join("upper/a")).unwrap();
        let running = Container::create(dir.path(), None, true).unwrap();
        collect(dir.path(), &end_orphans(dir.path()));
        assert!(stays.exists() && running.dir().exists());
        assert!(!left.exists() && !early.exists());
        assert_eq!(fs::read_dir(dir.path().join(".rm")).unwrap().count(), 1);
        assert_eq!(fs::read_dir(dir.path().join(".run")).unwrap().count(), 0);
        Container::create(dir.path(), Some("early"), false).unwrap();
    }

    #[test]
    fn what_a_killed_build_left_is_collected_as_well() {
        let dir = tempfile::tempdir().unwrap();
        let steps = steps(dir.path());
        let left = Container::create(&steps, None, true).unwrap().dir().to_owned();
        let running = Container::create(&steps, None, true).unwrap();
        collect(dir.path(), &end_orphans(dir.path()));
        assert!(running.dir().exists() && !left.exists());
        assert_eq!(fs::read_dir(steps.join(".rm")).unwrap().count(), 1);
    }

    #[test]
    fn only_the_process_that_was_the_containers_is_killed() {
        let pidfd = |pid: u32| {
            let pid = Pid::from_raw(pid as i32).unwrap();
            pidfd_open(pid, PidfdFlags::empty()).unwrap()
        };
        let Some(own) = pid_inode(pidfd(std::process::id())) else { return };
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let inode = pid_inode(pidfd(child.id())).unwrap();
        assert_ne!(inode, own);

        let mut status = Status { started: Some(now()), ..Status::default() };
        status.pid = Some(child.id() as i32);
        for (inode, started, ended) in [
            (Some(own), now(), true),
            (None, now(), false),
            (Some(inode), "1970-01-02T00:00:00Z".into(), true),
        ] {
            (status.pid_inode, status.started) = (inode, Some(started));
            assert_eq!(end(&status), ended);
            assert!(child.try_wait().unwrap().is_none());
        }
        (status.pid_inode, status.started) = (Some(inode), Some(now()));
        assert!(end(&status));
        assert!(child.wait().unwrap().code().is_none());
        status.pid_inode = None;
        assert!(end(&status));
    }

    #[test]
    fn nothing_is_removed_below_a_process_that_could_not_be_killed() {
        let dir = tempfile::tempdir().unwrap();
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let mut left = Container::create(dir.path(), None, true).unwrap();
        // As a kernel without pidfs leaves it, where no cgroup could be made.
        left.status.pid = Some(child.id() as i32);
        left.status.started = Some(now());
        left.save().unwrap();
        let path = left.dir().to_owned();
        drop(left);
        collect(dir.path(), &end_orphans(dir.path()));
        assert!(path.exists());
        child.kill().unwrap();
        child.wait().unwrap();
        collect(dir.path(), &end_orphans(dir.path()));
        assert!(!path.exists());
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
