//! What came out of a build: a tree and a config, and how two of each differ.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use sandbox::Sandbox;
use sandbox::image::{read_json, sha256};
use serde_json::{Map, Value};

use super::builder::Builder;
use super::case::Case;

/// The members of a config that say how it runs. The others say who built it, and when.
const MEMBERS: [&str; 13] = [
    "User",
    "ExposedPorts",
    "Env",
    "Entrypoint",
    "Cmd",
    "Volumes",
    "WorkingDir",
    "Labels",
    "StopSignal",
    "Healthcheck",
    "OnBuild",
    "Shell",
    "StopTimeout",
];

/// The content of a file that is shown, rather than its digest.
const SHORT: usize = 300;

/// A tree: each path, and a line that says all of it but its times.
pub struct Tree(BTreeMap<String, String>);

impl Tree {
    /// Reads a directory of the sandbox.
    pub fn of(t: &Sandbox, name: &str) -> Tree {
        let root = t.path("work").join(name);
        let mut attributes = BTreeMap::<String, String>::new();
        let dump =
            t.sh(&format!("cd {name} && getfattr -R -h -d -m - -e hex . 2>/dev/null || :")).text();
        for one in dump.split("\n\n") {
            let mut lines = one.lines();
            let Some(path) = lines.next().and_then(|line| line.strip_prefix("# file: ")) else {
                continue;
            };
            let mut found: Vec<&str> =
                lines.filter(|line| !line.starts_with("trusted.overlay.")).collect();
            found.sort_unstable();
            if !found.is_empty() {
                attributes.insert(format!("/{path}"), format!(" [{}]", found.join(" ")));
            }
        }
        let mut tree = Tree(BTreeMap::new());
        let mut seen = BTreeMap::new();
        tree.walk(&root, "", &mut seen);
        for (path, found) in attributes {
            if let Some(line) = tree.0.get_mut(&path) {
                line.push_str(&found);
            }
        }
        tree
    }

    fn walk(&mut self, root: &Path, below: &str, seen: &mut BTreeMap<u64, String>) {
        let mut names: Vec<_> =
            fs::read_dir(root).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        for name in names {
            let path = root.join(&name);
            let shown = format!("{below}/{}", name.as_bytes().escape_ascii());
            let meta = fs::symlink_metadata(&path).unwrap();
            let kind = meta.file_type();
            let letter = match () {
                () if kind.is_dir() => 'd',
                () if kind.is_symlink() => 'l',
                () if kind.is_file() => '-',
                () if kind.is_fifo() => 'p',
                () if kind.is_char_device() => 'c',
                () if kind.is_block_device() => 'b',
                () => 's',
            };
            let mut line =
                format!("{letter}{:04o} {}:{}", meta.mode() & 0o7777, meta.uid(), meta.gid());
            if kind.is_symlink() {
                line += &format!(" -> {}", fs::read_link(&path).unwrap().display());
            } else if matches!(letter, 'c' | 'b') {
                line += &format!(" {}:{}", meta.rdev() >> 8, meta.rdev() & 0xff);
            } else if kind.is_file() && meta.len() > 0 {
                let first = seen.entry(meta.ino()).or_insert_with(|| shown.clone());
                match *first == shown {
                    true => line += &content(&fs::read(&path).unwrap()),
                    false => line += &format!(" = {first}"),
                }
            }
            if kind.is_dir() {
                self.walk(&path, &shown, seen);
            }
            self.0.insert(shown, line);
        }
    }

    /// Returns what is here and not in `base`, or is not as there, and what has gone.
    fn beyond(&self, base: &Tree) -> Vec<String> {
        let new = self.0.iter().filter(|(path, line)| base.0.get(*path) != Some(line));
        let mut lines: Vec<String> = new.map(|(path, line)| format!("{path}: {line}")).collect();
        let gone = base.0.keys().filter(|path| !self.0.contains_key(*path));
        lines.extend(gone.map(|path| format!("{path}: gone")));
        lines.sort();
        lines
    }
}

/// Shows what is in a file.
fn content(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) if text.len() <= SHORT => format!(" {text:?}"),
        _ => format!(" {}", sha256(bytes)),
    }
}

/// What a builder made.
pub struct Outcome {
    /// Beyond the base's.
    tree: Vec<String>,
    config: Map<String, Value>,
    /// Whether each entry of the history beyond the base's has a layer, and its wording.
    history: Vec<(bool, String)>,
}

