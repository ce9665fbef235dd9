//! `RUN --mount`: each mount as the runtime spec has it, and what has to be there for it.
//!
//! ```text
//! <step>/mounts/<n>        a tree that is bound, or an overlay of it that takes what is written
//!   <n>.mask               whiteouts for what .dockerignore hides
//!   <n>.upper <n>.work     what is written, for nobody
//! <step>/mounts/memory     secrets, scripts and sockets of agents: a tmpfs
//! ```
//!
//! Nothing is mounted by a path that somebody else has a hand in: a source is opened beneath its
//! tree's root, and what that leads to is mounted in the step's directory, in this process's own
//! mount namespace. The container has taken it from there when it runs; then it goes.

use std::fs::{self, File, Permissions};
use std::io::{ErrorKind, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail, ensure};
use common::error::{At, Hint};
use common::overlay::{self, Overlay, Upper};
use common::path::clean;
use common::snapshot::Snapshot;
use common::store::Store;
use common::{bundle, sys, tree};
use oci_spec::runtime::Mount as OciMount;
use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, fstat};
use rustix::io::Errno;
use rustix::mount::{
    MountAttrFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, move_mount, open_tree, unmount,
};

use super::agent::Agent;
use super::cache::{self, Cache};
use super::secrets::{Agents, Secret, Secrets};
use super::{SCRIPTS, mask, utf8};
use crate::dockerfile::mount::{Mount, Type};
use crate::source::Tree;

/// A mount, and where it comes from.
pub struct MountFrom<'a> {
    /// What the Dockerfile says.
    pub mount: &'a Mount,
    /// The context, a stage or an image; nothing for types that come from nowhere.
    pub from: Option<Origin<'a>>,
    /// Some of it may not be root's. To the step it is: of a context nobody knows whose it was.
    pub foreign: bool,
}

/// Where a mount comes from.
#[derive(Clone, Copy)]
pub enum Origin<'a> {
    /// A tree of files. Its root was opened after [`super::enter`].
    Tree(&'a Tree),
    /// A stage or an image.
    Snapshot {
        /// Its layers.
        snapshot: &'a Snapshot,
        /// What it is called in messages.
        name: &'a str,
    },
}

impl Origin<'_> {
    fn name(&self) -> &str {
        match self {
            Origin::Tree(tree) => &tree.name,
            Origin::Snapshot { name, .. } => name,
        }
    }
}

/// The mounts of a step, on their way.
pub(super) struct Mounts<'a> {
    store: &'a Store,
    /// What comes before the names of caches.
    prefix: &'a str,
    dir: PathBuf,
    /// The step's own files are in memory, since its directory's filesystem cannot hold them.
    on_memory: bool,
    count: usize,
    agents: Vec<Agent>,
    spec: Vec<OciMount>,
    env: Vec<String>,
    caches: Vec<(usize, cache::Wanted)>,
    attached: Attached,
}

/// The mounts of a step.
pub(super) struct Made {
    /// As the runtime spec has them.
    pub spec: Vec<OciMount>,
    /// The variables that they are known by.
    pub env: Vec<String>,
    held: Held,
    attached: Attached,
}

/// What is to stay until the container ends.
#[derive(Debug)]
pub(super) struct Held {
    _caches: Vec<Cache>,
    _agents: Vec<Agent>,
}

impl Made {
    /// Takes out of this mount namespace what the container has in its own; returns what is to stay.
    pub(super) fn detach(self) -> Held {
        drop(self.attached);
        self.held
    }
}

/// What is mounted in the step's directory; it is unmounted with this value.
#[derive(Default)]
struct Attached(Vec<PathBuf>);

impl Drop for Attached {
    fn drop(&mut self) {
        for path in self.0.iter().rev() {
            let _ = unmount(path, UnmountFlags::DETACH);
        }
    }
}

impl Attached {
    /// Gives a mount a place.
    fn attach(&mut self, mount: &OwnedFd, at: &Path) -> Result<()> {
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
        move_mount(mount, "", CWD, at, flags).at(at)?;
        self.0.push(at.into());
        Ok(())
    }
}

