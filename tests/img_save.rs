//! img-save: images as an archive.

use std::fs;
use std::os::unix::process::ExitStatusExt;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sandbox::disk::Disk;
use sandbox::image::{Image, PACK, PATH, busybox, busybox_layer};
use sandbox::{Sandbox, lacks};
use serde_json::json;

/// Returns an image of two layers, the lower of which is that of [`busybox`].
fn derived() -> Image {
    let layer = format!("mkdir data; seq 20000 >data/numbers; {PACK}");
    Image::new(&[&busybox_layer(), &layer], &json!({ "Env": [PATH], "Cmd": ["true"] }))
}

/// Returns the digits of an image's manifest, config and layers, as they are in the image.
fn parts(image: &Image) -> (String, String, Vec<String>) {
    let hex = |text: &str| text.strip_prefix("sha256:").unwrap().to_owned();
    let manifest = image.manifest();
    let layers = manifest["layers"].as_array().unwrap().iter();
    let layers = layers.map(|layer| hex(layer["digest"].as_str().unwrap())).collect();
    (hex(&image.digest), hex(manifest["config"]["digest"].as_str().unwrap()), layers)
}

#[test]
fn what_it_holds_comes_first() {
    let t = Sandbox::new();
    t.store(&derived(), "app:v1");
    let (manifest, config, layers) = parts(&derived());
    let blobs: Vec<String> = [manifest, config].into_iter().chain(layers).collect();
    let blobs: String = blobs.iter().map(|hex| format!("blobs/sha256/{hex}\n")).collect();
    t.sh("img-save app:v1 | tar -t")
        .prints(&format!("oci-layout\nindex.json\nmanifest.json\n{blobs}"));
    // Nothing of where and when.
    t.sh("img-save app:v1 | tar -tv --full-time --numeric-owner | sed 's/ blobs.*//; s/  */ /g' | cut -d' ' -f1,2,4,5 | sort -u")
        .prints("-rw-r--r-- 0/0 1970-01-01 00:00:00\n");
}

