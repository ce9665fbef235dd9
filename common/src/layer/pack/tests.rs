//! Layers packed, and read back by ourselves and by others.

use std::io::Write;
use std::os::unix::fs::FileExt;
use std::process::{Command, Stdio};

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::layer::entry::{self, Entries};
use crate::layer::inflate::Blob;
use crate::layer::{stream, tabulate};
use crate::layout::Layout;

/// A layout to pack into.
struct Scratch {
    _dir: TempDir,
    layout: Layout,
}

/// A layer in memory.
struct Layer {
    packed: Packed,
    blob: Vec<u8>,
}

fn scratch() -> Scratch {
    let dir = tempfile::tempdir().unwrap();
    let layout = Layout::create(dir.path().join("images")).unwrap();
    Scratch { _dir: dir, layout }
}

impl Scratch {
    /// Packs with so many cores.
    fn pack(
        &self,
        compression: Compression,
        cores: usize,
        add: impl FnOnce(&mut Packer) -> Result<()>,
    ) -> Result<Layer> {
        let writing = self.layout.writing()?;
        let mut packer = Packer::new(&writing, compression)?.tabulate();
        packer.chunks.cores = cores;
        add(&mut packer)?;
        let packed = packer.finish()?;
        let mut blob = Vec::new();
        std::io::Read::read_to_end(&mut self.layout.open_blob(&packed.desc)?, &mut blob)?;
        Ok(Layer { packed, blob })
    }

    fn tar(&self, add: impl FnOnce(&mut Packer) -> Result<()>) -> Result<Vec<u8>> {
        self.pack("none".parse().unwrap(), 1, add).map(|layer| layer.blob)
    }
}

fn entry(path: &[u8], kind: Kind) -> Entry {
    Entry {
        path: path.into(),
        kind,
        mode: 0o644,
        uid: 0,
        gid: 0,
        mtime: 0,
        xattrs: BTreeMap::new(),
    }
}

fn file(path: &[u8], content: &[u8]) -> Entry {
    entry(path, Kind::File { size: content.len() as u64 })
}

/// Runs a program with something on its standard input; returns what it prints.
fn through(program: &str, args: &[&str], input: &[u8]) -> Vec<u8> {
    let mut child = Command::new(program)
        .args(args)
        .env("LC_ALL", "C")
        .env("TZ", "UTC")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(move || stdin.write_all(input));
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{program}");
        output.stdout
    })
}

/// Returns bytes that look random, and are the same each time.
fn noise(len: usize, mut seed: u64) -> Vec<u8> {
    let mut next = || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed as u8
    };
    (0..len).map(|_| next()).collect()
}

/// Returns text that shrinks to some third.
fn prose(len: usize) -> Vec<u8> {
    let words = ["layer ", "chunk ", "blob\n", "of ", "tar ", "the ", "digest ", "root "];
    let choose = |byte: u8| words[usize::from(byte & 7)].as_bytes();
    noise(len, 7).into_iter().flat_map(choose).copied().take(len).collect()
}

