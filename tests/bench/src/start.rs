//! How long a node with many sessions takes to be ready, and what they weigh: from its log alone, and from a snapshot.

use std::fmt::{self, Display, Formatter};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use portcullis_harness::gateway::Gateway;
use portcullis_harness::idp::{CLIENT_ID, CLIENT_SECRET, ScriptedIdp};
use portcullis_harness::process::eventually;
use portcullis_harness::world::{APP, AUTHENTICATE, Configuration};
use serde_json::Value;

use crate::machine::Machine;
use crate::{gateway, machine, people, say};

/// How long a start may take before it counts as failed.
const READY: Duration = Duration::from_secs(300);
/// How long until the first snapshot lies there.
const SNAPSHOT: Duration = Duration::from_secs(120);
/// How long an orderly stop may take.
const STOP: Duration = Duration::from_secs(30);

/// How a start is measured.
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// Sessions that are open, each with its tokens.
    #[arg(long, default_value_t = 1_000_000)]
    pub sessions: usize,
    /// People whose sessions they are; as many as sessions by default, which is the worst.
    #[arg(long)]
    pub people: Option<usize>,
    /// Starts of each kind; the median counts.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    pub rounds: u32,
    /// Where to keep the log; a directory that goes away by default. A log that is there already is used as it is.
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// The gateway to measure; else the one of this build.
    #[arg(long, value_name = "FILE")]
    pub gateway: Option<PathBuf>,
}

/// One start.
#[derive(Debug, Clone, Copy)]
struct Start {
    seconds: f64,
    resident: f64,
    peak: f64,
}

/// What was found.
pub struct Report {
    machine: Machine,
    sessions: usize,
    people: usize,
    events: u64,
    claims: usize,
    snapshot: u64,
    idle: f64,
    from_log: Vec<Start>,
    from_snapshot: Vec<Start>,
}

/// Measures.
///
/// # Errors
/// The log cannot be made, or a start fails.
pub async fn measure(options: &Options) -> Result<Report> {
    let binary = gateway::find(options.gateway.as_deref())?;
    let machine = machine::look_at(&binary)?;
    let scratch = tempfile::tempdir()?;
    let dir = options.dir.clone().unwrap_or_else(|| scratch.path().join("state"));
    let people = options.people.unwrap_or(options.sessions).max(1);
    let idp = ScriptedIdp::start();
    let config = scratch.path().join("config.yaml");
    std::fs::write(&config, configuration(&idp))?;
    let claims = serde_json::to_string(&people::claims(0))?.len();
    let ground = Ground { binary, config, state: dir.clone() };

    let idle = Ground { state: scratch.path().join("empty"), ..ground.clone() }.start().await?.0.resident;
    if !dir.join("log.db").exists() {
        say(&format!("writing a log with {} sessions of {people} people\n", options.sessions))?;
        people::write(&dir, options.sessions, people).await?;
    }
    let snapshots = dir.join("snapshots");
    let (mut from_log, mut from_snapshot, mut events) = (Vec::new(), Vec::new(), 0);
    for round in 0..options.rounds {
        if snapshots.exists() {
            std::fs::remove_dir_all(&snapshots)?;
        }
        let (start, gateway, status) = ground.run().await?;
        ensure!(status.get("sessions").and_then(Value::as_u64) == u64::try_from(options.sessions).ok(), "{status}");
        events = status.get("applied").and_then(Value::as_u64).unwrap_or_default();
        say(&format!("  from the log      {:6.2} s, {:7.1} MB\n", start.seconds, start.resident))?;
        from_log.push(start);
        if round == 0 || !has_snapshot(&snapshots) {
            eventually("a snapshot", SNAPSHOT, async || Ok(has_snapshot(&snapshots).then_some(()))).await?;
        }
        stop(gateway).await?;
        let (start, gateway, _) = ground.run().await?;
        let begun = gateway.stderr().find(STOP, |line| line.contains("begins with a snapshot").then_some(()));
        begun.await.context("the snapshot is not used")?;
        say(&format!("  from a snapshot   {:6.2} s, {:7.1} MB\n", start.seconds, start.resident))?;
        from_snapshot.push(start);
        stop(gateway).await?;
    }
    let newest =
        std::fs::read_dir(&snapshots)?.flatten().filter_map(|entry| entry.metadata().ok()).map(|file| file.len());
    let snapshot = newest.max().unwrap_or_default();
    let sessions = options.sessions;
    Ok(Report { machine, sessions, people, events, claims, snapshot, idle, from_log, from_snapshot })
}

/// What a gateway is started with.
#[derive(Debug, Clone)]
struct Ground {
    binary: PathBuf,
    config: PathBuf,
    state: PathBuf,
}

