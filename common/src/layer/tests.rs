//! Layers applied to a scratch directory, beside which lies a bait that no layer may touch.

use std::fs::{self, File, Permissions};
use std::io::{Cursor, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::PathBuf;

use nix::sys::resource::{UsageWho, getrusage};
use oci_spec::image::{Descriptor, MediaType};
use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::error::line;

/// A tar in the making. Every entry has mode 0750 (0777 for links), owner 0:0 and time 1000 unless told otherwise.
#[derive(Clone, Default)]
pub(crate) struct Tar(pub(crate) Vec<u8>);

/// What the next header is to say.
#[derive(Clone, Copy)]
pub(crate) struct Head<'a> {
    pub(crate) kind: u8,
    pub(crate) link: &'a str,
    pub(crate) mode: u32,
    pub(crate) size: u64,
    pub(crate) device: (u32, u32),
}

impl Default for Head<'_> {
    fn default() -> Self {
        Head { kind: b'0', link: "", mode: 0o750, size: 0, device: (0, 0) }
    }
}

impl Tar {
    pub(crate) fn head(mut self, name: &str, head: Head) -> Tar {
        let mut block = [0; 512];
        let mut put = |at: usize, text: &str| {
            block[at..at + text.len()].copy_from_slice(text.as_bytes());
        };
        put(0, name);
        put(100, &format!("{:07o}", head.mode));
        put(108, "0000000");
        put(116, "0000000");
        put(124, &format!("{:011o}", head.size));
        put(136, &format!("{:011o}", 1000));
        put(148, "        ");
        put(157, head.link);
        put(257, "ustar\x0000");
        put(329, &format!("{:07o}", head.device.0));
        put(337, &format!("{:07o}", head.device.1));
        block[156] = head.kind;
        self.0.extend_from_slice(&checked(block));
        self
    }

    pub(crate) fn data(mut self, data: &[u8]) -> Tar {
        self.0.extend_from_slice(data);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    pub(crate) fn file(self, name: &str, data: &str) -> Tar {
        self.head(name, Head { size: data.len() as u64, ..Head::default() }).data(data.as_bytes())
    }

    pub(crate) fn special(self, name: &str, kind: u8, link: &str) -> Tar {
        self.head(name, Head { kind, link, ..Head::default() })
    }

    pub(crate) fn dir(self, name: &str) -> Tar {
        self.special(name, b'5', "")
    }

    pub(crate) fn symlink(self, name: &str, target: &str) -> Tar {
        self.special(name, b'2', target)
    }

    pub(crate) fn hard(self, name: &str, target: &str) -> Tar {
        self.special(name, b'1', target)
    }

    /// A header with data that extends the next: `x`, `g`, `L` or `K`.
    pub(crate) fn extension(self, kind: u8, data: &[u8]) -> Tar {
        self.head("ext", Head { kind, size: data.len() as u64, ..Head::default() }).data(data)
    }

    pub(crate) fn pax(self, records: &[(&str, &str)]) -> Tar {
        let mut data = Vec::new();
        for (key, value) in records {
            let rest = format!(" {key}={value}\n");
            let mut len = rest.len() + 1;
            while format!("{len}{rest}").len() != len {
                len += 1;
            }
            data.extend_from_slice(format!("{len}{rest}").as_bytes());
        }
        self.extension(b'x', &data)
    }

    pub(crate) fn end(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 1024, 0);
        self.0
    }
}

/// Puts the right checksum into a header.
pub(super) fn checked(mut block: [u8; 512]) -> [u8; 512] {
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}

fn tar() -> Tar {
    Tar::default()
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn descriptor(blob: &[u8]) -> Descriptor {
    let digest = oci_spec::image::Digest::from(&Digest::of(blob));
    Descriptor::new(MediaType::ImageLayer, blob.len() as u64, digest)
}

/// A rootfs and the bait beside it.
struct Scratch {
    dir: TempDir,
    options: Options,
}

impl Scratch {
    fn new() -> Scratch {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("root")).unwrap();
        fs::create_dir(dir.path().join("bait")).unwrap();
        fs::write(dir.path().join("bait/file"), "bait").unwrap();
        for path in ["bait/file", "bait"] {
            let file = File::open(dir.path().join(path)).unwrap();
            file.set_modified(std::time::UNIX_EPOCH).unwrap();
            file.set_permissions(Permissions::from_mode(0o755)).unwrap();
        }
        let owners = if is_root() { Owners::Set } else { Owners::Record };
        Scratch { dir, options: Options { owners, ..Options::default() } }
    }

    fn path(&self, path: &str) -> PathBuf {
        self.dir.path().join("root").join(path)
    }

    /// Applies layers, and sees that the bait is as it was.
    fn apply(&self, layers: &[Vec<u8>]) -> Result<Vec<Applied>> {
        let root = File::open(self.path("")).unwrap();
        let mut tree = Tree::open(&root, self.options).unwrap();
        let apply = |blob: &Vec<u8>| tree.apply(&blob[..], &descriptor(blob), None);
        let result = layers.iter().map(apply).collect();
        let bait = self.dir.path().join("bait");
        for path in [bait.join("file"), bait.clone()] {
            let meta = fs::symlink_metadata(path).unwrap();
            assert_eq!((meta.mtime(), meta.mode() & 0o7777), (0, 0o755));
        }
        assert_eq!(fs::read(bait.join("file")).unwrap(), b"bait");
        assert_eq!(fs::metadata(bait.join("file")).unwrap().nlink(), 1);
        assert_eq!(fs::read_dir(bait).unwrap().count(), 1);
        assert_eq!(fs::read_dir(self.dir.path()).unwrap().count(), 2);
        result
    }

    fn fails(&self, tar: Tar) -> String {
        line(&self.apply(&[tar.end()]).unwrap_err()).split_once(": ").unwrap().1.into()
    }

    /// Lists the tree: `dir/`, `file=content`, `link>target`, `fifo|`.
    fn list(&self) -> String {
        fn walk(dir: &PathBuf, root: &PathBuf, out: &mut Vec<String>) {
            for entry in fs::read_dir(dir).unwrap() {
                let path = entry.unwrap().path();
                let name = path.strip_prefix(root).unwrap().display().to_string();
                let kind = fs::symlink_metadata(&path).unwrap().file_type();
                if kind.is_dir() {
                    out.push(format!("{name}/"));
                    walk(&path, root, out);
                } else if kind.is_symlink() {
                    out.push(format!("{name}>{}", fs::read_link(path).unwrap().display()));
                } else if kind.is_file() {
                    out.push(format!("{name}={}", fs::read_to_string(path).unwrap()));
                } else {
                    out.push(format!("{name}|"));
                }
            }
        }
        let mut out = Vec::new();
        let root = self.path("");
        walk(&root, &root, &mut out);
        out.sort();
        out.join(" ")
    }
}

