//! The compiled program against the rules it was made of, and against the kernel.

use nix::errno::Errno;
use oci_spec::runtime::{Capability, LinuxSeccompArgBuilder, LinuxSeccompOperator, LinuxSyscall};
use proptest::prelude::*;

use super::*;
use crate::runtime::capability;
use crate::sys;

/// One system call, as a filter sees it: `struct seccomp_data`.
#[derive(Clone, Copy, Debug)]
struct Data {
    arch: u32,
    number: u32,
    args: [u64; 6],
}

impl Data {
    fn word(&self, offset: u32) -> u32 {
        match offset {
            0 => self.number,
            4 => self.arch,
            16..64 => {
                let arg = self.args[(offset as usize - 16) / 8];
                if offset.is_multiple_of(8) { arg as u32 } else { (arg >> 32) as u32 }
            }
            _ => panic!("a load at {offset}"),
        }
    }
}

/// Runs a filter as the kernel does, and returns how many instructions that took.
fn run(program: &[Instruction], data: &Data) -> (u32, usize) {
    let (mut at, mut word, mut count) = (0, 0, 0);
    loop {
        let Instruction { code, jt, jf, k } = program[at];
        at += 1;
        count += 1;
        let mut jump = |yes: bool| at += usize::from(if yes { jt } else { jf });
        match code {
            0x20 => word = data.word(k),
            0x54 => word &= k,
            0x05 => at += k as usize,
            0x15 => jump(word == k),
            0x25 => jump(word > k),
            0x35 => jump(word >= k),
            0x06 => return (k, count),
            _ => panic!("an instruction {code:#x}"),
        }
    }
}

fn holds(arg: &LinuxSeccompArg, args: &[u64; 6]) -> bool {
    let (given, value) = (args[arg.index()], arg.value());
    match arg.op() {
        LinuxSeccompOperator::ScmpCmpNe => given != value,
        LinuxSeccompOperator::ScmpCmpLt => given < value,
        LinuxSeccompOperator::ScmpCmpLe => given <= value,
        LinuxSeccompOperator::ScmpCmpEq => given == value,
        LinuxSeccompOperator::ScmpCmpGe => given >= value,
        LinuxSeccompOperator::ScmpCmpGt => given > value,
        LinuxSeccompOperator::ScmpCmpMaskedEq => {
            given & value == arg.value_two().unwrap_or_default()
        }
    }
}

/// What the rules come to for one number, before its arguments are known.
struct Naive<'a> {
    rules: Vec<&'a LinuxSyscall>,
    otherwise: u32,
}

/// Goes through the rules one by one, as the documentation of libseccomp reads.
fn naive<'a>(seccomp: &'a LinuxSeccomp, native: Arch, audit: u32, number: u32) -> Naive<'a> {
    let fixed = |otherwise| Naive { rules: Vec::new(), otherwise };
    let listed = |arch: Arch| {
        let name = match arch {
            Arch::X86_64 => OciArch::ScmpArchX86_64,
            Arch::I386 => OciArch::ScmpArchX86,
            Arch::Aarch64 => OciArch::ScmpArchAarch64,
            Arch::Arm => OciArch::ScmpArchArm,
        };
        seccomp.architectures().iter().flatten().any(|other| *other == name)
    };
    let mut arches = vec![native];
    arches.extend(native.compat().filter(|arch| listed(*arch)));
    let Some(arch) = arches.into_iter().find(|arch| arch.audit() == audit) else {
        return fixed(KILL_PROCESS);
    };
    if arch == Arch::X86_64 && number >= X32 {
        return fixed(ENOSYS);
    }
    let default = action(seccomp.default_action(), seccomp.default_errno_ret()).unwrap();
    let denies = ![ALLOW, LOG, TRACE].contains(&(default & 0xffff_0000));
    let beyond = if denies { ENOSYS } else { default };

    let Some(call) = CALLS.iter().find(|call| call.number(arch) == Some(number)) else {
        return fixed(beyond);
    };
    let rules = || seccomp.syscalls().iter().flatten();
    let mine: Vec<&LinuxSyscall> = rules()
        .filter(|rule| rule.names().iter().any(|name| name == call.name))
        .filter(|rule| returned(rule) != default)
        .collect();
    if let Some(rule) = mine.iter().find(|rule| rule.args().iter().flatten().next().is_none()) {
        return fixed(returned(rule));
    }
    let names = || rules().flat_map(|rule| rule.names());
    let newer = CALLS
        .iter()
        .filter(|other| other.number(arch).is_some_and(|other| other >= number))
        .any(|other| names().any(|name| name == other.name));
    let unknown = mine.is_empty() && !newer && names().any(|name| number_of(name, arch).is_some());
    Naive { rules: mine, otherwise: if unknown { beyond } else { default } }
}