impl Ground {
    async fn start(&self) -> Result<(Start, Value)> {
        let (start, gateway, status) = self.run().await?;
        stop(gateway).await?;
        Ok((start, status))
    }

    async fn run(&self) -> Result<(Start, Gateway, Value)> {
        let [config, state] = [&self.config, &self.state].map(|path| path.to_string_lossy().into_owned());
        let begun = Instant::now();
        let gateway =
            Gateway::binary(&self.binary).run_with(&["run", "-c", &config], &[("STATE_DIRECTORY", &state)]).await?;
        let ready = eventually("ready", READY, async || {
            let (code, status) = gateway.health("/readyz").await?;
            if code == 200 { Ok(Some(status)) } else { bail!("{code} {status}") }
        });
        let status = ready.await.with_context(|| gateway.stderr().text())?;
        let seconds = begun.elapsed().as_secs_f64();
        let (resident, peak) = memory(gateway.id())?;
        Ok((Start { seconds, resident, peak }, gateway, status))
    }
}

async fn stop(mut gateway: Gateway) -> Result<()> {
    gateway.interrupt()?;
    gateway.wait_exit(STOP).await?;
    Ok(())
}

fn has_snapshot(dir: &Path) -> bool {
    let is_one = |entry: std::fs::DirEntry| entry.path().extension().is_some_and(|extension| extension == "snapshot");
    std::fs::read_dir(dir).into_iter().flatten().flatten().any(is_one)
}

/// Resident now and at most, in megabytes (10^6 bytes).
fn memory(process: u32) -> Result<(f64, f64)> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status"))?;
    let read = |name: &str| -> Result<f64> {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).context("no figure")?;
        let kilobytes: f64 = line.trim_start_matches(':').trim().trim_end_matches(" kB").parse()?;
        Ok(kilobytes * 1024.0 / 1e6)
    };
    Ok((read("VmRSS")?, read("VmHWM")?))
}

fn configuration(idp: &ScriptedIdp) -> String {
    let mut config = Configuration::default();
    config.set("address", "127.0.0.1:0");
    config.set("health_check_addr", "127.0.0.1:0");
    config.set("insecure_server", "true");
    config.set("shared_secret", people::SHARED_SECRET);
    config.set("authenticate_service_url", AUTHENTICATE);
    config.set("idp_provider", "oidc");
    config.set("idp_provider_url", &idp.issuer());
    config.set("idp_client_id", CLIENT_ID);
    config.set("idp_client_secret", &format!("'{CLIENT_SECRET}'"));
    config.route(APP, "http://127.0.0.1:9", "policy:\n- allow:\n    and:\n    - groups:\n        has: admins");
    config.text()
}

impl Display for Report {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self { machine, sessions, people, events, claims, snapshot, idle, .. } = self;
        let Machine { cpu, cores, kernel, load, portcullis, command, .. } = machine;
        writeln!(f, "the start of a node with {sessions} open sessions of {people} people, on the log in files")?;
        writeln!(f, "  machine   {cpu}, {cores} cores, Linux {kernel}, load {load} at the start")?;
        writeln!(f, "  version   {portcullis}")?;
        writeln!(f, "  log       {events} events, {claims} bytes of claims a session")?;
        writeln!(f, "  snapshot  {:.0} MB", megabytes(*snapshot))?;
        writeln!(f, "  command   {command}\n")?;
        writeln!(f, "  {:<18} {:>8} {:>10} {:>10} {:>14}", "", "ready, s", "RSS, MB", "peak, MB", "B a session")?;
        for (name, starts) in [("from the log", &self.from_log), ("from a snapshot", &self.from_snapshot)] {
            let median = |read: fn(&Start) -> f64| {
                let mut all: Vec<f64> = starts.iter().map(read).collect();
                all.sort_by(f64::total_cmp);
                all.get(all.len() / 2).copied().unwrap_or_default()
            };
            let resident = median(|start| start.resident);
            let each = (resident - idle) * 1e6 / f64::from(u32::try_from(*sessions).unwrap_or(u32::MAX)).max(1.0);
            let (seconds, peak) = (median(|start| start.seconds), median(|start| start.peak));
            writeln!(f, "  {name:<18} {seconds:>8.2} {resident:>10.1} {peak:>10.1} {each:>14.0}")?;
        }
        writeln!(f, "  {:<18} {:>8} {idle:>10.1}", "with no session", "")
    }
}

fn megabytes(bytes: u64) -> f64 {
    f64::from(u32::try_from(bytes / 1024).unwrap_or(u32::MAX)) * 1024.0 / 1e6
}