/// Applies layers to an empty directory, and lists what they made.
fn tree(layers: &[Tar]) -> String {
    let t = Scratch::new();
    let layers: Vec<_> = layers.iter().cloned().map(Tar::end).collect();
    t.apply(&layers).map_err(|err| line(&err)).unwrap();
    t.list()
}

#[test]
fn a_layer_becomes_files() {
    let layer = tar()
        .dir("d/")
        .file("./d/f", "one")
        .file("/abs", "two")
        .symlink("d/l", "../abs")
        .hard("h", "./d/f")
        .special("p", b'6', "")
        .file("x/y/z", "implied");
    assert_eq!(tree(&[layer]), "abs=two d/ d/f=one d/l>../abs h=one p| x/ x/y/ x/y/z=implied");
}

#[test]
fn modes_and_times_are_exact() {
    let t = Scratch::new();
    let layer = tar()
        .pax(&[("mtime", "12.345678901")])
        .head("f", Head { mode: 0o6751, ..Head::default() })
        .head("ro/", Head { kind: b'5', mode: 0o2555, ..Head::default() })
        .head("ro/deep/", Head { kind: b'5', mode: 0, ..Head::default() })
        .file("ro/deep/f", "x")
        .pax(&[("mtime", "-1.5")])
        .symlink("l", "nowhere")
        .head("p", Head { kind: b'6', mode: 0o1666, ..Head::default() })
        .head("ro/", Head { kind: b'5', mode: 0o2555, ..Head::default() })
        .file("new/f", "x");
    t.apply(&[layer.end()]).unwrap();
    let stat = |path: &str| {
        let meta = fs::symlink_metadata(t.path(path)).unwrap();
        (meta.mode() & 0o7777, meta.mtime(), meta.mtime_nsec())
    };
    assert_eq!(stat("f"), (0o6751, 12, 345678901));
    assert_eq!(stat("ro"), (0o2555, 1000, 0));
    assert_eq!(stat("l"), (0o777, -2, 500_000_000));
    assert_eq!(stat("p"), (0o1666, 1000, 0));
    assert_eq!(stat("new"), (0o755, 1000, 0));
    assert_eq!(stat("ro/deep").0, 0);
    // A later layer puts something there and says nothing about the directories.
    t.apply(&[tar().file("ro/deep/g", "y").file("ro/.wh.no", "").end()]).unwrap();
    assert_eq!(stat("ro"), (0o2555, 1000, 0));
    assert_eq!(stat("ro/deep"), (0, 1000, 0));
    t.apply(&[tar().file(".wh.ro", "").end()]).unwrap();
    assert!(!t.path("ro").exists());
}

#[test]
fn the_root_takes_an_entry_if_that_is_a_directory() {
    for name in ["./", "/", ".", "./."] {
        let t = Scratch::new();
        let head = Head { kind: b'5', mode: 0o711, ..Head::default() };
        t.apply(&[tar().head(name, head).file("f", "").end()]).unwrap();
        let meta = fs::metadata(t.path("")).unwrap();
        assert_eq!((meta.mode() & 0o7777, meta.mtime()), (0o711, 1000), "{name}");
        assert_eq!(
            t.fails(tar().symlink(name, "/")),
            format!("{name}: the root of a tree is a directory")
        );
    }
    let t = Scratch::new();
    assert_eq!(t.fails(tar().file(".", "x")), ".: the root of a tree is a directory");
}

#[test]
fn nothing_leaves_the_root() {
    let refused = [
        tar().file("../bait/file", "x"),
        tar().file("a/../../bait/file", "x"),
        tar().dir("a").file("a/../f", "x"),
        tar().file("..", "x"),
        tar().symlink("..", "/"),
        tar().hard("h", "../bait/file"),
        tar().hard("h", "/../bait/file"),
        tar().hard("h", "a/../../bait/file"),
        tar().symlink("l", "../bait").hard("h", "l/file"),
        tar().extension(b'L', b"../bait/file\0").file("x", "x"),
        tar().pax(&[("path", "../bait/file")]).file("x", "x"),
        tar().pax(&[("linkpath", "../bait/file")]).hard("h", "f"),
        tar().extension(b'g', b"16 path=../bait\n").file("x", "x"),
        tar().symlink("l", "l").file("l/f", "x"),
        tar().symlink("a", "b").symlink("b", "a").file("a/f", "x"),
        tar().file("f", "").file("f/g", "x"),
        tar().file(".wh...", ""),
        tar().file("d/.wh...", ""),
        tar().file(".wh..", ""),
        tar().file(".wh.", ""),
        tar().file(".wh.x/f", ""),
    ];
    for (i, layer) in refused.into_iter().enumerate() {
        let t = Scratch::new();
        assert!(t.apply(&[layer.end()]).is_err(), "case {i}: {}", t.list());
    }
}

