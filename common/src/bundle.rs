//! An image's config as an OCI runtime spec: the container that Docker would make of it.
//!
//! ```text
//! Entrypoint Cmd Env WorkingDir User    process: args, env, cwd, user      image-spec, conversion.md
//! Labels, os, created, ...              annotations
//! (nothing in the image)                mounts, namespaces, capabilities, seccomp, masks: Docker's defaults
//! ```
//!
//! Equal images and options give equal bytes, so a bundle can be compared and
//! used in Makefiles. What an image says is displayed or given to its own
//! process; it never selects how the container is confined.

mod unconfined;

use std::collections::HashMap;
use std::os::fd::AsFd;
use std::path::PathBuf;

use anyhow::{Context, Result, anyhow, ensure};
use oci_spec::image::{Config, ImageConfiguration};
use oci_spec::runtime::{
    Capabilities, Linux, LinuxDeviceCgroup, LinuxIdMapping, LinuxNamespace, LinuxNamespaceType,
    LinuxPids, LinuxResources, Mount, Process, Root, Spec, User,
};
use serde_json::Value;

pub use self::unconfined::{device, host_devices, make_writable, unconfine};
use crate::error::Hint;
use crate::passwd;
use crate::runtime::{capability, seccomp};
use crate::userns::{Mapping, Range};

/// The version of the runtime spec: crun 1.8 refuses a newer one, and nothing newer is needed.
const VERSION: &str = "1.0.2";

/// Where programs are looked for, unless the image says otherwise.
const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// How many processes and threads a container may have, as podman has it.
const PIDS: i64 = 2048;

/// What a process of the container reads as empty: it tells about the host, or changes it.
const MASKED: [&str; 12] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];

/// What it may read and not write.
const READ_ONLY: [&str; 5] =
    ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// Labels that some runtime obeys as annotations: with `run.oci.seccomp_bpf_data` an image would choose
/// crun's filter, with `org.systemd.property.` the properties of its unit.
const OBEYED: [&str; 10] = [
    "cdi.k8s.io/",
    "com.github.containers.",
    "io.containerd.",
    "io.katacontainers.",
    "io.kubernetes.",
    "io.podman.",
    "module.wasm.",
    "org.criu.",
    "org.systemd.",
    "run.oci.",
];

/// What the image does not say.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The process has a terminal.
    pub terminal: bool,
    /// The name of the machine that the container sees.
    pub hostname: Option<String>,
    /// Whom to run as instead of the image's `User`, in the same grammar.
    pub user: Option<String>,
    /// Uses the host's network.
    pub host_network: bool,
    /// Makes a user namespace with these mappings.
    pub mappings: Option<Mappings>,
    /// Leaves out what crun and runc refuse when an ordinary user runs them: limits and additional groups.
    pub unprivileged: bool,
    /// More paths to mask, as [`thermal_throttle`] finds them on this host.
    pub masked: Vec<String>,
}

/// The users and groups of a user namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mappings {
    /// The users.
    pub uids: Vec<LinuxIdMapping>,
    /// The groups.
    pub gids: Vec<LinuxIdMapping>,
}

impl From<&Mapping> for Mappings {
    fn from(mapping: &Mapping) -> Mappings {
        let list = |ranges: &[Range]| ranges.iter().map(|range| (*range).into()).collect();
        Mappings { uids: list(&mapping.uids), gids: list(&mapping.gids) }
    }
}

/// Returns whether a machine can be called so. sethostname(2) takes 64 bytes of anything; a name that is used
/// as one is of these.
pub fn is_hostname(name: &str) -> bool {
    let valid = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    (1..=64).contains(&name.len()) && name.chars().all(valid) && !name.starts_with('-')
}

