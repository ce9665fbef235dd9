//! What a hostile image would like to change: one of each thing, owned by whoever runs the tools.
//!
//! Whoever could change it has the right to. So it changes, and a change of
//! anything shows: the inode's own time is compared as well.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};

use nix::sys::stat::Mode;

use crate::hostile::look::attributes;

/// The bait, and how it was.
pub struct Bait {
    dir: PathBuf,
    before: Vec<String>,
}

impl Bait {
    /// Lays the bait in `dir`, for this user.
    pub fn lay(dir: &Path, owner: (u32, u32)) -> Bait {
        fs::create_dir_all(dir.join("dir/deep")).unwrap();
        let files = ["secret", "dir/kept", "dir/deep/kept", "linked", "setuid"];
        for name in files {
            fs::write(dir.join(name), format!("{name} is secret")).unwrap();
        }
        // They would do, if a layout's links led here.
        fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
        fs::write(dir.join("index.json"), r#"{"schemaVersion":2,"manifests":[]}"#).unwrap();
        fs::hard_link(dir.join("linked"), dir.join("dir/linked")).unwrap();
        symlink("secret", dir.join("link")).unwrap();
        nix::unistd::mkfifo(&dir.join("fifo"), Mode::from_bits_retain(0o666)).unwrap();
        let null = nix::sys::stat::makedev(1, 3);
        let kind = nix::sys::stat::SFlag::S_IFCHR;
        nix::sys::stat::mknod(&dir.join("null"), kind, Mode::from_bits_retain(0o666), null)
            .unwrap();
        let name = "user.bait";
        rustix::fs::setxattr(dir.join("secret"), name, b"kept", rustix::fs::XattrFlags::empty())
            .unwrap();
        let mut all = Vec::new();
        walk(dir, &mut all);
        for path in &all {
            std::os::unix::fs::lchown(path, Some(owner.0), Some(owner.1)).unwrap();
        }
        chown(dir, Some(owner.0), Some(owner.1)).unwrap();
        fs::set_permissions(dir.join("setuid"), Permissions::from_mode(0o4755)).unwrap();
        fs::set_permissions(dir.join("secret"), Permissions::from_mode(0o640)).unwrap();
        for path in all.iter().filter(|path| path.is_file()) {
            File::options()
                .write(true)
                .open(path)
                .unwrap()
                .set_modified(std::time::UNIX_EPOCH)
                .unwrap();
        }
        Bait { before: state(dir), dir: dir.into() }
    }

    /// Returns what has changed, if anything has.
    pub fn changed(&self) -> Option<String> {
        let now = state(&self.dir);
        if now == self.before {
            return None;
        }
        let gone =
            self.before.iter().filter(|line| !now.contains(line)).map(|line| format!("- {line}"));
        let new =
            now.iter().filter(|line| !self.before.contains(line)).map(|line| format!("+ {line}"));
        Some(gone.chain(new).collect::<Vec<_>>().join("\n"))
    }
}

/// Returns a line for the directory, and for each thing in it.
fn state(dir: &Path) -> Vec<String> {
    let mut all = vec![dir.to_owned()];
    walk(dir, &mut all);
    all.sort();
    all.iter().map(|path| line(path)).collect()
}

fn line(path: &Path) -> String {
    let meta = fs::symlink_metadata(path).unwrap();
    let content = match meta.is_file() {
        true => fs::read(path).unwrap().escape_ascii().to_string(),
        false => fs::read_link(path).map_or(String::new(), |target| target.display().to_string()),
    };
    format!(
        "{} {:o} {}:{} links {} size {} inode {} modified {}.{} changed {}.{} {:?} {content}",
        path.display(),
        meta.mode(),
        meta.uid(),
        meta.gid(),
        meta.nlink(),
        meta.size(),
        meta.ino(),
        meta.mtime(),
        meta.mtime_nsec(),
        meta.ctime(),
        meta.ctime_nsec(),
        attributes(path),
    )
}

fn walk(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let is_dir = fs::symlink_metadata(&path).unwrap().is_dir();
        found.push(path.clone());
        if is_dir {
            walk(&path, found);
        }
    }
}
