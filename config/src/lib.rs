//! What we were told: one file and the environment over it become a [`Config`], or every problem at once.
//!
//! This crate reads files and variables and nothing else; it opens no socket and starts nothing.
//!
//! The way of a configuration: text -> `tree` (YAML with places) -> `environment` (variables over it) -> `node` (a view
//! that knows its place and collects problems) -> `global` and `routes`, which decode key by key.

mod actions;
mod bounds;
mod certificates;
mod downstream;
mod duration;
mod environment;
mod files;
mod global;
mod groups;
mod headers;
mod hygiene;
mod identity;
mod keys;
pub mod limits;
mod load;
mod metrics;
mod model;
mod mtls;
mod nats;
mod node;
mod order;
mod pattern;
pub mod policy;
mod problem;
mod programs;
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
mod tunnels;
pub mod upstreams;
mod urls;

pub use actions::{Action, DirectResponse, Redirect, RedirectPath};
pub use bounds::{Connections, Rate, RateLimit, RouteBounds};
pub use downstream::{
    AlternativeName, ClientAuthority, Codec, Downstream, Enforcement, EscapedSlashes, NamePattern, Reading, Underscores,
};
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
pub use tunnels::{HostPort, Tunnel};
pub use upstreams::{Upstream, UpstreamOptions};
