//! Layers: what a tar can do to who unpacks it.

mod headers;
mod paths;
mod things;
mod whiteouts;

use super::Case;

/// Returns the cases. `bait` is the path of the bait, without a slash at its start.
pub fn cases(bait: &str) -> Vec<Case> {
    let mut all = paths::cases(bait);
    all.extend(headers::cases(bait));
    all.extend(whiteouts::cases(bait));
    all.extend(things::cases(bait));
    all
}

/// Returns the lines of the directories that `path` leads through, as a tree shows them, and then `rest`.
fn within(path: &str, rest: &str) -> String {
    let ends = path.match_indices('/').map(|(at, _)| at).chain([path.len()]);
    let dirs: Vec<String> = ends.map(|end| format!("{}/", &path[..end])).collect();
    format!("{}\n{rest}", dirs.join("\n"))
}
