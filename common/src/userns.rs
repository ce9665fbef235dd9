//! User namespaces: how an ordinary user becomes root over some ids of his own.
//!
//! ```text
//! inside   0      1 ............ 65536
//! outside  1000   100000 ... 165535      the user himself, then his lines of /etc/subuid
//! ```
//!
//! [`Mapping`] is a plain value: the ids inside and what they are outside.
//! [`enter`] makes it true of this process. With more than one id the kernel
//! wants a privileged writer, which for a user is newuidmap and newgidmap;
//! without them, or without lines in /etc/subuid, the one id that is left still
//! makes a root, who can mount but give nothing away. user_namespaces(7).
//!
//! The files are parsed here and never through NSS, which static binaries do not have.

use std::fmt::{self, Display};
use std::fs;
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::str::FromStr;
use std::sync::OnceLock;

use anyhow::{Context, Error, Result, bail, ensure};
use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use nix::sys::wait::waitpid;
use nix::unistd::{Gid, Pid, Uid};
use oci_spec::runtime::{LinuxIdMapping, LinuxIdMappingBuilder};
use rustix::mount::{MountPropagationFlags, mount_change};

use crate::error::{At, Hint, Usage, hint_of, line};
use crate::sys;

/// The most lines that a mapping may have: user_namespaces(7).
const LINES: usize = 340;

/// Ids in a row, inside a user namespace and outside of it: `container:host[:size]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Range {
    /// The first id inside.
    pub container: u32,
    /// What it is outside.
    pub host: u32,
    /// How many there are.
    pub size: u32,
}

impl Range {
    /// Returns the range, unless it leaves what an id can be. 2^32-1 is no id: chown(2) takes it for "leave as it is".
    fn new(container: u32, host: u32, size: u32) -> Option<Range> {
        let fits = |first: u32| first.checked_add(size).is_some();
        (size > 0 && fits(container) && fits(host)).then_some(Range { container, host, size })
    }
}

impl Range {
    /// Says whether an id outside is in the range.
    pub fn has_host(&self, id: u32) -> bool {
        id.checked_sub(self.host).is_some_and(|n| n < self.size)
    }
}

impl FromStr for Range {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let mut parts = text.split(':').map(number);
        let range = match (parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some(Some(container)), Some(Some(host)), None, None) => Range::new(container, host, 1),
            (Some(Some(container)), Some(Some(host)), Some(Some(size)), None) => {
                Range::new(container, host, size)
            }
            _ => None,
        };
        range.with_context(|| {
            format!("{text:?}: not a mapping of ids (container:host or container:host:size)")
        })
    }
}

impl Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.container, self.host, self.size)
    }
}

impl From<Range> for LinuxIdMapping {
    fn from(range: Range) -> Self {
        let mapping = LinuxIdMappingBuilder::default();
        let mapping = mapping.container_id(range.container).host_id(range.host).size(range.size);
        // Every field is given, and that is all that the builder checks.
        mapping.build().unwrap()
    }
}

/// Reads a decimal number as the tools of /etc/subuid do: digits alone, no sign, no blank.
fn number(text: &str) -> Option<u32> {
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok())?
}

/// What the users and groups of a user namespace are outside of it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Mapping {
    /// The users.
    pub uids: Vec<Range>,
    /// The groups.
    pub gids: Vec<Range>,
}

impl Mapping {
    /// Returns the mapping in which user `uid` and group `gid` are root, and there is nobody else.
    pub fn single(uid: Uid, gid: Gid) -> Mapping {
        let own = |host| vec![Range { container: 0, host, size: 1 }];
        Mapping { uids: own(uid.as_raw()), gids: own(gid.as_raw()) }
    }

    /// Returns the mapping of the user namespace that this process is in.
    pub fn current() -> Result<Mapping> {
        let read = |path: &str| -> Result<Vec<Range>> {
            Ok(parse_map(&fs::read_to_string(path).at(path)?))
        };
        Ok(Mapping { uids: read("/proc/self/uid_map")?, gids: read("/proc/self/gid_map")? })
    }

