//! The demo's certificates: an authority that can speak for `localhost` alone, and a leaf with the name of every host.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use portcullis_config::limits::{DEMO_AUTHORITY_LIFE, DEMO_CERTIFICATE_LIFE, DEMO_CERTIFICATE_RENEWAL};
use portcullis_events::Time;
use rcgen::{
    BasicConstraints, CertificateParams, CidrSubnet, DistinguishedName, DnType, ExtendedKeyUsagePurpose,
    GeneralSubtree, IsCa, Issuer, KeyPair, KeyUsagePurpose, NameConstraints, PublicKeyData,
};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::sign::CertifiedKey;
use time::OffsetDateTime;

use super::files::{self, PRIVATE, PUBLIC};

/// Names that the leaf has besides those of the hosts.
const ALWAYS: [&str; 3] = ["localhost", "127.0.0.1", "::1"];
/// Clocks differ: validity begins this much earlier.
const BACKDATED: Duration = Duration::from_secs(24 * 60 * 60);

/// Where the certificates lie, in PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificates {
    /// The authority's certificate, for clients to trust.
    pub ca: PathBuf,
    /// The leaf.
    pub cert: PathBuf,
    /// The leaf's key.
    pub key: PathBuf,
}

/// The certificates in `dir` for these hosts: those that are there if they fit and last, else a new leaf; the
/// authority is kept as long as it can be, because somebody may have told a browser to trust it.
///
/// # Errors
/// A file cannot be written, or the cryptographic library refuses.
pub fn ensure(dir: &Path, hosts: &[String], now: Time) -> Result<Certificates> {
    let certificates =
        Certificates { ca: dir.join("ca.pem"), cert: dir.join("gateway.pem"), key: dir.join("gateway.key") };
    let names: Vec<String> = hosts.iter().cloned().chain(ALWAYS.map(str::to_owned)).collect();
    if certificates.fit(&names, now).is_ok() {
        return Ok(certificates);
    }
    certificates.issue(&names, &dir.join("ca.key"), now)?;
    certificates.fit(&names, now).context("the certificates just made do not fit")?;
    Ok(certificates)
}

impl Certificates {
    /// Whether the leaf belongs to the authority and to its key, has all names, and lasts for a while.
    fn fit(&self, names: &[String], now: Time) -> Result<()> {
        let authority = CertificateDer::from_pem_file(&self.ca)?;
        let anchor = webpki::anchor_from_trusted_cert(&authority)?;
        let leaf = CertificateDer::from_pem_file(&self.cert)?;
        let parsed = webpki::EndEntityCert::try_from(&leaf)?;
        let algorithms = aws_lc_rs::default_provider().signature_verification_algorithms.all;
        for at in [now, now.plus(DEMO_CERTIFICATE_RENEWAL)] {
            let at = UnixTime::since_unix_epoch(at.since(Time::from_millis(0)));
            let usage = webpki::KeyUsage::server_auth();
            parsed.verify_for_usage(algorithms, std::slice::from_ref(&anchor), &[], at, usage, None, None)?;
        }
        for name in names {
            parsed.verify_is_valid_for_subject_name(&ServerName::try_from(name.as_str())?)?;
        }
        let key = aws_lc_rs::sign::any_supported_type(&PrivateKeyDer::from_pem_file(&self.key)?)?;
        CertifiedKey::new(vec![leaf.clone()], key).keys_match()?;
        Ok(())
    }

    fn issue(&self, names: &[String], ca_key: &Path, now: Time) -> Result<()> {
        let pem = files::kept(ca_key, || Ok(KeyPair::generate()?.serialize_pem()))?;
        let ca_key = KeyPair::from_pem(&pem).with_context(|| format!("{}: no key", ca_key.display()))?;
        let authority = authority(&ca_key, now)?;
        if !self.authority_is(&ca_key) {
            files::replace(&self.ca, &authority.self_signed(&ca_key)?.pem(), PUBLIC)?;
        }
        let leaf_key = KeyPair::generate()?;
        let leaf = leaf(names, now)?.signed_by(&leaf_key, &Issuer::from_params(&authority, &ca_key))?;
        files::replace(&self.key, &leaf_key.serialize_pem(), PRIVATE)?;
        files::replace(&self.cert, &leaf.pem(), PUBLIC)
    }

    /// Whether the authority's certificate is there and holds this key.
    fn authority_is(&self, key: &KeyPair) -> bool {
        let Ok(authority) = CertificateDer::from_pem_file(&self.ca) else { return false };
        webpki::anchor_from_trusted_cert(&authority)
            .is_ok_and(|anchor| anchor.subject_public_key_info.as_ref().ends_with(key.der_bytes()))
    }
}

