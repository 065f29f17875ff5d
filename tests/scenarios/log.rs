//! The log is the authority: what happened stands on it, and no secret of anybody does.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use http::StatusCode;
use portcullis_harness::client::Visitor;
use portcullis_harness::gateway::{Gateway, files_with};
use portcullis_harness::nats::NatsServer;
use portcullis_harness::sign_in::{sign_in, sign_out};
use portcullis_harness::world::{ADMIN, APP, PUBLIC, World};
use serde_json::Value;

const BINARY: &str = env!("CARGO_BIN_EXE_portcullis");

async fn world() -> Result<(World, Gateway, Visitor)> {
    let world = World::new(BINARY).await?;
    let gateway = world.gateway().await?;
    let visitor = world.visitor(&gateway).await?;
    Ok((world, gateway, visitor))
}

fn kinds(events: &[Value]) -> Vec<&str> {
    events.iter().filter_map(|event| event["type"].as_str()).collect()
}

/// What every backend's log must look like after alice has come and gone.
fn check(events: &[Value]) -> Result<()> {
    for (index, event) in events.iter().enumerate() {
        assert_eq!(event["specversion"], "1.0");
        assert_eq!(event["sequence"], (index + 1).to_string(), "no hole, from the first on");
        for attribute in ["id", "source", "type", "subject", "time"] {
            assert!(event[attribute].as_str().is_some_and(|value| !value.is_empty()), "{attribute}: {event}");
        }
    }
    let kinds = kinds(events);
    assert_eq!(kinds.first(), Some(&"portcullis.log.created.v1"));
    for expected in [
        "portcullis.session.signed_in.v1",
        "portcullis.token.stored.v1",
        "portcullis.group.member_added.v1",
        "portcullis.session.signed_out.v1",
    ] {
        assert!(kinds.contains(&expected), "{expected} in {kinds:?}");
    }
    let stored = events.iter().find(|event| event["type"] == "portcullis.token.stored.v1").context("no token event")?;
    assert_eq!(stored.pointer("/data/generation"), Some(&Value::from(1)));
    Ok(())
}

#[tokio::test]
async fn a_sign_in_and_a_sign_out_stand_on_the_embedded_log_as_cloud_events() -> Result<()> {
    let (_world, gateway, alice) = world().await?;
    sign_in(&alice, APP, "alice").await?;
    sign_out(&alice, APP).await?;
    // read beside the running gateway
    check(&gateway.events().await?)
}

#[tokio::test]
async fn a_sign_in_and_a_sign_out_stand_on_jetstream_as_cloud_events() -> Result<()> {
    let world = World::new(BINARY).await?;
    let nats = NatsServer::start()?;
    let gateway = world.launcher.run(&world.config().on_nats(nats.url().as_str()).text()).await?;
    let alice = world.visitor(&gateway).await?;
    sign_in(&alice, APP, "alice").await?;
    let secrets = secrets(&world, &alice);
    sign_out(&alice, APP).await?;
    let events = gateway.events().await?;
    check(&events)?;
    // log and vault are both in the server's store
    for (what, secret) in secrets {
        assert_eq!(files_with(nats.store(), &secret)?, Vec::<PathBuf>::new(), "{what} is in the store");
    }
    assert!(!files_with(nats.store(), "portcullis.session.signed_in.v1")?.is_empty(), "the control: the log is there");
    Ok(())
}

#[tokio::test]
async fn the_log_can_be_followed_from_any_sequence() -> Result<()> {
    let (world, gateway, alice) = world().await?;
    sign_in(&alice, APP, "alice").await?;
    let known = gateway.events().await?;
    let config = gateway.config_file().to_string_lossy().into_owned();
    let state = gateway.state_dir().to_string_lossy().into_owned();
    let from = known.len().to_string();
    let follower = world
        .launcher
        .follow(&["events", "-c", &config, "--from", &from, "--follow"], &[("STATE_DIRECTORY", &state)])?;
    let deadline = Duration::from_secs(10);
    let sequence = |wanted: String| {
        move |line: &str| {
            let event: Value = serde_json::from_str(line).ok()?;
            (event["sequence"] == wanted).then_some(event)
        }
    };
    let first = follower.stdout().find(deadline, sequence(from)).await?;
    assert_eq!(first["type"], known[known.len() - 1]["type"]);
    sign_out(&alice, APP).await?;
    follower.stdout().find(deadline, |line| line.contains("portcullis.session.signed_out.v1").then_some(())).await
}

/// Secrets of this visit: tokens, the e-mail address, what the browser holds, the client's own secret.
fn secrets(world: &World, visitor: &Visitor) -> Vec<(String, String)> {
    let mut secrets: Vec<(String, String)> =
        world.provider.issued().into_iter().map(|token| ("a token".to_owned(), token)).collect();
    for person in ["alice", "bob"] {
        secrets.push(("an e-mail address".into(), format!("{person}@example.com")));
        secrets.push(("a subject".into(), format!("{person}-at-the-real-provider")));
    }
    secrets.push(("the client secret".into(), portcullis_harness::oidc::OidcProvider::CLIENT_SECRET.into()));
    let cookies = visitor.cookies();
    secrets.extend(
        cookies
            .iter()
            .filter(|cookie| cookie.value.len() > 20)
            .map(|cookie| (cookie.name.clone(), cookie.value.clone())),
    );
    secrets
}

