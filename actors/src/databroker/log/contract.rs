//! What every log promises, as tests that each backend runs on fresh ground.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::{join_all, try_join_all};
use futures_util::stream::LocalBoxStream;
use portcullis_config::limits::{EVENT_BYTES, HEAD_POLL};
use portcullis_events::{Aggregate, EventId, SessionId};
use uuid::Uuid;

use super::{AppendError, Expected, Head, Log, NewRecord, Record, TailFault, Tailed};

/// Where a log stands: something that can crash and be entered by another handle.
pub(super) trait Ground: Sized {
    /// An empty log.
    async fn fresh() -> Self;

    /// The log.
    fn log(&self) -> Arc<dyn Log>;

    /// The same log through another handle, as another process would have it.
    async fn another_handle(&self) -> Arc<dyn Log>;

    /// Loses everything that a crash loses, and comes back.
    async fn crash(&mut self);
}

/// Every promise as a test on one ground.
macro_rules! contract {
    ($ground:ty) => {
        contract!($ground:
            an_empty_log_says_so_at_once,
            sequences_begin_at_one_and_have_no_holes,
            a_wrong_expectation_is_told_where_the_aggregate_stands,
            of_many_appends_with_one_expectation_one_wins,
            the_same_event_is_stored_once_however_often_it_is_appended,
            the_last_record_of_an_aggregate_is_found,
            a_thousand_appends_at_once_are_tailed_in_order,
            a_tail_begins_where_it_is_told,
            what_was_known_at_the_start_is_followed_by_a_head,
            a_quiet_log_proves_that_it_is_fresh,
            records_of_another_handle_arrive,
            what_was_acknowledged_survives_a_crash,
            an_event_that_is_too_large_is_refused,
            a_log_that_ends_before_what_was_seen_went_backwards,
        );
    };
    ($ground:ty: $($promise:ident),+ $(,)?) => {
        $(#[actix::test]
        async fn $promise() {
            crate::databroker::log::contract::$promise(<$ground as crate::databroker::log::contract::Ground>::fresh().await).await;
        })+
    };
}
pub(super) use contract;

pub(super) fn session(number: u128) -> Aggregate {
    Aggregate::session(SessionId::new(Uuid::from_u128(number)))
}

pub(super) fn event(aggregate: Aggregate, expected: Expected, body: &str) -> NewRecord {
    NewRecord { aggregate, expected, id: EventId::new(Uuid::now_v7()), body: body.as_bytes().to_vec() }
}

/// Appends as many first events of sessions 1, 2, 3 …, one after the other.
pub(super) async fn append_each(log: &dyn Log, numbers: impl IntoIterator<Item = u128>) {
    for number in numbers {
        log.append(event(session(number), Expected::NoStream, &format!("event {number}"))).await.unwrap();
    }
}

pub(super) type Tail = LocalBoxStream<'static, Result<Tailed, TailFault>>;

/// Longer than three servers take to choose a leader, on a busy machine.
const ELECTION: Duration = Duration::from_secs(60);

/// Longer than anything here may take: a tail that keeps silent about what is waited for fails its test.
async fn soon<T>(what: &str, come: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), come).await.unwrap_or_else(|_| panic!("no {what} came"))
}

async fn any(tail: &mut Tail) -> Result<Tailed, TailFault> {
    tail.next().await.expect("the tail ended")
}

