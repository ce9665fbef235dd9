//! The inputs that were kept: what reaches different code, and what once went wrong.

use std::fs;
use std::path::{Path, PathBuf};

use proptest::prelude::*;

/// Runs one target on all of its inputs; `corpus` is cargo-fuzz's, `findings` holds one a mended defect.
fn replay(target: &str) {
    let (_, run) = targets::TARGETS.iter().find(|(name, _)| *name == target).unwrap();
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut inputs: Vec<PathBuf> = Vec::new();
    for kind in ["corpus", "findings"] {
        let files = fs::read_dir(fuzz.join(kind).join(target)).into_iter().flatten();
        inputs.extend(files.map(|file| file.unwrap().path()));
    }
    assert!(!inputs.is_empty(), "nothing is kept of {target}");
    inputs.sort();
    for input in inputs {
        let bytes = fs::read(&input).unwrap();
        // Shown only if the input fails.
        eprintln!("{}", input.display());
        run(&bytes);
    }
}

macro_rules! replay {
    ($($target:ident)*) => {
        $(
            #[test]
            fn $target() {
                replay(stringify!($target));
            }
        )*

        #[test]
        fn every_target_is_replayed() {
            let names: Vec<&str> = targets::TARGETS.iter().map(|(name, _)| *name).collect();
            assert_eq!(names, [$(stringify!($target)),*]);
        }
    };
}

replay!(archive blob dockerfile documents headers layer layout seccomp spec text);

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    /// Bytes decide what a target makes up, so random ones are layers, rules and archives already.
    #[test]
    fn random_bytes_break_no_target(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        for (_, run) in targets::TARGETS {
            run(&bytes);
        }
    }
}
