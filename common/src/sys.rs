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
