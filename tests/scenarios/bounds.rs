//! What one client may take of a node: requests in a time, bytes of a body, connections.

use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::channel::Channel;
use portcullis_harness::client::Visitor;
use portcullis_harness::gateway::Gateway;
use portcullis_harness::pattern::send_pattern;
use portcullis_harness::process::eventually;
use portcullis_harness::raw_upstream::{After, RawUpstream};
use portcullis_harness::sign_in::sign_in;
use portcullis_harness::world::{APP, PUBLIC, RAW, World};
use url::Url;

const BINARY: &str = env!("CARGO_BIN_EXE_portcullis");
const SOON: Duration = Duration::from_secs(60);

/// A gateway whose two applications have further keys, and whose metrics are told.
async fn bounded(world: &World, app: &str, public: &str, top: &[(&str, &str)]) -> Result<Gateway> {
    let mut config = world.config();
    config.set("metrics_address", "127.0.0.1:0");
    for (key, value) in top {
        config.set(key, value);
    }
    let [mut text, to] = [config.text(), world.upstream.url()];
    for (host, keys) in [(APP, app), (PUBLIC, public)] {
        let from = format!("- from: {host}\n  to: {to}\n");
        assert!(text.contains(&from), "{text}");
        text = text.replacen(&from, &format!("{from}{keys}"), 1);
    }
    world.launcher.run(&text).await
}

async fn counted(gateway: &Gateway, bound: &str, least: u64) -> Result<()> {
    let sample = format!("portcullis_bounds_reached_total{{outcome=\"{bound}\"}} ");
    let look = async || {
        let (_, text) = gateway.metrics(None).await?;
        let count = text.lines().find_map(|line| line.strip_prefix(&sample)).context("not counted")?;
        if count.parse::<u64>()? >= least { Ok(Some(())) } else { Ok(None) }
    };
    eventually(&sample, SOON, look).await
}

fn wait(answer: &portcullis_harness::client::Answer) -> Result<u64> {
    answer.header("retry-after").parse().context("no Retry-After")
}

#[tokio::test]
async fn a_person_who_asks_too_often_is_told_when_to_come_back_whatever_they_come_with() -> Result<()> {
    let world = World::new(BINARY).await?;
    // a sign-in ends with a request of its own
    let gateway = bounded(&world, "  rate_limit: {per_user: 4/2h}\n", "", &[]).await?;
    let (alice, phone, bob) =
        (world.visitor(&gateway).await?, world.visitor(&gateway).await?, world.visitor(&gateway).await?);
    sign_in(&alice, APP, "alice").await?;
    sign_in(&phone, APP, "alice").await?;
    sign_in(&bob, APP, "bob").await?;
    for visitor in [alice.clone(), phone.clone()] {
        assert_eq!(visitor.get(APP).await?.status, StatusCode::OK);
    }
    let received = world.upstream.requests().len();
    for visitor in [alice.clone(), phone.clone(), alice.clone().over_h2()] {
        let answer = visitor.get(APP).await?;
        assert_eq!(answer.status, StatusCode::TOO_MANY_REQUESTS);
        // four in two hours: one every half hour
        let wait = wait(&answer)?;
        assert!((1..=1800).contains(&wait), "{wait}");
    }
    assert_eq!(world.upstream.requests().len(), received, "what is too much does not reach the application");
    assert_eq!(bob.get(APP).await?.status, StatusCode::OK);
    assert_eq!(alice.get(PUBLIC).await?.status, StatusCode::OK);
    counted(&gateway, "rate_limit_per_user", 3).await?;
    let refused = async || {
        let lines = gateway.request_log("http-request");
        let refused = lines.iter().filter(|line| line["response-code-details"] == "rate_limit_per_user").count();
        Ok((refused == 3).then_some(()))
    };
    eventually("the access log says why", SOON, refused).await?;
    Ok(())
}