impl Outcome {
    /// Reads an unpacked tree, and the config of the image in a layout.
    pub fn read(t: &Sandbox, base: &Tree, tree: &str, layout: &Path, builder: &str) -> Outcome {
        let index = read_json(&layout.join("index.json"));
        let named = index["manifests"].as_array().unwrap().iter().rfind(|desc| {
            let name = desc["annotations"]["org.opencontainers.image.ref.name"].as_str();
            name.is_some_and(|name| name.ends_with(&format!("/{builder}:latest")))
        });
        let blob = |digest: &Value| {
            read_json(&layout.join("blobs").join(digest.as_str().unwrap().replace(':', "/")))
        };
        let manifest = blob(&named.expect("the image has its name")["digest"]);
        let document = blob(&manifest["config"]["digest"]);

        let mut config = Map::new();
        for name in MEMBERS {
            let mut value = document["config"][name].clone();
            if let Some(labels) = value.as_object_mut() {
                labels.remove("io.buildah.version");
            }
            let empty = match &value {
                Value::Null => true,
                Value::String(text) => text.is_empty(),
                Value::Array(items) => items.is_empty(),
                Value::Object(items) => items.is_empty(),
                _ => false,
            };
            if !empty {
                config.insert(name.into(), value);
            }
        }
        for name in ["author", "architecture", "os", "variant"] {
            if document[name].as_str().is_some_and(|text| !text.is_empty()) {
                config.insert(name.into(), document[name].clone());
            }
        }
        let history = document["history"].as_array().into_iter().flatten().map(|entry| {
            let said = entry["created_by"].as_str().unwrap_or_default();
            (entry["empty_layer"] != true, said.to_owned())
        });
        let history = history.skip_while(|(_, said)| said == "a test").collect();
        Outcome { tree: Tree::of(t, tree).beyond(base), config, history }
    }

    /// Says how this differs from what the case demands.
    pub fn against_case(&self, case: &Case) -> String {
        let mut differs = String::new();
        if let Some(expected) = &case.tree {
            differs += &lines("the case", expected, &self.tree);
        }
        if let Some(Value::Object(expected)) = &case.config {
            for (name, value) in expected {
                let found = self.config.get(name).unwrap_or(&Value::Null);
                if found != value {
                    differs += &format!("  {name}: {found}\n    the case: {value}\n");
                }
            }
        }
        differs
    }

    /// Says how the history differs from what the case demands of it, word by word.
    pub fn history_against_case(&self, case: &Case) -> String {
        let Some(expected) = &case.history else { return String::new() };
        let found: Vec<String> = self
            .history
            .iter()
            .map(|(layer, said)| {
                format!("{} {}", if *layer { '+' } else { '-' }, said.escape_debug())
            })
            .collect();
        match *expected == found {
            true => String::new(),
            false => format!("  history: {found:#?}\n    the case: {expected:#?}\n"),
        }
    }

    /// Says how what `builder` made differs from ours.
    pub fn against(&self, ours: &Outcome, builder: Builder) -> String {
        let mut differs = lines("ours", &ours.tree, &self.tree);
        for name in MEMBERS.iter().chain(&["author", "architecture", "os", "variant"]) {
            let (a, b) = (ours.config.get(*name), self.config.get(*name));
            if a != b {
                let show = |value: Option<&Value>| value.map_or("-".into(), Value::to_string);
                differs += &format!("  {name}: {}\n    ours: {}\n", show(b), show(a));
            }
        }
        // buildah makes one layer of all.
        if builder == Builder::Docker && std::env::var_os("TARE_DEV_PEERS").is_none() {
            let layers = |outcome: &Outcome| -> Vec<bool> {
                outcome.history.iter().map(|(layer, _)| *layer).collect()
            };
            if layers(self) != layers(ours) {
                differs +=
                    &format!("  history: {:?}\n    ours: {:?}\n", self.history, ours.history);
            }
        }
        differs
    }
}

/// Says which lines only one of two has.
fn lines(whose: &str, theirs: &[String], found: &[String]) -> String {
    let only = |a: &[String], b: &[String], mark: &str| -> String {
        a.iter().filter(|line| !b.contains(line)).map(|line| format!("  {mark} {line}\n")).collect()
    };
    match (only(theirs, found, "-"), only(found, theirs, "+")) {
        (missing, more) if missing.is_empty() && more.is_empty() => String::new(),
        (missing, more) => format!("  (- {whose} alone)\n{missing}{more}"),
    }
}
