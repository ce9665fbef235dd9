//! The loop that does the operations, in the process that becomes the command.
//!
//! It runs between clone and exec: what it says, it says by the number of the
//! operation and an errno, eight bytes over a pipe that closes on exec. It may
//! run in its parent's memory, so it changes nothing there that the parent uses afterwards.

use std::borrow::Cow;
use std::ffi::{CStr, CString, OsStr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, OFlags, ResolveFlags, Uid, chownat, fchown, fstat, fstatfs,
    makedev, mknodat, openat, openat2, symlinkat,
};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags,
    OpenTreeFlags, UnmountFlags, fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsmount,
    fsopen, mount_change, move_mount, open_tree, unmount,
};
use rustix::process::{self, DumpableBehavior, Signal};
use rustix::thread::{self, CapabilitySet, CapabilitySets};

use super::beneath::{self, Shape};
use super::capability::Sets;
use super::mount::linux_attr;
use super::op::{Bind, Filesystem, Kind, Node, Op, Part};
use super::plan::Plan;
use super::seccomp::Filter;
use super::{last, terminal};
use crate::snapshot::Root;
use crate::sys;

/// What an operation failed at, and how.
pub(super) struct Failure {
    pub part: Part,
    pub errno: Errno,
}

impl From<Errno> for Failure {
    fn from(errno: Errno) -> Failure {
        Failure { part: Part::Whole, errno }
    }
}

type Result<T> = std::result::Result<T, Failure>;

/// Says which part of an operation an error is about.
trait In<T> {
    fn part(self, part: Part) -> Result<T>;
}

impl<T> In<T> for rustix::io::Result<T> {
    fn part(self, part: Part) -> Result<T> {
        self.map_err(|errno| Failure { part, errno })
    }
}

/// The magic numbers of statfs(2).
const PROC_SUPER_MAGIC: i64 = 0x9fa0;
const PIPEFS_MAGIC: i64 = 0x5049_5045;

/// What the child was born with. All of it is its parent's.
#[derive(Clone, Copy)]
pub(super) struct Birth<'a> {
    pub plan: &'a Plan,
    pub filter: Option<&'a Filter>,
    /// Its standard input, if not the parent's.
    pub stdin: Option<&'a OwnedFd>,
    /// Its standard output and error, if not the parent's.
    pub output: Option<&'a OwnedFd>,
    /// Where a failure is reported to.
    pub report: &'a OwnedFd,
    /// Read to its end once the user namespace has its mappings.
    pub mapped: Option<&'a OwnedFd>,
    /// Its network namespace, if that is made already, and the loopback interface in it is up.
    pub network: Option<&'a OwnedFd>,
    /// The root, if it is made already.
    pub root: Option<&'a OwnedFd>,
    /// Our own program, read-only, and the role that it plays.
    pub own: Option<(&'a OwnedFd, &'static CStr)>,
    /// Where the terminal is sent to.
    pub terminal: Option<&'a OwnedFd>,
    /// What is the parent's alone.
    pub parents: [Option<&'a OwnedFd>; 3],
}

/// The process, on its way.
pub(super) struct Child<'a> {
    birth: Birth<'a>,
    root: Option<OwnedFd>,
    /// Mounts that are private become slaves of the host's unless told otherwise.
    slave: bool,
    /// An empty file and an empty directory, once they are mounted somewhere.
    empty_file: Option<OwnedFd>,
    empty_dir: Option<OwnedFd>,
    /// The directory that something was last made in.
    parent: Option<(&'a Path, OwnedFd)>,
    last: Option<OwnedFd>,
    command: Option<CString>,
}

