//! What stands in front of the gateway and how it reads what comes: the PROXY protocol, trusted proxies, paths, header
//! names, and the framing of HTTP/2.

use std::time::Duration;

use anyhow::{Context, Result};
use portcullis_harness::certificate::Authority;
use portcullis_harness::client::Visitor;
use portcullis_harness::connect::{RawAnswer, Stream};
use portcullis_harness::gateway::Gateway;
use portcullis_harness::upstream::Upstream;
use portcullis_harness::world::Configuration;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

const BINARY: &str = env!("CARGO_BIN_EXE_portcullis");
const PUBLIC: &str = "https://public.localhost";
const OPEN: &str = "allow_public_unauthenticated_access: true";
const PATIENCE: Duration = Duration::from_secs(5);

/// A plain listener, or one with TLS, before one upstream; nobody signs in.
struct Ground {
    authority: Authority,
    upstream: Upstream,
    dir: tempfile::TempDir,
}

impl Ground {
    fn new() -> Result<Self> {
        Ok(Self { authority: Authority::new()?, upstream: Upstream::start()?, dir: tempfile::tempdir()? })
    }

    fn config(&self, keys: &[(&str, &str)]) -> Configuration {
        let mut config = Configuration::without_sign_in();
        config.set("insecure_server", "true");
        for (key, value) in keys {
            config.set(key, value);
        }
        config
    }

    async fn plain(&self, keys: &[(&str, &str)], routes: &[(&str, &str)]) -> Result<Gateway> {
        let mut config = self.config(keys);
        for (from, policy) in routes {
            config.route(from, &self.upstream.url(), policy);
        }
        Gateway::binary(BINARY).run(&config.text()).await
    }

    async fn with_tls(&self, keys: &[(&str, &str)]) -> Result<Gateway> {
        let certificate = self.authority.issue(self.dir.path(), "gateway", &["public.localhost"])?;
        let mut config = self.config(keys);
        config.remove("insecure_server");
        config.set("certificate_file", &format!("'{}'", certificate.cert.display()));
        config.set("certificate_key_file", &format!("'{}'", certificate.key.display()));
        config.route(PUBLIC, &self.upstream.url(), OPEN);
        Gateway::binary(BINARY).run(&config.text()).await
    }

    async fn visitor(&self, gateway: &Gateway) -> Result<Visitor> {
        Ok(Visitor::new(&self.authority.trust()?)?.through(gateway.address().await?))
    }
}

fn get(host: &str, target: &str, headers: &str) -> Vec<u8> {
    format!("GET {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{headers}\r\n").into_bytes()
}

/// Sends bytes over plain TCP.
async fn sent(gateway: &Gateway, bytes: &[u8]) -> Result<RawAnswer> {
    let stream = TcpStream::connect(gateway.address().await?).await?;
    Ok(Stream::Plain(stream).exchange(bytes, PATIENCE).await)
}

fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    let length = u16::try_from(rest.len()).unwrap_or(u16::MAX).to_be_bytes();
    [b"\r\n\r\n\0\r\nQUIT\n".as_slice(), &[0x20 | command, family], &length, rest].concat()
}

