//! Confines this process, before it reads what strangers wrote: landlock(7).
//!
//! Every path that a layer, an archive or a manifest names is resolved inside its
//! root. This is the second wall, for the day on which that has a hole: the kernel
//! lets nothing be written, made, moved or run elsewhere. It does so where it has
//! Landlock (5.13), as far as it has it; an older kernel confines nothing.
//!
//! It is a wall around what is opened by name. What is open already stays so, and the
//! kernel knows no right for chmod(2), chown(2), utimensat(2) and setxattr(2), nor do we take reading away.

use std::path::Path;

use anyhow::{Context, Result};
use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreated, RulesetCreatedAttr, RulesetError, RulesetStatus, Scope,
};

use crate::error::At;

/// What of Landlock is asked for; of a kernel with less, as much as it has.
const WANTED: ABI = ABI::V6;

/// What a confined process may still do.
#[derive(Clone, Copy, Debug, Default)]
pub struct Allowed<'a> {
    /// Beneath these directories it may make, write and remove what it likes.
    pub write: &'a [&'a Path],
    /// Beneath these directories it may make and remove directories, and move some here.
    pub place: &'a [&'a Path],
    /// It may connect to others over TCP.
    pub connect: bool,
}

/// Confines the calling thread, and what it starts from now on; there is no way back.
///
/// A thread that runs already stays as it is.
pub fn confine(allowed: &Allowed) -> Result<()> {
    restrict(allowed).map(drop)
}

/// Confines the calling thread; returns how far the kernel was able to.
fn restrict(allowed: &Allowed) -> Result<RulesetStatus> {
    let mut rules = ruleset(allowed).context("landlock")?;
    let place = AccessFs::MakeDir | AccessFs::RemoveDir | AccessFs::Refer;
    let write = allowed.write.iter().map(|dir| (dir, AccessFs::from_write(WANTED)));
    for (dir, rights) in write.chain(allowed.place.iter().map(|dir| (dir, place))) {
        rules = grant(rules, dir, rights).at(dir)?;
    }
    Ok(rules.restrict_self().context("landlock")?.ruleset)
}

/// Returns rules that forbid everything but what `allowed` says of the network.
fn ruleset(allowed: &Allowed) -> Result<RulesetCreated, RulesetError> {
    let mut network = AccessNet::from_all(WANTED);
    if allowed.connect {
        network.remove(AccessNet::ConnectTcp);
    }
    Ruleset::default()
        .handle_access(AccessFs::from_write(WANTED) | AccessFs::Execute)?
        .handle_access(network)?
        .scope(Scope::from_all(WANTED))?
        .create()
}

fn grant(rules: RulesetCreated, dir: &Path, rights: BitFlags<AccessFs>) -> Result<RulesetCreated> {
    Ok(rules.add_rule(PathBeneath::new(PathFd::new(dir)?, rights))?)
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::io::ErrorKind;
    use std::os::unix::fs::symlink;
    use std::process::Command;

    use super::*;

    /// Runs `work` in a thread that is confined to `write` and `place`, if the kernel can do that.
    fn confined<T: Send>(
        write: &[&Path],
        place: &[&Path],
        work: impl FnOnce() -> T + Send,
    ) -> Option<T> {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                let status = restrict(&Allowed { write, place, connect: false }).unwrap();
                (status != RulesetStatus::NotEnforced).then(work)
            });
            thread.join().unwrap()
        })
    }

    fn denied<T>(done: std::io::Result<T>) -> bool {
        // Landlock says so of a move between directories: landlock(7), LANDLOCK_ACCESS_FS_REFER.
        let kinds = [ErrorKind::PermissionDenied, ErrorKind::CrossesDevices];
        done.is_err_and(|err| kinds.contains(&err.kind()))
    }

    #[test]
    fn nothing_is_written_elsewhere_by_any_name() {
        let dir = tempfile::tempdir().unwrap();
        let (inside, outside) = (dir.path().join("inside"), dir.path().join("outside"));
        fs::create_dir(&inside).unwrap();
        fs::create_dir(&outside).unwrap();
        let bait = outside.join("bait");
        fs::write(&bait, "untouched").unwrap();
        symlink(&bait, inside.join("link")).unwrap();

        let seen = confined(&[&inside], &[], || {
            fs::write(inside.join("file"), "x").unwrap();
            fs::rename(inside.join("file"), inside.join("other")).unwrap();
            assert_eq!(fs::read(&bait).unwrap(), b"untouched");
            [
                denied(fs::write(&bait, "x")),
                denied(fs::write(inside.join("link"), "x")),
                denied(File::create(outside.join("new"))),
                denied(fs::create_dir(outside.join("dir"))),
                denied(symlink("x", outside.join("symlink"))),
                denied(fs::hard_link(&bait, inside.join("hard"))),
                denied(fs::rename(inside.join("other"), outside.join("other"))),
                denied(fs::remove_file(&bait)),
                denied(fs::remove_dir(&outside)),
            ]
        });
        assert!(seen.is_none_or(|seen| seen.iter().all(|denied| *denied)), "{seen:?}");
        assert_eq!(fs::read(&bait).unwrap(), b"untouched");
    }

    #[test]
    fn a_tree_can_be_put_in_its_place_and_nothing_else_there_can_be_written() {
        let dir = tempfile::tempdir().unwrap();
        let (tree, place) = (dir.path().join(".tree"), dir.path().join("place"));
        fs::create_dir_all(tree.join("rootfs")).unwrap();
        fs::write(dir.path().join("bait"), "untouched").unwrap();
        let seen = confined(&[&tree], &[dir.path()], || {
            fs::rename(tree.join("rootfs"), &place).unwrap();
            fs::remove_dir(&tree).unwrap();
            [
                denied(fs::write(dir.path().join("bait"), "x")),
                denied(fs::remove_file(dir.path().join("bait"))),
                denied(File::create(place.join("late"))),
            ]
        });
        assert!(seen.is_none_or(|seen| seen.iter().all(|denied| *denied)), "{seen:?}");
    }

    #[test]
    fn nothing_is_run_and_nobody_is_called() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let seen = confined(&[], &[], || {
            [
                denied(Command::new("/bin/true").status()),
                denied(std::net::TcpListener::bind("127.0.0.1:0")),
                denied(std::net::TcpStream::connect(address)),
            ]
        });
        // The kernel has had rules for files and programs longer than those for the network.
        assert!(seen.is_none_or(|seen| seen[0]), "{seen:?}");
        assert!(std::net::TcpStream::connect(address).is_ok());
    }

    #[test]
    fn a_directory_that_is_not_there_is_an_error() {
        let err = confined(&[], &[], || {
            let nowhere = Path::new("/nonexistent");
            let allowed = Allowed { write: &[nowhere], ..Allowed::default() };
            crate::error::line(&confine(&allowed).unwrap_err())
        });
        assert!(err.as_ref().is_none_or(|err| err.starts_with("/nonexistent: ")), "{err:?}");
    }
}