impl<'a> Mounts<'a> {
    pub(super) fn new(
        step: &Path,
        store: &'a Store,
        prefix: &'a str,
        on_memory: bool,
    ) -> Result<Mounts<'a>> {
        Ok(Mounts {
            store,
            prefix,
            dir: step.join("mounts"),
            on_memory,
            count: 0,
            agents: Vec::new(),
            spec: Vec::new(),
            env: Vec::new(),
            caches: Vec::new(),
            attached: Attached::default(),
        })
    }

    /// Adds a mount of a step that runs in `cwd`.
    pub(super) fn add(
        &mut self,
        from: &MountFrom,
        cwd: &str,
        secrets: &Secrets,
        agents: &Agents,
    ) -> Result<()> {
        let mount = from.mount;
        self.add_one(from, cwd, secrets, agents)
            .with_context(|| format!("--mount=type={}", mount.kind.name()))
    }

    fn add_one(
        &mut self,
        from: &MountFrom,
        cwd: &str,
        secrets: &Secrets,
        agents: &Agents,
    ) -> Result<()> {
        let mount = from.mount;
        match mount.kind {
            Type::Secret => return self.secret(mount, cwd, secrets),
            Type::Ssh => return self.agent(mount, cwd, agents),
            Type::Bind | Type::Cache | Type::Tmpfs => {}
        }
        let target = target(mount.target.as_deref().unwrap_or_default(), cwd)?;
        let ro = mount.read_only;
        match (mount.kind, from.from) {
            (Type::Tmpfs, _) => {
                let mut options = vec!["nosuid".to_owned(), "nodev".into()];
                options.extend(mount.size.map(|size| format!("size={size}")));
                options.extend(ro.then(|| "ro".into()));
                let options: Vec<&str> = options.iter().map(String::as_str).collect();
                self.spec.push(bundle::mount(&target, "tmpfs", "tmpfs", &options));
            }
            (Type::Cache, origin) => {
                let name = origin.map(|from| from.name().into());
                let mut wanted = cache::Wanted::new(mount, &target, self.prefix, name)?;
                match origin {
                    Some(origin) => {
                        let path = mount.source.as_deref();
                        let initial = self.open(origin, path)?;
                        wanted.hidden = hidden(origin, &initial, path)?;
                        wanted.initial = Some(initial);
                        wanted.foreign = matches!(origin, Origin::Tree(_));
                    }
                    None => ensure!(
                        mount.source.is_none(),
                        "source= of a new cache, in which nothing is: it needs from="
                    ),
                }
                // Where it is, is known when it is ours.
                self.caches.push((self.spec.len(), wanted));
                self.bind(&target, "", ro);
            }
            (_, Some(origin)) => {
                let source = self.source(origin, mount, from.foreign)?;
                self.bind(&target, utf8(&source)?, ro);
            }
            (_, None) => bail!("there is nothing that it comes from"),
        }
        Ok(())
    }

    fn bind(&mut self, target: &str, source: &str, ro: bool) {
        let options: &[&str] = match ro {
            true => &["rbind", "rprivate", "rro"],
            false => &["rbind", "rprivate"],
        };
        self.spec.push(bundle::mount(target, "bind", source, options));
    }

    /// Takes the caches, and puts the mounts in order: those of a directory before those within it.
    pub(super) fn finish(mut self) -> Result<Made> {
        let (places, wanted): (Vec<_>, Vec<_>) = self.caches.into_iter().unzip();
        let caches = cache::take(self.store, wanted)?;
        for (place, cache) in places.into_iter().zip(&caches) {
            self.spec[place].set_source(Some(cache.dir().into()));
        }
        self.spec.sort_by_key(|mount| mount.destination().components().count());
        let held = Held { _caches: caches, _agents: self.agents };
        Ok(Made { spec: self.spec, env: self.env, held, attached: self.attached })
    }

    /// Makes the next place in the step's directory.
    fn place(&mut self) -> Result<PathBuf> {
        make_dir(&self.dir)?;
        self.count += 1;
        Ok(self.dir.join(self.count.to_string()))
    }

    /// Returns where a tree's file or directory is mounted for the step. What is `foreign` becomes root's.
    fn source(&mut self, origin: Origin, mount: &Mount, foreign: bool) -> Result<PathBuf> {
        let source = self.open(origin, mount.source.as_deref())?;
        let at = self.place()?;
        let hidden = hidden(origin, &source, mount.source.as_deref())?;
        match FileType::from_raw_mode(fstat(&source)?.st_mode) {
            FileType::Directory if foreign => {
                fs::create_dir(&at).at(&at)?;
                tree::copy_as_root(&by_descriptor(&source), &at, &hidden)?;
            }
            FileType::RegularFile if foreign => {
                copy_file(&source, &at, tree::copy_metadata_as_root)?;
            }
            FileType::Directory => {
                fs::create_dir(&at).at(&at)?;
                self.directory(&source, &hidden, &at, mount.read_only)?;
            }
            FileType::RegularFile if mount.read_only => {
                File::create(&at).at(&at)?;
                if !self.attach_clone(&source, &at)? {
                    copy_file(&source, &at, tree::copy_metadata)?;
                }
            }
            FileType::RegularFile => copy_file(&source, &at, tree::copy_metadata)?,
            _ => {
                bail!("{}: neither a file nor a directory", mount.source.as_deref().unwrap_or("/"))
            }
        }
        Ok(at)
    }

    /// Mounts a directory at `at`.
    fn directory(
        &mut self,
        source: &OwnedFd,
        hidden: &[PathBuf],
        at: &Path,
        read_only: bool,
    ) -> Result<()> {
        if read_only && hidden.is_empty() {
            if !self.attach_clone(source, at)? {
                tree::copy(&by_descriptor(source), at)?;
            }
            return Ok(());
        }
        let beside = |end: &str| at.with_extension(end);
        let mut lower = Vec::new();
        if !hidden.is_empty() {
            mask::make(&beside("mask"), source, hidden)?;
            lower.push(beside("mask"));
        }
        lower.push(by_descriptor(source));
        let upper = match (read_only, self.on_memory) {
            (true, _) => Upper::None,
            (false, true) => {
                let upper = beside("upper");
                fs::create_dir(&upper).at(&upper)?;
                self.attached.0.push(upper.clone());
                Upper::Tmpfs(upper)
            }
            (false, false) => Upper::Dirs { upper: beside("upper"), work: beside("work") },
        };
        let attributes = match read_only {
            true => MountAttrFlags::MOUNT_ATTR_RDONLY,
            false => MountAttrFlags::empty(),
        };
        let userxattr = common::userns::is_entered()?;
        let overlay = Overlay { lower, upper, userxattr, volatile: !read_only };
        match overlay.mount(attributes) {
            Ok(mount) => self.attached.attach(&mount, at),
            Err(err) if !hidden.is_empty() => Err(err),
            Err(_) => tree::copy(&by_descriptor(source), at),
        }
    }

    /// Mounts what `source` is at `at`, read-only; returns whether that could be: what is mounted nowhere cannot.
    fn attach_clone(&mut self, source: &OwnedFd, at: &Path) -> Result<bool> {
        let flags = OpenTreeFlags::OPEN_TREE_CLONE
            | OpenTreeFlags::OPEN_TREE_CLOEXEC
            | OpenTreeFlags::AT_EMPTY_PATH
            | OpenTreeFlags::AT_RECURSIVE;
        let mount = match open_tree(source, "", flags) {
            Err(Errno::INVAL) => return Ok(false),
            mount => mount?,
        };
        // So nobody who removes the step's directory removes what is not the step's.
        let read_only = MountAttrFlags::MOUNT_ATTR_RDONLY.bits();
        sys::mount_setattr(mount.as_fd(), true, read_only, 0, 0)?;
        self.attached.attach(&mount, at)?;
        Ok(true)
    }

    /// Opens a path of a tree, where its links lead nowhere but into it.
    fn open(&mut self, origin: Origin, path: Option<&str>) -> Result<OwnedFd> {
        let root = match origin {
            Origin::Tree(tree) => tree.root.try_clone()?,
            Origin::Snapshot { snapshot, .. } => {
                let at = self.place()?;
                fs::create_dir(&at).at(&at)?;
                self.attached.attach(&snapshot.tree()?, &at)?;
                let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
                rustix::fs::openat(CWD, &at, flags, Mode::empty()).at(&at)?
            }
        };
        // As the step's key has it: `..` is what is above in the path, wherever links lead.
        let path = path.unwrap_or("/");
        let inside = clean(&format!("/{path}"));
        let inside = if inside == "/" { "." } else { &inside[1..] };
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let opened = tree::open_at(&root, inside, OFlags::PATH, resolve);
        opened.at(path).with_context(|| origin.name().to_owned())
    }

    fn secret(&mut self, mount: &Mount, cwd: &str, secrets: &Secrets) -> Result<()> {
        let base = |path: &str| path.rsplit('/').find(|part| !part.is_empty()).map(str::to_owned);
        let named = mount.source.as_ref().or(mount.id.as_ref());
        let id = match (named, &mount.target) {
            (Some(id), _) => id.clone(),
            (None, Some(target)) => base(target).context("it has no name")?,
            (None, None) => bail!("it needs id= or target="),
        };
        let Some(secret) = secrets.get(&id) else {
            let missing = || anyhow!("{id}: there is no such secret");
            return absent(mount, missing, || format!("--secret id={id},src=FILE"));
        };
        if let Some(name) = &mount.env {
            let value = std::str::from_utf8(secret.bytes()).ok();
            let value = value.filter(|value| !value.contains('\0'));
            // What is wrong with it would tell something of it.
            let value = value.with_context(|| format!("{id}: it cannot be a variable"))?;
            self.env.push(format!("{name}={value}"));
        }
        let target = match (&mount.target, &mount.env) {
            (None, Some(_)) => return Ok(()),
            (Some(path), _) => target(path, cwd)?,
            (None, None) => {
                let name = base(&id).with_context(|| format!("{id:?}: no name of a file"))?;
                target(&format!("/run/secrets/{name}"), cwd)?
            }
        };
        let path = self.memory()?.join(format!("secret{}", self.spec.len()));
        write_secret(&path, secret, mount).at(&target)?;
        let options = ["bind", "rprivate", "ro", "nosuid", "nodev", "noexec"];
        self.spec.push(bundle::mount(&target, "bind", utf8(&path)?, &options));
        Ok(())
    }

    fn agent(&mut self, mount: &Mount, cwd: &str, agents: &Agents) -> Result<()> {
        let id = mount.id.as_deref().unwrap_or("default");
        let Some(socket) = agents.get(id) else {
            let missing = || anyhow!("{id}: there is no such agent");
            return absent(mount, missing, || format!("--ssh {id}"));
        };
        let target = match &mount.target {
            Some(path) => target(path, cwd)?,
            None => format!("/run/buildkit/ssh_agent.{}", self.agents.len()),
        };
        if self.agents.is_empty() {
            self.env.push(format!("SSH_AUTH_SOCK={target}"));
        }
        let (dir, name) = (self.memory()?, format!("agent{}", self.agents.len()));
        let path = dir.join(&name);
        self.agents.push(Agent::listen(socket, &dir, &name, mount)?);
        let options = ["bind", "rprivate", "nosuid", "nodev", "noexec"];
        self.spec.push(bundle::mount(&target, "bind", utf8(&path)?, &options));
        Ok(())
    }

    /// Makes a script that the step runs; returns its path there.
    pub(super) fn script(&mut self, name: &str, text: &str) -> Result<String> {
        // It is a word of the Dockerfile, and may look like a path.
        let name = name.rsplit('/').next().filter(|name| !matches!(*name, "" | "." | ".."));
        let name = name.unwrap_or("script");
        let dir = self.memory()?.join("pipes");
        fs::DirBuilder::new().mode(0o755).create(&dir).at(&dir)?;
        let path = dir.join(name);
        fs::write(&path, text).at(&path)?;
        for path in [&dir, &path] {
            fs::set_permissions(path, Permissions::from_mode(0o755)).at(path)?;
        }
        self.bind(SCRIPTS, utf8(&dir)?, true);
        Ok(format!("{SCRIPTS}/{name}"))
    }

    /// Returns a directory in memory.
    fn memory(&mut self) -> Result<PathBuf> {
        make_dir(&self.dir)?;
        let at = self.dir.join("memory");
        if make_dir(&at)? {
            let tmpfs = overlay::tmpfs().context("cannot mount a tmpfs")?;
            self.attached.attach(&tmpfs, &at)?;
        }
        Ok(at)
    }
}

