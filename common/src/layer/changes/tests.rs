//! What is written through an overlay, or into a copy, is packed and unpacked again: the trees are the same.

use std::collections::BTreeMap;
use std::ffi::{CStr, OsStr};
use std::fs;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::PathBuf;

use proptest::prelude::*;
use rustix::fs::{XattrFlags, makedev};
use rustix::mount::MountAttrFlags;
use tempfile::TempDir;

use super::*;
use crate::digest::Digest;
use crate::layer::pack::{Compression, Packed};
use crate::layer::{Options, Tree};
use crate::layout::Layout;
use crate::overlay::{Overlay, Upper};
use crate::tree;

/// A moment long ago, to which a build clamps.
const EPOCH: i64 = 1_000_000_000;

/// A layer below, what was written above it, and a layout.
struct Scratch {
    dir: TempDir,
    layout: Layout,
    userxattr: bool,
}

impl Scratch {
    /// Makes the layer below by `fill`.
    fn new(userxattr: bool, fill: impl FnOnce(&Path)) -> Scratch {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::create(dir.path().join("images")).unwrap();
        let lower = dir.path().join("lower");
        fs::create_dir(&lower).unwrap();
        fs::set_permissions(&lower, fs::Permissions::from_mode(0o755)).unwrap();
        fill(&lower);
        age(&lower);
        Scratch { dir, layout, userxattr }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Lets `write` write to an overlay, whose upper directory is `name`.
    fn write(&self, name: &str, write: impl FnOnce(&Path)) {
        let overlay = Overlay {
            lower: vec![self.path("lower")],
            upper: Upper::Dirs { upper: self.path(name), work: self.path(&format!("{name}.work")) },
            userxattr: self.userxattr,
            volatile: true,
        };
        let mount = overlay.mount(MountAttrFlags::empty()).unwrap();
        write(&PathBuf::from(format!("/proc/self/fd/{}", mount.as_raw_fd())));
        drop(mount);
        tree::remove(&self.path(&format!("{name}.work"))).unwrap();
    }

    fn pack(
        &self,
        pack: impl FnOnce(&mut Packer) -> Result<Vec<String>>,
    ) -> Result<(Packed, Vec<String>)> {
        let writing = self.layout.writing()?;
        let mut packer = Packer::new(&writing, Compression::default())?;
        let warnings = pack(&mut packer)?;
        Ok((packer.finish()?, warnings))
    }

    fn changes(&self, name: &str) -> Result<(Packed, Vec<String>)> {
        let below = fs::File::open(self.path("lower")).unwrap();
        let pack = |packer: &mut Packer| {
            changes(&self.path(name), Some(below.as_fd()), self.userxattr, EPOCH, packer)
        };
        self.pack(pack)
    }

    /// Unpacks a layer on the one below, as snapshots do; its upper directory is `name`.
    fn unpack(&self, packed: &Packed, name: &str) {
        self.write(name, |root| {
            let mut tree = Tree::open(fs::File::open(root).unwrap(), Options::default()).unwrap();
            let blob = self.layout.open_blob(&packed.desc).unwrap();
            let applied = tree.apply(blob, &packed.desc, Some(&packed.diff_id)).unwrap();
            assert_eq!(applied.warnings, Vec::<String>::new());
        });
    }

    /// Returns what an overlay of `name` and the layer below shows.
    fn merged(&self, name: &str) -> BTreeMap<PathBuf, String> {
        let overlay = Overlay {
            lower: vec![self.path(name), self.path("lower")],
            upper: Upper::None,
            userxattr: self.userxattr,
            volatile: false,
        };
        let mount = overlay.mount(MountAttrFlags::empty()).unwrap();
        look(&PathBuf::from(format!("/proc/self/fd/{}", mount.as_raw_fd())))
    }

    /// Sees that the layer that is packed of `upper` unpacks to what it shows; returns the names in it.
    fn check(&self) -> Vec<String> {
        let before = self.merged("upper");
        let (packed, _) = self.changes("upper").unwrap();
        self.unpack(&packed, "again");
        let (after, again) = (self.merged("upper"), self.merged("again"));
        assert_eq!(after, again);
        assert_eq!(
            before.keys().collect::<Vec<_>>(),
            after.keys().collect::<Vec<_>>(),
            "nothing appears or vanishes"
        );
        // What is adopted is what would have been unpacked, and has nothing more to say.
        assert_eq!(self.changes("upper").unwrap().0.diff_id, packed.diff_id);
        let mut names = Vec::new();
        let blob = fs::read(self.path("images/blobs/sha256").join(packed.desc.digest().digest()));
        let mut tar = Vec::new();
        let blob = blob.unwrap();
        let mut gzip = flate2::read::GzDecoder::new(&blob[..]);
        std::io::Read::read_to_end(&mut gzip, &mut tar).unwrap();
        assert_eq!(Digest::of(&tar), packed.diff_id);
        crate::layer::members(&tar[..], |member| {
            names.push(String::from_utf8_lossy(&member.name).into_owned());
            Ok(())
        })
        .unwrap();
        names
    }
}

/// Makes all times of a tree older than the epoch, and whole.
fn age(top: &Path) {
    let time = Timespec { tv_sec: EPOCH - 1000, tv_nsec: 0 };
    for entry in fs::read_dir(top).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            age(&entry.path());
        } else {
            let flags = AtFlags::SYMLINK_NOFOLLOW;
            utimensat(CWD, entry.path(), &both(time), flags).unwrap();
        }
    }
    utimensat(CWD, top, &both(time), AtFlags::empty()).unwrap();
}