#[test]
fn links_lead_where_they_would_lead_inside() {
    let dir = |tar: Tar| tar.dir("d").file("d/file", "lower");
    let cases = [
        (tar().symlink("l", "../bait").file("l/file", "x"), "bait/ bait/file=x l>../bait"),
        (tar().symlink("l", "../../..").file("l/file", "x"), "file=x l>../../.."),
        (tar().symlink("l", "/").file("l/l/l/f", "x"), "f=x l>/"),
        (dir(tar()).symlink("l", "/d").file("l/file", "x"), "d/ d/file=x l>/d"),
        (dir(tar()).symlink("l", "d").dir("l"), "d/ d/file=lower l/"),
        (dir(tar()).symlink("l", "d").file("l", "x"), "d/ d/file=lower l=x"),
        (dir(tar()).symlink("l", "d/file").hard("h", "l"), "d/ d/file=lower h>d/file l>d/file"),
        (dir(tar()).symlink("d/l", "file").file("d/l", "x"), "d/ d/file=lower d/l=x"),
        (
            dir(tar()).symlink("a", "b").symlink("b", "/c/.").symlink("c", "./d").file("a/n", "x"),
            "a>b b>/c/. c>./d d/ d/file=lower d/n=x",
        ),
        // A directory that was open is replaced by a link, and a link by another.
        (dir(tar()).dir("e").symlink("d", "e").file("d/f", "x"), "d>e e/ e/f=x"),
        (
            dir(tar())
                .dir("e")
                .symlink("l", "d")
                .file("l/f", "1")
                .symlink("l", "e")
                .file("l/f", "2"),
            "d/ d/f=1 d/file=lower e/ e/f=2 l>e",
        ),
        (
            tar()
                .file("a/b/f", "1")
                .symlink("l", "a/b")
                .file("l/g", "2")
                .symlink("a", "c")
                .file("l/h", "3"),
            "a>c c/ c/b/ c/b/h=3 l>a/b",
        ),
        // A link comes to be where a way has ended in nothing.
        (
            dir(tar())
                .dir("a")
                .symlink("l", "a")
                .file("l/x/.wh.f", "")
                .symlink("a/x", "../d")
                .file("l/x/f", "1"),
            "a/ a/x>../d d/ d/f=1 d/file=lower l>a",
        ),
    ];
    for (layer, expected) in cases {
        assert_eq!(tree(&[layer]), expected);
    }
}

#[test]
fn a_directory_that_is_swapped_for_a_link_leads_nowhere() {
    let t = Scratch::new();
    fs::create_dir(t.path("d")).unwrap();
    std::os::unix::fs::symlink(t.dir.path().join("bait"), t.path("swap")).unwrap();
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            use rustix::fs::{CWD, RenameFlags, renameat_with};
            let (a, b) = (t.path("d"), t.path("swap"));
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                let _ = renameat_with(CWD, &a, CWD, &b, RenameFlags::EXCHANGE);
            }
        });
        let layer = tar().file("d/file", "x").file("d/a", "x").file("d/.wh.file", "").dir("d/s");
        let layer = layer.file("d/s/f", "x").hard("d/h", "d/file").file("d/.wh..wh..opq", "");
        let layer = layer.end();
        for _ in 0..200 {
            let _ = t.apply(std::slice::from_ref(&layer)); // which looks at the bait
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
    });
}

#[test]
fn what_is_set_on_a_link_is_not_set_on_its_target() {
    let t = Scratch::new();
    let layer = tar()
        .file("f", "x")
        .symlink("l", "f")
        .pax(&[("SCHILY.xattr.user.a", "b"), ("mtime", "5")])
        .head("l2", Head { kind: b'2', link: "f", mode: 0o4777, ..Head::default() })
        .hard("h", "l");
    t.apply(&[layer.end()]).unwrap();
    let meta = fs::metadata(t.path("f")).unwrap();
    assert_eq!((meta.mode() & 0o7777, meta.mtime(), meta.nlink()), (0o750, 1000, 1));
    assert!(xattr(&t.path("f"), "user.a").is_none());
}

#[test]
fn whiteouts_are_about_lower_layers_wherever_they_are() {
    let lower = tar().dir("d").file("d/a", "1").dir("d/s").file("d/s/b", "2").file("e", "3");
    let cases: &[(Tar, &str)] = &[
        (tar().file(".wh.e", ""), "d/ d/a=1 d/s/ d/s/b=2"),
        (tar().file(".wh.d", ""), "e=3"),
        (
            tar().file("./.wh.none", "").file("x/.wh.y", "").file("e/.wh.y", ""),
            "d/ d/a=1 d/s/ d/s/b=2 e=3",
        ),
        (tar().file("d/.wh.s", "").file("d/s/c", "n"), "d/ d/a=1 d/s/ d/s/c=n e=3"),
        (tar().file("d/s/c", "n").file("d/.wh.s", ""), "d/ d/a=1 d/s/ d/s/c=n e=3"),
        (tar().dir("d/s").file("d/.wh.s", ""), "d/ d/a=1 d/s/ e=3"),
        (tar().file("e", "n").file(".wh.e", ""), "d/ d/a=1 d/s/ d/s/b=2 e=n"),
        (tar().file("d/.wh..wh..opq", ""), "d/ e=3"),
        (tar().file("d/.wh..wh..opq", "").file("d/n", "n"), "d/ d/n=n e=3"),
        (
            tar().file("d/n", "n").file("d/s/m", "m").file("d/.wh..wh..opq", ""),
            "d/ d/n=n d/s/ d/s/m=m e=3",
        ),
        (tar().file("d/new/m", "m").file("d/.wh..wh..opq", ""), "d/ d/new/ d/new/m=m e=3"),
        (tar().file("n", "n").file(".wh..wh..opq", ""), "n=n"),
        (tar().symlink("l", "d").file("l/.wh.a", ""), "d/ d/s/ d/s/b=2 e=3 l>d"),
        (tar().symlink("l", "d").file("l/n", "n").file("d/.wh..wh..opq", ""), "d/ d/n=n e=3 l>d"),
        (tar().symlink("d/l", "s").file("d/.wh.l", "").file("d/.wh.s", ""), "d/ d/a=1 d/l>s e=3"),
        (tar().hard("d/h", "d/a").file("d/.wh.a", ""), "d/ d/h=1 d/s/ d/s/b=2 e=3"),
        (
            tar().file(".wh..wh.plnk/1.2", "x").file(".wh..wh.aufs", "").dir("d/.wh..wh.x"),
            "d/ d/a=1 d/s/ d/s/b=2 e=3",
        ),
        (tar().symlink("d/l", "l").file("d/.wh..wh..opq", "").file("d/.wh.l", ""), "d/ d/l>l e=3"),
        (tar().file("d/s", "n").file("d/.wh.s", ""), "d/ d/a=1 d/s=n e=3"),
        (tar().dir(".wh.e"), "d/ d/a=1 d/s/ d/s/b=2"),
    ];
    for (upper, expected) in cases {
        assert_eq!(&tree(&[lower.clone(), upper.clone()]), expected);
    }
    // In the lowest layer there is nothing lower.
    let both = Tar([lower.0.clone(), tar().file(".wh.d", "").file(".wh..wh..opq", "").0].concat());
    assert_eq!(tree(&[both]), "d/ d/a=1 d/s/ d/s/b=2 e=3");
}

