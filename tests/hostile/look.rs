//! A tree, as lines that can be compared.
//!
//! ```text
//! d/  f=content  f=[1000 bytes]  l>target  p|  n:c1,3  s!      a directory, files, a link, a FIFO, a device, a socket
//! b==a                                      another name of a file
//! f=x(4755 5:6 @7 user.a=b)                 what is not as it mostly is: mode, owner, time, attributes
//! ./(711)                                   the root, if it is odd, but never its time
//! ```

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::{self, File, Metadata};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use sandbox::corpus::tar::TIME;

/// The most bytes of a file that are shown.
const SHOWN: u64 = 40;

/// How long a path gets before it is begun anew from an open directory.
const LONG: usize = 200;

/// How owners on the host are owners in the tree.
#[derive(Clone, Copy)]
pub enum Owners {
    /// As they are.
    Same,
    /// The first is 0, and the subordinate ids are from 1 on.
    Of { uid: u32, gid: u32, first: u32 },
}

impl Owners {
    fn inside(self, uid: u32, gid: u32) -> (i64, i64) {
        match self {
            Owners::Same => (uid.into(), gid.into()),
            Owners::Of { uid: user, gid: group, first } => {
                let id = |id: u32, own: u32| match id {
                    _ if id == own => 0,
                    _ => i64::from(id) - i64::from(first) + 1,
                };
                (id(uid, user), id(gid, group))
            }
        }
    }
}

/// Returns the lines of the tree at `root`, sorted. What is mounted in it is left out.
pub fn list(root: &Path, owners: Owners) -> Vec<String> {
    let mut look = Look { owners, names: HashMap::new(), lines: Vec::new(), device: 0 };
    let dir = File::open(root).unwrap_or_else(|err| panic!("{}: {err}", root.display()));
    let meta = dir.metadata().unwrap();
    look.device = meta.dev();
    let at = PathBuf::from(format!("/proc/self/fd/{}/.", dir.as_raw_fd()));
    let odd = look.odd(&at, &meta, 0o755, false);
    if !odd.is_empty() {
        look.lines.push(format!("./{odd}"));
    }
    look.directory(&dir, "", "");
    look.lines.sort();
    look.lines
}

struct Look {
    owners: Owners,
    /// The first name of a file that has several.
    names: HashMap<u64, String>,
    lines: Vec<String>,
    device: u64,
}

impl Look {
    /// Lists the directory that is `below` the open one `base`, and `shown` as that.
    fn directory(&mut self, base: &File, below: &str, shown: &str) {
        let at = |name: &OsStr| {
            let mut path = PathBuf::from(format!("/proc/self/fd/{}", base.as_raw_fd()));
            path.push(OsStr::from_bytes(&unescaped(below)));
            path.push(name);
            path
        };
        let mut names: Vec<_> = fs::read_dir(at(OsStr::new(".")))
            .unwrap_or_else(|err| panic!("{shown}: {err}"))
            .map(|entry| entry.unwrap().file_name())
            .collect();
        names.sort();
        for name in names {
            let path = at(&name);
            let meta = fs::symlink_metadata(&path).unwrap();
            if meta.dev() != self.device {
                continue;
            }
            let escaped = name.as_bytes().escape_ascii().to_string();
            let shown =
                if shown.is_empty() { escaped.clone() } else { format!("{shown}/{escaped}") };
            self.entry(&path, &shown, &meta);
            if meta.is_dir() {
                let below = if below.is_empty() { escaped } else { format!("{below}/{escaped}") };
                match below.len() > LONG {
                    true => self.directory(&File::open(&path).unwrap(), "", &shown),
                    false => self.directory(base, &below, &shown),
                }
            }
        }
    }

