//! The certificates of clients: what they say, and whether they hold.

use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use ::aws_lc_rs::digest;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use portcullis_actors::clock;
use portcullis_actors::request::certificate::{CertificateDetails, Judge};
use portcullis_config::limits::{CERTIFICATE_NAMES, RECONSIDER};
use portcullis_config::{AlternativeName, ClientAuthority, Enforcement};
use portcullis_events::Time;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{WebPkiSupportedAlgorithms, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, RootCertStore, SignatureScheme};
use webpki::{
    CertRevocationList, EndEntityCert, ExpirationPolicy, KeyUsage, OwnedCertRevocationList, RevocationCheckDepth,
    RevocationOptionsBuilder, UnknownStatusPolicy,
};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;

use super::{State, Tls, Unusable};

/// Who vouches for clients, and how a certificate is judged.
pub struct Clients {
    authority: ClientAuthority,
    roots: RootCertStore,
    subjects: Vec<DistinguishedName>,
    revoked: Vec<CertRevocationList<'static>>,
    algorithms: WebPkiSupportedAlgorithms,
}

/// They judge alike.
impl PartialEq for Clients {
    fn eq(&self, other: &Self) -> bool {
        self.authority == other.authority
    }
}

impl fmt::Debug for Clients {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Clients").field("roots", &self.roots.len()).finish_non_exhaustive()
    }
}

/// Why a certificate does not hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// No chain from it to an authority; not in its time; revoked; not for clients.
    #[error(transparent)]
    Chain(#[from] webpki::Error),
    /// None of its names is one that is wanted.
    #[error("none of its names matches")]
    Names,
}

impl Clients {
    /// Reads what a configuration gives.
    ///
    /// # Errors
    /// An authority or a revocation list that is none.
    pub fn of(authority: &ClientAuthority) -> Result<Self, Unusable> {
        let wrong_ca = |error: &dyn fmt::Display| Unusable::new("downstream_mtls.ca", error);
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(authority.ca.as_bytes()) {
            let certificate = certificate.map_err(|error| wrong_ca(&error))?;
            roots.add(certificate).map_err(|error| wrong_ca(&error))?;
        }
        if roots.is_empty() {
            return Err(wrong_ca(&"no certificate in PEM"));
        }
        let wrong_crl = |error: &dyn fmt::Display| Unusable::new("downstream_mtls.crl", error);
        let mut revoked = Vec::new();
        for list in authority.crl.iter().flat_map(|pem| CertificateRevocationListDer::pem_slice_iter(pem.as_bytes())) {
            let list = list.map_err(|error| wrong_crl(&error))?;
            let list = OwnedCertRevocationList::from_der(&list).map_err(|error| wrong_crl(&error))?;
            revoked.push(CertRevocationList::from(list));
        }
        if authority.crl.is_some() && revoked.is_empty() {
            return Err(wrong_crl(&"no revocation list in PEM"));
        }
        Ok(Self {
            authority: authority.clone(),
            subjects: roots.subjects(),
            roots,
            revoked,
            algorithms: aws_lc_rs::default_provider().signature_verification_algorithms,
        })
    }

    /// What it was made from.
    pub const fn authority(&self) -> &ClientAuthority {
        &self.authority
    }

    /// Whether a certificate holds at `now`; `above` are those that came with it.
    ///
    /// A revocation list that is out of date says nothing, and then nobody of its issuer holds. An issuer of which there is
    /// no list has revoked nobody.
    ///
    /// # Errors
    /// [`Invalid`].
    pub fn judge(&self, leaf: &CertificateDer<'_>, above: &[CertificateDer<'_>], now: UnixTime) -> Result<(), Invalid> {
        let certificate = EndEntityCert::try_from(leaf)?;
        let lists: Vec<_> = self.revoked.iter().collect();
        let revocation = RevocationOptionsBuilder::new(&lists).ok().map(|options| {
            options
                .with_depth(RevocationCheckDepth::Chain)
                .with_status_policy(UnknownStatusPolicy::Allow)
                .with_expiration_policy(ExpirationPolicy::Enforce)
                .build()
        });
        let is_short_enough = |path: &webpki::VerifiedPath<'_>| {
            // the trusted one included
            let above = path.intermediate_certificates().count() + 1;
            let fits = self.authority.max_depth.is_none_or(|most| above <= most);
            if fits { Ok(()) } else { Err(webpki::Error::MaximumPathDepthExceeded) }
        };
        certificate.verify_for_usage(
            self.algorithms.all,
            &self.roots.roots,
            above,
            now,
            KeyUsage::client_auth(),
            revocation,
            Some(&is_short_enough),
        )?;
        if self.authority.names.is_empty() || self.names_match(leaf) { Ok(()) } else { Err(Invalid::Names) }
    }

    fn names_match(&self, leaf: &CertificateDer<'_>) -> bool {
        let Ok((_, certificate)) = X509Certificate::from_der(leaf) else { return false };
        let matches = |kind: AlternativeName, name: &str| {
            self.authority.names.iter().any(|wanted| wanted.kind == kind && wanted.pattern.is_match(name))
        };
        alternative_names(&certificate).any(|name| match name {
            GeneralName::DNSName(name) => matches(AlternativeName::Dns, name),
            GeneralName::RFC822Name(name) => matches(AlternativeName::Email, name),
            GeneralName::URI(name) => matches(AlternativeName::Uri, name),
            GeneralName::IPAddress(bytes) => {
                address(bytes).is_some_and(|address| matches(AlternativeName::IpAddress, &address.to_string()))
            }
            GeneralName::OtherName(kind, value) if kind.to_id_string() == USER_PRINCIPAL_NAME => {
                principal(value).is_some_and(|name| matches(AlternativeName::UserPrincipalName, name))
            }
            _ => false,
        })
    }
}

