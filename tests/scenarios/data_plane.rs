//! The data plane: streams both ways, upgrades, both HTTP versions, and upstreams that fail.

use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::Full;
use http_body_util::channel::Channel;
use portcullis_harness::client::Visitor;
use portcullis_harness::gateway::{Gateway, free_port};
use portcullis_harness::pattern::{pattern, pattern_sha256, send_pattern};
use portcullis_harness::process::eventually;
use portcullis_harness::raw_upstream::{After, RawUpstream};
use portcullis_harness::sign_in::{sign_in, sign_out};
use portcullis_harness::websocket::WebSocket;
use portcullis_harness::world::{APP, BOB, PUBLIC, World};
use tokio::task::JoinSet;

const BINARY: &str = env!("CARGO_BIN_EXE_portcullis");
const A_MEGABYTE: u64 = 1024 * 1024;

/// A world, its gateway, and alice signed in.
async fn alice() -> Result<(World, Gateway, Visitor)> {
    let world = World::new(BINARY).await?;
    let gateway = world.gateway().await?;
    let alice = world.visitor(&gateway).await?;
    sign_in(&alice, APP, "alice").await?;
    Ok((world, gateway, alice))
}

fn get(url: &str) -> Result<Request<Full<Bytes>>> {
    Ok(Request::get(url).body(Full::default())?)
}

#[tokio::test]
async fn an_application_is_reached_over_both_http_versions() -> Result<()> {
    let (world, _gateway, alice) = alice().await?;
    for visitor in [alice.clone(), alice.clone().over_h2()] {
        let request = Request::put(format!("{APP}/x?y=z")).header("x-mine", "1").body(Bytes::from_static(b"body"))?;
        let answer = visitor.send(request).await?;
        assert_eq!(answer.status, StatusCode::OK);
        let seen = answer.json()?;
        assert_eq!((seen["method"].as_str(), seen["target"].as_str()), (Some("PUT"), Some("/x?y=z")));
        assert_eq!(seen["body"], "Ym9keQ==");
        let received = world.upstream.last()?;
        assert_eq!(received.header("x-mine"), Some("1"));
        assert_eq!(received.header("x-pomerium-claim-email"), Some("alice@example.com"));
        assert!(received.header("x-pomerium-jwt-assertion").is_some());
        assert!(!received.header("cookie").unwrap_or_default().contains("_pomerium"));
    }
    Ok(())
}

