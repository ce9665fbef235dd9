//! The command line of ctr-spawn: Docker's options, with its grammar and its meaning.
//!
//! Options end at the first operand; what follows belongs to the container,
//! whatever it looks like.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Error, Result, anyhow, bail, ensure};
use clap::{ArgAction, ValueEnum};
use common::bundle::{self, Mappings};
use common::cli::{self, Operand, Root};
use common::error::{Hint, Usage};

use crate::env::Variable;
use crate::mount::{Long, Mount, Tmpfs, Volume};

// What the container is and how it is run. As a doc comment this would take the place of the tool's own.
#[derive(clap::Args, Clone, Debug)]
#[command(disable_help_flag = true, args_override_self = true)]
pub struct Options {
    #[command(flatten)]
    pub root: Root,

    /// Run the bundle in DIR, as its config.json says
    #[arg(long, value_name = "DIR", conflicts_with = "rootfs")]
    pub bundle: Option<PathBuf>,

    /// Run in the tree in DIR
    #[arg(long, value_name = "DIR")]
    pub rootfs: Option<PathBuf>,

    /// When to pull the image: missing, always or never
    #[arg(long, value_name = "WHEN", default_value = "missing", hide_possible_values = true)]
    pub pull: Pull,

    /// Call the container NAME
    #[arg(long, value_name = "NAME")]
    name: Option<Name>,

    /// Remove the container when it has ended
    #[arg(long)]
    pub rm: bool,

    /// Write the ID of the container to FILE, which must not exist
    #[arg(long, value_name = "FILE")]
    pub cidfile: Option<PathBuf>,

    /// Give the container our stdin
    #[arg(short, long)]
    pub interactive: bool,

    /// Give the container a terminal
    #[arg(short, long)]
    pub tty: bool,

    /// Run a small init as process 1, which reaps what others leave
    #[arg(long)]
    pub init: bool,

    /// Kill the container after so long, as 90, 1.5s or 1h30m, and exit with 124
    #[arg(long, value_name = "TIME", value_parser = cli::duration)]
    pub timeout: Option<Duration>,

    /// Set a variable; without a value it is our own, or goes if we have none
    #[arg(short, long = "env", value_name = "K[=V]")]
    pub env: Vec<Variable>,

    /// Set the variables in FILE, one a line
    #[arg(long, value_name = "FILE")]
    pub env_file: Vec<PathBuf>,

    /// Start in the directory DIR, which is made if it is not there
    #[arg(short, long, value_name = "DIR")]
    pub workdir: Option<String>,

    /// Run as USER[:GROUP], each a name or a number
    #[arg(short, long, value_name = "USER")]
    pub user: Option<String>,

    /// Run this program instead of the image's, whose CMD is dropped; "" for none
    #[arg(long, value_name = "PROGRAM")]
    pub entrypoint: Option<String>,

    /// What the container calls its machine
    #[arg(short = 'h', long, value_name = "NAME")]
    hostname: Option<Hostname>,

    /// none: only a loopback of its own; host: the host's
    #[arg(long, visible_alias = "net", value_name = "NETWORK")]
    pub network: Option<Network>,

    #[arg(short, long, hide = true, value_parser = no_ports)]
    publish: Vec<String>,

    /// Make the root read-only
    #[arg(long)]
    pub read_only: bool,

    /// Keep the container from nothing that we may do ourselves: as root that is the whole machine
    #[arg(long)]
    pub privileged: bool,

    /// Mount a file or directory: SRC:DST[:ro,rslave,nosuid,nodev,noexec,...]
    #[arg(short, long = "volume", value_name = "MOUNT")]
    pub volumes: Vec<Volume>,

    /// Mount by keys: type=bind|tmpfs,src=SRC,dst=DST[,readonly,...]
    #[arg(long = "mount", value_name = "MOUNT")]
    pub mounts: Vec<Long>,