#[tokio::test]
async fn a_header_of_the_proxy_protocol_names_the_client_for_policy_log_and_upstream() -> Result<()> {
    let ground = Ground::new()?;
    let only = "policy: [{allow: {and: [{source_ip: 192.0.2.0/24}]}}]";
    let gateway = ground.plain(&[("use_proxy_protocol", "true")], &[(PUBLIC, only)]).await?;
    let address = |last: u8| [192, 0, 2, last, 192, 0, 2, 1, 0x30, 0x39, 1, 187];
    let request = get("public.localhost", "/", "X-Forwarded-For: 192.0.2.99\r\n");
    for (header, status, client) in [
        (b"PROXY TCP4 192.0.2.7 192.0.2.1 12345 443\r\n".to_vec(), 200, "192.0.2.7"),
        (b"PROXY TCP4 198.51.100.7 192.0.2.1 12345 443\r\n".to_vec(), 403, "198.51.100.7"),
        (b"PROXY TCP6 2001:db8::7 2001:db8::1 12345 443\r\n".to_vec(), 403, "2001:db8::7"),
        (v2(1, 0x11, &address(8)), 200, "192.0.2.8"),
        (v2(1, 0x11, &[address(9).as_slice(), &[4, 0, 1, 0]].concat()), 200, "192.0.2.9"),
        (v2(0, 0x11, &address(8)), 403, "127.0.0.1"),
        (b"PROXY UNKNOWN\r\n".to_vec(), 403, "127.0.0.1"),
    ] {
        let answer = sent(&gateway, &[header.as_slice(), &request].concat()).await?;
        assert_eq!(answer.statuses(), [status], "{}", String::from_utf8_lossy(&header));
        if status == 200 {
            assert_eq!(ground.upstream.last()?.all("x-forwarded-for"), [client]);
        }
        let is_written = |line: &str| line.contains("http-request").then(|| line.contains(client)).filter(|it| *it);
        gateway.stdout().find(PATIENCE * 4, is_written).await.with_context(|| client.to_owned())?;
    }
    Ok(())
}

#[tokio::test]
async fn what_begins_with_no_header_is_closed_without_a_word() -> Result<()> {
    let ground = Ground::new()?;
    let gateway = ground.plain(&[("use_proxy_protocol", "true")], &[(PUBLIC, OPEN)]).await?;
    let request = get("public.localhost", "/", "");
    let long = format!("PROXY UNKNOWN {}\r\n", "x".repeat(200));
    for wrong in [
        b"".to_vec(),
        b"PROXY TCP4 192.0.2.7 192.0.2.1 12345\r\n".to_vec(),
        b"PROXY TCP4 999.0.2.7 192.0.2.1 1 443\r\n".to_vec(),
        b"proxy TCP4 192.0.2.7 192.0.2.1 1 443\r\n".to_vec(),
        long.into_bytes(),
        v2(3, 0x11, &[0; 12]),
        v2(1, 0x11, &[0; 4]),
        v2(1, 0x11, &[0; 60_000]),
    ] {
        let answer = sent(&gateway, &[wrong.as_slice(), &request].concat()).await?;
        assert!(answer.closed && answer.bytes.is_empty(), "{:?}: {}", String::from_utf8_lossy(&wrong), answer.text());
    }
    // one that says nothing more is left in time
    let stream = TcpStream::connect(gateway.address().await?).await?;
    let answer = Stream::Plain(stream).exchange(b"PROXY TC", PATIENCE).await;
    assert!(answer.closed && answer.bytes.is_empty());
    assert!(ground.upstream.requests().is_empty());
    Ok(())
}

#[tokio::test]
async fn a_header_may_come_byte_by_byte_and_tls_begins_behind_it() -> Result<()> {
    let ground = Ground::new()?;
    let gateway = ground.with_tls(&[("use_proxy_protocol", "true")]).await?;
    for header in
        [b"PROXY TCP4 192.0.2.7 192.0.2.1 12345 443\r\n".to_vec(), v2(1, 0x11, &[192, 0, 2, 7, 1, 1, 1, 1, 1, 1, 1, 1])]
    {
        let mut stream = TcpStream::connect(gateway.address().await?).await?;
        stream.set_nodelay(true)?;
        for byte in header {
            stream.write_all(&[byte]).await?;
            tokio::task::yield_now().await;
        }
        let tls = tokio_rustls::TlsConnector::from(ground.authority.trust()?.client(&[b"http/1.1"])?);
        let stream = tls.connect("public.localhost".try_into()?, stream).await?;
        let answer = Stream::Tls(Box::new(stream)).exchange(&get("public.localhost", "/", ""), PATIENCE).await;
        assert_eq!(answer.statuses(), [200]);
        assert_eq!(ground.upstream.last()?.all("x-forwarded-for"), ["192.0.2.7"]);
    }
    Ok(())
}

