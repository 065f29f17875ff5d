//! One canonical request or none: what two parsers could read differently never reaches an upstream.

use anyhow::{Context, Result};
use bytes::Bytes;
use http::{Request, StatusCode};
use portcullis_harness::client::Visitor;
use portcullis_harness::gateway::Gateway;
use portcullis_harness::sign_in::sign_in;
use portcullis_harness::world::{APP, PUBLIC, World};

const BINARY: &str = env!("CARGO_BIN_EXE_portcullis");
/// What an attacker writes, and no upstream may ever see.
const CANARY: &str = "canary-of-an-attacker";

async fn world() -> Result<(World, Gateway, Visitor)> {
    let world = World::new(BINARY).await?;
    let gateway = world.gateway().await?;
    let visitor = world.visitor(&gateway).await?;
    Ok((world, gateway, visitor))
}

/// Sends each of these to the public application and expects a refusal, or a closed connection, and no request at
/// the upstream.
async fn all_are_refused(requests: &[(&str, Vec<u8>)]) -> Result<()> {
    let (world, _gateway, visitor) = world().await?;
    let mut passed = Vec::new();
    for (name, bytes) in requests {
        let before = world.upstream.requests().len();
        let answer = visitor.raw(PUBLIC, bytes).await?;
        let refused = answer.statuses().iter().all(|status| (400..600).contains(status));
        if !refused || world.upstream.requests().len() != before {
            passed.push(format!(
                "{name}: {:?}, {} at the upstream",
                answer.statuses(),
                world.upstream.requests().len() - before
            ));
        }
    }
    assert!(passed.is_empty(), "{passed:#?}");
    let control = visitor.raw(PUBLIC, &with("GET / HTTP/1.1", &[])).await?;
    assert_eq!(control.statuses(), [200], "the control: a good request passes");
    Ok(())
}

/// A request with the right `Host` and these further lines, each without its line end.
fn with(line: &str, headers: &[&str]) -> Vec<u8> {
    let mut text = format!("{line}\r\nHost: public.localhost\r\nConnection: close\r\n");
    for header in headers {
        text.push_str(header);
        text.push_str("\r\n");
    }
    text.push_str("\r\n");
    text.into_bytes()
}

/// A request line alone with these lines: no `Host` is added.
fn bare(lines: &[&str]) -> Vec<u8> {
    format!("{}\r\n\r\n", lines.join("\r\n")).into_bytes()
}

fn then(mut head: Vec<u8>, body: &[u8]) -> Vec<u8> {
    head.extend_from_slice(body);
    head
}

#[tokio::test]
async fn a_body_of_two_lengths_is_refused() -> Result<()> {
    let post = "POST / HTTP/1.1";
    all_are_refused(&[
        ("CL and TE", then(with(post, &["Content-Length: 5", "Transfer-Encoding: chunked"]), b"0\r\n\r\n")),
        ("TE and CL", then(with(post, &["Transfer-Encoding: chunked", "Content-Length: 5"]), b"0\r\n\r\n")),
        ("two lengths", then(with(post, &["Content-Length: 5", "Content-Length: 6"]), b"hello!")),
        ("the same length twice", then(with(post, &["Content-Length: 5", "Content-Length: 5"]), b"hello")),
        ("a list of lengths", then(with(post, &["Content-Length: 5, 5"]), b"hello")),
        ("a signed length", then(with(post, &["Content-Length: +5"]), b"hello")),
        ("a negative length", with(post, &["Content-Length: -1"])),
        ("a hexadecimal length", then(with(post, &["Content-Length: 0x5"]), b"hello")),
        ("a length with a space", then(with(post, &["Content-Length: 5 5"]), b"hello")),
        ("an empty length", with(post, &["Content-Length:"])),
        ("a length beyond counting", with(post, &["Content-Length: 99999999999999999999"])),
        ("TE that is not chunked", with(post, &["Transfer-Encoding: identity"])),
        ("TE with more than chunked", then(with(post, &["Transfer-Encoding: gzip, chunked"]), b"0\r\n\r\n")),
        ("chunked twice", then(with(post, &["Transfer-Encoding: chunked, chunked"]), b"0\r\n\r\n")),
        (
            "chunked in two lines",
            then(with(post, &["Transfer-Encoding: chunked", "Transfer-Encoding: chunked"]), b"0\r\n\r\n"),
        ),
        ("TE misspelt", then(with(post, &["Transfer-Encoding: xchunked"]), b"0\r\n\r\n")),
        ("TE with a vertical tab", then(with(post, &["Transfer-Encoding: \x0bchunked"]), b"0\r\n\r\n")),
        ("TE with a space before the colon", then(with(post, &["Transfer-Encoding : chunked"]), b"0\r\n\r\n")),
        ("TE in HTTP/1.0", then(with("POST / HTTP/1.0", &["Transfer-Encoding: chunked"]), b"0\r\n\r\n")),
    ])
    .await
}

