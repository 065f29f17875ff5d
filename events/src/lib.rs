//! What can happen: commands, events, and the pure functions that decide and evolve.
//!
//! No I/O and nothing asynchronous: this crate cannot reach a socket. Time, ids and randomness are arguments.

mod ids;
mod time;

pub use ids::{Aggregate, AggregateKind, BadId, Epoch, EventId, PersonId, SessionId};
pub use time::Time;
