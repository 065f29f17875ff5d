//! Requests that turn a connection or a stream into something else: CONNECT to a host and a port, and the CONNECT of
//! RFC 8441 that asks for a WebSocket.

use http::header::{HOST, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION};
use http::uri::PathAndQuery;
use http::{HeaderMap, Method, Uri, Version};
use portcullis_config::Reading;
use portcullis_config::limits::REQUEST_HEAD_BYTES;

use super::authority::Authority;
use super::{BadRequest, Canonical, Peer, forwarded, framing, host, path_of};

/// In the extensions of a head: its `:protocol` is `websocket` (RFC 8441 §5).
#[derive(Debug, Clone, Copy)]
pub struct WebSocketStream;

/// A CONNECT: its target is a host and a port, and nothing else (RFC 9112 §3.2.3, RFC 9113 §8.5).
pub(super) fn canonical(
    uri: Uri,
    version: Version,
    mut headers: HeaderMap,
    peer: Peer,
    reading: Reading,
) -> Result<Canonical, BadRequest> {
    if version == Version::HTTP_10 {
        return Err(BadRequest::Version);
    }
    let uri = uri.into_parts();
    if uri.scheme.is_some() || uri.path_and_query.is_some_and(|path| !path.as_str().is_empty()) {
        return Err(BadRequest::Target);
    }
    let named = uri.authority.ok_or(BadRequest::Target)?;
    let authority = Authority::parse(named.as_str().as_bytes())?;
    if authority.port().is_none() {
        return Err(BadRequest::Target);
    }
    match host(&headers)? {
        Some(host) if host != authority => return Err(BadRequest::HostMismatch),
        None if version != Version::HTTP_2 => return Err(BadRequest::NoHost),
        Some(_) | None => {}
    }
    if named.as_str().len() + framing::size(&headers) > REQUEST_HEAD_BYTES {
        return Err(BadRequest::HeadersTooLarge);
    }
    framing::remove_hop_by_hop(&mut headers)?;
    headers.remove(HOST);
    let target = PathAndQuery::from_static("/");
    let path = path_of(&target, &Method::CONNECT, reading)?;
    let Peer { address, https, certificate } = peer;
    let way = forwarded::way(&headers, address.to_canonical(), https, &reading)?;
    let method = Method::CONNECT;
    Ok(Canonical { method, authority, target, path, headers, websocket: false, way, certificate, reading })
}

/// The CONNECT of a stream that is to be a WebSocket: for routing, policy and the upstream it is the GET that it stands
/// for. What proves over HTTP/1.1 that both sides mean a WebSocket, `:protocol` has proved.
pub(super) fn of_stream(method: &Method, version: Version, headers: &mut HeaderMap) -> Result<Method, BadRequest> {
    let mut versions = headers.get_all(SEC_WEBSOCKET_VERSION).iter();
    let is_known = matches!((versions.next(), versions.next()), (Some(version), None) if version == "13");
    if *method != Method::CONNECT || version != Version::HTTP_2 || !is_known {
        return Err(BadRequest::Method);
    }
    headers.remove(SEC_WEBSOCKET_KEY);
    Ok(Method::GET)
}
