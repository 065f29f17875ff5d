//! The benchmark: portcullis beside bare nginx, haproxy, and Envoy with `ext_authz`, in front of the same upstream.
//! `-- cluster` measures three gateways on three NATS servers instead, `-- start` the start of a node with many sessions.
//! What is found goes into `tests/bench/RESULTS.md`.
//!
//! `cargo run --release -p portcullis-bench`. Portcullis does everything it does (session, policy, assertion, identity
//! headers, access and decision log), and so does Envoy with its service; nginx and haproxy pass on and write their
//! access logs. All are measured in turns, each turn by a load generator in a process of its own, and compared turn by
//! turn: the machine is noisy, a pair is less so.

mod bars;
mod check;
mod cluster;
mod cpu;
mod ext_authz;
mod figures;
mod gateway;
mod load;
mod machine;
mod memory;
mod peer;
mod people;
mod plot;
mod quota;
mod report;
mod results;
mod row;
mod scale;
mod stage;
mod start;
mod statistics;
mod writer;

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use clap::{Parser, Subcommand};

use figures::Table;
use peer::Peer;
use quota::Quota;
use report::Report;
use results::Section;
use row::Row;
use stage::{Stage, Tools};
use tokio::task::LocalSet;

/// Set in the environment of a process whose descriptors were already raised.
const RAISED: &str = "PORTCULLIS_BENCH_DESCRIPTORS";
/// Descriptors beside those of idle connections.
const SPARE: u64 = 1000;

