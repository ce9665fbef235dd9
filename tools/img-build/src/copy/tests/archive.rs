//! ADD of archives.

use std::io::Write;
use std::process::Command;
use std::time::Instant;

use tar::{Builder, EntryType, Header};

use super::*;

/// Makes a tar of lines: `dir/`, `file=content`, `link -> target`, `name == target`; `5:6 ` before it is the owner.
fn archive(lines: &str) -> Vec<u8> {
    let mut tar = Builder::new(Vec::new());
    for line in lines.split_whitespace_lines() {
        let owner = line.split_once(' ').filter(|(owner, _)| owner.starts_with(char::is_numeric));
        let (uid, gid, line) = match owner {
            Some((owner, rest)) => {
                let (uid, gid) = owner.split_once(':').unwrap();
                (uid.parse().unwrap(), gid.parse().unwrap(), rest)
            }
            None => (0, 0, line),
        };
        let mut header = Header::new_gnu();
        let (kind, name, content) = if let Some((name, target)) = line.split_once(" -> ") {
            header.set_link_name_literal(target).unwrap();
            (EntryType::Symlink, name, "")
        } else if let Some((name, target)) = line.split_once(" == ") {
            header.set_link_name_literal(target).unwrap();
            (EntryType::Link, name, "")
        } else if let Some((name, content)) = line.split_once('=') {
            (EntryType::Regular, name, content)
        } else if line.ends_with('/') {
            (EntryType::Directory, line, "")
        } else {
            (EntryType::Fifo, line, "")
        };
        // As it is: the crate would refuse `..`.
        header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
        header.set_entry_type(kind);
        header.set_mode(if kind == EntryType::Directory { 0o750 } else { 0o640 });
        header.set_uid(uid);
        header.set_gid(gid);
        header.set_mtime(if name.ends_with("new") { EPOCH as u64 + 5 } else { 7 });
        header.set_size(content.len() as u64);
        header.set_cksum();
        tar.append(&header, content.as_bytes()).unwrap();
    }
    tar.into_inner().unwrap()
}

fn add(bytes: &[u8], image: &str, instruction: &str) -> Result<Lines> {
    let (context, image) = (tempfile::tempdir().unwrap(), tree(image));
    fs::write(context.path().join("a"), bytes).unwrap();
    entries(&opened(context.path(), None), Some(image.path()), instruction)
}

