//! Archives: what others write we load, what we write they load, and nothing of an image is lost on the way.

use sandbox::dockerd::Dockerd;
use sandbox::image::{Image, PACK, PATH, busybox_layer};
use sandbox::{Sandbox, lacks};
use serde_json::json;

use super::CONTAINERS;

/// Returns an image with one of each thing that a layer can hold, and what removes things.
fn image() -> Image {
    let things = format!(
        "mkdir -p app/empty app/sticky etc; chmod 1777 app/sticky; echo 'print(6*7)' >app/answer; ln app/answer app/hard
         ln -s answer app/symlink; ln -s /nowhere app/dangling; mkfifo app/fifo; mknod app/null c 1 3
         echo x >app/setuid; chmod 4755 app/setuid; echo x >app/owned; chown 12345:54321 app/owned
         echo utf8 >'app/héllo wörld'; echo long >app/$(printf '%0120d' 0); echo inside >etc/motd
         setfattr -n user.key -v value app/answer; seq 100000 >app/large
         {} --xattrs",
        PACK.trim_end_matches(" -c .")
    ) + " -c .";
    let gone = format!("mkdir etc app; : >etc/.wh.motd; echo more >app/more; {PACK}");
    let config = json!({
        "Env": [PATH, "A=b c"], "Cmd": ["sh", "-c", "echo runs"], "User": "1000:50", "WorkingDir": "/app",
        "Labels": { "org.example.label": "a \"quoted\" one" }, "ExposedPorts": { "80/tcp": {} },
    });
    Image::new(&[&busybox_layer(), &things, &gone], &config)
}

/// What tells whether two images are one.
///
/// `manifest` and `config` print a digest, `tree` all that is in an image once it is unpacked.
const TELL: &str = r#"
    manifest() { img-ls --root $1 -q | sed 's/.*@//' | sort -u; }
    config() { jq -r .config.digest $1/images/blobs/$(manifest $1 | tr : /); }
    tree() {
        rm -rf tree; img-unpack -q --root $1 --rootfs $(manifest $1) ./tree >/dev/null
        (cd tree; find . -type f -exec sha256sum {} +; getfattr -R -d -m user . 2>/dev/null
            find . ! -type d -printf '%p %y %m %U:%G %s %t %n %l\n' -o -printf '%p %y %m %U:%G %t\n') | sort; rm -rf tree
    }
    same_tree() { tree $TARE_ROOT >1.tree; tree $1 >2.tree; cmp 1.tree 2.tree; test -s 1.tree; }
    same_config() { test $(config $1) = $(config $TARE_ROOT) || echo "$1: another config"; }
    same_manifest() { test $(manifest $1) = $(manifest $TARE_ROOT) || echo "$1: another manifest"; }
    set -e
"#;

/// Returns a sandbox with the image as `app:v1`, and the archive of it in `app.tar`.
fn with_archive() -> Sandbox {
    let t = Sandbox::new();
    t.store(&image(), "app:v1");
    t.sh("img-save -o app.tar app:v1").is_silent();
    t
}

#[test]
fn skopeo_and_we() {
    if lacks(&["root", "skopeo", "setfattr"]) {
        return;
    }
    let t = with_archive();
    // It loads ours, whichever of the two it takes it for.
    t.sh(&format!(
        "{TELL} skopeo copy -q oci-archive:app.tar:docker.io/library/app:v1 oci:1:x; img-save ./1:x | img-load --root a >x
         same_manifest a; same_tree a
         skopeo copy -q docker-archive:app.tar:app:v1 oci:2:x; img-save ./2:x | img-load --root b >x; same_tree b
         img-save --format docker -o docker.tar app:v1; img-save --format oci -o oci.tar app:v1
         skopeo copy -q docker-archive:docker.tar oci:3:x; img-save ./3:x | img-load --root c >x; same_tree c
         # What it makes an OCI image of, it writes anew.
         for archive in app docker; do
             test $(skopeo inspect --raw docker-archive:$archive.tar | jq -r .config.digest) = $(config $TARE_ROOT)
         done
         skopeo copy -q oci-archive:oci.tar oci:4:x; img-save ./4:x | img-load --root d >x; same_manifest d"
    ))
    .is_silent();
    // And we load its own.
    t.sh(&format!(
        "{TELL} from=oci-archive:app.tar
         skopeo copy -q $from oci-archive:oci:app:v1; img-load --root e -i oci; same_manifest e
         skopeo copy -q $from docker-archive:docker:app:v1; img-load --root f -i docker | sed s/@.*//; same_config f; same_tree f
         gzip -1 docker; img-load --root g <docker.gz | sed s/@.*//; same_config g
         skopeo copy -q --dest-compress-format zstd $from oci-archive:zstd:app:v1; cat zstd | img-load --root h | sed s/@.*//; same_config h; same_tree h"
    ))
    .prints(&format!("app:v1@{}\napp:v1\napp:v1\napp:v1\n", image().digest));
}