#[tokio::test]
async fn events_arrive_one_by_one_as_they_are_sent() -> Result<()> {
    let (world, _gateway, alice) = alice().await?;
    for visitor in [alice.clone(), alice.clone().over_h2()] {
        let mut stream = visitor.open(get(&format!("{APP}/sse"))?).await?;
        assert_eq!(stream.event().await?.as_deref(), Some("hello"));
        for word in ["one", "two", "three"] {
            // the next is sent only once this one is here: nothing on the way may hold it back
            world.upstream.emit(word);
            assert_eq!(stream.event().await?.as_deref(), Some(word));
        }
        drop(stream);
        // and a client that leaves is not served on behind its back
        world.upstream.has_open(0).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_web_socket_is_passed_both_ways_and_ends_with_the_session() -> Result<()> {
    let (world, _gateway, alice) = alice().await?;
    let mut socket = WebSocket::open(&alice, &format!("{APP}/ws")).await?.ok().context("refused")?;
    for text in ["hello", "", &"long ".repeat(20_000)] {
        socket.say(text).await?;
        assert_eq!(socket.hear().await?, text);
    }
    sign_out(&alice, APP).await?;
    socket.closed(Duration::from_secs(1)).await?;
    world.upstream.has_open(0).await?;
    Ok(())
}

#[tokio::test]
async fn a_web_socket_needs_a_session_a_permit_and_a_route_that_allows_it() -> Result<()> {
    let (world, gateway, alice) = alice().await?;
    let stranger = world.visitor(&gateway).await?;
    assert_eq!(WebSocket::open(&stranger, &format!("{APP}/ws")).await?.err(), Some(StatusCode::UNAUTHORIZED));
    let before = world.upstream.requests().len();
    let bob = world.visitor(&gateway).await?;
    sign_in(&bob, BOB, "bob").await?;
    let arrived = world.upstream.requests().len();
    assert!(arrived > before);
    let refused = WebSocket::open(&bob, &format!("{BOB}/ws")).await?.err().context("this route allows none")?;
    assert!(refused.is_client_error(), "{refused}");
    assert_eq!(world.upstream.requests().len(), arrived);
    drop(alice);
    Ok(())
}

#[tokio::test]
async fn large_bodies_pass_both_ways_unchanged() -> Result<()> {
    let (_world, _gateway, alice) = alice().await?;
    let bytes = 16 * A_MEGABYTE + 7;
    for visitor in [alice.clone(), alice.clone().over_h2()] {
        let (mut sender, body) = Channel::<Bytes>::new(4);
        let mut sending = JoinSet::new();
        sending.spawn(async move { send_pattern(&mut sender, bytes).await });
        let uploaded =
            visitor.open(Request::post(format!("{APP}/upload")).body(body)?).await?.collect().await?.json()?;
        assert_eq!(uploaded["bytes"], bytes);
        assert_eq!(uploaded["sha256"], pattern_sha256(bytes));

        let downloaded = visitor.get(&format!("{APP}/download?bytes={bytes}")).await?;
        assert_eq!(u64::try_from(downloaded.body.len())?, bytes);
        let piece = pattern();
        assert!(downloaded.body.chunks(piece.len()).all(|chunk| chunk == &piece[..chunk.len()]));
    }
    Ok(())
}

#[tokio::test]
async fn a_body_flows_back_before_it_has_ended() -> Result<()> {
    let (_world, _gateway, alice) = alice().await?;
    for visitor in [alice.clone(), alice.clone().over_h2()] {
        let (mut sender, body) = Channel::<Bytes>::new(4);
        sender.send_data(Bytes::from_static(b"first")).await?;
        let mut mirror = visitor.open(Request::post(format!("{APP}/mirror")).body(body)?).await?;
        assert_eq!(mirror.chunk().await?.as_deref(), Some(&b"first"[..]));
        sender.send_data(Bytes::from_static(b"second")).await?;
        assert_eq!(mirror.chunk().await?.as_deref(), Some(&b"second"[..]));
        drop(sender);
        assert_eq!(mirror.chunk().await?, None);
    }
    Ok(())
}

#[tokio::test]
async fn a_reader_who_takes_nothing_holds_back_the_upstream_and_nobody_else() -> Result<()> {
    let (world, gateway, alice) = alice().await?;
    let mut slow = Vec::new();
    for _ in 0..4 {
        let answer = alice.open(get(&format!("{APP}/download?bytes={}", 512 * A_MEGABYTE))?).await?;
        assert_eq!(answer.status, StatusCode::OK);
        slow.push(answer);
    }
    world.upstream.has_open(4).await?;
    for _ in 0..20 {
        assert_eq!(alice.get(APP).await?.status, StatusCode::OK);
    }
    // what was not taken has not been swallowed either: two gigabytes would show
    let memory = resident_bytes(&gateway)?;
    assert!(memory < 256 * A_MEGABYTE, "{memory} bytes");
    drop(slow);
    world.upstream.has_open(0).await?;
    Ok(())
}

fn resident_bytes(gateway: &Gateway) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", gateway.id()))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? * 1024)
}

#[tokio::test]
async fn trailers_of_an_answer_arrive() -> Result<()> {
    let (_world, _gateway, alice) = alice().await?;
    let request = Request::get(format!("{APP}/trailers")).header("te", "trailers").body(Bytes::new())?;
    let answer = alice.clone().over_h2().send(request).await?;
    assert_eq!(answer.text(), "a body");
    assert_eq!(answer.trailers.context("no trailers")?["x-sum"], "42");
    Ok(())
}

#[tokio::test]
async fn a_status_of_the_application_is_passed_as_it_is() -> Result<()> {
    let (_world, _gateway, alice) = alice().await?;
    for code in [201, 304, 401, 403, 404, 418, 500, 502, 503, 599] {
        assert_eq!(alice.get(&format!("{APP}/status?code={code}")).await?.status.as_u16(), code);
    }
    Ok(())
}

#[tokio::test]
async fn an_application_that_is_away_is_503_and_one_that_breaks_off_502() -> Result<()> {
    let world = World::new(BINARY).await?;
    let mut config = world.config();
    let nobody = format!("http://127.0.0.1:{}", free_port()?);
    config.route("https://raw.localhost", &nobody, "allow_public_unauthenticated_access: true");
    let gateway = world.launcher.run(&config.text()).await?;
    let visitor = world.visitor(&gateway).await?;
    let away = visitor.get("https://raw.localhost/").await?;
    assert_eq!(away.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(!away.text().contains(&nobody["http://".len()..]), "{}", away.text());
    let id = away.header("x-request-id");
    assert!(!id.is_empty() && away.text().contains(id), "{}", away.text());

    let broken = visitor.get(&format!("{PUBLIC}/drop")).await?;
    assert_eq!(broken.status, StatusCode::BAD_GATEWAY);
    let json = visitor.clone().accepting("application/json").get(&format!("{PUBLIC}/drop")).await?;
    assert_eq!(json.status, StatusCode::BAD_GATEWAY);
    json.json()?;
    // a body that breaks off breaks off at the client as well: half an answer is never shown as a whole one
    for visitor in [visitor.clone(), visitor.clone().over_h2()] {
        assert!(visitor.get(&format!("{PUBLIC}/half")).await.is_err());
    }
    Ok(())
}

#[tokio::test]
async fn an_application_that_never_answers_is_504() -> Result<()> {
    let world = World::new(BINARY).await?;
    let mut config = world.config();
    // not one of the usual routes: where WebSockets are allowed, nothing is late by itself
    config.route("https://raw.localhost", &world.upstream.url(), "allow_public_unauthenticated_access: true");
    let gateway = world.launcher.run(&config.text()).await?;
    let visitor = world.visitor(&gateway).await?;
    assert_eq!(visitor.get("https://raw.localhost/hang").await?.status, StatusCode::GATEWAY_TIMEOUT);
    Ok(())
}

#[tokio::test]
async fn an_answer_with_bad_framing_is_refused_and_its_connection_not_used_again() -> Result<()> {
    let world = World::new(BINARY).await?;
    let raw = RawUpstream::start()?;
    let mut config = world.config();
    config.route(
        "https://raw.localhost",
        &raw.url(),
        "allow_public_unauthenticated_access: true\nallow_websockets: true",
    );
    let gateway = world.launcher.run(&config.text()).await?;
    let visitor = world.visitor(&gateway).await?;
    let refused: [(&str, &[u8]); 8] = [
        ("two lengths", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nabc"),
        ("a space before the colon", b"HTTP/1.1 200 OK\r\nContent-Length : 2\r\n\r\nab"),
        (
            "a switch that nobody asked for",
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
        ),
        ("no HTTP at all", b"SSH-2.0-OpenSSH_9.2\r\n\r\n\r\n"),
        ("no status", b"HTTP/1.1 \r\n\r\n"),
        ("a status of two digits", b"HTTP/1.1 20 OK\r\n\r\n"),
        ("NUL in a header", b"HTTP/1.1 200 OK\r\nX-A: a\0b\r\nContent-Length: 0\r\n\r\n"),
        ("nothing", b""),
    ];
    for (name, bytes) in refused {
        raw.answer(bytes, After::Close);
        let answer = visitor.get("https://raw.localhost/").await.with_context(|| name.to_owned())?;
        assert_eq!(answer.status, StatusCode::BAD_GATEWAY, "{name}");
    }
    // more than the answer: what follows is nobody's answer
    raw.answer(
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison",
        After::Stay,
    );
    assert_eq!(visitor.get("https://raw.localhost/").await.context("poison")?.text(), "ok");
    raw.answer(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nclean", After::Close);
    assert_eq!(visitor.get("https://raw.localhost/").await.context("clean")?.text(), "clean");
    // a length beside chunks: either refused, or the chunks count and the connection is given up
    raw.answer(
        b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        After::Stay,
    );
    let request = b"GET / HTTP/1.1\r\nHost: raw.localhost\r\nConnection: close\r\n\r\n";
    let both = visitor.raw("https://raw.localhost", request).await?.text();
    let chunks_count = both.starts_with("HTTP/1.1 200") && !both.to_lowercase().contains("content-length: 99");
    assert!(both.starts_with("HTTP/1.1 502") || chunks_count, "{both}");
    // an answer that ends early
    raw.answer(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort", After::Close);
    assert!(visitor.get("https://raw.localhost/").await.is_err());
    Ok(())
}

#[tokio::test]
async fn an_early_hint_disturbs_nothing() -> Result<()> {
    let world = World::new(BINARY).await?;
    let raw = RawUpstream::start()?;
    let mut config = world.config();
    config.route("https://raw.localhost", &raw.url(), "allow_public_unauthenticated_access: true");
    let gateway = world.launcher.run(&config.text()).await?;
    let visitor = world.visitor(&gateway).await?;
    raw.answer(
        b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        After::Close,
    );
    for visitor in [visitor.clone(), visitor.clone().over_h2()] {
        let answer = visitor.get("https://raw.localhost/").await?;
        assert_eq!((answer.status, answer.text().as_str()), (StatusCode::OK, "ok"));
    }
    Ok(())
}

#[tokio::test]
async fn a_route_rewrites_what_it_is_told_to() -> Result<()> {
    let world = World::new(BINARY).await?;
    let mut config = world.config();
    let to = world.upstream.url();
    config.route("https://raw.localhost", &to, "prefix: /old/\nprefix_rewrite: /new/\nallow_public_unauthenticated_access: true\npreserve_host_header: true\nset_request_headers:\n  X-Set: from the route\nremove_request_headers: [X-Gone]\nset_response_headers:\n  X-Answer: from the route\n");
    config.route("https://raw.localhost", &to, "path: /exact\nallow_public_unauthenticated_access: true");
    let gateway = world.launcher.run(&config.text()).await?;
    let visitor = world.visitor(&gateway).await?;
    let request = Request::get("https://raw.localhost/old/a?b")
        .header("x-gone", "1")
        .header("x-set", "mine")
        .body(Bytes::new())?;
    let answer = visitor.send(request).await?;
    assert_eq!(answer.header("x-answer"), "from the route");
    let received = world.upstream.last()?;
    assert_eq!(received.target, "/new/a?b");
    assert_eq!(received.header("host"), Some("raw.localhost"));
    assert_eq!(received.header("x-set"), Some("from the route"));
    assert_eq!(received.header("x-gone"), None);
    assert_eq!(visitor.get("https://raw.localhost/exact").await?.status, StatusCode::OK);
    assert_eq!(visitor.get("https://raw.localhost/exact/more").await?.status, StatusCode::NOT_FOUND);
    assert_eq!(world.upstream.last()?.header("host"), Some(&to["http://".len()..]));
    Ok(())
}

#[tokio::test]
async fn a_stopping_gateway_is_not_ready_and_lets_a_request_finish() -> Result<()> {
    let (world, mut gateway, alice) = alice().await?;
    let before = world.upstream.requests().len();
    let held = async {
        let answer = alice.get(&format!("{APP}/hold")).await?;
        assert_eq!(answer.status, StatusCode::OK);
        anyhow::Ok(())
    };
    let stop = async {
        world.upstream.has_received(before + 1).await?;
        gateway.interrupt()?;
        // the health listener may be gone already: that is not ready either
        let look = async || match gateway.health("/readyz").await {
            Ok((200, _)) => Ok(None),
            Ok(_) | Err(_) => Ok(Some(())),
        };
        eventually("not ready", Duration::from_secs(1), look).await?;
        world.upstream.release();
        anyhow::Ok(())
    };
    let (held, stopped) = tokio::join!(held, stop);
    stopped?;
    held?;
    let status = gateway.wait_exit(Duration::from_secs(2)).await?;
    assert_eq!(status.code(), Some(0));
    Ok(())
}

#[tokio::test]
async fn machines_find_what_they_ask_every_host_for() -> Result<()> {
    let (_world, gateway, alice) = alice().await?;
    let stranger = |accept| anyhow::Ok(alice.clone().accepting(accept));
    for host in [APP, PUBLIC] {
        let metadata = stranger("application/json")?.get(&format!("{host}/.well-known/pomerium")).await?.json()?;
        assert_eq!(metadata["jwks_uri"], format!("{host}/.well-known/pomerium/jwks.json"));
        let keys = stranger("application/json")?.get(&format!("{host}/.well-known/pomerium/jwks.json")).await?;
        assert_eq!(keys.json()?["keys"][0]["alg"], "ES256");
        assert_eq!(keys.header("access-control-allow-origin"), "*");
        for path in ["/ping", "/healthz"] {
            assert_eq!(stranger("*/*")?.get(&format!("{host}{path}")).await?.text().trim(), "OK");
        }
        assert!(stranger("*/*")?.get(&format!("{host}/robots.txt")).await?.text().contains("Disallow: /"));
    }
    let user = alice.get(&format!("{APP}/.pomerium/user")).await?.json()?;
    assert_eq!(user["email"], "alice@example.com");
    for absent in ["iss", "aud", "exp", "iat", "jti"] {
        assert!(user.get(absent).is_none(), "{absent}");
    }
    for path in ["/healthz", "/readyz", "/startupz"] {
        assert_eq!(gateway.health(path).await?.0, 200);
    }
    assert_eq!(alice.get("https://public.localhost/.pomerium/nothing").await?.status, StatusCode::NOT_FOUND);
    Ok(())
}
