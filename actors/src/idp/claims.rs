//! Claims of a token, read one by one: of the right type, within bounds, and said what is wrong with the one that is not.

use std::borrow::Cow;

use portcullis_events::Time;
use serde_json::{Map, Value};

use super::{Because, ClaimFault};

/// The last second of the year 9999: a time beyond it is a mistake or a trick.
const LAST_SECOND: i64 = 253_402_300_799;

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

pub(super) fn missing_or_other(claims: &Map<String, Value>, name: &'static str) -> Because {
    fault(name, if claims.contains_key(name) { ClaimFault::Other } else { ClaimFault::Missing })
}

pub(super) fn fault(claim: &'static str, fault: ClaimFault) -> Because {
    Because::Claim { claim: Cow::Borrowed(claim), fault }
}
