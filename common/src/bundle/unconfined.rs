//! A container that is kept from nothing that its maker may do: Docker's `--privileged`, and BuildKit's
//! `RUN --security=insecure`.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use oci_spec::runtime::{
    Capabilities, LinuxDevice, LinuxDeviceCgroup, LinuxDeviceType, Mount, Spec,
};
use rustix::fs::{Access, access};

use crate::runtime::capability;

/// Where a host has its devices.
const DEV: &str = "/dev";

/// Gives a container all capabilities, these devices and any that it makes, and takes away its filter, its masks
/// and what else keeps it from the kernel's parameters.
pub fn unconfine(spec: &mut Spec, devices: Vec<LinuxDevice>) {
    if let Some(process) = spec.process_mut() {
        let all = Capabilities::from(capability::ALL);
        process
            .set_capabilities(Some(capability::of_user(process.user().uid(), &all)))
            .set_no_new_privileges(Some(false));
    }
    if let Some(linux) = spec.linux_mut() {
        let mut any = LinuxDeviceCgroup::default();
        any.set_allow(true).set_access(Some("rwm".into()));
        let mut resources = linux.resources().clone().unwrap_or_default();
        resources.set_devices(Some(vec![any]));
        linux
            .set_devices(Some(devices))
            .set_resources(Some(resources))
            .set_seccomp(None)
            .set_masked_paths(None)
            .set_readonly_paths(None);
    }
    make_writable(spec, |mount| mount.destination() == Path::new("/sys"));
}

/// Makes writable what is mounted read-only, of the mounts that are `meant`.
pub fn make_writable(spec: &mut Spec, meant: impl Fn(&Mount) -> bool) {
    for mount in spec.mounts_mut().iter_mut().flatten().filter(|mount| meant(mount)) {
        let mut options = mount.options().clone().unwrap_or_default();
        options.retain(|option| option != "ro");
        mount.set_options(Some(options));
    }
}

/// Returns all devices of the host that we can open, in the order of their names.
pub fn host_devices() -> Vec<LinuxDevice> {
    let mut devices = Vec::new();
    if let Ok(dev) = fs::metadata(DEV) {
        collect(Path::new(DEV), dev.dev(), &mut devices);
    }
    devices.sort_by(|a, b| a.path().cmp(b.path()));
    devices
}

/// Adds what is below `dir`. Other filesystems than `filesystem` are mounts that a container has of its own: terminals, memory.
fn collect(dir: &Path, filesystem: u64, devices: &mut Vec<LinuxDevice>) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        let (path, Ok(kind)) = (entry.path(), entry.file_type()) else { continue };
        if kind.is_dir() && entry.metadata().is_ok_and(|meta| meta.dev() == filesystem) {
            collect(&path, filesystem, devices);
        }
        let ours = || access(&path, Access::READ_OK | Access::WRITE_OK).is_ok();
        // A name that is not UTF-8 cannot stand in a config.json.
        if (kind.is_char_device() || kind.is_block_device()) && path.to_str().is_some() && ours() {
            devices.extend(device(&path));
        }
    }
}

/// Returns a device as it is on the host, if there is one at `path`.
pub fn device(path: &Path) -> Option<LinuxDevice> {
    let meta = fs::metadata(path).ok()?;
    let kind = match meta.file_type() {
        kind if kind.is_char_device() => LinuxDeviceType::C,
        kind if kind.is_block_device() => LinuxDeviceType::B,
        _ => return None,
    };
    let mut device = LinuxDevice::default();
    device
        .set_path(path.into())
        .set_typ(kind)
        .set_major(rustix::fs::major(meta.rdev()).into())
        .set_minor(rustix::fs::minor(meta.rdev()).into())
        .set_file_mode(Some(meta.mode() & 0o777))
        .set_uid(Some(meta.uid()))
        .set_gid(Some(meta.gid()));
    Some(device)
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use oci_spec::image::ImageConfiguration;
    use serde_json::{Value, json};

    use super::*;
    use crate::bundle::{self, Options};

    #[test]
    fn an_unconfined_container_may_all_that_there_is() {
        let tree = tempfile::tempdir().unwrap();
        let (image, root) = (ImageConfiguration::default(), File::open(tree.path()).unwrap());
        let mut spec = bundle::spec(&image, root, &Options::default()).unwrap();
        let devices = vec![device(Path::new("/dev/zero")).unwrap()];
        unconfine(&mut spec, devices);
        let made: Value = serde_json::from_slice(&bundle::to_json(&spec).unwrap()).unwrap();
        let sets = &made["process"]["capabilities"];
        assert_eq!(sets["effective"].as_array().unwrap().len(), capability::ALL.len());
        assert_eq!(sets["effective"], sets["bounding"]);
        let linux = &made["linux"];
        for gone in ["seccomp", "maskedPaths", "readonlyPaths"] {
            assert!(linux.get(gone).is_none(), "{gone}");
        }
        let any = json!([{ "allow": true, "access": "rwm" }]);
        assert_eq!(linux["resources"]["devices"], any);
        assert!(linux["resources"]["pids"]["limit"].is_number());
        let zero = json!([{
            "path": "/dev/zero", "type": "c", "major": 1, "minor": 5, "fileMode": 0o666, "uid": 0, "gid": 0
        }]);
        assert_eq!(linux["devices"], zero);
        let mounts = made["mounts"].as_array().unwrap();
        let sys = mounts.iter().find(|mount| mount["destination"] == "/sys").unwrap();
        assert_eq!(sys["options"], json!(["nosuid", "noexec", "nodev"]));
    }

    #[test]
    fn the_hosts_devices_are_those_that_can_be_opened_and_no_terminals() {
        let devices = host_devices();
        let paths: Vec<&str> = devices.iter().filter_map(|it| it.path().to_str()).collect();
        assert!(paths.is_sorted());
        assert!(paths.contains(&"/dev/null") && paths.contains(&"/dev/zero"), "{paths:?}");
        assert!(!paths.iter().any(|path| path.starts_with("/dev/pts/")), "{paths:?}");
        assert_eq!(device(Path::new("/dev")), None);
        assert_eq!(device(Path::new("/dev/no-such")), None);
    }
}
