//! ctr-spawn: what a container is, how it ends, and what it cannot reach.

use std::fs;
use std::io::Write;
use std::process::Stdio;
use std::time::Duration;

use sandbox::Sandbox;

/// Returns a sandbox with a busybox image called `app`, which runs as root.
fn sandbox() -> Sandbox {
    Sandbox::with_image("app")
}

/// Both kinds of users, where there are both.
fn of_either_user(test: impl Fn(Sandbox)) {
    test(sandbox());
    test(sandbox().as_user());
}

/// Puts a bundle into `$PWD/b`, as `runc spec` would, with the image's tree; a jq program changes its config.
fn bundle(t: &Sandbox, jq: &str) {
    let script = format!(
        "img-unpack --rootfs app ./rootfs >/dev/null && mkdir -p b && rm -rf b/rootfs && mv rootfs b/ &&
         (cd b && rm -f config.json && runc spec &&
          jq '.process.terminal = false | .root.readonly = false | {jq}' config.json >c && mv c config.json)"
    );
    t.sh(&script).is_silent();
}

#[test]
fn a_command_runs_in_an_image() {
    of_either_user(|t| {
        t.sh("ctr-spawn --rm app echo hello").prints("hello\n");
        t.sh("ctr-spawn --rm --network none app sh -c 'id -u; id -g; pwd; echo $$'")
            .prints("0\n0\n/\n1\n");
    });
}

#[test]
fn the_exit_status_is_the_commands_own() {
    of_either_user(|t| {
        for (command, code) in [
            ("true", 0),
            ("sh -c 'exit 7'", 7),
            ("sh -c 'exit 255'", 255),
            // Process 1 cannot kill itself, but its child can.
            ("sh -c '(kill -9 $(exec sh -c \"echo \\$PPID\")); exit $?'", 137),
        ] {
            t.sh(&format!("ctr-spawn --rm app {command}")).exits(code);
        }
    });
}

#[test]
fn what_cannot_be_run_is_told_apart() {
    of_either_user(|t| {
        let table = [
            ("nosuch", 127, "No such file or directory (os error 2)"),
            ("/nosuch", 127, "No such file or directory (os error 2)"),
            ("/etc/passwd", 126, "Permission denied (os error 13)"),
            ("/etc", 126, "Permission denied (os error 13)"),
        ];
        for (command, code, why) in table {
            let stderr = format!("ctr-spawn: {command}: cannot run: {why}\n");
            t.sh(&format!("ctr-spawn --rm app {command}")).outputs("", &stderr, code);
        }
    });
    let t = sandbox();
    let make = "printf '#!/nosuch\\n' >/x; printf 'junk' >/y; chmod 755 /x /y; echo ok";
    bundle(&t, ".");
    t.sh(&format!("ctr-spawn --bundle b sh -c \"{make}\"")).prints("ok\n");
    t.sh("ctr-spawn --bundle b /x").exits(127);
    t.sh("ctr-spawn --bundle b /y").exits(126);
    t.sh("ctr-spawn --rm -w /nosuch/made app pwd").prints("/nosuch/made\n");
    t.sh("ctr-spawn --rm -v /nosuch:/x app true").exits(125);
    t.sh("ctr-spawn --rm --no-such app true").exits(125);
}

#[test]
fn stdin_is_the_containers_only_if_it_is_asked_for() {
    of_either_user(|t| {
        t.feed("a\nb\n", "ctr-spawn -i --rm app wc -l").prints("2\n");
        t.feed("a\nb\n", "ctr-spawn --rm app wc -l; cat").prints("0\na\nb\n");
        t.sh("printf '%s\\n' 1 2 3 | while read x; do ctr-spawn --rm app echo $x; done")
            .prints("1\n2\n3\n");
        t.feed("app\ndata\n", "ctr-spawn -i --rm - cat").prints("data\n");
    });
    let t = sandbox();
    t.sh("false | ctr-spawn --rm - true").outputs(
        "",
        "ctr-spawn: no image on stdin: did the command before this one fail?\n",
        125,
    );
}

