//! databroker: keeps the log, stores tokens, and tells every node what happened.

pub mod activity;
mod aside;
pub mod attendance;
pub mod broker;
pub mod caretaker;
pub mod data_keys;
pub mod digest;
pub mod hand_over;
pub mod journal;
pub mod lender;
pub mod log;
pub mod logout;
pub(crate) mod nats;
pub mod neighbours;
pub mod profile;
pub mod progress;
pub mod refresher;
pub mod replica;
pub mod revocations;
pub mod snapshot;
pub mod snapshots;
mod sqlite;
mod standing;
pub mod store;
mod tokens;
pub mod vault;
pub mod view;
