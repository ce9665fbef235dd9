//! What the digest is of, and what is kept of files.

use std::path::PathBuf;
use std::time::Duration;

use common::digest::Digest;
use common::layer::pack::{Compression, Packer};
use common::layout::Layout;

use rustix::fs::FileType;

use super::*;
use crate::copy::contents::{Wanted, digests};
use crate::copy::walk::{Filter, Found, Reader};

fn digest(dir: &Path, ignore: Option<&str>, instruction: &str) -> Digest {
    let tree = opened(dir, ignore);
    let operation = operation(instruction);
    Selection::of(&operation, sources(&operation, &tree), None).unwrap().digest()
}

#[test]
fn the_digest_is_of_what_decides_the_result() {
    let files = "d/a=1; d/b=2; d/l -> a; d/e/";
    // Another tree or another instruction, and whether the digest is the same.
    let table = [
        (files, "COPY d /x", true),
        ("d/e/; d/l -> a; d/b=2; d/a=1; other=3", "COPY d /x", true),
        (files, "COPY ./d/ /x", true),
        ("d/a=1; d/b=3; d/l -> a; d/e/", "COPY d /x", false),
        ("d/a=1; 0755 d/b=2; d/l -> a; d/e/", "COPY d /x", false),
        ("d/a=1; d/c=2; d/l -> a; d/e/", "COPY d /x", false),
        ("d/a=1; d/b=2; d/l -> b; d/e/", "COPY d /x", false),
        ("d/a=1; d/b=2; d/l=a; d/e/", "COPY d /x", false),
        ("d/a=1; d/b=2; d/l -> a", "COPY d /x", false),
        ("d/a=1; d/b=2; d/l -> a; 0700 d/e/", "COPY d /x", false),
        ("d/a=1; d/b=2; d/l -> a; d/e/; d/n=", "COPY d /x", false),
        (files, "COPY d /y", false),
        (files, "COPY --chown=1 d /x", false),
        (files, "COPY --chmod=700 d /x", false),
        (files, "COPY --link d /x", false),
        (files, "COPY --exclude=a d /x", false),
        (files, "COPY --parents d /x", false),
        (files, "ADD d /x", false),
        (files, "COPY d d /x", false),
    ];
    let first = tree(files);
    let expected = digest(first.path(), None, "COPY d /x");
    for (files, instruction, same) in table {
        let other = tree(files);
        assert_eq!(
            digest(other.path(), None, instruction) == expected,
            same,
            "{files} {instruction}"
        );
    }
    // Names of one file are not as good as equal files.
    let (one, two) = (tree("d/a=1; d/b == d/a"), tree("d/a=1; d/b=1"));
    assert_ne!(digest(one.path(), None, "COPY d /x"), digest(two.path(), None, "COPY d /x"));
    let ignored = tree("d/a=1; d/b=2; d/l -> a; d/e/; d/log=3");
    assert_eq!(digest(ignored.path(), Some("**/log"), "COPY d /x"), expected);
}

#[test]
fn files_and_listings_that_decide_are_inputs() {
    let dir = tree("d/a=1; d/e/b=2; c=3");
    let tree = opened(dir.path(), None);
    let operation = operation("COPY d/e c* /x/");
    let selection = Selection::of(&operation, sources(&operation, &tree), None).unwrap();
    let files: Vec<PathBuf> = selection.files().collect();
    assert_eq!(files, ["d/e", "", "d/e/b", "c"].map(|path| dir.path().join(path)));
}

#[test]
fn who_changes_a_link_that_was_followed_changes_a_listing() {
    let dir = tree("l/a -> ../d/b; d/b=1; d/l -> nowhere");
    let tree = opened(dir.path(), None);
    let operation = operation("COPY l/a d /x/");
    let selection = Selection::of(&operation, sources(&operation, &tree), None).unwrap();
    let files: Vec<PathBuf> = selection.files().collect();
    assert_eq!(files, ["l", "d", "d/b", "d/b"].map(|path| dir.path().join(path)));
}