/// Returns all that is known of what is in a tree, but for who is whose link: that is the first path.
fn look(top: &Path) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    let mut names_of: HashMap<_, Vec<PathBuf>> = HashMap::new();
    let mut todo = vec![PathBuf::new()];
    while let Some(path) = todo.pop() {
        let full = top.join(&path);
        let full = if path.as_os_str().is_empty() { top.join(".") } else { full };
        let meta = fs::symlink_metadata(&full).unwrap();
        let mut line = format!(
            "{:o} {}:{} {}.{} {:x}",
            meta.mode(),
            meta.uid(),
            meta.gid(),
            meta.mtime(),
            meta.mtime_nsec(),
            meta.rdev()
        );
        let path_c = CString::new(full.as_os_str().as_bytes()).unwrap();
        let node = Node::Named(path_c);
        let mut xattrs: Vec<_> = node
            .list()
            .unwrap()
            .split_inclusive(|byte| *byte == 0)
            .map(|name| {
                let value = node.get(CStr::from_bytes_with_nul(name).unwrap()).unwrap();
                (String::from_utf8_lossy(name).into_owned(), value)
            })
            .collect();
        xattrs.sort();
        line += &format!(" {xattrs:?}");
        if meta.is_file() {
            line += &format!(" {}", Digest::of(&fs::read(&full).unwrap()));
        }
        if meta.is_symlink() {
            line += &format!(" -> {:?}", fs::read_link(&full).unwrap());
        }
        if meta.is_dir() {
            let mut names: Vec<_> =
                fs::read_dir(&full).unwrap().map(|entry| entry.unwrap().file_name()).collect();
            names.sort_unstable_by(|a, b| b.cmp(a));
            todo.extend(names.iter().map(|name| path.join(name)));
        } else {
            names_of.entry((meta.dev(), meta.ino())).or_default().push(path.clone());
        }
        found.insert(path, line);
    }
    // By the names that are seen: an overlay says how many links the file below it has.
    for names in names_of.values().filter(|names| names.len() > 1) {
        for name in names {
            *found.get_mut(name).unwrap() += &format!(" = {:?}", names[0]);
        }
    }
    found
}