    /// Mount memory: DST[:size=64m,mode=1777,exec,...]
    #[arg(long, value_name = "MOUNT")]
    pub tmpfs: Vec<Tmpfs>,

    /// Print help
    #[arg(long, action = ArgAction::Help)]
    help: Option<bool>,

    /// The image, unless --bundle or --rootfs is given; and the command
    #[arg(value_name = "IMAGE] [CMD", trailing_var_arg = true)]
    words: Vec<String>,
}

/// What to run a container on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// An image.
    Image(Operand),
    /// A directory with a config.json.
    Bundle(PathBuf),
    /// A bare tree.
    Rootfs(PathBuf),
}

impl Options {
    /// Returns what to run and the command, which may be empty.
    pub fn target(&self) -> Result<(Target, &[String])> {
        if let Some(dir) = &self.bundle {
            return Ok((Target::Bundle(dir.clone()), &self.words));
        }
        if let Some(dir) = &self.rootfs {
            return Ok((Target::Rootfs(dir.clone()), &self.words));
        }
        let Some((image, command)) = self.words.split_first() else {
            return Err(Error::new(Usage("no image, --bundle or --rootfs is given".into())))
                .hint(|| "ctr-spawn --help".into());
        };
        let image = image.parse().map_err(|err| Usage(common::error::line(&err)))?;
        Ok((Target::Image(image), command))
    }

    /// Returns the name of the container, if it was given one.
    pub fn name(&self) -> Option<&str> {
        self.name.as_ref().map(|name| name.0.as_str()).filter(|name| !name.is_empty())
    }

    /// Returns the name of its machine, if it was given one.
    pub fn hostname(&self) -> Option<&str> {
        self.hostname.as_ref().map(|name| name.0.as_str()).filter(|name| !name.is_empty())
    }

    /// Returns what these options say to the spec of an image. `hostname` is that of a container that has none of its own.
    pub fn for_image(&self, hostname: &str, mappings: Option<Mappings>) -> bundle::Options {
        bundle::Options {
            terminal: self.tty,
            hostname: Some(self.hostname().unwrap_or(hostname).to_string()),
            user: self.user.clone().filter(|user| !user.is_empty()),
            host_network: self.network == Some(Network::Host),
            mappings,
            unprivileged: false,
            masked: bundle::thermal_throttle(),
        }
    }

    /// Returns all mounts that are asked for, those of a directory before those within it.
    pub fn all_mounts(&self) -> Result<Vec<&Mount>> {
        let mut mounts: Vec<&Mount> = Vec::new();
        mounts.extend(self.volumes.iter().map(|volume| &volume.0));
        mounts.extend(self.mounts.iter().map(|mount| &mount.0));
        mounts.extend(self.tmpfs.iter().map(|tmpfs| &tmpfs.0));
        mounts.sort_by_key(|mount| mount.destination.matches('/').count());
        for (at, mount) in mounts.iter().enumerate() {
            let twice = mounts[..at].iter().any(|other| other.destination == mount.destination);
            ensure!(!twice, Usage(format!("{}: two mounts are to be there", mount.destination)));
        }
        Ok(mounts)
    }
}

/// When to pull an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Pull {
    /// If it is not here.
    Missing,
    /// Every time.
    Always,
    /// Not at all.
    Never,
}

/// What the container is connected to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    /// A loopback of its own.
    None,
    /// What the host is connected to.
    Host,
}

impl FromStr for Network {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        match text {
            "none" => Ok(Network::None),
            "host" => Ok(Network::Host),
            _ => bail!("networks do not exist yet (none or host)"),
        }
    }
}

fn no_ports(_: &str) -> Result<String> {
    Err(anyhow!("networks do not exist yet"))
}

/// The name of a container; to Docker an empty one is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name(pub String);

