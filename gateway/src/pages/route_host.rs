//! The pages of a route's host: who am I, the callback that ends a sign-in, and the way out.

use std::rc::Rc;

use actix_web::HttpRequest;
use actix_web::web::{Bytes as Body, ReqData};
use bytes::Bytes;
use http::header::{ORIGIN, REFRESH};
use http::{HeaderValue, Response, StatusCode};
use portcullis_actors::authenticate::cookie::{SetCookie, start_prefix};
use portcullis_actors::authenticate::start::{ArrivalError, arrive};
use portcullis_actors::authorize::assertion;
use portcullis_actors::clock;
use portcullis_actors::databroker::broker::{BrokerError, End, Ended, Open, Opened};
use portcullis_actors::databroker::view::SessionView;
use portcullis_actors::keyring::handle::Handle;
use portcullis_actors::request::{Canonical, Presented, Source, cookies};
use portcullis_config::limits::REDIRECT_BYTES;
use portcullis_config::{GroupsFilter, IssuerFormat, SameSite};
use portcullis_events::{SessionId, Time};
use url::Url;

use super::bridge::{Own, Reply};
use super::desk::{Desk, UNAVAILABLE, cannot_say};
use super::program;
use super::templates::{Arrived, Person, SignOut, User, page};
use super::well_known::desk;
use crate::answer::{Answer, Format, is_navigation, redirect, set_cookies, text};

/// `/.pomerium/`: what we know of the person, for the person.
pub async fn user_page(request: HttpRequest, own: ReqData<Own>) -> Option<Reply> {
    let desk = desk(&request)?;
    let now = clock::now();
    let caller = match desk.caller(&own.request, now).await {
        Ok(caller) => caller,
        Err(reason) => return Some(own.reply(cannot_say(reason))),
    };
    let host = own.request.host();
    let Some(caller) = caller else {
        let Ok(departure) = desk.depart(&own.request, &own.request.url(), now) else {
            return Some(own.reply(UNAVAILABLE));
        };
        let user = User { host, person: None, sign_in: Some(departure.url.into()), sign_out: "post" };
        let mut response = page(StatusCode::OK, &user);
        set_cookies(&mut response, [departure.cookie].iter());
        return Some(Reply(response));
    };
    let user = User { host, person: Some(person(&caller)), sign_in: None, sign_out: "post" };
    Some(Reply(page(StatusCode::OK, &user)))
}

/// `/.pomerium/user`: the claims of the assertion, without those that only a recipient needs.
pub async fn user(request: HttpRequest, own: ReqData<Own>) -> Option<Reply> {
    let desk = desk(&request)?;
    let caller = match desk.caller(&own.request, clock::now()).await {
        Ok(caller) => caller,
        Err(reason) => return Some(own.reply(cannot_say(reason))),
    };
    let Some(caller) = caller else { return Some(sign_in_first(desk, &own)) };
    let headers = &desk.blueprint.config.jwt_claims_headers;
    let mut claims =
        assertion::claims(&caller, own.request.host(), IssuerFormat::HostOnly, &GroupsFilter::default(), headers);
    for name in ["iss", "aud", "exp", "iat", "jti"] {
        claims.remove(name);
    }
    Some(Reply(text(StatusCode::OK, "application/json", serde_json::Value::Object(claims).to_string())))
}

/// What a request without a session gets where one is needed.
fn sign_in_first(desk: &Desk, own: &Own) -> Reply {
    let presented = Presented::of(&own.request, &desk.cookie().name);
    let by_browser = presented.is_none_or(|presented| matches!(presented.source, Source::Cookie));
    if !by_browser || !is_navigation(&own.request) {
        return own.reply(Answer::new(StatusCode::UNAUTHORIZED, "Sign in first."));
    }
    match desk.depart(&own.request, &own.request.url(), clock::now()) {
        Ok(departure) => Reply(redirect(StatusCode::FOUND, departure.url.as_str(), [departure.cookie].iter())),
        Err(_) => own.reply(UNAVAILABLE),
    }
}

/// `/.pomerium/callback/`: the sign-in comes home.
pub async fn callback(request: HttpRequest, own: ReqData<Own>) -> Option<Reply> {
    let url = own.request.url();
    Some(finish(desk(&request)?, &own, &url).await)
}

