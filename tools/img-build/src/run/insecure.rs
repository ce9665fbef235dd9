//! RUN --security=insecure: a step that is not kept from anything.
//!
//! It is BuildKit's: what Docker calls privileged, with all capabilities for any user, and with
//! these devices and not all of the host's. The cgroup stays read-only: one that a step made
//! would outlive it.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use common::bundle;
use common::runtime::capability;
use oci_spec::runtime::{Capabilities, LinuxCapabilities, LinuxDevice, LinuxDeviceType, Spec};

/// The devices of the host that a step gets besides the usual ones, if they are there.
const DEVICES: [&str; 14] = [
    "/dev/cuse",
    "/dev/fuse",
    "/dev/kmsg",
    "/dev/kvm",
    "/dev/loop-control",
    "/dev/loop0",
    "/dev/loop1",
    "/dev/loop2",
    "/dev/loop3",
    "/dev/loop4",
    "/dev/loop5",
    "/dev/loop6",
    "/dev/loop7",
    "/dev/net/tun",
];

/// Lets the step do whatever we may. Root of a user namespace, `entered`, has no devices to give.
pub(super) fn apply(spec: &mut Spec, entered: bool) {
    bundle::unconfine(spec);
    let all = || Some(Capabilities::from(capability::ALL));
    let mut sets = LinuxCapabilities::default();
    sets.set_bounding(all())
        .set_effective(all())
        .set_permitted(all())
        .set_inheritable(all())
        .set_ambient(all());
    if let Some(process) = spec.process_mut() {
        process.set_capabilities(Some(sets));
    }
    if let Some(linux) = spec.linux_mut().as_mut().filter(|_| !entered) {
        linux.set_devices(Some(DEVICES.iter().filter_map(|path| device(path)).collect()));
    }
}

/// Returns a device as it is on the host.
fn device(path: &str) -> Option<LinuxDevice> {
    let meta = fs::metadata(path).ok()?;
    let kind = match meta.file_type() {
        kind if kind.is_char_device() => LinuxDeviceType::C,
        kind if kind.is_block_device() => LinuxDeviceType::B,
        _ => return None,
    };
    let mut device = LinuxDevice::default();
    device
        .set_path(Path::new(path).into())
        .set_typ(kind)
        .set_major(rustix::fs::major(meta.rdev()).into())
        .set_minor(rustix::fs::minor(meta.rdev()).into())
        .set_file_mode(Some(meta.mode() & 0o777));
    Some(device)
}
