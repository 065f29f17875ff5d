//! The JetStream log keeps the contract on a real server, and what only a server can suffer.

mod cluster;

use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream;
use portcullis_config::NatsStorage;
use portcullis_config::limits::{APPEND_DEADLINE, LEADER_READS};
use portcullis_harness::nats::NatsServer;
use tokio::time::Instant;

use super::super::contract::{Ground, append_each, contract, event, fault, next, next_head, next_record, session};
use super::*;

struct Server {
    server: NatsServer,
    log: Arc<JetStreamLog>,
}

impl Server {
    async fn connect(&self) -> Nats {
        Nats::connect(&NatsStorage::at(vec![self.server.url()])).await.unwrap()
    }

    /// A log whose messages an administrator can delete, as if the server had lost them.
    async fn perishable() -> Self {
        let server = NatsServer::start().unwrap();
        let nats = Nats::connect(&NatsStorage::at(vec![server.url()])).await.unwrap();
        let config = Config { deny_delete: false, ..config(1) };
        Self { server, log: Arc::new(JetStreamLog::on(&nats, config, true, Consumers::Own)) }
    }

    async fn administrator(&self) -> jetstream::Context {
        jetstream::new(async_nats::connect(self.server.url().as_str()).await.unwrap())
    }
}

impl Ground for Server {
    async fn fresh() -> Self {
        let server = NatsServer::start().unwrap();
        let nats = Nats::connect(&NatsStorage::at(vec![server.url()])).await.unwrap();
        Self { server, log: Arc::new(JetStreamLog::new(&nats, 1)) }
    }

    fn log(&self) -> Arc<dyn Log> {
        self.log.clone()
    }

    async fn another_handle(&self) -> Arc<dyn Log> {
        Arc::new(JetStreamLog::new(&self.connect().await, 1))
    }

    async fn crash(&mut self) {
        self.server.restart().unwrap();
        self.log = Arc::new(JetStreamLog::new(&self.connect().await, 1));
    }
}

contract!(Server);

#[actix::test]
async fn a_stream_set_up_in_another_way_is_named_with_every_difference() {
    let ground = Server::fresh().await;
    let found = Config { deny_delete: false, max_messages: 10, discard: DiscardPolicy::Old, ..config(1) };
    ground.administrator().await.create_stream(found).await.unwrap();
    let error = ground.log.check().await.unwrap_err();
    let StreamError::Differs(why) = &error else { panic!("{error}") };
    for difference in ["deny_delete is false", "max_msgs is 10", "discard is Old and must be New"] {
        assert!(why.contains(difference), "{why}");
    }
    assert!(!why.contains("deny_purge"), "{why}");
    // and it is left as it is
    let mut stream = ground.administrator().await.get_stream(STREAM).await.unwrap();
    assert_eq!(stream.info().await.unwrap().config.max_messages, 10);
}

#[actix::test]
async fn a_stream_that_an_administrator_made_with_room_of_its_own_will_do() {
    let ground = Server::fresh().await;
    let found = Config { max_bytes: 1 << 30, description: Some("events".into()), ..config(1) };
    ground.administrator().await.create_stream(found).await.unwrap();
    assert_eq!(ground.log.check().await, Ok(()));
}

#[actix::test]
async fn a_reader_makes_no_stream() {
    let ground = Server::fresh().await;
    let reader = JetStreamLog::new_for_reading(&ground.connect().await, Consumers::None);
    assert!(matches!(reader.check().await, Err(StreamError::Gone(_))));
    assert!(ground.administrator().await.get_stream(STREAM).await.is_err());
    append_each(&*ground.log(), 1..=1).await;
    assert_eq!(next_record(&mut reader.tail(0)).await.seq, 1);
}

#[actix::test]
async fn a_record_that_the_server_lost_is_a_hole() {
    let ground = Server::perishable().await;
    append_each(&*ground.log(), 1..=5).await;
    let stream = ground.administrator().await.get_stream(STREAM).await.unwrap();
    stream.delete_message(3).await.unwrap();
    // the same for whoever has no consumer, and asks the leader for each record
    let alone =
        JetStreamLog::on(&ground.connect().await, Config { deny_delete: false, ..config(1) }, false, Consumers::None);
    for mut tail in [ground.log().tail(0), alone.tail(0)] {
        assert_eq!(next_record(&mut tail).await.seq, 1);
        assert_eq!(next_record(&mut tail).await.seq, 2);
        assert_eq!(fault(&mut tail).await, TailFault::Hole { missing: 3 });
    }
}

#[actix::test]
async fn whoever_has_no_consumer_reads_everything_in_order_and_what_comes_later() {
    let ground = Server::fresh().await;
    let many = 3 * LEADER_READS + 5;
    append_each(&*ground.log(), 1..=u128::from(many)).await;
    let mut tail = JetStreamLog::new_for_reading(&ground.connect().await, Consumers::None).tail(2);
    for seq in 3..=many {
        assert_eq!(next_record(&mut tail).await.seq, seq);
    }
    append_each(&*ground.log(), u128::from(many) + 1..=u128::from(many) + 1).await;
    assert_eq!(next_record(&mut tail).await.seq, many + 1);
}