impl<'a> Child<'a> {
    pub(super) fn new(birth: Birth<'a>) -> Child<'a> {
        Child {
            birth,
            root: None,
            slave: false,
            empty_file: None,
            empty_dir: None,
            parent: None,
            last: None,
            command: None,
        }
    }

    /// Does the operations; returns the number of the one that failed.
    pub(super) fn run(&mut self) -> (usize, Failure) {
        let plan = self.birth.plan;
        rustix::process::umask(Mode::empty());
        for (number, op) in plan.ops.iter().enumerate() {
            if let Err(failure) = self.perform(op) {
                return (number, failure);
            }
        }
        (plan.ops.len().saturating_sub(1), Errno::INVAL.into())
    }

    /// Returns where a failure is reported to.
    pub(super) fn report(&self) -> &OwnedFd {
        self.birth.report
    }

    fn perform(&mut self, op: &'a Op) -> Result<()> {
        match op {
            Op::BecomeRoot => self.become_root(),
            Op::Network => match self.birth.network {
                Some(network) => enter(network, Kind::Network),
                None => Ok(()), // it was born in its own
            },
            Op::Join { kind, path } => join(*kind, path),
            Op::Session => Ok(process::setsid().map(drop)?),
            Op::JoinCgroup(tasks) => write_file(CWD, tasks, b"0"),
            Op::CgroupNamespace => unshare_cgroup(),
            Op::OomScore(score) => oom_score(*score),
            Op::Guard { .. } => {
                if self.birth.own.is_none() {
                    self.last = last::program(self.birth.report)?;
                }
                Ok(())
            }
            Op::Private { slave } => self.private(*slave),
            Op::Root { rootfs, devices, slave } => self.mount_root(rootfs, *devices, *slave),
            Op::Mount(filesystem) => self.mount(filesystem),
            Op::Bind(bind) => self.bind(bind),
            Op::Devices { nodes, from_host } => self.devices(nodes, *from_host),
            Op::Symlink { text, target } => self.symlink(text, target),
            Op::Terminal { console, size, uid } => self.terminal(*console, *size, *uid),
            Op::Sysctl { path, value } => self.sysctl(path, value),
            Op::Mask(path) => self.mask(path),
            Op::ReadOnly(path) => self.read_only(path),
            Op::Seal(path) => self.seal(path),
            Op::Directory(path) => {
                beneath::open_or_make(self.root()?, path, Shape::Directory).part(Part::Target)?;
                Ok(())
            }
            Op::Hostname(name) => Ok(rustix::system::sethostname(name.as_bytes())?),
            Op::Domainname(name) => Ok(rustix::system::setdomainname(name.as_bytes())?),
            Op::Loopback => match self.birth.network {
                Some(_) => Ok(()),
                None => Ok(sys::loopback_up()?),
            },
            Op::Pivot => self.pivot(),
            Op::Limit(limit) => Ok(sys::set_limit(limit.resource, limit.soft, limit.hard)?),
            Op::Keyring => match sys::join_session_keyring() {
                // A kernel without keys has none to hide.
                Ok(()) | Err(Errno::NOSYS) => Ok(()),
                Err(errno) => Err(errno.into()),
            },
            Op::Chdir(path) => chdir(path),
            Op::OwnPipes(uid) => own_pipes(*uid),
            Op::User { uid, gid, groups, bounding } => user(*uid, *gid, groups, *bounding),
            Op::Capabilities(sets) => capabilities(sets),
            Op::DieWithParent => self.die_with_parent(),
            Op::Umask(mask) => {
                process::umask(Mode::from_raw_mode(*mask));
                Ok(())
            }
            Op::Find => self.find(),
            Op::NoNewPrivileges => Ok(thread::set_no_new_privs(true)?),
            Op::Seccomp => match self.birth.filter {
                Some(filter) => sys::seccomp_install(&filter.program, filter.flags)
                    .map_err(|err| from_io(&err).into()),
                None => Err(Errno::INVAL.into()),
            },
            Op::Exec => Err(self.exec().into()),
        }
    }

    fn root(&self) -> Result<BorrowedFd<'_>> {
        // Every plan mounts the root before it uses it.
        Ok(self.root.as_ref().ok_or(Errno::INVAL)?.as_fd())
    }

    fn become_root(&mut self) -> Result<()> {
        if let Some(mapped) = self.birth.mapped {
            let mut byte = [0];
            rustix::io::retry_on_intr(|| rustix::io::read(mapped, &mut byte))?;
        }
        thread::set_thread_res_gid(Gid::ROOT, Gid::ROOT, Gid::ROOT)?;
        thread::set_thread_res_uid(Uid::ROOT, Uid::ROOT, Uid::ROOT)?;
        Ok(())
    }

