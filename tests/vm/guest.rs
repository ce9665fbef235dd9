//! Containers where Debian 12's kernel runs them, with cgroup version 2 and nothing else.

use std::io::Write;

use sandbox::Sandbox;

use super::machine::{Machine, disk, initrd, kernel};

/// Mounts what there is to mount, and does all checks: what each says goes between two lines of ours.
const SCRIPT: &str = r#"
    mount -t cgroup2 cgroup2 /sys/fs/cgroup
    mount -t ext4 /dev/vda /home
    mkdir /home/work /home/tare && cp -a /tare/images /home/tare/ && cp -a /home/tare /home/root && chown -R user /home/work /home/tare
    for n in $(seq 0 MOST); do
        echo "begin $n"
        case $(head -n 1 /script.$n) in
            '# user')
                cd /home/work
                export TARE_ROOT=/home/tare TARE_RUN=/home/run HOME=/home
                timeout 60 su user -c "sh /script.$n" </dev/null
                ;;
            *)
                mkdir -p /work && cd /work
                export TARE_ROOT=/home/root TARE_RUN=/run/tare HOME=/root
                timeout 60 sh /script.$n </dev/null
                ;;
        esac
        echo "end $n: $?"
    done
"#;

/// What must be left of containers: nothing.
const LEFT: &str = "find /sys/fs/cgroup -name tare; ls -A $TARE_ROOT/containers | grep -v '^[.]'
    grep overlay /proc/mounts; ps | grep '[s]leep'; ls $TARE_ROOT/layers/.*.tmp 2>/dev/null; :";

