//! The demo's OpenID provider: small, correct, and not for anything real, since its passwords are known to all.
//!
//! It has one client, the gateway, and three people. What it must read again it seals and lets others carry; what it
//! must remember (used codes, rotated tokens, ended logins) is in memory.

mod authorization;
mod browser;
mod grants;
mod keys;
mod parameters;
mod sign_in;
mod sign_out;
#[cfg(test)]
mod tests;
mod token;

use std::net::TcpListener;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use actix_web::dev::ServerHandle;
use actix_web::http::StatusCode;
use actix_web::http::header::{ACCESS_CONTROL_ALLOW_ORIGIN, CACHE_CONTROL};
use actix_web::{App, HttpResponse, HttpServer, guard, web};
use anyhow::{Context, Result};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use portcullis_actors::keyring;
use portcullis_config::Secret;
use portcullis_config::limits::DEMO_BODY_BYTES;
use serde_json::json;
use url::Url;

use self::grants::Grants;
use self::keys::Keys;
use super::configuration::{AUTHENTICATE, origin};
use super::page::{self, MessagePage};

/// The scopes that mean something here.
pub const SCOPES: [&str; 4] = ["openid", "profile", "email", "offline_access"];

/// The one application that may send people here.
#[derive(Debug, Clone)]
pub struct Client {
    /// `client_id`.
    pub id: String,
    /// `client_secret`.
    pub secret: Secret,
    /// The only redirect URI.
    pub redirect_uri: String,
    /// The only URI to return to after a logout.
    pub post_logout_redirect_uri: String,
    /// The hosts that a sign-in may pass on its way back, as a CSP source.
    hosts: String,
}

impl Client {
    /// The gateway that listens on this port.
    ///
    /// # Errors
    /// The URIs are none.
    pub fn new(id: String, secret: Secret, port: u16) -> Result<Self> {
        let authenticate = Url::parse(&origin(AUTHENTICATE, port))?;
        Ok(Self {
            id,
            secret,
            redirect_uri: authenticate.join("/oauth2/callback")?.into(),
            post_logout_redirect_uri: authenticate.join("/.pomerium/signed_out")?.into(),
            hosts: origin("*.localhost", port),
        })
    }
}

/// The provider.
pub struct Provider {
    issuer: String,
    client: Client,
    keys: Keys,
    grants: Mutex<Grants>,
    /// Where a form may lead: browsers check redirects after it as well.
    form_targets: String,
}

impl Provider {
    /// A provider that calls itself `issuer`, with its keys in `dir`.
    ///
    /// # Errors
    /// The keys cannot be read or written.
    pub fn new(issuer: String, client: Client, dir: &Path) -> Result<Self> {
        Ok(Self::with(issuer, client, Keys::load(dir)?))
    }

    fn with(issuer: String, client: Client, keys: Keys) -> Self {
        let form_targets = format!("'self' {}", client.hosts);
        Self { issuer, client, keys, grants: Mutex::default(), form_targets }
    }

    /// Never held across an await; whoever panicked while holding it left whole entries behind.
    fn grants(&self) -> MutexGuard<'_, Grants> {
        self.grants.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An answer to the client through the browser, with `iss` (RFC 9207) and the client's `state`.
    fn respond(&self, state: Option<&str>, told: &[(&str, &str)]) -> String {
        let mut query = url::form_urlencoded::Serializer::new(String::new());
        query.extend_pairs(told);
        if let Some(state) = state {
            query.append_pair("state", state);
        }
        query.append_pair("iss", &self.issuer);
        format!("{}?{}", self.client.redirect_uri, query.finish())
    }
}

/// Starts the provider on a thread of its own. It stops with the handle.
///
/// # Errors
/// The system refuses the socket.
pub fn start(listener: TcpListener, provider: Provider) -> Result<ServerHandle> {
    let provider = Arc::new(provider);
    let server = HttpServer::new(move || {
        let provider = Arc::clone(&provider);
        App::new().configure(|service| routes(service, provider))
    });
    let server = server.workers(1).disable_signals().shutdown_timeout(0).listen(listener)?.run();
    let handle = server.handle();
    actix_rt::spawn(server);
    Ok(handle)
}

