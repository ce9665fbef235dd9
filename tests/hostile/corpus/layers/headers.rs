//! Headers that readers disagree about, numbers out of range, and sparse files.

use super::super::Peer::{GnuTar, Umoci};
use super::super::Row::{Bounds, Disagreement, Ids, Sparse};
use super::super::tar::{Tar, base256, gnu_sparse, gnu_sparse_more, head, pax, tar};
use super::super::{Case, case};
use crate::corpus::image::Layer;

pub fn cases(_: &str) -> Vec<Case> {
    let mut all = sizes();
    all.extend(extensions());
    all.extend(kinds());
    all.extend(ends());
    all.extend(bounds());
    all.extend(ids());
    all.extend(sparse());
    all
}

/// Returns the blocks of a file that nobody should see, and their number of bytes as PAX has it.
fn hidden() -> (Vec<u8>, String) {
    let bytes = tar().file("hidden", "x").0;
    let len = bytes.len().to_string();
    (bytes, len)
}

fn sizes() -> Vec<Case> {
    let (inner, len) = hidden();
    let outer = format!("outer=[{len} bytes]");
    let size = |size: &str| tar().pax(&[("size", size.as_bytes())]);
    let field = |bytes: &[u8]| tar().with(head(b'0', "f").put(124, bytes), "x");
    vec![
        // CVE-2025-62518, TARmageddon.
        case(
            Disagreement,
            "a PAX size over a header's 0",
            size(&len).with(head(b'0', "outer"), &inner).file("b", "y"),
        )
        .accepted(format!("b=y\n{outer}")),
        case(
            Disagreement,
            "a PAX size of 0 over a header's size",
            size("0").with(head(b'0', "outer").size(1024), &inner).file("b", "y"),
        )
        .accepted("b=y hidden=x outer="),
        case(
            Disagreement,
            "a PAX size, then a GNU name before the entry",
            size("3").long_name("long").with(head(b'0', "f"), "abc"),
        )
        .accepted("long=abc"),
        case(
            Disagreement,
            "a PAX size that is given twice",
            tar()
                .pax(&[("size", b"0"), ("size", len.as_bytes())])
                .with(head(b'0', "outer"), &inner),
        )
        .accepted(&outer),
        case(
            Disagreement,
            "a PAX size of a link",
            size("512").with(head(b'2', "l").link("t"), &inner),
        )
        .refused("data in an entry that is no file"),
        case(Disagreement, "a PAX size of a directory", size(&len).with(head(b'5', "d"), &inner))
            .refused("data in an entry that is no file"),
        case(Disagreement, "a directory with data", tar().with(head(b'5', "d").size(1024), &inner))
            .refused("data in an entry that is no file"),
        case(Disagreement, "a FIFO with data", tar().with(head(b'6', "p").size(1024), &inner))
            .refused("data in an entry that is no file"),
        case(Disagreement, "a negative PAX size", size("-1").file("f", "x"))
            .refused("not a number"),
        case(
            Disagreement,
            "a PAX size in hexadecimal",
            size("0x400").with(head(b'0', "f"), &inner),
        )
        .refused("not a number"),
        case(Disagreement, "a PAX size with a sign", size("+3").with(head(b'0', "f"), "abc"))
            .refused("not a number"),
        case(Disagreement, "a PAX size of 20 digits", size("99999999999999999999").file("f", "x"))
            .refused("not a number"),
        case(
            Disagreement,
            "a size for all entries",
            tar().global(&[("size", len.as_bytes())]).with(head(b'0', "outer"), &inner),
        )
        .refused("\"size\" in a global PAX header"),
        case(Disagreement, "a negative size", field(&base256::<12>(-512)))
            .refused("bad size: negative"),
        case(
            Disagreement,
            "a size of 2^95 - 1",
            field(&[0xbf, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255]),
        )
        .refused("number too large"),
        case(Disagreement, "a size of 2^63 - 1", field(&base256::<12>(i64::MAX.into())))
            .refused("truncated tar"),
        case(Disagreement, "a size in base 256", field(&base256::<12>(1))).accepted("f=x"),
        case(Disagreement, "a size of twelve digits", field(b"000000000001")).accepted("f=x"),
        case(Disagreement, "a size with blanks around it", field(b"    1      \0")).accepted("f=x"),
        case(Disagreement, "a size with something behind its end", field(b"1\0junk87654"))
            .accepted("f=x"),
        case(Disagreement, "a size with two numbers", field(b"1 1024     \0"))
            .refused("not a number"),
        case(Disagreement, "a size that is not octal", field(b"0000000008\0\0"))
            .refused("not a number"),
        case(Disagreement, "a size with a sign", field(b"-0000000001\0")).refused("not a number"),
        case(Disagreement, "an empty size", tar().with(head(b'0', "f").put(124, &[0; 12]), ""))
            .accepted("f="),
    ]
}

