use std::fs;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};

use super::*;
use crate::digest::Hasher;
use crate::image::REF_NAME;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// A layout with one image, whose config names the processor `architecture`.
fn layout() -> (tempfile::TempDir, Layout) {
    let dir = tempfile::tempdir().unwrap();
    let layout = Layout::create(dir.path().join("images")).unwrap();
    (dir, layout)
}

fn image(layout: &Layout, architecture: &str) -> Descriptor {
    let writing = layout.writing().unwrap();
    let config = format!(
        r#"{{"architecture":"{architecture}","os":"linux","rootfs":{{"type":"layers","diff_ids":[]}}}}"#
    );
    let digest = writing.put(config.as_bytes()).unwrap();
    let manifest = format!(
        r#"{{"schemaVersion":2,"mediaType":"{MANIFEST}","config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{digest}","size":{}}},"layers":[]}}"#,
        config.len()
    );
    let digest = writing.put(manifest.as_bytes()).unwrap();
    let digest = oci_spec::image::Digest::from(&digest);
    Descriptor::new(MANIFEST.into(), manifest.len() as u64, digest)
}

fn names(layout: &Layout) -> Vec<String> {
    layout.index().unwrap().names().map(str::to_owned).collect()
}

#[test]
fn a_name_means_what_it_was_last_given_to() {
    let (_dir, layout) = layout();
    let (one, two) = (image(&layout, "amd64"), image(&layout, "arm64"));
    let name: Reference = "app".parse().unwrap();
    let writing = layout.writing().unwrap();
    writing.tag(&name, &one, None).unwrap();
    writing.tag(&name, &two, None).unwrap();
    assert_eq!(layout.find(&name).unwrap().digest(), two.digest());
    assert_eq!(names(&layout), ["docker.io/library/app:latest"]);
    // The first one lost its only name, and is kept.
    let index = layout.index().unwrap();
    assert_eq!(index.images().len(), 2);
    assert_eq!(index.images()[0].digest(), one.digest().to_string());
    // With a name again it has one entry, not two.
    writing.tag(&"old".parse().unwrap(), &one, None).unwrap();
    assert_eq!(layout.index().unwrap().images().len(), 2);
}

#[test]
fn the_index_that_an_image_came_from_is_the_newest() {
    let (_dir, layout) = layout();
    let desc = image(&layout, "amd64");
    let name: Reference = "app".parse().unwrap();
    let writing = layout.writing().unwrap();
    let (old, new) = (Digest::of(b"old"), Digest::of(b"new"));
    for index in [old, new] {
        writing.tag(&name, &chosen_from(desc.clone(), &index), None).unwrap();
    }
    writing.tag(&name, &desc, None).unwrap(); // says nothing about an index, and so forgets none
    let images = layout.index().unwrap();
    let kept = images.images()[0].descriptor().unwrap();
    assert_eq!(images.images().len(), 1);
    assert_eq!(kept.annotations().as_ref().unwrap()[CHOSEN_FROM], new.to_string());
}

#[test]
fn a_condition_that_fails_changes_nothing() {
    let (_dir, layout) = layout();
    let (one, two) = (image(&layout, "amd64"), image(&layout, "arm64"));
    let name: Reference = "app".parse().unwrap();
    let writing = layout.writing().unwrap();
    writing.tag(&name, &one, None).unwrap();
    let wrong = image::digest(&two).unwrap();
    assert!(writing.tag(&name, &two, Some(&wrong)).is_err());
    assert_eq!(layout.find(&name).unwrap().digest(), one.digest());
    writing.tag(&name, &two, Some(&image::digest(&one).unwrap())).unwrap();
    assert_eq!(layout.find(&name).unwrap().digest(), two.digest());
}

#[test]
fn a_manifest_that_is_not_here_gets_no_name() {
    let (_dir, layout) = layout();
    let desc =
        Descriptor::new(MANIFEST.into(), 2, oci_spec::image::Digest::from(&Digest::of(b"{}")));
    let err = layout.writing().unwrap().tag(&"app".parse().unwrap(), &desc, None).unwrap_err();
    assert!(crate::error::find::<Missing>(&err).is_some());
    assert!(names(&layout).is_empty());
}

