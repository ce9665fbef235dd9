//! Layers that the input makes up, applied to a directory beside a canary, and to a model.
//!
//! ```text
//! input --> entries --tar--> layer::Tree::apply --> a directory
//!              |                                        | must be equal
//!              +----------> Model::apply --------> a table
//! ```
//!
//! Both must refuse the same layers. What the directory is in is looked at
//! after each: nothing of it may have changed, not even a time of it.

mod model;
pub mod scratch;
pub mod tar;

use common::digest::Digest;
use common::image;
use common::layer::{Limits, Options, Owners, Tree, scan};
use oci_spec::image::{Descriptor, MediaType};

use crate::input::Input;
use model::Model;
use scratch::Scratch;
use tar::Entry;

/// The most entries of a layer, and the most layers.
const ENTRIES: usize = 24;
const LAYERS: usize = 3;

pub fn layer(data: &[u8]) {
    Scratch::with(|scratch| run(data, scratch));
}

fn run(data: &[u8], scratch: &Scratch) {
    let mut input = Input::new(data);
    let shape = input.byte();
    let root = rustix::process::geteuid().is_root();
    let owners = if root && shape & 0x40 == 0 { Owners::Set } else { Owners::Record };
    let limits = if shape & 0x20 == 0 { Limits::default() } else { small() };
    let mut model = (owners == Owners::Set && shape & 0x20 == 0).then(Model::default);

    scratch.renew();
    let mut tree = Tree::open(scratch.root(), Options { owners, limits }).unwrap();
    for _ in 0..LAYERS {
        if input.is_empty() {
            break;
        }
        let entries = entries(&mut input, scratch);
        let mut tar = tar::encode(&entries, &mut input);
        let exact = !corrupt(&mut tar, &mut input);
        let blob = pack(tar.clone(), shape);
        let desc = descriptor(&blob);
        let scanned = scan(&blob[..], &desc);
        let applied = tree.apply(&blob[..], &desc, Some(&Digest::of(&tar)));
        scratch.check();
        match (&scanned, &applied) {
            (Ok(scanned), Ok(applied)) => {
                assert_eq!(scanned.diff_id, applied.diff_id);
                assert_eq!(scanned.size, applied.size);
                assert!(scanned.entries <= applied.entries);
            }
            // What cannot even be read through is not applied.
            (Err(err), Ok(_)) if shape & 0x20 == 0 => panic!("applied, but not read: {err:#}"),
            _ => {}
        }
        if !exact {
            model = None;
        }
        if let Some(model) = &mut model {
            let modelled = model.apply(&entries);
            match (&modelled, &applied) {
                (Ok(()), Ok(_)) => {
                    assert_eq!(model.table(scratch.xattrs), scratch.table(), "{entries:#?}");
                }
                (Err(_), Err(_)) => {}
                (Ok(()), Err(err)) => panic!("refused: {err:#}: {entries:#?}"),
                (Err(why), Ok(_)) => panic!("taken, in spite of {why}: {entries:#?}"),
            }
        }
        if applied.is_err() {
            break; // the tree is to be thrown away
        }
    }
}

fn small() -> Limits {
    Limits { size: 8 << 10, entries: 5 }
}

fn entries(input: &mut Input, scratch: &Scratch) -> Vec<Entry> {
    let mut entries = Vec::new();
    while entries.len() < ENTRIES && !input.is_empty() {
        // A zero ends the layer, unless it is its first byte.
        if input.byte() == 0 && !entries.is_empty() {
            break;
        }
        entries.push(Entry::choose(input, scratch.outside()));
    }
    entries
}

/// Changes some bytes, if the input says so.
fn corrupt(tar: &mut [u8], input: &mut Input) -> bool {
    let times = input.byte();
    if times < 0xe0 || tar.is_empty() {
        return false;
    }
    for _ in 0..times % 8 {
        let at = (usize::from(input.byte()) << 8 | usize::from(input.byte())) % tar.len();
        tar[at] = input.byte();
    }
    true
}

fn pack(tar: Vec<u8>, shape: u8) -> Vec<u8> {
    // Of bytes in memory nothing fails.
    match shape % 4 {
        0 | 1 => tar,
        2 => {
            let mut encoder =
                flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            std::io::Write::write_all(&mut encoder, &tar).unwrap();
            encoder.finish().unwrap()
        }
        _ => zstd::encode_all(&tar[..], 1).unwrap(),
    }
}

fn descriptor(blob: &[u8]) -> Descriptor {
    image::descriptor(MediaType::ImageLayer, &Digest::of(blob), blob.len() as u64)
}