/// The same with the parameters in a form: they were too long for a URL.
pub async fn callback_form(request: HttpRequest, own: ReqData<Own>, body: Body) -> Option<Reply> {
    let Ok(fields) = std::str::from_utf8(&body) else { return Some(own.reply(BAD_CALLBACK)) };
    if own.request.query().is_some() {
        return Some(own.reply(BAD_CALLBACK));
    }
    let url = format!("{}?{fields}", own.request.url());
    Some(finish(desk(&request)?, &own, &url).await)
}

const BAD_CALLBACK: Answer = Answer::new(
    StatusCode::BAD_REQUEST,
    "This sign-in link is not valid, or too old. Open the application again to sign in.",
);

const OTHER_BROWSER: Answer = Answer::new(
    StatusCode::BAD_REQUEST,
    "This sign-in was begun in another browser, or took too long. Open the application again to sign in.",
);

async fn finish(desk: &Rc<Desk>, own: &Own, url: &str) -> Reply {
    let now = clock::now();
    let starts = start_cookies(desk, &own.request, url);
    let arrival = match arrive(url, starts.iter().map(String::as_str), &desk.signer, now) {
        Ok(arrival) => arrival,
        Err(error) => {
            tracing::info!(request = %own.request_id, %error, "a callback was refused");
            desk.blueprint.views.metrics.sign_ins.refused.increment();
            return own.reply(match error {
                ArrivalError::OtherBrowser => OTHER_BROWSER,
                ArrivalError::Signature(_) | ArrivalError::Malformed => BAD_CALLBACK,
            });
        }
    };
    let host = own.request.host().to_owned();
    let sign_ins = &desk.blueprint.views.metrics.sign_ins;
    let open = Open { hand_over: arrival.hand_over, host, request_id: own.request_id.to_string() };
    let opened = match desk.blueprint.open.ask(open).await {
        Ok(Ok(opened)) => opened,
        Ok(Err(BrokerError::Refused(why))) => {
            tracing::info!(request = %own.request_id, %why, "a hand-over was refused");
            sign_ins.refused.increment();
            return own.reply(BAD_CALLBACK);
        }
        Ok(Err(BrokerError::Unavailable(why))) => {
            tracing::warn!(request = %own.request_id, %why, "a session cannot be opened");
            sign_ins.unavailable.increment();
            return own.reply(UNAVAILABLE);
        }
        Err(error) => {
            tracing::warn!(request = %own.request_id, %error, "a session cannot be opened");
            sign_ins.unavailable.increment();
            return own.reply(UNAVAILABLE);
        }
    };
    sign_ins.completed.increment();
    if arrival.for_program {
        return program::arrived(desk, own, &arrival.redirect_uri, &opened, now).await;
    }
    match session_cookie(desk, own.request.host(), &opened, now) {
        Some(cookie) if desk.cookie().same_site == Some(SameSite::Strict) => {
            Reply(arrived(&arrival.redirect_uri, cookie))
        }
        Some(cookie) => Reply(redirect(StatusCode::SEE_OTHER, arrival.redirect_uri.as_str(), [cookie].iter())),
        None => own.reply(UNAVAILABLE),
    }
}

/// A browser keeps a strict cookie to itself on every redirect of a way that began at another site, as at a provider's
/// form: the next request would come without it, and be led to sign in for ever. So the way ends here, and our own page
/// begins the next one.
fn arrived(onward: &Url, cookie: SetCookie) -> Response<Bytes> {
    let mut response = page(StatusCode::OK, &Arrived { onward: onward.as_str() });
    if let Ok(refresh) = HeaderValue::try_from(format!("0; url={onward}")) {
        response.headers_mut().insert(REFRESH, refresh);
    }
    set_cookies(&mut response, [cookie].iter());
    response
}

/// The start cookies that the callback can mean: named after the hash it carries.
fn start_cookies(desk: &Desk, request: &Canonical, url: &str) -> Vec<String> {
    let Ok(url) = Url::parse(url) else { return Vec::new() };
    let Some((_, hash)) = url.query_pairs().find(|(name, _)| name == "pomerium_start") else { return Vec::new() };
    let name: String = start_prefix(&desk.cookie().name).chars().chain(hash.chars().take(12)).collect();
    let fitting = cookies::pairs(request.headers()).filter(|(held, _)| *held == name);
    fitting.map(|(_, value)| value.to_owned()).collect()
}

