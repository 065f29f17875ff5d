//! The life of a session as others see it: listed, left idle, and ended by command or at the provider's word.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{Request, StatusCode};
use portcullis_harness::client::{Answer, Visitor};
use portcullis_harness::gateway::{Gateway, Outcome};
use portcullis_harness::idp::{CLIENT_ID, CLIENT_SECRET, Mischief, Person, ScriptedIdp};
use portcullis_harness::nats::NatsServer;
use portcullis_harness::process::eventually;
use portcullis_harness::sign_in::{sign_in, sign_out};
use portcullis_harness::world::{APP, AUTHENTICATE, World};
use serde_json::{Value, json};
use url::form_urlencoded::Serializer;

const BINARY: &str = env!("CARGO_BIN_EXE_portcullis");
/// What another process appends to the embedded log is found by a look each second.
const SOON: Duration = Duration::from_secs(2);
/// Generous, for what is waited for and not measured.
const LONG: Duration = Duration::from_secs(30);
const BACK_CHANNEL: &str = "/.pomerium/backchannel_logout";

async fn status(visitor: &Visitor) -> Result<StatusCode> {
    Ok(visitor.clone().accepting("application/json").get(APP).await?.status)
}

async fn is_refused(visitor: &Visitor, deadline: Duration) -> Result<()> {
    let look = async || Ok((status(visitor).await? == StatusCode::UNAUTHORIZED).then_some(()));
    eventually("the session is refused", deadline, look).await
}

/// A command that goes well.
async fn sessions(gateway: &Gateway, arguments: &[&str]) -> Result<String> {
    let outcome = run(gateway, arguments).await?;
    anyhow::ensure!(outcome.code == Some(0), "{arguments:?}: {outcome:?}");
    Ok(outcome.stdout)
}

async fn run(gateway: &Gateway, arguments: &[&str]) -> Result<Outcome> {
    let arguments: Vec<&str> = ["sessions"].iter().chain(arguments).copied().collect();
    gateway.command(&arguments).await
}

async fn list(gateway: &Gateway) -> Result<Vec<Value>> {
    let text = sessions(gateway, &["list", "--json"]).await?;
    serde_json::from_str(&text).with_context(|| format!("not a JSON array: {text}"))
}

/// The id of the only session of somebody.
async fn session_of(gateway: &Gateway, email: &str) -> Result<String> {
    let list = list(gateway).await?;
    let mut theirs = list.iter().filter(|session| session["email"] == email);
    let id = theirs.next().and_then(|session| session["session"].as_str()).context("no session of theirs")?;
    assert_eq!(theirs.next(), None, "{list:?}");
    Ok(id.to_owned())
}

async fn revocations(gateway: &Gateway) -> Result<Vec<Value>> {
    let events = gateway.events().await?;
    Ok(events.into_iter().filter(|event| event["type"] == "portcullis.session.revoked.v1").collect())
}

#[tokio::test]
async fn a_session_is_shown_and_revoked_beside_a_running_gateway() -> Result<()> {
    let world = World::new(BINARY).await?;
    let gateway = world.gateway().await?;
    let (alice, bob) = (world.visitor(&gateway).await?, world.visitor(&gateway).await?);
    sign_in(&alice, APP, "alice").await?;
    sign_in(&bob, APP, "bob").await?;
    let mut stream =
        alice.open(Request::get(format!("{APP}/sse")).body(http_body_util::Full::<Bytes>::default())?).await?;
    stream.event().await?.context("no event")?;

    let id = session_of(&gateway, "alice@example.com").await?;
    let table = sessions(&gateway, &["list"]).await?;
    assert_eq!(table.lines().count(), 3, "{table}");
    for word in ["SESSION", "E-MAIL", &id, "alice@example.com", "bob@example.com"] {
        assert!(table.contains(word), "{word} in {table}");
    }
    let shown = sessions(&gateway, &["show", &id]).await?;
    let object: Value = serde_json::from_str(&sessions(&gateway, &["show", &id, "--json"]).await?)?;
    assert_eq!((&object["user"], &object["open"]), (&json!("alice-at-the-real-provider"), &json!(true)));
    assert!(shown.contains("admins, engineering") && shown.contains("alice-at-the-real-provider"), "{shown}");
    for token in world.provider.issued() {
        assert!(![&table, &shown, &object.to_string()].iter().any(|text| text.contains(&token)), "a token is shown");
    }

    let revoked = sessions(&gateway, &["revoke", &id, "--reason", "laptop lost"]).await?;
    assert!(revoked.contains(&id), "{revoked}");
    is_refused(&alice, SOON).await?;
    stream.ended(SOON).await?;
    assert_eq!(status(&bob).await?, StatusCode::OK);
    let events = revocations(&gateway).await?;
    assert_eq!(events.len(), 1);
    assert_eq!((&events[0]["actor"], &events[0]["data"]["reason"]), (&json!("cli"), &json!("laptop lost")));

    assert!(sessions(&gateway, &["show", &id]).await?.contains("open       no"));
    let again = sessions(&gateway, &["revoke", &id, "--json"]).await?;
    assert_eq!(serde_json::from_str::<Value>(&again)?, json!({"revoked": []}));
    assert_eq!(revocations(&gateway).await?.len(), 1, "what has ended ends once");
    // who was revoked signs in again, as a new session
    assert_eq!(sign_in(&alice, APP, "alice").await?.status, StatusCode::OK);
    assert_ne!(session_of(&gateway, "alice@example.com").await?, id);
    Ok(())
}

