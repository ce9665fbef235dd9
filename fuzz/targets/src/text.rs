//! Everything that is a line of text: what users type, and what registries and images say in headers and fields.

use std::sync::OnceLock;

use clap::Parser;
use common::cli::{Operand, size};
use common::digest::Digest;
use common::human;
use common::passwd;
use common::platform::Platform;
use common::reference::Reference;
use common::template::Template;
use serde_json::{Map, Value, json};

use crate::change::Change;
use crate::options::Options;
use crate::{challenge, env, mount};

/// The first byte selects the grammar, the rest is the text.
pub fn text(data: &[u8]) {
    let Some((which, bytes)) = data.split_first() else { return };
    let lossy = String::from_utf8_lossy(bytes);
    match which % 16 {
        0 => reference(&lossy),
        1 => operand(&lossy),
        2 => digest(&lossy),
        3 => platform(&lossy),
        4 => env_file(bytes),
        5 => volume(&lossy),
        6 => long_mount(&lossy),
        7 => tmpfs(&lossy),
        8 => command_line(&lossy),
        9 => user(bytes),
        10 => challenges(&lossy),
        11 => template(&lossy),
        12 => sizes(&lossy),
        13 => changes(&lossy),
        14 => message(&lossy),
        _ => dir(&lossy),
    }
}

/// What is accepted is of the grammar, and printed as what reads back as the same.
fn reference(text: &str) {
    let Ok(name) = text.parse::<Reference>() else { return };
    for printed in [name.to_string(), name.full()] {
        let again: Reference = printed.parse().unwrap();
        assert_eq!((again.full(), again.tag()), (name.full(), name.tag()), "{text:?} {printed:?}");
        assert!(printed.is_ascii() && !printed.contains(|c: char| c.is_ascii_control()));
    }
    assert_eq!(name.to_string().parse::<Reference>().unwrap().digest(), name.digest(), "{text:?}");
    // These become directories, URLs and the names in other tools' files.
    for part in name.path().split('/').chain(name.tag()) {
        assert!(!part.is_empty() && !part.starts_with(['.', '-']), "{text:?}");
    }
    assert!(!name.domain().contains('/') && !name.domain().is_empty(), "{text:?}");
    let pinned = name.at(&Digest::of(b""));
    assert_eq!(pinned.parse::<Reference>().unwrap().digest(), Some(&Digest::of(b"")), "{text:?}");
    assert_eq!(name.with_tag("v1").unwrap().repository(), name.repository());
    assert!(name.with_tag(text).map_or(true, |tagged| tagged.tag() == Some(text)));
}

fn operand(text: &str) {
    let Ok(operand) = text.parse::<Operand>() else { return };
    let printed = operand.to_string();
    // Digits and places lose what kind they are of, and nothing else.
    if matches!(operand, Operand::Name(_) | Operand::Path(_) | Operand::Stdin) {
        assert_eq!(printed.parse::<Operand>().unwrap().to_string(), printed, "{text:?}");
    }
}

fn digest(text: &str) {
    let Ok(digest) = text.parse::<Digest>() else { return };
    assert_eq!(digest.to_string(), text);
    assert_eq!(format!("{}:{}", digest.algorithm(), digest.hex()), text);
    assert!(text.bytes().all(|c| c.is_ascii_alphanumeric() || c == b':'));
    let oci = oci_spec::image::Digest::from(&digest);
    assert_eq!(Digest::try_from(&oci).unwrap(), digest);
}

fn platform(text: &str) {
    let mut parsed = Vec::new();
    for text in text.split(',') {
        let Ok(platform) = text.parse::<Platform>() else { continue };
        let again: Platform = platform.to_string().parse().unwrap();
        assert_eq!(again, platform, "{text:?}");
        assert_eq!(platform.rank(&platform), Some(0), "{text:?}");
        parsed.push(platform);
    }
    // Those of an index are not checked before they are ranked.
    let raw = text.splitn(3, '/').collect::<Vec<_>>();
    if let [os, architecture, variant] = raw[..] {
        parsed.push(Platform::new(os, architecture, Some(variant)));
    }
    for wanted in &parsed {
        for offered in &parsed {
            let both = (wanted.rank(offered), offered.rank(wanted));
            assert!(!matches!(both, (Some(1..), Some(1..))), "{wanted} {offered}");
        }
    }
}

