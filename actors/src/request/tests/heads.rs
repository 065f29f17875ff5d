//! Heads: versions, methods, targets, hosts and the headers of the connection.

use std::net::IpAddr;

use http::{StatusCode, Version};
use portcullis_config::Secret;
use portcullis_config::limits::{REQUEST_HEAD_BYTES, REQUEST_HEADERS, SIGN_IN_TARGET_BYTES, TARGET_BYTES};
use portcullis_events::Time;
use url::Url;

use super::super::{BadRequest, Canonical, Peer, SIGN_IN_PATH, WebSocketStream};
use super::{Head, Lines, PEER};
use crate::authenticate::start;
use crate::keyring::{Keyring, Purpose};

#[test]
fn a_host_has_one_spelling() {
    for (written, host, port, authority) in [
        ("app.test", "app.test", None, "app.test"),
        ("APP.Test", "app.test", None, "app.test"),
        ("app.test.", "app.test", None, "app.test"),
        ("app.test.:8443", "app.test", Some(8443), "app.test:8443"),
        ("app.test:443", "app.test", Some(443), "app.test"),
        ("app.test:08443", "app.test", Some(8443), "app.test:8443"),
        ("xn--bcher-kva.test", "xn--bcher-kva.test", None, "xn--bcher-kva.test"),
        ("a_b.test", "a_b.test", None, "a_b.test"),
        ("127.0.0.1:80", "127.0.0.1", Some(80), "127.0.0.1:80"),
        ("[::1]", "[::1]", None, "[::1]"),
        ("[0:0::0001]:8443", "[::1]", Some(8443), "[::1]:8443"),
        ("[2001:DB8::A]", "[2001:db8::a]", None, "[2001:db8::a]"),
    ] {
        let request = Head { headers: vec![("host", written)], ..Head::default() }.accepted();
        assert_eq!((request.host(), request.port(), request.authority()), (host, port, authority), "{written}");
        assert_eq!(request.url(), format!("https://{authority}/"));
        assert!(!request.headers().contains_key("host"));
    }
}

#[test]
fn what_is_not_exactly_one_host_is_refused() {
    for host in [
        "",
        " ",
        ".",
        "..",
        "a@app.test",
        "a:b@app.test",
        "app.test/x",
        "app.test?x",
        "app.test#x",
        "app.test\\x",
        "app.test, other.test",
        "app.test,other.test",
        "app.test other.test",
        "app.test\tx",
        "app.test:",
        "app.test:abc",
        "app.test:0",
        "app.test:65536",
        "app.test:+80",
        "app.test:8 0",
        "app.test:80:80",
        "app.test:000080",
        ":443",
        "app.test%0d%0aX:y",
        "app%2etest",
        "*.test",
        "app..test",
        ".app.test",
        "app.test..",
        "b\u{fc}cher.test",
        "\u{ff}",
        "[::1",
        "::1",
        "[::1]x",
        "[::1]:",
        "[::1%25eth0]",
        "[app.test]",
        "[]",
        "[127.0.0.1]",
        "a[b]",
        "127.1",
        "0x7f.0.0.1",
        "2130706433",
        "127.0.0.01",
        "1.2.3.4.5",
        "app.test.1",
        "app.0x1",
        "{app}.test",
        "app'.test",
        "\"app.test\"",
        "<app>",
    ] {
        let head = Head { headers: vec![("host", host)], ..Head::default() };
        assert_eq!(head.refusal(), Some(BadRequest::Host), "{host:?}");
        assert_eq!(Head { version: Version::HTTP_10, ..head }.refusal(), Some(BadRequest::Host), "{host:?}");
    }
    let long = format!("{}.test", "a".repeat(64));
    assert_eq!(Head { headers: vec![("host", &long)], ..Head::default() }.refusal(), Some(BadRequest::Host));
    let long = ["a".repeat(60).as_str(); 5].join(".");
    assert_eq!(Head { headers: vec![("host", &long)], ..Head::default() }.refusal(), Some(BadRequest::Host));
    for version in [Version::HTTP_10, Version::HTTP_11, Version::HTTP_2] {
        let none = Head { headers: vec![], version, ..Head::default() };
        assert_eq!(none.refusal(), Some(BadRequest::NoHost));
        for second in ["app.test", "APP.test", "other.test", ""] {
            let two = Head { headers: vec![("host", "app.test"), ("Host", second)], version, ..Head::default() };
            assert_eq!(two.refusal(), Some(BadRequest::ManyHosts), "{second}");
        }
    }
}

