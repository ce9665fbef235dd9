//! The command line, with Docker's names and grammar.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail, ensure};
use clap::{Parser, ValueEnum};
use common::cli::progress::Style;
use common::cli::{self, Dir, Root};
use common::error::{self, Hint, Usage};
use common::layer::pack::Compression;
use common::platform::Platform;
use common::reference::Reference;
use common::runtime::cgroup::Memory;
use img_build::build::exchange::place::{Export, Import};
use img_build::build::{Allowed, Given};
use img_build::dockerfile::scope::Told;
use img_build::output::Output;
use img_build::source::named::NamedContext;
use oci_spec::runtime::{PosixRlimit, PosixRlimitBuilder, PosixRlimitType};

/// The least limit of memory, as Docker has it.
const LEAST_MEMORY: u64 = 6 << 20;

/// The argument, and the variable, that says when a build happened.
pub const EPOCH: &str = "SOURCE_DATE_EPOCH";

/// Build an image from a Dockerfile
#[derive(Parser)]
#[command(version)]
pub struct Options {
    #[command(flatten)]
    pub root: Root,

    /// Print the Dockerfile as JSON, and build nothing
    #[arg(long, conflicts_with = "check")]
    pub parse: bool,

    /// Say what is unwise in the Dockerfile, and build nothing
    #[arg(long)]
    pub check: bool,

    /// The Dockerfile, if not CONTEXT/Dockerfile; - is stdin
    #[arg(short, long, value_name = "FILE")]
    pub file: Option<PathBuf>,

    /// Call the image NAME; may be given more than once
    #[arg(short, long = "tag", value_name = "NAME", value_parser = tag)]
    pub tags: Vec<Reference>,

    /// Build the stage NAME, and what it needs
    #[arg(long, value_name = "NAME")]
    pub target: Option<String>,

    /// Set an argument of the build; without a value it is the environment's
    #[arg(long = "build-arg", value_name = "NAME[=VALUE]")]
    pub arguments: Vec<String>,

    /// Give the image a label
    #[arg(long = "label", value_name = "NAME[=VALUE]", value_parser = pair)]
    pub labels: Vec<(String, String)>,

    /// Give the manifest an annotation
    #[arg(long = "annotation", value_name = "NAME=VALUE", value_parser = annotation)]
    pub annotations: Vec<(String, String)>,

    /// Build for these platforms instead of this machine's; several make an index
    #[arg(long = "platform", value_name = "OS/ARCH[/VARIANT]", value_delimiter = ',', value_parser = platform)]
    pub platforms: Vec<Platform>,

    /// Pull the images that stages begin with, though they are here
    #[arg(long)]
    pub pull: bool,

    /// Take NAME from elsewhere: a directory, a repository, a tar on the web, an image
    #[arg(long = "build-context", value_name = "NAME=PLACE")]
    pub contexts: Vec<NamedContext>,

    /// Do all steps anew
    #[arg(long)]
    pub no_cache: bool,

    /// Do the steps of the stage NAME anew
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub no_cache_filter: Vec<String>,

    /// Take results of steps from a cache that others have written: DIR[:TAG], or a name in a registry
    #[arg(long = "cache-from", value_name = "PLACE")]
    pub imports: Vec<Import>,

    /// Write the results of steps to a cache for others
    #[arg(long = "cache-to", value_name = "PLACE")]
    pub exports: Vec<Export>,

    /// Say of each step whether its result was there, and if not, what differs from the last time
    #[arg(long)]
    pub explain: bool,

    /// What steps see of the network: host or none
    #[arg(long, value_name = "NETWORK", default_value = "default", hide_default_value = true)]
    pub network: Network,

    /// Let steps have what they ask for: security.insecure, network.host
    #[arg(long, value_name = "WHAT", value_delimiter = ',')]
    pub allow: Vec<String>,

    /// Have steps know the host NAME by this address
    #[arg(long = "add-host", value_name = "NAME:ADDRESS", value_parser = host)]
    pub hosts: Vec<(String, IpAddr)>,

