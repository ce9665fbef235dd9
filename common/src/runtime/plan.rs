//! From a runtime spec to the list of operations that makes its container.
//!
//! ```text
//! session, cgroup, namespaces      what the process is on the host
//! root, mounts, devices, masks     beneath the root, each resolved as the process will see it
//! pivot                            from here on the host is out of reach
//! limits, user, no_new_privs       what the process may do
//! seccomp, exec
//! ```
//!
//! A field that asks for what is not here is refused by its name: a container
//! is what its spec says, or it is not started.

use std::ffi::CString;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use oci_spec::runtime::{
    Linux, LinuxDevice, LinuxDeviceType, LinuxIdMapping, LinuxNamespaceType, LinuxResources,
    PosixRlimitType, Process, Spec,
};

use super::CgroupView;
use super::capability::Sets;
use super::cgroup;
use super::mount::{self, Surroundings};
use super::op::{Kind, Limit, Node, Op};
use crate::snapshot::Root;

/// A container, ready to be started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The namespaces that the first process is born in: CLONE_NEW* of clone(2).
    pub namespaces: u64,
    /// The mappings of the user namespace, if it gets one.
    pub mappings: Option<Mappings>,
    /// What the first process does, in order.
    pub ops: Vec<Op>,
    /// The command and its arguments.
    pub args: Vec<CString>,
    /// Its environment.
    pub env: Vec<CString>,
    /// The numbers of the devices that can be opened wherever they are.
    pub allowed: Vec<(u32, u32)>,
}

/// The mappings of a user namespace: id inside, id outside, count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mappings {
    /// The users.
    pub uids: Vec<(u32, u32, u32)>,
    /// The groups.
    pub gids: Vec<(u32, u32, u32)>,
}

/// What a container depends on beside its spec.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Surrounding {
    /// This process is root in a user namespace, and not on the host.
    pub user_namespace: bool,
    /// It is the one that the spec asks for.
    pub entered: bool,
    /// Puts a small init before the command.
    pub init: bool,
    /// The files by which the container moves into its cgroups, where it is not born in them.
    pub tasks: Vec<PathBuf>,
    /// What the container sees of its cgroups.
    pub cgroup: CgroupView,
    /// Rows and columns of the terminal.
    pub terminal_size: Option<(u16, u16)>,
}

const CLONE_NEWTIME: u64 = 0x80;
const CLONE_NEWNS: u64 = 0x0002_0000;
const CLONE_NEWUTS: u64 = 0x0400_0000;
const CLONE_NEWIPC: u64 = 0x0800_0000;
const CLONE_NEWUSER: u64 = 0x1000_0000;
const CLONE_NEWPID: u64 = 0x2000_0000;
pub(super) const CLONE_NEWNET: u64 = 0x4000_0000;

const CAP_SYS_ADMIN: u32 = 21;

const S_IFCHR: u32 = 0o020000;
const S_IFBLK: u32 = 0o060000;
const S_IFIFO: u32 = 0o010000;

/// The devices that every container has: runtime-spec, config-linux.md, Default Devices.
const DEVICES: [(&str, u32, u32); 6] = [
    ("dev/null", 1, 3),
    ("dev/zero", 1, 5),
    ("dev/full", 1, 7),
    ("dev/random", 1, 8),
    ("dev/urandom", 1, 9),
    ("dev/tty", 5, 0),
];

/// The links that every container has: runtime-spec, runtime-linux.md, Dev symbolic links.
const LINKS: [(&str, &str); 4] = [
    ("dev/fd", "/proc/self/fd"),
    ("dev/stdin", "/proc/self/fd/0"),
    ("dev/stdout", "/proc/self/fd/1"),
    ("dev/stderr", "/proc/self/fd/2"),
];

