//! Layouts: documents that mean two things, digests that are none, files that are something else.

use serde_json::{Value, json};

use super::Row::{Bounds, Confusion, Digests, Escapes, Fifos, Foreign, Json, Mismatch, Nesting};
use super::image::{
    HELLO, INDEX, LAYER, Layer, Layout, MANIFEST, Make, Node, blob, digest, empty, hello, index,
    make, whole,
};
use super::pack::{gzip, through};
use super::tar::tar;
use super::{Case, Row, case};
use crate::image::architecture;

/// More than a manifest, an index or a config may have.
const TOO_LARGE: usize = (4 << 20) + 1;

pub fn cases(bait: &str) -> Vec<Case> {
    let mut all = confusion();
    all.extend(digests(bait));
    all.extend(json());
    all.extend(nesting());
    all.extend(mismatch());
    all.extend(foreign());
    all.extend(bounds());
    all.extend(files(bait));
    all.extend(escapes());
    all
}

/// Returns the image of [`hello`], to be changed.
fn one() -> Make {
    make([hello()])
}

/// Returns a layout whose manifest is what `change` makes of the right one's text.
fn manifest(change: impl Fn(String) -> String + 'static) -> Layout {
    one().manifest(move |doc| change(doc.to_string()).into_bytes()).layout()
}

/// Returns a layout whose config is what `change` makes of the right one's text.
fn config(change: impl Fn(String) -> String + 'static) -> Layout {
    one().config(move |doc| change(doc.to_string()).into_bytes()).layout()
}

/// Returns a layout whose manifest is what `change` makes of the right one.
fn edited(change: impl Fn(&mut Value) + 'static) -> Layout {
    one()
        .manifest(move |mut doc| {
            change(&mut doc);
            doc.to_string().into_bytes()
        })
        .layout()
}

/// Returns a layout whose index.json is what `change` makes of the right one's text.
fn listed(change: impl Fn(String) -> String) -> Layout {
    let layout = whole();
    let Some(Node::File(bytes)) = layout.0.get("index.json") else { unreachable!() };
    let text = change(String::from_utf8(bytes.clone()).unwrap());
    layout.text("index.json", text)
}

/// Puts `more` into a JSON object, at its start.
fn at_start(text: &str, more: &str) -> String {
    text.replacen('{', &format!("{{{more},"), 1)
}

