//! Serves an image layout as a registry.
//!
//! What it answers is what the layout says at that moment: other tools may pull
//! into it, tag and remove at the same time. Nothing outside the layout is read,
//! and nothing is written unless `--writable` says so.

mod answer;
mod auth;
mod body;
mod crowd;
mod listen;
mod log;
mod names;
mod patient;
mod pull;
mod push;
mod range;
mod reach;
mod receive;
mod route;
mod site;
mod stop;
mod tls;
mod uploads;

use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use clap::Parser;
use common::cli::{self, Root};
use common::confine::{self, Allowed};
use common::error::{Hint, Usage};
use common::layout::Layout;

use crate::auth::Htpasswd;
use crate::listen::Limits;
use crate::log::Log;
use crate::site::Site;
use crate::stop::Signals;
use crate::uploads::Uploads;

/// How many threads wait for disks, locks and passwords.
const WAITERS: usize = 32;

/// Serve an image layout as a registry
#[derive(Parser)]
#[command(version)]
struct Args {
    #[command(flatten)]
    root: Root,

    /// Where to listen; with port 0 the kernel picks one
    #[arg(
        long,
        value_name = "HOST:PORT",
        default_value = "127.0.0.1:5000",
        hide_default_value = true
    )]
    listen: String,

    /// Accept pushes and deletions
    #[arg(long)]
    writable: bool,

    /// Let in only the users of this file, which htpasswd -B writes
    #[arg(long, value_name = "FILE")]
    htpasswd: Option<PathBuf>,

    /// Speak TLS, with this certificate
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,

    /// The key of the certificate
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,

    /// Give up on a client that says, or takes, nothing for so long
    #[arg(long, value_name = "TIME", default_value = "30s", hide_default_value = true, value_parser = cli::duration)]
    stall: Duration,

    /// Forget a push with which nobody goes on for so long
    #[arg(long, value_name = "TIME", default_value = "1h", hide_default_value = true, value_parser = cli::duration)]
    upload_timeout: Duration,

    /// Say each request on standard error
    #[arg(short, long)]
    verbose: bool,

    /// The layout, instead of the store's images
    #[arg(value_name = "DIR")]
    layout: Option<PathBuf>,
}

fn main() -> ExitCode {
    cli::main(run)
}

fn run(args: Args) -> Result<()> {
    let signals = Signals::hold()?;
    let layout = match (args.layout, args.writable) {
        (Some(dir), true) => Layout::create(dir)?,
        (Some(dir), false) => Layout::open(dir)?,
        (None, _) => args.root.open()?.images,
    };
    layout.index()?; // what cannot be read is said now
    let layout: &'static Layout = Box::leak(Box::new(layout));

    let auth = args.htpasswd.as_deref().map(Htpasswd::open).transpose()?.map(Arc::new);
    let tls = match (&args.tls_cert, &args.tls_key) {
        (Some(cert), Some(key)) => Some(tls::acceptor(cert, key)?),
        _ => None,
    };
    let listener = bind(&args.listen)?;
    let address = listener.local_addr()?;
    warn_if_open(&address, auth.is_some(), tls.is_some());

    let null = std::fs::File::options().write(true).open("/dev/null").context("/dev/null")?;
    let write: &[_] = if args.writable { &[layout.dir()] } else { &[] };
    confine::confine(&Allowed { write, ..Allowed::default() })?;
    // Only now the first other thread: each is confined as this one is.
    let (stop, ending) = signals.watch()?;
    let limits = Limits::of_this_process();
    let uploads = args.writable.then(|| Uploads::new(layout, limits.uploads, args.upload_timeout));
    let site = Site::new(layout, uploads, auth, args.stall, Log::start(args.verbose)?);

    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(std::thread::available_parallelism().map_or(2, |n| n.get().min(4)))
        .max_blocking_threads(WAITERS)
        .enable_all()
        .build()?;
    let served = runtime.block_on(async {
        let listener = tokio::net::TcpListener::from_std(listener)?;
        // Those who wait for the line may connect now: the queue is open.
        cli::result(address)?;
        // There is one line and no more: whoever reads it sees its end.
        rustix::stdio::dup2_stdout(null)?;
        listen::serve(listener, site, tls, limits.connections, stop).await
    });
    // What an upload has written so far goes with the last who has it.
    runtime.shutdown_timeout(Duration::from_secs(1));
    served?;
    ending.die()
}

/// Binds a socket. A name may have several addresses: the first that can be bound.
fn bind(address: &str) -> Result<TcpListener> {
    let well_formed = address
        .rsplit_once(':')
        .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok());
    if !well_formed {
        return Err(anyhow!(Usage(format!("{address}: not HOST:PORT"))))
            .hint(|| "127.0.0.1:5000, [::1]:0, or 0.0.0.0:5000 for everybody".into());
    }
    let listener =
        TcpListener::bind(address).with_context(|| format!("cannot listen on {address}"))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Says what others can do, where they can reach us.
fn warn_if_open(address: &SocketAddr, asks: bool, encrypts: bool) {
    if address.ip().is_loopback() {
        return;
    }
    match (asks, encrypts) {
        (false, _) => {
            cli::warn(format!("{address}: whoever reaches it needs no password (--htpasswd)"))
        }
        (true, false) => {
            cli::warn(format!("{address}: passwords come in the clear (--tls-cert, --tls-key)"))
        }
        (true, true) => {}
    }
}
