//! The JetStream log keeps the contract on three servers, and its word while they fall one after another.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use futures_util::future::{join, join_all};
use portcullis_config::NatsStorage;
use portcullis_config::limits::QUORUM_HEARD;
use portcullis_harness::nats_cluster::{NatsCluster, SERVERS, ask};
use portcullis_harness::process::eventually;
use serde_json::json;
use tokio::time::{Instant, timeout};

use super::super::super::contract::{
    Ground, Tail, append_each, contract, event, fault, head_of, next, next_record, session,
};
use super::super::*;
use crate::databroker::nats::shared::Account;

/// An election takes up to nine seconds, and nobody can hurry it.
const ELECTION: Duration = Duration::from_secs(15);
/// How long writers try until they give up for good.
const PATIENCE: Duration = Duration::from_secs(60);

struct Three {
    account: Account,
    log: Arc<JetStreamLog>,
}

impl Ground for Three {
    async fn fresh() -> Self {
        let account = Account::next().await;
        let log = Arc::new(JetStreamLog::new(&account.connect().await, SERVERS));
        head_of(&*log).await;
        Self { account, log }
    }

    fn log(&self) -> Arc<dyn Log> {
        self.log.clone()
    }

    async fn another_handle(&self) -> Arc<dyn Log> {
        Arc::new(JetStreamLog::new(&self.account.connect().await, SERVERS))
    }

    async fn crash(&mut self) {
        self.account.crash().await;
        self.log = Arc::new(JetStreamLog::new(&self.account.connect().await, SERVERS));
    }
}

contract!(Three);

async fn log_on(cluster: &NatsCluster) -> JetStreamLog {
    JetStreamLog::new(&Nats::connect(&NatsStorage::at(cluster.urls())).await.unwrap(), SERVERS)
}

/// What one writer was told.
#[derive(Default)]
struct Told {
    /// Where its events were stored.
    stored: BTreeMap<u64, String>,
    longest: Duration,
}

/// Goes on appending to an aggregate until told to stop; an event names the sequence that it expects before it.
async fn write(log: JetStreamLog, writer: usize, aggregate: Aggregate, stop: &AtomicBool) -> Told {
    let (mut told, mut expected, mut number) = (Told::default(), 0, 0);
    while !stop.load(Ordering::Acquire) {
        let body = format!("{writer}.{number} after {expected}");
        let before = if expected == 0 { Expected::NoStream } else { Expected::Seq(expected) };
        let new = event(aggregate, before, &body);
        let began = Instant::now();
        // the same event until it is known what came of it, as the journal does
        let outcome = loop {
            match log.append(new.clone()).await {
                Err(AppendError::Unavailable(why)) => assert!(began.elapsed() < PATIENCE, "{why}"),
                outcome => break outcome,
            }
        };
        told.longest = told.longest.max(began.elapsed());
        number += 1;
        expected = match outcome {
            Ok(seq) => {
                assert!(told.stored.insert(seq, body).is_none(), "sequence {seq} was given twice");
                seq
            }
            Err(AppendError::Conflict { actual }) => actual,
            Err(error) => panic!("{error}"),
        };
    }
    told
}

/// Every record up to the head of the log.
async fn replay(log: &JetStreamLog) -> Vec<Record> {
    let head = head_of(log).await;
    let mut tail = log.tail(0);
    let mut all = Vec::new();
    while all.len() < usize::try_from(head.last).unwrap() {
        all.push(next_record(&mut tail).await);
    }
    all
}

/// Each record of an aggregate stands on the one before it.
fn check_chain(all: &[Record]) {
    let mut tips: BTreeMap<&str, u64> = BTreeMap::new();
    for (index, record) in all.iter().enumerate() {
        assert_eq!(record.seq, u64::try_from(index).unwrap() + 1, "a hole");
        let body = std::str::from_utf8(&record.body).unwrap();
        let after: u64 = body.rsplit(' ').next().unwrap().parse().unwrap();
        assert_eq!(after, tips.insert(&record.subject, record.seq).unwrap_or(0), "the chain is broken at {record:?}");
    }
    let bodies: BTreeSet<_> = all.iter().map(|record| &record.body).collect();
    assert_eq!(bodies.len(), all.len(), "an event was stored twice");
}

