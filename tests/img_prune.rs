//! img-prune: what nobody uses goes, and nothing else.

use sandbox::Sandbox;
use sandbox::image::{Image, busybox};

use crate::faults::layout;

/// Returns an image that was created in that year, with a layer of its own on one that all of these share.
pub fn image(year: u32) -> Image {
    let script = format!(
        "mkdir tree; seq {year}0 >tree/own; tar -C tree --sort=name --mtime=@0 --owner=0 --group=0 -cf x.tar .
        mkdir shared; seq 2000 >shared/x; tar -C shared --sort=name --mtime=@0 --owner=0 --group=0 -cf y.tar .
        put() {{ hex=$(sha256sum <$1); hex=${{hex%% *}}; size=$(stat -c %s $1); mv $1 layout/blobs/sha256/$hex
            echo '{{\"mediaType\":\"'$2'\",\"digest\":\"sha256:'$hex'\",\"size\":'$size'}}'; }}
        mkdir -p layout/blobs/sha256; echo '{{\"imageLayoutVersion\":\"1.0.0\"}}' >layout/oci-layout
        oci=application/vnd.oci.image
        ids='\"sha256:'$(sha256sum <y.tar | cut -c -64)'\",\"sha256:'$(sha256sum <x.tar | cut -c -64)'\"'
        layers=$(put y.tar $oci.layer.v1.tar),$(put x.tar $oci.layer.v1.tar)
        echo '{{\"created\":\"{year}-01-01T00:00:00Z\",\"os\":\"linux\",\"architecture\":\"amd64\",\"config\":{{\"Labels\":{{\"year\":\"{year}\"}}}},\"rootfs\":{{\"type\":\"layers\",\"diff_ids\":['$ids']}}}}' >config
        echo '{{\"schemaVersion\":2,\"mediaType\":\"'$oci.manifest.v1+json'\",\"config\":'$(put config $oci.config.v1+json)',\"layers\":['$layers']}}' >manifest
        echo '{{\"schemaVersion\":2,\"manifests\":['$(put manifest $oci.manifest.v1+json)']}}' >layout/index.json"
    );
    Image::made_by(&script)
}

/// A store with an image of each of these names and years.
fn store(images: &[(&str, u32)]) -> Sandbox {
    let t = Sandbox::new();
    images.iter().for_each(|(name, year)| t.store(&image(*year), name));
    t
}

fn pinned(name: &str, year: u32) -> String {
    format!("{name}@{}\n", image(year).digest)
}

/// Demands that a dry run prints this and changes nothing, and that a real one prints the same.
#[track_caller]
fn prunes(t: &Sandbox, args: &str, lines: &[String]) {
    let state = "find $TARE_ROOT -type f | sort | xargs sha256sum";
    let before = t.sh(state).text();
    let dry = t.sh(&format!("img-prune --dry-run {args}")).exits(0);
    assert_eq!(t.sh(state).text(), before, "a dry run changed something");
    let real = t.sh(&format!("img-prune {args}")).exits(0);
    assert_eq!(String::from_utf8_lossy(&real.stdout), lines.concat());
    assert_eq!(dry.stdout, real.stdout);
    assert_eq!(String::from_utf8_lossy(&dry.stderr), String::from_utf8_lossy(&real.stderr));
    sound(t);
}

/// Returns some thousand bytes as Docker says them.
fn human(bytes: f64) -> String {
    match bytes / 1e3 {
        n if n < 100.0 => format!("{n:.1}kB"),
        n => format!("{n:.0}kB"),
    }
}

/// Demands a sound layout in which each blob is needed.
#[track_caller]
fn sound(t: &Sandbox) {
    let images = t.path("tare/images");
    layout::sound(&images).unwrap();
    assert_eq!(layout::unneeded(&images), Vec::<String>::new());
    assert!(layout::stale(&images).is_empty(), "{:?}", layout::stale(&images));
}

fn names(t: &Sandbox) -> Vec<String> {
    let names = layout::names(&t.path("tare/images")).unwrap();
    names.into_keys().map(|name| name.replace("docker.io/library/", "")).collect()
}

