//! The vault under a running node: when it is not as it must be, the node says so, serves, and lets nobody new in.

use std::time::Duration;

use anyhow::Result;
use http::StatusCode;
use portcullis_harness::idp::{CLIENT_ID, CLIENT_SECRET, ScriptedIdp};
use portcullis_harness::nats::NatsServer;
use portcullis_harness::process::eventually;
use portcullis_harness::sign_in::sign_in;
use portcullis_harness::world::{APP, World};

const BINARY: &str = env!("CARGO_BIN_EXE_portcullis");
const LONG: Duration = Duration::from_secs(60);

#[tokio::test]
async fn a_bucket_deleted_under_a_running_node_is_named_and_whoever_is_signed_in_is_served() -> Result<()> {
    let (world, nats) = (World::new(BINARY).await?, NatsServer::start()?);
    let gateway = world.launcher.run(&world.config().on_nats(nats.url().as_str()).text()).await?;
    let alice = world.visitor(&gateway).await?;
    sign_in(&alice, APP, "alice").await?;
    let (status, health) = gateway.health("/readyz").await?;
    assert_eq!((status, &health["status"], &health["vault"]), (200, &"ok".into(), &"ok".into()));

    let administrator = async_nats::jetstream::new(async_nats::connect(nats.url().as_str()).await?);
    administrator.delete_stream("KV_PORTCULLIS_SECRET").await?;
    let look = async || {
        let (status, health) = gateway.health("/readyz").await?;
        let why = health["vault"].as_str().unwrap_or_default().to_owned();
        Ok(why.contains("KV_PORTCULLIS_SECRET does not exist").then_some((status, health)))
    };
    let (status, health) = eventually("the vault is said to be gone", LONG, look).await?;
    assert_eq!((status, &health["status"]), (200, &"degraded".into()));
    assert_eq!(alice.clone().accepting("application/json").get(APP).await?.status, StatusCode::OK);
    let bob = sign_in(&world.visitor(&gateway).await?, APP, "bob").await;
    assert_eq!(bob?.status, StatusCode::SERVICE_UNAVAILABLE, "nobody is let in whose tokens cannot be kept");
    Ok(())
}

#[tokio::test]
async fn a_command_that_revokes_a_session_has_its_tokens_given_back_to_the_provider() -> Result<()> {
    let (world, idp) = (World::new(BINARY).await?, ScriptedIdp::start());
    let mut config = world.config();
    config.set("idp_provider_url", &idp.issuer());
    config.set("idp_client_id", CLIENT_ID);
    config.set("idp_client_secret", &format!("'{CLIENT_SECRET}'"));
    let gateway = world.launcher.run(&config.text()).await?;
    let alice = world.visitor(&gateway).await?;
    let answer = alice.follow(alice.get(APP).await?, 10).await?;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
    let outcome = gateway.command(&["sessions", "revoke", "--user", "alice@example.com"]).await?;
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    let given_back = async || Ok(idp.requests().into_iter().find(|seen| seen.path == "/revoke"));
    let seen = eventually("the token comes back", LONG, given_back).await?;
    assert!(seen.form("token").is_some_and(|token| token.starts_with("refresh.")));
    Ok(())
}