#[actix::test]
async fn three_leaders_killed_under_eight_writers_lose_nothing_and_double_nothing() {
    let mut cluster = NatsCluster::start().await.unwrap();
    let log = log_on(&cluster).await;
    assert_eq!(head_of(&log).await.last, 0);
    let mut tail = log.tail(0);
    let stop = AtomicBool::new(false);
    let mut logs = Vec::new();
    for _ in 0..8 {
        logs.push(log_on(&cluster).await);
    }
    let writers = logs.into_iter().enumerate();
    let writers = writers.map(|(number, log)| write(log, number, session(u128::from(number % 2 == 0)), &stop));
    let killing = async {
        let mut seen = 0;
        for _ in 0..3 {
            seen = until_records(&mut tail, seen + 20).await;
            let leader = cluster.leader(STREAM).await.unwrap();
            cluster.kill(leader).unwrap();
            // the next is not killed before a new leader has written
            seen = until_records(&mut tail, seen + 20).await;
            cluster.restart(leader).unwrap();
            cluster.current(STREAM).await.unwrap();
        }
        stop.store(true, Ordering::Release);
    };
    let (told, ()) = join(join_all(writers), killing).await;

    let all = replay(&log).await;
    check_chain(&all);
    for (seq, body) in told.iter().flat_map(|told| &told.stored) {
        let record = &all[usize::try_from(*seq).unwrap() - 1];
        assert_eq!(record.body, body.as_bytes(), "what was acknowledged as {seq} is not there");
    }
    let longest = told.iter().map(|told| told.longest).max().unwrap();
    assert!(longest < PATIENCE, "{longest:?}");
}

/// Reads until a record with at least this sequence has come, each following the one before it.
async fn until_records(tail: &mut Tail, wanted: u64) -> u64 {
    let reading = async {
        loop {
            if let Tailed::Record(record) = next(tail).await.unwrap()
                && record.seq >= wanted
            {
                return record.seq;
            }
        }
    };
    timeout(PATIENCE, reading).await.expect("the tail stands still")
}

/// Appends one after another, each within a bound, until told to stop; how many.
async fn keep_writing(log: &JetStreamLog, stop: &AtomicBool) -> u128 {
    let mut number = 0;
    while !stop.load(Ordering::Acquire) {
        number += 1;
        let new = event(session(number), Expected::NoStream, "x");
        while log.append(new.clone()).await.is_err() {}
    }
    number
}

/// A tail that must move on until it has read what was last written, once that is known: how long it stood still at
/// most, while something happened to the servers.
async fn longest_silence(tail: &mut Tail, end: &AtomicU64) -> Duration {
    let (mut longest, mut last, mut seen) = (Duration::ZERO, Instant::now(), 0);
    while seen < end.load(Ordering::Acquire) {
        if let Tailed::Record(record) = next(tail).await.unwrap() {
            assert_eq!(record.seq, seen + 1, "a gap");
            seen = record.seq;
            longest = longest.max(last.elapsed());
            last = Instant::now();
        }
    }
    longest
}

#[actix::test]
async fn a_tail_has_no_gap_and_goes_on_whichever_server_falls() {
    let mut cluster = NatsCluster::start().await.unwrap();
    let log = log_on(&cluster).await;
    head_of(&log).await;
    let (stop, end) = (AtomicBool::new(false), AtomicU64::new(u64::MAX));
    // one tail at each server: whatever falls, one of them loses its consumer, its connection or its leader
    let mut tails = Vec::new();
    for number in 0..SERVERS {
        let nats = Nats::connect(&NatsStorage::at(vec![cluster.url(number)])).await.unwrap();
        tails.push(JetStreamLog::new(&nats, SERVERS).tail(0));
    }
    let reading = join_all(tails.iter_mut().map(|tail| longest_silence(tail, &end)));
    let breaking = async {
        let follower = (cluster.leader(STREAM).await.unwrap() + 1) % SERVERS;
        cluster.stop(follower).unwrap();
        cluster.restart(follower).unwrap();
        cluster.current(STREAM).await.unwrap();
        let leader = cluster.leader(STREAM).await.unwrap();
        cluster.stop(leader).unwrap();
        cluster.restart(leader).unwrap();
        cluster.current(STREAM).await.unwrap();
        let leader = cluster.leader(STREAM).await.unwrap();
        cluster.kill(leader).unwrap();
        cluster.leader(STREAM).await.unwrap();
        cluster.restart(leader).unwrap();
        cluster.current(STREAM).await.unwrap();
        let head = head_of(&log).await.last;
        let mut tail = log.tail(head.saturating_sub(1));
        until_records(&mut tail, head + 20).await;
        stop.store(true, Ordering::Release);
    };
    let writing = async {
        let (written, ()) = join(keep_writing(&log, &stop), breaking).await;
        assert!(written > 20);
        end.store(head_of(&log).await.last, Ordering::Release);
    };
    let (silences, ()) = join(reading, writing).await;
    for silence in silences {
        assert!(silence < 2 * ELECTION, "{silence:?}");
    }
}

