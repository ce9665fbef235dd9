//! `--cache-from` and `--cache-to`: what one has built, others need not build.

use std::time::Duration;

use sandbox::image::read_json;
use sandbox::{Sandbox, lacks};

/// Two stages whose steps tell, outside of all layers, that they were done.
const DOCKERFILE: &str = "FROM base AS tool\nRUN --mount=type=cache,target=/c echo tool >>/c/n; echo 1 >/t\n\
     FROM base\nCOPY f /\nRUN --mount=type=cache,target=/c echo app >>/c/n; cat /f >/out\nCOPY --from=tool /t /t\n";

/// Starts a store that has nothing but the base: `other NAME`.
const OTHER: &str = "other() { img-save base | img-load -q --root $1 >/dev/null; }; ";

fn sandbox() -> Sandbox {
    let t = Sandbox::with_image("base");
    t.write("Dockerfile", DOCKERFILE);
    t.sh("echo 1 >f; printf '*\\n!f\\n' >.dockerignore").is_silent();
    t
}

/// Returns which steps were done in a store.
fn done(t: &Sandbox, root: &str) -> String {
    let find = format!("find {root}/cache/mounts -name n 2>/dev/null");
    t.sh(&format!("{find} | xargs -r cat | sort | xargs")).text()
}

#[test]
fn what_is_in_a_directory_is_not_done_again() {
    let t = sandbox();
    let first = t.sh("img-build -q --cache-to type=local,dest=c,mode=max .").text();
    assert_eq!(done(&t, "$TARE_ROOT"), "app tool\n");
    t.sh(&format!("{OTHER} other two; img-build --root two --explain --cache-from ./c . 2>said"))
        .prints(&first);
    t.sh("grep -o 'hit: .*' said; grep -c '(cached)' said").prints(
        "hit: from ./c:cache:latest\nhit: from ./c:cache:latest\nhit: from ./c:cache:latest\nhit: from ./c:cache:latest\n4\n",
    );
    // From then on it is a result of that store, and what it gave is an image.
    t.sh("mv c gone; img-build -q --root two -t app --cache-from ./c .")
        .prints(&format!("app:latest@{first}"));
    assert_eq!(done(&t, "two"), "\n");
    t.sh("img-unpack --root two --rootfs app tree >/dev/null; cat tree/out tree/t")
        .prints("1\n1\n");
    // What differs is done, on top of what does not.
    t.sh(&format!(
        "{OTHER} other three; echo 2 >f; img-build -q --root three --cache-from ./gone:cache ."
    ))
    .text();
    assert_eq!(done(&t, "three"), "app\n");
}

#[test]
fn what_is_in_a_registry_is_not_done_again() {
    if lacks(&["docker-registry"]) {
        return;
    }
    let t = sandbox().with_registry();
    let to = "type=registry,ref=$REGISTRY/a/cache:main,mode=max";
    let first = t.sh(&format!("img-build -q --cache-to {to} .")).text();
    t.sh(&format!(
        "{OTHER} other two; img-build -q --root two --cache-from $REGISTRY/a/cache:main ."
    ))
    .prints(&first);
    assert_eq!(done(&t, "two"), "\n");
    // A layer comes when its step is wanted, and not before.
    let blobs = |t: &Sandbox| {
        let is_blob =
            |line: &&String| line.contains("http.request.method=GET") && line.contains("/blobs/");
        t.registry().requests().iter().filter(is_blob).count()
    };
    let before = blobs(&t);
    t.sh(&format!(
        "{OTHER} other three; img-build -q --root three --target tool --cache-from $REGISTRY/a/cache:main ."
    ))
    .text();
    assert_eq!(done(&t, "three"), "\n");
    // What the cache has, the layer, and the config that is none.
    assert!(blobs(&t) - before <= 3, "{}", blobs(&t) - before);
    // Nothing of it is an image's name, and nothing is left.
    t.sh("img-ls --root two -q | cut -d@ -f1 | sort; find two/cache -name 'source-*'")
        .prints("base:latest\nsha256\n".replace("sha256\n", "").as_str());
    // The same build writes the same cache.
    t.sh(&format!(
        "digest() {{ img-pull -q --platform tare/build-cache --layout $1 $REGISTRY/a/cache:main | sed s/.*@//; }}
         digest one >x; img-build -q --root two --cache-to {to} . >/dev/null; digest two.l >y; cmp x y"
    ))
    .is_silent();
}

