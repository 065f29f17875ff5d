//! A connection to the gateway: TCP, and TLS by the trust that the command line asks for.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use portcullis_actors::trust::{self, Unchecked};
use portcullis_config::limits::TUNNEL_CONNECT;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::destination::Gateway;
use crate::cli::TrustOptions;
use crate::socket;

/// A stream to the gateway.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Connects to gateways.
pub struct Dialer {
    tls: Arc<ClientConfig>,
}

impl Dialer {
    /// With the trust that the options ask for.
    ///
    /// # Errors
    /// A file cannot be read, or holds no certificate or key.
    pub fn new(options: &TrustOptions) -> Result<Self> {
        let builder = ClientConfig::builder();
        let builder = if options.disable_tls_verification {
            let unchecked = Unchecked::with(builder.crypto_provider());
            builder.dangerous().with_custom_certificate_verifier(unchecked)
        } else {
            builder.with_root_certificates(roots(options)?)
        };
        let mut config = match (&options.client_cert, &options.client_key) {
            (Some(cert), Some(key)) => {
                let key = PrivateKeyDer::from_pem_file(key).with_context(|| unusable(key, "private key"))?;
                builder.with_client_auth_cert(certificates(cert)?, key).context("--client-cert with --client-key")?
            }
            (_, _) => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self { tls: Arc::new(config) })
    }

    /// Connects.
    ///
    /// # Errors
    /// Nobody answers there in time, or its certificate is not one to be believed.
    pub async fn dial(&self, gateway: &Gateway) -> Result<Box<dyn Stream>> {
        let dialing = tokio::time::timeout(TUNNEL_CONNECT, self.connect(gateway)).await;
        dialing.with_context(|| format!("the gateway {gateway} does not answer"))?
    }

    async fn connect(&self, gateway: &Gateway) -> Result<Box<dyn Stream>> {
        let tcp = TcpStream::connect((socket::connect_host(&gateway.host), gateway.port)).await;
        let tcp = socket::ready(tcp.with_context(|| format!("cannot reach the gateway {gateway}"))?);
        if !gateway.tls {
            return Ok(Box::new(tcp));
        }
        let name = ServerName::try_from(gateway.host.trim_matches(['[', ']']).to_owned())?;
        match TlsConnector::from(Arc::clone(&self.tls)).connect(name, tcp).await {
            Ok(tls) => Ok(Box::new(tls)),
            Err(error) if is_distrusted(&error) => bail!(
                "the certificate of {gateway} is not trusted ({error}); name its authority with --alternate-ca-path FILE"
            ),
            Err(error) => Err(error).with_context(|| format!("no TLS with {gateway}")),
        }
    }
}

fn is_distrusted(error: &std::io::Error) -> bool {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    matches!(inner, Some(rustls::Error::InvalidCertificate(_)))
}

/// The authorities that are named, or the system's.
fn roots(options: &TrustOptions) -> Result<Arc<RootCertStore>> {
    let mut named = Vec::new();
    if let Some(path) = &options.alternate_ca_path {
        named.extend(certificates(path)?);
    }
    if let Some(text) = &options.ca_cert {
        let pem = STANDARD.decode(text.trim()).context("--ca-cert is not base64")?;
        let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
        named.extend(found.context("--ca-cert holds no certificate in PEM")?);
    }
    if options.alternate_ca_path.is_none() && options.ca_cert.is_none() {
        return Ok(trust::system());
    }
    let mut roots = RootCertStore::empty();
    for certificate in named {
        roots.add(certificate).context("a certificate authority that is no certificate")?;
    }
    if roots.is_empty() {
        bail!("there is no certificate in what was named as authority");
    }
    Ok(Arc::new(roots))
}

fn certificates(path: &PathBuf) -> Result<Vec<CertificateDer<'static>>> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
    match found {
        Ok(chain) if chain.is_empty() => bail!(unusable(path, "certificate")),
        found => found.with_context(|| unusable(path, "certificate")),
    }
}

fn unusable(path: &Path, what: &str) -> String {
    format!("{} holds no {what} in PEM", path.display())
}
