//! The provider's public keys: which of them we take, and when they are fetched again.

use std::rc::Rc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey};
use portcullis_config::limits::{DISCOVERY_LIFE, JWKS_KEYS, JWKS_REFETCH};
use portcullis_events::Time;
use serde_json::{Map, Value};
use tokio::sync::Mutex;
use url::Url;

use super::http::Http;
use super::jws::{Unverified, allowed};
use super::{Because, Endpoint, SignInError, json};

/// A public key that signs.
pub(super) struct Key {
    kid: Option<String>,
    algorithm: Option<String>,
    family: Family,
    public: DecodingKey,
}

/// What a key is: an algorithm fits exactly one of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Family {
    Rsa,
    P256,
    P384,
    Ed25519,
}

/// The keys of one key set that we can use.
pub(super) struct KeySet(Vec<Rc<Key>>);

impl Key {
    /// The key itself.
    pub(super) fn public(&self) -> &DecodingKey {
        &self.public
    }

    /// Reads a JWK (RFC 7517 §4). `None` where it is not for signatures, of a kind we do not use, or too weak.
    fn read(jwk: &Map<String, Value>) -> Option<Self> {
        let text = |name: &str| jwk.get(name).and_then(Value::as_str);
        let optional = |name: &str| match jwk.get(name) {
            None => Some(None),
            Some(value) => value.as_str().map(|text| Some(text.to_owned())),
        };
        if optional("use")?.is_some_and(|purpose| purpose != "sig") {
            return None;
        }
        if let Some(operations) = jwk.get("key_ops") {
            operations.as_array()?.iter().any(|operation| operation == "verify").then_some(())?;
        }
        let (family, public) = match (text("kty")?, text("crv")) {
            ("RSA", _) => {
                strong_enough(text("n")?).then_some(())?;
                (Family::Rsa, DecodingKey::from_rsa_components(text("n")?, text("e")?))
            }
            ("EC", Some("P-256")) => (Family::P256, DecodingKey::from_ec_components(text("x")?, text("y")?)),
            ("EC", Some("P-384")) => (Family::P384, DecodingKey::from_ec_components(text("x")?, text("y")?)),
            ("OKP", Some("Ed25519")) => (Family::Ed25519, DecodingKey::from_ed_components(text("x")?)),
            _ => return None,
        };
        Some(Self { kid: optional("kid")?, algorithm: optional("alg")?, family, public: public.ok()? })
    }

    fn fits(&self, token: &Unverified<'_>) -> bool {
        let named = token.kid.is_none() || token.kid == self.kid;
        let meant = self.algorithm.as_deref().is_none_or(|name| allowed(name) == Some(token.algorithm));
        named && meant && family(token.algorithm) == Some(self.family)
    }
}

/// At least 2048 bits and at most 8192, which is what the verifier takes.
fn strong_enough(modulus: &str) -> bool {
    let Ok(modulus) = URL_SAFE_NO_PAD.decode(modulus) else { return false };
    let mut significant = modulus.iter().skip_while(|byte| **byte == 0);
    let first = significant.next().map_or(0, |byte| 8 - byte.leading_zeros());
    let bits = u32::try_from(significant.count()).unwrap_or(u32::MAX).saturating_mul(8).saturating_add(first);
    (2048..=8192).contains(&bits)
}

fn family(algorithm: Algorithm) -> Option<Family> {
    match algorithm {
        Algorithm::RS256 | Algorithm::RS384 | Algorithm::RS512 => Some(Family::Rsa),
        Algorithm::PS256 | Algorithm::PS384 | Algorithm::PS512 => Some(Family::Rsa),
        Algorithm::ES256 => Some(Family::P256),
        Algorithm::ES384 => Some(Family::P384),
        Algorithm::EdDSA => Some(Family::Ed25519),
        _ => None,
    }
}

impl KeySet {
    /// Reads a JWK set (RFC 7517 §5); keys that we cannot use are left out. `None` where it is none, or too large.
    fn read(bytes: &[u8]) -> Option<Self> {
        let set = json::object(bytes)?;
        let keys = set.get("keys")?.as_array()?;
        if keys.len() > JWKS_KEYS {
            return None;
        }
        Some(Self(keys.iter().filter_map(Value::as_object).filter_map(Key::read).map(Rc::new).collect()))
    }

    /// The one key that fits; `None` where none does, or where it could be either of two.
    fn find(&self, token: &Unverified<'_>) -> Option<Rc<Key>> {
        let mut fitting = self.0.iter().filter(|key| key.fits(token));
        match (fitting.next(), fitting.next()) {
            (Some(key), None) => Some(Rc::clone(key)),
            (_, _) => None,
        }
    }
}

/// The key set of one provider, fetched when it is needed.
#[derive(Default)]
pub(super) struct Keys(Mutex<Held>);

#[derive(Default)]
struct Held {
    fetched: Option<(Time, KeySet)>,
    asked_again: Option<Time>,
}

