//! The ID token: taken apart, its signature and every claim checked (OpenID Connect Core §3.1.3.7, RFC 8725).
//!
//! What may be signed with is our own list; neither the token's header nor the discovery document adds to it, and a key
//! that a token brings along (`jwk`, `jku`, `x5u`, `x5c`) is not looked at.

use std::borrow::Cow;

use aws_lc_rs::digest;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::Algorithm;
use portcullis_config::limits::{CLOCK_LEEWAY, IDP_TOKEN_BYTES, SIGN_IN_LIFE, SUBJECT_BYTES};
use portcullis_events::Time;
use serde_json::{Map, Value};

use super::keys::Key;
use super::{Because, ClaimFault, json};

/// The last second of the year 9999: a time beyond it is a mistake or a trick.
const LAST_SECOND: i64 = 253_402_300_799;

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

/// What an ID token must say.
pub(super) struct Expected<'a> {
    /// The issuer, character for character.
    pub(super) issuer: &'a str,
    /// Our client id.
    pub(super) client_id: &'a str,
    /// What it must say of the sign-in.
    pub(super) of: Of<'a>,
    /// The access token that came with it.
    pub(super) access_token: &'a str,
    /// When it is read.
    pub(super) now: Time,
}

/// Which sign-in an ID token belongs to.
pub(super) enum Of<'a> {
    /// One under way, with this nonce.
    SignIn {
        /// The nonce.
        nonce: &'a str,
    },
    /// One long past, renewed (OpenID Connect Core §12.2): the same person; a nonce need not be there, but if it is, it
    /// is the same.
    Renewal {
        /// `sub` at the sign-in.
        subject: &'a str,
        /// The nonce of the ID token before, if it had one.
        nonce: Option<&'a str>,
    },
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

    /// The claims, once the signature holds and they say what they must.
    ///
    /// # Errors
    /// [`Because`].
    pub(super) fn verify(&self, key: &Key, expected: &Expected<'_>) -> Result<Map<String, Value>, Because> {
        let claims = self.signed_claims(key)?;
        check(&claims, expected, self.algorithm)?;
        Ok(claims)
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

fn check(claims: &Map<String, Value>, expected: &Expected<'_>, algorithm: Algorithm) -> Result<(), Because> {
    if text(claims, "iss")? != Some(expected.issuer) {
        return Err(missing_or_other(claims, "iss"));
    }
    check_audience(claims, expected.client_id)?;
    check_times(claims, expected.now)?;
    let subject = name(claims, "sub", SUBJECT_BYTES)?.ok_or(fault("sub", ClaimFault::Missing))?;
    match (&expected.of, text(claims, "nonce")?) {
        (Of::SignIn { nonce }, said) if said != Some(nonce) => return Err(missing_or_other(claims, "nonce")),
        (Of::Renewal { subject: before, .. }, _) if subject != *before => return Err(fault("sub", ClaimFault::Other)),
        (Of::Renewal { nonce, .. }, Some(said)) if *nonce != Some(said) => {
            return Err(fault("nonce", ClaimFault::Other));
        }
        (Of::SignIn { .. } | Of::Renewal { .. }, _) => {}
    }
    match text(claims, "at_hash")? {
        Some(hash) if hash != half_hash(algorithm, expected.access_token) => Err(fault("at_hash", ClaimFault::Other)),
        Some(_) | None => Ok(()),
    }
}

/// For us, and where for others too, issued to us.
pub(super) fn check_audience(claims: &Map<String, Value>, client_id: &str) -> Result<(), Because> {
    let audience: Vec<&str> = match claims.get("aud") {
        None => return Err(fault("aud", ClaimFault::Missing)),
        Some(Value::String(one)) => vec![one],
        Some(Value::Array(many)) => {
            let many: Option<_> = many.iter().map(Value::as_str).collect();
            many.ok_or(fault("aud", ClaimFault::Malformed))?
        }
        Some(_) => return Err(fault("aud", ClaimFault::Malformed)),
    };
    if !audience.contains(&client_id) {
        return Err(fault("aud", ClaimFault::Other));
    }
    match text(claims, "azp")? {
        Some(party) if party != client_id => Err(fault("azp", ClaimFault::Other)),
        None if audience.iter().any(|other| *other != client_id) => Err(fault("azp", ClaimFault::Missing)),
        Some(_) | None => Ok(()),
    }
}

fn check_times(claims: &Map<String, Value>, now: Time) -> Result<(), Because> {
    let expires = time(claims, "exp")?.ok_or(fault("exp", ClaimFault::Missing))?;
    if now >= expires.plus(CLOCK_LEEWAY) {
        return Err(fault("exp", ClaimFault::Past));
    }
    let issued = time(claims, "iat")?.ok_or(fault("iat", ClaimFault::Missing))?;
    if issued > now.plus(CLOCK_LEEWAY) {
        return Err(fault("iat", ClaimFault::Future));
    }
    // it carries the nonce of this sign-in or came just now, so it cannot be older than a sign-in may be
    if issued < now.minus(SIGN_IN_LIFE + CLOCK_LEEWAY) {
        return Err(fault("iat", ClaimFault::Past));
    }
    match time(claims, "nbf")? {
        Some(not_before) if not_before > now.plus(CLOCK_LEEWAY) => Err(fault("nbf", ClaimFault::Future)),
        Some(_) | None => Ok(()),
    }
}

/// A claim that names somebody or something where it is there at all: not empty, not too long, fit for a log.
pub(super) fn name<'a>(
    claims: &'a Map<String, Value>,
    claim: &'static str,
    bytes: usize,
) -> Result<Option<&'a str>, Because> {
    match text(claims, claim)? {
        Some(name) if name.is_empty() || name.len() > bytes || name.contains(char::is_control) => {
            Err(fault(claim, ClaimFault::Malformed))
        }
        name => Ok(name),
    }
}

