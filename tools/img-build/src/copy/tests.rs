use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::Path;

use anyhow::Result;
use common::error::{find, line};
use common::files::Files;
use tempfile::TempDir;

use super::pack::{Sink, Target};
use super::*;
use crate::dockerfile::Dockerfile;
use crate::dockerfile::expand::expand;
use crate::dockerfile::instruction::Operation;
use crate::error::Error;
use crate::ignore::Ignore;
use common::layer::pack::{Entry, Kind};

mod archive;
mod contents;
mod hostile;

const EPOCH: i64 = 1_000_000_000;

/// Writes entries down: what, permissions and owner, path and content.
#[derive(Default)]
struct Lines(Vec<String>, Vec<Entry>);

impl Lines {
    fn put(&mut self, entry: &Entry, content: &[u8]) {
        let Entry { path, kind, mode, uid, gid, .. } = entry;
        let content = String::from_utf8_lossy(content.trim_ascii_end());
        let (letter, rest) = match kind {
            Kind::File { .. } => ('f', format!("={content}")),
            Kind::Directory => ('d', String::new()),
            Kind::Symlink(link) => ('l', format!(" -> {}", String::from_utf8_lossy(link))),
            Kind::Link(link) => ('h', format!(" == {}", String::from_utf8_lossy(link))),
            Kind::Device { block, major, minor } => {
                (if *block { 'b' } else { 'c' }, format!(" {major}:{minor}"))
            }
            Kind::Fifo => ('p', String::new()),
        };
        let owner = if (*uid, *gid) == (0, 0) { String::new() } else { format!(" {uid}:{gid}") };
        let mode = if letter == 'l' { String::new() } else { format!(" {mode:o}") };
        let path = String::from_utf8_lossy(path);
        self.0.push(format!("{letter}{mode}{owner} {path}{rest}"));
        self.1.push(entry.clone());
    }
}

impl Sink for Lines {
    fn add(&mut self, entry: &Entry) -> Result<()> {
        self.put(entry, b"");
        Ok(())
    }

    fn file(&mut self, entry: &Entry, file: &std::fs::File) -> Result<()> {
        self.part(entry, file, 0)
    }

    fn bytes(&mut self, entry: &Entry, bytes: &[u8]) -> Result<()> {
        self.put(entry, bytes);
        Ok(())
    }

    fn part(&mut self, entry: &Entry, file: &std::fs::File, from: u64) -> Result<()> {
        let Kind::File { size } = entry.kind else { anyhow::bail!("no file") };
        let mut bytes = vec![0; size as usize];
        file.read_exact_at(&mut bytes, from)?;
        self.put(entry, &bytes);
        Ok(())
    }
}

/// A tree on the disk, made of lines: `dir/`, `file=content`, `link -> target`, `+x file=content`.
fn tree(lines: &str) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    fill(dir.path(), lines);
    dir
}

fn fill(dir: &Path, lines: &str) {
    for line in lines.split_whitespace_lines() {
        let (mode, line) = match line.split_once(' ').filter(|(mode, _)| mode.starts_with('0')) {
            Some((mode, line)) => (u32::from_str_radix(mode, 8).ok(), line),
            None => (None, line),
        };
        if let Some((path, target)) = line.split_once(" -> ") {
            fs::create_dir_all(dir.join(path).parent().unwrap()).unwrap();
            symlink(target, dir.join(path)).unwrap();
        } else if let Some((path, target)) = line.split_once(" == ") {
            fs::create_dir_all(dir.join(path).parent().unwrap()).unwrap();
            fs::hard_link(dir.join(target), dir.join(path)).unwrap();
        } else if let Some((path, content)) = line.split_once('=') {
            fs::create_dir_all(dir.join(path).parent().unwrap()).unwrap();
            fs::write(dir.join(path), content).unwrap();
            let mode = fs::Permissions::from_mode(mode.unwrap_or(0o644));
            fs::set_permissions(dir.join(path), mode).unwrap();
        } else {
            fs::create_dir_all(dir.join(line)).unwrap();
            let mode = fs::Permissions::from_mode(mode.unwrap_or(0o755));
            fs::set_permissions(dir.join(line), mode).unwrap();
        }
    }
}

trait Cut {
    fn split_whitespace_lines(&self) -> impl Iterator<Item = &str>;
}

