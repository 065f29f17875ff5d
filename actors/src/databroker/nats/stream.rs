//! One stream as we want it: made if it is not there, compared if it is, and known again by when it was created.

use std::sync::OnceLock;
use std::time::Duration;

use async_nats::jetstream::stream::{Config, Info, PersistenceMode, RawMessage};
use async_nats::jetstream::{Context, message::StreamMessage};
use async_nats::{HeaderMap, header};
use bytes::Bytes;
use portcullis_config::limits::{QUORUM_HEARD, STORE_REQUEST};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::json;
use time::OffsetDateTime;

use super::{CallError, Consumers, Nats};

/// JetStream: stream not found.
const NO_STREAM: u64 = 10059;
/// JetStream: no message found.
const NO_MESSAGE: u64 = 10037;
/// JetStream: stream name already in use, with another configuration.
const NAME_IN_USE: u64 = 10058;

/// Why a stream does not do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StreamError {
    /// Its leader does not answer.
    #[error("{0}")]
    Away(String),
    /// It is not there, or another one stands in its place.
    #[error("{0}")]
    Gone(String),
    /// It is set up in another way than it must be.
    #[error("{0}")]
    Differs(String),
}

impl From<CallError> for StreamError {
    fn from(error: CallError) -> Self {
        Self::Away(error.to_string())
    }
}

/// Which message of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Find<'a> {
    /// The one with this sequence.
    At(u64),
    /// The last one on a subject.
    Last(&'a str),
    /// The first one on a subject from a sequence on.
    Next(u64, &'a str),
}

/// A message as its leader keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// Its sequence.
    pub seq: u64,
    /// Its subject.
    pub subject: String,
    /// `Nats-Msg-Id`.
    pub id: Option<String>,
    /// A marker that says that the value of a key was deleted (`KV-Operation`); other clients of a bucket write them.
    pub is_marker: bool,
    /// Its payload.
    pub body: Bytes,
}

#[derive(Deserialize)]
struct Found {
    message: RawMessage,
}

#[derive(Deserialize)]
struct Done {
    success: bool,
}

/// A stream on a connection.
#[derive(Debug)]
pub struct Stream {
    nats: Nats,
    wanted: Config,
    may_create: bool,
    consumers: Consumers,
    /// When the stream was created that this process works on: of another one it wants nothing.
    created: OnceLock<OffsetDateTime>,
}

impl Stream {
    /// A stream that is looked for when it is first needed, and made then if it is not there and `may_create`.
    pub const fn new(nats: Nats, wanted: Config, may_create: bool) -> Self {
        Self { nats, wanted, may_create, consumers: Consumers::Own, created: OnceLock::new() }
    }

    /// The same, with consumers from elsewhere.
    pub fn with(self, consumers: Consumers) -> Self {
        Self { consumers, ..self }
    }

    /// Where its consumers come from.
    pub const fn consumers(&self) -> &Consumers {
        &self.consumers
    }

    /// The subjects that it takes.
    pub fn subjects(&self) -> &str {
        self.wanted.subjects.first().map_or("", String::as_str)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.wanted.name
    }

    /// The connection it is on.
    pub const fn nats(&self) -> &Nats {
        &self.nats
    }

    /// Where it stands, according to its leader.
    ///
    /// # Errors
    /// [`StreamError`]; each time it is asked whether it still is the stream it was and set up as it must be.
    pub async fn info(&self) -> Result<Info, StreamError> {
        let info = match self.ask::<Info>("STREAM.INFO", &()).await {
            Err(CallError::Refused { code: NO_STREAM, .. }) => self.absent().await?,
            other => other?,
        };
        let is_known = self.created.get().is_none_or(|created| *created == info.created);
        if let Some(difference) = difference(&self.wanted, &info.config).filter(|_| is_known) {
            return Err(StreamError::Differs(format!("stream {}: {difference}", self.name())));
        }
        if *self.created.get_or_init(|| info.created) != info.created {
            return Err(StreamError::Gone(format!("another stream stands in the place of {}", self.name())));
        }
        match quorum(&info) {
            Ok(heard) if heard <= QUORUM_HEARD => Ok(info),
            Ok(_) => Err(self.powerless("its leader does not hear from more than half of its replicas")),
            Err(why) => Err(self.powerless(why)),
        }
    }

    fn powerless(&self, why: &str) -> StreamError {
        StreamError::Away(format!("stream {}: {why}", self.name()))
    }

