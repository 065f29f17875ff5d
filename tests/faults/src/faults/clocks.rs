//! A node whose clock is wrong.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use portcullis_events::Time;
use tokio::time::sleep;

use super::BROKEN;
use crate::campaign::Campaign;
use crate::clock::Clock;
use crate::ground::NODES;

const WRONG: Duration = Duration::from_secs(5 * 60);

pub(super) async fn ahead(campaign: &mut Campaign) -> Result<Option<String>> {
    wrong(campaign, |clock| clock.ahead(WRONG)).await
}

pub(super) async fn behind(campaign: &mut Campaign) -> Result<Option<String>> {
    wrong(campaign, |clock| clock.behind(WRONG)).await
}

async fn wrong(campaign: &mut Campaign, set: impl Fn(&Clock) -> Result<()>) -> Result<Option<String>> {
    let number = campaign.dice.below(NODES);
    let untimely = |campaign: &Campaign, is_so: bool| {
        campaign.crowd.gates.iter().skip(number).take(1).for_each(|gate| gate.is_untimely.set(is_so));
    };
    untimely(campaign, true);
    set(&campaign.ground.node(number)?.clock)?;
    sleep(BROKEN).await;
    let (here, there) = (wrote(campaign, number)?, wrote(campaign, (number + 1) % NODES)?);
    let off = here.since(there).max(there.since(here));
    ensure!(off > WRONG - BROKEN && off < WRONG + BROKEN, "the control: the node's clock is off by {off:?}");
    campaign.ground.node(number)?.clock.ahead(Duration::ZERO)?;
    // whoever is asked already answers by the time it was
    sleep(BROKEN / 5).await;
    untimely(campaign, false);
    Ok(None)
}

/// When a node wrote its last decision down, by its own clock.
fn wrote(campaign: &mut Campaign, number: usize) -> Result<Time> {
    let lines = campaign.ground.node(number)?.gateway.request_log("authorize check");
    let time = lines.last().and_then(|line| line.get("time")?.as_str()).context("the node decided nothing")?;
    Time::parse_rfc3339(time).context("a time that cannot be read")
}
