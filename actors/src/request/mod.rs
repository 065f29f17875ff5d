//! The canonical request: made once from what came in, or the request is refused. Routing, policy, logs and the
//! upstream see this value and nothing else.

mod authority;
pub mod certificate;
pub mod cookies;
pub mod described;
mod forwarded;
mod framing;
pub mod hygiene;
mod path;
pub mod presented;
mod refusal;
#[cfg(test)]
pub(crate) mod tests;
mod tunnel;

use std::net::IpAddr;
use std::sync::Arc;

use http::header::HOST;
use http::request::Parts;
use http::uri::{PathAndQuery, Scheme};
use http::{HeaderMap, HeaderValue, Method, Version};
use portcullis_config::limits::{REQUEST_HEAD_BYTES, SIGN_IN_TARGET_BYTES, TARGET_BYTES};
use portcullis_config::{EscapedSlashes, Reading};

use authority::Authority;
use certificate::ClientCertificate;
use forwarded::{Told, Way};
pub use presented::{Presented, Source};
pub use refusal::BadRequest;
pub use tunnel::WebSocketStream;

/// Where a browser begins to sign in, at the authenticate host.
pub const SIGN_IN_PATH: &str = "/.pomerium/sign_in";

/// What the connection says of a request.
#[derive(Debug, Clone)]
pub struct Peer {
    /// The address of the other end.
    pub address: IpAddr,
    /// Whether the request came by TLS.
    pub https: bool,
    /// The certificate that its client showed.
    pub certificate: Option<Arc<ClientCertificate>>,
}

/// A request with one meaning. [`Canonical::read`] makes one, and `Described` again the one that another process has read;
/// it has no `Debug`, because it carries credentials.
pub struct Canonical {
    method: Method,
    authority: Authority,
    target: PathAndQuery,
    path: path::Canonical,
    headers: HeaderMap,
    websocket: bool,
    way: Way,
    certificate: Option<Arc<ClientCertificate>>,
    reading: Reading,
}

impl Canonical {
    /// The canonical form of a request head, read as is usual.
    ///
    /// # Errors
    /// [`BadRequest`].
    pub fn of(head: Parts, peer: Peer) -> Result<Self, BadRequest> {
        Self::read(head, peer, Reading::default())
    }

    /// The canonical form of a request head.
    ///
    /// What the HTTP library settles before we see it (a fragment cut off, equal content lengths merged) cannot be
    /// refused here.
    ///
    /// # Errors
    /// [`BadRequest`] where the request could be read in two ways, or not at all.
    pub fn read(head: Parts, peer: Peer, reading: Reading) -> Result<Self, BadRequest> {
        let Parts { method, uri, version, mut headers, extensions: mut head_extensions, .. } = head;
        if ![Version::HTTP_10, Version::HTTP_11, Version::HTTP_2].contains(&version) {
            return Err(BadRequest::Version);
        }
        if method == Method::TRACE {
            return Err(BadRequest::Method);
        }
        framing::without_underscores(&mut headers, reading.underscores)?;
        framing::check(&headers, version)?;
        let stream = head_extensions.remove::<WebSocketStream>();
        if method == Method::CONNECT && stream.is_none() {
            return tunnel::canonical(uri, version, headers, peer, reading);
        }
        let method = if stream.is_some() { tunnel::of_stream(&method, version, &mut headers)? } else { method };

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
        let path = path_of(&target, &method, reading)?;
        if target.as_str().len() + framing::size(&headers) > REQUEST_HEAD_BYTES {
            return Err(BadRequest::HeadersTooLarge);
        }

        let websocket = stream.is_some() || framing::is_websocket(&method, version, &headers);
        framing::remove_hop_by_hop(&mut headers)?;
        headers.remove(HOST);
        let Peer { address, https, certificate } = peer;
        // a client on `::` may be one of IPv4
        let way = forwarded::way(&headers, address.to_canonical(), https, &reading)?;
        Ok(Self { method, authority, target, path, headers, websocket, way, certificate, reading })
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
        self.way.client
    }

    /// Whether the client came by TLS.
    #[must_use]
    pub fn https(&self) -> bool {
        self.way.https
    }

    /// What the upstream is told of the client's address, and of the proxies on the way (`X-Forwarded-For`).
    #[must_use]
    pub fn forwarded_for(&self) -> Option<HeaderValue> {
        match &self.way.told {
            Told::Client => HeaderValue::try_from(self.way.client.to_string()).ok(),
            Told::Chain(chain) => Some(chain.clone()),
            Told::Nothing => None,
        }
    }

    /// The certificate that the client showed.
    #[must_use]
    pub fn certificate(&self) -> Option<&ClientCertificate> {
        self.certificate.as_deref()
    }

    /// How it was read.
    #[must_use]
    pub const fn reading(&self) -> &Reading {
        &self.reading
    }

    /// Whether its path had escaped slashes that were to be unescaped, so that the client is to ask anew.
    #[must_use]
    pub fn is_to_ask_anew(&self) -> bool {
        self.path.unescaped && self.reading.escaped_slashes == EscapedSlashes::Redirect
    }

    /// Whether a lenient back-end could read the path as another one.
    #[must_use]
    pub fn is_odd(&self) -> bool {
        self.path.odd
    }

    /// How back-ends may read the path otherwise: one that decodes it twice, or cuts off parameters (`;`) and what looks
    /// like a query or a fragment once it is decoded; and where the configuration leaves slashes, dot segments or escapes
    /// as they are, one that does not. That is common, and odd only where two readings lead to different places.
    #[must_use]
    pub fn other_readings(&self) -> Vec<String> {
        path::other_readings(self.path(), self.reading)
    }

    /// Whether it asks for a WebSocket: as RFC 6455 §4.2.1 wants it over HTTP/1.1, with a key and version 13, or as RFC 8441
    /// does over HTTP/2.
    #[must_use]
    pub fn is_websocket(&self) -> bool {
        self.websocket
    }

    /// What a CONNECT names: host and port. `None` for every other request.
    #[must_use]
    pub fn tunnel(&self) -> Option<(&str, u16)> {
        (self.method == Method::CONNECT).then_some((self.host(), self.port()?))
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
/// a path that was looked at must be looked at again, in the same reading. In no reading may it have dot segments: they
/// would lead out of what was put before them.
#[must_use]
pub fn is_canonical_path(path: &str, reading: &Reading) -> bool {
    path::canonical(path, *reading).is_ok_and(|canonical| canonical.rewritten.is_none() && !canonical.odd)
        && !path::has_dot_segments(path)
}

/// Whether a path could lead out of another one that it is put behind, where it was read in such a way that it may have
/// dot segments.
#[must_use]
pub fn leads_above(path: &str) -> bool {
    path::leads_above(path)
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

fn path_of(target: &PathAndQuery, method: &Method, reading: Reading) -> Result<path::Canonical, BadRequest> {
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
    path::canonical(target.path(), reading)
}
