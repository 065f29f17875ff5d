//! Following a stream: an ephemeral consumer that is thrown away at the first doubt, held against the leader's head.
//!
//! A consumer may stand on a replica that lags, lost messages, or stalls in silence; so every sequence must follow the
//! one before it, and every second the leader says where the log ends. What is missing is asked of the leader itself
//! before it is called a hole.
//!
//! A replica learns of a record when the leader has told it and its own disk has taken it, which may be long after the
//! leader's ack: so a tail that has read everything moves to the leader itself, and what is acknowledged is on its way.

use std::collections::VecDeque;
use std::mem::discriminant;
use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::Message;
use async_nats::jetstream::consumer::pull;
use futures_util::FutureExt;
use futures_util::future::{LocalBoxFuture, join_all, pending};
use futures_util::stream::{self, LocalBoxStream, StreamExt};
use portcullis_config::limits::{
    AWAY_PAUSE, HEAD_POLL, HEAD_POLL_LEAST, LEADER_READS, QUORUM_BEAT, SERVER_PATIENCE, TAIL_BATCH, TAIL_CONFIRM,
    TAIL_FETCH, TAIL_HEARTBEAT, TAIL_SEEK_PAUSE, TAIL_SEEKS, TAIL_STALL,
};
use portcullis_events::Time;
use tokio::time::{Instant, sleep, sleep_until};

use super::super::heads::Heads;
use super::{Head, Info, Record, TailFault, Tailed, head, record};
use crate::clock;
use crate::databroker::nats::{Consumers, Find, Reading, Stream, StreamError, jittered, quorum};

pub(super) fn follow(stream: Arc<Stream>, after: u64) -> LocalBoxStream<'static, Result<Tailed, TailFault>> {
    let now = Instant::now();
    let tail = Tail {
        stream,
        seen: after,
        known: None,
        consumer: None,
        ahead: VecDeque::new(),
        place: Place::default(),
        restarts: 0,
        missing: None,
        lacking: 0,
        unanswered: 0,
        heads: Heads::default(),
        asked: None,
        poll_at: now,
        idle_since: now,
        left_at: now,
        suspicion: None,
    };
    stream::unfold(Some(tail), |tail| async {
        let mut tail = tail?;
        match tail.next().await {
            Ok(item) => Some((Ok(item), Some(tail))),
            Err(fault) => Some((Err(fault), None)),
        }
    })
    .boxed_local()
}

struct Tail {
    stream: Arc<Stream>,
    /// Everything up to here was yielded.
    seen: u64,
    /// Where the leader said that the log ends; absent before it was first heard.
    known: Option<u64>,
    consumer: Option<pull::Stream>,
    /// What the leader gave beyond the record that it was asked for.
    ahead: VecDeque<Record>,
    place: Place,
    /// How often the consumer was begun anew since the last record.
    restarts: u32,
    /// The sequence that the leader itself did not have when it was last asked for it.
    missing: Option<u64>,
    /// How many records the leader lacked when it was last heard; other replicas may have them.
    lacking: u64,
    /// How often in a row the question to the leader had no good answer.
    unanswered: u32,
    heads: Heads,
    /// The question to the leader that is under way: records go on arriving meanwhile.
    asked: Option<LocalBoxFuture<'static, Answer>>,
    poll_at: Instant,
    /// Since when nothing came, the time apart in which nobody asked for it.
    idle_since: Instant,
    left_at: Instant,
    /// What the leader's last answer would mean if the next one says the same: a new leader may stumble.
    suspicion: Option<TailFault>,
}

/// Where the consumer is, and where it should be.
#[derive(Debug, Default)]
struct Place {
    /// The server that the consumer is on, if the servers are many.
    at: Option<String>,
    /// The leader of the stream.
    leader: Option<String>,
    /// How many consumers may be begun now to get one at the leader.
    seeks: u32,
    /// When that may be tried again, and the pause after it.
    again: Option<(Instant, Duration)>,
}

impl Place {
    /// Whether a consumer on this server does.
    fn will_do(&mut self, at: Option<&str>) -> bool {
        self.seeks = self.seeks.saturating_sub(1);
        self.seeks == 0 || at == self.leader.as_deref()
    }

