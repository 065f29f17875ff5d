//! From configuration to a client's options: addresses, who we are, TLS. What cannot be used is found here, at start.

use std::fs;
use std::path::{Path, PathBuf};

use async_nats::rustls::pki_types::pem::PemObject;
use async_nats::{ConnectOptions, ServerAddr};
use portcullis_config::{NatsLogin, NatsStorage, NatsTls, Secret};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use url::Url;

use crate::trust::Unchecked;

/// Why no connection can even be tried.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadOption {
    /// An address that is not one of a NATS server; its text may hold a password and stays out.
    #[error("{0:?} is not the address of a nats server")]
    Address(String),
    /// The credentials are none.
    #[error("databroker_storage_credentials_file: not the credentials of a user")]
    Credentials,
    /// A user, password or seed that is not text.
    #[error("the user towards nats is not text")]
    Login,
    /// A file of certificates or keys.
    #[error("{key}: {}: {why}", path.display())]
    Tls {
        /// The key that names the file.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
}

/// The addresses, each as a client takes it.
pub(super) fn addresses(servers: &[Url]) -> Result<Vec<ServerAddr>, BadOption> {
    let bad = |url: &Url| BadOption::Address(format!("{}://{}", url.scheme(), url.host_str().unwrap_or_default()));
    servers.iter().map(|url| ServerAddr::from_url(url.clone()).map_err(|_| bad(url))).collect()
}

/// Who we are, and TLS.
pub(super) fn options(storage: &NatsStorage) -> Result<ConnectOptions, BadOption> {
    let options = login(ConnectOptions::new(), storage.login.as_ref())?;
    // one address with TLS is a wish for TLS: servers that tell of each other tell no scheme
    let is_wished = storage.servers.iter().any(|url| url.scheme() == "tls");
    match &storage.tls {
        Some(wanted) => tls(options.require_tls(true), wanted),
        None if is_wished => Ok(options.require_tls(true)),
        None => Ok(options),
    }
}

fn login(options: ConnectOptions, login: Option<&NatsLogin>) -> Result<ConnectOptions, BadOption> {
    let text = |secret: &Secret| secret.expose_str().map(str::to_owned).ok_or(BadOption::Login);
    match login {
        None => Ok(options),
        Some(NatsLogin::Password { user, password }) => Ok(options.user_and_password(text(user)?, text(password)?)),
        Some(NatsLogin::Nkey(seed)) => Ok(options.nkey(text(seed)?)),
        // the client's error may repeat a part of the text
        Some(NatsLogin::Credentials(all)) => options.credentials(&text(all)?).map_err(|_| BadOption::Credentials),
    }
}

/// The files are read again for each connection, so that a renewed certificate needs no restart.
fn tls(mut options: ConnectOptions, wanted: &NatsTls) -> Result<ConnectOptions, BadOption> {
    let mut roots = RootCertStore::empty();
    if let Some(ca) = &wanted.ca {
        let key = "databroker_storage_ca_file";
        for certificate in certificates(key, ca)? {
            roots.add(certificate).map_err(|error| bad(key, ca, &error))?;
        }
        options = options.add_root_certificates(ca.clone());
    }
    let builder = ClientConfig::builder();
    let verifier = Unchecked::with(builder.crypto_provider());
    let unchecked = builder.dangerous().with_custom_certificate_verifier(verifier);
    let config = match &wanted.client {
        None => unchecked.with_no_client_auth(),
        Some(pair) => {
            let chain = certificates("databroker_storage_cert_file", &pair.cert)?;
            let key = "databroker_storage_key_file";
            let private = PrivateKeyDer::from_pem_file(&pair.key).map_err(|error| bad(key, &pair.key, &error))?;
            options = options.add_client_certificate(pair.cert.clone(), pair.key.clone());
            unchecked.with_client_auth_cert(chain, private).map_err(|error| bad(key, &pair.key, &error))?
        }
    };
    // without a check of the server the files are read this once
    Ok(if wanted.skip_verify { options.tls_client_config(config) } else { options })
}

fn certificates(key: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, BadOption> {
    let pem = fs::read(path).map_err(|error| bad(key, path, &error))?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    match found {
        Ok(found) if found.is_empty() => Err(bad(key, path, &"no certificate in PEM")),
        found => found.map_err(|error| bad(key, path, &error)),
    }
}

fn bad(key: &'static str, path: &Path, why: &impl ToString) -> BadOption {
    BadOption::Tls { key, path: path.to_owned(), why: why.to_string() }
}