/// Returns the runtime spec of a container of the image with this `config`, unpacked at `rootfs`.
pub fn spec(config: &ImageConfiguration, rootfs: impl AsFd, options: &Options) -> Result<Spec> {
    let os = config.os().to_string();
    ensure!(os == "linux", "an image for {os}, which Linux cannot run");
    let empty = Config::default();
    let image = config.config().as_ref().unwrap_or(&empty);

    let user = options.user.as_deref().or(image.user().as_deref()).unwrap_or_default();
    let user = passwd::lookup(rootfs, user)?;

    let mut spec = Spec::default();
    let mut root = Root::default();
    root.set_path("rootfs".into()).set_readonly(Some(false));
    spec.set_version(VERSION.into())
        .set_root(Some(root))
        .set_mounts(Some(mounts(options)))
        .set_process(Some(process(image, &user, options)?))
        .set_hostname(options.hostname.clone())
        .set_annotations(Some(annotations(config, image)))
        .set_linux(Some(linux(options)));
    Ok(spec)
}

/// Writes `spec` as JSON. The same spec always gives the same bytes.
pub fn to_json(spec: &Spec) -> Result<Vec<u8>> {
    let mut json = serde_json::to_value(spec).context("not a runtime spec")?;
    // Capabilities are sets, and a set has no order.
    if let Some(Value::Object(sets)) = json.pointer_mut("/process/capabilities") {
        for set in sets.values_mut().filter_map(Value::as_array_mut) {
            set.sort_by(|a, b| a.as_str().cmp(&b.as_str()));
        }
    }
    json.sort_all_objects();
    let mut bytes = serde_json::to_vec_pretty(&json)?;
    bytes.push(b'\n');
    Ok(bytes)
}

/// Returns the paths that show how often this host's processors were throttled: a side channel (moby GHSA-6fw5-f8r9-fgfm).
pub fn thermal_throttle() -> Vec<String> {
    let Ok(cpus) = std::fs::read_dir("/sys/devices/system/cpu") else { return Vec::new() };
    let paths = cpus.flatten().map(|cpu| cpu.path().join("thermal_throttle"));
    let mut found: Vec<String> = paths
        .filter(|path| path.is_dir())
        .filter_map(|path| path.into_os_string().into_string().ok())
        .collect();
    found.sort();
    found
}

/// Returns what the process is.
fn process(image: &Config, user: &passwd::User, options: &Options) -> Result<Process> {
    let mut args = image.entrypoint().clone().unwrap_or_default();
    args.extend(image.cmd().clone().unwrap_or_default());
    let cwd = image.working_dir().as_deref().unwrap_or_default();
    let env = image.env().as_deref().unwrap_or_default();
    for text in args.iter().chain(env).map(String::as_str).chain([cwd]) {
        ensure!(!text.contains('\0'), "the image's config holds a NUL: {text:?}");
    }

    let mut credentials = User::default();
    credentials.set_uid(user.uid).set_gid(user.gid);
    if let Some(mappings) = &options.mappings {
        covers(&mappings.uids, user.uid, "user")?;
        covers(&mappings.gids, user.gid, "group")?;
    }
    credentials.set_additional_gids(additional_groups(user, options));

    let mut process = Process::default();
    process
        .set_terminal(Some(options.terminal))
        .set_user(credentials)
        .set_args((!args.is_empty()).then_some(args))
        .set_env(Some(environment(env, user, options)))
        .set_cwd(PathBuf::from("/").join(cwd))
        .set_capabilities(Some(capability::of_user(
            user.uid,
            &Capabilities::from(capability::DEFAULT),
        )))
        .set_rlimits(None)
        .set_no_new_privileges(Some(false));
    Ok(process)
}

/// Sees that the namespace has `id`.
fn covers(mappings: &[LinuxIdMapping], id: u32, what: &str) -> Result<()> {
    if maps(mappings, id) {
        return Ok(());
    }
    let size: u64 = mappings.iter().map(|mapping| u64::from(mapping.size())).sum();
    Err(anyhow!("{what} {id} is not mapped: the user namespace has {size} of them"))
        .hint(|| format!("give yourself more in /etc/sub{}id", &what[..1]))
}

