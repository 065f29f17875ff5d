//! Routes of TCP: `from: tcp+https://…`, reached by CONNECT, and `to: tcp://…`.

use crate::node::{Fields, Node};
use crate::urls::{host_of, parsed, scheme};
use crate::{Action, From};

/// What becomes of a permitted CONNECT.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tunnel {
    /// What the client's CONNECT names.
    pub named: HostPort,
    /// `to`: where its bytes go; at least one place, taken by turns.
    pub to: Vec<HostPort>,
}

/// A host and a port.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HostPort {
    /// Lower-case A-label host, without a trailing dot; an IPv6 address in brackets.
    pub host: String,
    /// The port.
    pub port: u16,
}

impl std::fmt::Display for HostPort {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

const FROM: &str = "tcp+https://host:port, or tcp+https://gateway/host:port";
const TO: &str = "tcp://host:port";

/// What means nothing where bytes pass as they are.
const IDLE_KEYS: [&str; 38] = [
    "prefix",
    "path",
    "regex",
    "regex_priority_order",
    "prefix_rewrite",
    "regex_rewrite_pattern",
    "regex_rewrite_substitution",
    "host_rewrite",
    "host_rewrite_header",
    "host_path_regex_rewrite_pattern",
    "host_path_regex_rewrite_substitution",
    "preserve_host_header",
    "rewrite_response_headers",
    "set_request_headers",
    "remove_request_headers",
    "set_response_headers",
    "pass_identity_headers",
    "jwt_issuer_format",
    "jwt_groups_filter",
    "cors_allow_preflight",
    "allow_websockets",
    "allow_spdy",
    "allow_upgrades",
    "tls_skip_verify",
    "tls_server_name",
    "tls_upstream_server_name",
    "tls_custom_ca",
    "tls_custom_ca_file",
    "tls_client_cert",
    "tls_client_cert_file",
    "tls_client_key",
    "tls_client_key_file",
    "load_balancing_policy",
    "load_balancing_weights",
    "health_checks",
    "outlier_detection",
    "healthy_panic_threshold",
    "circuit_breaker_thresholds",
];

/// Whether `from` is that of a tunnel.
pub fn is_tunnel(from: &Node<'_>) -> bool {
    from.scalar().is_some_and(|text| matches!(scheme(&text.text), Some("tcp+https" | "tcp+http")))
}

/// `from`: the gateway's side, and what CONNECT names. `plain` allows `tcp+http`.
pub fn from(node: &Node<'_>, plain: bool) -> Option<(From, HostPort)> {
    let text = node.text()?;
    let rest = match text.split_once("://") {
        Some(("tcp+http", _)) if !plain => {
            return node.refuse("is tcp+http, which only works with insecure_server: true", FROM);
        }
        Some((_, rest)) => rest,
        None => return node.refuse("is no URL", FROM),
    };
    if text.contains('*') {
        return node.refuse("has a wildcard, which tunnels do not have", "one route for each host and port");
    }
    match rest.split_once('/') {
        None => {
            let named = place(node, rest, FROM)?;
            Some((From { host: named.host.clone(), port: None }, named))
        }
        Some((gateway, named)) => {
            let url = parsed(node, &format!("https://{gateway}"), FROM)?;
            let host = host_of(node, &url, FROM)?;
            Some((From { host, port: url.port() }, place(node, named, FROM)?))
        }
    }
}

/// `to`, and a word on every key that does nothing here.
pub fn action(fields: &Fields<'_>, named: HostPort) -> Option<Action> {
    for node in IDLE_KEYS.iter().filter_map(|key| fields.get(key)) {
        node.warn("does nothing in a tunnel, whose bytes pass as they are", "remove it");
    }
    for node in ["redirect", "response"].iter().filter_map(|key| fields.get(key)) {
        node.wrong("is nothing that a tunnel can do", &format!("to: {TO}"));
    }
    let to = fields.required("to", &format!("the internal place, {TO}"))?;
    let nodes = to.items().unwrap_or_else(|| vec![to.clone()]);
    if nodes.is_empty() {
        return to.refuse("is empty", TO);
    }
    let places: Vec<_> = nodes.iter().map(target).collect();
    Some(Action::Tunnel(Tunnel { named, to: places.into_iter().collect::<Option<_>>()? }))
}

fn target(node: &Node<'_>) -> Option<HostPort> {
    let text = node.text()?;
    let Some(rest) = text.strip_prefix("tcp://") else {
        return node.refuse("does not begin with tcp://, as that of a route from tcp+https:// does", TO);
    };
    if rest.contains(',') {
        return node.refuse("has a weight or a second address after a comma", "a list of tcp:// URLs, without weights");
    }
    place(node, rest.strip_suffix('/').unwrap_or(rest), TO)
}

fn place(node: &Node<'_>, text: &str, right: &str) -> Option<HostPort> {
    let Some((host, port)) = text.rsplit_once(':').filter(|(host, _)| !host.is_empty() && !host.contains('/')) else {
        return node.refuse("has no port", right);
    };
    let digits = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    let Some(port) = port.parse().ok().filter(|port: &u16| digits && *port != 0) else {
        return node.refuse("has no port between 1 and 65535 after its last colon", right);
    };
    let url = parsed(node, &format!("https://{host}"), right)?;
    if url.path() != "/" || url.port().is_some() {
        return node.refuse("is not a host and a port", right);
    }
    Some(HostPort { host: host_of(node, &url, right)?, port })
}
