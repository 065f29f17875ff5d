//! The ground the scenarios stand on holds: the real provider, the real browser and the scripted upstream do what they
//! are relied on for, with no gateway between.

use std::time::Duration;

use anyhow::{Context, Result};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use bytes::Bytes;
use http::Request;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use portcullis_harness::certificate::Authority;
use portcullis_harness::chromium;
use portcullis_harness::client::{Answer, Visitor};
use portcullis_harness::form::Form;
use portcullis_harness::gateway::{Gateway, files_with};
use portcullis_harness::oidc::OidcProvider;
use portcullis_harness::pattern::pattern_sha256;
use portcullis_harness::process::eventually;
use portcullis_harness::raw_upstream::{After, RawUpstream};
use portcullis_harness::sign_in::{credentials, submit, to_the_form};
use portcullis_harness::upstream::Upstream;
use portcullis_harness::websocket::WebSocket;
use serde_json::{Value, json};
use url::Url;

const AUTHENTICATE: &str = "https://authenticate.localhost";
/// RFC 7636, appendix B.
const VERIFIER: &str = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
const CHALLENGE: &str = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM";

fn visitor() -> Result<Visitor> {
    Visitor::new(&Authority::new()?.trust()?)
}

fn authorization(provider: &OidcProvider) -> Result<String> {
    let parameters = [
        ("client_id", OidcProvider::CLIENT_ID),
        ("response_type", "code"),
        ("scope", "openid profile email offline_access"),
        ("redirect_uri", "https://authenticate.localhost/oauth2/callback"),
        ("state", "the-state"),
        ("nonce", "the-nonce"),
        ("code_challenge", CHALLENGE),
        ("code_challenge_method", "S256"),
    ];
    Ok(Url::parse_with_params(&format!("{}/auth", provider.issuer()), parameters)?.into())
}

async fn callback(visitor: &Visitor, provider: &OidcProvider, who: &str) -> Result<Url> {
    let (page, form) = to_the_form(visitor, &authorization(provider)?).await?;
    let mut answer = submit(visitor, &page, &credentials(form, who, who)?).await?;
    loop {
        let next = answer.redirect()?.with_context(|| format!("no redirect: {}", answer.text()))?;
        if next.as_str().starts_with(AUTHENTICATE) {
            return Ok(next);
        }
        answer = visitor.get(next.as_str()).await?;
    }
}

async fn token(visitor: &Visitor, provider: &OidcProvider, fields: &[(&str, &str)]) -> Result<Answer> {
    let escape = |text: &str| url::form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
    let pair = format!("{}:{}", escape(OidcProvider::CLIENT_ID), escape(OidcProvider::CLIENT_SECRET));
    let body: String = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish();
    let request = Request::post(format!("{}/token", provider.issuer()))
        .header(AUTHORIZATION, format!("Basic {}", STANDARD.encode(pair)))
        .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
        .body(Bytes::from(body))?;
    visitor.clone().accepting("application/json").send(request).await
}

#[tokio::test]
async fn the_real_provider_grants_a_code_for_a_password_and_tokens_for_the_code() -> Result<()> {
    let provider = OidcProvider::start(AUTHENTICATE).await?;
    let visitor = visitor()?;
    let back = callback(&visitor, &provider, "alice").await?;
    let parameter = |name: &str| back.query_pairs().find(|(key, _)| key == name).map(|(_, value)| value.into_owned());
    assert_eq!(parameter("state").as_deref(), Some("the-state"));
    assert_eq!(parameter("iss").as_deref(), Some(provider.issuer()), "RFC 9207");
    let code = parameter("code").context("no code")?;

    let exchange = [
        ("grant_type", "authorization_code"),
        ("code", code.as_str()),
        ("redirect_uri", "https://authenticate.localhost/oauth2/callback"),
        ("code_verifier", VERIFIER),
    ];
    let tokens = token(&visitor, &provider, &exchange).await?.json()?;
    let id_token = tokens["id_token"].as_str().context("no ID token")?.to_owned();
    let payload = id_token.split('.').nth(1).context("no payload")?;
    let claims: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload)?)?;
    assert_eq!(claims["sub"], "alice-at-the-real-provider");
    assert_eq!(claims["nonce"], "the-nonce");
    assert_eq!(claims["email"], "alice@example.com");
    assert_eq!(claims["groups"], json!(["admins", "engineering"]));
    // the provider tells of both on its own output, which comes by another way than the answer
    eventually("the request and the token that the provider tells of", Duration::from_secs(10), || async {
        let told = provider.requests().contains(&"POST /token".to_owned()) && provider.issued().contains(&id_token);
        Ok(told.then_some(()))
    })
    .await?;

    let refresh = tokens["refresh_token"].as_str().context("no refresh token")?;
    let again = [("grant_type", "refresh_token"), ("refresh_token", refresh)];
    let renewed = token(&visitor, &provider, &again).await?.json()?;
    assert!(renewed["refresh_token"].is_string() && renewed["refresh_token"] != tokens["refresh_token"], "rotated");
    let reused = token(&visitor, &provider, &again).await?.json()?;
    assert_eq!(reused["error"], "invalid_grant");
    Ok(())
}

