use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;

use common::error::hint_of;
use common::files::Files;
use rustix::fs::CWD;
use tempfile::TempDir;

use super::*;

fn kind(text: &str) -> Kind {
    text.parse::<Output>().unwrap_or_else(|err| panic!("{text}: {err:#}")).kind
}

#[test]
fn what_is_made_is_spelt_as_by_buildkit() {
    let local = |dest: &str| Kind::Local { dest: dest.into(), platform_split: None };
    let tar = |dest: Option<&str>| Kind::Tar { dest: dest.map(Into::into), platform_split: None };
    let archive = |docker, dest: Option<&str>| Kind::Archive { docker, dest: dest.map(Into::into) };
    let table = [
        ("out", local("out")),
        ("-", tar(None)),
        ("type=local,dest=out", local("out")),
        ("type=local,\"dest=a,b\"", local("a,b")),
        ("Type=local,DEST=out", local("out")),
        ("type=tar", tar(None)),
        ("type=tar,dest=-", tar(None)),
        ("dest=a.tar,type=tar", tar(Some("a.tar"))),
        ("type=oci", archive(false, None)),
        ("type=oci,dest=a.tar", archive(false, Some("a.tar"))),
        ("type=docker,dest=-", archive(true, None)),
        ("type=docker", Kind::Image { push: false }),
        ("type=oci,tar=false,dest=d", Kind::Layout { dir: "d".into() }),
        ("type=image,rewrite-timestamp=true", Kind::Image { push: false }),
        ("type=image,push=true", Kind::Image { push: true }),
        ("type=registry", Kind::Image { push: true }),
        ("type=cacheonly", Kind::Nothing),
    ];
    for (text, expected) in table {
        assert_eq!(kind(text), expected, "{text}");
    }
    let split = Kind::Local { dest: "d".into(), platform_split: Some(true) };
    assert_eq!(kind("type=local,dest=d,platform-split=true"), split);
}

#[test]
fn an_image_has_names_and_a_compression() {
    let output: Output =
        "type=image,\"name=app, h:5/b:1\",compression=zstd,compression-level=3,annotation.a=b=c"
            .parse()
            .unwrap();
    let names: Vec<String> = output.names.iter().map(Reference::full).collect();
    assert_eq!(names, ["docker.io/library/app:latest", "h:5/b:1"]);
    assert_eq!(output.compression, Some("zstd:3".parse().unwrap()));
    assert_eq!(output.annotations, [("a".into(), "b=c".into())]);
    let compression = |text: &str| text.parse::<Output>().unwrap().compression;
    assert_eq!(compression("type=oci,compression=uncompressed"), Some("none".parse().unwrap()));
    assert_eq!(compression("type=oci,compression-level=9"), Some("gzip:9".parse().unwrap()));
    assert_eq!(compression("type=oci"), None);
}

#[test]
fn what_is_not_known_is_not_passed_over() {
    let bads = [
        "",
        "a,b",
        "type=",
        "type=zip",
        "type=local",
        "type=local,dest=",
        "type=local,dest=-",
        "type=local,dest=a,dest=b",
        "type=local,dest=a,name=b",
        "type=local,dest=a,tar=true",
        "type=tar,platform-split=perhaps",
        "type=oci,tar=false",
        "type=oci,dset=a",
        "type=oci,push=true",
        "type=oci,name=A",
        "type=oci,compression=lzma",
        "type=oci,compression=none,compression-level=3",
        "type=oci,force-compression=true",
        "type=oci,oci-mediatypes=false",
        "type=oci,rewrite-timestamp=false",
        "type=image,dest=a",
        "type=image,annotation.=a",
        "type=cacheonly,dest=a",
        "type=local,dest",
    ];
    for bad in bads {
        assert!(bad.parse::<Output>().is_err(), "{bad}");
    }
    let err = "type=oci,dset=a".parse::<Output>().unwrap_err();
    assert_eq!(
        (err.to_string().as_str(), hint_of(&err)),
        ("type=oci has no key dset", Some("dest"))
    );
}

