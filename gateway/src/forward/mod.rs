//! Passing a permitted request to its upstream and the answer back: streamed both ways, one connection at a time.

pub mod body;
mod bounded;
pub mod budget;
mod connect;
mod frames;
mod grpc;
pub mod handshake;
mod http1;
mod line;
pub mod outgoing;
mod pool;
pub mod probe;
pub mod rewrite;
pub mod tcp;
mod upgrade;

use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;

use http::header::{CONNECTION, CONTENT_LENGTH, TE, TRANSFER_ENCODING, UPGRADE};
use http::response::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, Version};
use hyper::body::{Body, Incoming};
use portcullis_actors::proxy::leash::Leash;
use portcullis_actors::proxy::upstreams::cluster::{Refused, Underway};
use portcullis_actors::proxy::upstreams::outlier::Outcome;
use portcullis_config::limits::{UPLOAD_FLOOR, UPSTREAM_ATTEMPTS};

use body::{Activity, AnswerBody, Late, RequestBody};
use connect::ConnectError;
use http1::Fault;
pub use outgoing::Outgoing;
pub use pool::Pool;
use pool::{Lease, Way};
pub use upgrade::Tunnel;

use crate::client_body::ClientBody;
use crate::metrics::tally::Bound;

/// Why there is no answer from the upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UpstreamFault {
    /// It cannot be reached.
    Unreachable,
    /// Connecting took too long.
    ConnectLate,
    /// None of a route's upstreams is healthy.
    NoneHealthy,
    /// The route has too many requests under way.
    TooManyRequests,
    /// Too many requests of the route wait for a connection.
    TooManyPending,
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

impl From<Refused> for UpstreamFault {
    fn from(why: Refused) -> Self {
        match why {
            Refused::NoneHealthy => Self::NoneHealthy,
            Refused::Requests => Self::TooManyRequests,
            Refused::Pending => Self::TooManyPending,
        }
    }
}

