//! A virtual machine: Debian's kernel, a busybox, our programs, and a script.
//!
//! It is emulated (TCG), so that it runs where a machine is one itself. What its script
//! writes comes out of its serial port, a line at a time. Its disk is a file of the host's,
//! written to when the guest writes to the disk, so that all that is lost with the guest
//! is what it had not written yet: as with a plug that is pulled.

use std::fs::{self, File, Permissions};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use sandbox::image::{Image, PACK, full_name};
use sandbox::{lacks, program_names, skip, target_dir, workspace};
use serde_json::json;

/// How long it may take to boot, and to do what it is told. An emulator on a busy machine is slow.
const PATIENCE: Duration = Duration::from_secs(600);

/// What a guest does first. The order is that of the modules' needs.
const INIT: &str = r#"#!/bin/busybox sh
export PATH=/bin HOME=/root TMPDIR=/tmp TARE_ROOT=/tare TARE_RUN=/run/tare
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /run
for module in virtio_ring virtio virtio_pci_legacy_dev virtio_pci_modern_dev virtio_pci virtio_blk overlay; do
    insmod /modules/$module.ko 2>/dev/null
done
# From the kernel's first root nobody can move to another: pivot_root(2), NOTES.
mkdir /root.new
mount -t tmpfs tmpfs /root.new
cp -a /bin /etc /home /mnt /root /script* /tare /tmp /root.new/
mkdir /root.new/proc /root.new/sys /root.new/dev /root.new/run
for dir in proc sys dev run; do mount --move /$dir /root.new/$dir; done
exec switch_root /root.new /bin/sh -c 'sh /script 2>&1; echo "the end"; reboot -f'
"#;

/// A machine that runs until it is dropped.
pub struct Machine {
    child: Child,
    lines: Receiver<String>,
    /// What it has said so far.
    pub said: Vec<String>,
    deadline: Instant,
}

/// Returns the kernel for machines, unless this one cannot have it.
pub fn kernel() -> Option<PathBuf> {
    if cfg!(not(target_arch = "x86_64")) {
        skip("is for x86-64");
        return None;
    }
    if lacks(&["qemu-system-x86_64", "cpio", "strip", "mkfs.ext4"]) {
        return None;
    }
    // Tests run beside each other, and one of them gets it.
    static ONE: Mutex<()> = Mutex::new(());
    let _one = ONE.lock();
    let dir = target_dir().join("../tmp/kernel");
    let got = Command::new(workspace().join("scripts/kernel")).arg(&dir).output().unwrap();
    if !got.status.success() {
        skip(&format!("needs a kernel: {}", String::from_utf8_lossy(&got.stderr)));
        return None;
    }
    Some(dir)
}

/// Makes a machine's disk, an ext4 in the file `path`.
pub fn disk(path: &Path) -> PathBuf {
    File::create(path).unwrap().set_len(256 << 20).unwrap();
    assert!(Command::new("mkfs.ext4").arg("-q").arg(path).status().unwrap().success());
    path.to_owned()
}