/// The type of a name by which a directory knows a person (`szOID_NT_PRINCIPAL_NAME`).
const USER_PRINCIPAL_NAME: &str = "1.3.6.1.4.1.311.20.2.3";

fn alternative_names<'c>(certificate: &'c X509Certificate<'c>) -> impl Iterator<Item = &'c GeneralName<'c>> {
    let extension = certificate.subject_alternative_name().ok().flatten();
    extension.into_iter().flat_map(|extension| &extension.value.general_names).take(CERTIFICATE_NAMES)
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
        16 => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
        _ => None,
    }
}

/// The text in `[0] EXPLICIT UTF8String`; short lengths only, as names are.
fn principal(value: &[u8]) -> Option<&str> {
    let [0xa0, outer, 0x0c, inner, text @ ..] = value else { return None };
    let fits = usize::from(*inner) == text.len() && *inner < 0x80 && *outer == *inner + 2;
    fits.then(|| std::str::from_utf8(text).ok())?
}

/// What a certificate says. Of one that cannot be read, no more than its fingerprint.
pub fn details(leaf: &CertificateDer<'_>) -> CertificateDetails {
    let hash = |bytes: &[u8]| digest::digest(&digest::SHA256, bytes);
    let fingerprint = hash(leaf).as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    let (mut dns, mut email, mut uri) = (Vec::new(), Vec::new(), Vec::new());
    let Ok((_, certificate)) = X509Certificate::from_der(leaf) else {
        return CertificateDetails { fingerprint, spki_hash: String::new(), dns, email, uri };
    };
    for name in alternative_names(&certificate) {
        match name {
            GeneralName::DNSName(name) => dns.push((*name).to_owned()),
            GeneralName::RFC822Name(name) => email.push((*name).to_owned()),
            GeneralName::URI(name) => uri.push((*name).to_owned()),
            _ => {}
        }
    }
    let spki_hash = STANDARD.encode(hash(certificate.public_key().raw));
    CertificateDetails { fingerprint, spki_hash, dns, email, uri }
}

/// A certificate that a client has shown, judged by what is in force, again and again.
pub struct Live {
    tls: Arc<Tls>,
    chain: Vec<CertificateDer<'static>>,
    said: Mutex<Option<Said>>,
}

/// What was found, by what, and when.
struct Said {
    by: Arc<State>,
    at: Time,
    holds: bool,
}

impl Live {
    /// A chain, leaf first.
    pub const fn new(tls: Arc<Tls>, chain: Vec<CertificateDer<'static>>) -> Self {
        Self { tls, chain, said: Mutex::new(None) }
    }
}

impl Judge for Live {
    fn holds(&self) -> bool {
        let (state, now) = (self.tls.now(), clock::now());
        // one connection's requests, each for a moment
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        // its time and a list's may have ended meanwhile
        let is_fresh =
            |said: &&Said| Arc::ptr_eq(&said.by, &state) && said.at <= now && now.since(said.at) < RECONSIDER;
        if let Some(said) = said.as_ref().filter(is_fresh) {
            return said.holds;
        }
        let judged = match (&state.clients, self.chain.split_first()) {
            (Some(clients), Some((leaf, above))) => Some(clients.judge(leaf, above, unix_time(now))),
            (_, _) => None,
        };
        if let Some(Err(error)) = &judged {
            tracing::debug!(%error, "a client's certificate does not hold");
        }
        let holds = matches!(judged, Some(Ok(())));
        *said = Some(Said { by: state, at: now, holds });
        holds
    }
}

fn unix_time(now: Time) -> UnixTime {
    UnixTime::since_unix_epoch(std::time::Duration::from_secs(u64::try_from(now.secs()).unwrap_or(0)))
}

/// Asks clients for a certificate in the handshake. Whether it holds is told later, by policy, unless connections are to
/// be refused without one; that they have its key is proved here in any case.
#[derive(Debug)]
pub struct Verifier(pub Arc<Clients>);

impl ClientCertVerifier for Verifier {
    fn client_auth_mandatory(&self) -> bool {
        self.0.authority.enforcement == Enforcement::Reject
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.0.subjects
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        above: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        if !self.client_auth_mandatory() {
            return Ok(ClientCertVerified::assertion());
        }
        self.0.judge(leaf, above, now).map(|()| ClientCertVerified::assertion()).map_err(|invalid| {
            let error = match invalid {
                Invalid::Chain(webpki::Error::CertRevoked) => CertificateError::Revoked,
                Invalid::Chain(webpki::Error::CertExpired { .. }) => CertificateError::Expired,
                Invalid::Chain(webpki::Error::UnknownIssuer) => CertificateError::UnknownIssuer,
                Invalid::Chain(_) | Invalid::Names => CertificateError::ApplicationVerificationFailure,
            };
            error.into()
        })
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.0.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.0.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.algorithms.supported_schemes()
    }
}
