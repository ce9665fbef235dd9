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
    complete("img-pull", "--progress = p").prints("plain\n");
    // Its value is never the next word, which would be an image.
    complete("img-pull", "--tls-verify fa").prints("\n");
    complete("img-pull", "--tls-verify =").prints("true false\n");
}

#[test]
fn every_tool_has_completions_that_a_shell_reads() {
    let t = Sandbox::new();
    t.set("COMPLETIONS", workspace().join("scripts/completions"));
    t.sh("$COMPLETIONS bash").exits(2).says("usage: scripts/completions bash|zsh|fish PROGRAM");
    t.sh("$COMPLETIONS zsh img-pull | grep -e --tls-verify; $COMPLETIONS zsh ctr-spawn | grep -o '.*{-e,--env}'; $COMPLETIONS fish img-pull | grep -o 'verify.*true'")
        .prints(
            "    '--tls-verify=-[Whether certificates must be trusted; if not, plain HTTP will do as well]::BOOL:(true false)' \\\n    \
             '*'{-e,--env}\nverify -f -a 'true\n",
        );
    for tool in program_names() {
        t.sh(&format!("$COMPLETIONS bash {tool} | bash -n && $COMPLETIONS zsh {tool} >z && $COMPLETIONS fish {tool} >f"))
            .is_silent();
        for shell in ["zsh -n z", "fish -n f"] {
            let name = shell.split(' ').next().unwrap();
            t.sh(&format!("! command -v {name} >/dev/null || {shell}")).is_silent();
        }
    }
}
