//! The log as a port: what every backend promises, whatever it is made of.
//!
//! Promises (the contract suite holds every backend to them):
//! - Sequences are contiguous: the first record has 1, and there is no hole after `first_seq`.
//! - An append is stored entirely or not at all, and survives `kill -9` once it was acknowledged.
//! - [`Expected`] is checked and the record stored as one step: of two appends with the same expectation one wins.
//! - The same event id is stored once, however often it is appended; the later calls answer with the first's sequence.
//! - A tail yields every record once, in order, from where it was asked to begin, those of other processes too.
//! - [`Log::head`] and [`Log::last`] answer from the authority (the stream's leader), never from a copy that may lag.

#[cfg(test)]
mod contract;
pub mod file;
mod heads;
pub mod jetstream;

use async_trait::async_trait;
use futures_util::stream::LocalBoxStream;
use portcullis_events::{Aggregate, EventId, Time};

/// What an append expects of its aggregate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    /// The aggregate has no event yet.
    NoStream,
    /// The aggregate's last event has this sequence.
    Seq(u64),
}

/// An event to append: its id is the de-duplication key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewRecord {
    /// Which aggregate it belongs to.
    pub aggregate: Aggregate,
    /// What the aggregate's last event must be.
    pub expected: Expected,
    /// The event's id.
    pub id: EventId,
    /// The encoded event (structured CloudEvents JSON), stored byte for byte.
    pub body: Vec<u8>,
}

/// An event that was stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Its position on the log, from 1.
    pub seq: u64,
    /// The subject it was stored under; [`Aggregate::from_subject`] reads it.
    pub subject: String,
    /// The encoded event, byte for byte.
    pub body: Vec<u8>,
}

/// Where the log stands, according to its authority.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// The last sequence; 0 on an empty log.
    pub last: u64,
    /// The first sequence that is kept; `last + 1` on an empty log.
    pub first: u64,
}

/// Why an append was not acknowledged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// Somebody else was first: the aggregate's last event has this sequence (0: it has none).
    #[error("lost the race: the aggregate stands at {actual}")]
    Conflict {
        /// The aggregate's last sequence.
        actual: u64,
    },
    /// The log did not answer in time. The event may have been stored: only the same event id may be tried again.
    #[error("the log did not answer: {0}")]
    Unavailable(String),
    /// The log refused the record itself (too large, not permitted, store full).
    #[error("the log refused the event: {0}")]
    Refused(String),
}

/// What a tail yields.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tailed {
    /// The next record.
    Record(Record),
    /// The authority's head, true at this time: proof of freshness and measure of lag.
    Head {
        /// What the authority said.
        head: Head,
        /// When this was certainly the last word: when the authority was asked, or when more than half of it was last
        /// known to be of one mind.
        at: Time,
    },
    /// The authority could not be reached; the tail goes on trying by itself.
    Away(String),
}

/// Why a tail ended. It does not begin again by itself: serving on would mean serving from a hole.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TailFault {
    /// A sequence is missing after the first kept one.
    #[error("sequence {missing} is missing from the log")]
    Hole {
        /// The missing sequence.
        missing: u64,
    },
    /// The log ends before a sequence that was already seen.
    #[error("the log went backwards: it ends at {last}, but {seen} was seen")]
    Backwards {
        /// Where it ends now.
        last: u64,
        /// What was seen.
        seen: u64,
    },
    /// The log is gone, or another one stands in its place.
    #[error("the log was deleted or replaced: {0}")]
    Replaced(String),
    /// The store beneath failed in a way that waiting does not mend.
    #[error("the log cannot be read: {0}")]
    Broken(String),
}

/// A question to the authority that had no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the log did not answer: {0}")]
pub struct Unavailable(pub String);

/// The authoritative, append-only log of a cluster.
#[async_trait]
pub trait Log: Send + Sync + 'static {
    /// Appends one event if its aggregate stands where it is expected to; answers with its sequence.
    ///
    /// # Errors
    /// [`AppendError`]. A backend retries what can be retried with the same id until its own deadline.
    async fn append(&self, record: NewRecord) -> Result<u64, AppendError>;

    /// Where the log stands.
    ///
    /// # Errors
    /// [`Unavailable`] where the authority did not answer.
    async fn head(&self) -> Result<Head, Unavailable>;

    /// The last record of an aggregate.
    ///
    /// # Errors
    /// [`Unavailable`] where the authority did not answer.
    async fn last(&self, aggregate: Aggregate) -> Result<Option<Record>, Unavailable>;

    /// Every record after `after`, and what comes later, for ever, with heads in between.
    /// The first item after the last record known at the start is a [`Tailed::Head`].
    fn tail(&self, after: u64) -> LocalBoxStream<'static, Result<Tailed, TailFault>>;
}
