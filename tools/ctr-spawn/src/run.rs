//! From the command line to a container, and to its exit status.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use common::bundle;
use common::cli::{self, Operand};
use common::container::{self, Container};
use common::error::At;
use common::overlay::{Overlay, Upper};
use common::platform::Platform;
use common::runtime::cgroup::{Cgroup, Limits};
use common::runtime::{self, Ahead, CgroupView, Io, Plan, Surrounding};
use common::snapshot::{Root, Snapshot};
use common::store::Store;
use common::userns::{self, Mapping, Range};
use oci_spec::image::ImageConfiguration;
use oci_spec::runtime::{LinuxNamespaceType, Spec};
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat, openat2};

use crate::options::{Network, Options, Target};
use crate::supervise::Supervision;
use crate::terminal::Terminal;
use crate::{apply, pull};

/// The largest config.json that is read.
const CONFIG_LIMIT: u64 = 16 << 20;

/// A container that can be started.
struct Made {
    container: Container,
    spec: Spec,
    root: Root,
    /// The root, mounted nowhere yet.
    mount: Option<OwnedFd>,
    /// We are in the user namespace that the spec speaks of.
    entered: bool,
    /// The limits of the spec were chosen by somebody, and not by us.
    asked: bool,
    /// Its network namespace, on its way.
    network: Option<Ahead>,
    /// Keeps the layers from being removed.
    _snapshot: Option<Snapshot>,
}

/// Runs a container; returns its exit status.
pub fn run(options: &Options) -> Result<u8> {
    let Some(path) = options.cidfile.as_deref() else { return run_and_tell(options, |_| Ok(())) };
    // Made first, since a file that is there already is somebody's.
    let mut file = File::create_new(path).at(path)?;
    let status = run_and_tell(options, |id| file.write_all(id.as_bytes()).at(path));
    if status.is_err() {
        let _ = std::fs::remove_file(path); // there is no such container
    }
    status
}

/// Runs a container, whose id `tell` gets before it starts.
fn run_and_tell(options: &Options, tell: impl FnOnce(&str) -> Result<()>) -> Result<u8> {
    let (target, command) = options.target()?;
    let terminal = match options.tty {
        true => Some(Terminal::open(options.interactive)?),
        false => None,
    };
    let mut made = match target {
        Target::Image(operand) => image(options, operand, command)?,
        Target::Bundle(dir) => bundle_in(options, &dir, command)?,
        Target::Rootfs(dir) => rootfs(options, &dir, command)?,
    };
    let told = tell(made.container.id());
    or_remove(&mut made.container, told)?;
    start(options, made, terminal)
}

/// Makes the container of an image.
fn image(options: &Options, operand: Operand, command: &[String]) -> Result<Made> {
    let store = options.root.open()?;
    let found = pull::find(operand, &store, options.pull)?;
    found.mark_used(&store);
    let dead = container::end_orphans(&store.containers());
    let mapping = userns::ensure_root()?;
    let network = network(options);
    let image = found.layout.resolve(&found.desc, &Platform::host())?;
    let name = match &found.name {
        Some(name) => name.to_string(),
        None => image.desc.digest().to_string(),
    };
    let blobs =
        common::image::layers(&image.manifest, &image.config).with_context(|| name.clone())?;
    let snapshot =
        Snapshot::prepare(&store.layers(), &found.layout, &blobs).with_context(|| name.clone())?;
    for warning in &snapshot.warnings {
        cli::warn(format!("{name}: {warning}"));
    }
    let mut container = create(&store, options, &dead)?;
    let prepared = (|| {
        let (mut root, note) = snapshot.root(container.dir())?;
        if let Some(note) = note {
            cli::warn(&note);
            container.status.notes.push(note);
        }
        if let Root::Overlay(overlay) = &mut root {
            overlay.volatile = options.rm;
            container.status.layers = snapshot.keys();
        }
        container.status.image = name;
        container.status.image_id = Some(image.desc.digest().to_string());
        let mount = mount(&root, options)?;
        let spec = defaults(options, command, &image.config, &mapping, &mount, &container, false)?;
        Ok((root, spec, mount))
    })();
    let (root, (spec, entered), mount) = or_remove(&mut container, prepared)?;
    let mount = matches!(root, Root::Overlay(_)).then_some(mount);
    Ok(Made {
        container,
        spec,
        root,
        mount,
        entered,
        asked: false,
        network,
        _snapshot: Some(snapshot),
    })
}

