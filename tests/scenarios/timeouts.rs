//! How long things may take: a slow upstream, a silent stream, an upload without end; and what may take for ever.

use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::Full;
use http_body_util::channel::Channel;
use portcullis_harness::client::{Opened, Visitor};
use portcullis_harness::gateway::Gateway;
use portcullis_harness::process::eventually;
use portcullis_harness::raw_upstream::{After, RawUpstream};
use portcullis_harness::websocket::WebSocket;
use portcullis_harness::world::{RAW, World};

const BINARY: &str = env!("CARGO_BIN_EXE_portcullis");
/// However slow the machine is.
const LONG: Duration = Duration::from_secs(60);

/// A world with a public route at `RAW`, to the usual upstream, with these keys of the top level and of the route.
async fn with(global: &[(&str, &str)], keys: &str) -> Result<(World, Gateway, Visitor)> {
    let world = World::new(BINARY).await?;
    let gateway = gateway(&world, &world.upstream.url(), global, keys).await?;
    let visitor = world.visitor(&gateway).await?;
    Ok((world, gateway, visitor))
}

async fn gateway(world: &World, to: &str, global: &[(&str, &str)], keys: &str) -> Result<Gateway> {
    let mut config = world.config();
    for (key, value) in global {
        config.set(key, value);
    }
    config.route(RAW, to, &format!("allow_public_unauthenticated_access: true\n{keys}"));
    world.launcher.run(&config.text()).await
}

async fn written(gateway: &Gateway, path: &str, detail: &str) -> Result<()> {
    let look = async || {
        let mut lines = gateway.request_log("http-request").into_iter();
        Ok(lines.find(|line| line["path"] == path && line["response-code-details"] == detail).map(drop))
    };
    eventually(detail, LONG, look).await
}

async fn get(visitor: &Visitor, path: &str) -> Result<Opened> {
    visitor.open(Request::get(format!("{RAW}{path}")).body(Full::<Bytes>::default())?).await
}

#[tokio::test]
async fn an_upstream_that_does_not_begin_its_answer_in_time_is_given_up() -> Result<()> {
    for (global, keys) in [
        (&[][..], "timeout: 300ms"),
        (&[("default_upstream_timeout", "300ms")][..], ""),
        (&[("default_upstream_timeout", "1h")][..], "timeout: 300ms"),
        (&[][..], "timeout: 0\nidle_timeout: 300ms"),
        (&[("timeout_idle", "300ms")][..], "timeout: 0s"),
        (&[("timeout_write", "300ms")][..], "timeout: 0s"),
        (&[][..], "allow_websockets: true\ntimeout: 300ms"),
    ] {
        let (world, gateway, visitor) = with(global, keys).await?;
        for visitor in [visitor.clone(), visitor.clone().over_h2()] {
            let answer = visitor.get(&format!("{RAW}/hang")).await?;
            assert_eq!(answer.status, StatusCode::GATEWAY_TIMEOUT, "{global:?} {keys}");
            // and its upstream is not kept at work for nobody
            world.upstream.has_open(0).await?;
        }
        written(&gateway, "/hang", "upstream_timeout").await?;
    }
    Ok(())
}

#[tokio::test]
async fn an_answer_that_goes_on_for_longer_than_it_may_is_cut() -> Result<()> {
    for (global, keys, detail) in
        [(&[][..], "timeout: 1s", "upstream_timeout"), (&[("timeout_write", "1s")][..], "", "max_duration")]
    {
        let (world, gateway, visitor) = with(global, keys).await?;
        for visitor in [visitor.clone(), visitor.clone().over_h2()] {
            let mut stream = get(&visitor, "/sse").await?;
            assert_eq!(stream.event().await?.as_deref(), Some("hello"));
            stream.ended(LONG).await?;
            world.upstream.has_open(0).await?;
        }
        written(&gateway, "/sse", detail).await?;
        // what ends in time is whole, also after another on the same connection
        for _ in 0..2 {
            assert_eq!(visitor.get(&format!("{RAW}/download?bytes=100000")).await?.body.len(), 100_000);
        }
    }
    Ok(())
}

#[tokio::test]
async fn an_answer_that_falls_silent_is_cut_and_one_that_moves_is_not() -> Result<()> {
    let world = World::new(BINARY).await?;
    let raw = RawUpstream::start()?;
    let gateway = gateway(&world, &raw.url(), &[], "idle_timeout: 1s").await?;
    let visitor = world.visitor(&gateway).await?;
    raw.answer(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n", After::Stay);
    for visitor in [visitor.clone(), visitor.clone().over_h2()] {
        let mut stream = get(&visitor, "/silent").await?;
        assert_eq!(stream.chunk().await?.as_deref(), Some(&b"first"[..]));
        stream.ended(LONG).await?;
    }
    written(&gateway, "/silent", "idle_timeout").await?;

    // its upstream says something every 50 ms: it outlives its idle timeout by far
    let (world, _gateway, visitor) = with(&[], "idle_timeout: 1s").await?;
    let mut stream = get(&visitor, "/sse").await?;
    let ended = tokio::time::timeout(Duration::from_secs(3), async {
        while stream.chunk().await.is_ok_and(|chunk| chunk.is_some()) {}
    });
    assert!(ended.await.is_err(), "a stream that moves was cut");
    world.upstream.has_open(1).await?;
    Ok(())
}

#[tokio::test]
async fn a_web_socket_is_idle_only_where_its_route_says_so() -> Result<()> {
    let (world, gateway, visitor) = with(&[("timeout_idle", "1s")], "allow_websockets: true\nprefix: /ws").await?;
    let mut quiet = WebSocket::open(&visitor, &format!("{RAW}/ws")).await?.ok().context("refused")?;
    let (_bounded, bounded_gateway, bounded) = with(&[], "allow_websockets: true\nidle_timeout: 1s").await?;
    let mut idle = WebSocket::open(&bounded, &format!("{RAW}/ws")).await?.ok().context("refused")?;
    idle.say("one").await?;
    assert_eq!(idle.hear().await?, "one");
    idle.closed(LONG).await?;
    written(&bounded_gateway, "/ws", "idle_timeout").await?;
    // the other one was opened before, is as silent, and has no bound of its own
    quiet.say("still here").await?;
    assert_eq!(quiet.hear().await?, "still here");
    drop((world, gateway));
    Ok(())
}

#[tokio::test]
async fn a_request_must_have_come_in_its_time_where_one_is_set() -> Result<()> {
    let (_world, gateway, visitor) = with(&[("timeout_read", "1s")], "timeout: 0s").await?;
    for visitor in [visitor.clone(), visitor.clone().over_h2()] {
        let (mut sender, body) = Channel::<Bytes>::new(1);
        let dripping = async {
            while sender.send_data(Bytes::from_static(b"a drop, and the next one follows")).await.is_ok() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        let answer = visitor.open(Request::post(format!("{RAW}/upload")).body(body)?);
        let answer = tokio::select! {
            answer = answer => answer?,
            () = dripping => anyhow::bail!("the upload ended before the answer"),
        };
        assert_eq!(answer.status, StatusCode::REQUEST_TIMEOUT);
    }
    written(&gateway, "/upload", "request_body_timeout").await
}