/// All but the dates follows from the key, so that a leaf made later fits the authority's certificate of today.
/// Whoever trusts it trusts it for loopback names and addresses, and for nothing else (RFC 5280 §4.2.1.10).
fn authority(key: &KeyPair, now: Time) -> Result<CertificateParams> {
    let mut params = CertificateParams::default();
    let id = params.key_identifier(key).iter().take(4).map(|byte| format!("{byte:02x}")).collect::<String>();
    params.distinguished_name = named(&format!("Portcullis demo CA {id}"));
    (params.not_before, params.not_after) = validity(now, DEMO_AUTHORITY_LIFE)?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.name_constraints = Some(NameConstraints {
        permitted_subtrees: vec![
            GeneralSubtree::DnsName("localhost".to_owned()),
            GeneralSubtree::IpAddress(CidrSubnet::V4(Ipv4Addr::new(127, 0, 0, 0).octets(), [255, 0, 0, 0])),
            GeneralSubtree::IpAddress(CidrSubnet::V6(Ipv6Addr::LOCALHOST.octets(), [255; 16])),
        ],
        excluded_subtrees: Vec::new(),
    });
    Ok(params)
}

fn leaf(names: &[String], now: Time) -> Result<CertificateParams> {
    let mut params = CertificateParams::new(names)?;
    params.distinguished_name = named("Portcullis demo");
    (params.not_before, params.not_after) = validity(now, DEMO_CERTIFICATE_LIFE)?;
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

fn named(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}

/// `life` in all, part of it already past.
fn validity(now: Time, life: Duration) -> Result<(OffsetDateTime, OffsetDateTime)> {
    let begin = now.minus(BACKDATED);
    let at = |time: Time| OffsetDateTime::from_unix_timestamp(time.secs()).map_err(|error| anyhow!("{error}"));
    Ok((at(begin)?, at(begin.plus(life))?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::configuration;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    const NOW: Time = Time::from_secs(1_764_000_000);
    const DAY: Duration = Duration::from_secs(24 * 60 * 60);

    #[test]
    fn the_certificate_has_the_exact_name_of_every_host() {
        let dir = tempfile::tempdir().unwrap();
        let hosts = configuration::hosts();
        let made = ensure(dir.path(), &hosts, NOW).unwrap();
        let leaf = CertificateDer::from_pem_file(&made.cert).unwrap();
        let parsed = webpki::EndEntityCert::try_from(&leaf).unwrap();
        let names: Vec<_> = parsed.valid_dns_names().collect();
        for host in hosts.iter().map(String::as_str).chain(["localhost"]) {
            assert!(names.contains(&host), "{host}");
        }
        for address in ["127.0.0.1", "::1"] {
            let name = ServerName::try_from(address).unwrap();
            assert!(parsed.verify_is_valid_for_subject_name(&name).is_ok(), "{address}");
        }
        assert!(!names.iter().any(|name| name.contains('*')));
        for key in ["ca.key", "gateway.key"] {
            assert_eq!(fs::metadata(dir.path().join(key)).unwrap().permissions().mode() & 0o777, 0o600);
        }
    }

    #[test]
    fn a_certificate_that_fits_is_kept_and_one_that_does_not_is_made_again_by_the_same_authority() {
        let dir = tempfile::tempdir().unwrap();
        let read = |path: &Path| fs::read_to_string(path).unwrap();
        let hosts = vec!["app.localhost".to_owned()];
        let made = ensure(dir.path(), &hosts, NOW).unwrap();
        let (ca, cert) = (read(&made.ca), read(&made.cert));

        ensure(dir.path(), &hosts, NOW.plus(DAY * 300)).unwrap();
        assert_eq!(read(&made.cert), cert);

        ensure(dir.path(), &hosts, NOW.plus(DAY * 390)).unwrap();
        let renewed = read(&made.cert);
        assert_ne!(renewed, cert);

        let more = vec!["app.localhost".to_owned(), "other.localhost".to_owned()];
        ensure(dir.path(), &more, NOW.plus(DAY * 390)).unwrap();
        assert_ne!(read(&made.cert), renewed);
        assert_eq!(read(&made.ca), ca);
    }

    #[test]
    fn the_authority_cannot_speak_for_a_name_outside_localhost() {
        let dir = tempfile::tempdir().unwrap();
        assert!(ensure(dir.path(), &["bank.example.com".to_owned()], NOW).is_err());
    }

    #[test]
    fn a_lost_authority_takes_its_leaf_with_it() {
        let dir = tempfile::tempdir().unwrap();
        let hosts = vec!["app.localhost".to_owned()];
        let made = ensure(dir.path(), &hosts, NOW).unwrap();
        fs::remove_file(&made.ca).unwrap();
        fs::remove_file(dir.path().join("ca.key")).unwrap();
        ensure(dir.path(), &hosts, NOW).unwrap();
    }
}