    fn private(&mut self, slave: bool) -> Result<()> {
        let kind = match slave {
            true => MountPropagationFlags::DOWNSTREAM,
            false => MountPropagationFlags::PRIVATE,
        };
        self.slave = slave;
        Ok(mount_change("/", kind | MountPropagationFlags::REC)?)
    }

    /// Mounts the root over the host's: nobody sees it there, since nothing looks up `/` itself, until the pivot.
    fn mount_root(&mut self, rootfs: &Root, devices: bool, slave: bool) -> Result<()> {
        let nodev = if devices { 0 } else { linux_attr::NODEV };
        let mount = match (self.birth.root, rootfs) {
            (Some(mount), _) => rustix::io::fcntl_dupfd_cloexec(mount, 3)?,
            (None, Root::Dir(dir)) => {
                let flags = OpenTreeFlags::OPEN_TREE_CLONE
                    | OpenTreeFlags::OPEN_TREE_CLOEXEC
                    | OpenTreeFlags::AT_RECURSIVE;
                open_tree(CWD, dir, flags)?
            }
            (None, Root::Overlay(overlay)) => {
                overlay.mount(MountAttrFlags::empty()).map_err(|err| errno_of(&err))?
            }
        };
        let propagation = if self.slave && !slave { libc::MS_PRIVATE } else { 0 };
        if nodev != 0 || propagation != 0 {
            sys::mount_setattr(mount.as_fd(), true, nodev, 0, propagation)?;
        }
        attach(&mount, CWD, "/")?;
        self.root = Some(mount);
        Ok(())
    }

    fn mount(&mut self, filesystem: &Filesystem) -> Result<()> {
        let filesystem = self.as_covered(filesystem);
        let mount = match make(&filesystem) {
            Err(_) if filesystem.optional => return Ok(()),
            result => result?,
        };
        let target = beneath::open_or_make(self.root()?, &filesystem.target, Shape::Directory)
            .part(Part::Target)?;
        attach(&mount, &target, "").part(Part::Target)
    }

