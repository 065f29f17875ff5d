//! databroker: keeps the log, stores tokens, and tells every node what happened.

pub mod broker;
pub mod data_keys;
pub mod hand_over;
pub mod journal;
pub mod log;
mod nats;
pub mod profile;
pub mod progress;
pub mod replica;
pub mod snapshot;
pub mod snapshots;
mod sqlite;
pub mod store;
pub mod vault;
pub mod view;
