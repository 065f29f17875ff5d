//! databroker: keeps the log, stores tokens, and tells every node what happened.

pub mod log;
pub mod vault;
pub mod view;