fn routes(service: &mut web::ServiceConfig, provider: Arc<Provider>) {
    // a name that leads here from elsewhere is not us (DNS rebinding)
    let ours = provider.issuer.strip_prefix("http://").unwrap_or_default().to_owned();
    let addressed = guard::fn_guard(move |context| {
        context.head().headers().get("host").is_some_and(|host| host.as_bytes() == ours.as_bytes())
    });
    let answers = web::scope("")
        .guard(addressed)
        .route("/", web::get().to(welcome))
        .route("/.well-known/openid-configuration", web::get().to(discovery))
        .route("/jwks", web::get().to(jwks))
        .route("/authorize", web::get().to(sign_in::by_link))
        .route("/authorize", web::post().to(sign_in::by_form))
        .route("/sign_in", web::post().to(sign_in::sign_in))
        .route("/token", web::post().to(token::token))
        .route("/userinfo", web::get().to(token::userinfo))
        .route("/userinfo", web::post().to(token::userinfo))
        .route("/end_session", web::get().to(sign_out::by_link))
        .route("/end_session", web::post().to(sign_out::by_form))
        .route("/end_session/confirm", web::post().to(sign_out::confirm));
    service.app_data(web::Data::new(provider)).app_data(web::PayloadConfig::new(DEMO_BODY_BYTES)).service(answers);
}

/// `GET /`: whoever looks in is told what this is.
async fn welcome(provider: web::Data<Arc<Provider>>) -> actix_web::Result<HttpResponse> {
    let why = "You come here from an application, to sign in; there is nothing else to see.";
    message(&provider, StatusCode::OK, "Demo identity provider", why).map_err(fault)
}

/// `GET /.well-known/openid-configuration` (OpenID Discovery §3, RFC 8414, RFC 9207 §3)
async fn discovery(provider: web::Data<Arc<Provider>>) -> HttpResponse {
    let at = |path: &str| format!("{}{path}", provider.issuer);
    published(&json!({
        "issuer": provider.issuer,
        "authorization_endpoint": at("/authorize"),
        "token_endpoint": at("/token"),
        "userinfo_endpoint": at("/userinfo"),
        "jwks_uri": at("/jwks"),
        "end_session_endpoint": at("/end_session"),
        "scopes_supported": SCOPES,
        "response_types_supported": ["code"],
        "response_modes_supported": ["query"],
        "grant_types_supported": ["authorization_code", "refresh_token"],
        "prompt_values_supported": ["none", "login", "select_account"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["ES256"],
        "token_endpoint_auth_methods_supported": ["client_secret_basic", "client_secret_post"],
        "code_challenge_methods_supported": ["S256"],
        "authorization_response_iss_parameter_supported": true,
        "request_parameter_supported": false,
        "request_uri_parameter_supported": false,
        "claims_supported": [
            "iss", "sub", "aud", "exp", "iat", "nonce", "auth_time", "at_hash", "sid",
            "email", "email_verified", "name", "preferred_username", "groups",
        ],
    }))
}

/// `GET /jwks` (RFC 7517)
async fn jwks(provider: web::Data<Arc<Provider>>) -> HttpResponse {
    published(&provider.keys.published())
}

fn published(document: &impl serde::Serialize) -> HttpResponse {
    HttpResponse::Ok()
        .insert_header((CACHE_CONTROL, "max-age=60"))
        .insert_header((ACCESS_CONTROL_ALLOW_ORIGIN, "*"))
        .json(document)
}

/// A page that says one thing.
fn message(provider: &Provider, status: StatusCode, title: &str, text: &str) -> Result<HttpResponse> {
    page::html(status, &MessagePage { title, text }, &provider.form_targets)
}

/// 32 random bytes in base64url.
fn random_text() -> Result<String> {
    let bytes: [u8; 32] = keyring::random().context("no randomness")?;
    Ok(URL_SAFE_NO_PAD.encode(bytes))
}

/// Something beneath failed: logged here, shown as unavailable.
#[expect(clippy::needless_pass_by_value, reason = "made for map_err")]
fn fault(error: anyhow::Error) -> actix_web::Error {
    tracing::error!(error = format!("{error:#}"), "the demo's provider cannot answer");
    actix_web::error::ErrorInternalServerError("the demo's provider cannot answer")
}
