//! Archives: members that lead out, links to what is not a member, names that are paths.

use serde_json::{Value, json};

use super::Row::{
    ArchiveLinks, Bombs, Bounds, Digests, Disagreement, Escapes, Fifos, Json, Mismatch, Names,
    Nesting,
};
use super::image::{
    CONFIG, HELLO, INDEX, Layout, MANIFEST, Node, blob, digest, empty, hello, index, make, whole,
};
use super::pack::{gzip, through, zstd};
use super::tar::{Tar, base256, head, tar};
use super::{Case, Input, Row, case};
use crate::image::architecture;

pub fn cases(bait: &str) -> Vec<Case> {
    let mut all = members(bait);
    all.extend(docker(bait));
    all.extend(oci());
    all.extend(packing());
    all
}

fn is(row: Row, name: &str, tar: Tar) -> Case {
    packed(row, name, tar.end())
}

fn packed(row: Row, name: &str, bytes: Vec<u8>) -> Case {
    case(row, format!("an archive: {name}"), Input::Archive(bytes))
}

/// Returns the archive of a layout that is right.
fn right() -> Tar {
    whole().archive()
}

/// Docker's archive of the image of [`hello`], as it was before version 25, in parts.
struct Docker {
    config_name: String,
    config: Vec<u8>,
    layer_name: String,
    layer: Vec<u8>,
    diff_id: String,
}

impl Docker {
    fn new() -> Docker {
        let layer = hello();
        let config = json!({
            "architecture": architecture(),
            "os": "linux",
            "rootfs": { "type": "layers", "diff_ids": [&layer.diff_id] },
        });
        let config = config.to_string().into_bytes();
        Docker {
            config_name: format!("{}.json", &digest(&config)[7..]),
            config,
            layer_name: "aaaa/layer.tar".into(),
            layer: layer.blob,
            diff_id: layer.diff_id,
        }
    }

    fn manifest(&self) -> Value {
        json!([{ "Config": self.config_name, "RepoTags": ["app:v1"], "Layers": [self.layer_name] }])
    }

    /// Returns the archive, with this manifest.json.
    fn with(&self, manifest: impl std::fmt::Display) -> Tar {
        let tar = tar().file(&self.config_name, &self.config).file(&self.layer_name, &self.layer);
        tar.file("manifest.json", manifest.to_string())
    }

    fn tar(&self) -> Tar {
        self.with(self.manifest())
    }

    /// Returns the archive with `layer` in place of the member of the layer.
    fn layer(&self, layer: Tar) -> Tar {
        let tar = tar().file(&self.config_name, &self.config).raw(layer.0);
        tar.file("manifest.json", self.manifest().to_string())
    }
}

