//! The listener of plain HTTP that knows nothing but the way to https (`http_redirect_addr`).

use std::convert::Infallible;
use std::net::TcpListener;

use anyhow::Result;
use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_TYPE, LOCATION};
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use portcullis_actors::request::{Canonical, Peer};
use portcullis_config::limits::{HEAD_TIMEOUT, REQUEST_HEAD_BYTES, REQUEST_HEADERS};
use tokio::net::TcpStream;
use tokio::sync::watch;

use crate::accept::{self, Accepting, Arrival};
use crate::crowd::{Crowd, Room};
use crate::listen::{Stage, reached};
use crate::{proxy_protocol, socket};

/// Where a certificate authority looks for the proof that a host is ours (RFC 8555 §8.3).
const CHALLENGE: &str = "/.well-known/acme-challenge/";

/// Starts it, on a thread of its own.
///
/// # Errors
/// The system refuses the socket.
pub async fn start(
    listener: TcpListener,
    room: Room,
    stage: watch::Receiver<Stage>,
    proxied: bool,
) -> Result<Accepting> {
    let told = stage.clone();
    accept::start(listener, (Crowd::new(room), stage), 1, move |mut arrivals, ready| {
        let told = told.clone();
        actix_rt::spawn(async move {
            let _ = ready.send(Ok(()));
            while let Some(arrival) = arrivals.recv().await {
                actix_rt::spawn(answer(arrival, told.clone(), proxied));
            }
        });
    })
    .await
}

async fn answer(arrival: Arrival, mut stage: watch::Receiver<Stage>, proxied: bool) {
    let Arrival { stream, peer, mut entered, load: _load } = arrival;
    let Ok(mut stream) = TcpStream::from_std(stream) else { return };
    let peer = match proxied {
        false => peer,
        true => match proxy_protocol::take(&mut stream, peer).await {
            Ok(client) => client,
            Err(error) => return tracing::debug!(%peer, %error, "a connection was refused"),
        },
    };
    // one answer costs less than the word that there is one too many
    if !matches!(entered.comes_from(peer.ip()), Ok(None)) {
        return;
    }
    let service = service_fn(move |request: Request<Incoming>| {
        let (head, _) = request.into_parts();
        let address = peer.ip();
        let canonical = Canonical::of(head, Peer { address, https: false, certificate: None });
        async move { Ok::<_, Infallible>(way_to_https(canonical.as_ref().map_err(|bad| bad.status()))) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(REQUEST_HEAD_BYTES)
        .max_headers(REQUEST_HEADERS)
        .keep_alive(false)
        .serve_connection(TokioIo::new(socket::ready(stream)), service);
    tokio::select! {
        outcome = connection => if let Err(error) = outcome {
            tracing::debug!(%peer, %error, "a client connection ended");
        },
        () = reached(&mut stage, Stage::Cut) => {}
    }
}

/// The same place by https, on its own port: which one that is here, nobody outside need know.
fn way_to_https(request: Result<&Canonical, StatusCode>) -> Response<Full<Bytes>> {
    let (status, location) = match request {
        Ok(request) if request.tunnel().is_some() => (StatusCode::NOT_IMPLEMENTED, None),
        Ok(request) if request.path().starts_with(CHALLENGE) => (StatusCode::NOT_FOUND, None),
        Ok(request) => {
            let path = if request.path() == "*" { "" } else { request.path() };
            let query = request.query().map(|query| format!("?{query}")).unwrap_or_default();
            let location = HeaderValue::try_from(format!("https://{}{path}{query}", request.host()));
            location.map_or((StatusCode::BAD_REQUEST, None), |location| (StatusCode::MOVED_PERMANENTLY, Some(location)))
        }
        Err(status) => (status, None),
    };
    let text = status.canonical_reason().unwrap_or_default();
    let mut response = Response::new(Full::new(Bytes::from_static(text.as_bytes())));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
    headers.extend(location.map(|location| (LOCATION, location)));
    response
}