#[tokio::test]
async fn the_real_provider_refuses_a_wrong_password_and_a_request_without_pkce() -> Result<()> {
    let provider = OidcProvider::start(AUTHENTICATE).await?;
    let visitor = visitor()?;
    let (page, form) = to_the_form(&visitor, &authorization(&provider)?).await?;
    let refused = submit(&visitor, &page, &credentials(form, "alice", "bob")?).await?;
    assert_eq!(refused.status, 401);
    assert!(refused.text().contains("Wrong name or password"));

    let mut url = Url::parse(&authorization(&provider)?)?;
    let without: Vec<(String, String)> =
        url.query_pairs().into_owned().filter(|(name, _)| !name.starts_with("code_challenge")).collect();
    url.query_pairs_mut().clear().extend_pairs(without);
    let back = visitor.get(url.as_str()).await?.redirect()?.context("no redirect")?;
    assert!(back.query_pairs().any(|(name, value)| name == "error" && value == "invalid_request"), "{back}");
    Ok(())
}

#[tokio::test]
async fn the_real_provider_signs_out_and_sends_the_browser_back() -> Result<()> {
    let provider = OidcProvider::start(AUTHENTICATE).await?;
    let visitor = visitor()?;
    callback(&visitor, &provider, "bob").await?;
    let end = Url::parse_with_params(
        &format!("{}/session/end", provider.issuer()),
        [
            ("client_id", OidcProvider::CLIENT_ID),
            ("post_logout_redirect_uri", "https://authenticate.localhost/.pomerium/signed_out"),
        ],
    )?;
    let page = visitor.get(end.as_str()).await?;
    let form = Form::all(&page.text()).pop().context("no form")?;
    let answer = submit(&visitor, &page, &form).await?;
    let back = answer.redirect()?.context("no redirect")?;
    assert!(back.as_str().starts_with("https://authenticate.localhost/.pomerium/signed_out"), "{back}");
    // the next sign-in asks for the password again
    to_the_form(&visitor, &authorization(&provider)?).await?;
    Ok(())
}

#[tokio::test]
async fn the_browser_shows_the_real_providers_page() -> Result<()> {
    let provider = OidcProvider::start(AUTHENTICATE).await?;
    for javascript in [true, false] {
        let options = json!({ "url": authorization(&provider)?, "javaScript": javascript });
        let seen = chromium::visit("look", &options).await?;
        assert_eq!(seen["title"], "Sign in");
        assert_eq!(seen["barriers"], json!([]));
        assert_eq!(seen["complaints"], json!([]));
    }
    Ok(())
}

#[tokio::test]
async fn the_browser_can_be_led_to_any_port() -> Result<()> {
    let upstream = Upstream::start()?;
    // no TLS there: that the connection is refused for this reason, and not for want of a listener, shows the way
    let gate = upstream.url().replace("http://", "");
    let options = json!({ "url": "https://app.localhost/", "gate": gate });
    let error = chromium::visit("look", &options).await.err().context("TLS where there is none")?;
    assert!(format!("{error:#}").contains("ERR_SSL_PROTOCOL_ERROR"), "{error:#}");
    Ok(())
}

#[tokio::test]
async fn the_upstream_shows_what_it_received() -> Result<()> {
    let upstream = Upstream::start()?;
    let visitor = visitor()?;
    let request = Request::post(format!("{}/a%20b?c=d", upstream.url())).header("x-one", "1").body("body".into())?;
    let seen = visitor.send(request).await?.json()?;
    assert_eq!(seen["method"], "POST");
    assert_eq!(seen["target"], "/a%20b?c=d");
    assert_eq!(seen["body"], STANDARD.encode("body"));
    assert_eq!(upstream.last()?.header("x-one"), Some("1"));
    Ok(())
}

#[tokio::test]
async fn the_upstream_streams_both_ways() -> Result<()> {
    let upstream = Upstream::start()?;
    let visitor = visitor()?;
    let mut events = visitor.open(get(&upstream, "/sse")?).await?;
    assert_eq!(events.event().await?.as_deref(), Some("hello"));
    upstream.emit("one");
    upstream.emit("two");
    assert_eq!(events.event().await?.as_deref(), Some("one"));
    assert_eq!(events.event().await?.as_deref(), Some("two"));
    upstream.has_open(1).await?;
    drop(events);
    upstream.has_open(0).await?;

    let bytes = 300_001;
    let download = visitor.get(&format!("{}/download?bytes={bytes}", upstream.url())).await?;
    assert_eq!(download.body.len(), 300_001);
    let request = Request::post(format!("{}/upload", upstream.url())).body(download.body)?;
    let uploaded = visitor.send(request).await?.json()?;
    assert_eq!(uploaded["sha256"], pattern_sha256(bytes));

    let request = Request::get(format!("{}/trailers", upstream.url())).header("te", "trailers").body(Bytes::new())?;
    let trailers = visitor.send(request).await?;
    assert_eq!(trailers.trailers.context("no trailers")?["x-sum"], "42");
    Ok(())
}

