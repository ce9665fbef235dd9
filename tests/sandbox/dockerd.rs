//! Docker's daemon, for one test: in mount and network namespaces of its own, stopped by its pid.
//!
//! It runs no containers here. It loads, saves, pulls, pushes and builds: a registry for it has to
//! listen in its network namespace, which is that of its process.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::Sandbox;

/// How it is started. It wants the control group of devices: version 2 always has it.
const START: &str = r#"
    test -d /sys/fs/cgroup/devices || mount -t cgroup2 cgroup2 /sys/fs/cgroup
    ip link set lo up
    echo '{}' >$1/config.json
    exec dockerd --host unix://$1/docker.sock --config-file $1/config.json --pidfile $1/pid \
        --data-root $1/data --exec-root $1/exec --bridge none --iptables=false \
        --storage-driver $2 --exec-opt native.cgroupdriver=cgroupfs
"#;

/// What comes before it for one that builds: what it builds lies in memory, a layer on the other.
const IN_MEMORY: &str = "mkdir $1/data; mount -t tmpfs tmpfs $1/data\n";

/// A daemon that runs until it is dropped, which must be before its sandbox is.
pub struct Dockerd {
    child: Child,
    dir: PathBuf,
}

impl Dockerd {
    /// Starts it, for the scripts that follow: `$DOCKER` is the client, `$DOCKER_HOST` its address.
    pub fn start(t: &Sandbox) -> Dockerd {
        Dockerd::with(t, START, "vfs")
    }

    /// Starts one that is fast enough to build with.
    pub fn building(t: &Sandbox) -> Dockerd {
        Dockerd::with(t, &format!("{IN_MEMORY}{START}"), "overlay2")
    }

    fn with(t: &Sandbox, script: &str, driver: &str) -> Dockerd {
        let dir = t.path("docker");
        fs::create_dir(&dir).unwrap();
        let log = File::create(dir.join("log")).unwrap();
        let child = Command::new("unshare")
            .args(["--mount", "--net", "--propagation", "private", "sh", "-ec", script, "dockerd"])
            .arg(&dir)
            .arg(driver)
            .env("TMPDIR", &dir)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .expect("unshare");
        let mut dockerd = Dockerd { child, dir };
        t.set("DOCKER", dockerd.client());
        t.set("DOCKER_HOST", format!("unix://{}/docker.sock", dockerd.dir.display()));
        t.set("DOCKER_CONFIG", dockerd.dir.join("client"));
        for _ in 0..600 {
            if let Some(status) = dockerd.child.try_wait().unwrap() {
                panic!("dockerd ended, {status}:\n{}", dockerd.log());
            }
            if t.sh("$DOCKER version").code == 0 {
                return dockerd;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        panic!("dockerd does not come up:\n{}", dockerd.log());
    }

    /// Returns the pid of the daemon, in whose network namespace it can be reached.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Returns what it has said.
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.join("log")).unwrap_or_default()
    }

    /// Returns the client that came with the daemon: another one may be too new for it.
    fn client(&self) -> PathBuf {
        let dirs = std::env::var_os("PATH").unwrap_or_default();
        let found = std::env::split_paths(&dirs)
            .chain(["/usr/sbin".into()])
            .map(|dir| dir.join("dockerd"))
            .find(|path| path.is_file());
        let sbin = found.expect("dockerd (Debian: docker.io)");
        let beside = sbin.parent().and_then(Path::parent).map(|usr| usr.join("bin/docker"));
        beside.filter(|path| path.is_file()).unwrap_or_else(|| sbin.with_file_name("docker"))
    }
}

impl Drop for Dockerd {
    fn drop(&mut self) {
        // It ends its containerd, too.
        let _ = kill(Pid::from_raw(self.child.id() as i32), Signal::SIGTERM);
        let _ = self.child.wait();
    }
}
