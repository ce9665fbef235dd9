//! img-login and img-logout: passwords that are right, where docker and podman look for them, and nowhere else.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use sandbox::image::busybox;
use sandbox::{Sandbox, lacks};

use crate::img_push::HTPASSWD;

/// Returns a sandbox with a registry that knows `user` by `secret`, or nothing if this machine has no registry.
fn with_registry() -> Option<Sandbox> {
    if lacks(&["docker-registry", "jq"]) {
        return None;
    }
    let t = Sandbox::with_image("app");
    let htpasswd = t.write("htpasswd", HTPASSWD);
    let config = format!("auth: {{htpasswd: {{realm: tests, path: {}}}}}", htpasswd.display());
    Some(t.with_registry_of(&config))
}

/// Logs in as the user that the registry knows.
const LOGIN: &str = "echo secret | img-login -u user --password-stdin $REGISTRY";
const CONFIG: &str = "$HOME/.docker/config.json";

#[test]
fn a_password_is_stored_for_its_owner_alone() {
    let Some(t) = with_registry() else { return };
    t.sh(&format!("umask 0; {LOGIN}")).is_silent();
    t.sh(&format!("stat -c %a {CONFIG} $HOME/.docker; ls -A $HOME/.docker"))
        .prints("600\n700\nconfig.json\n");
    t.sh(&format!("jq -r '.auths[env.REGISTRY].auth' {CONFIG} | base64 -d")).prints("user:secret");
    t.sh("img-push -q app $REGISTRY/app:1").prints(&format!(
        "{}/app:1@{}\n",
        t.registry().address(),
        busybox().digest
    ));
    t.sh("img-logout $REGISTRY").is_silent();
    t.sh(&format!("jq -c . {CONFIG}; stat -c %a {CONFIG}")).prints("{\"auths\":{}}\n600\n");
    t.sh("img-push -q app $REGISTRY/app:1").exits(1).says("authentication required");
    t.sh("img-logout $REGISTRY")
        .fails(&format!("img-logout: {}: no password is stored\n", t.registry().address()));
}

#[test]
fn an_ordinary_user_logs_in() {
    if lacks(&["root"]) {
        return;
    }
    let Some(t) = with_registry() else { return };
    let t = t.as_user();
    t.sh(LOGIN).is_silent();
    t.sh(&format!("stat -c %a:%U {CONFIG}")).prints("600:tare-test\n");
}

#[test]
fn a_password_that_is_refused_is_not_stored() {
    let Some(t) = with_registry() else { return };
    let address = t.registry().address().to_owned();
    t.sh("echo wrong | img-login -u user --password-stdin $REGISTRY")
        .fails(&format!("img-login: {address}: its credentials are refused\n"));
    let run =
        t.sh("echo secret | img-login -u user --password-stdin --retry 0 127.0.0.1:1").exits(1);
    run.says("img-login: 127.0.0.1:1: ");
    t.sh("false | img-login -u user --password-stdin $REGISTRY")
        .fails("img-login: no password on stdin: did the command before this one fail?\n");
    t.sh("ls -A $HOME $XDG_RUNTIME_DIR").prints(&format!(
        "{}:\n\n{}:\n",
        t.path("home").display(),
        t.path("xdg").display()
    ));
}

#[test]
fn the_rest_of_the_file_stays_as_it_is() {
    let Some(t) = with_registry() else { return };
    t.sh(&format!(
        r#"mkdir $HOME/.docker; printf '{{"psFormat": "{{{{.ID}}}}",\n "auths": {{"r.io": {{"auth": "eDp5"}}}}, "n": 1.50}}' >{CONFIG}; chmod 644 {CONFIG}"#
    ))
    .is_silent();
    t.sh(LOGIN).is_silent();
    let expected = format!(
        "{{\n\t\"psFormat\": \"{{{{.ID}}}}\",\n\t\"auths\": {{\n\t\t\"r.io\": {{\"auth\": \"eDp5\"}},\n\t\t\"{}\": {{\"auth\":\"dXNlcjpzZWNyZXQ=\"}}\n\t}},\n\t\"n\": 1.50\n}}\n",
        t.registry().address()
    );
    t.sh(&format!("cat {CONFIG}")).prints(&expected);
    t.sh(&format!("stat -c %a {CONFIG}")).prints("600\n");
    t.sh(&format!("echo broken >{CONFIG}; {LOGIN}")).exits(1).says("not a file of credentials");
    t.sh(&format!("cat {CONFIG}")).prints("broken\n");
}

