//! A case of the corpus: a Dockerfile, its context, and what is said of the result.
//!
//! ```text
//! === a sentence                 begins a case, and is its name
//! --- context                    a script that fills the context, where it starts
//! --- file NAME                  a file of the context, as it stands
//! --- options                    more of the command line, the same for all builders
//! --- Dockerfile                 the Dockerfile, as it stands
//! --- tree                       what the tree has beyond the base's, a path a line
//! --- config                     what the config has beyond the base's; null for what it has not
//! --- history                    what is in the history beyond the base's: + with a layer, - without
//! --- fails                      nobody builds this, and our error has this in it
//! --- not buildah                why this builder is not asked; so for docker
//! ```
//!
//! A line of the tree is `/path: -0644 0:0 "content"`, as [`super::outcome`] prints it.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use sandbox::{Sandbox, workspace};
use serde_json::Value;

use super::builder::Builder;

/// One of the corpus.
#[derive(Default)]
pub struct Case {
    pub name: String,
    pub dockerfile: String,
    pub options: String,
    pub fails: Option<String>,
    pub tree: Option<Vec<String>>,
    pub config: Option<Value>,
    pub history: Option<Vec<String>>,
    context: String,
    files: Vec<(String, String)>,
    without: Vec<String>,
}

impl Case {
    /// Returns the corpus.
    pub fn all() -> Vec<Case> {
        let dir = workspace().join("tests/peers/build/cases");
        let mut paths: Vec<_> =
            fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        let mut cases = Vec::new();
        for path in paths {
            let text = fs::read_to_string(&path).unwrap();
            let (head, rest) = text.split_once("=== ").unwrap_or((&text, ""));
            assert!(head.lines().all(|line| line.is_empty() || line.starts_with('#')), "{head}");
            for one in format!("\n{rest}").split("\n=== ").filter(|one| !one.trim().is_empty()) {
                cases.push(Case::parse(one.trim_start_matches('\n')));
            }
        }
        cases
    }

    fn parse(text: &str) -> Case {
        let (name, rest) = text.split_once('\n').unwrap();
        let mut case = Case { name: name.into(), ..Case::default() };
        for section in format!("\n{rest}").split("\n--- ").skip(1) {
            let (head, body) = section.split_once('\n').unwrap_or((section, ""));
            let body = match body.is_empty() || body.ends_with('\n') {
                true => body.to_owned(),
                false => format!("{body}\n"),
            };
            let lines = || body.lines().filter(|line| !line.is_empty()).map(str::to_owned);
            match head.split_once(' ').unwrap_or((head, "")) {
                ("context", "") => case.context = body,
                ("file", name) => case.files.push((name.into(), body)),
                ("options", "") => case.options = body.trim().replace('\n', " "),
                ("Dockerfile", "") => case.dockerfile = body,
                ("tree", "") => case.tree = Some(lines().collect()),
                ("config", "") => case.config = Some(serde_json::from_str(&body).unwrap()),
                ("history", "") => case.history = Some(lines().collect()),
                ("fails", "") => case.fails = Some(body),
                ("not", builder) => {
                    assert!(!body.trim().is_empty(), "{name}: why not {builder}?");
                    case.without.push(builder.into());
                }
                _ => panic!("{name}: {head}"),
            }
        }
        assert!(!case.dockerfile.is_empty(), "{name}: no Dockerfile");
        case
    }

    /// Says whether a builder does not get this one.
    pub fn without(&self, builder: Builder) -> bool {
        std::env::var_os("TARE_DEV_ALL").is_none()
            && self.without.iter().any(|name| *name == builder.name())
    }

    /// Makes the directory `context`, and beside it what the script left there.
    pub fn make_context(&self, t: &Sandbox) {
        let dir = t.path("work/context");
        t.sh("rm -rf context secret; mkdir context").is_silent();
        for (name, body) in &self.files {
            let path = dir.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, body).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        }
        fs::write(dir.join("Dockerfile"), &self.dockerfile).unwrap();
        fs::set_permissions(dir.join("Dockerfile"), fs::Permissions::from_mode(0o644)).unwrap();
        t.sh(&format!("set -e; umask 022; cd context\n{}", self.context)).is_silent();
    }
}