/// Says whether this process can mount an overlay with such marks on /tmp, as root can.
fn can_mount(userxattr: bool) -> bool {
    let dir = tempfile::tempdir().unwrap();
    let [lower, upper, work] = ["lower", "upper", "work"].map(|name| dir.path().join(name));
    fs::create_dir(&lower).unwrap();
    let upper = Upper::Dirs { upper, work };
    let overlay = Overlay { lower: vec![lower], upper, userxattr, volatile: true };
    let can = match !userxattr && crate::userns::is_entered().unwrap() {
        true => Err(anyhow!("trusted.* is not for us")),
        false => overlay.mount(MountAttrFlags::empty()),
    };
    if let Err(err) = &can {
        eprintln!("not tested here: {err:#}");
    }
    can.is_ok()
}

fn xattr(path: &Path, name: &str, value: &[u8]) {
    rustix::fs::lsetxattr(path, name, value, XattrFlags::empty()).unwrap();
}

#[test]
fn what_was_written_is_what_the_layer_unpacks_to() {
    for userxattr in [false, true] {
        if !can_mount(userxattr) {
            continue;
        }
        let t = Scratch::new(userxattr, |root| {
            for dir in ["etc/conf.d", "gone/in", "again/in", "bin", "quiet/deep", "var/log"] {
                fs::create_dir_all(root.join(dir)).unwrap();
            }
            for file in [
                "etc/kept",
                "etc/gone",
                "etc/conf.d/a",
                "again/in/x",
                "bin/sh",
                "quiet/deep/file",
                "var/file",
            ] {
                fs::write(root.join(file), file).unwrap();
            }
            symlink("sh", root.join("bin/bash")).unwrap();
        });
        t.write("upper", |root| {
            // Changed, removed, replaced.
            fs::write(root.join("etc/kept"), "changed").unwrap();
            fs::remove_file(root.join("etc/gone")).unwrap();
            fs::remove_dir_all(root.join("gone")).unwrap();
            fs::remove_dir_all(root.join("again")).unwrap();
            fs::create_dir(root.join("again")).unwrap();
            fs::write(root.join("again/new"), "").unwrap();
            fs::remove_dir_all(root.join("var")).unwrap();
            fs::write(root.join("var"), "a file now").unwrap();
            fs::remove_file(root.join("bin/bash")).unwrap();
            fs::create_dir(root.join("bin/bash")).unwrap();
            // New, with all that a file can have.
            fs::create_dir_all(root.join("new/deep")).unwrap();
            fs::write(root.join("new/file"), vec![b'x'; 100_000]).unwrap();
            fs::hard_link(root.join("new/file"), root.join("new/deep/link")).unwrap();
            fs::hard_link(root.join("new/file"), root.join("a link")).unwrap();
            symlink("/nowhere/at/all", root.join("new/symlink")).unwrap();
            fs::hard_link(root.join("new/symlink"), root.join("new/symlink2")).unwrap();
            let odd = OsStr::from_bytes(b"new/\xff\n=%25");
            fs::write(root.join(odd), "odd").unwrap();
            std::os::unix::fs::chown(root.join("new/deep"), Some(1000), Some(3_000_000)).unwrap();
            fs::write(root.join("new/setuid"), "s").unwrap();
            std::os::unix::fs::chown(root.join("new/setuid"), Some(7), Some(8)).unwrap();
            fs::set_permissions(root.join("new/setuid"), fs::Permissions::from_mode(0o6711))
                .unwrap();
            let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
            xattr(&root.join("new/file"), "security.capability", &capability);
            xattr(&root.join("new/file"), "user.a=b%3D", b"\0value");
            xattr(&root.join("etc"), "user.etc", b"");
            for (name, kind, device) in [
                ("fifo", FileType::Fifo, 0),
                ("null", FileType::CharacterDevice, makedev(1, 3)),
                ("disk", FileType::BlockDevice, makedev(259, 70_000)),
            ] {
                let path = root.join("new").join(name);
                rustix::fs::mknodat(CWD, path, kind, Mode::from_raw_mode(0o620), device).unwrap();
            }
            // Left as they were.
            fs::write(root.join("quiet/deep/x"), "").unwrap();
            fs::remove_file(root.join("quiet/deep/x")).unwrap();
        });
        let names = t.check();
        let expected = [
            "a link",
            "again/",
            "again/.wh.in",
            "again/new",
            "bin/",
            "bin/bash/",
            "etc/",
            "etc/.wh.gone",
            "etc/kept",
            ".wh.gone",
            "new/",
            "new/deep/",
            "new/deep/link",
            "new/disk",
            "new/fifo",
            "new/file",
            "new/null",
            "new/setuid",
            "new/symlink",
            "new/symlink2",
            "new/\u{fffd}\n=%25",
            "var",
        ];
        let mut expected = expected.map(String::from).to_vec();
        expected.sort_by_key(|name| name.replace('/', "\0"));
        let mut sorted = names.clone();
        sorted.sort_by_key(|name| name.replace('/', "\0"));
        assert_eq!(sorted, expected);
        assert!(!t.path("upper/quiet").exists(), "nothing is left in it");
    }
}