fn extensions() -> Vec<Case> {
    let path = |name: &str| tar().pax(&[("path", name.as_bytes())]);
    let and = |first: Tar, second: Tar| first.raw(second.0).file("f", "x");
    vec![
        // GHSA-3cv2-h65g-fgmm: Go takes the GNU name, GNU tar the PAX one.
        case(Disagreement, "a PAX name, then a GNU one", and(path("pax"), tar().long_name("gnu")))
            .refused("a GNU long name and a PAX path for one entry"),
        case(Disagreement, "a GNU name, then a PAX one", and(tar().long_name("gnu"), path("pax")))
            .refused("a GNU long name and a PAX path for one entry"),
        case(
            Disagreement,
            "a GNU target and a PAX one",
            tar().pax(&[("linkpath", b"a")]).long_link("b").symlink("l", "c"),
        )
        .refused("a GNU long name and a PAX path for one entry"),
        case(Disagreement, "two PAX headers", and(path("one"), path("two")))
            .refused("two PAX headers for one entry"),
        case(Disagreement, "two GNU names", and(tar().long_name("one"), tar().long_name("two")))
            .refused("two long names for one entry"),
        case(
            Disagreement,
            "two GNU targets",
            tar().long_link("one").long_link("two").symlink("l", "t"),
        )
        .refused("two long links for one entry"),
        case(
            Disagreement,
            "a global header between",
            and(path("one"), tar().global(&[("comment", b"x")])),
        )
        .refused("a global PAX header between parts of an entry"),
        // git archive writes one.
        case(Disagreement, "a global comment", tar().global(&[("comment", b"x")]).file("f", "x"))
            .accepted("f=x")
            .differs(Umoci, "knows no global headers"),
        case(
            Disagreement,
            "a global owner, which Docker and containerd pass over",
            tar().global(&[("uid", b"99"), ("mtime", b"9")]).file("f", "x"),
        )
        .accepted("f=x")
        .differs(GnuTar, "takes the owner and the time for all entries, as POSIX says")
        .differs(Umoci, "knows no global headers"),
        case(Disagreement, "a PAX header at the end", tar().file("f", "x").pax(&[("path", b"g")]))
            .refused("a header without its entry"),
        case(
            Disagreement,
            "a PAX record that is too long",
            tar().extension(b'x', b"99 path=a\n").file("f", "x"),
        )
        .refused("bad PAX record"),
        case(
            Disagreement,
            "a PAX record that is too short",
            tar().extension(b'x', b"8 path=a\n").file("f", "x"),
        )
        .refused("bad PAX record"),
        case(
            Disagreement,
            "a PAX record of no length",
            tar().extension(b'x', b"0 path=a\n").file("f", "x"),
        )
        .refused("bad PAX record"),
        case(
            Disagreement,
            "a PAX record of negative length",
            tar().extension(b'x', b"-9 path=a\n").file("f", "x"),
        )
        .refused("bad PAX record"),
        case(
            Disagreement,
            "a PAX record of a length beyond all",
            tar().extension(b'x', b"18446744073709551627 path=a\n").file("f", "x"),
        )
        .refused("bad PAX record"),
        case(
            Disagreement,
            "a PAX record without a key",
            tar().extension(b'x', b"5 =a\n").file("f", "x"),
        )
        .refused("bad PAX record"),
        case(
            Disagreement,
            "a PAX record of two lines",
            tar().pax(&[("path", b"a\n9 path=b")]).file("f", "x"),
        )
        .accepted("a\\n9 path=b=x\n"),
        case(Disagreement, "an empty PAX name", tar().pax(&[("path", b"")]).file("f", "x"))
            .accepted("f=x")
            .differs(GnuTar, "takes the empty name"),
        case(
            Disagreement,
            "a PAX name that is given twice",
            tar().pax(&[("path", b"a"), ("path", b"b")]).file("f", "x"),
        )
        .accepted("b=x"),
        case(
            Disagreement,
            "a PAX name in another character set",
            tar().pax(&[("hdrcharset", b"BINARY"), ("path", b"\xff")]).file("f", "x"),
        )
        .accepted("\\xff=x\n"),
    ]
}

