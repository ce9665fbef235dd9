//! Hostile layers, layouts and archives: what they are, and what must become of them.
//!
//! ```text
//! Case      a sentence, what is read, what must come of it
//! Row       the class of attack that it belongs to
//! tar pack  writers that can lie        image  layouts whose documents can
//! ```
//!
//! Nothing here runs anything of ours: `hostile/` runs each case, and the
//! `corpus` example writes them to a directory, where fuzz targets begin.
//! Attacks lead to a bait, a directory that lies beside the target; its path is
//! the only thing in a case that is not always the same.

pub mod archives;
pub mod image;
pub mod layers;
pub mod layouts;
pub mod pack;
pub mod tar;

use image::{Layer, Layout};
use tar::Tar;

/// What a class of attack tries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Row {
    /// A name that leads out: `..`, absolute, in every dialect.
    Names,
    /// The root of the tree as something else than a directory: CVE-2021-29136.
    Root,
    /// A link on the way to what is written: CVE-2025-47290.
    Symlinks,
    /// Mode, owner, times or attributes that go through a link: CVE-2026-33056.
    Metadata,
    /// Hard links to what is outside, and writing through them.
    HardLinks,
    /// Sizes and extensions that readers disagree about: CVE-2025-62518.
    Disagreement,
    /// Whiteouts.
    Whiteouts,
    /// What overlay keeps in attributes, and its whiteouts.
    Overlay,
    /// Devices, set-user-ID, capabilities, attributes.
    Privilege,
    /// Owners and times out of range.
    Ids,
    /// Sparse files: CVE-2025-58183.
    Sparse,
    /// FIFOs and devices where a file is read.
    Fifos,
    /// Reads without a bound.
    Bounds,
    /// A little that becomes a lot.
    Bombs,
    /// Packing that is cut, joined, or followed by something.
    Packing,
    /// One document that is two: CVE-2021-41190.
    Confusion,
    /// What is no digest, where one should be: CVE-2024-3727.
    Digests,
    /// JSON that readers disagree about.
    Json,
    /// Indexes in indexes.
    Nesting,
    /// Bytes that are not what their name says.
    Mismatch,
    /// Layers from elsewhere, and data in the descriptor.
    Foreign,
    /// Links in archives and layouts: CVE-2020-10696.
    ArchiveLinks,
    /// Sequences that drive a terminal.
    Escapes,
}

/// A thing to read, and what must come of it.
pub struct Case {
    pub row: Row,
    /// What it is, as a sentence without its full stop.
    pub name: String,
    pub input: Input,
    /// What must come of it for root.
    pub root: Outcome,
    /// What must come of it for somebody else, if not the same.
    pub user: Option<Outcome>,
    /// Only the tree shows that it is wrong, so that a look at the tar finds nothing.
    pub in_tree: bool,
    /// What is different for img-import, which unpacks what no layer may be packed with.
    pub import: Option<Outcome>,
    /// It can be unpacked, but a container of it ends with an error that holds this.
    pub run: Option<String>,
    /// The most memory that a tool may need for it, in MiB.
    pub memory: u64,
    /// The peers that make something else of it, and why.
    pub differs: Vec<(Peer, &'static str)>,
}

/// What is read.
pub enum Input {
    /// The layers of an image, the lowest first.
    Layers(Vec<Layer>),
    /// A layout, and what follows its name in the operand.
    Layout(Layout, String),
    /// An archive.
    Archive(Vec<u8>),
}

/// Looks for what is wrong with a tree.
pub type Check = dyn Fn(&[String]) -> Result<(), String>;

/// What must come of it.
pub enum Outcome {
    /// An error whose line holds this.
    Refused(String),
    /// This tree, as `look::list` shows it, sorted by path.
    Tree(Vec<String>),
    /// A tree that this finds nothing wrong with.
    Like(Box<Check>),
}

/// Somebody else who unpacks layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    GnuTar,
    Umoci,
}

