//! Where files come from, and where the result goes: the web, repositories, tars, directories.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;

use sandbox::disk::Disk;
use sandbox::{Sandbox, lacks};

/// Serves `work/web` at `$WEB`, and the repositories in it at `$GIT`. What is asked for is written to `asked`.
fn serve(t: &Sandbox) {
    let root = t.path("work/web");
    fs::create_dir(&root).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    t.set("WEB", listener.local_addr().unwrap().to_string());
    let (web, asked) = (root.clone(), t.path("work/asked"));
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // Who hangs up has enough.
            let _ = answer(stream, &web, &asked);
        }
    });
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    t.set("GIT", format!("git://{}", listener.local_addr().unwrap()));
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let stream: OwnedFd = stream.into();
            let mut daemon = Command::new("git");
            daemon.args(["daemon", "--inetd", "--export-all"]);
            daemon.arg(format!("--base-path={}", root.display())).stderr(Stdio::null());
            daemon.stdin(stream.try_clone().unwrap()).stdout(stream).status().expect("git");
        }
    });
    // What git wants to know before it commits.
    for (name, value) in [("NAME", "a"), ("EMAIL", "a@b"), ("DATE", "1700000000 +0000")] {
        t.set(&format!("GIT_AUTHOR_{name}"), value);
        t.set(&format!("GIT_COMMITTER_{name}"), value);
    }
}

fn answer(mut stream: TcpStream, root: &Path, asked: &Path) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let first = lines.next().unwrap_or(Ok(String::new()))?;
    let mut log = fs::File::options().create(true).append(true).open(asked)?;
    writeln!(log, "{first}")?;
    for line in lines.map_while(Result::ok).take_while(|line| !line.is_empty()) {
        if line.starts_with("authorization") {
            writeln!(log, "{line}")?;
        }
    }
    let path = first.split(' ').nth(1).unwrap_or_default();
    let path = path.split('?').next().unwrap_or_default().trim_start_matches('/');
    let head = match fs::read_to_string(root.join(format!("{path}.to"))) {
        Ok(to) => format!("302 Found\r\nlocation: {}", to.trim()),
        Err(_) if root.join(path).is_file() => "200 OK".to_owned(),
        Err(_) => "404 Not Found".to_owned(),
    };
    let body = fs::read(root.join(path)).unwrap_or_default();
    write!(
        stream,
        "HTTP/1.1 {head}\r\ncontent-length: {}\r\nconnection: close\r\n\
         last-modified: Tue, 14 Nov 2023 22:13:20 GMT\r\n\r\n",
        body.len()
    )?;
    stream.write_all(&body)
}

/// Makes the repository `web/app` with two commits, the first of which is `v1`.
const REPOSITORY: &str = "git init -q -b main web/app && cd web/app && \
    printf 'FROM scratch\\nCOPY . /\\n' >Dockerfile && echo one >f && mkdir d && echo in >d/g && \
    cp Dockerfile d && echo f >.dockerignore && git add -A && git commit -q -m one && git tag v1 && \
    echo two >f && git commit -q -a -m two && cd ../..";

