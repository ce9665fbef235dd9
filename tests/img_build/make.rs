//! `--depfile` and `--iidfile-if-changed`, read by make.

use sandbox::{Sandbox, lacks};

/// Builds an image of a directory when something that it depends on is newer; `made` says how often.
const MAKEFILE: &str = "app.ref:\n\t@img-build -q -t app --iidfile $@ --depfile app.d ctx >/dev/null && echo built\n-include app.d\n";

fn with(makefile: &str, dockerfile: &str) -> Sandbox {
    let t = Sandbox::with_image("base");
    t.sh("mkdir -p ctx/src/deep; echo 1 >ctx/src/a; echo 2 >ctx/src/deep/b; echo 3 >ctx/other")
        .is_silent();
    t.write("Makefile", makefile);
    t.write("ctx/Dockerfile", dockerfile);
    t
}

#[test]
fn make_builds_when_something_has_changed() {
    if lacks(&["make"]) {
        return;
    }
    let t = with(
        MAKEFILE,
        "FROM base\nCOPY src /src\nRUN --mount=type=bind,source=other,target=/o cat /o >/n\n",
    );
    let makes = |change: &str, built: &str| {
        t.sh(&format!("sleep 0.02; {change}; sleep 0.02; make -s")).prints(built);
        t.sh("make -s").is_silent();
    };
    makes(":", "built\n");
    t.sh("cat app.d").prints(
        "app.ref: \\\n ctx/Dockerfile \\\n ctx/other \\\n ctx/src \\\n ctx/src/a \\\n ctx/src/deep \\\n ctx/src/deep/b\n\n\
         ctx/Dockerfile:\nctx/other:\nctx/src:\nctx/src/a:\nctx/src/deep:\nctx/src/deep/b:\n",
    );
    makes(":", "");
    makes("touch ctx/src/deep/b", "built\n");
    makes("echo new >ctx/src/deep/c", "built\n");
    makes("rm ctx/src/a", "built\n");
    makes("rm -r ctx/src/deep", "built\n");
    makes("echo 4 >ctx/other", "built\n");
    makes("echo src/x >ctx/.dockerignore; touch ctx/Dockerfile", "built\n");
    makes("echo src/y >ctx/.dockerignore", "built\n");
    // What nobody copies, nobody needs.
    makes("echo new >ctx/unused", "");
    t.sh("rm app.ref; make -s; make -s").prints("built\n");
}

#[test]
fn what_the_build_writes_does_not_make_it_again() {
    if lacks(&["make"]) {
        return;
    }
    let t = with(
        "out/app.tar:\n\t@img-build -q -t app -o type=oci,dest=$@ --iidfile app.ref --metadata-file app.json --depfile app.d --cache-to ./c -f ctx/Dockerfile . && echo built\n-include app.d\n",
        "FROM base\nCOPY . /all\n",
    );
    t.sh("mkdir out; make -s; sleep 0.02; make -s; make -s").prints("built\n");
    t.sh("touch ctx/src/a; make -s; cp app.d ../before; sleep 0.02; make -s; grep -c '^app\\|^out/app\\|^c/' app.d; cmp ../before app.d")
        .prints("built\n1\n");
    t.sh("head -1 app.d").prints("out/app.tar: \\\n");
}

#[test]
fn a_line_that_is_the_same_keeps_its_time() {
    if lacks(&["make"]) {
        return;
    }
    let t = with(
        "used: app.ref\n\t@echo used; touch $@\n\
         app.ref: FORCE\n\t@img-build -q -t app --iidfile-if-changed $@ --depfile app.d ctx >/dev/null && echo built\nFORCE:\n",
        "FROM base\nCOPY src /src\n",
    );
    t.sh("make -s; sleep 0.02; make -s").prints("built\nused\nbuilt\n");
    t.sh("sleep 0.02; touch ctx/src/a; make -s; echo 9 >ctx/src/a; sleep 0.02; make -s")
        .prints("built\nbuilt\nused\n");
    t.sh("grep -c ^app:latest@sha256: app.ref; head -1 app.d").prints("1\napp.ref: \\\n");
}

