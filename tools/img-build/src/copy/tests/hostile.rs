//! Trees that want out, or do not keep still.

use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use proptest::prelude::*;
use rustix::fs::{CWD, FileType, Mode, OFlags, RenameFlags, mknodat, renameat_with};

use super::*;
use crate::copy::contents::open_as;
use crate::copy::walk::{Reader, look, open, status};

/// What is outside, and must never be seen: as long as what is inside.
const BAIT: &str = "BAIT";

/// Makes a directory with bait in it and a tree beside it.
fn with_bait(lines: &str) -> (TempDir, std::path::PathBuf) {
    let outside = tree(&format!("bait/f={BAIT}; bait/d/f={BAIT}; tree/"));
    let dir = outside.path().join("tree");
    fill(&dir, lines);
    (outside, dir)
}

/// A tree of few names, so that they often meet.
fn lines() -> impl Strategy<Value = Vec<String>> {
    let path = "[abc](/[abc]){0,2}";
    let target = "(/|(\\.\\./){0,4})(bait|[abc]|tree)(/[abcdf]){0,2}";
    let line = prop_oneof![
        path.prop_map(|path| format!("{path}={path}")),
        path.prop_map(|path| format!("{path}/")),
        (path, target).prop_map(|(path, target)| format!("{path} -> {target}")),
    ];
    proptest::collection::vec(line, 0..8)
}

/// Makes what can be made of lines; some are in the way of others.
fn fill_some(dir: &Path, lines: &[String]) {
    for line in lines {
        let (path, rest) = match line.split_once(" -> ") {
            Some((path, target)) => (path, Some(target)),
            None => (line.split(['=']).next().unwrap_or_default(), None),
        };
        let path = path.trim_end_matches('/');
        // Made beneath the tree alone: the test must not write through its links.
        let parents: Vec<&Path> = Path::new(path).ancestors().skip(1).collect();
        if parents.iter().any(|path| dir.join(path).is_symlink() || dir.join(path).is_file()) {
            continue;
        }
        let _ = fs::create_dir_all(dir.join(path).parent().unwrap_or(dir));
        let path = dir.join(path);
        let _ = match (rest, line.ends_with('/')) {
            (Some(target), _) => symlink(target, path),
            (None, true) => fs::create_dir_all(path),
            (None, false) if path.is_symlink() => Ok(()),
            (None, false) => fs::write(path, line),
        };
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn nothing_outside_is_read(
        context in lines(),
        image in lines(),
        source in "(\\.\\./){0,3}([abc*?]{1,2}|bait|\\[a-c\\])(/([abcdf*]{1,2}|\\*\\*|\\.\\.|\\.)){0,3}",
        destination in "/?(\\.\\./){0,2}[abc](/[abc.]{1,2}){0,2}/?",
        flag in "(|--parents|--exclude=a|--link|--chmod=u=rwX|--exclude=\\* --exclude=!b)",
        ignore in "(|a|\\*\n!b|\\*\\*/c|b/\\*\n!b/a)",
    ) {
        let (outside, dir) = with_bait("");
        fill_some(&dir, &context);
        let destination_image = outside.path().join("image");
        fs::create_dir(&destination_image).unwrap();
        fill_some(&destination_image, &image);
        let tree = opened(&dir, Some(&ignore));
        let instruction = format!("COPY {flag} {source} {destination}");
        if let Ok(lines) = entries(&tree, Some(&destination_image), &instruction) {
            prop_assert!(!lines.0.iter().any(|line| line.ends_with(BAIT)), "{:?}", lines.0);
            for entry in &lines.1 {
                let mut names = entry.path.split(|c| *c == b'/');
                prop_assert!(names.all(|name| !matches!(name, b"" | b"." | b"..")));
            }
        }
    }

    #[test]
    fn no_archive_breaks_anything(mut bytes in proptest::collection::vec(any::<u8>(), 0..3000), at in 0usize..512) {
        // A header, and something about it changed.
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.as_mut_bytes()[..4].copy_from_slice(b"../x");
        if let Some(byte) = bytes.first() {
            header.as_mut_bytes()[at] = *byte;
        }
        header.set_cksum();
        bytes.splice(0..0, header.as_bytes().iter().copied());
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("a"), &bytes).unwrap();
        let _ = entries(&opened(dir.path(), None), None, "ADD a /x/");
    }
}