#[tokio::test]
async fn an_address_that_asks_too_often_is_refused_before_anybody_asks_who_it_is() -> Result<()> {
    let world = World::new(BINARY).await?;
    let limit = "  rate_limit: {per_ip: 2/1h}\n";
    let gateway = bounded(&world, limit, limit, &[]).await?;
    let visitor = world.visitor(&gateway).await?;
    for (url, admitted) in [(PUBLIC, StatusCode::OK), (APP, StatusCode::FOUND)] {
        for expected in [admitted, admitted, StatusCode::TOO_MANY_REQUESTS] {
            assert_eq!(visitor.get(url).await?.status, expected, "{url}");
        }
    }
    counted(&gateway, "rate_limit_per_ip", 2).await?;
    // a reload that leaves the limit as it is gives nobody a new share
    let config = std::fs::read_to_string(gateway.config_file())?;
    gateway.replace_config(&config.replace("bob@example.com", "carol@example.com"))?;
    let reloaded = async || {
        let (_, text) = gateway.metrics(None).await?;
        Ok(text.contains("portcullis_config_reloads_total{outcome=\"applied\"} 1").then_some(()))
    };
    eventually("the configuration is read again", SOON, reloaded).await?;
    assert_eq!(visitor.get(PUBLIC).await?.status, StatusCode::TOO_MANY_REQUESTS);
    Ok(())
}

/// A body of so many bytes that does not say how long it is.
async fn pour(visitor: &Visitor, to: &str, bytes: u64) -> Result<StatusCode> {
    let (mut sender, body) = Channel::<Bytes, std::io::Error>::new(1);
    let request = Request::post(format!("{to}/pour")).body(body)?;
    let sending = async move {
        send_pattern(&mut sender, bytes).await;
        drop(sender);
    };
    let (opened, ()) = tokio::join!(visitor.open(request), sending);
    Ok(opened?.collect().await?.status)
}

#[tokio::test]
async fn a_body_that_is_too_large_is_refused_and_no_application_takes_it_for_whole() -> Result<()> {
    let world = World::new(BINARY).await?;
    let gateway = bounded(&world, "  max_request_body: 64KiB\n", "", &[("max_request_body", "128KiB")]).await?;
    let alice = world.visitor(&gateway).await?;
    sign_in(&alice, APP, "alice").await?;
    for visitor in [alice.clone(), alice.clone().over_h2()] {
        let put = async |url: &str, bytes: usize| {
            visitor.send(Request::put(url).body(Bytes::from(vec![b'x'; bytes]))?).await.map(|answer| answer.status)
        };
        let before = world.upstream.requests().len();
        assert_eq!(put(APP, 64 * 1024).await?, StatusCode::OK);
        assert_eq!(pour(&visitor, APP, 64 * 1024).await?, StatusCode::OK);
        // the bound of the top level holds where a route has none
        assert_eq!(put(PUBLIC, 128 * 1024).await?, StatusCode::OK);
        let whole = world.upstream.requests().len();
        assert_eq!(whole, before + 3);
        assert_eq!(put(APP, 64 * 1024 + 1).await?, StatusCode::PAYLOAD_TOO_LARGE);
        assert_eq!(pour(&visitor, APP, 64 * 1024 + 1).await?, StatusCode::PAYLOAD_TOO_LARGE);
        assert_eq!(put(PUBLIC, 128 * 1024 + 1).await?, StatusCode::PAYLOAD_TOO_LARGE);
        // of one that did not say how long it is, the head may be passed on before anybody can know
        let begun = world.upstream.requests().len() - whole;
        assert!(begun <= 1, "{begun}");
    }
    counted(&gateway, "request_body_too_large", 6).await
}

