//! The build's context, its Dockerfile and its ignore file.
//!
//! ```text
//! DIR         files that others may change meanwhile; -f is a path as any other
//! -           a tar on stdin, or a Dockerfile and no files
//! REPOSITORY  a commit                 )  here -f is a path in the context
//! URL         a tar, or a Dockerfile   )  unless it begins with /
//! ```
//!
//! An ignore file is for directories: what is in a tar or in a commit was chosen
//! by whoever made it, as BuildKit sees it, too. Of the two that there may be the
//! Dockerfile's own counts. Neither is looked for through a link that leads out of
//! the directory it is in.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Cursor, IsTerminal, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Error, Result, anyhow, bail, ensure};
use common::cli;
use common::error::{At, Hint, Usage};
use common::layer::{self, Owners};
use common::{archive, tree};
use rustix::fs::{CWD, FileType, Mode, OFlags, fstat, openat};
use rustix::io::Errno;

use super::address::Address;
use super::repository::Repository;
use super::{DIRECTORY, Elsewhere, Tree, git, http, open_beneath};
use crate::dockerfile;
use crate::ignore::{self, Ignore};

/// What a file is called that is all that a URL has, as BuildKit calls it.
const SINGLE: &str = "context";

/// A context that is here.
pub struct Context {
    /// Its files, without what is ignored.
    pub tree: Tree,
    /// What is in the Dockerfile.
    pub dockerfile: Vec<u8>,
    /// What the Dockerfile is called in messages.
    pub name: String,
    /// Whether somebody else wrote it: it is from a repository, the web or a tar.
    pub theirs: bool,
    /// The files of this host that were read to know all this.
    pub files: Vec<PathBuf>,
    /// When the commit was made that it is, in seconds since 1970: `SOURCE_DATE_EPOCH=context`.
    pub time: Option<i64>,
}

/// Brings a context here: the operand, and what `-f` says. `keep_git_dir` is for a repository.
pub fn open(
    operand: &OsStr,
    file: Option<&Path>,
    keep_git_dir: bool,
    elsewhere: &Elsewhere,
) -> Result<Context> {
    let mut found = find(operand, file, keep_git_dir, elsewhere)?;
    let Some(dir) = found.dir else {
        let apart = file.filter(|file| file.is_absolute() && operand != "-");
        found.context.files.extend(apart.map(Path::to_owned));
        return Ok(found.context);
    };
    let read = ignore_file(&found.context.tree, &dir, found.beside.as_deref())?;
    if let Some((path, ignore)) = read {
        found.context.tree.ignore = Some(ignore);
        found.context.files.push(path);
    }
    Ok(found.context)
}

/// Returns the Dockerfile, and what it is called, whatever is ignored.
pub fn dockerfile(
    operand: &OsStr,
    file: Option<&Path>,
    elsewhere: &Elsewhere,
) -> Result<(Vec<u8>, String)> {
    let found = find(operand, file, false, elsewhere)?;
    Ok((found.context.dockerfile, found.context.name))
}

/// Opens a directory of this host, without what its ignore file says.
pub(super) fn directory(path: &Path, name: &str) -> Result<Tree> {
    let mut tree = Tree::directory(path, name)?;
    tree.ignore = ignore_file(&tree, path, None)?.map(|(_, ignore)| ignore);
    Ok(tree)
}

/// A Dockerfile.
struct Text {
    bytes: Vec<u8>,
    name: String,
    theirs: bool,
}

impl Text {
    /// One that the user has given.
    fn ours(bytes: Vec<u8>, name: impl Into<String>) -> Text {
        Text { bytes, name: name.into(), theirs: false }
    }

    /// One that came with what was fetched or unpacked.
    fn theirs(bytes: Vec<u8>, name: impl Into<String>) -> Text {
        Text { bytes, name: name.into(), theirs: true }
    }
}