    /// Give steps a secret: id=ID,src=FILE or id=ID,env=NAME
    #[arg(long = "secret", value_name = "SECRET")]
    pub secrets: Vec<String>,

    /// Let steps use an agent's keys: default, or ID=SOCKET
    #[arg(long, value_name = "AGENT")]
    pub ssh: Vec<String>,

    /// How much memory /dev/shm of a step holds
    #[arg(long, value_name = "SIZE", value_parser = cli::size)]
    pub shm_size: Option<u64>,

    /// Limit what a step's processes may use: NAME=SOFT[:HARD]
    #[arg(long = "ulimit", value_name = "LIMIT")]
    pub ulimits: Vec<String>,

    /// How much memory a step may use
    #[arg(short, long, value_name = "SIZE", value_parser = cli::size)]
    pub memory: Option<u64>,

    /// How much memory and swap together a step may use, if not twice the memory; -1 for any
    #[arg(long, value_name = "SIZE", value_parser = memory_swap, allow_hyphen_values = true)]
    pub memory_swap: Option<MemorySwap>,

    /// Make one layer of all but the base's
    #[arg(long)]
    pub squash: bool,

    /// Let files keep the times that they have, instead of the build's epoch
    #[arg(long)]
    pub keep_mtime: bool,

    /// How layers are packed: gzip, zstd or none, and a level: zstd:9
    #[arg(long, value_name = "HOW", default_value = "gzip", hide_default_value = true)]
    pub compression: Compression,

    /// Put the result elsewhere: a directory, or type=oci|docker|tar|local|registry,dest=FILE; may be given more than once
    #[arg(short, long = "output", value_name = "OUTPUT")]
    pub outputs: Vec<Output>,

    /// Put the image in the layout directory DIR, and not in the store
    #[arg(long, value_name = "DIR")]
    pub layout: Option<Dir>,

    /// Write the result line to FILE
    #[arg(long, value_name = "FILE")]
    pub iidfile: Option<PathBuf>,

    /// Write the result line to FILE, unless it holds it already: then it keeps its time
    #[arg(long, value_name = "FILE")]
    pub iidfile_if_changed: Option<PathBuf>,

    /// Write what the result depends on to FILE, for make
    #[arg(long, value_name = "FILE")]
    pub depfile: Option<PathBuf>,

    /// Write what is known of the result to FILE, as JSON
    #[arg(long, value_name = "FILE")]
    pub metadata_file: Option<PathBuf>,

    /// Say nothing but the result
    #[arg(short, long)]
    pub quiet: bool,

    /// How to say what goes on: auto, plain, json or none
    #[arg(
        long,
        value_name = "HOW",
        default_value = "auto",
        hide_default_value = true,
        hide_possible_values = true
    )]
    pub progress: Style,

    /// The directory that files are copied from; a repository, a URL, or - for stdin
    pub context: OsString,
}

/// What steps see of the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Network {
    /// The host's, as long as containers have none of their own.
    Default,
    /// The host's.
    Host,
    /// Nothing but a loopback.
    None,
}

impl Options {
    /// Returns `--build-arg`; what has no value has the environment's, or none.
    pub fn arguments(&self) -> BTreeMap<String, String> {
        let one = |text: &String| match text.split_once('=') {
            Some((name, value)) => Some((name.to_owned(), value.to_owned())),
            None => Some((text.clone(), std::env::var(text).ok()?)),
        };
        self.arguments.iter().filter_map(one).collect()
    }

    /// Returns how layers are packed: an output may say so, and then for all.
    pub fn compression(&self) -> Result<Compression> {
        let said: Vec<Compression> = self.outputs.iter().filter_map(|it| it.compression).collect();
        let one = said.iter().all(|other| *other == said[0]);
        ensure!(one, Usage("-o: layers are packed in one way, and not in two".into()));
        Ok(said.first().copied().unwrap_or(self.compression))
    }

    /// Returns the manifest's annotations.
    pub fn annotations(&self) -> Vec<(String, String)> {
        let of_outputs = self.outputs.iter().flat_map(|output| &output.annotations);
        self.annotations.iter().chain(of_outputs).cloned().collect()
    }

