//! Requests to the gateway: one for a tunnel (`CONNECT`, RFC 9110 §9.3.6), one for the address where a person signs in.

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use http::header::{AUTHORIZATION, HOST};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use portcullis_config::limits::{TUNNEL_ANSWER, TUNNEL_ANSWER_BYTES};
use tokio::task::AbortHandle;
use url::{Url, form_urlencoded};

use super::destination::{Destination, Gateway};
use super::dial::Dialer;

/// What a gateway says to a request for a tunnel.
pub enum Answered {
    /// Here it is.
    Open(Upgraded),
    /// Whoever asks has to sign in first.
    SignIn,
    /// No, and what is to be told to the person.
    Refused(String),
}

/// Asks for a tunnel.
///
/// # Errors
/// The gateway cannot be reached, or does not answer in HTTP.
pub async fn connect(
    dialer: &Dialer,
    gateway: &Gateway,
    destination: &Destination,
    handle: Option<&str>,
) -> Result<Answered> {
    let mut request = Request::builder()
        .method(Method::CONNECT)
        .uri(&destination.authority)
        .header(HOST, &destination.authority)
        .body(Empty::<Bytes>::new())?;
    if let Some(handle) = handle {
        let mut value = HeaderValue::try_from(format!("Pomerium {handle}"))?;
        value.set_sensitive(true);
        request.headers_mut().insert(AUTHORIZATION, value);
    }
    let (mut response, _driver) = send(dialer, gateway, request).await?;
    let status = response.status();
    if status.is_success() {
        return Ok(Answered::Open(hyper::upgrade::on(&mut response).await.context("the gateway broke off")?));
    }
    // Pomerium sends whoever has to sign in to its page, browser or not
    if status == StatusCode::UNAUTHORIZED || (status.is_redirection() && status != StatusCode::NOT_MODIFIED) {
        return Ok(Answered::SignIn);
    }
    let id = response.headers().get("x-request-id").and_then(|id| id.to_str().ok()).map(printable);
    let said = refusal(status, gateway, destination);
    Ok(Answered::Refused(id.map_or_else(|| said.clone(), |id| format!("{said} (request {id})"))))
}

fn refusal(status: StatusCode, gateway: &Gateway, destination: &Destination) -> String {
    let to = &destination.authority;
    match status {
        StatusCode::FORBIDDEN => format!("you are signed in, but you may not use {to}; ask whoever keeps {gateway}"),
        StatusCode::NOT_FOUND => format!(
            "{gateway} has no route `from: tcp+https://{to}` (or none that ends there); is HOST:PORT as in its configuration?"
        ),
        StatusCode::BAD_REQUEST | StatusCode::METHOD_NOT_ALLOWED | StatusCode::NOT_IMPLEMENTED => {
            format!("{gateway} takes no tunnels to {to} ({status})")
        }
        StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT => {
            format!("{gateway} cannot open a tunnel to {to} right now ({status}); try again in a moment")
        }
        _ => format!("{gateway} refuses a tunnel to {to} ({status})"),
    }
}

/// Asks where the person of this program signs in, who comes back to `place`.
///
/// # Errors
/// The gateway cannot be reached, or says no.
pub async fn sign_in_address(dialer: &Dialer, gateway: &Gateway, place: &str) -> Result<Url> {
    let place: String = form_urlencoded::byte_serialize(place.as_bytes()).collect();
    let request = Request::builder()
        .uri(format!("/.pomerium/api/v1/login?pomerium_redirect_uri={place}"))
        .header(HOST, gateway.authority())
        .body(Empty::<Bytes>::new())?;
    let (response, _driver) = send(dialer, gateway, request).await?;
    match response.status() {
        StatusCode::OK => {}
        StatusCode::NOT_FOUND => bail!(
            "{gateway} is no gateway that signs programs in, or has no route of that host; name the right one with \
             --portcullis-url"
        ),
        StatusCode::BAD_REQUEST => bail!(
            "{gateway} sends no sign-in back to this machine: `localhost` is missing in its \
             programmatic_redirect_domain_whitelist"
        ),
        status => bail!("{gateway} does not say where to sign in ({status})"),
    }
    let body = Limited::new(response.into_body(), TUNNEL_ANSWER_BYTES).collect();
    let body = within(body).await?.map_err(|error| anyhow::anyhow!("{gateway} broke off: {error}"))?.to_bytes();
    let address = std::str::from_utf8(&body).ok().and_then(|text| Url::parse(text.trim()).ok());
    let address = address.with_context(|| format!("{gateway} does not say where to sign in"))?;
    // it goes to a browser, or to a program that opens one
    ensure!(address.scheme() == "https", "{gateway} wants the sign-in to be at an address without https");
    Ok(address)
}

/// Drives a connection; dropped, it leaves it to whoever took it over, or closes it.
struct Driver(AbortHandle);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn send(
    dialer: &Dialer,
    gateway: &Gateway,
    request: Request<Empty<Bytes>>,
) -> Result<(Response<Incoming>, Driver)> {
    let stream = dialer.dial(gateway).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let driver = actix_rt::spawn(async move { drop(connection.with_upgrades().await) });
    let driver = Driver(driver.abort_handle());
    let response = within(sender.send_request(request)).await?;
    Ok((response.with_context(|| format!("{gateway} does not answer in HTTP"))?, driver))
}

async fn within<T>(asking: impl Future<Output = T>) -> Result<T> {
    tokio::time::timeout(TUNNEL_ANSWER, asking).await.context("the gateway does not answer")
}

/// What a server says is shown on a terminal.
fn printable(text: &str) -> String {
    text.chars().filter(char::is_ascii_graphic).take(64).collect()
}