#[test]
fn the_digest_and_the_layer_are_not_of_times() {
    let (one, two) = (tree("d/a=1; d/b == d/a; d/e/f=2"), tree("d/e/f=2; d/b=1; d/a == d/b"));
    let old = fs::File::open(two.path().join("d/a")).unwrap();
    old.set_modified(std::time::UNIX_EPOCH + Duration::from_secs(77)).unwrap();
    let store = tempfile::tempdir().unwrap();
    let layout = Layout::create(store.path().join("images")).unwrap();
    let writing = layout.writing().unwrap();
    let packed = [one, two].map(|dir| {
        let tree = opened(dir.path(), None);
        let operation = operation("COPY d /x/");
        let selection = Selection::of(&operation, sources(&operation, &tree), None).unwrap();
        let packer = Packer::new(&writing, Compression::default()).unwrap();
        let packed = selection.pack(None, "/", EPOCH, false, &|_| {}, packer).unwrap();
        (selection.digest(), packed.diff_id, packed.desc)
    });
    assert_eq!(packed[0], packed[1]);
}

#[test]
fn a_tree_that_nobody_changes_is_not_read_for_its_digest() {
    let dir = tree("a=1");
    let stage = Tree { foreign: false, ..opened(dir.path(), None) };
    let operation = operation("COPY --from=stage nothing-there /x");
    let asked = std::cell::Cell::new(false);
    let of = |identity: &[u8]| {
        let identity = Digest::of(identity);
        let pattern = "nothing-there".into();
        let tree = Box::new(|| {
            asked.set(true);
            Ok(&stage)
        });
        let source = SourceOf::Kept { tree, pattern, keep_owner: true, identity };
        Selection::of(&operation, vec![source], None).unwrap()
    };
    assert_eq!(of(b"1").digest(), of(b"1").digest());
    assert_ne!(of(b"1").digest(), of(b"2").digest());
    assert!(!asked.get());
    // Only then it is seen that something is missing.
    let target =
        Target { base: None, workdir: "/", epoch: EPOCH, keep_mtime: false, warn: &|_| {} };
    let err = of(b"1").hand_on(&target, &mut Lines::default()).unwrap_err();
    assert_eq!(said(&err), "nothing-there: not in the context");
}

#[test]
fn what_a_stage_has_keeps_its_owner_and_attributes() {
    let dir = tree("d/a=1");
    let file = fs::File::open(dir.path().join("d/a")).unwrap();
    let set = |name| rustix::fs::fsetxattr(&file, name, b"v", rustix::fs::XattrFlags::empty());
    if set("user.note").is_err() {
        eprintln!("{}: no attributes there: not tried", dir.path().display());
        return;
    }
    // Only root can: CAP_NET_RAW, as setcap(8) writes it.
    let raw = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let name = "security.capability";
    let root = rustix::fs::fsetxattr(&file, name, &raw, rustix::fs::XattrFlags::empty()).is_ok();
    let (uid, gid) = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
    for (foreign, expected) in [(true, 0), (false, 1 + usize::from(root))] {
        let tree = Tree { foreign, ..opened(dir.path(), None) };
        let operation = operation("COPY --from=stage d /x");
        let (pattern, identity) = ("d".into(), Digest::of(b"1"));
        let source =
            SourceOf::Kept { tree: Box::new(|| Ok(&tree)), pattern, keep_owner: true, identity };
        let selection = Selection::of(&operation, vec![source], None).unwrap();
        let target =
            Target { base: None, workdir: "/", epoch: EPOCH, keep_mtime: true, warn: &|_| {} };
        let mut lines = Lines::default();
        selection.hand_on(&target, &mut lines).unwrap();
        let entry = &lines.1[1];
        assert_eq!((entry.uid, entry.gid, entry.xattrs.len()), (uid, gid, expected));
        assert_ne!(entry.mtime, EPOCH);
    }
}

