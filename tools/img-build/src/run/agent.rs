//! `RUN --mount=type=ssh`: a socket of the step's own, and who passes on what goes through it.
//!
//! The host's socket is its user's, who may be nobody in the step; and whose it is there is what
//! the mount says. So there is another one, and a thread that connects the two until the step has
//! ended: then it is gone with all that has come.

use std::fs::{self, Permissions};
use std::io::{self, Read};
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};
use common::error::At;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SendFlags, SocketAddrUnix, SocketFlags, SocketType, connect, send, socket_with,
};

use super::mounts::by_descriptor;
use crate::dockerfile::mount::Mount;

/// The most connections at a time. Others wait.
const MOST: usize = 32;
/// The most bytes on the way in each direction.
const ROOM: usize = 16 << 10;
/// Between two tries of what cannot be.
const PAUSE: Duration = Duration::from_millis(20);

/// A socket that leads to an agent as long as this value is.
#[derive(Debug)]
pub(super) struct Agent {
    /// When it is closed, the thread ends.
    stop: Option<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Agent {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Agent {
    /// Makes the socket `name` in `dir`, with the owner and the mode that `mount` says: by default root's and 0600.
    pub(super) fn listen(socket: &Path, dir: &Path, name: &str, mount: &Mount) -> Result<Agent> {
        // A path of a socket is short: unix(7). One of a descriptor always is.
        let open = |path: &Path, flags: OFlags| {
            openat(CWD, path, flags | OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).at(path)
        };
        let (agent, above) = (open(socket, OFlags::empty())?, open(dir, OFlags::DIRECTORY)?);
        let path = dir.join(name);
        let listener = UnixListener::bind(by_descriptor(&above).join(name)).at(&path)?;
        listener.set_nonblocking(true)?;
        let (uid, gid) = (mount.uid.unwrap_or(0), mount.gid.unwrap_or(0));
        chown(&path, Some(uid), Some(gid))
            .with_context(|| format!("cannot give a socket to {uid}:{gid}"))?;
        let mode = Permissions::from_mode(mount.mode.unwrap_or(0o600) & 0o7777);
        fs::set_permissions(&path, mode).at(&path)?;
        let (stopped, stop) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        let pass = move || pass(&listener, &agent, &stopped);
        let thread = std::thread::Builder::new().name("ssh".into()).spawn(pass)?;
        Ok(Agent { stop: Some(stop), thread: Some(thread) })
    }
}

/// Connects who comes with the agent, until the other end of `stop` is closed.
fn pass(listener: &UnixListener, agent: &OwnedFd, stop: &OwnedFd) {
    let mut all: Vec<Connection> = Vec::new();
    loop {
        let wait = |fd, flags| PollFd::from_borrowed_fd(fd, flags);
        let mut fds = vec![wait(stop.as_fd(), PollFlags::IN)];
        if all.len() < MOST {
            fds.push(wait(listener.as_fd(), PollFlags::IN));
        }
        for connection in &all {
            let waits = [0, 1].map(|end| (connection.ends[end].as_fd(), connection.waits(end)));
            // One that waits for nothing would be told that it is hung up, again and again.
            fds.extend(
                waits
                    .into_iter()
                    .filter(|(_, flags)| !flags.is_empty())
                    .map(|(fd, flags)| wait(fd, flags)),
            );
        }
        match poll(&mut fds, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(_) => return,
        }
        if !fds[0].revents().is_empty() {
            return;
        }
        all.retain_mut(|connection| connection.go_on().unwrap_or(false));
        if all.len() < MOST {
            match listener.accept() {
                // If nobody answers any more, who comes is hung up on.
                Ok((theirs, _)) => all.extend(Connection::new(theirs, agent)),
                Err(err) if is_later(&err) => {}
                // There is no descriptor left, say, and it would be told again at once.
                Err(_) => std::thread::sleep(PAUSE),
            }
        }
    }
}

/// Two ends, and what is on its way between them.
struct Connection {
    ends: [UnixStream; 2],
    /// What is to be written to each.
    buffers: [Vec<u8>; 2],
    /// Whether each may still say something.
    open: [bool; 2],
}

impl Connection {
    /// Connects who has come with the agent, and waits for neither.
    fn new(theirs: UnixStream, agent: &OwnedFd) -> io::Result<Connection> {
        theirs.set_nonblocking(true)?;
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let ours = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        connect(&ours, &SocketAddrUnix::new(by_descriptor(agent))?)?;
        let (ends, buffers) = ([theirs, ours.into()], [Vec::new(), Vec::new()]);
        Ok(Connection { ends, buffers, open: [true, true] })
    }

    /// Returns whether something is to be read from an end: not before what was is written.
    fn reads(&self, end: usize) -> bool {
        self.open[end] && self.buffers[1 - end].is_empty()
    }

    fn waits(&self, end: usize) -> PollFlags {
        let mut flags = PollFlags::empty();
        flags.set(PollFlags::IN, self.reads(end));
        flags.set(PollFlags::OUT, !self.buffers[end].is_empty());
        flags
    }

    /// Reads and writes what can be; returns whether there may be more.
    fn go_on(&mut self) -> io::Result<bool> {
        for end in [0, 1] {
            if self.reads(end) {
                let mut bytes = [0; ROOM];
                match (&self.ends[end]).read(&mut bytes) {
                    Ok(0) => {
                        self.open[end] = false;
                        self.ends[1 - end].shutdown(Shutdown::Write)?;
                    }
                    Ok(n) => self.buffers[1 - end].extend(&bytes[..n]),
                    Err(err) if is_later(&err) => {}
                    Err(err) => return Err(err),
                }
            }
        }
        for (end, buffer) in self.ends.iter().zip(&mut self.buffers) {
            if !buffer.is_empty() {
                match send(end, buffer, SendFlags::NOSIGNAL).map_err(io::Error::from) {
                    Ok(n) => drop(buffer.drain(..n)),
                    Err(err) if is_later(&err) => {}
                    Err(err) => return Err(err),
                }
            }
        }
        Ok(self.open != [false; 2] || self.buffers.iter().any(|buffer| !buffer.is_empty()))
    }
}

fn is_later(err: &io::Error) -> bool {
    matches!(err.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Write;
    use std::os::unix::fs::MetadataExt;

    use super::*;
    use crate::dockerfile::mount::MountOption;

    fn mount(text: &str) -> Mount {
        MountOption::new(text.into()).unwrap().read(&mut |value| Ok(value.into())).unwrap()
    }

    /// Answers each connection with what it has said, once that is all.
    fn echo(path: &Path) {
        let listener = UnixListener::bind(path).unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                std::thread::spawn(move || {
                    let (mut stream, mut said) = (stream.unwrap(), Vec::new());
                    stream.read_to_end(&mut said).unwrap();
                    let _ = stream.write_all(&said);
                });
            }
        });
    }

