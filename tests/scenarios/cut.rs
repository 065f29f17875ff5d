//! What is open when a session ends: all of it is closed, at both ends, whatever it waits for, and nobody else's.

use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use http::Request;
use http_body_util::channel::{Channel, Sender};
use http_body_util::{BodyExt, Full};
use portcullis_harness::client::{Opened, Visitor};
use portcullis_harness::gateway::Gateway;
use portcullis_harness::nats::NatsServer;
use portcullis_harness::process::eventually;
use portcullis_harness::sign_in::{sign_in, sign_out};
use portcullis_harness::websocket::WebSocket;
use portcullis_harness::world::{APP, PUBLIC, World};
use tokio::task::JoinSet;

const BINARY: &str = env!("CARGO_BIN_EXE_portcullis");
/// Far longer than anything here takes: a deadline, not a measure.
const SOON: Duration = Duration::from_secs(20);
/// More than every buffer on the way takes.
const MUCH: u64 = 512 * 1024 * 1024;

async fn alice() -> Result<(World, Gateway, Visitor)> {
    let world = World::new(BINARY).await?;
    let gateway = world.gateway().await?;
    let alice = world.visitor(&gateway).await?;
    sign_in(&alice, APP, "alice").await?;
    Ok((world, gateway, alice))
}

async fn open(visitor: &Visitor, url: &str) -> Result<Opened> {
    visitor.open(Request::get(url).body(Full::<Bytes>::default())?).await
}

/// Events that have begun to come.
async fn events(visitor: &Visitor, host: &str) -> Result<Opened> {
    let mut events = open(visitor, &format!("{host}/sse")).await?;
    events.event().await?.context("no event")?;
    Ok(events)
}

/// An upload that has begun and goes on for as long as the sender lives. The task ends with whether it was answered.
async fn upload(visitor: &Visitor, tasks: &mut JoinSet<bool>) -> Result<Sender<Bytes>> {
    let (mut sender, body) = Channel::<Bytes>::new(1);
    sender.send_data(Bytes::from_static(b"the beginning")).await?;
    let (visitor, request) = (visitor.clone(), Request::post(format!("{APP}/upload")).body(body)?);
    tasks.spawn(async move { visitor.open(request).await.is_ok() });
    Ok(sender)
}

/// The details of all access lines of these paths, once there are `count`.
async fn details(gateway: &Gateway, paths: &[&str], count: usize) -> Result<Vec<String>> {
    let look = async || {
        let lines = gateway.request_log("http-request");
        let ours = lines.iter().filter(|line| paths.iter().any(|path| line["path"] == *path));
        let found: Vec<_> = ours.filter_map(|line| line["response-code-details"].as_str().map(str::to_owned)).collect();
        Ok((found.len() >= count).then_some(found))
    };
    eventually("the access lines", SOON, look).await
}

#[tokio::test]
async fn everything_that_a_session_has_open_ends_with_it() -> Result<()> {
    let (world, gateway, alice) = alice().await?;
    let (mut streams, mut uploads, mut senders) = (Vec::new(), JoinSet::new(), Vec::new());
    for visitor in [alice.clone(), alice.clone().over_h2()] {
        streams.push(events(&visitor, APP).await?);
        senders.push(upload(&visitor, &mut uploads).await?);
        // nobody has answered this one yet
        let hanging = visitor.clone();
        uploads.spawn(async move { hanging.get(&format!("{APP}/hang")).await.is_ok() });
    }
    let mut socket = WebSocket::open(&alice, &format!("{APP}/ws")).await?.ok().context("refused")?;
    world.upstream.has_open(7).await?;

    sign_out(&alice, APP).await?;
    for stream in &mut streams {
        stream.ended(SOON).await?;
    }
    assert_eq!(socket.close_code(SOON).await?, Some(1008));
    while let Some(answered) = uploads.join_next().await {
        assert!(!answered?, "an answer came after the end of the session");
    }
    // the upstream has seen them break off, though the clients would still be sending and waiting
    world.upstream.has_open(0).await?;
    let details = details(&gateway, &["/sse", "/upload", "/hang", "/ws"], 7).await?;
    assert_eq!(details, ["permit_lost"; 7]);
    Ok(())
}

