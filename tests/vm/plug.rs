//! The plug of a machine is pulled while it writes images: each that it said is there is there.

use std::collections::BTreeMap;
use std::io::Write;
use std::time::{Duration, Instant};

use sandbox::Sandbox;

use super::machine::{Machine, disk, initrd, kernel};

/// How long it goes on at most, but for the rounds that there must be.
const TIME: Duration = Duration::from_secs(45);
/// How many rounds there must be.
const ROUNDS: u32 = 2;

/// Says what is on the disk, and then makes images and names for ever. Each line that a
/// tool prints is its word that this is on the disk now.
const SCRIPT: &str = r#"
    mount -t ext4 /dev/vda /mnt || echo 'no disk'
    export TARE_ROOT=/mnt/tare
    if test -d $TARE_ROOT; then
        cd $TARE_ROOT/images/blobs/sha256
        for blob in *; do
            test -e $blob && sha256sum $blob | while read sum name; do
                test $sum = $name || echo "bad: $name hashes to $sum"
            done
        done
        # Not by a program of ours: what the index names, and whether it is there.
        tr '{' '\n' <$TARE_ROOT/images/index.json | sed -n 's/.*"digest":"sha256:\([0-9a-f]*\)".*/\1/p' |
            while read hex; do
                test -s $hex || echo "bad: no manifest $hex"
                tr '{' '\n' <$hex | sed -n 's/.*"digest":"sha256:\([0-9a-f]*\)".*/\1/p' |
                    while read part; do test -s $part || echo "bad: $hex has no $part"; done
            done
        img-ls --format '{{.Repository}}:{{.Tag}} {{.Digest}}' | sed 's/^/here: /'
    fi
    cd /tmp
    echo 'looked'
    id=$(cat /proc/sys/kernel/random/boot_id)
    n=0
    while :; do
        n=$((n + 1))
        mkdir t; echo $id $n >t/file; head -c $((n * 7919 % 300000)) /dev/urandom >t/large
        tar -C t -cf t.tar .; rm -r t
        img-import t.tar image:$id-$n
        img-tag image:$id-$n tag:$id-$n
        img-tag image:$id-$n moving
    done
"#;

#[test]
fn what_a_tool_said_is_there_when_the_plug_is_pulled() {
    let Some(kernel) = kernel() else { return };
    let t = Sandbox::new();
    let disk = disk(&t.path("disk"));
    let initrd = initrd(&kernel, &t.path(""), SCRIPT, &[]);

    let start = Instant::now();
    let mut confirmed: BTreeMap<String, String> = BTreeMap::new();
    let mut rounds = 0;
    // One more look, after the last plug.
    loop {
        let mut machine = Machine::boot(&kernel, &initrd, &disk);
        machine.until("looked");
        let said = std::mem::take(&mut machine.said);
        let bad: Vec<_> =
            said.iter().filter(|line| line.contains("bad: ") || line.contains("no disk")).collect();
        assert!(bad.is_empty(), "{bad:#?}");
        let here: BTreeMap<&str, &str> =
            said.iter().filter_map(|line| line.strip_prefix("here: ")?.split_once(' ')).collect();
        for (name, digest) in &confirmed {
            assert_eq!(
                here.get(name.as_str()),
                Some(&digest.as_str()),
                "{name}\n{}",
                said.join("\n")
            );
        }
        if rounds >= ROUNDS && start.elapsed() > TIME {
            break;
        }
        // So far, and then a moment that nothing decides.
        let lines = 5 + rounds * 7 % 11;
        for _ in 0..lines {
            machine.line().expect("it goes on for ever");
        }
        std::thread::sleep(Duration::from_millis(u64::from(rounds) * 137 % 400));
        for line in machine.pull_the_plug() {
            // Not the last of it, which may have been cut.
            let Some((name, digest)) = line.split_once('@').filter(|(_, it)| it.len() == 71) else {
                continue;
            };
            // This name moves: what it means may be newer than what we heard.
            if name != "moving:latest" {
                confirmed.insert(name.into(), digest.into());
            }
        }
        rounds += 1;
    }
    let text = format!(
        "vm: the plug was pulled {rounds} times, {} confirmed names were all there, {:.0} s\n",
        confirmed.len(),
        start.elapsed().as_secs_f64()
    );
    let _ = std::io::stderr().write_all(text.as_bytes());
    assert!(confirmed.len() >= 4, "{text}");
}
