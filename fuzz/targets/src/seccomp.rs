//! Rules of a spec, compiled to BPF: what the program returns is what the rules say.

use std::collections::BTreeSet;

use common::runtime::seccomp::filter;
use common::runtime::seccomp::syscalls::{Arch, CALLS, find};
use common::sys::Instruction;
use oci_spec::runtime::{
    Arch as OciArch, LinuxSeccomp, LinuxSeccompAction as Action, LinuxSeccompArg,
    LinuxSeccompArgBuilder, LinuxSeccompOperator as Operator, LinuxSyscall,
};

use crate::input::Input;

/// Where x32 begins among the numbers of x86-64.
const X32: u32 = 0x4000_0000;

const ACTIONS: [(Action, u32); 8] = [
    (Action::ScmpActAllow, 0x7fff_0000),
    (Action::ScmpActErrno, 0x0005_0000),
    (Action::ScmpActKillProcess, 0x8000_0000),
    (Action::ScmpActKill, 0),
    (Action::ScmpActTrap, 0x0003_0000),
    (Action::ScmpActTrace, 0x7ff0_0000),
    (Action::ScmpActLog, 0x7ffc_0000),
    (Action::ScmpActNotify, u32::MAX),
];

const OPERATORS: [Operator; 7] = [
    Operator::ScmpCmpEq,
    Operator::ScmpCmpNe,
    Operator::ScmpCmpLt,
    Operator::ScmpCmpLe,
    Operator::ScmpCmpGe,
    Operator::ScmpCmpGt,
    Operator::ScmpCmpMaskedEq,
];

const VALUES: [u64; 8] = [0, 1, 2, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff, 1 << 32, u64::MAX];

/// The number of an action and an error.
fn returned(action: Action, errno: Option<u32>) -> u32 {
    let (_, value) = ACTIONS.iter().find(|(other, _)| *other == action).unwrap();
    match action {
        Action::ScmpActErrno | Action::ScmpActTrace => value | errno.unwrap_or(1),
        _ => *value,
    }
}

pub fn seccomp(data: &[u8]) {
    let mut input = Input::new(data);
    let rules = rules(&mut input);
    let Ok(filter) = filter(&rules) else { return };
    let program = &filter.program;
    assert!(program.len() <= 4096);
    let native = Arch::native().unwrap();
    let named = rules.syscalls().iter().flatten().flat_map(|rule| rule.names());
    let named = named.filter_map(|name| CALLS[find(name, 0)?].number(native));
    let some = [0, 1, 59, 165, 335, 424, 460, 500, 5000, X32, X32 + 1, 0x8000_0000, u32::MAX];
    let numbers: BTreeSet<u32> = named.flat_map(around).chain(some).collect();
    let args: Vec<[u64; 6]> = (0..4)
        .map(|_| std::array::from_fn(|_| *input.pick(&VALUES)))
        .chain([[0; 6], [u64::MAX; 6]])
        .collect();
    for number in &numbers {
        let decided = Decided::of(&rules, native, *number);
        for args in &args {
            let found = run(program, native.audit(), *number, args);
            assert_eq!(found, decided.returned(args), "{number} {args:x?} {rules:?}");
        }
        for arch in [0xc000_003e, 0xc000_00b7, 0x4000_0028, 0] {
            if arch != native.audit() {
                assert_eq!(run(program, arch, *number, &args[0]), 0x8000_0000, "{arch:x}");
            }
        }
    }
}

fn around(number: u32) -> [u32; 3] {
    [number.saturating_sub(1), number, number + 1]
}

fn rules(input: &mut Input) -> LinuxSeccomp {
    let (action, _) = *input.pick(&ACTIONS);
    let mut rules = LinuxSeccomp::default();
    rules.set_default_action(action).set_default_errno_ret(errno(input));
    if input.one_in(3) {
        rules.set_architectures(Some(vec![OciArch::ScmpArchX86, OciArch::ScmpArchX86_64]));
    }
    let mut list = Vec::new();
    while list.len() < 16 && !input.is_empty() {
        let (action, _) = *input.pick(&ACTIONS[..7]);
        let mut names = Vec::new();
        for _ in 0..input.byte() % 8 {
            let at = usize::from(input.byte()) << 8 | usize::from(input.byte());
            names.push(CALLS[at % CALLS.len()].name.to_owned());
        }
        let args: Vec<LinuxSeccompArg> = (0..input.byte() % 4).map(|_| arg(input)).collect();
        let mut rule = LinuxSyscall::default();
        rule.set_names(names)
            .set_action(action)
            .set_errno_ret(errno(input))
            .set_args((!args.is_empty()).then_some(args));
        list.push(rule);
    }
    rules.set_syscalls(Some(list));
    rules
}

