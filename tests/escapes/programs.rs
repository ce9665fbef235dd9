//! Our own programs, which a container's root would like to be somebody else's (CVE-2019-5736), and what runs in whose name.

use sandbox::image::{Image, PACK, PATH, busybox_layer};
use sandbox::{Sandbox, lacks};
use serde_json::json;

use super::{PROBE, bundle, of_either_user, sandbox, with_probe};

/// Says that our program has changed, if it has.
const UNCHANGED: &str =
    "test \"$before\" = \"$(sha256sum $(command -v ctr-spawn))\" || echo changed";
const BEFORE: &str = "before=$(sha256sum $(command -v ctr-spawn))";

#[test]
fn no_process_has_a_program_that_can_be_written_to() {
    of_either_user(|t| {
        for options in ["", "--init"] {
            // One is the probe itself, and an init does not show its own.
            t.sh(&format!(
                "{BEFORE}; ctr-spawn --rm {options} {PROBE} app /probe programs; {UNCHANGED}"
            ))
            .prints("1 tried\n");
        }
        // With all that a config can give, even what undoes a mount's flags.
        bundle(
            t,
            ".process.capabilities |= map_values([\"CAP_SYS_ADMIN\", \"CAP_DAC_OVERRIDE\", \"CAP_SYS_PTRACE\"])
             | .process.capabilities.ambient = [] | del(.linux.seccomp)",
        );
        for options in ["", "--init"] {
            let run = t.sh(&format!(
                "{BEFORE}; ctr-spawn {options} {PROBE} --bundle b /probe programs; {UNCHANGED}"
            ));
            let text = run.text();
            assert!(!text.contains("written") && !text.contains("changed"), "{options}: {text}");
        }
    });
}

#[test]
fn an_image_that_runs_us_again_gets_nowhere() {
    let layer = format!(
        "mkdir -p bin; printf '#!/proc/self/exe\\n' >bin/again; printf '#!/proc/1/exe\\n' >bin/first
         printf '#!/proc/self/exe --rm\\n' >bin/option; chmod 755 bin/again bin/first bin/option
         ln -s /proc/self/exe bin/tare-init; ln -s /proc/self/exe bin/tare-exec
         {PACK}"
    );
    let config = json!({ "Env": [PATH], "Entrypoint": ["again"] });
    let image = Image::new(&[&busybox_layer(), &layer], &config);
    for t in [Sandbox::new(), Sandbox::new().as_user()] {
        t.store(&image, "evil");
        t.sh(&format!(
            "{BEFORE}
             for options in '' --init; do
                 for entry in /proc/self/exe /proc/1/exe again first option tare-init tare-exec /proc/self/fd/3 /proc/self/fd/9; do
                     timeout 20 ctr-spawn --rm $options --entrypoint $entry evil 3 /bin/sh sh </dev/null >out 2>err 3</etc/passwd
                     case $? in 2|12[567]) ;; *) echo $options $entry: $?; cat out err;; esac
                 done
             done; {UNCHANGED}"
        ))
        .is_silent();
    }
}

#[test]
fn a_container_that_looks_for_our_program_while_others_start_finds_none() {
    let t = sandbox();
    t.sh(&format!(
        "{BEFORE}
         ctr-spawn --rm {PROBE} --init app sh -c 'touch /tmp/x; end=$(($(date +%s) + 2))
             while [ $(date +%s) -lt $end ]; do /probe programs; done' | grep -v ' tried$' & one=$!
         end=$(($(date +%s) + 2)); while [ $(date +%s) -lt $end ]; do ctr-spawn --rm app true; ctr-spawn --rm --init app true; done
         wait $one; {UNCHANGED}"
    ))
    .is_silent();
}

#[test]
fn only_the_command_is_executed_of_an_image() {
    if lacks(&["strace"]) {
        return;
    }
    let t = sandbox();
    // Programs that a tool might call by name, each of which would say so.
    let names = "newuidmap newgidmap mount umount id getent modprobe tar img-pull ctr-spawn";
    let layer = format!(
        "mkdir -p bin usr/bin; for name in {names}; do
            printf '#!/bin/sh\\necho executed >&2\\n' >bin/$name; chmod 755 bin/$name; cp bin/$name usr/bin; done
         {PACK}"
    );
    let config = json!({ "Env": [PATH], "Cmd": ["true"] });
    t.store(&Image::new(&[&busybox_layer(), &layer], &config), "names");
    t.sh("strace -f -qq -o log -e trace=execve,execveat -e signal=none ctr-spawn --rm --name xx -h box -u app names
          sed -n 's/^[0-9]* *execve(\"\\([^\"]*\\)\".* = 0$/\\1/p; s/^[0-9]* *execveat(.* = 0$/at/p' log | sed 's/.*ctr-spawn$/ours/' | sort -u")
        .prints("/bin/true\nat\nours\n");
}

#[test]
fn labels_select_nothing() {
    let labels = json!({
        "run.oci.seccomp_bpf_data": "AAAA", "run.oci.hooks.stdout": "/tmp/x", "org.systemd.property.X": "y",
        "io.kubernetes.cri-o.Devices": "/dev/kmsg", "io.podman.annotations.privileged": "TRUE",
        "org.opencontainers.image.stopSignal": "9", "module.wasm.image/variant": "compat",
    });
    let plain = Image::new(&[&busybox_layer()], &json!({ "Env": [PATH], "Cmd": ["true"] }));
    let image = Image::new(
        &[&busybox_layer()],
        &json!({ "Env": [PATH], "Cmd": ["true"], "Labels": labels }),
    );
    let t = with_probe(Sandbox::new());
    t.store(&plain, "plain");
    t.store(&image, "labelled");
    t.sh("for name in plain labelled; do ctr-spawn --name $name --cidfile $name.id $name
              jq -S 'del(.annotations, .hostname) | del(.process.env, .mounts) | .process.capabilities |= map_values(sort?)' $TARE_ROOT/containers/$(cat $name.id)/config.json >$name.json
          done; diff plain.json labelled.json")
        .is_silent();
}
