//! Starts a planned container, and is its parent.

use std::fmt::{self, Display};
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Error, Result, anyhow, ensure};
use oci_spec::runtime::Spec;
use rustix::fs::{FileType, fstat};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{DumpableBehavior, Pid, WaitId, WaitIdOptions};

use super::child::{Birth, Child, Failure};
use super::network::Ahead;
use super::op::{Op, Part};
use super::plan::{CLONE_NEWNET, Mappings, Plan};
use super::seccomp;
use super::{init, last, terminal};
use crate::error::{At, Hint};
use crate::snapshot::Root;
use crate::sys;

/// What a container gets from its parent.
#[derive(Debug, Default)]
pub struct Io {
    /// Its standard input, instead of ours.
    pub stdin: Option<OwnedFd>,
    /// Its standard output and standard error, instead of ours.
    pub output: Option<OwnedFd>,
    /// Its root, mounted nowhere yet, if whoever planned it has made that mount already.
    pub root: Option<OwnedFd>,
    /// The version 2 cgroup that it is born in.
    pub cgroup: Option<OwnedFd>,
    /// A network namespace that was made ahead, for a container that wants one of its own.
    pub network: Option<Ahead>,
}

/// A container's first process, started.
#[derive(Debug)]
pub struct Running {
    /// Its id on the host.
    pub pid: Pid,
    /// Becomes readable when it ends.
    pub pidfd: OwnedFd,
    /// The other end of its terminal, if it has one.
    pub terminal: Option<OwnedFd>,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// With this status.
    Exited(i32),
    /// By this signal.
    Killed(i32),
}

/// A command that was not there or could not be executed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CannotRun {
    /// Its name.
    pub command: String,
    /// Why.
    pub errno: Errno,
}

impl CannotRun {
    /// Returns the exit status of it, as env(1) has it: 127 if there is no such file, else 126.
    pub fn status(&self) -> u8 {
        if self.errno == Errno::NOENT { 127 } else { 126 }
    }
}

impl Display for CannotRun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let errno = std::io::Error::from(self.errno);
        match self.command.is_empty() {
            true => write!(f, "\"\": cannot run: {errno}"),
            false => write!(f, "{}: cannot run: {errno}", self.command),
        }
    }
}

impl std::error::Error for CannotRun {}

/// Starts the container of `plan`; returns when its command runs, or with what kept it from that.
pub fn start(plan: &Plan, spec: &Spec, io: Io) -> Result<Running> {
    let seccomp = spec.linux().as_ref().and_then(|linux| linux.seccomp().as_ref());
    let filter = seccomp.map(seccomp::filter).transpose().context("linux.seccomp")?;
    let wants_terminal = plan.ops.iter().any(|op| matches!(op, Op::Terminal { .. }));

    if !wants_terminal {
        refuse_directories(&io)?;
    }

    let init = plan.ops.iter().any(|op| matches!(op, Op::Guard { init: true }));
    let own = match init || last::is_missing() {
        true => Some(
            last::own_program()
                .map_err(std::io::Error::from)
                .context("cannot mount our own program")?,
        ),
        false => None,
    };
    let own = own.map(|own| (own, if init { init::INIT } else { init::EXEC }));

    let (reported, report) = pipe_with(PipeFlags::CLOEXEC)?;
    let (mapped, mapping) = match &plan.mappings {
        Some(_) => pipe_with(PipeFlags::CLOEXEC).map(|(read, write)| (Some(read), Some(write)))?,
        None => (None, None),
    };
    let (ours, theirs) = match wants_terminal {
        true => {
            let (ours, theirs) = rustix::net::socketpair(
                rustix::net::AddressFamily::UNIX,
                rustix::net::SocketType::STREAM,
                rustix::net::SocketFlags::CLOEXEC,
                None,
            )?;
            (Some(ours), Some(theirs))
        }
        false => (None, None),
    };

    // One that belongs to a user namespace is made in it.
    let wanted = plan.namespaces & CLONE_NEWNET != 0 && plan.mappings.is_none();
    // Waited for in any case: no process is made beside its thread.
    let network = io.network.and_then(Ahead::finish).filter(|_| wanted);
    let birth = Birth {
        plan,
        filter: filter.as_ref(),
        stdin: io.stdin.as_ref(),
        output: io.output.as_ref(),
        report: &report,
        mapped: mapped.as_ref(),
        root: io.root.as_ref(),
        network: network.as_ref(),
        own: own.as_ref().map(|(own, role)| (own, *role)),
        terminal: theirs.as_ref(),
        parents: [Some(&reported), mapping.as_ref(), ours.as_ref()],
    };
    let (pid, pidfd) = clone(birth, io.cgroup.as_ref())
        .context("cannot make the namespaces")
        .hint(|| namespaces_hint(plan))?;
    drop((report, mapped, theirs, own, network, io.stdin, io.output, io.root, io.cgroup));
    let mut running = Running { pid, pidfd, terminal: None };

    let maps = match (&plan.mappings, mapping) {
        (Some(mappings), Some(mapping)) => {
            let written = write_mappings(pid, mappings);
            drop(mapping);
            written
        }
        _ => Ok(()),
    };
    if let Err(err) = maps {
        running.kill();
        running.wait()?;
        return Err(err);
    }
    let mut record = [0; 8];
    let length = rustix::io::retry_on_intr(|| rustix::io::read(&reported, &mut record))?;
    match length {
        0 => {}
        8 => {
            running.wait()?;
            return Err(failure(plan, record));
        }
        _ => {
            running.kill();
            running.wait()?;
            return Err(anyhow!("the container's first process ended in the middle of a report"));
        }
    }
    if let Some(ours) = ours {
        // It was killed before it became the command; how shows in its status.
        running.terminal = terminal::receive(ours).ok();
    }
    Ok(running)
}