#[actix::test]
async fn a_tail_that_has_read_everything_goes_to_the_leader_whoever_that_is() {
    let cluster = NatsCluster::start().await.unwrap();
    let log = log_on(&cluster).await;
    append_each(&log, 1..=3).await;
    let mut tail = log.tail(0);
    until_records(&mut tail, 3).await;
    let moving = async {
        for number in 0..SERVERS {
            cluster.lead(STREAM, number).await.unwrap();
            let at_the_leader = async || {
                let client = cluster.client().await?;
                let found = ask(&client, &format!("CONSUMER.LIST.{STREAM}"), &json!({})).await?;
                let consumers = found["consumers"].as_array().cloned().unwrap_or_default();
                // those that nobody reads from go away by themselves
                let in_use = |consumer: &&serde_json::Value| consumer["num_waiting"] == 1;
                let leaders: Vec<_> =
                    consumers.iter().filter(in_use).map(|consumer| consumer["cluster"]["leader"].clone()).collect();
                let leader = format!("nats-{}", cluster.leader(STREAM).await? + 1);
                Ok((leaders == [json!(leader)]).then_some(()))
            };
            eventually("the tail reads at the leader", 2 * PATIENCE, at_the_leader).await.unwrap();
        }
        // an election may have been held meanwhile
        while log.append(event(session(4), Expected::NoStream, "x")).await.is_err() {}
    };
    // it is read from all the while, and nothing is written before it has been everywhere
    let reading = async { while !matches!(next(&mut tail).await.unwrap(), Tailed::Record(Record { seq: 4, .. })) {} };
    join(moving, reading).await;
}

#[actix::test]
async fn a_flipped_bit_in_one_replica_is_never_a_hole_that_nobody_sees() {
    /// More than one block of the server's files: from a damaged last block it recovers by itself.
    const EVENTS: u128 = 1000;
    let events = u64::try_from(EVENTS).unwrap();
    let mut cluster = NatsCluster::start().await.unwrap();
    let log = log_on(&cluster).await;
    head_of(&log).await;
    join_all((1..=EVENTS).map(|number| {
        let (log, body) = (&log, "x".repeat(24 * 1024));
        async move { log.append(event(session(number), Expected::NoStream, &body)).await.unwrap() }
    }))
    .await;
    let damaged = (cluster.leader(STREAM).await.unwrap() + 1) % SERVERS;
    for attempt in 0..5 {
        // an orderly stop, past which its Raft log does not always reach back to mend its store
        cluster.stop(damaged).unwrap();
        cluster.flip_a_bit(damaged, STREAM, attempt).unwrap();
        cluster.restart(damaged).unwrap();
        // it says that it is current, and is elected
        cluster.current(STREAM).await.unwrap();
        cluster.lead(STREAM, damaged).await.unwrap();
        if log.stream.info().await.unwrap().state.messages < events {
            break;
        }
        cluster.lead(STREAM, (damaged + 1) % SERVERS).await.unwrap();
    }
    for leader in [damaged, damaged, damaged, (damaged + 1) % SERVERS] {
        cluster.lead(STREAM, leader).await.unwrap();
        match read_all(&log, events).await {
            // read from another replica
            Ok(()) => {}
            Err(TailFault::Hole { missing }) => assert!(missing > 1 && leader == damaged, "{missing}"),
            Err(fault) => panic!("{fault}"),
        }
    }
}

