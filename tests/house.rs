//! The rules of the house: what may depend on what, and where `unsafe` and HTTP may be.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use sandbox::{program_names, target_dir, workspace};

/// The tools that speak HTTP: to a registry, or for ADD.
const NETWORK: [&str; 5] = ["img-build", "img-login", "img-pull", "img-push", "img-serve"];

/// Crates of HTTP, TLS and what they bring: only in tools that speak to a registry.
const HTTP: [&str; 10] = [
    "h2",
    "hyper",
    "hyper-util",
    "reqwest",
    "ring",
    "rustls",
    "rustls-webpki",
    "tokio",
    "tokio-rustls",
    "webpki-roots",
];

/// Crates that nothing here may use: a second TLS, what needs cmake or a system's
/// library to build, and what has no place in programs that start in half a millisecond.
const BANNED: [&str; 14] = [
    "async-std",
    "aws-lc-rs",
    "aws-lc-sys",
    "chrono",
    "criterion",
    "git2",
    "libz-ng-sys",
    "libz-sys",
    "miniz_oxide",
    "native-tls",
    "oci-client",
    "openssl",
    "openssl-sys",
    "tracing-subscriber",
];

/// The licences of what we link, each compatible with ours.
const LICENCES: [&str; 12] = [
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "CC0-1.0",
    "CDLA-Permissive-2.0",
    "ISC",
    "MIT",
    "Unicode-3.0",
    "Zlib",
    "bzip2-1.0.6",
];

fn cargo(args: &[&str]) -> String {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(args).args(["--offline", "--locked"]).current_dir(workspace());
    let out = command.output().unwrap();
    assert!(out.status.success(), "{command:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

/// Returns the names of the crates that are linked into `tool`, and their licences.
fn linked(tool: &str) -> BTreeMap<String, String> {
    let args = ["tree", "-p", tool, "-e", "normal,no-proc-macro", "--prefix", "none"];
    let tree = cargo(&[&args[..], &["--format", "{p}\t{l}"]].concat());
    let crates = tree.lines().filter_map(|line| {
        let (package, licence) = line.split_once('\t')?;
        Some((package.split(' ').next()?.to_owned(), licence.trim_end_matches(" (*)").to_owned()))
    });
    crates.collect()
}

#[test]
fn only_tools_that_speak_to_a_registry_link_http_and_tls() {
    for tool in program_names() {
        if NETWORK.contains(&tool.as_str()) {
            continue;
        }
        let linked = linked(&tool);
        let found: Vec<_> = HTTP.iter().filter(|name| linked.contains_key(**name)).collect();
        assert!(found.is_empty(), "{tool} links {found:?}");
    }
}

#[test]
fn no_tool_links_what_is_banned() {
    for tool in program_names() {
        let linked = linked(&tool);
        let found: Vec<_> = BANNED.iter().filter(|name| linked.contains_key(**name)).collect();
        assert!(found.is_empty(), "{tool} links {found:?}");
    }
}

#[test]
fn a_tool_depends_on_no_tool() {
    let tools = program_names();
    for tool in &tools {
        let linked = linked(tool);
        let found: Vec<_> =
            tools.iter().filter(|t| *t != tool && linked.contains_key(*t)).collect();
        assert!(found.is_empty(), "{tool} depends on {found:?}");
    }
}

#[test]
fn the_programs_hold_no_http_and_no_tls() {
    // Text that these crates put into every program that uses them.
    let traces: [&[u8]; 3] = [b"rustls::", b"BEGIN CERTIFICATE", b"www-authenticate"];
    for tool in program_names().into_iter().filter(|tool| !NETWORK.contains(&tool.as_str())) {
        let loaded = loaded(&target_dir().join(&tool));
        for trace in traces {
            let found = loaded.windows(trace.len()).any(|bytes| bytes == trace);
            assert!(!found, "{tool} holds {:?}", String::from_utf8_lossy(trace));
        }
    }
}

#[test]
fn the_programs_are_one_file_each() {
    // A program interpreter is what a dynamic program needs first (elf(5), PT_INTERP).
    for tool in program_names() {
        let out = Command::new("ldd").arg(target_dir().join(&tool)).output().unwrap();
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        assert!(!text.contains("=>"), "{tool} needs {text}");
    }
}

/// Returns what of a program is loaded to run it: not its debug information.
fn loaded(program: &Path) -> Vec<u8> {
    let scratch = tempfile::NamedTempFile::new().unwrap();
    let mut strip = Command::new("strip");
    strip.arg("-o").arg(scratch.path()).arg(program);
    assert!(strip.status().expect("strip (Debian: binutils)").success());
    fs::read(scratch.path()).unwrap()
}

#[test]
fn every_licence_is_one_that_we_may_ship() {
    let allowed = |one: &str| LICENCES.contains(&one.trim_matches(['(', ')', ' ']));
    // Every licence that AND joins, and of those that OR joins, one. "A/B" is the old way to say OR.
    let fine = |licence: &str| {
        let licence = licence.replace('/', " OR ");
        licence.split(" AND ").all(|choice| choice.split(" OR ").any(allowed))
    };
    for tool in program_names() {
        for (name, licence) in linked(&tool) {
            assert!(fine(&licence), "{tool} links {name}: {licence:?}");
        }
    }
}

/// Returns the source files of the programs, and what is in them.
fn sources() -> Vec<(PathBuf, String)> {
    sources_in(&["common", "tools"])
}

fn sources_in(dirs: &[&str]) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut dirs: Vec<PathBuf> = dirs.iter().map(|dir| workspace().join(dir)).collect();
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                dirs.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                found.push((path.strip_prefix(workspace()).unwrap().into(), text));
            }
        }
    }
    found
}

