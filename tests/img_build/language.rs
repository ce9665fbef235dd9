//! A Dockerfile, read and checked: nothing is built.

use sandbox::Sandbox;

#[test]
fn a_dockerfile_is_printed_as_json() {
    let t = Sandbox::new();
    t.write("Dockerfile", "FROM a AS b\nCOPY --link <<E /x\nhi\nE\n");
    t.sh("img-build --parse . | jq -c '.instructions[] | [.instruction, .lines, .flags]'")
        .prints("[\"FROM\",[1,1],[]]\n[\"COPY\",[2,4],[\"--link\"]]\n");
    t.sh("img-build --parse . | wc -l").prints("1\n");
}

#[test]
fn a_dockerfile_may_be_anywhere() {
    let t = Sandbox::new();
    t.sh("mkdir d; echo 'FROM a' >d/Dockerfile; echo 'FROM b' >other").is_silent();
    let image = "| jq -r '.instructions[0].arguments.image'";
    t.sh(&format!("img-build --parse d {image}")).prints("a\n");
    t.sh(&format!("img-build --parse -f other d {image}")).prints("b\n");
    t.sh(&format!("echo 'FROM c' | img-build --parse -f - . {image}")).prints("c\n");
    let pipe = "mkfifo pipe; echo 'FROM d' >pipe & img-build --parse --file=pipe .";
    t.sh(&format!("{pipe} {image}")).prints("d\n");
    t.sh("echo 'FROM' | img-build --parse -f - .")
        .fails("img-build: stdin:1: FROM: it needs an image\nhint: FROM image AS name\n");
}

#[test]
fn an_error_names_the_file_the_line_and_what_to_write() {
    let t = Sandbox::new();
    t.write("Dockerfile", "FROM a\n\nCOPY --form=b \\\n c d\n");
    t.sh("img-build --parse .")
        .fails("img-build: Dockerfile:3: COPY: there is no flag --form\nhint: --from\n");
    t.sh("img-build --check .").outputs(
        "",
        "img-build: Dockerfile:3: COPY: there is no flag --form\nhint: --from\n",
        2,
    );
    t.sh("img-build --parse -f none .")
        .fails("img-build: none: No such file or directory (os error 2)\n");
    t.sh("mkdir empty; img-build --parse empty").fails(
        "img-build: empty/Dockerfile: No such file or directory (os error 2)\n\
         hint: -f FILE, if it has another name\n",
    );
}

#[test]
fn what_is_unwise_is_said_and_is_the_status() {
    let t = Sandbox::new();
    t.write("Dockerfile", "FROM a AS B\nCMD x\n");
    t.sh("img-build --check .").fails(
        "Dockerfile:1: StageNameCasing: B: a stage's name is b, whatever its case\n\
         Dockerfile:2: JSONArgsRecommended: without JSON a shell gets the signals\n",
    );
    t.write("Dockerfile", "FROM a\nCMD [\"x\"]\n");
    t.sh("img-build --check .").is_silent();
}

#[test]
fn what_an_image_that_is_here_has_is_known() {
    let t = Sandbox::new();
    t.write("Dockerfile", "FROM scratch\nENV path=/opt\nSHELL [\"/bin/ash\"]\n");
    t.sh("img-build -q -t base . >/dev/null").is_silent();
    t.write("Dockerfile", "FROM base\nWORKDIR $path\nUSER $user\nCMD x\n");
    t.sh("img-build --check .").fails("Dockerfile:3: UndefinedVar: $user is not set\n");
    // Of another nobody knows what it has.
    t.write("Dockerfile", "FROM other\nWORKDIR $path\nUSER $user\nCMD [\"x\"]\n");
    t.sh("img-build --check .").is_silent();
}

#[test]
fn the_dockerfiles_own_ignore_file_comes_first() {
    let t = Sandbox::new();
    t.sh("printf 'FROM a\\nCOPY b c /\\n' >D; echo b >.dockerignore").is_silent();
    t.sh("img-build --check -f D .").fails("D:2: CopyIgnoredFile: b is in .dockerignore\n");
    t.sh("echo c >D.dockerignore").is_silent();
    t.sh("img-build --check -f D .").fails("D:2: CopyIgnoredFile: c is in .dockerignore\n");
    t.sh("echo '[' >D.dockerignore").is_silent();
    t.sh("img-build --check -f D .").says("D.dockerignore:1: [: not a pattern").exits(2);
}

#[test]
fn a_name_from_a_dockerfile_cannot_drive_the_terminal() {
    let t = Sandbox::new();
    t.sh("printf 'FROM a\\n\\033[31m\\n' >Dockerfile").is_silent();
    t.sh("img-build --parse . 2>&1 | grep -c \"$(printf '\\033')\"").outputs("0\n", "", 1);
    t.sh("printf 'FROM a\\nWORKDIR \\033[31m\\n' >Dockerfile").is_silent();
    t.sh("img-build --check . 2>&1 | grep -c \"$(printf '\\033')\"").outputs("0\n", "", 1);
}

#[test]
fn a_file_without_end_is_not_read_to_its_end() {
    let t = Sandbox::new();
    t.sh("img-build --parse -f /dev/zero .").says("longer than 4 MiB").exits(1);
    t.sh("ln -s /dev/zero .dockerignore; echo 'FROM a' >Dockerfile").is_silent();
    t.sh("img-build --check .").says("a link that leads out of the directory").exits(2);
}

#[test]
fn one_cannot_ask_for_both() {
    let t = Sandbox::new();
    t.sh("img-build --parse --check .").exits(2);
    t.sh("img-build --parse").exits(2);
}