impl Naive<'_> {
    fn of(&self, args: &[u64; 6]) -> u32 {
        for rule in &self.rules {
            let conditions = rule.args().as_deref().unwrap();
            let mut indexes: Vec<usize> = conditions.iter().map(|arg| arg.index()).collect();
            indexes.sort();
            indexes.dedup();
            let matches = if indexes.len() < conditions.len() {
                conditions.iter().any(|arg| holds(arg, args))
            } else {
                conditions.iter().all(|arg| holds(arg, args))
            };
            if matches {
                return returned(rule);
            }
        }
        self.otherwise
    }
}

fn returned(rule: &LinuxSyscall) -> u32 {
    action(rule.action(), rule.errno_ret()).unwrap()
}

fn number_of(name: &str, arch: Arch) -> Option<u32> {
    CALLS.iter().find(|call| call.name == name)?.number(arch)
}

/// Compares the program of `seccomp` with its rules, for every number and all of `args`.
fn compare(seccomp: &LinuxSeccomp, native: Arch, args: &[[u64; 6]]) {
    let program = compile(seccomp, native).unwrap();
    for arch in AUDITS {
        for number in numbers() {
            let expected = naive(seccomp, native, arch, number);
            for args in args {
                let data = Data { arch, number, args: *args };
                assert_eq!(run(&program, &data).0, expected.of(args), "{data:x?}");
            }
        }
    }
}

/// Every number worth a try: all small ones, arm's own, and around the edges.
fn numbers() -> impl Iterator<Item = u32> {
    let edges = [0xefffe, 0x3fff_ffff, X32, X32 + 165, 0x7fff_ffff, 0x8000_0000, u32::MAX];
    (0..600).chain(0xeffff..0xf0009).chain(edges)
}

const AUDITS: [u32; 6] = [0xc000_003e, 0x4000_0003, 0xc000_00b7, 0x4000_0028, 0, u32::MAX];

fn docker() -> Capabilities {
    Capabilities::from(capability::DEFAULT)
}

fn number(name: &str, arch: Arch) -> u32 {
    CALLS[syscalls::find(name, 0).unwrap()].number(arch).unwrap()
}

#[test]
fn the_default_filter_does_what_its_rules_say() {
    let values = [
        0,
        1,
        2,
        8,
        38,
        39,
        40,
        41,
        63,
        64,
        0x11,
        0x20000,
        0x20008,
        0x1000_0011,
        0x7e02_0000,
        0x0200_0000,
        0xffff_ffff,
        1 << 32,
        (1 << 32) + 38,
        (1 << 32) + 2,
        u64::MAX,
    ];
    let all = Capabilities::from(capability::ALL);
    let args = values.map(|value| [value, 1, 2, 3, 4, 5]);
    for (native, capabilities) in [
        (Arch::X86_64, docker()),
        (Arch::X86_64, all),
        (Arch::X86_64, Capabilities::new()),
        (Arch::Aarch64, docker()),
    ] {
        compare(&profile::profile(&capabilities, native), native, &args);
    }
}