impl Cut for str {
    fn split_whitespace_lines(&self) -> impl Iterator<Item = &str> {
        self.split([';', '\n']).map(str::trim).filter(|line| !line.is_empty())
    }
}

fn opened(dir: &Path, ignore: Option<&str>) -> Tree {
    Tree {
        root: fs::File::open(dir).unwrap().into(),
        name: "context".into(),
        path: Some(dir.into()),
        ignore: ignore.map(|text| Ignore::parse(text.as_bytes()).unwrap()),
        foreign: true,
        keep: Box::new(()),
    }
}

/// Returns an instruction, its variables replaced.
fn operation(instruction: &str) -> Operation {
    let file = Dockerfile::parse(format!("FROM scratch\n{instruction}\n").as_bytes()).unwrap();
    expand(&file.stages[0].instructions[0], &(), '\\').unwrap().operation
}

fn sources<'a>(operation: &Operation, tree: &'a Tree) -> Vec<SourceOf<'a>> {
    let files = match operation {
        Operation::Copy(copy) => &copy.files,
        Operation::Add(add) => &add.files,
        _ => panic!("{operation:?}"),
    };
    let path = |pattern: &String| SourceOf::Path { tree, pattern: pattern.clone() };
    let contents = files.contents.iter().map(|content| SourceOf::Content {
        name: content.name.clone(),
        text: content.text.clone(),
    });
    files.sources.iter().map(path).chain(contents).collect()
}

/// Does an instruction in `/work` of an image, and returns the entries.
fn entries(tree: &Tree, image: Option<&Path>, instruction: &str) -> Result<Lines> {
    let operation = operation(instruction);
    let selection = Selection::of(&operation, sources(&operation, tree), None)?;
    let base = image.map(|image| {
        let mut files = Files::new();
        files.push_tree(fs::File::open(image).unwrap().into(), None, ());
        files
    });
    let (base, warn) = (base.as_ref(), &|_: &_| {});
    let target = Target { base, workdir: "/work", epoch: EPOCH, keep_mtime: false, warn };
    let mut lines = Lines::default();
    selection.hand_on(&target, &mut lines)?;
    check(&lines.1);
    Ok(lines)
}

/// Checks that entries are in order, and no two have one path.
fn check(entries: &[Entry]) {
    let key = |entry: &Entry| -> Vec<Vec<u8>> {
        entry.path.split(|c| *c == b'/').map(Into::into).collect()
    };
    assert!(entries.is_sorted_by(|one, other| key(one) < key(other)), "{entries:?}");
}

/// What an instruction says that has gone wrong, the hint behind it.
fn said(err: &anyhow::Error) -> String {
    match find::<Error>(err) {
        Some(Error { message, hint: Some(hint), .. }) => format!("{message} ({hint})"),
        Some(Error { message, .. }) => message.clone(),
        None => line(err),
    }
}

/// A row: files of the context, what is in the image, the instruction, and the entries or the error.
type Row = (&'static str, &'static str, &'static str, &'static str);

fn check_rows(rows: &[Row], ignore: Option<&str>) {
    for (context, image, instruction, expected) in rows {
        let (context, image) = (tree(context), tree(image));
        let tree = opened(context.path(), ignore);
        let found = match entries(&tree, Some(image.path()), instruction) {
            Ok(lines) => lines.0,
            Err(err) => vec![format!("! {}", said(&err))],
        };
        let expected: Vec<&str> = expected.split_whitespace_lines().collect();
        assert_eq!(found, expected, "{instruction}");
    }
}

