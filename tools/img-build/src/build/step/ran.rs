//! RUN.

use std::os::fd::AsFd;
use std::path::Path;

use anyhow::{Context, Result, anyhow, ensure};
use common::bundle;
use common::error::Hint;
use common::layer::changes::{changes, difference};
use common::runtime::Ended;
use common::userns::Mapping;
use serde_json::json;

use super::{Asked, Taken, Work, identity, unpacked};
use crate::build::cache::Layer;
use crate::build::key::Inputs;
use crate::copy::{Selection, SourceOf};
use crate::dockerfile::instruction::{self, Copy, Files, Operation, Start};
use crate::dockerfile::mount::Type;
use crate::dockerfile::scope;
use crate::dockerfile::words::{Lexer, Values};
use crate::run::{self, How, MountFrom, Network, Origin};
use crate::source::Tree;

/// What a step's machine is called, as BuildKit has it.
const HOSTNAME: &str = "buildkitsandbox";

/// The arguments that say what it is called, and before which names those of a cache are.
const HOSTNAME_OF: &str = "BUILDKIT_SANDBOX_HOSTNAME";
const CACHES_OF: &str = "BUILDKIT_CACHE_MOUNT_NS";

/// What is said where a step cannot see who owns what.
const ONE_ID: &str = "only one id is mapped here (/etc/subuid), so a step sees all files as root's, and what it copies becomes root's";

impl<'a> Work<'a> {
    /// Does RUN.
    pub(super) fn run(&mut self, asked: &Asked, run: &instruction::Run) -> Result<Layer> {
        let build = self.build;
        let (steps, arguments) = (build.request.steps, &build.request.told.arguments);
        let config = &self.state.config;
        let shell = config.shell().into_iter().map(str::to_owned);
        let start = asked.instruction.start(run);
        let (args, script) = match &start {
            Start::Exec(args) => (args.clone(), None),
            Start::Shell(text) => (shell.chain([text.clone()]).collect(), None),
            Start::Script { name, text } => (Vec::new(), Some((name.as_str(), text.as_str()))),
        };
        let workdir = config.absolute(".");
        // As in BuildKit: a group alone is root's.
        let user = match config.user() {
            group if group.starts_with(':') => format!("0{group}"),
            user => user.to_owned(),
        };
        let network = match (run.network, steps.no_network) {
            (instruction::Network::None, _) | (instruction::Network::Default, true) => {
                Network::None
            }
            _ => Network::Host,
        };
        let variables = &self.state.scope.variables;
        let mut env: Vec<(String, String)> =
            variables.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        if variables.get("SOURCE_DATE_EPOCH").is_none() {
            env.push(("SOURCE_DATE_EPOCH".into(), self.state.epoch.to_string()));
        }

        let mut inputs = self.inputs("RUN", true);
        inputs.add("platform", config.platform.to_string());
        inputs.add("arguments", json!([args, script]));
        for (name, value) in &env {
            inputs.add(format!("variable {name}"), value.as_str());
        }
        inputs.add("user", user.as_str());
        inputs.add("workdir", workdir.as_str());
        inputs.add("network", json!(network));
        inputs.add("security", json!(run.security));
        inputs.add("hosts", json!(steps.hosts));
        inputs.add("shm-size", json!(steps.given.shm_size));
        inputs.add("ulimits", json!(steps.given.ulimits));
        // Whose a file is, is lost then: what is made is not what others make.
        let single = Mapping::current()?.is_single();
        if single {
            inputs.add("ids", 1);
        }
        let hostname = arguments.get(HOSTNAME_OF).map_or("", String::as_str);
        let hostname = if hostname.is_empty() { HOSTNAME } else { hostname };
        ensure!(bundle::is_hostname(hostname), "{HOSTNAME_OF}={hostname}: not a name of a machine");
        if hostname != HOSTNAME {
            inputs.add("hostname", hostname);
        }
        let caches = arguments.get(CACHES_OF).map_or("", String::as_str);
        if !caches.is_empty() && asked.mounts.iter().any(|mount| mount.kind == Type::Cache) {
            inputs.add("caches", caches);
        }
        let from = self.mounted(asked, run, &mut inputs)?;
        if let Some(device) = run.devices.iter().find(|device| device.required) {
            return Err(anyhow!("--device: {}: a step cannot be given devices", device.name))
                .hint(|| "without required it is done without".into());
        }

        self.layer(asked, &inputs, |work| {
            let state = &work.state;
            let argument = |name: &str| arguments.get(name);
            let given = &steps.given;
            let mut env: Vec<String> =
                env.iter().map(|(name, value)| format!("{name}={value}")).collect();
            for name in scope::PROXIES {
                let lower = name.to_lowercase();
                let Some(value) = argument(&lower).or_else(|| argument(name)) else { continue };
                for name in [name, &lower] {
                    if state.scope.variables.get(name).is_none() {
                        env.push(format!("{name}={value}"));
                    }
                }
            }
            for device in &run.devices {
                asked.log.warn(&format!(
                    "--device: {}: left out: a step cannot be given devices",
                    device.name
                ));
            }
            let mut snapshots = Vec::new();
            for (from, _) in &from {
                snapshots.push(match from {
                    Some(Taken::Layers { layers, .. }) => Some(unpacked(build, layers)?),
                    _ => None,
                });
            }
            let origin = |at: usize| match (&from[at].0, &snapshots[at]) {
                (Some(Taken::Files(tree)), _) => Some(Origin::Tree(tree)),
                (Some(Taken::Layers { name, .. }), Some(snapshot)) => {
                    Some(Origin::Snapshot { snapshot, name })
                }
                _ => None,
            };
            let mounts = asked.mounts.iter().enumerate();
            let mounts = mounts.map(|(at, mount)| MountFrom {
                mount,
                from: origin(at),
                foreign: from[at].1,
            });
            let (output, told) = asked.log.output()?;
            let mounts: Vec<MountFrom> = mounts.collect();
            let (epoch, mut packer) = (work.state.epoch, work.packer()?);
            let snapshot = work.snapshot()?;
            let ran = run::run(run::Run {
                store: build.store,
                snapshot,
                user: &user,
                cwd: &workdir,
                args,
                env,
                script,
                mounts,
                network,
                security: run.security,
                hosts: &steps.hosts,
                shm_size: given.shm_size,
                ulimits: &given.ulimits,
                memory: given.memory,
                secrets: &given.secrets,
                ssh: &given.ssh,
                output,
                hostname,
                caches,
            });
            let status = ran.as_ref().map(|ran| ran.ended);
            // Of one that was ended since another failed, there is nothing to tell.
            told.finish(!matches!(status, Ok(Ended::Exited(0))) && !build.has_failed());
            let ran = ran?;
            let out_of_memory =
                ran.out_of_memory.map(|limit| format!("the limit is {} MiB", limit >> 20));
            match (ran.ended, out_of_memory) {
                (Ended::Exited(0), None) => {}
                (Ended::Exited(0), Some(limit)) => {
                    asked.log.warn(&format!("a process was killed, out of memory: {limit}"));
                }
                (_, Some(limit)) => return Err(anyhow!("out of memory: {limit}")),
                (Ended::Exited(status), None) => return Err(anyhow!("exit status {status}")),
                (Ended::Killed(signal), None) => return Err(anyhow!("killed by signal {signal}")),
            }
            if single && build.is_news(ONE_ID) {
                asked.log.warn(ONE_ID);
            }
            if let Some(note) = ran.note.as_ref().filter(|note| build.is_news(note)) {
                asked.log.warn(note);
            }
            let warnings = match &ran.how {
                How::Overlay { userxattr } => {
                    let below = snapshot.tree()?;
                    changes(ran.tree(), Some(below.as_fd()), *userxattr, epoch, &mut packer)?
                }
                How::Copied { before } => difference(before, ran.tree(), epoch, &mut packer)?,
            };
            warnings.iter().for_each(|warning| asked.log.warn(warning));
            let packed = packer.finish()?;
            work.next = ran.adopt(snapshot, &packed.diff_id)?;
            Ok(packed)
        })
    }

