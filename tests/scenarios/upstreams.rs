//! Upstreams: how they are reached, which of several gets a request, and who gets none.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use http::{HeaderValue, Request, StatusCode};
use http_body_util::channel::Channel;
use portcullis_harness::app::{App, Spoken, tls};
use portcullis_harness::client::{Answer, Visitor, request};
use portcullis_harness::gateway::{Gateway, free_port};
use portcullis_harness::process::eventually;
use portcullis_harness::sign_in::{sign_in, sign_out};
use portcullis_harness::world::{RAW, World};
use tokio::task::JoinSet;

const BINARY: &str = env!("CARGO_BIN_EXE_portcullis");
const PUBLIC: &str = "allow_public_unauthenticated_access: true";
const SIGNED_IN: &str = "allow_any_authenticated_user: true";
const PATIENCE: Duration = Duration::from_secs(60);

/// A gateway with one more route, and somebody who was never there.
async fn gateway(world: &World, to: &str, keys: &str) -> Result<(Gateway, Visitor)> {
    let mut config = world.config();
    config.set("metrics_address", "127.0.0.1:0");
    config.route(RAW, to, keys);
    let gateway = world.launcher.run(&config.text()).await?;
    let visitor = world.visitor(&gateway).await?;
    Ok((gateway, visitor))
}

fn list(apps: &[&App]) -> String {
    let urls: Vec<_> = apps.iter().map(|app| app.url()).collect();
    format!("[{}]", urls.join(", "))
}

fn said<'a>(answer: &'a serde_json::Value, key: &str) -> &'a str {
    answer[key].as_str().unwrap_or_default()
}

/// Who answers so many requests one after another, all of them well.
async fn counted(visitor: &Visitor, requests: usize) -> Result<HashMap<String, usize>> {
    let mut counts = HashMap::new();
    for _ in 0..requests {
        let answer = visitor.get(RAW).await?;
        anyhow::ensure!(answer.status == StatusCode::OK, "{} {}", answer.status, answer.text());
        *counts.entry(said(&answer.json()?, "name").to_owned()).or_default() += 1;
    }
    Ok(counts)
}

/// The detail of the last access line with it.
async fn detail(gateway: &Gateway, detail: &str) -> Result<()> {
    eventually(detail, PATIENCE, async || {
        let lines = gateway.request_log("http-request");
        Ok(lines.iter().any(|line| line["response-code-details"] == detail).then_some(()))
    })
    .await
}

async fn metric(gateway: &Gateway, line: &str) -> Result<()> {
    eventually(line, PATIENCE, async || {
        let (_, page) = gateway.metrics(None).await?;
        Ok(page.lines().any(|told| told == line).then_some(()))
    })
    .await
}

#[tokio::test]
async fn several_upstreams_get_their_shares_by_weight() -> Result<()> {
    let world = World::new(BINARY).await?;
    let (one, other) = (App::start("one", Spoken::Http1)?, App::start("other", Spoken::Http1)?);
    let to = format!("['{},3', '{},1']", one.url(), other.url());
    let (_gateway, visitor) = gateway(&world, &to, PUBLIC).await?;
    let counts = counted(&visitor, 400).await?;
    assert!((292..=308).contains(&counts["one"]), "{counts:?}");
    assert_eq!(one.requests() + other.requests(), 400);
    Ok(())
}

#[tokio::test]
async fn a_socket_of_the_machine_is_an_upstream() -> Result<()> {
    let world = World::new(BINARY).await?;
    let dir = tempfile::tempdir()?;
    let app = App::on_socket("socket", &dir.path().join("app.sock"))?;
    let (_gateway, visitor) = gateway(&world, app.url(), PUBLIC).await?;
    let answer = visitor.get(&format!("{RAW}/x")).await?.json()?;
    assert_eq!((said(&answer, "name"), said(&answer, "authority")), ("socket", "localhost"));
    assert_eq!(said(&answer, "path"), "/x");
    Ok(())
}