#[test]
fn names_are_written_as_make_reads_them() {
    if lacks(&["make"]) {
        return;
    }
    // Make has rules of its own, by which `a` is made of `a.c`.
    let t = with(&format!("MAKEFLAGS += -r\n{MAKEFILE}"), "FROM base\nCOPY src /src\n");
    let odd = [
        "a b", "a  b", " a", "a\tb", "a$b", "$(x)y", "a#b", "a%b", "%", "a\\b", "a\\ b", "a\\#b",
        "a\\\\:b", "a:b", "a;b", "a\\;b", "a=b", "=", "a&b", "a&", "a|b", "|", "*", "a?b", "[ab]",
        "~", "~a", "(a", "a(b).c", "a'b", "a\"b", "@a", "-a", "!", ",", "<>", "{a,b}", "é",
        "include", "a=b:c;d&", ".a", "a]", "^", "+",
    ];
    for name in odd {
        std::fs::write(t.path("work/ctx/src").join(name), "").unwrap();
    }
    t.sh("make -s 2>&1; sleep 0.02; make -s 2>&1").prints("built\n");
    for name in odd {
        t.set("NAME", name);
        t.sh("sleep 0.02; touch -- \"$PWD/ctx/src/$NAME\"; make -s 2>&1; make -s 2>&1")
            .prints("built\n");
    }
    // One is gone, and no rule makes it.
    for name in odd {
        t.set("NAME", name);
        t.sh("sleep 0.02; rm -- \"$PWD/ctx/src/$NAME\"; make -s 2>&1; make -s 2>&1")
            .prints("built\n");
    }
    for name in ["a\nb", "a ", "a\\", "a (1)"] {
        let path = t.path("work/ctx/src").join(name);
        std::fs::write(&path, "").unwrap();
        t.sh("rm -f app.ref; make -s").says("a name that no makefile can hold").exits(2);
        t.sh("test ! -e app.ref; ls .img* 2>/dev/null; :").is_silent();
        std::fs::remove_file(path).unwrap();
    }
}

#[test]
fn a_file_in_the_context_is_no_command_to_make() {
    if lacks(&["make"]) {
        return;
    }
    let t = with(
        "bad:\n\tfalse\napp.ref:\n\t@img-build -q --iidfile $@ --depfile app.d . >/dev/null\n-include app.d\n",
        "",
    );
    t.write("Dockerfile", "FROM base\nCOPY src .[A-Z]* /src/\n");
    t.sh("mkdir src; echo 1 >src/a").is_silent();
    for name in [".IGNORE", ".ONESHELL", ".SECONDEXPANSION", ".SILENT", ".WAIT"] {
        t.set("NAME", name);
        t.sh("touch $NAME; make -s app.ref").says("a name that no makefile can hold").exits(2);
        t.sh("make -s bad 2>/dev/null").exits(2);
        t.sh("rm $NAME").is_silent();
    }
    // In a directory it is a name.
    t.sh("touch src/.IGNORE; make -s app.ref 2>/dev/null; grep ^src/.IGN app.d")
        .prints("src/.IGNORE:\n");
    t.sh("make -s bad 2>/dev/null").exits(2);
}

#[test]
fn all_that_is_read_of_this_host_is_there() {
    let t = with("", "FROM ./layout:x\nCOPY --from=more f* /\nCOPY l /l\nADD src/a.tar /\n");
    t.sh("mkdir more; echo 1 >more/f1; echo f9 >more/.dockerignore; ln -s src/deep ctx/l; tar -C ctx -cf ctx/src/a.tar other
          printf 'FROM base\\nRUN true\\n' | img-build -q --layout layout -t x - >/dev/null
          img-build -q --build-context more=more --iidfile x --depfile d ctx >/dev/null; sed '/^$/,$d' d")
        .prints("x: \\\n ./layout/index.json \\\n ctx \\\n ctx/Dockerfile \\\n ctx/src/a.tar \\\n ctx/src/deep \\\n ctx/src/deep/b \\\n more \\\n more/.dockerignore \\\n more/f1\n");
    // Of what is fetched, or comes through a pipe, there is nothing to be seen.
    t.sh("printf 'FROM base\\nCOPY . /\\n' | img-build -q --iidfile x --depfile d - >/dev/null; cat d")
        .prints("x:\n");
    t.sh("cd ctx; printf 'FROM base\\nCOPY src/deep /\\n' >D; img-build -q -f D --iidfile x --depfile d . >/dev/null; sed '/^$/,$d' d")
        .prints("x: \\\n D \\\n src/deep \\\n src/deep/b\n");
    t.sh("img-save -o base.tar base; printf 'FROM other\\nRUN true\\n' >ctx/D
          img-build -q --build-context other=oci-archive:base.tar -f ctx/D --iidfile x --depfile d ctx >/dev/null; sed '/^$/,$d' d")
        .prints("x: \\\n base.tar \\\n ctx/D\n");
    t.sh("img-build -q --depfile d ctx").says("--depfile: of which file?").exits(2);
    t.sh("img-build -q --iidfile x --depfile none/d -f ctx/D ctx").exits(1);
    t.sh("img-build -q --iidfile x --depfile /dev/full -f ctx/D ctx").exits(1);
}
