//! img-build: from a Dockerfile to an image.

mod attacks;
mod cache;
mod clumsy;
mod ends;
mod exchange;
mod language;
mod limits;
mod make;
mod mounts;
mod rough;
mod sources;
mod stages;
mod steps;
mod unmounted;

use sandbox::image::{busybox, read_json};
use sandbox::{Sandbox, lacks};

/// Prints an image's layers, a line for each of its entries but the base's.
const ENTRIES: &str = r#"entries() { img-save "$1" | tar -xO manifest.json | jq -r '.[0].Layers[1:][]' |
    while read -r blob; do img-save "$1" | tar -xO "$blob" | gzip -dc | tar -t --numeric-owner -v --utc |
    sed -E 's/ +/ /g' | cut -d' ' -f1,2,4-; done; }; "#;

fn entries(t: &Sandbox, image: &str) -> String {
    t.sh(&format!("{ENTRIES} entries {image}")).text()
}

#[test]
fn an_image_is_built_and_runs() {
    let t = Sandbox::with_image("base");
    t.sh("mkdir -p app/d; echo one >app/a; echo two >app/d/b").is_silent();
    t.write(
        "app/Dockerfile",
        "FROM base\nARG WHO=me\nENV GREETING=\"hello $WHO\"\nWORKDIR /srv\nCOPY . .\n\
         RUN cat a d/b >all\nUSER 7\nCMD echo $GREETING; cat all; id -u\n",
    );
    let line = t.sh("img-build -q -t app app").text();
    assert!(line.starts_with("app:latest@sha256:") && line.lines().count() == 1, "{line}");
    t.sh("ctr-spawn --rm app").prints("hello me\none\ntwo\n7\n");
    t.sh("img-build -q --build-arg WHO=you app | ctr-spawn --rm -i - sh -c 'echo $GREETING'")
        .prints("hello you\n");
    // It is found again under its first name, and under none if it was given none.
    t.sh("img-ls -q").prints(&format!("{}{}", line, t.sh("img-ls -q | grep -v ^app; :").text()));
}

#[test]
fn a_layer_holds_what_the_step_did_and_no_more() {
    let t = Sandbox::with_image("base");
    t.sh("mkdir -m 700 d; echo x >d/f; chmod 4755 d/f").is_silent();
    t.write(
        "Dockerfile",
        "FROM base\nRUN true\nCOPY --chown=3:4 d /new/d\nRUN rm /new/d/f; mkdir -m 1777 /t\nWORKDIR /a/b\n",
    );
    t.sh("img-build -q -t app .").text();
    // A step that changes nothing has an empty layer.
    let expected = "drwxr-xr-x 3/4 1970-01-01 00:00 new/\n\
         drwxr-xr-x 3/4 1970-01-01 00:00 new/d/\n\
         -rwsr-xr-x 3/4 1970-01-01 00:00 new/d/f\n\
         drwxr-xr-x 0/0 1970-01-01 00:00 ./\n";
    let found = entries(&t, "app");
    for line in expected.lines().take(3) {
        assert!(found.lines().any(|found| found == line), "{line}:\n{found}");
    }
    assert!(found.contains("new/d/.wh.f"), "{found}");
    assert!(found.contains("drwxrwxrwt 0/0 1970-01-01 00:00 t/"), "{found}");
    assert!(found.contains("drwxr-xr-x 0/0 1970-01-01 00:00 a/b/"), "{found}");
    assert!(!found.contains("etc/") && !found.contains("proc"), "{found}");
}

