//! img-push: images to a registry, whole, or their name is not moved.

use std::fs;
use std::thread::sleep;
use std::time::{Duration, Instant};

use sandbox::faulty::tls;
use sandbox::image::{Image, PACK, busybox, busybox_layer, for_two_platforms, read_json, sha256};
use sandbox::line::Line;
use sandbox::{Sandbox, lacks};
use serde_json::json;

use crate::img_serve::server::Server;

/// `user:secret`, as htpasswd -B writes it.
pub const HTPASSWD: &str = "user:$2b$04$eYUI9A8RLjd7U6PHSImtzO6RfPqh7yF5ouXbigT3wtQj5AfQds7AS\n";

/// Returns a sandbox with a registry, and the image as `app` in the store, or nothing if this machine has no registry.
fn with_registry() -> Option<Sandbox> {
    if lacks(&["docker-registry", "jq"]) {
        return None;
    }
    Some(Sandbox::with_image("app").with_registry())
}

/// Returns an image on top of busybox with some megabytes that do not compress.
fn large(name: &str, megabytes: usize) -> Image {
    let layer = format!("# {name}\nhead -c {megabytes}M /dev/urandom >{name}; {PACK}");
    Image::new(&[&busybox_layer(), &layer], &json!({ "Cmd": ["sh"] }))
}

/// Returns how often a blob was sent to the registry.
fn sent(t: &Sandbox) -> usize {
    let requests = t.registry().requests();
    let put = |line: &&String| line.contains("method=PUT") && line.contains("/blobs/uploads/");
    requests.iter().filter(put).count()
}

/// A script that succeeds silently if nothing is left where layers are packed.
const CLEAN: &str = "find $TARE_ROOT/cache -mindepth 1 -maxdepth 1 ! -name used";

#[test]
fn the_result_is_the_name_there_and_its_digest() {
    let Some(t) = with_registry() else { return };
    let address = t.registry().address();
    let line = |name: &str| format!("{address}/{name}@{}\n", busybox().digest);
    t.sh("img-push -q app $REGISTRY/team/app:1").prints(&line("team/app:1"));
    t.sh("img-pull -q --layout out $REGISTRY/team/app:1")
        .prints(&format!("./out:{}", line("team/app:1")));
    t.sh("diff -r $TARE_ROOT/images/blobs out/blobs").is_silent();
    t.sh("img-push -q app $REGISTRY/app").prints(&line("app:latest"));
    t.sh(&format!("img-push -q app $REGISTRY/app:2@{}", busybox().digest)).prints(&line("app:2"));
    t.sh(&format!("img-push -q app $REGISTRY/app@{}", busybox().digest))
        .prints(&format!("{address}/app@{}\n", busybox().digest));
    let other = format!("sha256:{}", "0".repeat(64));
    t.sh(&format!("img-push -q app $REGISTRY/app:3@{other}"))
        .fails(&format!("img-push: {address}/app:3@{other}: the image is {}\n", busybox().digest));
}

#[test]
fn an_image_is_pushed_from_wherever_it_is() {
    let Some(t) = with_registry() else { return };
    let line = |name: &str| format!("{}/{name}@{}\n", t.registry().address(), busybox().digest);
    // Its own name says where.
    t.sh("img-tag app $REGISTRY/a:1 | img-push -q -").prints(&line("a:1"));
    t.sh("img-push -q $REGISTRY/a:1").prints(&line("a:1"));
    busybox().copy_to(&t.path("work/out"), "v1");
    t.sh("img-push -q ./out:v1 $REGISTRY/b:1; img-push -q oci:out $REGISTRY/b:2")
        .prints(&(line("b:1") + &line("b:2")));
    t.sh("tar -C out -cf out.tar . && img-push -q ./out.tar $REGISTRY/c:1").prints(&line("c:1"));
    t.sh("gzip -c out.tar | img-push -q - $REGISTRY/c:2").prints(&line("c:2"));
    t.sh(&format!("img-push -q {} $REGISTRY/d:1", busybox().digest)).prints(&line("d:1"));
    t.sh(CLEAN).is_silent();
    t.sh(&format!("img-push {}", busybox().digest)).outputs(
        "",
        &format!(
            "img-push: {0}: it has no name: push it where?\n\
             hint: img-push {0} HOST/REPOSITORY:TAG\n",
            busybox().digest.strip_prefix("sha256:").unwrap()
        ),
        2,
    );
    t.sh("img-push nope:1 $REGISTRY/x").exits(1).says("img-push: nope:1: no such image\nhint: ");
}

