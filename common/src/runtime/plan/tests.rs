use serde_json::{Value, json};

use super::*;
use crate::error::line;

/// What `runc spec` writes, in short.
fn config() -> Value {
    json!({
        "ociVersion": "1.0.2-dev",
        "process": {
            "terminal": false,
            "user": {"uid": 0, "gid": 0},
            "args": ["sh"],
            "env": ["PATH=/bin"],
            "cwd": "/",
            "capabilities": {
                "bounding": ["CAP_KILL"], "effective": ["CAP_KILL"], "permitted": ["CAP_KILL"]
            },
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 512}],
            "noNewPrivileges": true
        },
        "root": {"path": "rootfs", "readonly": true},
        "hostname": "box",
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts"}
        ],
        "linux": {
            "resources": {"devices": [{"allow": false, "access": "rwm"}]},
            "namespaces": [
                {"type": "pid"}, {"type": "network"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"}
            ],
            "maskedPaths": ["/proc/kcore"],
            "readonlyPaths": ["/proc/sys"]
        }
    })
}

/// Returns the config with `value` at `pointer`.
fn with(pointer: &str, value: Value) -> Value {
    let mut config = config();
    let (parent, name) = pointer.rsplit_once('/').unwrap();
    match config.pointer_mut(parent).unwrap() {
        Value::Object(map) => drop(map.insert(name.into(), value)),
        _ => panic!("{parent} is no object"),
    }
    config
}

fn plan_in(config: Value, surrounding: &Surrounding) -> Result<Plan> {
    let spec: Spec = serde_json::from_value(config).unwrap();
    plan(&spec, &Root::Dir("/bundle/rootfs".into()), surrounding)
}

fn planned(config: Value) -> Result<Plan> {
    plan_in(config, &Surrounding::default())
}

fn lines(plan: &Plan) -> Vec<String> {
    plan.ops.iter().map(|op| op.to_string()).collect()
}

#[test]
fn a_container_is_a_list_of_operations() {
    let plan = planned(config()).unwrap();
    let expected = "\
enter the network namespace
start a session
seal the last program
make all mounts private
mount /bundle/rootfs as the root
mount proc at /proc
mount tmpfs at /dev
mount devpts at /dev/pts
make the devices
link /dev/fd to /proc/self/fd
link /dev/stdin to /proc/self/fd/0
link /dev/stdout to /proc/self/fd/1
link /dev/stderr to /proc/self/fd/2
link /dev/ptmx to pts/ptmx
make /proc/sys read-only
mask /proc/kcore
set the host name to \"box\"
take the loopback interface up
make / read-only
change the root
start a session keyring
change to /
set resource limit 7
become user 0:0
set the capabilities
tie its life to the supervisor's
set the umask to 0022
run the command
set no_new_privs
run the command";
    assert_eq!(lines(&plan).join("\n"), expected);
    let all = CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWNET;
    assert_eq!(plan.namespaces, all);
    assert_eq!(plan.args, [CString::from(c"sh")]);
}

#[test]
fn what_nobody_would_do_is_refused_by_its_name() {
    let table = [
        ("/hooks", json!({"poststart": [{"path": "/bin/true"}]}), "hooks: not supported"),
        ("/process/apparmorProfile", json!("docker-default"), "process.apparmorProfile"),
        ("/process/selinuxLabel", json!("a:b:c"), "process.selinuxLabel"),
        ("/linux/mountLabel", json!("a:b:c"), "linux.mountLabel"),
        ("/linux/personality", json!({"domain": "LINUX32"}), "linux.personality"),
        (
            "/linux/resources",
            json!({"memory": {"swappiness": 1}}),
            "linux.resources.memory.swappiness",
        ),
        ("/linux/resources", json!({"cpu": {"shares": 1}}), "linux.resources.cpu"),
        ("/linux/resources", json!({"unified": {"memory.max": "1"}}), "linux.resources.unified"),
        ("/linux/rootfsPropagation", json!("shared"), "linux.rootfsPropagation"),
        (
            "/linux/namespaces",
            json!([{"type": "pid"}]),
            "linux.namespaces: a container needs a mount",
        ),
        (
            "/linux/namespaces",
            json!([{"type": "mount"}, {"type": "pid", "path": "/proc/1/ns/pid"}]),
            "linux.namespaces: /proc/1/ns/pid",
        ),
        ("/linux/namespaces", json!([{"type": "mount"}, {"type": "user"}]), "linux.uidMappings"),
        ("/process/args", json!([]), "process.args: no command"),
        ("/process/args", json!(["a\0b"]), "process.args"),
        ("/process/cwd", json!("srv"), "process.cwd: srv: not an absolute path"),
        ("/linux/maskedPaths", json!(["/proc/../x"]), "linux.maskedPaths"),
    ];
    for (pointer, value, expected) in table {
        let err = planned(with(pointer, value)).unwrap_err();
        assert!(line(&err).starts_with(expected), "{pointer}: {}", line(&err));
    }
}