#[tokio::test]
async fn a_command_on_sessions_says_by_its_exit_code_what_was_wrong() -> Result<()> {
    let world = World::new(BINARY).await?;
    let gateway = world.gateway().await?;
    let nobodys = "00000000-0000-4000-8000-000000000001";
    for (arguments, code) in [
        (vec!["show", "seven"], 64),
        (vec!["show", nobodys], 64),
        (vec!["revoke", nobodys], 64),
        (vec!["revoke"], 64),
        (vec!["revoke", nobodys, "--user", "alice"], 64),
        (vec!["revoke", "--user", "nobody@example.com"], 0),
        (vec!["list"], 0),
    ] {
        let outcome = run(&gateway, &arguments).await?;
        assert_eq!(outcome.code, Some(code), "{arguments:?}: {outcome:?}");
        assert_eq!(outcome.stderr.is_empty(), code == 0, "{arguments:?}: {outcome:?}");
    }
    // where no gateway ever ran, nothing is made
    let empty = tempfile::tempdir()?;
    let config = gateway.config_file().to_string_lossy().into_owned();
    let state = empty.path().to_string_lossy().into_owned();
    let arguments = ["sessions", "list", "-c", &config];
    let outcome = world.launcher.outcome(&arguments, &[("STATE_DIRECTORY", state.as_str())]).await?;
    assert_eq!(outcome.code, Some(70), "{outcome:?}");
    assert_eq!(std::fs::read_dir(empty.path())?.count(), 0);
    Ok(())
}

#[tokio::test]
async fn all_sessions_of_a_person_are_revoked_on_every_node_by_one_command() -> Result<()> {
    let world = World::new(BINARY).await?;
    let nats = NatsServer::start()?;
    let config = world.config().on_nats(nats.url().as_str()).text();
    let (a, b) = (world.launcher.run(&config).await?, world.launcher.run(&config).await?);
    let (laptop, phone, bob) = (world.visitor(&a).await?, world.visitor(&b).await?, world.visitor(&b).await?);
    sign_in(&laptop, APP, "alice").await?;
    sign_in(&phone, APP, "alice").await?;
    sign_in(&bob, APP, "bob").await?;
    let none = sessions(&a, &["revoke", "--user", "ALICE@example.com", "--json"]).await?;
    assert_eq!(serde_json::from_str::<Value>(&none)?, json!({"revoked": []}), "an address is matched exactly");
    let both = sessions(&a, &["revoke", "--user", "alice@example.com", "--json"]).await?;
    let both: Value = serde_json::from_str(&both)?;
    assert_eq!(both["revoked"].as_array().map(Vec::len), Some(2), "{both}");
    for (visitor, node) in [(&laptop, &b), (&phone, &a)] {
        is_refused(&visitor.clone().through(node.address().await?), Duration::from_secs(1)).await?;
    }
    assert_eq!(status(&bob).await?, StatusCode::OK);
    let by_user_id = sessions(&b, &["revoke", "--user", "bob-at-the-real-provider"]).await?;
    assert!(by_user_id.contains("1 session was revoked"), "{by_user_id}");
    is_refused(&bob, Duration::from_secs(1)).await
}

