//! Owns   · the right to append: one command in flight for each aggregate, many across aggregates.
//! Answers · [`Append`]: a command, decided and on the log, and read back on this node; [`Flush`].
//! Asks   · the replica (what an aggregate is) and the log (compare-and-append).
//! If it dies · nothing is half done: an append is on the log or it is not, and its id can be tried again.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use actix::{Actor, Addr, Context, Handler, Message, ResponseFuture};
use portcullis_config::limits::{COMMAND_DEADLINE, JOURNAL_ATTEMPTS, JOURNAL_IN_FLIGHT};
use portcullis_events::{
    Aggregate, Context as Cause, Envelope, Event, EventId, Hash, Time, Tip, group, logout, session, token,
};
use tokio::sync::{Mutex, Semaphore};
use uuid::Uuid;

use super::log::{AppendError, Expected, Log, NewRecord};
use super::replica::{Known, Read, Replica, State};
use super::view::Views;
use crate::clock;

/// A command to an aggregate.
#[derive(Message)]
#[rtype(result = "Result<Appended, JournalError>")]
pub struct Append {
    /// What it is about.
    pub aggregate: Aggregate,
    /// What is asked.
    pub command: Command,
    /// Who asks, and why.
    pub cause: Cause,
}

/// Wait until nothing is in flight any more.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Flush;

/// A command, by family.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// To a session.
    Session(session::Command),
    /// To a session's tokens.
    Token(token::Command),
    /// To a person's groups.
    Group(group::Command),
    /// To a logout that a provider asked for.
    Logout(logout::Command),
}

/// The command's effect is on the log, and in this node's views.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appended {
    /// The aggregate's last sequence; 0 if it has none because nothing was to be done.
    pub seq: u64,
}