#[tokio::test]
async fn a_chunk_that_is_none_ends_the_connection() -> Result<()> {
    let (world, _gateway, visitor) = world().await?;
    let chunks: [&[u8]; 8] = [
        b"5\nhello\r\n0\r\n\r\n",
        b"0x5\r\nhello\r\n0\r\n\r\n",
        b"-5\r\nhello\r\n0\r\n\r\n",
        b"5 \r\nhelloX\r\n0\r\n\r\n",
        b"fffffffffffffffff\r\nhello\r\n0\r\n\r\n",
        b"5\r\nhelloXX0\r\n\r\n",
        b"\r\n5\r\nhello\r\n0\r\n\r\n",
        b"5;a=\x00\r\nhello\r\n0\r\n\r\n",
    ];
    for chunk in chunks {
        let head = b"POST /upload HTTP/1.1\r\nHost: public.localhost\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
        let smuggled = b"GET /smuggled HTTP/1.1\r\nHost: public.localhost\r\n\r\n";
        let answer = visitor.raw(PUBLIC, &then(then(head, chunk), smuggled)).await?;
        let shown = String::from_utf8_lossy(chunk).into_owned();
        assert!(answer.closed, "{shown:?}: the connection stays open: {}", answer.text());
        assert!(answer.statuses().iter().all(|status| *status >= 400), "{shown:?}: {:?}", answer.statuses());
    }
    assert!(!world.upstream.requests().iter().any(|request| request.target.contains("smuggled")));
    Ok(())
}

#[tokio::test]
async fn a_head_that_parsers_disagree_on_is_refused() -> Result<()> {
    let get = "GET / HTTP/1.1";
    all_are_refused(&[
        ("a bare LF between headers", b"GET / HTTP/1.1\r\nHost: public.localhost\nX-A: b\r\n\r\n".to_vec()),
        ("a bare LF after the request line", b"GET / HTTP/1.1\nHost: public.localhost\r\n\r\n".to_vec()),
        ("bare LFs throughout", b"GET / HTTP/1.1\nHost: public.localhost\n\n".to_vec()),
        ("a bare CR in a value", with(get, &["X-A: b\rc"])),
        ("NUL in a value", with(get, &["X-A: b\0c"])),
        ("a control character in a value", with(get, &["X-A: b\x01c"])),
        ("a folded line", with(get, &["X-A: b\r\n c"])),
        ("a space before the colon", with(get, &["X-A : b"])),
        ("a space before the name", with(get, &[" X-A: b"])),
        ("no colon", with(get, &["X-A"])),
        ("no name", with(get, &[": b"])),
        ("a name beyond ASCII", with(get, &["X-Ä: b"])),
        ("an underscore in a name", with(get, &["X_A: b"])),
        ("two spaces in the request line", with("GET  / HTTP/1.1", &[])),
        ("a tab in the request line", with("GET\t/ HTTP/1.1", &[])),
        ("no version", with("GET /", &[])),
        ("HTTP/0.9", b"GET /\r\n".to_vec()),
        ("an unknown version", with("GET / HTTP/1.2", &[])),
        ("HTTP/2 in words", with("GET / HTTP/2.0", &[])),
        ("a lower-case version", with("GET / http/1.1", &[])),
        ("TRACE", with("TRACE / HTTP/1.1", &[])),
        ("CONNECT", with("CONNECT public.localhost:443 HTTP/1.1", &[])),
        ("no method that is a token", with("GE(T / HTTP/1.1", &[])),
    ])
    .await
}

