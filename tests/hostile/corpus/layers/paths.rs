//! Names, links and hard links that try to leave the root, and what is done through them.

use super::super::Peer::{GnuTar, Umoci};
use super::super::Row::{Escapes, HardLinks, Metadata, Names, Root, Symlinks};
use super::super::tar::{base256, head, tar};
use super::super::{Case, case};
use super::within;

/// Why GNU tar differs where the path of an entry leads through a link that leaves the target.
const PUTS_OFF: &str = "puts off links that lead out, so nothing is made through them";

/// Why umoci refuses what others warn of.
const ATTRIBUTES_OF_LINKS: &str = "refuses attributes of links, which the kernel has not";

pub fn cases(bait: &str) -> Vec<Case> {
    let mut all = names(bait);
    all.extend(root(bait));
    all.extend(symlinks(bait));
    all.extend(metadata(bait));
    all.extend(hard_links(bait));
    all
}

fn names(bait: &str) -> Vec<Case> {
    let up = format!("{}{bait}/secret", "../".repeat(10));
    let absolute = format!("/{bait}/new");
    let inside = within(bait, &format!("{bait}/new=x"));
    let upwards = "its name leads upwards";
    let deep = "d/".repeat(2000);
    let nested = [&b"a/"[..]; 2600].concat();
    vec![
        case(Names, "a name that climbs, in ustar", tar().file(&up, "x")).refused(upwards),
        case(
            Names,
            "a name that climbs after it went down",
            tar().file("a/../../bait/secret", "x"),
        )
        .refused(upwards),
        // Docker and containerd clean it as text, which is wrong where `a` is a link.
        case(Names, "a name that climbs and stays", tar().dir("a").file("a/../f", "x"))
            .refused(upwards),
        case(Names, "a name that ends in dots", tar().dir("a/..")).refused(upwards),
        case(Names, "dots alone", tar().dir("..")).refused(upwards),
        case(Names, "dots in the prefix", tar().with(head(b'0', "bait/f").put(345, b"../.."), ""))
            .refused(upwards),
        case(Names, "a name that climbs, in Unix V7", tar().with(head(b'0', &up).v7(), ""))
            .refused(upwards),
        case(Names, "a name that climbs, in GNU", tar().long_name(&up).file("f", "x"))
            .refused(upwards),
        case(
            Names,
            "a name that climbs, in PAX",
            tar().pax(&[("path", up.as_bytes())]).file("f", "x"),
        )
        .refused(upwards),
        case(
            Names,
            "a name that climbs, for all entries",
            tar().global(&[("path", up.as_bytes())]).file("f", "x"),
        )
        .refused("\"path\" in a global PAX header"),
        case(Names, "an absolute name, in ustar", tar().file(&absolute, "x")).accepted(&inside),
        case(
            Names,
            "an absolute name, in Unix V7",
            tar().with(head(b'0', &absolute).v7().size(1), "x"),
        )
        .accepted(&inside),
        case(Names, "an absolute name, in GNU", tar().long_name(&absolute).file("f", "x"))
            .accepted(&inside),
        case(
            Names,
            "an absolute name, in PAX",
            tar().pax(&[("path", absolute.as_bytes())]).file("f", "x"),
        )
        .accepted(&inside),
        case(
            Names,
            "an absolute name with many slashes",
            tar().file(format!("///.//{bait}//new"), "x"),
        )
        .accepted(&inside),
        case(Names, "dots that lead nowhere", tar().file("./././a/./b", "x")).accepted("a/ a/b=x"),
        case(Names, "backslashes", tar().file(r"..\..\bait\secret", "x"))
            .accepted(r"..\\..\\bait\\secret=x"),
        case(Names, "names of many dots", tar().file("...", "x").file(".. ", "y").file(". ", "z"))
            .accepted("...=x\n.. =y\n. =z"),
        case(Names, "an empty name", tar().file("", "x"))
            .refused("the root of a tree is a directory"),
        case(Names, "a NUL in a PAX name", tar().pax(&[("path", b"f\0../../x")]).file("g", "x"))
            .refused("bad PAX record"),
        case(Names, "a NUL in a GNU name", tar().extension(b'L', b"f\0../../x").file("g", "x"))
            .accepted("f=x"),
        case(Names, "a NUL in a ustar name", tar().with(head(b'0', b"f\0../../../x"), ""))
            .accepted("f="),
        case(
            Names,
            "an odd name",
            tar().file(b"new\nline", "").file(b"\xff\xfe", "").file("a\tb", ""),
        )
        .accepted("new\\nline=\n\\xff\\xfe=\na\\tb="),
        case(Names, "a component of 255 bytes", tar().pax(&[("path", &[b'n'; 255])]).file("f", ""))
            .accepted(format!("{}=", "n".repeat(255))),
        case(Names, "a component of 256 bytes", tar().pax(&[("path", &[b'n'; 256])]).file("f", ""))
            .refused_in_tree("File name too long"),
        case(
            Names,
            "a GNU name of 64 KiB",
            tar().long_name(vec![b'n'; (64 << 10) - 1]).file("f", ""),
        )
        .refused("its name has 65535 bytes"),
        case(
            Names,
            "a GNU name of more than 64 KiB",
            tar().long_name(vec![b'n'; 64 << 10]).file("f", ""),
        )
        .refused("a name or PAX header of 65537 bytes, more than 65536"),
        case(
            Names,
            "a PAX name of a mebibyte",
            tar().pax(&[("path", &vec![b'n'; (1 << 20) - 15])]).file("f", ""),
        )
        .refused("its name has 1048561 bytes"),
        case(
            Names,
            "5000 directories deep",
            tar().pax(&[("path", &[&b"d/"[..]; 5000].concat())]).dir("f"),
        )
        .refused("its name has 10000 bytes"),
        case(Names, "2000 directories deep", tar().pax(&[("path", deep.as_bytes())]).dir("f"))
            .like(|tree| match tree.len() {
                2000 => Ok(()),
                other => Err(format!("{other} directories")),
            }),
        case(
            Names,
            "deeper than a path by a link",
            tar()
                .pax(&[("path", deep.as_bytes())])
                .dir("f")
                .pax(&[("linkpath", &deep.as_bytes()[..3000])])
                .symlink("l", "x")
                .pax(&[("path", &[b"l/", &nested[..2000]].concat())])
                .dir("f"),
        )
        .refused_in_tree("leads too deep"),
        case(
            Escapes,
            "a name that would drive a terminal",
            tar().pax(&[("path", b"../\x1b]0;owned\x07\x1b[31m\x9b2J\r\n")]).file("f", "x"),
        )
        .refused(r"\u{1b}]0;owned\u{7}\u{1b}[31m"),
        case(Escapes, "a name that reads backwards", tar().file("../\u{202e}gpj.exe", "x"))
            .refused(r"\u{202e}"),
        case(
            Escapes,
            "an attribute that would drive a terminal",
            tar().xattr("user.\x1b[31m\n", "x").symlink("l", "t"),
        )
        // The kernel has no user attributes on links: a warning with its name.
        .accepted("l>t")
        .differs(Umoci, ATTRIBUTES_OF_LINKS),
        case(Escapes, "a link that would drive a terminal", tar().hard("h", "no\x1b[31m\x07"))
            .refused_in_tree(r"\u{1b}[31m\u{7}"),
    ]
}