#[test]
fn files_go_where_buildkit_has_them_go() {
    check_rows(
        &[
            // A file.
            ("a=1", "", "COPY a /b", "f 644 b=1"),
            ("a=1", "", "COPY a /b/", "d 755 b; f 644 b/a=1"),
            ("a=1", "b/", "COPY a /b", "f 644 b/a=1"),
            ("a=1", "b/", "COPY a /b/", "f 644 b/a=1"),
            ("a=1", "b/a=0", "COPY a /b", "f 644 b/a=1"),
            ("a=1", "b=0", "COPY a /b", "f 644 b=1"),
            ("a=1", "b=0", "COPY a /b/", "! /b: not a directory"),
            ("a=1", "b=0", "COPY a /b/c", "! /b: not a directory"),
            ("a=1", "b/a/", "COPY a /b", "! /b/a: a file is copied there, and it is a directory"),
            ("a=1", "", "COPY a /", "f 644 a=1"),
            ("a=1", "", "COPY a /x/y/z", "d 755 x; d 755 x/y; f 644 x/y/z=1"),
            ("a=1", "work/", "COPY a .", "f 644 work/a=1"),
            ("a=1", "work/", "COPY a ./", "f 644 work/a=1"),
            ("a=1", "", "COPY a .", "d 755 work; f 644 work/a=1"),
            ("a=1", "", "COPY a b", "d 755 work; f 644 work/b=1"),
            ("a=1", "", "COPY a b/.", "d 755 work; d 755 work/b; f 644 work/b/a=1"),
            ("a=1", "", "COPY a ..", "f 644 a=1"),
            ("a=1", "", "COPY a ../../../x", "f 644 x=1"),
            ("d/a=1", "", "COPY d/a /", "f 644 a=1"),
            ("a=1", "", "COPY ../../a /b", "f 644 b=1"),
            ("a=1", "", "COPY /a /b", "f 644 b=1"),
            ("a=1", "", "COPY a/ /b", "f 644 b=1"),
            ("0755 a=1", "", "COPY a /b", "f 755 b=1"),
            ("04711 a=1", "", "COPY a /b", "f 4711 b=1"),
            // A directory.
            ("d/a=1; d/b/c=2", "", "COPY d /x", "d 755 x; f 644 x/a=1; d 755 x/b; f 644 x/b/c=2"),
            ("d/a=1", "x/", "COPY d /x", "f 644 x/a=1"),
            ("d/a=1", "x/", "COPY d /x/", "f 644 x/a=1"),
            ("d/a=1", "", "COPY d /x/", "d 755 x; f 644 x/a=1"),
            ("d/a=1", "", "COPY d/ /", "f 644 a=1"),
            ("d/a=1", "", "COPY d/. /", "f 644 a=1"),
            ("a=1; b=2", "work/", "COPY . .", "f 644 work/a=1; f 644 work/b=2"),
            ("0700 d/; d/a=1", "", "COPY d /x", "d 755 x; f 644 x/a=1"),
            ("d/; 0700 d/e; d/e/a=1", "x/e/b=2", "COPY d /x", "d 700 x/e; f 644 x/e/a=1"),
            ("d/a=1", "x=0", "COPY d /x", "! /x: a directory is copied there, and it is a file"),
            (
                "d/e/a=1",
                "x/e=0",
                "COPY d /x",
                "! /x/e: a directory is copied there, and it is none",
            ),
            (
                "d/e=1",
                "x/e/f=0",
                "COPY d /x",
                "! /x/e: a file is copied there, and it is a directory",
            ),
            ("d/e=1", "x/e -> y", "COPY d /x", "f 644 x/e=1"),
            (
                "d/e/a=1",
                "y/; x/e -> ../y",
                "COPY d /x",
                "! /x/e: a directory is copied there, and it is none",
            ),
            ("d/", "", "COPY d /x", "d 755 x"),
            ("d/", "x/", "COPY d /x", ""),
            // Several.
            ("a=1; b=2", "", "COPY a b /x/", "d 755 x; f 644 x/a=1; f 644 x/b=2"),
            ("a=1; b=2", "x/", "COPY a b /x", "f 644 x/a=1; f 644 x/b=2"),
            (
                "a=1; b=2",
                "",
                "COPY a b /x",
                "! /x: several files are copied there, and it is no directory (/x/)",
            ),
            ("d/a=1; e/a=2; e/b=3", "", "COPY d e /x", "d 755 x; f 644 x/a=2; f 644 x/b=3"),
            (
                "d/a/b=1; e/a=2",
                "",
                "COPY d e /x",
                "! /x/a: a file is copied there, and it is a directory",
            ),
            ("a=1", "", "COPY a a /x/", "d 755 x; f 644 x/a=1"),
            // Patterns.
            ("a.c=1; b.c=2; d/e.c=3", "", "COPY *.c /x/", "d 755 x; f 644 x/a.c=1; f 644 x/b.c=2"),
            ("a.c=1; d/e.c=3; d/f.h=4", "", "COPY */*.c /x/", "d 755 x; f 644 x/e.c=3"),
            ("d1/a=1; d2/b=2", "", "COPY d* /x/", "d 755 x; f 644 x/a=1; f 644 x/b=2"),
            ("d/e/a=1", "", "COPY d/[e-f] /x/", "d 755 x; f 644 x/a=1"),
            ("a=1", "", "COPY a nothing* /x/", "d 755 x; f 644 x/a=1"),
            ("a=1", "", "COPY nothing* /x/", ""),
            ("a=1", "", "COPY nothing/* /x/", "! nothing/*: not in the context"),
            (
                "[a]=1; a=2",
                "",
                "COPY [[]a[]] /x/",
                "! [[]a[]]: not a pattern (\\[ for a bracket that begins no set, \\\\ for a backslash at the end)",
            ),
            ("[a]=1; a=2", "", "COPY [[]a] /x/", "d 755 x; f 644 x/[a]=1"),
            ("a=1", "", "COPY ? /x/", "d 755 x; f 644 x/a=1"),
            // Not there.
            ("main.py=1", "", "COPY mian.py /x/", "! mian.py: not in the context (main.py?)"),
            (
                "d/main.py=1",
                "",
                "COPY d/mian.py /x/",
                "! d/mian.py: not in the context (d/main.py?)",
            ),
            ("a=1", "", "COPY a/b /x/", "! a/b: not in the context"),
            // A name that means something in a layer.
            (
                "d/.wh.a=1",
                "",
                "COPY d /x",
                "! x/.wh.a: a name that begins with .wh. means that a file is deleted (another name, or an archive of it)",
            ),
        ],
        None,
    );
}

