//! Mounts an overlay of unpacked layers.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::CWD;
use rustix::io::{Errno, Result};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, fsconfig_create, fsconfig_set_flag,
    fsconfig_set_string, fsmount, fsopen,
};

use crate::sys;

/// The longest string that fsconfig(2) takes.
const STRING_LIMIT: usize = 255;

/// Mounts `lowers`, the topmost first, below `upper`; returns the mount, which may be mounted nowhere yet.
pub(super) fn mount(
    lowers: &[PathBuf],
    upper: &Path,
    work: &Path,
    volatile: bool,
    userxattr: bool,
    attributes: u32,
) -> Result<OwnedFd> {
    // A redirect in a layer could lead to a directory that the layer does not have.
    let flags = [(volatile, "volatile"), (userxattr, "userxattr")];
    let strings = [("redirect_dir", "nofollow"), ("index", "off"), ("metacopy", "off")];

    let modern = || -> Result<OwnedFd> {
        let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
        fsconfig_set_string(&context, "source", "overlay")?;
        // Each by itself, so colons need no escape and a page no limit: Linux 6.5.
        for lower in lowers {
            fsconfig_set_string(&context, "lowerdir+", lower.as_path())?;
        }
        fsconfig_set_string(&context, "upperdir", upper)?;
        fsconfig_set_string(&context, "workdir", work)?;
        for (key, value) in strings {
            fsconfig_set_string(&context, key, value)?;
        }
        for (_, key) in flags.into_iter().filter(|(set, _)| *set) {
            fsconfig_set_flag(&context, key)?;
        }
        fsconfig_create(&context)?;
        let attributes = MountAttrFlags::from_bits_retain(attributes);
        fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
    };
    let long = lowers.iter().any(|lower| lower.as_os_str().len() > STRING_LIMIT);
    match modern() {
        Err(Errno::INVAL) => {}
        result if !long => return result,
        _ => {}
    }

    // Older kernels take one string of a page, in which paths can be relative.
    let base = common_directory(lowers);
    let mut data = OsString::from("lowerdir=");
    for (number, lower) in lowers.iter().enumerate() {
        if number > 0 {
            data.push(":");
        }
        data.push(escaped(lower.strip_prefix(&base).unwrap_or(lower)));
    }
    for (key, dir) in [("upperdir", upper), ("workdir", work)] {
        data.push(format!(",{key}="));
        data.push(escaped(dir));
    }
    for (key, value) in strings {
        data.push(format!(",{key}={value}"));
    }
    for (_, key) in flags.into_iter().filter(|(set, _)| *set) {
        data.push(format!(",{key}"));
    }
    let data = std::ffi::CString::new(data.as_bytes()).map_err(|_| Errno::INVAL)?;
    if base != Path::new("") {
        rustix::process::chdir(&base)?;
    }
    // Somewhere in this mount namespace, which is the container's alone: the overlay holds the directory itself.
    rustix::mount::mount("overlay", upper, "overlay", MountFlags::empty(), data.as_c_str())?;
    rustix::process::chdir("/")?;
    let flags = rustix::mount::OpenTreeFlags::OPEN_TREE_CLONE
        | rustix::mount::OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let mount = rustix::mount::open_tree(CWD, upper, flags)?;
    if attributes != 0 {
        sys::mount_setattr(mount.as_fd(), false, attributes, 0, 0)?;
    }
    Ok(mount)
}

/// Returns the directory that all of `paths` are below.
fn common_directory(paths: &[PathBuf]) -> PathBuf {
    let mut common = paths.first().and_then(|path| path.parent()).unwrap_or(Path::new(""));
    while !paths.iter().all(|path| path.starts_with(common)) {
        common = common.parent().unwrap_or(Path::new(""));
    }
    common.into()
}

/// Escapes what overlayfs reads as the end of a path.
fn escaped(path: &Path) -> OsString {
    use std::os::unix::ffi::OsStringExt;
    let mut escaped = Vec::new();
    for &byte in path.as_os_str().as_bytes() {
        if matches!(byte, b'\\' | b':' | b',') {
            escaped.push(b'\\');
        }
        escaped.push(byte);
    }
    OsString::from_vec(escaped)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ends_a_path_is_escaped() {
        assert_eq!(escaped(Path::new("/a:b,c\\d")), "/a\\:b\\,c\\\\d");
    }

    #[test]
    fn the_directory_of_all_layers_is_found() {
        let paths = |list: &[&str]| list.iter().map(PathBuf::from).collect::<Vec<_>>();
        let common = |list: &[&str]| common_directory(&paths(list));
        assert_eq!(common(&["/l/a/fs", "/l/b/fs"]), PathBuf::from("/l"));
        assert_eq!(common(&["/l/a"]), PathBuf::from("/l"));
        assert_eq!(common(&["/l/a", "/m/b"]), PathBuf::from("/"));
    }
}
