//! The log in a JetStream stream: compare-and-append on exact subjects, questions to the leader, our own tailer.

mod tail;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_nats::jetstream::stream::{Config, DiscardPolicy, Info, StorageType};
use async_trait::async_trait;
use futures_util::stream::LocalBoxStream;
use portcullis_config::limits::EVENT_BYTES;
use portcullis_events::{Aggregate, SUBJECT_PREFIX};

use super::{AppendError, Expected, Head, Log, NewRecord, Record, TailFault, Tailed, Unavailable};
use crate::databroker::nats::{Consumers, Find, Nats, Stored, Stream, StreamError, Write, WriteError};

/// The stream.
pub const STREAM: &str = "PORTCULLIS_EVT";

/// A log in a stream.
#[derive(Debug)]
pub struct JetStreamLog {
    stream: Arc<Stream>,
    /// Whether it is still to be seen that we may write.
    is_untried: AtomicBool,
}

impl JetStreamLog {
    /// The log on a connection; its stream is made when it is first needed.
    pub(crate) fn new(nats: &Nats, replicas: usize) -> Self {
        Self::on(nats, config(replicas), true, Consumers::Own)
    }

    /// The log on a connection, never made.
    pub(crate) fn new_beside(nats: &Nats) -> Self {
        Self::on(nats, config(1), false, Consumers::Own)
    }

    /// The log on a connection that may read it alone; never made.
    pub(crate) fn new_for_reading(nats: &Nats, consumers: Consumers) -> Self {
        Self::on(nats, config(1), false, consumers)
    }

    /// The stream that it is.
    pub(crate) const fn stream(&self) -> &Arc<Stream> {
        &self.stream
    }

    fn on(nats: &Nats, config: Config, may_create: bool, consumers: Consumers) -> Self {
        let stream = Arc::new(Stream::new(nats.clone(), config, may_create).with(consumers));
        Self { stream, is_untried: AtomicBool::new(may_create) }
    }

    /// Whether the stream is there and set up as it must be.
    ///
    /// # Errors
    /// [`StreamError`].
    pub(crate) async fn check(&self) -> Result<(), StreamError> {
        self.stream.ensure().await
    }
}

/// Nothing leaves this stream: not by age, not by number, not by delete or purge. A hole is damage, always.
fn config(replicas: usize) -> Config {
    Config {
        name: STREAM.into(),
        subjects: vec![format!("{SUBJECT_PREFIX}>")],
        storage: StorageType::File,
        discard: DiscardPolicy::New,
        num_replicas: replicas,
        deny_delete: true,
        deny_purge: true,
        allow_direct: true,
        ..Config::default()
    }
}

#[async_trait]
impl Log for JetStreamLog {
    async fn append(&self, record: NewRecord) -> Result<u64, AppendError> {
        if record.body.len() > EVENT_BYTES {
            return Err(AppendError::Refused(format!("an event of more than {EVENT_BYTES} bytes")));
        }
        let expected = match record.expected {
            Expected::NoStream => 0,
            Expected::Seq(seq) => seq,
        };
        let (subject, id) = (record.aggregate.subject(), record.id.to_string());
        let written = self.stream.write(Write { subject: &subject, expected, id: &id }, record.body.into()).await;
        written.map_err(|error| match error {
            WriteError::Conflict { actual } => AppendError::Conflict { actual },
            WriteError::Away(why) => AppendError::Unavailable(why),
            WriteError::Refused(why) => AppendError::Refused(why),
        })
    }

    async fn head(&self) -> Result<Head, Unavailable> {
        let head = self.stream.info().await.map(|info| head(&info)).map_err(unavailable)?;
        // found at the start, and not by the first person who signs in
        if self.is_untried.load(Ordering::Acquire) {
            self.stream.may_write(&Aggregate::LOG.subject()).await.map_err(unavailable)?;
            self.stream.find(Find::At(1)).await.map_err(unavailable)?;
            self.is_untried.store(false, Ordering::Release);
        }
        Ok(head)
    }

    async fn last(&self, aggregate: Aggregate) -> Result<Option<Record>, Unavailable> {
        let last = self.stream.find(Find::Last(&aggregate.subject())).await.map_err(unavailable)?;
        // a leader that lost its followers would answer as well
        self.stream.info().await.map_err(unavailable)?;
        Ok(last.map(record))
    }

    fn tail(&self, after: u64) -> LocalBoxStream<'static, Result<Tailed, TailFault>> {
        tail::follow(Arc::clone(&self.stream), after)
    }
}

fn unavailable(error: StreamError) -> Unavailable {
    Unavailable(error.to_string())
}

fn head(info: &Info) -> Head {
    let last = info.state.last_sequence;
    Head { last, first: if info.state.messages == 0 { last + 1 } else { info.state.first_sequence } }
}

fn record(stored: Stored) -> Record {
    Record { seq: stored.seq, subject: stored.subject, body: stored.body.to_vec() }
}

#[cfg(test)]
mod tests;
