//! What others make of the layers that we accept.
//!
//! A case says which peer makes something else of it, and why; then that is
//! what must be seen, lest the reason outlive the difference.

use sandbox::corpus::image::{Layer, digest};
use sandbox::corpus::{Case, Input, Outcome, Peer, Row, layers};
use sandbox::lacks;

use super::look::{Owners, list};
use super::run::{Bench, Who, differences};

#[test]
fn tar_and_umoci_make_the_same_of_what_we_accept() {
    if lacks(&["root", "umoci", "tar", "xz"]) {
        return;
    }
    let bench = Bench::new(Who::Root);
    let bait = bench.dir().join("bait");
    let cases = layers::cases(bait.to_str().unwrap().trim_start_matches('/'));
    let mut wrong = Vec::new();
    let mut same = 0;
    for case in &cases {
        for peer in [Peer::GnuTar, Peer::Umoci] {
            let Some(found) = differs(&bench, case, peer) else { continue };
            let why = case.differs.iter().find(|(other, _)| *other == peer);
            match (found.is_empty(), why) {
                (true, None) => same += 1,
                (false, Some(_)) => {}
                (false, None) => wrong.push(format!("{peer:?}: {}\n{found}", case.name)),
                (true, Some((_, why))) => {
                    wrong.push(format!("{peer:?}: {}: no longer so: {why}", case.name));
                }
            }
        }
    }
    eprintln!("{same} are the same");
    assert!(wrong.is_empty(), "{} are wrong:\n{}", wrong.len(), wrong.join("\n"));
}

/// Returns how a peer's tree differs from ours; nothing, if it is no case for it.
fn differs(bench: &Bench, case: &Case, peer: Peer) -> Option<String> {
    let (Input::Layers(layers), Outcome::Tree(expected)) = (&case.input, &case.root) else {
        return None;
    };
    let script = match peer {
        Peer::GnuTar if !is_for_tar(case.row, layers) => return None,
        Peer::Umoci if !layers.iter().all(is_for_umoci) => return None,
        Peer::GnuTar => {
            "mkdir out; cat image/blobs/sha256/$LAYER | tar --xattrs --xattrs-include='*' --numeric-owner -C out -xpf - 2>&1"
        }
        Peer::Umoci => "umoci raw unpack --image image:app out 2>&1 >/dev/null",
    };
    bench.prepare(&case.input);
    let hex = digest(&layers[0].blob);
    let run = bench.sandbox().sh(&format!("cd box/case; LAYER={}; {script}", &hex[7..]));
    let out = bench.dir().join("case/out");
    if !out.exists() {
        return Some(format!("status {}: {}", run.code, String::from_utf8_lossy(&run.stdout)));
    }
    let tree = timeless(&list(&out, Owners::Same));
    let ours = timeless(expected);
    let found = differences(&ours, &tree);
    let failed =
        if run.code == 0 { "" } else { &String::from_utf8_lossy(&run.stdout).into_owned() };
    match found.is_empty() && failed.is_empty() {
        true => Some(String::new()),
        false => Some(format!("{found}\n{failed}")),
    }
}

/// Whether GNU tar has anything to say: it knows no whiteouts, and puts off links that lead out,
/// so that nothing is made through them.
fn is_for_tar(row: Row, layers: &[Layer]) -> bool {
    let [layer] = layers else { return false };
    let has_whiteouts = layer.blob.windows(4).any(|bytes| bytes == b".wh.");
    let packed = digest(&layer.blob) != layer.diff_id;
    !packed && !has_whiteouts && !matches!(row, Row::Symlinks | Row::Metadata)
}

/// Whether umoci reads such a layer: it goes by the media type, and knows no zstd.
fn is_for_umoci(layer: &Layer) -> bool {
    layer.blob.starts_with(&[0x1f, 0x8b]) == layer.media_type.ends_with("+gzip")
        && !layer.blob.starts_with(&[0x28, 0xb5])
        && !layer.media_type.ends_with("+zstd")
}

/// Leaves out the times of directories: of one that no entry is about, and of one that something
/// was put into later, everybody has another idea.
fn timeless(tree: &[String]) -> Vec<String> {
    let line = |line: &String| match line.split_once("/(") {
        Some((path, odd)) => {
            let odd = odd.trim_end_matches(')').split(' ').filter(|word| !word.starts_with('@'));
            match odd.collect::<Vec<_>>().join(" ") {
                odd if odd.is_empty() => format!("{path}/"),
                odd => format!("{path}/({odd})"),
            }
        }
        None => line.clone(),
    };
    let mut lines: Vec<String> = tree.iter().map(line).collect();
    lines.sort();
    lines
}