fn members(bait: &str) -> Vec<Case> {
    let absolute = format!("/{bait}/secret");
    let up = format!("{}{bait}/secret", "../".repeat(10));
    let leaves = "leaves the archive";
    let layer = blob(&hello().diff_id);
    let linked = |kind: u8, target: &str| {
        let archive = whole().without(&blob(&hello().diff_id)).archive();
        archive.with(head(kind, &layer).link(target), "")
    };
    vec![
        is(ArchiveLinks, "one that is right", right()).accepted(HELLO),
        is(Names, "a member that climbs", right().file(&up, "x")).refused(leaves),
        is(Names, "an absolute member", right().file(&absolute, "x")).refused(leaves),
        is(Names, "a member that climbs within", tar().file("a/../x", "y").raw(right().0))
            .accepted(HELLO),
        is(Names, "a blob that climbs", right().file("blobs/sha256/../../../x", "x"))
            .refused(leaves),
        is(Digests, "a blob whose name is no digest", right().file("blobs/sha256/x", "x"))
            .refused("not a digest"),
        is(
            Digests,
            "a blob of another algorithm",
            right().file("blobs/md5/d41d8cd98f00b204e9800998ecf8427e", ""),
        )
        .refused("not a digest"),
        is(Digests, "a blob below a blob", right().file(format!("{layer}/x"), "x"))
            .refused("not a digest"),
        is(ArchiveLinks, "a blob that is a link to the host", linked(b'2', &absolute))
            .refused("link"),
        is(ArchiveLinks, "a blob that is a link that climbs", linked(b'2', &up)).refused("link"),
        is(ArchiveLinks, "a blob that is a hard link to the host", linked(b'1', &absolute))
            .refused("link"),
        is(ArchiveLinks, "a blob that is a link to a member", linked(b'2', "../../index.json"))
            .refused("link"),
        is(
            ArchiveLinks,
            "blobs that are a link to the host",
            tar().symlink("blobs", format!("/{bait}")).raw(right().0),
        )
        .refused("link"),
        is(ArchiveLinks, "an index.json that is a link to the host", {
            whole().without("index.json").archive().symlink("index.json", &absolute)
        })
        .refused("leaves the archive"),
        is(ArchiveLinks, "an oci-layout that is a link to the host", {
            whole().without("oci-layout").archive().symlink("oci-layout", &absolute)
        })
        .refused("leaves the archive"),
        is(Fifos, "a member that is a FIFO", right().fifo("p"))
            .refused("neither a file, a directory nor a link"),
        is(Fifos, "a member that is a device", right().character("n", 1, 5))
            .refused("neither a file, a directory nor a link"),
        is(Escapes, "a member that would drive a terminal", right().file("../\x1b[31m\x07", "x"))
            .refused(r"1b"),
        is(
            Mismatch,
            "a blob that comes twice, the second time with other bytes",
            right().file(&layer, "other"),
        )
        .refused("corrupt: it hashes to"),
        is(Mismatch, "a blob of other bytes", {
            whole().text(&layer, tar().file("hello", "no").end()).archive()
        })
        .refused("corrupt: it hashes to"),
        is(Mismatch, "a blob that is not there", whole().without(&layer).archive())
            .refused("not in the layout"),
        is(
            Mismatch,
            "an index.json that comes twice",
            right().file("index.json", index(&[]).to_string()),
        )
        .refused("twice"),
        is(Mismatch, "no index.json", whole().without("index.json").archive())
            .refused("neither an OCI nor a Docker archive"),
        is(Mismatch, "no oci-layout, which nobody needs", whole().without("oci-layout").archive())
            .accepted(HELLO),
        is(Mismatch, "an archive in an archive", tar().file("inner.tar", right().end()))
            .refused("neither an OCI nor a Docker archive"),
        is(Mismatch, "nothing in it", tar()).refused(""),
        is(
            Bounds,
            "a name of a tebibyte",
            right().with(head(b'L', "x").put(124, &base256::<12>(1 << 40)), ""),
        )
        .refused(""),
        is(
            Bounds,
            "a PAX header of a tebibyte",
            right().with(head(b'x', "x").put(124, &base256::<12>(1 << 40)), ""),
        )
        .refused(""),
        is(
            Bounds,
            "a file of a tebibyte that is not there",
            right().with(head(b'0', "x.json").put(124, &base256::<12>(1 << 40)), ""),
        )
        .refused(""),
        is(Disagreement, "a PAX size over a header's 0", {
            let inner = tar().file("index.json", index(&[]).to_string()).0;
            let len = inner.len().to_string();
            tar().pax(&[("size", len.as_bytes())]).with(head(b'0', "outer"), &inner).raw(right().0)
        })
        .accepted(HELLO),
        is(
            Disagreement,
            "a PAX name, then a GNU one",
            tar().pax(&[("path", b"a")]).long_name("b").file("f", "x").raw(right().0),
        )
        .refused("a GNU long name and a PAX path for one entry"),
        is(Disagreement, "a wrong checksum", right().with(head(b'0', "x").checksum_off(1), ""))
            .refused("checksum"),
        packed(Disagreement, "cut in a blob", right().0[..1200].to_vec()).refused(""),
    ]
}

