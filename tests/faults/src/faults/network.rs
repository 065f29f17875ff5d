//! Partitions: a gateway from the log, a server from the others.

use std::time::Duration;

use anyhow::Result;
use portcullis_harness::nats_cluster::SERVERS;
use tokio::time::sleep;

use crate::campaign::Campaign;
use crate::chronicle::STREAM;
use crate::crowd::{BOUND, PROOF};
use crate::ground::NODES;

/// So much longer than any node may go on by what it knew that one that goes on is caught.
const CUT: Duration = BOUND.saturating_add(PROOF).saturating_add(Duration::from_secs(10));

pub(super) async fn cut_gateway(campaign: &mut Campaign) -> Result<Option<String>> {
    let number = campaign.dice.below(NODES);
    let ways = &campaign.ground.node(number)?.ways;
    ways.hold();
    sleep(CUT).await;
    ways.heal();
    Ok(None)
}

pub(super) async fn cut_leader(campaign: &mut Campaign) -> Result<Option<String>> {
    let leader = campaign.ground.nats.leader(STREAM).await?;
    cut(campaign, leader).await
}

pub(super) async fn cut_follower(campaign: &mut Campaign) -> Result<Option<String>> {
    let follower = (campaign.ground.nats.leader(STREAM).await? + 1 + campaign.dice.below(SERVERS - 1)) % SERVERS;
    cut(campaign, follower).await
}

async fn cut(campaign: &Campaign, number: usize) -> Result<Option<String>> {
    campaign.ground.nats.isolate(number);
    sleep(CUT).await;
    campaign.ground.nats.heal(number);
    campaign.ground.nats.current(STREAM).await?;
    Ok(None)
}