#[test]
fn links_are_followed_where_they_are_named_and_stay_links_elsewhere() {
    check_rows(
        &[
            ("a=1; l -> a", "", "COPY l /x/", "d 755 x; f 644 x/l=1"),
            ("d/a=1; l -> d", "", "COPY l /x/", "d 755 x; f 644 x/a=1"),
            ("d/a=1; l -> d", "", "COPY l/a /x/", "d 755 x; f 644 x/a=1"),
            ("d/a=1; l -> d", "", "COPY l/* /x/", "d 755 x; f 644 x/a=1"),
            ("d/a=1; l1 -> d", "", "COPY l? /x/", "d 755 x; f 644 x/a=1"),
            ("d/l -> nowhere", "", "COPY d /x/", "d 755 x; l x/l -> nowhere"),
            ("d/l -> /etc/shadow", "", "COPY d /x/", "d 755 x; l x/l -> /etc/shadow"),
            ("l -> /etc/shadow", "", "COPY l /x/", "! l: not in the context"),
            (
                "l -> ../../../../../../../../etc/shadow",
                "",
                "COPY l /x/",
                "! l: not in the context",
            ),
            ("etc/shadow=mine; l -> /../etc/shadow", "", "COPY l /x/", "d 755 x; f 644 x/l=mine"),
            (
                "l -> l",
                "",
                "COPY l /x/",
                "! context: l: Too many levels of symbolic links (os error 40)",
            ),
            // In the image.
            ("a=1", "usr/lib/; lib -> usr/lib", "COPY a /lib/", "f 644 usr/lib/a=1"),
            ("a=1", "usr/lib/; lib -> usr/lib", "COPY a /lib", "f 644 usr/lib/a=1"),
            (
                "a=1",
                "lib -> usr/lib",
                "COPY a /lib/",
                "d 755 usr; d 755 usr/lib; f 644 usr/lib/a=1",
            ),
            ("a=1", "l -> /x/f", "COPY a /l", "d 755 x; f 644 x/f=1"),
            ("a=1", "l -> /../../x", "COPY a /l/b/", "d 755 x; d 755 x/b; f 644 x/b/a=1"),
            ("a=1", "d/a -> ../e", "COPY a /d/", "f 644 d/a=1"),
            ("a=1", "l -> l", "COPY a /l/", "! l: Too many levels of symbolic links (os error 40)"),
            ("a=1", "l -> usr", "COPY --link a /l/", "d 755 l; f 644 l/a=1"),
            ("d/a=1", "x/a -> b", "COPY d /x", "f 644 x/a=1"),
            // Hard links.
            ("d/a=1; d/b == d/a", "", "COPY d /x", "d 755 x; f 644 x/a=1; h 644 x/b == x/a"),
            ("d/a=1; e == d/a", "", "COPY d e /x/", "d 755 x; f 644 x/a=1; f 644 x/e=1"),
            (
                "d/a=1; d/b == d/a; d/c == d/a; e/a=2",
                "",
                "COPY d e /x/",
                "d 755 x; f 644 x/a=2; f 644 x/b=1; h 644 x/c == x/b",
            ),
        ],
        None,
    );
}

