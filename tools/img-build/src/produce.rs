//! From the command line to an image, and to where it goes.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use common::cli::{self, progress};
use common::error::{self, Hint, Usage, visible};
use common::image;
use common::layout::Writing;
use common::platform::Platform;
use common::reference::Reference;
use common::runtime::cgroup::Memory;
use common::store::Store;
use common::tree;
use img_build::build::base::Images;
use img_build::build::cache::Cache;
use img_build::build::exchange::export;
use img_build::build::exchange::import::Imports;
use img_build::build::log::Style;
use img_build::build::{self, Named, Outcome, Request, Steps};
use img_build::check::{self, Known};
use img_build::dockerfile::Dockerfile;
use img_build::dockerfile::instruction::Operation;
use img_build::dockerfile::scope::{self, Told};
use img_build::dockerfile::stages;
use img_build::output::deliver::{self, Made, Sink};
use img_build::output::depfile::{self, Prerequisites};
use img_build::output::{Output, report};
use img_build::run;
use img_build::source::Elsewhere;
use img_build::source::context::{self, Context as BuildContext};
use img_build::source::named::{Location, NamedContext};
use oci_spec::image::{Descriptor, MediaType};
use serde_json::json;

use crate::options::{EPOCH, Network, Options};

/// The argument of BuildKit's that says whether the .git directory of a context is kept.
const KEEP_GIT_DIR: &str = "BUILDKIT_CONTEXT_KEEP_GIT_DIR";

/// Builds an image.
pub fn produce(options: &Options) -> Result<()> {
    let store = options.root.open()?;
    run::enter(&store)?;
    let allowed = options.allowed()?;
    let mut given = options.given()?;
    if let Some(memory) = &mut given.memory {
        limit(memory, options, &store)?;
    }
    let prerequisites = options.depfile.as_ref().map(|_| Prerequisites::default());
    if prerequisites.is_some() && options.targets().is_empty() {
        let err: Result<()> = Err(Usage("--depfile: of which file?".into()).into());
        err.hint(|| "--iidfile FILE, or -o type=...,dest=FILE".into())?;
    }
    let (compression, annotations) = (options.compression()?, options.annotations());
    let sinks = deliver::look(&options.outputs)?;
    let scratch = || {
        let dir = store.cache();
        tree::make_dirs(&dir)?;
        Ok(dir)
    };
    let secrets = given.secrets.clone();
    let secret = |id: &str| Ok(secrets.get(id).map(|secret| secret.bytes().to_vec()));
    let elsewhere = Elsewhere::new(&scratch, &secret);
    let keep_git_dir = keep_git_dir(options)?;
    let context =
        context::open(&options.context, options.file.as_deref(), keep_git_dir, &elsewhere)?;
    let file = Dockerfile::parse(&context.dockerfile).map_err(|err| err.in_file(&context.name))?;
    let epoch = options.epoch(context.time)?;
    let mut told = options.told();
    if let (Some(given), Some(epoch)) = (told.arguments.get_mut(EPOCH), epoch) {
        *given = epoch.to_string(); // and not the word "context"
    }
    say(options, &file, &context, &told)?;
    let contexts = options.contexts.iter().map(|named| {
        let named_for = named.name.clone();
        Ok((named_for, open(named, &elsewhere)?))
    });
    let contexts: BTreeMap<String, Named> = contexts.collect::<Result<_>>()?;
    let steps = Steps {
        no_cache: options.no_cache,
        no_cache_filter: options.no_cache_filter(),
        explain: options.explain,
        style: style(options),
        keep_mtime: options.keep_mtime,
        compression,
        no_network: options.network == Network::None,
        allowed,
        hosts: options.hosts.clone(),
        given,
    };
    let writing = store.images.writing()?;
    let unfinished = writing.unfinished();
    cli::on_interrupt(move || unfinished.remove())?;
    let images = Images::new(&store, &writing, options.pull, steps.style);
    let cache = Cache::open(store.cache().join("build"))?;
    let imports = Imports::new(&options.imports, &elsewhere, steps.style);
    let place = place(options);
    let one = |platform: &Platform| {
        let told = Told { platform: platform.clone(), ..told.clone() };
        if context.theirs {
            let refused = stages::refuse_paths(&file, &told);
            refused.map_err(|err| err.in_file(&context.name))?;
        }
        let request = Request {
            file: &file,
            name: &context.name,
            place: &place,
            told,
            epoch,
            context: &context.tree,
            contexts: &contexts,
            elsewhere: &elsewhere,
            steps: &steps,
            labels: &options.labels,
            annotations: &annotations,
            squash: options.squash,
            cross: !options.platforms.is_empty(),
            prerequisites: prerequisites.as_ref(),
        };
        build::build(&request, &store, &writing, &images, &cache, &imports)
    };
    let platforms = match &options.platforms[..] {
        [] => vec![Platform::host()],
        platforms => platforms.to_vec(),
    };
    let mut outcomes = Vec::new();
    for platform in platforms {
        outcomes.push((one(&platform)?, platform));
    }
    let desc = match &outcomes[..] {
        [(only, _)] => only.desc.clone(),
        all => index(all, &writing)?,
    };
    if let (Some(path), Some(prerequisites)) = (&options.depfile, prerequisites) {
        let ignore_files = options.contexts.iter().filter_map(NamedContext::ignore_file);
        let files = context.files.iter().cloned().chain(ignore_files);
        // A Dockerfile may be a pipe, and an ignore file need not be there.
        prerequisites.add(files.filter(|file| file.is_file()));
        let rules = prerequisites.rules(&options.targets(), &options.written())?;
        report::put_if_changed(path, &rules)?;
    }
    let new = hand_over(options, &store, &writing, &desc, &outcomes, sinks)?;
    share(options, &store, &writing, &outcomes)?;
    if options.depfile.is_some() {
        // Their directories may be among what they depend on, and all that was written is in one.
        new.into_iter().try_for_each(depfile::touch)?;
    }
    Ok(())
}