/// A tree with what a tree may have.
fn tree() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    fs::create_dir_all(d.join("b/c")).unwrap();
    fs::write(d.join("a"), "a\n").unwrap();
    fs::write(d.join("b/big"), vec![7; 300_000]).unwrap();
    fs::write(d.join("b/c/run"), "").unwrap();
    fs::hard_link(d.join("b/big"), d.join("b/c/same")).unwrap();
    symlink("/etc/passwd", d.join("link")).unwrap();
    let made = Command::new("mkfifo").arg(d.join("b/pipe")).status();
    assert!(made.unwrap().success());
    UnixListener::bind(d.join("b/socket")).unwrap();
    for (name, mode) in [("a", 0o640), ("b/big", 0o644), ("b/c/run", 0o4755), ("b/pipe", 0o600)] {
        fs::set_permissions(d.join(name), Permissions::from_mode(mode)).unwrap();
    }
    fs::set_permissions(d.join("b/c"), Permissions::from_mode(0o500)).unwrap();
    fs::set_permissions(d.join("b"), Permissions::from_mode(0o755)).unwrap();
    let touch = ["-h", "-d", "@1700000000", "a", "b/big", "b/c/run", "b/pipe", "link", "b/c", "b"];
    let touched = Command::new("touch").args(touch).current_dir(d).status();
    assert!(touched.unwrap().success());
    dir
}

fn open(dir: &Path) -> std::os::fd::OwnedFd {
    rustix::fs::openat(CWD, dir, walk::DIRECTORY, rustix::fs::Mode::empty()).unwrap()
}

fn local(tree: &Path, dest: &Path) -> Result<Vec<String>> {
    use std::os::fd::AsFd;
    let mut below = Files::new();
    below.push_tree(open(tree), None, ());
    local::write(open(tree).as_fd(), &below, dest)
}

/// Lists a tree: kind and mode, time, name, target.
fn listed(dir: &Path) -> String {
    let script = "find . -mindepth 1 -printf '%M %T@ %s %P %l\\n' | LC_ALL=C sort -k 4";
    let out = Command::new("sh").args(["-c", script]).current_dir(dir).output().unwrap();
    String::from_utf8(out.stdout).unwrap()
}

#[test]
fn files_are_as_in_the_image_and_others_stay() {
    let (tree, dest) = (tree(), tempfile::tempdir().unwrap());
    let dest = dest.path().join("new/out");
    let warnings = local(tree.path(), &dest).unwrap();
    assert_eq!(warnings, [format!("{}: 1 sockets are left out", dest.display())]);
    let first = listed(&dest);
    let wanted = listed(tree.path());
    let wanted: Vec<&str> = wanted.lines().filter(|line| !line.starts_with('s')).collect();
    assert_eq!(first.lines().collect::<Vec<_>>(), wanted);
    let inode = |name: &str| fs::metadata(dest.join(name)).unwrap().ino();
    assert_eq!(inode("b/big"), inode("b/c/same"));

    // What is in the way goes, be it a directory or a link out of here; what is not stays.
    let bait = tempfile::tempdir().unwrap();
    fs::write(bait.path().join("pipe"), "bait").unwrap();
    fs::remove_dir_all(dest.join("b")).unwrap();
    symlink(bait.path(), dest.join("b")).unwrap();
    fs::remove_file(dest.join("a")).unwrap();
    fs::create_dir_all(dest.join("a/deep/er")).unwrap();
    fs::write(dest.join("stays"), "").unwrap();
    local(tree.path(), &dest).unwrap();
    fs::remove_file(dest.join("stays")).unwrap();
    assert_eq!(listed(&dest), first);
    assert_eq!(fs::read_dir(bait.path()).unwrap().count(), 1);
    // And once more, over itself.
    local(tree.path(), &dest).unwrap();
    assert_eq!(listed(&dest), first);
    assert_eq!(inode("b/big"), inode("b/c/same"));
}