#[test]
fn what_is_there_is_not_sent_again() {
    let Some(t) = with_registry() else { return };
    t.sh("img-push -q app $REGISTRY/app:1 >first").is_silent();
    let first = sent(&t);
    assert_eq!(first, 2, "a config and a layer");
    t.sh("img-push -q app $REGISTRY/app:2 >second").is_silent();
    assert_eq!(sent(&t), first);
    // What has a name in another repository of the registry is taken from there.
    t.sh("img-tag app $REGISTRY/app:2 >tag; img-push -q app $REGISTRY/other:1 >third").is_silent();
    assert_eq!(sent(&t), first);
    t.sh("img-pull -q --layout out $REGISTRY/other:1 >fourth").is_silent();
}

#[test]
fn progress_goes_to_stderr() {
    let Some(t) = with_registry() else { return };
    let name = format!("{}/app:1", t.registry().address());
    let run = t.sh("img-push --progress plain app $REGISTRY/app:1");
    let stderr = String::from_utf8(run.stderr).unwrap();
    assert!(stderr.starts_with(&format!("img-push: {name}: 2 blobs, ")), "{stderr}");
    assert_eq!(stderr.matches(", pushed\n").count(), 2, "{stderr}");
    t.sh("img-push --progress json app $REGISTRY/app:2 2>log >name; jq -r .status log | sort | uniq -c | tr -s ' '")
        .prints(" 1 begin\n 1 done\n 2 exists\n");
}

#[test]
fn an_ordinary_user_pushes() {
    if lacks(&["root"]) {
        return;
    }
    let Some(t) = with_registry() else { return };
    let t = t.as_user();
    t.sh("img-push -q app $REGISTRY/app:1 | wc -l").prints("1\n");
    t.sh("img-push -q --compression zstd app $REGISTRY/app:2 | wc -l").prints("1\n");
}

#[test]
fn all_platforms_go_and_none_may_be_missing() {
    let Some(t) = with_registry() else { return };
    let (index, other) = for_two_platforms();
    t.store(&index, "multi");
    let name = format!("{}/multi", t.registry().address());
    t.sh("img-push -q multi $REGISTRY/multi:1").prints(&format!("{name}:1@{}\n", index.digest));
    t.sh("img-pull -q --platform linux/s390x $REGISTRY/multi:1")
        .prints(&format!("{name}:1@{}\n", other.digest));
    t.sh("img-push -q --platform linux/s390x multi $REGISTRY/one:1").prints(&format!(
        "{}/one:1@{}\n",
        t.registry().address(),
        other.digest
    ));
    t.sh("img-push -q --platform linux/mips multi $REGISTRY/one:1").exits(1).says("linux/s390x");
    t.sh("img-push -q --platform linux/mips app $REGISTRY/one:1")
        .exits(1)
        .says("no image for linux/mips");

    let missing = other.digest.replace(':', "/");
    t.sh(&format!("rm $TARE_ROOT/images/blobs/{missing}; img-push -q multi $REGISTRY/multi:2"))
        .fails(&format!(
            "img-push: multi:latest: blob {}: not in the layout\n\
         hint: img-pull --all-platforms multi:latest, or --platform OS/ARCH for one that is here\n",
            other.digest
        ));
    t.sh("img-pull -q $REGISTRY/multi:2").exits(1).says("manifest not found");
}