fn confusion() -> Vec<Case> {
    let is = |name: &str, layout: Layout| case(Confusion, name, layout);
    let described = |media_type: &'static str| {
        let mut layout = empty();
        let mut desc = one().put(&mut layout);
        desc["mediaType"] = json!(media_type);
        layout.name(&desc)
    };
    let docker = "application/vnd.docker.distribution.manifest.v2+json";
    vec![
        is(
            "a manifest that is an index as well",
            manifest(|text| at_start(&text, "\"manifests\":[]")),
        )
        .refused("both a manifest and an index"),
        is("an index that is a manifest as well", {
            let mut layout = empty();
            let desc = one().put(&mut layout);
            let mut both = index(&[desc]);
            both["layers"] = json!([]);
            let desc = layout.put(INDEX, both.to_string().as_bytes());
            layout.name(&desc)
        })
        .refused("both a manifest and an index"),
        is("an index that has a config", {
            let mut layout = empty();
            let desc = one().put(&mut layout);
            let mut both = index(std::slice::from_ref(&desc));
            both["config"] = desc;
            let desc = layout.put(INDEX, both.to_string().as_bytes());
            layout.name(&desc)
        })
        .refused("both a manifest and an index"),
        is("a manifest that is called an index", described(INDEX)).refused("its media type is"),
        is("a manifest that is called Docker's, and says it is not", described(docker))
            .refused("its media type is"),
        is("a manifest that is called a layer", described(LAYER)).refused("its media type is"),
        is("a manifest that says it is an index", edited(|doc| doc["mediaType"] = json!(INDEX)))
            .refused("its media type is"),
        is(
            "a manifest that does not say what it is",
            edited(|doc| {
                doc.as_object_mut().unwrap().remove("mediaType");
            }),
        )
        .accepted(HELLO),
        is("a manifest of schema 1", edited(|doc| doc["schemaVersion"] = json!(1)))
            .refused("a Docker schema 1 manifest"),
        is("a manifest of schema 3", edited(|doc| doc["schemaVersion"] = json!(3)))
            .refused("schemaVersion is not 2"),
        is("a manifest of schema \"2\"", edited(|doc| doc["schemaVersion"] = json!("2")))
            .refused("not a manifest"),
        is(
            "a manifest of schema 2.0",
            manifest(|text| text.replace("\"schemaVersion\":2", "\"schemaVersion\":2.0")),
        )
        .refused("not a manifest"),
        is(
            "a manifest of schema 4294967298",
            edited(|doc| doc["schemaVersion"] = json!(4_294_967_298u64)),
        )
        .refused("not a manifest"),
        is(
            "a manifest without a schema",
            edited(|doc| {
                doc.as_object_mut().unwrap().remove("schemaVersion");
            }),
        )
        .refused("schemaVersion is not 2"),
        is(
            "a manifest without a config",
            edited(|doc| {
                doc.as_object_mut().unwrap().remove("config");
            }),
        )
        .refused("not a manifest"),
        is(
            "a manifest without layers",
            edited(|doc| {
                doc.as_object_mut().unwrap().remove("layers");
            }),
        )
        .refused("not a manifest"),
        is("a config in place of a manifest", {
            let mut layout = empty();
            let desc = layout.put(MANIFEST, b"{\"architecture\":\"amd64\",\"os\":\"linux\"}");
            layout.name(&desc)
        })
        .refused("schemaVersion is not 2"),
        is("a layer in place of a config", {
            one()
                .manifest(|mut doc| {
                    let layer = doc["layers"][0].clone();
                    doc["config"]["digest"] = layer["digest"].clone();
                    doc["config"]["size"] = layer["size"].clone();
                    doc.to_string().into_bytes()
                })
                .layout()
        })
        .refused("not an image config"),
        is(
            "a config in place of a layer",
            edited(|doc| {
                let config = doc["config"].clone();
                doc["layers"][0] = config;
            }),
        )
        .refused("not a layer: its media type is"),
        is(
            "a layer that is encrypted",
            edited(|doc| {
                doc["layers"][0]["mediaType"] = json!(format!("{LAYER}+encrypted"));
            }),
        )
        .refused("not a layer: its media type is"),
        is("a layer of no media type", edited(|doc| doc["layers"][0]["mediaType"] = json!("")))
            .refused("not a layer: its media type is"),
        is(
            "an index.json of schema 1",
            listed(|text| text.replace("\"schemaVersion\":2", "\"schemaVersion\":1")),
        )
        .refused("schemaVersion is not 2"),
        is("an index.json that is a manifest", {
            let layout = whole();
            let Some(Node::File(index)) = layout.0.get("index.json") else { unreachable!() };
            let index: Value = serde_json::from_slice(index).unwrap();
            let at = blob(index["manifests"][0]["digest"].as_str().unwrap());
            let Some(Node::File(manifest)) = layout.0.get(&at).cloned() else { unreachable!() };
            layout.text("index.json", manifest)
        })
        .refused("not an index"),
        is("an index.json of another media type", listed(|text| text.replace(INDEX, MANIFEST)))
            .refused("media type"),
        is("an index.json with layers", listed(|text| at_start(&text, "\"layers\":[]")))
            .refused("both a manifest and an index"),
    ]
}

