//! Repositories, by git(1).
//!
//! ```text
//! config      what git is to know, and all that it knows but for who we are: nobody else's settings
//! errors      what it has said
//! tree/       the files, and .git as long as it is needed
//! ```
//!
//! A repository is a stranger's. No hook runs and no filter, no protocol is
//! spoken but those of the network, and nothing that is told to git begins with
//! a `-`. A server that says nothing is not waited for. One commit is fetched,
//! unless the server does not part with just one.

mod watch;

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{ChildStdout, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use common::cli;
use common::digest::Digest;
use common::error::{At, Hint, sanitised};
use common::registry::http::{is_loopback, place};
use common::{sys, userns};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::openat;
use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process_group};
use url::Url;

use self::watch::Watch;
use super::repository::Repository;
use super::{DIRECTORY, Elsewhere, Tree, open_beneath};

/// What of our environment git is to see: how to get somewhere, and as whom.
const ENVIRONMENT: [&str; 20] = [
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "TMPDIR",
    "SSH_AUTH_SOCK",
    "http_proxy",
    "https_proxy",
    "HTTPS_PROXY",
    "all_proxy",
    "ALL_PROXY",
    "no_proxy",
    "NO_PROXY",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "GIT_SSL_CAINFO",
    "GIT_SSL_CAPATH",
    "GIT_SSH",
    "GIT_SSH_COMMAND",
    "GIT_ALLOW_PROTOCOL",
];

/// What git is told in any case. `followRedirects` is its default: nobody is led elsewhere halfway, and none
/// who says who he is at all.
const SETTINGS: &str = "[core]
	hooksPath = /dev/null
	attributesFile = /dev/null
	fsmonitor = false
	autocrlf = false
	symlinks = true
[http]
	followRedirects = initial
	lowSpeedLimit = 1
	lowSpeedTime = 60
[protocol]
	version = 2
[init]
	defaultBranch = main
[gc]
	auto = 0
[maintenance]
	auto = false
[advice]
	detachedHead = false
[pack]
	threads = 1
[safe]
	directory = *
";

/// The most that is read of what git answers.
const ANSWER: usize = 1 << 20;
/// The most that is read of what it has said.
const SAID: u64 = 8 << 10;

/// Where what is fetched has its name.
const FETCHED: &str = "refs/img-build/fetched";

/// A commit's files.
pub struct Checkout {
    /// The directory that was asked for.
    pub tree: Tree,
    /// The commit's ID.
    pub commit: String,
    /// When it was made, in seconds since 1970.
    pub time: i64,
    /// What stands for all that is in the tree.
    pub identity: Digest,
}

/// Fetches a repository that is a context. The user named it, and so its host as one to tell who we are.
pub(super) fn context(
    repository: &Repository,
    keep: bool,
    elsewhere: &Elsewhere,
) -> Result<Checkout> {
    if let Some(url) = web(repository) {
        let mut hosts = elsewhere.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        hosts.insert(place(&url));
    }
    checkout(repository, keep, None, elsewhere)
}

/// Fetches what a repository means. With `keep`, its .git directory comes along; `checksum` is how the ID begins.
pub fn checkout(
    repository: &Repository,
    keep: bool,
    checksum: Option<&str>,
    elsewhere: &Elsewhere,
) -> Result<Checkout> {
    let keep = repository.keep_git_dir.unwrap_or(keep);
    let checksum = checksum.or(repository.commit.as_deref());
    let (dir, root) = elsewhere.directory()?;
    let git = Git::new(dir.path(), repository, elsewhere)?;
    let fetched = git.fetch(repository, checksum, keep).with_context(|| repository.to_string());
    let (commit, time) = fetched?;
    let top = openat(&root, "tree", DIRECTORY, rustix::fs::Mode::empty())?;
    let top = match &repository.dir {
        None => top,
        Some(inner) => match open_beneath(top.as_fd(), inner, DIRECTORY) {
            Err(Errno::XDEV) => bail!("{repository}: {inner}: it leads out of the repository"),
            opened => opened.at(inner).with_context(|| repository.to_string())?,
        },
    };
    let inner = repository.dir.as_deref().unwrap_or_default();
    // What is in .git knows where it comes from.
    let origin = if keep { repository.to_string() } else { String::new() };
    let with = format!("git\0{commit}\0{inner}\0{}\0{origin}", repository.submodules);
    let identity = Digest::of(with.as_bytes());
    // The directory goes first, and then its lock.
    let tree = Tree::ours(top, &repository.to_string(), (dir, root));
    Ok(Checkout { tree, commit, time, identity })
}

/// Runs git in a directory.
struct Git {
    program: PathBuf,
    dir: PathBuf,
    /// Settings that lie on no disk, for this host.
    private: Vec<(String, String)>,
    /// The host, if it is on the web.
    host: Option<String>,
    /// How long it may do nothing.
    stall: Duration,
    /// What is to be ended when a signal ends us.
    running: Arc<Mutex<Option<Pid>>>,
}

