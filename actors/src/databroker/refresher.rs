//! Owns   · nothing but which sessions it is at: what is owed stands on the log, and every effect is recorded there.
//! Answers · [`Look`]: everything owed now has been tried once; [`Rest`]: nothing is under way any more.
//! Asks   · the replica (what is owed), the journal (intents and outcomes), the vault, and the provider.
//! If it dies · what was under way is settled past its deadline, from the vault or as left in doubt, on any node.

pub(super) mod agenda;
mod claims;
mod renewal;
pub mod schedule;
pub mod spool;
mod waiting;

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use actix::{Actor, Addr, AsyncContext, Context, Handler, Message, ResponseFuture, WrapFuture};
use futures_util::future::join_all;
use portcullis_config::limits::{REFRESH_APPENDS, REFRESH_IN_FLIGHT, REFRESH_LOOK, REFRESH_RATE, USER_INFO_EVERY};
use portcullis_events::{Aggregate, Context as Cause, EventId, SessionId, Time, session, token};
use tokio::sync::{Notify, Semaphore};

use self::schedule::{Bucket, Due, What, WhatIsOwed};
use self::spool::Spool;
use super::data_keys::{DataKey, DataKeys};
use super::journal::{Append, Command, Journal, JournalError};
use super::neighbours::Neighbours;
use super::replica::Replica;
use super::tokens::Kept;
use super::vault::{Revision, Shelf, Vault};
use super::view::Views;
use crate::idp::Renewals;

/// Look what is owed now, and try each of it once.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "()")]
pub struct Look;

/// Take up nothing more, and wait until nothing is under way: what is broken off now is in doubt later.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "()")]
pub struct Rest;

/// What refreshes have come to on this node since it started.
#[derive(Debug, Default)]
#[expect(missing_docs, reason = "the names are the outcomes")]
pub struct Tally {
    pub started: AtomicU64,
    pub refreshed: AtomicU64,
    pub not_sent: AtomicU64,
    pub unavailable: AtomicU64,
    pub rejected: AtomicU64,
    pub invalid_grant: AtomicU64,
    /// Answers that were found in the vault after somebody died over them.
    pub recovered: AtomicU64,
    pub left_in_doubt: AtomicU64,
    pub claims_replaced: AtomicU64,
    /// Sessions that ended because their tokens were lost.
    pub ended: AtomicU64,
    /// Sessions that something is being done for.
    pub under_way: AtomicU64,
}

pub(super) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// Who says when to look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    /// The refresher itself, every [`REFRESH_LOOK`].
    Own,
    /// Whoever sends [`Look`].
    Told,
}

/// What a refresher works with.
pub struct Tools {
    /// The vault.
    pub vault: Arc<dyn Vault>,
    /// The data keys in it.
    pub data_keys: Rc<DataKeys>,
    /// The views of this node.
    pub views: Arc<Views>,
    /// The journal.
    pub journal: Addr<Journal>,
    /// The replica.
    pub replica: Addr<Replica>,
    /// The provider.
    pub provider: Rc<dyn Renewals>,
    /// Its id: sessions of another provider are let alone.
    pub idp: String,
    /// The nodes that may refresh.
    pub nodes: Arc<Neighbours>,
    /// The time.
    pub clock: Rc<dyn Fn() -> Time>,
    /// What it comes to.
    pub tally: Arc<Tally>,
    /// Who says when to look.
    pub pace: Pace,
    /// Where answers wait while the vault is away; `None` where it lies on the same disk.
    pub spool: Option<Spool>,
}

/// Renews the tokens of sessions, and what is known of their people.
pub struct Refresher {
    inner: Rc<Inner>,
}

struct Inner {
    tools: Tools,
    began: Time,
    looked: Cell<Time>,
    at_work: RefCell<HashSet<SessionId>>,
    is_resting: Cell<bool>,
    /// Tells [`Rest`] that something has ended.
    ended: Notify,
    slots: Semaphore,
    bucket: RefCell<Bucket>,
    /// Attempts of ours that did not spend their token, though the log has not been told so; each until when its intent
    /// may yet turn up there.
    unspent: RefCell<HashMap<(SessionId, EventId), Time>>,
    /// Attempts of others without an outcome, each since when it has been known to be owed one.
    foreign: RefCell<HashMap<(SessionId, EventId), Time>>,
    /// Sessions whose tokens are not in the vault, each until when it is let alone.
    set_aside: RefCell<HashMap<SessionId, Time>>,
}

/// The tokens of a session as they lie in the vault.
struct InVault {
    key: Rc<DataKey>,
    kept: Kept,
    revision: Revision,
}

/// The vault cannot be asked now.
struct NotNow;

impl Refresher {
    /// A refresher. Make it on the thread that it runs on.
    #[must_use]
    pub fn new(tools: Tools) -> Self {
        let now = (tools.clock)();
        Self {
            inner: Rc::new(Inner {
                tools,
                began: now,
                looked: Cell::new(now),
                at_work: RefCell::default(),
                is_resting: Cell::new(false),
                ended: Notify::new(),
                slots: Semaphore::new(REFRESH_IN_FLIGHT),
                bucket: RefCell::new(Bucket::new(REFRESH_RATE, now)),
                unspent: RefCell::default(),
                foreign: RefCell::default(),
                set_aside: RefCell::default(),
            }),
        }
    }
}

impl Actor for Refresher {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        if self.inner.tools.pace == Pace::Own {
            ctx.run_interval(REFRESH_LOOK, |this, ctx| {
                let inner = Rc::clone(&this.inner);
                ctx.spawn(async move { inner.look().await }.into_actor(this));
            });
        }
    }
}

