//! Kills each tool, and fails it, at each system call that changes something.
//!
//! A first run under strace lists the calls. Then the tool starts anew for every
//! point: once to be killed there, and once for each error that the call can
//! have, for that call alone and for all that follow. After each run:
//!
//! ```text
//! exit 0       the result is there, whole
//! else         a status that is documented, a line that says which error it was,
//!              and all that was there before; a second run succeeds
//! always       a sound layout; after the second run, nothing temporary
//! ```
//!
//! Which calls there are is the kernel's affair, which of them strace finds ours.
//! TARE_FAULTS=all tries every point, and TARE_FAULTS=1000 a thousand for each tool; the
//! tests of every day try a few.

mod points;
mod stage;

use sandbox::image::{Image, PACK, busybox};
use sandbox::{Sandbox, lacks};
use serde_json::json;
use stage::{Stage, Subject};

/// Returns whether this machine cannot do it.
fn cannot() -> bool {
    lacks(&["root", "strace", "mount"])
}

/// A layer with one of each thing that a tar can hold, and a second one that hides some of it.
fn intricate() -> Image {
    let pack =
        "tar --sort=name --mtime=@0 --numeric-owner --format=pax --xattrs --xattrs-include=* -c .";
    let first = format!(
        "mkdir -p etc opt/deep var/lib/gone; echo hello >etc/motd; seq 60000 >opt/large
        ln etc/motd opt/hard; ln -s /etc opt/link; mkfifo opt/fifo; mknod opt/null c 1 3
        chown 100:200 opt/hard; echo s >opt/setuid; chmod 4755 opt/setuid; ln -s none opt/dangling
        echo x >var/lib/gone/x; setfattr -n user.key -v value opt/deep; chmod 1777 var/lib; {pack}"
    );
    let second = format!(
        "mkdir -p etc opt/deep var/lib; touch opt/.wh.link opt/deep/.wh..wh..opq var/lib/.wh.gone
        echo new >opt/deep/new; rm -rf etc; mkdir etc; mkdir etc/motd; seq 9999 >etc/motd/file; {pack}"
    );
    Image::new(&[&first, &second], &json!({ "Cmd": ["sh"] }))
}

/// A small system: a busybox with few names.
fn system() -> Image {
    let busybox = sandbox::image::busybox_layer();
    let busybox = busybox.lines().find(|line| line.contains("cp ")).unwrap();
    let first = format!("mkdir -p bin etc proc; {busybox}; ln bin/busybox bin/echo; {PACK}");
    let second = format!("mkdir -p etc; echo root:x:0:0::/:/bin/sh >etc/passwd; {PACK}");
    Image::new(&[&first, &second], &json!({ "Cmd": ["/bin/echo", "ok"] }))
}

#[test]
fn img_tag() {
    if cannot() {
        return;
    }
    Stage::new(Sandbox::new(), |t| t.store(busybox(), "old")).sweep(&Subject {
        tool: "img-tag",
        args: "old new",
        ..Subject::of_images("docker.io/library/new:latest")
    });
}

#[test]
fn img_rm() {
    if cannot() {
        return;
    }
    // A name of several, an image, and one that shares its layers with what stays.
    let stage = Stage::new(Sandbox::new(), |t| {
        t.store(&system(), "kept");
        t.store(&intricate(), "gone");
        t.store(&system().with_config(&json!({ "Cmd": ["other"] })), "shares");
    });
    stage.prepare("img-tag kept other >out; rm out");
    stage.sweep(&Subject { tool: "img-rm", args: "-f other gone shares", ..Subject::of_removal() });
}

#[test]
fn img_prune() {
    if cannot() {
        return;
    }
    let stage = Stage::new(Sandbox::new(), |t| {
        t.store(&system(), "kept");
        t.store(&intricate(), "gone");
    });
    stage.prepare(
        "ctr-spawn --rm kept >out && { ctr-spawn --rm gone >out 2>&1 || :; } && img-tag kept gone >out; rm out",
    );
    stage.sweep(&Subject { tool: "img-prune", args: "-q", ..Subject::of_removal() });
}

#[test]
fn img_import() {
    if cannot() {
        return;
    }
    let stage = Stage::new(Sandbox::new(), |t| t.store(busybox(), "old"));
    stage.prepare("mkdir tree; seq 90000 >tree/large; echo x >tree/small; tar -C tree -cf x.tar .");
    stage.sweep(&Subject {
        tool: "img-import",
        args: "x.tar new",
        ..Subject::of_images("docker.io/library/new:latest")
    });
}