#[test]
fn host_and_target_name_the_same_place_or_are_refused() {
    for (target, host, refusal) in [
        ("http://app.test/x", "app.test", None),
        ("https://APP.test:443/x", "app.test.", None),
        ("https://app.test:8443/x", "app.test:8443", None),
        ("https://app.test/x", "other.test", Some(BadRequest::HostMismatch)),
        ("http://127.0.0.1:1/x", "app.test", Some(BadRequest::HostMismatch)),
        ("https://app.test:8443/x", "app.test", Some(BadRequest::HostMismatch)),
        ("https://app.test/x", "app.test:8443", Some(BadRequest::HostMismatch)),
        ("https://a@app.test/x", "app.test", Some(BadRequest::Host)),
        ("https://a:b@app.test/x", "app.test", Some(BadRequest::Host)),
        ("ftp://app.test/x", "app.test", Some(BadRequest::Scheme)),
        ("file://app.test/x", "app.test", Some(BadRequest::Scheme)),
        ("ws://app.test/x", "app.test", Some(BadRequest::Scheme)),
    ] {
        for version in [Version::HTTP_11, Version::HTTP_2] {
            let head = Head { target, version, headers: vec![("host", host)], ..Head::default() };
            assert_eq!(head.refusal(), refusal, "{target} {host} {version:?}");
        }
    }
    // without Host the target alone speaks in HTTP/2, and nobody does in HTTP/1.1
    let alone = Head { target: "https://APP.test/x", headers: vec![], ..Head::default() };
    assert_eq!(alone.refusal(), Some(BadRequest::NoHost));
    assert_eq!(alone.http2().accepted().authority(), "app.test");
    assert_eq!(Head::to("http://app.test?q").accepted().url(), "https://app.test/?q");
}

#[test]
fn a_target_is_a_path_or_is_refused() {
    for target in ["app.test", "app.test:443", "admin", "!", "x"] {
        assert_eq!(Head::to(target).refusal(), Some(BadRequest::Target), "{target}");
    }
    for target in ["", " /", "/ x", "/\tx", "/\u{0}", "/\r\n", "?x", "http:http://app.test/admin", "http:/x", "//x:y z"]
    {
        assert!(Head::to(target).parts().is_none(), "{target:?} reaches us now: refuse it here");
    }
    assert_eq!(Head::to("*").refusal(), Some(BadRequest::Asterisk));
    let options = Head { method: "OPTIONS", ..Head::to("*") }.accepted();
    assert_eq!((options.path(), options.query(), options.url().as_str()), ("*", None, "https://app.test"));
    let long = format!("/{}", "a".repeat(TARGET_BYTES - 1));
    assert!(Head::to(&long).refusal().is_none());
    let longer = format!("{long}?");
    assert_eq!(Head::to(&longer).refusal().map(BadRequest::status), Some(StatusCode::URI_TOO_LONG));
}