    /// The stream's leader is this one, and there is nothing to read: whether to look for a consumer there.
    fn seek(&mut self, leader: Option<&str>, now: Instant) -> bool {
        if self.leader.as_deref() != leader {
            (self.leader, self.again) = (leader.map(str::to_owned), None);
        }
        if self.leader.is_none() || self.at.is_none() || self.at == self.leader {
            self.again = None;
            return false;
        }
        let pause = match self.again {
            Some((at, _)) if now < at => return false,
            Some((_, pause)) => (pause * 2).min(TAIL_SEEK_PAUSE.1),
            None => TAIL_SEEK_PAUSE.0,
        };
        self.again = Some((now + pause, pause));
        self.seeks = TAIL_SEEKS;
        true
    }
}

/// What the leader said.
struct Answer {
    /// When it was asked.
    at: Time,
    /// What had been yielded then.
    seen: u64,
    info: Result<Info, StreamError>,
}

/// What a sequence means to a tail that has seen another.
#[derive(Debug, PartialEq, Eq)]
enum Order {
    Next,
    Again,
    Gap,
}

const fn order(seen: u64, seq: u64) -> Order {
    if seq == seen + 1 {
        Order::Next
    } else if seq <= seen {
        Order::Again
    } else {
        Order::Gap
    }
}

/// What the leader's head means to a tail that has seen so much of the log.
fn judge(seen: u64, head: Head) -> Result<(), TailFault> {
    if head.last < seen {
        return Err(TailFault::Backwards { last: head.last, seen });
    }
    if head.first > seen + 1 {
        return Err(TailFault::Hole { missing: seen + 1 });
    }
    Ok(())
}

impl Tail {
    async fn next(&mut self) -> Result<Tailed, TailFault> {
        self.idle_since += self.left_at.elapsed();
        loop {
            if let Some(head) = self.heads.due(self.seen) {
                self.left_at = Instant::now();
                return Ok(head);
            }
            if let Some(item) = self.step().await? {
                self.left_at = Instant::now();
                return Ok(item);
            }
        }
    }

    async fn step(&mut self) -> Result<Option<Tailed>, TailFault> {
        if self.asked.is_none() && Instant::now() >= self.poll_at {
            self.poll_at = Instant::now() + jittered(HEAD_POLL);
            let elsewhere = self.unanswered >= SERVER_PATIENCE;
            if elsewhere {
                self.unanswered = 0;
            }
            self.asked = Some(ask(Arc::clone(&self.stream), self.seen, elsewhere).boxed_local());
        }
        let behind = self.known.is_some_and(|known| known > self.seen);
        if let (Some(known), None) = (self.known, &self.consumer) {
            if self.asked.is_some() {
                // the answer may say why there is none
                let answer = until_ready(&mut self.asked).await;
                self.asked = None;
                return self.hear(answer);
            }
            // a fresh consumer did not help, or there can be none: the leader itself is asked
            let is_alone = matches!(self.stream.consumers(), Consumers::None);
            if behind && (is_alone || self.restarts > 1) {
                return self.fetch(known).await;
            }
            if !is_alone {
                return Ok(self.begin(known).await);
            }
        }
        let stall_at = self.idle_since + TAIL_STALL;
        let wake_at = if behind { stall_at.min(self.poll_at) } else { self.poll_at };
        tokio::select! {
            biased;
            answer = until_ready(&mut self.asked) => {
                self.asked = None;
                self.hear(answer)
            }
            message = until_next(&mut self.consumer) => Ok(match message {
                Some(Ok(message)) => self.receive(&message),
                Some(Err(error)) => self.restart(&error.to_string()),
                None => self.restart("the consumer ended"),
            }),
            () = sleep_until(wake_at), if self.asked.is_none() || behind => {
                let stalled = behind && self.consumer.is_some() && Instant::now() >= stall_at;
                Ok(if stalled { self.restart("it does not move") } else { None })
            }
        }
    }

    fn receive(&mut self, message: &Message) -> Option<Tailed> {
        let Ok(info) = message.info() else { return self.restart("a message that is not from the stream") };
        match order(self.seen, info.stream_sequence) {
            Order::Again => None,
            Order::Gap => self.restart("a gap"),
            Order::Next => {
                let (seq, subject) = (info.stream_sequence, message.subject.to_string());
                Some(self.advance(Record { seq, subject, body: message.payload.to_vec() }))
            }
        }
    }

    fn advance(&mut self, record: Record) -> Tailed {
        self.seen = record.seq;
        self.idle_since = Instant::now();
        (self.restarts, self.missing) = (0, None);
        Tailed::Record(record)
    }

