//! Tables, unpacked layers, a part of each, and an overlay mount say the same.

use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use oci_spec::image::Descriptor;
use proptest::prelude::*;

use super::*;
use crate::error::find;
use crate::layer::table::tests::{descriptor, table};
use crate::layer::tests::{Head, Tar};
use crate::layer::{Options, Owners, Tree};
use crate::snapshot::{Lower, Snapshot};

/// Returns all paths of these names, up to four deep.
fn paths(names: &[&str]) -> Vec<String> {
    let mut all: Vec<String> = names.iter().map(|name| (*name).into()).collect();
    let mut last = all.clone();
    for _ in 0..3 {
        last = last
            .iter()
            .flat_map(|path| names.iter().map(move |name| format!("{path}/{name}")))
            .collect();
        all.extend(last.iter().cloned());
    }
    all
}

/// What an entry of a random layer is.
#[derive(Clone, Debug)]
enum Op {
    File(u64),
    Dir(u32),
    Implicit,
    Symlink(&'static str),
    Hard(&'static str),
    Fifo,
    Whiteout,
    Opaque,
}

fn op() -> impl Strategy<Value = (Vec<&'static str>, Op)> {
    let path = proptest::collection::vec(proptest::sample::select(&["a", "b", "c"][..]), 1..4);
    let op = prop_oneof![
        4 => (0..3u64).prop_map(Op::File),
        4 => proptest::sample::select(&[0o755u32, 0o711, 0o1777][..]).prop_map(Op::Dir),
        2 => Just(Op::Implicit),
        1 => proptest::sample::select(&["a", "/b", "../c", "b/c"][..]).prop_map(Op::Symlink),
        1 => proptest::sample::select(&["a", "b/a", "c"][..]).prop_map(Op::Hard),
        1 => Just(Op::Fifo),
        2 => Just(Op::Whiteout),
        2 => Just(Op::Opaque),
    ];
    (path, op)
}

fn layer(ops: &[(Vec<&'static str>, Op)]) -> Vec<u8> {
    let mut tar = Tar::default();
    for (path, op) in ops {
        let (last, dir) = path.split_last().unwrap();
        let name = path.join("/");
        let beside = |name: &str| [dir, &[name]].concat().join("/");
        tar = match op {
            Op::File(size) => tar
                .head(&name, Head { size: *size, mode: 0o640, ..Head::default() })
                .data(&vec![b'x'; *size as usize]),
            Op::Dir(mode) => tar.head(&name, Head { kind: b'5', mode: *mode, ..Head::default() }),
            Op::Implicit => tar.file(&format!("{name}/a"), "x"),
            Op::Symlink(target) => tar.symlink(&name, target),
            Op::Hard(target) => tar.hard(&name, target),
            Op::Fifo => tar.special(&name, b'6', ""),
            Op::Whiteout => tar.file(&beside(&format!(".wh.{last}")), ""),
            Op::Opaque => tar.file(&format!("{name}/.wh..wh..opq"), ""),
        };
    }
    tar.end()
}

/// Unpacks layers; nothing, if they cannot be.
fn unpacked(layers: &[Vec<u8>]) -> Option<tempfile::TempDir> {
    let dir = tempfile::tempdir().unwrap();
    let owners = if rustix::process::geteuid().is_root() { Owners::Set } else { Owners::Record };
    let mut tree =
        Tree::open(File::open(dir.path()).unwrap(), Options { owners, ..Options::default() })
            .unwrap();
    let apply = |blob: &Vec<u8>| tree.apply(&blob[..], &descriptor(blob), None);
    layers.iter().map(apply).collect::<Result<Vec<_>>>().ok()?;
    Some(dir)
}

/// Returns what is at a path that leads through no link.
fn there(root: &Path, path: &str) -> Option<Found> {
    let mut way = root.to_owned();
    let mut names = path.split('/').peekable();
    while let Some(name) = names.next() {
        way.push(name);
        let kind = fs::symlink_metadata(&way).ok()?.file_type();
        if names.peek().is_some() && !kind.is_dir() {
            return None;
        }
    }
    let meta = fs::symlink_metadata(&way).unwrap();
    let kind = match meta.file_type() {
        kind if kind.is_dir() => FileType::Directory,
        kind if kind.is_symlink() => FileType::Symlink,
        kind if kind.is_fifo() => FileType::Fifo,
        _ => FileType::RegularFile,
    };
    let link = match kind {
        FileType::Symlink => fs::read_link(&way).unwrap().as_os_str().as_bytes().into(),
        _ => Vec::new(),
    };
    let size = if kind == FileType::RegularFile { meta.size() } else { 0 };
    let (mut uid, mut gid) = (meta.uid(), meta.gid());
    if !rustix::process::geteuid().is_root() {
        (uid, gid) = (0, 0);
    }
    Some(Found { kind, mode: meta.mode() & 0o7777, uid, gid, size, link })
}

/// Returns the files of layers by their tables; nothing, if these do not say it.
fn files(layers: &[Vec<u8>]) -> Option<Files> {
    let mut files = Files::new();
    for layer in layers {
        if !files.push_table(Arc::new(table(layer).ok()?)).unwrap() {
            return None;
        }
    }
    Some(files)
}

/// Checks that tables and the unpacked tree agree; returns whether there is something to compare.
fn agree(layers: &[Vec<u8>]) -> Option<bool> {
    let dir = unpacked(layers)?;
    let Some(files) = files(layers) else { return Some(false) };
    for path in paths(&["a", "b", "c"]) {
        let found = files.look(path.as_bytes()).unwrap();
        assert_eq!(found, there(dir.path(), &path), "{path}");
    }
    Some(true)
}

/// A layout with these layers, and where they are unpacked.
struct Scratch {
    dir: tempfile::TempDir,
    layout: Layout,
    layers: Vec<(Descriptor, Digest)>,
}

impl Scratch {
    fn new(blobs: &[Vec<u8>]) -> Scratch {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::create(dir.path().join("images")).unwrap();
        let writing = layout.writing().unwrap();
        let put = |blob: &Vec<u8>| {
            writing.put(blob).unwrap();
            (descriptor(blob), Digest::of(blob))
        };
        let layers = blobs.iter().map(put).collect();
        drop(writing);
        Scratch { dir, layout, layers }
    }

    fn snapshot(&self) -> Result<Snapshot> {
        Snapshot::prepare(&self.dir.path().join("layers"), &self.layout, &self.layers)
    }

    fn tables(&self) -> Tables {
        Tables::new(self.dir.path().join("tables"))
    }

    /// Returns the files, of those layers by their tables of which `by_table` says so.
    fn files(&self, by_table: impl Fn(usize) -> bool) -> Option<Files> {
        let (mut files, tables) = (Files::new(), self.tables());
        let there = Lower::of(&self.dir.path().join("layers"), &self.layers).unwrap();
        for (number, (there, (desc, diff_id))) in there.into_iter().zip(&self.layers).enumerate() {
            match there {
                Some(lower) if !by_table(number) => lower.put_on(&mut files).unwrap(),
                _ => {
                    let table = tables.of(&self.layout, desc, diff_id).unwrap();
                    files.push_table(table).unwrap().then_some(())?;
                }
            }
        }
        Some(files)
    }
}

/// Returns the tree, if layers can be mounted here.
fn mounted(snapshot: &Snapshot) -> Option<OwnedFd> {
    let tree = snapshot.tree();
    if let Err(err) = &tree {
        eprintln!("not tested here: {err:#}");
    }
    tree.ok()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn all_ways_to_look_see_the_same(
        layers in proptest::collection::vec(proptest::collection::vec(op(), 1..5), 2..4),
    ) {
        let blobs: Vec<Vec<u8>> = layers.iter().map(|ops| layer(ops)).collect();
        let t = Scratch::new(&blobs);
        let Ok(snapshot) = t.snapshot() else { return Ok(()) };
        let Some(tree) = mounted(&snapshot) else { return Ok(()) };
        let mut merged = Files::new();
        merged.push_tree(tree, None, ());
        let ways = [t.files(|_| false), t.files(|_| true), t.files(|n| n % 2 == 0), t.files(|n| n % 2 == 1)];
        prop_assert!(ways[0].is_some());
        for path in paths(&["a", "b", "c"]) {
            let expected = merged.look(path.as_bytes()).unwrap();
            for (n, files) in ways.iter().enumerate() {
                let Some(files) = files else { continue };
                prop_assert_eq!(&files.look(path.as_bytes()).unwrap(), &expected, "{} {}", n, path);
            }
        }
    }
}

#[test]
fn a_table_is_made_once_and_kept() {
    let t = Scratch::new(&[Tar::default().file("etc/group", "root").end()]);
    let (desc, diff_id) = &t.layers[0];
    assert!(t.tables().get(diff_id).is_none());
    let made = t.tables().of(&t.layout, desc, diff_id).unwrap();
    std::fs::remove_dir_all(t.dir.path().join("images/blobs")).unwrap();
    assert_eq!(t.tables().of(&t.layout, desc, diff_id).unwrap(), made);
    assert_eq!(made.get(b"etc/group").unwrap().content, Some(&b"root"[..]));

    let path = t.dir.path().join("tables").join(diff_id.hex());
    let good = fs::read(&path).unwrap();
    for bad in [&good[..good.len() - 1], b"", &[0; 300]] {
        fs::write(&path, bad).unwrap();
        assert!(t.tables().get(diff_id).is_none());
    }
    fs::write(t.dir.path().join("tables").join(Digest::of(b"other").hex()), &good).unwrap();
    assert!(t.tables().get(&Digest::of(b"other")).is_none());
    fs::write(&path, &good).unwrap();
    assert!(t.tables().get(diff_id).is_some());
}

#[test]
fn a_file_is_read_where_it_is() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("d")).unwrap();
    fs::write(dir.path().join("d/f"), "four").unwrap();
    std::os::unix::fs::symlink("f", dir.path().join("d/l")).unwrap();
    std::os::unix::fs::symlink("d", dir.path().join("l")).unwrap();
    let mut files = Files::new();
    files.push_tree(File::open(dir.path()).unwrap().into(), None, ());
    assert_eq!(files.read(b"d/f", 4).unwrap(), b"four");
    for bad in ["d/l", "d", "l/f", "d/f/x", "nothing", &"n".repeat(300)] {
        assert!(files.read(bad.as_bytes(), 100).is_err() && files.open(bad.as_bytes()).is_err());
    }
    assert!(files.read(b"d/f", 3).is_err());
    let found = |path: &str| files.look(path.as_bytes()).unwrap();
    assert_eq!(found("d/l").unwrap().link, b"f");
    assert_eq!((found("l/f"), found("d/f/x"), found("x/y")), (None, None, None));
    assert_eq!(found("").unwrap().kind, FileType::Directory);
    assert!(Files::new().look(b"").unwrap().is_none());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn a_table_says_what_unpacking_makes(
        layers in proptest::collection::vec(proptest::collection::vec(op(), 0..6), 1..4),
    ) {
        let blobs: Vec<Vec<u8>> = layers.iter().map(|ops| layer(ops)).collect();
        agree(&blobs);
    }
}

#[test]
fn few_layers_are_tangled() {
    // What tools make: sorted, directories before what is in them.
    let base = Tar::default().dir("etc").file("etc/passwd", "root:x:0:0::/root:\n");
    let base = base.dir("usr").dir("usr/lib").symlink("lib", "usr/lib").hard("h", "etc/passwd");
    let next = Tar::default().dir("etc").file("etc/.wh.passwd", "").dir("usr");
    let next = next.dir("usr/lib").file("usr/lib/.wh..wh..opq", "").file("usr/lib/x", "1");
    let layers = [base.end(), next.end()];
    assert_eq!(agree(&layers), Some(true));
    let files = files(&layers).unwrap();
    assert_eq!(files.look(b"lib").unwrap().unwrap().link, b"usr/lib");
    assert_eq!(files.look(b"lib/x").unwrap(), None);
    assert_eq!(files.read(b"h", 100).unwrap(), b"root:x:0:0::/root:\n");
    for path in ["etc/passwd", "usr"] {
        let err = files.read(path.as_bytes(), 100).unwrap_err();
        assert!(find::<Unkept>(&err).is_none(), "{err}");
    }
    assert!(files.read(b"h", 10).is_err());
    let err = files.read(b"usr/lib/x", 100).unwrap_err(); // nobody asks for it
    assert!(find::<Unkept>(&err).is_some(), "{err}");
}

#[test]
fn what_depends_on_what_is_below_is_tangled() {
    let tar = Tar::default;
    for (lower, upper) in [
        (tar().dir("d").symlink("l", "d"), tar().file("l/f", "")),
        (tar().dir("d").symlink("l", "d"), tar().file("l/.wh.f", "")),
        (tar().dir("d").symlink("l", "d"), tar().file("l/f", "").dir("l")),
        (tar(), tar().dir("d").symlink("l", "d").file("l/f", "")),
        (tar().file("f", ""), tar().hard("g", "f")),
        (tar().dir("d").dir("d/e"), tar().file("d/e/f", "").file("d/.wh..wh..opq", "")),
        (tar().dir("d").dir("d/e/f"), tar().file("d/e/f/g", "").file("d/.wh.e", "")),
    ] {
        let layers = [lower.end(), upper.end()];
        assert!(unpacked(&layers).is_some());
        assert!(files(&layers).is_none(), "{:?}", there(unpacked(&layers).unwrap().path(), "l"));
    }
}