#[test]
fn the_default_profile_denies_what_docker_denies() {
    let program = compile(&profile::profile(&docker(), Arch::X86_64), Arch::X86_64).unwrap();
    let returned = |number, first| {
        let args = [first, 0, 0, 0, 0, 0];
        run(&program, &Data { arch: Arch::X86_64.audit(), number, args }).0
    };
    // Of the 362 calls of Linux 6.1, of which 335 and 336 were not yet.
    let old = CALLS.iter().filter(|call| match call.number(Arch::X86_64) {
        Some(335 | 336) | None => false,
        Some(number) => number <= 450,
    });
    let (allowed, denied): (Vec<&syscalls::Call>, Vec<&syscalls::Call>) =
        old.partition(|call| returned(call.number(Arch::X86_64).unwrap(), 0) == ALLOW);
    let denied: Vec<&str> = denied.iter().map(|call| call.name).collect();
    assert_eq!((allowed.len(), denied.len()), (362 - 67, 67), "{denied:?}");
    let docker = "syslog uselib ustat sysfs vhangup pivot_root _sysctl acct settimeofday mount \
        umount2 swapon swapoff reboot sethostname setdomainname iopl ioperm create_module \
        init_module delete_module finit_module get_kernel_syms query_module quotactl quotactl_fd \
        nfsservctl lookup_dcookie clock_settime vserver mbind set_mempolicy get_mempolicy \
        set_mempolicy_home_node migrate_pages move_pages kexec_load kexec_file_load add_key \
        request_key keyctl unshare setns perf_event_open fanotify_init open_by_handle_at kcmp bpf \
        userfaultfd io_uring_setup io_uring_enter io_uring_register open_tree move_mount fsopen \
        fsconfig fsmount fspick mount_setattr clone3 pidfd_getfd process_madvise";
    for name in docker.split_whitespace() {
        assert!(denied.contains(&name), "{name}");
        let expected = if name == "clone3" { ENOSYS } else { ERRNO | 1 };
        assert_eq!(returned(number(name, Arch::X86_64), 0), expected, "{name}");
    }

    let [clone, personality, socket] =
        ["clone", "personality", "socket"].map(|name| number(name, Arch::X86_64));
    let eperm = ERRNO | 1;
    let table = [
        (clone, 0x11, ALLOW),
        (clone, 0x0100_0f00, ALLOW), // a thread
        (clone, 0x1000_0011, eperm), // CLONE_NEWUSER
        (clone, 0x0002_0000, eperm), // CLONE_NEWNS
        (clone, 0x0200_0000, eperm), // CLONE_NEWCGROUP
        (personality, 8, ALLOW),
        (personality, 0x20008, ALLOW),
        (personality, 0xffff_ffff, ALLOW),
        (personality, 0x40000, eperm), // ADDR_NO_RANDOMIZE
        (socket, 1, ALLOW),
        (socket, 37, ALLOW),
        (socket, 38, eperm), // AF_ALG
        (socket, 39, ALLOW),
        (socket, 40, eperm), // AF_VSOCK
        (socket, 45, ALLOW),
        (socket, (1 << 32) + 38, eperm), // which the kernel takes for AF_ALG
        (socket, (1 << 32) + 2, ALLOW),
        (number("uretprobe", Arch::X86_64), 0, ALLOW),
        (number("mseal", Arch::X86_64), 0, ALLOW),
        (number("lsm_get_self_attr", Arch::X86_64), 0, eperm),
        (number("listns", Arch::X86_64), 0, ENOSYS),
        (400, 0, ENOSYS),
        (1000, 0, ENOSYS),
        (X32, 0, ENOSYS),
        (X32 + 165, 0, ENOSYS),
    ];
    for (number, first, expected) in table {
        assert_eq!(returned(number, first), expected, "{number} {first:#x}");
    }
}

#[test]
fn a_capability_allows_the_calls_that_need_it() {
    let table = [
        (
            Capability::SysAdmin,
            "mount unshare setns clone3 bpf perf_event_open syslog open_tree_attr",
        ),
        (Capability::SysTime, "clock_settime settimeofday"),
        (Capability::SysPtrace, "kcmp pidfd_getfd process_madvise"),
        (Capability::SysModule, "init_module finit_module delete_module"),
        (Capability::SysNice, "mbind set_mempolicy get_mempolicy"),
        (Capability::Bpf, "bpf"),
        (Capability::Perfmon, "perf_event_open"),
        (Capability::Syslog, "syslog"),
        (Capability::SysBoot, "reboot"),
        (Capability::DacReadSearch, "open_by_handle_at"),
    ];
    let allows = |capabilities: &Capabilities, name: &str, first| {
        let program = compile(&profile::profile(capabilities, Arch::X86_64), Arch::X86_64).unwrap();
        let number = number(name, Arch::X86_64);
        let args = [first, 0, 0, 0, 0, 0];
        run(&program, &Data { arch: Arch::X86_64.audit(), number, args }).0 == ALLOW
    };
    for (capability, names) in table {
        let mut more = docker();
        more.insert(capability);
        for name in names.split(' ') {
            assert!(!allows(&docker(), name, 0), "{name}");
            assert!(allows(&more, name, 0), "{name} with {capability}");
        }
    }
    let admin = Capabilities::from([Capability::SysAdmin]);
    assert!(allows(&admin, "clone", 0x1000_0011));
    assert!(allows(&docker(), "chroot", 0));
    assert!(!allows(&Capabilities::new(), "chroot", 0));
}

#[test]
fn the_default_filter_is_small_and_shallow() {
    let program = compile(&profile::profile(&docker(), Arch::X86_64), Arch::X86_64).unwrap();
    let steps = (0..472)
        .map(|number| run(&program, &Data { arch: Arch::X86_64.audit(), number, args: [0; 6] }).1);
    let most = steps.max().unwrap();
    assert!(program.len() <= 240, "{} instructions", program.len());
    assert!(most < 40, "{most} steps");
}

