//! The vault in JetStream: one key-value bucket a shelf, read from the leader; what is replaced or deleted is
//! overwritten on the disks, because a purge only unlinks it.

use std::collections::HashMap;
use std::sync::Arc;

use async_nats::jetstream::stream::{Config, DiscardPolicy, StorageType};
use async_trait::async_trait;
use futures_util::StreamExt;
use portcullis_config::limits::{AWAY_PAUSE, SCAN_DEADLINE, TAIL_BATCH, TAIL_FETCH, TAIL_HEARTBEAT, VALUE_BYTES};
use uuid::Uuid;

use super::{Losses, Revision, Sealed, Shelf, Values, Vault, VaultError};
use crate::databroker::nats::{Consumers, Find, Nats, Reading, Stream, StreamError, Write, WriteError};

/// What a bucket may keep of a key: more than one only between a put and the erasure of the value it replaced. With one
/// the server itself would drop that value, and leave it on the disk.
const HISTORY: i64 = 8;

/// A vault in two buckets.
#[derive(Debug)]
pub struct JetStreamVault {
    secrets: Stream,
    data_keys: Arc<Stream>,
    /// The shelves that this process has to be able to write.
    written: &'static [Shelf],
}

const BOTH: &[Shelf] = &[Shelf::Secret, Shelf::DataKey];

impl JetStreamVault {
    /// The vault on a connection; its buckets are made when they are first needed.
    pub(crate) fn new(nats: &Nats, replicas: usize) -> Self {
        Self::on(nats, replicas, true, BOTH, Consumers::Own)
    }

    /// The vault on a connection, never made.
    pub(crate) fn new_beside(nats: &Nats) -> Self {
        Self::on(nats, 1, false, BOTH, Consumers::Own)
    }

    /// The vault on a connection that may read the data keys alone; never made.
    pub(crate) fn new_for_reading(nats: &Nats, consumers: Consumers) -> Self {
        Self::on(nats, 1, false, &[], consumers)
    }

    /// The stream of the data keys.
    pub(crate) const fn data_keys(&self) -> &Arc<Stream> {
        &self.data_keys
    }

    fn on(nats: &Nats, replicas: usize, may_create: bool, written: &'static [Shelf], consumers: Consumers) -> Self {
        let stream = |shelf| Stream::new(nats.clone(), bucket(shelf, replicas), may_create).with(consumers.clone());
        Self { secrets: stream(Shelf::Secret), data_keys: Arc::new(stream(Shelf::DataKey)), written }
    }

    /// Whether both buckets are there and set up as they must be.
    ///
    /// # Errors
    /// [`StreamError`].
    pub(crate) async fn fits(&self) -> Result<(), StreamError> {
        self.secrets.ensure().await?;
        self.data_keys.ensure().await
    }

    fn shelf(&self, shelf: Shelf) -> &Stream {
        match shelf {
            Shelf::Secret => &self.secrets,
            Shelf::DataKey => &self.data_keys,
        }
    }
}

/// The bucket of a shelf, as clients of key-value buckets know it, but that messages can be deleted.
fn bucket(shelf: Shelf, replicas: usize) -> Config {
    Config {
        name: format!("KV_PORTCULLIS_{}", shelf.name()),
        subjects: vec![format!("{}>", prefix(shelf))],
        storage: StorageType::File,
        discard: DiscardPolicy::New,
        max_messages_per_subject: HISTORY,
        num_replicas: replicas,
        allow_rollup: true,
        allow_direct: true,
        ..Config::default()
    }
}

fn prefix(shelf: Shelf) -> String {
    format!("$KV.PORTCULLIS_{}.", shelf.name())
}

#[async_trait]
impl Vault for JetStreamVault {
    async fn get(&self, shelf: Shelf, key: &str) -> Result<Option<Sealed>, VaultError> {
        let subject = format!("{}{key}", prefix(shelf));
        let last = self.shelf(shelf).find(Find::Last(&subject)).await?;
        Ok(last
            .filter(|last| !last.is_marker)
            .map(|last| Sealed { revision: Revision(last.seq), value: last.body.to_vec() }))
    }

    async fn put(&self, shelf: Shelf, key: &str, expected: Revision, value: Vec<u8>) -> Result<Revision, VaultError> {
        if value.len() > VALUE_BYTES {
            return Err(VaultError::Refused(format!("a value of more than {VALUE_BYTES} bytes")));
        }
        let stream = self.shelf(shelf);
        let subject = format!("{}{key}", prefix(shelf));
        let id = Uuid::new_v4().to_string();
        let write = |expected| Write { subject: &subject, expected, id: &id };
        let stored = match stream.write(write(expected.0), value.clone().into()).await {
            // a key that another client of the bucket deleted has a marker, and no value
            Err(WriteError::Conflict { .. }) if expected == Revision::NONE => {
                let last = stream.find(Find::Last(&subject)).await?;
                let marker = last.filter(|last| last.is_marker).ok_or(VaultError::Conflict)?;
                stream.write(write(marker.seq), value.into()).await
            }
            stored => stored,
        };
        let revision = stored.map_err(|error| match error {
            WriteError::Conflict { .. } => VaultError::Conflict,
            WriteError::Away(why) => VaultError::Unavailable(why),
            WriteError::Refused(why) => VaultError::Refused(why),
        })?;
        // the one that it replaced, by its own number: looking for it costs the servers more than erasing it
        if expected != Revision::NONE {
            self.erase(shelf, expected).await;
        }
        Ok(Revision(revision))
    }