    /// Returns the stages whose steps are done anew.
    pub fn no_cache_filter(&self) -> BTreeSet<String> {
        self.no_cache_filter.iter().map(|name| name.to_lowercase()).collect()
    }

    /// Returns the files that make knows the result by: those of `-o`, or else the one of the result line.
    pub fn targets(&self) -> Vec<&Path> {
        let files: Vec<&Path> = self.outputs.iter().filter_map(Output::file).collect();
        let lines = [&self.iidfile, &self.iidfile_if_changed];
        match files.is_empty() {
            true => lines.into_iter().flatten().map(PathBuf::as_path).collect(),
            false => files,
        }
    }

    /// Returns all files and directories that the build writes.
    pub fn written(&self) -> Vec<&Path> {
        let files = [&self.iidfile, &self.iidfile_if_changed, &self.depfile, &self.metadata_file];
        let files = files.into_iter().flatten().map(PathBuf::as_path);
        let dirs = self.exports.iter().filter_map(|export| export.place.dir()).chain(&self.layout);
        let outputs = self.outputs.iter().filter_map(Output::place);
        files.chain(dirs.map(Dir::path)).chain(outputs).collect()
    }

    /// Returns what the build is told. Of several platforms it is the first.
    pub fn told(&self) -> Told {
        let builder = Platform::host();
        Told {
            arguments: self.arguments(),
            platform: self.platforms.first().unwrap_or(&builder).clone(),
            builder,
            target: self.target.clone(),
            contexts: self.contexts.iter().map(|named| named.name.clone()).collect(),
        }
    }

    /// Returns what the processes of steps are given.
    pub fn given(&self) -> Result<Given> {
        let usage = |err: anyhow::Error| -> anyhow::Error { Usage(error::line(&err)).into() };
        let memory = self.memory().map_err(usage)?;
        let mut given = Given { shm_size: self.shm_size, memory, ..Given::default() };
        for text in &self.ulimits {
            given.ulimits.push(ulimit(text).map_err(usage)?);
        }
        self.secrets.iter().try_for_each(|text| given.secrets.add(text))?;
        self.ssh.iter().try_for_each(|text| given.ssh.add(text))?;
        Ok(given)
    }

    /// Returns what steps may have that ask for it.
    pub fn allowed(&self) -> Result<Allowed> {
        let mut allowed = Allowed { network: self.network == Network::Host, insecure: false };
        for what in &self.allow {
            match what.as_str() {
                "network.host" => allowed.network = true,
                "security.insecure" => allowed.insecure = true,
                other => {
                    let unknown = Usage(format!("--allow: {other}: nothing that can be allowed"));
                    return Err(anyhow::Error::new(unknown))
                        .hint(|| "security.insecure or network.host".into());
                }
            }
        }
        Ok(allowed)
    }

    /// Returns how much memory a step may use: Docker's rules.
    fn memory(&self) -> Result<Option<Memory>> {
        let both = self.memory_swap.filter(|both| *both != MemorySwap::Bytes(0));
        let Some(limit) = self.memory.filter(|limit| *limit > 0) else {
            ensure!(both.is_none(), "--memory-swap: it takes --memory as well");
            return Ok(None);
        };
        ensure!(limit >= LEAST_MEMORY, "--memory: {limit} bytes: it takes 6m at least");
        let swap = match both {
            None => Some(limit),
            Some(MemorySwap::Any) => None,
            Some(MemorySwap::Bytes(both)) => {
                let swap = both.checked_sub(limit);
                Some(swap.context("--memory-swap: it is memory and swap, and less than --memory")?)
            }
        };
        Ok(Some(Memory { limit, swap }))
    }

