//! What goes when an image is removed: as `docker rmi` has it.

use std::collections::{BTreeSet, HashSet};
use std::time::Duration;

use anyhow::{Error, Result, anyhow};
use common::cli::{self, Entry, Operand};
use common::container::Users;
use common::digest::Digest;
use common::error::Hint;
use common::facts::Facts;
use common::layout::{Image, Index, Layout, Removing, Unneeded};

/// How long those are waited for who are adding images: img-tag, say, and not a pull.
const PATIENCE: Duration = Duration::from_millis(100);

/// The removal of images from one layout.
pub struct Removal<'a> {
    pub layout: &'a Layout,
    /// What is known of its images, if it is a store's.
    pub facts: Option<Facts>,
    pub users: Users,
    pub force: bool,
}

impl Removal<'_> {
    /// Removes images, and says of each what became of it.
    pub fn remove(&mut self, operands: &[(String, Operand)]) -> Result<Vec<Result<()>>> {
        let removing = self.layout.removing(PATIENCE)?;
        let (outcomes, unneeded) = removing.update(|index| {
            let mut removed = Vec::new();
            let mut one = |operand: &Operand| -> Result<()> {
                removed.extend(self.forget(index, operand)?);
                Ok(())
            };
            let outcomes: Vec<_> = operands.iter().map(|(_, operand)| one(operand)).collect();
            let changed = outcomes.iter().any(Result::is_ok);
            Ok(((outcomes, self.unneeded(index, &removing, &removed)), changed))
        })?;
        // The images are gone already; their blobs can be removed another time.
        if let Err(err) = unneeded.and_then(|unneeded| removing.remove(unneeded)) {
            let text = common::error::line(&err);
            cli::warn(format!("blobs that may not be needed any more stay: {text}"));
        }
        Ok(outcomes)
    }

    /// Takes what an operand means out of the index; returns the entries that went.
    fn forget(&self, index: &mut Index, operand: &Operand) -> Result<Vec<Image>> {
        match operand.entry(index)? {
            Entry::Name(name) => self.forget_name(index, operand, &name),
            Entry::Image(digest) => self.forget_image(index, operand, &digest),
        }
    }

    fn forget_name(&self, index: &mut Index, operand: &Operand, name: &str) -> Result<Vec<Image>> {
        let Some(image) = index.images().iter().find(|image| image.name() == Some(name)) else {
            return Err(anyhow!("{operand}: no such image"));
        };
        let digest = image.digest().to_owned();
        let mut entries = index.images().iter().filter(|other| other.digest() == digest);
        let last = entries.all(|other| other.name() == Some(name));
        if last && let Some(user) = self.users.find(self.layout, image) {
            if !self.force {
                return Err(in_use(operand, &user.container)).hint(|| force(user.runs));
            }
            if user.runs {
                // The name goes; the image stays for the container, and for img-prune.
                index.unname(name)?;
                return Ok(Vec::new());
            }
        }
        Ok(index.remove(name)?.into_iter().collect())
    }

    fn forget_image(
        &self,
        index: &mut Index,
        operand: &Operand,
        digest: &str,
    ) -> Result<Vec<Image>> {
        let images: Vec<&Image> =
            index.images().iter().filter(|image| image.digest() == digest).collect();
        let names: Vec<&str> = images.iter().filter_map(|image| image.name()).collect();
        if names.len() > 1 && !self.force {
            let error = anyhow!("{operand}: has {} names", names.len());
            let shown = names[..names.len().min(5)].join(", ");
            return Err(error).hint(|| format!("-f removes all of them: {shown}"));
        }
        let user = images.iter().find_map(|image| self.users.find(self.layout, image));
        if let Some(user) = user.filter(|user| user.runs || !self.force) {
            return Err(in_use(operand, &user.container)).hint(|| match user.runs {
                true => "it runs, and must end first".into(),
                false => force(false),
            });
        }
        Ok(index.retain(|image| image.digest() != digest))
    }

    /// Returns the blobs of entries that went which nothing in `index` needs any more.
    fn unneeded(
        &mut self,
        index: &Index,
        removing: &Removing,
        removed: &[Image],
    ) -> Result<Vec<Unneeded>> {
        if removed.is_empty() || !removing.is_alone() {
            return Ok(Vec::new());
        }
        let kept: HashSet<&str> = index.images().iter().map(Image::digest).collect();
        let mut candidates: BTreeSet<Digest> = BTreeSet::new();
        for image in removed {
            // The index that it was chosen from may go, even if it has another name.
            if kept.contains(image.digest()) && image.chosen_from().is_none() {
                continue;
            }
            match self.layout.reach(image) {
                Ok(reach) => candidates.extend(reach),
                // It is damaged, and may be what was in the way of removing anything.
                Err(_) => return removing.unneeded(index),
            }
        }
        let Some(facts) = &mut self.facts else {
            return removing.unneeded_of(index, candidates, |_, _| None);
        };
        if !candidates.is_empty() {
            for image in index.images() {
                let _ = facts.learn(self.layout, image); // or it is read below
            }
            facts.save(index.images());
        }
        removing.unneeded_of(index, candidates, |image, blobs| {
            let fact = facts.get(image)?;
            Some(blobs.keys().filter(|blob| fact.may_need(blob)).copied().collect())
        })
    }
}

fn in_use(operand: &Operand, container: &str) -> Error {
    anyhow!("{operand}: the container {container} uses it")
}

fn force(runs: bool) -> String {
    match runs {
        true => "-f removes the name, and leaves the image to the container".into(),
        false => "-f removes it all the same".into(),
    }
}
