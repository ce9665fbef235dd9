//! RUN --mount, and what a step's key has of it.

use sandbox::{Sandbox, lacks};

/// Builds, and returns how many steps were cached.
fn cached(t: &Sandbox, flags: &str) -> String {
    t.sh(&format!("img-build {flags} . 2>&1 | grep -c '(cached)'; :")).text()
}

#[test]
fn a_source_is_a_name_and_no_pattern() {
    let t = Sandbox::with_image("base");
    t.sh(r"mkdir 'd[1]' '\*' x; for d in 'd[1]' '\*'; do echo one >$d/f; done").is_silent();
    t.write(
        "Dockerfile",
        r"# escape=`
FROM base
RUN --mount=source=d[1],target=/m cat /m/f >/a
RUN --mount=source=\*,target=/m cat /m/f >/b
RUN --mount=source=x/../x,target=/m ls /m >/c
",
    );
    assert_eq!(cached(&t, "-q"), "0\n");
    assert_eq!(cached(&t, "-t app"), "3\n");
    t.sh(r"for d in 'd[1]' '\*'; do echo two >$d/f; done; echo >x/new").is_silent();
    assert_eq!(cached(&t, "-t app"), "0\n");
    t.sh("ctr-spawn --rm app cat /a /b /c").prints("two\ntwo\nnew\n");
}

#[test]
fn a_tmpfs_comes_from_nowhere() {
    let t = Sandbox::with_image("base");
    t.write(
        "Dockerfile",
        "FROM base AS a\nRUN echo a >/a\nFROM base\nARG T=tmpfs\n\
         RUN --mount=type=tmpfs,from=nowhere.invalid/x,target=/t --mount=type=$T,from=a,target=/u \\\n\
             --mount=from=a,target=/m touch /t/x /u/x && ls /t /u /m/a >/out\n",
    );
    t.sh("img-build -q -t app . >line && ctr-spawn --rm app cat /out")
        .prints("/m/a\n\n/t:\nx\n\n/u:\nx\n");
}

#[test]
fn arguments_of_buildkit_name_the_machine_and_the_caches() {
    let t = Sandbox::with_image("base");
    t.write(
        "Dockerfile",
        "FROM base\nRUN hostname >/name\nRUN --mount=type=cache,target=/c echo >>/c/n; wc -l </c/n >/count\n",
    );
    let said = |flags: &str| {
        t.sh(&format!("img-build -q -t app {flags} . >line && ctr-spawn --rm app cat /name /count"))
            .text()
    };
    assert_eq!(said(""), "buildkitsandbox\n1\n");
    let named = "--build-arg BUILDKIT_SANDBOX_HOSTNAME=box";
    assert_eq!(said(named), "box\n2\n");
    let apart = "--build-arg BUILDKIT_CACHE_MOUNT_NS=mine";
    assert_eq!(said(&format!("{named} {apart}")), "box\n1\n");
    assert_eq!(said(&format!("--no-cache {apart}")), "buildkitsandbox\n2\n");
    t.sh("img-build -q --build-arg BUILDKIT_SANDBOX_HOSTNAME='a b' .").fails(
        "img-build: Dockerfile:2: RUN: BUILDKIT_SANDBOX_HOSTNAME=a b: not a name of a machine\n",
    );
}

/// Says whose the files are that a step sees, and takes them.
const OWNED: &str = "FROM base\n\
    RUN --mount=target=/m find /m -exec stat -c '%u %g %a %n' {} + | sort >/seen; cp -a /m /bound\n\
    RUN --mount=source=d,target=/m,rw echo >/m/new; stat -c '%u %g' /m /m/* >/rw; cp -a /m /written\n\
    RUN --mount=source=d/e/g,target=/f,rw cat /f; echo more >>/f; cp -a /f /file; stat -c '%u %g %a' /f\n\
    RUN --mount=type=cache,from=more,target=/c stat -c '%u %g' /c /c/d/f; cp -a /c /cache\n";

const FILL: &str = "umask 022; mkdir -p ctx/d/e ctx/hidden; for f in d/f d/e/g hidden/h no; do echo $f >ctx/$f; done
    chmod 4751 ctx/d/f; chmod 700 ctx/d/e; ln -s f ctx/d/l; printf 'hidden\nno\nDockerfile\n.dockerignore\n' >ctx/.dockerignore";

#[test]
fn what_a_context_has_is_roots_to_a_step_whose_ever_it_is() {
    if lacks(&["root", "newuidmap"]) {
        return;
    }
    let t = Sandbox::with_image("base");
    t.sh(FILL).is_silent();
    t.write("ctx/Dockerfile", OWNED);
    let build = "img-build -q -t app --no-cache --build-context more=ctx ctx";
    let expected = t.sh(build).text();
    let seen = "0 0 4751 /m/d/f\n0 0 700 /m/d/e\n0 0 644 /m/d/e/g\n0 0 755 /m\n0 0 755 /m/d\n0 0 777 /m/d/l\n";
    let lines = |text: &str| -> Vec<String> {
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    let found = || lines(&t.sh("ctr-spawn --rm app cat /seen").text());
    assert_eq!(found(), lines(seen));
    for owner in ["1000:1000", "1000:5"] {
        t.sh(&format!("chown -hR {owner} ctx; chmod 4751 ctx/d/f; chown 7 ctx/d/e/g")).is_silent();
        t.sh(build).prints(&expected);
        assert_eq!(found(), lines(seen));
        t.sh("ls ctx/d; cat ctx/d/f; stat -c %u:%g ctx/d/f")
            .prints(&format!("e\nf\nl\nd/f\n{owner}\n"));
    }

    let u = Sandbox::with_image("base").as_user();
    u.sh(FILL).is_silent();
    u.write("ctx/Dockerfile", OWNED);
    u.sh(build).prints(&expected);
}