#[tokio::test]
async fn a_session_in_use_goes_on_and_one_left_idle_is_over() -> Result<()> {
    let world = World::new(BINARY).await?;
    let mut config = world.config();
    config.set("session_idle_timeout", "4s");
    let gateway = world.launcher.run(&config.text()).await?;
    let alice = world.visitor(&gateway).await?;
    sign_in(&alice, APP, "alice").await?;
    let first = session_of(&gateway, "alice@example.com").await?;

    // in use for longer than it may be idle
    let (began, mut requests) = (Instant::now(), 0);
    while began.elapsed() < Duration::from_secs(6) {
        assert_eq!(status(&alice).await?, StatusCode::OK, "after {:?}", began.elapsed());
        requests += 1;
    }
    let seen = async || {
        let events = gateway.events().await?;
        anyhow::Ok(events.into_iter().filter(|event| event["type"] == "portcullis.session.seen.v1").count())
    };
    let told = seen().await?;
    let most = usize::try_from(began.elapsed().as_secs())? + 1;
    assert!((2..=most).contains(&told), "{told} notes of {requests} requests");

    // looking at it is no use of it
    let look = async || Ok(list(&gateway).await?.is_empty().then_some(()));
    eventually("the session is over", LONG, look).await?;
    assert!(sessions(&gateway, &["show", &first]).await?.contains("open       no"));
    assert_eq!(status(&alice).await?, StatusCode::UNAUTHORIZED);
    assert!(revocations(&gateway).await?.is_empty(), "the passing of time is no event");
    // the authenticate host does not open it again either
    assert_eq!(sign_in(&alice, APP, "alice").await?.status, StatusCode::OK);
    assert_ne!(session_of(&gateway, "alice@example.com").await?, first);
    Ok(())
}

/// A gateway whose provider is a scripted one.
async fn gateway_at(world: &World, idp: &ScriptedIdp) -> Result<Gateway> {
    let mut config = world.config();
    config.set("idp_provider_url", &idp.issuer());
    config.set("idp_client_id", CLIENT_ID);
    config.set("idp_client_secret", &format!("'{CLIENT_SECRET}'"));
    world.launcher.run(&config.text()).await
}

/// Somebody whom the scripted provider signs in as alice, at a session of hers that it calls `sid`.
async fn signed_in(world: &World, gateway: &Gateway, idp: &ScriptedIdp, sub: &str, sid: &str) -> Result<Visitor> {
    idp.set_person(Person { sub: sub.into(), sid: sid.into(), ..Person::default() });
    let visitor = world.visitor(gateway).await?;
    let answer = visitor.follow(visitor.get(APP).await?, 10).await?;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
    Ok(visitor)
}

/// What a provider sends: a form, without a browser around it.
async fn deliver(provider: &Visitor, fields: &[(&str, &str)]) -> Result<Answer> {
    let body = Serializer::new(String::new()).extend_pairs(fields).finish();
    post(provider, AUTHENTICATE, "application/x-www-form-urlencoded", &body).await
}

async fn post(provider: &Visitor, host: &str, kind: &str, body: &str) -> Result<Answer> {
    let request = Request::post(format!("{host}{BACK_CHANNEL}")).header(CONTENT_TYPE, kind);
    let answer = provider.send(request.body(Bytes::from(body.to_owned()))?).await?;
    assert!(answer.header(CACHE_CONTROL.as_str()).contains("no-store"), "{:?}", answer.headers);
    Ok(answer)
}

#[tokio::test]
async fn the_provider_ends_every_session_of_a_person_and_a_token_of_its_is_taken_once() -> Result<()> {
    let (world, idp) = (World::new(BINARY).await?, ScriptedIdp::start());
    let mut gateway = gateway_at(&world, &idp).await?;
    let laptop = signed_in(&world, &gateway, &idp, "alice-0001", "sid-1").await?;
    let phone = signed_in(&world, &gateway, &idp, "alice-0001", "sid-2").await?;
    let bob = signed_in(&world, &gateway, &idp, "bob-0002", "sid-3").await?;
    let provider = world.visitor(&gateway).await?;

    let token = idp.logout_token(&json!({}), &json!({"sub": "alice-0001", "sid": null}));
    assert_eq!(deliver(&provider, &[("logout_token", &token)]).await?.status, StatusCode::OK);
    // in force when it is answered
    for ended in [&laptop, &phone] {
        assert_eq!(status(ended).await?, StatusCode::UNAUTHORIZED);
    }
    assert_eq!(status(&bob).await?, StatusCode::OK);
    let revoked = revocations(&gateway).await?;
    assert_eq!(revoked.len(), 2);
    assert!(revoked.iter().all(|event| event["actor"].as_str().is_some_and(|actor| actor.starts_with("idp:"))));

    let again = signed_in(&world, &gateway, &idp, "alice-0001", "sid-4").await?;
    assert_eq!(deliver(&provider, &[("logout_token", &token)]).await?.status, StatusCode::BAD_REQUEST);
    gateway.restart().await?;
    let (again, provider) = (again.through(gateway.address().await?), provider.through(gateway.address().await?));
    let replayed = deliver(&provider, &[("logout_token", &token)]).await?;
    assert_eq!((replayed.status, &replayed.json()?["error"]), (StatusCode::BAD_REQUEST, &json!("invalid_request")));
    assert_eq!(status(&again).await?, StatusCode::OK, "a replayed token ends nothing");

    let by_session = idp.logout_token(&json!({}), &json!({"sub": null, "sid": "sid-4"}));
    assert_eq!(deliver(&provider, &[("logout_token", &by_session)]).await?.status, StatusCode::OK);
    assert_eq!(status(&again).await?, StatusCode::UNAUTHORIZED);
    assert_eq!(status(&bob.through(gateway.address().await?)).await?, StatusCode::OK);
    let log = gateway.stderr().all().join("\n");
    assert!(!log.contains(&token) && !log.contains(&by_session), "a logout token is in the log");
    Ok(())
}

