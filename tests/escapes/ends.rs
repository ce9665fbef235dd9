//! How containers end that do not want to, or whose supervisor ended first: all of it, and soon.

use std::time::Duration;

use sandbox::{Sandbox, lacks, skip};

use super::races::patient;
use super::{PROBE, bundle, of_either_user, sandbox};

/// Waits until a container has started, and has its supervisor's id in `$pid` and its own in `$inner`.
const STARTED: &str = "pid=$!; until inner=$(jq -e .pid $TARE_ROOT/containers/[0-9a-f]*/status.json 2>/dev/null); do sleep .01; done";

#[test]
fn a_container_dies_with_a_killed_supervisor() {
    of_either_user(|t| {
        for options in ["", "--init", "--rm", "-u app"] {
            t.sh(&format!(
                "ctr-spawn {options} app sh -c 'trap \"\" HUP TERM; sleep 1011 & sleep 1012; sleep 1013' & {STARTED}
                 kill -9 $pid; wait $pid 2>/dev/null; while pgrep -f '^sleep 101[123]' >/dev/null; do sleep .01; done
                 ctr-spawn --rm app true; rm -rf $TARE_ROOT/containers/[0-9a-f]*; ls -A $TARE_ROOT/containers/.rm $TARE_ROOT/containers/.run 2>/dev/null | grep -c '[0-9a-f]\\{{64\\}}'"
            ))
            .outputs("0\n", "", 1);
        }
    });
}

#[test]
fn one_that_the_kernel_lets_live_dies_with_the_next_tool() {
    of_either_user(|t| {
        // By becoming somebody else, or by asking for it, a process leaves its parent's death behind.
        for (options, command) in [
            ("--rm", "/probe as 1000 /bin/sleep 1021"),
            ("--rm", "/probe survive /bin/sleep 1021"),
            ("", "/probe as 1000 /bin/sleep 1021"),
            ("--rm -u app", "/probe survive /bin/sleep 1021"),
        ] {
            t.sh(&format!(
                "ctr-spawn {options} {PROBE} app {command} & {STARTED}
                 until pgrep -f '^/bin/sleep 1021' >/dev/null; do sleep .01; done
                 kill -9 $pid; wait $pid 2>/dev/null; sleep .1; pgrep -f '^/bin/sleep 1021' | wc -l
                 ctr-spawn --rm app true; while pgrep -f '^/bin/sleep 1021' >/dev/null; do sleep .01; done
                 ls -A $TARE_ROOT/containers/.rm $TARE_ROOT/containers/.run 2>/dev/null | grep -c '[0-9a-f]\\{{64\\}}'
                 ls $TARE_ROOT/containers | wc -l; rm -rf $TARE_ROOT/containers/[0-9a-f]*"
            ))
            .prints(&format!("1\n0\n{}\n", u8::from(!options.contains("--rm"))));
        }
    });
}

/// A supervisor that is killed as its container starts has not written yet where its cgroup is.
#[test]
fn the_cgroup_of_one_that_wrote_nothing_is_removed() {
    if lacks(&["root", "jq"]) {
        return;
    }
    let t = sandbox();
    t.sh(&format!(
        "ctr-spawn --rm app sleep 1014 & {STARTED}
         group=$(jq -r .cgroups[] $TARE_ROOT/containers/[0-9a-f]*/status.json); [ -d $group ] || echo none
         kill -9 $inner; wait $pid; echo $?
         cd $TARE_ROOT/containers; mkdir -p .run; n=0
         for mark in .rm .run; do
             n=$((n + 1)); id=$(printf '%032d%032d' $$ $n); mkdir $id; >$mark/$id
             until mkdir -p ${{group%/*}} && mkdir ${{group%/*}}/$id 2>/dev/null; do :; done
             sleep 1015 & echo $! >${{group%/*}}/$id/cgroup.procs
             ctr-spawn --rm app true
             wait $!; echo $?; ls -d ${{group%/*}}/$id 2>/dev/null; ls | wc -l; ls -A $mark | wc -l; rm -rf $id
         done"
    ))
    .prints("137\n137\n0\n0\n137\n0\n0\n");
}

#[test]
fn a_killed_process_is_told_by_its_signal() {
    of_either_user(|t| {
        for (options, signal, code) in
            [("", "KILL", 137), ("", "TERM", 143), ("--init", "KILL", 137), ("-u app", "ABRT", 134)]
        {
            // Of all signals only this one gets through to the first process of a namespace; the others
            // have their effect by way of us.
            let to = if signal == "KILL" { "inner" } else { "pid" };
            t.sh(&format!(
                "ctr-spawn --name xx {options} app sleep 1031 & {STARTED}
                 kill -{signal} ${to}
                 wait $pid; echo $?; jq -c '[.exitCode, .signal, .pid]' $TARE_ROOT/containers/[0-9a-f]*/status.json
                 rm -rf $TARE_ROOT/containers/[0-9a-f]* $TARE_ROOT/containers/.names"
            ))
            .prints(&format!("{code}\n[{code},{},null]\n", code - 128));
        }
    });
}

