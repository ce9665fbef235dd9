//! Images and bundles whose configs are odd: read as they are, or refused; the host is nowhere in them.

use std::fmt::Write as _;

use sandbox::image::{Image, PATH, busybox, busybox_layer};
use sandbox::{Sandbox, lacks};
use serde_json::{Value, json};

use super::{PROBE, bait, bundle, of_either_user, sandbox, with_probe};

/// Returns a sandbox with an image of this config, `odd`, for each kind of user.
fn image(config: Value) -> [Sandbox; 2] {
    let mut config = config;
    config["Env"] = json!([PATH]);
    let image = busybox().with_config(&config);
    [Sandbox::new(), Sandbox::new().as_user()].map(|t| {
        t.store(&image, "odd");
        with_probe(t)
    })
}

#[test]
fn nobody_becomes_root_by_an_odd_user() {
    for user in [
        "4294967296",
        "-1",
        "1000:",
        ":0",
        ":",
        "missing",
        "0x0",
        "1 ",
        " ",
        "1000:missing",
        "+0",
        "0\n",
        "2147483648",
        "99999999999999999999",
        "app:-1",
        "root/..",
        "app,root",
        "\u{0660}",
    ] {
        for t in image(json!({ "User": user, "Cmd": ["id", "-u"] })) {
            let run = t.sh("ctr-spawn --rm odd").exits(125).says("user ");
            assert!(run.stdout.is_empty(), "{user:?}");
        }
    }
    for t in image(json!({ "User": "1000", "Cmd": ["id", "-u"] })) {
        t.sh("ctr-spawn --rm odd").prints("1000\n");
        for user in ["4294967296", "-1", "1000:", ":0", "0x0", "'1 '"] {
            t.sh(&format!("ctr-spawn --rm --user={user} odd")).exits(125);
        }
    }
}

#[test]
fn a_working_directory_is_in_the_container_whoever_names_it() {
    let descriptors = (3..20).map(|fd| format!("/proc/self/fd/{fd}"));
    let links = [
        "/proc/self/cwd",
        "/proc/1/cwd",
        "/proc/self/root",
        "/proc/self/fd/8/../..",
        "/proc/thread-self/fd/9",
    ];
    for dir in descriptors.chain(links.map(String::from)) {
        let config = json!({ "Env": [PATH], "WorkingDir": dir, "Cmd": ["sh", "-c", "pwd; cat file bait/file"] });
        let image = busybox().with_config(&config);
        for t in [Sandbox::new(), Sandbox::new().as_user()] {
            t.store(&image, "odd");
            let check = bait(&t);
            let run =
                t.sh(&format!("ctr-spawn --rm odd 7<. 8<bait 9</ 10<bait/dir; echo $?; {check}"));
            let text = run.text();
            assert_eq!(text, "125\n", "{dir}");
        }
    }
    for (dir, expected) in [
        ("/../../..", "/\n"),
        ("../..", "/\n"),
        ("/a/../b/.", "/b\n"),
        ("", "/\n"),
        ("rel", "/rel\n"),
    ] {
        for t in image(json!({ "WorkingDir": dir, "Cmd": ["pwd"] })) {
            let run = t.sh("ctr-spawn --rm odd");
            // One that has to be made and has `..` in it is refused.
            if run.code != 125 {
                run.prints(expected);
            }
        }
    }
}

#[test]
fn volumes_of_an_image_reach_nothing_of_the_host() {
    let layer = format!("ln -s /proc/1/root/etc link; {}", sandbox::image::PACK);
    let base = Image::new(&[&busybox_layer(), &layer], &json!({}));
    for path in [
        "/../../../../../../etc",
        "/proc/self/fd/8",
        "/proc",
        "/",
        "",
        "..",
        "/link",
        "/dev/null",
        "/proc/1/root/etc",
        "/a\0b",
    ] {
        let config = json!({ "Env": [PATH], "Volumes": { path: {} }, "Cmd": ["true"] });
        let image = base.with_config(&config);
        for t in [Sandbox::new(), Sandbox::new().as_user()] {
            t.store(&image, "odd");
            let check = bait(&t);
            let run = t.sh(&format!(
                "ctr-spawn --rm odd grep -rc tare-test /etc/passwd 8<bait; {check}; true"
            ));
            assert_eq!(run.stdout, b"0\n", "{path:?}");
        }
    }
}