#[test]
fn times_are_whole_and_not_later_than_the_epoch() {
    if !can_mount(false) {
        return;
    }
    let t = Scratch::new(false, |root| {
        fs::create_dir(root.join("touched")).unwrap();
        fs::create_dir(root.join("used")).unwrap();
    });
    t.write("upper", |root| {
        fs::write(root.join("now"), "").unwrap();
        fs::write(root.join("old"), "").unwrap();
        fs::write(root.join("ancient"), "").unwrap();
        let old = Timespec { tv_sec: EPOCH - 5, tv_nsec: 999_999_999 };
        utimensat(CWD, root.join("old"), &both(old), AtFlags::empty()).unwrap();
        let ancient = Timespec { tv_sec: -5, tv_nsec: 500_000_000 };
        utimensat(CWD, root.join("ancient"), &both(ancient), AtFlags::empty()).unwrap();
        // Its time is all that somebody wanted to change.
        utimensat(CWD, root.join("touched"), &both(old), AtFlags::empty()).unwrap();
        fs::write(root.join("used/x"), "").unwrap();
        fs::remove_file(root.join("used/x")).unwrap();
    });
    assert_eq!(t.check(), ["ancient", "now", "old", "touched/"]);
    let time = |name: &str| {
        let meta = fs::symlink_metadata(t.path("upper").join(name)).unwrap();
        (meta.mtime(), meta.mtime_nsec())
    };
    assert_eq!(time("now"), (EPOCH, 0));
    assert_eq!(time("old"), (EPOCH - 5, 0));
    assert_eq!(time("ancient"), (-5, 0));
    assert_eq!(time("touched"), (EPOCH - 5, 0));
    assert_eq!(time(""), (EPOCH - 1000, 0));
}

#[test]
fn the_root_is_in_the_layer_if_it_was_changed() {
    if !can_mount(false) {
        return;
    }
    let t = Scratch::new(false, |_| {});
    t.write("upper", |root| {
        fs::set_permissions(root.join("."), fs::Permissions::from_mode(0o711)).unwrap();
    });
    assert_eq!(t.check(), ["./"]);
    let t = Scratch::new(false, |_| {});
    t.write("upper", |_| {});
    assert!(t.check().is_empty());
}

#[test]
fn a_socket_is_left_out_and_a_name_of_a_whiteout_is_refused() {
    if !can_mount(false) {
        return;
    }
    let t = Scratch::new(false, |root| fs::create_dir(root.join("run")).unwrap());
    t.write("upper", |root| {
        let run = rustix::fs::open(root.join("run"), DIRECTORY, Mode::empty()).unwrap();
        rustix::fs::mknodat(&run, "sock", FileType::Socket, Mode::RUSR, 0).unwrap();
    });
    let (packed, warnings) = t.changes("upper").unwrap();
    assert_eq!(
        (packed.size, &warnings[..]),
        (1024, &["run/sock: a socket, which no layer can hold".into()][..])
    );
    assert_eq!(fs::read_dir(t.path("upper")).unwrap().count(), 0);

    let t = Scratch::new(false, |_| {});
    t.write("upper", |root| {
        fs::create_dir(root.join("a")).unwrap();
        fs::write(root.join("a/.wh.b"), "").unwrap();
    });
    let said = crate::error::line(&t.changes("upper").unwrap_err());
    assert_eq!(said, "a/.wh.b: no layer can hold a file of this name");
}

