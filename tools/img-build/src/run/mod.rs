//! RUN: a process in a snapshot of the image so far, and what it has written.
//!
//! ```text
//! snapshot ──overlay──> root ──stubs, mounts──> container ──process ends──> upper directory: the layer
//!
//! step     the directory of a step, and its end, however it comes     cache    caches that outlive builds
//! mounts   RUN --mount                                                secrets  what nothing keeps
//! insecure RUN --security=insecure                                     agent    sockets of ssh-agent
//! ```
//!
//! The container is the one that ctr-spawn makes: Docker's capabilities, seccomp filter and
//! masks. What differs is that nobody keeps it. Its process is a child of the thread that calls
//! [`run`], and dies with it; its directory is `containers/.build/<id>`, where the next tool
//! removes what a killed build has left. Its spec is written nowhere, since secrets may be in it.
//!
//! [`enter`] comes first, once a process: mounts are made here, and nobody else is to see them.

mod agent;
mod cache;
mod insecure;
mod mask;
mod mounts;
pub mod secrets;
mod step;

use std::fs;
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use anyhow::{Context, Error, Result, bail, ensure};
use common::bundle;
use common::digest::Digest;
use common::error::{At, Hint};
use common::overlay::{Overlay, Upper};
use common::path::clean;
use common::runtime::cgroup::{Cgroup, Memory};
use common::runtime::{self, CannotRun, CgroupView, Ended, Io, Shape, Stubs, Surrounding};
use common::snapshot::{Root, Snapshot};
use common::store::Store;
use common::userns::{self, Mapping};
use oci_spec::image::{ImageConfiguration, Os};
use oci_spec::runtime::{PosixRlimit, Spec};
use rustix::io::Errno;
use serde::Serialize;

use self::mounts::Mounts;
use self::secrets::{Agents, Secrets};
use self::step::Step;
use crate::dockerfile::instruction::Security;

pub use self::mounts::{MountFrom, Origin};
pub use self::step::{check_root, enter, give_up};

/// Where the script of a step is that is no command of a shell: as BuildKit has it.
const SCRIPTS: &str = "/dev/pipes";

/// A step.
pub struct Run<'a> {
    /// Where its directory and its caches are.
    pub store: &'a Store,
    /// The image so far.
    pub snapshot: &'a Snapshot,
    /// Whom it runs as, as USER says.
    pub user: &'a str,
    /// Where it runs, an absolute path.
    pub cwd: &'a str,
    /// The command; with a script the arguments of that.
    pub args: Vec<String>,
    /// All its variables, but for HOME, which the image's /etc/passwd has, and for those of mounts.
    pub env: Vec<String>,
    /// The name and the text of a script that is run instead of a command.
    pub script: Option<(&'a str, &'a str)>,
    /// What is mounted for it.
    pub mounts: Vec<MountFrom<'a>>,
    /// What it sees of the network.
    pub network: Network,
    /// What it may do.
    pub security: Security,
    /// Names that it finds in /etc/hosts.
    pub hosts: &'a [(String, IpAddr)],
    /// The bytes of /dev/shm.
    pub shm_size: Option<u64>,
    /// Its limits.
    pub ulimits: &'a [PosixRlimit],
    /// How much memory its processes may have together.
    pub memory: Option<Memory>,
    /// What `--secret` says.
    pub secrets: &'a Secrets,
    /// What `--ssh` says.
    pub ssh: &'a Agents,
    /// Where it prints to.
    pub output: OwnedFd,
    /// The name of its machine.
    pub hostname: &'a str,
    /// What comes before the names of caches, so that they are others; nothing by default.
    pub caches: &'a str,
}

/// What a step sees of the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Network {
    /// The host's.
    Host,
    /// Nothing but itself.
    None,
}

/// A step that has ended. Its directory goes with this value.
#[derive(Debug)]
pub struct Ran {
    /// How its process ended.
    pub ended: Ended,
    /// The limit of memory, in bytes, if one of its processes was killed for it.
    pub out_of_memory: Option<u64>,
    /// What is in [`Ran::tree`].
    pub how: How,
    /// What the user should know, if anything.
    pub note: Option<String>,
    tree: PathBuf,
    _step: Step,
}

/// What a step's directory holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum How {
    /// The upper directory of an overlay: what the step has changed.
    Overlay {
        /// Whether overlay's marks are `user.overlay.*` in it.
        userxattr: bool,
    },
    /// All of the image, and what the step has changed.
    Copied {
        /// The image without that.
        before: PathBuf,
    },
}

impl Ran {
    /// Returns the directory that has what the step has written.
    pub fn tree(&self) -> &Path {
        &self.tree
    }

