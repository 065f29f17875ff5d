//! The log of a simulation: calls that are lost on the way there or back, a wire that goes away, deliveries with holes.

use std::collections::VecDeque;
use std::sync::Arc;

use async_trait::async_trait;
use futures_util::StreamExt;
use futures_util::stream::{self, LocalBoxStream};
use portcullis_actors::clock;
use portcullis_actors::databroker::log::{AppendError, Head, Log, NewRecord, Record, TailFault, Tailed, Unavailable};
use portcullis_config::limits::{APPEND_ATTEMPT, APPEND_DEADLINE, HEAD_POLL, STORE_REQUEST};
use portcullis_events::{Aggregate, Envelope, Event, token};
use tokio::time::Instant;

use crate::mutant::Mutant;
use crate::world::World;

/// How far the copy of a mutant lags, in milliseconds.
const LAG: i64 = 2_000;

/// The log as one node reaches it.
pub struct SimLog {
    /// The shared ground.
    pub world: Arc<World>,
    /// Which node.
    pub node: usize,
}

impl SimLog {
    /// One try of an append; `None` where no answer came.
    async fn attempt(&self, record: &NewRecord) -> Option<Result<u64, AppendError>> {
        let world = &self.world;
        world.way().await;
        if !world.reaches(self.node) || world.fault(7) {
            world.note(self.node, &format!("{} lost on its way", record.aggregate.kind.name()));
            if world.is(Mutant::RemembersTheLost) {
                world.remember(record.id);
            }
            if world.fault(40) {
                world.keep_back(self.node, record);
            }
            tokio::time::sleep(APPEND_ATTEMPT).await;
            return None;
        }
        let outcome = match world.mutant {
            Some(Mutant::TwoSteps) => self.store_in_two_steps(record).await,
            Some(Mutant::LosesIntents) if is_intent(record) => Ok(world.head().last),
            Some(Mutant::IgnoresExpectation) => Ok(world.put_record(self.node, record)),
            _ => world.store(self.node, record),
        };
        if world.fault(4) {
            world.keep_back(self.node, record);
        }
        world.way().await;
        if !world.reaches(self.node) || world.fault(7) {
            world.note(self.node, &format!("{}: answer lost", record.aggregate.kind.name()));
            tokio::time::sleep(APPEND_ATTEMPT).await;
            return None;
        }
        Some(outcome)
    }

    async fn store_in_two_steps(&self, record: &NewRecord) -> Result<u64, AppendError> {
        self.world.check(self.node, record)?;
        self.world.way().await;
        Ok(self.world.put_record(self.node, record))
    }

    /// A question to the authority.
    async fn ask<T>(&self, answer: impl FnOnce(&World) -> T) -> Result<T, Unavailable> {
        self.world.way().await;
        let answer = self.world.reaches(self.node).then(|| answer(&self.world));
        self.world.way().await;
        match answer {
            Some(answer) if self.world.reaches(self.node) && !self.world.fault(4) => Ok(answer),
            Some(_) | None => {
                tokio::time::sleep(STORE_REQUEST).await;
                Err(Unavailable("no answer came".into()))
            }
        }
    }
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
        self.ask(|world| world.last_before(aggregate, lag).map(|kept| kept.record)).await
    }

    fn tail(&self, after: u64) -> LocalBoxStream<'static, Result<Tailed, TailFault>> {
        let tail = Tail {
            world: Arc::clone(&self.world),
            node: self.node,
            next: after + 1,
            hidden: 0,
            delivered: VecDeque::new(),
            is_away: false,
            head_due: None,
        };
        stream::unfold(tail, |mut tail| async move { Some((Ok(tail.item().await), tail)) }).boxed_local()
    }
}

struct Tail {
    world: Arc<World>,
    node: usize,
    /// The next sequence that is wanted.
    next: u64,
    /// How many sequences were swallowed (by a mutant).
    hidden: u64,
    /// What the wire brought and was not looked at yet.
    delivered: VecDeque<Record>,
    is_away: bool,
    /// When to ask for the head again; at first, once everything was read.
    head_due: Option<Instant>,
}

impl Tail {
    async fn item(&mut self) -> Tailed {
        loop {
            if let Some(record) = self.delivered.pop_front() {
                // one at a time, so that of those who wait for a sequence one at most is woken to go on
                tokio::time::sleep(self.world.span(3)).await;
                if let Some(record) = self.accept(record) {
                    return Tailed::Record(record);
                }
                continue;
            }
            if !self.world.reaches(self.node) || self.world.fault(2) {
                if !std::mem::replace(&mut self.is_away, true) {
                    return Tailed::Away("the wire is cut".into());
                }
                tokio::time::sleep(self.world.span(1000)).await;
                continue;
            }
            self.is_away = false;
            if !self.world.hears(self.node) {
                self.world.news[self.node].notified().await;
                continue;
            }
            if self.head_due.is_some_and(|due| due <= Instant::now()) {
                if let Some(head) = self.head().await {
                    return head;
                }
            } else if self.next <= self.world.head().last {
                self.world.way().await;
                self.fetch();
            } else {
                let due = *self.head_due.get_or_insert_with(Instant::now);
                // woken by news or by the time: looked at alike
                let _ = tokio::time::timeout_at(due, self.world.news[self.node].notified()).await;
            }
        }
    }

    /// A delivery: some of it lost, some of it twice.
    fn fetch(&mut self) {
        if !self.world.reaches(self.node) {
            return;
        }
        let from = usize::try_from(self.next).unwrap() - 1;
        for kept in self.world.since(from) {
            let times = if self.world.fault(8) { 0 } else { 1 + u8::from(self.world.fault(8)) };
            (0..times).for_each(|_| self.delivered.push_back(kept.record.clone()));
        }
        // a copy of something from long ago
        if self.world.fault(4) && from > 0 {
            self.delivered.extend(self.world.since(from - 1).first().map(|kept| kept.record.clone()));
        }
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
                return None;
            }
            self.world.note(self.node, "a hole is passed over");
        }
        self.next = self.next.max(record.seq + 1);
        Some(Record { seq: record.seq - self.hidden, ..record })
    }

    async fn head(&mut self) -> Option<Tailed> {
        let asked = clock::now();
        self.world.way().await;
        let head = self.world.reaches(self.node).then(|| self.world.head())?;
        let late = if self.world.fault(5) { 3_000 } else { 20 };
        tokio::time::sleep(self.world.span(late)).await;
        if !self.world.reaches(self.node) {
            return None;
        }
        self.head_due = Some(Instant::now() + HEAD_POLL);
        let at = if self.world.is(Mutant::DatesHeadsLate) { clock::now() } else { asked };
        Some(Tailed::Head { head: Head { last: head.last - self.hidden, ..head }, at })
    }
}
