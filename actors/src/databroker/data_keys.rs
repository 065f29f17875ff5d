//! The data keys of people: what their personal data is sealed with, in the vault, wrapped. Forgetting one makes the
//! data unreadable in every copy of the log.

mod known;

use std::cell::Cell;
use std::collections::HashSet;
use std::num::NonZero;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::available_parallelism;

use self::known::Key;
pub use self::known::KnownKeys;
use super::aside::aside;
use super::vault::{Losses, Revision, Shelf, Vault, VaultError};
use crate::keyring::{KeyError, Sealer, open_with, random, raw, seal_with};
use aws_lc_rs::aead::LessSafeKey;
use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures_util::future::join_all;
use portcullis_config::limits::FEW;
use portcullis_events::{GroupId, LogoutId, PersonId, ProviderSessionId, Sealed};
use uuid::Uuid;
use zeroize::Zeroizing;

/// The vault key under which the pseudonym key lies.
const PSEUDONYMS: PersonId = PersonId::new(Uuid::nil());

/// Why there is no data key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DataKeyError {
    /// The vault did not do it.
    #[error(transparent)]
    Vault(#[from] VaultError),
    /// The key's wrapping does not open: another `shared_secret`, or damage.
    #[error("a data key does not open: shared_secret is not the one it was wrapped with")]
    Wrapping,
    /// No key could be made.
    #[error(transparent)]
    Key(#[from] KeyError),
}

/// The data key of one person.
pub struct DataKey(LessSafeKey);

impl DataKey {
    /// Seals for one purpose and thing, such as `profile/<session>`.
    ///
    /// # Errors
    /// [`KeyError`] where the operating system gives no randomness.
    pub fn seal(&self, what: &str, plain: &[u8]) -> Result<Sealed, KeyError> {
        Ok(Sealed::new(URL_SAFE_NO_PAD.encode(seal_with(&self.0, what.as_bytes(), plain)?)))
    }

    /// Opens what was sealed for the same purpose and thing.
    #[must_use]
    pub fn open(&self, what: &str, sealed: &str) -> Option<Vec<u8>> {
        open_with(&self.0, what.as_bytes(), URL_SAFE_NO_PAD.decode(sealed).ok()?)
    }
}

/// A keyed hash that turns names into opaque ids, the same on every node.
pub struct Pseudonyms(hmac::Key);

impl Pseudonyms {
    /// A person at a provider.
    #[must_use]
    pub fn person(&self, issuer: &str, subject: &str) -> PersonId {
        PersonId::new(self.id("person", issuer, subject))
    }

    /// A group of a source.
    #[must_use]
    pub fn group(&self, source: &str, name: &str) -> GroupId {
        GroupId::new(self.id("group", source, name))
    }

    /// A logout of a provider.
    #[must_use]
    pub fn logout(&self, issuer: &str, token_id: &str) -> LogoutId {
        LogoutId::new(self.id("logout", issuer, token_id))
    }

    /// A session as its provider names it.
    #[must_use]
    pub fn provider_session(&self, issuer: &str, sid: &str) -> ProviderSessionId {
        ProviderSessionId::new(self.id("sid", issuer, sid))
    }

    fn id(&self, kind: &str, scope: &str, name: &str) -> Uuid {
        let mut context = hmac::Context::with_key(&self.0);
        for part in [kind, scope, name] {
            // the length first, so that no two triples read alike
            context.update(&u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
            context.update(part.as_bytes());
        }
        let tag = context.sign();
        let mut bytes = [0; 16];
        bytes.iter_mut().zip(tag.as_ref()).for_each(|(byte, tag)| *byte = *tag);
        uuid::Builder::from_custom_bytes(bytes).into_uuid()
    }
}

/// The data keys in the vault, and those that were read.
pub struct DataKeys {
    vault: Arc<dyn Vault>,
    wrapping: Arc<Sealer>,
    known: Arc<KnownKeys>,
    /// What the vault had lost when the keys that are known were last compared with it.
    losses: Cell<Option<Losses>>,
}

impl DataKeys {
    /// The keys of a vault, wrapped for [`crate::keyring::Purpose::DataKey`].
    #[must_use]
    pub fn new(vault: Arc<dyn Vault>, wrapping: Sealer) -> Self {
        Self { vault, wrapping: Arc::new(wrapping), known: Arc::default(), losses: Cell::new(None) }
    }

    /// Those that were read, for whoever must not wait.
    #[must_use]
    pub fn known(&self) -> Arc<KnownKeys> {
        Arc::clone(&self.known)
    }

    /// A person's key; `None` if it was forgotten or never was.
    ///
    /// # Errors
    /// [`DataKeyError`].
    pub async fn get(&self, person: PersonId) -> Result<Option<Rc<DataKey>>, DataKeyError> {
        if let Some(key) = self.known.get(person) {
            return Ok(Some(Rc::new(key)));
        }
        let Some(wrapped) = self.vault.get(Shelf::DataKey, &person.to_string()).await? else {
            return Ok(None);
        };
        self.remember(person, &wrapped.value).map(Some)
    }

    /// A person's key, made if there is none.
    ///
    /// # Errors
    /// [`DataKeyError`].
    pub async fn get_or_make(&self, person: PersonId) -> Result<Rc<DataKey>, DataKeyError> {
        loop {
            // what is sealed from now on must not be sealed with a key that was forgotten meanwhile
            match self.vault.get(Shelf::DataKey, &person.to_string()).await? {
                Some(wrapped) => return self.remember(person, &wrapped.value),
                None => self.forget(person),
            }
            let wrapped = self.wrapping.seal(&person.to_string(), &random::<32>()?)?.into_bytes();
            match self.vault.put(Shelf::DataKey, &person.to_string(), Revision::NONE, wrapped.clone()).await {
                Ok(_) => return self.remember(person, &wrapped),
                // somebody else made it: theirs is the one
                Err(VaultError::Conflict) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// The installation's pseudonyms, their key made if there is none.
    ///
    /// # Errors
    /// [`DataKeyError`].
    pub async fn pseudonyms(&self) -> Result<Pseudonyms, DataKeyError> {
        if self.get(PSEUDONYMS).await?.is_none() {
            self.get_or_make(PSEUDONYMS).await?;
        }
        let key = self.known.key(PSEUDONYMS).ok_or(DataKeyError::Wrapping)?;
        Ok(Pseudonyms(hmac::Key::new(hmac::HMAC_SHA256, key.as_slice())))
    }

    /// Reads every key at once: for the start of a node, where most of them will be needed.
    ///
    /// # Errors
    /// [`DataKeyError::Vault`]; [`DataKeyError::Wrapping`] where the pseudonyms' key does not open, which every node
    /// needs. A person's key that does not open is left for [`DataKeys::get`] to report.
    pub async fn load_all(&self) -> Result<(), DataKeyError> {
        self.losses.set(self.vault.losses(Shelf::DataKey).await?);
        let all = Arc::new(self.vault.scan(Shelf::DataKey).await?);
        let many = all.len();
        let parts = if many <= FEW { 1 } else { available_parallelism().map_or(1, NonZero::get) };
        let shares = (0..parts).map(|part| {
            let (wrapping, all) = (Arc::clone(&self.wrapping), Arc::clone(&all));
            aside(many, move || open_all(&wrapping, all.iter().skip(part).step_by(parts)))
        });
        let shares: Vec<_> = shares.collect();
        drop(all);
        let stopping = || VaultError::Unavailable("the process is stopping".into());
        let mut opened = Vec::new();
        for share in join_all(shares).await {
            opened.append(&mut share.ok_or_else(stopping)??);
        }
        let known = Arc::clone(&self.known);
        Ok(aside(many, move || known.fill(opened)).await.ok_or_else(stopping)?)
    }

    /// Forgets the keys that the vault has lost since this was last asked, if it can tell cheaply that there are any; whose
    /// they were.
    ///
    /// # Errors
    /// [`VaultError`]; the same is done the next time.
    pub async fn forget_lost(&self) -> Result<HashSet<PersonId>, VaultError> {
        let losses = self.vault.losses(Shelf::DataKey).await?;
        if losses.is_none() || losses == self.losses.get() {
            return Ok(HashSet::new());
        }
        let forgotten = self.forget_missing().await?;
        // what goes away meanwhile changes it again
        self.losses.set(losses);
        Ok(forgotten)
    }

    /// Forgets every key that the vault does not have any more; whose they were.
    ///
    /// # Errors
    /// [`VaultError`].
    pub async fn forget_missing(&self) -> Result<HashSet<PersonId>, VaultError> {
        // one that is made meanwhile is not known before
        let mut known: HashSet<PersonId> = self.known.people().into_iter().collect();
        // without it everybody would be somebody else
        known.remove(&PSEUDONYMS);
        for (key, _) in self.vault.keys(Shelf::DataKey).await? {
            if let Ok(person) = key.parse() {
                known.remove(&person);
            }
        }
        for person in &known {
            tracing::info!(%person, "a data key was forgotten");
            self.forget(*person);
        }
        Ok(known)
    }

    /// Forgets a person's key; [`Self::get`] asks the vault for it again.
    pub fn forget(&self, person: PersonId) {
        self.known.forget(person);
    }

    fn remember(&self, person: PersonId, wrapped: &[u8]) -> Result<Rc<DataKey>, DataKeyError> {
        let key = unwrap(&self.wrapping, person, wrapped).ok_or(DataKeyError::Wrapping)?;
        let data_key = DataKey(raw(&key)?);
        self.known.remember(person, key);
        Ok(Rc::new(data_key))
    }
}

fn open_all<'a>(
    wrapping: &Sealer,
    some: impl Iterator<Item = (&'a str, Revision, &'a [u8])>,
) -> Result<Vec<(PersonId, Key)>, DataKeyError> {
    let mut opened = Vec::new();
    for (key, _, wrapped) in some {
        let Ok(person) = key.parse() else { continue };
        match unwrap(wrapping, person, wrapped) {
            Some(key) => opened.push((person, key)),
            None if person == PSEUDONYMS => return Err(DataKeyError::Wrapping),
            None => {}
        }
    }
    Ok(opened)
}

fn unwrap(wrapping: &Sealer, person: PersonId, wrapped: &[u8]) -> Option<Key> {
    let text = std::str::from_utf8(wrapped).ok()?;
    wrapping.open(&person.to_string(), text)?.try_into().ok().map(Zeroizing::new)
}
