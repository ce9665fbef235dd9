//! The cgroup of a container, which bounds how many processes it can have.
//!
//! ```text
//! version 1    <pids>/<our own>/tare/<id>/      joined by the container itself, through `tasks`
//! version 2    <above our own>/tare/<id>/       joined by clone3(2)
//! ```
//!
//! The container's process writes `0` to `tasks`, which moves one thread, itself: the
//! kernel does that without the lock that stops every fork on the machine, for which moving a process waits.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, anyhow, ensure};
use rustix::fs::{Access, Mode, OFlags, access, open};

use super::CgroupView;
use crate::error::{At, Hint};

/// Where cgroups are mounted, by everybody's convention.
const MOUNT: &str = "/sys/fs/cgroup";
/// The cgroup that containers are below.
const PARENT: &str = "tare";
/// How old an empty cgroup must be that nobody seems to have.
const ABANDONED: Duration = Duration::from_secs(60);

/// A cgroup that was made for a container. It is removed with this value.
#[derive(Debug)]
pub struct Cgroup {
    dir: PathBuf,
    unified: bool,
}

impl Cgroup {
    /// Makes the cgroup of the container `id`, in which `pids` processes can be.
    ///
    /// `is_alive` says of another container's id whether it runs: what is left of those that
    /// do not is removed.
    pub fn make(id: &str, pids: i64, is_alive: impl Fn(&str) -> Option<bool>) -> Result<Cgroup> {
        let text = fs::read_to_string("/proc/self/cgroup").at("/proc/self/cgroup")?;
        let place = Place::find(&text).context("this host has no pids controller for us")?;
        let parent = place.dir.join(PARENT);
        let delegate =
            || format!("to let it be applied: chown {} to this user", place.dir.display());

        let dir = parent.join(id);
        // Whoever removes the last container's cgroup removes the parent as well, maybe between these two.
        let mut tries = 0;
        loop {
            let new = make_dir(&parent).hint(delegate)?;
            if !new && tries == 0 {
                collect(&parent, place.unified, &is_alive);
            }
            match fs::create_dir(&dir) {
                Ok(()) => break,
                Err(err) if err.kind() == ErrorKind::NotFound && tries < 100 => tries += 1,
                Err(err) => return Err(err).at(&dir).hint(delegate),
            }
        }
        let cgroup = Cgroup { dir, unified: place.unified };
        if cgroup.unified {
            cgroup.enable(&place.dir, &parent).hint(delegate)?;
        }
        let limit = if pids > 0 { pids.to_string() } else { "max".into() };
        let path = cgroup.dir.join("pids.max");
        fs::write(&path, &limit).at(&path).hint(delegate)?;
        let applied = fs::read_to_string(&path).at(&path)?;
        ensure!(applied.trim() == limit, "{}: it is {}", path.display(), applied.trim());
        Ok(cgroup)
    }

    /// Sees that the pids controller is there, and that we may move a process in.
    fn enable(&self, above: &Path, parent: &Path) -> Result<()> {
        for dir in [above, parent] {
            let path = dir.join("cgroup.subtree_control");
            let enabled = fs::read_to_string(&path).at(&path)?;
            if !enabled.split_whitespace().any(|controller| controller == "pids") {
                fs::write(&path, "+pids").at(&path)?;
            }
        }
        // Containment: whoever moves a process must be able to write to what is above both places (cgroups(7)).
        let path = above.join("cgroup.procs");
        access(&path, Access::WRITE_OK).map_err(std::io::Error::from).at(&path)
    }

    /// Returns its directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Returns the file by which a process of version 1 moves itself in.
    pub fn tasks(&self) -> Option<PathBuf> {
        (!self.unified).then(|| self.dir.join("tasks"))
    }

