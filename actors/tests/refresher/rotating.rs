//! A provider in memory whose refresh tokens rotate, and a vault beside it: both can die under whoever uses them.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use portcullis_actors::databroker::vault::{Revision, Sealed, Shelf, Values, Vault, VaultError};
use portcullis_actors::idp::{Because, Evidence, Observed, RefreshError, Renewal, Renewals, SignInError};
use portcullis_config::Secret;
use portcullis_events::Time;

/// How long access tokens live.
pub const LIFE: Duration = Duration::from_secs(300);

/// What becomes of one refresh.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Fate {
    /// It is answered, and the answer is kept.
    Answered,
    /// The provider is not reached.
    NotSent,
    /// The provider has trouble.
    Unavailable,
    /// The provider answers, and the answer is lost on the way.
    Lost,
    /// Whoever asked dies before the provider hears of it.
    DiesBeforeTheCall,
    /// Whoever asked dies when the provider has answered.
    DiesBeforeTheAnswer,
    /// Whoever asked dies with the answer in hand.
    DiesBeforeTheVault,
    /// Whoever asked dies when the answer lies in the vault.
    DiesBeforeTheLog,
}

/// What is dealt out to the next refreshes.
pub type Deal = Box<dyn FnMut() -> Fate>;

/// The provider. Tokens read `<person>.<number>`.
pub struct Rotating {
    deal: RefCell<Deal>,
    good: RefCell<HashSet<String>>,
    made: Cell<usize>,
    /// Every token that ever came to it.
    presented: RefCell<HashMap<String, usize>>,
    /// Of the people in here, tokens were lost.
    pub bereft: RefCell<BTreeSet<String>>,
    pub fates: RefCell<HashMap<Fate, usize>>,
}

/// The provider as one node sees it: whoever dies over it is of that node.
pub struct Seen {
    pub provider: Rc<Rotating>,
    pub vault: Arc<Mortal>,
}

impl Rotating {
    pub fn new(deal: Deal) -> Rc<Self> {
        Rc::new(Self {
            deal: RefCell::new(deal),
            good: RefCell::default(),
            made: Cell::new(0),
            presented: RefCell::default(),
            bereft: RefCell::default(),
            fates: RefCell::default(),
        })
    }

    /// One fate after the other, and good ones when they are spent.
    pub fn with(fates: &[Fate]) -> Rc<Self> {
        let mut fates: VecDeque<_> = fates.iter().copied().collect();
        Self::new(Box::new(move || fates.pop_front().unwrap_or(Fate::Answered)))
    }

    /// The first refresh token of a person.
    pub fn give(&self, person: &str) -> String {
        let token = format!("{person}.{}", self.made.replace(self.made.get() + 1));
        self.good.borrow_mut().insert(token.clone());
        token
    }

    pub fn calls(&self) -> usize {
        self.presented.borrow().values().sum()
    }

    /// How often a token came that had been taken before.
    pub fn reuses(&self) -> usize {
        self.presented.borrow().values().map(|times| times - 1).sum()
    }

    /// Takes a token for the next.
    fn take(&self, token: &str, now: Time) -> Result<Renewal, RefreshError> {
        *self.presented.borrow_mut().entry(token.to_owned()).or_default() += 1;
        if !self.good.borrow_mut().remove(token) {
            return Err(RefreshError::InvalidGrant);
        }
        let next = self.give(person(token));
        Ok(Renewal {
            access: Secret::new("canary-access"),
            refresh: Some(Secret::new(next.as_str())),
            id_token: None,
            access_expires_at: Some(now.plus(LIFE)),
        })
    }
}

fn person(token: &str) -> &str {
    token.split('.').next().unwrap_or_default()
}

fn unavailable() -> SignInError {
    SignInError::Unavailable("so it was dealt".into())
}

#[async_trait(?Send)]
impl Renewals for Seen {
    async fn refresh(&self, token: &Secret, now: Time) -> Result<Renewal, RefreshError> {
        let provider = &self.provider;
        let token = token.expose_str().unwrap().to_owned();
        let fate = (provider.deal.borrow_mut())();
        *provider.fates.borrow_mut().entry(fate).or_default() += 1;
        let is_bereft = || provider.bereft.borrow_mut().insert(person(&token).to_owned());
        match fate {
            Fate::Answered => provider.take(&token, now),
            Fate::NotSent => Err(RefreshError::NotSent(unavailable())),
            Fate::Unavailable => Err(RefreshError::Unavailable(unavailable(), None)),
            Fate::Lost => {
                is_bereft();
                drop(provider.take(&token, now));
                Err(RefreshError::Lost(unavailable()))
            }
            Fate::DiesBeforeTheCall => {
                is_bereft();
                self.vault.die().await
            }
            Fate::DiesBeforeTheAnswer => {
                is_bereft();
                drop(provider.take(&token, now));
                self.vault.die().await
            }
            Fate::DiesBeforeTheVault => {
                is_bereft();
                let answer = provider.take(&token, now);
                // another task of this thread could come between, but not before its own put
                self.vault.set_next(Some(fate));
                answer
            }
            Fate::DiesBeforeTheLog => {
                let answer = provider.take(&token, now);
                self.vault.set_next(Some(fate));
                answer
            }
        }
    }

    async fn claims(&self, _: &Evidence<'_>, _: Time) -> Result<Observed, SignInError> {
        Err(Because::Malformed.into())
    }
}

/// A vault that is there, while whoever puts into it may die before or after it did.
pub struct Mortal {
    vault: Arc<dyn Vault>,
    next: Mutex<Option<Fate>>,
    /// Whether nobody is reached.
    pub is_away: AtomicBool,
    deaths: AtomicUsize,
    died: tokio::sync::Notify,
}

impl Mortal {
    pub fn new(vault: Arc<dyn Vault>) -> Arc<Self> {
        Arc::new(Self {
            vault,
            next: Mutex::new(None),
            is_away: AtomicBool::new(false),
            deaths: AtomicUsize::new(0),
            died: tokio::sync::Notify::new(),
        })
    }

    fn set_next(&self, fate: Option<Fate>) -> Option<Fate> {
        std::mem::replace(&mut self.next.lock().unwrap(), fate)
    }

    /// Never returns, as for somebody who died.
    async fn die<T>(&self) -> T {
        self.deaths.fetch_add(1, Ordering::Relaxed);
        self.died.notify_one();
        std::future::pending().await
    }

    /// Waits for somebody to die.
    pub async fn death(&self) {
        self.died.notified().await;
    }

    pub fn deaths(&self) -> usize {
        self.deaths.load(Ordering::Relaxed)
    }
}

#[async_trait]
impl Vault for Mortal {
    async fn get(&self, shelf: Shelf, key: &str) -> Result<Option<Sealed>, VaultError> {
        self.vault.get(shelf, key).await
    }

    async fn put(&self, shelf: Shelf, key: &str, expected: Revision, value: Vec<u8>) -> Result<Revision, VaultError> {
        if self.is_away.load(Ordering::Relaxed) {
            return Err(VaultError::Unavailable("so it was dealt".into()));
        }
        match self.set_next(None) {
            Some(Fate::DiesBeforeTheVault) => self.die().await,
            Some(_) => {
                self.vault.put(shelf, key, expected, value).await?;
                self.die().await
            }
            None => self.vault.put(shelf, key, expected, value).await,
        }
    }

    async fn delete(&self, shelf: Shelf, key: &str) -> Result<(), VaultError> {
        self.vault.delete(shelf, key).await
    }

    async fn scan(&self, shelf: Shelf) -> Result<Values, VaultError> {
        self.vault.scan(shelf).await
    }
}