#[test]
fn podman_and_we() {
    if lacks(&["root", "podman", "setfattr"]) {
        return;
    }
    let t = with_archive();
    let config = image().manifest()["config"]["digest"].as_str().unwrap().replace("sha256:", "");
    t.sh(&format!(
        "{TELL}{CONTAINERS}
         img-tag app:v1 team/again >x; img-save -o both.tar app:v1 team/again
         img-save --format docker -o docker.tar app:v1; img-save --format oci -o oci.tar app:v1
         for archive in app docker oci both; do
             podman load -q -i $archive.tar; podman inspect -f '{{{{.Id}}}}' app:v1; podman rmi -fa >/dev/null
         done; img-save app:v1 | podman load -q"
    ))
    .prints(&format!(
        "Loaded image: docker.io/library/app:v1\n{config}\nLoaded image: docker.io/library/app:v1\n{config}\n\
         Loaded image: docker.io/library/app:v1\n{config}\n\
         Loaded image: docker.io/library/app:v1\nLoaded image: docker.io/team/again:latest\n{config}\n\
         Loaded image: docker.io/library/app:v1\n"
    ));
    t.sh(&format!(
        "{TELL}{CONTAINERS}
         podman load -q -i app.tar >x
         podman save -q --format docker-archive app:v1 | img-load --root a | sed s/@.*//; same_config a; same_tree a
         podman save -q --format oci-archive -o oci app:v1; img-load --root b -i oci | sed s/@.*//; same_tree b
         podman tag app:v1 team/again:v2; podman save -q -m -o many app:v1 team/again:v2; img-load --root c -i many | sed s/@.*// | sort; same_config c"
    ))
    .prints("app:v1\napp:v1\napp:v1\nlocalhost/team/again:v2\n");
}

#[test]
fn umoci_and_we() {
    if lacks(&["root", "umoci", "setfattr"]) {
        return;
    }
    let t = with_archive();
    t.sh(&format!(
        "{TELL} mkdir ours; tar -C ours -xf app.tar; umoci unpack --image ours:docker.io/library/app:v1 bundle >/dev/null 2>&1
         test -s bundle/rootfs/app/large; umoci new --image ours:new; umoci config --image ours:docker.io/library/app:v1 --tag v2 --config.cmd id
         umoci rm --image ours:new; umoci rm --image ours:docker.io/library/app:v1; umoci gc --layout ours
         tar -C ours -c . | img-load --root a | sed s/@.*//; same_tree a; rm -rf bundle ours"
    ))
    .prints("v2:latest\n");
}

#[test]
fn docker_and_we() {
    if lacks(&["root", "dockerd", "unshare", "setfattr"]) {
        return;
    }
    let t = with_archive();
    let dockerd = Dockerd::start(&t);
    let config = image().manifest()["config"]["digest"].as_str().unwrap().to_owned();
    t.sh(&format!(
        "{TELL} img-tag app:v1 team/again:v2 >x; img-save --format docker -o docker.tar app:v1 team/again:v2
         for archive in app docker; do
             $DOCKER load -q -i $archive.tar; $DOCKER inspect -f '{{{{.Id}}}}' app:v1; $DOCKER rmi -f $($DOCKER images -q | sort -u) >/dev/null
         done; img-save app:v1 team/again:v2 | $DOCKER load -q"
    ))
    .prints(&format!(
        "Loaded image: app:v1\n{config}\nLoaded image: app:v1\nLoaded image: team/again:v2\n{config}\n\
         Loaded image: app:v1\nLoaded image: team/again:v2\n"
    ));
    t.sh(&format!(
        "{TELL} $DOCKER save app:v1 | img-load --root a | sed s/@.*//; same_config a; same_tree a
         $DOCKER save -o many app:v1 team/again:v2; img-load --root b -i many | sed s/@.*// | sort; same_config b; same_tree b
         xz -0 many; img-load --root c <many.xz | wc -l; $DOCKER save {config} | img-load --root d | cut -d: -f1; same_tree d"
    ))
    .prints("app:v1\napp:v1\nteam/again:v2\n2\nsha256\n");
    drop(dockerd);
}
