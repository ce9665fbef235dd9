//! Passwords: where they are found, and for whom.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

use sandbox::Sandbox;
use sandbox::faulty::fault::{BASIC, Fault, PASSWORD, Scene, USER, fault, run_all};
use sandbox::faulty::message::{Asked, Reply};

fn private(asked: &Asked, scene: &Scene) -> Reply {
    match asked.header("authorization") == Some(&format!("Basic {BASIC}")) {
        true => scene.well(asked),
        false => Reply::challenge("Basic realm=r"),
    }
}

/// Puts `text` into a file below the sandbox; `{0}` is the registry.
fn put(t: &Sandbox, scene: &Scene, path: &str, text: &str) {
    let mut text = text.replace("{auth}", BASIC);
    for (n, at) in scene.addresses().iter().enumerate() {
        text = text.replace(&format!("{{{n}}}"), at);
    }
    let path = t.path(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

/// Returns the row of a private registry, with this in a file.
fn stored(story: &str, file: &'static str, text: &'static str) -> Fault {
    fault(story).registry(private).anonymous().prepare(move |t, scene| put(t, scene, file, text))
}

/// Returns the row of a private registry, with this in docker's file.
fn docker(story: &str, text: &'static str) -> Fault {
    stored(story, "home/.docker/config.json", text)
}

/// Returns the row of a private registry whose password is kept by a program.
fn helper(story: &str, script: &'static str) -> Fault {
    fault(story).registry(private).anonymous().environment("PATH=$HOME/bin:$PATH").prepare(
        move |t, scene| {
            put(t, scene, "home/.docker/config.json", r#"{"credsStore":"tests"}"#);
            let script = script.replace("{user}", USER).replace("{password}", PASSWORD);
            let program = t.path("home/bin/docker-credential-tests");
            fs::create_dir_all(program.parent().unwrap()).unwrap();
            fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
            fs::set_permissions(&program, Permissions::from_mode(0o755)).unwrap();
        },
    )
}

pub fn faults() -> Vec<Fault> {
    let nobody = "authentication required";
    let mut faults = vec![
        docker("an entry is for the registry", r#"{"auths":{"{0}":{"auth":"{auth}"}}}"#).pulls(),
        docker("an entry is for the registry's URL", r#"{"auths":{"http://{0}/v1/":{"auth":"{auth}"}}}"#).pulls(),
        docker("an entry is for the repository", r#"{"auths":{"{0}/app":{"auth":"{auth}"}}}"#).pulls(),
        docker("an entry is for another port", r#"{"auths":{"127.0.0.1:1":{"auth":"{auth}"}}}"#).fails(nobody),
        docker("an entry is for the host without a port", r#"{"auths":{"127.0.0.1":{"auth":"{auth}"}}}"#).fails(nobody),
        docker("an entry is for another name of the machine", r#"{"auths":{"localhost":{"auth":"{auth}"}}}"#).fails(nobody),
        docker("an entry is for another repository", r#"{"auths":{"{0}/application":{"auth":"{auth}"},"{0}/ap":{"auth":"{auth}"},"{0}/app/x":{"auth":"{auth}"}}}"#).fails(nobody),
        docker("an entry only ends in the registry's name", r#"{"auths":{"evil.{0}":{"auth":"{auth}"},"https://example.org/{0}":{"auth":"{auth}"},"a@{0}":{"auth":"{auth}"}}}"#).fails(nobody),
        docker("an entry only begins with the registry's name", r#"{"auths":{"{0}.example.org":{"auth":"{auth}"},"{0}0":{"auth":"{auth}"}}}"#).fails(nobody),
        docker("an entry is for Docker Hub", r#"{"auths":{"https://index.docker.io/v1/":{"auth":"{auth}"}}}"#).fails(nobody),
        docker("an entry of another registry is broken", r#"{"auths":{"example.org":{"auth":"hunter2!!"},"{0}":{"auth":"{auth}"}}}"#).pulls(),
        docker("an entry is no base64", r#"{"auths":{"{0}":{"auth":"hunter2!!"}}}"#).fails("auth is not base64"),
        docker("an entry is null", r#"{"auths":{"{0}":null}}"#).ends(),
        docker("an entry has no colon in it", r#"{"auths":{"{0}":{"auth":"aHVudGVyMg=="}}}"#).fails("no password"),
        docker("an entry has a line break in it", r#"{"auths":{"{0}":{"username":"user","password":"hunter2\r\nx: y"}}}"#).fails("a control character"),
        docker("the file of passwords is no JSON", "hunter2").fails("not a file of credentials"),
        docker("the file of passwords has another form", r#"{"auths":"hunter2"}"#).fails("not a file of credentials"),
        docker("the file of passwords is empty", "").fails(nobody),
        docker("a helper is a path", r#"{"credHelpers":{"{0}":"../../../bin/hunter"}}"#).fails("not a helper's name"),
        docker("a helper is not there", r#"{"credHelpers":{"{0}":"nobody"}}"#).fails("docker-credential-nobody: not found on PATH"),
        docker("a helper is for another registry", r#"{"credHelpers":{"example.org":"nobody"}}"#).fails(nobody),
        docker("a token for the registry itself is stored", r#"{"auths":{"{0}":{"registrytoken":"hunter2.token"}}}"#)
            .registry(|asked, scene| match asked.header("authorization") {
                Some("Bearer hunter2.token") => scene.well(asked),
                _ => Reply::challenge("Bearer realm=\"/token\""),
            })
            .pulls(),
        docker("an identity token is stored", r#"{"auths":{"{0}":{"identitytoken":"hunter2.id"}}}"#)
            .registry(|asked, scene| match asked.path() {
                "/token" if asked.method == "POST" && asked.body.contains("refresh_token=hunter2.id") => {
                    Reply::new(200, r#"{"access_token":"hunter2.token"}"#)
                }
                "/token" => Reply::new(400, ""),
                _ if asked.header("authorization") == Some("Bearer hunter2.token") => scene.well(asked),
                _ => Reply::challenge("Bearer realm=\"/token\""),
            })
            .pulls(),
        stored("podman has an entry", "xdg/containers/auth.json", r#"{"auths":{"{0}":{"auth":"{auth}"}}}"#).pulls(),
        stored("podman has an entry for later sessions", "home/.config/containers/auth.json", r#"{"auths":{"{0}":{"auth":"{auth}"}}}"#).pulls(),
        stored("podman has an entry for another, docker one for this", "home/.docker/config.json", r#"{"auths":{"{0}":{"auth":"{auth}"}}}"#)
            .prepare(|t, scene| {
                put(t, scene, "home/.docker/config.json", r#"{"auths":{"{0}":{"auth":"{auth}"}}}"#);
                put(t, scene, "xdg/containers/auth.json", r#"{"auths":{"example.org":{"auth":"eDp5"}}}"#);
            })
            .pulls(),
        stored("the environment names the file", "work/file", r#"{"auths":{"{0}":{"auth":"{auth}"}}}"#)
            .environment("REGISTRY_AUTH_FILE=file")
            .pulls(),
        stored("an option names the file", "work/file", r#"{"auths":{"{0}":{"auth":"{auth}"}}}"#).options("--authfile file").pulls(),
        fault("an option names a file that is not there").registry(private).options("--authfile nothing").for_good().fails("nothing: No such file"),
        fault("a password on the command line is the wrong one")
            .registry(private)
            .options("--creds user:wrong")
            .fails("its credentials are refused")
            .asked(0, 2..=2),
        helper("a helper knows the password", r#"read registry; echo $registry >>$HOME/asked; echo '{"ServerURL":"x","Username":"{user}","Secret":"{password}"}'"#).pulls(),
        helper("a helper knows an identity token", r#"echo '{"Username":"<token>","Secret":"hunter2.id"}'"#)
            .registry(|asked, scene| match asked.path() {
                "/token" if asked.method == "POST" => Reply::new(200, r#"{"access_token":"hunter2.token"}"#),
                _ if asked.header("authorization") == Some("Bearer hunter2.token") => scene.well(asked),
                _ => Reply::challenge("Bearer realm=\"/token\""),
            })
            .pulls(),
        helper("a helper knows nothing", "echo credentials not found in native keychain; exit 1").fails(nobody),
        helper("a helper fails, and says why", "echo the keychain is locked; exit 1").fails("the keychain is locked"),
        helper("a helper fails, and says too much", r#"echo '{"Username":"user","Secret":"hunter2-Zq"}'; exit 1"#).fails("docker-credential-tests: exit status: 1"),
        helper("a helper's complaint is for a terminal", r#"printf 'no\033[31m\r\nimg-pull: done'; exit 1"#).fails("docker-credential-tests"),
        helper("a helper answers with something else", "echo hunter2").fails("no Username and Secret"),
        helper("a helper never stops to answer", "yes and on").fails("docker-credential-tests"),
        helper("a helper dies", "kill -9 $$").fails("signal: 9"),
        helper("a helper reads no question and says nothing", "exec <&-; exit 0").fails("no Username and Secret"),
        helper("a helper knows a password with line breaks in it", r#"echo '{"Username":"user","Secret":"hunter2\r\nx: y"}'"#).fails("127.0.0.1:"),
    ];
    faults.push(
        fault("the registry asks for the password of another host")
            .registry(|_, scene| Reply::challenge(format!("Basic realm=\"{}\"", scene.at(1))))
            .bait("127.0.0.1:0")
            .anonymous()
            .prepare(|t, scene| {
                put(t, scene, "home/.docker/config.json", r#"{"auths":{"{1}":{"auth":"{auth}"}}}"#)
            })
            .fails(nobody),
    );
    faults
}

#[test]
fn a_password_is_for_the_registry_it_was_stored_for() {
    run_all(faults());
}
