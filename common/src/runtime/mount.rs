//! The mounts of a spec: fstab's options, read as the new mount API takes them.

use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use linux_attr::*;
use oci_spec::runtime::Mount;

use super::op::{Bind, Filesystem, Op};

/// The bits of linux/mount.h.
pub(super) mod linux_attr {
    pub const RDONLY: u32 = 0x1;
    pub const NOSUID: u32 = 0x2;
    pub const NODEV: u32 = 0x4;
    pub const NOEXEC: u32 = 0x8;
    pub const ATIME: u32 = 0x70;
    pub const NOATIME: u32 = 0x10;
    pub const STRICTATIME: u32 = 0x20;
    pub const NODIRATIME: u32 = 0x80;
    pub const NOSYMFOLLOW: u32 = 0x0020_0000;
}

/// What may be mounted in a procfs: nothing of it confines the container (CVE-2019-16884), and lxcfs
/// gives these their contents.
const IN_PROC: [&str; 10] = [
    "proc/cpuinfo",
    "proc/diskstats",
    "proc/loadavg",
    "proc/meminfo",
    "proc/net/dev",
    "proc/slabinfo",
    "proc/stat",
    "proc/swaps",
    "proc/sys/kernel/ns_last_pid",
    "proc/uptime",
];

/// The options of one mount.
#[derive(Debug, Default, PartialEq, Eq)]
struct Options {
    bind: bool,
    recursive: bool,
    slave: bool,
    set: u32,
    clear: u32,
    parameters: Vec<(String, Option<String>)>,
}

impl Options {
    fn parse(mount: &Mount) -> Result<Options> {
        let mut options = Options::default();
        for option in mount.options().iter().flatten() {
            options.add(option)?;
        }
        if matches!(mount.typ().as_deref(), Some("bind" | "rbind")) && !options.bind {
            options.bind = true;
            options.recursive = mount.typ().as_deref() == Some("rbind");
        }
        Ok(options)
    }

    fn add(&mut self, option: &str) -> Result<()> {
        // Of two that contradict each other the last one counts, as in mount(8).
        let mut attribute = |set: u32, clear: u32| {
            self.set = self.set & !clear | set;
            self.clear = self.clear & !set | clear;
        };
        match option {
            "bind" => self.bind = true,
            "rbind" => (self.bind, self.recursive) = (true, true),
            "ro" | "rro" => attribute(RDONLY, 0),
            "rw" | "rrw" => attribute(0, RDONLY),
            "nosuid" | "rnosuid" => attribute(NOSUID, 0),
            "suid" | "rsuid" => attribute(0, NOSUID),
            "nodev" | "rnodev" => attribute(NODEV, 0),
            "dev" | "rdev" => attribute(0, NODEV),
            "noexec" | "rnoexec" => attribute(NOEXEC, 0),
            "exec" | "rexec" => attribute(0, NOEXEC),
            "nosymfollow" | "rnosymfollow" => attribute(NOSYMFOLLOW, 0),
            "symfollow" | "rsymfollow" => attribute(0, NOSYMFOLLOW),
            "noatime" | "rnoatime" => attribute(NOATIME, ATIME & !NOATIME),
            "strictatime" | "rstrictatime" => attribute(STRICTATIME, ATIME & !STRICTATIME),
            "relatime" | "rrelatime" | "atime" | "ratime" | "nostrictatime" => attribute(0, ATIME),
            "nodiratime" | "rnodiratime" => attribute(NODIRATIME, 0),
            "diratime" | "rdiratime" => attribute(0, NODIRATIME),
            "private" | "rprivate" | "unbindable" | "runbindable" => self.slave = false,
            "slave" | "rslave" => self.slave = true,
            "defaults" | "async" | "loud" | "nomand" | "norelatime" => {}
            "shared" | "rshared" => {
                bail!("{option}: a mount of the container cannot be shared with the host")
            }
            "remount" | "tmpcopyup" | "idmap" | "ridmap" | "copy-symlink" | "src-nofollow"
            | "dest-nofollow" => bail!("{option}: this option is not supported"),
            "" => {}
            parameter => {
                let parameter = match parameter.split_once('=') {
                    Some((key, value)) => (key.into(), Some(value.into())),
                    None => (parameter.into(), None),
                };
                self.parameters.push(parameter);
            }
        }
        Ok(())
    }
}