#[test]
fn an_init_gets_its_signals_and_passes_them_on() {
    of_either_user(|t| {
        for signal in [1, 2, 3, 10, 15] {
            t.sh(&format!(
                "env --default-signal=INT,QUIT ctr-spawn --rm {PROBE} app /probe waits >out & pid=$!
                 until grep -q ready out 2>/dev/null; do sleep .01; done; kill -{signal} $pid; wait $pid; echo $?; cat out; rm out"
            ))
            .prints(&format!("5\nready\ngot {signal}\n"));
            t.sh(&format!(
                "env --default-signal=INT,QUIT ctr-spawn --rm --init app sh -c 'trap \"echo got; exit 4\" {signal}; echo ready; while :; do sleep .05; done' >out & pid=$!
                 until grep -q ready out 2>/dev/null; do sleep .01; done; kill -{signal} $pid; wait $pid; echo $?; cat out; rm out"
            ))
            .prints("4\nready\ngot\n");
        }
    });
}

#[test]
fn an_init_passes_real_time_signals_on_and_names_them() {
    of_either_user(|t| {
        t.sh("ctr-spawn --rm --init app sh -c 'trap \"echo got; exit 4\" 37; echo ready; while :; do sleep .05; done' >out & pid=$!
              until grep -q ready out 2>/dev/null; do sleep .01; done; kill -37 $pid; wait $pid; echo $?; cat out; rm out")
            .prints("4\nready\ngot\n");
        // Whoever may signal process 1 from within as well.
        t.sh("ctr-spawn --rm --init app sh -c 'trap \"echo got; exit 4\" 64; kill -64 1; while :; do sleep .05; done'")
            .outputs("got\n", "", 4);
        t.sh("ctr-spawn --rm --init app sh -c 'kill -37 $$'").exits(165);
        t.sh("ctr-spawn --rm --init app sh -c 'kill -9 $$'").exits(137);
    });
}

#[test]
fn a_process_that_is_killed_for_memory_is_one_that_was_killed() {
    if lacks(&["root"]) {
        return;
    }
    let group = "/sys/fs/cgroup/memory";
    if !std::path::Path::new(group).join("memory.limit_in_bytes").exists() {
        return skip("needs the memory controller of cgroups, version 1");
    }
    let t = sandbox();
    t.sh(&format!(
        "group={group}/test.$$; mkdir $group; echo 64M >$group/memory.limit_in_bytes
         (echo 0 >$group/tasks; exec ctr-spawn --name xx {PROBE} app /probe eat); echo $?
         jq -c '[.exitCode, .signal]' $TARE_ROOT/containers/[0-9a-f]*/status.json
         grep -o 'oom_kill [1-9]' $group/memory.oom_control; rmdir $group"
    ))
    .prints("137\n[137,9]\noom_kill 1\n");
}

#[test]
fn a_bomb_leaves_the_host_its_processes_and_ends_at_once() {
    if lacks(&["root"]) {
        return;
    }
    let t = sandbox();
    for pid_namespace in [true, false] {
        let namespaces = match pid_namespace {
            true => ".",
            false => ".linux.namespaces |= map(select(.type != \"pid\"))",
        };
        bundle(&t, &format!(".linux.resources.pids.limit = 150 | {namespaces}"));
        // Process 1 is killed at the second try, and with it all. Without one a signal is all that can be
        // sent; if we are killed, the kernel kills the first process, and the next tool the others.
        let (end, expected) = match pid_namespace {
            true => (
                "start=$(date +%s%3N); kill -INT $pid; sleep .3; kill -INT $pid; wait $pid 2>/dev/null; echo $?
                 [ $(($(date +%s%3N) - start)) -lt 4000 ] || echo slow",
                "130\n0\n",
            ),
            false => ("kill -9 $pid; wait $pid 2>/dev/null; ctr-spawn --rm app true; while pgrep -f '^/probe bomb' >/dev/null; do sleep .01; done", "0\n"),
        };
        let run = t.sh(&format!(
            "env --default-signal=INT ctr-spawn {PROBE} --bundle b /probe bomb >out 2>&1 & {STARTED}
             group=$(jq -r .cgroups[] $TARE_ROOT/containers/[0-9a-f]*/status.json)
             until [ $(cat $group/pids.current) = 150 ]; do sleep .05; done
             for i in 1 2 3 4 5 6 7 8 9 10; do /bin/true || echo none; done
             {end}
             ls -d $group 2>/dev/null; rm -f out; pgrep -f '^/probe bomb' | wc -l"
        ));
        run.prints(expected);
    }
}

/// Leaves so many orphans to an init.
pub(super) fn orphans(t: &Sandbox, number: u64) {
    t.sh(&format!("ctr-spawn --rm --init {PROBE} app /probe orphans {number}"))
        .prints("2 processes\n");
}

#[test]
fn orphans_are_reaped() {
    orphans(&patient(false), 1000);
    orphans(&patient(true), 300);
}

#[test]
fn a_terminal_that_is_gone_ends_it_or_costs_nothing() {
    of_either_user(|t| {
        for (options, command, ends) in [
            ("-it", "sh -c \"touch /w/ready; exec sleep 1041\"", true),
            ("-t", "sh -c \"touch /w/ready; exec sleep 1041\"", true),
            ("-i", "sh -c \"touch /w/ready; exec sleep 1041\"", true),
            (
                "-it",
                "sh -c \"trap : HUP; touch /w/ready; while :; do sleep .05; echo x; done\"",
                false,
            ),
            (
                "-it --init",
                "sh -c \"trap : HUP; touch /w/ready; while :; do sleep .05; done\"",
                false,
            ),
        ] {
            // One that ends may take its time for it.
            let tries = if ends { 200 } else { 3 };
            let run = t.sh(&format!(
                "rm -f ready; mkfifo in; script -qec 'exec ctr-spawn --rm {options} -v $PWD:/w app {command}' /dev/null <in >/dev/null 2>&1 & exec 9>in; rm in
                 until [ -e ready ]; do sleep .01; done
                 pid=$(pgrep -f \"^ctr-spawn --rm {options} -v $PWD:/w app\" | head -1); sleep .1
                 kill -9 $!; wait $! 2>/dev/null
                 for try in $(seq {tries}); do grep -q '^State:.[^Z]' /proc/$pid/status 2>/dev/null || break; sleep .1; done
                 if grep -q '^State:.[^Z]' /proc/$pid/status 2>/dev/null; then
                     ticks=$(awk '{{ print $14 + $15 }}' /proc/$pid/stat); sleep 1
                     [ $(($(awk '{{ print $14 + $15 }}' /proc/$pid/stat) - ticks)) -lt 20 ] && echo idle || echo busy
                     kill -9 $pid
                 else echo ended; fi
                 ctr-spawn --rm app true"
            ));
            let text = String::from_utf8_lossy(&run.stdout);
            let expected = if ends { "ended\n" } else { "idle\n" };
            assert_eq!(
                text,
                expected,
                "{options} {command}: {}",
                String::from_utf8_lossy(&run.stderr)
            );
        }
    });
}

#[test]
fn a_storm_of_resizes_is_weathered() {
    of_either_user(|t| {
        t.sh("script -qec 'stty rows 30 cols 70; ctr-spawn --rm -it app sh -c \"trap \\\"n=1\\\" WINCH; i=0; while [ \\$i -lt 200 ]; do i=\\$((i+1)); sleep .005; done; stty size\" & pid=$!
                until test -e $TARE_ROOT/containers/[0-9a-f]*/status.json; do sleep .01; done
                i=0; while [ $i -lt 2000 ]; do i=$((i+1)); [ $((i % 2)) = 0 ] && stty rows 40 cols 80; kill -WINCH $pid 2>/dev/null; done
                wait $pid; echo $?' /dev/null </dev/null | tr -d '\\r' | sed 's/^^@//' | tail -2")
            .prints("40 80\n0\n");
    });
}

#[test]
fn output_that_nobody_reads_keeps_nobody() {
    of_either_user(|t| {
        let run = t.sh("mkfifo out; sleep 1051 <>out & reader=$!
             script -qec 'ctr-spawn --rm -t app sh -c \"yes | head -c 300000\" >out' /dev/null </dev/null >/dev/null & script=$!
             until test -e $TARE_ROOT/containers/[0-9a-f]*/status.json; do sleep .01; done; sleep .5
             kill -TERM $(pgrep -f '^ctr-spawn --rm -t app'); wait $script; kill $reader");
        assert!(run.took < Duration::from_secs(30));
        run.exits(0);
    });
}

#[test]
fn what_a_container_leaves_is_removed_however_deep_it_is() {
    of_either_user(|t| {
        t.sh(&format!(
            "ulimit -n 64; ctr-spawn --rm {PROBE} -w /deep app /probe deep 3000; ls -A $TARE_ROOT/containers $TARE_ROOT/containers/.rm | grep -c '[0-9a-f]\\{{64\\}}'"
        ))
        .outputs("0\n", "", 1);
    });
}

#[test]
fn files_of_its_own_can_be_read_whatever_the_callers_mask() {
    of_either_user(|t| {
        t.sh("umask 077; ctr-spawn --rm -h box -u app app sh -c 'cat /etc/hostname; grep -c box /etc/hosts; wc -l </etc/resolv.conf >/dev/null; touch /tmp/x; stat -c %a /tmp/x /'")
            .prints("box\n1\n644\n755\n");
    });
}

/// System calls by which a container is made, in the order that one makes them for the first time.
///
/// Without rmdir(2): a cgroup that cannot be removed stays for a minute, until a later tool takes it for nobody's.
const CALLS: &[&str] = &[
    "clone3",
    "fsopen",
    "fsconfig",
    "fsmount",
    "move_mount",
    "open_tree",
    "mount_setattr",
    "mount",
    "setsid",
    "unshare",
    "memfd_create",
    "mknodat",
    "symlinkat",
    "openat2",
    "sethostname",
    "socket",
    "ioctl",
    "pivot_root",
    "umount2",
    "fchdir",
    "chdir",
    "getcwd",
    "keyctl",
    "setgroups",
    "setresgid",
    "setresuid",
    "capset",
    "prctl",
    "seccomp",
    "execveat",
    "execve",
    "mkdirat",
    "mkdir",
    "pidfd_open",
    "signalfd4",
    "waitid",
    "rename",
    "unlink",
    "pipe2",
    "fchmod",
    "dup3",
];

/// Has each call that makes a container fail, `each` of the times that it is made.
pub(super) fn failures(t: &Sandbox, each: impl Fn(usize) -> Vec<usize>) {
    if lacks(&["strace"]) {
        return;
    }
    let run = "ctr-spawn --rm -h box --init app true";
    let direct = "ctr-spawn --rm -h box app true";
    t.sh(&format!("{run} && {direct}")).is_silent();
    let mut tried = 0;
    let mut script = String::from(
        "try() { call=$1 when=$2 errno=$3; shift 3
             strace -f -qq -o /dev/null -e trace=$call -e signal=none -e inject=$call:error=$errno:when=$when \"$@\" >out 2>err; code=$?
             case $code in 0|125|126|127|1) ;; *) echo \"$call $when $errno: $code\"; cat err;; esac
             [ $code != 0 ] || [ ! -s out ] || echo \"$call $when $errno: out\"
             grep -q 'panicked' err && echo \"$call $when $errno panics\"
             case $call in unlink) ;; *)
                 [ -z \"$(ls $TARE_ROOT/containers; ls -A $TARE_ROOT/containers/.rm)\" ] || { echo \"$call $when $errno leaves something\"; ls -A $TARE_ROOT/containers/*; rm -rf $TARE_ROOT/containers; };; esac; }\n",
    );
    for (command, errno) in [(direct, "EPERM"), (run, "ENOMEM")] {
        let counts = t
            .sh(&format!(
                "strace -f -qq -o log -e trace={} -e signal=none {command} || exit 1; sed 's/^[0-9]* *//; s/(.*//' log | grep -v '<' | sort | uniq -c",
                CALLS.join(",")
            ))
            .text();
        for line in counts.lines() {
            let (count, call) = line.trim().split_once(' ').unwrap();
            for when in each(count.parse().unwrap()) {
                script += &format!("try {call} {when} {errno} {command}\n");
                tried += 1;
            }
        }
    }
    assert!(tried > 60, "{tried}");
    // A directory that could not be removed goes with the next.
    script += &format!("{direct}; ls $TARE_ROOT/containers; ls -A $TARE_ROOT/containers/.rm\n");
    t.sh(&script).is_silent();
}

#[test]
fn a_start_that_fails_leaves_nothing() {
    // The first, the last and one between: soak has them all.
    let some = |count: usize| {
        let mut which = vec![1, count / 2, count];
        which.retain(|when| *when > 0);
        which.dedup();
        which
    };
    failures(&patient(false), some);
}
