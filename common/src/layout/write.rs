//! Writing to a layout: blobs first, then the name.
//!
//! A blob lies in `.partial/` until all of it is there, hashed and on the disk;
//! then it is renamed to its digest. One whose digest is known beforehand
//! (`sha256-<hex>`) stays there when its writer dies, for the next one to go
//! on with; one whose digest is not, or whose writer has all of it at hand
//! (`new-<random>`), is removed by the next writer. A lock on the file tells a
//! writer's from a dead one's.
//!
//! The bytes of a blob are on the disk before it gets its name; the names of all
//! blobs are on the disk before the index names any.

use std::collections::{BTreeSet, HashSet};
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use oci_spec::image::Descriptor;
use rustix::process::geteuid;
use tempfile::{NamedTempFile, TempPath};

use super::partial::{self, PARTIAL, Partial};
use super::{CHOSEN_FROM, Index, Layout, blob_path};
use crate::digest::{Digest, Hashed, Hasher};
use crate::error::At;
use crate::image;
use crate::reference::Reference;
use crate::tree::{self, sync_dir};

/// How many blobs a writer that gives up takes back: more than an archive of images holds. The rest is img-prune's.
const ADDED: usize = 1 << 16;

/// Blobs of no more bytes, as most documents are, are read to see that they are what they should be.
const SMALL: u64 = 64 << 10;