impl Git {
    fn new(dir: &Path, repository: &Repository, elsewhere: &Elsewhere) -> Result<Git> {
        let program = which::which("git").map_err(|_| anyhow!("git is not installed"));
        let program =
            program.hint(|| "repositories are fetched by git(1): install git".to_string())?;
        let mut private = Vec::new();
        if let (Some(header), Some(url)) = (authorization(repository, elsewhere)?, web(repository))
        {
            ensure!(!header.contains(char::is_control), "a control character in a secret");
            // For all of this host: the repositories in this one are there as well, more often than not.
            let of_host =
                |key: &str| -> Result<String> { Ok(format!("http.{}.{key}", url.join("/")?)) };
            private.push((of_host("extraHeader")?, format!("Authorization: {header}")));
            // git would tell whoever it is sent to.
            private.push((of_host("followRedirects")?, "false".into()));
        }
        let path = dir.join("config");
        fs::write(&path, SETTINGS).at(&path)?;
        let running = Arc::new(Mutex::new(None));
        let registered = running.clone();
        cli::on_interrupt(move || {
            let running = registered.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(pid) = *running {
                // It may have ended by itself.
                let _ = kill_process_group(pid, Signal::KILL);
            }
        })?;
        let host = web(repository).map(|url| place(&url));
        Ok(Git { program, dir: dir.into(), private, host, stall: elsewhere.stall, running })
    }

    /// Fetches a commit and checks it out; returns its ID and its time.
    fn fetch(
        &self,
        repository: &Repository,
        checksum: Option<&str>,
        keep: bool,
    ) -> Result<(String, i64)> {
        let remote = &repository.remote;
        // A commit that is known in full needs no name.
        let whole = checksum.filter(|_| repository.reference.is_none()).filter(|id| is_id(id));
        let name = match whole.or(repository.reference.as_deref()) {
            Some(id) if is_id(id) => id.to_owned(),
            Some(name) => self.resolve(remote, name)?,
            None => "HEAD".into(),
        };
        let format = if is_id(&name) && name.len() == 64 { "sha256" } else { self.format(remote)? };
        self.run(&["init", "-q", "--template=", "--object-format", format, "--", "tree"], false)?;
        self.run(&["config", "remote.origin.url", remote], true)?;
        let spec = format!("+{name}:{FETCHED}");
        let shallow = ["fetch", "-q", "--depth=1", "--no-tags", "--", remote, &spec];
        match self.run(&shallow, true) {
            Ok(_) => {}
            // It does not say what it has but by its names: all of it, then.
            Err(_) if is_id(&name) => {
                let all = "+refs/*:refs/img-build/all/*";
                self.run(&["fetch", "-q", "--no-tags", "--", remote, all], true)?;
                let found = self.run(&["update-ref", FETCHED, &name], true);
                found.map_err(|_| anyhow!("no commit {name} in it"))?;
            }
            Err(err) => return Err(err),
        }
        let id = |what: &str| {
            let what = format!("{FETCHED}{what}");
            self.run(&["rev-parse", "--verify", "-q", "--end-of-options", &what], true)
        };
        let (commit, object) = (id("^{commit}").context("not a commit")?, id("")?);
        if let Some(start) = checksum {
            let right = commit.starts_with(start) || object.starts_with(start);
            ensure!(right, "its commit is {commit}, and not {start}");
        }
        self.run(&["checkout", "-q", "--force", "--detach", &commit, "--"], true)?;
        let time = self.run(&["show", "-s", "--format=%ct", &commit, "--"], true)?;
        let time = time.parse().context("a commit without a time")?;
        let tree = self.dir.join("tree");
        let with_modules = repository.submodules && tree.join(".gitmodules").is_file();
        if with_modules {
            let update = ["submodule", "-q", "update", "--init", "--recursive", "--depth=1"];
            self.run(&update, true).context("a repository in it")?;
        }
        match keep {
            true => self.settle(&name, &object)?,
            // A path that git checks out has no component of that name: what has it is git's.
            false if with_modules => remove_everywhere(&tree)?,
            false => fs::remove_dir_all(tree.join(".git")).at(".git")?,
        }
        Ok((commit, time))
    }

    /// Returns the full name of a ref: a branch comes before a tag.
    fn resolve(&self, remote: &str, name: &str) -> Result<String> {
        let found = self.run(&["ls-remote", "-q", "--", remote, name], false)?;
        let names: Vec<&str> =
            found.lines().filter_map(|line| Some(line.split_once('\t')?.1)).collect();
        let full = ["refs/", "refs/heads/", "refs/tags/"].map(|above| match name {
            _ if name.starts_with(above) => name.to_owned(),
            _ => format!("{above}{name}"),
        });
        let found = full.into_iter().find(|full| names.contains(&full.as_str()));
        found.with_context(|| format!("no branch, tag or commit {name} in it"))
    }