/// Makes the container of a bare tree, with Docker's defaults.
fn rootfs(options: &Options, dir: &Path, command: &[String]) -> Result<Made> {
    let store = options.root.open()?; // ours, which it would not be as root of a namespace
    let dead = container::end_orphans(&store.containers());
    let mapping = userns::ensure_root()?;
    let network = network(options);
    let mut container = create(&store, options, &dead)?;
    let prepared = (|| {
        let dir = std::path::absolute(dir).at(dir)?;
        let root = Root::Dir(dir.clone());
        let tree = mount(&root, options)?;
        container.status.image = dir.display().to_string();
        let config = ImageConfiguration::default();
        let spec = defaults(options, command, &config, &mapping, &tree, &container, true)?;
        Ok((root, spec))
    })();
    let (root, (spec, entered)) = or_remove(&mut container, prepared)?;
    Ok(Made { container, spec, root, mount: None, entered, asked: false, network, _snapshot: None })
}

/// Makes the container of a bundle, as its config.json says.
fn bundle_in(options: &Options, dir: &Path, command: &[String]) -> Result<Made> {
    let store = options.root.open()?; // ours, which it would not be as root of a namespace
    // A user's is made once it is clear which user namespace it belongs to.
    let root = rustix::process::geteuid().is_root();
    let ahead = root.then(|| network(options)).flatten();
    let path = dir.join("config.json");
    let mut spec: Spec = serde_json::from_slice(&read_config(&path).at(&path)?).at(&path)?;
    let dead = container::end_orphans(&store.containers());
    let entered = match userns::is_entered()? || root {
        true => false,
        false => enter(&spec).context(path.display().to_string())?,
    };
    let network = if root { ahead } else { network(options) };
    let root = spec.root().as_ref().with_context(|| format!("{}: no root", path.display()))?;
    let root = Root::Dir(std::path::absolute(dir.join(root.path())).at(dir)?);
    let tree = mount(&root, options)?;
    apply::apply(options, command, None, &tree, &mut spec)?;

    let mut container = create(&store, options, &dead)?;
    container.status.image = dir.display().to_string();
    Ok(Made { container, spec, root, mount: None, entered, asked: true, network, _snapshot: None })
}

/// Begins to make the network namespace that the container will most likely want.
fn network(options: &Options) -> Option<Ahead> {
    (options.network != Some(Network::Host)).then(Ahead::begin).flatten()
}

/// Reads a config.json: a file, of a sane size, even if something else has its name.
fn read_config(path: &Path) -> Result<Vec<u8>> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = File::from(openat(CWD, path, flags, Mode::empty()).map_err(std::io::Error::from)?);
    ensure!(file.metadata()?.is_file(), "not a regular file");
    let mut bytes = Vec::new();
    file.take(CONFIG_LIMIT + 1).read_to_end(&mut bytes)?;
    ensure!(bytes.len() as u64 <= CONFIG_LIMIT, "larger than {CONFIG_LIMIT} bytes");
    Ok(bytes)
}

/// Enters the user namespace that `spec` asks for, or else one of our own choice; returns whether it was the former.
fn enter(spec: &Spec) -> Result<bool> {
    let Some(linux) = spec.linux() else { return Ok(false) };
    let mut namespaces = linux.namespaces().iter().flatten();
    if !namespaces.any(|namespace| namespace.typ() == LinuxNamespaceType::User) {
        userns::ensure_root()?;
        return Ok(false);
    }
    let ranges = |field: &Option<Vec<oci_spec::runtime::LinuxIdMapping>>| {
        let maps = field.iter().flatten();
        maps.map(|map| Range {
            container: map.container_id(),
            host: map.host_id(),
            size: map.size(),
        })
        .collect()
    };
    let (uids, gids) = (ranges(linux.uid_mappings()), ranges(linux.gid_mappings()));
    userns::enter(&Mapping { uids, gids })?;
    Ok(true)
}

/// Makes the container's directory. Before that, the `dead` ones that others left behind are removed.
fn create(store: &Store, options: &Options, dead: &[String]) -> Result<Container> {
    let containers = store.containers();
    container::collect(&containers, dead);
    // A bundle and a tree keep nothing of their own that would be worth a directory when they have ended.
    let rm = options.rm || options.bundle.is_some() || options.rootfs.is_some();
    Container::create(&containers, options.name(), rm)
}

