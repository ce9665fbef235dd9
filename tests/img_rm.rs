//! img-rm: the name goes, and with the last name the image.

use sandbox::Sandbox;
use sandbox::image::{Image, PACK, busybox};
use serde_json::json;

use crate::faults::layout;

/// An image with a layer of its own, on one that all of these share.
fn image(n: u32) -> Image {
    Image::new(
        &[&format!("seq 2000 >shared; {PACK}"), &format!("seq {n}000 >own; {PACK}")],
        &json!({ "Cmd": ["sh"], "Labels": { "n": n.to_string() } }),
    )
}

const BLOBS: &str = "ls $TARE_ROOT/images/blobs/sha256 | wc -l";

/// Demands a sound layout with these names, in full, and so many blobs.
#[track_caller]
fn holds(t: &Sandbox, names: &[&str], blobs: usize) {
    let images = t.path("tare/images");
    let found = layout::sound(&images).unwrap();
    assert_eq!(found.keys().collect::<Vec<_>>(), names);
    assert!(layout::stale(&images).is_empty(), "{:?}", layout::stale(&images));
    t.sh(BLOBS).prints(&format!("{blobs}\n"));
}

#[test]
fn the_last_name_takes_the_image_with_it_and_no_other_does() {
    let t = Sandbox::new();
    t.store(&image(1), "app:1");
    t.store(&image(2), "app:2");
    t.sh("img-tag app:1 other >out").is_silent();
    holds(
        &t,
        &["docker.io/library/app:1", "docker.io/library/app:2", "docker.io/library/other:latest"],
        7,
    );
    t.sh("img-rm app:1").prints("app:1\n");
    holds(&t, &["docker.io/library/app:2", "docker.io/library/other:latest"], 7);
    t.sh("img-rm docker.io/library/other").prints("docker.io/library/other\n");
    holds(&t, &["docker.io/library/app:2"], 4);
    t.sh("img-rm app:2").prints("app:2\n");
    holds(&t, &[], 0);
    t.sh("jq -c .manifests $TARE_ROOT/images/index.json").prints("[]\n");
}

#[test]
fn what_can_be_removed_is_and_the_rest_is_said() {
    let t = Sandbox::with_image("app:v1");
    t.sh("img-tag app:v1 b >out; img-tag app:v1 c >out").is_silent();
    t.sh("img-rm nope b sha256:123456 c").outputs(
        "b\nc\n",
        "img-rm: nope:latest: no such image\n\
         hint: img-ls for what is here\n\
         img-rm: 123456: no such image\n\
         hint: img-ls for what is here\n",
        1,
    );
    // What is not there is no failure to who only wants it gone.
    t.sh("img-rm -f nope app:v1").outputs(
        "app:v1\n",
        "img-rm: nope:latest: no such image\nhint: img-ls for what is here\n",
        0,
    );
    holds(&t, &[], 0);
}

#[test]
fn an_id_goes_with_its_name_and_with_several_only_by_force() {
    let t = Sandbox::with_image("app:v1");
    let id = &busybox().digest;
    let digits = &id[7..];
    t.sh("img-tag app:v1 b >out").is_silent();
    for operand in [id.as_str(), digits, &digits[..12]] {
        let shown = if operand == id { digits } else { operand };
        t.sh(&format!("img-rm {operand}")).fails(&format!(
            "img-rm: {shown}: has 2 names\n\
             hint: -f removes all of them: docker.io/library/app:v1, docker.io/library/b:latest\n"
        ));
    }
    t.sh(&format!("img-rm -f {digits}")).prints(&format!("{digits}\n"));
    holds(&t, &[], 0);
    t.store(busybox(), "app:v1");
    t.sh(&format!("img-rm {id}")).prints(&format!("{id}\n"));
    holds(&t, &[], 0);
}

#[test]
fn lists_are_read_from_stdin() {
    let t = Sandbox::new();
    (1..=3).for_each(|n| t.store(&image(n), &format!("app:{n}")));
    t.sh("img-rm --stdin").is_silent();
    t.sh("printf 'app:1\\0' | img-rm --stdin -0").prints("app:1\n");
    t.sh("{ echo A; echo; echo app:2; } | img-rm --stdin").outputs(
        "app:2\n",
        "img-rm: \"A\": a repository's name is lower case: did you mean \"a\"?\n",
        1,
    );
    let line = format!("app:3@{}\n", image(3).digest);
    t.sh("img-ls -q | img-rm --stdin").prints(&line);
    holds(&t, &[], 0);
    // One name is the image on stdin, as for every tool.
    t.store(&image(1), "app:1");
    t.sh("img-tag app:1 b | img-rm - app:1")
        .prints(&format!("b:latest@{}\napp:1\n", image(1).digest));
    holds(&t, &[], 0);
}