/// Returns whether the .git directory of a context is kept.
fn keep_git_dir(options: &Options) -> Result<bool> {
    let arguments = options.arguments();
    let Some(text) = arguments.get(KEEP_GIT_DIR) else { return Ok(false) };
    let usage = || Usage(format!("--build-arg {KEEP_GIT_DIR}={text}: neither true nor false"));
    Ok(cli::boolean(text).ok_or_else(usage)?)
}

/// Writes the results of steps to where `--cache-to` says. The image is done, whatever comes of it.
fn share(
    options: &Options,
    store: &Store,
    writing: &Writing,
    outcomes: &[(Outcome, Platform)],
) -> Result<()> {
    let mut failed = Ok(());
    for export in &options.exports {
        let steps = |(outcome, _): &(Outcome, Platform)| match export.all_stages {
            true => outcome.all_steps.clone(),
            false => outcome.steps.clone(),
        };
        let steps: Vec<_> = outcomes.iter().flat_map(steps).collect();
        let written = export::write(&export.place, &steps, store, writing)
            .with_context(|| format!("--cache-to {}", export.place));
        match written {
            Err(err) if export.ignore_error => cli::warn(error::line(&err)),
            written => failed = failed.and(written),
        }
    }
    failed
}

/// Sees that steps can be kept to this much memory, before anything is done.
///
/// A limit of swap that nobody asked for is left out where swap is not counted.
fn limit(memory: &mut Memory, options: &Options, store: &Store) -> Result<()> {
    let Err(err) = run::try_limit(*memory, store) else { return Ok(()) };
    let without = Memory { swap: None, ..*memory };
    if options.memory_swap.is_some() || run::try_limit(without, store).is_err() {
        return Err(err.context("--memory: cannot be applied"));
    }
    *memory = without;
    if style(options) != Style::None {
        cli::warn(format!("--memory: swap is not limited: {}", error::line(&err)));
    }
    Ok(())
}

/// Says what the user should know before anything is done.
fn say(options: &Options, file: &Dockerfile, context: &BuildContext, told: &Told) -> Result<()> {
    let name = &context.name;
    let known = Known { told, ignore: context.tree.ignore.as_ref(), image: &|_| None };
    if file.directives.check.is_some() {
        let found = check::target(file, &known).map_err(|err| err.in_file(name))?;
        for warning in found.warnings.iter().filter(|_| found.strict) {
            cli::warn(visible(&format!("{name}:{warning}")));
        }
        let strict = found.strict && !found.warnings.is_empty();
        ensure!(!strict, "{name}: it says that warnings are errors (check=error=true)");
    }
    if style(options) == Style::None {
        return Ok(());
    }
    if let Some(syntax) = &file.directives.syntax {
        cli::warn(format!("{name}: syntax={syntax} is not fetched: the language is built in"));
    }
    let known = |argument: &&String| {
        scope::is_predefined(argument)
            || file.instructions().any(|instruction| match &instruction.operation {
                Operation::Arg(all) => all.iter().any(|one| one.name == **argument),
                // What an image kept may be an ARG.
                Operation::Onbuild(_) => true,
                _ => false,
            })
    };
    for argument in options.arguments().keys().filter(|argument| !known(argument)) {
        cli::warn(format!("--build-arg {argument}: no ARG takes it"));
    }
    Ok(())
}