#[test]
fn what_asks_for_nothing_is_not_refused() {
    for (pointer, value) in [
        ("/hooks", json!({})),
        ("/hooks", json!({"poststart": []})),
        ("/process/apparmorProfile", json!("unconfined")),
        ("/process/selinuxLabel", json!("")),
        ("/linux/resources", json!({"memory": {}, "cpu": {}, "pids": {"limit": 10}})),
        ("/linux/resources", json!({"memory": {"limit": 1 << 30, "swap": -1}})),
        ("/linux/rootfsPropagation", json!("rprivate")),
    ] {
        planned(with(pointer, value)).unwrap();
    }
}

#[test]
fn only_sysctls_of_the_containers_own_namespaces_are_set() {
    let sysctl = |name: &str, value: &str| planned(with("/linux/sysctl", json!({name: value})));
    let plan = sysctl("net.ipv4.ip_forward", "1").unwrap();
    let op = Op::Sysctl { path: "net/ipv4/ip_forward".into(), value: "1".into() };
    assert!(plan.ops.contains(&op));
    let slashes = sysctl("net/ipv4/conf/eth0.1/forwarding", "1").unwrap();
    let path = "net/ipv4/conf/eth0.1/forwarding".into();
    assert!(slashes.ops.contains(&Op::Sysctl { path, value: "1".into() }));

    for (name, value) in [
        ("kernel.core_pattern", "|/bin/x"),
        ("kernel.shm_rmid_forced", "1\nkernel.core_pattern=x"),
        ("net.ipv4.ip_forward", "1\0"),
        ("net/../kernel/core_pattern", "x"),
        ("net..core_pattern", "x"),
        ("vm.overcommit_memory", "1"),
        ("net", ""),
        ("", ""),
    ] {
        let planned = sysctl(name, value);
        assert!(planned.is_err() || name == "net", "{name} {value:?}");
    }

    // With the host's network it would be the host's.
    let mut config = with("/linux/sysctl", json!({"net.ipv4.ip_forward": "1"}));
    config["linux"]["namespaces"] = json!([{"type": "mount"}]);
    config["hostname"] = json!("");
    let err = planned(config).unwrap_err();
    assert!(line(&err).ends_with("the container shares that with the host"), "{}", line(&err));
}

#[test]
fn no_device_opens_but_those_that_are_listed() {
    let plan = planned(config()).unwrap();
    assert!(plan.ops.iter().any(|op| matches!(op, Op::Root { devices: false, .. })));
    let nodev = |op: &Op| match op {
        Op::Mount(fs) => fs.kind == "devpts" || fs.attributes & mount::linux_attr::NODEV != 0,
        _ => true,
    };
    assert!(plan.ops.iter().all(nodev));

    let rules = json!({"devices": [
        {"allow": false, "access": "rwm"},
        {"allow": true, "type": "c", "major": 10, "minor": 229, "access": "rwm"},
        {"allow": true, "type": "c", "major": 136, "access": "rwm"},
    ]});
    let plan = planned(with("/linux/resources", rules)).unwrap();
    assert_eq!(plan.allowed, [(10, 229)]);

    let all = json!({"devices": [{"allow": true, "access": "rwm"}]});
    let plan = planned(with("/linux/resources", all)).unwrap();
    assert!(plan.ops.iter().any(|op| matches!(op, Op::Root { devices: true, .. })));
}

