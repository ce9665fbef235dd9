//! Mounts as the user asks for them: `-v`, `--mount` and `--tmpfs`, in Docker's grammar.
//!
//! ```text
//! -v SRC:DST[:OPTION,...]                      SRC begins with / or .
//! --mount type=bind|tmpfs,src=SRC,dst=DST,...  one line of CSV, so that a quoted field may hold a comma
//! --tmpfs DST[:OPTION,...]
//! ```
//!
//! What Docker would skip, or make up, is an error here: an unknown option, a
//! source that is not there. A destination is where it is inside the container,
//! and `..` in it is taken back before anything is resolved.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context, Error, Result, anyhow, bail, ensure};
use common::bundle;
use common::cli::{boolean, csv, size};
use common::error::{At, Hint, hint_of, line};
use common::path::clean;
use oci_spec::runtime::Mount as OciMount;

/// Why a volume is refused.
const NO_VOLUMES: &str = "volumes do not exist yet";

/// A mount that the user asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Where it is in the container: absolute, without `.` and `..`.
    pub destination: String,
    /// What is there.
    pub kind: Kind,
}

/// What is mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A file or directory of the host, and options of mount(8).
    Bind { source: PathBuf, options: Vec<String> },
    /// Memory, and options of mount(8).
    Tmpfs { options: Vec<String> },
}

/// The operand of `-v`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Volume(pub Mount);

/// The operand of `--mount`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Long(pub Mount);

/// The operand of `--tmpfs`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tmpfs(pub Mount);

impl Mount {
    /// Returns the mount as the runtime spec has it. A source must be there: Docker's `-v` would make a directory of it.
    pub fn to_oci(&self) -> Result<OciMount> {
        let (kind, source, options) = match &self.kind {
            Kind::Bind { source, options } => {
                let source = std::path::absolute(source).at(source)?;
                exists(&source)?;
                let source = source.into_os_string().into_string();
                let source = source.map_err(|path| anyhow!("{path:?}: not UTF-8"))?;
                ("bind", source, options)
            }
            Kind::Tmpfs { options } => ("tmpfs", "tmpfs".into(), options),
        };
        let options: Vec<&str> = options.iter().map(String::as_str).collect();
        Ok(bundle::mount(&self.destination, kind, &source, &options))
    }
}

/// Sees that `source` is there, and names what is if it is not.
fn exists(source: &Path) -> Result<()> {
    let Err(err) = source.metadata() else { return Ok(()) };
    let nearest = source.ancestors().skip(1).find(|path| path.exists());
    Err(err).at(source).hint(|| match nearest {
        Some(nearest) => format!("of this path there is {}", nearest.display()),
        None => "nothing of this path is there".into(),
    })
}

/// Returns `err` as one link, which is all that the parser of the command line prints; it prints the operand as well.
fn flat(err: Error) -> Error {
    match hint_of(&err) {
        Some(hint) => anyhow!("{} ({hint})", line(&err)),
        None => anyhow!("{}", line(&err)),
    }
}

impl FromStr for Volume {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        Volume::parse(text).map_err(flat)
    }
}

impl Volume {
    fn parse(text: &str) -> Result<Volume> {
        let parts: Vec<&str> = text.split(':').collect();
        let (source, target, options) = match parts[..] {
            [_] => bail!("{NO_VOLUMES}, so this needs a source (SRC:DST)"),
            [source, target] => (source, target, ""),
            [source, target, options] => {
                ensure!(!options.is_empty(), "no options after the last colon");
                (source, target, options)
            }
            _ => bail!("too many colons; --mount takes a path that has some"),
        };
        ensure!(!source.is_empty(), "the source is empty");
        if source.starts_with('~') {
            return Err(anyhow!("~ is a letter like any other here"))
                .hint(|| "$HOME is the same to every shell".into());
        }
        if !source.starts_with(['/', '.']) {
            return Err(anyhow!("{NO_VOLUMES}"))
                .hint(|| format!("./{source} is a path, {source} the name of a volume"));
        }
        ensure!(!source.contains('\0'), "the source holds a NUL");
        if target.split(',').all(is_bind_option) {
            bail!("options, and no destination");
        }
        let destination = destination(target)?;
        let options = bind_options(options)?;
        let kind = Kind::Bind { source: source.into(), options };
        Ok(Volume(Mount { destination, kind }))
    }
}

fn is_bind_option(word: &str) -> bool {
    bind_option(word).is_ok_and(|option| option.is_some())
}

/// What an option of `-v` is about: of each kind there can be one.
#[derive(Clone, Copy, PartialEq, Eq)]
enum About {
    Writing,
    Propagation,
    Suid,
    Dev,
    Exec,
    Label,
    Consistency,
}

