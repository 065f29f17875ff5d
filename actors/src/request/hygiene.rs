//! What of a request goes on to the upstream: nothing that speaks for the gateway, and no handle of ours.

use std::borrow::Cow;
use std::collections::HashSet;

use http::HeaderMap;
use http::header::{AUTHORIZATION, COOKIE, EXPECT, HeaderName, HeaderValue, REFERER};
use portcullis_config::Config;
use url::form_urlencoded;

use super::Canonical;
use super::presented::{PARAMETER, handle_in};

/// Carries another person's assertion on behalf of a service in between; the upstream verifies it.
const ASSERTION_FOR: &str = "x-pomerium-jwt-assertion-for";

/// The header names that only the gateway may set.
#[derive(Debug, Clone)]
pub struct Managed {
    claims: HashSet<String>,
}

impl Managed {
    /// Those of every deployment, and those that `jwt_claims_headers` names.
    #[must_use]
    pub fn of(config: &Config) -> Self {
        let claims = config.jwt_claims_headers.iter().map(|(name, _)| spelled_plainly(name.as_str()).into_owned());
        Self { claims: claims.collect() }
    }

    /// Whether a name is one of them, in any spelling that a back-end may take for it: lower-cased, with everything
    /// that is neither letter nor digit read as `-`.
    #[must_use]
    pub fn holds(&self, name: &HeaderName) -> bool {
        let name = name.as_str();
        if name == ASSERTION_FOR {
            return false;
        }
        let plain = spelled_plainly(name);
        is_set_by_gateway(&plain) || self.claims.contains(plain.as_ref())
    }

    /// Takes out of a request's headers those that `names` bars, in any spelling, as far as they are not among ours:
    /// another process bars them. The first such name, if there is one.
    pub fn bar_also<'n>(&self, names: &'n [HeaderName], headers: &mut HeaderMap) -> Option<&'n HeaderName> {
        let mut first = None;
        for name in names.iter().filter(|name| !self.holds(name)) {
            first.get_or_insert(name);
            let plain = spelled_plainly(name.as_str());
            let barred: Vec<_> =
                headers.keys().filter(|name| spelled_plainly(name.as_str()) == plain).cloned().collect();
            for name in barred {
                headers.remove(name);
            }
        }
        first
    }

    /// The trailers of a request without what only the gateway may say, and without credentials, which have no place
    /// there (RFC 9110 §6.5.1).
    #[must_use]
    pub fn trailers_for_upstream(&self, mut trailers: HeaderMap) -> HeaderMap {
        let is_barred = |name: &HeaderName| {
            let plain = spelled_plainly(name.as_str());
            name.as_str().contains('_')
                || self.holds(name)
                || plain == ASSERTION_FOR
                || matches!(
                    plain.as_ref(),
                    "authorization" | "cookie" | "host" | "content-length" | "transfer-encoding" | "connection" | "te"
                )
        };
        let barred: Vec<_> = trailers.keys().filter(|name| is_barred(name)).cloned().collect();
        for name in barred {
            trailers.remove(name);
        }
        trailers
    }
}

/// Takes away every header that a back-end could take for one of `names` though it is spelled otherwise (`x_role`,
/// `x.role`): what a route sets or removes is not to be had in another spelling.
pub fn remove_lookalikes<'n>(headers: &mut HeaderMap, names: impl Iterator<Item = &'n HeaderName> + Clone) {
    let is_one = |name: &&HeaderName| match spelled_plainly(name.as_str()) {
        Cow::Borrowed(_) => false,
        Cow::Owned(plain) => names.clone().any(|other| spelled_plainly(other.as_str()) == plain),
    };
    // allocates only where a name is spelled oddly
    let lookalikes: Vec<_> = headers.keys().filter(is_one).cloned().collect();
    for name in lookalikes {
        headers.remove(name);
    }
}

/// Whether a name, in any spelling, belongs to the gateway in every deployment.
pub(super) fn is_set_by_gateway(name: &str) -> bool {
    let name = spelled_plainly(name);
    ["x-pomerium-", "x-forwarded-", "x-envoy-"].iter().any(|family| name.starts_with(family))
        || matches!(
            name.as_ref(),
            "forwarded" | "x-forwarded" | "x-real-ip" | "x-original-url" | "x-rewrite-url" | "x-request-id"
        )
}

