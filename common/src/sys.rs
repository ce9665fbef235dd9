//! System calls that neither nix nor rustix wraps, or not soundly for us: the only file with `unsafe`.
//!
//! One small function for each call. Its doc comment says why we need it, its
//! SAFETY comment why this call is sound.

#![allow(unsafe_code)]

/// Restores the default action of SIGPIPE, which the Rust runtime ignores.
///
/// Ignored, it turns `img-ls | head -1` into an error message, and a program
/// that we exec inherits it.
pub fn reset_sigpipe() {
    // SAFETY: SIG_DFL installs no handler, so no code of ours can run in
    // signal context.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
}

/// Returns whether the process ignores `signal`: under nohup(1), or in the background of a script.
///
/// nix has no call that asks for an action without setting one.
pub fn is_ignored(signal: nix::sys::signal::Signal) -> bool {
    // SAFETY: sigaction is a C struct of integers and pointers that may all be zero.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: no new action is given, and the old one is written to memory that is ours.
    let asked = unsafe { libc::sigaction(signal as libc::c_int, std::ptr::null(), &mut action) };
    asked == 0 && action.sa_sigaction == libc::SIG_IGN
}

/// Forks; returns the child's process id, or nothing in the child.
///
/// nix has this as unsafe, because in a process with several threads the child
/// may find a lock held by a thread that it does not have. So it is refused there.
pub fn fork() -> std::io::Result<Option<nix::unistd::Pid>> {
    if std::fs::read_dir("/proc/self/task")?.count() != 1 {
        return Err(std::io::Error::other("this process has several threads"));
    }
    // SAFETY: there is but the calling thread, so nothing in the child waits for
    // a thread that is gone. Nobody else can start one in between.
    match unsafe { nix::unistd::fork() }? {
        nix::unistd::ForkResult::Parent { child } => Ok(Some(child)),
        nix::unistd::ForkResult::Child => Ok(None),
    }
}

/// Ends a forked child at once: what the parent has buffered or registered is the parent's to write and run.
pub fn exit(status: i32) -> ! {
    // SAFETY: _exit(2) touches no memory of ours.
    unsafe { libc::_exit(status) }
}

/// One instruction of a seccomp filter: `struct sock_filter` of linux/filter.h.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Instruction {
    /// What it does.
    pub code: u16,
    /// How many instructions to skip if the condition holds.
    pub jt: u8,
    /// How many to skip if it does not.
    pub jf: u8,
    /// The operand.
    pub k: u32,
}

const _: () = assert!(size_of::<Instruction>() == size_of::<libc::sock_filter>());

/// Installs a seccomp filter on this thread, for good.
///
/// nix and rustix have no seccomp(2). The thread needs no_new_privs, or
/// CAP_SYS_ADMIN in its user namespace. `flags` are SECCOMP_FILTER_FLAG_*, but
/// not NEW_LISTENER, whose result is a file descriptor.
pub fn seccomp_install(program: &[Instruction], flags: u32) -> std::io::Result<()> {
    let len = u16::try_from(program.len()).map_err(|_| std::io::ErrorKind::InvalidInput)?;
    let filter = program.as_ptr().cast::<libc::sock_filter>().cast_mut();
    let prog = libc::sock_fprog { len, filter };
    // SAFETY: `prog` describes `program`, which has the layout that the kernel
    // reads; it copies both before it returns, and writes to neither.
    let result = unsafe {
        libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const prog)
    };
    match result {
        0 => Ok(()),
        -1 => Err(std::io::Error::last_os_error()),
        // With TSYNC: the thread that has another filter.
        thread => Err(std::io::Error::other(format!("thread {thread} has a filter of its own"))),
    }
}

/// Makes the system call `number` with all arguments 0, for tests of filters.
#[cfg(test)]
pub fn probe(number: i64) -> std::io::Result<i64> {
    // SAFETY: the tests ask for calls to which zeros are no address that is written to.
    match unsafe { libc::syscall(number, 0, 0, 0, 0, 0, 0) } {
        -1 => Err(std::io::Error::last_os_error()),
        result => Ok(result),
    }
}

/// Makes the i386 system call `number` with all arguments 0, for tests of filters.
#[cfg(all(test, target_arch = "x86_64"))]
pub fn probe_i386(number: i32) -> std::io::Result<i32> {
    let result: i32;
    // SAFETY: as above; rbx, which LLVM keeps for itself, is put back.
    unsafe {
        std::arch::asm!(
            "mov {rbx:r}, rbx", "xor ebx, ebx", "int 0x80", "mov rbx, {rbx:r}",
            rbx = out(reg) _,
            inlateout("eax") number => result,
            in("ecx") 0, in("edx") 0, in("esi") 0, in("edi") 0,
            lateout("r8") _, lateout("r9") _, lateout("r10") _, lateout("r11") _,
        );
    }
    if result < 0 { Err(std::io::Error::from_raw_os_error(-result)) } else { Ok(result) }
}