/// Returns what .dockerignore leaves out below `source`, which is at `path` of the tree.
fn hidden(origin: Origin, source: &OwnedFd, path: Option<&str>) -> Result<Vec<PathBuf>> {
    let Origin::Tree(tree) = origin else { return Ok(Vec::new()) };
    let Some(ignore) = &tree.ignore else { return Ok(Vec::new()) };
    let place = mask::place_in(&tree.root, source)?;
    let path = path.unwrap_or("/");
    let left_out = || format!("{}: {path}: .dockerignore leaves it out", tree.name);
    mask::hidden(source, &place, ignore)?.with_context(left_out)
}

/// Does without what is not there, unless the step says that it cannot.
fn absent(
    mount: &Mount,
    missing: impl FnOnce() -> anyhow::Error,
    hint: impl FnOnce() -> String,
) -> Result<()> {
    match mount.required {
        true => Err(missing()).hint(hint),
        false => Ok(()),
    }
}

/// Returns where a mount is: a relative target is below the working directory.
fn target(path: &str, cwd: &str) -> Result<String> {
    let target = match path.starts_with('/') {
        true => clean(path),
        false => clean(&format!("/{cwd}/{path}")),
    };
    ensure!(!target.contains('\0'), "target: it holds a NUL");
    match target.as_str() {
        "/" => Err(anyhow!("target: / would hide everything")).hint(|| "target=/path".into()),
        _ => Ok(target),
    }
}