/// Removes the container if it cannot be made.
fn or_remove<T>(container: &mut Container, made: Result<T>) -> Result<T> {
    if made.is_err() {
        container.discard();
    }
    made
}

/// Mounts a root, nowhere yet.
fn mount(root: &Root, options: &Options) -> Result<OwnedFd> {
    if let Root::Overlay(Overlay { upper: Upper::Tmpfs(_), .. }) = root
        && !userns::is_entered()?
    {
        // This one is mounted in our own namespace, which must not be the host's.
        userns::private_mounts()?;
    }
    root.mount(options.privileged)
}

/// Returns the spec of a container with Docker's defaults, and whether it speaks of the user namespace that we are in.
fn defaults(
    options: &Options,
    command: &[String],
    config: &ImageConfiguration,
    mapping: &Mapping,
    tree: &OwnedFd,
    container: &Container,
    keep: bool,
) -> Result<(Spec, bool)> {
    let entered = userns::is_entered()?;
    let mappings = entered.then(|| mapping.into());
    let host = rustix::system::uname();
    let hostname = match options.network {
        // On the host's network it goes by the host's name.
        Some(Network::Host) => host.nodename().to_string_lossy(),
        _ => container.id()[..12].into(),
    };
    let mut spec = bundle::spec(config, tree, &options.for_image(&hostname, mappings))?;
    names(options, container, tree, keep, &mut spec)?;
    apply::apply(options, command, Some(config), tree, &mut spec)?;
    if let (Some(score), Some(process)) = (oom_score(), spec.process_mut()) {
        process.set_oom_score_adj(Some(score));
    }
    Ok((spec, entered))
}

/// Returns the oom_score_adj of a container, unless it is what ours is.
///
/// If memory is short, it is not spared because our caller is. Nor does it gain by a caller
/// that is to go first: who set that may have been more powerful than we are.
fn oom_score() -> Option<i32> {
    let own = std::fs::read_to_string("/proc/self/oom_score_adj").ok()?;
    own.starts_with('-').then_some(0)
}

/// Gives the container its /etc/hostname, /etc/hosts and /etc/resolv.conf, as Docker does; with `keep`, only where the tree has one.
fn names(
    options: &Options,
    container: &Container,
    tree: &OwnedFd,
    keep: bool,
    spec: &mut Spec,
) -> Result<()> {
    let hostname = spec.hostname().clone().unwrap_or_default();
    let host = options.network == Some(Network::Host);
    let read = |path: &str| std::fs::read(path).unwrap_or_default();
    let hosts = match (host, options.hostname()) {
        (true, None) => read("/etc/hosts"),
        (true, Some(name)) => {
            let mut hosts = read("/etc/hosts");
            hosts.extend_from_slice(format!("\n127.0.0.1\t{name}\n").as_bytes());
            hosts
        }
        (false, _) => format!(
            "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n127.0.0.1\t{hostname}\n"
        )
        .into_bytes(),
    };
    let files = [
        ("hostname", format!("{hostname}\n").into_bytes()),
        ("hosts", hosts),
        ("resolv.conf", read("/etc/resolv.conf")),
    ];
    let mut how = vec!["rbind", "rprivate"];
    how.extend(options.read_only.then_some("ro"));
    let mut mounts = spec.mounts().clone().unwrap_or_default();
    for (name, bytes) in files {
        let inside = format!("/etc/{name}");
        if keep && !has(tree, &inside) {
            continue;
        }
        let path = container.write(name, &bytes)?;
        let source = path.to_str().with_context(|| format!("{}: not UTF-8", path.display()))?;
        mounts.push(bundle::mount(&inside, "bind", source, &how));
    }
    spec.set_mounts(Some(mounts));
    Ok(())
}

/// Tells whether `tree` has something at `path`. Its links lead nowhere but into it.
fn has(tree: &OwnedFd, path: &str) -> bool {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    openat2(tree, path, flags, Mode::empty(), resolve).is_ok()
}

