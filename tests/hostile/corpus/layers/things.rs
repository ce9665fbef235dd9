//! Devices, rights, attributes, FIFOs, bombs and packing.

use super::super::Peer::Umoci;
use super::super::Row::{Bombs, Fifos, Packing, Privilege};
use super::super::image::Layer;
use super::super::pack::{Member, gzip, gzip_bomb, member, through, zstd, zstd_bomb};
use super::super::tar::{base256, head, pax, tar};
use super::super::{Case, case};

/// cap_net_raw+ep: struct vfs_cap_data, revision 2.
pub const CAPABILITY: &[u8] = b"\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0";

pub fn cases(bait: &str) -> Vec<Case> {
    let mut all = privilege();
    all.extend(fifos(bait));
    all.extend(packing());
    all.extend(bombs());
    all
}

fn privilege() -> Vec<Case> {
    let suid = |mode: u32| head(b'0', "f").mode(mode).uid(5).gid(6);
    let attribute = |name: &str, value: &[u8]| tar().xattr(name, value).file("f", "x");
    let many: Vec<u8> =
        (0..5000).flat_map(|i| pax(&[(&format!("SCHILY.xattr.user.{i}"), b"x")])).collect();
    vec![
        case(Privilege, "a program that is set-user-ID", tar().with(suid(0o4755), ""))
            .accepted("f=(4755 5:6)"),
        case(
            Privilege,
            "all bits of a mode",
            tar().with(suid(0o7777), "").with(head(b'5', "d").mode(0o7777), ""),
        )
        .accepted("d/(7777) f=(7777 5:6)"),
        case(
            Privilege,
            "no bits of a mode",
            tar().with(head(b'5', "d").mode(0), "").with(head(b'0', "d/f").mode(0), ""),
        )
        .accepted("d/(0) d/f=(0)"),
        case(
            Privilege,
            "capabilities of a file of another owner",
            tar().xattr("security.capability", CAPABILITY).with(suid(0o755), ""),
        )
        .accepted("f=(755 5:6 security.capability)"),
        case(Privilege, "capabilities that are none", attribute("security.capability", b"junk"))
            .refused_in_tree("cannot set its attribute security.capability"),
        case(
            Privilege,
            "a label of the host's policy",
            attribute("security.selinux", b"system_u:object_r:shadow_t\0"),
        )
        .accepted("f=x"),
        case(Privilege, "an attribute of no namespace", attribute("nonsense", b"x"))
            .accepted("f=x"),
        case(Privilege, "an attribute without a name", attribute("", b"x"))
            .refused("an attribute without a name"),
        case(Privilege, "an attribute with half a name", attribute("user.", b"x"))
            .refused_in_tree("cannot set its attribute user."),
        case(
            Privilege,
            "an attribute of a name of 300 bytes",
            attribute(&format!("user.{}", "n".repeat(300)), b"x"),
        )
        .refused_in_tree("cannot set its attribute"),
        case(Privilege, "an attribute of 100 KiB", attribute("user.a", &[b'v'; 100 << 10]))
            .refused_in_tree("cannot set its attribute user.a"),
        case(Privilege, "5000 attributes", tar().extension(b'x', many).file("f", "x"))
            .refused("more than 4096 attributes"),
        case(
            Privilege,
            "an attribute that says whose a file is",
            attribute("user.rootlesscontainers", b"\x08\x05\x10\x06"),
        )
        .like(|tree| match tree[0].starts_with("f=x") {
            true => Ok(()),
            false => Err("f=x".into()),
        }),
        case(Privilege, "a character device", tar().character("n", 1, 3))
            .accepted("n:c1,3\n")
            .user_gets("n="),
        case(
            Privilege,
            "a block device of the host's first disk",
            tar().with(head(b'4', "disk").device(254, 0), ""),
        )
        .accepted("disk:b254,0\n")
        .user_gets("disk="),
        case(
            Privilege,
            "a device with attributes and bits",
            tar().with(head(b'3', "n").device(1, 3).mode(0o6666).uid(5), ""),
        )
        .accepted("n:c1,3(6666 5:0)\n")
        .user_gets("n=(6666 5:0)"),
        case(
            Privilege,
            "a device of a number out of range",
            tar().with(head(b'3', "n").put(329, &base256::<8>(1 << 40)), ""),
        )
        .refused("device number"),
        case(
            Privilege,
            "a device of a negative number",
            tar().with(head(b'3', "n").put(337, &base256::<8>(-1)), ""),
        )
        .refused("device number"),
    ]
}

