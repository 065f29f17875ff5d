//! Owns   · nothing: it knows which streams others may read.
//! Answers · [`Lend`]: a consumer for a process that may begin none.
//! Asks   · JetStream.
//! If it dies · whoever reads asks another databroker, or the leader for each record; the node stops in order.
//!
//! Whoever may begin consumers can have the servers write what a stream holds to any subject of the account. So only
//! databroker may: it begins consumers that bring what is asked for to whoever asks them, and no others.

use std::sync::Arc;

use actix::{Actor, Context, Handler, Message, ResponseFuture};
use serde::{Deserialize, Serialize};

use super::broker::BrokerError;
use super::nats::{Reading, Stream};
use crate::ask::Ask;

/// Begin a consumer on one of the streams that others may read; its name is the answer.
#[derive(Debug, Clone, Serialize, Deserialize, Message)]
#[rtype(result = "Result<String, BrokerError>")]
pub struct Lend {
    /// The stream.
    pub stream: String,
    /// What is to be read of it.
    pub reading: Reading,
}

impl Ask for Lend {
    type Answer = Result<String, BrokerError>;
}

/// The streams that are read by others: the log, and the data keys. Tokens are not among them.
#[derive(Debug, Clone)]
pub struct Shelves(Vec<Arc<Stream>>);

impl Shelves {
    pub(super) const fn of(streams: Vec<Arc<Stream>>) -> Self {
        Self(streams)
    }
}

/// Whoever begins consumers for others.
pub struct Lender(Shelves);

impl Lender {
    /// A lender of these.
    #[must_use]
    pub const fn new(shelves: Shelves) -> Self {
        Self(shelves)
    }
}

impl Actor for Lender {
    type Context = Context<Self>;
}

impl Handler<Lend> for Lender {
    type Result = ResponseFuture<Result<String, BrokerError>>;

    fn handle(&mut self, Lend { stream, reading }: Lend, _: &mut Self::Context) -> Self::Result {
        let found = self.0.0.iter().find(|known| known.name() == stream).cloned();
        Box::pin(async move {
            let Some(found) = found else {
                return Err(BrokerError::Refused(format!("{stream} is read by databroker alone")));
            };
            let consumer = found.read(reading).await.map_err(BrokerError::Unavailable)?;
            Ok(consumer.cached_info().name.clone())
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_util::StreamExt;
    use portcullis_config::{NatsStorage, Services, Storage};
    use portcullis_events::{SUBJECT_PREFIX, SessionId};
    use portcullis_harness::nats::NatsServer;
    use uuid::Uuid;

    use super::*;
    use crate::ask::Port;
    use crate::databroker::log::{Expected, NewRecord, Tailed};
    use crate::databroker::store;
    use crate::databroker::vault::{Revision, Shelf};

    const LONG: Duration = Duration::from_secs(30);
    const AUTHORIZE: Services = Services { proxy: false, authenticate: false, authorize: true, databroker: false };

    #[actix::test]
    async fn whoever_reads_by_what_is_lent_reads_the_log_and_the_data_keys_and_no_token() {
        let server = NatsServer::start().unwrap();
        let (storage, nowhere) =
            (Storage::Nats(NatsStorage::at(vec![server.url()])), std::path::Path::new("/nonexistent"));
        let databroker = store::open(&storage, nowhere).await.unwrap();
        let append = async |n: u128| {
            let aggregate = portcullis_events::Aggregate::session(SessionId::new(Uuid::from_u128(n)));
            let id = portcullis_events::EventId::new(Uuid::now_v7());
            let record = NewRecord { aggregate, expected: Expected::NoStream, id, body: b"event".to_vec() };
            databroker.log.append(record).await.unwrap()
        };
        for n in 1..=3 {
            append(n).await;
        }
        let key = "00000000-0000-4000-8000-000000000001";
        for shelf in [Shelf::DataKey, Shelf::Secret] {
            databroker.vault.put(shelf, key, Revision::NONE, b"value".to_vec()).await.unwrap();
        }
        let lender = Lender::new(databroker.shelves.clone().unwrap()).start();
        let lend = Port::new(lender, 8, LONG);
        let refused =
            lend.ask(Lend { stream: "KV_PORTCULLIS_SECRET".into(), reading: Reading::After(0) }).await.unwrap();
        assert!(matches!(refused, Err(BrokerError::Refused(_))), "{refused:?}");

        // lent, and read one by one where nobody lends anything
        let unlent = Port::new(Lender::new(Shelves::of(Vec::new())).start(), 8, LONG);
        for port in [lend, unlent] {
            let is_lent =
                port.ask(Lend { stream: "PORTCULLIS_EVT".into(), reading: Reading::After(0) }).await.unwrap().is_ok();
            let reader = store::open_for(AUTHORIZE, &storage, nowhere, Some(port)).await.unwrap().unwrap();
            let mut tail = reader.log.tail(1);
            let mut next = async || loop {
                if let Tailed::Record(record) = tail.next().await.unwrap().unwrap() {
                    assert!(record.subject.starts_with(SUBJECT_PREFIX));
                    return record.seq;
                }
            };
            let head = databroker.log.head().await.unwrap().last;
            for seq in 2..=head {
                assert_eq!(next().await, seq);
            }
            assert_eq!(append(u128::from(head) + 100).await, next().await, "and what comes later, lent: {is_lent}");
            if is_lent {
                let keys = reader.vault.scan(Shelf::DataKey).await.unwrap();
                assert_eq!(keys.iter().map(|(key, ..)| key).collect::<Vec<_>>(), [key]);
            }
            assert_eq!(
                reader.vault.get(Shelf::DataKey, key).await.unwrap().map(|found| found.value),
                Some(b"value".to_vec())
            );
        }
    }
}
