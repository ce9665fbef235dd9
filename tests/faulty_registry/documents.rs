//! Manifests and indexes that are not what they should be, or mean two things.

use std::collections::BTreeMap;

use sandbox::faulty::content::{Content, INDEX, MANIFEST, digest, document, missing};
use sandbox::faulty::fault::{Fault, Scene, fault, run_all};
use sandbox::faulty::message::{Asked, Length, Reply, Then};
use serde_json::{Value, json};

/// Returns the row of a registry whose tag is answered so.
fn tag(
    story: &str,
    answer: impl Fn(&Asked, &Scene, Reply) -> Reply + Send + Sync + 'static,
) -> Fault {
    fault(story).registry(move |asked, scene| match asked.manifest() {
        Some("1") => answer(asked, scene, scene.well(asked)),
        _ => scene.well(asked),
    })
}

/// Returns the row of a registry whose tag leads to a manifest with a change in it.
fn manifest(story: &str, change: impl Fn(&mut Value) + Send + Sync + 'static) -> Fault {
    tag(story, move |_, scene, _| {
        let mut manifest = scene.content.parsed();
        change(&mut manifest);
        Reply::new(200, manifest.to_string()).header("content-type", MANIFEST)
    })
}

/// Returns the row of a registry whose tag leads to this text.
fn text(story: &str, media_type: &'static str, text: impl Into<Vec<u8>>) -> Fault {
    let text = text.into();
    tag(story, move |_, _, _| Reply::new(200, text.clone()).header("content-type", media_type))
}

/// Returns an index of the image with a change in it.
fn index(content: &Content, change: &dyn Fn(&mut Value)) -> Vec<u8> {
    let mut index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [{
        "mediaType": MANIFEST, "digest": content.digest, "size": content.manifest().len(),
        "platform": { "os": "linux", "architecture": sandbox::image::architecture() },
    }] });
    change(&mut index);
    index.to_string().into()
}

/// Returns the row of a registry whose tag leads to an index with a change in it.
fn indexed(story: &str, change: impl Fn(&mut Value) + Send + Sync + 'static) -> Fault {
    tag(story, move |_, scene, _| {
        Reply::new(200, index(&scene.content, &change)).header("content-type", INDEX)
    })
}

/// Returns the manifest with many blanks behind it, which are part of it.
fn padded() -> String {
    format!("{}{}", Content::of_tests().parsed(), " ".repeat(3 << 20))
}

/// Returns a digest that is as good as any, of nothing.
fn of_nothing(n: usize) -> String {
    format!("sha256:{n:064x}")
}

