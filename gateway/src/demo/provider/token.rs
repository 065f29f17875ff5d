//! The token endpoint and user info: codes and refresh tokens become tokens, tokens become claims.

use std::sync::Arc;

use actix_web::http::StatusCode;
use actix_web::http::header::{AUTHORIZATION, CACHE_CONTROL, WWW_AUTHENTICATE};
use actix_web::{HttpRequest, HttpResponse, web};
use anyhow::{Context, Result};
use aws_lc_rs::constant_time::verify_slices_are_equal;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use portcullis_actors::clock;
use portcullis_config::limits::DEMO_TOKEN_LIFE;
use portcullis_events::Time;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::grants::{Grant, RefreshToken, Refused};
use super::keys::{Kind, at_hash};
use super::parameters::Parameters;
use super::{Provider, fault};
use crate::demo::people::Person;

/// An error of the token endpoint (RFC 6749 §5.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct TokenError {
    error: &'static str,
    description: &'static str,
}

const fn refused(error: &'static str, description: &'static str) -> TokenError {
    TokenError { error, description }
}

const INVALID_CLIENT: TokenError = refused("invalid_client", "the client is unknown or its secret is wrong");

impl From<Refused> for TokenError {
    fn from(refusal: Refused) -> Self {
        // the particulars are the log's; the client is told what it can act upon
        tracing::info!(reason = %refusal, "the demo's provider refuses a grant");
        refused("invalid_grant", "the grant is unknown, used, too old or ended")
    }
}

/// An access token, before it is sealed.
#[derive(Serialize, Deserialize)]
struct AccessToken {
    grant: Grant,
    expires: Time,
}

/// `POST /token`
pub async fn token(
    provider: web::Data<Arc<Provider>>,
    request: HttpRequest,
    body: String,
) -> actix_web::Result<HttpResponse> {
    let now = clock::now();
    let authorization = request.headers().get(AUTHORIZATION).map(|value| value.to_str().unwrap_or_default());
    let grant = Parameters::read(&body).map_err(|_| refused("invalid_request", "a parameter is repeated")).and_then(
        |parameters| {
            authenticate(&provider, authorization, &parameters)?;
            grant(&provider, &parameters, now)
        },
    );
    match grant {
        Ok(granted) => {
            let tokens = tokens(&provider, granted, now).map_err(fault)?;
            Ok(HttpResponse::Ok().insert_header((CACHE_CONTROL, "no-store")).json(tokens))
        }
        Err(TokenError { error, description }) => {
            let status = if error == INVALID_CLIENT.error { StatusCode::UNAUTHORIZED } else { StatusCode::BAD_REQUEST };
            let mut response = HttpResponse::build(status);
            if status == StatusCode::UNAUTHORIZED {
                response.insert_header((WWW_AUTHENTICATE, "Basic realm=\"demo identity provider\""));
            }
            response.insert_header((CACHE_CONTROL, "no-store"));
            Ok(response.json(json!({"error": error, "error_description": description})))
        }
    }
}

/// `client_secret_basic` or `client_secret_post`, never both (RFC 6749 §2.3).
fn authenticate(provider: &Provider, header: Option<&str>, parameters: &Parameters) -> Result<(), TokenError> {
    let (id, secret) = match (header, parameters.get("client_secret")) {
        (Some(_), Some(_)) => return Err(refused("invalid_request", "the client authenticates in two ways")),
        (Some(header), None) => {
            let (id, secret) = basic(header).ok_or(INVALID_CLIENT)?;
            if parameters.get("client_id").is_some_and(|named| named != id) {
                return Err(refused("invalid_request", "two clients are named"));
            }
            (id, secret)
        }
        (None, Some(secret)) => (parameters.get("client_id").unwrap_or_default().to_owned(), secret.to_owned()),
        (None, None) => return Err(INVALID_CLIENT),
    };
    let right = verify_slices_are_equal(secret.as_bytes(), provider.client.secret.expose()).is_ok();
    if right && id == provider.client.id { Ok(()) } else { Err(INVALID_CLIENT) }
}

/// Id and secret are form-encoded before they are joined (RFC 6749 §2.3.1).
fn basic(header: &str) -> Option<(String, String)> {
    let (scheme, credentials) = header.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let text = String::from_utf8(STANDARD.decode(credentials.trim()).ok()?).ok()?;
    let (id, secret) = text.split_once(':')?;
    Some((decoded(id)?, decoded(secret)?))
}

fn decoded(text: &str) -> Option<String> {
    // a form with one nameless value
    let form = format!("={text}");
    let mut pairs = url::form_urlencoded::parse(form.as_bytes());
    let (_, value) = pairs.next()?;
    pairs.next().is_none().then(|| value.into_owned())
}

/// What a request is granted: the grant, and the refresh token that goes with it.
struct Granted {
    grant: Grant,
    refresh: Option<RefreshToken>,
}