#[test]
fn the_same_inputs_are_the_same_image_to_the_byte() {
    let t = Sandbox::with_image("base");
    t.sh("mkdir -p ctx/d; seq 1000 >ctx/d/s; echo a >ctx/a").is_silent();
    t.write(
        "ctx/Dockerfile",
        "FROM base AS one\nCOPY . /x\nRUN date >/dev/null; echo $SOURCE_DATE_EPOCH >/epoch; touch /now\n\
         FROM base\nCOPY --from=one /x /epoch /y/\nRUN ln /y/a /y/b; ln -s a /y/c\n",
    );
    let first = t.sh("img-build -q ctx").text();
    t.sh("find ctx -exec touch {} +").is_silent();
    assert_eq!(t.sh("img-build -q --no-cache ctx").text(), first);
    // In another place, by somebody else, with nothing there but the base.
    t.sh("cp -r ctx other; img-build -q --root other-store other").exits(1);
    t.sh("img-save base | img-load -q --root store2").text();
    assert_eq!(t.sh("img-build -q --root store2 other").text(), first);

    let u = Sandbox::with_image("base").as_user();
    if !lacks(&["newuidmap"]) {
        u.sh("mkdir -p ctx/d; seq 1000 >ctx/d/s; echo a >ctx/a").is_silent();
        let dockerfile = std::fs::read(t.path("work/ctx/Dockerfile")).unwrap();
        u.write("ctx/Dockerfile", dockerfile);
        assert_eq!(u.sh("img-build -q ctx").text(), first);
    }
    // Another moment is another image.
    assert_ne!(t.sh("SOURCE_DATE_EPOCH=1 img-build -q ctx").text(), first);
}

#[test]
fn the_config_and_the_manifest_say_what_docker_would_say() {
    let t = Sandbox::with_image("base");
    t.write(
        "Dockerfile",
        "FROM base\nLABEL a=1 b=2\nENV X=\"a b\"\nEXPOSE 80 53/udp\nVOLUME /v\nUSER me\nSTOPSIGNAL INT\n\
         SHELL [\"sh\", \"-ec\"]\nHEALTHCHECK --interval=5s CMD true\nONBUILD RUN date\nENTRYPOINT [\"/e\"]\nCMD x\n",
    );
    t.sh("SOURCE_DATE_EPOCH=86400 img-build -q -t app --label b=3 --annotation k=v .").text();
    t.sh("img-inspect --config app | jq -c .config").prints(
        "{\"ArgsEscaped\":true,\"Cmd\":[\"sh\",\"-ec\",\"x\"],\"Entrypoint\":[\"/e\"],\
         \"Env\":[\"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\",\"X=a b\"],\"ExposedPorts\":{\"53/udp\":{},\"80/tcp\":{}},\
         \"Healthcheck\":{\"Interval\":5000000000,\"Test\":[\"CMD-SHELL\",\"true\"]},\
         \"Labels\":{\"a\":\"1\",\"b\":\"3\"},\"OnBuild\":[\"RUN date\"],\"Shell\":[\"sh\",\"-ec\"],\
         \"StopSignal\":\"INT\",\"User\":\"me\",\"Volumes\":{\"/v\":{}}}\n",
    );
    t.sh("img-inspect --config app | jq -r '.created, .history[-1].created_by, .history[-1].empty_layer'")
        .prints("1970-01-02T00:00:00Z\nCMD [\"sh\" \"-ec\" \"x\"]\ntrue\n");
    let digest = &busybox().digest;
    t.sh("img-inspect --manifest app | jq -c .annotations").prints(&format!(
        "{{\"k\":\"v\",\"org.opencontainers.image.base.digest\":\"{digest}\",\
         \"org.opencontainers.image.base.name\":\"docker.io/library/base:latest\"}}\n"
    ));
}

#[test]
fn only_the_stages_that_are_needed_are_built() {
    let t = Sandbox::with_image("base");
    t.write(
        "Dockerfile",
        "FROM base AS a\nRUN echo a >/a\nFROM nowhere.invalid/b AS b\nRUN false\n\
         FROM base AS c\nCOPY --from=a /a /c\nFROM c AS d\nRUN cat /c\n",
    );
    t.sh("img-build -q -t c --target c . >out && ctr-spawn --rm c cat /c").prints("a\n");
    t.sh("img-build -q -t d . >out && ctr-spawn --rm d cat /c").prints("a\n");
    t.sh("img-build -q --target x .")
        .says("img-build: Dockerfile: x: there is no such stage")
        .exits(1);
}

