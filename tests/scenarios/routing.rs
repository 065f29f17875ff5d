//! Where requests go: hosts and wildcards, matchers, rewrites, redirects, answers without an upstream, and headers.

use std::time::Duration;

use anyhow::{Context, Result};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::{Request, StatusCode};
use portcullis_harness::client::{Visitor, request};
use portcullis_harness::cookies::Jar;
use portcullis_harness::gateway::Gateway;
use portcullis_harness::process::eventually;
use portcullis_harness::raw_upstream::{After, RawUpstream};
use portcullis_harness::sign_in::{sign_in, sign_out};
use portcullis_harness::upstream::Recorded;
use portcullis_harness::world::{Configuration, PUBLIC, RAW, World};
use serde_json::Value;

const BINARY: &str = env!("CARGO_BIN_EXE_portcullis");
/// However slow the machine is.
const LONG: Duration = Duration::from_secs(60);
const PUBLICLY: &str = "allow_public_unauthenticated_access: true\n";

/// A world with these routes besides the usual ones.
async fn with(routes: impl FnOnce(&World, &mut Configuration)) -> Result<(World, Gateway, Visitor)> {
    let world = World::new(BINARY).await?;
    let mut config = world.config();
    routes(&world, &mut config);
    let gateway = world.launcher.run(&config.text()).await?;
    let visitor = world.visitor(&gateway).await?;
    Ok((world, gateway, visitor))
}

/// A world whose host `RAW` has one public route with these keys, to the usual upstream.
async fn raw(keys: &str) -> Result<(World, Gateway, Visitor)> {
    with(|world, config| drop(config.route(RAW, &world.upstream.url(), &format!("{PUBLICLY}{keys}")).clone())).await
}

/// What an assertion says.
fn claims(received: &Recorded) -> Result<Value> {
    let token = received.header("x-pomerium-jwt-assertion").context("no assertion")?;
    said(token)
}

fn said(token: &str) -> Result<Value> {
    let payload = token.split('.').nth(1).context("not a token")?;
    Ok(serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload)?)?)
}

async fn line(gateway: &Gateway, message: &str, path: &str) -> Result<Value> {
    let look = async || Ok(gateway.request_log(message).into_iter().find(|line| line["path"] == path));
    eventually("a line of the request log", LONG, look).await
}

#[tokio::test]
async fn every_host_of_a_wildcard_is_a_host_of_its_own() -> Result<()> {
    let (world, _gateway, visitor) = with(|world, config| {
        let to = world.upstream.url();
        config.route(
            "'https://*.wild.localhost'",
            &to,
            "allow_any_authenticated_user: true\ncors_allow_preflight: true",
        );
        config.route("https://own.wild.localhost", &to, &format!("{PUBLICLY}prefix: /own/"));
    })
    .await?;
    for host in ["https://a.wild.localhost", "https://b.wild.localhost"] {
        let arrived = sign_in(&visitor, &format!("{host}/path?q"), "alice").await?;
        assert_eq!((arrived.status, arrived.url.as_str()), (StatusCode::OK, format!("{host}/path?q").as_str()));
        let name = &host["https://".len()..];
        let claims = claims(&world.upstream.last()?)?;
        assert_eq!((claims["aud"].as_str(), claims["iss"].as_str()), (Some(name), Some(name)));
        let stranger = visitor.holding(Jar::default());
        let keys = stranger.get(&format!("{host}/.well-known/pomerium/jwks.json")).await?;
        assert_eq!(keys.json()?["keys"][0]["alg"], "ES256");
        let preflight = Request::options(format!("{host}/x"))
            .header("origin", "https://elsewhere.example")
            .header("access-control-request-method", "GET")
            .body(Bytes::new())?;
        assert_eq!(stranger.send(preflight).await?.status, StatusCode::OK);
    }
    // a host of its own has nothing of the wildcard, and a session of one host is none of another
    assert_eq!(visitor.get("https://own.wild.localhost/own/x").await?.status, StatusCode::OK);
    assert_eq!(visitor.get("https://own.wild.localhost/").await?.status, StatusCode::NOT_FOUND);
    assert_eq!(visitor.get("https://c.wild.localhost/").await?.status, StatusCode::FOUND);
    sign_out(&visitor, "https://a.wild.localhost").await?;
    for host in ["https://a.wild.localhost", "https://b.wild.localhost"] {
        assert_eq!(visitor.get(host).await?.status, StatusCode::FOUND);
    }
    // one label, and no host that only ends alike
    for host in ["x.a.wild.localhost", "wild.localhost", "evilwild.localhost"] {
        let request = format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        let answer = visitor.raw("https://a.wild.localhost/", request.as_bytes()).await?;
        assert!(answer.bytes.starts_with(b"HTTP/1.1 404 "), "{host}");
    }
    Ok(())
}

