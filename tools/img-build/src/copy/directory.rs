//! WORKDIR: a directory, and those that it is in, where they are not there.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use common::files::Files;
use common::layer::pack::{Entry, Kind, Packed, Packer};

use super::owner::owner;
use super::place::{Image, Looks};

/// Packs the directories that `dir`, an absolute path, lacks in the image whose files are `base`; they are `user`'s.
pub fn make_directory(
    base: &Files,
    dir: &str,
    user: &str,
    epoch: i64,
    mut packer: Packer,
) -> Result<Packed> {
    // Of a user who is not there it is the next RUN that fails, as in BuildKit.
    let (uid, gid) = owner(user, Some(base), &|_| {}).with_context(|| format!("user {user}"))?;
    let mut image: Image<()> = Image::new(Some(base));
    let path = image.resolve(dir.as_bytes())?;
    image.make_dirs(&path, Looks { mode: 0o755, uid, gid, mtime: epoch })?;
    for (path, made) in image.into_made() {
        packer.add(&Entry {
            path,
            kind: Kind::Directory,
            mode: made.mode,
            uid: made.uid,
            gid: made.gid,
            mtime: made.mtime,
            xattrs: BTreeMap::new(),
        })?;
    }
    packer.finish()
}
