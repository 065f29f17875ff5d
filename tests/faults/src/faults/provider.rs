//! A provider that fails in the middle of a refresh, and nodes that die over one.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use futures_util::StreamExt;
use portcullis_harness::idp::Refreshing;
use tokio::task::JoinHandle;
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
/// A node looks as often for what is owed.
const LOOK: Duration = Duration::from_secs(5);
/// How often at least all nodes look in the same moment.
const STARTS: usize = 4;
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
    let strangers = estrange(campaign.ground.nats.client().await?).await?;
    let (before, began) = (campaign.ground.idp.refreshes(), Instant::now());
    let (mut deaths, mut starts) = (0, 0);
    while campaign.ground.idp.refreshes() < before + wanted || starts < STARTS {
        ensure!(began.elapsed() < LONGEST, "only {} refreshes", campaign.ground.idp.refreshes() - before);
        sleep(campaign.dice.between(DEATHS.0, DEATHS.1)).await;
        let number = campaign.dice.below(NODES);
        campaign.kill(number)?;
        campaign.start(&[number]).await?;
        deaths += 1;
        if starts < STARTS || deaths % 4 == 0 {
            line_up(campaign).await?;
            starts += 1;
        }
    }
    let refreshes = campaign.ground.idp.refreshes() - before;
    strangers.abort();
    campaign.ground.idp.set_refresh_delay(Duration::ZERO);
    campaign.ground.idp.set_access_life(ACCESS_LIFE);
    campaign.crowd.wanted.set(USUAL);
    Ok(Some(format!("{refreshes} refreshes, {deaths} nodes killed in {:.0} s", began.elapsed().as_secs_f64())))
}

/// Each node looks when it likes. One that stood still looks as soon as it goes on: all of them at once.
async fn line_up(campaign: &mut Campaign) -> Result<()> {
    for number in 0..NODES {
        campaign.ground.node(number)?.gateway.pause()?;
    }
    sleep(LOOK).await;
    for number in 0..NODES {
        campaign.ground.node(number)?.gateway.resume()?;
    }
    Ok(())
}

/// Whoever hears of another node leaves a session to it for a while, and then there is no race. That is a hint, and anybody
/// who may publish where nodes make themselves known can spoil it: each that says that it is there is said to leave.
async fn estrange(client: async_nats::Client) -> Result<JoinHandle<()>> {
    let mut words = client.subscribe("portcullis.node.*").await?;
    client.flush().await?;
    Ok(tokio::task::spawn_local(async move {
        while let Some(word) = words.next().await {
            if word.payload.as_ref() == b"here" && client.publish(word.subject, "leaving".into()).await.is_err() {
                return;
            }
        }
    }))
}