    fn restart(&mut self, why: &str) -> Option<Tailed> {
        tracing::debug!(why, seen = self.seen, "the tail of the log begins anew");
        self.consumer = None;
        self.restarts = self.restarts.saturating_add(1);
        // the reason may be the log itself
        self.poll_at = self.poll_at.min(Instant::now() + TAIL_CONFIRM);
        self.stream.nats().objections().lately().map(Tailed::Away)
    }

    /// A consumer from where we stand.
    async fn begin(&mut self, known: u64) -> Option<Tailed> {
        if self.restarts > 1 {
            sleep(jittered(AWAY_PAUSE)).await;
        }
        let consumer = loop {
            let consumer = match self.stream.read(Reading::After(self.seen)).await {
                Ok(consumer) => consumer,
                Err(error) => return self.restart(&error),
            };
            let at = consumer.cached_info().cluster.as_ref().and_then(|cluster| cluster.leader.clone());
            // one that is not used goes away by itself
            if self.place.will_do(at.as_deref()) {
                self.place.at = at;
                break consumer;
            }
        };
        let is_far = known.saturating_sub(self.seen) > u64::try_from(TAIL_BATCH.0).unwrap_or(u64::MAX);
        let fetch = consumer.stream().max_messages_per_batch(if is_far { TAIL_BATCH.1 } else { TAIL_BATCH.0 });
        match fetch.heartbeat(TAIL_HEARTBEAT).expires(TAIL_FETCH).messages().await {
            Ok(messages) => {
                self.consumer = Some(messages);
                self.idle_since = Instant::now();
                None
            }
            Err(error) => self.restart(&error.to_string()),
        }
    }

    /// The next record from the leader. It is a hole only where the leader says twice that it has none.
    async fn fetch(&mut self, known: u64) -> Result<Option<Tailed>, TailFault> {
        let missing = self.seen + 1;
        if let Some(next) = self.ahead.pop_front().filter(|next| next.seq == missing) {
            return Ok(Some(self.advance(next)));
        }
        let is_own = matches!(self.stream.consumers(), Consumers::Own);
        let last = if is_own { missing } else { known.min(missing.saturating_add(LEADER_READS)) };
        let all = join_all((missing..=last).map(|seq| self.stream.find(Find::At(seq)))).await;
        let mut all = all.into_iter();
        let first = all.next().unwrap_or(Ok(None));
        self.ahead = all.map_while(|found| found.ok().flatten()).map(record).collect();
        match first {
            Ok(Some(stored)) => {
                if is_own {
                    tracing::warn!(seq = missing, "a replica of the log lacks a record that its leader has");
                }
                Ok(Some(self.advance(record(stored))))
            }
            Ok(None) if self.missing == Some(missing) => Err(TailFault::Hole { missing }),
            Ok(None) => {
                self.missing = Some(missing);
                sleep(TAIL_CONFIRM).await;
                Ok(None)
            }
            Err(_) => {
                // the poll will say what is wrong; until then a consumer is tried again
                self.restarts = 0;
                sleep(jittered(AWAY_PAUSE)).await;
                Ok(None)
            }
        }
    }

    /// What the leader says of where the log stands, and whether it still is the same log.
    fn hear(&mut self, answer: Answer) -> Result<Option<Tailed>, TailFault> {
        let info = match answer.info {
            Ok(info) => {
                self.unanswered = 0;
                self.count(&info);
                info
            }
            Err(StreamError::Away(why)) => {
                self.unanswered += 1;
                return Ok(Some(Tailed::Away(why)));
            }
            Err(StreamError::Gone(why)) => return self.suspect(TailFault::Replaced(why)),
            Err(StreamError::Differs(why)) => return self.suspect(TailFault::Broken(why)),
        };
        let (head, heard) = (head(&info), quorum(&info).unwrap_or(Duration::MAX));
        if self.known.is_none() && self.seen == 0 {
            // whoever has nothing yet begins with what is kept
            self.seen = head.first.saturating_sub(1);
        }
        // what came after the question may be missing from the answer
        let seen = if self.known.is_none() { self.seen } else { answer.seen };
        if let Err(fault) = judge(seen, head) {
            return self.suspect(fault);
        }
        self.suspicion = None;
        if self.known.is_none_or(|known| known <= self.seen) {
            // until now there was nothing to wait for
            self.idle_since = Instant::now();
        }
        self.known = Some(head.last);
        // asked just after the replicas' next sign of life, it can prove the most
        let beat = QUORUM_BEAT.saturating_sub(heard).max(HEAD_POLL_LEAST);
        self.poll_at = self.poll_at.min(Instant::now() + beat);
        let leader = info.cluster.as_ref().and_then(|cluster| cluster.leader.as_deref());
        let follows = head.last <= self.seen && self.restarts == 0 && self.consumer.is_some();
        if follows && self.place.seek(leader, Instant::now()) {
            self.consumer = None;
        }
        // another leader may have spoken since this one was last followed
        self.heads.heard(self.seen, head, answer.at.minus(heard));
        Ok(None)
    }

