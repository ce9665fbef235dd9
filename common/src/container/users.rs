//! The containers that use images and unpacked layers.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use super::{Status, is_alive};
use crate::layout::{Image, Layout};

/// How long a container may be in the making that does not say yet what it is made of.
const NEW: Duration = Duration::from_secs(1);

/// What containers use, those that run and those that are kept.
#[derive(Default)]
pub struct Users {
    images: HashMap<String, Use>,
    /// The names of the unpacked layers that they are mounted of.
    pub layers: HashSet<String>,
}

/// How an image is used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Use {
    /// The first digits of a container's id.
    pub container: String,
    /// Whether it runs.
    pub runs: bool,
}

impl Users {
    /// Reads the directory `containers`.
    pub fn read(containers: &Path) -> Users {
        let mut users = Users::default();
        let entries = fs::read_dir(containers).into_iter().flatten().flatten();
        for id in entries.filter_map(|entry| entry.file_name().into_string().ok()) {
            if id.starts_with('.') {
                continue;
            }
            // What is left of one that is to be removed uses nothing.
            if let Some((status, runs)) = look(containers, &id)
                && (runs || !status.rm)
            {
                users.add(status, &id, runs);
            }
        }
        users
    }

    fn add(&mut self, status: Status, id: &str, runs: bool) {
        self.layers.extend(status.layers);
        let Some(image) = status.image_id else { return };
        // One that runs has more to say.
        if runs || !self.images.contains_key(&image) {
            self.images.insert(image, Use { container: id.chars().take(12).collect(), runs });
        }
    }

    /// Returns who uses an image, or a member of it if it is an index.
    pub fn find(&self, layout: &Layout, image: &Image) -> Option<&Use> {
        if self.images.is_empty() {
            return None;
        }
        self.images.get(image.digest()).or_else(|| {
            let reach = layout.reach(image).unwrap_or_default();
            reach.iter().find_map(|digest| self.images.get(&digest.to_string()))
        })
    }
}

/// Returns what is known of a container, and whether it runs; nothing if it is none.
fn look(containers: &Path, id: &str) -> Option<(Status, bool)> {
    let start = Instant::now();
    loop {
        let runs = is_alive(containers, id)?;
        let bytes = fs::read(containers.join(id).join("status.json")).ok();
        match bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok()) {
            Some(status) => return Some((status, runs)),
            // It has been started, and what it is made of is written next: run::start of ctr-spawn.
            None if runs && start.elapsed() < NEW => std::thread::sleep(Duration::from_millis(2)),
            None => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Container;
    use super::*;

    #[test]
    fn a_container_uses_its_image_until_it_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let make = |rm, image: &str| {
            let mut container = Container::create(dir.path(), None, rm).unwrap();
            container.status.image_id = Some(image.into());
            container.status.layers = vec![format!("layer of {image}")];
            container.save().unwrap();
            container
        };
        let (running, kept, dead) =
            (make(true, "running"), make(false, "kept"), make(true, "dead"));
        let id = kept.id()[..12].to_owned();
        kept.keep().unwrap();
        drop(dead); // its supervisor was killed
        fs::create_dir(dir.path().join("odd")).unwrap();
        let users = Users::read(dir.path());
        assert_eq!(users.images.len(), 2);
        assert_eq!(users.images["kept"], Use { container: id, runs: false });
        assert!(users.images["running"].runs);
        assert_eq!(users.layers.len(), 2);
        running.remove().unwrap();
        assert_eq!(Users::read(dir.path()).images.len(), 1);

        // One that is being made is waited for.
        let mut new = Container::create(dir.path(), None, true).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(Duration::from_millis(100));
                new.status.image_id = Some("new".into());
                new.save().unwrap();
            });
            assert!(Users::read(dir.path()).images["new"].runs);
        });
        assert_eq!(Users::read(&dir.path().join("none")).images.len(), 0);
    }
}
