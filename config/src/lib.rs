//! What we were told: one file and the environment over it become a [`Config`], or every problem at once.
//!
//! This crate reads files and variables and nothing else; it opens no socket and starts nothing.
//!
//! The way of a configuration: text -> `tree` (YAML with places) -> `environment` (variables over it) -> `node` (a view
//! that knows its place and collects problems) -> `global` and `routes`, which decode key by key.

mod actions;
mod certificates;
mod duration;
mod environment;
mod files;
mod global;
mod groups;
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
mod pattern;
pub mod policy;
mod problem;
mod report;
mod restart;
mod rewrites;
mod routes;
mod rules;
mod secret;
mod services;
mod staleness;
mod storage;
mod templates;
mod timeouts;
mod tree;
pub mod upstreams;
mod urls;

pub use actions::{Action, DirectResponse, Redirect, RedirectPath};
pub use groups::GroupsFilter;
pub use load::{load, parse};
pub use model::*;
pub use pattern::{Pattern, PatternError, Replacement};
pub use problem::{Place, Problem, Problems};
pub use rewrites::{HeaderRewrite, HostRewrite, PathRewrite, Rewrites};
pub use secret::Secret;
pub use services::Services;
pub use staleness::Staleness;
pub use templates::{HeaderText, TemplatePart};
pub use timeouts::{Answer, RouteTimeouts, Timeouts};
pub use upstreams::{Upstream, UpstreamOptions};