#[test]
fn a_whiteout_of_nothing_and_one_by_an_attribute_are_known() {
    if !can_mount(true) {
        return;
    }
    let t = Scratch::new(true, |root| {
        fs::create_dir(root.join("d")).unwrap();
        fs::write(root.join("d/a"), "").unwrap();
        fs::write(root.join("d/b"), "").unwrap();
    });
    let upper = t.path("upper");
    fs::create_dir_all(upper.join("d")).unwrap();
    fs::set_permissions(&upper, fs::Permissions::from_mode(0o755)).unwrap();
    xattr(&upper.join("d"), "user.overlay.opaque", b"x");
    fs::write(upper.join("d/a"), "").unwrap();
    xattr(&upper.join("d/a"), "user.overlay.whiteout", b"");
    fs::write(upper.join("d/c"), "").unwrap();
    let kind = FileType::CharacterDevice;
    for name in ["d/nothing", "nothing"] {
        rustix::fs::mknodat(CWD, upper.join(name), kind, Mode::empty(), 0).unwrap();
    }
    assert_eq!(t.check(), ["d/", "d/.wh.a", "d/c"]);
    assert!(!upper.join("d/nothing").exists() && !upper.join("nothing").exists());
}

#[test]
fn a_tree_deeper_than_a_process_may_open_files_is_walked() {
    if !can_mount(false) {
        return;
    }
    let t = Scratch::new(false, |_| {});
    let upper = t.path("upper");
    fs::create_dir(&upper).unwrap();
    fs::set_permissions(&upper, fs::Permissions::from_mode(0o755)).unwrap();
    let mut dir = rustix::fs::open(&upper, DIRECTORY, Mode::empty()).unwrap();
    for _ in 0..2000 {
        rustix::fs::mkdirat(&dir, "d", Mode::RWXU).unwrap();
        dir = openat(&dir, "d", DIRECTORY, Mode::empty()).unwrap();
    }
    assert!(t.changes("upper").is_ok());
    for _ in 0..100 {
        rustix::fs::mkdirat(&dir, "d", Mode::RWXU).unwrap();
        dir = openat(&dir, "d", DIRECTORY, Mode::empty()).unwrap();
    }
    let said = crate::error::line(&t.changes("upper").unwrap_err());
    assert!(
        said.ends_with("its path has 4097 bytes, more than a layer can hold"),
        "{}",
        &said[4000..]
    );
}

#[test]
fn a_copy_that_is_compared_gives_the_layer_that_an_overlay_gives() {
    if !can_mount(false) {
        return;
    }
    let t = Scratch::new(false, |root| {
        for dir in ["etc", "gone/in", "bin", "again/in", "again/deep/er"] {
            fs::create_dir_all(root.join(dir)).unwrap();
        }
        for file in ["etc/kept", "etc/same", "etc/gone", "etc/linked", "bin/sh", "lock"] {
            fs::write(root.join(file), file).unwrap();
        }
    });
    let write = |root: &Path| {
        // Neither its size nor its time tells.
        fs::write(root.join("etc/same"), "ETC/SAME").unwrap();
        let time = both(Timespec { tv_sec: EPOCH - 1000, tv_nsec: 0 });
        utimensat(CWD, root.join("etc/same"), &time, AtFlags::empty()).unwrap();
        fs::remove_file(root.join("etc/gone")).unwrap();
        fs::remove_dir_all(root.join("gone")).unwrap();
        fs::set_permissions(root.join("bin"), fs::Permissions::from_mode(0o700)).unwrap();
        fs::create_dir(root.join("new")).unwrap();
        fs::write(root.join("new/file"), "new").unwrap();
        fs::hard_link(root.join("new/file"), root.join("new/link")).unwrap();
        // To change something into what it is already is to change nothing.
        fs::set_permissions(root.join("bin/sh"), fs::Permissions::from_mode(0o644)).unwrap();
        drop(fs::OpenOptions::new().append(true).open(root.join("lock")).unwrap());
        // Another directory of the same name, with less in it.
        fs::remove_dir_all(root.join("again")).unwrap();
        fs::create_dir_all(root.join("again/deep")).unwrap();
        // A second name of a file takes the first with it.
        fs::hard_link(root.join("etc/linked"), root.join("etc/link")).unwrap();
    };
    t.write("upper", write);
    t.check();
    let copy = t.path("copy");
    fs::create_dir(&copy).unwrap();
    tree::copy(&t.path("lower"), &copy).unwrap();
    write(&copy);
    let compare = || t.pack(|packer| difference(&t.path("lower"), &copy, EPOCH, packer)).unwrap().0;
    assert_eq!(compare().diff_id, t.changes("upper").unwrap().0.diff_id);
    t.unpack(&compare(), "compared");
    assert_eq!(t.merged("upper"), t.merged("compared"));
    assert!(!t.path("upper/lock").exists() && !t.path("upper/bin/sh").exists());
    let inode = |name: &str| fs::metadata(t.path("compared").join(name)).unwrap().ino();
    assert_eq!(inode("etc/linked"), inode("etc/link"));
}