fn docker(bait: &str) -> Vec<Case> {
    let docker = Docker::new();
    let absolute = format!("/{bait}/secret");
    let up = format!("{}{bait}/secret", "../".repeat(10));
    let edited = |key: &str, value: Value| {
        let mut manifest = docker.manifest();
        manifest[0][key] = value;
        docker.with(manifest)
    };
    let leaves = "leaves the archive";
    vec![
        is(ArchiveLinks, "Docker's, right", docker.tar()).accepted(HELLO),
        is(Digests, "Docker's, with a config that climbs", edited("Config", json!(up)))
            .refused(leaves),
        is(Digests, "Docker's, with a config of the host", edited("Config", json!(absolute)))
            .refused(leaves),
        is(Digests, "Docker's, with a config that is empty", edited("Config", json!("")))
            .refused("not in the archive"),
        is(Digests, "Docker's, with a layer that climbs", edited("Layers", json!([up])))
            .refused(leaves),
        is(Digests, "Docker's, with a layer of the host", edited("Layers", json!([absolute])))
            .refused(leaves),
        is(
            ArchiveLinks,
            "Docker's, with a layer that is a link to the host",
            docker.layer(tar().symlink(&docker.layer_name, &absolute)),
        )
        .refused(leaves),
        is(
            ArchiveLinks,
            "Docker's, with a layer that is a link that climbs",
            docker.layer(tar().symlink(&docker.layer_name, &up)),
        )
        .refused(leaves),
        is(
            ArchiveLinks,
            "Docker's, with a layer that is a hard link to the host",
            docker.layer(tar().hard(&docker.layer_name, &absolute)),
        )
        .refused(leaves),
        is(ArchiveLinks, "Docker's, with a layer that is a link to another", {
            docker.layer(
                tar()
                    .file("bbbb/layer.tar", &docker.layer)
                    .symlink(&docker.layer_name, "../bbbb/layer.tar"),
            )
        })
        .accepted(HELLO),
        is(ArchiveLinks, "Docker's, with a layer in a loop of links", {
            docker.layer(
                tar()
                    .symlink(&docker.layer_name, "../bbbb/layer.tar")
                    .symlink("bbbb/layer.tar", "../aaaa/layer.tar"),
            )
        })
        .refused("not in the archive"),
        is(ArchiveLinks, "Docker's, with a config that is a link to the host", {
            let tar = tar()
                .symlink(&docker.config_name, &absolute)
                .file(&docker.layer_name, &docker.layer);
            tar.file("manifest.json", docker.manifest().to_string())
        })
        .refused(leaves),
        is(
            Mismatch,
            "Docker's, with a layer of another diff ID",
            docker.layer(tar().file(&docker.layer_name, tar().file("evil", "x").end())),
        )
        .refused("corrupt: it hashes to"),
        is(
            Mismatch,
            "Docker's, with a packed layer of another diff ID",
            docker.layer(tar().file(&docker.layer_name, gzip(&tar().file("evil", "x").end()))),
        )
        .refused("its diff ID is"),
        is(
            Mismatch,
            "Docker's, with a packed layer",
            docker.layer(tar().file(&docker.layer_name, gzip(&docker.layer))),
        )
        .accepted(HELLO),
        is(Mismatch, "Docker's, with a layer that is not there", docker.layer(tar()))
            .refused("not in the archive"),
        is(
            Mismatch,
            "Docker's, with a layer that is cut",
            docker.layer(tar().file(&docker.layer_name, &docker.layer[..700])),
        )
        .refused("corrupt: it hashes to"),
        is(
            Mismatch,
            "Docker's, with two layers and one diff ID",
            edited("Layers", json!([docker.layer_name, docker.layer_name])),
        )
        .refused("2 layers, but 1 diff IDs"),
        is(Mismatch, "Docker's, with no layers and one diff ID", edited("Layers", json!([])))
            .refused("0 layers, but 1 diff IDs"),
        is(Mismatch, "Docker's, without images", docker.with("[]"))
            .refused("an archive without images"),
        is(Mismatch, "Docker's, with two images", {
            let mut manifest = docker.manifest();
            let again = manifest[0].clone();
            manifest.as_array_mut().unwrap().push(again);
            manifest[1]["RepoTags"] = json!(["other:v1"]);
            docker.with(manifest)
        })
        .refused("which image?"),
        is(
            Mismatch,
            "Docker's, whose manifest.json comes twice",
            docker.tar().file("manifest.json", "[]"),
        )
        .refused("twice"),
        is(Mismatch, "Docker's, whose layer comes twice", {
            docker.layer(
                tar()
                    .file(&docker.layer_name, &docker.layer)
                    .file(&docker.layer_name, tar().file("evil", "x").end()),
            )
        })
        .refused("twice"),
        is(
            Mismatch,
            "Docker's, whose config and layer come twice, the same both times",
            docker.tar().raw(docker.tar().0),
        )
        .accepted(HELLO),
        is(Names, "Docker's, with a layer and a config of any name", {
            let mut other = Docker::new();
            other.config_name = "some/where/conf".into();
            other.layer_name = "0.tgz".into();
            other.tar().file("stray", "that nothing names")
        })
        .accepted(HELLO),
        is(Names, "Docker's, with names that climb within", {
            let mut manifest = docker.manifest();
            manifest[0]["Config"] = json!(format!("./x/../{}", docker.config_name));
            manifest[0]["Layers"] = json!([format!(".//{}", docker.layer_name)]);
            docker.with(manifest)
        })
        .accepted(HELLO),
        is(
            Names,
            "Docker's, with a layer that is a document",
            edited("Layers", json!(["manifest.json"])),
        )
        .refused("not in the archive"),
        is(
            Json,
            "Docker's, with two configs",
            docker.with(docker.manifest().to_string().replacen(
                "\"Config\"",
                "\"Config\":\"x\",\"Config\"",
                1,
            )),
        )
        .refused("duplicate field"),
        is(Json, "Docker's, with a manifest.json that is an object", docker.with("{}"))
            .refused("not a Docker archive's manifest"),
        is(Json, "Docker's, with a manifest.json of 10000 lists", docker.with("[".repeat(10_000)))
            .refused("not a Docker archive's manifest"),
        is(Escapes, "Docker's, with names that would drive a terminal", {
            let mut manifest = docker.manifest();
            let again = manifest[0].clone();
            manifest.as_array_mut().unwrap().push(again);
            manifest[1]["Layers"] = json!(["\x1b[31m"]);
            manifest[1]["RepoTags"] = json!(["\x1b[31m\x07"]);
            docker.with(manifest)
        })
        .refused("1b"),
        is(
            Escapes,
            "Docker's, with a name that is none",
            edited("RepoTags", json!(["\x1b[31m\r\n"])),
        )
        .accepted(HELLO),
        is(Digests, "Docker's, with a diff ID that is a path", {
            let mut other = Docker::new();
            let text = String::from_utf8(other.config.clone()).unwrap();
            other.config = text.replace(&other.diff_id, "sha256:../../x").into_bytes();
            other.tar()
        })
        .refused("not a digest"),
    ]
}

