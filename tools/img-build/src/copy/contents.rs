//! The digests of files' contents, computed on all cores, and kept for the next build.
//!
//! ```text
//! $TARE_ROOT/cache/files/DEV-INODE     one file a tree
//!   magic
//!   device inode size mtime ctime digest      88 bytes each, sorted
//!   digest of all above
//! ```
//!
//! A file is known by its inode and its times, as git's index knows it: what is
//! kept of it is right unless it was written to in the same tick of the clock in
//! which it was read. So nothing is kept of a file that had changed only just
//! before. Whatever is not whole is as if it were not there.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Error, Result};
use common::digest::{Digest, Hasher};
use common::error::At;
use common::layer::is_record;
use common::tree::join;
use rustix::fs::{FileType, Mode, OFlags, fgetxattr, flistxattr, openat};
use rustix::io::{Errno, pread};

use super::walk::{Status, changed, open, shown, status};
use crate::source::Tree;

/// A content's digest: of what is in a file and of its attributes.
pub(super) type Content = [u8; 32];

/// Extended attributes by name.
pub(super) type Xattrs = BTreeMap<Vec<u8>, Vec<u8>>;

/// What a thread hashes at once: a large file is hashed by all.
const PIECE: u64 = 8 << 20;
/// How much is read at once.
const BUFFER: usize = 256 << 10;
/// How many pieces a thread takes at once: files of one directory, mostly.
const BATCH: usize = 32;
/// More threads than these are not faster than what they read from.
const THREADS: usize = 8;
/// What is read sooner than what is known about it.
const FEW: usize = 128;
const LITTLE: u64 = 4 << 20;
/// A file that changed later than that before it was read may change again without anyone seeing it.
pub(super) const RACY: Duration = Duration::from_secs(2);
/// The most bytes of an extended attribute, and of the list of their names: xattr(7).
const XATTR_MOST: usize = 64 << 10;

/// A file whose digest is wanted.
pub(super) struct Wanted<'a> {
    /// Where what it is a part of is in the tree.
    pub(super) root: &'a [u8],
    /// Where it is in that.
    pub(super) path: &'a [u8],
    pub(super) status: &'a Status,
}

/// Returns the digests of files, in their order; what is known of them is kept in the directory `known`.
///
/// Nothing is kept of a file that had changed less than `racy` before.
pub(super) fn digests(
    tree: &Tree,
    wanted: &[Wanted],
    known: Option<&Path>,
    racy: Duration,
) -> Result<Vec<Content>> {
    let bytes: u64 = wanted.iter().map(|wanted| wanted.status.size).sum();
    let worth = tree.foreign && (wanted.len() > FEW || bytes > LITTLE);
    let mut known = match known.filter(|_| worth) {
        Some(dir) => Some(Known::load(dir, &status(&tree.root)?)),
        None => None,
    };
    let mut digests: Vec<Option<Content>> = vec![None; wanted.len()];
    if let Some(known) = &known {
        for (digest, wanted) in digests.iter_mut().zip(wanted) {
            *digest = known.get(wanted.status);
        }
    }
    let missing: Vec<usize> = (0..wanted.len()).filter(|i| digests[*i].is_none()).collect();
    let begin = now();
    for (number, digest) in hash(tree, wanted, &missing)? {
        digests[number] = Some(digest);
    }
    if let Some(known) = &mut known {
        let old = begin.saturating_sub(racy);
        for number in missing {
            let status = wanted[number].status;
            if let Some(digest) = digests[number].filter(|_| changed_before(status, old)) {
                known.put(status, digest);
            }
        }
        known.save(wanted);
    }
    // None is missing: those that were have been hashed.
    Ok(digests.into_iter().flatten().collect())
}

fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

fn changed_before(status: &Status, time: Duration) -> bool {
    let (seconds, nanoseconds) = status.ctime;
    (seconds, nanoseconds) < (time.as_secs() as i64, i64::from(time.subsec_nanos()))
}

/// A part of a file.
struct Piece {
    /// Which of the wanted.
    number: usize,
    offset: u64,
}