fn maps(mappings: &[LinuxIdMapping], id: u32) -> bool {
    mappings.iter().any(|mapping| {
        id.checked_sub(mapping.container_id()).is_some_and(|offset| offset < mapping.size())
    })
}

fn additional_groups(user: &passwd::User, options: &Options) -> Option<Vec<u32>> {
    let mut groups = user.groups.clone();
    if let Some(mappings) = &options.mappings {
        groups.retain(|gid| maps(&mappings.gids, *gid));
        // With one group alone setgroups(2) is denied: user_namespaces(7).
        if mappings.gids.iter().map(|mapping| u64::from(mapping.size())).sum::<u64>() == 1 {
            groups.clear();
        }
    }
    if options.unprivileged {
        groups.clear();
    }
    (!groups.is_empty()).then_some(groups)
}

/// Returns the environment: Docker's own variables, and the image's over them.
fn environment(image: &[String], user: &passwd::User, options: &Options) -> Vec<String> {
    let mut env = vec![PATH.to_string()];
    if let Some(hostname) = &options.hostname {
        env.push(format!("HOSTNAME={hostname}"));
    }
    if options.terminal {
        env.push("TERM=xterm".into());
    }
    for variable in image {
        set_variable(&mut env, variable);
    }
    if !env.iter().any(|variable| variable.starts_with("HOME=")) {
        env.push(format!("HOME={}", user.home));
    }
    env
}

/// Sets `variable`, a `KEY=value`, in the place that the key has already; a bare `KEY` is removed.
pub fn set_variable(env: &mut Vec<String>, variable: &str) {
    let key = variable.split('=').next().unwrap_or_default();
    let same = |other: &String| other.split('=').next() == Some(key);
    if !variable.contains('=') {
        env.retain(|other| !same(other));
    } else if let Some(place) = env.iter().position(same) {
        env[place] = variable.into();
    } else {
        env.push(variable.into());
    }
}