#[test]
fn a_context_is_a_tar_a_dockerfile_alone_or_a_layout() {
    let t = Sandbox::with_image("base");
    t.sh("mkdir c; printf 'FROM base\\nCOPY f /f\\n' >c/Dockerfile; echo f >c/f").is_silent();
    let wanted = t.sh("img-build -q c").text();
    assert_eq!(t.sh("tar -C c -c . | img-build -q -").text(), wanted);
    assert_eq!(t.sh("tar -C c -cz . | img-build -q -").text(), wanted);
    t.sh("printf 'FROM base\\nRUN echo >/x\\n' | img-build -q - | grep -c sha256").prints("1\n");
    t.sh("printf 'FROM ./l:base\\nCOPY f /f\\n' >D").is_silent();
    t.sh("mkdir l && img-save base | tar -C l -x && img-build -q -f D c >out && ctr-spawn --rm -i - cat /f <out")
        .prints("f\n");
    t.sh("printf 'FROM mine\\nCOPY --from=more f /g\\n' >D2; img-build -q -f D2 --build-context mine=oci-layout://l:base --build-context more=c c >out && ctr-spawn --rm -i - cat /g <out")
        .prints("f\n");
}

#[test]
fn the_result_goes_where_it_is_wanted() {
    let t = Sandbox::with_image("base");
    t.write("Dockerfile", "FROM base\nRUN echo hi >/hi\n");
    let line = t.sh("img-build -q -t a:1 -t b --iidfile id --metadata-file m .").text();
    assert_eq!(std::fs::read_to_string(t.path("work/id")).unwrap(), line);
    let digest = line.trim_end().split('@').next_back().unwrap();
    assert_eq!(read_json(&t.path("work/m"))["containerimage.digest"], digest);
    t.sh("img-ls -q | sort | cut -d@ -f1").prints("a:1\nb:latest\nbase:latest\n");
    t.sh("img-build -q -t x --layout ./out .").prints(&format!("./out:x:latest@{digest}\n"));
    t.sh("ctr-spawn --rm ./out:x cat /hi").prints("hi\n");
    t.sh("img-build -q -o tree . && cat tree/hi").prints("hi\n");
    t.sh("img-build -q -o - . | tar -xO hi").prints("hi\n");
    t.sh("img-build -q -t r --output type=docker,dest=a.tar . && img-load -q -i a.tar")
        .prints(&format!("r:latest@{digest}\n"));
    t.sh("img-build -q --output type=nothing .").exits(2);
}

#[test]
fn several_platforms_make_an_index() {
    let t = Sandbox::with_image("base");
    t.write("Dockerfile", "FROM scratch\nARG TARGETARCH\nCOPY <<E /arch\n$TARGETARCH\nE\n");
    t.sh("img-build -q -t app --platform linux/amd64,linux/s390x .").text();
    t.sh("img-inspect --raw app | jq -r '.manifests[].platform.architecture'")
        .prints("amd64\ns390x\n");
    t.sh("img-unpack --rootfs --platform linux/s390x app out >/dev/null; cat out/arch")
        .prints("s390x\n");
}

#[test]
fn squashed_all_but_the_base_is_one_layer() {
    let t = Sandbox::with_image("base");
    t.write("Dockerfile", "FROM base\nRUN echo a >/a; echo b >/b\nRUN rm /a; mkdir /d\nRUN rm -r /etc/passwd; echo c >/b\n");
    t.sh("img-build -q -t app --squash .").text();
    t.sh("img-inspect --manifest app | jq '.layers | length'").prints("2\n");
    t.sh("ctr-spawn --rm app sh -c 'ls -d /a /b /d; cat /b; ls /etc/passwd' 2>/dev/null").outputs(
        "/b\n/d\nc\n",
        "",
        1,
    );
}
