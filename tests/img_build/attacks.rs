//! Contexts, Dockerfiles and steps that want more than is theirs: security.md, the rows of builds.

use sandbox::Sandbox;

fn with_bait() -> Sandbox {
    let t = Sandbox::with_image("base");
    t.sh("echo bait-bait >../bait; chmod 600 ../bait").is_silent();
    t
}

/// Builds these lines; nothing of the bait may be in what is said, or in the store.
fn holds(t: &Sandbox, lines: &str) {
    t.write("Dockerfile", format!("FROM base\n{lines}\n"));
    t.sh("img-build --no-cache -t app . >out 2>said; grep -c bait-bait said; \
          img-ls -q | grep -q ^app && { img-unpack --rootfs app tree >/dev/null; grep -r -l bait-bait tree; rm -rf tree; img-rm app >/dev/null; }; :")
        .prints("0\n");
}

#[test]
fn a_context_leads_nowhere_else() {
    let t = with_bait();
    let bait = t.path("bait").display().to_string();
    t.sh(&format!(
        "ln -s {bait} leak; ln -s {} up; ln -s ../../.. far; mkdir d; ln -s {bait} d/in",
        t.path("").display()
    ))
    .is_silent();
    for lines in [
        "COPY leak /x",
        "COPY up/bait /x",
        "COPY far /x",
        "COPY ../bait /x",
        "COPY ../../../bait /x",
        "COPY d/ /x/",
        "COPY * /x/",
        "COPY --parents up/./bait /x/",
        "ADD leak /x",
        "RUN --mount=type=bind,source=leak,target=/x cat /x",
        "RUN --mount=type=bind,source=up,target=/x cat /x/bait",
        "RUN --mount=type=bind,source=../,target=/x cat /x/bait",
        "RUN --mount=type=cache,id=../../../../bait,target=/x cat /x/bait; ls /x",
        "RUN --mount=type=cache,source=../../..,target=/x cat /x/bait",
        "ADD file:///bait /x",
    ] {
        holds(&t, lines);
    }
}

#[test]
fn a_step_cannot_have_us_remove_what_is_not_its_own() {
    let t = with_bait();
    t.sh("mkdir ../dir; touch ../dir/x").is_silent();
    let dir = t.path("dir").display().to_string();
    t.write("Dockerfile", format!(
        "FROM base\nRUN --mount=type=tmpfs,target=/d/x rm -rf /d 2>/dev/null; mv /d /e; ln -s {dir} /d\nRUN ln -sfn / /etc/resolv.conf; rm -rf /proc/1/root/{dir}\n"));
    t.sh("img-build -q . >out 2>&1; :").text();
    t.sh(&format!("ls {dir}")).prints("x\n");
}

#[test]
fn a_step_may_no_more_than_a_container() {
    let t = Sandbox::with_image("base");
    t.write("Dockerfile", "FROM base\nRUN busybox mount -t tmpfs t /mnt; busybox mknod /x b 7 0 && cat /x; echo 1 >/proc/sys/kernel/panic; echo b >/proc/sysrq-trigger; ls /proc/1/root/../..; true\n");
    let refused = "grep -c -i -e '| .*permi' -e 'Read-only' -e 'nonexistent' ../said";
    t.sh(&format!("img-build . >../out 2>../said; {refused}")).prints("4\n");
    t.write("Dockerfile", "FROM base\nRUN --device=vendor.com/class=x,required true\n");
    t.sh("img-build -q .").exits(1);
}

#[test]
fn an_archive_that_is_added_stays_where_it_is_put() {
    let t = with_bait();
    let bait = t.path("bait").display().to_string();
    t.sh(&format!("ln -s {bait} l; ln -s / r; tar -P -cf a.tar --transform 's,^,../../../,' ../bait; tar -cf b.tar l r; mkdir -p x/r; echo y >x/r/bait; tar -C x -rf b.tar r/bait; rm -r x l r")).is_silent();
    for lines in ["ADD a.tar /x/", "ADD b.tar /x/\nRUN cat /x/l", "ADD b.tar /"] {
        holds(&t, lines);
    }
    t.sh("cat ../bait; ls / | grep -c bait").outputs("bait-bait\n0\n", "", 1);
}

#[test]
fn an_option_is_no_repository_and_no_reference() {
    let t = Sandbox::with_image("base");
    for source in [
        "git@-oProxyCommand=touch:x/y.git",
        "https://h.invalid/r.git#--upload-pack=touch",
        "https://h.invalid/r.git#main:../..",
    ] {
        t.write("Dockerfile", format!("FROM base\nADD {source} /x\n"));
        t.sh("img-build -q . 2>&1; ls").ends_with("Dockerfile\n");
    }
}
