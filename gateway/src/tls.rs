//! TLS towards clients: certificates by server name, TLS 1.2 and 1.3, HTTP/2 before HTTP/1.1.

use std::fmt::Display;
use std::sync::Arc;

use portcullis_config::Config;
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

/// A certificate or key that cannot be used; says which, and nothing of what is in it.
#[derive(Debug, thiserror::Error)]
#[error("{place}: {wrong}")]
pub struct Unusable {
    place: String,
    wrong: String,
}

impl Unusable {
    fn new(place: impl Display, wrong: impl Display) -> Self {
        Self { place: place.to_string(), wrong: wrong.to_string() }
    }
}

/// TLS as a configuration wants it; `None` where this process has no listener, or speaks plain HTTP on it.
///
/// # Errors
/// As [`server_config`].
pub fn for_listener(config: &Config) -> Result<Option<Arc<ServerConfig>>, Unusable> {
    (config.services.proxy && !config.insecure_server).then(|| server_config(&config.certificates)).transpose()
}

/// The configuration of the listener.
///
/// # Errors
/// A file that cannot be read, holds no certificate or key, or a key that does not fit its certificate.
pub fn server_config(certificates: &[portcullis_config::Certificate]) -> Result<Arc<ServerConfig>, Unusable> {
    let certificates = certificates.iter().map(Certificate::load).collect::<Result<Vec<_>, _>>()?;
    if certificates.is_empty() {
        return Err(Unusable::new("certificates", "there is none"));
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
    fn load(given: &portcullis_config::Certificate) -> Result<Self, Unusable> {
        match given {
            portcullis_config::Certificate::Files(pair) => {
                let [cert, key] = [&pair.cert, &pair.key].map(|path| path.display().to_string());
                let chain = CertificateDer::pem_file_iter(&pair.cert).and_then(Iterator::collect);
                Self::of((&cert, chain), (&key, PrivateKeyDer::from_pem_file(&pair.key)))
            }
            portcullis_config::Certificate::InPlace { chain, key } => {
                let chain = CertificateDer::pem_slice_iter(chain.expose()).collect();
                Self::of(("certificate", chain), ("certificate_key", PrivateKeyDer::from_pem_slice(key.expose())))
            }
        }
    }

    /// A certificate from what was read at two places.
    fn of(
        (cert_place, chain): (&str, Result<Vec<CertificateDer<'static>>, pem::Error>),
        (key_place, key): (&str, Result<PrivateKeyDer<'static>, pem::Error>),
    ) -> Result<Self, Unusable> {
        let wrong_cert = |wrong: &dyn Display| Unusable::new(cert_place, wrong);
        let wrong_key = |wrong: &dyn Display| Unusable::new(key_place, wrong);
        let chain = chain.map_err(|error| wrong_cert(&format_args!("no certificate in PEM: {error}")))?;
        let leaf = chain.first().ok_or_else(|| wrong_cert(&"no certificate in PEM"))?;
        let leaf = webpki::EndEntityCert::try_from(leaf)
            .map_err(|error| wrong_cert(&format_args!("not a certificate: {error}")))?;
        let names = leaf.valid_dns_names().map(str::to_ascii_lowercase).collect();
        let key = key.map_err(|error| wrong_key(&format_args!("no private key in PEM: {error}")))?;
        let key = any_supported_type(&key).map_err(|error| wrong_key(&format_args!("unusable key: {error}")))?;
        let key = CertifiedKey::new(chain, key);
        key.keys_match().map_err(|_| wrong_key(&format_args!("does not belong to {cert_place}")))?;
        Ok(Self { names, key: Arc::new(key) })
    }
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

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use portcullis_config::Certificate::{Files, InPlace};
    use portcullis_config::{CertificatePair, Secret};
    use rcgen::{CertificateParams, KeyPair};

    use super::*;

    fn issued(name: &str) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let leaf = CertificateParams::new([name.to_owned()]).unwrap().self_signed(&key).unwrap();
        (leaf.pem(), key.serialize_pem())
    }

    fn in_place(chain: &str, key: &str) -> portcullis_config::Certificate {
        InPlace { chain: Secret::new(chain), key: Secret::new(key) }
    }

    struct Dir(tempfile::TempDir);

    impl Dir {
        fn files(&self, chain: &str, key: &str) -> portcullis_config::Certificate {
            let [cert, key] = [("cert", chain), ("key", key)].map(|(name, text)| {
                let path = self.path(name);
                std::fs::write(&path, text).unwrap();
                path
            });
            Files(CertificatePair { cert, key })
        }

        fn path(&self, name: &str) -> PathBuf {
            self.0.path().join(name)
        }
    }

    #[test]
    fn a_certificate_serves_from_files_and_from_the_configuration_itself() {
        let dir = Dir(tempfile::tempdir().unwrap());
        let (chain, key) = issued("app.example.com");
        for given in [dir.files(&chain, &key), in_place(&chain, &key)] {
            let loaded = Certificate::load(&given).unwrap();
            assert_eq!(loaded.names, ["app.example.com"]);
            assert!(server_config(&[given]).is_ok());
        }
        assert_eq!(server_config(&[]).unwrap_err().to_string(), "certificates: there is none");
    }

    #[test]
    fn what_cannot_be_used_is_named_and_not_shown() {
        let dir = Dir(tempfile::tempdir().unwrap());
        let (chain, key) = issued("app.example.com");
        let (_, other) = issued("app.example.com");
        let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        let no_key = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
        let [cert_path, key_path] = ["cert", "key"].map(|name| dir.path(name).display().to_string());
        for (chain, key, of_key, said) in [
            ("", key.as_str(), false, "no certificate in PEM"),
            ("no PEM", &key, false, "no certificate in PEM"),
            (&key, &key, false, "no certificate in PEM"),
            (broken, &key, false, "not a certificate: "),
            (&chain, "", true, "no private key in PEM"),
            (&chain, &chain, true, "no private key in PEM"),
            (&chain, no_key, true, "unusable key: "),
            (&chain, &other, true, "does not belong to "),
        ] {
            let places = [[cert_path.as_str(), "certificate"], [key_path.as_str(), "certificate_key"]];
            let given = [dir.files(chain, key), in_place(chain, key)];
            for (given, place) in given.iter().zip(places[usize::from(of_key)]) {
                let error = server_config(std::slice::from_ref(given)).unwrap_err().to_string();
                assert!(error.starts_with(&format!("{place}: {said}")), "{error}");
                assert!(!error.contains("AAAA"), "{error}");
            }
        }
    }
}
