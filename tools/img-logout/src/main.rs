//! Forgets the password for a registry.
//!
//! It goes from every file and helper that it would be looked for in. The registry is not
//! told: it keeps no account of who has a password.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, ensure};
use clap::Parser;
use common::cli;
use common::credentials::{Files, Scope};

/// Forget the password for a registry
#[derive(Parser)]
#[command(version)]
struct Args {
    /// Forget all passwords
    #[arg(short, long, conflicts_with = "scope")]
    all: bool,

    /// The file it is stored in, instead of podman's and docker's
    #[arg(long, value_name = "FILE")]
    authfile: Option<PathBuf>,

    /// The registry, or a part of its repositories
    #[arg(value_name = "HOST[/REPOSITORY]", default_value = "docker.io")]
    scope: Scope,
}

fn main() -> ExitCode {
    cli::main(run)
}

fn run(args: Args) -> Result<()> {
    let files = Files::of_user(args.authfile);
    if args.all {
        return files.forget_all().map(drop);
    }
    ensure!(files.forget(&args.scope)?, "{}: no password is stored", args.scope);
    Ok(())
}
