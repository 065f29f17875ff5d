//! Whether nodes hold the same: each is asked what lies in its own memory.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::gateway::Gateway;
use crate::process::eventually;

/// What all nodes hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Agreement {
    /// The log position up to which they have applied it.
    pub applied: u64,
    /// The sessions that are open.
    pub sessions: u64,
    /// The log's epoch.
    pub epoch: String,
    /// The digest over everything they know of sessions.
    pub sha256: String,
}

/// Waits until all nodes are ready, have applied the log up to `least` at least, and hold byte-identical views.
///
/// # Errors
/// They do not in time; the error holds what each said last.
pub async fn of(nodes: impl Iterator<Item = &Gateway> + Clone, least: u64, deadline: Duration) -> Result<Agreement> {
    let look = async || {
        let mut views = Vec::new();
        for node in nodes.clone() {
            views.push(held(node).await?);
        }
        let first = views.first().context("no node")?.clone();
        ensure!(views.iter().all(|view| *view == first) && first.applied >= least, "{views:?}, wanted {least}");
        Ok(Some(first))
    };
    eventually("all nodes agree", deadline, look).await
}

async fn held(node: &Gateway) -> Result<Agreement> {
    let (status, ready) = node.health("/readyz").await?;
    ensure!(status == 200, "{status} {ready}");
    let (status, views) = node.health("/views").await?;
    ensure!(status == 200, "/views: {status}");
    let text = |from: &Value, name: &str| from.get(name).and_then(Value::as_str).map(str::to_owned);
    let number = |name: &str| views.get(name).and_then(Value::as_u64);
    Ok(Agreement {
        applied: number("applied").context("applied")?,
        sessions: number("sessions").context("sessions")?,
        epoch: text(&ready, "epoch").context("epoch")?,
        sha256: text(&views, "sha256").context("sha256")?,
    })
}
