//! The cgroup of a container, which bounds how many processes and how much memory it can have.
//!
//! ```text
//! version 1    <controller>/<our own>/tare/<id>/    one for each controller, joined by the container itself, through `tasks`
//! version 2    <above our own>/tare/<id>/           joined by clone3(2), or through `cgroup.procs`
//! ```
//!
//! The container's process writes `0` to the file, which moves itself. To `tasks`, that moves one thread:
//! the kernel does that without the lock that stops every fork on the machine, for which moving a process waits.
//!
//! A limit is read back once it is written: what is not what was asked for is an error.

mod removal;

use std::fs;
use std::io::ErrorKind;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, anyhow, ensure};
use oci_spec::runtime::{LinuxMemory, LinuxResources};
use rustix::fs::{Access, Mode, OFlags, access, open};

use self::removal::{LEAST, PATIENCE, remove};
use super::CgroupView;
use crate::error::{At, Hint};

/// Where cgroups are mounted, by everybody's convention.
const MOUNT: &str = "/sys/fs/cgroup";
/// The cgroup that containers are below.
const PARENT: &str = "tare";
/// How old an empty cgroup must be that nobody seems to have.
const ABANDONED: Duration = Duration::from_secs(60);

/// The bytes of the largest pages that some machine has.
const LARGEST_PAGE: u64 = 64 << 10;

/// The controllers of our limits.
const PIDS: &str = "pids";
const MEMORY: &str = "memory";

/// What the processes of a cgroup may have together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// How many processes there can be.
    pub pids: Option<u64>,
    /// How much memory.
    pub memory: Option<Memory>,
}

/// How much memory processes may have, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// Memory proper.
    pub limit: u64,
    /// Swap besides; without a number as much as there is.
    pub swap: Option<u64>,
}

impl Limits {
    /// Reads those of a runtime spec: config-linux.md, Control groups. Others of memory than these are refused.
    pub fn of(resources: &LinuxResources) -> Result<Limits> {
        let pids = resources.pids().as_ref().and_then(|pids| u64::try_from(pids.limit()).ok());
        let memory = resources.memory().as_ref().map(Memory::of).transpose()?.flatten();
        Ok(Limits { pids: pids.filter(|pids| *pids > 0), memory })
    }

    /// Returns the controllers that apply them. One for processes is what a cgroup without limits is made in.
    fn controllers(&self) -> Vec<&'static str> {
        let memory = self.memory.map(|_| MEMORY);
        let pids = (self.pids.is_some() || memory.is_none()).then_some(PIDS);
        pids.into_iter().chain(memory).collect()
    }
}

impl Memory {
    fn of(memory: &LinuxMemory) -> Result<Option<Memory>> {
        let others = [
            ("reservation", memory.reservation().is_some()),
            ("kernel", memory.kernel().is_some()),
            ("kernelTCP", memory.kernel_tcp().is_some()),
            ("swappiness", memory.swappiness().is_some()),
            ("disableOOMKiller", memory.disable_oom_killer() == Some(true)),
        ];
        if let Some((name, _)) = others.into_iter().find(|(_, set)| *set) {
            return Err(anyhow!("linux.resources.memory.{name}: this limit is not supported"));
        }
        // -1 is no limit, and 0 is nothing said.
        let bytes = |field: Option<i64>, name: &str| match field {
            None | Some(0 | -1) => Ok(None),
            Some(bytes) => u64::try_from(bytes)
                .map(Some)
                .with_context(|| format!("linux.resources.memory.{name}: {bytes}: not a size")),
        };
        let limit = bytes(memory.limit(), "limit")?;
        // The spec's is memory and swap together.
        match (limit, bytes(memory.swap(), "swap")?) {
            (None, None) => Ok(None),
            (None, Some(_)) => {
                Err(anyhow!("linux.resources.memory.swap: it takes a limit as well"))
            }
            (Some(limit), None) => Ok(Some(Memory { limit, swap: None })),
            (Some(limit), Some(both)) => {
                let swap = both.checked_sub(limit);
                let swap =
                    swap.context("linux.resources.memory.swap: it is less than the limit")?;
                Ok(Some(Memory { limit, swap: Some(swap) }))
            }
        }
    }
}

