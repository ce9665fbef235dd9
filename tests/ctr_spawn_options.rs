//! ctr-spawn, option by option: what each gives the container, and what it refuses.

use std::time::Duration;

use sandbox::Sandbox;
use sandbox::image::{Image, PATH, busybox_layer};
use serde_json::json;

/// Both kinds of users, where there are both, with an image called `app`.
fn of_either_user(test: impl Fn(Sandbox)) {
    test(Sandbox::with_image("app"));
    test(Sandbox::with_image("app").as_user());
}

#[test]
fn the_environment_is_the_images_and_the_options() {
    of_either_user(|t| {
        t.set("FOO", "secret");
        t.set("GIVEN", "ours");
        t.sh("ctr-spawn --rm -h box app env")
            .prints(&format!("{PATH}\nHOSTNAME=box\nHOME=/root\n"));
        t.write("vars", "# a comment\nFILE=a b\nQUOTED=\"as it is\"\nGIVEN\nNOT_SET\nBOTH=file\n");
        t.sh("ctr-spawn --rm -h box -e BOTH=option -e ABSENT -e EMPTY= --env-file vars app env")
            .prints(&format!(
                "{PATH}\nHOSTNAME=box\nHOME=/root\nFILE=a b\nQUOTED=\"as it is\"\nGIVEN=ours\nBOTH=option\nEMPTY=\n"
            ));
    });
}

#[test]
fn a_variable_that_is_not_set_here_is_not_set_there() {
    let image = Image::new(&[&busybox_layer()], &json!({ "Env": [PATH, "ABSENT=image"] }));
    let t = Sandbox::new();
    t.store(&image, "app");
    t.write("vars", "ABSENT\n");
    t.sh("ctr-spawn --rm -e ABSENT app env | grep -c ABSENT").outputs("0\n", "", 1);
    t.sh("ctr-spawn --rm --env-file vars app env | grep ABSENT").prints("ABSENT=image\n");
}

#[test]
fn a_user_is_one_of_the_images() {
    of_either_user(|t| {
        let id = "sh -c 'id -u; id -g; id -G; echo $HOME'";
        for (user, expected) in [
            ("app", "1000\n1000\n1000 50\n/home/app\n"),
            ("1000", "1000\n1000\n1000 50\n/home/app\n"),
            ("app:wheel", "1000\n10\n10\n/home/app\n"),
            ("4321:99", "4321\n99\n99\n/\n"),
            ("root", "0\n0\n0 10\n/root\n"),
        ] {
            t.sh(&format!("ctr-spawn --rm -u {user} app {id}")).prints(expected);
        }
        t.sh("ctr-spawn --rm -u nobody-here app true").exits(125).says("nobody-here");
        t.sh("ctr-spawn --rm -u app app sh -c 'touch /x /root/x 2>&1 | grep -c denied; touch /tmp/x'")
            .prints("2\n");
    });
}

#[test]
fn the_images_entrypoint_is_dropped_with_its_command() {
    let config = json!({ "Env": [PATH], "Entrypoint": ["echo", "entry"], "Cmd": ["cmd"] });
    let image = Image::new(&[&busybox_layer()], &config);
    let t = Sandbox::new();
    t.store(&image, "app");
    for (arguments, output) in [
        ("app", "entry cmd\n"),
        ("app a 'b c'", "entry a b c\n"),
        ("--entrypoint echo app", "\n"),
        ("--entrypoint echo app a", "a\n"),
        ("--entrypoint '' app echo x", "x\n"),
        ("app --rm -i", "entry --rm -i\n"),
    ] {
        t.sh(&format!("ctr-spawn --rm {arguments}")).prints(output);
    }
    t.sh("ctr-spawn --rm --entrypoint '' app").outputs(
        "",
        "ctr-spawn: no command is given, and there is none of its own\nhint: name one behind the image\n",
        125,
    );
}

