//! The log of a simulation: calls over turmoil's network, deliveries with holes.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::StreamExt;
use futures_util::stream::{self, LocalBoxStream};
use portcullis_actors::clock;
use portcullis_actors::databroker::log::{AppendError, Head, Log, NewRecord, Record, TailFault, Tailed, Unavailable};
use portcullis_config::limits::{APPEND_ATTEMPT, APPEND_DEADLINE, HEAD_POLL, STORE_REQUEST};
use portcullis_events::{Aggregate, Envelope, Event, Time, token};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::mutant::Mutant;
use crate::wire::{LOG, TAIL, Wire};
use crate::world::World;

/// How far the copy of a mutant lags, in milliseconds.
const LAG: i64 = 2_000;
/// How long the answer to where the log stands is waited for: one that comes late is dated when it was asked for.
const HEAD_PATIENCE: Duration = Duration::from_secs(4);

/// The log as one node reaches it.
pub struct SimLog {
    /// The shared ground.
    pub world: Arc<World>,
    /// Which node.
    pub node: usize,
    /// Its socket.
    pub wire: Arc<Wire>,
}

impl SimLog {
    /// One try of an append; `None` where no answer came.
    async fn attempt(&self, record: &NewRecord) -> Option<Result<u64, AppendError>> {
        let (node, new) = (self.node, record.clone());
        let outcome = if self.world.is(Mutant::TwoSteps) {
            self.store_in_two_steps(new).await
        } else {
            self.wire.append(APPEND_ATTEMPT, move |world| stored(world, node, &new)).await
        };
        if outcome.is_none() {
            self.world.note(node, &format!("{}: no answer", record.aggregate.kind.name()));
        }
        outcome
    }

    async fn store_in_two_steps(&self, record: NewRecord) -> Option<Result<u64, AppendError>> {
        let (node, new) = (self.node, record.clone());
        let checked = self.wire.ask(LOG, APPEND_ATTEMPT, move |world| world.check(node, &new)).await?;
        if let Err(error) = checked {
            return Some(Err(error));
        }
        self.wire.append(APPEND_ATTEMPT, move |world| Some(Ok(world.put_record(node, &record)))).await
    }

    /// A question to the authority.
    async fn ask<T: Send + 'static>(
        &self,
        answer: impl Fn(&World) -> T + Send + Sync + 'static,
    ) -> Result<T, Unavailable> {
        let answer = self.wire.ask(LOG, STORE_REQUEST, answer).await;
        answer.ok_or_else(|| Unavailable("no answer came".into()))
    }
}

/// The authority's append. Now and then it stores and dies before it answers; another mutant dies before it stores.
fn stored(world: &World, node: usize, new: &NewRecord) -> Option<Result<u64, AppendError>> {
    if world.is(Mutant::RemembersTheLost) && world.fault(7) {
        world.remember(new.id);
        return None;
    }
    let outcome = match world.mutant {
        Some(Mutant::LosesIntents) if is_intent(new) => Ok(world.head().last),
        Some(Mutant::IgnoresExpectation) => Ok(world.put_record(node, new)),
        _ => world.store(node, new),
    };
    (!world.fault(3)).then_some(outcome)
}

fn is_intent(record: &NewRecord) -> bool {
    let event = Envelope::decode(&record.body).map(|envelope| envelope.event);
    matches!(event, Ok(Event::Token(token::Event::RefreshStarted(_))))
}

#[async_trait]
impl Log for SimLog {
    async fn append(&self, record: NewRecord) -> Result<u64, AppendError> {
        let deadline = Instant::now() + APPEND_DEADLINE;
        while Instant::now() < deadline {
            if let Some(outcome) = self.attempt(&record).await {
                return outcome;
            }
            if self.world.fault(15) {
                break;
            }
        }
        Err(AppendError::Unavailable("the deadline passed".into()))
    }

    async fn head(&self) -> Result<Head, Unavailable> {
        self.ask(World::head).await
    }

