//! Documents that are right, in every order and with every ornament, and wrong in one thing each.

use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::*;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

fn desc(content: &[u8], media_type: &str) -> Value {
    let digest = Digest::of(content).to_string();
    json!({"mediaType": media_type, "digest": digest, "size": content.len()})
}

/// Writes the fields in an order that `seed` decides: JSON has none.
fn written(fields: &Map<String, Value>, seed: usize) -> Vec<u8> {
    let mut parts: Vec<String> =
        fields.iter().map(|(key, value)| format!("{}:{value}", json!(key))).collect();
    let count = parts.len().max(1);
    parts.rotate_left(seed % count);
    format!("{{{}}}", parts.join(" , ")).into_bytes()
}

prop_compose! {
    fn manifest()(
        layers in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..4), 0..5),
        ornaments in prop::collection::btree_map("x[a-z]{1,6}", "\\PC{0,6}", 0..3),
        says_its_type in any::<bool>(),
    ) -> (Map<String, Value>, Vec<Digest>) {
        let digests = layers.iter().map(|layer| Digest::of(layer)).collect();
        let layer = "application/vnd.oci.image.layer.v1.tar+gzip";
        let layers: Vec<Value> = layers.iter().map(|bytes| desc(bytes, layer)).collect();
        let mut fields = Map::new();
        fields.insert("schemaVersion".into(), json!(2));
        if says_its_type {
            fields.insert("mediaType".into(), json!(MANIFEST));
        }
        fields.insert("config".into(), desc(b"{}", "application/vnd.oci.image.config.v1+json"));
        fields.insert("layers".into(), layers.into());
        fields.insert("annotations".into(), json!(ornaments));
        fields.extend(ornaments.into_iter().map(|(key, value)| (key, value.into())));
        (fields, digests)
    }
}

#[test]
fn an_artifact_is_no_image() {
    let chosen = |artifact: &str| {
        let mut desc = desc(b"1", MANIFEST);
        desc["artifactType"] = json!(artifact);
        let bytes = json!({"schemaVersion": 2, "manifests": [desc]}).to_string();
        let Document::Index(index) = parse(bytes.as_bytes(), INDEX).unwrap() else { panic!() };
        select(&index, &"linux/amd64".parse().unwrap()).is_some()
    };
    assert!(!chosen("application/spdx+json"));
    // So does a registry call an image in its list of referrers.
    assert!(chosen("application/vnd.oci.image.config.v1+json"));
}