fn digests(bait: &str) -> Vec<Case> {
    // oci-spec finds some of them, and Digest the rest.
    let (value, a_digest) = ("Invalid encoded value", "digest");
    let bad: Vec<(&str, String, &str)> = vec![
        ("a path", "sha256:../../../../etc/passwd".into(), value),
        ("a path of the host", format!("sha256:/{bait}/secret"), value),
        ("a path and nothing else", "../../index.json".into(), a_digest),
        ("no digits", "sha256:".into(), "Empty algorithm value"),
        ("63 digits", format!("sha256:{}", "a".repeat(63)), a_digest),
        ("65 digits", format!("sha256:{}", "a".repeat(65)), a_digest),
        ("capitals", format!("sha256:{}", "A".repeat(64)), a_digest),
        ("no hexadecimal digits", format!("sha256:{}", "g".repeat(64)), a_digest),
        ("another algorithm", "md5:d41d8cd98f00b204e9800998ecf8427e".into(), a_digest),
        (
            "an algorithm that is a path",
            format!("../sha256:{}", "a".repeat(64)),
            "Empty algorithm component",
        ),
        ("a NUL", format!("sha256:{}\0", "a".repeat(64)), value),
        ("a line end", format!("sha256:{}\n", "a".repeat(64)), value),
        ("an empty string", String::new(), a_digest),
        ("a URL", "https://127.0.0.1/x".into(), value),
        ("sequences for a terminal", "sha256:\x1b[2J".into(), value),
    ];
    let part = "digest";
    let mut all = Vec::new();
    for (what, bad, part) in bad {
        let text = bad.clone();
        all.push(
            case(
                Digests,
                format!("a layer's digest that is {what}"),
                edited(move |doc| {
                    doc["layers"][0]["digest"] = json!(text);
                }),
            )
            .refused(part),
        );
        let mut layout = whole();
        let desc = json!({ "mediaType": MANIFEST, "digest": bad, "size": 100 });
        layout = layout.name(&desc);
        all.push(
            case(Digests, format!("a manifest's digest that is {what}"), layout).refused(part),
        );
    }
    let bad = |value: Value| edited(move |doc| doc["config"]["digest"] = value.clone());
    let diff_id = |value: Value| {
        one()
            .config(move |mut doc| {
                doc["rootfs"]["diff_ids"][0] = value.clone();
                doc.to_string().into_bytes()
            })
            .layout()
    };
    all.extend([
        case(Digests, "a config's digest that is a path", bad(json!("sha256:../../index.json")))
            .refused(value),
        case(Digests, "a config's digest that is a number", bad(json!(5)))
            .refused("not a manifest"),
        case(Digests, "a config's digest that is nothing", bad(Value::Null))
            .refused("not a manifest"),
        case(Digests, "a diff ID that is a path", diff_id(json!("sha256:../../x"))).refused(part),
        case(Digests, "a diff ID that is empty", diff_id(json!(""))).refused(part),
        case(Digests, "blobs that are named by SHA-512", {
            let mut layout = empty();
            let desc = one().put(&mut layout);
            let at = blob(desc["digest"].as_str().unwrap());
            let Some(Node::File(bytes)) = layout.0.remove(&at) else { unreachable!() };
            let sum = String::from_utf8(through(&["sha512sum"], &bytes)).unwrap();
            let long = format!("sha512:{}", &sum[..128]);
            layout = layout.text(&blob(&long), &bytes);
            let desc = json!({ "mediaType": MANIFEST, "digest": long, "size": bytes.len() });
            layout.name(&desc)
        })
        .accepted(HELLO),
    ]);
    all
}

