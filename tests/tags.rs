//! Stores of many names: what cannot change of an image is looked at once.

use sandbox::{Sandbox, lacks, workspace};

/// A store with so many images and names. A script `opens COMMAND` prints how many blobs a command opens.
fn store(images: usize, names: usize) -> Sandbox {
    let t = Sandbox::new();
    let make = workspace().join("bench/make-tags");
    t.sh(&format!("{} $TARE_ROOT/images {images} {names}", make.display())).is_silent();
    let opens = "#!/bin/sh\nstrace -f -e trace=openat,openat2 -o trace \"$@\" >result && grep -c '\"blobs/sha256/' trace; :\n";
    t.write("opens", opens);
    t.sh("chmod +x opens").is_silent();
    t
}

#[test]
fn what_is_known_is_not_read_again() {
    if lacks(&["strace"]) {
        return;
    }
    let t = store(200, 300);
    t.sh("[ $(./opens img-ls -q) -ge 400 ] && wc -l <result").prints("300\n");
    t.sh("./opens img-ls -q; ./opens img-ls; wc -l <result").prints("0\n0\n301\n");
    // What is new is read, and no more.
    t.sh("mkdir e; tar -C e -c . | img-import - new:1 >out; n=$(./opens img-ls); echo $((n > 0 && n < 12))")
        .prints("1\n");
    // To remove one image the others need not be read, nor to give one another name.
    t.sh("n=$(./opens img-rm new:1); echo $((n > 0 && n < 12))").prints("1\n");
    t.sh("n=$(./opens img-tag registry.example.org/team/app1:v1 x); echo $((n > 0 && n < 4))")
        .prints("1\n");
    t.sh("img-prune; img-ls -q | wc -l").outputs(
        "301\n",
        "img-prune: total reclaimed space: 0B\n",
        0,
    );
}

#[test]
fn a_list_is_the_same_whether_it_was_known_or_not() {
    let t = store(40, 60);
    t.sh("img-ls -a --no-trunc --digests >first; img-ls -a --no-trunc --digests | cmp first -")
        .is_silent();
    for damage in [
        "rm -r $TARE_ROOT/cache",
        "echo x >>$TARE_ROOT/cache/images",
        "truncate -s 1000 $TARE_ROOT/cache/images",
        ": >$TARE_ROOT/cache/images",
        "rm $TARE_ROOT/cache/images; mkdir $TARE_ROOT/cache/images",
    ] {
        t.sh(&format!("{damage}; img-ls -a --no-trunc --digests | cmp first -")).is_silent();
    }
    t.sh("img-ls -q --filter label=n=7 | wc -l").prints("2\n");
    t.sh("img-ls -q --filter label=n | wc -l").prints("60\n");
    // With nothing to write to, a list is a list.
    t.sh("rmdir $TARE_ROOT/cache/images; rm -rf $TARE_ROOT/cache; touch $TARE_ROOT/cache; img-ls -a --no-trunc --digests | cmp first -")
        .is_silent();
}

#[test]
fn a_blob_that_one_of_many_needs_stays() {
    let t = store(50, 50);
    t.sh("img-ls >out; cp -r $TARE_ROOT copy").is_silent();
    // All share a layer; the last one takes it along.
    let blobs = "ls $TARE_ROOT/images/blobs/sha256 | wc -l";
    t.sh(&format!("img-ls -q | head -49 | img-rm --stdin | wc -l; {blobs}")).prints("49\n3\n");
    t.sh(&format!("img-ls -q | img-rm --stdin | wc -l; {blobs}")).prints("1\n0\n");
    // The same without what is known.
    t.sh("export TARE_ROOT=$PWD/copy; rm -r copy/cache; img-ls -q >list; rm -rf copy/cache
        head -49 list | img-rm --stdin | wc -l; ls copy/images/blobs/sha256 | wc -l")
        .prints("49\n3\n");
}
