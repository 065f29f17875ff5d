//! The authorization endpoint and the sign-in page behind it.

use std::sync::Arc;

use actix_web::http::StatusCode;
use actix_web::http::header::{LOCATION, SET_COOKIE};
use actix_web::{HttpRequest, HttpResponse, web};
use anyhow::Result;
use portcullis_actors::clock;
use portcullis_config::limits::{DEMO_FORM_LIFE, DEMO_LOGIN_LIFE};
use portcullis_events::Time;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::authorization::{self, Authorization, Prompt, Refusal};
use super::browser::{self, BROWSER, LOGIN};
use super::grants::{Grant, Login};
use super::keys::Kind;
use super::parameters::Parameters;
use super::{Provider, fault, message, random_text};
use crate::demo::page::{self, SignInPage};
use crate::demo::people::Person;

/// What the sign-in page carries through the browser, sealed and bound to it.
#[derive(Serialize, Deserialize)]
struct Form {
    authorization: Authorization,
    expires: Time,
}

/// `GET /authorize`
pub async fn by_link(provider: web::Data<Arc<Provider>>, request: HttpRequest) -> actix_web::Result<HttpResponse> {
    authorize(&provider, &request, request.query_string()).map_err(fault)
}

/// `POST /authorize` (OpenID Core §3.1.2.1 wants both)
pub async fn by_form(
    provider: web::Data<Arc<Provider>>,
    request: HttpRequest,
    body: String,
) -> actix_web::Result<HttpResponse> {
    authorize(&provider, &request, &body).map_err(fault)
}

fn authorize(provider: &Provider, request: &HttpRequest, parameters: &str) -> Result<HttpResponse> {
    let now = clock::now();
    let Ok(parameters) = Parameters::read(parameters) else {
        return message(provider, StatusCode::BAD_REQUEST, "This does not work", "The request repeats a parameter.");
    };
    let authorization = match authorization::read(&parameters, &provider.client) {
        Ok(authorization) => authorization,
        Err(Refusal::Shown(why)) => {
            return message(provider, StatusCode::BAD_REQUEST, "This does not work", why);
        }
        Err(Refusal::Returned { state, error, description }) => {
            let told = [("error", error), ("error_description", description)];
            return Ok(back(&provider.respond(state.as_deref(), &told)));
        }
    };
    let login = browser::login(provider, request, now).filter(|login| suffices(login, &authorization, now));
    match (login, authorization.prompt) {
        (Some(login), _) => Ok(back(&grant(provider, authorization, login, now)?)),
        (None, Prompt::Never) => {
            let told = [("error", "login_required"), ("error_description", "nobody is signed in")];
            Ok(back(&provider.respond(authorization.state.as_deref(), &told)))
        }
        (None, Prompt::IfNeeded | Prompt::Always) => {
            let browser = browser::id(request).map_or_else(random_text, Ok)?;
            let form = Form { authorization, expires: now.plus(DEMO_FORM_LIFE) };
            let form = provider.keys.seal(Kind::SignInForm, &browser, &form)?;
            ask(provider, StatusCode::OK, &browser, &form, None)
        }
    }
}

/// Whether a login is recent enough and nobody insists on a new one.
fn suffices(login: &Login, authorization: &Authorization, now: Time) -> bool {
    let fresh = authorization.max_age.is_none_or(|seconds| now.since(login.at).as_secs() <= seconds);
    fresh && authorization.prompt != Prompt::Always
}

/// `POST /sign_in`: the form of the page.
pub async fn sign_in(
    provider: web::Data<Arc<Provider>>,
    request: HttpRequest,
    body: String,
) -> actix_web::Result<HttpResponse> {
    answer_form(&provider, &request, &body).map_err(fault)
}

fn answer_form(provider: &Provider, request: &HttpRequest, body: &str) -> Result<HttpResponse> {
    let now = clock::now();
    let stale =
        "This form is not from your browser, or it lay open for too long. Go back to the application and try again.";
    let stale = || message(provider, StatusCode::BAD_REQUEST, "Please start again", stale);
    let (Ok(parameters), Some(browser)) = (Parameters::read(body), browser::id(request)) else { return stale() };
    if !browser::same_site(provider, request) {
        return stale();
    }
    let sealed = parameters.get("form").unwrap_or_default();
    let form: Option<Form> = provider.keys.open(Kind::SignInForm, &browser, sealed);
    let Some(form) = form.filter(|form| now < form.expires) else { return stale() };

    let username = parameters.get("username").unwrap_or_default();
    let Some(person) = Person::with_password(username, parameters.get("password").unwrap_or_default()) else {
        return ask(provider, StatusCode::FORBIDDEN, &browser, sealed, Some(username));
    };
    let login = Login { id: Uuid::new_v4(), username: person.username.to_owned(), at: now };
    let cookie = browser::set(LOGIN, &provider.keys.seal(Kind::Login, "", &login)?, DEMO_LOGIN_LIFE);
    let to = grant(provider, form.authorization, login, now)?;
    Ok(HttpResponse::SeeOther().insert_header((LOCATION, to)).insert_header((SET_COOKIE, cookie)).finish())
}

/// The sign-in page, with the name that was tried if one was.
fn ask(
    provider: &Provider,
    status: StatusCode,
    browser: &str,
    form: &str,
    tried: Option<&str>,
) -> Result<HttpResponse> {
    let shown = SignInPage { form, tried };
    let mut response = page::html(status, &shown, &provider.form_targets)?;
    let cookie = browser::set(BROWSER, browser, DEMO_LOGIN_LIFE);
    if let Ok(cookie) = cookie.parse() {
        response.headers_mut().insert(SET_COOKIE, cookie);
    }
    Ok(response)
}

/// Makes a code for the login; the address that brings it to the client.
fn grant(provider: &Provider, authorization: Authorization, login: Login, now: Time) -> Result<String> {
    let code = random_text()?;
    let Authorization { state, nonce, scopes, challenge, .. } = authorization;
    let grant = Grant { id: Uuid::new_v4(), login, scopes, nonce };
    provider.grants().issue(code.clone(), grant, challenge, now);
    Ok(provider.respond(state.as_deref(), &[("code", &code)]))
}

fn back(to: &str) -> HttpResponse {
    HttpResponse::SeeOther().insert_header((LOCATION, to)).finish()
}