/// Returns the files in which a line of code holds `word`.
fn with(word: &str) -> Vec<PathBuf> {
    let code = |text: &str| {
        let lines = text.lines().map(|line| line.split("//").next().unwrap());
        lines.into_iter().any(|line| line.contains(word))
    };
    let found = sources().into_iter().filter(|(_, text)| code(text));
    found.map(|(path, _)| path).collect()
}

/// A tier is told by a part of a test's path, so `other_faults::` would be in the tier `faults`, and not in ours.
#[test]
fn no_module_is_in_a_tier_by_accident() {
    let mut names = BTreeSet::new();
    for (_, text) in sources_in(&["common", "tools", "tests"]) {
        let words = text.lines().filter_map(|line| line.trim().split_once("mod "));
        let after = words.filter(|(before, _)| before.is_empty() || before.starts_with("pub"));
        names.extend(after.map(|(_, name)| name.trim_end_matches([';', '{', ' ']).to_owned()));
    }
    assert!(names.contains("faults") && names.contains("soak"), "{names:?}");
    for tier in ["peers", "faults", "vm", "soak"] {
        names.retain(|name| name != tier);
        assert!(!names.iter().any(|name| name.ends_with(tier)), "{tier}: {names:?}");
    }
}

#[test]
fn one_file_may_be_unsafe() {
    assert_eq!(with("allow(unsafe_code)"), [Path::new("common/src/sys.rs")]);
    let manifest = fs::read_to_string(workspace().join("Cargo.toml")).unwrap();
    assert!(manifest.contains("unsafe_code = \"deny\""));
    for member in ["common".into(), "tests".into()]
        .into_iter()
        .chain(program_names().into_iter().map(|tool| format!("tools/{tool}")))
    {
        let manifest = workspace().join(&member).join("Cargo.toml");
        let inherits = fs::read_to_string(manifest).unwrap().contains("[lints]\nworkspace = true");
        assert!(inherits, "{member} has lints of its own");
    }
}

#[test]
fn one_module_knows_the_http_client() {
    assert_eq!(with("reqwest::"), [Path::new("common/src/registry/http.rs")]);
}

#[test]
fn a_module_imports_from_no_floor_above_its_own() {
    // lib.rs draws the floors, the highest first.
    let lib = fs::read_to_string(workspace().join("common/src/lib.rs")).unwrap();
    let picture = lib.split("```").nth(1).unwrap();
    let mut floors: BTreeMap<String, usize> = BTreeMap::new();
    let modules: BTreeSet<&str> =
        lib.lines().filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';')).collect();
    for (depth, line) in picture.lines().enumerate() {
        let words = line.trim_start_matches("//!").split_whitespace();
        for module in words.filter(|word| modules.contains(word)) {
            floors.entry(module.into()).or_insert(depth);
        }
    }
    for module in &modules {
        assert!(floors.contains_key(*module), "lib.rs does not say on which floor {module} is");
    }
    for (path, text) in sources() {
        let Ok(inner) = path.strip_prefix("common/src") else { continue };
        let first = inner.components().next().unwrap().as_os_str().to_str().unwrap();
        let module = first.trim_end_matches(".rs");
        let Some(own) = floors.get(module) else { continue };
        for line in text.lines().map(|line| line.split("//").next().unwrap()) {
            for (at, _) in line.match_indices("crate::") {
                let rest = &line[at + "crate::".len()..];
                // One module, or several in braces.
                let word = |c: char| c.is_alphanumeric() || c == '_';
                let all: Vec<&str> = match rest.strip_prefix('{') {
                    Some(list) => list.split([',', '}', ';']).map(str::trim).collect(),
                    None => vec![rest],
                };
                for used in all {
                    let used = used.split(|c| !word(c)).next().unwrap_or_default();
                    let Some(floor) = floors.get(used) else { continue };
                    let below = floor >= own;
                    assert!(
                        below,
                        "{}: {module} imports from {used}, which is above it",
                        path.display()
                    );
                }
            }
        }
    }
}