    /// Gives a tmpfs the mode of the directory that it covers, unless it has one: what only root could enter, as
    /// /root, stays so. As runc and crun do it; a directory that is made for it becomes everybody's.
    fn as_covered<'f>(&self, filesystem: &'f Filesystem) -> Cow<'f, Filesystem> {
        let given = filesystem.parameters.iter().any(|(key, _)| key == "mode");
        let covered = || {
            let there = beneath::open(self.root.as_ref()?, &filesystem.target).ok()?;
            Some(fstat(&there).ok()?.st_mode & 0o7777)
        };
        let mut filesystem = Cow::Borrowed(filesystem);
        if filesystem.kind == "tmpfs"
            && !given
            && let Some(mode) = covered()
        {
            filesystem.to_mut().parameters.push(("mode".into(), Some(format!("{mode:o}"))));
        }
        filesystem
    }

    fn bind(&mut self, bind: &Bind) -> Result<()> {
        let recursive =
            if bind.recursive { OpenTreeFlags::AT_RECURSIVE } else { OpenTreeFlags::empty() };
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | recursive;
        let tree = open_tree(CWD, &bind.source, flags).part(Part::Source)?;
        let stat = fstat(&tree).part(Part::Source)?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        let number = (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
        let harmless = kind == FileType::CharacterDevice
            && (matches!(number, (1, 3 | 5 | 7 | 8 | 9) | (5, 0))
                || self.birth.plan.allowed.contains(&number));
        let nodev = if bind.devices || harmless { 0 } else { linux_attr::NODEV };
        let set = bind.set | nodev;
        let mut clear = bind.clear & !nodev;
        if (set | clear) & linux_attr::ATIME != 0 {
            clear |= linux_attr::ATIME;
        }
        let propagation = if self.slave && !bind.slave { libc::MS_PRIVATE } else { 0 };
        if set != 0 || clear != 0 || propagation != 0 {
            sys::mount_setattr(tree.as_fd(), bind.recursive, set, clear, propagation)
                .part(Part::Source)?;
        }
        let shape = if kind == FileType::Directory { Shape::Directory } else { Shape::File };
        let target = beneath::open_or_make(self.root()?, &bind.target, shape).part(Part::Target)?;
        attach(&tree, &target, "").part(Part::Target)
    }

    /// Makes the nodes in a filesystem of their own, the only one where nodes can be opened, and mounts each where it belongs.
    ///
    /// So whoever may mknod in the container gets no device by it, and may
    /// do to these nodes what it likes: they are not the host's.
    fn devices(&mut self, nodes: &'a [Node], from_host: bool) -> Result<()> {
        let trees = match from_host {
            true => borrow_nodes(nodes)?,
            false => make_nodes(nodes)?,
        };
        for (node, tree) in nodes.iter().zip(trees) {
            let target = self.make_file(&node.target).part(Part::Target)?;
            attach(&tree, &target, "").part(Part::Target)?;
        }
        self.own_null().part(Part::Target)
    }

    /// Puts the container's own null device wherever a standard stream is the host's.
    ///
    /// Through a descriptor whoever is root here could change the mode of the host's, for everybody there.
    fn own_null(&mut self) -> rustix::io::Result<()> {
        let mut own = None;
        for fd in [rustix::stdio::stdin(), rustix::stdio::stdout(), rustix::stdio::stderr()] {
            if is_null(fd).is_err() {
                continue;
            }
            if own.is_none() {
                let root = self.root.as_ref().ok_or(Errno::INVAL)?;
                own = Some(beneath::open_as(root, Path::new("dev/null"), OFlags::RDWR)?);
            }
            // It was set above.
            let own = own.as_ref().unwrap();
            is_null(own)?;
            match fd.as_raw_fd() {
                0 => rustix::stdio::dup2_stdin(own)?,
                1 => rustix::stdio::dup2_stdout(own)?,
                _ => rustix::stdio::dup2_stderr(own)?,
            }
        }
        Ok(())
    }

    /// Makes a file for something to be mounted on, or takes the one that is there, and returns it.
    fn make_file(&mut self, path: &'a Path) -> rustix::io::Result<OwnedFd> {
        let (dir, name) = self.parent(path)?;
        match mknodat(dir, name, FileType::RegularFile, Mode::from(0o644), 0) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno),
        }
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        openat2(dir, name, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS | ResolveFlags::BENEATH)
    }

    /// Opens the directory that `path` is in, which mostly is the one of the path before.
    fn parent<'p>(&mut self, path: &'a Path) -> rustix::io::Result<(BorrowedFd<'_>, &'p OsStr)>
    where
        'a: 'p,
    {
        let parent = path.parent().unwrap_or(Path::new(""));
        if self.parent.as_ref().is_none_or(|(path, _)| *path != parent) {
            let root = self.root.as_ref().ok_or(Errno::INVAL)?.as_fd();
            let dir = beneath::open_or_make(root, parent, Shape::Directory)?;
            self.parent = Some((parent, dir));
        }
        let name = path.file_name().ok_or(Errno::INVAL)?;
        // It was set above.
        Ok((self.parent.as_ref().unwrap().1.as_fd(), name))
    }

    fn symlink(&mut self, text: &'static str, target: &'a Path) -> Result<()> {
        let (dir, name) = self.parent(target).part(Part::Target)?;
        match symlinkat(text, dir, name) {
            Ok(()) | Err(Errno::EXIST) => Ok(()),
            Err(errno) => Err(Failure { part: Part::Target, errno }),
        }
    }

    fn terminal(&mut self, console: bool, size: Option<(u16, u16)>, uid: u32) -> Result<()> {
        let (master, slave) = terminal::open(self.root()?, size)?;
        if uid != 0 {
            fchown(&slave, Some(Uid::from_raw(uid)), None)?;
        }
        if console {
            let flags = OpenTreeFlags::OPEN_TREE_CLONE
                | OpenTreeFlags::OPEN_TREE_CLOEXEC
                | OpenTreeFlags::AT_EMPTY_PATH;
            let tree = open_tree(&slave, "", flags)?;
            let target = self.make_file(Path::new("dev/console")).part(Part::Target)?;
            attach(&tree, &target, "").part(Part::Target)?;
        }
        let socket = self.birth.terminal.ok_or(Errno::INVAL)?;
        terminal::send(socket, &master)?;
        rustix::process::ioctl_tiocsctty(&slave)?;
        rustix::stdio::dup2_stdin(&slave)?;
        rustix::stdio::dup2_stdout(&slave)?;
        rustix::stdio::dup2_stderr(&slave)?;
        Ok(())
    }

    fn sysctl(&mut self, path: &Path, value: &str) -> Result<()> {
        let proc = beneath::open(self.root()?, Path::new("proc")).part(Part::Target)?;
        is_proc(&proc)?;
        // Nothing in a procfs that leads elsewhere takes part (CVE-2025-52881).
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_XDEV | ResolveFlags::NO_SYMLINKS;
        let path = Path::new("sys").join(path);
        let flags = OFlags::WRONLY | OFlags::CLOEXEC;
        let file = openat2(&proc, &path, flags, Mode::empty(), resolve)?;
        is_proc(&file)?;
        write_whole(&file, value.as_bytes())
    }

    fn mask(&mut self, path: &Path) -> Result<()> {
        let target = match beneath::open(self.root()?, path) {
            // What is not there needs no mask.
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(()),
            result => result.part(Part::Target)?,
        };
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        let directory = FileType::from_raw_mode(fstat(&target)?.st_mode) == FileType::Directory;
        let known = if directory { &mut self.empty_dir } else { &mut self.empty_file };
        let mount = match known {
            // One that is mounted can be cloned, with its attributes.
            Some(known) => open_tree(known, "", flags | OpenTreeFlags::AT_EMPTY_PATH)?,
            None if directory => empty_directory()?,
            None => {
                let tree = open_tree(CWD, "/dev/null", flags).part(Part::Source)?;
                is_null(&tree).part(Part::Source)?;
                let attributes = linux_attr::RDONLY | linux_attr::NOSUID | linux_attr::NOEXEC;
                sys::mount_setattr(tree.as_fd(), false, attributes, 0, 0)?;
                tree
            }
        };
        attach(&mount, &target, "").part(Part::Target)?;
        *known = Some(mount);
        Ok(())
    }

    fn read_only(&mut self, path: &Path) -> Result<()> {
        let target = match beneath::open(self.root()?, path) {
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(()),
            result => result.part(Part::Target)?,
        };
        let flags = OpenTreeFlags::OPEN_TREE_CLONE
            | OpenTreeFlags::OPEN_TREE_CLOEXEC
            | OpenTreeFlags::AT_EMPTY_PATH
            | OpenTreeFlags::AT_RECURSIVE;
        let tree = open_tree(&target, "", flags)?;
        sys::mount_setattr(tree.as_fd(), true, linux_attr::RDONLY, 0, 0)?;
        attach(&tree, &target, "").part(Part::Target)
    }

    fn seal(&mut self, path: &Path) -> Result<()> {
        let mount = beneath::open(self.root()?, path).part(Part::Target)?;
        Ok(sys::mount_setattr(mount.as_fd(), false, linux_attr::RDONLY, 0, 0)?)
    }

    /// Makes the mounted root the root directory, and detaches the old one.
    ///
    /// `pivot_root(".", ".")` stacks the old root on the new one, so it needs no
    /// directory inside the container to move the old root to: pivot_root(2), NOTES.
    fn pivot(&mut self) -> Result<()> {
        // From here on the container's processes may see this one.
        process::set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
        process::fchdir(self.root()?)?;
        process::pivot_root(".", ".")?;
        // What is mounted over the host's root, if anything is, comes off first.
        for _ in 0..16 {
            unmount(".", UnmountFlags::DETACH)?;
            if is_top()? {
                break;
            }
        }
        if !is_top()? {
            return Err(Failure { part: Part::Outside, errno: Errno::BUSY });
        }
        process::chdir("/")?;
        (self.root, self.parent, self.empty_file, self.empty_dir) = (None, None, None, None);
        Ok(())
    }

    fn die_with_parent(&mut self) -> Result<()> {
        process::set_parent_process_death_signal(Some(Signal::KILL))?;
        // It may have died before: then nobody reads our report.
        let mut fds =
            [rustix::event::PollFd::new(self.birth.report, rustix::event::PollFlags::empty())];
        let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
        rustix::event::poll(&mut fds, Some(&now))?;
        match fds[0].revents().contains(rustix::event::PollFlags::ERR) {
            true => Err(Errno::PIPE.into()),
            false => Ok(()),
        }
    }

    /// Finds the command as execvp(3) does, in the container's PATH.
    fn find(&mut self) -> Result<()> {
        let plan = self.birth.plan;
        let name = &plan.args[0];
        if name.as_bytes().contains(&b'/') {
            self.command = Some(name.clone());
            return Ok(());
        }
        if name.is_empty() {
            return Err(Errno::NOENT.into());
        }
        let path = plan.env.iter().find_map(|var| var.as_bytes().strip_prefix(b"PATH="));
        // Without one, what execvp looks through.
        let path = path.unwrap_or(b"/bin:/usr/bin");
        let mut denied = false;
        for dir in path.split(|byte| *byte == b':') {
            let mut file = if dir.is_empty() { b"." } else { dir }.to_vec();
            file.push(b'/');
            file.extend_from_slice(name.as_bytes());
            // Neither part holds a NUL.
            let file = CString::new(file).unwrap();
            match rustix::fs::stat(&file) {
                Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile => {}
                // A directory, a device: execve(2) would say EACCES.
                Ok(_) | Err(Errno::ACCESS) => {
                    denied = true;
                    continue;
                }
                Err(_) => continue,
            }
            match rustix::fs::access(&file, rustix::fs::Access::EXEC_OK) {
                Ok(()) => {
                    self.command = Some(file);
                    return Ok(());
                }
                Err(_) => denied = true,
            }
        }
        Err(if denied { Errno::ACCESS } else { Errno::NOENT }.into())
    }

    fn exec(&mut self) -> Errno {
        let plan = self.birth.plan;
        let Some(command) = &self.command else { return Errno::NOENT };
        if let Some((own, role)) = self.birth.own {
            return last::exec_own(own, role, command, &plan.args, &plan.env, self.birth.report);
        }
        match &self.last {
            Some(last) => last::exec(last, command, &plan.args, &plan.env, self.birth.report),
            None => last::exec_directly(command, &plan.args, &plan.env),
        }
    }
}

