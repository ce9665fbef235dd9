//! Who a container's process is: the image's `User`, looked up in the image's own /etc/passwd and /etc/group.
//!
//! ```text
//! (empty)      uid 0            with the group, groups and home that passwd gives it
//! name         as passwd says   an error if it is not there
//! uid          the number       group 0 and home / if it is not in passwd
//! user:group   that one group   and no additional ones; group is a name or a number
//! ```
//!
//! Nothing falls back to uid 0: what is neither a name in passwd nor a decimal
//! number up to 2^31-1 is an error (CVE-2024-40635, CVE-2026-30892). The files
//! are the image's, so they may be anything, a FIFO or a link to /dev/zero
//! (CVE-2024-9676): they are looked up beneath the root, and only a regular
//! file of a sane size is read.

use std::fs::File;
use std::io::Read;
use std::os::fd::AsFd;

use anyhow::{Context, Result, bail, ensure};
use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::{SFlag, fstat};

use crate::error::At;

/// The most bytes that passwd or group may have.
pub const LIMIT: u64 = 1 << 20;

/// The largest user or group ID: beyond it tools disagree about the sign.
const MAX_ID: u32 = i32::MAX as u32;

/// A user, as the process's credentials need it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// The user ID.
    pub uid: u32,
    /// The primary group ID.
    pub gid: u32,
    /// The additional group IDs: the primary one (CVE-2022-36109), then those that list the user.
    pub groups: Vec<u32>,
    /// The home directory.
    pub home: String,
}

/// Looks `text`, an image's `User` or the operand of `-u`, up in the tree below `root`.
pub fn lookup(root: impl AsFd, text: &str) -> Result<User> {
    let passwd = read(&root, "etc/passwd").at("/etc/passwd")?;
    let group = read(&root, "etc/group").at("/etc/group")?;
    find(text, &passwd, &group)
}

/// Looks `text` up in the contents of passwd and group.
pub fn find(text: &str, passwd: &[u8], group: &[u8]) -> Result<User> {
    resolve(text, passwd, group).with_context(|| format!("user {text:?}"))
}

fn resolve(text: &str, passwd: &[u8], group: &[u8]) -> Result<User> {
    let (name, wanted) = match text.split_once(':') {
        Some((name, wanted)) => (name, Some(Name::parse(wanted, "group")?)),
        None => (text, None),
    };
    let name = match (name, &wanted) {
        ("", None) => Name::Id(0),
        (name, _) => Name::parse(name, "user")?,
    };

    let mut user = match (entry(passwd, &name)?, &name) {
        (Some(account), _) => account,
        (None, Name::Id(uid)) => Account { name: None, uid: *uid, gid: 0, home: "/".into() },
        (None, Name::Text(_)) => bail!("not in the image's /etc/passwd"),
    };

    let mut groups = Vec::new();
    match wanted {
        Some(Name::Id(gid)) => user.gid = gid,
        Some(Name::Text(wanted)) => {
            let found = records(group).find(|fields| fields.first() == Some(&wanted.as_bytes()));
            let fields = found
                .with_context(|| format!("group {wanted:?} is not in the image's /etc/group"))?;
            user.gid = id(fields.get(2))
                .with_context(|| format!("group {wanted:?} has no valid ID in /etc/group"))?;
        }
        None => {
            if let Some(name) = user.name {
                let member = |fields: &Vec<&[u8]>| match fields.get(3) {
                    Some(members) => members.split(|c| *c == b',').any(|member| member == name),
                    None => false,
                };
                let listing = records(group).filter(member);
                groups.extend(listing.filter_map(|fields| id(fields.get(2))));
            }
        }
    }
    let mut all = vec![user.gid];
    for gid in groups {
        if !all.contains(&gid) {
            all.push(gid);
        }
    }
    Ok(User { uid: user.uid, gid: user.gid, groups: all, home: user.home })
}

/// A user or group as the user names it.
enum Name<'a> {
    Id(u32),
    Text(&'a str),
}

impl<'a> Name<'a> {
    /// Reads a name or a decimal number; `what` is what it names.
    fn parse(text: &'a str, what: &str) -> Result<Name<'a>> {
        ensure!(!text.is_empty(), "the {what} is empty");
        // A number always is an ID, even if somebody is called so: as Docker and runc have it.
        if text.bytes().all(|c| c.is_ascii_digit()) {
            let id = text.parse().ok().filter(|id| *id <= MAX_ID);
            return id.map(Name::Id).with_context(|| format!("the {what} ID is above {MAX_ID}"));
        }
        let odd = |c: char| c == ':' || c.is_whitespace() || c.is_control();
        ensure!(!text.contains(odd), "{text:?} is not the name of a {what}");
        Ok(Name::Text(text))
    }
}

/// What a line of passwd says.
struct Account<'a> {
    name: Option<&'a [u8]>,
    uid: u32,
    gid: u32,
    home: String,
}