/// Makes an empty layout in `dir`, or finds that somebody else just did.
pub(super) fn create(dir: PathBuf) -> Result<Layout> {
    tree::make_dirs(&dir.join("blobs/sha256"))?;
    let layout = Layout { dir };
    let lock = lock_dir(&layout.dir)?;
    let is_there = |name: &str| layout.dir.join(name).try_exists().at(layout.dir.join(name));
    // What cannot be asked for may be there, and full of names.
    if !is_there("index.json")? {
        replace(&layout.dir, "index.json", &Index::empty().to_json()?)?;
    }
    // The marker comes last: a directory that has it is whole.
    if !is_there("oci-layout")? {
        replace(&layout.dir, "oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    }
    lock.sync_all().at(&layout.dir)?;
    drop(lock);
    Layout::open(layout.dir)
}

/// The right to add blobs, and names for them: while it is held, nothing is pruned.
pub struct Writing<'a> {
    layout: &'a Layout,
    unfinished: Unfinished,
    partial: Arc<Place>,
    /// Locked, shared, until it is dropped.
    _lock: File,
}

impl<'a> Writing<'a> {
    pub(super) fn new(layout: &'a Layout) -> Result<Writing<'a>> {
        let path = layout.dir.join("oci-layout");
        let lock = File::open(&path).at(&path)?;
        lock.lock_shared().at(&path)?;
        let partial = Arc::new(Place(layout.dir.join(PARTIAL)));
        collect(layout);
        Ok(Writing { layout, unfinished: Unfinished::default(), partial, _lock: lock })
    }

    /// Returns the blobs that are on their way in, for whoever ends on a signal and leaves nothing to go on with.
    pub fn unfinished(&self) -> Unfinished {
        self.unfinished.clone()
    }

    /// Returns the layout that is written to.
    pub fn layout(&self) -> &'a Layout {
        self.layout
    }

    /// Says that of all that was added only these may be needed by no image: [`Writing::abandon`] takes back no other.
    pub fn strays(&self, blobs: &HashSet<Digest>) {
        self.unfinished.book().added.retain(|digest| blobs.contains(digest));
    }

    /// Ends, and removes the blobs that were added, unless somebody has come to need them.
    pub fn abandon(self) -> Result<()> {
        let (layout, added) = (self.layout, std::mem::take(&mut self.unfinished.book().added));
        drop(self);
        if added.is_empty() {
            return Ok(());
        }
        // Others who add blobs may count on these: then they stay, for img-prune.
        let removing = layout.removing(Duration::ZERO)?;
        let index = layout.index()?;
        removing.remove(removing.unneeded_of(&index, added, |_, _| None)?).map(drop)
    }

    /// Adds a blob that is in memory: a manifest, an index or a config.
    pub fn put(&self, bytes: &[u8]) -> Result<Digest> {
        let digest = Digest::of(bytes);
        self.put_as(&digest, bytes)?;
        Ok(digest)
    }

    /// Adds a blob that is in memory and has this digest.
    pub fn put_as(&self, digest: &Digest, bytes: &[u8]) -> Result<()> {
        if self.is_here(digest, bytes.len() as u64)? {
            return Ok(());
        }
        let mut hasher = digest.hasher();
        hasher.update(bytes);
        let found = hasher.finish();
        ensure!(found == *digest, "blob {digest}: corrupt: it hashes to {found}");
        // There is nothing to go on with in so few bytes, so they go with their writer.
        let mut blob = self.new_blob()?;
        blob.write_all(bytes).with_context(|| format!("blob {digest}"))?;
        publish(self.layout, blob.file.as_file(), &blob.listed, digest)
    }

    /// Begins, or goes on with, a blob; returns nothing if it is here already.
    ///
    /// Of several writers of one blob the first writes; the others wait for
    /// it, and go on where it died if it does. That is for who has to fetch it.
    pub fn blob(&self, digest: &Digest, size: u64) -> Result<Option<BlobWriter<'a>>> {
        let path = self.partial(&format!("{}-{}", digest.algorithm(), digest.hex()))?;
        loop {
            if self.is_here(digest, size)? {
                // What an earlier writer left when another finished first.
                let _ = fs::remove_file(&path);
                return Ok(None);
            }
            let file = match partial::open(&path) {
                // Somebody finished a blob and removed the directory, empty then.
                Err(err) if err.kind() == ErrorKind::NotFound => {
                    partial::make(&self.partial.0)?;
                    continue;
                }
                file => file.at(&path)?,
            };
            file.lock().at(&path)?;
            // While we waited, the file may have become the blob.
            if tree::is_at(&file, &path)? && !self.is_here(digest, size)? {
                let listed = self.list(&path);
                return BlobWriter::new(self.layout, file, path, *digest, size, listed).map(Some);
            }
        }
    }

    /// Begins a blob for somebody who has all of it and goes on with nothing; returns nothing if it is here already.
    ///
    /// Others may be writing the same one: nobody waits. Dropped before its end, it leaves nothing.
    pub fn whole_blob(&self, digest: &Digest, size: u64) -> Result<Option<BlobWriter<'a>>> {
        if self.is_here(digest, size)? {
            return Ok(None);
        }
        let (file, listed) = self.new_file()?;
        let (file, own) = file.into_parts();
        let mut blob =
            BlobWriter::new(self.layout, file, own.to_path_buf(), *digest, size, listed)?;
        blob._own = Some(own);
        Ok(Some(blob))
    }

    /// Begins a blob whose digest will be known at its end.
    pub fn new_blob(&self) -> Result<NewBlob<'a>> {
        let (file, listed) = self.new_file()?;
        Ok(NewBlob { layout: self.layout, file, hasher: Hasher::sha256(), size: 0, listed })
    }

    /// Makes a file that is this writer's alone, and locks it.
    fn new_file(&self) -> Result<(NamedTempFile, Listed)> {
        let dir = &self.partial.0;
        loop {
            partial::make(dir)?;
            let file = match tempfile::Builder::new()
                .prefix("new-")
                .permissions(blob_mode())
                .tempfile_in(dir)
            {
                Err(err) if err.kind() == ErrorKind::NotFound => continue,
                file => file.at(dir)?,
            };
            file.as_file().lock().at(file.path())?;
            // Between its creation and its lock it may have looked like a dead writer's.
            if tree::is_at(file.as_file(), file.path())? {
                let listed = self.list(file.path());
                return Ok((file, listed));
            }
        }
    }

    /// Makes `name` mean `target`, and nothing else; the image that had the name keeps an entry without one.
    ///
    /// With `only_if`, the name must mean that digest until now.
    pub fn tag(
        &self,
        name: &Reference,
        target: &Descriptor,
        only_if: Option<&Digest>,
    ) -> Result<()> {
        let full = name.full();
        self.update(target, |index| {
            if let Some(expected) = only_if {
                let found = index.find(&full)?.map(|desc| image::digest(&desc)).transpose()?;
                match found {
                    Some(found) if found == *expected => {}
                    Some(found) => bail!("{name}: is {found}, not {expected}"),
                    None => bail!("{name}: no such image"),
                }
            }
            index.name(&full, target)
        })
    }

    /// Keeps `target` without a name.
    pub fn keep(&self, target: &Descriptor) -> Result<()> {
        self.update(target, |index| index.keep(target))
    }

    /// Changes the index, as one step that a crash or another writer cannot split.
    fn update(
        &self,
        target: &Descriptor,
        change: impl FnOnce(&mut Index) -> Result<bool>,
    ) -> Result<()> {
        let dir = &self.layout.dir;
        let lock = lock_dir(dir)?;
        // Seen under the lock, since a prune by someone who knows no locks may have been here.
        self.layout.read(target)?;
        let mut index = self.layout.index()?;
        let changed = change(&mut index)?;
        // Of the blobs that were here already, somebody may have died who had just named them.
        sync_blobs(self.layout)?;
        if changed {
            replace(dir, "index.json", &index.to_json()?)?;
        }
        // And of what changes nothing, whoever made it so.
        lock.sync_all().at(dir)
    }

    /// Returns whether the blob is here, and needs not be written again: as a small one does that is corrupt.
    fn is_here(&self, digest: &Digest, size: u64) -> Result<bool> {
        let here = self.layout.has(digest, size)?;
        Ok(here && (size > SMALL || self.layout.read_document(digest).is_ok()))
    }

    fn partial(&self, name: &str) -> Result<PathBuf> {
        partial::make(&self.partial.0)?;
        Ok(self.partial.0.join(name))
    }

    fn list(&self, path: &Path) -> Listed {
        self.unfinished.book().unfinished.insert(path.into());
        let (list, _partial) = (self.unfinished.clone(), self.partial.clone());
        Listed { path: path.into(), list, _partial }
    }
}

