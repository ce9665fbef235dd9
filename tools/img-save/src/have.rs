//! What the reader of an archive has already.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use common::archive;
use common::cli::Operand;
use common::digest::Digest;
use common::error::At;
use common::store::Store;

/// The most blobs that a list may name: many times those of a large store.
const MOST: usize = 1 << 18;
/// The longest line that is read; a digest has less.
const LINE: u64 = 256;

/// Adds the blobs that `arg` says: `-` or a file is a list of them, all else is an image.
pub fn read(arg: &str, store: &Store, have: &mut BTreeSet<Digest>) -> Result<()> {
    if arg == "-" {
        return list(std::io::stdin().lock(), have).context("stdin");
    }
    let path = Path::new(arg);
    match path.metadata() {
        Ok(found) if !found.is_dir() => {
            let mut file = BufReader::new(File::open(path).at(path)?);
            match archive::is_archive(file.fill_buf().at(path)?) {
                true => image(&Operand::of_file(path), store, have),
                false => list(file, have).at(path),
            }
        }
        _ => image(&arg.parse()?, store, have),
    }
}

/// Adds the blobs that an image is made of.
fn image(image: &Operand, store: &Store, have: &mut BTreeSet<Digest>) -> Result<()> {
    let found = image.find(store)?;
    have.extend(archive::blobs(&found.layout, &found.desc).with_context(|| image.to_string())?);
    Ok(())
}

/// Adds the blobs of a list, a line each, as `img-ls --blobs` prints them.
fn list(mut lines: impl BufRead, have: &mut BTreeSet<Digest>) -> Result<()> {
    let mut line = String::new();
    for number in 1.. {
        line.clear();
        if lines.by_ref().take(LINE).read_line(&mut line)? == 0 {
            break;
        }
        let digest = line.trim_end_matches('\n');
        have.insert(digest.parse().with_context(|| format!("line {number}"))?);
        ensure!(have.len() <= MOST, "line {number}: more than {MOST} blobs");
    }
    Ok(())
}
