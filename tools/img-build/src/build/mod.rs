//! Building: stages in parallel, steps in order, each by its key.
//!
//! ```text
//! Request ──plan──> stages that the target needs ──a thread each──> Built ──> config, manifest
//!
//! stage   FROM, then an instruction at a time: a config that changes, layers that come on top
//! step    the layer of RUN, COPY, ADD, WORKDIR: its inputs' key, its result there already, or made
//! key  cache      inputs and their digest · results, by key
//! exchange        results that others have: --cache-from and --cache-to
//! base            images that stages begin with          config   config and history as Docker writes them
//! log             what is said meanwhile
//! ```
//!
//! What a layer depends on is in its key, and what a config depends on is read
//! each time: so nothing that somebody left in the cache decides what an image
//! says of itself (CVE-2024-24557).

pub mod base;
pub mod cache;
pub mod config;
pub mod exchange;
mod history;
pub mod key;
pub mod log;
mod stage;
mod step;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use anyhow::{Context, Result, anyhow};
use common::cli::{self, Operand};
use common::digest::Digest;
use common::files::Tables;
use common::image;
use common::layer::pack::Compression;
use common::layout::Writing;
use common::platform::Platform;
use common::runtime::cgroup::Memory;
use common::store::Store;
use oci_spec::image::{Descriptor, MediaType};
use oci_spec::runtime::PosixRlimit;
use serde_json::{Map, Value, json};

use self::base::{Image, Images};
use self::cache::{Cache, Layer, chain_id};
use self::config::Config;
use self::exchange::Done;
use self::exchange::import::Imports;
use self::log::Style;
use self::stage::is_run;
use crate::dockerfile::Dockerfile;
use crate::dockerfile::instruction::{Network, Operation, Security};
use crate::dockerfile::scope::{Globals, Scope, Told};
use crate::dockerfile::stages::{Base, Graph};
use crate::output::depfile::Prerequisites;
use crate::run;
use crate::run::secrets::{Agents, Secrets};
use crate::source::{Elsewhere, Tree};

/// The annotations that say what an image is based on: image-spec, annotations.md.
const BASE_NAME: &str = "org.opencontainers.image.base.name";
const BASE_DIGEST: &str = "org.opencontainers.image.base.digest";

/// What is to be built.
pub struct Request<'a> {
    /// The Dockerfile.
    pub file: &'a Dockerfile,
    /// What it is called in messages.
    pub name: &'a str,
    /// Where it is, whatever is in it: the steps of two builds of one place are compared.
    pub place: &'a str,
    /// Arguments, platforms, the target.
    pub told: Told,
    /// The moment that the build says it happened at, if one is given.
    pub epoch: Option<i64>,
    /// The context.
    pub context: &'a Tree,
    /// What `--build-context` names.
    pub contexts: &'a BTreeMap<String, Named>,
    /// How what is elsewhere comes here.
    pub elsewhere: &'a Elsewhere<'a>,
    /// What steps are run with.
    pub steps: &'a Steps,
    /// What the result says besides what the Dockerfile says.
    pub labels: &'a [(String, String)],
    /// What the manifest says.
    pub annotations: &'a [(String, String)],
    /// The platform was asked for: the image is one of it, whatever its base says.
    pub cross: bool,
    /// All layers but those of the base become one.
    pub squash: bool,
    /// Who wants to know which files of this host were read.
    pub prerequisites: Option<&'a Prerequisites>,
}

impl Request<'_> {
    /// Notes files that were read.
    fn note(&self, files: impl Iterator<Item = PathBuf>) {
        if let Some(prerequisites) = self.prerequisites {
            prerequisites.add(files);
        }
    }
}

/// What `--build-context` gives a name to.
pub enum Named {
    /// Files.
    Tree(Tree),
    /// An image.
    Image(Operand),
}

/// How steps are done, whatever is built.
pub struct Steps {
    /// Does all of them anew.
    pub no_cache: bool,
    /// Does those of these stages anew.
    pub no_cache_filter: BTreeSet<String>,
    /// Says of each what differs.
    pub explain: bool,
    /// How much is said.
    pub style: Style,
    /// Files keep their times.
    pub keep_mtime: bool,
    /// How layers are packed.
    pub compression: Compression,
    /// RUN sees nothing of the network, unless it says otherwise.
    pub no_network: bool,
    /// What a RUN may have that says it wants it.
    pub allowed: Allowed,
    /// Names of hosts.
    pub hosts: Vec<(String, IpAddr)>,
    /// What processes are given besides.
    pub given: Given,
}