    /// Nothing ever leaves this log: what its leader lacks, it lost.
    fn count(&mut self, info: &Info) {
        let state = &info.state;
        let span = (state.last_sequence + 1).saturating_sub(state.first_sequence);
        let lacking = if state.messages == 0 { 0 } else { span.saturating_sub(state.messages) };
        if lacking > 0 && lacking != self.lacking {
            tracing::error!(lacking, "the leader of the log lacks records: one of its files is damaged");
        }
        self.lacking = lacking;
    }

    fn suspect(&mut self, fault: TailFault) -> Result<Option<Tailed>, TailFault> {
        if self.suspicion.as_ref().is_some_and(|before| discriminant(before) == discriminant(&fault)) {
            return Err(fault);
        }
        self.poll_at = Instant::now() + TAIL_CONFIRM;
        self.suspicion = Some(fault);
        Ok(None)
    }
}

async fn ask(stream: Arc<Stream>, seen: u64, elsewhere: bool) -> Answer {
    if elsewhere {
        stream.nats().go_elsewhere().await;
    }
    let at = clock::now();
    Answer { at, seen, info: stream.info().await }
}

async fn until_ready(asked: &mut Option<LocalBoxFuture<'static, Answer>>) -> Answer {
    match asked {
        Some(answer) => answer.await,
        None => pending().await,
    }
}

async fn until_next(consumer: &mut Option<pull::Stream>) -> Option<<pull::Stream as futures_util::Stream>::Item> {
    match consumer {
        Some(consumer) => consumer.next().await,
        None => pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_taken_only_where_it_follows_the_last() {
        assert_eq!(order(4, 5), Order::Next);
        assert_eq!(order(4, 4), Order::Again);
        assert_eq!(order(4, 1), Order::Again);
        assert_eq!(order(4, 6), Order::Gap);
    }

    #[test]
    fn a_consumer_is_sought_at_the_leader_in_few_goes_and_ever_more_rarely() {
        let now = Instant::now();
        let mut place = Place { at: Some("a".into()), ..Place::default() };
        assert!(!place.seek(None, now), "one server alone");
        assert!(place.seek(Some("b"), now));
        let mut begun = 1;
        while !place.will_do(Some("c")) {
            begun += 1;
        }
        assert_eq!(begun, TAIL_SEEKS);
        assert!(!place.seek(Some("b"), now), "not again at once");
        let (first, second) = (now + TAIL_SEEK_PAUSE.0, now + TAIL_SEEK_PAUSE.0 * 2);
        assert!(place.seek(Some("b"), first) && !place.seek(Some("b"), second), "and then later still");
        assert!(place.seek(Some("c"), second), "another leader is another matter");
        assert!(place.will_do(Some("c")), "the first that is there");
        place.at = Some("c".into());
        assert!(!place.seek(Some("c"), second + TAIL_SEEK_PAUSE.1));
    }

    #[test]
    fn a_head_before_what_was_seen_is_a_log_that_went_backwards() {
        assert_eq!(judge(4, Head { last: 4, first: 1 }), Ok(()));
        assert_eq!(judge(4, Head { last: 3, first: 1 }), Err(TailFault::Backwards { last: 3, seen: 4 }));
    }

    #[test]
    fn a_log_cut_off_past_what_was_seen_has_a_hole() {
        assert_eq!(judge(4, Head { last: 9, first: 5 }), Ok(()));
        assert_eq!(judge(4, Head { last: 9, first: 6 }), Err(TailFault::Hole { missing: 5 }));
        assert_eq!(judge(9, Head { last: 9, first: 10 }), Ok(()));
    }
}
