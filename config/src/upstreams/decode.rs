//! The keys of upstreams, at the top level and in a route.

use std::path::PathBuf;
use std::time::Duration;

use url::Url;

use super::{Authorities, UpstreamTls};
use super::{Balancing, Dns, Family, Percent, Thresholds, Upstream, UpstreamOptions, health, outlier, tls};
use crate::keys::check_names;
use crate::limits::{DNS_REFRESH, UPSTREAM_WEIGHT};
use crate::node::{Fields, NOT_YET, Node};
use crate::urls;

/// What routes take from the top level for their upstreams.
#[derive(Debug, Clone, Default)]
pub struct UpstreamDefaults {
    authorities: Authorities,
    thresholds: Thresholds,
    dns: Dns,
}

/// The keys of the top level.
pub fn defaults(top: &Fields<'_>) -> UpstreamDefaults {
    let authorities = tls::certificates(top, "certificate_authority").map_or(Authorities::System, Authorities::Besides);
    let thresholds = thresholds(top, Thresholds::default());
    UpstreamDefaults { authorities, thresholds, dns: dns(top) }
}

/// The keys of a route, with the addresses that they are about.
pub fn options(fields: &Fields<'_>, upstreams: Option<&[Upstream]>, defaults: &UpstreamDefaults) -> UpstreamOptions {
    let skips = fields.get("tls_skip_verify").is_some_and(|node| node.boolean() == Some(true));
    let tls = tls::decode(fields, &defaults.authorities);
    if let (Some(upstreams), Some(node)) = (upstreams, fields.get("to")) {
        if upstreams.iter().any(|to| to.socket.is_some() && to.is_tls()) && tls.server_name.is_none() && !skips {
            node.wrong(
                "is a socket with TLS, whose certificate has no name to be verified",
                "tls_upstream_server_name",
            );
        }
        let upgrades = fields.get("allow_websockets").is_some_and(|node| node.boolean() == Some(true));
        if upgrades && upstreams.iter().any(|to| to.h2c) {
            node.warn("is h2c on a route with allow_websockets: HTTP/1.1 is spoken there", "remove one of the two");
        }
    }
    UpstreamOptions {
        balancing: balancing(fields).unwrap_or_default(),
        tls,
        health_checks: health::decode(fields),
        outlier_detection: fields.get("outlier_detection").and_then(|node| outlier::decode(&node)),
        healthy_panic_threshold: fields
            .get("healthy_panic_threshold")
            .and_then(|node| whole(&node, 0, 100))
            .map_or_else(Percent::default, Percent),
        thresholds: thresholds(fields, defaults.thresholds),
        dns: defaults.dns,
    }
}

impl UpstreamTls {
    /// Trust in these, and nothing else said.
    pub(super) const fn trusting(authorities: Authorities) -> Self {
        Self { server_name: None, authorities, client: None }
    }
}

/// `to` with its weights.
pub fn addresses(fields: &Fields<'_>, node: &Node<'_>) -> Option<Vec<Upstream>> {
    let nodes = node.items().unwrap_or_else(|| vec![node.clone()]);
    if nodes.is_empty() {
        return node.refuse("is empty", "http://host:port");
    }
    let read: Vec<_> = nodes.iter().map(address).collect();
    let weighted = read.iter().flatten().filter(|(_, weight)| weight.is_some()).count();
    if weighted > 0 && weighted < nodes.len() {
        node.wrong("has a weight at some addresses and none at others", "a weight at each, or at none");
    }
    let read: Option<Vec<_>> = read.into_iter().collect();
    let mut upstreams: Vec<Upstream> =
        read?.into_iter().map(|(upstream, weight)| Upstream { weight: weight.unwrap_or(1), ..upstream }).collect();
    if let Some(weights) = fields.get("load_balancing_weights") {
        let items = weights.items().unwrap_or_default();
        if items.len() != upstreams.len() {
            return weights.refuse("has another length than to", "one whole number for each address");
        }
        if weighted > 0 {
            return weights.refuse("is given beside weights in to", "keep one of the two");
        }
        for (upstream, item) in upstreams.iter_mut().zip(&items) {
            upstream.weight = whole(item, 1, UPSTREAM_WEIGHT)?;
        }
    }
    Some(upstreams)
}