#[tokio::test]
async fn the_upstream_echoes_a_web_socket() -> Result<()> {
    let upstream = Upstream::start()?;
    let visitor = visitor()?;
    let Ok(mut socket) = WebSocket::open(&visitor, &format!("{}/ws", upstream.url())).await? else {
        anyhow::bail!("no handshake");
    };
    socket.say("hello").await?;
    assert_eq!(socket.hear().await?, "hello");
    drop(upstream);
    socket.closed(Duration::from_secs(5)).await
}

#[tokio::test]
async fn the_upstream_misbehaves_as_it_is_told() -> Result<()> {
    let upstream = Upstream::start()?;
    let visitor = visitor()?;
    assert!(visitor.get(&format!("{}/drop", upstream.url())).await.is_err());
    assert!(visitor.get(&format!("{}/half", upstream.url())).await.is_err());
    let raw = RawUpstream::start()?;
    raw.answer(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhiHTTP/1.1 200 OK\r\n\r\n", After::Close);
    let answer = visitor.raw(&raw.url(), b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await?;
    assert!(answer.closed && answer.text().contains("hiHTTP/1.1"), "{answer:?}");
    assert_eq!(answer.statuses(), [200, 200]);
    assert!(raw.received().starts_with("GET / HTTP/1.1"));
    Ok(())
}

/// A program that listens, prints and is ready as the gateway does: what the harness reads is read right.
const STAND_IN: &str = r#"#!/usr/bin/env node
const http = require('node:http');
const fs = require('node:fs');
const state = process.env.STATE_DIRECTORY;
fs.mkdirSync(state, { recursive: true });
fs.appendFileSync(`${state}/starts`, 'x');
let asked = 0;
const health = http.createServer((request, response) => {
  asked += 1;
  response.writeHead(asked > 2 ? 200 : 503, { 'content-type': 'application/json' });
  response.end(JSON.stringify({ why: 'catching up', starts: fs.readFileSync(`${state}/starts`, 'utf8').length }));
});
const gate = http.createServer();
health.listen(0, '127.0.0.1', () => gate.listen(0, '127.0.0.1', () => {
  console.error(`2026-01-01T00:00:00Z  INFO portcullis::node: health on http://127.0.0.1:${health.address().port}`);
  console.error(`2026-01-01T00:00:00Z  INFO portcullis::node: listening on https://127.0.0.1:${gate.address().port}`);
  console.log(`  https://app.localhost:${gate.address().port}/   whoever signed in`);
  console.log(JSON.stringify({ message: 'http-request', variables: Object.keys(process.env).sort() }));
}));
process.on('SIGINT', () => process.exit(7));
"#;

#[tokio::test]
async fn a_gateway_is_found_by_what_it_prints_killed_and_started_again() -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir()?;
    let program = dir.path().join("stand-in");
    std::fs::write(&program, STAND_IN)?;
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755))?;
    let launcher = Gateway::binary(&program);
    let mut gateway = launcher.begin("address: 127.0.0.1:0\n").await?;
    assert_eq!(gateway.unready(Duration::from_secs(5)).await?, "catching up");
    gateway.ready().await?;
    let address = gateway.address().await?;
    assert_eq!(
        gateway.printed_url("app.localhost").await?.as_str(),
        format!("https://app.localhost:{}/", address.port())
    );
    let line = gateway.request_log("http-request").pop().context("no line")?;
    assert_eq!(line["variables"], json!(["HOME", "PATH", "STATE_DIRECTORY"]), "nothing of the test's own environment");

    gateway.kill_9()?;
    gateway.restart().await?;
    assert_eq!(gateway.health("/readyz").await?.1["starts"], 2, "in the same home");
    assert_eq!(files_with(gateway.home(), "xx")?, [gateway.state_dir().join("starts")]);
    gateway.interrupt()?;
    assert_eq!(gateway.wait_exit(Duration::from_secs(5)).await?.code(), Some(7));
    assert!(gateway.interrupt().is_err(), "it has ended");
    assert!(launcher.begin("").await.is_ok());
    Ok(())
}

fn get(upstream: &Upstream, path: &str) -> Result<Request<http_body_util::Full<Bytes>>> {
    Ok(Request::get(format!("{}{path}", upstream.url())).body(http_body_util::Full::default())?)
}
