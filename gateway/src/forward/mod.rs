//! Passing a permitted request to its upstream and the answer back: streamed both ways, one connection at a time.

pub mod body;
mod bounded;
pub mod budget;
mod connect;
mod frames;
pub mod handshake;
pub mod outgoing;
mod pool;
pub mod rewrite;
pub mod tcp;
mod upgrade;

use std::rc::Rc;

use http::header::{CONNECTION, CONTENT_LENGTH, TE, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, Version};
use portcullis_actors::proxy::leash::Leash;
use portcullis_config::limits::UPLOAD_FLOOR;

use body::{AnswerBody, Late, RequestBody};
pub use connect::Trust;
use connect::{ConnectError, Endpoint};
pub use outgoing::Outgoing;
use pool::Lease;

use crate::metrics::tally::Bound;
pub use pool::Pool;
pub use upgrade::Tunnel;

use crate::client_body::ClientBody;

/// Why there is no answer from the upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UpstreamFault {
    /// It cannot be reached.
    Unreachable,
    /// It did not begin its answer in time.
    Late,
    /// It broke off, or answered what is not HTTP.
    Broken,
    /// The client's own body broke off.
    ClientGone,
    /// The client's own body did not come, or too slowly.
    ClientLate,
    /// The client's own body is larger than the route takes.
    TooLarge,
}

impl UpstreamFault {
    /// What the access line says.
    pub const fn detail(self) -> &'static str {
        match self {
            Self::Unreachable => "upstream_unreachable",
            Self::Late => "upstream_timeout",
            Self::Broken => "upstream_broken",
            Self::ClientGone => "request_body_broken",
            Self::ClientLate => "request_body_timeout",
            Self::TooLarge => "request_body_too_large",
        }
    }

    /// The bound that a client has come up against.
    pub const fn bound(self) -> Option<Bound> {
        match self {
            Self::ClientLate => Some(Bound::RequestBodyPace),
            Self::TooLarge => Some(Bound::RequestBody),
            Self::Unreachable | Self::Late | Self::Broken | Self::ClientGone => None,
        }
    }

    /// The status that says so.
    pub const fn status(self) -> StatusCode {
        match self {
            Self::Unreachable => StatusCode::SERVICE_UNAVAILABLE,
            Self::Late => StatusCode::GATEWAY_TIMEOUT,
            Self::Broken => StatusCode::BAD_GATEWAY,
            Self::ClientGone => StatusCode::BAD_REQUEST,
            Self::ClientLate => StatusCode::REQUEST_TIMEOUT,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        }
    }
}

/// The upstream's answer: with a body, or with a connection that is no longer HTTP.
#[expect(
    clippy::large_enum_variant,
    reason = "made and taken apart once a request: boxing would cost an allocation for each"
)]
pub enum Answer {
    /// A response, hop-by-hop headers removed.
    Response(Response<AnswerBody>),
    /// `101 Switching Protocols`.
    Switched(Response<()>, Tunnel),
}

/// Sends a request and waits for the head of its answer; from then on `leash` keeps to the route's timeouts.
///
/// A request that cannot have reached the upstream, or may be repeated (RFC 9110 §9.2.2) and has no body, is sent once
/// more on a new connection if the first was a kept one.
///
/// # Errors
/// [`UpstreamFault`].
pub async fn forward(
    pool: &Rc<Pool>,
    outgoing: Outgoing,
    body: ClientBody,
    leash: &Rc<Leash>,
) -> Result<Answer, UpstreamFault> {
    let body = RequestBody::passing(body, outgoing.max_body).bounded(outgoing.timeouts, leash);
    let repeatable = body.is_empty() && outgoing.method.is_idempotent();
    let lease = pool.lease(&outgoing.endpoint).await.map_err(|error| unreachable(&outgoing.endpoint, &error))?;
    let kept = !lease.is_fresh();
    let request = outgoing.request(body).map_err(|_| UpstreamFault::Broken)?;
    let again = match exchange(lease, request, outgoing.websocket).await {
        Ok(answer) => return Ok(answer),
        Err(Failed::Unsent(request)) if kept => *request,
        Err(Failed::Broken) if kept && repeatable => outgoing
            .request(RequestBody::none().bounded(outgoing.timeouts, leash))
            .map_err(|_| UpstreamFault::Broken)?,
        Err(failed) => return Err(failed.fault()),
    };
    let lease = pool.lease_fresh(&outgoing.endpoint).await.map_err(|error| unreachable(&outgoing.endpoint, &error))?;
    exchange(lease, again, outgoing.websocket).await.map_err(Failed::fault)
}

