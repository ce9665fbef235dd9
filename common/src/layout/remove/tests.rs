use std::io::Write;
use std::os::unix::fs::symlink;

use oci_spec::image::Descriptor;
use serde_json::json;

use super::*;
use crate::layout::CHOSEN_FROM;
use crate::reference::Reference;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// A layout, and what is put into it by hand.
struct Scratch {
    _dir: tempfile::TempDir,
    layout: Layout,
}

fn scratch() -> Scratch {
    let dir = tempfile::tempdir().unwrap();
    let layout = Layout::create(dir.path().join("images")).unwrap();
    Scratch { _dir: dir, layout }
}

impl Scratch {
    fn put(&self, bytes: &str) -> Digest {
        self.layout.writing().unwrap().put(bytes.as_bytes()).unwrap()
    }

    /// Puts a document and returns its descriptor.
    fn document(&self, media_type: &str, document: &Value) -> Value {
        let text = document.to_string();
        json!({ "mediaType": media_type, "digest": self.put(&text).to_string(), "size": text.len() })
    }

    /// Puts a manifest of these layers; its config names the layers as well, as configs do.
    fn manifest(&self, layers: &[&str]) -> Value {
        let desc = |text: &str| json!({ "mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": self.put(text).to_string(), "size": text.len() });
        let config = format!("config of {layers:?}");
        let mut config = desc(&config);
        config["mediaType"] = "application/vnd.oci.image.config.v1+json".into();
        let layers: Vec<Value> = layers.iter().map(|layer| desc(layer)).collect();
        let document = json!({ "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers });
        self.document(MANIFEST, &document)
    }

    fn index_of(&self, members: &[&Value]) -> Value {
        self.document(
            INDEX,
            &json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": members }),
        )
    }

    /// Writes an index.json of these entries.
    fn keep(&self, entries: &[&Value]) {
        let index = json!({ "schemaVersion": 2, "manifests": entries });
        fs::write(self.layout.dir().join("index.json"), index.to_string()).unwrap();
    }

    fn tag(&self, name: &str, desc: &Value) {
        let desc: Descriptor = serde_json::from_value(desc.clone()).unwrap();
        let name: Reference = name.parse().unwrap();
        self.layout.writing().unwrap().tag(&name, &desc, None).unwrap();
    }

    fn sweep(&self) -> Result<u64> {
        let removing = self.layout.removing(Duration::ZERO)?;
        let unneeded = removing.unneeded(&self.layout.index()?)?;
        removing.remove(unneeded)
    }

    fn count(&self) -> usize {
        self.layout.blobs().unwrap().len()
    }

    fn has(&self, text: &str) -> bool {
        self.layout.blobs().unwrap().contains_key(&Digest::of(text.as_bytes()))
    }
}

fn digest(desc: &Value) -> Digest {
    desc["digest"].as_str().unwrap().parse().unwrap()
}

#[test]
fn what_no_entry_needs_is_removed_and_nothing_else() {
    let t = scratch();
    let (one, two) = (t.manifest(&["shared", "one"]), t.manifest(&["shared", "two"]));
    t.tag("one", &one);
    t.tag("two", &two);
    t.put("garbage");
    assert_eq!(t.sweep().unwrap(), 7);
    assert_eq!(t.count(), 7);
    let removed = {
        let removing = t.layout.removing(Duration::ZERO).unwrap();
        let digest = one["digest"].as_str().unwrap();
        removing
            .update(|index| {
                let removed = index.retain(|image| image.digest() != digest);
                Ok((removed, true))
            })
            .unwrap()
    };
    assert_eq!(removed[0].name(), Some("docker.io/library/one:latest"));
    t.sweep().unwrap();
    assert_eq!(t.count(), 4);
    assert!(t.has("shared") && t.has("two") && !t.has("one"));
}

#[test]
fn candidates_that_another_image_needs_stay() {
    let t = scratch();
    let (one, two) = (t.manifest(&["shared", "one"]), t.manifest(&["shared", "two"]));
    t.tag("two", &two);
    t.put("garbage");
    t.keep(&[&one, &two]);
    let index = t.layout.index().unwrap();
    let candidates = t.layout.reach(&index.images()[0]).unwrap();
    assert_eq!(candidates.len(), 4);
    t.keep(&[&two]);
    let index = t.layout.index().unwrap();
    let removing = t.layout.removing(Duration::ZERO).unwrap();
    let mut asked = 0;
    let unneeded = removing.unneeded_of(&index, candidates.clone(), |_, _| {
        asked += 1;
        None
    });
    assert!(removing.remove(unneeded.unwrap()).unwrap() > 0);
    assert_eq!(asked, 1);
    // What is no candidate is not looked at.
    assert!(t.has("shared") && t.has("garbage") && !t.has("one"));
    // Who knows is believed.
    let two = [Digest::of(b"two"), Digest::of(b"garbage")];
    let is_two = |_: &Image, _: &BTreeMap<Digest, u64>| Some(vec![two[0]]);
    let unneeded = removing.unneeded_of(&index, two, is_two).unwrap();
    assert_eq!(unneeded.iter().map(|blob| blob.bytes).collect::<Vec<_>>(), [7]);
    assert_eq!(removing.unneeded_of(&index, two, |_, _| Some(vec![])).unwrap().len(), 2);
}

#[test]
fn a_name_goes_and_the_image_stays_until_it_is_pruned() {
    let t = scratch();
    let one = t.manifest(&["one"]);
    t.tag("a", &one);
    t.tag("b", &one);
    let unname = |name: &str| {
        let removing = t.layout.removing(Duration::ZERO).unwrap();
        removing.update(|index| index.unname(name).map(|found| (found, found))).unwrap()
    };
    assert!(unname("a") && !unname("a"));
    assert_eq!(t.layout.index().unwrap().images().len(), 1);
    assert!(unname("docker.io/library/b:latest"));
    let index = t.layout.index().unwrap();
    assert_eq!((index.images().len(), index.names().count()), (1, 0));
    t.sweep().unwrap();
    assert_eq!(t.count(), 3);
}

#[test]
fn what_is_below_indexes_is_kept_however_deep_and_what_is_missing_there_is_no_error() {
    let t = scratch();
    let mut top = t.manifest(&["deep"]);
    let absent =
        json!({ "mediaType": MANIFEST, "digest": Digest::of(b"absent").to_string(), "size": 6 });
    for _ in 0..20 {
        top = t.index_of(&[&absent, &top]);
    }
    t.keep(&[&top]);
    let before = t.count();
    assert_eq!(t.sweep().unwrap(), 0);
    assert_eq!(t.count(), before);
}

#[test]
fn the_index_that_an_image_came_from_is_kept_without_what_else_it_names() {
    let t = scratch();
    let (ours, other) = (t.manifest(&["ours"]), t.manifest(&["theirs"]));
    let index = t.index_of(&[&ours, &other]);
    let mut entry = ours.clone();
    entry["annotations"] = json!({ CHOSEN_FROM: index["digest"] });
    t.keep(&[&entry]);
    t.sweep().unwrap();
    assert!(t.has("ours") && !t.has("theirs"));
    assert!(t.layout.blobs().unwrap().contains_key(&digest(&index)));
}

#[test]
fn a_subject_and_what_documents_of_other_kinds_name_are_kept() {
    let t = scratch();
    let subject = t.manifest(&["subject"]);
    let blob =
        json!({ "mediaType": "text/plain", "digest": t.put("signature").to_string(), "size": 9 });
    let referrer = t.document(
        MANIFEST,
        &json!({ "schemaVersion": 2, "config": blob, "layers": [], "subject": subject, "x-more": [{ "digest": t.put("more").to_string() }] }),
    );
    // As Docker's first manifests were: digests, and not a descriptor among them.
    let odd = t.document(
        "application/x-odd",
        &json!({ "fsLayers": [{ "blobSum": t.put("old").to_string() }] }),
    );
    let in_index = t.index_of(&[&odd]);
    let data =
        json!({ "mediaType": "text/plain", "digest": t.put("{ no json").to_string(), "size": 9 });
    t.keep(&[&referrer, &in_index, &data]);
    let before = t.count();
    assert_eq!(t.sweep().unwrap(), 0);
    assert_eq!(t.count(), before);
}

#[test]
fn nothing_is_removed_while_it_is_not_known_what_an_image_needs() {
    let t = scratch();
    let (whole, broken) = (t.manifest(&["whole"]), t.manifest(&["broken"]));
    t.tag("whole", &whole);
    t.tag("app", &broken);
    t.put("garbage");
    let path = t.layout.dir().join(blob_path(&digest(&broken)));
    let bytes = fs::read(&path).unwrap();
    let refuses = |what: &str| {
        let before = t.count();
        let err = t.sweep().unwrap_err();
        let line = error::line(&err);
        assert!(
            line.starts_with("docker.io/library/app:latest: blob ") && line.contains(what),
            "{line}"
        );
        assert!(error::hint_of(&err).unwrap().ends_with("img-rm docker.io/library/app:latest"));
        assert_eq!(t.count(), before);
    };
    fs::write(&path, "{}").unwrap();
    refuses("corrupt");
    fs::remove_file(&path).unwrap();
    refuses("not in the layout");
    fs::write(&path, bytes).unwrap();
    assert_eq!(t.sweep().unwrap(), 7);
    // Bytes that are no document, though their digest is right.
    let text = t.put("no document");
    t.keep(&[&json!({ "mediaType": MANIFEST, "digest": text.to_string(), "size": 11 })]);
    assert!(t.sweep().is_err());
    assert!(t.has("whole"));
}

#[test]
fn blobs_stay_while_somebody_adds_some() {
    let t = scratch();
    let writing = t.layout.writing().unwrap();
    t.put("on its way");
    assert_eq!(t.sweep().unwrap(), 0);
    assert!(t.has("on its way"));
    // A name goes all the same.
    let one = t.manifest(&["one"]);
    t.tag("one", &one);
    let removing = t.layout.removing(Duration::from_millis(5)).unwrap();
    assert!(!removing.is_alone());
    removing.update(|index| Ok(((), index.unname("one")?))).unwrap();
    assert_eq!(t.layout.index().unwrap().names().count(), 0);
    drop((removing, writing));
    assert!(t.sweep().unwrap() > 0);
    assert!(!t.has("on its way"));
}

#[test]
fn of_a_symlink_the_link_goes_and_what_is_not_named_by_a_digest_stays() {
    let t = scratch();
    let dir = t.layout.dir();
    let linked = Digest::of(b"linked");
    fs::write(dir.join("rootfs.tar"), "linked").unwrap();
    symlink("../../rootfs.tar", dir.join(blob_path(&linked))).unwrap();
    symlink("../../nowhere", dir.join(blob_path(&Digest::of(b"dangling")))).unwrap();
    fs::write(dir.join("blobs/sha256/README"), "x").unwrap();
    fs::create_dir_all(dir.join("blobs/blake3")).unwrap();
    fs::write(dir.join("blobs/blake3").join(linked.hex()), "x").unwrap();
    fs::create_dir(dir.join(blob_path(&Digest::of(b"a directory")))).unwrap();
    assert_eq!(t.sweep().unwrap(), 32 - 3); // the paths in the links
    assert_eq!(t.count(), 0);
    assert!(dir.join("rootfs.tar").exists() && dir.join("blobs/sha256/README").exists());
    assert!(dir.join("blobs/blake3").join(linked.hex()).exists());
    assert!(dir.join(blob_path(&Digest::of(b"a directory"))).is_dir());
}

#[test]
fn documents_go_before_what_they_name() {
    let t = scratch();
    let manifest = t.manifest(&["layer"]);
    let index = t.index_of(&[&manifest]);
    let removing = t.layout.removing(Duration::ZERO).unwrap();
    let mut unneeded = removing.unneeded(&t.layout.index().unwrap()).unwrap();
    unneeded.sort_by_key(|blob| blob.rank);
    let order: Vec<&str> = unneeded.iter().map(|blob| blob.path.as_str()).collect();
    assert_eq!(order[..2], [blob_path(&digest(&index)), blob_path(&digest(&manifest))]);
}

#[test]
fn partial_blobs_go_when_nobody_writes_them_any_more() {
    let t = scratch();
    let writing = t.layout.writing().unwrap();
    let bytes = b"a blob in two parts";
    let mut dead = writing.blob(&Digest::of(bytes), 19).unwrap().unwrap();
    dead.write_all(&bytes[..7]).unwrap();
    drop(dead);
    let mut live = writing.new_blob().unwrap();
    live.write_all(b"live").unwrap();
    let looking = t.layout.looking();
    assert_eq!(looking.abandoned(Duration::from_secs(3600)), []);
    let abandoned = looking.abandoned(Duration::ZERO);
    assert_eq!(abandoned.iter().map(|blob| blob.bytes).collect::<Vec<_>>(), [7]);
    assert_eq!(looking.remove(abandoned.clone()).unwrap(), 0);
    drop((live, writing));
    let removing = t.layout.removing(Duration::ZERO).unwrap();
    assert_eq!(removing.remove(abandoned).unwrap(), 7);
    assert!(!t.layout.dir().join(PARTIAL).exists());
}

#[test]
fn those_who_remove_take_turns() {
    let t = scratch();
    let removed: u64 = std::thread::scope(|scope| {
        let sweep = |_| {
            scope.spawn(|| {
                let removing = t.layout.removing(Duration::ZERO).unwrap();
                assert!(removing.is_alone());
                let unneeded = removing.unneeded(&t.layout.index().unwrap()).unwrap();
                removing.remove(unneeded).unwrap()
            })
        };
        t.put("garbage");
        let threads: Vec<_> = (0..8).map(sweep).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    assert_eq!(removed, 7);
}

#[test]
fn nothing_is_removed_elsewhere_and_no_fifo_is_waited_for() {
    let t = scratch();
    let (layout, victim) = (t.layout.dir(), t._dir.path().join("victim"));
    fs::create_dir_all(victim.join("sha256")).unwrap();
    let blob = format!("sha256/{}", Digest::of(b"theirs").hex());
    for name in ["new-report.txt", "old", &blob] {
        fs::write(victim.join(name), "theirs").unwrap();
    }
    let all = || {
        let removing = t.layout.removing(Duration::ZERO)?;
        let mut unneeded = removing.unneeded(&t.layout.index()?)?;
        unneeded.extend(removing.abandoned(Duration::ZERO));
        removing.remove(unneeded)
    };
    let partial = layout.join(PARTIAL);
    t.put("garbage");
    let here = Digest::of(b"garbage");
    // Neither a link to a directory elsewhere, nor one to the blobs, which would all be abandoned.
    for target in [victim.as_path(), std::path::Path::new("blobs/sha256")] {
        symlink(target, &partial).unwrap();
        let writing = t.layout.writing().unwrap();
        let refused = [
            writing.put(b"new").map(drop),
            writing.new_blob().map(drop),
            writing.blob(&Digest::of(b"new"), 3).map(drop),
        ];
        for refused in refused {
            let line = error::line(&refused.unwrap_err());
            assert!(line.ends_with(".partial: not a directory"), "{line}");
        }
        drop(writing);
        assert!(t.layout.looking().abandoned(Duration::ZERO).is_empty());
        assert_eq!(t.layout.size(&here), Some(7));
        fs::remove_file(&partial).unwrap();
    }
    assert_eq!(all().unwrap(), 7);
    // What is no file is nobody's.
    fs::create_dir(&partial).unwrap();
    let hex = Digest::of(b"new").hex();
    for name in ["new-fifo".to_owned(), format!("sha256-{hex}")] {
        nix::unistd::mkfifo(&partial.join(name), nix::sys::stat::Mode::S_IRWXU).unwrap();
    }
    symlink(victim.join("old"), partial.join("new-link")).unwrap();
    let writing = t.layout.writing().unwrap();
    let line = error::line(&writing.blob(&Digest::of(b"new"), 3).map(drop).unwrap_err());
    assert!(line.ends_with(": not a regular file"), "{line}");
    drop(writing);
    assert_eq!(all().unwrap(), 0);
    assert_eq!(fs::read_dir(&partial).unwrap().count(), 3);
    fs::remove_dir_all(&partial).unwrap();
    // Somebody else's blobs.
    for (at, target) in [("blobs/sha256", victim.join("sha256")), ("blobs", victim.clone())] {
        let path = layout.join(at);
        fs::remove_dir(&path).unwrap();
        symlink(target, &path).unwrap();
        for refused in [all().map(drop), t.layout.writing().unwrap().put(b"new").map(drop)] {
            let line = error::line(&refused.unwrap_err());
            assert!(line.contains("a symlink that leaves the layout"), "{line}");
        }
        let removing = Removing { alone: Some(File::open(layout).unwrap()), ..t.layout.looking() };
        let path = format!("blobs/{}", blob);
        assert!(removing.remove(vec![Unneeded { path, bytes: 6, rank: 2 }]).is_err());
        fs::remove_file(layout.join(at)).unwrap();
    }
    assert_eq!(fs::read_dir(&victim).unwrap().count(), 3);
    assert_eq!(fs::read(victim.join(blob)).unwrap(), b"theirs");
}