/// Hashes files on all cores.
fn hash(tree: &Tree, wanted: &[Wanted], missing: &[usize]) -> Result<Vec<(usize, Content)>> {
    let mut pieces = Vec::new();
    for &number in missing {
        let size = wanted[number].status.size;
        let count = if wanted[number].is_file() { size.div_ceil(PIECE).max(1) } else { 1 };
        pieces.extend((0..count).map(|i| Piece { number, offset: i * PIECE }));
    }
    let next = AtomicUsize::new(0);
    let failed = AtomicBool::new(false);
    // Of a few large files each thread takes one piece at a time.
    let batch = (pieces.len() / (THREADS * 4)).clamp(1, BATCH);
    let work = || -> Result<Vec<(usize, Hashed)>> {
        let mut worker = Worker { tree, dir: None, buffer: vec![0; BUFFER] };
        let mut done = Vec::new();
        while !failed.load(Ordering::Relaxed) {
            let start = next.fetch_add(batch, Ordering::Relaxed);
            let Some(rest) = pieces.get(start..) else { break };
            for (i, piece) in rest.iter().take(batch).enumerate() {
                let wanted = &wanted[piece.number];
                match worker.hash(wanted, piece.offset) {
                    Ok(hashed) => done.push((start + i, hashed)),
                    Err(err) => {
                        let err = Err(err).at(shown(&wanted.whole()));
                        failed.store(true, Ordering::Relaxed);
                        return err;
                    }
                }
            }
        }
        Ok(done)
    };
    let threads = thread::available_parallelism().map_or(1, usize::from).min(THREADS);
    let threads = threads.min(pieces.len().div_ceil(batch)).max(1);
    let mut done = thread::scope(|scope| -> Result<Vec<(usize, Hashed)>> {
        let mut others = Vec::new();
        for _ in 1..threads {
            let thread = thread::Builder::new().name("hash".into()).stack_size(256 << 10);
            others.push(thread.spawn_scoped(scope, work)?);
        }
        let mut all = work();
        for thread in others {
            let done = thread.join().unwrap_or_else(|_| Err(Error::msg("a thread has died")));
            all = match (all, done) {
                (Ok(mut all), Ok(done)) => {
                    all.extend(done);
                    Ok(all)
                }
                (Err(err), _) | (_, Err(err)) => Err(err),
            };
        }
        all
    })?;
    done.sort_unstable_by_key(|(place, _)| *place);

    let mut done =
        done.into_iter().map(|(place, hashed)| (pieces[place].number, hashed)).peekable();
    let mut digests = Vec::with_capacity(missing.len());
    while let Some((number, first)) = done.next() {
        let mut hasher = Hasher::sha256();
        hasher.update(&wanted[number].status.size.to_be_bytes());
        hasher.update(&first.content);
        while let Some((_, piece)) = done.next_if(|(other, _)| *other == number) {
            hasher.update(&piece.content);
        }
        for (name, value) in &first.xattrs {
            for field in [name, value] {
                hasher.update(&(field.len() as u64).to_be_bytes());
                hasher.update(field);
            }
        }
        digests.push((number, bytes_of(hasher)));
    }
    Ok(digests)
}

/// Returns a SHA-256 digest as bytes.
fn bytes_of(hasher: Hasher) -> Content {
    match hasher.finish() {
        Digest::Sha256(bytes) => bytes,
        Digest::Sha512(_) => [0; 32], // no hasher here is one of these
    }
}

/// What a piece is.
struct Hashed {
    content: Content,
    /// Those of the file, with its first piece.
    xattrs: Xattrs,
}

/// A thread that hashes.
struct Worker<'a> {
    tree: &'a Tree,
    /// The directory that the last file was in.
    dir: Option<(Vec<u8>, OwnedFd)>,
    buffer: Vec<u8>,
}