fn fifos(bait: &str) -> Vec<Case> {
    let at = format!("/{bait}/fifo");
    vec![
        case(Fifos, "a file in a FIFO", tar().fifo("p").file("p/f", "x"))
            .refused_in_tree("Not a directory"),
        case(Fifos, "a file in place of a FIFO", tar().fifo("p").file("p", "x")).accepted("p=x"),
        case(
            Fifos,
            "a file in place of a FIFO of a lower layer",
            [tar().fifo("p"), tar().file("p", "x")],
        )
        .accepted("p=x"),
        case(Fifos, "a directory in place of a FIFO", tar().fifo("p").dir("p")).accepted("p/"),
        case(Fifos, "a file through a link to a FIFO", tar().symlink("l", &at).file("l", "x"))
            .accepted("l=x"),
        case(
            Fifos,
            "a file below a link to a FIFO",
            tar().fifo("p").symlink("l", "p").file("l/f", "x"),
        )
        .refused_in_tree("Not a directory"),
        case(Fifos, "a file in place of a device", tar().character("z", 1, 5).file("z", "x"))
            .accepted("z=x"),
        case(Fifos, "the list of users as a FIFO", tar().fifo("etc/passwd").fifo("etc/group"))
            .accepted("etc/ etc/group| etc/passwd|")
            .not_run("/etc/passwd: not a regular file"),
        case(
            Fifos,
            "the list of users as endless zeros",
            tar().symlink("etc/passwd", "/dev/zero").symlink("etc/group", "/dev/zero"),
        )
        .accepted("etc/ etc/group>/dev/zero etc/passwd>/dev/zero"),
    ]
}

fn packing() -> Vec<Case> {
    let two = tar().file("a", "1").file("b", "2").end();
    let (first, second) = two.split_at(1024);
    let packed = |blob: Vec<u8>| Layer::packed(blob, &two);
    let kind = |kind: Member| packed(member(&two, &kind));
    let both = "a=1 b=2";
    let whole = gzip(&two);
    let zstd_whole = zstd(&two, 7);
    let as_is = |blob: &[u8], media_type: &str| {
        let mut layer = packed(blob.to_vec());
        layer.media_type = media_type.into();
        layer
    };
    let bzip2 = through(&["bzip2"], &two);
    let xz = through(&["xz"], &two);
    let long_name = [vec![b'n'; 1 << 20], vec![0]].concat();
    let oci = "application/vnd.oci.image.layer.v1.tar";
    vec![
        case(Packing, "gzip that is cut", packed(whole[..whole.len() - 100].to_vec()))
            .refused("truncated"),
        case(
            Packing,
            "gzip that is cut in its checksum",
            packed(whole[..whole.len() - 4].to_vec()),
        )
        .refused("truncated"),
        case(Packing, "gzip that is cut in its header", packed(whole[..7].to_vec()))
            .refused("truncated"),
        case(Packing, "gzip of a wrong checksum", kind(Member { crc_off: 1, ..Member::default() }))
            .refused("wrong checksum"),
        case(Packing, "gzip of a wrong size", kind(Member { size_off: 1, ..Member::default() }))
            .refused("wrong checksum"),
        case(
            Packing,
            "gzip with flags that nobody knows",
            kind(Member { flags: 0x80, ..Member::default() }),
        )
        .refused("corrupt gzip header"),
        case(
            Packing,
            "gzip with all that a header may have",
            kind(Member {
                flags: 0x1c,
                extra: [&[5, 0][..], &[1; 5], b"name\0comment\0"].concat(),
                ..Member::default()
            }),
        )
        .accepted(both),
        case(
            Packing,
            "gzip with a name of a mebibyte",
            kind(Member { flags: 8, extra: long_name, ..Member::default() }),
        )
        .accepted(both)
        .differs(Umoci, "refuses a name of more than 512 bytes, as Go does"),
        case(
            Packing,
            "gzip with a name without an end",
            packed([&[0x1f, 0x8b, 8, 8, 0, 0, 0, 0, 0, 0][..], &[b'n'; 5000]].concat()),
        )
        .refused("truncated"),
        case(Packing, "gzip in two members", packed([gzip(first), gzip(second)].concat()))
            .accepted(both),
        case(
            Packing,
            "gzip with a member that is empty",
            packed([gzip(first), gzip(b""), gzip(second)].concat()),
        )
        .accepted(both),
        case(
            Packing,
            "gzip of a member a byte",
            packed(two.iter().flat_map(|byte| gzip(&[*byte])).collect()),
        )
        .accepted(both),
        case(Packing, "gzip with zeros behind it", packed([&whole[..], &[0; 1000]].concat()))
            .accepted(both)
            .differs(Umoci, "takes them for a member, as Go does"),
        case(
            Packing,
            "gzip with noise behind it",
            packed([&whole[..], b"noise and more"].concat()),
        )
        .refused("corrupt gzip header"),
        case(Packing, "gzip with little noise behind it", packed([&whole[..], b"noise"].concat()))
            .refused("truncated"),
        case(
            Packing,
            "gzip with zeros and noise behind it",
            packed([&whole[..], &[0; 9], b"noise"].concat()),
        )
        .refused("garbage behind the gzip data"),
        case(Packing, "gzip with a second tar behind the end of the first", {
            let more = tar().file("hidden", "x").end();
            let all = [&two[..], &more].concat();
            Layer::packed([gzip(&two), gzip(&more)].concat(), &all)
        })
        .accepted(both),
        case(
            Packing,
            "gzip whose second member is another diff ID's",
            packed([&whole[..], &gzip(&tar().file("c", "3").end())].concat()),
        )
        .refused_in_tree("its diff ID is")
        .imported(both),
        case(Packing, "gzip in gzip", packed(gzip(&whole))).refused("bad checksum"),
        case(Packing, "data that is no deflate", packed([&whole[..10], &[7; 100]].concat()))
            .refused("corrupt gzip data"),
        case(Packing, "zstd", packed(zstd_whole.clone())).accepted(both),
        case(Packing, "zstd that is cut", packed(zstd_whole[..zstd_whole.len() - 10].to_vec()))
            .refused("truncated"),
        case(
            Packing,
            "zstd with noise behind it",
            packed([&zstd_whole[..], b"noise and noise"].concat()),
        )
        .refused("corrupt zstd data"),
        case(Packing, "zstd in two frames, and one to be skipped", {
            let skipped = [&[0x53, 0x2a, 0x4d, 0x18, 4, 0, 0, 0][..], b"skip"].concat();
            packed([zstd(first, 7), skipped, zstd(second, 7)].concat())
        })
        .accepted(both),
        case(Packing, "zstd that begins with a frame to be skipped", {
            let skipped = [&[0x50, 0x2a, 0x4d, 0x18, 4, 0, 0, 0][..], b"skip"].concat();
            packed([skipped, zstd_whole.clone()].concat())
        })
        .accepted(both),
        case(
            Packing,
            "zstd that needs a dictionary",
            packed([&[0x28, 0xb5, 0x2f, 0xfd, 1, 7 << 3, 9], &zstd_whole[6..]].concat()),
        )
        .refused("corrupt zstd data"),
        case(Packing, "a bare tar that says it is gzip", as_is(&two, &format!("{oci}+gzip")))
            .accepted(both),
        case(Packing, "gzip that says it is a bare tar", as_is(&whole, oci)).accepted(both),
        case(Packing, "zstd that says it is gzip", as_is(&zstd_whole, &format!("{oci}+gzip")))
            .accepted(both),
        case(Packing, "bzip2", packed(bzip2))
            .refused("packed with bzip2, which no layer is")
            .imported(both),
        case(Packing, "xz", packed(xz.clone()))
            .refused("packed with xz, which no layer is")
            .imported(both),
        case(Packing, "xz that is cut", packed(xz[..xz.len() - 20].to_vec()))
            .refused("packed with xz")
            .import_refused(""),
        case(Packing, "xz with noise behind it", packed([&xz[..], b"noise"].concat()))
            .refused("packed with xz")
            .import_refused(""),
        case(Packing, "noise", packed(b"neither a tar nor anything else".repeat(40)))
            .refused("bad checksum"),
        case(Packing, "the magic of gzip, and nothing more", packed(vec![0x1f, 0x8b]))
            .refused("truncated"),
    ]
}