#[tokio::test]
async fn whatever_else_comes_over_the_back_channel_ends_nothing() -> Result<()> {
    let (world, idp) = (World::new(BINARY).await?, ScriptedIdp::start());
    let gateway = gateway_at(&world, &idp).await?;
    let alice = signed_in(&world, &gateway, &idp, "alice-0001", "sid-1").await?;
    let provider = world.visitor(&gateway).await?;
    let good = || idp.logout_token(&json!({}), &json!({}));

    let by_header = |change: Value| idp.logout_token(&change, &json!({}));
    let by_claims = |change: Value| idp.logout_token(&json!({}), &change);
    let token = good();
    let broken = format!("{}x", token.strip_suffix(token.chars().last().unwrap_or('x')).unwrap_or_default());
    let forged = [
        ("alg none", by_header(json!({"alg": "none"}))),
        ("HS256 with the public key", by_header(json!({"alg": "HS256"}))),
        ("an unknown key", by_header(json!({"kid": "made-up"}))),
        ("an access token", by_header(json!({"typ": "at+jwt"}))),
        ("a broken signature", broken),
        ("another issuer", by_claims(json!({"iss": "https://evil.example"}))),
        ("another audience", by_claims(json!({"aud": "somebody-else"}))),
        ("no iat", by_claims(json!({"iat": null}))),
        ("an old iat", by_claims(json!({"iat": 1_000_000_000}))),
        ("a past exp", by_claims(json!({"exp": 1_000_000_000}))),
        ("no jti", by_claims(json!({"jti": null}))),
        ("a nonce", by_claims(json!({"nonce": "n"}))),
        ("no events", by_claims(json!({"events": null}))),
        ("another event", by_claims(json!({"events": {"urn:another": {}}}))),
        ("neither sub nor sid", by_claims(json!({"sub": null, "sid": null}))),
        ("an ID token", idp.id_token()),
        ("no token at all", String::new()),
    ];
    for (what, token) in &forged {
        let answer = deliver(&provider, &[("logout_token", token)]).await?;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{what}");
        assert_eq!(answer.json()?["error"], "invalid_request", "{what}");
    }
    let twice = deliver(&provider, &[("logout_token", &good()), ("logout_token", &good())]).await?;
    assert_eq!(twice.status, StatusCode::BAD_REQUEST, "doubled");
    assert_eq!(deliver(&provider, &[("token", &good())]).await?.status, StatusCode::BAD_REQUEST, "another name");
    let body = json!({"logout_token": good()}).to_string();
    assert_eq!(post(&provider, AUTHENTICATE, "application/json", &body).await?.status, StatusCode::BAD_REQUEST);
    let form = format!("logout_token={}", good());
    let elsewhere = post(&provider, APP, "application/x-www-form-urlencoded", &form).await?;
    assert_eq!(elsewhere.status, StatusCode::NOT_FOUND, "a route's host");
    let got = provider.get(&format!("{AUTHENTICATE}{BACK_CHANNEL}?{form}")).await?;
    assert_eq!(got.status, StatusCode::METHOD_NOT_ALLOWED);

    // a good token that means another session: taken, and ends nothing
    let mismatch = by_claims(json!({"sub": "bob-0002", "sid": "sid-1"}));
    assert_eq!(deliver(&provider, &[("logout_token", &mismatch)]).await?.status, StatusCode::OK);
    assert_eq!(status(&alice).await?, StatusCode::OK);
    assert!(revocations(&gateway).await?.is_empty());
    // the control: the same with nothing wrong
    assert_eq!(deliver(&provider, &[("logout_token", &good())]).await?.status, StatusCode::OK);
    assert_eq!(status(&alice).await?, StatusCode::UNAUTHORIZED);
    Ok(())
}