#[test]
fn every_target_that_is_taken_can_be_signed_in_to() {
    let now = Time::from_secs(1_000_000);
    let signer = Keyring::new(vec![Secret::new(vec![1; 32])]).unwrap().signer(Purpose::SignedUrl).unwrap();
    let name = format!("{}.test", ["a".repeat(60), "b".repeat(60), "c".repeat(60), "d".repeat(60)].join("."));
    let authenticate = Url::parse(&format!("https://{name}:65535")).unwrap();
    let (longest, longer) = ("&".repeat(TARGET_BYTES - 2), "&".repeat(SIGN_IN_TARGET_BYTES));
    let away = |query: &str| {
        let from = format!("https://{name}:65535/?{query}");
        start::depart(&authenticate, &from, "_pomerium", None, &signer, now).unwrap().url
    };
    assert!(Head::to(&format!("/?{longest}")).refusal().is_none());
    let url = away(&longest);
    assert!(url.as_str().len() > 3 * TARGET_BYTES);
    let too_long = Some(StatusCode::URI_TOO_LONG);
    let target = &url[url::Position::BeforePath..];
    assert!(Head::to(target).refusal().is_none());
    for target in [
        format!("{SIGN_IN_PATH}?{longer}"),
        target.replace("/sign_in?", "/sign_in/?"),
        target.replace("/sign_in?", "/%73ign_in?"),
        target.replace("/.pomerium/sign_in?", "/?"),
    ] {
        assert_eq!(Head::to(&target).refusal().map(BadRequest::status), too_long);
    }
}

#[test]
fn methods_are_case_sensitive_and_trace_is_refused() {
    for target in ["/", "app.test:443"] {
        let refusal = Head { method: "TRACE", ..Head::to(target) }.refusal();
        assert_eq!(refusal.map(BadRequest::status), Some(StatusCode::NOT_IMPLEMENTED));
    }
    for method in ["GET", "get", "PROPFIND", "M-SEARCH", "DELETE"] {
        assert_eq!(Head { method, ..Head::default() }.accepted().method().as_str(), method);
    }
    for version in [Version::HTTP_09, Version::HTTP_3] {
        let refusal = Head { version, ..Head::default() }.refusal();
        assert_eq!(refusal.map(BadRequest::status), Some(StatusCode::HTTP_VERSION_NOT_SUPPORTED));
    }
    assert!(Head { version: Version::HTTP_10, ..Head::default() }.refusal().is_none());
}