#[test]
fn archives_are_unpacked_as_docker_unpacks_them() {
    // The archive, what is in the image, what becomes of ADD a /x.
    let table = [
        ("f=1", "", "d 755 x; f 640 x/f=1"),
        ("f=1", "x/", "f 640 x/f=1"),
        (
            "z=1; 5:6 d/; 7:8 d/f=2; a=3",
            "",
            "d 755 x; f 640 x/a=3; d 750 5:6 x/d; f 640 7:8 x/d/f=2; f 640 x/z=1",
        ),
        ("d/e/f=1", "", "d 755 x; d 755 x/d; d 755 x/d/e; f 640 x/d/e/f=1"),
        ("./; ./f=1", "", "d 755 x; f 640 x/f=1"),
        ("/etc/f=1", "", "d 755 x; d 755 x/etc; f 640 x/etc/f=1"),
        ("/../f=1", "", "d 755 x; f 640 x/f=1"),
        ("a/../f=1", "", "d 755 x; f 640 x/f=1"),
        ("../f=1", "", "! a: ../f: leads out of where it is unpacked to"),
        ("a/../../f=1", "", "! a: a/../../f: leads out of where it is unpacked to"),
        ("f=1; f=2", "", "d 755 x; f 640 x/f=2"),
        ("p", "", "d 755 x; p 640 x/p"),
        ("l -> /etc", "", "d 755 x; l x/l -> /etc"),
        ("l -> ../../../etc", "", "d 755 x; l x/l -> ../../../etc"),
        // Through a link: as if x were the root.
        ("l -> /etc; l/f=1", "etc/", "d 755 x; d 755 x/etc; f 640 x/etc/f=1; l x/l -> /etc"),
        (
            "l -> ../../../etc; l/f=1",
            "etc/",
            "d 755 x; d 755 x/etc; f 640 x/etc/f=1; l x/l -> ../../../etc",
        ),
        ("l -> l; l/f=1", "", "! a: l/f: x/l: Too many levels of symbolic links (os error 40)"),
        ("lib/f=1", "x/usr/lib/; x/lib -> usr/lib", "f 640 x/usr/lib/f=1"),
        ("lib/; lib/f=1", "x/usr/lib/; x/lib -> usr/lib", "d 750 x/lib; f 640 x/lib/f=1"),
        ("f=1", "y/; x -> y", "f 640 y/f=1"),
        // In the place of what is there.
        ("d/; d/f=1; d=2", "", "d 755 x; f 640 x/d=2"),
        ("f=1", "x/f/g=0", "f 640 x/f=1"),
        ("f/; f/h=2", "x/f=0", "d 750 x/f; f 640 x/f/h=2"),
        ("f=1; f/; f/h=2", "x/f/g=0", "d 750 x/f; f 644 x/f/.wh..wh..opq=; f 640 x/f/h=2"),
        // Hard links.
        ("f=1; g == f", "", "d 755 x; f 640 x/f=1; h 640 x/g == x/f"),
        ("f=1; a == f; b == ./a", "", "d 755 x; f 640 x/a=1; h 640 x/b == x/a; h 640 x/f == x/a"),
        ("f=1; g == /f", "", "d 755 x; f 640 x/f=1; h 640 x/g == x/f"),
        ("f=1; g == f; f=2", "", "d 755 x; f 640 x/f=2; f 640 x/g=1"),
        ("g == f", "x/f=0", "! /x/f: it is not in the archive"),
        ("g == ../f", "f=0", "! a: g: hard link to ../f: leads out of where it is unpacked to"),
        ("d/; g == d", "", "! /x/d: it is a directory"),
        (
            ".wh.f=",
            "",
            "! x/.wh.f: a name that begins with .wh. means that a file is deleted (another name, or an archive of it)",
        ),
    ];
    for (members, image, expected) in table {
        let found = match add(&archive(members), image, "ADD a /x") {
            Ok(lines) => lines.0,
            Err(err) => vec![format!("! {}", said(&err))],
        };
        let expected: Vec<&str> = expected.split_whitespace_lines().collect();
        assert_eq!(found, expected, "{members}");
    }
}

#[test]
fn options_say_what_becomes_of_an_archive() {
    let bytes = archive("5:6 f=1");
    for (instruction, expected) in [
        ("ADD --chown=8:9 a /x/", vec!["d 755 8:9 x", "f 640 8:9 x/f=1"]),
        ("ADD --chmod=700 a /x/", vec!["d 755 x", "f 640 5:6 x/f=1"]),
        ("ADD --unpack=true a /x/", vec!["d 755 x", "f 640 5:6 x/f=1"]),
    ] {
        assert_eq!(add(&bytes, "", instruction).unwrap().0, expected, "{instruction}");
    }
    for instruction in ["ADD --unpack=false a /x/", "COPY a /x/"] {
        let lines = add(&bytes, "", instruction).unwrap();
        assert_eq!(lines.1[1].path, b"x/a", "{instruction}");
        assert_eq!(lines.1[1].kind, Kind::File { size: bytes.len() as u64 }, "{instruction}");
    }
}

#[test]
fn times_of_an_archive_are_kept_unless_they_are_later_than_the_epoch() {
    let lines = add(&archive("old=1; new=2"), "", "ADD a /x/").unwrap();
    let times: Vec<i64> = lines.1.iter().map(|entry| entry.mtime).collect();
    assert_eq!(times, [EPOCH, EPOCH, 7]);
}

#[test]
fn archives_are_known_by_their_content() {
    let bytes = archive("f=1");
    for program in ["gzip", "bzip2", "xz", "zstd"] {
        let mut child = Command::new(program)
            .arg("-c")
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn();
        let Ok(child) = &mut child else {
            assert!(std::env::var_os("CI").is_none(), "no {program} here");
            eprintln!("no {program} here: not tried");
            continue;
        };
        child.stdin.take().unwrap().write_all(&bytes).unwrap();
        let mut packed = Vec::new();
        std::io::Read::read_to_end(&mut child.stdout.take().unwrap(), &mut packed).unwrap();
        child.wait().unwrap();
        let lines = add(&packed, "", "ADD a /x/").unwrap().0;
        assert_eq!(lines, ["d 755 x", "f 640 x/f=1"], "{program}");
    }
    let half = &bytes[..700];
    let empty = vec![0; 1024];
    let text: &[u8] = b"hello";
    let gzip: &[u8] = &[0x1f, 0x8b, 8, 0, 1, 2, 3];
    assert!(add(half, "", "ADD a /x/").is_err(), "a tar that is cut off");
    for bytes in [text, &[], gzip, &empty[..], &bytes[..300]] {
        let lines = add(bytes, "", "ADD a /x/").unwrap();
        assert_eq!(lines.1[1].kind, Kind::File { size: bytes.len() as u64 });
    }
}

