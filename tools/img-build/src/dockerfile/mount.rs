//! `RUN --mount`: what a step sees besides its file system, and what never gets into the image.
//!
//! ```text
//! type=bind    target source from rw          of the context, a stage or an image; what is written is dropped
//! type=cache   target id sharing from source mode uid gid ro
//! type=tmpfs   target size
//! type=secret  id target env required mode uid gid
//! type=ssh     id target required mode uid gid
//! ```
//!
//! It is one line of CSV. Variables may be anywhere but in `from`, so all that is
//! known before a build is where it comes from; [`MountOption::read`] does the
//! rest when the step's turn has come.

use common::cli::{boolean, csv, size};
use serde::Serialize;

use crate::error::{Error, Result, nearest};

/// A mount as it is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountOption {
    /// The text behind `--mount=`.
    pub text: String,
    /// The stage or image that it comes from, if any. Of a tmpfs it says nothing.
    pub from: Option<String>,
}

/// What is mounted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Type {
    /// A directory or file that is there.
    Bind,
    /// A directory that outlives the build.
    Cache,
    /// Memory.
    Tmpfs,
    /// A file or variable that nothing keeps.
    Secret,
    /// A socket of ssh-agent.
    Ssh,
}

/// Who sees a cache at the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Sharing {
    /// All.
    Shared,
    /// Each its own.
    Private,
    /// One after the other.
    Locked,
}

/// A mount, its variables replaced. As JSON it is in the keys of steps.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Mount {
    /// What it is.
    pub kind: Type,
    /// The stage or image that it comes from; none is the context, or an empty cache.
    pub from: Option<String>,
    /// Where it is there.
    pub source: Option<String>,
    /// Where it is in the step.
    pub target: Option<String>,
    /// Whether nothing can be written to it.
    pub read_only: bool,
    /// The most bytes of a tmpfs.
    pub size: Option<u64>,
    /// The name of a cache, a secret or an agent.
    pub id: Option<String>,
    /// Who sees a cache.
    pub sharing: Option<Sharing>,
    /// Whether the step fails without the secret or agent.
    pub required: bool,
    /// The variable that a secret becomes, besides or instead of a file.
    pub env: Option<String>,
    /// Permissions.
    pub mode: Option<u32>,
    /// The owner.
    pub uid: Option<u32>,
    /// The group.
    pub gid: Option<u32>,
}

const KEYS: [&str; 19] = [
    "type",
    "from",
    "source",
    "src",
    "target",
    "dst",
    "destination",
    "readonly",
    "ro",
    "readwrite",
    "rw",
    "id",
    "sharing",
    "required",
    "size",
    "mode",
    "uid",
    "gid",
    "env",
];

/// Splits a flag's value.
pub fn fields(flag: &str, text: &str) -> Result<Vec<String>> {
    csv(text).map_err(|err| Error::new(format!("{flag}: {err}")))
}

impl MountOption {
    /// Takes what is written, and reads where it comes from.
    pub fn new(text: String) -> Result<MountOption> {
        let (mut from, mut tmpfs) = (None, false);
        for field in fields("--mount", &text)? {
            let Some((key, value)) = field.split_once('=') else { continue };
            let key = key.to_lowercase();
            if key == "type" {
                tmpfs = value.eq_ignore_ascii_case(Type::Tmpfs.name());
            }
            if key == "from" {
                if value.find('$').is_some_and(|at| at + 1 < value.len()) {
                    return Err(Error::new(format!("--mount: from={value}: no variables here"))
                        .hint(format!("a stage of its own: FROM {value} AS name")));
                }
                from = Some(value.to_owned()).filter(|value| !value.is_empty());
            }
        }
        Ok(MountOption { text, from: from.filter(|_| !tmpfs) })
    }

