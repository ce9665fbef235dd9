//! Contexts, steps and users that mean no harm, and everything at once.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::thread;
use std::time::Duration;

use sandbox::image::{Image, PACK, busybox_layer};
use sandbox::line::Line;
use sandbox::{Sandbox, lacks};
use serde_json::json;

use super::ends::LEFT;
use crate::faults::layout;

#[test]
fn a_context_of_all_that_there_is() {
    if lacks(&["root"]) {
        return;
    }
    let t = Sandbox::with_image("base");
    t.sh("mkdir -p c/'a b' c/loop; cd c; mkfifo fifo; mknod null c 1 3; : >$(printf '%0255d' 0); echo x >' lead'; echo y >\"$(printf 'a\\nb')\"
          echo z >\"$(printf '\\377')\"; ln -s loop/loop link; printf 'FROM scratch\\nCOPY . /\\n' >Dockerfile").is_silent();
    let _socket = UnixListener::bind(t.path("work/c/socket")).unwrap();
    let names = " lead\nDockerfile\n\\377\na b/\na\\nb\nfifo\nlink\nloop/\nnull\n";
    let list = "img-build -q --no-cache -o - c | tar -t | grep -v ^0000 | LC_ALL=C sort";
    t.sh(list).prints(names);
    // A directory that is in itself is there once.
    t.sh(&format!("unshare -m sh -c 'mount --bind c c/loop; {list}' | grep -c loop/loop/."))
        .outputs("0\n", "", 1);
    for (make, said) in [
        ("touch c/.wh.x", ".wh.x: a name that begins with .wh."),
        (
            "rm c/.wh.x; perl -e 'chdir q(c); $d = q(0) x 200; for (1..25) { mkdir $d; chdir $d }'",
            "File name too long",
        ),
    ] {
        t.sh(make).is_silent();
        t.sh("img-build -q c").exits(1).says(said);
        t.sh(LEFT).is_silent();
    }
    // Somebody else's.
    let u = Sandbox::new().as_user();
    u.sh("mkdir c; printf 'FROM scratch\\nCOPY . /\\n' >c/Dockerfile").is_silent();
    fs::write(u.path("work/c/secret"), "").unwrap();
    fs::set_permissions(u.path("work/c/secret"), fs::Permissions::from_mode(0o600)).unwrap();
    u.sh("img-build -q c").fails(
        "img-build: c/Dockerfile:2: COPY: context: secret: Permission denied (os error 13)\n",
    );
    t.sh("{ printf 'FROM base\\nRUN '; head -c 100000000 /dev/zero | tr '\\0' a; } >D; img-build -q -f D c")
        .fails("img-build: D: longer than 4 MiB\n");
}

#[test]
fn a_step_may_leave_anything_behind() {
    let t = Sandbox::with_image("base");
    for (lines, status) in [
        ("RUN sleep 1003 & (setsid sleep 1003 &); echo x >/x", 0),
        ("RUN rm -rf / 2>/dev/null; true", 0),
        (
            "RUN mv /home /h; ln -s / /home; rm -rf /tmp; ln -s /nowhere /tmp\nCOPY Dockerfile /tmp/x",
            0,
        ),
        ("RUN mkdir -p /s/t; touch /s/t/f; chmod 000 /s/t/f /s/t /s\nCOPY Dockerfile /s/t/g", 0),
        ("RUN for i in $(seq 3000); do mkdir d; cd d; done; touch f", 0),
        ("RUN mkdir /d; cd /d; seq 20000 | xargs touch", 0),
        ("RUN kill -9 -1; true", 0),
        ("RUN exec 0<&- 1>&- 2>&-; sleep 0.1", 0),
        ("RUN mount -t tmpfs t /tmp; umount /proc /etc/hosts; chattr +i /bin/busybox; true", 0),
        ("RUN kill -9 $$; exit 3", 1),
        ("RUN mkfifo /.wh.x", 1),
        ("RUN echo >/etc/hosts", 1),
    ] {
        t.write("Dockerfile", format!("FROM base\n{lines}\n"));
        let built = t.sh("img-build -q .");
        assert_eq!(built.code, status, "{lines}: {}", String::from_utf8_lossy(&built.stderr));
        t.sh("pgrep -f '[s]leep 1003'").outputs("", "", 1);
        t.sh("find $TARE_ROOT/containers/.build $TARE_ROOT/images/.partial $TARE_ROOT/layers -maxdepth 1 -name '*.tmp' 2>/dev/null; :").is_silent();
    }
}

#[test]
fn what_cannot_be_written_is_an_error() {
    let t = Sandbox::with_image("base").as_user();
    t.write("Dockerfile", "FROM base\nRUN echo x >/x\n");
    // The directory above is root's.
    for output in ["-o ../no", "--output type=tar,dest=../no", "--iidfile ../no"] {
        t.sh(&format!("img-build -q {output} .")).exits(1).says("Permission denied (os error 13)");
    }
    t.sh("ls ../no 2>/dev/null").outputs("", "", 2);
}