/// What a step has only if whoever builds has allowed it, BuildKit's entitlements: nothing in a Dockerfile or an
/// image does (CVE-2024-23653).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Allowed {
    /// RUN --network=host.
    pub network: bool,
    /// RUN --security=insecure.
    pub insecure: bool,
}

impl Allowed {
    /// Refuses what an instruction wants beyond this.
    fn check(self, operation: &Operation) -> crate::error::Result<()> {
        let Operation::Run(run) = operation else { return Ok(()) };
        let network = run.network == Network::Host && !self.network;
        let insecure = run.security == Security::Insecure && !self.insecure;
        let (flag, name) = match (network, insecure) {
            (false, false) => return Ok(()),
            (true, _) => ("--network=host", "network.host"),
            (_, true) => ("--security=insecure", "security.insecure"),
        };
        let err = crate::error::Error::new(format!("{flag}: {name} is not allowed"));
        Err(err.hint(format!("img-build --allow {name}, if whoever wrote that is to be trusted")))
    }
}

/// What the process of a step is given besides what its image says.
#[derive(Default)]
pub struct Given {
    /// The bytes of /dev/shm.
    pub shm_size: Option<u64>,
    /// Its limits.
    pub ulimits: Vec<PosixRlimit>,
    /// How much memory its processes may have together.
    pub memory: Option<Memory>,
    /// `--secret`.
    pub secrets: Secrets,
    /// `--ssh`.
    pub ssh: Agents,
}

/// A stage that is built.
#[derive(Clone)]
struct Built {
    layers: Vec<Layer>,
    config: Config,
    scope: Scope,
    epoch: i64,
    /// The image below all of it.
    base: Option<Arc<Image>>,
    /// The steps that have put layers on it.
    steps: Vec<Done>,
}

impl Built {
    /// Returns the ID of its layers together; it is the identity of its tree.
    fn chain_id(&self) -> Option<Digest> {
        chain_id(&self.layers)
    }
}

/// A build that goes on.
struct Build<'a> {
    request: &'a Request<'a>,
    graph: Graph,
    /// The stages whose layers are unpacked for others.
    unpacked: BTreeSet<usize>,
    /// What the layers have that are not unpacked.
    tables: Tables,
    globals: Globals,
    store: &'a Store,
    writing: &'a Writing<'a>,
    images: &'a Images<'a>,
    cache: &'a Cache,
    imports: &'a Imports<'a>,
    stages: Mutex<Stages>,
    changed: Condvar,
    /// What was said once, and is true of every step.
    noted: Mutex<BTreeSet<String>>,
}

#[derive(Default)]
struct Stages {
    built: BTreeMap<usize, Arc<Built>>,
    failed: bool,
}

/// What was built.
pub struct Outcome {
    /// The manifest.
    pub desc: Descriptor,
    /// The config.
    pub config: Descriptor,
    /// The steps of the target, and of what it is based on.
    pub steps: Vec<Done>,
    /// Those of all stages that were built.
    pub all_steps: Vec<Done>,
}

/// Builds an image; its blobs are in the layout, and it has no name yet.
pub fn build(
    request: &Request,
    store: &Store,
    writing: &Writing,
    images: &Images,
    cache: &Cache,
    imports: &Imports,
) -> Result<Outcome> {
    let in_file = |err: crate::error::Error| err.in_file(request.name);
    let globals = Globals::of(request.file, &request.told).map_err(in_file)?;
    let graph = Graph::of(request.file, &globals, &request.told.contexts).map_err(in_file)?;
    let target = graph.target(request.told.target.as_deref()).map_err(in_file)?;
    let mut build = Build {
        request,
        unpacked: BTreeSet::new(),
        tables: Tables::new(store.cache().join("tables")),
        graph,
        globals,
        store,
        writing,
        images,
        cache,
        imports,
        stages: Mutex::default(),
        changed: Condvar::new(),
        noted: Mutex::default(),
    };
    build.check_allowed(&build.graph.order(target).map_err(in_file)?)?;
    let order = build.plan(target)?;
    build.check_allowed(&order)?;
    build.unpacked = unpacked(&build.graph, request.file, &order);
    let errors = build.all(&order);
    if let Some(err) = errors.into_iter().next() {
        return Err(err);
    }
    let built = build.wait(target)?;
    build.finish(&built)
}

