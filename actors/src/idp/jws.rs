//! A signed token taken apart: what its header asks for, and whether its signature holds (RFC 7515, RFC 8725).
//!
//! What may be signed with is our own list; neither the token's header nor the discovery document adds to it, and a key
//! that a token brings along (`jwk`, `jku`, `x5u`, `x5c`) is not looked at.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::Algorithm;
use portcullis_config::limits::IDP_TOKEN_BYTES;
use serde_json::{Map, Value};

use super::keys::Key;
use super::{Because, json};

/// A signed token whose header was read and whose payload nobody has looked at.
pub(super) struct Unverified<'a> {
    /// How it says it is signed: one of our list.
    pub(super) algorithm: Algorithm,
    /// The key it names.
    pub(super) kid: Option<String>,
    signed: &'a str,
    payload: &'a str,
    signature: &'a str,
}

impl<'a> Unverified<'a> {
    /// Takes a compact JWS apart.
    ///
    /// # Errors
    /// [`Because`], for every header that we do not accept.
    pub(super) fn parse(token: &'a str) -> Result<Self, Because> {
        Self::parse_typed(token, &["JWT"])
    }

    /// The same for a token that may say in `typ` that it is one of `kinds`.
    ///
    /// # Errors
    /// [`Because`], for every header that we do not accept.
    pub(super) fn parse_typed(token: &'a str, kinds: &[&str]) -> Result<Self, Because> {
        if token.len() > IDP_TOKEN_BYTES {
            return Err(Because::Malformed);
        }
        let (signed, signature) = token.rsplit_once('.').ok_or(Because::Malformed)?;
        let (header, payload) = signed.split_once('.').ok_or(Because::Malformed)?;
        if payload.contains('.') {
            return Err(Because::Malformed);
        }
        let header = decoded_object(header)?;
        if header.contains_key("crit") {
            return Err(Because::Critical);
        }
        if !is_of(&header, kinds) {
            return Err(Because::Type);
        }
        let algorithm = header.get("alg").and_then(Value::as_str).and_then(allowed).ok_or(Because::Algorithm)?;
        let kid = match header.get("kid") {
            None => None,
            Some(Value::String(kid)) => Some(kid.clone()),
            Some(_) => return Err(Because::Malformed),
        };
        Ok(Self { algorithm, kid, signed, payload, signature })
    }

    /// The claims, once the signature holds: what they say is for the caller to check.
    ///
    /// # Errors
    /// [`Because`].
    pub(super) fn signed_claims(&self, key: &Key) -> Result<Map<String, Value>, Because> {
        let holds = jsonwebtoken::crypto::verify(self.signature, self.signed.as_bytes(), key.public(), self.algorithm);
        if !holds.unwrap_or(false) {
            return Err(Because::Signature);
        }
        decoded_object(self.payload)
    }
}

/// The claims of an ID token that was verified before and has been in our keeping since. `None` if it is none.
pub(super) fn verified_before(token: &str) -> Option<Map<String, Value>> {
    let (signed, _) = token.rsplit_once('.')?;
    let (_, payload) = signed.split_once('.')?;
    decoded_object(payload).ok()
}

/// The algorithms we accept: asymmetric ones, none weaker than RSA with PKCS #1 v1.5 and SHA-256.
pub(super) fn allowed(name: &str) -> Option<Algorithm> {
    match name {
        "RS256" => Some(Algorithm::RS256),
        "RS384" => Some(Algorithm::RS384),
        "RS512" => Some(Algorithm::RS512),
        "PS256" => Some(Algorithm::PS256),
        "PS384" => Some(Algorithm::PS384),
        "PS512" => Some(Algorithm::PS512),
        "ES256" => Some(Algorithm::ES256),
        "ES384" => Some(Algorithm::ES384),
        "EdDSA" => Some(Algorithm::EdDSA),
        _ => None,
    }
}

/// A token that is made for another purpose says so in `typ`.
fn is_of(header: &Map<String, Value>, kinds: &[&str]) -> bool {
    match header.get("typ") {
        None => true,
        Some(Value::String(kind)) => kinds.iter().any(|ours| kind.eq_ignore_ascii_case(ours)),
        Some(_) => false,
    }
}

fn decoded_object(part: &str) -> Result<Map<String, Value>, Because> {
    let bytes = URL_SAFE_NO_PAD.decode(part).map_err(|_| Because::Malformed)?;
    json::object(&bytes).ok_or(Because::Malformed)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_header_that_asks_for_trust_or_attention_is_refused() {
        let token = |header: Value| format!("{}.e30.c2ln", URL_SAFE_NO_PAD.encode(header.to_string()));
        let parse = |header: Value| Unverified::parse(&token(header)).map(|token| token.algorithm);
        assert_eq!(parse(json!({"alg": "ES256", "typ": "jwt"})), Ok(Algorithm::ES256));
        for alg in ["none", "None", "nOnE", "", "HS256", "HS512", "rs256", "RS256 ", "ES512", "RS1"] {
            assert_eq!(parse(json!({"alg": alg})), Err(Because::Algorithm), "{alg}");
        }
        assert_eq!(parse(json!({})), Err(Because::Algorithm));
        assert_eq!(parse(json!({"alg": ["RS256"]})), Err(Because::Algorithm));
        assert_eq!(parse(json!({"alg": "RS256", "crit": []})), Err(Because::Critical));
        assert_eq!(parse(json!({"alg": "RS256", "typ": "logout+jwt"})), Err(Because::Type));
        assert_eq!(parse(json!({"alg": "RS256", "kid": 1})), Err(Because::Malformed));
        for bad in ["", "a", "a.b", "a.b.c.d", "e30.e30.", "..", "e30=.e30.c2ln", "W10.e30.c2ln"] {
            assert!(Unverified::parse(bad).is_err(), "{bad}");
        }
        assert!(matches!(Unverified::parse(&"a".repeat(IDP_TOKEN_BYTES + 1)), Err(Because::Malformed)));
    }
}