fn spelled_plainly(name: &str) -> Cow<'_, str> {
    let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if name.bytes().all(is_plain) {
        return Cow::Borrowed(name);
    }
    let plain = |character: char| if character.is_ascii_alphanumeric() { character.to_ascii_lowercase() } else { '-' };
    Cow::Owned(name.chars().map(plain).collect())
}

/// The request's headers as the upstream gets them, before the gateway adds its own with `insert`.
///
/// `Content-Length` stays: it was checked, the body was read by it, and whoever writes the request anew frames it by
/// the same number. `Transfer-Encoding` went with the connection, so a body of unknown length is chunked anew; `TE` is
/// there only where it says `trailers`.
#[must_use]
pub fn headers_for_upstream(request: &Canonical, managed: &Managed, cookie_name: &str) -> HeaderMap {
    // with room for what the gateway adds: growing would hash everything once more
    let mut passed = HeaderMap::with_capacity(request.headers().keys_len() + 12);
    for (name, value) in request.headers() {
        let value = match *name {
            EXPECT => None,
            AUTHORIZATION if carries_handle(value) => None,
            COOKIE => without_own_cookies(value, cookie_name),
            REFERER => without_handle(value),
            _ if managed.holds(name) => None,
            _ => Some(value.clone()),
        };
        if let Some(value) = value {
            passed.append(name, value);
        }
    }
    passed
}

fn carries_handle(authorization: &HeaderValue) -> bool {
    handle_in(&String::from_utf8_lossy(authorization.as_bytes())).is_some()
}

/// The page that a request comes from may itself have been asked for with a handle in its query.
fn without_handle(referer: &HeaderValue) -> Option<HeaderValue> {
    let bytes = referer.as_bytes();
    let Some(end) = bytes.iter().position(|byte| *byte == b'?') else { return Some(referer.clone()) };
    let place = bytes.get(..end)?;
    let query = std::str::from_utf8(bytes.get(end + 1..)?).ok();
    let kept = match query_for_upstream(query) {
        Some(query) => HeaderValue::from_bytes(&[place, b"?", query.as_bytes()].concat()),
        None => HeaderValue::from_bytes(place),
    };
    kept.ok()
}

/// A `Cookie` line without ours, the rest byte for byte; `None` where nothing is left.
fn without_own_cookies(line: &HeaderValue, cookie_name: &str) -> Option<HeaderValue> {
    let cookies = || line.as_bytes().split(|byte| *byte == b';');
    if !cookies().any(|cookie| is_own_cookie(cookie, cookie_name)) {
        return Some(line.clone());
    }
    let mut rest = Vec::with_capacity(line.len());
    for cookie in cookies().filter(|cookie| !is_own_cookie(cookie, cookie_name)) {
        if !rest.is_empty() {
            rest.push(b';');
        }
        rest.extend_from_slice(cookie);
    }
    let rest = rest.trim_ascii_start();
    // its bytes are those of a header value
    (!rest.is_empty()).then(|| HeaderValue::from_bytes(rest).ok()).flatten()
}

/// Ours are the session cookies of the route host and of the authenticate host, and those of a sign-in under way.
fn is_own_cookie(cookie: &[u8], cookie_name: &str) -> bool {
    let name = cookie.split(|byte| *byte == b'=').next().unwrap_or_default().trim_ascii();
    let is_session = matches!(name.strip_prefix(cookie_name.as_bytes()), Some(b"" | b"_authenticate"));
    let transient = name.strip_prefix(b"__Host-").and_then(|name| name.strip_prefix(cookie_name.as_bytes()));
    let is_kind = |kind: &[u8]| [&b"_start_"[..], b"_pkce_", b"_csrf"].iter().any(|begin| kind.starts_with(begin));
    is_session || transient.is_some_and(is_kind)
}

/// The query without every parameter `pomerium_session`, however its name is escaped; the rest byte for byte.
#[must_use]
pub fn query_for_upstream(query: Option<&str>) -> Option<String> {
    let query = query?;
    let is_handle = |parameter: &&str| {
        form_urlencoded::parse(parameter.as_bytes()).next().is_some_and(|(name, _)| name == PARAMETER)
    };
    if !query.split('&').any(|parameter| is_handle(&parameter)) {
        return Some(query.to_owned());
    }
    let rest: Vec<_> = query.split('&').filter(|parameter| !is_handle(parameter)).collect();
    (!rest.is_empty()).then(|| rest.join("&"))
}
