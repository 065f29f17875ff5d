//! A certificate authority of the test, and what it signs.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SanType, SerialNumber, date_time_ymd,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

/// A certificate authority that nobody else trusts.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
    above: Vec<CertificateDer<'static>>,
}

/// A certificate and its key, as PEM files.
#[derive(Debug, Clone)]
pub struct Certificate {
    /// The certificate.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// What a client shows, and the key to it.
pub struct Identity {
    chain: Vec<CertificateDer<'static>>,
    key: KeyPair,
    serial: u64,
}

impl Identity {
    /// Its certificate (DER).
    #[must_use]
    pub fn certificate(&self) -> &[u8] {
        self.chain.first().map_or(&[], |leaf| leaf.as_ref())
    }
}

impl Authority {
    /// A certificate for a client with this e-mail address. `serial` is to be another one each time.
    ///
    /// # Errors
    /// An address that cannot stand in a certificate.
    pub fn identify(&self, email: &str, serial: u64) -> Result<Identity> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.subject_alt_names = vec![SanType::Rfc822Name(email.try_into()?)];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.serial_number = Some(SerialNumber::from(serial));
        let key = KeyPair::generate()?;
        let leaf = params.signed_by(&key, &self.issuer)?.der().clone();
        let above = self.above.iter().cloned();
        Ok(Identity { chain: std::iter::once(leaf).chain(above).collect(), key, serial })
    }

    /// An authority that this one vouches for: what it issues comes with its own certificate.
    ///
    /// # Errors
    /// None is known.
    pub fn below(&self) -> Result<Self> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.distinguished_name.push(DnType::CommonName, "An authority below that of a test");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        let (pem, above) = (certificate.pem(), vec![certificate.der().clone()]);
        Ok(Self { issuer: Issuer::new(params, key), pem, above })
    }

    /// A list of what it has revoked, in PEM.
    ///
    /// # Errors
    /// None is known.
    pub fn revoke(&self, revoked: &[&Identity]) -> Result<String> {
        let (long_ago, far_away) = (date_time_ymd(2020, 1, 1), date_time_ymd(2100, 1, 1));
        let one = |identity: &&Identity| RevokedCertParams {
            serial_number: SerialNumber::from(identity.serial),
            revocation_time: long_ago,
            reason_code: None,
            invalidity_date: None,
        };
        let list = CertificateRevocationListParams {
            this_update: long_ago,
            next_update: far_away,
            crl_number: SerialNumber::from(1_u64),
            issuing_distribution_point: None,
            revoked_certs: revoked.iter().map(one).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        Ok(list.signed_by(&self.issuer)?.pem()?)
    }

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
        Ok(Self { issuer: Issuer::new(params, key), pem, above: Vec::new() })
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
        self.client_showing(protocols, None)
    }

    /// The same for one that shows a certificate where it is asked for one.
    ///
    /// # Errors
    /// None is known.
    pub fn client_showing(&self, protocols: &[&[u8]], identity: Option<&Identity>) -> Result<Arc<ClientConfig>> {
        self.build(protocols, identity, rustls::DEFAULT_VERSIONS)
    }

    /// The TLS of a client that speaks one version alone, and offers 0-RTT.
    ///
    /// # Errors
    /// None is known.
    pub fn client_of(
        &self,
        protocols: &[&[u8]],
        version: &'static rustls::SupportedProtocolVersion,
    ) -> Result<Arc<ClientConfig>> {
        let mut config = Arc::unwrap_or_clone(self.build(protocols, None, &[version])?);
        config.enable_early_data = true;
        Ok(Arc::new(config))
    }

    fn build(
        &self,
        protocols: &[&[u8]],
        identity: Option<&Identity>,
        versions: &[&'static rustls::SupportedProtocolVersion],
    ) -> Result<Arc<ClientConfig>> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)?
            .with_root_certificates(Arc::clone(&self.roots));
        let mut config = match identity {
            Some(Identity { chain, key, .. }) => {
                let key = PrivateKeyDer::try_from(key.serialize_der()).map_err(anyhow::Error::msg)?;
                config.with_client_auth_cert(chain.clone(), key)?
            }
            None => config.with_no_client_auth(),
        };
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
        Ok(Arc::new(config))
    }
}