    /// Returns what each mount comes from, if from anything, and whether the step sees what is not root's
    /// there; adds what it can see to its inputs.
    fn mounted(
        &self,
        asked: &Asked,
        run: &instruction::Run,
        inputs: &mut Inputs,
    ) -> Result<Vec<(Option<Taken<'a>>, bool)>> {
        let build = self.build;
        let mut bases = build
            .graph
            .taken(asked.instruction, Lexer::new(build.request.file.escape))?
            .into_iter();
        let known = build.store.cache().join("files");
        let mut all = Vec::new();
        for (mount, option) in asked.mounts.iter().zip(&run.mounts) {
            let base = option.from.as_ref().map(|_| bases.next().context("a mount from nowhere"));
            let from = match (base.transpose()?, mount.kind) {
                // That it is one, a variable may have said.
                (_, Type::Tmpfs) => None,
                (Some(base), _) => Some(self.taken(&base.from)?),
                (None, Type::Bind) => Some(Taken::Files(build.request.context)),
                (None, _) => None,
            };
            let (seen, foreign) = match &from {
                None => (String::new(), false),
                Some(Taken::Layers { layers, .. }) => (identity(layers).to_string(), false),
                // What a cache begins with is not seen by what it has become.
                Some(Taken::Files(_)) if mount.kind == Type::Cache => (String::new(), false),
                Some(Taken::Files(tree)) => {
                    let path = mount.source.clone().unwrap_or_else(|| "/".into());
                    let seen = contents(tree, path, &known)?;
                    build.request.note(seen.files());
                    (seen.digest().to_string(), !seen.is_roots())
                }
            };
            inputs.add(format!("mount {}", all.len()), json!([mount, seen]));
            all.push((from, foreign));
        }
        Ok(all)
    }
}

/// Returns what is at a path of a tree that others may change.
fn contents<'a>(tree: &'a Tree, path: String, known: &Path) -> Result<Selection<'a>> {
    let files = Files {
        sources: vec![path.clone()],
        contents: Vec::new(),
        destination: "/".into(),
        chown: None,
        chmod: None,
        link: false,
        exclude: Vec::new(),
    };
    let operation = Operation::Copy(Copy { files, from: None, parents: false });
    let source = SourceOf::Named { tree, path };
    Selection::of(&operation, vec![source], Some(known))
}
