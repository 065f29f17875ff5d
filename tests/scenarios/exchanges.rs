//! Exchanges that do not go as planned: whoever leaves early, answers early or never comes to the point harms nobody
//! else, and is written down.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::channel::Channel;
use portcullis_config::limits::{REQUEST_HEAD_BYTES, SESSION_BUDGET};
use portcullis_harness::client::Visitor;
use portcullis_harness::gateway::Gateway;
use portcullis_harness::process::eventually;
use portcullis_harness::raw_upstream::{After, RawUpstream};
use portcullis_harness::sign_in::sign_in;
use portcullis_harness::world::{ADMIN, APP, PUBLIC, RAW, World};
use serde_json::Value;
use tokio::task::JoinSet;

const BINARY: &str = env!("CARGO_BIN_EXE_portcullis");

/// The access line of the request to this path, once it is there.
async fn access_line(gateway: &Gateway, path: &str) -> Result<Value> {
    let look = async || Ok(gateway.request_log("http-request").into_iter().find(|line| line["path"] == path));
    eventually("an access line", Duration::from_secs(5), look).await
}

#[tokio::test]
async fn an_answer_before_the_request_has_ended_makes_no_other_client_wait() -> Result<()> {
    let (_world, raw, _gateway, visitor) = World::with_raw(BINARY).await?;
    raw.answer(b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 3\r\n\r\nbig", After::Stay);
    for uploader in [visitor.clone(), visitor.clone().over_h2()] {
        let mut uploads = Vec::new();
        // more than there are workers, so that others come upon these connections
        for _ in 0..8 {
            let (mut sender, body) = Channel::<Bytes>::new(1);
            sender.send_data(Bytes::from_static(b"the beginning")).await?;
            let answer = uploader.open(Request::post(format!("{RAW}/")).body(body)?).await?;
            assert_eq!(answer.status, StatusCode::PAYLOAD_TOO_LARGE);
            uploads.push((sender, answer));
        }
        for _ in 0..8 {
            assert_eq!(visitor.get(RAW).await?.status, StatusCode::PAYLOAD_TOO_LARGE);
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_client_that_leaves_before_its_answer_is_written_down() -> Result<()> {
    let (world, _raw, gateway, visitor) = World::with_raw(BINARY).await?;
    for visitor in [visitor.clone(), visitor.clone().over_h2()] {
        let before = world.upstream.requests().len();
        let url = format!("{PUBLIC}/hang");
        let leaves = world.upstream.has_received(before + 1);
        tokio::select! {
            answer = visitor.get(&url) => anyhow::bail!("answered: {}", answer?.status),
            arrived = leaves => arrived?,
        }
    }
    let gone = async || {
        let lines = gateway.request_log("http-request");
        let gone =
            lines.iter().filter(|line| line["path"] == "/hang" && line["response-code-details"] == "client_gone");
        Ok((gone.count() == 2).then_some(()))
    };
    eventually("two access lines", Duration::from_secs(5), gone).await
}

#[tokio::test]
async fn a_download_that_the_client_gives_up_is_written_down_as_cut_short() -> Result<()> {
    let (world, _raw, gateway, visitor) = World::with_raw(BINARY).await?;
    let answer = visitor.open(Request::get(format!("{PUBLIC}/sse")).body(String::new())?).await?;
    drop(answer);
    assert_eq!(access_line(&gateway, "/sse").await?["response-code-details"], "cut_short");
    world.upstream.has_open(0).await?;
    Ok(())
}

#[tokio::test]
async fn an_upload_that_is_refused_gets_to_read_why() -> Result<()> {
    let (_world, _raw, _gateway, visitor) = World::with_raw(BINARY).await?;
    let mut upload = b"POST / HTTP/1.1\r\nHost: app.localhost\r\nContent-Length: 4000000\r\n\r\n".to_vec();
    upload.resize(upload.len() + 4_000_000, b'a');
    let answer = visitor.raw(APP, &upload).await?;
    assert_eq!(answer.statuses(), [401]);
    Ok(())
}

#[tokio::test]
async fn a_head_that_reads_in_two_ways_is_answered_and_not_only_cut() -> Result<()> {
    let (_world, _raw, _gateway, visitor) = World::with_raw(BINARY).await?;
    for lines in ["X : y", "Content-Length: 1\r\nContent-Length: 1", "X: a\nY: b"] {
        let request = format!("POST / HTTP/1.1\r\nHost: public.localhost\r\n{lines}\r\n\r\nx");
        assert_eq!(visitor.raw(PUBLIC, request.as_bytes()).await?.statuses(), [400], "{lines}");
    }
    Ok(())
}

#[tokio::test]
async fn a_head_that_was_never_understood_is_written_down() -> Result<()> {
    let (_world, _raw, gateway, visitor) = World::with_raw(BINARY).await?;
    let many = format!("GET / HTTP/1.1\r\nHost: public.localhost\r\n{}\r\n", "a: b\r\n".repeat(300));
    for (head, status) in [("GET / HTTP/1.1\r\nHost : public.localhost\r\n\r\n", 400), (&many, 431)] {
        assert_eq!(visitor.raw(PUBLIC, head.as_bytes()).await?.statuses(), [status]);
        let look = async || {
            let lines = gateway.request_log("http-request");
            Ok(lines.into_iter().find(|line| line["response-code"] == status))
        };
        let line = eventually("an access line", Duration::from_secs(5), look).await?;
        assert_eq!(
            (&line["response-code-details"], &line["forwarded-for"]),
            (&"bad_request".into(), &"127.0.0.1".into())
        );
    }
    Ok(())
}

#[tokio::test]
async fn a_head_that_http2_itself_refuses_is_written_down_and_counted() -> Result<()> {
    let world = World::new(BINARY).await?;
    let mut config = world.config();
    config.set("metrics_address", "127.0.0.1:0");
    let gateway = world.launcher.run(&config.text()).await?;
    let visitor = world.visitor(&gateway).await?.over_h2();
    let large = |bytes| Request::get(PUBLIC).header("x-large", "a".repeat(bytes));
    for (request, reason, status) in [
        (large(REQUEST_HEAD_BYTES), "too_large", 431),
        // it goes on for so long that nobody waits for its end
        (large(8 * REQUEST_HEAD_BYTES), "too_large", 431),
        (Request::get(PUBLIC).header("content-length", "5"), "malformed", 400),
    ] {
        let before = gateway.request_log("http-request").len();
        if let Ok(answer) = visitor.send(request.body(Bytes::new())?).await {
            assert_eq!(answer.status.as_u16(), status);
        }
        let look = async || Ok(gateway.request_log("http-request").into_iter().nth(before));
        let line = eventually("an access line", Duration::from_secs(60), look).await?;
        let said = (&line["response-code"], &line["response-code-details"], &line["forwarded-for"]);
        assert_eq!(said, (&status.into(), &"bad_request".into(), &"127.0.0.1".into()), "{reason}");
    }
    assert!(world.upstream.requests().is_empty());
    let counted = async || {
        let (_, metrics) = gateway.metrics(None).await?;
        let count =
            |reason, n| metrics.contains(&format!("portcullis_refused_heads_total{{outcome=\"{reason}\"}} {n}\n"));
        Ok((count("too_large", 2) && count("malformed", 1)).then_some(()))
    };
    eventually("counts", Duration::from_secs(60), counted).await
}

#[tokio::test]
async fn a_client_that_announces_a_body_and_sends_nothing_is_the_one_who_is_late() -> Result<()> {
    let (_world, _raw, gateway, visitor) = World::with_raw(BINARY).await?;
    let silent = async |visitor: Visitor| {
        let (_sender, body) = Channel::<Bytes>::new(1);
        anyhow::Ok(visitor.open(Request::post(format!("{PUBLIC}/upload")).body(body)?).await?.status)
    };
    let (h1, h2) = tokio::join!(silent(visitor.clone()), silent(visitor.clone().over_h2()));
    assert_eq!((h1?, h2?), (StatusCode::REQUEST_TIMEOUT, StatusCode::REQUEST_TIMEOUT));
    assert_eq!(access_line(&gateway, "/upload").await?["response-code-details"], "request_body_timeout");
    Ok(())
}

#[tokio::test]
async fn what_an_upstream_adds_after_its_answer_signs_nobody_in() -> Result<()> {
    let (_world, raw, _gateway, visitor) = World::with_raw(BINARY).await?;
    let trailers = "x-sum: 42\r\nset-cookie: _pomerium=forged\r\nkeep-alive: 1\r\nconnection: close\r\n";
    let answer = format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n{trailers}\r\n");
    raw.answer(answer.as_bytes(), After::Close);
    let request = Request::get(RAW).header("te", "trailers").body(Bytes::new())?;
    let answer = visitor.clone().over_h2().send(request).await?;
    assert_eq!(answer.text(), "ok");
    let trailers = answer.trailers.unwrap_or_default();
    assert_eq!(trailers.keys().collect::<Vec<_>>(), ["x-sum"]);
    Ok(())
}

#[tokio::test]
async fn the_head_of_an_answer_has_bounds() -> Result<()> {
    let (_world, raw, _gateway, visitor) = World::with_raw(BINARY).await?;
    let answer = |lines: String| format!("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n{lines}\r\nok");
    let long = |length: usize| format!("x: {}\r\n", "a".repeat(length));
    for (lines, status) in [
        ("x: y\r\n".repeat(200), StatusCode::OK),
        (long(100_000), StatusCode::OK),
        ("x: y\r\n".repeat(300), StatusCode::BAD_GATEWAY),
        // a buffer may be read past its bound once
        (long(600_000), StatusCode::BAD_GATEWAY),
    ] {
        let answer = answer(lines);
        raw.answer(answer.as_bytes(), After::Close);
        // raw, because clients have bounds of their own
        let request = b"GET / HTTP/1.1\r\nHost: raw.localhost\r\n\r\n";
        assert_eq!(visitor.raw(RAW, request).await?.statuses(), [status.as_u16()], "{} bytes", answer.len());
    }
    Ok(())
}

#[tokio::test]
async fn one_client_does_not_take_an_upstream_from_the_others() -> Result<()> {
    let (world, _raw, gateway, alice) = World::with_raw(BINARY).await?;
    let bob = world.visitor(&gateway).await?;
    sign_in(&alice, APP, "alice").await?;
    sign_in(&bob, APP, "bob").await?;
    let before = world.upstream.requests().len();
    let streams = Arc::new(alice.streams(APP).await?);
    let (mut tasks, mut hanging) = (JoinSet::new(), VecDeque::new());
    for _ in 0..SESSION_BUDGET + 16 {
        let streams = Arc::clone(&streams);
        hanging.push_back(tasks.spawn(async move { streams.get(&format!("{APP}/hang")).await.map(drop) }));
    }
    world.upstream.has_received(before + SESSION_BUDGET).await?;
    // what is beyond the budget has not arrived even after others of her own and of his have
    assert_eq!(bob.get(APP).await?.status, StatusCode::OK);
    assert_eq!(alice.streams(ADMIN).await?.get(&format!("{ADMIN}/")).await?.status().as_u16() / 100, 3);
    assert_eq!(world.upstream.requests().len(), before + SESSION_BUDGET + 1);
    // and arrives as soon as there is room
    hanging.drain(..16).for_each(|stream| stream.abort());
    world.upstream.has_received(before + SESSION_BUDGET + 17).await?;
    Ok(())
}

#[tokio::test]
async fn nor_by_websockets_that_stay_open() -> Result<()> {
    let (world, _raw, _gateway, alice) = World::with_raw(BINARY).await?;
    sign_in(&alice, APP, "alice").await?;
    let ws = format!("{APP}/ws");
    let streams = Arc::new(alice.streams(APP).await?);
    streams.get(APP).await?;
    let before = world.upstream.requests().len();
    let (mut open, mut beyond) = (Vec::new(), JoinSet::new());
    for _ in 0..SESSION_BUDGET {
        let answer = streams.websocket(&ws).await?;
        assert_eq!(answer.status(), StatusCode::OK);
        open.push(answer);
    }
    for _ in 0..8 {
        let (streams, ws) = (Arc::clone(&streams), ws.clone());
        beyond.spawn(async move { streams.websocket(&ws).await });
    }
    // she can still ask, and what is beyond the budget has not arrived though it was asked for before
    assert_eq!(streams.get(APP).await?.status(), StatusCode::OK);
    assert_eq!(streams.get(APP).await?.status(), StatusCode::OK);
    assert_eq!(world.upstream.requests().len(), before + SESSION_BUDGET + 2);
    // and arrives as soon as there is room
    drop(open);
    while let Some(answer) = beyond.join_next().await {
        assert_eq!(answer??.status(), StatusCode::OK);
    }
    Ok(())
}

#[tokio::test]
async fn a_stream_that_asks_for_a_websocket_is_not_told_of_one_that_there_is_not() -> Result<()> {
    let world = World::new(BINARY).await?;
    let raw = RawUpstream::start()?;
    let mut config = world.config();
    config.route(RAW, &raw.url(), "allow_public_unauthenticated_access: true\nallow_websockets: true");
    let gateway = world.launcher.run(&config.text()).await?;
    let visitor = world.visitor(&gateway).await?;
    let answers = [
        (&b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\npage"[..], 502),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", 502),
        (b"HTTP/1.1 204 No Content\r\n\r\n", 502),
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 4\r\n\r\npage", 404),
    ];
    for (answer, status) in answers {
        raw.answer(answer, After::Close);
        let streams = visitor.streams(RAW).await?;
        streams.get(PUBLIC).await?;
        assert_eq!(streams.websocket(RAW).await?.status().as_u16(), status, "{}", String::from_utf8_lossy(answer));
    }
    Ok(())
}

#[tokio::test]
async fn an_upstream_that_never_comes_to_its_answer_is_given_up() -> Result<()> {
    let (_world, raw, _gateway, visitor) = World::with_raw(BINARY).await?;
    let interim = b"HTTP/1.1 102 Processing\r\n\r\n";
    let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    raw.answer(&[interim.repeat(100).as_slice(), answer].concat(), After::Close);
    assert_eq!(visitor.get(RAW).await?.status, StatusCode::OK);
    raw.answer(&[interim.repeat(100_000).as_slice(), answer].concat(), After::Close);
    assert_eq!(visitor.get(RAW).await?.status, StatusCode::BAD_GATEWAY);
    Ok(())
}

#[tokio::test]
async fn an_answer_framed_in_a_way_that_is_not_ours_is_refused() -> Result<()> {
    let (_world, raw, _gateway, visitor) = World::with_raw(BINARY).await?;
    for framing in ["Transfer-Encoding: gzip", "Content-Length: 2, 2", "Transfer-Encoding: gzip, chunked"] {
        let answer = format!("HTTP/1.1 200 OK\r\n{framing}\r\n\r\n2\r\nok\r\n0\r\n\r\n");
        raw.answer(answer.as_bytes(), After::Close);
        assert_eq!(visitor.get(RAW).await?.status, StatusCode::BAD_GATEWAY, "{framing}");
    }
    Ok(())
}

#[tokio::test]
async fn an_answer_that_breaks_after_it_has_begun_is_seen_to_break() -> Result<()> {
    let (_world, raw, _gateway, visitor) = World::with_raw(BINARY).await?;
    // all at once: what came before the fault is not swallowed with it
    raw.answer(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nZZ\r\n", After::Stay);
    let answer = visitor.open(Request::get(format!("{RAW}/")).body(String::new())?).await?;
    assert_eq!(answer.status, StatusCode::OK);
    assert!(answer.collect().await.is_err());
    // a stream of HTTP/2 is reset, with or without its head: nobody takes that for a request that was never seen
    let reset = visitor.over_h2().get(RAW).await;
    assert!(reset.is_err(), "half an answer passed for a whole one");
    Ok(())
}

#[tokio::test]
async fn an_upstream_may_say_something_with_every_chunk() -> Result<()> {
    let (_world, raw, _gateway, visitor) = World::with_raw(BINARY).await?;
    let chunks = format!("5;signature={}\r\nhello\r\n", "0".repeat(64)).repeat(1000);
    let answer = format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}0\r\n\r\n");
    raw.answer(answer.as_bytes(), After::Stay);
    let answer = visitor.get(RAW).await?;
    assert_eq!((answer.status, answer.body.len()), (StatusCode::OK, 5000));
    Ok(())
}

#[tokio::test]
async fn a_handle_in_the_query_of_a_referer_is_neither_logged_nor_passed_on() -> Result<()> {
    let (world, _raw, gateway, visitor) = World::with_raw(BINARY).await?;
    let referer = format!("{PUBLIC}/a?b=c&pomerium_session=canary&d");
    let request = Request::get(format!("{PUBLIC}/referred")).header("referer", referer).body(Bytes::new())?;
    assert_eq!(visitor.send(request).await?.status, StatusCode::OK);
    let received = world.upstream.last()?;
    assert_eq!(received.header("referer"), Some(format!("{PUBLIC}/a?b=c&d").as_str()));
    assert_eq!(access_line(&gateway, "/referred").await?["referer"], format!("{PUBLIC}/a"));
    assert!(!gateway.stdout().text().contains("canary"));
    Ok(())
}

#[tokio::test]
async fn what_is_open_when_the_gateway_stops_is_written_down() -> Result<()> {
    let (world, _raw, mut gateway, visitor) = World::with_raw(BINARY).await?;
    let mut open = Vec::new();
    for visitor in [visitor.clone(), visitor.clone().over_h2()] {
        open.push(visitor.open(Request::get(format!("{PUBLIC}/sse")).body(String::new())?).await?);
    }
    let before = world.upstream.requests().len();
    let url = format!("{PUBLIC}/hang");
    let mut hanging = std::pin::pin!(visitor.get(&url));
    tokio::select! {
        answer = hanging.as_mut() => anyhow::bail!("answered: {}", answer?.status),
        arrived = world.upstream.has_received(before + 1) => arrived?,
    }
    gateway.interrupt()?;
    gateway.wait_exit(Duration::from_secs(2)).await?;
    gateway.stdout().to_end(Duration::from_secs(1)).await?;
    let lines = gateway.request_log("http-request");
    let of = |path: &str| lines.iter().filter(|line| line["path"] == path).count();
    assert_eq!((of("/sse"), of("/hang")), (2, 1));
    Ok(())
}