/// Plans the container of `spec` on `rootfs`.
pub fn plan(spec: &Spec, rootfs: &Root, surrounding: &Surrounding) -> Result<Plan> {
    refuse(spec)?;
    let process = spec.process().as_ref().context("process: missing")?;
    let linux = spec.linux().as_ref().context("linux: missing")?;
    let namespaces = Namespaces::of(linux, surrounding.entered)?;
    let rules = Rules::of(linux.resources().as_ref())?;
    let inner_user = surrounding.user_namespace || namespaces.flags & CLONE_NEWUSER != 0;
    let cgroup = match surrounding.cgroup {
        // Without a namespace of its own it would show the whole host.
        CgroupView::Unified { .. } if !namespaces.cgroup => CgroupView::Empty,
        ref view => view.clone(),
    };
    let around = Surroundings { devices: rules.all, user_namespace: inner_user, cgroup };

    let mut ops = Vec::with_capacity(64);
    // First, since root of a user namespace may not write to the host's files.
    ops.extend(surrounding.tasks.iter().cloned().map(Op::JoinCgroup));
    if namespaces.flags & CLONE_NEWUSER != 0 {
        ops.push(Op::BecomeRoot);
    }
    if namespaces.flags & CLONE_NEWNET != 0 {
        ops.push(Op::Network);
    }
    for (kind, path) in &namespaces.joined {
        ops.push(Op::Join { kind: *kind, path: path.clone() });
    }
    ops.push(Op::Session);
    if namespaces.cgroup {
        ops.push(Op::CgroupNamespace);
    }
    if let Some(score) = process.oom_score_adj() {
        ops.push(Op::OomScore(score));
    }
    ops.push(Op::Guard { init: surrounding.init });
    mounts(spec, linux, rootfs, &around, &mut ops)?;
    devices(spec, linux, inner_user, &mut ops)?;
    if process.terminal() == Some(true) {
        let console = bind_of(spec, "/dev").is_none();
        let size = process.console_size().map(|size| (size.height() as u16, size.width() as u16));
        let size = size.or(surrounding.terminal_size);
        ops.push(Op::Terminal { console, size, uid: process.user().uid() });
    }
    protect(spec, linux, &namespaces, &mut ops)?;

    let cwd = process.cwd();
    ensure!(cwd.is_absolute(), "process.cwd: {}: not an absolute path", cwd.display());
    // A `..` in it is the kernel's to resolve, after the pivot.
    if let Ok(directory) = mount::inside(cwd)
        && directory != Path::new("")
    {
        ops.push(Op::Directory(directory));
    }
    if spec.root().as_ref().is_some_and(|root| root.readonly() == Some(true)) {
        ops.push(Op::Seal(PathBuf::new()));
    }
    ops.push(Op::Pivot);
    confine(process, linux, &mut ops)?;

    let (args, env) = command(process)?;
    Ok(Plan {
        namespaces: namespaces.flags,
        mappings: namespaces.mappings,
        ops,
        args,
        env,
        allowed: rules.allowed,
    })
}

/// Refuses, by its name, each field that asks for what is not here.
fn refuse(spec: &Spec) -> Result<()> {
    let Some(linux) = spec.linux() else { return Ok(()) };
    let process = spec.process().as_ref();
    let present = |text: &Option<String>| text.as_deref().is_some_and(|text| !text.is_empty());
    let hooks = spec.hooks().as_ref().and_then(|hooks| serde_json::to_value(hooks).ok());
    let hooks = hooks.as_ref().and_then(|hooks| hooks.as_object());
    let apparmor = process.is_some_and(|process| match process.apparmor_profile().as_deref() {
        None | Some("" | "unconfined") => false,
        Some(_) => true,
    });
    let unsupported = [
        (
            "hooks",
            hooks.is_some_and(|hooks| {
                hooks.values().any(|list| list.as_array().is_some_and(|list| !list.is_empty()))
            }),
        ),
        ("vm", spec.vm().is_some()),
        ("process.apparmorProfile", apparmor),
        ("process.selinuxLabel", process.is_some_and(|process| present(process.selinux_label()))),
        ("process.scheduler", process.is_some_and(|process| process.scheduler().is_some())),
        ("process.ioPriority", process.is_some_and(|process| process.io_priority().is_some())),
        (
            "process.execCPUAffinity",
            process.is_some_and(|process| process.exec_cpu_affinity().is_some()),
        ),
        ("linux.mountLabel", present(linux.mount_label())),
        ("linux.intelRdt", linux.intel_rdt().is_some()),
        ("linux.memoryPolicy", linux.memory_policy().is_some()),
        ("linux.personality", linux.personality().is_some()),
        ("linux.timeOffsets", linux.time_offsets().as_ref().is_some_and(|map| !map.is_empty())),
        ("linux.netDevices", linux.net_devices().as_ref().is_some_and(|map| !map.is_empty())),
    ];
    match unsupported.iter().find(|(_, set)| *set) {
        Some((field, _)) => bail!("{field}: not supported"),
        None => Ok(()),
    }
}

