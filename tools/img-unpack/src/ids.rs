//! Whose the files will be on this host.

use anyhow::Result;
use common::error::{Hint, Usage, find, line};
use common::layer::Owners;
use common::userns::{self, Mapping, Range, Refused};
use nix::unistd::{Gid, Uid};

/// How the owners that an image says become owners on this host.
pub struct Ids {
    /// What the runtime is to make of the ids, if not the same.
    pub mapping: Option<Mapping>,
    /// What the layers may set.
    pub owners: Owners,
    /// What is to be done to the owners when all layers are there.
    pub shift: Option<Mapping>,
    /// Whether it is an ordinary user who will run the bundle.
    pub unprivileged: bool,
}

impl Ids {
    /// Decides, and makes an ordinary user root of a user namespace.
    pub fn take(uids: Vec<Range>, gids: Vec<Range>, warn: &dyn Fn(&str)) -> Result<Ids> {
        let explicit = !uids.is_empty() || !gids.is_empty();
        let mut mapping = Mapping::of_user()?;
        if !uids.is_empty() {
            mapping.uids = uids;
        }
        if !gids.is_empty() {
            mapping.gids = gids;
        }
        mapping.check()?;

        let (uid, gid) = (Uid::effective(), Gid::effective());
        if uid.is_root() {
            let owners = owners(&Mapping::current()?);
            let unprivileged = owners == Owners::Record;
            let mapping = explicit.then_some(mapping);
            return Ok(Ids { shift: mapping.clone(), mapping, owners, unprivileged });
        }
        if !mapping.uids.iter().any(|range| range.has_host(uid.as_raw()))
            || !mapping.gids.iter().any(|range| range.has_host(gid.as_raw()))
        {
            let usage = Usage(format!("the user who unpacks, {uid}:{gid}, is not in the mapping"));
            return Err(usage).hint(|| format!("--uid-map 0:{uid} --gid-map 0:{gid}"));
        }
        match userns::enter(&mapping) {
            Ok(()) => {}
            Err(err) if !explicit && find::<Refused>(&err).is_some() => {
                warn(&format!("{}; owners go to user.rootlesscontainers", line(&err)));
                mapping = Mapping::single(uid, gid);
            }
            Err(err) => return Err(err),
        }
        let owners = owners(&mapping);
        Ok(Ids { mapping: Some(mapping), owners, shift: None, unprivileged: true })
    }
}

/// Returns what can be set in a namespace with this mapping: where there is one id, only itself.
fn owners(mapping: &Mapping) -> Owners {
    if mapping.is_single() { Owners::Record } else { Owners::Set }
}
