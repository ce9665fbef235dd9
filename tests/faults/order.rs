//! What is on the disk when a result is printed, on any file system.
//!
//! ext4 writes all that has happened with any fsync(2), and so forgives much; others write
//! what they were asked to. So the calls themselves are looked at: before a file gets its
//! name it was synced, and before the result line so was each directory with a new name in it.

use std::collections::BTreeSet;
use std::fs;

use sandbox::image::{Image, PACK};
use sandbox::{Sandbox, lacks};
use serde_json::json;

/// Says what is wrong with the order of calls of `trace`, where `root` is the part of the world that counts.
fn judge(trace: &str, root: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    // Directories with a name that may not be on the disk; files that are, and what is.
    let mut unsynced: BTreeSet<String> = BTreeSet::new();
    let mut synced: BTreeSet<String> = BTreeSet::new();
    let mut printed = false;
    let passing = |path: &str| {
        path.contains("/.partial") || path.contains("/cache") || path.ends_with(".new")
    };
    for line in trace.lines() {
        let Some((_, call)) = line.split_once(' ') else { continue };
        let call = call.trim_start();
        if call.contains(") = -1 ") {
            continue;
        }
        let Some((name, args)) = call.split_once('(') else { continue };
        // Names are between quotes, and what a descriptor is between brackets.
        let names: Vec<&str> =
            args.split('"').skip(1).step_by(2).filter(|name| name.starts_with('/')).collect();
        let descriptor =
            args.split_once('<').and_then(|(_, rest)| rest.split_once('>')).map(|(path, _)| path);
        match (name, &names[..], descriptor) {
            ("mkdir" | "mkdirat", [path], _) if path.starts_with(root) && !passing(path) => {
                unsynced.insert(parent(path));
            }
            ("rename" | "renameat" | "renameat2", [from, to], _) if to.starts_with(root) => {
                if !synced.contains(*from) && !synced.contains("everything") {
                    wrong.push(format!("{to} got its name before it was on the disk"));
                }
                unsynced.insert(parent(to));
            }
            ("fsync" | "fdatasync", _, Some(path)) => {
                synced.insert(path.into());
                unsynced.remove(path);
            }
            ("syncfs", ..) => {
                unsynced.clear();
                synced.insert("everything".into());
            }
            ("write", ..) if args.starts_with("1<") => {
                printed = true;
                wrong.extend(
                    unsynced.iter().map(|dir| format!("{dir} was not on the disk when it printed")),
                );
            }
            _ => {}
        }
    }
    if !printed {
        wrong.push("it printed nothing".into());
    }
    wrong
}

fn parent(path: &str) -> String {
    path.rsplit_once('/').map(|(parent, _)| parent.to_owned()).unwrap_or_default()
}

#[test]
fn a_result_is_on_the_disk_before_it_is_printed() {
    if lacks(&["strace", "docker-registry"]) {
        return;
    }
    let t = Sandbox::new().with_registry();
    let layer = format!("seq 1000 >x; {PACK}");
    t.registry().add(&Image::new(&[&layer], &json!({})), "app", "1");
    t.sh("rm -r $TARE_ROOT; mkdir t; echo x >t/x; tar -C t -cf x.tar .").is_silent();
    let calls = "mkdir,mkdirat,rename,renameat,renameat2,fsync,fdatasync,syncfs,write";
    for command in [
        // The store is made, and those above it.
        "img-pull -q --root $TARE_ROOT/a/b $REGISTRY/app:1",
        "img-pull -q $REGISTRY/app:1",
        // All is there already: but is it on the disk?
        "img-pull -q $REGISTRY/app:1",
        "img-import x.tar new",
        "img-tag new other",
        "img-pull -q --layout ./layout $REGISTRY/app:1",
        "img-unpack new out",
        "img-unpack --rootfs new tree",
        "img-rm other",
        "img-prune -a",
    ] {
        let said = t.sh(&format!("strace -f -qq -y -o $TMPDIR/trace -e trace={calls} {command}"));
        said.exits(0);
        let trace = fs::read_to_string(t.path("tmp/trace")).unwrap();
        let wrong = judge(&trace, t.path("").to_str().unwrap());
        assert!(wrong.is_empty(), "{command}:\n{}\n{trace}", wrong.join("\n"));
        // The blobs' names were synced by whoever makes a name of them: anybody may have died before.
        let blobs =
            trace.lines().any(|line| line.contains("fsync(") && line.contains("blobs/sha256>"));
        let names = ["img-unpack", "img-rm", "img-prune"].iter().all(|it| !command.starts_with(it));
        assert!(blobs || !names, "{command}:\n{trace}");
    }
    t.sh("rm $TMPDIR/*").is_silent();
}

#[test]
fn a_wrong_order_is_seen() {
    let right = "1 mkdir(\"/s/a\", 0777) = 0\n1 fsync(3</s>) = 0\n1 fsync(4</s/a/t>) = 0\n\
        1 rename(\"/s/a/t\", \"/s/a/b\") = 0\n1 fsync(5</s/a>) = 0\n1 write(1</dev/null>, \"x\", 1) = 1\n";
    assert_eq!(judge(right, "/s"), Vec::<String>::new());
    for n in [1, 2, 4, 5] {
        let lines: Vec<&str> = right.lines().collect();
        let without: Vec<&str> = [&lines[..n], &lines[n + 1..]].concat();
        assert_eq!(judge(&without.join("\n"), "/s").len(), 1, "{n}");
    }
}