/// Where the log stands, as soon as its authority answers: on a cluster it may have to be chosen first.
pub(super) async fn head_of(log: &dyn Log) -> Head {
    let answer = async {
        loop {
            if let Ok(head) = log.head().await {
                return head;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(ELECTION, answer).await.expect("no authority answered")
}

/// The next item.
pub(super) async fn next(tail: &mut Tail) -> Result<Tailed, TailFault> {
    soon("item", any(tail)).await
}

/// The next record, whatever is said in between.
pub(super) async fn next_record(tail: &mut Tail) -> Record {
    let record = async {
        loop {
            if let Tailed::Record(record) = any(tail).await.unwrap() {
                return record;
            }
        }
    };
    soon("record", record).await
}

/// The next head, whatever is said in between.
pub(super) async fn next_head(tail: &mut Tail) -> Head {
    let head = async {
        loop {
            if let Tailed::Head { head, .. } = any(tail).await.unwrap() {
                return head;
            }
        }
    };
    soon("head", head).await
}

/// The fault that ends a tail.
pub(super) async fn fault(tail: &mut Tail) -> TailFault {
    let fault = async {
        loop {
            if let Err(fault) = any(tail).await {
                return fault;
            }
        }
    };
    let fault = soon("fault", fault).await;
    assert!(tail.next().await.is_none(), "a tail goes on after its fault");
    fault
}

pub(super) async fn an_empty_log_says_so_at_once(ground: impl Ground) {
    assert_eq!(head_of(&*ground.log()).await, Head { last: 0, first: 1 });
    assert_eq!(ground.log().last(session(1)).await.unwrap(), None);
    let first = next(&mut ground.log().tail(0)).await.unwrap();
    assert!(matches!(first, Tailed::Head { head: Head { last: 0, first: 1 }, .. }), "{first:?}");
}

pub(super) async fn sequences_begin_at_one_and_have_no_holes(ground: impl Ground) {
    let log = ground.log();
    assert_eq!(log.append(event(session(1), Expected::NoStream, "a")).await, Ok(1));
    assert_eq!(log.append(event(session(2), Expected::NoStream, "b")).await, Ok(2));
    let conflict = log.append(event(session(2), Expected::NoStream, "c")).await;
    assert_eq!(conflict, Err(AppendError::Conflict { actual: 2 }));
    assert_eq!(log.append(event(session(1), Expected::Seq(1), "d")).await, Ok(3));
    assert_eq!(head_of(&*log).await, Head { last: 3, first: 1 });
}

pub(super) async fn a_wrong_expectation_is_told_where_the_aggregate_stands(ground: impl Ground) {
    let log = ground.log();
    append_each(&*log, 1..=2).await;
    log.append(event(session(1), Expected::Seq(1), "second")).await.unwrap();
    for (aggregate, expected, actual) in [
        (session(1), Expected::NoStream, 3),
        (session(1), Expected::Seq(1), 3),
        (session(1), Expected::Seq(2), 3),
        (session(1), Expected::Seq(4), 3),
        (session(2), Expected::NoStream, 2),
        (session(3), Expected::Seq(3), 0),
    ] {
        let outcome = log.append(event(aggregate, expected, "late")).await;
        assert_eq!(outcome, Err(AppendError::Conflict { actual }), "{aggregate} {expected:?}");
    }
    assert_eq!(head_of(&*log).await.last, 3);
}

/// Several writers push the same two aggregates on; each step has one winner, and the chain has no fork.
pub(super) async fn of_many_appends_with_one_expectation_one_wins(ground: impl Ground) {
    const WRITERS: u128 = 8;
    const STEPS: usize = 12;
    let wins = join_all((0..WRITERS).map(|writer| {
        let log = ground.log();
        async move { climb(&*log, session(writer % 2), STEPS).await }
    }));
    let wins: usize = wins.await.into_iter().sum();
    assert_eq!(wins, 2 * STEPS, "a step had no winner, or two");
    let mut tail = ground.log().tail(0);
    for seq in 1..=2 * STEPS {
        assert_eq!(next_record(&mut tail).await.seq, u64::try_from(seq).unwrap());
    }
}

/// Appends until the aggregate has taken so many steps; answers with how many of them were ours.
async fn climb(log: &dyn Log, aggregate: Aggregate, steps: usize) -> usize {
    let (mut wins, mut step, mut expected) = (0, 0, Expected::NoStream);
    while step < steps {
        match log.append(event(aggregate, expected, &step.to_string())).await {
            Ok(seq) => {
                (wins, step, expected) = (wins + 1, step + 1, Expected::Seq(seq));
            }
            Err(AppendError::Conflict { actual }) => {
                let last = log.last(aggregate).await.unwrap().expect("a conflict with nothing");
                assert!(last.seq >= actual);
                step = String::from_utf8(last.body).unwrap().parse::<usize>().unwrap() + 1;
                expected = Expected::Seq(last.seq);
            }
            Err(error) => panic!("{error}"),
        }
    }
    wins
}

pub(super) async fn the_same_event_is_stored_once_however_often_it_is_appended(ground: impl Ground) {
    let log = ground.log();
    let first = event(session(1), Expected::NoStream, "first");
    let second = event(session(1), Expected::Seq(1), "second");
    let at_once = try_join_all((0..4).map(|_| log.append(first.clone()))).await.unwrap();
    assert_eq!(at_once, [1; 4]);
    assert_eq!(log.append(second.clone()).await, Ok(2));
    // the aggregate has moved on, and still the answer is where the event lies
    assert_eq!(log.append(first).await, Ok(1));
    assert_eq!(log.append(second).await, Ok(2));
    assert_eq!(head_of(&*log).await.last, 2);
}

pub(super) async fn the_last_record_of_an_aggregate_is_found(ground: impl Ground) {
    let log = ground.log();
    append_each(&*log, 1..=2).await;
    log.append(event(session(1), Expected::Seq(1), "newer")).await.unwrap();
    let last = log.last(session(1)).await.unwrap();
    assert_eq!(last, Some(Record { seq: 3, subject: session(1).subject(), body: b"newer".to_vec() }));
    assert_eq!(log.last(session(2)).await.unwrap().map(|last| last.seq), Some(2));
    assert_eq!(log.last(session(3)).await.unwrap(), None);
}

pub(super) async fn a_thousand_appends_at_once_are_tailed_in_order(ground: impl Ground) {
    let log = ground.log();
    let mut tail = log.tail(0);
    let appended = async {
        let all = (1..=1000).map(|number| log.append(event(session(number), Expected::NoStream, &number.to_string())));
        try_join_all(all).await.unwrap()
    };
    let tailed = async {
        let mut tailed = Vec::new();
        while tailed.len() < 1000 {
            tailed.push(next_record(&mut tail).await);
        }
        tailed
    };
    let (appended, tailed) = futures_util::future::join(appended, tailed).await;
    assert_eq!(appended.iter().copied().collect::<BTreeSet<_>>(), (1..=1000).collect());
    assert_eq!(tailed.iter().map(|record| record.seq).collect::<Vec<_>>(), (1..=1000).collect::<Vec<_>>());
    for (number, seq) in (1..=1000_u128).zip(appended) {
        let record = &tailed[usize::try_from(seq).unwrap() - 1];
        assert_eq!(
            (record.subject.clone(), record.body.clone()),
            (session(number).subject(), number.to_string().into())
        );
    }
}

pub(super) async fn a_tail_begins_where_it_is_told(ground: impl Ground) {
    append_each(&*ground.log(), 1..=5).await;
    let mut tail = ground.log().tail(3);
    assert_eq!(next_record(&mut tail).await.seq, 4);
    assert_eq!(next_record(&mut tail).await.seq, 5);
    append_each(&*ground.log(), 6..=6).await;
    assert_eq!(next_record(&mut tail).await.body, b"event 6");
    let mut at_the_end = ground.log().tail(6);
    assert!(matches!(next(&mut at_the_end).await.unwrap(), Tailed::Head { head: Head { last: 6, first: 1 }, .. }));
}

pub(super) async fn what_was_known_at_the_start_is_followed_by_a_head(ground: impl Ground) {
    append_each(&*ground.log(), 1..=3).await;
    let mut tail = ground.log().tail(0);
    while next_record(&mut tail).await.seq < 3 {}
    let after = next(&mut tail).await.unwrap();
    assert!(matches!(after, Tailed::Head { head: Head { last: 3, first: 1 }, .. }), "{after:?}");
}

pub(super) async fn a_quiet_log_proves_that_it_is_fresh(ground: impl Ground) {
    let mut tail = ground.log().tail(0);
    // each says when it was true, which need not be later than what was said before, but goes on with time
    let goes_on = async {
        let mut first = None;
        loop {
            match any(&mut tail).await.unwrap() {
                Tailed::Head { at, .. } if at > first.get_or_insert(at).plus(HEAD_POLL) => return,
                // a server that is slow to answer is heard of later
                Tailed::Head { .. } | Tailed::Away(_) => {}
                Tailed::Record(record) => panic!("{record:?}"),
            }
        }
    };
    soon("later head", goes_on).await;
}

pub(super) async fn records_of_another_handle_arrive(ground: impl Ground) {
    let other = ground.another_handle().await;
    let mut tail = other.tail(0);
    assert_eq!(next_head(&mut tail).await.last, 0);
    append_each(&*ground.log(), 1..=2).await;
    assert_eq!(next_record(&mut tail).await.body, b"event 1");
    assert_eq!(next_record(&mut tail).await.body, b"event 2");
    assert_eq!(head_of(&*other).await.last, 2);
}

pub(super) async fn what_was_acknowledged_survives_a_crash(mut ground: impl Ground) {
    append_each(&*ground.log(), 1..=20).await;
    ground.crash().await;
    let log = ground.log();
    assert_eq!(head_of(&*log).await, Head { last: 20, first: 1 });
    let mut tail = log.tail(0);
    for number in 1..=20 {
        assert_eq!(next_record(&mut tail).await.body, format!("event {number}").into_bytes());
    }
    assert_eq!(log.append(event(session(20), Expected::Seq(20), "after")).await, Ok(21));
    assert_eq!(next_record(&mut tail).await.body, b"after");
}

pub(super) async fn an_event_that_is_too_large_is_refused(ground: impl Ground) {
    let log = ground.log();
    let large = log.append(event(session(1), Expected::NoStream, &"x".repeat(EVENT_BYTES + 1))).await;
    assert!(matches!(large, Err(AppendError::Refused(_))), "{large:?}");
    assert_eq!(log.append(event(session(1), Expected::NoStream, &"x".repeat(EVENT_BYTES))).await, Ok(1));
    assert_eq!(next_record(&mut log.tail(0)).await.body.len(), EVENT_BYTES);
}

pub(super) async fn a_log_that_ends_before_what_was_seen_went_backwards(ground: impl Ground) {
    append_each(&*ground.log(), 1..=3).await;
    assert_eq!(fault(&mut ground.log().tail(5)).await, TailFault::Backwards { last: 3, seen: 5 });
}