fn bombs() -> Vec<Case> {
    let file = |size: u64| tar().with(head(b'0', "zeros").size(size), "").0;
    let much = 160 << 20;
    let small = tar().file("f", "x").end();
    let zeros = vec![0; 32 << 20];
    let tail = [&small[..], &zeros].concat();
    let full = "No space left on device";
    let wide = "its zstd window is larger than 128 MiB";
    // The blocks of a frame that says its window is larger than it needs.
    let window = |log: u8| Layer::packed(zstd(&small, log), &small);
    let xz_bomb = through(&["xz", "-0", "--lzma2=preset=0,dict=600MiB"], &small);
    vec![
        // More than there is room for where these are unpacked, and the end of a tar.
        case(
            Bombs,
            "160 MiB of zeros in 160 KiB of gzip",
            Layer::packed(gzip_bomb(&file(much), 161), b""),
        )
        .refused_in_tree(full),
        case(
            Bombs,
            "160 MiB of zeros in 5 KiB of zstd",
            Layer::packed(zstd_bomb(&file(much), 1288), b""),
        )
        .refused_in_tree(full),
        case(Bombs, "32 MiB of zeros behind the end", Layer::packed(gzip_bomb(&small, 32), &tail))
            .accepted("f=x"),
        case(Bombs, "a window of 2 GiB", window(21)).refused(wide),
        case(Bombs, "a window of 256 MiB", window(18)).refused(wide),
        case(Bombs, "a window of 128 MiB", window(17)).accepted("f=x").memory(64 + 128),
        case(Bombs, "a dictionary of 600 MiB", Layer::packed(xz_bomb, &small))
            .refused("packed with xz")
            .import_refused("memory"),
        case(Bombs, "5000 entries of one file", (0..5000).fold(tar(), |tar, _| tar.file("f", "x")))
            .accepted("f=x"),
        case(
            Bombs,
            "a directory of 5000 files",
            (0..5000).fold(tar(), |tar, i| tar.file(format!("d/{i}"), "")),
        )
        .like(|tree| match tree.len() {
            5001 => Ok(()),
            other => Err(format!("{other} entries")),
        }),
    ]
}