#[test]
fn a_later_entry_replaces_an_earlier_one() {
    let cases = [
        (tar().file("a", "1").file("a", "2"), "a=2"),
        (tar().file("a/b", "1").file("a", "2"), "a=2"),
        (tar().file("a", "1").dir("a"), "a/"),
        (tar().file("a/b", "1").dir("a"), "a/ a/b=1"),
        (tar().dir("a").symlink("a", "b"), "a>b"),
        (tar().file("a/b/c", "1").special("a", b'6', ""), "a|"),
        (tar().file("a", "1").hard("b", "a").file("a", "2"), "a=2 b=1"),
        (tar().file("a", "1").hard("b", "a").hard("b", "a").hard("a", "b"), "a=1 b=1"),
        (tar().file("a", "1").file("b/c", "2").hard("b", "a"), "a=1 b=1"),
        (tar().file("a", "1").hard("a", "a"), "a=1"),
        (tar().file("a/b", "1").file("a", "2").file("b", "x").file("a", "3"), "a=3 b=x"),
        (tar().file("a/b", "1").file("a", "2").dir("a").file("a/c", "3"), "a/ a/c=3"),
    ];
    for (layer, expected) in cases {
        assert_eq!(tree(&[layer]), expected);
    }
}

#[test]
fn what_means_different_things_to_different_readers_is_refused() {
    let file = |tar: Tar| tar.file("f", "x");
    let cases = [
        (
            file(tar().pax(&[("path", "a")]).extension(b'L', b"b\0")),
            "f: a GNU long name and a PAX path for one entry",
        ),
        (file(tar().pax(&[("path", "a")]).pax(&[("path", "b")])), "two PAX headers for one entry"),
        (
            file(tar().extension(b'L', b"a\0").extension(b'L', b"b\0")),
            "two long names for one entry",
        ),
        (
            file(tar().pax(&[("path", "a")]).extension(b'g', b"")),
            "a global PAX header between parts of an entry",
        ),
        (file(tar().extension(b'g', b"12 size=512\n")), "\"size\" in a global PAX header"),
        (tar().pax(&[("path", "a")]), "truncated tar: a header without its entry"),
        (
            tar().head("d", Head { kind: b'5', size: 512, ..Head::default() }).data(b"x"),
            "d: data in an entry that is no file",
        ),
        (tar().file("d/", "x"), "d/: a file whose name ends in a slash"),
        (tar().special("f", b'V', ""), "f: an entry of unknown type 'V'"),
        (tar().special("f", b'Z', ""), "f: an entry of unknown type 'Z'"),
        (file(tar().extension(b'x', b"11 path=a\n")), "bad PAX record"),
        (
            file(tar().pax(&[("uid", "4294967295")])),
            "PAX record \"uid\": 4294967295 is out of range",
        ),
        (
            file(tar().pax(&[("uid", "4294967296")])),
            "PAX record \"uid\": 4294967296 is out of range",
        ),
        (file(tar().pax(&[("gid", "-1")])), "PAX record \"gid\": not a number: \"-1\""),
        (file(tar().pax(&[("path", "a\0b")])), "bad PAX record"),
        (
            tar().special("w", b'3', ""),
            "w: a character device 0:0, which is no whiteout in a layer",
        ),
    ];
    for (layer, expected) in cases {
        assert_eq!(Scratch::new().fails(layer), expected);
    }
    let t = Scratch::new();
    let lone = [tar().file("a", "").0, vec![0; 512], tar().file("b", "").end()].concat();
    let err = t.apply(&[lone]).unwrap_err();
    assert!(line(&err).ends_with("a block of zeros between entries"), "{err:#}");
}

#[test]
fn the_size_of_a_pax_header_is_that_of_the_entry_and_of_nothing_else() {
    // What CVE-2025-62518 was: the header says 0, and its data looks like an entry.
    let inner = tar().file("hidden", "x").0;
    let size = inner.len().to_string();
    let layer =
        tar().pax(&[("size", &size)]).special("outer", b'0', "").data(&inner).file("b", "y");
    let t = Scratch::new();
    t.apply(&[layer.end()]).unwrap();
    assert_eq!(fs::read(t.path("outer")).unwrap(), inner);
    assert!(!t.path("hidden").exists() && t.path("b").exists());
    // It is not the size of a long name in between.
    let layer = tar()
        .pax(&[("size", "3")])
        .extension(b'L', b"long\0")
        .head("f", Head::default())
        .data(b"abc");
    assert_eq!(tree(&[layer]), "long=abc");
}

#[test]
fn a_tar_ends_as_it_does_for_go() {
    let whole = tar().file("a", "1");
    for tail in [0, 512, 1024, 4096] {
        let t = Scratch::new();
        let bytes = [whole.0.clone(), vec![0; tail]].concat();
        assert_eq!(t.apply(std::slice::from_ref(&bytes)).unwrap()[0].diff_id, Digest::of(&bytes));
        assert_eq!(scan(&bytes[..], &descriptor(&bytes)).unwrap().marked, tail > 0);
    }
    // What is behind the end is hashed and ignored.
    let t = Scratch::new();
    let bytes = [whole.clone().end(), tar().file("b", "2").0, b"rest".into()].concat();
    let applied = t.apply(std::slice::from_ref(&bytes)).unwrap();
    assert_eq!((applied[0].diff_id, applied[0].size), (Digest::of(&bytes), bytes.len() as u64));
    assert_eq!(t.list(), "a=1");
    for cut in [1, 511, 513, 1023] {
        assert!(Scratch::new().apply(&[whole.0[..cut].into()]).is_err(), "{cut}");
    }
}