#[test]
fn streams_are_kept_apart() {
    sandbox().sh("ctr-spawn --rm app sh -c 'echo out; echo err >&2'").outputs("out\n", "err\n", 0);
}

#[test]
fn a_container_has_its_own_names() {
    of_either_user(|t| {
        t.sh(
            "ctr-spawn --rm -h box app sh -c 'hostname; cat /etc/hostname; grep -c box /etc/hosts'",
        )
        .prints("box\nbox\n1\n");
        t.sh("FOO=secret ctr-spawn --rm app env | grep -c FOO").exits(1);
        t.sh("ctr-spawn --rm app sh -c 'ls /sys/class/net; grep -c : /proc/net/dev'")
            .prints("lo\n1\n");
    });
}

#[test]
fn nothing_is_left_of_a_container_that_is_to_be_removed() {
    of_either_user(|t| {
        let script = "ctr-spawn --rm app sh -c 'mkdir -p /a/b; touch /a/b/c; chmod 0 /a/b /a; rm /etc/passwd; mkdir /etc/passwd'
            ls -A $TARE_ROOT/containers $TARE_ROOT/containers/.rm";
        let root = t.path("tare/containers").display().to_string();
        t.sh(script).prints(&format!("{root}:\n.rm\n\n{root}/.rm:\n"));
    });
}

#[test]
fn a_container_that_stays_says_what_became_of_it() {
    let t = sandbox();
    t.sh("ctr-spawn --name web --cidfile id app sh -c 'exit 3'").exits(3);
    t.sh("jq -r '.exitCode, .name, .image, .rm, .pid' $TARE_ROOT/containers/$(cat id)/status.json")
        .prints("3\nweb\napp:latest\nfalse\nnull\n");
    t.sh("ctr-spawn --name web app true").exits(125).says("web: the container ");
    t.sh("ctr-spawn --cidfile id app true").exits(125).says("id: ");
}

#[test]
fn leftovers_of_a_killed_supervisor_are_collected_by_the_next() {
    let t = sandbox();
    let script = "ctr-spawn --rm --cidfile id app sleep 1000 & pid=$!
        while ! test -e $TARE_ROOT/containers/*/status.json; do sleep .01; done
        kill -9 $pid; wait $pid 2>/dev/null
        sleep .2; ls $TARE_ROOT/containers | wc -l
        ctr-spawn --rm app true; ls $TARE_ROOT/containers | wc -l";
    t.sh(script).prints("1\n0\n");
}

#[test]
fn one_that_was_killed_before_it_started_gives_its_name_back() {
    if sandbox::lacks(&["strace"]) {
        return;
    }
    let t = sandbox();
    t.sh("(strace -f -o /dev/null -e trace=signalfd4 -e inject=signalfd4:signal=KILL ctr-spawn --name early app true; :) 2>/dev/null
          ls $TARE_ROOT/containers | wc -l; ctr-spawn --name early app echo started
          ls $TARE_ROOT/containers | wc -l; jq -r .name $TARE_ROOT/containers/*/status.json")
        .prints("1\nstarted\n1\nearly\n");
}

#[test]
fn a_container_sees_three_descriptors_and_no_more() {
    of_either_user(|t| {
        t.sh("ctr-spawn --rm app sh -c 'ls /proc/self/fd | wc -l' 3</etc/passwd 4<. 7</dev/null")
            // The fourth is the directory that ls reads.
            .prints("4\n");
    });
}

