//! System calls that neither nix nor rustix wraps, or not soundly for us: the only file with `unsafe`.
//!
//! One small function for each call. Its doc comment says why we need it, its
//! SAFETY comment why this call is sound.

#![allow(unsafe_code)]

use nix::sys::signal::{SigSet, SigmaskHow, Signal};

/// Restores the default action of SIGPIPE, which the Rust runtime ignores.
///
/// Ignored, it turns `img-ls | head -1` into an error message, and a program
/// that we exec inherits it.
pub fn reset_sigpipe() {
    // SAFETY: SIG_DFL installs no handler, so no code of ours can run in
    // signal context.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
}

/// Starts something, and with it threads that do not end the program when they write to what is gone.
///
/// A tool dies of a write to a pipe that nobody reads, as stdout may be
/// ([`reset_sigpipe`]). That is no power for a registry that hangs up, or for a
/// helper that does not listen: where SIGPIPE is blocked, the write fails with EPIPE.
pub fn without_sigpipe<T>(start: impl FnOnce() -> T) -> T {
    let before = SigSet::from(Signal::SIGPIPE).thread_swap_mask(SigmaskHow::SIG_BLOCK);
    let started = start();
    if let Ok(before) = before {
        let _ = before.thread_set_mask(); // it was a mask until now
    }
    started
}