/// Measures portcullis beside other proxies.
#[derive(Debug, Clone, Parser)]
#[command(name = "portcullis-bench", version)]
pub struct Options {
    /// What to measure instead of requests.
    #[command(subcommand)]
    instead: Option<Instead>,
    /// Turns of each.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// How long a turn lasts.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,
    /// Requests under way at any time.
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=1024))]
    connections: u32,
    /// Requests a second where the rate is fixed; every peer must be able to carry it.
    #[arg(long, default_value_t = 2000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    rate: u32,
    /// Idle connections.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=25_000))]
    idle: u32,
    /// Open sessions where there are many.
    #[arg(long, default_value_t = 1_000_000)]
    sessions: usize,
    /// One short round, few connections and sessions: whether everything works, no figures to keep.
    #[arg(long)]
    quick: bool,
    /// What to measure, separated by commas.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = Row::ALL)]
    rows: Vec<Row>,
    /// Whom to measure, separated by commas. Portcullis always is.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = Peer::ALL)]
    peers: Vec<Peer>,
    /// Write all figures of all rounds to this file as well.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// The nginx to compare with, and for the upstream; else the one on PATH.
    #[arg(long, value_name = "FILE")]
    nginx: Option<PathBuf>,
    /// The haproxy to compare with; else the one on PATH.
    #[arg(long, value_name = "FILE")]
    haproxy: Option<PathBuf>,
    /// The Envoy to compare with; else the one on PATH, else the one of PyPI.
    #[arg(long, value_name = "FILE")]
    envoy: Option<PathBuf>,
    /// The gateway to measure; else the one of this build.
    #[arg(long, value_name = "FILE")]
    gateway: Option<PathBuf>,
    /// Be the load generator: a task on stdin, an outcome on stdout.
    #[arg(long, hide = true)]
    load: bool,
    /// Be the service that Envoy asks: told in this file.
    #[arg(long, hide = true, value_name = "FILE")]
    ext_authz: Option<PathBuf>,
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
    let options = Options::parse().completed();
    if options.provider {
        return cluster::provider::obey();
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    if options.load {
        return runtime.block_on(load::obey());
    }
    if let Some(charge) = &options.ext_authz {
        return runtime.block_on(ext_authz::serve(charge));
    }
    ensure!(!cfg!(debug_assertions), "a debug build measures nothing: cargo run --release -p portcullis-bench");
    match &options.instead {
        None => {
            raise_descriptors(u64::from(options.idle) + SPARE)?;
            runtime.block_on(measure(&options))
        }
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

impl Options {
    /// With what follows from `--quick`, and portcullis first.
    fn completed(mut self) -> Self {
        if self.quick {
            (self.rounds, self.seconds, self.idle, self.sessions) = (1, 1, self.idle.min(500), self.sessions.min(5000));
        }
        self.peers.retain(|peer| *peer != Peer::Portcullis);
        self.peers.insert(0, Peer::Portcullis);
        self
    }

    /// Whether this is the whole benchmark: only then do figures take the place of others.
    fn is_whole(&self) -> bool {
        let all_rows = Row::ALL.iter().all(|row| self.rows.contains(row));
        all_rows && Peer::ALL.iter().all(|peer| self.peers.contains(peer)) && self.rounds >= 3 && !self.quick
    }

    fn tools(&self) -> Result<(Tools, Vec<String>)> {
        let nginx = peer::find(self.nginx.as_deref(), "nginx").context("nginx is the upstream too")?;
        let mut about = vec![machine::nginx(&nginx)?];
        let haproxy = match self.peers.contains(&Peer::Haproxy) {
            true => Some(peer::find(self.haproxy.as_deref(), "haproxy")?),
            false => None,
        };
        about.extend(haproxy.as_deref().map(machine::haproxy).transpose()?);
        let envoy = match self.peers.contains(&Peer::Envoy) {
            true => Some(peer::envoy::find(self.envoy.as_deref())?),
            false => None,
        };
        about.extend(envoy.as_deref().map(machine::envoy).transpose()?);
        let gateway = gateway::find(self.gateway.as_deref())?;
        Ok((Tools { gateway, nginx, haproxy, envoy }, about))
    }

    fn how(&self, quota: &Quota) -> Vec<String> {
        vec![
            "portcullis: session, policy, assertion, identity headers, access and decision log".to_owned(),
            "Envoy + ext_authz: the same by a native gRPC service, whose CPU and memory count with Envoy's".to_owned(),
            "nginx, haproxy: no authentication, access log; workers or threads: as many as cores, everybody".to_owned(),
            format!("{} rounds of {} s in turns; {} requests under way", self.rounds, self.seconds, self.connections),
            format!("quota: {}; CPU from schedstat, all processes and threads", quota.title()),
            format!("fixed rate: {} a second, each answer's time from when its request was due", self.rate),
            "medians, least and greatest; ratios round by round".to_owned(),
        ]
    }
}

async fn measure(options: &Options) -> Result<()> {
    let (tools, peers) = options.tools()?;
    let machine = machine::look(&tools.gateway, peers)?;
    let quota = Quota::make();
    let stage = Stage::set(tools).await?;
    let mut tables = Vec::new();
    for row in &options.rows {
        say(&format!("{}\n", row.title()))?;
        tables.push(one(&stage, *row, options, &quota).await.with_context(|| row.title())?);
    }
    let report = Report::new(machine, options.how(&quota), tables);
    let mut out = std::io::stdout().lock();
    write!(out, "\n{report}")?;
    if let Some(file) = &options.json {
        std::fs::write(file, serde_json::to_vec_pretty(&report)?)
            .with_context(|| format!("cannot write {}", file.display()))?;
        writeln!(out, "\nall rounds: {}", file.display())?;
    }
    if options.dry {
        return Ok(());
    }
    if !options.is_whole() {
        return say("RESULTS.md is left as it is: not everything was measured, or not three times\n");
    }
    results::put_drawn(Section::Requests, &report)
}

async fn one(stage: &Stage, row: Row, options: &Options, quota: &Quota) -> Result<Table> {
    match row {
        Row::Memory => memory::measure(stage, options).await,
        Row::Routes => scale::routes(stage, options).await,
        Row::Sessions => scale::sessions(stage, options).await,
        _ => stage.compare(row, options, quota).await,
    }
}

/// Takes as many descriptors as the system grants, for itself and everybody it starts. The shell asks for them, and
/// becomes this program again.
fn raise_descriptors(needed: u64) -> Result<()> {
    let limits = std::fs::read_to_string("/proc/self/limits")?;
    let line =
        limits.lines().find_map(|line| line.strip_prefix("Max open files")).context("no limit of descriptors")?;
    let soft = line.split_ascii_whitespace().next().and_then(|text| text.parse::<u64>().ok()).unwrap_or(u64::MAX);
    if soft >= needed {
        return Ok(());
    }
    if std::env::var_os(RAISED).is_some() {
        bail!("{needed} descriptors are needed for idle connections and {soft} are granted: fewer with --idle");
    }
    let mut again = Command::new("/bin/sh");
    again.args(["-c", "ulimit -n \"$(ulimit -Hn)\"; exec \"$0\" \"$@\""]).arg(std::env::current_exe()?);
    Err(again.args(std::env::args_os().skip(1)).env(RAISED, "1").exec().into())
}

/// How far we are, on stderr: stdout is the report's.
fn say(text: &str) -> Result<()> {
    let mut err = std::io::stderr().lock();
    err.write_all(text.as_bytes())?;
    Ok(err.flush()?)
}
