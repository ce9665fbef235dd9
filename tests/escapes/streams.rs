//! What a container is given to read and to write: three descriptors, and no way through them.

use super::{PROBE, bundle, of_either_user, sandbox};

#[test]
fn the_hosts_null_device_is_not_the_containers() {
    let t = sandbox();
    for command in [
        "</dev/null",
        "-i </dev/null >/dev/null",
        "-i </dev/null 2>/dev/null",
        "</dev/null >/dev/null 2>&1",
        "<&- >&- 2>&-",
        "--init </dev/null >/dev/null 2>&1",
    ] {
        let (options, streams) = command.split_at(command.find(['<', '>']).unwrap());
        t.sh(&format!(
            "(ctr-spawn --rm {PROBE} {options} app /probe streams {streams})
             stat -c '%a %u' /dev/null; chmod 666 /dev/null"
        ))
        .exits(0)
        .ends_with("666 0\n");
    }
    bundle(&t, ".process.capabilities |= map_values([\"CAP_FOWNER\"])");
    t.sh(&format!(
        "ctr-spawn {PROBE} --bundle b /probe streams >/dev/null; stat -c '%a %u' /dev/null; chmod 666 /dev/null"
    ))
    .ends_with("666 0\n");
}

#[test]
fn a_null_device_is_read_and_written_as_ever() {
    of_either_user(|t| {
        t.sh("ctr-spawn --rm app sh -c 'wc -c; echo x' >/dev/null").is_silent();
        t.sh("ctr-spawn --rm app wc -c").prints("0\n");
        t.sh("ctr-spawn --rm app sh -c 'echo x >&2; echo y' 2>/dev/null").prints("y\n");
        t.sh("ctr-spawn --rm app sh -c 'stat -Lc %t:%T /proc/self/fd/0; readlink /proc/self/fd/0'")
            .prints("1:3\n/dev/null\n");
    });
}

#[test]
fn a_container_has_exactly_three_descriptors() {
    of_either_user(|t| {
        let leaks = "3</etc/passwd 4<. 5>/dev/null 6</ 7<&0 8>&1 9</proc";
        for options in ["", "--init", "-i", "--read-only", "-u app"] {
            t.sh(&format!("ctr-spawn --rm {options} {PROBE} app /probe fds {leaks}"))
                .prints("0\n1\n2\n");
        }
        // Closed ones are somebody's first descriptors, unless they are filled.
        t.sh(&format!("ctr-spawn --rm {PROBE} app /probe fds <&- 2>&-")).prints("0\n1\n2\n");
        t.sh(&format!(
            "ctr-spawn --rm {PROBE} app sh -c '/probe fds >/tmp/x; wc -l </tmp/x' >&-; true"
        ))
        .exits(0);
    });
    let t = sandbox();
    bundle(&t, ".");
    t.sh(&format!("ctr-spawn {PROBE} --bundle b /probe fds 7<. 9</etc")).prints("0\n1\n2\n");
}

#[test]
fn a_directory_is_no_stream() {
    of_either_user(|t| {
        t.sh("mkdir dir; echo host >bait").is_silent();
        let said = |name: &str| {
            format!(
                "ctr-spawn: standard {name} is a directory, through which the container would see the host\n"
            )
        };
        let cat = |fd: u8| format!("sh -c 'cat /proc/self/fd/{fd}/../bait'");
        for options in ["--rm -i", "--rm --init -i"] {
            let run = |fd: u8, streams: &str| {
                t.sh(&format!("ctr-spawn {options} app {} {streams}", cat(fd)))
            };
            run(0, "<dir").outputs("", &said("input"), 125);
            run(1, "1<dir </dev/null").outputs("", &said("output"), 125);
            run(2, "2<dir </dev/null").outputs("", "", 125);
        }
        // What the container is not given is nobody's way out.
        t.sh(&format!("ctr-spawn --rm app {} <dir 2>&1 | grep -c 'Not a directory'", cat(0)))
            .prints("1\n");
        t.sh("ls $TARE_ROOT/containers").prints("");
    });
    let t = sandbox();
    bundle(&t, ".");
    t.sh("ctr-spawn -i --bundle b true <.").exits(125).says("standard input is a directory");
}

#[test]
fn nothing_is_typed_into_the_callers_terminal() {
    of_either_user(|t| {
        // Without -t the terminal is an open file like any other; script(1) gives us one.
        t.sh(&format!(
            "script -qec 'ctr-spawn --rm -i {PROBE} app /probe types' /dev/null </dev/null | tr -d '\\r'"
        ))
        .prints(
            "a terminal OK\ntype EPERM\ntype EPERM\npaste ENOTTY\npaste ENOTTY\ntake EPERM\n\
             steal EPERM\ntype EPERM\n/dev/tty ENXIO\n",
        );
    });
}

#[test]
fn the_environment_holds_nothing_of_the_callers() {
    of_either_user(|t| {
        for name in ["SECRET", "PATH_", "HOME_", "SSH_AUTH_SOCK", "RUST_BACKTRACE"] {
            t.set(name, "leaked");
        }
        for options in ["", "--init", "-u app", "-e EMPTY="] {
            t.sh(&format!(
                "ctr-spawn --rm {options} app sh -c 'cat /proc/[0-9]*/environ 2>/dev/null | tr \"\\0\" \"\\n\"' | grep -c leaked"
            ))
            .outputs("0\n", "", 1);
        }
    });
}

#[test]
fn no_socket_of_ours_is_abstract() {
    of_either_user(|t| {
        t.sh("grep -c '@.*tare' /proc/net/unix; ctr-spawn --rm --network host app grep -c @.*tare /proc/net/unix")
            .outputs("0\n0\n", "", 1);
    });
}