#[test]
fn what_has_no_name_goes_with_all_that_only_it_needs() {
    let t = store(&[("app", 2001), ("b", 2002)]);
    t.sh("img-tag app b >out").is_silent();
    t.sh("echo x >$TARE_ROOT/images/blobs/sha256/$(printf x | sha256sum | cut -c -64)").is_silent();
    prunes(&t, "", &[format!("{}\n", image(2002).digest)]);
    assert_eq!(names(&t), ["app:latest", "b:latest"]);
    t.sh("img-prune").outputs("", "img-prune: total reclaimed space: 0B\n", 0);
}

#[test]
fn it_says_how_much_space_that_gave() {
    let t = store(&[("app", 2001)]);
    let bytes = t.sh("cat $TARE_ROOT/images/blobs/sha256/* | wc -c").text();
    t.sh("img-prune -a | cut -c -11").outputs(
        "app:latest@\n",
        &format!("img-prune: total reclaimed space: {}\n", human(bytes.trim().parse().unwrap())),
        0,
    );
}

#[test]
fn with_a_those_with_names_go() {
    let t = store(&[("app", 2001), ("b", 2002)]);
    t.sh("img-tag b c >out").is_silent();
    prunes(
        &t,
        "-a",
        &[pinned("app:latest", 2001), pinned("b:latest", 2002), pinned("c:latest", 2002)],
    );
    assert!(names(&t).is_empty());
}

#[test]
fn filters_must_all_match() {
    let all = [("a", 2001), ("b", 2002), ("c", 2003)];
    let table: [(&str, &[&str]); 8] = [
        ("--filter until=2002-06-01", &["c:latest"]),
        ("--filter until=24h", &[]),
        ("--filter until=2001-01-01T00:00:00Z", &["a:latest", "b:latest", "c:latest"]),
        ("--filter label=year", &[]),
        ("--filter label=year=2002", &["a:latest", "c:latest"]),
        ("--filter label!=year", &["a:latest", "b:latest", "c:latest"]),
        ("--filter label!=year=2002", &["b:latest"]),
        ("--filter until=2002-06-01 --filter label=year=2002", &["a:latest", "c:latest"]),
    ];
    for (args, left) in table {
        let t = store(&all);
        t.sh(&format!("img-prune -a -q {args} >out")).is_silent();
        assert_eq!(names(&t), left, "{args}");
        sound(&t);
    }
}

#[test]
fn the_newest_names_of_each_repository_stay() {
    let t = store(&[("a:1", 2001), ("a:3", 2003), ("a:2", 2002), ("b:1", 2001), ("b:0", 2000)]);
    prunes(&t, "--keep 2 --per-repo", &[pinned("a:1", 2001)]);
    prunes(&t, "--keep 1 --per-repo", &[pinned("a:2", 2002), pinned("b:0", 2000)]);
    prunes(&t, "--keep 1", &[pinned("b:1", 2001)]);
    assert_eq!(names(&t), ["a:3"]);
}

#[test]
fn what_was_not_used_for_long_goes() {
    let t = store(&[("a", 2001), ("b", 2002)]);
    let age = |year: u32, when: &str| {
        let hex = &image(year).digest[7..];
        t.sh(&format!("touch -d '{when}' $TARE_ROOT/images/blobs/sha256/{hex}")).is_silent();
    };
    age(2001, "20 days ago");
    age(2002, "20 days ago");
    prunes(&t, "--unused-for 21d", &[]);
    t.sh("img-unpack --rootfs a out").prints("./out\n");
    prunes(&t, "--unused-for 14d", &[pinned("b:latest", 2002)]);
    // Its mark goes with an image.
    t.sh("ls $TARE_ROOT/cache/used | wc -l; img-prune -a -q >/dev/null; ls $TARE_ROOT/cache/used | wc -l")
        .prints("1\n0\n");
}