#[tokio::test]
async fn http2_without_tls_is_spoken_on_few_connections_with_identity_and_without_connection_headers() -> Result<()> {
    let world = World::new(BINARY).await?;
    let app = App::start("h2c", Spoken::H2c(100))?;
    let (_gateway, visitor) = gateway(&world, app.url(), SIGNED_IN).await?;
    sign_in(&visitor, RAW, "alice").await?;
    for visitor in [visitor.clone(), visitor.clone().over_h2()] {
        let request = Request::get(format!("{RAW}/x")).body(Bytes::new())?;
        let answer = visitor.send(request).await?.json()?;
        assert_eq!((said(&answer, "version"), answer["assertion"].as_bool()), ("h2", Some(true)));
        assert_eq!(answer["connection"], serde_json::Value::Null);
        assert_eq!(format!("h2c://{}", said(&answer, "authority")), app.url());
    }
    let mut calls = JoinSet::new();
    for _ in 0..40 {
        let visitor = visitor.clone();
        calls.spawn(async move { visitor.get(&format!("{RAW}/hold")).await });
    }
    app.has_open(40).await?;
    app.release();
    while let Some(answer) = calls.join_next().await {
        assert_eq!(answer??.status, StatusCode::OK);
    }
    let workers = std::thread::available_parallelism()?.get();
    assert!(app.connections() <= workers, "{} connections for {workers} workers", app.connections());
    Ok(())
}

#[tokio::test]
async fn an_upstreams_own_bound_of_streams_means_further_connections() -> Result<()> {
    let world = World::new(BINARY).await?;
    let app = App::start("narrow", Spoken::H2c(2))?;
    let (_gateway, visitor) = gateway(&world, app.url(), PUBLIC).await?;
    // the bound is known from here on
    assert_eq!(visitor.get(RAW).await?.status, StatusCode::OK);
    let mut calls = JoinSet::new();
    for _ in 0..12 {
        let visitor = visitor.clone();
        calls.spawn(async move { visitor.get(&format!("{RAW}/hold")).await });
    }
    app.has_open(12).await?;
    assert!(app.connections() >= 6, "{}", app.connections());
    app.release();
    while let Some(answer) = calls.join_next().await {
        assert_eq!(answer??.status, StatusCode::OK);
    }
    Ok(())
}

#[tokio::test]
async fn an_upstream_that_goes_away_politely_costs_nobody_a_request() -> Result<()> {
    let world = World::new(BINARY).await?;
    for spoken in [Spoken::H2c(100), Spoken::Http1] {
        let app = App::start("going", spoken)?;
        let (_gateway, visitor) = gateway(&world, app.url(), PUBLIC).await?;
        for _ in 0..10 {
            assert_eq!(visitor.get(RAW).await?.status, StatusCode::OK);
            app.goes_away();
        }
        // what is under way on a connection that goes away is answered on it
        let mut held = JoinSet::new();
        let holding = visitor.clone();
        held.spawn(async move { holding.get(&format!("{RAW}/hold")).await });
        app.has_open(1).await?;
        app.goes_away();
        assert_eq!(visitor.get(RAW).await?.status, StatusCode::OK);
        app.release();
        assert_eq!(held.join_next().await.context("nobody")???.status, StatusCode::OK);
    }
    Ok(())
}

#[tokio::test]
async fn tls_agrees_upon_http2_or_not_and_a_route_with_websockets_never_asks_for_it() -> Result<()> {
    let world = World::new(BINARY).await?;
    let dir = tempfile::tempdir()?;
    let certificate = world.authority.issue(dir.path(), "app", &["app.internal"])?;
    let ca = dir.path().join("ca.pem");
    std::fs::write(&ca, world.authority.pem())?;
    let keys = format!("{PUBLIC}\ntls_custom_ca_file: {}\ntls_upstream_server_name: app.internal", ca.display());
    let (both, one): (&[&[u8]], &[&[u8]]) = (&[b"h2", b"http/1.1"], &[b"http/1.1"]);
    for (protocols, more, version) in [(both, "", "h2"), (one, "", "h1"), (both, "\nallow_websockets: true", "h1")] {
        let app = App::start("tls", tls(&certificate, protocols, None)?)?;
        let (_gateway, visitor) = gateway(&world, app.url(), &format!("{keys}{more}")).await?;
        for _ in 0..3 {
            let answer = visitor.get(RAW).await?;
            assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
            assert_eq!(said(&answer.json()?, "version"), version);
        }
    }
    Ok(())
}

