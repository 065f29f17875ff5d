//! The scripted provider's TLS: one self-signed certificate for `localhost`.

use std::sync::Arc;

use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use tokio_rustls::TlsAcceptor;

/// A certificate, and what accepts connections with it.
pub(super) struct Certificate {
    /// The certificate in PEM.
    pub(super) pem: String,
    /// The server's side.
    pub(super) acceptor: TlsAcceptor,
}

/// Makes one.
pub(super) fn certificate() -> Certificate {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".into()]).expect("a certificate");
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).expect("a private key");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("TLS 1.2 and 1.3")
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .expect("a key that belongs to its certificate");
    Certificate { pem: made.cert.pem(), acceptor: TlsAcceptor::from(Arc::new(config)) }
}