/// What the mounts of a spec depend on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Surroundings {
    /// Device nodes can be opened wherever they are.
    pub devices: bool,
    /// What the host mounts in a slave mount can show up at all.
    pub user_namespace: bool,
    /// The cgroup of the container, or the host's.
    pub cgroup: CgroupView,
}

/// What a mount of type `cgroup` shows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum CgroupView {
    /// Nothing.
    #[default]
    Empty,
    /// The hierarchy of version 2, below the cgroup that is the namespace's root.
    Unified {
        /// It is the container's own. One that others are in as well is read-only.
        own: bool,
    },
    /// These directories of the host, by name: a cgroup of each controller of version 1.
    Controllers(Vec<(String, PathBuf)>),
}

/// Appends what makes `mount` to `ops`.
pub(super) fn plan(mount: &Mount, around: &Surroundings, ops: &mut Vec<Op>) -> Result<()> {
    let destination = mount.destination();
    let name = || format!("mounts: {}", destination.display());
    let target = inside(destination).with_context(name)?;
    let mut options = Options::parse(mount).with_context(name)?;
    ensure!(
        mount.uid_mappings().is_none() && mount.gid_mappings().is_none(),
        "{}: uidMappings and gidMappings are not supported",
        name()
    );
    let kind = mount.typ().as_deref().unwrap_or("none");
    ensure!(target != Path::new(""), "{}: the root is mounted already", name());
    let top = target.components().next().map(|top| top.as_os_str());
    let in_proc = top.is_some_and(|top| top == "proc");
    if in_proc && !(kind == "proc" && target == Path::new("proc")) {
        let allowed = IN_PROC.iter().any(|path| target == Path::new(path));
        ensure!(allowed && options.bind, "{}: nothing can be mounted there", name());
    }
    // A devpts holds nothing but terminals, which are to be opened.
    if !around.devices && !options.bind && kind != "devpts" {
        options.set |= NODEV;
    }
    let source = mount.source().as_deref();

    if options.bind {
        let source = source.with_context(|| format!("{}: a bind mount needs a source", name()))?;
        ensure!(
            options.parameters.is_empty(),
            "{}: not an option of a bind mount: {}",
            name(),
            options.parameters[0].0
        );
        ops.push(Op::Bind(Bind {
            source: source.into(),
            target,
            recursive: options.recursive,
            set: options.set,
            clear: options.clear,
            slave: options.slave,
            devices: around.devices || around.user_namespace,
        }));
        return Ok(());
    }
    let filesystem = |kind: &str| Filesystem {
        kind: kind.into(),
        source: source.map_or_else(|| kind.into(), |source| source.display().to_string()),
        target: target.clone(),
        attributes: options.set,
        parameters: options.parameters.clone(),
        optional: false,
    };
    match (kind, &around.cgroup) {
        ("cgroup" | "cgroup2", CgroupView::Unified { own }) => ops.push(Op::Mount(Filesystem {
            attributes: if *own { options.set } else { options.set | RDONLY },
            parameters: Vec::new(),
            optional: true,
            ..filesystem("cgroup2")
        })),
        ("cgroup" | "cgroup2", view) => {
            // Files of version 1 controllers are the host's own: they stay read-only (CVE-2022-0492), unless the
            // container has the host's devices anyway.
            let read_only = if around.devices { options.set & RDONLY } else { RDONLY };
            ops.push(Op::Mount(Filesystem {
                attributes: options.set & !RDONLY,
                parameters: vec![("mode".into(), Some("755".into()))],
                ..filesystem("tmpfs")
            }));
            if let CgroupView::Controllers(controllers) = view {
                for (controller, path) in controllers {
                    ops.push(Op::Bind(Bind {
                        source: path.clone(),
                        target: target.join(controller),
                        recursive: false,
                        set: read_only | NOSUID | NODEV | NOEXEC,
                        clear: 0,
                        slave: false,
                        devices: true,
                    }));
                }
            }
            if read_only != 0 {
                ops.push(Op::Seal(target.clone()));
            }
        }
        ("none", _) => bail!("{}: it has no type, and is no bind mount", name()),
        (kind, _) => ops.push(Op::Mount(filesystem(kind))),
    }
    Ok(())
}

