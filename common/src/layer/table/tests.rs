//! Tables are read back, and nothing else is.

use oci_spec::image::{Descriptor, MediaType};
use proptest::prelude::*;

use super::*;
use crate::layer::tabulate;
use crate::layer::tests::Tar;

pub(crate) fn descriptor(blob: &[u8]) -> Descriptor {
    let digest = oci_spec::image::Digest::from(&Digest::of(blob));
    Descriptor::new(MediaType::ImageLayer, blob.len() as u64, digest)
}

pub(crate) fn table(blob: &[u8]) -> Result<Table> {
    let table = tabulate(blob, &descriptor(blob), &Digest::of(blob))?;
    // As the next one has it.
    Table::parse(table.bytes().into(), &Digest::of(blob))
}

proptest! {
    #[test]
    fn no_bytes_make_a_table_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400), at in 0usize..200) {
        let id = Digest::of(b"");
        let mut good = table(&Tar::default().file("etc/passwd", "root").symlink("l", "x").end()).unwrap().bytes;
        let _ = Table::parse(bytes.clone(), &id);
        // Somebody else can make the sum right.
        let end = good.len() - 32;
        for (n, byte) in bytes.iter().enumerate() {
            if 48 + at + n < end {
                good[48 + at + n] = *byte;
            }
        }
        let sum = sha256(&good[..end]);
        good[end..].copy_from_slice(&sum);
        let id = Digest::of(&Tar::default().file("etc/passwd", "root").symlink("l", "x").end());
        if let Ok(table) = Table::parse(good, &id) {
            table.records().for_each(drop);
            table.get(b"etc/passwd");
        }
    }
}

#[test]
fn a_damaged_table_is_none() {
    let blob = Tar::default().file("f", "x").end();
    let good = table(&blob).unwrap();
    assert_eq!(good.get(b"f").unwrap().size, 1);
    for at in 0..good.bytes.len() {
        let mut bad = good.bytes.clone();
        bad[at] ^= 1;
        assert!(Table::parse(bad, &Digest::of(&blob)).is_err(), "{at}");
        assert!(Table::parse(good.bytes[..at].into(), &Digest::of(&blob)).is_err(), "{at}");
    }
    assert!(Table::parse(good.bytes, &Digest::of(b"another")).is_err());
}

#[test]
fn a_layer_that_is_not_what_it_should_be_has_no_table() {
    let blob = Tar::default().file("f", "x").end();
    let err = tabulate(&blob[..], &descriptor(&blob), &Digest::of(b"")).unwrap_err();
    assert!(format!("{err:#}").contains("corrupt: its diff ID is"), "{err:#}");
    let mut bad = blob.clone();
    bad[600] ^= 1;
    let err = tabulate(&bad[..], &descriptor(&blob), &Digest::of(&bad)).unwrap_err();
    assert!(format!("{err:#}").contains("corrupt"), "{err:#}");
    assert!(table(&Tar::default().file("../f", "x").end()).is_err());
}

#[test]
fn a_hostile_layer_takes_no_time_and_no_memory() {
    let begin = std::time::Instant::now();
    // Long paths, each deeper than the last; whiteouts of all of them.
    let deep: Vec<String> = (1..400).map(|n| vec!["d"; n].join("/")).collect();
    let mut tar = Tar::default();
    for path in &deep {
        tar = tar.pax(&[("path", &format!("{path}/f"))]).file("x", "");
    }
    for path in deep.iter().rev() {
        tar = tar.pax(&[("path", &format!("{path}/.wh..wh..opq"))]).file("x", "");
    }
    assert!(table(&tar.end()).unwrap().is_tangled());
    let mut many = Tar::default();
    let long = "n".repeat(250);
    for n in 0..40_000 {
        many = many.pax(&[("path", &format!("{long}/{long}/{long}/{long}/{n}"))]).file("x", "");
    }
    // A table has a limit, and so has what it is made in.
    assert!(table(&many.end()).unwrap().is_tangled());
    assert!(begin.elapsed().as_secs() < 20, "{:?}", begin.elapsed());
    let name = "n".repeat(256);
    assert!(
        table(&Tar::default().pax(&[("path", &name)]).file("x", "").end()).unwrap().is_tangled()
    );
}
