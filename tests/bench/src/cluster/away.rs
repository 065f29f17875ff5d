//! A node that was away: what it reads from the servers, and how long until it knows everything again. Once it was
//! stopped, once it ran and could not reach the log.

use std::fmt::{self, Display, Formatter};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use portcullis_harness::gateway::Gateway;
use portcullis_harness::process::eventually;
use portcullis_harness::relay::Relay;
use serde_json::Value;

use super::Options;
use super::ground::{Ground, Setup};
use super::writer::Writer;
use crate::say;

/// How long an orderly stop may take, and a return.
const PATIENCE: Duration = Duration::from_secs(120);

/// What was found.
pub struct Found {
    before: u64,
    unmissed: Return,
    stopped: Return,
    cut_off: Return,
}

/// A return.
#[derive(Debug, Clone, Copy)]
struct Return {
    missed: u64,
    took: Duration,
    bytes: u64,
}

/// Measures.
///
/// # Errors
/// The node does not come back.
pub async fn measure(binary: &Path, options: &Options) -> Result<Found> {
    let mut ground = Ground::start(binary, Setup { access_life: 3600, relayed: true }).await?;
    let writer = Writer::beside(&ground).await?;
    writer.write(options.events).await?;
    let before = writer.head().await?;
    arrived(last(&ground)?, before).await?;
    say(&format!("  the log has {before} events\n"))?;

    stop(&mut ground).await?;
    let unmissed = started(&mut ground, before, 0).await?;
    stop(&mut ground).await?;
    writer.write(options.events).await?;
    let head = writer.head().await?;
    let stopped = started(&mut ground, head, head - before).await?;
    say("  the node was stopped and is back\n")?;

    ground.relays.iter().for_each(Relay::cut);
    writer.write(options.events).await?;
    let later = writer.head().await?;
    let (began, carried) = (Instant::now(), carried(&ground));
    ground.relays.iter().for_each(Relay::heal);
    arrived(last(&ground)?, later).await?;
    let cut_off = Return { missed: later - head, took: began.elapsed(), bytes: self::carried(&ground) - carried };
    Ok(Found { before, unmissed, stopped, cut_off })
}

fn last(ground: &Ground) -> Result<&Gateway> {
    ground.gateways.last().context("no gateway")
}

async fn stop(ground: &mut Ground) -> Result<()> {
    let gateway = ground.gateways.last_mut().context("no gateway")?;
    gateway.interrupt()?;
    gateway.wait_exit(PATIENCE).await?;
    Ok(())
}

async fn started(ground: &mut Ground, head: u64, missed: u64) -> Result<Return> {
    let (began, carried) = (Instant::now(), carried(ground));
    ground.gateways.last_mut().context("no gateway")?.restart().await?;
    arrived(last(ground)?, head).await?;
    Ok(Return { missed, took: began.elapsed(), bytes: self::carried(ground) - carried })
}

/// Waits until a node is ready and knows everything up to `head`.
async fn arrived(gateway: &Gateway, head: u64) -> Result<()> {
    let look = async || {
        let (status, body) = gateway.health("/readyz").await?;
        let applied = body.get("applied").and_then(Value::as_u64).unwrap_or_default();
        Ok((status == 200 && applied >= head).then_some(()))
    };
    eventually("the node knows everything", PATIENCE, look).await
}

fn carried(ground: &Ground) -> u64 {
    ground.relays.iter().map(Relay::carried).sum()
}

impl Display for Found {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self { before, unmissed, stopped, cut_off } = self;
        writeln!(
            f,
            "  how       events as sign-ins make them, three for each; bytes from the servers to the node, counted by a"
        )?;
        writeln!(f, "            relay between them; until it is ready and knows everything\n")?;
        writeln!(f, "  {:<58} {:>8} {:>12}", "", "s", "bytes")?;
        let rows = [
            (format!("started with {before} events on the log, none of them new"), unmissed),
            (format!("stopped, missed {}, and started", stopped.missed), stopped),
            (format!("ran and was cut off, missed {}, and reached the log", cut_off.missed), cut_off),
        ];
        for (name, Return { took, bytes, .. }) in rows {
            writeln!(f, "  {name:<58} {:>8.2} {bytes:>12}", took.as_secs_f64())?;
        }
        Ok(())
    }
}