/// The namespaces of a spec.
#[derive(Debug, Default, PartialEq, Eq)]
struct Namespaces {
    flags: u64,
    /// Made by the process itself, once it is in its cgroup.
    cgroup: bool,
    joined: Vec<(Kind, PathBuf)>,
    mappings: Option<Mappings>,
}

impl Namespaces {
    fn of(linux: &Linux, entered: bool) -> Result<Namespaces> {
        let mut namespaces = Namespaces::default();
        for namespace in linux.namespaces().iter().flatten() {
            let path = namespace.path().as_ref().filter(|path| !path.as_os_str().is_empty());
            let kind = namespace.typ();
            let (flag, joins) = match kind {
                LinuxNamespaceType::Mount => (CLONE_NEWNS, None),
                LinuxNamespaceType::Pid => (CLONE_NEWPID, None),
                LinuxNamespaceType::User => (CLONE_NEWUSER, None),
                LinuxNamespaceType::Time => (CLONE_NEWTIME, None),
                LinuxNamespaceType::Uts => (CLONE_NEWUTS, Some(Kind::Uts)),
                LinuxNamespaceType::Ipc => (CLONE_NEWIPC, Some(Kind::Ipc)),
                LinuxNamespaceType::Network => (CLONE_NEWNET, Some(Kind::Network)),
                LinuxNamespaceType::Cgroup => (0, Some(Kind::Cgroup)),
            };
            match (path, joins) {
                (None, None) if entered && kind == LinuxNamespaceType::User => {}
                (None, Some(Kind::Cgroup)) => namespaces.cgroup = true,
                (None, _) => namespaces.flags |= flag,
                (Some(path), Some(kind)) => namespaces.joined.push((kind, path.clone())),
                (Some(path), None) => {
                    let kind = format!("{kind:?}").to_lowercase();
                    bail!(
                        "linux.namespaces: {}: a {kind} namespace that exists cannot be joined",
                        path.display()
                    )
                }
            }
        }
        ensure!(
            namespaces.flags & CLONE_NEWNS != 0,
            "linux.namespaces: a container needs a mount namespace"
        );
        // The kernel makes a time namespace for the children of a process, not for itself.
        ensure!(
            namespaces.flags & CLONE_NEWTIME == 0,
            "linux.namespaces: a time namespace is not supported"
        );
        if namespaces.flags & CLONE_NEWUSER != 0 {
            let list = |field: &Option<Vec<LinuxIdMapping>>, name: &str| {
                let list = field.as_deref().unwrap_or_default();
                ensure!(!list.is_empty(), "linux.{name}: a user namespace needs a mapping");
                Ok(list.iter().map(|map| (map.container_id(), map.host_id(), map.size())).collect())
            };
            namespaces.mappings = Some(Mappings {
                uids: list(linux.uid_mappings(), "uidMappings")?,
                gids: list(linux.gid_mappings(), "gidMappings")?,
            });
        }
        Ok(namespaces)
    }
}

/// What `linux.resources` allows, of devices.
///
/// Everything that a container can write to is mounted `nodev`, so that no node opens but
/// those that we mount one by one. That holds with any cgroup version and without permission to make a cgroup.
#[derive(Debug, Default, PartialEq, Eq)]
struct Rules {
    all: bool,
    allowed: Vec<(u32, u32)>,
}

impl Rules {
    fn of(resources: Option<&LinuxResources>) -> Result<Rules> {
        let mut rules = Rules::default();
        let Some(resources) = resources else { return Ok(rules) };
        limits(resources)?;
        for rule in resources.devices().iter().flatten() {
            let whole = matches!(rule.typ(), None | Some(LinuxDeviceType::A));
            match (rule.allow(), rule.major(), rule.minor()) {
                (allow, None | Some(-1), None | Some(-1)) if whole => {
                    rules = Rules { all: allow, allowed: Vec::new() };
                }
                (true, Some(major), Some(minor)) if major >= 0 && minor >= 0 => {
                    rules.allowed.push((major as u32, minor as u32));
                }
                // A rule for a whole class allows no more than its nodes in linux.devices.
                (true, ..) => {}
                (false, major, minor) => {
                    ensure!(
                        !rules.all,
                        "linux.resources.devices: a rule that denies {major:?}:{minor:?} alone is not supported"
                    );
                    rules.allowed.retain(|allowed| {
                        major.is_some_and(|major| i64::from(allowed.0) != major)
                            || minor.is_some_and(|minor| i64::from(allowed.1) != minor)
                    });
                }
            }
        }
        Ok(rules)
    }
}

