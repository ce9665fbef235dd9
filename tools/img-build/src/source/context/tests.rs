use std::fs;
use std::os::unix::fs::symlink;
use std::process::Command;

use common::error::{hint_of, line};
use tempfile::TempDir;

use super::*;

fn dir(files: &[(&str, &str)]) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    dir
}

/// Opens a directory as a context.
fn opened(dir: &Path, file: Option<&str>) -> Result<Context> {
    let scratch = || bail!("nothing is temporary");
    let elsewhere = Elsewhere::new(&scratch, &|_| Ok(None));
    open(dir.as_os_str(), file.map(Path::new), false, &elsewhere)
}

fn refused(dir: &Path, file: Option<&str>) -> String {
    match opened(dir, file) {
        Ok(_) => panic!("it is a context"),
        Err(err) => line(&err).replace(&dir.display().to_string(), "DIR"),
    }
}

fn patterns(context: &Context) -> Vec<&str> {
    let ignore = context.tree.ignore.iter().flat_map(Ignore::patterns);
    ignore.map(|pattern| pattern.text.as_str()).collect()
}

#[test]
fn a_directory_has_a_dockerfile() {
    let d = dir(&[("Dockerfile", "a"), ("other/D", "b")]);
    let context = opened(d.path(), None).unwrap();
    assert_eq!(context.dockerfile, b"a");
    assert_eq!(context.name, d.path().join("Dockerfile").display().to_string());
    assert!(context.tree.foreign && context.tree.ignore.is_none());
    let other = d.path().join("other/D");
    let context = opened(d.path(), other.to_str()).unwrap();
    assert_eq!(context.dockerfile, b"b");
    assert_eq!(context.files, [other]);
    let err = opened(d.path(), Some("/nope")).err().unwrap();
    assert_eq!(line(&err), "/nope: No such file or directory (os error 2)");
    assert_eq!(hint_of(&err), None);
    let empty = dir(&[]);
    let err = opened(empty.path(), None).err().unwrap();
    assert_eq!(hint_of(&err), Some("-f FILE, if it has another name"));
}

#[test]
fn a_small_d_will_do() {
    let d = dir(&[("dockerfile", "a")]);
    assert_eq!(opened(d.path(), None).unwrap().dockerfile, b"a");
    fs::write(d.path().join("Dockerfile"), "b").unwrap();
    assert_eq!(opened(d.path(), None).unwrap().dockerfile, b"b");
}

#[test]
fn the_dockerfiles_own_ignore_file_comes_first() {
    let d =
        dir(&[("Dockerfile", ""), (".dockerignore", "b"), ("x/D", ""), ("x/D.dockerignore", "c")]);
    let context = opened(d.path(), None).unwrap();
    assert_eq!(patterns(&context), ["b"]);
    assert_eq!(context.files.len(), 2);
    let other = d.path().join("x/D");
    assert_eq!(patterns(&opened(d.path(), other.to_str()).unwrap()), ["c"]);
    fs::write(d.path().join("Dockerfile.dockerignore"), "d").unwrap();
    assert_eq!(patterns(&opened(d.path(), None).unwrap()), ["d"]);
    // Even if nothing is in it.
    fs::write(d.path().join("Dockerfile.dockerignore"), "").unwrap();
    assert_eq!(patterns(&opened(d.path(), None).unwrap()), Vec::<&str>::new());
}

#[test]
fn an_ignore_file_is_a_file_in_the_context() {
    let d = dir(&[("Dockerfile", ""), ("inner/ignored", "x")]);
    let own = d.path().join(".dockerignore");
    symlink("inner/ignored", &own).unwrap();
    assert_eq!(patterns(&opened(d.path(), None).unwrap()), ["x"]);
    for target in ["/etc/passwd", "../outside", "/dev/zero", "/proc/self/fd/0"] {
        fs::remove_file(&own).unwrap();
        symlink(target, &own).unwrap();
        let wanted = "DIR/.dockerignore: a link that leads out of the directory";
        assert_eq!(refused(d.path(), None), wanted, "{target}");
    }
    fs::remove_file(&own).unwrap();
    symlink(".dockerignore", &own).unwrap();
    assert!(refused(d.path(), None).contains("Too many levels of symbolic links"));
    fs::remove_file(&own).unwrap();
    fs::create_dir(&own).unwrap();
    assert_eq!(refused(d.path(), None), "DIR/.dockerignore: not a regular file");
    fs::remove_dir(&own).unwrap();
    let made = Command::new("mkfifo").arg(d.path().join("Dockerfile.dockerignore")).status();
    assert!(made.unwrap().success());
    assert_eq!(refused(d.path(), None), "DIR/Dockerfile.dockerignore: not a regular file");
}

#[test]
fn what_is_no_directory_is_said() {
    let d = dir(&[("file", "")]);
    let nope = d.path().join("nope");
    assert_eq!(refused(&nope, None), "DIR: No such file or directory (os error 2)");
    let err = opened(&d.path().join("file"), None).err().unwrap();
    assert!(line(&err).ends_with("file: Not a directory (os error 20)"));
    assert!(hint_of(&err).unwrap().starts_with("img-build - <"));
}

/// A tree that was not read from this host's directories.
fn remote(d: &TempDir) -> Tree {
    Tree { foreign: false, ..Tree::directory(d.path(), "context").unwrap() }
}

#[test]
fn elsewhere_the_dockerfile_is_in_the_context() {
    let d = dir(&[("dockerfile", "a"), ("x/D", "b"), ("big", "c")]);
    symlink("/etc/passwd", d.path().join("out")).unwrap();
    symlink("x/D", d.path().join("in")).unwrap();
    let scratch = || bail!("nothing is temporary");
    let elsewhere = Elsewhere::new(&scratch, &|_| Ok(None));
    let get = |file: Option<&str>, apart| {
        let found = within(&remote(&d), file.map(Path::new), apart, &elsewhere);
        found.map(|text| (String::from_utf8(text.bytes).unwrap(), text.name))
    };
    let table = [
        (None, "a", "dockerfile"),
        (Some("x/D"), "b", "x/D"),
        (Some("./x/../x/D"), "b", "./x/../x/D"),
        (Some("../../x/D"), "b", "../../x/D"),
        (Some("in"), "b", "in"),
    ];
    for (file, text, name) in table {
        assert_eq!(get(file, true).unwrap(), (text.into(), name.into()));
    }
    assert_eq!(get(Some("/big"), false).unwrap().0, "c");
    assert!(get(Some("/big"), true).is_err());
    for (bad, why) in [
        ("out", "out: a link that leads out of the directory"),
        ("x", "x: not a regular file"),
        ("none", "none: not in the context"),
        ("..", "..: not a regular file"),
    ] {
        assert_eq!(line(&get(Some(bad), true).unwrap_err()), why);
    }
}
