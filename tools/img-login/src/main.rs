//! Stores a password for a registry.
//!
//! It is shown to the registry first, and stored only if that does not refuse it. It is kept
//! where docker and podman look for it, so they use it as well.

use std::io::Read;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Error, Result, ensure};
use clap::Parser;
use common::cli;
use common::cli::password::Terminal;
use common::cli::registry::Line;
use common::credentials::{Credentials, Files, Scope};
use common::error::{Hint, Usage};
use common::registry::{Options, Registry};

/// The longest password.
const LIMIT: u64 = 64 << 10;

/// Store a password for a registry
#[derive(Parser)]
#[command(version)]
struct Args {
    /// Who you are; asked for if it is left out
    #[arg(short, long, value_name = "USER")]
    username: Option<String>,

    /// The password, for everybody on this machine to see; - reads it from stdin
    #[arg(short, long, value_name = "PASSWORD", requires = "username")]
    password: Option<String>,

    /// Read the password from stdin; else it is asked for
    #[arg(long, conflicts_with = "password", requires = "username")]
    password_stdin: bool,

    /// The file to store it in, instead of podman's or docker's
    #[arg(long, value_name = "FILE")]
    authfile: Option<PathBuf>,

    #[command(flatten)]
    line: Line,

    /// The registry, or a part of its repositories
    #[arg(value_name = "HOST[/REPOSITORY]", default_value = "docker.io")]
    scope: Scope,
}

fn main() -> ExitCode {
    cli::main(run)
}

fn run(args: Args) -> Result<()> {
    let (user, password) = who(&args)?;
    let usage = |err: Error| Error::new(Usage(err.to_string()));
    let credentials = Credentials::of(&user, &password).map_err(usage)?;
    let options = Options {
        credentials: Some(credentials),
        notice: Some(Box::new(|text| cli::warn(text))),
        ..args.line.options()
    };
    Registry::new(args.scope.domain(), &options).enter()?;
    Files::of_user(args.authfile).store(&args.scope, &user, &password)
}

/// Returns the user and the password, which are asked for if they were not given.
fn who(args: &Args) -> Result<(String, String)> {
    let from_stdin = args.password_stdin || args.password.as_deref() == Some("-");
    match (&args.username, &args.password) {
        (Some(user), _) if from_stdin => Ok((user.clone(), stdin()?)),
        (Some(user), Some(password)) => {
            cli::warn("others can see a password on a command line; --password-stdin hides it");
            Ok((user.clone(), password.clone()))
        }
        (user, _) => {
            let Some(mut terminal) = Terminal::open() else {
                let err = Error::new(Usage("no password, and no terminal to ask for it".into()));
                return Err(err)
                    .hint(|| format!("img-login -u USER --password-stdin {}", args.scope));
            };
            let user = match user {
                Some(user) => user.clone(),
                None => terminal.line(&format!("User of {}: ", args.scope))?,
            };
            let password = terminal.secret(&format!("Password for {user}: "))?;
            Ok((user, password))
        }
    }
}

/// Reads the password: a line, or all there is.
fn stdin() -> Result<String> {
    let mut password = String::new();
    std::io::stdin().take(LIMIT).read_to_string(&mut password).context("stdin")?;
    ensure!((password.len() as u64) < LIMIT, "stdin: longer than a password may be");
    let line = password.strip_suffix('\n').unwrap_or(&password);
    let line = line.strip_suffix('\r').unwrap_or(line);
    ensure!(!line.is_empty(), "no password on stdin: did the command before this one fail?");
    Ok(line.into())
}
