//! The directory of a step, and its end, however it comes.
//!
//! ```text
//! containers/.build/<id>/     a container's directory, in a place where nobody looks for containers
//!   status.json               its process, so that the next tool can end it if we cannot
//!   upper/ work/              what it has written
//!   mounts/                   what is mounted for it
//!   hosts resolv.conf
//! ```
//!
//! It is removed when the step is given up or its layer has been taken over. On SIGINT and
//! SIGTERM all steps are ended first, and no other begins. Of a build that was killed
//! the kernel ends the steps, and the next tool removes the directories: [`enter`].

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use anyhow::{Result, anyhow, ensure};
use common::cli::on_interrupt;
use common::container::{self, Container};
use common::error::{Hint, find, hint_of, line};
use common::runtime::Running;
use common::runtime::cgroup::{self, Cgroup, Limits, Memory};
use common::store::Store;
use common::userns::{self, Refused};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::mount::{UnmountFlags, unmount};
use rustix::process::{Signal, pidfd_send_signal};

/// How many seconds a killed process has until its directory is removed all the same.
const PATIENCE: i64 = 2;

/// The steps of this process.
static STEPS: Mutex<Steps> =
    Mutex::new(Steps { ending: false, given_up: false, number: 0, all: BTreeMap::new() });

/// Why this process cannot have mounts of its own, if so, and what helps.
static NO_MOUNTS: OnceLock<Option<(String, String)>> = OnceLock::new();

struct Steps {
    /// A signal is about to end this process.
    ending: bool,
    /// The build has failed, and no step is to begin.
    given_up: bool,
    number: u64,
    all: BTreeMap<u64, Live>,
}

struct Live {
    container: Arc<Mutex<Container>>,
    pidfd: Option<OwnedFd>,
}

fn steps() -> MutexGuard<'static, Steps> {
    let steps = STEPS.lock().unwrap_or_else(PoisonError::into_inner);
    if !steps.ending {
        return steps;
    }
    drop(steps);
    loop {
        std::thread::park(); // until the signal does what it is there for
    }
}

/// Makes this process one that can run steps: root somewhere, with mounts that nobody else sees.
///
/// Where that cannot be, it is as it is: a build may do without, and what cannot do without says so.
/// What steps of killed builds have left is removed. To be called once, by main, before any thread
/// is started, and before a directory is opened that is to be mounted.
pub fn enter(store: &Store) -> Result<()> {
    let containers = store.containers();
    let dead = container::end_orphans(&containers);
    let made = match rustix::process::geteuid().is_root() {
        true => userns::private_mounts(),
        // Its user namespace comes with them.
        false => match userns::ensure_root() {
            Err(err) if find::<Refused>(&err).is_none() => return Err(err),
            entered => entered.map(drop),
        },
    };
    let _ = NO_MOUNTS.set(made.err().map(|err| {
        let hint = || "RUN takes root, or a user namespace; COPY does without".into();
        (line(&err), hint_of(&err).map_or_else(hint, str::to_owned))
    }));
    container::collect(&containers, &dead);
    on_interrupt(end_all)
}

/// Checks that layers can be unpacked with the owners that they have.
///
/// # Errors
/// If this process is an ordinary user's, who could not become root in a user namespace.
pub fn check_root() -> Result<()> {
    if rustix::process::geteuid().is_root() { Ok(()) } else { check_mounts() }
}

fn check_mounts() -> Result<()> {
    match NO_MOUNTS.get() {
        Some(None) => Ok(()),
        Some(Some((why, hint))) => Err(anyhow!("{why}")).hint(|| hint.clone()),
        None => Err(anyhow!("this process was not made one that runs steps")),
    }
}

/// Makes this thread alone one that can run steps.
#[cfg(test)]
pub(super) fn for_test() {
    userns::private_mounts().unwrap();
    let _ = NO_MOUNTS.set(None);
}

