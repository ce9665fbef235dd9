//! What the options change in a copy of a runtime spec.

use std::os::fd::AsFd;
use std::path::Path;

use anyhow::{Context, Error, Result, ensure};
use common::bundle::{self, set_variable};
use common::error::{Hint, Usage};
use common::passwd;
use common::path::clean;
use common::runtime::capability;
use oci_spec::image::ImageConfiguration;
use oci_spec::runtime::{LinuxNamespace, LinuxNamespaceType, Mount, Process, Spec};

use crate::env;
use crate::options::{Network, Options};

/// Applies `options` and the `command` to `spec`, whose root is `rootfs`.
///
/// With an `image` the spec was made by [`bundle::spec`] with
/// [`Options::for_image`], so that its user is settled already, and the command
/// goes behind its entrypoint.
pub fn apply(
    options: &Options,
    command: &[String],
    image: Option<&ImageConfiguration>,
    rootfs: impl AsFd,
    spec: &mut Spec,
) -> Result<()> {
    if options.privileged {
        bundle::unconfine(spec, bundle::host_devices());
        // It is the container's own, and goes with it.
        let is_cgroup = |kind: &str| matches!(kind, "cgroup" | "cgroup2");
        bundle::make_writable(spec, |mount| mount.typ().as_deref().is_some_and(is_cgroup));
    }
    mounts(options, spec)?;
    if options.read_only {
        let root = spec.root_mut().as_mut().context("config.json: no root")?;
        root.set_readonly(Some(true));
    }
    if let Some(name) = options.hostname() {
        ensure!(
            is_private(spec, LinuxNamespaceType::Uts),
            Usage("--hostname: the bundle has no UTS namespace of its own".into())
        );
        spec.set_hostname(Some(name.to_owned()));
    }
    if let Some(network) = options.network {
        connect(network, spec)?;
    }

    let process = spec.process_mut().as_mut().context("config.json: no process")?;
    let args = args(options, command, image, process);
    if args.is_empty() {
        return Err(Error::new(Usage("no command is given, and there is none of its own".into())))
            .hint(|| "name one behind the image".into());
    }
    process.set_args(Some(args));
    if options.tty {
        process.set_terminal(Some(true));
    }
    if let Some(dir) = options.workdir.as_deref().filter(|dir| !dir.is_empty()) {
        let absolute = Path::new(dir).is_absolute();
        ensure!(absolute, Usage(format!("--workdir: {dir:?}: not an absolute path")));
        process.set_cwd(clean(dir).into());
    }
    let user = options.user.as_deref().filter(|user| !user.is_empty() && image.is_none());
    if let Some(user) = user {
        become_user(user, &rootfs, process)?;
    }
    environment(options, process)
}

/// Returns the command, by Docker's rule: another entrypoint drops the image's own CMD as well.
fn args(
    options: &Options,
    command: &[String],
    image: Option<&ImageConfiguration>,
    process: &Process,
) -> Vec<String> {
    let config = image.and_then(|image| image.config().as_ref());
    let own = |of: Option<&Option<Vec<String>>>| of.cloned().flatten().unwrap_or_default();
    let mut args = match options.entrypoint.as_deref() {
        Some("") => Vec::new(),
        Some(program) => vec![program.to_string()],
        None => own(config.map(|config| config.entrypoint())),
    };
    if !command.is_empty() || options.entrypoint.is_some() {
        args.extend_from_slice(command);
    } else if image.is_some() {
        args.extend(own(config.map(|config| config.cmd())));
    } else {
        args = own(Some(process.args()));
    }
    args
}

/// Sets the variables: those of files first, then the others, and of two with one name the last counts.
fn environment(options: &Options, process: &mut Process) -> Result<()> {
    let mut own = process.env().clone().unwrap_or_default();
    if options.tty && !own.iter().any(|variable| variable.starts_with("TERM=")) {
        own.push("TERM=xterm".into());
    }
    if let Some(name) = options.hostname() {
        set_variable(&mut own, &format!("HOSTNAME={name}"));
    }
    for file in &options.env_file {
        for variable in env::read(file)? {
            let variable = variable.resolve(env::own)?;
            // A name that we have no value for says nothing here, and below that there is none.
            if variable.contains('=') {
                set_variable(&mut own, &variable);
            }
        }
    }
    for variable in &options.env {
        set_variable(&mut own, &variable.resolve(env::own)?);
    }
    process.set_env(Some(own));
    Ok(())
}