fn style(options: &Options) -> Style {
    match options.progress {
        _ if options.quiet => Style::None,
        progress::Style::Auto | progress::Style::Plain => Style::Plain,
        progress::Style::Json => Style::Json,
        progress::Style::None => Style::None,
    }
}

/// Returns what tells this Dockerfile from others.
fn place(options: &Options) -> String {
    let here = std::env::current_dir().unwrap_or_default();
    let file = options.file.as_deref().map(|file| file.display().to_string());
    format!("{}\n{}\n{file:?}", here.display(), options.context.display())
}

fn open(named: &NamedContext, elsewhere: &Elsewhere) -> Result<Named> {
    Ok(match &named.location {
        Location::Image(operand) => Named::Image(operand.clone()),
        files => Named::Tree(files.open(&named.name, elsewhere)?.context("not a tree of files")?),
    })
}

/// Writes an index of images, a platform each.
fn index(outcomes: &[(Outcome, Platform)], writing: &Writing) -> Result<Descriptor> {
    let member = |(outcome, platform): &(Outcome, Platform)| {
        let mut desc = json!(outcome.desc);
        desc["platform"] = json!({ "os": platform.os, "architecture": platform.architecture });
        if let Some(variant) = &platform.variant {
            desc["platform"]["variant"] = variant.as_str().into();
        }
        desc
    };
    let manifests: Vec<_> = outcomes.iter().map(member).collect();
    let mut index = json!({
        "schemaVersion": 2, "mediaType": MediaType::ImageIndex.to_string(), "manifests": manifests
    });
    index.sort_all_objects();
    let bytes = serde_json::to_vec(&index)?;
    let digest = writing.put(&bytes)?;
    Ok(image::descriptor(MediaType::ImageIndex, &digest, bytes.len() as u64))
}

/// Names the result, puts it where it is wanted, and says so. Returns the targets that are new.
fn hand_over<'a>(
    options: &'a Options,
    store: &Store,
    writing: &Writing,
    desc: &Descriptor,
    outcomes: &[(Outcome, Platform)],
    sinks: Vec<Sink>,
) -> Result<Vec<&'a Path>> {
    let digest = image::digest(desc)?;
    let images: Vec<(Descriptor, Platform)> =
        outcomes.iter().map(|(built, platform)| (built.desc.clone(), platform.clone())).collect();
    let layout = &store.images;
    let style = style(options);
    let made = Made { store, layout, desc, images: &images, names: &options.tags, style };
    let of_outputs = options.outputs.iter().filter(|output| output.names_image());
    let of_outputs = of_outputs.flat_map(|output| &output.names);
    let names: Vec<Reference> = options.tags.iter().chain(of_outputs).cloned().collect();
    let is_kept = options.outputs.is_empty() || options.outputs.iter().any(Output::names_image);
    let line = match &options.layout {
        Some(dir) => {
            deliver::bring(&made, dir.path(), |other| deliver::name(other, desc, &names))?;
            dir.at(names.first(), &digest)
        }
        None => {
            if is_kept {
                deliver::name(writing, desc, &names)?;
                store.mark_used(&digest);
            }
            names.first().map_or_else(|| digest.to_string(), |name| name.at(&digest))
        }
    };
    sinks.into_iter().try_for_each(|sink| sink.write(&made))?;
    let mut targets = options.targets();
    if let Some(path) = &options.iidfile {
        report::iidfile(path, &line)?;
    }
    if let Some(path) = &options.iidfile_if_changed
        && !report::put_if_changed(path, format!("{line}\n").as_bytes())?
    {
        targets.retain(|target| target != path);
    }
    if let Some(path) = &options.metadata_file {
        let config = match outcomes {
            [(only, _)] => Some(image::digest(&only.config)?),
            _ => None,
        };
        report::metadata(path, desc, config.as_ref(), &names)?;
    }
    if is_kept || options.layout.is_some() {
        cli::result(line)?;
    }
    Ok(targets)
}