/// A cgroup that was made for a container. It is removed with this value.
#[derive(Debug)]
pub struct Cgroup {
    /// A directory for each controller: of version 2 they are one.
    dirs: Vec<(&'static str, PathBuf)>,
    unified: bool,
    memory: bool,
}

impl Cgroup {
    /// Makes the cgroup of the container `id`, in which there cannot be more than `limits` say.
    ///
    /// `is_alive` says of another container's id whether it runs: what is left of those that
    /// do not is removed.
    pub fn make(
        id: &str,
        limits: &Limits,
        is_alive: impl Fn(&str) -> Option<bool>,
    ) -> Result<Cgroup> {
        let text = fs::read_to_string("/proc/self/cgroup").at("/proc/self/cgroup")?;
        let controllers = limits.controllers();
        let place = |controller: &&str| {
            let place = Place::find(&text, controller);
            place.with_context(|| format!("this host has no {controller} controller for us"))
        };
        let places: Vec<Place> = controllers.iter().map(place).collect::<Result<_>>()?;
        let unified = places.iter().any(|place| place.unified);
        let mut cgroup = Cgroup { dirs: Vec::new(), unified, memory: limits.memory.is_some() };
        for (controller, place) in controllers.into_iter().zip(places) {
            let delegate = || place.hint();
            ensure!(place.unified == unified, "this host has no {controller} controller for us");
            let dir = place.dir.join(PARENT).join(id);
            // Several controllers may share a hierarchy.
            if !cgroup.dirs.iter().any(|(_, other)| *other == dir) {
                make_in(&place, id, &is_alive).hint(delegate)?;
            }
            cgroup.dirs.push((controller, dir));
            if unified {
                enable(&place.dir, controller).hint(delegate)?;
            }
            cgroup.limit(controller, limits).hint(delegate)?;
        }
        Ok(cgroup)
    }

    /// Applies the limits of a controller.
    fn limit(&self, controller: &str, limits: &Limits) -> Result<()> {
        match (controller, limits.pids, limits.memory) {
            (PIDS, Some(pids), _) => self.set(PIDS, "pids.max", pids),
            (MEMORY, _, Some(Memory { limit, swap })) if self.unified => {
                self.set(MEMORY, "memory.max", limit)?;
                swap.map_or(Ok(()), |swap| self.set(MEMORY, "memory.swap.max", swap))
            }
            (MEMORY, _, Some(Memory { limit, swap })) => {
                self.set(MEMORY, "memory.limit_in_bytes", limit)?;
                // Of both together.
                let both = swap.map(|swap| limit.saturating_add(swap));
                both.map_or(Ok(()), |both| self.set(MEMORY, "memory.memsw.limit_in_bytes", both))
            }
            _ => Ok(()),
        }
    }

    /// Writes a limit, and sees that it is one.
    fn set(&self, controller: &str, file: &str, limit: u64) -> Result<()> {
        let path = self.dir_of(controller).context("no such controller")?.join(file);
        fs::write(&path, limit.to_string()).at(&path)?;
        let applied = fs::read_to_string(&path).at(&path)?;
        let lost = applied.trim().parse().ok().and_then(|applied| limit.checked_sub(applied));
        // Memory is counted in pages.
        let unit = if controller == MEMORY { LARGEST_PAGE } else { 1 };
        ensure!(
            lost.is_some_and(|lost: u64| lost < unit),
            "{}: it is {}, and not {limit}",
            path.display(),
            applied.trim()
        );
        Ok(())
    }

    /// Returns whether a process in it was killed since there was no memory left of what the limit allows.
    pub fn ran_out_of_memory(&self) -> bool {
        let Some(dir) = self.dir_of(MEMORY).filter(|_| self.memory) else { return false };
        let read = |file: &str| fs::read_to_string(dir.join(file)).unwrap_or_default();
        let count = |text: &str, name: &str| {
            let mut lines = text.lines().filter_map(|line| line.split_once(' '));
            let line = lines.find(|(key, _)| *key == name);
            line.and_then(|(_, value)| value.parse::<u64>().ok()).unwrap_or(0)
        };
        // A limit above ours may be the one, and then ours was never reached.
        if self.unified {
            let events = read("memory.events");
            return count(&events, "oom_kill") > 0 && count(&events, "oom") > 0;
        }
        let reached = ["memory.failcnt", "memory.memsw.failcnt"].map(read);
        let reached = reached.iter().any(|text| text.trim().parse().is_ok_and(|n: u64| n > 0));
        reached && count(&read("memory.oom_control"), "oom_kill") > 0
    }