    /// Opens the directory that a process of version 2 is born in.
    pub fn open(&self) -> Result<Option<OwnedFd>> {
        if !self.unified {
            return Ok(None);
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = open(&self.dir, flags, Mode::empty()).map_err(std::io::Error::from);
        dir.at(&self.dir).map(Some)
    }

    /// Returns what the container sees of it.
    pub fn view(&self) -> CgroupView {
        match self.unified {
            true => CgroupView::Unified,
            false => CgroupView::Controllers(vec![("pids".into(), self.dir.clone())]),
        }
    }
}

impl Drop for Cgroup {
    /// Removes the cgroup, and the one above it if nobody else is in there.
    fn drop(&mut self) {
        remove(&self.dir, self.unified);
        if let Some(parent) = self.dir.parent() {
            let _ = fs::remove_dir(parent);
        }
    }
}

/// Removes the cgroup of a container whose supervisor was killed.
pub fn remove_abandoned(dir: &Path) {
    drop(Cgroup { dir: dir.into(), unified: dir.join("cgroup.kill").exists() });
}

/// Removes the cgroup of the container `id`, if it is where ours would be.
pub fn remove_unknown(id: &str) {
    let text = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    if let Some(place) = Place::find(&text) {
        let dir = place.dir.join(PARENT).join(id);
        drop(Cgroup { dir, unified: place.unified });
    }
}

/// Returns whether the host has but one hierarchy, of version 2, which a cgroup namespace can show.
pub fn is_unified() -> bool {
    Path::new(MOUNT).join("cgroup.controllers").exists()
}

/// Where cgroups can be made.
#[derive(Debug, PartialEq, Eq)]
struct Place {
    dir: PathBuf,
    unified: bool,
}

impl Place {
    /// Finds it in what /proc/self/cgroup says: `ID:CONTROLLERS:PATH` a line, `0::PATH` for version 2.
    fn find(text: &str) -> Option<Place> {
        let mut unified = None;
        for line in text.lines() {
            let mut fields = line.splitn(3, ':');
            let (id, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
            // A path out of our cgroup namespace.
            if path.contains("/..") {
                continue;
            }
            if controllers.split(',').any(|controller| controller == "pids") {
                let dir = Path::new(MOUNT).join(controllers).join(path.trim_start_matches('/'));
                return Some(Place { dir, unified: false });
            }
            if id == "0" {
                unified = Some(path);
            }
        }
        // A cgroup with processes can have no others below it that have controllers, so it is made
        // beside our own. Root of a user namespace has no more rights here than the user has.
        let own = Path::new(MOUNT).join(unified?.trim_start_matches('/'));
        let dir = match own.parent() {
            Some(above) if above.starts_with(MOUNT) && access(MOUNT, Access::WRITE_OK).is_err() => {
                above.into()
            }
            _ => PathBuf::from(MOUNT),
        };
        Some(Place { dir, unified: true })
    }
}

/// Makes a directory; returns whether it is new.
fn make_dir(dir: &Path) -> Result<bool> {
    match fs::create_dir(dir) {
        Ok(()) => Ok(true),
        Err(err) if err.kind() == ErrorKind::AlreadyExists => Ok(false),
        Err(err) => Err(err).at(dir),
    }
}

/// Removes the cgroups below `parent` whose containers are gone, and whoever is still in them.
fn collect(parent: &Path, unified: bool, is_alive: impl Fn(&str) -> Option<bool>) {
    let Ok(entries) = fs::read_dir(parent) else { return };
    for entry in entries.flatten() {
        if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        let name = entry.file_name();
        match name.to_str().and_then(&is_alive) {
            Some(true) => {}
            Some(false) => remove(&entry.path(), unified),
            // Another store's, or its container is not there yet: it goes if it is empty and old.
            None => {
                let made = entry.metadata().and_then(|meta| meta.modified());
                let age = made.ok().and_then(|made| SystemTime::now().duration_since(made).ok());
                if age.is_some_and(|age| age > ABANDONED) {
                    let _ = fs::remove_dir(entry.path());
                }
            }
        }
    }
}

/// Kills what is in the cgroup `dir`, if anything still is, and removes it. On a busy machine even that takes a while.
fn remove(dir: &Path, unified: bool) {
    for _ in 0..1000 {
        match fs::remove_dir(dir) {
            Err(err) if err.kind() == ErrorKind::ResourceBusy => {}
            _ => return,
        }
        if kill_all(dir, unified).is_err() {
            return;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn kill_all(dir: &Path, unified: bool) -> Result<()> {
    if unified {
        let path = dir.join("cgroup.kill");
        return File::options()
            .write(true)
            .open(&path)
            .and_then(|mut file| file.write_all(b"1"))
            .at(path);
    }
    let path = dir.join("cgroup.procs");
    let members = || fs::read_to_string(&path).at(&path);
    for line in members()?.lines() {
        let pid = line.parse().ok().and_then(rustix::process::Pid::from_raw);
        let pid = pid.ok_or_else(|| anyhow!("{line:?}: not a process id")).at(&path)?;
        let flags = rustix::process::PidfdFlags::empty();
        let Ok(pidfd) = rustix::process::pidfd_open(pid, flags) else { continue };
        // The id may be another's by now; the descriptor cannot become another's any more.
        if members()?.lines().any(|other| other == line) {
            let _ = rustix::process::pidfd_send_signal(&pidfd, rustix::process::Signal::KILL);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_controller_is_found_in_either_version() {
        let find = |text| Place::find(text).map(|place| (place.dir, place.unified));
        let v1 = "9:name=systemd:/\n8:pids:/user/a\n0::/\n";
        assert_eq!(find(v1), Some(("/sys/fs/cgroup/pids/user/a".into(), false)));
        let joint = "3:cpu,pids:/\n";
        assert_eq!(find(joint), Some(("/sys/fs/cgroup/cpu,pids/".into(), false)));
        let outside = "8:pids:/../..\n";
        assert_eq!(find(outside), None);
        assert!(find("0::/user.slice/x.service\n").is_some_and(|(_, unified)| unified));
        assert_eq!(find(""), None);
        assert_eq!(find("8:pids\n"), None);
    }
}
