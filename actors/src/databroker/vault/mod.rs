//! The vault as a port: small sealed values beside the log, replaced and forgotten for good.
//!
//! Promises (the contract suite holds every backend to them):
//! - A put is stored only if the key's revision is the expected one, as one step.
//! - Once acknowledged, a value survives `kill -9`.
//! - A deleted value is gone from the store's files; its key can be put again with [`Revision::NONE`].

#[cfg(test)]
mod contract;
pub mod file;
pub mod jetstream;
mod values;

use async_trait::async_trait;

pub use self::values::Values;

/// Which shelf of the vault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Shelf {
    /// Sealed tokens, one value a session.
    Secret,
    /// Wrapped data keys, one value a person.
    DataKey,
}

impl Shelf {
    /// The bucket's name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Secret => "SECRET",
            Self::DataKey => "DEK",
        }
    }
}

/// The revision of a key: opaque, larger after each put.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(pub u64);

impl Revision {
    /// The key has no value.
    pub const NONE: Self = Self(0);
}

/// A value and its revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sealed {
    /// The revision to expect at the next put.
    pub revision: Revision,
    /// The sealed bytes.
    pub value: Vec<u8>,
}

/// How much went away from a shelf so far, in the vault's own terms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Losses(pub u64, pub u64);

/// Why the vault did not do it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VaultError {
    /// The key has another revision than expected.
    #[error("the key has another revision")]
    Conflict,
    /// The vault did not answer; a put may have been stored.
    #[error("the vault did not answer: {0}")]
    Unavailable(String),
    /// The vault refused the value itself.
    #[error("the vault refused the value: {0}")]
    Refused(String),
}

/// Sealed values by key. Keys are hyphenated UUIDs.
#[async_trait]
pub trait Vault: Send + Sync + 'static {
    /// The value of a key, from the authority.
    ///
    /// # Errors
    /// [`VaultError::Unavailable`].
    async fn get(&self, shelf: Shelf, key: &str) -> Result<Option<Sealed>, VaultError>;

    /// Stores a value if the key's revision is `expected` ([`Revision::NONE`]: it has no value).
    ///
    /// # Errors
    /// [`VaultError`]. After [`VaultError::Unavailable`] the outcome is unknown: get, and compare.
    async fn put(&self, shelf: Shelf, key: &str, expected: Revision, value: Vec<u8>) -> Result<Revision, VaultError>;

    /// Forgets a value for good. A key without a value is no error.
    ///
    /// # Errors
    /// [`VaultError`].
    async fn delete(&self, shelf: Shelf, key: &str) -> Result<(), VaultError>;

    /// Every key and value of a shelf, in no order; for the start of a node.
    ///
    /// # Errors
    /// [`VaultError::Unavailable`].
    async fn scan(&self, shelf: Shelf) -> Result<Values, VaultError>;

    /// Every key of a shelf that has a value, in no order.
    ///
    /// # Errors
    /// [`VaultError::Unavailable`].
    async fn keys(&self, shelf: Shelf) -> Result<Vec<(String, Revision)>, VaultError> {
        Ok(self.scan(shelf).await?.iter().map(|(key, revision, _)| (key.to_owned(), revision)).collect())
    }

    /// Something that changes whenever a value of a shelf goes away, whoever deletes it, and that is cheap to ask for;
    /// `None` where there is no such thing. A put of a key that has no value leaves it as it is.
    ///
    /// # Errors
    /// [`VaultError::Unavailable`].
    async fn losses(&self, _: Shelf) -> Result<Option<Losses>, VaultError> {
        Ok(None)
    }

    /// Whether the vault is there and as it must be.
    ///
    /// # Errors
    /// [`VaultError::Unavailable`] with what is wrong with it.
    async fn check(&self) -> Result<(), VaultError> {
        self.get(Shelf::DataKey, "00000000-0000-0000-0000-000000000000").await.map(drop)
    }
}
