//! However a build ends, nothing of it is left but what it has named.

use std::time::Duration;

use sandbox::Sandbox;
use sandbox::disk::Disk;

/// What a build has on its way: nothing of it may stay.
pub const LEFT: &str = "find $TARE_ROOT/containers/.build $TARE_ROOT/images/.partial -mindepth 1 ! -name .rm 2>/dev/null; img-ls -a -q | grep -v ^base; :";

#[test]
fn a_signal_ends_it_and_its_steps() {
    let t = Sandbox::with_image("base");
    t.write("Dockerfile", "FROM base AS a\nRUN echo here; sleep 1000\nFROM base\nRUN sleep 1001\nCOPY --from=a / /x\n");
    for (signal, status) in [("TERM", 143), ("INT", 130), ("HUP", 129)] {
        t.sh(&format!(
            "{{ exec env --default-signal=INT img-build . >out 2>said; }} & while ! grep -q '| here' said 2>/dev/null; do sleep 0.02; done; sleep 0.2
             kill -{signal} $!; wait $!"
        ))
        .exits(status);
        t.sh(LEFT).is_silent();
        t.sh("rm said; pgrep -f '[s]leep 100[01]'").outputs("", "", 1);
    }
}

#[test]
fn one_that_is_killed_is_cleaned_up_after_by_the_next() {
    let t = Sandbox::with_image("base").with_limit(Duration::from_secs(240));
    t.write("Dockerfile", "FROM base\nRUN echo here; sleep 1002\n");
    t.sh("img-build . >out 2>said & while ! grep -q '| here' said 2>/dev/null; do sleep 0.02; done; kill -9 $!; wait $! 2>/dev/null; :").text();
    t.write("Dockerfile", "FROM base\nRUN true\n");
    t.sh("img-build -q -t base2 .").text();
    t.sh(LEFT).is_silent();
    t.sh("pgrep -f '[s]leep 1002'").outputs("", "", 1);
}

#[test]
fn a_full_disk_is_an_error_and_leaves_nothing() {
    let t = Sandbox::new();
    let disk = Disk::tmpfs(&t.path("work/disk"), "size=8m");
    t.store(sandbox::image::busybox(), "base");
    t.sh("img-save base >base.tar").is_silent();
    t.set("TARE_ROOT", disk.path());
    t.sh("img-load -q -i base.tar").text();
    t.write("Dockerfile", "FROM base\nRUN dd if=/dev/urandom of=/x bs=1M count=32\n");
    t.sh("img-build -q . >out").exits(1);
    t.sh(LEFT).is_silent();
    t.sh("head -c 30m /dev/urandom >big").is_silent();
    t.write("Dockerfile", "FROM base\nCOPY big /\n");
    t.sh("img-build -q .").says("No space left on device").exits(1);
    t.sh(LEFT).is_silent();
    t.sh("img-unpack --rootfs base o >/dev/null; ls o/bin/sh").prints("o/bin/sh\n");
}

#[test]
fn a_directory_that_cannot_be_filled_is_as_it_was() {
    let t = Sandbox::with_image("base");
    t.sh("mkdir ctx; cd ctx; printf 'FROM scratch\\nCOPY d /d\\n' >Dockerfile; mkdir d; head -c 6m /dev/zero >d/big; echo 1 >d/a")
        .is_silent();
    let disk = Disk::tmpfs(&t.path("work/disk"), "size=4m");
    t.sh("mkdir -m 755 disk/d; img-build -q -o disk ctx").says("No space left on device").exits(1);
    t.sh("mkdir -m 550 -p disk/d; chmod 550 disk/d; img-build -q -o disk ctx").exits(1);
    t.sh("stat -c %a disk/d; ls -A disk disk/d").prints("550\ndisk:\nd\n\ndisk/d:\na\n");
    drop(disk);
    t.sh("cd ctx; rm -r d; mkdir d; cd d; seq -f f%.0f 30000 | xargs touch").is_silent();
    t.sh("img-build -q ctx >/dev/null").is_silent();
    for (mode, signal, status) in [("755", "INT", 130), ("500", "TERM", 143)] {
        t.sh(&format!(
            "rm -rf out; mkdir -p out/d; chmod {mode} out/d
             {{ exec env --default-signal=INT img-build -q -o out ctx; }} & while ! test -e out/d/f1; do :; done
             kill -{signal} $!; wait $!"
        ))
        .exits(status);
        t.sh("stat -c %a out/d; ls -A out/d | grep -c img-build; test -e out/d/f9999 && echo all")
            .outputs(&format!("{mode}\n0\n"), "", 1);
    }
}

#[test]
fn nobody_who_reads_or_no_input_is_no_crash() {
    let t = Sandbox::with_image("base");
    t.write("Dockerfile", "FROM base\nRUN true\n");
    t.sh("img-build -q . >/dev/full").says("stdout: No space left on device").exits(1);
    t.sh("img-build . 2>&- | grep -c sha256").prints("1\n");
    t.sh("img-build -q - </dev/null").exits(1);
    t.sh("img-build -q nowhere").exits(1);
    t.sh("mkdir 'a b'; cp Dockerfile 'a b'; img-build -q -t app 'a b' | grep -c ^app")
        .prints("1\n");
}