/// Reads a log that has so many records, each after the one before it, until the tail has said that this is the end.
async fn read_all(log: &JetStreamLog, records: u64) -> Result<(), TailFault> {
    let mut tail = log.tail(0);
    let mut seen = 0;
    let reading = async {
        loop {
            match next(&mut tail).await? {
                Tailed::Record(record) => {
                    assert_eq!(record.seq, seen + 1, "a hole that nobody saw");
                    seen = record.seq;
                }
                Tailed::Head { head, .. } if seen >= head.last => return Ok(seen),
                Tailed::Head { .. } | Tailed::Away(_) => {}
            }
        }
    };
    let seen = timeout(PATIENCE, reading).await.expect("the tail stands still")?;
    assert_eq!(seen, records, "what was acknowledged is not there, and nobody says so");
    Ok(())
}

fn files_under(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files_under(&path) } else { vec![path] }).collect()
}

/// What the log on one server alone says of its head.
async fn at_one(cluster: &NatsCluster, number: usize) -> JetStreamLog {
    JetStreamLog::new(&Nats::connect(&NatsStorage::at(vec![cluster.url(number)])).await.unwrap(), SERVERS)
}

/// Waits until the log does not vouch for its head any more; how long that took.
async fn until_powerless(log: &JetStreamLog) -> Duration {
    let began = Instant::now();
    let look = async || Ok(log.head().await.is_err().then(|| began.elapsed()));
    eventually("the head is not vouched for", PATIENCE, look).await.unwrap()
}

#[actix::test]
async fn a_server_that_lost_the_others_proves_no_freshness_and_believes_no_append() {
    let mut cluster = NatsCluster::start().await.unwrap();
    log_on(&cluster).await.append(event(session(1), Expected::NoStream, "x")).await.unwrap();
    let leader = cluster.leader(STREAM).await.unwrap();
    let log = at_one(&cluster, leader).await;
    assert_eq!(head_of(&log).await.last, 1);
    // the one that led is alone: the others may have a new leader, and revocations on it
    cluster.isolate(leader);
    assert!(until_powerless(&log).await < QUORUM_HEARD + Duration::from_secs(2));
    let lost = event(session(2), Expected::NoStream, "lost");
    assert!(matches!(log.append(lost.clone()).await, Err(AppendError::Unavailable(_))));
    let other = at_one(&cluster, (leader + 1) % SERVERS).await;
    let look = async || Ok(other.append(event(session(3), Expected::NoStream, "y")).await.ok());
    let stored = eventually("the others go on", PATIENCE, look).await.unwrap();
    // nothing from it as long as it takes itself for the leader, and nothing afterwards
    let client = async_nats::connect(cluster.url(leader).as_str()).await.unwrap();
    let look = async || {
        assert!(log.head().await.is_err(), "a server alone proves that nothing has happened since");
        let info = ask(&client, &format!("STREAM.INFO.{STREAM}"), &json!({})).await?;
        Ok(info.pointer("/cluster/leader").is_none().then_some(()))
    };
    eventually("it gives up", PATIENCE, look).await.unwrap();
    assert!(log.head().await.is_err());
    cluster.heal(leader);
    let look = async || Ok(log.head().await.ok().filter(|head| head.last >= stored));
    eventually("it knows what happened", PATIENCE, look).await.unwrap();
    // the append of which nothing was known is stored once, now or then
    let again = eventually("the append is stored", PATIENCE, async || Ok(log.append(lost.clone()).await.ok())).await;
    assert_eq!(log.append(lost).await, Ok(again.unwrap()));
    let bodies: Vec<_> = replay(&log).await.into_iter().map(|record| record.body).collect();
    assert_eq!(bodies.len(), 3, "{bodies:?}");
    // the same where the others are dead
    for number in (0..SERVERS).filter(|number| *number != leader) {
        cluster.kill(number).unwrap();
    }
    until_powerless(&log).await;
}

fn copy(from: &Path, to: &Path) {
    for file in files_under(from) {
        let target = to.join(file.strip_prefix(from).unwrap());
        fs::create_dir_all(target.parent().unwrap()).unwrap();
        fs::copy(&file, target).unwrap();
    }
}