/// Refuses a directory as a standard stream: whatever the container's root is, `/proc/self/fd/0/..` is on the
/// host, as the descriptor of CVE-2024-21626 was.
fn refuse_directories(io: &Io) -> Result<()> {
    let output = io.output.as_ref().map(AsFd::as_fd);
    let streams = [
        ("standard input", io.stdin.as_ref().map_or(rustix::stdio::stdin(), AsFd::as_fd)),
        ("standard output", output.unwrap_or(rustix::stdio::stdout())),
        ("standard error", output.unwrap_or(rustix::stdio::stderr())),
    ];
    for (name, fd) in streams {
        // One that is closed is nothing at all.
        let directory = fstat(fd)
            .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Directory);
        ensure!(
            !directory,
            "{name} is a directory, through which the container would see the host"
        );
    }
    Ok(())
}

/// Makes the child, in new namespaces; returns it and its pidfd.
fn clone(birth: Birth, cgroup: Option<&OwnedFd>) -> std::io::Result<(Pid, OwnedFd)> {
    let mut namespaces = birth.plan.namespaces;
    if birth.network.is_some() {
        namespaces &= !CLONE_NEWNET;
    }
    // One that waits for its mappings needs us at the same time, and clone(2) knows no cgroup.
    if birth.mapped.is_some() || cgroup.is_some() {
        let cgroup = cgroup.map(AsFd::as_fd);
        return match sys::clone3(namespaces, cgroup)? {
            Some(made) => Ok(made),
            None => sys::exit(live(birth)),
        };
    }
    // What may look into our memory is one thing for all children that are on their way.
    static ON_ITS_WAY: Mutex<()> = Mutex::new(());
    let _alone = ON_ITS_WAY.lock().unwrap_or_else(PoisonError::into_inner);
    let dumpable = rustix::process::dumpable_behavior()?;
    let made = sys::clone_in_place(namespaces, &mut || live(birth));
    // That nobody may look into the child holds for its memory, which is ours.
    if dumpable == DumpableBehavior::Dumpable {
        rustix::process::set_dumpable_behavior(dumpable)?;
    }
    made
}