/// Starts the container, and stays until it has ended.
fn start(options: &Options, made: Made, terminal: Option<Terminal>) -> Result<u8> {
    let Made { mut container, mut spec, root, mount, entered, asked, network, _snapshot } = made;
    let containers = container.dir().parent().unwrap_or(Path::new("/")).to_owned();
    let started = (|| {
        let terminal = agree(&mut spec, terminal)?;
        let cgroup = limit(&spec, &mut container, &containers, asked)?;
        let born = cgroup.as_ref().map(Cgroup::open).transpose()?.flatten();
        let surrounding = Surrounding {
            user_namespace: userns::is_entered()?,
            entered,
            tasks: cgroup.iter().filter(|_| born.is_none()).flat_map(Cgroup::tasks).collect(),
            cgroup: CgroupView::of(cgroup.as_ref()),
            terminal_size: terminal.as_ref().and_then(Terminal::size),
            init: options.init,
        };
        let plan = runtime::plan(&spec, &root, &surrounding)?;
        let interactive = options.interactive || terminal.is_some();
        let io = Io {
            stdin: if interactive {
                None
            } else {
                Some(File::open("/dev/null").at("/dev/null")?.into())
            },
            output: None,
            root: mount,
            cgroup: born,
            network,
        };
        container.status.command =
            spec.process().as_ref().and_then(|process| process.args().clone()).unwrap_or_default();
        let timeout = options.timeout.filter(|timeout| !timeout.is_zero());
        let supervision = Supervision::new(timeout)?;
        let running = runtime::start(&plan, &spec, io)?;
        container.status.started(&running);
        container.status.cgroups = cgroup.iter().flat_map(Cgroup::dirs).collect();
        // While it runs already: nobody needs these files to start it.
        let saved = write_config(&container, &spec).and_then(|()| container.save());
        if saved.is_err() {
            running.kill();
        }
        let ended = supervision.supervise(running, terminal, is_first(&plan))?;
        drop(cgroup);
        saved?;
        Ok(ended)
    })();
    let ended = match started {
        Ok(ended) => ended,
        Err(err) => {
            container.discard();
            return Err(err);
        }
    };
    if container.status.rm {
        container.remove()?;
    } else {
        container.status.pid = None;
        container.status.pid_inode = None;
        container.status.cgroups.clear();
        container.status.finished = Some(container::now());
        container.status.exit_code = Some(ended.status.into());
        container.status.signal = ended.signal;
        container.keep()?;
    }
    Ok(ended.status)
}

/// Writes the spec that the container runs with into its directory.
fn write_config(container: &Container, spec: &Spec) -> Result<()> {
    container.write("config.json", &serde_json::to_vec(spec)?)?;
    Ok(())
}

/// Returns whether the first process is number 1, whom no signal kills that it does not handle.
fn is_first(plan: &Plan) -> bool {
    const CLONE_NEWPID: u64 = 0x2000_0000;
    plan.namespaces & CLONE_NEWPID != 0
}

/// Makes the spec and our terminal agree: a bundle that wants one gets ours if there is one.
fn agree(spec: &mut Spec, terminal: Option<Terminal>) -> Result<Option<Terminal>> {
    let process = spec.process_mut().as_mut().context("config.json: no process")?;
    if terminal.is_none() && process.terminal() == Some(true) {
        let ours = Terminal::open(true).ok();
        process.set_terminal(Some(ours.is_some()));
        return Ok(ours);
    }
    Ok(terminal)
}

/// Applies the limits of the spec; a default that cannot be applied is noted.
fn limit(
    spec: &Spec,
    container: &mut Container,
    containers: &Path,
    asked: bool,
) -> Result<Option<Cgroup>> {
    let resources = spec.linux().as_ref().and_then(|linux| linux.resources().as_ref());
    let limits = resources.map(Limits::of).transpose()?.unwrap_or_default();
    let namespaces = spec.linux().as_ref().and_then(|linux| linux.namespaces().as_ref());
    let has = |kind| namespaces.into_iter().flatten().any(|namespace| namespace.typ() == kind);
    // Without one for mounts it is not started at all.
    let bounded = has(LinuxNamespaceType::Pid) || !has(LinuxNamespaceType::Mount);
    if limits == Limits::default() && bounded {
        return Ok(None);
    }
    let made = Cgroup::make(container.id(), &limits, |id| container::is_alive(containers, id));
    match (made, limits.pids) {
        (Ok(cgroup), _) => Ok(Some(cgroup)),
        (Err(err), _) if limits.memory.is_some() => {
            Err(err.context("linux.resources: cannot be applied"))
        }
        (Err(err), None) => {
            let why = "linux.namespaces: without one for pids it takes a cgroup to end a container";
            Err(err.context(why))
        }
        (Err(err), _) if asked => Err(err.context("linux.resources.pids: cannot be applied")),
        (Err(err), Some(pids)) => {
            let note = format!("no limit of {pids} processes: {}", common::error::line(&err));
            container.status.notes.push(note);
            Ok(None)
        }
    }
}
