//! What a step may use, and what it may do.

use std::path::Path;

use sandbox::{Sandbox, lacks, skip};

/// What a step reads its limit of memory from, and that of memory and swap: version 1, then 2.
const SHOW: &str = "RUN cd /sys/fs/cgroup; cat memory/memory.limit_in_bytes memory/memory.memsw.limit_in_bytes memory.max memory.swap.max 2>/dev/null; :";

/// A process that has so many MiB.
fn eat(mebibytes: u32) -> String {
    format!("dd if=/dev/zero of=/dev/null bs={mebibytes}M count=1 2>/dev/null")
}

/// Tells whether a limit of memory cannot be applied here.
fn lacks_memory() -> bool {
    let v1 = Path::new("/sys/fs/cgroup/memory/memory.limit_in_bytes").exists();
    let v2 = std::fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").unwrap_or_default();
    let there = v1 || v2.split_whitespace().any(|controller| controller == "memory");
    if !there {
        skip("needs the memory controller of cgroups");
    }
    !there || lacks(&["root"])
}

#[test]
fn a_step_has_the_memory_that_it_is_given() {
    if lacks_memory() {
        return;
    }
    let t = Sandbox::with_image("base");
    let output = "sed -n 's/^.*\\] | //p' said";
    t.write("Dockerfile", format!("FROM base\n{SHOW}\n"));
    let unified = Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
    for (flags, both) in [
        // Docker: as much swap again.
        ("-m 64m", "134217728"),
        ("--memory 64M --memory-swap 0", "134217728"),
        ("-m 65536k --memory-swap 65m", "68157440"),
        // Whole pages.
        ("-m 67108865b --memory-swap 67108867", "67108864"),
    ] {
        let both: u64 =
            if unified { both.parse::<u64>().unwrap() - (64 << 20) } else { both.parse().unwrap() };
        t.sh(&format!("img-build --no-cache {flags} . >out 2>said; {output}"))
            .prints(&format!("67108864\n{both}\n"));
    }
    t.write("Dockerfile", format!("FROM base\nRUN {}; echo fine\n", eat(128)));
    t.sh(&format!("img-build -m 64m . >out 2>said; {output}; grep -c warning said"))
        .prints("fine\n1\n");
    // What a step may use is not what it depends on.
    t.sh("img-build -m 32m . 2>&1 >out | grep -c cached").prints("1\n");
    t.write("Dockerfile", format!("FROM base\nRUN {}\n", eat(128)));
    t.sh("img-build -q -m 64m .")
        .says("img-build: Dockerfile:2: RUN: out of memory: the limit is 64 MiB")
        .exits(1);
    t.sh("img-build -q -m 512m . >out").is_silent();
    t.write("Dockerfile", "FROM base\nRUN exit 3\n");
    t.sh("img-build -q -m 64m .").fails("img-build: Dockerfile:2: RUN: exit status 3\n");
}

#[test]
fn a_limit_that_is_none_is_bad_usage() {
    let t = Sandbox::with_image("base");
    t.write("Dockerfile", "FROM base\nRUN true\n");
    for (flags, why) in [
        ("-m 5m", "--memory: 5242880 bytes: it takes 6m at least"),
        ("--memory-swap 10m", "--memory-swap: it takes --memory as well"),
        ("-m 10m --memory-swap 9m", "--memory-swap: it is memory and swap, and less than --memory"),
        ("-m 10q", "invalid value '10q' for '--memory <SIZE>': not a size (64m, 1.5g)"),
        ("-m 10m --memory-swap -2", "not a size"),
    ] {
        t.sh(&format!("img-build -q {flags} .")).says(why).exits(2);
    }
    t.sh("img-build -q -m 0 --memory-swap 0 . >out").is_silent();
}

#[test]
fn a_limit_that_cannot_be_applied_is_refused_before_anything_is_done() {
    let t = Sandbox::with_image("base").as_user();
    if lacks(&["newuidmap"]) {
        return;
    }
    t.write("Dockerfile", "FROM nowhere.invalid/x\nRUN true\n");
    let run = t.sh("img-build -q -m 64m .").exits(1);
    let said = String::from_utf8_lossy(&run.stderr).into_owned();
    // Somebody may have given this user cgroups.
    if !said.contains("nowhere.invalid") {
        assert!(said.starts_with("img-build: --memory: cannot be applied: "), "{said}");
        assert!(said.contains("\nhint: to let it be applied: "), "{said}");
    }
}

#[test]
fn no_cgroup_outlives_a_build_however_that_ends() {
    if lacks_memory() {
        return;
    }
    let t = Sandbox::with_image("base");
    t.write("Dockerfile", "FROM base\nRUN echo here; sleep 1003\n");
    let start = "rm -f said; { exec env --default-signal=INT img-build -m 64m . >out 2>said; } &
         while ! grep -q '| here' said 2>/dev/null; do sleep 0.02; done
         find /sys/fs/cgroup -path \"*/tare/$(ls $TARE_ROOT/containers/.build)\" >cgroups; test -s cgroups || echo none";
    let left = "ls -d $(cat cgroups) 2>/dev/null | wc -l";
    for signal in ["INT", "TERM"] {
        t.sh(&format!("{start}; kill -{signal} $!; wait $! 2>/dev/null; {left}")).prints("0\n");
    }
    t.sh(&format!("{start}; kill -9 $!; wait $! 2>/dev/null; {left}")).prints("1\n");
    t.write("Dockerfile", "FROM base\nRUN true\n");
    t.sh(&format!("img-build -q . >out; {left}")).prints("0\n");
}