fn errno(input: &mut Input) -> Option<u32> {
    *input.pick(&[None, None, Some(0), Some(38), Some(4095), Some(4096), Some(0xffff)])
}

fn arg(input: &mut Input) -> LinuxSeccompArg {
    let index = usize::from(input.byte() % 7);
    let value = |input: &mut Input| match input.one_in(4) {
        true => input.word(),
        false => *input.pick(&VALUES),
    };
    // All that must be there is.
    LinuxSeccompArgBuilder::default()
        .index(index)
        .value(value(input))
        .value_two(value(input))
        .op(*input.pick(&OPERATORS))
        .build()
        .unwrap()
}

/// Runs a filter as the kernel does.
fn run(program: &[Instruction], arch: u32, number: u32, args: &[u64; 6]) -> u32 {
    let load = |offset: u32| match offset {
        0 => number,
        4 => arch,
        16..64 if offset.is_multiple_of(4) => {
            (args[(offset as usize - 16) / 8] >> (8 * (offset % 8))) as u32
        }
        _ => panic!("a load at {offset}"),
    };
    let (mut at, mut word) = (0, 0);
    loop {
        let Instruction { code, jt, jf, k } = program[at];
        at += 1;
        let mut jump = |yes: bool| at += usize::from(if yes { jt } else { jf });
        match code {
            0x20 => word = load(k),
            0x54 => word &= k,
            0x05 => at += k as usize,
            0x15 => jump(word == k),
            0x25 => jump(word > k),
            0x35 => jump(word >= k),
            0x06 => return k,
            _ => panic!("an instruction {code:#x}"),
        }
    }
}

/// What the rules come to for one call of the native architecture, as libseccomp's manual reads.
struct Decided<'a> {
    rules: Vec<&'a LinuxSyscall>,
    otherwise: u32,
}

impl<'a> Decided<'a> {
    fn of(rules: &'a LinuxSeccomp, native: Arch, number: u32) -> Decided<'a> {
        const ENOSYS: u32 = 0x0005_0000 | 38;
        let always = |otherwise| Decided { rules: Vec::new(), otherwise };
        if native == Arch::X86_64 && number >= X32 {
            return always(ENOSYS);
        }
        let default = returned(rules.default_action(), rules.default_errno_ret());
        let permissive = [0x7fff_0000, 0x7ffc_0000, 0x7ff0_0000].contains(&(default & 0xffff_0000));
        let beyond = if permissive { default } else { ENOSYS };
        let Some(call) = CALLS.iter().find(|call| call.number(native) == Some(number)) else {
            return always(beyond);
        };
        let all = || rules.syscalls().iter().flatten();
        // One that says what the default says is none.
        let mine: Vec<&LinuxSyscall> = all()
            .filter(|rule| rule.names().iter().any(|name| name == call.name))
            .filter(|rule| returned(rule.action(), rule.errno_ret()) != default)
            .collect();
        let bare = mine.iter().find(|rule| rule.args().iter().flatten().next().is_none());
        if let Some(rule) = bare {
            return always(returned(rule.action(), rule.errno_ret()));
        }
        // What is beyond all that the rules name, their author did not know.
        let named = all().flat_map(|rule| rule.names());
        let last = named.filter_map(|name| CALLS[find(name, 0)?].number(native)).max();
        let unknown = mine.is_empty() && last.is_some_and(|last| last < number);
        Decided { rules: mine, otherwise: if unknown { beyond } else { default } }
    }

    fn returned(&self, args: &[u64; 6]) -> u32 {
        let found = self.rules.iter().find(|rule| {
            let conditions = rule.args().as_deref().unwrap_or_default();
            let places: BTreeSet<usize> = conditions.iter().map(|arg| arg.index()).collect();
            // Two on one argument are two rules.
            match places.len() < conditions.len() {
                true => conditions.iter().any(|arg| holds(arg, args)),
                false => conditions.iter().all(|arg| holds(arg, args)),
            }
        });
        found.map_or(self.otherwise, |rule| returned(rule.action(), rule.errno_ret()))
    }
}

fn holds(arg: &LinuxSeccompArg, args: &[u64; 6]) -> bool {
    let (given, value) = (args[arg.index()], arg.value());
    match arg.op() {
        Operator::ScmpCmpNe => given != value,
        Operator::ScmpCmpLt => given < value,
        Operator::ScmpCmpLe => given <= value,
        Operator::ScmpCmpEq => given == value,
        Operator::ScmpCmpGe => given >= value,
        Operator::ScmpCmpGt => given > value,
        Operator::ScmpCmpMaskedEq => given & value == arg.value_two().unwrap_or_default(),
    }
}