#[test]
fn what_needs_no_tree_is_found_without_one() {
    let bad = [
        tar().symlink(".", "/"),
        tar().file("/", "x"),
        tar().hard("h", "../f"),
        tar().hard("h", "/"),
        tar().special("w", b'3', ""),
        tar().file("d/.wh.", ""),
    ];
    for (i, layer) in bad.into_iter().enumerate() {
        let bytes = layer.end();
        assert!(scan(&bytes[..], &descriptor(&bytes)).is_err(), "case {i}");
    }
    let bytes = tar().dir("./").hard("h", "f").special(".wh.w", b'3', "").end();
    assert_eq!(scan(&bytes[..], &descriptor(&bytes)).unwrap().entries, 3);
}

#[test]
fn a_long_way_through_links_is_not_gone_again_for_each_name() {
    let deep = "d/".repeat(1500);
    let mut layer = tar().pax(&[("path", &deep)]).dir("x");
    layer = layer.pax(&[("linkpath", &deep)]).symlink("l", "x");
    for i in 0..50 {
        layer = layer.pax(&[("path", &format!("l/{i}/{}f", "e/".repeat(400)))]).file("x", "");
    }
    // Of the processor's time: a disk that others write to as well may take its own.
    let spent = || getrusage(UsageWho::RUSAGE_THREAD).unwrap();
    let before = spent();
    Scratch::new().apply(&[layer.end()]).unwrap();
    let after = spent();
    let seconds =
        after.user_time() + after.system_time() - before.user_time() - before.system_time();
    assert!(seconds.tv_sec() < 20, "{seconds}");
}

#[test]
fn limits_are_kept() {
    let mut t = Scratch::new();
    t.options.limits.entries = 3;
    assert!(
        t.fails(tar().file("a", "").file("b", "").file("c", "").file("d", ""))
            .starts_with("more than the 3")
    );
    assert!(t.fails(tar().file("x/y/z/a", "")).contains("more than the 3 entries"));
    t.options.limits = Limits { size: 4096, ..Limits::default() };
    let bomb = gzip(&[0; 100_000]);
    assert!(bomb.len() < 4096);
    let err = line(&t.apply(&[bomb]).unwrap_err());
    assert!(err.ends_with("larger than the 4096 bytes that a layer may unpack to"), "{err}");
    let t = Scratch::new();
    let head = Head { kind: b'x', size: 2 << 20, ..Head::default() };
    assert!(t.fails(tar().head("x", head)).contains("2097152 bytes, more than 1048576"));
    let long = "d/".repeat(2100);
    assert!(t.fails(tar().pax(&[("path", &long)]).dir("x")).contains("its name has 4200 bytes"));
    assert!(t.fails(tar().pax(&[("path", &"n".repeat(300))]).dir("x")).contains("too long"));
}

#[test]
fn a_deep_tree_is_made_and_removed() {
    let t = Scratch::new();
    let deep = "d/".repeat(2000);
    let layer = tar().pax(&[("path", &format!("a/{deep}f"))]).file("x", "deep");
    t.apply(&[layer.end()]).unwrap();
    t.apply(&[tar().file(".wh.a", "").end()]).unwrap();
    assert_eq!(t.list(), "");
    // Through links it cannot grow beyond what the kernel resolves.
    let layer = tar().pax(&[("path", &format!("a/{deep}"))]).dir("x");
    let layer = layer.pax(&[("linkpath", &format!("a/{deep}"))]).symlink("l", "");
    let layer = layer.pax(&[("path", &format!("l/{deep}"))]).dir("x");
    assert!(t.apply(&[layer.end()]).is_err());
    t.apply(&[tar().file(".wh.a", "").file(".wh.l", "").end()]).unwrap();
    assert_eq!(t.list(), "");
}

#[test]
fn many_directories_at_once_keep_their_times() {
    let mut layer = tar();
    for round in ["a", "b"] {
        for i in 0..200 {
            layer = if round == "a" { layer.dir(&format!("d{i}")) } else { layer };
            layer = layer.file(&format!("d{i}/{round}"), round);
        }
    }
    let t = Scratch::new();
    t.apply(&[layer.end()]).unwrap();
    for i in 0..200 {
        assert_eq!(fs::metadata(t.path(&format!("d{i}"))).unwrap().mtime(), 1000);
    }
}

