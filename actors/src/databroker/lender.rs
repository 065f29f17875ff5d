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
