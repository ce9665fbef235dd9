use std::fs;
use std::path::Component;

use common::error::{hint_of, line};
use proptest::prelude::*;

use super::*;

fn bind(source: &str, destination: &str, options: &[&str]) -> Mount {
    let options = options.iter().map(|option| option.to_string()).collect();
    let kind = Kind::Bind { source: source.into(), options };
    Mount { destination: destination.into(), kind }
}

fn tmpfs(destination: &str, options: &[&str]) -> Mount {
    let options = options.iter().map(|option| option.to_string()).collect();
    Mount { destination: destination.into(), kind: Kind::Tmpfs { options } }
}

const PLAIN: &[&str] = &["rbind", "rprivate"];
const SAFE: &[&str] = &["noexec", "nosuid", "nodev"];

#[test]
fn a_volume_option_is_a_bind_mount() {
    let table = [
        ("/a:/b", bind("/a", "/b", PLAIN)),
        ("./x:/b", bind("./x", "/b", PLAIN)),
        (".:/b", bind(".", "/b", PLAIN)),
        ("../x y:/b c", bind("../x y", "/b c", PLAIN)),
        ("/a,b:/c", bind("/a,b", "/c", PLAIN)),
        ("/a:/b:ro", bind("/a", "/b", &["rbind", "rro", "rprivate"])),
        ("/a:/b:rw", bind("/a", "/b", PLAIN)),
        ("/a:/b:rslave,ro", bind("/a", "/b", &["rbind", "rslave", "rro"])),
        ("/a:/b:private", bind("/a", "/b", &["rbind", "private"])),
        (
            "/a:/b:nosuid,nodev,noexec",
            bind("/a", "/b", &["rbind", "nosuid", "nodev", "noexec", "rprivate"]),
        ),
        ("/a:/b:z,ro,cached", bind("/a", "/b", &["rbind", "rro", "rprivate"])),
        ("/a:/b/../c//d/./", bind("/a", "/c/d", PLAIN)),
        ("/a:/../b", bind("/a", "/b", PLAIN)),
        ("/a:/ro", bind("/a", "/ro", PLAIN)),
    ];
    for (text, expected) in table {
        assert_eq!(text.parse::<Volume>().unwrap().0, expected, "{text:?}");
    }
}

#[test]
fn a_volume_option_that_is_none_is_refused() {
    let table = [
        ("/b", "volumes do not exist yet, so this needs a source (SRC:DST)"),
        ("data:/b", "volumes do not exist yet (./data is a path, data the name of a volume)"),
        ("~/x:/b", "~ is a letter like any other here ($HOME is the same to every shell)"),
        ("/a:b", "b: the destination is not an absolute path"),
        ("/a:", "the destination is empty"),
        (":/b", "the source is empty"),
        ("/a:/", "/: the root itself cannot be mounted over"),
        ("/a:/b/..", "/b/..: the root itself cannot be mounted over"),
        ("/a:ro", "options, and no destination"),
        ("/a:/b:", "no options after the last colon"),
        ("/a:/b:rx", "\"rx\": not an option of -v"),
        ("/a:/b:ro,", "\"\": not an option of -v"),
        ("/a:/b:U", "\"U\": not an option of -v"),
        ("/a:/b:ro,rw", "rw: says again, or otherwise, what an option before it says"),
        ("/a:/b:ro,ro", "ro: says again, or otherwise, what an option before it says"),
        (
            "/a:/b:slave,rprivate",
            "rprivate: says again, or otherwise, what an option before it says",
        ),
        ("/a:/b:shared", "shared: what a container mounts never reaches the host"),
        ("/a:/b:nocopy", "nocopy: only of use to a volume, and volumes do not exist yet"),
        ("/a:/b:ro:x", "too many colons; --mount takes a path that has some"),
    ];
    for (text, expected) in table {
        assert_eq!(text.parse::<Volume>().unwrap_err().to_string(), expected, "{text:?}");
    }
    assert!("".parse::<Volume>().is_err());
}

