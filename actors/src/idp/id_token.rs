//! The ID token: its signature and what it must say, claim by claim (OpenID Connect Core §3.1.3.7).

use aws_lc_rs::digest;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::Algorithm;
use portcullis_config::limits::{CLOCK_LEEWAY, SIGN_IN_LIFE, SUBJECT_BYTES};
use portcullis_events::Time;
use serde_json::{Map, Value};

use super::claims::{check_audience, fault, missing_or_other, name, text, time};
use super::jws::Unverified;
use super::keys::Key;
use super::{Because, ClaimFault};

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

impl Unverified<'_> {
    /// The claims, once the signature holds and they say what they must.
    ///
    /// # Errors
    /// [`Because`].
    pub(super) fn verify(&self, key: &Key, expected: &Expected<'_>) -> Result<Map<String, Value>, Because> {
        let claims = self.signed_claims(key)?;
        check(&claims, expected, self.algorithm)?;
        Ok(claims)
    }
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
}
