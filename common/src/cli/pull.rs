//! Gets an image that is not here, by running img-pull: HTTP and TLS stay out of the tool that needs it.

use std::io::Read;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use super::Operand;
use crate::reference::Reference;
use crate::store::Store;
use crate::sys;

/// The longest line that img-pull prints.
const LINE_LIMIT: u64 = 4096;

/// Runs img-pull with these options; returns the image that it names.
///
/// What it has to say goes to stderr, which it shares. It does not outlive this thread; what it has fetched by then is gone on with.
pub fn pull(name: &Reference, options: &[String], store: &Store) -> Result<Operand> {
    let mut pull = Command::new(program("img-pull"));
    pull.args(options)
        .arg("--")
        .arg(name.to_string())
        .env("TARE_ROOT", store.root())
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    sys::end_with_us(&mut pull);
    let mut child = pull.spawn().context("img-pull")?;
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
pub fn program(name: &str) -> PathBuf {
    let beside = std::env::current_exe().ok().map(|own| own.with_file_name(name));
    beside.filter(|path| path.is_file()).unwrap_or_else(|| name.into())
}