/// A claim that is text where it is there at all.
pub(super) fn text<'a>(claims: &'a Map<String, Value>, name: &'static str) -> Result<Option<&'a str>, Because> {
    match claims.get(name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(fault(name, ClaimFault::Malformed)),
    }
}

/// A NumericDate (RFC 7519 §2): seconds since the Unix epoch, perhaps with a fraction.
pub(super) fn time(claims: &Map<String, Value>, name: &'static str) -> Result<Option<Time>, Because> {
    let Some(value) = claims.get(name) else { return Ok(None) };
    let malformed = || fault(name, ClaimFault::Malformed);
    let seconds = match (value.as_i64(), value.as_f64()) {
        (Some(whole), _) => whole,
        (None, Some(fraction)) => whole_seconds(fraction).ok_or_else(malformed)?,
        (None, None) => return Err(malformed()),
    };
    (0..=LAST_SECOND).contains(&seconds).then(|| Some(Time::from_secs(seconds))).ok_or_else(malformed)
}

/// Rounded down, without a conversion that could be out of range.
fn whole_seconds(seconds: f64) -> Option<i64> {
    let in_range = (0.0..1e12).contains(&seconds);
    let duration = in_range.then(|| std::time::Duration::try_from_secs_f64(seconds).ok())??;
    i64::try_from(duration.as_secs()).ok()
}

/// The left half of the hash that belongs to the algorithm (OpenID Connect Core §3.1.3.6).
fn half_hash(algorithm: Algorithm, token: &str) -> String {
    let hash = match algorithm {
        Algorithm::RS384 | Algorithm::PS384 | Algorithm::ES384 => &digest::SHA384,
        // EdDSA on Ed25519 hashes with SHA-512
        Algorithm::RS512 | Algorithm::PS512 | Algorithm::EdDSA => &digest::SHA512,
        _ => &digest::SHA256,
    };
    let hash = digest::digest(hash, token.as_bytes());
    let (left, _) = hash.as_ref().split_at(hash.as_ref().len() / 2);
    URL_SAFE_NO_PAD.encode(left)
}

pub(super) fn missing_or_other(claims: &Map<String, Value>, name: &'static str) -> Because {
    fault(name, if claims.contains_key(name) { ClaimFault::Other } else { ClaimFault::Missing })
}