/// Something that a container does.
#[derive(Clone, Debug)]
enum Deed {
    Write(PathBuf, Vec<u8>),
    Directory(PathBuf),
    Symlink(PathBuf, PathBuf),
    Link(PathBuf, PathBuf),
    Remove(PathBuf),
    Rename(PathBuf, PathBuf),
    Mode(PathBuf, u32),
    Owner(PathBuf, u32),
    Time(PathBuf, i64),
    Attribute(PathBuf, String, Vec<u8>),
    Fifo(PathBuf),
}

impl Deed {
    /// Does it, if it can be done.
    fn apply(&self, root: &Path) {
        let flags = XattrFlags::empty();
        match self {
            Deed::Write(path, data) => {
                // To a FIFO there is nobody who reads.
                let flags = OFlags::NONBLOCK.bits() as i32;
                let mut options = fs::OpenOptions::new();
                let file = options.write(true).create(true).truncate(true).custom_flags(flags);
                if let Ok(mut file) = file.open(root.join(path)) {
                    let _ = file.write_all(data);
                }
            }
            Deed::Directory(path) => drop(fs::create_dir(root.join(path))),
            Deed::Symlink(path, to) => drop(symlink(to, root.join(path))),
            Deed::Link(path, to) => drop(fs::hard_link(root.join(to), root.join(path))),
            Deed::Remove(path) => {
                let path = root.join(path);
                match fs::symlink_metadata(&path) {
                    Ok(meta) if meta.is_dir() => fs::remove_dir_all(path).unwrap(),
                    Ok(_) => fs::remove_file(path).unwrap(),
                    Err(_) => {}
                }
            }
            Deed::Rename(path, to) => drop(fs::rename(root.join(path), root.join(to))),
            Deed::Mode(path, mode) => {
                let path = root.join(path);
                if !fs::symlink_metadata(&path).is_ok_and(|meta| meta.is_symlink()) {
                    drop(fs::set_permissions(path, fs::Permissions::from_mode(*mode)));
                }
            }
            Deed::Owner(path, id) => {
                drop(std::os::unix::fs::lchown(root.join(path), Some(*id), Some(id + 1)));
            }
            Deed::Time(path, time) => {
                let time = both(Timespec { tv_sec: *time, tv_nsec: 5 });
                let _ = utimensat(CWD, root.join(path), &time, AtFlags::SYMLINK_NOFOLLOW);
            }
            Deed::Attribute(path, name, value) => {
                let _ = rustix::fs::lsetxattr(root.join(path), &name[..], value, flags);
            }
            Deed::Fifo(path) => {
                let _ = rustix::fs::mknodat(CWD, root.join(path), FileType::Fifo, Mode::RUSR, 0);
            }
        }
    }
}

