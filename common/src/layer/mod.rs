//! A layer: a tar of what an image adds to those below it, applied to a directory.
//!
//! ```text
//! blob --hash--> inflate --> tar --hash--> entries --> files beneath the root
//!     (inflate)          (stream)    (header, entry)   (extract, dirs, whiteout)
//! ```
//!
//! Digests are known at the end only, so a tree is not to be used, nor to be
//! seen by anyone, before [`Tree::apply`] has returned without an error for each
//! of its layers. After an error it is to be thrown away.
//!
//! Image-spec, layer.md. Where that leaves a choice, the tree is what Docker,
//! containerd and umoci make of the layer.

pub mod changes;
mod dirs;
mod entry;
mod extract;
mod header;
mod inflate;
mod members;
pub mod pack;
mod packing;
mod source;
mod stream;
pub mod table;
mod whiteout;

use std::fs;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};

use anyhow::{Context, Result, bail, ensure};
use oci_spec::image::Descriptor;
use rustix::fs::{Mode, OFlags, openat};

use self::dirs::Dirs;
use self::entry::{Entries, Entry};
use self::extract::Extract;
use self::inflate::{Blob, Corrupt};
use self::stream::{Reader, Stream};
use self::table::{Builder, Table};
use self::whiteout::Made;
use crate::digest::Digest;
use crate::error::{self, Hint};
use crate::image;
use crate::layout::Layout;

pub use self::changes::{is_record, recorded_owner};
pub use self::dirs::PATH_MAX;
pub use self::header::is_header;
pub use self::members::{Member, Type, members, members_of, sparse_members};
pub use self::packing::Packing;
pub use self::source::{Tar, unable};
pub use self::stream::BLOCK;

/// How layers are applied.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Whose the files are.
    pub owners: Owners,
    /// What is too much.
    pub limits: Limits,
}

/// Whose the files are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Owners {
    /// Whom the layer says: we are root, or root of a user namespace.
    #[default]
    Set,
    /// Ours. What the layer says is recorded in `user.rootlesscontainers`, as umoci does, and
    /// empty files stand for devices.
    Record,
    /// Ours, and nobody is to know better. A device is an error.
    Ours,
}

/// What a layer may not exceed.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The bytes of its tar.
    pub size: u64,
    /// Its entries, and the directories that it implies. Each takes some 20 bytes of memory if it
    /// is put where a lower layer has a directory.
    pub entries: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { size: 1 << 40, entries: 4 << 20 }
    }
}

/// What applying a layer has shown.
#[derive(Debug)]
pub struct Applied {
    /// The digest of its tar.
    pub diff_id: Digest,
    /// The bytes of its tar.
    pub size: u64,
    /// How many entries it had, implied directories included.
    pub entries: u64,
    /// Its tar had a mark at its end: it was not cut off between two entries. A layer need not have one.
    pub marked: bool,
    /// What could not be as the layer says, because of the filesystem or for lack of rights.
    pub warnings: Vec<String>,
}

/// A directory that layers are applied to, bottom up.
pub struct Tree {
    root: OwnedFd,
    options: Options,
    /// Nothing was in it, so that there is no lower layer.
    empty: bool,
    privileged: bool,
    umask: u32,
}