#[tokio::test]
async fn an_upstream_is_trusted_by_its_authority_and_name_and_sees_our_certificate() -> Result<()> {
    let world = World::new(BINARY).await?;
    let dir = tempfile::tempdir()?;
    let certificate = world.authority.issue(dir.path(), "app", &["app.internal"])?;
    let client = world.authority.issue(dir.path(), "client", &["gateway.internal"])?;
    let ca = dir.path().join("ca.pem");
    std::fs::write(&ca, world.authority.pem())?;
    let app = App::start("tls", tls(&certificate, &[b"h2"], None)?)?;
    let strict = App::start("mtls", tls(&certificate, &[b"h2"], Some(world.authority.pem()))?)?;
    let trusting = format!("tls_custom_ca_file: {}", ca.display());
    let named = "tls_upstream_server_name: app.internal";
    let ours =
        format!("tls_client_cert_file: {}\ntls_client_key_file: {}", client.cert.display(), client.key.display());
    for (app, keys, good) in [
        (&app, format!("{trusting}\n{named}"), true),
        (&app, format!("{trusting}\ntls_server_name: app.internal"), true),
        (&app, trusting.clone(), false),
        (&app, format!("{trusting}\ntls_upstream_server_name: other.internal"), false),
        (&app, named.to_owned(), false),
        (&app, "tls_skip_verify: true".to_owned(), true),
        (&strict, format!("{trusting}\n{named}"), false),
        (&strict, format!("{trusting}\n{named}\n{ours}"), true),
    ] {
        let (gateway, visitor) = gateway(&world, app.url(), &format!("{PUBLIC}\n{keys}")).await?;
        let answer = visitor.get(RAW).await?;
        let expected = if good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        // TLS 1.3 tells a client without a certificate only after the handshake
        let is_fault = matches!(answer.status, StatusCode::SERVICE_UNAVAILABLE | StatusCode::BAD_GATEWAY);
        assert!(answer.status == expected || (!good && is_fault), "{keys}: {} {}", answer.status, answer.text());
        if !good && answer.status == StatusCode::SERVICE_UNAVAILABLE {
            detail(&gateway, "upstream_unreachable").await?;
        }
    }
    // the authority of the top level is trusted besides the system's
    let mut config = world.config();
    config.set("certificate_authority_file", &ca.display().to_string());
    config.route(RAW, app.url(), &format!("{PUBLIC}\n{named}"));
    let gateway = world.launcher.run(&config.text()).await?;
    assert_eq!(world.visitor(&gateway).await?.get(RAW).await?.status, StatusCode::OK);
    Ok(())
}

#[tokio::test]
async fn an_upstream_that_cannot_be_reached_costs_nobody_a_request_where_another_can() -> Result<()> {
    let world = World::new(BINARY).await?;
    let app = App::start("alive", Spoken::Http1)?;
    let to = format!("['http://127.0.0.1:{}', '{}']", free_port()?, app.url());
    let (_gateway, visitor) = gateway(&world, &to, PUBLIC).await?;
    assert_eq!(counted(&visitor, 20).await?["alive"], 20);
    // a body that nobody has read goes along
    let posted = visitor.send(Request::post(RAW).body(Bytes::from_static(b"body"))?).await?;
    assert_eq!(posted.status, StatusCode::OK);
    Ok(())
}

const CHECKS: &str = "health_checks:\n- timeout: 5s\n  interval: 0.05s\n  unhealthy_threshold: 2\n  healthy_threshold: 2\n  \
                      http_health_check:\n    path: /health";

#[tokio::test]
async fn an_upstream_that_fails_its_checks_gets_nothing_until_it_passes_them() -> Result<()> {
    let world = World::new(BINARY).await?;
    let (one, other) = (App::start("one", Spoken::Http1)?, App::start("other", Spoken::H2c(100))?);
    let (gateway, visitor) = gateway(&world, &list(&[&one, &other]), &format!("{PUBLIC}\n{CHECKS}")).await?;
    assert_eq!(counted(&visitor, 10).await?.len(), 2);
    other.answers(500);
    metric(&gateway, "portcullis_upstreams{state=\"unhealthy\"} 1").await?;
    assert_eq!(counted(&visitor, 10).await?["one"], 10);
    other.answers(200);
    metric(&gateway, "portcullis_upstreams{state=\"unhealthy\"} 0").await?;
    assert_eq!(counted(&visitor, 10).await?.len(), 2);
    Ok(())
}