#[tokio::test]
async fn of_proxies_in_front_as_many_are_believed_as_are_trusted() -> Result<()> {
    let ground = Ground::new()?;
    let only = "policy: [{allow: {and: [{source_ip: 192.0.2.7}]}}]";
    let spoof = "X-Forwarded-For: 192.0.2.7\r\n";
    let far = "X-Forwarded-For: 192.0.2.7, 198.51.100.1\r\n";
    let near = "X-Forwarded-For: evil\r\nX-Forwarded-For: 198.51.100.1, 192.0.2.7\r\nX-Forwarded-Proto: https\r\n";
    let odd = "X-Forwarded-For: 192.0.2.7, unknown\r\n";
    for (hops, skip, headers, status, told) in [
        ("0", "false", spoof, 403, None),
        ("0", "true", spoof, 403, None),
        ("1", "false", spoof, 200, Some("192.0.2.7, 127.0.0.1")),
        ("1", "true", spoof, 200, Some("192.0.2.7")),
        ("1", "false", far, 403, None),
        ("1", "false", near, 200, Some("192.0.2.7, 127.0.0.1")),
        ("1", "false", odd, 400, None),
        ("1", "false", "", 403, None),
        ("2", "false", far, 200, Some("192.0.2.7, 198.51.100.1, 127.0.0.1")),
        ("2", "false", spoof, 403, None),
    ] {
        let keys = [("xff_num_trusted_hops", hops), ("skip_xff_append", skip)];
        let gateway = ground.plain(&keys, &[(PUBLIC, only)]).await?;
        let answer = sent(&gateway, &get("public.localhost", "/", headers)).await?;
        assert_eq!(answer.statuses(), [status], "{hops} {skip} {headers}");
        if let Some(told) = told {
            let received = ground.upstream.last()?;
            assert_eq!(received.all("x-forwarded-for"), [told], "{hops} {skip} {headers}");
            let proto = if headers.contains("Proto") { "https" } else { "http" };
            assert_eq!(received.all("x-forwarded-proto"), [proto]);
        }
    }
    Ok(())
}

#[tokio::test]
async fn however_paths_are_read_the_upstream_gets_what_was_judged() -> Result<()> {
    let ground = Ground::new()?;
    let open = "https://open.localhost";
    let shut = "prefix: /admin\npolicy: [{deny: {or: [{reject: true}]}}]";
    let routes = [("https://two.localhost", shut), ("https://two.localhost", OPEN), (open, OPEN)];
    let (normalize, merge) = ("normalize_path", "merge_slashes");
    let (slashes, keep) = ("path_with_escaped_slashes_action", "keep_unchanged");
    // on a host that is one route, then where a path decides
    for (keys, target, alone, beside) in [
        (&[][..], "/x//y/../%61", Ok("/x/a"), Ok("/x/a")),
        (&[], "/x%2fadmin", Err(400), Err(400)),
        (&[], "/x/..//admin", Ok("/admin"), Err(403)),
        (&[(merge, "false")], "/x//y", Ok("/x//y"), Ok("/x//y")),
        (&[(merge, "false")], "//admin", Ok("//admin"), Err(400)),
        (&[(normalize, "false")], "/x/../%61", Ok("/x/../%61"), Ok("/x/../%61")),
        (&[(normalize, "false")], "/x/../admin", Ok("/x/../admin"), Err(400)),
        (&[(normalize, "false")], "/%61dmin", Ok("/%61dmin"), Err(400)),
        (&[(slashes, keep)], "/x%2Fy", Ok("/x%2Fy"), Ok("/x%2Fy")),
        (&[(slashes, keep)], "/x%2f..%2Fadmin", Ok("/x%2F..%2Fadmin"), Err(400)),
        (&[(slashes, "unescape_and_forward")], "/x%2Fy?z=%2F", Ok("/x/y?z=%2F"), Ok("/x/y?z=%2F")),
        (&[(slashes, "unescape_and_forward")], "/x%2f..%2Fadmin", Ok("/admin"), Err(403)),
    ] {
        let gateway = ground.plain(keys, &routes).await?;
        for (host, expected) in [("open.localhost", alone), ("two.localhost", beside)] {
            let before = ground.upstream.requests().len();
            let answer = sent(&gateway, &get(host, target, "")).await?;
            assert_eq!(answer.statuses(), [expected.err().unwrap_or(200)], "{keys:?} {host} {target}");
            let received: Vec<_> = ground.upstream.requests().into_iter().skip(before).map(|it| it.target).collect();
            assert_eq!(received, expected.ok().into_iter().collect::<Vec<_>>(), "{keys:?} {host}");
        }
    }
    let gateway = ground.plain(&[(slashes, "unescape_and_redirect"), (merge, "false")], &routes).await?;
    let answer = sent(&gateway, &get("open.localhost", "/%2Fevil.example%2f?a=%2f", "")).await?;
    assert_eq!(answer.statuses(), [307]);
    assert!(answer.text().contains("location: https://open.localhost//evil.example/?a=%2f\r\n"), "{}", answer.text());
    Ok(())
}

