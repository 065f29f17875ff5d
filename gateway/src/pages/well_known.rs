//! What machines ask every host for: keys, metadata, liveness.

use std::rc::Rc;

use actix_web::HttpRequest;
use actix_web::web::ReqData;
use aws_lc_rs::digest;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::header::{ACCESS_CONTROL_ALLOW_ORIGIN, CACHE_CONTROL, ETAG, IF_NONE_MATCH};
use http::{HeaderValue, Response, StatusCode};
use serde_json::json;

use super::bridge::{Own, Reply};
use super::desk::{Desk, UNAVAILABLE};
use crate::answer::text;

/// `/.well-known/pomerium`
pub async fn metadata(request: HttpRequest, own: ReqData<Own>) -> Option<Reply> {
    let desk = desk(&request)?;
    let authenticate = desk.blueprint.config.authenticate_service_url.origin().ascii_serialization();
    let host = own.request.authority();
    let body = json!({
        "issuer": format!("https://{host}/"),
        "authentication_callback_endpoint": format!("{authenticate}/oauth2/callback"),
        "backchannel_logout_uri": format!("{authenticate}/.pomerium/backchannel_logout"),
        "frontchannel_logout_uri": format!("{authenticate}/.pomerium/sign_out"),
        "jwks_uri": format!("https://{host}/.well-known/pomerium/jwks.json"),
    });
    let mut response = text(StatusCode::OK, "application/json", body.to_string());
    response.headers_mut().insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    Some(Reply(response))
}

/// `/.well-known/pomerium/jwks.json` (RFC 7517): the keys that assertions are signed with.
pub async fn jwks(request: HttpRequest, own: ReqData<Own>) -> Option<Reply> {
    let Some(body) = desk(&request)?.assertion_keys().await else { return Some(own.reply(UNAVAILABLE)) };
    let tag = format!("\"{}\"", URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, body.as_bytes())));
    let known = own.request.headers().get(IF_NONE_MATCH).is_some_and(|known| known.as_bytes() == tag.as_bytes());
    let mut response = if known {
        let mut response = Response::new(Bytes::new());
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        response
    } else {
        text(StatusCode::OK, "application/json", body)
    };
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("max-age=60"));
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    headers.insert(ETAG, HeaderValue::try_from(tag).ok()?);
    Some(Reply(response))
}

/// `/ping` and `/healthz`: the process answers.
pub async fn ping() -> Reply {
    Reply(text(StatusCode::OK, "text/plain; charset=utf-8", "OK".into()))
}

/// `/robots.txt`: nothing here is for crawlers.
pub async fn robots() -> Reply {
    Reply(text(StatusCode::OK, "text/plain; charset=utf-8", "User-agent: *\nDisallow: /\n".into()))
}

/// The desk of this worker.
pub fn desk(request: &HttpRequest) -> Option<&Rc<Desk>> {
    request.app_data::<Rc<Desk>>()
}