pub(super) fn fault(claim: &'static str, fault: ClaimFault) -> Because {
    Because::Claim { claim: Cow::Borrowed(claim), fault }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const NOW: Time = Time::from_secs(1_800_000_000);

    fn expected() -> Expected<'static> {
        Expected {
            issuer: "https://idp.example",
            client_id: "us",
            of: Of::SignIn { nonce: "n" },
            access_token: "access",
            now: NOW,
        }
    }

    fn with(changes: Value) -> Result<(), Because> {
        let mut claims = json!({
            "iss": "https://idp.example", "aud": "us", "sub": "alice", "nonce": "n",
            "exp": 1_800_000_300, "iat": 1_800_000_000,
        });
        let object = claims.as_object_mut().unwrap();
        for (name, value) in changes.as_object().unwrap() {
            match value {
                Value::String(remove) if remove == "-" => object.remove(name),
                _ => object.insert(name.clone(), value.clone()),
            };
        }
        check(object, &expected(), Algorithm::RS256)
    }

    #[test]
    fn a_renewed_id_token_is_about_the_same_person_and_its_nonce_if_any_is_the_same() {
        let renewed = |changes: Value, nonce: Option<&'static str>| {
            let mut claims = json!({
                "iss": "https://idp.example", "aud": "us", "sub": "alice", "exp": 1_800_000_300, "iat": 1_800_000_000,
            });
            claims.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
            let expected = Expected { of: Of::Renewal { subject: "alice", nonce }, ..expected() };
            check(claims.as_object().unwrap(), &expected, Algorithm::RS256)
        };
        assert_eq!(renewed(json!({}), None), Ok(()));
        assert_eq!(renewed(json!({}), Some("n")), Ok(()));
        assert_eq!(renewed(json!({"nonce": "n"}), Some("n")), Ok(()));
        assert_eq!(renewed(json!({"nonce": "m"}), Some("n")), Err(fault("nonce", ClaimFault::Other)));
        assert_eq!(renewed(json!({"nonce": "m"}), None), Err(fault("nonce", ClaimFault::Other)));
        assert_eq!(renewed(json!({"sub": "bob"}), Some("n")), Err(fault("sub", ClaimFault::Other)));
        assert_eq!(renewed(json!({"aud": "them"}), None), Err(fault("aud", ClaimFault::Other)));
        assert_eq!(renewed(json!({"iss": "https://evil.example"}), None), Err(fault("iss", ClaimFault::Other)));
    }

    #[test]
    fn what_an_id_token_must_say_is_said_exactly() {
        for good in [
            json!({}),
            json!({"aud": ["us"]}),
            json!({"aud": ["other", "us"], "azp": "us"}),
            json!({"azp": "us"}),
            json!({"exp": 1_800_000_300.5}),
            json!({"exp": 1_799_999_941}),
            json!({"iat": 1_800_000_060, "nbf": 1_800_000_060}),
            json!({"iat": 1_799_999_340}),
            json!({"at_hash": half_hash(Algorithm::RS256, "access")}),
        ] {
            assert_eq!(with(good.clone()), Ok(()), "{good}");
        }
    }

    #[test]
    fn a_claim_that_is_missing_wrong_or_of_another_type_is_refused() {
        use ClaimFault::{Future, Malformed, Missing, Other, Past};
        let long = "x".repeat(SUBJECT_BYTES + 1);
        for (claim, faulty) in [
            (
                "iss",
                vec![
                    (json!("-"), Missing),
                    (json!("https://idp.example/"), Other),
                    (json!(["https://idp.example"]), Malformed),
                ],
            ),
            (
                "aud",
                vec![
                    (json!("-"), Missing),
                    (json!("US"), Other),
                    (json!([]), Other),
                    (json!([1, "us"]), Malformed),
                    (json!({"us": 1}), Malformed),
                    (json!(null), Malformed),
                ],
            ),
            ("azp", vec![(json!("other"), Other), (json!(null), Malformed), (json!(["us"]), Malformed)]),
            (
                "exp",
                vec![
                    (json!("-"), Missing),
                    (json!("1800000300"), Malformed),
                    (json!(1e300), Malformed),
                    (json!(-1), Malformed),
                    (json!(1_799_999_940), Past),
                    (json!(u64::MAX), Malformed),
                    (json!(null), Malformed),
                    (json!(true), Malformed),
                ],
            ),
            (
                "iat",
                vec![
                    (json!("-"), Missing),
                    (json!("1800000000"), Malformed),
                    (json!(1_800_000_061), Future),
                    (json!(1_799_999_339), Past),
                ],
            ),
            ("nbf", vec![(json!(1_800_000_061), Future), (json!("1800000000"), Malformed), (json!(null), Malformed)]),
            (
                "nonce",
                vec![(json!("-"), Missing), (json!("N"), Other), (json!(["n"]), Malformed), (json!(null), Malformed)],
            ),
            (
                "sub",
                vec![
                    (json!("-"), Missing),
                    (json!(""), Malformed),
                    (json!(7), Malformed),
                    (json!(long), Malformed),
                    (json!("a\nb"), Malformed),
                ],
            ),
            ("at_hash", vec![(json!("x"), Other), (json!(1), Malformed), (json!(""), Other)]),
        ] {
            for (value, why) in faulty {
                assert_eq!(with(json!({claim: value.clone()})), Err(fault(claim, why)), "{claim}: {value}");
            }
        }
        assert_eq!(with(json!({"aud": ["us", "other"]})), Err(fault("azp", Missing)));
    }

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
