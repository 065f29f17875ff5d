//! The canonical request: made once from what came in, or the request is refused. Routing, policy, logs and the
//! upstream see this value and nothing else.

mod authority;
pub mod cookies;
pub mod described;
mod framing;
pub mod hygiene;
mod path;
pub mod presented;
mod refusal;
#[cfg(test)]
pub(crate) mod tests;

use std::net::IpAddr;

use http::header::HOST;
use http::request::Parts;
use http::uri::{PathAndQuery, Scheme};
use http::{HeaderMap, Method, Version};
use portcullis_config::limits::{REQUEST_HEAD_BYTES, SIGN_IN_TARGET_BYTES, TARGET_BYTES};

use authority::Authority;
pub use presented::{Presented, Source};
pub use refusal::BadRequest;

/// Where a browser begins to sign in, at the authenticate host.
pub const SIGN_IN_PATH: &str = "/.pomerium/sign_in";

/// What the connection says of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// The address of the other end.
    pub address: IpAddr,
    /// Whether the request came by TLS.
    pub https: bool,
}

/// A request with one meaning. Only [`Canonical::of`] makes one; it has no `Debug`, because it carries credentials.
pub struct Canonical {
    method: Method,
    authority: Authority,
    target: PathAndQuery,
    path: path::Canonical,
    headers: HeaderMap,
    websocket: bool,
    peer: Peer,
}

impl Canonical {
    /// The canonical form of a request head.
    ///
    /// What the HTTP library settles before we see it (a fragment cut off, equal content lengths merged) cannot be
    /// refused here.
    ///
    /// # Errors
    /// [`BadRequest`] where the request could be read in two ways, or not at all.
    pub fn of(head: Parts, peer: Peer) -> Result<Self, BadRequest> {
        let Parts { method, uri, version, mut headers, .. } = head;
        if ![Version::HTTP_10, Version::HTTP_11, Version::HTTP_2].contains(&version) {
            return Err(BadRequest::Version);
        }
        if method == Method::CONNECT || method == Method::TRACE {
            return Err(BadRequest::Method);
        }
        framing::check(&headers, version)?;

        let uri = uri.into_parts();
        let authority = match (&uri.scheme, &uri.authority) {
            (None, None) => host(&headers)?.ok_or(BadRequest::NoHost)?,
            // the authority form is for CONNECT alone
            (None, Some(_)) => return Err(BadRequest::Target),
            (Some(scheme), named) => {
                if *scheme != Scheme::HTTP && *scheme != Scheme::HTTPS {
                    return Err(BadRequest::Scheme);
                }
                let named = Authority::parse(named.as_ref().ok_or(BadRequest::NoHost)?.as_str().as_bytes())?;
                match host(&headers)? {
                    Some(host) if host != named => return Err(BadRequest::HostMismatch),
                    None if version != Version::HTTP_2 => return Err(BadRequest::NoHost),
                    _ => named,
                }
            }
        };
        let target = uri.path_and_query.ok_or(BadRequest::Target)?;
        let path = path_of(&target, &method)?;
        if target.as_str().len() + framing::size(&headers) > REQUEST_HEAD_BYTES {
            return Err(BadRequest::HeadersTooLarge);
        }

        let websocket = framing::is_websocket(&method, version, &headers);
        framing::remove_hop_by_hop(&mut headers)?;
        headers.remove(HOST);
        // a client on `::` may be one of IPv4
        let peer = Peer { address: peer.address.to_canonical(), https: peer.https };
        Ok(Self { method, authority, target, path, headers, websocket, peer })
    }

    /// The method; case-sensitive.
    #[must_use]
    pub fn method(&self) -> &Method {
        &self.method
    }

    /// The host: a lower-case name in ASCII without a trailing dot, or an address (IPv6 in brackets). No port.
    #[must_use]
    pub fn host(&self) -> &str {
        self.authority.host()
    }

