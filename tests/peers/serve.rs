//! img-serve beside skopeo, podman and buildah: they push to it and pull from it.

use sandbox::dockerd::Dockerd;
use sandbox::image::{busybox, for_two_platforms};
use sandbox::{Sandbox, lacks};

use super::{CONTAINERS, PEERS};
use crate::img_serve::server::Server;

/// `user:secret`, as htpasswd -B writes it.
const USERS: &str = "user:$2b$04$eYUI9A8RLjd7U6PHSImtzO6RfPqh7yF5ouXbigT3wtQj5AfQds7AS\n";

/// A script that succeeds silently if every blob hashes to its name.
const VALID: &str = "cd $TARE_ROOT/images/blobs/sha256 && sha256sum * | awk '$1 != $2'";

#[test]
fn skopeo_pushes_lists_inspects_pulls_and_deletes() {
    if lacks(PEERS) {
        return;
    }
    let t = Sandbox::new();
    busybox().copy_to(&t.path("work/theirs"), "app");
    let server = Server::start(&t, "--writable");
    t.set("SERVED", &server.address);
    t.sh("skopeo copy -q --dest-tls-verify=false oci:theirs:app docker://$SERVED/app:1 &&
          skopeo copy -q --dest-tls-verify=false oci:theirs:app docker://$SERVED/team/app:2 &&
          skopeo copy -q --dest-tls-verify=false --format v2s2 oci:theirs:app docker://$SERVED/docker:1 &&
          skopeo copy -q --src-tls-verify=false --dest-tls-verify=false docker://$SERVED/app:1 docker://$SERVED/copy:1")
        .is_silent();
    t.sh("img-ls -q | sed 's/@.*//' | sort | xargs").prints("app:1 copy:1 docker:1 team/app:2\n");
    t.sh("skopeo inspect --tls-verify=false -f '{{.Digest}}' docker://$SERVED/app:1")
        .prints(&format!("{}\n", busybox().digest));
    t.sh("skopeo list-tags --tls-verify=false docker://$SERVED/team/app | jq -r '.Tags[]'")
        .prints("2\n");
    t.sh("for name in app:1 team/app:2 docker:1 copy:1 library/app:1; do
              skopeo copy -q --src-tls-verify=false docker://$SERVED/$name oci:back:${name##*/} || exit
          done; ls -A back")
        .prints("blobs\nindex.json\noci-layout\n");
    // What they pushed runs where it lies.
    t.sh("for name in app:1 docker:1; do ctr-spawn --rm $name echo $name; done")
        .prints("app:1\ndocker:1\n");
    t.sh("skopeo delete --tls-verify=false docker://$SERVED/docker:1; img-ls -q | grep -c docker")
        .exits(1);
    t.sh(VALID).is_silent();
}

#[test]
fn skopeo_copies_all_platforms_both_ways() {
    if lacks(PEERS) {
        return;
    }
    let t = Sandbox::new();
    let (index, _) = for_two_platforms();
    index.copy_to(&t.path("work/theirs"), "multi");
    let server = Server::start(&t, "--writable");
    t.set("SERVED", &server.address);
    t.sh("skopeo copy -q --all --dest-tls-verify=false oci:theirs:multi docker://$SERVED/multi:1")
        .is_silent();
    // The members have no names beside the index's.
    t.sh("img-ls -a -q").prints(&format!("multi:1@{}\n", index.digest));
    t.sh("skopeo copy -q --all --src-tls-verify=false docker://$SERVED/multi:1 oci:back:multi &&
          skopeo inspect --raw oci:back:multi | sha256sum | cut -d' ' -f1")
        .prints(&format!("{}\n", index.digest.strip_prefix("sha256:").unwrap()));
    t.sh("img-pull -q --layout one $SERVED/multi:1").prints(&format!(
        "./one:{}/multi:1@{}\n",
        server.address,
        busybox().digest
    ));
    t.sh(VALID).is_silent();
}

#[test]
fn podman_and_buildah_push_and_pull() {
    if lacks(PEERS) {
        return;
    }
    let t = Sandbox::with_image("app:v1");
    let server = Server::start(&t, "--writable");
    t.set("SERVED", &server.address);
    t.sh(&format!(
        "{CONTAINERS}
         podman pull -q --tls-verify=false $SERVED/app:v1 >/dev/null &&
         podman inspect -f '{{{{.Digest}}}}' $SERVED/app:v1 &&
         podman push -q --tls-verify=false $SERVED/app:v1 $SERVED/team/podman:1 &&
         podman push -q --tls-verify=false --format v2s2 $SERVED/app:v1 $SERVED/team/podman:2 &&
         podman rmi -f -a >/dev/null &&
         podman pull -q --tls-verify=false $SERVED/team/podman:1 >/dev/null &&
         podman pull -q --tls-verify=false $SERVED/team/podman:2 >/dev/null &&
         podman inspect -f '{{{{.Config.Cmd}}}}' $SERVED/team/podman:1 $SERVED/team/podman:2"
    ))
    .prints(&format!("{}\n[sh]\n[sh]\n", busybox().digest));
    t.sh(&format!(
        "{CONTAINERS}
         c=$(buildah from -q --tls-verify=false $SERVED/app:v1) && buildah config --cmd 'echo built' $c &&
         buildah commit -q --tls-verify=false $c docker://$SERVED/built:1 >/dev/null; buildah rm $c >/dev/null"
    ))
    .is_silent();
    t.sh("ctr-spawn --rm team/podman:1 echo 1; ctr-spawn --rm team/podman:2 echo 2; ctr-spawn --rm built:1")
        .prints("1\n2\nbuilt\n");
    t.sh(VALID).is_silent();
}

#[test]
fn they_log_in_over_tls() {
    if lacks(PEERS) || lacks(&["openssl"]) {
        return;
    }
    let t = Sandbox::new();
    busybox().copy_to(&t.path("work/theirs"), "app");
    t.write("users", USERS);
    t.sh("openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost \
            -addext subjectAltName=IP:127.0.0.1 -addext basicConstraints=critical,CA:FALSE -keyout key.pem -out cert.pem 2>/dev/null; mkdir certs; cp cert.pem certs/ca.crt")
        .is_silent();
    let server =
        Server::start(&t, "--writable --tls-cert cert.pem --tls-key key.pem --htpasswd users");
    t.set("SERVED", &server.address);
    t.sh("skopeo copy -q --dest-cert-dir certs oci:theirs:app docker://$SERVED/app:1")
        .exits(1)
        .says("authentication required");
    t.sh("echo wrong | skopeo login -q --cert-dir certs -u user --password-stdin --authfile auth $SERVED").exits(1);
    t.sh("echo secret | skopeo login --cert-dir certs -u user --password-stdin --authfile auth $SERVED")
        .prints("Login Succeeded!\n");
    t.sh("skopeo copy -q --dest-cert-dir certs --authfile auth oci:theirs:app docker://$SERVED/app:1 &&
          skopeo copy -q --src-cert-dir certs --authfile auth docker://$SERVED/app:1 oci:back:app")
        .is_silent();
    t.sh(&format!(
        "{CONTAINERS}
         echo secret | podman login --cert-dir certs -u user --password-stdin --authfile pauth $SERVED &&
         podman pull -q --cert-dir certs --authfile pauth $SERVED/app:1 >/dev/null &&
         podman push -q --cert-dir certs --authfile pauth $SERVED/app:1 $SERVED/app:2"
    ))
    .prints("Login Succeeded!\n");
    t.sh("img-ls -q | sed 's/@.*//' | sort | xargs").prints("app:1 app:2\n");
}

#[test]
fn skopeo_copies_what_a_layout_holds_to_a_registry_and_back() {
    if lacks(PEERS) {
        return;
    }
    let t = Sandbox::with_image("app:1");
    t.sh("img-tag app:1 team/app:2 >/dev/null").is_silent();
    let from = Server::start(&t, "");
    let to = Server::start(&t, "--writable ./new");
    t.set("FROM", &from.address);
    t.set("TO", &to.address);
    t.sh("skopeo sync --src docker --dest docker --src-tls-verify=false --dest-tls-verify=false $FROM/team/app $TO/mirror >log 2>&1")
        .is_silent();
    t.sh("img-pull -q $TO/mirror/app:2").prints(&format!(
        "{}/mirror/app:2@{}\n",
        to.address,
        busybox().digest
    ));
}

#[test]
fn docker_pushes_and_pulls() {
    if lacks(&["root", "dockerd", "nsenter"]) {
        return;
    }
    let t = Sandbox::with_image("app:1");
    t.write("users", USERS);
    let dockerd = Dockerd::start(&t);
    // Where docker can reach it: it takes plain HTTP from loopback.
    let serve = |options: &str| {
        let enter = format!(
            "exec nsenter -t {} -n img-serve --listen 127.0.0.1:0 {options}",
            dockerd.pid()
        );
        Server::started_by(t.command(&enter))
    };
    let open = serve("--writable");
    t.set("SERVED", &open.address);
    let digest = &busybox().digest;
    for name in ["app:1", "library/app:1"] {
        t.sh(&format!("$DOCKER pull -q $SERVED/{name}"))
            .prints(&format!("{}/{name}\n", open.address));
    }
    t.sh("$DOCKER inspect -f '{{index .RepoDigests 0}}' $SERVED/app:1")
        .prints(&format!("{}/app@{digest}\n", open.address));
    t.sh(
        "$DOCKER tag $SERVED/app:1 $SERVED/team/docker:2 && $DOCKER push -q $SERVED/team/docker:2",
    )
    .prints(&format!("{}/team/docker:2\n", open.address));
    t.sh("ctr-spawn --rm team/docker:2 echo pushed").prints("pushed\n");
    t.sh("$DOCKER rmi -f $($DOCKER images -q | sort -u) >/dev/null && $DOCKER pull -q $SERVED/team/docker:2 | wc -l").prints("1\n");

    let closed = serve("--htpasswd users");
    t.set("SERVED", &closed.address);
    t.sh("$DOCKER pull -q $SERVED/app:1").exits(1).says("no basic auth credentials");
    t.sh("echo wrong | $DOCKER login -u user --password-stdin $SERVED").exits(1);
    t.sh("echo secret | $DOCKER login -u user --password-stdin $SERVED 2>/dev/null && $DOCKER pull -q $SERVED/app:1 | wc -l")
        .prints("Login Succeeded\n1\n");
    t.sh(VALID).is_silent();
}