#[test]
fn a_long_list_is_handled_or_refused() {
    let t = sandbox();
    // 3000 mounts, 200 KiB of them; CVE-2021-43784 had 16 bits for their length.
    bundle(
        &t,
        ".mounts += [range(1000) | {destination: \"/m/\\(.)/a-rather-long-name-for-a-directory-that-is-mounted\", type: \"tmpfs\", source: \"tmpfs\", options: [\"size=4k\", \"mode=755\"]}]",
    );
    t.sh("wc -c <b/config.json | awk '{ print ($1 > 65536) }'; ctr-spawn --bundle b sh -c 'grep -c \" /m/\" /proc/self/mountinfo'")
        .prints("1\n1000\n");
    bundle(
        &t,
        ".process.env += [range(3000) | \"V\\(.)=some value of a variable that is not short\"]",
    );
    t.sh("ctr-spawn --bundle b sh -c 'env | grep -c ^V'").prints("3000\n");
    bundle(&t, ".process.args = [\"true\", ([range(300000)] | map(\"x\") | join(\"\"))]");
    t.sh("ctr-spawn --bundle b").exits(126).says("Argument list too long");
    bundle(
        &t,
        ".linux.maskedPaths += [range(3000) | \"/etc/no/such/path/\\(.)\"] | .linux.sysctl = ([range(300) | {key: \"net.ipv4.conf.lo\\(.).x\", value: \"1\"}] | from_entries)",
    );
    t.sh("ctr-spawn --bundle b true").exits(125).says("set the sysctl");
}

#[test]
fn a_map_of_ids_is_the_kernels_to_judge() {
    let t = sandbox();
    if lacks(&["root"]) {
        return;
    }
    let with = |uids: &str| {
        bundle(
            &t,
            &format!(
                ".linux.namespaces += [{{\"type\": \"user\"}}] | .linux.uidMappings = {uids} | .linux.gidMappings = {uids} | del(.linux.resources, .linux.sysctl)"
            ),
        );
        t.sh("chown -R 100000:100000 b/rootfs; chmod 755 . b b/rootfs").is_silent();
    };
    with("[{containerID: 0, hostID: 100000, size: 65536}]");
    t.sh("ctr-spawn --bundle b cat /proc/self/uid_map | tr -s \" \"").prints(" 0 100000 65536\n");
    for (uids, said) in [
        ("[]", "linux.uidMappings"),
        // More than the 340 lines that the kernel takes.
        (
            "[range(400) | {containerID: (. * 2), hostID: (100000 + . * 2), size: 1}]",
            "linux.uidMappings",
        ),
        ("[{containerID: 0, hostID: 100000, size: 0}]", "linux.uidMappings"),
        (
            "[{containerID: 0, hostID: 100000, size: 10}, {containerID: 5, hostID: 200000, size: 10}]",
            "linux.uidMappings",
        ),
        ("[{containerID: 0, hostID: 4294967295, size: 10}]", "linux.uidMappings"),
        ("[{containerID: 1, hostID: 100000, size: 10}]", ""),
    ] {
        with(uids);
        let run = t.sh("ctr-spawn --bundle b true").exits(125).says(said);
        assert!(run.took.as_secs() < 10);
    }
    // Many, but no more than it takes: 300 lines are some 6 KiB, which it wants in one write.
    with("[range(150) | {containerID: ., hostID: (100000 + .), size: 1}]");
    t.sh("ctr-spawn --bundle b sh -c 'id -u'").prints("0\n");
}

