//! Header names and values that a configuration sets, removes or fills with claims.

use http::{HeaderName, HeaderValue};

use crate::HeaderText;
use crate::node::Node;
use crate::templates;

/// Belong to a connection and not to a message (RFC 9110 §7.6.1), or frame a message: ours to write.
const HOP_BY_HOP: &[&str] = &[
    "connection",
    "content-length",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// The headers that Pomerium sets by default.
const DEFAULTS: [(HeaderName, HeaderValue); 3] = [
    (http::header::X_FRAME_OPTIONS, HeaderValue::from_static("SAMEORIGIN")),
    (http::header::X_XSS_PROTECTION, HeaderValue::from_static("1; mode=block")),
    (http::header::STRICT_TRANSPORT_SECURITY, HeaderValue::from_static("max-age=31536000; includeSubDomains; preload")),
];

/// `set_request_headers`: plain values and templates. `claims` are the names that `jwt_claims_headers` fills.
pub fn request(node: &Node<'_>, claims: &[HeaderName]) -> Vec<(HeaderName, HeaderText)> {
    let named = |node: &Node<'_>, header: &str| {
        let name = request_name(node, header)?;
        let plain = spelled_plainly(name.as_str());
        if claims.iter().any(|claim| spelled_plainly(claim.as_str()) == plain) {
            return node.refuse("sets a header that jwt_claims_headers fills", "another header");
        }
        Some(name)
    };
    pairs(node, named, templates::parse)
}

/// `set_response_headers` of a route.
pub fn response(node: &Node<'_>) -> Vec<(HeaderName, HeaderValue)> {
    if let Some(disable) = node.fields().and_then(|fields| fields.get("disable")) {
        disable.wrong("in a route is not supported by this version", "set it at the top level");
        return Vec::new();
    }
    pairs(node, response_name, plain)
}

/// `set_response_headers` of the top level: replaces the defaults as a whole; `disable` leaves none.
/// Without TLS of our own there is no `Strict-Transport-Security` by default.
pub fn global_response(node: Option<&Node<'_>>, tls: bool) -> Vec<(HeaderName, HeaderValue)> {
    let Some(node) = node else {
        let mut headers = DEFAULTS.to_vec();
        headers.retain(|(name, _)| tls || name != http::header::STRICT_TRANSPORT_SECURITY);
        return headers;
    };
    match node.fields().and_then(|fields| fields.get("disable").map(|disable| (fields, disable))) {
        Some((_, disable)) if disable.boolean() != Some(true) => disable.refuse("is not true", "disable: true, alone"),
        Some((fields, disable)) if fields.entries().count() > 1 => {
            disable.refuse("turns every header of this map off", "disable: true, alone")
        }
        Some(_) => None,
        None => Some(pairs(node, response_name, plain)),
    }
    .unwrap_or_default()
}

/// `remove_request_headers`.
pub fn removed(node: &Node<'_>) -> Vec<HeaderName> {
    node.texts().into_iter().filter_map(|(node, text)| name(&node, &text)).collect()
}

/// `jwt_claims_headers`: a list of claims, each in the header of its name, or a map of header to claim.
pub fn claims(node: &Node<'_>) -> Vec<(HeaderName, String)> {
    let mut found: Vec<(HeaderName, String)> = Vec::new();
    let mut add = |node: &Node<'_>, header: &str, claim: String| {
        let Some(name) = claim_name(node, header) else { return };
        if found.iter().any(|(other, _)| *other == name) {
            node.wrong("fills a header that another claim fills", "one claim for each header");
        } else {
            found.push((name, claim));
        }
    };
    if !node.is_map() {
        for (node, claim) in node.texts() {
            add(&node, &format!("x-pomerium-claim-{}", claim.replace('_', "-")), claim);
        }
        return found;
    }
    for (header, claim) in node.fields().iter().flat_map(|fields| fields.entries()) {
        match claim.text() {
            Some(text) if text.is_empty() => claim.wrong("names no claim", "the name of a claim"),
            Some(text) => add(&claim, header, text),
            None => {}
        }
    }
    found
}

fn pairs<T>(
    node: &Node<'_>,
    named: impl Fn(&Node<'_>, &str) -> Option<HeaderName>,
    valued: impl Fn(&Node<'_>, &str) -> Option<T>,
) -> Vec<(HeaderName, T)> {
    let mut pairs: Vec<(HeaderName, T)> = Vec::new();
    for (header, node) in node.fields().iter().flat_map(|fields| fields.entries()) {
        let name = named(&node, header);
        let value = node.text().and_then(|text| valued(&node, &text));
        let (Some(name), Some(value)) = (name, value) else { continue };
        if pairs.iter().any(|(other, _)| *other == name) {
            node.wrong("is given twice in another spelling", "keep one");
        } else {
            pairs.push((name, value));
        }
    }
    pairs
}

/// A value as it stands.
fn plain(node: &Node<'_>, text: &str) -> Option<HeaderValue> {
    match HeaderValue::from_bytes(text.as_bytes()) {
        Ok(value) => Some(value),
        Err(_) => node.refuse("has a line end or a control character in its value", "one line of text"),
    }
}

/// A name as lenient back-ends read it: they take what is neither letter nor digit for one and the same.
fn spelled_plainly(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' }).collect()
}

/// A header of a request that a configuration may set.
fn request_name(node: &Node<'_>, text: &str) -> Option<HeaderName> {
    let name = claim_name(node, text)?;
    if spelled_plainly(name.as_str()).starts_with("x-pomerium-") {
        return node.refuse("sets a header by which we say who is signed in", "another header");
    }
    Some(name)
}

/// A header of a request that a claim may fill.
fn claim_name(node: &Node<'_>, text: &str) -> Option<HeaderName> {
    let name = response_name(node, text)?;
    match name.as_str() {
        "host" => {
            node.refuse("sets the Host header", "another header; host_rewrite and preserve_host_header choose the host")
        }
        "cookie" => node.refuse("sets the Cookie header, which belongs to the client", "another header"),
        "x-pomerium-jwt-assertion" => node.refuse("sets the header of the signed assertion", "another header"),
        _ => Some(name),
    }
}

/// A header of a response that a configuration may set.
pub fn response_name(node: &Node<'_>, text: &str) -> Option<HeaderName> {
    let name = name(node, text)?;
    if HOP_BY_HOP.contains(&name.as_str()) {
        return node.refuse("sets a header that belongs to the connection", "another header");
    }
    Some(name)
}

/// The name of a header, whichever.
pub fn name(node: &Node<'_>, text: &str) -> Option<HeaderName> {
    match HeaderName::from_bytes(text.as_bytes()) {
        Ok(name) => Some(name),
        Err(_) => node.refuse("is not a header name", "letters, digits and hyphens, such as X-Team"),
    }
}