#[test]
fn others_carry_a_cache_as_they_carry_images() {
    if lacks(&["docker-registry", "skopeo"]) {
        return;
    }
    let t = sandbox().with_registry();
    let first = t.sh("img-build -q --cache-to type=local,dest=c,mode=max .").text();
    t.sh("skopeo copy -q --all --dest-tls-verify=false oci:c:docker.io/library/cache:latest docker://$REGISTRY/b:1
          skopeo copy -q --all --src-tls-verify=false docker://$REGISTRY/b:1 oci:back:moved")
        .is_silent();
    for (root, from) in [("two", "$REGISTRY/b:1"), ("three", "type=local,src=back,tag=moved")] {
        t.sh(&format!("{OTHER} other {root}; img-build -q --root {root} --cache-from {from} ."))
            .prints(&first);
        assert_eq!(done(&t, root), "\n");
    }
    // And nobody takes it for an image.
    t.sh("img-pull -q $REGISTRY/b:1").says("no image for linux/").exits(1);
}

#[test]
fn what_is_written_is_the_result_or_all_that_was_built() {
    let t = sandbox();
    t.sh("img-build -q --cache-to ./min --cache-to type=local,dest=max,mode=max . >/dev/null")
        .is_silent();
    // The last one takes its file from the other stage, so that has to be built.
    let steps = |dir: &str| {
        let index = read_json(&t.path(format!("work/{dir}/index.json")));
        let blob = |digest: &str| {
            read_json(&t.path(format!("work/{dir}/blobs/{}", digest.replace(':', "/"))))
        };
        let index = blob(index["manifests"][0]["digest"].as_str().unwrap());
        let members = index["manifests"].as_array().unwrap().len();
        let head = blob(index["manifests"][0]["digest"].as_str().unwrap());
        let config = blob(head["config"]["digest"].as_str().unwrap());
        (config["steps"].as_array().unwrap().len(), members - 1)
    };
    assert_eq!((steps("min"), steps("max")), ((3, 3), (4, 3)));
    t.sh(&format!("{OTHER} other two; img-build -q --root two --cache-from ./min . >/dev/null"))
        .is_silent();
    assert_eq!(done(&t, "two"), "tool\n");
}

#[test]
fn what_is_to_be_done_anew_is_done_anew() {
    let t = sandbox();
    t.sh("img-build -q --cache-to type=local,dest=c,mode=max . >/dev/null").is_silent();
    for (root, flags, expected) in [
        ("two", "--no-cache --cache-from ./c", "app tool\n"),
        ("three", "--no-cache-filter tool --cache-from ./c", "tool\n"),
        ("four", "", "app tool\n"),
    ] {
        t.sh(&format!("{OTHER} other {root}; img-build -q --root {root} {flags} . >/dev/null"))
            .is_silent();
        assert_eq!(done(&t, root), expected, "{flags}");
    }
}

#[test]
fn a_cache_that_cannot_be_read_is_a_warning_and_one_that_cannot_be_written_an_error() {
    let t = sandbox();
    let first = t.sh("img-build -q .").text();
    let warned = |from: &str| {
        let build = format!("img-build --no-cache-filter none --cache-from {from} . 2>&1 >out");
        t.sh(&format!(
            "rm -rf two; {OTHER} other two; TARE_ROOT=$PWD/two; export TARE_ROOT; {build} | grep -c warning:; {build} | sed -n 's/.*warning: --cache-from //p'; cat out"
        ))
        .text()
    };
    // Once, and of a store that has all not at all.
    assert_eq!(warned("./none"), format!("1\n{first}"));
    t.sh(&format!("{OTHER} other three; img-build --root three --cache-from ./none . 2>&1 | sed -n 's/.*warning: //p'"))
        .prints("--cache-from ./none:cache:latest: not an image layout: ./none/oci-layout: ./none: No such file or directory (os error 2)\n");
    t.sh(&format!("{OTHER} other four; img-build --root four --cache-from localhost:1/a . 2>&1 | sed -n 's/.*warning: //p' | grep -c 'cache-from localhost:1/a:latest: .*refused'"))
        .prints("1\n");
    // An image is no cache, and is not fetched for one.
    t.sh("img-build -q --layout img -t x . >/dev/null; img-build --no-cache-filter x --cache-from ./img:x --build-arg A=1 -f - . <<E 2>&1 | sed -n 's/.*warning: --cache-from //p'\nFROM base\nARG A\nRUN echo $A\nE\n")
        .prints("./img:x:latest: not a build cache, but application/vnd.oci.image.config.v1+json\n");

    t.write("file", "");
    t.sh("img-build -q -t app --cache-to ./file --cache-to ./good . 2>said").outputs(
        &format!("app:latest@{first}"),
        "",
        1,
    );
    t.sh("grep -c -- '--cache-to ./file:cache:latest: .*Not a directory' said; test -f good/oci-layout; img-ls -q app | wc -l").prints("1\n1\n");
    t.sh("img-build -q --cache-to type=local,dest=file,ignore-error=true . 2>said; grep -c cache-to said")
        .prints(&format!("{first}1\n"));
    t.sh("img-build -q --cache-to type=gha .").exits(2);
    t.sh("img-build -q --cache-from type=inline .").says("type=inline is not done here").exits(2);
}

#[test]
fn a_build_that_ends_otherwise_leaves_the_cache_as_it_was() {
    let t = sandbox();
    t.sh("img-build -q --cache-to ./c . >/dev/null; cp c/index.json before").is_silent();
    t.sh("printf 'FROM base\\nRUN echo >/x\\nRUN false\\n' | img-build -q --cache-to ./c -f - .")
        .exits(1);
    t.sh("cmp before c/index.json; find c/.partial 2>/dev/null; :").is_silent();
    let slow = "printf 'FROM base\\nRUN echo >/x\\nRUN echo here; sleep 1003\\n' >D
        { exec env --default-signal=INT img-build --cache-to ./c -f D . >out 2>said; } &
        while ! grep -q '| here' said 2>/dev/null; do sleep 0.02; done";
    for signal in ["TERM", "KILL"] {
        t.sh(&format!(
            "{slow}; kill -{signal} $!; wait $! 2>/dev/null; rm said; cmp before c/index.json"
        ))
        .is_silent();
    }
    t.sh("img-build -q --no-cache . >/dev/null; pgrep -f '[s]leep 1003'").outputs("", "", 1);
}

#[test]
fn a_build_that_is_ended_takes_along_who_fetches_for_it() {
    let t = sandbox();
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let registry = silent.local_addr().unwrap().to_string();
    for (signal, status) in [("TERM", 143), ("KILL", 137)] {
        t.sh(&format!(
            "img-build --cache-from {registry}/a . >out 2>said &
             until pgrep -f '[i]mg-pull .*{registry}/a' >pid; do sleep 0.02; done; kill -{signal} $!; wait $! 2>/dev/null; status=$?
             while kill -0 $(cat pid) 2>/dev/null; do sleep 0.02; done; exit $status"
        ))
        .exits(status);
    }
    // What a killed one has left goes with the next that needs such a directory.
    t.sh("touch -d '2 hours ago' $TARE_ROOT/cache/source-*; img-build -q --cache-from localhost:1/a . >/dev/null
          ls $TARE_ROOT/cache | grep source")
        .outputs("", "", 1);
}

#[test]
fn of_many_that_write_one_cache_each_leaves_a_good_one() {
    let t = sandbox().with_limit(Duration::from_secs(240));
    t.sh("for i in 1 2 3 4 5 6; do
              printf 'FROM base\\nCOPY f /f\\nRUN echo %s >/i\\n' $((i % 2)) >D$i
              img-build -q -f D$i --cache-to ./c . >out.$i &
          done; wait; sort -u out.* | wc -l")
        .prints("2\n");
    t.sh(&format!(
        "{OTHER} other two; for i in 1 2; do img-build --root two -f D$i --cache-from ./c . 2>&1 >/dev/null | grep -c cached; done | sort"
    ))
    .prints("1\n2\n");
    t.sh("img-prune -a -f --layout c >/dev/null 2>&1; img-build --root two -q -f D1 --cache-from ./c . | wc -l").prints("1\n");
}

/// Rewrites a cache: `steps FILTER` changes the head's config, `step FILTER` the first step's manifest.
const FORGE: &str = r#"
    blob() { sha=$(sha256sum <$1 | cut -c-64); mv $1 c/blobs/sha256/$sha; echo $sha; }
    of() { jq -r "$2" c/blobs/sha256/$1 | cut -d: -f2; }
    desc() { jq -c --arg d "sha256:$2" --argjson s $(stat -c %s c/blobs/sha256/$2) "$3 |= (.digest = \$d | .size = \$s)" c/blobs/sha256/$1 >n; blob n; }
    root() { jq -r .manifests[0].digest c/index.json | cut -d: -f2; }
    # Puts the head that is at $1 into the index, and the index into index.json.
    name() { index=$(desc $(root) $1 '.manifests[0]'); jq -c --arg d "sha256:$index" --argjson s $(stat -c %s c/blobs/sha256/$index) '.manifests[0] |= (.digest = $d | .size = $s)' c/index.json >n; mv n c/index.json; }
    steps() { head=$(of $(root) .manifests[0].digest); jq -c "$@" c/blobs/sha256/$(of $head .config.digest) >n; name $(desc $head $(blob n) .config); }
    config() { head=$(of $(root) .manifests[0].digest); name $(desc $head $(blob $1) .config); }
    # Has all steps come from a manifest whose layer is the file $1.
    layer() { old=$(of $(root) .manifests[1].digest); new=$(desc $old $(blob $1) '.layers[0]'); steps --arg m "sha256:$new" '.steps[].manifest = $m'; }
"#;

#[test]
fn what_is_in_a_cache_is_not_believed() {
    let t = sandbox().with_limit(Duration::from_secs(240));
    let first = t.sh("img-build -q --cache-to type=local,dest=good,mode=max .").text();
    let zeros = format!("sha256:{}", "0".repeat(64));
    let table: &[(&str, &str)] = &[
        // Nothing is known of these keys.
        (&format!("steps '.steps[].key = \"{zeros}\"'"), ""),
        ("steps '.steps[0].key = \"../../x\"'", "not a list of steps"),
        ("steps '{}'", "not a list of steps"),
        ("head -c 10000000 /dev/urandom >g; config g", "a document of more than 4194304 bytes"),
        ("yes '{\"a\":' | head -c 1000000 >g; config g", "not a list of steps"),
        // The layer of another step, whose manifest and blob are all right.
        ("steps '.steps[].manifest = .steps[0].manifest'", "its layer unpacks to"),
        (&format!("steps '.steps[].manifest = \"{zeros}\"'"), "not in the layout"),
        (&format!("steps '.steps[].diffId = \"{zeros}\"'"), "its layer unpacks to"),
        // More is said of a layer than what it is.
        (
            "m=$(jq -r '.steps[0].manifest' c/blobs/sha256/$(of $(of $(root) .manifests[0].digest) .config.digest) | cut -d: -f2)
             jq -c '.layers[0] += {urls: [\"https://x.invalid/y\"], annotations: {a: \"b\"}}' c/blobs/sha256/$m >n; steps --arg m \"sha256:$(blob n)\" '.steps[0].manifest = $m'",
            "",
        ),
        // The blob is another one, or none.
        (
            "for b in $(find c/blobs -type f -size -2k); do head -c2 $b | grep -q '{' || echo x >$b; done",
            "corrupt",
        ),
        (
            "for b in $(find c/blobs -type f -size -2k); do head -c2 $b | grep -q '{' || rm $b; done",
            "not in the layout",
        ),
        // No layer.
        ("echo hello >g; layer g", "not a layer"),
        ("head -c 1000000 /dev/zero >g; layer g", "its layer unpacks to"),
        // More than a tar may have, were it read to its end.
        ("truncate -s 1G g; tar -c g | gzip -1 >h; rm g; layer h", "its layer unpacks to"),
        ("rm -r c/blobs; ln -s / c/blobs", "leaves the layout"),
        ("mkfifo f1; mv f1 c/index.json", "not a regular file"),
        ("echo '{}' >c/index.json", "not an index"),
    ];
    for (forge, expected) in table {
        let out = t.sh(&format!(
            "{FORGE} {OTHER} chmod -R u+w two c 2>/dev/null; rm -rf two c; cp -r good c; {forge}
             other two; img-build --root two --cache-from ./c . 2>said; sed -n 's/.*warning: //p' said >warned"
        ));
        assert_eq!(String::from_utf8_lossy(&out.stdout), first, "{forge}");
        t.sh("cat warned").text();
        let warned = std::fs::read_to_string(t.path("work/warned")).unwrap();
        let right = match expected {
            &"" => warned.is_empty(),
            expected => warned.contains(expected),
        };
        assert!(right, "{forge}: {warned}");
        t.sh("find two/images/.partial two/cache -name 'new-*' -o -name 'source-*' 2>/dev/null; :")
            .is_silent();
    }
}

#[test]
fn several_caches_are_asked_in_turn() {
    let t = sandbox();
    let first = t.sh("img-build -q --cache-to ./app . && img-build -q --target tool --cache-to ./tool . >/dev/null").text();
    t.sh(&format!("{OTHER} other two; img-build --root two -q --cache-from ./none --cache-from ./tool --cache-from ./app ."))
        .prints(&first);
    assert_eq!(done(&t, "two"), "\n");
}

#[test]
fn an_ordinary_user_has_the_same_results() {
    if lacks(&["root", "newuidmap"]) {
        return;
    }
    let t = sandbox();
    let first = t.sh("img-build -q --cache-to type=local,dest=c,mode=max .").text();
    let u = Sandbox::with_image("base").as_user();
    u.write("Dockerfile", DOCKERFILE);
    u.sh("echo 1 >f; printf '*\\n!f\\n' >.dockerignore").is_silent();
    let dir = t.path("work/c").display().to_string();
    u.sh(&format!("img-build -q --cache-from {dir} --cache-to ./mine .")).prints(&first);
    assert_eq!(done(&u, "$TARE_ROOT"), "\n");
    u.sh("stat -c %U mine/index.json").prints("tare-test\n");
}
