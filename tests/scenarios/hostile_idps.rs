//! An identity provider that lies, breaks off or answers nonsense, seen from a browser: a clear page, no session, the
//! reason in the log and not on the page.

use anyhow::{Context, Result};
use futures_util::StreamExt;
use http::StatusCode;
use portcullis_harness::gateway::Gateway;
use portcullis_harness::idp::{CLIENT_ID, CLIENT_SECRET, Mischief, ScriptedIdp};
use portcullis_harness::world::{APP, AUTHENTICATE, World};

const BINARY: &str = env!("CARGO_BIN_EXE_portcullis");

/// How many gateways are tried at once.
const AT_ONCE: usize = 4;

/// The first of [`Mischief::ALL`] are unusual and correct, and a sign-in gives no token back.
fn is_honest(mischief: Mischief) -> bool {
    let last = Mischief::ALL.iter().position(|known| *known == Mischief::KeysAmongOthers);
    mischief == Mischief::RevocationSlow || Mischief::ALL.iter().position(|known| *known == mischief) <= last
}

/// Those that answer after our patience has ended have a promise of their own.
fn is_slow(mischief: Mischief) -> bool {
    matches!(mischief, Mischief::TokenSlow | Mischief::DiscoverySlow | Mischief::DiscoveryStalls)
}

async fn gateway(world: &World, idp: &ScriptedIdp) -> Result<Gateway> {
    let mut config = world.config();
    config.set("idp_provider_url", &idp.issuer());
    config.set("idp_client_id", CLIENT_ID);
    config.set("idp_client_secret", &format!("'{CLIENT_SECRET}'"));
    world.launcher.run(&config.text()).await
}

/// Goes to the application and wherever that leads.
async fn visit(world: &World, mischief: Mischief) -> Result<()> {
    let idp = ScriptedIdp::start();
    idp.set(mischief);
    let mut gateway = gateway(world, &idp).await?;
    let visitor = world.visitor(&gateway).await?;
    let answer = visitor.follow(visitor.get(APP).await?, 10).await?;
    let signed_in = !visitor.cookies().named("_pomerium").is_empty();
    if is_honest(mischief) {
        assert_eq!((answer.status, signed_in), (StatusCode::OK, true), "{mischief:?}: {}", answer.text());
        return Ok(());
    }
    assert!(!signed_in, "{mischief:?} opened a session");
    assert!(answer.url.as_str().starts_with(AUTHENTICATE), "{mischief:?}: {}", answer.url);
    let refused = [StatusCode::BAD_REQUEST, StatusCode::FORBIDDEN, StatusCode::SERVICE_UNAVAILABLE];
    assert!(refused.contains(&answer.status), "{mischief:?}: {} {}", answer.status, answer.text());
    if answer.status == StatusCode::SERVICE_UNAVAILABLE {
        assert!(!answer.header("retry-after").is_empty(), "{mischief:?}");
    }
    let page = answer.text().to_lowercase();
    assert!(page.contains("<h1>"), "{mischief:?}: {page}");
    for reason in ["token", "signature", "nonce", "issuer", "jwks", "claim", "discovery", "alice", "127.0.0.1"] {
        assert!(!page.contains(reason), "{mischief:?}: the page says {reason}");
    }
    let again = visitor.get(APP).await?;
    assert_eq!(again.status, StatusCode::FOUND, "{mischief:?}");
    gateway.interrupt()?;
    gateway.wait_exit(std::time::Duration::from_secs(10)).await?;
    let log = gateway.stderr().to_end(std::time::Duration::from_secs(10)).await?.join("\n");
    assert!(log.contains("WARN") && log.contains("a sign-in does not go on"), "{mischief:?}: {log}");
    Ok(())
}

#[tokio::test]
async fn whatever_the_provider_does_wrong_nobody_is_signed_in_and_an_honest_one_signs_in() -> Result<()> {
    let world = World::new(BINARY).await?;
    let tried: Vec<_> = Mischief::ALL.iter().copied().filter(|mischief| !is_slow(*mischief)).collect();
    assert!(tried.len() > 100, "{}", tried.len());
    let mut visits = futures_util::stream::iter(tried)
        .map(|mischief| {
            let world = &world;
            async move { visit(world, mischief).await.with_context(|| format!("{mischief:?}")) }
        })
        .buffer_unordered(AT_ONCE);
    while let Some(outcome) = visits.next().await {
        outcome?;
    }
    Ok(())
}

#[tokio::test]
async fn a_provider_that_is_slow_is_given_up_and_the_browser_told_to_try_again() -> Result<()> {
    let world = World::new(BINARY).await?;
    let mut visits = futures_util::stream::iter(Mischief::ALL.iter().copied().filter(|mischief| is_slow(*mischief)))
        .map(|mischief| visit(&world, mischief))
        .buffer_unordered(AT_ONCE);
    while let Some(outcome) = visits.next().await {
        outcome?;
    }
    Ok(())
}
