//! Docker's defaults, as the kernel says from inside that they are: reference values, one by one.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use sandbox::lacks;

use super::{PROBE, bundle, of_either_user, sandbox};

/// What is read as empty, if the kernel has it.
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

/// What is there to be read only.
const READ_ONLY: [&str; 5] =
    ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

#[test]
fn the_credentials_are_dockers() {
    let fields = "grep -E '^(Uid|Gid|Groups|Umask|Cap|Seccomp:|NoNewPrivs|Sig(Ign|Blk)|THP_enabled)' /proc/self/status";
    let expected = |ids: &str, groups: &str, effective: &str| {
        format!(
            "Umask:\t0022\nUid:{ids}\nGid:{ids}\nGroups:\t{groups} \n\
             SigBlk:\t0000000000000000\nSigIgn:\t0000000000000000\n\
             CapInh:\t0000000000000000\nCapPrm:\t{effective}\nCapEff:\t{effective}\n\
             CapBnd:\t00000000a80425fb\nCapAmb:\t0000000000000000\nNoNewPrivs:\t0\nSeccomp:\t2\n"
        )
    };
    of_either_user(|t| {
        for options in ["", "--init", "--network host", "--read-only"] {
            let run = t.sh(&format!(
                "trap '' HUP INT QUIT PIPE TERM USR1; umask 077; ctr-spawn --rm {options} app {fields}"
            ));
            let text = run.text().replace("THP_enabled:\t1\n", "");
            assert_eq!(text, expected("\t0\t0\t0\t0", "0 10", "00000000a80425fb"), "{options}");
        }
        let run = t.sh(&format!("ctr-spawn --rm -u app app {fields}"));
        let text = run.text().replace("THP_enabled:\t1\n", "");
        let ids = "\t1000\t1000\t1000\t1000";
        assert_eq!(text, expected(ids, "50 1000", "0000000000000000"));
    });
}

