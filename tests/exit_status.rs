//! How each tool ends: tare(7), EXIT STATUS.

use sandbox::image::{Image, PACK, PATH, busybox_layer};
use sandbox::{Sandbox, program_names};
use serde_json::json;

/// Returns the status of a wrong command line.
fn usage(tool: &str) -> i32 {
    if tool == "ctr-spawn" { 125 } else { 2 }
}

#[test]
fn a_wrong_option_is_a_usage_error() {
    let t = Sandbox::new();
    for tool in program_names() {
        t.sh(&format!("{tool} --no-such-option")).outputs(
            "",
            &format!("{tool}: unexpected argument '--no-such-option' found\nhint: {tool} --help\n"),
            usage(&tool),
        );
    }
}

#[test]
fn a_bad_name_is_a_usage_error() {
    let t = Sandbox::new();
    for (tool, args) in [
        ("img-tag", "App app"),
        ("img-tag", "app App"),
        ("img-tag", "a"),
        ("img-pull", "App"),
        ("img-pull", ""),
        ("img-push", "App"),
        ("img-push", "app App"),
        ("img-push", ""),
        ("img-push", "--compression xz app"),
        ("img-login", "host"),
        ("img-login", "-u a:b -p x 127.0.0.1:1"),
        ("img-login", "--password-stdin 127.0.0.1:1"),
        ("img-login", "-p x 127.0.0.1:1"),
        ("img-logout", "host"),
        ("img-logout", "-a 127.0.0.1:1"),
        ("img-unpack", "App out"),
        ("img-unpack", "app"),
        ("ctr-spawn", ""),
        ("ctr-spawn", "App true"),
        ("img-import", "f App"),
        ("img-save", "App"),
        ("img-save", ""),
        ("img-load", "operand"),
        ("img-rm", ""),
        ("img-rm", "app App"),
        ("img-rm", "-0 app"),
        ("img-prune", "app"),
        ("img-prune", "--filter until=1h --filter until=2h"),
        ("img-prune", "--filter dangling=true"),
        ("img-prune", "--per-repo"),
        ("img-prune", "--max-size much"),
    ] {
        let run = t.sh(&format!("{tool} {args}")).exits(usage(tool)).says(&format!("{tool}: "));
        assert!(run.stdout.is_empty());
    }
}

#[test]
fn a_name_with_typographic_hyphens_is_explained() {
    let t = Sandbox::new();
    t.sh("img-tag my\u{2011}dl\u{2011}image app").says("U+2011").says("my-dl-image").exits(2);
}

#[test]
fn nothing_on_stdin_fails() {
    let t = Sandbox::with_image("app:v1");
    t.sh("false | img-tag - app")
        .fails("img-tag: no image on stdin: did the command before this one fail?\n");
    t.feed("app:v1", "img-tag - app").exits(1);
}

/// Returns an image with one of each thing that cannot be run.
fn unrunnable() -> Image {
    let layer = format!(
        "mkdir -p dir bin
        printf '#!/bin/sh\\necho never\\n' >plain; chmod 644 plain
        printf 'no program' >junk; printf '#!/no/such -x\\n' >orphan; printf '#!/junk\\n' >loop
        printf '#!/dir\\n' >indirect; : >empty; chmod 755 junk orphan loop indirect empty
        ln -s /dir bin/to-dir; ln -s nowhere bin/dangling
        {PACK}"
    );
    let config = json!({ "Env": [PATH], "Cmd": ["sh"] });
    Image::new(&[&busybox_layer(), &layer], &config)
}

/// What runs, why it cannot, and the status.
const CANNOT_RUN: &[(&str, &str, i32)] = &[
    ("nosuch", NONE, 127),
    ("/nosuch", NONE, 127),
    ("./bin/nosuch", NONE, 127),
    ("dangling", NONE, 127),
    ("/bin/dangling", NONE, 127),
    ("/orphan", NONE, 127),
    ("/dir", DENIED, 126),
    ("/bin/to-dir", DENIED, 126),
    ("/plain", DENIED, 126),
    ("/indirect", DENIED, 126),
    ("/junk", FORMAT, 126),
    ("/empty", FORMAT, 126),
    ("/loop", FORMAT, 126),
];

const NONE: &str = "No such file or directory (os error 2)";
const DENIED: &str = "Permission denied (os error 13)";
const FORMAT: &str = "Exec format error (os error 8)";

/// Tries everything that cannot be run.
fn try_what_cannot_run(t: &Sandbox, options: &str) {
    t.store(&unrunnable(), "app");
    for (command, why, code) in CANNOT_RUN {
        let stderr = format!("ctr-spawn: {command}: cannot run: {why}\n");
        t.sh(&format!("ctr-spawn --rm {options} app {command}")).outputs("", &stderr, *code);
    }
}

/// Ends containers in all ways that there are.
fn end_in_all_ways(t: &Sandbox, options: &str, signals: &[(&str, i32)]) {
    for code in [0, 1, 124, 125, 126, 127, 128, 255] {
        t.sh(&format!("ctr-spawn --rm {options} app sh -c 'exit {code}'")).outputs("", "", code);
    }
    for (signal, code) in signals {
        t.sh(&format!("ctr-spawn --rm {options} app sh -c 'kill -{signal} $$'"))
            .outputs("", "", *code);
    }
}

/// Of these the kernel delivers none to process 1 of a namespace; below an init there is no such rule.
const SIGNALS: &[(&str, i32)] = &[
    ("HUP", 129),
    ("INT", 130),
    ("ABRT", 134),
    ("KILL", 137),
    ("USR1", 138),
    ("SEGV", 139),
    ("PIPE", 141),
    ("TERM", 143),
];

#[test]
fn a_command_that_is_not_there_is_127_and_one_that_cannot_run_126() {
    for t in [Sandbox::new(), Sandbox::new().as_user()] {
        try_what_cannot_run(&t, "");
    }
}

#[test]
fn a_container_ends_as_its_process() {
    for t in [Sandbox::with_image("app"), Sandbox::with_image("app").as_user()] {
        end_in_all_ways(&t, "", &[]);
    }
}

#[test]
fn a_container_with_an_init_ends_as_its_process() {
    for t in [Sandbox::with_image("app"), Sandbox::with_image("app").as_user()] {
        end_in_all_ways(&t, "--init", SIGNALS);
    }
    for t in [Sandbox::new(), Sandbox::new().as_user()] {
        try_what_cannot_run(&t, "--init");
    }
}

#[test]
fn what_is_not_the_commands_fault_is_125() {
    for t in [Sandbox::with_image("app"), Sandbox::with_image("app").as_user()] {
        for arguments in [
            "--no-such-option app true",
            "",
            "App true",
            "--pull never none true",
            "--pull sometimes app true",
            "-v /none:/x app true",
            "-u nobody-here app true",
            "--bundle none",
            "--rootfs none true",
            "--bundle a --rootfs b",
            "--env-file none app true",
            "--entrypoint '' app",
            "-t app true </dev/null",
        ] {
            let run = t.sh(&format!("ctr-spawn --rm {arguments}")).exits(125).says("ctr-spawn: ");
            assert!(run.stdout.is_empty(), "{arguments}");
        }
    }
}
