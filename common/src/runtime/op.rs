//! What a container needs, as plain data: the operations that its first process does, in order.

use std::fmt::{self, Display};
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use super::capability::Sets;
use crate::snapshot::Root;

/// One step from a process of the host to a process of the container.
///
/// Every `target` is a path inside the container, without its leading slash;
/// it is resolved beneath the root directory and never joined to a string.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Waits until the user namespace has its mappings, and takes on its id 0.
    BecomeRoot,
    /// Enters its network namespace, if that was made ahead.
    Network,
    /// Enters a namespace that exists.
    Join {
        /// Which.
        kind: Kind,
        /// Its file.
        path: PathBuf,
    },
    /// Leaves the session of whoever started us, and its terminal.
    Session,
    /// Moves to the container's cgroup of a version 1 controller, by its `tasks` file, or of version 2, by `cgroup.procs`.
    JoinCgroup(PathBuf),
    /// Makes the cgroup that the process is in now the root of those it sees.
    CgroupNamespace,
    /// Sets how likely the kernel is to kill the process when memory is short.
    OomScore(i32),
    /// Makes the program that calls exec for the command one that the container cannot harm.
    Guard {
        /// It stays, as the container's init.
        init: bool,
    },
    /// Cuts every mount off from the host's.
    Private {
        /// Lets what the host mounts later show up in the container.
        slave: bool,
    },
    /// Mounts the root directory.
    Root {
        /// What it is made of.
        rootfs: Root,
        /// Device nodes on it can be opened.
        devices: bool,
        /// Lets what the host mounts in it later show up.
        slave: bool,
    },
    /// Mounts a new filesystem.
    Mount(Filesystem),
    /// Mounts a file or directory of the host.
    Bind(Bind),
    /// Makes device nodes.
    Devices {
        /// Which.
        nodes: Vec<Node>,
        /// A user namespace cannot make them: it borrows the host's.
        from_host: bool,
    },
    /// Makes a symbolic link, unless something has its name.
    Symlink {
        /// What it says.
        text: &'static str,
        /// Where it is.
        target: PathBuf,
    },
    /// Opens a terminal in the container's devpts, hands its other end over, and makes it the process's.
    Terminal {
        /// Mounts it at `dev/console` as well.
        console: bool,
        /// Rows and columns.
        size: Option<(u16, u16)>,
        /// To whom it belongs.
        uid: u32,
    },
    /// Writes a parameter of the kernel that belongs to one of the container's namespaces.
    Sysctl {
        /// Its path below `/proc/sys`.
        path: PathBuf,
        /// What it becomes.
        value: String,
    },
    /// Hides a file or directory behind an empty one.
    Mask(PathBuf),
    /// Makes a path and all below it read-only.
    ReadOnly(PathBuf),
    /// Makes the mount at a path read-only.
    Seal(PathBuf),
    /// Makes a directory if it is missing.
    Directory(PathBuf),
    /// Names the machine.
    Hostname(String),
    /// Names the machine's NIS domain.
    Domainname(String),
    /// Takes the loopback interface up.
    Loopback,
    /// Makes the mounted root the root directory, and detaches the host's.
    Pivot,
    /// Sets a resource limit.
    Limit(Limit),
    /// Starts an empty session keyring.
    Keyring,
    /// Changes to the working directory.
    Chdir(PathBuf),
    /// Lets the user open /dev/stdout and its like, where they are pipes.
    OwnPipes(u32),
    /// Becomes the user, with its groups, and takes capabilities out of what an exec could give.
    User {
        /// The user.
        uid: u32,
        /// The group.
        gid: u32,
        /// The other groups.
        groups: Vec<u32>,
        /// The capabilities that stay in the bounding set.
        bounding: u64,
    },
    /// Sets the other sets of capabilities.
    Capabilities(Sets),
    /// Dies when the supervisor does.
    DieWithParent,
    /// Sets what is taken from the mode of new files.
    Umask(u32),
    /// Finds the command, as the user and in the working directory.
    Find,
    /// Gives up ever gaining privileges by exec.
    NoNewPrivileges,
    /// Installs the seccomp filter, the last thing before the command.
    Seccomp,
    /// Becomes the command.
    Exec,
}

/// A namespace that can be entered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Network.
    Network,
    /// System V IPC and message queues.
    Ipc,
    /// Host and domain name.
    Uts,
    /// Control groups.
    Cgroup,
}

/// A new filesystem.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filesystem {
    /// Its type: `proc`, `tmpfs`, ...
    pub kind: String,
    /// What /proc/mounts shows.
    pub source: String,
    /// Where.
    pub target: PathBuf,
    /// Its MOUNT_ATTR_ bits.
    pub attributes: u32,
    /// Its own parameters.
    pub parameters: Vec<(String, Option<String>)>,
    /// Does without it where it cannot be mounted.
    pub optional: bool,
}

/// A file or directory of the host, in the container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bind {
    /// Its path on the host.
    pub source: PathBuf,
    /// Where.
    pub target: PathBuf,
    /// With the mounts below it.
    pub recursive: bool,
    /// The MOUNT_ATTR_ bits to set and to clear; below it as well if `recursive`.
    pub set: u32,
    /// See `set`.
    pub clear: u32,
    /// Lets what the host mounts in it later show up.
    pub slave: bool,
    /// Device nodes on it can be opened, beyond those that every container has.
    pub devices: bool,
}

