//! What is there is not done again, and what differs is done and said.

use std::time::Duration;

use sandbox::Sandbox;

/// A Dockerfile whose step tells, outside of all layers, that it was done.
fn with_counter() -> Sandbox {
    let t = Sandbox::with_image("base");
    t.write(
        "Dockerfile",
        "FROM base\nARG A=1\nENV B=1\nCOPY f* /\nRUN --mount=type=cache,target=/c echo done >>/c/n; cat /f1; echo $A$B >/out\n",
    );
    t.sh("echo 1 >f1; echo x >other").is_silent();
    t
}

/// Returns how often the step of [`with_counter`] was done.
fn count(t: &Sandbox) -> usize {
    t.sh("cat $(find $TARE_ROOT/cache/mounts -name n) | wc -l").text().trim().parse().unwrap()
}

#[test]
fn a_step_is_done_when_what_it_depends_on_differs() {
    let t = with_counter();
    let build = |flags: &str| t.sh(&format!("img-build -q {flags} .")).text();
    let first = build("");
    assert_eq!(count(&t), 1);
    let same = ["", "--label a=b -t x", "--progress json"];
    same.iter().for_each(|flags| drop(build(flags)));
    t.sh("touch -d 2001-01-01 f1; echo y >other; chmod 600 other").is_silent();
    assert_eq!(build(""), first);
    assert_eq!(count(&t), 1);

    let differs: [(&str, &str); 6] = [
        ("--build-arg A=2", ":"),
        ("", "chmod 755 f1"),
        ("", "echo 2 >f1"),
        ("", "echo new >f2"),
        ("", "sed -i s/B=1/B=3/ Dockerfile"),
        ("--no-cache", ":"),
    ];
    for (n, (flags, change)) in differs.into_iter().enumerate() {
        t.sh(change).is_silent();
        build(flags);
        assert_eq!(count(&t), 2 + n, "{flags} {change}");
    }
}

#[test]
fn it_is_said_why() {
    let t = with_counter();
    t.sh("img-build --explain . 2>&1 | grep -c 'done for the first time'").prints("2\n");
    t.sh("img-build --explain . 2>&1 | grep -c '(cached)'").prints("2\n");
    t.sh("img-build --explain --build-arg A=7 . 2>&1 | grep -o 'miss: .*'")
        .prints("miss: variable A was 1, is 7\n");
    t.sh("echo 2 >f1; img-build --explain . 2>&1 | grep -o 'miss: [a-z]*'")
        .prints("miss: files\nmiss: base\n");
}

#[test]
fn a_result_whose_layer_was_pruned_is_made_again() {
    let t = with_counter();
    let first = t.sh("img-build -q .").text();
    t.sh("img-prune -a -f >out 2>&1; img-pull -q base 2>/dev/null; :").text();
    t.store(sandbox::image::busybox(), "base");
    assert_eq!(t.sh("img-build -q .").text(), first);
    assert_eq!(count(&t), 2);
    t.sh("img-unpack --rootfs sha256:$(img-ls -a -q | grep -v base | cut -d: -f2 | head -1) o >/dev/null; cat o/out").prints("11\n");
}

#[test]
fn many_at_once_build_one_image() {
    let t = with_counter().with_limit(Duration::from_secs(240));
    t.sh("for i in $(seq 8); do img-build -q -t app . >out.$i & done; wait; sort -u out.* | wc -l")
        .prints("1\n");
    t.sh("ctr-spawn --rm app cat /out; find $TARE_ROOT/containers/.build $TARE_ROOT/images/.partial -mindepth 1 ! -name .rm 2>/dev/null; :")
        .prints("11\n");
}

#[test]
fn what_is_in_the_cache_is_believed_only_if_it_is_whole() {
    let t = with_counter();
    let first = t.sh("img-build -q .").text();
    t.sh("for f in $(find $TARE_ROOT/cache/build -type f); do head -c 40 $f >x; cp x $f; done")
        .is_silent();
    assert_eq!(t.sh("img-build -q .").text(), first);
    t.sh("rm -rf $TARE_ROOT/cache/build $TARE_ROOT/cache/files; img-build -q . >again; rm -r $TARE_ROOT/layers").is_silent();
    assert_eq!(t.sh("img-build -q --no-cache .").text(), first);
}