/// Where blobs lie until they are whole, for as long as the writer or one of its blobs is there.
struct Place(PathBuf);

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0); // if it is empty now
    }
}

/// The files of blobs that are on their way in.
#[derive(Clone, Default)]
pub struct Unfinished(Arc<Mutex<Book>>);

/// What one writer is about.
#[derive(Default)]
struct Book {
    unfinished: BTreeSet<PathBuf>,
    added: Vec<Digest>,
}

impl Unfinished {
    /// Removes them. No other is listed from now on: it is the last thing that a process does.
    pub fn remove(&self) {
        let book = self.book();
        for path in &book.unfinished {
            let _ = fs::remove_file(path);
        }
        if let Some(dir) = book.unfinished.first().and_then(|path| path.parent()) {
            let _ = fs::remove_dir(dir); // if it is empty now
        }
        std::mem::forget(book);
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A file among the unfinished, until this is dropped.
struct Listed {
    path: PathBuf,
    list: Unfinished,
    _partial: Arc<Place>,
}

impl Drop for Listed {
    fn drop(&mut self) {
        self.list.book().unfinished.remove(&self.path);
    }
}

/// Returns `target` with a note of the index that it was chosen from.
pub fn chosen_from(mut target: Descriptor, index: &Digest) -> Descriptor {
    let mut annotations = target.annotations().clone().unwrap_or_default();
    annotations.insert(CHOSEN_FROM.into(), index.to_string());
    target.set_annotations(Some(annotations));
    target
}

/// Returns the index that a descriptor says its image was chosen from, if it does.
pub fn index_of(desc: &Descriptor) -> Option<Digest> {
    desc.annotations().as_ref()?.get(CHOSEN_FROM)?.parse().ok()
}

/// A blob on its way in, whose digest is known.
pub struct BlobWriter<'a> {
    layout: &'a Layout,
    file: File,
    path: PathBuf,
    digest: Digest,
    size: u64,
    hasher: Hasher,
    offset: u64,
    /// Removes the file, where nobody can go on with it.
    _own: Option<TempPath>,
    listed: Listed,
}

impl<'a> BlobWriter<'a> {
    /// Takes up what an earlier writer left in `file`, hashing it again.
    fn new(
        layout: &'a Layout,
        mut file: File,
        path: PathBuf,
        digest: Digest,
        size: u64,
        listed: Listed,
    ) -> Result<BlobWriter<'a>> {
        let mut hasher = digest.hasher();
        let mut offset = 0;
        if file.metadata().at(&path)?.len() <= size {
            let mut buffer = vec![0; 256 << 10];
            loop {
                match file.read(&mut buffer).at(&path)? {
                    0 => break,
                    n => {
                        hasher.update(&buffer[..n]);
                        offset += n as u64;
                    }
                }
            }
        }
        let _own = None;
        let mut blob =
            BlobWriter { layout, file, path, digest, size, hasher, offset, _own, listed };
        if offset == 0 {
            blob.restart()?; // longer than the blob: nothing of it is trusted
        }
        Ok(blob)
    }

    /// Returns how many bytes are here already.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Returns how many bytes the blob will have.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Opens the file for somebody who writes past this, from its start; [`BlobWriter::follow`] takes that in.
    pub fn file(&self) -> Result<File> {
        self.file.try_clone().at(&self.path)
    }

