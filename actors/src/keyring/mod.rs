//! The keys of the house: one secret, a key for each purpose derived from it, and an id on whatever they made.
//!
//! Derivation is HKDF-SHA256 (RFC 5869) with the purpose as `info`, so that no purpose's key says anything about
//! another's. A ring may hold several secrets: the first makes, all are tried by id, so that a secret can be replaced
//! without signing anybody out.

pub mod assertion;
mod authenticator;
pub mod handle;
mod seal;
pub mod signed_url;

use aws_lc_rs::{hkdf, rand};
use portcullis_config::Secret;

pub use authenticator::{Authenticator, Running};
pub use seal::Sealer;
pub(crate) use seal::{open_with, raw, seal_with};

/// What a key is for. The name is part of the derivation: it never changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Session handles in cookies and headers.
    Handle,
    /// Signatures of URLs between proxy and authenticate.
    SignedUrl,
    /// What authenticate hands over to databroker through the browser.
    HandOver,
    /// The state of a sign-in at authenticate, in the browser's keeping.
    SignIn,
    /// Wrapping of the data keys in the vault.
    DataKey,
    /// What databroker gives to authenticate for the provider's sign-out.
    IdTokenHint,
    /// Proof that a form came from our own page.
    Form,
    /// Signatures of assertions, where no key was given for them.
    Assertion,
    /// Proof that a snapshot was written by a node of this installation.
    Snapshot,
    /// Questions and answers between components in processes of their own.
    Role,
}

impl Purpose {
    const fn info(self) -> &'static [u8] {
        match self {
            Self::Handle => b"portcullis handle v1",
            Self::SignedUrl => b"portcullis signed url v1",
            Self::HandOver => b"portcullis hand-over v1",
            Self::SignIn => b"portcullis sign-in v1",
            Self::DataKey => b"portcullis data key v1",
            Self::IdTokenHint => b"portcullis id token hint v1",
            Self::Form => b"portcullis form v1",
            Self::Assertion => b"portcullis assertion v1",
            Self::Snapshot => b"portcullis snapshot v1",
            Self::Role => b"portcullis role v1",
        }
    }
}

/// A secret that keys cannot be made from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// There is none.
    #[error("a ring needs at least one secret")]
    Empty,
    /// The cryptographic library refused.
    #[error("the key cannot be derived")]
    Derive,
}

/// The secrets of an installation, newest first.
#[derive(Clone)]
pub struct Keyring {
    secrets: Vec<Secret>,
}

impl Keyring {
    /// A ring of secrets, newest first.
    ///
    /// # Errors
    /// [`KeyError::Empty`].
    pub fn new(secrets: Vec<Secret>) -> Result<Self, KeyError> {
        if secrets.is_empty() { Err(KeyError::Empty) } else { Ok(Self { secrets }) }
    }

    /// What seals and opens for one purpose.
    ///
    /// # Errors
    /// [`KeyError::Derive`].
    pub fn sealer(&self, purpose: Purpose) -> Result<Sealer, KeyError> {
        let keys = self.secrets.iter().map(|secret| derive(secret, purpose.info())).collect::<Result<Vec<_>, _>>()?;
        Sealer::new(purpose.info(), &keys)
    }

    /// What signs and verifies for one purpose.
    ///
    /// # Errors
    /// [`KeyError::Derive`].
    pub fn signer(&self, purpose: Purpose) -> Result<signed_url::UrlSigner, KeyError> {
        let keys = self.secrets.iter().map(|secret| derive(secret, purpose.info())).collect::<Result<Vec<_>, _>>()?;
        Ok(signed_url::UrlSigner::new(&keys))
    }

    /// What proves who wrote a stream of bytes, for one purpose.
    ///
    /// # Errors
    /// [`KeyError::Derive`].
    pub fn authenticator(&self, purpose: Purpose) -> Result<Authenticator, KeyError> {
        let keys = self.secrets.iter().map(|secret| derive(secret, purpose.info())).collect::<Result<Vec<_>, _>>()?;
        Ok(Authenticator::new(&keys))
    }
}

/// Derives 32 bytes from a secret (RFC 5869, no salt).
fn derive(secret: &Secret, info: &[u8]) -> Result<[u8; 32], KeyError> {
    let salt = hkdf::Salt::new(hkdf::HKDF_SHA256, b"");
    let pseudo_random = salt.extract(secret.expose());
    let mut key = [0; 32];
    pseudo_random
        .expand(&[info], hkdf::HKDF_SHA256)
        .and_then(|okm| okm.fill(&mut key))
        .map_err(|_| KeyError::Derive)?;
    Ok(key)
}

/// Fills an array from the operating system's generator.
///
/// # Errors
/// [`KeyError::Derive`] where the generator fails; nothing may be made from the bytes then.
pub fn random<const N: usize>() -> Result<[u8; N], KeyError> {
    let mut bytes = [0; N];
    rand::fill(&mut bytes).map_err(|_| KeyError::Derive)?;
    Ok(bytes)
}