/// Reads a layer as one that is unpacked is read; returns its entries and what the files hold.
fn read(layer: &Layer) -> Vec<(Entry, Vec<u8>)> {
    let desc = &layer.packed.desc;
    // Its table is the one that is made of the blob.
    let table = tabulate(&layer.blob[..], desc, &layer.packed.diff_id);
    match (table, layer.packed.table.as_ref().unwrap()) {
        (Ok(table), packed) => assert_eq!(table, *packed),
        (Err(_), packed) => assert!(packed.is_tangled()),
    }
    let blob = Blob::new(&layer.blob[..], image::digest(desc).unwrap(), desc.size());
    let mut found = Vec::new();
    let (diff_id, size) = stream::run(blob, 1 << 40, |stream| {
        let mut entries = Entries::new(stream);
        while let Some(read) = entries.next()? {
            let mut content = Vec::new();
            loop {
                match entries.data()? {
                    [] => break,
                    piece => content.extend_from_slice(piece),
                }
            }
            let (major, minor) = read.device;
            let kind = match read.kind {
                entry::Kind::File => Kind::File { size: read.size },
                entry::Kind::HardLink => Kind::Link(read.link),
                entry::Kind::Symlink => Kind::Symlink(read.link),
                entry::Kind::Directory => Kind::Directory,
                entry::Kind::Character => Kind::Device { block: false, major, minor },
                entry::Kind::Block => Kind::Device { block: true, major, minor },
                entry::Kind::Fifo => Kind::Fifo,
            };
            assert_eq!(read.mtime.tv_nsec, 0);
            let path = match (&kind, &read.name[..]) {
                (Kind::Directory, b"./") => Vec::new(),
                (Kind::Directory, name) => name.strip_suffix(b"/").unwrap().into(),
                (_, name) => name.into(),
            };
            let (mode, uid, gid) = (read.mode, read.uid, read.gid);
            let (mtime, xattrs) = (read.mtime.tv_sec, read.xattrs.into_iter().collect());
            found.push((Entry { path, kind, mode, uid, gid, mtime, xattrs }, content));
        }
        assert!(entries.is_marked());
        entries.into_stream().finish()
    })
    .unwrap();
    assert_eq!((diff_id, size), (layer.packed.diff_id, layer.packed.size));
    found
}

const ALL: [&str; 3] = ["gzip", "zstd", "none"];

#[test]
fn an_empty_layer_is_dockers() {
    for compression in ALL {
        let layer = scratch().pack(compression.parse().unwrap(), 2, |_| Ok(())).unwrap();
        let empty = "sha256:5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef";
        assert_eq!(layer.packed.diff_id.to_string(), empty);
        assert_eq!(layer.packed.size, 1024);
        assert_eq!(layer.packed.desc.digest().to_string() == empty, compression == "none");
        assert!(read(&layer).is_empty());
    }
}

#[test]
fn gnu_tar_reads_what_was_written() {
    let long = [&b"d/"[..], &[b'n'; 120]].concat();
    let deep = [[b'p'; 90], [b'q'; 90]].join(&b'/');
    let tar = scratch().tar(|packer| {
        packer.add(&Entry { mode: 0o1777, ..entry(b"", Kind::Directory) })?;
        packer.add(&Entry {
            uid: 3_000_000,
            gid: 7,
            mtime: 1_700_000_000,
            ..entry(b"d", Kind::Directory)
        })?;
        packer.bytes(&Entry { mode: 0o4755, ..file(&long, b"long") }, b"long")?;
        packer.add(&entry("d/\u{e9}".as_bytes(), Kind::Symlink("\u{fc}ber".into())))?;
        packer.add(&entry(b"dev", Kind::Device { block: true, major: 8, minor: 17 }))?;
        packer.add(&entry(b"fifo", Kind::Fifo))?;
        packer.add(&entry(b"hard", Kind::Link(long.clone())))?;
        packer.bytes(&file(&deep, b"deep"), b"deep")
    });
    let listed = through("tar", &["-tv", "--numeric-owner", "--full-time"], &tar.unwrap());
    let (name, deep) = ("n".repeat(120), format!("{}/{}", "p".repeat(90), "q".repeat(90)));
    let expected = format!(
        "drwxrwxrwt 0/0               0 1970-01-01 00:00:00 ./\n\
         drw-r--r-- 3000000/7         0 2023-11-14 22:13:20 d/\n\
         -rwsr-xr-x 0/0               4 1970-01-01 00:00:00 d/{name}\n\
         lrw-r--r-- 0/0               0 1970-01-01 00:00:00 d/\\303\\251 -> \\303\\274ber\n\
         brw-r--r-- 0/0            8,17 1970-01-01 00:00:00 dev\n\
         prw-r--r-- 0/0               0 1970-01-01 00:00:00 fifo\n\
         hrw-r--r-- 0/0               0 1970-01-01 00:00:00 hard link to d/{name}\n\
         -rw-r--r-- 0/0               4 1970-01-01 00:00:00 {deep}\n"
    );
    // Every line has its own width of the owner's column.
    let squeeze =
        |text: &str| text.split(' ').filter(|w| !w.is_empty()).collect::<Vec<_>>().join(" ");
    assert_eq!(squeeze(&String::from_utf8(listed).unwrap()), squeeze(&expected));
}