fn mounts(options: &Options) -> Vec<Mount> {
    let mut devpts = vec!["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"];
    if options.mappings.as_ref().is_some_and(|mappings| !maps(&mappings.gids, 5)) {
        devpts.pop();
    }
    let foreign = options.mappings.is_some() && options.host_network;
    let sys = mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", "ro"]);
    let shm = ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"];
    vec![
        mount("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
        mount("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        mount("/dev/pts", "devpts", "devpts", &devpts),
        if foreign { borrowed(sys) } else { sys },
        mount("/sys/fs/cgroup", "cgroup", "cgroup", &["ro", "nosuid", "noexec", "nodev"]),
        mount("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
        mount("/dev/shm", "tmpfs", "shm", &shm),
    ]
}

/// Makes the container see the host's sysfs, read-only.
///
/// A user namespace can only mount the sysfs of a network namespace that it
/// owns, so without one it has to take what there is.
pub fn borrow_sysfs(spec: &mut Spec) {
    let Some(mounts) = spec.mounts_mut() else { return };
    for sys in mounts.iter_mut().filter(|mount| mount.typ().as_deref() == Some("sysfs")) {
        *sys = borrowed(std::mem::take(sys));
    }
}

/// Returns a mount of sysfs as one of the host's sysfs.
fn borrowed(mut sys: Mount) -> Mount {
    let mut options = sys.options().clone().unwrap_or_default();
    options.insert(0, "rbind".into());
    sys.set_typ(Some("none".into())).set_source(Some("/sys".into())).set_options(Some(options));
    sys
}

/// Returns one mount.
pub fn mount(destination: &str, kind: &str, source: &str, options: &[&str]) -> Mount {
    let options = options.iter().map(|option| option.to_string()).collect();
    let mut mount = Mount::default();
    mount
        .set_destination(destination.into())
        .set_typ(Some(kind.into()))
        .set_source(Some(source.into()))
        .set_options(Some(options));
    mount
}

fn linux(options: &Options) -> Linux {
    use LinuxNamespaceType::{Cgroup, Ipc, Mount, Network, Pid, User, Uts};
    let mut kinds = vec![Pid, Ipc, Uts, Mount, Cgroup];
    if !options.host_network {
        kinds.push(Network);
    }
    if options.mappings.is_some() {
        kinds.push(User);
    }
    let namespaces = kinds.into_iter().map(|kind| {
        let mut namespace = LinuxNamespace::default();
        namespace.set_typ(kind);
        namespace
    });

    let strings = |paths: &[&str]| paths.iter().map(|path| path.to_string()).collect::<Vec<_>>();
    let mut masked = strings(&MASKED);
    masked.extend(options.masked.iter().cloned());

    let mut linux = Linux::default();
    linux
        .set_sysctl((!options.host_network).then(|| sysctls(options)))
        .set_resources((!options.unprivileged).then(resources))
        .set_namespaces(Some(namespaces.collect()))
        .set_seccomp(seccomp::default_profile(&Capabilities::from(capability::DEFAULT)))
        .set_masked_paths(Some(masked))
        .set_readonly_paths(Some(strings(&READ_ONLY)))
        .set_uid_mappings(options.mappings.as_ref().map(|mappings| mappings.uids.clone()))
        .set_gid_mappings(options.mappings.as_ref().map(|mappings| mappings.gids.clone()));
    linux
}

/// Returns what Docker sets in a network namespace: any user may have a low port, and send a ping.
fn sysctls(options: &Options) -> HashMap<String, String> {
    let mut sysctls = HashMap::new();
    sysctls.insert("net.ipv4.ip_unprivileged_port_start".into(), "0".into());
    // All groups of the range must be mapped.
    if options.mappings.is_none() {
        sysctls.insert("net.ipv4.ping_group_range".into(), "0 2147483647".into());
    }
    sysctls
}

/// Returns the limits: no device but the usual ones, which every runtime adds, and a number of processes.
fn resources() -> LinuxResources {
    let mut devices = LinuxDeviceCgroup::default();
    devices.set_allow(false).set_access(Some("rwm".into()));
    let mut pids = LinuxPids::default();
    pids.set_limit(PIDS);
    let mut resources = LinuxResources::default();
    resources.set_devices(Some(vec![devices])).set_pids(Some(pids));
    resources
}

/// Returns what the image says about itself. A label wins over the config's own fields: conversion.md, Annotation Fields.
fn annotations(config: &ImageConfiguration, image: &Config) -> HashMap<String, String> {
    let mut ports = image.exposed_ports().clone().unwrap_or_default();
    ports.sort(); // of a map, in no order
    let features = config.os_features().clone().unwrap_or_default();
    let own = [
        ("os", Some(config.os().to_string())),
        ("architecture", Some(config.architecture().to_string())),
        ("variant", config.variant().clone()),
        ("os.version", config.os_version().clone()),
        ("os.features", Some(features.join(","))),
        ("author", config.author().clone()),
        ("created", config.created().clone()),
        ("stopSignal", image.stop_signal().clone()),
        ("exposedPorts", Some(ports.join(","))),
    ];
    let mut annotations = HashMap::new();
    for (key, value) in own {
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            annotations.insert(format!("org.opencontainers.image.{key}"), value);
        }
    }
    for (key, value) in image.labels().iter().flatten() {
        let obeyed = OBEYED.iter().any(|prefix| key.starts_with(prefix));
        if !key.is_empty() && !obeyed {
            annotations.insert(key.clone(), value.clone());
        }
    }
    annotations
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};

    use oci_spec::runtime::LinuxIdMappingBuilder;
    use serde_json::json;
    use tempfile::TempDir;

    use super::*;
    use crate::error::{hint_of, line};

    /// A tree with two users.
    fn tree() -> TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("etc")).unwrap();
        let passwd = "root:x:0:0::/root:/bin/sh\napp:x:1000:1000::/home/app:/bin/sh\n";
        fs::write(dir.path().join("etc/passwd"), passwd).unwrap();
        let group = "root:x:0:\nbin:x:1:root\napp:x:1000:\nextra:x:5:app\n";
        fs::write(dir.path().join("etc/group"), group).unwrap();
        dir
    }

    fn image(config: Value) -> ImageConfiguration {
        let json = json!({
            "architecture": "amd64", "os": "linux", "config": config,
            "rootfs": { "type": "layers", "diff_ids": [] },
        });
        serde_json::from_value(json).unwrap()
    }

    fn made(config: Value, options: &Options) -> Result<Value> {
        let tree = tree();
        let spec = spec(&image(config), File::open(tree.path()).unwrap(), options)?;
        Ok(serde_json::from_slice(&to_json(&spec)?)?)
    }

    /// One user or group in the namespace for each of the sizes, and the first is the caller's.
    fn mappings(size: u32) -> Mappings {
        let range = |container: u32, host: u32, size: u32| {
            let range = LinuxIdMappingBuilder::default().container_id(container).host_id(host);
            range.size(size).build().unwrap()
        };
        let mut ranges = vec![range(0, 1001, 1)];
        if size > 1 {
            ranges.push(range(1, 100_000, size - 1));
        }
        Mappings { uids: ranges.clone(), gids: ranges }
    }

    #[test]
    fn the_spec_is_the_container_that_docker_would_make() {
        let config = json!({
            "User": "app", "Env": ["PATH=/bin", "A=b", "A=c"], "Entrypoint": ["/entry"],
            "Cmd": ["a b", "c"], "WorkingDir": "/srv", "StopSignal": "SIGINT",
            "ExposedPorts": { "80/tcp": {}, "443/tcp": {} }, "Volumes": { "/data": {} },
            "Labels": { "team": "tare", "org.opencontainers.image.author": "me" },
        });
        let options = Options { hostname: Some("box".into()), ..Options::default() };
        let mut made = made(config, &options).unwrap();
        let seccomp = made["linux"].as_object_mut().unwrap().remove("seccomp").unwrap();
        assert_eq!(seccomp["defaultAction"], "SCMP_ACT_ERRNO");

        let bounding = [
            "CAP_AUDIT_WRITE",
            "CAP_CHOWN",
            "CAP_DAC_OVERRIDE",
            "CAP_FOWNER",
            "CAP_FSETID",
            "CAP_KILL",
            "CAP_MKNOD",
            "CAP_NET_BIND_SERVICE",
            "CAP_NET_RAW",
            "CAP_SETFCAP",
            "CAP_SETGID",
            "CAP_SETPCAP",
            "CAP_SETUID",
            "CAP_SYS_CHROOT",
        ];
        let expected = json!({
            "ociVersion": "1.0.2",
            "root": { "path": "rootfs", "readonly": false },
            "hostname": "box",
            "annotations": {
                "org.opencontainers.image.architecture": "amd64",
                "org.opencontainers.image.author": "me",
                "org.opencontainers.image.exposedPorts": "443/tcp,80/tcp",
                "org.opencontainers.image.os": "linux",
                "org.opencontainers.image.stopSignal": "SIGINT",
                "team": "tare",
            },
            "process": {
                "terminal": false,
                "user": { "uid": 1000, "gid": 1000, "additionalGids": [1000, 5] },
                "args": ["/entry", "a b", "c"],
                "env": ["PATH=/bin", "HOSTNAME=box", "A=c", "HOME=/home/app"],
                "cwd": "/srv",
                "capabilities": { "bounding": bounding, "effective": [], "permitted": [] },
                "noNewPrivileges": false,
            },
            "mounts": [
                { "destination": "/proc", "type": "proc", "source": "proc",
                  "options": ["nosuid", "noexec", "nodev"] },
                { "destination": "/dev", "type": "tmpfs", "source": "tmpfs",
                  "options": ["nosuid", "strictatime", "mode=755", "size=65536k"] },
                { "destination": "/dev/pts", "type": "devpts", "source": "devpts",
                  "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"] },
                { "destination": "/sys", "type": "sysfs", "source": "sysfs",
                  "options": ["nosuid", "noexec", "nodev", "ro"] },
                { "destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
                  "options": ["ro", "nosuid", "noexec", "nodev"] },
                { "destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue",
                  "options": ["nosuid", "noexec", "nodev"] },
                { "destination": "/dev/shm", "type": "tmpfs", "source": "shm",
                  "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"] },
            ],
            "linux": {
                "resources": {
                    "devices": [{ "allow": false, "access": "rwm" }], "pids": { "limit": 2048 },
                },
                "namespaces": [
                    { "type": "pid" }, { "type": "ipc" }, { "type": "uts" }, { "type": "mount" },
                    { "type": "cgroup" }, { "type": "network" },
                ],
                "sysctl": {
                    "net.ipv4.ip_unprivileged_port_start": "0",
                    "net.ipv4.ping_group_range": "0 2147483647",
                },
                "maskedPaths": MASKED,
                "readonlyPaths": READ_ONLY,
            },
        });
        assert_eq!(made, expected);
    }

    #[test]
    fn the_same_image_always_gives_the_same_bytes() {
        let labels: HashMap<String, String> =
            (0..50).map(|n| (format!("label{n}"), n.to_string())).collect();
        let ports: HashMap<String, Value> =
            (0..50).map(|n| (format!("{n}/tcp"), json!({}))).collect();
        let json = json!({ "Cmd": ["sh"], "Labels": labels, "ExposedPorts": ports }).to_string();
        let tree = tree();
        let bytes = || {
            // Read anew: every map of Rust's has its own order.
            let config = image(serde_json::from_str(&json).unwrap());
            let root = File::open(tree.path()).unwrap();
            to_json(&spec(&config, root, &Options::default()).unwrap()).unwrap()
        };
        let first = bytes();
        assert!(first.ends_with(b"}\n"));
        for _ in 0..8 {
            assert_eq!(bytes(), first);
        }
    }

    #[test]
    fn root_holds_its_capabilities() {
        let made = made(json!({ "Cmd": ["sh"] }), &Options::default()).unwrap();
        let sets = &made["process"]["capabilities"];
        assert_eq!(sets["effective"].as_array().unwrap().len(), 14);
        assert_eq!(sets["effective"], sets["bounding"]);
        assert_eq!(sets["effective"], sets["permitted"]);
        assert!(sets.get("inheritable").is_none() && sets.get("ambient").is_none());
        assert_eq!(
            made["process"]["user"],
            json!({ "uid": 0, "gid": 0, "additionalGids": [0, 1] })
        );
    }

    #[test]
    fn the_environment_is_dockers_with_the_images_over_it() {
        let table = [
            (json!([]), vec![PATH, "HOME=/root"]),
            (json!(["HOME=/x", "A="]), vec![PATH, "HOME=/x", "A="]),
            (json!(["PATH", "B=1"]), vec!["B=1", "HOME=/root"]),
            (json!(["B=1", "PATH=/p", "B=2=3"]), vec!["PATH=/p", "B=2=3", "HOME=/root"]),
            (json!(["TERM=dumb"]), vec![PATH, "TERM=dumb", "HOME=/root"]),
        ];
        for (env, expected) in table {
            let made = made(json!({ "Env": env }), &Options::default()).unwrap();
            assert_eq!(made["process"]["env"], json!(expected));
        }
        let terminal = Options { terminal: true, ..Options::default() };
        let made = made(json!({}), &terminal).unwrap();
        assert_eq!(made["process"]["env"], json!([PATH, "TERM=xterm", "HOME=/root"]));
        assert_eq!(made["process"]["terminal"], json!(true));
    }

    #[test]
    fn a_relative_or_missing_working_directory_is_below_the_root() {
        for (dir, expected) in [(json!(null), "/"), (json!(""), "/"), (json!("a/b"), "/a/b")] {
            let made = made(json!({ "WorkingDir": dir }), &Options::default()).unwrap();
            assert_eq!(made["process"]["cwd"], expected);
        }
    }

    #[test]
    fn a_label_never_becomes_an_order_to_a_runtime() {
        let keys = [
            "run.oci.seccomp_bpf_data",
            "run.oci.handler",
            "org.systemd.property.ExecStopPost",
            "org.criu.config",
            "module.wasm.image/variant",
            "io.kubernetes.cri.container-type",
            "cdi.k8s.io/gpu",
            "io.podman.annotations.privileged",
            "",
        ];
        let labels: HashMap<&str, &str> = keys.into_iter().map(|key| (key, "x")).collect();
        let made = made(json!({ "Labels": labels }), &Options::default()).unwrap();
        let annotations = made["annotations"].as_object().unwrap();
        assert!(annotations.keys().all(|key| key.starts_with("org.opencontainers.image.")));
    }

    #[test]
    fn a_user_namespace_leaves_out_what_it_cannot_have() {
        let find = |made: &Value, path: &str| {
            let mounts = made["mounts"].as_array().unwrap();
            mounts.iter().find(|mount| mount["destination"] == path).unwrap().clone()
        };
        let config = || json!({ "Cmd": ["sh"] });

        let alone = Options { mappings: Some(mappings(1)), ..Options::default() };
        let small = made(config(), &alone).unwrap();
        assert_eq!(small["process"]["user"], json!({ "uid": 0, "gid": 0 }));
        assert!(!find(&small, "/dev/pts").to_string().contains("gid=5"));
        assert_eq!(find(&small, "/sys")["type"], "sysfs");
        assert_eq!(
            small["linux"]["uidMappings"],
            json!([{ "containerID": 0, "hostID": 1001, "size": 1 }])
        );

        let host = Options {
            mappings: Some(mappings(65536)),
            host_network: true,
            unprivileged: true,
            ..Options::default()
        };
        let large = made(config(), &host).unwrap();
        assert!(find(&large, "/dev/pts").to_string().contains("gid=5"));
        assert_eq!(find(&large, "/sys")["source"], "/sys");
        assert_eq!(large["process"]["user"], json!({ "uid": 0, "gid": 0 }));
        assert!(large["linux"].get("resources").is_none());
        let namespaces = large["linux"]["namespaces"].to_string();
        assert!(namespaces.contains("user") && !namespaces.contains("network"));
    }

    #[test]
    fn a_user_that_is_not_mapped_is_an_error_with_a_hint() {
        let options = Options { mappings: Some(mappings(1)), ..Options::default() };
        let err = made(json!({ "User": "app" }), &options).unwrap_err();
        assert_eq!(line(&err), "user 1000 is not mapped: the user namespace has 1 of them");
        assert_eq!(hint_of(&err), Some("give yourself more in /etc/subuid"));
    }

    #[test]
    fn another_user_may_be_asked_for() {
        let options = Options { user: Some("0:5".into()), ..Options::default() };
        let made = made(json!({ "User": "nobody-here" }), &options).unwrap();
        assert_eq!(made["process"]["user"], json!({ "uid": 0, "gid": 5, "additionalGids": [5] }));
    }

    #[test]
    fn an_image_that_cannot_run_is_refused() {
        for config in [
            json!({ "User": "missing" }),
            json!({ "Cmd": ["a\0b"] }),
            json!({ "Env": ["A=\0"] }),
            json!({ "WorkingDir": "/\0" }),
        ] {
            assert!(made(config, &Options::default()).is_err());
        }
        let mut windows = image(json!({}));
        windows.set_os(oci_spec::image::Os::Windows);
        let tree = tree();
        let err =
            spec(&windows, File::open(tree.path()).unwrap(), &Options::default()).unwrap_err();
        assert_eq!(line(&err), "an image for windows, which Linux cannot run");
    }
}
