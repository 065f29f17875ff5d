//! Owns   · the fold of the log on this node; the only writer of the published views.
//! Answers · [`Read`]: what an aggregate is, with its tip.
//! Asks   · the log (tail) and the vault (data keys).
//! If it dies · the views stand still, their freshness runs out, and the node refuses; a restart reads the log again.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::{Actor, AsyncContext, Context, Handler, Message, MessageResponse, WrapFuture};
use futures_util::StreamExt;
use portcullis_config::limits::{AWAY_PAUSE, SWEEP};
use portcullis_events::session::{self, Open};
use portcullis_events::{
    Aggregate, AggregateKind, Context as Cause, Envelope, Epoch, Event, EventId, Fold, LogoutId, PersonId, SessionId,
    Time, Tip, group, log, logout, token,
};
use uuid::Uuid;

use super::data_keys::{DataKeyError, DataKeys};
use super::log::{AppendError, Expected, Log, NewRecord, Record, Tailed};
use super::profile::Profile;
use super::refresher::schedule::{Due, WhatIsOwed};
use super::view::Views;
use crate::clock;

/// What is an aggregate, and where does it stand?
#[derive(Message)]
#[rtype(result = "Known")]
pub struct Read(pub Aggregate);

/// What the replica knows of an aggregate.
#[derive(Debug, Clone, MessageResponse)]
pub struct Known {
    /// The log's epoch; absent before its first event was applied.
    pub epoch: Option<Epoch>,
    /// Where it stands.
    pub tip: Option<Tip>,
    /// What it is.
    pub state: State,
}

/// The state of an aggregate, by family.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// The log itself has none.
    Log,
    /// A session.
    Session(session::State),
    /// A session's tokens.
    Token(token::State),
    /// A person's groups.
    Group(group::State),
    /// A logout that a provider asked for.
    Logout(logout::State),
}

/// The replica of the log on one node.
pub struct Replica {
    inner: Rc<Inner>,
}

struct Inner {
    log: Arc<dyn Log>,
    data_keys: Rc<DataKeys>,
    views: Arc<Views>,
    source: String,
    /// Whether an empty log gets its first event from here.
    may_begin: bool,
    fold: RefCell<Fold>,
}

impl Replica {
    /// A replica that begins to follow the log when it is started.
    #[must_use]
    pub fn new(log: Arc<dyn Log>, data_keys: Rc<DataKeys>, views: Arc<Views>, source: String) -> Self {
        Self { inner: Rc::new(Inner { log, data_keys, views, source, may_begin: true, fold: RefCell::default() }) }
    }

    /// A replica that writes nothing: an empty log is begun by somebody else.
    #[must_use]
    pub fn reading(log: Arc<dyn Log>, data_keys: Rc<DataKeys>, views: Arc<Views>) -> Self {
        let (source, fold) = (String::new(), RefCell::default());
        Self { inner: Rc::new(Inner { log, data_keys, views, source, may_begin: false, fold }) }
    }
}

impl Actor for Replica {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        let inner = Rc::clone(&self.inner);
        ctx.spawn(async move { inner.follow().await }.into_actor(self));
        ctx.run_interval(SWEEP, |this, _| this.inner.views.sweep(clock::now()));
    }
}

impl Handler<Read> for Replica {
    type Result = Known;

    fn handle(&mut self, Read(aggregate): Read, _: &mut Self::Context) -> Known {
        let fold = self.inner.fold.borrow();
        let state = match aggregate.kind {
            AggregateKind::Log => State::Log,
            AggregateKind::Session => State::Session(fold.session(SessionId::new(aggregate.id))),
            AggregateKind::Token => State::Token(fold.token(SessionId::new(aggregate.id))),
            AggregateKind::Group => State::Group(fold.group(PersonId::new(aggregate.id))),
            AggregateKind::Logout => State::Logout(fold.logout(LogoutId::new(aggregate.id))),
        };
        Known { epoch: fold.epoch(), tip: fold.tip(aggregate), state }
    }
}

impl Handler<WhatIsOwed> for Replica {
    type Result = Vec<Due>;

    fn handle(&mut self, look: WhatIsOwed, _: &mut Self::Context) -> Vec<Due> {
        look.due(&self.inner.fold.borrow())
    }
}

impl Inner {
    async fn follow(&self) {
        self.create_log().await;
        let mut tail = self.log.tail(0);
        while let Some(item) = tail.next().await {
            let outcome = match item {
                Ok(Tailed::Record(record)) => self.apply(record).await,
                Ok(Tailed::Head { head, at }) => self.heard(head.last, at).await,
                Ok(Tailed::Away(why)) => {
                    tracing::warn!(%why, "the log is away");
                    self.views.progress.away(format!("the log did not answer: {why}"));
                    Ok(())
                }
                Err(fault) => Err(fault.to_string()),
            };
            if let Err(why) = outcome {
                return self.stop(why);
            }
        }
        self.stop("the log's tail ended".into());
    }

    fn stop(&self, why: String) {
        tracing::error!(%why, applied = self.fold.borrow().applied(), "the log cannot be followed any further");
        self.views.progress.stop(why);
    }

