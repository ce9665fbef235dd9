//! Docker's default profile: every known call but these, which take a capability or are never allowed.
//!
//! Docker lists what it allows; said the other way round the list is short,
//! and says why. Learned from moby/profiles, its seccomp/default_linux.go.

use oci_spec::runtime::{
    Arch as OciArch, Capabilities, Capability, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg,
    LinuxSeccompArgBuilder, LinuxSeccompOperator, LinuxSyscall,
};

use super::syscalls::{self, Arch, CALLS};

/// Calls that fail with EPERM, and the capabilities of which any one allows them.
const DENIED: &[(&[Capability], &[&str])] = &[
    (&[Capability::SysAdmin, Capability::Bpf], &["bpf"]),
    (&[Capability::SysAdmin, Capability::Perfmon], &["perf_event_open"]),
    (&[Capability::SysAdmin, Capability::Syslog], &["syslog"]),
    // Namespaces, mounts and what else changes how the container is confined.
    (
        &[Capability::SysAdmin],
        &[
            "fanotify_init",
            "fsconfig",
            "fsmount",
            "fsopen",
            "fspick",
            "lookup_dcookie",
            "lsm_get_self_attr",
            "lsm_list_modules",
            "lsm_set_self_attr",
            "mount",
            "mount_setattr",
            "move_mount",
            "open_tree",
            "open_tree_attr",
            "quotactl",
            "quotactl_fd",
            "setdomainname",
            "sethostname",
            "setns",
            "umount",
            "umount2",
            "unshare",
        ],
    ),
    // Opens a file by number, in any directory: how one got out of old Dockers.
    (&[Capability::DacReadSearch], &["open_by_handle_at"]),
    (&[Capability::SysBoot], &["reboot"]),
    (&[Capability::SysChroot], &["chroot"]),
    (&[Capability::SysModule], &["delete_module", "finit_module", "init_module"]),
    (
        &[Capability::SysNice],
        &["get_mempolicy", "mbind", "set_mempolicy", "set_mempolicy_home_node"],
    ),
    (&[Capability::SysPacct], &["acct"]),
    // Looking into other processes, beyond what ptrace's own checks allow.
    (&[Capability::SysPtrace], &["kcmp", "pidfd_getfd", "process_madvise"]),
    (&[Capability::SysRawio], &["ioperm", "iopl"]),
    (&[Capability::SysTime], &["clock_settime", "clock_settime64", "settimeofday", "stime"]),
    (&[Capability::SysTtyConfig], &["vhangup"]),
    // Not of a container: keys have no namespace, and the rest is the host's.
    (
        &[],
        &[
            "add_key",
            "kexec_file_load",
            "kexec_load",
            "keyctl",
            "migrate_pages",
            "move_pages",
            "pciconfig_iobase",
            "pciconfig_read",
            "pciconfig_write",
            "pivot_root",
            "request_key",
            "swapoff",
            "swapon",
        ],
    ),
    // Much kernel for little use; many an exploit went through these.
    (
        &[],
        &[
            "io_uring_enter",
            "io_uring_register",
            "io_uring_setup",
            "userfaultfd",
            "vm86",
            "vm86old",
        ],
    ),
    // Obsolete, or a number that never was implemented.
    (
        &[],
        &[
            "_sysctl",
            "afs_syscall",
            "bdflush",
            "break",
            "create_module",
            "ftime",
            "get_kernel_syms",
            "get_tls",
            "getpmsg",
            "gtty",
            "idle",
            "lock",
            "mpx",
            "nfsservctl",
            "nice",
            "oldfstat",
            "oldlstat",
            "oldolduname",
            "oldstat",
            "olduname",
            "prof",
            "profil",
            "putpmsg",
            "query_module",
            "readdir",
            "security",
            "sgetmask",
            "sigaction",
            "signal",
            "sigpending",
            "sigsuspend",
            "ssetmask",
            "stty",
            "sysfs",
            "tuxcall",
            "ulimit",
            "uprobe",
            "uselib",
            "usr26",
            "usr32",
            "ustat",
            "vserver",
        ],
    ),
];

/// Calls that Docker has not judged yet: to the container the kernel is older than they are.
const UNJUDGED: &[&str] = &["file_getattr", "file_setattr", "listns", "rseq_slice_yield"];

/// Calls that depend on their arguments.
const CONDITIONAL: &[&str] = &["clone", "clone3", "personality", "socket"];

/// The flags of clone(2) that make a namespace.
const CLONE_NEW: u64 = 0x7e02_0000;

const EPERM: u32 = 1;
const ENOSYS: u32 = 38;

