//! Whiteouts, of every malformed kind, and what overlay itself has for them.

use super::super::Peer::Umoci;
use super::super::Row::{Overlay, Whiteouts};
use super::super::tar::{Tar, head, tar};
use super::super::{Case, case};

pub fn cases(bait: &str) -> Vec<Case> {
    let mut all = whiteouts(bait);
    all.extend(overlay());
    all
}

/// What lies below.
fn lower() -> Tar {
    tar().dir("d").file("d/a", "1").dir("d/s").file("d/s/b", "2").file("e", "3")
}

/// What [`lower`] becomes.
const LOWER: &str = "d/ d/a=1 d/s/ d/s/b=2 e=3";

fn whiteouts(bait: &str) -> Vec<Case> {
    let at = format!("/{bait}");
    let over = |name: &str, upper: Tar| case(Whiteouts, name, [lower(), upper]);
    let nothing = "a whiteout of nothing";
    vec![
        over("a whiteout of nothing", tar().file(".wh.", "")).refused(nothing),
        over("a whiteout of a dot", tar().file(".wh..", "")).refused(nothing),
        over("a whiteout of two dots", tar().file(".wh...", "")).refused(nothing),
        over("a whiteout of nothing, further down", tar().file("d/.wh.", "")).refused(nothing),
        over("a whiteout of two dots, further down", tar().file("d/s/.wh...", "")).refused(nothing),
        over("a file in a whiteout", tar().file("d/.wh.s/f", ""))
            .refused("its name leads through a whiteout"),
        over("a file in what hides everything", tar().file("d/.wh..wh..opq/f", ""))
            .refused("its name leads through a whiteout"),
        over("a whiteout of a path", tar().pax(&[("path", b".wh.d/a")]).file("f", ""))
            .refused("its name leads through a whiteout"),
        over("a whiteout that climbs", tar().file("d/../.wh.e", "")).refused("leads upwards"),
        case(Whiteouts, "a whiteout of nothing, in a layer alone", tar().file("d/.wh..", ""))
            .refused(nothing),
        case(
            Whiteouts,
            "whiteouts in a layer alone",
            tar().file("f", "x").file(".wh.f", "").file(".wh..wh..opq", ""),
        )
        .accepted("f=x"),
        over(
            "what AUFS has left",
            tar().file(".wh..wh.plnk/1.2", "x").file(".wh..wh.aufs", "").dir("d/.wh..wh.x"),
        )
        .accepted(LOWER)
        .differs(Umoci, "takes them for whiteouts"),
        over("a whiteout of a whiteout", tar().file(".wh..wh.e", "")).accepted(LOWER),
        over("a whiteout in capitals", tar().file(".WH.e", "")).accepted(format!("{LOWER} .WH.e=")),
        over("a whiteout that is a directory", tar().dir(".wh.e").dir("d/.wh.s"))
            .accepted("d/ d/a=1"),
        over("a whiteout that is a link", tar().symlink(".wh.e", format!("{at}/secret")))
            .accepted("d/ d/a=1 d/s/ d/s/b=2"),
        over("a whiteout that is a hard link", tar().hard(".wh.e", "d/a"))
            .accepted("d/ d/a=1 d/s/ d/s/b=2"),
        over("a whiteout that is a device", tar().character(".wh.e", 1, 3))
            .accepted("d/ d/a=1 d/s/ d/s/b=2"),
        over("a whiteout that is a FIFO", tar().fifo(".wh.e")).accepted("d/ d/a=1 d/s/ d/s/b=2"),
        over("a whiteout with data", tar().file(".wh.e", "data of a whiteout").file("f", "x"))
            .accepted("d/ d/a=1 d/s/ d/s/b=2 f=x"),
        over(
            "a whiteout with attributes",
            tar()
                .xattr("trusted.overlay.opaque", "y")
                .with(head(b'0', ".wh.e").mode(0o4777).uid(9), ""),
        )
        .accepted("d/ d/a=1 d/s/ d/s/b=2"),
        over(
            "a whiteout of what is not there",
            tar().file(".wh.none", "").file("x/.wh.y", "").file("e/.wh.y", ""),
        )
        .accepted(LOWER),
        over("a whiteout, then what it hides", tar().file(".wh.e", "").file("e", "n"))
            .accepted("d/ d/a=1 d/s/ d/s/b=2 e=n"),
        over("what is hidden, then its whiteout", tar().file("e", "n").file(".wh.e", ""))
            .accepted("d/ d/a=1 d/s/ d/s/b=2 e=n"),
        over(
            "everything hidden, and then something",
            tar().file("d/.wh..wh..opq", "").file("d/n", "n"),
        )
        .accepted("d/ d/n=n e=3"),
        over(
            "something, and then everything hidden",
            tar().file("d/n", "n").file("d/s/m", "m").file("d/.wh..wh..opq", ""),
        )
        .accepted("d/ d/n=n d/s/ d/s/m=m e=3"),
        over("the whole root hidden", tar().file("n", "n").file(".wh..wh..opq", ""))
            .accepted("n=n"),
        over("everything hidden where nothing is", tar().file("x/.wh..wh..opq", ""))
            .accepted(LOWER),
        over(
            "everything hidden in a new directory",
            tar().dir("x").file("x/n", "n").file("x/.wh..wh..opq", ""),
        )
        .accepted(format!("{LOWER} x/ x/n=n")),
        over("everything hidden in a file", tar().file("e/.wh..wh..opq", "")).accepted(LOWER),
        case(
            Whiteouts,
            "a whiteout in each of three layers",
            [lower(), tar().file(".wh.d", ""), tar().file("d/n", "n").file(".wh.e", "")],
        )
        .accepted("d/ d/n=n"),
        case(
            Whiteouts,
            "a whiteout of a FIFO, a link and a device",
            [
                tar().fifo("p").symlink("l", &at).character("c", 1, 3).file("f", "x"),
                tar().file(".wh.p", "").file(".wh.l", "").file(".wh.c", ""),
            ],
        )
        .accepted("f=x"),
        over(
            "a whiteout through a link that climbs",
            tar().symlink("l", format!("../..{at}")).file("l/.wh.secret", ""),
        )
        .accepted(format!("{LOWER} l>../..{at}")),
        over(
            "everything hidden through a link",
            tar().symlink("l", "d").file("l/.wh..wh..opq", ""),
        )
        .accepted("d/ e=3 l>d"),
        over("a whiteout through a loop", tar().symlink("l", "l").file("l/.wh.x", ""))
            .refused("too many levels of symbolic links"),
        over(
            "a whiteout of 255 bytes",
            tar().pax(&[("path", [&b".wh."[..], &[b'n'; 251]].concat().as_slice())]).file("f", ""),
        )
        .accepted(LOWER),
        over(
            "a whiteout of more bytes than a name has",
            tar().pax(&[("path", [&b".wh."[..], &[b'n'; 300]].concat().as_slice())]).file("f", ""),
        )
        .refused("File name too long"),
    ]
}