/// A context whose ignore file was not looked for.
struct Found {
    context: Context,
    /// The directory that it is, if an ignore file counts in it.
    dir: Option<PathBuf>,
    /// The path of the Dockerfile, if one may be beside it.
    beside: Option<PathBuf>,
}

impl Found {
    /// Returns a context without an ignore file.
    fn of(tree: Tree, text: Text, time: Option<i64>) -> Found {
        let Text { bytes: dockerfile, name, theirs } = text;
        let context = Context { tree, dockerfile, name, theirs, files: Vec::new(), time };
        Found { context, dir: None, beside: None }
    }
}

fn find(
    operand: &OsStr,
    file: Option<&Path>,
    keep_git_dir: bool,
    elsewhere: &Elsewhere,
) -> Result<Found> {
    if operand == "-" {
        return stdin(file, elsewhere);
    }
    let path = Path::new(operand);
    if path.is_dir() {
        return local(path, file, elsewhere);
    }
    if let Some(text) = operand.to_str() {
        // An old spelling, which Docker still reads.
        let short = text.starts_with("github.com/").then(|| format!("https://{text}"));
        let short = short.map(|text| match text.split_once('#') {
            Some((address, fragment)) if !address.ends_with(".git") => {
                format!("{address}.git#{fragment}")
            }
            None if !text.ends_with(".git") => format!("{text}.git"),
            _ => text,
        });
        if let Some(repository) = Repository::parse(short.as_deref().unwrap_or(text))? {
            let checkout = git::context(&repository, keep_git_dir, elsewhere)?;
            let tree = Tree { name: "context".into(), ..checkout.tree };
            let dockerfile = within(&tree, file, true, elsewhere)?;
            return Ok(Found::of(tree, dockerfile, Some(checkout.time)));
        }
        if is_url(text) {
            return match fetched(text, "context", elsewhere)? {
                (tree, None) => {
                    let dockerfile = within(&tree, file, true, elsewhere)?;
                    Ok(Found::of(tree, dockerfile, None))
                }
                (tree, Some(bytes)) => {
                    ensure!(file.is_none(), Usage(format!("{AMBIGUOUS}: -f and the URL")));
                    let name = Address::parse(text)?.to_string();
                    Ok(Found::of(tree, Text::theirs(bytes, name), None))
                }
            };
        }
    }
    let opened = openat(CWD, path, DIRECTORY, Mode::empty()).map(drop).at(path);
    match opened {
        Ok(()) => local(path, file, elsewhere),
        Err(err) if path.is_file() => {
            Err(err).hint(|| format!("img-build - <{}, if it is a tar", path.display()))
        }
        Err(err) => Err(err),
    }
}

const AMBIGUOUS: &str = "there are two Dockerfiles";

fn local(path: &Path, file: Option<&Path>, elsewhere: &Elsewhere) -> Result<Found> {
    let tree = Tree::directory(path, "context")?;
    let (text, beside) = match file {
        Some(file) if file == Path::new("-") => (text_on_stdin()?, None),
        Some(file) if file.to_str().is_some_and(is_url) => {
            (fetched_dockerfile(file, elsewhere)?, None)
        }
        _ => {
            let (file, bytes) = match file {
                Some(file) => (file.to_owned(), read(file)?),
                None => {
                    let file = default(path);
                    let bytes = read(&file).hint(other_name)?;
                    (file, bytes)
                }
            };
            (Text::ours(bytes, file.display().to_string()), Some(file))
        }
    };
    let mut found = Found::of(tree, text, None);
    found.context.files.extend(beside.clone());
    Ok(Found { dir: Some(path.into()), beside, ..found })
}

/// Returns where the Dockerfile of a directory is if nobody says so.
fn default(dir: &Path) -> PathBuf {
    let dir = if dir == Path::new(".") { Path::new("") } else { dir };
    let (usual, small) = (dir.join("Dockerfile"), dir.join("dockerfile"));
    match usual.symlink_metadata().is_err() && small.symlink_metadata().is_ok() {
        true => small,
        false => usual,
    }
}