#[tokio::test]
async fn expressions_prefixes_and_paths_are_tried_in_one_order() -> Result<()> {
    let (_world, _gateway, visitor) = with(|_, config| {
        for (matcher, body) in [
            ("path: /items/7", "exact"),
            ("regex: '/items/[0-9]+'", "number"),
            ("regex: '/items/.*'\nregex_priority_order: -1", "late"),
            ("prefix: /items/", "prefix"),
            ("prefix: /items/first/\nregex_priority_order: 5", "first"),
        ] {
            let keys = format!("{PUBLICLY}{matcher}\nresponse: {{status: 200, body: {body}}}");
            config.route_without_upstream(RAW, &keys);
        }
    })
    .await?;
    for (path, body) in [
        ("/items/7", "exact"),
        ("/items/8", "number"),
        ("/items/%38", "number"),
        ("/x/../items/8", "number"),
        ("/items/8/", "prefix"),
        ("/items/x", "prefix"),
        ("/items/first/1", "first"),
    ] {
        assert_eq!(visitor.get(&format!("{RAW}{path}")).await?.text(), body, "{path}");
    }
    assert_eq!(visitor.get(&format!("{RAW}/items")).await?.status, StatusCode::NOT_FOUND);
    // where expressions decide, a path that could be read in two ways is refused
    for path in ["/items/8;x", "/items/%5c8", "/items/..;/8"] {
        assert_eq!(visitor.get(&format!("{RAW}{path}")).await?.status, StatusCode::BAD_REQUEST, "{path}");
    }
    Ok(())
}

#[tokio::test]
async fn an_expression_rewrites_the_path_and_leaves_no_ambiguous_one() -> Result<()> {
    let keys = "regex_rewrite_pattern: '^/app/([^/]+)/(.*)$'\nregex_rewrite_substitution: '/\\2/of/\\1'";
    let (world, gateway, visitor) = raw(keys).await?;
    assert_eq!(visitor.get(&format!("{RAW}/app/mail/inbox?q=1")).await?.status, StatusCode::OK);
    assert_eq!(world.upstream.last()?.target, "/inbox/of/mail?q=1");
    assert_eq!(visitor.get(&format!("{RAW}/other")).await?.status, StatusCode::OK);
    assert_eq!(world.upstream.last()?.target, "/other");
    // `//of/mail` would come out
    let before = world.upstream.requests().len();
    assert_eq!(visitor.get(&format!("{RAW}/app/mail/")).await?.status, StatusCode::BAD_REQUEST);
    assert_eq!(world.upstream.requests().len(), before);
    assert_eq!(line(&gateway, "http-request", "/app/mail/").await?["response-code-details"], "ambiguous_path");
    Ok(())
}

#[tokio::test]
async fn a_path_of_the_upstream_comes_before_what_a_rewrite_makes() -> Result<()> {
    let (world, _gateway, visitor) = with(|world, config| {
        let to = format!("{}/base/", world.upstream.url());
        config.route(RAW, &to, &format!("{PUBLICLY}prefix: /a/\nprefix_rewrite: /b/"));
        config.route(RAW, &to, &format!("{PUBLICLY}regex: '/r/.*'\nprefix_rewrite: /whole"));
        config.route(RAW, &to, PUBLICLY);
    })
    .await?;
    for (path, target) in [("/a/x?y", "/base/b/x?y"), ("/r/x", "/base/whole"), ("/x", "/base/x")] {
        assert_eq!(visitor.get(&format!("{RAW}{path}")).await?.status, StatusCode::OK, "{path}");
        assert_eq!(world.upstream.last()?.target, target);
    }
    Ok(())
}

