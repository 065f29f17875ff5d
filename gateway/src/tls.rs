//! TLS towards clients: certificates by server name, TLS 1.2 and 1.3, HTTP/2 before HTTP/1.1.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, anyhow, bail};
use portcullis_config::CertificatePair;
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

/// The configuration of the listener.
///
/// # Errors
/// A file that cannot be read, holds no certificate or key, or a key that does not fit its certificate.
pub fn server_config(pairs: &[CertificatePair]) -> Result<Arc<ServerConfig>> {
    let mut certificates = Vec::with_capacity(pairs.len());
    for pair in pairs {
        certificates.push(Certificate::load(pair)?);
    }
    if certificates.is_empty() {
        bail!("no certificate is configured");
    }
    let mut config =
        ServerConfig::builder().with_no_client_auth().with_cert_resolver(Arc::new(ByName { certificates }));
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    // 0-RTT data can be replayed by whoever saw it: never for authenticated requests (RFC 8446 §8)
    config.max_early_data_size = 0;
    Ok(Arc::new(config))
}

#[derive(Debug)]
struct Certificate {
    names: Vec<String>,
    key: Arc<CertifiedKey>,
}

impl Certificate {
    fn load(pair: &CertificatePair) -> Result<Self> {
        let chain = read_chain(&pair.cert)?;
        let key = PrivateKeyDer::from_pem_file(&pair.key)
            .with_context(|| format!("{}: no private key in PEM", pair.key.display()))?;
        let key = any_supported_type(&key).with_context(|| format!("{}: unusable key", pair.key.display()))?;
        let key = CertifiedKey::new(chain, key);
        key.keys_match()
            .with_context(|| format!("{} does not belong to {}", pair.key.display(), pair.cert.display()))?;
        let end_entity = key.end_entity_cert().context("no certificate")?;
        let parsed = webpki::EndEntityCert::try_from(end_entity)
            .map_err(|error| anyhow!("{}: not a certificate: {error}", pair.cert.display()))?;
        let names = parsed.valid_dns_names().map(str::to_ascii_lowercase).collect();
        Ok(Self { names, key: Arc::new(key) })
    }
}

fn read_chain(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let read = || CertificateDer::pem_file_iter(path)?.collect::<Result<Vec<_>, _>>();
    let chain = read().with_context(|| format!("{}: no certificate in PEM", path.display()))?;
    if chain.is_empty() {
        bail!("{}: no certificate in PEM", path.display());
    }
    Ok(chain)
}

/// Picks the certificate whose names fit; the first one where none does, or where the client names none.
#[derive(Debug)]
struct ByName {
    certificates: Vec<Certificate>,
}

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let wanted = hello.server_name().map(str::to_ascii_lowercase);
        let fits = |certificate: &&Certificate| {
            wanted.as_deref().is_some_and(|wanted| certificate.names.iter().any(|name| matches(name, wanted)))
        };
        let found = self.certificates.iter().find(fits).or_else(|| self.certificates.first());
        found.map(|certificate| Arc::clone(&certificate.key))
    }
}

/// RFC 6125 §6.4.3: a wildcard stands for one whole left-most label.
fn matches(name: &str, wanted: &str) -> bool {
    match name.strip_prefix("*.") {
        Some(parent) => wanted.split_once('.').is_some_and(|(label, rest)| !label.is_empty() && rest == parent),
        None => name == wanted,
    }
}