#[tokio::test]
async fn however_paths_are_read_nobody_leaves_the_place_that_a_route_leads_to() -> Result<()> {
    let ground = Ground::new()?;
    let keys = [
        ("normalize_path", "false"),
        ("merge_slashes", "false"),
        ("path_with_escaped_slashes_action", "keep_unchanged"),
    ];
    let mut config = ground.config(&keys);
    config.route("https://base.localhost", &format!("{}/tenant", ground.upstream.url()), OPEN);
    let rewritten = format!("{OPEN}\nprefix: /app\nprefix_rewrite: /tenant/");
    config.route("https://rewritten.localhost", &ground.upstream.url(), &rewritten);
    let gateway = Gateway::binary(BINARY).run(&config.text()).await?;
    for (host, target, expected) in [
        ("base.localhost", "/../other", None),
        ("base.localhost", "/..", None),
        ("base.localhost", "/a//../../other", None),
        ("base.localhost", "/%2e%2e/other", None),
        ("base.localhost", "/..%2fother", None),
        ("base.localhost", "/a%2F..%2f..%2Fother", None),
        ("base.localhost", "/..%5Cother", None),
        ("base.localhost", "/a/../b//c%2Fd", Some("/tenant/a/../b//c%2Fd")),
        ("rewritten.localhost", "/app../other", None),
        ("rewritten.localhost", "/app..%2fother", None),
        ("rewritten.localhost", "/app%2e%2e/other", None),
        ("rewritten.localhost", "/app/a..b//c", Some("/tenant/a..b//c")),
    ] {
        let before = ground.upstream.requests().len();
        let answer = sent(&gateway, &get(host, target, "")).await?;
        assert_eq!(answer.statuses(), [expected.map_or(400, |_| 200)], "{host} {target}");
        let received: Vec<_> = ground.upstream.requests().into_iter().skip(before).map(|it| it.target).collect();
        assert_eq!(received, expected.into_iter().collect::<Vec<_>>(), "{host} {target}");
    }
    Ok(())
}

#[tokio::test]
async fn what_a_route_sets_or_removes_is_not_to_be_had_in_another_spelling() -> Result<()> {
    let ground = Ground::new()?;
    let route = format!("{OPEN}\nset_request_headers: {{X-Role: guest}}\nremove_request_headers: [X-Internal-Token]");
    let gateway = ground.plain(&[("headers_with_underscores_action", "allow")], &[(PUBLIC, &route)]).await?;
    let headers = "X_Role: a\r\nX.Role: a\r\nX-Role: a\r\nX_Internal-Token: a\r\nX~Internal~Token: a\r\nX_Other: b\r\n";
    assert_eq!(sent(&gateway, &get("public.localhost", "/", headers)).await?.statuses(), [200]);
    let received = ground.upstream.last()?;
    let of_client: Vec<_> = received.headers.iter().filter(|(_, value)| value == "a").collect();
    assert!(of_client.is_empty(), "{of_client:?}");
    assert_eq!((received.all("x-role"), received.all("x_other")), (vec!["guest"], vec!["b"]));
    Ok(())
}

