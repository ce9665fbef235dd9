//! Where a build has less than it is used to: no root, one id, a container around it, no overlay.

use sandbox::Sandbox;
use sandbox::lacks;

/// Stages, owners, links, things that come, go and stay as they were.
const DOCKERFILE: &str = r#"FROM base AS one
WORKDIR /srv
COPY --chown=5:6 . /x
RUN date >/dev/null; echo $SOURCE_DATE_EPOCH >/epoch; touch /now; chown 7:8 /now; mkdir -m 1777 /t; ln -s /t /link
RUN rm -r /var/lib /home; mkdir /home; chmod 1777 /tmp; chmod 755 /bin/busybox; : >>/etc/group; rm /srv/../epoch; cp -a /x /home/
FROM base
ADD a.tgz /arch/
COPY --from=one /x /now /y/
RUN ln /y/a /y/b; ln -s a /y/c; rm -r /home; echo x >/root/.x; cp -a /arch /arch2
COPY --from=one /home /home
WORKDIR /w/w
COPY d /link/
USER 7
RUN echo me >/tmp/me
"#;

/// Makes the directory ctx.
const CONTEXT: &str =
    "mkdir -p ctx/d in/sub; seq 1000 >ctx/d/s; echo a >ctx/a; echo in >in/in; chmod 1777 in/sub
    tar -C in --sort=name --mtime=@0 --owner=3 --group=4 -czf ctx/a.tgz .; rm -r in";

fn fill(t: &Sandbox) {
    t.sh(&format!("umask 022; {CONTEXT}")).is_silent();
    t.write("ctx/Dockerfile", DOCKERFILE);
}

/// Returns what root makes of it on a machine that lacks nothing.
fn expected() -> String {
    let t = Sandbox::with_image("base");
    fill(&t);
    t.sh("img-build -q ctx").text()
}

#[test]
fn a_user_makes_what_root_makes() {
    if lacks(&["root", "newuidmap"]) {
        return;
    }
    let t = Sandbox::with_image("base").as_user();
    fill(&t);
    t.sh("img-build -q ctx").prints(&expected());
    t.sh("img-build -q --no-cache ctx").prints(&expected());
}

/// Builds ctx in a privileged container: in its root, and in a volume.
const PRIVILEGED: &str = r#"
    umask 022; img-save -o base.tar base
    bin=$(dirname "$(readlink -f "$(command -v img-build)")")
    cat >build <<'END'
export PATH=/programs:$PATH TARE_RUN=/run/tare
for TARE_ROOT in /store /volume/store; do
    export TARE_ROOT; img-load -q -i /work/base.tar >/dev/null; img-build -q /work/ctx
    find $TARE_ROOT/containers/.build $TARE_ROOT/images/.partial -mindepth 1 ! -name .rm 2>/dev/null
done; true
END
    mkdir -p volume
    ctr-spawn --rm --privileged -v "$bin:/programs" -v "$PWD:/work" -v "$PWD/volume:/volume" base sh /work/build
"#;

#[test]
fn a_privileged_container_is_a_machine() {
    if lacks(&["root", "newuidmap"]) {
        return;
    }
    let expected = expected();
    for user in [false, true] {
        let t = Sandbox::with_image("base");
        let t = if user { t.as_user() } else { t };
        fill(&t);
        t.sh(PRIVILEGED).prints(&format!("{expected}{expected}"));
    }
}

/// Runs `$1` where `$DIR` is on `$2` overlays, one on the other: the kernel stacks two.
const ON_OVERLAYS: &str = r#"
    mkdir -p o/0; DIR=$PWD/o/0
    for n in $(seq $2); do
        mkdir -p $DIR/low o/mem$n o/$n; mount -t tmpfs tmpfs o/mem$n; mkdir o/mem$n/up o/mem$n/work
        mount -t overlay overlay -o lowerdir=$DIR/low,upperdir=$PWD/o/mem$n/up,workdir=$PWD/o/mem$n/work o/$n
        DIR=$PWD/o/$n
    done
    eval "$1"
"#;

#[test]
fn without_an_upper_directory_or_any_overlay_the_layers_are_the_same() {
    if lacks(&["root", "mount"]) {
        return;
    }
    let expected = expected();
    let t = Sandbox::with_image("base");
    fill(&t);
    t.sh("img-save -o base.tar base").is_silent();
    for (overlays, note) in [
        (1, "its filesystem cannot hold what a container writes"),
        (2, "no overlay can be mounted here"),
    ] {
        let build = format!(
            "export TARE_ROOT=$DIR/tare; img-load -q -i base.tar >/dev/null && img-build ctx 2>said; grep -c '{note}' said;
             img-build --no-cache -q ctx; img-build -q -o $DIR/out ctx && ls $DIR/out/w
             find $TARE_ROOT/containers/.build -mindepth 1 ! -name .rm"
        );
        let script = format!(
            "unshare -m --propagation private sh -c '{ON_OVERLAYS}' sh \"$BUILD\" {overlays}"
        );
        t.set("BUILD", build);
        t.sh(&script).prints(&format!("{expected}1\n{expected}w\n"));
        t.sh("rm -r o said").is_silent();
    }
}