fn unreachable(endpoint: &Endpoint, error: &ConnectError) -> UpstreamFault {
    tracing::warn!(host = %endpoint.host, port = endpoint.port, %error, "an upstream cannot be reached");
    UpstreamFault::Unreachable
}

enum Failed {
    /// Nothing was sent: the request comes back whole.
    Unsent(Box<Request<RequestBody>>),
    /// The connection broke before the answer.
    Broken,
    /// The answer did not begin in time, or the request did not end.
    Late(Late),
    /// The client's body broke.
    ClientGone,
    /// The client's body is larger than it may be.
    TooLarge,
}

impl Failed {
    fn fault(self) -> UpstreamFault {
        match self {
            Self::Unsent(_) | Self::Broken => UpstreamFault::Broken,
            Self::Late(Late::Upstream) => UpstreamFault::Late,
            Self::Late(Late::Client) => UpstreamFault::ClientLate,
            Self::ClientGone => UpstreamFault::ClientGone,
            Self::TooLarge => UpstreamFault::TooLarge,
        }
    }
}

async fn exchange(mut lease: Lease, request: Request<RequestBody>, websocket: bool) -> Result<Answer, Failed> {
    let activity = request.body().activity();
    lease.connection().allowance().begin();
    let sending = lease.connection().sender().try_send_request(request);
    let mut response = match activity.within(activity.silence(), UPLOAD_FLOOR, sending).await {
        Err(late) => return Err(Failed::Late(late)),
        Ok(Ok(response)) => response,
        Ok(Err(mut error)) => {
            return Err(match error.take_message() {
                Some(request) => Failed::Unsent(Box::new(request)),
                None if activity.is_too_large() => Failed::TooLarge,
                None if activity.broke() => Failed::ClientGone,
                None => {
                    tracing::debug!(error = %error.error(), "an upstream broke off");
                    Failed::Broken
                }
            });
        }
    };
    lease.connection().allowance().lift();
    if !is_framed_once(response.headers()) {
        return Err(Failed::Broken);
    }
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        // a switch that nobody asked for would turn the connection into something nobody looks at
        if !websocket || !is_websocket(response.headers()) {
            return Err(Failed::Broken);
        }
        activity.answered(true);
        let tunnel = Tunnel::to(hyper::upgrade::on(&mut response));
        lease.leave();
        return Ok(Answer::Switched(response.map(drop), tunnel));
    }
    activity.answered(false);
    let (mut parts, incoming) = response.into_parts();
    // how the upstream speaks is between it and us
    parts.version = Version::HTTP_11;
    remove_hop_by_hop(&mut parts.headers);
    Ok(Answer::Response(Response::from_parts(parts, AnswerBody::upstream(incoming, lease, activity))))
}

/// RFC 9112 §6.3: one length in digits, or one `chunked`, or neither. Whoever sends both may be splitting answers.
fn is_framed_once(headers: &HeaderMap) -> bool {
    let (lengths, codings) = (headers.get_all(CONTENT_LENGTH), headers.get_all(TRANSFER_ENCODING));
    let digits = |value: &HeaderValue| value.as_bytes().iter().all(u8::is_ascii_digit);
    let chunked = |value: &HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"chunked");
    lengths.iter().count() + codings.iter().count() <= 1 && lengths.iter().all(digits) && codings.iter().all(chunked)
}

fn is_websocket(headers: &HeaderMap) -> bool {
    headers.get(UPGRADE).is_some_and(|upgrade| upgrade.as_bytes().eq_ignore_ascii_case(b"websocket"))
}

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

/// RFC 9110 §7.6.1: what concerns one connection is not passed on, nor what `Connection` names.
fn remove_hop_by_hop(headers: &mut HeaderMap) {
    // allocates only where something is named
    let nominated: Vec<_> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse::<HeaderName>().ok())
        .collect();
    for name in nominated {
        headers.remove(name);
    }
    for name in [CONNECTION, TRANSFER_ENCODING, UPGRADE, TE, KEEP_ALIVE, PROXY_CONNECTION] {
        headers.remove(name);
    }
}
