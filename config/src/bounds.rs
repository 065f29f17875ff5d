//! What requests and connections may take of a node: `max_request_body`, `rate_limit`, `max_connections` (all ours).

use std::num::{NonZeroU32, NonZeroUsize};
use std::time::Duration;

use crate::keys::check_names;
use crate::limits::RATE_PERIOD;
use crate::node::{Fields, Node};

/// What holds for requests to one route.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RouteBounds {
    /// `max_request_body`, or the one of the top level: bytes; `None` without a bound.
    pub max_request_body: Option<u64>,
    /// `rate_limit`.
    pub rate_limit: RateLimit,
}

/// `rate_limit`: how many requests one caller may send, counted by each node for itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RateLimit {
    /// `per_user`: everybody signed in, on all devices together.
    pub per_user: Option<Rate>,
    /// `per_ip`: every address, signed in or not; an IPv6 address counts as its /64.
    pub per_ip: Option<Rate>,
}

impl RateLimit {
    /// Whether nothing is limited.
    #[must_use]
    pub const fn is_none(&self) -> bool {
        self.per_user.is_none() && self.per_ip.is_none()
    }
}

/// So many requests in such a time: as many at once, and then one whenever its share of the time has passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// How many.
    pub requests: NonZeroU32,
    /// In which time; never zero.
    pub per: Duration,
}

/// `max_connections` and `max_connections_per_client`: client connections at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Connections {
    /// In all; `None`: as many as the open files allow that the system gives the process.
    pub total: Option<NonZeroUsize>,
    /// From one address; `None`: half of all.
    pub per_client: Option<NonZeroUsize>,
}

/// The keys of the top level that bound connections.
pub fn connections(top: &Fields<'_>) -> Connections {
    let count = |name: &str| top.get(name).and_then(|node| count(&node));
    let all = Connections { total: count("max_connections"), per_client: count("max_connections_per_client") };
    if let (Some(total), Some(per_client), Some(node)) =
        (all.total, all.per_client, top.get("max_connections_per_client"))
        && per_client > total
    {
        node.wrong("is more than max_connections", "at most as many");
    }
    all
}

/// `max_request_body` of the top level or of a route; `None` where it is not set, or was reported.
pub fn max_request_body(fields: &Fields<'_>) -> Option<Option<u64>> {
    let bytes = bytes(&fields.get("max_request_body")?)?;
    Some(Some(bytes).filter(|bytes| *bytes > 0))
}

/// The keys of a route; `body` is what the top level says.
pub fn route(fields: &Fields<'_>, body: Option<u64>) -> RouteBounds {
    RouteBounds {
        max_request_body: max_request_body(fields).unwrap_or(body),
        rate_limit: fields.get("rate_limit").and_then(|node| rate_limit(&node)).unwrap_or_default(),
    }
}

fn rate_limit(node: &Node<'_>) -> Option<RateLimit> {
    let fields = node.fields()?;
    check_names(&fields, &["per_user", "per_ip"]);
    let rate_of = |name: &str| fields.get(name).and_then(|node| rate(&node));
    let limit = RateLimit { per_user: rate_of("per_user"), per_ip: rate_of("per_ip") };
    if fields.entries().next().is_none() {
        return node.refuse("limits nothing", "per_user or per_ip, such as `per_user: 100/1m`");
    }
    Some(limit)
}

/// `100/1m`, `5/s`.
fn rate(node: &Node<'_>) -> Option<Rate> {
    const RIGHT: &str = "a number of requests and a time, such as 100/1m or 5/s";
    let text = written(node);
    let Some((requests, per)) = text.split_once('/') else { return node.refuse("is not a rate", RIGHT) };
    let (requests, per) = (requests.trim(), per.trim());
    let Ok(requests) = requests.parse::<u32>() else { return node.refuse("has no number of requests", RIGHT) };
    let Some(requests) = NonZeroU32::new(requests) else {
        return node.refuse("lets no request through", "at least one; `policy` denies all of them");
    };
    let one = if per.starts_with(|first: char| first.is_ascii_digit()) { per.to_owned() } else { format!("1{per}") };
    match crate::duration::parse(&one) {
        Err(error) => node.refuse(&error.to_string(), RIGHT),
        Ok(per) if per.is_zero() => node.refuse("counts in no time at all", RIGHT),
        Ok(per) if per > RATE_PERIOD => node.refuse("counts over more than a day", "at most 24h"),
        // the clock that shares are counted by has nanoseconds
        Ok(per) if per < Duration::from_nanos(1) * requests.get() => node.refuse("is no limit", "leave it out"),
        Ok(per) => Some(Rate { requests, per }),
    }
}

/// Bytes: a whole number, alone or with a unit.
fn bytes(node: &Node<'_>) -> Option<u64> {
    const RIGHT: &str = "bytes, such as 1048576, 1MiB or 10MB; 0 for no bound";
    let text = written(node);
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let scale: u64 = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "kb" => 1000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "kib" | "k" => 1 << 10,
        "mib" | "m" => 1 << 20,
        "gib" | "g" => 1 << 30,
        _ => return node.refuse("is not a size", RIGHT),
    };
    let bytes = number.parse::<u64>().ok().and_then(|number| number.checked_mul(scale));
    bytes.map_or_else(|| node.refuse("is not a size", RIGHT), Some)
}

/// The value as it stands, a number or not; empty for what is no single value.
fn written<'a>(node: &Node<'a>) -> &'a str {
    node.scalar().map(|scalar| scalar.text.as_str()).unwrap_or_default()
}

fn count(node: &Node<'_>) -> Option<NonZeroUsize> {
    let number = written(node).parse().ok().and_then(NonZeroUsize::new);
    number.map_or_else(|| node.refuse("is not a number of connections", "a whole number above 0"), Some)
}