    /// Returns the widest mapping that this user may have. Root may have everybody who is here.
    pub fn of_user() -> Result<Mapping> {
        let (uid, gid) = (Uid::effective(), Gid::effective());
        let here = Mapping::current()?;
        if uid.is_root() {
            let all = |ranges: &[Range]| {
                ranges.iter().map(|range| Range { host: range.container, ..*range }).collect()
            };
            return Ok(Mapping { uids: all(&here.uids), gids: all(&here.gids) });
        }
        let single = Mapping::single(uid, gid);
        if helper("newuidmap").is_none() || helper("newgidmap").is_none() {
            return Ok(single);
        }
        let name = own_name(uid)?;
        let subuids = parse_subids(&read("/etc/subuid")?, name.as_deref(), uid.as_raw());
        let subgids = parse_subids(&read("/etc/subgid")?, name.as_deref(), uid.as_raw());
        let uids = compose(uid.as_raw(), &subuids, &here.uids);
        let gids = compose(gid.as_raw(), &subgids, &here.gids);
        if uids.len() == 1 || gids.len() == 1 {
            return Ok(single);
        }
        Ok(Mapping { uids, gids })
    }

    /// Says whether there is but one user and one group, so that nothing can be given to another.
    pub fn is_single(&self) -> bool {
        let count =
            |ranges: &[Range]| ranges.iter().map(|range| u64::from(range.size)).sum::<u64>();
        count(&self.uids) <= 1 || count(&self.gids) <= 1
    }

    /// Returns the user outside that root is inside, if there is a root.
    pub fn root(&self) -> Option<(Uid, Gid)> {
        let host = |ranges: &[Range]| {
            ranges.iter().find(|range| range.container == 0).map(|range| range.host)
        };
        Some((Uid::from_raw(host(&self.uids)?), Gid::from_raw(host(&self.gids)?)))
    }

    /// Checks what the kernel would refuse with no more than EINVAL.
    pub fn check(&self) -> Result<()> {
        for (what, ranges) in [("user", &self.uids), ("group", &self.gids)] {
            ensure!(ranges.len() <= LINES, "more than {LINES} ranges of {what} ids");
            for (i, a) in ranges.iter().enumerate() {
                for b in &ranges[..i] {
                    let meet = |x: u32, y: u32| {
                        x < y.saturating_add(b.size) && y < x.saturating_add(a.size)
                    };
                    if meet(a.container, b.container) || meet(a.host, b.host) {
                        return Err(Usage(format!("{what} ids {b} and {a} overlap")).into());
                    }
                }
            }
        }
        if self.root().is_none() {
            return Err(Usage(
                "no user or no group is mapped to 0, so there would be no root".into(),
            )
            .into());
        }
        Ok(())
    }
}

/// The mapping on one line, as file names and records have it: `0:1000:1,1:100000:65536 0:1000:1`.
impl Display for Mapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (ranges, end) in [(&self.uids, " "), (&self.gids, "")] {
            let texts: Vec<String> = ranges.iter().map(Range::to_string).collect();
            write!(f, "{}{end}", texts.join(","))?;
        }
        Ok(())
    }
}

/// Reads /proc/PID/uid_map or gid_map.
fn parse_map(text: &str) -> Vec<Range> {
    let range = |line: &str| {
        let mut words = line.split_ascii_whitespace().map(number);
        Some(Range { container: words.next()??, host: words.next()??, size: words.next()?? })
    };
    text.lines().filter_map(range).collect()
}

/// Returns the ranges (first, size) that /etc/subuid or /etc/subgid gives to a user, by name or by number: subuid(5).
fn parse_subids(text: &str, name: Option<&str>, uid: u32) -> Vec<(u32, u32)> {
    let line = |line: &str| {
        let mut fields = line.split(':');
        let owner = fields.next()?;
        let (first, size) = (number(fields.next()?)?, number(fields.next()?)?);
        let ours = Some(owner) == name || number(owner) == Some(uid);
        (ours && fields.next().is_none()).then_some((first, size))
    };
    text.lines().filter_map(line).collect()
}

/// Returns the name that /etc/passwd gives to a user.
fn user_name(passwd: &str, uid: u32) -> Option<String> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (number(fields.nth(1)?)? == uid).then(|| name.to_owned())
    })
}

/// Returns the name of the user that this process runs as.
///
/// A user of a directory service is not in /etc/passwd. What $USER claims for him
/// need not be true: newuidmap looks for itself.
fn own_name(uid: Uid) -> Result<Option<String>> {
    let listed = user_name(&read("/etc/passwd")?, uid.as_raw());
    Ok(listed.or_else(|| std::env::var("USER").ok()))
}