fn oci() -> Vec<Case> {
    let platform = json!({ "os": "linux", "architecture": architecture() });
    let nested = |depth: usize, width: usize| {
        let mut layout = empty();
        let mut desc = make([hello()]).put(&mut layout);
        for _ in 0..depth {
            desc["platform"] = platform.clone();
            desc = layout.put(INDEX, index(&vec![desc; width]).to_string().as_bytes());
        }
        layout.name(&desc).archive()
    };
    let both = {
        let mut layout = empty();
        let desc = make([hello()])
            .manifest(|mut doc| {
                doc["manifests"] = json!([]);
                doc.to_string().into_bytes()
            })
            .put(&mut layout);
        layout.name(&desc).archive()
    };
    let deep: Layout = {
        let mut layout = empty();
        let desc = layout.put(MANIFEST, "[".repeat(10_000).as_bytes());
        layout.name(&desc)
    };
    let config: Layout = {
        let mut layout = empty();
        let mut desc = layout.put(CONFIG, b"{}");
        desc["mediaType"] = json!(MANIFEST);
        layout.name(&desc)
    };
    vec![
        is(Nesting, "an image in seven indexes", nested(7, 1)).accepted(HELLO),
        is(Nesting, "an image in nine indexes", nested(9, 1)).refused("nest deeper than 8"),
        // 500^7 ways lead to the image: each digest is to be looked at once.
        is(Nesting, "seven indexes of 500 members each", nested(7, 500)).accepted(HELLO),
        is(Row::Confusion, "a manifest that is an index as well", both)
            .refused("both a manifest and an index"),
        is(Row::Confusion, "a config in place of a manifest", config.archive())
            .refused("schemaVersion is not 2"),
        is(Json, "a manifest of 10000 lists", deep.archive()).refused("not a manifest"),
        is(
            Json,
            "an index.json that is not UTF-8",
            whole().text("index.json", b"{\"\xff\":1}").archive(),
        )
        .refused("not an index"),
        is(Digests, "a manifest's digest that is a path", {
            let desc =
                json!({ "mediaType": MANIFEST, "digest": "sha256:../../index.json", "size": 5 });
            whole().name(&desc).archive()
        })
        .refused("not a descriptor"),
        is(Mismatch, "a layout that has both indexes", {
            let docker = Docker::new();
            right().raw(docker.tar().0)
        })
        .accepted(HELLO),
        is(Fifos, "an index.json that is a directory", {
            let layout = whole().with("index.json", Node::Dir);
            layout.archive()
        })
        .refused("neither an OCI nor a Docker archive"),
    ]
}

