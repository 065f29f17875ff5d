//! Processes that die or stand still.

use std::time::Duration;

use anyhow::Result;
use portcullis_harness::nats_cluster::SERVERS;
use tokio::time::sleep;

use super::BROKEN;
use crate::campaign::Campaign;
use crate::chronicle::STREAM;
use crate::ground::NODES;

pub(super) async fn kill_gateway(campaign: &mut Campaign) -> Result<Option<String>> {
    let number = campaign.dice.below(NODES);
    campaign.kill(number)?;
    sleep(BROKEN / 2).await;
    campaign.start(&[number]).await?;
    Ok(None)
}

pub(super) async fn kill_leader(campaign: &mut Campaign) -> Result<Option<String>> {
    let leader = campaign.ground.nats.leader(STREAM).await?;
    campaign.ground.nats.kill(leader)?;
    sleep(BROKEN).await;
    campaign.ground.nats.restart(leader)?;
    campaign.ground.nats.current(STREAM).await?;
    Ok(None)
}

pub(super) async fn kill_all(campaign: &mut Campaign) -> Result<Option<String>> {
    for number in 0..NODES.max(SERVERS) {
        campaign.kill(number)?;
        campaign.ground.nats.kill(number)?;
    }
    sleep(Duration::from_secs(1)).await;
    for number in 0..SERVERS {
        campaign.ground.nats.restart(number)?;
    }
    campaign.ground.nats.current(STREAM).await?;
    campaign.start(&[0, 1, 2]).await?;
    Ok(None)
}

pub(super) async fn pause_gateway(campaign: &mut Campaign) -> Result<Option<String>> {
    let number = campaign.dice.below(NODES);
    let gateway = &mut campaign.ground.node(number)?.gateway;
    gateway.pause()?;
    sleep(BROKEN).await;
    gateway.resume()?;
    Ok(None)
}

pub(super) async fn pause_leader(campaign: &mut Campaign) -> Result<Option<String>> {
    let leader = campaign.ground.nats.leader(STREAM).await?;
    campaign.ground.nats.pause(leader)?;
    sleep(BROKEN).await;
    campaign.ground.nats.resume(leader)?;
    campaign.ground.nats.current(STREAM).await?;
    Ok(None)
}

pub(super) async fn lose_quorum(campaign: &mut Campaign) -> Result<Option<String>> {
    let left = campaign.dice.below(SERVERS);
    let lost = (0..SERVERS).filter(|number| *number != left);
    for number in lost.clone() {
        campaign.ground.nats.kill(number)?;
    }
    sleep(BROKEN).await;
    for number in lost {
        campaign.ground.nats.restart(number)?;
    }
    campaign.ground.nats.current(STREAM).await?;
    Ok(None)
}