#[test]
fn a_pinned_name_goes_only_if_it_means_that_image() {
    let t = Sandbox::new();
    t.store(&image(1), "app");
    t.store(&image(2), "b");
    let (one, two) = (image(1).digest, image(2).digest);
    t.sh(&format!("img-rm app:latest@{two}"))
        .fails(&format!("img-rm: docker.io/library/app:latest: is {one}, not {two}\n"));
    t.sh(&format!("img-rm app:latest@{one} b@{two}"))
        .prints(&format!("app:latest@{one}\nb@{two}\n"));
    holds(&t, &[], 0);
    // No name of another repository has it.
    t.store(&image(1), "app");
    t.sh("img-tag app b:1 >out").is_silent();
    t.sh(&format!("img-rm wrong/name@{one}")).fails(&format!(
        "img-rm: wrong/name@{one}: no such image\nhint: img-ls for what is here\n"
    ));
    t.sh(&format!("img-rm app@{one}")).prints(&format!("app@{one}\n"));
    t.sh(&format!("img-rm b@{one}")).prints(&format!("b@{one}\n"));
    holds(&t, &[], 0);
}

#[test]
fn the_digest_of_the_index_that_it_came_from_leads_to_an_image() {
    let t = Sandbox::new().with_registry();
    let platform = json!({ "os": "linux", "architecture": sandbox::image::architecture() });
    let other = json!({ "os": "linux", "architecture": "s390x" });
    let index = Image::index(&[(&image(1), platform), (&image(2), other)]);
    t.registry().add(&index, "app", "1");
    t.sh("img-pull -q $REGISTRY/app:1 >out").is_silent();
    // The index is kept for its digest, and the other image's manifest is no loss.
    t.sh("img-prune").outputs("", "img-prune: total reclaimed space: 0B\n", 0);
    t.sh(BLOBS).prints("5\n");
    t.sh(&format!("img-rm {}", index.digest)).prints(&format!("{}\n", index.digest));
    holds(&t, &[], 0);
}

#[test]
fn names_go_from_layout_directories() {
    let t = Sandbox::new();
    image(1).copy_to(&t.path("work/out"), "v1");
    image(2).copy_to(&t.path("work/out"), "docker.io/library/app:2");
    t.sh("img-rm ./out")
        .fails("img-rm: ./out: which image?\nhint: it holds v1, docker.io/library/app:2\n");
    t.sh("img-rm ./out:v2")
        .fails("img-rm: ./out:v2: no such image\nhint: it holds v1, docker.io/library/app:2\n");
    t.sh("img-rm ./out:v1 oci:out:app:2").prints("./out:v1\noci:out:app:2\n");
    t.sh("ls out/blobs/sha256; jq -c .manifests out/index.json; ls -A out | xargs")
        .prints("[]\nblobs index.json oci-layout\n");
    t.sh("tar -C out -cf out.tar .; img-rm oci-archive:out.tar")
        .fails("img-rm: out.tar: an archive, which is not changed\n");
    t.sh("img-rm ./none").exits(1).says("img-rm: not an image layout: ./none/oci-layout: ");
}

#[test]
fn of_a_name_that_two_images_have_only_the_first_goes() {
    let t = Sandbox::new();
    (1..=3).for_each(|n| image(n).copy_to(&t.path("work/out"), "v1"));
    t.sh("img-rm ./out:v1").prints("./out:v1\n");
    t.sh(
        "jq -c '.manifests[] | .digest, .annotations' out/index.json; ls out/blobs/sha256 | wc -l",
    )
    .prints(&format!("\"{}\"\nnull\n\"{}\"\nnull\n7\n", image(2).digest, image(3).digest));
    t.sh("img-rm ./out:v1").exits(1).says("img-rm: ./out:v1: no such image");
}

#[test]
fn an_image_that_a_container_uses_stays() {
    let t = Sandbox::with_image("app");
    t.sh("ctr-spawn --name kept app true").is_silent();
    let id = t.sh("cat $TARE_ROOT/containers/*/status.json | jq -r .id").text();
    let short = &id[..12];
    let refusal = |what: &str| {
        format!("img-rm: {what}: the container {short} uses it\nhint: -f removes it all the same\n")
    };
    t.sh("img-rm app").fails(&refusal("app:latest"));
    t.sh(&format!("img-rm {}", &busybox().digest)).fails(&refusal(&busybox().digest[7..]));
    // Another name is no concern of the container's.
    t.sh("img-tag app b >out; img-rm b").prints("b\n");
    t.sh("img-prune -a").outputs("", "img-prune: total reclaimed space: 0B\n", 0);
    t.sh("img-rm -f app").prints("app\n");
    holds(&t, &[], 0);
    // Its layers are still there for it.
    t.sh("img-prune -a -q; ls $TARE_ROOT/layers | wc -l").prints("1\n");
    t.sh(&format!("rm -r $TARE_ROOT/containers/{id}")).is_silent();
    t.sh("img-prune -q; ls $TARE_ROOT/layers | wc -l").prints("0\n");
}

