//! How each tool ends: tare(7), EXIT STATUS.

use sandbox::{Sandbox, program_names};

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
        ("img-unpack", "App out"),
        ("img-unpack", "app"),
        ("ctr-spawn", ""),
        ("ctr-spawn", "App true"),
        ("img-import", "f App"),
    ] {
        if !program_names().iter().any(|name| name == tool) {
            continue;
        }
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
