//! RP-initiated logout (OpenID Connect RP-Initiated Logout 1.0): at the client's word if it proves itself, else at the
//! person's.

use std::sync::Arc;
use std::time::Duration;

use actix_web::http::StatusCode;
use actix_web::http::header::{LOCATION, SET_COOKIE};
use actix_web::{HttpRequest, HttpResponse, web};
use anyhow::Result;
use portcullis_actors::clock;
use portcullis_config::limits::DEMO_FORM_LIFE;
use portcullis_events::Time;
use serde::{Deserialize, Serialize};
use url::Url;
use uuid::Uuid;

use super::browser::{self, LOGIN};
use super::keys::Kind;
use super::parameters::Parameters;
use super::{Provider, fault, message};
use crate::demo::page::{self, SignOutPage};

/// What the question carries through the browser, sealed and bound to the login.
#[derive(Serialize, Deserialize)]
struct Form {
    return_to: Option<Url>,
    expires: Time,
}

/// `GET /end_session`
pub async fn by_link(provider: web::Data<Arc<Provider>>, request: HttpRequest) -> actix_web::Result<HttpResponse> {
    end_session(&provider, &request, request.query_string()).map_err(fault)
}

/// `POST /end_session`
pub async fn by_form(
    provider: web::Data<Arc<Provider>>,
    request: HttpRequest,
    body: String,
) -> actix_web::Result<HttpResponse> {
    end_session(&provider, &request, &body).map_err(fault)
}

fn end_session(provider: &Provider, request: &HttpRequest, parameters: &str) -> Result<HttpResponse> {
    let now = clock::now();
    let refuse = |why| message(provider, StatusCode::BAD_REQUEST, "This does not work", why);
    let Ok(parameters) = Parameters::read(parameters) else { return refuse("The request repeats a parameter.") };
    if parameters.get("client_id").is_some_and(|id| id != provider.client.id) {
        return refuse("This provider does not know the application that sent you.");
    }
    let return_to = match parameters.get("post_logout_redirect_uri") {
        None => None,
        Some(uri) if uri == provider.client.post_logout_redirect_uri => {
            let mut uri = Url::parse(uri)?;
            if let Some(state) = parameters.get("state") {
                uri.query_pairs_mut().append_pair("state", state);
            }
            Some(uri)
        }
        Some(_) => return refuse("The application wants you back at an address that is not registered for it."),
    };
    let hinted = match parameters.get("id_token_hint") {
        None => None,
        Some(hint) => match provider.keys.hint(hint, &provider.issuer, &provider.client.id) {
            Some(hint) => Some(hint.sid),
            None => return refuse("The application names a session that is not from here."),
        },
    };
    let login = browser::login(provider, request, now).map(|login| login.id);
    match (login, hinted) {
        // what the client may end is what it was given
        (None, Some(hinted)) => end(provider, hinted, return_to, now),
        (Some(login), Some(hinted)) if login == hinted => end(provider, login, return_to, now),
        (None, None) => gone(provider, return_to),
        (Some(login), _) => {
            let form = Form { return_to, expires: now.plus(DEMO_FORM_LIFE) };
            let form = provider.keys.seal(Kind::SignOutForm, &login.to_string(), &form)?;
            page::html(StatusCode::OK, &SignOutPage { form: &form }, &provider.form_targets)
        }
    }
}

/// `POST /end_session/confirm`: the answer to the question.
pub async fn confirm(
    provider: web::Data<Arc<Provider>>,
    request: HttpRequest,
    body: String,
) -> actix_web::Result<HttpResponse> {
    let now = clock::now();
    let login = browser::login(&provider, &request, now).filter(|_| browser::same_site(&provider, &request));
    let form = login.zip(Parameters::read(&body).ok()).and_then(|(login, parameters)| {
        let form: Form =
            provider.keys.open(Kind::SignOutForm, &login.id.to_string(), parameters.get("form").unwrap_or_default())?;
        (now < form.expires).then_some((login.id, form.return_to))
    });
    match form {
        Some((login, return_to)) => end(&provider, login, return_to, now).map_err(fault),
        None => {
            let why = "This form is not from your session, or it lay open for too long.";
            message(&provider, StatusCode::BAD_REQUEST, "You are still signed in, or were not", why).map_err(fault)
        }
    }
}

fn end(provider: &Provider, login: Uuid, return_to: Option<Url>, now: Time) -> Result<HttpResponse> {
    provider.grants().end(login, now);
    gone(provider, return_to)
}

/// Nobody is signed in here any more.
fn gone(provider: &Provider, return_to: Option<Url>) -> Result<HttpResponse> {
    let cookie = browser::set(LOGIN, "", Duration::ZERO);
    if let Some(to) = return_to {
        let to = (LOCATION, to.to_string());
        return Ok(HttpResponse::SeeOther().insert_header(to).insert_header((SET_COOKIE, cookie)).finish());
    }
    let mut response =
        message(provider, StatusCode::OK, "You are signed out", "Your login at this provider has ended.")?;
    if let Ok(cookie) = cookie.parse() {
        response.headers_mut().insert(SET_COOKIE, cookie);
    }
    Ok(response)
}
