//! Refreshes a second: more sessions fall due than the cluster can renew, and the log says how many were.

use std::fmt::{self, Display, Formatter};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use futures_util::stream::StreamExt;
use portcullis_actors::databroker::log::Tailed;
use portcullis_config::limits::REFRESH_RATE;
use portcullis_events::{Envelope, Event, token};
use tokio::time::timeout_at;

use super::Options;
use super::ground::{GATEWAYS, Ground, Setup};
use super::meter::{Meter, Share};
use super::writer::Writer;
use crate::say;

/// How long access tokens live, in seconds: with a quarter of it left they are renewed.
const LIFE: u64 = 10;
/// How long the first burst is left alone.
const WARM_UP: Duration = Duration::from_secs(20);

/// What was found.
pub struct Found {
    share: Share,
    sessions: u32,
    counted: Counted,
    conflicts: f64,
    reuses: usize,
}

/// What the log said meanwhile.
#[derive(Debug, Clone, Copy, Default)]
struct Counted {
    started: u32,
    refreshed: u32,
    failed: u32,
    in_doubt: u32,
}

/// Measures.
///
/// # Errors
/// Somebody is not let in, or the log is away.
pub async fn measure(binary: &Path, options: &Options) -> Result<Found> {
    let mut ground = Ground::start(binary, Setup { access_life: LIFE, relayed: false }).await?;
    let sessions = options.refreshed_sessions;
    ground.sign_in(sessions, options.browsers).await?;
    say(&format!("  {sessions} people are signed in\n"))?;
    tokio::time::sleep(WARM_UP).await;
    let writer = Writer::beside(&ground).await?;
    let head = writer.head().await?;
    let before = conflicts(&ground).await?;
    let meter = Meter::start(&ground)?;
    let counted = count(&ground, head, Duration::from_secs(options.seconds)).await?;
    let share = meter.stop(&ground)?;
    let conflicts = conflicts(&ground).await? - before;
    Ok(Found { share, sessions, counted, conflicts, reuses: ground.provider.reuses()? })
}

/// Reads the log for a while.
async fn count(ground: &Ground, after: u64, length: Duration) -> Result<Counted> {
    let mut tail = ground.store().await?.log.tail(after);
    let until = (Instant::now() + length).into();
    let mut counted = Counted::default();
    while let Ok(item) = timeout_at(until, tail.next()).await {
        let Tailed::Record(record) = item.context("the log ended")?? else { continue };
        let Event::Token(event) = Envelope::decode(&record.body)?.event else { continue };
        let count = match event {
            token::Event::Stored(_) => continue,
            token::Event::RefreshStarted(_) => &mut counted.started,
            token::Event::Refreshed(_) => &mut counted.refreshed,
            token::Event::RefreshFailed(_) => &mut counted.failed,
            token::Event::LeftInDoubt(_) => &mut counted.in_doubt,
        };
        *count += 1;
    }
    Ok(counted)
}

/// Appends that came second, at all gateways so far.
async fn conflicts(ground: &Ground) -> Result<f64> {
    let mut sum = 0.0;
    for gateway in &ground.gateways {
        let (status, text) = gateway.metrics(None).await?;
        let line = text.lines().find(|line| line.contains("append") && line.contains("conflict"));
        let Some(value) = line.and_then(|line| line.rsplit(' ').next()) else { bail!("{status} {text}") };
        sum += value.parse::<f64>()?;
    }
    Ok(sum)
}

impl Display for Found {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self { share, sessions, counted, conflicts, reuses } = self;
        write!(f, "{share}")?;
        let (rate, burst) = REFRESH_RATE;
        writeln!(
            f,
            "  how       {sessions} sessions whose access tokens live for {LIFE} s: more fall due than can be renewed; counted on"
        )?;
        writeln!(
            f,
            "            the log. A node's own limit towards a provider is {rate} calls a second, {burst} at once\n"
        )?;
        let each_second = |count: u32| f64::from(count) / share.elapsed.as_secs_f64();
        writeln!(
            f,
            "  refreshes a second      {:>8.1}  (all nodes' limits together: {})",
            each_second(counted.refreshed),
            rate * u32::try_from(GATEWAYS).unwrap_or(0)
        )?;
        writeln!(f, "  intents a second        {:>8.1}", each_second(counted.started))?;
        writeln!(f, "  races lost a second     {:>8.1}", conflicts / share.elapsed.as_secs_f64())?;
        writeln!(f, "  failed, left in doubt   {:>8}, {}", counted.failed, counted.in_doubt)?;
        writeln!(f, "  presented twice         {reuses:>8}")?;
        let each = f64::from(counted.refreshed.max(1));
        let [gateways, servers] = [share.gateways, share.servers].map(|time| time.as_secs_f64() * 1000.0 / each);
        writeln!(f, "  CPU for each: gateways {gateways:.1} ms, NATS servers {servers:.1} ms")
    }
}