/// Returns whether the process ignores `signal`: under nohup(1), or in the background of a script.
///
/// nix has no call that asks for an action without setting one.
pub fn is_ignored(signal: Signal) -> bool {
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
    // It is counted, not asked for with unshare(2): that may be denied by the time that somebody forks.
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

/// Clones this process into new namespaces, as fork(2) does; returns the child and its pidfd, or nothing in the child.
///
/// nix and rustix lack clone3(2), which alone can make all namespaces, a pidfd
/// and the place in a version 2 cgroup at once. Without CLONE_VM the child has a copy
/// of our memory. As with [`fork`], a process with several threads is refused.
pub fn clone3(
    namespaces: u64,
    cgroup: Option<std::os::fd::BorrowedFd>,
) -> std::io::Result<Option<(rustix::process::Pid, std::os::fd::OwnedFd)>> {
    use std::os::fd::AsRawFd;
    refuse_threads()?;
    let mut pidfd: libc::c_int = -1;
    // SAFETY: clone_args is plain integers; all zero is a valid value of it.
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = namespaces | libc::CLONE_PIDFD as u64;
    args.pidfd = &raw mut pidfd as u64;
    args.exit_signal = libc::SIGCHLD as u64;
    if let Some(cgroup) = cgroup {
        // libc has this constant too narrow.
        const CLONE_INTO_CGROUP: u64 = 1 << 33;
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = cgroup.as_raw_fd() as u64;
    }
    // SAFETY: the kernel reads `args`, of the size that we say, and writes a
    // descriptor to `pidfd`; both outlive the call. There is but this thread and no
    // CLONE_VM, so the child goes on with its own copy of a consistent memory.
    let pid =
        unsafe { libc::syscall(libc::SYS_clone3, &raw mut args, size_of::<libc::clone_args>()) };
    match pid {
        -1 => Err(std::io::Error::last_os_error()),
        0 => Ok(None),
        pid => Ok(Some(child(pid as i32, pidfd))),
    }
}

/// Clones this process into new namespaces, as vfork(2) does: `work` is done by the child in our
/// memory, and we go on once the child has executed a program or ended, with what `work` returned as
/// its status. Returns the child and its pidfd.
///
/// A copy of our memory, as [`clone3`] makes it, costs each page that either of the
/// two writes to later. Nor has such a copy the threads that hold its locks; here they go on, so
/// that `work` may allocate and wait as any code of this thread may.
pub fn clone_in_place(
    namespaces: u64,
    mut work: &mut dyn FnMut() -> i32,
) -> std::io::Result<(rustix::process::Pid, std::os::fd::OwnedFd)> {
    /// Enough for what is done before exec: the longest path that it builds has 4 KiB.
    const STACK: usize = 256 << 10;
    const GUARD: usize = 64 << 10;
    extern "C" fn enter(work: *mut libc::c_void) -> libc::c_int {
        // SAFETY: this is the reference below, and who lent it is suspended for as long as we are here.
        let work = unsafe { &mut *work.cast::<&mut dyn FnMut() -> i32>() };
        work()
    }
    let flags = libc::c_int::try_from(namespaces).map_err(|_| std::io::ErrorKind::InvalidInput)?;
    let flags = flags | libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_PIDFD | libc::SIGCHLD;
    let kind = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_STACK | libc::MAP_NORESERVE;
    // SAFETY: the kernel chooses a place where nothing is.
    let low = unsafe { libc::mmap(std::ptr::null_mut(), STACK, libc::PROT_NONE, kind, -1, 0) };
    if low == libc::MAP_FAILED {
        return Err(std::io::Error::last_os_error());
    }
    let mut pidfd: libc::c_int = -1;
    // SAFETY: all but the lowest part of the mapping, which catches an overflow, becomes a stack that is the
    // child's alone. `work` and `pidfd` outlive the call. We are suspended until the child has left this memory
    // (clone(2), CLONE_VFORK), so what is this thread's alone is the child's alone meanwhile; and what
    // threads share, they share with the child by the same locks, which know no processes.
    let (pid, err) = unsafe {
        let access = libc::PROT_READ | libc::PROT_WRITE;
        let made = libc::mprotect(low.byte_add(GUARD), STACK - GUARD, access);
        let pid = match made {
            0 => {
                let work = (&raw mut work).cast::<libc::c_void>();
                libc::clone(enter, low.byte_add(STACK), flags, work, &raw mut pidfd)
            }
            _ => -1,
        };
        let err = std::io::Error::last_os_error();
        libc::munmap(low, STACK);
        (pid, err)
    };
    if pid == -1 { Err(err) } else { Ok(child(pid, pidfd)) }
}

/// Fails unless there is but one thread: what the others hold or wait for, a child would not have.
fn refuse_threads() -> std::io::Result<()> {
    // One that was joined has ended, but for what the kernel still does about it.
    for _ in 0..10_000 {
        // SAFETY: for a process with one thread this changes nothing, for another it fails: unshare(2).
        match check(unsafe { libc::unshare(libc::CLONE_THREAD).into() }) {
            Err(rustix::io::Errno::INVAL) => std::thread::yield_now(),
            done => return done.map_err(Into::into),
        }
    }
    Err(std::io::Error::other("this process has several threads"))
}

/// Returns a new child as the kernel has given it to us.
fn child(pid: i32, pidfd: i32) -> (rustix::process::Pid, std::os::fd::OwnedFd) {
    use std::os::fd::FromRawFd;
    // SAFETY: the kernel has just made this descriptor for us, and nobody else knows it.
    let pidfd = unsafe { std::os::fd::OwnedFd::from_raw_fd(pidfd) };
    // A process id is positive.
    (rustix::process::Pid::from_raw(pid).unwrap(), pidfd)
}

/// Closes a child's copy of a descriptor that its parent owns, and goes on owning.
///
/// For a child that never returns to where it came from, so that nobody closes it again.
pub fn close_copy(fd: &std::os::fd::OwnedFd) {
    use std::os::fd::AsRawFd;
    // SAFETY: a descriptor is closed in the table of this process; no memory is involved.
    unsafe { libc::close(fd.as_raw_fd()) };
}

/// Changes the attributes of the mount that `mount` is open on, and of those below it if `recursive`.
///
/// nix and rustix lack mount_setattr(2), which alone makes a whole tree
/// read-only. `set` and `clear` are MOUNT_ATTR_* bits; `propagation` is one of
/// MS_PRIVATE, MS_SLAVE or nothing.
pub fn mount_setattr(
    mount: std::os::fd::BorrowedFd,
    recursive: bool,
    set: u32,
    clear: u32,
    propagation: u64,
) -> rustix::io::Result<()> {
    use std::os::fd::AsRawFd;
    #[repr(C)]
    struct MountAttr {
        set: u64,
        clear: u64,
        propagation: u64,
        user_namespace: u64,
    }
    let attr = MountAttr { set: set.into(), clear: clear.into(), propagation, user_namespace: 0 };
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the kernel reads the empty string and `attr`, of the size that we
    // say, and keeps neither.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const attr,
            size_of::<MountAttr>(),
        )
    };
    check(result)
}

