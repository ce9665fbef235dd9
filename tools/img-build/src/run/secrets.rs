//! What a step may see and nothing may keep: `--secret` and `--ssh`.
//!
//! ```text
//! --secret id=ID[,src=FILE|,env=VARIABLE]     without either: the variable ID, else the file ID
//! --ssh    ID[=SOCKET]                        default: $SSH_AUTH_SOCK
//! ```
//!
//! Docker's grammar. A secret has no way to be printed: its `Debug` tells nothing of it.

use std::collections::BTreeMap;
use std::fmt::{self, Debug};
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use anyhow::{Result, anyhow, bail, ensure};
use common::cli::csv;
use common::error::{At, Hint};

/// The most bytes of a secret: BuildKit's limit.
const LONGEST: u64 = 500 << 10;

/// The secrets that a build is given.
#[derive(Clone, Debug, Default)]
pub struct Secrets(BTreeMap<String, Secret>);

/// A secret.
#[derive(Clone)]
pub struct Secret(Vec<u8>);

impl Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

impl Secret {
    /// Takes what nobody is to know.
    pub fn new(bytes: Vec<u8>) -> Secret {
        Secret(bytes)
    }

    /// Returns what it is.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl Secrets {
    /// Reads an operand of `--secret`, and the secret.
    pub fn add(&mut self, text: &str) -> Result<()> {
        self.add_with(text, |name| std::env::var_os(name).map(OsStringExt::into_vec))
    }

    fn add_with(&mut self, text: &str, variable: impl Fn(&str) -> Option<Vec<u8>>) -> Result<()> {
        let (mut id, mut file, mut env, mut kind) = (None, None, None, None);
        for field in csv(text).map_err(|err| anyhow!("--secret: {err}"))? {
            let Some((key, value)) = field.split_once('=') else {
                return Err(anyhow!("--secret: {field}: no = in it"))
                    .hint(|| "--secret id=ID,src=FILE".into());
            };
            let value = Some(value.to_owned()).filter(|value| !value.is_empty());
            match key.to_lowercase().as_str() {
                "id" => id = value,
                "source" | "src" => file = value,
                "env" => env = value,
                "type" => match value.as_deref() {
                    Some("file" | "env") => kind = value,
                    _ => {
                        bail!("--secret: type={}: neither file nor env", value.unwrap_or_default())
                    }
                },
                _ => {
                    return Err(anyhow!("--secret: {key}: there is no such key"))
                        .hint(|| "id, src, env, type".into());
                }
            }
        }
        let Some(id) = id else { bail!("--secret: there is no id=") };
        if kind.as_deref() == Some("env") && env.is_none() {
            env = file.take();
        }
        let secret = match (env, file) {
            (Some(name), _) => variable(&name)
                .ok_or_else(|| anyhow!("--secret: {id}: the variable {name} is not set"))?,
            (None, Some(file)) => read(Path::new(&file))?,
            (None, None) => match variable(&id) {
                Some(value) => value,
                None => read(Path::new(&id))?,
            },
        };
        ensure!(secret.len() as u64 <= LONGEST, "--secret: {id}: longer than {LONGEST} bytes");
        self.0.insert(id, Secret(secret));
        Ok(())
    }

    /// Gives a secret its name.
    pub fn insert(&mut self, id: &str, secret: Secret) {
        self.0.insert(id.into(), secret);
    }

    /// Returns the secret of a name.
    pub fn get(&self, id: &str) -> Option<&Secret> {
        self.0.get(id)
    }
}

fn read(path: &Path) -> Result<Vec<u8>> {
    let read = || {
        let mut bytes = Vec::new();
        File::open(path)?.take(LONGEST + 1).read_to_end(&mut bytes)?;
        std::io::Result::Ok(bytes)
    };
    read().at(path).map_err(|err| err.context("--secret"))
}

/// The sockets of ssh-agent(1) that a build is given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Agents(BTreeMap<String, PathBuf>);

impl Agents {
    /// Reads an operand of `--ssh`.
    pub fn add(&mut self, text: &str) -> Result<()> {
        let (id, path) = match text.split_once('=') {
            Some((id, path)) => (id, Some(PathBuf::from(path))),
            None => (text, std::env::var_os("SSH_AUTH_SOCK").map(PathBuf::from)),
        };
        let id = if id.is_empty() { "default" } else { id };
        let Some(path) = path.filter(|path| !path.as_os_str().is_empty()) else {
            return Err(anyhow!("--ssh: {id}: no ssh-agent runs: SSH_AUTH_SOCK is not set"))
                .hint(|| "eval $(ssh-agent); ssh-add".into());
        };
        let path = std::path::absolute(&path).at(&path)?;
        let meta = path.metadata().at(&path).map_err(|err| err.context("--ssh"))?;
        if !meta.file_type().is_socket() {
            return Err(anyhow!("--ssh: {}: not the socket of an ssh-agent", path.display()))
                .hint(|| format!("ssh-add {}, and --ssh {id}", path.display()));
        }
        self.0.insert(id.into(), path);
        Ok(())
    }

    /// Returns the socket of a name.
    pub fn get(&self, id: &str) -> Option<&Path> {
        self.0.get(id).map(PathBuf::as_path)
    }
}

#[cfg(test)]
mod tests {
    use common::error::line;

    use super::*;

    fn add(text: &str) -> Result<Secrets> {
        let mut secrets = Secrets::default();
        let variable = |name: &str| (name == "TOKEN").then(|| b"of the environment".to_vec());
        secrets.add_with(text, variable)?;
        Ok(secrets)
    }

    #[test]
    fn a_secret_is_a_variable_or_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("f");
        std::fs::write(&file, "of a file\n").unwrap();
        let file = file.to_str().unwrap();
        let of_env = b"of the environment".as_slice();
        for (text, id, expected) in [
            (format!("id=a,src={file}"), "a", b"of a file\n".as_slice()),
            (format!("type=file,id=a,source={file}"), "a", b"of a file\n"),
            (format!("id={file}"), file, b"of a file\n"),
            ("id=a,env=TOKEN".into(), "a", of_env),
            ("type=env,id=a,src=TOKEN".into(), "a", of_env),
            ("id=TOKEN".into(), "TOKEN", of_env),
        ] {
            assert_eq!(add(&text).unwrap().get(id).unwrap().bytes(), expected, "{text}");
        }
    }

    #[test]
    fn what_is_wrong_is_named_and_no_secret_is() {
        let table = [
            ("src=x", "--secret: there is no id="),
            ("id=a,env=OTHER", "--secret: a: the variable OTHER is not set"),
            ("id=a,src=/no/such", "--secret: /no/such: No such file or directory (os error 2)"),
            ("id=a,type=x", "--secret: type=x: neither file nor env"),
            ("id=a,mode=1", "--secret: mode: there is no such key"),
            ("a", "--secret: a: no = in it"),
            ("id=a,src=/dev/zero", "--secret: a: longer than 512000 bytes"),
        ];
        for (text, expected) in table {
            assert_eq!(line(&add(text).unwrap_err()), expected, "{text}");
        }
        let secrets = add("id=TOKEN").unwrap();
        assert!(!format!("{secrets:?}").contains("environment"));
    }

    #[test]
    fn an_agent_is_a_socket() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent");
        let _listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let mut agents = Agents::default();
        agents.add(&format!("a={}", path.display())).unwrap();
        assert_eq!(agents.get("a"), Some(path.as_path()));
        assert_eq!(agents.get("default"), None);
        let err = agents.add("default=/dev/null").unwrap_err();
        assert_eq!(line(&err), "--ssh: /dev/null: not the socket of an ssh-agent");
    }
}