    /// Reads all of it; `expand` replaces variables.
    pub fn read(&self, expand: &mut dyn FnMut(&str) -> Result<String>) -> Result<Mount> {
        let mut mount = Mount {
            kind: Type::Bind,
            from: None,
            source: None,
            target: None,
            read_only: false,
            size: None,
            id: None,
            sharing: None,
            required: false,
            env: None,
            mode: None,
            uid: None,
            gid: None,
        };
        let mut read_only = None;
        let wrong = |what: String| Error::new(format!("--mount: {what}"));
        for field in fields("--mount", &self.text)? {
            let (key, value) = match field.split_once('=') {
                Some((key, value)) => (key.to_lowercase(), Some(expand(value)?)),
                None => (field.to_lowercase(), None),
            };
            let secret = matches!(mount.kind, Type::Secret | Type::Ssh);
            let Some(value) = value else {
                match key.as_str() {
                    "readonly" | "ro" => read_only = Some(true),
                    "readwrite" | "rw" => read_only = Some(false),
                    "required" if secret => mount.required = true,
                    "required" => return Err(wrong(not_of(&key, mount.kind))),
                    _ => return Err(wrong(format!("{field}: no = in it")).hint("key=value")),
                }
                continue;
            };
            let bool = || {
                boolean(&value)
                    .ok_or_else(|| wrong(format!("{key}={value}: neither true nor false")))
            };
            let id = || {
                let digits = value.bytes().all(|c| c.is_ascii_digit());
                let id = digits.then(|| value.parse::<u32>().ok()).flatten();
                id.ok_or_else(|| wrong(format!("{key}={value}: not a number")))
            };
            let some = Some(value.clone()).filter(|value| !value.is_empty());
            match key.as_str() {
                "type" => mount.kind = kind(&value)?,
                "from" => mount.from = some,
                "source" | "src" => mount.source = some,
                "target" | "dst" | "destination" => mount.target = some,
                "readonly" | "ro" => read_only = Some(bool()?),
                "readwrite" | "rw" => read_only = Some(!bool()?),
                "required" if secret => mount.required = bool()?,
                "size" if mount.kind == Type::Tmpfs => {
                    mount.size =
                        Some(size(&value).map_err(|err| wrong(format!("size={value}: {err}")))?);
                }
                "required" | "size" => return Err(wrong(not_of(&key, mount.kind))),
                "id" => mount.id = some,
                "sharing" => mount.sharing = Some(sharing(&value)?),
                "mode" => {
                    let digits = value.bytes().all(|c| c.is_ascii_digit());
                    let mode = digits.then(|| u32::from_str_radix(&value, 8).ok()).flatten();
                    let wrong = || wrong(format!("mode={value}: not octal")).hint("mode=0755");
                    mount.mode = Some(mode.ok_or_else(wrong)?);
                }
                "uid" => mount.uid = Some(id()?),
                "gid" => mount.gid = Some(id()?),
                "env" => mount.env = Some(value),
                _ => {
                    let err = wrong(format!("{key}: there is no such key"));
                    return Err(match nearest(&key, KEYS) {
                        Some(meant) => err.hint(meant),
                        None => err.hint(format!("one of {}", KEYS.join(", "))),
                    });
                }
            }
        }
        // BuildKit does not look at it.
        mount.from = mount.from.filter(|_| mount.kind != Type::Tmpfs);
        mount.read_only = read_only.unwrap_or(!matches!(mount.kind, Type::Cache | Type::Tmpfs));
        mount.check().map_err(wrong)?;
        Ok(mount)
    }
}

impl Mount {
    /// Returns what the keys of a mount say against each other.
    fn check(&self) -> std::result::Result<(), String> {
        if matches!(self.kind, Type::Bind | Type::Tmpfs) {
            let owned = [("mode", self.mode), ("uid", self.uid), ("gid", self.gid)];
            if let Some((key, _)) = owned.iter().find(|(_, value)| value.is_some()) {
                return Err(not_of(key, self.kind));
            }
        }
        if self.sharing.is_some() && self.kind != Type::Cache {
            return Err(not_of("sharing", self.kind));
        }
        let directory = matches!(self.kind, Type::Bind | Type::Cache | Type::Tmpfs);
        if directory && self.target.as_deref() == Some("/") {
            return Err("target=/ would hide everything".into());
        }
        if self.kind != Type::Secret {
            return Ok(());
        }
        match (&self.from, &self.source, &self.target, &self.id) {
            (Some(_), ..) => Err(not_of("from", self.kind)),
            (_, None, None, None) => Err("a secret needs id= or target=".into()),
            (_, Some(_), _, Some(_)) => Err("a secret has id= or source=, not both".into()),
            _ => Ok(()),
        }
    }
}

impl Type {
    /// Returns the type as it is written.
    pub fn name(self) -> &'static str {
        match self {
            Type::Bind => "bind",
            Type::Cache => "cache",
            Type::Tmpfs => "tmpfs",
            Type::Secret => "secret",
            Type::Ssh => "ssh",
        }
    }
}

impl Sharing {
    /// Returns the word as it is written.
    pub fn name(self) -> &'static str {
        match self {
            Sharing::Shared => "shared",
            Sharing::Private => "private",
            Sharing::Locked => "locked",
        }
    }
}

fn not_of(key: &str, kind: Type) -> String {
    format!("{key} is nothing that type={} has", kind.name())
}