/// What umoci makes of them.
const SETS: &str = "sets those of overlay's attributes that it does not know";

fn overlay() -> Vec<Case> {
    let over = |name: &str, upper: Tar| case(Overlay, name, [lower(), upper]);
    let marked = |name: &str, value: &str| tar().xattr(name, value).dir("d");
    vec![
        over("a directory that says it is opaque", marked("trusted.overlay.opaque", "y"))
            .accepted(LOWER),
        over("a user's directory that says it is opaque", marked("user.overlay.opaque", "y"))
            .accepted(LOWER)
            .differs(Umoci, SETS),
        over("a directory that says it is another", marked("trusted.overlay.redirect", "/d/s"))
            .accepted(LOWER),
        over(
            "a user's directory that says it is another",
            marked("user.overlay.redirect", "/../../.."),
        )
        .accepted(LOWER)
        .differs(Umoci, SETS),
        over("a file whose data is elsewhere", {
            let tar =
                tar().xattr("trusted.overlay.metacopy", "").with(head(b'0', "e").size(1), "n");
            tar.xattr("trusted.overlay.redirect", "/d/a").file("f", "n")
        })
        .accepted("d/ d/a=1 d/s/ d/s/b=2 e=n f=n"),
        over("a file that says it is a whiteout", {
            let tar = tar().xattr("trusted.overlay.opaque", "x").dir("d");
            tar.xattr("trusted.overlay.whiteout", "y")
                .file("d/a", "")
                .xattr("user.overlay.whiteout", "y")
                .file("e", "")
        })
        .accepted("d/ d/a= d/s/ d/s/b=2 e=")
        .differs(Umoci, SETS),
        over("an attribute of overlay, escaped", marked("trusted.overlay.overlay.opaque", "y"))
            .accepted(LOWER)
            .differs(Umoci, SETS),
        over("where a file came from", marked("trusted.overlay.origin", "\0\u{fb}"))
            .accepted(LOWER),
        over("an attribute that looks like overlay's", {
            tar().xattr("user.overlays", "y").dir("d")
        })
        .accepted("d/(user.overlays=y) d/a=1 d/s/ d/s/b=2 e=3"),
        over("a device 0:0, which overlay takes for a whiteout", tar().character("e", 0, 0))
            .refused("a character device 0:0, which is no whiteout in a layer"),
        case(Overlay, "a device 0:0 in a layer alone", tar().character("e", 0, 0))
            .refused("a character device 0:0, which is no whiteout in a layer"),
        case(
            Overlay,
            "a device of Unix V7, which has no number",
            tar().with(head(b'3', "e").v7(), ""),
        )
        .refused("a character device 0:0, which is no whiteout in a layer"),
        // What does not fit a dev_t could become 0:0.
        case(
            Overlay,
            "a device whose number wraps to 0:0",
            tar().with(
                head(b'3', "e")
                    .put(329, &super::super::tar::base256::<8>(1 << 12))
                    .put(337, b"0000000\0"),
                "",
            ),
        )
        .refused("device number"),
        case(
            Overlay,
            "a device whose minor number wraps to 0",
            tar().with(
                head(b'3', "e")
                    .put(329, b"0000000\0")
                    .put(337, &super::super::tar::base256::<8>(1 << 20)),
                "",
            ),
        )
        .refused("device number"),
        case(
            Overlay,
            "a whiteout by a device of a lower layer",
            [lower(), tar().character("e", 1, 3), tar().file(".wh.e", "")],
        )
        .accepted("d/ d/a=1 d/s/ d/s/b=2"),
    ]
}