/// Returns the path below the container's root that `path` means, lexically: `..` is refused.
pub(super) fn inside(path: &Path) -> Result<PathBuf> {
    let mut target = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => target.push(name),
            Component::RootDir | Component::CurDir => {}
            _ => bail!("{}: it has a `..`", path.display()),
        }
    }
    Ok(target)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bundle;

    fn planned(destination: &str, kind: &str, source: &str, options: &[&str]) -> Result<Vec<Op>> {
        let mut ops = Vec::new();
        let mount = bundle::mount(destination, kind, source, options);
        plan(&mount, &Surroundings::default(), &mut ops)?;
        Ok(ops)
    }

    #[test]
    fn a_new_filesystem_takes_its_parameters() {
        let ops = planned("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755"]);
        let Op::Mount(fs) = &ops.unwrap()[0] else { panic!("no mount") };
        assert_eq!((fs.kind.as_str(), &fs.target), ("tmpfs", &PathBuf::from("dev")));
        assert_eq!(fs.attributes, NOSUID | STRICTATIME | NODEV);
        assert_eq!(fs.parameters, [("mode".into(), Some("755".into()))]);
    }

    #[test]
    fn the_last_of_two_options_counts() {
        let ops = planned("/a/./b/", "bind", "/x", &["ro", "rw", "noatime", "relatime"]).unwrap();
        let Op::Bind(bind) = &ops[0] else { panic!("no bind") };
        assert_eq!((bind.set, bind.clear), (0, RDONLY | ATIME));
        assert_eq!(bind.target, PathBuf::from("a/b"));
        assert!(!bind.recursive);
    }

    #[test]
    fn what_cannot_be_is_refused() {
        for (destination, kind, options) in [
            ("/", "bind", &["bind"][..]),
            ("/a/../../b", "bind", &["bind"]),
            ("/a", "bind", &["rshared"]),
            ("/a", "bind", &["bind", "size=1m"]),
            ("/a", "none", &[]),
            ("/proc", "bind", &["rbind"]),
            ("/proc/sys", "bind", &["rbind"]),
            ("/proc/self/attr", "tmpfs", &[]),
        ] {
            assert!(
                planned(destination, kind, "/x", options).is_err(),
                "{destination} {options:?}"
            );
        }
    }

    #[test]
    fn a_cgroup_that_others_are_in_is_read_only_whatever_the_spec_says() {
        for (own, option, read_only) in
            [(true, "rw", false), (true, "ro", true), (false, "rw", true), (false, "ro", true)]
        {
            let cgroup = CgroupView::Unified { own };
            let around = Surroundings { cgroup, devices: true, ..Surroundings::default() };
            let mut ops = Vec::new();
            let mount = bundle::mount("/sys/fs/cgroup", "cgroup", "cgroup", &[option]);
            plan(&mount, &around, &mut ops).unwrap();
            let Op::Mount(fs) = &ops[0] else { panic!("no mount") };
            assert_eq!((fs.kind.as_str(), fs.attributes & RDONLY != 0), ("cgroup2", read_only));
        }
    }

    #[test]
    fn controllers_of_version_1_are_read_only_whatever_the_spec_says() {
        let pids = vec![("pids".into(), "/sys/fs/cgroup/pids/x".into())];
        let around =
            Surroundings { cgroup: CgroupView::Controllers(pids), ..Surroundings::default() };
        let mut ops = Vec::new();
        let mount = bundle::mount("/sys/fs/cgroup", "cgroup", "cgroup", &["rw"]);
        plan(&mount, &around, &mut ops).unwrap();
        assert!(matches!(&ops[1], Op::Bind(bind) if bind.set & RDONLY != 0));
        assert_eq!(ops[2], Op::Seal("sys/fs/cgroup".into()));
    }
}