fn json() -> Vec<Case> {
    let deep = |open: &str, close: &str| format!("{}{}", open.repeat(10_000), close.repeat(10_000));
    let is = |name: &str, layout: Layout| case(Json, name, layout);
    let extra = |value: String| move |text: String| at_start(&text, &format!("\"x\":{value}"));
    let twice = |key: &str, value: &str| {
        let pair = format!("\"{key}\":{value}");
        move |text: String| at_start(&text, &pair)
    };
    vec![
        is("a manifest with two lists of layers", manifest(twice("layers", "[]")))
            .refused("duplicate field"),
        is("a manifest with two configs", manifest(twice("config", "{}")))
            .refused("duplicate field"),
        is("a manifest with two schemas", manifest(twice("schemaVersion", "2")))
            .refused("duplicate field"),
        is("a manifest with two media types", manifest(twice("mediaType", "\"x\"")))
            .refused("duplicate field"),
        is(
            "a manifest with two lists of layers, one in other letters",
            manifest(twice("Layers", "[]")),
        )
        .refused("duplicate field"),
        is("a manifest with a field in other letters", manifest(twice("LAYERS", "5")))
            .refused("duplicate field"),
        is(
            "a config with two root file systems",
            config(twice("rootfs", "{\"type\":\"layers\",\"diff_ids\":[]}")),
        )
        .refused("duplicate field"),
        is("an index.json with two lists", listed(twice("manifests", "[]"))).refused("duplicate"),
        is("an index.json with two schemas", listed(twice("schemaVersion", "1")))
            .refused("duplicate"),
        is("an index.json with a list in other letters", listed(twice("Manifests", "[]")))
            .refused("duplicate field"),
        is(
            "a descriptor with two digests",
            listed(|text| text.replacen("\"digest\":", "\"digest\":\"sha256:00\",\"digest\":", 1)),
        )
        .refused("duplicate field"),
        is("something behind a manifest", manifest(|text| format!("{text}{{}}")))
            .refused("trailing characters"),
        is("something behind a config", config(|text| format!("{text} x")))
            .refused("trailing characters"),
        is("something behind an index.json", listed(|text| format!("{text}[]")))
            .refused("trailing characters"),
        is("blanks behind a manifest", manifest(|text| format!("\n\t {text} \r\n")))
            .accepted(HELLO),
        is("a manifest with 10000 lists in lists", manifest(extra(deep("[", "]")))).accepted(HELLO),
        is(
            "a manifest with 10000 objects in objects",
            manifest(extra(deep("{\"a\":", "}").replacen("{\"a\":}", "{\"a\":1}", 1))),
        )
        .accepted(HELLO),
        is("a manifest of 10000 lists that do not end", manifest(extra("[".repeat(10_000))))
            .refused("not a manifest"),
        is(
            "annotations that nest",
            manifest(|text| {
                at_start(&text, &format!("\"annotations\":{}", "{\"a\":".repeat(10_000)))
            }),
        )
        .refused("not a manifest"),
        is("a config with 10000 lists in lists", config(extra(deep("[", "]")))).accepted(HELLO),
        is("an index.json with 10000 lists in lists", listed(extra(deep("[", "]"))))
            .accepted(HELLO),
        is("an index.json of 10000 lists", whole().text("index.json", deep("[", "]")))
            .refused("not an index"),
        is(
            "a size of 10^30",
            manifest(|text| {
                text.replacen("\"size\":", "\"size\":1000000000000000000000000000000,\"x\":", 1)
            }),
        )
        .refused("not a manifest"),
        is("a size of -1", manifest(|text| text.replacen("\"size\":", "\"size\":-1,\"x\":", 1)))
            .refused("not a manifest"),
        is("a size of 1e3", manifest(|text| text.replacen("\"size\":", "\"size\":1e3,\"x\":", 1)))
            .refused("not a manifest"),
        is(
            "a size of 2^64",
            manifest(|text| text.replacen("\"size\":", "\"size\":18446744073709551616,\"x\":", 1)),
        )
        .refused("not a manifest"),
        is("a mark of byte order", manifest(|text| format!("\u{feff}{text}")))
            .refused("not a manifest"),
        is(
            "a manifest that is not UTF-8",
            one()
                .manifest(|doc| {
                    let text = at_start(&doc.to_string(), "\"annotations\":{\"a\":\"?\"}");
                    text.into_bytes()
                        .into_iter()
                        .map(|byte| if byte == b'?' { 0xff } else { byte })
                        .collect()
                })
                .layout(),
        )
        .refused("not a manifest"),
        is(
            "a half of a pair in a string",
            manifest(|text| at_start(&text, r#""annotations":{"a":"\ud800"}"#)),
        )
        .refused("not a manifest"),
        is(
            "a manifest in UTF-16",
            one()
                .manifest(|doc| doc.to_string().encode_utf16().flat_map(u16::to_le_bytes).collect())
                .layout(),
        )
        .refused("not a manifest"),
        is("a manifest that is a list", manifest(|text| format!("[{text}]")))
            .refused("not a manifest"),
        is("a manifest that is null", manifest(|_| "null".into())).refused("not a manifest"),
        is("a manifest that is nothing", manifest(|_| String::new())).refused("not a manifest"),
        is("a manifest with a comment", manifest(|text| format!("/* x */{text}")))
            .refused("not a manifest"),
        is("a manifest with one comma too many", manifest(|text| text.replacen('}', ",}", 1)))
            .refused("not a manifest"),
        // As Go writes an empty list: here the config has a layer.
        is("layers that are null", edited(|doc| doc["layers"] = Value::Null))
            .refused("corrupt: its manifest has 0 layers, its config 1"),
        is("a layer that is null", edited(|doc| doc["layers"][0] = Value::Null))
            .refused("not a manifest"),
        is(
            "a key that is escaped",
            manifest(|text| text.replace("\"layers\"", "\"\\u006cayers\"")),
        )
        .accepted(HELLO),
    ]
}

fn nesting() -> Vec<Case> {
    let is = |name: &str, layout: Layout| case(Nesting, name, layout);
    // Returns a layout of `depth` indexes, each of `width` times the next, and the image in the last.
    let nested = |depth: usize, width: usize| {
        let mut layout = empty();
        let mut desc = one().put(&mut layout);
        desc["platform"] = json!({ "os": "linux", "architecture": architecture() });
        for _ in 0..depth {
            desc = layout.put(INDEX, index(&vec![desc; width]).to_string().as_bytes());
            desc["platform"] = json!({ "os": "linux", "architecture": architecture() });
        }
        layout.name(&desc)
    };
    let other = {
        let mut layout = empty();
        let mut desc = one().put(&mut layout);
        desc["platform"] = json!({ "os": "plan9", "architecture": "mips" });
        let desc = layout.put(INDEX, index(&[desc]).to_string().as_bytes());
        layout.name(&desc)
    };
    vec![
        is("an image in an index", nested(1, 1)).accepted(HELLO),
        is("an image in seven indexes", nested(7, 1)).accepted(HELLO),
        is("an image in eight indexes", nested(8, 1)).refused("nest deeper than 8"),
        is("an image in a thousand indexes", nested(1000, 1)).refused("nest deeper than 8"),
        // 200^7 ways lead to the image.
        is("seven indexes of 200 members each", nested(7, 200)).accepted(HELLO),
        is("an index without members", {
            let mut layout = empty();
            let desc = layout.put(INDEX, index(&[]).to_string().as_bytes());
            layout.name(&desc)
        })
        .refused("no image for linux/"),
        is("an index for other platforms", other).refused("no image for linux/"),
        is("an index that says its size is another's", {
            let mut layout = empty();
            let desc = one().put(&mut layout);
            let mut desc = layout.put(INDEX, index(&[desc]).to_string().as_bytes());
            desc["size"] = json!(10);
            layout.name(&desc)
        })
        .refused("its descriptor says 10"),
        is("an index with a member that is not there", {
            let mut layout = empty();
            let desc = json!({ "mediaType": MANIFEST, "digest": digest(b"nothing"), "size": 7 });
            let desc = layout.put(INDEX, index(&[desc]).to_string().as_bytes());
            layout.name(&desc)
        })
        .refused("not in the layout"),
        is("1000 layers", make(vec![Layer::from(tar().file("hello", "hi")); 1_000]).layout())
            .accepted(HELLO),
        is("10000 layers", make(vec![Layer::from(tar().file("hello", "hi")); 10_000]).layout())
            .refused("more than the 1000 layers that an image may have"),
        is("10000 names of one image", {
            let mut layout = empty();
            let desc = one().put(&mut layout);
            let names: Vec<String> = (0..10_000).map(|i| format!("app:{i}")).collect();
            let all: Vec<(&str, Value)> =
                names.iter().map(|name| (&name[..], desc.clone())).collect();
            layout.names(&all)
        })
        .refused("which image?"),
    ]
}

fn mismatch() -> Vec<Case> {
    let is = |name: &str, layout: Layout| case(Mismatch, name, layout);
    let sized = |key: &'static str, by: i64| {
        edited(move |doc| {
            let desc = if key == "layers" { &mut doc["layers"][0] } else { &mut doc[key] };
            desc["size"] = json!(desc["size"].as_i64().unwrap() + by);
        })
    };
    // Replaces the blob of what `find` leads to.
    let replaced = |find: fn(&Layout) -> String, bytes: &[u8]| {
        let layout = whole();
        let at = find(&layout);
        assert!(layout.0.contains_key(&at));
        layout.text(&at, bytes)
    };
    fn document(layout: &Layout, at: &str) -> Value {
        let Some(Node::File(bytes)) = layout.0.get(at) else { unreachable!() };
        serde_json::from_slice(bytes).unwrap()
    }
    fn manifest_of(layout: &Layout) -> String {
        blob(document(layout, "index.json")["manifests"][0]["digest"].as_str().unwrap())
    }
    fn config_of(layout: &Layout) -> String {
        blob(document(layout, &manifest_of(layout))["config"]["digest"].as_str().unwrap())
    }
    fn layer_of(layout: &Layout) -> String {
        blob(document(layout, &manifest_of(layout))["layers"][0]["digest"].as_str().unwrap())
    }
    let other = tar().file("hello", "no").end();
    let diff_ids = |change: fn(&mut Vec<Value>)| {
        one()
            .config(move |mut doc| {
                change(doc["rootfs"]["diff_ids"].as_array_mut().unwrap());
                doc.to_string().into_bytes()
            })
            .layout()
    };
    let packed = {
        let (right, wrong) = (tar().file("hello", "hi").end(), tar().file("evil", "x").end());
        Layer::packed(gzip(&wrong), &right)
    };
    vec![
        is("a layer of other bytes", replaced(layer_of, &other)).refused("corrupt: it hashes to"),
        is("a layer that is shorter", replaced(layer_of, &other[..512]))
            .refused("its descriptor says"),
        is("a layer that is longer", replaced(layer_of, &[&other[..], b"x"].concat()))
            .refused("its descriptor says"),
        is("a layer that is empty", replaced(layer_of, b"")).refused("its descriptor says"),
        is("a manifest of other bytes", {
            let layout = whole();
            let at = manifest_of(&layout);
            let mut bytes = document(&layout, &at).to_string().into_bytes();
            let last = bytes.len() - 1;
            bytes[last] = b' ';
            layout.text(&at, bytes)
        })
        .refused("corrupt: it hashes to"),
        is("a config of other bytes", {
            let layout = whole();
            let at = config_of(&layout);
            let text = document(&layout, &at).to_string().replace("PATH=/bin", "PATH=/bad");
            layout.text(&at, text)
        })
        .refused("corrupt: it hashes to"),
        is("a layer's size that is too large", sized("layers", 1)).refused("its descriptor says"),
        is("a layer's size that is too small", sized("layers", -1)).refused("its descriptor says"),
        is("a config's size that is too large", sized("config", 1)).refused("its descriptor says"),
        is("a diff ID of another tar", diff_ids(|ids| ids[0] = json!(digest(b"other"))))
            .refused("its diff ID is"),
        is("a packed layer of another tar", make([packed]).layout()).refused("its diff ID is"),
        is("one diff ID too many", diff_ids(|ids| ids.push(json!(digest(b"more")))))
            .refused("its manifest has 1 layers, its config 2"),
        is("no diff IDs", diff_ids(Vec::clear)).refused("its manifest has 1 layers, its config 0"),
        is("the second of two layers of other bytes", {
            let second = Layer::from(tar().file("evil", "x"));
            let at = blob(&second.diff_id);
            make([hello(), second]).layout().text(&at, tar().file("evil", "y").end())
        })
        .refused("corrupt: it hashes to"),
        is("a layer that is not there", {
            let layout = whole();
            let at = layer_of(&layout);
            layout.without(&at)
        })
        .refused("not in the layout"),
        is("a config that is not there", {
            let layout = whole();
            let at = config_of(&layout);
            layout.without(&at)
        })
        .refused("not in the layout"),
        is("no oci-layout", whole().without("oci-layout")).refused("not an image layout"),
        is(
            "an oci-layout of another version",
            whole().text("oci-layout", r#"{"imageLayoutVersion":"2.0.0"}"#),
        )
        .refused("an image layout of version \"2.0.0\""),
        is("an oci-layout without a version", whole().text("oci-layout", "{}"))
            .refused("not an image layout"),
        is("an empty oci-layout", whole().text("oci-layout", "")).refused("not an image layout"),
        is("no index.json", whole().without("index.json")).refused("No such file"),
        is("an index.json without images", whole().names(&[])).refused("a layout without images"),
        is("a config for another platform", config(|text| text.replace(architecture(), "s390x")))
            .accepted(HELLO),
        is("an image without layers", make([]).layout()).accepted(""),
    ]
}

fn foreign() -> Vec<Case> {
    let kind = "application/vnd.oci.image.layer.nondistributable.v1.tar";
    let urls = json!(["http://127.0.0.1:9/x", "file:///etc/passwd", "http://169.254.169.254/"]);
    let with_urls = {
        let urls = urls.clone();
        edited(move |doc| {
            doc["layers"][0]["mediaType"] = json!(kind);
            doc["layers"][0]["urls"] = urls.clone();
        })
    };
    let absent = |layout: Layout| layout.without(&blob(&hello().diff_id));
    let data = |text: &'static str| edited(move |doc| doc["layers"][0]["data"] = json!(text));
    vec![
        case(Foreign, "a layer from elsewhere that is here", with_urls.clone()).accepted(HELLO),
        case(Foreign, "a layer from elsewhere that is not here", absent(with_urls))
            .refused("not in the layout"),
        case(
            Foreign,
            "a layer with addresses",
            absent(edited(move |doc| doc["layers"][0]["urls"] = urls.clone())),
        )
        .refused("not in the layout"),
        case(Foreign, "data in a descriptor that is not the blob's", data("ZXZpbA=="))
            .accepted(HELLO),
        case(Foreign, "data in a descriptor that is no base 64", data("\x1b[31m")).accepted(HELLO),
        case(Foreign, "data in a descriptor, and no blob", absent(data("ZXZpbA==")))
            .refused("not in the layout"),
    ]
}

fn bounds() -> Vec<Case> {
    let is = |name: &str, layout: Layout| case(Bounds, name, layout);
    let large = |media_type: &'static str| {
        let mut layout = empty();
        let mut bytes = b"{\"schemaVersion\":2}".to_vec();
        bytes.resize(TOO_LARGE, b' ');
        let desc = layout.put(media_type, &bytes);
        layout.name(&desc)
    };
    let padded = |size: usize| {
        one()
            .manifest(move |doc| {
                let mut bytes = doc.to_string().into_bytes();
                bytes.resize(size, b' ');
                bytes
            })
            .layout()
    };
    let many = "of more than 4194304 bytes";
    vec![
        is("a manifest of 4 MiB", padded(4 << 20)).accepted(HELLO),
        is("a manifest of more than 4 MiB", padded(TOO_LARGE)).refused(many),
        is("an index of more than 4 MiB", large(INDEX)).refused(many),
        is(
            "a config of more than 4 MiB",
            one()
                .config(|doc| {
                    let mut bytes = doc.to_string().into_bytes();
                    bytes.resize(TOO_LARGE, b' ');
                    bytes
                })
                .layout(),
        )
        .refused(many),
        is("a manifest that says it has 2^63 bytes", {
            let mut layout = empty();
            let mut desc = one().put(&mut layout);
            desc["size"] = json!(i64::MAX);
            layout.name(&desc)
        })
        .refused(many),
        is(
            "a layer that says it has 2^63 bytes",
            edited(|doc| doc["layers"][0]["size"] = json!(i64::MAX)),
        )
        .refused("its descriptor says"),
        is(
            "a config that says it has 2^63 bytes",
            edited(|doc| doc["config"]["size"] = json!(i64::MAX)),
        )
        .refused(many),
        is("an index.json of a tebibyte", whole().with("index.json", Node::Sparse(1 << 40)))
            .refused("larger than"),
        is("an oci-layout of a tebibyte", whole().with("oci-layout", Node::Sparse(1 << 40)))
            .refused("larger than 4096 bytes"),
        is("a layer's blob of a tebibyte", {
            let layout = whole();
            layout.with(&blob(&hello().diff_id), Node::Sparse(1 << 40))
        })
        .refused("its descriptor says"),
        is(
            "a config with a million variables",
            config(|text| {
                text.replace(
                    "\"PATH=/bin\"",
                    &format!("\"PATH=/bin\"{}", ",\"\"".repeat(1_000_000)),
                )
            }),
        )
        .accepted(HELLO)
        .memory(128),
        is(
            "a manifest with a million annotations that are one",
            manifest(|text| {
                at_start(
                    &text,
                    &format!("\"annotations\":{{{}\"a\":\"\"}}", "\"a\":\"\",".repeat(400_000)),
                )
            }),
        )
        .accepted(HELLO),
    ]
}

fn files(bait: &str) -> Vec<Case> {
    let is = |row: Row, name: &str, layout: Layout| case(row, name, layout);
    let at = format!("/{bait}");
    let layer = || blob(&hello().diff_id);
    let leaves = "a symlink that leaves the layout";
    let links = Row::ArchiveLinks;
    let moved = |to: &str| {
        // A blob that is somewhere else in the layout.
        let mut layout = whole();
        let Some(bytes) = layout.0.remove(&layer()) else { unreachable!() };
        layout.with("elsewhere/blob", bytes).with(&layer(), Node::Symlink(to.into()))
    };
    let without_blobs = || {
        let mut layout = whole();
        layout.0.retain(|path, _| !path.starts_with("blobs/"));
        layout
    };
    vec![
        is(
            links,
            "a blob that is a link to the host",
            whole().with(&layer(), Node::Symlink(format!("{at}/secret"))),
        )
        .refused(leaves),
        is(
            links,
            "a blob that is a link that climbs",
            whole().with(&layer(), Node::Symlink(format!("{}{bait}/secret", "../".repeat(10)))),
        )
        .refused(leaves),
        is(
            links,
            "a blob that is a link to a device",
            whole().with(&layer(), Node::Symlink("/dev/zero".into())),
        )
        .refused(leaves),
        is(
            links,
            "a blob that is a link to /proc/self/fd/0",
            whole().with(&layer(), Node::Symlink("/proc/self/fd/0".into())),
        )
        .refused("blob"),
        is(links, "a blob that is a link within the layout", moved("../../elsewhere/blob"))
            .accepted(HELLO),
        is(
            links,
            "a blob that is a link to itself",
            whole().with(&layer(), Node::Symlink(hello().diff_id[7..].into())),
        )
        .refused("Too many levels"),
        is(
            links,
            "blobs that are a link to the host",
            without_blobs().with("blobs", Node::Symlink(at.clone())),
        )
        .refused(leaves),
        is(
            links,
            "an algorithm that is a link to the host",
            without_blobs().with("blobs/sha256", Node::Symlink(format!("{at}/dir"))),
        )
        .refused(leaves),
        is(
            links,
            "an index.json that is a link to the host",
            whole().with("index.json", Node::Symlink(format!("{at}/index.json"))),
        )
        .refused("leaves the layout"),
        is(
            links,
            "an oci-layout that is a link to the host",
            whole().with("oci-layout", Node::Symlink(format!("{at}/oci-layout"))),
        )
        .refused("leaves the layout"),
        is(links, "an index.json that is a link within the layout", {
            let mut layout = whole();
            let Some(bytes) = layout.0.remove("index.json") else { unreachable!() };
            layout.with("other.json", bytes).with("index.json", Node::Symlink("other.json".into()))
        })
        .accepted(HELLO),
        is(Fifos, "a blob that is a FIFO", whole().with(&layer(), Node::Fifo))
            .refused("not a regular file"),
        is(Fifos, "a blob that is a directory", whole().with(&layer(), Node::Dir))
            .refused("not a regular file"),
        is(Fifos, "an index.json that is a FIFO", whole().with("index.json", Node::Fifo))
            .refused("not a regular file"),
        is(Fifos, "an index.json that is a directory", whole().with("index.json", Node::Dir))
            .refused("not a regular file"),
        is(
            Fifos,
            "an index.json that is a link to endless zeros",
            whole().with("index.json", Node::Symlink("/dev/zero".into())),
        )
        .refused("index.json"),
        is(Fifos, "an oci-layout that is a FIFO", whole().with("oci-layout", Node::Fifo))
            .refused("not a regular file"),
        is(
            Fifos,
            "an oci-layout that is a link to endless zeros",
            whole().with("oci-layout", Node::Symlink("/dev/zero".into())),
        )
        .refused("oci-layout"),
        is(Fifos, "blobs that are a FIFO", without_blobs().with("blobs", Node::Fifo))
            .refused("Not a directory"),
        is(Fifos, "blobs that are a file", without_blobs().text("blobs", "x"))
            .refused("Not a directory"),
    ]
}

fn escapes() -> Vec<Case> {
    let loud = "\x1b[31m\x1b]0;owned\x07\u{202e}\u{9b}2J\r";
    let shown = r"\u{1b}[31m";
    let is = |name: &str, layout: Layout| case(Escapes, name, layout);
    let twice = |name: &str| {
        let mut layout = empty();
        let desc = one().put(&mut layout);
        layout.names(&[(name, desc.clone()), ("other", desc)])
    };
    vec![
        is("a name in an index.json that would drive a terminal", twice(loud)).refused(""),
        is(
            "a media type that would drive a terminal",
            edited(move |doc| doc["layers"][0]["mediaType"] = json!(loud)),
        )
        .refused(shown),
        is("a platform that would drive a terminal", {
            let mut layout = empty();
            let mut desc = one().put(&mut layout);
            desc["platform"] = json!({ "os": loud, "architecture": loud });
            let desc = layout.put(INDEX, index(&[desc]).to_string().as_bytes());
            layout.name(&desc)
        })
        .refused("no image for linux/"),
        is(
            "a version that would drive a terminal",
            whole().text("oci-layout", json!({ "imageLayoutVersion": loud }).to_string()),
        )
        .refused("1b"),
        is(
            "a field that would drive a terminal",
            manifest(move |text| {
                text.replace(
                    "\"mediaType\":\"application/vnd.oci.image.config",
                    &format!("{}:1,\"mediaType\":5,\"x\":\"", json!(loud)),
                )
            }),
        )
        .refused("not a manifest"),
        is(
            "a config's media type that would drive a terminal",
            edited(move |doc| doc["config"]["mediaType"] = json!(loud)),
        )
        .accepted(HELLO),
    ]
}
