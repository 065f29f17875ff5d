//! proxy: where a request leads, and what stays open for longer than one.

pub mod connections;
pub mod exchanges;
pub mod leash;
pub mod listener;
pub mod routes;
pub mod upstreams;