#[actix::test]
async fn a_last_record_that_the_server_lost_is_a_hole_too() {
    let ground = Server::perishable().await;
    append_each(&*ground.log(), 1..=3).await;
    let stream = ground.administrator().await.get_stream(STREAM).await.unwrap();
    stream.delete_message(3).await.unwrap();
    let mut tail = ground.log().tail(1);
    assert_eq!(next_record(&mut tail).await.seq, 2);
    assert_eq!(fault(&mut tail).await, TailFault::Hole { missing: 3 });
}

#[actix::test]
async fn a_deleted_stream_ends_the_tail_within_three_seconds() {
    let ground = Server::fresh().await;
    append_each(&*ground.log(), 1..=2).await;
    let mut tail = ground.log().tail(0);
    while next_record(&mut tail).await.seq < 2 {}
    ground.administrator().await.delete_stream(STREAM).await.unwrap();
    let deleted = Instant::now();
    let fault = fault(&mut tail).await;
    assert!(matches!(fault, TailFault::Replaced(_)), "{fault}");
    assert!(deleted.elapsed() < Duration::from_secs(3), "{:?}", deleted.elapsed());
    // and nobody here makes a new one in its place
    assert!(ground.log.head().await.is_err());
    assert!(ground.administrator().await.get_stream(STREAM).await.is_err());
}

#[actix::test]
async fn another_stream_of_the_same_name_ends_the_tail_within_three_seconds() {
    let ground = Server::fresh().await;
    append_each(&*ground.log(), 1..=2).await;
    let mut tail = ground.log().tail(0);
    while next_record(&mut tail).await.seq < 2 {}
    ground.administrator().await.delete_stream(STREAM).await.unwrap();
    let other = ground.another_handle().await;
    append_each(&*other, 1..=9).await;
    let replaced = Instant::now();
    let fault = fault(&mut tail).await;
    assert!(matches!(fault, TailFault::Replaced(_)), "{fault}");
    assert!(replaced.elapsed() < Duration::from_secs(3), "{:?}", replaced.elapsed());
}

#[actix::test]
async fn limits_put_on_the_stream_behind_our_back_end_the_tail() {
    let ground = Server::fresh().await;
    append_each(&*ground.log(), 1..=5).await;
    let mut tail = ground.log().tail(0);
    while next_record(&mut tail).await.seq < 5 {}
    ground.administrator().await.update_stream(Config { max_messages: 2, ..config(1) }).await.unwrap();
    let fault = fault(&mut tail).await;
    assert!(matches!(&fault, TailFault::Broken(why) if why.contains("max_msgs is 2")), "{fault}");
}

#[actix::test]
async fn a_server_that_is_away_is_waited_for() {
    let mut ground = Server::fresh().await;
    append_each(&*ground.log(), 1..=2).await;
    let mut tail = ground.log().tail(0);
    while next_record(&mut tail).await.seq < 2 {}
    ground.server.kill().unwrap();

    let lost = event(session(3), Expected::NoStream, "event 3");
    let started = Instant::now();
    let outcome = ground.log().append(lost.clone()).await;
    assert!(matches!(outcome, Err(AppendError::Unavailable(_))), "{outcome:?}");
    assert!(started.elapsed() < APPEND_DEADLINE + Duration::from_secs(1), "{:?}", started.elapsed());
    assert!(ground.log().head().await.is_err());
    assert!(ground.log().last(session(1)).await.is_err());
    loop {
        match next(&mut tail).await.unwrap() {
            Tailed::Away(_) => break,
            Tailed::Head { .. } => {}
            Tailed::Record(record) => panic!("{record:?}"),
        }
    }

    ground.server.restart().unwrap();
    assert_eq!(ground.log().append(lost).await, Ok(3));
    assert_eq!(next_record(&mut tail).await.body, b"event 3");
    assert_eq!(next_head(&mut tail).await.last, 3);
}

#[actix::test]
async fn a_process_can_start_before_its_server() {
    let mut server = NatsServer::start().unwrap();
    server.kill().unwrap();
    let nats = Nats::connect(&NatsStorage::at(vec![server.url()])).await.unwrap();
    let log = JetStreamLog::new(&nats, 1);
    assert!(matches!(log.check().await, Err(StreamError::Away(_))));
    assert!(log.head().await.is_err());
    let mut tail = log.tail(0);
    assert!(matches!(next(&mut tail).await, Ok(Tailed::Away(_))));
    server.restart().unwrap();
    assert_eq!(next_head(&mut tail).await.last, 0);
    append_each(&log, 1..=1).await;
    assert_eq!(next_record(&mut tail).await.seq, 1);
}