#[test]
fn all_tags_of_a_repository_go() {
    let Some(t) = with_registry() else { return };
    let line =
        |tag: &str| format!("{}/team/app:{tag}@{}\n", t.registry().address(), busybox().digest);
    t.sh("for tag in 1 2; do img-tag app $REGISTRY/team/app:$tag; done >/dev/null; img-tag app $REGISTRY/team/apple:3 >/dev/null
          img-push -q -a $REGISTRY/team/app | sort")
        .prints(&(line("1") + &line("2")));
    t.sh("img-pull -q -a --layout out $REGISTRY/team/app | wc -l").prints("2\n");
    t.sh("img-push -q -a $REGISTRY/team/app:1").exits(2).says("a name without tag and digest");
    t.sh("img-push -q -a $REGISTRY/none").exits(1).says("no image has this name");
    t.sh("img-push -a ./out").exits(2).says("--all-tags takes a name in the store");
}

#[test]
fn layers_can_be_packed_anew() {
    let Some(t) = with_registry() else { return };
    if lacks(&["zstd"]) {
        return;
    }
    let before = t.sh("find $TARE_ROOT/images -type f | sort | xargs sha256sum").text();
    // Twice, and from an archive: the same bytes.
    t.sh("img-push -q --compression zstd app $REGISTRY/z:1 | tee z; img-push -q --compression zstd app $REGISTRY/z:1 | cmp - z;
          img-push -q --compression gzip app $REGISTRY/z:2 | sed s/.*@//")
        .ends_with(&format!("\n{}\n", busybox().digest));
    t.sh("img-pull -q --layout out - 2>/dev/null || img-pull -q --layout out $(cat z)").exits(0);
    let digest = t.sh("sed s/.*@// z").text().trim().to_owned();
    assert_ne!(digest, busybox().digest);
    let blob = |digest: &str| t.path("work/out/blobs").join(digest.replace(':', "/"));
    let (new, old) = (read_json(&blob(&digest)), busybox().manifest());
    assert_eq!(new["config"], old["config"], "what the image is stays the same");
    let layer = &new["layers"][0];
    assert_eq!(layer["mediaType"], "application/vnd.oci.image.layer.v1.tar+zstd");
    let path = blob(layer["digest"].as_str().unwrap());
    assert_eq!(layer["size"], fs::metadata(&path).unwrap().len());
    let diff_id = busybox().config()["rootfs"]["diff_ids"][0].as_str().unwrap().to_owned();
    t.sh(&format!("zstd -dcq {} | sha256sum | cut -c1-64", path.display()))
        .prints(&format!("{}\n", diff_id.strip_prefix("sha256:").unwrap()));
    // What was zstd becomes gzip, and other peers' gzip agrees on what is in it.
    t.sh("img-push -q --compression gzip ./out $REGISTRY/z:3 >z3; img-pull -q --layout back $REGISTRY/z:3 >line").is_silent();
    t.sh("jq -r '.layers[0].digest' back/blobs/sha256/$(sed s/.*sha256:// z3) | tr : / >layer
          gzip -dc back/blobs/$(cat layer) | sha256sum | cut -c1-64")
        .prints(&format!("{}\n", diff_id.strip_prefix("sha256:").unwrap()));
    t.sh(CLEAN).is_silent();
    assert_eq!(t.sh("find $TARE_ROOT/images -type f | sort | xargs sha256sum").text(), before);
}

#[test]
fn an_index_is_packed_anew_with_its_members() {
    let Some(t) = with_registry() else { return };
    let (index, _) = for_two_platforms();
    t.store(&index, "multi");
    t.sh("img-push -q --compression zstd multi $REGISTRY/multi:1 >pushed
          img-pull -q --all-platforms $REGISTRY/multi:1 | cmp - pushed")
        .is_silent();
    t.sh("img-pull -q --layout out $REGISTRY/multi:1 | wc -l").prints("1\n");
    t.sh("img-push -q --compression zstd app $REGISTRY/one:1 | sed s/.*@// >one
          jq -r .manifests[0].digest out/index.json | cmp - one")
        .is_silent();
}

#[test]
fn a_layer_that_is_not_what_it_should_be_is_not_packed() {
    let Some(t) = with_registry() else { return };
    let layer = busybox().manifest()["layers"][0]["digest"].as_str().unwrap().to_owned();
    let path = t.path("tare/images/blobs").join(layer.replace(':', "/"));
    let mut bytes = fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&path, bytes).unwrap();
    t.sh("img-push -q --compression zstd app $REGISTRY/app:1")
        .exits(1)
        .says("img-push: app:latest: layer sha256:");
    t.sh("img-push -q app $REGISTRY/app:1").exits(1).says("corrupt: it hashes to sha256:");
    t.sh("img-pull -q $REGISTRY/app:1").exits(1).says("manifest not found");
    t.sh(CLEAN).is_silent();
}

#[test]
fn a_file_can_have_the_digest() {
    let Some(t) = with_registry() else { return };
    t.sh("img-push -q --digest-file digest app $REGISTRY/app:1 >name; sed s/.*@// name | cmp - digest; ls -A")
        .prints("digest\nname\n");
    t.sh("img-push -q --digestfile $PWD/digest app $REGISTRY/app:1 | cmp - name").is_silent();
    t.sh("img-push -q --digest-file none/digest app $REGISTRY/app:3")
        .exits(1)
        .says("img-push: none: No such file");
    t.sh("img-pull -q $REGISTRY/app:3").exits(1);
}

#[test]
fn the_digest_goes_into_a_pipe_as_well() {
    let Some(t) = with_registry() else { return };
    t.sh("mkfifo pipe; cat pipe >digest & img-push -q --digest-file pipe app $REGISTRY/app:1 >name; wait
         sed s/.*@// name | cmp - digest; test -p pipe")
        .is_silent();
    t.sh("img-push -q --digest-file /dev/stdout app $REGISTRY/app:1 | head -1 | cmp - digest")
        .is_silent();
}

#[test]
fn what_is_named_by_digest_alone_gets_no_tag() {
    let Some(t) = with_registry() else { return };
    t.registry().add(busybox(), "app", "latest");
    let other = large("other", 1);
    t.registry().add(&other, "app", "1");
    let name = format!("{}/app", t.registry().address());
    t.sh(&format!("img-pull -q $REGISTRY/app@{0} | img-push -q -", other.digest))
        .prints(&format!("{name}@{}\n", other.digest));
    t.sh("rm -r $TARE_ROOT/images; img-pull -q $REGISTRY/app")
        .prints(&format!("{name}:latest@{}\n", busybox().digest));
}

#[test]
fn a_layer_that_is_not_to_be_handed_on_is_not_sent() {
    let Some(t) = with_registry() else { return };
    let mut manifest = busybox().manifest();
    let layer = manifest["layers"][0].clone();
    manifest["layers"].as_array_mut().unwrap().push(json!({
        "mediaType": "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
        "digest": format!("sha256:{}", "1".repeat(64)), "size": 7, "urls": ["https://example.org/layer"],
    }));
    assert!(layer["urls"].is_null());
    let bytes = manifest.to_string();
    let hex = sha256(bytes.as_bytes());
    fs::write(t.path("tare/images/blobs/sha256").join(&hex), &bytes).unwrap();
    // docker-registry takes no manifest with such URLs unless it is told to; the layer is not the reason.
    let run = t.sh(&format!("img-push -q sha256:{hex} $REGISTRY/app:1"));
    let stderr = String::from_utf8(run.stderr).unwrap();
    assert!(!stderr.contains("not in the layout"), "{stderr}");
    assert_eq!(sent(&t), 2);
}

#[test]
fn a_registry_with_passwords_and_a_certificate_of_our_own() {
    if lacks(&["docker-registry", "openssl"]) {
        return;
    }
    let t = Sandbox::with_image("app");
    let htpasswd = t.write("htpasswd", HTPASSWD);
    let auth = format!("auth: {{htpasswd: {{realm: tests, path: {}}}}}", htpasswd.display());
    let (certificate, key) = (tls::dir().join("unknown.pem"), tls::dir().join("unknown.key"));
    let t = t.with_registry_over_tls(&auth, [&certificate, &key]);
    let address = t.registry().address().to_owned();
    t.sh("img-push -q app $REGISTRY/app:1").fails(&format!(
        "img-push: {address}/app:1: {address}: its certificate is not trusted: UnknownIssuer\n\
         hint: the certificate of its authority goes to /etc/docker/certs.d/{address}/ca.crt\n"
    ));
    let certs = t.path("home/.config/containers/certs.d").join(&address);
    fs::create_dir_all(&certs).unwrap();
    fs::copy(tls::dir().join("untrusted.pem"), certs.join("ca.crt")).unwrap();
    t.sh("img-push -q app $REGISTRY/app:1").fails(&format!(
        "img-push: {address}/app:1: {address}: authentication required\n\
         hint: img-login {address}, or --creds USER\n"
    ));
    let line = format!("{address}/app:1@{}\n", busybox().digest);
    t.sh("img-push -q --creds user:wrong app $REGISTRY/app:1")
        .exits(1)
        .says("its credentials are refused");
    t.sh("img-push -q --creds user:secret app $REGISTRY/app:1").prints(&line);
    t.sh("echo secret | img-login -u user --password-stdin $REGISTRY").is_silent();
    t.sh("img-push -q app $REGISTRY/app:1").prints(&line);
    t.sh("rm -r $TARE_ROOT/images; img-pull -q $REGISTRY/app:1").prints(&line);
    t.sh("img-logout $REGISTRY; img-push -q $REGISTRY/app:1")
        .exits(1)
        .says("authentication required");
}

/// Pushes `image` through a line that is cut after so many bytes, and sees that it arrives all the same.
fn push_and_cut(t: &Sandbox, line: &Line, bytes: u64, image: &Image) {
    let push = t.command("exec img-push -q --retry-delay 10ms app $REGISTRY/app:1 >name").spawn();
    let mut push = push.unwrap();
    let start = Instant::now();
    while line.received() < bytes {
        assert!(start.elapsed() < Duration::from_secs(60) && push.try_wait().unwrap().is_none());
        sleep(Duration::from_millis(5));
    }
    line.cut();
    line.hurry();
    assert!(push.wait().unwrap().success());
    t.sh("cut -d@ -f2 name").prints(&format!("{}\n", image.digest));
}

#[test]
fn a_cut_line_is_no_failure() {
    if lacks(&["docker-registry"]) {
        return;
    }
    let t = Sandbox::new().with_registry();
    let image = large("cut", 4);
    t.store(&image, "app");
    let line = Line::up(t.registry().address(), 1 << 20);
    t.set("REGISTRY", line.address());
    push_and_cut(&t, &line, 1 << 20, &image);
    t.sh("img-pull -q --layout out $REGISTRY/app:1 | wc -l").prints("1\n");
}

#[test]
fn a_cut_upload_is_gone_on_with_where_it_broke_off() {
    let t = Sandbox::new();
    let image = large("resumed", 8);
    t.store(&image, "app");
    busybox().copy_to(&t.path("work/served"), "served");
    let server = Server::start(&t, "--writable ./served");
    let line = Line::up(&server.address, 2 << 20);
    t.set("REGISTRY", line.address());
    push_and_cut(&t, &line, 5 << 20, &image);
    let all: u64 = image.blobs().iter().map(|(_, file)| fs::metadata(file).unwrap().len()).sum();
    let again = line.received().saturating_sub(all);
    assert!(again < 2 << 20, "{again} bytes came twice");
    t.sh("img-pull -q --layout out $REGISTRY/app:1 | wc -l").prints("1\n");
}

#[test]
fn a_push_that_is_interrupted_dies_of_the_signal_and_leaves_nothing() {
    if lacks(&["docker-registry"]) {
        return;
    }
    let t = Sandbox::new().with_registry();
    t.store(&large("interrupted", 8), "app");
    let line = Line::up(t.registry().address(), 1 << 20);
    t.set("REGISTRY", line.address());
    for signal in ["TERM", "INT"] {
        // A shell starts what is in the background with SIGINT ignored.
        t.sh(&format!(
            "{{ echo $$ >pid; exec env --default-signal=INT img-push -q --compression zstd app $REGISTRY/app:1; }} &
             while ! ls $TARE_ROOT/cache/push-* >/dev/null 2>&1; do :; done
             kill -{signal} $!; wait $!"
        ))
        .exits(if signal == "TERM" { 143 } else { 130 });
        t.sh(CLEAN).is_silent();
    }
    t.sh("img-pull -q $REGISTRY/app:1").exits(1);
}

#[test]
fn many_at_once_all_succeed() {
    let Some(t) = with_registry() else { return };
    t.sh("for i in $(seq 8); do img-push -q app $REGISTRY/app:$i >$i & done; wait; cat [1-8] | sort | sed s/.*@// | uniq -c | tr -s ' '")
        .prints(&format!(" 8 {}\n", busybox().digest));
}

#[test]
fn memory_does_not_grow_with_the_image() {
    if lacks(&["docker-registry"]) {
        return;
    }
    let t = Sandbox::new().with_registry();
    t.store(&large("memory", 96), "app");
    // What data may take, the stacks of all threads included: setrlimit(2), RLIMIT_DATA.
    t.sh("ulimit -d 49152; img-push -q app $REGISTRY/app:1 | wc -l").prints("1\n");
}

#[test]
fn a_full_disk_is_an_error_that_leaves_nothing() {
    let Some(t) = with_registry() else { return };
    let run = t.sh("img-push -q app $REGISTRY/app:1 >/dev/full").exits(1);
    run.says("img-push: stdout: No space left on device (os error 28)");
}