fn path() -> impl Strategy<Value = PathBuf> {
    let odd = prop::sample::select(vec![&b"\xff"[..], b"a b", b"=", b"-", &[b'n'; 120]]);
    let name = prop_oneof![
        8 => "[a-c]".prop_map(String::into_bytes),
        1 => odd.prop_map(<[u8]>::to_vec),
    ];
    prop::collection::vec(name, 1..4)
        .prop_map(|names| PathBuf::from(OsStr::from_bytes(&names.join(&b'/'))))
}

fn deed() -> impl Strategy<Value = Deed> {
    let data = || prop::collection::vec(any::<u8>(), 0..600);
    prop_oneof![
        4 => (path(), data()).prop_map(|(path, data)| Deed::Write(path, data)),
        5 => path().prop_map(Deed::Directory),
        1 => (path(), path()).prop_map(|(path, to)| Deed::Symlink(path, to)),
        2 => (path(), path()).prop_map(|(path, to)| Deed::Link(path, to)),
        3 => path().prop_map(Deed::Remove),
        2 => (path(), path()).prop_map(|(path, to)| Deed::Rename(path, to)),
        1 => (path(), 0u32..0o10000).prop_map(|(path, mode)| Deed::Mode(path, mode)),
        1 => (path(), 0u32..5_000_000).prop_map(|(path, id)| Deed::Owner(path, id)),
        1 => (path(), -100i64..2 * EPOCH).prop_map(|(path, time)| Deed::Time(path, time)),
        1 => (path(), "user\\.[a-z=%]{1,4}", data()).prop_map(|(path, name, value)| Deed::Attribute(path, name, value)),
        1 => path().prop_map(Deed::Fifo),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// But for what overlay refuses or does in its own way: to move directories, and files of several names.
    #[test]
    fn a_copy_gives_what_an_overlay_gives(
        before in prop::collection::vec(deed(), 0..25),
        after in prop::collection::vec(deed(), 0..25),
    ) {
        if !can_mount(false) {
            return Ok(());
        }
        let simple = |deed: &&Deed| !matches!(deed, Deed::Rename(..) | Deed::Link(..));
        let t = Scratch::new(false, |root| before.iter().filter(simple).for_each(|deed| deed.apply(root)));
        t.write("upper", |root| after.iter().filter(simple).for_each(|deed| deed.apply(root)));
        let copy = t.path("copy");
        fs::create_dir(&copy).unwrap();
        tree::copy(&t.path("lower"), &copy).unwrap();
        after.iter().filter(simple).for_each(|deed| deed.apply(&copy));
        t.check();
        let pack = |packer: &mut Packer| difference(&t.path("lower"), &copy, EPOCH, packer);
        prop_assert_eq!(t.pack(pack).unwrap().0.diff_id, t.changes("upper").unwrap().0.diff_id);
    }

    /// Through an overlay, and by comparing with a copy.
    #[test]
    fn whatever_is_done_survives_the_trip(
        before in prop::collection::vec(deed(), 0..25),
        after in prop::collection::vec(deed(), 0..25),
        userxattr in any::<bool>(),
    ) {
        if !can_mount(userxattr) {
            return Ok(());
        }
        let t = Scratch::new(userxattr, |root| before.iter().for_each(|deed| deed.apply(root)));
        t.write("upper", |root| after.iter().for_each(|deed| deed.apply(root)));
        t.check();

        let copy = t.path("copy");
        fs::create_dir(&copy).unwrap();
        tree::copy(&t.path("lower"), &copy).unwrap();
        after.iter().for_each(|deed| deed.apply(&copy));
        let pack = |packer: &mut Packer| difference(&t.path("lower"), &copy, EPOCH, packer);
        let (packed, _) = t.pack(pack).unwrap();
        t.unpack(&packed, "compared");
        let (mut expected, mut found) = (look(&copy), t.merged("compared"));
        // What was only used has a time that is no change.
        for (path, line) in &mut expected {
            let other = found.get_mut(path).unwrap();
            if line.starts_with('4') {
                line.clear();
                other.clear();
            }
        }
        prop_assert_eq!(expected, found);
    }
}