    fn dir_of(&self, controller: &str) -> Option<&Path> {
        let mut dirs = self.dirs.iter();
        dirs.find(|(other, _)| *other == controller).map(|(_, dir)| dir.as_path())
    }

    /// Returns its directories.
    pub fn dirs(&self) -> Vec<PathBuf> {
        let mut dirs: Vec<PathBuf> = self.dirs.iter().map(|(_, dir)| dir.clone()).collect();
        dirs.dedup();
        dirs
    }

    /// Returns the files by which a process moves itself in.
    pub fn tasks(&self) -> Vec<PathBuf> {
        let name = if self.unified { "cgroup.procs" } else { "tasks" };
        self.dirs().into_iter().map(|dir| dir.join(name)).collect()
    }

    /// Opens the directory of version 2, in which a process can be born instead, if who makes it has one thread.
    pub fn open(&self) -> Result<Option<OwnedFd>> {
        let Some((_, dir)) = self.dirs.first().filter(|_| self.unified) else { return Ok(None) };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let open = open(dir, flags, Mode::empty()).map_err(std::io::Error::from);
        open.at(dir).map(Some)
    }
}

impl Drop for Cgroup {
    /// Removes the cgroup, and the one above it if nobody else is in there.
    fn drop(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        self.dirs().iter().for_each(|dir| remove_with_parent(dir, self.unified, deadline));
    }
}

impl CgroupView {
    /// Returns what a container sees of its cgroup, or of ours if it has none.
    pub fn of(cgroup: Option<&Cgroup>) -> CgroupView {
        match cgroup {
            Some(cgroup) if !cgroup.unified => {
                let named = |(name, dir): &(&str, PathBuf)| ((*name).to_owned(), dir.clone());
                CgroupView::Controllers(cgroup.dirs.iter().map(named).collect())
            }
            None if !is_unified() => CgroupView::Empty,
            own => CgroupView::Unified { own: own.is_some() },
        }
    }
}

/// Removes the cgroup of a container whose supervisor was killed.
pub fn remove_abandoned(dir: &Path) {
    remove_with_parent(dir, dir.join("cgroup.kill").exists(), Instant::now() + PATIENCE);
}

/// Removes the cgroup of the container `id`, if it is where ours would be.
pub fn remove_unknown(id: &str) {
    let text = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let deadline = Instant::now() + PATIENCE;
    for place in [PIDS, MEMORY].into_iter().filter_map(|name| Place::find(&text, name)) {
        remove_with_parent(&place.dir.join(PARENT).join(id), place.unified, deadline);
    }
}

fn remove_with_parent(dir: &Path, unified: bool, deadline: Instant) {
    remove(dir, unified, deadline);
    if let Some(parent) = dir.parent() {
        let _ = fs::remove_dir(parent);
    }
}

/// Returns whether the host has but one hierarchy, of version 2, which a cgroup namespace can show.
fn is_unified() -> bool {
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
    fn find(text: &str, controller: &str) -> Option<Place> {
        let mut unified = None;
        for line in text.lines() {
            let mut fields = line.splitn(3, ':');
            let (id, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
            // A path out of our cgroup namespace.
            if path.contains("/..") {
                continue;
            }
            if controllers.split(',').any(|other| other == controller) {
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

    /// Returns what would let us apply a limit here.
    fn hint(&self) -> String {
        let systemd = if self.unified { "systemd-run --user --scope, or " } else { "" };
        format!("to let it be applied: {systemd}chown {} to this user", self.dir.display())
    }
}

/// Makes the cgroup of `id`, and removes what is left of others.
fn make_in(place: &Place, id: &str, is_alive: impl Fn(&str) -> Option<bool>) -> Result<()> {
    let parent = place.dir.join(PARENT);
    let dir = parent.join(id);
    // Whoever removes the last container's cgroup removes the parent as well, maybe between these two.
    let mut tries = 0;
    loop {
        let new = make_dir(&parent)?;
        if !new && tries == 0 {
            collect(&parent, place.unified, &is_alive);
        }
        match fs::create_dir(&dir) {
            Ok(()) => return Ok(()),
            Err(err) if err.kind() == ErrorKind::NotFound && tries < 100 => tries += 1,
            Err(err) => return Err(err).at(&dir),
        }
    }
}

/// Sees that a controller of version 2 is there, and that we may move a process in.
fn enable(above: &Path, controller: &str) -> Result<()> {
    let has = |text: &str| text.split_whitespace().any(|other| other == controller);
    let path = above.join("cgroup.controllers");
    let there = fs::read_to_string(&path).at(&path)?;
    ensure!(has(&there), "{}: there is no {controller}", path.display());
    for dir in [above, &above.join(PARENT)] {
        let path = dir.join("cgroup.subtree_control");
        let enabled = fs::read_to_string(&path).at(&path)?;
        if !has(&enabled) {
            fs::write(&path, format!("+{controller}")).at(&path)?;
        }
    }
    // Containment: whoever moves a process must be able to write to what is above both places (cgroups(7)).
    let path = above.join("cgroup.procs");
    access(&path, Access::WRITE_OK).map_err(std::io::Error::from).at(&path)
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
    // For all of them together: one that cannot be ended is in every container's way.
    let deadline = Instant::now() + PATIENCE / 4;
    for entry in entries.flatten() {
        if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        let name = entry.file_name();
        match name.to_str().and_then(&is_alive) {
            Some(true) => {}
            Some(false) => remove(&entry.path(), unified, deadline.max(Instant::now() + LEAST)),
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_controller_is_found_in_either_version() {
        let find = |text| Place::find(text, PIDS).map(|place| (place.dir, place.unified));
        let v1 = "9:name=systemd:/\n8:pids:/user/a\n4:memory:/b\n0::/\n";
        assert_eq!(find(v1), Some(("/sys/fs/cgroup/pids/user/a".into(), false)));
        let memory = Place::find(v1, MEMORY).map(|place| place.dir);
        assert_eq!(memory, Some("/sys/fs/cgroup/memory/b".into()));
        let joint = "3:cpu,pids:/\n";
        assert_eq!(find(joint), Some(("/sys/fs/cgroup/cpu,pids/".into(), false)));
        let outside = "8:pids:/../..\n";
        assert_eq!(find(outside), None);
        assert!(find("0::/user.slice/x.service\n").is_some_and(|(_, unified)| unified));
        assert_eq!(find(""), None);
        assert_eq!(find("8:pids\n"), None);
    }

    #[test]
    fn limits_are_those_of_the_spec() {
        let limits = |json: serde_json::Value| {
            Limits::of(&serde_json::from_value(json).unwrap()).map_err(|err| err.to_string())
        };
        let memory = |limit, swap| Ok(Limits { pids: None, memory: Some(Memory { limit, swap }) });
        let none = || Ok(Limits::default());
        for (json, expected) in [
            (json!({}), none()),
            (json!({"pids": {"limit": 0}, "memory": {}}), none()),
            (json!({"pids": {"limit": -1}, "memory": {"limit": -1, "swap": -1}}), none()),
            (json!({"pids": {"limit": 7}}), Ok(Limits { pids: Some(7), memory: None })),
            (json!({"memory": {"limit": 5, "disableOOMKiller": false}}), memory(5, None)),
            (json!({"memory": {"limit": 5, "swap": 0}}), memory(5, None)),
            (json!({"memory": {"limit": 5, "swap": -1}}), memory(5, None)),
            (json!({"memory": {"limit": 5, "swap": 5}}), memory(5, Some(0))),
            (json!({"memory": {"limit": 5, "swap": 12}}), memory(5, Some(7))),
        ] {
            assert_eq!(limits(json.clone()), expected, "{json}");
        }
        for (json, part) in [
            (json!({"limit": 5, "swap": 4}), "swap: it is less than the limit"),
            (json!({"swap": 4}), "swap: it takes a limit as well"),
            (json!({"limit": -5}), "limit: -5: not a size"),
            (json!({"limit": 5, "swap": -2}), "swap: -2: not a size"),
            (json!({"reservation": 1}), "reservation: this limit is not supported"),
            (json!({"limit": 5, "swappiness": 1}), "swappiness: this limit is not supported"),
            (json!({"disableOOMKiller": true}), "disableOOMKiller: this limit is not supported"),
        ] {
            let found = limits(json!({ "memory": json })).unwrap_err();
            assert_eq!(found, format!("linux.resources.memory.{part}"));
        }
    }
}