    async fn delete(&self, shelf: Shelf, key: &str) -> Result<(), VaultError> {
        let stream = self.shelf(shelf);
        let subject = format!("{}{key}", prefix(shelf));
        // a few at most: those that a crash kept from being erased when they were replaced
        while let Some(last) = stream.find(Find::Last(&subject)).await? {
            stream.erase(last.seq).await?;
        }
        Ok(())
    }

    async fn scan(&self, shelf: Shelf) -> Result<Values, VaultError> {
        // found at the start, and not by the first person who signs in
        for shelf in self.written.iter().copied() {
            self.shelf(shelf).ensure().await?;
            self.shelf(shelf).may_write(&format!("{}start", prefix(shelf))).await?;
        }
        Ok(self.all(shelf, false).await?.last.into_iter().filter_map(|(key, sealed)| Some((key, sealed?))).collect())
    }

    async fn keys(&self, shelf: Shelf) -> Result<Vec<(String, Revision)>, VaultError> {
        let All { last, older } = self.all(shelf, true).await?;
        // what a crash, or a server that was away, kept from being erased when it was replaced
        if self.written.contains(&shelf) {
            for revision in older {
                self.erase(shelf, revision).await;
            }
        }
        Ok(last.into_iter().filter_map(|(key, sealed)| Some((key, sealed?.revision))).collect())
    }

    async fn losses(&self, shelf: Shelf) -> Result<Option<Losses>, VaultError> {
        let state = self.shelf(shelf).info().await?.state;
        // messages that are no more, and those under which lies another of their key: a marker lies on what it deletes
        let erased = state.last_sequence.saturating_sub(state.messages);
        Ok(Some(Losses(erased, state.messages.saturating_sub(state.subjects_count))))
    }

    async fn check(&self) -> Result<(), VaultError> {
        for shelf in [Shelf::Secret, Shelf::DataKey] {
            self.shelf(shelf).info().await?;
        }
        Ok(())
    }
}

impl JetStreamVault {
    /// What [`Self::read_all`] finds, tried until it is whole.
    async fn all(&self, shelf: Shelf, keys_only: bool) -> Result<All, VaultError> {
        let all = async {
            loop {
                match self.read_all(shelf, keys_only).await {
                    Ok(Some(all)) => return Ok(all),
                    Ok(None) => {}
                    Err(why) => {
                        if let Some(denied) = self.shelf(shelf).nats().objections().lately() {
                            return Err(VaultError::Unavailable(denied));
                        }
                        tracing::debug!(%why, shelf = shelf.name(), "the shelf is read anew");
                    }
                }
                tokio::time::sleep(AWAY_PAUSE).await;
            }
        };
        let all = tokio::time::timeout(SCAN_DEADLINE, all).await;
        all.map_err(|_| VaultError::Unavailable("the shelf could not be read to its end".into()))?
    }

    /// Overwrites a value that was replaced; one that is missed is found with the keys of its shelf, or when its key is
    /// deleted one day.
    async fn erase(&self, shelf: Shelf, replaced: Revision) {
        if let Err(error) = self.shelf(shelf).erase(replaced.0).await {
            tracing::warn!(%error, shelf = shelf.name(), "a replaced value was not erased yet");
        }
    }

    /// Everything on a shelf, with `keys_only` without the values but with those that were replaced. No answer where a
    /// consumer, which may stand on a replica that lags, did not yield as many keys as the leader knows.
    async fn read_all(&self, shelf: Shelf, keys_only: bool) -> Result<Option<All>, String> {
        let stream = self.shelf(shelf);
        let before = stream.info().await.map_err(|error| error.to_string())?.state.subjects_count;
        let prefix = prefix(shelf);
        let consumer = stream.read(if keys_only { Reading::Keys } else { Reading::Newest }).await?;
        let (mut last, mut older) = (HashMap::new(), Vec::new());
        let mut pending = consumer.cached_info().num_pending;
        let fetch = consumer.stream().max_messages_per_batch(TAIL_BATCH.1).expires(TAIL_FETCH);
        let mut messages = fetch.heartbeat(TAIL_HEARTBEAT).messages().await.map_err(|error| error.to_string())?;
        while pending > 0 {
            let message = messages.next().await.ok_or("the consumer ended")?.map_err(|error| error.to_string())?;
            let info = message.info().map_err(|error| error.to_string())?;
            pending = info.pending;
            let key = message.subject.strip_prefix(&prefix).unwrap_or_default().to_owned();
            let is_marker = message.headers.as_ref().is_some_and(|headers| headers.get("KV-Operation").is_some());
            let sealed = Sealed { revision: Revision(info.stream_sequence), value: message.payload.to_vec() };
            // in the order of the stream
            older.extend(
                last.insert(key, (!is_marker).then_some(sealed)).flatten().map(|sealed: Sealed| sealed.revision),
            );
        }
        let after = stream.info().await.map_err(|error| error.to_string())?.state.subjects_count;
        let found = u64::try_from(last.len()).unwrap_or(u64::MAX);
        Ok((found >= before.min(after)).then_some(All { last, older }))
    }
}

/// What lies on a shelf.
struct All {
    /// The last message of every key; `None` where it is a marker.
    last: HashMap<String, Option<Sealed>>,
    /// Values that were replaced and are still there.
    older: Vec<Revision>,
}

impl From<StreamError> for VaultError {
    fn from(error: StreamError) -> Self {
        Self::Unavailable(error.to_string())
    }
}

#[cfg(test)]
mod tests;