fn grant(provider: &Provider, parameters: &Parameters, now: Time) -> Result<Granted, TokenError> {
    match parameters.get("grant_type") {
        Some("authorization_code") => {
            let missing = refused("invalid_request", "code, redirect_uri and code_verifier are required");
            let code = parameters.get("code").ok_or(missing)?;
            let redirect_uri = parameters.get("redirect_uri").ok_or(missing)?;
            let verifier = parameters.get("code_verifier").ok_or(missing)?;
            let grant = provider.grants().redeem(code, verifier, now)?;
            if redirect_uri != provider.client.redirect_uri {
                return Err(refused("invalid_grant", "redirect_uri is not that of the authorization request"));
            }
            let lasting = grant.scopes.iter().any(|scope| scope == "offline_access");
            let refresh = lasting.then(|| provider.grants().first(grant.clone(), now));
            Ok(Granted { grant, refresh })
        }
        Some("refresh_token") => {
            let missing = refused("invalid_request", "refresh_token is required");
            let token = parameters.get("refresh_token").ok_or(missing)?;
            let token: Option<RefreshToken> = provider.keys.open(Kind::RefreshToken, &provider.client.id, token);
            let token = token.ok_or(Refused::Unknown)?;
            let mut grant = token.grant.clone();
            if let Some(asked) = parameters.get("scope") {
                let asked: Vec<&str> = asked.split(' ').collect();
                if asked.iter().any(|asked| !grant.scopes.iter().any(|scope| scope == asked)) {
                    return Err(refused("invalid_scope", "more than was granted"));
                }
                grant.scopes.retain(|scope| asked.contains(&scope.as_str()));
            }
            // a refreshed ID token should carry no nonce (OpenID Core §12.2)
            grant.nonce = None;
            let refresh = provider.grants().rotate(token, now)?;
            Ok(Granted { grant, refresh: Some(refresh) })
        }
        Some(_) => Err(refused("unsupported_grant_type", "only authorization_code and refresh_token are supported")),
        None => Err(refused("invalid_request", "grant_type is missing")),
    }
}

fn tokens(provider: &Provider, granted: Granted, now: Time) -> Result<Value> {
    let Granted { grant, refresh } = granted;
    let token = AccessToken { expires: now.plus(DEMO_TOKEN_LIFE), grant: grant.clone() };
    let access_token = provider.keys.seal(Kind::AccessToken, "", &token)?;
    let mut answer = json!({
        "token_type": "Bearer",
        "expires_in": DEMO_TOKEN_LIFE.as_secs(),
        "scope": grant.scopes.join(" "),
        "id_token": id_token(provider, &grant, &access_token, now)?,
        "access_token": access_token,
    });
    if let (Some(refresh), Some(answer)) = (refresh, answer.as_object_mut()) {
        let sealed = provider.keys.seal(Kind::RefreshToken, &provider.client.id, &refresh)?;
        answer.insert("refresh_token".to_owned(), Value::String(sealed));
    }
    Ok(answer)
}

fn id_token(provider: &Provider, grant: &Grant, access_token: &str, now: Time) -> Result<String> {
    let mut id_token = claims(grant)?;
    let mut say = |name: &str, value: Value| id_token.insert(name.to_owned(), value);
    say("iss", provider.issuer.as_str().into());
    say("aud", provider.client.id.as_str().into());
    say("iat", now.secs().into());
    say("exp", now.plus(DEMO_TOKEN_LIFE).secs().into());
    say("auth_time", grant.login.at.secs().into());
    say("at_hash", at_hash(access_token).into());
    say("sid", grant.login.id.to_string().into());
    if let Some(nonce) = &grant.nonce {
        say("nonce", nonce.as_str().into());
    }
    provider.keys.sign(&Value::Object(id_token))
}

/// What the scopes let be told of the person (OpenID Core §5.4; `groups` goes with `profile`).
fn claims(grant: &Grant) -> Result<Map<String, Value>> {
    let person = Person::named(&grant.login.username).context("nobody has this name any more")?;
    let has = |scope: &str| grant.scopes.iter().any(|granted| granted == scope);
    let mut claims = Map::new();
    claims.insert("sub".to_owned(), person.subject().into());
    if has("email") {
        claims.insert("email".to_owned(), person.email.into());
        claims.insert("email_verified".to_owned(), true.into());
    }
    if has("profile") {
        claims.insert("name".to_owned(), person.name.into());
        claims.insert("preferred_username".to_owned(), person.username.into());
        claims.insert("groups".to_owned(), person.groups.into());
    }
    Ok(claims)
}

/// `GET` or `POST /userinfo` with a bearer token (OpenID Core §5.3).
pub async fn userinfo(provider: web::Data<Arc<Provider>>, request: HttpRequest) -> actix_web::Result<HttpResponse> {
    let now = clock::now();
    let header = request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    let Some(bearer) = header.and_then(bearer) else {
        return Ok(unauthorized("Bearer realm=\"demo identity provider\""));
    };
    let token: Option<AccessToken> = provider.keys.open(Kind::AccessToken, "", bearer);
    let good = token.filter(|token| now < token.expires && provider.grants().alive(&token.grant, now).is_ok());
    match good {
        Some(token) => {
            let claims = claims(&token.grant).map_err(fault)?;
            Ok(HttpResponse::Ok().insert_header((CACHE_CONTROL, "no-store")).json(claims))
        }
        None => Ok(unauthorized("Bearer realm=\"demo identity provider\", error=\"invalid_token\"")),
    }
}

fn bearer(header: &str) -> Option<&str> {
    let (scheme, token) = header.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

fn unauthorized(challenge: &str) -> HttpResponse {
    HttpResponse::Unauthorized().insert_header((WWW_AUTHENTICATE, challenge)).finish()
}