    /// Returns the image with the step on top, whose layer has been packed and has this diff ID.
    ///
    /// Where it cannot be had without unpacking the layer again, there is none:
    /// then [`Snapshot::prepare`] it is.
    pub fn adopt(self, below: &Snapshot, diff_id: &Digest) -> Result<Option<Snapshot>> {
        if !matches!(self.how, How::Overlay { .. }) {
            return Ok(None);
        }
        match below.adopt(&self.tree, diff_id)? {
            Some(snapshot) => Ok(Some(snapshot)),
            None if self.tree.exists() => Ok(below.borrow(self.tree.clone(), self, diff_id)),
            None => Ok(None),
        }
    }
}

/// Runs a step to its end; one whose process fails has run all the same.
///
/// The thread that calls this must stay until it returns, as it does unless it is killed.
pub fn run(run: Run) -> Result<Ran> {
    ensure!(run.cwd.starts_with('/'), "{}: not an absolute path", run.cwd);
    let step = Step::make(run.store)?;
    let (mut root, note) = run.snapshot.root(step.dir())?;
    let (tree, how) = match &mut root {
        Root::Overlay(overlay) => {
            overlay.volatile = true;
            let upper = match &overlay.upper {
                Upper::Dirs { upper, .. } => upper.clone(),
                Upper::Tmpfs(at) => at.join("upper"),
                Upper::None => bail!("an overlay that cannot be written to"),
            };
            (upper, How::Overlay { userxattr: overlay.userxattr })
        }
        Root::Dir(dir) => {
            let before = run.snapshot.lower().into_iter().next().context("no layers")?;
            (dir.clone(), How::Copied { before })
        }
    };
    let mount = root.mount(run.security == Security::Insecure)?;
    let mut stubs = Stubs::default();
    let ended = in_container(run, &step, &root, &mount, &mut stubs);
    let removed = stubs.remove();
    let (ended, out_of_memory) = ended?;
    if ended == Ended::Exited(0) {
        removed.context("cannot remove a mount point that was made for it")?;
    }
    Ok(Ran { ended, out_of_memory, how, note, tree, _step: step })
}

/// Sees that steps can be kept to so much memory.
pub fn try_limit(memory: Memory, store: &Store) -> Result<()> {
    Step::make(store)?.limit(memory).map(drop)
}

/// Runs the process; returns how it ended, and the limit of memory that it was killed for.
fn in_container(
    mut run: Run,
    step: &Step,
    root: &Root,
    tree: &OwnedFd,
    stubs: &mut Stubs,
) -> Result<(Ended, Option<u64>)> {
    let entered = userns::is_entered()?;
    let on_memory = matches!(root, Root::Overlay(Overlay { upper: Upper::Tmpfs(_), .. }));
    let mut mounts = Mounts::new(step.dir(), run.store, run.caches, on_memory)?;
    for mount in &run.mounts {
        mounts.add(mount, run.cwd, run.secrets, run.ssh)?;
    }
    if let Some((name, text)) = run.script.take() {
        run.args.insert(0, mounts.script(name, text)?);
    }
    let mounts = mounts.finish()?;
    let spec = spec(&run, &mounts, step, tree, entered)?;
    let mut targets: Vec<(PathBuf, Shape)> = Vec::new();
    for mount in spec.mounts().iter().flatten() {
        let target = mount.destination().clone();
        // One in another mount is none of the root's.
        if !targets.iter().any(|(other, _)| target.starts_with(other)) {
            let file = Path::new(mount.source().as_deref().unwrap_or(Path::new(""))).to_owned();
            let bind = mount.typ().as_deref() == Some("bind");
            let shape = if bind && !file.is_dir() { Shape::File } else { Shape::Directory };
            targets.push((target, shape));
        }
    }
    for (target, shape) in &targets {
        let made = stubs.make(tree, target, *shape);
        // Whoever mounts there says better what is wrong.
        if !matches!(made, Err(Errno::LOOP | Errno::NOTDIR)) {
            made.at(target)?;
        }
    }
    let cgroup = run.memory.map(|memory| step.limit(memory)).transpose()?;
    let surrounding = Surrounding {
        user_namespace: entered,
        entered,
        tasks: cgroup.iter().flat_map(Cgroup::tasks).collect(),
        cgroup: CgroupView::of(cgroup.as_ref()),
        ..Surrounding::default()
    };
    let plan = runtime::plan(&spec, root, &surrounding)?;
    let null = fs::File::open("/dev/null").at("/dev/null")?;
    let io = Io {
        stdin: Some(null.into()),
        output: Some(run.output),
        root: matches!(root, Root::Overlay(_)).then(|| tree.try_clone()).transpose()?,
        ..Io::default()
    };
    let running = step.start(|| runtime::start(&plan, &spec, io)).map_err(foreign)?;
    // It has mounts of its own by now.
    let held = mounts.detach();
    let ended = running.wait();
    step.ended();
    drop(held);
    let out_of_memory = cgroup.is_some_and(|cgroup| cgroup.ran_out_of_memory());
    let limit = run.memory.filter(|_| out_of_memory).map(|memory| memory.limit);
    Ok((ended?, limit))
}