#[test]
fn a_file_from_the_web_is_private_and_new_when_it_differs() {
    let t = Sandbox::new();
    serve(&t);
    t.sh("echo one >web/f; echo /f >web/moved.to").is_silent();
    t.sh("printf 'FROM scratch\\nADD http://me:hunter2@%s/f?x=y http://%s/moved /d/\\n' $WEB $WEB >Dockerfile")
        .is_silent();
    let first = t.sh("img-build -q -t a .").text();
    assert_eq!(t.sh("img-build -t a . 2>said").text(), first);
    t.sh("img-build -q -o out . && cd out/d && cat f moved && stat -c %a f")
        .prints("one\none\n600\n");
    t.sh("img-build -q --keep-mtime -o - . | tar -tv --utc d/f | tr -s ' ' | cut -d' ' -f1,2,4,5")
        .prints("-rw------- 0/0 2023-11-14 22:13\n");
    t.sh("echo two >web/f; img-build -q -o out . && cat out/d/f").prints("two\n");
    // To whom it was given, and to nobody else.
    t.sh("sort -u asked").prints(
        "GET /f HTTP/1.1\nGET /f?x=y HTTP/1.1\nGET /moved HTTP/1.1\nauthorization: Basic bWU6aHVudGVyMg==\n",
    );
    t.sh("rm web/f; img-build . 2>&1 >out.line | tail -1").prints(&format!(
        "img-build: Dockerfile:2: ADD: http://{}/f: not found\n",
        t.sh("printf %s $WEB").text()
    ));
    t.sh("echo one >web/f").is_silent();
    // However it is written.
    for dockerfile in [
        "FROM scratch\\nADD [\"http://$WEB/moved\",\"http://me:hunter2@$WEB/f\", \"/e/\"]\\n",
        "FROM scratch\\nADD http://$WEB/moved\\thttp://me:hunter2@$WEB/f /e/\\n",
    ] {
        for progress in ["plain", "json"] {
            t.set("DOCKERFILE", dockerfile.replace("$WEB", &t.sh("printf %s $WEB").text()));
            t.sh(&format!(
                "printf \"$DOCKERFILE\" >Dockerfile; img-build --no-cache --progress {progress} . >out.line 2>said2; grep -c xxxxx:xxxxx@ said2; rm -f Dockerfile"
            ))
            .prints("1\n");
        }
    }
    t.sh("rm -f Dockerfile; grep -r hunter2 . $TARE_ROOT $TARE_RUN | grep -v ^./asked; :")
        .is_silent();
}

#[test]
fn a_file_from_the_web_is_what_its_checksum_says() {
    let t = Sandbox::new();
    serve(&t);
    t.sh("echo one >web/f; echo two >web/g").is_silent();
    let dockerfile = |of: &str| {
        format!(
            "sum=$(sha256sum <web/{of} | cut -c-64); \
             printf 'FROM scratch\\nADD --checksum=sha256:%s http://%s/f /\\n' $sum $WEB >Dockerfile; "
        )
    };
    t.sh(&format!("{} img-build -q -o out . && cat out/f", dockerfile("f"))).prints("one\n");
    t.sh(&format!("{} img-build -q -o none .; ls none", dockerfile("g")))
        .says("/f: its digest is sha256:")
        .exits(2);
    t.sh("find $TARE_ROOT -name 'source-*'").is_silent();
    // What has it already is not asked for again.
    t.sh(&format!(
        "rm asked; {} img-build -q --no-cache -o out . && cat out/f asked",
        dockerfile("f")
    ))
    .outputs("one\n", "cat: asked: No such file or directory\n", 1);
    for (to, why) in
        [("file:///etc/passwd", "which is no web address"), ("/f", "more than 10 redirects")]
    {
        t.write("web/f.to", to);
        t.sh(&format!("rm -rf $TARE_ROOT/cache/web; {} img-build -q .", dockerfile("f")))
            .says(why)
            .exits(1);
    }
}

#[test]
fn a_context_comes_from_the_web() {
    let t = Sandbox::new();
    serve(&t);
    t.sh("mkdir c; printf 'FROM scratch\\nCOPY f /\\n' >c/Dockerfile; echo one >c/f").is_silent();
    let wanted = t.sh("img-build -q c").text();
    for (option, name) in
        [("-c", "a.tar"), ("-cz", "a.tgz"), ("-cJ", "a"), ("-cj", "b"), ("--zstd -c", "c")]
    {
        t.sh(&format!("tar -C c {option} . >web/{name}")).is_silent();
        assert_eq!(t.sh(&format!("img-build -q http://$WEB/{name}")).text(), wanted, "{name}");
        assert_eq!(t.sh(&format!("img-build -q - <web/{name}")).text(), wanted, "{name}");
    }
    t.sh("printf 'FROM scratch\\nENV a=b\\n' >web/Dockerfile").is_silent();
    t.sh("img-build -q http://$WEB/Dockerfile | grep -c sha256").prints("1\n");
    t.sh("cat web/Dockerfile | img-build -q - | grep -c sha256").prints("1\n");
    assert_eq!(
        t.sh("img-build -q -f c/Dockerfile --build-context x=http://$WEB/a.tgz c").text(),
        wanted
    );
    t.sh("printf 'FROM scratch\\nCOPY --from=x f /\\n' >D; img-build -q -f D --build-context x=http://$WEB/a.tgz -o out c; cat out/f")
        .prints("one\n");
}

