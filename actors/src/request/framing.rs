//! What the headers of a request say of its connection and its length: checked, then removed.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::header::{
    CONNECTION, CONTENT_LENGTH, HeaderName, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, SEC_WEBSOCKET_KEY,
    SEC_WEBSOCKET_VERSION, TE, TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderMap, HeaderValue, Method, Version};
use portcullis_config::Underscores;
use portcullis_config::limits::REQUEST_HEADERS;

use super::BadRequest;
use super::hygiene::is_set_by_gateway;

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");

/// Does with names that have an underscore what is wanted. Where they are allowed, those that a back-end could take for
/// what frames the request are removed all the same.
pub(super) fn without_underscores(headers: &mut HeaderMap, action: Underscores) -> Result<(), BadRequest> {
    let has_one = |name: &HeaderName| name.as_str().contains('_');
    if !headers.keys().any(has_one) {
        return Ok(());
    }
    let frames = |name: &HeaderName| {
        let plain = name.as_str().replace('_', "-");
        matches!(plain.as_str(), "content-length" | "transfer-encoding" | "keep-alive" | "http2-settings")
            || plain.starts_with("proxy-")
            || plain.starts_with("sec-websocket-")
    };
    let unwanted = match action {
        Underscores::Reject => return Err(BadRequest::HeaderName),
        Underscores::Drop => headers.keys().filter(|name| has_one(name)).cloned().collect::<Vec<_>>(),
        Underscores::Allow => headers.keys().filter(|name| has_one(name) && frames(name)).cloned().collect(),
    };
    for name in unwanted {
        headers.remove(name);
    }
    Ok(())
}

/// Refuses headers that are malformed, too many, or leave open where the body ends.
pub(super) fn check(headers: &HeaderMap, version: Version) -> Result<(), BadRequest> {
    if headers.len() > REQUEST_HEADERS {
        return Err(BadRequest::TooManyHeaders);
    }
    for value in headers.values() {
        if !is_acceptable(value, version) {
            return Err(BadRequest::HeaderValue);
        }
    }
    check_length(headers, version)?;
    if version == Version::HTTP_2 { check_http2(headers) } else { Ok(()) }
}

fn is_acceptable(value: &HeaderValue, version: Version) -> bool {
    let bytes = value.as_bytes();
    let is_control = |byte: &u8| (*byte < 0x20 && *byte != b'\t') || *byte == 0x7f;
    let is_blank = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
    let is_padded = version == Version::HTTP_2 && (is_blank(bytes.first()) || is_blank(bytes.last()));
    !is_padded && !bytes.iter().any(is_control)
}

fn check_length(headers: &HeaderMap, version: Version) -> Result<(), BadRequest> {
    let is_chunked = match single(headers, &TRANSFER_ENCODING) {
        Values::None => false,
        Values::One(coding) if version == Version::HTTP_11 && coding.as_bytes().eq_ignore_ascii_case(b"chunked") => {
            true
        }
        Values::One(_) | Values::Many => return Err(BadRequest::TransferEncoding),
    };
    match single(headers, &CONTENT_LENGTH) {
        Values::None => Ok(()),
        Values::One(_) if is_chunked => Err(BadRequest::TransferEncoding),
        Values::One(length) if length_of(length).is_some() => Ok(()),
        Values::One(_) | Values::Many => Err(BadRequest::ContentLength),
    }
}

fn length_of(value: &HeaderValue) -> Option<u64> {
    let text = value.to_str().ok()?;
    // a sign would parse
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

/// RFC 9113 §8.2.2.
fn check_http2(headers: &HeaderMap) -> Result<(), BadRequest> {
    let of_connection = [&CONNECTION, &KEEP_ALIVE, &PROXY_CONNECTION, &TRANSFER_ENCODING, &UPGRADE];
    let is_clean = !of_connection.iter().any(|name| headers.contains_key(*name));
    let only_trailers = headers.get_all(TE).iter().all(is_trailers);
    if is_clean && only_trailers { Ok(()) } else { Err(BadRequest::ConnectionHeader) }
}

/// The bytes of the headers as HTTP/1.1 writes them.
pub(super) fn size(headers: &HeaderMap) -> usize {
    headers.iter().map(|(name, value)| name.as_str().len() + value.len() + ": \r\n".len()).sum()
}

/// RFC 6455 §4.2.1. A body would be read as the first frames: with one it is no WebSocket.
pub(super) fn is_websocket(method: &Method, version: Version, headers: &HeaderMap) -> bool {
    let has = |name: &HeaderName, accepts: &dyn Fn(&[u8]) -> bool| match single(headers, name) {
        Values::One(value) => accepts(value.as_bytes()),
        Values::None | Values::Many => false,
    };
    let has_body =
        headers.contains_key(TRANSFER_ENCODING) || headers.get(CONTENT_LENGTH).is_some_and(|length| length != "0");
    *method == Method::GET
        && version == Version::HTTP_11
        && !has_body
        && has(&UPGRADE, &|value| value.eq_ignore_ascii_case(b"websocket"))
        && has(&SEC_WEBSOCKET_VERSION, &|value| value == b"13")
        && has(&SEC_WEBSOCKET_KEY, &|value| STANDARD.decode(value).is_ok_and(|key| key.len() == 16))
        && nominated(headers).any(|name| name.is_ok_and(|name| name == UPGRADE))
}

/// RFC 9110 §7.6.1: what concerns this connection alone is not passed on, nor what `Connection` names. `TE: trailers`
/// stays: gRPC needs it.
pub(super) fn remove_hop_by_hop(headers: &mut HeaderMap) -> Result<(), BadRequest> {
    let nominated: Vec<_> = nominated(headers).collect::<Result<_, _>>()?;
    if nominated.iter().any(is_end_to_end) {
        return Err(BadRequest::Nominated);
    }
    for name in nominated.iter().filter(|name| **name != TE) {
        headers.remove(name);
    }
    for name in
        [&CONNECTION, &KEEP_ALIVE, &PROXY_CONNECTION, &PROXY_AUTHENTICATE, &PROXY_AUTHORIZATION, &HTTP2_SETTINGS]
    {
        headers.remove(name);
    }
    headers.remove(TRANSFER_ENCODING);
    headers.remove(UPGRADE);
    if !headers.get_all(TE).iter().all(is_trailers) {
        headers.remove(TE);
    }
    Ok(())
}

/// The names that `Connection` lists.
fn nominated(headers: &HeaderMap) -> impl Iterator<Item = Result<HeaderName, BadRequest>> + '_ {
    let elements = headers.get_all(CONNECTION).iter().flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    let elements = elements.map(<[u8]>::trim_ascii).filter(|element| !element.is_empty());
    elements.map(|element| HeaderName::from_bytes(element).map_err(|_| BadRequest::Connection))
}

/// Whether a nomination would take away what policy, the upstream's framing or its notion of the caller rests on.
fn is_end_to_end(name: &HeaderName) -> bool {
    let name = name.as_str();
    matches!(name, "host" | "cookie" | "authorization" | "content-length" | "transfer-encoding")
        || name.contains('_')
        || is_set_by_gateway(name)
}

fn is_trailers(value: &HeaderValue) -> bool {
    value.as_bytes().eq_ignore_ascii_case(b"trailers")
}

enum Values<'a> {
    None,
    One(&'a HeaderValue),
    Many,
}

fn single<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Values<'a> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (None, _) => Values::None,
        (Some(value), None) => Values::One(value),
        (Some(_), Some(_)) => Values::Many,
    }
}