/// Makes what a machine boots into, in `dir`: to run `script`, with these scripts beside it, by number.
pub fn initrd(kernel: &Path, dir: &Path, script: &str, others: &[&str]) -> PathBuf {
    let root = dir.join("root");
    for name in
        ["bin", "dev", "etc", "home", "mnt", "modules", "proc", "root", "run", "sys", "tare", "tmp"]
    {
        fs::create_dir_all(root.join(name)).unwrap();
    }
    let busybox = Path::new("/bin/busybox");
    fs::copy(busybox, root.join("bin/busybox")).unwrap();
    symlink("busybox", root.join("bin/sh")).unwrap();
    for name in program_names() {
        let mut strip = Command::new("strip");
        strip.arg("-o").arg(root.join("bin").join(&name)).arg(target_dir().join(&name));
        assert!(strip.status().unwrap().success());
    }
    let modules = kernel.join("modules/kernel");
    for module in [
        "drivers/virtio/virtio_ring",
        "drivers/virtio/virtio",
        "drivers/virtio/virtio_pci_legacy_dev",
        "drivers/virtio/virtio_pci_modern_dev",
        "drivers/virtio/virtio_pci",
        "drivers/block/virtio_blk",
        "fs/overlayfs/overlay",
    ] {
        let from = modules.join(module).with_extension("ko");
        fs::copy(&from, root.join("modules").join(from.file_name().unwrap())).unwrap();
    }
    fs::write(
        root.join("etc/passwd"),
        "root:x:0:0::/root:/bin/sh\nuser:x:1000:1000::/home:/bin/sh\n",
    )
    .unwrap();
    fs::write(root.join("etc/group"), "root:x:0:\nuser:x:1000:\n").unwrap();
    system().copy_to(&root.join("tare/images"), &full_name("app"));
    fs::write(root.join("script"), script).unwrap();
    for (n, other) in others.iter().enumerate() {
        fs::write(root.join(format!("script.{n}")), other).unwrap();
    }
    fs::write(root.join("init"), INIT).unwrap();
    fs::set_permissions(root.join("init"), Permissions::from_mode(0o755)).unwrap();

    let file = dir.join("initrd");
    let pack = "find . | cpio --quiet --create --format=newc --owner=0:0";
    let packed = Command::new("/bin/sh")
        .args(["-c", pack])
        .current_dir(&root)
        .stdout(File::create(&file).unwrap())
        .status();
    assert!(packed.unwrap().success());
    fs::remove_dir_all(root).unwrap();
    file
}

/// An image of two layers: a busybox, and something that hides a part of it.
fn system() -> Image {
    let busybox = sandbox::image::busybox_layer();
    let second = format!(
        "mkdir -p etc var bin; touch bin/.wh.vi; mkdir var/lib; touch var/lib/.wh..wh..opq
        echo layered >etc/layered; {PACK}"
    );
    let env = json!({ "Env": [sandbox::image::PATH], "Cmd": ["sh"] });
    Image::new(&[&busybox, &second], &env)
}

impl Machine {
    /// Boots a machine.
    pub fn boot(kernel: &Path, initrd: &Path, disk: &Path) -> Machine {
        let mut qemu = Command::new("qemu-system-x86_64");
        qemu.args(["-accel", "tcg", "-m", "640", "-nic", "none", "-no-reboot"])
            .args(["-display", "none", "-monitor", "none", "-serial", "stdio"])
            .arg("-kernel")
            .arg(kernel.join("vmlinuz"))
            .arg("-initrd")
            .arg(initrd)
            .args(["-append", "console=ttyS0 quiet loglevel=1 panic=-1 cgroup_no_v1=all"]);
        let drive = format!("file={},if=virtio,format=raw,cache=writeback", disk.display());
        qemu.args(["-drive", &drive]);
        let mut child = qemu
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("qemu-system-x86_64");
        let serial = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in serial.split(b'\n').map_while(Result::ok) {
                let line = String::from_utf8_lossy(&line).trim_end_matches('\r').to_owned();
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Machine { child, lines, said: Vec::new(), deadline: Instant::now() + PATIENCE }
    }

    /// Returns the next line, or nothing when the machine is off.
    pub fn line(&mut self) -> Option<String> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        match self.lines.recv_timeout(left) {
            Ok(line) => {
                self.said.push(line.clone());
                Some(line)
            }
            Err(RecvTimeoutError::Disconnected) => None,
            Err(RecvTimeoutError::Timeout) => {
                panic!("the machine hangs:\n{}", self.said.join("\n"))
            }
        }
    }

    /// Lets it run until it says `line`.
    pub fn until(&mut self, line: &str) {
        while let Some(said) = self.line() {
            if said == line {
                return;
            }
        }
        panic!("it went off before {line:?}:\n{}", self.said.join("\n"));
    }

    /// Pulls the plug; returns what came over the line before.
    pub fn pull_the_plug(mut self) -> Vec<String> {
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.said.extend(self.lines.iter());
        std::mem::take(&mut self.said)
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