#[test]
fn two_with_one_file_leave_one_of_theirs() {
    let t = Sandbox::with_image("base");
    t.write(
        "Dockerfile",
        "FROM base\nARG N\nRUN seq $N >/x; for i in $(seq $N); do echo $i; done >/y\n",
    );
    t.sh("for n in 1000 2000; do img-build -q --build-arg N=$n --iidfile id.$n --output type=image --output type=oci,dest=f.$n . >out; done
          for i in 1 2 3; do for n in 1000 2000; do
              img-build -q --no-cache --build-arg N=$n --iidfile id --output type=image --output type=oci,dest=f . >out.$n &
          done; wait; cmp -s id id.1000 || cmp id id.2000; cmp -s f f.1000 || cmp f f.2000; done; ls -A | grep '^[.]'")
        .outputs("", "", 1);
}

#[test]
fn a_signal_ends_a_copy_and_a_pull() {
    if lacks(&["docker-registry"]) {
        return;
    }
    let t = Sandbox::with_image("base").with_registry();
    let layer = format!("head -c 4000000 /dev/urandom >x; {PACK}");
    t.registry().add(&Image::new(&[&busybox_layer(), &layer], &json!({})), "app", "1");
    let line = Line::to(t.registry().address(), 100_000);
    t.sh("mkdir c; truncate -s 4G c/big").is_silent();
    for from in ["base".to_owned(), format!("{}/app:1", line.address())] {
        t.write("c/Dockerfile", format!("FROM {from}\nCOPY big /\n"));
        for (signal, status) in [("INT", 130), ("TERM", 143)] {
            t.sh(&format!("{{ exec env --default-signal=INT img-build -q --iidfile id c >out 2>said; }} & sleep 0.7; kill -{signal} $!; wait $!"))
                .exits(status);
            t.sh("find $TARE_ROOT/containers/.build -mindepth 1 ! -name .rm 2>/dev/null; img-ls -a -q | grep -v ^base; ls -A | grep -v -e ^c$ -e out -e said; pgrep -f '[i]mg-pull.*app:1'").outputs("", "", 1);
        }
    }
    // What was fetched is gone on with by the next.
    t.sh("rm -rf $TARE_ROOT/images/.partial").is_silent();
}

/// Lets builds, prunes and removals loose on one store.
fn crowd(time: Duration) {
    let t = Sandbox::with_image("base").with_limit(time + Duration::from_secs(300));
    t.write(
        "Dockerfile",
        "FROM base AS one\nRUN seq 20000 >/a\nCOPY f /f\nFROM base\nARG N\nWORKDIR /w\nCOPY --from=one /a /f ./\nRUN echo $N >n; rm /w/f\n",
    );
    t.write("f", "file\n");
    let builder = |n: u32| {
        format!(
            "( i=0; until test -e over; do i=$((i + 1)); name=b{n}:$i
                 img-build -q --build-arg N=$((i % 3)) -t $name . >>out.{n} 2>>errors.{n} || echo \"status $? at $i\" >>errors.{n}
                 test $((i % 2)) = 0 && img-rm -f $name >/dev/null 2>>errors.{n} || echo $name >>names.{n}
             done ) & "
        )
    };
    let mut script: String = (0..4).map(builder).collect();
    script += "( until test -e over; do img-prune -q >/dev/null 2>>errors.prune || echo $? >>errors.prune; sleep 0.05; done ) & wait";
    let over = t.path("work/over");
    let timer = thread::spawn(move || {
        thread::sleep(time);
        fs::write(over, "").unwrap();
    });
    t.sh(&script).is_silent();
    timer.join().unwrap();
    t.sh("cat errors.*").is_silent();
    // Three images, whoever built them.
    t.sh("cat out.* | sed 's/.*@//' | sort -u | wc -l").prints("3\n");
    let names = layout::sound(&t.path("tare/images")).unwrap();
    for name in t.sh("cat names.*").text().lines() {
        assert!(names.contains_key(&format!("docker.io/library/{name}")), "{name} is lost");
    }
    t.sh("img-prune -q >/dev/null; ctr-spawn --rm b0:1 sh -c 'ls; tail -n 1 a; cat n'")
        .prints("a\nn\n20000\n1\n");
    t.sh(LEFT.split("; img-ls").next().unwrap()).exits(1);
    assert!(layout::stale(&t.path("tare/images")).is_empty());
}

#[test]
fn builds_prunes_and_removals_lose_nothing() {
    crowd(Duration::from_secs(3));
}

mod soak {
    #[test]
    fn builds_prunes_and_removals_lose_nothing_in_a_minute() {
        super::crowd(std::time::Duration::from_secs(60));
    }
}
