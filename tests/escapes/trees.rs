//! Trees in which the places that a container needs are something else: links, pipes, devices.

use sandbox::image::{Image, PACK, PATH, busybox_layer};
use sandbox::{Sandbox, lacks};
use serde_json::json;

use super::{bait, bundle, of_either_user, sandbox, with_probe};

/// What is made of `b/rootfs`, and whether a container starts in it.
///
/// `$B` is the bait, by its path on the host; and by that path it is in the tree as well,
/// with other contents, so that what resolves there is not refused for being absent.
const TREES: &[(&str, bool)] = &[
    ("rm -rf proc; ln -s $B/dir proc", false),
    ("rm -rf sys; ln -s $B/dir sys", false),
    ("rm -rf dev; ln -s $B/dir dev", false),
    ("rm -rf proc; ln -s ../../../../../../$B/dir proc", false),
    ("rm -rf dev; ln -s / dev", false),
    ("rm -rf dev; ln -s . dev", false),
    ("rm -rf proc; mkfifo proc", false),
    ("rm -rf sys; mknod sys c 1 3 || : >sys", false),
    ("rm -rf dev; : >dev", false),
    // Under what is mounted there they are out of sight.
    (
        "mkdir -p dev/pts proc/sys; ln -s $B/file dev/null; ln -s $B/file dev/console; ln -s $B/file dev/pts/0; ln -s $B/dir dev/shm",
        true,
    ),
    (
        "mkdir -p dev; for n in zero full random urandom tty ptmx fd stdin stdout; do ln -s $B/file dev/$n; done",
        true,
    ),
    (
        "mkdir -p proc/self; ln -s $B proc/self/attr; ln -s $B/file proc/sysrq-trigger; ln -s $B proc/sys",
        true,
    ),
    ("mkdir -p sys/fs; ln -s $B/dir sys/fs/cgroup; ln -s $B/dir sys/firmware", true),
    // Our own files in /etc go where the link leads to in the tree.
    ("rm -f etc/hosts; ln -s $B/file etc/hosts", true),
    ("rm -f etc/resolv.conf; ln -s ../../../../../../../$B/file etc/resolv.conf", true),
    ("rm -f etc/hostname; ln -s $B/none etc/hostname", true),
    ("rm -f etc/hosts; ln -s hosts etc/hosts", false),
    ("rm -f etc/hosts; ln -s /proc/1/root/$B/file etc/hosts", false),
    ("rm -f etc/hosts; ln -s /proc/self/fd/8/file etc/hosts", false),
    ("rm -f etc/hosts; mkdir etc/hosts", false),
    ("rm -f etc/hosts; mkfifo etc/hosts", true),
    ("rm -f etc/resolv.conf; mknod etc/resolv.conf c 1 5 || mkfifo etc/resolv.conf", true),
    ("mv etc real; ln -s real etc", true),
    ("mv etc real; ln -s /$B/../../../../../../../../../real etc", true),
    ("rm -rf etc; ln -s $B etc", true),
    ("rm -rf etc; ln -s /proc etc", true),
    ("rm -rf etc; ln -s /proc/self/fd/8 etc", true),
    ("rm -rf etc; : >etc", true),
    // Who is root there is looked up in the tree, in files of a sane size.
    ("rm -f etc/passwd; mkfifo etc/passwd", false),
    (
        "rm -f etc/passwd; ln -s /dev/zero etc/passwd; mkdir -p dev; mknod dev/zero c 1 5 || mkfifo dev/zero",
        false,
    ),
    ("rm -f etc/passwd; truncate -s 1G etc/passwd", false),
    ("rm -f etc/group; mkdir etc/group", false),
    ("rm -f etc/group; mkfifo etc/group", false),
    ("rm -f etc/passwd; ln -s /proc/self/fd/8/file etc/passwd", true),
    // A volume's place, and the working directory.
    ("rm -rf v; ln -s $B/dir v", true),
    ("rm -rf v; ln -s ../../../../../../../../$B/none v", true),
    ("rm -rf v; ln -s /proc/self/fd/8 v", false),
    ("rm -rf v; ln -s /proc/1/cwd v", false),
    ("rm -rf v; mkfifo v", false),
    ("rm -rf w; ln -s $B/dir w", true),
    ("rm -rf w; ln -s $B/none/deeper w", true),
    ("rm -rf w; ln -s /proc/self/fd/8 w", false),
    ("rm -rf w; ln -s /proc/self/cwd/../.. w", false),
    ("rm -rf w; mkfifo w", false),
];

