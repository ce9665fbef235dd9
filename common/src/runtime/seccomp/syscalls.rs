//! System calls by name and number, of the architectures that a host of ours can run.

/// An architecture, as its column in syscalls.txt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arch {
    /// x86-64, but not its x32 calls.
    X86_64,
    /// 32-bit x86.
    I386,
    /// 64-bit ARM.
    Aarch64,
    /// 32-bit ARM, EABI.
    Arm,
}

impl Arch {
    /// Returns what this program runs on, if it is here.
    pub fn native() -> Option<Arch> {
        if cfg!(target_arch = "x86_64") {
            Some(Arch::X86_64)
        } else if cfg!(target_arch = "aarch64") {
            Some(Arch::Aarch64)
        } else if cfg!(target_arch = "x86") {
            Some(Arch::I386)
        } else if cfg!(target_arch = "arm") {
            Some(Arch::Arm)
        } else {
            None
        }
    }

    /// Returns the 32-bit architecture whose programs this one's kernel runs too.
    pub fn compat(self) -> Option<Arch> {
        match self {
            Arch::X86_64 => Some(Arch::I386),
            Arch::Aarch64 => Some(Arch::Arm),
            Arch::I386 | Arch::Arm => None,
        }
    }

    /// Returns the word by which the kernel tells a filter the architecture: AUDIT_ARCH_* of linux/audit.h.
    pub fn audit(self) -> u32 {
        match self {
            Arch::X86_64 => 0xc000_003e,
            Arch::I386 => 0x4000_0003,
            Arch::Aarch64 => 0xc000_00b7,
            Arch::Arm => 0x4000_0028,
        }
    }
}

/// One call: its name, and its number on each architecture.
#[derive(Clone, Copy, Debug)]
pub struct Call {
    /// The kernel's name for it.
    pub name: &'static str,
    numbers: [Option<u32>; 4],
}

impl Call {
    /// Returns the number of the call, if `arch` has it.
    pub fn number(&self, arch: Arch) -> Option<u32> {
        self.numbers[arch as usize]
    }
}

/// All calls, sorted by name.
pub static CALLS: [Call; COUNT] = read();

/// Returns the place of the call of this name in [`CALLS`], which may be `near`: lists of names are often sorted.
pub fn find(name: &str, near: usize) -> Option<usize> {
    match CALLS.get(near) {
        Some(call) if call.name == name => Some(near),
        _ => CALLS.binary_search_by(|call| call.name.cmp(name)).ok(),
    }
}

/// Returns the places in [`CALLS`] of what `arch` has, by number.
pub fn by_number(arch: Arch) -> &'static [u16] {
    static ORDERS: [(usize, [u16; COUNT]); 4] = [order(0), order(1), order(2), order(3)];
    let (count, order) = &ORDERS[arch as usize];
    &order[..*count]
}

/// Sorts the calls that have a number in `column`, when this is compiled.
const fn order(column: usize) -> (usize, [u16; COUNT]) {
    let mut order = [0; COUNT];
    let (mut count, mut place) = (0, 0);
    while place < COUNT {
        if let Some(number) = CALLS[place].numbers[column] {
            let mut at = count;
            while at > 0
                && let Some(before) = CALLS[order[at - 1] as usize].numbers[column]
                && before > number
            {
                order[at] = order[at - 1];
                at -= 1;
            }
            order[at] = place as u16;
            count += 1;
        }
        place += 1;
    }
    (count, order)
}

const TABLE: &[u8] = include_bytes!("syscalls.txt");

const COUNT: usize = {
    let (mut count, mut at) = (0, 0);
    while at < TABLE.len() {
        if TABLE[at] != b'#' {
            count += 1;
        }
        at = skip(at, b'\n') + 1;
    }
    count
};

/// Reads the table, when this is compiled.
const fn read() -> [Call; COUNT] {
    let mut calls = [Call { name: "", numbers: [None; 4] }; COUNT];
    let (mut count, mut at) = (0, 0);
    while at < TABLE.len() {
        if TABLE[at] == b'#' {
            at = skip(at, b'\n') + 1;
            continue;
        }
        let end = skip(at, b' ');
        let name = TABLE.split_at(end).0.split_at(at).1;
        calls[count].name = match str::from_utf8(name) {
            Ok(name) => name,
            Err(_) => panic!("syscalls.txt: not UTF-8"),
        };
        at = end + 1;
        let mut column = 0;
        while column < 4 {
            let end = skip(at, if column < 3 { b' ' } else { b'\n' });
            if TABLE[at] != b'-' {
                let mut number = 0;
                while at < end {
                    assert!(TABLE[at].is_ascii_digit(), "syscalls.txt: not a number");
                    number = 10 * number + (TABLE[at] - b'0') as u32;
                    at += 1;
                }
                calls[count].numbers[column] = Some(number);
            }
            at = end + 1;
            column += 1;
        }
        count += 1;
    }
    calls
}

/// Returns where the next `byte` is.
const fn skip(mut at: usize, byte: u8) -> usize {
    while TABLE[at] != byte {
        at += 1;
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sorted_and_whole() {
        assert!(CALLS.is_sorted_by(|a, b| a.name < b.name));
        let lines = include_str!("syscalls.txt").lines().filter(|line| !line.starts_with('#'));
        for (line, call) in lines.zip(&CALLS) {
            let mut cells = vec![call.name.to_string()];
            cells.extend(call.numbers.map(|number| match number {
                Some(number) => number.to_string(),
                None => "-".into(),
            }));
            assert_eq!(cells.join(" "), line);
        }
        for arch in [Arch::X86_64, Arch::I386, Arch::Aarch64, Arch::Arm] {
            let mut numbers: Vec<u32> = CALLS.iter().filter_map(|call| call.number(arch)).collect();
            let count = numbers.len();
            numbers.sort();
            numbers.dedup();
            assert!(count > 300 && numbers.len() == count, "{arch:?}");
        }
    }

    #[test]
    fn the_numbers_are_those_of_libc() {
        let native = Arch::native().unwrap();
        let table = [
            ("read", libc::SYS_read),
            ("clone3", libc::SYS_clone3),
            ("mount", libc::SYS_mount),
            ("socket", libc::SYS_socket),
            ("openat2", libc::SYS_openat2),
            ("futex_waitv", libc::SYS_futex_waitv),
        ];
        let number = |name, arch| CALLS[find(name, 0).unwrap()].number(arch);
        for (name, expected) in table {
            assert_eq!(number(name, native).map(i64::from), Some(expected), "{name}");
        }
        assert_eq!(number("mount", Arch::I386), Some(21));
        assert_eq!(number("set_tls", Arch::Arm), Some(0xf0005));
        assert!(find("nothing", 0).is_none());
        assert!((0..=COUNT).all(|near| find("mount", near) == find("mount", 0)));
    }
}