/// Returns the profile of a container with these capabilities on `native`.
pub fn profile(capabilities: &Capabilities, native: Arch) -> LinuxSeccomp {
    let arches: Vec<Arch> = [Some(native), native.compat()].into_iter().flatten().collect();
    let has = |any: &[Capability]| any.iter().any(|capability| capabilities.contains(capability));

    let mut refused = vec![false; CALLS.len()];
    let locked = DENIED.iter().filter(|(any, _)| !has(any)).flat_map(|(_, names)| *names);
    for name in locked.chain(UNJUDGED).chain(CONDITIONAL) {
        // A name that is not in the table is on no architecture: a test looks for such.
        if let Some(place) = syscalls::find(name, 0) {
            refused[place] = true;
        }
    }
    let calls = CALLS.iter().zip(refused).filter(|(_, refused)| !refused).map(|(call, _)| call);
    let here = calls.filter(|call| arches.iter().any(|arch| call.number(*arch).is_some()));
    let allowed = here.map(|call| call.name);

    let mut rules = vec![allow(allowed, None)];
    if has(&[Capability::SysAdmin]) {
        rules.push(allow(["clone", "clone3"], None));
    } else {
        rules.push(allow(["clone"], Some(masked(CLONE_NEW, 0))));
        // Its flags are behind a pointer. Told that there is no such call, libc uses clone.
        rules.push(errno("clone3", ENOSYS));
    }
    // PER_LINUX and PER_LINUX32, each with UNAME26 or without; and the question what it is now.
    // personality(2) takes 32 bits; and a number of 64 does not survive jq, which has doubles.
    for (mask, persona) in [(0xfffd_fff7, 0), (0xffff_ffff, 0xffff_ffff)] {
        rules.push(allow(["personality"], Some(masked(mask, persona))));
    }
    for (mask, family) in FAMILIES {
        rules.push(allow(["socket"], Some(masked(mask, family))));
    }

    let mut profile = LinuxSeccomp::default();
    profile
        .set_default_action(LinuxSeccompAction::ScmpActErrno)
        .set_default_errno_ret(Some(EPERM))
        .set_architectures(Some(arches.into_iter().map(oci).collect()))
        .set_syscalls(Some(rules));
    profile
}

/// The address families 0 to 63 but 38 (AF_ALG, CVE-2026-31431) and 40 (AF_VSOCK, which has no
/// namespace), as masks of the low word and what must be left.
///
/// The kernel takes a family as an int. Docker compares all 64 bits with 40, so
/// that 2^32 + 38 passes as something larger and then is AF_ALG. On i386 both
/// families can still be reached through socketcall, whose arguments no filter
/// sees: with Docker too, which had to allow it again for old programs.
const FAMILIES: [(u64, u64); 8] = [
    (0xffff_ffe0, 0),
    (0xffff_fffc, 32),
    (0xffff_fffe, 36),
    (0xffff_ffff, 39),
    (0xffff_ffff, 41),
    (0xffff_fffe, 42),
    (0xffff_fffc, 44),
    (0xffff_fff0, 48),
];

fn allow<'a>(
    names: impl IntoIterator<Item = &'a str>,
    condition: Option<LinuxSeccompArg>,
) -> LinuxSyscall {
    let mut rule = LinuxSyscall::default();
    rule.set_names(names.into_iter().map(String::from).collect())
        .set_action(LinuxSeccompAction::ScmpActAllow)
        .set_args(condition.map(|condition| vec![condition]));
    rule
}

fn errno(name: &str, errno: u32) -> LinuxSyscall {
    let mut rule = LinuxSyscall::default();
    rule.set_names(vec![name.into()])
        .set_action(LinuxSeccompAction::ScmpActErrno)
        .set_errno_ret(Some(errno));
    rule
}

/// Returns the condition that the first argument, masked, is `rest`.
fn masked(mask: u64, rest: u64) -> LinuxSeccompArg {
    let argument = LinuxSeccompArgBuilder::default().index(0usize);
    let argument = argument.op(LinuxSeccompOperator::ScmpCmpMaskedEq).value(mask).value_two(rest);
    // The builder has a default for every field.
    argument.build().unwrap()
}

fn oci(arch: Arch) -> OciArch {
    match arch {
        Arch::X86_64 => OciArch::ScmpArchX86_64,
        Arch::I386 => OciArch::ScmpArchX86,
        Arch::Aarch64 => OciArch::ScmpArchAarch64,
        Arch::Arm => OciArch::ScmpArchArm,
    }
}

/// Returns every name in the tables above.
#[cfg(test)]
pub fn denied() -> impl Iterator<Item = &'static str> {
    let denied = DENIED.iter().flat_map(|(_, names)| names.iter());
    denied.chain(UNJUDGED).chain(CONDITIONAL).copied()
}
