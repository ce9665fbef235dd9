//! Judges an image layout: by its bytes, with sha256sum, and without a line of ours.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

/// The names of a layout that is sound, each with its digest.
pub type Names = BTreeMap<String, String>;

/// Returns the names in the layout at `dir`, or what is wrong with it.
///
/// Every blob must hash to its name, and whatever the index names must be there in full.
pub fn sound(dir: &Path) -> Result<Names, String> {
    let blobs = blobs(dir)?;
    let names = names(dir)?;
    let mut seen = BTreeSet::new();
    for digest in images(dir)? {
        whole(dir, &blobs, &digest, &mut seen).map_err(|why| format!("{digest}: {why}"))?;
    }
    Ok(names)
}

/// Returns the names in index.json, each with its digest.
pub fn names(dir: &Path) -> Result<Names, String> {
    let index = json(&dir.join("index.json"))?;
    let mut names = Names::new();
    for desc in array(&index, "manifests")? {
        let digest = text(desc, "digest")?;
        if let Some(name) = desc["annotations"]["org.opencontainers.image.ref.name"].as_str()
            && let Some(other) = names.insert(name.into(), digest)
        {
            return Err(format!("{name} is there twice, and was {other}"));
        }
    }
    Ok(names)
}

/// Returns the digests in index.json, those without a name too.
fn images(dir: &Path) -> Result<Vec<String>, String> {
    let index = json(&dir.join("index.json"))?;
    array(&index, "manifests")?.iter().map(|desc| text(desc, "digest")).collect()
}

/// Returns each digest that there is a blob for, and the blob's size.
fn blobs(dir: &Path) -> Result<BTreeMap<String, u64>, String> {
    let dir = dir.join("blobs/sha256");
    let mut sizes = BTreeMap::new();
    for entry in fs::read_dir(&dir).map_err(|err| format!("{}: {err}", dir.display()))? {
        let entry = entry.unwrap();
        sizes.insert(entry.file_name().into_string().unwrap(), entry.metadata().unwrap().len());
    }
    if sizes.is_empty() {
        return Ok(sizes);
    }
    let out =
        Command::new("sha256sum").args(sizes.keys()).current_dir(&dir).output().unwrap().stdout;
    for line in String::from_utf8(out).unwrap().lines() {
        let (found, name) = line.split_once("  ").unwrap();
        if found != name {
            return Err(format!("blob {name} hashes to {found}"));
        }
    }
    Ok(sizes.into_iter().map(|(hex, size)| (format!("sha256:{hex}"), size)).collect())
}

/// Finds what is missing of the manifest or index `digest`.
fn whole(
    dir: &Path,
    blobs: &BTreeMap<String, u64>,
    digest: &str,
    seen: &mut BTreeSet<String>,
) -> Result<(), String> {
    if !blobs.contains_key(digest) {
        return Err("is not there".into());
    }
    if !seen.insert(digest.into()) {
        return Ok(());
    }
    let document = json(&dir.join("blobs").join(digest.replace(':', "/")))?;
    if document.get("manifests").is_some() {
        return Ok(()); // a chosen one has a descriptor of its own
    }
    for desc in array(&document, "layers")?.iter().chain([&document["config"]]) {
        let (part, size) = (text(desc, "digest")?, desc["size"].as_u64());
        if blobs.get(&part).copied() != size {
            return Err(format!("its {part} of {size:?} bytes is {:?}", blobs.get(&part)));
        }
    }
    Ok(())
}

/// Returns the blobs that nothing in index.json leads to.
pub fn unneeded(dir: &Path) -> Vec<String> {
    let mut todo = array(&json(&dir.join("index.json")).unwrap(), "manifests").unwrap().clone();
    let mut needed = BTreeSet::new();
    while let Some(desc) = todo.pop() {
        let digest = text(&desc, "digest").unwrap();
        // The index that a manifest was chosen from is kept, and what else it leads to is not.
        let chosen_from = desc["annotations"]["tare.index.digest"].as_str();
        needed.extend(chosen_from.map(str::to_owned));
        let kind = desc["mediaType"].as_str().unwrap_or_default();
        if needed.insert(digest.clone())
            && (kind.contains("manifest") || kind.contains("index"))
            && let Ok(document) = json(&dir.join("blobs").join(digest.replace(':', "/")))
        {
            for list in ["layers", "manifests"] {
                todo.extend(document[list].as_array().into_iter().flatten().cloned());
            }
            todo.extend(document.get("config").cloned());
            todo.extend(document.get("subject").cloned());
        }
    }
    blobs(dir).unwrap().into_keys().filter(|digest| !needed.contains(digest)).collect()
}

/// Returns the files of the layout at `dir` that are neither blobs nor its documents.
pub fn stale(dir: &Path) -> Vec<String> {
    let mut stale = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let name = entry.file_name().into_string().unwrap();
        if !["blobs", "index.json", "oci-layout"].contains(&name.as_str()) {
            stale.push(name.clone());
        }
        if name == ".partial" {
            let inside = fs::read_dir(entry.path()).into_iter().flatten().flatten();
            stale.extend(inside.map(|file| format!(".partial/{:?}", file.file_name())));
        }
    }
    stale
}

fn json(path: &Path) -> Result<Value, String> {
    let bytes = fs::read(path).map_err(|err| format!("{}: {err}", path.display()))?;
    serde_json::from_slice(&bytes).map_err(|err| format!("{}: {err}", path.display()))
}

fn array<'a>(value: &'a Value, field: &str) -> Result<&'a Vec<Value>, String> {
    value[field].as_array().ok_or_else(|| format!("no {field} in {value}"))
}

fn text(value: &Value, field: &str) -> Result<String, String> {
    value[field].as_str().map(str::to_owned).ok_or_else(|| format!("no {field} in {value}"))
}
