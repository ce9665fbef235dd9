//! Writes the corpus of hostile layers, layouts and archives to a directory: `cargo run -p tests --example corpus DIR`.
//!
//! ```text
//! layers/NAME.N   the blob of a layer
//! tars/NAME.N     the same, if it is a bare tar
//! layouts/NAME/   a layout              documents/NAME.N   its documents
//! archives/NAME   an archive
//! ```
//!
//! Fuzz targets begin with these. What lies outside of a layer's root is
//! `/tmp/bait` here; it need not exist.

use std::collections::HashSet;
use std::path::Path;

use sandbox::corpus::image::Node;
use sandbox::corpus::{Input, all};

/// The largest file that is of use to a fuzzer.
const LARGE: usize = 1 << 20;

fn main() {
    let Some(dir) = std::env::args_os().nth(1) else {
        eprintln!("usage: corpus DIR");
        std::process::exit(2);
    };
    let dir = Path::new(&dir);
    let write = |kind: &str, name: &str, bytes: &[u8]| {
        if bytes.len() <= LARGE {
            std::fs::create_dir_all(dir.join(kind)).unwrap();
            std::fs::write(dir.join(kind).join(name), bytes).unwrap();
        }
    };
    let mut names = HashSet::new();
    for case in all("tmp/bait") {
        let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '-' };
        let name: String = case.name.chars().map(plain).take(80).collect();
        assert!(names.insert(name.clone()), "two cases are called {name}");
        match case.input {
            Input::Layers(layers) => {
                for (i, layer) in layers.iter().enumerate() {
                    let kind =
                        if layer.blob.get(257..262) == Some(b"ustar") { "tars" } else { "layers" };
                    write(kind, &format!("{name}.{i}"), &layer.blob);
                }
            }
            Input::Layout(layout, _) => {
                let documents = layout.0.values().filter_map(|node| match node {
                    Node::File(bytes) if bytes.get(257..262) != Some(b"ustar") => Some(bytes),
                    _ => None,
                });
                for (i, bytes) in documents.take(16).enumerate() {
                    write("documents", &format!("{name}.{i}"), bytes);
                }
                if layout.0.len() < 100 {
                    layout.write(&dir.join("layouts").join(&name));
                }
            }
            Input::Archive(bytes) => write("archives", &name, &bytes),
        }
    }
}