/// Refuses limits that nobody would apply.
fn limits(resources: &LinuxResources) -> Result<()> {
    cgroup::Limits::of(resources)?;
    let value = serde_json::to_value(resources)?;
    for (name, limit) in value.as_object().into_iter().flatten() {
        let empty = match limit {
            serde_json::Value::Object(map) => map.values().all(serde_json::Value::is_null),
            serde_json::Value::Array(list) => list.is_empty(),
            other => other.is_null(),
        };
        ensure!(
            empty || matches!(name.as_str(), "devices" | "memory" | "pids"),
            "linux.resources.{name}: this limit is not supported"
        );
    }
    Ok(())
}

fn mounts(
    spec: &Spec,
    linux: &Linux,
    rootfs: &Root,
    around: &Surroundings,
    ops: &mut Vec<Op>,
) -> Result<()> {
    let root_slave = match linux.rootfs_propagation().as_deref() {
        None | Some("" | "private" | "rprivate" | "unbindable" | "runbindable") => false,
        Some("slave" | "rslave") => true,
        Some(other) => bail!("linux.rootfsPropagation: {other}: not supported"),
    };
    let first = ops.len();
    ops.push(Op::Root {
        rootfs: rootfs.clone(),
        devices: around.devices || around.user_namespace,
        slave: root_slave,
    });
    for mount in spec.mounts().iter().flatten() {
        mount::plan(mount, around, ops)?;
    }
    let slave = root_slave || ops.iter().any(|op| matches!(op, Op::Bind(bind) if bind.slave));
    ops.insert(first, Op::Private { slave });
    Ok(())
}

/// Returns the bind mount at `destination`, if there is one.
fn bind_of<'a>(spec: &'a Spec, destination: &str) -> Option<&'a oci_spec::runtime::Mount> {
    spec.mounts().iter().flatten().find(|mount| {
        let bind = matches!(mount.typ().as_deref(), Some("bind" | "rbind"))
            || mount.options().iter().flatten().any(|option| option == "bind" || option == "rbind");
        bind && mount.destination() == Path::new(destination)
    })
}

fn devices(spec: &Spec, linux: &Linux, from_host: bool, ops: &mut Vec<Op>) -> Result<()> {
    // Whoever mounts a /dev has filled it.
    if bind_of(spec, "/dev").is_some() {
        return Ok(());
    }
    let mut nodes: Vec<Node> = DEVICES
        .iter()
        .map(|&(path, major, minor)| Node {
            target: path.into(),
            mode: S_IFCHR | 0o666,
            major,
            minor,
            uid: 0,
            gid: 0,
        })
        .collect();
    for device in linux.devices().iter().flatten() {
        let node = node(device)?;
        // The terminal has it.
        if node.target == Path::new("dev/console") || node.target == Path::new("dev/ptmx") {
            continue;
        }
        match nodes.iter_mut().find(|other| other.target == node.target) {
            Some(other) => *other = node,
            None => nodes.push(node),
        }
    }
    ops.push(Op::Devices { nodes, from_host });
    for (target, text) in LINKS {
        ops.push(Op::Symlink { text, target: target.into() });
    }
    let mounted = |destination: &str| {
        spec.mounts().iter().flatten().any(|mount| mount.destination() == Path::new(destination))
    };
    if mounted("/dev/pts") {
        ops.push(Op::Symlink { text: "pts/ptmx", target: "dev/ptmx".into() });
    }
    Ok(())
}