    /// Makes it, unless it was there before.
    async fn absent(&self) -> Result<Info, StreamError> {
        if self.created.get().is_some() || !self.may_create {
            return Err(StreamError::Gone(format!("stream {} does not exist", self.name())));
        }
        match self.ask::<Info>("STREAM.CREATE", &self.wanted).await {
            Ok(info) => {
                tracing::info!(stream = self.name(), "created");
                Ok(info)
            }
            // somebody else was first: what they made is compared
            Err(CallError::Refused { code: NAME_IN_USE, .. }) => Ok(self.ask::<Info>("STREAM.INFO", &()).await?),
            Err(error) => Err(error.into()),
        }
    }

    /// Makes sure, once, that it is there and set up as it must be.
    ///
    /// # Errors
    /// [`StreamError`].
    pub async fn ensure(&self) -> Result<(), StreamError> {
        if self.created.get().is_some() { Ok(()) } else { self.info().await.map(|_| ()) }
    }

    /// A message, from the leader.
    ///
    /// # Errors
    /// [`StreamError`].
    pub async fn find(&self, which: Find<'_>) -> Result<Option<Stored>, StreamError> {
        self.ensure().await?;
        let query = match which {
            Find::At(seq) => json!({ "seq": seq }),
            Find::Last(subject) => json!({ "last_by_subj": subject }),
            Find::Next(seq, subject) => json!({ "seq": seq, "next_by_subj": subject }),
        };
        match self.ask::<Found>("STREAM.MSG.GET", &query).await {
            Ok(found) => stored(found.message).map(Some),
            Err(CallError::Refused { code: NO_MESSAGE, .. }) => Ok(None),
            Err(CallError::Refused { code: NO_STREAM, description, .. }) => Err(StreamError::Gone(description)),
            Err(error) => Err(error.into()),
        }
    }

    /// Overwrites a message on the disks; one that is not there is no error.
    ///
    /// # Errors
    /// [`StreamError`].
    pub async fn erase(&self, seq: u64) -> Result<(), StreamError> {
        let erased = self.ask::<Done>("STREAM.MSG.DELETE", &json!({ "seq": seq, "no_erase": false })).await;
        match erased {
            Ok(Done { success: true }) => Ok(()),
            // another node may have erased it
            Ok(Done { success: false }) | Err(CallError::Refused { .. }) => match self.find(Find::At(seq)).await? {
                None => Ok(()),
                Some(_) => Err(StreamError::Away(format!("sequence {seq} of {} was not erased", self.name()))),
            },
            Err(error) => Err(error.into()),
        }
    }

    /// A context for consumers on it.
    pub fn context(&self) -> Context {
        self.nats.jetstream(STORE_REQUEST)
    }

    async fn ask<T: DeserializeOwned>(&self, what: &str, query: &impl Serialize) -> Result<T, CallError> {
        let query = serde_json::to_vec(query).map_err(|error| CallError::Away(error.to_string()))?;
        let subject = format!("{}.{what}.{}", self.nats.api(), self.name());
        self.nats.call(&subject, None, query.into(), STORE_REQUEST).await
    }
}

/// How long before its answer the leader of a stream last heard from so many replicas that, with itself, they were more
/// than half: until then nobody else can have been elected, and what it says was the last word. After that it may be old
/// news: a leader that lost its followers goes on answering for some seventeen seconds, and a server without a leader
/// for ever.
///
/// # Errors
/// Why it cannot be said at all.
pub fn quorum(info: &Info) -> Result<Duration, &'static str> {
    let Some(cluster) = &info.cluster else { return Ok(Duration::ZERO) };
    if cluster.leader.is_none() {
        return Err("it has no leader");
    }
    let online = cluster.replicas.iter().filter(|replica| !replica.offline);
    let mut heard: Vec<_> = online.map(|replica| replica.active).collect();
    heard.sort_unstable();
    // followers that are more than half of all once the leader is counted
    match cluster.replicas.len().div_ceil(2) {
        0 => Ok(Duration::ZERO),
        needed => heard.get(needed - 1).copied().ok_or("more than half of its replicas are offline"),
    }
}