#[tokio::test]
async fn where_nobody_is_healthy_and_nobody_panics_requests_are_refused() -> Result<()> {
    let world = World::new(BINARY).await?;
    let app = App::start("sick", Spoken::Http1)?;
    app.answers(500);
    let keys = format!("{PUBLIC}\nhealthy_panic_threshold: 0\n{CHECKS}");
    let (gateway, visitor) = gateway(&world, app.url(), &keys).await?;
    metric(&gateway, "portcullis_upstreams{state=\"unhealthy\"} 1").await?;
    assert_eq!(visitor.get(RAW).await?.status, StatusCode::SERVICE_UNAVAILABLE);
    detail(&gateway, "no_healthy_upstream").await?;
    metric(&gateway, "portcullis_upstream_refusals_total{outcome=\"none_healthy\"} 1").await?;
    Ok(())
}

#[tokio::test]
async fn an_upstream_whose_answers_are_bad_is_ejected_and_comes_back() -> Result<()> {
    let world = World::new(BINARY).await?;
    let (one, other) = (App::start("one", Spoken::Http1)?, App::start("other", Spoken::Http1)?);
    let keys = format!(
        "{PUBLIC}\noutlier_detection: {{consecutive_5xx: 3, interval: 0.1s, base_ejection_time: 3s, max_ejection_percent: 50}}"
    );
    let (gateway, visitor) = gateway(&world, &list(&[&one, &other]), &keys).await?;
    other.answers(503);
    eventually("ejected", PATIENCE, async || {
        visitor.get(RAW).await?;
        let (_, page) = gateway.metrics(None).await?;
        Ok(page.contains("portcullis_upstream_events_total{outcome=\"ejection\"} 1").then_some(()))
    })
    .await?;
    other.answers(200);
    metric(&gateway, "portcullis_upstreams{state=\"ejected\"} 0").await?;
    assert_eq!(counted(&visitor, 10).await?.len(), 2);
    Ok(())
}

#[tokio::test]
async fn no_client_ejects_an_upstream_by_asking_for_an_answer_at_once() -> Result<()> {
    let world = World::new(BINARY).await?;
    let app = App::start("slow", Spoken::Http1)?;
    let keys = format!(
        "{PUBLIC}\nhealthy_panic_threshold: 0\noutlier_detection: {{consecutive_5xx: 3, interval: 0.1s, max_ejection_percent: 100}}"
    );
    let (gateway, visitor) = gateway(&world, app.url(), &keys).await?;
    for _ in 0..9 {
        let mut request = request("GET", &format!("{RAW}/hold"))?;
        request.headers_mut().insert("grpc-timeout", HeaderValue::from_static("1n"));
        assert_eq!(visitor.send(request).await?.status, StatusCode::GATEWAY_TIMEOUT);
    }
    assert_eq!(counted(&visitor, 20).await?["slow"], 20);
    let (_, page) = gateway.metrics(None).await?;
    assert!(!page.contains("portcullis_upstream_events_total{outcome=\"ejection\"} 1"), "{page}");
    Ok(())
}

#[tokio::test]
async fn more_requests_than_a_route_may_have_are_refused_at_once() -> Result<()> {
    let world = World::new(BINARY).await?;
    let app = App::start("busy", Spoken::Http1)?;
    let keys = format!("{PUBLIC}\ncircuit_breaker_thresholds: {{max_requests: 2}}");
    let (gateway, visitor) = gateway(&world, app.url(), &keys).await?;
    let mut held = JoinSet::new();
    for _ in 0..2 {
        let visitor = visitor.clone();
        held.spawn(async move { visitor.get(&format!("{RAW}/hold")).await });
    }
    app.has_open(2).await?;
    assert_eq!(visitor.get(RAW).await?.status, StatusCode::SERVICE_UNAVAILABLE);
    detail(&gateway, "upstream_max_requests").await?;
    metric(&gateway, "portcullis_upstream_refusals_total{outcome=\"max_requests\"} 1").await?;
    app.release();
    while let Some(answer) = held.join_next().await {
        assert_eq!(answer??.status, StatusCode::OK);
    }
    eventually("room", PATIENCE, async || Ok((visitor.get(RAW).await?.status == StatusCode::OK).then_some(()))).await
}