    /// Takes in what somebody else has written to the file, up to `end`.
    pub fn follow(&mut self, end: u64, buffer: &mut [u8]) -> Result<()> {
        follow(&self.file, &mut self.hasher, &mut self.offset, end, buffer).at(&self.path)
    }

    /// Forgets what is here already.
    fn restart(&mut self) -> Result<()> {
        self.file.set_len(0).at(&self.path)?;
        self.file.seek(SeekFrom::Start(0)).at(&self.path)?;
        self.hasher = self.digest.hasher();
        self.offset = 0;
        Ok(())
    }

    /// Leaves nothing for a later writer, where there is no way to go on.
    pub fn discard(self) {
        let _ = fs::remove_file(&self.path);
    }

    /// Gives the blob its name, if its size and digest are right; else it is removed.
    pub fn finish(self) -> Result<()> {
        let digest = self.digest;
        let found = self.hasher.finish();
        if self.offset != self.size || found != digest {
            fs::remove_file(&self.path).at(&self.path)?;
            ensure!(
                self.offset == self.size,
                "blob {digest}: has {} bytes, not {}",
                self.offset,
                self.size
            );
            bail!("blob {digest}: corrupt: it hashes to {found}");
        }
        publish(self.layout, &self.file, &self.listed, &digest)
    }
}

impl Write for BlobWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.offset + bytes.len() as u64 > self.size {
            return Err(io::Error::other(format!("longer than its {} bytes", self.size)));
        }
        let n = self.file.write(bytes)?;
        self.hasher.update(&bytes[..n]);
        self.offset += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A blob on its way in, whose digest will be known at its end. Dropped before, it leaves nothing.
pub struct NewBlob<'a> {
    layout: &'a Layout,
    file: NamedTempFile,
    hasher: Hasher,
    size: u64,
    listed: Listed,
}

impl<'a> NewBlob<'a> {
    /// Opens the file for somebody who writes past this, from its start; [`NewBlob::follow`] takes that in.
    pub fn file(&self) -> Result<File> {
        self.file.as_file().try_clone().at(self.file.path())
    }

    /// Takes in what somebody else has written to the file, up to `end`.
    pub fn follow(&mut self, end: u64, buffer: &mut [u8]) -> Result<()> {
        follow(self.file.as_file(), &mut self.hasher, &mut self.size, end, buffer)
            .at(self.file.path())
    }

    /// Gives the blob its name; returns its digest and size.
    pub fn finish(self) -> Result<(Digest, u64)> {
        self.seal().publish()
    }

    /// Ends a blob whose file somebody else has written all of, so many bytes with this digest.
    pub fn seal_as(self, digest: Digest, size: u64) -> SealedBlob<'a> {
        SealedBlob { layout: self.layout, file: self.file, digest, size, listed: self.listed }
    }

    /// Ends the blob, to be looked at before it gets its name.
    pub fn seal(self) -> SealedBlob<'a> {
        SealedBlob {
            layout: self.layout,
            file: self.file,
            digest: self.hasher.finish(),
            size: self.size,
            listed: self.listed,
        }
    }
}

/// A blob that is all there, and has no name yet. Dropped before it has, it leaves nothing.
pub struct SealedBlob<'a> {
    layout: &'a Layout,
    file: NamedTempFile,
    /// The digest of its bytes.
    pub digest: Digest,
    /// How many they are.
    pub size: u64,
    listed: Listed,
}

impl SealedBlob<'_> {
    /// Opens the blob from its start.
    pub fn open(&self) -> Result<File> {
        self.file.reopen().at(self.file.path())
    }

    /// Gives the blob its name by this digest; returns false, and leaves nothing, if its bytes have another.
    pub fn publish_as(self, digest: &Digest) -> Result<bool> {
        let found = match digest.algorithm() == self.digest.algorithm() {
            true => self.digest,
            false => {
                let mut through = Hashed::new(self.open()?, digest.hasher());
                io::copy(&mut through, &mut io::sink()).at(self.file.path())?;
                through.finish().1
            }
        };
        if found == *digest && !self.layout.has(digest, self.size)? {
            publish(self.layout, self.file.as_file(), &self.listed, digest)?;
        }
        Ok(found == *digest)
    }

    /// Gives the blob its name; returns its digest and size.
    pub fn publish(self) -> Result<(Digest, u64)> {
        if !self.layout.has(&self.digest, self.size)? {
            publish(self.layout, self.file.as_file(), &self.listed, &self.digest)?;
        }
        Ok((self.digest, self.size))
    }
}