impl Keys {
    /// The key of a token. An unknown one has the keys fetched again, but not over and over: anyone can make up a key
    /// id. The lock is held while fetching, so that there is one fetch at a time.
    ///
    /// # Errors
    /// [`Because::NoKey`], or why the keys cannot be had.
    pub(super) async fn find(
        &self,
        token: &Unverified<'_>,
        url: &Url,
        http: &Http,
        now: Time,
    ) -> Result<Rc<Key>, SignInError> {
        let mut held = self.0.lock().await;
        let fresh = match &held.fetched {
            Some((at, keys)) if now.since(*at) < DISCOVERY_LIFE => {
                if let Some(key) = keys.find(token) {
                    return Ok(key);
                }
                true
            }
            Some(_) | None => false,
        };
        if fresh {
            if held.asked_again.is_some_and(|at| now.since(at) < JWKS_REFETCH) {
                return Err(Because::NoKey.into());
            }
            held.asked_again = Some(now);
        }
        let body = http.get(Endpoint::Keys, url.as_str(), None).await?;
        let keys = KeySet::read(&body).ok_or(Because::Garbage(Endpoint::Keys))?;
        let key = keys.find(token);
        held.fetched = Some((now, keys));
        key.ok_or_else(|| Because::NoKey.into())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use portcullis_harness::idp::ScriptedIdp;
    use serde_json::json;

    use super::*;

    fn token(alg: &str, kid: Option<&str>) -> String {
        let header = match kid {
            Some(kid) => json!({"alg": alg, "kid": kid}),
            None => json!({"alg": alg}),
        };
        format!("{}.e30.c2ln", URL_SAFE_NO_PAD.encode(header.to_string()))
    }

    fn finds(keys: Value, token: &str) -> bool {
        let set = KeySet::read(json!({"keys": keys}).to_string().as_bytes()).unwrap();
        set.find(&Unverified::parse(token).unwrap()).is_some()
    }

    fn rsa(bits: usize) -> Value {
        let mut modulus = vec![0xff; bits / 8];
        modulus.insert(0, 0);
        json!({"kty": "RSA", "kid": "k", "n": URL_SAFE_NO_PAD.encode(modulus), "e": "AQAB"})
    }

    fn changed(mut key: Value, name: &str, value: Value) -> Value {
        key.as_object_mut().unwrap().insert(name.into(), value);
        key
    }

    #[test]
    fn a_key_is_chosen_by_id_kind_algorithm_and_use() {
        let named = token("RS256", Some("k"));
        assert!(finds(json!([rsa(2048)]), &named));
        assert!(finds(json!([changed(rsa(2048), "use", json!("sig"))]), &named));
        assert!(finds(json!([changed(rsa(2048), "alg", json!("RS256"))]), &named));
        assert!(finds(json!([changed(rsa(2048), "key_ops", json!(["verify"]))]), &named));
        for (name, value) in [
            ("use", json!("enc")),
            ("use", json!(["sig"])),
            ("alg", json!("RS384")),
            ("alg", json!(1)),
            ("key_ops", json!(["encrypt"])),
            ("key_ops", json!("verify")),
            ("kid", json!("other")),
            ("kid", json!(null)),
            ("kty", json!("oct")),
            ("kty", json!("EC")),
        ] {
            assert!(!finds(json!([changed(rsa(2048), name, value.clone())]), &named), "{name}: {value}");
        }
        assert!(!finds(json!([rsa(2048)]), &token("ES256", Some("k"))));
    }

    #[test]
    fn a_weak_or_monstrous_key_is_left_out() {
        let named = token("RS256", Some("k"));
        for bits in [512, 1024, 2040, 16_384] {
            assert!(!finds(json!([rsa(bits)]), &named), "{bits}");
        }
        let many: Vec<_> = std::iter::repeat_n(rsa(2048), JWKS_KEYS + 1).collect();
        assert!(KeySet::read(json!({"keys": many}).to_string().as_bytes()).is_none());
    }

    #[test]
    fn a_token_that_names_no_key_needs_exactly_one_that_fits() {
        let nameless = token("RS256", None);
        let point = URL_SAFE_NO_PAD.encode([1; 32]);
        let curve = json!({"kty": "EC", "crv": "P-256", "kid": "e", "x": point, "y": point});
        assert!(finds(json!([rsa(2048), curve]), &nameless));
        assert!(!finds(json!([rsa(2048), changed(rsa(2048), "kid", json!("l"))]), &nameless));
        assert!(!finds(json!([rsa(2048), rsa(2048)]), &token("RS256", Some("k"))));
        assert!(!finds(json!([curve]), &nameless));
    }

    #[actix::test]
    async fn made_up_key_ids_have_the_keys_fetched_once_a_minute() {
        let idp = ScriptedIdp::start();
        let url = Url::parse(&format!("{}/jwks", idp.issuer())).unwrap();
        let (keys, http, start) = (Keys::default(), Http::new(), Time::from_secs(1_800_000_000));
        let ask = async |kid: &str, after: Duration| {
            let token = token("RS256", Some(kid));
            keys.find(&Unverified::parse(&token).unwrap(), &url, &http, start.plus(after)).await.is_ok()
        };
        let fetched = || idp.requests().iter().filter(|request| request.path == "/jwks").count();
        assert!(ask("rsa", Duration::ZERO).await);
        assert_eq!(fetched(), 1);
        for made_up in 0..20 {
            assert!(!ask(&format!("made-up-{made_up}"), Duration::from_secs(made_up)).await);
        }
        assert_eq!(fetched(), 2);
        assert!(ask("rsa", Duration::from_secs(30)).await);
        assert_eq!(fetched(), 2);
        assert!(!ask("made-up", JWKS_REFETCH).await);
        assert_eq!(fetched(), 3);
        assert!(ask("rsa", DISCOVERY_LIFE + JWKS_REFETCH).await);
        assert_eq!(fetched(), 4);
    }
}