fn node(device: &LinuxDevice) -> Result<Node> {
    let name = || format!("linux.devices: {}", device.path().display());
    let kind = match device.typ() {
        LinuxDeviceType::C | LinuxDeviceType::U => S_IFCHR,
        LinuxDeviceType::B => S_IFBLK,
        LinuxDeviceType::P => S_IFIFO,
        LinuxDeviceType::A => bail!("{}: a device is of type c, b, u or p", name()),
    };
    let number = |number: i64| u32::try_from(number).with_context(name);
    let owners = [device.uid().unwrap_or(0), device.gid().unwrap_or(0)];
    ensure!(owners.into_iter().all(is_id), "{}: its owner is not an id", name());
    Ok(Node {
        target: mount::inside(device.path()).with_context(name)?,
        mode: kind | device.file_mode().unwrap_or(0o666) & 0o777,
        major: if kind == S_IFIFO { 0 } else { number(device.major())? },
        minor: if kind == S_IFIFO { 0 } else { number(device.minor())? },
        uid: device.uid().unwrap_or(0),
        gid: device.gid().unwrap_or(0),
    })
}

/// Plans what the process sees of the kernel: parameters, masks, names, network.
fn protect(spec: &Spec, linux: &Linux, namespaces: &Namespaces, ops: &mut Vec<Op>) -> Result<()> {
    let mut sysctls: Vec<(&String, &String)> = linux.sysctl().iter().flatten().collect();
    sysctls.sort();
    for (name, value) in sysctls {
        ops.push(sysctl(name, value, namespaces)?);
    }
    for path in linux.readonly_paths().iter().flatten() {
        let path = mount::inside(Path::new(path)).context("linux.readonlyPaths")?;
        ops.push(Op::ReadOnly(path));
    }
    for path in linux.masked_paths().iter().flatten() {
        let path = mount::inside(Path::new(path)).context("linux.maskedPaths")?;
        ops.push(Op::Mask(path));
    }
    let named = [
        ("hostname", spec.hostname(), Op::Hostname as fn(String) -> Op),
        ("domainname", spec.domainname(), Op::Domainname),
    ];
    for (field, name, op) in named {
        if let Some(name) = name.as_ref().filter(|name| !name.is_empty()) {
            let own = namespaces.flags & CLONE_NEWUTS != 0;
            ensure!(own, "{field}: it needs a new uts namespace");
            ensure!(name.len() <= 64, "{field}: {name:?}: longer than 64 bytes");
            ops.push(op(name.clone()));
        }
    }
    if namespaces.flags & CLONE_NEWNET != 0 {
        ops.push(Op::Loopback);
    }
    Ok(())
}

/// Plans a sysctl, if the namespace that it belongs to is the container's own.
///
/// Any other would change the host, and a name or value with `/` or a newline could smuggle one in (CVE-2022-0811).
fn sysctl(name: &str, value: &str, namespaces: &Namespaces) -> Result<Op> {
    const IPC: [&str; 8] =
        ["msgmax", "msgmnb", "msgmni", "sem", "shmall", "shmmax", "shmmni", "shm_rmid_forced"];
    let field = || format!("linux.sysctl: {name}");
    let plain = |part: &str| {
        !part.is_empty()
            && part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'))
    };
    // sysctl(8): either `.` or `/` is the separator; with `/`, a dot is part of a name as in eth0.1.
    let parts: Vec<&str> = match name.contains('/') {
        true => name.split('/').collect(),
        false => name.split('.').collect(),
    };
    let interface = |part: &str| part.split('.').all(plain);
    ensure!(parts.iter().all(|part| interface(part)), "{}: not the name of a sysctl", field());
    let needs = match parts[..] {
        ["net", ..] => CLONE_NEWNET,
        ["kernel", name] if IPC.contains(&name) => CLONE_NEWIPC,
        ["fs", "mqueue", _] => CLONE_NEWIPC,
        ["kernel", "domainname"] => CLONE_NEWUTS,
        _ => bail!("{}: it is the whole host's", field()),
    };
    ensure!(namespaces.flags & needs != 0, "{}: the container shares that with the host", field());
    ensure!(
        value.bytes().all(|b| b.is_ascii_graphic() || b == b' ' || b == b'\t'),
        "{}: {value:?}: not a value",
        field()
    );
    Ok(Op::Sysctl { path: parts.iter().collect(), value: value.into() })
}

