//! `max_staleness`, at the top level and in a route: how old a node's knowledge of the log may be.

use std::fmt;
use std::time::Duration;

use crate::limits::{MAX_STALENESS, STRICT_STALENESS};
use crate::node::{Fields, Node};

/// How long a node may not have heard from the log's authority and still let people in by their sessions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Staleness {
    /// This long; `strict` is the least, [`STRICT_STALENESS`].
    Within(Duration),
    /// For ever: a revocation that does not arrive does not count.
    Unbounded,
}

impl Default for Staleness {
    fn default() -> Self {
        Self::Within(MAX_STALENESS)
    }
}

impl Staleness {
    /// The shortest that a healthy node keeps within.
    pub const STRICT: Self = Self::Within(STRICT_STALENESS);

    /// Whether knowledge of this age is young enough.
    #[must_use]
    pub fn allows(self, age: Duration) -> bool {
        match self {
            Self::Within(bound) => age <= bound,
            Self::Unbounded => true,
        }
    }
}

impl fmt::Display for Staleness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Within(bound) => write!(f, "{}s", bound.as_secs_f64()),
            Self::Unbounded => f.write_str("unbounded"),
        }
    }
}

/// The key of a map; `None` where it is not set, or was reported.
pub fn decode(fields: &Fields<'_>) -> Option<Staleness> {
    fields.get("max_staleness").and_then(|node| bound(&node))
}

fn bound(node: &Node<'_>) -> Option<Staleness> {
    let text = node.scalar().map(|scalar| scalar.text.as_str()).unwrap_or_default();
    match text {
        "strict" => return Some(Staleness::STRICT),
        "unbounded" => {
            node.warn(
                "lets people in whose sessions were ended, for as long as the log cannot be reached",
                "a duration, 5m by default",
            );
            return Some(Staleness::Unbounded);
        }
        _ => {}
    }
    let right = "strict, unbounded, or a duration such as 30s or 5m";
    match crate::duration::parse(text) {
        Ok(bound) if bound < STRICT_STALENESS => node.refuse("is shorter than a healthy node can keep", "strict is 2s"),
        Ok(bound) => Some(Staleness::Within(bound)),
        Err(error) => node.refuse(&error.to_string(), right),
    }
}