/// Returns the stages whose layers are unpacked for others: these run something on them, or copy from them.
fn unpacked(graph: &Graph, file: &Dockerfile, order: &[usize]) -> BTreeSet<usize> {
    let mut unpacked = BTreeSet::new();
    // Who needs a stage comes behind it.
    for stage in order.iter().rev() {
        let node = &graph.stages[*stage];
        unpacked.extend(node.sources.iter().filter_map(|taken| taken.from.stage()));
        let mut own = node.triggers.iter().chain(&file.stages[*stage].instructions);
        if unpacked.contains(stage) || own.any(|instruction| is_run(&instruction.operation)) {
            unpacked.extend(node.base.stage());
        }
    }
    unpacked
}

impl Build<'_> {
    /// Sees that stages, and the triggers that are known of, ask for nothing that they are not to have.
    fn check_allowed(&self, stages: &[usize]) -> Result<()> {
        for stage in stages {
            let own = &self.request.file.stages[*stage].instructions;
            for instruction in self.graph.stages[*stage].triggers.iter().chain(own) {
                let allowed = self.request.steps.allowed.check(&instruction.operation);
                let at = |err: crate::error::Error| err.of("RUN").at(instruction.first);
                allowed.map_err(|err| at(err).in_file(self.request.name))?;
            }
        }
        Ok(())
    }

    /// Returns the stages to build, in order. What their base images kept for them is in the graph then: it may
    /// take from stages that nobody else needs.
    fn plan(&mut self, target: usize) -> Result<Vec<usize>> {
        let name = self.request.name;
        let mut read = BTreeSet::new();
        loop {
            let order = self.graph.order(target).map_err(|err| err.in_file(name))?;
            let new: Vec<usize> = order.iter().copied().filter(|it| read.insert(*it)).collect();
            if new.is_empty() {
                return Ok(order);
            }
            for stage in new {
                let Some(image) = self.base(stage)? else { continue };
                let mut config = self.base_config(stage, &image)?;
                let wanted = self.platform(stage);
                if wanted.rank(&config.platform).is_none()
                    && self.request.steps.style != Style::None
                {
                    let from = self.from(stage);
                    cli::warn(format!(
                        "{from}: the image is for {}, and not for {wanted}",
                        config.platform
                    ));
                }
                let triggers = config.take_triggers();
                let adopted = self.graph.adopt(stage, &triggers, self.request.file.escape);
                adopted.map_err(|err| err.in_file(name))?;
            }
        }
    }

    /// Returns the platform that the image of a stage is to be for.
    fn platform(&self, stage: usize) -> &Platform {
        self.graph.stages[stage].platform.as_ref().unwrap_or(&self.request.told.platform)
    }

    /// Returns the image that a stage begins with, if it is one.
    fn base(&self, stage: usize) -> Result<Option<Arc<Image>>> {
        let node = &self.graph.stages[stage];
        let platform = self.platform(stage);
        let image = match &node.base {
            Base::Image(name) => name.parse().and_then(|operand| self.image(&operand, platform)),
            Base::Context(name) => match self.request.contexts.get(name) {
                Some(Named::Image(operand)) => self.image(operand, platform),
                _ => return Ok(None),
            },
            Base::Scratch | Base::Stage(_) => return Ok(None),
        };
        image.map(Some).with_context(|| self.from(stage))
    }

    /// Reads the config of the image that a stage begins with.
    fn base_config(&self, stage: usize, image: &Image) -> Result<Config> {
        Config::of(&image.config, image.layers.len()).with_context(|| self.from(stage))
    }

    fn from(&self, stage: usize) -> String {
        format!("{}:{}: FROM", self.request.name, self.graph.stages[stage].line)
    }

    /// Builds stages, each as soon as those are there that it needs; returns what went wrong, first the first.
    fn all(&self, order: &[usize]) -> Vec<anyhow::Error> {
        let errors = Mutex::new(Vec::new());
        let one = |stage: usize| {
            let built = stage::build(self, stage);
            let mut stages = self.stages();
            match built {
                Ok(built) => drop(stages.built.insert(stage, Arc::new(built))),
                Err(err) => {
                    // Those that gave up because another failed have nothing to say.
                    if !std::mem::replace(&mut stages.failed, true) {
                        errors.lock().unwrap_or_else(PoisonError::into_inner).push(err);
                        run::give_up();
                    }
                }
            }
            drop(stages);
            self.changed.notify_all();
        };
        match order {
            [only] => one(*only),
            order => thread::scope(|scope| {
                for stage in order {
                    let name = format!("stage {}", self.graph.name(*stage));
                    let thread = thread::Builder::new().name(name).stack_size(1 << 20);
                    if let Err(err) = thread.spawn_scoped(scope, || one(*stage)) {
                        self.stages().failed = true;
                        let err = anyhow::Error::new(err).context("a thread");
                        errors.lock().unwrap_or_else(PoisonError::into_inner).push(err);
                        self.changed.notify_all();
                    }
                }
            }),
        }
        errors.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the image that an operand names, and notes which file of this host says what it is.
    fn image(&self, operand: &Operand, platform: &Platform) -> Result<Arc<Image>> {
        let image = self.images.operand(operand, platform)?;
        let file = operand.path().map(|path| match path.is_dir() {
            true => path.join("index.json"),
            false => path.into(), // an archive
        });
        self.request.note(file.into_iter());
        Ok(image)
    }

    /// Returns whether this is said for the first time.
    fn is_news(&self, note: &str) -> bool {
        self.noted.lock().unwrap_or_else(PoisonError::into_inner).insert(note.into())
    }

    fn stages(&self) -> MutexGuard<'_, Stages> {
        self.stages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns whether a stage has failed, so that the others need not go on.
    fn has_failed(&self) -> bool {
        self.stages().failed
    }

    /// Waits for a stage.
    fn wait(&self, stage: usize) -> Result<Arc<Built>> {
        let mut stages = self.stages();
        loop {
            if let Some(built) = stages.built.get(&stage) {
                return Ok(built.clone());
            }
            if stages.failed {
                return Err(anyhow!("stage {}: not built", self.graph.name(stage)));
            }
            stages = self.changed.wait(stages).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Writes the config and the manifest.
    fn finish(&self, built: &Built) -> Result<Outcome> {
        let Request { told, labels, annotations, squash, cross, .. } = self.request;
        let mut built = built.clone();
        labels.iter().for_each(|(name, value)| built.config.label(name, value));
        if *squash {
            step::squash(self, &mut built)?;
        }
        if *cross {
            built.config.platform = told.platform.clone();
        }
        let diff_ids: Vec<Digest> = built.layers.iter().map(|(_, diff_id)| *diff_id).collect();
        let config = built.config.to_json(&diff_ids, built.epoch)?;
        let config = image::descriptor(
            MediaType::ImageConfig,
            &self.writing.put(&config)?,
            config.len() as u64,
        );
        let mut said = Map::new();
        if let Some(base) = &built.base {
            if let Some(name) = &base.name {
                said.insert(BASE_NAME.into(), name.full().into());
            }
            said.insert(BASE_DIGEST.into(), base.digest.to_string().into());
        }
        for (name, value) in *annotations {
            said.insert(name.clone(), value.clone().into());
        }
        let layers: Vec<&Descriptor> = built.layers.iter().map(|(desc, _)| desc).collect();
        let mut manifest = json!({
            "schemaVersion": 2,
            "mediaType": MediaType::ImageManifest.to_string(),
            "config": config,
            "layers": layers,
        });
        if !said.is_empty() {
            manifest["annotations"] = Value::Object(said);
        }
        manifest.sort_all_objects();
        let manifest = serde_json::to_vec(&manifest).context("the manifest")?;
        let digest = self.writing.put(&manifest)?;
        let desc = image::descriptor(MediaType::ImageManifest, &digest, manifest.len() as u64);
        let all_steps =
            self.stages().built.values().flat_map(|built| built.steps.clone()).collect();
        Ok(Outcome { desc, config, steps: built.steps, all_steps })
    }
}