    /// An empty log gets its first event; of several nodes one wins, and all read the winner's.
    async fn create_log(&self) {
        loop {
            let outcome = match self.log.head().await {
                Ok(head) if head.last > 0 => return,
                Ok(_) if !self.may_begin => Err("the log is empty: databroker has not begun it yet".into()),
                Ok(_) => self.append_creation().await,
                Err(error) => Err(error.to_string()),
            };
            match outcome {
                Ok(()) => return,
                Err(why) => {
                    tracing::warn!(%why, "waiting for the log");
                    self.views.progress.away(why);
                    tokio::time::sleep(AWAY_PAUSE).await;
                }
            }
        }
    }

    async fn append_creation(&self) -> Result<(), String> {
        let epoch = Epoch::new(Uuid::new_v4());
        let envelope = Envelope {
            id: EventId::new(Uuid::now_v7()),
            source: self.source.clone(),
            aggregate: Aggregate::LOG,
            time: clock::now(),
            context: Cause { actor: "databroker".into(), cause: None, traceparent: None },
            epoch,
            prev: None,
            event: Event::Log(log::Event::Created(log::Created { epoch })),
        };
        let body = envelope.encode().map_err(|error| error.to_string())?;
        let record = NewRecord { aggregate: Aggregate::LOG, expected: Expected::NoStream, id: envelope.id, body };
        match self.log.append(record).await {
            Ok(_) | Err(AppendError::Conflict { .. }) => Ok(()),
            Err(error) => Err(error.to_string()),
        }
    }

    async fn apply(&self, record: Record) -> Result<(), String> {
        let began = Instant::now();
        if record.seq <= self.fold.borrow().applied() {
            return Ok(());
        }
        let applied = self.fold.borrow_mut().apply(record.seq, &record.subject, &record.body);
        let envelope = applied.map_err(|error| format!("sequence {}: {error}", record.seq))?;
        if let Event::Log(log::Event::Created(created)) = &envelope.event {
            self.views.progress.set_epoch(created.epoch);
        }
        // while catching up nothing is projected: most sessions of a long log have ended by its end
        if self.is_caught_up() {
            self.project(&envelope, record.seq).await;
        }
        self.views.progress.set_applied(record.seq);
        self.views.metrics.apply_time.observe(began.elapsed());
        Ok(())
    }

    fn is_caught_up(&self) -> bool {
        self.views.progress.caught_up()
    }

    async fn heard(&self, head: u64, at: Time) -> Result<(), String> {
        let applied = self.fold.borrow().applied();
        if !self.is_caught_up() && applied >= head {
            self.project_all().await?;
            tracing::info!(applied, sessions = self.views.sessions(), "the log was read to its end");
        }
        self.views.progress.heard(head, at, applied >= head);
        Ok(())
    }

    async fn project_all(&self) -> Result<(), String> {
        self.until_answered(|| self.data_keys.load_all()).await.map_err(|error| error.to_string())?;
        let now = clock::now();
        for (id, open, seq) in self.open_sessions(now) {
            self.open(id, &open, seq).await;
        }
        Ok(())
    }

    fn open_sessions(&self, now: Time) -> Vec<(SessionId, Open, u64)> {
        let idle = self.idle_timeout();
        let fold = self.fold.borrow();
        let open = fold.sessions().filter_map(|(id, state)| match state {
            session::State::Open(open) if !open.is_over(now, idle) => {
                Some((id, open.clone(), fold.tip(Aggregate::session(id)).map_or(0, |tip| tip.seq)))
            }
            session::State::Open(_) | session::State::Ended | session::State::Absent => None,
        });
        open.collect()
    }

    async fn project(&self, envelope: &Envelope, seq: u64) {
        let Event::Session(event) = &envelope.event else { return };
        let id = SessionId::new(envelope.aggregate.id);
        if let session::Event::Seen(seen) = event
            && self.views.seen(id, seen.at, seq)
        {
            return;
        }
        let state = self.fold.borrow().session(id);
        match state {
            // seen elsewhere after it was forgotten here, and too long ago
            session::State::Open(open) if open.is_over(clock::now(), self.idle_timeout()) => {}
            session::State::Open(open) => self.open(id, &open, seq).await,
            session::State::Ended | session::State::Absent => {
                self.views.end(id);
                self.views.metrics.revocation_time.observe(clock::now().since(envelope.time));
            }
        }
    }

    fn idle_timeout(&self) -> Option<Duration> {
        self.views.idle().map(|idle| idle.timeout)
    }

    async fn open(&self, id: SessionId, open: &Open, seq: u64) {
        let signed_in = &open.signed_in;
        let key = self.until_answered(|| self.data_keys.get(signed_in.person)).await.unwrap_or_else(|error| {
            tracing::error!(%error, "a sealed value cannot be opened");
            None
        });
        let profile = key.and_then(|key| Profile::open(&key, id, &signed_in.profile));
        match profile {
            Some(profile) => self.views.open(profile.view(id, signed_in, seq), open.last_seen),
            None => tracing::warn!(session = %id, seq, "the profile of a session does not open: it stays shut"),
        }
    }

    /// Tries again while the vault is away; an error is one that trying again does not mend.
    async fn until_answered<T, F>(&self, mut attempt: impl FnMut() -> F) -> Result<T, DataKeyError>
    where
        F: Future<Output = Result<T, DataKeyError>>,
    {
        loop {
            match attempt().await {
                Err(DataKeyError::Vault(error)) => {
                    tracing::warn!(%error, "waiting for the vault");
                    self.views.progress.away(error.to_string());
                    tokio::time::sleep(AWAY_PAUSE).await;
                }
                outcome => return outcome,
            }
        }
    }
}
