//! Stages: what one hands to the next, what triggers of images do to their order, and how the others end when one fails.

use std::time::Duration;

use sandbox::image::architecture;
use sandbox::run::Run;
use sandbox::{Sandbox, lacks};

fn build(t: &Sandbox, dockerfile: &str, options: &str) -> Run {
    t.write("Dockerfile", dockerfile);
    t.sh(&format!("img-build -q {options} . >id"))
}

/// Prints a file of the last image.
fn file(t: &Sandbox, path: &str) -> String {
    t.sh(&format!("ctr-spawn --rm -i - cat {path} <id")).text()
}

#[test]
fn a_trigger_of_an_image_takes_from_a_stage_that_nobody_else_needs() {
    if lacks(&["newuidmap"]) && !nix::unistd::geteuid().is_root() {
        return;
    }
    let t = Sandbox::with_image("base").with_limit(Duration::from_secs(60));
    build(
        &t,
        "FROM base\nONBUILD COPY --from=tool /made /\nONBUILD RUN echo ran >/ran\n",
        "-t trap",
    )
    .exits(0);
    let tool = "FROM base AS tool\nRUN echo tool >/made\n";
    build(&t, &format!("{tool}FROM trap\n"), "").is_silent();
    assert_eq!(file(&t, "/made /ran"), "tool\nran\n");
    // As one that is squashed or has other bases, and through a stage that begins with it.
    build(&t, &format!("{tool}FROM trap AS one\nFROM one\nRUN true\n"), "").is_silent();
    assert_eq!(file(&t, "/made /ran"), "tool\nran\n");
    for (lines, said) in [
        ("FROM trap AS tool\n", "Dockerfile:1: COPY: stage tool does not come before this one"),
        ("FROM trap\nFROM base AS tool\n", ""),
        (
            "FROM trap AS x\nFROM base AS tool\nFROM x\n",
            "Dockerfile:1: COPY: stage tool does not come before this one",
        ),
    ] {
        let run = build(&t, lines, "");
        match said {
            "" => run.is_silent(),
            said => drop(run.exits(1).says(said)),
        }
    }
    build(&t, "FROM base\nONBUILD RUN --mount=from=0,target=/m true\n", "-t self").exits(0);
    build(&t, "FROM self\n", "").exits(1).says("Dockerfile:1: RUN: ");
}

#[test]
fn a_stage_that_fails_ends_the_others() {
    let t = Sandbox::with_image("base").with_limit(Duration::from_secs(60));
    let lines = "FROM base AS slow\nRUN echo begun >&2; sleep 1000\nRUN touch /x\nFROM base AS bad\nRUN sleep 1; echo oh; exit 3\n\
                 FROM base\nCOPY --from=slow /x /\nCOPY --from=bad /x /\n";
    let run = build(&t, lines, "");
    assert!(run.took < Duration::from_secs(20), "{:?}", run.took);
    // What the other one wrote is no part of what went wrong.
    run.outputs("", "oh\nimg-build: Dockerfile:5: RUN: exit status 3\n", 1);
    t.sh("find $TARE_ROOT/containers/.build -mindepth 1 ! -name .rm 2>/dev/null; ps ax | grep '[s]leep 1000'; :").is_silent();
}

#[test]
fn a_stage_goes_on_with_what_env_said() {
    let t = Sandbox::with_image("base");
    let lines =
        "FROM base AS one\nENV V=env\nARG V=arg\nRUN echo $V >/one\nFROM one\nRUN echo $V >/two\n";
    build(&t, lines, "").is_silent();
    assert_eq!(file(&t, "/one /two"), "arg\nenv\n");
}