#[tokio::test]
async fn what_an_application_gets_of_a_body_that_is_too_large_has_no_end() -> Result<()> {
    let world = World::new(BINARY).await?;
    let raw = RawUpstream::start()?;
    // it reads and says nothing
    raw.answer(b"", After::Stay);
    let mut config = world.config();
    config.route(RAW, &raw.url(), "allow_public_unauthenticated_access: true\nmax_request_body: 32KiB");
    let gateway = world.launcher.run(&config.text()).await?;
    let visitor = world.visitor(&gateway).await?;
    let (mut sender, body) = Channel::<Bytes, std::io::Error>::new(1);
    let sending = async {
        sender.send_data(Bytes::from_static(b"first")).await?;
        let begun = async || Ok(raw.received().contains("first").then_some(()));
        eventually("the application has begun to read", SOON, begun).await?;
        send_pattern(&mut sender, 64 * 1024).await;
        drop(sender);
        anyhow::Ok(())
    };
    let (opened, sent) = tokio::join!(visitor.open(Request::post(format!("{RAW}/pour")).body(body)?), sending);
    sent?;
    assert_eq!(opened?.collect().await?.status, StatusCode::PAYLOAD_TOO_LARGE);
    let received = raw.received();
    assert!(received.starts_with("POST /pour HTTP/1.1\r\n"), "{received}");
    assert!(!received.ends_with("0\r\n\r\n"), "taken for whole");
    Ok(())
}

#[tokio::test]
async fn a_body_that_is_too_large_ends_an_answer_that_has_begun() -> Result<()> {
    let world = World::new(BINARY).await?;
    let raw = RawUpstream::start()?;
    // it answers before it has the request, and then waits for the rest of it
    raw.answer(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf", After::Stay);
    let mut config = world.config();
    config.route(RAW, &raw.url(), "allow_public_unauthenticated_access: true\nmax_request_body: 32KiB");
    let gateway = world.launcher.run(&config.text()).await?;
    let visitor = world.visitor(&gateway).await?;
    for visitor in [visitor.clone(), visitor.over_h2()] {
        let (mut sender, body) = Channel::<Bytes, std::io::Error>::new(1);
        sender.send_data(Bytes::from_static(b"first")).await?;
        let answer = visitor.open(Request::post(format!("{RAW}/pour")).body(body)?).await?;
        assert_eq!(answer.status, StatusCode::OK);
        let sending = async {
            send_pattern(&mut sender, 64 * 1024).await;
            // the client is still there, and would go on
            std::future::pending::<()>().await;
        };
        let ended = async {
            tokio::select! {
                answer = answer.collect() => answer.is_err(),
                () = sending => false,
            }
        };
        assert!(tokio::time::timeout(SOON, ended).await?, "half an answer passed for a whole one");
        assert!(!raw.received().ends_with("0\r\n\r\n"), "taken for whole");
    }
    Ok(())
}

#[tokio::test]
async fn who_holds_too_many_connections_is_told_so_and_served_again_once_some_are_closed() -> Result<()> {
    let world = World::new(BINARY).await?;
    for (top, status, bound) in [
        ([("max_connections", "50"), ("max_connections_per_client", "3")], 429, "too_many_connections_of_client"),
        ([("max_connections", "3"), ("max_connections_per_client", "3")], 503, "too_many_connections"),
    ] {
        let gateway = bounded(&world, "", "", &top).await?;
        let visitor = world.visitor(&gateway).await?;
        let url = Url::parse(PUBLIC)?;
        let mut held = Vec::new();
        for _ in 0..3 {
            held.push(visitor.connect(&url).await?);
        }
        for visitor in [visitor.clone(), visitor.clone().over_h2()] {
            let answer = visitor.get(PUBLIC).await?;
            assert_eq!(answer.status.as_u16(), status);
        }
        let over_h1 = visitor.get(PUBLIC).await?;
        assert_eq!(over_h1.header("connection"), "close");
        counted(&gateway, bound, 3).await?;
        // far more are not even heard, and the node goes on
        let mut more = Vec::new();
        let unheard = async {
            while let Ok(stream) = visitor.connect(&url).await {
                more.push(stream);
            }
        };
        tokio::time::timeout(SOON, unheard).await.context("everybody is heard")?;
        drop((held, more));
        let served = async || Ok((visitor.get(PUBLIC).await?.status == StatusCode::OK).then_some(()));
        eventually("there is room again", SOON, served).await?;
    }
    Ok(())
}
