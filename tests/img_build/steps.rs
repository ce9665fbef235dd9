//! RUN: what a step sees, what it leaves, and what nobody keeps.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fs::File;
use std::sync::atomic::{AtomicBool, Ordering};

use sandbox::{Sandbox, lacks};

fn run(t: &Sandbox, lines: &str, flags: &str) -> String {
    t.write("Dockerfile", format!("FROM base\n{lines}\n"));
    let output = "sed -n 's/^\\[[0-9a-z ]*\\/[0-9]*\\] | //p' ../said";
    t.sh(&format!("img-build --progress plain --no-cache -t app {flags} . 2>../said >../out; {output}; tail -1 ../said | grep -v '^\\['; :")).text()
}

#[test]
fn a_step_has_dockers_surroundings() {
    let t = Sandbox::with_image("base");
    assert_eq!(
        run(
            &t,
            "RUN id -u; pwd; echo $HOME $0; umask; hostname; grep Cap[PEB] /proc/self/status | cut -f2",
            ""
        ),
        "0\n/\n/root /bin/sh\n0022\nbuildkitsandbox\n00000000a80425fb\n00000000a80425fb\n00000000a80425fb\n"
    );
    assert_eq!(
        run(&t, "ENV A=1\nARG B=2\nARG C\nRUN env | grep -v -e PWD -e SHLVL | sort", ""),
        "A=1\nB=2\nHOME=/root\nPATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\nSOURCE_DATE_EPOCH=0\n"
    );
    assert_eq!(
        run(&t, "USER 5:6\nWORKDIR /w\nRUN [\"id\"]\nRUN touch x && stat -c %u:%g x", ""),
        "uid=5 gid=6 groups=6\n5:6\n"
    );
    assert_eq!(run(&t, "RUN --network=none ls /sys/class/net; cat", ""), "lo\n");
    // Of both spellings of a proxy the small one counts, for both.
    assert_eq!(
        run(
            &t,
            "RUN env | grep -i proxy | sort",
            "--build-arg HTTP_PROXY=q --build-arg http_proxy=r --build-arg NO_PROXY=s"
        ),
        "HTTP_PROXY=r\nNO_PROXY=s\nhttp_proxy=r\nno_proxy=s\n"
    );
    assert_eq!(
        run(
            &t,
            "RUN grep -w here /etc/hosts; df -k /dev/shm | tail -1 | tr -s ' ' | cut -d' ' -f2; ulimit -n",
            "--add-host here:10.1.2.3 --shm-size 2m --ulimit nofile=99"
        ),
        "10.1.2.3\there\n2048\n99\n"
    );
}

/// Opens the mount namespace of every process that comes, and keeps it open.
fn look_at_everybody(until: &AtomicBool) {
    let mut seen = HashMap::new();
    while !until.load(Ordering::Relaxed) {
        for entry in std::fs::read_dir("/proc").unwrap().flatten() {
            if let Entry::Vacant(new) = seen.entry(entry.file_name())
                && let Ok(namespace) = File::open(entry.path().join("ns/mnt"))
            {
                new.insert(namespace);
            }
        }
    }
}

#[test]
fn who_looks_at_a_step_changes_nothing() {
    if lacks(&["root"]) {
        return;
    }
    let t = Sandbox::with_image("base");
    t.write("Dockerfile", "FROM base\nRUN sleep 0.2; echo x >/x\n");
    let first = t.sh("img-build -q .").text();
    let until = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| look_at_everybody(&until));
        for _ in 0..3 {
            let again = t.sh("img-build -q --no-cache .");
            let same = again.stdout == first.as_bytes();
            until.store(!same, Ordering::Relaxed); // before this thread panics, or the other never ends
            again.prints(&first);
        }
        until.store(true, Ordering::Relaxed);
    });
}

#[test]
fn here_documents_are_scripts_and_files() {
    let t = Sandbox::with_image("base");
    assert_eq!(run(&t, "RUN <<E\necho a\necho b\nE", ""), "a\nb\n");
    assert_eq!(run(&t, "RUN <<E sh\necho c\nE", ""), "c\n");
    assert_eq!(run(&t, "RUN <<E\n#!/bin/cat\nd\nE", ""), "#!/bin/cat\nd\n");
    assert_eq!(run(&t, "COPY <<A <<B /x/\n1\nA\n2\nB\nRUN cat /x/A /x/B", ""), "1\n2\n");
}

#[test]
fn a_step_that_fails_is_named_with_its_status_and_leaves_no_image() {
    let t = Sandbox::with_image("base");
    assert_eq!(
        run(&t, "RUN echo before; exit 7", ""),
        "before\nimg-build: Dockerfile:2: RUN: exit status 7\n"
    );
    t.sh("cat ../out; img-ls -q | cut -d@ -f1").prints("base:latest\n");
    assert!(run(&t, "RUN [\"/nothing\"]", "").contains("img-build: Dockerfile:2: RUN: /nothing: "));
    assert_eq!(
        run(&t, "RUN sh -c 'kill -9 $$'; exit $?", ""),
        "Killed\nimg-build: Dockerfile:2: RUN: exit status 137\n"
    );
    // In silence, what it wrote is told all the same.
    t.write("Dockerfile", "FROM base\nRUN echo why; false\n");
    t.sh("img-build -q .").fails("why\nimg-build: Dockerfile:2: RUN: exit status 1\n");
}

