//! How a tool speaks to registries: the options that all of them share.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use clap::ArgAction;

use super::duration;
use super::password;
use super::progress::Progress;
use crate::credentials::Files;
use crate::error::At;
use crate::registry::Options;

/// Who the user is to a registry, and how patient.
#[derive(clap::Args, Clone)]
pub struct Access {
    /// Who you are to the registry; the password is asked for if it is left out
    #[arg(long, value_name = "USER[:PASSWORD]")]
    pub creds: Option<String>,

    /// The file with credentials, instead of podman's and docker's
    #[arg(long, value_name = "FILE")]
    pub authfile: Option<PathBuf>,

    #[command(flatten)]
    line: Line,
}

/// How patient the user is with a registry, and how trusting.
#[derive(clap::Args, Clone)]
pub struct Line {
    /// Whether certificates must be trusted; if not, plain HTTP will do as well
    #[arg(
        long, value_name = "BOOL", action = ArgAction::Set, num_args = 0..=1, require_equals = true,
        default_value_t = true, default_missing_value = "true"
    )]
    tls_verify: bool,

    /// How often to try again what may yet succeed
    #[arg(long, value_name = "N", default_value_t = 4)]
    retry: u32,

    /// How long to wait before the first of these; each waits twice as long as the one before
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "400ms")]
    retry_delay: Duration,

    /// Give up on a registry that says nothing for so long
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "30s")]
    stall: Duration,
}

impl Access {
    /// Returns what registries are to be asked with; a password that was left out is asked for.
    ///
    /// Credential helpers will run from a thread that starts now, as free as this one is now.
    pub fn options(&self, progress: &Arc<Progress>) -> Result<Options> {
        let mut options = self.line.options();
        if let Some(path) = &self.authfile {
            fs::metadata(path).at(path)?; // or it would be missed only when somebody asks
        }
        options.files = Files::of_user(self.authfile.clone()).with_free_helpers()?;
        options.credentials = self.creds.as_deref().map(password::credentials).transpose()?;
        let progress = progress.clone();
        options.notice = Some(Box::new(move |text| progress.notice(text)));
        Ok(options)
    }
}

impl Line {
    /// Returns what registries are to be asked with, whoever the user is.
    pub fn options(&self) -> Options {
        Options {
            verify: self.tls_verify,
            retries: self.retry,
            backoff: self.retry_delay,
            stall: self.stall,
            ..Options::of_user()
        }
    }
}
