//! Disks: gone, full, rotten; and an administrator who deletes.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use async_nats::jetstream;
use http::StatusCode;
use portcullis_harness::gateway::Gateway;
use portcullis_harness::nats_cluster::{SERVERS, ask};
use portcullis_harness::process::eventually;
use portcullis_harness::sign_in::sign_in;
use portcullis_harness::world::APP;
use serde_json::json;
use tokio::time::{sleep, timeout};

use super::BROKEN;
use crate::campaign::Campaign;
use crate::chronicle::STREAM;
use crate::ground::{NODES, STORE};

/// The stream of somebody else that takes all the room there is.
const FILL: &str = "FILL";
/// Bytes of a message of it.
const PIECE: usize = 512 * 1024;
/// How long filling may take.
const FILLED: Duration = Duration::from_secs(60);
/// How often the leader steps down for the damaged server.
const WISHES: usize = 4;
/// Kilobytes of a file of the gateway whose disk is full.
const FILE_KB: usize = 600;
/// More sign-ins than that holds.
const SIGN_INS: usize = 400;

pub(super) async fn empty_server(campaign: &mut Campaign) -> Result<Option<String>> {
    let number = campaign.dice.below(SERVERS);
    campaign.ground.nats.kill(number)?;
    campaign.ground.nats.wipe(number)?;
    sleep(BROKEN / 5).await;
    campaign.ground.nats.restart(number)?;
    campaign.ground.nats.current(STREAM).await?;
    Ok(None)
}

pub(super) async fn fill(campaign: &mut Campaign) -> Result<Option<String>> {
    let client = campaign.ground.nats.client().await?;
    let log = jetstream::new(client.clone());
    let stream = json!({ "name": FILL, "subjects": ["fill"], "num_replicas": SERVERS, "storage": "file" });
    let made = ask(&client, &format!("STREAM.CREATE.{FILL}"), &stream).await?;
    ensure!(made.get("error").is_none(), "{made}");
    let filling = async {
        let mut pieces = 0;
        loop {
            // the last pieces are small: there is no room for anything
            let length = if pieces * PIECE < STORE { PIECE } else { 64 };
            match log.publish("fill", vec![0; length].into()).await?.await {
                Ok(_) => pieces += 1,
                Err(error) => return anyhow::Ok((pieces, error.to_string())),
            }
            ensure!(pieces * PIECE < 2 * STORE, "the servers store more than they may");
        }
    };
    let (pieces, why) = timeout(FILLED, filling).await.context("the servers do not fill up")??;
    let before = campaign.crowd.ledger.borrow().tally.sign_ins;
    sleep(BROKEN).await;
    let after = campaign.crowd.ledger.borrow().tally.sign_ins;
    let deleted = async || {
        let deleted = ask(&campaign.ground.nats.client().await?, &format!("STREAM.DELETE.{FILL}"), &json!({})).await?;
        ensure!(deleted.get("error").is_none(), "{deleted}");
        Ok(Some(()))
    };
    eventually("there is room again", FILLED, deleted).await?;
    campaign.ground.nats.current(STREAM).await?;
    let [came, told, _] = [0, 1, 2].map(|which: usize| {
        after.get(which).copied().unwrap_or(0).saturating_sub(before.get(which).copied().unwrap_or(0))
    });
    Ok(Some(format!("full after {pieces} pieces ({why}): {came} let in, {told} told to try again")))
}

