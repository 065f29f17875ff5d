//! What an upstream checks of every request: that the assertion is the gateway's own, of this session, and for now.

use anyhow::{Context, Result, ensure};
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use portcullis_events::SessionId;
use serde_json::Value;

/// The keys of a cluster, by their ids.
#[derive(Debug)]
pub struct Assertions {
    keys: Vec<(String, Vec<u8>)>,
}

impl Assertions {
    /// From the key set that the gateways publish.
    ///
    /// # Errors
    /// It is none, or holds no P-256 key.
    pub fn from_key_set(text: &str) -> Result<Self> {
        let set: Value = serde_json::from_str(text)?;
        let keys = set.get("keys").and_then(Value::as_array).context("no keys")?;
        let keys: Result<Vec<_>> = keys.iter().map(point).collect();
        let keys = keys?;
        ensure!(!keys.is_empty(), "no key");
        Ok(Self { keys })
    }

    /// The session that an upstream's echo of a request carries the assertion of.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check(&self, echo: &str) -> Result<SessionId> {
        let echo: Value = serde_json::from_str(echo).context("not the upstream's answer")?;
        let lines = echo.get("headers").and_then(Value::as_array).context("no headers")?;
        let mut found = lines.iter().filter(|line| line.get(0).is_some_and(|name| name == "x-pomerium-jwt-assertion"));
        let token = found.next().and_then(|line| line.get(1)).and_then(Value::as_str).context("no assertion")?;
        ensure!(found.next().is_none(), "two assertions");
        let (signed, signature) = token.rsplit_once('.').context("not a token")?;
        let (header, claims) = signed.split_once('.').context("not a token")?;
        let [header, claims] = [header, claims].map(decoded);
        let (header, claims) = (header?, claims?);
        ensure!(header.get("alg").is_some_and(|alg| alg == "ES256"), "{header}");
        let known = self.keys.iter().find(|(id, _)| header.get("kid").is_some_and(|kid| kid == id.as_str()));
        let (_, key) = known.context("a key that nobody knows")?;
        let signature = URL_SAFE_NO_PAD.decode(signature)?;
        let verified = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, key).verify(signed.as_bytes(), &signature);
        ensure!(verified.is_ok(), "the signature does not hold");
        ensure!(claims.get("aud").is_some_and(|aud| aud == "app.localhost"), "{claims}");
        let [iat, exp] = ["iat", "exp"].map(|name| claims.get(name).and_then(Value::as_i64));
        ensure!(iat.zip(exp).is_some_and(|(iat, exp)| iat < exp), "{claims}");
        let session = claims.get("sid").and_then(Value::as_str).context("no session")?;
        session.parse().ok().context("not a session")
    }
}

fn decoded(part: &str) -> Result<Value> {
    Ok(serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part)?)?)
}

fn point(key: &Value) -> Result<(String, Vec<u8>)> {
    let text = |name: &str| key.get(name).and_then(Value::as_str).context("not a key");
    ensure!(text("crv")? == "P-256", "{key}");
    let mut point = vec![4];
    for coordinate in ["x", "y"] {
        point.extend(URL_SAFE_NO_PAD.decode(text(coordinate)?)?);
    }
    Ok((text("kid")?.to_owned(), point))
}