/// Mounts `mount`, which is mounted nowhere, at `path` from `dir`.
fn attach(mount: impl AsFd, dir: impl AsFd, path: &str) -> rustix::io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(mount, "", dir, path, flags)
}

/// Makes a new filesystem, mounted nowhere yet.
fn make(filesystem: &Filesystem) -> rustix::io::Result<OwnedFd> {
    let context = fsopen(filesystem.kind.as_str(), FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(&context, "source", filesystem.source.as_str())?;
    for (key, value) in &filesystem.parameters {
        match value {
            Some(value) => fsconfig_set_string(&context, key.as_str(), value.as_str())?,
            None => fsconfig_set_flag(&context, key.as_str())?,
        }
    }
    fsconfig_create(&context)?;
    let attributes = MountAttrFlags::from_bits_retain(filesystem.attributes);
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
}

/// Makes device nodes in a new filesystem, and returns each as a mount of its own.
fn make_nodes(nodes: &[Node]) -> rustix::io::Result<Vec<OwnedFd>> {
    let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_create(&context)?;
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let mount = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?;
    // Only what is mounted somewhere can be cloned. There it goes with the host's root, for nothing:
    // to unmount it alone costs half a millisecond.
    attach(&mount, CWD, "/proc")?;
    let mut trees = Vec::with_capacity(nodes.len());
    for (number, node) in nodes.iter().enumerate() {
        let name = number.to_string();
        let kind = FileType::from_raw_mode(node.mode);
        let mode = Mode::from_raw_mode(node.mode & 0o777);
        mknodat(&mount, &name, kind, mode, makedev(node.major, node.minor))?;
        if (node.uid, node.gid) != (0, 0) {
            let (uid, gid) = (Uid::from_raw(node.uid), Gid::from_raw(node.gid));
            chownat(&mount, &name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
        }
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        trees.push(open_tree(&mount, &name, flags)?);
    }
    Ok(trees)
}

/// Returns the host's device nodes, each as a mount of its own.
fn borrow_nodes(nodes: &[Node]) -> Result<Vec<OwnedFd>> {
    let mut trees = Vec::with_capacity(nodes.len());
    for node in nodes {
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        let path = Path::new("/").join(&node.target);
        let tree = open_tree(CWD, &path, flags).part(Part::Source)?;
        let stat = fstat(&tree).part(Part::Source)?;
        let same = FileType::from_raw_mode(stat.st_mode) == FileType::from_raw_mode(node.mode)
            && stat.st_rdev == makedev(node.major, node.minor);
        if !same {
            return Err(Failure { part: Part::Source, errno: Errno::NODEV });
        }
        trees.push(tree);
    }
    Ok(trees)
}

fn empty_directory() -> rustix::io::Result<OwnedFd> {
    make(&Filesystem {
        kind: "tmpfs".into(),
        source: "tmpfs".into(),
        target: "".into(),
        attributes: linux_attr::RDONLY
            | linux_attr::NOSUID
            | linux_attr::NODEV
            | linux_attr::NOEXEC,
        parameters: vec![("mode".into(), Some("555".into()))],
        optional: false,
    })
}

/// Sees that `fd` is the null device, and not what somebody made of its name (CVE-2025-31133).
fn is_null(fd: impl AsFd) -> rustix::io::Result<()> {
    let stat = fstat(fd)?;
    let device = FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice;
    if device && stat.st_rdev == makedev(1, 3) { Ok(()) } else { Err(Errno::NODEV) }
}

fn is_proc(fd: impl AsFd) -> rustix::io::Result<()> {
    if fstatfs(fd)?.f_type == PROC_SUPER_MAGIC { Ok(()) } else { Err(Errno::NODEV) }
}

fn join(kind: Kind, path: &Path) -> Result<()> {
    enter(openat(CWD, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?, kind)
}

fn enter(namespace: impl AsFd, kind: Kind) -> Result<()> {
    let kind = match kind {
        Kind::Network => thread::LinkNameSpaceType::Network,
        Kind::Ipc => thread::LinkNameSpaceType::InterProcessCommunication,
        Kind::Uts => thread::LinkNameSpaceType::HostNameAndNISDomainName,
        Kind::Cgroup => thread::LinkNameSpaceType::ControlGroup,
    };
    Ok(thread::move_into_link_name_space(namespace.as_fd(), Some(kind))?)
}

fn unshare_cgroup() -> Result<()> {
    match nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWCGROUP) {
        Ok(()) => Ok(()),
        Err(errno) => Err(Errno::from_raw_os_error(errno as i32).into()),
    }
}

fn oom_score(score: i32) -> Result<()> {
    let proc = openat(CWD, "/proc/self", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    is_proc(&proc)?;
    write_file(&proc, Path::new("oom_score_adj"), score.to_string().as_bytes())
}

fn write_file(dir: impl AsFd, path: &Path, bytes: &[u8]) -> Result<()> {
    let file = openat(dir, path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    write_whole(&file, bytes)
}

fn write_whole(file: &OwnedFd, bytes: &[u8]) -> Result<()> {
    match rustix::io::write(file, bytes)? {
        written if written == bytes.len() => Ok(()),
        _ => Err(Errno::IO.into()),
    }
}

/// Changes to the working directory, which must be in the container.
///
/// No magic link of a procfs takes part in it, and what getcwd(2) says is
/// a path from the root: a directory of the host is none (CVE-2024-21626).
fn chdir(path: &Path) -> Result<()> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dir =
        openat2(CWD, path, flags, Mode::empty(), ResolveFlags::NO_MAGICLINKS).map_err(|errno| {
            match errno {
                Errno::LOOP => Failure { part: Part::Outside, errno },
                errno => errno.into(),
            }
        })?;
    process::fchdir(&dir)?;
    match process::getcwd(Vec::new())?.as_bytes().first() {
        Some(b'/') => Ok(()),
        _ => Err(Failure { part: Part::Outside, errno: Errno::NOENT }),
    }
}

/// Returns whether nothing is above or over the root directory.
fn is_top() -> rustix::io::Result<bool> {
    let id = |path: &str| -> rustix::io::Result<_> {
        let mask = rustix::fs::StatxFlags::INO | rustix::fs::StatxFlags::MNT_ID;
        let statx = rustix::fs::statx(CWD, path, AtFlags::empty(), mask)?;
        Ok((statx.stx_mnt_id, statx.stx_dev_major, statx.stx_dev_minor, statx.stx_ino))
    };
    Ok(id("/")? == id("/..")? && id("/")? == id(".")?)
}

/// Lets `uid` open the pipes that it has as standard streams by name, as `/dev/stdout` is in many images.
///
/// A pipe without a name is whoever's made it, and nobody else can open it. Files are left alone.
fn own_pipes(uid: u32) -> Result<()> {
    for fd in [rustix::stdio::stdin(), rustix::stdio::stdout(), rustix::stdio::stderr()] {
        let Ok(statfs) = fstatfs(fd) else { continue };
        if statfs.f_type == PIPEFS_MAGIC {
            // In a user namespace the pipe may be somebody's who is not there.
            let _ = fchown(fd, Some(Uid::from_raw(uid)), None);
        }
    }
    Ok(())
}

fn user(uid: u32, gid: u32, groups: &[u32], bounding: u64) -> Result<()> {
    for number in 0..64 {
        if bounding & 1 << number == 0 {
            let one = CapabilitySet::from_bits_retain(1 << number);
            match thread::remove_capability_from_bounding_set(one) {
                Ok(()) => {}
                // The kernel has no more: capabilities(7).
                Err(Errno::INVAL) => break,
                Err(errno) => return Err(errno.into()),
            }
        }
    }
    let list: Vec<Gid> = groups.iter().copied().map(Gid::from_raw).collect();
    match thread::set_thread_groups(&list) {
        // Nobody may leave groups who could gain by it: user_namespaces(7), on setgroups.
        Err(Errno::PERM) if groups.is_empty() => {}
        result => result?,
    }
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    thread::set_thread_res_gid(gid, gid, gid)?;
    thread::set_keep_capabilities(true)?;
    thread::set_thread_res_uid(uid, uid, uid)?;
    Ok(())
}

/// Sets every set but the bounding one, to what of it there is here.
fn capabilities(sets: &Sets) -> Result<()> {
    let held = thread::capabilities(None)?.permitted.bits();
    let permitted = sets.permitted & held;
    let inheritable = sets.inheritable & held;
    thread::clear_ambient_capability_set()?;
    let set = CapabilitySet::from_bits_retain;
    thread::set_capabilities(
        None,
        CapabilitySets {
            effective: set(sets.effective & permitted),
            permitted: set(permitted),
            inheritable: set(inheritable),
        },
    )?;
    // Only what is permitted and inheritable can be ambient: capabilities(7).
    let ambient = sets.ambient & permitted & inheritable;
    for number in (0..64).filter(|number| ambient & 1 << number != 0) {
        thread::configure_capability_in_ambient_set(set(1 << number), true)?;
    }
    Ok(())
}

/// Returns the errno that is the cause of an error.
fn errno_of(err: &anyhow::Error) -> Errno {
    let errno = err.chain().find_map(|link| {
        let io = link.downcast_ref::<std::io::Error>();
        link.downcast_ref::<Errno>().copied().or(io.map(from_io))
    });
    errno.unwrap_or(Errno::INVAL)
}

fn from_io(err: &std::io::Error) -> Errno {
    Errno::from_raw_os_error(err.raw_os_error().unwrap_or(libc::EINVAL))
}
