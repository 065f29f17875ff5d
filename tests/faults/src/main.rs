//! The campaign of faults: three gateways on three NATS servers, people who never stop, and whatever can break.
//!
//! `cargo run --release -p portcullis-faults`; `--short` for what is worth trying at every change.

mod assertions;
mod campaign;
mod chronicle;
mod clock;
mod crowd;
mod dice;
mod faults;
mod ground;
mod ledger;
mod report;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use clap::{Parser, ValueEnum};
use tokio::task::LocalSet;

use campaign::Campaign;
use faults::{Fault, Scale};
use report::HEAD;

/// Breaks a cluster in every way that is known, and checks after each that it kept its promises.
#[derive(Debug, Clone, Parser)]
#[command(name = "portcullis-faults", version)]
struct Options {
    /// The faults that can be tried within minutes, each once.
    #[arg(long)]
    short: bool,
    /// Only these faults, separated by commas, in this order.
    #[arg(long, value_enum, value_delimiter = ',', value_name = "NAME")]
    only: Vec<Fault>,
    /// What the choices are made from: which node, which server, when. A campaign that fails prints its own.
    #[arg(long)]
    seed: Option<u64>,
    /// Keep what the gateways wrote to stderr in this directory.
    #[arg(long, value_name = "DIRECTORY")]
    logs: Option<PathBuf>,
    /// The gateway to try; else the one of this build.
    #[arg(long, value_name = "FILE")]
    gateway: Option<PathBuf>,
}

fn main() -> ExitCode {
    let options = Options::parse();
    let seed = options.seed.unwrap_or_else(any);
    let tried = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Into::into);
    let tried = tried.and_then(|runtime| LocalSet::new().block_on(&runtime, run(&options, seed)));
    match tried {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // nobody left to tell if that fails
            let _ = say(&format!("\nBROKEN: {error:#}\nseed {seed}\n"));
            ExitCode::FAILURE
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "any number will do")]
fn any() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |since| since.as_secs())
}

async fn run(options: &Options, seed: u64) -> Result<()> {
    let began = Instant::now();
    let gateway = find(options.gateway.as_deref())?;
    let scale = if options.short { Scale::Short } else { Scale::Full };
    let all = Fault::value_variants().iter().copied().filter(|fault| !options.short || fault.is_short());
    let faults = if options.only.is_empty() { all.collect() } else { options.only.clone() };
    say(&format!("{} faults, seed {seed}, gateway {}\n\n{HEAD}", faults.len(), gateway.display()))?;
    let mut campaign = Campaign::new(&gateway, seed, scale).await?;
    for fault in &faults {
        let row = campaign.run(*fault).await.with_context(|| format!("{fault} (--only {fault} --seed {seed})"));
        if let Some(dir) = &options.logs {
            campaign.ground.keep_logs(dir)?;
        }
        say(&format!("{}\n", row?))?;
    }
    campaign.conclude().await.with_context(|| format!("in the end (--seed {seed})"))?;
    say(&format!(
        "\nall promises kept in {:.0} s: nothing acknowledged lost, no refresh token presented twice ({} presented, {} \
         generations left in doubt, {} not settled yet), no revoked session admitted past its bound, no hole, all nodes alike\n",
        began.elapsed().as_secs_f64(),
        campaign.ground.idp.refreshes(),
        campaign.chronicle.doubts,
        campaign.chronicle.unsettled(),
    ))
}

/// The gateway to try: the named one, else the one beside this program. Run by cargo, it is brought up to date first.
fn find(named: Option<&Path>) -> Result<PathBuf> {
    if let Some(named) = named {
        return Ok(named.canonicalize()?);
    }
    let binary = std::env::current_exe()?.with_file_name("portcullis");
    if let (Some(cargo), Some(target)) = (std::env::var_os("CARGO"), binary.parent().and_then(Path::parent)) {
        let mut build = Command::new(cargo);
        build.current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")).args(["build", "-p", "portcullis"]);
        build.args(if cfg!(debug_assertions) { &[][..] } else { &["--release"] }).arg("--target-dir").arg(target);
        ensure!(build.status()?.success(), "the gateway cannot be built");
    }
    ensure!(binary.is_file(), "no gateway at {}: name one with --gateway", binary.display());
    Ok(binary)
}

fn say(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())?;
    Ok(out.flush()?)
}