impl Write for NewBlob<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.file.as_file_mut().write(bytes)?;
        self.hasher.update(&bytes[..n]);
        self.size += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Hashes a file from `at`, which moves on, up to `end`.
fn follow(
    file: &File,
    hasher: &mut Hasher,
    at: &mut u64,
    end: u64,
    buffer: &mut [u8],
) -> io::Result<()> {
    while *at < end {
        let most = buffer.len().min(usize::try_from(end - *at).unwrap_or(usize::MAX));
        match file.read_at(&mut buffer[..most], *at) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(n) => {
                hasher.update(&buffer[..n]);
                *at += n as u64;
            }
            Err(err) if err.kind() == ErrorKind::Interrupted => {}
            Err(err) => return Err(err),
        }
    }
    Ok(())
}

/// Puts a whole and verified file under its digest.
///
/// If that fails the file goes: after an error of fsync(2), what is read of it may not be what is on
/// the disk, and the next fsync(2) would say that all is well.
fn publish(layout: &Layout, file: &File, listed: &Listed, digest: &Digest) -> Result<()> {
    let (path, target) = (&listed.path, layout.dir.join(blob_path(digest)));
    let publish = || {
        file.sync_all().at(path)?;
        layout.open_dir(&format!("blobs/{}", digest.algorithm()))?; // it may be a link elsewhere
        match fs::rename(path, &target) {
            Err(err) if err.kind() == ErrorKind::NotFound => {
                // The first blob of its algorithm.
                tree::make_dirs(target.parent().unwrap_or(&target))?;
                fs::rename(path, &target).at(&target)
            }
            renamed => renamed.at(&target),
        }
    };
    publish().inspect_err(|_| drop(fs::remove_file(path)))?;
    let mut book = listed.list.book();
    if book.added.len() < ADDED {
        book.added.push(*digest);
    }
    Ok(())
}

/// Sees that the names of all blobs are on the disk.
fn sync_blobs(layout: &Layout) -> Result<()> {
    let blobs = layout.dir.join("blobs");
    for algorithm in fs::read_dir(&blobs).at(&blobs)? {
        let path = algorithm.at(&blobs)?.path();
        match sync_dir(&path) {
            // Something else that somebody put there.
            Err(err) if err.kind() == ErrorKind::NotADirectory => {}
            synced => synced.at(&path)?,
        }
    }
    Ok(())
}

/// Takes the lock that orders changes of index.json.
pub(super) fn lock_dir(dir: &Path) -> Result<File> {
    let lock = File::open(dir).at(dir)?;
    lock.lock().at(dir)?;
    Ok(lock)
}

/// Replaces the file `name` in `dir`, which is locked, by one with these bytes; the caller syncs the directory.
///
/// It is for whom the old one was, whatever our umask and whoever we are; a first one is for everybody, as blobs are.
pub(super) fn replace(dir: &Path, name: &str, bytes: &[u8]) -> Result<()> {
    let path = dir.join(name);
    // One name for all, so that nothing is left of those who died: the lock makes it ours.
    let new = dir.join(format!(".{name}.new"));
    let write = || {
        let _ = fs::remove_file(&new);
        let mut file = OpenOptions::new().write(true).create_new(true).open(&new)?;
        file.write_all(bytes)?;
        let mut mode = blob_mode();
        if let Ok(old) = fs::metadata(&path) {
            mode = Permissions::from_mode(old.mode() & 0o777);
            if geteuid().is_root() {
                let _ = fchown(&file, Some(old.uid()), Some(old.gid())); // who is nobody in our user namespace
            }
        }
        file.set_permissions(mode)?;
        file.sync_all()?;
        fs::rename(&new, &path)
    };
    write().inspect_err(|_| drop(fs::remove_file(&new))).at(&path)
}

/// Removes what writers left that died before they knew the digest.
fn collect(layout: &Layout) {
    let Some(partial) = Partial::open(&layout.dir) else { return }; // nothing is on its way in
    partial.names(|name| {
        if name.to_bytes().starts_with(b"new-")
            && let Some(file) = partial.file(name)
            && file.try_lock().is_ok()
        {
            let _ = partial.remove(name);
        }
    });
}

fn blob_mode() -> Permissions {
    Permissions::from_mode(0o644)
}