#[tokio::test]
async fn what_makes_paths_unsafe_is_said_with_its_place() -> Result<()> {
    let ground = Ground::new()?;
    let keys = [
        ("normalize_path", "false"),
        ("merge_slashes", "false"),
        ("path_with_escaped_slashes_action", "keep_unchanged"),
        ("headers_with_underscores_action", "allow"),
        ("skip_xff_append", "true"),
    ];
    let gateway = ground.plain(&keys, &[(PUBLIC, OPEN)]).await?;
    for (key, _) in keys {
        let is_said = |line: &str| (line.contains("WARN") || line.contains("warn")) && line.contains(key);
        gateway.stderr().find(PATIENCE, |line| is_said(line).then_some(())).await.context(key)?;
    }
    Ok(())
}

#[tokio::test]
async fn headers_with_underscores_are_refused_dropped_or_passed_but_never_speak_for_us() -> Result<()> {
    let ground = Ground::new()?;
    let headers = "X_Own: 1\r\nX_Forwarded_For: 6.6.6.6\r\nX-Pomerium_Claim-Email: eve\r\nContent_Length: 5\r\n\
                   Transfer_Encoding: chunked\r\nX-Own: 2\r\n";
    for (action, statuses, own) in
        [("reject_request", [400], &[][..]), ("drop_header", [200], &[]), ("allow", [200], &["1"])]
    {
        let gateway = ground.plain(&[("headers_with_underscores_action", action)], &[(PUBLIC, OPEN)]).await?;
        let answer = sent(&gateway, &get("public.localhost", "/", headers)).await?;
        assert_eq!(answer.statuses(), statuses, "{action}");
        if statuses == [200] {
            let received = ground.upstream.last()?;
            assert_eq!(received.all("x_own"), own, "{action}");
            assert_eq!(received.all("x-own"), ["2"]);
            let underscored = received.headers.iter().filter(|(name, _)| name.contains('_')).count();
            assert_eq!(underscored, own.len(), "{action}: {received:?}");
        }
    }
    Ok(())
}

/// Frames of HTTP/2 and header blocks without compression (RFC 9113 §4.1, RFC 7541 §6.2.2).
mod h2 {
    pub const END_STREAM: u8 = 1;
    const END_HEADERS: u8 = 4;

    pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let [_, length @ ..] = u32::try_from(payload.len()).unwrap_or(u32::MAX).to_be_bytes();
        [&length, &[kind, flags][..], &stream.to_be_bytes(), payload].concat()
    }

    pub fn headers(flags: u8, fields: &[(&[u8], &[u8])]) -> Vec<u8> {
        let text = |bytes: &[u8]| [&[u8::try_from(bytes.len()).unwrap_or(u8::MAX)], bytes].concat();
        let block: Vec<u8> =
            fields.iter().flat_map(|(name, value)| [vec![0], text(name), text(value)].concat()).collect();
        frame(1, flags | END_HEADERS, 1, &block)
    }

    /// The preface, our settings, and what is given.
    pub fn connection(frames: &[Vec<u8>]) -> Vec<u8> {
        [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), frame(4, 0, 0, &[]), frames.concat()].concat()
    }

    /// Whether a frame of this kind came back.
    pub fn has(bytes: &[u8], kind: u8) -> bool {
        let mut rest = bytes;
        while let [a, b, c, found, tail @ ..] = rest {
            if *found == kind {
                return true;
            }
            let length = usize::from(*a) << 16 | usize::from(*b) << 8 | usize::from(*c);
            rest = tail.get(5 + length..).unwrap_or_default();
        }
        false
    }
}