/// Becomes the container's process; returns the exit status if that failed.
fn live(birth: Birth) -> i32 {
    // Nothing above knows that this is a child, so a panic may not reach it.
    let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        sys::reset_signals();
        birth.parents.into_iter().flatten().for_each(sys::close_copy);
        if let Some(stdin) = birth.stdin {
            let _ = rustix::stdio::dup2_stdin(stdin);
        }
        if let Some(output) = birth.output {
            let _ = rustix::stdio::dup2_stdout(output);
            let _ = rustix::stdio::dup2_stderr(output);
        }
        sys::close_on_exec_from(3);
        let mut child = Child::new(birth);
        let (number, Failure { part, errno }) = child.run();
        let _ = rustix::io::write(child.report(), &record(number, part, errno));
    }));
    if caught.is_ok() { 125 } else { 124 }
}

/// A failure as the child reports it: the errno, the number of the operation, its part.
fn record(number: usize, part: Part, errno: Errno) -> [u8; 8] {
    let [a, b, c, d] = errno.raw_os_error().to_le_bytes();
    let [e, f] = u16::try_from(number).unwrap_or(u16::MAX).to_le_bytes();
    [a, b, c, d, e, f, part as u8, 0]
}

/// Returns the error that a report means.
fn failure(plan: &Plan, record: [u8; 8]) -> Error {
    let [a, b, c, d, e, f, part, _] = record;
    let errno = i32::from_le_bytes([a, b, c, d]);
    let last = plan.ops.len().saturating_sub(1);
    // What the last program writes is a negative errno alone.
    let (errno, number) = match errno {
        negative if negative < 0 => (-negative, last),
        errno => (errno, usize::from(u16::from_le_bytes([e, f])).min(last)),
    };
    let errno = Errno::from_raw_os_error(errno);
    match &plan.ops[number] {
        Op::Find | Op::Exec => {
            let command = plan.args[0].to_string_lossy().into_owned();
            Error::new(CannotRun { command, errno })
        }
        op => {
            let err = Error::new(std::io::Error::from(errno));
            let err = err.context(op.failure(Part::of(part), errno));
            match op {
                Op::Root { rootfs: Root::Dir(_), .. }
                    if errno == Errno::ACCESS && plan.mappings.is_some() =>
                {
                    let way_out = "root of its user namespace must be able to reach it: chmod +x the directories above it";
                    Err::<(), _>(err).hint(|| way_out.into()).unwrap_err()
                }
                _ => err,
            }
        }
    }
}

fn namespaces_hint(plan: &Plan) -> String {
    match plan.mappings {
        Some(_) => "a user namespace may be forbidden here: see user.max_user_namespaces, kernel.unprivileged_userns_clone and AppArmor".into(),
        None => "it takes root, or a user namespace".into(),
    }
}

/// Gives the user namespace of `pid` its mappings.
fn write_mappings(pid: Pid, mappings: &Mappings) -> Result<()> {
    let proc = format!("/proc/{}", pid.as_raw_nonzero());
    for (name, maps) in [("uid_map", &mappings.uids), ("gid_map", &mappings.gids)] {
        let lines: String = maps
            .iter()
            .map(|(inside, outside, count)| format!("{inside} {outside} {count}\n"))
            .collect();
        let path = format!("{proc}/{name}");
        // In one write, as user_namespaces(7) demands.
        File::options()
            .write(true)
            .open(&path)
            .and_then(|mut file| file.write_all(lines.as_bytes()))
            .at(format!("linux.{}", name.replace("_map", "Mappings")))?;
    }
    Ok(())
}

impl Running {
    /// Sends `signal` to the first process, unless it has ended.
    pub fn signal(&self, signal: i32) {
        let _ = sys::pidfd_send_signal(self.pidfd.as_fd(), signal);
    }

    /// Kills the first process, and with it the container.
    pub fn kill(&self) {
        self.signal(libc::SIGKILL);
    }

    /// Waits until the first process has ended, and collects its status.
    pub fn wait(&self) -> Result<Ended> {
        let status = rustix::io::retry_on_intr(|| {
            rustix::process::waitid(WaitId::PidFd(self.pidfd.as_fd()), WaitIdOptions::EXITED)
        })?;
        // Without NOHANG there is a status, and with EXITED alone it is one of these two.
        let status = status.context("no status")?;
        match (status.exit_status(), status.terminating_signal()) {
            (Some(status), _) => Ok(Ended::Exited(status)),
            (None, signal) => Ok(Ended::Killed(signal.unwrap_or(libc::SIGKILL))),
        }
    }
}
