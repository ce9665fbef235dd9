//! The last program before the command: one that a container may see and cannot harm.
//!
//! A command whose interpreter is `/proc/self/exe` runs the program that called
//! exec, from the host, as the container's root; and then it can write to it
//! (CVE-2019-5736). So we never call exec for a command as ourselves where the
//! container's root could write to our file, but as these few instructions in a sealed memfd:
//!
//! ```text
//! fcntl(report, F_SETFD, FD_CLOEXEC) or exit(126)
//! execve(argv[0], &argv[1], envp)
//! write(report, -errno, 8)
//! exit(127)
//! ```
//!
//! Whoever else runs it has no such report, and gets no further.
//! It starts in a quarter of the time that a copy of ourselves would take, and writes to no memory but its stack.

use std::ffi::{CStr, CString};
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};

use nix::fcntl::{AtFlags, FcntlArg, SealFlag, fcntl};
use nix::unistd::{execve, execveat};
use rustix::fs::{CWD, MemfdFlags, memfd_create};
use rustix::io::{Errno, FdFlags, fcntl_setfd};
use rustix::mount::{OpenTreeFlags, open_tree};

use super::mount::linux_attr;
use crate::sys;

/// Where the program is loaded.
const BASE: u64 = 0x40_0000;
/// What precedes the instructions: the ELF header and one program header.
const HEADERS: u64 = 64 + 56;

/// Returns the last program, if there is a need for one: our own file could be written to.
///
/// Asked for by the most powerful user that the container can have, in its user namespace.
pub(super) fn program(report: &OwnedFd) -> Result<Option<OwnedFd>, Errno> {
    let writable = rustix::fs::access("/proc/self/exe", rustix::fs::Access::WRITE_OK);
    if let Err(Errno::ACCESS | Errno::PERM | Errno::ROFS) = writable {
        return Ok(None);
    }
    let code = code(report.as_raw_fd()).ok_or(Errno::NOSYS)?;
    load(&elf(&code)).map(Some)
}

/// Becomes the command `path`, through the last program.
///
/// Returns only if that failed. What goes wrong later, `report` gets as eight bytes of a negative errno.
pub(super) fn exec(
    program: &OwnedFd,
    path: &CString,
    args: &[CString],
    env: &[CString],
    report: &OwnedFd,
) -> Errno {
    let mut all = Vec::with_capacity(args.len() + 1);
    all.push(path);
    all.extend(args);
    // It outlives this exec, and the next one closes it.
    if let Err(errno) = fcntl_setfd(report, FdFlags::empty()) {
        return errno;
    }
    match execveat(program, c"", &all, env, AtFlags::AT_EMPTY_PATH) {
        Ok(never) => match never {},
        Err(errno) => Errno::from_raw_os_error(errno as i32),
    }
}

/// Returns whether there are no instructions for this machine.
pub(super) fn is_missing() -> bool {
    code(0).is_none()
}

/// Returns our own program, as a mount of its own that nobody can write to, ever.
pub(super) fn own_program() -> Result<OwnedFd, Errno> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let tree = match open_tree(CWD, "/proc/self/exe", flags) {
        // The link leads to a mount of the namespace that we came from; the name, to ours.
        Err(Errno::INVAL) => {
            let name = rustix::fs::readlink("/proc/self/exe", Vec::new())?;
            open_tree(CWD, name.as_c_str(), flags)?
        }
        tree => tree?,
    };
    sys::mount_setattr(tree.as_fd(), false, linux_attr::RDONLY, 0, 0)?;
    Ok(tree)
}

/// Becomes the command `path`, through our own program in a role of [`super::init`].
pub(super) fn exec_own(
    own: &OwnedFd,
    role: &CStr,
    path: &CString,
    args: &[CString],
    env: &[CString],
    report: &OwnedFd,
) -> Errno {
    // A number holds no NUL.
    let number = CString::new(report.as_raw_fd().to_string()).unwrap();
    let mut all: Vec<&CStr> = vec![role, &number, path];
    all.extend(args.iter().map(CString::as_c_str));
    if let Err(errno) = fcntl_setfd(report, FdFlags::empty()) {
        return errno;
    }
    match execveat(own, c"", &all, env, AtFlags::AT_EMPTY_PATH) {
        Ok(never) => match never {},
        Err(errno) => Errno::from_raw_os_error(errno as i32),
    }
}

/// Becomes the command `path` as ourselves.
pub(super) fn exec_directly(path: &CString, args: &[CString], env: &[CString]) -> Errno {
    match execve(path, args, env) {
        Ok(never) => match never {},
        Err(errno) => Errno::from_raw_os_error(errno as i32),
    }
}

/// Puts the program where nobody can change it.
fn load(program: &[u8]) -> Result<OwnedFd, Errno> {
    let io =
        |err: std::io::Error| Errno::from_raw_os_error(err.raw_os_error().unwrap_or(libc::EIO));
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    // Kernels before 6.3 do not know the flag, and make every memfd executable.
    let file = match memfd_create(c"exec", flags | MemfdFlags::EXEC) {
        Err(Errno::INVAL) => memfd_create(c"exec", flags)?,
        result => result?,
    };
    let mut file = std::fs::File::from(file);
    file.write_all(program).map_err(io)?;
    let seals = SealFlag::F_SEAL_SEAL
        | SealFlag::F_SEAL_SHRINK
        | SealFlag::F_SEAL_GROW
        | SealFlag::F_SEAL_WRITE;
    fcntl(&file, FcntlArg::F_ADD_SEALS(seals))
        .map_err(|errno| Errno::from_raw_os_error(errno as i32))?;
    // A file that is open for writing cannot be executed: execve(2), ETXTBSY.
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    rustix::fs::open(path, rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC, 0.into())
}