fn gzip(data: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn a_blob_may_be_packed_in_pieces() {
    // More than fits the buffers, and not the same all over.
    let data: String = (0..200_000).map(|i| format!("{i:x}")).collect();
    let tar = tar().file("a", &data).file("b", "two").end();
    let (one, two) = tar.split_at(300_001);
    let zstd = |data| zstd::encode_all(data, 1).unwrap();
    let skippable = [&[0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0][..], b"abc"].concat();
    let zeros = vec![0; 1000];
    let named = {
        let mut builder = flate2::GzBuilder::new()
            .filename("n")
            .comment("c")
            .extra("e")
            .write(Vec::new(), flate2::Compression::best());
        builder.write_all(one).unwrap();
        builder.finish().unwrap()
    };
    let packed = [
        tar.clone(),
        gzip(&tar),
        [gzip(one), gzip(two)].concat(),
        [named, gzip(b""), gzip(two), zeros.clone()].concat(),
        zstd(&tar[..]),
        [zstd(one), zstd(two)].concat(),
        [skippable.clone(), zstd(one), skippable, zstd(two)].concat(),
        tar.chunks(100).flat_map(gzip).collect(),
    ];
    for (i, blob) in packed.iter().enumerate() {
        let t = Scratch::new();
        let applied = t.apply(std::slice::from_ref(blob)).map_err(|err| line(&err)).unwrap();
        assert_eq!(applied[0].diff_id, Digest::of(&tar), "case {i}");
        assert_eq!(fs::read_to_string(t.path("a")).unwrap(), data, "case {i}");
        assert_eq!(fs::read_to_string(t.path("b")).unwrap(), "two", "case {i}");
    }
    let broken = [
        [gzip(&tar), b"garbage".to_vec()].concat(),
        [gzip(&tar), zeros, gzip(two)].concat(),
        [zstd(&tar[..]), b"garbage".to_vec()].concat(),
        gzip(&tar)[..1000].into(),
        zstd(&tar[..])[..1000].into(),
        b"BZh91AY&SY".into(),
        b"\xfd7zXZ\0\0".into(),
    ];
    for blob in broken {
        assert!(Scratch::new().apply(&[blob]).is_err());
    }
}

#[test]
fn every_cut_and_every_flipped_byte_is_found() {
    let tar = tar().file("a", "one").end();
    for blob in [gzip(&tar), zstd::encode_all(&tar[..], 1).unwrap()] {
        for cut in 1..blob.len() {
            let t = Scratch::new();
            assert!(t.apply(&[blob[..cut].into()]).is_err(), "{cut}");
        }
        let root = tempfile::tempdir().unwrap();
        for at in 0..blob.len() {
            let mut bad = blob.clone();
            bad[at] ^= 0x10;
            let mut tree =
                Tree::open(File::open(root.path()).unwrap(), Scratch::new().options).unwrap();
            let err = tree.apply(&bad[..], &descriptor(&blob), None).unwrap_err();
            assert!(err.to_string().starts_with("layer sha256:"), "{err:#}");
        }
    }
}

#[test]
fn a_wrong_digest_size_or_diff_id_is_an_error() {
    let small = tar().file("a", "1").end();
    let large = tar().file("a", &"1".repeat(3 << 20)).end();
    for bytes in [small, large] {
        let t = Scratch::new();
        let mut tree = Tree::open(File::open(t.path("")).unwrap(), t.options).unwrap();
        let right = descriptor(&bytes);
        let diff_id = Digest::of(&bytes);
        tree.apply(&bytes[..], &right, Some(&diff_id)).unwrap();
        let mut long = bytes.clone();
        long.push(0);
        let wrong = Digest::of(b"");
        for (blob, desc, diff_id, expected) in [
            (&bytes[..], descriptor(b"x"), diff_id, "corrupt: longer than the 1 bytes"),
            (&bytes[..bytes.len() - 1], right.clone(), diff_id, "bytes, where its descriptor says"),
            (&long[..], right.clone(), diff_id, "corrupt: longer than"),
            (&bytes[..], right.clone(), wrong, "corrupt: its diff ID is"),
        ] {
            let err = line(&tree.apply(blob, &desc, Some(&diff_id)).unwrap_err());
            assert!(err.contains(expected), "{err}");
        }
        let mut other = bytes.clone();
        *other.last_mut().unwrap() = 1;
        let err = line(&tree.apply(&other[..], &right, Some(&diff_id)).unwrap_err());
        assert!(err.contains("corrupt: it hashes to"), "{err}");
        // sha512 works as well, for either.
        let hash = |bytes: &[u8]| {
            let mut hasher =
                format!("sha512:{}", "0".repeat(128)).parse::<Digest>().unwrap().hasher();
            hasher.update(bytes);
            hasher.finish()
        };
        let desc = Descriptor::new(
            MediaType::ImageLayer,
            bytes.len() as u64,
            oci_spec::image::Digest::from(&hash(&bytes)),
        );
        tree.apply(&bytes[..], &desc, Some(&hash(&bytes))).unwrap();
    }
    let t = Scratch::new();
    let mut tree = Tree::open(File::open(t.path("")).unwrap(), t.options).unwrap();
    let desc =
        Descriptor::new(MediaType::ImageConfig, 0, oci_spec::image::Digest::from(&Digest::of(b"")));
    assert!(
        line(&tree.apply(&b""[..], &desc, None).unwrap_err())
            .contains("not a layer: its media type is")
    );
}

#[test]
fn a_reader_that_fails_is_an_error() {
    struct Broken(u64);
    impl Read for Broken {
        fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
            if self.0 == 0 {
                return Err(std::io::Error::other("unplugged"));
            }
            self.0 -= 1;
            buf[0] = 0;
            Ok(1)
        }
    }
    for size in [10, 10 << 20] {
        let t = Scratch::new();
        let mut tree = Tree::open(File::open(t.path("")).unwrap(), t.options).unwrap();
        let desc = Descriptor::new(
            MediaType::ImageLayer,
            size,
            oci_spec::image::Digest::from(&Digest::of(b"")),
        );
        let err = line(&tree.apply(Broken(5), &desc, None).unwrap_err());
        assert!(err.ends_with("unplugged"), "{err}");
    }
}

fn xattr(path: &PathBuf, name: &str) -> Option<Vec<u8>> {
    let mut value = Vec::with_capacity(4096);
    rustix::fs::lgetxattr(path, name, rustix::buffer::spare_capacity(&mut value)).ok()?;
    Some(value)
}

#[test]
fn attributes_are_set_but_for_those_of_the_host() {
    let t = Scratch::new();
    let probe =
        rustix::fs::setxattr(t.path(""), "user.probe", b"", rustix::fs::XattrFlags::empty());
    if probe.is_err() {
        eprintln!("skipped: no attributes on this filesystem");
        return;
    }
    let records = [
        ("SCHILY.xattr.user.a", "v=1\n\0x"),
        ("SCHILY.xattr.user.a%3Db", "c"),
        ("SCHILY.xattr.user.empty", ""),
        ("SCHILY.xattr.user.overlay.opaque", "y"),
        ("SCHILY.xattr.trusted.overlay.redirect", "/x"),
        ("LIBARCHIVE.xattr.user.other", "eA"),
    ];
    let layer = tar()
        .pax(&records)
        .head("f", Head { mode: 0o444, ..Head::default() })
        .pax(&records)
        .dir("d")
        .pax(&records)
        .dir("./");
    t.apply(&[layer.end()]).unwrap();
    for path in ["f", "d", ""] {
        let get = |name| xattr(&t.path(path), name);
        assert_eq!(get("user.a").as_deref(), Some(&b"v=1\n\0x"[..]));
        assert_eq!(get("user.a=b").as_deref(), Some(&b"c"[..]));
        assert_eq!(get("user.empty").as_deref(), Some(&b""[..]));
        for name in ["user.overlay.opaque", "trusted.overlay.redirect", "user.other"] {
            assert_eq!(get(name), None, "{path} {name}");
        }
    }
    assert!(xattr(&t.path(""), "user.probe").is_none());
    // A directory has what its last entry says.
    t.apply(&[tar().pax(&[("SCHILY.xattr.user.b", "2")]).dir("d").end()]).unwrap();
    assert_eq!(xattr(&t.path("d"), "user.a"), None);
    assert_eq!(xattr(&t.path("d"), "user.b").as_deref(), Some(&b"2"[..]));
    // What the kernel refuses is told once.
    let layer = tar().pax(&records[..1]).symlink("l", "f").pax(&records[..1]).symlink("l2", "f");
    let warnings = &t.apply(&[layer.end()]).unwrap()[0].warnings;
    assert_eq!(
        *warnings,
        ["l: cannot set the attribute user.a: Operation not permitted (os error 1) (and 1 more)"]
    );
}