/// Plans what the process may do.
fn confine(process: &Process, linux: &Linux, ops: &mut Vec<Op>) -> Result<()> {
    let mut limits = Vec::new();
    for limit in process.rlimits().iter().flatten() {
        let resource = rlimit(limit.typ());
        ensure!(
            limits.iter().all(|other: &Limit| other.resource != resource),
            "process.rlimits: {:?} is there twice",
            limit.typ()
        );
        limits.push(Limit { resource, soft: limit.soft(), hard: limit.hard() });
    }
    ops.push(Op::Keyring);
    ops.push(Op::Chdir(process.cwd().clone()));
    // From here on nothing is opened: with a limit below what its supervisor has open, nothing could be.
    ops.extend(limits.into_iter().map(Op::Limit));
    let user = process.user();
    let groups = user.additional_gids().clone().unwrap_or_default();
    for id in [user.uid(), user.gid()].iter().chain(&groups) {
        ensure!(is_id(*id), "process.user: {id}: not an id");
    }
    let sets = process.capabilities().as_ref().map(Sets::from).unwrap_or_default();
    if user.uid() != 0 {
        ops.push(Op::OwnPipes(user.uid()));
    }
    ops.push(Op::User { uid: user.uid(), gid: user.gid(), groups, bounding: sets.bounding });
    let filtered = linux.seccomp().is_some();
    let no_new_privileges = process.no_new_privileges() == Some(true);
    let last = match (filtered, no_new_privileges) {
        (true, true) => vec![Op::NoNewPrivileges, Op::Seccomp],
        // Without no_new_privs it takes CAP_SYS_ADMIN to install a filter: seccomp(2).
        (true, false) => {
            let more = Sets {
                effective: sets.effective | 1 << CAP_SYS_ADMIN,
                permitted: sets.permitted | 1 << CAP_SYS_ADMIN,
                ..Sets::default()
            };
            ops.push(Op::Capabilities(more));
            vec![Op::Seccomp, Op::Capabilities(sets)]
        }
        (false, true) => vec![Op::NoNewPrivileges],
        (false, false) => Vec::new(),
    };
    if !filtered || no_new_privileges {
        ops.push(Op::Capabilities(sets));
    }
    ops.push(Op::DieWithParent);
    ops.push(Op::Umask(user.umask().unwrap_or(0o022) & 0o777));
    ops.push(Op::Find);
    ops.extend(last);
    ops.push(Op::Exec);
    Ok(())
}

/// Tells whether `id` is one: to the kernel -1 is none, or "leave it".
fn is_id(id: u32) -> bool {
    id != u32::MAX
}

fn rlimit(kind: PosixRlimitType) -> u32 {
    use PosixRlimitType::*;
    match kind {
        RlimitCpu => libc::RLIMIT_CPU,
        RlimitFsize => libc::RLIMIT_FSIZE,
        RlimitData => libc::RLIMIT_DATA,
        RlimitStack => libc::RLIMIT_STACK,
        RlimitCore => libc::RLIMIT_CORE,
        RlimitRss => libc::RLIMIT_RSS,
        RlimitNproc => libc::RLIMIT_NPROC,
        RlimitNofile => libc::RLIMIT_NOFILE,
        RlimitMemlock => libc::RLIMIT_MEMLOCK,
        RlimitAs => libc::RLIMIT_AS,
        RlimitLocks => libc::RLIMIT_LOCKS,
        RlimitSigpending => libc::RLIMIT_SIGPENDING,
        RlimitMsgqueue => libc::RLIMIT_MSGQUEUE,
        RlimitNice => libc::RLIMIT_NICE,
        RlimitRtprio => libc::RLIMIT_RTPRIO,
        RlimitRttime => libc::RLIMIT_RTTIME,
    }
}

fn command(process: &Process) -> Result<(Vec<CString>, Vec<CString>)> {
    let strings = |list: &Option<Vec<String>>, field: &str| -> Result<Vec<CString>> {
        let list = list.iter().flatten();
        list.map(|text| CString::new(text.as_str()).with_context(|| format!("{field}: {text:?}")))
            .collect()
    };
    let args = strings(process.args(), "process.args")?;
    ensure!(!args.is_empty(), "process.args: no command");
    Ok((args, strings(process.env(), "process.env")?))
}

#[cfg(test)]
mod tests;