fn root(bait: &str) -> Vec<Case> {
    let at = format!("/{bait}");
    let wrong = "the root of a tree is a directory";
    let link = |name: &str| tar().symlink(name, &at);
    vec![
        case(
            Root,
            "the root as a link, and a file behind it",
            [link("."), tar().file("secret", "x")],
        )
        .refused(wrong),
        case(Root, "the root as a link, by a slash", link("/")).refused(wrong),
        case(Root, "the root as a link, by a dot and a slash", link("./")).refused(wrong),
        case(Root, "the root as a link, by many", link("././/.")).refused(wrong),
        case(Root, "the root as a link, by a GNU name", tar().long_name("/.").symlink("x", &at))
            .refused(wrong),
        case(
            Root,
            "the root as a link, by a PAX name",
            tar().pax(&[("path", b".")]).symlink("x", &at),
        )
        .refused(wrong),
        case(Root, "the parent of the root as a link", link("..")).refused("leads upwards"),
        case(Root, "the root as a file", tar().file(".", "x")).refused(wrong),
        case(Root, "the root as a hard link", tar().hard(".", "f")).refused(wrong),
        case(Root, "the root as a FIFO", tar().fifo("./")).refused(wrong),
        case(Root, "the root as a device", tar().character("/", 1, 3)).refused(wrong),
        case(
            Root,
            "the root as what it is",
            tar().with(head(b'5', "./").mode(0o711).uid(5).time(7), "").file("f", "x"),
        )
        .accepted("./(711 5:0) f=x"),
        case(
            Root,
            "a link in the second layer where the first has a directory",
            [tar().file("d/f", "1"), tar().symlink("d", &at), tar().file("d/secret", "x")],
        )
        .accepted(within(bait, &format!("{bait}/secret=x\nd>{at}"))),
    ]
}

