//! Portcullis beside bare nginx in front of the same upstream: CPU for each request, as a ratio. `-- cluster` measures
//! three gateways on three NATS servers instead, `-- start` the start of a node with many sessions. What is found goes
//! into `tests/bench/RESULTS.md`.
//!
//! `cargo run --release -p portcullis-bench`. Portcullis does everything it does (session, policy, assertion, identity
//! headers, access and decision log); nginx passes on and writes its access log. The two are measured in turns, each
//! turn by a load generator in a process of its own, and compared turn by turn: the machine is noisy, a pair is less so.

mod cluster;
mod cpu;
mod gateway;
mod load;
mod machine;
mod nginx;
mod people;
mod report;
mod results;
mod row;
mod stage;
mod start;
mod statistics;

use std::io::Write;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use clap::{Parser, Subcommand};

use report::Report;
use results::Section;
use row::Row;
use stage::Stage;
use tokio::task::LocalSet;

/// Measures portcullis beside bare nginx.
#[derive(Debug, Clone, Parser)]
#[command(name = "portcullis-bench", version)]
struct Options {
    /// What to measure instead of requests.
    #[command(subcommand)]
    instead: Option<Instead>,
    /// Turns of each that count; one more of each comes first and does not.
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// How long a turn lasts.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,
    /// Requests under way at any time.
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=1024))]
    connections: u32,
    /// What to measure, separated by commas.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = Row::ALL)]
    rows: Vec<Row>,
    /// Write all figures of all rounds to this file as well.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// The nginx to compare with; else the one on PATH.
    #[arg(long, value_name = "FILE")]
    nginx: Option<PathBuf>,
    /// The gateway to measure; else the one of this build.
    #[arg(long, value_name = "FILE")]
    gateway: Option<PathBuf>,
    /// Be the load generator: a task on stdin, an outcome on stdout.
    #[arg(long, hide = true)]
    load: bool,
    /// Be the provider of a cluster: told on stdin, answers on stdout.
    #[arg(long, hide = true)]
    provider: bool,
    /// Leave tests/bench/RESULTS.md as it is.
    #[arg(long)]
    dry: bool,
}

/// What else can be measured.
#[derive(Debug, Clone, Subcommand)]
enum Instead {
    /// Three gateways on three NATS servers: revocation, sign-ins, refreshes, a node that was away.
    Cluster(cluster::Options),
    /// The start of a node with many sessions: time until it is ready, memory for each session.
    Start(start::Options),
}

fn main() -> Result<()> {
    let options = Options::parse();
    if options.provider {
        return cluster::provider::obey();
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    if options.load {
        return runtime.block_on(load::obey());
    }
    ensure!(!cfg!(debug_assertions), "a debug build measures nothing: cargo run --release -p portcullis-bench");
    match &options.instead {
        None => runtime.block_on(measure(&options)),
        Some(Instead::Cluster(options)) => LocalSet::new().block_on(&runtime, cluster::measure(options)),
        Some(Instead::Start(start)) => {
            let report = runtime.block_on(start::measure(start))?.to_string();
            if !options.dry {
                results::put(Section::Start, &report)?;
            }
            say(&format!("\n{report}"))
        }
    }
}

async fn measure(options: &Options) -> Result<()> {
    let gateway = gateway::find(options.gateway.as_deref())?;
    let nginx = nginx::find(options.nginx.as_deref())?;
    let machine = machine::look(&nginx, &gateway)?;
    let stage = Stage::set(nginx, gateway).await?;
    let mut rows = Vec::new();
    for row in &options.rows {
        say(&format!("{}: {} rounds of {} s each\n", row.title(), options.rounds, options.seconds))?;
        rows.push(stage.measure(*row, options).await.with_context(|| row.title())?);
    }
    let report = Report::new(machine, options.connections, rows);
    let mut out = std::io::stdout().lock();
    write!(out, "\n{report}")?;
    if !options.dry {
        results::put(Section::Requests, &report.to_string())?;
    }
    if let Some(file) = &options.json {
        std::fs::write(file, serde_json::to_vec_pretty(&report)?)
            .with_context(|| format!("cannot write {}", file.display()))?;
        writeln!(out, "\nall rounds: {}", file.display())?;
    }
    Ok(())
}

/// How far we are, on stderr: stdout is the report's.
fn say(text: &str) -> Result<()> {
    let mut err = std::io::stderr().lock();
    err.write_all(text.as_bytes())?;
    Ok(err.flush()?)
}