#[tokio::test]
async fn the_host_is_told_in_each_of_its_ways() -> Result<()> {
    let modes = [
        ("/default/", ""),
        ("/preserve/", "preserve_host_header: true"),
        ("/fixed/", "host_rewrite: App.Internal:8080"),
        ("/header/", "host_rewrite_header: X-Tenant-Host\nset_request_headers: {X-Other: y}"),
        (
            "/path/",
            "host_path_regex_rewrite_pattern: '^/path/([^/]*)/.*$'\nhost_path_regex_rewrite_substitution: '\\1.internal'",
        ),
        ("/silent/", "remove_request_headers: [X-Forwarded-Host]"),
    ];
    let (world, _gateway, visitor) = with(|world, config| {
        for (prefix, keys) in modes {
            config.route(RAW, &world.upstream.url(), &format!("{PUBLICLY}prefix: {prefix}\n{keys}"));
        }
    })
    .await?;
    let own = world.upstream.url()["http://".len()..].to_owned();
    let raw = "raw.localhost";
    for (path, tenant, host, forwarded) in [
        ("/default/", None, own.as_str(), Some(raw)),
        ("/preserve/", None, raw, None),
        ("/fixed/", None, "App.Internal:8080", Some(raw)),
        ("/header/", Some("one.internal:81"), "one.internal:81", Some(raw)),
        ("/header/", None, raw, Some(raw)),
        ("/path/two/x", None, "two.internal", Some(raw)),
        ("/silent/", None, own.as_str(), None),
    ] {
        let mut asking = request("GET", &format!("{RAW}{path}"))?;
        for (name, value) in
            tenant.iter().map(|tenant| ("x-tenant-host", *tenant)).chain([("x-forwarded-host", "evil")])
        {
            asking.headers_mut().insert(name, value.parse()?);
        }
        assert_eq!(visitor.send(asking).await?.status, StatusCode::OK, "{path}");
        let received = world.upstream.last()?;
        assert_eq!(received.all("host"), [host], "{path}");
        assert_eq!(received.header("x-forwarded-host"), forwarded, "{path}");
    }
    let before = world.upstream.requests().len();
    for (path, tenant) in
        [("/header/", Some("a b")), ("/header/", Some("a/b")), ("/path/", None), ("/path/a_%20/x", None)]
    {
        let mut asking = request("GET", &format!("{RAW}{path}"))?;
        if let Some(tenant) = tenant {
            asking.headers_mut().insert("x-tenant-host", tenant.parse()?);
        }
        assert_eq!(visitor.send(asking).await?.status, StatusCode::BAD_REQUEST, "{path}");
    }
    assert_eq!(world.upstream.requests().len(), before);
    Ok(())
}

#[tokio::test]
async fn a_redirect_sends_elsewhere_only_whom_policy_lets_in() -> Result<()> {
    let own = "https://raw.localhost";
    let cases = [
        ("host_redirect: www.example.com", "a/x?y=z", 301, "https://www.example.com/0/a/x?y=z".to_owned()),
        ("path_redirect: /new, response_code: 302", "a/x?y=z", 302, format!("{own}/new?y=z")),
        ("path_redirect: '/new?own=1', response_code: 303", "a?y=z", 303, format!("{own}/new?own=1")),
        ("prefix_rewrite: /b/, response_code: 307", "a/x?y=z", 307, format!("{own}/b/a/x?y=z")),
        ("strip_query: true, response_code: 308", "a/x?y=z", 308, format!("{own}/4/a/x")),
        ("port_redirect: 8443", "", 301, format!("{own}:8443/5/")),
        ("scheme_redirect: http, port_redirect: 80", "", 301, "http://raw.localhost/6/".to_owned()),
        ("https_redirect: true", "?pomerium_session=secret&b", 301, format!("{own}/7/?b")),
    ];
    let (world, gateway, visitor) = with(|_, config| {
        for (number, (redirect, ..)) in cases.iter().enumerate() {
            config.route_without_upstream(RAW, &format!("{PUBLICLY}prefix: /{number}/\nredirect: {{{redirect}}}"));
        }
        config.route_without_upstream(RAW, "allowed_users: [bob@example.com]\nredirect: {host_redirect: example.com}");
    })
    .await?;
    for (number, (redirect, path, status, location)) in cases.iter().enumerate() {
        for visitor in [visitor.clone(), visitor.clone().over_h2()] {
            let answer = visitor.get(&format!("{RAW}/{number}/{path}")).await?;
            assert_eq!((answer.status.as_u16(), answer.header("location")), (*status, location.as_str()), "{redirect}");
            assert_eq!((answer.header("cache-control"), answer.header("x-frame-options")), ("no-store", "SAMEORIGIN"));
        }
    }
    assert_eq!(line(&gateway, "http-request", "/5/").await?["response-code-details"], "redirect");
    let stranger = visitor.get(&format!("{RAW}/guarded")).await?;
    assert!(stranger.header("location").contains("/.pomerium/sign_in"), "{stranger:?}");
    assert_eq!(sign_in(&visitor, &format!("{RAW}/guarded"), "alice").await?.status, StatusCode::FORBIDDEN);
    assert!(world.upstream.requests().is_empty());
    Ok(())
}

