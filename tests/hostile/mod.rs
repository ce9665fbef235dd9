//! Hostile layers, layouts and archives: what a registry, a mirror or a colleague could hand us.
//!
//! `corpus/` says what they are and what must come of each. Here they are
//! unpacked, imported and run, by root and by an ordinary user, beside a bait.

mod bait;
mod look;
mod peers;
mod race;
mod run;

use sandbox::corpus::{Input, archives, layers, layouts};
use sandbox::lacks;

use run::{Bench, Who};

/// What the cases need: owners and devices, a mount of their own, and to look into containers.
const NEEDS: &[&str] = &["root", "busybox", "newuidmap", "gzip", "bzip2", "xz"];

#[test]
fn layers_as_root() {
    if !lacks(NEEDS) {
        Bench::new(Who::Root).all(layers::cases, 0, 2);
    }
}

#[test]
fn more_layers_as_root() {
    if !lacks(NEEDS) {
        Bench::new(Who::Root).all(layers::cases, 1, 2);
    }
}

#[test]
fn layers_as_a_user() {
    if !lacks(NEEDS) {
        Bench::new(Who::User).all(layers::cases, 0, 2);
    }
}

#[test]
fn more_layers_as_a_user() {
    if !lacks(NEEDS) {
        Bench::new(Who::User).all(layers::cases, 1, 2);
    }
}

#[test]
fn layouts_as_root() {
    if !lacks(NEEDS) {
        Bench::new(Who::Root).all(layouts::cases, 0, 1);
    }
}

#[test]
fn layouts_as_a_user() {
    if !lacks(NEEDS) {
        Bench::new(Who::User).all(layouts::cases, 0, 1);
    }
}

#[test]
fn archives_as_root() {
    if !lacks(NEEDS) {
        Bench::new(Who::Root).all(archives::cases, 0, 1);
    }
}

#[test]
fn archives_as_a_user() {
    if !lacks(NEEDS) {
        Bench::new(Who::User).all(archives::cases, 0, 1);
    }
}

/// Every row of attacks has cases, and no two cases have one name.
#[test]
fn the_corpus_is_whole() {
    let all = sandbox::corpus::all("tmp/bait");
    assert!(all.len() >= 120, "{}", all.len());
    let mut names: Vec<&str> = all.iter().map(|case| &case.name[..]).collect();
    names.sort_unstable();
    let twice: Vec<_> = names.windows(2).filter(|pair| pair[0] == pair[1]).collect();
    assert!(twice.is_empty(), "{twice:?}");
    let mut rows = std::collections::BTreeMap::new();
    for case in &all {
        let what = match case.input {
            Input::Layers(_) => 0,
            Input::Layout(..) => 1,
            Input::Archive(_) => 2,
        };
        rows.entry(case.row).or_insert([0; 3])[what] += 1;
    }
    eprintln!("{} cases: of layers, layouts and archives: {rows:?}", all.len());
    assert_eq!(rows.len(), 23);
}
