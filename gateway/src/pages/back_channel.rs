//! What a provider tells us without a browser: that somebody signed out there (OpenID Connect Back-Channel Logout 1.0).

use actix_web::HttpRequest;
use actix_web::web::{Bytes as Body, ReqData};
use http::StatusCode;
use http::header::CONTENT_TYPE;
use portcullis_actors::authenticate::back_channel::{Deliver, Delivered, LogoutFault};
use portcullis_actors::request::Canonical;
use serde_json::json;
use url::form_urlencoded;

use super::bridge::{Own, Reply};
use super::well_known::desk;
use crate::answer::text;

/// `POST /.pomerium/backchannel_logout`: 200 once every session that is meant has ended, 400 for everything else
/// (§2.8); never kept by a cache, as no answer of ours is.
pub async fn logout(request: HttpRequest, own: ReqData<Own>, body: Body) -> Option<Reply> {
    let desk = desk(&request)?;
    let Some(logout_token) = logout_token(&own.request, &body) else {
        return Some(failed("invalid_request", "one logout_token in a form is expected"));
    };
    let deliver = Deliver { logout_token, request_id: own.request_id.to_string() };
    let outcome = match desk.blueprint.deliver.ask(deliver).await {
        Ok(outcome) => outcome,
        Err(error) => Err(LogoutFault::from(error)),
    };
    Some(match outcome {
        Ok(Delivered { sessions }) => {
            tracing::info!(request = %own.request_id, sessions, "the provider logged somebody out");
            Reply(text(StatusCode::OK, "application/json", json!({}).to_string()))
        }
        Err(LogoutFault::Refused(why)) => {
            tracing::warn!(request = %own.request_id, %why, "a logout token was refused");
            failed("invalid_request", "the logout token is not valid")
        }
        Err(LogoutFault::Unavailable(why)) => {
            tracing::error!(request = %own.request_id, %why, "a logout of the provider failed");
            failed("temporarily_unavailable", "the logout failed; the same token may be sent again")
        }
    })
}

/// The parameter, if the request is a form in which it stands once.
fn logout_token(request: &Canonical, body: &[u8]) -> Option<String> {
    let kind = request.headers().get(CONTENT_TYPE)?.to_str().ok()?;
    let kind = kind.split(';').next().unwrap_or_default().trim();
    if !kind.eq_ignore_ascii_case("application/x-www-form-urlencoded") {
        return None;
    }
    let mut tokens = form_urlencoded::parse(body).filter(|(name, _)| name == "logout_token");
    match (tokens.next(), tokens.next()) {
        (Some((_, token)), None) if !token.is_empty() => Some(token.into_owned()),
        (_, _) => None,
    }
}

fn failed(error: &str, description: &str) -> Reply {
    let body = json!({"error": error, "error_description": description});
    Reply(text(StatusCode::BAD_REQUEST, "application/json", body.to_string()))
}