#[test]
fn a_working_directory_is_the_images_or_is_made() {
    let config = json!({ "Env": [PATH], "Cmd": ["pwd"], "WorkingDir": "/home/app", "User": "app" });
    let image = Image::new(&[&busybox_layer()], &config);
    for t in [Sandbox::new(), Sandbox::new().as_user()] {
        t.store(&image, "app");
        t.sh("ctr-spawn --rm app; ctr-spawn --rm -w /a/b app; ctr-spawn --rm -w /tmp app")
            .prints("/home/app\n/a/b\n/tmp\n");
        t.sh("ctr-spawn --rm -w '' -h '' --name '' app; ctr-spawn --rm -w /no/../tmp/./x/.. app")
            .prints("/home/app\n/tmp\n");
        t.sh("ctr-spawn --rm -w here app").exits(125).says("not an absolute path");
        t.sh("ctr-spawn --rm -w /etc/passwd app").exits(125).says("/etc/passwd");
    }
}

#[test]
fn a_bind_mount_is_the_hosts_file() {
    of_either_user(|t| {
        t.sh("mkdir -p dir/sub; echo data >dir/file; ln -s dir link").is_silent();
        t.sh("ctr-spawn --rm -v ./dir:/d app sh -c 'cat /d/file; echo new >/d/sub/new'; cat dir/sub/new")
            .prints("data\nnew\n");
        t.sh("ctr-spawn --rm --mount type=bind,src=$PWD/link,dst=/d,readonly app sh -c '
                cat /d/file; for f in /d/x /d/sub/x; do (echo x >$f) 2>/dev/null || echo refused; done
                mount -o remount,rw,bind /d 2>/dev/null || echo stays; umount /d 2>/dev/null || echo stays'")
            .prints("data\nrefused\nrefused\nstays\nstays\n");
        // A mount in a mount, on a place that neither has.
        t.sh("ctr-spawn --rm --tmpfs /a -v ./dir/file:/a/deep/er/file:ro app cat /a/deep/er/file; ls dir")
            .prints("data\nfile\nsub\n");
        let stderr = format!(
            "ctr-spawn: {dir}/none/here: No such file or directory (os error 2)\nhint: of this path there is {dir}\n",
            dir = t.path("work").display()
        );
        t.sh("ctr-spawn --rm -v ./none/here:/x app true").outputs("", &stderr, 125);
        t.sh("ls; ls $TARE_ROOT/containers").prints("dir\nlink\n");
    });
}

#[test]
fn a_tmpfs_holds_no_more_than_it_may() {
    of_either_user(|t| {
        t.sh("ctr-spawn --rm --tmpfs /t:size=1m,mode=700,uid=1000 --mount type=tmpfs,dst=/u,tmpfs-size=1m app sh -c '
                stat -c \"%a %u\" /t; for d in /t /u; do head -c 2000000 /dev/zero >$d/x 2>/dev/null || stat -c %s $d/x; done
                grep -cE \" /[tu] tmpfs .*nosuid,nodev,noexec\" /proc/mounts'")
            .prints("700 1000\n1048576\n1048576\n2\n");
        t.sh("ctr-spawn --rm --tmpfs /t:exec app sh -c 'cp /bin/busybox /t/echo; /t/echo ran'")
            .prints("ran\n");
    });
}

#[test]
fn a_tmpfs_lets_in_whom_the_directory_below_it_does() {
    let t = Sandbox::with_image("app");
    t.sh("img-unpack --rootfs app ./r; mkdir r/own r/shared; chmod 700 r/own; chmod 2775 r/shared; ln -s own r/link")
        .exits(0);
    t.sh("ctr-spawn --rootfs r --tmpfs /own --mount type=tmpfs,dst=/shared --tmpfs /new --tmpfs /own/new \
              stat -c '%a %n' /own /shared /new /own/new
          ctr-spawn --rootfs r --tmpfs /link:size=1m --mount type=tmpfs,dst=/shared,tmpfs-mode=755 stat -c '%a %n' /own /shared
          ctr-spawn --rootfs r --tmpfs /own -u app ls /own 2>&1 | grep -c denied")
        .prints("700 /own\n2775 /shared\n1777 /new\n1777 /own/new\n700 /own\n755 /shared\n1\n");
}

#[test]
fn a_read_only_root_has_places_that_are_not() {
    of_either_user(|t| {
        t.sh("ctr-spawn --rm --read-only --tmpfs /run app sh -c '
                for f in /x /etc/x /etc/hosts /etc/hostname /etc/resolv.conf /tmp/x /proc/x /sys/x; do (echo x >>$f) 2>/dev/null && echo $f; done
                for f in /run/x /dev/shm/x; do (echo x >>$f) || echo not $f; done; echo done'")
            .prints("done\n");
        t.sh("ctr-spawn --rm app sh -c 'for f in hosts hostname resolv.conf; do echo x >>/etc/$f || echo not $f; done'")
            .is_silent();
    });
}

#[test]
fn names_are_there_in_a_mounted_etc() {
    of_either_user(|t| {
        t.sh("mkdir etc; echo mine >etc/mine; echo theirs >etc/hosts
              ctr-spawn --rm -h box -v ./etc:/etc app sh -c 'cat /etc/mine /etc/hostname; grep -c box /etc/hosts; grep -c \" /etc/resolv.conf \" /proc/mounts'; cat etc/hosts
              ctr-spawn --rm --tmpfs /etc -h box app cat /etc/hostname
              echo ours >hosts; ctr-spawn --rm -v ./etc:/etc -v ./hosts:/etc/hosts app cat /etc/hosts")
            .prints("mine\nbox\n1\n1\ntheirs\nbox\nours\n");
    });
}

#[test]
fn a_cidfile_holds_the_id_alone() {
    let t = Sandbox::with_image("app");
    t.sh("ctr-spawn --cidfile id app true; wc -c <id; tr -d 0-9a-f <id; ls -d $TARE_ROOT/containers/$(cat id)/status.json | wc -l; cat id >before")
        .prints("64\n1\n");
    t.sh("ctr-spawn --cidfile id app true").outputs(
        "",
        "ctr-spawn: id: File exists (os error 17)\n",
        125,
    );
    t.sh("cmp id before; ls $TARE_ROOT/containers | wc -l").prints("1\n");
}

#[test]
fn no_cidfile_is_left_when_there_is_no_container() {
    let t = Sandbox::with_image("app");
    t.sh("ctr-spawn --cidfile new --pull never none true").exits(125);
    t.sh("ctr-spawn --cidfile new -v /none:/x app true").exits(125);
    t.sh("ls; ls $TARE_ROOT/containers").prints("");
}

#[test]
fn a_name_is_one_containers() {
    of_either_user(|t| {
        t.sh("ctr-spawn --name web app true; ctr-spawn --name web app true")
            .exits(125)
            .says("ctr-spawn: web: the container ")
            .says("has this name")
            .says("hint: another name, or ");
        // The hint is true: it names nothing that runs, and frees the name.
        t.sh("ctr-spawn --name owned app sh -c 'touch /f; chown 33:33 /f; exit 0'
              ctr-spawn --name owned app true 2>&1 | sed -n 's/^hint: another name, or //p' | sh
              ctr-spawn --name owned app true")
            .is_silent();
        t.sh("mkfifo gate; ctr-spawn --name runs -i app cat <gate & exec 3>gate
              until [ -h $TARE_ROOT/containers/.names/runs ]; do sleep 0.01; done
              ctr-spawn --name runs app true 2>&1 | sed -n 's/^hint: //p'; exec 3>&-; wait")
            .prints("another name: that container runs\n");
        t.sh("ctr-spawn --rm --name once app true; ctr-spawn --rm --name once app true")
            .is_silent();
        t.sh(
            "for i in 1 2 3 4 5 6; do ctr-spawn --name one app echo $i 2>/dev/null & done | wc -l",
        )
        .prints("1\n");
    });
}

#[test]
fn the_hosts_network_is_only_there_when_asked_for() {
    of_either_user(|t| {
        t.sh(
            "ctr-spawn --rm app ls /sys/class/net; ctr-spawn --rm --net none app ls /sys/class/net",
        )
        .prints("lo\nlo\n");
        t.sh("ctr-spawn --rm app sh -c 'ping -c1 -w1 127.0.0.1 >/dev/null; echo $?'").prints("0\n");
        t.sh("tail -n +3 /proc/net/dev | cut -d: -f1 | sort >ours
              ctr-spawn --rm --network host app tail -n +3 /proc/net/dev | cut -d: -f1 | sort | cmp - ours")
            .is_silent();
    });
}

#[test]
fn on_the_hosts_network_it_goes_by_the_hosts_name() {
    of_either_user(|t| {
        t.sh("uname -n >name; cp /etc/hosts hosts; names='hostname; cat /etc/hostname; echo $HOSTNAME'
              ctr-spawn --rm --network host app sh -c \"$names\" | uniq | cmp - name
              ctr-spawn --rm --network host app cat /etc/hosts | cmp - hosts
              ctr-spawn --rm --network host -h box app sh -c \"$names; tail -1 /etc/hosts\"")
            .prints("box\nbox\nbox\n127.0.0.1\tbox\n");
    });
}

#[test]
fn a_privileged_container_may_what_its_maker_may() {
    let mut t = Sandbox::with_image("app");
    if nix::unistd::geteuid().is_root() {
        may_what_its_maker_may(&t, true);
        t = Sandbox::with_image("app").as_user();
    }
    may_what_its_maker_may(&t, false);
}

fn may_what_its_maker_may(t: &Sandbox, root: bool) {
    let run = |script: &str| t.sh(&format!("ctr-spawn --rm --privileged app sh -c '{script}'"));
    // In a user namespace of his own, an ordinary user has all.
    let namespace = if root { "" } else { "unshare --user --map-root-user" };
    let status = "grep -e CapEff -e CapBnd -e Seccomp: /proc/self/status | cut -f2";
    let held = t.sh(&format!("{namespace} grep CapEff /proc/self/status | cut -f2")).text();
    let seccomp = t.sh("grep Seccomp: /proc/self/status | cut -f2").text();
    run(status).prints(&format!("{held}{held}{seccomp}"));
    t.sh(&format!("ctr-spawn --rm --privileged -u app app sh -c '{status}'"))
        .prints(&format!("{:016x}\n{held}{seccomp}", 0));
    run("mkdir /m && mount -t tmpfs t /m && echo mounts; hostname box && echo names
         echo 1 >/proc/sys/net/ipv4/ip_forward && echo sets
         grep -c \" /proc/[^ ]* \" /proc/self/mountinfo; grep \" /sys \" /proc/self/mountinfo | grep -c \" ro,\"; :")
        .prints("mounts\nnames\nsets\n0\n0\n");
    // Of the devices those that can be opened; the terminals are the container's own.
    let devices = r"find /dev -xdev \( -type c -o -type b \) -readable -writable ! -name console ! -name ptmx | sort";
    let theirs = "find /dev -type c -o -type b | grep -v -e ^/dev/pts/ -e ^/dev/console | sort";
    t.sh(devices).prints(&run(theirs).text());
    let node = "mknod /n c 1 3 && (echo x >/n) && echo a device";
    if root {
        run(node).prints("a device\n");
        t.sh(&format!("ctr-spawn --rm app sh -c '{node}' 2>/dev/null")).outputs("", "", 1);
    }
}

#[test]
fn what_a_privileged_container_leaves_of_its_cgroup_is_removed() {
    if sandbox::lacks(&["root"]) {
        return;
    }
    let t = Sandbox::with_image("app");
    t.sh("ctr-spawn --rm --privileged --cidfile id app sh -c '
            for dir in /sys/fs/cgroup/*/ /sys/fs/cgroup/; do
                test -e $dir/cgroup.procs && mkdir -p $dir/a/b $dir/c && echo 0 >$dir/a/b/cgroup.procs && echo made
            done; sleep 1000 & :'
          find /sys/fs/cgroup -path \"*$(cat id)*\"")
        .prints("made\n");
}

#[test]
fn cgroups_that_no_path_leads_to_are_removed_in_time() {
    if sandbox::lacks(&["root"]) {
        return;
    }
    let t = Sandbox::with_image("app");
    // As long as a path in the container can be, and too long outside.
    let long = "x".repeat(250);
    for (depth, name) in [(100, "a"), (16, long.as_str())] {
        let nest = format!(
            "for dir in /sys/fs/cgroup/pids /sys/fs/cgroup; do
                 test -e $dir/cgroup.procs && cd $dir && break
             done
             for n in $(seq {depth}); do mkdir {name} && cd {name} || exit; done
             echo 0 >cgroup.procs && echo made; sleep 1000 & :"
        );
        let run = t.sh(&format!(
            "ctr-spawn --rm --privileged --cidfile id app sh -c '{nest}'
             find /sys/fs/cgroup -maxdepth 4 -path \"*$(cat id)*\"; rm id; ctr-spawn --rm app echo next"
        ));
        assert!(run.took < Duration::from_secs(20), "{depth}: {:?}", run.took);
        run.prints("made\nnext\n");
    }
}

#[test]
fn what_does_not_exist_yet_is_refused() {
    let t = Sandbox::with_image("app");
    let usage = |what: &str| format!("ctr-spawn: {what}\nhint: ctr-spawn --help\n");
    for (option, what) in [
        ("-p 80:80", "invalid value '80:80' for '--publish <PUBLISH>': networks do not exist yet"),
        (
            "--network bridge",
            "invalid value 'bridge' for '--network <NETWORK>': networks do not exist yet (none or host)",
        ),
        (
            "-v data:/data",
            "invalid value 'data:/data' for '--volume <MOUNT>': volumes do not exist yet (./data is a path, data the name of a volume)",
        ),
        ("-d", "unexpected argument '-d' found"),
        ("--memory 1g", "unexpected argument '--memory' found"),
    ] {
        t.sh(&format!("ctr-spawn --rm {option} app true")).outputs("", &usage(what), 125);
    }
}

#[test]
fn a_time_limit_ends_all_of_it() {
    of_either_user(|t| {
        t.sh("ctr-spawn --rm --timeout 500ms app sh -c 'sleep 1000 & sleep 1000; wait'")
            .outputs("", "", 124);
        t.sh("ctr-spawn --rm --timeout 1m app sh -c 'exit 5'").exits(5);
    });
    let t = Sandbox::with_image("app");
    let run =
        t.sh("ctr-spawn --rm --timeout 0.1 app sh -c 'trap \"\" TERM; while :; do sleep 1; done'");
    assert!(run.took > Duration::from_secs(10) && run.took < Duration::from_secs(30));
    run.exits(124);
}

#[test]
fn the_number_of_processes_is_bounded_or_it_is_noted() {
    of_either_user(|t| {
        t.sh("ctr-spawn --name bounded --cidfile id app sleep 1000 & pid=$!
              until [ \"$(jq .pid $TARE_ROOT/containers/*/status.json 2>/dev/null)\" -gt 0 ] 2>/dev/null; do sleep .01; done
              inner=$(jq .pid $TARE_ROOT/containers/*/status.json)
              if jq -e '.notes | length > 0' $TARE_ROOT/containers/*/status.json >/dev/null; then
                  jq -r '.notes[0]' $TARE_ROOT/containers/*/status.json | grep -o '^no limit of 2048 processes'
              else
                  for dir in /sys/fs/cgroup/pids /sys/fs/cgroup; do
                      for group in $(sed 's/.*://' /proc/$inner/cgroup); do
                          case $group in *$(cat id)*) cat $dir/$group/pids.max 2>/dev/null;; esac
                      done
                  done | sort -u | sed 's/^2048$/no limit of 2048 processes/'
              fi
              kill $pid; wait $pid")
            .outputs("no limit of 2048 processes\n", "", 143);
    });
}