/// Why a command had no effect, or an unknown one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JournalError {
    /// The session's decider says no.
    #[error(transparent)]
    Session(#[from] session::Refusal),
    /// The tokens' decider says no.
    #[error(transparent)]
    Token(#[from] token::Refusal),
    /// The logouts' decider says no.
    #[error(transparent)]
    Logout(#[from] logout::Refusal),
    /// The command is of another family than its aggregate.
    #[error("the command does not fit its aggregate")]
    Misplaced,
    /// Too much is under way.
    #[error("too many commands under way")]
    Busy,
    /// The log did not take it in time; it may be there all the same.
    #[error("the log did not take the command: {0}")]
    Unavailable(String),
}

/// The only writer of the log on a node.
pub struct Journal {
    inner: Rc<Inner>,
}

struct Inner {
    log: Arc<dyn Log>,
    replica: Addr<Replica>,
    views: Arc<Views>,
    source: String,
    in_flight: Semaphore,
    aggregates: RefCell<HashMap<Aggregate, Rc<Mutex<()>>>>,
}

impl Journal {
    /// A journal on a log, reading its own writes through the replica.
    #[must_use]
    pub fn new(log: Arc<dyn Log>, replica: Addr<Replica>, views: Arc<Views>, source: String) -> Self {
        let in_flight = Semaphore::new(JOURNAL_IN_FLIGHT);
        Self { inner: Rc::new(Inner { log, replica, views, source, in_flight, aggregates: RefCell::default() }) }
    }
}

impl Actor for Journal {
    type Context = Context<Self>;
}

impl Handler<Append> for Journal {
    type Result = ResponseFuture<Result<Appended, JournalError>>;

    fn handle(&mut self, append: Append, _: &mut Self::Context) -> Self::Result {
        let inner = Rc::clone(&self.inner);
        Box::pin(async move {
            let _slot = inner.in_flight.try_acquire().map_err(|_| JournalError::Busy)?;
            let turn = inner.turn(append.aggregate);
            let outcome = {
                let _turn = turn.lock().await;
                tokio::time::timeout(COMMAND_DEADLINE, inner.append(&append)).await
            };
            inner.forget(append.aggregate, turn);
            outcome.unwrap_or_else(|_| Err(JournalError::Unavailable("the deadline passed".into())))
        })
    }
}

impl Handler<Flush> for Journal {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, _: Flush, _: &mut Self::Context) -> Self::Result {
        let inner = Rc::clone(&self.inner);
        Box::pin(async move {
            // every slot at once: what was in flight has ended; the semaphore is never closed
            let _ = inner.in_flight.acquire_many(u32::try_from(JOURNAL_IN_FLIGHT).unwrap_or(u32::MAX)).await;
        })
    }
}

impl Inner {
    fn turn(&self, aggregate: Aggregate) -> Rc<Mutex<()>> {
        Rc::clone(self.aggregates.borrow_mut().entry(aggregate).or_default())
    }

    fn forget(&self, aggregate: Aggregate, turn: Rc<Mutex<()>>) {
        // two owners: the map and this command; nobody else waits for a turn
        if Rc::strong_count(&turn) == 2 {
            self.aggregates.borrow_mut().remove(&aggregate);
        }
    }

    async fn append(&self, append: &Append) -> Result<Appended, JournalError> {
        for _ in 0..JOURNAL_ATTEMPTS {
            // a log that cannot be read to its end is not written to either: what stands there is not known
            if let Some(why) = self.views.progress.stopped() {
                return Err(JournalError::Unavailable(why.to_string()));
            }
            let known = self.read(append.aggregate).await?;
            let decided = decide(&known.state, &append.command, clock::now());
            // what writes nothing is not put to the test by compare-and-append: this node may lag
            if decided.as_ref().map_or(true, Vec::is_empty)
                && let Some(actual) = self.ahead(append.aggregate, &known).await?
            {
                self.read_back(actual).await?;
                continue;
            }
            match self.append_all(append, &known, decided?).await? {
                Attempt::Done(appended) => return Ok(appended),
                // lost the race: the winner's event decides the next attempt
                Attempt::Lost { actual } => self.read_back(actual).await?,
            }
        }
        Err(JournalError::Unavailable("the race was lost too often".into()))
    }

    /// Where an aggregate stands according to the log's authority, if that is further than what is known here.
    async fn ahead(&self, aggregate: Aggregate, known: &Known) -> Result<Option<u64>, JournalError> {
        let last = self.log.last(aggregate).await;
        let last = last.map_err(|error| JournalError::Unavailable(error.to_string()))?;
        let here = known.tip.map_or(0, |tip| tip.seq);
        Ok(last.map(|last| last.seq).filter(|actual| *actual > here))
    }

    async fn append_all(&self, append: &Append, known: &Known, events: Vec<Event>) -> Result<Attempt, JournalError> {
        let mut tip = known.tip;
        for event in events {
            let envelope = self.envelope(append, known, tip, event)?;
            let body = envelope.encode().map_err(|error| JournalError::Unavailable(error.to_string()))?;
            let hash = Hash::of(&body);
            let expected = tip.map_or(Expected::NoStream, |tip| Expected::Seq(tip.seq));
            let record = NewRecord { aggregate: append.aggregate, expected, id: envelope.id, body };
            match self.write(record).await {
                Ok(seq) => tip = Some(Tip { seq, hash }),
                Err(AppendError::Conflict { actual }) => return Ok(Attempt::Lost { actual }),
                Err(error) => return Err(JournalError::Unavailable(error.to_string())),
            }
        }
        let seq = tip.map_or(0, |tip| tip.seq);
        let acknowledged = Instant::now();
        self.read_back(seq).await?;
        if seq > known.tip.map_or(0, |tip| tip.seq) {
            self.views.metrics.read_back_time.observe(acknowledged.elapsed());
        }
        Ok(Attempt::Done(Appended { seq }))
    }

    async fn write(&self, record: NewRecord) -> Result<u64, AppendError> {
        let began = Instant::now();
        let written = self.log.append(record).await;
        let metrics = &self.views.metrics;
        match &written {
            Ok(_) => {
                metrics.append_time.observe(began.elapsed());
                metrics.appends.stored.increment();
            }
            Err(AppendError::Conflict { .. }) => metrics.appends.conflict.increment(),
            Err(AppendError::Unavailable(_)) => metrics.appends.unavailable.increment(),
            Err(AppendError::Refused(_)) => metrics.appends.refused.increment(),
        }
        written
    }

    fn envelope(
        &self,
        append: &Append,
        known: &Known,
        tip: Option<Tip>,
        event: Event,
    ) -> Result<Envelope, JournalError> {
        let epoch = known.epoch.ok_or_else(|| JournalError::Unavailable("the log has not been read yet".into()))?;
        Ok(Envelope {
            id: EventId::new(Uuid::now_v7()),
            source: self.source.clone(),
            aggregate: append.aggregate,
            time: clock::now(),
            context: append.cause.clone(),
            epoch,
            prev: tip.map(|tip| tip.hash),
            event,
        })
    }

    async fn read(&self, aggregate: Aggregate) -> Result<Known, JournalError> {
        let known = self.replica.send(Read(aggregate)).await;
        known.map_err(|_| JournalError::Unavailable("the replica has stopped".into()))
    }

    async fn read_back(&self, seq: u64) -> Result<(), JournalError> {
        if self.views.progress.reaches(seq, COMMAND_DEADLINE).await {
            Ok(())
        } else {
            Err(JournalError::Unavailable("the event was not read back".into()))
        }
    }
}

enum Attempt {
    Done(Appended),
    Lost { actual: u64 },
}

fn decide(state: &State, command: &Command, now: Time) -> Result<Vec<Event>, JournalError> {
    match (state, command) {
        (State::Session(state), Command::Session(command)) => {
            Ok(session::decide(state, command, now)?.map(Event::Session).into_iter().collect())
        }
        (State::Token(state), Command::Token(command)) => {
            Ok(token::decide(state, command)?.map(Event::Token).into_iter().collect())
        }
        (State::Group(state), Command::Group(command)) => {
            Ok(group::decide(state, command).into_iter().map(Event::Group).collect())
        }
        (State::Logout(state), Command::Logout(command)) => Ok(vec![Event::Logout(logout::decide(*state, command)?)]),
        (State::Log | State::Session(_) | State::Token(_) | State::Group(_) | State::Logout(_), _) => {
            Err(JournalError::Misplaced)
        }
    }
}
