//! The JetStream vault keeps the contract on a real server, beside other clients of its buckets.

mod cluster;

use std::path::Path;
use std::sync::Arc;

use async_nats::jetstream;
use portcullis_config::NatsStorage;
use portcullis_harness::nats::NatsServer;

use super::super::contract::{Ground, contract};
use super::*;

const KEY: &str = "00000000-0000-4000-8000-000000000001";

struct Server {
    server: NatsServer,
    vault: Arc<JetStreamVault>,
}

impl Ground for Server {
    async fn fresh() -> Self {
        let server = NatsServer::start().unwrap();
        let nats = Nats::connect(&NatsStorage::at(vec![server.url()])).await.unwrap();
        Self { server, vault: Arc::new(JetStreamVault::new(&nats, 1)) }
    }

    fn vault(&self) -> Arc<dyn Vault> {
        self.vault.clone()
    }

    async fn crash(&mut self) {
        self.server.restart().unwrap();
        let nats = Nats::connect(&NatsStorage::at(vec![self.server.url()])).await.unwrap();
        self.vault = Arc::new(JetStreamVault::new(&nats, 1));
    }

    fn files(&self) -> &Path {
        self.server.store()
    }
}

contract!(Server);

#[actix::test]
async fn a_bucket_that_refuses_erasure_is_not_used() {
    let ground = Server::fresh().await;
    let administrator = jetstream::new(async_nats::connect(ground.server.url().as_str()).await.unwrap());
    let bucket = jetstream::kv::Config { bucket: "PORTCULLIS_DEK".into(), history: 8, ..Default::default() };
    administrator.create_key_value(bucket).await.unwrap();
    let error = ground.vault.fits().await.unwrap_err();
    assert!(matches!(&error, StreamError::Differs(why) if why.contains("deny_delete is true")), "{error}");
}

#[actix::test]
async fn a_key_that_another_client_deleted_has_no_value_and_is_free() {
    let ground = Server::fresh().await;
    let vault = ground.vault();
    vault.put(Shelf::Secret, KEY, Revision::NONE, b"first".to_vec()).await.unwrap();
    let client = jetstream::new(async_nats::connect(ground.server.url().as_str()).await.unwrap());
    let bucket = client.get_key_value("PORTCULLIS_SECRET").await.unwrap();
    assert_eq!(bucket.get(KEY).await.unwrap().as_deref(), Some(&b"first"[..]));
    bucket.delete(KEY).await.unwrap();
    assert_eq!(vault.get(Shelf::Secret, KEY).await, Ok(None));
    assert_eq!(vault.scan(Shelf::Secret).await, Ok(Values::default()));
    vault.put(Shelf::Secret, KEY, Revision::NONE, b"second".to_vec()).await.unwrap();
    assert_eq!(vault.get(Shelf::Secret, KEY).await.unwrap().map(|found| found.value), Some(b"second".to_vec()));
}

#[actix::test]
async fn a_server_that_is_away_is_said_to_be() {
    let mut ground = Server::fresh().await;
    let revision = ground.vault().put(Shelf::Secret, KEY, Revision::NONE, b"first".to_vec()).await.unwrap();
    ground.server.kill().unwrap();
    assert!(matches!(ground.vault().get(Shelf::Secret, KEY).await, Err(VaultError::Unavailable(_))));
    assert!(matches!(ground.vault().delete(Shelf::Secret, KEY).await, Err(VaultError::Unavailable(_))));
    ground.server.restart().unwrap();
    // a put goes on trying until the server is back
    assert!(ground.vault().put(Shelf::Secret, KEY, revision, b"second".to_vec()).await.unwrap() > revision);
}