#[test]
fn permissions_and_owners_are_as_asked() {
    let image = "etc/passwd=app:x:1000:1001::/:/bin/sh";
    check_rows(
        &[
            ("a=1", image, "COPY --chown=5 a /x/", "d 755 5:5 x; f 644 5:5 x/a=1"),
            ("a=1", image, "COPY --chown=5:6 a /x/", "d 755 5:6 x; f 644 5:6 x/a=1"),
            ("a=1", image, "COPY --chown=app a /x/", "d 755 1000:1001 x; f 644 1000:1001 x/a=1"),
            ("a=1", image, "COPY --chown=app:7 a /", "f 644 1000:7 a=1"),
            ("a=1", image, "COPY --chown=root a /", "f 644 a=1"),
            ("a=1", image, "COPY --chown=no a /", "f 644 a=1"),
            ("a=1", "", "COPY --chown=app a /", "f 644 a=1"),
            ("a=1", image, "COPY --chown=app:no a /", "f 644 1000:1001 a=1"),
            (
                "a=1",
                image,
                "COPY --chown=9999999999 a /",
                "! --chown=9999999999: 9999999999: an ID is 2147483647 at most",
            ),
            ("d/a=1; 0700 d/e", "", "COPY --chmod=640 d /x/", "d 640 x; f 640 x/a=1; d 640 x/e"),
            (
                "d/a=1; 0700 d/e; d/l -> a",
                "",
                "COPY --chmod=go=rX d /x/",
                "d 755 x; f 644 x/a=1; d 755 x/e; l x/l -> a",
            ),
            ("a=1", "", "COPY --chmod=4755 a /x/", "d 755 x; f 4755 x/a=1"),
        ],
        None,
    );
}

#[test]
fn each_half_of_an_owner_counts_on_its_own() {
    let image = tree("etc/passwd=root:x:0:7::/:/; etc/group=staff:x:50:");
    fs::write(image.path().join("etc/passwd"), "root:x:0:7::/:/\napp:x:1000:1001::/:/\n").unwrap();
    let mut files = Files::new();
    files.push_tree(fs::File::open(image.path()).unwrap().into(), None, ());
    let said = std::cell::RefCell::new(Vec::new());
    for (text, expected, unknown) in [
        ("1234", (1234, 1234), 0),
        ("1000", (1000, 1000), 0),
        ("1000:5", (1000, 5), 0),
        ("app", (1000, 1001), 0),
        ("app:staff", (1000, 50), 0),
        ("app:0", (1000, 0), 0),
        ("app:root", (1000, 0), 0),
        ("app:ghosts", (1000, 1001), 1),
        ("app:", (1000, 1001), 0),
        ("3:ghosts", (3, 3), 1),
        ("ghost", (0, 0), 1),
        ("ghost:staff", (0, 50), 1),
        ("ghost:ghosts", (0, 0), 2),
        ("root", (0, 0), 0),
        (":50", (0, 50), 0),
        ("", (0, 0), 0),
    ] {
        let warn = |what: &str| said.borrow_mut().push(what.to_owned());
        assert_eq!(owner::owner(text, Some(&files), &warn).unwrap(), expected, "{text:?}");
        assert_eq!(said.take().len(), unknown, "{text:?}");
    }
    for bad in ["2147483648", "0:4294967295"] {
        assert!(owner::owner(bad, Some(&files), &|_| {}).is_err(), "{bad}");
    }
    let warn = |what: &str| said.borrow_mut().push(what.to_owned());
    owner::owner("app:ghosts", Some(&files), &warn).unwrap();
    assert_eq!(said.take(), ["the image has no ghosts: 1001 instead"]);
}

