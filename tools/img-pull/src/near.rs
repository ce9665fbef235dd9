//! The tags nearest to one that is not there.

use common::registry::Registry;

/// The most tags that are looked at for a hint.
const ENOUGH: usize = 2000;
/// The most that are named.
const SHOWN: usize = 4;

/// Returns a hint that names the nearest tags, if the repository has some.
pub fn tags(registry: &Registry, path: &str, tag: &str) -> Option<String> {
    // A hint is worth no error of its own, and no second try.
    let tags = registry.tags(path, ENOUGH, 0).ok()?;
    let near = nearest(tag, tags);
    let (last, first) = near.split_last()?;
    Some(match first.is_empty() {
        true => format!("the nearest tag is {last}"),
        false => format!("the nearest tags are {} and {last}", first.join(", ")),
    })
}

fn nearest(tag: &str, mut tags: Vec<String>) -> Vec<String> {
    tags.sort_by_cached_key(|other| (distance(tag.as_bytes(), other.as_bytes()), other.clone()));
    tags.truncate(SHOWN);
    tags
}

/// Returns how many letters must be put in, taken out or replaced to make `a` into `b`.
fn distance(a: &[u8], b: &[u8]) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_count_letters() {
        for (a, b, expected) in
            [("", "", 0), ("", "ab", 2), ("1.21", "1.12", 2), ("latest", "lates", 1), ("a", "b", 1)]
        {
            assert_eq!(distance(a.as_bytes(), b.as_bytes()), expected, "{a} {b}");
            assert_eq!(distance(b.as_bytes(), a.as_bytes()), expected, "{b} {a}");
        }
    }

    #[test]
    fn the_nearest_tags_come_first() {
        let tags = ["3.20", "latest", "3.2", "3.19", "edge", "3.21"].map(String::from).to_vec();
        assert_eq!(nearest("3.22", tags), ["3.2", "3.20", "3.21", "3.19"]);
    }
}
