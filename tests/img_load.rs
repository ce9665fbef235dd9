//! img-load: images of an archive.

use std::fs;
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sandbox::disk::Disk;
use sandbox::image::{Image, PACK, PATH, busybox, busybox_layer};
use sandbox::{Sandbox, lacks};
use serde_json::json;

/// Returns an image of two layers, the lower of which is that of [`busybox`].
fn derived() -> Image {
    let layer = format!("mkdir data; seq 200000 >data/numbers; {PACK}");
    Image::new(&[&busybox_layer(), &layer], &json!({ "Env": [PATH], "Cmd": ["true"] }))
}

/// Returns a sandbox with an archive of an image, as `img-save` writes it, in `app.tar`, and an empty store.
fn with_archive() -> Sandbox {
    let t = Sandbox::new();
    t.store(&derived(), "app:v1");
    t.sh("img-save -o app.tar app:v1; rm -r $TARE_ROOT/images").is_silent();
    t
}

/// Demands that the store has no image and no blob, and nothing on its way in.
fn is_empty(t: &Sandbox) {
    t.sh("img-ls -aq; img-ls --blobs; cd $TARE_ROOT/images; ls -A; find blobs -type f")
        .prints("blobs\nindex.json\noci-layout\n");
}

/// Goes to a directory `parts`, and leaves there what is in Docker's archive of an image: a config and layers that are not packed.
const PARTS: &str = "mkdir parts; tar -C parts -xf app.tar; cd parts
    blob() { echo blobs/sha256/${1#sha256:}; }
    manifest=$(blob $(jq -r .manifests[0].digest index.json))
    config=$(blob $(jq -r .config.digest $manifest))
    n=0; for layer in $(jq -r .layers[].digest $manifest); do n=$((n+1)); gzip -dc $(blob $layer) >$n.tar; done
    mkdir ../out; pack() { tar -C ../out --sort=name -cf ../docker.tar $(ls -A ../out); }
";

/// Demands that `docker.tar` loads as `app:v1` and runs.
fn loads_and_runs(t: &Sandbox) {
    t.sh("img-load -i docker.tar | sed 's/@.*//'").prints("app:v1\n");
    t.sh("ctr-spawn --rm --network none app:v1 tail -n 1 /data/numbers").prints("200000\n");
}

#[test]
fn what_was_saved_is_loaded_as_it_was() {
    for t in [with_archive(), with_archive().as_user()] {
        let line = format!("app:v1@{}\n", derived().digest);
        t.sh("img-load <app.tar").prints(&line);
        t.sh("img-load -i app.tar; cat app.tar | img-load; img-load -i - <app.tar; cat app.tar | cat | img-load -q")
            .prints(&line.repeat(4));
        for other in ["a", "b"] {
            let command = if other == "a" {
                "img-load --root a -i app.tar"
            } else {
                "cat app.tar | img-load --root b"
            };
            t.sh(command).prints(&line);
            t.sh(&format!("cd {other}/images/blobs/sha256; sha256sum * | while read digest name; do [ $digest = $name ] || echo $name; done; ls | wc -l"))
                .prints("4\n");
        }
        t.sh("ctr-spawn --rm --network none app:v1 tail -n 1 /data/numbers").prints("200000\n");
        // Whoever sends it may have more behind its end.
        for pack in ["cat", "gzip"] {
            t.sh(&format!("{{ {pack} <app.tar; head -c 5000000 /dev/zero; echo $? >code; }} | img-load; cat code"))
                .prints(&format!("{line}0\n"));
        }
        // From where the file is read next.
        t.sh("{ printf '%512s' ' '; cat app.tar; } >later; { head -c 512 >/dev/null; img-load; } <later").prints(&line);
    }
}

#[test]
fn it_may_be_packed() {
    let t = with_archive();
    let line = format!("app:v1@{}\n", derived().digest);
    // pzstd begins each of its frames with one that is to be skipped.
    let pzstd = r"{ printf 'P\052M\030\004\0\0\0\0\0\0\0'; zstd -q; }";
    for (pack, n) in [
        ("gzip", 1),
        ("zstd -q", 2),
        ("xz -0", 3),
        ("bzip2 -1", 4),
        ("gzip -1 | cat", 5),
        (pzstd, 6),
    ] {
        t.sh(&format!("{pack} <app.tar | img-load --root {n}; {pack} <app.tar >packed; img-load --root {n}0 -i packed"))
            .prints(&line.repeat(2));
    }
}

#[test]
fn every_name_is_given_and_printed() {
    let t = Sandbox::with_image("app:v1");
    t.store(&derived(), "host:5000/team/other:v2");
    let (one, two) = (busybox().digest.as_str(), derived().digest);
    t.sh("img-tag app:v1 again >x; img-save app:v1 again host:5000/team/other:v2 >all").is_silent();
    t.sh("img-load --root new -i all")
        .prints(&format!("app:v1@{one}\nagain:latest@{one}\nhost:5000/team/other:v2@{two}\n"));
    t.sh("img-ls --root new -q | sort")
        .prints(&format!("again:latest@{one}\napp:v1@{one}\nhost:5000/team/other:v2@{two}\n"));
    // Without a name it has its digest.
    t.sh(&format!("img-save {two} | img-load --root third; img-ls --root third -aq"))
        .prints(&format!("{two}\n{two}\n"));
    // A name that another image has.
    t.sh(
        "img-tag host:5000/team/other:v2 app:v1 >x; img-load -i all | head -n 1; img-ls -q app:v1",
    )
    .prints(&format!("app:v1@{one}\napp:v1@{one}\n"));
    // What is no name is not given.
    t.sh("mkdir l; tar -C l -xf all; cd l; jq -c '.manifests[0].annotations[] = \"No Name\"' index.json >i
          mv i index.json; tar -cf ../odd index.json oci-layout blobs")
        .is_silent();
    t.sh("img-load --root fourth -i odd | head -n 1; img-load -q --root fifth -i odd | tail -n 1")
        .outputs(
            &format!("again:latest@{one}\nhost:5000/team/other:v2@{two}\n"),
            &format!("img-load: \"No Name\": not a name; {one} does not get it\n"),
            0,
        );
}

#[test]
fn docker_archives_since_1_10() {
    let t = with_archive();
    // As docker save had it: a directory a layer, with what old versions want, and the manifest last.
    t.sh(&format!(
        "{PARTS} hex=$(sha256sum <$config | cut -c1-64); cp $config ../out/$hex.json
         for n in 1 2; do mkdir ../out/id$n; mv $n.tar ../out/id$n/layer.tar; echo 1.0 >../out/id$n/VERSION; echo '{{}}' >../out/id$n/json; done
         printf '[{{\"Config\":\"%s.json\",\"RepoTags\":[\"app:v1\"],\"Layers\":[\"id1/layer.tar\",\"id2/layer.tar\"]}}]' $hex >../out/manifest.json
         echo '{{\"app\":{{\"v1\":\"id2\"}}}}' >../out/repositories; pack"
    ))
    .is_silent();
    loads_and_runs(&t);
    // The config is the same, byte for byte.
    t.sh("jq -r .config.digest $TARE_ROOT/images/blobs/$(img-ls -q | sed 's/.*@//' | tr : /)")
        .prints(&format!("{}\n", derived().manifest()["config"]["digest"].as_str().unwrap()));
}

#[test]
fn docker_archives_in_which_a_layer_is_a_link() {
    let t = with_archive();
    t.sh(&format!(
        "{PARTS} hex=$(sha256sum <$config | cut -c1-64); cp $config ../out/$hex.json
         mkdir ../out/id1 ../out/id2; mv 1.tar ../out/1.tar; mv 2.tar ../out/2.tar
         ln -s ../1.tar ../out/id1/layer.tar; ln -s ../2.tar ../out/id2/layer.tar
         printf '[{{\"Config\":\"%s.json\",\"RepoTags\":[\"app:v1\"],\"Layers\":[\"id1/layer.tar\",\"id2/layer.tar\"]}}]' $hex >../out/manifest.json
         pack"
    ))
    .is_silent();
    loads_and_runs(&t);
}

#[test]
fn docker_archives_before_1_10() {
    let t = with_archive();
    t.sh(&format!(
        "{PARTS} a=$(printf %064d 1); b=$(printf %064d 2)
         mkdir ../out/$a ../out/$b; mv 1.tar ../out/$a/layer.tar; mv 2.tar ../out/$b/layer.tar
         jq -c \"{{architecture, os, config, created, id: \\\"$a\\\", container_config: {{Cmd: [\\\"/bin/sh\\\", \\\"-c\\\", \\\"#(nop) ADD\\\"]}}}}\" $config >../out/$a/json
         jq -c \"{{architecture, os, config, created, id: \\\"$b\\\", parent: \\\"$a\\\", comment: \\\"why\\\"}}\" $config >../out/$b/json
         echo 1.0 | tee ../out/$a/VERSION >../out/$b/VERSION
         echo \"{{\\\"app\\\":{{\\\"v1\\\":\\\"$b\\\"}}}}\" >../out/repositories; pack"
    ))
    .is_silent();
    loads_and_runs(&t);
    t.sh("cd $TARE_ROOT/images/blobs; jq -c '.history, (.id, .parent)' $(jq -r .config.digest $(img-ls -q | sed 's/.*@//' | tr : /) | tr : /)")
        .prints(
            "[{\"created\":\"1970-01-01T00:00:00Z\",\"created_by\":\"/bin/sh -c #(nop) ADD\"},\
             {\"comment\":\"why\",\"created\":\"1970-01-01T00:00:00Z\",\"created_by\":\"\"}]\nnull\nnull\n",
        );
}

#[test]
fn archives_of_crane_and_bazel() {
    let t = with_archive();
    // crane and kaniko: a config that is called by its digest, and packed layers by theirs.
    t.sh(&format!(
        "{PARTS} cp $config ../out/sha256:$(sha256sum <$config | cut -c1-64)
         for n in 1 2; do gzip -n $n.tar; cp $n.tar.gz ../out/$(sha256sum <$n.tar.gz | cut -c1-64).tar.gz; done
         printf '[{{\"Config\":\"%s\",\"RepoTags\":[\"app:v1\"],\"Layers\":[\"%s.tar.gz\",\"%s.tar.gz\"]}}]' \
            $(basename $(ls ../out/sha256:*)) $(sha256sum <1.tar.gz | cut -c1-64) $(sha256sum <2.tar.gz | cut -c1-64) >../out/manifest.json
         pack"
    ))
    .is_silent();
    loads_and_runs(&t);
    // Bazel's rules_oci: in blobs, and not quite called by digests.
    t.sh(&format!(
        "rm -r parts out docker.tar $TARE_ROOT/images; {PARTS} mkdir -p ../out/blobs/sha256; cp $config ../out/$config
         for n in 1 2; do gzip -n $n.tar; cp $n.tar.gz ../out/blobs/sha256/$(sha256sum <$n.tar.gz | cut -c1-64).tar.gz; done
         printf '[{{\"Config\":\"%s\",\"RepoTags\":[\"app:v1\"],\"Layers\":[\"blobs/sha256/%s.tar.gz\",\"blobs/sha256/%s.tar.gz\"]}}]' \
            $config $(sha256sum <1.tar.gz | cut -c1-64) $(sha256sum <2.tar.gz | cut -c1-64) >../out/manifest.json
         pack"
    ))
    .is_silent();
    loads_and_runs(&t);
}

#[test]
fn docker_archives_of_any_names() {
    let t = with_archive();
    // The same config twice, names with ./ before them, and a file that nothing names.
    t.sh(&format!(
        "{PARTS} mkdir ../out/img; cp $config ../out/img/conf; mv 1.tar ../out/layer0; gzip -n 2.tar; mv 2.tar.gz ../out/1.tgz
         echo stray >../out/NOTES
         echo '[{{\"Config\":\"./img/conf\",\"RepoTags\":[\"app:v1\"],\"Layers\":[\"./layer0\",\"1.tgz\"]}}]' >../out/manifest.json
         pack; tar -C ../out -rf ../docker.tar img/conf layer0"
    ))
    .is_silent();
    loads_and_runs(&t);
    // Two layers, a config and a manifest: the stray has gone.
    t.sh("find $TARE_ROOT/images/blobs -type f | wc -l; img-ls --blobs | wc -l").prints("4\n4\n");
}

#[test]
fn of_an_index_that_is_not_whole_the_image_for_this_machine_is_loaded() {
    let here = json!({ "os": "linux", "architecture": sandbox::image::architecture() });
    let other = json!({ "os": "linux", "architecture": "s390x" });
    let index = Image::index(&[(&derived(), other), (busybox(), here)]);
    let t = Sandbox::new();
    t.store(&index, "app:v1");
    // As Docker does: the index is whole, and the other manifest is there without its layers.
    let layer =
        derived().manifest()["layers"][1]["digest"].as_str().unwrap().replace("sha256:", "");
    t.sh(&format!(
        "img-save -o whole.tar app:v1; mkdir l; tar -C l -xf whole.tar; rm l/blobs/sha256/{layer}
         tar -C l -cf part.tar index.json oci-layout blobs"
    ))
    .is_silent();
    let line = format!("app:v1@{}\n", busybox().digest);
    t.sh("img-load --root other -i part.tar").prints(&line);
    t.sh(&format!("img-ls --root other -q; img-tag --root other app@{} again", index.digest))
        .prints(&format!("{line}again:latest@{}\n", busybox().digest));
    // Without a mark at its end it may have been cut off there.
    t.sh("cd l; tar -b 1 -cf ../cut.tar index.json oci-layout blobs; cd ..; truncate -s -1024 cut.tar
          img-load --root third -i cut.tar")
        .exits(1)
        .says(&format!("img-load: cut.tar: index.json: blob sha256:{layer}: not in the layout"));
}

#[test]
fn a_delta_without_its_base_says_at_once_what_is_missing() {
    let t = Sandbox::with_image("app:v1");
    t.store(&derived(), "app:v2");
    let missing = busybox().manifest()["layers"][0]["digest"].as_str().unwrap().to_owned();
    let said = format!(
        "img-load: stdin: \"index.json\": blobs that it leaves out are not here: {missing}\n\
         hint: load the image first that it is based on, or img-save without --have\n"
    );
    t.sh("img-save --have app:v1 -o delta app:v2").is_silent();
    t.sh("img-load --root other <delta").fails(&said);
    // Nothing else of it is needed to know that.
    t.sh("{ head -c 2048 delta; sleep 100 & echo $! >pid; } | img-load --root other; code=$?; kill $(cat pid); exit $code")
        .fails(&said);
    t.sh(
        "ls -A other/images; find other/images/blobs -type f; ls other/images/.partial 2>/dev/null",
    )
    .outputs("blobs\nindex.json\noci-layout\n", "", 2);
    t.sh("img-save app:v1 | img-load --root other; img-load --root other -i delta")
        .prints(&format!("app:v1@{}\napp:v2@{}\n", busybox().digest, derived().digest));
}

#[test]
fn an_archive_that_is_cut_short_leaves_nothing() {
    let t = with_archive();
    let size = fs::metadata(t.path("work/app.tar")).unwrap().len();
    for part in 0..24 {
        let at = (size - 1024) * part / 24;
        for command in ["cat cut | img-load", "img-load -i cut", "gzip -1 <cut | img-load"] {
            let run = t.sh(&format!("head -c {at} app.tar >cut; {command}")).exits(1);
            assert!(run.stdout.is_empty());
            let said = String::from_utf8(run.stderr).unwrap();
            assert!(said.starts_with("img-load: ") && said.lines().count() <= 2, "{said}");
            is_empty(&t);
        }
    }
    t.sh("false | img-load")
        .fails("img-load: stdin: no archive: did the command before this one fail?\n");
    t.sh("{ img-save --root none app:v1 || true; } 2>/dev/null | img-load").exits(1);
    is_empty(&t);
}

#[test]
fn a_wrong_digest_leaves_nothing() {
    let t = with_archive();
    let size = fs::metadata(t.path("work/app.tar")).unwrap().len();
    for command in ["cat bad | img-load", "img-load -i bad", "zstd -q <bad | img-load"] {
        // In the middle of the layers, and near their end.
        for at in [size / 2, size - 5000] {
            t.sh(&format!(
                "cp app.tar bad; printf xxxx | dd of=bad bs=1 seek={at} conv=notrunc status=none; {command}"
            ))
            .exits(1)
            .says("corrupt: it hashes to sha256:");
            is_empty(&t);
        }
    }
}

#[test]
fn an_image_that_fails_takes_nothing_from_others() {
    let t = with_archive();
    t.store(busybox(), "base:v1");
    // They share a layer.
    t.sh("head -c -20000 app.tar | img-load").exits(1);
    t.sh("find $TARE_ROOT/images/blobs -type f | wc -l; ctr-spawn --rm --network none base:v1 echo well")
        .prints("3\nwell\n");
}

#[test]
fn what_is_too_much_is_an_error() {
    let t = Sandbox::new();
    let long = |members: &str| {
        format!(
            "rm -rf l; mkdir -p l/blobs/sha256; cd l; echo '{{\"imageLayoutVersion\":\"1.0.0\"}}' >oci-layout; {members}; tar -cf ../bad *; cd ..; img-load -i bad"
        )
    };
    // Blanks are JSON, too.
    let index = "printf '{\"schemaVersion\":2,\"manifests\":[{\"mediaType\":\"application/vnd.oci.image.manifest.v1+json\",\"digest\":\"sha256:%s\",\"size\":%s}]}' $hex $size >index.json";
    t.sh(&long(&format!("{{ head -c 100M /dev/zero | tr '\\0' ' '; echo '{{}}'; }} >m; hex=$(sha256sum <m | cut -c1-64); size=$(stat -c %s m); mv m blobs/sha256/$hex; {index}")))
        .exits(1)
        .says("a document of more than 4194304 bytes");
    is_empty(&t);
    t.sh(&long("head -c 100M /dev/zero | tr '\\0' ' ' >index.json"))
        .exits(1)
        .says("more than 16 MiB of documents");
    is_empty(&t);
    t.sh(&long("head -c 100M /dev/zero | tr '\\0' ' ' >manifest.json"))
        .exits(1)
        .says("more than 16 MiB of documents");
    is_empty(&t);
    let layers = "layers=$(seq 10000 | sed 's/.*/{\"mediaType\":\"application\\/vnd.oci.image.layer.v1.tar\",\"digest\":\"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855\",\"size\":0},/' | tr -d '\\n' | sed 's/,$//')
        : >blobs/sha256/e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855
        echo \"{\\\"schemaVersion\\\":2,\\\"config\\\":{\\\"mediaType\\\":\\\"application/vnd.oci.image.config.v1+json\\\",\\\"digest\\\":\\\"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855\\\",\\\"size\\\":0},\\\"layers\\\":[$layers]}\" >m; hex=$(sha256sum <m | cut -c1-64); size=$(stat -c %s m); mv m blobs/sha256/$hex";
    t.sh(&long(&format!("{layers}; {index}")))
        .exits(1)
        .says("more than the 1000 layers that an image may have");
    is_empty(&t);
}

#[test]
fn a_member_that_leaves_the_archive_is_an_error() {
    let t = with_archive();
    t.sh("echo secret >x; mkdir d; cp app.tar bad; cd d; tar -rPf ../bad ../x; cd ..; img-load -i bad")
        .fails("img-load: bad: \"../x\": a path that leaves the archive\n");
    is_empty(&t);
}

#[test]
fn a_full_disk_leaves_nothing() {
    if lacks(&["root", "mount"]) {
        return;
    }
    let t = with_archive();
    let disk = Disk::tmpfs(&t.path("work/disk"), "size=1m");
    for command in [
        "img-load --root disk/tare -i app.tar",
        "cat app.tar | img-load --root disk/tare",
        "gzip <app.tar | img-load --root disk/tare",
    ] {
        t.sh(command).exits(1).says("No space left on device");
        t.sh("cd disk/tare/images; ls -A; find blobs -type f")
            .prints("blobs\nindex.json\noci-layout\n");
    }
    disk.remount("size=32m");
    t.sh("img-load --root disk/tare -i app.tar | sed 's/@.*//'").prints("app:v1\n");
    drop(disk);
}

#[test]
fn a_terminal_is_refused() {
    let t = Sandbox::new();
    t.sh("script -qec 'img-load; echo $?' /dev/null </dev/null | tr -d '\\r'").ends_with(
        "img-load: the archive comes on stdin, which is a terminal\nhint: img-load -i FILE, or img-save ... | img-load\n2\n",
    );
}

#[test]
fn a_signal_leaves_nothing() {
    let t = with_archive();
    let archive = fs::read(t.path("work/app.tar")).unwrap();
    let mut child =
        t.command("exec img-load").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    // The lower layer comes, and some of the other one.
    let mut pipe = child.stdin.take().unwrap();
    pipe.write_all(&archive[..archive.len() - 50_000]).unwrap();
    let partial = t.path("tare/images/.partial");
    while !fs::read_dir(&partial).is_ok_and(|mut entries| entries.next().is_some()) {}
    kill(Pid::from_raw(child.id() as i32), Signal::SIGTERM).unwrap();
    assert_eq!(child.wait().unwrap().signal(), Some(Signal::SIGTERM as i32));
    assert!(!partial.exists());
    drop(pipe);
    t.sh("img-ls -aq").is_silent();
}

#[test]
fn nobody_waits_for_one_that_has_stopped() {
    let t = with_archive();
    let line = format!("app:v1@{}\n", derived().digest);
    // The first has some of the upper layer, and gets no more of it before the others are done.
    t.sh("mkfifo in; img-load <in >first & exec 3>in
          head -c -50000 app.tar >&3
          until [ -n \"$(ls $TARE_ROOT/images/.partial 2>/dev/null)\" ]; do sleep 0.01; done
          timeout 60 img-load -i app.tar 3>&-; cat app.tar | timeout 60 img-load 3>&-
          tail -c 50000 app.tar >&3; exec 3>&-; wait; cat first; ls -A $TARE_ROOT/images")
        .prints(&format!("{}blobs\nindex.json\noci-layout\n", line.repeat(3)));
    // One archive to several of us at the same pace.
    t.sh("rm -r $TARE_ROOT/images; mkfifo one; img-load <one >first & tee one <app.tar | timeout 60 img-load; wait; cat first")
        .prints(&line.repeat(2));
}

#[test]
fn many_at_once_take_one_copy() {
    let t = with_archive();
    t.sh("for i in $(seq 8); do img-load -i app.tar >$i 2>&1 & cat app.tar | img-load >1$i 2>&1 & done; wait; sort -u [0-9]*")
        .prints(&format!("app:v1@{}\n", derived().digest));
    t.sh("find $TARE_ROOT/images/blobs -type f | wc -l; ls -A $TARE_ROOT/images")
        .prints("4\nblobs\nindex.json\noci-layout\n");
}

#[test]
fn memory_does_not_grow_with_the_image() {
    if lacks(&["busybox"]) {
        return;
    }
    let t = Sandbox::new();
    t.sh("truncate -s 200M zeros; tar -c zeros | img-import - big >x; rm zeros; img-save -o big.tar big; gzip -1 <big.tar >big.tgz").is_silent();
    let kib = |command: &str| -> u64 {
        let text = t.sh(&format!("busybox time -o rss -f %M {command} && tail -n 1 rss")).text();
        text.lines().last().unwrap().parse().unwrap()
    };
    // Some versions of busybox count pages: a program that takes 32 MiB says which.
    let scale =
        (kib("dd if=/dev/zero of=/dev/null bs=32M count=1 status=none") + (8 << 10)) / (33 << 10);
    for command in [
        "img-save -o again big",
        "img-save --verify -o again big",
        "sh -c 'exec img-save big | cat >/dev/null'",
        "img-load --root 1 -i big.tar",
        "sh -c 'cat big.tar | { exec img-load --root 2; }'",
        "img-load --root 3 -i big.tgz",
    ] {
        let took = kib(command) / scale;
        assert!(took < 16 << 10, "{command}: {took} KiB");
    }
}