#[test]
fn what_fits_in_ustar_has_no_records() {
    let deep = [[b'p'; 100], [b'q'; 100]].join(&b'/');
    let plain = [
        entry(b"d", Kind::Directory),
        Entry { uid: 0o7777777, gid: 0o7777777, mtime: 0o77777777777, ..file(&deep, b"") },
    ];
    let tar = scratch().tar(|packer| plain.iter().try_for_each(|entry| packer.add(entry)));
    assert_eq!(tar.unwrap().len(), 4 * BLOCK);
    for odd in [
        Entry { mtime: -1, ..file(b"f", b"") },
        Entry { uid: 0o10000000, ..file(b"f", b"") },
        file(&[b'x'; 101], b""),
        file("\u{e9}".as_bytes(), b""),
    ] {
        let tar = scratch().tar(|packer| packer.add(&odd)).unwrap();
        assert_eq!(tar.len(), 5 * BLOCK, "{odd:?}");
    }
}

#[test]
fn a_size_beyond_octal_digits_is_a_record() {
    let mut bytes = Vec::new();
    ustar::header(&entry(b"f", Kind::File { size: 1 << 33 }), &mut bytes).unwrap();
    assert_eq!(bytes.len(), 3 * BLOCK);
    assert!(bytes[BLOCK..].starts_with(b"19 size=8589934592\n"));
    bytes.clear();
    ustar::header(&entry(b"f", Kind::File { size: (1 << 33) - 1 }), &mut bytes).unwrap();
    assert_eq!(bytes.len(), BLOCK);
}

#[test]
fn what_is_out_of_order_is_refused() {
    let directory = |path: &str| entry(path.as_bytes(), Kind::Directory);
    let add = |entries: &[Entry]| {
        scratch().tar(|packer| entries.iter().try_for_each(|entry| packer.add(entry)))
    };
    // By components: a slash is less than anything in a name.
    let paths = ["", "a", "a/b", "a/b/c", "a!", "a-b", "ab", "b"];
    let good: Vec<Entry> = paths.iter().map(|path| directory(path)).collect();
    add(&good).unwrap();
    for n in 1..good.len() {
        assert!(add(&[good[n].clone(), good[n - 1].clone()]).is_err(), "{}", paths[n]);
        assert!(add(&[good[n].clone(), good[n].clone()]).is_err(), "{}", paths[n]);
    }
    assert!(add(&[file(b"a", b""), file(b"a/b", b"")]).is_err());
    assert!(add(&[file(b"a", b""), file(b"a!", b"")]).is_ok());
}

#[test]
fn what_no_layer_can_hold_is_refused() {
    let long = vec![b'x'; PATH_MAX];
    let paths: [&[u8]; 10] =
        [b"/", b"/a", b"a/", b"a//b", b".", b"..", b"a/../b", b"a/.", b"a\0", &long];
    for path in paths {
        let said = scratch().tar(|packer| packer.add(&file(path, b"")));
        assert!(said.is_err(), "{path:?}");
        assert!(scratch().tar(|packer| packer.add(&entry(b"f", Kind::Link(path.into())))).is_err());
    }
    for bad in [
        file(b"", b""),
        entry(b"l", Kind::Symlink(b"".into())),
        entry(b"l", Kind::Link(b"".into())),
        entry(b"c", Kind::Device { block: false, major: 0, minor: 0 }),
        entry(b"c", Kind::Device { block: false, major: 1 << 12, minor: 0 }),
        entry(b"f", Kind::File { size: 1 }),
        Entry { uid: u32::MAX, ..file(b"f", b"") },
        Entry { xattrs: [(b"user.a".to_vec(), vec![0; 1 << 20])].into(), ..file(b"f", b"") },
    ] {
        assert!(scratch().tar(|packer| packer.add(&bad)).is_err(), "{bad:?}");
    }
}