#[test]
fn a_process_that_becomes_root_has_no_more_than_the_container() {
    let t = sandbox();
    bundle(&t, ".process.user = {\"uid\": 1000, \"gid\": 1000}");
    t.sh("cp probe b/rootfs/probe; chmod 4755 b/rootfs/probe
          ctr-spawn --bundle b /probe as 0 /bin/grep -E '^Cap(Inh|Prm|Eff|Bnd|Amb)' /proc/self/status")
        .prints(
            "CapInh:\t0000000000000000\nCapPrm:\t00000000a80425fb\nCapEff:\t00000000a80425fb\n\
             CapBnd:\t00000000a80425fb\nCapAmb:\t0000000000000000\n",
        );
    // Of capabilities that a file has, those beyond the container's are none: the kernel runs no such file.
    t.sh("chmod 755 b/rootfs/probe; setcap all=eip b/rootfs/probe
          ctr-spawn --bundle b /probe fds")
        .exits(126)
        .says("Operation not permitted");
}

#[test]
fn the_filter_denies_what_dockers_denies() {
    of_either_user(|t| {
        t.sh(&format!("ctr-spawn --rm {PROBE} app /probe calls")).prints("60 tried\n");
        t.sh(&format!("ctr-spawn --rm --init -u app {PROBE} app /probe calls"))
            .prints("60 tried\n");
    });
    // Where capabilities would deny nothing, so that it was the filter.
    let t = sandbox();
    bundle(
        &t,
        ".process.capabilities |= map_values([\"CAP_SYS_ADMIN\", \"CAP_SYS_BOOT\", \"CAP_SYS_MODULE\", \"CAP_SYS_TIME\",
            \"CAP_SYS_RAWIO\", \"CAP_SYS_PACCT\", \"CAP_SYS_NICE\", \"CAP_SYS_PTRACE\", \"CAP_SYSLOG\", \"CAP_BPF\",
            \"CAP_PERFMON\", \"CAP_DAC_READ_SEARCH\", \"CAP_SYS_TTY_CONFIG\"]) | .process.capabilities.ambient = []",
    );
    t.sh(&format!("ctr-spawn {PROBE} --bundle b /probe calls")).prints("60 tried\n");
}

#[test]
fn arguments_are_looked_at_as_the_kernel_looks_at_them() {
    of_either_user(|t| {
        t.sh(&format!("ctr-spawn --rm {PROBE} app /probe arguments")).prints(
            "clone newns EPERM\nclone newcgroup EPERM\nclone newuts EPERM\nclone newipc EPERM\n\
             clone newuser EPERM\nclone newpid EPERM\nclone newnet EPERM\nclone3 ENOSYS\n\
             socket unix OK\nsocket inet OK\nsocket netlink OK\nsocket alg EPERM\nsocket vsock EPERM\n\
             socket alg with high bits EPERM\nsocket vsock with high bits EPERM\nsocket 64 EPERM\n\
             socket -1 EPERM\npersonality 0 OK\npersonality 8 OK\npersonality 20000 OK\n\
             personality 20008 OK\npersonality ffffffff OK\npersonality 40000 EPERM\n\
             personality 400000 EPERM\npersonality 6 EPERM\n",
        );
    });
}

#[test]
fn a_call_that_nobody_knows_is_not_implemented() {
    of_either_user(|t| {
        let text = t.sh(&format!("ctr-spawn --rm {PROBE} app /probe numbers")).text();
        assert_eq!(text.lines().count(), 12);
        assert!(text.lines().all(|line| line.ends_with(" ENOSYS")), "{text}");
    });
}

#[test]
fn the_old_way_into_the_kernel_is_filtered_too() {
    if !cfg!(target_arch = "x86_64") {
        return;
    }
    of_either_user(|t| {
        t.sh(&format!("ctr-spawn --rm {PROBE} app /probe old")).prints(
            "getpid OK\nmount EPERM\numount EPERM\nstime EPERM\numount2 EPERM\nclone newuser EPERM\n\
             pivot_root EPERM\nkeyctl EPERM\nunshare EPERM\nsetns EPERM\nbpf EPERM\nsocket alg EPERM\n\
             socket vsock EPERM\nio_uring_setup EPERM\nclone3 ENOSYS\nunknown ENOSYS\n",
        );
    });
}

/// A line of mountinfo: where, what of which file system, and how.
struct Mount {
    root: String,
    options: BTreeSet<String>,
    optional: String,
    kind: String,
    own: BTreeSet<String>,
}

fn mounts(text: &str) -> BTreeMap<String, Mount> {
    let set = |text: &str| text.split(',').map(str::to_owned).collect();
    let lines = text.lines().map(|line| {
        let (mount, fs) = line.split_once(" - ").unwrap();
        let words: Vec<&str> = mount.split(' ').collect();
        let fs: Vec<&str> = fs.split(' ').collect();
        let mount = Mount {
            root: words[3].into(),
            options: set(words[5]),
            optional: words[6..].join(" "),
            kind: fs[0].into(),
            own: set(fs[2]),
        };
        (words[4].to_owned(), mount)
    });
    lines.collect()
}

/// The mounts of every container: where, of what kind, how, and with which of its own options.
const MOUNTS: [(&str, &str, &str, &str); 7] = [
    ("/proc", "proc", "rw,nosuid,nodev,noexec,relatime", ""),
    ("/dev", "tmpfs", "rw,nosuid,nodev", "size=65536k,mode=755"),
    ("/dev/pts", "devpts", "rw,nosuid,noexec,relatime", "mode=620,ptmxmode=666"),
    ("/dev/mqueue", "mqueue", "rw,nosuid,nodev,noexec,relatime", ""),
    ("/dev/shm", "tmpfs", "rw,nosuid,nodev,noexec,relatime", "size=65536k"),
    ("/sys", "sysfs", "ro,nosuid,nodev,noexec,relatime", ""),
    ("/sys/fs/cgroup", "", "ro,nosuid,nodev,noexec,relatime", ""),
];

const NODES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];

#[test]
fn the_mounts_are_exactly_these() {
    of_either_user(|t| {
        let text = t.sh("ctr-spawn --rm app cat /proc/1/mountinfo").text();
        let mut mounts = mounts(&text);
        // In a user namespace no device opens that was not one outside.
        let user = mounts["/dev/null"].kind != "tmpfs";
        for mount in mounts.values() {
            // Neither a peer of anybody's nor a slave of the host's.
            assert_eq!(mount.optional, "", "{text}");
        }
        let root = mounts.remove("/").unwrap();
        assert!(root.kind == "overlay" && root.root == "/" && root.options.contains("nodev"));
        for (place, kind, options, own) in MOUNTS {
            let mount = mounts.remove(place).unwrap_or_else(|| panic!("no {place}: {text}"));
            assert!(kind.is_empty() || mount.kind == kind, "{place}: {text}");
            assert_eq!(mount.root, "/", "{place}");
            assert_eq!(Vec::from_iter(mount.options).join(","), sorted(options), "{place}");
            for option in own.split(',').filter(|option| !option.is_empty()) {
                assert!(mount.own.contains(option), "{place}: no {option} in {:?}", mount.own);
            }
        }
        for name in NODES {
            let node = mounts.remove(&format!("/dev/{name}")).unwrap();
            assert!(!node.options.contains("nodev"), "{name}");
            // A user's are the host's own, as the host mounts them.
            let made = node.kind == "tmpfs";
            assert!(
                !made || ["nosuid", "noexec"].iter().all(|o| node.options.contains(*o)),
                "{text}"
            );
        }
        for name in ["hostname", "hosts", "resolv.conf"] {
            let mount = mounts.remove(&format!("/etc/{name}")).unwrap();
            assert!(mount.root.contains("/containers/") && mount.root.ends_with(name), "{text}");
            assert!(mount.options.contains("nodev") || user, "{text}");
        }
        for path in MASKED.iter().chain(&READ_ONLY).filter(|path| Path::new(path).exists()) {
            let mount = mounts.remove(*path).unwrap_or_else(|| panic!("no {path}: {text}"));
            assert!(mount.options.contains("ro"), "{path}: {text}");
        }
        mounts.retain(|place, mount| {
            let throttle = place.ends_with("/thermal_throttle");
            let cgroup = place.starts_with("/sys/fs/cgroup/") && mount.options.contains("ro");
            // Only their own: nothing above it.
            !(throttle || cgroup && !mount.root.contains(".."))
        });
        assert!(mounts.is_empty(), "{:?}", mounts.keys());
    });
}

fn sorted(options: &str) -> String {
    Vec::from_iter(BTreeSet::from_iter(options.split(','))).join(",")
}

#[test]
fn what_is_masked_tells_nothing() {
    of_either_user(|t| {
        let there: Vec<&str> =
            MASKED.iter().copied().filter(|path| Path::new(path).exists()).collect();
        assert!(there.len() > 3, "{there:?}");
        for path in there {
            t.sh(&format!(
                "ctr-spawn --rm app sh -c '
                    if [ -d {path} ]; then find {path} -mindepth 1; (>{path}/x) 2>/dev/null && echo made; else cat {path}; fi
                    chmod 777 {path} 2>/dev/null && echo changed; rm -rf {path} 2>/dev/null; rmdir {path} 2>/dev/null && echo removed; true'"
            ))
            .is_silent();
        }
    });
}

#[test]
fn the_kernels_files_cannot_be_written_to() {
    of_either_user(|t| {
        let text = t.sh(&format!("ctr-spawn --rm {PROBE} app /probe writable /sys /proc")).text();
        let fixed = |line: &&str| {
            line.starts_with("/sys/")
                || READ_ONLY
                    .iter()
                    .any(|path| *line == *path || line.starts_with(&format!("{path}/")))
        };
        let found: Vec<&str> = text.lines().filter(fixed).collect();
        assert!(found.is_empty(), "{found:?}");
        for path in
            ["/proc/sys/kernel/core_pattern", "/proc/sys/kernel/hostname", "/proc/sysrq-trigger"]
        {
            t.sh(&format!(
                "ctr-spawn --rm app sh -c '(echo b >{path}) 2>/dev/null || echo refused'"
            ))
            .prints("refused\n");
        }
    });
}

#[test]
fn the_devices_are_exactly_these() {
    of_either_user(|t| {
        // Kind and number of each, and what the links say.
        let text = t
            .sh("ctr-spawn --rm app sh -c 'cd /dev; for f in $(find . -mindepth 1 | sort); do
                    echo \"$f $(stat -c \"%F %t:%T %a\" $f | sed \"s/character special file/c/; s/symbolic link 0:0 777/l/; s/directory 0:0/d/\") $(readlink $f)\"; done'")
            .text();
        let expected = "./fd l /proc/self/fd\n./full c 1:7 666 \n./mqueue d 1777 \n./null c 1:3 666 \n./ptmx l pts/ptmx\n\
            ./pts d 755 \n./pts/ptmx c 5:2 666 \n./random c 1:8 666 \n./shm d 1777 \n./stderr l /proc/self/fd/2\n\
            ./stdin l /proc/self/fd/0\n./stdout l /proc/self/fd/1\n./tty c 5:0 666 \n./urandom c 1:9 666 \n./zero c 1:5 666 \n";
        assert_eq!(text, expected);
    });
}

#[test]
fn the_namespaces_are_not_the_hosts() {
    let list =
        "sh -c 'for n in cgroup ipc mnt net pid user uts time; do readlink /proc/self/ns/$n; done'";
    let compare = |t: &sandbox::Sandbox, options: &str| {
        let inside = t.sh(&format!("ctr-spawn --rm {options} app {list}")).text();
        let outside = t.sh(list).text();
        let shared = inside.lines().filter(|line| outside.contains(line));
        let kinds = shared.map(|line| line.split(':').next().unwrap().to_owned());
        kinds.collect::<Vec<_>>().join(" ")
    };
    let t = sandbox();
    let root = nix::unistd::geteuid().is_root();
    assert_eq!(compare(&t, ""), if root { "user time" } else { "time" });
    assert_eq!(compare(&t, "--network host"), if root { "net user time" } else { "net time" });
    let t = super::with_probe(sandbox::Sandbox::with_image("app").as_user());
    assert_eq!(compare(&t, ""), "time");
}

#[test]
fn a_user_namespace_has_the_users_own_ids_and_no_more() {
    let t = super::with_probe(sandbox::Sandbox::with_image("app").as_user());
    // What the caller may have: himself, and his lines of /etc/subuid and /etc/subgid.
    let script = "for kind in uid gid; do
            { echo 0 $(id -${kind%id}) 1; awk -F: -v n=1 -v me=$(id -un) '$1 == me { print n, $2, $3; n += $3 }' /etc/sub$kind; } >$kind
            ctr-spawn --rm app cat /proc/self/${kind}_map | awk '{ print $1, $2, $3 }' | cmp - $kind
        done; ctr-spawn --rm app sh -c 'cat /proc/self/setgroups; id -G'";
    t.sh(script).prints("allow\n0 10\n");
    if lacks(&["root", "setpriv"]) {
        return;
    }
    // Who has no others has the one id, and setgroups is denied: no group can be left that denies something.
    let t = sandbox();
    t.sh("cp $(command -v ctr-spawn) $PWD/ctr-spawn; cp -a $TARE_ROOT store; chown -R 23456 store; export TARE_ROOT=$PWD/store HOME=$PWD
          setpriv --reuid 23456 --regid 23456 --groups 0,10 ./ctr-spawn --rm app sh -c 'cat /proc/self/uid_map /proc/self/gid_map /proc/self/setgroups' | awk '{ print $1, $2, $3 }'")
        .prints("0 23456 1\n0 23456 1\ndeny  \n");
}

#[test]
fn the_cgroup_is_its_own() {
    of_either_user(|t| {
        // Seen from its own, nothing leads up; and nothing that is shown can be written to.
        t.sh("ctr-spawn --rm app sh -c 'grep -c \"\\.\\.\" /proc/self/cgroup; find /sys/fs/cgroup -type f | while read f; do (: >>$f) 2>/dev/null && echo $f; done;
                (echo /x >/sys/fs/cgroup/release_agent) 2>/dev/null || echo none; mkdir /sys/fs/cgroup/pids/x /sys/fs/cgroup/x 2>/dev/null || echo none'")
            .prints("0\nnone\nnone\n");
    });
}

#[test]
fn the_session_keyring_is_new() {
    let t = sandbox();
    bundle(&t, "del(.linux.seccomp)");
    let run = t.sh(&format!(
        "ctr-spawn {PROBE} --bundle b /probe session; ctr-spawn {PROBE} --bundle b /probe session; ./probe session"
    ));
    let text = run.text();
    let keys: BTreeSet<&str> = text.lines().collect();
    assert_eq!(keys.len(), 3, "{text}");
}

#[test]
fn the_machine_cannot_be_changed_from_inside() {
    of_either_user(|t| {
        t.sh("name=$(hostname); ctr-spawn --rm app sh -c '
                date -s 2000-01-01 >/dev/null 2>&1; for command in \"hostname other\" \"sysctl -w kernel.panic=1\" \"sysctl -w net.ipv4.ip_forward=1\" \
                    \"sysctl -w kernel.shm_rmid_forced=1\" \"dmesg -c\" \"swapoff -a\" \"mount -t tmpfs x /tmp\" \"mount -o remount,rw /sys\" \
                    \"mount --bind / /mnt\" \"umount /proc/keys\" \"chroot /proc/1/root true x\" \"ip link add x type dummy\" \
                    \"mkdir /proc/x\" \"renice -n -5 -p 1\" \"losetup -f /bin/sh\" \"insmod /x.ko\" \"nice -n -5 true\"; do
                    $command >/dev/null 2>&1 && echo $command; done; true'
              [ $name = $(hostname) ] && [ $(date +%Y) != 2000 ] && echo same")
            .prints("chroot /proc/1/root true x\nsame\n");
    });
}

#[test]
fn how_likely_the_kernel_kills_it_is_not_the_callers_to_spare() {
    of_either_user(|t| {
        t.sh("ctr-spawn --rm app cat /proc/self/oom_score_adj").prints("0\n");
        // A caller that goes first cannot always let others go later.
        t.sh("echo 300 >/proc/self/oom_score_adj; ctr-spawn --rm app cat /proc/self/oom_score_adj")
            .prints("300\n");
        t.sh("ctr-spawn --rm app sh -c '(echo -100 >/proc/self/oom_score_adj) 2>/dev/null || echo refused'")
            .prints("refused\n");
    });
}
