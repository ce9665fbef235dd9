use std::io::Write;

use liblzma::stream::Stream;
use oci_spec::image::MediaType;

use super::super::{Archive, Format, Image, is_archive};
use super::*;
use crate::platform::Platform;

/// A tar of these files; a name that ends in `->` is a symlink to its contents.
fn tar(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (name, contents) in files {
        let mut header = tar::Header::new_ustar();
        header.set_mode(0o644);
        match name.strip_suffix("->") {
            Some(name) => {
                header.set_entry_type(tar::EntryType::Symlink);
                header.set_size(0);
                tar.append_link(&mut header, name, std::str::from_utf8(contents).unwrap()).unwrap();
            }
            None => {
                header.set_size(contents.len() as u64);
                tar.append_data(&mut header, name, *contents).unwrap();
            }
        }
    }
    tar.into_inner().unwrap()
}

fn layout() -> (tempfile::TempDir, Layout) {
    let dir = tempfile::tempdir().unwrap();
    let layout = Layout::create(dir.path().join("images")).unwrap();
    (dir, layout)
}

fn config(diff_id: &Digest) -> Vec<u8> {
    let text =
        r#"{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":["DIFF"]}}"#;
    text.replace("DIFF", &diff_id.to_string()).into_bytes()
}

/// What docker save wrote before version 25, with its one layer twice.
fn docker_archive() -> Vec<u8> {
    let layer = tar(&[("hello", b"world")]);
    let config = config(&Digest::of(&layer));
    let manifest = br#"[{"Config":"c.json","RepoTags":["app:v1"],"Layers":["b/layer.tar"]}]"#;
    let files: &[(&str, &[u8])] = &[
        ("a/VERSION", b"1.0"),
        ("a/json", b"{}"),
        ("a/layer.tar", &layer),
        ("b/layer.tar->", b"../a/layer.tar"),
        ("c.json", &config),
        ("manifest.json", manifest),
        ("repositories", b"{}"),
    ];
    tar(files)
}

/// A frame of zstd's that says nothing of what is packed: pzstd has the size of the next one in it.
const SKIPPED: &[u8] = b"\x50\x2a\x4d\x18\x04\0\0\0\x10\0\0\0";

fn packed(bytes: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(bytes).unwrap();
    let mut xz = liblzma::write::XzEncoder::new(Vec::new(), 1);
    xz.write_all(bytes).unwrap();
    let mut bzip2 = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
    bzip2.write_all(bytes).unwrap();
    vec![
        ("plain", bytes.to_vec()),
        ("gzip", gzip.finish().unwrap()),
        ("zstd", zstd::encode_all(bytes, 1).unwrap()),
        ("pzstd", [SKIPPED, &zstd::encode_all(bytes, 1).unwrap()].concat()),
        ("xz", xz.finish().unwrap()),
        ("bzip2", bzip2.finish().unwrap()),
    ]
}

#[test]
fn a_docker_archive_is_read_however_it_is_packed() {
    for (how, archive) in packed(&docker_archive()) {
        let (_dir, layout) = layout();
        assert!(is_archive(&archive[..512.min(archive.len())]), "{how}");
        let loaded = load(&archive[..], &layout.writing().unwrap()).unwrap();
        assert_eq!((loaded.len(), &loaded[0].names[..]), (1, &["app:v1".to_owned()][..]), "{how}");
        let image = layout.resolve(&loaded[0].desc, &Platform::host()).unwrap();
        assert_eq!(image.manifest.layers().len(), 1);
        assert_eq!(image.manifest.layers()[0].media_type(), &MediaType::ImageLayer);
    }
}

#[test]
fn an_oci_archive_keeps_its_digests() {
    let (_dir, source) = layout();
    let loaded = load(&docker_archive()[..], &source.writing().unwrap()).unwrap();
    let mut index = Index::empty();
    index.name("docker.io/library/app:v1", &loaded[0].desc).unwrap();
    let mut files = vec![("index.json".to_owned(), index.to_json().unwrap())];
    for blob in std::fs::read_dir(source.dir().join("blobs/sha256")).unwrap().flatten() {
        let name = format!("blobs/sha256/{}", blob.file_name().to_str().unwrap());
        files.push((name, std::fs::read(blob.path()).unwrap()));
    }
    let files: Vec<(&str, &[u8])> =
        files.iter().map(|(name, bytes)| (name.as_str(), &bytes[..])).collect();

    let (_dir, target) = layout();
    let again = load(&tar(&files)[..], &target.writing().unwrap()).unwrap();
    assert_eq!(again[0].desc.digest(), loaded[0].desc.digest());
    assert_eq!(again[0].names, ["docker.io/library/app:v1"]);
    // One blob less, and nothing comes of it.
    let (_dir, target) = layout();
    let err = load(&tar(&files[..files.len() - 1])[..], &target.writing().unwrap()).unwrap_err();
    assert!(crate::error::find::<Missing>(&err).is_some(), "{err:#}");
}