fn stored(raw: RawMessage) -> Result<Stored, StreamError> {
    let unreadable = |_| StreamError::Away("a message that cannot be read".into());
    let message = StreamMessage::try_from(raw).map_err(unreadable)?;
    let text = |headers: &HeaderMap, name: &str| headers.get(name).map(|value| value.as_str().to_owned());
    Ok(Stored {
        seq: message.sequence,
        subject: message.subject.to_string(),
        id: text(&message.headers, header::NATS_MESSAGE_ID.as_ref()),
        is_marker: message.headers.get("KV-Operation").is_some(),
        body: message.payload,
    })
}

/// What is wrong with a stream that was found; `None` if it does. What we do not depend on may be as it likes: room,
/// placement, more replicas.
fn difference(wanted: &Config, found: &Config) -> Option<String> {
    let limit = |number: i64| if number <= 0 { -1 } else { number };
    let mut wrong = Vec::new();
    let mut compare = |name: &str, found: String, wanted: String| {
        if found != wanted {
            wrong.push(format!("{name} is {found} and must be {wanted}"));
        }
    };
    macro_rules! same {
        ($($name:ident),+) => { $(compare(stringify!($name), format!("{:?}", found.$name), format!("{:?}", wanted.$name));)+ };
    }
    same!(subjects, storage, retention, discard, max_age, deny_delete, deny_purge, allow_rollup, sealed, no_ack);
    same!(discard_new_per_subject, allow_message_ttl, subject_delete_marker_ttl, mirror, sources, subject_transform);
    let mut limits = |name: &str, found: i64, wanted: i64| {
        compare(name, limit(found).to_string(), limit(wanted).to_string());
    };
    limits("max_msgs", found.max_messages, wanted.max_messages);
    limits("max_msgs_per_subject", found.max_messages_per_subject, wanted.max_messages_per_subject);
    limits("max_msg_size", found.max_message_size.into(), wanted.max_message_size.into());
    if found.persist_mode == Some(PersistenceMode::Async) {
        wrong.push("persist_mode is async: it acknowledges what is not written yet".into());
    }
    if found.num_replicas < wanted.num_replicas {
        wrong.push(format!("num_replicas is {} and must be at least {}", found.num_replicas, wanted.num_replicas));
    }
    (!wrong.is_empty()).then(|| wrong.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(leader: bool, heard_before: &[u64]) -> Info {
        let replicas: Vec<_> = heard_before
            .iter()
            .map(|before| json!({ "name": "nats", "current": true, "offline": false, "active": before * 1_000_000 }))
            .collect();
        let leader = leader.then_some("nats-1");
        let state = json!({ "messages": 0, "bytes": 0, "first_seq": 0, "last_seq": 0, "consumer_count": 0,
            "first_ts": "2026-01-01T00:00:00Z", "last_ts": "2026-01-01T00:00:00Z" });
        let config = json!({ "name": "s", "max_consumers": -1, "max_msgs": -1, "max_bytes": -1, "max_age": 0,
            "max_msgs_per_subject": -1, "discard": "new", "retention": "limits", "storage": "file",
            "num_replicas": 3 });
        let info = json!({ "config": config, "created": "2026-01-01T00:00:00Z", "state": state,
            "ts": "2026-01-01T00:00:00Z", "cluster": { "leader": leader, "replicas": replicas } });
        serde_json::from_value(info).unwrap()
    }

    #[test]
    fn a_leader_speaks_for_a_stream_as_of_when_more_than_half_of_its_replicas_followed() {
        let lost = 60_000;
        for (heard, as_of) in [
            (&[][..], 0),
            (&[10, 900], 10),
            (&[900, lost], 900),
            (&[lost, 2_999], 2_999),
            (&[700], 700),
            (&[10, 20, lost], 20),
            (&[10, lost, lost, 30], 30),
            (&[lost], lost),
            (&[10, lost, lost, lost], lost),
        ] {
            assert_eq!(quorum(&info(true, heard)), Ok(Duration::from_millis(as_of)), "{heard:?}");
        }
        assert!(quorum(&info(false, &[10, 10])).is_err());
    }

    #[test]
    fn a_replica_that_is_offline_is_not_heard() {
        let mut info = info(true, &[10, 20]);
        let replicas = &mut info.cluster.as_mut().unwrap().replicas;
        replicas[0].offline = true;
        assert_eq!(quorum(&info), Ok(Duration::from_millis(20)));
        info.cluster.as_mut().unwrap().replicas[1].offline = true;
        assert!(quorum(&info).is_err());
    }
}