#[test]
fn many_at_once_lose_nothing() {
    let Some(t) = with_registry() else { return };
    t.sh("for i in $(seq 12); do echo secret | img-login -u user --password-stdin $REGISTRY/team$i & done; wait")
        .is_silent();
    t.sh(&format!("jq '.auths | length' {CONFIG}")).prints("12\n");
    t.sh("for i in $(seq 2 12); do img-logout $REGISTRY/team$i & done; wait").is_silent();
    t.sh(&format!("jq -r '.auths | keys[]' {CONFIG}"))
        .prints(&format!("{}/team1\n", t.registry().address()));
    // It is for that part of the registry.
    t.sh("img-push -q app $REGISTRY/team1/app:1 | wc -l").prints("1\n");
    t.sh("img-push -q app $REGISTRY/team2/app:1").exits(1).says("authentication required");
}

#[test]
fn it_is_stored_where_there_is_an_entry_already() {
    let Some(t) = with_registry() else { return };
    let auth = r#"printf '{"auths": {"%s": {"auth": "b2xkOm9sZA=="}}}' $REGISTRY"#;
    for file in ["$XDG_RUNTIME_DIR/containers/auth.json", "$HOME/.config/containers/auth.json"] {
        t.sh(&format!("mkdir -p $(dirname {file}); {auth} >{file}; {LOGIN}; test ! -e {CONFIG}"))
            .is_silent();
        t.sh(&format!("jq -r '.auths[env.REGISTRY].auth' {file}; rm {file}"))
            .prints("dXNlcjpzZWNyZXQ=\n");
    }
    t.sh(&format!("export REGISTRY_AUTH_FILE=$PWD/file; {LOGIN}; test -s file && img-push -q app $REGISTRY/app:1 | wc -l; img-logout $REGISTRY; jq -c . file"))
        .prints("1\n{\"auths\":{}}\n");
    t.sh(&format!("{LOGIN} --authfile deep/other; img-push -q --authfile deep/other app $REGISTRY/app:1 | wc -l; img-logout --authfile deep/other $REGISTRY; jq -c . deep/other; test ! -e {CONFIG}"))
        .prints("1\n{\"auths\":{}}\n");
    t.sh(&format!("export DOCKER_CONFIG=$PWD/docker; {LOGIN}; stat -c %a docker/config.json"))
        .prints("600\n");
}

#[test]
fn all_passwords_can_be_forgotten() {
    let Some(t) = with_registry() else { return };
    t.sh(&format!("{LOGIN}; {LOGIN}/team; mkdir -p $XDG_RUNTIME_DIR/containers
        echo '{{\"auths\": {{\"r.io\": {{\"auth\": \"eDp5\"}}}}}}' >$XDG_RUNTIME_DIR/containers/auth.json
        img-logout --all; jq -c .auths {CONFIG} $XDG_RUNTIME_DIR/containers/auth.json; img-logout -a"))
        .prints("{}\n{}\n");
}

/// A helper that keeps what it is given in a file, and notes down how it was called.
const HELPER: &str = r#"#!/bin/sh
echo "$@" >>$HOME/calls
tr '\0' ' ' </proc/$PPID/cmdline >>$HOME/calls
kept=$HOME/kept
case $1 in
    store) cat >$kept ;;
    get) read -r key
        [ -s $kept ] && [ "$(jq -r .ServerURL $kept)" = "$key" ] || { echo credentials not found in native keychain; exit 1; }
        cat $kept ;;
    erase) read -r key; : >$kept ;;
    list) jq -c '{(.ServerURL): .Username}' $kept ;;
