//! WORKDIR: a directory, and those that it is in, where they are not there.

use std::collections::BTreeMap;
use std::os::fd::AsFd;

use anyhow::Result;
use common::layer::pack::{Entry, Kind, Packed, Packer};
use common::passwd;

use super::place::{Image, Looks};

/// Packs the directories that `dir`, an absolute path, lacks in the image whose tree `base` is; they are `user`'s.
pub fn make_directory(
    base: impl AsFd,
    dir: &str,
    user: &str,
    epoch: i64,
    mut packer: Packer,
) -> Result<Packed> {
    // As in BuildKit, it is the next RUN that fails of a user who is not there.
    let owner = passwd::lookup(&base, user).map_or((0, 0), |user| (user.uid, user.gid));
    let (uid, gid) = owner;
    let mut image: Image<()> = Image::new(Some(base.as_fd()));
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