impl Worker<'_> {
    fn hash(&mut self, wanted: &Wanted, offset: u64) -> Result<Hashed> {
        let file = open_as(self.tree, &mut self.dir, &wanted.whole(), wanted.status)?;
        let mut hasher = Hasher::sha256();
        let end = wanted.status.size.min(offset + PIECE);
        let mut at = if wanted.is_file() { offset } else { end };
        while at < end {
            let most = self.buffer.len().min((end - at) as usize);
            match pread(&file, &mut self.buffer[..most], at) {
                Ok(0) => return Err(changed()),
                Ok(n) => {
                    hasher.update(&self.buffer[..n]);
                    at += n as u64;
                }
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        let xattrs = match offset {
            0 => xattrs(&file, self.tree.foreign)?,
            _ => Xattrs::new(),
        };
        if !status(&file)?.is_as(wanted.status) {
            return Err(changed());
        }
        Ok(Hashed { content: bytes_of(hasher), xattrs })
    }
}

impl Wanted<'_> {
    /// Returns its path in the tree.
    fn whole(&self) -> Vec<u8> {
        if self.path.is_empty() { self.root.into() } else { join(self.root, self.path) }
    }

    fn is_file(&self) -> bool {
        self.status.kind == FileType::RegularFile
    }
}

/// Opens a file or a directory that was looked at before, by way of its directory, which stays open for the next.
pub(super) fn open_as(
    tree: &Tree,
    dir: &mut Option<(Vec<u8>, OwnedFd)>,
    path: &[u8],
    before: &Status,
) -> Result<OwnedFd> {
    let gone = |errno| match errno {
        Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::NXIO => changed(),
        errno => Error::new(errno),
    };
    // A FIFO or a device that came instead is not waited for.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
    let (above, name) = match path.iter().rposition(|c| *c == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (&b""[..], path),
    };
    let file = if name.is_empty() {
        open(tree.root.as_fd(), b"", flags | OFlags::DIRECTORY).map_err(gone)?
    } else {
        let dir = match dir {
            Some((path, fd)) if path == above => fd,
            _ => {
                let flags = OFlags::PATH | OFlags::DIRECTORY;
                let fd = open(tree.root.as_fd(), above, flags).map_err(gone)?;
                &mut dir.insert((above.into(), fd)).1
            }
        };
        openat(dir, name, flags | OFlags::CLOEXEC, Mode::empty()).map_err(gone)?
    };
    if !status(&file)?.is_as(before) {
        return Err(changed());
    }
    Ok(file)
}

/// Returns the attributes that are copied.
///
/// Of a stage or an image capabilities are, and what its programs have noted. Of a
/// foreign tree nothing is: BuildKit loses its capabilities, which are power that
/// nobody sees in a review; what the host's programs have noted is the host's, a
/// label, a URL that a file was downloaded from.
pub(super) fn xattrs(fd: impl AsFd, foreign: bool) -> Result<Xattrs> {
    let mut found = Xattrs::new();
    if foreign {
        return Ok(found);
    }
    let mut names = vec![0; 1 << 10];
    let len = loop {
        match flistxattr(&fd, &mut names[..]) {
            Ok(len) => break len,
            Err(Errno::RANGE) if names.len() < XATTR_MOST => names.resize(XATTR_MOST, 0),
            Err(Errno::OPNOTSUPP) => return Ok(found),
            Err(errno) => return Err(errno.into()),
        }
    };
    for name in names[..len].split(|c| *c == 0) {
        let own = name.starts_with(b"user.") && !name.starts_with(b"user.overlay.");
        if name != b"security.capability" && (!own || is_record(name)?) {
            continue;
        }
        let mut value = vec![0; XATTR_MOST];
        match fgetxattr(&fd, name, &mut value[..]) {
            Ok(len) => value.truncate(len),
            Err(Errno::NODATA) => continue,
            Err(errno) => return Err(errno.into()),
        }
        found.insert(name.into(), value);
    }
    Ok(found)
}

const MAGIC: &[u8; 16] = b"tare contents 1\n";
const INODE: usize = 16;
const KEY: usize = 56;
const RECORD: usize = KEY + 32;
/// The most trees that something is known of.
const TREES: usize = 256;
/// How many files of a tree are known without being asked for.
const SPARE: usize = 50_000;

/// What is known of a tree's files.
struct Known {
    path: PathBuf,
    /// Records in order, without magic and digest.
    records: Vec<u8>,
    new: BTreeMap<[u8; KEY], Content>,
}

/// What a file is known by.
fn key(status: &Status) -> [u8; KEY] {
    let mut key = [0; KEY];
    let (mtime, ctime) = (status.mtime, status.ctime);
    let fields = [
        status.dev,
        status.ino,
        status.size,
        mtime.0 as u64,
        mtime.1 as u64,
        ctime.0 as u64,
        ctime.1 as u64,
    ];
    for (place, field) in key.chunks_exact_mut(8).zip(fields) {
        place.copy_from_slice(&field.to_be_bytes());
    }
    key
}

