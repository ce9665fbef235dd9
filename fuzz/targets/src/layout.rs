//! A layout that somebody else has made: its index, its blobs, and what lies where blobs should be.

use std::fs;
use std::os::unix::fs::symlink;

use common::digest::Digest;
use common::error;
use common::image;
use common::layout::{Layout, Missing};
use common::platform::Platform;

use crate::archive::check_layout;
use crate::input::Input;
use crate::layer::scratch::Scratch;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";

pub fn layout(data: &[u8]) {
    Scratch::with(|scratch| {
        let mut input = Input::new(data);
        scratch.renew();
        let layout = Layout::create(scratch.path()).unwrap();
        let blobs = scratch.path().join("blobs/sha256");
        // Each document speaks of those before it, rightly or not.
        let mut documents: Vec<(&str, Vec<u8>)> = Vec::new();
        let mut whole = true;
        while documents.len() < 12 && !input.is_empty() {
            let (media_type, bytes) = document(&mut input, &documents);
            let path = blobs.join(Digest::of(&bytes).hex());
            let _ = fs::remove_file(&path);
            match input.byte() {
                0..0xd0 => fs::write(&path, &bytes).unwrap(),
                0xd0..0xd8 => {}
                kind => {
                    whole = false;
                    match kind {
                        0xd8..0xe0 => fs::write(&path, b"other bytes").unwrap(),
                        0xe0..0xe8 => {
                            symlink(format!("{}/canary/file", scratch.outside()), &path).unwrap();
                        }
                        0xe8..0xf0 => symlink("../../../canary/file", &path).unwrap(),
                        0xf0..0xf4 => symlink(&path, &path).unwrap(),
                        0xf4..0xf8 => {
                            rustix::fs::mknodat(
                                rustix::fs::CWD,
                                &path,
                                rustix::fs::FileType::Fifo,
                                0o644.into(),
                                0,
                            )
                            .unwrap();
                        }
                        _ => {
                            let elsewhere = scratch.path().join("elsewhere");
                            fs::write(&elsewhere, &bytes).unwrap();
                            symlink("../../elsewhere", &path).unwrap();
                        }
                    }
                }
            }
            documents.push((media_type, bytes));
        }
        let index = match input.byte() {
            0..0xe0 => manifests(&mut input, &documents),
            _ => input.text(),
        };
        fs::write(scratch.path().join("index.json"), &index).unwrap();
        visit(&layout, &documents, &mut input);
        scratch.check();
        if whole {
            check_layout(&scratch.path());
        }
    });
}

/// Does to it all that tools do.
fn visit(layout: &Layout, documents: &[(&str, Vec<u8>)], input: &mut Input) {
    let platform: Platform = "linux/amd64".parse().unwrap();
    for (_, bytes) in documents {
        let digest = Digest::of(bytes);
        // A blob is what its name says, or it is not read.
        let media_type = MANIFEST.into();
        let desc = image::descriptor(media_type, &digest, bytes.len() as u64);
        if let Ok(read) = layout.read(&desc) {
            assert_eq!(read, *bytes);
        }
        match layout.find_digest(&digest) {
            Ok(desc) => drop(layout.resolve(&desc, &platform)),
            Err(err) if layout.has(&digest, bytes.len() as u64).unwrap() => {
                assert!(error::find::<Missing>(&err).is_none(), "{err:#}");
            }
            Err(_) => {}
        }
    }
    let Ok(index) = layout.index() else { return };
    for image in index.images() {
        let Ok(desc) = image.descriptor() else { continue };
        if let Ok(resolved) = layout.resolve(&desc, &platform) {
            let digest = image::digest(&resolved.desc).unwrap();
            assert!(layout.has(&digest, resolved.desc.size()).unwrap());
            let _ = image::layers(&resolved.manifest, &resolved.config);
        }
        let before = layout.index().unwrap().names().map(str::to_owned).collect::<Vec<_>>();
        let name = input.pick(&["a", "b:v1", "h.io/c"]).parse().unwrap();
        let Ok(writing) = layout.writing() else { return };
        match writing.tag(&name, &desc, None) {
            // Only a document that is there gets a name.
            Ok(()) => {
                assert!(layout.read(&desc).is_ok());
                assert_eq!(layout.find(&name).unwrap().digest(), desc.digest());
            }
            Err(_) => {
                let after = layout.index().unwrap();
                assert_eq!(before, after.names().map(str::to_owned).collect::<Vec<_>>());
            }
        }
        let _ = writing.keep(&desc);
    }
}

fn document(input: &mut Input, documents: &[(&'static str, Vec<u8>)]) -> (&'static str, Vec<u8>) {
    let (media_type, text) = match input.byte() % 5 {
        0 => (
            CONFIG,
            r#"{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}"#
                .into(),
        ),
        1 | 2 => {
            let config = descriptor(input, documents);
            (MANIFEST, format!(r#"{{"schemaVersion":2,"config":{config},"layers":[]}}"#))
        }
        3 => (INDEX, manifests(input, documents)),
        _ => (*input.pick(&[CONFIG, MANIFEST, INDEX]), input.text()),
    };
    (media_type, text.into_bytes())
}

fn manifests(input: &mut Input, documents: &[(&str, Vec<u8>)]) -> String {
    let count = input.byte() % 4;
    let list: Vec<String> = (0..count).map(|_| descriptor(input, documents)).collect();
    format!(r#"{{"schemaVersion":2,"mediaType":"{INDEX}","manifests":[{}]}}"#, list.join(","))
}

fn descriptor(input: &mut Input, documents: &[(&str, Vec<u8>)]) -> String {
    let none = (CONFIG, Vec::new());
    let at = usize::from(input.byte());
    let (own, bytes) = match documents.len() {
        0 => (none.0, &none.1),
        count => {
            let (own, bytes) = &documents[count - 1 - at % count];
            (*own, bytes)
        }
    };
    let shape = input.byte();
    let media_type =
        if shape & 0xc0 == 0xc0 { *input.pick(&[CONFIG, MANIFEST, INDEX]) } else { own };
    let size = bytes.len() + usize::from(shape & 0x30 == 0x30);
    let more = match shape % 5 {
        0 | 1 => String::new(),
        2 => r#","platform":{"architecture":"amd64","os":"linux"}"#.into(),
        3 => r#","platform":{"architecture":"arm64","os":"linux","variant":"v8"}"#.into(),
        _ => {
            let name = input.pick(&["a", "docker.io/library/a:latest", "", "b:v1", "\\u0000"]);
            format!(r#","annotations":{{"org.opencontainers.image.ref.name":"{name}"}}"#)
        }
    };
    format!(
        r#"{{"mediaType":"{media_type}","digest":"{}","size":{size}{more}}}"#,
        Digest::of(bytes)
    )
}
