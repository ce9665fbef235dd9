//! img-pull: images from a registry, whole or not at all.

use std::process::Stdio;
use std::thread::sleep;
use std::time::{Duration, Instant};

use sandbox::image::{Image, PACK, busybox, busybox_layer, for_two_platforms};
use sandbox::line::Line;
use sandbox::{Sandbox, lacks};
use serde_json::json;

/// Returns a sandbox with a registry that has the image as `app:1`, or nothing if this machine has no registry.
fn with_registry() -> Option<Sandbox> {
    if lacks(&["docker-registry", "jq"]) {
        return None;
    }
    let t = Sandbox::new().with_registry();
    t.registry().add(busybox(), "app", "1");
    Some(t)
}

/// Returns an image on top of busybox with some megabytes that do not compress.
fn large(name: &str, megabytes: usize) -> Image {
    let layer = format!("# {name}\nhead -c {megabytes}M /dev/urandom >{name}; {PACK}");
    Image::new(&[&busybox_layer(), &layer], &json!({ "Cmd": ["sh"] }))
}

/// A script that succeeds silently if every blob of the store hashes to its name.
const VALID: &str = "cd $TARE_ROOT/images/blobs/sha256 && sha256sum * | awk '$1 != $2'";

#[test]
fn the_result_is_the_name_and_its_digest() {
    let Some(t) = with_registry() else { return };
    let name = format!("{}/app:1@{}", t.registry().address(), busybox().digest);
    t.sh("img-pull -q $REGISTRY/app:1").prints(&format!("{name}\n"));
    t.sh("img-ls -q").prints(&format!("{name}\n"));
    t.sh(VALID).is_silent();
    t.sh("ls -A $TARE_ROOT/images").prints("blobs\nindex.json\noci-layout\n");
}

#[test]
fn progress_goes_to_stderr() {
    let Some(t) = with_registry() else { return };
    t.sh("img-pull $REGISTRY/app:1 2>/dev/null | wc -l").prints("1\n");
    t.sh("rm -r $TARE_ROOT/images; img-pull --progress json $REGISTRY/app:1 2>log >/dev/null; jq -e type log | sort -u")
        .prints("\"object\"\n");
    t.sh("rm -r $TARE_ROOT/images; img-pull --progress none $REGISTRY/app:1 | wc -l").prints("1\n");
}

#[test]
fn an_ordinary_user_pulls() {
    if lacks(&["root"]) {
        return;
    }
    let Some(t) = with_registry() else { return };
    let t = t.as_user();
    t.sh("unset TARE_ROOT; img-pull -q $REGISTRY/app:1 >name && stat -c %U:%a $HOME/.local/share/tare")
        .prints("tare-test:700\n");
}

#[test]
fn what_is_here_is_not_fetched_again() {
    let Some(t) = with_registry() else { return };
    t.sh("img-pull -q $REGISTRY/app:1 >name").is_silent();
    let before = t.registry().requests().len();
    t.sh("img-pull -q $REGISTRY/app@$(sed s/.*@// name)").prints(&format!(
        "{}/app@{}\n",
        t.registry().address(),
        busybox().digest
    ));
    assert_eq!(t.registry().requests().len(), before, "a digest that is here needs no network");
    t.sh("img-pull -q $REGISTRY/app:1 >name").is_silent();
    let after = t.registry().requests();
    assert!(after[before..].iter().all(|line| !line.contains("/blobs/")), "{after:?}");
}

#[test]
fn an_unknown_tag_names_the_nearest() {
    let Some(t) = with_registry() else { return };
    t.registry().add(busybox(), "app", "1.20");
    t.registry().add(busybox(), "app", "1.21");
    let name = format!("{}/app", t.registry().address());
    t.sh("img-pull $REGISTRY/app:1.22").fails(&format!(
        "img-pull: {name}:1.22: manifest not found in {name}\n\
         hint: the nearest tags are 1.20, 1.21 and 1\n"
    ));
    t.sh("img-ls -q; ls -A $TARE_ROOT/images/blobs/sha256 | wc -l").prints("0\n");
}

#[test]
fn a_registry_that_is_not_there_is_an_error() {
    let t = Sandbox::new();
    let run = t
        .sh("img-pull --retry 0 127.0.0.1:1/app")
        .exits(1)
        .says("img-pull: 127.0.0.1:1/app:latest: ");
    assert!(run.stdout.is_empty());
    t.sh("img-pull --retry 0 127.0.0.1:1/app 2>/dev/null | img-tag - app")
        .exits(1)
        .says("no image on stdin");
}

