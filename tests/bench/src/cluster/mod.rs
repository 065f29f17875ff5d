//! Three gateways on three NATS servers: how fast a session ends everywhere, how many sign-ins and refreshes they carry,
//! and what it costs a node to have been away.

mod away;
mod ground;
mod meter;
pub mod provider;
mod refreshes;
mod revocation;
mod sign_ins;
mod writer;

use std::fmt::{self, Display, Formatter};
use std::io::Write;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use portcullis_harness::nats_cluster;

use crate::machine::{self, Machine};
use crate::results::{self, Section};
use crate::{gateway, say};

/// What is measured on a cluster, and how much of it.
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// What to measure, separated by commas.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = What::ALL)]
    what: Vec<What>,
    /// Sessions that are ended one after another.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..))]
    revocations: u32,
    /// Sign-ins of each round, of which there are five.
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..))]
    sign_ins: u32,
    /// Browsers that sign in at one time.
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=512))]
    browsers: u32,
    /// Sessions whose tokens are renewed.
    #[arg(long, default_value_t = 3000, value_parser = clap::value_parser!(u32).range(1..))]
    refreshed_sessions: u32,
    /// How long refreshes are counted, in seconds.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: u64,
    /// Events that a node misses.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..))]
    events: u32,
    /// What the pauses between revocations are drawn from.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The gateway to measure; else the one of this build.
    #[arg(long, value_name = "FILE")]
    gateway: Option<PathBuf>,
    /// Leave tests/bench/RESULTS.md as it is.
    #[arg(long)]
    dry: bool,
}

/// A measurement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum What {
    /// From the ack of a revocation to refused and closed everywhere.
    Revocation,
    /// Whole sign-ins a second.
    SignIns,
    /// Refreshes a second.
    Refreshes,
    /// Bytes and time of a node that comes back.
    Away,
}

impl What {
    const ALL: [Self; 4] = [Self::Revocation, Self::SignIns, Self::Refreshes, Self::Away];

    const fn section(self) -> Section {
        match self {
            Self::Revocation => Section::Revocation,
            Self::SignIns => Section::SignIns,
            Self::Refreshes => Section::Refreshes,
            Self::Away => Section::Away,
        }
    }
}

/// Measures and reports.
///
/// # Errors
/// The cluster does not come up, or does what it should not.
pub async fn measure(options: &Options) -> Result<()> {
    let binary = gateway::find(options.gateway.as_deref())?;
    for what in &options.what {
        let head = Head { machine: machine::look_at(&binary)?, nats: nats_cluster::version()?, seed: options.seed };
        say(&format!("{}\n", what.section().title()))?;
        let found = match what {
            What::Revocation => revocation::measure(&binary, options).await.map(|found| found.to_string()),
            What::SignIns => sign_ins::measure(&binary, options).await.map(|found| found.to_string()),
            What::Refreshes => refreshes::measure(&binary, options).await.map(|found| found.to_string()),
            What::Away => away::measure(&binary, options).await.map(|found| found.to_string()),
        };
        let report = format!("{head}{}", found.with_context(|| what.section().title())?);
        writeln!(std::io::stdout().lock(), "\n{report}")?;
        if !options.dry {
            results::put(what.section(), &report)?;
        }
    }
    Ok(())
}

/// What stands above every report.
struct Head {
    machine: Machine,
    nats: String,
    seed: u64,
}

impl Display for Head {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Machine { cpu, cores, kernel, load, portcullis, rustc, command, .. } = &self.machine;
        writeln!(f, "three gateways (services: all) and three NATS servers on one machine")?;
        writeln!(f, "  machine   {cpu}, {cores} cores, Linux {kernel}, load {load} at the start")?;
        writeln!(f, "  versions  {portcullis}; {}; {rustc}", self.nats)?;
        writeln!(f, "  log       streams on all three servers (R3), sync_interval: always")?;
        writeln!(f, "  command   {command}  (seed {})", self.seed)
    }
}