#[test]
fn a_body_has_one_length_or_the_request_is_refused() {
    use BadRequest::{ContentLength, TransferEncoding};
    const CL: &str = "content-length";
    const TE: &str = "transfer-encoding";
    let cases: &[(Lines<'_>, Option<BadRequest>)] = &[
        (&[(CL, "0")], None),
        (&[(CL, "5")], None),
        (&[(TE, "chunked")], None),
        (&[(TE, "Chunked")], None),
        (&[(CL, "5"), (CL, "5")], Some(ContentLength)),
        (&[(CL, "5"), (CL, "6")], Some(ContentLength)),
        (&[(CL, "5, 5")], Some(ContentLength)),
        (&[(CL, "")], Some(ContentLength)),
        (&[(CL, "+5")], Some(ContentLength)),
        (&[(CL, "-5")], Some(ContentLength)),
        (&[(CL, "0x5")], Some(ContentLength)),
        (&[(CL, "5 ")], Some(ContentLength)),
        (&[(CL, "5.0")], Some(ContentLength)),
        (&[(CL, "18446744073709551616")], Some(ContentLength)),
        (&[(CL, "5"), (TE, "chunked")], Some(TransferEncoding)),
        (&[(TE, "chunked"), (CL, "5")], Some(TransferEncoding)),
        (&[(TE, "chunked"), (TE, "chunked")], Some(TransferEncoding)),
        (&[(TE, "chunked, chunked")], Some(TransferEncoding)),
        (&[(TE, "gzip, chunked")], Some(TransferEncoding)),
        (&[(TE, "identity")], Some(TransferEncoding)),
        (&[(TE, "xchunked")], Some(TransferEncoding)),
        (&[(TE, "chunked;x=y")], Some(TransferEncoding)),
        (&[(TE, " chunked")], Some(TransferEncoding)),
        (&[(TE, "\"chunked\"")], Some(TransferEncoding)),
        (&[(TE, "")], Some(TransferEncoding)),
    ];
    for (headers, refusal) in cases {
        assert_eq!(Head::with(headers).refusal(), *refusal, "{headers:?}");
    }
    let chunked = Head { version: Version::HTTP_10, ..Head::with(&[(TE, "chunked")]) };
    assert_eq!(chunked.refusal(), Some(TransferEncoding));
    assert_eq!(Head::with(&[(TE, "chunked")]).http2().refusal(), Some(TransferEncoding));
    assert_eq!(Head::with(&[(CL, "5"), (CL, "5")]).http2().refusal(), Some(ContentLength));
}

#[test]
fn headers_of_the_connection_are_not_passed_on() {
    let request = Head::with(&[
        ("connection", "close, X-Drop,, keep-alive , TE"),
        ("connection", "upgrade, http2-settings"),
        ("x-drop", "1"),
        ("x-keep", "1"),
        ("keep-alive", "timeout=5"),
        ("proxy-connection", "keep-alive"),
        ("proxy-authorization", "Basic eDp5"),
        ("upgrade", "h2c"),
        ("http2-settings", "AAMAAABkAAQAAP__"),
        ("te", "trailers"),
        ("transfer-encoding", "chunked"),
    ])
    .accepted();
    let mut names: Vec<_> = request.headers().keys().map(http::HeaderName::as_str).collect();
    names.sort_unstable();
    assert_eq!(names, ["te", "x-keep"]);
    for te in ["trailers, deflate;q=0.5", "gzip", ""] {
        assert!(!Head::with(&[("te", te)]).accepted().headers().contains_key("te"), "{te}");
    }
}

#[test]
fn a_connection_may_not_name_what_is_not_its_own() {
    for name in [
        "Host",
        "Cookie",
        "Authorization",
        "Content-Length",
        "Transfer-Encoding",
        "X-Forwarded-For",
        "x-forwarded-host",
        "X-Forwarded-Proto",
        "Forwarded",
        "X-Real-IP",
        "X-Pomerium-Jwt-Assertion",
        "x-pomerium-claim-email",
        "X.Pomerium.Claim.Email",
        "X_Pomerium_Claim_Email",
        "X-Request-Id",
        "X-Envoy-Original-Path",
        "X_Other",
    ] {
        for value in [name.to_owned(), format!("close, {name}"), format!("{} ,close", name.to_uppercase())] {
            assert_eq!(Head::with(&[("connection", &value)]).refusal(), Some(BadRequest::Nominated), "{value}");
            let later = Head::with(&[("connection", "close"), ("connection", &value)]);
            assert_eq!(later.refusal(), Some(BadRequest::Nominated), "{value}");
        }
    }
    for value in ["a b", "close; x", "(x)", "\"x\""] {
        assert_eq!(Head::with(&[("connection", value)]).refusal(), Some(BadRequest::Connection), "{value}");
    }
}

#[test]
fn http2_has_no_headers_of_a_connection() {
    for header in [
        ("connection", "close"),
        ("keep-alive", "timeout=5"),
        ("proxy-connection", "close"),
        ("upgrade", "websocket"),
        ("te", "gzip"),
        ("te", "trailers, gzip"),
    ] {
        assert_eq!(Head::with(&[header]).http2().refusal(), Some(BadRequest::ConnectionHeader), "{header:?}");
    }
    assert!(Head::with(&[("te", "trailers")]).http2().accepted().headers().contains_key("te"));
    for value in [" x", "x ", "\tx", "x\t"] {
        assert_eq!(Head::with(&[("x", value)]).http2().refusal(), Some(BadRequest::HeaderValue), "{value:?}");
    }
}

#[test]
fn header_names_have_no_underscore_and_values_no_control_bytes() {
    for name in ["x_a", "_", "Content_Length", "X_Forwarded_For", "x-pomerium_jwt-assertion"] {
        assert_eq!(Head::with(&[(name, "1")]).refusal(), Some(BadRequest::HeaderName), "{name}");
    }
    for value in ["a\rb", "a\nb", "a\u{0}b", "a\u{1b}b", "a\u{7f}b"] {
        assert!(Head::with(&[("x", value)]).parts().is_none(), "{value:?} reaches us now");
    }
    // the HTTP/1.1 server makes values without the check that `HeaderValue::from_bytes` does
    for byte in (0..=0x1f).filter(|byte| *byte != b'\t').chain([0x7f]) {
        assert!(http::HeaderValue::from_bytes(&[b'a', byte]).is_err());
    }
    assert!(Head::with(&[("x", "a\tb"), ("y", "\u{e9}")]).refusal().is_none());
}

#[test]
fn heads_are_bounded() {
    let many = vec![("x", "1"); REQUEST_HEADERS - 1];
    assert!(Head::with(&many).refusal().is_none());
    let too_many = vec![("x", "1"); REQUEST_HEADERS];
    assert_eq!(Head::with(&too_many).refusal(), Some(BadRequest::TooManyHeaders));
    let large = "x".repeat(REQUEST_HEAD_BYTES);
    assert_eq!(Head::with(&[("x", &large)]).refusal(), Some(BadRequest::HeadersTooLarge));
    for refusal in [BadRequest::TooManyHeaders, BadRequest::HeadersTooLarge] {
        assert_eq!(refusal.status(), StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
    }
}

#[test]
fn a_websocket_is_asked_for_in_one_way_only() {
    const KEY: (&str, &str) = ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==");
    const VERSION: (&str, &str) = ("sec-websocket-version", "13");
    const UPGRADE: (&str, &str) = ("upgrade", "WebSocket");
    const CONNECTION: (&str, &str) = ("connection", "keep-alive, Upgrade");
    let good = [UPGRADE, CONNECTION, KEY, VERSION];
    assert!(Head::with(&good).accepted().is_websocket());
    assert!(!Head { method: "POST", ..Head::with(&good) }.accepted().is_websocket());
    assert!(!Head { version: Version::HTTP_10, ..Head::with(&good) }.accepted().is_websocket());
    for without in 0..good.len() {
        let mut headers = good.to_vec();
        headers.remove(without);
        assert!(!Head::with(&headers).accepted().is_websocket(), "{headers:?}");
    }
    for (index, bad) in [
        (0, ("upgrade", "h2c")),
        (0, ("upgrade", "websocket, h2c")),
        (1, ("connection", "close")),
        (2, ("sec-websocket-key", "c2hvcnQ=")),
        (2, ("sec-websocket-key", "not base64 at all =====")),
        (3, ("sec-websocket-version", "12")),
        (3, ("sec-websocket-version", "13, 8")),
    ] {
        let mut headers = good.to_vec();
        headers[index] = bad;
        assert!(!Head::with(&headers).accepted().is_websocket(), "{bad:?}");
    }
    for extra in [KEY, VERSION, UPGRADE, ("content-length", "5"), ("transfer-encoding", "chunked")] {
        let mut headers = good.to_vec();
        headers.push(extra);
        assert!(!Head::with(&headers).accepted().is_websocket(), "{extra:?}");
    }
}

#[test]
fn the_client_is_who_the_connection_says() {
    let head = Head::with(&[("x-forwarded-for", "10.0.0.1"), ("forwarded", "for=10.0.0.1"), ("x-real-ip", "10.0.0.1")]);
    let peer = Peer { address: "::ffff:192.0.2.7".parse::<IpAddr>().unwrap(), https: false, certificate: None };
    let request = Canonical::of(head.parts().unwrap(), peer).ok().unwrap();
    assert_eq!((request.client(), request.https()), ("192.0.2.7".parse().unwrap(), false));
    assert_eq!(Head::default().accepted().client(), PEER.address);
}

fn connect<'a>(target: &'a str, headers: &[(&'a str, &'a str)]) -> Head<'a> {
    Head { method: "CONNECT", target, headers: headers.to_vec(), ..Head::default() }
}

