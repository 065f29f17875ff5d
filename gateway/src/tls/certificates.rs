//! The certificates towards clients: loaded as a whole, and chosen for each handshake by name, time and kind of key.

use std::collections::HashMap;
use std::fmt::Display;
use std::sync::Arc;

use portcullis_actors::clock;
use portcullis_config::limits::CERTIFICATE_WARNING;
use portcullis_events::Time;
use rustls::SignatureAlgorithm;
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

use super::Unusable;

/// Every certificate of a configuration, in its order.
#[derive(Debug)]
pub struct Certificates {
    all: Vec<Certificate>,
    /// Places in `all` by name.
    exact: HashMap<String, Vec<usize>>,
    /// The same by what follows `*.`.
    wildcard: HashMap<String, Vec<usize>>,
}

#[derive(Debug)]
struct Certificate {
    names: Vec<String>,
    from: Time,
    to: Time,
    is_elliptic: bool,
    key: Arc<CertifiedKey>,
}

impl Certificates {
    /// Loads them all.
    ///
    /// # Errors
    /// There is none; or a file cannot be read, holds no certificate or key, or a key does not fit its certificate.
    pub fn load(given: &[portcullis_config::Certificate]) -> Result<Self, Unusable> {
        let all = given.iter().map(Certificate::load).collect::<Result<Vec<_>, _>>()?;
        if all.is_empty() {
            return Err(Unusable::new("certificates", "there is none"));
        }
        let (mut exact, mut wildcard) = (HashMap::<_, Vec<_>>::new(), HashMap::<_, Vec<_>>::new());
        for (index, certificate) in all.iter().enumerate() {
            for name in &certificate.names {
                match name.strip_prefix("*.") {
                    Some(parent) => wildcard.entry(parent.to_owned()).or_default().push(index),
                    None => exact.entry(name.clone()).or_default().push(index),
                }
            }
        }
        Ok(Self { all, exact, wildcard })
    }

    /// When the certificate for each name ends, by the first name of each; of several with one name, the last to end.
    pub fn ends(&self) -> impl Iterator<Item = (&str, Time)> {
        let mut ends: HashMap<&str, Time> = HashMap::new();
        for certificate in &self.all {
            let end = ends.entry(certificate.name()).or_insert(certificate.to);
            *end = certificate.to.max(*end);
        }
        ends.into_iter()
    }

    /// Says of each name whose certificate has ended, or soon will.
    pub fn warn(&self, now: Time) {
        for (name, end) in self.ends() {
            if end <= now {
                tracing::warn!(name, end = %end.rfc3339(), "a certificate has ended: clients will refuse it");
            } else if end <= now.plus(CERTIFICATE_WARNING) {
                tracing::warn!(name, end = %end.rfc3339(), "a certificate ends soon");
            }
        }
    }

