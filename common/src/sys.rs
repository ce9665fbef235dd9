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