#[tokio::test]
async fn with_no_more_connections_than_allowed_requests_wait_and_too_many_that_wait_are_refused() -> Result<()> {
    let world = World::new(BINARY).await?;
    let app = App::start("narrow", Spoken::Http1)?;
    let keys = format!("{PUBLIC}\ncircuit_breaker_thresholds: {{max_connections: 1, max_pending_requests: 1}}");
    let (gateway, visitor) = gateway(&world, app.url(), &keys).await?;
    let hold = |visitor: &Visitor| {
        let visitor = visitor.clone();
        async move { visitor.get(&format!("{RAW}/hold")).await }
    };
    let mut first = JoinSet::new();
    first.spawn(hold(&visitor));
    app.has_open(1).await?;
    let mut rest = JoinSet::new();
    for _ in 0..2 {
        rest.spawn(hold(&visitor));
    }
    // one of the two waits, the other is refused
    let refused: Answer = rest.join_next().await.context("nobody")???;
    assert_eq!(refused.status, StatusCode::SERVICE_UNAVAILABLE);
    detail(&gateway, "upstream_max_pending_requests").await?;
    app.release();
    assert_eq!(first.join_next().await.context("nobody")???.status, StatusCode::OK);
    let waited: Answer = rest.join_next().await.context("nobody")???;
    assert_eq!((waited.status, app.requests()), (StatusCode::OK, 2));
    // whichever worker a client comes to, and whichever has the one connection
    for _ in 0..16 {
        assert_eq!(visitor.get(RAW).await?.status, StatusCode::OK);
    }
    Ok(())
}

#[tokio::test]
async fn a_session_keeps_its_upstream() -> Result<()> {
    let world = World::new(BINARY).await?;
    let apps = ["a", "b", "c"].map(|name| App::start(name, Spoken::Http1));
    let apps: Vec<App> = apps.into_iter().collect::<Result<_>>()?;
    for policy in ["ring_hash", "maglev"] {
        let keys = format!("{SIGNED_IN}\nload_balancing_policy: {policy}");
        let (_gateway, alice) = gateway(&world, &list(&apps.iter().collect::<Vec<_>>()), &keys).await?;
        sign_in(&alice, RAW, "alice").await?;
        assert_eq!(counted(&alice, 20).await?.len(), 1, "{policy}");
    }
    Ok(())
}

#[tokio::test]
async fn what_is_sent_to_an_http2_upstream_ends_with_the_session() -> Result<()> {
    let world = World::new(BINARY).await?;
    let app = App::start("h2c", Spoken::H2c(100))?;
    let (_gateway, alice) = gateway(&world, app.url(), SIGNED_IN).await?;
    sign_in(&alice, RAW, "alice").await?;
    for visitor in [alice.clone(), alice.clone().over_h2()] {
        let (mut sender, body) = Channel::<Bytes>::new(4);
        sender.send_data(Bytes::from_static(b"first")).await?;
        let mut mirror = visitor.open(Request::post(format!("{RAW}/mirror")).body(body)?).await?;
        assert_eq!(mirror.chunk().await?.as_deref(), Some(&b"first"[..]));
        sender.send_data(Bytes::from_static(b"second")).await?;
        assert_eq!(mirror.chunk().await?.as_deref(), Some(&b"second"[..]));
        app.has_open(1).await?;
        sign_out(&alice, RAW).await?;
        // and the upstream is told, though the client goes on sending
        app.has_open(0).await?;
        drop((sender, mirror));
        sign_in(&alice, RAW, "alice").await?;
    }
    Ok(())
}

#[tokio::test]
async fn trailers_of_a_request_arrive_but_for_what_they_must_not_say() -> Result<()> {
    let world = World::new(BINARY).await?;
    let (_gateway, visitor) =
        gateway(&world, &world.upstream.url(), &format!("{PUBLIC}\nremove_request_headers: [x-gone]")).await?;
    let head = "POST /upload HTTP/1.1\r\nHost: raw.localhost\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\
                Trailer: X-Sum, X-Gone, X-Pomerium-Claim-Email, Cookie, X-Here\r\nX-Here: 1\r\n\r\n";
    let body =
        "5\r\nhello\r\n0\r\nX-Sum: 42\r\nX-Gone: 1\r\nX-Pomerium-Claim-Email: a\r\nCookie: a=b\r\nX-Here: 2\r\n\r\n";
    let answer = visitor.raw(RAW, format!("{head}{body}").as_bytes()).await?;
    let text = answer.text();
    assert!(text.contains("\"trailers\":[[\"x-sum\",\"42\"]]"), "{text}");
    Ok(())
}