#[test]
fn a_process_has_what_docker_gives_it_and_nothing_from_its_caller() {
    of_either_user(|t| {
        t.sh("trap '' INT PIPE; umask 077
              ctr-spawn --rm app grep -E '^(Cap|Seccomp:|NoNewPrivs|Sig(Ign|Blk)|Umask)' /proc/self/status")
            .prints(
                "Umask:\t0022\nSigBlk:\t0000000000000000\nSigIgn:\t0000000000000000\n\
                 CapInh:\t0000000000000000\nCapPrm:\t00000000a80425fb\nCapEff:\t00000000a80425fb\n\
                 CapBnd:\t00000000a80425fb\nCapAmb:\t0000000000000000\nNoNewPrivs:\t0\nSeccomp:\t2\n",
            );
        t.sh("ctr-spawn --rm -u 5:6 app sh -c 'id -u; id -g; grep -E \"^Cap(Prm|Eff|Inh|Amb)\" /proc/self/status'")
            .prints(
                "5\n6\nCapInh:\t0000000000000000\nCapPrm:\t0000000000000000\n\
                 CapEff:\t0000000000000000\nCapAmb:\t0000000000000000\n",
            );
    });
}

#[test]
fn the_host_is_out_of_reach() {
    of_either_user(|t| {
        t.write("bait", "bait");
        let bait = t.path("work/bait").display().to_string();
        t.sh(&format!(
            "ctr-spawn --rm app sh -c 'cat {bait} /..{bait} /proc/self/cwd/..{bait} 2>&1 | grep -c bait$; \
             ls -di / /.. | sort -u | wc -l; grep -c shared: /proc/self/mountinfo'"
        ))
        .outputs("0\n2\n0\n", "", 1);
    });
}

#[test]
fn no_device_opens_whoever_makes_it() {
    let t = sandbox();
    t.sh("disk=$(awk '$2 ~ /^[0-9]+$/ && $4 ~ /^(vda|sda|nvme0n1|loop0)$/ { print $1, $2; exit }' /proc/partitions)
          ctr-spawn --rm app sh -c \"mknod /dev/x b $disk; mknod /x b $disk; mknod /dev/shm/x b $disk
            for f in /dev/x /x /dev/shm/x; do head -c1 \\$f 2>&1 | grep -c denied; done
            echo >/dev/null; head -c1 /dev/zero | wc -c\"")
        .prints("1\n1\n1\n1\n");
}

#[test]
fn masked_files_are_empty_and_read_only_ones_stay_as_they_are() {
    of_either_user(|t| {
        t.sh("ctr-spawn --rm app sh -c 'cat /proc/keys /proc/timer_list | wc -c; ls -A /sys/firmware | wc -l
                (echo 1 >/proc/sys/kernel/panic) 2>/dev/null; echo $?; (echo x >/proc/sysrq-trigger) 2>/dev/null; echo $?'")
            .prints("0\n0\n1\n1\n");
    });
}

#[test]
fn an_image_cannot_say_what_the_kernels_directories_are() {
    for name in ["proc", "sys", "dev"] {
        let t = sandbox();
        bundle(&t, ".");
        fs::create_dir(t.path("work/bait")).unwrap();
        t.sh(&format!("rm -rf b/rootfs/{name}; ln -s /bait b/rootfs/{name}; mkdir b/rootfs/bait"))
            .is_silent();
        let said = format!(
            "ctr-spawn: /{name}: it is a symbolic link, where the container needs a directory: Too many levels of symbolic links (os error 40)\n"
        );
        t.sh("ctr-spawn --bundle b true").outputs("", &said, 125);
        t.sh("ls -A bait b/rootfs/bait").prints("b/rootfs/bait:\n\nbait:\n");
    }
}

#[test]
fn an_images_null_device_is_nobodys_mask() {
    let t = sandbox();
    // A /dev that the spec does not cover.
    bundle(&t, ".mounts |= map(select(.destination | startswith(\"/dev\") | not))");
    t.sh("mkdir -p b/rootfs/dev; echo host >bait; ln -s $PWD/bait b/rootfs/dev/null").is_silent();
    let run = t.sh("ctr-spawn --bundle b sh -c 'cat /proc/keys; echo x >/proc/keys'");
    assert_ne!(run.code, 0);
    t.sh("cat bait").prints("host\n");
}

#[test]
fn a_working_directory_is_in_the_container() {
    let t = sandbox();
    for dir in (3..20)
        .map(|fd| format!("/proc/self/fd/{fd}"))
        .chain(["/proc/self/cwd".into(), "/proc/1/root".into()])
    {
        t.sh(&format!("ctr-spawn --rm -w {dir} app pwd 9</etc")).exits(125);
    }
}

#[test]
fn our_own_program_cannot_be_written_to() {
    for option in ["", "--init"] {
        let t = sandbox();
        bundle(
            &t,
            ".process.capabilities |= map_values([\"CAP_SYS_PTRACE\", \"CAP_DAC_OVERRIDE\"])",
        );
        t.sh("printf '#!/proc/self/exe\\n' >b/rootfs/evil; chmod 755 b/rootfs/evil").is_silent();
        t.sh(&format!(
            "before=$(sha256sum $(command -v ctr-spawn))
             ctr-spawn {option} --bundle b /evil >/dev/null 2>&1
             ctr-spawn {option} --bundle b sh -c 'for p in /proc/[0-9]*; do (echo x >$p/exe) 2>/dev/null && echo written $p; done
                 exec 3</proc/1/exe; (echo x >/proc/self/fd/3) 2>/dev/null && echo written; cat /proc/1/cmdline | tr -d \"\\\\0\" | grep -c [-]-bund[l]e'
             test \"$before\" = \"$(sha256sum $(command -v ctr-spawn))\""
        ))
        .prints("0\n");
    }
}

#[test]
fn limits_never_lie() {
    let t = sandbox();
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    t.sh("ctr-spawn --rm app sh -c 'i=0; while [ $i -lt 3 ]; do sleep 0 & i=$((i+1)); done; wait; echo ok'")
        .prints("ok\n");
    bundle(&t, ".linux.resources.pids.limit = 5");
    let forks = "for i in 1 2 3 4 5 6 7 8; do sleep 1 & done 2>/dev/null; wait; echo ok";
    t.sh(&format!("ctr-spawn --bundle b sh -c '{forks}'")).exits(2);
    let memory = "/sys/fs/cgroup/memory/memory.limit_in_bytes";
    if std::path::Path::new(memory).exists() {
        bundle(
            &t,
            ".linux.resources = {pids: {limit: 7}, memory: {limit: 100000000, swap: 100000000}}",
        );
        t.sh("ctr-spawn --bundle b sh -c 'cd /sys/fs/cgroup; ls; cat memory/memory.limit_in_bytes memory/memory.memsw.limit_in_bytes pids/pids.max'")
            .prints("memory\npids\n99999744\n99999744\n7\n");
    }
    bundle(&t, ".linux.resources.cpu.shares = 10");
    t.sh("ctr-spawn --bundle b true").outputs(
        "",
        "ctr-spawn: linux.resources.cpu: this limit is not supported\n",
        125,
    );
}

#[test]
fn signals_are_passed_on_once() {
    of_either_user(|t| {
        let script = "ctr-spawn --rm app sh -c 'trap \"echo got\" USR1; trap \"echo end; exit 4\" TERM; echo ready; while :; do sleep .05; done' >out & pid=$!
            while ! grep -q ready out 2>/dev/null; do sleep .01; done
            kill -USR1 $pid; while ! grep -q got out; do sleep .01; done; sleep .2
            kill -TERM $pid; wait $pid; echo $?; cat out";
        t.sh(script).prints("4\nready\ngot\nend\n");
    });
}

#[test]
fn a_signal_ends_a_command_that_does_nothing_about_it() {
    of_either_user(|t| {
        for (signal, code) in [("TERM", 143), ("INT", 130), ("HUP", 129)] {
            // In the background a shell has SIGINT ignored, so this one is started by another.
            let script = format!(
                "timeout -s {signal} --preserve-status 1 ctr-spawn --rm app sleep 100; echo $?"
            );
            let run = t.sh(&script);
            assert!(run.took < Duration::from_secs(8));
            run.prints(&format!("{code}\n"));
        }
    });
}

#[test]
fn time_is_up_with_124() {
    let t = sandbox();
    let run = t.sh("ctr-spawn --rm --timeout 0.3 app sleep 100");
    assert!(run.took < Duration::from_secs(5));
    run.exits(124);
    t.sh("ctr-spawn --rm --timeout 20 app sh -c 'exit 5'").exits(5);
}

#[test]
fn an_init_reaps_and_passes_signals_on() {
    of_either_user(|t| {
        t.sh("ctr-spawn --rm --init app sh -c 'test $$ != 1 && exit 6'").exits(6);
        t.sh("ctr-spawn --rm --init app nosuch").exits(127);
        t.sh("timeout -s TERM --preserve-status 1 ctr-spawn --rm --init app sleep 100").exits(143);
        t.sh("ctr-spawn --rm --init app sh -c '(sleep .1 & exit) & sleep .5; grep -l \") Z\" /proc/[0-9]*/stat | wc -l'")
            .prints("0\n");
    });
}

#[test]
fn a_container_dies_with_its_supervisor() {
    let t = sandbox();
    let script = "ctr-spawn --rm app sh -c 'touch /tmp/x; sleep 1000' & pid=$!
        while ! test -e $TARE_ROOT/containers/*/status.json; do sleep .01; done
        inner=$(jq .pid $TARE_ROOT/containers/*/status.json)
        kill -9 $pid; wait $pid 2>/dev/null; sleep .3
        grep -q '^State:.[^Z]' /proc/$inner/status 2>/dev/null && echo alive; ctr-spawn --rm app true";
    t.sh(script).is_silent();
}

#[test]
fn a_pipeline_runs_through_a_container() {
    of_either_user(|t| {
        t.sh("head -c 50000000 /dev/zero | ctr-spawn -i --rm app cat | wc -c").prints("50000000\n");
        t.sh("ctr-spawn --rm app sh -c 'yes | head -1'").prints("y\n");
        t.sh("ctr-spawn --rm --init app yes | head -1").prints("y\n");
    });
}

#[test]
fn a_terminal_is_one_and_ours_is_restored() {
    let t = sandbox();
    // script(1) gives the tool a terminal; what is typed comes over its stdin.
    t.sh("script -qec 'stty rows 40 cols 99; stty -g >before; ctr-spawn --rm -it app sh -c \"tty; stty size; exit 3\"; echo status $?; stty -g >after' /dev/null </dev/null | tr -d '\\r' | sed 's/^^@//'; cmp before after")
        .prints("/dev/pts/0\n40 99\nstatus 3\n");
    t.sh("ctr-spawn --rm -t app true </dev/null 2>&1; echo $?").prints(
        "ctr-spawn: -t: there is no terminal here\nhint: without -t the command reads and writes as in any pipeline\n125\n",
    );
}

#[test]
fn a_terminal_that_nobody_had_open_can_be_opened_again() {
    of_either_user(|t| {
        let away = "exec </dev/null >/dev/null 2>&1";
        let script = |command: &str, rest: &str| {
            format!(
                "script -qec 'ctr-spawn --rm -it -v $PWD:/w app sh -c \"{command}\"; echo status $?' /dev/null </dev/null | tr -d '\\r' | sed 's/^^@//'{rest}"
            )
        };
        t.sh(&script(
            &format!("{away}; sleep 1; exec >/dev/console; echo hi; {away}; sleep .3; echo there >/dev/console; exit 3"),
            "",
        ))
        .prints("hi\nthere\nstatus 3\n");
        // More than a terminal holds: whoever writes it waits for us.
        t.sh(&script(
            &format!("{away}; sleep .3; yes x | head -c 100000 >/dev/console; echo done >/w/done"),
            " | tr -cd x | wc -c; cat done",
        ))
        .prints("50000\ndone\n");
        // Nobody needs it, and time goes on.
        t.sh("script -qec 'ctr-spawn --rm -it --timeout .5 app sh -c \"exec sleep 1000 </dev/null >/dev/null 2>&1\"; echo status $?' /dev/null </dev/null | tr -d '\\r' | sed 's/^^@//'")
            .prints("status 124\n");
    });
}

#[test]
fn what_is_typed_reaches_the_container() {
    let t = sandbox();
    let mut command =
        t.command("script -qec 'ctr-spawn --rm -it app sh -c \"read x; echo got \\$x\"' /dev/null");
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    std::thread::sleep(Duration::from_millis(500));
    stdin.write_all(b"word\n").unwrap();
    let output = child.wait_with_output().unwrap();
    let stdout = String::from_utf8_lossy(&output.stdout).replace('\r', "");
    assert_eq!(stdout, "word\ngot word\n");
}

#[test]
fn volumes_are_mounted_as_they_are_asked_for() {
    of_either_user(|t| {
        t.write("file", "data\n");
        t.sh("mkdir dir; ctr-spawn --rm -v $PWD/file:/f:ro -v $PWD/dir:/d --tmpfs /t app sh -c \
              'cat /f; (echo x >/f) 2>/dev/null || echo refused; echo y >/d/new; grep -c \" /t tmpfs\" /proc/mounts'; cat dir/new")
            .prints("data\nrefused\n1\ny\n");
        t.sh("ctr-spawn --rm --read-only app sh -c '(touch /x) 2>/dev/null || echo refused; touch /dev/shm/x'")
            .prints("refused\n");
    });
}

#[test]
fn a_bundle_runs_as_its_config_says() {
    let t = sandbox();
    bundle(
        &t,
        ".process.args = [\"sh\", \"-c\", \"echo $FOO; pwd\"] | .process.env += [\"FOO=bar\"] | .process.cwd = \"/etc\"",
    );
    t.sh("ctr-spawn --bundle b").prints("bar\n/etc\n");
    t.sh("ctr-spawn --bundle ./b -e FOO=other pwd").prints("/etc\n");
    t.sh("ctr-spawn --rootfs b/rootfs echo tree").prints("tree\n");
    bundle(&t, ".hooks.poststart = [{\"path\": \"/bin/true\"}]");
    t.sh("ctr-spawn --bundle b true").outputs("", "ctr-spawn: hooks: not supported\n", 125);
}

#[test]
fn a_bundle_has_a_user_namespace_of_its_own() {
    if sandbox::lacks(&["root"]) {
        return;
    }
    let t = sandbox();
    t.sh("img-unpack --uid-map 0:100000:65536 --gid-map 0:100000:65536 app ./b").prints("./b\n");
    t.sh("chmod 700 b; ctr-spawn --bundle ./b true")
        .exits(125)
        .says("b/rootfs as the root: Permission denied")
        .says("hint: root of its user namespace must be able to reach it");
    t.sh("chmod 711 b; ctr-spawn --bundle ./b sh -c 'id -u; cat /proc/self/uid_map'")
        .prints("0\n         0     100000      65536\n");
    // With a limit, and without a network namespace, which is made ahead all the same.
    t.sh("jq 'del(.linux.sysctl) | .linux.namespaces |= map(select(.type != \"network\")) | .linux.resources.pids.limit = 50 |
              .mounts |= map(select(.type != \"sysfs\" and .type != \"cgroup\"))' b/config.json >c && mv c b/config.json
          for i in $(seq 20); do ctr-spawn --bundle ./b true || echo failed; done")
        .is_silent();
}

#[test]
fn many_at_once_do_not_disturb_each_other() {
    of_either_user(|t| {
        t.sh("seq 40 | xargs -P 8 -I{} ctr-spawn --rm app echo {} | sort -n >out; seq 40 | cmp - out; ls $TARE_ROOT/containers | wc -l")
            .prints("0\n");
    });
}