/// Returns a layout's tar: its blobs, and an index.json of these descriptors.
fn layout_tar(layout: &Layout, manifests: &[&serde_json::Value]) -> Vec<u8> {
    let index = serde_json::json!({ "schemaVersion": 2, "manifests": manifests });
    let mut files = vec![("index.json".to_owned(), index.to_string().into_bytes())];
    for digest in layout.blobs().unwrap().into_keys() {
        let name = format!("blobs/sha256/{}", digest.hex());
        files.push((name.clone(), std::fs::read(layout.dir().join(name)).unwrap()));
    }
    let files: Vec<(&str, &[u8])> =
        files.iter().map(|(name, bytes)| (name.as_str(), &bytes[..])).collect();
    tar(&files)
}

/// Returns the descriptor of a new blob of this media type.
fn put(media_type: &str, bytes: &[u8], writing: &Writing) -> serde_json::Value {
    let digest = writing.put(bytes).unwrap();
    serde_json::to_value(image::descriptor(media_type.into(), &digest, bytes.len() as u64)).unwrap()
}

#[test]
fn what_is_no_image_is_no_error() {
    let (_dir, source) = layout();
    let writing = source.writing().unwrap();
    let loaded = load(&docker_archive()[..], &writing).unwrap().remove(0).desc;
    let manifest = serde_json::to_value(&loaded).unwrap();
    let other = put("application/xml", b"<xml/>", &writing);
    // One that is not there: nobody needs it.
    let absent = serde_json::json!({
        "mediaType": "text/plain", "digest": Digest::of(b"absent").to_string(), "size": 6,
    });
    let index = |members: &[&serde_json::Value]| {
        let index = serde_json::json!({ "schemaVersion": 2, "manifests": members });
        put("application/vnd.oci.image.index.v1+json", index.to_string().as_bytes(), &writing)
    };

    let archive = layout_tar(&source, &[&other, &manifest, &absent]);
    let (_dir, target) = layout();
    let again = load(&archive[..], &target.writing().unwrap()).unwrap();
    assert_eq!(again.len(), 1);
    assert_eq!(again[0].desc.digest(), loaded.digest());

    // In an index it is a part of the image, and is saved with it; an index that lacks it is not whole.
    let nested = index(&[&other, &manifest]);
    let (_dir, target) = layout();
    let writing = target.writing().unwrap();
    let again = load(&layout_tar(&source, &[&nested])[..], &writing).unwrap().remove(0).desc;
    assert_eq!(again.digest().to_string(), nested["digest"].as_str().unwrap());
    let saved = |format| {
        let image = Image { layout: &target, desc: again.clone(), name: None };
        let archive = Archive::new(&[image], format, &Default::default()).unwrap();
        let mut file = tempfile::tempfile().unwrap();
        archive.write(file.try_clone().unwrap(), "file", true).unwrap();
        std::io::Seek::rewind(&mut file).unwrap();
        let (_dir, target) = layout();
        load_file(file, &target.writing().unwrap()).unwrap();
        target.blobs().unwrap().len()
    };
    // The index, the manifest, the config, the layer and the other one; Docker's knows neither index nor that.
    assert_eq!((saved(Format::Both), saved(Format::Oci), saved(Format::Docker)), (5, 5, 3));

    let lacking = index(&[&absent, &manifest]);
    let (_dir, target) = layout();
    let archive = layout_tar(&source, &[&lacking]);
    let of_it = load(&archive[..], &target.writing().unwrap()).unwrap().remove(0).desc;
    assert_eq!(of_it.digest(), loaded.digest());
    let err = load(&archive[..archive.len() - 1024], &target.writing().unwrap()).unwrap_err();
    assert!(crate::error::find::<Missing>(&err).is_some(), "{err:#}");
}