#[test]
fn what_was_just_made_or_named_is_in_use_however_old_its_blobs_are() {
    for (command, left) in [
        ("img-tag a c", &["a:latest", "c:latest"][..]),
        ("img-load -i a.tar", &["a:latest"]),
        ("img-import x.tar imported", &["imported:latest"]),
        ("img-build -q -t built .", &["built:latest"]),
    ] {
        let t = store(&[("a", 2001)]);
        t.sh("img-save -o a.tar a; echo x >x; tar -cf x.tar x; printf 'FROM scratch\\nCOPY x /\\n' >Dockerfile")
            .is_silent();
        t.sh(&format!(
            "{command} >first 2>said; touch -d '20 days ago' $TARE_ROOT/images/blobs/sha256/*
             rm -rf $TARE_ROOT/cache/used; {command} 2>said | cmp - first
             img-prune -q --unused-for 14d >gone"
        ))
        .is_silent();
        assert_eq!(names(&t), left, "{command}");
    }
}

#[test]
fn a_run_and_a_pull_are_uses() {
    let t = Sandbox::with_image("app").with_registry();
    t.registry().add(&image(2001), "app", "1");
    let marks = "find $TARE_ROOT/cache/used -type f -mmin -5 2>/dev/null | wc -l";
    t.sh("img-ls >out").is_silent();
    t.sh(marks).prints("0\n");
    t.sh("ctr-spawn --rm app true").is_silent();
    t.sh(marks).prints("1\n");
    t.sh("img-pull -q $REGISTRY/app:1 >out").is_silent();
    t.sh(marks).prints("2\n");
    t.sh("touch -d '2 hours ago' $TARE_ROOT/cache/used/*").is_silent();
    t.sh(marks).prints("0\n");
    t.sh("img-pull -q $REGISTRY/app:1 >out; ctr-spawn --rm app true").is_silent();
    t.sh(marks).prints("2\n");
}

#[test]
fn no_more_goes_than_it_takes_to_fit() {
    let t = store(&[("a", 2001), ("b", 2002), ("c", 2003)]);
    for (year, days) in [(2001, 1), (2002, 3), (2003, 2)] {
        let hex = &image(year).digest[7..];
        t.sh(&format!("touch -d '{days} days ago' $TARE_ROOT/images/blobs/sha256/{hex}"))
            .is_silent();
    }
    let size = || t.sh("cat $TARE_ROOT/images/blobs/sha256/* | wc -c").text().trim().to_owned();
    prunes(&t, &format!("--max-size {}", size()), &[]);
    let less = size().parse::<u64>().unwrap() - 1;
    prunes(&t, &format!("--max-size {less}"), &[pinned("b:latest", 2002)]);
    t.sh("ctr-spawn --rm c true").exits(127); // an image of files, but its layers are unpacked
    prunes(&t, "--max-size 1b --keep 1", &[pinned("a:latest", 2001)]);
    // c was used last and is the newest; nothing but it is left.
    assert_eq!(names(&t), ["c:latest"]);
    t.sh("ls $TARE_ROOT/layers | wc -l").prints("2\n");
    prunes(&t, "--max-size 0", &[pinned("c:latest", 2003)]);
    t.sh("ls $TARE_ROOT/layers | wc -l").prints("0\n");
}

#[test]
fn unpacked_layers_that_another_image_needs_stay() {
    let t = store(&[("a", 2001), ("b", 2002)]);
    t.sh("ctr-spawn --rm a true; ctr-spawn --rm b true; ls $TARE_ROOT/layers | wc -l")
        .exits(0)
        .ends_with("3\n");
    t.sh("img-rm a").prints("a\n");
    let mut layers = 3;
    for left in [2, 2] {
        let run = t.sh("img-prune").exits(0);
        assert_eq!(String::from_utf8_lossy(&run.stderr).contains(": 0B\n"), layers == left);
        t.sh("ls $TARE_ROOT/layers | wc -l").prints(&format!("{left}\n"));
        layers = left;
    }
}