#[actix::test]
async fn a_lost_server_is_filled_by_the_others_and_a_backup_can_be_restored() {
    let mut cluster = NatsCluster::start().await.unwrap();
    let log = log_on(&cluster).await;
    append_each(&log, 1..=50).await;

    // a server whose disk is gone
    cluster.stop(0).unwrap();
    cluster.wipe(0).unwrap();
    cluster.restart(0).unwrap();
    cluster.current(STREAM).await.unwrap();
    // it alone keeps what the others lose next
    cluster.lead(STREAM, 0).await.unwrap();
    assert_eq!(replay(&log).await.len(), 50);

    // the stores of all servers, one stopped after another, while the log goes on
    let backup = tempfile::tempdir().unwrap();
    for number in 0..SERVERS {
        cluster.stop(number).unwrap();
        copy(&cluster.store(number), &backup.path().join(number.to_string()));
        cluster.restart(number).unwrap();
        cluster.current(STREAM).await.unwrap();
    }
    append_each(&log, 51..=60).await;
    let before = replay(&log).await;

    // all disks are gone
    for number in 0..SERVERS {
        cluster.stop(number).unwrap();
        cluster.wipe(number).unwrap();
        copy(&backup.path().join(number.to_string()), &cluster.store(number));
    }
    for number in 0..SERVERS {
        cluster.restart(number).unwrap();
    }
    cluster.ready().await.unwrap();
    // the copies were taken one after another: a server may find that its own does not fit the others', and stay behind;
    // it is then one that was lost with its disk
    if cluster.current(STREAM).await.is_err() {
        for number in cluster.behind(STREAM).await.unwrap() {
            cluster.stop(number).unwrap();
            cluster.wipe(number).unwrap();
            cluster.restart(number).unwrap();
        }
        cluster.current(STREAM).await.unwrap();
    }
    // a node that has seen more than the backup holds does not go on; a new one does
    assert_eq!(fault(&mut log.tail(60)).await, TailFault::Backwards { last: 50, seen: 60 });
    let restored = log_on(&cluster).await;
    assert_eq!(replay(&restored).await, before[..50]);
    append_each(&restored, 51..=51).await;
}

#[actix::test]
async fn a_tail_leaves_a_server_that_lost_the_others() {
    let cluster = NatsCluster::start().await.unwrap();
    let writer = log_on(&cluster).await;
    append_each(&writer, 1..=1).await;
    let nats = Nats::connect(&NatsStorage::at(cluster.urls())).await.unwrap();
    let mut tail = JetStreamLog::new(&nats, SERVERS).tail(0);
    assert_eq!(next_record(&mut tail).await.seq, 1);
    let here = nats.client().server_info().server_name;
    let number = (0..SERVERS).find(|number| here == format!("nats-{}", number + 1)).unwrap();
    cluster.isolate(number);
    let others = (0..SERVERS).filter(|other| *other != number).map(|other| cluster.url(other)).collect();
    let writer = JetStreamLog::new(&Nats::connect(&NatsStorage::at(others)).await.unwrap(), SERVERS);
    let new = event(session(2), Expected::NoStream, "event 2");
    eventually("the others go on", PATIENCE, async || Ok(writer.append(new.clone()).await.ok())).await.unwrap();
    // the server stays cut off
    assert_eq!(until_records(&mut tail, 2).await, 2);
    assert_ne!(nats.client().server_info().server_name, here);
}

#[actix::test]
async fn a_leader_that_lost_the_others_dates_its_word_from_before_it_lost_them() {
    /// What was on its way when the wires were cut.
    const ON_ITS_WAY: Duration = Duration::from_millis(500);
    let cluster = NatsCluster::start().await.unwrap();
    let writer = log_on(&cluster).await;
    append_each(&writer, 1..=1).await;
    let leader = cluster.leader(STREAM).await.unwrap();
    let mut tail = at_one(&cluster, leader).await.tail(0);
    assert_eq!(next_record(&mut tail).await.seq, 1);
    cluster.isolate(leader);
    let lost = crate::clock::now().plus(ON_ITS_WAY);
    let mut words = 0;
    let reading = async {
        loop {
            match next(&mut tail).await.unwrap() {
                Tailed::Head { at, .. } => {
                    words += 1;
                    assert!(at <= lost, "dated {:?} after it lost the others", at.since(lost));
                }
                Tailed::Away(_) => break,
                Tailed::Record(record) => panic!("{record:?}"),
            }
        }
    };
    timeout(PATIENCE, reading).await.expect("the tail says nothing");
    assert!(words > 0, "it went on answering for a while");
}
