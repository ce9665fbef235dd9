//! Archives of images that the input makes up, loaded into a layout beside a canary.

use std::fs;
use std::path::Path;

use common::archive::load;
use common::digest::Digest;
use common::layout::Layout;
use common::platform::Platform;

use crate::input::Input;
use crate::layer::scratch::Scratch;
use crate::layer::tar::{Entry, encode};

/// The first byte says whether the rest is an archive, or how to make one.
pub fn archive(data: &[u8]) {
    Scratch::with(|scratch| {
        let mut input = Input::new(data);
        let shape = input.byte();
        let bytes = match shape & 1 {
            0 => make(&mut input, scratch.outside()),
            _ => input.rest().to_vec(),
        };
        let bytes = match (shape & 1, shape >> 5) {
            (0, 1) => zstd::encode_all(&bytes[..], 1).unwrap(),
            (0, 2) => {
                let level = flate2::Compression::fast();
                let mut encoder = flate2::write::GzEncoder::new(Vec::new(), level);
                std::io::Write::write_all(&mut encoder, &bytes).unwrap();
                encoder.finish().unwrap()
            }
            _ => bytes,
        };
        scratch.renew();
        let layout = Layout::create(scratch.path()).unwrap();
        let before = fs::read(scratch.path().join("index.json")).unwrap();
        let writing = layout.writing().unwrap();
        let loaded = load(&bytes[..], &writing);
        drop(writing);
        scratch.check();
        check_layout(&scratch.path());
        // Nothing has a name yet, and nothing is left that nobody goes on with.
        assert_eq!(before, fs::read(scratch.path().join("index.json")).unwrap());
        assert!(!scratch.path().join(".partial").exists(), "{loaded:?}");
        for image in loaded.into_iter().flatten() {
            assert!(layout.read(&image.desc).is_ok(), "{image:?}");
            let resolved = layout.resolve(&image.desc, &"linux/amd64".parse::<Platform>().unwrap());
            for desc in resolved.iter().flat_map(|image| image.manifest.layers()) {
                assert!(layout.open_blob(desc).is_ok(), "{desc:?}");
            }
        }
    });
}

/// Every blob has its digest's name, and is a file.
pub fn check_layout(dir: &Path) {
    for algorithm in fs::read_dir(dir.join("blobs")).unwrap() {
        let algorithm = algorithm.unwrap();
        for blob in fs::read_dir(algorithm.path()).unwrap() {
            let blob = blob.unwrap();
            let name =
                format!("{}:{}", algorithm.file_name().display(), blob.file_name().display());
            let digest: Digest = name.parse().unwrap();
            assert!(blob.file_type().unwrap().is_file());
            let mut hasher = digest.hasher();
            hasher.update(&fs::read(blob.path()).unwrap());
            assert_eq!(hasher.finish(), digest);
        }
    }
}

/// What was put into the archive, or is to be: what documents speak of.
#[derive(Default)]
struct Made {
    layers: Vec<Vec<u8>>,
    configs: Vec<Vec<u8>>,
    manifests: Vec<Vec<u8>>,
}

fn make(input: &mut Input, outside: &str) -> Vec<u8> {
    let mut made = Made::default();
    let mut entries = Vec::new();
    while entries.len() < 16 && !input.is_empty() {
        let content = content(input, &mut made);
        let kind = *input.pick(b"000000002515");
        let name = name(input, &content, outside);
        let link =
            if matches!(kind, b'1' | b'2') { self::name(input, b"x", outside) } else { vec![] };
        let data = if kind == b'0' { content } else { Vec::new() };
        entries.push(Entry { kind, name, link, data, mode: 0o644, ..Entry::default() });
    }
    encode(&entries, input)
}

