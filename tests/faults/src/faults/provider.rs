//! A provider that fails in the middle of a refresh, and nodes that die over one.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use portcullis_harness::idp::Refreshing;
use tokio::time::sleep;

use super::Scale;
use crate::campaign::Campaign;
use crate::crowd::USUAL;
use crate::ground::{ACCESS_LIFE, NODES};

/// Refreshes that the provider answers wrongly before it is well again.
const WRONG: usize = 8;
/// How long these may take to come.
const COME: Duration = Duration::from_secs(90);
/// Refreshes of the race, and of its short form.
const RACE: (usize, usize) = (1000, 60);
/// How long the race may take.
const LONGEST: Duration = Duration::from_secs(20 * 60);
/// Sessions in the race: each is due again when the least time between two refreshes has passed.
const RACERS: usize = 60;
/// How long the provider takes for an answer: nodes die in between.
const ANSWER: Duration = Duration::from_millis(400);
/// Between two nodes that die.
const DEATHS: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(7));

pub(super) async fn answers(campaign: &Campaign, how: Refreshing) -> Result<Option<String>> {
    let idp = &campaign.ground.idp;
    let before = idp.refreshes();
    idp.set_refreshing(how);
    let began = Instant::now();
    while idp.refreshes() < before + WRONG {
        ensure!(began.elapsed() < COME, "only {} refreshes came", idp.refreshes() - before);
        sleep(Duration::from_millis(100)).await;
    }
    idp.set_refreshing(Refreshing::Rotates);
    Ok(None)
}

pub(super) async fn race(campaign: &mut Campaign) -> Result<Option<String>> {
    let wanted = if campaign.scale == Scale::Full { RACE.0 } else { RACE.1 };
    campaign.crowd.wanted.set(if campaign.scale == Scale::Full { RACERS } else { USUAL });
    // due as often as a session may be
    campaign.ground.idp.set_access_life(1);
    campaign.ground.idp.set_refresh_delay(ANSWER);
    let (before, began) = (campaign.ground.idp.refreshes(), Instant::now());
    let mut deaths = 0;
    while campaign.ground.idp.refreshes() < before + wanted {
        ensure!(began.elapsed() < LONGEST, "only {} refreshes", campaign.ground.idp.refreshes() - before);
        sleep(campaign.dice.between(DEATHS.0, DEATHS.1)).await;
        let number = campaign.dice.below(NODES);
        campaign.kill(number)?;
        campaign.start(&[number]).await?;
        deaths += 1;
    }
    let refreshes = campaign.ground.idp.refreshes() - before;
    campaign.ground.idp.set_refresh_delay(Duration::ZERO);
    campaign.ground.idp.set_access_life(ACCESS_LIFE);
    campaign.crowd.wanted.set(USUAL);
    Ok(Some(format!("{refreshes} refreshes, {deaths} nodes killed in {:.0} s", began.elapsed().as_secs_f64())))
}
