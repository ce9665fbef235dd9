//! The documents of an image: read, looked into, and turned into a container's spec.

use std::fs::File;

use common::bundle;
use common::digest::Digest;
use common::image::{self, Document};
use common::layout::Index;
use common::platform::Platform;
use common::runtime::{CgroupView, Op, Plan, Surrounding, plan, seccomp};
use common::snapshot::Root;
use oci_spec::image::ImageConfiguration;
use oci_spec::runtime::Spec;

use crate::input::Input;

const TYPES: [&str; 4] = [
    "application/vnd.oci.image.manifest.v1+json",
    image::DOCKER_MANIFEST,
    "application/vnd.oci.image.index.v1+json",
    image::DOCKER_INDEX,
];

/// An image that says nothing.
const PLAIN: &[u8] =
    br#"{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}"#;

/// The first byte says what the rest is to be.
pub fn documents(data: &[u8]) {
    let Some((which, bytes)) = data.split_first() else { return };
    match which % 7 {
        which @ 0..4 => document(bytes, TYPES[usize::from(which)]),
        4 => drop(image::media_type_of(bytes).map(|media_type| document(bytes, &media_type))),
        5 => config(bytes),
        _ => index(bytes),
    }
}

fn document(bytes: &[u8], media_type: &str) {
    let Ok(document) = image::parse(bytes, media_type) else { return };
    // It means one thing, whoever is asked.
    for other in TYPES {
        let kind = |document: &Document| matches!(document, Document::Index(_));
        if let Ok(again) = image::parse(bytes, other) {
            assert_eq!(kind(&document), kind(&again));
        }
    }
    match document {
        Document::Manifest(manifest) => {
            let _ = image::digest(manifest.config());
            for desc in manifest.layers() {
                let _ = (image::digest(desc), image::is_layer(desc.media_type()));
                assert_eq!(desc.media_type().to_string(), image::media_type(desc));
            }
        }
        Document::Index(index) => {
            image::platforms(&index);
            for wanted in ["linux/amd64", "linux/arm64/v8.5", "linux/arm/v7", "linux/amd64/v3"] {
                let wanted: Platform = wanted.parse().unwrap();
                let Some(chosen) = image::select(&index, &wanted) else { continue };
                let rank = |desc| image::platform(desc).and_then(|offered| wanted.rank(&offered));
                let best = index.manifests().iter().filter_map(rank).min();
                if let (Some(best), Some(rank)) = (best, rank(chosen)) {
                    assert!(rank >= best);
                }
            }
        }
    }
}

fn config(bytes: &[u8]) {
    let Ok(config) = image::parse_config(bytes) else { return };
    if let Ok(diff_ids) = image::diff_ids(&config) {
        let chain = image::chain_ids(&diff_ids);
        assert_eq!((chain.len(), chain.first()), (diff_ids.len(), diff_ids.first()));
    }
    let plain = image::parse_config(PLAIN).unwrap();
    let (Some(spec), Some(base)) = (spec(&config), spec(&plain)) else { return };
    let json = bundle::to_json(&spec).unwrap();
    let again: Spec = serde_json::from_slice(&json).unwrap();
    assert_eq!(json, bundle::to_json(&again).unwrap());
    // What an image says never selects how it is confined.
    assert_eq!(spec.linux(), base.linux());
    assert_eq!(spec.mounts(), base.mounts());
    assert_eq!((spec.hooks(), spec.root()), (base.hooks(), base.root()));
    let process = |spec: &Spec| spec.process().clone().unwrap_or_default();
    let (process, plain) = (process(&spec), process(&base));
    assert_eq!(
        process.capabilities().as_ref().map(|sets| sets.bounding()),
        plain.capabilities().as_ref().map(|sets| sets.bounding())
    );
    assert_eq!(process.no_new_privileges(), plain.no_new_privileges());
    for key in spec.annotations().iter().flatten().map(|(key, _)| key) {
        for obeyed in ["run.oci.", "org.systemd.", "io.kubernetes.", "org.criu.", "io.podman."] {
            assert!(!key.starts_with(obeyed), "{key}");
        }
    }
    check_plan(&spec);
}

fn spec(config: &ImageConfiguration) -> Option<Spec> {
    // A directory in which there is neither a passwd nor a group.
    let rootfs = File::open("/proc/self").ok()?;
    let options = bundle::Options { hostname: Some("box".into()), ..bundle::Options::default() };
    bundle::spec(config, rootfs, &options).ok()
}