impl FromStr for Name {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        // Docker's rule: so that it is no option, no path, and not a letter only.
        let inner = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
        let valid = text.starts_with(|c: char| c.is_ascii_alphanumeric())
            && text.chars().all(inner)
            && (2..=255).contains(&text.len());
        ensure!(valid || text.is_empty(), "not a name of a container ([a-zA-Z0-9][a-zA-Z0-9_.-]+)");
        Ok(Name(text.into()))
    }
}

/// The name of a machine; to Docker an empty one is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hostname(pub String);

impl FromStr for Hostname {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        ensure!(bundle::is_hostname(text) || text.is_empty(), "not a name of a machine");
        Ok(Hostname(text.into()))
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use common::error::line;
    use proptest::prelude::*;

    use super::*;

    #[derive(Parser, Debug)]
    struct Args {
        #[command(flatten)]
        options: Options,
    }

    fn parse(line: &[&str]) -> Result<Options, clap::Error> {
        let line = std::iter::once("ctr-spawn").chain(line.iter().copied());
        Ok(Args::try_parse_from(line)?.options)
    }

    fn words(line: &[&str]) -> Vec<String> {
        parse(line).unwrap().words
    }

    #[test]
    fn the_definition_holds_together() {
        use clap::CommandFactory;
        Args::command().debug_assert();
    }

    #[test]
    fn options_end_at_the_first_operand() {
        let table: &[(&[&str], &[&str])] = &[
            (&["app"], &["app"]),
            (&["--rm", "app", "--rm", "-i", "x"], &["app", "--rm", "-i", "x"]),
            (&["app", "--", "x"], &["app", "--", "x"]),
            (&["app", "-h"], &["app", "-h"]),
            (&["app", "--help"], &["app", "--help"]),
            (&["app", "--unknown=1", "-"], &["app", "--unknown=1", "-"]),
            (&["--", "app", "-x"], &["app", "-x"]),
            (&["-", "wc", "-c"], &["-", "wc", "-c"]),
            (&["-it", "app", "sh"], &["app", "sh"]),
            (&["--bundle", "b", "--", "-x"], &["-x"]),
            (&["app", ""], &["app", ""]),
        ];
        for (line, expected) in table {
            assert_eq!(words(line), *expected, "{line:?}");
        }
        assert!(!parse(&["app", "--rm"]).unwrap().rm);
    }

    #[test]
    fn what_is_run_is_named_by_the_options_alone() {
        let target = |line: &[&str]| {
            let options = parse(line).unwrap();
            options.target().map(|(target, command)| (target, command.to_vec()))
        };
        let image: Operand = "app:v1".parse().unwrap();
        assert_eq!(target(&["app:v1", "a"]).unwrap(), (Target::Image(image), vec!["a".into()]));
        let bundle = Target::Bundle("./b".into());
        assert_eq!(target(&["--bundle", "./b"]).unwrap(), (bundle.clone(), vec![]));
        assert_eq!(target(&["--bundle", "./b", "app"]).unwrap(), (bundle, vec!["app".into()]));
        let rootfs = Target::Rootfs("/r".into());
        assert_eq!(target(&["--rootfs=/r", "sh"]).unwrap(), (rootfs, vec!["sh".into()]));
        let err = target(&["--rm"]).unwrap_err();
        assert_eq!(line(&err), "no image, --bundle or --rootfs is given");
        assert!(common::error::find::<Usage>(&target(&["App"]).unwrap_err()).is_some());
        assert!(parse(&["--bundle", "b", "--rootfs", "r"]).is_err());
    }

