//! What is measured is the product: everybody gives the same bytes, nobody passes without a session or the right group,
//! and the upstream learns from a valid assertion who it is. Otherwise nothing is measured.

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http::header::COOKIE;
use jsonwebtoken::jwk::JwkSet;
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode};
use portcullis_actors::keyring::Keyring;
use portcullis_actors::keyring::assertion::AssertionKeys;
use portcullis_harness::client::{Answer, Visitor};
use serde_json::Value;
use url::Url;

use crate::peer::Running;
use crate::peer::nginx::{ANSWER_BYTES, IDENTITY, LARGE, LARGE_BYTES};
use crate::row::{Row, Way};
use crate::stage::{Stage, url};

/// Checks one peer before a row.
///
/// # Errors
/// It does not do what is to be measured.
pub async fn all(stage: &Stage, row: Row, running: &Running) -> Result<()> {
    let way = row.way();
    if !matches!(row, Row::Websocket | Row::Upload) {
        same_bytes(stage, way, running, "/", ANSWER_BYTES).await?;
    }
    if row == Row::Download {
        same_bytes(stage, way, running, LARGE, LARGE_BYTES).await?;
    }
    if !running.peer.is_guarded() {
        return Ok(());
    }
    let ask = async |path: &str, cookie: Option<&str>| ask(stage, way, running, path, cookie).await;
    let stranger = ask("/", None).await?;
    ensure!(stranger.status == 401, "without a session: {}", stranger.status);
    let (whole, end) = stage.alice.split_at_checked(stage.alice.len().saturating_sub(8)).context("a short cookie")?;
    let broken = format!("{whole}{}", end.chars().rev().collect::<String>());
    let forged = ask("/", Some(&broken)).await?;
    ensure!(forged.status == 401, "with a forged cookie: {}", forged.status);
    let denied = ask("/", Some(&stage.bob)).await?;
    ensure!(denied.status == 403, "without the group: {}", denied.status);
    if !matches!(row, Row::Websocket | Row::Upload) {
        let known = ask(IDENTITY, Some(&stage.alice)).await?;
        ensure!(known.status == 200, "with a session: {}", known.status);
        assertion(&stage.keyring, &known.text())?;
    }
    Ok(())
}

/// The body that the upstream gives by itself is the one that arrives.
async fn same_bytes(stage: &Stage, way: Way, running: &Running, path: &str, bytes: usize) -> Result<()> {
    let direct = Visitor::new(&stage.authority.trust()?)?.through(stage.kilobyte.address);
    let wanted = direct.get(url(Way::Plain, path)?.as_str()).await.context("the upstream itself")?;
    let given = ask(stage, way, running, path, Some(&stage.alice)).await?;
    ensure!(given.status == 200 && wanted.status == 200, "{path}: {}", given.status);
    ensure!(given.body.len() == bytes && given.body == wanted.body, "{path}: other bytes than the upstream's");
    Ok(())
}

async fn ask(stage: &Stage, way: Way, running: &Running, path: &str, cookie: Option<&str>) -> Result<Answer> {
    let mut visitor = Visitor::new(&stage.authority.trust()?)?.through(running.gate).accepting("application/json");
    if way == Way::H2 {
        visitor = visitor.over_h2();
    }
    let mut request = http::Request::get(url(way, path)?.as_str());
    if let Some(cookie) = cookie {
        request = request.header(COOKIE, cookie);
    }
    visitor.send(request.body(Bytes::new())?).await
}

/// What the upstream was shown, `EMAIL ASSERTION`, is alice's, signed with the keys of the house for this audience.
fn assertion(keyring: &Keyring, shown: &str) -> Result<()> {
    let (email, token) = shown.split_once(' ').context("the upstream does not learn who it is")?;
    ensure!(email == "alice@example.com", "the upstream learns of somebody else");
    let published: JwkSet = serde_json::from_str(AssertionKeys::derived(keyring)?.jwks())?;
    let key = DecodingKey::from_jwk(published.keys.first().context("no key is published")?)?;
    let mut validation = Validation::new(Algorithm::ES256);
    let host = Url::parse(portcullis_harness::world::APP)?.host_str().unwrap_or_default().to_owned();
    validation.set_audience(&[&host]);
    validation.set_issuer(&[&host]);
    validation.set_required_spec_claims(&["exp", "aud", "iss", "sub"]);
    let claims = decode::<Value>(token, &key, &validation).context("the assertion is not valid")?.claims;
    let named = claims.get("email").and_then(Value::as_str);
    ensure!(named == Some(email), "the assertion is somebody else's");
    Ok(())
}