/// Returns the mapping with `own` as 0 and, from 1 on, those ids of `subids` that exist in the namespace `here`.
///
/// Inside another namespace, a line of /etc/subuid may name ids that nobody has there;
/// the kernel would refuse the whole mapping for one of them.
fn compose(own: u32, subids: &[(u32, u32)], here: &[Range]) -> Vec<Range> {
    let mut ranges = vec![Range { container: 0, host: own, size: 1 }];
    let mut next = 1u32;
    for &(first, size) in subids {
        for part in here {
            let start = first.max(part.container);
            let end = first.saturating_add(size).min(part.container.saturating_add(part.size));
            let taken = |range: &Range| start < range.host + range.size && range.host < end;
            if start >= end || ranges.iter().any(taken) || ranges.len() == LINES {
                continue;
            }
            let Some(range) = Range::new(next, start, end - start) else { continue };
            next += range.size;
            ranges.push(range);
        }
    }
    ranges
}

/// Makes an ordinary user root, over as many ids as he may have; root stays what he is. Returns the mapping in force.
pub fn ensure_root() -> Result<Mapping> {
    if Uid::effective().is_root() {
        return Mapping::current();
    }
    let mapping = Mapping::of_user()?;
    enter(&mapping)?;
    Ok(mapping)
}

/// Whom [`enter`] has made root.
static WAS: OnceLock<(Uid, Gid)> = OnceLock::new();

/// Returns who we were before [`enter`] made us root, if we were not root before.
pub fn was() -> Option<(Uid, Gid)> {
    WAS.get().copied()
}

/// Returns whether this process is in a user namespace that somebody made, and not in the host's.
pub fn is_entered() -> Result<bool> {
    /// PROC_USER_INIT_INO, which is part of the kernel's ABI.
    const INITIAL: u64 = 0xEFFF_FFFD;
    let path = "/proc/self/ns/user";
    Ok(fs::metadata(path).at(path)?.ino() != INITIAL)
}

/// Makes this process root in a user namespace and a mount namespace of its own.
///
/// The process must have one thread. Its groups stay as they are: it is still
/// the user, who may read what his groups may read. Mounts made from here on
/// are seen by nobody else and go when the last process here does.
pub fn enter(mapping: &Mapping) -> Result<()> {
    mapping.check()?;
    let (uid, gid) = (Uid::effective(), Gid::effective());
    let writer = if *mapping == Mapping::single(uid, gid) {
        Writer::Own
    } else if uid.is_root() {
        Writer::Root
    } else {
        Writer::Helpers
    };

    let (mut ours, mut theirs) = UnixStream::pair()?;
    let process = Pid::this();
    // The namespace is left behind by unshare, and only who is outside of it may fill in
    // more than one id, so somebody stays outside.
    let outside = match writer {
        Writer::Own => None,
        _ => Some(match sys::fork().context("cannot fork")? {
            Some(child) => child,
            None => {
                drop(ours);
                write_when_told(&mut theirs, &writer, process, mapping);
                sys::exit(0);
            }
        }),
    };
    drop(theirs);

    let made = unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS)
        .map_err(io::Error::from)
        .context(Refused)
        .hint_if(forbidden);
    let written = made.and_then(|()| match outside {
        None => write_maps(Path::new("/proc/self"), mapping, false),
        Some(_) => answer(&mut ours),
    });
    drop(ours);
    if let Some(child) = outside {
        waitpid(child, None)?;
    }
    written?;
    become_root()?;
    if !uid.is_root() {
        let _ = WAS.set((uid, gid));
    }

    // Else a mount of ours would be received by nobody, but one of the host's by us.
    keep_mounts().hint_if(forbidden)
}

/// Gives this process mounts of its own: what it mounts, nobody else sees.
pub fn private_mounts() -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNS).context("cannot make a mount namespace")?;
    keep_mounts()
}

/// Sees that what is mounted here reaches nobody, and the other way round.
fn keep_mounts() -> Result<()> {
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .map_err(io::Error::from)
        .context("cannot make the mounts private")
}

/// This process may not create a user namespace; it is what it was.
#[derive(Clone, Copy, Debug)]
pub struct Refused;