/// Returns the first entry of `passwd` for `name`.
fn entry<'a>(passwd: &'a [u8], name: &Name) -> Result<Option<Account<'a>>> {
    let found = records(passwd).find(|fields| match name {
        Name::Id(uid) => id(fields.get(2)) == Some(*uid),
        Name::Text(name) => fields[0] == name.as_bytes(),
    });
    let Some(fields) = found else { return Ok(None) };
    let broken = "its line in the image's /etc/passwd has no valid user and group ID";
    Ok(Some(Account {
        name: Some(fields[0]).filter(|name| !name.is_empty()),
        uid: id(fields.get(2)).context(broken)?,
        gid: id(fields.get(3)).context(broken)?,
        home: home(fields.get(5)),
    }))
}

/// Splits passwd or group into lines and fields. There is always a first field.
fn records(file: &[u8]) -> impl Iterator<Item = Vec<&[u8]>> {
    let lines = file.split(|c| *c == b'\n').map(<[u8]>::trim_ascii);
    lines.filter(|line| !line.is_empty()).map(|line| line.split(|c| *c == b':').collect())
}

/// Reads a field as an ID.
fn id(field: Option<&&[u8]>) -> Option<u32> {
    let digits = str::from_utf8(field?).ok()?;
    let id = digits.bytes().all(|c| c.is_ascii_digit()).then_some(digits)?.parse().ok()?;
    (id <= MAX_ID).then_some(id)
}

/// Reads a field as a home directory, which becomes an environment variable.
fn home(field: Option<&&[u8]>) -> String {
    let home = field.and_then(|home| str::from_utf8(home).ok()).unwrap_or_default();
    if home.is_empty() || home.contains('\0') { "/".into() } else { home.into() }
}

/// Reads a file beneath `root`; one that is not there is empty.
fn read(root: impl AsFd, path: &str) -> Result<Vec<u8>> {
    // Looked at before it is opened: opening a device can do something, a watchdog's starts it.
    let Some(there) = open(&root, path, OFlag::O_PATH)? else { return Ok(Vec::new()) };
    ensure_regular(&there)?;
    let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    let Some(file) = open(&root, path, flags)? else { return Ok(Vec::new()) };
    ensure_regular(&file)?;
    let mut bytes = Vec::new();
    file.take(LIMIT + 1).read_to_end(&mut bytes)?;
    ensure!(bytes.len() as u64 <= LIMIT, "larger than {LIMIT} bytes");
    Ok(bytes)
}

fn ensure_regular(file: &File) -> Result<()> {
    let kind = SFlag::from_bits_truncate(fstat(file)?.st_mode) & SFlag::S_IFMT;
    ensure!(kind == SFlag::S_IFREG, "not a regular file");
    Ok(())
}