    #[test]
    fn options_are_read_as_docker_reads_them() {
        let line = [
            "--name",
            "web",
            "-e",
            "A=1",
            "--env",
            "B",
            "-eC=3",
            "--env-file",
            "f",
            "-w",
            "/srv",
            "-u",
            "app:staff",
            "--entrypoint",
            "",
            "-v",
            "/a:/b:ro",
            "--mount",
            "type=tmpfs,dst=/t",
            "-h",
            "box",
            "--net",
            "host",
            "--read-only",
            "--tmpfs",
            "/run",
            "--init",
            "-i",
            "-t",
            "--cidfile",
            "id",
            "--timeout",
            "1h30m",
            "--pull=never",
            "app",
        ];
        let options = parse(&line).unwrap();
        assert_eq!(options.env.len(), 3);
        assert_eq!(options.entrypoint.as_deref(), Some(""));
        assert_eq!(options.hostname, Some(Hostname("box".into())));
        assert_eq!(options.network, Some(Network::Host));
        assert_eq!(options.timeout, Some(Duration::from_secs(5400)));
        assert_eq!(options.pull, Pull::Never);
        assert!(options.read_only && options.init && options.interactive && options.tty);
        let places: Vec<&str> =
            options.all_mounts().unwrap().iter().map(|mount| &*mount.destination).collect();
        assert_eq!(places, ["/b", "/t", "/run"]);
    }

    #[test]
    fn an_option_given_twice_counts_as_the_last_one_says() {
        let options = parse(&["--rm", "--rm", "-w", "/a", "-w", "/b", "-e", "A", "-e", "B", "app"]);
        let options = options.unwrap();
        assert!(options.rm);
        assert_eq!(options.workdir.as_deref(), Some("/b"));
        assert_eq!(options.env.len(), 2);
    }

    #[test]
    fn what_is_not_offered_is_refused_by_its_name() {
        for bad in ["-d", "--gpus=all", "-m", "--memory=1g", "--no-such"] {
            let text = parse(&[bad, "app"]).unwrap_err().to_string();
            let name = bad.split('=').next().unwrap();
            assert!(text.contains(name), "{text}");
        }
        for bad in [["-p", "80:80"], ["--publish", "80"], ["--network", "bridge"]] {
            let text = parse(&[bad[0], bad[1], "app"]).unwrap_err().to_string();
            assert!(text.contains("networks do not exist yet"), "{text}");
        }
        for bad in [
            ["--pull", "sometimes"],
            ["-v", "data:/x"],
            ["-e", "=x"],
            ["--name", "a"],
            ["--name", "-x"],
            ["--name", "a/b"],
            ["-h", "a b"],
            ["--timeout", "soon"],
            ["--tmpfs", "x"],
            ["--mount", "x"],
        ] {
            assert!(parse(&[bad[0], bad[1], "app"]).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn mounts_are_ordered_by_depth_and_never_two_at_a_place() {
        let line = ["-v", "/x:/a/b/c", "--tmpfs", "/a", "-v", "/x:/a/b", "-v", "/x:/z", "app"];
        let options = parse(&line).unwrap();
        let places: Vec<&str> =
            options.all_mounts().unwrap().iter().map(|mount| &*mount.destination).collect();
        assert_eq!(places, ["/z", "/a", "/a/b", "/a/b/c"]);
        let options = parse(&["-v", "/x:/a", "--tmpfs", "/b/../a/", "app"]).unwrap();
        let err = options.all_mounts().unwrap_err();
        assert_eq!(common::error::line(&err), "/a: two mounts are to be there");
        assert!(common::error::find::<Usage>(&err).is_some());
    }

    proptest! {
        #[test]
        fn no_text_breaks_a_parser(text in "\\PC{0,20}|[0-9.hms]{0,12}") {
            if let Ok(Name(name)) = text.parse() {
                prop_assert!(!name.contains('/') && name != "." && name != "..");
            }
            let _ = text.parse::<Hostname>();
            let _ = parse(&["-v", &text, "--mount", &text, &text, &text]);
        }

        #[test]
        fn what_follows_the_image_is_the_containers(rest in prop::collection::vec("\\PC{0,8}", 0..5)) {
            let mut line = vec!["--rm", "app"];
            line.extend(rest.iter().map(String::as_str));
            prop_assert_eq!(&words(&line)[1..], rest);
        }
    }
}