    #[test]
    fn what_is_said_comes_back_and_nothing_stays() {
        let dir = tempfile::tempdir().unwrap();
        // Longer than a path of a socket may be.
        let long = dir.path().join("x".repeat(120));
        fs::create_dir(&long).unwrap();
        let above = File::open(dir.path()).unwrap();
        echo(&by_descriptor(&above.into()).join("agent"));
        fs::rename(dir.path().join("agent"), long.join("agent")).unwrap();
        let own = fs::metadata(dir.path()).unwrap();
        let text = format!("type=ssh,mode=0640,uid={},gid={}", own.uid(), own.gid());
        let agent = Agent::listen(&long.join("agent"), &long, "s", &mount(&text)).unwrap();
        assert_eq!(fs::metadata(long.join("s")).unwrap().mode() & 0o7777, 0o640);
        fs::rename(long.join("s"), dir.path().join("s")).unwrap();
        let connect = || UnixStream::connect(dir.path().join("s")).unwrap();

        // More than those that are passed on at a time, each with more than there is room for.
        std::thread::scope(|scope| {
            for n in 0..MOST + 10 {
                scope.spawn(move || {
                    let mut stream = connect();
                    let text: Vec<u8> = (0..300_000).map(|at| (at % 251 + n) as u8).collect();
                    stream.write_all(&text).unwrap();
                    stream.shutdown(Shutdown::Write).unwrap();
                    let mut heard = Vec::new();
                    stream.read_to_end(&mut heard).unwrap();
                    assert!(heard == text, "{n}");
                });
            }
        });
        // Some hang up, some say nothing, some never listen.
        drop(connect());
        let mut silent = connect();
        let mut deaf = connect();
        deaf.set_nonblocking(true).unwrap();
        while deaf.write(&[0; 4096]).is_ok() {}
        drop(agent);
        assert!(!matches!(silent.read(&mut [0; 1]), Ok(1)));
    }

    #[test]
    fn an_agent_that_does_not_answer_is_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(dir.path().join("agent")).unwrap();
        // There is room for one who waits.
        rustix::net::listen(&listener, 0).unwrap();
        let own = fs::metadata(dir.path()).unwrap();
        let mount = mount(&format!("type=ssh,uid={},gid={}", own.uid(), own.gid()));
        let agent = Agent::listen(&dir.path().join("agent"), dir.path(), "s", &mount).unwrap();
        let mut all: Vec<UnixStream> =
            (0..4).map(|_| UnixStream::connect(dir.path().join("s")).unwrap()).collect();
        // The last is hung up on, since the agent takes nobody; the first waits until the end.
        assert!(!matches!(all[3].read(&mut [0; 1]), Ok(1)));
        drop(agent);
        assert!(!matches!(all[0].read(&mut [0; 1]), Ok(1)));
    }
}