fn address(node: &Node<'_>) -> Option<(Upstream, Option<u32>)> {
    let right = "http://host:port, https://host:port, h2c://host:port or unix:///path";
    let text = node.text()?;
    let (text, weight) = match text.rsplit_once(',') {
        None => (text.as_str(), None),
        Some((text, weight)) => {
            let read = weight.trim().parse::<u32>().ok().filter(|weight| (1..=UPSTREAM_WEIGHT).contains(weight));
            let Some(weight) = read else {
                let right = format!("a whole number from 1 to {UPSTREAM_WEIGHT}; several addresses as a list");
                return node.refuse("has after its comma what is no weight", &right);
            };
            (text.trim_end(), Some(weight))
        }
    };
    let upstream = match urls::scheme(text) {
        Some("http" | "https") => Upstream::at(urls::upstream(node, text, right)?),
        Some("h2c") => {
            let plain = format!("http{}", text.trim_start_matches("h2c"));
            Upstream { h2c: true, ..Upstream::at(urls::upstream(node, &plain, right)?) }
        }
        Some(scheme @ ("unix" | "http+unix" | "https+unix")) => {
            let path = text.split_once("://").map(|(_, path)| path).unwrap_or_default();
            if !path.starts_with('/') || path.contains(['?', '#', '\0']) {
                return node.refuse("is no absolute path of a socket", "unix:///run/app.sock");
            }
            let scheme = if scheme == "https+unix" { "https" } else { "http" };
            let url = Url::parse(&format!("{scheme}://localhost/")).ok()?;
            Upstream { socket: Some(PathBuf::from(path)), ..Upstream::at(url) }
        }
        Some("tcp" | "udp" | "ssh") => return node.refuse(NOT_YET, right),
        Some(_) | None => return node.refuse("does not begin with http:// or https://", right),
    };
    Some((upstream, weight))
}

fn balancing(fields: &Fields<'_>) -> Option<Balancing> {
    let here = [
        ("round_robin", Balancing::RoundRobin),
        ("least_request", Balancing::LeastRequest),
        ("random", Balancing::Random),
        ("ring_hash", Balancing::RingHash),
        ("maglev", Balancing::Maglev),
    ];
    fields.get("load_balancing_policy")?.choice(&here, &["cluster_provided", "load_balancing_policy_config"])
}

fn thresholds(fields: &Fields<'_>, defaults: Thresholds) -> Thresholds {
    let Some(fields) = fields.get("circuit_breaker_thresholds").and_then(|node| node.fields()) else { return defaults };
    let later = ["max_connection_pools"];
    check(&fields, &["max_connections", "max_pending_requests", "max_requests", "max_retries"], &later);
    let of = |name: &str, default| fields.get(name).and_then(|node| whole(&node, 0, u32::MAX)).unwrap_or(default);
    Thresholds {
        connections: of("max_connections", defaults.connections),
        pending_requests: of("max_pending_requests", defaults.pending_requests),
        requests: of("max_requests", defaults.requests),
        retries: of("max_retries", defaults.retries),
    }
}

fn dns(top: &Fields<'_>) -> Dns {
    let default = Dns::default();
    let families = [
        ("v4_preferred", Family::V4Preferred),
        ("auto", Family::V6Preferred),
        ("v4_only", Family::V4Only),
        ("v6_only", Family::V6Only),
        ("all", Family::All),
    ];
    let pace = |name: &str| {
        let node = top.get(name)?;
        let given = node.duration()?;
        if given < DNS_REFRESH {
            return node.refuse("is too short", "1s or more");
        }
        Some(given)
    };
    let refresh = pace("dns_refresh_rate").unwrap_or(default.refresh);
    Dns {
        family: top.get("dns_lookup_family").and_then(|node| node.choice(&families, &[])).unwrap_or(default.family),
        refresh,
        failure_refresh: pace("dns_failure_refresh_rate").unwrap_or(refresh),
        timeout: top.get("dns_query_timeout").and_then(|node| positive(&node)).unwrap_or(default.timeout),
    }
}

/// Reports keys that are neither known nor to come.
pub(super) fn check(fields: &Fields<'_>, here: &[&str], later: &[&str]) {
    for (_, node) in fields.entries().filter(|(name, _)| later.contains(name)) {
        node.wrong(NOT_YET, "remove it");
    }
    let known: Vec<&str> = here.iter().chain(later).copied().collect();
    check_names(fields, &known);
}

/// A whole number between two bounds.
pub(super) fn whole(node: &Node<'_>, least: u32, most: u32) -> Option<u32> {
    let number = node.scalar().and_then(|scalar| scalar.text.parse::<u32>().ok());
    match number.filter(|number| (least..=most).contains(number)) {
        Some(number) => Some(number),
        None => node.refuse("is no whole number within its bounds", &format!("a whole number from {least} to {most}")),
    }
}

/// A duration above zero.
pub(super) fn positive(node: &Node<'_>) -> Option<Duration> {
    match node.duration()? {
        Duration::ZERO => node.refuse("is zero", "a duration such as 5s"),
        duration => Some(duration),
    }
}