#[test]
fn mounts_are_there_for_the_step_and_in_no_layer() {
    let t = Sandbox::with_image("base");
    t.sh("mkdir sub; echo in >sub/f; echo ignored >no; echo no >.dockerignore").is_silent();
    assert_eq!(
        run(&t, "RUN --mount=type=bind,target=/m ls /m; touch /m/x", ""),
        "Dockerfile\nsub\ntouch: /m/x: Read-only file system\nimg-build: Dockerfile:2: RUN: exit status 1\n"
    );
    assert_eq!(
        run(&t, "RUN --mount=type=bind,source=sub,target=/m,rw echo out >/m/f && cat /m/f", ""),
        "out\n"
    );
    t.sh("cat sub/f").prints("in\n");
    assert_eq!(
        run(
            &t,
            "FROM base AS a\nRUN echo a >/a\nFROM base\nRUN --mount=from=a,target=/m cat /m/a",
            ""
        ),
        "a\n"
    );
    assert_eq!(run(&t, "RUN --mount=type=cache,target=/c,id=x echo 1 >>/c/n; cat /c/n", ""), "1\n");
    assert_eq!(
        run(
            &t,
            "RUN --mount=type=cache,target=/d,id=x cat /d/n\nRUN --mount=type=tmpfs,target=/t,size=64k touch /t/x; df -k /t | tail -1 | tr -s ' ' | cut -d' ' -f2",
            ""
        ),
        "1\n64\n"
    );
    t.sh("ctr-spawn --rm app sh -c 'ls -d /c /d /m /t' 2>/dev/null").outputs("", "", 1);
    assert!(run(&t, "RUN --mount=type=tmpfs,target=. true", "").contains("hint: target=/path"));
}

#[test]
fn a_device_is_missed_by_who_requires_it() {
    let t = Sandbox::with_image("base");
    t.write("Dockerfile", "FROM base\nRUN --device=vendor/gpu=all echo done\n");
    t.sh(
        "img-build . 2>&1 >out | grep -c -e 'left out: a step cannot be given devices' -e '| done'",
    )
    .prints("2\n");
    t.write("Dockerfile", "FROM base\nRUN --device=vendor/gpu=all,required echo done\n");
    t.sh("img-build -q .").fails(
        "img-build: Dockerfile:2: RUN: --device: vendor/gpu=all: a step cannot be given devices\n\
         hint: without required it is done without\n",
    );
}

#[test]
fn a_secret_is_seen_by_its_step_and_kept_by_nothing() {
    let t = Sandbox::with_image("base");
    t.sh("printf xyzzy-of-a-file >s").is_silent();
    let lines = "RUN --mount=type=secret,id=f cat /run/secrets/f | wc -c\n\
        RUN --mount=type=secret,id=e,env=TOKEN test -n \"$TOKEN\" && test ! -e /run/secrets/e\n\
        RUN ls /run/secrets; env | grep -c TOKEN; true";
    t.write("Dockerfile", format!("FROM base\n{lines}\n"));
    t.sh("E=xyzzy-of-a-variable img-build --explain -t app --secret id=f,src=s --secret id=e,env=E . >out 2>said; sed -n 's/^[^ ]* | //p' said")
        .prints("15\nls: /run/secrets: No such file or directory\n0\n");
    t.sh("grep -r xyzzy out said $TARE_ROOT $TARE_RUN; img-save app | tar -xO | gzip -dc 2>/dev/null | grep -c xyzzy").outputs("0\n", "", 1);
    t.write("Dockerfile", "FROM base\nRUN --mount=type=secret,id=x,required cat /run/secrets/x\n");
    t.sh("img-build -q .").says("Dockerfile:2: RUN: ").exits(1);
}

#[test]
fn who_somebody_is_depends_on_who_asks() {
    let t = Sandbox::with_image("base");
    t.sh("mkdir c; echo 1 >c/f").is_silent();
    t.write(
        "c/Dockerfile",
        "FROM base\nCOPY --chown=app:ghosts f /a\nCOPY --chown=ghost:staff f /b\nUSER 1234\nWORKDIR /c\n\
         USER app:staff\nWORKDIR /d\nUSER ghost\nWORKDIR /e\nUSER :50\n\
         RUN stat -c %u:%g /a /b /c /d /e; id -u; id -g\n",
    );
    t.sh("img-build c >out 2>said; sed -n 's/^.*\\] | //p' said; sed -n 's/^.*warning: //p' said")
        .prints(
            "1000:1000\n0:50\n1234:1234\n1000:50\n0:0\n0\n50\n\
         --chown=app:ghosts: the image has no ghosts: 1000 instead\n\
         --chown=ghost:staff: the image has no ghost: 0 instead\n",
        );
    t.write("c/Dockerfile", "FROM scratch\nCOPY --chown=app f /\n");
    t.sh("img-build c 2>&1 >out | grep -c 'warning: --chown=app: .*: 0 instead'").prints("1\n");
    t.write("c/Dockerfile", "FROM base\nCOPY --link --chown=app f /\n");
    t.sh("img-build -q c").says("there is no image to look it up in").exits(1);
}