esac
"#;

#[test]
fn a_helper_keeps_the_password_and_sees_it_on_a_pipe_only() {
    let Some(t) = with_registry() else { return };
    let bin = t.path("home/bin");
    fs::create_dir_all(&bin).unwrap();
    let helper = bin.join("docker-credential-tests");
    fs::write(&helper, HELPER).unwrap();
    fs::set_permissions(&helper, fs::Permissions::from_mode(0o755)).unwrap();
    let path = "export PATH=$HOME/bin:$PATH";
    let configs = [
        r#"{"credsStore":"tests"}"#.to_owned(),
        format!(r#"{{"credHelpers":{{"{}":"tests"}}}}"#, t.registry().address()),
    ];
    for config in configs {
        t.sh(&format!("mkdir -p $HOME/.docker; echo '{config}' >{CONFIG}; {path}; {LOGIN}"))
            .is_silent();
        t.sh(&format!("grep -c secret {CONFIG}")).outputs("0\n", "", 1);
        t.sh("jq -r '[.ServerURL, .Username, .Secret] | join(\" \")' $HOME/kept")
            .prints(&format!("{} user secret\n", t.registry().address()));
        t.sh("grep -c secret $HOME/calls").outputs("0\n", "", 1);
        t.sh(&format!("{path}; img-push -q app $REGISTRY/app:1 | wc -l")).prints("1\n");
        t.sh(&format!(
            "{path}; img-logout $REGISTRY; cat $HOME/kept; img-push -q app $REGISTRY/app:1"
        ))
        .exits(1)
        .says("authentication required");
        t.sh(&format!("{path}; img-logout $REGISTRY")).exits(1).says("no password is stored");
        t.sh(&format!("{path}; {LOGIN}; img-logout --all; cat $HOME/kept")).is_silent();
        // How passwords are kept is no password.
        t.sh(&format!("jq -c 'del(.auths)' {CONFIG}")).prints(&format!("{config}\n"));
    }
    t.sh(&format!("echo '{{\"credsStore\":\"nobody\"}}' >{CONFIG}; {LOGIN}"))
        .fails("img-login: docker-credential-nobody: not found on PATH\n");
}

#[test]
fn a_password_on_the_command_line_is_warned_of_and_one_is_asked_for_on_a_terminal_only() {
    let Some(t) = with_registry() else { return };
    t.sh("img-login -u user -p secret $REGISTRY").outputs(
        "",
        "img-login: others can see a password on a command line; --password-stdin hides it\n",
        0,
    );
    t.sh("echo secret | img-login -u user -p - $REGISTRY").is_silent();
    t.sh("setsid -w img-login -u user $REGISTRY </dev/null").outputs(
        "",
        &format!(
            "img-login: no password, and no terminal to ask for it\n\
             hint: img-login -u USER --password-stdin {}\n",
            t.registry().address()
        ),
        2,
    );
    if lacks(&["script"]) {
        return;
    }
    t.sh("img-logout $REGISTRY").is_silent();
    // The name is shown as it is typed, the password is not.
    let run = t.sh("{ sleep 1; echo user; sleep 1; echo secret; sleep 1; } | script -qec 'img-login $REGISTRY' /dev/null | tr -d '\\r'");
    let screen = run.text();
    let question = format!("User of {}: ", t.registry().address());
    assert!(screen.contains(&question) && screen.contains("Password for user: "), "{screen}");
    assert!(!screen.contains("secret"), "{screen}");
    t.sh("img-push -q app $REGISTRY/app:1 | wc -l").prints("1\n");
}

#[test]
fn a_registry_that_asks_nobody_is_logged_in_to() {
    if lacks(&["docker-registry"]) {
        return;
    }
    let t = Sandbox::new().with_registry();
    t.sh(LOGIN).is_silent();
    t.sh("img-logout $REGISTRY").is_silent();
}