#[tokio::test]
async fn no_token_and_no_address_is_in_any_file_or_line() -> Result<()> {
    let (world, mut gateway, alice) = world().await?;
    sign_in(&alice, APP, "alice").await?;
    let bob = world.visitor(&gateway).await?;
    assert_eq!(sign_in(&bob, ADMIN, "bob").await?.status, StatusCode::FORBIDDEN);
    let secrets: Vec<_> = secrets(&world, &alice).into_iter().chain(secrets(&world, &bob)).collect();
    assert!(world.provider.issued().len() >= 4, "the provider gave out tokens");
    sign_out(&alice, APP).await?;
    gateway.interrupt()?;
    gateway.wait_exit(Duration::from_secs(5)).await?;

    let home = gateway.home().to_owned();
    let config = gateway.config_file();
    for (what, secret) in &secrets {
        // the configuration is the administrator's, and names the client secret
        let found: Vec<PathBuf> = files_with(&home, secret)?.into_iter().filter(|path| *path != config).collect();
        assert!(found.is_empty(), "{what} is in {found:?}");
        assert!(!gateway.stdout().text().contains(secret), "{what} is on stdout");
        assert!(!gateway.stderr().text().contains(secret), "{what} is on stderr");
    }
    assert!(
        !files_with(&home, "portcullis.session.signed_in.v1")?.is_empty(),
        "the control: the log is among the files"
    );
    Ok(())
}

#[tokio::test]
async fn each_request_leaves_a_decision_and_an_access_line_joined_by_its_id() -> Result<()> {
    let (_world, gateway, alice) = world().await?;
    sign_in(&alice, APP, "alice").await?;
    let answer = alice.get(&format!("{APP}/path?secret=query")).await?;
    let id = answer.header("x-request-id").to_owned();
    let line = |message: &'static str| {
        let id = id.clone();
        move |line: &str| {
            let line: Value = serde_json::from_str(line).ok()?;
            (line["message"] == message && line["request-id"] == id.as_str()).then_some(line)
        }
    };
    let deadline = Duration::from_secs(5);
    let decision = gateway.stdout().find(deadline, line("authorize check")).await?;
    assert_eq!((&decision["allow"], &decision["deny"]), (&Value::Bool(true), &Value::Bool(false)));
    assert!(decision["session-sequence"].as_u64().is_some_and(|sequence| sequence > 0), "{decision}");
    assert!(decision["policy-revision"].as_str().is_some_and(|revision| !revision.is_empty()), "{decision}");
    let access = gateway.stdout().find(deadline, line("http-request")).await?;
    assert_eq!(access["response-code"], 200);
    assert_eq!(access["path"], "/path");

    let refused = alice.get("https://bob.localhost/").await?;
    let refused = alice.follow(refused, 10).await?;
    assert_eq!(refused.status, StatusCode::FORBIDDEN);
    let id = refused.header("x-request-id").to_owned();
    let read = |line: &str| {
        let line: Value = serde_json::from_str(line).ok()?;
        (line["message"] == "authorize check" && line["request-id"] == id.as_str()).then_some(line)
    };
    assert_eq!(gateway.stdout().find(deadline, read).await?["allow"], Value::Bool(false));
    Ok(())
}

#[tokio::test]
async fn every_line_on_stdout_is_json() -> Result<()> {
    let (_world, mut gateway, alice) = world().await?;
    sign_in(&alice, APP, "alice").await?;
    let strange = format!("{PUBLIC}/%C3%BC%22");
    let request = http::Request::get(strange).header("user-agent", "\"quoted\\\t\u{fc}").body(bytes::Bytes::new())?;
    alice.send(request).await?;
    gateway.interrupt()?;
    gateway.wait_exit(Duration::from_secs(5)).await?;
    let lines = gateway.stdout().to_end(Duration::from_secs(5)).await?;
    assert!(!lines.is_empty());
    for line in lines {
        serde_json::from_str::<Value>(&line).with_context(|| line.clone())?;
    }
    Ok(())
}

#[tokio::test]
async fn killed_at_any_moment_a_gateway_forgets_no_one_who_was_let_in() -> Result<()> {
    let (world, mut gateway, _) = world().await?;
    let mut let_in: Vec<Visitor> = Vec::new();
    for _ in 0..5 {
        let person = world.visitor(&gateway).await?;
        let page = sign_in(&person, APP, "alice").await?;
        assert_eq!(page.status, StatusCode::OK);
        gateway.restart().await?;
        let gate = gateway.address().await?;
        let_in = let_in.into_iter().chain([person]).map(|person| person.through(gate)).collect();
        for person in &let_in {
            assert_eq!(person.get(APP).await?.status, StatusCode::OK);
        }
    }
    check_chain(&gateway.events().await?);
    Ok(())
}

fn check_chain(events: &[Value]) {
    for (index, event) in events.iter().enumerate() {
        assert_eq!(event["sequence"], (index + 1).to_string());
    }
    let signed_in = kinds(events).into_iter().filter(|kind| *kind == "portcullis.session.signed_in.v1").count();
    assert_eq!(signed_in, 5, "delivered or not, each sign-in opened one session");
}

#[tokio::test]
async fn the_data_directory_belongs_to_its_owner_alone() -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let (_world, gateway, alice) = world().await?;
    sign_in(&alice, APP, "alice").await?;
    let state = gateway.state_dir();
    assert_eq!(std::fs::metadata(&state)?.permissions().mode() & 0o077, 0);
    for secret in ["shared_secret", "cookie_secret"] {
        assert_eq!(std::fs::metadata(state.join(secret))?.permissions().mode() & 0o777, 0o600, "{secret}");
    }
    Ok(())
}

#[tokio::test]
async fn a_second_gateway_on_the_same_data_directory_is_refused() -> Result<()> {
    let (world, gateway, _) = world().await?;
    let state = gateway.state_dir().to_string_lossy().into_owned();
    let config = gateway.config_file().to_string_lossy().into_owned();
    let outcome = world.launcher.outcome(&["run", "-c", &config], &[("STATE_DIRECTORY", &state)]).await?;
    assert_eq!(outcome.code, Some(70), "{outcome:?}");
    Ok(())
}