impl Known {
    fn load(dir: &Path, root: &Status) -> Known {
        let path = dir.join(format!("{:x}-{:x}", root.dev, root.ino));
        let records = read(&path).unwrap_or_default();
        Known { path, records, new: BTreeMap::new() }
    }

    fn get(&self, status: &Status) -> Option<Content> {
        let (records, _) = self.records.as_chunks::<RECORD>();
        let key = key(status);
        let place = records.binary_search_by(|record| record[..KEY].cmp(&key)).ok()?;
        records[place][KEY..].try_into().ok()
    }

    fn put(&mut self, status: &Status, digest: Content) {
        self.new.insert(key(status), digest);
    }

    /// Writes what is new, and keeps what was there as far as it may be of use. Nothing depends on it.
    fn save(&self, wanted: &[Wanted]) {
        if self.new.is_empty() {
            return;
        }
        let (records, _) = self.records.as_chunks::<RECORD>();
        // An inode has one state at a time.
        let inodes: BTreeSet<&[u8]> = self.new.keys().map(|key| &key[..INODE]).collect();
        let asked: Option<BTreeSet<[u8; KEY]>> = (records.len() > wanted.len() + SPARE)
            .then(|| wanted.iter().map(|wanted| key(wanted.status)).collect());
        let kept = records.iter().filter(|record| {
            let asked = asked.as_ref();
            !inodes.contains(&record[..INODE])
                && asked.is_none_or(|asked| asked.contains(&record[..KEY]))
        });
        let mut bytes = MAGIC.to_vec();
        bytes.extend(kept.flatten());
        for (key, digest) in &self.new {
            bytes.extend(key);
            bytes.extend(digest);
        }
        bytes[MAGIC.len()..].as_chunks_mut::<RECORD>().0.sort_unstable();
        let mut hasher = Hasher::sha256();
        hasher.update(&bytes);
        bytes.extend(bytes_of(hasher));
        if write(&self.path, &bytes).is_ok() {
            forget(&self.path);
        }
    }
}

/// Reads the records of a file that is whole.
fn read(path: &Path) -> Option<Vec<u8>> {
    let mut file = File::open(path).ok()?;
    let mut bytes = Vec::with_capacity(usize::try_from(file.metadata().ok()?.len()).ok()?);
    file.read_to_end(&mut bytes).ok()?;
    let end = bytes.len().checked_sub(32).filter(|end| *end >= MAGIC.len())?;
    let mut hasher = Hasher::sha256();
    hasher.update(&bytes[..end]);
    let whole = bytes.starts_with(MAGIC) && bytes[end..] == bytes_of(hasher);
    if !whole || !(end - MAGIC.len()).is_multiple_of(RECORD) {
        return None;
    }
    bytes.truncate(end);
    bytes.drain(..MAGIC.len());
    // It is of use: see `forget`.
    let _ = file.set_modified(SystemTime::now());
    Some(bytes)
}

/// Replaces a file. One that a power cut tears is not whole, so nobody waits for the disk.
fn write(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let dir = path.parent().unwrap_or(path);
    fs::create_dir_all(dir)?;
    // One name for all, so that nothing is left of those who died.
    let new = path.with_extension("new");
    let _ = fs::remove_file(&new);
    let mut file = File::options().write(true).create_new(true).open(&new)?;
    file.write_all(bytes).and_then(|()| fs::rename(&new, path)).inspect_err(|_| {
        let _ = fs::remove_file(&new);
    })
}

/// Removes what is known of the trees that were not read for the longest time.
fn forget(path: &Path) {
    let Some(Ok(list)) = path.parent().map(fs::read_dir) else { return };
    let age = |entry: fs::DirEntry| Some((entry.metadata().ok()?.modified().ok()?, entry.path()));
    let mut files: Vec<(SystemTime, PathBuf)> = list.flatten().filter_map(age).collect();
    files.sort();
    for (_, path) in files.iter().take(files.len().saturating_sub(TREES)) {
        let _ = fs::remove_file(path);
    }
}