fn symlinks(bait: &str) -> Vec<Case> {
    let at = format!("/{bait}");
    let up = format!("{}{bait}", "../".repeat(10));
    let inside = |rest: &str| within(bait, rest);
    let chain = |links: usize| {
        let chain = (1..links)
            .fold(tar().dir("d0"), |tar, i| tar.symlink(format!("d{i}"), format!("d{}", i - 1)));
        chain.file(format!("d{}/f", links - 1), "x")
    };
    let doubling = (1..30).fold(tar().dir("x0"), |tar, i| {
        tar.symlink(format!("x{i}"), format!("x{0}/../x{0}", i - 1))
    });
    let loops = "too many levels of symbolic links";
    vec![
        case(
            Symlinks,
            "a file through an absolute link",
            tar().symlink("l", &at).file("l/secret", "x"),
        )
        .accepted(inside(&format!("{bait}/secret=x\nl>{at}"))),
        case(
            Symlinks,
            "a file through a link that climbs",
            tar().symlink("l", &up).file("l/secret", "x"),
        )
        .accepted(inside(&format!("{bait}/secret=x\nl>{up}"))),
        case(
            Symlinks,
            "a link in one layer, a file through it in the next",
            [tar().symlink("l", &at), tar().file("l/secret", "x")],
        )
        .accepted(inside(&format!("{bait}/secret=x\nl>{at}"))),
        case(Symlinks, "a directory through a link", tar().symlink("l", &at).dir("l/dir"))
            .accepted(inside(&format!("{bait}/dir/\nl>{at}"))),
        case(Symlinks, "a link through a link", tar().symlink("l", &at).symlink("l/secret", "x"))
            .accepted(inside(&format!("{bait}/secret>x\nl>{at}"))),
        case(Symlinks, "a FIFO through a link", tar().symlink("l", &at).fifo("l/fifo"))
            .accepted(inside(&format!("{bait}/fifo|\nl>{at}"))),
        case(
            Symlinks,
            "a file through a chain of links",
            tar().symlink("a", "b").symlink("b", "./c/.").symlink("c", &up).file("a/secret", "x"),
        )
        .accepted(inside(&format!("{bait}/secret=x\na>b\nb>./c/.\nc>{up}"))),
        case(
            Symlinks,
            "a file through /proc/self/root",
            tar().symlink("l", format!("/proc/self/root{at}")).file("l/secret", "x"),
        )
        .accepted(within(
            &format!("proc/self/root{at}"),
            &format!("proc/self/root{at}/secret=x\nl>/proc/self/root{at}"),
        )),
        case(
            Symlinks,
            "a file through /proc/self/fd",
            tar().symlink("l", "/proc/self/fd/3").file("l/f", "x"),
        )
        .accepted(within("proc/self/fd/3", "proc/self/fd/3/f=x\nl>/proc/self/fd/3")),
        case(Symlinks, "a file in a loop", tar().symlink("l", "l").file("l/f", "x"))
            .refused_in_tree(loops),
        case(
            Symlinks,
            "a file in a loop of two",
            tar().symlink("a", "b/c").symlink("b", "a").file("a/f", "x"),
        )
        .refused_in_tree(loops),
        case(Symlinks, "a chain of 40 links", chain(41)).like(|tree| {
            match tree.contains(&"d0/f=x".into()) {
                true => Ok(()),
                false => Err("d0/f is missing".into()),
            }
        }),
        case(Symlinks, "a chain of 41 links", chain(42)).refused_in_tree(loops),
        case(Symlinks, "links that double", doubling.file("x29/f", "x")).refused_in_tree(loops),
        case(
            Symlinks,
            "a link that is longer than a path, made of slashes",
            tar()
                .symlink("d", "e")
                .pax(&[("linkpath", &[&b"./"[..]; 3000].concat())])
                .symlink("l", "x"),
        )
        .refused_in_tree("File name too long"),
        case(Symlinks, "a link to nothing", tar().symlink("l", "")).refused_in_tree("No such file"),
        case(
            Symlinks,
            "a file in place of a link",
            tar().symlink("l", format!("{at}/secret")).file("l", "x"),
        )
        .accepted("l=x"),
        case(
            Symlinks,
            "a directory in place of a link",
            tar().symlink("l", &at).dir("l").file("l/secret", "x"),
        )
        .accepted("l/ l/secret=x"),
        case(
            Symlinks,
            "a file in place of a link of a lower layer",
            [tar().symlink("l", format!("{at}/secret")), tar().file("l", "x")],
        )
        .accepted("l=x"),
        case(
            Symlinks,
            "a directory that becomes a link between two files",
            tar().dir("d").file("d/a", "1").symlink("d", &at).file("d/secret", "2"),
        )
        .accepted(inside(&format!("{bait}/secret=2\nd>{at}"))),
        case(
            Symlinks,
            "a link that changes between two files",
            tar().dir("d").symlink("l", "d").file("l/a", "1").symlink("l", &at).file("l/a", "2"),
        )
        .accepted(inside(&format!("{bait}/a=2\nd/\nd/a=1\nl>{at}"))),
        case(Symlinks, "a file through a file", tar().file("f", "x").file("f/g", "y"))
            .refused_in_tree("Not a directory"),
        case(
            Symlinks,
            "a whiteout through a link",
            [
                tar().symlink("l", &at).file("f", "1"),
                tar().file("l/.wh.secret", "").file("l/.wh..wh..opq", ""),
            ],
        )
        .accepted(format!("f=1\nl>{at}")),
    ]
}