impl Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("cannot create a user namespace")
    }
}

/// Who writes the mapping.
enum Writer {
    /// The process itself, which may name itself and nobody else.
    Own,
    /// Root, who may name anybody.
    Root,
    /// newuidmap and newgidmap, which may name what /etc/subuid and /etc/subgid allow.
    Helpers,
}

/// Waits outside until the namespace is there, writes its mapping, and answers with nothing or with what went wrong.
fn write_when_told(stream: &mut UnixStream, writer: &Writer, process: Pid, mapping: &Mapping) {
    let mut go = [0];
    if stream.read_exact(&mut go).is_err() {
        return; // there is no namespace, and the other side knows why
    }
    let written = match writer {
        Writer::Helpers => run_helper("newuidmap", "/etc/subuid", process, &mapping.uids)
            .and_then(|()| run_helper("newgidmap", "/etc/subgid", process, &mapping.gids)),
        _ => write_maps(Path::new(&format!("/proc/{process}")), mapping, true),
    };
    if let Err(err) = written {
        let hint = hint_of(&err).unwrap_or_default();
        // The other side may be gone; then nobody wants to know.
        let _ = write!(stream, "{}\n{hint}", line(&err));
    }
}

/// Tells the process outside to write, and returns its answer.
fn answer(stream: &mut UnixStream) -> Result<()> {
    stream.write_all(b"w")?;
    stream.shutdown(std::net::Shutdown::Write)?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    match text.split_once('\n') {
        None => Ok(()),
        Some((error, "")) => bail!("{error}"),
        Some((error, hint)) => Err(Error::msg(error.to_owned())).hint(|| hint.to_owned()),
    }
}

/// Writes both maps into `process`, a directory of /proc.
fn write_maps(process: &Path, mapping: &Mapping, privileged: bool) -> Result<()> {
    if !privileged {
        // Who could drop a group could get at what the group is kept from (CVE-2014-8989):
        // the kernel takes an ordinary user's gid_map only after this.
        let path = process.join("setgroups");
        fs::write(&path, "deny").at(&path).hint_if(forbidden)?;
    }
    for (file, ranges) in [("uid_map", &mapping.uids), ("gid_map", &mapping.gids)] {
        let lines: Vec<String> = ranges
            .iter()
            .map(|range| format!("{} {} {}", range.container, range.host, range.size))
            .collect();
        let path = process.join(file);
        // The kernel takes the whole map in one write and no second one.
        fs::write(&path, lines.join("\n")).at(&path).hint_if(forbidden)?;
    }
    Ok(())
}

/// Runs newuidmap or newgidmap.
fn run_helper(name: &str, file: &str, process: Pid, ranges: &[Range]) -> Result<()> {
    let path = helper(name)
        .with_context(|| format!("{name} is not installed"))
        .hint(|| "it is in the package uidmap (Debian, Ubuntu) or shadow-utils (Fedora)".into())?;
    let numbers = ranges.iter().flat_map(|range| [range.container, range.host, range.size]);
    let output = Command::new(&path)
        .arg(process.to_string())
        .args(numbers.map(|number| number.to_string()))
        .stdin(Stdio::null())
        .output()
        .at(&path)?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let said = said.trim().trim_start_matches(name).trim_start_matches(": ").replace('\n', "; ");
    let fault = Err(Error::msg(said).context(name.to_owned()));
    fault.hint(|| {
        if !is_privileged(&path) {
            format!(
                "{} is not setuid root: chmod u+s {0}, or reinstall its package",
                path.display()
            )
        } else if nix::sys::prctl::get_no_new_privs() == Ok(true) {
            format!("no_new_privs is set, so {} cannot be setuid", path.display())
        } else {
            let option = if name == "newuidmap" { "--add-subuids" } else { "--add-subgids" };
            let user = own_name(Uid::effective()).ok().flatten().unwrap_or("USER".into());
            format!("{file} must allow these ids: usermod {option} 100000-165535 {user}")
        }
    })
}

/// Says whether the program gets privilege from its file: the setuid bit, or file capabilities.
fn is_privileged(path: &Path) -> bool {
    let setuid = fs::metadata(path).is_ok_and(|meta| meta.permissions().mode() & 0o4000 != 0);
    setuid || rustix::fs::getxattr_query(path, "security.capability").is_ok_and(|size| size > 0)
}

