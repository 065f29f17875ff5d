//! How a provider is called: HTTP/1.1, no redirect followed, nothing unpacked, every answer bounded in size and time.

use std::sync::Arc;
use std::time::Duration;

use awc::error::{ConnectError, PayloadError, SendRequestError};
use awc::http::header;
use awc::{Client, Connector};
use bytes::Bytes;
use openidconnect::{HttpRequest, HttpResponse};
use portcullis_config::limits::{IDP_ANSWER_BYTES, IDP_TIMEOUT, REFRESH_TIMEOUT};
use portcullis_events::Time;
use rustls::{ClientConfig, RootCertStore};

use super::{Because, Endpoint, SignInError};
use crate::{clock, trust};

/// Why there is no answer to work with. What tells these apart matters where a request must not be sent twice.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Missed {
    /// Nobody was reached: the request never left.
    #[error(transparent)]
    NotSent(SignInError),
    /// It answered that it has trouble (5xx) or too much to do (429), and perhaps how long to wait.
    #[error("{0}")]
    Trouble(SignInError, Option<Duration>),
    /// It answered what we do not take.
    #[error(transparent)]
    Refused(Because),
    /// The request left, and what became of it is not known.
    #[error(transparent)]
    Lost(SignInError),
}

impl From<Missed> for SignInError {
    fn from(missed: Missed) -> Self {
        match missed {
            Missed::NotSent(error) | Missed::Trouble(error, _) | Missed::Lost(error) => error,
            Missed::Refused(because) => because.into(),
        }
    }
}

/// The HTTP client of one thread.
#[derive(Clone)]
pub(super) struct Http {
    client: Client,
    timeout: Duration,
}

impl Http {
    /// A client that trusts the system's certificate authorities (`SSL_CERT_FILE` and `SSL_CERT_DIR` override them).
    pub(super) fn new() -> Self {
        Self::trusting(trust::system(), IDP_TIMEOUT)
    }

    /// A client for what must not be sent twice: it waits longer for an answer.
    pub(super) fn patient() -> Self {
        Self::trusting(trust::system(), REFRESH_TIMEOUT)
    }

    fn trusting(roots: Arc<RootCertStore>, timeout: Duration) -> Self {
        // a third each, so that what never left is known not to have left before the whole time is up
        let connector = Connector::new().timeout(timeout / 3).handshake_timeout(timeout / 3);
        let connector = match tls(roots) {
            Ok(tls) => connector.rustls_0_23(Arc::new(tls)),
            Err(error) => {
                tracing::error!(%error, "no TLS towards identity providers");
                connector
            }
        };
        let client = Client::builder().connector(connector).disable_redirects().timeout(timeout).finish();
        Self { client, timeout }
    }

    /// Gets a JSON document.
    ///
    /// # Errors
    /// [`SignInError`], where the answer is not 200 with a JSON body within the bounds.
    pub(super) async fn get(&self, endpoint: Endpoint, url: &str, bearer: Option<&str>) -> Result<Bytes, SignInError> {
        let mut request = http::Request::get(url).header(http::header::ACCEPT, "application/json");
        if let Some(token) = bearer {
            request = request.header(http::header::AUTHORIZATION, format!("Bearer {token}"));
        }
        let request = request.body(Vec::new()).map_err(|_| Because::Garbage(endpoint))?;
        let answer = self.call(endpoint, request).await?;
        if answer.status() != http::StatusCode::OK {
            return Err(Because::Status { endpoint, status: answer.status().as_u16() }.into());
        }
        // key sets have a type of their own (RFC 7517 §8.5.2)
        let json = ["application/json", "application/jwk-set+json"];
        if !json.contains(&media_type(&answer).as_str()) {
            return Err(Because::Garbage(endpoint).into());
        }
        Ok(answer.into_body().into())
    }

    /// Makes one request, as it is. A provider that is in trouble (5xx, 429) or does not answer is unavailable; a
    /// redirect, a content coding and an answer beyond the bounds are refused.
    ///
    /// # Errors
    /// [`SignInError`].
    pub(super) async fn call(&self, endpoint: Endpoint, request: HttpRequest) -> Result<HttpResponse, SignInError> {
        Ok(self.attempt(endpoint, request).await?)
    }

    /// As [`Self::call`], and says what became of the request where there is no answer.
    ///
    /// # Errors
    /// [`Missed`].
    pub(super) async fn attempt(&self, endpoint: Endpoint, request: HttpRequest) -> Result<HttpResponse, Missed> {
        match tokio::time::timeout(self.timeout, self.exchange(endpoint, request)).await {
            Ok(answer) => answer,
            Err(_) => Err(Missed::Lost(away(endpoint, "did not answer in time"))),
        }
    }