/// Ends all steps and removes their directories, before a signal ends this process.
fn end_all() {
    let mut steps = STEPS.lock().unwrap_or_else(PoisonError::into_inner);
    steps.ending = true;
    let all = std::mem::take(&mut steps.all);
    drop(steps);
    for live in all.values() {
        if let Some(pidfd) = &live.pidfd {
            let _ = pidfd_send_signal(pidfd, Signal::KILL);
        }
    }
    for live in all.values() {
        if let Some(pidfd) = &live.pidfd {
            let mut fds = [PollFd::new(pidfd, PollFlags::IN)];
            let _ = poll(&mut fds, Some(&Timespec { tv_sec: PATIENCE, tv_nsec: 0 }));
        }
        let container = live.container.lock().unwrap_or_else(PoisonError::into_inner);
        clear(&container);
    }
}

/// Ends the processes of all steps, and lets no other begin: the build has failed.
pub fn give_up() {
    let mut steps = STEPS.lock().unwrap_or_else(PoisonError::into_inner);
    steps.given_up = true;
    for live in steps.all.values() {
        if let Some(pidfd) = &live.pidfd {
            let _ = pidfd_send_signal(pidfd, Signal::KILL);
        }
    }
}

/// Removes a step's directory, and its cgroup.
fn clear(container: &Container) {
    container.status.cgroups.iter().for_each(|cgroup| cgroup::remove_abandoned(cgroup));
    let dir = container.dir();
    let _ = unmount(dir.join("upper"), UnmountFlags::DETACH); // if it is in memory
    for entry in fs::read_dir(dir.join("mounts")).into_iter().flatten().flatten() {
        let _ = unmount(entry.path(), UnmountFlags::DETACH);
    }
    container.discard();
}

/// A step: its directory, which goes with this value.
#[derive(Debug)]
pub(super) struct Step {
    number: u64,
    dir: PathBuf,
    container: Arc<Mutex<Container>>,
}

impl Step {
    /// Makes the directory of a step.
    pub(super) fn make(store: &Store) -> Result<Step> {
        check_mounts()?;
        let mut steps = steps();
        let container = Container::create(&container::steps(&store.containers()), None, true)?;
        let dir = container.dir().to_owned();
        let container = Arc::new(Mutex::new(container));
        steps.number += 1;
        let number = steps.number;
        steps.all.insert(number, Live { container: container.clone(), pidfd: None });
        Ok(Step { number, dir, container })
    }

    /// Returns its directory.
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Writes a file that the step may read.
    pub(super) fn write(&self, name: &str, bytes: &[u8]) -> Result<PathBuf> {
        self.lock().write(name, bytes)
    }

    /// Makes the cgroup that keeps it to so much memory; a signal waits until it is known.
    pub(super) fn limit(&self, memory: Memory) -> Result<Cgroup> {
        let known = steps();
        let mut container = self.lock();
        let others = self.dir.parent().unwrap_or(&self.dir);
        let limits = Limits { pids: None, memory: Some(memory) };
        let cgroup = Cgroup::make(container.id(), &limits, |id| container::is_alive(others, id))?;
        container.status.cgroups = cgroup.dirs();
        drop(known);
        Ok(cgroup)
    }

    /// Starts its process; a signal waits until it is known.
    pub(super) fn start(&self, start: impl FnOnce() -> Result<Running>) -> Result<Running> {
        let mut steps = steps();
        ensure!(!steps.given_up, "another stage has failed");
        let running = start()?;
        if let Some(live) = steps.all.get_mut(&self.number) {
            live.pidfd = running.pidfd.try_clone().ok();
        }
        drop(steps);
        let mut container = self.lock();
        container.status.started(&running);
        match container.save() {
            Ok(()) => Ok(running),
            Err(err) => {
                running.kill();
                running.wait()?;
                Err(err)
            }
        }
    }

    /// Forgets the process, which has ended.
    pub(super) fn ended(&self) {
        if let Some(live) = steps().all.get_mut(&self.number) {
            live.pidfd = None;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Container> {
        self.container.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        drop(steps());
        clear(&self.lock());
        steps().all.remove(&self.number);
    }
}
