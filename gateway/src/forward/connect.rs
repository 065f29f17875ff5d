//! One connection to an upstream: TCP, TLS where the route says so, HTTP/1.1.

use std::sync::Arc;

use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use portcullis_actors::metrics::{Counted, Gauge};
use portcullis_actors::trust::{self, Unchecked};
use portcullis_config::limits::{UPSTREAM_CONNECT, UPSTREAM_HEADERS};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::task::AbortHandle;
use tokio_rustls::TlsConnector;

use super::body::RequestBody;
use super::bounded::{Allowance, Bounded};
use crate::socket;

/// Where an upstream is, and how it is spoken to: what two requests must share to share a connection.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// An IP address or a name.
    pub host: String,
    /// The port.
    pub port: u16,
    /// Speak TLS.
    pub tls: bool,
    /// Believe any certificate (`tls_skip_verify`).
    pub skip_verify: bool,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Nothing came in time.
    #[error("connecting took too long")]
    Late,
    /// The address cannot be reached or refused.
    #[error("cannot connect: {0}")]
    Io(#[from] std::io::Error),
    /// The upstream's certificate is not valid for its name, or TLS failed otherwise.
    #[error("TLS: {0}")]
    Tls(std::io::Error),
    /// The upstream does not speak HTTP/1.1.
    #[error("HTTP: {0}")]
    Http(#[from] hyper::Error),
    /// The name is none that a certificate could have.
    #[error("not a TLS server name")]
    Name,
}

/// How upstream certificates are judged.
#[derive(Clone)]
pub struct Trust {
    verified: Arc<ClientConfig>,
    any: Arc<ClientConfig>,
}

impl Trust {
    /// The system's certificate authorities (`SSL_CERT_FILE` and `SSL_CERT_DIR` over them).
    ///
    /// # Errors
    /// Where rustls refuses the configuration.
    pub fn of_system() -> Result<Self, rustls::Error> {
        let verified = ClientConfig::builder().with_root_certificates(trust::system()).with_no_client_auth();
        let unchecked = Unchecked::with(verified.crypto_provider());
        let any = ClientConfig::builder().dangerous().with_custom_certificate_verifier(unchecked).with_no_client_auth();
        Ok(Self { verified: Arc::new(with_http1(verified)), any: Arc::new(with_http1(any)) })
    }
}

fn with_http1(mut config: ClientConfig) -> ClientConfig {
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config
}

/// A connection that is driven on this worker. Dropped, it closes at once, whatever was under way on it.
pub struct Connection {
    sender: SendRequest<RequestBody>,
    allowance: Allowance,
    driver: Option<AbortHandle>,
}

impl Connection {
    /// Where requests go in.
    pub fn sender(&mut self) -> &mut SendRequest<RequestBody> {
        &mut self.sender
    }

    /// What may come before an answer.
    pub fn allowance(&self) -> &Allowance {
        &self.allowance
    }

    /// Whether nothing more can be sent.
    pub fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    /// Leaves it to whoever took it over after a switch of protocols.
    pub fn leave(mut self) {
        self.driver = None;
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if let Some(driver) = &self.driver {
            driver.abort();
        }
    }
}

/// Connects, and drives the connection on this worker until it closes; until then it is counted in `open`.
///
/// # Errors
/// [`ConnectError`].
pub async fn connect(endpoint: &Endpoint, trust: &Trust, open: &Arc<Gauge>) -> Result<Connection, ConnectError> {
    let connecting = async {
        let tcp = TcpStream::connect((connect_host(&endpoint.host), endpoint.port)).await?;
        let tcp = socket::ready(tcp);
        if !endpoint.tls {
            return handshake(tcp, open.enter()).await;
        }
        let config = if endpoint.skip_verify { &trust.any } else { &trust.verified };
        let name = ServerName::try_from(endpoint.host.trim_matches(['[', ']']).to_owned());
        let name = name.map_err(|_| ConnectError::Name)?;
        let tls = TlsConnector::from(Arc::clone(config)).connect(name, tcp).await.map_err(ConnectError::Tls)?;
        handshake(tls, open.enter()).await
    };
    tokio::time::timeout(UPSTREAM_CONNECT, connecting).await.map_err(|_| ConnectError::Late)?
}

/// RFC 6761 §6.3: names under `localhost` are loopback, whatever the resolver says.
pub(super) fn connect_host(host: &str) -> &str {
    if host == "localhost" || host.ends_with(".localhost") { "127.0.0.1" } else { host.trim_matches(['[', ']']) }
}

async fn handshake<T>(stream: T, counted: Counted) -> Result<Connection, ConnectError>
where
    T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let allowance = Allowance::default();
    let io = TokioIo::new(Bounded::new(stream, allowance.clone()));
    let (head, headers) = UPSTREAM_HEADERS;
    let (sender, connection) = http1::Builder::new().max_buf_size(head).max_headers(headers).handshake(io).await?;
    let driver = actix_rt::spawn(async move {
        let _counted = counted;
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%error, "an upstream connection ended");
        }
    });
    Ok(Connection { sender, allowance, driver: Some(driver.abort_handle()) })
}