#[test]
fn a_mount_option_is_fields_of_csv() {
    let ro = &["rbind", "rro", "rprivate"];
    let table = [
        ("type=bind,src=/a,dst=/b", bind("/a", "/b", PLAIN)),
        ("type=bind,source=a,target=/b", bind("a", "/b", PLAIN)),
        ("TYPE=Bind,SRC=/a,Destination=/b", bind("/a", "/b", PLAIN)),
        ("dst=/b,src=/a,type=bind,readonly", bind("/a", "/b", ro)),
        ("type=bind,src=/a,dst=/b,ro=true", bind("/a", "/b", ro)),
        ("type=bind,src=/a,dst=/b,readonly=0", bind("/a", "/b", PLAIN)),
        ("type=bind,\"src=/a,b\",dst=/c", bind("/a,b", "/c", PLAIN)),
        ("type=bind,\"src=/a\"\"b\",dst=/c:d", bind("/a\"b", "/c:d", PLAIN)),
        ("type=bind,src=/a=b,dst=/c", bind("/a=b", "/c", PLAIN)),
        ("type=bind,src=/a,dst=/b,bind-propagation=rslave", bind("/a", "/b", &["rbind", "rslave"])),
        (
            "type=bind,src=/a,dst=/b,bind-recursive=disabled",
            bind("/a", "/b", &["bind", "rprivate"]),
        ),
        (
            "type=bind,src=/a,dst=/b,bind-nonrecursive,readonly",
            bind("/a", "/b", &["bind", "ro", "rprivate"]),
        ),
        (
            "type=bind,src=/a,dst=/b,bind-recursive=writable,readonly",
            bind("/a", "/b", &["rbind", "ro", "rprivate"]),
        ),
        ("type=bind,src=/a,dst=/b,bind-recursive=readonly,readonly", bind("/a", "/b", ro)),
        ("type=bind,src=/a,dst=/b,consistency=cached", bind("/a", "/b", PLAIN)),
        ("type=tmpfs,dst=/t", tmpfs("/t", SAFE)),
        (
            "type=tmpfs,dst=/t,tmpfs-size=1.5k,tmpfs-mode=1770",
            tmpfs("/t", &["noexec", "nosuid", "nodev", "size=1536", "mode=1770"]),
        ),
        ("type=tmpfs,dst=/t,readonly", tmpfs("/t", &["noexec", "nosuid", "nodev", "ro"])),
    ];
    for (text, expected) in table {
        assert_eq!(text.parse::<Long>().unwrap().0, expected, "{text:?}");
    }
}

const NO_TYPE: &str = "volumes do not exist yet (type=bind,src=PATH,dst=PATH mounts a path; the \
    default type is volume)";

