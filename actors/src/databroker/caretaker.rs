//! Owns   · which tokens in the vault were seen there without a session: what is owed stands in the log and the vault.
//! Answers · [`Sweep`]: everything in the vault that belongs to no open session was looked at.
//! Asks   · the vault, the replica, the log (whether a session ever began) and the provider (RFC 7009).
//! If it dies · tokens of ended sessions lie in the vault until another sweep finds them; nobody is admitted by them.

mod orphans;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use actix::{Actor, Addr, AsyncContext, Context, Handler, Message, ResponseFuture, WrapFuture};
use portcullis_config::limits::{
    REFRESH_TAKEOVER, REVOCATIONS_WAITING, VAULT_LOOK, VAULT_SWEEP, VAULT_SWEEP_FIRST, VAULT_SWEPT,
};
use portcullis_events::{Aggregate, PersonId, SessionId, Time};
use tokio::sync::Semaphore;
use tokio::sync::broadcast::error::RecvError;
use uuid::Uuid;

pub use self::orphans::{Standings, WhatBecame};
use super::data_keys::DataKeys;
use super::log::Log;
use super::neighbours::Neighbours;
use super::replica::Replica;
use super::revocations::Revocations;
use super::tokens::Kept;
use super::vault::{Revision, Shelf, Vault, VaultError};
use super::view::{Revoked, Views};
use crate::clock;

/// Look through the whole vault now; how many values were forgotten.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "usize")]
pub struct Sweep {
    /// The time: what was found without a session long enough before it is an orphan.
    pub now: Time,
}

/// What a caretaker works with.
pub struct Tools {
    /// The log.
    pub log: Arc<dyn Log>,
    /// The vault.
    pub vault: Arc<dyn Vault>,
    /// The data keys in it.
    pub data_keys: Rc<DataKeys>,
    /// The views of this node.
    pub views: Arc<Views>,
    /// The replica.
    pub replica: Addr<Replica>,
    /// The nodes that share the work.
    pub nodes: Arc<Neighbours>,
    /// Where the tokens of ended sessions go.
    pub revocations: Revocations,
}

/// Keeps the vault in order: what it stands at, and nothing in it that nobody needs.
pub struct Caretaker {
    inner: Rc<Inner>,
}

struct Inner {
    tools: Tools,
    /// Tokens without a session, each as it was seen first and when.
    orphans: RefCell<BTreeMap<SessionId, (Revision, Time)>>,
    waiting: Semaphore,
    is_sweeping: Cell<bool>,
}

impl Caretaker {
    /// A caretaker. Make it on the thread that it runs on.
    #[must_use]
    pub fn new(tools: Tools) -> Self {
        let (orphans, waiting) = (RefCell::default(), Semaphore::new(REVOCATIONS_WAITING));
        Self { inner: Rc::new(Inner { tools, orphans, waiting, is_sweeping: Cell::new(false) }) }
    }
}

impl Actor for Caretaker {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        let mut revoked = self.inner.tools.views.revoked();
        let inner = Rc::clone(&self.inner);
        let listening = async move {
            loop {
                match revoked.recv().await {
                    Ok(session) => actix_rt::spawn(Rc::clone(&inner).give_back(session)),
                    // the sweep finds the others
                    Err(RecvError::Lagged(_)) => continue,
                    Err(RecvError::Closed) => return,
                };
            }
        };
        ctx.spawn(listening.into_actor(self));
        ctx.run_interval(VAULT_LOOK, |this, ctx| {
            let inner = Rc::clone(&this.inner);
            ctx.spawn(async move { inner.look().await }.into_actor(this));
        });
        ctx.run_later(VAULT_SWEEP_FIRST, Self::sweep_for_ever);
    }
}

impl Caretaker {
    fn sweep_for_ever(&mut self, ctx: &mut Context<Self>) {
        let inner = Rc::clone(&self.inner);
        let swept = async move {
            let count = inner.sweep(clock::now()).await;
            tracing::debug!(count, "the vault was swept");
        };
        ctx.spawn(swept.into_actor(self));
        ctx.run_later(VAULT_SWEEP, Self::sweep_for_ever);
    }
}