    async fn exchange(&self, endpoint: Endpoint, request: HttpRequest) -> Result<HttpResponse, Missed> {
        let (head, body) = request.into_parts();
        let method = awc::http::Method::from_bytes(head.method.as_str().as_bytes());
        let method = method.map_err(|_| Missed::NotSent(Because::Garbage(endpoint).into()))?;
        // a connection that is used once cannot be closed under a request that must not be sent twice
        let mut outgoing = self.client.request(method, head.uri.to_string()).force_close();
        for (name, value) in &head.headers {
            outgoing = outgoing.insert_header((name.as_str(), value.as_bytes()));
        }
        let outgoing = outgoing.insert_header((header::ACCEPT_ENCODING, "identity")).no_decompress();

        let mut incoming = match outgoing.send_body(body).await {
            Ok(incoming) => incoming,
            Err(error) => return Err(missed(endpoint, &error)),
        };
        let status = incoming.status();
        if status.is_server_error() || status == awc::http::StatusCode::TOO_MANY_REQUESTS {
            let after = incoming.headers().get(header::RETRY_AFTER).and_then(|value| retry_after(value.to_str().ok()?));
            return Err(Missed::Trouble(away(endpoint, &format!("answered with status {}", status.as_u16())), after));
        }
        if status.is_redirection() {
            return Err(Missed::Refused(Because::Redirect(endpoint)));
        }
        if coded(incoming.headers()) {
            return Err(Missed::Lost(Because::Encoded(endpoint).into()));
        }
        let mut answer = http::Response::builder().status(status.as_u16());
        if let Some(kind) = incoming.headers().get(header::CONTENT_TYPE) {
            answer = answer.header(http::header::CONTENT_TYPE, kind.as_bytes());
        }
        let is_json = answer.headers_ref().is_some_and(|headers| kind_in(headers) == "application/json");
        let body = incoming.body().limit(IDP_ANSWER_BYTES).await.map_err(|error| match error {
            // a page that stands in for an answer says nothing, however long it is
            PayloadError::Overflow if !is_json || !status.is_success() => {
                Missed::Lost(Because::Garbage(endpoint).into())
            }
            error => not_read(endpoint, &error),
        })?;
        answer.body(body.to_vec()).map_err(|_| Missed::Lost(Because::Garbage(endpoint).into()))
    }
}

/// `Retry-After`: seconds, or a date (RFC 9110 §10.2.3).
fn retry_after(value: &str) -> Option<Duration> {
    if let Ok(seconds) = value.trim().parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date: std::time::SystemTime = value.parse::<header::HttpDate>().ok()?.into();
    let at = date.duration_since(std::time::UNIX_EPOCH).ok()?;
    Some(Time::from_millis(i64::try_from(at.as_millis()).ok()?).since(clock::now()))
}

fn tls(roots: Arc<RootCertStore>) -> Result<ClientConfig, rustls::Error> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

fn coded(headers: &header::HeaderMap) -> bool {
    headers.get_all(header::CONTENT_ENCODING).any(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"identity"))
}

/// The media type without its parameters, in lower case; empty where there is none.
pub(super) fn media_type(answer: &HttpResponse) -> String {
    kind_in(answer.headers())
}