/// A container's config.json.
pub fn runtime_spec(data: &[u8]) {
    let Ok(spec) = serde_json::from_slice::<Spec>(data) else { return };
    // `to_json` is not made for what has maps of maps without an order, but never fails.
    let _ = bundle::to_json(&spec);
    check_plan(&spec);
}

fn check_plan(spec: &Spec) {
    let rootfs = Root::Dir("/somewhere/rootfs".into());
    let surroundings = [
        Surrounding::default(),
        Surrounding {
            user_namespace: true,
            cgroup: CgroupView::Unified { own: true },
            ..Surrounding::default()
        },
        Surrounding { entered: true, init: true, ..Surrounding::default() },
    ];
    for surrounding in &surroundings {
        if let Ok(plan) = plan(spec, &rootfs, surrounding) {
            check_ops(spec, &plan);
        }
    }
}

/// What holds of every container.
fn check_ops(spec: &Spec, plan: &Plan) {
    let at = |wanted: fn(&Op) -> bool| plan.ops.iter().position(wanted);
    let pivot = at(|op| matches!(op, Op::Pivot)).unwrap();
    let user = at(|op| matches!(op, Op::User { .. })).unwrap();
    assert!(pivot < user && matches!(plan.ops.last(), Some(Op::Exec)));
    assert!(plan.namespaces & 0x0002_0000 != 0, "no mount namespace");
    assert!(!plan.args.is_empty());
    for (place, op) in plan.ops.iter().enumerate() {
        let target = match op {
            Op::Bind(bind) => &bind.target,
            Op::Mount(filesystem) => &filesystem.target,
            Op::Mask(path) | Op::ReadOnly(path) | Op::Seal(path) | Op::Directory(path) => path,
            Op::Symlink { target, .. } => target,
            Op::Sysctl { path, .. } => path,
            _ => continue,
        };
        assert!(place < pivot, "{op:?} after the pivot");
        let plain = |part| matches!(part, std::path::Component::Normal(_));
        assert!(target.components().all(plain), "{op:?}");
    }
    let process = spec.process().as_ref().unwrap();
    if let Op::User { uid, gid, .. } = &plan.ops[user] {
        assert_eq!((*uid, *gid), (process.user().uid(), process.user().gid()));
    }
    if process.no_new_privileges() == Some(true) {
        assert!(at(|op| matches!(op, Op::NoNewPrivileges)).is_some_and(|at| at > user));
    }
    if let Some(rules) = spec.linux().as_ref().and_then(|linux| linux.seccomp().as_ref()) {
        assert!(at(|op| matches!(op, Op::Seccomp)).is_some_and(|at| at > user));
        let _ = seccomp::filter(rules);
    }
}

/// An index.json, then changes to it.
fn index(bytes: &[u8]) {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    let (text, changes) = bytes.split_at(end);
    let Ok(mut index) = Index::parse(text) else { return };
    same(&index);
    let mut input = Input::new(changes);
    while !input.is_empty() {
        let digest = Digest::of(&[input.byte() % 4]);
        let target = image::descriptor(TYPES[0].into(), &digest, 7);
        if input.one_in(4) {
            if index.keep(&target).is_ok() {
                assert!(index.images().iter().any(|image| image.digest() == digest.to_string()));
            }
        } else {
            let name = *input.pick(&["docker.io/library/a:latest", "docker.io/library/b:latest"]);
            let others: Vec<String> = index.names().map(str::to_owned).collect();
            if index.name(name, &target).is_ok() {
                let found = index.find(name).unwrap().unwrap();
                assert_eq!(found.digest(), target.digest());
                let kept = |other: &String| index.names().any(|name| name == other);
                let same = |other: &String| {
                    let full = |name: &str| {
                        name.parse::<common::reference::Reference>().map(|name| name.full())
                    };
                    full(other).is_ok_and(|full| full == name)
                };
                assert!(others.iter().all(|other| kept(other) || same(other)), "{others:?}");
                assert!(!index.name(name, &target).unwrap_or(false));
            }
        }
        same(&index);
    }
}

/// What is written is read back as it was.
fn same(index: &Index) {
    let json = index.to_json().unwrap();
    let again = Index::parse(&json).unwrap();
    assert_eq!(json, again.to_json().unwrap());
    let list = |index: &Index| -> Vec<_> {
        let images = index.images().iter();
        images.map(|image| (image.name().map(str::to_owned), image.digest().to_owned())).collect()
    };
    assert_eq!(list(index), list(&again));
}
