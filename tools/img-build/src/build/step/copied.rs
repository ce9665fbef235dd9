//! COPY and ADD.

use std::cell::OnceCell;

use anyhow::{Context, Result};
use common::digest::Digest;
use common::files::Files;

use super::{Asked, Taken, Work, identity, tree_of};
use crate::build::cache::Layer;
use crate::copy::{Selection, SourceOf};
use crate::dockerfile::instruction::{Add, Content, Operation};
use crate::dockerfile::source::Source;
use crate::dockerfile::words::Lexer;
use crate::source::git::checkout;
use crate::source::repository::Repository;
use crate::source::{Tree, http};

/// A source of ADD that is not in the context.
enum Fetched {
    File(http::Fetched),
    Tree { tree: Tree, identity: Digest },
}

impl Work<'_> {
    /// Does COPY or ADD.
    pub(super) fn copy(&mut self, asked: &Asked, operation: &Operation) -> Result<Layer> {
        let build = self.build;
        let lexer = Lexer::new(build.request.file.escape);
        let files = match operation {
            Operation::Copy(copy) => &copy.files,
            Operation::Add(add) => &add.files,
            _ => anyhow::bail!("neither COPY nor ADD"),
        };
        let from = build.graph.taken(asked.instruction, lexer)?.pop();
        let taken = from.map(|from| self.taken(&from.from)).transpose()?;
        // Layers are unpacked if something of them is packed, and then once.
        let made = OnceCell::new();
        let make = |name: &str, layers| {
            if made.get().is_none() {
                let _ = made.set(tree_of(build, name, layers)?);
            }
            made.get().context("no tree")
        };
        let fetched = match operation {
            Operation::Add(add) => self.fetch(add)?,
            _ => files.sources.iter().map(|_| None).collect(),
        };
        let mut sources = Vec::with_capacity(files.sources.len() + files.contents.len());
        for (source, fetched) in files.sources.iter().zip(&fetched) {
            let pattern = source.clone();
            sources.push(match (fetched, &taken) {
                (None, Some(Taken::Layers { name, layers })) => SourceOf::Kept {
                    tree: Box::new(|| make(name, layers)),
                    pattern,
                    keep_owner: true,
                    identity: identity(layers),
                },
                (None, Some(Taken::Files(tree))) => SourceOf::Path { tree, pattern },
                (None, None) => SourceOf::Path { tree: build.request.context, pattern },
                (Some(Fetched::Tree { tree, identity }), _) => SourceOf::Kept {
                    tree: Box::new(|| Ok(tree)),
                    pattern: "/".into(),
                    keep_owner: false,
                    identity: *identity,
                },
                (Some(Fetched::File(fetched)), _) => {
                    let (name, mtime) = (fetched.name.clone(), fetched.mtime);
                    let file = fetched.open()?;
                    SourceOf::Fetched { file, name, mode: 0o600, mtime }
                }
            });
        }
        let contents = files.contents.iter().map(|Content { name, text, .. }| SourceOf::Content {
            name: name.clone(),
            text: text.clone(),
        });
        sources.extend(contents);

        let known = build.store.cache().join("files");
        let selection = Selection::of(operation, sources, Some(&known))?;
        for pattern in selection.unmatched() {
            asked.log.warn(&format!("{pattern}: nothing matches it"));
        }
        build.request.note(selection.files());
        let workdir = self.state.config.workdir().to_owned();
        let keep_mtime = build.request.steps.keep_mtime;
        let kind = if matches!(operation, Operation::Add(_)) { "ADD" } else { "COPY" };
        let mut inputs = self.inputs(kind, selection.needs_base());
        inputs.add("workdir", workdir.as_str());
        inputs.add("keep-mtime", keep_mtime);
        inputs.add("files", selection.digest().to_string());
        self.layer(asked, &inputs, |work| {
            let pack = |work: &Self, base: Option<&Files>| {
                let packer = work.packer()?.tabulate();
                let warn = |what: &str| asked.log.warn(what);
                selection.pack(base, &workdir, work.state.epoch, keep_mtime, &warn, packer)
            };
            match selection.needs_base() {
                true => work.on_base(asked, |work, base| pack(work, Some(base))),
                false => pack(work, None),
            }
        })
    }

    /// Brings what ADD takes from elsewhere; of what is in the context there is nothing to bring.
    fn fetch(&self, add: &Add) -> Result<Vec<Option<Fetched>>> {
        let fetch = |source: &String| {
            let elsewhere = self.build.request.elsewhere;
            Ok(match Source::of(source) {
                Source::Path => None,
                Source::Http => {
                    let checksum = add.checksum.as_deref().map(http::checksum).transpose()?;
                    Some(Fetched::File(http::get(source, checksum.as_ref(), elsewhere)?))
                }
                Source::Git => {
                    let repository = Repository::parse(source)?.context("not a repository")?;
                    let keep = add.keep_git_dir.unwrap_or(false);
                    let checksum = add.checksum.as_deref();
                    let checkout = checkout(&repository, keep, checksum, elsewhere)?;
                    Some(Fetched::Tree { tree: checkout.tree, identity: checkout.identity })
                }
            })
        };
        add.files.sources.iter().map(fetch).collect()
    }
}