fn name(input: &mut Input, content: &[u8], outside: &str) -> Vec<u8> {
    let digest = Digest::of(content);
    let hex = digest.hex();
    let name = match input.byte() % 16 {
        0..4 => format!("blobs/sha256/{hex}"),
        4 | 5 => "index.json".into(),
        6 | 7 => "manifest.json".into(),
        8 => "oci-layout".into(),
        9 => format!("{hex}.json"),
        10 => format!("{hex}/layer.tar"),
        11 => "l.tar".into(),
        12 => format!("./blobs//sha256/{hex}"),
        13 => format!("blobs/sha256/../../../canary/{}", input.text()),
        14 => format!("{outside}/canary/file"),
        _ => input.text(),
    };
    name.into_bytes()
}

/// Returns a file: a layer, a document about what there is, or any bytes.
fn content(input: &mut Input, made: &mut Made) -> Vec<u8> {
    let desc = |media_type: &str, bytes: &[u8], input: &mut Input| {
        let size = bytes.len() as u64 + u64::from(input.one_in(16));
        let digest = Digest::of(bytes);
        format!(r#"{{"mediaType":"{media_type}","digest":"{digest}","size":{size}}}"#)
    };
    let last = |list: &[Vec<u8>]| list.last().cloned().unwrap_or_default();
    let kind = input.byte() % 8;
    let text = match kind {
        0 => {
            let layer = vec![input.byte(); 512];
            made.layers.push(layer.clone());
            return layer;
        }
        1 => {
            let ids = made.layers.iter().map(|layer| format!("\"{}\"", Digest::of(layer)));
            let ids = ids.collect::<Vec<_>>().join(",");
            let rootfs = format!(r#"{{"type":"layers","diff_ids":[{ids}]}}"#);
            format!(r#"{{"architecture":"amd64","os":"linux","rootfs":{rootfs}}}"#)
        }
        2 => {
            let config =
                desc("application/vnd.oci.image.config.v1+json", &last(&made.configs), input);
            let layer = "application/vnd.oci.image.layer.v1.tar";
            let layers: Vec<String> =
                made.layers.iter().map(|bytes| desc(layer, bytes, input)).collect();
            let (kind, layers) = ("application/vnd.oci.image.manifest.v1+json", layers.join(","));
            format!(
                r#"{{"schemaVersion":2,"mediaType":"{kind}","config":{config},"layers":[{layers}]}}"#
            )
        }
        3 | 4 => {
            let media_type = match kind {
                3 => "application/vnd.oci.image.manifest.v1+json",
                _ => "application/vnd.oci.image.index.v1+json",
            };
            let entries: Vec<String> = made
                .manifests
                .iter()
                .rev()
                .take(2)
                .map(|bytes| desc(media_type, bytes, input))
                .collect();
            let entries = entries.join(",");
            format!(r#"{{"schemaVersion":2,"manifests":[{entries}]}}"#)
        }
        5 => {
            let config = Digest::of(&last(&made.configs)).hex();
            let layers: Vec<String> = made
                .layers
                .iter()
                .map(|layer| match input.byte() % 4 {
                    0 => format!("\"blobs/sha256/{}\"", Digest::of(layer).hex()),
                    1 => format!("\"{}/layer.tar\"", Digest::of(layer).hex()),
                    2 => "\"l.tar\"".into(),
                    _ => serde_json::to_string(&input.text()).unwrap(),
                })
                .collect();
            let layers = layers.join(",");
            let config = match input.byte() % 3 {
                0 => format!("blobs/sha256/{config}"),
                _ => format!("{config}.json"),
            };
            format!(r#"[{{"Config":"{config}","RepoTags":["a:b"],"Layers":[{layers}]}}]"#)
        }
        6 => r#"{"imageLayoutVersion":"1.0.0"}"#.into(),
        _ => return input.bytes().to_vec(),
    };
    let bytes = text.into_bytes();
    match kind {
        1 => made.configs.push(bytes.clone()),
        2..=4 => made.manifests.push(bytes.clone()),
        _ => {}
    }
    bytes
}