fn kind_in(headers: &http::HeaderMap) -> String {
    let kind = headers.get(http::header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

fn away(endpoint: Endpoint, what: &str) -> SignInError {
    SignInError::Unavailable(format!("the {endpoint} {what}"))
}

fn missed(endpoint: Endpoint, error: &SendRequestError) -> Missed {
    match error {
        // so it is called when a connection was made, the request written, and the other side closed without a word
        SendRequestError::Connect(ConnectError::Disconnected) => Missed::Lost(away(endpoint, "broke off")),
        SendRequestError::Connect(error) => Missed::NotSent(away(endpoint, &format!("cannot be reached: {error}"))),
        SendRequestError::Url(_) => Missed::NotSent(away(endpoint, "cannot be asked")),
        SendRequestError::Send(error) => Missed::Lost(away(endpoint, &format!("broke off: {error}"))),
        SendRequestError::Timeout => Missed::Lost(away(endpoint, "did not answer in time")),
        SendRequestError::Response(_) => Missed::Lost(Because::Garbage(endpoint).into()),
        _ => Missed::Lost(away(endpoint, "cannot be asked")),
    }
}

fn not_read(endpoint: Endpoint, error: &PayloadError) -> Missed {
    Missed::Lost(match error {
        PayloadError::Overflow => Because::TooLarge(endpoint).into(),
        PayloadError::Io(_) | PayloadError::Incomplete(_) => away(endpoint, "broke off"),
        _ => Because::Garbage(endpoint).into(),
    })
}

#[cfg(test)]
mod tests {
    use portcullis_harness::idp::{Mischief, ScriptedIdp};
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject;

    use super::*;

    #[test]
    fn a_provider_may_say_how_long_to_wait_in_seconds_or_by_a_date() {
        assert_eq!(retry_after("120"), Some(Duration::from_secs(120)));
        assert_eq!(retry_after("Wed, 21 Oct 2015 07:28:00 GMT"), Some(Duration::ZERO));
        let later = retry_after("Fri, 21 Oct 2095 07:28:00 GMT").unwrap();
        assert!(later > Duration::from_secs(3600 * 24 * 365));
        for odd in ["", "-1", "1.5", "soon", "99999999999999999999999"] {
            assert_eq!(retry_after(odd), None, "{odd}");
        }
    }

    #[actix::test]
    async fn a_provider_that_never_answers_is_unavailable_in_time() {
        let idp = ScriptedIdp::start();
        let http = Http::trusting(Arc::new(RootCertStore::empty()), Duration::from_millis(600));
        let ask = async |endpoint, mischief, method: &str, path: &str| {
            idp.set(mischief);
            let request = http::Request::builder().method(method).uri(format!("{}{path}", idp.issuer()));
            http.call(endpoint, request.body(Vec::new()).unwrap()).await.map(drop)
        };
        let document = "/.well-known/openid-configuration";
        for (endpoint, mischief, method, path) in [
            (Endpoint::Discovery, Mischief::DiscoverySlow, "GET", document),
            (Endpoint::Discovery, Mischief::DiscoveryStalls, "GET", document),
            (Endpoint::Token, Mischief::TokenSlow, "POST", "/token"),
        ] {
            let answer = ask(endpoint, mischief, method, path).await;
            assert_eq!(answer, Err(away(endpoint, "did not answer in time")), "{mischief:?}");
        }
    }

    #[actix::test]
    async fn what_left_and_was_not_answered_is_never_taken_for_what_did_not_leave() {
        let idp = ScriptedIdp::start();
        let http = Http::trusting(Arc::new(RootCertStore::empty()), Duration::from_millis(600));
        let post = async |url: String| {
            let request = http::Request::post(url).body(b"grant_type=authorization_code".to_vec()).unwrap();
            http.attempt(Endpoint::Token, request).await.map(drop)
        };
        let token = format!("{}/token", idp.issuer());
        for mischief in [Mischief::TokenCloses, Mischief::TokenSlow, Mischief::TokenHuge] {
            idp.set(mischief);
            let answer = post(token.clone()).await;
            assert!(matches!(answer, Err(Missed::Lost(_))), "{mischief:?}: {answer:?}");
        }
        for mischief in [Mischief::TokenFails, Mischief::TokenBusy] {
            idp.set(mischief);
            assert!(matches!(post(token.clone()).await, Err(Missed::Trouble(..))), "{mischief:?}");
        }
        drop(idp);
        assert!(matches!(post(token).await, Err(Missed::NotSent(_))));
        assert!(matches!(post("http://nowhere.invalid/token".into()).await, Err(Missed::NotSent(_))));
    }

    #[actix::test]
    async fn a_provider_that_is_down_is_unavailable() {
        let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let answer = Http::new().get(Endpoint::Discovery, &format!("http://{closed}/"), None).await;
        assert!(matches!(answer, Err(SignInError::Unavailable(_))));
    }

    #[actix::test]
    async fn a_provider_is_believed_only_with_a_certificate_that_somebody_vouches_for() {
        let idp = ScriptedIdp::start_tls();
        let keys = format!("{}/jwks", idp.issuer());
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(idp.certificate().unwrap().as_bytes()).unwrap()).unwrap();
        let http = Http::trusting(Arc::new(roots), IDP_TIMEOUT);
        assert!(http.get(Endpoint::Keys, &keys, None).await.is_ok());
        // the certificate is for another name
        let elsewhere = keys.replace("localhost", "127.0.0.1");
        assert!(matches!(http.get(Endpoint::Keys, &elsewhere, None).await, Err(SignInError::Unavailable(_))));
        let answer = Http::new().get(Endpoint::Keys, &keys, None).await;
        assert!(matches!(answer, Err(SignInError::Unavailable(_))));
        assert_eq!(idp.requests().len(), 1);
    }
}
