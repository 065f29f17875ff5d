//! Owns   · the fold of the log on this node; the only writer of the published views.
//! Answers · [`Read`]: what an aggregate is, with its tip; [`Picture`]: everything, to be stored.
//! Asks   · the log (tail), the vault (data keys) and, at the start, the stored snapshots.
//! If it dies · the views stand still, their freshness runs out, and the node refuses; a restart begins with a snapshot.

mod begin;
mod publish;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use actix::{
    Actor, AsyncContext, Context, Handler, Message, MessageResponse, MessageResult, ResponseFuture, WrapFuture,
};
use futures_util::{FutureExt, StreamExt};
use portcullis_config::limits::{FEW, FORGET_AFTER, SWEEP, SWEEP_STEPS, VAULT_LOOK};
use portcullis_events::{
    Aggregate, AggregateKind, Epoch, Event, Fold, Hash, LogoutId, PersonId, SessionId, Time, Tip, group, log, logout,
    session, token,
};
use tokio::task::JoinHandle;

use super::aside::aside;
use super::caretaker::{Standings, WhatBecame};
use super::data_keys::{DataKeyError, DataKeys};
use super::log::{Log, Record, Tailed};
use super::refresher::agenda::{self, Agenda};
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
    /// Whether an empty log gets its first event from here.
    may_begin: bool,
    fold: RefCell<Fold>,
    agenda: RefCell<Agenda>,
    /// Where the next sweep of the fold begins.
    piece: Cell<usize>,
    /// The data keys are being compared with the vault.
    is_looking: Cell<bool>,
}

impl Replica {
    /// A replica that begins to follow the log when it is started.
    #[must_use]
    pub fn new(log: Arc<dyn Log>, data_keys: Rc<DataKeys>, views: Arc<Views>, source: String) -> Self {
        Self::of(Inner { source, may_begin: true, ..Inner::on(log, data_keys, views) })
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
        let snapshots = Some(snapshots);
        Self::of(Inner { source, snapshots, may_begin: true, ..Inner::on(log, data_keys, views) })
    }

    /// A replica that writes nothing: an empty log is begun by somebody else.
    #[must_use]
    pub fn reading(log: Arc<dyn Log>, data_keys: Rc<DataKeys>, views: Arc<Views>) -> Self {
        Self::of(Inner::on(log, data_keys, views))
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
        ctx.run_interval(SWEEP, |this, ctx| {
            let views = Arc::clone(&this.inner.views);
            let swept = aside(views.sessions(), move || views.sweep(clock::now()));
            ctx.spawn(swept.map(|_| ()).into_actor(this));
        });
        ctx.run_interval(SWEEP / SWEEP_STEPS, |this, _| this.inner.forget());
        ctx.run_interval(VAULT_LOOK, |this, ctx| {
            let inner = Rc::clone(&this.inner);
            ctx.spawn(async move { inner.forget_lost_keys().await }.into_actor(this));
        });
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

impl Handler<WhatBecame> for Replica {
    type Result = Standings;

    fn handle(&mut self, ask: WhatBecame, _: &mut Self::Context) -> Standings {
        ask.answer(&self.inner.fold.borrow())
    }
}

impl Handler<WhatIsOwed> for Replica {
    type Result = ResponseFuture<Vec<Due>>;

    fn handle(&mut self, look: WhatIsOwed, _: &mut Self::Context) -> Self::Result {
        let inner = Rc::clone(&self.inner);
        Box::pin(async move { agenda::gather(&look, &inner.agenda, &inner.fold).await })
    }
}

impl Inner {
    fn on(log: Arc<dyn Log>, data_keys: Rc<DataKeys>, views: Arc<Views>) -> Self {
        views.open_with(data_keys.known());
        Self {
            log,
            data_keys,
            views,
            source: String::new(),
            snapshots: None,
            may_begin: false,
            fold: RefCell::default(),
            agenda: RefCell::default(),
            piece: Cell::new(0),
            is_looking: Cell::new(false),
        }
    }

    async fn follow(self: Rc<Self>) {
        let keys = self.load_keys();
        let after = match self.begin().await {
            Ok(after) => after,
            Err(why) => return self.stop(why),
        };
        let mut behind = Some(Behind { keys, after });
        let mut tail = self.log.tail(after);
        while let Some(item) = tail.next().await {
            let outcome = match item {
                Ok(Tailed::Record(record)) => self.apply(record).await,
                Ok(Tailed::Head { head, at }) => self.heard(head.last, at, &mut behind).await,
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
        // before it is said: whoever reads that it is so finds it so
        self.views.progress.stop(why.clone());
        tracing::error!(%why, applied = self.fold.borrow().applied(), "the log cannot be followed any further");
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
        if let AggregateKind::Session | AggregateKind::Token = envelope.aggregate.kind {
            self.agenda.borrow_mut().touch(SessionId::new(envelope.aggregate.id));
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

    async fn heard(&self, head: u64, at: Time, behind: &mut Option<Behind>) -> Result<(), String> {
        let applied = self.fold.borrow().applied();
        if !self.is_caught_up() && applied >= head {
            if let Some(Behind { keys, after }) = behind.take() {
                self.settle(applied.saturating_sub(after)).await;
                keys.await.map_err(|_| "the node is stopping".to_owned())?.map_err(|error| error.to_string())?;
            }
            self.project_all().await;
            tracing::info!(applied, sessions = self.views.sessions(), "the log was read to its end");
        }
        self.views.progress.heard(head, at, applied >= head);
        Ok(())
    }

    /// What was read event by event is packed closely, if it was much. Others get their turn between two steps.
    async fn settle(&self, read: u64) {
        let is_much = read > u64::try_from(self.fold.borrow().session_count().max(FEW)).unwrap_or(u64::MAX) / 4;
        for piece in (0..Fold::PIECES).filter(|_| is_much) {
            self.fold.borrow_mut().settle(piece);
            if piece.is_multiple_of(pieces_a_step()) {
                tokio::task::yield_now().await;
            }
        }
    }

    /// Somebody may have deleted a data key from the vault: whoever opens profiles looks for himself.
    async fn forget_lost_keys(&self) {
        // one look that takes longer than the time to the next is enough
        if !self.is_caught_up() || self.is_looking.replace(true) {
            return;
        }
        match self.data_keys.forget_lost().await {
            Ok(forgotten) if forgotten.is_empty() => {}
            Ok(forgotten) => {
                let views = Arc::clone(&self.views);
                aside(views.sessions(), move || views.shut(&forgotten)).await;
            }
            // said by whoever looks after the vault
            Err(error) => tracing::debug!(%error, "the data keys were not compared with the vault"),
        }
        self.is_looking.set(false);
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
}

/// Pieces of the fold that are gone through without a pause.
fn pieces_a_step() -> usize {
    Fold::PIECES.div_ceil(usize::try_from(SWEEP_STEPS).unwrap_or(1))
}

/// What a replica has while it reads the log for the first time.
struct Behind {
    keys: Keys,
    /// Where it began.
    after: u64,
}

/// The data keys being read.
type Keys = JoinHandle<Result<(), DataKeyError>>;
