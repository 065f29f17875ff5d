//! A certificate authority of the test, and what it signs.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};

/// A certificate authority that nobody else trusts.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

/// A certificate and its key, as PEM files.
#[derive(Debug, Clone)]
pub struct Certificate {
    /// The certificate.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

impl Authority {
    /// A new authority.
    ///
    /// # Errors
    /// The system gives no randomness.
    pub fn new() -> Result<Self> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.distinguished_name.push(DnType::CommonName, "The authority of a test");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate()?;
        let pem = params.self_signed(&key)?.pem();
        Ok(Self { issuer: Issuer::new(params, key), pem })
    }

    /// A certificate for `names`, in files of `dir` that begin with `stem`.
    ///
    /// # Errors
    /// A name that cannot stand in a certificate, or a directory that cannot be written.
    pub fn issue(&self, dir: &Path, stem: &str, names: &[&str]) -> Result<Certificate> {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let key = KeyPair::generate()?;
        let leaf = CertificateParams::new(names)?.signed_by(&key, &self.issuer)?;
        let certificate = Certificate { cert: dir.join(format!("{stem}.pem")), key: dir.join(format!("{stem}.key")) };
        std::fs::write(&certificate.cert, leaf.pem())?;
        std::fs::write(&certificate.key, key.serialize_pem())?;
        Ok(certificate)
    }

    /// Its own certificate, in PEM.
    #[must_use]
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// Trust in this authority and no other.
    ///
    /// # Errors
    /// None is known.
    pub fn trust(&self) -> Result<Trust> {
        Trust::in_pem(self.pem.as_bytes())
    }
}

/// Which authorities a client trusts.
#[derive(Clone)]
pub struct Trust {
    roots: Arc<RootCertStore>,
}

impl Trust {
    /// Trust in the certificates of a PEM text.
    ///
    /// # Errors
    /// It holds none.
    pub fn in_pem(pem: &[u8]) -> Result<Self> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(pem) {
            roots.add(certificate.context("not a certificate in PEM")?)?;
        }
        anyhow::ensure!(!roots.is_empty(), "no certificate in PEM");
        Ok(Self { roots: Arc::new(roots) })
    }

    /// The TLS of a client that offers `protocols` (ALPN), the preferred one first.
    ///
    /// # Errors
    /// None is known.
    pub fn client(&self, protocols: &[&[u8]]) -> Result<Arc<ClientConfig>> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(Arc::clone(&self.roots))
            .with_no_client_auth();
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
        Ok(Arc::new(config))
    }
}