#[tokio::test]
async fn a_sign_out_gives_the_refresh_token_back_to_the_provider() -> Result<()> {
    let (world, idp) = (World::new(BINARY).await?, ScriptedIdp::start());
    let gateway = gateway_at(&world, &idp).await?;
    let alice = signed_in(&world, &gateway, &idp, "alice-0001", "sid-1").await?;
    sign_out(&alice, APP).await?;
    let given_back = async || Ok(idp.requests().into_iter().find(|seen| seen.path == "/revoke"));
    let seen = eventually("the token comes back", LONG, given_back).await?;
    assert_eq!(seen.form("token_type_hint").as_deref(), Some("refresh_token"));
    assert!(
        seen.form("token").is_some_and(|token| token.starts_with("refresh.")),
        "{:?}",
        seen.form("token_type_hint")
    );
    assert!(seen.header("authorization").is_some_and(|header| header.starts_with("Basic ")));
    Ok(())
}

#[tokio::test]
async fn nobody_waits_for_a_provider_that_takes_no_token_back() -> Result<()> {
    let (world, idp) = (World::new(BINARY).await?, ScriptedIdp::start());
    let gateway = gateway_at(&world, &idp).await?;
    let alice = signed_in(&world, &gateway, &idp, "alice-0001", "sid-1").await?;
    idp.set(Mischief::RevocationSlow);
    let began = Instant::now();
    sign_out(&alice, APP).await?;
    let took = began.elapsed();
    assert_eq!(status(&alice).await?, StatusCode::UNAUTHORIZED);
    // the provider is asked for ten seconds, and then given up
    assert!(took < Duration::from_secs(5), "{took:?}");
    let warned = |line: &str| line.contains("did not revoke a token").then(|| line.to_owned());
    let line = gateway.stderr().find(LONG, warned).await?;
    let token = idp.requests().iter().find(|seen| seen.path == "/revoke").and_then(|seen| seen.form("token"));
    assert!(!line.contains(&token.context("no token came")?), "{line}");
    Ok(())
}

/// Somebody whom the provider has signed in, with a callback that the browser has not followed yet.
async fn before_the_callback(world: &World, gateway: &Gateway) -> Result<(Visitor, Answer)> {
    let visitor = world.visitor(gateway).await?;
    let mut answer = visitor.get(APP).await?;
    while let Some(next) = answer.redirect()? {
        if next.path() == "/.pomerium/callback/" {
            return Ok((visitor, answer));
        }
        answer = visitor.get(next.as_str()).await?;
    }
    anyhow::bail!("no callback: {}", answer.text())
}

#[tokio::test]
async fn whoever_is_logged_out_while_they_sign_in_is_let_in_by_the_next_sign_in_only() -> Result<()> {
    let (world, idp) = (World::new(BINARY).await?, ScriptedIdp::start());
    let gateway = gateway_at(&world, &idp).await?;
    let provider = world.visitor(&gateway).await?;
    idp.set_person(Person { sub: "alice-0001".into(), sid: "sid-1".into(), ..Person::default() });
    let by_person = idp.logout_token(&json!({}), &json!({"sub": "alice-0001", "sid": null}));
    let by_session = idp.logout_token(&json!({}), &json!({"sub": null, "sid": "sid-1"}));
    for token in [Some(by_person), Some(by_session), None] {
        let (late, callback) = before_the_callback(&world, &gateway).await?;
        match token {
            Some(token) => {
                assert_eq!(deliver(&provider, &[("logout_token", &token)]).await?.status, StatusCode::OK);
            }
            // named by the user id alone: there is no session that could be found by anything else
            None => {
                sessions(&gateway, &["revoke", "--user", "alice-0001"]).await?;
            }
        }
        let refused = late.follow(callback, 20).await?;
        assert_eq!(refused.status, StatusCode::BAD_REQUEST, "{}", refused.text());
        assert_eq!(status(&late).await?, StatusCode::UNAUTHORIZED);
        // the same browser, once more
        let answer = late.follow(late.get(APP).await?, 20).await?;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
        sessions(&gateway, &["revoke", "--user", "alice-0001"]).await?;
        is_refused(&late, LONG).await?;
    }
    Ok(())
}