#[test]
fn capabilities_and_special_bits_survive() {
    if !is_root() {
        eprintln!("skipped: needs root");
        return;
    }
    let t = Scratch::new();
    let value = "\u{1}\0\0\u{2}\0 \0\0\0\0\0\0\0\0\0\0\0\0\0\0"; // cap_net_raw, permitted and effective
    let layer = tar()
        .pax(&[("SCHILY.xattr.security.capability", value), ("uid", "12"), ("gid", "34")])
        .head("f", Head { mode: 0o4755, size: 1, ..Head::default() })
        .data(b"x")
        .pax(&[("uid", "4294967294"), ("gid", "7")])
        .head("d", Head { kind: b'5', mode: 0o3770, ..Head::default() })
        .file("d/inherits", "")
        .file("d/unsaid/f", "")
        .dir("d/not")
        .symlink("d/nor", "x")
        .head("null", Head { kind: b'3', mode: 0o666, device: (1, 3), ..Head::default() });
    let applied = t.apply(&[layer.end()]).unwrap();
    assert!(applied[0].warnings.is_empty(), "{applied:?}");
    let stat = |path: &str| {
        let meta = fs::symlink_metadata(t.path(path)).unwrap();
        (meta.uid(), meta.gid(), meta.mode() & 0o7777)
    };
    assert_eq!(stat("f"), (12, 34, 0o4755));
    assert_eq!(stat("d"), (u32::MAX - 1, 7, 0o3770));
    assert_eq!(stat("d/inherits"), (0, 0, 0o750));
    assert_eq!(stat("d/unsaid"), (0, 0, 0o755));
    assert_eq!(stat("d/not"), (0, 0, 0o750));
    assert_eq!(stat("d/nor"), (0, 0, 0o777));
    assert_eq!(stat("null"), (0, 0, 0o666));
    assert_eq!(fs::metadata(t.path("null")).unwrap().rdev(), rustix::fs::makedev(1, 3));
    assert_eq!(xattr(&t.path("f"), "security.capability").as_deref(), Some(value.as_bytes()));
}

#[test]
fn an_access_control_list_is_not_inherited() {
    // user::rwx user:1:rwx group::r-x mask::rwx other::r-x
    let mut list = vec![2, 0, 0, 0];
    for (tag, perm, id) in [(1, 7, !0), (2, 7, 1), (4, 5, !0), (16, 7, !0), (32, 5, !0u32)] {
        list.extend_from_slice(&u16::to_le_bytes(tag));
        list.extend_from_slice(&u16::to_le_bytes(perm));
        list.extend_from_slice(&u32::to_le_bytes(id));
    }
    let record = [b" SCHILY.xattr.system.posix_acl_default=", &list[..], b"\n"].concat();
    let record = [(record.len() + 2).to_string().as_bytes(), &record[..]].concat();
    let t = Scratch::new();
    let lower = tar().extension(b'x', &record).dir("d").end();
    let upper = tar()
        .file("d/f", "")
        .file("d/unsaid/f", "")
        .dir("d/s")
        .special("d/p", b'6', "")
        .symlink("d/l", "f")
        .end();
    let warnings = t.apply(&[lower, upper]).unwrap().swap_remove(0).warnings;
    if !warnings.is_empty() {
        eprintln!("skipped: no access control lists on this filesystem");
        return;
    }
    assert_eq!(xattr(&t.path("d"), "system.posix_acl_default"), Some(list));
    for path in ["d/f", "d/s", "d/p", "d/unsaid", "d/unsaid/f"] {
        let mode = if path == "d/unsaid" { 0o755 } else { 0o750 };
        for name in ["system.posix_acl_access", "system.posix_acl_default"] {
            assert_eq!(xattr(&t.path(path), name), None, "{path} {name}");
        }
        assert_eq!(fs::metadata(t.path(path)).unwrap().mode() & 0o7777, mode, "{path}");
    }
}

#[test]
fn an_owner_that_cannot_be_set_is_recorded() {
    let mut t = Scratch::new();
    t.options.owners = Owners::Record;
    let layer = tar()
        .pax(&[("uid", "1000"), ("SCHILY.xattr.user.rootlesscontainers", "lie")])
        .head("f", Head { mode: 0o400, ..Head::default() })
        .pax(&[("SCHILY.xattr.user.rootlesscontainers", "lie")])
        .file("g", "")
        .head("null", Head { kind: b'3', mode: 0o666, device: (1, 3), ..Head::default() });
    let warnings = t.apply(&[layer.end()]).unwrap().swap_remove(0).warnings;
    assert_eq!(warnings[0], "null: an empty file in place of a device");
    assert_eq!(t.list(), "f= g= null=");
    let meta = fs::metadata(t.path("f")).unwrap();
    assert_eq!((meta.mode() & 0o7777, meta.uid()), (0o400, rustix::process::geteuid().as_raw()));
    if warnings.len() == 1 {
        let expected = [8, 0xe8, 7, 0x10, 0xff, 0xff, 0xff, 0xff, 0x0f];
        assert_eq!(xattr(&t.path("f"), "user.rootlesscontainers").as_deref(), Some(&expected[..]));
        assert_eq!(xattr(&t.path("g"), "user.rootlesscontainers"), None);
    }
}