/// A device node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Where.
    pub target: PathBuf,
    /// S_IFCHR, S_IFBLK or S_IFIFO, and the permissions.
    pub mode: u32,
    /// Its number.
    pub major: u32,
    /// Its number.
    pub minor: u32,
    /// Its owner.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
}

/// A resource limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// Its RLIMIT_ number.
    pub resource: u32,
    /// What the process has.
    pub soft: u64,
    /// The most that it can give itself.
    pub hard: u64,
}

/// What an operation failed at, where that is not the operation as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Part {
    /// The operation.
    Whole,
    /// What is to be mounted.
    Source,
    /// The place in the container.
    Target,
    /// The path leaves the container.
    Outside,
}

impl Part {
    /// Returns the part of this number.
    pub fn of(number: u8) -> Part {
        match number {
            1 => Part::Source,
            2 => Part::Target,
            3 => Part::Outside,
            _ => Part::Whole,
        }
    }
}

impl Op {
    /// Returns what went wrong, for the message, when the operation failed at `part`.
    pub fn failure(&self, part: Part, errno: Errno) -> String {
        let inside = |path: &Path| format!("/{}", path.display());
        let target = match self {
            Op::Mount(Filesystem { target, .. })
            | Op::Bind(Bind { target, .. })
            | Op::Symlink { target, .. }
            | Op::Mask(target)
            | Op::ReadOnly(target)
            | Op::Seal(target)
            | Op::Directory(target) => Some(inside(target)),
            Op::Chdir(path) => Some(path.display().to_string()),
            _ => None,
        };
        match (self, part, target) {
            (Op::Bind(bind), Part::Source, _) => bind.source.display().to_string(),
            (Op::Devices { .. }, Part::Source, _) => "no such device on this host".into(),
            (Op::Pivot, Part::Outside, _) => "the host's root stays in reach".into(),
            (_, Part::Outside, Some(target)) => format!("{target}: outside the container"),
            (_, Part::Target, Some(target)) if errno == Errno::LOOP => {
                format!("{target}: it is a symbolic link, where the container needs a directory")
            }
            (_, Part::Target, Some(target)) => {
                format!("{target}: cannot be a mount point in the container")
            }
            _ => format!("cannot {self}"),
        }
    }
}

impl Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inside = |path: &Path| format!("/{}", path.display());
        match self {
            Op::BecomeRoot => write!(f, "become root in the user namespace"),
            Op::Network => write!(f, "enter the network namespace"),
            Op::Join { kind, path } => {
                let kind = format!("{kind:?}").to_lowercase();
                write!(f, "enter the {kind} namespace {}", path.display())
            }
            Op::Session => write!(f, "start a session"),
            Op::JoinCgroup(tasks) => write!(f, "enter the cgroup {}", tasks.display()),
            Op::CgroupNamespace => write!(f, "make a cgroup namespace"),
            Op::OomScore(score) => write!(f, "set oom_score_adj to {score}"),
            Op::Guard { .. } => write!(f, "seal the last program"),
            Op::Private { slave: false } => write!(f, "make all mounts private"),
            Op::Private { slave: true } => write!(f, "make all mounts slaves"),
            Op::Root { rootfs: Root::Dir(dir), .. } => {
                write!(f, "mount {} as the root", dir.display())
            }
            Op::Root { rootfs: Root::Overlay(_), .. } => write!(f, "mount the image as the root"),
            Op::Mount(fs) => write!(f, "mount {} at {}", fs.kind, inside(&fs.target)),
            Op::Bind(bind) => {
                write!(f, "mount {} at {}", bind.source.display(), inside(&bind.target))
            }
            Op::Devices { .. } => write!(f, "make the devices"),
            Op::Symlink { text, target } => write!(f, "link {} to {text}", inside(target)),
            Op::Terminal { .. } => write!(f, "open a terminal"),
            Op::Sysctl { path, value } => {
                write!(f, "set the sysctl {} to {value:?}", path.display())
            }
            Op::Mask(path) => write!(f, "mask {}", inside(path)),
            Op::ReadOnly(path) | Op::Seal(path) => {
                write!(f, "make {} read-only", inside(path))
            }
            Op::Directory(path) => write!(f, "make the directory {}", inside(path)),
            Op::Hostname(name) => write!(f, "set the host name to {name:?}"),
            Op::Domainname(name) => write!(f, "set the domain name to {name:?}"),
            Op::Loopback => write!(f, "take the loopback interface up"),
            Op::Pivot => write!(f, "change the root"),
            Op::Limit(limit) => write!(f, "set resource limit {}", limit.resource),
            Op::Keyring => write!(f, "start a session keyring"),
            Op::Chdir(path) => write!(f, "change to {}", path.display()),
            Op::User { uid, gid, .. } => write!(f, "become user {uid}:{gid}"),
            Op::OwnPipes(uid) => write!(f, "give the pipes to user {uid}"),
            Op::Capabilities(_) => write!(f, "set the capabilities"),
            Op::DieWithParent => write!(f, "tie its life to the supervisor's"),
            Op::Umask(mask) => write!(f, "set the umask to {mask:04o}"),
            Op::Find | Op::Exec => write!(f, "run the command"),
            Op::NoNewPrivileges => write!(f, "set no_new_privs"),
            Op::Seccomp => write!(f, "install the seccomp filter"),
        }
    }
}