/// Takes on user and group 0 of the namespace.
fn become_root() -> Result<()> {
    let (uid, gid) = (Uid::from_raw(0), Gid::from_raw(0));
    nix::unistd::setresgid(gid, gid, gid)
        .map_err(io::Error::from)
        .context("cannot become group 0")?;
    nix::unistd::setresuid(uid, uid, uid)
        .map_err(io::Error::from)
        .context("cannot become user 0")?;
    // A change of user takes /proc/self away from us, where the maps of our own children are written.
    nix::sys::prctl::set_dumpable(true)?;
    Ok(())
}

/// Returns advice on an error that says the kernel does not let this user have a user namespace.
fn forbidden(err: &Error) -> Option<String> {
    let errno = err.chain().find_map(|link| link.downcast_ref::<io::Error>()?.raw_os_error())?;
    advice(Errno::from_raw(errno), Path::new("/proc"))
}

/// Returns why the kernel answers `errno`, as far as it tells under `proc`.
fn advice(errno: Errno, proc: &Path) -> Option<String> {
    let is = |name: &str, value: &str| {
        fs::read_to_string(proc.join("sys").join(name)).is_ok_and(|text| text.trim() == value)
    };
    let sysctl = |name: &str, value: &str| {
        is(name, value).then(|| format!("sysctl {} is {value}", name.replace('/', ".")))
    };
    match errno {
        Errno::ENOSPC | Errno::EUSERS => sysctl("user/max_user_namespaces", "0")
            .or_else(|| sysctl("user/max_mnt_namespaces", "0"))
            .or_else(|| Some("there are too many: see sysctl user.max_user_namespaces".into())),
        Errno::EPERM | Errno::EACCES => sysctl("kernel/unprivileged_userns_clone", "0")
            .or_else(|| sysctl("kernel/apparmor_restrict_unprivileged_userns", "1"))
            .or_else(|| sysctl("user/max_user_namespaces", "0"))
            .or_else(|| Some("something around this process forbids it: a container's seccomp profile, a chroot, or a security module".into())),
        Errno::EINVAL | Errno::ENOSYS if !proc.join("self/ns/user").exists() => {
            Some("this kernel was built without user namespaces".into())
        }
        _ => None,
    }
}

/// Returns where newuidmap or newgidmap is.
fn helper(name: &str) -> Option<PathBuf> {
    // A stripped-down PATH (cron, sudo) still has a /usr/bin on disk.
    which::which(name)
        .ok()
        .or_else(|| which::which_in(name, Some("/usr/bin:/bin:/usr/sbin"), "/").ok())
}

