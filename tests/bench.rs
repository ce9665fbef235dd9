//! `scripts/bench`, on a suite that measures nothing: what it says, and what it must not say.

use sandbox::{Sandbox, lacks, target_dir, workspace};

/// A script that runs the suite once, and prints what it said and its exit status.
fn bench() -> String {
    let bench = workspace().join("scripts/bench");
    let (bench, programs) = (bench.display(), target_dir());
    assert!(programs.join("race").exists(), "race is not built: cargo build --workspace");
    format!("{bench} -n 1 --work work --programs {} smoke >out 2>err; echo $?", programs.display())
}

#[test]
fn a_goal_is_met_or_not_and_never_against_somebody_who_is_absent_or_fails() {
    if lacks(&["root", "unshare", "ip", "jq"]) {
        return;
    }
    let t = Sandbox::new();
    t.sh(&bench()).prints("1\n");
    t.sh("jq -r '.suites[].goals[] | .contender + \": \" + .verdict' work/results/bench.json")
        .prints(
            "true: met\n\
         sleep: not met\n\
         true: met\n\
         true: nobody is absent\n\
         true: somebody who fails failed\n",
        );
    t.sh("sed -n 's/^| smoke: .* | //p' out").prints(
        "met |\n\
         **not met** |\n\
         met |\n\
         unknown: nobody is absent |\n\
         unknown: somebody who fails failed |\n",
    );
    t.sh("grep -c '^| nobody | | absent: no no-such-program |' out").prints("1\n");
}

#[test]
fn the_samples_are_kept_as_json() {
    if lacks(&["root", "unshare", "ip", "jq"]) {
        return;
    }
    let t = Sandbox::new();
    t.sh(&bench()).prints("1\n");
    t.sh(
        "jq -c '.suites[].contenders[] | [.name, .absent, (.failed != null), (.samples | length)]' \
          work/results/bench.json",
    )
    .prints(
        "[\"true\",null,false,1]\n\
             [\"sleep\",null,false,1]\n\
             [\"nobody\",\"no-such-program\",false,0]\n\
             [\"somebody who fails\",null,true,0]\n",
    );
    t.sh("jq '.suites[].contenders[1].samples[].wall_s | . >= 0.05 and . < 5' work/results/bench.json")
        .prints("true\n");
    t.sh("jq -e '.machine.commit and .machine.kernel and (.suites[0].load | length == 2)' \
          work/results/bench.json")
        .prints("true\n");
}