#[tokio::test]
async fn a_client_that_reads_nothing_holds_nothing_open() -> Result<()> {
    let (world, gateway, alice) = alice().await?;
    let mut unread = Vec::new();
    for visitor in [alice.clone(), alice.clone().over_h2()] {
        unread.push(open(&visitor, &format!("{APP}/download?bytes={MUCH}")).await?);
    }
    world.upstream.has_open(2).await?;
    sign_out(&alice, APP).await?;
    // not a byte was read: the word has to reach whoever waits to write
    world.upstream.has_open(0).await?;
    assert_eq!(details(&gateway, &["/download"], 2).await?, ["permit_lost"; 2]);
    for mut opened in unread {
        opened.ended(SOON).await?;
        assert!(opened.chunk().await.ok().flatten().is_none(), "more came after the end");
    }
    Ok(())
}

#[tokio::test]
async fn what_belongs_to_others_and_to_nobody_stays_open() -> Result<()> {
    let (world, gateway, alice) = alice().await?;
    let (bob, stranger) = (world.visitor(&gateway).await?, world.visitor(&gateway).await?);
    sign_in(&bob, APP, "bob").await?;
    let mut ends = events(&alice, APP).await?;
    let mut stay = Vec::new();
    for (visitor, host) in
        [(bob.clone(), APP), (bob.over_h2(), APP), (stranger.clone(), PUBLIC), (stranger.over_h2(), PUBLIC)]
    {
        stay.push(events(&visitor, host).await?);
    }
    let streams = stay.len();
    sign_out(&alice, APP).await?;
    ends.ended(SOON).await?;
    world.upstream.has_open(streams).await?;
    world.upstream.emit("still here");
    for stream in &mut stay {
        assert_eq!(stream.event().await?.as_deref(), Some("still here"));
    }
    Ok(())
}

#[tokio::test]
async fn what_is_open_when_a_session_reaches_its_own_end_is_closed() -> Result<()> {
    let world = World::new(BINARY).await?;
    let mut config = world.config();
    config.set("cookie_expire", "8s");
    let gateway = world.launcher.run(&config.text()).await?;
    let alice = world.visitor(&gateway).await?;
    sign_in(&alice, APP, "alice").await?;
    let mut stream = events(&alice.clone().over_h2(), APP).await?;
    let mut socket = WebSocket::open(&alice, &format!("{APP}/ws")).await?.ok().context("refused")?;
    // nobody does anything: time does
    stream.ended(SOON).await?;
    assert_eq!(socket.close_code(SOON).await?, Some(1008));
    world.upstream.has_open(0).await?;
    assert_eq!(details(&gateway, &["/sse", "/ws"], 2).await?, ["permit_lost"; 2]);
    Ok(())
}

#[tokio::test]
async fn a_web_socket_on_another_node_is_closed_within_a_few_messages_of_the_end() -> Result<()> {
    let (world, nats) = (World::new(BINARY).await?, NatsServer::start()?);
    let config = world.config().on_nats(nats.url().as_str()).text();
    let (here, there) = (world.launcher.run(&config).await?, world.launcher.run(&config).await?);
    let alice = world.visitor(&here).await?;
    sign_in(&alice, APP, "alice").await?;
    let at_the_other = alice.clone().through(there.address().await?);
    let mut socket = WebSocket::open(&at_the_other, &format!("{APP}/ws")).await?.ok().context("refused")?;
    sign_out(&alice, APP).await?;
    // by messages, not by time: what still passes after the end was acknowledged
    let mut passed = 0;
    while socket.say("ping").await.is_ok() && socket.hear().await.is_ok() {
        passed += 1;
        assert!(passed < 200, "{passed} messages after the end of the session");
    }
    world.upstream.has_open(0).await?;
    Ok(())
}

#[tokio::test]
async fn a_stream_that_is_cut_leaves_the_others_of_its_connection_alone() -> Result<()> {
    let (world, _gateway, alice) = alice().await?;
    let streams = alice.streams(APP).await?;
    let mut hers = streams.get(&format!("{APP}/sse")).await?.into_body();
    // the same connection, and on that host she is nobody
    let mut public = streams.get(&format!("{PUBLIC}/sse")).await?.into_body();
    let data = |frame: hyper::body::Frame<Bytes>| frame.into_data().unwrap_or_default();
    for body in [&mut hers, &mut public] {
        assert_eq!(body.frame().await.context("no event")?.map(data)?, "data: hello\n\n");
    }
    world.upstream.has_open(2).await?;
    sign_out(&alice, APP).await?;
    // a comment may have been on its way
    while let Some(Ok(_)) = hers.frame().await {}
    world.upstream.has_open(1).await?;
    world.upstream.emit("still here");
    loop {
        let event = public.frame().await.context("ended")?.map(data)?;
        if event == "data: still here\n\n" {
            return Ok(());
        }
        assert_eq!(event, ":\n\n");
    }
}