    async fn last(&self, aggregate: Aggregate) -> Result<Option<Record>, Unavailable> {
        let lag = if self.world.is(Mutant::LagsBehind) { LAG } else { 0 };
        self.ask(move |world| world.last_before(aggregate, lag).map(|kept| kept.record)).await
    }

    fn tail(&self, after: u64) -> LocalBoxStream<'static, Result<Tailed, TailFault>> {
        let tail = Tail {
            world: Arc::clone(&self.world),
            node: self.node,
            next: after + 1,
            hidden: 0,
            delivered: VecDeque::new(),
            deliveries: self.wire.deliveries(),
            is_astray: true,
            is_away: false,
            asked: Box::pin(ask_head(Arc::clone(&self.wire), Duration::ZERO)),
            wire: Arc::clone(&self.wire),
        };
        stream::unfold(tail, |mut tail| async move { Some((Ok(tail.item().await), tail)) }).boxed_local()
    }
}

/// Where the log stands, and when that was asked.
async fn ask_head(wire: Arc<Wire>, pause: Duration) -> (Option<Head>, Time) {
    tokio::time::sleep(pause).await;
    let asked = clock::now();
    (wire.ask(TAIL, HEAD_PATIENCE, World::head).await, asked)
}

struct Tail {
    world: Arc<World>,
    wire: Arc<Wire>,
    node: usize,
    /// The next sequence that is wanted.
    next: u64,
    /// How many records a mutant passed over.
    hidden: u64,
    delivered: VecDeque<Record>,
    deliveries: mpsc::UnboundedReceiver<Vec<Record>>,
    /// Something is missing: deliveries have to begin anew.
    is_astray: bool,
    is_away: bool,
    asked: Pin<Box<dyn Future<Output = (Option<Head>, Time)>>>,
}

impl Tail {
    async fn item(&mut self) -> Tailed {
        loop {
            if let Some(record) = self.delivered.pop_front() {
                if let Some(record) = self.accept(record) {
                    return Tailed::Record(record);
                }
                continue;
            }
            if self.is_astray {
                let (node, next) = (self.node, self.next);
                let followed = self.wire.ask(TAIL, STORE_REQUEST, move |world| world.follow(node, next)).await;
                self.is_astray = followed.is_none();
                if self.is_astray
                    && let Some(away) = self.away()
                {
                    return away;
                }
            }
            tokio::select! {
                biased;
                Some(records) = self.deliveries.recv() => self.delivered = records.into(),
                (head, asked) = &mut self.asked => {
                    self.asked = Box::pin(ask_head(Arc::clone(&self.wire), HEAD_POLL));
                    let Some(head) = head else {
                        if let Some(away) = self.away() {
                            return away;
                        }
                        continue;
                    };
                    self.is_away = false;
                    self.is_astray |= head.last >= self.next;
                    let at = if self.world.is(Mutant::DatesHeadsLate) { clock::now() } else { asked };
                    return Tailed::Head { head: Head { last: head.last.saturating_sub(self.hidden), ..head }, at };
                }
            }
        }
    }

    /// Nobody answers: said once, and not by every client at once.
    fn away(&mut self) -> Option<Tailed> {
        if self.is_away || self.world.fault(50) {
            return None;
        }
        self.is_away = true;
        Some(Tailed::Away("no answer came".into()))
    }

    /// The contiguity check. What was passed on may be passed on again: the replica knows it.
    fn accept(&mut self, record: Record) -> Option<Record> {
        if record.seq > self.next {
            // without the log's first event the fold takes nothing at all
            if self.world.is(Mutant::HidesHoles) && self.next > 1 {
                self.hidden += record.seq - self.next;
            } else if !self.world.is(Mutant::SkipsHoles) {
                // what is missing lies with the authority: asked for again from there
                self.delivered.clear();
                self.is_astray = true;
                return None;
            }
            self.world.note(self.node, "a hole is passed over");
        }
        self.next = self.next.max(record.seq + 1);
        Some(Record { seq: record.seq - self.hidden, ..record })
    }
}
