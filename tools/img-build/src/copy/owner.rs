//! Whose files are: names of users and groups, as the image that is copied to knows them.
//!
//! ```text
//! 1234       1234:1234    whatever the image says of it
//! app        its user and its group in the image's passwd
//! app:staff  each half on its own; :staff is root's
//! ```
//!
//! As in BuildKit a user whom the image does not know is 0, and a group that it does
//! not know is the user's own.

use anyhow::{Result, bail};
use common::error::At;
use common::files::Files;
use common::passwd::{self, User};

use super::place::{Image, There};
use crate::error::Error;

/// Returns whose files are: `user[:group]`, names or numbers; `warn` is told of what the image does not know.
///
/// # Errors
/// [`common::files::Unkept`], among others, if names are in a layer that must be unpacked for that.
pub(super) fn owner(text: &str, base: Option<&Files>, warn: &dyn Fn(&str)) -> Result<(u32, u32)> {
    let (user, group) = match text.split_once(':') {
        Some((user, group)) => (user, Some(group).filter(|group| !group.is_empty())),
        None => (text, None),
    };
    // Returns nothing of who is not there, and says what they are instead.
    let find = |name: &str, asked: &str, instead: &str| -> Result<Option<User>> {
        let Some(base) = base else {
            let err =
                Error::new(format!("{name} is a name, and there is no image to look it up in"));
            return Err(err.hint("1000:1000").into());
        };
        let (passwd, group) = accounts(base)?;
        let found = passwd::find(asked, &passwd, &group).ok();
        if found.is_none() {
            warn(&format!("the image has no {name}: {instead} instead"));
        }
        Ok(found)
    };
    let (uid, gid) = match id(user)? {
        Some(id) => (id, id),
        None => find(user, user, "0")?.map_or((0, 0), |user| (user.uid, user.gid)),
    };
    let Some(group) = group else { return Ok((uid, gid)) };
    Ok(match id(group)? {
        Some(id) => (uid, id),
        None => {
            let found = find(group, &format!("0:{group}"), &gid.to_string())?;
            (uid, found.map_or(gid, |user| user.gid))
        }
    })
}

/// Returns the image's /etc/passwd and /etc/group; what is not there is empty.
fn accounts(base: &Files) -> Result<(Vec<u8>, Vec<u8>)> {
    let image: Image<()> = Image::new(Some(base));
    let read = |path: &str| -> Result<Vec<u8>> {
        let path = image.resolve(path.as_bytes())?;
        match image.look(&path)? {
            There::Nothing => Ok(Vec::new()),
            _ => base.read(&path, passwd::LIMIT),
        }
    };
    Ok((read("etc/passwd").at("/etc/passwd")?, read("etc/group").at("/etc/group")?))
}

/// Returns the number that an owner is; root is known everywhere, and nobody is root.
fn id(text: &str) -> Result<Option<u32>> {
    if matches!(text, "" | "root") {
        return Ok(Some(0));
    }
    if !text.bytes().all(|c| c.is_ascii_digit()) {
        return Ok(None);
    }
    match text.parse::<u32>() {
        Ok(id) if id <= i32::MAX as u32 => Ok(Some(id)),
        _ => bail!("{text}: an ID is {} at most", i32::MAX),
    }
}
