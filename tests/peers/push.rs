//! What img-push has pushed, skopeo and podman pull; what each stores of passwords, the others find.

use sandbox::image::{busybox, for_two_platforms};
use sandbox::{Sandbox, lacks};

use super::CONTAINERS;
use crate::img_push::HTPASSWD;

const PEERS: &[&str] = &["root", "docker-registry", "skopeo", "podman", "jq"];

#[test]
fn skopeo_and_podman_pull_what_was_pushed() {
    if lacks(PEERS) {
        return;
    }
    let t = Sandbox::with_image("app").with_registry();
    let (index, _) = for_two_platforms();
    t.store(&index, "multi");
    t.sh(
        "img-push -q app $REGISTRY/app:1 >/dev/null; img-push -q multi $REGISTRY/multi:1 >/dev/null
          img-push -q --compression zstd app $REGISTRY/zstd:1 | sed s/.*@// >zstd",
    )
    .is_silent();
    let skopeo = "skopeo inspect --tls-verify=false --format {{.Digest}} docker://$REGISTRY";
    t.sh(&format!("{skopeo}/app:1; {skopeo}/multi:1")).prints(&format!(
        "{}\n{}\n",
        busybox().digest,
        index.digest
    ));
    t.sh(&format!("{skopeo}/zstd:1 | cmp - zstd")).is_silent();
    t.sh("skopeo copy -q --all --src-tls-verify=false docker://$REGISTRY/multi:1 oci:back:multi
          jq -r .manifests[0].digest back/index.json")
        .prints(&format!("{}\n", index.digest));
    t.sh("skopeo copy -q --src-tls-verify=false docker://$REGISTRY/zstd:1 oci:zstd.back:app
          ctr-spawn --rm ./zstd.back echo unpacked")
        .prints("unpacked\n");
    t.sh(&format!(
        "{CONTAINERS}
         for name in app multi zstd; do
             id=$(podman pull -q --tls-verify=false $REGISTRY/$name:1) && podman inspect -f '{{{{.Config.Cmd}}}}' $id
         done"
    ))
    .prints("[sh]\n[sh]\n[sh]\n");
}

#[test]
fn a_password_that_one_stores_the_others_find() {
    if lacks(PEERS) {
        return;
    }
    let t = Sandbox::with_image("app");
    let htpasswd = t.write("htpasswd", HTPASSWD);
    let config = format!("auth: {{htpasswd: {{realm: tests, path: {}}}}}", htpasswd.display());
    let t = t.with_registry_of(&config);
    t.sh("echo secret | img-login -u user --password-stdin $REGISTRY; img-push -q app $REGISTRY/app:1 >/dev/null")
        .is_silent();
    let look = "skopeo inspect --tls-verify=false --format {{.Digest}} docker://$REGISTRY/app:1";
    t.sh(look).prints(&format!("{}\n", busybox().digest));
    t.sh(&format!("{CONTAINERS} podman login --get-login $REGISTRY")).prints("user\n");
    t.sh("img-logout $REGISTRY").is_silent();
    t.sh(look).exits(1);

    t.sh(&format!(
        "{CONTAINERS} echo secret | podman login --tls-verify=false -u user --password-stdin $REGISTRY >/dev/null"
    ))
    .is_silent();
    t.sh("img-push -q app $REGISTRY/app:2 | wc -l").prints("1\n");
    t.sh("img-logout $REGISTRY").is_silent();
    t.sh(&format!("{CONTAINERS} podman login --get-login $REGISTRY")).exits(125);
}