#[test]
fn one_that_fails_does_not_keep_others_from_coming() {
    let Some(t) = with_registry() else { return };
    let run = t.sh("img-pull -q $REGISTRY/nope $REGISTRY/app:1").exits(1).says("nope");
    let name = format!("{}/app:1@{}\n", t.registry().address(), busybox().digest);
    assert_eq!(String::from_utf8(run.stdout).unwrap(), name);
}

#[test]
fn names_may_come_on_stdin() {
    let Some(t) = with_registry() else { return };
    t.registry().add(busybox(), "app", "2");
    t.sh("printf '%s\\n' $REGISTRY/app:1 $REGISTRY/app:2 | img-pull -q --stdin | wc -l")
        .prints("2\n");
    t.sh("printf '%s\\0' $REGISTRY/app:1 $REGISTRY/app:2 | img-pull -q --stdin -0 | wc -l")
        .prints("2\n");
    t.sh("img-pull --stdin").is_silent();
    t.sh("img-pull -q -a $REGISTRY/app | wc -l").prints("2\n");
}

#[test]
fn a_layout_is_pulled_to_and_read_by_its_name() {
    let Some(t) = with_registry() else { return };
    let name = format!("{}/app:1@{}", t.registry().address(), busybox().digest);
    t.sh("img-pull -q --layout out $REGISTRY/app:1").prints(&format!("./out:{name}\n"));
    t.sh("img-pull -q --layout ./out $REGISTRY/app:1 | img-tag - copy")
        .prints(&format!("./out:copy:latest@{}\n", busybox().digest));
    t.sh("test ! -e $TARE_ROOT/images/index.json || img-ls -q").is_silent();
}

#[test]
fn the_platform_is_chosen_from_the_index() {
    let Some(t) = with_registry() else { return };
    let (index, other) = for_two_platforms();
    t.registry().add(&index, "multi", "1");
    let name = format!("{}/multi", t.registry().address());
    t.sh("img-pull -q $REGISTRY/multi:1").prints(&format!("{name}:1@{}\n", busybox().digest));
    // The index leads to the manifest that was chosen, without a network.
    let before = t.registry().requests().len();
    t.sh(&format!("img-pull -q $REGISTRY/multi@{}", index.digest))
        .prints(&format!("{name}@{}\n", busybox().digest));
    assert_eq!(t.registry().requests().len(), before);

    t.sh("img-pull -q --platform linux/s390x $REGISTRY/multi:1")
        .prints(&format!("{name}:1@{}\n", other.digest));
    t.sh("img-pull -q --platform linux/mips $REGISTRY/multi:1")
        .exits(1)
        .says("linux/s390x")
        .says(&format!("linux/{}", sandbox::image::architecture()));
    t.sh("img-pull -q --all-platforms $REGISTRY/multi:1")
        .prints(&format!("{name}:1@{}\n", index.digest));
}

#[test]
fn a_pull_that_was_killed_is_gone_on_with() {
    if lacks(&["docker-registry", "jq"]) {
        return;
    }
    let t = Sandbox::new().with_registry();
    let image = large("resumed", 8);
    t.registry().add(&image, "large", "1");
    let line = Line::to(t.registry().address(), 4 << 20);
    t.set("REGISTRY", line.address());

    let mut pull = t.command("exec img-pull -q $REGISTRY/large:1").spawn().unwrap();
    let start = Instant::now();
    while line.received() < 4 << 20 {
        assert!(start.elapsed() < Duration::from_secs(60) && pull.try_wait().unwrap().is_none());
        sleep(Duration::from_millis(5));
    }
    pull.kill().unwrap();
    pull.wait().unwrap();

    t.sh("jq .manifests[] $TARE_ROOT/images/index.json 2>/dev/null; true").prints("");
    t.sh(VALID).is_silent();
    line.hurry();
    let before = line.received();
    t.sh("img-pull -q $REGISTRY/large:1 | wc -l").prints("1\n");
    let rest = line.received() - before;
    assert!(rest < 6 << 20, "the second run fetched {rest} bytes of 8 MiB once more");
    t.sh(VALID).is_silent();
}

#[test]
fn a_pull_that_is_interrupted_dies_of_the_signal() {
    if lacks(&["docker-registry"]) {
        return;
    }
    let t = Sandbox::new().with_registry();
    t.registry().add(&large("interrupted", 8), "large", "1");
    let line = Line::to(t.registry().address(), 1 << 20);
    t.set("REGISTRY", line.address());
    t.sh("img-pull -q $REGISTRY/large:1 & sleep 0.7; kill -TERM $!; wait $!").exits(143);
    t.sh("rm -rf $TARE_ROOT/images/.partial").is_silent();
}