fn kinds() -> Vec<Case> {
    let kind = |kind: u8| tar().with(head(kind, "f").size(1), "x");
    vec![
        case(Disagreement, "a contiguous file", kind(b'7'))
            .accepted("f=x")
            .differs(Umoci, "knows no contiguous files"),
        case(Disagreement, "a file of the old type", kind(0)).accepted("f=x"),
        case(
            Disagreement,
            "a directory of the old type",
            tar().with(head(0, "d/").mode(0o755), ""),
        )
        .accepted("d/"),
        case(Disagreement, "a file whose name ends in a slash", tar().file("d/", "x"))
            .refused("a file whose name ends in a slash"),
        case(Disagreement, "an entry of a vendor's type", kind(b'Z'))
            .refused("an entry of unknown type"),
        case(Disagreement, "an entry of a type that is no letter", kind(0xff))
            .refused("an entry of unknown type"),
        case(Disagreement, "a volume's label", kind(b'V')).refused("an entry of unknown type"),
        case(Disagreement, "a piece of a file of another volume", kind(b'M'))
            .refused("an entry of unknown type"),
        case(Disagreement, "a list of names", kind(b'D')).refused("an entry of unknown type"),
        case(
            Disagreement,
            "a header of Solaris",
            tar().extension(b'X', pax(&[("path", b"a")])).file("f", "x"),
        )
        .refused("an entry of unknown type"),
        case(
            Disagreement,
            "a checksum of signed bytes",
            tar().with(head(b'0', b"\xff").signed(), ""),
        )
        .accepted("\\xff=\n"),
        case(
            Disagreement,
            "a wrong checksum",
            tar().file("a", "x").with(head(b'0', "f").checksum_off(1), ""),
        )
        .refused("bad checksum"),
        case(Disagreement, "no checksum", tar().raw([&[b'f'; 100][..], &[0; 412]].concat()))
            .refused("bad checksum"),
        case(
            Disagreement,
            "a directory that comes twice",
            tar().dir("d").file("d/f", "x").with(head(b'5', "d").mode(0o700), ""),
        )
        .accepted("d/(700) d/f=x"),
        case(Disagreement, "a file that comes twice", tar().file("f", "1").file("f", "2"))
            .accepted("f=2"),
        case(
            Disagreement,
            "a directory that becomes a file",
            tar().file("d/f", "1").file("d", "2"),
        )
        .accepted("d=2")
        .differs(GnuTar, "keeps a directory that is not empty"),
        case(
            Disagreement,
            "a thousand entries of one name",
            (0..1000).fold(tar(), |tar, i| match i % 3 {
                0 => tar.file("f", "x"),
                1 => tar.dir("f").file("f/g", "y"),
                _ => tar.symlink("f", "."),
            }),
        )
        .accepted("f=x")
        .differs(GnuTar, "keeps a directory that is not empty"),
    ]
}

fn ends() -> Vec<Case> {
    let file = || tar().file("f", "x");
    let raw = |bytes: Vec<u8>| Layer::packed(bytes.clone(), &bytes);
    let whole = file().end();
    vec![
        case(Disagreement, "entries behind the end", file().raw([0; 1024]).file("hidden", "y"))
            .accepted("f=x"),
        case(Disagreement, "noise behind the end", raw([&whole[..], b"noise"].concat()))
            .accepted("f=x"),
        case(
            Disagreement,
            "a block of zeros between entries",
            file().raw([0; 512]).file("hidden", "y"),
        )
        .refused("a block of zeros between entries"),
        case(Disagreement, "no end", raw(file().0))
            .accepted("f=x")
            .import_refused("truncated tar: it has no end"),
        case(Disagreement, "half an end", raw(file().raw([0; 512]).0)).accepted("f=x"),
        case(Disagreement, "nothing but an end", raw(vec![0; 1024])).accepted(""),
        case(Disagreement, "nothing at all", raw(Vec::new()))
            .accepted("")
            .import_refused("did the command before this one fail?")
            .differs(GnuTar, "wants the end of a tar at least"),
        case(Disagreement, "cut in a header", raw(whole[..300].to_vec())).refused("truncated tar"),
        case(Disagreement, "cut in the data", raw(file().0[..513].to_vec()))
            .refused("truncated tar"),
        case(Disagreement, "cut before the data", raw(file().0[..512].to_vec()))
            .refused("truncated tar"),
        case(Disagreement, "cut in a name", raw(tar().long_name("long").0[..516].to_vec()))
            .refused("truncated tar"),
        case(Disagreement, "cut behind a name", raw(tar().long_name("long").0))
            .refused("a header without its entry"),
    ]
}