/// What is checked: a script, what it says, and its status. One that begins with `# user` is an ordinary user's.
const CHECKS: &[(&str, &str, i32)] = &[
    ("uname -r | cut -d. -f1-2", "6.1\n", 0),
    ("cat /proc/self/cgroup", "0::/\n", 0),
    // What is run, and how.
    ("ctr-spawn --rm app echo hello", "hello\n", 0),
    ("ctr-spawn --rm app sh -c 'cat /etc/layered; test -e /bin/vi'", "layered\n", 1),
    ("img-unpack app out", "./out\n", 0),
    ("ctr-spawn --bundle out sh -c 'cat /etc/layered; exit 3'", "layered\n", 3),
    ("img-unpack --rootfs app tree && ctr-spawn --rootfs tree cat /etc/layered", "./tree\nlayered\n", 0),
    ("echo x >f; ctr-spawn --rm -v ./f:/f:ro app sh -c 'cat /f; echo y >/f'", "x\nsh: can't create /f: Read-only file system\n", 1),
    ("ctr-spawn --rm --init app sh -c 'sleep 0 & exit 7'", "", 7),
    ("ctr-spawn --rm app nosuch", "ctr-spawn: nosuch: cannot run: No such file or directory (os error 2)\n", 127),
    (LEFT, "", 0),
    // Its cgroup: born into it, alone in it, and it cannot change it.
    ("ctr-spawn --rm app cat /proc/self/cgroup", "0::/\n", 0),
    ("ctr-spawn --rm app cat /sys/fs/cgroup/pids.max", "2048\n", 0),
    ("ctr-spawn --rm app sh -c 'mkdir /sys/fs/cgroup/x 2>/dev/null || echo 9 >/sys/fs/cgroup/pids.max'",
        "sh: can't create /sys/fs/cgroup/pids.max: Read-only file system\n", 1),
    ("mkfifo ready; ctr-spawn --rm -v ./ready:/ready app sh -c 'echo >/ready; exec sleep 100' &
        read x <ready; d=$(echo /sys/fs/cgroup/tare/*/)
        cat $d/pids.max $d/pids.current; wc -l <$d/cgroup.procs; kill -9 $(cat $d/cgroup.procs); wait $!", "2048\n1\n1\n", 137),
    // One that may change it does; what it leaves goes as well.
    ("ctr-spawn --rm --privileged app sh -c 'mkdir -p /sys/fs/cgroup/in/deep; echo 0 >/sys/fs/cgroup/in/deep/cgroup.procs
        sleep 100 & cat /proc/self/cgroup'", "0::/in/deep\n", 0),
    (LEFT, "", 0),
    // A bomb goes off inside.
    ("sed -i 's/\"limit\": *2048/\"limit\":20/' out/config.json; grep -c '\"limit\":20' out/config.json
        ctr-spawn --bundle out sh -c 'cat /sys/fs/cgroup/pids.max; i=0
            while test $i -lt 40; do sleep 100 & i=$((i + 1)); done' 2>&1 | sed \"s/.*can't fork.*/no more/\"", "1\n20\nno more\n", 0),
    (LEFT, "", 0),
    // Our own death: its processes end, and the next one of us tidies up.
    ("mkfifo up; ctr-spawn --rm -v ./up:/up app sh -c 'sleep 100 & sleep 100 & echo >/up; sleep 100' &
        read x <up; kill -9 $!; wait $!; ctr-spawn --rm app true", "Killed\n", 0),
    (LEFT, "", 0),
    // Somebody else's limit, above.
    ("echo '+memory +pids' >/sys/fs/cgroup/cgroup.subtree_control; mkdir /sys/fs/cgroup/small
        echo 80M >/sys/fs/cgroup/small/memory.max; echo $$ >/sys/fs/cgroup/small/cgroup.procs
        ctr-spawn --rm app cat /proc/self/cgroup", "0::/\n", 0),
    // A step's memory, and what becomes of one that wants more.
    (r"mkdir -p ctx; cd ctx; printf 'FROM app\nRUN cd /sys/fs/cgroup; cat memory.max memory.swap.max cgroup.controllers\n' >Dockerfile
        img-build --no-cache -m 20m . 2>said >line; sed -n 's/.* | //p' said
        printf 'FROM app\nRUN dd if=/dev/zero of=/dev/null bs=64M count=1\n' >Dockerfile
        img-build -q -m 20m --memory-swap 20m .", "20971520\n20971520\nmemory\nimg-build: Dockerfile:2: RUN: out of memory: the limit is 20 MiB\n", 1),
    ("img-build -q -m 100m ctx >line && ctr-spawn --rm app true", "", 0),
    (LEFT, "", 0),
    // A cgroup of version 2 beside ours, with the system's own in the middle of the tree.
    ("rmdir /sys/fs/cgroup/small; echo gone", "gone\n", 0),
    // Somebody to whom nothing is delegated.
    ("# user
    ctr-spawn --rm app id -u", "0\n", 0),
    ("# user
    ctr-spawn --rm app sh -c 'cat /etc/layered; test -e /bin/vi'", "layered\n", 1),
    ("# user
    img-unpack -q app out && ctr-spawn --bundle out sh -c 'cat /etc/layered; exit 3'", "./out\nlayered\n", 3),
    (r"# user
    mkdir ctx; cd ctx; printf 'FROM app\nRUN true\n' >Dockerfile; img-build -q -m 20m . 2>&1 | sed 's/.*cannot be applied.*/refused/'", "refused\nhint: to let it be applied: systemd-run --user --scope, or chown /sys/fs/cgroup to this user\n", 0),
    ("# user
    ctr-spawn --name kept app true; grep -o 'no limit of 2048 processes' /home/tare/containers/*/status.json; rm -rf /home/tare/containers; :", "no limit of 2048 processes\n", 0),
    // Somebody to whom a part of the tree is.
    ("mkdir /sys/fs/cgroup/mine /sys/fs/cgroup/mine/session; chown user /sys/fs/cgroup/mine /sys/fs/cgroup/mine/session
        for dir in mine mine/session; do
            chown user /sys/fs/cgroup/$dir/cgroup.procs /sys/fs/cgroup/$dir/cgroup.subtree_control
        done; echo $$ >/sys/fs/cgroup/mine/session/cgroup.procs
        su user -c 'export TARE_ROOT=/home/tare TARE_RUN=/home/run HOME=/home
            ctr-spawn --rm app cat /sys/fs/cgroup/pids.max /proc/self/cgroup; ls /sys/fs/cgroup/mine | grep tare'", "2048\n0::/\n", 1),
    (r#"echo $$ >/sys/fs/cgroup/mine/session/cgroup.procs
        su user -c 'export TARE_ROOT=/home/tare TARE_RUN=/home/run HOME=/home; cd /home/work/ctx
            echo "FROM app" >Dockerfile; echo "RUN cat /sys/fs/cgroup/memory.max" >>Dockerfile
            img-build -m 20m . 2>&1 >line | sed -n "s/.* | //p"; ls /sys/fs/cgroup/mine | grep tare'"#, "20971520\n", 1),
    (LEFT, "", 0),
];

#[test]
fn containers_run_on_an_old_kernel_with_cgroups_of_version_2() {
    let Some(kernel) = kernel() else { return };
    let t = Sandbox::new();
    let scripts: Vec<&str> = CHECKS.iter().map(|(script, ..)| *script).collect();
    let script = SCRIPT.replace("MOST", &(CHECKS.len() - 1).to_string());
    let initrd = initrd(&kernel, &t.path(""), &script, &scripts);
    let disk = disk(&t.path("disk"));
    let mut machine = Machine::boot(&kernel, &initrd, &disk);
    machine.until("the end");

    let mut wrong = Vec::new();
    for (n, (script, expected, status)) in CHECKS.iter().enumerate() {
        let begin = machine.said.iter().position(|line| line.ends_with(&format!("begin {n}")));
        let lines = machine.said.iter().skip(begin.map_or(0, |begin| begin + 1));
        let end = format!("end {n}: ");
        let found: String = lines
            .clone()
            .take_while(|line| !line.starts_with(&end))
            .map(|line| format!("{line}\n"))
            .collect();
        let code = lines.clone().find_map(|line| line.strip_prefix(&end)).unwrap_or("no end");
        if found != *expected || code != status.to_string() {
            wrong.push(format!(
                "$ {script}\n--- expected\n{expected}{status}\n--- actual\n{found}{code}"
            ));
        }
    }
    let _ = writeln!(std::io::stderr(), "vm: {} checks on Linux 6.1 with cgroup v2", CHECKS.len());
    assert!(wrong.is_empty(), "{}\n\nall of it:\n{}", wrong.join("\n\n"), machine.said.join("\n"));
}