#[test]
fn some_are_left_out_and_some_bring_their_directories() {
    check_rows(
        &[
            (
                "d/a.c=1; d/a.h=2; d/e/b.c=3",
                "",
                "COPY --exclude=*.c d /x",
                "d 755 x; f 644 x/a.h=2; d 755 x/e; f 644 x/e/b.c=3",
            ),
            ("d/a.c=1; d/e/b.c=3", "", "COPY --exclude=**/*.c d /x", "d 755 x; d 755 x/e"),
            (
                "d/e/a=1; d/e/b=2",
                "",
                "COPY --exclude=e --exclude=!e/b d /x",
                "d 755 x; d 755 x/e; f 644 x/e/b=2",
            ),
            // Names are those in a source, so that a source itself is never left out.
            ("d/a=1; d/b/a=2", "", "COPY --exclude=a d /x", "d 755 x; d 755 x/b; f 644 x/b/a=2"),
            ("d/a=1", "", "COPY --exclude=/a d /x", "d 755 x; f 644 x/a=1"),
            (
                "home.txt=1; home.md=2",
                "",
                "COPY --exclude=*.txt home* /x/",
                "d 755 x; f 644 x/home.md=2; f 644 x/home.txt=1",
            ),
            (
                "a/b/c=1; a/d=2",
                "",
                "COPY --parents a/b/c /x/",
                "d 755 x; d 755 x/a; d 755 x/a/b; f 644 x/a/b/c=1",
            ),
            (
                "a/b/c=1; a/d=2",
                "",
                "COPY --parents a/b /x/",
                "d 755 x; d 755 x/a; d 755 x/a/b; f 644 x/a/b/c=1",
            ),
            (
                "a/b/c=1; a/d=2",
                "",
                "COPY --parents ./a/./b /x/",
                "d 755 x; d 755 x/b; f 644 x/b/c=1",
            ),
            (
                "a/b/c.c=1; a/d.c=2; a/e=3",
                "",
                "COPY --parents **/*.c /x/",
                "d 755 x; d 755 x/a; d 755 x/a/b; f 644 x/a/b/c.c=1; f 644 x/a/d.c=2",
            ),
            (
                "a1/b/c=1; a2/b/d=2",
                "",
                "COPY --parents a*/./b/* /x/",
                "d 755 x; d 755 x/b; f 644 x/b/c=1; f 644 x/b/d=2",
            ),
            ("0700 a/; a/b=1", "0711 x/a/", "COPY --parents a/b /x/", "d 700 x/a; f 644 x/a/b=1"),
            ("a=1", "", "COPY --parents bcd /x/", "! bcd: not in the context"),
            ("a=1", "", "COPY --parents b* /x/", "d 755 x"),
            (
                "a/b=1; a/c=2",
                "",
                "COPY --parents --exclude=a/c a /x/",
                "d 755 x; d 755 x/a; f 644 x/a/b=1",
            ),
            ("a/b=1", "", "COPY --parents . /x/", "d 755 x; d 755 x/a; f 644 x/a/b=1"),
        ],
        None,
    );
}

#[test]
fn what_is_ignored_is_not_there() {
    check_rows(
        &[
            ("a=1; secret=2", "", "COPY . /x/", "d 755 x; f 644 x/a=1"),
            (
                "secret=2",
                "",
                "COPY secret /x/",
                "! secret: left out of the context by its ignore file (!secret in .dockerignore)",
            ),
            (
                "secret=2; l -> secret",
                "",
                "COPY l /x/",
                "! l: left out of the context by its ignore file (!secret in .dockerignore)",
            ),
            ("secret=2", "", "COPY secre? /x/", ""),
            ("d/a=1; d/keep=2", "", "COPY d /x/", "d 755 x; f 644 x/keep=2"),
            ("d/a=1; d/keep=2", "", "COPY . /x/", "d 755 x; d 755 x/d; f 644 x/d/keep=2"),
            (
                "d/a=1",
                "",
                "COPY d /x/",
                "! d: left out of the context by its ignore file (!d in .dockerignore)",
            ),
            ("d/a=1", "", "COPY . /x/", "d 755 x"),
            ("d/a=1", "", "COPY [d] /x/", ""),
            ("d/keep=1", "", "COPY [d] /x/", "d 755 x; f 644 x/keep=1"),
            ("e/f/a.o=1; e/b=1", "", "COPY e /x/", "d 755 x; f 644 x/b=1; d 755 x/f"),
        ],
        Some("secret\nd\n!d/keep\n**/*.o"),
    );
}

#[test]
fn here_documents_are_files() {
    check_rows(
        &[
            ("", "", "COPY <<EOF /x\nhello\nEOF", "f 644 x=hello"),
            ("", "", "COPY <<a <<b /x/\n1\na\n2\nb", "d 755 x; f 644 x/a=1; f 644 x/b=2"),
            ("c=3", "", "COPY --chmod=755 c <<a /x/\n1\na", "d 755 x; f 755 x/a=1; f 755 x/c=3"),
        ],
        None,
    );
}
