//! img-tag: another name for an image.

use sandbox::image::{Image, PACK, busybox};
use sandbox::{Sandbox, lacks};
use serde_json::json;

#[test]
fn a_name_is_given_and_printed_whole() {
    let t = Sandbox::with_image("app:v1");
    t.sh("img-tag app:v1 app").prints(&format!("app:latest@{}\n", busybox().digest));
    t.sh("jq -r '.manifests[].annotations[\"org.opencontainers.image.ref.name\"]' \
            $TARE_ROOT/images/index.json | sort")
        .prints("docker.io/library/app:latest\ndocker.io/library/app:v1\n");
}

#[test]
fn an_unknown_image_is_an_error_with_a_hint() {
    let t = Sandbox::with_image("app:v1");
    t.sh("img-tag app:v9 app").fails(
        "img-tag: app:v9: no such image\n\
         hint: app:v1 is here; img-pull app:v9, or img-ls for what is here\n",
    );
}

#[test]
fn the_digest_of_an_index_that_is_not_whole_is_the_image_that_was_chosen_from_it() {
    let t = Sandbox::new().with_registry();
    let other = Image::new(&[&format!("echo other >other; {PACK}")], &json!({}));
    let index = Image::index(&[
        (&other, json!({ "os": "linux", "architecture": "s390x" })),
        (busybox(), json!({ "os": "linux", "architecture": sandbox::image::architecture() })),
    ]);
    t.registry().add(&index, "app", "1");
    t.sh("img-pull -q $REGISTRY/app:1 >out").is_silent();
    let line = format!("b:latest@{}\n", busybox().digest);
    t.sh(&format!("img-tag {} b; img-save b | img-load --root other", index.digest))
        .prints(&line.repeat(2));
    // Whole, it is what it is.
    t.store(&index, "all");
    t.sh(&format!("img-tag {} c", index.digest)).prints(&format!("c:latest@{}\n", index.digest));
}

#[test]
fn the_index_stays_the_owners_whatever_the_umask() {
    let t = Sandbox::with_image("app:v1");
    busybox().copy_to(&t.path("work/out"), "v1");
    t.sh("umask 077; img-tag ./out:v1 v2 >line; img-tag app:v1 b >line; img-save b | img-load --root new >line
          stat -c %a out/index.json $TARE_ROOT/images/index.json new/images/index.json")
        .prints("644\n644\n644\n");
    if lacks(&["root"]) {
        return;
    }
    t.sh("chown -R 12345:23456 out; umask 077; img-tag ./out:v1 v3 >line; img-rm ./out:v3 >line
          stat -c '%a %u %g' out/index.json")
        .prints("644 12345 23456\n");
}

#[test]
fn many_at_once_lose_nothing() {
    let t = Sandbox::with_image("app:v1");
    t.sh("for i in $(seq 40); do img-tag app:v1 app:$i >$i & done; wait; cat $(seq 40) | wc -l")
        .prints("40\n");
    t.sh("jq '.manifests | length' $TARE_ROOT/images/index.json").prints("41\n");
}