#[test]
fn a_directory_that_is_none_is_an_error() {
    let (tree, dest) = (tree(), tempfile::NamedTempFile::new().unwrap());
    assert!(local(tree.path(), dest.path()).is_err());
}

#[test]
fn directories_may_be_as_deep_as_they_like() {
    let (tree, dest) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut here = open(tree.path());
    for _ in 0..3000 {
        rustix::fs::mkdirat(&here, "d", rustix::fs::Mode::RWXU).unwrap();
        here = rustix::fs::openat(&here, "d", walk::DIRECTORY, rustix::fs::Mode::empty()).unwrap();
    }
    local(tree.path(), dest.path()).unwrap();
    let mut here = open(dest.path());
    for _ in 0..3000 {
        here = rustix::fs::openat(&here, "d", walk::DIRECTORY, rustix::fs::Mode::empty()).unwrap();
    }
    // TempDir needs a path for each.
    for dir in [tree.path(), dest.path()] {
        common::tree::empty(dir).unwrap();
    }
}

#[test]
fn a_tar_is_always_the_same_and_unpacks_to_the_tree() {
    let (tree, dir) = (tree(), tempfile::tempdir().unwrap());
    let write = |name: &str| {
        let path = dir.path().join(name);
        let output = cli::Output::new(Some(&path), "").unwrap();
        let warnings = tar::write(&[(String::new(), open(tree.path()))], output).unwrap();
        assert_eq!(warnings, ["1 sockets are not in the tar"]);
        path
    };
    let (one, other) = (write("one"), write("other"));
    assert_eq!(fs::read(&one).unwrap(), fs::read(other).unwrap());
    let out = Command::new("tar").arg("-tf").arg(&one).output().unwrap();
    let names = "a\nb/\nb/big\nb/c/\nb/c/run\nb/c/same\nb/pipe\nlink\n";
    assert_eq!(String::from_utf8(out.stdout).unwrap(), names);
    let unpacked = dir.path().join("unpacked");
    fs::create_dir(&unpacked).unwrap();
    let tar = Command::new("tar").arg("-xpf").arg(&one).current_dir(&unpacked).status();
    assert!(tar.unwrap().success());
    let wanted = listed(tree.path());
    let wanted: Vec<&str> = wanted.lines().filter(|line| !line.starts_with('s')).collect();
    assert_eq!(listed(&unpacked).lines().collect::<Vec<_>>(), wanted);
}

#[test]
fn a_tar_of_several_has_a_directory_for_each() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("tree")).unwrap();
    fs::write(dir.path().join("tree/a"), "").unwrap();
    fs::hard_link(dir.path().join("tree/a"), dir.path().join("tree/b")).unwrap();
    let path = dir.path().join("tar");
    let output = cli::Output::new(Some(&path), "").unwrap();
    let tree = || open(&dir.path().join("tree"));
    tar::write(&[("one".into(), tree()), ("two".into(), tree())], output).unwrap();
    let out = Command::new("tar").arg("-tf").arg(&path).output().unwrap();
    let names = "one/\none/a\none/b\ntwo/\ntwo/a\ntwo/b\n";
    assert_eq!(String::from_utf8(out.stdout).unwrap(), names);
}

#[test]
fn only_one_result_goes_to_stdout() {
    let look = |texts: &[&str]| {
        let outputs: Vec<Output> = texts.iter().map(|text| text.parse().unwrap()).collect();
        deliver::look(&outputs).map(|_| ())
    };
    let dir = tempfile::tempdir().unwrap();
    let file = format!("type=oci,dest={}/a", dir.path().display());
    look(&[&file, "out", "type=image"]).unwrap();
    for two in [&["-", "type=oci"], &["-", "type=image"]] {
        assert!(look(two).unwrap_err().to_string().contains("two results"), "{two:?}");
    }
    assert!(look(&["type=tar,dest=/nope/a/b"]).is_err(), "before anything is built");
}