/// Opens `path` as a process whose root is `root` would.
fn open(root: impl AsFd, path: &str, flags: OFlag) -> Result<Option<File>> {
    let how = OpenHow::new()
        .flags(flags | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    for _ in 0..64 {
        match openat2(&root, path, how) {
            Ok(fd) => return Ok(Some(fd.into())),
            Err(Errno::ENOENT | Errno::ENOTDIR) => return Ok(None),
            // Something was renamed meanwhile, so that a `..` may have led out: openat2(2).
            Err(Errno::EAGAIN) => {}
            Err(err) => return Err(err.into()),
        }
    }
    bail!("the tree does not keep still")
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use nix::sys::stat::Mode;
    use nix::unistd::mkfifo;
    use proptest::prelude::*;

    use super::*;

    const PASSWD: &[u8] = b"root:x:0:0:root:/root:/bin/sh\n\
        \n\
        app:x:1000:1001::/home/app:\n\
        twin:x:1000:7::/home/twin:\n\
        7:x:70:70::/home/seven:\n\
        bad:x:0x10:0::/:\n\
        huge:x:4294967296:0::/:\n\
        short:x:5\n\
        nohome:x:6:6::\n\
        odd:x:8:8::/\xff:\n";
    const GROUP: &[u8] = b"root:x:0:root\nbin:x:1:root,daemon\napp:x:1001:\n\
        extra:x:2000:other,app\nagain:x:2000:app\nbad:x:-1:app\nstaff:x:50:\nnone\n";

    #[test]
    fn users_resolve_as_docker_resolves_them() {
        let table: &[(&str, u32, u32, &[u32], &str)] = &[
            ("", 0, 0, &[0, 1], "/root"),
            ("root", 0, 0, &[0, 1], "/root"),
            ("0", 0, 0, &[0, 1], "/root"),
            ("app", 1000, 1001, &[1001, 2000], "/home/app"),
            ("1000", 1000, 1001, &[1001, 2000], "/home/app"),
            ("twin", 1000, 7, &[7], "/home/twin"),
            ("7", 7, 0, &[0], "/"),
            ("70", 70, 70, &[70], "/home/seven"),
            ("4242", 4242, 0, &[0], "/"),
            ("2147483647", 2147483647, 0, &[0], "/"),
            ("app:staff", 1000, 50, &[50], "/home/app"),
            ("app:0", 1000, 0, &[0], "/home/app"),
            ("4242:4343", 4242, 4343, &[4343], "/"),
            ("nohome", 6, 6, &[6], "/"),
            ("odd", 8, 8, &[8], "/"),
        ];
        for (text, uid, gid, groups, home) in table {
            let user = find(text, PASSWD, GROUP).unwrap();
            let expected =
                User { uid: *uid, gid: *gid, groups: groups.to_vec(), home: home.to_string() };
            assert_eq!(user, expected, "{text:?}");
        }
    }

    #[test]
    fn without_the_files_only_numbers_work() {
        let nobody = |uid, gid| User { uid, gid, groups: vec![gid], home: "/".into() };
        assert_eq!(find("", b"", b"").unwrap(), nobody(0, 0));
        assert_eq!(find("5:6", b"", b"").unwrap(), nobody(5, 6));
        assert!(find("root", b"", b"").is_err());
        assert!(find("5:staff", b"", b"").is_err());
    }

    #[test]
    fn what_names_nobody_never_becomes_somebody() {
        let bads = [
            ":",
            ":0",
            ":root",
            "1000:",
            "app:",
            "0:",
            "missing",
            "-1",
            "+1",
            "0x0",
            "1 ",
            " 1",
            "1\n",
            "4294967296",
            "2147483648",
            "99999999999999999999",
            "app:missing",
            "app:-1",
            "app:4294967295",
            "app:1:2",
            "a b",
            "bad",
            "huge",
            "short",
            "app:bad",
            "app:none",
            "١",
            "app\0",
            "\u{a0}",
        ];
        for bad in bads {
            assert!(find(bad, PASSWD, GROUP).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn an_error_says_who_and_where() {
        let message = |text| crate::error::line(&find(text, PASSWD, GROUP).unwrap_err());
        assert_eq!(message("me"), "user \"me\": not in the image's /etc/passwd");
        assert_eq!(
            message("app:x"),
            "user \"app:x\": group \"x\" is not in the image's /etc/group"
        );
        assert_eq!(message("3000000000"), "user \"3000000000\": the user ID is above 2147483647");
    }

    #[test]
    fn the_files_are_read_beneath_the_root() {
        let dir = tempfile::tempdir().unwrap();
        let root = File::open(dir.path()).unwrap();
        assert!(lookup(&root, "app").is_err());

        fs::create_dir_all(dir.path().join("usr/etc")).unwrap();
        fs::write(dir.path().join("usr/etc/passwd"), "app:x:9:9::/:\n").unwrap();
        symlink("/usr/etc", dir.path().join("etc")).unwrap();
        assert_eq!(lookup(&root, "app").unwrap().uid, 9);

        // Out of the root by name: inside it there is no such file, so nobody is found.
        fs::remove_file(dir.path().join("usr/etc/passwd")).unwrap();
        symlink("../../../../../../etc/passwd", dir.path().join("usr/etc/passwd")).unwrap();
        assert!(lookup(&root, "root").is_err());
    }

    #[test]
    fn only_a_regular_file_of_a_sane_size_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let root = File::open(dir.path()).unwrap();
        fs::create_dir(dir.path().join("etc")).unwrap();
        let passwd = dir.path().join("etc/passwd");

        mkfifo(&passwd, Mode::S_IRWXU).unwrap();
        let err = lookup(&root, "app").unwrap_err();
        assert_eq!(crate::error::line(&err), "/etc/passwd: not a regular file");
        fs::remove_file(&passwd).unwrap();

        symlink("/proc/self/fd/0", &passwd).unwrap();
        assert!(lookup(&root, "app").is_err());
        fs::remove_file(&passwd).unwrap();

        File::create(&passwd).unwrap().set_len(1 << 40).unwrap();
        let err = lookup(&root, "app").unwrap_err();
        assert_eq!(crate::error::line(&err), "/etc/passwd: larger than 1048576 bytes");
    }

    proptest! {
        #[test]
        fn nobody_becomes_root_unasked(text in "[0-9a-z:+. -]{0,12}|\\PC{0,8}", file in "[0-9a-z:\\n-]{0,80}") {
            let found = find(&text, file.as_bytes(), file.as_bytes());
            if let Ok(User { uid: 0, .. }) = found {
                let name = text.split(':').next().unwrap_or_default();
                let zero = name.bytes().all(|c| c == b'0'); // the empty one, too
                // Or passwd itself calls somebody so who is 0.
                let line = |line: &str| line.starts_with(&format!("{name}:")) && {
                    let uid = line.split(':').nth(2).unwrap_or_default();
                    !uid.is_empty() && uid.bytes().all(|c| c == b'0')
                };
                prop_assert!(zero || file.lines().map(str::trim).any(line), "{:?}", text);
            }
        }
    }
}