/// An image with files of others, and one of each thing of which no owner can be recorded.
fn owned(t: &Sandbox) {
    t.sh(
        r"umask 022; mkdir o; printf 'FROM base\nRUN mkdir -p /o/d/e /o/priv; echo f >/o/f; echo p >/o/priv/p; chown -R 5:6 /o; \
          chmod 700 /o/priv; chmod 4755 /o/f; chown 1000:1000 /home/app\n' >o/Dockerfile; img-build -q -t owned o >out
          printf 'FROM owned\nRUN ln -s f /o/l; chown -h 7:7 /o/l\n' >o/Dockerfile; img-build -q -t linked o >out
          img-save -o owned.tar owned linked; rm -r o out; mkdir c in; echo a >c/a; mkdir c/d; echo s >c/d/s; echo in >in/in; mkdir in/sub
          tar -C in --sort=name --mtime=@0 --owner=5 --group=6 -cf c/a.tar .; rm -r in",
    )
    .is_silent();
}

#[test]
fn with_one_id_what_can_be_kept_is_kept_and_the_rest_refused() {
    if lacks(&["root"]) {
        return;
    }
    let root = Sandbox::with_image("base");
    owned(&root);
    let t = Sandbox::new().as_stranger();
    t.sh(&format!(
        "cp -r {}/. .; img-load -q -i owned.tar >/dev/null",
        root.path("work").display()
    ))
    .is_silent();
    let both = |lines: &str| {
        let file = format!("FROM owned\n{lines}\n");
        root.write("c/Dockerfile", &file);
        t.write("c/Dockerfile", &file);
        (root.sh("img-build -q c").text(), t.sh("img-build -q c"))
    };
    for lines in [
        "RUN echo x >/x; rm -r /var/lib; mkdir /n; chown 0:0 /n",
        "COPY . /x\nCOPY . /o/d/e/\nADD a.tar /o",
        "COPY --chown=5:6 . /x\nRUN ls /x; touch /y; echo more >>/x/a; chmod 700 /x/d; ln /x/a /x/b; mv /x/a /x/c",
        "COPY --chown=app a /",
        "COPY --parents d/s /o/",
        "ADD a.tar /x\nRUN rm -r /x/sub; echo >/x/new; echo >>/x/in",
        "WORKDIR /home/app/x\nRUN pwd >f",
        "RUN echo >/o/d/x; rm /o/f; chmod 711 /o/priv",
        "COPY --from=owned /o /cp",
        "COPY --from=owned /o/f /cp",
        "FROM scratch\nCOPY --from=0 / /",
    ] {
        let (expected, found) = both(lines);
        assert_eq!(found.text(), expected, "{lines}");
    }
    let list = "img-build -q -o - c | tar --numeric-owner -tv";
    assert_eq!(t.sh(list).text(), root.sh(list).text());
    for (lines, said) in [
        ("RUN chown 5:6 /etc", "Invalid argument"),
        ("USER 7\nRUN id -u", "RUN: user 7 is not mapped"),
        ("RUN mknod /n c 1 3", "Operation not permitted"),
        (
            "RUN --mount=type=cache,uid=5,target=/c true",
            "RUN: cannot give a cache to 5:0: Invalid argument",
        ),
    ] {
        let (_, found) = both(lines);
        found.exits(1).says(said);
    }
    // What nobody can keep is said.
    t.write("c/Dockerfile", "FROM linked\nRUN mv /o /p\n");
    let said = t.sh("img-build c").exits(0).says("only one id is mapped here");
    said.says("o/l: its owner is root here: no other can be kept");
}

#[test]
fn what_is_made_with_one_id_is_not_taken_for_what_is_made_with_many() {
    if lacks(&["newuidmap"]) {
        return;
    }
    let t = Sandbox::with_image("base").as_user();
    t.write("Dockerfile", "FROM base\nRUN touch /home/app/f\n");
    let build = |before: &str| {
        t.sh(&format!(
            "{before} img-build --explain . 2>&1 | grep -o -e '(cached)' -e 'miss: .*'; :"
        ))
        .text()
    };
    let one = "unshare --user --map-root-user";
    assert_eq!(build(one), "miss: it is done for the first time\n");
    assert_eq!(build(one), "(cached)\n");
    assert_eq!(build(""), "miss: ids was 1, is nothing\n");
    assert_eq!(build(""), "(cached)\n");
}
