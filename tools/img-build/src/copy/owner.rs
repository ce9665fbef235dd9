//! Whose files are: names of users and groups, as the image that is copied to knows them.

use anyhow::{Context, Result};
use common::error::{At, Hint};
use common::files::Files;
use common::passwd::{self, User};

use super::place::{Image, There};
use crate::error::Error;

/// Looks a user up in the image's /etc/passwd and /etc/group.
///
/// # Errors
/// [`common::files::Unkept`], among others, if they are in a layer that must be unpacked for that.
pub(super) fn lookup(base: &Files, text: &str) -> Result<User> {
    let image: Image<()> = Image::new(Some(base));
    let read = |path: &str| -> Result<Vec<u8>> {
        let path = image.resolve(path.as_bytes())?;
        match image.look(&path)? {
            There::Nothing => Ok(Vec::new()),
            _ => base.read(&path, passwd::LIMIT),
        }
    };
    let passwd = read("etc/passwd").at("/etc/passwd")?;
    let group = read("etc/group").at("/etc/group")?;
    passwd::find(text, &passwd, &group)
}

/// Returns whose files are: `user[:group]`, names or numbers.
pub(super) fn owner(text: &str, base: Option<&Files>) -> Result<(u32, u32)> {
    let (user, group) = match text.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (text, None),
    };
    let named = |name: &str, asked: String| {
        let Some(base) = base else {
            let err = Error::new(format!(
                "--chown={text}: {name} is a name, and there is no image to look it up in"
            ));
            return Err(anyhow::Error::new(err.hint("--chown=1000:1000")));
        };
        lookup(base, &asked).context(format!("--chown={text}")).hint(|| "--chown=1000:1000".into())
    };
    let (uid, gid) = match id(user) {
        Some(id) => (id, id),
        None => {
            let user = named(user, user.to_owned())?;
            (user.uid, user.gid)
        }
    };
    Ok(match group {
        None => (uid, gid),
        Some(group) => match id(group) {
            Some(id) => (uid, id),
            None => (uid, named(group, format!("0:{group}"))?.gid),
        },
    })
}

/// Returns the number that is an owner; root is known everywhere.
fn id(text: &str) -> Option<u32> {
    match text {
        "root" => Some(0),
        _ if text.bytes().all(|c| c.is_ascii_digit()) => {
            text.parse().ok().filter(|id| *id <= i32::MAX as u32)
        }
        _ => None,
    }
}