    /// Returns the moment that the build says it happened at, if one is given: that of the context's commit, perhaps.
    pub fn epoch(&self, of_context: Option<i64>) -> Result<Option<i64>> {
        let given = self.arguments().remove(EPOCH).or_else(|| std::env::var(EPOCH).ok());
        let Some(text) = given.filter(|text| !text.is_empty()) else { return Ok(None) };
        if text == "context" {
            let time =
                of_context.ok_or_else(|| Usage(format!("{EPOCH}: the context is no commit")));
            return Ok(Some(time?));
        }
        let wrong = |_| Usage(format!("{EPOCH}: {text:?}: not a number of seconds"));
        let epoch: i64 = text.parse().map_err(wrong).hint(|| "date +%s".into())?;
        Ok(Some(epoch))
    }
}

/// How much memory and swap together a step may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemorySwap {
    /// So much.
    Bytes(u64),
    /// As much swap as there is.
    Any,
}

fn memory_swap(text: &str) -> Result<MemorySwap> {
    match text {
        "-1" => Ok(MemorySwap::Any),
        text => cli::size(text).map(MemorySwap::Bytes),
    }
}

/// Reads a limit, as Docker writes it: `nofile=1024:2048`, `core=-1`.
fn ulimit(text: &str) -> Result<PosixRlimit> {
    let wrong = || format!("--ulimit: {text}: not NAME=SOFT[:HARD]");
    let (name, values) = text.split_once('=').with_context(wrong)?;
    let (soft, hard) = values.split_once(':').unwrap_or((values, values));
    let value = |text: &str| match text {
        "-1" | "unlimited" => Some(u64::MAX),
        text => text.parse::<u64>().ok(),
    };
    let (soft, hard) = (value(soft).with_context(wrong)?, value(hard).with_context(wrong)?);
    ensure!(soft <= hard, "--ulimit: {text}: more than the hard limit");
    let kind = serde_json::Value::from(format!("RLIMIT_{}", name.to_uppercase()));
    let kind: PosixRlimitType = serde_json::from_value(kind)
        .map_err(|_| anyhow!("--ulimit: {name}: there is no such limit"))?;
    let limit = PosixRlimitBuilder::default().typ(kind).soft(soft).hard(hard);
    Ok(limit.build()?)
}

fn tag(text: &str) -> Result<Reference> {
    let name: Reference = text.parse()?;
    ensure!(name.digest().is_none(), "a digest cannot be given to an image");
    Ok(name)
}

fn pair(text: &str) -> Result<(String, String)> {
    let (name, value) = text.split_once('=').unwrap_or((text, ""));
    ensure!(!name.is_empty(), "the name is empty");
    Ok((name.into(), value.into()))
}

fn annotation(text: &str) -> Result<(String, String)> {
    let (name, value) = text.split_once('=').context("not NAME=VALUE")?;
    // Docker says here which documents it is for: `manifest[linux/arm64],index:NAME`.
    let is_kind = |text: &str| text.bytes().all(|c| matches!(c, b'a'..=b'z' | b'-' | b','));
    let kinds = |text: &str| is_kind(text.split('[').next().unwrap_or_default());
    let name = match name.split_once(':').filter(|(before, _)| kinds(before)) {
        Some(("manifest", name)) => name,
        Some((before, _)) if before.contains('[') => {
            bail!("{before}: all platforms have the same annotations here")
        }
        Some((before, _)) => bail!("{before}: only a manifest has annotations here"),
        None => name,
    };
    pair(&format!("{name}={value}"))
}

/// Reads a platform; `local` is this machine's, as buildx has it.
fn platform(text: &str) -> Result<Platform> {
    match text {
        "local" => Ok(Platform::host()),
        text => text.parse(),
    }
}

fn host(text: &str) -> Result<(String, IpAddr)> {
    // docker run takes a colon, docker build either.
    let (name, address) =
        text.split_once('=').or_else(|| text.split_once(':')).context("not NAME:ADDRESS")?;
    ensure!(
        !name.is_empty() && !name.contains(|c: char| c.is_whitespace() || c.is_control()),
        "{name:?}: not a host's name"
    );
    if address == "host-gateway" {
        bail!("host-gateway: steps have the host's network, where it is localhost");
    }
    let address = address.trim_start_matches('[').trim_end_matches(']');
    Ok((name.into(), address.parse().with_context(|| format!("{address:?}: not an address"))?))
}
