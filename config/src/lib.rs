//! What we were told: one file and the environment over it become a [`Config`], or every problem at once.
//!
//! This crate reads files and variables and nothing else; it opens no socket and starts nothing.
//!
//! The way of a configuration: text -> `tree` (YAML with places) -> `environment` (variables over it) -> `node` (a view
//! that knows its place and collects problems) -> `global` and `routes`, which decode key by key.

mod certificates;
mod duration;
mod environment;
mod files;
mod global;
mod headers;
mod identity;
mod keys;
pub mod limits;
mod load;
mod metrics;
mod model;
mod nats;
mod node;
mod order;
pub mod policy;
mod problem;
mod report;
mod restart;
mod routes;
mod rules;
mod secret;
mod services;
mod staleness;
mod storage;
mod tree;
pub mod upstreams;
mod urls;

pub use load::{load, parse};
pub use model::*;
pub use problem::{Place, Problem, Problems};
pub use secret::Secret;
pub use services::Services;
pub use staleness::Staleness;
pub use upstreams::{Upstream, UpstreamOptions};
