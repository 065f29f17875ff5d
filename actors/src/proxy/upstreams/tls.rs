//! How TLS is spoken with upstreams: one configuration for all routes that say the same.

use std::collections::HashMap;
use std::sync::Arc;

use portcullis_config::upstreams::{Authorities, ClientCertificate, Pem};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

use crate::trust::{self, Unchecked};

/// What two routes must share to share a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Terms {
    /// Who is trusted.
    pub authorities: Authorities,
    /// Any certificate is good.
    pub skip_verify: bool,
    /// Our own certificate.
    pub client: Option<ClientCertificate>,
    /// HTTP/2 is offered.
    pub h2: bool,
}

/// The configurations made so far, by a short form of their terms.
#[derive(Default)]
pub struct Configurations(HashMap<String, Vec<Made>>);

type Made = (Terms, Option<Arc<ClientConfig>>);

impl Configurations {
    /// The configuration of these terms; `None` where the library refuses them, which was tried when they were read.
    pub fn of(&mut self, terms: &Terms) -> Option<Arc<ClientConfig>> {
        let made = self.0.entry(format!("{terms:?}")).or_default();
        if let Some((_, config)) = made.iter().find(|(known, _)| known == terms) {
            return config.clone();
        }
        let config = build(terms).inspect_err(|error| tracing::error!(%error, "TLS with an upstream cannot be set up"));
        let config = config.ok().map(Arc::new);
        made.push((terms.clone(), config.clone()));
        config
    }
}

fn build(terms: &Terms) -> Result<ClientConfig, rustls::Error> {
    let builder = ClientConfig::builder();
    let builder = if terms.skip_verify {
        let unchecked = Unchecked::with(builder.crypto_provider());
        builder.dangerous().with_custom_certificate_verifier(unchecked)
    } else {
        builder.with_root_certificates(roots(&terms.authorities)?)
    };
    let mut config = match &terms.client {
        None => builder.with_no_client_auth(),
        Some(client) => {
            let key = PrivateKeyDer::from_pem_slice(client.key.expose());
            builder.with_client_auth_cert(chain(&client.chain)?, key.map_err(unreadable)?)?
        }
    };
    config.alpn_protocols =
        if terms.h2 { vec![b"h2".to_vec(), b"http/1.1".to_vec()] } else { vec![b"http/1.1".to_vec()] };
    Ok(config)
}

fn roots(authorities: &Authorities) -> Result<Arc<RootCertStore>, rustls::Error> {
    let (mut roots, pem) = match authorities {
        Authorities::System => return Ok(trust::system()),
        Authorities::Besides(pem) => (RootCertStore::clone(&trust::system()), pem),
        Authorities::Only(pem) => (RootCertStore::empty(), pem),
    };
    for certificate in chain(pem)? {
        roots.add(certificate)?;
    }
    Ok(Arc::new(roots))
}

fn chain(pem: &Pem) -> Result<Vec<CertificateDer<'static>>, rustls::Error> {
    CertificateDer::pem_slice_iter(pem.bytes()).collect::<Result<_, _>>().map_err(unreadable)
}

fn unreadable(error: rustls::pki_types::pem::Error) -> rustls::Error {
    rustls::Error::General(error.to_string())
}
