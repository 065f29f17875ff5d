//! What can happen: commands, events, and the pure functions that decide and evolve.
//!
//! No I/O and nothing asynchronous: this crate cannot reach a socket. Time, ids and randomness are arguments.
//!
//! An event on the log is a CloudEvent in structured JSON ([`Envelope`]); its aggregate is one subject
//! ([`Aggregate::subject`]); each carries the hash of the aggregate's event before it. [`Fold`] is the sum of them.

mod departures;
mod envelope;
mod fold;
pub mod group;
mod ids;
pub mod log;
pub mod logout;
mod packed;
mod record;
mod sealed;
pub mod session;
mod shards;
mod snapshot;
mod time;
pub mod token;

pub use envelope::{Context, DecodeError, Envelope, Event, Hash};
pub use fold::{Fold, FoldError, Tip};
pub use ids::{
    Aggregate, AggregateKind, BadId, Epoch, EventId, GroupId, LogoutId, PersonId, ProviderSessionId, SUBJECT_PREFIX,
    SessionId,
};
pub use record::{Brief, SessionRecord};
pub use sealed::Sealed;
pub use snapshot::{SCHEMA, SnapshotError};
pub use time::Time;
