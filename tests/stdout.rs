//! Standard output carries results, and a result that did not arrive is a failure.

use sandbox::{Sandbox, program_names};

#[test]
fn a_full_disk_is_a_failure() {
    let t = Sandbox::with_image("app:v1");
    t.sh("tar -c --files-from /dev/null >empty.tar").is_silent();
    let full = |tool: &str, args: &str, code: i32| {
        let run = t.sh(&format!("{tool} {args} >/dev/full"));
        let said = format!("{tool}: stdout: No space left on device (os error 28)\n");
        run.outputs("", &said, code);
    };
    for tool in program_names() {
        let trouble = if tool == "ctr-spawn" { 125 } else { 1 };
        full(&tool, "--help", trouble);
        full(&tool, "--version", trouble);
    }
    full("img-tag", "app:v1 other", 1);
    full("img-ls", "", 1);
    full("img-ls", "-q", 1);
    full("img-prune", "-a --dry-run", 1);
    full("img-rm", "other", 1);
}

#[test]
fn a_closed_pipe_ends_a_tool_quietly() {
    let t = Sandbox::with_image("app:v1");
    for tool in program_names() {
        t.sh(&format!("{tool} --help | true")).is_silent();
    }
    t.sh("{ sleep 0.2; img-tag app:v1 other; echo $? >status; } | true; while [ ! -s status ]; do :; done; cat status")
        .prints("141\n");
}

#[test]
fn help_and_version_are_results() {
    let t = Sandbox::new();
    for tool in program_names() {
        let help = t.sh(&format!("{tool} --help")).text();
        assert!(help.contains(&format!("Usage: {tool} ")), "{help}");
        t.sh(&format!("{tool} --version"))
            .prints(&format!("{tool} {}\n", env!("CARGO_PKG_VERSION")));
    }
}
