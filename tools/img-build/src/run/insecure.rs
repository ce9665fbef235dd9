//! RUN --security=insecure: a step that is not kept from anything.
//!
//! It is BuildKit's: what Docker calls privileged, with all capabilities for any user, and with
//! these devices and not all of the host's. The cgroup stays read-only: one that a step made
//! would outlive it.

use std::path::Path;

use common::bundle;
use common::runtime::capability;
use oci_spec::runtime::{Capabilities, LinuxCapabilities, Spec};

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
    let devices = DEVICES.iter().filter(|_| !entered);
    bundle::unconfine(spec, devices.filter_map(|path| bundle::device(Path::new(path))).collect());
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
}