fn metadata(bait: &str) -> Vec<Case> {
    let at = format!("/{bait}");
    let file = format!("/{bait}/secret");
    let loud = |name: &str| head(b'5', name).mode(0o4777).uid(99).gid(99).time(9);
    let dressed = "l/(4777 99:99 @9)";
    vec![
        // CVE-2026-33056: tar-rs followed `l`, since a directory was there already.
        case(Metadata, "l, a link, then l/.", tar().symlink("l", &at).with(loud("l/."), ""))
            .accepted(dressed),
        case(Metadata, "l, a link, then l/", tar().symlink("l", &at).with(loud("l/"), ""))
            .accepted(dressed),
        case(
            Metadata,
            "l, a link, then l as a directory in the next layer",
            [tar().symlink("l", &at), tar().with(loud("l/."), "")],
        )
        .accepted(dressed),
        case(
            Metadata,
            "a link to a directory of the tree, then l/.",
            tar().dir("d").symlink("l", "d").with(loud("l/."), ""),
        )
        .accepted(format!("d/ {dressed}")),
        case(
            Metadata,
            "a link with a mode, an owner and a time",
            tar().with(head(b'2', "l").link(&file).mode(0o4777).uid(99).gid(99).time(9), ""),
        )
        .accepted(format!("l>{file}(99:99 @9)")),
        case(Metadata, "a link with an attribute", tar().xattr("user.a", "b").symlink("l", &file))
            .accepted(format!("l>{file}"))
            .differs(Umoci, ATTRIBUTES_OF_LINKS),
        case(
            Metadata,
            "a link with a capability",
            tar().xattr("security.capability", super::things::CAPABILITY).symlink("l", &file),
        )
        .like(move |tree| match tree.len() {
            1 => Ok(()),
            _ => Err("one link".into()),
        }),
        case(
            Metadata,
            "a directory with an attribute in place of a link",
            tar().symlink("l", &at).xattr("user.a", "b").dir("l"),
        )
        .accepted("l/(user.a=b)"),
        case(
            Metadata,
            "a hard link to a link, with a mode and an owner",
            tar().symlink("l", &file).with(head(b'1', "h").link("l").mode(0o777).uid(7), ""),
        )
        .accepted(format!("h>{file} l==h")),
        case(
            Metadata,
            "times of a directory through a link in a path",
            tar().symlink("l", &at).file("l/a/b", "x").with(loud("l/a"), ""),
        )
        .accepted(within(bait, &format!("{bait}/a/(4777 99:99 @9)\n{bait}/a/b=x\nl>{at}"))),
        case(
            Metadata,
            "a device in place of a link",
            tar().symlink("l", &file).character("l", 1, 3),
        )
        .accepted("l:c1,3\n")
        .user_gets("l="),
        case(Metadata, "a FIFO in place of a link", tar().symlink("l", &file).fifo("l"))
            .accepted("l|"),
    ]
}