#[test]
fn an_image_that_runs_loses_no_more_than_its_name() {
    let t = Sandbox::with_image("app");
    let script = "mkfifo in; ctr-spawn --rm -i app sh -c 'echo up; cat' <in >up & exec 3>in
        until [ -s up ]; do :; done
        img-rm app; img-rm -f IMAGE; img-rm -f app; img-prune -a -q; img-ls -a --format '{{.Repository}}'
        echo more >&3; exec 3>&-; wait; cat up; img-prune -q"
        .replace("IMAGE", &busybox().digest);
    let run = t.sh(&script).exits(0);
    let said = String::from_utf8_lossy(&run.stderr).into_owned();
    assert_eq!(said.matches(" uses it\n").count(), 2, "{said}");
    assert!(said.contains("hint: -f removes the name, and leaves the image to the container\n"));
    assert!(said.contains("hint: it runs, and must end first\n"), "{said}");
    run.ends_with(&format!("app\n<none>\nup\nmore\n{}\n", busybox().digest));
    holds(&t, &[], 0);
}

#[test]
fn blobs_stay_while_somebody_adds_some() {
    let t = Sandbox::with_image("app");
    // Another program that knows the lock.
    let lock = "flock --shared $TARE_ROOT/images/oci-layout";
    t.sh(&format!("{lock} img-rm app")).prints("app\n");
    t.sh(BLOBS).prints("3\n");
    t.sh(&format!("{lock} img-prune")).outputs(
        "",
        "img-prune: blobs stay for the next img-prune, as somebody is adding images\n\
         img-prune: total reclaimed space: 0B\n",
        0,
    );
    t.sh(BLOBS).prints("3\n");
    t.sh("img-prune -q").is_silent();
    holds(&t, &[], 0);
}

#[test]
fn a_damaged_image_keeps_all_blobs_until_it_is_removed() {
    let t = Sandbox::new();
    (1..=3).for_each(|n| t.store(&image(n), &format!("app:{n}")));
    let hex = &image(2).digest[7..];
    t.sh(&format!("echo >$TARE_ROOT/images/blobs/sha256/{hex}")).is_silent();
    let why = format!("docker.io/library/app:2: blob sha256:{hex}: corrupt: it hashes to ");
    t.sh("img-rm app:1")
        .says(&format!("img-rm: blobs that may not be needed any more stay: {why}"))
        .exits(0)
        .ends_with("app:1\n");
    t.sh(BLOBS).prints("10\n");
    let run = t.sh("img-prune").exits(1).says(&format!("img-prune: {why}"));
    let run = run.says("hint: no blob is removed while it is not known what this image needs");
    assert!(run.stdout.is_empty());
    t.sh(BLOBS).prints("10\n");
    t.sh("img-rm app:2").prints("app:2\n");
    holds(&t, &["docker.io/library/app:3"], 4);
}

#[test]
fn a_layout_without_images_has_none_to_offer() {
    let t = Sandbox::with_image("app");
    t.sh("cp -r $TARE_ROOT/images l; img-rm ./l:app").prints("./l:app\n");
    t.sh("img-rm ./l:app").fails("img-rm: ./l:app: no such image\n");
    t.sh("img-history ./l:app").fails("img-history: ./l:app: no such image\n");
}

#[test]
fn a_user_removes_his_images() {
    let t = Sandbox::with_image("app").as_user();
    t.sh("img-rm app").prints("app\n");
    holds(&t, &[], 0);
}

#[test]
fn many_at_once_lose_nothing_and_leave_nothing() {
    let t = Sandbox::with_image("app");
    t.sh("for i in $(seq 40); do img-tag app app:$i >/dev/null; done").is_silent();
    t.sh("for i in $(seq 2 40); do img-rm app:$i >$i & done; wait; cat $(seq 2 40) | wc -l")
        .prints("39\n");
    let names = ["docker.io/library/app:1", "docker.io/library/app:latest"];
    holds(&t, &names, 3);
    t.sh("img-rm app & img-rm app:1 & wait").exits(0);
    holds(&t, &[], 0);
}