#[test]
fn the_default_profile_names_every_call_of_its_tables_once() {
    let profile = profile::profile(&docker(), Arch::X86_64);
    let rules = profile.syscalls().as_ref().unwrap();
    let allowed = rules[0].names();
    assert!(allowed.is_sorted());
    for name in ["clone", "clone3", "personality", "socket"] {
        assert!(!allowed.iter().any(|other| other == name), "{name}");
    }
    // A name in the tables of profile.rs that no kernel has would allow nothing, silently.
    for name in profile::denied() {
        assert!(syscalls::find(name, 0).is_some(), "{name}");
    }
}

#[test]
fn rules_that_cannot_be_kept_are_refused() {
    let base = || profile::profile(&docker(), Arch::X86_64);
    let rule = |action, errno: Option<u32>, index: usize| {
        let arg = LinuxSeccompArgBuilder::default().index(index).build().unwrap();
        let mut rule = LinuxSyscall::default();
        rule.set_names(vec!["read".into()])
            .set_action(action)
            .set_errno_ret(errno)
            .set_args(Some(vec![arg]));
        let mut seccomp = base();
        seccomp.set_syscalls(Some(vec![rule]));
        compile(&seccomp, Arch::X86_64)
    };
    assert!(rule(LinuxSeccompAction::ScmpActErrno, Some(4095), 5).is_ok());
    assert!(rule(LinuxSeccompAction::ScmpActErrno, Some(4096), 5).is_err());
    assert!(rule(LinuxSeccompAction::ScmpActErrno, None, 6).is_err());
    assert!(rule(LinuxSeccompAction::ScmpActTrace, Some(0x10000), 0).is_err());
    assert!(rule(LinuxSeccompAction::ScmpActNotify, None, 0).is_err());

    let json = |text: &str| serde_json::from_str::<LinuxSeccomp>(text);
    assert!(json(r#"{"defaultAction":"SCMP_ACT_ALLOW"}"#).is_ok());
    assert!(json(r#"{"defaultAction":"SCMP_ACT_SHRUG"}"#).is_err());
    assert!(json(r#"{}"#).is_err());

    // Every call with sixteen conditions of its own.
    let arg = |value: u64| LinuxSeccompArgBuilder::default().value(value).build().unwrap();
    let rules = CALLS.into_iter().zip(0..).map(|(call, place)| {
        let mut rule = LinuxSyscall::default();
        rule.set_names(vec![call.name.into()])
            .set_args(Some((0..16).map(|value| arg(place << 8 | value)).collect()));
        rule
    });
    let mut seccomp = base();
    seccomp.set_syscalls(Some(rules.collect()));
    assert!(compile(&seccomp, Arch::X86_64).is_err());
}

#[test]
fn a_filter_too_long_for_short_jumps_does_what_its_rules_say() {
    let rules = CALLS.iter().zip(0..).map(|(call, place): (_, u64)| {
        let arg = LinuxSeccompArgBuilder::default().index(1usize).value(place).build().unwrap();
        let mut rule = LinuxSyscall::default();
        rule.set_names(vec![call.name.into()]).set_args(Some(vec![arg]));
        rule
    });
    let mut seccomp = profile::profile(&docker(), Arch::X86_64);
    seccomp.set_syscalls(Some(rules.collect()));
    let program = compile(&seccomp, Arch::X86_64).unwrap();
    assert!(program.iter().any(|instruction| instruction.code == 0x05));
    let values = (0..CALLS.len() as u64).step_by(31).chain([u64::MAX]);
    let args: Vec<[u64; 6]> = values.map(|value| [0, value, 0, 0, 0, 0]).collect();
    compare(&seccomp, Arch::X86_64, &args);
}

#[test]
fn an_unknown_name_is_passed_over() {
    let json = r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[
        {"names":["no_such_call","mount"],"action":"SCMP_ACT_KILL_PROCESS"}]}"#;
    let seccomp: LinuxSeccomp = serde_json::from_str(json).unwrap();
    let program = compile(&seccomp, Arch::X86_64).unwrap();
    let returned = |arch, number| run(&program, &Data { arch, number, args: [0; 6] }).0;
    assert_eq!(returned(Arch::X86_64.audit(), 165), KILL_PROCESS);
    assert_eq!(returned(Arch::X86_64.audit(), 5000), ALLOW);
    // Else a denied call could be made by its x32 or i386 number.
    assert_eq!(returned(Arch::X86_64.audit(), X32 + 165), ENOSYS);
    assert_eq!(returned(Arch::I386.audit(), 21), KILL_PROCESS);
}

prop_compose! {
    /// Values near each other, so that comparisons go both ways.
    fn value()(high in prop::sample::select(vec![0u64, 1, 0x7fff_ffff, 0xffff_ffff]),
               low in prop::sample::select(vec![0u64, 1, 2, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff]))
               -> u64 {
        high << 32 | low
    }
}

fn actions() -> impl Strategy<Value = (LinuxSeccompAction, Option<u32>)> {
    prop_oneof![
        Just((LinuxSeccompAction::ScmpActAllow, None)),
        Just((LinuxSeccompAction::ScmpActErrno, None)),
        Just((LinuxSeccompAction::ScmpActErrno, Some(38))),
        Just((LinuxSeccompAction::ScmpActErrno, Some(0))),
        Just((LinuxSeccompAction::ScmpActKill, None)),
        Just((LinuxSeccompAction::ScmpActKillProcess, None)),
        Just((LinuxSeccompAction::ScmpActTrap, None)),
        Just((LinuxSeccompAction::ScmpActTrace, Some(7))),
        Just((LinuxSeccompAction::ScmpActLog, None)),
    ]
}

fn rules() -> impl Strategy<Value = LinuxSyscall> {
    use LinuxSeccompOperator::*;
    let ops =
        vec![ScmpCmpNe, ScmpCmpLt, ScmpCmpLe, ScmpCmpEq, ScmpCmpGe, ScmpCmpGt, ScmpCmpMaskedEq];
    let arg = (0usize..6, value(), value(), prop::sample::select(ops)).prop_map(
        |(index, value, second, op)| {
            let arg = LinuxSeccompArgBuilder::default().index(index).value(value).op(op);
            arg.value_two(second).build().unwrap()
        },
    );
    let names: Vec<&str> = CALLS.iter().map(|call| call.name).collect();
    (prop::sample::subsequence(names, 0..12), actions(), prop::collection::vec(arg, 0..4)).prop_map(
        |(names, (action, errno), args)| {
            let mut rule = LinuxSyscall::default();
            rule.set_names(names.into_iter().map(String::from).collect())
                .set_action(action)
                .set_errno_ret(errno)
                .set_args((!args.is_empty()).then_some(args));
            rule
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_filter_does_what_its_rules_say(
        (action, errno) in actions(),
        rules in prop::collection::vec(rules(), 0..24),
        both in any::<bool>(),
        arm in any::<bool>(),
        args in prop::collection::vec(prop::array::uniform6(value()), 6),
    ) {
        let native = if arm { Arch::Aarch64 } else { Arch::X86_64 };
        let mut seccomp = LinuxSeccomp::default();
        seccomp.set_default_action(action).set_default_errno_ret(errno).set_syscalls(Some(rules));
        if both {
            let all = vec![OciArch::ScmpArchX86, OciArch::ScmpArchX32, OciArch::ScmpArchArm];
            seccomp.set_architectures(Some(all));
        }
            compare(&seccomp, native, &args);
    }
}

#[test]
fn the_kernel_takes_the_default_filter_and_keeps_to_it() {
    let profile = default_profile(&docker()).unwrap();
    let filter = filter(&profile).unwrap();
    // A filter holds for a thread.
    let thread = std::thread::spawn(move || {
        nix::sys::prctl::set_no_new_privs().unwrap();
        sys::seccomp_install(&filter.program, filter.flags).unwrap();
        let errno = |result: std::io::Result<i64>| {
            Errno::from_raw(result.unwrap_err().raw_os_error().unwrap())
        };
        assert!(sys::probe(libc::SYS_getpid).is_ok());
        assert_eq!(errno(sys::probe(libc::SYS_mount)), Errno::EPERM);
        assert_eq!(errno(sys::probe(libc::SYS_unshare)), Errno::EPERM);
        assert_eq!(errno(sys::probe(libc::SYS_keyctl)), Errno::EPERM);
        assert_eq!(errno(sys::probe(libc::SYS_clone3)), Errno::ENOSYS);
        assert_eq!(errno(sys::probe(5000)), Errno::ENOSYS);
        // glibc falls back from clone3 to clone, so threads start.
        std::thread::spawn(|| ()).join().unwrap();
        #[cfg(target_arch = "x86_64")]
        {
            assert_eq!(errno(sys::probe(i64::from(X32) + libc::SYS_getpid)), Errno::ENOSYS);
            assert!(sys::probe_i386(20).is_ok()); // getpid
            assert_eq!(errno(sys::probe_i386(21).map(i64::from)), Errno::EPERM); // mount
        }
    });
    thread.join().unwrap();
}
