//! The completions that scripts/completions makes of --help.

use sandbox::{Sandbox, program_names, workspace};

#[test]
fn bash_completes_options_their_values_and_images() {
    let t = Sandbox::with_image("app:v1");
    t.set("COMPLETIONS", workspace().join("scripts/completions"));
    let complete = |tool: &str, words: &str| {
        let function = tool.replace('-', "_");
        t.sh(&format!(
            "bash -c 'set -- {words}; eval \"$($COMPLETIONS bash {tool})\"
                COMP_WORDS=({tool} \"$@\") COMP_CWORD=$#; _{function}; echo \"${{COMPREPLY[@]}}\"'"
        ))
    };
    complete("img-tag", "--ro").prints("--root\n");
    complete("img-tag", "ap").prints("app:v1\n");
    complete("img-pull", "--progress p").prints("plain\n");
}

#[test]
fn every_tool_has_completions_that_a_shell_reads() {
    let t = Sandbox::new();
    t.set("COMPLETIONS", workspace().join("scripts/completions"));
    for tool in program_names() {
        t.sh(&format!("$COMPLETIONS bash {tool} | bash -n && $COMPLETIONS zsh {tool} >z && $COMPLETIONS fish {tool} >f"))
            .is_silent();
        for shell in ["zsh -n z", "fish -n f"] {
            let name = shell.split(' ').next().unwrap();
            t.sh(&format!("! command -v {name} >/dev/null || {shell}")).is_silent();
        }
    }
}
