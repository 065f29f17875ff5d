//! From the ack of a revocation to the moment when every node refuses, and to the moment when every WebSocket is closed.
//!
//! Each session has a WebSocket and an HTTP/2 connection at every gateway. The log's ack is taken in this process; from
//! then on every gateway is asked without a pause until it refuses, and what counts is when the refusal has arrived.

use std::fmt::{self, Display, Formatter};
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use futures_util::future::try_join_all;
use http::StatusCode;
use http_body_util::BodyExt;
use portcullis_harness::client::Streams;
use portcullis_harness::websocket::WebSocket;
use portcullis_harness::world::APP;
use tokio::task::{JoinHandle, spawn_local};

use super::Options;
use super::ground::{Ground, Person, Setup};
use super::meter::{Meter, Share};
use super::writer::Writer;
use crate::say;
use crate::statistics::percentile;

/// People who sign in at one time.
const BROWSERS: u32 = 16;
/// Longest pause before a revocation, so that it comes at any time between two signs of life on the log.
const PAUSE_MILLIS: u64 = 40;
/// How long a session may live on before the measurement has failed.
const PATIENCE: Duration = Duration::from_secs(10);
/// What we promise past the ack, in microseconds.
const AIM: u32 = 5000;

/// What was found, in microseconds.
pub struct Found {
    share: Share,
    appended: Vec<u32>,
    admitted: Vec<u32>,
    refused: Vec<u32>,
    closed: Vec<u32>,
}

/// One revocation, past its ack.
struct Ended {
    appended: Duration,
    admitted: Duration,
    refused: Duration,
    closed: Duration,
}

/// Measures.
///
/// # Errors
/// A session lives on, or the cluster fails.
pub async fn measure(binary: &Path, options: &Options) -> Result<Found> {
    let ground = Ground::start(binary, Setup { access_life: 3600, relayed: false }).await?;
    let writer = Writer::beside(&ground).await?;
    let mut chance = fastrand::Rng::with_seed(options.seed);
    let mut people = ground.sign_in(options.revocations, BROWSERS).await?;
    chance.shuffle(&mut people);
    say(&format!("  {} people are signed in\n", people.len()))?;
    let meter = Meter::start(&ground)?;
    let mut all = Vec::new();
    for person in people {
        all.push(end(&ground, &writer, &person, Duration::from_millis(chance.u64(0..PAUSE_MILLIS))).await?);
        if all.len() % 250 == 0 {
            say(&format!("  {} sessions have ended\n", all.len()))?;
        }
    }
    let share = meter.stop(&ground)?;
    let sorted = |read: fn(&Ended) -> Duration| -> Result<Vec<u32>> {
        let micros = all.iter().map(|ended| u32::try_from(read(ended).as_micros()));
        let mut micros = micros.collect::<Result<Vec<_>, _>>()?;
        micros.sort_unstable();
        Ok(micros)
    };
    Ok(Found {
        share,
        appended: sorted(|ended| ended.appended)?,
        admitted: sorted(|ended| ended.admitted)?,
        refused: sorted(|ended| ended.refused)?,
        closed: sorted(|ended| ended.closed)?,
    })
}

async fn end(ground: &Ground, writer: &Writer, person: &Person, pause: Duration) -> Result<Ended> {
    let gates = || ground.gates();
    let asking = try_join_all(gates().map(|gate| asking(person, gate))).await?;
    let sockets = try_join_all(gates().map(|gate| watched(person, gate))).await?;
    tokio::time::sleep(pause).await;
    let revoked = writer.revoke(person.session).await?;
    let asked = try_join_all(asking.iter().map(refused)).await?;
    let closed = tokio::time::timeout(PATIENCE, try_join_all(sockets)).await.context("a WebSocket is still open")?;
    let closed = closed?.into_iter().collect::<Result<Vec<_>>>()?;
    let since = |at: &Instant| at.saturating_duration_since(revoked.acked);
    let (refusals, ends): (Vec<_>, Vec<_>) =
        (asked.iter().map(|refusal| since(&refusal.at)).collect(), closed.iter().map(since).collect());
    if refusals.iter().chain(&ends).any(|time| *time > Duration::from_micros(AIM.into())) {
        say(&format!("  late: appended in {:.1?}; refused {refusals:.1?}, closed {ends:.1?}\n", revoked.took))?;
    }
    let last = |times: Vec<Duration>| times.into_iter().max().unwrap_or_default();
    Ok(Ended {
        appended: revoked.took,
        admitted: last(asked.iter().filter_map(|refusal| refusal.admitted.as_ref()).map(since).collect()),
        refused: last(refusals),
        closed: last(ends),
    })
}