#[actix::test]
async fn a_bucket_that_is_deleted_or_replaced_under_a_node_is_named() {
    let ground = Server::fresh().await;
    let vault = ground.vault();
    vault.put(Shelf::Secret, KEY, Revision::NONE, b"first".to_vec()).await.unwrap();
    assert_eq!(vault.check().await, Ok(()));
    let administrator = jetstream::new(async_nats::connect(ground.server.url().as_str()).await.unwrap());
    administrator.delete_stream("KV_PORTCULLIS_SECRET").await.unwrap();
    let gone = vault.check().await.unwrap_err().to_string();
    assert!(gone.contains("KV_PORTCULLIS_SECRET does not exist"), "{gone}");
    // another node makes one: it is not the one whose values this node knows
    let nats = Nats::connect(&NatsStorage::at(vec![ground.server.url()])).await.unwrap();
    JetStreamVault::new(&nats, 1).fits().await.unwrap();
    let replaced = vault.check().await.unwrap_err().to_string();
    assert!(replaced.contains("another stream stands in the place of KV_PORTCULLIS_SECRET"), "{replaced}");
}

#[actix::test]
async fn a_value_whose_erasure_was_missed_is_erased_when_the_keys_are_looked_through() {
    let ground = Server::fresh().await;
    let vault = ground.vault();
    vault.put(Shelf::Secret, KEY, Revision::NONE, b"first".to_vec()).await.unwrap();
    // written, and then nothing more: as by a node that dies at once
    let client = jetstream::new(async_nats::connect(ground.server.url().as_str()).await.unwrap());
    let bucket = client.get_key_value("PORTCULLIS_SECRET").await.unwrap();
    let last = bucket.put(KEY, "second".into()).await.unwrap();
    let mut stream = client.get_stream("KV_PORTCULLIS_SECRET").await.unwrap();
    assert_eq!(stream.info().await.unwrap().state.messages, 2);
    assert_eq!(vault.keys(Shelf::Secret).await, Ok(vec![(KEY.to_owned(), Revision(last))]));
    assert_eq!(stream.info().await.unwrap().state.messages, 1);
    assert_eq!(vault.get(Shelf::Secret, KEY).await.unwrap().map(|found| found.value), Some(b"second".to_vec()));
    // one that may only read erases nothing
    let again = bucket.put(KEY, "third".into()).await.unwrap();
    let nats = Nats::connect(&NatsStorage::at(vec![ground.server.url()])).await.unwrap();
    let reader = JetStreamVault::new_for_reading(&nats, Consumers::Own);
    assert_eq!(reader.keys(Shelf::Secret).await, Ok(vec![(KEY.to_owned(), Revision(again))]));
    assert_eq!(stream.info().await.unwrap().state.messages, 2);
}

/// What the servers are asked for when a value is replaced, counted on the wire.
#[actix::test]
async fn replacing_a_value_asks_the_server_twice_to_store_it_and_to_erase_the_one_before() {
    let ground = Server::fresh().await;
    let vault = ground.vault();
    let first = vault.put(Shelf::Secret, KEY, Revision::NONE, b"first".to_vec()).await.unwrap();
    let client = async_nats::connect(ground.server.url().as_str()).await.unwrap();
    let mut asked = client.subscribe("$JS.API.>").await.unwrap();
    client.flush().await.unwrap();
    let second = vault.put(Shelf::Secret, KEY, first, b"second".to_vec()).await.unwrap();
    client.publish("$JS.API.end", "".into()).await.unwrap();
    let mut subjects = Vec::new();
    loop {
        let subject = asked.next().await.unwrap().subject;
        if subject.as_str() == "$JS.API.end" {
            break;
        }
        subjects.push(subject.to_string());
    }
    assert_eq!(subjects, ["$JS.API.STREAM.MSG.DELETE.KV_PORTCULLIS_SECRET"]);
    let client = jetstream::new(client);
    let stream = client.get_stream("KV_PORTCULLIS_SECRET").await.unwrap();
    assert!(stream.get_raw_message(first.0).await.is_err());
    assert!(stream.get_raw_message(second.0).await.is_ok());
}
