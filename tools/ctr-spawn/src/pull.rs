//! Gets an image that is not here, by running img-pull.

use std::io::Read;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use common::cli::{Found, Operand};
use common::error;
use common::layout::Absent;
use common::reference::Reference;
use common::store::Store;

use crate::options::Pull;

/// The longest line that img-pull prints.
const LINE_LIMIT: u64 = 4096;

/// Returns the image that `operand` names; an image in a registry is pulled as `when` says.
pub fn find(operand: Operand, store: &Store, when: Pull) -> Result<Found> {
    if let (Pull::Always, Operand::Name(name) | Operand::Id(_, Some(name))) = (when, &operand) {
        return pull(name, store)?.find_in_store(store);
    }
    match operand.find_in_store(store) {
        Err(err) if when == Pull::Missing => match error::find::<Absent>(&err) {
            Some(Absent(name)) => pull(name, store)?.find_in_store(store),
            None => Err(err),
        },
        found => found,
    }
}

/// Runs img-pull; returns the image that it names.
///
/// What it has to say goes to stderr, which it shares.
fn pull(name: &Reference, store: &Store) -> Result<Operand> {
    let mut child = Command::new(program("img-pull"))
        .arg("--")
        .arg(name.to_string())
        .env("TARE_ROOT", store.root())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("img-pull")?;
    let mut line = String::new();
    // It was asked for above.
    let stdout = child.stdout.take().unwrap();
    let read = stdout.take(LINE_LIMIT).read_to_string(&mut line);
    let status = child.wait().context("img-pull")?;
    ensure!(status.success(), "{name}: not here, and img-pull cannot get it");
    read.context("img-pull")?;
    match line.trim_end().parse()? {
        Operand::Stdin => bail!("img-pull: it names no image"),
        operand => Ok(operand),
    }
}

/// Returns the tool `name`: the one beside this one, else the one on PATH.
fn program(name: &str) -> PathBuf {
    let beside = std::env::current_exe().ok().map(|own| own.with_file_name(name));
    beside.filter(|path| path.is_file()).unwrap_or_else(|| name.into())
}