#[test]
fn the_image_is_of_the_platform_that_was_asked_for() {
    let t = Sandbox::with_image("base");
    let lines = "FROM --platform=$BUILDPLATFORM base\nCOPY Dockerfile /\n";
    build(&t, lines, "--platform linux/s390x").is_silent();
    t.sh("img-inspect --config - <id | jq -r '.os + \"/\" + .architecture'")
        .prints("linux/s390x\n");
    build(&t, "FROM --platform=linux/arm64 scratch\nCOPY Dockerfile /\n", "--platform local")
        .is_silent();
    t.sh("test \"$(img-inspect --config - <id | jq -r .architecture)\" = \"$(img-inspect --config base | jq -r .architecture)\"").is_silent();
    // What is here is taken, and it is said that it is another's.
    t.write("Dockerfile", "FROM base\nCOPY Dockerfile /\n");
    t.sh("img-build --platform linux/s390x .")
        .says("img-build: Dockerfile:1: FROM: the image is for linux/")
        .exits(0);
}

#[test]
fn a_registry_that_cannot_be_asked_does_not_change_the_platform() {
    if lacks(&["docker-registry", "jq"]) {
        return;
    }
    let t = Sandbox::new().with_registry();
    let both = format!("--platform linux/s390x,linux/{} -t $REGISTRY/multi:1", architecture());
    build(&t, "FROM scratch\nCOPY Dockerfile /\n", &both).is_silent();
    t.sh("img-push -q - <id | wc -l; rm -r $TARE_ROOT").prints("1\n");
    // The name means the image of another platform here; this machine's is in the same index.
    t.sh("img-pull -q $REGISTRY/multi:1; img-pull -q --platform linux/s390x $REGISTRY/multi:1 |
         img-tag - gone.invalid/multi:1")
        .exits(0);
    build(&t, "FROM gone.invalid/multi:1\nCOPY Dockerfile /\n", "").is_silent();
    let built = "img-inspect --config - <id | jq -r .architecture";
    t.sh(built).prints(&format!("{}\n", architecture()));

    t.sh("rm -r $TARE_ROOT; img-pull -q --platform linux/s390x $REGISTRY/multi:1 |
         img-tag - gone.invalid/multi:1")
        .exits(0);
    build(&t, "FROM gone.invalid/multi:1\nCOPY Dockerfile /\n", "")
        .exits(1)
        .says("hint: FROM --platform=linux/s390x gone.invalid/multi:1 if that is meant");
    build(&t, "FROM --platform=linux/s390x gone.invalid/multi:1\nCOPY Dockerfile /\n", "")
        .is_silent();
    t.sh(built).prints("s390x\n");
}

#[test]
fn a_check_in_the_file_looks_at_what_is_built() {
    let t = Sandbox::with_image("base");
    let late = "FROM base AS a\nCOPY --from=later /x /y\nFROM base AS later\nCOPY Dockerfile /x\n";
    build(&t, &format!("# check=skip=StageNameCasing\n{late}"), "").is_silent();
    build(&t, "# check=error=true\nFROM base AS Odd\nFROM base\nCOPY Dockerfile /x\n", "")
        .exits(1)
        .says("warnings are errors");
    build(
        &t,
        "# check=error=true\nFROM base AS odd\nWORKDIR x\nFROM base\nCOPY Dockerfile /x\n",
        "",
    )
    .is_silent();
    build(&t, "# check=error=true\nFROM base\nWORKDIR x\n", "")
        .exits(1)
        .says("warnings are errors");
}

#[test]
fn an_annotation_is_for_the_manifest() {
    let t = Sandbox::with_image("base");
    t.write("Dockerfile", "FROM scratch\nCOPY Dockerfile /\n");
    t.sh("img-build -q -t app --annotation manifest:a=1 --annotation org.x:y=2 . >id; img-inspect --manifest app | jq -c .annotations")
        .prints("{\"a\":\"1\",\"org.x:y\":\"2\"}\n");
    for (name, said) in [
        ("index:a", "only a manifest has annotations here"),
        ("index,manifest:a", "only a manifest has annotations here"),
        ("manifest[linux/amd64]:a", "all platforms have the same annotations here"),
    ] {
        t.sh(&format!("img-build -q --annotation '{name}=1' .")).exits(2).says(said);
    }
}