/// Returns the digests of all files of a tree.
fn hashed(tree: &Tree, known: Option<&Path>, racy: Duration) -> Vec<[u8; 32]> {
    let mut reader = Reader::new(tree);
    let Found::At(top) = reader.find(b"").unwrap() else { panic!("no root") };
    let nodes = reader.walk(top, &Filter::default()).unwrap();
    let files = nodes.iter().filter(|node| node.status.kind == FileType::RegularFile);
    let wanted: Vec<Wanted> =
        files.map(|node| Wanted { root: b"", path: &node.path, status: &node.status }).collect();
    digests(tree, &wanted, known, racy).unwrap()
}

/// Makes 300 files, more than are read without asking what is known.
fn many() -> TempDir {
    tree(&(0..300).map(|i| format!("d{}/f{i}={i}", i % 7)).collect::<Vec<_>>().join("\n"))
}

#[test]
fn what_is_known_of_files_is_used_until_they_change() {
    let (dir, known) = (many(), tempfile::tempdir().unwrap());
    let tree = opened(dir.path(), None);
    let digests = |racy| hashed(&tree, Some(known.path()), racy);
    let nothing = Duration::ZERO;
    std::thread::sleep(Duration::from_millis(30)); // a tick of the clock
    let first = digests(nothing);
    let path = fs::read_dir(known.path()).unwrap().next().unwrap().unwrap().path();
    assert_eq!(digests(nothing), first);

    // It really is used: with another digest in it, that is found.
    let whole = fs::read(&path).unwrap();
    let mut other = whole.clone();
    for record in other[16..].as_chunks_mut::<88>().0 {
        record[56..].fill(0xaa);
    }
    let end = other.len() - 32;
    let Digest::Sha256(seal) = Digest::of(&other[..end]) else { panic!() };
    other[end..].copy_from_slice(&seal);
    fs::write(&path, &other).unwrap();
    assert!(digests(nothing).iter().all(|digest| digest == &[0xaa; 32]));

    // What is not whole is not.
    for broken in [&other[..other.len() - 1], &whole[..40], b"", &other[..end]] {
        fs::write(&path, broken).unwrap();
        assert_eq!(digests(nothing), first);
    }

    // A file of the same size and time is another one.
    let file = dir.path().join("d3/f3");
    let time = fs::metadata(&file).unwrap().modified().unwrap();
    fs::write(&file, "x").unwrap();
    fs::File::open(&file).unwrap().set_modified(time).unwrap();
    let changed = digests(nothing);
    let differing = first.iter().zip(&changed).filter(|(one, other)| one != other);
    assert_eq!(differing.count(), 1);
}

#[test]
fn nothing_is_kept_of_files_that_changed_just_now() {
    let (dir, known) = (many(), tempfile::tempdir().unwrap());
    let tree = opened(dir.path(), None);
    hashed(&tree, Some(known.path()), Duration::from_secs(60));
    assert_eq!(fs::read_dir(known.path()).unwrap().count(), 0);
}

#[test]
fn a_large_file_is_hashed_in_pieces_and_no_two_are_alike() {
    let dir = tempfile::tempdir().unwrap();
    let mut bytes: Vec<u8> = (0..20 << 20).map(|i: u32| (i % 251) as u8).collect();
    fs::write(dir.path().join("a"), &bytes).unwrap();
    bytes.swap(9 << 20, 17 << 20);
    bytes[19 << 20] ^= 1;
    fs::write(dir.path().join("b"), &bytes).unwrap();
    fs::write(dir.path().join("c"), &bytes).unwrap();
    let tree = opened(dir.path(), None);
    let found = hashed(&tree, None, Duration::ZERO);
    assert_ne!(found[0], found[1]);
    assert_eq!(found[1], found[2]);
}