#[test]
fn a_connect_names_a_host_and_a_port_and_says_the_same_twice() {
    let good = connect("DB.test.:5432", &[("host", "db.test:5432"), ("connection", "keep-alive")]).accepted();
    assert_eq!((good.tunnel(), good.path(), good.is_websocket()), (Some(("db.test", 5432)), "/", false));
    assert_eq!(connect("db.test:443", &[("host", "db.test")]).accepted().tunnel(), Some(("db.test", 443)));
    assert_eq!(connect("[::1]:22", &[("host", "[::1]:22")]).accepted().tunnel(), Some(("[::1]", 22)));
    // over HTTP/2 `:authority` is enough
    assert_eq!(connect("db.test:22", &[]).http2().accepted().tunnel(), Some(("db.test", 22)));
    assert_eq!(Head::default().accepted().tunnel(), None);
    use BadRequest::{ConnectionHeader, HostMismatch, ManyHosts, NoHost, Target, Version as OtherVersion};
    for (head, refusal) in [
        (connect("db.test:22", &[]), NoHost),
        (connect("db.test:22", &[("host", "db.test")]), HostMismatch),
        (connect("db.test:22", &[("host", "db.test:23")]), HostMismatch),
        (connect("db.test:22", &[("host", "app.test:22")]), HostMismatch),
        (connect("db.test:22", &[("host", "db.test:22"), ("host", "db.test:22")]), ManyHosts),
        (connect("db.test:22", &[("host", "app.test:22")]).http2(), HostMismatch),
        (connect("db.test:22", &[("connection", "close")]).http2(), ConnectionHeader),
        (connect("db.test", &[("host", "db.test")]), Target),
        (connect("/", &[("host", "db.test")]), Target),
        (connect("/db.test:22", &[("host", "db.test:22")]), Target),
        (connect("https://db.test:22/", &[("host", "db.test:22")]), Target),
        (connect("*", &[("host", "db.test")]), Target),
        (Head { version: Version::HTTP_10, ..connect("db.test:22", &[("host", "db.test:22")]) }, OtherVersion),
    ] {
        assert_eq!(head.refusal(), Some(refusal), "{} {:?}", head.target, head.headers);
    }
    for bad in ["user@db.test:22", "db.test:0", "db.test:65536", "a,b:22"] {
        let parts = connect(bad, &[("host", "db.test:22")]).parts();
        assert!(parts.is_none_or(|head| Canonical::of(head, PEER).is_err()), "{bad}");
    }
}