/// A change to a config.json that is an error, and what is said of it.
const WRONG: &[(&str, &str)] = &[
    (".hooks.prestart = [{path: \"/bin/sh\"}]", "hooks"),
    (
        ".hooks.createRuntime = [{path: \"/bin/sh\", args: [\"sh\", \"-c\", \"touch bitten\"]}]",
        "hooks",
    ),
    (".hooks.createContainer = [{path: \"/bin/sh\"}]", "hooks"),
    (".hooks.startContainer = [{path: \"/bin/sh\"}]", "hooks"),
    (".hooks.poststop = [{path: \"/bin/sh\"}]", "hooks"),
    (".linux.namespaces += [{type: \"other\"}]", "config.json"),
    (".linux.namespaces = []", "linux.namespaces: "),
    (".linux.namespaces |= map(select(.type != \"mount\"))", "mount namespace"),
    (
        ".linux.namespaces |= map(if .type == \"pid\" then .path = \"/proc/1/ns/pid\" else . end)",
        "cannot be joined",
    ),
    (
        ".linux.namespaces |= map(if .type == \"mount\" then .path = \"/proc/1/ns/mnt\" else . end)",
        "cannot be joined",
    ),
    (
        "del(.linux.sysctl) | .linux.namespaces |= map(if .type == \"network\" then .path = \"/etc/passwd\" else . end)",
        "/etc/passwd",
    ),
    (
        "del(.linux.sysctl) | .linux.namespaces |= map(if .type == \"network\" then .path = \"/no/such\" else . end)",
        "/no/such",
    ),
    (
        "del(.linux.sysctl) | .linux.namespaces |= map(if .type == \"network\" then .path = \"/proc/1/ns/uts\" else . end)",
        "/proc/1/ns/uts",
    ),
    (".process.oomScoreAdj = 1001", "oom_score_adj"),
    (".process.oomScoreAdj = -99999999999", "config.json"),
    (".process.user.uid = -1", "config.json"),
    (".process.user.uid = 4294967296", "config.json"),
    (".process.user.uid = 4294967295", "not an id"),
    (".process.user.additionalGids = [1, 4294967295]", "not an id"),
    (
        ".linux.devices = [{path: \"/dev/x\", type: \"c\", major: 1, minor: 3, gid: 4294967295}]",
        "not an id",
    ),
    (".process.rlimits = [{type: \"RLIMIT_NOFILE\", soft: 10, hard: 5}]", "resource limit"),
    (".process.rlimits = [{type: \"RLIMIT_NOFILE\", soft: -1, hard: 5}]", "config.json"),
    (".process.rlimits = [{type: \"RLIMIT_ODD\", soft: 1, hard: 5}]", "config.json"),
    (".process.cwd = \"relative\"", "process.cwd"),
    (".process.env = [\"a\\u0000b\"]", "process.env"),
    ("del(.process)", "process"),
    ("del(.root)", "root"),
    ("del(.linux)", "linux"),
    (".root.path = \"none\"", "none"),
    (".root.path = \"rootfs/bin/sh\"", "rootfs/bin/sh"),
    (
        ".mounts += [{destination: \"/proc/self/attr\", type: \"tmpfs\", source: \"tmpfs\"}]",
        "/proc/self/attr",
    ),
    (
        ".mounts += [{destination: \"/proc/sys\", type: \"bind\", source: \"/etc\", options: [\"rbind\"]}]",
        "/proc/sys",
    ),
    (
        ".mounts += [{destination: \"/proc\", type: \"bind\", source: \"/proc\", options: [\"rbind\"]}]",
        "/proc",
    ),
    (
        ".mounts += [{destination: \"/\", type: \"bind\", source: \"/\", options: [\"rbind\"]}]",
        "the root is mounted already",
    ),
    (".mounts += [{destination: \"/a/../../b\", type: \"tmpfs\", source: \"tmpfs\"}]", "`..`"),
    (
        ".mounts += [{destination: \"/a\", type: \"bind\", source: \"/etc\", options: [\"rbind\", \"rshared\"]}]",
        "shared",
    ),
    (".mounts += [{destination: \"/a\", type: \"no-such-fs\", source: \"x\"}]", "no-such-fs"),
    (
        ".mounts += [{destination: \"/a\", type: \"tmpfs\", source: \"x\", options: [\"size=-1\"]}]",
        "tmpfs",
    ),
    (
        ".mounts += [{destination: \"/a\", type: \"overlay\", source: \"x\", options: [\"lowerdir=/etc:/usr\", \"bogus\"]}]",
        "overlay",
    ),
    (".linux.sysctl = {\"kernel.core_pattern\": \"|/x\"}", "kernel.core_pattern"),
    (
        ".linux.sysctl = {\"kernel.shm_rmid_forced\": \"1+kernel.core_pattern=|/x\"}",
        "shm_rmid_forced",
    ),
    (".linux.sysctl = {\"net/../kernel/core_pattern\": \"|/x\"}", "not the name of a sysctl"),
    (".linux.sysctl = {\"net.ipv4.ip_forward\": \"1\\n1\"}", "not a value"),
    (".linux.sysctl = {\"kernel.shmmax\": \"1\\u0000\"}", "not a value"),
    (".linux.devices = [{path: \"/dev/../../x\", type: \"c\", major: 1, minor: 3}]", "`..`"),
    (".linux.devices = [{path: \"/dev/x\", type: \"c\", major: -5, minor: 3}]", "/dev/x"),
    (".linux.devices = [{path: \"/dev/x\", type: \"q\", major: 5, minor: 3}]", "config.json"),
    (".linux.resources.memory.limit = -5", "memory"),
    (".linux.resources.cpu.cpus = \"-1\"", "cpu"),
    (".linux.resources.cpu.cpus = \"0-99999999999\"", "cpu"),
    (".linux.resources.pids.limit = 99999999999999999999999", "config.json"),
    (
        ".linux.seccomp.syscalls += [{names: [\"read\"], action: \"SCMP_ACT_ERRNO\", errnoRet: 5000}]",
        "5000",
    ),
    (".linux.seccomp.syscalls += [{names: [\"read\"], action: \"SCMP_ACT_NOTIFY\"}]", "NOTIFY"),
    (
        ".linux.seccomp.syscalls += [{names: [\"read\"], action: \"SCMP_ACT_ALLOW\", args: [{index: 6, value: 0, op: \"SCMP_CMP_EQ\"}]}]",
        "argument 6",
    ),
    (".linux.seccomp.listenerPath = \"/tmp/x\"", "listener"),
    (".linux.maskedPaths = [\"/a/../../b\"]", "maskedPaths"),
    (".linux.rootfsPropagation = \"shared\"", "shared"),
    (".process.apparmorProfile = \"x\"", "apparmorProfile"),
    (".process.selinuxLabel = \"x\"", "selinuxLabel"),
    (".process.capabilities.bounding = [\"CAP_ODD\"]", "config.json"),
];