impl Handler<Sweep> for Caretaker {
    type Result = ResponseFuture<usize>;

    fn handle(&mut self, Sweep { now }: Sweep, _: &mut Self::Context) -> Self::Result {
        let inner = Rc::clone(&self.inner);
        Box::pin(async move { inner.sweep(now).await })
    }
}

impl Inner {
    /// Whether the vault is there and as it must be: said in the log when it changes, and wherever the views are read.
    async fn look(&self) {
        let trouble = self.tools.vault.check().await.err().map(|error| error.to_string());
        let views = &self.tools.views;
        if views.vault_trouble().as_deref() == trouble.as_ref() {
            return;
        }
        match &trouble {
            Some(why) => tracing::error!(%why, "nobody can sign in: the vault is not as it must be"),
            None => tracing::info!("the vault is as it must be"),
        }
        views.set_vault_trouble(trouble);
    }

    /// What a session that was revoked leaves in the vault goes back to its provider, through one of the nodes.
    async fn give_back(self: Rc<Self>, Revoked { session, person }: Revoked) {
        let Ok(_slot) = self.waiting.try_acquire() else { return };
        if !self.tools.nodes.now().is_first(session) {
            tokio::time::sleep(REFRESH_TAKEOVER).await;
        }
        if let Err(error) = self.give_back_tokens(session, person).await {
            tracing::warn!(%session, %error, "the tokens of a revoked session stay in the vault for now");
        }
    }

    async fn give_back_tokens(&self, session: SessionId, person: PersonId) -> Result<(), VaultError> {
        let Tools { vault, data_keys, revocations, .. } = &self.tools;
        let Some(sealed) = vault.get(Shelf::Secret, &session.to_string()).await? else { return Ok(()) };
        // a key that cannot be had keeps the tokens from going back, not from going
        let key = data_keys.get(person).await.ok().flatten();
        vault.delete(Shelf::Secret, &session.to_string()).await?;
        if let Some(kept) = key.and_then(|key| Kept::open(&key, session, &sealed.value)) {
            revocations.begin(session, kept.tokens);
        }
        Ok(())
    }

    /// Forgets what no session needs any more, and the keys of people that the vault has forgotten; how much it was.
    async fn sweep(&self, now: Time) -> usize {
        if self.is_sweeping.replace(true) {
            return 0;
        }
        let swept = async {
            self.forget_keys().await?;
            // one of the nodes is enough
            if self.tools.nodes.now().is_first(SessionId::new(Uuid::nil())) {
                self.sweep_secrets(now).await
            } else {
                Ok(0)
            }
        };
        let swept: Result<usize, VaultError> = swept.await;
        self.is_sweeping.set(false);
        swept.unwrap_or_else(|error| {
            tracing::warn!(%error, "the vault was not swept");
            0
        })
    }

    async fn forget_keys(&self) -> Result<(), VaultError> {
        let forgotten = self.tools.data_keys.forget_missing().await?;
        self.tools.views.shut(&forgotten);
        Ok(())
    }

    async fn sweep_secrets(&self, now: Time) -> Result<usize, VaultError> {
        // a node that lags would take new sessions for none
        if !self.tools.views.progress.standing(clock::now()).is_ready() {
            return Ok(0);
        }
        let all = self.tools.vault.keys(Shelf::Secret).await?;
        let all = all.into_iter().filter_map(|(key, revision)| Some((key.parse().ok()?, revision)));
        let over = orphans::over(&self.tools.replica, all.collect(), &self.orphans, now).await;
        let mut swept = 0;
        for (session, began) in over.into_iter().take(VAULT_SWEPT) {
            // what begins just now may be known to the authority alone
            if !began && !matches!(self.tools.log.last(Aggregate::session(session)).await, Ok(None)) {
                continue;
            }
            self.tools.vault.delete(Shelf::Secret, &session.to_string()).await?;
            tracing::info!(%session, "tokens that belong to no open session were forgotten");
            self.orphans.borrow_mut().remove(&session);
            swept += 1;
        }
        Ok(swept)
    }
}