    fn entry(&mut self, path: &Path, shown: &str, meta: &Metadata) {
        let kind = meta.file_type();
        if !kind.is_dir() && meta.nlink() > 1 {
            if let Some(first) = self.names.get(&meta.ino()) {
                self.lines.push(format!("{shown}=={first}"));
                return;
            }
            self.names.insert(meta.ino(), shown.into());
        }
        let device = || {
            let number = meta.rdev();
            format!("{},{}", rustix::fs::major(number), rustix::fs::minor(number))
        };
        let what = if kind.is_dir() {
            "/".into()
        } else if kind.is_symlink() {
            let target = fs::read_link(path).unwrap();
            format!(">{}", target.as_os_str().as_bytes().escape_ascii())
        } else if kind.is_fifo() {
            "|".into()
        } else if kind.is_char_device() {
            format!(":c{}", device())
        } else if kind.is_block_device() {
            format!(":b{}", device())
        } else if kind.is_socket() {
            "!".into()
        } else if meta.len() > SHOWN {
            format!("=[{} bytes]", meta.len())
        } else {
            format!("={}", fs::read(path).unwrap().escape_ascii())
        };
        let mode = match () {
            () if kind.is_symlink() => 0o777,
            () if kind.is_dir() => 0o755,
            () => 0o644,
        };
        let odd = self.odd(path, meta, mode, true);
        self.lines.push(format!("{shown}{what}{odd}"));
    }

    /// Returns what is not as it mostly is.
    fn odd(&self, path: &Path, meta: &Metadata, mode: u32, timed: bool) -> String {
        let mut odd = Vec::new();
        if meta.mode() & 0o7777 != mode {
            odd.push(format!("{:o}", meta.mode() & 0o7777));
        }
        let (uid, gid) = self.owners.inside(meta.uid(), meta.gid());
        if (uid, gid) != (0, 0) {
            odd.push(format!("{uid}:{gid}"));
        }
        if timed && (meta.mtime(), meta.mtime_nsec()) != (TIME, 0) {
            let fraction = match meta.mtime_nsec() {
                0 => String::new(),
                nanoseconds => format!(".{nanoseconds:09}"),
            };
            odd.push(format!("@{}{fraction}", meta.mtime()));
        }
        odd.extend(attributes(path).into_iter().map(
            |(name, value)| match name.starts_with("user.") {
                true => format!("{name}={value}"),
                false => name, // what it says depends on who wrote it
            },
        ));
        if odd.is_empty() { String::new() } else { format!("({})", odd.join(" ")) }
    }
}

/// Returns the extended attributes of a file, and no link's target's. Those of the host are left out.
pub fn attributes(path: &Path) -> Vec<(String, String)> {
    let mut names = vec![0; 64 << 10];
    let Ok(len) = rustix::fs::llistxattr(path, &mut names) else { return Vec::new() };
    let names = names[..len].split(|byte| *byte == 0).filter(|name| !name.is_empty());
    let mut found: Vec<(String, String)> = names
        .filter(|name| *name != b"security.selinux")
        .map(|name| {
            let mut value = vec![0; 64 << 10];
            let len = rustix::fs::lgetxattr(path, OsStr::from_bytes(name), &mut value).unwrap_or(0);
            (name.escape_ascii().to_string(), value[..len].escape_ascii().to_string())
        })
        .collect();
    found.sort();
    found
}

/// Undoes `escape_ascii`.
fn unescaped(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        (bytes, rest) = match (first, after) {
            (b'\\', [b'x', high, low, after @ ..]) => {
                let digit = |c: &u8| (*c as char).to_digit(16).unwrap() as u8;
                ([&bytes[..], &[digit(high) << 4 | digit(low)]].concat(), after)
            }
            (b'\\', [b'n', after @ ..]) => ([&bytes[..], b"\n"].concat(), after),
            (b'\\', [b't', after @ ..]) => ([&bytes[..], b"\t"].concat(), after),
            (b'\\', [b'r', after @ ..]) => ([&bytes[..], b"\r"].concat(), after),
            (b'\\', [same, after @ ..]) => ([&bytes[..], &[*same]].concat(), after),
            (same, after) => ([&bytes[..], &[*same]].concat(), after),
        };
    }
    bytes
}
