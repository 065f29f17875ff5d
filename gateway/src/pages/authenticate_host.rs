//! The pages of the authenticate host: sign-in begins and comes back from the provider here, and ends here.

use actix_web::HttpRequest;
use actix_web::web::{Bytes as Body, ReqData};
use http::StatusCode;
use portcullis_actors::ask::AskError;
use portcullis_actors::authenticate::cookie::SetCookie;
use portcullis_actors::authenticate::keepsake;
use portcullis_actors::authenticate::sign_in::{Arrive, Leave, Return, SignInFault, Step, Way};
use portcullis_actors::clock;
use portcullis_actors::request::cookies;
use portcullis_config::limits::SIGN_IN_LIFE;
use portcullis_events::Time;
use url::form_urlencoded;

use super::bridge::{Own, Reply};
use super::desk::{Desk, UNAVAILABLE, cannot_say};
use super::route_host::{end, person};
use super::templates::{HandOverForm, SignOut, SignedOut, User, page};
use super::well_known::desk;
use crate::answer::{Answer, redirect, set_cookies};

/// `/`
pub async fn home() -> Reply {
    Reply(redirect(StatusCode::FOUND, "/.pomerium/", std::iter::empty()))
}

/// `/.pomerium/`: what we know of the person, by this host's own cookie.
pub async fn user_page(request: HttpRequest, own: ReqData<Own>) -> Option<Reply> {
    let desk = desk(&request)?;
    let now = clock::now();
    let view = match desk.authenticate_session(&own.request, now) {
        Some(session) => match desk.open_session(session, now).await {
            Ok(view) => view,
            Err(reason) => return Some(own.reply(cannot_say(reason))),
        },
        None => None,
    };
    let person = view.map(|view| person(&view));
    let user = User { host: own.request.host(), person, sign_in: None, sign_out: "get" };
    Some(Reply(page(StatusCode::OK, &user)))
}

/// `/.pomerium/sign_in`: a browser that a proxy sent.
pub async fn sign_in(request: HttpRequest, own: ReqData<Own>) -> Option<Reply> {
    let desk = desk(&request)?;
    let handle = desk.authenticate_handle(&own.request).map(str::to_owned);
    let surplus = keepsake::surplus(&desk.cookie().name, cookies::pairs(own.request.headers()));
    let outcome = desk.blueprint.arrive.ask(Arrive { url: own.request.url(), handle, surplus }).await;
    Some(step(desk, &own, StatusCode::FOUND, outcome))
}

/// `GET /oauth2/callback`
pub async fn callback(request: HttpRequest, own: ReqData<Own>) -> Option<Reply> {
    let query = own.request.query().unwrap_or_default().to_owned();
    Some(returned(desk(&request)?, &own, &query).await)
}

/// `POST /oauth2/callback` (OAuth 2.0 Form Post Response Mode)
pub async fn callback_form(request: HttpRequest, own: ReqData<Own>, body: Body) -> Option<Reply> {
    let Ok(fields) = std::str::from_utf8(&body) else { return Some(own.reply(BAD_RETURN)) };
    Some(returned(desk(&request)?, &own, fields).await)
}

const BAD_RETURN: Answer = Answer::new(
    StatusCode::BAD_REQUEST,
    "This sign-in was not begun in this browser, or took too long. Open the application again to sign in.",
);

const BAD_LINK: Answer = Answer::new(
    StatusCode::BAD_REQUEST,
    "This sign-in link is not valid, or too old. Open the application again to sign in.",
);

const REFUSED: Answer = Answer::new(
    StatusCode::FORBIDDEN,
    "Signing in at the identity provider did not succeed. Open the application again to try once more.",
);

async fn returned(desk: &Desk, own: &Own, fields: &str) -> Reply {
    let Ok(state) = once(fields, "state") else { return own.reply(BAD_RETURN) };
    let Some(state) = state else { return own.reply(BAD_RETURN) };
    if let Some((_, error)) = form_urlencoded::parse(fields.as_bytes()).find(|(name, _)| name == "error") {
        let error: String = error.chars().filter(|c| c.is_ascii_graphic()).take(60).collect();
        tracing::info!(request = %own.request_id, %error, "the provider answered a sign-in with an error");
        desk.blueprint.views.metrics.sign_ins.refused.increment();
        return own.reply(REFUSED);
    }
    let (Ok(Some(code)), Ok(iss)) = (once(fields, "code"), once(fields, "iss")) else { return own.reply(BAD_RETURN) };
    let keepsakes = keepsake::found(&desk.cookie().name, &state, cookies::pairs(own.request.headers()));
    let returned = Return { code, state, iss, keepsakes, request_id: own.request_id.to_string() };
    step(desk, own, StatusCode::SEE_OTHER, desk.blueprint.returned.ask(returned).await)
}

/// A parameter that may stand once.
fn once(fields: &str, name: &str) -> Result<Option<String>, Doubled> {
    let mut values = form_urlencoded::parse(fields.as_bytes()).filter(|(key, _)| key == name);
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some((_, value)), None) => Ok(Some(value.into_owned()).filter(|value| !value.is_empty())),
        (Some(_), Some(_)) => Err(Doubled),
    }
}

struct Doubled;