impl Handler<Look> for Refresher {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, _: Look, _: &mut Self::Context) -> Self::Result {
        let inner = Rc::clone(&self.inner);
        Box::pin(async move { inner.look().await })
    }
}

impl Handler<Rest> for Refresher {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, _: Rest, _: &mut Self::Context) -> Self::Result {
        let inner = Rc::clone(&self.inner);
        inner.is_resting.set(true);
        Box::pin(async move {
            while !inner.at_work.borrow().is_empty() {
                inner.ended.notified().await;
            }
        })
    }
}

impl Inner {
    async fn look(&self) {
        let now = self.now();
        let progress = &self.tools.views.progress;
        // what is owed is known to whoever has read the log; the next look comes when this one's work is done
        let is_busy = self.at_work.borrow().len() > REFRESH_IN_FLIGHT;
        if is_busy || self.is_resting.get() || !progress.caught_up() || progress.stopped().is_some() {
            return;
        }
        self.set_aside.borrow_mut().retain(|_, until| *until > now);
        self.deliver_waiting().await;
        self.own_up(now).await;
        let looked = self.looked.replace(now);
        let (idp, nodes) = (self.tools.idp.clone(), self.tools.nodes.now());
        let owed = WhatIsOwed { idp, nodes, began: self.began, looked, now };
        let Ok(owed) = self.tools.replica.send(owed).await else { return };
        join_all(owed.into_iter().filter(|due| self.takes(due, now)).map(|due| self.perform(due))).await;
    }

    /// Whether it is taken up now. The provider is asked at no higher rate than the bucket gives.
    fn takes(&self, due: &Due, now: Time) -> bool {
        let is_free = !self.at_work.borrow().contains(&due.session);
        let is_free = is_free && !self.set_aside.borrow().contains_key(&due.session);
        let asks = matches!(due.what, What::Claims | What::Tokens(token::Owed::Refresh { .. }));
        let takes = is_free && (!asks || self.bucket.borrow_mut().take(now));
        let takes = takes && self.at_work.borrow_mut().insert(due.session);
        if takes {
            count(&self.tools.tally.under_way);
        }
        takes
    }

    async fn perform(&self, due: Due) {
        // the semaphore is never closed
        let _slot = self.slots.acquire().await;
        if !self.is_resting.get() {
            self.perform_one(&due).await;
        }
        self.leave_off(due.session);
    }

    async fn perform_one(&self, due: &Due) {
        match due.what {
            What::Tokens(token::Owed::Refresh { generation, failures, .. }) => {
                self.refresh(due, generation, failures).await;
            }
            What::Tokens(token::Owed::Settle { intent, failures }) => self.settle(due, intent, failures).await,
            What::Tokens(token::Owed::End { generation, .. }) => self.end(due, generation).await,
            What::Claims => self.observe(due).await,
        }
    }

    fn now(&self) -> Time {
        (self.tools.clock)()
    }

    /// What the vault keeps for a session; `None` where there is nothing that can be opened.
    ///
    /// # Errors
    /// [`NotNow`], with a line in the log, where that cannot be said at the moment.
    async fn kept(&self, due: &Due) -> Result<Option<InVault>, NotNow> {
        let not_now = |error: &dyn std::fmt::Display| {
            tracing::warn!(session = %due.session, %error, "the tokens of a session cannot be read");
            NotNow
        };
        let found = self.tools.vault.get(Shelf::Secret, &due.session.to_string()).await;
        let found = found.map_err(|error| not_now(&error))?;
        let key = self.tools.data_keys.get(due.person).await.map_err(|error| not_now(&error))?;
        let opened = found.zip(key).and_then(|(sealed, key)| {
            let kept = Kept::open(&key, due.session, &sealed.value)?;
            Some(InVault { key, kept, revision: sealed.revision })
        });
        if opened.is_none() {
            tracing::warn!(session = %due.session, "an open session has no tokens that can be opened");
        }
        Ok(opened)
    }

    /// Lets a session alone for a while: what is wrong with it is not mended by trying again.
    fn set_aside(&self, id: SessionId) {
        self.set_aside.borrow_mut().insert(id, self.now().plus(USER_INFO_EVERY));
    }

    async fn append_token(&self, id: SessionId, command: token::Command) -> Result<(), JournalError> {
        self.append(Aggregate::token(id), Command::Token(command)).await
    }

    async fn revoke(&self, id: SessionId, reason: &str) {
        let command = Command::Session(session::Command::Revoke { reason: reason.into() });
        match self.append(Aggregate::session(id), command).await {
            Ok(()) => {
                count(&self.tools.tally.ended);
                tracing::info!(session = %id, reason, "a session ended with its tokens");
                if let Err(error) = self.tools.vault.delete(Shelf::Secret, &id.to_string()).await {
                    tracing::warn!(%error, session = %id, "the tokens of an ended session stay in the vault");
                }
            }
            Err(error) => tracing::warn!(%error, session = %id, "a session whose tokens are lost could not be ended"),
        }
    }

    /// Offers a command to the log until it says yes or no. After [`JournalError::Unavailable`] nobody knows.
    async fn append(&self, aggregate: Aggregate, command: Command) -> Result<(), JournalError> {
        let cause = Cause { actor: "databroker".into(), cause: None, traceparent: None };
        let mut outcome = Ok(());
        for _ in 0..REFRESH_APPENDS {
            let append = Append { aggregate, command: command.clone(), cause: cause.clone() };
            outcome = match self.tools.journal.send(append).await {
                Ok(appended) => appended.map(drop),
                Err(_) => Err(JournalError::Unavailable("the journal has stopped".into())),
            };
            if !matches!(outcome, Err(JournalError::Unavailable(_) | JournalError::Busy)) {
                break;
            }
        }
        outcome
    }
}