#[test]
fn what_a_config_asks_for_wrongly_is_refused_by_its_name() {
    of_either_user(|t| {
        bundle(t, ".");
        let check = bait(t);
        // In one shell, for there are many.
        let mut script = String::from(
            "cp b/config.json good.json; run() { ctr-spawn --bundle b true 8<bait >/dev/null 2>err; echo $?; grep -cF -- \"$1\" err; [ $(wc -l <err) -le 2 ] || cat err; }\n",
        );
        for (change, said) in WRONG {
            let said = said.replace('`', "\\`");
            writeln!(
                script,
                "jq '{change}' good.json >b/config.json && run \"{said}\" | tr '\\n' ' ' && cat err"
            )
            .unwrap();
        }
        script.push_str(check);
        let text = String::from_utf8(t.sh(&script).stdout).unwrap();
        let mut lines = text.lines();
        for (change, said) in WRONG {
            let line = lines.next().unwrap_or_default();
            assert!(line.starts_with("125 1 "), "{change}: no {said:?} in: {line}");
            // A hint has a line of its own.
            lines = match lines.clone().next() {
                Some(hint) if hint.starts_with("hint: ") => {
                    lines.next();
                    lines
                }
                _ => lines,
            };
        }
        assert_eq!(lines.next(), None);
    });
}

#[test]
fn a_config_that_is_no_config_is_an_error() {
    of_either_user(|t| {
        bundle(t, ".");
        t.sh("cp b/config.json good.json").is_silent();
        for make in [
            "rm b/config.json",
            ": >b/config.json",
            "echo '{' >b/config.json",
            "echo 'null' >b/config.json",
            "echo '[]' >b/config.json",
            "{ cat good.json; echo x; } >b/config.json",
            "head -c 100 good.json >b/config.json",
            "truncate -s 17M b/config.json",
            "truncate -s 1T b/config.json",
            "yes '[' | head -100000 | tr -d '\\n' >b/config.json",
            "{ printf '{\"a\":'; yes '{\"a\":' | head -100000 | tr -d '\\n'; } >b/config.json",
            "ln -sf /dev/zero b/config.json",
            "rm b/config.json; mkdir b/config.json",
            "rm -r b/config.json; mkfifo b/config.json",
            "printf '\\377\\376{}' >good; rm b/config.json; cp good b/config.json",
        ] {
            let run = t.sh(&format!("{make}; timeout 20 ctr-spawn --bundle b true")).exits(125);
            assert!(run.says("config.json").stdout.is_empty(), "{make}");
        }
    });
}

#[test]
fn a_container_without_a_pid_namespace_ends_as_a_whole() {
    if lacks(&["root"]) {
        return;
    }
    let t = sandbox();
    bundle(&t, ".linux.namespaces |= map(select(.type != \"pid\")) | del(.linux.resources)");
    let script = format!(
        "ctr-spawn {PROBE} --bundle b sh -c 'sleep 1003 & (sleep 1004 &) ; /probe survive /bin/sleep 1005 & sleep .2; exit 3'; echo $?
         pgrep -f 'sleep 100[345]$'; true"
    );
    t.sh(&script).prints("3\n");
    t.sh(&format!(
        "timeout -s INT --preserve-status 1 {}",
        "ctr-spawn --bundle b sh -c '(sleep 1006 &); sleep 1007'; pgrep -f 'sleep 100[67]$'"
    ))
    .exits(1);
}
