//! The certificate that a client showed, as far as anybody decides about it: computed once for its connection.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What a client's certificate says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertificateDetails {
    /// SHA-256 of the certificate, in lower-case hex.
    pub fingerprint: String,
    /// SHA-256 of its public key (SubjectPublicKeyInfo), in base64.
    pub spki_hash: String,
    /// Its DNS names.
    pub dns: Vec<String>,
    /// Its e-mail addresses.
    pub email: Vec<String>,
    /// Its URIs.
    pub uri: Vec<String>,
}

/// Says whether a certificate holds: issued by somebody trusted, in its time, not revoked. The answer may change.
pub trait Judge: Send + Sync {
    /// At this moment, by what is in force.
    fn holds(&self) -> bool;
}

impl Judge for bool {
    fn holds(&self) -> bool {
        *self
    }
}

/// A certificate whose key the client has, and whoever says whether it holds.
pub struct ClientCertificate {
    details: CertificateDetails,
    judge: Box<dyn Judge>,
}

impl ClientCertificate {
    /// A certificate that somebody judges.
    pub fn new(details: CertificateDetails, judge: impl Judge + 'static) -> Self {
        Self { details, judge: Box::new(judge) }
    }

    /// What it says. Without [`Self::holds`] anybody may have said it.
    #[must_use]
    pub const fn details(&self) -> &CertificateDetails {
        &self.details
    }

    /// Whether it holds now.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.judge.holds()
    }
}

impl fmt::Debug for ClientCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientCertificate").field("details", &self.details).finish_non_exhaustive()
    }
}

/// A certificate as it is told to another process: what it says, and whether it held then.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Shown {
    pub(super) details: CertificateDetails,
    pub(super) holds: bool,
}

impl Shown {
    pub(super) fn of(certificate: &ClientCertificate) -> Self {
        Self { details: certificate.details.clone(), holds: certificate.holds() }
    }

    pub(super) fn again(&self) -> ClientCertificate {
        ClientCertificate::new(self.details.clone(), self.holds)
    }
}