/// Returns an ELF executable of `code`, in one segment: elf(5).
fn elf(code: &[u8]) -> Vec<u8> {
    let machine: u16 = if cfg!(target_arch = "aarch64") { 183 } else { 62 };
    let size = HEADERS + code.len() as u64;
    let mut elf = Vec::with_capacity(size as usize);
    elf.extend_from_slice(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    for half in [2u16, machine] {
        elf.extend_from_slice(&half.to_le_bytes());
    }
    elf.extend_from_slice(&1u32.to_le_bytes());
    for word in [BASE + HEADERS, 64, 0] {
        elf.extend_from_slice(&word.to_le_bytes());
    }
    elf.extend_from_slice(&0u32.to_le_bytes());
    for half in [64u16, 56, 1, 0, 0, 0] {
        elf.extend_from_slice(&half.to_le_bytes());
    }
    // PT_LOAD, to be read and executed.
    for word in [1u32, 5] {
        elf.extend_from_slice(&word.to_le_bytes());
    }
    for word in [0, BASE, BASE, size, size, 0x1000] {
        elf.extend_from_slice(&word.to_le_bytes());
    }
    elf.extend_from_slice(code);
    elf
}

/// Returns the instructions, for the descriptor `report`.
#[cfg(target_arch = "x86_64")]
fn code(report: RawFd) -> Option<Vec<u8>> {
    let [a, b, c, d] = report.to_le_bytes();
    #[rustfmt::skip]
    let code = vec![
        0xbf, a, b, c, d,                   // mov   edi, report
        0xbe, 2, 0, 0, 0,                   // mov   esi, F_SETFD
        0xba, 1, 0, 0, 0,                   // mov   edx, FD_CLOEXEC
        0xb8, 72, 0, 0, 0,                  // mov   eax, fcntl
        0x0f, 0x05,                         // syscall
        0x85, 0xc0,                         // test  eax, eax
        0x74, 12,                           // jz    1f
        0xbf, 126, 0, 0, 0,                 // mov   edi, 126
        0xb8, 231, 0, 0, 0,                 // mov   eax, exit_group
        0x0f, 0x05,                         // syscall
        0x48, 0x8b, 0x7c, 0x24, 0x08,       // 1: mov rdi, [rsp+8]          the path
        0x48, 0x8d, 0x74, 0x24, 0x10,       // lea   rsi, [rsp+16]          its arguments
        0x48, 0x8b, 0x04, 0x24,             // mov   rax, [rsp]             their count and one
        0x48, 0x8d, 0x54, 0xc4, 0x10,       // lea   rdx, [rsp+rax*8+16]    the environment
        0xb8, 59, 0, 0, 0,                  // mov   eax, execve
        0x0f, 0x05,                         // syscall
        0x50,                               // push  rax
        0xbf, a, b, c, d,                   // mov   edi, report
        0x48, 0x89, 0xe6,                   // mov   rsi, rsp
        0xba, 8, 0, 0, 0,                   // mov   edx, 8
        0xb8, 1, 0, 0, 0,                   // mov   eax, write
        0x0f, 0x05,                         // syscall
        0xbf, 127, 0, 0, 0,                 // mov   edi, 127
        0xb8, 231, 0, 0, 0,                 // mov   eax, exit_group
        0x0f, 0x05,                         // syscall
    ];
    Some(code)
}

/// Returns the instructions, for the descriptor `report`.
#[cfg(target_arch = "aarch64")]
fn code(report: RawFd) -> Option<Vec<u8>> {
    let movz = |register: u32, value: u32| 0xd280_0000 | value << 5 | register;
    let report = u16::try_from(report).ok()?.into();
    const SVC: u32 = 0xd400_0001;
    #[rustfmt::skip]
    let code = [
        movz(0, report),                    // mov   x0, report
        movz(1, 2),                         // mov   x1, F_SETFD
        movz(2, 1),                         // mov   x2, FD_CLOEXEC
        movz(8, 25),                        // mov   x8, fcntl
        SVC,
        0xb400_0080,                        // cbz   x0, 1f
        movz(0, 126),                       // mov   x0, 126
        movz(8, 94),                        // mov   x8, exit_group
        SVC,
        0xf940_07e0,                        // 1: ldr x0, [sp, 8]           the path
        0x9100_43e1,                        // add   x1, sp, 16             its arguments
        0xf940_03e2,                        // ldr   x2, [sp]               their count and one
        0x8b02_0c22,                        // add   x2, x1, x2, lsl 3      the environment
        movz(8, 221),                       // mov   x8, execve
        SVC,
        0xf81f_0fe0,                        // str   x0, [sp, -16]!
        movz(0, report),                    // mov   x0, report
        0x9100_03e1,                        // mov   x1, sp
        movz(2, 8),                         // mov   x2, 8
        movz(8, 64),                        // mov   x8, write
        SVC,
        movz(0, 127),                       // mov   x0, 127
        movz(8, 94),                        // mov   x8, exit_group
        SVC,
    ];
    Some(code.iter().flat_map(|word: &u32| word.to_le_bytes()).collect())
}

/// There are no instructions for this machine.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn code(_report: RawFd) -> Option<Vec<u8>> {
    None
}