    /// Returns how the repository names objects.
    fn format(&self, remote: &str) -> Result<&'static str> {
        let head = self.run(&["ls-remote", "-q", "--", remote, "HEAD"], false)?;
        let id = head.split('\t').next().unwrap_or_default();
        Ok(if id.len() == 64 { "sha256" } else { "sha1" })
    }

    /// Makes of .git what it always is for this commit: no times, and packed as always.
    fn settle(&self, name: &str, object: &str) -> Result<()> {
        if name.starts_with("refs/tags/") {
            self.run(&["update-ref", name, object], true)?;
        }
        let refs = self.run(&["for-each-ref", "--format=%(refname)", "refs/img-build"], true)?;
        for name in refs.lines() {
            self.run(&["update-ref", "-d", name], true)?;
        }
        self.run(&["repack", "-q", "-a", "-d", "-f"], true)?;
        let git = self.dir.join("tree/.git");
        for left in ["index", "FETCH_HEAD", "ORIG_HEAD"] {
            match fs::remove_file(git.join(left)) {
                Err(err) if err.kind() == std::io::ErrorKind::NotFound => {}
                removed => removed.at(left)?,
            }
        }
        let _ = fs::remove_dir_all(git.join("logs"));
        // This one knows the files by their IDs, and not by their inodes.
        self.run(&["read-tree", "HEAD"], true).map(drop)
    }

    /// Runs git; returns what it answers. `inside`, it is about our copy of the repository.
    fn run(&self, args: &[&str], inside: bool) -> Result<String> {
        let said = self.dir.join("errors");
        let mut options = File::options();
        options.read(true).write(true).create(true).truncate(true);
        let mut errors = options.open(&said).at(&said)?;
        // Modes are those of the repository, whatever our umask.
        let mut command = Command::new("/bin/sh");
        command.args(["-c", "umask 022; exec \"$0\" \"$@\""]).arg(&self.program).args(args);
        command.current_dir(if inside { self.dir.join("tree") } else { self.dir.clone() });
        command.env_clear();
        let ours = ENVIRONMENT.iter().filter_map(|name| Some((name, std::env::var_os(name)?)));
        command.envs(ours);
        let default = |command: &mut Command, name: &str, value: &OsStr| {
            if std::env::var_os(name).is_none() {
                command.env(name, value);
            }
        };
        default(&mut command, "GIT_ALLOW_PROTOCOL", "git:http:https:ssh".as_ref());
        default(
            &mut command,
            "GIT_SSH_COMMAND",
            "ssh -oBatchMode=yes -oConnectTimeout=30 -oServerAliveInterval=10".as_ref(),
        );
        if let Some(file) = std::env::var_os("SSL_CERT_FILE") {
            default(&mut command, "GIT_SSL_CAINFO", &file);
        }
        command
            .env("GIT_CONFIG_GLOBAL", self.dir.join("config"))
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_CONFIG_COUNT", self.private.len().to_string())
            .env("GIT_ATTR_NOSYSTEM", "1")
            .env("GIT_TEMPLATE_DIR", "")
            .env("GIT_TERMINAL_PROMPT", "0")
            .env("GIT_NO_REPLACE_OBJECTS", "1")
            .env("GIT_CEILING_DIRECTORIES", &self.dir)
            .env("LC_ALL", "C")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(errors.try_clone()?)
            .process_group(0);
        for (number, (key, value)) in self.private.iter().enumerate() {
            command.env(format!("GIT_CONFIG_KEY_{number}"), key);
            command.env(format!("GIT_CONFIG_VALUE_{number}"), value);
        }
        // ssh has its keys and its configuration where /etc/passwd says.
        if let Some((uid, gid)) = userns::was() {
            sys::run_as(&mut command, uid, gid);
        }
        sys::end_with_us(&mut command);
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let mut child = command.spawn().at(&self.program)?;
        *running = Pid::from_raw(i32::try_from(child.id())?);
        let group = *running;
        drop(running);
        let stdout = child.stdout.take().context("no answer")?;
        let answer = self.listen(stdout, group.context("no process")?);
        let status = child.wait();
        *self.running.lock().unwrap_or_else(PoisonError::into_inner) = None;
        let status = status?;
        let verb = args.first().copied().unwrap_or_default();
        if answer.as_ref().is_ok_and(Option::is_none) {
            bail!("git {verb}: nothing has come for {} s", self.stall.as_secs());
        }
        if !status.success() {
            let end = errors.seek(SeekFrom::End(0))?;
            errors.seek(SeekFrom::Start(end.saturating_sub(SAID)))?;
            let mut said = Vec::new();
            errors.take(SAID).read_to_end(&mut said)?;
            let why = reason(&String::from_utf8_lossy(&said), &status.to_string());
            let failed = Err(anyhow!("git {verb}: {why}"));
            return match &self.host {
                // It would have asked who we are, and could not.
                Some(host) if why.starts_with("could not read Username") => {
                    failed.hint(|| format!("--secret id=GIT_AUTH_TOKEN.{host},env=TOKEN"))
                }
                _ if !self.private.is_empty() && why.contains("returned error: 30") => {
                    failed.hint(|| "the address that it redirects to, with a token for that".into())
                }
                _ => failed,
            };
        }
        let answer = answer.context("what git answers")?.unwrap_or_default();
        let answer = String::from_utf8(answer).context("what git answers")?;
        Ok(answer.trim_end().to_owned())
    }

    /// Reads what git answers; nothing, if it was ended since it did nothing any more.
    fn listen(&self, mut stdout: ChildStdout, group: Pid) -> Result<Option<Vec<u8>>> {
        let mut watch = Watch::of(group, self.stall);
        let pace = Timespec::try_from(watch.pace())?;
        let (mut answer, mut buffer) = (Vec::new(), [0; 4096]);
        while answer.len() < ANSWER {
            match poll(&mut [PollFd::new(&stdout, PollFlags::IN)], Some(&pace)) {
                Ok(0) if watch.is_over() => {
                    kill_process_group(group, Signal::KILL)?;
                    return Ok(None);
                }
                Ok(0) | Err(Errno::INTR) => {}
                Ok(_) => match stdout.read(&mut buffer)? {
                    0 => break,
                    n => answer.extend(&buffer[..n]),
                },
                Err(err) => return Err(err.into()),
            }
        }
        Ok(Some(answer))
    }
}

