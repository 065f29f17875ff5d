//! What goes to the upstream: made from a permit, and from nothing else.

use std::io::Write as _;
use std::rc::Rc;
use std::sync::{Arc, Once};

use http::header::{CONNECTION, CONTENT_LENGTH, HOST, SEC_WEBSOCKET_KEY, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, Version};
use portcullis_actors::authorize::Permit;
use portcullis_actors::authorize::assertion::AssertionCache;
use portcullis_actors::authorize::identity;
use portcullis_actors::keyring::assertion::AssertionKeys;
use portcullis_actors::proxy::upstreams::choice;
use portcullis_actors::proxy::upstreams::cluster::{Cluster, Refused, Underway};
use portcullis_actors::request::Canonical;
use portcullis_actors::request::hygiene::{Managed, headers_for_upstream, remove_lookalikes};
use portcullis_config::{Config, HostRewrite, Route, RouteTimeouts, Upstream};
use portcullis_events::Time;

use super::body::{RequestBody, Screen};
use super::handshake;
use super::http1::Coding;
use super::rewrite;
use crate::h1::field;

/// A request on its way to an upstream. Only a permit becomes one ([`Maker::make`]).
pub struct Outgoing {
    /// Whom it goes to, and that it counts as under way.
    pub(super) underway: Option<Underway>,
    /// For whom, where the choice of an upstream depends on that.
    pub(super) key: u64,
    /// Whether `Host` is the upstream's own.
    own_host: bool,
    /// The client's own connection was encrypted, or the upstream's is.
    scheme: &'static str,
    /// The method.
    pub(super) method: Method,
    /// Path and query, as policy saw them after the route's rewrite.
    target: String,
    /// `Host`.
    host: HeaderValue,
    /// All other headers, hop-by-hop ones removed.
    headers: HeaderMap,
    /// The names that only we may set.
    managed: Rc<Managed>,
    /// The names that the route takes away.
    removed: Vec<HeaderName>,
    /// Ask for a WebSocket.
    pub(super) websocket: bool,
    /// The key of a handshake that is ours, not the client's.
    fresh_key: Option<HeaderValue>,
    /// How long it may take.
    pub(super) timeouts: RouteTimeouts,
    /// Bytes that its body may have.
    pub(super) max_body: Option<u64>,
}

/// Why a permitted request is not passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotPassed {
    /// What the route makes of the path could be read as another path.
    #[error("the rewritten path is ambiguous")]
    Path,
    /// What the route makes of the request is no host.
    #[error("the rewritten host is none")]
    Host,
    /// The request asks for a WebSocket, which the route does not allow.
    #[error("the route allows no websockets")]
    WebSocket,
    /// The route's upstreams take no more.
    #[error("no upstream takes the request")]
    Refused(Refused),
    /// No proof of identity could be made.
    #[error("no assertion can be made")]
    Assertion,
}

/// What an outgoing request is made with, besides its permit.
pub struct Maker<'a> {
    /// The configuration.
    pub config: &'a Config,
    /// The names that only we may set.
    pub managed: &'a Rc<Managed>,
    /// The keys of assertions.
    pub keys: &'a AssertionKeys,
    /// The assertions of this worker.
    pub assertions: &'a AssertionCache,
    /// The route's upstreams.
    pub cluster: Option<&'a Arc<Cluster>>,
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
        let (underway, key) = self.next(&permit)?;
        let upstream = underway.cluster().upstream(underway.member()).ok_or(NotPassed::Path)?;
        let target = rewrite::target(route, upstream.url.path(), request)?;
        // what a route itself writes into it could otherwise end the request line
        if !target.bytes().all(|byte| byte > b' ' && byte != 0x7f && byte != b'#') {
            return Err(NotPassed::Path);
        }
        let identity = identity::headers(&permit, &self.config.jwt_claims_headers, self.keys, self.assertions, now)
            .map_err(|error| {
                tracing::error!(%error, "an assertion cannot be made");
                NotPassed::Assertion
            })?;
        let assertion = identity.iter().find(|(name, _)| *name == identity::ASSERTION).map(|(_, value)| value);
        let mut headers = headers_for_upstream(request, self.managed, &self.config.cookie.name);
        // decided elsewhere, by a file that bars more than ours
        let told = permit.claims_headers_told();
        if let Some(name) = self.managed.bar_also(told, &mut headers) {
            say_once(name);
        }
        // made of what the client said, before anything of that is taken away
        let set = rewrite::set_headers(route, request, &headers, assertion);
        forwarded(&mut headers, request, route, request_id);
        for name in &route.remove_request_headers {
            headers.remove(name);
        }
        let settled = route.remove_request_headers.iter().chain(route.set_request_headers.iter().map(|(name, _)| name));
        remove_lookalikes(&mut headers, settled);
        for (name, value) in set {
            headers.insert(name, value);
        }
        if route.pass_identity_headers {
            for (name, value) in identity {
                headers.insert(name, value);
            }
        }
        let host = rewrite::host(route, upstream.url.authority(), request, &headers)?;
        let is_ours = websocket && !headers.contains_key(SEC_WEBSOCKET_KEY);
        let fresh_key = is_ours.then(handshake::fresh_key).transpose().map_err(|_| NotPassed::Assertion)?;
        if let Some(key) = &fresh_key {
            headers.insert(SEC_WEBSOCKET_KEY, key.clone());
        }
        Ok(Outgoing {
            scheme: if upstream.is_tls() { "https" } else { "http" },
            own_host: matches!(route.rewrites.host, HostRewrite::Upstream),
            key,
            method: request.method().clone(),
            target,
            host,
            headers,
            websocket,
            fresh_key,
            underway: Some(underway),
            managed: Rc::clone(self.managed),
            removed: route.remove_request_headers.iter().chain(told).cloned().collect(),
            timeouts: route.timeouts,
            max_body: route.bounds.max_request_body,
        })
    }

    /// Chooses an upstream: by the session where the route says so, and by the client's address for nobody's requests.
    fn next(&self, permit: &Permit) -> Result<(Underway, u64), NotPassed> {
        let cluster = self.cluster.ok_or(NotPassed::Refused(Refused::NoneHealthy))?;
        let key = if cluster.settings.options.balancing.is_by_session() {
            let client = permit.request().client();
            permit.session().map_or_else(
                || choice::key(client.to_string().as_bytes()),
                |session| choice::key(session.to_string().as_bytes()),
            )
        } else {
            0
        };
        Ok((cluster.enter(key).map_err(NotPassed::Refused)?, key))
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
    if let Some(client) = request.forwarded_for() {
        headers.insert(X_FORWARDED_FOR, client);
    }
    let scheme = if request.https() { "https" } else { "http" };
    headers.insert(X_FORWARDED_PROTO, HeaderValue::from_static(scheme));
    if route.rewrites.host != HostRewrite::Preserve
        && let Ok(host) = HeaderValue::try_from(request.authority())
    {
        headers.insert(X_FORWARDED_HOST, host);
    }
    headers.insert(X_REQUEST_ID, request_id.clone());
}