/// Reads a Dockerfile, which need not be a file: a pipe of m4(1) will do.
fn read(path: &Path) -> Result<Vec<u8>> {
    let file = File::open(path).at(path)?;
    limited(file, dockerfile::LONGEST).at(path)
}

/// Returns advice to somebody who has not said where the Dockerfile is.
fn other_name() -> String {
    "-f FILE, if it has another name".into()
}

/// Reads no more than shows that it is too long.
fn limited(from: impl Read, limit: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    from.take(limit as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Takes standard input, which is no terminal.
fn take_stdin(what: &str) -> Result<File> {
    let fd = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3).context("stdin")?;
    let stdin = File::from(fd);
    if stdin.is_terminal() {
        let err = Error::new(Usage(format!("{what} is not read from a terminal")));
        return Err(err).hint(|| "-f FILE, and a directory".into());
    }
    Ok(stdin)
}

fn text_on_stdin() -> Result<Text> {
    let bytes = limited(take_stdin("a Dockerfile")?, dockerfile::LONGEST).context("stdin")?;
    Ok(Text::ours(bytes, "stdin"))
}

/// Takes what comes on stdin for a tar or for a Dockerfile, whatever it looks like.
fn stdin(file: Option<&Path>, elsewhere: &Elsewhere) -> Result<Found> {
    let twice = file == Some(Path::new("-"));
    ensure!(!twice, Usage("-f -: stdin is the context or the Dockerfile, and not both".into()));
    let mut stdin = take_stdin("a context")?;
    let mut start = Vec::new();
    stdin.by_ref().take(512).read_to_end(&mut start).context("stdin")?;
    ensure!(!start.is_empty(), "nothing on stdin: did the command before this one fail?");
    let is_tar = archive::is_archive(&start);
    let all = Cursor::new(start).chain(stdin);
    if is_tar {
        let tree = extract(all, "context", elsewhere).context("stdin")?;
        let dockerfile = within(&tree, file, false, elsewhere)?;
        return Ok(Found::of(tree, dockerfile, None));
    }
    ensure!(file.is_none(), Usage(format!("{AMBIGUOUS}: -f and stdin")));
    let bytes = limited(all, dockerfile::LONGEST).context("stdin")?;
    let (dir, root) = elsewhere.directory()?;
    Ok(Found::of(Tree::ours(root, "context", dir), Text::ours(bytes, "stdin"), None))
}

/// Makes a tree of a tar, which may be packed.
fn extract(tar: impl Read, name: &str, elsewhere: &Elsewhere) -> Result<Tree> {
    let (dir, root) = elsewhere.directory()?;
    let options = layer::Options { owners: Owners::Ours, ..layer::Options::default() };
    let warnings = layer::Tree::open(&root, options)?.extract(archive::unpacked(tar)?)?;
    warnings.iter().for_each(cli::warn);
    Ok(Tree::ours(root, name, dir))
}

/// Fetches a tree: what a tar holds, or else a single file, whose content is returned as well.
pub(super) fn fetched(
    url: &str,
    name: &str,
    elsewhere: &Elsewhere,
) -> Result<(Tree, Option<Vec<u8>>)> {
    let address = Address::parse(url)?;
    let single = http::get_as(&address, SINGLE, None, elsewhere)?;
    let open = || regular(single.tree.root.as_fd(), SINGLE).context(address.to_string());
    let mut file = open()?.context("it has vanished")?;
    let mut start = Vec::new();
    file.by_ref().take(512).read_to_end(&mut start)?;
    let all = Cursor::new(&start).chain(file);
    if archive::is_archive(&start) {
        let tree = extract(all, name, elsewhere).with_context(|| address.to_string())?;
        return Ok((tree, None));
    }
    let bytes = limited(all, dockerfile::LONGEST)?;
    Ok((Tree { name: name.into(), ..single.tree }, Some(bytes)))
}

/// Fetches the Dockerfile alone: `-f https://...`.
fn fetched_dockerfile(file: &Path, elsewhere: &Elsewhere) -> Result<Text> {
    let address = Address::parse(file.to_str().unwrap_or_default())?;
    let single = http::get_as(&address, SINGLE, None, elsewhere)?;
    let opened = regular(single.tree.root.as_fd(), SINGLE)?.context("it has vanished")?;
    Ok(Text::theirs(limited(opened, dockerfile::LONGEST)?, address.to_string()))
}

fn is_url(text: &str) -> bool {
    text.starts_with("http://") || text.starts_with("https://")
}

/// Reads the Dockerfile of a context that is no directory of this host.
///
/// With `apart`, a path that begins with `/` is one of this host.
fn within(tree: &Tree, file: Option<&Path>, apart: bool, elsewhere: &Elsewhere) -> Result<Text> {
    let names = match file {
        None => vec!["Dockerfile", "dockerfile"],
        Some(file) if file == Path::new("-") => return text_on_stdin(),
        Some(file) if file.to_str().is_some_and(is_url) => {
            return fetched_dockerfile(file, elsewhere);
        }
        Some(file) if apart && file.is_absolute() => {
            return Ok(Text::ours(read(file)?, file.display().to_string()));
        }
        Some(file) => {
            vec![file.to_str().with_context(|| format!("{}: not UTF-8", file.display()))?]
        }
    };
    for name in &names {
        let path = common::path::clean(&format!("/{name}"));
        let path = path.trim_start_matches('/');
        let path = if path.is_empty() { "." } else { path };
        let opened = regular(tree.root.as_fd(), path).with_context(|| (*name).to_string())?;
        if let Some(file) = opened {
            let bytes = limited(file, dockerfile::LONGEST).with_context(|| (*name).to_string())?;
            return Ok(Text::theirs(bytes, *name));
        }
    }
    let missing = Err(anyhow!("{}: not in the context", names[0]));
    if file.is_some() { missing } else { missing.hint(other_name) }
}

/// Opens a regular file in a directory, through no link that leads out of it; nothing, if it is not there.
fn regular(dir: BorrowedFd, path: &str) -> Result<Option<File>> {
    let fd: OwnedFd = match open_beneath(dir, path, OFlags::RDONLY) {
        Ok(fd) => fd,
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
        Err(Errno::XDEV) => bail!("a link that leads out of the directory"),
        Err(err) => return Err(err.into()),
    };
    let kind = FileType::from_raw_mode(fstat(&fd)?.st_mode);
    ensure!(kind == FileType::RegularFile, "not a regular file");
    Ok(Some(fd.into()))
}

/// Reads the ignore file of a directory: that of the Dockerfile at `beside`, else the directory's own.
fn ignore_file(
    tree: &Tree,
    dir: &Path,
    beside: Option<&Path>,
) -> Result<Option<(PathBuf, Ignore)>> {
    let mut places = Vec::new();
    if let Some((file, name)) = beside.and_then(|file| Some((file, file.file_name()?.to_str()?))) {
        let above = tree::above(file);
        let fd = openat(CWD, above, DIRECTORY, Mode::empty()).at(above)?;
        let name = format!("{name}.dockerignore");
        places.push((fd, file.with_file_name(&name), name));
    }
    places.push((tree.root.try_clone()?, dir.join(".dockerignore"), ".dockerignore".into()));
    for (fd, path, name) in places {
        let Some(file) = regular(fd.as_fd(), &name).at(&path)? else { continue };
        let bytes = limited(file, ignore::LONGEST).at(&path)?;
        let shown = path.display().to_string();
        let ignore = Ignore::parse(&bytes).map_err(|err| err.in_file(&shown))?;
        return Ok(Some((path, ignore)));
    }
    Ok(None)
}

#[cfg(test)]
mod tests;
