//! Owns   · the fold of the log on this node; the only writer of the published views.
//! Answers · [`Read`]: what an aggregate is, with its tip; [`Picture`]: everything, to be stored.
//! Asks   · the log (tail), the vault (data keys) and, at the start, the stored snapshots.
//! If it dies · the views stand still, their freshness runs out, and the node refuses; a restart begins with a snapshot.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::{
    Actor, AsyncContext, Context, Handler, Message, MessageResponse, MessageResult, ResponseFuture, WrapFuture,
};
use futures_util::StreamExt;
use portcullis_config::limits::{AWAY_PAUSE, FORGET_AFTER, REFRESH_BATCH, SWEEP, SWEEP_STEPS};
use portcullis_events::session::{self, Open};
use portcullis_events::{
    Aggregate, AggregateKind, Context as Cause, Envelope, Epoch, Event, EventId, Fold, Hash, LogoutId, PersonId,
    SessionId, SessionRecord, Time, Tip, group, log, logout, token,
};
use tokio::task::JoinHandle;
use uuid::Uuid;

use super::data_keys::{DataKeyError, DataKeys};
use super::log::{AppendError, Expected, Log, NewRecord, Record, Tailed};
use super::profile::Profile;
use super::refresher::schedule::{Due, WhatIsOwed};
use super::snapshots::Snapshots;
use super::view::Views;
use crate::clock;

/// What is an aggregate, and where does it stand?
#[derive(Message)]
#[rtype(result = "Known")]
pub struct Read(pub Aggregate);

/// Everything the log says, as far as it was applied; `None` before the log was read to its end, and of a log that
/// cannot be followed any further. Taking it copies next to nothing.
#[derive(Message)]
#[rtype(result = "Option<Fold>")]
pub struct Picture;

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
    snapshots: Option<Arc<Snapshots>>,
    fold: RefCell<Fold>,
    /// Where the next sweep of the fold begins.
    piece: Cell<usize>,
}

impl Replica {
    /// A replica that begins to follow the log when it is started.
    #[must_use]
    pub fn new(log: Arc<dyn Log>, data_keys: Rc<DataKeys>, views: Arc<Views>, source: String) -> Self {
        views.open_with(data_keys.known());
        Self::of(Inner {
            log,
            data_keys,
            views,
            source,
            snapshots: None,
            fold: RefCell::default(),
            piece: Cell::new(0),
        })
    }

    /// A replica that begins with the newest snapshot that fits, and reads the log from there.
    #[must_use]
    pub fn starting_from(
        snapshots: Arc<Snapshots>,
        log: Arc<dyn Log>,
        data_keys: Rc<DataKeys>,
        views: Arc<Views>,
        source: String,
    ) -> Self {
        views.open_with(data_keys.known());
        let (snapshots, fold) = (Some(snapshots), RefCell::default());
        Self::of(Inner { log, data_keys, views, source, snapshots, fold, piece: Cell::new(0) })
    }

    fn of(inner: Inner) -> Self {
        Self { inner: Rc::new(inner) }
    }
}

impl Actor for Replica {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        let inner = Rc::clone(&self.inner);
        ctx.spawn(inner.follow().into_actor(self));
        ctx.run_interval(SWEEP, |this, _| {
            let views = Arc::clone(&this.inner.views);
            // looks at every session: not on the thread that a revocation waits for
            drop(tokio::task::spawn_blocking(move || views.sweep(clock::now())));
        });
        ctx.run_interval(SWEEP / SWEEP_STEPS, |this, _| this.inner.forget());
    }
}

impl Handler<Picture> for Replica {
    type Result = MessageResult<Picture>;