/// What a step of `lines` prints.
fn said(t: &Sandbox, lines: &str, flags: &str) -> String {
    t.write("Dockerfile", format!("FROM base\n{lines}\n"));
    let output = "sed -n 's/^.*\\] | //p; /^img-build/p' said";
    t.sh(&format!("img-build {flags} . 2>said >out; {output}")).text()
}

#[test]
fn an_insecure_step_may_what_the_builder_may() {
    let mut t = Sandbox::with_image("base");
    if nix::unistd::geteuid().is_root() {
        may_what_the_builder_may(&t, true);
        t = Sandbox::with_image("base").as_user();
    }
    if !lacks(&["newuidmap"]) {
        may_what_the_builder_may(&t, false);
    }
}

fn may_what_the_builder_may(t: &Sandbox, root: bool) {
    let status = |lines: &str| {
        let show = "grep -e CapEff -e CapBnd -e Seccomp: /proc/self/status | cut -f2";
        said(t, &format!("{lines}\nRUN --security=insecure {show}"), "--allow security.insecure")
    };
    let seccomp = t.sh("grep Seccomp: /proc/self/status | cut -f2").text();
    // In a user namespace of his own, an ordinary user has all.
    let namespace = if root { "" } else { "unshare --user --map-root-user" };
    let held = t.sh(&format!("{namespace} grep CapEff /proc/self/status | cut -f2")).text();
    assert_eq!(status(""), format!("{held}{held}{seccomp}"));
    assert_eq!(status("USER 7"), format!("{held}{held}{seccomp}"));
    let script = "RUN --security=insecure grep -c ' /proc/[^ ]* ' /proc/self/mountinfo; mkdir -p /m; busybox mount -t tmpfs t /m && echo mounted; (: >>/proc/sys/kernel/hostname) 2>&1 | grep -c Read-only; :";
    assert_eq!(said(t, script, "--allow security.insecure"), "0\nmounted\n0\n");
    if root {
        let script = "RUN --security=insecure mknod /n c 1 3 && echo x >/n && echo a device; rm /n";
        assert_eq!(said(t, script, "--allow security.insecure"), "a device\n");
    }
}

#[test]
fn nobody_but_the_builder_allows_a_step_more() {
    let t = Sandbox::with_image("base");
    // Before a base is looked for.
    t.write("Dockerfile", "FROM nowhere.invalid/x\nRUN --security=insecure true\n");
    t.sh("img-build -q .").fails(
        "img-build: Dockerfile:2: RUN: --security=insecure: security.insecure is not allowed\n\
         hint: img-build --allow security.insecure, if whoever wrote that is to be trusted\n",
    );
    t.sh("img-build -q --allow network.host .").says("security.insecure is not allowed").exits(1);
    t.write("Dockerfile", "FROM nowhere.invalid/x\nRUN --network=host true\n");
    t.sh("img-build -q .").fails(
        "img-build: Dockerfile:2: RUN: --network=host: network.host is not allowed\n\
         hint: img-build --allow network.host, if whoever wrote that is to be trusted\n",
    );
    t.write("Dockerfile", "FROM base\nRUN --network=host true\n");
    t.sh("img-build -q --allow network.host . >out").is_silent();
    t.sh("img-build -q --network host . >out").is_silent();
    t.sh("img-build -q --network none .").exits(1);
    t.sh("img-build -q --allow device .")
        .says("img-build: --allow: device: nothing that can be allowed\nhint: security.insecure or")
        .exits(2);

    // Nor does an image, by what it has kept for those on top of it.
    t.write("Dockerfile", "FROM base\nONBUILD RUN --security=insecure touch /bait\n");
    t.sh("img-build -q -t trap . >out").is_silent();
    t.write("Dockerfile", "FROM trap\n");
    t.sh("img-build -q .")
        .says("img-build: Dockerfile:1: RUN: --security=insecure: security.insecure is not allowed")
        .exits(1);
    t.sh("img-build -q --allow security.insecure . >out").is_silent();
    t.write(
        "Dockerfile",
        "FROM base AS trap\nONBUILD RUN --security=insecure touch /bait\nFROM trap\n",
    );
    t.sh("img-build -q .").says("security.insecure is not allowed").exits(1);
    // What a step may is what its result depends on.
    t.write("Dockerfile", "FROM base\nRUN true\n");
    t.sh("img-build -q . >out").is_silent();
    t.write("Dockerfile", "FROM base\nRUN --security=insecure true\n");
    t.sh("img-build --allow security.insecure . 2>&1 >out | grep -c cached").outputs("0\n", "", 1);
    t.sh("img-build -q .").exits(1);
}
