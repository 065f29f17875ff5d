//! The identity headers of a request: the assertion, the claims that were asked for, and a key to route by.

use std::rc::Rc;

use aws_lc_rs::digest;
use http::{HeaderName, HeaderValue};
use portcullis_config::limits::CLAIM_HEADER_BYTES;
use portcullis_events::{SessionId, Time};
use serde_json::{Map, Value};
use uuid::Uuid;

use super::assertion::{AssertionCache, Source, claims, expiry, stamp};
use super::permit::Permit;
use crate::keyring::assertion::{AssertionKeyError, AssertionKeys};

/// The signed assertion.
pub const ASSERTION: HeaderName = HeaderName::from_static("x-pomerium-jwt-assertion");
/// The same for every request of a session, and tells nothing of it: for consistent hashing.
const ROUTING_KEY: HeaderName = HeaderName::from_static("x-pomerium-routing-key");

/// An assertion that could not be made. Nothing is forwarded without it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AssertionFault {
    /// The signature failed.
    #[error(transparent)]
    Key(#[from] AssertionKeyError),
    /// What was signed is no header value.
    #[error("the assertion cannot be put into a header")]
    Header,
}

/// What a permitted request carries to its upstream: `X-Pomerium-Jwt-Assertion`, a header for each of `claims_headers`
/// whose claim there is, and `X-Pomerium-Routing-Key` (SHA-256 of the session id, in hex). Nothing where the route needs
/// none of it ([`portcullis_config::Route::needs_assertion`]), and nothing for nobody. Whether they are sent under these
/// names, `pass_identity_headers` of the route says.
///
/// The audience is [`Permit::audience`].
///
/// # Errors
/// [`AssertionFault`].
pub fn headers(
    permit: &Permit,
    claims_headers: &[(HeaderName, String)],
    keys: &AssertionKeys,
    cache: &AssertionCache,
    now: Time,
) -> Result<Vec<(HeaderName, HeaderValue)>, AssertionFault> {
    if let Some(told) = permit.told() {
        return Ok(told.to_vec());
    }
    let route = permit.route();
    let Some(caller) = permit.caller().filter(|_| route.needs_assertion()) else { return Ok(Vec::new()) };
    let (session, host, filter) = (caller.session(), permit.audience(), &route.groups_filter);
    let source = Source { session, host, format: route.jwt_issuer_format, filter, key_id: keys.key_id() };
    if let Some(headers) = cache.get(source, now) {
        return Ok(headers.to_vec());
    }
    let mut claims = claims(session, host, source.format, filter, claims_headers);
    let mut headers = of_claims(&claims, claims_headers);
    let expiry = expiry(session, now);
    stamp(&mut claims, Uuid::new_v4(), now, expiry);
    headers.push((ASSERTION, value(&keys.sign(&claims)?).ok_or(AssertionFault::Header)?));
    headers.push((ROUTING_KEY, value(&routing_key(session.id)).ok_or(AssertionFault::Header)?));
    cache.put(source, now, expiry, Rc::from(headers.as_slice()));
    Ok(headers)
}

fn of_claims(claims: &Map<String, Value>, claims_headers: &[(HeaderName, String)]) -> Vec<(HeaderName, HeaderValue)> {
    let header = |(name, claim): &(HeaderName, String)| Some((name.clone(), of_claim(claim, claims.get(claim)?)?));
    claims_headers.iter().filter_map(header).collect()
}

/// The value of a claim as a header: the members of a list joined with commas, each left out that cannot stand there.
fn of_claim(claim: &str, content: &Value) -> Option<HeaderValue> {
    let members = match content {
        Value::Array(members) => members.as_slice(),
        single => std::slice::from_ref(single),
    };
    let texts: Vec<String> = members.iter().filter_map(text).filter(|text| !text.is_empty()).collect();
    let passing: Vec<&str> = texts.iter().map(String::as_str).filter(|text| is_visible(text)).collect();
    if passing.len() < texts.len() {
        // which claim, never what it says
        tracing::debug!(claim, left_out = texts.len() - passing.len(), "a claim has values that no header can carry");
    }
    let joined = passing.join(",");
    if joined.len() > CLAIM_HEADER_BYTES {
        tracing::warn!(claim, bytes = joined.len(), "a claim is too long for a header and is left out");
        return None;
    }
    if joined.is_empty() { None } else { value(&joined) }
}

fn text(value: &Value) -> Option<String> {
    match value {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => Some(value.to_string()),
    }
}

/// Visible ASCII, and spaces between it: a space at either end would be taken off on the way, and another value arrive.
fn is_visible(text: &str) -> bool {
    text.bytes().all(|byte| (b' '..=b'~').contains(&byte)) && text.trim_ascii() == text
}

fn value(text: &str) -> Option<HeaderValue> {
    HeaderValue::from_str(text).ok()
}

fn routing_key(session: SessionId) -> String {
    let hash = digest::digest(&digest::SHA256, session.to_string().as_bytes());
    hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}
