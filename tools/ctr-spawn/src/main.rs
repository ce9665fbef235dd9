use std::process::ExitCode;
use anyhow::Result;
use clap::Parser;
use common::runtime::{self, Rootfs, Surrounding, Io, Ended};

#[derive(Parser)]
struct Args { #[arg(long)] bundle: std::path::PathBuf, #[arg(long)] network: Option<String>, args: Vec<String> }

fn run(args: Args) -> Result<u8> {
    let mut spec: oci_spec::runtime::Spec = serde_json::from_slice(&std::fs::read(args.bundle.join("config.json"))?)?;
    let root = args.bundle.join(spec.root().as_ref().unwrap().path());
    if !args.args.is_empty() { spec.process_mut().as_mut().unwrap().set_args(Some(args.args)); spec.process_mut().as_mut().unwrap().set_terminal(Some(false)); }
    let plan = runtime::plan(&spec, &Rootfs::Dir(root), &Surrounding::default())?;
    if std::env::var_os("PLAN").is_some() { for op in &plan.ops { eprintln!("{op}"); } }
    let running = runtime::start(&plan, &spec, Io::default())?;
    Ok(match running.wait()? { Ended::Exited(n) => n as u8, Ended::Killed(n) => 128 + n as u8 })
}
fn main() -> ExitCode {
    match run(Args::parse()) { Ok(n) => ExitCode::from(n), Err(e) => { common::cli::report(&e); ExitCode::from(125) } }
}