#[test]
fn the_same_images_are_the_same_bytes() {
    let t = Sandbox::with_image("app:v1");
    t.store(&derived(), "derived:v1");
    t.sh("img-save app:v1 derived:v1 >1; sleep 1.1
          (umask 077; TZ=Asia/Tokyo img-save -o 2 app:v1 derived:v1); cmp 1 2
          img-save app:v1 derived:v1 | cmp 1 -
          img-save --verify app:v1 derived:v1 | cmp 1 -
          : >3; img-save app:v1 derived:v1 >>3; cmp 1 3
          img-load --root other -i 1 >loaded; img-save --root other app:v1 derived:v1 | cmp 1 -
          img-save ./1:app:v1 ./1:derived:v1 | cmp 1 -
          img-tag app:v1 x >x; img-tag other app:v1 2>/dev/null; img-save app:v1 derived:v1 | cmp 1 -")
        .is_silent();
}

#[test]
fn unpacked_by_tar_it_is_a_layout() {
    let t = Sandbox::with_image("app:v1");
    t.store(&derived(), "host:5000/team/derived:v1");
    t.sh("mkdir layout; img-save app:v1 host:5000/team/derived:v1 | tar -C layout -x; cd layout/blobs/sha256
          for blob in *; do echo \"$blob  $blob\"; done | sha256sum -c --quiet; ls | wc -l")
        // Two manifests, two configs, and two layers, one of which is shared.
        .prints("6\n");
    t.sh("jq -r '.manifests[] | .digest, .annotations[]' layout/index.json; cat layout/oci-layout").prints(&format!(
        "{}\ndocker.io/library/app:v1\ndocker.io/library/app:v1\n\
         {}\nhost:5000/team/derived:v1\nhost:5000/team/derived:v1\n{{\"imageLayoutVersion\":\"1.0.0\"}}",
        busybox().digest,
        derived().digest
    ));
    t.sh("ctr-spawn --rm --network none ./layout:app:v1 echo runs").prints("runs\n");
}

#[test]
fn docker_is_told_where_things_are() {
    let t = Sandbox::new();
    t.store(&derived(), "app:v1");
    t.sh("img-tag app:v1 other/name >x").is_silent();
    let (_, config, layers) = parts(&derived());
    let layer = |n: usize| format!("blobs/sha256/{}", layers[n]);
    t.sh("img-save app:v1 other/name app:v1 | tar -xO manifest.json | jq -c .").prints(&format!(
        "[{{\"Config\":\"blobs/sha256/{config}\",\"Layers\":[\"{}\",\"{}\"],\"RepoTags\":[\"docker.io/library/app:v1\",\"docker.io/other/name:latest\"]}}]\n",
        layer(0),
        layer(1)
    ));
    // By its digest it has no name.
    let digest = derived().digest;
    t.sh(&format!("img-save {digest} | tar -xO manifest.json | jq -c .[].RepoTags"))
        .prints("null\n");
    t.sh(&format!("img-save {digest} | tar -xO index.json | jq -c .manifests[].annotations"))
        .prints("null\n");
    // A result line names it.
    t.sh("img-tag app:v1 app:v2 | img-save - | tar -xO manifest.json | jq -c .[].RepoTags")
        .prints("[\"docker.io/library/app:v2\"]\n");
}

#[test]
fn a_format_alone_is_nothing_else() {
    let t = Sandbox::new();
    t.store(&derived(), "app:v1");
    let (manifest, config, layers) = parts(&derived());
    t.sh("img-save --format oci app:v1 | tar -t").prints(&format!(
        "oci-layout\nindex.json\nblobs/sha256/{manifest}\nblobs/sha256/{config}\nblobs/sha256/{}\nblobs/sha256/{}\n",
        layers[0], layers[1]
    ));
    t.sh("img-save --format docker app:v1 | tar -t")
        .prints(&format!("manifest.json\n{config}.json\n{}.tar\n{}.tar\n", layers[0], layers[1]));
    t.sh("img-save --format docker app:v1 | tar -xO manifest.json | jq -r '.[] | .Config, .Layers[], .RepoTags[]'")
        .prints(&format!("{config}.json\n{}.tar\n{}.tar\ndocker.io/library/app:v1\n", layers[0], layers[1]));
    t.sh("img-save --format tar app:v1").exits(2).says("img-save: invalid value 'tar'");
}

#[test]
fn of_an_index_those_platforms_are_saved_that_are_here() {
    let here = json!({ "os": "linux", "architecture": sandbox::image::architecture() });
    let other = json!({ "os": "linux", "architecture": "s390x" });
    let index = Image::index(&[(busybox(), here), (&derived(), other)]);
    let t = Sandbox::new();
    t.store(&index, "app:v1");
    t.sh("img-save app:v1 | tar -t | wc -l").prints("10\n");
    t.sh("img-save app:v1 | tar -xO manifest.json | jq -r .[].Config")
        .prints(&format!("blobs/sha256/{}\n", parts(busybox()).1));
    t.sh("img-save app:v1 | img-load --root other").prints(&format!("app:v1@{}\n", index.digest));
    // The other one's manifest was never pulled.
    let hex = derived().digest.replace("sha256:", "");
    t.sh(&format!("rm $TARE_ROOT/images/blobs/sha256/{hex}")).is_silent();
    t.sh("img-save app:v1 | tar -t | wc -l").prints("7\n");
    t.sh("img-save app:v1 | img-load --root third")
        .prints(&format!("app:v1@{}\n", busybox().digest));
    t.sh(&format!("img-save --root third {} | tar -t | wc -l", index.digest)).prints("7\n");
    // Nor was this one.
    let hex = busybox().digest.replace("sha256:", "");
    t.sh(&format!("rm $TARE_ROOT/images/blobs/sha256/{hex}")).is_silent();
    t.sh("img-save app:v1")
        .fails(&format!("img-save: app:v1: blob {}: not in the layout\n", busybox().digest));
}

#[test]
fn what_the_other_side_has_is_left_out() {
    let t = Sandbox::with_image("app:v1");
    t.store(&derived(), "app:v2");
    let (manifest, config, layers) = parts(&derived());
    let delta = format!(
        "oci-layout\nindex.json\nblobs/sha256/{manifest}\nblobs/sha256/{config}\nblobs/sha256/{}\n",
        layers[1]
    );
    t.sh("img-save app:v1 | img-load --root other >loaded; img-ls --root other --blobs >have; wc -l <have").prints("3\n");
    t.sh("img-save --have have app:v2 >delta; tar -tf delta").prints(&delta);
    t.sh("img-ls --root other --blobs | img-save --have - app:v2 | cmp - delta").is_silent();
    t.sh("img-save --have app:v1 app:v2 | cmp - delta").is_silent();
    t.sh("img-save -o v1.tar app:v1; img-save --have v1.tar app:v2 | cmp - delta").is_silent();
    t.sh("mkfifo pipe; img-ls --root other --blobs >pipe & img-save --have pipe app:v2 | cmp - delta; wait; rm pipe")
        .is_silent();
    t.sh("img-load --root other <delta; ctr-spawn --root other --rm --network none app:v2 tail -n 1 /data/numbers")
        .prints(&format!("app:v2@{}\n20000\n", derived().digest));
    // Nothing at all, and it still says what it is.
    t.sh("img-ls --root other --blobs | img-save --have - app:v2 | tar -t")
        .prints("oci-layout\nindex.json\n");
    t.sh("img-ls --root other --blobs | img-save --have - app:v2 | img-load --root other")
        .prints(&format!("app:v2@{}\n", derived().digest));
    // Nobody has anything.
    t.sh("img-save --have - app:v2 </dev/null | img-save --format oci app:v2 | tar -t | wc -l")
        .prints("6\n");
    t.sh("img-save --have - app:v2 </dev/null | cmp - delta >/dev/null").exits(1);
}

#[test]
fn a_list_is_read_strictly() {
    let t = Sandbox::with_image("app:v1");
    for (list, said) in [
        ("sha256:x", "line 1: \"sha256:x\": not a digest"),
        ("", ""),
        ("app:v1", "line 1: \"app:v1\": not a digest"),
    ] {
        t.write("list", if list.is_empty() { String::new() } else { format!("{list}\n") });
        let run = t.sh("img-save --have list -o out app:v1; echo $?");
        match said {
            "" => run.prints("0\n"),
            said => drop(run.says(&format!("img-save: list: {said}"))),
        }
    }
    t.sh("img-save --have nobody app:v1 | cat").says("img-save: nobody:latest: no such image");
    t.sh("img-save --format docker --have app:v1 app:v1").exits(2);
    t.sh("echo app:v1 | img-save --have - -").exits(2);
}

#[test]
fn a_file_is_whole_or_as_it_was() {
    let t = Sandbox::with_image("app:v1");
    t.sh("echo before >out; img-save -o out app:v2").exits(1);
    t.sh("cat out; img-save -o out app:v1; tar -tf out | head -n 1").prints("before\noci-layout\n");
    t.sh("ln -s real link; img-save -o link app:v1 2>&1; test -L link; cmp out link").exits(0);
    t.sh("rm -f real; echo old >real; img-save -o link app:v1; test -L link && cmp out real")
        .is_silent();
    t.sh("chmod 600 real; umask 027; img-save -o new app:v1; stat -c %a new").prints("640\n");
    t.sh("img-save -o - app:v1 | cmp - out; img-save -o /dev/stdout app:v1 | cmp - out")
        .is_silent();
    t.sh("mkfifo pipe; cmp pipe out & img-save -o pipe app:v1; wait; test -p pipe && rm pipe")
        .is_silent();
    t.sh("img-save -o /dev/null app:v1; test -c /dev/null").is_silent();
    t.sh("img-save -o . app:v1").exits(1).says("a directory");
    t.sh("img-save -o none/out app:v1")
        .fails("img-save: none: No such file or directory (os error 2)\n");
    t.sh("ls -A").prints("link\nnew\nout\nreal\n");
}

#[test]
fn a_blob_that_is_not_what_it_should_be_is_never_saved() {
    let t = Sandbox::new();
    t.store(&derived(), "app:v1");
    let layer = parts(&derived()).2[1].clone();
    let blob = format!("$TARE_ROOT/images/blobs/sha256/{layer}");
    t.sh("echo before >out").is_silent();
    t.sh(&format!(
        "cp {blob} kept; printf x | dd of={blob} bs=1 seek=100 conv=notrunc status=none"
    ))
    .is_silent();
    t.sh("img-save --verify -o out app:v1")
        .exits(1)
        .says(&format!("img-save: blob sha256:{layer}: corrupt: it hashes to sha256:"));
    // Not looked at, it is as long as it should be, and whoever reads it sees what it is.
    t.sh("img-save app:v1 | img-load --root other").exits(1).says("corrupt: it hashes to sha256:");
    t.sh(&format!("truncate -s -1 {blob}; img-save -o out app:v1"))
        .fails(&format!("img-save: app:v1: blob sha256:{layer}: not in the layout\n"));
    t.sh(&format!("rm {blob}; img-save -o out app:v1"))
        .fails(&format!("img-save: app:v1: blob sha256:{layer}: not in the layout\n"));
    t.sh("cat out; ls -A; img-ls --root other -q").prints("before\nkept\nother\nout\n");
}

#[test]
fn nothing_goes_to_a_terminal() {
    let t = Sandbox::with_image("app:v1");
    t.sh("script -qec 'img-save app:v1; echo $?' /dev/null </dev/null | tr -d '\\r'").prints(
        "img-save: the archive goes to stdout, which is a terminal\nhint: img-save -o FILE, or a pipe\n2\n",
    );
}

#[test]
fn a_pipe_that_nobody_reads_ends_it_quietly() {
    let t = Sandbox::new();
    t.store(&derived(), "app:v1");
    t.sh("{ img-save app:v1; echo $? >status; } | head -c 1 | wc -c; cat status")
        .prints("1\n141\n");
}

#[test]
fn a_full_disk_is_an_error_and_leaves_nothing() {
    let t = Sandbox::with_image("app:v1");
    t.sh("img-save app:v1 >/dev/full")
        .fails("img-save: stdout: No space left on device (os error 28)\n");
    if lacks(&["root", "mount"]) {
        return;
    }
    let disk = Disk::tmpfs(&t.path("work/disk"), "size=256k");
    t.sh("img-save -o disk/out app:v1; ls -A disk; img-save --verify -o disk/out app:v1; ls -A disk; img-save app:v1 >disk/out")
        .says("No space left on device")
        .exits(1);
    t.sh("rm disk/out; ls -A disk").is_silent();
    drop(disk);
}

/// Returns a sandbox whose store has an image with a layer of 64 MiB, as `big`.
fn with_big() -> Sandbox {
    let t = Sandbox::new();
    t.sh("truncate -s 64M zeros; tar -c zeros | img-import - big >big; rm zeros big").is_silent();
    t
}

#[test]
fn a_signal_leaves_nothing() {
    let t = with_big();
    fs::create_dir(t.path("work/dir")).unwrap();
    let there = || fs::read_dir(t.path("work/dir")).unwrap().count();
    let killed = (0..20).any(|_| {
        let mut child = t.command("exec img-save --verify -o dir/out big").spawn().unwrap();
        while there() == 0 {}
        kill(Pid::from_raw(child.id() as i32), Signal::SIGTERM).unwrap();
        let signal = child.wait().unwrap().signal();
        let _ = fs::remove_file(t.path("work/dir/out")); // it was faster
        assert_eq!(there(), 0);
        signal == Some(Signal::SIGTERM as i32)
    });
    assert!(killed);
}
