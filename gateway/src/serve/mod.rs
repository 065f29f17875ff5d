//! The life of a request: canonical or refused, ours or a route's, who is calling, what they may, and then on.

mod admission;
mod answers;
mod decision;
mod instead;
mod judgement;
mod own;
mod tunnelled;

use std::net::Ipv4Addr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use http::header::{CONNECTION, SEC_WEBSOCKET_ACCEPT, UPGRADE};
use http::{HeaderValue, Method, Request, Response, StatusCode, Version};
use hyper::body::Body;
use hyper::ext::Protocol;
use portcullis_actors::authenticate::identify::CannotSay;
use portcullis_actors::authorize::{Permit, RefusalKind};
use portcullis_actors::clock;
use portcullis_actors::proxy::exchanges::Heard;
use portcullis_actors::proxy::leash::Leash;
use portcullis_actors::proxy::routes::{Located, NotLocated};
use portcullis_actors::proxy::upstreams::cluster::Cluster;
use portcullis_actors::request::{Canonical, Peer, Presented, Source, WebSocketStream};
use portcullis_config::limits::BUDGET_WAIT;
use portcullis_config::{Action, Route};
use portcullis_events::Time;

pub use admission::bound_of;
use admission::{TOO_LARGE, TOO_MANY, too_often};
use answers::{X_REQUEST_ID, finish, own_headers};
use judgement::Judgement;

use crate::answer::{Answer, Format, is_navigation, redirect};
use crate::client_body::{ClientBody, Switch};
use crate::forward::body::AnswerBody;
use crate::forward::budget::Use;
use crate::forward::handshake::is_accepted;
use crate::forward::outgoing::{Maker, NotPassed};
use crate::forward::{self, UpstreamFault};
use crate::h1;
use crate::in_force::Rules;
use crate::listen::Facts;
use crate::metrics::tally::{Bound, Decided, Misread};
use crate::pages::desk::{UNAVAILABLE, cannot_say};
use crate::request_id;
use crate::telemetry::{AccessRecord, RequestLine};
use crate::worker::Worker;