#[test]
fn the_index_keeps_its_mode() {
    let (_dir, layout) = layout();
    let path = layout.dir().join("index.json");
    let mode = || fs::metadata(&path).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode(), 0o644);
    let desc = image(&layout, "amd64");
    for (n, kept) in [0o664, 0o600, 0o644].into_iter().enumerate() {
        fs::set_permissions(&path, fs::Permissions::from_mode(kept)).unwrap();
        let name = format!("app:{n}").parse().unwrap();
        layout.writing().unwrap().tag(&name, &desc, None).unwrap();
        assert_eq!(mode(), kept);
    }
}

#[test]
fn literal_names_of_other_tools_are_found() {
    let (_dir, layout) = layout();
    let desc = image(&layout, "amd64");
    let entry = format!(
        r#"{{"mediaType":"{MANIFEST}","digest":"{}","size":{},"x-theirs":[1, 2],"annotations":{{"{}":"v1","their.note":"kept"}}}}"#,
        desc.digest(),
        desc.size(),
        crate::image::REF_NAME
    );
    let index = format!(r#"{{"schemaVersion":2,"x-top":{{"a":1}},"manifests":[{entry}]}}"#);
    fs::write(layout.dir().join("index.json"), index).unwrap();
    let found = |name: &str| layout.index().unwrap().find(name).unwrap().is_some();
    assert!(found("v1") && found("docker.io/library/v1:latest") && !found("v2"));
    // Rewriting the index keeps what nobody here knows, and takes the name only.
    let other = image(&layout, "arm64");
    layout.writing().unwrap().tag(&"v1".parse().unwrap(), &other, None).unwrap();
    let text = fs::read_to_string(layout.dir().join("index.json")).unwrap();
    assert!(text.contains(r#""x-top":{"a":1}"#) && text.contains(r#""x-theirs":[1, 2]"#), "{text}");
    assert!(text.contains(r#""their.note":"kept""#), "{text}");
    assert_eq!(names(&layout), ["docker.io/library/v1:latest"]);
}

#[test]
fn an_index_of_null_manifests_is_empty() {
    let index = Index::parse(br#"{"schemaVersion":2,"manifests":null}"#).unwrap();
    assert!(index.images().is_empty());
    for bad in [
        "",
        "{}",
        "[]",
        r#"{"schemaVersion":1,"manifests":[]}"#,
        r#"{"schemaVersion":2,"manifests":[{}]}"#,
    ] {
        assert!(Index::parse(bad.as_bytes()).is_err(), "{bad}");
    }
}

#[test]
fn a_name_that_somebody_gave_to_several_is_one_images_when_it_is_given_again() {
    let (_dir, layout) = layout();
    let descs = ["amd64", "arm64", "s390x"].map(|architecture| image(&layout, architecture));
    let entry = |desc: &Descriptor, name: &str| {
        format!(
            r#"{{"mediaType":"{MANIFEST}","digest":"{}","size":{},"annotations":{{"{REF_NAME}":"{name}"}}}}"#,
            desc.digest(),
            desc.size()
        )
    };
    let full = "docker.io/library/a:latest";
    let same = [entry(&descs[0], full), entry(&descs[1], full), entry(&descs[1], "a")].join(",");
    let index = format!(r#"{{"schemaVersion":2,"manifests":[{same}]}}"#);
    let name = "a".parse().unwrap();
    for target in &descs {
        fs::write(layout.dir().join("index.json"), &index).unwrap();
        layout.writing().unwrap().tag(&name, target, None).unwrap();
        assert_eq!(names(&layout), [full], "{target:?}");
        assert_eq!(layout.find(&name).unwrap().digest(), target.digest());
    }
}

#[test]
fn many_writers_lose_no_name() {
    let (_dir, layout) = layout();
    let desc = image(&layout, "amd64");
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let (layout, desc) = (&layout, &desc);
            scope.spawn(move || {
                for tag in 0..10 {
                    let name = format!("app:{thread}-{tag}").parse().unwrap();
                    layout.writing().unwrap().tag(&name, desc, None).unwrap();
                }
            });
        }
    });
    assert_eq!(names(&layout).len(), 80);
}

#[test]
fn a_blob_is_taken_up_where_its_writer_died() {
    let (_dir, layout) = layout();
    let bytes = b"a blob in two parts";
    let digest = Digest::of(bytes);
    let writing = layout.writing().unwrap();
    let mut blob = writing.blob(&digest, bytes.len() as u64).unwrap().unwrap();
    blob.write_all(&bytes[..7]).unwrap();
    drop(blob);
    let mut blob = writing.blob(&digest, bytes.len() as u64).unwrap().unwrap();
    assert_eq!(blob.offset(), 7);
    blob.write_all(&bytes[7..]).unwrap();
    blob.finish().unwrap();
    assert!(layout.has(&digest, bytes.len() as u64).unwrap());
    assert!(writing.blob(&digest, bytes.len() as u64).unwrap().is_none());
    drop(writing);
    assert!(!layout.dir().join(".partial").exists());
}

#[test]
fn many_writers_of_one_blob_write_it_once() {
    let (_dir, layout) = layout();
    let bytes = vec![7; 1 << 20];
    let digest = Digest::of(&bytes);
    let written: u32 = std::thread::scope(|scope| {
        let write = || {
            let writing = layout.writing().unwrap();
            let Some(mut blob) = writing.blob(&digest, bytes.len() as u64).unwrap() else {
                return 0;
            };
            blob.write_all(&bytes).unwrap();
            blob.finish().unwrap();
            1
        };
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(write)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    assert_eq!(written, 1);
}

#[test]
fn who_has_all_of_a_blob_waits_for_no_other_writer_and_leaves_nothing() {
    let (_dir, layout) = layout();
    let bytes = b"a blob in two parts";
    let (digest, size) = (Digest::of(bytes), bytes.len() as u64);
    let writing = layout.writing().unwrap();
    let mut stalled = writing.blob(&digest, size).unwrap().unwrap();
    stalled.write_all(&bytes[..7]).unwrap();
    let mut given_up = writing.whole_blob(&digest, size).unwrap().unwrap();
    given_up.write_all(&bytes[..9]).unwrap();
    let mut blob = writing.whole_blob(&digest, size).unwrap().unwrap();
    blob.write_all(bytes).unwrap();
    drop(given_up);
    assert!(!layout.has(&digest, size).unwrap());
    blob.finish().unwrap();
    assert!(layout.has(&digest, size).unwrap());
    assert!(writing.whole_blob(&digest, size).unwrap().is_none());
    let partial = || fs::read_dir(layout.dir().join(".partial")).unwrap().count();
    assert_eq!(partial(), 1);
    stalled.write_all(&bytes[7..]).unwrap();
    stalled.finish().unwrap();
    let mut wrong = writing.whole_blob(&Digest::of(b"other"), size).unwrap().unwrap();
    wrong.write_all(bytes).unwrap();
    assert!(wrong.finish().is_err());
    drop(writing);
    assert!(!layout.dir().join(".partial").exists());
}

#[test]
fn a_blob_of_other_bytes_never_gets_its_name() {
    let (_dir, layout) = layout();
    let digest = Digest::of(b"right");
    let writing = layout.writing().unwrap();
    for wrong in [&b"wrong"[..], b"righ"] {
        let mut blob = writing.blob(&digest, 5).unwrap().unwrap();
        blob.write_all(wrong).unwrap();
        assert!(blob.finish().is_err());
    }
    assert!(writing.blob(&digest, 5).unwrap().unwrap().write_all(b"right and more").is_err());
    assert!(!layout.has(&digest, 5).unwrap());
}

#[test]
fn a_new_blob_gets_a_name_by_a_digest_that_it_has() {
    let (dir, layout) = layout();
    let writing = layout.writing().unwrap();
    for wanted in [Hasher::sha256(), Hasher::Sha512(Default::default())] {
        let blob = |bytes: &[u8]| {
            let mut blob = writing.new_blob().unwrap();
            blob.write_all(bytes).unwrap();
            blob.seal()
        };
        let mut hasher = wanted;
        hasher.update(b"hello");
        let digest = hasher.finish();
        assert!(!blob(b"other").publish_as(&digest).unwrap());
        assert_eq!(layout.size(&digest), None);
        assert!(blob(b"hello").publish_as(&digest).unwrap());
        assert!(blob(b"hello").publish_as(&digest).unwrap(), "it is there already");
        assert_eq!(layout.size(&digest), Some(5));
    }
    drop(writing);
    assert!(!dir.path().join("images/.partial").exists(), "nothing else is left");
}

#[test]
fn a_blob_that_outlives_its_writer_leaves_nothing() {
    let (_dir, layout) = layout();
    let writing = layout.writing().unwrap();
    let mut blob = writing.new_blob().unwrap();
    drop(writing);
    blob.write_all(b"hel").unwrap();
    drop(blob);
    assert!(!layout.dir().join(".partial").exists());
}

#[test]
fn what_a_dead_writer_left_is_collected() {
    let (_dir, layout) = layout();
    let writing = layout.writing().unwrap();
    let mut live = writing.new_blob().unwrap();
    live.write_all(b"live").unwrap();
    fs::write(layout.dir().join(".partial/new-dead"), "dead").unwrap();
    drop(layout.writing().unwrap());
    assert!(!layout.dir().join(".partial/new-dead").exists());
    let (digest, size) = live.finish().unwrap();
    assert_eq!((digest, size), (Digest::of(b"live"), 4));
    assert!(layout.has(&digest, size).unwrap());
}

#[test]
fn a_blob_that_hashes_to_something_else_is_corrupt() {
    let (_dir, layout) = layout();
    let desc = image(&layout, "amd64");
    let path = layout.dir().join(blob_path(&crate::image::digest(&desc).unwrap()));
    let text = fs::read_to_string(&path).unwrap().replace("amd64", "arm64").replace("2", "3");
    fs::remove_file(&path).unwrap();
    fs::write(&path, text).unwrap();
    let err = layout.resolve(&desc, &Platform::host()).unwrap_err();
    assert!(crate::error::line(&err).contains("corrupt"), "{err:#}");
}

#[test]
fn a_small_blob_that_is_corrupt_is_written_again() {
    let (_dir, layout) = layout();
    let writing = layout.writing().unwrap();
    let bytes = b"{\"a\":\"document\"}";
    let (digest, size) = (writing.put(bytes).unwrap(), bytes.len() as u64);
    let path = layout.dir().join(blob_path(&digest));
    let put = || assert_eq!(writing.put(bytes).unwrap(), digest);
    let fetch = || {
        let mut blob = writing.blob(&digest, size).unwrap().unwrap();
        blob.write_all(bytes).unwrap();
        blob.finish().unwrap();
    };
    let load = || {
        let mut blob = writing.whole_blob(&digest, size).unwrap().unwrap();
        blob.write_all(bytes).unwrap();
        blob.finish().unwrap();
    };
    for again in [&put as &dyn Fn(), &fetch, &load] {
        fs::write(&path, "{\"a\":\"DOCUMENT\"}").unwrap();
        again();
        assert_eq!(fs::read(&path).unwrap(), bytes);
    }
    assert!(writing.blob(&digest, size).unwrap().is_none());
}

#[test]
fn its_documents_may_be_symlinks_within_the_layout_only() {
    let (dir, layout) = layout();
    let index = layout.dir().join("index.json");
    fs::rename(&index, layout.dir().join("other.json")).unwrap();
    symlink("other.json", &index).unwrap();
    assert!(layout.index().unwrap().images().is_empty());
    fs::rename(layout.dir().join("other.json"), dir.path().join("other.json")).unwrap();
    fs::remove_file(&index).unwrap();
    symlink(dir.path().join("other.json"), &index).unwrap();
    let err = format!("{:#}", layout.index().err().unwrap());
    assert!(err.ends_with("index.json: a symlink that leaves the layout"), "{err}");
}

#[test]
fn an_index_is_nothing_else_as_well() {
    let index = |more: &str| {
        let text = format!(r#"{{"schemaVersion":2,{more}"manifests":[]}}"#);
        Index::parse(text.as_bytes()).map(drop)
    };
    let own = r#""mediaType":"application/vnd.oci.image.index.v1+json","#;
    for good in ["", own, r#""mediaType":null,"#, r#""annotations":{"a":"b","A":"c"},"#] {
        assert!(index(good).is_ok(), "{good}");
    }
    for bad in [
        r#""layers":[],"#,
        r#""config":{},"#,
        r#""mediaType":"application/vnd.oci.image.manifest.v1+json","#,
        r#""manifests":[],"#,
        r#""Manifests":[],"#,
        r#""schemaversion":2,"#,
    ] {
        assert!(index(bad).is_err(), "{bad}");
    }
}

#[test]
fn a_blob_may_be_a_symlink_within_the_layout_only() {
    let (dir, layout) = layout();
    let (inside, outside) = (Digest::of(b"inside"), Digest::of(b"outside"));
    fs::write(layout.dir().join("rootfs.tar.gz"), "inside").unwrap();
    fs::write(dir.path().join("secret"), "outside").unwrap();
    symlink("../../rootfs.tar.gz", layout.dir().join(blob_path(&inside))).unwrap();
    symlink("../../../secret", layout.dir().join(blob_path(&outside))).unwrap();
    assert!(layout.has(&inside, 6).unwrap());
    assert!(!layout.has(&outside, 7).unwrap());
    let fifo = Digest::of(b"fifo");
    nix::unistd::mkfifo(&layout.dir().join(blob_path(&fifo)), nix::sys::stat::Mode::S_IRWXU)
        .unwrap();
    assert!(!layout.has(&fifo, 0).unwrap());
}

#[test]
fn an_index_that_contains_itself_comes_to_an_end() {
    // No index can hold its own digest; a chain that is too deep stands for it.
    let (_dir, layout) = layout();
    let mut desc = image(&layout, "amd64");
    let media_type = "application/vnd.oci.image.index.v1+json";
    for _ in 0..10 {
        let index = format!(
            r#"{{"schemaVersion":2,"manifests":[{{"mediaType":"{}","digest":"{}","size":{}}}]}}"#,
            desc.media_type(),
            desc.digest(),
            desc.size()
        );
        let digest = layout.writing().unwrap().put(index.as_bytes()).unwrap();
        desc = Descriptor::new(
            media_type.into(),
            index.len() as u64,
            oci_spec::image::Digest::from(&digest),
        );
    }
    let err = layout.resolve(&desc, &Platform::host()).unwrap_err();
    assert_eq!(err.to_string(), "indexes nest deeper than 8");
}

#[test]
fn of_a_name_that_two_images_have_one_is_removed_and_the_others_lose_it() {
    let entry = |image: &str, name: &str| {
        let digest = Digest::of(image.as_bytes());
        format!(
            r#"{{"mediaType":"{MANIFEST}","digest":"{digest}","size":1,"annotations":{{"{REF_NAME}":"{name}"}}}}"#
        )
    };
    let all = [("1", "a"), ("2", "a"), ("1", "a"), ("3", "a"), ("3", "b"), ("1", "c")];
    let all = all.map(|(image, name)| entry(image, name)).join(",");
    let text = format!(r#"{{"schemaVersion":2,"manifests":[{all}]}}"#);
    let mut index = Index::parse(text.as_bytes()).unwrap();
    let removed = index.remove("a").unwrap().unwrap();
    assert_eq!(removed.digest(), Digest::of(b"1").to_string());
    let left: Vec<_> =
        index.images().iter().map(|image| (image.digest().to_owned(), image.name())).collect();
    let wanted = [("2", None), ("3", Some("b")), ("1", Some("c"))];
    assert_eq!(left, wanted.map(|(image, name)| (Digest::of(image.as_bytes()).to_string(), name)));
    assert!(index.remove("a").unwrap().is_none());
}