#[test]
fn files_with_holes_are_whole() {
    let dir = tempfile::tempdir().unwrap();
    let file = fs::File::create(dir.path().join("f")).unwrap();
    file.write_all_at(b"begin", 0).unwrap();
    file.write_all_at(b"middle", 300_000).unwrap();
    file.set_len(600_000).unwrap();
    for format in ["gnu", "posix"] {
        let made = Command::new("tar")
            .args(["-S", "-c", "-f", "a.tar", &format!("--format={format}"), "f", "f"])
            .current_dir(dir.path())
            .status();
        assert!(made.unwrap().success());
        let bytes = fs::read(dir.path().join("a.tar")).unwrap();
        assert!(bytes.len() < 100_000, "tar(1) has stored the holes");
        let lines = add(&bytes, "", "ADD a /x/").unwrap();
        let content = fs::read(dir.path().join("f")).unwrap();
        assert_eq!(
            lines.0[1],
            format!("f 644 x/f={}", String::from_utf8_lossy(&content).trim_ascii_end())
        );
    }
}

/// Makes a tar of one member, whose name and target are as long as they are.
fn long(kind: EntryType, path: &str, link: &str) -> Vec<u8> {
    let mut tar = Builder::new(Vec::new());
    tar.append_pax_extensions([("path", path.as_bytes()), ("linkpath", link.as_bytes())]).unwrap();
    let mut header = Header::new_ustar();
    header.set_path("name").unwrap();
    header.set_entry_type(kind);
    header.set_mode(0o640);
    header.set_cksum();
    tar.append(&header, &b""[..]).unwrap();
    tar.into_inner().unwrap()
}

#[test]
fn a_path_that_no_kernel_takes_is_an_error_at_once() {
    let (deep, deeper) = ("a/".repeat(2040), "a/".repeat(500_000) + "f");
    for (what, bytes) in [
        ("a name", long(EntryType::Regular, &deeper, "")),
        ("a name with dots", long(EntryType::Regular, &("a/../".repeat(200_000) + "f"), "")),
        ("a link", long(EntryType::Symlink, "l", &deeper)),
        ("a hard link", long(EntryType::Link, "l", &deeper)),
        ("with the directory", long(EntryType::Regular, &format!("{deep}a/a/a/a/a/a/a/f"), "")),
    ] {
        let before = Instant::now();
        let err = line(&add(&bytes, "", "ADD a /x/").err().unwrap());
        assert!(err.ends_with("File name too long (os error 36)"), "{what}: {err}");
        assert!(before.elapsed().as_secs() < 2, "{what}");
    }
    // What still fits is made.
    let mut several = Vec::new();
    for letter in ["f", "g", "h", "i"] {
        let one = long(EntryType::Regular, &format!("{deep}{letter}"), "");
        several.extend_from_slice(&one[..one.len() - 1024]);
    }
    let before = Instant::now();
    let lines = add(&several, "", "ADD a /").unwrap();
    assert_eq!(lines.1.len(), 2040 + 4);
    assert!(before.elapsed().as_secs() < 5, "{:?}", before.elapsed());
}

#[test]
fn links_lead_no_deeper_than_a_path_may_be() {
    let archive = long(EntryType::Symlink, "l", &"l/a/".repeat(1000));
    let mut bytes = archive[..archive.len() - 1024].to_vec();
    bytes.extend(long(EntryType::Regular, "l/f", ""));
    let err = line(&add(&bytes, "", "ADD a /x/").err().unwrap());
    assert!(err.ends_with("Too many levels of symbolic links (os error 40)"), "{err}");
}