/// Says what is missing if a program is not one of this machine's.
fn foreign(err: Error) -> Error {
    let cannot = common::error::find::<CannotRun>(&err);
    if cannot.is_none_or(|cannot| cannot.errno != Errno::NOEXEC) {
        return err;
    }
    let hint = || {
        "a program of another platform needs binfmt_misc (the package qemu-user-static has it), a script #! in its first line".into()
    };
    Err::<(), _>(err).hint(hint).unwrap_err()
}

/// Returns the spec of the step's container.
fn spec(
    run: &Run,
    mounts: &mounts::Made,
    step: &Step,
    tree: &OwnedFd,
    entered: bool,
) -> Result<Spec> {
    static MASKED: OnceLock<Vec<String>> = OnceLock::new();
    let mappings = match entered {
        true => Some((&Mapping::current()?).into()),
        false => None,
    };
    let options = bundle::Options {
        hostname: Some(run.hostname.to_owned()),
        user: Some(run.user.to_owned()).filter(|user| !user.is_empty()),
        host_network: run.network == Network::Host,
        mappings,
        masked: MASKED.get_or_init(bundle::thermal_throttle).clone(),
        ..bundle::Options::default()
    };
    let mut config = ImageConfiguration::default();
    config.set_os(Os::Linux);
    let mut spec = bundle::spec(&config, tree.as_fd(), &options)?;

    let process = spec.process_mut().as_mut().context("no process")?;
    let defaults = process.env().clone().unwrap_or_default();
    let mut env = run.env.clone();
    for key in ["PATH=", "HOME="] {
        if !env.iter().any(|variable| variable.starts_with(key)) {
            env.extend(defaults.iter().find(|variable| variable.starts_with(key)).cloned());
        }
    }
    for variable in &mounts.env {
        bundle::set_variable(&mut env, variable);
    }
    ensure!(!run.args.is_empty(), "no command");
    process.set_env(Some(env)).set_args(Some(run.args.clone())).set_cwd(clean(run.cwd).into());
    if !run.ulimits.is_empty() {
        process.set_rlimits(Some(run.ulimits.to_vec()));
    }

    if run.security == Security::Insecure {
        insecure::apply(&mut spec, entered);
    }
    let mut all = spec.mounts().clone().unwrap_or_default();
    if let Some(size) = run.shm_size {
        for mount in all.iter_mut().filter(|mount| mount.destination() == Path::new("/dev/shm")) {
            let mut options = mount.options().clone().unwrap_or_default();
            options.retain(|option| !option.starts_with("size="));
            options.push(format!("size={size}"));
            mount.set_options(Some(options));
        }
    }
    for (name, text) in [("resolv.conf", resolv_conf()), ("hosts", hosts(run))] {
        let path = step.write(name, text.as_bytes())?;
        let source = utf8(&path)?;
        let options = ["rbind", "rprivate", "ro", "nosuid", "nodev", "noexec"];
        all.push(bundle::mount(&format!("/etc/{name}"), "bind", source, &options));
    }
    let wanted = |place: &Path| mounts.spec.iter().any(|other| other.destination() == place);
    all.retain(|mount| !wanted(mount.destination()));
    all.extend(mounts.spec.iter().cloned());
    spec.set_mounts(Some(all));
    Ok(spec)
}

/// Returns how names are found: as on the host.
fn resolv_conf() -> String {
    fs::read_to_string("/etc/resolv.conf").unwrap_or_default()
}

/// Returns the names that are known without asking anybody.
fn hosts(run: &Run) -> String {
    let mut text = match run.network {
        Network::Host => fs::read_to_string("/etc/hosts").unwrap_or_default(),
        Network::None => {
            "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n".to_owned()
        }
    };
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    text.push_str(&format!("127.0.0.1\t{}\n", run.hostname));
    // What the user says comes first: of two lines with one name, the first is believed.
    let own: String = run.hosts.iter().map(|(name, ip)| format!("{ip}\t{name}\n")).collect();
    own + &text
}

fn utf8(path: &Path) -> Result<&str> {
    path.to_str().with_context(|| format!("{}: not UTF-8", path.display()))
}

#[cfg(test)]
mod tests;
