//! What the provider knows of a browser: its cookies, and whether a form came from our own page.

use std::time::Duration;

use actix_web::HttpRequest;
use actix_web::http::header::{COOKIE, ORIGIN};
use portcullis_events::Time;

use super::Provider;
use super::grants::Login;
use super::keys::Kind;

/// The cookie that holds a login, sealed.
pub const LOGIN: &str = "demo_provider_login";
/// The cookie that tells browsers apart, so that a form works in the browser it was made for alone.
pub const BROWSER: &str = "demo_provider_browser";

/// A `Set-Cookie`. Not `Secure`: the provider speaks plain http on loopback.
pub fn set(name: &str, value: &str, life: Duration) -> String {
    format!("{name}={value}; Path=/; Max-Age={}; HttpOnly; SameSite=Lax", life.as_secs())
}

/// The id of this browser, if it has one.
pub fn id(request: &HttpRequest) -> Option<String> {
    let id = cookie(request, BROWSER)?;
    let ours = id.len() == 43 && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
    ours.then(|| id.to_owned())
}

/// Who is signed in here with this browser.
pub fn login(provider: &Provider, request: &HttpRequest, now: Time) -> Option<Login> {
    let login: Login = provider.keys.open(Kind::Login, "", cookie(request, LOGIN)?)?;
    provider.grants().is_login(&login, now).then_some(login)
}

/// Whether a form came from our own page, as far as the browser says.
pub fn same_site(provider: &Provider, request: &HttpRequest) -> bool {
    let headers = request.headers();
    let origin = headers.get(ORIGIN).is_none_or(|origin| origin.as_bytes() == provider.issuer.as_bytes());
    let site = headers.get("sec-fetch-site").is_none_or(|site| site.as_bytes() == b"same-origin");
    origin && site
}

fn cookie<'a>(request: &'a HttpRequest, name: &str) -> Option<&'a str> {
    let lines = request.headers().get_all(COOKIE).filter_map(|line| line.to_str().ok());
    let mut pairs = lines.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.find(|(named, _)| *named == name).map(|(_, value)| value)
}