/// A gateway of its own, whose files may grow no further.
pub(super) async fn fill_embedded(campaign: &mut Campaign) -> Result<Option<String>> {
    let ground = &campaign.ground;
    let (file, state) = (ground.dir.path().join("embedded.yaml"), ground.dir.path().join("embedded"));
    let mut config = ground.embedded();
    config.set("databroker_storage_type", "file");
    std::fs::write(&file, config.text())?;
    let [file, state] = [&file, &state].map(|path| path.to_string_lossy().into_owned());
    let binary = ground.launcher.path().to_string_lossy().into_owned();
    let environment = [("STATE_DIRECTORY", state.as_str())];
    // a write past the limit fails as one on a full disk does; the signal that comes with it is no disk's
    let limited = format!("trap '' XFSZ; ulimit -f {}; exec \"$0\" run -c \"$1\"", FILE_KB * 2);
    let shell = Gateway::binary("/bin/sh");
    let mut gateway = shell.run_with(&["-c", &limited, &binary, &file], &environment).await?;
    gateway.ready().await?;
    let stranger = ground.stranger()?;
    let mut people = Vec::new();
    let refused = loop {
        ensure!(people.len() < SIGN_INS, "its disk is never full");
        let person = stranger.holding(portcullis_harness::cookies::Jar::default()).through(gateway.address().await?);
        let page = sign_in(&person, APP, "alice").await?;
        if page.status != StatusCode::OK {
            break page.status;
        }
        people.push(person);
    };
    ensure!(refused == StatusCode::SERVICE_UNAVAILABLE, "whoever came too late was told {refused}");
    for person in &people {
        let status = person.clone().accepting("application/json").get(APP).await?.status;
        ensure!(status == StatusCode::OK, "somebody signed in was told {status}");
    }
    gateway.kill_9()?;
    let mut gateway = ground.launcher.run_with(&["run", "-c", &file], &environment).await?;
    gateway.ready().await?;
    let address = gateway.address().await?;
    for person in &people {
        let status = person.clone().through(address).accepting("application/json").get(APP).await?.status;
        ensure!(status == StatusCode::OK, "a sign-in was acknowledged and is lost: {status}");
    }
    let late = stranger.holding(portcullis_harness::cookies::Jar::default()).through(address);
    let page = sign_in(&late, APP, "alice").await?;
    ensure!(page.status == StatusCode::OK, "with room again, somebody new is told {}", page.status);
    Ok(Some(format!("full after {} sign-ins, all served then and after a kill", people.len())))
}

pub(super) async fn flip(campaign: &mut Campaign) -> Result<Option<String>> {
    let nats = &mut campaign.ground.nats;
    let rotten = (nats.leader(STREAM).await? + 1) % SERVERS;
    nats.stop(rotten)?;
    nats.flip_a_bit(rotten, STREAM, campaign.dice.below(1000))?;
    nats.restart(rotten)?;
    // it may say that it is current, and be elected when the leader steps down for it
    let is_current = nats.current(STREAM).await.is_ok();
    let mut led = false;
    for _ in 0..WISHES {
        nats.step_down(STREAM, rotten).await?;
        sleep(BROKEN / 5).await;
        led = nats.leader(STREAM).await? == rotten;
        if led {
            break;
        }
    }
    sleep(BROKEN / 2).await;
    campaign.ground.nats.stop(rotten)?;
    campaign.ground.nats.wipe(rotten)?;
    campaign.ground.nats.restart(rotten)?;
    campaign.ground.nats.current(STREAM).await?;
    // a node that saw the damage stops for good: it is started again
    let mut stopped = Vec::new();
    for number in 0..NODES {
        let (_, said) = campaign.ground.node(number)?.gateway.health("/readyz").await?;
        if said.get("why").is_some_and(|why| why.as_str().is_some_and(|why| why.starts_with("stopped"))) {
            stopped.push(number);
        }
    }
    campaign.start(&stopped).await?;
    let current = if is_current { "it was current" } else { "it stayed behind" };
    let led = if led { "it led" } else { "it was not elected" };
    Ok(Some(format!("{current}, {led}; {} nodes saw it and stopped", stopped.len())))
}

pub(super) async fn delete_message(campaign: &mut Campaign) -> Result<Option<String>> {
    let client = campaign.ground.nats.client().await?;
    let info = ask(&client, &format!("STREAM.INFO.{STREAM}"), &json!({})).await?;
    let last = info.pointer("/state/last_seq").and_then(serde_json::Value::as_u64).context("no last sequence")?;
    let mut config = info.get("config").cloned().context("no configuration")?;
    let fields = config.as_object_mut().context("no configuration")?;
    fields.insert("deny_delete".into(), json!(false));
    fields.insert("deny_purge".into(), json!(false));
    // refused because it is not permitted, and for no other reason: delete, purge, and an update that would permit them
    for (what, query, code) in [
        ("MSG.DELETE", json!({ "seq": last }), 10057),
        ("MSG.DELETE", json!({ "seq": 2, "no_erase": true }), 10057),
        ("PURGE", json!({ "keep": 1 }), 10110),
        ("UPDATE", config, 10052),
    ] {
        let answer = ask(&client, &format!("STREAM.{what}.{STREAM}"), &query).await?;
        let refused = answer.pointer("/error/err_code").and_then(serde_json::Value::as_u64);
        ensure!(refused == Some(code), "{what} was not refused with {code}: {answer}");
    }
    sleep(BROKEN / 5).await;
    Ok(Some("every way was refused".into()))
}
