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