#[test]
fn nothing_that_opens_files_follows_a_link() {
    let (outside, dir) = with_bait("a=1");
    symlink("../bait", dir.join("dir")).unwrap();
    symlink("../bait/f", dir.join("file")).unwrap();
    let tree = opened(&dir, None);
    let bait = fs::File::open(outside.path().join("bait/f")).unwrap();
    let bait = status(&bait).unwrap();
    assert!(Reader::new(&tree).list(b"dir").is_err());
    assert!(Reader::new(&tree).list(b"../bait").is_err());
    for path in [&b"dir/f"[..], b"file", b"../bait/f", b"/etc/passwd"] {
        assert!(open_as(&tree, &mut None, path, &bait).is_err(), "{path:?}");
        assert!(open(tree.root.as_fd(), path, OFlags::RDONLY).is_err(), "{path:?}");
        if path != b"file" {
            assert!(!matches!(look(tree.root.as_fd(), path), Ok(Some(_))), "{path:?}");
        }
    }
}

#[test]
fn a_link_that_comes_during_the_walk_leads_nowhere() {
    let (outside, dir) = with_bait("d/f=here; e/f=here; file=here");
    symlink(outside.path().join("bait"), dir.join("swap")).unwrap();
    symlink(outside.path().join("bait/f"), dir.join("link")).unwrap();
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !ended.load(Ordering::Relaxed) {
                for (one, other) in [("d", "swap"), ("file", "link")] {
                    let (one, other) = (dir.join(one), dir.join(other));
                    renameat_with(CWD, &one, CWD, &other, RenameFlags::EXCHANGE).unwrap();
                }
            }
        });
        let begin = Instant::now();
        let mut done = 0;
        while begin.elapsed() < Duration::from_secs(2) {
            for instruction in ["COPY . /x/", "COPY d /x/", "COPY swap/f file link /x/"] {
                let Ok(lines) = entries(&opened(&dir, None), None, instruction) else { continue };
                done += 1;
                let found = lines.0.iter().any(|line| line.ends_with(BAIT));
                if found {
                    ended.store(true, Ordering::Relaxed);
                }
                assert!(!found, "{instruction}: {:?}", lines.0);
            }
        }
        ended.store(true, Ordering::Relaxed);
        assert!(done > 0, "it never came to an end");
    });
}

#[test]
fn what_is_packed_is_what_was_hashed() {
    for change in ["other", "longer than before", ""] {
        let dir = tree("a=1; b=2");
        let tree = opened(dir.path(), None);
        let operation = operation("COPY . /x/");
        let selection = Selection::of(&operation, sources(&operation, &tree), None).unwrap();
        std::thread::sleep(Duration::from_millis(20)); // a tick of the clock
        match change {
            "" => fs::remove_file(dir.path().join("b")).unwrap(),
            change => fs::write(dir.path().join("b"), change).unwrap(),
        }
        let target =
            Target { base: None, workdir: "/", epoch: EPOCH, keep_mtime: false, warn: &|_| {} };
        let err = selection.hand_on(&target, &mut Lines::default()).unwrap_err();
        assert_eq!(line(&err), "context: b: changed while it was copied", "{change}");
    }
}

#[test]
fn fifos_are_copied_and_sockets_are_not() {
    let dir = tree("d/a=1");
    mknodat(CWD, dir.path().join("d/p"), FileType::Fifo, Mode::from(0o600), 0).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(dir.path().join("d/s")).unwrap();
    let tree = opened(dir.path(), None);
    let lines = entries(&tree, None, "COPY d /x").unwrap().0;
    assert_eq!(lines, ["d 755 x", "f 644 x/a=1", "p 600 x/p"]);
    let err = entries(&tree, None, "COPY d/s /x").err().unwrap();
    assert_eq!(said(&err), "d/s: a socket, which means nothing elsewhere");
}

#[test]
fn a_deep_tree_is_copied_or_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let deep = vec!["d"; 1500].join("/");
    fs::create_dir_all(dir.path().join(&deep)).unwrap();
    fs::write(dir.path().join(&deep).join("f"), "1").unwrap();
    let lines = entries(&opened(dir.path(), None), None, "COPY . /x").unwrap().0;
    assert_eq!(lines.len(), 1502);
}