#[test]
fn eight_at_once_all_succeed() {
    if lacks(&["docker-registry"]) {
        return;
    }
    let t = Sandbox::new().with_registry();
    for i in 0..8 {
        let shared = format!("seq 400000 >shared; {PACK}");
        let own = format!("# {i}\necho {i} >own; {PACK}");
        let image = Image::new(&[&busybox_layer(), &shared, &own], &json!({}));
        t.registry().add(&image, &format!("app{i}"), "1");
    }
    t.sh("for i in $(seq 0 7); do img-pull -q $REGISTRY/app$i:1 >$i & done; wait; cat [0-7] | sort >all")
        .is_silent();
    t.sh("img-ls -q | sort | diff - all; wc -l <all").prints("8\n");
    t.sh(VALID).is_silent();
}

#[test]
fn a_blob_that_is_not_what_its_digest_says_is_refused() {
    let Some(t) = with_registry() else { return };
    let layer = busybox().manifest()["layers"][0]["digest"].as_str().unwrap().to_owned();
    let hex = layer.strip_prefix("sha256:").unwrap();
    let path = format!("registry/data/docker/registry/v2/blobs/sha256/{}/{hex}/data", &hex[..2]);
    let mut bytes = std::fs::read(t.path(&path)).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(t.path(&path), bytes).unwrap();
    let run = t.sh("img-pull -q --retry 0 $REGISTRY/app:1").exits(1).says(&layer);
    assert!(run.stdout.is_empty());
    t.sh("img-ls -q").prints("");
    t.sh(VALID).is_silent();
}

#[test]
fn credentials_are_found_where_docker_and_podman_keep_them() {
    if lacks(&["docker-registry"]) {
        return;
    }
    // user:secret, as htpasswd -B writes it.
    let t = Sandbox::new();
    let htpasswd =
        t.write("htpasswd", "user:$2b$04$eYUI9A8RLjd7U6PHSImtzO6RfPqh7yF5ouXbigT3wtQj5AfQds7AS\n");
    let t = t.with_registry_of(&format!(
        "auth: {{htpasswd: {{realm: tests, path: {}}}}}",
        htpasswd.display()
    ));
    t.registry().add(busybox(), "app", "1");
    let result = format!("{}/app:1@{}\n", t.registry().address(), busybox().digest);
    let run = t.sh("img-pull -q $REGISTRY/app:1").exits(1);
    assert!(run.stdout.is_empty());
    t.sh("img-pull -q --creds user:wrong $REGISTRY/app:1").exits(1);
    t.sh("img-pull -q --creds user:secret $REGISTRY/app:1").prints(&result);

    let auth = |file: &str| {
        format!(
            "mkdir -p $(dirname {file}); printf '{{\"auths\": {{\"%s\": {{\"auth\": \"%s\"}}}}}}' $REGISTRY $(printf user:secret | base64) >{file}"
        )
    };
    for (file, set) in [
        ("$HOME/.docker/config.json", ""),
        ("$XDG_RUNTIME_DIR/containers/auth.json", ""),
        ("./file", "REGISTRY_AUTH_FILE=./file"),
    ] {
        t.sh("rm -rf $TARE_ROOT/images").is_silent();
        t.sh(&format!("{}; {set} img-pull -q $REGISTRY/app:1; rm {file}", auth(file)))
            .prints(&result);
    }
    t.sh(&format!(
        "{}; rm -r $TARE_ROOT/images; img-pull -q --authfile f $REGISTRY/app:1",
        auth("f")
    ))
    .prints(&result);

    // A helper may write where it likes, which img-pull itself may not.
    t.sh(r#"mkdir bin; cat >bin/docker-credential-noting <<'END'
#!/bin/sh
read registry; echo $registry >$HOME/asked
echo '{"Username": "user", "Secret": "secret"}'
END
        chmod +x bin/docker-credential-noting
        echo '{"credsStore": "noting"}' >$HOME/.docker/config.json"#)
        .is_silent();
    t.sh("rm -r $TARE_ROOT/images; PATH=$PWD/bin:$PATH img-pull -q $REGISTRY/app:1")
        .prints(&result);
    t.sh("test $(cat $HOME/asked) = $REGISTRY").is_silent();
}

#[test]
fn a_cut_line_is_no_failure() {
    let Some(t) = with_registry() else { return };
    // A registry that is restarted in the middle: the first connection breaks.
    let line = Line::to(t.registry().address(), 200 << 10);
    t.set("REGISTRY", line.address());
    let pull =
        t.command("exec img-pull -q $REGISTRY/app:1").stdout(Stdio::piped()).spawn().unwrap();
    sleep(Duration::from_millis(500));
    line.hurry();
    line.cut();
    let out = pull.wait_with_output().unwrap();
    assert!(out.status.success());
}