impl Tree {
    /// Takes a directory, perhaps of layers that were applied before.
    pub fn open(dir: impl AsFd, options: Options) -> Result<Tree> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = openat(dir, ".", flags, Mode::empty())?;
        let empty = rustix::fs::Dir::read_from(&root)?.all(|entry| {
            entry.is_ok_and(|entry| matches!(entry.file_name().to_bytes(), b"." | b".."))
        });
        let privileged = rustix::process::geteuid().is_root();
        Ok(Tree { root, options, empty, privileged, umask: umask() })
    }

    /// Applies a layer, whose blob must be what `desc` says and whose tar must be `diff_id`.
    pub fn apply(
        &mut self,
        blob: impl Read + Send,
        desc: &Descriptor,
        diff_id: Option<&Digest>,
    ) -> Result<Applied> {
        let digest = image::digest(desc)?;
        self.apply_blob(blob, desc, &digest, diff_id).with_context(|| format!("layer {digest}"))
    }

    /// Applies, as [`Tree::apply`] does, a layer that `layout` has; of one that is corrupt, says how it comes back.
    pub fn apply_from(
        &mut self,
        layout: &Layout,
        desc: &Descriptor,
        diff_id: &Digest,
    ) -> Result<Applied> {
        match self.apply(layout.open_blob(desc)?, desc, Some(diff_id)) {
            Err(err) if error::find::<Corrupt>(&err).is_some() => {
                let path = layout.path(&image::digest(desc)?);
                Err(err).hint(|| format!("rm {}, and pull or load the image again", path.display()))
            }
            applied => applied,
        }
    }

    fn apply_blob(
        &mut self,
        blob: impl Read + Send,
        desc: &Descriptor,
        digest: &Digest,
        diff_id: Option<&Digest>,
    ) -> Result<Applied> {
        if !image::is_layer(desc.media_type()) {
            bail!("not a layer: its media type is {:?}", image::media_type(desc));
        }
        let Options { owners, limits } = self.options;
        let blob = Blob::new(blob, *digest, desc.size());
        let made = Made::new(std::mem::take(&mut self.empty));
        let dirs = Dirs::new(self.root.try_clone()?, self.privileged, made)?;
        let extract = Extract::new(dirs, owners, limits, self.privileged, self.umask, true);
        stream::run(blob, limits.size, |mut stream| {
            if let Some(diff_id) = diff_id {
                stream.hash_like(diff_id);
            }
            let mut tar = Entries::new(stream);
            let (entries, warnings) = extract.run(&mut tar)?;
            let marked = tar.is_marked();
            // What is behind the end mark has no meaning, but is part of the blob and of the tar.
            let (found, size) = tar.into_stream().finish()?;
            if let Some(diff_id) = diff_id {
                ensure!(found == *diff_id, "corrupt: its diff ID is {found}, not {diff_id}");
            }
            Ok(Applied { diff_id: found, size, entries, marked, warnings })
        })
    }

    /// Makes the files of a tar that is no layer: a name that begins with `.wh.` is a name. Returns
    /// what could not be as the tar says.
    pub fn extract(&mut self, tar: impl Read) -> Result<Vec<String>> {
        let Options { owners, limits } = self.options;
        let made = Made::new(std::mem::take(&mut self.empty));
        let dirs = Dirs::new(self.root.try_clone()?, self.privileged, made)?;
        let extract = Extract::new(dirs, owners, limits, self.privileged, self.umask, false);
        let mut source = Reader(tar.take(limits.size));
        let mut entries = Entries::new(Stream::unhashed(&mut source));
        let (_, warnings) = extract.run(&mut entries)?;
        ensure!(entries.is_marked(), "truncated tar: it has no end");
        // What is behind its end has no meaning, but whoever packed or sent it may have more to say.
        drop(entries);
        io::copy(&mut source.0, &mut io::sink())?;
        ensure!(source.0.limit() > 0, "more than the {} bytes that a tar may have", limits.size);
        Ok(warnings)
    }
}

/// Reads a layer through, as [`Tree::apply`] does, and makes no file of it.
pub fn scan(blob: impl Read + Send, desc: &Descriptor) -> Result<Applied> {
    read(blob, desc, None, |_, _| Ok(()))
}

/// Reads a layer through, as [`Tree::apply`] does, and makes its table.
pub fn tabulate(blob: impl Read + Send, desc: &Descriptor, diff_id: &Digest) -> Result<Table> {
    let mut table = Builder::new();
    read(blob, desc, Some(diff_id), |entry, data| table.entry(entry, data))
        .with_context(|| format!("layer {}", desc.digest()))?;
    Ok(table.finish(diff_id))
}

/// Reads a layer, and shows each entry, which was checked.
fn read(
    blob: impl Read + Send,
    desc: &Descriptor,
    diff_id: Option<&Digest>,
    mut show: impl FnMut(&Entry, &mut Entries) -> Result<()>,
) -> Result<Applied> {
    let limits = Limits::default();
    let blob = Blob::new(blob, image::digest(desc)?, desc.size());
    stream::run(blob, limits.size, |mut stream| {
        if let Some(diff_id) = diff_id {
            stream.hash_like(diff_id);
        }
        let mut tar = Entries::new(stream);
        let mut entries = 0;
        while let Some(entry) = tar.next()? {
            entries += 1;
            let limit = limits.entries;
            ensure!(entries <= limit, "more than the {limit} entries that a layer may have");
            let checked = extract::check(&entry, true).and_then(|()| show(&entry, &mut tar));
            checked.with_context(|| header::lossy(&entry.name))?;
        }
        let marked = tar.is_marked();
        let (found, size) = tar.into_stream().finish()?;
        if let Some(diff_id) = diff_id {
            ensure!(found == *diff_id, "corrupt: its diff ID is {found}, not {diff_id}");
        }
        Ok(Applied { diff_id: found, size, entries, marked, warnings: Vec::new() })
    })
}

/// Returns the bits that new files lack: all, if it cannot be known without changing it for others.
fn umask() -> u32 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("Umask:"));
    line.and_then(|octal| u32::from_str_radix(octal.trim(), 8).ok()).unwrap_or(0o777)
}

#[cfg(test)]
pub(crate) mod tests;