fn bounds() -> Vec<Case> {
    let huge = |kind: u8| tar().with(head(kind, "x").put(124, &base256::<12>(1 << 40)), "");
    let comment = vec![b'c'; (1 << 20) - 18];
    vec![
        case(Bounds, "a PAX header of a tebibyte", huge(b'x')).refused("bytes, more than 1048576"),
        case(Bounds, "a global PAX header of a tebibyte", huge(b'g'))
            .refused("bytes, more than 1048576"),
        case(Bounds, "a GNU name of a tebibyte", huge(b'L')).refused("bytes, more than 65536"),
        case(Bounds, "a GNU target of a tebibyte", huge(b'K')).refused("bytes, more than 65536"),
        case(Bounds, "a file of a tebibyte that is not there", huge(b'0')).refused("truncated tar"),
        case(
            Bounds,
            "a PAX comment of a mebibyte",
            tar().pax(&[("comment", &comment)]).file("f", "x"),
        )
        .accepted("f=x"),
        case(
            Bounds,
            "thirty PAX comments of a mebibyte",
            (0..30).fold(tar(), |tar, _| tar.pax(&[("comment", &comment)]).file("f", "x")),
        )
        .accepted("f=x"),
        case(
            Bounds,
            "a PAX header of 100000 records",
            tar().extension(b'x', b"8 path=a\n".repeat(100_000)).file("f", "x"),
        )
        .refused("bad PAX record"),
        case(
            Bounds,
            "a PAX header of 100000 names",
            tar().extension(b'x', b"9 path=a\n".repeat(100_000)).file("f", "x"),
        )
        .accepted("a=x"),
        case(Bounds, "a target of 64 KiB", tar().long_link(vec![b't'; 60_000]).symlink("l", "x"))
            .refused_in_tree("File name too long"),
    ]
}

fn ids() -> Vec<Case> {
    let id = |key: &str, value: &str| tar().pax(&[(key, value.as_bytes())]).file("f", "x");
    let field =
        |at: usize, value: i128| tar().with(head(b'0', "f").put(at, &base256::<8>(value)), "");
    let out_of_range = "is out of range";
    vec![
        case(Ids, "user 2^32 - 1, which chown takes for nobody new", id("uid", "4294967295"))
            .refused(out_of_range),
        case(Ids, "group 2^32 - 1", id("gid", "4294967295")).refused(out_of_range),
        case(Ids, "user 2^32, which would wrap to root", id("uid", "4294967296"))
            .refused(out_of_range),
        case(Ids, "group 2^32", id("gid", "4294967296")).refused(out_of_range),
        case(Ids, "user 2^63", id("uid", "9223372036854775808")).refused("not a number"),
        case(Ids, "user -1", id("uid", "-1")).refused("not a number"),
        case(Ids, "user 1e3", id("uid", "1e3")).refused("not a number"),
        case(Ids, "user 2^32 - 1 in the header", field(108, u32::MAX.into())).refused(out_of_range),
        case(Ids, "user 2^32 in the header", field(108, 1 << 32)).refused(out_of_range),
        case(Ids, "group 2^32 in the header", field(116, 1 << 32)).refused(out_of_range),
        case(Ids, "user -1 in the header", field(108, -1)).refused(out_of_range),
        case(Ids, "user -2^55 in the header", field(108, -(1 << 54))).refused(out_of_range),
        case(Ids, "user 2^32 - 2", id("uid", "4294967294"))
            .accepted("f=x(4294967294:0)")
            .user_refused("cannot set its owner 4294967294:0"),
        case(
            Ids,
            "the last user of an octal field",
            tar().with(head(b'0', "f").uid(0o7777777).gid(0o7777777), ""),
        )
        .accepted("f=(2097151:2097151)")
        .user_refused("cannot set its owner 2097151:2097151"),
        case(
            Ids,
            "a user who has the name of root",
            tar().with(head(b'0', "f").uid(1000).put(265, b"root").put(297, b"root"), ""),
        )
        .accepted("f=(1000:0)"),
        case(
            Ids,
            "a link of a user out of range",
            tar().pax(&[("uid", b"4294967296")]).symlink("l", "t"),
        )
        .refused(out_of_range),
        case(
            Ids,
            "a time before the epoch",
            tar().with(head(b'0', "f").put(136, &base256::<12>(-5)), ""),
        )
        .accepted("f=(@-5)"),
        case(Ids, "a time with a fraction before the epoch", id("mtime", "-1.5"))
            .accepted("f=x(@-2.500000000)"),
        case(
            Ids,
            "a time beyond all",
            tar().with(head(b'0', "f").put(136, &base256::<12>(i64::MAX.into())), ""),
        )
        .like(|tree| match tree.len() {
            1 => Ok(()),
            _ => Err("one file".into()),
        }),
        case(
            Ids,
            "a time of 2^95 - 1",
            tar().with(
                head(b'0', "f")
                    .put(136, &[0xbf, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255]),
                "",
            ),
        )
        .refused("number too large"),
        case(Ids, "a time that is no number", id("mtime", "now")).refused("not a number"),
        case(Ids, "a time of many digits", id("mtime", "999999999999999999999999"))
            .refused("not a number"),
        case(Ids, "a mode with the bits of a type", tar().with(head(b'0', "f").mode(0o100640), ""))
            .accepted("f=(640)"),
        case(
            Ids,
            "a mode with more bits than there are",
            tar().with(head(b'0', "f").put(100, b"7777777\0"), ""),
        )
        .accepted("f=(7777)"),
        case(Ids, "a negative mode", field(100, -1)).refused("bad mode: negative"),
    ]
}