#[test]
fn sparse_files_are_sparse_in_every_format() {
    let dir = tempfile::tempdir().unwrap();
    let file = File::create(dir.path().join("s")).unwrap();
    file.set_len(64 << 20).unwrap();
    for i in 0..40 {
        let at = (i * 3) << 19;
        std::os::unix::fs::FileExt::write_all_at(&file, format!("piece {i}").as_bytes(), at)
            .unwrap();
    }
    for format in [
        &["--format=gnu"][..],
        &["--format=posix", "--sparse-version=0.0"],
        &["--format=posix", "--sparse-version=0.1"],
        &["--format=posix", "--sparse-version=1.0"],
    ] {
        let mut tar = std::process::Command::new("tar");
        tar.args(format)
            .args(["--sparse", "--owner=0", "--group=0", "-cC"])
            .arg(dir.path())
            .arg("s");
        let Ok(output) = tar.output() else {
            eprintln!("skipped: no tar");
            return;
        };
        assert!(output.stdout.len() < 1 << 20, "not sparse");
        let t = Scratch::new();
        t.apply(&[output.stdout]).map_err(|err| line(&err)).unwrap();
        assert!(
            fs::read(t.path("s")).unwrap() == fs::read(dir.path().join("s")).unwrap(),
            "{format:?}"
        );
        assert!(fs::metadata(t.path("s")).unwrap().blocks() < 4096, "{format:?}");
    }
    let t = Scratch::new();
    let sparse = |map: &str, size: &str| {
        let records =
            [("GNU.sparse.map", map), ("GNU.sparse.size", size), ("GNU.sparse.name", "s")];
        tar().pax(&records).file("x", "abc")
    };
    for (map, size) in [
        ("0,2", "9"),
        ("0,4", "9"),
        ("7,3", "9"),
        ("3,2,2,1", "9"),
        ("0,1,0,2", "9"),
        ("0", "9"),
        ("0,3", "-1"),
        ("9223372036854775807,3", "9"),
        ("", "9"),
        ("a,b", "9"),
    ] {
        assert!(t.apply(&[sparse(map, size).end()]).is_err(), "{map} {size}");
    }
    assert_eq!(tree(&[sparse("1,1,4,2", "8")]), "s=\0a\0\0bc\0\0");
}

#[test]
fn names_are_as_long_as_the_kernel_takes_them() {
    let long = format!("{}/{}", "d".repeat(200), "n".repeat(255));
    let mut builder = ::tar::Builder::new(Vec::new());
    let mut header = ::tar::Header::new_gnu();
    header.set_size(1);
    header.set_mode(0o644);
    header.set_mtime(1);
    header.set_uid(0);
    header.set_gid(0);
    builder.append_data(&mut header, &long, &b"x"[..]).unwrap();
    let mut link = header.clone();
    link.set_size(0);
    link.set_entry_type(::tar::EntryType::Symlink);
    builder.append_link(&mut link, "l", &long).unwrap();
    let gnu = builder.into_inner().unwrap();
    let pax = tar()
        .pax(&[("path", &long)])
        .file("short", "x")
        .pax(&[("linkpath", &long)])
        .symlink("l", "s")
        .end();
    let t = Scratch::new();
    for layer in [gnu, pax] {
        t.apply(&[layer]).unwrap();
        assert_eq!(fs::read(t.path(&long)).unwrap(), b"x");
        assert_eq!(fs::read_link(t.path("l")).unwrap().as_os_str().as_bytes(), long.as_bytes());
    }
    // The prefix of a ustar header.
    let mut header = ::tar::Header::new_ustar();
    let long = format!("{}/{}", "p".repeat(150), "n".repeat(99));
    header.set_path(&long).unwrap();
    for set in [
        ::tar::Header::set_size,
        ::tar::Header::set_uid,
        ::tar::Header::set_gid,
        ::tar::Header::set_mtime,
    ] {
        set(&mut header, 0);
    }
    header.set_mode(0o644);
    header.set_cksum();
    t.apply(&[header.as_bytes().to_vec()]).unwrap();
    assert_eq!(fs::read(t.path(&long)).unwrap(), b"");
}

#[test]
fn an_attribute_of_one_entry_is_not_that_of_the_next() {
    let layer = tar().pax(&[("path", "a"), ("mtime", "7")]).file("x", "1").file("b", "2");
    assert_eq!(tree(&[layer]), "a=1 b=2");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_bytes_make_it_panic_or_leave(bytes in proptest::collection::vec(any::<u8>(), 0..5000)) {
        let _ = Scratch::new().apply(&[bytes]);
    }

    /// Headers that are nearly right, in any order, with any names of a hostile alphabet.
    #[test]
    fn no_entries_make_it_panic_or_leave(entries in proptest::collection::vec(
        (
            proptest::collection::vec(prop_oneof!["[ab]", Just("..".into()), Just(".".into()), Just("".into()), Just(".wh.a".into()), Just(".wh..wh..opq".into()), Just("bait".into())], 1..4),
            proptest::sample::select(&b"0123456SxgLK57"[..]),
            proptest::sample::select(&["", "/", "..", "../bait", "a", "/b", "../bait/file", "a/b", "b/../.."][..]),
            0..3u64,
        ),
        0..12,
    )) {
        let mut layer = tar();
        for (name, kind, link, size) in entries {
            let size = if matches!(kind, b'0' | b'S') { size } else { 0 };
            layer = layer.head(&name.join("/"), Head { kind, link, size, device: (1, 3), ..Head::default() });
            layer = layer.data(&vec![b'x'; size as usize]);
        }
        let t = Scratch::new();
        let _ = t.apply(&[layer.clone().end()]);
        let _ = t.apply(&[layer.end()]);
    }

    #[test]
    fn what_tar_writes_is_read_back(files in proptest::collection::btree_map("[a-c]{1,3}(/[d-f]{1,150}){0,2}", proptest::collection::vec(any::<u8>(), 0..3000), 0..8)) {
        let mut builder = ::tar::Builder::new(Vec::new());
        for (name, data) in &files {
            let mut header = ::tar::Header::new_gnu();
            header.set_size(data.len() as u64);
            header.set_mode(0o644);
            builder.append_data(&mut header, format!("{name}.f"), Cursor::new(data)).unwrap();
        }
        let t = Scratch::new();
        t.apply(&[gzip(&builder.into_inner().unwrap())]).unwrap();
        for (name, data) in &files {
            prop_assert_eq!(&fs::read(t.path(&format!("{name}.f"))).unwrap(), data);
        }
    }
}