#[test]
fn a_mount_option_that_is_wrong_is_refused() {
    let table = [
        ("src=/a,dst=/b", NO_TYPE),
        ("type=volume,src=v,dst=/b", NO_TYPE),
        ("type=image,src=v,dst=/b", "type \"image\": not a type of mount (bind or tmpfs)"),
        ("type=bind,dst=/b", "src is missing"),
        ("type=bind,src=/a", "dst is missing"),
        ("type=bind,src=,dst=/b", "src: the value is missing"),
        ("type=bind,src,dst=/b", "src: the value is missing"),
        ("type=bind,src=/a,dst=b", "b: the destination is not an absolute path"),
        ("type=bind,src=/a,src=/b,dst=/c", "src: given twice"),
        ("type=bind,src=/a,source=/b,dst=/c", "src: given twice"),
        ("type=bind,src=/a, dst=/b", "\" dst=/b\": there must be no blanks around a key or value"),
        ("type=bind,src=/a,dst= /b", "\"dst= /b\": there must be no blanks around a key or value"),
        ("type=bind,src=/a,dst=/b,color=red", "\"color\": not a key of --mount"),
        ("type=bind,src=/a,dst=/b,", "\"\": not a key of --mount"),
        ("type=bind,src=/a,dst=/b,volume-nocopy", "volume-nocopy: only of use to type=volume"),
        ("type=bind,src=/a,dst=/b,tmpfs-size=1", "the tmpfs- keys are only of use to type=tmpfs"),
        ("type=bind,src=/a,dst=/b,readonly=yes", "readonly: \"yes\": neither true nor false"),
        (
            "type=bind,src=/a,dst=/b,bind-propagation=ro",
            "bind-propagation: \"ro\": not a propagation (rprivate, rslave)",
        ),
        (
            "type=bind,src=/a,dst=/b,bind-propagation=rshared",
            "rshared: what a container mounts never reaches the host",
        ),
        (
            "type=bind,src=/a,dst=/b,bind-recursive=readonly",
            "bind-recursive=readonly needs readonly",
        ),
        (
            "type=bind,src=/a,dst=/b,bind-recursive=no",
            "bind-recursive: \"no\": not enabled, disabled, writable or readonly",
        ),
        ("type=tmpfs,src=/a,dst=/b", "a tmpfs has no source"),
        ("type=tmpfs,dst=/b,bind-recursive=enabled", "the bind- keys are only of use to type=bind"),
        ("type=tmpfs,dst=/b,tmpfs-size=lots", "tmpfs-size: \"lots\": not a size (64m, 1.5g)"),
        ("type=tmpfs,dst=/b,tmpfs-mode=999", "tmpfs-mode: mode \"999\": not octal"),
        ("type=bind,\"src=/a,dst=/b", "a quote is not closed"),
        ("type=bind,\"src=/a\"x,dst=/b", "x,dst=/b: text after a closing quote"),
        ("type=bind,src=\"/a\",dst=/b", "src=\"/a\": a quote in the middle of a field"),
        ("type=bind\nsrc=/a", "it must be one line"),
    ];
    for (text, expected) in table {
        assert_eq!(text.parse::<Long>().unwrap_err().to_string(), expected, "{text:?}");
    }
    assert!("".parse::<Long>().is_err());
}

#[test]
fn a_tmpfs_option_is_safe_unless_it_says_otherwise() {
    let table = [
        ("/t", tmpfs("/t", SAFE)),
        ("/t:", tmpfs("/t", SAFE)),
        ("/t:exec", tmpfs("/t", &["nosuid", "nodev"])),
        ("/t:rw,exec,suid,dev", tmpfs("/t", &[])),
        ("/t:exec,noexec", tmpfs("/t", &["nosuid", "nodev", "noexec"])),
        ("/t:ro", tmpfs("/t", &["noexec", "nosuid", "nodev", "ro"])),
        ("/t:size=64m", tmpfs("/t", &["noexec", "nosuid", "nodev", "size=67108864"])),
        ("/t:size=50%", tmpfs("/t", &["noexec", "nosuid", "nodev", "size=50%"])),
        ("/t:size=1m,size=1k", tmpfs("/t", &["noexec", "nosuid", "nodev", "size=1024"])),
        (
            "/t:mode=0755,uid=10,gid=20,nr_inodes=1k",
            tmpfs(
                "/t",
                &["noexec", "nosuid", "nodev", "mode=755", "uid=10", "gid=20", "nr_inodes=1024"],
            ),
        ),
    ];
    for (text, expected) in table {
        assert_eq!(text.parse::<Tmpfs>().unwrap().0, expected, "{text:?}");
    }
    let bads = [
        "",
        ":ro",
        "t",
        "/",
        "/t:x",
        "/t:size",
        "/t:size=",
        "/t:size=101%",
        "/t:mode=8",
        "/t:mode=77777",
        "/t:uid=root",
        "/t:uid=-1",
        "/t:bind",
        "/t:ro,,rw",
        "/t:huge=always",
        "/t:mpol=bind:0",
        "/t:size=1m,",
        "/t:lowerdir=/",
    ];
    for bad in bads {
        assert!(bad.parse::<Tmpfs>().is_err(), "{bad:?}");
    }
}