#[test]
fn devices_of_the_spec_take_the_place_of_ours() {
    let devices = json!([
        {"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229, "fileMode": 0o600, "uid": 7},
        {"path": "/dev/null", "type": "c", "major": 1, "minor": 3, "fileMode": 0o600},
        {"path": "/dev/console", "type": "c", "major": 5, "minor": 1},
    ]);
    let plan = planned(with("/linux/devices", devices)).unwrap();
    let nodes = plan.ops.iter().find_map(|op| match op {
        Op::Devices { nodes, .. } => Some(nodes),
        _ => None,
    });
    let nodes = nodes.unwrap();
    assert_eq!(nodes.len(), 7);
    assert_eq!(nodes[0].mode, S_IFCHR | 0o600);
    assert_eq!((&nodes[6].target, nodes[6].uid), (&PathBuf::from("dev/fuse"), 7));
    let outside = json!([{"path": "/dev/../etc/x", "type": "c", "major": 1, "minor": 3}]);
    assert!(planned(with("/linux/devices", outside)).is_err());
}

#[test]
fn without_no_new_privs_the_filter_is_installed_while_that_is_still_allowed() {
    let mut config = with("/linux/seccomp", json!({"defaultAction": "SCMP_ACT_ALLOW"}));
    let tail = |config: &Value| {
        let plan = planned(config.clone()).unwrap();
        lines(&plan)[plan.ops.len() - 4..].join(", ")
    };
    assert_eq!(
        tail(&config),
        "run the command, set no_new_privs, install the seccomp filter, run the command"
    );
    config["process"]["noNewPrivileges"] = json!(false);
    assert_eq!(
        tail(&config),
        "run the command, install the seccomp filter, set the capabilities, run the command"
    );
}

#[test]
fn in_a_user_namespace_the_hosts_nodes_are_borrowed_and_its_mappings_are_its_own() {
    let mut config = config();
    let map = json!([{"containerID": 0, "hostID": 1000, "size": 1}]);
    config["linux"]["uidMappings"] = map.clone();
    config["linux"]["gidMappings"] = map;
    config["linux"]["namespaces"] = json!([{"type": "mount"}, {"type": "uts"}, {"type": "user"}]);
    let plan = planned(config.clone()).unwrap();
    assert_eq!(plan.ops[0], Op::BecomeRoot);
    assert_eq!(plan.mappings.unwrap().uids, [(0, 1000, 1)]);
    assert!(plan.ops.iter().any(|op| matches!(op, Op::Devices { from_host: true, .. })));

    let inside = Surrounding { user_namespace: true, entered: true, ..Surrounding::default() };
    let plan = plan_in(config, &inside).unwrap();
    assert_eq!((plan.mappings, plan.namespaces & CLONE_NEWUSER), (None, 0));
    assert!(!plan.ops.contains(&Op::BecomeRoot));
}

#[test]
fn a_cgroup_namespace_begins_in_the_containers_cgroup() {
    let mut config = config();
    config["linux"]["namespaces"].as_array_mut().unwrap().push(json!({"type": "cgroup"}));
    let tasks = vec!["/sys/fs/cgroup/pids/tare/x/tasks".into()];
    let plan = plan_in(config, &Surrounding { tasks, ..Surrounding::default() }).unwrap();
    let place = |wanted: &Op| plan.ops.iter().position(|op| op == wanted);
    let joined = place(&Op::JoinCgroup("/sys/fs/cgroup/pids/tare/x/tasks".into()));
    assert!(joined.is_some() && joined < place(&Op::CgroupNamespace));
    assert!(place(&Op::CgroupNamespace) < place(&Op::Pivot));
}

#[test]
fn a_cgroup_is_entered_by_who_may() {
    let mut config = config();
    let map = json!([{"containerID": 0, "hostID": 1000, "size": 1}]);
    config["linux"]["uidMappings"] = map.clone();
    config["linux"]["gidMappings"] = map;
    config["linux"]["namespaces"] = json!([{"type": "mount"}, {"type": "uts"}, {"type": "user"}]);
    let tasks = vec!["/sys/fs/cgroup/pids/tare/x/tasks".into()];
    let plan = plan_in(config, &Surrounding { tasks, ..Surrounding::default() }).unwrap();
    assert!(matches!(plan.ops[..2], [Op::JoinCgroup(_), Op::BecomeRoot]));
}