#[tokio::test]
async fn a_host_that_is_not_exactly_one_host_is_refused() -> Result<()> {
    let line = "GET / HTTP/1.1";
    let hosts = [
        "public.localhost@evil.example",
        "evil@public.localhost",
        "public.localhost/",
        "public.localhost, evil.example",
        "public.localhost evil.example",
        "public.localhost%00",
        "public.localhost%0d%0aX-A:b",
        "public.localhost:",
        "public.localhost:x",
        "public.localhost:99999",
        "public.localhost:443:443",
        "public..localhost",
        "p\u{fc}blic.localhost",
        "[::1",
        "",
    ];
    let mut requests: Vec<(&str, Vec<u8>)> =
        hosts.iter().map(|host| (*host, bare(&[line, &format!("Host: {host}"), "Connection: close"]))).collect();
    requests.extend([
        ("no host", bare(&[line, "Connection: close"])),
        ("two hosts", bare(&[line, "Host: public.localhost", "Host: public.localhost", "Connection: close"])),
        ("two different hosts", bare(&[line, "Host: public.localhost", "Host: app.localhost", "Connection: close"])),
        ("another host in the target", with("GET https://app.localhost/ HTTP/1.1", &[])),
        ("another scheme in the target", with("GET ftp://public.localhost/ HTTP/1.1", &[])),
        ("a host nobody knows", bare(&[line, "Host: unknown.localhost", "Connection: close"])),
        ("a host of a page in HTTP/1.0 without Host", bare(&["GET / HTTP/1.0"])),
    ]);
    all_are_refused(&requests).await
}