impl UpstreamFault {
    /// What the access line says.
    pub const fn detail(self) -> &'static str {
        match self {
            Self::Unreachable => "upstream_unreachable",
            Self::ConnectLate => "upstream_connect_timeout",
            Self::NoneHealthy => "no_healthy_upstream",
            Self::TooManyRequests => "upstream_max_requests",
            Self::TooManyPending => "upstream_max_pending_requests",
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
            Self::Unreachable
            | Self::ConnectLate
            | Self::NoneHealthy
            | Self::TooManyRequests
            | Self::TooManyPending
            | Self::Late
            | Self::Broken
            | Self::ClientGone => None,
        }
    }

    /// What the caller is told.
    pub const fn message(self) -> &'static str {
        match self {
            Self::Unreachable | Self::ConnectLate | Self::NoneHealthy => "The application cannot be reached right now.",
            Self::TooManyRequests | Self::TooManyPending => {
                "The application has too much to do. Try again in a moment."
            }
            Self::Late => "The application did not answer in time.",
            Self::Broken => "The application broke off, or did not answer in HTTP.",
            Self::ClientGone => "The request's body broke off.",
            Self::ClientLate => "The request's body took too long to come.",
            Self::TooLarge => "The request's body is larger than this application takes.",
        }
    }

    /// The status that says so.
    pub const fn status(self) -> StatusCode {
        match self {
            Self::Unreachable
            | Self::ConnectLate
            | Self::NoneHealthy
            | Self::TooManyRequests
            | Self::TooManyPending => StatusCode::SERVICE_UNAVAILABLE,
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
/// A request that reached no upstream goes to another one, if there is one. A request that cannot have reached its
/// upstream, or may be repeated (RFC 9110 §9.2.2) and has no body, is sent once more on a new connection if the first
/// was a kept one. Second attempts are bounded (`max_retries`).
///
/// # Errors
/// [`UpstreamFault`].
pub async fn forward(
    pool: &Rc<Pool>,
    mut outgoing: Outgoing,
    body: ClientBody,
    leash: &Rc<Leash>,
) -> Result<Answer, UpstreamFault> {
    let mut body = RequestBody::passing(body, outgoing.max_body).bounded(outgoing.timeouts, leash);
    if body.size_hint().exact().is_none() {
        body = body.screened(outgoing.screen());
    }
    let repeatable = body.is_empty() && outgoing.method.is_idempotent();
    let underway = outgoing.underway.take().ok_or(UpstreamFault::NoneHealthy)?;
    let (lease, underway) = reach(pool, &mut outgoing, underway).await?;
    let kept = !lease.is_fresh();
    let (failed, underway) = match exchange(lease, body, &outgoing, underway).await {
        Ok(answer) => return Ok(answer),
        Err(failed) => failed,
    };
    let cluster = Arc::clone(underway.cluster());
    let may_repeat = kept && (matches!(failed, Failed::Unsent(_)) || (repeatable && matches!(failed, Failed::Broken)));
    let Some(_slot) = may_repeat.then(|| cluster.retry()).flatten() else { return Err(failed.seen(&underway)) };
    let body = match failed {
        Failed::Unsent(body) => *body,
        Failed::Broken
        | Failed::Garbled
        | Failed::Late(_)
        | Failed::TooLate
        | Failed::ClientGone
        | Failed::TooLarge => RequestBody::none().bounded(outgoing.timeouts, leash),
    };
    let lease = match pool.lease_fresh(&cluster, underway.member()).await {
        Ok(lease) => lease,
        Err(error) => return Err(unreachable(&underway, &error)),
    };
    exchange(lease, body, &outgoing, underway).await.map_err(|(failed, underway)| failed.seen(&underway))
}

/// A connection to the chosen member, or to another one where that cannot be had.
async fn reach(
    pool: &Rc<Pool>,
    outgoing: &mut Outgoing,
    mut underway: Underway,
) -> Result<(Lease, Underway), UpstreamFault> {
    let mut tried = Vec::new();
    let mut slots = Vec::new();
    loop {
        let error = match pool.lease(underway.cluster(), underway.member()).await {
            Ok(lease) => return Ok((lease, underway)),
            Err(error) => error,
        };
        let fault = unreachable(&underway, &error);
        tried.push(underway.member().id);
        if matches!(error, ConnectError::Refused(_)) || tried.len() >= UPSTREAM_ATTEMPTS {
            return Err(fault);
        }
        let cluster = Arc::clone(underway.cluster());
        let Some(another) = cluster.another(outgoing.key, &tried, underway.member()) else { return Err(fault) };
        slots.push(cluster.retry().ok_or(fault)?);
        outgoing.goes_to(cluster.upstream(&another));
        underway.moves(another);
    }
}

fn unreachable(underway: &Underway, error: &ConnectError) -> UpstreamFault {
    let fault = match error {
        ConnectError::Refused(why) => return UpstreamFault::from(*why),
        ConnectError::Late => UpstreamFault::ConnectLate,
        ConnectError::Io(_)
        | ConnectError::Tls(_)
        | ConnectError::Http(_)
        | ConnectError::Terms
        | ConnectError::Shared => UpstreamFault::Unreachable,
    };
    tracing::warn!(upstream = %underway.member().address, %error, "an upstream cannot be reached");
    underway.saw(Outcome::Failed);
    fault
}

enum Failed {
    /// Nothing was sent: the body comes back whole.
    Unsent(Box<RequestBody>),
    /// The connection broke before the answer.
    Broken,
    /// The upstream has answered, but not in HTTP: asking it again would not help.
    Garbled,
    /// The answer did not begin in time, or the request did not end.
    Late(Late),
    /// The answer did not begin as soon as the client wants it: that says nothing of the upstream.
    TooLate,
    /// The client's body broke.
    ClientGone,
    /// The client's body is larger than it may be.
    TooLarge,
}

impl Failed {
    /// The connection broke: by whose doing.
    fn broken(activity: &Activity, error: &(dyn std::error::Error + 'static)) -> Self {
        if activity.is_too_large() {
            return Self::TooLarge;
        }
        if activity.broke() {
            return Self::ClientGone;
        }
        tracing::debug!(%error, "an upstream broke off");
        Self::Broken
    }

    /// What is to be said, once the upstream's part in it was counted.
    fn seen(self, underway: &Underway) -> UpstreamFault {
        let fault = match self {
            Self::Unsent(_) | Self::Broken | Self::Garbled => UpstreamFault::Broken,
            Self::TooLate => return UpstreamFault::Late,
            Self::Late(Late::Upstream) => UpstreamFault::Late,
            Self::Late(Late::Client) => UpstreamFault::ClientLate,
            Self::ClientGone => UpstreamFault::ClientGone,
            Self::TooLarge => UpstreamFault::TooLarge,
        };
        if matches!(fault, UpstreamFault::Broken | UpstreamFault::Late) {
            underway.saw(Outcome::Failed);
        }
        fault
    }
}

/// The head of an answer, and its body where it comes by a stream of HTTP/2.
type Answered = (Parts, Option<Incoming>);

/// Sends a request, and waits for the head of its answer.
async fn answer(lease: &mut Lease, body: RequestBody, outgoing: &Outgoing) -> Result<Answered, Failed> {
    match lease.way() {
        Some(Way::Single(connection)) => {
            let activity = body.activity();
            connection.begin(outgoing.method == Method::HEAD, body, |out, coding| outgoing.head(out, coding));
            match poll_fn(|cx| connection.poll_answer(cx)).await {
                Ok(parts) => Ok((parts, None)),
                Err(Fault::Unsent(body)) => Err(Failed::Unsent(Box::new(body))),
                Err(Fault::Broken(error)) => Err(Failed::broken(&activity, &*error)),
                Err(Fault::Garbled(error)) => Err(match Failed::broken(&activity, &*error) {
                    Failed::Broken => Failed::Garbled,
                    failed => failed,
                }),
            }
        }
        Some(Way::Stream(shared)) => {
            let activity = body.activity();
            let request = outgoing.stream(body).map_err(|_| Failed::Broken)?;
            let waiting = shared.allowance().begin_among(shared.has_answered());
            let sent = shared.sender().try_send_request(request).await;
            drop(waiting);
            match sent {
                Ok(response) => {
                    let (parts, incoming) = response.into_parts();
                    Ok((parts, Some(incoming)))
                }
                Err(mut error) => Err(match error.take_message() {
                    Some(request) => Failed::Unsent(Box::new(request.into_body())),
                    None => Failed::broken(&activity, error.error()),
                }),
            }
        }
        None => Err(Failed::Broken),
    }
}

async fn exchange(
    mut lease: Lease,
    body: RequestBody,
    outgoing: &Outgoing,
    underway: Underway,
) -> Result<Answer, (Failed, Underway)> {
    let activity = body.activity();
    let silence = activity.silence();
    let hurry = grpc::deadline(outgoing.headers()).filter(|wanted| silence.is_none_or(|silence| *wanted < silence));
    let answering = answer(&mut lease, body, outgoing);
    let answered = match activity.within(hurry.or(silence), UPLOAD_FLOOR, answering).await {
        Ok(answered) => answered,
        Err(Late::Upstream) if hurry.is_some() => Err(Failed::TooLate),
        Err(late) => Err(Failed::Late(late)),
    };
    let (mut parts, incoming) = match answered {
        Ok(answered) => answered,
        Err(failed) => {
            if !matches!(failed, Failed::Unsent(_)) {
                activity.abandon();
            }
            return Err((failed, underway));
        }
    };
    if incoming.is_some() && !is_framed_once(&parts.headers) {
        return Err((Failed::Broken, underway));
    }
    if parts.status == StatusCode::SWITCHING_PROTOCOLS {
        // a switch that nobody asked for would turn the connection into something nobody looks at
        if !outgoing.websocket || lease.is_h2() || !is_websocket(&parts.headers) {
            return Err((Failed::Broken, underway));
        }
        let Some((stream, taken)) = lease.leave() else { return Err((Failed::Broken, underway)) };
        activity.answered(true);
        underway.saw(Outcome::Status(101));
        let response = Response::from_parts(parts, ());
        return Ok(Answer::Switched(response, Tunnel::to(stream, taken, underway)));
    }
    activity.answered(false);
    underway.saw(Outcome::Status(parts.status.as_u16()));
    lease.carry(underway, activity.clone());
    if let Some(Way::Single(connection)) = lease.way() {
        connection.send_on();
    }
    // how the upstream speaks is between it and us
    parts.version = Version::HTTP_11;
    remove_hop_by_hop(&mut parts.headers);
    Ok(Answer::Response(Response::from_parts(parts, AnswerBody::upstream(incoming, lease, activity))))
}

/// RFC 9113 §8.1.1: one length in digits, or none; the framing itself is that of the stream.
fn is_framed_once(headers: &HeaderMap) -> bool {
    let lengths = headers.get_all(CONTENT_LENGTH);
    let digits = |value: &HeaderValue| value.as_bytes().iter().all(u8::is_ascii_digit);
    lengths.iter().count() <= 1 && lengths.iter().all(digits) && !headers.contains_key(TRANSFER_ENCODING)
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
