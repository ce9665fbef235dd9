//! A directory to unpack into, and what lies around it.

use std::cell::OnceCell;
use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use tempfile::TempDir;

/// A directory with a root, a canary, and nothing else.
pub struct Scratch {
    dir: TempDir,
    outside: String,
    /// Whether the filesystem has attributes.
    pub xattrs: bool,
    /// What is around the root, as it was in the beginning.
    before: Vec<String>,
}

thread_local! {
    static SCRATCH: OnceCell<Scratch> = const { OnceCell::new() };
}

impl Scratch {
    /// Lends the one of this thread: to make one takes longer than most layers.
    pub fn with(run: impl FnOnce(&Scratch)) {
        SCRATCH.with(|scratch| run(scratch.get_or_init(Scratch::new)));
    }

    fn new() -> Scratch {
        let dir = TempDir::with_prefix("tare-fuzz-").unwrap();
        let canary = dir.path().join("canary");
        fs::create_dir(&canary).unwrap();
        fs::write(canary.join("file"), "canary").unwrap();
        fs::create_dir(canary.join("a")).unwrap();
        fs::create_dir(dir.path().join("root")).unwrap();
        let outside = dir.path().to_str().unwrap().to_owned();
        let probe = rustix::fs::setxattr(&canary, "user.a", b"", rustix::fs::XattrFlags::empty());
        let mut scratch = Scratch { dir, outside, xattrs: probe.is_ok(), before: Vec::new() };
        scratch.before = scratch.around();
        scratch
    }

    /// Returns the path of what the root is in.
    pub fn outside(&self) -> &str {
        &self.outside
    }

    pub fn path(&self) -> PathBuf {
        self.dir.path().join("root")
    }

    /// Empties the root.
    pub fn renew(&self) {
        let root = self.path();
        open_up(&root);
        common::tree::remove(&root).unwrap();
        fs::create_dir(&root).unwrap();
        fs::set_permissions(&root, fs::Permissions::from_mode(0o755)).unwrap();
    }

    pub fn root(&self) -> File {
        File::open(self.path()).unwrap()
    }

    /// Sees that nothing around the root has changed.
    pub fn check(&self) {
        assert_eq!(self.before, self.around());
    }

    /// Lists what is around the root, with all that can be seen of a change.
    fn around(&self) -> Vec<String> {
        let canary = self.dir.path().join("canary");
        let mut all = Vec::new();
        for path in [&canary, &canary.join("file"), &canary.join("a")] {
            let meta = fs::symlink_metadata(path).unwrap();
            all.push(format!(
                "{} {:o} {}:{} {} {}.{} {}.{}",
                path.display(),
                meta.mode(),
                meta.uid(),
                meta.gid(),
                meta.nlink(),
                meta.mtime(),
                meta.mtime_nsec(),
                meta.ctime(),
                meta.ctime_nsec()
            ));
        }
        for dir in [self.dir.path(), &canary] {
            let names = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name());
            let mut names: Vec<_> = names.map(|name| format!("{name:?}")).collect();
            names.sort();
            all.push(names.join(" "));
        }
        all.push(fs::read_to_string(canary.join("file")).unwrap());
        all
    }

    /// Returns all that is in the root, a line each, in the order of names.
    pub fn table(&self) -> Vec<String> {
        let mut names: HashMap<u64, String> = HashMap::new();
        let mut table = Vec::new();
        let mut todo = vec![(String::new(), self.path())];
        while let Some((shown, path)) = todo.pop() {
            let meta = fs::symlink_metadata(&path).unwrap();
            let kind = meta.file_type();
            let mut children = Vec::new();
            let what = if kind.is_dir() {
                for entry in fs::read_dir(&path).unwrap() {
                    let name = entry.unwrap().file_name();
                    children.push((name.as_bytes().to_vec(), path.join(name)));
                }
                "directory".into()
            } else if kind.is_symlink() {
                let target = fs::read_link(&path).unwrap();
                format!("-> {}", target.as_os_str().as_bytes().escape_ascii())
            } else if kind.is_file() {
                file(&fs::read(&path).unwrap())
            } else {
                let letter = match () {
                    () if kind.is_char_device() => '3',
                    () if kind.is_block_device() => '4',
                    () => '6',
                };
                let device = (rustix::fs::major(meta.rdev()), rustix::fs::minor(meta.rdev()));
                format!("{letter} {device:?}")
            };
            let xattrs = xattrs(&path);
            let first = names.entry(meta.ino()).or_insert_with(|| shown.clone());
            let time = (meta.mtime(), meta.mtime_nsec() as u32);
            let mtime = Some(time).filter(|_| !shown.is_empty());
            table.push(format!(
                "{shown} {:o} {:?} {mtime:?} {xattrs:?} {what} as {first}",
                meta.mode() & 0o7777,
                (meta.uid(), meta.gid()),
            ));
            children.sort();
            let deeper = children.into_iter().rev();
            todo.extend(
                deeper.map(|(name, path)| (format!("{shown}/{}", name.escape_ascii()), path)),
            );
        }
        table
    }
}

/// Shows a file's content, which may be long.
pub fn file(content: &[u8]) -> String {
    let zeros = content.iter().take_while(|byte| **byte == 0).count();
    let rest = content[zeros..].iter().take_while(|byte| **byte != 0).count();
    let exact = content[zeros + rest..].iter().all(|byte| *byte == 0);
    format!("file of {}: {zeros} zeros, {rest} bytes, {exact}", content.len())
}

fn xattrs(path: &Path) -> BTreeMap<&'static str, Vec<u8>> {
    let mut found = BTreeMap::new();
    for name in ["user.a", "user.b", "user.overlay.opaque"] {
        let mut value = Vec::with_capacity(256);
        if rustix::fs::lgetxattr(path, name, rustix::buffer::spare_capacity(&mut value)).is_ok() {
            found.insert(name, value);
        }
    }
    found
}

/// Makes all directories of a tree of ours such that we may remove it.
fn open_up(dir: &Path) {
    if rustix::process::geteuid().is_root() {
        return;
    }
    let _ = fs::set_permissions(dir, fs::Permissions::from_mode(0o700));
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            open_up(&entry.path());
        }
    }
}