#[tokio::test]
async fn a_target_that_is_no_path_is_refused() -> Result<()> {
    let targets =
        ["*", "", "a", "//evil.example@/..", "/%zz", "/%", "/%2", "/a%2fb", "/a%2Fb", "/a#b", "/a b", "/\x7f"];
    let lines: Vec<String> = targets.iter().map(|target| format!("GET {target} HTTP/1.1")).collect();
    let requests: Vec<(&str, Vec<u8>)> = targets
        .iter()
        .zip(&lines)
        .filter(|(target, _)| !target.starts_with("//"))
        .map(|(target, line)| (*target, with(line, &[])))
        .collect();
    all_are_refused(&requests).await?;
    let long = format!("GET /{} HTTP/1.1", "a".repeat(100_000));
    let many: Vec<String> = (0..1000).map(|n| format!("X-{n}: 1")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let large = format!("X-A: {}", "a".repeat(300_000));
    all_are_refused(&[
        ("a target too long", with(&long, &[])),
        ("too many headers", with("GET / HTTP/1.1", &many)),
        ("a header too large", with("GET / HTTP/1.1", &[&large])),
    ])
    .await
}

#[tokio::test]
async fn the_path_that_is_decided_on_is_the_path_that_is_passed_on() -> Result<()> {
    let (world, _gateway, visitor) = world().await?;
    for (sent, received) in [
        ("/a/../b", "/b"),
        ("/a/./b", "/a/b"),
        ("//a///b", "/a/b"),
        ("/a/%2e%2e/b", "/b"),
        ("/../../b", "/b"),
        ("/a/..", "/"),
        ("/%61", "/a"),
        ("/a?b=/../c", "/a?b=/../c"),
        ("/a;b=c", "/a;b=c"),
    ] {
        let answer = visitor.raw(PUBLIC, &with(&format!("GET {sent} HTTP/1.1"), &[])).await?;
        assert_eq!(answer.statuses(), [200], "{sent}");
        assert_eq!(world.upstream.last()?.target, received, "{sent}");
    }
    Ok(())
}

#[tokio::test]
async fn no_spelling_of_an_identity_header_reaches_the_upstream() -> Result<()> {
    let (world, _gateway, visitor) = world().await?;
    sign_in(&visitor, APP, "alice").await?;
    let cookie = visitor.cookies().header(&url::Url::parse(APP)?).context("no cookie")?;
    let names = [
        "X-Pomerium-Jwt-Assertion",
        "X-Pomerium-Jwt-Assertion-For",
        "X-Pomerium-Claim-Email",
        "X-Pomerium-Claim-Groups",
        "X-Pomerium-Claim-Name",
        "X-Pomerium-Routing-Key",
        "X-Forwarded-For",
        "X-Forwarded-Host",
        "X-Forwarded-Proto",
        "X-Forwarded-Uri",
        "X-Real-Ip",
        "Forwarded",
        "X-Original-Url",
        "X-Rewrite-Url",
    ];
    let spellings: [fn(&str) -> String; 9] = [
        str::to_owned,
        str::to_lowercase,
        str::to_uppercase,
        |name| name.replace('-', "_"),
        |name| name.replacen('-', "_", 1),
        |name| name.replace('-', "."),
        |name| name.replace('-', "~"),
        |name| name.replace('-', "+"),
        |name| format!("{name} "),
    ];
    for (host, cookie) in [("app.localhost", Some(&cookie)), ("public.localhost", None)] {
        for name in names.iter().filter(|name| !name.ends_with("-For") || name.starts_with("X-F")) {
            for spelling in spellings {
                let spelt = spelling(name);
                let line = format!("{spelt}: {CANARY}");
                let mut lines = vec![format!("Host: {host}"), "Connection: close".to_owned(), line.clone(), line];
                lines.extend(cookie.map(|cookie| format!("Cookie: {cookie}")));
                let request = format!("GET / HTTP/1.1\r\n{}\r\n\r\n", lines.join("\r\n"));
                visitor.raw(&format!("https://{host}"), request.as_bytes()).await?;
                assert!(!saw_the_canary(&world), "{spelt:?} at {host}");
            }
            // a header the proxy adds cannot be taken away by nomination either
            let request =
                format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close, {name}\r\n{name}: {CANARY}\r\n\r\n");
            visitor.raw(&format!("https://{host}"), request.as_bytes()).await?;
            assert!(!saw_the_canary(&world), "nominated {name} at {host}");
        }
    }
    let page = visitor.get(APP).await?;
    assert_eq!(page.status, StatusCode::OK);
    assert!(world.upstream.last()?.header("x-pomerium-jwt-assertion").is_some(), "the control: ours arrives, once");
    Ok(())
}

fn saw_the_canary(world: &World) -> bool {
    let held = |(name, value): &(String, String)| name.contains(CANARY) || value.contains(CANARY);
    world.upstream.requests().iter().any(|request| request.headers.iter().any(held))
}

#[tokio::test]
async fn no_identity_arrives_in_a_trailer() -> Result<()> {
    let (_world, _gateway, visitor) = world().await?;
    let head = with("POST /upload HTTP/1.1", &["Transfer-Encoding: chunked", "Trailer: X-Pomerium-Jwt-Assertion"]);
    let body =
        format!("5\r\nhello\r\n0\r\nX-Pomerium-Jwt-Assertion: {CANARY}\r\nX-Pomerium-Claim-Email: {CANARY}\r\n\r\n");
    let answer = visitor.raw(PUBLIC, &then(head, body.as_bytes())).await?;
    assert!(!answer.text().contains(CANARY), "{}", answer.text());
    Ok(())
}

#[tokio::test]
async fn what_concerns_one_connection_is_not_passed_on() -> Result<()> {
    let (world, _gateway, visitor) = world().await?;
    let headers = [
        "Keep-Alive: timeout=5",
        "Proxy-Connection: keep-alive",
        "TE: gzip",
        "Upgrade: h2c",
        "HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA",
        "X-Nominated: 1",
    ];
    let mut request =
        "GET / HTTP/1.1\r\nHost: public.localhost\r\nConnection: close, X-Nominated, Upgrade, HTTP2-Settings\r\n"
            .to_owned();
    for header in headers {
        request.push_str(header);
        request.push_str("\r\n");
    }
    request.push_str("\r\n");
    let answer = visitor.raw(PUBLIC, request.as_bytes()).await?;
    assert_eq!(answer.statuses(), [200]);
    let received = world.upstream.last()?;
    for name in ["keep-alive", "proxy-connection", "te", "upgrade", "http2-settings", "x-nominated"] {
        assert!(received.all(name).is_empty(), "{name}: {received:?}");
    }
    Ok(())
}

#[tokio::test]
async fn an_upgrade_to_what_nobody_speaks_here_is_a_request_like_others() -> Result<()> {
    let (world, _gateway, visitor) = world().await?;
    let head = "POST /one HTTP/1.1\r\nHost: public.localhost\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n\
                HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\nContent-Length: 4\r\n\r\nbody";
    let both = then(head.as_bytes().to_vec(), &with("GET /two HTTP/1.1", &[]));
    let answer = visitor.raw(PUBLIC, &both).await?;
    assert_eq!(answer.statuses(), [200, 200]);
    let requests = world.upstream.requests();
    let targets: Vec<&str> = requests.iter().map(|request| request.target.as_str()).collect();
    assert_eq!(targets, ["/one", "/two"]);
    assert_eq!(requests[0].header("content-length"), Some("4"));
    assert!(requests[0].all("upgrade").is_empty());
    Ok(())
}

#[tokio::test]
async fn the_upstream_is_told_who_asked_and_for_what() -> Result<()> {
    let (world, _gateway, visitor) = world().await?;
    let request = Request::get(format!("{PUBLIC}/x")).header("x-request-id", "forged").body(Bytes::new())?;
    let answer = visitor.send(request).await?;
    let received = world.upstream.last()?;
    assert_eq!(received.header("x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(received.header("x-forwarded-proto"), Some("https"));
    assert_eq!(received.header("x-forwarded-host"), Some("public.localhost"));
    let id = received.header("x-request-id").context("no request id")?;
    assert_ne!(id, "forged");
    assert_eq!(answer.header("x-request-id"), id);
    Ok(())
}

#[tokio::test]
async fn two_requests_on_one_connection_do_not_mix() -> Result<()> {
    let (world, _gateway, visitor) = world().await?;
    let first = b"POST /one HTTP/1.1\r\nHost: public.localhost\r\nContent-Length: 4\r\n\r\nbody".to_vec();
    let both = then(first, &with("GET /two HTTP/1.1", &[]));
    let answer = visitor.raw(PUBLIC, &both).await?;
    assert_eq!(answer.statuses(), [200, 200]);
    let targets: Vec<String> = world.upstream.requests().into_iter().map(|request| request.target).collect();
    assert_eq!(targets, ["/one", "/two"]);
    Ok(())
}

#[tokio::test]
async fn over_http2_the_same_rules_hold() -> Result<()> {
    let (world, _gateway, visitor) = world().await?;
    let visitor = visitor.over_h2();
    assert_eq!(visitor.get(PUBLIC).await?.status, StatusCode::OK);
    let before = world.upstream.requests().len();
    let bad = [
        Request::get(PUBLIC).header("x_a", "b"),
        Request::get(format!("{PUBLIC}/a%2fb")),
        Request::get(format!("{PUBLIC}/%zz")),
        Request::builder().method("TRACE").uri(PUBLIC),
    ];
    for builder in bad {
        let request = builder.body(Bytes::new())?;
        let shown = format!("{request:?}");
        // refused, or the stream is reset
        if let Ok(answer) = visitor.send(request).await {
            assert!(answer.status.as_u16() >= 400, "{shown}: {}", answer.status);
        }
    }
    assert_eq!(world.upstream.requests().len(), before);
    for name in ["x-pomerium-jwt-assertion", "x-pomerium-claim-email", "x-forwarded-for", "x-real-ip"] {
        let request = Request::get(PUBLIC).header(name, CANARY).body(Bytes::new())?;
        drop(visitor.send(request).await);
        assert!(!saw_the_canary(&world), "{name}");
    }
    Ok(())
}

#[tokio::test]
async fn an_upstream_sets_its_own_cookies_and_none_of_ours() -> Result<()> {
    let (_world, _gateway, visitor) = world().await?;
    let answer = visitor.get(&format!("{PUBLIC}/cookies")).await?;
    let set: Vec<&str> = answer.headers.get_all("set-cookie").iter().filter_map(|value| value.to_str().ok()).collect();
    assert!(set.iter().any(|line| line.starts_with("theirs=")), "{set:?}");
    assert!(!set.iter().any(|line| line.starts_with("_pomerium=")), "{set:?}");
    Ok(())
}

#[tokio::test]
async fn our_own_pages_take_no_encoded_bodies() -> Result<()> {
    let (_world, _gateway, visitor) = world().await?;
    let request = Request::post(format!("{APP}/.pomerium/sign_out"))
        .header("content-encoding", "gzip")
        .body(Bytes::from_static(b"\x1f\x8b"))?;
    assert_eq!(visitor.send(request).await?.status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
    Ok(())
}