pub fn bodies() -> Vec<Fault> {
    let mut faults = vec![
        text(
            "the manifest is a portal's page",
            "text/html; charset=utf-8",
            "<!DOCTYPE html><title>Log in",
        )
        .fails("web page"),
        text("the manifest is a page that calls itself a manifest", MANIFEST, "<html>\x1b[31m")
            .fails("not a manifest"),
        text("the manifest is nothing", MANIFEST, "").fails("not a manifest"),
        text("the manifest is null", MANIFEST, "null").fails("not a manifest"),
        text("the manifest is a number", MANIFEST, "7").fails("not a manifest"),
        text("the manifest is no text", MANIFEST, vec![0xff; 300]).fails("not a manifest"),
        text("the manifest is a nest of brackets", MANIFEST, "[".repeat(1 << 20))
            .fails("not a manifest"),
        text(
            "the manifest holds a nest of brackets",
            MANIFEST,
            format!(r#"{{"schemaVersion":2,"x":{}"#, "[".repeat(1 << 20)),
        )
        .fails("not a manifest"),
        text("the manifest is a picture", "image/png", "PNG").fails("not a manifest"),
        text("the manifest's type has odd letters in it", "x/\"y\"; a=b", "{}").fails("not a"),
        text(
            "the manifest is of Docker's first kind",
            "application/vnd.docker.distribution.manifest.v1+prettyjws",
            r#"{"schemaVersion":1}"#,
        )
        .fails("schema 1"),
        text("the manifest has no version", MANIFEST, r#"{"config":{},"layers":[]}"#)
            .fails("schemaVersion"),
        text(
            "the manifest has a version that is text",
            MANIFEST,
            r#"{"schemaVersion":"2","layers":[]}"#,
        )
        .fails("not a manifest"),
        text("the manifest has only a version", MANIFEST, r#"{"schemaVersion":2}"#)
            .fails("no config and no layers"),
        tag("the manifest never ends", |_, _, _| {
            Reply::new(200, "{")
                .header("content-type", MANIFEST)
                .length(Length::Untold)
                .then(Then::Flood(vec![b' '; 64 << 10]))
        })
        .fails("larger than"),
        tag("the manifest has 5 MiB of blanks in it", |_, scene, _| {
            let padded = format!("{}{}", " ".repeat(5 << 20), scene.content.parsed());
            Reply::new(200, padded).header("content-type", MANIFEST)
        })
        .fails("larger than"),
        tag("the manifest has 3 MiB of blanks behind it", |_, _, _| {
            Reply::new(200, padded()).header("content-type", MANIFEST)
        })
        .pulls_other(digest(padded().as_bytes())),
        tag("something follows the manifest", |_, _, mut reply| {
            reply.body.extend(b"{}");
            reply
        })
        .fails("not a manifest"),
        tag("the manifest breaks off and says that this is all", |_, _, mut reply| {
            reply.body.truncate(200);
            reply
        })
        .fails("not a manifest"),
        tag("the manifest was packed on the way", |_, _, reply| {
            reply.header("content-encoding", "gzip")
        })
        .fails("came encoded as \"gzip\""),
        tag("the manifest's coding is \"identity\"", |_, _, reply| {
            reply.header("content-encoding", "identity")
        })
        .pulls(),
        tag("the manifest's digest is said to be another", |_, _, reply| {
            reply.without("docker-content-digest").header("docker-content-digest", of_nothing(1))
        })
        .pulls(),
        tag("the manifest's digest is said to be a path", |_, _, reply| {
            reply
                .without("docker-content-digest")
                .header("docker-content-digest", "sha256:../../../../etc/passwd")
        })
        .pulls(),
        tag("the manifest has no type", |_, _, reply| reply.without("content-type")).pulls(),
        tag("the manifest's type is any JSON", |_, _, reply| {
            reply.without("content-type").header("content-type", "application/json; charset=utf-8")
        })
        .pulls(),
        tag("the manifest's type is in capitals, with a parameter", |_, _, reply| {
            reply
                .without("content-type")
                .header("content-type", format!("{} ; charset=UTF-8", MANIFEST.to_uppercase()))
        })
        .pulls(),
        tag("the manifest is called an index", |_, _, reply| {
            reply.without("content-type").header("content-type", INDEX)
        })
        .fails("its media type is"),
        tag("an index is called a manifest", |_, scene, _| {
            Reply::new(200, index(&scene.content, &|_| ())).header("content-type", MANIFEST)
        })
        .fails("its media type is"),
        tag("an index that does not say what it is is called a manifest", |_, scene, _| {
            let index =
                index(&scene.content, &|it| drop(it.as_object_mut().unwrap().remove("mediaType")));
            Reply::new(200, index).header("content-type", MANIFEST)
        })
        .fails("no config and no layers"),
        tag("a document is both a manifest and an index", |_, scene, _| {
            let mut both = scene.content.parsed();
            both["manifests"] = json!([]);
            Reply::new(200, both.to_string()).header("content-type", MANIFEST)
        })
        .fails("both a manifest and an index"),
        tag("a document says twice what it is", |_, scene, _| {
            let manifest = scene.content.parsed().to_string();
            let twice = manifest.replacen('{', &format!("{{\"mediaType\":\"{INDEX}\","), 1);
            Reply::new(200, twice).header("content-type", MANIFEST)
        })
        .fails("not a manifest"),
        tag("the tag means another image at each question", |asked, scene, _| {
            let mut manifest = scene.content.parsed();
            manifest["annotations"] = json!({ "nth": asked.nth.to_string() });
            let reply = document(manifest.to_string().as_bytes());
            if asked.nth < 3 { reply.cut(100, Then::Close) } else { scene.well(asked) }
        })
        .pulls(),
        fault("the tag means an index, whose image is another by now")
            .registry(|asked, scene| match asked.manifest() {
                Some("1") => {
                    Reply::new(200, index(&scene.content, &|_| ())).header("content-type", INDEX)
                }
                Some(_) => {
                    let mut manifest = scene.content.parsed();
                    manifest["annotations"] = json!({ "moved": "yes" });
                    document(manifest.to_string().as_bytes())
                }
                None => scene.well(asked),
            })
            .fails("the registry sent other bytes for"),
        fault("HEAD is not allowed, and nobody needs it")
            .registry(|asked, scene| match asked.method.as_str() {
                "HEAD" => Reply::new(405, ""),
                _ => scene.well(asked),
            })
            .pulls(),
        fault("a digest is asked for, and other bytes come")
            .registry(|asked, scene| match asked.manifest() {
                Some(_) => document(scene.content.manifest()),
                None => scene.well(asked),
            })
            .name(&format!("{{0}}/app:1@{}", of_nothing(7)))
            .for_good()
            .fails("the registry sent other bytes for"),
    ];
    for (name, tags) in [
        (
            "never end",
            Reply::new(200, "[").length(Length::Untold).then(Then::Flood(vec![b' '; 64 << 10])),
        ),
        ("are a page of HTML", Reply::new(200, "<html>")),
        (
            "are odd",
            Reply::new(200, r#"{"tags":["\u001b[31mred","../../x","a b","", "\u202e1", "1\n2"]}"#),
        ),
        (
            "are a hundred thousand",
            Reply::new(
                200,
                json!({ "tags": (0..100_000).map(|n| format!("t{n}")).collect::<Vec<_>>() })
                    .to_string(),
            ),
        ),
        (
            "go on elsewhere",
            Reply::new(200, r#"{"tags":["2"]}"#)
                .header("link", "<http://127.0.0.1:1/v2/x>; rel=\"next\""),
        ),
        (
            "go on for ever",
            Reply::new(200, r#"{"tags":["2"]}"#)
                .header("link", "</v2/app/tags/list?n=1000>; rel=\"next\""),
        ),
        ("are forbidden", Reply::challenge("Bearer realm=\"http://169.254.169.254/\"")),
    ] {
        faults.push(
            fault(format!("the tag is not there, and those that are {name}"))
                .registry(move |asked, scene| match asked.manifest() {
                    Some(_) => Reply::new(404, ""),
                    None if asked.path().ends_with("/tags/list") => tags.clone(),
                    None => scene.well(asked),
                })
                .fails("manifest not found"),
        );
    }
    faults
}

pub fn manifests() -> Vec<Fault> {
    let mut faults = vec![
        manifest("a layer's size is a byte less", |it| {
            let size = it["layers"][0]["size"].as_u64().unwrap();
            it["layers"][0]["size"] = json!(size - 1);
        })
        .fails("the descriptor says"),
        manifest("a layer's size is as large as can be", |it| {
            it["layers"][0]["size"] = json!(u64::MAX)
        })
        .fails("127.0.0.1:"),
        manifest("a layer's size is 8 EiB less one", |it| {
            it["layers"][0]["size"] = json!(i64::MAX)
        })
        .fails("the descriptor says"),
        manifest("all sizes together are more than there can be", |it| {
            for layer in it["layers"].as_array_mut().unwrap() {
                layer["size"] = json!(i64::MAX);
            }
        })
        .fails("the descriptor says"),
        manifest("a layer's size is negative", |it| it["layers"][0]["size"] = json!(-1))
            .fails("not a manifest"),
        manifest("a layer's size is not whole", |it| it["layers"][0]["size"] = json!(1.5))
            .fails("not a manifest"),
        manifest("a layer's size is text", |it| it["layers"][0]["size"] = json!("5"))
            .fails("not a manifest"),
        manifest("a layer has no size", |it| {
            drop(it["layers"][0].as_object_mut().unwrap().remove("size"))
        })
        .fails("not a manifest"),
        manifest("a layer is twice there, in two sizes", |it| {
            let mut other = it["layers"][0].clone();
            other["size"] = json!(1);
            it["layers"].as_array_mut().unwrap().push(other);
        })
        .fails("two sizes in one image"),
        manifest("a layer is the config, in another size", |it| {
            let mut config = it["config"].clone();
            config["size"] = json!(1);
            it["layers"].as_array_mut().unwrap().push(config);
        })
        .fails("two sizes in one image"),
        manifest("a layer is not there", |it| it["layers"][0]["digest"] = json!(of_nothing(1)))
            .fails("not found"),
        manifest("the config is not there", |it| it["config"]["digest"] = json!(of_nothing(1)))
            .fails("not found"),
        manifest("there is no config", |it| drop(it.as_object_mut().unwrap().remove("config")))
            .fails("not a manifest"),
        manifest("there are 20000 layers that are not there", |it| {
            let layer = |n| json!({ "mediaType": "a/b", "size": 1, "digest": of_nothing(n) });
            it["layers"] = (0..20_000).map(layer).collect();
        })
        .fails("127.0.0.1:"),
        manifest("a layer is foreign, and not in the registry", |it| {
            it["layers"][0]["digest"] = json!(of_nothing(3));
            it["layers"][0]["urls"] = json!(["http://127.0.0.1:9/layer", "file:///etc/passwd"]);
        })
        .fails("not in the registry"),
        fault("a layer's URLs lead elsewhere, where a password is wanted")
            .registry(|asked, scene| match (asked.manifest(), scene.is_layer(asked)) {
                (Some("1"), _) => {
                    let mut manifest = scene.content.parsed();
                    manifest["layers"][0]["urls"] =
                        json!([format!("http://{}/layer", scene.at(1))]);
                    document(manifest.to_string().as_bytes())
                }
                (_, true) => Reply::new(404, ""),
                _ => scene.well(asked),
            })
            .bait("127.0.0.1:0")
            .fails("not in the registry"),
        indexed("an index leads to the image", |_| ()).pulls(),
        indexed("an index is for other machines", |it| {
            it["manifests"][0]["platform"] =
                json!({ "os": "plan9", "architecture": "vax", "variant": "\u{1b}[31m" });
        })
        .fails("plan9/vax"),
        indexed("an index is empty", |it| it["manifests"] = json!([])).fails("127.0.0.1:"),
        indexed("an index leads to a manifest that is not there", |it| {
            it["manifests"][0]["digest"] = json!(of_nothing(5))
        })
        .fails("not found"),
        indexed("an index has another size for the manifest", |it| {
            it["manifests"][0]["size"] = json!(7)
        })
        .fails("its index says 7"),
        indexed("an index calls the manifest an index", |it| {
            it["manifests"][0]["mediaType"] = json!(INDEX)
        })
        .fails("its media type is"),
        indexed("an index calls the manifest something else", |it| {
            it["manifests"][0]["mediaType"] = json!("text/html")
        })
        .fails("127.0.0.1:"),
        indexed("an index leads to a path", |it| {
            it["manifests"][0]["digest"] = json!("sha256:../../../etc/passwd")
        })
        .fails("127.0.0.1:"),
        indexed("an index has 20000 entries that are not there, and they are all wanted", |it| {
            let entry = |n| json!({ "mediaType": MANIFEST, "size": 1, "digest": of_nothing(n) });
            it["manifests"] = (0..20_000).map(entry).collect();
        })
        .options("--all-platforms")
        .fails("not found")
        .for_good(),
    ];
    for bad in [
        "",
        "x",
        "sha256:",
        "sha256:abc",
        "md5:d41d8cd98f00b204e9800998ecf8427e",
        "sha256:../../../../../etc/passwd",
        "SHA256:afc675f1df6bf9b65b403972195c32286686b0e4aded10c3e38762998768e092",
        "sha256:x/../y?z#",
        "sha256:afc675f1df6bf9b65b403972195c32286686b0e4aded10c3e38762998768e092\n",
        "sha512:00",
        "\u{1b}[31m",
    ] {
        faults.push(
            manifest(&format!("a layer's digest is {bad:?}"), move |it| {
                it["layers"][0]["digest"] = json!(bad)
            })
            .fails("127.0.0.1:"),
        );
    }
    for (story, depth, bound) in [("five", 5, true), ("twelve", 12, false)] {
        let mut documents = vec![Content::of_tests().manifest().to_vec()];
        for n in 0..depth {
            let last = documents.last().unwrap();
            let media_type = if n == 0 { MANIFEST } else { INDEX };
            let inner =
                json!({ "mediaType": media_type, "digest": digest(last), "size": last.len() });
            let outer = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [inner] });
            documents.push(outer.to_string().into());
        }
        let top = documents.last().unwrap().clone();
        let by_digest: BTreeMap<String, Vec<u8>> =
            documents.into_iter().map(|bytes| (digest(&bytes), bytes)).collect();
        let row =
            fault(format!("{story} indexes lead to each other")).registry(move |asked, scene| {
                match asked.manifest() {
                    Some("1") => document(&top),
                    Some(name) => by_digest.get(name).map_or(missing(), |bytes| document(bytes)),
                    None => scene.well(asked),
                }
            });
        faults.push(if bound { row.pulls() } else { row.fails("nest deeper than") });
    }
    faults
}

#[test]
fn a_manifest_is_read_strictly_or_not_at_all() {
    run_all(bodies());
}

#[test]
fn a_manifest_cannot_ask_for_what_is_not_right() {
    run_all(manifests());
}
