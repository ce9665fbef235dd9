//! Who builds: img-build, buildah, and Docker's BuildKit.

use std::sync::OnceLock;

use sandbox::Sandbox;
use sandbox::image::{Image, PATH, busybox_layer};
use sandbox::run::Run;
use serde_json::json;

use super::case::Case;
use super::outcome::{Outcome, Tree};

/// One that builds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Builder {
    Ours,
    Buildah,
    Docker,
}

/// Has buildah keep its things in the sandbox, and set no limit that it may not set.
const BUILDAH: &str = r#"
    export CONTAINERS_STORAGE_CONF=$PWD/storage.conf CONTAINERS_CONF=$PWD/containers.conf
    printf '[storage]\ndriver = "overlay"\nrunroot = "%s"\ngraphroot = "%s"\n' $PWD/c/run $PWD/c/graph >storage.conf
    printf '[containers]\ndefault_ulimits = ["nofile=1024:4096", "nproc=1024:4096"]\n' >containers.conf
    printf '[engine]\ncgroup_manager = "cgroupfs"\nevents_logger = "none"\n' >>containers.conf
"#;

/// What is mounted over while a step runs: in the base, so that nobody has to make it, and leave it.
const SYSTEM: &str =
    "mkdir -p dev etc parent proc run sys; : >etc/hosts; : >etc/hostname; : >etc/resolv.conf";

/// Returns the image that the corpus builds on.
fn base() -> &'static Image {
    static IMAGE: OnceLock<Image> = OnceLock::new();
    IMAGE.get_or_init(|| {
        let layer = busybox_layer().replacen("mkdir -p bin", &format!("{SYSTEM}\nmkdir -p bin"), 1);
        Image::new(&[&layer], &json!({ "Env": [PATH], "Cmd": ["sh"] }))
    })
}

/// Returns an image whose config has all that a config can have, and that says what to do when it is built on.
fn parent() -> &'static Image {
    static IMAGE: OnceLock<Image> = OnceLock::new();
    IMAGE.get_or_init(|| {
        base().with_config(&json!({
            "User": "app", "Env": [PATH, "FROM=parent", "HOME=/home/app"], "Entrypoint": ["/bin/sh", "-c"],
            "Cmd": ["parent"], "WorkingDir": "/home/app", "Labels": { "parent": "yes", "both": "parent" },
            "ExposedPorts": { "1/tcp": {} }, "Volumes": { "/parent": {} }, "StopSignal": "SIGINT",
            "Healthcheck": { "Test": ["CMD", "true"], "Interval": 7000000000u64 },
            "Shell": ["/bin/ash", "-c"],
            "OnBuild": ["ARG TRIGGER=trigger", "RUN echo $TRIGGER >/tmp/trigger", "LABEL trigger=$TRIGGER"],
        }))
    })
}

/// The names of the images that a Dockerfile of the corpus may begin with.
fn images() -> [(&'static str, &'static Image); 2] {
    [("base:1", base()), ("parent:1", parent())]
}

/// Puts the base images where each builder looks for them.
pub fn prepare(t: &Sandbox) {
    for (name, image) in images() {
        t.store(image, name);
        image.copy_to(&t.path("work/bases"), name);
        t.sh(&format!(
            "{BUILDAH} skopeo copy -q --insecure-policy oci:bases:{name} containers-storage:docker.io/library/{name}"
        ))
        .is_silent();
    }
    t.sh("img-unpack -q --rootfs base:1 base").text();
}

/// Puts the base images into the daemon's store, too.
pub fn load(t: &Sandbox) {
    for (name, _) in images() {
        t.sh(&format!("img-save {name} | $DOCKER load -q")).text();
    }
}

/// Removes what buildah leaves mounted.
pub fn clean(t: &Sandbox) {
    t.sh(&format!("{BUILDAH} buildah rm -a >/dev/null; umount c/graph/overlay 2>/dev/null; rm -rf c $TMPDIR/buildah-cache")).text();
}

impl Builder {
    /// Returns what a case calls it.
    pub fn name(self) -> &'static str {
        match self {
            Builder::Ours => "img-build",
            Builder::Buildah => "buildah",
            Builder::Docker => "docker",
        }
    }

    /// Builds a case whose context `of` holds, and returns what came out, or what was said instead.
    pub fn build(
        self,
        t: &Sandbox,
        of: &Sandbox,
        base: &Tree,
        case: &Case,
    ) -> Result<Outcome, String> {
        let options = &case.options;
        let context = of.path("work/context");
        let context = context.display();
        let name = self.name();
        let script = match self {
            Builder::Ours => format!("img-build -q -t {name} {options} {context} >line"),
            Builder::Buildah => format!(
                "{BUILDAH} buildah bud --isolation oci --runtime runc --format docker --pull-never --network none \
                    -t docker-archive:{name}.tar:{name}:latest {options} {context} >said 2>&1 || {{ code=$?; tail -n 20 said >&2; exit $code; }}"
            ),
            Builder::Docker => format!(
                "DOCKER_BUILDKIT=1 $DOCKER build --network none --progress plain -t {name} {options} {context} >said 2>&1 ||
                    {{ tail -n 20 said >&2; exit 1; }}"
            ),
        };
        let script = format!("umask 022; CONTEXT={context}; rm -f {name}.tar\n{script}");
        failed(t.sh(&script))?;
        let unpack = format!(
            "img-unpack -q --root loaded --rootfs localhost/{name} {name}.tree || img-unpack -q --root loaded --rootfs {name} {name}.tree"
        );
        let fetch = match self {
            Builder::Ours => format!("img-unpack -q --rootfs {name} {name}.tree"),
            Builder::Buildah => {
                format!("rm -rf loaded; img-load -q --root loaded -i {name}.tar && {unpack}")
            }
            Builder::Docker => format!(
                "rm -rf loaded; $DOCKER save {name} | img-load -q --root loaded && {unpack}"
            ),
        };
        failed(t.sh(&format!("rm -rf {name}.tree; {fetch} >/dev/null")))?;
        let images = match self {
            Builder::Ours => t.path("tare/images"),
            _ => t.path("work/loaded/images"),
        };
        Ok(Outcome::read(t, base, &format!("{name}.tree"), &images, name))
    }
}

/// Returns what a script that failed has said.
fn failed(run: Run) -> Result<(), String> {
    match run.code {
        0 => Ok(()),
        code => Err(format!("{}status {code}", String::from_utf8_lossy(&run.stderr))),
    }
}