#[test]
fn a_source_that_is_not_there_is_an_error_and_nothing_is_made() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    fs::create_dir(dir.join("a")).unwrap();
    let mount = bind(dir.join("a/b/c").to_str().unwrap(), "/x", PLAIN);
    let err = mount.to_oci().unwrap_err();
    let dir = dir.display();
    assert_eq!(line(&err), format!("{dir}/a/b/c: No such file or directory (os error 2)"));
    assert_eq!(hint_of(&err).unwrap(), format!("of this path there is {dir}/a"));
}

#[test]
fn a_mount_becomes_one_of_the_spec() {
    let here = bind(".", "/x", PLAIN).to_oci().unwrap();
    assert!(here.source().as_ref().unwrap().is_absolute());
    assert_eq!(here.typ().as_deref(), Some("bind"));
    assert_eq!(here.options().as_deref().unwrap(), ["rbind", "rprivate"]);
    let memory = tmpfs("/t", SAFE).to_oci().unwrap();
    assert_eq!(memory.typ().as_deref(), Some("tmpfs"));
    assert_eq!(memory.destination(), Path::new("/t"));
}

proptest! {
    #[test]
    fn no_text_breaks_a_parser(text in "[ -~/:,=\"]{0,40}|\\PC{0,40}") {
        for mount in [
            text.parse::<Volume>().ok().map(|volume| volume.0),
            text.parse::<Long>().ok().map(|long| long.0),
            text.parse::<Tmpfs>().ok().map(|tmpfs| tmpfs.0),
        ].into_iter().flatten() {
            let destination = Path::new(&mount.destination);
            prop_assert!(destination.is_absolute() && mount.destination != "/");
            prop_assert!(destination.components().skip(1).all(|part| matches!(part, Component::Normal(_))));
        }
    }

    #[test]
    fn any_path_can_be_mounted_by_csv(path in "/[ -~]{1,20}") {
        prop_assume!(path.trim() == path);
        let text = format!("type=bind,\"src={}\",dst=/x", path.replace('"', "\"\""));
        prop_assert_eq!(text.parse::<Long>().unwrap().0, bind(&path, "/x", PLAIN));
    }

    /// The short form and the long one are two ways to say one thing.
    #[test]
    fn both_forms_mean_the_same(
        source in "[./][a-zA-Z0-9 ._/=-]{0,12}[a-z]",
        target in "/[a-zA-Z0-9 ._/=-]{0,12}[a-z]",
        readonly in any::<bool>(),
        slave in any::<bool>(),
    ) {
        let words = [(readonly, "ro"), (slave, "rslave")];
        let words: Vec<&str> = words.iter().filter(|(on, _)| *on).map(|(_, word)| *word).collect();
        let colon = if words.is_empty() { "" } else { ":" };
        let short = format!("{source}:{target}{colon}{}", words.join(","));
        let readonly = if readonly { ",readonly" } else { "" };
        let propagation = if slave { ",bind-propagation=rslave" } else { "" };
        let long = format!("type=bind,src={source},dst={target}{readonly}{propagation}");
        match (short.parse::<Volume>(), long.parse::<Long>()) {
            (Ok(Volume(short)), Ok(Long(long))) => prop_assert_eq!(short, long),
            (short, long) => prop_assert!(short.is_err() && long.is_err(), "{:?} {:?}", short, long),
        }
    }

    #[test]
    fn options_of_tmpfs_are_what_they_were(size in 0u64..1 << 40, mode in 0u32..0o10000, uid in any::<u32>(), ro in any::<bool>()) {
        let text = format!("/t:size={size},mode={mode:o},uid={uid}{}", if ro { ",ro" } else { "" });
        let Tmpfs(mount) = text.parse().unwrap();
        let Kind::Tmpfs { options } = mount.kind else { panic!("{text}") };
        let mut expected: Vec<String> = ["noexec", "nosuid", "nodev"].map(String::from).into();
        expected.extend([format!("size={size}"), format!("mode={mode:o}"), format!("uid={uid}")]);
        expected.extend(ro.then(|| "ro".into()));
        prop_assert_eq!(options, expected);
    }
}