/// Begins a case.
pub fn case(row: Row, name: impl Into<String>, input: impl Into<Input>) -> Case {
    Case {
        row,
        name: name.into(),
        input: input.into(),
        root: Outcome::Tree(Vec::new()),
        user: None,
        in_tree: false,
        import: None,
        run: None,
        memory: 64,
        differs: Vec::new(),
    }
}

impl Case {
    /// Must be refused, by whoever reads it.
    pub fn refused(mut self, part: impl Into<String>) -> Case {
        self.root = Outcome::Refused(part.into());
        self
    }

    /// Must be refused once it becomes a tree.
    pub fn refused_in_tree(mut self, part: impl Into<String>) -> Case {
        self.in_tree = true;
        self.refused(part)
    }

    /// Must become this tree: words with blanks between them, or lines.
    pub fn accepted(mut self, tree: impl AsRef<str>) -> Case {
        self.root = Outcome::Tree(lines(tree.as_ref()));
        self
    }

    /// Must become a tree that `wrong` finds nothing wrong with.
    pub fn like(mut self, wrong: impl Fn(&[String]) -> Result<(), String> + 'static) -> Case {
        self.root = Outcome::Like(Box::new(wrong));
        self
    }

    /// Becomes another tree for somebody who is not root.
    pub fn user_gets(mut self, tree: impl AsRef<str>) -> Case {
        self.user = Some(Outcome::Tree(lines(tree.as_ref())));
        self
    }

    /// Is refused to somebody who is not root.
    pub fn user_refused(mut self, part: impl Into<String>) -> Case {
        self.user = Some(Outcome::Refused(part.into()));
        self
    }

    /// Becomes this tree when it is imported.
    pub fn imported(mut self, tree: impl AsRef<str>) -> Case {
        self.import = Some(Outcome::Tree(lines(tree.as_ref())));
        self
    }

    /// Is refused with other words when it is imported.
    pub fn import_refused(mut self, part: impl Into<String>) -> Case {
        self.import = Some(Outcome::Refused(part.into()));
        self
    }

    /// Is a tree, but cannot be run.
    pub fn not_run(mut self, part: impl Into<String>) -> Case {
        self.run = Some(part.into());
        self
    }

    /// May take so many MiB of memory.
    pub fn memory(mut self, mebibytes: u64) -> Case {
        self.memory = mebibytes;
        self
    }

    /// A peer makes something else of it.
    pub fn differs(mut self, peer: Peer, why: &'static str) -> Case {
        self.differs.push((peer, why));
        self
    }
}

/// Splits what a tree must hold: at line ends if it has any, else at the blanks between what is in brackets.
fn lines(tree: &str) -> Vec<String> {
    let mut depth = 0;
    let split: Vec<&str> = match tree.contains('\n') {
        true => tree.lines().collect(),
        false => tree
            .split(|c: char| {
                depth += i32::from(matches!(c, '(' | '[')) - i32::from(matches!(c, ')' | ']'));
                c == ' ' && depth == 0
            })
            .collect(),
    };
    split.into_iter().filter(|line| !line.is_empty()).map(str::to_owned).collect()
}

impl From<Tar> for Input {
    fn from(tar: Tar) -> Input {
        Input::Layers(vec![tar.into()])
    }
}

impl From<Layer> for Input {
    fn from(layer: Layer) -> Input {
        Input::Layers(vec![layer])
    }
}

impl<const N: usize> From<[Tar; N]> for Input {
    fn from(tars: [Tar; N]) -> Input {
        Input::Layers(tars.into_iter().map(Layer::from).collect())
    }
}

impl From<Layout> for Input {
    fn from(layout: Layout) -> Input {
        Input::Layout(layout, String::new())
    }
}

/// Returns every case. `bait` is the path of the bait, without a slash at its start.
pub fn all(bait: &str) -> Vec<Case> {
    let mut all = layers::cases(bait);
    all.extend(layouts::cases(bait));
    all.extend(archives::cases(bait));
    all
}