/// Makes the process another user's: his ids, his home, and only as root the capabilities in effect.
fn become_user(user: &str, rootfs: impl AsFd, process: &mut Process) -> Result<()> {
    let old = passwd::lookup(&rootfs, &process.user().uid().to_string())?;
    let new = passwd::lookup(&rootfs, user)?;
    process
        .user_mut()
        .set_uid(new.uid)
        .set_gid(new.gid)
        .set_username(None)
        .set_additional_gids(Some(new.groups));
    if let Some(sets) = process.capabilities() {
        let bounding = sets.bounding().clone().unwrap_or_default();
        process.set_capabilities(Some(capability::of_user(new.uid, &bounding)));
    }
    let mut own = process.env().clone().unwrap_or_default();
    let home = own.iter().find_map(|variable| variable.strip_prefix("HOME="));
    // A home that is not the old user's was chosen by somebody.
    if home.is_none_or(|home| home == old.home) {
        set_variable(&mut own, &format!("HOME={}", new.home));
    }
    process.set_env(Some(own));
    Ok(())
}

/// Adds the mounts, and takes out what they take the place of.
fn mounts(options: &Options, spec: &mut Spec) -> Result<()> {
    let wanted = options.all_mounts()?;
    let mut mounts = spec.mounts().clone().unwrap_or_default();
    mounts.retain(|mount| {
        let own = mount.destination();
        // With another /dev, what stood in the first one goes as well.
        let within =
            own.starts_with("/dev") && wanted.iter().any(|other| other.destination == "/dev");
        !within && !wanted.iter().any(|other| own == Path::new(&other.destination))
    });
    for mount in wanted {
        let mount = mount.to_oci()?;
        // It hides nothing: what is mounted below it comes after it.
        let below = |other: &Mount| other.destination().starts_with(mount.destination());
        let place = mounts.iter().position(below).unwrap_or(mounts.len());
        mounts.insert(place, mount);
    }
    spec.set_mounts(Some(mounts));
    Ok(())
}

/// Tells whether the container gets a new namespace of this kind.
fn is_private(spec: &Spec, kind: LinuxNamespaceType) -> bool {
    let namespaces = spec.linux().as_ref().and_then(|linux| linux.namespaces().as_ref());
    let mut namespaces = namespaces.into_iter().flatten();
    namespaces.any(|namespace| namespace.typ() == kind && namespace.path().is_none())
}