#[test]
fn img_pull() {
    if cannot() || lacks(&["docker-registry"]) {
        return;
    }
    let t = Sandbox::new().with_registry();
    t.registry().add(&intricate(), "app", "1");
    let name = format!("{}/app:1", t.registry().address());
    let args = format!("-q --retry 0 {name}");
    Stage::new(t, |t| t.store(busybox(), "old")).sweep(&Subject {
        tool: "img-pull",
        args: &args,
        // What was fetched in part is gone on with.
        keeps_partial: true,
        ..Subject::of_images(&name)
    });
}

/// The first tool that there is makes the store.
#[test]
fn a_first_image() {
    if cannot() {
        return;
    }
    let stage = Stage::new(Sandbox::new(), |_| {});
    stage.prepare("mkdir tree; echo x >tree/small; tar -C tree -cf x.tar .; rm -rf $TARE_ROOT");
    stage.sweep(&Subject {
        tool: "img-import",
        args: "x.tar new",
        ..Subject::of_images("docker.io/library/new:latest")
    });
}

#[test]
fn img_unpack() {
    if cannot() || lacks(&["setfattr"]) {
        return;
    }
    Stage::new(Sandbox::new(), |t| t.store(&intricate(), "old")).sweep(&Subject {
        tool: "img-unpack",
        args: "old out",
        tree: Some("out"),
        ..Subject::of_images("docker.io/library/old:latest")
    });
}

/// The first container of an image unpacks its layers.
#[test]
fn ctr_spawn_of_a_new_image() {
    if cannot() {
        return;
    }
    Stage::new(Sandbox::new(), |t| t.store(&system(), "old")).sweep(&Subject {
        tool: "ctr-spawn",
        args: "--rm old",
        ..Subject::of_containers()
    });
}

#[test]
fn ctr_spawn() {
    if cannot() {
        return;
    }
    let stage = Stage::new(Sandbox::new(), |t| t.store(&system(), "old"));
    stage.prepare("ctr-spawn --rm old >/dev/null");
    stage.sweep(&Subject {
        tool: "ctr-spawn",
        args: "--rm --name one --init -v ./:/mnt old",
        ..Subject::of_containers()
    });
}

#[test]
fn img_save() {
    if cannot() {
        return;
    }
    Stage::new(Sandbox::new(), |t| t.store(&intricate(), "old")).sweep(&Subject {
        tool: "img-save",
        args: "-o image.tar old",
        files: &["image.tar"],
        ..Subject::of_images("docker.io/library/old:latest")
    });
}

#[test]
fn img_load() {
    if cannot() {
        return;
    }
    let stage = Stage::new(Sandbox::new(), |t| {
        t.store(&intricate(), "new");
        t.store(busybox(), "old");
    });
    stage.prepare("img-save -o x.tar new && img-rm -f new >out; rm out");
    stage.sweep(&Subject {
        tool: "img-load",
        args: "-q -i x.tar",
        // What was read in part is gone on with.
        keeps_partial: true,
        ..Subject::of_images("docker.io/library/new:latest")
    });
}

/// Makes a context with files of all sizes and an archive.
const CONTEXT: &str = "mkdir -p tree/d in/sub; seq 60000 >tree/large; echo a >tree/a; ln -s a tree/d/link
    chmod 4755 tree/a; echo in >in/file; tar -C in --owner=5 --group=6 -cf tree/x.tar .; rm -r in; cd tree
";

#[test]
fn img_build_of_files() {
    if cannot() {
        return;
    }
    let stage = Stage::new(Sandbox::new(), |t| t.store(&intricate(), "old"));
    stage.prepare(&format!(
        "{CONTEXT} printf 'FROM old AS one\\nCOPY --chown=1:2 . /opt/\\nFROM old\\nWORKDIR /opt/w\\n\
         ADD x.tar /opt/x/\\nCOPY --from=one /opt/d /opt/large ./\\nLABEL a=b\\n' >Dockerfile"
    ));
    stage.sweep(&Subject {
        tool: "img-build",
        args: "-q --output type=image,name=new --output type=oci,dest=image.tar --iidfile id tree",
        files: &["image.tar", "id"],
        ..Subject::of_images("docker.io/library/new:latest")
    });
}

#[test]
fn img_build_of_steps() {
    if cannot() {
        return;
    }
    let stage = Stage::new(Sandbox::new(), |t| t.store(&system(), "old"));
    stage.prepare(&format!(
        "{CONTEXT} printf 'FROM old\\nCOPY a /etc/\\nRUN [\"/bin/busybox\", \"cp\", \"/etc/a\", \"/b\"]\\n\
         RUN --mount=type=bind,target=/m [\"/bin/busybox\", \"rm\", \"/etc/a\"]\\n' >Dockerfile"
    ));
    stage.sweep(&Subject {
        tool: "img-build",
        args: "-q -t new --iidfile id tree",
        files: &["id"],
        // What a step executes is not ours to fail.
        executes: true,
        ..Subject::of_images("docker.io/library/new:latest")
    });
}
