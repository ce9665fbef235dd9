//! Which images go: arithmetic on what is known of them, and nothing else.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::SystemTime;

use jiff::Timestamp;

/// An entry of index.json, and what is known of its image.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// The repository of its name, if it has one.
    pub repository: Option<String>,
    /// Whether it may go at all: the filters match, no container uses it, and so on.
    pub may_go: bool,
    /// When it was created.
    pub created: Option<Timestamp>,
    /// When it was used last; unknown is long ago.
    pub used: Option<SystemTime>,
    /// What it takes: blobs and unpacked layers, which it may share with others.
    pub parts: Vec<String>,
}

/// What stays.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rules {
    /// Whether images with names go, too.
    pub named: bool,
    /// How many of the newest names stay.
    pub keep: Option<usize>,
    /// Whether that is in each repository.
    pub per_repository: bool,
    /// Images that were used after that stay.
    pub unused_since: Option<SystemTime>,
    /// As soon as all takes no more bytes than this, the rest stays.
    pub max_size: Option<u64>,
}

/// Returns which of the entries go, by their numbers.
///
/// Each rule says what stays, so all of them must agree for one to go. The entries stand
/// in the order in which they were named.
pub fn choose(
    entries: &[Candidate],
    rules: &Rules,
    sizes: &BTreeMap<String, u64>,
) -> HashSet<usize> {
    let kept = newest(entries, rules);
    let goes = |at: &usize| {
        let entry = &entries[*at];
        let recent =
            rules.unused_since.is_some_and(|since| entry.used.is_some_and(|at| at > since));
        entry.may_go && (rules.named || entry.repository.is_none()) && !kept.contains(at) && !recent
    };
    let going: Vec<usize> = (0..entries.len()).filter(goes).collect();
    match rules.max_size {
        None => going.into_iter().collect(),
        Some(most) => until_it_fits(entries, going, most, sizes),
    }
}

/// Returns the newest names, which stay: by their images' creation, then by when they were given.
fn newest(entries: &[Candidate], rules: &Rules) -> HashSet<usize> {
    let Some(keep) = rules.keep else { return HashSet::new() };
    let mut groups: HashMap<Option<&str>, Vec<usize>> = HashMap::new();
    for (at, entry) in entries.iter().enumerate() {
        if let Some(repository) = &entry.repository {
            let group = rules.per_repository.then_some(repository.as_str());
            groups.entry(group).or_default().push(at);
        }
    }
    let mut kept = HashSet::new();
    for mut group in groups.into_values() {
        group.sort_by_key(|at| (entries[*at].created, *at));
        kept.extend(group.iter().rev().take(keep));
    }
    kept
}

/// Returns as many of those that may go as it takes, the least recently used first, and those without a name before.
fn until_it_fits(
    entries: &[Candidate],
    mut going: Vec<usize>,
    most: u64,
    sizes: &BTreeMap<String, u64>,
) -> HashSet<usize> {
    // How many entries need a part. What none needs goes anyway.
    let mut needs: HashMap<&str, usize> = HashMap::new();
    for part in entries.iter().flat_map(|entry| &entry.parts) {
        *needs.entry(part).or_default() += 1;
    }
    let size = |part: &str| sizes.get(part).copied().unwrap_or(0);
    let mut total: u64 = needs.keys().map(|part| size(part)).sum();
    going.sort_by_key(|at| (entries[*at].repository.is_some(), entries[*at].used, *at));
    let mut gone = HashSet::new();
    for at in going {
        if total <= most {
            break;
        }
        gone.insert(at);
        for part in &entries[at].parts {
            if let Some(count) = needs.get_mut(part.as_str()) {
                *count -= 1;
                if *count == 0 {
                    total -= size(part);
                }
            }
        }
    }
    gone
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// An entry that was created and used in that hour, and takes its own part and a shared one.
    fn entry(repository: &str, created: i64, used: u64) -> Candidate {
        Candidate {
            repository: (!repository.is_empty()).then(|| repository.to_owned()),
            may_go: true,
            created: Timestamp::from_second(created * 3600).ok(),
            used: Some(hour(used)),
            parts: vec![format!("{repository} {created}"), "shared".into()],
        }
    }

    fn hour(n: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(n * 3600)
    }

    fn chosen(entries: &[Candidate], rules: Rules) -> Vec<usize> {
        let sizes = entries.iter().flat_map(|entry| &entry.parts);
        let sizes = sizes.map(|part| (part.clone(), 10)).collect();
        let mut chosen: Vec<usize> = choose(entries, &rules, &sizes).into_iter().collect();
        chosen.sort();
        chosen
    }

    #[test]
    fn without_a_rule_only_those_without_a_name_go() {
        let entries = [entry("a", 1, 1), entry("", 2, 2), entry("b", 3, 3)];
        assert_eq!(chosen(&entries, Rules::default()), [1]);
        assert_eq!(chosen(&entries, Rules { named: true, ..Rules::default() }), [0, 1, 2]);
    }

    #[test]
    fn the_newest_stay() {
        let mut entries = [
            entry("a", 3, 1),
            entry("a", 1, 1),
            entry("b", 2, 1),
            entry("a", 2, 1),
            entry("", 9, 1),
        ];
        let rules = Rules { named: true, keep: Some(1), ..Rules::default() };
        assert_eq!(chosen(&entries, rules), [1, 2, 3, 4]);
        let rules = Rules { per_repository: true, ..rules };
        assert_eq!(chosen(&entries, rules), [1, 3, 4]);
        assert_eq!(chosen(&entries, Rules { keep: Some(0), ..rules }), [0, 1, 2, 3, 4]);
        assert_eq!(chosen(&entries, Rules { keep: Some(usize::MAX), ..rules }), [4]);
        // Of the same time, as builds that can be repeated have it, the one that was named last.
        entries.iter_mut().for_each(|entry| entry.created = None);
        assert_eq!(chosen(&entries, rules), [0, 1, 4]);
    }

    #[test]
    fn what_was_used_stays() {
        let mut entries = [entry("a", 1, 1), entry("b", 1, 5), entry("", 1, 5)];
        let rules = Rules { named: true, unused_since: Some(hour(3)), ..Rules::default() };
        assert_eq!(chosen(&entries, rules), [0]);
        entries[1].used = None;
        assert_eq!(chosen(&entries, rules), [0, 1]);
        entries[0].may_go = false;
        assert_eq!(chosen(&entries, rules), [1]);
    }

    #[test]
    fn no_more_goes_than_it_takes() {
        // 10 bytes each, and 10 that they share.
        let entries = [entry("a", 1, 4), entry("b", 1, 2), entry("c", 1, 3), entry("", 1, 9)];
        let rules = |most| Rules { named: true, max_size: Some(most), ..Rules::default() };
        assert!(chosen(&entries, rules(50)).is_empty());
        assert_eq!(chosen(&entries, rules(49)), [3]);
        assert_eq!(chosen(&entries, rules(35)), [1, 3]);
        assert_eq!(chosen(&entries, rules(20)), [1, 2, 3]);
        assert_eq!(chosen(&entries, rules(0)), [0, 1, 2, 3]);
        // Two names of one image free it when both are gone.
        let twice = [entry("a", 1, 1), entry("a", 1, 1), entry("b", 1, 2)];
        assert_eq!(chosen(&twice, rules(20)), [0, 1]);
        // The newest stay even so.
        let rules = Rules { keep: Some(1), per_repository: true, ..rules(0) };
        assert_eq!(chosen(&entries, rules), [3]);
    }
}