fn hard_links(bait: &str) -> Vec<Case> {
    let at = format!("/{bait}");
    let file = format!("/{bait}/secret");
    let up = format!("{}{bait}/secret", "../".repeat(10));
    let missing = "not found";
    let hard = "hard link to";
    vec![
        case(HardLinks, "a hard link to a file of the host", tar().hard("h", &file))
            .refused_in_tree(missing),
        case(HardLinks, "a hard link that climbs", tar().hard("h", &up)).refused("leads upwards"),
        case(HardLinks, "a hard link that climbs, in GNU", tar().long_link(&up).hard("h", "f"))
            .refused("leads upwards"),
        case(
            HardLinks,
            "a hard link that climbs, in PAX",
            tar().pax(&[("linkpath", up.as_bytes())]).hard("h", "f"),
        )
        .refused("leads upwards"),
        case(
            HardLinks,
            "a hard link that climbs, for all entries",
            tar().file("f", "x").global(&[("linkpath", up.as_bytes())]).hard("h", "f"),
        )
        .refused("\"linkpath\" in a global PAX header"),
        case(
            HardLinks,
            "a hard link through a link",
            tar().symlink("l", &at).hard("h", "l/secret"),
        )
        .refused_in_tree(missing),
        case(
            HardLinks,
            "a hard link through a link of a lower layer",
            [tar().symlink("l", &at), tar().hard("h", "l/secret")],
        )
        .refused_in_tree(missing),
        case(
            HardLinks,
            "a hard link to a link, then a file over it",
            tar().symlink("l", &file).hard("h", "l").file("h", "x"),
        )
        .accepted(format!("h=x l>{file}")),
        case(
            HardLinks,
            "a hard link to a link, then a file below it",
            tar().symlink("l", &at).hard("h", "l").file("h/secret", "x"),
        )
        .accepted(within(bait, &format!("{bait}/secret=x\nh>{at}\nl==h")))
        .differs(GnuTar, PUTS_OFF),
        case(
            HardLinks,
            "a file over one that has two names",
            tar().file("a", "1").hard("b", "a").file("b", "2"),
        )
        .accepted("a=1 b=2"),
        case(
            HardLinks,
            "a file over a hard link of a lower layer",
            [tar().file("a", "1").hard("b", "a"), tar().file("b", "2")],
        )
        .accepted("a=1 b=2"),
        case(
            HardLinks,
            "a hard link to a file of a lower layer",
            [tar().file("a", "1"), tar().hard("b", "a")],
        )
        .accepted("a=1 b==a"),
        case(HardLinks, "a hard link to itself", tar().hard("h", "h")).refused_in_tree(hard),
        case(
            HardLinks,
            "a hard link to itself, which is there",
            tar().file("h", "x").hard("h", "h"),
        )
        .accepted("h=x")
        .differs(Umoci, "removes the file before it links it"),
        case(HardLinks, "a hard link to a directory", tar().dir("d").hard("h", "d"))
            .refused_in_tree(hard),
        case(HardLinks, "a hard link to the root", tar().hard("h", "/")).refused(hard),
        case(HardLinks, "a hard link to nothing", tar().hard("h", "")).refused(hard),
        case(HardLinks, "a hard link to what comes later", tar().hard("h", "f").file("f", "x"))
            .refused_in_tree(hard),
        case(HardLinks, "a hard link to a FIFO", tar().fifo("p").hard("h", "p"))
            .accepted("h| p==h"),
        case(HardLinks, "a hard link to a device", tar().character("n", 1, 3).hard("h", "n"))
            .accepted("h:c1,3\nn==h")
            .user_gets("h= n==h"),
        case(
            HardLinks,
            "a hard link to a hidden whiteout",
            tar().file("a", "1").hard("h", ".wh.a"),
        )
        .refused_in_tree(hard),
        case(
            HardLinks,
            "a hard link with data",
            tar().file("f", "x").with(head(b'1', "h").link("f").size(512), [b'y'; 512]),
        )
        .refused("data in an entry that is no file"),
        case(
            HardLinks,
            "a hard link with data of a size beyond all",
            tar()
                .file("f", "x")
                .with(head(b'1', "h").link("f").put(124, &base256::<12>(1 << 62)), ""),
        )
        .refused("data in an entry that is no file"),
    ]
}
