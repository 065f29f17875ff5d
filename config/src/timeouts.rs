//! How long things may take: a request, its answer, and silence in between; at the top level and in a route.

use std::time::Duration;

use crate::limits::{TIMEOUT_IDLE, UPSTREAM_RESPONSE};
use crate::node::Fields;

/// What the top level says. `None` means without a bound of this kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// `timeout_read`: the whole of a request must have come. Not set, only its pace is bounded.
    pub read: Option<Duration>,
    /// `timeout_write`: a whole exchange must have ended; unbounded by default.
    pub write: Option<Duration>,
    /// `timeout_idle`: nothing moves, on a client's connection or within an exchange; 5 min by default.
    pub idle: Option<Duration>,
    /// `default_upstream_timeout`, where it is set: `timeout` of routes that have none.
    pub upstream: Option<Answer>,
}

/// How long an upstream may take to answer. `None` means for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer {
    /// From the end of the request to the beginning of its answer.
    pub begins: Option<Duration>,
    /// From there to the end of its answer.
    pub ends: Option<Duration>,
}

/// What holds for requests to one route: its own keys, else those of the top level.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RouteTimeouts {
    /// `timeout`. As in Pomerium it covers the whole answer where somebody has set it; where nobody has, the answer must
    /// have begun in 30 s and may then be as long as it is.
    pub answer: Answer,
    /// `idle_timeout`: so long nothing of the request and its answer moves.
    pub idle: Option<Duration>,
    /// `timeout_read` of the top level.
    pub read: Option<Duration>,
    /// `timeout_write` of the top level.
    pub write: Option<Duration>,
}

impl Answer {
    /// Nobody has said anything.
    pub const DEFAULT: Self = Self { begins: Some(UPSTREAM_RESPONSE), ends: None };
    /// Takes as long as it takes.
    pub const UNBOUNDED: Self = Self { begins: None, ends: None };

    const fn within(bound: Option<Duration>) -> Self {
        Self { begins: bound, ends: bound }
    }
}

impl Default for Timeouts {
    fn default() -> Self {
        Self { read: None, write: None, idle: Some(TIMEOUT_IDLE), upstream: None }
    }
}

impl Default for RouteTimeouts {
    fn default() -> Self {
        Self { answer: Answer::DEFAULT, idle: Some(TIMEOUT_IDLE), read: None, write: None }
    }
}

/// The keys of the top level.
pub fn global(top: &Fields<'_>) -> Timeouts {
    let default = Timeouts::default();
    Timeouts {
        read: bound(top, "timeout_read").unwrap_or(default.read),
        write: bound(top, "timeout_write").unwrap_or(default.write),
        idle: bound(top, "timeout_idle").unwrap_or(default.idle),
        upstream: bound(top, "default_upstream_timeout").map(Answer::within),
    }
}

/// The keys of a route. One that `is_switching` (it allows WebSockets) has no bounds but those it sets itself.
pub fn route(fields: &Fields<'_>, global: Timeouts, is_switching: bool) -> RouteTimeouts {
    let default = if is_switching { Answer::UNBOUNDED } else { global.upstream.unwrap_or(Answer::DEFAULT) };
    let idle = if is_switching { None } else { global.idle };
    RouteTimeouts {
        answer: bound(fields, "timeout").map_or(default, Answer::within),
        idle: bound(fields, "idle_timeout").unwrap_or(idle),
        read: global.read,
        write: global.write,
    }
}

/// The bound that a key sets, `0` meaning none; `None` where it is not set, or was reported.
fn bound(fields: &Fields<'_>, name: &str) -> Option<Option<Duration>> {
    let bound = fields.get(name)?.duration()?;
    Some(Some(bound).filter(|bound| !bound.is_zero()))
}