#[test]
fn a_file_that_somebody_writes_to_is_an_error() {
    for size in [0, 1, 511, 600_000] {
        let content = tempfile::tempfile().unwrap();
        content.write_all_at(&vec![b'x'; size], 0).unwrap();
        let pack = |size: usize| {
            let entry = entry(b"f", Kind::File { size: size as u64 });
            scratch().pack("gzip".parse().unwrap(), 2, |packer| packer.file(&entry, &content))
        };
        assert_eq!(read(&pack(size).unwrap())[0].1.len(), size);
        let said = format!("{:#}", pack(size + 1).err().unwrap());
        assert_eq!(said, "f: has shrunk while it was read");
        if size > 0 {
            let said = format!("{:#}", pack(size - 1).err().unwrap());
            assert_eq!(said, "f: has grown while it was read");
        }
    }
}

#[test]
fn a_layer_is_the_same_with_any_number_of_cores_and_to_any_reader() {
    let t = scratch();
    // Chunks that shrink, that do not, and that do in part.
    let content =
        [prose(2_000_000), noise(3_000_000, 1), prose(300_000), noise(70_000, 2)].concat();
    let add = |packer: &mut Packer| {
        packer.bytes(&file(b"a", &content), &content)?;
        packer.bytes(&file(b"b", b"more"), b"more")
    };
    let tar = t.tar(add).unwrap();
    for compression in ALL {
        let compression: Compression = compression.parse().unwrap();
        let one = t.pack(compression, 1, add).unwrap();
        for cores in [2, 3, 64] {
            let many = t.pack(compression, cores, add).unwrap();
            assert_eq!(many.packed.desc, one.packed.desc, "{compression}, {cores}");
            assert!(many.blob == one.blob);
        }
        let found = read(&one);
        assert!(found[0].1 == content && found[1].1 == b"more");
        assert_eq!(one.packed.diff_id, Digest::of(&tar));
        match compression.to_string().split(':').next().unwrap() {
            "gzip" => assert!(through("gzip", &["-dc"], &one.blob) == tar),
            "zstd" => assert!(zstd::decode_all(&one.blob[..]).unwrap() == tar),
            _ => assert!(one.blob == tar),
        }
    }
}

#[test]
fn a_tar_that_ends_with_a_chunk_is_whole() {
    let t = scratch();
    for less in [0, 1, 512, 513] {
        let content = prose((256 << 10) - 512 - 1024 - less);
        let add = |packer: &mut Packer| packer.bytes(&file(b"a", &content), &content);
        for compression in ALL {
            let layer = t.pack(compression.parse().unwrap(), 2, add).unwrap();
            assert!(read(&layer)[0].1 == content);
        }
    }
}

#[test]
fn what_does_not_compress_is_stored() {
    let t = scratch();
    let content = noise(5 << 20, 3);
    for compression in ["gzip", "zstd"] {
        let add = |packer: &mut Packer| packer.bytes(&file(b"a", &content), &content);
        let layer = t.pack(compression.parse().unwrap(), 2, add).unwrap();
        assert!(layer.blob.len() as u64 <= layer.packed.size + layer.packed.size / 1000);
        // Even the piece that is too small for samples.
        let small = t.pack(compression.parse().unwrap(), 2, |packer| {
            packer.bytes(&file(b"a", &content[..4096]), &content[..4096])
        });
        assert!(small.unwrap().blob.len() < 4096 + 512 + 100);
        let text = prose(5 << 20);
        let add = |packer: &mut Packer| packer.bytes(&file(b"a", &text), &text);
        let layer = t.pack(compression.parse().unwrap(), 2, add).unwrap();
        assert!((layer.blob.len() as u64) < layer.packed.size / 2);
    }
}

#[test]
fn a_packer_that_is_dropped_leaves_nothing() {
    let t = scratch();
    let writing = t.layout.writing().unwrap();
    let mut packer = Packer::new(&writing, Compression::default()).unwrap();
    packer.chunks.cores = 4;
    packer.bytes(&file(b"a", &noise(3 << 20, 1)), &noise(3 << 20, 1)).unwrap();
    drop(packer);
    drop(writing);
    let dir = t._dir.path().join("images");
    assert_eq!(std::fs::read_dir(dir.join("blobs/sha256")).unwrap().count(), 0);
    assert!(!dir.join(".partial").exists());
}