    /// The best for a client that asks for `name` and takes keys of which `suits` says so. Among those that have the
    /// name: one in its time before one that is not, an exact name before a wildcard, a key on an elliptic curve before
    /// RSA, whose signatures cost twenty times as much, and the one issued last before others. Where none has the name,
    /// the first of all that suits, else the first.
    fn choose(&self, name: Option<&str>, now: Time, suits: impl Fn(&CertifiedKey) -> bool) -> Option<&Certificate> {
        let found = |map: &HashMap<String, Vec<usize>>, name: &str, is_exact: bool| {
            let places = map.get(name).into_iter().flatten();
            let certificates = places.filter_map(|place| self.all.get(*place));
            certificates.map(|certificate| (is_exact, certificate)).collect::<Vec<_>>()
        };
        let named = name.into_iter().flat_map(|name| {
            let parent = name.split_once('.').filter(|(label, _)| !label.is_empty()).map(|(_, parent)| parent);
            let wild = parent.map(|parent| found(&self.wildcard, parent, false)).unwrap_or_default();
            found(&self.exact, name, true).into_iter().chain(wild)
        });
        let rank =
            |(is_exact, it): &(bool, &Certificate)| (it.from <= now && now < it.to, *is_exact, it.is_elliptic, it.from);
        let best = named.filter(|(_, certificate)| suits(&certificate.key)).max_by_key(rank);
        let any = || self.all.iter().find(|certificate| suits(&certificate.key)).or(self.all.first());
        best.map(|(_, certificate)| certificate).or_else(any)
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let name = hello.server_name().map(super::plain_name);
        let suits = |key: &CertifiedKey| key.key.choose_scheme(hello.signature_schemes()).is_some();
        self.choose(name.as_deref(), clock::now(), suits).map(|certificate| Arc::clone(&certificate.key))
    }
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
        let names = webpki::EndEntityCert::try_from(leaf)
            .map_err(|error| wrong_cert(&format_args!("not a certificate: {error}")))?
            .valid_dns_names()
            .map(str::to_ascii_lowercase)
            .collect();
        let (_, parsed) =
            X509Certificate::from_der(leaf).map_err(|error| wrong_cert(&format_args!("not a certificate: {error}")))?;
        let validity = parsed.validity();
        let [from, to] = [&validity.not_before, &validity.not_after].map(|time| Time::from_secs(time.timestamp()));
        let key = key.map_err(|error| wrong_key(&format_args!("no private key in PEM: {error}")))?;
        let key = any_supported_type(&key).map_err(|error| wrong_key(&format_args!("unusable key: {error}")))?;
        let is_elliptic = !matches!(key.algorithm(), SignatureAlgorithm::RSA);
        let key = CertifiedKey::new(chain, key);
        key.keys_match().map_err(|_| wrong_key(&format_args!("does not belong to {cert_place}")))?;
        Ok(Self { names, from, to, is_elliptic, key: Arc::new(key) })
    }

    /// What it is called.
    fn name(&self) -> &str {
        self.names.first().map_or("none", String::as_str)
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
            assert!(Certificates::load(&[given]).is_ok());
        }
        assert_eq!(Certificates::load(&[]).unwrap_err().to_string(), "certificates: there is none");
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
                let error = Certificates::load(std::slice::from_ref(given)).unwrap_err().to_string();
                assert!(error.starts_with(&format!("{place}: {said}")), "{error}");
                assert!(!error.contains("AAAA"), "{error}");
            }
        }
    }

    /// In its time from `from` to `to`, in seconds since 1970.
    fn valid(names: &[&str], from: i64, to: i64, key: &KeyPair) -> portcullis_config::Certificate {
        let mut params =
            CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()).unwrap();
        params.not_before = time::OffsetDateTime::from_unix_timestamp(from).unwrap();
        params.not_after = time::OffsetDateTime::from_unix_timestamp(to).unwrap();
        in_place(&params.self_signed(key).unwrap().pem(), &key.serialize_pem())
    }

    #[test]
    fn the_best_certificate_is_chosen_by_name_time_and_kind_of_key() {
        let elliptic = KeyPair::generate().unwrap();
        let rsa = KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap();
        let certificates = Certificates::load(&[
            valid(&["default.x.test"], 0, 1000, &rsa),                  // 0
            valid(&["*.x.test"], 0, 1000, &elliptic),                   // 1
            valid(&["app.x.test"], 0, 100, &elliptic),                  // 2
            valid(&["app.x.test", "other.x.test"], 50, 200, &elliptic), // 3
            valid(&["app.x.test"], 60, 200, &rsa),                      // 4
        ])
        .unwrap();
        let chosen = |name: Option<&str>, now: i64, takes_elliptic: bool| {
            let suits = |key: &CertifiedKey| takes_elliptic || key.key.algorithm() == SignatureAlgorithm::RSA;
            let chosen = certificates.choose(name, Time::from_secs(now), suits).unwrap();
            certificates.all.iter().position(|one| std::ptr::eq(one, chosen)).unwrap()
        };
        for (name, now, takes_elliptic, expected, why) in [
            (Some("app.x.test"), 40, true, 2, "the only one in its time that has the name itself"),
            (Some("app.x.test"), 70, true, 3, "issued last, of those with the cheaper key"),
            (Some("app.x.test"), 70, false, 4, "RSA for a client that takes nothing else"),
            (Some("app.x.test"), 300, true, 1, "a wildcard in its time before a name whose time is over"),
            (Some("other.x.test"), 70, true, 3, "a further name"),
            (Some("any.x.test"), 70, true, 1, "the wildcard"),
            (Some("a.b.x.test"), 70, true, 0, "a wildcard is one label"),
            (Some(".x.test"), 70, true, 0, "and not an empty one"),
            (Some("elsewhere.example"), 70, true, 0, "the first where none has the name"),
            (None, 70, true, 0, "the first where none is named"),
        ] {
            assert_eq!(chosen(name, now, takes_elliptic), expected, "{name:?} {now}: {why}");
        }
        let ends: HashMap<_, _> = certificates.ends().collect();
        assert_eq!(ends["app.x.test"], Time::from_secs(200));
    }
}