impl Outgoing {
    /// The key of a handshake that is ours, not the client's: nobody but us looks at how it is answered.
    pub fn fresh_key(&self) -> Option<HeaderValue> {
        self.fresh_key.clone()
    }

    /// It goes to another upstream, with the same path.
    pub(super) fn goes_to(&mut self, upstream: Option<&Upstream>) {
        let Some(upstream) = upstream else { return };
        self.scheme = if upstream.is_tls() { "https" } else { "http" };
        if self.own_host
            && let Ok(host) = HeaderValue::try_from(upstream.url.authority())
        {
            self.host = host;
        }
    }

    /// What lets its trailers through.
    pub(super) fn screen(&self) -> Screen {
        let taken = self.headers.keys().chain(&self.removed).cloned().collect();
        Screen { managed: Rc::clone(&self.managed), taken }
    }

    /// All headers but `Host`.
    pub(super) const fn headers(&self) -> &HeaderMap {
        &self.headers
    }

    /// Writes the head of the request in HTTP/1.1 (RFC 9112 §3).
    pub(super) fn head(&self, out: &mut Vec<u8>, coding: Coding) {
        out.extend_from_slice(self.method.as_str().as_bytes());
        out.push(b' ');
        out.extend_from_slice(self.target.as_bytes());
        out.extend_from_slice(b" HTTP/1.1\r\n");
        field(out, b"host", self.host.as_bytes());
        for (name, value) in &self.headers {
            // how the body is framed is for us to say, and it has none that is longer than its length
            let skipped = match *name {
                HOST | CONNECTION | UPGRADE | TRANSFER_ENCODING => true,
                CONTENT_LENGTH => coding != Coding::None || value != "0",
                _ => false,
            };
            if !skipped {
                field(out, name.as_str().as_bytes(), value.as_bytes());
            }
        }
        if self.websocket {
            out.extend_from_slice(b"connection: Upgrade\r\nupgrade: websocket\r\n");
        }
        // writing to memory cannot fail
        let _ = match coding {
            Coding::Length(length) => write!(out, "content-length: {length}\r\n"),
            Coding::Chunked => out.write_all(b"transfer-encoding: chunked\r\n"),
            Coding::None => Ok(()),
        };
        out.extend_from_slice(b"\r\n");
    }

    /// The request as it is sent in HTTP/2, with this body: what `Host` says is `:authority` (RFC 9113 §8.3.1).
    ///
    /// # Errors
    /// [`http::Error`] where the target is no URI, which a canonical one always is.
    pub(super) fn stream(&self, body: RequestBody) -> Result<Request<RequestBody>, http::Error> {
        let uri = Uri::builder().scheme(self.scheme).authority(self.host.as_bytes()).path_and_query(&self.target);
        let mut request =
            Request::builder().method(self.method.clone()).version(Version::HTTP_2).uri(uri.build()?).body(body)?;
        *request.headers_mut() = self.headers.clone();
        Ok(request)
    }
}
