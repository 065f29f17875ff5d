//! Records that no gateway wrote: an administrator's client puts them on the log of a cluster of its own, which is lost
//! with it. Three gateways must stop at the record, say so, and serve nobody.

use std::cell::Cell;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use async_nats::jetstream;
use futures_util::future::try_join_all;
use http::StatusCode;
use portcullis_events::{Aggregate, Envelope, Event, EventId, Hash, SessionId, session};
use portcullis_harness::client::Visitor;
use portcullis_harness::gateway::Gateway;
use portcullis_harness::process::eventually;
use portcullis_harness::sign_in::sign_in;
use portcullis_harness::world::APP;
use serde_json::{Value, json};

use crate::campaign::Campaign;
use crate::chronicle::STREAM;
use crate::crowd::{BOUND, PROOF};
use crate::ground::NODES;

/// How long a node may take to meet the record; what it does then is asked at once.
const MET: Duration = Duration::from_secs(30);

thread_local! {
    /// The accounts that are used up.
    static USED: Cell<usize> = const { Cell::new(0) };
}

/// What is written.
#[derive(Debug, Clone, Copy)]
pub(super) enum Kind {
    Unknown,
    Truncated,
    BrokenHash,
}

pub(super) async fn write(campaign: &mut Campaign, kind: Kind) -> Result<Option<String>> {
    let number = USED.get();
    USED.set(number + 1);
    let (user, ground) = (format!("a{number}"), &campaign.ground);
    let config = ground.config_of(&user)?;
    let mut nodes = try_join_all((0..NODES).map(|_| ground.launcher.run(&config))).await?;
    let alice = ground.stranger()?.through(nodes.first().context("no node")?.address().await?);
    let page = sign_in(&alice, APP, "alice").await?;
    ensure!(page.status == StatusCode::OK, "{}", page.status);
    for node in &nodes {
        ensure!(status(&alice, node).await? == StatusCode::OK, "the control: she is served everywhere");
    }

    let log = jetstream::new(ground.nats.client_of(Some(&user)).await?);
    let stream = log.get_stream(STREAM).await?;
    let (subject, body) = foul(&stream, kind).await?;
    let seq = log.publish(subject, body.into()).await?.await?.sequence;
    let written = Instant::now();
    let mut served = Duration::ZERO;
    for node in &nodes {
        let look = async || {
            let status = status(&alice, node).await?;
            ensure!(status == StatusCode::SERVICE_UNAVAILABLE, "{status}");
            Ok(Some(()))
        };
        eventually("nobody is served", MET, look).await?;
        served = served.max(written.elapsed());
        let why = node.unready(MET).await?;
        ensure!(why.contains(&seq.to_string()), "a node does not say where it stopped: {why}");
        let (_, said) = node.health("/readyz").await?;
        ensure!(said.get("applied").and_then(Value::as_u64) == Some(seq - 1), "it stands at {said}, not before {seq}");
    }
    ensure!(served < BOUND + PROOF, "a node served for {served:?} past the record");
    // a start does not get past it either
    let node = nodes.get_mut(campaign.dice.below(NODES)).context("no node")?;
    node.relaunch().await?;
    let look = async || {
        let (status, said) = node.health("/readyz").await?;
        let why = said.get("why").and_then(Value::as_str).unwrap_or_default().to_owned();
        Ok((status == 503 && why.contains(&format!("sequence {seq}"))).then_some(()))
    };
    eventually("a node that starts stops there too", MET, look).await?;
    Ok(Some(format!("three other nodes stopped at it within {:.1} s", served.as_secs_f64())))
}

async fn status(person: &Visitor, node: &Gateway) -> Result<StatusCode> {
    let there = person.clone().through(node.address().await?).accepting("application/json");
    Ok(there.get(APP).await?.status)
}

/// Under the subject of the session that was opened last: something that is no event, or does not follow from it.
async fn foul(stream: &jetstream::stream::Stream, kind: Kind) -> Result<(String, Vec<u8>)> {
    let last = stream.get_info().await?.state.last_sequence;
    for seq in (1..=last).rev() {
        let message = stream.get_raw_message(seq).await?;
        let opened = Envelope::decode(&message.payload)?;
        if !matches!(opened.event, Event::Session(session::Event::SignedIn(_))) {
            continue;
        }
        let next = Envelope {
            id: EventId::new(opened.id.uuid()),
            aggregate: Aggregate::session(SessionId::new(opened.aggregate.id)),
            prev: Some(match kind {
                Kind::BrokenHash => Hash::of(b"another"),
                Kind::Unknown | Kind::Truncated => Hash::of(&message.payload),
            }),
            event: Event::Session(session::Event::Revoked(session::Revoked { reason: "a fault".into() })),
            ..opened
        };
        let mut body = next.encode()?;
        match kind {
            Kind::Unknown => {
                let mut event: Value = serde_json::from_slice(&body)?;
                let attributes = event.as_object_mut().context("not an event")?;
                attributes.insert("type".into(), json!("portcullis.session.promoted.v1"));
                body = serde_json::to_vec(&event)?;
            }
            Kind::Truncated => body.truncate(body.len() / 2),
            Kind::BrokenHash => {}
        }
        return Ok((message.subject.to_string(), body));
    }
    anyhow::bail!("nobody has signed in")
}