/// Reads a file of the host that may not be there.
fn read(path: &str) -> Result<String> {
    match fs::read(path) {
        Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        Err(err) if err.kind() == ErrorKind::NotFound => Ok(String::new()),
        Err(err) => Err(err).at(path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(text: &str) -> Range {
        text.parse().unwrap()
    }

    #[test]
    fn a_range_reads_as_umoci_spells_it() {
        assert_eq!(range("0:1000").to_string(), "0:1000:1");
        assert_eq!(range("1:100000:65536").to_string(), "1:100000:65536");
        assert_eq!(range("0:0:4294967295"), Range { container: 0, host: 0, size: u32::MAX });
        for bad in [
            "",
            "0",
            "0:",
            ":0",
            "0:1:",
            "0:1:0",
            "0:1:2:3",
            "-1:0",
            "+1:0",
            "0: 1",
            "0:1:4294967295",
            "4294967295:0",
            "0:4294967296",
            "a:b",
        ] {
            assert!(bad.parse::<Range>().is_err(), "{bad}");
        }
    }

    #[test]
    fn subids_are_found_by_name_and_by_number() {
        let text = "\
            # comment\n\
            alice:100000:65536\n\
            bob:165536:65536\n\
            1000:300000:10\n\
            alice:400000:5\n\
            alice:x:5\nalice:1\nalice:1:2:3\n:1:2\n\n";
        assert_eq!(
            parse_subids(text, Some("alice"), 1000),
            [(100000, 65536), (300000, 10), (400000, 5)]
        );
        assert_eq!(parse_subids(text, Some("bob"), 1001), [(165536, 65536)]);
        assert_eq!(parse_subids(text, None, 1000), [(300000, 10)]);
        assert_eq!(parse_subids(text, Some("1000"), 7), [(300000, 10)]);
        assert_eq!(parse_subids("", Some("alice"), 1000), []);
    }

    #[test]
    fn the_name_of_a_user_is_in_passwd() {
        let passwd = "root:x:0:0:root:/root:/bin/sh\nbad\nalice:x:1000:1000::/home/alice:\n";
        assert_eq!(user_name(passwd, 1000).as_deref(), Some("alice"));
        assert_eq!(user_name(passwd, 0).as_deref(), Some("root"));
        assert_eq!(user_name(passwd, 5), None);
    }

    #[test]
    fn a_user_is_root_over_himself_and_his_subids() {
        let all = parse_map("         0          0 4294967295\n");
        let texts = |ranges: Vec<Range>| ranges.iter().map(Range::to_string).collect::<Vec<_>>();
        type Case = (&'static [(u32, u32)], &'static [&'static str]);
        let table: [Case; 7] = [
            (&[], &["0:1000:1"]),
            (&[(100000, 65536)], &["0:1000:1", "1:100000:65536"]),
            (&[(100000, 10), (200000, 10)], &["0:1000:1", "1:100000:10", "11:200000:10"]),
            // Lines that overlap another or the user himself would make the kernel refuse all.
            (&[(100000, 10), (100005, 10)], &["0:1000:1", "1:100000:10"]),
            (&[(0, 65536)], &["0:1000:1"]),
            // Nor are there more ids than there are.
            (&[(u32::MAX - 1, 10)], &["0:1000:1", "1:4294967294:1"]),
            (&[(5, 0)], &["0:1000:1"]),
        ];
        for (subids, wanted) in table {
            assert_eq!(texts(compose(1000, subids, &all)), wanted, "{subids:?}");
        }
    }

    #[test]
    fn in_a_namespace_only_its_own_ids_count() {
        let here = parse_map("0 1000 1\n1 100000 65536\n");
        assert_eq!(compose(1000, &[(100000, 65536)], &here), [range("0:1000:1")]);
        let ranges = compose(1000, &[(60000, 10000)], &here);
        assert_eq!(ranges, [range("0:1000:1"), range("1:60000:5537")]);
    }

    #[test]
    fn a_mapping_that_the_kernel_would_refuse_is_refused_with_words() {
        let mapping = |uids: &[&str]| Mapping {
            uids: uids.iter().map(|text| range(text)).collect(),
            gids: vec![range("0:0")],
        };
        assert!(mapping(&["0:1000:1", "1:100000:65536"]).check().is_ok());
        assert!(mapping(&["0:0:4294967295"]).check().is_ok());
        for bad in [&["1:1000"][..], &[], &["0:1000:10", "5:2000"], &["0:1000:10", "10:1005"]] {
            assert!(mapping(bad).check().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_mapping_has_one_line_and_knows_its_root() {
        let mapping = Mapping {
            uids: vec![range("0:1000"), range("1:100000:65536")],
            gids: vec![range("0:5")],
        };
        assert_eq!(mapping.to_string(), "0:1000:1,1:100000:65536 0:5:1");
        assert_eq!(mapping.root(), Some((Uid::from_raw(1000), Gid::from_raw(5))));
        assert!(mapping.is_single());
    }

    #[test]
    fn the_sysctl_that_forbids_is_named() {
        let proc = tempfile::tempdir().unwrap();
        let set = |name: &str, value: &str| {
            let path = proc.path().join("sys").join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, format!("{value}\n")).unwrap();
        };
        let advice = |errno| advice(errno, proc.path()).unwrap_or_default();
        assert!(advice(Errno::EPERM).contains("seccomp"));
        assert!(advice(Errno::EINVAL).contains("without user namespaces"));
        set("user/max_user_namespaces", "0");
        assert_eq!(advice(Errno::ENOSPC), "sysctl user.max_user_namespaces is 0");
        set("kernel/apparmor_restrict_unprivileged_userns", "1");
        assert_eq!(
            advice(Errno::EACCES),
            "sysctl kernel.apparmor_restrict_unprivileged_userns is 1"
        );
        set("kernel/unprivileged_userns_clone", "0");
        assert_eq!(advice(Errno::EPERM), "sysctl kernel.unprivileged_userns_clone is 0");
    }
}