#[tokio::test]
async fn an_answer_without_an_upstream_is_given_only_to_whom_policy_lets_in() -> Result<()> {
    let (world, gateway, visitor) = with(|_, config| {
        let teapot = format!("{PUBLICLY}prefix: /tea\nresponse: {{status: 418, body: 'short and stout'}}\n");
        config.route_without_upstream(RAW, &format!("{teapot}set_response_headers: {{Cache-Control: max-age=60}}"));
        config.route_without_upstream(RAW, &format!("{PUBLICLY}prefix: /none\nresponse: {{status: 204}}"));
        config.route_without_upstream(
            RAW,
            "allowed_users: [bob@example.com]\nprefix: /bob\nresponse: {status: 200, body: 'for bob'}",
        );
    })
    .await?;
    for visitor in [visitor.clone(), visitor.clone().over_h2()] {
        let answer = visitor.send(Request::post(format!("{RAW}/tea")).body(Bytes::from_static(b"water"))?).await?;
        assert_eq!((answer.status.as_u16(), answer.text().as_str()), (418, "short and stout"));
        assert_eq!(answer.header("content-type"), "text/plain; charset=utf-8");
        assert_eq!((answer.header("cache-control"), answer.header("x-frame-options")), ("max-age=60", "SAMEORIGIN"));
        let none = visitor.get(&format!("{RAW}/none")).await?;
        assert_eq!((none.status, none.text().as_str()), (StatusCode::NO_CONTENT, ""));
    }
    assert_eq!(line(&gateway, "http-request", "/tea").await?["response-code-details"], "direct_response");
    let bob = world.visitor(&gateway).await?;
    assert_eq!(sign_in(&bob, &format!("{RAW}/bob"), "bob").await?.text(), "for bob");
    assert_eq!(sign_in(&visitor, &format!("{RAW}/bob"), "alice").await?.status, StatusCode::FORBIDDEN);
    assert!(world.upstream.requests().is_empty());
    Ok(())
}

#[tokio::test]
async fn headers_are_set_from_what_a_request_and_its_session_say() -> Result<()> {
    let keys = "pass_identity_headers: false\nset_request_headers:\n  Authorization: 'Bearer ${pomerium.jwt}'\n  \
                X-Copy: 'a $$ ${pomerium.request.headers[\"X-Mine\"]}|$pomerium.request.headers.Host'\n  \
                X-Stolen: '${pomerium.request.headers[\"Cookie\"]}${pomerium.request.headers[\"X-Pomerium-Claim-Email\"]}'\n\
                remove_request_headers: [X-Mine]";
    let (world, _gateway, visitor) = with(|world, config| {
        config.route(RAW, &world.upstream.url(), &format!("prefix: /in\nallow_any_authenticated_user: true\n{keys}"));
        config.route(RAW, &world.upstream.url(), &format!("prefix: /out\n{PUBLICLY}{keys}"));
    })
    .await?;
    sign_in(&visitor, &format!("{RAW}/in"), "alice").await?;
    for path in ["/in", "/out"] {
        let asking = Request::get(format!("{RAW}{path}"))
            .header("x-mine", "one")
            .header("x-mine", "two")
            .header("authorization", "Bearer mine")
            .header("x-pomerium-claim-email", "evil@example.com")
            .body(Bytes::new())?;
        assert_eq!(visitor.send(asking).await?.status, StatusCode::OK);
        let received = world.upstream.last()?;
        let [authorization] = received.all("authorization")[..] else { anyhow::bail!("not one Authorization") };
        let token = authorization.strip_prefix("Bearer").context("no scheme")?.trim();
        assert_eq!(said(token)?["email"], "alice@example.com", "{path}");
        assert_eq!(received.header("x-copy"), Some("a $ one,two|raw.localhost"));
        assert_eq!((received.header("x-stolen"), received.header("x-mine")), (Some(""), None));
        assert_eq!(received.header("x-pomerium-jwt-assertion"), None, "only where it was asked for");
        assert_eq!(received.header("x-pomerium-claim-email"), None);
    }
    let stranger = visitor.holding(Jar::default());
    assert_eq!(stranger.get(&format!("{RAW}/out")).await?.status, StatusCode::OK);
    assert_eq!(world.upstream.last()?.header("authorization").map(str::trim), Some("Bearer"));
    Ok(())
}

