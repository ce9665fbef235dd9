//! The result's files, as a tar: `type=tar`.
//!
//! It is the same to the byte for the same result: sorted, with the owners, modes
//! and times that the image has.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::os::fd::BorrowedFd;

use anyhow::{Context, Result, bail, ensure};
use common::cli;
use common::error::At;
use common::layer::pack::{self, Entry, Kind};
use rustix::fs::{FileType, Mode, OFlags, Stat, major, minor, openat, readlinkat};

use super::walk::{Found, Visit, shown, walk, xattrs};

/// The unit of a tar.
const BLOCK: u64 = 512;

/// Writes the tree; returns what is not in the tar.
pub fn write(tree: BorrowedFd, output: cli::Output) -> Result<Vec<String>> {
    let mut warnings = Vec::new();
    output.write(|file, place| {
        let out = BufWriter::with_capacity(256 << 10, file);
        let mut tar = Tar { out, place, header: Vec::new(), links: HashMap::new(), warnings: 0 };
        walk(tree, &mut tar)?;
        tar.out.write_all(&[0; 2 * BLOCK as usize]).at(place)?;
        tar.out.flush().at(place)?;
        if tar.warnings > 0 {
            warnings.push(format!("{} sockets are not in the tar", tar.warnings));
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
    /// The first names of files with several.
    links: HashMap<(u64, u64), Vec<u8>>,
    /// How many sockets there were.
    warnings: u64,
}

impl Visit for Tar<'_> {
    fn found(&mut self, found: &Found) -> Result<()> {
        let stat = &found.stat;
        let kind = match found.kind {
            FileType::Socket => {
                self.warnings += 1;
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
            self.links.insert((stat.st_dev, stat.st_ino), found.path.to_vec());
        }
        let entry = Entry {
            path: found.path.to_vec(),
            mode: stat.st_mode & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
            mtime: stat.st_mtime,
            // A second name has those of the first.
            xattrs: if is_link { Default::default() } else { xattrs(found)? },
            kind,
        };
        self.header.clear();
        pack::header(&entry, &mut self.header)?;
        self.out.write_all(&self.header).at(self.place)?;
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
    fn content(&mut self, found: &Found, size: u64) -> Result<()> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = File::from(openat(found.dir, found.name, flags, Mode::empty())?);
        // The kernel copies, if it can.
        let copied = io::copy(&mut file.take(size), &mut self.out);
        let copied = copied.with_context(|| format!("cannot write to {}", self.place))?;
        ensure!(copied == size, "{}: it has shrunk", shown(found.path));
        let padding = (size.wrapping_neg() % BLOCK) as usize;
        self.out.write_all(&[0; BLOCK as usize][..padding]).at(self.place)
    }
}