#[test]
fn a_tree_is_nothing_but_a_tree() {
    of_either_user(|t| {
        bundle(t, ".");
        let check = bait(t);
        let mut script = String::from(
            "export B=$PWD/bait; mkdir volume; mv b/rootfs tree
             try() { code=$1; shift; timeout 20 ctr-spawn \"$@\" true 8<bait >out 2>err; case $? in $code) ;; *) echo \"$number $*: $?\"; cat err;; esac
                 [ $(wc -l <err) -lt 3 ] || cat err; }\n",
        );
        for (number, (change, starts)) in TREES.iter().enumerate() {
            let code = if *starts { 0 } else { 125 };
            script += &format!(
                "number='{change}'; rm -rf b/rootfs; cp -a tree b/rootfs
                 (cd b/rootfs; mkdir -p .$B/dir; echo inside >.$B/file; {change}) 2>/dev/null
                 try {code} --rootfs b/rootfs -v $PWD/volume:/v -w /w # {number}\n"
            );
            // A bundle has neither users nor names to look up, and mounts of its own.
            if !change.contains("etc") {
                script += &format!("try {code} --bundle b -v $PWD/volume:/v -w /w\n");
            }
        }
        script += check;
        script += "ls -A volume";
        t.sh(&script).prints("");
    });
}

#[test]
fn an_image_is_nothing_but_a_tree() {
    // The same places as layers, where no overlay is asked what they are on the host.
    for (change, code) in [
        ("ln -s /etc proc; ln -s /etc sys; mkdir dev", 125),
        ("rm -f etc/hosts; ln -s /proc/1/root/etc/passwd etc/hosts", 125),
        ("rm -f etc/passwd; mkfifo etc/passwd", 125),
        (
            "ln -s ../run/resolvconf/resolv.conf etc/resolv.conf; ln -s /etc/../../../usr/lib/os etc/hosts",
            0,
        ),
        ("mkdir dev; mkfifo dev/null; ln -s /etc/passwd dev/console", 0),
    ] {
        let layer = format!("mkdir -p etc; {change}; {PACK}");
        let config = json!({ "Env": [PATH], "Cmd": ["true"] });
        let image = Image::new(&[&busybox_layer(), &layer], &config);
        for t in [Sandbox::new(), Sandbox::new().as_user()] {
            t.store(&image, "odd");
            let check = bait(&t);
            let run = t.sh(&format!("ctr-spawn --rm odd 8<bait 2>err; echo $?; {check}"));
            assert_eq!(String::from_utf8_lossy(&run.stdout), format!("{code}\n"), "{change}");
        }
    }
}

#[test]
fn a_terminal_is_the_containers_own_whatever_the_tree_has() {
    let t = sandbox();
    bundle(&t, ".process.terminal = true");
    let check = bait(&t);
    t.sh(&format!(
        "mkdir -p b/rootfs/dev/pts; ln -s $PWD/bait/file b/rootfs/dev/pts/0; ln -s $PWD/bait/file b/rootfs/dev/console
         ln -s $PWD/bait/file b/rootfs/dev/ptmx
         script -qec 'ctr-spawn --bundle b sh -c \"tty; echo x >/dev/console; stat -c %t:%T /dev/console\"' /dev/null </dev/null | tr -d '\\r' | sed 's/\\^@//'
         {check}"
    ))
    .prints("/dev/pts/0\nx\n88:0\n");
    // Without a devpts and a /dev of its own there is nothing to take a terminal from.
    bundle(
        &t,
        ".process.terminal = true | .mounts |= map(select(.destination | startswith(\"/dev\") | not))",
    );
    t.sh(&format!(
        "mkdir -p b/rootfs/dev/pts; ln -s /proc/1/root/dev/ptmx b/rootfs/dev/pts/ptmx
         script -qec 'ctr-spawn --bundle b true; echo $?' /dev/null </dev/null | tail -1 | tr -d '\\r'
         {check}"
    ))
    .prints("125\n");
}

#[test]
fn the_state_of_containers_is_nobody_elses() {
    if lacks(&["root", "setpriv"]) {
        return;
    }
    let t = with_probe(Sandbox::with_image("app"));
    // Somebody else's set-user-ID programs lie below, and upper directories that anybody may write to.
    t.sh("export TARE_ROOT=$PWD/deep/store; mkdir deep; cp -a ../tare/images deep/; mkdir -p -m 755 deep
          ctr-spawn --root $PWD/deep/store --pull never app true 2>/dev/null; mkdir -p deep/store/images; cp -a deep/images deep/store/
          ctr-spawn --name kept app sh -c 'cp /bin/busybox /bin/su2; chmod 4755 /bin/su2; mkdir -m 777 /open'
          find deep/store -name su2 -perm -4000 | wc -l
          stat -c %a deep/store deep/store/containers deep/store/containers/[0-9a-f]* deep/store/layers
          setpriv --reuid 12345 --regid 12345 --clear-groups find deep/store deep/store/containers deep/store/layers 2>/dev/null")
        .ends_with("1\n700\n700\n700\n700\ndeep/store\n");
}