/// Returns what `word` is about and the option of mount(8), which is empty if there is nothing to do.
fn bind_option(word: &str) -> Result<Option<(About, &str)>> {
    Ok(Some(match word {
        "ro" => (About::Writing, "rro"),
        "rw" => (About::Writing, ""),
        "private" | "rprivate" | "slave" | "rslave" => (About::Propagation, word),
        "shared" | "rshared" => {
            bail!("{word}: what a container mounts never reaches the host")
        }
        "nosuid" | "suid" => (About::Suid, word),
        "nodev" | "dev" => (About::Dev, word),
        "noexec" | "exec" => (About::Exec, word),
        // SELinux labels, which our containers do not run under, and a matter of Docker Desktop.
        "z" | "Z" => (About::Label, ""),
        "consistent" | "cached" | "delegated" | "default" => (About::Consistency, ""),
        "nocopy" | "copy" => bail!("{word}: only of use to a volume, and {NO_VOLUMES}"),
        _ => return Ok(None),
    }))
}

/// Reads the options of `-v`.
fn bind_options(text: &str) -> Result<Vec<String>> {
    let mut options = vec!["rbind".to_string()];
    let mut seen = Vec::new();
    for word in text.split(',').filter(|_| !text.is_empty()) {
        let Some((about, option)) = bind_option(word)? else {
            bail!("{word:?}: not an option of -v");
        };
        ensure!(
            !seen.contains(&about),
            "{word}: says again, or otherwise, what an option before it says"
        );
        seen.push(about);
        if !option.is_empty() {
            options.push(option.into());
        }
    }
    if !seen.contains(&About::Propagation) {
        options.push("rprivate".into());
    }
    Ok(options)
}

/// Reads where a mount is in the container.
fn destination(text: &str) -> Result<String> {
    ensure!(!text.is_empty(), "the destination is empty");
    ensure!(!text.contains('\0'), "the destination holds a NUL");
    ensure!(text.starts_with('/'), "{text}: the destination is not an absolute path");
    let clean = clean(text);
    ensure!(clean != "/", "{text}: the root itself cannot be mounted over");
    Ok(clean)
}

impl FromStr for Tmpfs {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let (target, words) = text.split_once(':').unwrap_or((text, ""));
        let destination = destination(target).map_err(flat)?;
        let options = tmpfs_options(words).map_err(flat)?;
        Ok(Tmpfs(Mount { destination, kind: Kind::Tmpfs { options } }))
    }
}

/// Flags of a tmpfs that undo each other, as `[is, is not]`.
const FLAGS: [[&str; 2]; 8] = [
    ["exec", "noexec"],
    ["suid", "nosuid"],
    ["dev", "nodev"],
    ["rw", "ro"],
    ["atime", "noatime"],
    ["diratime", "nodiratime"],
    ["relatime", "strictatime"],
    ["async", "sync"],
];

/// Reads the options of `--tmpfs`. Unless they say otherwise nothing in it runs, gains privilege or is a device.
fn tmpfs_options(text: &str) -> Result<Vec<String>> {
    let mut options: Vec<String> = ["noexec", "nosuid", "nodev"].map(String::from).into();
    for word in text.split(',').filter(|_| !text.is_empty()) {
        let key = word.split('=').next().unwrap_or_default();
        if let Some(pair) = FLAGS.iter().find(|pair| pair.contains(&word)) {
            options.retain(|option| !pair.contains(&option.as_str()));
            // What is so without being said need not be, and no option of tmpfs is called so.
            if !matches!(word, "exec" | "suid" | "dev" | "rw" | "atime" | "diratime" | "async") {
                options.push(word.into());
            }
            continue;
        }
        let value = word.split_once('=').map(|(_, value)| value);
        let value = match (key, value) {
            ("size", Some(value)) if percent(value) => value.to_string(),
            ("size" | "nr_blocks" | "nr_inodes", Some(value)) => size(value)?.to_string(),
            ("mode", Some(value)) => format!("{:o}", mode(value)?),
            ("uid" | "gid", Some(value)) => {
                let id: u32 = value.parse().map_err(|_| anyhow!("{word}: not a number"))?;
                id.to_string()
            }
            _ => bail!("{word:?}: not an option of --tmpfs"),
        };
        options.retain(|option| option.split('=').next() != Some(key));
        options.push(format!("{key}={value}"));
    }
    Ok(options)
}

/// Tells whether `text` is a share of the memory, as tmpfs(5) takes it.
fn percent(text: &str) -> bool {
    let number = text.strip_suffix('%').and_then(|number| number.parse::<u8>().ok());
    number.is_some_and(|number| number <= 100)
}

/// Reads permissions: octal, and no more than chmod(1) takes.
fn mode(text: &str) -> Result<u32> {
    let digits = !text.is_empty() && text.bytes().all(|c| c.is_ascii_digit());
    let mode = digits.then(|| u32::from_str_radix(text, 8).ok()).flatten();
    mode.filter(|mode| *mode <= 0o7777).with_context(|| format!("mode {text:?}: not octal"))
}

impl FromStr for Long {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let mount = csv(text).and_then(|fields| long(&fields)).map_err(flat)?;
        Ok(Long(mount))
    }
}