#[tokio::test]
async fn requests_over_http2_that_could_be_read_in_two_ways_reach_no_upstream() -> Result<()> {
    let ground = Ground::new()?;
    let gateway = ground.with_tls(&[]).await?;
    let visitor = ground.visitor(&gateway).await?;
    type Field = (&'static [u8], &'static [u8]);
    let (method, path): (Field, Field) = ((b":method", b"POST"), (b":path", b"/"));
    let (scheme, authority): (Field, Field) = ((b":scheme", b"https"), (b":authority", b"public.localhost"));
    let usual = [method, scheme, authority, path];
    let extra: [(&str, &[Field]); 20] = [
        ("connection", &[(b"connection", b"close")]),
        ("keep-alive", &[(b"keep-alive", b"1")]),
        ("proxy-connection", &[(b"proxy-connection", b"close")]),
        ("transfer-encoding", &[(b"transfer-encoding", b"chunked")]),
        ("upgrade", &[(b"upgrade", b"websocket")]),
        ("TE other than trailers", &[(b"te", b"gzip")]),
        ("another host", &[(b"host", b"app.localhost")]),
        ("two hosts", &[(b"host", b"public.localhost"), (b"host", b"app.localhost")]),
        ("two content lengths", &[(b"content-length", b"4"), (b"content-length", b"5")]),
        ("a content length that the body has not", &[(b"content-length", b"5")]),
        ("a content length below the body's", &[(b"content-length", b"1")]),
        ("a content length that is no number", &[(b"content-length", b"+4")]),
        ("a name in capitals", &[(b"X-Upper", b"1")]),
        ("CR in a value", &[(b"x-a", b"b\rc")]),
        ("LF in a value", &[(b"x-a", b"b\nc: d")]),
        ("NUL in a value", &[(b"x-a", b"b\0c")]),
        ("a space before a value", &[(b"x-a", b" b")]),
        ("a space in a name", &[(b"x a", b"b")]),
        ("a colon in a name", &[(b"x:a", b"b")]),
        ("a pseudo-header behind others", &[(b"x-a", b"b"), (b":path", b"/other")]),
    ];
    let body = h2::frame(0, h2::END_STREAM, 1, b"body");
    let mut cases: Vec<(&str, Vec<Field>)> = Vec::new();
    for (name, fields) in extra {
        cases.push((name, usual.iter().chain(fields).copied().collect()));
    }
    cases.push(("two paths", vec![method, scheme, authority, path, (b":path", b"/other")]));
    cases.push(("two authorities", vec![method, scheme, authority, (b":authority", b"app.localhost"), path]));
    cases.push(("no path", vec![method, scheme, authority]));
    cases.push(("an empty path", vec![method, scheme, authority, (b":path", b"")]));
    cases.push(("a path that is a URL", vec![method, scheme, authority, (b":path", b"https://app.localhost/")]));
    cases.push(("no host at all", vec![method, scheme, path]));
    cases.push(("user information", vec![method, scheme, (b":authority", b"eve@public.localhost"), path]));
    cases.push(("another scheme", vec![method, (b":scheme", b"ftp"), authority, path]));
    cases.push(("an unknown pseudo-header", vec![method, scheme, authority, path, (b":x", b"y")]));
    for (name, fields) in &cases {
        let answer = visitor.raw_h2(PUBLIC, &h2::connection(&[h2::headers(0, fields), body.clone()])).await?;
        assert!(ground.upstream.requests().is_empty(), "{name} passed");
        assert!(h2::has(&answer.bytes, 4), "{name}: the connection was HTTP/2");
    }
    let good = h2::connection(&[h2::headers(0, &usual), body.clone()]);
    visitor.raw_h2(PUBLIC, &good).await?;
    assert_eq!(ground.upstream.last()?.method, "POST", "the control: a good request passes");
    Ok(())
}

#[tokio::test]
async fn an_absolute_target_says_what_the_host_says() -> Result<()> {
    let ground = Ground::new()?;
    let gateway = ground.plain(&[], &[(PUBLIC, OPEN), ("https://other.localhost", OPEN)]).await?;
    for (target, host, statuses) in [
        ("https://public.localhost/x", "public.localhost", [200]),
        ("http://PUBLIC.localhost:443/x", "public.localhost", [200]),
        ("https://other.localhost/x", "public.localhost", [400]),
        ("https://public.localhost.evil/x", "public.localhost", [400]),
        ("https://public.localhost:8443/x", "public.localhost", [400]),
        ("https://eve@public.localhost/x", "public.localhost", [400]),
        ("public.localhost:443", "public.localhost", [400]),
    ] {
        let answer = sent(&gateway, &get(host, target, "")).await?;
        assert_eq!(answer.statuses(), statuses, "{target}");
        assert!(answer.closed, "{target}");
    }
    Ok(())
}