/// Gives every signal its default action and lets all through.
///
/// A container starts as init would start it, whatever our caller ignores.
pub fn reset_signals() {
    // The kernel's sigaction, of at most four words: SIG_DFL, no flags, no mask.
    let default = [0u64; 4];
    for signal in 1..=64 {
        // SAFETY: the kernel reads no more than the array and writes nothing, and SIG_DFL
        // installs no handler. libc's own call would refuse two signals that it uses itself,
        // and that a caller may ignore all the same; SIGKILL and SIGSTOP are as they are.
        unsafe {
            let old = std::ptr::null_mut::<u64>();
            libc::syscall(libc::SYS_rt_sigaction, signal, default.as_ptr(), old, size_of::<u64>())
        };
    }
    let _ = nix::sys::signal::SigSet::empty().thread_set_mask();
}

/// Starts an empty session keyring, so that none of the caller's keys are possessed any more: keyctl(2).
pub fn join_session_keyring() -> rustix::io::Result<()> {
    const JOIN_SESSION_KEYRING: libc::c_int = 1;
    // SAFETY: without a name the call takes no pointer.
    check(unsafe { libc::syscall(libc::SYS_keyctl, JOIN_SESSION_KEYRING, 0usize) })
}

/// Sets a resource limit by its number: rustix lacks RLIMIT_RTTIME, and both crates have no way from a number.
pub fn set_limit(resource: u32, soft: u64, hard: u64) -> rustix::io::Result<()> {
    let limit = libc::rlimit64 { rlim_cur: soft, rlim_max: hard };
    // SAFETY: the kernel reads `limit`; with no old limit to return it writes nothing.
    check(unsafe { libc::syscall(libc::SYS_prlimit64, 0, resource, &raw const limit, 0usize) })
}

/// Takes the loopback interface of this network namespace up.
pub fn loopback_up() -> rustix::io::Result<()> {
    use std::os::fd::AsRawFd;
    let socket = rustix::net::socket_with(
        rustix::net::AddressFamily::INET,
        rustix::net::SocketType::DGRAM,
        rustix::net::SocketFlags::CLOEXEC,
        None,
    )?;
    // SAFETY: ifreq is plain data, of which all zero is a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_name[0] = b'l' as libc::c_char;
    request.ifr_name[1] = b'o' as libc::c_char;
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: the request is an ifreq with a name that ends in NUL, as SIOCSIFFLAGS reads it.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request).into() })
}

/// Makes the result of a system call a `Result`.
fn check(result: libc::c_long) -> rustix::io::Result<()> {
    match result {
        -1 => {
            let errno = std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO);
            Err(rustix::io::Errno::from_raw_os_error(errno))
        }
        _ => Ok(()),
    }
}

/// Makes exec close every descriptor from `first` up, whoever opened it.
pub fn close_on_exec_from(first: u32) {
    // SAFETY: descriptors stay open until exec, and no memory is involved. A kernel older than
    // 5.11 refuses the flag; it lacks mount_setattr(2) as well, so nothing is executed there.
    unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
}

/// Blocks these signals, and returns a descriptor that they are read from: 128 bytes each, as signalfd(2) describes.
///
/// nix knows no real-time signals, and rustix has no signalfd.
pub fn signal_fd(signals: impl Iterator<Item = i32>) -> rustix::io::Result<std::os::fd::OwnedFd> {
    use std::os::fd::FromRawFd;
    // SAFETY: sigset_t is plain data, and sigemptyset makes it valid before it is used.
    let mut set: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: the set is ours; numbers that are no signals are refused.
    unsafe {
        libc::sigemptyset(&raw mut set);
        for signal in signals {
            libc::sigaddset(&raw mut set, signal);
        }
    }
    // SAFETY: both calls only read the set.
    let fd = unsafe {
        check(libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()).into())?;
        libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK)
    };
    check(fd.into())?;
    // SAFETY: the descriptor is new, and nobody else knows it.
    Ok(unsafe { std::os::fd::OwnedFd::from_raw_fd(fd) })
}