/// Returns the address of a repository on the web.
fn web(repository: &Repository) -> Option<Url> {
    let url = Url::parse(&repository.remote).ok();
    url.filter(|url| matches!(url.scheme(), "http" | "https"))
}

/// Returns what git is to tell a server of who we are.
///
/// Who wrote the Dockerfile or a base image's triggers chooses what ADD fetches. So a secret is
/// for the host that it names, or else for those of the contexts, and nobody on the way reads it.
fn authorization(repository: &Repository, elsewhere: &Elsewhere) -> Result<Option<String>> {
    let Some(url) = web(repository) else { return Ok(None) };
    if repository.authorization.is_some() {
        return Ok(repository.authorization.clone());
    }
    let host = place(&url);
    let hosts = elsewhere.hosts.lock().unwrap_or_else(PoisonError::into_inner);
    let is_context = hosts.contains(&host);
    drop(hosts);
    let secret = |id: &str| {
        let of_host = format!("{id}.{host}");
        let ids = [of_host.as_str(), id];
        elsewhere.secret(if is_context { &ids } else { &ids[..1] })
    };
    let header = match secret("GIT_AUTH_HEADER")? {
        Some(header) => Some(header),
        // The user that GitHub and others have for it, as BuildKit says it.
        None => secret("GIT_AUTH_TOKEN")?
            .map(|token| format!("Basic {}", STANDARD.encode(format!("x-access-token:{token}")))),
    };
    if header.is_some() && url.scheme() == "http" && !is_loopback(&url) {
        let refused = Err(anyhow!("{repository}: a secret does not go over plain HTTP"));
        return refused.hint(|| format!("https://{host}{}", url.path()));
    }
    Ok(header)
}

/// Returns whether a text is a commit's ID, all of it.
fn is_id(text: &str) -> bool {
    matches!(text.len(), 40 | 64) && text.bytes().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f'))
}

/// Returns the line that says why git failed.
fn reason(said: &str, status: &str) -> String {
    let why = |line: &&str| line.starts_with("fatal: ") || line.starts_with("error: ");
    let line = said.lines().find(why).or(said.lines().rfind(|line| !line.trim().is_empty()));
    let line = line.unwrap_or(status);
    let line = line.strip_prefix("fatal: ").or(line.strip_prefix("error: ")).unwrap_or(line);
    sanitised(line, 300)
}

/// Removes what git has put into the tree and into the repositories in it.
fn remove_everywhere(tree: &Path) -> Result<()> {
    let mut dirs = vec![tree.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir).at(&dir)? {
            let entry = entry.at(&dir)?;
            let (path, kind) = (entry.path(), entry.file_type().at(entry.path())?);
            match (entry.file_name() == ".git", kind.is_dir()) {
                (true, true) => fs::remove_dir_all(&path).at(&path)?,
                (true, false) => fs::remove_file(&path).at(&path)?,
                (false, true) => dirs.push(path),
                (false, false) => {}
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