/// Why umoci is not done with a sparse file before the disk is full.
const HOLES: &str = "writes out every hole";

fn sparse() -> Vec<Case> {
    let tebi = 1 << 40;
    let pax01 = |records: &[(&str, &[u8])], data: &str| tar().pax(records).file("f", data);
    let v1 = |size: &str, map: &str, data: &str| {
        let mut stored = map.as_bytes().to_vec();
        stored.resize(stored.len().next_multiple_of(512), 0);
        stored.extend_from_slice(data.as_bytes());
        let records: &[(&str, &[u8])] = &[
            ("GNU.sparse.major", b"1"),
            ("GNU.sparse.minor", b"0"),
            ("GNU.sparse.name", b"f"),
            ("GNU.sparse.realsize", size.as_bytes()),
        ];
        tar().pax(records).file("GNUSparseFile.0/f", stored)
    };
    let size = |size: u64, map: &[(u64, u64)], data: &str| {
        tar().with(gnu_sparse("f", size, map, false).size(data.len() as u64), data)
    };
    let wrong = "bad sparse map";
    let chain = (0..4000u64).fold(
        tar().raw(gnu_sparse("f", tebi, &[(0, 0), (1, 0), (2, 0), (3, 0)], true).size(0).bytes()),
        |tar, i| {
            let map: Vec<(u64, u64)> = (0..21).map(|n| (4 + i * 21 + n, 0)).collect();
            tar.raw(gnu_sparse_more(&map, true))
        },
    );
    vec![
        case(Sparse, "a tebibyte of holes, in GNU's old format", size(tebi, &[(tebi - 1, 1)], "x"))
            .accepted(format!("f=[{tebi} bytes]"))
            .differs(Umoci, HOLES),
        case(
            Sparse,
            "a tebibyte of holes, in format 0.1",
            pax01(
                &[("GNU.sparse.size", b"1099511627776"), ("GNU.sparse.map", b"1099511627775,1")],
                "x",
            ),
        )
        .accepted(format!("f=[{tebi} bytes]"))
        .differs(GnuTar, "wants GNU.sparse.name and numblocks as well")
        .differs(Umoci, HOLES),
        case(
            Sparse,
            "a tebibyte of holes, in format 1.0",
            v1("1099511627776", "1\n1099511627775\n1\n", "x"),
        )
        .accepted(format!("f=[{tebi} bytes]"))
        .differs(Umoci, HOLES),
        case(Sparse, "nothing but holes", v1("1000", "0\n", ""))
            .accepted("f=[1000 bytes]")
            .differs(GnuTar, "makes an empty file where there are no pieces"),
        case(
            Sparse,
            "a file beyond all sizes",
            v1("9223372036854775807", "1\n9223372036854775806\n1\n", "x"),
        )
        .accepted("f=[9223372036854775807 bytes]")
        .differs(Umoci, HOLES),
        case(Sparse, "pieces that overlap", size(100, &[(0, 10), (5, 10)], "01234567890123456789"))
            .refused(wrong),
        case(Sparse, "pieces in the wrong order", size(100, &[(50, 1), (0, 1)], "xy"))
            .refused(wrong),
        case(Sparse, "a piece behind the end", size(10, &[(10, 5)], "01234")).refused(wrong),
        case(Sparse, "a piece that wraps", size(10, &[(u64::MAX >> 1, 5)], "01234")).refused(wrong),
        case(Sparse, "more data than pieces", size(100, &[(0, 1)], "xyz")).refused(wrong),
        case(Sparse, "less data than pieces", size(100, &[(0, 10)], "xyz")).refused(wrong),
        // Go's CVE-2025-58183.
        case(Sparse, "a map without an end", chain)
            .refused("bad sparse map: more than 65536 pieces"),
        case(Sparse, "a map that promises a billion pieces", v1("100", "1000000000\n0\n1\n", "x"))
            .refused(wrong),
        case(Sparse, "a map of a negative number", v1("100", "-1\n", "")).refused(wrong),
        case(Sparse, "a map without its line ends", v1("100", &"9".repeat(600), "")).refused(wrong),
        case(Sparse, "a map of 4 MiB", v1("100", &"0\n".repeat(2 << 20), ""))
            .refused("bad sparse map"),
        case(
            Sparse,
            "a map of odd length",
            pax01(&[("GNU.sparse.size", b"9"), ("GNU.sparse.map", b"0,1,2")], "x"),
        )
        .refused("an offset without a length"),
        case(
            Sparse,
            "two maps",
            pax01(&[("GNU.sparse.map", b"0,1"), ("GNU.sparse.map", b"0,1")], "x"),
        )
        .refused("two maps"),
        case(
            Sparse,
            "format 0.0, whose records come again and again",
            pax01(
                &[
                    ("GNU.sparse.size", b"9"),
                    ("GNU.sparse.numblocks", b"2"),
                    ("GNU.sparse.offset", b"0"),
                    ("GNU.sparse.numbytes", b"1"),
                    ("GNU.sparse.offset", b"8"),
                    ("GNU.sparse.numbytes", b"1"),
                ],
                "xy",
            ),
        )
        .accepted(r"f=x\x00\x00\x00\x00\x00\x00\x00y")
        .differs(GnuTar, "leaves out the second piece, where GNU.sparse.name is missing"),
        case(Sparse, "lengths without an offset", pax01(&[("GNU.sparse.numbytes", b"1")], "x"))
            .refused("no offset"),
        case(Sparse, "a size, and no map", pax01(&[("GNU.sparse.size", b"9")], "x"))
            .refused("no map"),
        case(Sparse, "a map, and no size", pax01(&[("GNU.sparse.map", b"0,1")], "x"))
            .refused("a sparse file without its size"),
        case(
            Sparse,
            "an unknown format",
            pax01(&[("GNU.sparse.major", b"2"), ("GNU.sparse.minor", b"0")], "x"),
        )
        .refused("unknown format of sparse file"),
        case(Sparse, "a sparse file in another dialect", tar().with(head(b'S', "f"), ""))
            .refused("not in GNU's format"),
        case(
            Sparse,
            "a name that climbs, for a sparse file",
            tar()
                .pax(&[
                    ("GNU.sparse.major", b"1"),
                    ("GNU.sparse.minor", b"0"),
                    ("GNU.sparse.name", b"../../bait/secret"),
                    ("GNU.sparse.realsize", b"1"),
                ])
                .file("f", [&b"0\n"[..], &[0; 510]].concat()),
        )
        .refused("leads upwards"),
        case(
            Sparse,
            "a map for all entries",
            tar().global(&[("GNU.sparse.map", b"0,1"), ("GNU.sparse.size", b"9")]).file("f", "x"),
        )
        .refused("in a global PAX header"),
    ]
}