#[test]
fn a_tar_is_a_context_and_no_way_out() {
    let t = Sandbox::new();
    let bait = t.write("bait", "bait\n");
    t.sh("mkdir c; printf 'FROM scratch\\nCOPY . /\\n' >c/Dockerfile; ln -s ../bait c/l; ln -s .. c/up").is_silent();
    t.sh("tar -C c -c . | img-build -q -o out -; find out -type f -o -type l | sort")
        .prints("out/Dockerfile\nout/l\nout/up\n");
    t.sh("tar -C c -c . | head -c 3000 | img-build -").says("truncated tar").exits(1);
    t.sh("tar -P -c ../work/bait c | img-build -").says("its name leads upwards").exits(1);
    t.sh("printf 'FROM scratch\\nCOPY l /\\n' >c/Dockerfile; tar -C c -c . | img-build -q -")
        .exits(1);
    t.sh("rm c/Dockerfile; ln -s /etc/passwd c/Dockerfile; tar -C c -c . | img-build -q -")
        .fails("img-build: Dockerfile: a link that leads out of the directory\n");
    t.sh(": | img-build -")
        .fails("img-build: nothing on stdin: did the command before this one fail?\n");
    t.sh("img-build -f - - <bait").exits(2);
    assert_eq!(fs::read_to_string(bait).unwrap(), "bait\n");
    t.sh("find $TARE_ROOT -name 'source-*'").is_silent();
}