fn packing() -> Vec<Case> {
    let whole = right().end();
    let xz = through(&["xz"], &whole);
    let many = |kind: u8, count: usize| {
        let name = "n".repeat(80);
        let link = "t".repeat(80);
        let mut archive = right();
        for i in 0..count {
            archive = archive.with(head(kind, format!("{name}{i}")).link(&link), "");
        }
        archive.end()
    };
    let documents = {
        // 40 times 2 MiB of JSON that nobody asked for, in 80 KiB.
        let blank = vec![b' '; 2 << 20];
        let all = (0..40).fold(right(), |tar, i| tar.file(format!("{i}.json"), &blank));
        through(&["gzip", "-1"], &all.end())
    };
    let long_name = {
        // A name of 200 MiB, in 200 KiB.
        let size = 200 << 20;
        let start = tar().with(head(b'L', "x").size(size), "").0;
        super::pack::gzip_bomb(&start, 200)
    };
    vec![
        packed(Bombs, "packed with gzip", gzip(&whole)).accepted(HELLO),
        packed(Bombs, "packed with zstd", zstd(&whole, 7)).accepted(HELLO),
        packed(Bombs, "packed with xz", xz.clone()).accepted(HELLO),
        packed(Bombs, "packed with bzip2", through(&["bzip2"], &whole)).accepted(HELLO),
        packed(Bombs, "gzip that is cut", gzip(&whole)[..1500].to_vec()).refused(""),
        packed(Bombs, "xz that is cut", xz[..xz.len() / 2].to_vec()).refused(""),
        packed(Bombs, "zstd with a window of 2 GiB", zstd(&whole, 21)).refused(""),
        packed(
            Bombs,
            "xz with a dictionary of 600 MiB",
            through(&["xz", "-0", "--lzma2=preset=0,dict=600MiB"], &whole),
        )
        .refused("memory"),
        packed(Bombs, "gzip in gzip", gzip(&gzip(&whole))).refused(""),
        packed(Bombs, "80 MiB of documents", documents).refused("more than 16 MiB of documents"),
        packed(Bombs, "a name of 200 MiB", long_name).refused("more than 65536"),
        packed(Bombs, "70000 links", through(&["gzip", "-1"], &many(b'2', 70_000)))
            .refused("more than 16 MiB of documents and links"),
    ]
}