/// Answers one request. Never fails: every refusal and every fault is an answer. `leash` holds whatever drives it.
pub async fn serve(
    mut request: Request<ClientBody>,
    facts: Facts,
    worker: Rc<Worker>,
    leash: Rc<Leash>,
) -> Response<AnswerBody> {
    let began = Instant::now();
    let request_id = request_id::next();
    let upgrade = Switch::of(&mut request);
    let version = request.version();
    let format = Format::of(request.headers());
    let mut upgrades = request.headers().get_all(UPGRADE).iter();
    let is_tunnel = request.method() == Method::CONNECT;
    let switching =
        version < Version::HTTP_2 && (is_tunnel || upgrades.any(|value| h1::is_for_websocket(value.as_bytes())));
    let promised = request.headers().get(http::header::CONTENT_LENGTH).is_some_and(|length| length != "0");
    let (mut head, body) = request.into_parts();
    match head.extensions.remove::<Protocol>() {
        Some(protocol) if protocol.as_str() == "websocket" => drop(head.extensions.insert(WebSocketStream)),
        // no such thing is spoken here: it must not pass for a plain CONNECT
        Some(_) => head.method = Method::TRACE,
        None => {}
    }
    let method = head.method.clone();
    let rules = worker.blueprint.in_force.now();
    let address = facts.peer.ip().to_canonical();
    let peer = Peer { address, https: facts.https, certificate: facts.certificate };
    let canonical = match Canonical::read(head, peer, rules.config.downstream.reading) {
        // RFC 9113 §8.1.1: a length that no body can have
        Ok(_) if promised && body.is_end_stream() => Err(StatusCode::BAD_REQUEST),
        Ok(canonical) => Ok(Rc::new(canonical)),
        Err(bad) => {
            tracing::debug!(request = %request_id, %bad, "a request was refused");
            Err(bad.status())
        }
    };
    if let Some(too_many) = facts.too_many {
        let response = admission::crowded(too_many).render(format, &request_id);
        let request = canonical.ok();
        let line = RequestLine { request_id, method: Some(method), client: address, request };
        let mut response = finish(&worker, own_headers(response), began, line, bound_of(too_many).name());
        if version < Version::HTTP_2 {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        return response;
    }
    let request = match canonical {
        Ok(request) => request,
        Err(status) => {
            let mut response = Answer::new(status, what_is_wrong(status)).render(format, &request_id);
            if version < Version::HTTP_2 {
                // who frames one request badly frames the next one badly
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            let line = RequestLine { request_id, method: Some(method), client: address, request: None };
            return finish(&worker, own_headers(response), began, line, "bad_request");
        }
    };
    let line = RequestLine {
        request_id: Rc::clone(&request_id),
        method: Some(request.method().clone()),
        client: request.client(),
        request: Some(Rc::clone(&request)),
    };
    let record = AccessRecord::new(Rc::clone(&worker.log), began, line).held_by(&leash);
    let heard = worker.exchanges.heard();
    let exchange = Exchange { worker, request, request_id, format, record, switching, leash, heard };
    exchange.run(&rules, facts.server_name.as_deref(), body, upgrade).await
}

/// What is said of a request that is not looked at any further.
const fn what_is_wrong(status: StatusCode) -> &'static str {
    match status {
        StatusCode::URI_TOO_LONG => "The address is too long.",
        StatusCode::REQUEST_TIMEOUT => "The request took too long to come.",
        StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE => "The headers of the request are too large, or too many.",
        StatusCode::NOT_IMPLEMENTED => "Requests with this method are not taken here.",
        StatusCode::HTTP_VERSION_NOT_SUPPORTED => "This version of HTTP is not spoken here.",
        _ => "The request is malformed, or could be read in more than one way.",
    }
}

/// Whether a request came by a connection that was made for another host, where the client's certificate decides: what a
/// client shows to one host is not shown to another (RFC 9110 §15.5.20).
fn is_misdirected(rules: &Rules, route: &Route, request: &Canonical, server_name: Option<&str>) -> bool {
    // a CONNECT names the end of its tunnel, and is made to the host of its route
    let host = if request.tunnel().is_some() { &route.from.host } else { request.host() };
    // an address is never named in a handshake
    let agree =
        server_name.map_or_else(|| host.starts_with('[') || host.parse::<Ipv4Addr>().is_ok(), |name| name == host);
    rules.config.downstream.mtls.is_some() && !agree && route.policy.reads_client_certificate()
}

/// Writes down a head that was refused before there was a request; the library has answered it, or reset its stream.
pub fn never_understood(worker: &Rc<Worker>, facts: &Facts, began: Instant, why: Misread) {
    let line = unread_line(worker, facts, why);
    let status = match why {
        Misread::TooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
        Misread::Malformed | Misread::Compression | Misread::Late => StatusCode::BAD_REQUEST,
    };
    AccessRecord::new(Rc::clone(&worker.log), began, line).answered(status.as_u16(), "bad_request", None);
}

/// The answer to a head that was refused before there was a request.
pub fn misread(
    worker: &Rc<Worker>,
    facts: &Facts,
    began: Instant,
    why: Misread,
    status: StatusCode,
) -> Response<AnswerBody> {
    let line = unread_line(worker, facts, why);
    let response = Answer::new(status, what_is_wrong(status)).render(Format::Plain, &line.request_id);
    finish(worker, own_headers(response), began, line, "bad_request")
}

fn unread_line(worker: &Rc<Worker>, facts: &Facts, why: Misread) -> RequestLine {
    tracing::debug!(peer = %facts.peer, reason = why.name(), "a head was refused");
    worker.log.tally().misread(why);
    let request_id = request_id::next();
    RequestLine { request_id, method: None, client: facts.peer.ip().to_canonical(), request: None }
}

struct Exchange {
    worker: Rc<Worker>,
    request: Rc<Canonical>,
    request_id: Rc<str>,
    format: Format,
    /// Written even if the client leaves, and this value is dropped, before there is an answer.
    record: AccessRecord,
    /// The client's connection (HTTP/1.1) is to become a WebSocket or a tunnel: unless it does, nothing more is read from it.
    switching: bool,
    /// What ends it from outside.
    leash: Rc<Leash>,
    /// What was to be reconsidered before it was decided on.
    heard: Heard,
}

impl Exchange {
    async fn run(
        self,
        rules: &Arc<Rules>,
        server_name: Option<&str>,
        body: ClientBody,
        upgrade: Switch,
    ) -> Response<AnswerBody> {
        match rules.routes.locate(&self.request) {
            Ok(_) if self.request.is_to_ask_anew() => {
                let response = redirect(StatusCode::TEMPORARY_REDIRECT, &self.request.url(), [].iter());
                self.finish(own_headers(response), "path_normalized", None)
            }
            Ok(Located::Own { at_authenticate }) => self.own(at_authenticate, body).await,
            Ok(Located::Route { route, .. }) if is_misdirected(rules, &route, &self.request, server_name) => {
                let status = StatusCode::MISDIRECTED_REQUEST;
                let answer = Answer::new(status, "This address needs a connection of its own.");
                self.refuse(answer, "misdirected", Some(route))
            }
            Ok(Located::Route { index, route }) => self.routed(rules, index, route, body, upgrade).await,
            Err(NotLocated::UnknownHost | NotLocated::NoRoute) => self.refuse(
                Answer::new(StatusCode::NOT_FOUND, "There is nothing at this address."),
                "route_not_found",
                None,
            ),
            Err(NotLocated::OddPath) => {
                let answer = Answer::new(StatusCode::BAD_REQUEST, "The path could be read in more than one way.");
                self.refuse(answer, "ambiguous_path", None)
            }
        }
    }

    /// A request to a route: who, whether, and on.
    async fn routed(
        self,
        rules: &Arc<Rules>,
        index: usize,
        route: Arc<Route>,
        body: ClientBody,
        upgrade: Switch,
    ) -> Response<AnswerBody> {
        let now = clock::now();
        let rates = rules.rates(index);
        if let Some(Err(wait)) = rates.map(|rates| rates.take_address(self.request.client())) {
            return self.refuse_at(Bound::RateOfAddress, too_often(wait), route);
        }
        let presented = Presented::of(&self.request, &self.worker.desk.cookie().name);
        let judged = match &self.worker.blueprint.apart {
            Some(apart) => self.judge_apart(apart, &route, presented.as_ref()).await,
            None => Ok(self.judge_here(rules, index, &route, presented.as_ref(), now).await),
        };
        let tally = self.worker.log.tally();
        let judgement = match judged {
            Ok(judgement) => judgement,
            Err(error) => {
                tally.decided(Decided::Unavailable);
                tracing::warn!(request = %self.request_id, %error, "authorize has not decided");
                return self.refuse(UNAVAILABLE, "authorize_unavailable", Some(route));
            }
        };
        self.record(&judgement, &route);
        let Judgement { decision, outcome, session, unknown, .. } = judgement;
        let refusal = match outcome {
            Ok(permit) => {
                tally.decided(Decided::Allowed);
                if let (Some(rates), Some((_, person, _))) = (rates, session)
                    && let Err(wait) = rates.take_person(person)
                {
                    return self.refuse_at(Bound::RateOfUser, too_often(wait), route);
                }
                let cluster = rules.upstreams.of(index).map(Arc::clone);
                return self.pass(permit, (route, cluster), body, upgrade, now).await;
            }
            Err(refusal) => refusal,
        };
        tally.decided(match (refusal, unknown) {
            (RefusalKind::SignIn, Some(_)) => Decided::Unavailable,
            (RefusalKind::SignIn, None) => Decided::SignIn,
            (RefusalKind::Denied | RefusalKind::Certificate | RefusalKind::NotFound, _) => Decided::Denied,
        });
        match (refusal, unknown) {
            (RefusalKind::SignIn, Some(reason)) => {
                tracing::warn!(request = %self.request_id, %reason, "a session cannot be vouched for");
                let detail = match reason {
                    CannotSay::Stale => "stale",
                    CannotSay::Unread | CannotSay::Behind => "session_unknown",
                };
                self.refuse(cannot_say(reason), detail, Some(route))
            }
            (RefusalKind::SignIn, None) => {
                let by_browser = presented.is_none_or(|presented| matches!(presented.source, Source::Cookie));
                self.sign_in(by_browser, route, now)
            }
            (RefusalKind::Denied, _) => {
                let answer = Answer::new(refusal.status(), "You are signed in, but you may not see this.");
                let answer = if session.is_some() {
                    answer.with_way("/.pomerium/".into(), "Who am I?")
                } else {
                    Answer::new(refusal.status(), "You may not see this.")
                };
                let answer = if route.show_error_details {
                    answer.with_details(decision.unmet().names().collect())
                } else {
                    answer
                };
                self.refuse(answer, "denied", Some(route))
            }
            (RefusalKind::Certificate, _) => {
                let answer = Answer::new(refusal.status(), "This address asks for a client certificate that holds.");
                self.refuse(answer, "client_certificate", Some(route))
            }
            (RefusalKind::NotFound, _) => {
                let answer = Answer::new(refusal.status(), "There is nothing at this address.");
                self.refuse(answer, "route_not_found", Some(route))
            }
        }
    }

    fn sign_in(self, by_browser: bool, route: Arc<Route>, now: Time) -> Response<AnswerBody> {
        let is_tunnel = self.request.tunnel().is_some();
        if !is_tunnel && (!by_browser || !is_navigation(&self.request)) {
            let answer = Answer::new(StatusCode::UNAUTHORIZED, "Sign in first.");
            return self.refuse(answer, "sign_in", Some(route));
        }
        // a client of Pomerium's knows by a redirect that it has to sign in, and follows it nowhere
        let url = if is_tunnel { format!("https://{}/.pomerium/", route.from) } else { self.request.url() };
        match self.worker.desk.depart(&self.request, &url, now) {
            Ok(departure) => {
                let response = redirect(StatusCode::FOUND, departure.url.as_str(), [departure.cookie].iter());
                self.finish(own_headers(response), "sign_in", Some(route))
            }
            Err(_) => self.refuse(UNAVAILABLE, "sign_in", Some(route)),
        }
    }

    async fn pass(
        self,
        permit: Permit,
        (route, cluster): (Arc<Route>, Option<Arc<Cluster>>),
        body: ClientBody,
        upgrade: Switch,
        now: Time,
    ) -> Response<AnswerBody> {
        // nothing is waited for between the decision and this
        let ticket = match self.admit(&permit) {
            Ok(ticket) => ticket,
            Err(why) => return self.refuse(UNAVAILABLE, why.detail(), Some(route)),
        };
        match &route.action {
            Action::Forward(_) => {}
            Action::Redirect(redirect) => return self.redirected(permit, redirect, Arc::clone(&route)),
            Action::Response(answer) => return self.answered(permit, answer, Arc::clone(&route)),
            Action::Tunnel(tunnel) => return self.tunnelled(permit, ticket, tunnel, Arc::clone(&route), upgrade).await,
        }
        let client = self.client(&permit);
        let blueprint = &self.worker.blueprint;
        let maker = Maker {
            config: &blueprint.config,
            managed: &self.worker.managed,
            keys: &blueprint.assertion_keys,
            assertions: &self.worker.assertions,
            cluster: cluster.as_ref(),
        };
        let Ok(id) = HeaderValue::try_from(&*self.request_id) else {
            return self.refuse(UNAVAILABLE, "fault", Some(route));
        };
        let outgoing = match maker.make(permit, &id, now) {
            Ok(outgoing) => outgoing,
            Err(NotPassed::Path) => {
                let answer = Answer::new(StatusCode::BAD_REQUEST, "The path could be read in more than one way.");
                return self.refuse(answer, "ambiguous_path", Some(route));
            }
            Err(NotPassed::Host) => {
                let answer = Answer::new(StatusCode::BAD_REQUEST, "The request names no host that it could go to.");
                return self.refuse(answer, "bad_host", Some(route));
            }
            Err(NotPassed::WebSocket) => {
                let answer = Answer::new(StatusCode::FORBIDDEN, "This address takes no WebSockets.");
                return self.refuse(answer, "websocket_not_allowed", Some(route));
            }
            Err(NotPassed::Refused(why)) => {
                let fault = UpstreamFault::from(why);
                return self.refuse(Answer::new(fault.status(), fault.message()), fault.detail(), Some(route));
            }
            Err(NotPassed::Assertion) => return self.refuse(UNAVAILABLE, "fault", Some(route)),
        };
        let most = route.bounds.max_request_body;
        if most.is_some_and(|most| body.size_hint().lower() > most) {
            return self.refuse_at(Bound::RequestBody, TOO_LARGE, route);
        }
        let what_for = if self.request.is_websocket() { Use::Open } else { Use::Exchange };
        let Some(share) = self.worker.budgets.share(client, &route, what_for, BUDGET_WAIT).await else {
            return self.refuse_at(Bound::RequestsUnderWay, TOO_MANY, route);
        };
        let fresh_key = outgoing.fresh_key();
        match forward::forward(&self.worker.pool, outgoing, body, &self.leash).await {
            // RFC 8441 §5: to a stream such an answer would say that the WebSocket is open
            Ok(forward::Answer::Response(response))
                if what_for == Use::Open && !self.switching && response.status().is_success() =>
            {
                self.refuse_handshake(route)
            }
            Ok(forward::Answer::Response(response)) => {
                let response = self.dressed(response.map(|body| body.held(ticket, share)), &route);
                self.recorded(response, "via_upstream", Some(route))
            }
            Ok(forward::Answer::Switched(response, _))
                if fresh_key.is_some_and(|key| !is_accepted(&key, response.headers())) =>
            {
                self.refuse_handshake(route)
            }
            Ok(forward::Answer::Switched(response, tunnel)) => {
                let mut response = self.dressed(response.map(|()| AnswerBody::own(Bytes::new())), &route);
                response.headers_mut().insert(X_REQUEST_ID, id);
                if self.switching {
                    let headers = response.headers_mut();
                    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
                    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
                } else {
                    // RFC 8441 §5.1
                    *response.status_mut() = StatusCode::OK;
                    for name in [CONNECTION, UPGRADE, SEC_WEBSOCKET_ACCEPT] {
                        response.headers_mut().remove(name);
                    }
                }
                let mut record = self.record;
                record.answered(response.status().as_u16(), "websocket", Some(route));
                tunnel.held(share).join(upgrade, ticket, record);
                response
            }
            Err(fault) => {
                if let Some(bound) = fault.bound() {
                    self.worker.log.tally().bound(bound);
                }
                self.refuse(Answer::new(fault.status(), fault.message()), fault.detail(), Some(route))
            }
        }
    }
}