fn step(desk: &Desk, own: &Own, status: StatusCode, outcome: Result<Result<Step, SignInFault>, AskError>) -> Reply {
    let sign_ins = &desk.blueprint.views.metrics.sign_ins;
    let step = match outcome {
        Ok(Ok(step)) => step,
        Ok(Err(fault)) => {
            tracing::warn!(request = %own.request_id, %fault, "a sign-in does not go on");
            match fault {
                SignInFault::BadRequest(_) | SignInFault::Refused(_) => sign_ins.refused.increment(),
                SignInFault::Unavailable(_) => sign_ins.unavailable.increment(),
            }
            return own.reply(match fault {
                SignInFault::BadRequest(_) if own.request.path() == "/oauth2/callback" => BAD_RETURN,
                SignInFault::BadRequest(_) => BAD_LINK,
                SignInFault::Refused(_) => REFUSED,
                SignInFault::Unavailable(_) => UNAVAILABLE,
            });
        }
        Err(error) => {
            tracing::warn!(request = %own.request_id, %error, "a sign-in does not go on");
            sign_ins.unavailable.increment();
            return own.reply(UNAVAILABLE);
        }
    };
    match step.way {
        Way::Redirect(url) => Reply(redirect(status, url.as_str(), step.cookies.iter())),
        Way::Form { action, fields } => {
            let host = action.host_str().unwrap_or_default();
            let mut response = page(StatusCode::OK, &HandOverForm { host, action: action.as_str(), fields: &fields });
            set_cookies(&mut response, step.cookies.iter());
            Reply(response)
        }
    }
}

/// `GET /.pomerium/sign_out`: at once for a signed URL that names the session of this browser, after a question for any
/// other. Whoever asks a route's host for it gets a signed URL, and could lead another browser there.
pub async fn sign_out(request: HttpRequest, own: ReqData<Own>) -> Option<Reply> {
    let desk = desk(&request)?;
    let now = clock::now();
    let session = desk.authenticate_session(&own.request, now);
    if let Some(parting) = Parting::read(desk, &own.request.url(), now)
        && session.is_none_or(|session| parting.session.as_deref() == Some(session.to_string().as_str()))
    {
        return Some(leave(desk, &own, parting.hint, now).await);
    }
    match session {
        Some(session) => {
            let until = now.plus(SIGN_IN_LIFE).millis();
            match desk.forms.seal(&format!("sign_out/{session}"), until.to_string().as_bytes()) {
                Ok(form) => Some(Reply(page(StatusCode::OK, &SignOut { form }))),
                Err(_) => Some(own.reply(UNAVAILABLE)),
            }
        }
        None => Some(Reply(page(StatusCode::OK, &SignedOut))),
    }
}

/// What a route's host says of a sign-out, in a URL that it signed.
struct Parting {
    session: Option<String>,
    hint: Option<String>,
}

impl Parting {
    fn read(desk: &Desk, url: &str, now: Time) -> Option<Self> {
        desk.signer.verify(url, now).ok()?;
        let query = url.split_once('?')?.1;
        let (session, hint) = (once(query, "pomerium_session_id").ok()?, once(query, "pomerium_id_token_hint").ok()?);
        Some(Self { session, hint })
    }
}

/// `POST /.pomerium/sign_out`: the answer to the question.
pub async fn sign_out_form(request: HttpRequest, own: ReqData<Own>, body: Body) -> Option<Reply> {
    let desk = desk(&request)?;
    let now = clock::now();
    let form = form_urlencoded::parse(&body).find(|(name, _)| name == "form").map(|(_, value)| value.into_owned());
    let session = desk.authenticate_session(&own.request, now);
    let until = session.zip(form).and_then(|(session, form)| {
        let until = desk.forms.open(&format!("sign_out/{session}"), &form)?;
        std::str::from_utf8(&until).ok()?.parse().ok().map(Time::from_millis)
    });
    match until {
        Some(until) if now < until => Some(leave(desk, &own, None, now).await),
        Some(_) | None => {
            Some(own.reply(Answer::new(StatusCode::FORBIDDEN, "This form is not valid, or too old. Try again.")))
        }
    }
}

async fn leave(desk: &Desk, own: &Own, hint: Option<String>, now: Time) -> Reply {
    let mut hint = hint;
    if let Some(session) = desk.authenticate_session(&own.request, now) {
        match end(desk, session, &own.request_id).await {
            Some(ended) => hint = hint.or(ended.id_token_hint),
            None => return own.reply(UNAVAILABLE),
        }
    }
    let mut signed_out = desk.blueprint.config.authenticate_service_url.clone();
    signed_out.set_path("/.pomerium/signed_out");
    let leave = Leave { id_token_hint: hint, post_logout_redirect_uri: signed_out.clone() };
    let way = desk.blueprint.leave.ask(leave).await.ok().flatten().unwrap_or(signed_out);
    let gone = SetCookie::no_authenticate(desk.cookie());
    Reply(redirect(StatusCode::SEE_OTHER, way.as_str(), [gone].iter()))
}

/// `/.pomerium/signed_out`: the end, or `signout_redirect_url`.
pub async fn signed_out(request: HttpRequest) -> Option<Reply> {
    match &desk(&request)?.blueprint.config.signout_redirect_url {
        Some(url) => Some(Reply(redirect(StatusCode::FOUND, url.as_str(), std::iter::empty()))),
        None => Some(Reply(page(StatusCode::OK, &SignedOut))),
    }
}