    fn handle(&mut self, _: Picture, _: &mut Self::Context) -> Self::Result {
        let progress = &self.inner.views.progress;
        let is_whole = progress.caught_up() && progress.stopped().is_none();
        MessageResult(is_whole.then(|| self.inner.fold.borrow().clone()))
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
    type Result = ResponseFuture<Vec<Due>>;

    fn handle(&mut self, look: WhatIsOwed, _: &mut Self::Context) -> Self::Result {
        let inner = Rc::clone(&self.inner);
        // reads every open session: a revocation that arrives meanwhile gets its turn between two steps
        Box::pin(async move {
            let mut due = Vec::new();
            for piece in 0..Fold::PIECES {
                due.extend(look.due_in(piece, &inner.fold.borrow()));
                if due.len() >= REFRESH_BATCH {
                    break;
                }
                if piece % pieces_a_step() == 0 {
                    tokio::task::yield_now().await;
                }
            }
            due.truncate(REFRESH_BATCH);
            due
        })
    }
}

impl Inner {
    async fn follow(self: Rc<Self>) {
        let keys = self.load_keys();
        let after = match self.begin().await {
            Ok(after) => after,
            Err(why) => return self.stop(why),
        };
        let mut keys = Some(keys);
        let mut tail = self.log.tail(after);
        while let Some(item) = tail.next().await {
            let outcome = match item {
                Ok(Tailed::Record(record)) => self.apply(record).await,
                Ok(Tailed::Head { head, at }) => self.heard(head.last, at, &mut keys).await,
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

    /// Where the tail begins: behind what a snapshot says, if there is one, else at the beginning.
    async fn begin(&self) -> Result<u64, String> {
        let newest = match &self.snapshots {
            Some(snapshots) => snapshots.newest().await,
            None => None,
        };
        let Some(fold) = newest else {
            self.create_log().await;
            return Ok(0);
        };
        let applied = fold.applied();
        self.compare(&fold).await?;
        if let Some(epoch) = fold.epoch() {
            self.views.progress.set_epoch(epoch);
        }
        self.views.progress.set_applied(applied);
        *self.fold.borrow_mut() = fold;
        tracing::info!(applied, "begins with a snapshot");
        // the record that the snapshot ends with is read once more, to be compared
        Ok(applied.saturating_sub(1))
    }

    /// Whether the log is the one that a snapshot was taken of, and goes as far. Where it is not, revocations may have
    /// been lost: nobody is served, nothing is changed, and somebody has to look.
    async fn compare(&self, fold: &Fold) -> Result<(), String> {
        loop {
            match self.standing_of_log().await {
                Ok((last, _)) if last < fold.applied() => {
                    let seq = fold.applied();
                    return Err(format!("the log ends at {last}, behind a snapshot of it at {seq}: it went backwards"));
                }
                Ok((_, Some(epoch))) if Some(epoch) != fold.epoch() => {
                    return Err(format!("the log has the epoch {epoch}, and the snapshot is of another log"));
                }
                Ok(_) => return Ok(()),
                Err(why) => {
                    tracing::warn!(%why, "waiting for the log");
                    self.views.progress.away(why);
                    tokio::time::sleep(AWAY_PAUSE).await;
                }
            }
        }
    }

    /// The last sequence and the epoch, according to the log's authority.
    async fn standing_of_log(&self) -> Result<(u64, Option<Epoch>), String> {
        let head = self.log.head().await.map_err(|error| error.to_string())?;
        let first = self.log.last(Aggregate::LOG).await.map_err(|error| error.to_string())?;
        let epoch = first.and_then(|record| Envelope::decode(&record.body).ok()).map(|envelope| envelope.epoch);
        Ok((head.last, epoch))
    }

    /// An empty log gets its first event; of several nodes one wins, and all read the winner's.
    async fn create_log(&self) {
        loop {
            let outcome = match self.log.head().await {
                Ok(head) if head.last > 0 => return,
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
        let (applied, last) = (self.fold.borrow().applied(), self.fold.borrow().last());
        if record.seq <= applied {
            let is_the_same = record.seq < applied || last == Some(Hash::of(&record.body));
            return if is_the_same { Ok(()) } else { Err(format!("sequence {applied} is another event now")) };
        }
        let applied = self.fold.borrow_mut().apply(record.seq, &record.subject, &record.body);
        let envelope = applied.map_err(|error| format!("sequence {}: {error}", record.seq))?;
        if let Event::Log(log::Event::Created(created)) = &envelope.event {
            self.views.progress.set_epoch(created.epoch);
        }
        // while catching up nothing is projected: most sessions of a long log have ended by its end
        if self.is_caught_up() {
            self.project(&envelope).await;
        }
        self.views.progress.set_applied(record.seq);
        self.views.metrics.apply_time.observe(began.elapsed());
        Ok(())
    }

    fn is_caught_up(&self) -> bool {
        self.views.progress.caught_up()
    }

    async fn heard(&self, head: u64, at: Time, keys: &mut Option<Keys>) -> Result<(), String> {
        let applied = self.fold.borrow().applied();
        if !self.is_caught_up() && applied >= head {
            if let Some(keys) = keys.take() {
                keys.await.map_err(|_| "the node is stopping".to_owned())?.map_err(|error| error.to_string())?;
            }
            self.project_all().await;
            tracing::info!(applied, sessions = self.views.sessions(), "the log was read to its end");
        }
        self.views.progress.heard(head, at, applied >= head);
        Ok(())
    }

    /// Reads the data keys while the log is read.
    fn load_keys(self: &Rc<Self>) -> Keys {
        let this = Rc::clone(self);
        actix_rt::spawn(async move { this.until_answered(|| this.data_keys.load_all()).await })
    }

    /// Publishes every session that is open, its profile sealed as it is.
    async fn project_all(&self) {
        let (now, idle) = (clock::now(), self.idle_timeout());
        let known = self.data_keys.known();
        let mut unknown = Vec::new();
        for (id, record) in unexpired_sessions(&self.fold.borrow(), now) {
            match record.state() {
                session::State::Open(open) if open.is_over(now, idle) => {}
                session::State::Open(open) if known.has(open.signed_in.person) => {
                    self.views.open_sealed(id, record, &open);
                }
                session::State::Open(open) => unknown.push((id, open, record)),
                session::State::Absent | session::State::Ended => {}
            }
        }
        // their keys were made while the others were read, or do not open
        for (id, open, record) in unknown {
            self.open(id, &open, record).await;
        }
    }

    async fn project(&self, envelope: &Envelope) {
        let Event::Session(event) = &envelope.event else { return };
        let id = SessionId::new(envelope.aggregate.id);
        let Some(record) = self.fold.borrow().session_record(id) else { return };
        if let session::Event::Seen(seen) = event
            && self.views.seen(id, seen.at, record.seq(), Some(record.clone()))
        {
            return;
        }
        match record.state() {
            // seen elsewhere after it was forgotten here, and too long ago
            session::State::Open(open) if open.is_over(clock::now(), self.idle_timeout()) => {}
            session::State::Open(open) => self.open(id, &open, record).await,
            session::State::Ended | session::State::Absent => {
                self.views.end(id);
                self.views.metrics.revocation_time.observe(clock::now().since(envelope.time));
            }
        }
    }

    fn idle_timeout(&self) -> Option<Duration> {
        self.views.idle().map(|idle| idle.timeout)
    }

    async fn open(&self, id: SessionId, open: &Open, record: SessionRecord) {
        let signed_in = &open.signed_in;
        let key = self.until_answered(|| self.data_keys.get(signed_in.person)).await.unwrap_or_else(|error| {
            tracing::error!(%error, "a sealed value cannot be opened");
            None
        });
        let (seq, profile) = (record.seq(), key.and_then(|key| Profile::open(&key, id, &signed_in.profile)));
        match profile {
            Some(profile) => self.views.open(profile.view(id, signed_in, seq), Some(record), open.last_seen),
            None => tracing::warn!(session = %id, seq, "the profile of a session does not open: it stays shut"),
        }
    }

    /// Gives back, a few pieces at a time, what sessions left behind that ended by themselves long ago.
    fn forget(&self) {
        let at = clock::now().minus(FORGET_AFTER);
        let mut fold = self.fold.borrow_mut();
        for _ in 0..pieces_a_step() {
            let piece = self.piece.get();
            self.piece.set((piece + 1) % Fold::PIECES);
            fold.forget_expired(piece, at);
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

/// Pieces of the fold that are gone through without a pause.
fn pieces_a_step() -> usize {
    Fold::PIECES.div_ceil(usize::try_from(SWEEP_STEPS).unwrap_or(1))
}

/// The data keys being read.
type Keys = JoinHandle<Result<(), DataKeyError>>;

fn unexpired_sessions(fold: &Fold, now: Time) -> impl Iterator<Item = (SessionId, SessionRecord)> {
    fold.sessions().filter(move |(_, record)| record.open_until().is_some_and(|until| now < until))
}