#[test]
fn a_stream_that_is_to_be_a_websocket_is_the_get_it_stands_for() {
    let of = |head: &Head<'_>| {
        let mut parts = head.parts().unwrap();
        parts.extensions.insert(WebSocketStream);
        Canonical::of(parts, PEER)
    };
    let version = ("sec-websocket-version", "13");
    let key = ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==");
    let request = of(&connect("https://app.test/chat?x", &[version, key]).http2()).ok().unwrap();
    assert_eq!((request.method().as_str(), request.path(), request.query()), ("GET", "/chat", Some("x")));
    assert!(request.is_websocket() && request.tunnel().is_none());
    assert!(!request.headers().contains_key("sec-websocket-key"));
    for head in [
        connect("https://app.test/", &[]).http2(),
        connect("https://app.test/", &[("sec-websocket-version", "8")]).http2(),
        connect("https://app.test/", &[version, version]).http2(),
        connect("https://app.test/", &[version, ("host", "other.test")]).http2(),
        connect("app.test:443", &[version]).http2(),
        connect("https://app.test/", &[version, ("host", "app.test")]),
        Head { method: "GET", ..connect("https://app.test/", &[version]).http2() },
    ] {
        assert!(of(&head).is_err(), "{} {:?}", head.target, head.headers);
    }
}