proptest! {
    #[test]
    fn a_manifest_is_read_in_any_order((fields, layers) in manifest(), seed in 0usize..9) {
        let bytes = written(&fields, seed);
        let Document::Manifest(manifest) = parse(&bytes, MANIFEST).unwrap() else { panic!() };
        let read: Vec<Digest> = manifest.layers().iter().map(|desc| digest(desc).unwrap()).collect();
        prop_assert_eq!(read, layers);
        prop_assert_eq!(media_type_of(&bytes).unwrap(), MANIFEST);
        let docker = parse(&bytes, DOCKER_MANIFEST);
        prop_assert_eq!(docker.is_ok(), !fields.contains_key("mediaType"));
    }

    /// CVE-2021-41190, and what else would let two readers see two images.
    #[test]
    fn a_manifest_with_one_thing_wrong_is_refused((fields, _) in manifest(), seed in 0usize..9, which in 0usize..8) {
        let mut fields = fields;
        match which {
            0 => drop(fields.insert("manifests".into(), json!([]))),
            1 => drop(fields.insert("schemaVersion".into(), json!(1))),
            2 => drop(fields.insert("schemaVersion".into(), json!("2"))),
            3 => drop(fields.remove("schemaVersion")),
            4 => drop(fields.insert("mediaType".into(), json!(INDEX))),
            5 => drop(fields.remove("config")),
            6 => drop(fields.insert("layers".into(), json!({}))),
            _ => drop(fields.insert("config".into(), json!([desc(b"", MANIFEST)]))),
        }
        prop_assert!(parse(&written(&fields, seed), MANIFEST).is_err());
        prop_assert!(parse(&written(&fields, seed), INDEX).is_err());
    }

    /// Cut anywhere, or with anything behind it, it is no document.
    #[test]
    fn a_document_is_whole_or_none((fields, _) in manifest(), cut in 1usize..400) {
        let bytes = written(&fields, 0);
        let end = bytes.len().saturating_sub(cut);
        prop_assert!(parse(&bytes[..end], MANIFEST).is_err());
        let longer = [&bytes[..], b"{}"].concat();
        prop_assert!(parse(&longer, MANIFEST).is_err());
    }

    /// Of an index the image that is just right is chosen, wherever it stands.
    #[test]
    fn the_right_platform_is_chosen(before in 0usize..4, behind in 0usize..4, others in prop::collection::vec("(arm64|s390x|riscv64|unknown)", 8)) {
        let entry = |architecture: &str, content: usize| {
            let mut desc = desc(&[content as u8], MANIFEST);
            desc["platform"] = json!({"os": "linux", "architecture": architecture});
            desc
        };
        let mut manifests: Vec<Value> =
            others.iter().enumerate().take(before + behind).map(|(at, other)| entry(other, at)).collect();
        manifests.insert(before.min(manifests.len()), entry("amd64", 99));
        let bytes = json!({"schemaVersion": 2, "manifests": manifests}).to_string();
        let Document::Index(index) = parse(bytes.as_bytes(), INDEX).unwrap() else { panic!() };
        let chosen = select(&index, &"linux/amd64".parse().unwrap()).unwrap();
        prop_assert_eq!(digest(chosen).unwrap(), Digest::of(&[99]));
        prop_assert!(select(&index, &"linux/ppc64le".parse().unwrap()).is_none());
    }

    /// A chain ID depends on all layers below, and on no layer above.
    #[test]
    fn a_chain_is_as_long_as_its_layers(contents in prop::collection::vec(any::<u8>(), 1..6), at in 0usize..6) {
        let ids: Vec<Digest> = contents.iter().map(|byte| Digest::of(&[*byte])).collect();
        let chain = chain_ids(&ids);
        let at = at % ids.len();
        prop_assert_eq!(&chain_ids(&ids[..=at]), &chain[..=at]);
        let mut other = ids.clone();
        other[at] = Digest::of(b"another");
        for (place, id) in chain_ids(&other).iter().enumerate() {
            prop_assert_eq!(*id == chain[place], place < at);
        }
    }
}

/// What encoding/json writes for a slice that is nil, and for a text that was not set.
#[test]
fn what_go_writes_for_nothing_is_nothing() {
    let config =
        r#"{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"DIGEST","size":2}"#;
    let config = config.replace("DIGEST", &Digest::of(b"{}").to_string());
    let manifest = |rest: &str| format!(r#"{{"schemaVersion":2,"config":{config},{rest}}}"#);
    for good in
        [r#""layers":null"#, r#""layers":[],"mediaType":"""#, r#""mediaType":"","layers":null"#]
    {
        let bytes = manifest(good).into_bytes();
        let Document::Manifest(read) = parse(&bytes, MANIFEST).unwrap() else { panic!("{good}") };
        assert!(read.layers().is_empty());
        assert_eq!(media_type_of(&bytes).unwrap(), MANIFEST);
    }
    for bad in [r#""layers":{}"#, r#""layers":null,"layers":[]"#, r#""layers":null,"Layers":[]"#] {
        assert!(parse(manifest(bad).as_bytes(), MANIFEST).is_err(), "{bad}");
    }
    let index = br#"{"schemaVersion":2,"mediaType":"","manifests":[]}"#;
    assert!(parse(index, INDEX).is_ok());
    assert_eq!(media_type_of(index).unwrap(), INDEX);

    let config =
        |rootfs: &str| format!(r#"{{"architecture":"amd64","os":"linux","rootfs":{rootfs}}}"#);
    let read = parse_config(config(r#"{"type":"layers","diff_ids":null}"#).as_bytes()).unwrap();
    assert!(read.rootfs().diff_ids().is_empty());
    for bad in [
        "null",
        r#"{"type":"layers","diff_ids":{}}"#,
        r#"{"type":"layers","diff_ids":["x"],"diff_ids":null}"#,
    ] {
        assert!(parse_config(config(bad).as_bytes()).is_err(), "{bad}");
    }
}