/// Connects the container to `network`, and to no other.
fn connect(network: Network, spec: &mut Spec) -> Result<()> {
    let user_namespace = is_private(spec, LinuxNamespaceType::User);
    let linux = spec.linux_mut().as_mut().context("config.json: no linux")?;
    let namespaces = linux.namespaces_mut().get_or_insert_default();
    namespaces.retain(|namespace| namespace.typ() != LinuxNamespaceType::Network);
    match network {
        Network::None => {
            let mut namespace = LinuxNamespace::default();
            namespace.set_typ(LinuxNamespaceType::Network);
            namespaces.push(namespace);
        }
        Network::Host => {
            // They would be the host's.
            if let Some(sysctls) = linux.sysctl_mut() {
                sysctls.retain(|name, _| !name.starts_with("net."));
            }
            if user_namespace {
                bundle::borrow_sysfs(spec);
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};

    use clap::Parser;
    use common::error::{find, line};
    use serde_json::{Value, json};
    use tempfile::TempDir;

    use super::*;

    #[derive(Parser)]
    struct Args {
        #[command(flatten)]
        options: Options,
    }

    fn tree() -> TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("etc")).unwrap();
        let passwd = "root:x:0:0::/root:/bin/sh\napp:x:1000:1000::/home/app:/bin/sh\n";
        fs::write(dir.path().join("etc/passwd"), passwd).unwrap();
        dir
    }

    fn options(line: &[&str]) -> Options {
        Args::parse_from(std::iter::once("ctr-spawn").chain(line.iter().copied())).options
    }

    fn image(config: Value) -> ImageConfiguration {
        let json = json!({
            "architecture": "amd64", "os": "linux", "config": config,
            "rootfs": { "type": "layers", "diff_ids": [] },
        });
        serde_json::from_value(json).unwrap()
    }

    /// Returns what the command line makes of an image.
    fn run(config: Value, line: &[&str]) -> Result<Spec> {
        let tree = tree();
        let root = File::open(tree.path()).unwrap();
        let options = options(line);
        let image = image(config);
        let mut spec = bundle::spec(&image, &root, &options.for_image("0123456789ab", None))?;
        let (_, command) = options.target()?;
        apply(&options, command, Some(&image), &root, &mut spec)?;
        Ok(spec)
    }

    /// Returns what the command line makes of a bundle, of an image that runs as root.
    fn run_bundle(line: &[&str]) -> Result<Spec> {
        let tree = tree();
        let root = File::open(tree.path()).unwrap();
        let line: Vec<&str> = ["--bundle", "b"].into_iter().chain(line.iter().copied()).collect();
        let options = options(&line);
        let image = image(json!({ "Entrypoint": ["/e"], "Cmd": ["c"] }));
        let mut spec = bundle::spec(&image, &root, &bundle::Options::default())?;
        let (_, command) = options.target()?;
        apply(&options, command, None, &root, &mut spec)?;
        Ok(spec)
    }

    fn process(spec: &Spec) -> &Process {
        spec.process().as_ref().unwrap()
    }

    fn env(spec: &Spec) -> Vec<&str> {
        process(spec).env().as_ref().unwrap().iter().map(String::as_str).collect()
    }

    #[test]
    fn entrypoint_and_command_compose_as_dockers() {
        let both = || json!({ "Entrypoint": ["/e", "x"], "Cmd": ["c", "d"] });
        let table: &[(Value, &[&str], &[&str])] = &[
            (both(), &["app"], &["/e", "x", "c", "d"]),
            (both(), &["app", "a"], &["/e", "x", "a"]),
            (both(), &["--entrypoint", "/f", "app"], &["/f"]),
            (both(), &["--entrypoint", "/f", "app", "a"], &["/f", "a"]),
            (both(), &["--entrypoint", "", "app", "a"], &["a"]),
            (json!({ "Cmd": ["c"] }), &["app"], &["c"]),
            (json!({ "Cmd": ["c"] }), &["app", "a", "b"], &["a", "b"]),
            (json!({ "Entrypoint": ["/e"] }), &["app"], &["/e"]),
            (json!({}), &["app", "a"], &["a"]),
        ];
        for (config, line, expected) in table {
            let spec = run(config.clone(), line).unwrap();
            assert_eq!(process(&spec).args().as_ref().unwrap(), expected, "{line:?}");
        }
        for (config, line) in [(json!({}), vec!["app"]), (both(), vec!["--entrypoint", "", "app"])]
        {
            let err = run(config, &line).unwrap_err();
            assert!(find::<Usage>(&err).is_some());
        }
    }

    #[test]
    fn a_bundle_runs_its_own_command_unless_another_is_given() {
        let table: &[(&[&str], &[&str])] = &[
            (&[], &["/e", "c"]),
            (&["a", "b"], &["a", "b"]),
            (&["--entrypoint", "/f"], &["/f"]),
            (&["--entrypoint", "/f", "a"], &["/f", "a"]),
            (&["--entrypoint", "", "a"], &["a"]),
        ];
        for (line, expected) in table {
            let spec = run_bundle(line).unwrap();
            assert_eq!(process(&spec).args().as_ref().unwrap(), expected, "{line:?}");
        }
    }

    #[test]
    fn variables_replace_those_of_the_image_where_they_stand() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("vars");
        fs::write(&file, "B=file\nC=file\nNO_SUCH_VARIABLE_HERE\n").unwrap();
        let config = json!({ "Env": ["A=image", "B=image"], "Cmd": ["sh"] });
        let line = [
            "-e",
            "C=option",
            "--env-file",
            file.to_str().unwrap(),
            "-e",
            "A=1",
            "-e",
            "A=2",
            "-e",
            "HOME=/h",
            "-e",
            "NO_SUCH_VARIABLE_HERE",
            "app",
        ];
        let spec = run(config, &line).unwrap();
        let path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
        let expected = [path, "HOSTNAME=0123456789ab", "A=2", "B=file", "HOME=/h", "C=option"];
        assert_eq!(env(&spec), expected);
    }

    #[test]
    fn a_name_without_a_value_takes_the_images_away_but_not_in_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("vars");
        fs::write(&file, "NO_SUCH_VARIABLE_HERE\n").unwrap();
        let config = || json!({ "Env": ["NO_SUCH_VARIABLE_HERE=image"], "Cmd": ["sh"] });
        let has = |line: &[&str]| {
            let spec = run(config(), line).unwrap();
            env(&spec).contains(&"NO_SUCH_VARIABLE_HERE=image")
        };
        assert!(has(&["app"]) && has(&["--env-file", file.to_str().unwrap(), "app"]));
        assert!(!has(&["-e", "NO_SUCH_VARIABLE_HERE", "app"]));
    }

    #[test]
    fn a_terminal_and_a_hostname_are_told_to_the_process() {
        let spec = run(json!({ "Cmd": ["sh"] }), &["-t", "-h", "box", "app"]).unwrap();
        assert_eq!(process(&spec).terminal(), Some(true));
        assert_eq!(spec.hostname().as_deref(), Some("box"));
        assert_eq!(env(&spec)[1..], ["HOSTNAME=box", "TERM=xterm", "HOME=/root"]);
        let spec = run_bundle(&["-t", "-h", "box"]).unwrap();
        assert_eq!(spec.hostname().as_deref(), Some("box"));
        assert_eq!(env(&spec)[1..], ["HOME=/root", "TERM=xterm", "HOSTNAME=box"]);
    }

    #[test]
    fn another_user_has_his_home_and_no_capabilities() {
        for spec in [
            run(json!({ "Cmd": ["sh"] }), &["-u", "app", "app"]).unwrap(),
            run_bundle(&["-u", "app"]).unwrap(),
        ] {
            let process = process(&spec);
            assert_eq!((process.user().uid(), process.user().gid()), (1000, 1000));
            assert!(env(&spec).contains(&"HOME=/home/app"));
            let sets = capability::Sets::from(process.capabilities().as_ref().unwrap());
            assert_eq!((sets.effective, sets.permitted), (0, 0));
            assert_eq!(sets.bounding, 0xa80425fb);
        }
        assert!(run_bundle(&["-u", "nobody-here"]).is_err());
        assert!(run(json!({ "Cmd": ["sh"] }), &["-u", ":0", "app"]).is_err());
    }

    #[test]
    fn a_home_that_the_image_sets_stays() {
        let spec = run(json!({ "Cmd": ["sh"], "Env": ["HOME=/x"] }), &["-u", "app", "app"]);
        assert!(env(&spec.unwrap()).contains(&"HOME=/x"));
    }

    #[test]
    fn a_mount_takes_the_place_of_a_default_one() {
        let places = |spec: &Spec| {
            let mounts = spec.mounts().as_ref().unwrap().iter();
            mounts.map(|mount| mount.destination().display().to_string()).collect::<Vec<_>>()
        };
        let spec = run_bundle(&["-v", "/tmp:/dev/shm", "--tmpfs", "/run", "-v", "/tmp:/a/b"]);
        let spec = spec.unwrap();
        let expected = [
            "/proc",
            "/dev",
            "/dev/pts",
            "/sys",
            "/sys/fs/cgroup",
            "/dev/mqueue",
            "/run",
            "/dev/shm",
            "/a/b",
        ];
        assert_eq!(places(&spec), expected);
        let spec = run_bundle(&["-v", "/tmp:/sys/fs/cgroup/x", "--tmpfs", "/sys/fs"]).unwrap();
        let sys = [expected[3], "/sys/fs", expected[4]];
        assert_eq!(places(&spec)[3..6], sys, "what is there by default is not hidden");
        assert_eq!(places(&spec).last().unwrap(), "/sys/fs/cgroup/x");
        let spec = run_bundle(&["-v", "/dev:/dev"]).unwrap();
        assert_eq!(places(&spec), ["/proc", "/sys", "/sys/fs/cgroup", "/dev"]);
        let err = run_bundle(&["-v", "/no/such/path:/x"]).unwrap_err();
        assert_eq!(line(&err), "/no/such/path: No such file or directory (os error 2)");
    }

    #[test]
    fn a_privileged_container_may_what_we_may_whoever_runs_in_it() {
        for spec in [
            run(json!({ "Cmd": ["sh"] }), &["--privileged", "-u", "app", "app"]).unwrap(),
            run_bundle(&["--privileged", "-u", "app"]).unwrap(),
        ] {
            let sets = capability::Sets::from(process(&spec).capabilities().as_ref().unwrap());
            assert_eq!((sets.effective, sets.permitted), (0, 0));
            assert_eq!(sets.bounding.count_ones() as usize, capability::ALL.len());
            let linux = spec.linux().as_ref().unwrap();
            assert!(linux.seccomp().is_none() && linux.masked_paths().is_none());
            let mut devices = linux.devices().iter().flatten();
            assert!(devices.any(|device| device.path() == Path::new("/dev/null")));
        }
        let writable = |line: &[&str], path: &str| {
            let spec = run_bundle(line).unwrap();
            let mut mounts = spec.mounts().iter().flatten();
            let mount = mounts.find(|mount| mount.destination() == Path::new(path)).unwrap();
            !mount.options().iter().flatten().any(|option| option == "ro" || option == "rro")
        };
        for path in ["/sys", "/sys/fs/cgroup"] {
            assert!(!writable(&[], path) && writable(&["--privileged"], path), "{path}");
        }
        assert!(!writable(&["--privileged", "-v", "/tmp:/sys:ro"], "/sys"), "it was asked for");
    }

    #[test]
    fn the_root_and_the_working_directory_are_as_asked() {
        let spec = run_bundle(&["--read-only", "-w", "/made/for/it"]).unwrap();
        assert_eq!(spec.root().as_ref().unwrap().readonly(), Some(true));
        assert_eq!(process(&spec).cwd(), Path::new("/made/for/it"));
        let spec = run_bundle(&["-w", "/a/b/../c/./"]).unwrap();
        assert_eq!(process(&spec).cwd(), Path::new("/a/c"));
        let err = run_bundle(&["-w", "here"]).unwrap_err();
        assert_eq!(line(&err), "--workdir: \"here\": not an absolute path");
        assert!(find::<Usage>(&err).is_some());
    }

    #[test]
    fn what_is_empty_is_not_given() {
        let config = || json!({ "Cmd": ["sh"], "WorkingDir": "/image", "User": "app" });
        let line = ["--name", "", "-h", "", "-w", "", "-u", "", "app"];
        assert_eq!(options(&line).name(), None);
        let spec = run(config(), &line).unwrap();
        assert_eq!(process(&spec).cwd(), Path::new("/image"));
        assert_eq!(process(&spec).user().uid(), 1000);
        assert_eq!(spec.hostname().as_deref(), Some("0123456789ab"));
        let (empty, none) = (run_bundle(&line[..8]).unwrap(), run_bundle(&[]).unwrap());
        assert_eq!(empty, none);
    }

    #[test]
    fn the_network_is_the_hosts_or_the_containers_own() {
        let private = |spec: &Spec| is_private(spec, LinuxNamespaceType::Network);
        let sysctls = |spec: &Spec| {
            spec.linux().as_ref().unwrap().sysctl().as_ref().map_or(0, |sysctls| sysctls.len())
        };
        let spec = run_bundle(&[]).unwrap();
        assert!(private(&spec) && sysctls(&spec) == 2);
        let spec = run_bundle(&["--network", "host"]).unwrap();
        assert!(!private(&spec) && sysctls(&spec) == 0);
        let spec = run(json!({ "Cmd": ["sh"] }), &["--network", "host", "app"]).unwrap();
        assert!(!private(&spec) && sysctls(&spec) == 0);
        let spec = run(json!({ "Cmd": ["sh"] }), &["--network", "none", "app"]).unwrap();
        assert!(private(&spec) && sysctls(&spec) == 2);
    }
}
