//! Whose certificates servers may have: the system's authorities', or, where a configuration says so, anybody's.

use std::sync::{Arc, LazyLock};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, RootCertStore, SignatureScheme};

static SYSTEM: LazyLock<Arc<RootCertStore>> = LazyLock::new(|| Arc::new(read()));

/// The system's certificate authorities (`SSL_CERT_FILE` and `SSL_CERT_DIR` over them), read once: there are some hundred
/// of them.
#[must_use]
pub fn system() -> Arc<RootCertStore> {
    Arc::clone(&SYSTEM)
}

fn read() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    for error in &found.errors {
        tracing::warn!(%error, "some of the system's certificate authorities could not be read");
    }
    // one bad file of the system's store is no reason to trust less of the others
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        tracing::warn!("no certificate authority is trusted; other machines can be reached without TLS only");
    }
    roots
}

/// Takes any certificate (`…tls_skip_verify`): the name and the chain are not looked at, the handshake's signatures are.
#[derive(Debug)]
pub struct Unchecked {
    algorithms: WebPkiSupportedAlgorithms,
}

impl Unchecked {
    /// With the signatures that a provider knows.
    #[must_use]
    pub fn with(provider: &CryptoProvider) -> Arc<Self> {
        Arc::new(Self { algorithms: provider.signature_verification_algorithms })
    }
}

impl ServerCertVerifier for Unchecked {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
