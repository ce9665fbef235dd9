//! The result's files, as a tar: `type=tar`.
//!
//! It is the same to the byte for the same result: sorted, with the owners, modes
//! and times that the image has.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::os::fd::{AsFd, OwnedFd};

use anyhow::{Context, Result, bail, ensure};
use common::cli;
use common::error::At;
use common::layer::pack::{self, Entry, Kind};
use common::layer::{BLOCK, recorded_owner};
use rustix::fs::{FileType, Mode, OFlags, Stat, fstat, major, minor, openat, readlinkat};

use super::walk::{Found, Visit, shown, walk, xattrs};

/// Writes trees, each below its name if that is not empty; returns what is not in the tar.
pub fn write(trees: &[(String, OwnedFd)], output: cli::Output) -> Result<Vec<String>> {
    let mut warnings = Vec::new();
    output.write(|file, place| {
        let out = BufWriter::with_capacity(256 << 10, file);
        let (header, links) = (Vec::new(), HashMap::new());
        let mut tar = Tar { out, place, header, below: Vec::new(), links, sockets: 0 };
        for (name, tree) in trees {
            tar.begin(name, tree)?;
            walk(tree.as_fd(), &mut tar)?;
        }
        tar.out.write_all(&[0; 2 * BLOCK]).at(place)?;
        tar.out.flush().at(place)?;
        if tar.sockets > 0 {
            warnings.push(format!("{} sockets are not in the tar", tar.sockets));
        }
        Ok(())
    })?;
    Ok(warnings)
}

struct Tar<'a> {
    out: BufWriter<File>,
    /// What errors call it.
    place: &'a str,
    header: Vec<u8>,
    /// What comes before a path in the tree: nothing, or a name and a slash.
    below: Vec<u8>,
    /// The first names of files with several.
    links: HashMap<(u64, u64), Vec<u8>>,
    /// How many sockets there were.
    sockets: u64,
}

impl Visit for Tar<'_> {
    fn found(&mut self, found: &Found) -> Result<()> {
        let stat = &found.stat;
        let kind = match found.kind {
            FileType::Socket => {
                self.sockets += 1;
                return Ok(());
            }
            _ if stat.st_nlink > 1
                && found.kind != FileType::Directory
                && let Some(first) = self.links.get(&(stat.st_dev, stat.st_ino)) =>
            {
                Kind::Link(first.clone())
            }
            FileType::Directory => Kind::Directory,
            FileType::RegularFile => Kind::File { size: stat.st_size as u64 },
            FileType::Symlink => {
                Kind::Symlink(readlinkat(found.dir, found.name, Vec::new())?.into_bytes())
            }
            FileType::Fifo => Kind::Fifo,
            FileType::CharacterDevice | FileType::BlockDevice => Kind::Device {
                block: found.kind == FileType::BlockDevice,
                major: major(stat.st_rdev),
                minor: minor(stat.st_rdev),
            },
            _ => bail!("a file of no known type"),
        };
        let is_link = matches!(kind, Kind::Link(_));
        if stat.st_nlink > 1 && found.kind != FileType::Directory && !is_link {
            self.links.insert((stat.st_dev, stat.st_ino), self.path(found.path));
        }
        let owner = match found.kind {
            FileType::Directory | FileType::RegularFile => {
                recorded_owner(found.dir, found.name.to_bytes())?
            }
            _ => None,
        };
        let (uid, gid) = owner.unwrap_or((stat.st_uid, stat.st_gid));
        let entry = Entry {
            path: self.path(found.path),
            mode: stat.st_mode & 0o7777,
            uid,
            gid,
            mtime: stat.st_mtime,
            // A second name has those of the first.
            xattrs: if is_link { BTreeMap::new() } else { xattrs(found)? },
            kind,
        };
        self.head(&entry)?;
        match entry.kind {
            Kind::File { size } if size > 0 => self.content(found, size),
            _ => Ok(()),
        }
    }

    fn left(&mut self, _: &[u8], _: &Stat) -> Result<()> {
        Ok(())
    }
}

impl Tar<'_> {
    /// Begins with another tree.
    fn begin(&mut self, name: &str, tree: &OwnedFd) -> Result<()> {
        self.links.clear();
        self.below.clear();
        if name.is_empty() {
            return Ok(());
        }
        let stat = fstat(tree)?;
        let entry = Entry {
            path: name.as_bytes().to_vec(),
            mode: stat.st_mode & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
            mtime: stat.st_mtime,
            xattrs: BTreeMap::new(),
            kind: Kind::Directory,
        };
        self.below.extend(format!("{name}/").bytes());
        self.head(&entry)
    }

    fn path(&self, path: &[u8]) -> Vec<u8> {
        [&self.below, path].concat()
    }

    fn head(&mut self, entry: &Entry) -> Result<()> {
        self.header.clear();
        pack::header(entry, &mut self.header)?;
        self.out.write_all(&self.header).at(self.place)
    }

    fn content(&mut self, found: &Found, size: u64) -> Result<()> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = File::from(openat(found.dir, found.name, flags, Mode::empty())?);
        // The kernel copies, if it can.
        let copied = io::copy(&mut file.take(size), &mut self.out);
        let copied = copied.with_context(|| format!("cannot write to {}", self.place))?;
        ensure!(copied == size, "{}: it has shrunk", shown(found.path));
        self.out.write_all(pack::padding(size)).at(self.place)
    }
}