#[test]
fn layers_in_use_stay_and_those_of_the_dead_go() {
    let t = Sandbox::with_image("app");
    t.sh("mkfifo in; ctr-spawn --rm -i app sh -c 'echo up; cat' <in >up & exec 3>in
        until [ -s up ]; do :; done
        mkdir -p $TARE_ROOT/layers/.dead.tmp/diff/x
        img-rm -f app; img-prune -aq; ls -A $TARE_ROOT/layers | wc -l
        echo more >&3; exec 3>&-; wait; cat up
        img-prune -q >out; ls -A $TARE_ROOT/layers | wc -l")
        .prints("app\n1\nup\nmore\n0\n");
}

#[test]
fn of_many_at_once_none_fails() {
    for _ in 0..5 {
        let t = store(&[("a", 2001), ("b", 2002), ("c", 2003)]);
        t.sh("for app in a b c; do ctr-spawn --rm $app true; done; ls $TARE_ROOT/layers | wc -l")
            .exits(0)
            .ends_with("4\n");
        t.sh("img-rm a b c >out").is_silent();
        t.sh("for option in --force --max-size=1g --max-size=0; do
                  for i in 1 2 3 4; do { img-prune -q $option || echo $?; } & done
              done; wait; ls -A $TARE_ROOT/layers")
            .prints("");
        sound(&t);
    }
}

#[test]
fn a_user_prunes_what_his_containers_unpacked() {
    let t = Sandbox::with_image("app").as_user();
    t.sh("ctr-spawn --rm app true").is_silent();
    t.sh("ls $TARE_ROOT/layers | wc -l").prints("1\n");
    t.sh("img-prune -a --dry-run 2>dry >out; ls $TARE_ROOT/layers | wc -l").prints("1\n");
    t.sh("img-prune -a 2>real | cmp - out && cmp real dry && ls $TARE_ROOT/layers | wc -l")
        .prints("0\n");
    sound(&t);
}

#[test]
fn what_a_download_left_goes_when_it_is_old() {
    let t = Sandbox::with_image("app");
    let hex = "0".repeat(64);
    let partial = format!("$TARE_ROOT/images/.partial/sha256-{hex}");
    t.sh(&format!(
        "mkdir $TARE_ROOT/images/.partial; echo part >{partial}; img-prune; ls {partial} | wc -l"
    ))
    .outputs("1\n", "img-prune: total reclaimed space: 0B\n", 0);
    t.sh(&format!("touch -d '25 hours ago' {partial}; flock {partial} img-prune")).outputs(
        "",
        "img-prune: total reclaimed space: 0B\n",
        0,
    );
    t.sh("img-prune").outputs("", "img-prune: total reclaimed space: 5B\n", 0);
    sound(&t);
    t.sh(&format!(
        "mkdir $TARE_ROOT/images/.partial; echo part >{partial}; img-prune -aq --filter label=none"
    ))
    .is_silent();
    sound(&t);
}

#[test]
fn what_refers_to_an_image_that_stays_stays() {
    let t = store(&[("app", 2001), ("b", 2002)]);
    // A signature, say: a manifest without a name whose subject is another.
    let sign = |image: &Image, what: &str| {
        let script = format!(
            "cd $TARE_ROOT/images; oci=application/vnd.oci; empty=$(printf {{}} | sha256sum | cut -c -64)
            printf {{}} >blobs/sha256/$empty; jq -c . >m <<END
            {{ \"schemaVersion\": 2, \"mediaType\": \"$oci.image.manifest.v1+json\", \"artifactType\": \"text/{what}\",
              \"config\": {{ \"mediaType\": \"$oci.empty.v1+json\", \"digest\": \"sha256:$empty\", \"size\": 2 }}, \"layers\": [],
              \"subject\": {{ \"mediaType\": \"$oci.image.manifest.v1+json\", \"digest\": \"{}\", \"size\": 1 }} }}
END
            hex=$(sha256sum <m | cut -c -64); size=$(stat -c %s m); mv m blobs/sha256/$hex
            jq -c \".manifests += [{{mediaType: \\\"$oci.image.manifest.v1+json\\\", digest: \\\"sha256:$hex\\\", size: $size}}]\" <index.json >new
            mv new index.json; echo sha256:$hex",
            image.digest
        );
        t.sh(&script).text()
    };
    let (first, second) = (sign(&image(2001), "one"), sign(&image(2002), "two"));
    prunes(&t, "", &[]);
    t.sh("img-rm b").prints("b\n");
    prunes(&t, "", &[second]);
    prunes(&t, "--keep 1", &[]);
    prunes(&t, "-a", &[pinned("app:latest", 2001), first]);
    t.sh("ls $TARE_ROOT/images/blobs/sha256").prints("");
}

#[test]
fn a_layout_directory_is_pruned_by_its_name() {
    let t = Sandbox::with_image("app");
    image(2001).copy_to(&t.path("work/out"), "v1");
    image(2002).copy_to(&t.path("work/out"), "");
    t.sh("img-prune -q --layout out").prints(&format!("./out@{}\n", image(2002).digest));
    t.sh("img-prune -aq --layout out --dry-run")
        .prints(&format!("./out:v1@{}\n", image(2001).digest));
    t.sh("img-prune -aq --layout out; ls out/blobs/sha256; ls -A out | xargs")
        .prints(&format!("./out:v1@{}\nblobs index.json oci-layout\n", image(2001).digest));
    t.sh("img-prune --layout none")
        .exits(1)
        .says("img-prune: not an image layout: none/oci-layout: ");
    assert_eq!(
        layout::names(&t.path("tare/images")).unwrap()["docker.io/library/app:latest"],
        busybox().digest
    );
}

#[test]
fn a_strangers_layout_has_nothing_removed_elsewhere_and_nobody_waits_for_it() {
    let t = Sandbox::new();
    image(2001).copy_to(&t.path("work/out"), "v1");
    let prune = "timeout 60 img-prune -aq --keep 9 --layout out";
    t.sh(&format!(
        "mkdir victim; touch victim/new-report.txt victim/old; ln -s ../victim out/.partial
         img-tag ./out:v1 v2 >line && {prune}; ls victim"
    ))
    .prints("new-report.txt\nold\n");
    // Nor are all blobs taken for what was left on its way in.
    t.sh(&format!(
        "rm out/.partial; ln -s blobs/sha256 out/.partial; {prune}; ls out/blobs/sha256 | wc -l"
    ))
    .prints("4\n");
    t.sh(&format!(
        "rm out/.partial; mkdir out/.partial; mkfifo out/.partial/new-x
         timeout 60 img-tag ./out:v1 v3 >line && {prune}; ls out/.partial; rm -r out/.partial"
    ))
    .prints("new-x\n");
    t.sh(&format!(
        "mkdir -p other/sha256; hex=$(printf x | sha256sum | cut -c -64); echo theirs >other/sha256/$hex
         mv out/blobs/sha256 own; ln -s ../../other/sha256 out/blobs/sha256
         {prune}; cat other/sha256/$hex"
    ))
    .says("a symlink that leaves the layout")
    .ends_with("theirs\n");
}

#[test]
fn on_a_terminal_it_asks_first() {
    if sandbox::lacks(&["script"]) {
        return;
    }
    let t = Sandbox::with_image("app");
    let ask = |answer: &str, args: &str| {
        t.sh(&format!("echo {answer} | script -qec 'img-prune {args} 2>said >out' /dev/null >/dev/null; echo $?; cat said out"))
            .text()
    };
    let warning = "WARNING! This will remove all images without at least one container associated to them.\n\
        Are you sure you want to continue? [y/N] ";
    assert_eq!(ask("n", "-aq"), format!("1\n{warning}img-prune: cancelled: nothing was removed\n"));
    assert_eq!(
        ask("", "-q"),
        "1\nWARNING! This will remove all dangling images.\n\
        Are you sure you want to continue? [y/N] img-prune: cancelled: nothing was removed\n"
    );
    assert_eq!(names(&t), ["app:latest"]);
    let line = format!("app:latest@{}\n", busybox().digest);
    assert_eq!(ask("n", "-aq --dry-run"), format!("0\n{line}"));
    assert_eq!(ask("y", "-aq"), format!("0\n{warning}{line}"));
    t.store(busybox(), "app");
    assert_eq!(ask("n", "-afq"), format!("0\n{line}"));
}