fn write_secret(path: &Path, secret: &Secret, mount: &Mount) -> std::io::Result<()> {
    let mut file = File::create_new(path)?;
    file.write_all(secret.bytes())?;
    chown(path, Some(mount.uid.unwrap_or(0)), Some(mount.gid.unwrap_or(0)))?;
    file.set_permissions(Permissions::from_mode(mount.mode.unwrap_or(0o400) & 0o7777))
}

/// Copies a file, which nobody else has a hand in then.
fn copy_file(
    source: &OwnedFd,
    to: &Path,
    metadata: impl Fn(BorrowedFd, BorrowedFd) -> Result<()>,
) -> Result<()> {
    let mut from = File::open(by_descriptor(source))?;
    let mut file = File::create(to).at(to)?;
    std::io::copy(&mut from, &mut file).at(to)?;
    metadata(from.as_fd(), file.as_fd()).at(to)
}

/// Returns a path of what is open.
pub(super) fn by_descriptor(fd: &OwnedFd) -> PathBuf {
    format!("/proc/self/fd/{}", fd.as_raw_fd()).into()
}

/// Makes a directory; returns whether it is new.
fn make_dir(dir: &Path) -> Result<bool> {
    match fs::DirBuilder::new().mode(0o700).create(dir) {
        Err(err) if err.kind() == ErrorKind::AlreadyExists => Ok(false),
        made => made.at(dir).map(|()| true),
    }
}

#[cfg(test)]
mod tests {
    use common::error::line;

    use super::*;

    #[test]
    fn a_relative_target_is_below_the_working_directory() {
        let table = [
            ("/a", "/w", "/a"),
            ("a", "/w", "/w/a"),
            ("./a/../b/", "/w", "/w/b"),
            ("", "/w", "/w"),
            ("..", "/w/x", "/w"),
            ("/../../a", "/", "/a"),
        ];
        for (path, cwd, expected) in table {
            assert_eq!(target(path, cwd).unwrap(), expected, "{path} {cwd}");
        }
        for (path, cwd) in [("/", "/w"), ("", "/"), ("..", "/w"), ("/a/..", "/w")] {
            let err = target(path, cwd).unwrap_err();
            assert_eq!(line(&err), "target: / would hide everything");
        }
    }
}