fn env_file(bytes: &[u8]) {
    let Ok(variables) = env::parse(bytes) else { return };
    for variable in variables {
        let (env::Variable::Set(text) | env::Variable::Inherit(text)) = &variable;
        assert!(!text.is_empty() && !text.starts_with('=') && !text.contains(['\0', '\n']));
        assert_eq!(text.parse::<env::Variable>().unwrap(), variable);
        let set = matches!(variable, env::Variable::Set(_));
        assert_eq!(text.contains('='), set);
    }
}

fn check(mount: &mount::Mount, text: &str) {
    let to = &mount.destination;
    assert!(to.starts_with('/') && to.len() > 1 && !to.contains("//"), "{text:?}");
    assert!(to.split('/').all(|part| part != "." && part != ".."), "{text:?}");
    let (mount::Kind::Bind { options, .. } | mount::Kind::Tmpfs { options }) = &mount.kind;
    // One option each: a comma would begin another one.
    assert!(
        options.iter().all(|option| !option.contains([',', '\0', ' '])),
        "{text:?} {options:?}"
    );
    if let mount::Kind::Tmpfs { .. } = mount.kind {
        let oci = mount.to_oci().unwrap();
        assert_eq!(oci.destination().to_str(), Some(to.as_str()));
    }
}

fn volume(text: &str) {
    let Ok(mount::Volume(mount)) = text.parse() else { return };
    check(&mount, text);
    let mount::Kind::Bind { source, options } = &mount.kind else { panic!("{text:?}") };
    assert!(text.starts_with(source.to_str().unwrap()));
    assert!(options.iter().any(|option| option.contains("private") || option.contains("slave")));
}

fn long_mount(text: &str) {
    let Ok(mount::Long(mount)) = text.parse() else { return };
    check(&mount, text);
    let (mount::Kind::Bind { options, .. } | mount::Kind::Tmpfs { options }) = &mount.kind;
    if options.iter().any(|option| option == "ro" || option == "rro") {
        let text = text.to_lowercase();
        assert!(text.contains("readonly") || text.contains("ro"), "{text:?}");
    }
}

fn tmpfs(text: &str) {
    let Ok(mount::Tmpfs(mount)) = text.parse() else { return };
    check(&mount, text);
    let mount::Kind::Tmpfs { options } = &mount.kind else { panic!("{text:?}") };
    let mut keys: Vec<&str> = options.iter().filter_map(|o| o.split('=').next()).collect();
    keys.sort();
    let all = keys.len();
    keys.dedup();
    assert_eq!(keys.len(), all, "{text:?}: {options:?}");
}

#[derive(Parser)]
struct Args {
    #[command(flatten)]
    options: Options,
}

/// The words of a command line are what newlines separate.
fn command_line(text: &str) {
    let words = std::iter::once("ctr-spawn").chain(text.split('\n'));
    let Ok(Args { options }) = Args::try_parse_from(words) else { return };
    if let Ok(mounts) = options.all_mounts() {
        let places: Vec<&str> = mounts.iter().map(|mount| mount.destination.as_str()).collect();
        let depth = |place: &str| place.matches('/').count();
        assert!(places.is_sorted_by_key(|place| depth(place)), "{text:?}");
    }
    if let Ok((_, command)) = options.target() {
        // What follows the image is the container's, to the letter.
        let words: Vec<&str> = text.split('\n').collect();
        assert!(words.ends_with(&command.iter().map(String::as_str).collect::<Vec<_>>()));
    }
}