#[test]
fn hostile_archives_are_errors() {
    let layer = tar(&[("hello", b"world")]);
    let good = config(&Digest::of(&layer));
    let other = config(&Digest::of(b"other"));
    let manifest: &[u8] = br#"[{"Config":"c.json","RepoTags":null,"Layers":["l.tar"]}]"#;
    let blob = format!("blobs/sha256/{}", Digest::of(b"x").hex());
    let cases: &[(&str, Vec<u8>)] = &[
        ("empty", Vec::new()),
        ("garbage", vec![7; 2000]),
        ("no manifest", tar(&[("a", b"b")])),
        (
            "another diff ID",
            tar(&[("l.tar", &layer), ("c.json", &other), ("manifest.json", manifest)]),
        ),
        ("no layer", tar(&[("c.json", &good), ("manifest.json", manifest)])),
        ("no config", tar(&[("l.tar", &layer), ("manifest.json", manifest)])),
        (
            "a link that leaves",
            tar(&[
                ("l.tar->", b"../../etc/shadow"),
                ("c.json", &good),
                ("manifest.json", manifest),
            ]),
        ),
        (
            "an absolute link",
            tar(&[("l.tar->", b"/etc/shadow"), ("c.json", &good), ("manifest.json", manifest)]),
        ),
        (
            "a loop",
            tar(&[
                ("l.tar->", b"m.tar"),
                ("m.tar->", b"l.tar"),
                ("c.json", &good),
                ("manifest.json", manifest),
            ]),
        ),
        (
            "a blob with another digest",
            tar(&[(&blob, b"y"), ("index.json", br#"{"schemaVersion":2,"manifests":[]}"#)]),
        ),
        ("a blob that is a link", tar(&[("blobs->", b"/etc"), ("index.json", b"{}")])),
        ("no digest", tar(&[("blobs/sha256/zz", b"y")])),
        ("no images", tar(&[("index.json", br#"{"schemaVersion":2,"manifests":[]}"#)])),
    ];
    for (what, archive) in cases {
        let (_dir, layout) = layout();
        assert!(load(&archive[..], &layout.writing().unwrap()).is_err(), "{what}");
        assert!(!layout.dir().join(".partial").exists(), "{what}");
    }
}

#[test]
fn what_two_readers_would_read_differently_is_an_error() {
    let layer = tar(&[("hello", b"world")]);
    let config = config(&Digest::of(&layer));
    let manifest: &[u8] = br#"[{"Config":"c.json","RepoTags":null,"Layers":["l.tar"]}]"#;
    let right: [(&str, &[u8]); 3] =
        [("l.tar", &layer), ("c.json", &config), ("manifest.json", manifest)];
    for i in 0..right.len() {
        // crane writes a config for each of an image's names.
        let same = [&right[..], &right[i..=i]].concat();
        let (_dir, target) = layout();
        load(&tar(&same)[..], &target.writing().unwrap()).unwrap();
        let twice = [&right[..], &[(right[i].0, &b"{}"[..])]].concat();
        let (_dir, layout) = layout();
        let err = load(&tar(&twice)[..], &layout.writing().unwrap()).unwrap_err();
        assert!(format!("{err:#}").ends_with("it is there twice"), "{err:#}");
    }
}

#[test]
fn what_manifest_json_names_may_have_any_name() {
    let layer = tar(&[("hello", b"world")]);
    let config = config(&Digest::of(&layer));
    let names = [
        ("0.tgz", "c.json"),
        ("0.tar.zst", "conf"),
        ("layer0", "img/conf.json"),
        ("./a/l.tar", "./c.json"),
        ("a/../b/l", "a//c.json"),
        ("a/layer.tar", "sha256:config"),
        ("sha256/layer", "link"),
    ];
    for (layer_name, config_name) in names {
        let manifest = serde_json::json!([{
            "Config": config_name, "RepoTags": ["app:v1"], "Layers": [layer_name],
        }]);
        let manifest = manifest.to_string();
        // No tar of this library has a name that climbs.
        let stored_layer = layer_name.trim_start_matches("a/../");
        let stored_config = if config_name == "link" { "there.json" } else { config_name };
        let mut files: Vec<(&str, &[u8])> = vec![
            (stored_layer, &layer),
            (stored_config, &config),
            ("stray", b"of no use"),
            ("manifest.json", manifest.as_bytes()),
        ];
        if config_name == "link" {
            files.push(("link->", b"there.json"));
        }
        let (_dir, layout) = layout();
        let writing = layout.writing().unwrap();
        let loaded = load(&tar(&files)[..], &writing).unwrap().remove(0).desc;
        layout.resolve(&loaded, &Platform::host()).unwrap();
        // What nothing names goes again, and nothing else.
        writing.keep(&loaded).unwrap();
        writing.abandon().unwrap();
        assert_eq!(layout.blobs().unwrap().len(), 3, "{layer_name} {config_name}");
        layout.resolve(&loaded, &Platform::host()).unwrap();
    }
    for (layer_name, config_name, expected) in [
        ("../l.tar", "c.json", "leaves the archive"),
        ("/l.tar", "c.json", "leaves the archive"),
        ("l.tar", "../c.json", "leaves the archive"),
        ("m.tar", "c.json", "not in the archive"),
        ("", "c.json", "not in the archive"),
        ("manifest.json", "c.json", "not in the archive"),
    ] {
        let manifest = serde_json::json!([{ "Config": config_name, "Layers": [layer_name] }]);
        let manifest = manifest.to_string();
        let files: [(&str, &[u8]); 3] =
            [("l.tar", &layer), ("c.json", &config), ("manifest.json", manifest.as_bytes())];
        let (_dir, layout) = layout();
        let err = load(&tar(&files)[..], &layout.writing().unwrap()).unwrap_err();
        assert!(format!("{err:#}").contains(expected), "{layer_name}: {err:#}");
    }
}

#[test]
fn an_image_without_layers_may_say_null() {
    let config =
        br#"{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":null}}"#;
    let manifest = br#"[{"Config":"c.json","RepoTags":null,"Layers":null}]"#;
    let (_dir, layout) = layout();
    let archive = tar(&[("c.json", config), ("manifest.json", manifest)]);
    let loaded = load(&archive[..], &layout.writing().unwrap()).unwrap().remove(0).desc;
    assert!(layout.resolve(&loaded, &Platform::host()).unwrap().manifest.layers().is_empty());
}

#[test]
fn what_is_kept_of_an_archive_is_bounded() {
    let gzip = |bytes: &[u8]| packed(bytes).swap_remove(1).1;
    // A GNU name of 20 MiB.
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::GNULongName);
    header.set_size(20 << 20);
    header.set_cksum();
    let long = [header.as_bytes(), &vec![b'n'; 20 << 20][..]].concat();
    let blank = vec![b' '; 9 << 20];
    let documents = tar(&[("a.json", &blank), ("b.json", &blank)]);
    for (bytes, expected) in
        [(long, "more than 65536"), (documents, "more than 16 MiB of documents and links")]
    {
        let (_dir, layout) = layout();
        let err = load(&gzip(&bytes)[..], &layout.writing().unwrap()).unwrap_err();
        assert!(format!("{err:#}").contains(expected), "{err:#}");
    }
    let mut options = liblzma::stream::LzmaOptions::new_preset(0).unwrap();
    options.dict_size(512 << 20);
    let mut filters = liblzma::stream::Filters::new();
    filters.lzma2(&options);
    let encoder = Stream::new_stream_encoder(&filters, liblzma::stream::Check::Crc32).unwrap();
    let mut xz = liblzma::write::XzEncoder::new_stream(Vec::new(), encoder);
    xz.write_all(&docker_archive()).unwrap();
    let (_dir, layout) = layout();
    let err = load(&xz.finish().unwrap()[..], &layout.writing().unwrap()).unwrap_err();
    assert!(format!("{err:#}").contains("memory"), "{err:#}");
}

#[test]
fn a_manifest_that_many_ways_lead_to_is_looked_at_once() {
    let (_dir, layout) = layout();
    let writing = layout.writing().unwrap();
    let mut desc = load(&docker_archive()[..], &writing).unwrap().remove(0).desc;
    for _ in 0..7 {
        let members = vec![serde_json::to_value(&desc).unwrap(); 100];
        let index = serde_json::json!({
            "schemaVersion": 2, "mediaType": MediaType::ImageIndex, "manifests": members,
        });
        let bytes = index.to_string().into_bytes();
        let digest = writing.put(&bytes).unwrap();
        desc = image::descriptor(MediaType::ImageIndex, &digest, bytes.len() as u64);
    }
    check_whole(&layout, &desc, 0, &mut HashSet::new()).unwrap(); // else it takes for ever
}

#[test]
fn an_archive_that_is_cut_short_is_an_error_wherever() {
    let archive = docker_archive();
    let end = archive.len() - 3000; // the last entries and the end mark are not needed
    for at in (0..end).step_by(97) {
        let (_dir, layout) = layout();
        assert!(load(&archive[..at], &layout.writing().unwrap()).is_err(), "{at}");
    }
}

/// Docker's archive of a layer that is large enough for the kernel to copy it, and to be hashed by another thread.
fn large_archive() -> Vec<u8> {
    let noise: Vec<u8> =
        (0..400_001u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let layer = tar(&[("noise", &noise)]);
    let config = config(&Digest::of(&layer));
    let manifest: &[u8] = br#"[{"Config":"c.json","RepoTags":["app:v1"],"Layers":["l.tar"]}]"#;
    tar(&[("l.tar", &layer), ("c.json", &config), ("manifest.json", manifest)])
}

/// Loads what comes through a pipe in pieces of this size.
fn load_pieces(bytes: &[u8], size: usize, into: &Writing) -> Result<Vec<Loaded>> {
    let (reader, mut writer) = std::io::pipe().unwrap();
    thread::scope(|scope| {
        scope.spawn(move || bytes.chunks(size).try_for_each(|piece| writer.write_all(piece)));
        load_file(File::from(std::os::fd::OwnedFd::from(reader)), into)
    })
}

#[test]
fn a_pipe_may_be_cut_into_pieces_of_any_size() {
    let archive = large_archive();
    for size in [7, 511, 512, 1000, 65_537, archive.len()] {
        let (_dir, layout) = layout();
        let loaded = load_pieces(&archive, size, &layout.writing().unwrap()).unwrap();
        assert_eq!(loaded[0].names, ["app:v1"], "{size}");
        assert!(!layout.dir().join(".partial").exists(), "{size}");
    }
    // Who has more to say than the archive says it all.
    for archive in [archive.clone(), packed(&archive).swap_remove(1).1] {
        let more = [&archive[..], &vec![0; 1 << 20]].concat();
        let (_dir, layout) = layout();
        let (reader, mut writer) = std::io::pipe().unwrap();
        thread::scope(|scope| {
            let writer = scope.spawn(move || writer.write_all(&more));
            let reader = File::from(std::os::fd::OwnedFd::from(reader));
            load_file(reader, &layout.writing().unwrap()).unwrap();
            writer.join().unwrap().unwrap();
        });
    }
    // And may end anywhere.
    for end in [600, 300_000, 401_000] {
        let (_dir, layout) = layout();
        let writing = layout.writing().unwrap();
        let err = load_pieces(&archive[..end], 1000, &writing).unwrap_err();
        assert!(format!("{err:#}").contains("truncated tar"), "{end}: {err:#}");
        writing.abandon().unwrap();
        assert!(layout.blobs().unwrap().is_empty() && !layout.dir().join(".partial").exists());
    }
}

#[test]
fn a_file_is_read_from_where_it_is_read_next() {
    let archive = large_archive();
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(b"before").unwrap();
    file.write_all(&archive).unwrap();
    let (_dir, layout) = layout();
    for _ in 0..2 {
        // The second time all is there, and passed over.
        std::io::Seek::seek(&mut file, std::io::SeekFrom::Start(6)).unwrap();
        let loaded = load_file(file.try_clone().unwrap(), &layout.writing().unwrap()).unwrap();
        assert_eq!(loaded[0].names, ["app:v1"]);
    }
}

#[test]
fn an_archive_that_fails_takes_back_what_it_brought() {
    let (_dir, layout) = layout();
    let kept = load(&docker_archive()[..], &layout.writing().unwrap()).unwrap().remove(0).desc;
    layout.writing().unwrap().keep(&kept).unwrap();
    let before = layout.blobs().unwrap();
    let mut archive = large_archive();
    let cut = archive.len() - 2048; // the manifest goes
    archive.truncate(cut - 1024);
    let writing = layout.writing().unwrap();
    load(&archive[..], &writing).unwrap_err();
    assert!(layout.blobs().unwrap().len() > before.len());
    writing.abandon().unwrap();
    assert_eq!(layout.blobs().unwrap(), before);
}

#[test]
fn the_whole_name_counts_unless_the_other_one_was_changed() {
    let annotations = |full: Option<&str>, name: Option<&str>| {
        let full = full.map(|full| (CONTAINERD_NAME.to_owned(), full.to_owned()));
        let name = name.map(|name| (REF_NAME.to_owned(), name.to_owned()));
        full_name(&full.into_iter().chain(name).collect())
    };
    let whole = "docker.io/library/app:v1";
    for (full, name, expected) in [
        (Some(whole), Some("v1"), Some(whole)),
        (Some(whole), Some(whole), Some(whole)),
        (Some(whole), None, Some(whole)),
        (None, Some("v1"), Some("v1")),
        (Some(whole), Some("v2"), Some("v2")),
        (Some(whole), Some("1"), Some("1")),
        (None, None, None),
    ] {
        assert_eq!(annotations(full, name).as_deref(), expected);
    }
}
