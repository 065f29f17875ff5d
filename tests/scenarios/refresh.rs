//! Tokens are renewed behind people's backs: at a real provider whose refresh tokens rotate, by two nodes at once.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Result, ensure};
use http::StatusCode;
use portcullis_events::{Envelope, Event, token};
use portcullis_harness::nats::NatsServer;
use portcullis_harness::oidc::OidcProvider;
use portcullis_harness::process::eventually;
use portcullis_harness::sign_in::sign_in;
use portcullis_harness::world::{APP, AUTHENTICATE, World};

const BINARY: &str = env!("CARGO_BIN_EXE_portcullis");
/// The name of the stream that is the log.
const STREAM: &str = "PORTCULLIS_EVT";
/// So short that several generations come and go within a test.
const LIFE: Duration = Duration::from_secs(5);

fn count(provider: &OidcProvider, wanted: &str) -> usize {
    provider.requests().iter().filter(|line| *line == wanted).count()
}

/// Waits until each of three people's tokens were renewed so many times, on the average.
async fn renewed(provider: &OidcProvider, times: usize) -> Result<()> {
    // three of the requests were for codes
    let look = async || Ok((count(provider, "POST /token") >= 3 + 3 * times).then_some(()));
    eventually("everybody's tokens are renewed", Duration::from_secs(60), look).await
}

#[tokio::test]
async fn two_nodes_renew_the_same_sessions_and_no_token_is_presented_twice() -> Result<()> {
    let mut world = World::new(BINARY).await?;
    world.provider = OidcProvider::start_with(AUTHENTICATE, LIFE).await?;
    let nats = NatsServer::start()?;
    let config = world.config().on_nats(nats.url().as_str()).text();
    let (a, mut b) = (world.launcher.run(&config).await?, world.launcher.run(&config).await?);
    let mut people = Vec::new();
    for name in ["alice", "bob", "carol"] {
        let person = world.visitor(&a).await?;
        sign_in(&person, APP, name).await?;
        people.push(person);
    }

    renewed(&world.provider, 1).await?;
    // a node that stops finishes what it is at, and does not come back with old tokens
    b.interrupt()?;
    b.wait_exit(Duration::from_secs(10)).await?;
    renewed(&world.provider, 2).await?;
    b.restart().await?;
    renewed(&world.provider, 3).await?;
    // the real provider ends everything that came of a sign-in when one of its refresh tokens comes twice
    ensure!(!world.provider.complaints().contains("grant.error"), "{}", world.provider.complaints());
    for node in [&a, &b] {
        for person in &people {
            let there = person.clone().through(node.address().await?).accepting("application/json");
            assert_eq!(there.get(APP).await?.status, StatusCode::OK);
        }
    }
    assert_eq!(count(&world.provider, "GET /auth"), 3, "nobody was sent to the provider again");

    // and a provider that is down signs nobody out: everybody's refresh has failed, and everybody is served
    world.provider.kill()?;
    let log = async_nats::jetstream::new(async_nats::connect(nats.url().as_str()).await?);
    let stream = log.get_stream(STREAM).await?;
    let look = async || Ok((failures(&stream).await? >= 3).then_some(()));
    eventually("everybody's refresh has failed", Duration::from_secs(60), look).await?;
    for person in &people {
        let there = person.clone().through(a.address().await?).accepting("application/json");
        assert_eq!(there.get(APP).await?.status, StatusCode::OK);
    }
    Ok(())
}

/// The sessions whose last word on their tokens is that a refresh failed.
async fn failures(stream: &async_nats::jetstream::stream::Stream) -> Result<usize> {
    let mut failed = BTreeSet::new();
    let last = stream.get_info().await?.state.last_sequence;
    for sequence in 1..=last {
        let envelope = Envelope::decode(&stream.get_raw_message(sequence).await?.payload)?;
        match envelope.event {
            Event::Token(token::Event::RefreshFailed(_)) => failed.insert(envelope.aggregate),
            Event::Token(_) => failed.remove(&envelope.aggregate),
            _ => false,
        };
    }
    Ok(failed.len())
}