#[test]
fn compressions_are_read_as_they_are_written() {
    for (text, shown) in [
        ("gzip", "gzip:1"),
        ("gzip:6", "gzip:6"),
        ("zstd", "zstd:3"),
        ("zstd:19", "zstd:19"),
        ("none", "none"),
    ] {
        let compression: Compression = text.parse().unwrap();
        assert_eq!(compression.to_string(), shown);
        assert_eq!(shown.parse::<Compression>().unwrap(), compression);
    }
    assert_eq!(Compression::default(), "gzip".parse().unwrap());
    for bad in ["", "xz", "gzip:", "gzip:0", "gzip:10", "gzip:-1", "zstd:23", "none:1", "GZIP"] {
        assert!(bad.parse::<Compression>().is_err(), "{bad}");
    }
}

/// Names, some of them odd and some long.
fn name() -> impl Strategy<Value = Vec<u8>> {
    let odd = prop::collection::vec(1u8..=255, 1..20);
    let long = prop::collection::vec(b'a'..=b'z', 90..160);
    let name = prop_oneof![4 => "[a-c]{1,2}".prop_map(String::into_bytes), 2 => odd, 1 => long];
    name.prop_map(|mut name| {
        name.iter_mut().filter(|byte| **byte == b'/').for_each(|byte| *byte = b'_');
        if matches!(&name[..], b"." | b"..") { b"dot".to_vec() } else { name }
    })
}

fn path() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(name(), 1..5).prop_map(|names| names.join(&b'/'))
}

fn kind() -> impl Strategy<Value = Kind> {
    prop_oneof![
        3 => Just(Kind::Directory),
        2 => Just(Kind::File { size: 0 }),
        1 => path().prop_map(Kind::Symlink),
        1 => path().prop_map(Kind::Link),
        1 => (any::<bool>(), 1u32..1 << 12, 0u32..1 << 20)
            .prop_map(|(block, major, minor)| Kind::Device { block, major, minor }),
        1 => Just(Kind::Fifo),
    ]
}

prop_compose! {
    fn any_entry()(
        path in path(),
        kind in kind(),
        content in prop::collection::vec(any::<u8>(), 0..2000),
        mode in 0u32..0o10000,
        uid in prop_oneof![Just(0), 0..u32::MAX],
        gid in prop_oneof![Just(0), 0..u32::MAX],
        mtime in prop_oneof![Just(0), any::<i32>().prop_map(i64::from), -(1i64 << 40)..1 << 40],
        xattrs in prop::collection::btree_map("user\\.[a-z=%3D25]{1,8}", prop::collection::vec(any::<u8>(), 0..40), 0..3),
    ) -> (Entry, Vec<u8>) {
        let xattrs = xattrs.into_iter().map(|(name, value)| (name.into_bytes(), value)).collect();
        let (kind, content) = match kind {
            Kind::File { .. } => (Kind::File { size: content.len() as u64 }, content),
            other => (other, Vec::new()),
        };
        (Entry { path, kind, mode, uid, gid, mtime, xattrs }, content)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_is_packed_is_what_is_read(
        entries in prop::collection::vec(any_entry(), 0..40),
        compression in prop::sample::select(&ALL[..]),
    ) {
        let mut entries = entries;
        entries.sort_by(|(a, _), (b, _)| order(&a.path).cmp(order(&b.path)));
        entries.dedup_by(|(a, _), (b, _)| a.path == b.path);
        let t = scratch();
        let mut added = Vec::new();
        let layer = t.pack(compression.parse().unwrap(), 2, |packer| {
            for (entry, content) in entries {
                let done = match entry.kind {
                    Kind::File { .. } => packer.bytes(&entry, &content),
                    _ => packer.add(&entry),
                };
                match done {
                    Ok(()) => added.push((entry, content)),
                    Err(err) => assert!(format!("{err:#}").contains("in a file"), "{err:#}"),
                }
            }
            Ok(())
        });
        prop_assert_eq!(read(&layer.unwrap()), added);
    }
}