fn session_cookie(desk: &Desk, host: &str, opened: &Opened, now: Time) -> Option<SetCookie> {
    let sealed = desk.handle(desk.audience(host), opened, now)?;
    Some(SetCookie::session(&desk.cookie_for(host), sealed, opened.expires_at.since(now)))
}

/// `GET /.pomerium/sign_out`: at once where the person asks from here, after a question where another site does.
pub async fn sign_out(request: HttpRequest, own: ReqData<Own>) -> Option<Reply> {
    if is_from_elsewhere(&own.request) {
        return Some(Reply(page(StatusCode::OK, &SignOut { form: String::new() })));
    }
    Some(leave(desk(&request)?, &own).await)
}

/// `POST /.pomerium/sign_out`
pub async fn sign_out_form(request: HttpRequest, own: ReqData<Own>) -> Option<Reply> {
    if is_from_elsewhere(&own.request) {
        return Some(own.reply(Answer::new(StatusCode::FORBIDDEN, "Another site may not sign you out.")));
    }
    Some(leave(desk(&request)?, &own).await)
}

/// Whether another origin caused the request, as far as the browser says (Fetch Metadata, `Origin`).
fn is_from_elsewhere(request: &Canonical) -> bool {
    let headers = request.headers();
    if let Some(site) = headers.get("sec-fetch-site") {
        return site != "same-origin" && site != "none";
    }
    let own = format!("https://{}", request.authority());
    headers.get(ORIGIN).is_some_and(|origin| origin.as_bytes() != own.as_bytes())
}

async fn leave(desk: &Rc<Desk>, own: &Own) -> Reply {
    let now = clock::now();
    let presented = Presented::of(&own.request, &desk.cookie().name);
    let handle = presented.and_then(|presented| {
        let audience = desk.audience_of(own.request.host(), &presented, now);
        Handle::open(&desk.handles, audience, &presented.handle, now)
    });
    let hint = match &handle {
        Some(handle) => match end(desk, handle.session, &own.request_id).await {
            Some(ended) => ended.id_token_hint,
            None => return own.reply(UNAVAILABLE),
        },
        None => None,
    };
    let mut url = desk.blueprint.config.authenticate_service_url.clone();
    url.set_path("/.pomerium/sign_out");
    url.set_query(None);
    if let Some(handle) = &handle {
        url.query_pairs_mut().append_pair("pomerium_session_id", &handle.session.to_string());
    }
    // without it the provider asks, or goes by the client id: better than a URL that is too long
    if let Some(hint) = hint.filter(|hint| hint.len() <= REDIRECT_BYTES) {
        url.query_pairs_mut().append_pair("pomerium_id_token_hint", &hint);
    }
    let url = desk.signer.sign(url, now);
    let gone = SetCookie::no_session(&desk.cookie_for(own.request.host()));
    Reply(redirect(StatusCode::SEE_OTHER, url.as_str(), [gone].iter()))
}

/// Ends a session; `None` where databroker cannot.
pub async fn end(desk: &Desk, session: SessionId, request_id: &str) -> Option<Ended> {
    match desk.blueprint.end.ask(End { session, request_id: request_id.to_owned() }).await {
        Ok(Ok(ended)) => Some(ended),
        Ok(Err(error)) => {
            tracing::warn!(request = request_id, %error, "a session cannot be ended");
            None
        }
        Err(error) => {
            tracing::warn!(request = request_id, %error, "a session cannot be ended");
            None
        }
    }
}

/// What the user page shows of a session.
pub fn person(session: &SessionView) -> Person {
    let name = session.name.clone().or_else(|| session.email.clone()).unwrap_or_else(|| session.user.clone());
    Person {
        name,
        user: session.user.clone(),
        email: session.email.clone(),
        groups: session.groups.clone(),
        session: session.id.to_string(),
        issued_at: session.issued_at.rfc3339(),
        expires_at: session.expires_at.rfc3339(),
    }
}

impl Own {
    /// An answer of ours in the caller's format.
    pub fn reply(&self, answer: Answer) -> Reply {
        Reply(answer.render(Format::of(self.request.headers()), &self.request_id))
    }
}