fn kind(text: &str) -> Result<Type> {
    let all = [Type::Bind, Type::Cache, Type::Tmpfs, Type::Secret, Type::Ssh];
    let found = all.into_iter().find(|kind| kind.name() == text.to_lowercase());
    found.ok_or_else(|| one_of("type", text, &all.map(Type::name)))
}

fn sharing(text: &str) -> Result<Sharing> {
    let all = [Sharing::Shared, Sharing::Private, Sharing::Locked];
    let found = all.into_iter().find(|sharing| sharing.name() == text.to_lowercase());
    found.ok_or_else(|| one_of("sharing", text, &all.map(Sharing::name)))
}

fn one_of(key: &str, text: &str, all: &[&str]) -> Error {
    let err = Error::new(format!("--mount: {key}={text}: there is no such {key}"));
    match nearest(text, all.iter().copied()) {
        Some(meant) => err.hint(format!("{key}={meant}")),
        None => err.hint(format!("{key}={}", all.join("|"))),
    }
}

/// A device of `RUN --device`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// `vendor.com/class=name`.
    pub name: String,
    /// Whether the step fails without it.
    pub required: bool,
}

impl Device {
    /// Reads `vendor.com/class=name[,required]`.
    pub fn parse(text: &str) -> Result<Device> {
        let mut device = Device { name: String::new(), required: false };
        let wrong = |what: String| Error::new(format!("--device: {what}"));
        for field in fields("--device", text)? {
            let (key, value) = match field.split_once('=') {
                Some((key, value)) => (key.to_lowercase(), Some(value)),
                None => (field.to_lowercase(), None),
            };
            match (key.as_str(), value) {
                ("required", None) => device.required = true,
                ("required", Some(value)) => {
                    device.required = boolean(value).ok_or_else(|| {
                        wrong(format!("required={value}: neither true nor false"))
                    })?;
                }
                ("name", Some(name)) if device.name.is_empty() => device.name = name.into(),
                ("name", Some(_)) => return Err(wrong(format!("{field}: it has a name already"))),
                _ if device.name.is_empty() => device.name = field,
                _ => {
                    return Err(wrong(format!("{field}: there is no such key"))
                        .hint("vendor.com/class=name,required"));
                }
            }
        }
        Ok(device)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::dockerfile::scope::Variables;
    use crate::dockerfile::words::Lexer;

    fn read(text: &str) -> Result<Mount> {
        let values = Variables::of(["t=cache", "d=/dir", "e="]);
        let mut expand =
            |text: &str| Lexer::new('\\').expand(text, &values).map(|expanded| expanded.text);
        MountOption::new(text.into())?.read(&mut expand)
    }

    /// Returns what of a mount is not as it would be if nothing was said.
    fn sketch(mount: &Mount) -> String {
        let mut said = mount.kind.name().to_owned();
        let mut say = |key: &str, value: Option<String>| {
            said.extend(value.map(|value| format!(" {key}={value}")));
        };
        say("from", mount.from.clone());
        say("source", mount.source.clone());
        say("target", mount.target.clone());
        say("ro", mount.read_only.then(|| "1".into()));
        say("size", mount.size.map(|size| size.to_string()));
        say("id", mount.id.clone());
        say("sharing", mount.sharing.map(|sharing| sharing.name().into()));
        say("required", mount.required.then(|| "1".into()));
        say("env", mount.env.clone());
        say("mode", mount.mode.map(|mode| format!("{mode:o}")));
        say("uid", mount.uid.map(|id| id.to_string()));
        say("gid", mount.gid.map(|id| id.to_string()));
        said
    }

    #[test]
    fn every_key_is_known() {
        let table = [
            ("type=bind,target=/x", "bind target=/x ro=1"),
            ("target=/x", "bind target=/x ro=1"),
            ("dst=/x,src=a", "bind source=a target=/x ro=1"),
            ("destination=/x,source=a,rw", "bind source=a target=/x"),
            ("target=/x,readwrite", "bind target=/x"),
            ("target=/x,rw=false", "bind target=/x ro=1"),
            ("target=/x,ro=false", "bind target=/x"),
            ("target=/x,readonly=1", "bind target=/x ro=1"),
            ("from=b,target=/x", "bind from=b target=/x ro=1"),
            ("TYPE=bind,Target=/x", "bind target=/x ro=1"),
            ("type=cache,target=/x", "cache target=/x"),
            ("type=Cache,target=/x,ro", "cache target=/x ro=1"),
            (
                "type=cache,target=/x,id=i,sharing=locked,from=b,source=s,mode=0700,uid=1,gid=2",
                "cache from=b source=s target=/x id=i sharing=locked mode=700 uid=1 gid=2",
            ),
            ("type=cache,target=/x,sharing=PRIVATE", "cache target=/x sharing=private"),
            ("type=cache,target=/x,sharing=shared", "cache target=/x sharing=shared"),
            ("type=tmpfs,target=/x", "tmpfs target=/x"),
            ("type=tmpfs,from=b,target=/x", "tmpfs target=/x"),
            ("type=${n:-tmpfs},from=b,target=/x", "tmpfs target=/x"),
            ("type=tmpfs,target=/x,size=64m", "tmpfs target=/x size=67108864"),
            ("type=secret,id=s", "secret ro=1 id=s"),
            ("type=secret,target=/run/s", "secret target=/run/s ro=1"),
            ("type=secret,source=s,target=/x", "secret source=s target=/x ro=1"),
            (
                "type=secret,id=s,env=S,required,mode=0400,uid=1,gid=1",
                "secret ro=1 id=s required=1 env=S mode=400 uid=1 gid=1",
            ),
            ("type=secret,id=s,required=false", "secret ro=1 id=s"),
            ("type=ssh", "ssh ro=1"),
            (
                "type=ssh,id=d,target=/s,required=true,mode=600",
                "ssh target=/s ro=1 id=d required=1 mode=600",
            ),
            ("type=$t,target=$d/x", "cache target=/dir/x"),
            ("type=${n:-tmpfs},target='$d'", "tmpfs target=$d"),
            ("type=bind,\"target=/a,b\"", "bind target=/a,b ro=1"),
            ("target=/x,source=", "bind target=/x ro=1"),
            ("from=b$,target=/x", "bind from=b$ target=/x ro=1"),
        ];
        for (text, expected) in table {
            assert_eq!(sketch(&read(text).unwrap()), expected, "{text}");
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        let table = [
            ("type=volume", "--mount: type=volume: there is no such type"),
            ("type=$e", "--mount: type=: there is no such type"),
            ("target", "--mount: target: no = in it"),
            ("targt=/x", "--mount: targt: there is no such key"),
            ("type=cache,target=/x,sharing=all", "--mount: sharing=all: there is no such sharing"),
            ("target=/x,sharing=shared", "--mount: sharing is nothing that type=bind has"),
            ("target=/x,required", "--mount: required is nothing that type=bind has"),
            ("required,type=secret,id=x", "--mount: required is nothing that type=bind has"),
            ("target=/x,size=1m", "--mount: size is nothing that type=bind has"),
            ("type=tmpfs,target=/x,mode=0700", "--mount: mode is nothing that type=tmpfs has"),
            ("target=/x,uid=1", "--mount: uid is nothing that type=bind has"),
            ("target=/x,gid=1", "--mount: gid is nothing that type=bind has"),
            ("type=cache,target=/x,uid=a", "--mount: uid=a: not a number"),
            ("type=cache,target=/x,uid=-1", "--mount: uid=-1: not a number"),
            ("type=cache,target=/x,gid=4294967296", "--mount: gid=4294967296: not a number"),
            ("type=cache,target=/x,mode=888", "--mount: mode=888: not octal"),
            ("target=/x,ro=maybe", "--mount: ro=maybe: neither true nor false"),
            ("type=secret", "--mount: a secret needs id= or target="),
            ("type=secret,id=a,source=b", "--mount: a secret has id= or source=, not both"),
            ("type=secret,id=a,from=b", "--mount: from is nothing that type=secret has"),
            ("type=secret,id=a,sharing=shared", "--mount: sharing is nothing that type=secret has"),
            ("type=cache,target=/", "--mount: target=/ would hide everything"),
            ("type=tmpfs,target=/x,size=big", "--mount: size=big: not a size (64m, 1.5g)"),
            ("from=$b,target=/x", "--mount: from=$b: no variables here"),
            ("a\"b", "--mount: a\"b: a quote in the middle of a field"),
        ];
        for (text, expected) in table {
            assert_eq!(read(text).unwrap_err().message, expected, "{text}");
        }
        assert_eq!(read("targt=/x").unwrap_err().hint.as_deref(), Some("target"));
        assert_eq!(read("type=bnd").unwrap_err().hint.as_deref(), Some("type=bind"));
    }

    proptest! {
        #[test]
        fn no_text_breaks_the_parser(
            fields in prop::collection::vec(
                prop::sample::select(vec![
                    "type=cache", "type=secret", "type=tmpfs", "type=ssh", "target=/x", "id=a",
                    "from=b", "ro", "rw=1", "required", "size=1k", "sharing=locked", "mode=7",
                    "uid=1", "env=E", "x", "=", "\"", "$", "source=${",
                ]),
                0..6,
            ),
        ) {
            let _ = read(&fields.join(","));
        }
    }
}
