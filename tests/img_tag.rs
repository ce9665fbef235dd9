//! img-tag: another name for an image.

use sandbox::Sandbox;
use sandbox::image::{Image, PACK, busybox};
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
fn many_at_once_lose_nothing() {
    let t = Sandbox::with_image("app:v1");
    t.sh("for i in $(seq 40); do img-tag app:v1 app:$i >$i & done; wait; cat $(seq 40) | wc -l")
        .prints("40\n");
    t.sh("jq '.manifests | length' $TARE_ROOT/images/index.json").prints("41\n");
}
