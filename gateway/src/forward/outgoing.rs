//! What goes to the upstream: made from a permit, and from nothing else.

use std::cell::Cell;
use std::sync::Once;

use http::header::{CONNECTION, HOST, UPGRADE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Version};
use portcullis_actors::authorize::Permit;
use portcullis_actors::authorize::assertion::AssertionCache;
use portcullis_actors::authorize::identity;
use portcullis_actors::keyring::assertion::AssertionKeys;
use portcullis_actors::request::Canonical;
use portcullis_actors::request::hygiene::{Managed, headers_for_upstream, query_for_upstream};
use portcullis_config::{Config, PathMatcher, Route, Upstream};
use portcullis_events::Time;

use super::body::RequestBody;
use super::connect::Endpoint;

/// A request on its way to an upstream. Only a permit becomes one ([`Maker::make`]).
pub struct Outgoing {
    /// Where to.
    pub(super) endpoint: Endpoint,
    /// The method.
    pub(super) method: Method,
    /// Path and query, as policy saw them after the route's rewrite.
    target: String,
    /// `Host`.
    host: HeaderValue,
    /// All other headers, hop-by-hop ones removed.
    headers: HeaderMap,
    /// Ask for a WebSocket.
    pub(super) websocket: bool,
}

/// Why a permitted request is not passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotPassed {
    /// What the route makes of the path could be read as another path.
    #[error("the rewritten path is ambiguous")]
    Path,
    /// The request asks for a WebSocket, which the route does not allow.
    #[error("the route allows no websockets")]
    WebSocket,
    /// No proof of identity could be made.
    #[error("no assertion can be made")]
    Assertion,
}

/// What an outgoing request is made with, besides its permit.
pub struct Maker<'a> {
    /// The configuration.
    pub config: &'a Config,
    /// The names that only we may set.
    pub managed: &'a Managed,
    /// The keys of assertions.
    pub keys: &'a AssertionKeys,
    /// The assertions of this worker.
    pub assertions: &'a AssertionCache,
    /// Whose turn it is among several upstreams.
    pub turn: &'a Cell<usize>,
}

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

impl Maker<'_> {
    /// Turns a permit into the request that it permits.
    ///
    /// # Errors
    /// [`NotPassed`].
    pub fn make(&self, permit: Permit, request_id: &HeaderValue, now: Time) -> Result<Outgoing, NotPassed> {
        let (request, route) = (permit.request(), permit.route());
        let websocket = request.is_websocket();
        if websocket && !route.allow_websockets {
            return Err(NotPassed::WebSocket);
        }
        let upstream = self.next(route).ok_or(NotPassed::Path)?;
        let target = target(route, upstream, request)?;
        let mut headers = headers_for_upstream(request, self.managed, &self.config.cookie.name);
        // decided elsewhere, by a file that bars more than ours
        if let Some(name) = self.managed.bar_also(permit.claims_headers_told(), &mut headers) {
            say_once(name);
        }
        forwarded(&mut headers, request, route, request_id);
        for name in &route.remove_request_headers {
            headers.remove(name);
        }
        for (name, value) in &route.set_request_headers {
            headers.insert(name.clone(), value.clone());
        }
        let identity = identity::headers(&permit, &self.config.jwt_claims_headers, self.keys, self.assertions, now)
            .map_err(|error| {
                tracing::error!(%error, "an assertion cannot be made");
                NotPassed::Assertion
            })?;
        for (name, value) in identity {
            headers.insert(name, value);
        }
        let host = if route.preserve_host_header { request.authority() } else { upstream.url.authority() };
        Ok(Outgoing {
            endpoint: endpoint(route, upstream).ok_or(NotPassed::Path)?,
            method: request.method().clone(),
            target,
            host: HeaderValue::try_from(host).map_err(|_| NotPassed::Path)?,
            headers,
            websocket,
        })
    }

    fn next<'r>(&self, route: &'r Route) -> Option<&'r Upstream> {
        match route.to.as_slice() {
            [only] => Some(only),
            several => {
                let turn = self.turn.get();
                self.turn.set(turn.wrapping_add(1));
                several.get(turn.checked_rem(several.len())?)
            }
        }
    }
}

/// That the files of authorize and of this process differ; it goes on until one of them is changed and started anew.
fn say_once(name: &HeaderName) {
    static SAID: Once = Once::new();
    SAID.call_once(|| {
        tracing::warn!(header = %name, "jwt_claims_headers names it where authorize runs, and not here: it is taken from clients all the same");
    });
}

fn forwarded(headers: &mut HeaderMap, request: &Canonical, route: &Route, request_id: &HeaderValue) {
    if let Ok(client) = HeaderValue::try_from(request.client().to_string()) {
        headers.insert(X_FORWARDED_FOR, client);
    }
    let scheme = if request.https() { "https" } else { "http" };
    headers.insert(X_FORWARDED_PROTO, HeaderValue::from_static(scheme));
    if !route.preserve_host_header
        && let Ok(host) = HeaderValue::try_from(request.authority())
    {
        headers.insert(X_FORWARDED_HOST, host);
    }
    headers.insert(X_REQUEST_ID, request_id.clone());
}

fn endpoint(route: &Route, upstream: &Upstream) -> Option<Endpoint> {
    let url = &upstream.url;
    Some(Endpoint {
        host: url.host_str()?.to_owned(),
        port: url.port_or_known_default()?,
        tls: url.scheme() == "https",
        skip_verify: route.tls_skip_verify,
    })
}

/// Path and query for the upstream: the route's rewrite, then the upstream's own path before it.
fn target(route: &Route, upstream: &Upstream, request: &Canonical) -> Result<String, NotPassed> {
    let base = upstream.url.path().trim_end_matches('/');
    let path = request.path();
    let mut target = String::with_capacity(base.len() + path.len() + 16);
    target.push_str(base);
    match &route.prefix_rewrite {
        None => target.push_str(path),
        Some(rewrite) => {
            let (PathMatcher::Prefix(matched) | PathMatcher::Path(matched)) = &route.matcher;
            let rest = path.strip_prefix(matched.as_str()).unwrap_or(path);
            let joined = match (rewrite.strip_suffix('/'), rest.strip_prefix('/')) {
                (Some(rewrite), Some(_)) => format!("{rewrite}{rest}"),
                _ => format!("{rewrite}{rest}"),
            };
            // what was whole before can come apart: `/app` taken from `/app../x` leaves `../x`
            if joined.split('/').any(|segment| segment == "." || segment == "..") || joined.contains("//") {
                return Err(NotPassed::Path);
            }
            target.push_str(&joined);
        }
    }
    if let Some(query) = query_for_upstream(request.query()) {
        target.push('?');
        target.push_str(&query);
    }
    Ok(target)
}

impl Outgoing {
    /// The request as it is sent, with this body.
    ///
    /// # Errors
    /// [`http::Error`] where the target is no URI, which a canonical one always is.
    pub(super) fn request(&self, body: RequestBody) -> Result<Request<RequestBody>, http::Error> {
        let mut request =
            Request::builder().method(self.method.clone()).version(Version::HTTP_11).uri(&self.target).body(body)?;
        let headers = request.headers_mut();
        *headers = self.headers.clone();
        headers.insert(HOST, self.host.clone());
        if self.websocket {
            headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
            headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        }
        Ok(request)
    }
}
