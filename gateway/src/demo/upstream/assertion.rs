//! What an upstream does with an assertion: fetches the keys from the gateway and checks signature, issuer, audience,
//! expiry.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, anyhow, bail};
use jsonwebtoken::jwk::{Jwk, JwkSet};
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use portcullis_actors::clock;
use portcullis_config::limits::{DEMO_BODY_BYTES, DEMO_JWKS_LIFE, DEMO_JWKS_TIMEOUT};
use portcullis_events::Time;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use serde_json::{Map, Value};

use crate::demo::configuration::{self, origin};

/// What came of an assertion.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// There is none.
    Absent,
    /// It is genuine; its claims.
    Verified(Map<String, Value>),
    /// It is not to be believed; why.
    Refused(String),
}

/// TLS that trusts the demo's authority alone.
///
/// # Errors
/// The file holds no certificate.
pub fn trusting(ca: &Path) -> Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(ca)?)?;
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
    Ok(config.with_safe_default_protocol_versions()?.with_root_certificates(roots).with_no_client_auth())
}

/// Verifies assertions, on one worker.
pub struct Verifier {
    /// Where the gateway listens: `*.localhost` is a name for browsers, not for every resolver.
    gateway: SocketAddr,
    client: awc::Client,
    /// The keys of each host, and when they were fetched.
    keys: RefCell<HashMap<String, (JwkSet, Time)>>,
}

impl Verifier {
    /// A verifier that asks the gateway at this address.
    pub fn new(gateway: SocketAddr, tls: Arc<ClientConfig>) -> Self {
        // no ALPN in `tls`: HTTP/1.1 and nothing else
        let connector = awc::Connector::new().rustls_0_23(tls).timeout(DEMO_JWKS_TIMEOUT);
        let client = awc::Client::builder().connector(connector).timeout(DEMO_JWKS_TIMEOUT).disable_redirects();
        Self { gateway, client: client.finish(), keys: RefCell::default() }
    }

    /// Judges an assertion that came for `host` (its port, if any, does not matter).
    pub async fn judge(&self, assertion: Option<&str>, host: &str) -> Verdict {
        let Some(assertion) = assertion else { return Verdict::Absent };
        match self.verify(assertion, name_of(host)).await {
            Ok(claims) => Verdict::Verified(claims),
            Err(error) => Verdict::Refused(format!("{error:#}")),
        }
    }

    async fn verify(&self, assertion: &str, host: &str) -> Result<Map<String, Value>> {
        if !configuration::hosts().iter().any(|known| known == host) {
            bail!("the host is none of the demo's");
        }
        let header = jsonwebtoken::decode_header(assertion).context("it is no JWT")?;
        let kid = header.kid.ok_or_else(|| anyhow!("it names no key"))?;
        let key = match self.known(host, &kid, clock::now()) {
            Some(key) => key,
            None => self.fetch(host).await?.find(&kid).cloned().ok_or_else(|| anyhow!("its key is not published"))?,
        };
        check(assertion, &key, host)
    }

    fn known(&self, host: &str, kid: &str, now: Time) -> Option<Jwk> {
        let keys = self.keys.borrow();
        let (keys, _) = keys.get(host).filter(|(_, fetched)| now.since(*fetched) < DEMO_JWKS_LIFE)?;
        keys.find(kid).cloned()
    }

    async fn fetch(&self, host: &str) -> Result<JwkSet> {
        let url = format!("{}/.well-known/pomerium/jwks.json", origin(host, self.gateway.port()));
        let request = self.client.get(url).address(self.gateway);
        let answer = request.send().await;
        let mut answer = answer.map_err(|error| anyhow!("{error}")).context("the gateway's keys are out of reach")?;
        if !answer.status().is_success() {
            bail!("the gateway answers {} where its keys should be", answer.status());
        }
        let keys: JwkSet = answer.json().limit(DEMO_BODY_BYTES).await.context("the gateway publishes no keys")?;
        self.keys.borrow_mut().insert(host.to_owned(), (keys.clone(), clock::now()));
        Ok(keys)
    }
}

/// Checks signature, issuer, audience and expiry. The algorithm is ours to choose, not the token's.
fn check(assertion: &str, key: &Jwk, host: &str) -> Result<Map<String, Value>> {
    let mut validation = Validation::new(Algorithm::ES256);
    validation.set_audience(&[host]);
    // both forms of `jwt_issuer_format`
    validation.set_issuer(&[host.to_owned(), format!("https://{host}/")]);
    validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
    let key = DecodingKey::from_jwk(key).context("its key is unusable")?;
    Ok(jsonwebtoken::decode(assertion, &key, &validation)?.claims)
}

fn name_of(host: &str) -> &str {
    host.split_once(':').map_or(host, |(name, _)| name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use jsonwebtoken::{EncodingKey, Header};
    use serde_json::json;

    struct Gateway {
        signing: EncodingKey,
        jwk: Jwk,
    }

    fn gateway() -> Gateway {
        let pem = rcgen::KeyPair::generate().unwrap().serialize_pem();
        let signing = EncodingKey::from_ec_pem(pem.as_bytes()).unwrap();
        let jwk = Jwk::from_encoding_key(&signing, Algorithm::ES256).unwrap();
        Gateway { signing, jwk }
    }

    fn claims(change: impl FnOnce(&mut Value)) -> Value {
        let exp = clock::now().secs() + 300;
        let mut claims = json!({"iss": "app.localhost", "aud": "app.localhost", "sub": "demo-alice", "exp": exp});
        change(&mut claims);
        claims
    }

    fn judged(change: impl FnOnce(&mut Value)) -> Result<Map<String, Value>> {
        let gateway = gateway();
        let token = jsonwebtoken::encode(&Header::new(Algorithm::ES256), &claims(change), &gateway.signing).unwrap();
        check(&token, &gateway.jwk, "app.localhost")
    }

    #[test]
    fn an_assertion_for_this_host_is_believed() {
        assert_eq!(judged(|_| ()).unwrap().get("sub"), Some(&json!("demo-alice")));
        assert!(judged(|claims| claims["iss"] = json!("https://app.localhost/")).is_ok());
    }

    #[test]
    fn an_assertion_for_another_host_by_another_issuer_or_of_yesterday_is_not() {
        assert!(judged(|claims| claims["aud"] = json!("bob.localhost")).is_err());
        assert!(judged(|claims| claims["iss"] = json!("bob.localhost")).is_err());
        assert!(judged(|claims| claims["exp"] = json!(clock::now().secs() - 3600)).is_err());
        for missing in ["iss", "aud", "exp", "sub"] {
            assert!(judged(|claims| drop(claims.as_object_mut().unwrap().remove(missing))).is_err(), "{missing}");
        }
    }

    #[test]
    fn an_assertion_signed_by_somebody_else_or_by_nobody_is_not_believed() {
        let (ours, other) = (gateway(), gateway());
        let header = Header::new(Algorithm::ES256);
        let token = jsonwebtoken::encode(&header, &claims(|_| ()), &other.signing).unwrap();
        assert!(check(&token, &ours.jwk, "app.localhost").is_err());
        let (_, rest) = token.split_once('.').unwrap();
        let (payload, _) = rest.split_once('.').unwrap();
        // {"alg":"none"}
        assert!(check(&format!("eyJhbGciOiJub25lIn0.{payload}."), &ours.jwk, "app.localhost").is_err());
    }
}