#[test]
fn a_repository_is_a_context() {
    let t = Sandbox::new();
    serve(&t);
    t.sh(REPOSITORY).is_silent();
    let build = |rest: &str| {
        format!(
            "img-build -q -o out \"$GIT/app{rest}\" && find out -type f | sort && cat out/f; rm -r out"
        )
    };
    // An ignore file is for directories, as BuildKit has it.
    let files = "out/.dockerignore\nout/Dockerfile\nout/d/Dockerfile\nout/d/g\nout/f\n";
    t.sh(&build("")).prints(&format!("{files}two\n"));
    t.sh(&build("#v1")).prints(&format!("{files}one\n"));
    t.sh("img-build -q -o out $GIT/app#:d && ls out").prints("Dockerfile\ng\n");
    t.sh("SOURCE_DATE_EPOCH=context img-build -q -t app $GIT/app >line; img-inspect -f '{{.Created}}' app")
        .prints("2023-11-14T22:13:20Z\n");
    // To steps it is a number, too.
    t.sh("cd web/app; printf 'FROM scratch\\nARG SOURCE_DATE_EPOCH\\nLABEL t=$SOURCE_DATE_EPOCH\\n' >L; git add L; git commit -q -m L; cd ../..
          img-build -q -f L --build-arg SOURCE_DATE_EPOCH=context -t app $GIT/app >line; img-inspect -f '{{.Config.Labels.t}}' app")
        .prints("1700000000\n");
    t.sh("img-build -q -f d/Dockerfile $GIT/app | grep -c sha256").prints("1\n");
    let keep = "img-build -q -o out $GIT/app --build-arg BUILDKIT_CONTEXT_KEEP_GIT_DIR";
    t.sh(&format!("{keep}=1 && ls -d out/.git; rm -r out")).prints("out/.git\n");
    t.sh(&format!("{keep}=0 && ls -A out | grep -x .git; rm -r out")).is_silent();
    t.sh(&format!("{keep}=no")).exits(2).says("KEEP_GIT_DIR=no: neither true nor false");
    t.sh("img-build $GIT/app#none").says("no branch, tag or commit none in it").exits(1);
    t.sh("img-build $GIT/app#:../..").says("it leads out of the repository").exits(1);
    t.sh("PATH=$(dirname $(command -v img-build)); img-build $GIT/app").fails(
        "img-build: git is not installed\nhint: repositories are fetched by git(1): install git\n",
    );
}

#[test]
fn a_repository_is_added() {
    let t = Sandbox::new();
    serve(&t);
    t.sh(REPOSITORY).is_silent();
    let add = |flags: &str, rest: &str| {
        format!(
            "printf 'FROM scratch\\nADD {flags} %s/app{rest} /app\\n' $GIT >Dockerfile; img-build -q -o out . && "
        )
    };
    t.sh(&format!("{} find out | sort; rm -r out", add("", "#v1"))).prints(
        "out\nout/app\nout/app/.dockerignore\nout/app/Dockerfile\nout/app/d\nout/app/d/Dockerfile\nout/app/d/g\nout/app/f\n",
    );
    t.sh(&format!("{} cat out/app/g; rm -r out", add("", "#main:d"))).prints("in\n");
    t.sh(&format!(
        "{} git -c safe.directory='*' -C out/app describe --tags; rm -r out",
        add("--keep-git-dir", "#v1")
    ))
    .prints("v1\n");
    t.sh(&format!(
        "id=$(git -C web/app rev-parse v1); {} cat out/app/f",
        add("--checksum=$id", "#v1").replace("$id", "%s").replace("$GIT", "$id $GIT")
    ))
    .prints("one\n");
    t.sh(&add("--checksum=0123456", "#v1").replace(" && ", "")).says(", and not 0123456").exits(1);
    // What is there now decides, and not what was there.
    t.sh(&format!("{} cat out/app/f", add("", ""))).prints("two\n");
    t.sh("echo three >web/app/f; git -C web/app commit -qam three; img-build -q -o out . && cat out/app/f")
        .prints("three\n");
}

/// A stranger would take what the user alone may read.
#[test]
fn only_the_user_names_paths_of_this_host() {
    let t = Sandbox::with_image("base");
    serve(&t);
    t.sh("img-save base >mine.tar; mkdir c web/app; printf 'FROM base\\nCOPY --from=%s/mine.tar / /x\\n' $PWD >c/Dockerfile")
        .is_silent();
    // One's own, wherever the files are from.
    t.sh("img-build -q c | grep -c sha256; img-build -q - <c/Dockerfile | grep -c sha256")
        .prints("1\n1\n");
    t.sh("tar -C c -c . >web/c.tar; cp c/Dockerfile web; cp c/Dockerfile web/app; cd web/app && git init -q -b main && git add -A && git commit -q -m one")
        .is_silent();
    t.sh("img-build -q -f $PWD/c/Dockerfile $GIT/app | grep -c sha256").prints("1\n");
    let path = t.path("work/mine.tar");
    for context in [
        "$GIT/app",
        "http://$WEB/c.tar",
        "http://$WEB/Dockerfile",
        "- <web/c.tar",
        "-f http://$WEB/Dockerfile c",
    ] {
        t.sh(&format!("img-build -q {context}"))
            .says(&format!(
                ":2: COPY: {}: only the user names paths of this host\n",
                path.display()
            ))
            .exits(1);
    }
    // What a base image says is a stranger's, too.
    t.sh("printf 'FROM base\\nONBUILD COPY --from=%s/mine.tar / /x\\n' $PWD | img-build -q -t trap - >trap; echo FROM trap >D")
        .is_silent();
    t.sh("img-build -q -f D c").exits(1).says(&format!(
        "img-build: D:1: ONBUILD: {}: only the user names paths of this host\nhint: --build-context NAME=PLACE\n",
        path.display()
    ));
}

/// Else ssh would look for its keys where root has them.
#[test]
fn a_repository_is_fetched_as_who_one_is() {
    if sandbox::lacks(&["root", "newuidmap", "git"]) {
        return;
    }
    let t = Sandbox::new().as_user();
    t.sh("id -un >me; export GIT_SSH_COMMAND=\"id -un >$PWD/who; false\"; img-build -q git@host.invalid:app.git")
        .exits(1)
        .says("git ls-remote");
    t.sh("cmp me who").is_silent();
}

#[test]
fn files_go_into_a_directory_as_they_are() {
    let t = Sandbox::with_image("base").as_user();
    if sandbox::lacks(&["newuidmap"]) {
        return;
    }
    t.write("Dockerfile", "FROM base\nCOPY --chown=7:8 --chmod=4755 Dockerfile /x/f\nRUN ln /x/f /x/g; ln -s /etc /x/e\n");
    t.sh("mkdir -p out/x/f; echo stays >out/x/stays; ln -s /etc/passwd out/x/g; img-build -q -o out .").is_silent();
    t.sh("cd out/x; stat -c '%a %h' f g; readlink e; cat stays; test -O f && echo ours")
        .prints("4755 2\n4755 2\n/etc\nstays\nours\n");
    // In a tar it is whose it is.
    t.sh("img-build -q -o type=tar,dest=a.tar . && tar -tv --numeric-owner -f a.tar x/f | cut -d' ' -f1,2")
        .prints("-rwsr-xr-x 7/8\n");
    t.sh("cp a.tar b.tar; img-build -q --no-cache -o type=tar,dest=a.tar . && { cmp a.tar b.tar || { for f in a b; do tar -tvf $f.tar >$f.txt; done; diff a.txt b.txt; }; }")
        .is_silent();
    t.sh("img-ls -q | cut -d@ -f1").prints("base:latest\n");
    t.sh("img-build -q -o type=tar,dest=none/a.tar .").exits(1);
    t.sh("img-build -q -o - -o type=oci . | wc -c")
        .says("two results go to stdout")
        .ends_with("0\n");
}

#[test]
fn an_image_is_pushed_by_its_name() {
    let t = Sandbox::new().with_registry();
    t.write("Dockerfile", "FROM scratch\nENV a=b\n");
    let name = format!("{}/app:1", t.registry().address());
    let line = t.sh(&format!("img-build -q -o type=image,name={name},push=true .")).text();
    assert!(line.starts_with(&name), "{line}");
    t.sh(&format!("img-pull -q --root other {name}")).prints(&line);
    t.sh("img-build -q -o type=registry .").says("the image has no name").exits(2);
}

#[test]
fn a_directory_is_what_a_stage_begins_with() {
    let t = Sandbox::new();
    t.sh("mkdir -p 'root/bin' 'root/with space' c; cp /bin/busybox root/bin/; ln -s busybox root/bin/sh; echo x >root/not; echo not >root/.dockerignore
          chmod 700 'root/with space'; chmod 4755 root/bin/busybox").is_silent();
    t.write("c/Dockerfile", "FROM deps AS one\nRUN test -x /bin/sh && test ! -e /not && echo ran >/ran\nFROM one\nCMD [\"/bin/sh\", \"-c\", \"cat /ran\"]\n");
    t.sh("img-build -q -t app --build-context deps=root c >out && ctr-spawn --rm app")
        .prints("ran\n");
    t.sh("img-build -q -o - --target one --build-context deps=root c | tar -tv | sed 's/ .* 00:00//' | grep -e ^d -e ^-")
        .prints("-rw-r--r-- .dockerignore\ndrwxr-xr-x bin/\n-rwsr-xr-x bin/busybox\n-rw-r--r-- ran\ndrwx------ with space/\n");
    t.sh("img-inspect --config app | jq -c '.config.Env, .history[0].created_by'")
        .prints("[\"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\"]\n\"COPY . / # buildkit\"\n");
    // The same files are the same base, whenever they were changed, and others are another.
    let cached = "img-build --target one --build-context deps=root c 2>&1 >out | grep -c cached; :";
    t.sh(&format!("find root -exec touch -h {{}} +; {cached}")).prints("2\n");
    t.sh(&format!("echo y >root/new; {cached}")).prints("0\n");
    t.sh("img-build -q --build-context deps=nowhere c").says("nowhere").exits(1);
}

#[test]
fn what_is_unpacked_for_a_directory_shares_its_blocks_where_it_can() {
    if lacks(&["root", "mkfs.btrfs", "filefrag"]) {
        return;
    }
    let t = Sandbox::new();
    let disk = Disk::btrfs(&t.path("work/disk"), 160);
    t.store(sandbox::image::busybox(), "base");
    t.sh("img-save base >base.tar").is_silent();
    t.set("TARE_ROOT", disk.path().join("tare"));
    t.sh("img-load -q -i base.tar").text();
    t.sh("head -c 8000000 /dev/urandom >big").is_silent();
    // More than one layer, and a name that is in two of them.
    t.write(
        "Dockerfile",
        "FROM base\nCOPY base.tar /big\nCOPY big /big\nCOPY [\"big\", \"/d/a b\"]\n",
    );
    t.sh("img-build -q -o disk/out . && cmp big disk/out/big && cmp big 'disk/out/d/a b'")
        .is_silent();
    for file in ["big", "d/a b"] {
        t.sh(&format!("filefrag -v 'disk/out/{file}' | grep -c shared")).prints("1\n");
        t.sh(&format!("stat -c %h 'disk/out/{file}'")).prints("1\n");
    }
    // Who writes to it writes to nothing of ours.
    t.sh("echo changed >disk/out/big; img-build -q -o disk/again . && cmp big disk/again/big")
        .is_silent();
}