#[tokio::test]
async fn an_answer_that_names_the_inside_is_made_to_name_the_outside() -> Result<()> {
    let raw = RawUpstream::start()?;
    let (_world, _gateway, visitor) = with(|_, config| {
        let rewrite = "rewrite_response_headers:\n- {header: Location, prefix: 'http://internal:8080/', value: 'https://raw.localhost/'}\n";
        config.route(RAW, &raw.url(), &format!("{PUBLICLY}{rewrite}set_response_headers: {{X-Frame-Options: DENY}}"));
    })
    .await?;
    for (inside, outside) in [
        ("http://internal:8080/a?b", "https://raw.localhost/a?b"),
        ("http://elsewhere/a", "http://elsewhere/a"),
        ("/relative", "/relative"),
    ] {
        let answer = format!("HTTP/1.1 302 Found\r\nLocation: {inside}\r\nContent-Length: 0\r\n\r\n");
        raw.answer(answer.as_bytes(), After::Close);
        let answer = visitor.get(RAW).await?;
        assert_eq!(answer.header("location"), outside);
        assert_eq!(answer.header("x-frame-options"), "DENY", "over the global one");
    }
    Ok(())
}

#[tokio::test]
async fn an_assertion_names_the_groups_that_it_may_and_policy_sees_all() -> Result<()> {
    let (world, gateway, visitor) = with(|world, config| {
        config.set("jwt_groups_filter", "[engineering]");
        let policy = "policy: {allow: {and: [{groups: admins}]}}";
        config.route(RAW, &world.upstream.url(), &format!("prefix: /few\n{policy}"));
        config.route(RAW, &world.upstream.url(), &format!("prefix: /more\njwt_groups_filter: [admins, x]\n{policy}"));
    })
    .await?;
    sign_in(&visitor, &format!("{RAW}/few"), "alice").await?;
    for (path, groups, removed) in
        [("/few", vec!["engineering"], Some(1)), ("/more", vec!["admins", "engineering"], None)]
    {
        for _ in 0..2 {
            assert_eq!(visitor.get(&format!("{RAW}{path}")).await?.status, StatusCode::OK);
            let received = world.upstream.last()?;
            assert_eq!(claims(&received)?["groups"], Value::from(groups.clone()), "{path}");
            assert_eq!(received.header("x-pomerium-claim-groups"), Some(groups.join(",").as_str()));
        }
        let look = async || {
            let mut lines = gateway.request_log("authorize check").into_iter();
            Ok(lines.rfind(|line| line["path"] == path && line["allow"] == true))
        };
        let line = eventually("a decision", LONG, look).await?;
        assert_eq!(line["removed-groups-count"].as_i64(), removed, "{path}");
    }
    Ok(())
}

#[tokio::test]
async fn claims_let_in_and_a_refusal_says_why_where_it_may() -> Result<()> {
    let (world, gateway, visitor) = with(|world, config| {
        let to = world.upstream.url();
        config.route(RAW, &to, "prefix: /a\nallowed_idp_claims: {preferred_username: [alice, x], groups: [sales]}");
        config.route(RAW, &to, "prefix: /open\nallowed_users: [nobody]\nshow_error_details: true");
        config.route(RAW, &to, "prefix: /shut\nallowed_users: [nobody]");
    })
    .await?;
    assert_eq!(sign_in(&visitor, &format!("{RAW}/a"), "alice").await?.status, StatusCode::OK);
    for (who, status) in [("carol", StatusCode::OK), ("bob", StatusCode::FORBIDDEN)] {
        let visitor = world.visitor(&gateway).await?;
        assert_eq!(sign_in(&visitor, &format!("{RAW}/a"), who).await?.status, status, "{who}");
    }
    for accept in ["application/json", "text/html", "text/plain"] {
        let asking = visitor.clone().accepting(accept);
        let (open, shut) = (asking.get(&format!("{RAW}/open")).await?, asking.get(&format!("{RAW}/shut")).await?);
        assert_eq!((open.status, shut.status), (StatusCode::FORBIDDEN, StatusCode::FORBIDDEN));
        assert!(open.text().contains("user-unauthorized"), "{}", open.text());
        assert!(!shut.text().contains("unauthorized"), "{}", shut.text());
    }
    assert_eq!(visitor.get(&format!("{PUBLIC}/")).await?.status, StatusCode::OK);
    Ok(())
}
