//! The logout token (OpenID Connect Back-Channel Logout 1.0 §2.4, §2.6): checked as strictly as an ID token, and never
//! mistaken for one.

use portcullis_config::limits::{CLOCK_LEEWAY, LOGOUT_NAME_BYTES, LOGOUT_TOKEN_LIFE, SUBJECT_BYTES};
use portcullis_events::Time;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::claims::{check_audience, fault, missing_or_other, name, text, time};
use super::{Because, ClaimFault};

/// What a logout token may say in `typ`; many providers say nothing, or `JWT`.
pub(super) const KINDS: [&str; 3] = ["logout+jwt", "application/logout+jwt", "JWT"];

/// The event that a logout token is about.
const EVENT: &str = "http://schemas.openid.net/event/backchannel-logout";

/// What a provider asks for, after everything was checked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Logout {
    /// The issuer.
    pub issuer: String,
    /// `sub`; at least one of this and `sid` is there.
    pub subject: Option<String>,
    /// `sid`.
    pub sid: Option<String>,
    /// `jti`.
    pub token_id: String,
}

/// Reads the claims of a logout token whose signature holds.
///
/// # Errors
/// [`Because`], for every claim that is not as it must be.
pub(super) fn read(claims: &Map<String, Value>, issuer: &str, client_id: &str, now: Time) -> Result<Logout, Because> {
    if text(claims, "iss")? != Some(issuer) {
        return Err(missing_or_other(claims, "iss"));
    }
    check_audience(claims, client_id)?;
    check_times(claims, now)?;
    // §2.4: prohibited, so that no ID token passes for a logout token
    if claims.contains_key("nonce") {
        return Err(Because::Nonce);
    }
    match claims.get("events") {
        None => return Err(fault("events", ClaimFault::Missing)),
        Some(Value::Object(events)) if events.get(EVENT).is_some_and(Value::is_object) => {}
        Some(Value::Object(_)) => return Err(fault("events", ClaimFault::Other)),
        Some(_) => return Err(fault("events", ClaimFault::Malformed)),
    }
    let token_id = name(claims, "jti", LOGOUT_NAME_BYTES)?.ok_or(fault("jti", ClaimFault::Missing))?;
    let (subject, sid) = (name(claims, "sub", SUBJECT_BYTES)?, name(claims, "sid", LOGOUT_NAME_BYTES)?);
    if subject.is_none() && sid.is_none() {
        return Err(fault("sub", ClaimFault::Missing));
    }
    Ok(Logout {
        issuer: issuer.to_owned(),
        subject: subject.map(str::to_owned),
        sid: sid.map(str::to_owned),
        token_id: token_id.to_owned(),
    })
}

/// It was made a short while ago; `exp`, which not every provider gives, only makes that shorter.
fn check_times(claims: &Map<String, Value>, now: Time) -> Result<(), Because> {
    let issued = time(claims, "iat")?.ok_or(fault("iat", ClaimFault::Missing))?;
    if issued > now.plus(CLOCK_LEEWAY) {
        return Err(fault("iat", ClaimFault::Future));
    }
    if issued < now.minus(LOGOUT_TOKEN_LIFE + CLOCK_LEEWAY) {
        return Err(fault("iat", ClaimFault::Past));
    }
    match time(claims, "exp")? {
        Some(expires) if now >= expires.plus(CLOCK_LEEWAY) => return Err(fault("exp", ClaimFault::Past)),
        Some(_) | None => {}
    }
    match time(claims, "nbf")? {
        Some(not_before) if not_before > now.plus(CLOCK_LEEWAY) => Err(fault("nbf", ClaimFault::Future)),
        Some(_) | None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const NOW: Time = Time::from_secs(1_800_000_000);

    fn with(changes: Value) -> Result<Logout, Because> {
        let mut claims = json!({
            "iss": "https://idp.example", "aud": "us", "sub": "alice", "sid": "1", "jti": "a",
            "iat": 1_800_000_000, "exp": 1_800_000_120, "events": {EVENT: {}},
        });
        let object = claims.as_object_mut().unwrap();
        for (name, value) in changes.as_object().unwrap() {
            match value {
                Value::String(remove) if remove == "-" => object.remove(name),
                _ => object.insert(name.clone(), value.clone()),
            };
        }
        read(object, "https://idp.example", "us", NOW)
    }

    #[test]
    fn a_logout_names_a_person_a_session_or_both() {
        let logout = with(json!({})).unwrap();
        assert_eq!((logout.subject.as_deref(), logout.sid.as_deref()), (Some("alice"), Some("1")));
        assert_eq!(with(json!({"sid": "-"})).unwrap().sid, None);
        assert_eq!(with(json!({"sub": "-"})).unwrap().subject, None);
        assert_eq!(with(json!({"sub": "-", "sid": "-"})), Err(fault("sub", ClaimFault::Missing)));
    }

    #[test]
    fn what_a_logout_token_must_say_is_said_exactly() {
        for good in [
            json!({"exp": "-"}),
            json!({"aud": ["us"]}),
            json!({"iat": 1_800_000_060, "nbf": 1_800_000_060}),
            json!({"iat": 1_799_999_340}),
            json!({"exp": 1_799_999_941}),
            json!({"events": {EVENT: {"more": 1}, "urn:another": {}}}),
        ] {
            assert!(with(good.clone()).is_ok(), "{good}");
        }
    }

    #[test]
    fn a_claim_that_is_missing_wrong_or_of_another_type_is_refused() {
        use ClaimFault::{Future, Malformed, Missing, Other, Past};
        for (claim, value, why) in [
            ("iss", json!("-"), Missing),
            ("iss", json!("https://idp.example/"), Other),
            ("aud", json!("-"), Missing),
            ("aud", json!("them"), Other),
            ("aud", json!(7), Malformed),
            ("iat", json!("-"), Missing),
            ("iat", json!("1800000000"), Malformed),
            ("iat", json!(1_800_000_061), Future),
            ("iat", json!(1_799_999_339), Past),
            ("exp", json!(1_799_999_940), Past),
            ("exp", json!(1e300), Malformed),
            ("exp", json!(null), Malformed),
            ("nbf", json!(1_800_000_061), Future),
            ("events", json!("-"), Missing),
            ("events", json!([EVENT]), Malformed),
            ("events", json!({}), Other),
            ("events", json!({EVENT: true}), Other),
            ("events", json!({"http://schemas.openid.net/event/backchannel-logout/": {}}), Other),
            ("jti", json!("-"), Missing),
            ("jti", json!(""), Malformed),
            ("jti", json!(7), Malformed),
            ("jti", json!("x".repeat(LOGOUT_NAME_BYTES + 1)), Malformed),
            ("sub", json!(""), Malformed),
            ("sub", json!(["alice"]), Malformed),
            ("sid", json!("a\nb"), Malformed),
            ("sid", json!(null), Malformed),
        ] {
            assert_eq!(with(json!({claim: value.clone()})), Err(fault(claim, why)), "{claim}: {value}");
        }
        for nonce in [json!("n"), json!(null), json!("")] {
            assert_eq!(with(json!({"nonce": nonce})), Err(Because::Nonce));
        }
    }
}