/// Up to the first NUL the user, up to the second passwd, then group.
fn user(bytes: &[u8]) {
    let mut parts = bytes.splitn(3, |byte| *byte == 0);
    let mut part = || parts.next().unwrap_or_default();
    let (text, passwd, group) = (String::from_utf8_lossy(part()), part(), part());
    let Ok(user) = passwd::find(&text, passwd, group) else { return };
    let limit = i32::MAX as u32;
    assert!(user.uid <= limit && user.groups.iter().all(|gid| *gid <= limit), "{text:?}");
    assert_eq!(user.groups.first(), Some(&user.gid));
    assert!(!user.home.is_empty() && !user.home.contains('\0'));
    // Nobody becomes root but by root's number or by a line of passwd that says so.
    if user.uid == 0 {
        let name = text.split(':').next().unwrap_or_default();
        let zero = name.bytes().all(|c| c == b'0');
        let line = [name.as_bytes(), b":"].concat();
        let named = passwd.split(|c| *c == b'\n').any(|l| l.trim_ascii().starts_with(&line));
        assert!(zero || named, "{text:?}");
    }
}

fn challenges(text: &str) {
    let found = challenge::parse(text);
    for challenge in &found {
        assert!(!challenge.scheme.is_empty() && challenge.scheme.is_ascii());
        assert_eq!(challenge.scheme, challenge.scheme.to_ascii_lowercase());
        // What is sent to the realm is what the header had in it.
        for key in ["realm", "service", "scope"] {
            let Some(value) = challenge.get(key) else { continue };
            assert!(value.chars().all(|c| text.contains(c)), "{text:?}");
        }
    }
    // A list of one and one is the list of both, if the first is whole.
    let both = challenge::parse(&format!("Basic realm=\"a\", {text}"));
    // A word before `=` is no scheme where there is one that it may be a parameter of.
    let scheme = text.strip_prefix("Bearer ").map(|rest| rest.trim_start_matches([' ', '\t']));
    if text.len() < 8000 && scheme.is_some_and(|rest| !rest.starts_with('=')) {
        assert_eq!(both.len(), found.len() + 1, "{text:?}");
    }
}

fn template(text: &str) {
    static ROW: OnceLock<Value> = OnceLock::new();
    let row = ROW.get_or_init(|| {
        json!({
            "ID": "0123456789ab", "Name": "wäb", "N": 3, "Big": u64::MAX, "Neg": -7, "Float": 1.5,
            "Yes": true, "None": null, "Empty": [], "Ports": ["80/tcp"], "Labels": {"a": "1"},
        })
    });
    let Ok(template) = Template::parse(text) else { return };
    let first = template.render(row).ok();
    assert_eq!(first, template.render(row).ok(), "{text:?}");
    if !text.contains("{{") {
        assert_eq!(first.as_deref(), Some(text));
    }
    let _ = template.heading(&[("ID", "ID"), ("Name", "NAME")].into());
}

fn sizes(text: &str) {
    if let Ok(bytes) = size(text) {
        // The same number, said in the smallest unit.
        assert_eq!(size(&bytes.to_string()).unwrap(), bytes);
        assert_eq!(size(&format!("{bytes}b")).unwrap(), bytes);
        let printed = human::size(bytes);
        assert!(printed.len() < 12 && printed.ends_with('B'), "{bytes}: {printed}");
    }
    if let Ok(number) = text.parse::<u64>() {
        human::size(number);
    }
    if let Ok(number) = text.parse::<i64>() {
        assert!(human::age(number).ends_with(" ago"));
    }
}

/// One instruction a line, each made in the same config.
fn changes(text: &str) {
    let mut config = Map::new();
    for line in text.split('\n').filter(|line| line.matches('-').count() < 3) {
        if let Ok(change) = line.parse::<Change>() {
            change.apply(&mut config);
            let once = config.clone();
            if !matches!(change, Change::OnBuild(_) | Change::Workdir(_)) {
                change.apply(&mut config);
                assert_eq!(config, once, "{line:?}");
            }
        }
    }
}

/// No name of a stranger drives the terminal.
fn message(text: &str) {
    let line = common::error::line(&anyhow::anyhow!("{text}"));
    assert!(!line.contains(|c: char| c.is_control()), "{text:?}");
}

fn dir(text: &str) {
    let Ok(dir) = text.parse::<common::cli::Dir>() else { return };
    let printed = dir.to_string();
    assert!(matches!(printed.parse(), Ok(Operand::Path(_))), "{text:?}");
    let digest = Digest::of(b"");
    let line = dir.at(None, &digest);
    assert_eq!(line.parse::<Operand>().unwrap().to_string(), line, "{text:?}");
    assert!(!line.contains('\n'));
}
