//! How old a node's knowledge of the log may be: past that, nobody is let in late.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use http::StatusCode;
use portcullis_harness::client::{Answer, Visitor};
use portcullis_harness::gateway::Gateway;
use portcullis_harness::nats::NatsServer;
use portcullis_harness::process::eventually;
use portcullis_harness::sign_in::sign_in;
use portcullis_harness::world::{ADMIN, APP, AUTHENTICATE, PUBLIC, World};
use serde_json::Value;

const BINARY: &str = env!("CARGO_BIN_EXE_portcullis");
const SOON: Duration = Duration::from_secs(20);
/// What `strict` means.
const STRICT: Duration = Duration::from_secs(2);

/// `app` goes by the default, `raw` is strict, `public` is open to all.
async fn node(world: &World, nats: &NatsServer) -> Result<Gateway> {
    let mut config = world.config();
    config.on_nats(nats.url().as_str());
    config.route(
        "https://raw.localhost",
        &world.upstream.url(),
        "allow_any_authenticated_user: true\nmax_staleness: strict",
    );
    world.launcher.run(&config.text()).await
}

const STRICT_APP: &str = "https://raw.localhost";

async fn get(visitor: &Visitor, url: &str) -> Result<Answer> {
    visitor.clone().accepting("application/json").get(url).await
}

async fn signed_in(world: &World, node: &Gateway) -> Result<Visitor> {
    let alice = world.visitor(node).await?;
    sign_in(&alice, APP, "alice").await?;
    sign_in(&alice, STRICT_APP, "alice").await?;
    Ok(alice)
}

#[tokio::test]
async fn past_its_bound_a_route_fails_closed_and_says_so_and_the_others_go_on() -> Result<()> {
    let (world, mut nats) = (World::new(BINARY).await?, NatsServer::start()?);
    let node = node(&world, &nats).await?;
    let alice = signed_in(&world, &node).await?;
    assert_eq!(get(&alice, STRICT_APP).await?.status, StatusCode::OK);

    nats.kill()?;
    let killed = Instant::now();
    let look = async || {
        let answer = get(&alice, STRICT_APP).await?;
        Ok((answer.status == StatusCode::SERVICE_UNAVAILABLE).then_some(answer))
    };
    let refused = eventually("the strict route fails closed", SOON, look).await?;
    assert!(killed.elapsed() < STRICT + Duration::from_secs(2), "{:?}", killed.elapsed());
    assert!(refused.text().contains("lost touch"), "{}", refused.text());
    assert!(refused.header("retry-after").parse::<u32>().is_ok());
    let page = alice.get(STRICT_APP).await?;
    assert_eq!(page.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(page.header("content-type").starts_with("text/html") && page.text().contains("does not help"));

    // the default is five minutes, and who needs no session needs no log
    assert_eq!(get(&alice, APP).await?.status, StatusCode::OK);
    assert_eq!(get(&alice, PUBLIC).await?.status, StatusCode::OK);
    // somebody without a session is led to sign in, as ever
    assert_eq!(get(&world.visitor(&node).await?, STRICT_APP).await?.status, StatusCode::UNAUTHORIZED);

    let (_, health) = node.health("/readyz").await?;
    assert!(health["staleness"].as_u64().is_some_and(|age| age > 2000), "{health}");
    assert_eq!(health["lag"], 0);
    let stale = async || {
        let lines = node.request_log("authorize check");
        Ok(lines.into_iter().find(|line| line["staleness"].as_u64().is_some_and(|age| age > 2000)))
    };
    let line = eventually("the decision says how stale it was", SOON, stale).await?;
    assert_eq!(line["log-lag"], 0, "{line}");
    let access = async || {
        let lines = node.request_log("http-request");
        Ok(lines.into_iter().find(|line| line["response-code-details"] == "stale"))
    };
    eventually("the access line says why", SOON, access).await?;

    nats.restart()?;
    let look = async || Ok((get(&alice, STRICT_APP).await?.status == StatusCode::OK).then_some(()));
    eventually("the strict route opens again", SOON, look).await
}

#[tokio::test]
async fn a_healthy_node_stays_within_the_strict_bound() -> Result<()> {
    let (world, nats) = (World::new(BINARY).await?, NatsServer::start()?);
    let node = node(&world, &nats).await?;
    let alice = signed_in(&world, &node).await?;
    // as long as the bound lasts, several times over
    let until = Instant::now() + STRICT * 3;
    let mut oldest = 0;
    while Instant::now() < until {
        assert_eq!(get(&alice, STRICT_APP).await?.status, StatusCode::OK);
        let (_, health) = node.health("/readyz").await?;
        oldest = oldest.max(health["staleness"].as_u64().context("no staleness")?);
    }
    assert!(oldest < 2000, "{oldest} ms");
    Ok(())
}

#[tokio::test]
async fn a_new_bound_is_in_force_with_the_next_configuration() -> Result<()> {
    let (world, mut nats) = (World::new(BINARY).await?, NatsServer::start()?);
    let mut node = node(&world, &nats).await?;
    let alice = signed_in(&world, &node).await?;
    nats.kill()?;
    let look = async || {
        let status = get(&alice, STRICT_APP).await?.status;
        Ok((status == StatusCode::SERVICE_UNAVAILABLE).then_some(()))
    };
    eventually("the strict route fails closed", SOON, look).await?;
    let lax = std::fs::read_to_string(node.config_file())?.replace("max_staleness: strict", "max_staleness: unbounded");
    node.replace_config(&format!("max_staleness: strict\n{lax}"))?;
    node.hang_up()?;
    let look = async || Ok((get(&alice, STRICT_APP).await?.status == StatusCode::OK).then_some(()));
    eventually("the unbounded route opens", SOON, look).await?;
    // what goes by the default goes by the new one, our own pages too
    assert_eq!(get(&alice, ADMIN).await?.status, StatusCode::UNAUTHORIZED, "no handle for this host yet");
    assert_eq!(get(&alice, APP).await?.status, StatusCode::SERVICE_UNAVAILABLE);
    for page in [format!("{APP}/.pomerium/user"), format!("{APP}/.pomerium/"), format!("{AUTHENTICATE}/.pomerium/")] {
        let answer = get(&alice, &page).await?;
        assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE, "{page}: {}", answer.text());
    }
    // who is nobody there needs no log
    let nobody = world.visitor(&node).await?;
    assert_eq!(get(&nobody, &format!("{AUTHENTICATE}/.pomerium/")).await?.status, StatusCode::OK);
    let (_, health) = node.health("/readyz").await?;
    assert!(matches!(health["staleness"], Value::Number(_)), "{health}");
    Ok(())
}
