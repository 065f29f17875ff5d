//! `max_request_body`, `rate_limit` and the bounds of connections.

use std::num::{NonZeroU32, NonZeroUsize};
use std::time::Duration;

use portcullis_config::{Config, Rate};

use crate::{problems, with};

/// More of a file: keys of the top level, and of its one route.
fn more(top: &str, route: &str) -> String {
    format!(
        "{top}routes:\n- from: https://app.example.com\n  to: http://u\n  allow_any_authenticated_user: true\n{route}"
    )
}

fn config(top: &str, route: &str) -> Config {
    with(&more(top, route)).unwrap()
}

#[test]
fn a_body_is_bounded_by_its_route_or_by_the_top_level() {
    let body = |top: &str, route: &str| config(top, route).routes[0].bounds.max_request_body;
    assert_eq!(body("", ""), None);
    assert_eq!(body("max_request_body: 10MB\n", ""), Some(10_000_000));
    assert_eq!(body("max_request_body: 10MB\n", "  max_request_body: 1MiB\n"), Some(1 << 20));
    assert_eq!(body("max_request_body: 10MB\n", "  max_request_body: 0\n"), None);
    assert_eq!(body("", "  max_request_body: 4096\n"), Some(4096));
}

#[test]
fn a_rate_is_a_number_in_a_time() {
    let rate =
        |number, seconds| Some(Rate { requests: NonZeroU32::new(number).unwrap(), per: Duration::from_secs(seconds) });
    let limit = config("", "  rate_limit: {per_user: 100/1m, per_ip: 5/s}\n").routes[0].bounds.rate_limit;
    assert_eq!((limit.per_user, limit.per_ip), (rate(100, 60), rate(5, 1)));
    let limit = config("", "  rate_limit: {per_ip: '20 / 10s'}\n").routes[0].bounds.rate_limit;
    assert_eq!((limit.per_user, limit.per_ip), (None, rate(20, 10)));
    assert!(config("", "").routes[0].bounds.rate_limit.is_none());
}

#[test]
fn connections_are_bounded_in_all_and_for_each_client() {
    let bounds = config("max_connections: 1000\nmax_connections_per_client: 10\n", "").connections;
    assert_eq!((bounds.total, bounds.per_client), (NonZeroUsize::new(1000), NonZeroUsize::new(10)));
    assert_eq!(config("", "").connections, portcullis_config::Connections::default());
}

#[test]
fn what_is_no_bound_is_said_with_its_place() {
    for (top, route, line, said) in [
        ("max_request_body: 10 MX\n", "", 1, "max_request_body: is not a size"),
        ("max_request_body: -1\n", "", 1, "max_request_body: is not a size"),
        ("max_request_body: 99999999999999999999\n", "", 1, "max_request_body: is not a size"),
        ("max_connections: 0\n", "", 1, "max_connections: is not a number of connections"),
        ("max_connections: 5\nmax_connections_per_client: 6\n", "", 2, "max_connections_per_client: is more than"),
        ("", "  rate_limit: 5/s\n", 5, "routes[0].rate_limit: is not a map"),
        ("", "  rate_limit: {}\n", 5, "routes[0].rate_limit: limits nothing"),
        (
            "",
            "  rate_limit: {per_usr: 5/s}\n",
            5,
            "routes[0].rate_limit.per_usr: is not a known key; did you mean per_user",
        ),
        ("", "  rate_limit: {per_user: 5}\n", 5, "routes[0].rate_limit.per_user: is not a rate"),
        ("", "  rate_limit: {per_user: x/s}\n", 5, "routes[0].rate_limit.per_user: has no number of requests"),
        ("", "  rate_limit: {per_user: 0/s}\n", 5, "routes[0].rate_limit.per_user: lets no request through"),
        ("", "  rate_limit: {per_user: 5/0s}\n", 5, "routes[0].rate_limit.per_user: counts in no time at all"),
        ("", "  rate_limit: {per_user: 5/25h}\n", 5, "routes[0].rate_limit.per_user: counts over more than a day"),
        ("", "  rate_limit: {per_user: 5/fortnight}\n", 5, "routes[0].rate_limit.per_user: has a unit"),
        ("", "  rate_limit: {per_user: 4000000000/1s}\n", 5, "routes[0].rate_limit.per_user: is no limit"),
    ] {
        let all = problems(&more(top, route));
        assert!(all.iter().any(|problem| problem.starts_with(&format!("{line} {said}"))), "{said}: {all:?}");
    }
}