    /// The port, if one was written.
    #[must_use]
    pub fn port(&self) -> Option<u16> {
        self.authority.port()
    }

    /// `host[:port]`, without the port of `https`.
    #[must_use]
    pub fn authority(&self) -> &str {
        self.authority.as_str()
    }

    /// The path: slashes merged, dot segments removed, unreserved characters decoded and other escapes in upper case
    /// (RFC 3986 §6.2.2). Begins with `/`, except for `OPTIONS *`.
    #[must_use]
    pub fn path(&self) -> &str {
        self.path.rewritten.as_deref().unwrap_or_else(|| self.target.path())
    }

    /// The query as it came.
    #[must_use]
    pub fn query(&self) -> Option<&str> {
        self.target.query()
    }

    /// The headers without `Host`, without those of the connection and without those that `Connection` names.
    #[must_use]
    pub fn headers(&self) -> &HeaderMap {
        &self.headers
    }

    /// The address of the client.
    #[must_use]
    pub fn client(&self) -> IpAddr {
        self.peer.address
    }

    /// Whether the request came by TLS.
    #[must_use]
    pub fn https(&self) -> bool {
        self.peer.https
    }

    /// Whether a lenient back-end could read the path as another one.
    #[must_use]
    pub fn is_odd(&self) -> bool {
        self.path.odd
    }

    /// How a back-end reads the path that decodes it twice, or cuts off parameters (`;`) and what looks like a query or
    /// a fragment once it is decoded; `None` where that is the path itself. That is common, and odd only where the two
    /// lead to different places.
    #[must_use]
    pub fn other_reading(&self) -> Option<String> {
        path::other_reading(self.path())
    }

    /// Whether it asks for a WebSocket as RFC 6455 §4.2.1 wants it: over HTTP/1.1, with a key and version 13.
    #[must_use]
    pub fn is_websocket(&self) -> bool {
        self.websocket
    }

    /// The URL that the client asked for. The external scheme is always `https`.
    #[must_use]
    pub fn url(&self) -> String {
        let path = if self.path() == "*" { "" } else { self.path() };
        match self.query() {
            Some(query) => format!("https://{}{path}?{query}", self.authority()),
            None => format!("https://{}{path}", self.authority()),
        }
    }
}

/// Whether a path is written in the one canonical way and can be read in no other ([`Canonical::path`]): what is made of
/// a path that was looked at must be looked at again.
#[must_use]
pub fn is_canonical_path(path: &str) -> bool {
    path::canonical(path).is_ok_and(|canonical| canonical.rewritten.is_none() && !canonical.odd)
}

/// Whether a text names a web host, with or without a port, as `Host` does.
#[must_use]
pub fn is_host(text: &[u8]) -> bool {
    Authority::parse(text).is_ok()
}

fn host(headers: &HeaderMap) -> Result<Option<Authority>, BadRequest> {
    let mut hosts = headers.get_all(HOST).iter();
    match (hosts.next(), hosts.next()) {
        (None, _) => Ok(None),
        (Some(host), None) => Authority::parse(host.as_bytes()).map(Some),
        (Some(_), Some(_)) => Err(BadRequest::ManyHosts),
    }
}

fn path_of(target: &PathAndQuery, method: &Method) -> Result<path::Canonical, BadRequest> {
    // it is never passed on: what is signed there is read by us alone
    let most = if target.path() == SIGN_IN_PATH { SIGN_IN_TARGET_BYTES } else { TARGET_BYTES };
    if target.as_str().len() > most {
        return Err(BadRequest::TargetTooLong);
    }
    if target.path() == "*" {
        return if *method == Method::OPTIONS { Ok(path::Canonical::default()) } else { Err(BadRequest::Asterisk) };
    }
    if target.query().is_some_and(|query| query.bytes().any(|byte| matches!(byte, 0..=b' ' | b'#' | 0x7f))) {
        return Err(BadRequest::Target);
    }
    path::canonical(target.path())
}
