//! Names that change while a tool looks them up: short runs of what soak does for a minute.

use std::time::Duration;

use sandbox::{Sandbox, lacks};

use super::{PROBE, bait, bundle, of_either_user, with_probe};

/// How hard a race is run.
#[derive(Clone, Copy)]
pub(super) struct Effort {
    /// For how long names are exchanged.
    pub seconds: u64,
    /// How many containers are started meanwhile, at least.
    pub rounds: u64,
}

const SHORT: Effort = Effort { seconds: 2, rounds: 20 };

/// Two containers share a volume; one exchanges a directory in it for a link out, the other has it on the way of a mount.
///
/// CVE-2021-30465, CVE-2024-45310.
pub(super) fn volume(t: &Sandbox, effort: Effort) {
    let check = bait(t);
    let Effort { seconds, rounds } = effort;
    let script = format!(
        "umask 022; mkdir -p volume/d/sub volume/e; ln -s $PWD/bait volume/link; ln -s ../../../../../../../../../..$PWD/bait volume/up
         ctr-spawn --rm {PROBE} -v $PWD/volume:/v app /probe swap /v/d /v/link {seconds} & one=$!
         ctr-spawn --rm {PROBE} -v $PWD/volume:/v app /probe swap /v/e /v/up {seconds} & two=$!
         end=$(($(date +%s) + {seconds})); n=0; ok=0
         while [ $(date +%s) -lt $end ] || [ $n -lt {rounds} ]; do
             n=$((n+1))
             ctr-spawn --rm -v $PWD/volume:/v --tmpfs /v/d/sub -v $PWD/probe:/v/d/made/$n/file --tmpfs /v/e/made/$n -w /v/e/dir/$n app \
                 sh -c 'ls /v/d/file /v/e/file 2>/dev/null; true' >>seen 2>>err && ok=$((ok+1))
         done
         wait $one $two
         rm -rf volume/d/made volume/e/made volume/e/dir
         [ $ok -gt 0 ] || {{ echo none of $n started; tail -3 err; }}
         grep -v ': No such file\\|: Not a directory\\|: cannot\\|^hint\\|os error' err | head -3
         cat seen; {check}"
    );
    t.sh(&script).is_silent();
}

/// The rootfs has its /proc, /sys and /dev exchanged for links out, while containers are started in it.
///
/// CVE-2019-19921, CVE-2023-27561, CVE-2025-52881: what is written to /proc goes nowhere else.
pub(super) fn kernels_directories(t: &Sandbox, effort: Effort) {
    bundle(
        t,
        ".linux.sysctl = {\"net.ipv4.ip_default_ttl\": \"99\", \"kernel.shm_rmid_forced\": \"1\"} | .process.args = [\"sh\", \"-c\", \"cat /proc/sys/net/ipv4/ip_default_ttl\"]",
    );
    let check = bait(t);
    let Effort { seconds, rounds } = effort;
    let script = format!(
        "umask 022; cp -a b/config.json c
         mkdir -p b/rootfs/proc b/rootfs/sys b/rootfs/dev fake/sys/net/ipv4 fake/sys/kernel
         echo fake >fake/sys/net/ipv4/ip_default_ttl; echo fake >fake/sys/kernel/shm_rmid_forced
         for d in proc sys dev; do ln -s $PWD/bait/dir b/rootfs/$d.link; done; ln -s $PWD/fake b/rootfs/fake.link
         before=$(cat /proc/sys/net/ipv4/ip_default_ttl /proc/sys/kernel/shm_rmid_forced /proc/sys/kernel/core_pattern)
         for d in proc sys dev; do ./probe swap b/rootfs/$d b/rootfs/$d.link {seconds} & done
         ./probe swap b/rootfs/proc b/rootfs/fake.link {seconds} &
         end=$(($(date +%s) + {seconds})); n=0; ok=0
         while [ $(date +%s) -lt $end ] || [ $n -lt {rounds} ]; do
             n=$((n+1))
             ctr-spawn --bundle b >out 2>>err </dev/null && {{ ok=$((ok+1)); cat out; }}
         done | sort -u | grep -vx 99
         wait
         [ \"$before\" = \"$(cat /proc/sys/net/ipv4/ip_default_ttl /proc/sys/kernel/shm_rmid_forced /proc/sys/kernel/core_pattern)\" ] || echo host written
         cat fake/sys/net/ipv4/ip_default_ttl fake/sys/kernel/shm_rmid_forced | grep -v fake
         grep -v ': /\\|: mounts\\|cat: \\|cannot\\|^hint\\|os error' err | head -3
         {check}"
    );
    t.sh(&script).is_silent();
}

/// The places of our own files in /etc, of the working directory and of who is who are exchanged, while containers are started.
pub(super) fn files(t: &Sandbox, effort: Effort) {
    bundle(t, ".");
    let check = bait(t);
    let Effort { seconds, rounds } = effort;
    let script = format!(
        "umask 022; cd b/rootfs; : >etc/hosts; : >etc/resolv.conf; mkdir -p etc w
         ln -s $OLDPWD/bait etc.link; ln -s $OLDPWD/bait/dir w.link; ln -s $OLDPWD/bait/file hosts.link; mkfifo fifo; cd $OLDPWD
         ./probe swap b/rootfs/etc b/rootfs/etc.link {seconds} &
         ./probe swap b/rootfs/w b/rootfs/w.link {seconds} &
         ./probe swap b/rootfs/etc/hosts b/rootfs/hosts.link {seconds} &
         ./probe swap b/rootfs/etc/passwd b/rootfs/fifo {seconds} &
         end=$(($(date +%s) + {seconds})); n=0
         while [ $(date +%s) -lt $end ] || [ $n -lt {rounds} ]; do
             n=$((n+1))
             timeout 20 ctr-spawn --rootfs b/rootfs -w /w/made/$n sh -c 'echo inside >>/etc/hosts; touch /w/x; cat /etc/file' >>out 2>>err </dev/null
             [ $? -ne 124 ] || echo hangs
         done
         wait; grep -x host out
         {check}"
    );
    t.sh(&script).is_silent();
}

#[test]
fn a_volume_that_changes_leads_nowhere_else() {
    of_either_user(|t| volume(t, SHORT));
}

#[test]
fn what_is_written_to_the_kernel_goes_nowhere_else() {
    of_either_user(|t| kernels_directories(t, SHORT));
}

#[test]
fn files_that_change_lead_nowhere_else() {
    of_either_user(|t| files(t, SHORT));
}

/// Starts so many containers, four at a time, and sees that nothing is left.
pub(super) fn many(t: &Sandbox, number: u64) {
    if lacks(&["xargs"]) {
        return;
    }
    let script = format!(
        "ctr-spawn --rm app true
         seq {number} | xargs -P 4 -I{{}} ctr-spawn --rm app echo {{}} | sort -n >out; seq {number} | cmp - out
         ls -A $TARE_ROOT/containers $TARE_ROOT/containers/.rm | grep -v '^$\\|^/\\|^.rm$\\|^.run$'; true"
    );
    t.sh(&script).is_silent();
}

#[test]
fn a_hundred_containers_leave_nothing() {
    of_either_user(|t| many(t, 100));
}

/// Gives a sandbox the time that an effort takes.
pub(super) fn patient(user: bool) -> Sandbox {
    let t = Sandbox::with_image("app").with_limit(Duration::from_secs(600));
    with_probe(if user { t.as_user() } else { t })
}
