//! The sign-in of a program: the address that it opens in its person's browser, and the question at the end.

use std::rc::Rc;

use actix_web::HttpRequest;
use actix_web::web::ReqData;
use http::header::ALLOW;
use http::{HeaderValue, Method, StatusCode};
use portcullis_actors::authenticate::program::{depart_for_program, is_here, waiting_place, with_handle};
use portcullis_actors::clock;
use portcullis_actors::databroker::broker::Opened;
use portcullis_events::Time;
use url::{Url, form_urlencoded};

use super::bridge::{Own, Reply};
use super::desk::{Desk, UNAVAILABLE, cannot_say};
use super::route_host::person;
use super::templates::{Program, page};
use super::well_known::desk;
use crate::answer::{Answer, text};

const NOT_ALLOWED: Answer = Answer::new(
    StatusCode::BAD_REQUEST,
    "pomerium_redirect_uri is no web address that a sign-in may be sent to: one of this machine, or of a host in \
     programmatic_redirect_domain_whitelist (by https).",
);

const OVER: Answer =
    Answer::new(StatusCode::BAD_REQUEST, "This session has ended. Start the program again to sign in anew.");

/// `GET /.pomerium/api/v1/login?pomerium_redirect_uri=…`: where a program has its person sign in. Without the parameter
/// there is nothing here, whatever the method, as in Pomerium.
pub async fn login(request: HttpRequest, own: ReqData<Own>) -> Option<Reply> {
    let desk = desk(&request)?;
    let rules = desk.blueprint.in_force.now();
    let query = own.request.query().unwrap_or_default().as_bytes();
    let mut places = form_urlencoded::parse(query).filter(|(name, _)| name == "pomerium_redirect_uri");
    let place = places.next().filter(|_| rules.routes.is_route_host(own.request.host()))?;
    if own.request.method() != Method::GET {
        let mut reply = own.reply(Answer::new(StatusCode::METHOD_NOT_ALLOWED, "This address takes other methods."));
        reply.0.headers_mut().insert(ALLOW, HeaderValue::from_static("GET"));
        return Some(reply);
    }
    let place = waiting_place(&place.1, &rules.config.program_hosts).filter(|_| places.next().is_none());
    let Some(place) = place else { return Some(own.reply(NOT_ALLOWED)) };
    let authenticate = &desk.blueprint.config.authenticate_service_url;
    match depart_for_program(authenticate, own.request.authority(), &place, &desk.signer, clock::now()) {
        Ok(url) => Some(Reply(text(StatusCode::OK, "text/plain; charset=utf-8", url.into()))),
        Err(_) => Some(own.reply(UNAVAILABLE)),
    }
}

/// The end of a program's sign-in: the person says whether it gets the handle, which is made for this host alone and
/// never becomes a cookie. Any site can lead a browser through a sign-in that began at a program: it ends at a question.
pub async fn arrived(desk: &Rc<Desk>, own: &Own, place: &Url, opened: &Opened, now: Time) -> Reply {
    let rules = desk.blueprint.in_force.now();
    // signed as it is, it may be of a time when another configuration was in force
    let Some(place) = waiting_place(place.as_str(), &rules.config.program_hosts) else { return own.reply(NOT_ALLOWED) };
    let host = own.request.host();
    let Some(handle) = desk.handle(host, opened, now) else { return own.reply(UNAVAILABLE) };
    let session = match desk.holder(host, &handle, now).await {
        Ok(Some(session)) => session,
        Ok(None) => return own.reply(OVER),
        Err(reason) => return own.reply(cannot_say(reason)),
    };
    let onward = with_handle(&place, &handle);
    let here = is_here(&place);
    let place = shown(&place);
    Reply(page(
        StatusCode::OK,
        &Program { host, place: &place, here, person: person(&session), onward: onward.as_str() },
    ))
}

/// Host and port.
fn shown(place: &Url) -> String {
    let host = place.host_str().unwrap_or_default();
    place.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}