/// Waits until one of the signals that are blocked comes, and returns its number.
///
/// nix has no number for a real-time signal, and panics when one comes; rustix has no sigwaitinfo.
pub fn wait_for_signal() -> rustix::io::Result<i32> {
    // SAFETY: sigset_t is plain data, and sigfillset makes it valid before it is used; no siginfo is written.
    let signal = unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&raw mut set);
        libc::sigwaitinfo(&raw const set, std::ptr::null_mut())
    };
    check(signal.into()).map(|()| signal)
}

/// Sends a signal of any number to a process, which rustix cannot name when it is a real-time one.
pub fn kill(pid: rustix::process::Pid, signal: i32) -> rustix::io::Result<()> {
    // SAFETY: it takes no pointer, and whom it reaches is one process: the id is positive.
    check(unsafe { libc::kill(pid.as_raw_nonzero().get(), signal).into() })
}

/// Takes over a descriptor that was handed to this program by number; exec closes it.
pub fn inherited_fd(number: i32) -> rustix::io::Result<std::os::fd::OwnedFd> {
    use std::os::fd::FromRawFd;
    // SAFETY: a number that is no open descriptor is refused.
    check(unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC).into() })?;
    // SAFETY: it is open, and whoever started us did so for nobody else to have it.
    Ok(unsafe { std::os::fd::OwnedFd::from_raw_fd(number) })
}

/// Sends a signal of any number, which rustix cannot name when it is a real-time one.
pub fn pidfd_send_signal(pidfd: std::os::fd::BorrowedFd, signal: i32) -> rustix::io::Result<()> {
    use std::os::fd::AsRawFd;
    // SAFETY: without a siginfo the call takes no pointer.
    check(unsafe {
        libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal, 0usize, 0)
    })
}

/// Has `command` run as this user, in a user namespace of its own that has no other ids.
///
/// For a program that asks /etc/passwd who it is, when an ordinary user has become root of a user namespace:
/// ssh would take him for root. The ids are those that we have now, under other numbers.
pub fn run_as(command: &mut std::process::Command, uid: nix::unistd::Uid, gid: nix::unistd::Gid) {
    use std::os::unix::process::CommandExt;

    use rustix::fs::{Mode, OFlags, open};
    use rustix::process::{getegid, geteuid};
    let maps = [
        (c"/proc/self/setgroups", "deny".to_owned()),
        (c"/proc/self/uid_map", format!("{uid} {} 1", geteuid().as_raw())),
        (c"/proc/self/gid_map", format!("{gid} {} 1", getegid().as_raw())),
    ];
    let enter = move || {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWUSER)?;
        for (path, text) in &maps {
            let file = open(*path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
            rustix::io::write(file, text.as_bytes())?;
        }
        Ok(())
    };
    // SAFETY: between fork and exec it makes system calls alone, which are safe there, and allocates nothing:
    // its texts are made before.
    unsafe { command.pre_exec(enter) };
}

/// Has the kernel kill what `command` starts when the thread that starts it ends: PR_SET_PDEATHSIG, prctl(2).
///
/// For a program that is of no use without us: whoever kills us need not know of it.
pub fn end_with_us(command: &mut std::process::Command) {
    use std::os::unix::process::CommandExt;
    let us = rustix::process::getpid();
    let ask = move || {
        let signal = Some(rustix::process::Signal::KILL);
        rustix::process::set_parent_process_death_signal(signal)?;
        // We may have been killed before it asked.
        match rustix::process::getppid() == Some(us) {
            true => Ok(()),
            false => Err(std::io::ErrorKind::NotConnected.into()),
        }
    };
    // SAFETY: between fork and exec it makes two system calls, which are safe there, and allocates nothing.
    unsafe { command.pre_exec(ask) };
}