/// Makes a mount of the fields of `--mount`.
fn long(fields: &[String]) -> Result<Mount> {
    let mut fields: Vec<(String, Option<&str>)> = fields
        .iter()
        .map(|field| {
            let (key, value) = match field.split_once('=') {
                Some((key, value)) => (key, Some(value)),
                None => (field.as_str(), None),
            };
            for part in [Some(key), value].into_iter().flatten() {
                ensure!(
                    part.trim() == part,
                    "{field:?}: there must be no blanks around a key or value"
                );
            }
            let key = match key.to_lowercase().as_str() {
                "source" => "src".into(),
                "destination" | "target" => "dst".into(),
                "ro" => "readonly".into(),
                key => key.to_string(),
            };
            Ok((key, value))
        })
        .collect::<Result<_>>()?;
    for (at, (key, _)) in fields.iter().enumerate() {
        ensure!(fields[..at].iter().all(|(other, _)| other != key), "{key}: given twice");
    }
    let mut take = |name: &str| {
        let place = fields.iter().position(|(key, _)| key == name)?;
        Some(fields.remove(place).1)
    };
    // A key whose value is missing, or empty, says nothing.
    let mut text = |name: &'static str| match take(name) {
        None => Ok(None),
        Some(Some(value)) if !value.is_empty() => Ok(Some(value)),
        Some(_) => bail!("{name}: the value is missing"),
    };

    let kind = text("type")?.map(str::to_lowercase);
    let (source, target) = (text("src")?, text("dst")?);
    let propagation = text("bind-propagation")?;
    let recursive = text("bind-recursive")?;
    let (tmpfs_size, tmpfs_mode) = (text("tmpfs-size")?, text("tmpfs-mode")?);
    _ = text("consistency")?; // a matter of Docker Desktop
    let readonly = switch("readonly", take("readonly"))?;
    let plain = switch("bind-nonrecursive", take("bind-nonrecursive"))?;

    let kind = match kind.as_deref() {
        Some(kind @ ("bind" | "tmpfs")) => kind,
        None | Some("volume") => {
            return Err(anyhow!("{NO_VOLUMES}")).hint(|| {
                "type=bind,src=PATH,dst=PATH mounts a path; the default type is volume".into()
            });
        }
        Some(other) => bail!("type {other:?}: not a type of mount (bind or tmpfs)"),
    };
    if let Some((key, _)) = fields.first() {
        let word = key.split('-').next().unwrap_or_default();
        match word {
            "volume" | "image" => bail!("{key}: only of use to type={word}"),
            _ => bail!("{key:?}: not a key of --mount"),
        }
    }
    let destination = destination(target.context("dst is missing")?)?;

    if kind == "tmpfs" {
        ensure!(source.is_none(), "a tmpfs has no source");
        ensure!(
            propagation.is_none() && recursive.is_none() && !plain,
            "the bind- keys are only of use to type=bind"
        );
        let mut options: Vec<String> = ["noexec", "nosuid", "nodev"].map(String::from).into();
        options.extend(readonly.then(|| "ro".into()));
        if let Some(text) = tmpfs_size {
            options.push(format!(
                "size={}",
                size(text).with_context(|| format!("tmpfs-size: {text:?}"))?
            ));
        }
        if let Some(text) = tmpfs_mode {
            options.push(format!("mode={:o}", mode(text).context("tmpfs-mode")?));
        }
        return Ok(Mount { destination, kind: Kind::Tmpfs { options } });
    }

    ensure!(
        tmpfs_size.is_none() && tmpfs_mode.is_none(),
        "the tmpfs- keys are only of use to type=tmpfs"
    );
    let source = source.context("src is missing")?;
    let propagation = match propagation {
        Some(word) => match bind_option(word)? {
            Some((About::Propagation, word)) => word,
            _ => bail!("bind-propagation: {word:?}: not a propagation (rprivate, rslave)"),
        },
        None => "rprivate",
    };
    ensure!(
        !plain || recursive.is_none(),
        "bind-nonrecursive and bind-recursive are the same thing"
    );
    let recursive = if plain { "disabled" } else { recursive.unwrap_or("enabled") };
    let bind = if recursive == "disabled" { "bind" } else { "rbind" };
    let mut options = vec![bind.to_string()];
    match (recursive, readonly) {
        ("enabled" | "disabled" | "writable", false) => {}
        ("enabled" | "readonly", true) => options.push("rro".into()),
        // Only the mount itself: what is mounted below it stays as it is.
        ("disabled" | "writable", true) => options.push("ro".into()),
        ("readonly", false) => bail!("bind-recursive=readonly needs readonly"),
        (word, _) => {
            bail!("bind-recursive: {word:?}: not enabled, disabled, writable or readonly")
        }
    }
    options.push(propagation.into());
    Ok(Mount { destination, kind: Kind::Bind { source: source.into(), options } })
}

/// Reads a key that is on or off; alone it means on.
fn switch(name: &str, value: Option<Option<&str>>) -> Result<bool> {
    Ok(match value {
        None => false,
        Some(None) => true,
        Some(Some(text)) => {
            boolean(text).with_context(|| format!("{name}: {text:?}: neither true nor false"))?
        }
    })
}

#[cfg(test)]
#[path = "mount/tests.rs"] // as it is when fuzz/targets takes this file in
mod tests;