/// A connection to a gateway on which the person was just served.
async fn asking(person: &Person, gate: SocketAddr) -> Result<Streams> {
    let browser = person.browser.clone().through(gate).accepting("application/json");
    let streams = browser.streams(APP).await?;
    let status = status(&streams).await?;
    ensure!(status == StatusCode::OK, "somebody who is signed in gets {status}");
    Ok(streams)
}

async fn status(streams: &Streams) -> Result<StatusCode> {
    let (head, body) = streams.get(&format!("{APP}/")).await?.into_parts();
    body.collect().await?;
    Ok(head.status)
}

/// A WebSocket that echoes, and somebody who waits for its end.
async fn watched(person: &Person, gate: SocketAddr) -> Result<JoinHandle<Result<Instant>>> {
    let browser = person.browser.clone().through(gate);
    let opened = WebSocket::open(&browser, &format!("{APP}/ws")).await?;
    let mut socket = opened.map_err(|status| anyhow::anyhow!("a WebSocket is refused with {status}"))?;
    socket.say("hello").await?;
    ensure!(socket.hear().await? == "hello", "the WebSocket does not echo");
    Ok(spawn_local(async move {
        let code = socket.close_code(Duration::from_secs(60)).await?;
        let at = Instant::now();
        ensure!(code == Some(1008), "the WebSocket was closed with {code:?}");
        Ok(at)
    }))
}

/// How a gateway came to refuse.
struct Refusal {
    /// When the refusal had arrived.
    at: Instant,
    /// When the last request set out that was admitted.
    admitted: Option<Instant>,
}

/// Asks until the answer is no. A request that was under way may be cut; the next one says what holds.
async fn refused(streams: &Streams) -> Result<Refusal> {
    let until = Instant::now() + PATIENCE;
    let mut admitted = None;
    while Instant::now() < until {
        let asked = Instant::now();
        match status(streams).await {
            Ok(StatusCode::UNAUTHORIZED) => return Ok(Refusal { at: Instant::now(), admitted }),
            Ok(StatusCode::OK) => admitted = Some(asked),
            Ok(status) => bail!("an answer of {status}"),
            Err(_) => {}
        }
    }
    bail!("a session is admitted {PATIENCE:?} after its end")
}

impl Display for Found {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self { share, appended, admitted, refused, closed } = self;
        write!(f, "{share}")?;
        let count = refused.len();
        writeln!(
            f,
            "  how       {count} sessions end one after another, each with a WebSocket at every gateway; from the"
        )?;
        writeln!(
            f,
            "            log's ack on every gateway is asked without a pause; all times but the first past the ack\n"
        )?;
        writeln!(f, "  {:<44} {:>8} {:>8} {:>8} {:>12}", "ms", "p50", "p99", "max", "over 5 ms")?;
        let rows = [
            ("append to ack", appended),
            ("last request that was admitted set out", admitted),
            ("the refusal of the last gateway has arrived", refused),
            ("the last WebSocket is closed at its client", closed),
        ];
        for (name, sorted) in rows {
            let ms = |percent: usize| percentile(sorted, percent) / 1000.0;
            let over = sorted.iter().filter(|micros| **micros > AIM).count();
            writeln!(f, "  {name:<44} {:>8.2} {:>8.2} {:>8.2} {over:>12}", ms(50), ms(99), ms(100))?;
        }
        Ok(())
    }
}
